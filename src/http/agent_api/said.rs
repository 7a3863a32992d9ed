//! What an attempt says while it runs: its log, its metrics and parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::error::CallError;
use super::{
    Answer, Api, CHUNK_BYTES, Flat, NAME_BYTES, PARAM_BYTES, Version, cut, masker, open, parsed, pieces,
};
use crate::agent::mask::Masker;
use crate::agent::protocol::{LogCommitted, Metrics, MetricsStored};
use crate::http::live::Hint;
use crate::http::{App, log_turns, logs};
use crate::model::{AttemptRank, MetricPoint};
use crate::store::attempts::LogAppend;

#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    offset: i64,
    #[serde(flatten)]
    version: Flat,
}

/// How long a chunk may wait for the one before it.
const EARLY: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn log(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let rank = query.version.check()?;
    let mut hints = app.live.follow();
    let caller = open(&app, &uid, &headers, rank).await?;
    let quota = app.config.limits.log_quota_bytes;
    if !(0..=CHUNK_BYTES as i64).contains(&(query.offset - caller.log_bytes())) {
        return chunk_answer(LogAppend::Conflict { committed: caller.log_bytes() }, quota);
    }
    let mut bytes = pieces(body, CHUNK_BYTES).await?;
    truncate(&mut bytes, usize::try_from((quota - query.offset).max(0)).unwrap_or(usize::MAX));
    let bytes: Arc<[Bytes]> = bytes.into();
    let chunk = Chunk { of: caller.of(), offset: query.offset, masker: masker(&app, &caller.row).await? };
    let mut stored = caller.log_bytes();
    let until = Instant::now() + EARLY;
    let mut look = Instant::now() + LOOK;
    // An agent sends a chunk while the one before it is being stored.
    while stored < chunk.offset && Instant::now() < until {
        let taken = app.log_turns.taken();
        let before = app.log_turns.before(&chunk.of, chunk.offset).filter(|_| !bytes.is_empty());
        if let Some(before) = before {
            if let Some(appended) =
                alone(chunk.clone().follow(app.clone(), bytes.clone(), before, until)).await?
            {
                return chunk_answer(appended, quota);
            }
        } else {
            let mine = Hint::Log(chunk.of.clone());
            let hint = async { while hints.recv().await.is_ok_and(|hint| hint != mine) {} };
            tokio::select! {
                () = hint => {}
                () = taken => continue, // perhaps the one before this one
                () = sleep_until(look) => {} // another daemon may have stored it
            }
        }
        look = Instant::now() + LOOK;
        stored = open(&app, &uid, &headers, rank).await?.log_bytes();
    }
    if stored != chunk.offset {
        return chunk_answer(LogAppend::Conflict { committed: stored }, quota);
    }
    if bytes.is_empty() {
        return chunk_answer(LogAppend::Committed { offset: stored }, quota);
    }
    let appended = alone(async move {
        Ok(logs::append(&app, chunk.masker.as_ref(), &chunk.of, chunk.offset, &bytes).await?)
    });
    chunk_answer(appended.await?, quota)
}

/// Leaves the first `len` bytes, and no empty piece.
fn truncate(pieces: &mut Vec<Bytes>, mut len: usize) {
    pieces.retain_mut(|piece| {
        piece.truncate(len);
        len -= piece.len();
        !piece.is_empty()
    });
}

fn chunk_answer(appended: LogAppend, quota: i64) -> Answer<Response> {
    let (status, offset) = match appended {
        LogAppend::Committed { offset } => (StatusCode::OK, offset),
        LogAppend::Conflict { committed } => (StatusCode::CONFLICT, committed),
        LogAppend::Refused => return Err(CallError::gone()),
    };
    Ok((status, Json(LogCommitted { offset, full: offset >= quota })).into_response())
}

/// In a task of its own: a client that leaves must not leave a blob without its row.
async fn alone<T: Send + 'static>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    tokio::spawn(work).await.map_err(|_| CallError::unavailable())?
}

/// Where a chunk of a log belongs.
#[derive(Clone)]
struct Chunk {
    of: AttemptRank,
    offset: i64,
    masker: Option<Masker>,
}

impl Chunk {
    /// Masks and writes the chunk while this process stores the one before it, and stores it then. None: that one was not
    /// stored, or this one has to wait for it.
    async fn follow(
        self,
        app: App,
        bytes: Arc<[Bytes]>,
        before: log_turns::Chunk,
        until: Instant,
    ) -> Answer<Option<LogAppend>> {
        let Self { of, offset, masker } = self;
        let written = logs::write_ahead(&app, masker.as_ref(), &of, offset, &bytes, &before).await?;
        let stored_before = timeout_at(until, before.committed()).await.unwrap_or(false);
        let Some(written) = written else { return Ok(None) };
        if !stored_before {
            logs::discard(&app, &of, written).await;
            return Ok(None);
        }
        Ok(Some(logs::commit(&app, &of, offset, logs::length(&bytes), written).await?))
    }
}

pub(super) async fn metrics(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<MetricsStored>> {
    let rank = version.check()?;
    let caller = open(&app, &uid, &headers, rank).await?;
    let batch: Metrics = parsed(body).await?;
    // Far beyond the most points that an attempt may report; adding to it cannot overflow.
    if !(1..=i64::from(u32::MAX)).contains(&batch.first_seq) {
        return Err(CallError::bad("points are numbered from 1, and not beyond 4,294,967,295"));
    }
    let masker = masker(&app, &caller.row).await?;
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
    let (of, now) = (caller.of(), app.clock.now_ms());
    let stored = if of.leads() {
        app.store.record_metrics(&of.uid, batch.first_seq, points, params, now).await?
    } else {
        app.store.record_rank_metrics(&of, batch.first_seq, points, now).await?
    };
    let seq = stored.ok_or_else(CallError::gone)?;
    app.live.tell(Hint::Run(caller.row.run_id));
    Ok(Json(MetricsStored { seq }))
}
