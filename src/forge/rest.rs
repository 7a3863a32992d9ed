//! Plain HTTPS to a forge with one credential: the transport of GitLab and Gitea, and the settings of every forge's client.
//!
//! Must not: try twice (the outbox and the work queue do), send the credential anywhere but below the configured API URL, put a
//! body, a URL or a token into an error or a log line.

use std::fmt;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tower::BoxError;

use super::ForgeError;
use super::answer::{Answer, MAX_ANSWER, MAX_REDIRECTS, chain, refused, same_host};
use crate::config::{ConfigError, ForgeConfig};
use crate::model::RepoName;

/// For a whole call, its answer included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a connection of git: a forge may take long to count the objects of a large repository.
const GIT_SILENCE: Duration = Duration::from_mins(2);

/// A client for the API: no redirects, no second tries, TLS trusted by this machine or by the forge's `ca_file` alone.
pub(super) fn http_client(config: &ForgeConfig) -> Result<reqwest::Client, BoxError> {
    Ok(settings(config, &config.api_url())?
        .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
        .read_timeout(CALL_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .build()?)
}

/// A client for git over HTTP, on which the source of attempts is fetched.
pub(super) fn git_client(config: &ForgeConfig) -> Result<reqwest::Client, BoxError> {
    Ok(settings(config, config.web_url())?
        .user_agent(concat!("git/2.0 (trainyard ", env!("CARGO_PKG_VERSION"), ")"))
        .read_timeout(GIT_SILENCE)
        .build()?)
}

fn settings(config: &ForgeConfig, base: &str) -> Result<reqwest::ClientBuilder, BoxError> {
    let mut http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .https_only(!config.allow_http);
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path).map_err(|e| format!("cannot read ca_file {}: {e}", path.display()))?;
        let roots = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|e| format!("ca_file {} holds no usable certificate: {}", path.display(), chain(&e)))?;
        if roots.is_empty() {
            return Err(format!("ca_file {} holds no PEM certificate", path.display()).into());
        }
        http = http.tls_certs_only(roots);
    }
    if [
        "http://127.",
        "http://[::1]",
        "http://localhost",
        "https://127.",
        "https://[::1]",
        "https://localhost",
    ]
    .iter()
    .any(|own| base.starts_with(own))
    {
        http = http.no_proxy();
    }
    Ok(http)
}

pub(super) fn unusable(config: &ForgeConfig, error: impl Into<BoxError>) -> ConfigError {
    let (url, error) = (config.api_url(), error.into());
    ConfigError(format!(
        "cannot make a client for {url}: {}; check the forge's url, api_url and ca_file",
        chain(&*error)
    ))
}

/// What a failure to get any answer means, with advice where a certificate is the reason.
pub(super) fn no_answer(what: &str, error: &(dyn std::error::Error + 'static)) -> ForgeError {
    let mut message = chain(error);
    if message.contains("certificate") {
        message = format!(
            "the forge's TLS certificate is not trusted ({message}); set ca_file of this forge to the PEM file of the CA that signed it"
        );
    }
    ForgeError::Transient { what: what.to_owned(), message }
}

/// A body with its media type.
pub(super) type Body = (&'static str, Vec<u8>);

/// One forge's REST API.
pub(super) struct Rest {
    http: reqwest::Client,
    /// Without a trailing slash.
    base: String,
    credential: (HeaderName, HeaderValue),
}

impl Rest {
    /// `scheme` stands before the token in the header's value.
    pub fn connect(
        config: &ForgeConfig,
        header: HeaderName,
        scheme: &str,
        token: &SecretString,
    ) -> Result<Self, ConfigError> {
        let http = http_client(config).map_err(|e| unusable(config, e))?;
        let mut value = HeaderValue::from_str(&format!("{scheme}{}", token.expose_secret()))
            .map_err(|_| unusable(config, "its token cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(Self { http, base: config.api_url(), credential: (header, value) })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// One call. `path` starts with a slash, is percent-encoded, and is below the configured API URL. An answer over `cap` bytes
    /// is `Refused` with 413.
    pub async fn send(
        &self,
        what: &str,
        method: &Method,
        path: &str,
        body: Option<&Body>,
        cap: usize,
    ) -> Result<Answer, ForgeError> {
        let mut path = path.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut call = self
                .http
                .request(method.clone(), format!("{}{path}", self.base))
                .header(self.credential.0.clone(), self.credential.1.clone())
                .header("accept", "application/json");
            if let Some((mime, bytes)) = body {
                call = call.header("content-type", *mime).body(bytes.clone());
            }
            // The URL may hold a branch name.
            let mut answer = call.send().await.map_err(|e| no_answer(what, &e.without_url()))?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            if status.is_redirection() && headers.contains_key("location") {
                path = same_host(&self.base, what, method, status, &headers)?;
                continue;
            }
            let mut bytes = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|e| no_answer(what, &e.without_url()))? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > cap {
                    let unit = if cap >= MAX_ANSWER { "the answer" } else { "the file" };
                    return Err(refused(what, 413, format!("{unit} is larger than {cap} bytes")));
                }
            }
            return Ok(Answer { status, headers, body: bytes });
        }
        Err(ForgeError::Transient {
            what: what.to_owned(),
            message: format!("more than {MAX_REDIRECTS} redirects"),
        })
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters, so that no value can leave its place in a URL.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.extend(['%', HEX[usize::from(byte >> 4)].into(), HEX[usize::from(byte & 15)].into()]);
            }
        }
    }
    out
}

/// Each part of a path by itself; its slashes stay.
pub(super) fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

pub(super) fn shown(repo: &RepoName, what: impl fmt::Display) -> String {
    format!("{repo}: {what}")
}

/// A part that could change the meaning of a path is answered without asking: URL parsers resolve dots, even encoded ones.
pub(super) fn climbs(part: &str) -> bool {
    matches!(part, "" | "." | "..")
}

pub(super) fn unreadable(what: &str, why: impl fmt::Display) -> ForgeError {
    ForgeError::Transient { what: what.to_owned(), message: format!("the answer cannot be used: {why}") }
}
