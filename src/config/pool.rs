//! Pools, and the executors behind them.

use std::path::PathBuf;

use serde::Deserialize;

use super::kubernetes::{KubernetesConfig, KubernetesPool};
use super::uids::UidRange;
use super::{ConfigError, refuse};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    pub executor: String,
    /// GPUs of this pool; the local executor hands out indexes 0..gpus. See [`Self::gpu_limit`].
    pub gpus: Option<u32>,
    /// How many attempts at once. See [`Self::slot_limit`].
    pub slots: Option<u32>,
    /// How many attempts of one repository at once.
    pub repository_slots: Option<u32>,
    /// How many GPUs attempts of one repository may hold at once.
    pub repository_gpus: Option<u32>,
    /// Price of one GPU for one hour, for the report.
    pub gpu_hour_price: f64,
    pub currency: String,
    /// May steps of untrusted runs use it?
    pub untrusted: bool,
    /// Where pods of this pool go.
    pub kubernetes: KubernetesPool,
}

impl PoolConfig {
    /// How many attempts at once; 2 where nothing is said. None: no limit, a queue of the cluster gives the places.
    pub fn slot_limit(&self) -> Option<u32> {
        self.slots.or_else(|| self.kubernetes.queue.is_none().then_some(2))
    }

    /// GPUs of all attempts together; 0 where nothing is said. None: no limit, a queue of the cluster gives the places.
    pub fn gpu_limit(&self) -> Option<u32> {
        self.gpus.or_else(|| self.kubernetes.queue.is_none().then_some(0))
    }

    /// What so much GPU time costs.
    pub fn price(&self, gpu_ms: i64) -> f64 {
        self.gpu_hour_price * gpu_ms as f64 / 3_600_000.0
    }

    pub(super) fn check(&self, name: &str, executors: &ExecutorConfig) -> Result<(), ConfigError> {
        match self.executor.as_str() {
            "local" if self.kubernetes == KubernetesPool::default() => {}
            "local" => {
                return refuse(format!(
                    "pool {name} has a section `kubernetes` and the executor \"local\"; set executor = \"kubernetes\""
                ));
            }
            "kubernetes" if executors.kubernetes.is_some() => self.kubernetes.check(name)?,
            "kubernetes" => {
                return refuse(format!(
                    "pool {name} names the executor \"kubernetes\", which is not configured; add [executor.kubernetes]"
                ));
            }
            other => {
                return refuse(format!(
                    "pool {name} names executor {other:?}; there are \"local\" and \"kubernetes\""
                ));
            }
        }
        if self.slots == Some(0) {
            return refuse(format!(
                "pool {name} has 0 slots, so nothing could ever run on it; set slots to 1 or more"
            ));
        }
        if self.repository_slots == Some(0) {
            return refuse(format!(
                "pool {name}: repository_slots is 0; set it to 1 or more, or leave it out"
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
            gpus: None,
            slots: None,
            repository_slots: None,
            repository_gpus: None,
            gpu_hour_price: 0.0,
            currency: "EUR".into(),
            untrusted: true,
            kubernetes: KubernetesPool::default(),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorConfig {
    pub local: LocalConfig,
    pub kubernetes: Option<KubernetesConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// Each attempt runs under one of these user ids, which it has alone; needs root or the capabilities of `deploy/systemd`.
    pub uids: Option<UidRange>,
    /// The simpler form: one Unix user that all attempts run as; needs the same.
    pub user: Option<String>,
    /// Directory of the workspaces, readable by those. Default: `<data_dir>-work`.
    pub workspace: Option<PathBuf>,
}

impl LocalConfig {
    /// `slots`: how many local attempts may run at once, in all pools together.
    pub(super) fn check(&self, slots: u32) -> Result<(), ConfigError> {
        let Some(uids) = self.uids else { return Ok(()) };
        if self.user.is_some() {
            return refuse(
                "executor.local has `uids` and `user`; attempts either have each a user id of their own or all one user: \
                 leave one out",
            );
        }
        if uids.count() < slots {
            return refuse(format!(
                "executor.local.uids = \"{uids}\" are {} user ids, and the local pools have {slots} slots; make it as many",
                uids.count()
            ));
        }
        Ok(())
    }
}
