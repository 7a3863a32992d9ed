//! The agents' listener: the calls of `agent::protocol`, and their git.
//!
//! An attempt's token is derived from this installation's key, the attempt's uid and the nonce of its first `start`: nothing secret is
//! stored, a repeated `start` gets the same answer, and every call is fenced to its own attempt (promise G5). Secrets are
//! served by `start` alone, and not once the attempt was heard after it.
//!
//! Must not: believe an agent about anything but its own attempt, or decide what follows from what it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::git_proxy::{GitProxy, REQUEST_BYTES};
use super::live::Hint;
use super::serve::{Limits, serve};
use super::telemetry::CallLabels;
use super::{App, artifact_path, logs, spec};
use crate::agent::mask::Masker;
use crate::agent::protocol::{
    Finished, Heartbeat, HeartbeatAnswer, LogCommitted, Metrics, MetricsStored, PROTOCOL, Start, Started,
};
use crate::blob::{BlobError, key};
use crate::forge::GitAccess;
use crate::model::{AttemptState, AttemptUid, EndClass, MetricPoint};
use crate::store::StoreError;
use crate::store::attempts::{ArtifactRow, AttemptRow, Finish, LogAppend};
use crate::store::pulls::RepoRow;

/// Largest chunk of a log, and largest JSON body.
const CHUNK_BYTES: usize = 4 << 20;
const ARTIFACT_BYTES: u64 = 64 << 30;
/// Whole body of an ordinary call.
const BODY_DEADLINE: Duration = Duration::from_mins(2);
/// Between two pieces of an artifact.
const UPLOAD_IDLE: Duration = Duration::from_mins(1);
/// Longest metric or parameter name, in bytes.
const NAME_BYTES: usize = 250;
/// Longest parameter value, in bytes; longer ones are cut.
const PARAM_BYTES: usize = 8 << 10;

/// Serves until `shutdown` is cancelled. Agents try again meanwhile: trainings outlive the daemon.
///
/// # Errors
/// The TLS settings of this machine cannot be used for git.
pub async fn serve_agents(
    listener: TcpListener,
    app: App,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let telemetry = Arc::clone(&app.telemetry);
    serve(listener, router(app)?, Limits::of("agent"), telemetry, shutdown).await;
    Ok(())
}

#[derive(Clone)]
struct Api {
    app: App,
    git: GitProxy,
}

/// # Errors
/// The TLS settings of this machine cannot be used for git.
pub fn router(app: App) -> anyhow::Result<Router> {
    let api = Api { app, git: GitProxy::new()? };
    let calls = Router::new()
        .route("/start", post(start))
        .route("/log", post(log))
        .route("/metrics", post(metrics))
        .route("/artifact", put(put_artifact))
        .route("/artifact/{producer}", get(get_artifact))
        .route("/heartbeat", post(heartbeat))
        .route("/finish", post(finish))
        .route("/git/info/refs", get(git_refs))
        .route("/git/git-upload-pack", post(git_upload_pack));
    Ok(Router::new()
        .nest("/agent/v1/attempts/{uid}", calls)
        .fallback(|| async { CallError::new(StatusCode::NOT_FOUND, "there is no such call in version 1") })
        .layer(from_fn_with_state(api.clone(), count))
        .with_state(api))
}

async fn count(
    State(api): State<Api>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let call = matched
        .as_ref()
        .and_then(|m| m.as_str().split_once("{uid}/"))
        .map_or("other", |(_, call)| call)
        .to_owned();
    let response = next.run(request).await;
    let labels = CallLabels { call, status: response.status().as_u16() };
    api.app.telemetry.agent_calls.get_or_create(&labels).inc();
    response
}

/// A call that is not served, as the protocol's table of statuses says.
#[derive(Debug)]
struct CallError {
    status: StatusCode,
    message: String,
}

impl CallError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
    fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "this is not, or no longer, the token of this attempt")
    }
    fn gone() -> Self {
        Self::new(StatusCode::GONE, "the attempt has ended")
    }
    fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon cannot store anything at the moment; try again",
        )
    }
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "cannot serve an agent");
        Self::unavailable()
    }
}

