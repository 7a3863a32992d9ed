//! Checkpoints of attempts: a manifest is taken when all that it names has arrived, and what it does not name is let go.

use std::collections::BTreeSet;

use axum::http::StatusCode;

use super::error::CallError;
use super::{Answer, cut};
use crate::agent::artifact_path;
use crate::agent::protocol::{CHECKPOINT_FILES, CHECKPOINT_MARK, Checkpoint, Input};
use crate::http::{App, spec};
use crate::model::AttemptUid;
use crate::store::attempts::AttemptRow;

/// A manifest of as many files as an attempt may keep fits into this.
const MANIFEST_BYTES: u64 = 16 << 20;

/// The last whole checkpoint of an attempt, as inputs of the next one.
pub(super) async fn of(app: &App, uid: &AttemptUid) -> Answer<Option<Vec<Input>>> {
    let there = app.store.artifacts_of_attempt(uid).await?;
    let Some(mark) = there.iter().find(|a| a.path == CHECKPOINT_MARK) else { return Ok(None) };
    let bytes = app.blobs.get(&mark.blob_key).await?;
    // What a newer version wrote in another form is no checkpoint of ours: an older one, or a beginning.
    let Ok(checkpoint) = serde_json::from_slice::<Checkpoint>(&bytes) else { return Ok(None) };
    Ok(spec::resume(&checkpoint, &there).filter(|files| !files.is_empty()))
}

/// Is this a manifest, and is everything there that it names?
pub(super) async fn check(app: &App, uid: &AttemptUid, blob_key: &str, bytes: u64) -> Answer<Checkpoint> {
    let refused = |message: String| CallError::new(StatusCode::UNPROCESSABLE_ENTITY, message);
    if bytes > MANIFEST_BYTES {
        return Err(refused(format!("the manifest of a checkpoint has at most {MANIFEST_BYTES} bytes")));
    }
    let checkpoint: Checkpoint = serde_json::from_slice(&app.blobs.get(blob_key).await?)
        .map_err(|error| refused(format!("{CHECKPOINT_MARK} is not a manifest: {error}")))?;
    for file in &checkpoint.files {
        if artifact_path::normalise(&file.path).ok().as_deref() != Some(file.path.as_str()) {
            return Err(refused(format!(
                "the checkpoint's path {:?} is not one",
                cut(file.path.clone(), 200)
            )));
        }
    }
    match spec::resume(&checkpoint, &app.store.artifacts_of_attempt(uid).await?) {
        Some(_) => Ok(checkpoint),
        None => Err(refused("a file that the checkpoint names has not arrived".into())),
    }
}

/// Lets go of what earlier checkpoints of the step had and this one has not: those of the attempt and of the ones before it.
pub(super) async fn prune(app: &App, row: &AttemptRow, checkpoint: &Checkpoint) -> Answer<()> {
    let named: BTreeSet<&str> = checkpoint.files.iter().map(|file| file.sha256.as_str()).collect();
    let view = app.store.run_view(&row.run_id).await?.ok_or_else(CallError::gone)?;
    for uid in spec::resumable(&view, row).chain([&row.uid]) {
        let old: Vec<String> = app
            .store
            .artifacts_of_attempt(uid)
            .await?
            .into_iter()
            .map(|artifact| artifact.path)
            .filter(|path| {
                match path.strip_prefix(CHECKPOINT_FILES).and_then(|rest| rest.strip_prefix('/')) {
                    Some(digest) => *uid != row.uid || !named.contains(digest),
                    None => path == CHECKPOINT_MARK && (*uid != row.uid || named.is_empty()),
                }
            })
            .collect();
        if !old.is_empty() {
            let blobs = app.store.drop_artifacts(uid, old).await?;
            app.blobs.delete(&blobs).await?;
        }
    }
    Ok(())
}
