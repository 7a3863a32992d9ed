//! Deletes what is old, in batches of at most 1,000 rows, as each table's migration comment says.

use super::{Store, StoreError};
use crate::clock::Millis;

/// How long things are kept, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub delivery_bodies_ms: Millis,
    pub deliveries_ms: Millis,
    pub logs_ms: Millis,
    pub artifacts_ms: Millis,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Millis = 24 * 3_600_000;
        Self {
            delivery_bodies_ms: 7 * DAY,
            deliveries_ms: 90 * DAY,
            logs_ms: 90 * DAY,
            artifacts_ms: 30 * DAY,
        }
    }
}

/// What one pass did. Blobs are deleted by the caller, after the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub rows: u64,
    pub blob_keys: Vec<String>,
    /// More is left: call again.
    pub more: bool,
}

impl Store {
    pub async fn sweep(&self, keep: Retention, now: Millis) -> Result<Swept, StoreError> {
        let _ = (keep, now);
        todo!()
    }
}
