//! The daemon's configuration: one TOML file, `TRAINYARD_*` in the environment over it, secrets from files or the
//! environment. Unknown keys and impossible values stop the daemon with one sentence that says what to do.
//!
//! Loading reads no secret: who needs one reads it where it is used, once, by [`SecretSource::read`] or
//! [`HookConfig::read_secrets`].

mod budget;
mod forge;
mod kubernetes;
mod limits;
mod pool;
mod queue;
mod secret;
mod storage;
#[cfg(test)]
mod tests;
mod uids;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use self::budget::Budget;
pub use self::forge::{ForgeConfig, ForgeKind, HookConfig};
pub use self::kubernetes::{KubernetesConfig, KubernetesPool, Preset, Toleration};
pub use self::limits::{Limits, RetentionConfig};
pub use self::pool::{ExecutorConfig, LocalConfig, PoolConfig};
pub use self::queue::QueueConfig;
pub use self::secret::{SecretSource, StepSecret};
pub use self::storage::{BlobPlace, Pooler, S3Config};
pub use self::uids::UidRange;
use crate::model::RepoName;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the database, logs and artifacts lie. Mode 0700.
    pub data_dir: PathBuf,
    /// `sqlite:<path>` or `postgres://…`; default: `trainyard.db` in `data_dir`.
    #[serde(default)]
    pub database: Option<String>,
    /// Postgres: the password, so that the URL needs none.
    #[serde(default)]
    pub database_password: Option<SecretSource>,
    #[serde(default)]
    pub database_pooler: Pooler,
    /// Postgres: connections for reading, and as many again for writing.
    #[serde(default = "database_connections")]
    pub database_connections: u32,
    /// Where logs and artifacts lie: `s3://bucket/prefix`, or a directory; default: `blobs` in `data_dir`.
    #[serde(default)]
    pub blob: Option<String>,
    #[serde(default)]
    pub s3: S3Config,
    /// Base URL under which people reach the dashboard; links in statuses and comments start with it.
    pub public_url: String,
    #[serde(default)]
    pub listen: Listen,
    /// By name; the name is part of the hook's path: `/hooks/<kind>/<hook id>`.
    #[serde(default)]
    pub forge: BTreeMap<String, ForgeConfig>,
    /// Settings of single repositories.
    #[serde(default)]
    pub repository: Vec<RepositoryConfig>,
    /// By name. Without any, one pool `default` on the local executor.
    #[serde(default)]
    pub pool: BTreeMap<String, PoolConfig>,
    #[serde(default)]
    pub queue: QueueConfig,
    #[serde(default)]
    pub executor: ExecutorConfig,
    #[serde(default)]
    pub dashboard: DashboardConfig,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub retention: RetentionConfig,
}

fn database_connections() -> u32 {
    8
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Public: webhooks only.
    pub hooks: SocketAddr,
    /// Dashboard and API.
    pub app: SocketAddr,
    /// Agents. Plain HTTP on loopback, TLS with our own CA anywhere else.
    pub agent: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { hooks: at(8710), app: at(8700), agent: at(8720), ops: at(8730) }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    pub forge: String,
    /// `owner/name`.
    pub name: String,
    /// Its code may run on this machine without a Unix user of its own. It never makes an untrusted head trusted.
    #[serde(default)]
    pub trusted: bool,
    /// By the name that pipelines use.
    #[serde(default)]
    pub secrets: BTreeMap<String, StepSecret>,
    /// Its share of a pool beside others that wait for it, who have 1.
    #[serde(default = "one")]
    pub weight: f64,
    /// Class of its runs, unless the default branch's pipeline file names another. Default: `normal`.
    #[serde(default)]
    pub priority: Option<String>,
    /// The highest class that its pipeline files may name. Default: `priority`.
    #[serde(default)]
    pub priority_max: Option<String>,
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Where its pipelines may look for new data (`event: data`), with the daemon's own rights: directories, or
    /// prefixes such as `s3://bucket/team/`. None by default.
    #[serde(default)]
    pub data: Vec<String>,
}

