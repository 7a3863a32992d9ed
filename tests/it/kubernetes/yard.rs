//! A forge on this machine, a working tree, and trainyard installed in the cluster by its chart: what the stories are told with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tokio::process::Command;
use trainyard::clock::SystemClock;
use trainyard::model::{AttemptRank, RepoName, Sha};
use trainyard::sandbox::{Sandbox, SandboxOptions, WRITER};
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::RunView;
use trainyard::store::{OpenOptions, Store};

use super::cluster::{PYTHON, cluster};
use super::release::Release;

const SECRET: &str = "the secret of the only hook";

pub struct Yard {
    pub sandbox: Sandbox,
    pub repo: RepoName,
    pub tree: PathBuf,
    pub release: Release,
    pub store: Store,
    _dir: tempfile::TempDir,
}

impl Yard {
    /// Installs the chart with one forge and one pool `gpu` of 8 GPUs; `more` is added to the configuration.
    pub async fn new(more: &str) -> Self {
        let host = tokio::task::spawn_blocking(|| cluster().host.clone()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = SandboxOptions {
            host: host.parse().unwrap(),
            ..SandboxOptions::new(dir.path().join("forge"), Arc::new(SystemClock))
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let repo = RepoName::parse("acme/churn").unwrap();
        sandbox.create_repo(&repo, "main").await.unwrap();
        let (url, token) = (sandbox.url().to_owned(), sandbox.token().expose_secret().to_owned());
        let more = more.to_owned();
        let release = tokio::task::spawn_blocking(move || {
            let mut release = Release::new(&[("token", &token), ("hook-secret", SECRET)]);
            let text = format!(
                "[forge.sandbox]\nkind = \"github\"\nurl = {url:?}\nallow_http = true\ntoken = {{ file = {token:?} }}\n\
                 [[forge.sandbox.hook]]\nid = \"main\"\nsecrets = [{{ file = {secret:?} }}]\nrepository = \"acme/churn\"\n\
                 [pool.gpu]\nexecutor = \"kubernetes\"\ngpus = 8\nslots = 32\ngpu_hour_price = 2.5\n\
                 [pool.gpu.kubernetes]\nimage = \"{PYTHON}\"\nnode_gpus = 8\ndefault_cpu = \"200m\"\ndefault_memory = \"128Mi\"\n{more}",
                token = release.secret_file("token"),
                secret = release.secret_file("hook-secret"),
            );
            let port = url.rsplit(':').next().unwrap().parse().unwrap();
            release.install(&text, &[(&cluster().host, port)]);
            release
        })
        .await
        .unwrap();
        sandbox.set_hook(format!("http://{}:8710/hooks/github/main", release.service("hooks")), SECRET);
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let store = Store::open_beside(&OpenOptions::sqlite(release.database())).await.unwrap();
        let yard = Self { sandbox, repo, tree, release, store, _dir: dir };
        let remote = yard.sandbox.git_url(&yard.repo, WRITER);
        yard.git(&["init", "-q", "-b", "main"]);
        yard.git(&["remote", "add", "origin", &remote]);
        yard
    }

    /// Writes the pipeline file.
    pub fn pipeline(&self, text: &str) {
        std::fs::write(self.tree.join(".trainyard.yaml"), text).unwrap();
    }

    pub fn git(&self, args: &[&str]) -> String {
        let mut command = std::process::Command::new("git");
        command
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@localhost"])
            .args(args)
            .current_dir(&self.tree);
        let out = command.output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub async fn push(&self, branch: &str) -> Sha {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "A change"]);
        let (tree, branch) = (self.tree.clone(), branch.to_owned());
        let pushed = Command::new("git")
            .args(["push", "-q", "-u", "origin", &branch])
            .current_dir(tree)
            .status()
            .await;
        assert!(pushed.unwrap().success());
        Sha::parse(&self.git(&["rev-parse", "HEAD"])).unwrap()
    }

    pub fn tail(&self) -> String {
        self.release.log()
    }

    pub async fn run_of(&self, sha: &Sha) -> Option<RunView> {
        let runs = self.store.list_runs(RunFilter::default(), None, 20).await.unwrap();
        let run = runs.into_iter().find(|item| item.run.head_sha == *sha)?;
        self.store.run_view(&run.run.id).await.unwrap()
    }

    /// Looks until a run is as wanted.
    pub async fn until(&self, sha: &Sha, what: &str, so: impl Fn(&RunView) -> bool) -> RunView {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < Duration::from_mins(3) {
            if let Some(view) = self.run_of(sha).await {
                if so(&view) {
                    return view;
                }
                last = format!(
                    "{} {:?} {:?}",
                    view.run.state,
                    view.run.reason,
                    view.attempts
                        .iter()
                        .map(|a| format!("{} {:?} {}", a.state, a.class, a.reason))
                        .collect::<Vec<_>>()
                );
                assert!(!view.run.state.is_terminal(), "{what}: {last}\n{}", self.tail());
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        panic!("{what} did not come: {last}\n{}", self.tail());
    }

    /// Until the forge has the last word on a commit.
    pub async fn told(&self, sha: &Sha) -> String {
        let began = Instant::now();
        loop {
            let statuses = self.sandbox.statuses(&self.repo, sha);
            if let Some(last) = statuses.last().filter(|s| s.state != "pending") {
                return format!("{}: {}", last.state, last.description.clone().unwrap_or_default());
            }
            assert!(began.elapsed() < Duration::from_mins(1), "no last status\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn log_of(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.release.volume.join("data/blobs").join(key)).unwrap_or_default()
    }

    pub async fn whole_log(&self, of: impl Into<AttemptRank>) -> String {
        let of = of.into();
        // Compacted a moment after the end: read again what was swapped meanwhile.
        for _ in 0..20 {
            let segments = self.store.log_segments(&of, 0, 10_000).await.unwrap();
            let bytes: Vec<u8> = segments.iter().flat_map(|s| self.log_of(&s.blob_key)).collect();
            if bytes.len() as i64 == segments.iter().map(|s| s.bytes).sum::<i64>() {
                return String::from_utf8(bytes).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("the log of {of} cannot be read");
    }
}

/// The demo's project in a tree, with its data: unchanged but for its pool and a GPU for each training.
pub fn example(tree: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/churn");
    for entry in std::fs::read_dir(from).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), tree.join(entry.file_name())).unwrap();
    }
    let customers = std::process::Command::new("python3")
        .args(["data.py", "data/customers.csv"])
        .current_dir(tree)
        .status();
    assert!(customers.unwrap().success());
    let path = tree.join(".trainyard.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let on_pool = text.replace("steps:\n", "defaults: {pool: gpu}\nsteps:\n").replace(
        "    matrix: {seed: [1, 2, 3]}\n",
        "    matrix: {seed: [1, 2, 3]}\n    resources: {gpu: 1}\n",
    );
    assert!(on_pool.matches("gpu").count() == 2);
    std::fs::write(path, on_pool).unwrap();
}
