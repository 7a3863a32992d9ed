//! Gitea and Forgejo as a [`Forge`], over their REST API v1. They have no check runs and no merge-base call: statuses and plain
//! lists of commits serve instead.

use std::collections::HashSet;
use std::fmt;

use async_trait::async_trait;
use hyper::{Method, header};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::answer::{MAX_ANSWER, refused};
use super::rest::{Rest, climbs, encode, encode_path, git_client, shown, unreadable, unusable};
use super::webhook::gitea::Pull;
use super::wire::{self, repo_path, sha_of};
use super::{
    Capabilities, ChangeWords, Comment, Commit, Folder, Forge, ForgeError, GitAccess, Permission, Status,
    TreeEntry, WebPage,
};
use crate::config::{ConfigError, ForgeConfig, ForgeKind};
use crate::model::{Actor, PullRequest, RepoName, Sha};

/// Gitea's own default for the most that one page may hold.
const PAGE: u32 = 50;
/// Pages of a folder; a page holds up to 1,000 entries by default.
const MAX_TREE_PAGES: u32 = 100;
const MAX_COMMENTS: usize = 1_000;
/// Commits that a branch may be ahead of its base before their merge-base counts as unknown.
const MAX_AHEAD_PAGES: u32 = 100;
/// Closed pull requests of an author that are looked through for a merged one.
const MAX_CLOSED_PAGES: u32 = 2;

/// A forge of kind `gitea`, with one credential.
pub struct Gitea {
    rest: Rest,
    git: reqwest::Client,
    /// Without a trailing slash.
    web: String,
    token: SecretString,
    me: OnceCell<Actor>,
}

impl fmt::Debug for Gitea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gitea").field("web", &self.web).finish_non_exhaustive()
    }
}

impl Gitea {
    /// Makes the client; no request is sent.
    pub fn connect(config: &ForgeConfig, token: SecretString) -> Result<Self, ConfigError> {
        let rest = Rest::connect(config, header::AUTHORIZATION, "token ", &token)?;
        let git = git_client(config).map_err(|e| unusable(config, e))?;
        Ok(Self { rest, git, web: config.web_url().to_owned(), token, me: OnceCell::new() })
    }

    async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, ForgeError> {
        let answer = self.rest.send(what, &Method::GET, path, None, MAX_ANSWER).await?;
        answer.read(what, &Method::GET)
    }

    async fn write<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, ForgeError> {
        let body = ("application/json", body.to_string().into_bytes());
        self.rest.send(what, &method, path, Some(&body), MAX_ANSWER).await?.read(what, &method)
    }

    /// One page of `from` and its ancestors, without those of `not`.
    async fn log(
        &self,
        what: &str,
        repo: &RepoName,
        from: &Sha,
        not: Option<&Sha>,
        (page, size): (u32, u32),
    ) -> Result<Vec<WireCommit>, ForgeError> {
        let not = not.map(|sha| format!("&not={sha}")).unwrap_or_default();
        let url = format!(
            "{}/commits?sha={from}{not}&page={page}&limit={size}&stat=false&verification=false&files=false",
            repo_path(repo)
        );
        self.get(what, &url).await
    }

    /// Is every commit of `old` also one of `new`?
    async fn holds(&self, what: &str, repo: &RepoName, new: &Sha, old: &Sha) -> Result<bool, ForgeError> {
        Ok(self.log(what, repo, old, Some(new), (1, 1)).await?.is_empty())
    }
}

#[derive(Deserialize)]
struct WireCommit {
    sha: String,
    commit: WireInner,
    #[serde(default)]
    parents: Option<Vec<wire::Id>>,
}

#[derive(Deserialize)]
struct WireInner {
    message: String,
    tree: wire::Id,
}

#[derive(Deserialize)]
struct WireBranch {
    commit: WireBranchCommit,
}

#[derive(Deserialize)]
struct WireBranchCommit {
    id: String,
}

#[derive(Deserialize)]
struct WireClosed {
    user: Option<wire::Account>,
    #[serde(default)]
    merged: bool,
}

#[async_trait]
impl Forge for Gitea {
    async fn whoami(&self) -> Result<Actor, ForgeError> {
        let ask = async { self.get::<wire::Account>("the token's account", "/user").await.map(Actor::from) };
        self.me.get_or_try_init(|| ask).await.cloned()
    }

    async fn repo_id(&self, repo: &RepoName) -> Result<String, ForgeError> {
        let wire: wire::Repository = self.get(&shown(repo, "repository"), &repo_path(repo)).await?;
        Ok(wire.id.to_string())
    }

