//! API tokens, and who a token says one is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openapi::Refusals;
use super::{Answer, Done, json_body};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::{self, Who};
use crate::http::extract::{Bytes, Path};
use crate::http::problem::Problem;
use crate::http::text;
use crate::model::RepoId;
use crate::store::pulls::RepoRow;
use crate::store::tokens::{Scope, TokenRow};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    pub name: String,
    pub scope: Option<Scope>,
    pub repo: Option<String>,
}

/// Who the caller is
#[utoipa::path(get, path = "/api/v1/whoami", tag = "tokens", responses((status = 200, description = "The caller", body = WhoAmI), Refusals))]
pub async fn whoami(Extension(who): Extension<Who>) -> Json<WhoAmI> {
    Json(WhoAmI { name: who.name, scope: who.scope, repo: who.repo.map(|r| r.to_string()) })
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenJson {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    /// Row id of the repository it is bound to.
    pub repo: Option<String>,
    pub created_ms: Millis,
    pub revoked_ms: Option<Millis>,
    /// Its text: in the answer that makes it, and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl TokenJson {
    fn new(row: TokenRow, token: Option<String>) -> Self {
        Self {
            id: row.id,
            name: row.name,
            scope: row.scope,
            repo: row.repo,
            created_ms: row.created_ms,
            revoked_ms: row.revoked_ms,
            token,
        }
    }
}

/// Every API token, without its text
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, description = "Without their text", body = Vec<TokenJson>), Refusals))]
pub async fn tokens(State(web): State<Web>) -> Answer<Vec<TokenJson>> {
    let rows = web.app.store.tokens().await?;
    Ok(Json(rows.into_iter().map(|row| TokenJson::new(row, None)).collect()))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenAsk {
    /// Who uses it.
    #[schema(pattern = "[^\\s]")]
    pub name: String,
    pub scope: Scope,
    /// `owner/name`; absent: every repository.
    #[serde(default)]
    pub repo: Option<String>,
}

/// No repository's name holds a NUL, and Postgres takes no text with one.
async fn find(web: &Web, text: &str) -> Result<Option<RepoRow>, Problem> {
    if text.contains('\0') {
        return Ok(None);
    }
    Ok(web.app.store.find_repo(text).await?)
}

/// Makes an API token
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenAsk, responses((status = 201, description = "With its text, this once", body = TokenJson), Refusals))]
pub async fn create_token(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Bytes(body): Bytes,
) -> Result<Response, Problem> {
    let ask: TokenAsk = json_body(&body)?;
    let name = text::shown_cut(ask.name.trim(), 80).to_string();
    if name.is_empty() {
        return Err(Problem::bad_request("give the token a name that says who uses it"));
    }
    let repo: Option<RepoId> = match &ask.repo {
        None => None,
        Some(text) => {
            let unknown = || {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    "no delivery has come from that repository yet; write owner/name as the forge does",
                )
            };
            Some(find(&web, text).await?.ok_or_else(unknown)?.id)
        }
    };
    let (row, text) =
        auth::create_token(&web.app.store, &name, ask.scope, repo, web.app.clock.now_ms()).await?;
    tracing::info!(token.id = row.id, token.scope = %row.scope, who = who.actor(), "made an API token");
    Ok((StatusCode::CREATED, Json(TokenJson::new(row, Some(text)))).into_response())
}

/// Ends a token and the logins made with it
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", tag = "tokens", params(("token" = String, Path, description = "The token's id")), responses((status = 200, description = "Revoked", body = Done), Refusals))]
pub async fn revoke_token(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Done> {
    if !web.app.store.revoke_token(&id, web.app.clock.now_ms()).await? {
        return Err(Problem::not_found("live token"));
    }
    tracing::info!(token.id = id, who = who.actor(), "revoked an API token");
    Ok(Json(Done { changed: true, detail: "revoked, with its sessions".into() }))
}
