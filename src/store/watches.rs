//! What pipelines of the default branch ask for: the places that they watch for new data, and their priority classes.

use super::conn::{Conn, Fields, all, execute, one};
use super::work::{WorkAsk, WorkKind, ask_in};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{RepoId, Sha};

/// What the default branch's pipeline files ask for, as of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub repo_id: RepoId,
    pub branch: String,
    pub sha: Sha,
    /// (pipeline, class).
    pub priorities: Vec<(String, Option<String>)>,
    /// (pipeline, place) to watch.
    pub places: Vec<(String, String)>,
    /// Pipelines whose file cannot be read at this commit: theirs stay as they are.
    pub broken: Vec<String>,
}

/// One place of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRow {
    pub repo_id: RepoId,
    pub pipeline: String,
    pub prefix: String,
    pub branch: String,
    /// The commit whose pipeline file asks for it.
    pub sha: Sha,
    /// Of the listing that runs know of; None: never listed.
    pub digest: Option<String>,
    /// Of another one that was seen once.
    pub seen: Option<String>,
    /// Changes that were handed in.
    pub changes: i64,
    pub files: i64,
    pub bytes: i64,
    pub looked_ms: Option<Millis>,
    /// Why the last look failed; empty: it did not.
    pub error: String,
}

impl WatchRow {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            repo_id: row.get("repo_id")?,
            pipeline: row.get("pipeline")?,
            prefix: row.get("prefix")?,
            branch: row.get("branch")?,
            sha: row.get("sha")?,
            digest: row.get("digest")?,
            seen: row.get("seen")?,
            changes: row.get("changes")?,
            files: row.get("files")?,
            bytes: row.get("bytes")?,
            looked_ms: row.get("looked_ms")?,
            error: row.get("error")?,
        })
    }
}

/// Replaces what a repository's pipelines ask for, and notes which commit it is of. What is known of a place that stays is kept.
pub(super) async fn put_asked(tx: &mut Conn, asked: &Asked, now: Millis) -> Result<(), StoreError> {
    let repo = &asked.repo_id;
    execute!(tx, "UPDATE repos SET files_sha = $2 WHERE id = $1", repo, &asked.sha)?;
    put_priorities(tx, asked, now).await?;
    put_watches(tx, asked, now).await
}

async fn put_priorities(tx: &mut Conn, asked: &Asked, now: Millis) -> Result<(), StoreError> {
    let repo = &asked.repo_id;
    let before: Vec<String> =
        all!(tx, |row| row.get("name"), "SELECT name FROM pipelines WHERE repo_id = $1", repo)?;
    for old in before {
        if !asked.priorities.iter().any(|(name, _)| *name == old) && !asked.broken.contains(&old) {
            execute!(tx, "DELETE FROM pipelines WHERE repo_id = $1 AND name = $2", repo, &old)?;
        }
    }
    for (name, class) in &asked.priorities {
        execute!(
            tx,
            "INSERT INTO pipelines (repo_id, name, priority, updated_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (repo_id, name) DO UPDATE SET priority = excluded.priority, updated_ms = excluded.updated_ms",
            repo,
            name,
            class,
            now
        )?;
    }
    Ok(())
}

async fn put_watches(tx: &mut Conn, asked: &Asked, now: Millis) -> Result<(), StoreError> {
    let repo = &asked.repo_id;
    let before = all!(
        tx,
        WatchRow::read,
        "SELECT repo_id, pipeline, prefix, branch, sha, digest, seen, changes, files, bytes, looked_ms, error
         FROM data_watches WHERE repo_id = $1",
        repo
    )?;
    for old in before {
        let stays = asked.places.iter().any(|(p, prefix)| *p == old.pipeline && *prefix == old.prefix)
            || asked.broken.contains(&old.pipeline);
        if !stays {
            execute!(
                tx,
                "DELETE FROM data_watches WHERE repo_id = $1 AND pipeline = $2 AND prefix = $3",
                repo,
                &old.pipeline,
                &old.prefix
            )?;
        }
    }
    for (pipeline, prefix) in &asked.places {
        execute!(
            tx,
            "INSERT INTO data_watches (repo_id, pipeline, prefix, branch, sha) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (repo_id, pipeline, prefix) DO UPDATE SET branch = excluded.branch, sha = excluded.sha",
            repo,
            pipeline,
            prefix,
            &asked.branch,
            &asked.sha
        )?;
    }
    if !asked.places.is_empty() {
        let ask = WorkAsk { kind: WorkKind::Data, key: repo.to_string(), at_ms: now };
        ask_in(tx, &[ask], now).await?;
    }
    Ok(())
}

impl Store {
    /// The commit of the default branch that watches and priorities of a repository are of.
    pub async fn files_sha(&self, repo: &RepoId) -> Result<Option<Sha>, StoreError> {
        let mut conn = self.read().await?;
        let sha: Option<Option<Sha>> =
            one!(conn, |row| row.get("files_sha"), "SELECT files_sha FROM repos WHERE id = $1", repo)?;
        Ok(sha.flatten())
    }

    /// The watched places of a repository, by pipeline and place.
    pub async fn data_watches(&self, repo: &RepoId) -> Result<Vec<WatchRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            WatchRow::read,
            "SELECT repo_id, pipeline, prefix, branch, sha, digest, seen, changes, files, bytes, looked_ms, error
             FROM data_watches WHERE repo_id = $1 ORDER BY pipeline, prefix",
            repo
        )
    }

    /// Notes what was seen. False: the place is no longer watched, or somebody else handed a change of it in.
    pub async fn note_watch(&self, row: WatchRow, changes_before: i64) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "UPDATE data_watches SET digest = $4, seen = $5, changes = $6, files = $7, bytes = $8, looked_ms = $9, error = $10
                     WHERE repo_id = $1 AND pipeline = $2 AND prefix = $3 AND changes = $11",
                    &row.repo_id,
                    &row.pipeline,
                    &row.prefix,
                    &row.digest,
                    &row.seen,
                    row.changes,
                    row.files,
                    row.bytes,
                    row.looked_ms,
                    &row.error,
                    changes_before
                )?;
                Ok(rows == 1)
            })
        })
        .await
    }
}
