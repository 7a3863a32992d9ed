//! Logs for readers: the bytes as stored, and followed as they come. A follower is pulled along by its own reader: it holds
//! one piece in memory, and a slow one slows nobody down. Event ids are byte offsets, so a broken stream goes on exactly where it ended.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;

use super::api::log_for;
use super::api::openapi::Refusals;
use super::app::{Follower, Web};
use super::auth::Who;
use super::extract::{Path, Query};
use super::live::Hint;
use super::logs::{self, LogError};
use super::problem::Problem;
use super::terminal::{self, Lines, Span, Style};
use crate::blob::BlobError;
use crate::model::{AttemptRank, AttemptState};

/// Bytes of one event and of one piece of a download.
const PIECE: usize = 64 << 10;
/// An unfinished line longer than this is sent as if it had ended.
const PARTIAL_MAX: usize = 32 << 10;
const POLL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A stream ends after this time; browsers come back by themselves, and their token is looked at again.
const STREAM_MAX: Duration = Duration::from_mins(10);

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Store(error) => error.into(),
            LogError::Blob(error) => error.into(),
            LogError::Hole { .. } => {
                tracing::error!(%error, "cannot show a log");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "a part of this log is missing; the daemon's log says which",
                )
            }
        }
    }
}

/// The end of a log, for pages.
pub struct Tail {
    pub lines: Lines,
    /// Where a follower goes on: after the last full line.
    pub next: i64,
    /// Bytes before the first line.
    pub left_out: i64,
}

/// The last lines of a log, about `max` bytes of them.
pub async fn tail(web: &Web, of: &AttemptRank, log_bytes: i64, max: usize) -> Result<Tail, Problem> {
    let from = (log_bytes - max as i64).max(0);
    let piece = logs::read(&web.app, of, from, max).await?;
    let mut bytes = &piece[..];
    let mut left_out = from;
    if from > 0
        && let Some(at) = bytes.iter().position(|b| *b == b'\n')
    {
        bytes = &bytes[at + 1..];
        left_out += at as i64 + 1;
    }
    let lines = terminal::lines(bytes, &mut Style::default());
    let next = left_out + lines.full_bytes as i64;
    Ok(Tail { lines, next, left_out })
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Byte offset; 0 when absent.
    #[serde(default)]
    #[param(minimum = 0)]
    from: i64,
    /// `lines`: styled text for the dashboard; absent: the bytes, base64.
    #[serde(default, rename = "as")]
    #[param(pattern = "^lines$")]
    form: Option<String>,
}

impl LogQuery {
    fn check(&self) -> Result<(), Problem> {
        if self.from < 0 || self.form.as_deref().is_some_and(|form| form != "lines") {
            return Err(Problem::bad_request("from must be 0 or more, and `as` can only be lines"));
        }
        Ok(())
    }
}

/// A log's bytes as stored
///
/// Always a download, never shown in place.
#[utoipa::path(get, path = "/api/v1/attempts/{attempt}/log", tag = "logs",
    params(("attempt" = String, Path, description = "The attempt's uid; `<uid>.<rank>` for another of its pods"), LogQuery),
    responses((status = 200, description = "The bytes", body = String, content_type = "text/plain"), Refusals))]
pub async fn download(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Problem> {
    query.check()?;
    let found = log_for(&web, &who, &uid).await?;
    let (of, end) = (found.of, found.bytes);
    let from = query.from.max(0);
    let first = logs::read(&web.app, &of, from, PIECE).await?;
    if first.is_empty() && from < end {
        return Err(BlobError::Missing(String::new()).into());
    }
    let name = format!("{of}.log");
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox".to_owned()),
        (HeaderName::from_static("x-trainyard-log-end"), end.to_string()),
    ];
    let body = stream::unfold(Some((web, of, from, first)), |state| async move {
        let (web, of, at, bytes) = state?;
        if bytes.is_empty() {
            return None;
        }
        let next = at + bytes.len() as i64;
        match logs::read(&web.app, &of, next, PIECE).await {
            Ok(more) => Some((Ok(bytes), Some((web, of, next, more)))),
            // The answer is cut, and the client sees that: a chunked body without its end.
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    Ok((headers, Body::from_stream(body)).into_response())
}

/// How a stream ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogEnd {
    pub state: AttemptState,
    pub class: Option<crate::model::EndClass>,
    pub exit_code: Option<i64>,
    pub lost_bytes: i64,
}

/// One `lines` event: full lines, and the unfinished one after them.
#[derive(Debug, Serialize)]
struct LinesEvent {
    lines: Vec<Vec<Span>>,
    partial: Option<Vec<Span>>,
}

struct Follow {
    web: Web,
    of: AttemptRank,
    offset: i64,
    /// Set for the dashboard's form.
    style: Option<Style>,
    /// Length of the unfinished line that was sent last.
    partial_sent: usize,
    hints: Receiver<Hint>,
    ends_at: tokio::time::Instant,
    _place: Follower,
}

/// Follows a log
///
/// Server-sent events `log` (data: base64 of the bytes; id: offset after them), `gap` (data: bytes that are gone), `end`. With `as=lines`, `lines` instead of `log`: complete lines move the id,
/// an unfinished one is sent again until it ends. `Last-Event-ID` wins over `from`.
#[utoipa::path(get, path = "/api/v1/attempts/{attempt}/log/stream", tag = "logs",
    params(("attempt" = String, Path, description = "The attempt's uid; `<uid>.<rank>` for another of its pods"), LogQuery),
    responses((status = 200, description = "Until the attempt ends", body = Object, content_type = "text/event-stream"), Refusals))]
