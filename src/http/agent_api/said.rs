//! What an attempt says while it runs: its log, its metrics and parameters.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::caller::Caller;
use super::error::CallError;
use super::{
    Answer, Api, CHUNK_BYTES, Flat, NAME_BYTES, PARAM_BYTES, Version, cut, masker, open, parsed, whole,
};
use crate::agent::protocol::{LogCommitted, Metrics, MetricsStored};
use crate::http::live::Hint;
use crate::http::{App, logs};
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
    let hints = app.live.follow();
    let caller = open(&app, &uid, &headers, rank).await?;
    let quota = app.config.limits.log_quota_bytes;
    let answer =
        |status, offset| Ok((status, Json(LogCommitted { offset, full: offset >= quota })).into_response());
    if !(0..=CHUNK_BYTES as i64).contains(&(query.offset - caller.log_bytes())) {
        return answer(StatusCode::CONFLICT, caller.log_bytes());
    }
    let mut bytes = whole(body, CHUNK_BYTES).await?;
    bytes.truncate(usize::try_from((quota - query.offset).max(0)).unwrap_or(usize::MAX));
    let turn = ChunkTurn { app, uid, headers, rank, of: caller.of(), offset: query.offset, hints };
    // In a task of its own: a client that leaves must not leave a blob without its row.
    let stored = tokio::spawn(turn.store(caller, bytes));
    match stored.await.map_err(|_| CallError::unavailable())?? {
        LogAppend::Committed { offset } => answer(StatusCode::OK, offset),
        LogAppend::Conflict { committed } => answer(StatusCode::CONFLICT, committed),
        LogAppend::Refused => Err(CallError::gone()),
    }
}

/// A chunk of a log that has arrived. An agent sends it while the one before it is being stored.
struct ChunkTurn {
    app: App,
    uid: String,
    headers: HeaderMap,
    rank: u32,
    of: AttemptRank,
    offset: i64,
    /// Followed since before it was looked at how much is stored.
    hints: broadcast::Receiver<Hint>,
}

impl ChunkTurn {
    /// Stores it when its turn has come. If the one before it is being stored by this process, it is masked and written
    /// meanwhile.
    async fn store(mut self, caller: Caller, bytes: Bytes) -> Answer<LogAppend> {
        let masker = masker(&self.app, &caller.row).await?;
        let until = Instant::now() + EARLY;
        let mut stored = caller.log_bytes();
        if stored < self.offset
            && !bytes.is_empty()
            && let Some(before) = self.app.log_turns.before(&self.of, self.offset)
        {
            let mut written =
                logs::write_ahead(&self.app, masker.as_ref(), &self.of, self.offset, &bytes, &before).await?;
            let stored_before = timeout_at(until, before.committed()).await.unwrap_or(false);
            if let Some(written) = written.take_if(|_| !stored_before) {
                logs::discard(&self.app, &self.of, written).await;
            }
            let come = self.come(until, stored).await;
            if let Some(written) = written {
                if matches!(come, Ok(at) if at == self.offset) {
                    let length = bytes.len() as i64;
                    return Ok(logs::append_written(&self.app, &self.of, self.offset, length, written).await?);
                }
                logs::discard(&self.app, &self.of, written).await;
            }
            stored = come?;
        }
        stored = self.come(until, stored).await?;
        if stored != self.offset {
            return Ok(LogAppend::Conflict { committed: stored });
        }
        if bytes.is_empty() {
            return Ok(LogAppend::Committed { offset: stored });
        }
        Ok(logs::append(&self.app, masker.as_ref(), &self.of, self.offset, bytes).await?)
    }

    /// Waits until all before it is stored, and says how much is. `stored`: as it was last seen.
    async fn come(&mut self, until: Instant, mut stored: i64) -> Answer<i64> {
        let (mine, mut looked) = (Hint::Log(self.of.clone()), false);
        while stored < self.offset && (!looked || Instant::now() < until) {
            if looked {
                let hint = async { while self.hints.recv().await.is_ok_and(|hint| hint != mine) {} };
                let _ = timeout(LOOK, hint).await; // another daemon may have stored it: looked at anyway
            }
            stored = open(&self.app, &self.uid, &self.headers, self.rank).await?.log_bytes();
            looked = true;
        }
        Ok(stored)
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
