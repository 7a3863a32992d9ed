//! What the sandbox knows besides its git repositories: accounts, pull requests and all that was posted.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

use super::git::Bare;
use crate::forge::Permission;
use crate::model::{Actor, RepoName};

/// An account of the sandbox.
#[derive(Debug, Clone)]
pub struct Account {
    pub id: u64,
    pub login: String,
    /// `User`, `Bot` or `Organization`.
    pub(super) kind: &'static str,
    /// Password of its pushes and token of its API calls.
    pub token: String,
}

impl Account {
    pub fn actor(&self) -> Actor {
        Actor { id: self.id.to_string(), login: self.login.clone() }
    }
}

#[derive(Debug)]
pub(super) struct Repo {
    pub id: u64,
    pub name: RepoName,
    pub default_branch: String,
    pub private: bool,
    pub fork: bool,
    pub created_ms: i64,
    pub git: Bare,
    /// Held while something is pushed, so that the refs before and after belong to that push.
    pub pushing: std::sync::Arc<tokio::sync::Mutex<()>>,
    pub permissions: HashMap<String, Permission>,
    pub pulls: BTreeMap<i64, Pull>,
    pub statuses: Vec<PostedStatus>,
    pub comments: BTreeMap<u64, PostedComment>,
}

impl Repo {
    /// What an account may do; an owner may do everything, and all may read what is public.
    pub fn permission(&self, login: &str) -> Permission {
        let public = if self.private { Permission::None } else { Permission::Read };
        if login == self.name.owner() {
            return Permission::Admin;
        }
        self.permissions.get(login).copied().unwrap_or(public)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Pull {
    pub id: u64,
    pub number: i64,
    pub title: String,
    pub author: String,
    /// None: the fork is gone.
    pub head_repo: Option<RepoName>,
    pub head_branch: String,
    pub head_sha: String,
    pub base_branch: String,
    pub base_sha: String,
    pub draft: bool,
    pub open: bool,
    pub merged: bool,
    pub created_ms: i64,
}

/// A commit status as it was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostedStatus {
    pub id: u64,
    pub sha: String,
    pub context: String,
    /// In the forge's word.
    pub state: String,
    pub description: Option<String>,
    pub target_url: Option<String>,
    /// Login of the poster.
    pub by: String,
    pub at_ms: i64,
}

/// A comment with all of its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostedComment {
    pub id: u64,
    /// Of the pull request.
    pub number: i64,
    pub author: String,
    /// The text as created, then each edit.
    pub versions: Vec<String>,
    pub created_ms: i64,
    pub updated_ms: i64,
}

impl PostedComment {
    /// What a reader sees now.
    pub fn body(&self) -> &str {
        self.versions.last().map_or("", String::as_str)
    }
}

/// One call of the API with its answer.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    /// Whose API: `github`, `gitlab` or `gitea`.
    pub forge: &'static str,
    pub method: String,
    /// Below the API's URL, still percent-encoded.
    pub path: String,
    pub query: String,
    /// Null without a body.
    pub request: Value,
    pub status: u16,
    /// Null when it is not JSON.
    pub response: Value,
    /// The answer was not the sandbox's own but an ordered failure.
    pub injected: bool,
}

/// One webhook as it was sent.
#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    /// The forge's id of the delivery; a repetition has the same.
    pub guid: String,
    pub event: String,
    pub payload: Value,
    /// What the receiver answered.
    pub status: Option<u16>,
    /// Why nothing was answered.
    pub error: Option<String>,
}

/// A failure that the next calls of the API meet.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: FaultKind,
    /// Only calls with this method; any without.
    pub method: Option<String>,
    /// Only calls whose path holds this; any when empty.
    pub path: String,
    /// How many calls.
    pub times: usize,
}

#[derive(Debug, Clone)]
pub enum FaultKind {
    /// Nothing happens, and this is answered.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// Nothing happens, and the connection breaks.
    DropBefore,
    /// The call takes effect, and the connection breaks before the answer.
    DropAfter,
}

impl Fault {
    /// The next `times` calls, whatever they are.
    pub fn next(times: usize, kind: FaultKind) -> Self {
        Self { kind, method: None, path: String::new(), times }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Hook {
    pub url: String,
    pub secret: String,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub accounts: BTreeMap<String, Account>,
    pub repos: BTreeMap<RepoName, Repo>,
    pub hook: Option<Hook>,
    pub faults: VecDeque<Fault>,
    pub exchanges: Vec<Exchange>,
    pub deliveries: Vec<Delivery>,
    pub last_id: u64,
}

impl State {
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        1_000 + self.last_id
    }

    pub fn account(&self, login: &str) -> Option<&Account> {
        self.accounts.get(login)
    }

    /// The account of a login, else one that stands for somebody who is gone.
    pub fn account_or_ghost(&self, login: &str) -> Account {
        self.account(login).cloned().unwrap_or_else(|| Account {
            id: 10_137,
            login: "ghost".into(),
            kind: "User",
            token: String::new(),
        })
    }

    /// The first ordered failure that this call meets; it is used up.
    pub fn take_fault(&mut self, method: &str, path: &str) -> Option<FaultKind> {
        let meets = |f: &Fault| {
            f.method.as_deref().is_none_or(|m| m.eq_ignore_ascii_case(method)) && path.contains(&f.path)
        };
        let at = self.faults.iter().position(meets)?;
        let fault = &mut self.faults[at];
        fault.times = fault.times.saturating_sub(1);
        let kind = fault.kind.clone();
        if fault.times == 0 {
            self.faults.remove(at);
        }
        Some(kind)
    }
}
