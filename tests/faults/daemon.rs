//! `trainyard serve` as a child process that may be killed and started again on the same files.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use trainyard::forge::webhook::github::sign;
use trainyard::store::OpenOptions;

pub const SECRET: &str = "the secret of the only hook";

/// A closed port.
pub const NO_FORGE: &str = "http://127.0.0.1:9";

pub struct Daemon {
    pub hooks: SocketAddr,
    pub ops: SocketAddr,
    #[allow(dead_code, reason = "used where this file is shared")]
    pub app: SocketAddr,
    pub http: reqwest::Client,
    config: PathBuf,
    child: Option<Child>,
    /// Of a database that is not its own SQLite file.
    postgres: Option<OpenOptions>,
    /// Set for the next start.
    pub env: Vec<(&'static str, String)>,
    /// A command that starts it, before its own.
    pub under: String,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// Its forge is a closed port: enough for deliveries that lead to no call.
    pub fn new() -> Self {
        Self::of_forge(NO_FORGE, "a-token-of-the-forge")
    }

    /// Writes its configuration; starts nothing. The ports are free ones, kept over restarts. The hook is that of
    /// `ada/churn`, whose code may run without a user of its own.
    pub fn of_forge(url: &str, forge_token: &str) -> Self {
        Self::configured("github", url, forge_token, "", "")
    }

    /// The same with more tables of its configuration.
    #[allow(dead_code, reason = "used where this file is shared")]
    pub fn with(url: &str, forge_token: &str, more: &str) -> Self {
        Self::configured("github", url, forge_token, "", more)
    }

    /// The same at a forge of another kind.
    #[allow(dead_code, reason = "used where this file is shared")]
    pub fn of_kind(kind: &str, url: &str, forge_token: &str) -> Self {
        Self::configured(kind, url, forge_token, "", "")
    }

    /// On a Postgres database; `more` are tables of its configuration.
    pub fn on_postgres(options: &OpenOptions, url: &str, forge_token: &str, keys: &str, more: &str) -> Self {
        let pooler = if options.pooled { "database_pooler = \"transaction\"\n" } else { "" };
        let keys = format!("database = {:?}\n{pooler}{keys}", options.url);
        let mut daemon = Self::configured("github", url, forge_token, &keys, more);
        daemon.postgres = Some(options.clone());
        daemon
    }

    fn configured(kind: &str, url: &str, forge_token: &str, keys: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // All four are held until all are known, so that they differ.
        let held: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [hooks, app, agent, ops] = [0, 1, 2, 3].map(|n| held[n].local_addr().unwrap());
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let text = format!(
            "data_dir = {data:?}\n{keys}public_url = \"http://{app}\"\n\
             [listen]\nhooks = \"{hooks}\"\napp = \"{app}\"\nagent = \"{agent}\"\nops = \"{ops}\"\n\
             [forge.{kind}]\nkind = \"{kind}\"\nurl = {url:?}\nallow_http = true\ntoken = {{ file = {token:?} }}\n\
             [[forge.{kind}.hook]]\nid = \"main\"\nsecrets = [{{ file = {secret:?} }}]\nrepository = \"ada/churn\"\n\
             [[repository]]\nforge = \"{kind}\"\nname = \"ada/churn\"\ntrusted = true\n{more}",
            data = dir.path().join("data").display().to_string(),
            token = write("token", forge_token),
            secret = write("secret", SECRET),
        );
        let config = PathBuf::from(write("trainyard.toml", &text));
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        Self {
            hooks,
            ops,
            app,
            http,
            config,
            child: None,
            postgres: None,
            env: Vec::new(),
            under: String::new(),
            dir,
        }
    }

    /// How to open its database beside it.
    pub fn options(&self) -> OpenOptions {
        self.postgres.clone().unwrap_or_else(|| OpenOptions::sqlite(self.database()))
    }

    pub fn database(&self) -> PathBuf {
        self.dir.path().join("data/trainyard.db")
    }

    /// What the dashboard's listener answers to its administrator.
    #[allow(dead_code, reason = "used where this file is shared")]
    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let token = std::fs::read_to_string(self.dir.path().join("data/admin.token")).unwrap();
        let url = format!("http://{}{path}", self.app);
        let answer = self.http.get(&url).bearer_auth(token.trim()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.bytes().await.unwrap().to_vec()
    }

    #[allow(dead_code, reason = "used where this file is shared")]
    pub async fn api(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.bytes(path).await).unwrap()
    }

