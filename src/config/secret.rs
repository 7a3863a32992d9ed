//! Where secrets come from. Reading one is the only place where "unset", "unreadable" and "empty" are told apart.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

use super::{ConfigError, refuse};

/// Where a secret's text comes from: `{ env = "NAME" }` or `{ file = "/path" }`. A trailing line feed of a file is cut.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "SecretSourceToml")]
pub enum SecretSource {
    Env(String),
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretSourceToml {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl TryFrom<SecretSourceToml> for SecretSource {
    type Error = &'static str;
    fn try_from(toml: SecretSourceToml) -> Result<Self, Self::Error> {
        match (toml.env, toml.file) {
            (Some(env), None) => Ok(Self::Env(env)),
            (None, Some(file)) => Ok(Self::File(file)),
            _ => Err("a secret is either { env = \"NAME\" } or { file = \"/path\" }"),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

impl SecretSource {
    /// # Errors
    /// Unset, unreadable, empty or whitespace: a sentence that names the variable or file.
    pub fn read(&self) -> Result<SecretString, ConfigError> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| {
                ConfigError(format!("{self} is not set (or is not UTF-8); set it, or use a file"))
            })?,
            Self::File(path) => {
                let mut text = std::fs::read_to_string(path)
                    .map_err(|e| ConfigError(format!("cannot read {self}: {e}; check its path and owner")))?;
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                text
            }
        };
        if text.trim().is_empty() {
            return refuse(format!("{self} is empty; a secret needs text"));
        }
        Ok(text.into())
    }
}
