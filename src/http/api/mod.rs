//! `/api/v1`: JSON for programs and for our own command line. Times are milliseconds since 1970, sizes bytes; lists are
//! keyset pages: an answer's `next` is the `cursor` of the page behind it, and a `Link` header has its address. Errors are
//! problem documents. [`openapi`] describes every call; a test holds it against the table of routes.

mod deliveries;
mod diff;
mod log_lines;
pub mod openapi;
mod pools;
mod repos;
mod results;
mod runs;
mod tokens;
mod why;

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::auth::escape_query;
use super::problem::Problem;

pub use deliveries::*;
pub use diff::*;
pub use log_lines::*;
pub use pools::*;
pub use repos::*;
pub use results::*;
pub use runs::*;
pub use tokens::*;
pub use why::*;

pub const PAGE: i64 = 50;
const PAGE_MAX: i64 = 200;

type Answer<T> = Result<Json<T>, Problem>;

/// `?cursor=&limit=` of every list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next` of the page before; absent: the first page.
    #[serde(default)]
    #[param(pattern = "^([^\\u0000]* )?[0-9a-f-]{36}$", max_length = 400)]
    pub cursor: Option<String>,
    /// Rows of one page; 50 when absent.
    #[serde(default)]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<i64>,
}

impl PageQuery {
    /// # Errors
    /// A limit or a cursor that no page has.
    pub fn check(&self) -> Result<(Option<&str>, i64), Problem> {
        page(self.cursor.as_deref(), self.limit)
    }
}

/// Cursors are ids of rows, or for repositories a name and an id.
fn page(cursor: Option<&str>, limit: Option<i64>) -> Result<(Option<&str>, i64), Problem> {
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be 1 to {PAGE_MAX}")));
    }
    if cursor.is_some_and(|c| c.len() > 400 || !ends_with_id(c)) {
        return Err(Problem::bad_request("the cursor is not one of ours; take `next` of the page before"));
    }
    Ok((cursor, limit))
}

fn ends_with_id(text: &str) -> bool {
    let id = text.rsplit(' ').next().unwrap_or_default();
    id.len() == 36 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f') || b == b'-')
}

/// The answer with an `ETag`; 304 without a body for whoever has it already.
fn tagged<T: Serialize>(asked: &HeaderMap, value: &T) -> Response {
    let body = match serde_json::to_vec(value) {
        Ok(body) => body,
        Err(error) => return Problem::internal("the answer is not JSON", &error).into_response(),
    };
    let etag = format!("\"{}\"", &hex::encode(Sha256::digest(&body))[..32]);
    let tag = [(header::ETAG, etag.clone())];
    if has(asked, &etag) {
        return (StatusCode::NOT_MODIFIED, tag).into_response();
    }
    (tag, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Does `If-None-Match` name this tag?
fn has(asked: &HeaderMap, etag: &str) -> bool {
    let given = asked.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    given.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == etag)
}

/// One page of a list: `Link` leads to the next.
fn listed<T: Serialize>(asked: &HeaderMap, value: &T, path: &str, query: &[(&str, String)]) -> Response {
    let mut response = tagged(asked, value);
    if query.iter().any(|(key, value)| *key == "cursor" && !value.is_empty()) {
        let pairs: Vec<String> = query
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key}={}", escape_query(value)))
            .collect();
        if let Ok(link) = HeaderValue::from_str(&format!("<{path}?{}>; rel=\"next\"", pairs.join("&"))) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}

/// What a changing call did.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// False: there was nothing to change.
    pub changed: bool,
    pub detail: String,
}

/// A JSON body; an empty one is an empty object.
pub(super) fn json_body<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    let text: &[u8] = if body.is_empty() || body.trim_ascii() == b"null" { b"{}" } else { body };
    serde_json::from_slice(text)
        .map_err(|e| Problem::bad_request(format!("the body is not what this call takes: {e}")))
}
