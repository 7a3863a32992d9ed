//! Limits and retention.

use serde::Deserialize;

use super::{ConfigError, refuse};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub log_quota_bytes: i64,
    /// What the directories kept between runs (`cache:`) of one repository may take; one of them half of it.
    pub cache_quota_bytes: i64,
    /// Between SIGTERM and SIGKILL of a step, in seconds.
    pub grace_s: i64,
    /// How often the checkpoint of a step is kept while it runs, in seconds.
    pub checkpoint_every_s: i64,
    /// How long a comparison waits for a running baseline, in seconds.
    pub baseline_timeout_s: i64,
    /// How long an attempt may stay without a word from its agent, in seconds.
    pub agent_silence_s: i64,
    /// How long a step may wait for its process or pod to start, in seconds.
    pub pending_timeout_s: i64,
    /// How long work stays with a daemon that does not renew its lease, in seconds. It renews six times as often.
    pub lease_s: i64,
    /// How often watched data (`event: data`) is listed, in seconds.
    pub data_poll_s: i64,
    /// How long a machine's daemon may be away before others count its local attempts as lost, and an executor before an attempt that is
    /// to stop counts as ended, in seconds.
    pub machine_silence_s: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log_quota_bytes: 1 << 30,
            cache_quota_bytes: 10 << 30,
            grace_s: 30,
            checkpoint_every_s: 300,
            baseline_timeout_s: 6 * 3600,
            agent_silence_s: 90,
            pending_timeout_s: 1800,
            lease_s: 60,
            data_poll_s: 60,
            machine_silence_s: 3600,
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
    /// After the last use.
    pub caches_days: i64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            delivery_bodies_days: 7,
            deliveries_days: 90,
            logs_days: 90,
            artifacts_days: 30,
            caches_days: 30,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        positive(&[
            ("limits.log_quota_bytes", self.log_quota_bytes),
            ("limits.cache_quota_bytes", self.cache_quota_bytes),
            ("limits.grace_s", self.grace_s),
            ("limits.checkpoint_every_s", self.checkpoint_every_s),
            ("limits.baseline_timeout_s", self.baseline_timeout_s),
            ("limits.agent_silence_s", self.agent_silence_s),
            ("limits.pending_timeout_s", self.pending_timeout_s),
            ("limits.lease_s", self.lease_s),
            ("limits.data_poll_s", self.data_poll_s),
            ("limits.machine_silence_s", self.machine_silence_s),
        ])
    }
}

impl RetentionConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        positive(&[
            ("retention.delivery_bodies_days", self.delivery_bodies_days),
            ("retention.deliveries_days", self.deliveries_days),
            ("retention.logs_days", self.logs_days),
            ("retention.artifacts_days", self.artifacts_days),
            ("retention.caches_days", self.caches_days),
        ])
    }
}

/// Far beyond sense, and its sums and products with times in milliseconds stay in 64 bits.
const MOST: i64 = 1 << 50;

fn positive(keys: &[(&str, i64)]) -> Result<(), ConfigError> {
    for (name, value) in keys {
        if !(1..=MOST).contains(value) {
            return refuse(format!("{name} is {value}; it must be 1 to {MOST}"));
        }
    }
    Ok(())
}
