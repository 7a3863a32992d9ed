//! Work items: "look at X", durably. One open row for each (kind, key); asking again raises `wanted`, so a
//! signal that arrives while X is being looked at makes it be looked at once more.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::runs::open_run;
use super::writer::Allows;
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
        /// A run id: look for steps that are equal to its ready ones.
        Reuse = "reuse",
        /// A run id: compare it, as candidate and as baseline of others.
        Compare = "compare",
        /// `repo-id/sha` or `repo-id#number`: render what the forge should show.
        Report = "report",
        /// A credential (forge name): send what is due.
        Outbox = "outbox",
        /// A repository's id: look for new data where its pipelines ask for it.
        Data = "data",
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
    /// Failures of our own in a row.
    pub tries: i64,
    /// How often in a row it waited for something outside.
    pub waits: i64,
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
    /// Something outside of us cannot answer now; look again then. Never parks.
    Wait { at_ms: Millis, error: String },
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
            waits: row.get("waits")?,
        })
    }
}

/// Nobody asked since the item was claimed. Leased items carry this as their time, so that only what is asked
/// meanwhile decides when they are due again.
const NEVER: Millis = Millis::MAX;

/// Both parts read the index `(kind, state, run_at_ms)`: what is due is at its front, and few items are leased. A ready item whose
/// last holder keeps its term (see [`Store::settle`]) is for that holder alone.
macro_rules! claim_sql {
    ($lock:literal) => {
        concat!(
            "WITH ready (due_key, due_ms) AS (
               SELECT key, run_at_ms FROM work
               WHERE kind = $1 AND state = 'ready' AND run_at_ms <= $2 AND machine IN ('', $7)
                 AND (lease_until_ms <= $2 OR holder = $4)
               ORDER BY run_at_ms, key LIMIT $3",
            $lock,
            "), expired (due_key, due_ms) AS (
               SELECT key, lease_until_ms FROM work
               WHERE kind = $1 AND state = 'leased' AND lease_until_ms <= $2 AND machine IN ('', $7)
               ORDER BY lease_until_ms, key LIMIT $3",
            $lock,
            "), due (due_key) AS (
               SELECT due_key FROM (SELECT * FROM ready UNION ALL SELECT * FROM expired) AS both_parts
               ORDER BY due_ms, due_key LIMIT $3)
             UPDATE work SET state = 'leased', claimed = wanted, epoch = epoch + 1, holder = $4, lease_until_ms = $5,
                             run_at_ms = $6
             FROM due WHERE kind = $1 AND key = due_key
             RETURNING kind, key, epoch, claimed, tries, waits"
        )
    };
}

/// When each kind falls due: the front of the index, once for what is ready and once for what is leased. `$1` is the machine, `$2`
/// is [`NEVER`].
pub(super) fn next_due_sql(kinds: &[WorkKind]) -> String {
    let of_kind = |kind: &WorkKind| {
        let kind = kind.word();
        format!(
            "SELECT '{kind}' AS kind, MIN(due_ms) AS due FROM (
               SELECT * FROM (SELECT run_at_ms AS due_ms FROM work
                 WHERE kind = '{kind}' AND state = 'ready' AND machine IN ('', $1) AND run_at_ms < $2
                 ORDER BY run_at_ms LIMIT 1) AS ready
               UNION ALL
               SELECT * FROM (SELECT lease_until_ms AS due_ms FROM work
                 WHERE kind = '{kind}' AND state = 'leased' AND machine IN ('', $1) ORDER BY lease_until_ms LIMIT 1) AS leased
             ) AS both_parts"
        )
    };
    kinds.iter().map(of_kind).collect::<Vec<_>>().join(" UNION ALL ")
}

pub(super) use claim_sql;

/// The machine that alone can do it: the part of a run's or schedule's key behind `@`.
fn machine_of<'k>(kind: &str, key: &'k str) -> &'k str {
    let of_one = [WorkKind::Run.word(), WorkKind::Schedule.word()].contains(&kind);
    key.split_once('@').filter(|_| of_one).map_or("", |(_, machine)| machine)
}

