//! A small forge that looks like GitHub, GitLab or Gitea from the outside: the API calls that trainyard makes, git over HTTP, and
//! signed webhooks. One state, three shapes. The demo runs on it, and the tests drive it; it keeps everything that was posted, so
//! that they can look.
//!
//! Must not: be taken for a forge to use. It keeps its state in memory and listens on loopback alone.

mod git;
mod gitea;
mod gitlab;
mod record;
mod rest;
mod shapes;
mod smart_http;
mod state;
mod webhooks;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::any;
use rand::RngCore;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::SharedClock;
use crate::config::{ForgeConfig, ForgeKind, HookConfig, SecretSource};
use crate::forge::Permission;
use crate::model::{RepoName, Sha};
use git::Bare;
use shapes::At;
pub use state::{Account, Delivery, Exchange, Fault, FaultKind, PostedComment, PostedStatus};
use state::{Hook, Pull, Repo, State};

/// The account that pushes and opens pull requests; may write.
pub const WRITER: &str = "ada";
/// The account whose token the daemon has; may write.
pub const BOT: &str = "trainyard-bot";
/// An account without rights of its own.
pub const STRANGER: &str = "eve";

/// How to start a [`Sandbox`].
#[derive(Debug)]
pub struct SandboxOptions {
    /// Where the bare repositories lie; made if it is missing, and left behind.
    pub dir: PathBuf,
    /// Where it listens: loopback, unless daemons of other network namespaces must reach it.
    pub host: IpAddr,
    /// 0 takes a free one.
    pub port: u16,
    pub clock: SharedClock,
    /// Which forge it looks like.
    pub kind: ForgeKind,
}

impl SandboxOptions {
    /// One that looks like GitHub, on a free port.
    pub fn new(dir: impl Into<PathBuf>, clock: SharedClock) -> Self {
        Self { dir: dir.into(), host: Ipv4Addr::LOCALHOST.into(), port: 0, clock, kind: ForgeKind::Github }
    }
    #[must_use]
    pub fn shaped(self, kind: ForgeKind) -> Self {
        Self { kind, ..self }
    }
}

/// A pull request to open.
#[derive(Debug, Clone)]
pub struct NewPull {
    pub title: String,
    /// Login of the author.
    pub author: String,
    pub head_branch: String,
    /// The fork that the head branch is in; None for the repository itself.
    pub head_repo: Option<RepoName>,
    pub base_branch: String,
    pub draft: bool,
}

/// A running forge. Stops when dropped; the repositories stay.
#[derive(Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    url: String,
    dir: PathBuf,
    clock: SharedClock,
    kind: ForgeKind,
    http: reqwest::Client,
    state: Mutex<State>,
}

/// A short look at the state; never held over an await.
trait Lock {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T;
}

impl Lock for Mutex<State> {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0u8; bytes];
    rand::rng().fill_bytes(&mut raw);
    hex::encode(raw)
}

