//! Deletes what is old, in batches of at most 1,000 rows, as each table's migration comment says.

use super::conn::{Fields, all, execute, one, to_json};
use super::runs::ended_run;
use super::{Store, StoreError, dialect};
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

/// How many rows one commit deletes at most: a long one would hold up everyone's writes.
const BATCH: i64 = 1000;

/// Bodies of deliveries that are decided. An undecided one is kept, however old. They are looked for apart from the write that empties
/// them: the search passes over all whose bodies are gone, months of them, and nobody's write shall wait for it.
const BODIES: &str = "SELECT id FROM deliveries
    WHERE received_ms < $1 AND body IS NOT NULL AND state <> 'stored' ORDER BY received_ms LIMIT $2";
macro_rules! empty_bodies {
    ($list:literal) => {
        concat!(
            "UPDATE deliveries SET body = NULL WHERE state <> 'stored' AND id IN (SELECT value FROM ",
            $list,
            ")"
        )
    };
}
const DELIVERIES: &str = "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries
    WHERE received_ms < $1 AND state <> 'stored' ORDER BY received_ms LIMIT $2) RETURNING '' AS blob_key";
/// A parked item's `run_at_ms` is when it was parked.
const PARKED: &str = "DELETE FROM work WHERE (kind, key) IN (SELECT kind, key FROM work
    WHERE run_at_ms < $1 AND state = 'parked' LIMIT $2) RETURNING '' AS blob_key";
const LOGS: &str =
    "DELETE FROM log_segments WHERE (attempt_uid, rank, start_byte) IN (SELECT g.attempt_uid, g.rank, g.start_byte
    FROM log_segments g JOIN attempts a ON a.uid = g.attempt_uid
    WHERE g.created_ms < $1 AND a.state = 'ended' LIMIT $2) RETURNING blob_key";
const ARTIFACTS: &str = concat!(
    "DELETE FROM artifacts WHERE (attempt_uid, path) IN (SELECT f.attempt_uid, f.path
    FROM artifacts f JOIN runs r ON r.id = f.run_id WHERE f.created_ms < $1 AND r.state IN ",
    ended_run!(),
    " LIMIT $2) RETURNING blob_key"
);
/// Long before that it counts for nothing.
const USAGE: &str = "DELETE FROM pool_usage WHERE (repo_id, pool, bucket_ms) IN (SELECT repo_id, pool, bucket_ms FROM pool_usage
    WHERE bucket_ms < $1 LIMIT $2) RETURNING '' AS blob_key";
const OUTBOX: &str = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox
    WHERE updated_ms < $1 AND state <> 'pending' LIMIT $2) RETURNING '' AS blob_key";

const DAEMONS: &str = "DELETE FROM daemons WHERE machine IN (SELECT machine FROM daemons
    WHERE seen_ms < $1 LIMIT $2) RETURNING '' AS blob_key";

/// Every table that names blobs, each with an index on the key.
macro_rules! without_row {
    ($list:literal) => {
        concat!(
            "SELECT value AS blob_key FROM ",
            $list,
            " WHERE NOT EXISTS (SELECT 1 FROM log_segments WHERE blob_key = value)
                AND NOT EXISTS (SELECT 1 FROM artifacts WHERE blob_key = value)
                 AND NOT EXISTS (SELECT 1 FROM caches WHERE blob_key = value)"
        )
    };
}

impl Store {
    /// Does an artifact still point at these bytes? A reused step's do.
    async fn is_named(&self, blob_key: &str) -> Result<bool, StoreError> {
        let mut conn = self.read().await?;
        let found: Option<i64> = one!(
            conn,
            |row| row.get("n"),
            "SELECT COUNT(*) AS n FROM artifacts WHERE blob_key = $1",
            blob_key
        )?;
        Ok(found.unwrap_or_default() > 0)
    }

    /// Of these blobs those that no row names.
    pub async fn blobs_without_row(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        let list = to_json(&keys)?;
        let mut conn = self.read().await?;
        let sql = dialect::by_engine(
            &conn,
            without_row!("json_each($1)"),
            without_row!("json_array_elements_text($1::json)"),
        );
        all!(conn, |row| row.get("blob_key"), sql, &list)
    }

    async fn empty_bodies(&self, before_ms: Millis) -> Result<Swept, StoreError> {
        let mut conn = self.read().await?;
        let ids: Vec<String> = all!(conn, |row| row.get("id"), BODIES, before_ms, BATCH)?;
        drop(conn);
        let (count, list) = (ids.len() as u64, to_json(&ids)?);
        if count > 0 {
            self.write(move |tx| {
                Box::pin(async move {
                    let sql = dialect::by_engine(
                        tx,
                        empty_bodies!("json_each($1)"),
                        empty_bodies!("json_array_elements_text($1::json)"),
                    );
                    execute!(tx, sql, &list)
                })
            })
            .await?;
        }
        Ok(Swept { rows: count, blob_keys: Vec::new(), more: count as i64 == BATCH })
    }

    /// One batch of each kind of old rows, each in a commit of its own. Parked work and what forges were told are kept as long as
    /// deliveries.
    pub async fn sweep(&self, keep: Retention, now: Millis) -> Result<Swept, StoreError> {
        let mut swept = self.empty_bodies(now - keep.delivery_bodies_ms).await?;
        for (sql, keep_ms) in [
            (DELIVERIES, keep.deliveries_ms),
            (PARKED, keep.deliveries_ms),
            (LOGS, keep.logs_ms),
            (ARTIFACTS, keep.artifacts_ms),
            (OUTBOX, keep.deliveries_ms),
            (USAGE, keep.deliveries_ms),
            (DAEMONS, keep.deliveries_ms),
        ] {
            let keys: Vec<String> = self
                .write(move |tx| {
                    Box::pin(async move { all!(tx, |row| row.get("blob_key"), sql, now - keep_ms, BATCH) })
                })
                .await?;
            swept.rows += keys.len() as u64;
            swept.more |= keys.len() as i64 == BATCH;
            for key in keys.into_iter().filter(|key| !key.is_empty()) {
                if !self.is_named(&key).await? {
                    swept.blob_keys.push(key);
                }
            }
        }
        Ok(swept)
    }
}
