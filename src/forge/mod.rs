//! Forges: where code lives and where we answer. Outgoing calls are the trait [`Forge`]; incoming requests are pure
//! functions in [`webhook`] and not part of it.
//!
//! Must not: retry (the outbox and the work queue do all of that), follow a URL from a payload with a credential,
//! let a forge's own types out.

mod answer;
mod diff;
pub mod gitea;
pub mod github;
pub mod gitlab;
mod rest;
pub mod webhook;
mod wire;

pub use diff::tree_diff;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, ForgeConfig, ForgeKind};
use crate::model::{Actor, PullRequest, RepoName, Sha};

/// What a failed call means for the caller.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// The forge does not have it (404 on a read, or 410).
    #[error("{what}: not found at the forge")]
    NotFound { what: String },
    /// Will never work as asked: 401, 403 without a limit, 404 on a write, 410, 422, 451.
    #[error("{what}: the forge refused it with {status}: {message}")]
    Refused { what: String, status: u16, message: String },
    /// Wait this long before ANY call with this credential (primary or secondary limit).
    #[error("{what}: the forge asks to wait {} s", wait_ms / 1000)]
    Limited { what: String, wait_ms: i64 },
    /// Connection, time-out, 5xx, an answer that cannot be read: try later.
    #[error("{what}: {message}")]
    Transient { what: String, message: String },
}

impl ForgeError {
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Refused { .. })
    }
}

/// What an account may do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    None,
    Read,
    Write,
    Admin,
}

/// A file or folder of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Name within its folder.
    pub name: String,
    pub kind: TreeKind,
    /// Object id: equal ids mean equal content.
    pub id: String,
    /// A file that may be run.
    pub executable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    File,
    Folder,
    /// Submodules, symlinks.
    Other,
}

/// A commit as far as we look at one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub sha: Sha,
    pub parents: Vec<Sha>,
    /// Id of the root folder; where a forge does not tell it (GitLab), the commit's own.
    pub tree: String,
    pub message: String,
}

impl Commit {
    pub fn root(&self) -> Folder {
        Folder { commit: self.sha.clone(), path: String::new(), id: self.tree.clone() }
    }
}

/// A folder of a commit. Some forges find it by its id, GitLab by commit and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub commit: Sha,
    /// From the root, without slashes at its ends; the root's is empty.
    pub path: String,
    pub id: String,
}

impl Folder {
    /// The folder that this entry is.
    #[must_use]
    pub fn child(&self, entry: &TreeEntry) -> Self {
        let path =
            if self.path.is_empty() { entry.name.clone() } else { format!("{}/{}", self.path, entry.name) };
        Self { commit: self.commit.clone(), path, id: entry.id.clone() }
    }
}

/// What a forge can show, as far as forges differ. Callers cut to these; no call is ever "not implemented".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Longest description of a status, in characters.
    pub status_description: usize,
    /// Longest comment, in bytes.
    pub comment_bytes: usize,
    pub change: ChangeWords,
}

/// What a forge calls a proposed change, and where it keeps its head. The API, the grammar and our own words say "pull request".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeWords {
    /// `pull request`, `merge request`.
    pub noun: &'static str,
    /// What stands before its number: at GitLab `#7` would be an issue.
    pub sigil: char,
    /// `refs/<heads>/<number>/head` is its head commit.
    pub heads: &'static str,
}

impl ChangeWords {
    /// Of a kind of forge.
    pub fn of(kind: ForgeKind) -> Self {
        match kind {
            ForgeKind::Github | ForgeKind::Gitea => Self { noun: "pull request", sigil: '#', heads: "pull" },
            ForgeKind::Gitlab => Self { noun: "merge request", sigil: '!', heads: "merge-requests" },
        }
    }

    /// `#7`, `!7`.
    pub fn number(self, number: i64) -> String {
        format!("{}{number}", self.sigil)
    }

    /// `pull request #7`, `merge request !7`.
    pub fn named(self, number: i64) -> String {
        format!("{} {}{number}", self.noun, self.sigil)
    }

    /// The name that a fork's head goes by, such as `pull/7/head`: `refs/` before it is its reference at the forge.
    pub fn head(self, number: i64) -> String {
        format!("{}/{number}/head", self.heads)
    }

    /// Whether a branch's name is one of [`head`](Self::head).
    pub fn is_head(self, branch: &str) -> bool {
        branch
            .strip_prefix(self.heads)
            .and_then(|rest| rest.strip_prefix('/')?.strip_suffix("/head"))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusState {
    /// It has not begun: queued, or held.
    Pending,
    /// GitLab shows it apart from `Pending`; elsewhere both are one word.
    Running,
    Success,
    Failure,
    Error,
    /// GitLab shows it apart from `Error`.
    Cancelled,
}

/// A commit status. `description` is cut to the forge's limit by the caller ([`Capabilities`]).
/// Its JSON is what an outbox row of kind `status` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub context: String,
    pub state: StatusState,
    pub description: String,
    pub target_url: String,
}

/// A comment on a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    pub id: String,
    pub author: Actor,
    pub body: String,
}

/// Where the git proxy fetches from, and with which header. Never leaves the daemon.
#[derive(Debug, Clone)]
pub struct GitAccess {
    /// Smart-HTTP URL of the repository without a trailing slash: `https://github.com/o/n.git`.
    pub url: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<SecretString>,
    /// Follows no redirect, and trusts what the forge's client trusts.
    pub http: reqwest::Client,
}