    async fn commit(&self, repo: &RepoName, sha: &Sha) -> Result<Commit, ForgeError> {
        let what = shown(repo, format_args!("commit {sha}"));
        let url = format!("{}/git/commits/{sha}?stat=false&verification=false&files=false", repo_path(repo));
        let wire: WireCommit = self.get(&what, &url).await?;
        if wire.sha != sha.as_str() {
            return Err(unreadable(&what, "it is another commit"));
        }
        let parents = wire.parents.unwrap_or_default();
        let parents = parents.iter().map(|p| sha_of(&what, &p.sha)).collect::<Result<_, _>>()?;
        Ok(Commit { sha: sha.clone(), parents, tree: wire.commit.tree.sha, message: wire.commit.message })
    }

    async fn tree(&self, repo: &RepoName, folder: &Folder) -> Result<Vec<TreeEntry>, ForgeError> {
        let what = shown(repo, format_args!("tree {}", encode(&folder.id)));
        if climbs(&folder.id) {
            return Err(ForgeError::NotFound { what });
        }
        let mut found = Vec::new();
        for page in 1..=MAX_TREE_PAGES {
            let url =
                format!("{}/git/trees/{}?page={page}&per_page=1000", repo_path(repo), encode(&folder.id));
            let wire: wire::Tree = self.get(&what, &url).await?;
            let entries = wire.tree.unwrap_or_default();
            let last = !wire.truncated || entries.is_empty();
            found.extend(entries.into_iter().map(TreeEntry::from));
            if last {
                return Ok(found);
            }
        }
        Err(refused(&what, 413, "the folder has too many entries".into()))
    }

    async fn file(&self, repo: &RepoName, sha: &Sha, path: &str) -> Result<Vec<u8>, ForgeError> {
        let what = shown(repo, format_args!("{path:?} at {}", sha.short()));
        if path.split('/').any(climbs) {
            return Err(ForgeError::NotFound { what });
        }
        let found: wire::Contents = self.get(&what, &wire::contents_path(repo, sha, path)).await?;
        found.bytes(what)
    }

