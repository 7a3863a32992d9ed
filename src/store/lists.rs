//! Lists for people: keyset pages, newest first. Never OFFSET.

use super::deliveries::DeliveryRow;
use super::runs::RunRow;
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

impl Store {
    /// Up to `limit` runs older than the run `before` (its id: UUIDv7 sorts by time).
    pub async fn list_runs(
        &self,
        filter: RunFilter,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<RunListItem>, StoreError> {
        let _ = (filter, before, limit);
        todo!()
    }
    pub async fn list_deliveries(
        &self,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let _ = (before, limit);
        todo!()
    }
    /// Number of runs in each state, for `/metrics`.
    pub async fn count_runs(&self) -> Result<Vec<(RunState, i64)>, StoreError> {
        todo!()
    }
}
