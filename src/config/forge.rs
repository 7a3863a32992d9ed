//! Forges and their webhooks.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{ConfigError, SecretSource, refuse};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeConfig {
    pub kind: ForgeKind,
    /// Web and git URL, e.g. `https://github.com`.
    #[serde(default = "github_com")]
    pub url: String,
    /// Derived when absent: `https://api.github.com`, else the URL plus `/api/v3`.
    #[serde(default)]
    pub api_url: Option<String>,
    /// Plain http is refused unless this is set (a sandbox, a test).
    #[serde(default)]
    pub allow_http: bool,
    pub token: SecretSource,
    #[serde(default)]
    pub hook: Vec<HookConfig>,
}

fn github_com() -> String {
    "https://github.com".into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForgeKind {
    Github,
}

impl ForgeKind {
    /// First part of the hook's path.
    pub fn word(self) -> &'static str {
        match self {
            Self::Github => "github",
        }
    }
}

/// One webhook URL: `/hooks/<kind>/<id>`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    pub id: String,
    /// Every one of them is live (rotation).
    pub secrets: Vec<SecretSource>,
    /// Exactly one of both: a payload from elsewhere is answered 2xx and ignored.
    #[serde(default)]
    pub repository: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
}

impl ForgeConfig {
    pub fn api_url(&self) -> String {
        match &self.api_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if self.web_url() == "https://github.com" => "https://api.github.com".to_owned(),
            None => format!("{}/api/v3", self.web_url()),
        }
    }

    pub fn web_url(&self) -> &str {
        self.url.trim_end_matches('/')
    }

    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        for url in [self.web_url().to_owned(), self.api_url()] {
            if url.starts_with("http://") && !self.allow_http {
                return refuse(format!(
                    "forge {name}: {url} is plain http, which would send the token in clear; use https, or set allow_http = true for a forge on this machine"
                ));
            }
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return refuse(format!("forge {name}: {url:?} must start with https://"));
            }
        }
        Ok(())
    }
}

impl HookConfig {
    /// Shortest secret that is accepted, in bytes.
    pub const MIN_SECRET: usize = 16;

    pub(super) fn check(&self, forge: &str) -> Result<(), ConfigError> {
        let id_ok = !self.id.is_empty()
            && self.id.len() <= 64
            && self.id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !id_ok {
            return refuse(format!(
                "forge {forge}: hook id {:?} must be 1 to 64 letters, digits, `-` or `_`; it is part of the URL",
                self.id
            ));
        }
        if self.repository.is_some() == self.owner.is_some() {
            return refuse(format!(
                "forge {forge}: hook {} needs exactly one of repository = \"owner/name\" and owner = \"owner\"",
                self.id
            ));
        }
        if self.secrets.is_empty() {
            return refuse(format!(
                "forge {forge}: hook {} has no secret, so it would accept nothing; add one",
                self.id
            ));
        }
        Ok(())
    }

    /// Its live secrets, in the order of the file.
    ///
    /// # Errors
    /// One that cannot be read, or is too short to sign with: a sentence that names the hook and the secret.
    pub fn read_secrets(&self, forge: &str) -> Result<Vec<SecretString>, ConfigError> {
        let read = |source: &SecretSource| {
            let secret = source
                .read()
                .map_err(|e| ConfigError(format!("forge {forge}: hook {}: {}", self.id, e.0)))?;
            if secret.expose_secret().len() < Self::MIN_SECRET {
                return refuse(format!(
                    "forge {forge}: hook {}: {source} is shorter than {} bytes; make one with `openssl rand -hex 32`",
                    self.id,
                    Self::MIN_SECRET
                ));
            }
            Ok(secret)
        };
        self.secrets.iter().map(read).collect()
    }
}