impl From<BlobError> for CallError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing(_) => Self::new(StatusCode::NOT_FOUND, "its bytes are no longer kept"),
            BlobError::TooLarge(limit) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("an artifact may have {limit} bytes"))
            }
            BlobError::Sender(message) => Self::bad(format!("the body broke off: {message}")),
            BlobError::Unavailable(_) => {
                tracing::error!(%error, "cannot serve an agent");
                Self::unavailable()
            }
        }
    }
}

impl From<logs::LogError> for CallError {
    fn from(error: logs::LogError) -> Self {
        match error {
            logs::LogError::Store(error) => error.into(),
            logs::LogError::Blob(error) => error.into(),
            logs::LogError::Hole { .. } => {
                tracing::error!(%error, "cannot serve an agent");
                Self::unavailable()
            }
        }
    }
}

type Answer<T> = Result<T, CallError>;

/// `?protocol=1&rank=0` of every call but git's.
#[derive(Debug, Deserialize)]
struct Version {
    #[serde(default = "one")]
    protocol: u32,
    #[serde(default)]
    rank: u32,
}

fn one() -> u32 {
    PROTOCOL
}

impl Version {
    fn check(&self) -> Answer<()> {
        if self.protocol != PROTOCOL {
            return Err(CallError::bad(format!(
                "protocol {} is not spoken by this daemon; it speaks {PROTOCOL}",
                self.protocol
            )));
        }
        if self.rank != 0 {
            return Err(CallError::bad("this daemon runs attempts of one rank"));
        }
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Answer<&str> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .ok_or_else(CallError::unauthorized)?;
    let (scheme, token) = value.split_once(' ').ok_or_else(CallError::unauthorized)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(CallError::unauthorized()) }
}

fn token_of(app: &App, uid: &AttemptUid, nonce: &str) -> String {
    hex::encode(app.instance.derive("attempt-token", &[uid.as_str(), nonce]))
}

