//! The `gitlab` crate's endpoints on our own transport: it knows what GitLab's calls look like, [`Rest`] sends them. The only file
//! beside its parent that names `gitlab`.

use std::borrow::Cow;

use async_trait::async_trait;
use bytes::Bytes;
use gitlab::api::{
    ApiError, AsyncClient, AsyncQuery, Endpoint, Pageable, Pagination, QueryParams, RestClient, paged, raw,
};
use hyper::http::request::Builder;
use hyper::{Method, Response};
use reqwest::Url;
use serde::de::DeserializeOwned;

use crate::forge::ForgeError;
use crate::forge::answer::MAX_ANSWER;
use crate::forge::rest::{Rest, unreadable};

/// One call, with the words that errors name it by.
struct Call<'a> {
    rest: &'a Rest,
    what: &'a str,
    cap: usize,
}

impl RestClient for Call<'_> {
    type Error = ForgeError;

    fn rest_endpoint(&self, endpoint: &str) -> Result<Url, ApiError<ForgeError>> {
        Ok(Url::parse(&format!("{}/{endpoint}", self.rest.base()))?)
    }
}

#[async_trait]
impl AsyncClient for Call<'_> {
    /// Sends it once. Whatever is not a success ends here, as the error that it means.
    async fn rest_async(
        &self,
        request: Builder,
        body: Vec<u8>,
    ) -> Result<Response<Bytes>, ApiError<ForgeError>> {
        let request = request.body(()).map_err(|e| ApiError::client(unreadable(self.what, e)))?;
        let (parts, ()) = request.into_parts();
        let url = parts.uri.to_string();
        let path =
            url.strip_prefix(self.rest.base()).filter(|path| path.starts_with('/')).ok_or_else(|| {
                // A `Link` header may lead anywhere.
                ApiError::client(unreadable(
                    self.what,
                    "it leads to another place, where the token is not sent",
                ))
            })?;
        let form = parts.headers.get("content-type").and_then(|v| v.to_str().ok());
        let mime = if form == Some("application/json") {
            "application/json"
        } else {
            "application/x-www-form-urlencoded"
        };
        let body = form.map(|_| (mime, body));
        let answer = self
            .rest
            .send(self.what, &parts.method, path, body.as_ref(), self.cap)
            .await
            .map_err(ApiError::client)?;
        let (status, headers) = (answer.status, answer.headers.clone());
        let bytes = answer.success(self.what, &parts.method).map_err(ApiError::client)?;
        let mut response = Response::new(Bytes::from(bytes));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

fn plain(what: &str, error: ApiError<ForgeError>) -> ForgeError {
    match error {
        ApiError::Client { source } => source,
        other => unreadable(what, other),
    }
}

pub(super) async fn ask<T, E>(rest: &Rest, what: &str, endpoint: &E) -> Result<T, ForgeError>
where
    T: DeserializeOwned + 'static,
    E: Endpoint + Sync,
{
    let call = Call { rest, what, cap: MAX_ANSWER };
    endpoint.query_async(&call).await.map_err(|e| plain(what, e))
}

/// Up to `limit` items, page by page.
pub(super) async fn list<T, E>(
    rest: &Rest,
    what: &str,
    endpoint: E,
    limit: usize,
) -> Result<Vec<T>, ForgeError>
where
    T: DeserializeOwned + Send + 'static,
    E: Endpoint + Pageable + Sync,
{
    let call = Call { rest, what, cap: MAX_ANSWER };
    paged(endpoint, Pagination::Limit(limit)).query_async(&call).await.map_err(|e| plain(what, e))
}

/// The answer's bytes, at most `cap`.
pub(super) async fn bytes<E: Endpoint + Sync>(
    rest: &Rest,
    what: &str,
    endpoint: E,
    cap: usize,
) -> Result<Vec<u8>, ForgeError> {
    let call = Call { rest, what, cap };
    raw(endpoint).query_async(&call).await.map_err(|e| plain(what, e))
}

/// A reading call that the crate lacks, or has with its parameters in the body of a GET (which proxies drop).
#[derive(Debug)]
pub(super) struct Get {
    pub path: String,
    pub parameters: Vec<(&'static str, String)>,
    pub keyset: bool,
}

impl Endpoint for Get {
    fn method(&self) -> Method {
        Method::GET
    }
    fn endpoint(&self) -> Cow<'static, str> {
        self.path.clone().into()
    }
    fn parameters(&self) -> QueryParams<'_> {
        let mut parameters = QueryParams::default();
        parameters.extend(self.parameters.iter().map(|(name, value)| (*name, value.as_str())));
        parameters
    }
}

impl Pageable for Get {
    fn use_keyset_pagination(&self) -> bool {
        self.keyset
    }
}
