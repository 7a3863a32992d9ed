//! The API's client for the commands that talk to a daemon: where it is, with which token, what its refusals mean.
//!
//! On the daemon's machine nothing has to be said: the address and the admin token come from its configuration. From elsewhere
//! `TRAINYARD_URL` and `TRAINYARD_TOKEN` name them; there is no option for the token, since others can read command lines.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::{Method, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::exit::{TimedOut, Unreachable};
use crate::config::{Config, ConfigError};
use crate::http::problem::Problem;

#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The daemon's configuration, for its address and admin token
    #[arg(
        long,
        global = true,
        env = "TRAINYARD_CONFIG",
        default_value = "/etc/trainyard/trainyard.toml",
        value_name = "FILE"
    )]
    pub config: PathBuf,
    /// The dashboard's address, when the daemon runs elsewhere; the token comes from `TRAINYARD_TOKEN` then
    #[arg(long, global = true, env = "TRAINYARD_URL", value_name = "URL")]
    pub url: Option<String>,
}

pub struct Client {
    http: reqwest::Client,
    base: String,
    token: SecretString,
}

/// The daemon's refusal, for the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.detail)]
pub struct Refused(pub Problem);

impl Client {
    pub fn new(place: &Place) -> anyhow::Result<Self> {
        let from_environment = std::env::var("TRAINYARD_TOKEN").ok().filter(|t| !t.trim().is_empty());
        let (base, token) = match (&place.url, from_environment) {
            (Some(url), Some(token)) => (url.clone(), token),
            (Some(_), None) => {
                return Err(ConfigError(
                    "set TRAINYARD_TOKEN to a token of that daemon; `trainyard token create` makes one there"
                        .into(),
                )
                .into());
            }
            (None, token) => {
                let config = Config::load(&place.config)?;
                let mut at = config.listen.app;
                if at.ip().is_unspecified() {
                    at.set_ip(if at.is_ipv4() {
                        [127, 0, 0, 1].into()
                    } else {
                        std::net::Ipv6Addr::LOCALHOST.into()
                    });
                }
                let token = if let Some(token) = token {
                    token
                } else {
                    let file = config.data_dir.join("admin.token");
                    std::fs::read_to_string(&file).with_context(|| {
                        format!(
                            "cannot read {}; run this as the daemon's user, or set TRAINYARD_TOKEN",
                            file.display()
                        )
                    })?
                };
                (format!("http://{at}"), token)
            }
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot make an HTTP client")?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token: SecretString::from(token.trim().to_owned()) })
    }

    /// Sends a request to `path` below `/api/v1` and returns the answer once its head is there.
    ///
    /// # Errors
    /// Nobody listens there, or a [`Refused`] with the daemon's own sentence.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<Response> {
        let url = format!("{}/api/v1{path}", self.base);
        let mut request = self.http.request(method, &url).bearer_auth(self.token.expose_secret());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| anyhow::Error::from(error).context(Unreachable(self.base.clone())))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        match response.json::<Problem>().await {
            Ok(problem) => Err(Refused(problem).into()),
            Err(_) => bail!(
                "{} answered {status}, which is not how trainyard answers; check the address",
                self.base
            ),
        }
    }

    /// A call that a daemon answers at once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<T> {
        let answer = tokio::time::timeout(Duration::from_mins(1), async {
            self.send(method, path, &[], body)
                .await?
                .json::<T>()
                .await
                .context("cannot read the daemon's answer")
        });
        answer.await.map_err(|_| TimedOut("the daemon did not answer within 60 s".into()))?
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, None).await
    }
}

/// One path segment: ids and names that the caller typed.
///
/// # Errors
/// Text that would change the path.
pub fn segment(text: &str) -> anyhow::Result<&str> {
    ensure!(
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
        "{text:?} is not an id; copy one from `trainyard runs list` (its first eight characters do) or `trainyard token list`"
    );
    Ok(text)
}
