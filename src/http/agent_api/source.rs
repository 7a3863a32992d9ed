//! An attempt's source: read-only git, of its own repository and commit.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::error::CallError;
use super::{Answer, Api, open_source, repo_of, whole};
use crate::forge::GitAccess;
use crate::http::App;
use crate::http::git_proxy::REQUEST_BYTES;
use crate::store::attempts::AttemptRow;

pub(super) async fn git_access(app: &App, attempt: &AttemptRow) -> Answer<GitAccess> {
    let repo = repo_of(app, attempt).await?;
    let forge = app.forges.get(&repo.forge).ok_or_else(|| {
        CallError::new(StatusCode::BAD_GATEWAY, format!("the forge {:?} is no longer configured", repo.forge))
    })?;
    Ok(forge.git(&repo.name))
}

#[derive(Debug, Deserialize)]
pub(super) struct ServiceQuery {
    #[serde(default)]
    service: String,
}

pub(super) async fn git_refs(
    State(Api { app, git }): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<ServiceQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let row = open_source(&app, &uid, &headers).await?;
    if query.service != "git-upload-pack" {
        return Err(CallError::new(StatusCode::FORBIDDEN, "the source is read-only: git-upload-pack alone"));
    }
    Ok(git.info_refs(&git_access(&app, &row).await?, &headers).await)
}

pub(super) async fn git_upload_pack(
    State(Api { app, git }): State<Api>,
    Path(uid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let row = open_source(&app, &uid, &headers).await?;
    let body = whole(body, REQUEST_BYTES).await?;
    let run = app.store.run(&row.run_id).await?.ok_or_else(CallError::gone)?;
    Ok(git.upload_pack(&git_access(&app, &row).await?, &headers, body, &[run.head_sha]).await)
}