impl Sandbox {
    /// Starts a forge with the accounts [`WRITER`], [`BOT`] and [`STRANGER`], and no repository.
    pub async fn start(options: SandboxOptions) -> anyhow::Result<Self> {
        let SandboxOptions { dir, host, port, clock, kind } = options;
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot make the sandbox's folder {}", dir.display()))?;
        let listener = TcpListener::bind((host, port))
            .await
            .with_context(|| format!("cannot listen on port {port} of {host} for the sandbox"))?;
        let url = format!("http://{}", listener.local_addr().context("cannot read the sandbox's address")?);
        let account = |id, login: &str, kind| {
            (
                login.to_owned(),
                Account { id, login: login.to_owned(), kind, token: format!("sandbox-{}", random_hex(16)) },
            )
        };
        let accounts = BTreeMap::from([
            account(101, WRITER, "User"),
            account(102, BOT, "User"),
            account(103, STRANGER, "User"),
        ]);
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(if kind == ForgeKind::Gitea { 5 } else { 10 })) // as they do
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("cannot make the sandbox's HTTP client")?;
        let state = Mutex::new(State { accounts, ..State::default() });
        let inner = Arc::new(Inner { url, dir, clock, kind, http, state });
        let app = match kind {
            ForgeKind::Github => Router::new().nest("/api/v3", rest::router(inner.clone())),
            ForgeKind::Gitlab => Router::new().nest("/api/v4", gitlab::router(inner.clone())),
            ForgeKind::Gitea => Router::new().nest("/api/v1", gitea::router(inner.clone())),
        };
        let app = app.route("/{owner}/{repo}/{*rest}", any(smart_http::serve).with_state(inner.clone()));
        let server = tokio::spawn(async move {
            if let Err(e) = axum::serve(listener, app).await {
                tracing::error!(error = %e, "the sandbox stopped");
            }
        });
        Ok(Self { inner, server })
    }

    /// Web and git URL.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    pub fn api_url(&self) -> String {
        self.forge_config(SecretSource::Env(String::new()), Vec::new()).api_url()
    }

    /// The token of [`BOT`], for the daemon.
    pub fn token(&self) -> SecretString {
        self.account(BOT).token.into()
    }

    /// # Panics
    /// There is no such account.
    pub fn account(&self, login: &str) -> Account {
        self.inner.state.with(|s| s.account(login).cloned()).expect("an account of the sandbox")
    }

    /// A configuration that leads here.
    pub fn forge_config(&self, token: SecretSource, hook: Vec<HookConfig>) -> ForgeConfig {
        ForgeConfig {
            kind: self.inner.kind,
            url: self.inner.url.clone(),
            api_url: None,
            allow_http: true,
            ca_file: None,
            token,
            hook,
        }
    }

    /// A URL to push to and fetch from, with the account's password in it.
    pub fn git_url(&self, repo: &RepoName, login: &str) -> String {
        let rest = self.inner.url.trim_start_matches("http://");
        format!("http://{login}:{}@{rest}/{repo}.git", self.account(login).token)
    }

    /// Where the bare repository lies.
    pub fn git_dir(&self, repo: &RepoName) -> PathBuf {
        self.inner.dir.join(format!("{repo}.git"))
    }

    /// Where webhooks go from now on, and what signs them.
    pub fn set_hook(&self, url: impl Into<String>, secret: impl Into<String>) {
        let hook = Hook { url: url.into(), secret: secret.into() };
        self.inner.state.with(|s| s.hook = Some(hook));
    }

    /// Makes an empty private repository, in which [`WRITER`] and [`BOT`] may write.
    pub async fn create_repo(&self, name: &RepoName, default_branch: &str) -> anyhow::Result<()> {
        self.add_repo(name, default_branch, false).await
    }

    /// Makes a fork, owned by the owner in its name, in which only that account may write. Its branches are those of `of`.
    pub async fn fork_repo(&self, of: &RepoName, name: &RepoName) -> anyhow::Result<()> {
        let (branch, from) = self
            .inner
            .state
            .with(|s| s.repos.get(of).map(|r| (r.default_branch.clone(), r.git.clone())))
            .with_context(|| format!("there is no repository {of}"))?;
        self.add_repo(name, &branch, true).await?;
        let to = self.inner.git(name)?;
        for (reference, sha) in from.refs().await? {
            to.take_over(&from, &sha, &reference).await?;
        }
        Ok(())
    }

    async fn add_repo(&self, name: &RepoName, default_branch: &str, fork: bool) -> anyhow::Result<()> {
        let git = Bare::create(self.git_dir(name), default_branch).await?;
        let created_ms = self.inner.clock.now_ms();
        self.inner.state.with(|s| {
            let owner = name.owner().to_owned();
            if !s.accounts.contains_key(&owner) {
                let account = Account {
                    id: s.next_id(),
                    login: owner.clone(),
                    kind: "Organization",
                    token: String::new(),
                };
                s.accounts.insert(owner, account);
            }
            // Gitea tells permissions to administrators of the repository alone.
            let bot = if self.inner.kind == ForgeKind::Gitea { Permission::Admin } else { Permission::Write };
            let writers: &[(&str, Permission)] =
                if fork { &[] } else { &[(WRITER, Permission::Write), (BOT, bot)] };
            let repo = Repo {
                id: s.next_id(),
                name: name.clone(),
                default_branch: default_branch.to_owned(),
                private: !fork,
                fork,
                created_ms,
                git,
                pushing: Arc::default(),
                permissions: writers
                    .iter()
                    .map(|(who, may)| ((*who).to_owned(), *may))
                    .collect::<HashMap<_, _>>(),
                pulls: BTreeMap::new(),
                statuses: Vec::new(),
                comments: BTreeMap::new(),
            };
            s.repos.insert(name.clone(), repo);
        });
        Ok(())
    }

    pub fn set_permission(&self, repo: &RepoName, login: &str, permission: Permission) {
        self.inner.state.with(|s| {
            if let Some(repo) = s.repos.get_mut(repo) {
                repo.permissions.insert(login.to_owned(), permission);
            }
        });
    }

    /// Renumbers an account: the login now belongs to somebody else.
    pub fn give_login_away(&self, login: &str) {
        self.inner.state.with(|s| {
            let id = s.next_id();
            if let Some(account) = s.accounts.get_mut(login) {
                account.id = id;
            }
        });
    }

    /// Opens a pull request and sends its webhook; returns when that is answered.
    pub async fn open_pull(&self, repo: &RepoName, new: NewPull) -> anyhow::Result<i64> {
        let git = self.inner.git(repo)?;
        let head_git = match &new.head_repo {
            Some(fork) => self.inner.git(fork)?,
            None => git.clone(),
        };
        let no_branch = |name: &str| format!("there is no branch {name}");
        let head_sha =
            head_git.resolve(&new.head_branch).await.with_context(|| no_branch(&new.head_branch))?;
        let base_sha = git.resolve(&new.base_branch).await.with_context(|| no_branch(&new.base_branch))?;
        let created_ms = self.inner.clock.now_ms();
        let number = self.inner.state.with(|s| {
            let id = s.next_id();
            let found = s.repos.get_mut(repo)?;
            let number = found.pulls.keys().next_back().copied().unwrap_or(0) + 1;
            let pull = Pull {
                id,
                number,
                title: new.title,
                author: new.author.clone(),
                head_repo: Some(new.head_repo.unwrap_or_else(|| repo.clone())),
                head_branch: new.head_branch,
                head_sha: head_sha.clone(),
                base_branch: new.base_branch,
                base_sha,
                draft: new.draft,
                open: true,
                merged: false,
                created_ms,
            };
            found.pulls.insert(number, pull);
            Some(number)
        });
        let number = number.with_context(|| format!("there is no repository {repo}"))?;
        self.inner.show_head(repo, number, &head_git, &head_sha).await?;
        self.inner.fire_pull(repo, number, "opened", &new.author, serde_json::json!({})).await;
        Ok(number)
    }

    /// Changes the base branch of a pull request.
    pub async fn retarget_pull(&self, repo: &RepoName, number: i64, base_branch: &str) -> anyhow::Result<()> {
        let git = self.inner.git(repo)?;
        let sha =
            git.resolve(base_branch).await.with_context(|| format!("there is no branch {base_branch}"))?;
        let was = self.change(repo, number, |pull| {
            let was = (pull.base_branch.clone(), pull.base_sha.clone());
            (pull.base_branch, pull.base_sha) = (base_branch.to_owned(), sha);
            was
        })?;
        let changes =
            serde_json::json!({"changes": {"base": {"ref": {"from": was.0}, "sha": {"from": was.1}}}});
        self.inner.fire_pull(repo, number, "edited", WRITER, changes).await;
        Ok(())
    }

    /// Changes the title alone.
    pub async fn rename_pull(&self, repo: &RepoName, number: i64, title: &str) -> anyhow::Result<()> {
        let was = self.change(repo, number, |pull| std::mem::replace(&mut pull.title, title.to_owned()))?;
        let changes = serde_json::json!({"changes": {"title": {"from": was}}});
        self.inner.fire_pull(repo, number, "edited", WRITER, changes).await;
        Ok(())
    }

    pub async fn close_pull(&self, repo: &RepoName, number: i64) -> anyhow::Result<()> {
        self.change(repo, number, |pull| pull.open = false)?;
        self.inner.fire_pull(repo, number, "closed", WRITER, serde_json::json!({})).await;
        Ok(())
    }

    /// Closes a pull request as merged. Its commits stay where they are: only what the forge says of it changes.
    pub async fn merge_pull(&self, repo: &RepoName, number: i64) -> anyhow::Result<()> {
        self.change(repo, number, |pull| (pull.open, pull.merged) = (false, true))?;
        self.inner.fire_pull(repo, number, "closed", WRITER, serde_json::json!({})).await;
        Ok(())
    }

    /// Puts a label on a pull request; only the webhook tells of it.
    pub async fn label_pull(&self, repo: &RepoName, number: i64) -> anyhow::Result<()> {
        self.change(repo, number, |_| ())?;
        let label = serde_json::json!({
            "id": 1, "node_id": "L_1", "url": format!("{}/labels/gpu", self.inner.url), "name": "gpu", "color": "00ff00",
            "default": false, "description": null,
        });
        self.inner.fire_pull(repo, number, "labeled", WRITER, serde_json::json!({ "label": label })).await;
        Ok(())
    }

    pub async fn reopen_pull(&self, repo: &RepoName, number: i64) -> anyhow::Result<()> {
        self.change(repo, number, |pull| pull.open = true)?;
        self.inner.fire_pull(repo, number, "reopened", WRITER, serde_json::json!({})).await;
        Ok(())
    }

    pub async fn ready_pull(&self, repo: &RepoName, number: i64) -> anyhow::Result<()> {
        self.change(repo, number, |pull| pull.draft = false)?;
        self.inner.fire_pull(repo, number, "ready_for_review", WRITER, serde_json::json!({})).await;
        Ok(())
    }

    /// Deletes the fork that a pull request came from; no webhook tells of it.
    pub fn delete_fork(&self, repo: &RepoName, number: i64) -> anyhow::Result<()> {
        self.change(repo, number, |pull| pull.head_repo = None)
    }

    fn change<T>(
        &self,
        repo: &RepoName,
        number: i64,
        change: impl FnOnce(&mut Pull) -> T,
    ) -> anyhow::Result<T> {
        self.inner
            .state
            .with(|s| s.repos.get_mut(repo)?.pulls.get_mut(&number).map(change))
            .with_context(|| format!("there is no pull request {number} in {repo}"))
    }

    /// Writes a comment as `login` and sends its webhook.
    pub async fn comment(
        &self,
        repo: &RepoName,
        number: i64,
        login: &str,
        body: &str,
    ) -> anyhow::Result<u64> {
        let posted = self
            .inner
            .add_comment(repo, number, login, body.to_owned())
            .with_context(|| format!("there is no pull request {number} in {repo}"))?;
        self.inner.fire_comment(repo, &posted).await;
        Ok(posted.id)
    }

    /// Sends the first webhook of a new hook.
    pub async fn ping(&self, repo: &RepoName) {
        self.inner.fire_ping(repo).await;
    }

    /// Sends a webhook of one's own, signed as any.
    pub async fn send(&self, event: &str, payload: serde_json::Value) -> Delivery {
        self.inner.deliver(event, payload, None).await
    }

    /// Sends a webhook again, with the same id, as the button on GitHub's page does.
    pub async fn redeliver(&self, guid: &str) -> anyhow::Result<Delivery> {
        let old = self.deliveries().into_iter().find(|d| d.guid == guid);
        let old = old.with_context(|| format!("no webhook {guid} was sent"))?;
        Ok(self.inner.deliver(&old.event, old.payload, Some(old.guid)).await)
    }

    /// Makes coming calls of the API fail.
    pub fn inject(&self, fault: Fault) {
        self.inner.state.with(|s| s.faults.push_back(fault));
    }

    /// Ends all ordered failures.
    pub fn heal(&self) {
        self.inner.state.with(|s| s.faults.clear());
    }

    /// Every status that was posted on a commit, oldest first.
    pub fn statuses(&self, repo: &RepoName, sha: &Sha) -> Vec<PostedStatus> {
        self.inner.state.with(|s| {
            let all = s.repos.get(repo).map(|r| r.statuses.clone()).unwrap_or_default();
            all.into_iter().filter(|p| p.sha == sha.as_str()).collect()
        })
    }

    /// Every comment of a pull request, oldest first, with its edits.
    pub fn comments(&self, repo: &RepoName, number: i64) -> Vec<PostedComment> {
        self.inner.state.with(|s| {
            let all = s
                .repos
                .get(repo)
                .map(|r| r.comments.values().cloned().collect::<Vec<_>>())
                .unwrap_or_default();
            all.into_iter().filter(|c| c.number == number).collect()
        })
    }

    /// Every call of the API so far.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.inner.state.with(|s| s.exchanges.clone())
    }

    /// Every webhook so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.inner.state.with(|s| s.deliveries.clone())
    }

    /// The commit at the tip of a branch.
    pub async fn tip(&self, repo: &RepoName, branch: &str) -> anyhow::Result<Sha> {
        let sha = self
            .inner
            .git(repo)?
            .resolve(branch)
            .await
            .with_context(|| format!("there is no branch {branch}"))?;
        Ok(Sha::parse(&sha)?)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.server.abort();
        record::keep(&self.exchanges());
    }
}

