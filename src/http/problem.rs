//! Errors as people and programs read them: RFC 9457 problem documents on the API, an error page on the dashboard.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::blob::BlobError;
use crate::store::StoreError;

/// What went wrong. `detail` says what to do next and holds nothing that the caller may not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}, or this token may not see it"))
    }
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }
    /// A failure of ours: logged with its cause under a number, of which the caller is told.
    pub fn internal(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        let request = hex::encode(rand::random::<[u8; 4]>());
        tracing::error!(request.id = request, %error, "cannot answer a request: {what}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("it failed on trainyard's side; the daemon's log says why, with request.id {request}"),
        )
    }
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.code();
        let mut response = (code, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if code == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"trainyard\""));
        }
        if code == StatusCode::SERVICE_UNAVAILABLE || code == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        // The dashboard turns it into a page.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::error!(%error, "cannot answer a request: the store is not available");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the database is not available; try again in a moment",
                )
            }
            error => Self::internal("the store failed", &error),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing(_) => Self::new(StatusCode::GONE, "these bytes were deleted by retention"),
            error => {
                tracing::error!(error = %error, "cannot answer a request: the blob store failed");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the blob store is not available; try again in a moment",
                )
            }
        }
    }
}

impl From<askama::Error> for Problem {
    fn from(error: askama::Error) -> Self {
        Self::internal("its page could not be rendered", &error)
    }
}
