//! What trainyard is measured against, installed and started here: Debian's `webhook`, a FastAPI handler, Prow's hook, Postgres.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::daemon::{SECRET, ports};
use crate::load::Target;

/// Waits until something listens there.
pub async fn until_open(address: SocketAddr) -> anyhow::Result<()> {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(30) {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("nothing listens on {address} after 30 s")
}

pub struct Peer {
    pub name: &'static str,
    /// How many times its rate trainyard should reach.
    pub wanted: f64,
    program: PathBuf,
    kind: Kind,
}

enum Kind {
    Webhook,
    FastApi,
    Prow,
}

pub struct Running {
    pub target: Target,
    pub child: Child,
    _dir: tempfile::TempDir,
    /// Ends with it.
    _around: Option<AbortOnDropHandle<()>>,
}

/// What Prow's hook asks before it listens: who its token belongs to. It takes the deliveries as well that the hook passes on.
async fn around_prow(address: SocketAddr) -> anyhow::Result<AbortOnDropHandle<()>> {
    let app = axum::Router::new().fallback(|| async {
        axum::Json(serde_json::json!({"login": "prow", "id": 1, "email": "prow@localhost"}))
    });
    let listener = tokio::net::TcpListener::bind(address).await?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            eprintln!("what Prow's hook asks cannot be served: {error}");
        }
    })))
}

/// `scripts/bench.sh` installs them and says where by the environment.
pub async fn all() -> anyhow::Result<Vec<Peer>> {
    let mut all = vec![
        Peer { name: "webhook", wanted: 1.0, program: which("webhook").await?, kind: Kind::Webhook },
        Peer {
            name: "FastAPI",
            wanted: 3.0,
            program: std::env::var("TRAINYARD_BENCH_FASTAPI")
                .context(
                    "TRAINYARD_BENCH_FASTAPI names no Python with fastapi and uvicorn; use `make bench`",
                )?
                .into(),
            kind: Kind::FastApi,
        },
    ];
    match std::env::var("TRAINYARD_BENCH_PROW") {
        Ok(program) if Path::new(&program).exists() => {
            all.push(Peer { name: "Prow", wanted: 1.5, program: program.into(), kind: Kind::Prow });
        }
        _ => println!("# Prow's hook is not built here: it is left out"),
    }
    Ok(all)
}

async fn which(name: &str) -> anyhow::Result<PathBuf> {
    let out = Command::new("sh").args(["-c", "command -v \"$0\"", name]).output().await?;
    ensure!(out.status.success(), "{name} is not installed; use `make bench`");
    Ok(String::from_utf8(out.stdout)?.trim().into())
}

impl Peer {
    pub async fn start(&self) -> anyhow::Result<Running> {
        let dir = tempfile::Builder::new().prefix("trainyard-peer-").tempdir()?;
        let [address, other] = ports::<2>()?;
        let put = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = dir.path().join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let mut command = Command::new(&self.program);
        command.current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut around = None;
        let (path, sha1) = match self.kind {
            Kind::Webhook => {
                put("keep.sh", "#!/bin/sh\necho \"$1\" >> kept\n")?;
                let hooks = serde_json::json!([{
                    "id": "main", "execute-command": "/bin/sh", "command-working-directory": dir.path(),
                    "pass-arguments-to-command": [
                        {"source": "string", "name": "keep.sh"},
                        {"source": "header", "name": "X-GitHub-Delivery"}
                    ],
                    "trigger-rule": {"match": {"type": "payload-hmac-sha256", "secret": SECRET,
                        "parameter": {"source": "header", "name": "X-Hub-Signature-256"}}}
                }]);
                let hooks = put("hooks.json", &hooks.to_string())?;
                command.args(["-ip", "127.0.0.1", "-port", &address.port().to_string(), "-hooks"]).arg(hooks);
                ("/hooks/main", false)
            }
            Kind::FastApi => {
                put("handler.py", FASTAPI)?;
                command
                    .args(["-m", "uvicorn", "handler:app", "--log-level", "critical", "--port"])
                    .arg(address.port().to_string())
                    .env("SECRET", SECRET);
                ("/", false)
            }
            Kind::Prow => {
                let config = put("config.yaml", "prowjob_namespace: default\n")?;
                let plugins = put(
                    "plugins.yaml",
                    &format!(
                        "external_plugins:\n  ada/churn:\n  - name: sink\n    endpoint: http://{other}\n    events: [push]\n"
                    ),
                )?;
                let kube = put(
                    "kubeconfig",
                    "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n\
                     contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n",
                )?;
                let secret = put("hmac", SECRET)?;
                let token = put("token", "none")?;
                let [metrics, health] = ports::<2>()?;
                around = Some(around_prow(other).await?);
                command
                    .arg("--dry-run=false")
                    .arg(format!("--github-endpoint=http://{other}"))
                    .arg(format!("--port={}", address.port()))
                    .arg(format!("--config-path={}", config.display()))
                    .arg(format!("--plugin-config={}", plugins.display()))
                    .arg(format!("--kubeconfig={}", kube.display()))
                    .arg(format!("--hmac-secret-file={}", secret.display()))
                    .arg(format!("--github-token-path={}", token.display()))
                    .arg(format!("--metrics-port={}", metrics.port()))
                    .arg(format!("--health-port={}", health.port()));
                ("/hook", true)
            }
        };
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        until_open(address).await?;
        let target = Target { address, path, secret: SECRET.into(), sha1, event: "push" };
        Ok(Running { target, child, _dir: dir, _around: around })
    }
}