impl Inner {
    fn git(&self, repo: &RepoName) -> anyhow::Result<Bare> {
        self.state
            .with(|s| s.repos.get(repo).map(|r| r.git.clone()))
            .with_context(|| format!("there is no repository {repo}"))
    }

    fn with_repo<T>(
        &self,
        name: &RepoName,
        look: impl FnOnce(At<'_>, &Repo, &State) -> T,
    ) -> anyhow::Result<T> {
        self.state
            .with(|s| s.repos.get(name).map(|repo| look(At(&self.url), repo, s)))
            .with_context(|| format!("there is no repository {name}"))
    }

    /// The repository in GitHub's JSON, as its own page of the API has it.
    fn repository_shape(&self, state: &State, name: &RepoName) -> Option<serde_json::Value> {
        let repo = state.repos.get(name)?;
        let owner = state.account_or_ghost(name.owner());
        let mut shape = shapes::repository(At(&self.url), repo, &owner, self.clock.now_ms());
        shape["network_count"] = 0.into();
        shape["subscribers_count"] = 0.into();
        Some(shape)
    }

    /// The pull request in GitHub's JSON.
    fn pull_shape(&self, state: &State, name: &RepoName, number: i64) -> Option<serde_json::Value> {
        let repo = state.repos.get(name)?;
        let pull = repo.pulls.get(&number)?;
        let owner = state.account_or_ghost(name.owner());
        let head_repo = pull.head_repo.as_ref().and_then(|n| state.repos.get(n));
        let head_owner = state.account_or_ghost(head_repo.map_or("", |r| r.name.owner()));
        let head = shapes::End {
            branch: &pull.head_branch,
            sha: &pull.head_sha,
            repo: head_repo.map(|r| (r, &head_owner)),
            user: &head_owner,
        };
        let base = shapes::End {
            branch: &pull.base_branch,
            sha: &pull.base_sha,
            repo: Some((repo, &owner)),
            user: &owner,
        };
        let author = state.account_or_ghost(&pull.author);
        Some(shapes::pull(At(&self.url), repo, pull, &author, &head, &base, self.clock.now_ms()))
    }

    fn add_comment(&self, repo: &RepoName, number: i64, login: &str, body: String) -> Option<PostedComment> {
        let now = self.clock.now_ms();
        self.state.with(|s| {
            let id = s.next_id();
            let repo = s.repos.get_mut(repo)?;
            repo.pulls.get(&number)?;
            let comment = PostedComment {
                id,
                number,
                author: login.to_owned(),
                versions: vec![body],
                created_ms: now,
                updated_ms: now,
            };
            repo.comments.insert(id, comment.clone());
            Some(comment)
        })
    }

    /// Changes a comment's text; its author may, and who may write.
    fn edit_comment(
        &self,
        repo: &RepoName,
        id: u64,
        caller: &Account,
        text: String,
    ) -> Result<PostedComment, rest::Refusal> {
        let now = self.clock.now_ms();
        self.state.with(|s| {
            let repo = s.repos.get_mut(repo).ok_or_else(rest::not_found)?;
            let may = repo.permission(&caller.login);
            let comment = repo.comments.get_mut(&id).ok_or_else(rest::not_found)?;
            if comment.author != caller.login && may < Permission::Write {
                return Err(rest::refuse(
                    hyper::StatusCode::FORBIDDEN,
                    "Must have admin rights to Repository.",
                ));
            }
            comment.versions.push(text);
            comment.updated_ms = now;
            Ok(comment.clone())
        })
    }

    /// Puts a pull request's head where GitHub shows it: in the base repository, also when it comes from a fork.
    async fn show_head(&self, repo: &RepoName, number: i64, head: &Bare, sha: &str) -> anyhow::Result<()> {
        let git = self.git(repo)?;
        let reference = format!("refs/pull/{number}/head");
        if head.dir() != git.dir() {
            return git.take_over(head, sha, &reference).await;
        }
        git.set_ref(&reference, sha).await
    }
}
