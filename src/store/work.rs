//! Work items: "look at X", durably. One open row for each (kind, key); asking again raises `wanted`, so a
//! signal that arrives while X is being looked at makes it be looked at once more.

use std::collections::BTreeMap;

use super::conn::{Conn, Fields, all, execute, one};
use super::{Store, StoreError, dialect};
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

impl WorkItem {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            kind: row.word("kind")?,
            key: row.get("key")?,
            epoch: row.get("epoch")?,
            claimed: row.get("claimed")?,
            tries: row.get("tries")?,
        })
    }
}

/// Nobody asked since the item was claimed. Leased items carry this as their time, so that only what is asked
/// meanwhile decides when they are due again.
const NEVER: Millis = Millis::MAX;

macro_rules! claim_sql {
    ($lock:literal) => {
        concat!(
            "WITH due (due_kind, due_key) AS (
               SELECT kind, key FROM work
               WHERE $1 LIKE '%,' || kind || ',%'
                 AND ((state = 'ready' AND run_at_ms <= $2) OR (state = 'leased' AND lease_until_ms <= $2))
               ORDER BY CASE state WHEN 'ready' THEN run_at_ms ELSE lease_until_ms END
               LIMIT $3",
            $lock,
            ")
             UPDATE work SET state = 'leased', claimed = wanted, epoch = epoch + 1, holder = $4, lease_until_ms = $5,
                             run_at_ms = $6
             FROM due WHERE kind = due_kind AND key = due_key
             RETURNING kind, key, epoch, claimed, tries"
        )
    };
}