const FASTAPI: &str = r#"
import hashlib, hmac, os, sqlite3
from fastapi import FastAPI, Request, Response
app = FastAPI()
db = sqlite3.connect("kept.db", isolation_level=None, check_same_thread=False)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE kept (id TEXT PRIMARY KEY, body BLOB)")
key = os.environ["SECRET"].encode()
@app.post("/")
async def receive(request: Request):
    body = await request.body()
    given = request.headers.get("x-hub-signature-256", "")
    if not hmac.compare_digest("sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest(), given):
        return Response(status_code=401)
    db.execute("INSERT INTO kept VALUES (?, ?)", (request.headers["x-github-delivery"], body))
    return Response(status_code=202)
"#;

/// A Postgres server of this run, as the user `nobody`, with `fsync` on.
pub struct Postgres {
    port: u16,
    child: Child,
    dir: tempfile::TempDir,
}

impl Postgres {
    pub async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("trainyard-pg-").tempdir()?;
        let [address] = ports::<1>()?;
        let bin = std::fs::read_dir("/usr/lib/postgresql")
            .context("Debian's postgresql is not installed")?
            .filter_map(|e| Some(e.ok()?.path().join("bin")))
            .max()
            .context("no version of postgresql")?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        let as_nobody = |program: &str| {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(bin.join(program))
                .current_dir("/")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(dir.path()).status().await?;
        ensure!(owned.success(), "cannot give the folder away: run as root");
        let made = as_nobody("initdb")
            .arg("-D")
            .arg(&data)
            .args(["-U", "bench", "-A", "trust", "--locale=C"])
            .status()
            .await?;
        ensure!(made.success(), "initdb failed");
        let child = as_nobody("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-k"])
            .arg(dir.path())
            .args(["-c", "fsync=on", "-c", "max_connections=200"])
            .kill_on_drop(true)
            .spawn()?;
        until_open(address).await?;
        Ok(Self { port: address.port(), child, dir })
    }

    /// The URL of a database that is made anew.
    pub async fn url(&self, name: &str) -> anyhow::Result<String> {
        for sql in [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")]
        {
            let mut tries = 0;
            while !Command::new("psql")
                .args([
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &self.port.to_string(),
                    "-U",
                    "bench",
                    "-d",
                    "postgres",
                    "-qc",
                    &sql,
                ])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .await?
                .success()
            {
                tries += 1;
                ensure!(tries < 50, "{sql} failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(format!("postgres://bench@127.0.0.1:{}/{name}", self.port))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT is a fast shutdown; the folder goes when the server has let go of it.
        if let Some(pid) = self.child.id() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGINT,
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        let _ = std::fs::remove_dir_all(self.dir.path());
    }
}