/// Outgoing calls to one forge with one credential.
///
/// Thread safe; every call is bounded by a time-out of its own (30 s) and makes one attempt. Reads are idempotent. Names go
/// into URLs percent-encoded. Answers of any size up to the implementation's stated cap are read; larger ones are
/// `Transient`. The conformance suite in `tests/it/forge_conformance/` runs on every implementation.
#[async_trait]
pub trait Forge: Send + Sync + std::fmt::Debug {
    /// The account that our writes come from: comments of other authors are never edited.
    async fn whoami(&self) -> Result<Actor, ForgeError>;
    /// The forge's own id of the repository that has this name now.
    async fn repo_id(&self, repo: &RepoName) -> Result<String, ForgeError>;
    async fn commit(&self, repo: &RepoName, sha: &Sha) -> Result<Commit, ForgeError>;
    /// Entries of one folder (not recursive), from [`Commit::root`] down. `Refused` with 413 when it has too many.
    async fn tree(&self, repo: &RepoName, folder: &Folder) -> Result<Vec<TreeEntry>, ForgeError>;
    /// Content of a file at a commit, up to 1 MiB. `NotFound` when there is none. A symlink is not followed: it is `NotFound`, or
    /// the text of the link (GitLab).
    async fn file(&self, repo: &RepoName, sha: &Sha, path: &str) -> Result<Vec<u8>, ForgeError>;
    /// The best common ancestor; None when the histories do not meet.
    async fn merge_base(&self, repo: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError>;
    /// `sha` and its ancestors, newest first, at most `limit`.
    async fn history(&self, repo: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError>;
    /// What the account may do, looked up live.
    async fn permission(&self, repo: &RepoName, who: &Actor) -> Result<Permission, ForgeError>;
    /// Has the account a merged pull request in this repository? Looked up live, by id, in a bounded number of calls; what lies
    /// beyond the bound counts as none.
    async fn has_merged_change(&self, repo: &RepoName, who: &Actor) -> Result<bool, ForgeError>;
    async fn pull(&self, repo: &RepoName, number: i64) -> Result<PullRequest, ForgeError>;
    async fn set_status(&self, repo: &RepoName, sha: &Sha, status: &Status) -> Result<(), ForgeError>;
    /// All comments of a pull request, oldest first, at most 1,000.
    async fn comments(&self, repo: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError>;
    async fn create_comment(&self, repo: &RepoName, number: i64, body: &str) -> Result<String, ForgeError>;
    async fn edit_comment(&self, repo: &RepoName, id: &str, body: &str) -> Result<(), ForgeError>;
    fn capabilities(&self) -> Capabilities;
    fn git(&self, repo: &RepoName) -> GitAccess;
    /// The address of a page for people.
    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String;
}

/// What a forge shows people a page of.
#[derive(Debug, Clone, Copy)]
pub enum WebPage<'a> {
    Repository,
    Branch(&'a str),
    Commit(&'a Sha),
    Pull(i64),
}

/// The client of a configured forge. Nothing is sent yet. Must be called within a tokio runtime.
///
/// # Errors
/// A URL or CA file that cannot be used.
pub fn connect(config: &ForgeConfig, token: SecretString) -> Result<Arc<dyn Forge>, ConfigError> {
    Ok(match config.kind {
        ForgeKind::Github => Arc::new(github::GitHub::connect(config, token)?),
        ForgeKind::Gitlab => Arc::new(gitlab::GitLab::connect(config, token)?),
        ForgeKind::Gitea => Arc::new(gitea::Gitea::connect(config, token)?),
    })
}

/// A client that reaches a forge's machine and trusts what its other clients trust; it carries no credential.
///
/// # Errors
/// A CA file that cannot be used.
pub fn http_client(config: &ForgeConfig) -> Result<reqwest::Client, ConfigError> {
    rest::git_client(config).map_err(|e| rest::unusable(config, e))
}

/// Something stored is of a forge that the configuration does not name.
#[derive(Debug, thiserror::Error)]
#[error("forge {0} is not configured any more; add [forge.{0}] again")]
pub struct NotConfigured(pub String);

/// The configured forges by name.
#[derive(Debug, Clone, Default)]
pub struct Forges(std::collections::BTreeMap<String, Arc<dyn Forge>>);

impl Forges {
    /// A client for every configured forge. Nothing is sent yet.
    ///
    /// # Errors
    /// A token or URL that cannot be used.
    pub fn connect(config: &crate::config::Config) -> Result<Self, ConfigError> {
        let mut forges = Self::default();
        for (name, forge) in &config.forge {
            let token =
                forge.token.read().map_err(|e| ConfigError(format!("forge {name}: token: {}", e.0)))?;
            forges.insert(name, connect(forge, token)?);
        }
        Ok(forges)
    }
    pub fn insert(&mut self, name: impl Into<String>, forge: Arc<dyn Forge>) {
        self.0.insert(name.into(), forge);
    }
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Forge>> {
        self.0.get(name)
    }
    /// The client of a forge that something stored speaks of.
    ///
    /// # Errors
    /// It is not configured.
    pub fn require(&self, name: &str) -> Result<&Arc<dyn Forge>, NotConfigured> {
        self.get(name).ok_or_else(|| NotConfigured(name.to_owned()))
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