/// Asks inside a transaction. Asks for one item are merged, and all are written in one order, so that two
/// transactions never wait for each other crosswise.
pub(super) async fn ask_in(tx: &mut Conn, asks: &[WorkAsk], now: Millis) -> Result<(), StoreError> {
    let mut merged: BTreeMap<(&'static str, &str), Millis> = BTreeMap::new();
    for ask in asks {
        let at = merged.entry((ask.kind.word(), &ask.key)).or_insert(ask.at_ms);
        *at = ask.at_ms.min(*at);
    }
    for ((kind, key), at) in merged {
        execute!(
            tx,
            "INSERT INTO work (kind, key, state, run_at_ms, wanted, created_ms) VALUES ($1, $2, 'ready', $3, 1, $4)
             ON CONFLICT (kind, key) DO UPDATE SET
               wanted = work.wanted + 1,
               run_at_ms = CASE WHEN work.state = 'parked' OR $3 < work.run_at_ms THEN $3 ELSE work.run_at_ms END,
               tries = CASE work.state WHEN 'parked' THEN 0 ELSE work.tries END,
               state = CASE work.state WHEN 'parked' THEN 'ready' ELSE work.state END",
            kind,
            key,
            at,
            now
        )?;
        tx.asked = true;
    }
    Ok(())
}

/// `,run,schedule,`: a list as one argument, on both engines.
fn list(kinds: &[WorkKind]) -> String {
    kinds.iter().fold(String::from(","), |list, kind| list + kind.word() + ",")
}

impl Store {
    pub async fn ask(&self, asks: Vec<WorkAsk>, now: Millis) -> Result<(), StoreError> {
        self.write(move |tx| Box::pin(async move { ask_in(tx, &asks, now).await })).await
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
        let (kinds, holder) = (list(kinds), holder.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let sql = dialect::by_engine(tx, claim_sql!(""), claim_sql!(" FOR UPDATE SKIP LOCKED"));
                all!(tx, WorkItem::read, sql, &kinds, now, limit, &holder, now + lease_ms, NEVER)
            })
        })
        .await
    }

    /// Extends the lease. False: it is lost, stop working on it.
    pub async fn heartbeat_work(
        &self,
        item: &WorkItem,
        now: Millis,
        lease_ms: Millis,
    ) -> Result<bool, StoreError> {
        let item = item.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "UPDATE work SET lease_until_ms = $4 WHERE kind = $1 AND key = $2 AND epoch = $3 AND state = 'leased'",
                    item.kind.word(),
                    &item.key,
                    item.epoch,
                    now + lease_ms
                )?;
                Ok(rows == 1)
            })
        })
        .await
    }

    /// Ends the lease. False: it was lost (someone else holds it now); nothing was written. Parking a delivery's item marks
    /// the delivery too.
    pub async fn settle(
        &self,
        item: &WorkItem,
        outcome: WorkOutcome,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let item = item.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let (kind, key, epoch) = (item.kind.word(), &item.key, item.epoch);
                if outcome == WorkOutcome::Done {
                    let deleted = execute!(
                        tx,
                        "DELETE FROM work WHERE kind = $1 AND key = $2 AND epoch = $3 AND state = 'leased' AND wanted = claimed",
                        kind,
                        key,
                        epoch
                    )?;
                    if deleted == 1 {
                        return Ok(true);
                    }
                }
                // (state, tries counted up by, tries kept, not later than, not before, error)
                let (state, tries, keep, at, error) = match &outcome {
                    WorkOutcome::Done => ("ready", 0, 0, NEVER, ""),
                    WorkOutcome::Again { at_ms } => ("ready", 0, 0, *at_ms, ""),
                    WorkOutcome::Retry { at_ms, error } => ("ready", 1, 1, *at_ms, error.as_str()),
                    WorkOutcome::Park { error } => ("parked", 1, 1, now, error.as_str()),
                };
                // A failure waits out its back-off even when it was asked for again meanwhile.
                let rows = execute!(
                    tx,
                    "UPDATE work SET state = $4, tries = tries * $5 + $6, last_error = $7, holder = '', lease_until_ms = 0,
                       run_at_ms = CASE WHEN $6 = 0 AND run_at_ms < $8 THEN run_at_ms ELSE $8 END
                     WHERE kind = $1 AND key = $2 AND epoch = $3 AND state = 'leased'",
                    kind,
                    key,
                    epoch,
                    state,
                    keep,
                    tries,
                    error,
                    at
                )?;
                if rows == 1 && item.kind == WorkKind::Delivery && state == "parked" {
                    execute!(
                        tx,
                        "UPDATE deliveries SET state = 'parked', reason = $2, decided_ms = $3 WHERE id = $1 AND state = 'stored'",
                        key,
                        error,
                        now
                    )?;
                }
                // Asked for again while it was being looked at: someone should look at once.
                tx.asked |= rows == 1 && outcome == WorkOutcome::Done;
                Ok(rows == 1)
            })
        })
        .await
    }

    /// Makes leased items due at once: called when a daemon starts. The lock file proves that whoever held them is gone. On
    /// Postgres other replicas may live, so nothing is written there: leases run out.
    pub async fn free_leases_of_the_dead(&self) -> Result<(), StoreError> {
        if !self.is_alone() {
            return Ok(());
        }
        self.write(|tx| {
            Box::pin(async move {
                execute!(tx, "UPDATE work SET lease_until_ms = 0 WHERE state = 'leased'").map(|_| ())
            })
        })
        .await
    }

    /// When the next item of these kinds falls due, for the worker's sleep.
    pub async fn next_due(&self, kinds: &[WorkKind]) -> Result<Option<Millis>, StoreError> {
        let mut conn = self.read().await?;
        let due: Option<Option<Millis>> = one!(
            conn,
            |row| row.get("due"),
            "SELECT MIN(CASE state WHEN 'ready' THEN run_at_ms ELSE lease_until_ms END) AS due FROM work
             WHERE state IN ('ready', 'leased') AND $1 LIKE '%,' || kind || ',%'",
            list(kinds)
        )?;
        Ok(due.flatten())
    }

    /// Waits until a write of this process asked for work, or the timeout. A hint only: the poll is the truth.
    pub async fn work_hint(&self, timeout: std::time::Duration) {
        let _ = tokio::time::timeout(timeout, self.signals.work.notified()).await;
    }

    /// Parked items with what went wrong, newest first, for `doctor` and the dashboard.
    pub async fn parked(&self, limit: i64) -> Result<Vec<(WorkItem, String)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((WorkItem::read(row)?, row.get("last_error")?)),
            "SELECT kind, key, epoch, claimed, tries, last_error FROM work WHERE state = 'parked'
             ORDER BY run_at_ms DESC, kind, key LIMIT $1",
            limit
        )
    }
}
