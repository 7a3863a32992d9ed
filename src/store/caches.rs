//! Directories kept between runs, by key. An entry never changes: the first writer's stays until it is evicted.

use super::conn::{Fields, all, execute, one};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{RepoId, RunId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRow {
    pub repo_id: RepoId,
    pub key: String,
    pub bytes: i64,
    pub sha256: String,
    pub blob_key: String,
    /// Of the run that wrote it.
    pub branch: String,
    pub run_id: RunId,
}

/// Deleted in one go at most.
const BATCH: i64 = 1000;

impl Store {
    pub async fn cache(&self, repo: &RepoId, key: &str) -> Result<Option<CacheRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            |row| Ok(CacheRow {
                repo_id: row.get("repo_id")?,
                key: row.get("key")?,
                bytes: row.get("bytes")?,
                sha256: row.get("sha256")?,
                blob_key: row.get("blob_key")?,
                branch: row.get("branch")?,
                run_id: row.get("run_id")?,
            }),
            "SELECT repo_id, key, bytes, sha256, blob_key, branch, run_id FROM caches WHERE repo_id = $1 AND key = $2",
            repo,
            key
        )
    }

    /// False: the key is taken, and what is there stays.
    pub async fn put_cache(&self, cache: CacheRow, now: Millis) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "INSERT INTO caches (repo_id, key, bytes, sha256, blob_key, branch, run_id, created_ms, used_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT (repo_id, key) DO NOTHING",
                    &cache.repo_id,
                    &cache.key,
                    cache.bytes,
                    &cache.sha256,
                    &cache.blob_key,
                    &cache.branch,
                    &cache.run_id,
                    now
                )?;
                Ok(rows == 1)
            })
        })
        .await
    }

    /// Notes that an entry was of use: the least recently used goes first.
    pub async fn cache_used(&self, repo: &RepoId, key: &str, now: Millis) -> Result<(), StoreError> {
        let (repo, key) = (repo.clone(), key.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE caches SET used_ms = $3 WHERE repo_id = $1 AND key = $2",
                    &repo,
                    &key,
                    now
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Deletes entries that nobody used since `unused_since`, and of each repository the least recently used ones beyond
    /// `quota_bytes`. Returns their blobs, for the caller to delete.
    pub async fn sweep_caches(
        &self,
        unused_since: Millis,
        quota_bytes: i64,
    ) -> Result<Vec<String>, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                all!(
                    tx,
                    |row| row.get("blob_key"),
                    "DELETE FROM caches WHERE (repo_id, key) IN (SELECT repo_id, key FROM (
                       SELECT repo_id, key, used_ms,
                         SUM(bytes) OVER (PARTITION BY repo_id ORDER BY used_ms DESC, key) AS total FROM caches) q
                     WHERE total > $2 OR used_ms < $1 LIMIT $3) RETURNING blob_key",
                    unused_since,
                    quota_bytes,
                    BATCH
                )
            })
        })
        .await
    }
}
