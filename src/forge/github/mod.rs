//! GitHub and GitHub Enterprise Server as a [`Forge`]. Answers are read into small structures of our own: of GitHub's many
//! fields only those stand here that we need.

mod api;

use std::fmt;

use async_trait::async_trait;
use hyper::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;

use super::answer::refused;
use super::rest::{climbs, encode, encode_path, git_client, shown, unreadable, unusable};
use super::webhook::github::Pull;
use super::wire::{self, repo_path, sha_of};
use super::{
    Capabilities, ChangeWords, Comment, Commit, Folder, Forge, ForgeError, GitAccess, Permission, Status,
    TreeEntry, WebPage,
};
use crate::config::{ConfigError, ForgeConfig, ForgeKind};
use crate::model::{Actor, PullRequest, RepoName, Sha};
use api::Api;

const PAGE: u32 = 100;
const MAX_COMMENTS: u32 = 1_000;

/// A forge of kind `github`, with one credential.
pub struct GitHub {
    api: Api,
    git: reqwest::Client,
    /// Without a trailing slash.
    web: String,
    token: SecretString,
    me: OnceCell<Actor>,
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHub").field("web", &self.web).finish_non_exhaustive()
    }
}

impl GitHub {
    /// Makes the client; no request is sent. Must be called within a tokio runtime.
    pub fn connect(config: &ForgeConfig, token: SecretString) -> Result<Self, ConfigError> {
        let api = Api::connect(config, token.clone()).map_err(|e| unusable(config, e))?;
        let git = git_client(config).map_err(|e| unusable(config, e))?;
        Ok(Self { api, git, web: config.web_url().to_owned(), token, me: OnceCell::new() })
    }
}

#[derive(Deserialize)]
struct WireFound {
    items: Vec<WireItem>,
}

#[derive(Deserialize)]
struct WireItem {
    user: Option<wire::Account>,
    pull_request: Option<WireMerged>,
}

#[derive(Deserialize)]
struct WireMerged {
    merged_at: Option<String>,
}

#[derive(Deserialize)]
struct WireCommit {
    sha: String,
    message: String,
    tree: wire::Id,
    parents: Vec<wire::Id>,
}

#[derive(Deserialize)]
struct WireComparison {
    merge_base_commit: wire::Id,
}

#[async_trait]
impl Forge for GitHub {
    async fn whoami(&self) -> Result<Actor, ForgeError> {
        let me = self.me.get_or_try_init(|| async {
            self.api.get::<wire::Account>("the token's account", "/user").await.map(Actor::from)
        });
        me.await.cloned()
    }

    async fn repo_id(&self, repo: &RepoName) -> Result<String, ForgeError> {
        let what = shown(repo, "repository");
        let wire: wire::Repository = self.api.get(&what, &repo_path(repo)).await?;
        Ok(wire.id.to_string())
    }

    async fn commit(&self, repo: &RepoName, sha: &Sha) -> Result<Commit, ForgeError> {
        let what = shown(repo, format_args!("commit {sha}"));
        let wire: WireCommit = self.api.get(&what, &format!("{}/git/commits/{sha}", repo_path(repo))).await?;
        if wire.sha != sha.as_str() {
            return Err(unreadable(&what, "it is another commit"));
        }
        let parents = wire.parents.iter().map(|p| sha_of(&what, &p.sha)).collect::<Result<_, _>>()?;
        Ok(Commit { sha: sha.clone(), parents, tree: wire.tree.sha, message: wire.message })
    }

    async fn tree(&self, repo: &RepoName, folder: &Folder) -> Result<Vec<TreeEntry>, ForgeError> {
        let tree = folder.id.as_str();
        let what = shown(repo, format_args!("tree {}", encode(tree)));
        if climbs(tree) {
            return Err(ForgeError::NotFound { what });
        }
        let wire: wire::Tree =
            self.api.get(&what, &format!("{}/git/trees/{}", repo_path(repo), encode(tree))).await?;
        if wire.truncated {
            return Err(refused(&what, 413, "the folder has too many entries".into()));
        }
        Ok(wire.tree.unwrap_or_default().into_iter().map(TreeEntry::from).collect())
    }

    async fn file(&self, repo: &RepoName, sha: &Sha, path: &str) -> Result<Vec<u8>, ForgeError> {
        let what = shown(repo, format_args!("{path:?} at {}", sha.short()));
        if path.split('/').any(climbs) {
            return Err(ForgeError::NotFound { what });
        }
        let found: wire::Contents = self.api.get(&what, &wire::contents_path(repo, sha, path)).await?;
        found.bytes(what)
    }

