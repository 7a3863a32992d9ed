//! The agent's calls to the daemon. Each may be repeated; [`Fault`] says what a failure means for the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng as _;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{Bootstrap, LogCommitted, PROTOCOL};

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// 410: the attempt has ended; nothing that we do counts any more.
    #[error("the daemon says that this attempt has ended")]
    Gone,
    /// 401: the token is not, or no longer, this attempt's.
    #[error("the daemon does not accept this attempt's token")]
    Unauthorized,
    /// 409 of a log chunk.
    #[error("the daemon expects the log at byte {}", .0.offset)]
    Conflict(LogCommitted),
    /// The same request would be refused again.
    #[error("the daemon refused it: {1}")]
    Refused(StatusCode, String),
    /// Away, overloaded, or cut off: try again.
    #[error("the daemon cannot be reached: {0}")]
    Retry(String),
}

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// `<url>/agent/v1/attempts/<uid>`
    base: String,
    rank: u32,
    token: String,
    answered: Arc<AtomicBool>,
}

impl Client {
    /// Speaks for the rank of the bootstrap, with its token.
    ///
    /// # Errors
    /// The URL is not one, or the TLS library cannot be set up.
    pub fn new(bootstrap: &Bootstrap) -> anyhow::Result<Self> {
        let trusted = match &bootstrap.ca {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .context("the bootstrap's CA cannot be read")?,
            None => Vec::new(),
        };
        // Certificates: those of the bootstrap only; never those of the user's image. No proxy and no redirect: the token
        // goes to the daemon or nowhere.
        let http = reqwest::Client::builder()
            .tls_certs_only(trusted)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Duration::from_secs(15))
            .tcp_user_timeout(Duration::from_mins(1))
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("trainyard-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up the HTTP client")?;
        let base = format!("{}/agent/v1/attempts/{}", bootstrap.url, bootstrap.uid);
        Ok(Self {
            http,
            base,
            rank: bootstrap.rank,
            token: bootstrap.token.clone(),
            answered: Arc::default(),
        })
    }

    /// Has the daemon ever answered, whatever it said?
    pub fn answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// The daemon's URL.
    pub fn daemon(&self) -> &str {
        self.base.split("/agent/v1/").next().unwrap_or_default()
    }

    #[must_use]
    pub fn with_token(&self, token: String) -> Self {
        Self { token, ..self.clone() }
    }

    /// Where git fetches the source from.
    pub fn git_url(&self) -> String {
        format!("{}/git", self.base)
    }
    pub fn authorization(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    /// A text without this attempt's token, should a program have printed it.
    pub fn hide_token(&self, text: &str) -> String {
        text.replace(&self.token, "***")
    }

    pub async fn post<T: DeserializeOwned>(&self, call: &str, body: &impl Serialize) -> Result<T, Fault> {
        let response = self.send(self.request(Method::POST, call, &[]).timeout(SHORT).json(body)).await?;
        response
            .json()
            .await
            .map_err(|e| Fault::Retry(format!("{call} was not answered as documented: {}", chain(&e))))
    }

    pub async fn post_no_answer(&self, call: &str, body: &impl Serialize) -> Result<(), Fault> {
        self.send(self.request(Method::POST, call, &[]).timeout(SHORT).json(body)).await.map(drop)
    }

    pub async fn log(&self, offset: u64, bytes: Vec<u8>) -> Result<LogCommitted, Fault> {
        let request = self.request(Method::POST, "log", &[("offset", &offset.to_string())]);
        let response = self.send(request.timeout(Duration::from_mins(2)).body(bytes)).await?;
        response.json().await.map_err(|e| Fault::Retry(chain(&e)))
    }

    pub async fn put_artifact(
        &self,
        path: &str,
        sha256: &str,
        executable: bool,
        bytes: u64,
        file: tokio::fs::File,
    ) -> Result<(), Fault> {
        let query = [("path", path), ("sha256", sha256), ("executable", if executable { "1" } else { "0" })];
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(
            tokio::io::AsyncReadExt::take(file, bytes),
            64 * 1024,
        ));
        let request = self.request(Method::PUT, "artifact", &query);
        self.send(request.header(reqwest::header::CONTENT_LENGTH, bytes).body(body)).await.map(drop)
    }

    pub async fn get_artifact(&self, attempt: &str, path: &str) -> Result<reqwest::Response, Fault> {
        self.send(self.request(Method::GET, &format!("artifact/{attempt}"), &[("path", path)])).await
    }

    /// The archive and the SHA-256 that it must have; None: nothing is kept under the key.
    pub async fn get_cache(&self, key: &str) -> Result<Option<(reqwest::Response, String)>, Fault> {
        match self.send(self.request(Method::GET, "cache", &[("key", key)])).await {
            Ok(response) => {
                let digest =
                    response.headers().get(CACHE_DIGEST).and_then(|v| v.to_str().ok()).map(str::to_owned);
                let digest = digest.ok_or_else(|| Fault::Retry("a cache came without its digest".into()))?;
                Ok(Some((response, digest)))
            }
            Err(Fault::Refused(StatusCode::NOT_FOUND, _)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// False: the key was taken before.
    pub async fn put_cache(
        &self,
        key: &str,
        sha256: &str,
        bytes: u64,
        file: tokio::fs::File,
    ) -> Result<bool, Fault> {
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(
            tokio::io::AsyncReadExt::take(file, bytes),
            64 * 1024,
        ));
        let request = self.request(Method::PUT, "cache", &[("key", key), ("sha256", sha256)]);
        let response = self.send(request.header(reqwest::header::CONTENT_LENGTH, bytes).body(body)).await?;
        Ok(response.status() == StatusCode::NO_CONTENT)
    }

    fn request(&self, method: Method, call: &str, query: &[(&str, &str)]) -> RequestBuilder {
        self.http
            .request(method, format!("{}/{call}", self.base))
            .query(&[("protocol", PROTOCOL), ("rank", self.rank)])
            .query(query)
            .bearer_auth(&self.token)
    }

    async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, Fault> {
        let response = request.send().await.map_err(|e| Fault::Retry(chain(&e)))?;
        self.answered.store(true, Ordering::Relaxed);
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(response),
            StatusCode::GONE => Err(Fault::Gone),
            StatusCode::UNAUTHORIZED => Err(Fault::Unauthorized),
            StatusCode::CONFLICT => {
                let text = response.text().await.unwrap_or_default();
                match serde_json::from_str(&text) {
                    Ok(committed) => Err(Fault::Conflict(committed)),
                    Err(_) => Err(Fault::Refused(status, said(status, &text))),
                }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(Fault::Retry(status.to_string()))
            }
            _ if status.is_server_error() => Err(Fault::Retry(status.to_string())),
            _ => Err(Fault::Refused(status, said(status, &response.text().await.unwrap_or_default()))),
        }
    }
}

/// Header of a cache's answer: lower-case hexadecimal.
pub const CACHE_DIGEST: &str = "x-trainyard-sha256";

const SHORT: Duration = Duration::from_secs(30);

/// What a refusal says.
fn said(status: StatusCode, text: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        error: String,
    }
    match serde_json::from_str(text) {
        Ok(Said { error }) => first_line(&error),
        Err(_) => format!("{status}: {}", first_line(text)),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// An error with its causes: reqwest's own text names the URL and hides the reason.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// Waits between tries: 100 ms doubling to 10 s, jittered by a quarter, so that a thousand agents do not return at once.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    pub async fn wait(&mut self) {
        let ms = (100_u64 << self.0.min(7)).min(10_000);
        self.0 += 1;
        let jitter = rand::rng().random_range(0..=ms / 4);
        tokio::time::sleep(Duration::from_millis(ms - jitter)).await;
    }
    pub fn reset(&mut self) {
        self.0 = 0;
    }
    pub fn tries(&self) -> u32 {
        self.0
    }
}
