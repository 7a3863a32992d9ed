//! The daemon's configuration: one TOML file, `TRAINYARD_*` in the environment over it, secrets from files or the
//! environment. Unknown keys, empty secrets and unreadable files stop the daemon with one sentence that says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::model::RepoName;

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
    pub dashboard: DashboardConfig,
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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DashboardConfig {
    /// Pages and reading API calls need no login: for a demo, or where a proxy in front decides who comes in.
    /// Whatever changes something always needs a token.
    pub public_read: bool,
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

fn refuse<T>(sentence: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(sentence.into()))
}

/// Environment variables that replace a key of the file.
const ENVIRONMENT: &[(&str, &[&str])] = &[
    ("TRAINYARD_DATA_DIR", &["data_dir"]),
    ("TRAINYARD_DATABASE", &["database"]),
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
        if !self.listen.agent.ip().is_loopback() {
            return refuse(format!(
                "listen.agent {} is not a loopback address; agents on other machines need TLS, which this version does not have yet",
                self.listen.agent
            ));
        }
        let mut hooks = BTreeSet::new();
        for (name, forge) in &self.forge {
            forge.check(name)?;
            for hook in &forge.hook {
                hook.check(name)?;
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
            for (name, source) in &repository.secrets {
                source.read().map_err(|e| {
                    ConfigError(format!("secret {name} of repository {}: {}", repository.name, e.0))
                })?;
            }
        }
        for (name, pool) in &self.pool {
            if pool.executor != "local" {
                return refuse(format!(
                    "pool {name} names executor {:?}; this version has the executor \"local\" only",
                    pool.executor
                ));
            }
            if pool.slots == 0 {
                return refuse(format!(
                    "pool {name} has 0 slots, so nothing could ever run on it; set slots to 1 or more"
                ));
            }
            if !pool.gpu_hour_price.is_finite() || pool.gpu_hour_price < 0.0 {
                return refuse(format!("pool {name}: gpu_hour_price must be 0 or a positive number"));
            }
        }
        let limits = &self.limits;
        let positive = [
            ("limits.log_quota_bytes", limits.log_quota_bytes),
            ("limits.grace_s", limits.grace_s),
            ("limits.baseline_timeout_s", limits.baseline_timeout_s),
            ("limits.agent_silence_s", limits.agent_silence_s),
            ("limits.pending_timeout_s", limits.pending_timeout_s),
            ("retention.delivery_bodies_days", self.retention.delivery_bodies_days),
            ("retention.deliveries_days", self.retention.deliveries_days),
            ("retention.logs_days", self.retention.logs_days),
            ("retention.artifacts_days", self.retention.artifacts_days),
        ];
        for (name, value) in positive {
            if !(1..=1 << 50).contains(&value) {
                return refuse(format!("{name} is {value}; it must be 1 or more"));
            }
        }
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

    fn check(&self, name: &str) -> Result<(), ConfigError> {
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
        self.token.read().map_err(|e| ConfigError(format!("forge {name}: token: {}", e.0)))?;
        Ok(())
    }
}

impl HookConfig {
    /// Shortest secret that is accepted, in bytes.
    pub const MIN_SECRET: usize = 16;

    fn check(&self, forge: &str) -> Result<(), ConfigError> {
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
        for source in &self.secrets {
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
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "[forge.github]\nkind = \"github\"\ntoken = { env = \"PATH\" }\n";

    fn parse(extra: &str) -> Result<Config, ConfigError> {
        let text = format!("data_dir = \"/var/lib/trainyard\"\npublic_url = \"https://ty.example\"\n{extra}");
        Config::parse(&text, |_| None)
    }

    #[test]
    fn refuses_what_would_not_work_and_says_what_to_do() {
        let cases = [
            ("data = 1", "unknown field `data`"),
            ("[listen]\nagent = \"0.0.0.0:1\"", "not a loopback"),
            ("[forge.g]\nkind = \"github\"\nurl = \"http://x\"\ntoken = { env = \"PATH\" }", "plain http"),
            ("[forge.g]\nkind = \"github\"\ntoken = { env = \"TRAINYARD_NO_SUCH\" }", "is not set"),
            (
                "[forge.g]\nkind = \"github\"\ntoken = { file = \"/no/such\" }",
                "cannot read the file /no/such",
            ),
            ("[forge.g]\nkind = \"github\"\ntoken = { env = \"A\", file = \"b\" }", "a secret is either"),
            ("[pool.x]\nslots = 0", "0 slots"),
            ("[pool.x]\nexecutor = \"kubernetes\"", "\"local\" only"),
            ("[[repository]]\nforge = \"nope\"\nname = \"a/b\"", "not configured"),
            ("[retention]\nlogs_days = 0", "must be 1 or more"),
        ];
        for (extra, words) in cases {
            let error = parse(extra).expect_err(extra).to_string();
            assert!(error.contains(words), "{extra}: {error}");
        }
        let hook = |h: &str| parse(&format!("{TOKEN}[[forge.github.hook]]\n{h}")).expect_err(h).to_string();
        assert!(hook("id = \"a\"\nsecrets = []\nowner = \"o\"").contains("has no secret"));
        assert!(hook("id = \"a/b\"\nsecrets = []\nowner = \"o\"").contains("part of the URL"));
        assert!(hook("id = \"a\"\nsecrets = [{ env = \"PATH\" }]").contains("exactly one of"));
        assert!(hook("id = \"a\"\nsecrets = [{ file = \"/dev/null\" }]\nowner = \"o\"").contains("is empty"));
    }

    #[test]
    fn the_environment_goes_over_the_file_and_defaults_fill_the_rest() {
        let text = "data_dir = \"/a\"\npublic_url = \"https://ty.example\"\n";
        let config =
            Config::parse(text, |name| (name == "TRAINYARD_LISTEN_APP").then(|| "127.0.0.1:9".into()))
                .unwrap();
        assert_eq!(config.listen.app.port(), 9);
        assert_eq!(config.listen.hooks.port(), 8710);
        assert_eq!(config.database_url(), "sqlite:/a/trainyard.db");
        assert_eq!(config.workspace(), PathBuf::from("/a-work"));
        assert_eq!(config.pools()["default"].slots, 2);
    }

    #[test]
    fn api_urls_are_derived() {
        let forge = |url: &str| -> ForgeConfig {
            toml::from_str(&format!("kind = \"github\"\nurl = \"{url}\"\ntoken = {{ env = \"PATH\" }}"))
                .unwrap()
        };
        assert_eq!(forge("https://github.com/").api_url(), "https://api.github.com");
        assert_eq!(forge("https://git.corp.example").api_url(), "https://git.corp.example/api/v3");
    }
}