    /// The commits that `head` has over `base`, then their parents that `base` has as well; the best of these.
    async fn merge_base(&self, repo: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError> {
        let what = shown(repo, format_args!("merge-base of {base:?} and {}", head.short()));
        let base = match Sha::parse(base) {
            Ok(sha) => sha,
            Err(_) if base.split('/').any(climbs) => return Err(ForgeError::NotFound { what }),
            Err(_) => {
                let url = format!("{}/branches/{}", repo_path(repo), encode_path(base));
                let branch: WireBranch = self.get(&what, &url).await?;
                sha_of(&what, &branch.commit.id)?
            }
        };
        let (mut ahead, mut parents) = (HashSet::new(), Vec::new());
        for page in 1.. {
            if page > MAX_AHEAD_PAGES {
                return Ok(None);
            }
            let commits = self.log(&what, repo, head, Some(&base), (page, PAGE)).await?;
            let last = commits.len() < PAGE as usize;
            for commit in commits {
                parents.extend(commit.parents.unwrap_or_default().into_iter().map(|p| p.sha));
                ahead.insert(commit.sha);
            }
            if last {
                break;
            }
        }
        if ahead.is_empty() {
            return Ok(Some(head.clone()));
        }
        parents.retain(|parent| !ahead.contains(parent));
        parents.sort();
        parents.dedup();
        let mut best: Vec<Sha> = Vec::new();
        for parent in parents {
            let parent = sha_of(&what, &parent)?;
            let mut covered = false;
            for other in &best {
                covered = covered || self.holds(&what, repo, other, &parent).await?;
            }
            if !covered {
                let mut kept = Vec::new();
                for other in best {
                    if !self.holds(&what, repo, &parent, &other).await? {
                        kept.push(other);
                    }
                }
                kept.push(parent);
                best = kept;
            }
        }
        Ok(best.into_iter().next())
    }

    async fn history(&self, repo: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError> {
        let what = shown(repo, format_args!("history of {}", sha.short()));
        let mut found = Vec::new();
        let size = limit.clamp(1, PAGE);
        for page in 1..=limit.div_ceil(size) {
            let commits = self.log(&what, repo, sha, None, (page, size)).await?;
            for commit in &commits {
                found.push(sha_of(&what, &commit.sha)?);
            }
            if commits.len() < size as usize {
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
        let wire: wire::Permission = match self.get(&what, &url).await {
            Ok(wire) => wire,
            Err(ForgeError::NotFound { .. }) => return Ok(Permission::None),
            Err(e) => return Err(e),
        };
        if !wire.user.is_some_and(|user| user.is(who)) {
            return Ok(Permission::None);
        }
        Ok(match wire.permission.as_str() {
            "owner" | "admin" => Permission::Admin,
            "write" => Permission::Write,
            "read" => Permission::Read,
            _ => Permission::None,
        })
    }

    async fn has_merged_change(&self, repo: &RepoName, who: &Actor) -> Result<bool, ForgeError> {
        let what = shown(repo, format_args!("merged pull requests of {:?}", who.login));
        for page in 1..=MAX_CLOSED_PAGES {
            let url = format!(
                "{}/pulls?state=closed&sort=recentupdate&poster={}&page={page}&limit={PAGE}",
                repo_path(repo),
                encode(&who.login)
            );
            let wire: Vec<WireClosed> = match self.get(&what, &url).await {
                Ok(wire) => wire,
                // 400 and 422: there is no such account any more.
                Err(ForgeError::NotFound { .. } | ForgeError::Refused { status: 400 | 422, .. }) => {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            };
            let last = wire.len() < PAGE as usize;
            // Old servers do not know `poster`.
            let theirs = |pull: &WireClosed| pull.user.as_ref().is_some_and(|user| user.is(who));
            if wire.iter().any(|pull| pull.merged && theirs(pull)) {
                return Ok(true);
            }
            if last {
                break;
            }
        }
        Ok(false)
    }

    async fn pull(&self, repo: &RepoName, number: i64) -> Result<PullRequest, ForgeError> {
        let what = shown(repo, format_args!("pull request {number}"));
        let wire: Pull = self.get(&what, &format!("{}/pulls/{number}", repo_path(repo))).await?;
        wire.read().map_err(|e| unreadable(&what, e))
    }

    async fn set_status(&self, repo: &RepoName, sha: &Sha, status: &Status) -> Result<(), ForgeError> {
        let what = shown(repo, format_args!("status {:?} of {}", status.context, sha.short()));
        let url = format!("{}/statuses/{sha}", repo_path(repo));
        let _: wire::Done = self.write(&what, Method::POST, &url, &wire::status_body(status)).await?;
        Ok(())
    }

    async fn comments(&self, repo: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError> {
        let what = shown(repo, format_args!("comments of pull request {number}"));
        // Gitea gives all of them at once.
        let wire: Vec<wire::Posted> =
            self.get(&what, &format!("{}/issues/{number}/comments", repo_path(repo))).await?;
        Ok(wire.into_iter().take(MAX_COMMENTS).map(Comment::from).collect())
    }

    async fn create_comment(&self, repo: &RepoName, number: i64, body: &str) -> Result<String, ForgeError> {
        let what = shown(repo, format_args!("comment on pull request {number}"));
        let url = format!("{}/issues/{number}/comments", repo_path(repo));
        let wire: wire::Posted = self.write(&what, Method::POST, &url, &json!({ "body": body })).await?;
        Ok(wire.id.to_string())
    }

    async fn edit_comment(&self, repo: &RepoName, id: &str, body: &str) -> Result<(), ForgeError> {
        let what = shown(repo, format_args!("comment {}", encode(id)));
        if climbs(id) {
            return Err(refused(&what, 404, "there is no such comment".into()));
        }
        let url = format!("{}/issues/comments/{}", repo_path(repo), encode(id));
        let _: wire::Done = self.write(&what, Method::PATCH, &url, &json!({ "body": body })).await?;
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        // Neither has a documented bound; GitLab's and GitHub's keep what is shown readable.
        Capabilities {
            status_description: 255,
            comment_bytes: 65_536,
            change: ChangeWords::of(ForgeKind::Gitea),
        }
    }

    fn git(&self, repo: &RepoName) -> GitAccess {
        wire::git_access(&self.web, repo, "trainyard", &self.token, &self.git)
    }

    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String {
        let home = format!("{}/{repo}", self.web);
        match what {
            WebPage::Repository => home,
            WebPage::Branch(name) => format!("{home}/src/branch/{}", encode_path(name)),
            WebPage::Commit(sha) => format!("{home}/commit/{sha}"),
            WebPage::Pull(number) => format!("{home}/pulls/{number}"),
        }
    }
}
