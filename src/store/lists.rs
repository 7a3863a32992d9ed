//! Lists for people: keyset pages, newest first. Never OFFSET.

use super::conn::{Fields, all};
use super::deliveries::{DeliveryRow, select_delivery};
use super::runs::{RunRow, select_run};
use super::{Store, StoreError};
use crate::model::{RepoId, RepoName, RunState};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub repo: Option<RepoId>,
    pub branch: Option<String>,
    pub state: Option<RunState>,
    pub pipeline: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunListItem {
    pub run: RunRow,
    pub repo: RepoName,
}

/// Sorts behind every id: the first page.
const NEWEST: &str = "g";

impl Store {
    /// Up to `limit` runs older than the run `before` (its id: UUIDv7 sorts by time).
    pub async fn list_runs(
        &self,
        filter: RunFilter,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<RunListItem>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok(RunListItem { run: RunRow::read(row)?, repo: row.get("repo_name")? }),
            select_run!(
                (", (SELECT name FROM repos p WHERE p.id = r.repo_id) AS repo_name"),
                "WHERE r.id < $1 AND ($2 IS NULL OR r.repo_id = $2) AND ($3 IS NULL OR r.branch = $3)
                   AND ($4 IS NULL OR r.state = $4) AND ($5 IS NULL OR r.pipeline = $5)
                 ORDER BY r.id DESC LIMIT $6"
            ),
            before.unwrap_or(NEWEST),
            &filter.repo,
            &filter.branch,
            filter.state.map(RunState::word),
            &filter.pipeline,
            limit
        )
    }

    /// Up to `limit` deliveries older than the row `before`.
    pub async fn list_deliveries(
        &self,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            DeliveryRow::read,
            select_delivery!("WHERE id < $1 ORDER BY id DESC LIMIT $2"),
            before.unwrap_or(NEWEST),
            limit
        )
    }

    /// Number of runs in each state that has any, for `/metrics`.
    pub async fn count_runs(&self) -> Result<Vec<(RunState, i64)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((row.word("state")?, row.get("runs")?)),
            "SELECT state, COUNT(*) AS runs FROM runs GROUP BY state ORDER BY state"
        )
    }
}