fn equal(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// An attempt whose token was shown, whatever its state.
async fn known(app: &App, uid: &str, headers: &HeaderMap) -> Answer<AttemptRow> {
    let shown = bearer(headers)?;
    let row = app.store.attempt(&AttemptUid::from_text(uid)).await?.ok_or_else(CallError::unauthorized)?;
    if row.bootstrap_nonce.is_empty() || !equal(shown, &token_of(app, &row.uid, &row.bootstrap_nonce)) {
        return Err(CallError::unauthorized());
    }
    Ok(row)
}

/// An attempt whose token was shown and which has not ended. The first such call seals it.
async fn open(app: &App, uid: &str, headers: &HeaderMap) -> Answer<AttemptRow> {
    let row = known(app, uid, headers).await?;
    if row.state == AttemptState::Ended {
        return Err(CallError::gone());
    }
    if !row.sealed {
        app.store.agent_heartbeat(&row.uid, app.clock.now_ms()).await?.ok_or_else(CallError::gone)?;
    }
    Ok(row)
}

async fn repo_of(app: &App, attempt: &AttemptRow) -> Answer<RepoRow> {
    let run = app.store.run(&attempt.run_id).await?;
    let repo = match run {
        Some(run) => app.store.repo(&run.repo_id).await?,
        None => None,
    };
    repo.ok_or_else(|| {
        tracing::error!(attempt.uid = %attempt.uid, "an attempt without a run or repository");
        CallError::unavailable()
    })
}

/// What hides the secrets of the attempt's repository.
async fn masker(app: &App, attempt: &AttemptRow) -> Answer<Option<Masker>> {
    let repo = repo_of(app, attempt).await?;
    Ok(app.secrets.masker(&repo.forge, repo.name.as_str()).cloned())
}

async fn whole(body: Body, limit: usize) -> Answer<Bytes> {
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(CallError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {limit} bytes"),
        )),
        Ok(Err(_)) => Err(CallError::bad("the body broke off")),
        Err(_) => Err(CallError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

async fn parsed<T: DeserializeOwned>(body: Body) -> Answer<T> {
    let bytes = whole(body, CHUNK_BYTES).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CallError::bad(format!("the body is not what this call takes: {error}")))
}

async fn start(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    version.check()?;
    let hash = hex::encode(Sha256::digest(bearer(&headers)?));
    let start: Start = parsed(body).await?;
    if !(16..=128).contains(&start.nonce.len())
        || !start.nonce.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err(CallError::bad("the nonce must have 16 to 128 letters, digits and `-`"));
    }
    let uid = AttemptUid::from_text(uid);
    let now = app.clock.now_ms();
    let started = app.store.agent_start(&uid, &hash, &start.nonce, now).await?;
    crate::failpoint::hit("agent.start.after");
    let row = app.store.attempt(&uid).await?.ok_or_else(CallError::unauthorized)?;
    if !started {
        let ended = row.state == AttemptState::Ended && equal(&row.bootstrap_hash, &hash);
        return Err(if ended { CallError::gone() } else { CallError::unauthorized() });
    }
    let view = app.store.run_view(&row.run_id).await?.ok_or_else(CallError::gone)?;
    let repo = repo_of(&app, &row).await?;
    let mut artifacts = Vec::new();
    if let Ok(step) = spec::step_of(&view, &row) {
        for (_, producer) in spec::producers(&view, step) {
            artifacts.extend(app.store.artifacts_of_attempt(&producer).await?);
        }
    }
    let secrets = app.secrets.of_repository(&repo.forge, repo.name.as_str());
    let spec = match spec::build(&view, &row, &repo, &artifacts, secrets, &app.config) {
        Ok(spec) => spec,
        Err(why) => {
            let finish = Finish {
                class: EndClass::Failed,
                exit_code: None,
                reason: why.to_string(),
                outputs: BTreeMap::new(),
                notes: Vec::new(),
                log_lost_bytes: 0,
            };
            app.store.agent_finish(&uid, finish, now).await?;
            app.live.tell(Hint::Run(row.run_id));
            return Err(CallError::new(StatusCode::GONE, why.to_string()));
        }
    };
    tracing::info!(attempt.uid = %uid, run.id = %row.run_id, agent.version = start.version, agent.pid = start.pid, "attempt started");
    app.live.tell(Hint::Run(row.run_id.clone()));
    let mut response = Json(Started { token: token_of(&app, &uid, &start.nonce), spec }).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[derive(Debug, Deserialize)]
struct LogQuery {
    offset: i64,
    #[serde(flatten)]
    version: Flat,
}

/// [`Version`] beside other parameters: a flattened query holds text alone.
#[derive(Debug, Deserialize)]
struct Flat {
    protocol: Option<String>,
    rank: Option<String>,
}

impl Flat {
    fn check(&self) -> Answer<()> {
        let number = |text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| CallError::bad("protocol and rank are numbers")),
        };
        Version { protocol: number(&self.protocol, PROTOCOL)?, rank: number(&self.rank, 0)? }.check()
    }
}

async fn log(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    query.version.check()?;
    let row = open(&app, &uid, &headers).await?;
    let quota = app.config.limits.log_quota_bytes;
    let answer =
        |status, offset| Ok((status, Json(LogCommitted { offset, full: offset >= quota })).into_response());
    if query.offset != row.log_bytes {
        return answer(StatusCode::CONFLICT, row.log_bytes);
    }
    let mut bytes = whole(body, CHUNK_BYTES).await?;
    bytes.truncate(usize::try_from((quota - query.offset).max(0)).unwrap_or(usize::MAX));
    if bytes.is_empty() {
        return answer(StatusCode::OK, row.log_bytes);
    }
    let masker = masker(&app, &row).await?;
    // In a task of its own: a client that leaves must not leave a blob without its row.
    let stored =
        tokio::spawn(async move { logs::append(&app, masker.as_ref(), &row.uid, query.offset, bytes).await });
    match stored.await.map_err(|_| CallError::unavailable())?? {
        LogAppend::Committed { offset } => answer(StatusCode::OK, offset),
        LogAppend::Conflict { committed } => answer(StatusCode::CONFLICT, committed),
        LogAppend::Refused => Err(CallError::gone()),
    }
}

