//! Attempts and all that their agents report. Every accepted report is fenced by the attempt's uid (G5).

use std::collections::BTreeMap;

use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{AttemptState, AttemptUid, EndClass, MetricPoint, RunId, StepId};

/// One place given to one ready step.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    pub uid: AttemptUid,
    pub run_id: RunId,
    pub step_id: StepId,
    pub number: i64,
    pub executor: String,
    pub pool: String,
    /// GPU indexes that the step may see.
    pub gpus: Vec<u32>,
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
    pub gpus: Vec<u32>,
    pub bootstrap_hash: String,
    pub bootstrap_nonce: String,
    /// The agent was heard after `start`: secrets are no longer served.
    pub sealed: bool,
    pub cancel_request: bool,
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
}

/// A guarded change of an attempt. `Ended` is written once; a move of an ended attempt is ignored.
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
    pub log_lost_bytes: i64,
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

/// A ready step with what scheduling needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadyStep {
    pub run_id: RunId,
    pub step_id: StepId,
    pub position: i64,
    /// Number of its next attempt.
    pub number: i64,
    pub ready_ms: Millis,
    pub run_created_ms: Millis,
    pub spec: crate::model::StepSpec,
    pub trusted: bool,
}

/// What runs on a pool now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolUse {
    pub attempts: i64,
    pub gpus: Vec<u32>,
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

impl Store {
    /// Ready steps of runs that are queued or running, oldest run first, then position.
    pub async fn ready_steps(&self) -> Result<Vec<ReadyStep>, StoreError> {
        todo!()
    }
    /// Attempts that are not ended, by pool.
    pub async fn pool_use(&self) -> Result<BTreeMap<String, PoolUse>, StoreError> {
        todo!()
    }
    /// Moves ready steps to running and inserts their attempts as `intended`, all in one transaction, with a work item
    /// for each run. A step that is no longer ready is left out. Returns those placed.
    pub async fn place(
        &self,
        placements: Vec<Placement>,
        now: Millis,
    ) -> Result<Vec<AttemptUid>, StoreError> {
        let _ = (placements, now);
        todo!()
    }
    pub async fn attempt(&self, uid: &AttemptUid) -> Result<Option<AttemptRow>, StoreError> {
        let _ = uid;
        todo!()
    }
    /// Every attempt that is not ended, or ended but not yet removed from its executor.
    pub async fn attempts_to_watch(&self) -> Result<Vec<AttemptRow>, StoreError> {
        todo!()
    }
    pub async fn move_attempt(&self, change: AttemptMove, now: Millis) -> Result<bool, StoreError> {
        let _ = (change, now);
        todo!()
    }
    pub async fn attempt_removed(&self, uid: &AttemptUid, now: Millis) -> Result<(), StoreError> {
        let _ = (uid, now);
        todo!()
    }

    /// Binds the bootstrap to the first nonce that shows it and moves the attempt to running. True for the first and for
    /// every repeat with the same nonce while the attempt is not sealed and not ended.
    pub async fn agent_start(
        &self,
        uid: &AttemptUid,
        bootstrap_hash: &str,
        nonce: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let _ = (uid, bootstrap_hash, nonce, now);
        todo!()
    }
    /// Notes a sign of life, seals the attempt, and says whether it should stop. None: ended or unknown.
    pub async fn agent_heartbeat(&self, uid: &AttemptUid, now: Millis) -> Result<Option<bool>, StoreError> {
        let _ = (uid, now);
        todo!()
    }
    /// Compare-and-set on the committed offset; the bytes lie in `blob` under `blob_key` already.
    pub async fn append_log(
        &self,
        uid: &AttemptUid,
        offset: i64,
        bytes: i64,
        blob_key: &str,
        now: Millis,
    ) -> Result<LogAppend, StoreError> {
        let _ = (uid, offset, bytes, blob_key, now);
        todo!()
    }
    /// Segments that hold bytes from `from_byte` on, in order.
    pub async fn log_segments(
        &self,
        uid: &AttemptUid,
        from_byte: i64,
        limit: i64,
    ) -> Result<Vec<SegmentRow>, StoreError> {
        let _ = (uid, from_byte, limit);
        todo!()
    }
    /// Replaces all segments of an ended attempt by one (compaction); the caller deletes the old blobs afterwards.
    pub async fn compact_log(
        &self,
        uid: &AttemptUid,
        bytes: i64,
        blob_key: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let _ = (uid, bytes, blob_key, now);
        todo!()
    }
    /// Stores a batch whose first point has number `first_seq` (from 1); points that are stored already are passed over. Returns the
    /// highest number stored.
    pub async fn record_metrics(
        &self,
        uid: &AttemptUid,
        first_seq: i64,
        points: Vec<MetricPoint>,
        params: BTreeMap<String, String>,
        now: Millis,
    ) -> Result<Option<i64>, StoreError> {
        let _ = (uid, first_seq, points, params, now);
        todo!()
    }
    pub async fn put_artifact(&self, artifact: ArtifactRow, now: Millis) -> Result<bool, StoreError> {
        let _ = (artifact, now);
        todo!()
    }
    pub async fn artifacts_of_attempt(&self, uid: &AttemptUid) -> Result<Vec<ArtifactRow>, StoreError> {
        let _ = uid;
        todo!()
    }
    /// Ends the attempt by its agent's word and asks for its run. False: it had ended.
    pub async fn agent_finish(
        &self,
        uid: &AttemptUid,
        finish: Finish,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let _ = (uid, finish, now);
        todo!()
    }
    /// Metric points of the attempts that count: of each step, the last attempt.
    pub async fn run_metrics(&self, run: &RunId) -> Result<Vec<StoredMetric>, StoreError> {
        let _ = run;
        todo!()
    }
    /// Parameters by (step name, parameter).
    pub async fn run_params(&self, run: &RunId) -> Result<Vec<(String, String, String)>, StoreError> {
        let _ = run;
        todo!()
    }
    pub async fn run_artifacts(&self, run: &RunId) -> Result<Vec<ArtifactRow>, StoreError> {
        let _ = run;
        todo!()
    }
}
