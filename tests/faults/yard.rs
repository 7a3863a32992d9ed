//! A sandbox forge with one repository, the real daemon beside it, and a working tree that pushes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use tokio::process::Command;
use trainyard::clock::SystemClock;
use trainyard::model::{AttemptUid, RepoName, Sha};
use trainyard::sandbox::{PostedStatus, Sandbox, SandboxOptions, WRITER};
use trainyard::store::Store;
use trainyard::store::attempts::AttemptRow;
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::RunView;

use super::daemon::{Daemon, SECRET};

pub struct Yard {
    pub sandbox: Sandbox,
    pub daemon: Daemon,
    pub repo: RepoName,
    pub tree: PathBuf,
    _dir: tempfile::TempDir,
}

impl Yard {
    /// The daemon is not started yet.
    pub async fn new() -> Self {
        Self::of(Daemon::of_forge).await
    }

    /// The same with a daemon that is made for the forge's URL and token.
    pub async fn of(make: impl FnOnce(&str, &str) -> Daemon) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::start(SandboxOptions::new(dir.path().join("forge"), Arc::new(SystemClock)))
            .await
            .unwrap();
        let repo = RepoName::parse("ada/churn").unwrap();
        sandbox.create_repo(&repo, "main").await.unwrap();
        let daemon = make(sandbox.url(), sandbox.token().expose_secret());
        sandbox.set_hook(format!("http://{}/hooks/github/main", daemon.hooks), SECRET);
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let yard = Self { sandbox, daemon, repo, tree, _dir: dir };
        yard.git(&["init", "-q", "-b", "main"]).await;
        yard.git(&["config", "user.email", "test@example.org"]).await;
        yard.git(&["config", "user.name", "Test"]).await;
        yard.git(&["remote", "add", "origin", &yard.sandbox.git_url(&yard.repo, WRITER)]).await;
        yard
    }

    pub async fn git(&self, args: &[&str]) -> String {
        let out = Command::new("git").args(args).current_dir(&self.tree).output().await.unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Commits a pipeline file (and nothing else) on the current branch and pushes it.
    pub async fn push(&self, branch: &str, pipeline: &str) -> Sha {
        std::fs::write(self.tree.join(".trainyard.yaml"), pipeline).unwrap();
        self.git(&["add", "-A"]).await;
        self.git(&["commit", "-q", "--allow-empty", "-m", "A change"]).await;
        self.git(&["push", "-q", "-u", "origin", branch]).await;
        Sha::parse(&self.git(&["rev-parse", "HEAD"]).await).unwrap()
    }

    /// The daemon's database, opened beside it for reading.
    pub async fn store(&self) -> Store {
        Store::open_beside(&self.daemon.options()).await.unwrap()
    }

    /// Copies the daemon's directory to `target/tmp/<name>`, to be looked at after a failure.
    pub fn keep(&self, name: &str) {
        let to = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&to);
        let done = std::process::Command::new("cp").arg("-a").arg(self.daemon.root()).arg(&to).status();
        println!("kept {}: {done:?}", to.display());
    }

    pub fn statuses(&self, sha: &Sha) -> Vec<PostedStatus> {
        self.sandbox.statuses(&self.repo, sha)
    }
}

/// Looks until `look` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    seconds: u64,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {seconds} s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The only run, when there is one.
pub async fn only_run(store: &Store) -> Option<RunView> {
    let runs = store.list_runs(RunFilter::default(), None, 10).await.unwrap();
    assert!(runs.len() <= 1, "{} runs", runs.len());
    match runs.first() {
        Some(item) => store.run_view(&item.run.id).await.unwrap(),
        None => None,
    }
}

pub async fn attempt(store: &Store, uid: &AttemptUid) -> AttemptRow {
    store.attempt(uid).await.unwrap().unwrap()
}
