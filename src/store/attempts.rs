//! Attempts and all that their agents report. Every accepted report is fenced by the attempt's uid (G5).

use std::collections::{BTreeMap, BTreeSet};

use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::queue::{add_usage, charge};
use super::runs::{ended_run, group_busy};
use super::work::{WorkAsk, WorkItem, ask_in};
use super::{Store, StoreError, dialect};
use crate::clock::Millis;
use crate::model::{
    AttemptState, AttemptUid, DataReport, EndClass, Held, MetricPoint, MetricSource, RepoId, RunId, StepId,
};

/// One place given to one ready step.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    pub uid: AttemptUid,
    pub run_id: RunId,
    pub step_id: StepId,
    pub number: i64,
    pub executor: String,
    pub pool: String,
    /// Whose daemon alone reaches its processes; empty: every daemon does.
    pub machine: String,
    /// GPU indexes that the step may see.
    pub gpus: Vec<u32>,
    /// How many pods it has.
    pub ranks: u32,
    /// SHA-256 (hex) of the bootstrap token.
    pub bootstrap_hash: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    pub uid: AttemptUid,
    pub run_id: RunId,
    pub step_id: StepId,
    pub number: i64,
    pub state: AttemptState,
    pub class: Option<EndClass>,
    pub reason: String,
    pub exit_code: Option<i64>,
    pub executor: String,
    pub pool: String,
    /// Whose daemon alone reaches its processes; empty: every daemon does.
    pub machine: String,
    /// Of all of its pods together.
    pub gpus: Vec<u32>,
    /// How many pods it has; the leader's facts are this row, those of the others lie in `attempt_ranks`.
    pub ranks: u32,
    pub bootstrap_hash: String,
    pub bootstrap_nonce: String,
    /// The agent was heard after `start`: secrets are no longer served.
    pub sealed: bool,
    pub cancel_request: bool,
    /// What the step said in `$TRAINYARD_OUTPUT`; goes into the step's row when it succeeds.
    pub outputs: BTreeMap<String, String>,
    /// The executor's own notes for finding it again, as JSON.
    pub handle: serde_json::Value,
    /// Committed log bytes (the next offset).
    pub log_bytes: i64,
    /// Bytes beyond the quota: counted, not kept.
    pub log_lost_bytes: i64,
    pub metrics_seq: i64,
    /// Which metric sources were found, and which were passed over and why.
    pub notes: Vec<String>,
    pub intended_ms: Millis,
    pub submitted_ms: Option<Millis>,
    pub started_ms: Option<Millis>,
    pub heartbeat_ms: Option<Millis>,
    pub finished_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
    pub removed_ms: Option<Millis>,
    /// From when to when its pod held its node, where the executor knew.
    pub held_from_ms: Option<Millis>,
    pub held_to_ms: Option<Millis>,
    /// Each pod's own time, added up.
    pub held_pods_ms: Option<Millis>,
    /// How busy its GPUs were, 0 to 1, where a monitor knew.
    pub gpu_busy: Option<f64>,
}

/// A guarded change of an attempt. `Ended` is written once; a move of an ended attempt is ignored. One that comes late (the
/// agent was heard before its executor's answer) leaves the state alone, and still stores `handle` and `cancel`.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptMove {
    pub uid: AttemptUid,
    pub to: AttemptState,
    pub class: Option<EndClass>,
    pub reason: String,
    pub exit_code: Option<i64>,
    /// Ask the agent to stop at its next heartbeat.
    pub cancel: bool,
    /// Replaces the executor's notes.
    pub handle: Option<serde_json::Value>,
}

/// What the agent says at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    pub class: EndClass,
    pub exit_code: Option<i64>,
    pub reason: String,
    pub outputs: BTreeMap<String, String>,
    pub notes: Vec<String>,
    pub sources: Vec<MetricSource>,
    pub log_lost_bytes: i64,
    /// When the commands ended, where the agent said so.
    pub ended_ms: Option<Millis>,
    /// What the `data` step found, within the bounds of `model::data`.
    pub data: Vec<DataReport>,
    /// Its executor has a word on this end too: it is not the last one.
    pub judged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRow {
    pub attempt_uid: AttemptUid,
    /// Relative, normalised, no `..`.
    pub path: String,
    pub bytes: i64,
    pub sha256: String,
    pub executable: bool,
    pub blob_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    pub start_byte: i64,
    pub bytes: i64,
    pub blob_key: String,
}

