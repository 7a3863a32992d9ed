//! Work items: "look at X", durably. One open row for each (kind, key); asking again raises `wanted`, so a
//! signal that arrives while X is being looked at makes it be looked at once more.

use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::state::states;

states! {
    /// Which handler looks at it. The key's meaning stands behind each.
    WorkKind, "work kind" {
        /// A delivery row id: parse it and decide its runs.
        Delivery = "delivery",
        /// A run id: reconcile it.
        Run = "run",
        /// A pool name: give free places to ready steps.
        Schedule = "schedule",
        /// A run id: compare it, as candidate and as baseline of others.
        Compare = "compare",
        /// `repo-id/sha` or `repo-id#number`: render what the forge should show.
        Report = "report",
        /// A credential (forge name): send what is due.
        Outbox = "outbox",
        /// "retention": delete what is old.
        Retention = "retention",
    }
}

/// A request to look at something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkAsk {
    pub kind: WorkKind,
    pub key: String,
    /// Not before this time; an open item keeps the earlier of both.
    pub at_ms: Millis,
}

/// A leased work item. `claimed` is the value of `wanted` when it was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkItem {
    pub kind: WorkKind,
    pub key: String,
    pub epoch: i64,
    pub claimed: i64,
    pub tries: i64,
}

/// How a handler left its item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkOutcome {
    /// Delete it, unless it was asked for again meanwhile.
    Done,
    /// Nothing failed, but look again at this time at the latest.
    Again { at_ms: Millis },
    /// It failed; try again then. Counts as a try.
    Retry { at_ms: Millis, error: String },
    /// Give up: keep it for an operator.
    Park { error: String },
}

impl Store {
    pub async fn ask(&self, asks: Vec<WorkAsk>, now: Millis) -> Result<(), StoreError> {
        let _ = (asks, now);
        todo!()
    }
    /// Leases up to `limit` due items of these kinds to `holder` until `now + lease_ms`; expired leases count as due
    /// (their epoch grows, so the former holder's writes are refused).
    pub async fn claim(
        &self,
        kinds: &[WorkKind],
        holder: &str,
        now: Millis,
        lease_ms: Millis,
        limit: i64,
    ) -> Result<Vec<WorkItem>, StoreError> {
        let _ = (kinds, holder, now, lease_ms, limit);
        todo!()
    }
    /// Extends the lease. False: it is lost, stop working on it.
    pub async fn heartbeat_work(
        &self,
        item: &WorkItem,
        now: Millis,
        lease_ms: Millis,
    ) -> Result<bool, StoreError> {
        let _ = (item, now, lease_ms);
        todo!()
    }
    /// Ends the lease. False: it was lost (someone else holds it now); nothing was written.
    pub async fn settle(
        &self,
        item: &WorkItem,
        outcome: WorkOutcome,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let _ = (item, outcome, now);
        todo!()
    }
    /// When the next item of these kinds falls due, for the worker's sleep.
    pub async fn next_due(&self, kinds: &[WorkKind]) -> Result<Option<Millis>, StoreError> {
        let _ = kinds;
        todo!()
    }
    /// Waits until a write of this process asked for work, or the timeout. A hint only: the poll is the truth.
    pub async fn work_hint(&self, timeout: std::time::Duration) {
        let _ = timeout;
        todo!()
    }
    /// Parked items, newest first, for `doctor` and the dashboard.
    pub async fn parked(&self, limit: i64) -> Result<Vec<(WorkItem, String)>, StoreError> {
        let _ = limit;
        todo!()
    }
}
