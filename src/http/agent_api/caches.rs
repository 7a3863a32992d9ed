//! Directories kept between runs: what is under a key, and keeping one under a key that nobody had.
//!
//! Untrusted runs read what the default branch wrote, and write nothing.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Deserialize;

use super::error::CallError;
use super::{Answer, Api, Flat, masker, open};
use crate::agent::client::CACHE_DIGEST;
use crate::blob::key;
use crate::http::App;
use crate::store::attempts::AttemptRow;
use crate::store::caches::CacheRow;
use crate::store::pulls::RepoRow;
use crate::store::runs::RunRow;

/// Between two pieces of an archive.
const UPLOAD_IDLE: Duration = Duration::from_mins(1);

#[derive(Debug, Deserialize)]
pub(super) struct CacheQuery {
    key: String,
    #[serde(default)]
    sha256: String,
    #[serde(flatten)]
    version: Flat,
}

impl CacheQuery {
    /// The rank that the caller claims to be.
    fn check(&self) -> Answer<u32> {
        let rank = self.version.check()?;
        if self.key.is_empty() || self.key.len() > 512 || self.key.chars().any(char::is_control) {
            return Err(CallError::bad("a cache's key has 1 to 512 bytes and no control character"));
        }
        Ok(rank)
    }
}

async fn run_and_repo(app: &App, attempt: &AttemptRow) -> Answer<(RunRow, RepoRow)> {
    let run = app.store.run(&attempt.run_id).await?.ok_or_else(CallError::gone)?;
    let repo = app.store.repo(&run.repo_id).await?.ok_or_else(CallError::gone)?;
    Ok((run, repo))
}

pub(super) async fn get_cache(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<CacheQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let rank = query.check()?;
    let row = open(&app, &uid, &headers, rank).await?.row;
    let missing = || CallError::new(StatusCode::NOT_FOUND, "nothing is kept under this key");
    let (run, repo) = run_and_repo(&app, &row).await?;
    let cache = app.store.cache(&repo.id, &query.key).await?.ok_or_else(missing)?;
    if !run.trusted && cache.branch != repo.default_branch {
        return Err(missing());
    }
    let bytes = app.blobs.stream(&cache.blob_key).await?;
    if run.trusted {
        app.store.cache_used(&repo.id, &query.key, app.clock.now_ms()).await?;
    }
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, cache.bytes.to_string()),
        (HeaderName::from_static(CACHE_DIGEST), cache.sha256),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

pub(super) async fn put_cache(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<CacheQuery>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let rank = query.check()?;
    let row = open(&app, &uid, &headers, rank).await?.leading()?;
    let (run, repo) = run_and_repo(&app, &row).await?;
    if !run.trusted {
        return Err(CallError::new(StatusCode::FORBIDDEN, "an untrusted run keeps nothing for others"));
    }
    if masker(&app, &row).await?.is_some_and(|m| m.mask_str(&query.key) != query.key) {
        return Err(CallError::new(StatusCode::UNPROCESSABLE_ENTITY, "the cache's key holds a secret"));
    }
    if app.store.cache(&repo.id, &query.key).await?.is_some() {
        return Ok(StatusCode::OK);
    }
    let blob_key = key::cache(&repo.id, rand::random());
    let pieces = stream::unfold(body.into_data_stream(), |mut pieces| async move {
        match tokio::time::timeout(UPLOAD_IDLE, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), pieces)),
            Ok(Some(Err(error))) => Some((Err(error.to_string()), pieces)),
            Ok(None) => None,
            Err(_) => Some((Err("nothing arrived for 60 s".to_owned()), pieces)),
        }
    });
    let limit = (app.config.limits.cache_quota_bytes / 2).max(0) as u64;
    let written = app.blobs.put_stream(&blob_key, pieces, limit).await?;
    // In a task of its own: a client that leaves must not leave a blob without its row.
    let kept = tokio::spawn(async move {
        if written.sha256 != query.sha256 {
            app.blobs.delete(&[blob_key]).await?;
            let why = format!("the body has the digest {}, not the one announced", written.sha256);
            return Err(CallError::new(StatusCode::UNPROCESSABLE_ENTITY, why));
        }
        let cache = CacheRow {
            repo_id: repo.id,
            key: query.key,
            bytes: written.bytes as i64,
            sha256: written.sha256,
            blob_key: blob_key.clone(),
            branch: run.branch,
            run_id: run.id,
        };
        if app.store.put_cache(cache, app.clock.now_ms()).await? {
            return Ok(StatusCode::NO_CONTENT);
        }
        app.blobs.delete(&[blob_key]).await?;
        Ok(StatusCode::OK)
    });
    kept.await.map_err(|_| CallError::unavailable())?
}
