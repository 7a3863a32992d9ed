//! Pools, and the executors behind them.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, refuse};

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

impl PoolConfig {
    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        if self.executor != "local" {
            return refuse(format!(
                "pool {name} names executor {:?}; this version has the executor \"local\" only",
                self.executor
            ));
        }
        if self.slots == 0 {
            return refuse(format!(
                "pool {name} has 0 slots, so nothing could ever run on it; set slots to 1 or more"
            ));
        }
        if !self.gpu_hour_price.is_finite() || self.gpu_hour_price < 0.0 {
            return refuse(format!("pool {name}: gpu_hour_price must be 0 or a positive number"));
        }
        Ok(())
    }
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
