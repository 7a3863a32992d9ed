//! Forges and their webhooks.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{ConfigError, SecretSource, refuse};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeConfig {
    pub kind: ForgeKind,
    /// Web and git URL. Default: `https://github.com`, `https://gitlab.com`; a Gitea has none.
    #[serde(default)]
    pub url: String,
    /// Derived when absent: `https://api.github.com`, else the URL plus `/api/v3`, `/api/v4` or `/api/v1`.
    #[serde(default)]
    pub api_url: Option<String>,
    /// Plain http is refused unless this is set (a sandbox, a test).
    #[serde(default)]
    pub allow_http: bool,
    /// PEM file of the private CA that signed this forge's certificate. Then nothing else is trusted for it.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    pub token: SecretSource,
    #[serde(default)]
    pub hook: Vec<HookConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ForgeKind {
    Github,
    Gitlab,
    /// Gitea and Forgejo.
    Gitea,
}

impl ForgeKind {
    /// First part of the hook's path.
    pub fn word(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Gitea => "gitea",
        }
    }
}

/// One webhook URL: `/hooks/<kind>/<id>`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    pub id: String,
    /// Every one of them is live (rotation). At GitLab these are signing tokens (`whsec_…`).
    pub secrets: Vec<SecretSource>,
    /// GitLab only: the secrets are plain tokens, sent in clear in `X-Gitlab-Token`. It proves less than a signing token, so it
    /// must be asked for by this name; requests are then not checked for a signature.
    #[serde(default)]
    pub legacy_plain_token: bool,
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
            None => {
                let version = match self.kind {
                    ForgeKind::Github => "v3",
                    ForgeKind::Gitlab => "v4",
                    ForgeKind::Gitea => "v1",
                };
                format!("{}/api/{version}", self.web_url())
            }
        }
    }

    pub fn web_url(&self) -> &str {
        match (self.url.trim_end_matches('/'), self.kind) {
            ("", ForgeKind::Github) => "https://github.com",
            ("", ForgeKind::Gitlab) => "https://gitlab.com",
            (url, _) => url,
        }
    }

    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        if self.web_url().is_empty() {
            return refuse(format!("forge {name}: a Gitea or Forgejo needs url = \"https://its address\""));
        }
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

/// How a signing token of GitLab begins.
const SIGNING_TOKEN: &str = "whsec_";

impl HookConfig {
    /// Shortest secret that is accepted, in bytes.
    pub const MIN_SECRET: usize = 16;

    pub(super) fn check(&self, forge: &str, kind: ForgeKind) -> Result<(), ConfigError> {
        if self.legacy_plain_token && kind != ForgeKind::Gitlab {
            return refuse(format!(
                "forge {forge}: hook {}: legacy_plain_token is for GitLab only; {} always signs",
                self.id,
                kind.word()
            ));
        }
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
    /// One that cannot be read, is too short to sign with, or is not what this kind of forge signs with: a sentence that names the
    /// hook and the secret.
    pub fn read_secrets(&self, forge: &str, kind: ForgeKind) -> Result<Vec<SecretString>, ConfigError> {
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
            if kind == ForgeKind::Gitlab {
                self.check_gitlab(forge, source, secret.expose_secret())?;
            }
            Ok(secret)
        };
        self.secrets.iter().map(read).collect()
    }

    /// A signing token where one is meant, a plain one where that is asked for by name.
    fn check_gitlab(&self, forge: &str, source: &SecretSource, secret: &str) -> Result<(), ConfigError> {
        match (secret.strip_prefix(SIGNING_TOKEN), self.legacy_plain_token) {
            (Some(_), true) => refuse(format!(
                "forge {forge}: hook {}: {source} is a signing token ({SIGNING_TOKEN}…); take legacy_plain_token away",
                self.id
            )),
            (None, false) => refuse(format!(
                "forge {forge}: hook {}: {source} is not a signing token ({SIGNING_TOKEN}…); make one on GitLab's page of the webhook, or set legacy_plain_token = true for an older GitLab",
                self.id
            )),
            (Some(key), false) if BASE64_STANDARD.decode(key).is_err() => refuse(format!(
                "forge {forge}: hook {}: {source} is cut or changed: behind {SIGNING_TOKEN} stands no base64; copy it again",
                self.id
            )),
            _ => Ok(()),
        }
    }
}
