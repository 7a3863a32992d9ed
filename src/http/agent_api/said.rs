//! What an attempt says while it runs: its log, its metrics and parameters.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::{Duration, Instant, timeout};

use super::error::CallError;
use super::{
    Answer, Api, CHUNK_BYTES, Flat, NAME_BYTES, PARAM_BYTES, Version, cut, masker, open, parsed, whole,
};
use crate::agent::protocol::{LogCommitted, Metrics, MetricsStored};
use crate::http::live::Hint;
use crate::http::logs;
use crate::model::MetricPoint;
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
    let mut caller = open(&app, &uid, &headers, rank).await?;
    let quota = app.config.limits.log_quota_bytes;
    let answer =
        |status, offset| Ok((status, Json(LogCommitted { offset, full: offset >= quota })).into_response());
    if !(0..=CHUNK_BYTES as i64).contains(&(query.offset - caller.log_bytes())) {
        return answer(StatusCode::CONFLICT, caller.log_bytes());
    }
    let mut bytes = whole(body, CHUNK_BYTES).await?;
    // An agent sends a chunk while the one before it is being stored.
    let until = Instant::now() + EARLY;
    while caller.log_bytes() < query.offset && Instant::now() < until {
        let mine = Hint::Log(caller.of());
        let stored = async { while hints.recv().await.is_ok_and(|hint| hint != mine) {} };
        let _ = timeout(LOOK, stored).await; // another daemon may have stored it: looked at anyway
        caller = open(&app, &uid, &headers, rank).await?;
    }
    let stored = caller.log_bytes();
    if query.offset != stored {
        return answer(StatusCode::CONFLICT, stored);
    }
    bytes.truncate(usize::try_from((quota - query.offset).max(0)).unwrap_or(usize::MAX));
    if bytes.is_empty() {
        return answer(StatusCode::OK, stored);
    }
    let masker = masker(&app, &caller.row).await?;
    let of = caller.of();
    // In a task of its own: a client that leaves must not leave a blob without its row.
    let stored =
        tokio::spawn(async move { logs::append(&app, masker.as_ref(), &of, query.offset, bytes).await });
    match stored.await.map_err(|_| CallError::unavailable())?? {
        LogAppend::Committed { offset } => answer(StatusCode::OK, offset),
        LogAppend::Conflict { committed } => answer(StatusCode::CONFLICT, committed),
        LogAppend::Refused => Err(CallError::gone()),
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