pub async fn stream(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query.check()?;
    let found = log_for(&web, &who, &uid).await?;
    let last: Option<i64> =
        headers.get("last-event-id").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let place = web.follow(who.token.as_deref().unwrap_or("anonymous"))?;
    let follow = Follow {
        hints: web.app.live.follow(),
        of: found.of,
        offset: last.unwrap_or(query.from).max(0),
        style: (query.form.as_deref() == Some("lines")).then(Style::default),
        partial_sent: 0,
        ends_at: tokio::time::Instant::now() + STREAM_MAX,
        _place: place,
        web,
    };
    let events = stream::unfold(Some(follow), |state| async move {
        let mut follow = state?;
        match follow.next().await {
            Ok(Next::Event(event)) => Some((Ok::<_, Infallible>(event), Some(follow))),
            Ok(Next::Last(event)) => Some((Ok(event), None)),
            Ok(Next::Gone) => None,
            Err(problem) => {
                let event = Event::default().event("problem").json_data(&problem).unwrap_or_default();
                Some((Ok(event), None))
            }
        }
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"));
    // A proxy that collects the answer would hold live lines back.
    Ok(([(HeaderName::from_static("x-accel-buffering"), "no")], sse).into_response())
}

enum Next {
    Event(Event),
    Last(Event),
    /// The daemon stops, or the stream has lasted long enough.
    Gone,
}

impl Follow {
    async fn next(&mut self) -> Result<Next, Problem> {
        loop {
            // The row before the bytes: what an ended attempt has stored is then complete.
            let store = &self.web.app.store;
            let gone = || Problem::not_found("attempt");
            let attempt = store.attempt(&self.of.uid).await?.ok_or_else(gone)?;
            let rank =
                if self.of.leads() { None } else { Some(store.rank(&self.of).await?.ok_or_else(gone)?) };
            let stored = rank.as_ref().map_or(attempt.log_bytes, |rank| rank.log_bytes);
            let bytes = logs::read(&self.web.app, &self.of, self.offset, PIECE).await?;
            let ended = attempt.state == AttemptState::Ended;
            if bytes.is_empty() && self.offset < stored {
                let gap = stored - self.offset;
                self.offset = stored;
                return Ok(Next::Event(self.event("gap").data(gap.to_string())));
            }
            if let Some(event) = self.take(&bytes, ended) {
                return Ok(Next::Event(event));
            }
            if ended {
                let end = match rank {
                    Some(rank) => LogEnd {
                        state: attempt.state,
                        class: rank.class.or(attempt.class),
                        exit_code: rank.exit_code,
                        lost_bytes: rank.log_lost_bytes,
                    },
                    None => LogEnd {
                        state: attempt.state,
                        class: attempt.class,
                        exit_code: attempt.exit_code,
                        lost_bytes: attempt.log_lost_bytes,
                    },
                };
                let event = self.event("end").json_data(&end);
                return event.map(Next::Last).map_err(|_| Problem::not_found("log"));
            }
            if !self.wait().await {
                return Ok(Next::Gone);
            }
        }
    }

    fn event(&self, name: &str) -> Event {
        Event::default().event(name).id(self.offset.to_string())
    }

    /// An event for new bytes; None when they say nothing new.
    fn take(&mut self, bytes: &[u8], ended: bool) -> Option<Event> {
        if bytes.is_empty() {
            return None;
        }
        let Some(style) = &mut self.style else {
            self.offset += bytes.len() as i64;
            return Some(self.event("log").data(STANDARD.encode(bytes)));
        };
        let mut lines = terminal::lines(bytes, style);
        let rest = bytes.len() - lines.full_bytes;
        // Nothing will finish the last line, or it is too long to be sent again and again.
        if rest > 0 && (ended && bytes.len() < PIECE || rest >= PARTIAL_MAX) {
            lines.full.push(terminal::line(&bytes[lines.full_bytes..], style));
            lines.full_bytes = bytes.len();
            lines.partial = None;
        }
        let rest = bytes.len() - lines.full_bytes;
        if lines.full.is_empty() && rest == self.partial_sent {
            return None;
        }
        self.partial_sent = rest;
        self.offset += lines.full_bytes as i64;
        self.event("lines").json_data(LinesEvent { lines: lines.full, partial: lines.partial }).ok()
    }

    /// Until something may have grown. False: end the stream.
    async fn wait(&mut self) -> bool {
        let poll = tokio::time::sleep(POLL);
        tokio::pin!(poll);
        loop {
            tokio::select! {
                () = self.web.app.stopping.cancelled() => return false,
                () = tokio::time::sleep_until(self.ends_at) => return false,
                () = &mut poll => return true,
                hint = self.hints.recv() => match hint {
                    Ok(Hint::Log(of)) if of == self.of => return true,
                    Ok(_) => {}
                    // Missed some, or nobody sends: the poll is the truth.
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => return true,
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                        poll.await;
                        return true;
                    }
                },
            }
        }
    }
}
