//! The daemon's configuration: one TOML file, `TRAINYARD_*` in the environment over it, secrets from files or the
//! environment. Unknown keys, empty secrets and unreadable files stop the daemon with one sentence that says what to do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the database, logs and artifacts lie. Mode 0700.
    pub data_dir: PathBuf,
    /// `sqlite:<path>` or `postgres://…`; default: `trainyard.db` in `data_dir`.
    #[serde(default)]
    pub database: Option<String>,
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
    pub executor: ExecutorConfig,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub retention: RetentionConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Public: webhooks only.
    pub hooks: SocketAddr,
    /// Dashboard and API.
    pub app: SocketAddr,
    /// Agents. Plain HTTP on loopback only.
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

/// Where a secret's text comes from. A trailing line feed of a file is cut.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum SecretSource {
    Env { env: String },
    File { file: PathBuf },
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
    pub secrets: BTreeMap<String, SecretSource>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    pub executor: String,
    /// GPUs of this pool; the local executor hands out indexes 0..gpus.
    pub gpus: u32,
    /// How many attempts at once.
    pub slots: u32,
    /// Price of one GPU for one hour, for the report.
    pub gpu_hour_price: f64,
    pub currency: String,
    /// May steps of untrusted runs use it?
    pub untrusted: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            executor: "local".into(),
            gpus: 0,
            slots: 2,
            gpu_hour_price: 0.0,
            currency: "EUR".into(),
            untrusted: true,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorConfig {
    pub local: LocalConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// Unix user that attempts run as; needs root or SETUID, SETGID, CHOWN, KILL.
    pub user: Option<String>,
    /// Directory of the workspaces, readable by that user. Default: `<data_dir>-work`.
    pub workspace: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub log_quota_bytes: i64,
    /// Between SIGTERM and SIGKILL of a step, in seconds.
    pub grace_s: i64,
    /// How long a comparison waits for a running baseline, in seconds.
    pub baseline_timeout_s: i64,
    /// How long an attempt may stay without a word from its agent, in seconds.
    pub agent_silence_s: i64,
    /// How long a step may wait for its process or pod to start, in seconds.
    pub pending_timeout_s: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log_quota_bytes: 1 << 30,
            grace_s: 30,
            baseline_timeout_s: 6 * 3600,
            agent_silence_s: 90,
            pending_timeout_s: 1800,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    pub delivery_bodies_days: i64,
    pub deliveries_days: i64,
    pub logs_days: i64,
    pub artifacts_days: i64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { delivery_bodies_days: 7, deliveries_days: 90, logs_days: 90, artifacts_days: 30 }
    }
}

/// A configuration that cannot be used: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Reads the file, applies `TRAINYARD_*`, checks everything that can be checked without the network.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let _ = path;
        todo!()
    }
    pub fn repository(&self, forge: &str, name: &str) -> Option<&RepositoryConfig> {
        self.repository.iter().find(|r| r.forge == forge && r.name == name)
    }
    /// The pools as configured, or the one default pool.
    pub fn pools(&self) -> BTreeMap<String, PoolConfig> {
        if self.pool.is_empty() {
            BTreeMap::from([("default".to_owned(), PoolConfig::default())])
        } else {
            self.pool.clone()
        }
    }
}

impl SecretSource {
    /// # Errors
    /// Unset, unreadable, empty or whitespace: a sentence that names the variable or file.
    pub fn read(&self) -> Result<SecretString, ConfigError> {
        todo!()
    }
}
