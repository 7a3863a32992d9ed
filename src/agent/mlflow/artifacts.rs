//! `/api/2.0/mlflow-artifacts/artifacts/<experiment>/<run>/artifacts/<path>`, and `<experiment>/models/<model>/artifacts/<path>`:
//! upload, list, download, delete, as the client's proxied artifact store does them.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::Shared;
use super::api::{Answer, Fault};
use crate::agent::{artifacts, paths};

const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 64 << 30;
/// Entries of one listing.
const MAX_LISTED: usize = 10_000;

/// A path whose run or model is known, in its plain form.
fn known(shared: &Shared, path: &str) -> Result<String, Fault> {
    let plain = paths::relative(path).map_err(|e| Fault::invalid(format!("the artifact's {e}")))?;
    let mut parts = plain.split('/').skip(1);
    let state = shared.state();
    let found = match (parts.next(), parts.next(), parts.next()) {
        (Some("models"), Some(model), Some("artifacts")) => state.models.contains_key(model),
        (Some(run), Some("artifacts"), _) => state.run(run).is_some(),
        _ => false,
    };
    if found {
        Ok(plain)
    } else {
        Err(Fault::missing("there is no such run or model of this attempt".into()))
    }
}

/// The place of a path, when no part of it is a link: the step may have planted one.
fn inside(shared: &Shared, path: &str) -> Option<PathBuf> {
    let mut at = shared.artifacts.clone();
    for part in path.split('/') {
        at.push(part);
        if std::fs::symlink_metadata(&at).ok()?.is_symlink() {
            return None;
        }
    }
    Some(at)
}

fn failed(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "INTERNAL_ERROR",
        format!("the artifact cannot be kept: {error}"),
    )
}

pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    body: Body,
) -> Answer<Json<Value>> {
    let path = known(&shared, &path)?;
    let full = || {
        Fault::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "RESOURCE_EXHAUSTED",
            "too many artifacts of one attempt".into(),
        )
    };
    if shared.state().artifact_files >= MAX_FILES {
        return Err(full());
    }
    let place = paths::place(&shared.artifacts, &path).map_err(|e| Fault::invalid(format!("{e:#}")))?;
    let temporary = tempfile::NamedTempFile::new_in(&shared.artifacts).map_err(|e| failed(&e))?;
    let mut file = tokio::fs::File::from_std(temporary.reopen().map_err(|e| failed(&e))?);
    let (mut pieces, mut bytes) = (body.into_data_stream(), 0_u64);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| Fault::invalid(format!("the artifact did not arrive whole: {e}")))?;
        bytes += piece.len() as u64;
        if shared.state().artifact_bytes + bytes > MAX_BYTES {
            return Err(full());
        }
        file.write_all(&piece).await.map_err(|e| failed(&e))?;
    }
    file.flush().await.map_err(|e| failed(&e))?;
    let before = std::fs::metadata(&place).map(|m| m.len()).ok();
    temporary.persist(&place).map_err(|e| failed(&e.error))?;
    let mut state = shared.state();
    state.artifact_files += usize::from(before.is_none());
    state.artifact_bytes = state.artifact_bytes.saturating_sub(before.unwrap_or(0)) + bytes;
    Ok(Json(json!({})))
}

pub(super) async fn get(State(shared): State<Arc<Shared>>, Path(path): Path<String>) -> Answer<Response> {
    let path = known(&shared, &path)?;
    let missing = || Fault::missing(format!("there is no artifact {path:?}"));
    let place = inside(&shared, &path).ok_or_else(missing)?;
    let file = paths::open_plain(&place).map_err(|_| missing())?;
    let len = file.metadata().map_err(|_| missing())?.len();
    let stream = tokio_util::io::ReaderStream::with_capacity(tokio::fs::File::from_std(file), 64 * 1024);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, len.to_string()),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
) -> Answer<Json<Value>> {
    let path = known(&shared, &path)?;
    if inside(&shared, &path).is_none() {
        return Err(Fault::missing(format!("there is no artifact {path:?}")));
    }
    let mut files = Vec::new();
    artifacts::walk(&shared.artifacts, &path, &mut |file| files.push(file.to_owned()));
    files.push(path);
    for file in files {
        let place = shared.artifacts.join(&file);
        let Ok(meta) = std::fs::symlink_metadata(&place) else { continue };
        if meta.is_file() && std::fs::remove_file(&place).is_ok() {
            let mut state = shared.state();
            state.artifact_files = state.artifact_files.saturating_sub(1);
            state.artifact_bytes = state.artifact_bytes.saturating_sub(meta.len());
        }
    }
    Ok(Json(json!({})))
}

#[derive(Debug, Deserialize)]
pub(super) struct List {
    #[serde(default)]
    path: String,
}

/// Files of a directory, with paths relative to it.
pub(super) async fn list(State(shared): State<Arc<Shared>>, Query(list): Query<List>) -> Answer<Json<Value>> {
    let path = known(&shared, &list.path)?;
    Ok(Json(json!({"files": entries(&shared, &path, "")})))
}

/// Names below `path`, each with `prefix` in front. A file lists itself alone.
pub(super) fn entries(shared: &Shared, path: &str, prefix: &str) -> Vec<Value> {
    let Some(full) = inside(shared, path) else { return Vec::new() };
    let entry = |name: &str, meta: &std::fs::Metadata| {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        if meta.is_dir() {
            json!({"path": path, "is_dir": true})
        } else {
            json!({"path": path, "is_dir": false, "file_size": meta.len()})
        }
    };
    if let Ok(meta) = std::fs::symlink_metadata(&full)
        && meta.is_file()
    {
        return vec![entry(path.rsplit('/').next().unwrap_or(path), &meta)];
    }
    let mut found: Vec<(String, Value)> = std::fs::read_dir(&full)
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_LISTED)
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let meta = e.metadata().ok().filter(|m| m.is_dir() || m.is_file())?;
            Some((name.clone(), entry(&name, &meta)))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.into_iter().map(|(_, value)| value).collect()
}

/// See [`super::Server::artifacts`].
pub(super) fn all(shared: &Shared) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    artifacts::walk(&shared.artifacts, "", &mut |path| files.push(path.to_owned()));
    files.sort();
    let state = shared.state();
    let first = state.runs.iter().find(|r| !r.nested).map(|r| r.id.clone());
    files
        .into_iter()
        .filter_map(|path| {
            let mut parts = path.splitn(3, '/').skip(1);
            let (run, rest) = (parts.next()?, parts.next()?);
            let kept = if run == "models" {
                let (model, rest) = rest.split_once('/')?;
                let name = &state.models.get(model)?.name;
                let name: String =
                    name.chars().map(|c| if "/\\".contains(c) || c.is_control() { '-' } else { c }).collect();
                // Two models of one name are told apart by their ids.
                let twins = state.models.values().filter(|m| m.name == state.models[model].name).count();
                let name =
                    if twins > 1 { format!("{name}-{}", model.get(..10).unwrap_or(model)) } else { name };
                format!("mlflow/models/{name}/{}", rest.strip_prefix("artifacts/")?)
            } else {
                let rest = rest.strip_prefix("artifacts/")?;
                let of = state.run(run)?;
                if first.as_ref() == Some(&of.id) {
                    format!("mlflow/{rest}")
                } else {
                    format!("mlflow/{}/{rest}", of.label)
                }
            };
            Some((shared.artifacts.join(&path), kept))
        })
        .collect()
}