async fn metrics(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<MetricsStored>> {
    version.check()?;
    let row = open(&app, &uid, &headers).await?;
    let batch: Metrics = parsed(body).await?;
    if batch.first_seq < 1 {
        return Err(CallError::bad("points are numbered from 1"));
    }
    let masker = masker(&app, &row).await?;
    let hide = |text: String| masker.as_ref().map_or(text.clone(), |m| m.mask_str(&text));
    let points: Vec<MetricPoint> = batch
        .points
        .into_iter()
        .map(|point| MetricPoint { name: cut(hide(point.name), NAME_BYTES), ..point })
        .collect();
    let params: BTreeMap<String, String> = batch
        .params
        .into_iter()
        .map(|(name, value)| (cut(hide(name), NAME_BYTES), cut(hide(value), PARAM_BYTES)))
        .collect();
    let stored =
        app.store.record_metrics(&row.uid, batch.first_seq, points, params, app.clock.now_ms()).await?;
    let seq = stored.ok_or_else(CallError::gone)?;
    app.live.tell(Hint::Run(row.run_id));
    Ok(Json(MetricsStored { seq }))
}

/// At most `bytes` of the text, cut between characters.
fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let at = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
    }
    text
}

#[derive(Debug, Deserialize)]
struct ArtifactQuery {
    path: String,
    #[serde(default)]
    sha256: String,
    /// `1`: its owner may execute it.
    #[serde(default)]
    executable: String,
    #[serde(flatten)]
    version: Flat,
}

async fn put_artifact(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<ArtifactQuery>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    query.version.check()?;
    let row = open(&app, &uid, &headers).await?;
    let refused = |message: String| CallError::new(StatusCode::UNPROCESSABLE_ENTITY, message);
    let path = artifact_path::normalise(&query.path)
        .map_err(|why| refused(format!("the artifact's path {:?} {why}", cut(query.path.clone(), 200))))?;
    if query.sha256.len() != 64
        || !query.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err(CallError::bad("sha256 must be 64 lower-case hexadecimal digits"));
    }
    if masker(&app, &row).await?.is_some_and(|m| m.mask_str(&path) != path) {
        return Err(refused("the artifact's path holds a secret".into()));
    }
    let upload = key::upload(&row.uid, rand::random());
    let pieces = stream::unfold(body.into_data_stream(), |mut pieces| async move {
        match tokio::time::timeout(UPLOAD_IDLE, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), pieces)),
            Ok(Some(Err(error))) => Some((Err(error.to_string()), pieces)),
            Ok(None) => None,
            Err(_) => Some((Err("nothing arrived for 60 s".to_owned()), pieces)),
        }
    });
    let written = app.blobs.put_stream(&upload, pieces, ARTIFACT_BYTES).await?;
    // In a task of its own: a client that leaves must not leave a blob without its row.
    let kept = tokio::spawn(async move {
        if written.sha256 != query.sha256 {
            app.blobs.delete(&[upload]).await?;
            return Err(refused(format!(
                "the body has the digest {}, not the one announced",
                written.sha256
            )));
        }
        let blob_key = key::artifact(&row.uid, &written.sha256);
        app.blobs.rename(&upload, &blob_key).await?;
        let artifact = ArtifactRow {
            attempt_uid: row.uid.clone(),
            path,
            bytes: written.bytes as i64,
            sha256: written.sha256,
            executable: matches!(query.executable.as_str(), "1" | "true"),
            blob_key: blob_key.clone(),
        };
        crate::failpoint::hit("agent.artifact.before");
        if app.store.put_artifact(artifact, app.clock.now_ms()).await? {
            app.telemetry.artifact_bytes.inc_by(written.bytes);
            return Ok(StatusCode::NO_CONTENT);
        }
        let rows = app.store.artifacts_of_attempt(&row.uid).await?;
        if rows.iter().all(|other| other.blob_key != blob_key) {
            app.blobs.delete(&[blob_key]).await?;
        }
        Err(CallError::gone())
    });
    kept.await.map_err(|_| CallError::unavailable())?
}

