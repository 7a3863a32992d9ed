//! The release binary as a child process, on files and ports of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

pub const SECRET: &str = "the secret of the benchmark's hook";

pub struct Daemon {
    pub hooks: SocketAddr,
    pub app: SocketAddr,
    ops: SocketAddr,
    config: PathBuf,
    child: Option<Child>,
    dir: tempfile::TempDir,
}

/// What its configuration says beside the usual.
#[derive(Default)]
pub struct Wishes<'a> {
    /// The forge's URL and token; a closed port otherwise.
    pub forge: Option<(&'a str, &'a str)>,
    /// A Postgres URL; SQLite otherwise.
    pub database: Option<&'a str>,
    /// An address where agents call that is not loopback.
    pub agent_host: Option<&'a str>,
    /// Lines for the end of the file.
    pub more: &'a str,
}

/// Free ports of 127.0.0.1, all different.
pub fn ports<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let all: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    all.try_into().map_err(|_| anyhow::anyhow!("no ports"))
}

impl Daemon {
    pub fn new(wishes: &Wishes) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("trainyard-bench-").tempdir()?;
        let [hooks, app, mut agent, ops] = ports::<4>()?;
        if let Some(host) = wishes.agent_host {
            agent = TcpListener::bind((host, 0))?.local_addr()?;
        }
        let file = |name: &str, text: &str| -> anyhow::Result<String> {
            let path = dir.path().join(name);
            std::fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let (url, token) = wishes.forge.unwrap_or(("http://127.0.0.1:9", "a token"));
        let database = wishes.database.map_or(String::new(), |url| format!("database = {url:?}\n"));
        let text = format!(
            "data_dir = {data:?}\npublic_url = \"http://{app}\"\n{database}\
             [listen]\nhooks = \"{hooks}\"\napp = \"{app}\"\nagent = \"{agent}\"\nops = \"{ops}\"\n\
             [forge.github]\nkind = \"github\"\nurl = {url:?}\nallow_http = true\ntoken = {{ file = {token:?} }}\n\
             [[forge.github.hook]]\nid = \"main\"\nsecrets = [{{ file = {secret:?} }}]\nrepository = \"ada/churn\"\n\
             [dashboard]\npublic_read = true\n{more}",
            data = dir.path().join("data").display().to_string(),
            token = file("token", token)?,
            secret = file("secret", SECRET)?,
            more = wishes.more,
        );
        let config = PathBuf::from(file("trainyard.toml", &text)?);
        Ok(Self { hooks, app, ops, config, child: None, dir })
    }

    pub fn database(&self) -> PathBuf {
        self.dir.path().join("data/trainyard.db")
    }

    /// Starts it and waits until it is ready; how long that took.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let since = Instant::now();
        let child = Command::new(binary()?)
            .args(["serve", "--config"])
            .arg(&self.config)
            .env("RUST_LOG", "warn")
            // Nobody takes backtraces of a daemon's errors.
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.child = Some(child);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let url = format!("http://{}/readyz", self.ops);
        while since.elapsed() < Duration::from_mins(2) {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                bail!("the daemon ended with {status}: {}", std::fs::read_to_string(self.log())?);
            }
            if http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
                return Ok(since.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the daemon is not ready after 120 s")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.as_ref().and_then(Child::id).context("it does not run")
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id() {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGTERM,
            )?;
        }
        tokio::time::timeout(Duration::from_secs(30), child.wait()).await.context("it does not end")??;
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }
}

fn binary() -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_trainyard"));
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}

/// A line of `/proc/<pid>/status` in MiB: `VmHWM` is the peak, `VmRSS` what is resident now.
pub fn memory_mib(pid: u32, line: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'))
        .and_then(|v| v.trim().trim_end_matches(" kB").trim().parse().ok())
        .with_context(|| format!("no {line} of process {pid}"))?;
    Ok(kib / 1024.0)
}

/// Processor time of a process so far, in seconds.
pub fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).context("no such field");
    // utime and stime are fields 14 and 15 of proc_pid_stat(5); two stand before the state.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