    async fn merge_base(&self, repo: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError> {
        let what = shown(repo, format_args!("comparison of {base:?} with {}", head.short()));
        let url = format!("{}/compare/{}...{head}?per_page=1", repo_path(repo), encode(base));
        let answer = self.api.exchange(Method::GET, &what, &url, None).await?;
        if answer.status == 404 && answer.complaint().contains("No common ancestor") {
            return Ok(None);
        }
        let body = answer.success(&what, &Method::GET)?;
        let wire: WireComparison = serde_json::from_slice(&body).map_err(|e| unreadable(&what, e))?;
        sha_of(&what, &wire.merge_base_commit.sha).map(Some)
    }

    async fn history(&self, repo: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError> {
        let what = shown(repo, format_args!("history of {}", sha.short()));
        let mut found = Vec::new();
        let size = limit.clamp(1, PAGE);
        for page in 1..=limit.div_ceil(size) {
            let url = format!("{}/commits?sha={sha}&per_page={size}&page={page}", repo_path(repo));
            let wire: Vec<wire::Id> = self.api.get(&what, &url).await?;
            for commit in &wire {
                found.push(sha_of(&what, &commit.sha)?);
            }
            if wire.len() < size as usize {
                break;
            }
        }
        found.truncate(limit as usize);
        Ok(found)
    }

    async fn permission(&self, repo: &RepoName, who: &Actor) -> Result<Permission, ForgeError> {
        let what = shown(repo, format_args!("permission of {:?}", who.login));
        if climbs(&who.login) {
            return Ok(Permission::None);
        }
        let url = format!("{}/collaborators/{}/permission", repo_path(repo), encode(&who.login));
        let wire: wire::Permission = match self.api.get(&what, &url).await {
            Ok(wire) => wire,
            Err(ForgeError::NotFound { .. }) => return Ok(Permission::None),
            Err(e) => return Err(e),
        };
        if !wire.user.is_some_and(|user| user.is(who)) {
            return Ok(Permission::None);
        }
        Ok(match wire.permission.as_str() {
            "admin" => Permission::Admin,
            "write" => Permission::Write,
            "read" => Permission::Read,
            _ => Permission::None,
        })
    }

    async fn has_merged_change(&self, repo: &RepoName, who: &Actor) -> Result<bool, ForgeError> {
        let what = shown(repo, format_args!("merged pull requests of {:?}", who.login));
        // Search reads its query as words; a login that could add one to it is nobody's.
        if who.login.is_empty()
            || !who.login.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Ok(false);
        }
        let query = format!("repo:{repo} is:pr is:merged author:{}", who.login);
        let url = format!("/search/issues?q={}&per_page=20", encode(&query));
        let wire: WireFound = match self.api.get(&what, &url).await {
            Ok(wire) => wire,
            // 422: there is no such account any more, or the token may not search here.
            Err(ForgeError::NotFound { .. } | ForgeError::Refused { status: 422, .. }) => return Ok(false),
            Err(e) => return Err(e),
        };
        Ok(wire.items.iter().any(|item| {
            item.user.as_ref().is_some_and(|user| user.is(who))
                && item.pull_request.as_ref().is_some_and(|pull| pull.merged_at.is_some())
        }))
    }

    async fn pull(&self, repo: &RepoName, number: i64) -> Result<PullRequest, ForgeError> {
        let what = shown(repo, format_args!("pull request {number}"));
        let wire: Pull = self.api.get(&what, &format!("{}/pulls/{number}", repo_path(repo))).await?;
        wire.read().map_err(|e| unreadable(&what, e))
    }

    async fn set_status(&self, repo: &RepoName, sha: &Sha, status: &Status) -> Result<(), ForgeError> {
        let what = shown(repo, format_args!("status {:?} of {}", status.context, sha.short()));
        let body = wire::status_body(status);
        let _: wire::Done =
            self.api.post(&what, &format!("{}/statuses/{sha}", repo_path(repo)), &body).await?;
        Ok(())
    }

    async fn comments(&self, repo: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError> {
        let what = shown(repo, format_args!("comments of pull request {number}"));
        let mut found = Vec::new();
        for page in 1..=MAX_COMMENTS / PAGE {
            let url = format!("{}/issues/{number}/comments?per_page={PAGE}&page={page}", repo_path(repo));
            let wire: Vec<wire::Posted> = self.api.get(&what, &url).await?;
            let last = wire.len() < PAGE as usize;
            found.extend(wire.into_iter().map(Comment::from));
            if last {
                break;
            }
        }
        Ok(found)
    }

    async fn create_comment(&self, repo: &RepoName, number: i64, body: &str) -> Result<String, ForgeError> {
        let what = shown(repo, format_args!("comment on pull request {number}"));
        let url = format!("{}/issues/{number}/comments", repo_path(repo));
        let wire: wire::Posted = self.api.post(&what, &url, &json!({ "body": body })).await?;
        Ok(wire.id.to_string())
    }

    async fn edit_comment(&self, repo: &RepoName, id: &str, body: &str) -> Result<(), ForgeError> {
        let what = shown(repo, format_args!("comment {}", encode(id)));
        if climbs(id) {
            return Err(refused(&what, 404, "there is no such comment".into()));
        }
        let url = format!("{}/issues/comments/{}", repo_path(repo), encode(id));
        let _: wire::Done = self.api.patch(&what, &url, &json!({ "body": body })).await?;
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            status_description: 140,
            comment_bytes: 65_536,
            change: ChangeWords::of(ForgeKind::Github),
        }
    }

    fn git(&self, repo: &RepoName) -> GitAccess {
        wire::git_access(&self.web, repo, "x-access-token", &self.token, &self.git)
    }

    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String {
        let home = format!("{}/{repo}", self.web);
        match what {
            WebPage::Repository => home,
            WebPage::Branch(name) => format!("{home}/tree/{}", encode_path(name)),
            WebPage::Commit(sha) => format!("{home}/commit/{sha}"),
            WebPage::Pull(number) => format!("{home}/pull/{number}"),
        }
    }
}