/// The answer to a compare-and-set on the log's committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogAppend {
    Committed {
        offset: i64,
    },
    /// The chunk does not start at the committed offset: continue from there.
    Conflict {
        committed: i64,
    },
    /// The attempt has ended or is unknown.
    Refused,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoredMetric {
    pub attempt_uid: AttemptUid,
    pub step_id: StepId,
    /// Position of the step in the plan: "if several steps report a name, the last in graph order counts".
    pub step_position: i64,
    pub step_name: String,
    pub seq: i64,
    pub point: MetricPoint,
}

macro_rules! select_attempt {
    ($rest:literal) => {
        concat!(
            "SELECT a.uid, a.run_id, a.step_id, a.number, a.state, a.class, a.reason, a.exit_code, a.executor, a.pool, a.machine, a.gpus, a.ranks,
               a.bootstrap_hash, a.bootstrap_nonce, a.sealed, a.cancel_request, a.outputs, a.handle, a.log_bytes,
               a.log_lost_bytes, a.metrics_seq, a.notes, a.intended_ms, a.submitted_ms, a.started_ms, a.heartbeat_ms,
               a.finished_ms, a.ended_ms, a.removed_ms, a.held_from_ms, a.held_to_ms, a.held_pods_ms,
               a.gpu_busy
             FROM attempts a ",
            $rest
        )
    };
}
pub(super) use select_attempt;

/// Those of the run `$1`, by (step position, number).
macro_rules! attempts_of_run {
    () => {
        $crate::store::attempts::select_attempt!(
            "JOIN steps s ON s.id = a.step_id WHERE a.run_id = $1 ORDER BY s.position, a.number"
        )
    };
}
pub(super) use attempts_of_run;

impl AttemptRow {
    /// The one line of the daemon's log about an attempt's end, which was stored just now.
    pub fn log_end(&self, class: EndClass, reason: &str, exit_code: Option<i64>, now: Millis) {
        let ran_s = self.started_ms.map(|from| (now - from) / 1000);
        tracing::info!(
            attempt.uid = %self.uid,
            run.id = %self.run_id,
            attempt.class = class.word(),
            attempt.reason = reason,
            attempt.exit_code = exit_code,
            attempt.ran_s = ran_s,
            "attempt ended"
        );
    }
    /// GPUs are paid for from when their node was taken (the agent's start, where nobody knows better) to the end or `now`,
    /// whatever they did. Of an attempt of several pods each pod's own time counts.
    pub fn gpu_ms(&self, now: Millis) -> i64 {
        let gpus = self.gpus.len() as i64;
        if let (Some(pods_ms), 2..) = (self.held_pods_ms, self.ranks) {
            return pods_ms.max(0).saturating_mul(gpus) / i64::from(self.ranks);
        }
        let Some(from) = self.held_from_ms.or(self.started_ms) else { return 0 };
        let to = self.held_to_ms.or(self.ended_ms).unwrap_or(now);
        (to - from).max(0).saturating_mul(gpus)
    }

    /// The share of these attempts' GPU time in which the GPUs did nothing, 0 to 1; None where no monitor knows of any.
    pub fn gpu_idle<'a>(attempts: impl IntoIterator<Item = &'a Self>, now: Millis) -> Option<f64> {
        let (mut known_ms, mut idle_ms) = (0.0, 0.0);
        for attempt in attempts {
            let Some(busy) = attempt.gpu_busy else { continue };
            let ms = attempt.gpu_ms(now) as f64;
            known_ms += ms;
            idle_ms += ms * (1.0 - busy);
        }
        (known_ms > 0.0).then(|| idle_ms / known_ms)
    }

    pub(super) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            uid: row.get("uid")?,
            run_id: row.get("run_id")?,
            step_id: row.get("step_id")?,
            number: row.get("number")?,
            state: row.word("state")?,
            class: row.word_or_null("class")?,
            reason: row.get("reason")?,
            exit_code: row.get("exit_code")?,
            executor: row.get("executor")?,
            pool: row.get("pool")?,
            machine: row.get("machine")?,
            gpus: row.json("gpus")?,
            ranks: row.get::<i64>("ranks")?.try_into().unwrap_or(1),
            bootstrap_hash: row.get("bootstrap_hash")?,
            bootstrap_nonce: row.get("bootstrap_nonce")?,
            sealed: row.get("sealed")?,
            cancel_request: row.get("cancel_request")?,
            outputs: row.json("outputs")?,
            handle: row.json("handle")?,
            log_bytes: row.get("log_bytes")?,
            log_lost_bytes: row.get("log_lost_bytes")?,
            metrics_seq: row.get("metrics_seq")?,
            notes: row.json("notes")?,
            intended_ms: row.get("intended_ms")?,
            submitted_ms: row.get("submitted_ms")?,
            started_ms: row.get("started_ms")?,
            heartbeat_ms: row.get("heartbeat_ms")?,
            finished_ms: row.get("finished_ms")?,
            ended_ms: row.get("ended_ms")?,
            removed_ms: row.get("removed_ms")?,
            held_from_ms: row.get("held_from_ms")?,
            held_to_ms: row.get("held_to_ms")?,
            held_pods_ms: row.get("held_pods_ms")?,
            gpu_busy: row.get("gpu_busy")?,
        })
    }
}