/// Asks inside a transaction. Asks for one item are merged, and all are written in one order, so that two
/// transactions never wait for each other crosswise.
pub(super) async fn ask_in(tx: &mut Conn, asks: &[WorkAsk], now: Millis) -> Result<(), StoreError> {
    let mut merged: BTreeMap<(&'static str, &str), Millis> = BTreeMap::new();
    for ask in asks {
        let at = merged.entry((ask.kind.word(), &ask.key)).or_insert(ask.at_ms);
        *at = ask.at_ms.min(*at);
    }
    if merged.is_empty() {
        return Ok(());
    }
    macro_rules! insert {
        ($kind:literal, $key:literal, $at:literal, $machine:literal, $from:literal) => {
            concat!(
                "INSERT INTO work (kind, key, run_at_ms, machine, state, wanted, created_ms) SELECT ",
                $kind, ", ", $key, ", ", $at, ", ", $machine, ", 'ready', 1, $2 FROM ", $from, " WHERE true
                 ON CONFLICT (kind, key) DO UPDATE SET
                   wanted = work.wanted + 1,
                   run_at_ms = CASE WHEN work.state = 'parked' OR excluded.run_at_ms < work.run_at_ms THEN excluded.run_at_ms
                     ELSE work.run_at_ms END,
                   tries = CASE work.state WHEN 'parked' THEN 0 ELSE work.tries END,
                   waits = CASE work.state WHEN 'parked' THEN 0 ELSE work.waits END,
                   state = CASE work.state WHEN 'parked' THEN 'ready' ELSE work.state END"
            )
        };
    }
    let sql = dialect::by_engine(
        tx,
        insert!(
            "json_extract(value, '$[0]')",
            "json_extract(value, '$[1]')",
            "json_extract(value, '$[2]')",
            "json_extract(value, '$[3]')",
            "json_each($1)"
        ),
        insert!(
            "value->>0",
            "value->>1",
            "(value->>2)::bigint",
            "value->>3",
            "json_array_elements($1::json)"
        ),
    );
    let asked: Vec<_> =
        merged.into_iter().map(|((kind, key), at)| (kind, key, at, machine_of(kind, key))).collect();
    execute!(tx, sql, to_json(&asked)?, now)?;
    tx.asked = true;
    Ok(())
}

async fn settle_in(
    tx: &mut Conn,
    item: &WorkItem,
    outcome: &WorkOutcome,
    now: Millis,
) -> Result<bool, StoreError> {
    let (kind, key, epoch) = (item.kind.word(), &item.key, item.epoch);
    let term = item.kind == WorkKind::Outbox && !matches!(outcome, WorkOutcome::Park { .. });
    if *outcome == WorkOutcome::Done && !term {
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
    let (state, at, error) = match outcome {
        WorkOutcome::Done => ("ready", NEVER, ""),
        WorkOutcome::Again { at_ms } => ("ready", *at_ms, ""),
        WorkOutcome::Retry { at_ms, error } | WorkOutcome::Wait { at_ms, error } => {
            ("ready", *at_ms, error.as_str())
        }
        WorkOutcome::Park { error } => ("parked", now, error.as_str()),
    };
    // Failures and waits are counted apart, and kept while the item goes from one to the other.
    let failed = i64::from(matches!(outcome, WorkOutcome::Retry { .. } | WorkOutcome::Park { .. }));
    let waited = i64::from(matches!(outcome, WorkOutcome::Wait { .. }));
    let keep = failed + waited;
    // A failure waits out its back-off even when it was asked for again meanwhile.
    let rows = execute!(
        tx,
        "UPDATE work SET state = $4, tries = tries * $5 + $6, waits = waits * $5 + $7, last_error = $8,
           run_at_ms = CASE WHEN $5 = 0 AND run_at_ms < $9 THEN run_at_ms ELSE $9 END,
           holder = CASE WHEN $10 THEN holder ELSE '' END,
           lease_until_ms = CASE WHEN $10 THEN lease_until_ms ELSE 0 END
         WHERE kind = $1 AND key = $2 AND epoch = $3 AND state = 'leased'",
        kind,
        key,
        epoch,
        state,
        keep,
        failed,
        waited,
        error,
        at,
        term
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
    tx.asked |= rows == 1 && *outcome == WorkOutcome::Done;
    Ok(rows == 1)
}

impl Store {
    pub async fn ask(&self, asks: Vec<WorkAsk>, now: Millis) -> Result<(), StoreError> {
        let allows = Allows { twice: false, alone: true };
        self.write_by(allows, move |tx| Box::pin(async move { ask_in(tx, &asks, now).await })).await
    }

    /// Asks for every run that is not over, in one statement: for a start. Returns how many.
    pub async fn ask_open_runs(&self, now: Millis) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let asked = execute!(
                    tx,
                    concat!(
                        "INSERT INTO work (kind, key, state, run_at_ms, wanted, created_ms)
                         SELECT 'run', id, 'ready', $1, 1, $1 FROM runs WHERE state IN ",
                        open_run!(),
                        " ORDER BY id
                         ON CONFLICT (kind, key) DO UPDATE SET wanted = work.wanted + 1,
                           run_at_ms = CASE WHEN work.state = 'parked' OR $1 < work.run_at_ms THEN $1 ELSE work.run_at_ms END,
                           tries = CASE work.state WHEN 'parked' THEN 0 ELSE work.tries END,
                           waits = CASE work.state WHEN 'parked' THEN 0 ELSE work.waits END,
                           state = CASE work.state WHEN 'parked' THEN 'ready' ELSE work.state END"
                    ),
                    now
                )?;
                tx.asked |= asked > 0;
                Ok(asked)
            })
        })
        .await
    }

    /// Leases up to `limit` due items of these kinds to `holder` until `now + lease_ms`; expired leases count as due
    /// (their epoch grows, so the former holder's writes are refused). Only everyone's work, and that of this handle's machine.
    pub async fn claim(
        &self,
        kinds: &[WorkKind],
        holder: &str,
        now: Millis,
        lease_ms: Millis,
        limit: i64,
    ) -> Result<Vec<WorkItem>, StoreError> {
        let (kinds, holder, machine) = (kinds.to_vec(), holder.to_owned(), self.machine.clone());
        // One statement for each kind.
        let allows = Allows { twice: false, alone: kinds.len() == 1 };
        self.write_by(allows, move |tx| {
            Box::pin(async move {
                let sql = dialect::by_engine(tx, claim_sql!(""), claim_sql!(" FOR UPDATE SKIP LOCKED"));
                let mut items = Vec::new();
                for kind in kinds {
                    let left = limit - items.len() as i64;
                    let until = now + lease_ms;
                    let (kind, machine) = (kind.word(), &*machine);
                    items.extend(all!(
                        tx,
                        WorkItem::read,
                        sql,
                        kind,
                        now,
                        left,
                        &holder,
                        until,
                        NEVER,
                        machine
                    )?);
                }
                Ok(items)
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
    ///
    /// An outbox item is never deleted and its holder keeps the rest of the lease as a term in which nobody else may claim
    /// it: what the sender has in memory (how much the forge took lately) stays true for its credential.
    pub async fn settle(
        &self,
        item: &WorkItem,
        outcome: WorkOutcome,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let item = item.clone();
        // Only a parked delivery is written by two statements.
        let alone = item.kind != WorkKind::Delivery || !matches!(outcome, WorkOutcome::Park { .. });
        let allows = Allows { twice: false, alone };
        self.write_by(allows, move |tx| Box::pin(async move { settle_in(tx, &item, &outcome, now).await }))
            .await
    }

    /// Makes due at once what a dead process of this machine held: called when a daemon starts. The lock files (of the database,
    /// of the data directory) prove that whoever held it is gone. What other machines hold is theirs until it runs out.
    /// Holders are named `<machine>/<anything>`; on SQLite there is only one.
    pub async fn free_leases_of_the_dead(&self) -> Result<(), StoreError> {
        let everyone = self.is_alone();
        if !everyone && self.machine.is_empty() {
            return Ok(());
        }
        let ours = format!("{}/", self.machine);
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE work SET lease_until_ms = 0, holder = ''
                     WHERE lease_until_ms > 0 AND ($1 OR substr(holder, 1, length($2)) = $2)",
                    everyone,
                    &ours
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Gives up the terms that `holder` keeps on items it is not working at: called when a daemon stops.
    pub async fn give_up_terms(&self, holder: &str) -> Result<(), StoreError> {
        let holder = holder.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE work SET lease_until_ms = 0, holder = '' WHERE kind = 'outbox' AND state = 'ready' AND holder = $1",
                    &holder
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Is this item still held as it was claimed? Keeps it so until the transaction ends.
    pub(super) async fn holds_in(tx: &mut Conn, item: &WorkItem) -> Result<bool, StoreError> {
        let rows = execute!(
            tx,
            "UPDATE work SET state = state WHERE kind = $1 AND key = $2 AND epoch = $3 AND state = 'leased'",
            item.kind.word(),
            &item.key,
            item.epoch
        )?;
        Ok(rows == 1)
    }

    /// When the next item of these kinds falls due.
    pub async fn next_due(&self, kinds: &[WorkKind]) -> Result<Option<Millis>, StoreError> {
        Ok(self.next_due_of(kinds).await?.into_iter().map(|(_, due)| due).min())
    }

    /// The same for each kind that has open items, in one statement: the worker looks at all of them each time it wakes.
    pub async fn next_due_of(&self, kinds: &[WorkKind]) -> Result<Vec<(WorkKind, Millis)>, StoreError> {
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let mut conn = self.read().await?;
        let all: Vec<(WorkKind, Option<Millis>)> = all!(
            conn,
            |row| Ok((row.word("kind")?, row.get("due")?)),
            AssertSqlSafe(next_due_sql(kinds)),
            &*self.machine,
            NEVER
        )?;
        Ok(all.into_iter().filter_map(|(kind, due)| Some((kind, due?))).collect())
    }

    /// Waits until a write of this process asked for work, or the timeout. A hint only: the poll is the truth.
    pub async fn work_hint(&self, timeout: std::time::Duration) {
        let _ = tokio::time::timeout(timeout, self.signals.work.notified()).await;
    }

    /// Parked items with what went wrong, newest first, for `doctor`.
    pub async fn parked(&self, limit: i64) -> Result<Vec<(WorkItem, String)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((WorkItem::read(row)?, row.get("last_error")?)),
            "SELECT kind, key, epoch, claimed, tries, waits, last_error FROM work WHERE state = 'parked'
             ORDER BY run_at_ms DESC, kind, key LIMIT $1",
            limit
        )
    }

    /// How many items are parked.
    pub async fn count_parked(&self) -> Result<i64, StoreError> {
        let mut conn = self.read().await?;
        let count = one!(
            conn,
            |row| row.get("parked"),
            "SELECT COUNT(*) AS parked FROM work WHERE state = 'parked'"
        )?;
        Ok(count.unwrap_or_default())
    }

    /// Items that go on failing, or waiting for something outside: more than `times` in a row, with what went wrong last; most often
    /// first. For `doctor`.
    pub async fn failing(&self, times: i64, limit: i64) -> Result<Vec<(WorkItem, String)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((WorkItem::read(row)?, row.get("last_error")?)),
            "SELECT kind, key, epoch, claimed, tries, waits, last_error FROM work
             WHERE state <> 'parked' AND (tries > $1 OR waits > $1) ORDER BY tries + waits DESC, kind, key LIMIT $2",
            times,
            limit
        )
    }

    /// Makes parked items of a kind due again: for a start, which may bring what they lacked.
    pub async fn retry_parked(&self, kind: WorkKind, now: Millis) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "UPDATE work SET state = 'ready', run_at_ms = $2, tries = 0, waits = 0 WHERE kind = $1 AND state = 'parked'",
                    kind.word(),
                    now
                )?;
                tx.asked |= rows > 0;
                Ok(())
            })
        })
        .await
    }
}
