//! The public listener: `POST /hooks/{kind}/{hook id}`. A request is verified on its raw bytes and stored; only then is it
//! acknowledged (promise G1). What it means is decided later, by `intake`.
//!
//! Must not: parse a body, choose a secret by anything but the URL, or answer 2xx to what is not on disk.
//!
//! Memory: a body of up to 64 KiB and a read buffer are bounded by the number of connections (1,024 × 96 KiB = 96 MiB); larger
//! bodies share another 64 MiB as their bytes arrive (`hook_room`), so that large or slow ones cannot keep ordinary deliveries out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use super::hook_claims::{self, Identity, single};
use super::hook_room::{Room, Share};
use super::secrets::Hook;
use super::serve::{Answers, Limits, serve};
use super::telemetry::WebhookLabels;
use crate::clock::Millis;
use crate::forge::webhook::{self, SignatureError};
use crate::model::DeliveryRowId;
use crate::store::deliveries::{Delivered, NewDelivery};

/// GitHub sends nothing larger than 25 MB; the cap is in MiB to be on the safe side.
pub const BODY_BYTES: usize = 25 << 20;
/// Bodies up to this size need no share of the common budget.
const FREE_BYTES: usize = 64 << 10;
const BUDGET_BYTES: usize = 64 << 20;
/// A connection's read buffer: holds the greatest head, and an ordinary delivery whole.
const READ_BYTES: usize = 32 << 10;
/// GitHub Enterprise Server waits 30 s for an answer; the others give up sooner (GitHub and GitLab 10 s, Gitea 5 s).
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Beyond [`FREE_BYTES`] a body must arrive at [`LEAST_RATE`] bytes a second after this time, by which most senders have given up.
const GRACE: Duration = Duration::from_secs(10);
const LEAST_RATE: f64 = (1 << 20) as f64;
const MADE_ROOM: &str = "the body came slowly, and others needed the room";
/// How long a delivery without an id counts as the same by its event and body.
const SAME_CONTENT_MS: Millis = 24 * 3_600_000;

/// Serves until `shutdown` is cancelled, then lets requests in progress end.
pub async fn serve_hooks(listener: TcpListener, app: App, shutdown: CancellationToken) {
    let telemetry = Arc::clone(&app.telemetry);
    let limits = Limits { read_bytes: READ_BYTES, ..Limits::of("hooks") };
    serve(listener, service(app), limits, telemetry, shutdown).await;
}

struct Hooks {
    app: App,
    room: Arc<Room>,
}

/// No router: what one does to a request costs more than to verify its signature.
fn service(app: App) -> impl Answers {
    let hooks = Arc::new(Hooks { app, room: Arc::new(Room::new(BUDGET_BYTES)) });
    tower::service_fn(move |request| {
        let hooks = Arc::clone(&hooks);
        async move { Ok(answer(&hooks, request).await) }
    })
}

async fn answer(hooks: &Hooks, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some((kind, id)) = path.strip_prefix("/hooks/").and_then(|rest| rest.split_once('/')) {
        return receive(hooks, kind, id, &head, body).await;
    }
    match path {
        // For load balancers, which know this port alone. It asks nothing of the database: strangers may call it.
        "/healthz" if [Method::GET, Method::HEAD].contains(&head.method) => "ok\n".into_response(),
        _ => Refusal::unknown().into_response(),
    }
}

/// A request that is not accepted: the status, the word for the metric and the sentence for the sender.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    outcome: &'static str,
    message: &'static str,
    /// Why a signature was not taken: for the operator's log, never for the sender.
    error: Option<SignatureError>,
}

impl Refusal {
    fn new(status: StatusCode, outcome: &'static str, message: &'static str) -> Self {
        Self { status, outcome, message, error: None }
    }
    /// Every failure of the signature gets this one, so that a forger learns nothing.
    fn signature(error: SignatureError) -> Self {
        let message = "the signature does not match: the webhook's secret at the forge must be the one in trainyard's configuration";
        Self { error: Some(error), ..Self::new(StatusCode::UNAUTHORIZED, "bad_signature", message) }
    }
    fn unknown() -> Self {
        let message = "there is no such hook; the path is /hooks/<github|gitlab|gitea>/<id of the hook in trainyard's configuration>";
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }
    fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 25 MiB")
    }
    fn too_slow(message: &'static str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
    }
    fn unavailable(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(json!({ "error": self.message }))).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}