/// What a move of an attempt brought about.
pub(super) struct Moved {
    run: RunId,
    /// It ended just now, so its pool has room: schedule.
    pub(super) room: Option<WorkAsk>,
}

/// Keeps an attempt as it is until this transaction ends. None: it is unknown, or ended already.
pub(super) async fn hold_attempt(tx: &mut Conn, uid: &AttemptUid) -> Result<Option<AttemptRow>, StoreError> {
    let sql = dialect::by_engine(
        tx,
        select_attempt!("WHERE a.uid = $1 AND a.state <> 'ended'"),
        select_attempt!("WHERE a.uid = $1 AND a.state <> 'ended' FOR NO KEY UPDATE"),
    );
    one!(tx, AttemptRow::read, sql, uid)
}

/// `row` is held by this transaction.
pub(super) async fn move_attempt_in(
    tx: &mut Conn,
    row: AttemptRow,
    change: &AttemptMove,
    now: Millis,
) -> Result<Moved, StoreError> {
    let timely = change.to == row.state || row.state.next().contains(&change.to);
    let to = if timely { change.to } else { row.state };
    let ended = to == AttemptState::Ended;
    execute!(
        tx,
        "UPDATE attempts SET state = $2, class = $3, reason = $4, exit_code = COALESCE($5, exit_code),
           cancel_request = (cancel_request OR $6), handle = COALESCE($7, handle),
           submitted_ms = COALESCE(submitted_ms, $8), started_ms = COALESCE(started_ms, $9), ended_ms = $10
         WHERE uid = $1",
        &change.uid,
        to.word(),
        change.class.or(row.class).map(EndClass::word),
        if timely { &change.reason } else { &row.reason },
        change.exit_code,
        change.cancel,
        change.handle.as_ref().map(to_json).transpose()?,
        // The executor answered, whatever state its answer found.
        (change.handle.is_some() || to == AttemptState::Submitted).then_some(now),
        (to == AttemptState::Running).then_some(now),
        ended.then_some(now)
    )?;
    if ended {
        charge(tx, &change.uid, now).await?;
    }
    Ok(Moved { run: row.run_id, room: ended.then(|| WorkAsk::schedule(now)) })
}

/// Held until the transaction ends, by a number made of the group's name.
const LOCK_GROUP: &str = "SELECT pg_advisory_xact_lock(hashtextextended(concurrency, 0)) FROM runs WHERE id = $1 AND concurrency IS NOT NULL";

impl Store {
    /// Moves ready steps to running and inserts their attempts as `intended`, all in one transaction, with a work item
    /// for each run. A step that is no longer ready, or whose run is over or asked to stop, is left out. Returns those placed.
    pub async fn place(
        &self,
        placements: Vec<Placement>,
        now: Millis,
    ) -> Result<Vec<AttemptUid>, StoreError> {
        self.place_by(None, placements, now).await
    }

    /// The same under the lease of a schedule item: when that was lost meanwhile, nothing is placed.
    pub async fn place_under(
        &self,
        lease: &WorkItem,
        placements: Vec<Placement>,
        now: Millis,
    ) -> Result<Vec<AttemptUid>, StoreError> {
        self.place_by(Some(lease.clone()), placements, now).await
    }