async fn get_artifact(
    State(Api { app, .. }): State<Api>,
    Path((uid, producer)): Path<(String, String)>,
    Query(query): Query<ArtifactQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    query.version.check()?;
    let row = open(&app, &uid, &headers).await?;
    let missing = || CallError::new(StatusCode::NOT_FOUND, "this attempt has no such input");
    let view = app.store.run_view(&row.run_id).await?.ok_or_else(CallError::gone)?;
    let step = spec::step_of(&view, &row).map_err(|_| missing())?;
    let producer = AttemptUid::from_text(producer);
    if spec::producers(&view, step).iter().all(|(_, uid)| *uid != producer) {
        return Err(missing());
    }
    let artifacts = app.store.artifacts_of_attempt(&producer).await?;
    let artifact = artifacts.into_iter().find(|a| a.path == query.path).ok_or_else(missing)?;
    let bytes = app.blobs.stream(&artifact.blob_key).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, artifact.bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

async fn heartbeat(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<HeartbeatAnswer>> {
    version.check()?;
    let row = known(&app, &uid, &headers).await?;
    let _: Heartbeat = parsed(body).await?;
    match app.store.agent_heartbeat(&row.uid, app.clock.now_ms()).await? {
        Some(cancel) => Ok(Json(HeartbeatAnswer { cancel })),
        None => Err(CallError::gone()),
    }
}

async fn finish(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    version.check()?;
    let row = known(&app, &uid, &headers).await?;
    let said: Finished = parsed(body).await?;
    let masker = masker(&app, &row).await?;
    let hide = |text: String| masker.as_ref().map_or(text.clone(), |m| m.mask_str(&text));
    let finish = Finish {
        class: said.class,
        exit_code: said.exit_code,
        reason: cut(hide(said.reason), 2000),
        outputs: said
            .outputs
            .into_iter()
            .map(|(name, value)| (cut(hide(name), NAME_BYTES), cut(hide(value), PARAM_BYTES)))
            .collect(),
        notes: said.notes.into_iter().take(100).map(|note| cut(hide(note), 500)).collect(),
        log_lost_bytes: said.log_lost_bytes.max(0),
    };
    crate::failpoint::hit("agent.finish.before");
    let finished = app.store.agent_finish(&row.uid, finish, app.clock.now_ms()).await?;
    crate::failpoint::hit("agent.finish.after");
    if !finished {
        // A repeat of the word that ended it is fine; an end by someone else came first otherwise.
        let again = app.store.attempt(&row.uid).await?.is_some_and(|row| row.finished_ms.is_some());
        return if again { Ok(StatusCode::NO_CONTENT) } else { Err(CallError::gone()) };
    }
    app.live.tell(Hint::Log(row.uid.clone()));
    app.live.tell(Hint::Run(row.run_id));
    // Not needed for the result, and safe to lose: segments are as readable as one blob.
    tokio::spawn(async move {
        if let Err(error) = logs::compact(&app, &row.uid).await {
            tracing::warn!(attempt.uid = %row.uid, %error, "cannot compact a log; its segments stay");
        }
    });
    Ok(StatusCode::NO_CONTENT)
}

async fn git_access(app: &App, attempt: &AttemptRow) -> Answer<GitAccess> {
    let repo = repo_of(app, attempt).await?;
    let forge = app.forges.get(&repo.forge).ok_or_else(|| {
        CallError::new(StatusCode::BAD_GATEWAY, format!("the forge {:?} is no longer configured", repo.forge))
    })?;
    Ok(forge.git(&repo.name))
}

#[derive(Debug, Deserialize)]
struct ServiceQuery {
    #[serde(default)]
    service: String,
}

async fn git_refs(
    State(Api { app, git }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<ServiceQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let row = open(&app, &uid, &headers).await?;
    if query.service != "git-upload-pack" {
        return Err(CallError::new(StatusCode::FORBIDDEN, "the source is read-only: git-upload-pack alone"));
    }
    Ok(git.info_refs(&git_access(&app, &row).await?, &headers).await)
}

async fn git_upload_pack(
    State(Api { app, git }): State<Api>,
    Path(uid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let row = open(&app, &uid, &headers).await?;
    let body = whole(body, REQUEST_BYTES).await?;
    let run = app.store.run(&row.run_id).await?.ok_or_else(CallError::gone)?;
    Ok(git.upload_pack(&git_access(&app, &row).await?, &headers, body, &[run.head_sha]).await)
}
