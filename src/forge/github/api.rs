//! One request to GitHub's REST API and what its answer means. The only file that names `octocrab`.
//!
//! Must not: try twice (the outbox and the work queue do), send the credential anywhere but to the configured scheme, host and
//! port, put a body or a token into an error or a log line.

use futures_util::TryFutureExt;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response, Uri};
use octocrab::{AuthState, OctoBody, Octocrab, OctocrabBuilder};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::BoxError;

use crate::config::ForgeConfig;
use crate::forge::ForgeError;
use crate::forge::answer::{Answer, MAX_ANSWER, MAX_REDIRECTS, chain, refused, same_host};
use crate::forge::rest::{http_client, no_answer};

pub(super) struct Api {
    crab: Octocrab,
    /// Without a trailing slash.
    base: String,
}

impl Api {
    /// Must be called within a tokio runtime, where octocrab starts its worker.
    pub fn connect(config: &ForgeConfig, token: SecretString) -> Result<Self, BoxError> {
        let base = config.api_url();
        let crab = client(&base, http_client(config)?, AuthState::AccessToken { token })?;
        Ok(Self { crab, base })
    }

    pub async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, ForgeError> {
        self.exchange(Method::GET, what, path, None).await?.read(what, &Method::GET)
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &Value,
    ) -> Result<T, ForgeError> {
        self.exchange(Method::POST, what, path, Some(body)).await?.read(what, &Method::POST)
    }

    pub async fn patch<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &Value,
    ) -> Result<T, ForgeError> {
        self.exchange(Method::PATCH, what, path, Some(body)).await?.read(what, &Method::PATCH)
    }

    /// One call. `path` starts with a slash, is percent-encoded, and is below the configured API URL.
    pub async fn exchange(
        &self,
        method: Method,
        what: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ForgeError> {
        let transient = |message: String| ForgeError::Transient { what: what.to_owned(), message };
        let mut path = path.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let uri: Uri =
                path.parse().map_err(|e| refused(what, 400, format!("{path:?} is no path: {e}")))?;
            let sent = match (&method, body) {
                (&Method::POST, body) => self.crab._post(uri, body).await,
                (&Method::PATCH, body) => self.crab._patch(uri, body).await,
                _ => self.crab._get(uri).await,
            };
            let answer = sent.map_err(|e| no_answer(what, &e))?;
            let (parts, body) = answer.into_parts();
            if parts.status.is_redirection() && parts.headers.contains_key("location") {
                path = same_host(&self.base, what, &method, parts.status, &parts.headers)?;
                continue;
            }
            let body =
                Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| transient(chain(e.as_ref())))?;
            return Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes().into() });
        }
        Err(transient(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// The one place where a client is made: an App's installation would be another [`AuthState`].
///
/// `reqwest` carries the bytes, since octocrab's own client follows redirects to other hosts.
fn client(base: &str, http: reqwest::Client, auth: AuthState) -> Result<Octocrab, BoxError> {
    let base = base.to_owned();
    let service = tower::service_fn(move |request: Request<OctoBody>| {
        let (http, base) = (http.clone(), base.clone());
        async move {
            let (parts, body) = request.into_parts();
            if parts.uri.authority().is_some() {
                return Err(BoxError::from("a request must stay below the configured API URL"));
            }
            let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
            let mut call = http.request(parts.method, format!("{base}{path}")).headers(parts.headers);
            let body = body.collect().map_err(BoxError::from).await?.to_bytes();
            if !body.is_empty() {
                call = call.body(body);
            }
            // The URL may hold a branch name.
            let answer = call.send().await.map_err(reqwest::Error::without_url)?;
            Ok(Response::<reqwest::Body>::from(answer))
        }
    });
    Ok(OctocrabBuilder::new_empty().with_service(service).with_auth(auth).build()?)
}