    async fn place_by(
        &self,
        lease: Option<WorkItem>,
        mut placements: Vec<Placement>,
        now: Millis,
    ) -> Result<Vec<AttemptUid>, StoreError> {
        // One order of taking row locks for everyone.
        placements.sort_by(|a, b| a.run_id.cmp(&b.run_id));
        self.write(move |tx| {
            Box::pin(async move {
                let mut placed = Vec::new();
                let mut asks = Vec::new();
                if let Some(lease) = &lease
                    && !Self::holds_in(tx, lease).await?
                {
                    return Ok(placed);
                }
                for place in placements {
                    // Two schedulers may see two runs of one concurrency group ready: the second one waits for the first and then
                    // sees what it placed. On SQLite there is one writer.
                    let lock = dialect::by_engine(tx, "", LOCK_GROUP);
                    if !lock.is_empty() {
                        execute!(tx, lock, &place.run_id)?;
                    }
                    // The run's epoch grows, so that a decision made without knowing of this attempt is refused.
                    let open = execute!(
                        tx,
                        concat!(
                            "UPDATE runs SET epoch = epoch + 1
                             WHERE id = $1 AND cancel_request IS NULL AND state <> 'held' AND state NOT IN ",
                            ended_run!(),
                            " AND (state <> 'queued' OR NOT EXISTS (SELECT 1 FROM runs o
                                WHERE o.concurrency = runs.concurrency AND o.id <> runs.id AND ",
                            group_busy!(),
                            "))"
                        ),
                        &place.run_id
                    )?;
                    let ready = execute!(
                        tx,
                        "UPDATE steps SET state = 'running', epoch = epoch + 1, started_ms = COALESCE(started_ms, $3)
                         WHERE id = $1 AND run_id = $2 AND state = 'ready' AND $4",
                        &place.step_id,
                        &place.run_id,
                        now,
                        open == 1
                    )?;
                    if ready == 0 {
                        continue;
                    }
                    execute!(
                        tx,
                        "INSERT INTO attempts (uid, run_id, step_id, number, state, executor, pool, machine, gpus, bootstrap_hash,
                           intended_ms, ranks)
                         VALUES ($1, $2, $3, $4, 'intended', $5, $6, $7, $8, $9, $10, $11)",
                        &place.uid,
                        &place.run_id,
                        &place.step_id,
                        place.number,
                        &place.executor,
                        &place.pool,
                        &place.machine,
                        to_json(&place.gpus)?,
                        &place.bootstrap_hash,
                        now,
                        i64::from(place.ranks.max(1))
                    )?;
                    asks.push(WorkAsk::run(&place.run_id, now));
                    placed.push(place.uid);
                }
                ask_in(tx, &asks, now).await?;
                Ok(placed)
            })
        })
        .await
    }

    pub async fn attempt(&self, uid: &AttemptUid) -> Result<Option<AttemptRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, AttemptRow::read, select_attempt!("WHERE a.uid = $1"), uid)
    }

    /// Every attempt of which something may still be at its executor.
    pub async fn unremoved_attempts(&self) -> Result<BTreeSet<AttemptUid>, StoreError> {
        let mut conn = self.read().await?;
        let uids: Vec<AttemptUid> =
            all!(conn, |row| row.get("uid"), "SELECT uid FROM attempts WHERE removed_ms IS NULL")?;
        Ok(uids.into_iter().collect())
    }

    /// Moves one attempt; when that ends it, asks for its run and for a schedule. False: unknown, or it had ended.
    pub async fn move_attempt(&self, change: AttemptMove, now: Millis) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let Some(row) = hold_attempt(tx, &change.uid).await? else { return Ok(false) };
                let moved = move_attempt_in(tx, row, &change, now).await?;
                if let Some(room) = moved.room {
                    ask_in(tx, &[WorkAsk::run(&moved.run, now), room], now).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Nothing of an ended attempt is left at its executor. What it held there is what its repository is charged for; a local
    /// place is free from now on.
    pub async fn attempt_removed(
        &self,
        uid: &AttemptUid,
        held: Option<Held>,
        now: Millis,
    ) -> Result<(), StoreError> {
        let uid = uid.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let Some(before) = one!(tx, AttemptRow::read, select_attempt!("WHERE a.uid = $1"), &uid)? else {
                    return Ok(());
                };
                let rows = execute!(
                    tx,
                    "UPDATE attempts SET removed_ms = $2, held_from_ms = $3, held_to_ms = $4, held_pods_ms = $5, gpu_busy = $6
                     WHERE uid = $1 AND state = 'ended' AND removed_ms IS NULL",
                    &uid,
                    now,
                    held.map(|held| held.from_ms),
                    held.map(|held| held.to_ms),
                    held.map(|held| held.pods_ms),
                    held.and_then(|held| held.gpu_busy)
                )?;
                if rows == 0 {
                    return Ok(());
                }
                if before.executor == "local" {
                    ask_in(tx, &[WorkAsk::schedule(now)], now).await?;
                }
                let Some(held) = held.filter(|_| !before.gpus.is_empty()) else { return Ok(()) };
                let after = AttemptRow {
                    held_from_ms: Some(held.from_ms),
                    held_to_ms: Some(held.to_ms),
                    held_pods_ms: Some(held.pods_ms),
                    ..before.clone()
                };
                let more_ms = after.gpu_ms(now) - before.gpu_ms(now);
                let repo: Option<RepoId> =
                    one!(tx, |row| row.get("repo_id"), "SELECT repo_id FROM runs WHERE id = $1", &before.run_id)?;
                match repo {
                    Some(repo) => add_usage(tx, &repo, &before.pool, 0, more_ms, now).await,
                    None => Ok(()),
                }
            })
        })
        .await
    }
}
