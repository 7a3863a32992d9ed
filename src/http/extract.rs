//! Extractors whose refusals are problem documents, like every other answer of the API.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Parts of the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// The query's parameters.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(why) => Err(Problem::bad_request(why.body_text())),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(why) => Err(Problem::bad_request(why.body_text())),
        }
    }
}

/// The whole body, within the listener's limit.
#[derive(Debug)]
pub struct Bytes(pub axum::body::Bytes);

/// A form's fields.
#[derive(Debug)]
pub struct Form<T>(pub T);

/// A refusal of axum's, in its words but for the one that says nothing to people.
fn refused(status: StatusCode, text: String) -> Problem {
    let detail =
        if status == StatusCode::PAYLOAD_TOO_LARGE { "the body is larger than 64 KiB".into() } else { text };
    Problem::new(status, detail)
}

impl<S: Send + Sync> FromRequest<S> for Bytes {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::body::Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(why) => Err(refused(why.status(), why.body_text())),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::extract::Form::<T>::from_request(request, state).await {
            Ok(axum::extract::Form(value)) => Ok(Self(value)),
            Err(why) => Err(refused(why.status(), why.body_text())),
        }
    }
}
