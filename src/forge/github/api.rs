//! One request to GitHub's REST API and what its answer means. The only file that names `octocrab`.
//!
//! Must not: try twice (the outbox and the work queue do), send the credential anywhere but to the configured scheme, host and
//! port, put a body or a token into an error or a log line.

use std::time::Duration;

use futures_util::TryFutureExt;
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response, StatusCode, Uri, header::HeaderMap};
use octocrab::{AuthState, OctoBody, Octocrab, OctocrabBuilder};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::BoxError;

use crate::forge::ForgeError;

/// Largest answer that is read. A folder of 100,000 entries takes 15 MB.
const MAX_ANSWER: usize = 32 << 20;
/// For a whole call, its answer included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// GitHub asks for at least a minute when it names no time.
const DEFAULT_WAIT_MS: i64 = 60_000;
/// A limit is never longer than an hour; whatever a header says, look again by then.
const MAX_WAIT_MS: i64 = 3_600_000;
/// A renamed repository answers with one redirect.
const MAX_REDIRECTS: usize = 3;

pub(super) struct Api {
    crab: Octocrab,
    /// Without a trailing slash.
    base: String,
}

/// What came back, whatever its status.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Api {
    /// Must be called within a tokio runtime, where octocrab starts its worker.
    pub fn connect(base: &str, allow_http: bool, token: SecretString) -> Result<Self, BoxError> {
        let base = base.trim_end_matches('/').to_owned();
        let crab = client(&base, allow_http, AuthState::AccessToken { token })?;
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
            let answer = sent.map_err(|e| transient(chain(&e)))?;
            let (parts, body) = answer.into_parts();
            if parts.status.is_redirection() && parts.headers.contains_key("location") {
                path = self.same_host(what, &method, parts.status, &parts.headers)?;
                continue;
            }
            let body =
                Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| transient(chain(e.as_ref())))?;
            return Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes().into() });
        }
        Err(transient(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The path that a redirect leads to, if it stays below the configured API URL: the credential goes nowhere else.
    fn same_host(
        &self,
        what: &str,
        method: &Method,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<String, ForgeError> {
        let location = headers.get("location").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let keeps_method = matches!(status.as_u16(), 307 | 308);
        match location.strip_prefix(&self.base) {
            Some(path) if path.starts_with('/') && (keeps_method || *method == Method::GET) => {
                Ok(path.to_owned())
            }
            _ => Err(refused(
                what,
                status.as_u16(),
                "it redirects to another place, where the token is not sent".into(),
            )),
        }
    }
}

/// The one place where a client is made: an App's installation would be another [`AuthState`].
///
/// `reqwest` carries the bytes, since octocrab's own client follows redirects to other hosts.
fn client(base: &str, allow_http: bool, auth: AuthState) -> Result<Octocrab, BoxError> {
    let mut http = reqwest::Client::builder()
        .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(CALL_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .https_only(!allow_http);
    if ["http://127.", "http://[::1]", "http://localhost"].iter().any(|own| base.starts_with(own)) {
        http = http.no_proxy();
    }
    let http = http.build()?;
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

#[derive(Deserialize)]
struct Complaint {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Value,
}

impl Answer {
    fn read<T: DeserializeOwned>(self, what: &str, method: &Method) -> Result<T, ForgeError> {
        let body = self.success(what, method)?;
        serde_json::from_slice(&body).map_err(|e| ForgeError::Transient {
            what: what.to_owned(),
            message: format!("the answer cannot be read: {e}"),
        })
    }

    /// What GitHub says about its refusal, short.
    pub fn complaint(&self) -> String {
        let Ok(said) = serde_json::from_slice::<Complaint>(&self.body) else {
            return "no reason given".into();
        };
        let mut text = said.message;
        if !said.errors.is_null() {
            text = format!("{text} {}", said.errors);
        }
        text.truncate(text.floor_char_boundary(300));
        text
    }

    /// The body of a 2xx; anything else as the error it means.
    pub fn success(self, what: &str, method: &Method) -> Result<Vec<u8>, ForgeError> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let (status, message, what) = (self.status.as_u16(), self.complaint(), what.to_owned());
        let read = *method == Method::GET;
        Err(match status {
            403 | 429 => match self.limit(&message) {
                Some(wait_ms) => ForgeError::Limited { what, wait_ms },
                None => ForgeError::Refused { what, status, message },
            },
            // 409 on a read: the repository is empty.
            404 | 409 | 410 if read => ForgeError::NotFound { what },
            408 | 425 | 500.. => ForgeError::Transient { what, message: format!("{status}: {message}") },
            _ => ForgeError::Refused { what, status, message },
        })
    }

    /// How long to wait, when a 403 or 429 is a rate limit and not a missing right (GitHub documents both limits at
    /// docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api).
    fn limit(&self, message: &str) -> Option<i64> {
        let number = |name: &str| self.headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
        let wait = if let Some(seconds) = number("retry-after") {
            seconds.saturating_mul(1000)
        } else if number("x-ratelimit-remaining") == Some(0) {
            // Both times are the server's, so that our clock does not matter.
            let date = self.headers.get("date").and_then(|v| v.to_str().ok());
            let now = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp().as_second());
            match (number("x-ratelimit-reset"), now) {
                (Some(reset), Some(now)) => reset.saturating_sub(now).saturating_add(1).saturating_mul(1000),
                _ => DEFAULT_WAIT_MS,
            }
        } else {
            let said = message.to_lowercase();
            let named = said.contains("rate limit") || said.contains("abuse detection");
            if !named && self.status != StatusCode::TOO_MANY_REQUESTS {
                return None;
            }
            DEFAULT_WAIT_MS
        };
        Some(wait.clamp(1_000, MAX_WAIT_MS))
    }
}

pub(super) fn refused(what: &str, status: u16, message: String) -> ForgeError {
    ForgeError::Refused { what: what.to_owned(), status, message }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text.truncate(text.floor_char_boundary(300));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(k, v)| (k.parse().expect("name"), v.parse().expect("value")))
            .collect::<HeaderMap>();
        Answer { status: StatusCode::from_u16(status).expect("status"), headers, body: body.into() }
    }

    /// Method, status, headers, body, meaning.
    type Row = (Method, u16, &'static [(&'static str, &'static str)], &'static str, &'static str);

    #[test]
    fn what_an_answer_means() {
        const DATE: (&str, &str) = ("date", "Mon, 23 Nov 2026 16:00:00 GMT");
        const SECONDARY: &str = r#"{"message":"You have exceeded a secondary rate limit. Please wait."}"#;
        const DENIED: &str = r#"{"message":"Resource not accessible by personal access token"}"#;
        const HTML: &str = "<html>502</html>";
        #[rustfmt::skip]
        let rows: &[Row] = &[
            (Method::GET, 200, &[], "{}", "ok"),
            (Method::POST, 201, &[], "{}", "ok"),
            (Method::GET, 404, &[], "{}", "not found"),
            (Method::GET, 410, &[], "{}", "not found"),
            (Method::GET, 409, &[], r#"{"message":"Git Repository is empty."}"#, "not found"),
            (Method::POST, 404, &[], "{}", "refused 404"),
            (Method::PATCH, 410, &[], "{}", "refused 410"),
            (Method::GET, 401, &[], r#"{"message":"Bad credentials"}"#, "refused 401"),
            (Method::POST, 422, &[], r#"{"message":"Validation Failed","errors":["x"]}"#, "refused 422"),
            (Method::GET, 451, &[], "", "refused 451"),
            (Method::GET, 400, &[], HTML, "refused 400"),
            (Method::POST, 403, &[], DENIED, "refused 403"),
            (Method::POST, 403, &[("x-ratelimit-remaining", "4999")], DENIED, "refused 403"),
            (Method::POST, 403, &[], SECONDARY, "limited 60000"),
            (Method::POST, 403, &[("x-ratelimit-remaining", "4999")], SECONDARY, "limited 60000"),
            (Method::POST, 403, &[], r#"{"message":"You have triggered an abuse detection mechanism"}"#, "limited 60000"),
            (Method::POST, 403, &[("retry-after", "7")], DENIED, "limited 7000"),
            (Method::POST, 429, &[("retry-after", "120")], "", "limited 120000"),
            (Method::GET, 429, &[], HTML, "limited 60000"),
            (Method::GET, 429, &[("retry-after", "0")], "", "limited 1000"),
            (Method::GET, 429, &[("retry-after", "-5")], "", "limited 1000"),
            (Method::GET, 429, &[("retry-after", "99999999999999999")], "", "limited 3600000"),
            (Method::GET, 429, &[("retry-after", "soon")], "", "limited 60000"),
            (Method::GET, 403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795449900"), DATE], "{}", "limited 301000"),
            (Method::GET, 403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1"), DATE], "{}", "limited 1000"),
            (Method::GET, 403, &[("x-ratelimit-remaining", "0")], "{}", "limited 60000"),
            (Method::GET, 408, &[], "", "transient"),
            (Method::GET, 500, &[], HTML, "transient"),
            (Method::POST, 502, &[], HTML, "transient"),
            (Method::GET, 503, &[("retry-after", "7")], "", "transient"),
            (Method::GET, 304, &[], "", "refused 304"),
        ];
        for (method, status, headers, body, want) in rows {
            let got = match answer(*status, headers, body).success("x", method) {
                Ok(_) => "ok".to_owned(),
                Err(ForgeError::NotFound { .. }) => "not found".to_owned(),
                Err(ForgeError::Refused { status, .. }) => format!("refused {status}"),
                Err(ForgeError::Limited { wait_ms, .. }) => format!("limited {wait_ms}"),
                Err(ForgeError::Transient { .. }) => "transient".to_owned(),
            };
            assert_eq!(&got, want, "{method} {status} {headers:?} {body}");
        }
        println!("FIGURE github_answers cases={} failed=0", rows.len());
    }
}
