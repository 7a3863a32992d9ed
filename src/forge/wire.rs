//! What Gitea took over from GitHub's API: answers and requests of one shape on both. What differs stands in each client.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::answer::refused;
use super::rest::{encode, encode_path, unreadable};
use super::{Comment, ForgeError, GitAccess, Status, StatusState, TreeEntry, TreeKind};
use crate::model::{Actor, RepoName, Sha};

/// Largest file that [`super::Forge::file`] hands out, in bytes; also the largest that GitHub's contents API carries in JSON.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn repo_path(repo: &RepoName) -> String {
    format!("/repos/{}/{}", encode(repo.owner()), encode(repo.name()))
}

pub(super) fn sha_of(what: &str, text: &str) -> Result<Sha, ForgeError> {
    Sha::parse(text).map_err(|e| unreadable(what, e))
}

/// How git itself presents the token: as the password of `user`.
pub(super) fn git_access(
    web: &str,
    repo: &RepoName,
    user: &str,
    token: &SecretString,
    http: &reqwest::Client,
) -> GitAccess {
    let basic = BASE64_STANDARD.encode(format!("{user}:{}", token.expose_secret()));
    GitAccess {
        url: format!("{web}/{repo}.git"),
        authorization: Some(format!("Basic {basic}").into()),
        http: http.clone(),
    }
}

#[derive(Deserialize)]
pub(super) struct Account {
    id: i64,
    login: String,
}

impl Account {
    /// A login may have gone over to somebody else since an event named it; the id never does.
    pub(super) fn is(&self, who: &Actor) -> bool {
        self.id.to_string() == who.id
    }
}

impl From<Account> for Actor {
    fn from(account: Account) -> Self {
        Self { id: account.id.to_string(), login: account.login }
    }
}

#[derive(Deserialize)]
pub(super) struct Repository {
    pub id: i64,
}

/// Of an object of git, only its id.
#[derive(Deserialize)]
pub(super) struct Id {
    pub sha: String,
}

/// An answer of which only the success counts.
#[derive(Deserialize)]
pub(super) struct Done {}

#[derive(Deserialize)]
pub(super) struct Permission {
    pub permission: String,
    pub user: Option<Account>,
}

#[derive(Deserialize)]
pub(super) struct Posted {
    pub id: i64,
    user: Option<Account>,
    body: Option<String>,
}

impl From<Posted> for Comment {
    fn from(posted: Posted) -> Self {
        let nobody = || Actor { id: "0".into(), login: "ghost".into() };
        Self {
            id: posted.id.to_string(),
            author: posted.user.map_or_else(nobody, Actor::from),
            body: posted.body.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Tree {
    pub tree: Option<Vec<Entry>>,
    #[serde(default)]
    pub truncated: bool,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    path: String,
    mode: String,
    #[serde(rename = "type")]
    kind: String,
    sha: String,
}

impl From<Entry> for TreeEntry {
    fn from(entry: Entry) -> Self {
        Self {
            kind: match (entry.kind.as_str(), entry.mode.as_str()) {
                ("tree", _) => TreeKind::Folder,
                ("blob", "100644" | "100755" | "100664") => TreeKind::File,
                _ => TreeKind::Other,
            },
            executable: entry.mode == "100755",
            name: entry.path,
            id: entry.sha,
        }
    }
}

/// The answer to a path: a folder is a list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Contents {
    Folder(#[expect(dead_code, reason = "only its shape matters")] Vec<IgnoredAny>),
    Entry(File),
}

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    encoding: Option<String>,
    content: Option<String>,
}

impl Contents {
    /// The file's bytes; what is no file is not found, and over 1 MiB is refused.
    pub(super) fn bytes(self, what: String) -> Result<Vec<u8>, ForgeError> {
        let Self::Entry(file) = self else { return Err(ForgeError::NotFound { what }) };
        if file.kind != "file" {
            return Err(ForgeError::NotFound { what });
        }
        if file.size > MAX_FILE || file.encoding.as_deref() != Some("base64") {
            return Err(refused(&what, 413, format!("the file has {} bytes, over 1 MiB", file.size)));
        }
        let text: String = file.content.unwrap_or_default().split_ascii_whitespace().collect();
        BASE64_STANDARD.decode(text).map_err(|e| unreadable(&what, e))
    }
}

/// The address of a file's contents at a commit.
pub(super) fn contents_path(repo: &RepoName, sha: &Sha, path: &str) -> String {
    format!("{}/contents/{}?ref={sha}", repo_path(repo), encode_path(path))
}

/// A commit status as both take it. Both know a `warning`-like state only where a required check of it blocks the merge as a
/// failure does, so what is inconclusive arrives here as a success with its reason.
pub(super) fn status_body(status: &Status) -> Value {
    let state = match status.state {
        StatusState::Pending | StatusState::Running => "pending",
        StatusState::Success => "success",
        StatusState::Failure => "failure",
        StatusState::Error | StatusState::Cancelled => "error",
    };
    let mut body = json!({"state": state, "context": status.context, "description": status.description});
    if !status.target_url.is_empty() {
        body["target_url"] = json!(status.target_url);
    }
    body
}
