//! A daemon that speaks the agents' protocol to the letter and writes down every breach of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use trainyard::agent::protocol::{
    Bootstrap, Finished, HeartbeatAnswer, LogCommitted, Metrics, MetricsStored, PROTOCOL, Spec, Start,
    Started,
};
use trainyard::model::{MetricPoint, Sha};

pub const BOOTSTRAP: &str = "bootstrap-3f9c1a77";
pub const TOKEN: &str = "attempt-token-b41d09e2";
const SOURCE_TOKEN: &str = "source-token-77aa01c3";

#[derive(Default)]
pub struct Seen {
    pub spec: Option<Spec>,
    nonce: Option<String>,
    pub starts: u32,
    pub prepared: u32,
    pub first_prepared: Option<Instant>,
    pub first_start: Option<Instant>,
    /// The bytes, unless only their number is wanted.
    pub log: Vec<u8>,
    pub count_only: bool,
    pub log_len: u64,
    pub log_calls: u32,
    pub first_log: Option<Instant>,
    pub quota: Option<u64>,
    pub points: Vec<MetricPoint>,
    pub params: BTreeMap<String, String>,
    pub artifacts: BTreeMap<String, (Vec<u8>, bool)>,
    /// Bytes of artifacts that were sent.
    pub sent_bytes: usize,
    pub inputs: BTreeMap<String, Vec<u8>>,
    /// By key; the digest that is told with them.
    pub caches: BTreeMap<String, (Vec<u8>, String)>,
    /// Every call about a cache is answered 500.
    pub no_caches: bool,
    pub heartbeats: u32,
    pub cancel: bool,
    /// Every call is answered 410.
    pub ended: bool,
    pub finished: Option<Finished>,
    pub breaches: Vec<String>,
}

pub type Shared = Arc<Mutex<Seen>>;

pub struct Daemon {
    pub url: String,
    /// In PEM, where it speaks TLS.
    pub ca: Option<String>,
    pub seen: Shared,
    pub sha: Sha,
    _repo: TempDir,
}

#[derive(Clone)]
struct App {
    seen: Shared,
    repo: PathBuf,
}