async fn receive(hooks: &Hooks, kind: &str, id: &str, head: &Parts, body: Body) -> Response {
    let app = &hooks.app;
    let count = |forge: &str, event: &str, outcome| {
        let labels = WebhookLabels { forge: forge.to_owned(), event: label(event).to_owned(), outcome };
        app.telemetry.webhooks.get_or_create(&labels).inc();
    };
    if head.method != Method::POST {
        return Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "a webhook is sent with POST")
            .into_response();
    }
    let Some(hook) = app.secrets.hook(kind, id) else {
        count("", "", "not_found");
        return Refusal::unknown().into_response();
    };
    let event = hook_claims::event(hook.kind, &head.headers).unwrap_or_default();
    match accept(hooks, hook, id, &head.headers, body).await {
        Ok((outcome, response)) => {
            count(&hook.forge, &event, outcome);
            response
        }
        Err(refusal) => {
            // An event word counts only once it is signed: labels are not for strangers to make.
            count(&hook.forge, "", refusal.outcome);
            if let Some(error) = &refusal.error {
                tracing::warn!(
                    forge.name = hook.forge,
                    forge.hook_id = id,
                    %error,
                    "webhook refused: compare the secret at the forge with the hook's in the configuration"
                );
            } else {
                // Anybody can bring this about, as often as they like: the metric counts it.
                tracing::debug!(
                    forge.name = hook.forge,
                    forge.hook_id = id,
                    outcome = refusal.outcome,
                    "webhook refused: {}",
                    refusal.message
                );
            }
            refusal.into_response()
        }
    }
}

/// The metric's label of an event word: those that mean something here, else `other`.
fn label(event: &str) -> &str {
    match event {
        "" | "push" | "pull_request" | "issue_comment" | "ping" | "check_run" | "check_suite"
        | "merge_group" | "create" | "delete" | "tag_push" | "merge_request" | "note" => event,
        _ => "other",
    }
}

async fn accept(
    hooks: &Hooks,
    hook: &Hook,
    hook_id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(&'static str, Response), Refusal> {
    if hook.secrets.is_empty() {
        tracing::warn!(
            forge.name = hook.forge,
            forge.hook_id = hook_id,
            "a hook without a secret was called: it is closed"
        );
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "closed",
            "this hook is closed: it has no secret in the configuration",
        ));
    }
    let declared = before_the_body(headers)?;
    // No need to read the body of what cannot be right.
    let proof = hook.scheme.proof(headers).map_err(Refusal::signature)?;
    let (body, _share) = tokio::time::timeout(BODY_DEADLINE, read(&hooks.room, body, declared))
        .await
        .map_err(|_| Refusal::too_slow("the body did not arrive within 30 s"))??;
    let now = hooks.app.clock.now_ms();
    let secrets: Vec<&[u8]> = hook.secrets.iter().map(|s| s.expose_secret().as_bytes()).collect();
    proof.verify(&body, &secrets, now).map_err(Refusal::signature)?;
    let bad = |message| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message);
    if body.is_empty() {
        return Err(bad("the body is empty"));
    }
    let event = hook_claims::event(hook.kind, headers).map_err(bad)?;
    let identity = hook_claims::identity(hook.kind, headers, &event, &body).map_err(bad)?;
    let (delivery_id, by_content) = match identity {
        Identity::Id(id) => (id, false),
        Identity::Content(digest) => (digest, true),
    };
    let new = NewDelivery {
        id: DeliveryRowId::generate(now),
        forge: hook.forge.clone(),
        hook_id: hook_id.to_owned(),
        delivery_id: delivery_id.clone(),
        event: event.clone(),
        content_type: single(headers, "content-type").unwrap_or_default().to_owned(),
        headers: worth_keeping(headers),
        body,
        received_ms: now,
        ignored: webhook::unheard(hook.kind, &event),
    };
    crate::failpoint::hit("hook.deliver.before");
    let store = &hooks.app.store;
    let delivered = if by_content {
        // The rare way: boxed, as its size would be moved with every request.
        Box::pin(store.deliver_within(new, SAME_CONTENT_MS)).await
    } else {
        store.deliver(new).await
    };
    let delivered = delivered.map_err(|error| {
        tracing::error!(forge.name = hook.forge, forge.delivery_id = delivery_id, %error, "cannot store a delivery");
        Refusal::unavailable("the delivery could not be stored; send it again")
    })?;
    crate::failpoint::hit("hook.deliver.after");
    Ok(match delivered {
        Delivered::Stored if event == "ping" => (
            "stored",
            reply(
                StatusCode::ACCEPTED,
                "stored",
                &delivery_id,
                "this hook is healthy: the signature matches",
            ),
        ),
        Delivered::Stored => ("stored", reply(StatusCode::ACCEPTED, "stored", &delivery_id, "")),
        Delivered::Seen { same_body: true } => {
            ("seen", reply(StatusCode::OK, "seen before", &delivery_id, ""))
        }
        Delivered::Seen { same_body: false } => {
            tracing::warn!(
                forge.name = hook.forge,
                forge.hook_id = hook_id,
                forge.delivery_id = delivery_id,
                "a delivery id was used again for another body: someone replays or the forge is at fault"
            );
            ("seen_other_body", reply(StatusCode::OK, "seen before", &delivery_id, ""))
        }
    })
}

