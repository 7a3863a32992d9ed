//! The agents' listener: the calls of `agent::protocol`, and their git.
//!
//! An attempt's token is derived from this installation's key, the attempt's uid and the nonce of its first `start`: nothing secret is
//! stored, a repeated `start` gets the same answer, and every call is fenced to its own attempt (promise G5). Secrets are
//! served by `start` alone, and not once the attempt was heard after it.
//!
//! Of an attempt of several pods each rank has a bootstrap and a token of its own, which say which rank they are; a call that claims
//! another is refused. What the step leaves (artifacts, checkpoints, caches, outputs) is taken from rank 0 alone.
//!
//! Must not: believe an agent about anything but its own attempt, or decide what follows from what it says.

mod artifacts;
mod baseline;
mod caches;
mod caller;
mod checkpoint;
mod error;
mod life;
mod said;
mod source;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::caller::{bearer, equal, known, open, open_source, source_token_of, token_of};
use self::error::CallError;
use super::App;
use super::agent_tls::AgentTls;
use super::git_proxy::GitProxy;
use super::serve::{Limits, serve_tls};
use super::telemetry::CallLabels;
use crate::agent::mask::Masker;
use crate::agent::protocol::PROTOCOL;
use crate::store::attempts::AttemptRow;
use crate::store::pulls::RepoRow;

/// Largest chunk of a log, and largest JSON body.
const CHUNK_BYTES: usize = 4 << 20;
/// What comes in smaller pieces is put together.
const PIECE_BYTES: usize = 16 << 10;
/// Whole body of an ordinary call.
const BODY_DEADLINE: Duration = Duration::from_mins(2);
/// Longest metric or parameter name, in bytes.
const NAME_BYTES: usize = 250;
/// Longest parameter value, in bytes; longer ones are cut.
const PARAM_BYTES: usize = 8 << 10;

type Answer<T> = Result<T, CallError>;

/// Serves until `shutdown` is cancelled. Agents try again meanwhile: trainings outlive the daemon.
///
/// # Errors
/// The TLS settings of this machine cannot be used for git.
pub async fn serve_agents(
    listener: TcpListener,
    tls: Option<AgentTls>,
    app: App,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let telemetry = Arc::clone(&app.telemetry);
    let tls = tls.map(|tls| tls.server);
    serve_tls(listener, tls, router(app)?, Limits::of("agent"), telemetry, shutdown).await;
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
    let api = Api { app, git: GitProxy };
    let calls = Router::new()
        .route("/start", post(life::start))
        .route("/log", post(said::log))
        .route("/metrics", post(said::metrics))
        .route("/artifact", put(artifacts::put_artifact))
        .route("/artifact/{producer}", get(artifacts::get_artifact))
        .route("/cache", get(caches::get_cache).put(caches::put_cache))
        .route("/heartbeat", post(life::heartbeat))
        .route("/finish", post(life::finish))
        .route("/git/info/refs", get(source::git_refs))
        .route("/git/git-upload-pack", post(source::git_upload_pack));
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
    /// The rank that the caller claims to be.
    fn check(&self) -> Answer<u32> {
        if self.protocol != PROTOCOL {
            return Err(CallError::bad(format!(
                "protocol {} is not spoken by this daemon; it speaks {PROTOCOL}",
                self.protocol
            )));
        }
        Ok(self.rank)
    }
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
    Ok(pieces(body, limit).await?.concat().into())
}

/// A body in the pieces in which it came, none of them empty. Small ones are put together: each costs a place in the list, and keeps
/// what was read with it.
async fn pieces(body: Body, limit: usize) -> Answer<Vec<Bytes>> {
    let data = Limited::new(body, limit).into_data_stream();
    let data = data.try_fold((Vec::new(), BytesMut::new()), async |(mut pieces, mut small), piece| {
        if piece.len() >= PIECE_BYTES || small.len() >= PIECE_BYTES {
            pieces.extend((!small.is_empty()).then(|| small.split().freeze()));
        }
        if piece.len() >= PIECE_BYTES {
            pieces.push(piece);
        } else {
            small.extend_from_slice(&piece);
        }
        Ok((pieces, small))
    });
    match tokio::time::timeout(BODY_DEADLINE, data).await {
        Ok(Ok((mut pieces, small))) => {
            pieces.extend((!small.is_empty()).then(|| small.freeze()));
            Ok(pieces)
        }
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
    let read = if memchr::memmem::find(&bytes, b"\\u0000").is_some() {
        serde_json::from_slice(&bytes).map(without_nul).and_then(serde_json::from_value)
    } else {
        serde_json::from_slice(&bytes)
    };
    read.map_err(|error| CallError::bad(format!("the body is not what this call takes: {error}")))
}

/// Postgres takes no text with a NUL, and an agent would repeat a refused call for ever: U+FFFD stands in its place.
fn without_nul(mut value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    let clean = |text: String| text.replace('\0', "\u{fffd}");
    match &mut value {
        Value::String(text) => *text = clean(std::mem::take(text)),
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_nul(item.take())),
        Value::Object(fields) => {
            *fields = std::mem::take(fields).into_iter().map(|(k, v)| (clean(k), without_nul(v))).collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    value
}

/// [`Version`] beside other parameters: a flattened query holds text alone.
#[derive(Debug, Deserialize)]
struct Flat {
    protocol: Option<String>,
    rank: Option<String>,
}

impl Flat {
    fn check(&self) -> Answer<u32> {
        let number = |text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| CallError::bad("protocol and rank are numbers")),
        };
        Version { protocol: number(&self.protocol, PROTOCOL)?, rank: number(&self.rank, 0)? }.check()
    }
}

/// At most `bytes` of the text, cut between characters.
fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let at = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
    }
    text
}
