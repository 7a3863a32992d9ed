//! A call that is not served, as the protocol's table of statuses says.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::blob::BlobError;
use crate::http::logs;
use crate::store::StoreError;

/// A call that is not served, as the protocol's table of statuses says.
#[derive(Debug)]
pub(super) struct CallError {
    status: StatusCode,
    message: String,
}

impl CallError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "this is not, or no longer, the token of this attempt")
    }
    pub(super) fn gone() -> Self {
        Self::new(StatusCode::GONE, "the attempt has ended")
    }
    pub(super) fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon cannot store anything at the moment; try again",
        )
    }
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "cannot serve an agent");
        Self::unavailable()
    }
}

impl From<BlobError> for CallError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing(_) => Self::new(StatusCode::NOT_FOUND, "its bytes are no longer kept"),
            BlobError::TooLarge(limit) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("an artifact may have {limit} bytes"))
            }
            BlobError::Sender(message) => Self::bad(format!("the body broke off: {message}")),
            BlobError::Unavailable(_) => {
                tracing::error!(%error, "cannot serve an agent");
                Self::unavailable()
            }
        }
    }
}

impl From<logs::LogError> for CallError {
    fn from(error: logs::LogError) -> Self {
        match error {
            logs::LogError::Store(error) => error.into(),
            logs::LogError::Blob(error) => error.into(),
            logs::LogError::Hole { .. } => {
                tracing::error!(%error, "cannot serve an agent");
                Self::unavailable()
            }
        }
    }
}