pub fn sh(dir: &Path, script: &str) -> String {
    let out =
        Command::new("sh").args(["-e", "-c", script]).current_dir(dir).env("HOME", dir).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

pub fn spec(sha: &Sha, commands: &[&str]) -> Spec {
    Spec {
        repo: "acme/churn".into(),
        step: "train".into(),
        number: 1,
        sha: sha.clone(),
        setup: Vec::new(),
        commands: commands.iter().map(|c| (*c).to_owned()).collect(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        inputs: Vec::new(),
        resume: Vec::new(),
        artifacts: Vec::new(),
        metric_files: Vec::new(),
        metric_patterns: Vec::new(),
        junit: None,
        checkpoint: None,
        checkpoint_every_ms: 0,
        timeout_ms: 60_000,
        grace_ms: 2_000,
        log_quota_bytes: 1 << 30,
        gpus: Vec::new(),
        caches: Vec::new(),
        cache_write: true,
        cache_bytes: 1 << 30,
        data: Vec::new(),
        transforms: Vec::new(),
        predictions: None,
        ranks: 1,
        feature_bases: BTreeMap::new(),
    }
}

impl Daemon {
    pub async fn start() -> Self {
        Self::start_at(None).await
    }

    /// On loopback, or with the agent listener's own TLS at an address that pods reach.
    pub async fn start_at(host: Option<&str>) -> Self {
        let repo = tempfile::tempdir().unwrap();
        let sha = sh(
            repo.path(),
            "git init -q -b main . && git config user.email a@b && git config user.name n
             git config uploadpack.allowReachableSHA1InWant true
             mkdir data && echo 1,2 > data/x.csv && printf '{\"old\": 1}' > metrics.json && ln -s /etc link
             git add . && git commit -qm first && git rev-parse HEAD",
        );
        let seen = Shared::default();
        let app = App { seen: seen.clone(), repo: repo.path().to_owned() };
        let calls = axum::Router::new()
            .route("/start", post(start))
            .route("/log", post(log))
            .route("/metrics", post(metrics))
            .route("/artifact", put(put_artifact))
            .route("/artifact/{attempt}", get(get_artifact))
            .route("/cache", get(get_cache).put(put_cache))
            .route("/heartbeat", post(heartbeat))
            .route("/finish", post(finish))
            .route("/git/info/refs", get(refs))
            .route("/git/git-upload-pack", post(upload_pack));
        let router = axum::Router::new()
            .nest("/agent/v1/attempts/{uid}", calls)
            .layer(DefaultBodyLimit::max(4 << 20))
            .with_state(app);
        let listener = tokio::net::TcpListener::bind((host.unwrap_or("127.0.0.1"), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (url, ca) = match host {
            None => {
                tokio::spawn(async move { axum::serve(listener, router).await });
                (format!("http://{address}"), None)
            }
            Some(host) => {
                let instance = trainyard::store::Instance::new("test", [7; 32]);
                let tls = trainyard::http::agent_tls::agent_tls(&instance, &[host.to_owned()]).unwrap();
                let limits = trainyard::http::serve::Limits::of("agent");
                let telemetry = Arc::new(trainyard::http::Telemetry::new());
                tokio::spawn(trainyard::http::serve::serve_tls(
                    listener,
                    Some(tls.server),
                    router,
                    limits,
                    telemetry,
                    tokio_util::sync::CancellationToken::new(),
                ));
                (format!("https://{address}"), Some(tls.ca))
            }
        };
        Self { url, ca, seen, sha: Sha::parse(&sha).unwrap(), _repo: repo }
    }

    pub fn will_run(&self, spec: Spec) {
        self.seen.lock().unwrap().spec = Some(spec);
    }
}

fn breach(seen: &mut Seen, what: impl Into<String>) -> Response {
    let what = what.into();
    seen.breaches.push(what.clone());
    (StatusCode::BAD_REQUEST, what).into_response()
}

/// Bearer token, protocol and rank of a call.
fn check(
    seen: &mut Seen,
    headers: &HeaderMap,
    query: &BTreeMap<String, String>,
    token: &str,
) -> Result<(), Response> {
    let shown = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or("");
    if shown != format!("Bearer {token}") {
        seen.breaches.push(format!("token {shown:?}"));
        return Err(StatusCode::UNAUTHORIZED.into_response());
    }
    if query.get("protocol").map(String::as_str) != Some("1")
        || query.get("rank").map(String::as_str) != Some("0")
    {
        return Err(breach(seen, "no protocol or rank"));
    }
    if seen.ended || (seen.finished.is_some() && token == TOKEN) {
        return Err(StatusCode::GONE.into_response());
    }
    Ok(())
}

type Q = Query<BTreeMap<String, String>>;

async fn start(State(app): State<App>, Query(q): Q, headers: HeaderMap, Json(body): Json<Start>) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, BOOTSTRAP) {
        return no;
    }
    if body.preparing {
        seen.prepared += 1;
        seen.first_prepared.get_or_insert_with(Instant::now);
    } else {
        seen.starts += 1;
        seen.first_start.get_or_insert_with(Instant::now);
    }
    if seen.nonce.get_or_insert_with(|| body.nonce.clone()) != &body.nonce {
        return breach(&mut seen, "another nonce");
    }
    let spec = seen.spec.clone().expect("the test says what to run");
    let token = if body.preparing { SOURCE_TOKEN } else { TOKEN };
    Json(Started { token: token.into(), spec }).into_response()
}

async fn log(State(app): State<App>, Query(q): Q, headers: HeaderMap, body: Bytes) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    let offset: u64 = q["offset"].parse().unwrap();
    seen.log_calls += 1;
    seen.first_log.get_or_insert_with(Instant::now);
    let full = seen.quota.is_some_and(|quota| seen.log_len >= quota);
    let answer = |seen: &Seen| Json(LogCommitted { offset: seen.log_len as i64, full });
    if offset != seen.log_len {
        return (StatusCode::CONFLICT, answer(&seen)).into_response();
    }
    if full {
        return answer(&seen).into_response();
    }
    seen.log_len += body.len() as u64;
    if !seen.count_only {
        seen.log.extend_from_slice(&body);
    }
    answer(&seen).into_response()
}

async fn metrics(
    State(app): State<App>,
    Query(q): Q,
    headers: HeaderMap,
    Json(body): Json<Metrics>,
) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    let stored = seen.points.len() as i64;
    if body.first_seq > stored + 1 {
        return breach(&mut seen, format!("points {} after {stored}", body.first_seq));
    }
    let known = (stored + 1 - body.first_seq) as usize;
    seen.points.extend(body.points.into_iter().skip(known));
    seen.params.extend(body.params);
    Json(MetricsStored { seq: seen.points.len() as i64 }).into_response()
}

async fn put_artifact(State(app): State<App>, Query(q): Q, headers: HeaderMap, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, 1 << 30).await;
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    let Ok(bytes) = bytes else { return StatusCode::BAD_REQUEST.into_response() };
    if hex::encode(Sha256::digest(&bytes)) != q["sha256"] {
        return breach(&mut seen, "the artifact's digest is wrong");
    }
    seen.sent_bytes += bytes.len();
    seen.artifacts.insert(q["path"].clone(), (bytes.to_vec(), q["executable"] == "1"));
    StatusCode::NO_CONTENT.into_response()
}

