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

/// A secret of steps, perhaps for some branches alone: `{ file = "/path", branches = ["main", "release/*"] }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "StepSecretToml")]
pub struct StepSecret {
    pub source: SecretSource,
    /// Globs; `*` does not go over a `/`. Empty: every branch.
    pub branches: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepSecretToml {
    env: Option<String>,
    file: Option<PathBuf>,
    branches: Option<Vec<String>>,
}

impl TryFrom<StepSecretToml> for StepSecret {
    type Error = String;
    fn try_from(toml: StepSecretToml) -> Result<Self, String> {
        let source = SecretSource::try_from(SecretSourceToml { env: toml.env, file: toml.file })?;
        let branches = match toml.branches {
            Some(branches) if branches.is_empty() => {
                return Err(
                    "`branches` is empty, so no run would get the secret; name one, or leave it out".into()
                );
            }
            branches => branches.unwrap_or_default(),
        };
        for branch in &branches {
            glob(branch).map_err(|error| format!("the branch {branch:?} is not a glob: {}", error.kind()))?;
        }
        Ok(Self { source, branches })
    }
}

impl StepSecret {
    pub fn is_for(&self, branch: &str) -> bool {
        let matches =
            |pattern: &String| glob(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(branch));
        self.branches.is_empty() || self.branches.iter().any(matches)
    }
}

fn glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    globset::GlobBuilder::new(pattern).literal_separator(true).build()
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
