//! Artifacts: one that an attempt made, and those of the steps it needs.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Deserialize;

use super::error::CallError;
use super::{Answer, Api, Flat, baseline, checkpoint, cut, masker, open};
use crate::agent::artifact_path;
use crate::agent::protocol::CHECKPOINT_MARK;
use crate::blob::key;
use crate::http::spec;
use crate::model::AttemptUid;
use crate::store::attempts::ArtifactRow;

const ARTIFACT_BYTES: u64 = 64 << 30;
/// Between two pieces of an artifact.
const UPLOAD_IDLE: Duration = Duration::from_mins(1);

#[derive(Debug, Deserialize)]
pub(super) struct ArtifactQuery {
    path: String,
    #[serde(default)]
    sha256: String,
    /// `1`: its owner may execute it.
    #[serde(default)]
    executable: String,
    #[serde(flatten)]
    version: Flat,
}

pub(super) async fn put_artifact(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<ArtifactQuery>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let rank = query.version.check()?;
    let row = open(&app, &uid, &headers, rank).await?.leading()?;
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
        let checkpoint = if path == CHECKPOINT_MARK {
            match checkpoint::check(&app, &row.uid, &blob_key, written.bytes).await {
                Ok(checkpoint) => Some(checkpoint),
                Err(error) => {
                    app.blobs.delete(&app.store.blobs_without_row(&[blob_key]).await?).await?;
                    return Err(error);
                }
            }
        } else {
            None
        };
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
            if let Some(checkpoint) = checkpoint {
                checkpoint::prune(&app, &row, &checkpoint).await?;
            }
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

pub(super) async fn get_artifact(
    State(Api { app, .. }): State<Api>,
    Path((uid, producer)): Path<(String, String)>,
    Query(query): Query<ArtifactQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let rank = query.version.check()?;
    let row = open(&app, &uid, &headers, rank).await?.row;
    let missing = || CallError::new(StatusCode::NOT_FOUND, "this attempt has no such input");
    let view = app.store.run_view(&row.run_id).await?.ok_or_else(CallError::gone)?;
    let step = spec::step_of(&view, &row).map_err(|_| missing())?;
    let producer = AttemptUid::from_text(producer);
    let resumes = step.checkpoint.is_some() && spec::resumable(&view, &row).any(|uid| *uid == producer);
    if !resumes
        && view.producers(step).iter().all(|(_, uid)| *uid != producer)
        && !baseline::may_read(&app, &view, step, &producer, &query.path).await?
    {
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