impl RepositoryConfig {
    /// May a pipeline of this repository have that place listed?
    pub fn may_watch(&self, prefix: &str) -> bool {
        let within = |allowed: &str| {
            prefix == allowed
                || prefix
                    .strip_prefix(allowed.trim_end_matches('/'))
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        let leaves = prefix.split('/').any(|part| part == "..");
        !leaves && self.data.iter().any(|allowed| within(allowed))
    }

    fn check_data(&self) -> Result<(), ConfigError> {
        for place in &self.data {
            let known = ["/", "s3://", "gs://", "az://"].iter().any(|start| place.starts_with(start));
            let bare = place.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
            if !known || place.contains(['*', '?', '[', '{']) || bare.trim_matches([':', '/']).is_empty() {
                return refuse(format!(
                    "repository {:?} has data place {place:?}; write an absolute directory, or a prefix such as s3://bucket/team/",
                    self.name
                ));
            }
        }
        Ok(())
    }
}

fn one() -> f64 {
    1.0
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DashboardConfig {
    /// Pages and reading API calls need no login: for a demo, or where a proxy in front decides who comes in.
    /// Whatever changes something always needs a token.
    pub public_read: bool,
}

/// A configuration that cannot be used: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn refuse<T>(sentence: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(sentence.into()))
}

/// Environment variables that replace a key of the file.
const ENVIRONMENT: &[(&str, &[&str])] = &[
    ("TRAINYARD_DATA_DIR", &["data_dir"]),
    ("TRAINYARD_DATABASE", &["database"]),
    ("TRAINYARD_BLOB", &["blob"]),
    ("TRAINYARD_PUBLIC_URL", &["public_url"]),
    ("TRAINYARD_LISTEN_HOOKS", &["listen", "hooks"]),
    ("TRAINYARD_LISTEN_APP", &["listen", "app"]),
    ("TRAINYARD_LISTEN_AGENT", &["listen", "agent"]),
    ("TRAINYARD_LISTEN_OPS", &["listen", "ops"]),
];

impl Config {
    /// Reads the file, applies the environment, checks everything that can be checked without the network.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigError(format!(
                "cannot read the configuration {}: {e}; name another with --config, or copy config/trainyard.example.toml there",
                path.display()
            ))
        })?;
        Self::parse(&text, |name| std::env::var(name).ok())
            .map_err(|e| ConfigError(format!("{}: {}", path.display(), e.0)))
    }

    /// Parses and checks a configuration; `environment` looks up a variable.
    pub fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError(e.to_string()))?;
        let mut from_environment = Vec::new();
        for (variable, keys) in ENVIRONMENT {
            let Some(value) = environment(variable) else { continue };
            from_environment.push(*variable);
            let mut place = &mut table;
            for key in &keys[..keys.len() - 1] {
                place = place
                    .entry(*key)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .ok_or_else(|| ConfigError(format!("`{key}` must be a table")))?;
            }
            place.insert(keys[keys.len() - 1].to_owned(), toml::Value::String(value));
        }
        let config: Self = if from_environment.is_empty() {
            // From the text itself, so that an error shows its line.
            toml::from_str(text).map_err(|e| ConfigError(e.to_string()))?
        } else {
            table.try_into().map_err(|e: toml::de::Error| {
                ConfigError(format!("{e} (with {})", from_environment.join(", ")))
            })?
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.data_dir.is_absolute() {
            return refuse(format!("data_dir {} must be an absolute path", self.data_dir.display()));
        }
        if !(self.public_url.starts_with("http://") || self.public_url.starts_with("https://")) {
            return refuse(format!("public_url {:?} must start with http:// or https://", self.public_url));
        }
        let mut hooks = BTreeSet::new();
        for (name, forge) in &self.forge {
            forge.check(name)?;
            for hook in &forge.hook {
                hook.check(name, forge.kind)?;
                if !hooks.insert((forge.kind.word(), hook.id.as_str())) {
                    return refuse(format!(
                        "hook id {:?} is used twice for {}; each hook URL needs an id of its own",
                        hook.id,
                        forge.kind.word()
                    ));
                }
            }
        }
        for repository in &self.repository {
            if !self.forge.contains_key(&repository.forge) {
                return refuse(format!(
                    "repository {:?} names forge {:?}, which is not configured; add [forge.{}]",
                    repository.name, repository.forge, repository.forge
                ));
            }
            RepoName::parse(&repository.name).map_err(|e| ConfigError(e.to_string()))?;
            repository.check_data()?;
        }
        for (name, pool) in &self.pool {
            pool.check(name, &self.executor)?;
        }
        let local = self.pools().into_values().filter(|pool| pool.executor == "local");
        let slots = local.filter_map(|pool| pool.slot_limit()).fold(0, u32::saturating_add);
        self.executor.local.check(slots)?;
        if let Some(kubernetes) = &self.executor.kubernetes {
            kubernetes.check(self.listen.agent)?;
        }
        self.check_storage()?;
        self.queue.check(&self.repository)?;
        for repository in &self.repository {
            repository.budget.iter().try_for_each(|budget| budget.check(&repository.name))?;
        }
        self.limits.check()?;
        self.retention.check()?;
        Ok(())
    }

    /// Letter case does not count in a repository's name, as at the forges.
    pub fn repository(&self, forge: &str, name: &str) -> Option<&RepositoryConfig> {
        self.repository.iter().find(|r| r.forge == forge && r.name.eq_ignore_ascii_case(name))
    }

    /// The pools as configured, or the one default pool.
    pub fn pools(&self) -> BTreeMap<String, PoolConfig> {
        if self.pool.is_empty() {
            BTreeMap::from([("default".to_owned(), PoolConfig::default())])
        } else {
            self.pool.clone()
        }
    }

    /// The pool of a step: the one it names, else `default`, else the only one.
    pub fn pool_of<'p>(
        pools: &'p BTreeMap<String, PoolConfig>,
        named: Option<&str>,
    ) -> Option<(&'p str, &'p PoolConfig)> {
        let found = match named {
            Some(name) => pools.get_key_value(name),
            None => pools
                .get_key_value("default")
                .or_else(|| pools.first_key_value().filter(|_| pools.len() == 1)),
        };
        found.map(|(name, pool)| (name.as_str(), pool))
    }

    pub fn database_url(&self) -> String {
        self.database
            .clone()
            .unwrap_or_else(|| format!("sqlite:{}", self.data_dir.join("trainyard.db").display()))
    }

    /// Directory of the local executor's workspaces.
    pub fn workspace(&self) -> PathBuf {
        self.executor.local.workspace.clone().unwrap_or_else(|| {
            let mut name = self.data_dir.clone().into_os_string();
            name.push("-work");
            name.into()
        })
    }
}
