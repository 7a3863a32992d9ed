//! Deletes what is old: an hourly work item that sweeps the rows, then the blobs that no row names any more. With it, what the forges
//! refused is tried once more.
//!
//! Must not: decide how long anything is kept; that is the configuration's, within what each table's migration says.

use anyhow::Context;
use async_trait::async_trait;
use futures_util::StreamExt;

use crate::blob::{Blobs, Listed};
use crate::clock::SharedClock;
use crate::config::RetentionConfig;
use crate::queue::Handler;
use crate::store::Store;
use crate::store::outbox::REVIVED_MS;
use crate::store::retention::Retention;
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};

/// Between two sweeps, in milliseconds.
const EVERY_MS: i64 = 3_600_000;
/// In milliseconds.
const DAY: i64 = 24 * 3_600_000;
/// Batches in one go, so that a large backlog does not hold the work item for long.
const BATCHES: usize = 20;

pub struct Sweeper {
    pub store: Store,
    pub blobs: Blobs,
    pub clock: SharedClock,
    pub keep: RetentionConfig,
    /// Of one repository.
    pub cache_quota_bytes: i64,
    /// Names of the configured forges.
    pub forges: Vec<String>,
}

impl From<RetentionConfig> for Retention {
    fn from(days: RetentionConfig) -> Self {
        Self {
            delivery_bodies_ms: days.delivery_bodies_days * DAY,
            deliveries_ms: days.deliveries_days * DAY,
            logs_ms: days.logs_days * DAY,
            artifacts_ms: days.artifacts_days * DAY,
        }
    }
}

/// What a collection of orphans found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    pub looked_at: u64,
    pub found: u64,
    pub bytes: u64,
}

/// Keys asked about in one query.
const ASKED_AT_ONCE: usize = 500;

/// Deletes blobs that no row names (a crash between a blob and its row, or between a row and its blob), if they are at least
/// `older_than_ms` old: a younger one may be waiting for its row. With `dry_run` only counts them.
pub async fn collect_orphans(
    store: &Store,
    blobs: &Blobs,
    older_than_ms: i64,
    now: i64,
    dry_run: bool,
) -> anyhow::Result<Orphans> {
    let mut orphans = Orphans::default();
    let mut listed = blobs.list().chunks(ASKED_AT_ONCE);
    while let Some(some) = listed.next().await {
        let some: Vec<Listed> =
            some.into_iter().collect::<Result<_, _>>().context("cannot list the blobs")?;
        orphans.looked_at += some.len() as u64;
        let old: Vec<&Listed> = some.iter().filter(|blob| now - blob.modified_ms >= older_than_ms).collect();
        let keys: Vec<String> = old.iter().map(|blob| blob.key.clone()).collect();
        let without_row =
            store.blobs_without_row(&keys).await.context("cannot ask which blobs are in use")?;
        orphans.found += without_row.len() as u64;
        orphans.bytes +=
            old.iter().filter(|blob| without_row.contains(&blob.key)).map(|blob| blob.bytes).sum::<u64>();
        if !dry_run {
            blobs.delete(&without_row).await.context("cannot delete blobs")?;
        }
    }
    Ok(orphans)
}

#[async_trait]
impl Handler for Sweeper {
    fn kind(&self) -> WorkKind {
        WorkKind::Retention
    }

    async fn handle(&self, _item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        for _ in 0..BATCHES {
            let swept = self.store.sweep(self.keep.into(), self.clock.now_ms()).await?;
            if !swept.blob_keys.is_empty() {
                self.blobs.delete(&swept.blob_keys).await?;
            }
            if swept.rows > 0 {
                tracing::info!(rows = swept.rows, blobs = swept.blob_keys.len(), "deleted what is old");
            }
            let unused_since = self.clock.now_ms() - self.keep.caches_days * DAY;
            let caches = self.store.sweep_caches(unused_since, self.cache_quota_bytes).await?;
            if !caches.is_empty() {
                self.blobs.delete(&caches).await?;
                tracing::info!(caches = caches.len(), "evicted caches");
            }
            if !swept.more {
                let now = self.clock.now_ms();
                self.store.outbox_revive(self.forges.clone(), now - REVIVED_MS, now).await?;
                return Ok(WorkOutcome::Again { at_ms: self.clock.now_ms() + EVERY_MS });
            }
        }
        Ok(WorkOutcome::Again { at_ms: self.clock.now_ms() + 1_000 })
    }
}