    /// Posts to the API as its administrator; the answer.
    #[allow(dead_code, reason = "used where this file is shared")]
    pub async fn post(&self, path: &str) -> serde_json::Value {
        let token = std::fs::read_to_string(self.dir.path().join("data/admin.token")).unwrap();
        let url = format!("http://{}{path}", self.app);
        let answer = self.http.post(&url).bearer_auth(token.trim()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// The same; nothing where a log was compacted meanwhile.
    #[allow(dead_code, reason = "used where this file is shared")]
    pub fn try_blob(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join("data/blobs").join(key)).unwrap_or_default()
    }

    /// The bytes behind a key of the blob store.
    pub fn blob(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join("data/blobs").join(key)).unwrap()
    }

    /// Starts it and waits until it is ready; how long that took.
    pub async fn start(&mut self) -> Duration {
        self.start_with_files(None).await
    }

    /// The same with at most so many open files.
    pub async fn start_with_files(&mut self, files: Option<u32>) -> Duration {
        let since = Instant::now();
        self.spawn(files);
        if let Err(why) = self.ready().await {
            panic!("{why}:\n{}", tail(&self.log()));
        }
        since.elapsed()
    }

    fn spawn(&mut self, files: Option<u32>) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let limit = files.map_or(String::new(), |n| format!("ulimit -n {n} && "));
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{limit}exec {} \"$0\" serve --config \"$1\"", self.under))
            .arg(env!("CARGO_BIN_EXE_trainyard"))
            .arg(&self.config)
            .envs(self.env.drain(..))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until it takes requests.
    async fn ready(&mut self) -> Result<(), String> {
        let since = Instant::now();
        let url = format!("http://{}/readyz", self.ops);
        while since.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.as_mut().expect("it was started").try_wait().unwrap() {
                return Err(format!("the daemon ended with {status}"));
            }
            if self.http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the daemon is not ready after 30 s".into())
    }

    /// Starts it; false when it ended before it was ready.
    pub async fn try_start(&mut self) -> bool {
        self.spawn(None);
        self.ready().await.is_ok()
    }

    /// Has it ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// SIGTERM, and waits until it ended; how long that took and whether it ended well.
    pub async fn terminate(&mut self) -> (Duration, bool) {
        let since = Instant::now();
        let mut child = self.child.take().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(child.id().expect("it runs") as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status =
            tokio::time::timeout(Duration::from_secs(30), child.wait()).await.expect("it ends").unwrap();
        (since.elapsed(), status.success())
    }

    /// Posts a signed delivery of a kind that needs no call to the forge. None: no answer.
    pub async fn deliver(&self, id: &str) -> Option<u16> {
        post(&self.http, self.hooks, id).await
    }
}

/// Agents outlive a daemon that is killed and go on asking for it; with its files it is gone for good.
impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(dir) = self.dir.path().to_str() else { return };
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            if words.next().is_some_and(|program| program.starts_with(dir.as_bytes()))
                && words.next() == Some(b"agent")
            {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

pub async fn post(http: &reqwest::Client, hooks: SocketAddr, id: &str) -> Option<u16> {
    let body = format!(
        r#"{{"action":"started","note":"{}","repository":{{"id":42,"full_name":"ada/churn","name":"churn","default_branch":"main","owner":{{"login":"ada","id":7}}}},"sender":{{"id":7,"login":"ada"}}}}"#,
        "x".repeat(8000)
    );
    let sent = http
        .post(format!("http://{hooks}/hooks/github/main"))
        .header("content-type", "application/json")
        .header("x-github-event", "watch")
        .header("x-github-delivery", id)
        .header("x-hub-signature-256", sign(SECRET.as_bytes(), body.as_bytes()))
        .body(body)
        .send()
        .await;
    sent.ok().map(|answer| answer.status().as_u16())
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
