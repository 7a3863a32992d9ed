//! From a delivery to a running step, and the way of a log: a sandbox forge here, the release daemon beside it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::RngCore;
use secrecy::ExposeSecret;
use tokio::process::Command;
use trainyard::clock::{Clock, SystemClock};
use trainyard::model::RepoName;
use trainyard::sandbox::{Sandbox, SandboxOptions, WRITER};

use crate::daemon::{Daemon, SECRET, Wishes, memory_mib};
use crate::{Line, median};

/// A forge with one repository, the daemon beside it, a working tree that pushes.
pub struct Yard {
    sandbox: Sandbox,
    daemon: Daemon,
    repo: RepoName,
    tree: PathBuf,
    dir: tempfile::TempDir,
}

impl Yard {
    /// `agent_host`: where agents call; loopback without one.
    pub async fn start(more: &str, agent_host: Option<&str>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("trainyard-bench-yard-").tempdir()?;
        let sandbox =
            Sandbox::start(SandboxOptions::new(dir.path().join("forge"), Arc::new(SystemClock))).await?;
        let repo = RepoName::parse("ada/churn")?;
        sandbox.create_repo(&repo, "main").await?;
        let token = sandbox.token();
        let more =
            format!("[[repository]]\nforge = \"github\"\nname = \"ada/churn\"\ntrusted = true\n{more}");
        let mut daemon = Daemon::new(&Wishes {
            forge: Some((sandbox.url(), token.expose_secret())),
            more: &more,
            agent_host,
            ..Wishes::default()
        })?;
        daemon.start().await?;
        sandbox.set_hook(format!("http://{}/hooks/github/main", daemon.hooks), SECRET);
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree)?;
        let yard = Self { sandbox, daemon, repo, tree, dir };
        yard.git(&["init", "-q", "-b", "main"]).await?;
        yard.git(&["config", "user.email", "bench@localhost"]).await?;
        yard.git(&["config", "user.name", "Bench"]).await?;
        yard.git(&["remote", "add", "origin", &yard.sandbox.git_url(&yard.repo, WRITER)]).await?;
        for n in 0..200 {
            std::fs::write(yard.tree.join(format!("file{n}.txt")), format!("{n}\n").repeat(200))?;
        }
        Ok(yard)
    }

    async fn git(&self, args: &[&str]) -> anyhow::Result<String> {
        let out = Command::new("git").args(args).current_dir(&self.tree).output().await?;
        ensure!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }

    /// Pushes a commit with this pipeline file; when the push's delivery was answered, in ms since the epoch.
    pub async fn push(&self, pipeline: &str) -> anyhow::Result<f64> {
        let before = self.sandbox.deliveries().len();
        std::fs::write(self.tree.join(".trainyard.yaml"), pipeline)?;
        self.git(&["add", "-A"]).await?;
        self.git(&["commit", "-q", "--allow-empty", "-m", "A change"]).await?;
        let told = async {
            loop {
                if self.sandbox.deliveries().len() > before {
                    return epoch_ms();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let (pushed, told) = tokio::join!(self.git(&["push", "-q", "origin", "main"]), async {
            tokio::time::timeout(Duration::from_secs(30), told).await
        });
        pushed?;
        told.context("no delivery of the push was answered")
    }

    pub fn rows<T>(
        &self,
        sql: &str,
        read: impl Fn(&rusqlite::Row) -> rusqlite::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let db = rusqlite::Connection::open_with_flags(
            self.daemon.database(),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        )?;
        match db.query_row(sql, [], read) {
            Ok(row) => Ok(Some(row)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn until_ended(&self, runs: i64, patience: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let open = self.rows(
                "SELECT COUNT(*), SUM(state IN ('held', 'queued', 'running')), MAX(state || ': ' || reason) FROM runs",
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<String>>(2)?)),
            )?;
            match open {
                Some((count, Some(0), why)) if count >= runs => {
                    let why = why.unwrap_or_default();
                    ensure!(why.starts_with("succeeded"), "a run ended as {why}");
                    return Ok(());
                }
                _ if since.elapsed() > patience => {
                    bail!("the run does not end within {} s", patience.as_secs())
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Now, by the clock that the commands read too.
fn epoch_ms() -> f64 {
    SystemClock.now_ms() as f64
}

async fn until_file(path: &Path) -> anyhow::Result<f64> {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(30) {
        if let Ok(text) = std::fs::read_to_string(path)
            && let Ok(ns) = text.trim().parse::<f64>()
        {
            return Ok(ns / 1e6);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("{} was not written within 30 s", path.display())
}

/// From the 2xx of a push's delivery to the first line of the step, against a bare clone of the same repository and a start of a
/// shell; pairs side by side.
pub async fn dispatch() -> anyhow::Result<Vec<Line>> {
    const PAIRS: usize = 20;
    let yard = Yard::start("", None).await?;
    let (mut ours, mut stored, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..PAIRS {
        let (mark, clone) =
            (yard.dir.path().join(format!("mark{n}")), yard.dir.path().join(format!("clone{n}")));
        let pipeline =
            format!("version: 1\nname: quick\ntrain: 'echo first; date +%s%N > {}'\n# {n}\n", mark.display());
        let told = yard.push(&pipeline).await?;
        let printed = until_file(&mark).await?;
        yard.until_ended(n as i64 + 1, Duration::from_secs(30)).await?;
        let first = yard
            .rows("SELECT MAX(created_ms) FROM log_segments WHERE start_byte = 0", |row| {
                row.get::<_, f64>(0)
            })?
            .context("no log was stored")?;
        ours.push(printed - told);
        stored.push(first - told);

        let since = Instant::now();
        let cloned = Command::new("git")
            .args(["clone", "-q", "--depth", "1"])
            .arg(format!("file://{}", yard.sandbox.git_dir(&yard.repo).display()))
            .arg(&clone)
            .status()
            .await?;
        ensure!(cloned.success(), "git clone failed");
        let ran =
            Command::new("sh").args(["-c", "date +%s%N >/dev/null"]).current_dir(&clone).status().await?;
        ensure!(ran.success(), "sh failed");
        bare.push(since.elapsed().as_secs_f64() * 1000.0);
        // Off the beat of any loop.
        let pause = u64::from(rand::rng().next_u32() % 500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let (ours, stored, bare) = (median(ours), median(stored), median(bare));
    println!(
        "# bare clone and exec {bare:.0} ms, first line printed after {ours:.0} ms, its bytes stored after {stored:.0} ms"
    );
    let above = ours - bare;
    Ok(vec![Line {
        name: "dispatch.local_ms",
        value: ours,
        unit: "ms",
        ratio: Some(above / 150.0),
        goal: ("at most 150 ms above a bare clone and exec", above <= 150.0),
    }])
}

/// 2 GiB of lines of 100 bytes, one in a thousand with one of 100 secrets, masked on both sides.
pub async fn log() -> anyhow::Result<Vec<Line>> {
    const SECRETS: usize = 100;
    const BYTES: u64 = 2 << 30;
    let secrets: Vec<String> = (0..SECRETS)
        .map(|_| {
            let mut raw = [0u8; 16];
            rand::rng().fill_bytes(&mut raw);
            hex::encode(raw)
        })
        .collect();
    let keep = tempfile::tempdir()?;
    let mut more = String::new();
    for (n, secret) in secrets.iter().enumerate() {
        let file = keep.path().join(format!("s{n}"));
        std::fs::write(&file, secret)?;
        let _ = writeln!(more, "secrets.S{n} = {{ file = {:?} }}", file.display().to_string());
    }
    let _ = writeln!(more, "[limits]\nlog_quota_bytes = {}", 4u64 << 30);
    let yard = Yard::start(&more, None).await?;
    // One MiB of lines, written again and again by `cat`: what makes the lines must not be what is measured.
    let block = keep.path().join("block");
    let mut text = String::new();
    let mut n = 0;
    while text.len() < (1 << 20) {
        let line = if n % 1000 == 0 {
            format!(
                "step {n:>8} the secret of this line is {} and more follows\n",
                secrets[n / 1000 % SECRETS]
            )
        } else {
            format!(
                "step {n:>8} loss=0.{:06} accuracy=0.{:06} learning_rate=0.001 seconds_per_batch=0.{:04} ..........\n",
                n * 7 % 999_983,
                n * 13 % 999_979,
                n % 9973
            )
        };
        text += &line;
        n += 1;
    }
    std::fs::write(&block, &text)?;
    let times = BYTES / text.len() as u64;
    let written = times * text.len() as u64;
    let names: Vec<String> = (0..SECRETS).map(|n| format!("{{name: S{n}}}")).collect();
    let (begun, ended) = (keep.path().join("begun"), keep.path().join("ended"));
    yard.push(&format!(
        "version: 1\nname: loud\nsecrets: [{}]\nsteps:\n  - name: train\n    commands:\n      - |\n        date +%s%N > {}\n        \
         i=0; while [ $i -lt {} ]; do cat {b} {b} {b} {b} {b} {b} {b} {b}; i=$((i+1)); done\n        date +%s%N > {}\n",
        names.join(", "),
        begun.display(),
        times / 8,
        ended.display(),
        b = block.display(),
    ))
    .await?;
    let start = until_file(&begun).await?;
    let mut agent = 0.0_f64;
    let since = Instant::now();
    let (stored, last_ms);
    loop {
        agent = agent.max(agent_peak_mib(yard.daemon.pid()?)?);
        let row = yard.rows("SELECT COALESCE(SUM(log_bytes + log_lost_bytes), 0), COALESCE(SUM(log_lost_bytes), 0), MAX(ended_ms) FROM attempts", |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<f64>>(2)?))
        })?;
        if let Some((bytes, lost, Some(end))) = row {
            ensure!(lost == 0, "{lost} bytes were lost");
            (stored, last_ms) = (bytes as u64, end);
            break;
        }
        ensure!(since.elapsed() < Duration::from_mins(5), "the log does not end within 300 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(agent > 0.0, "no agent was seen, so its memory was not measured");
    let seconds = (last_ms - start) / 1000.0;
    let daemon = memory_mib(yard.daemon.pid()?, "VmHWM")?;
    println!("# {written} bytes written, {stored} stored (secrets masked) in {seconds:.1} s");
    ensure!(stored > written / 2, "only {stored} of {written} bytes were stored");
    let rate = written as f64 / 1e6 / seconds;
    let pipe = bare_pipe(&block, times).await?;
    println!("# the same bytes through a bare pipe: {pipe:.0} MB/s");
    let rss = |name, value: f64| Line {
        name,
        value,
        unit: "MiB",
        ratio: Some(value / 150.0),
        goal: ("at most 150 MiB on 2 GiB", value <= 150.0),
    };
    Ok(vec![
        Line {
            name: "log.mb_per_s",
            value: rate,
            unit: "MB/s",
            ratio: Some(rate / 200.0),
            goal: ("at least 200 MB/s", rate >= 200.0),
        },
        rss("log.daemon_rss_mib", daemon),
        rss("log.agent_rss_mib", agent),
    ])
}

/// The peak of the daemon's agent, found among its descendants' command lines.
fn agent_peak_mib(daemon: u32) -> anyhow::Result<f64> {
    let mut peak = 0.0_f64;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        // By what it was asked to do: the executor starts a copy of the binary under another name.
        let is_agent = words.get(1..3) == Some(&[b"agent".as_slice(), b"--bootstrap".as_slice()]);
        if pid != daemon && is_agent {
            peak = peak.max(memory_mib(pid, "VmHWM").unwrap_or(0.0));
        }
    }
    Ok(peak)
}

async fn bare_pipe(block: &Path, times: u64) -> anyhow::Result<f64> {
    let since = Instant::now();
    let script = format!(
        "i=0; while [ $i -lt {} ]; do cat {b} {b} {b} {b} {b} {b} {b} {b}; i=$((i+1)); done | cat > /dev/null",
        times / 8,
        b = block.display()
    );
    let status = Command::new("sh").args(["-c", &script]).status().await?;
    ensure!(status.success(), "the pipe failed");
    let bytes = times * std::fs::metadata(block)?.len();
    Ok(bytes as f64 / 1e6 / since.elapsed().as_secs_f64())
}
