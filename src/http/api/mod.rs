//! `/api/v1`: JSON for programs and for our own command line. Times are milliseconds since 1970, sizes bytes; lists are
//! keyset pages (`?before=<id of the last row>&limit=`). Errors are problem documents.

mod deliveries;
mod pools;
mod results;
mod runs;
mod tokens;

use axum::Json;
use axum::body::Bytes;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

pub use deliveries::*;
pub use pools::*;
pub use results::*;
pub use runs::*;
pub use tokens::*;

pub const PAGE: i64 = 50;
const PAGE_MAX: i64 = 200;

type Answer<T> = Result<Json<T>, Problem>;

#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub limit: Option<i64>,
}

/// What a changing call did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// False: there was nothing to change.
    pub changed: bool,
    pub detail: String,
}

/// A JSON body; an empty one is an empty object.
pub(super) fn json_body<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text)
        .map_err(|e| Problem::bad_request(format!("the body is not what this call takes: {e}")))
}