async fn get_artifact(
    State(app): State<App>,
    UrlPath((_, attempt)): UrlPath<(String, String)>,
    Query(q): Q,
    headers: HeaderMap,
) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    match seen.inputs.get(&format!("{attempt}:{}", q["path"])) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn get_cache(State(app): State<App>, Query(q): Q, headers: HeaderMap) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    match seen.caches.get(&q["key"]) {
        _ if seen.no_caches => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some((bytes, digest)) => ([("x-trainyard-sha256", digest.clone())], bytes.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn put_cache(State(app): State<App>, Query(q): Q, headers: HeaderMap, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, 1 << 30).await;
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    let Ok(bytes) = bytes else { return StatusCode::BAD_REQUEST.into_response() };
    if hex::encode(Sha256::digest(&bytes)) != q["sha256"] {
        return breach(&mut seen, "the cache's digest is wrong");
    }
    if seen.caches.contains_key(&q["key"]) {
        return StatusCode::OK.into_response();
    }
    seen.caches.insert(q["key"].clone(), (bytes.to_vec(), q["sha256"].clone()));
    StatusCode::NO_CONTENT.into_response()
}

async fn heartbeat(State(app): State<App>, Query(q): Q, headers: HeaderMap) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    seen.heartbeats += 1;
    Json(HeartbeatAnswer { cancel: seen.cancel }).into_response()
}

async fn finish(
    State(app): State<App>,
    Query(q): Q,
    headers: HeaderMap,
    Json(body): Json<Finished>,
) -> Response {
    let mut seen = app.seen.lock().unwrap();
    if let Err(no) = check(&mut seen, &headers, &q, TOKEN) {
        return no;
    }
    seen.finished = Some(body);
    StatusCode::NO_CONTENT.into_response()
}

fn git(app: &App, headers: &HeaderMap, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Response> {
    use std::io::Write as _;
    let shown = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or("");
    if ![TOKEN, SOURCE_TOKEN].iter().any(|token| shown == format!("Bearer {token}")) {
        app.seen.lock().unwrap().breaches.push("git without the attempt's token".into());
        return Err(StatusCode::UNAUTHORIZED.into_response());
    }
    let version = headers.get("git-protocol").and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut child = Command::new("git")
        .args(["upload-pack", "--stateless-rpc"])
        .args(args)
        .arg(&app.repo)
        .env("GIT_PROTOCOL", version)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ok(child.wait_with_output().unwrap().stdout)
}

async fn refs(State(app): State<App>, headers: HeaderMap) -> Response {
    match git(&app, &headers, &["--advertise-refs"], b"") {
        Ok(out) => {
            let body = [&b"001e# service=git-upload-pack\n0000"[..], &out].concat();
            ([("content-type", "application/x-git-upload-pack-advertisement")], body).into_response()
        }
        Err(no) => no,
    }
}

async fn upload_pack(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    match git(&app, &headers, &[], &body) {
        Ok(out) => ([("content-type", "application/x-git-upload-pack-result")], out).into_response(),
        Err(no) => no,
    }
}

/// An agent process and its directory.
pub struct Agent {
    pub child: tokio::process::Child,
    pub dir: PathBuf,
    _keep: Option<TempDir>,
}

pub fn uid() -> String {
    format!("0190-{}", hex::encode(rand::random::<[u8; 10]>()))
}

impl Agent {
    /// Starts the real binary against `url`.
    pub fn start(url: &str) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().to_owned();
        Self::start_in(url, dir, Some(keep))
    }

    pub fn start_in(url: &str, dir: PathBuf, keep: Option<TempDir>) -> Self {
        let uid = uid();
        let bootstrap = Bootstrap {
            protocol: PROTOCOL,
            url: url.into(),
            uid,
            token: BOOTSTRAP.into(),
            dir: dir.to_string_lossy().into_owned(),
            ca: None,
            ranks: 1,
            rank: 0,
            prepared: None,
            probe: false,
        };
        let path = dir.join("bootstrap.json");
        std::fs::write(&path, serde_json::to_vec(&bootstrap).unwrap()).unwrap();
        let log = std::fs::File::create(dir.join("agent.log")).unwrap();
        let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_trainyard"))
            .args(["agent", "--bootstrap"])
            .arg(&path)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, dir, _keep: keep }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Waits for its end; what it left behind is a failure of the test.
    pub async fn end(&mut self) -> bool {
        let ended = tokio::time::timeout(Duration::from_mins(5), self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("the agent does not end: {}", self.own_log())).unwrap();
        status.success()
    }

    pub fn own_log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }
}

/// Runs one spec to its end and returns what the daemon saw.
pub async fn run(daemon: &Daemon, spec: Spec) -> (Finished, String) {
    daemon.will_run(spec);
    let mut agent = Agent::start(&daemon.url);
    assert!(agent.end().await, "{}", agent.own_log());
    let seen = daemon.seen.lock().unwrap();
    assert_eq!(seen.breaches, Vec::<String>::new());
    let finished = seen.finished.clone().unwrap_or_else(|| panic!("no result: {}", agent.own_log()));
    (finished, String::from_utf8_lossy(&seen.log).into_owned())
}

/// Waits until something is so; a bound on waiting, not a pause.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_mins(1), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Living processes whose command line holds a text.
pub fn processes_with(text: &str) -> Vec<i32> {
    trainyard::agent::proc::all()
        .into_iter()
        .filter(|s| !s.dead() && s.pid != std::process::id() as i32)
        .filter(|s| {
            std::fs::read(format!("/proc/{}/cmdline", s.pid))
                .is_ok_and(|c| String::from_utf8_lossy(&c).replace('\0', " ").contains(text))
        })
        .map(|s| s.pid)
        .collect()
}