fn reply(status: StatusCode, outcome: &str, delivery: &str, message: &str) -> Response {
    #[derive(Serialize)]
    struct Reply<'a> {
        delivery: &'a str,
        outcome: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        message: &'a str,
    }
    (status, axum::Json(Reply { delivery, outcome, message })).into_response()
}

/// All that can be refused without reading on. Returns the declared length.
fn before_the_body(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let unsupported = |message| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request", message);
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(unsupported("compressed bodies are not accepted"));
    }
    let kind = single(headers, "content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !["application/json", "application/x-www-form-urlencoded"].iter().any(|k| kind.eq_ignore_ascii_case(k))
    {
        return Err(unsupported(
            "the content type must be application/json or application/x-www-form-urlencoded",
        ));
    }
    let declared = single(headers, "content-length").and_then(|text| text.parse::<u64>().ok());
    match declared {
        Some(bytes) if bytes > BODY_BYTES as u64 => Err(Refusal::too_large()),
        declared => Ok(declared.map(|bytes| bytes as usize)),
    }
}

/// Reads the body up to the cap. Beyond [`FREE_BYTES`] what it takes is charged to the room, held as long as the body is.
async fn read(
    room: &Arc<Room>,
    mut body: Body,
    declared: Option<usize>,
) -> Result<(Vec<u8>, Option<Share>), Refusal> {
    let began = Instant::now();
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(FREE_BYTES));
    let mut share: Option<Share> = None;
    loop {
        let frame = match &share {
            None => body.frame().await,
            Some(share) => {
                let by = began + GRACE + Duration::from_secs_f64(bytes.len() as f64 / LEAST_RATE);
                tokio::select! {
                    biased;
                    frame = body.frame() => frame,
                    () = share.makes_room() => return Err(Refusal::too_slow(MADE_ROOM)),
                    () = tokio::time::sleep_until(by) => {
                        return Err(Refusal::too_slow("the body arrived at less than 1 MiB a second"));
                    }
                }
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Refusal::new(StatusCode::BAD_REQUEST, "bad_request", "the body ended early or is malformed")
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers mean nothing here
        let length = bytes.len() + data.len();
        if length > BODY_BYTES {
            return Err(Refusal::too_large());
        }
        if length > FREE_BYTES {
            let share = share.get_or_insert_with(|| room.enter(began));
            if length > bytes.capacity() {
                let whole = declared.unwrap_or(BODY_BYTES).max(length);
                let capacity = (4 * bytes.capacity()).clamp(length, whole);
                tokio::select! {
                    () = share.grow(bytes.len(), capacity) => {}
                    () = share.makes_room() => return Err(Refusal::too_slow(MADE_ROOM)),
                }
                bytes.reserve_exact(capacity - bytes.len());
            }
            share.received(length);
        }
        bytes.extend_from_slice(&data);
    }
    if let Some(share) = &share {
        share.whole();
    }
    Ok((bytes, share))
}

/// Headers that help an operator later. None of them is a credential or a signature.
fn worth_keeping(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    const KEPT: &[&str] = &[
        "user-agent",
        "x-github-hook-id",
        "x-github-hook-installation-target-id",
        "x-github-hook-installation-target-type",
        "x-github-enterprise-host",
        "x-github-enterprise-version",
        "x-gitlab-instance",
        "x-gitlab-webhook-uuid",
        "x-gitlab-event-uuid",
        "x-gitea-event-type",
        "x-gitea-hook-installation-target-type",
        "x-forgejo-event-type",
    ];
    KEPT.iter()
        .filter_map(|name| single(headers, name).map(|v| (*name, v.chars().take(256).collect())))
        .collect()
}
