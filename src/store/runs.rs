//! Runs and steps: insert, read, and the one guarded way to move them.

use std::collections::BTreeMap;

use super::attempts::{AttemptMove, AttemptRow};
use super::work::WorkAsk;
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{Plan, RepoId, RunId, RunState, Sha, StepId, StepState};

/// A run to insert, with its steps. Its generation is part of its identity.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub id: RunId,
    pub repo_id: RepoId,
    pub pipeline: String,
    pub head_sha: Sha,
    /// `head`, `queue:<ref>`, `cron:<ms>`, `manual:<uuid>`, `event:<id>`.
    pub trigger_key: String,
    pub generation: i64,
    pub branch: String,
    /// First line of the head commit's message.
    pub message: String,
    pub actor: String,
    pub trusted: bool,
    /// `Queued`, `Held`, or a terminal state when it ends before it began (`Errored`, `Skipped`).
    pub state: RunState,
    pub reason: String,
    pub plan: Plan,
    /// Run-level environment (`CI_REF`, …); the same for every delivery that could have made this run.
    pub variables: BTreeMap<String, String>,
    /// Resolved concurrency group, prefixed by the repository's id.
    pub concurrency: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    pub id: RunId,
    pub repo_id: RepoId,
    pub pipeline: String,
    pub head_sha: Sha,
    pub trigger_key: String,
    pub generation: i64,
    pub branch: String,
    pub message: String,
    pub actor: String,
    pub trusted: bool,
    pub state: RunState,
    pub reason: String,
    /// Grows with each change of the run; a change that was decided on an older one is refused.
    pub epoch: i64,
    pub plan: Plan,
    pub plan_digest: String,
    pub variables: BTreeMap<String, String>,
    pub concurrency: Option<String>,
    /// Why it should stop, when someone asked for that.
    pub cancel_request: Option<String>,
    pub created_ms: Millis,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    pub id: StepId,
    pub run_id: RunId,
    /// Index into the plan's steps.
    pub position: i64,
    pub name: String,
    pub state: StepState,
    pub reason: String,
    pub epoch: i64,
    pub outputs: BTreeMap<String, String>,
    pub ready_ms: Option<Millis>,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

/// A run with all that hangs on it: what `run::next` decides from.
#[derive(Debug, Clone)]
pub struct RunView {
    pub run: RunRow,
    /// By position.
    pub steps: Vec<StepRow>,
    /// By (step position, number).
    pub attempts: Vec<AttemptRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepMove {
    pub step: StepId,
    pub to: StepState,
    pub reason: String,
    /// Set when the step ends well.
    pub outputs: Option<BTreeMap<String, String>>,
}

/// All that one decision changes in a run, committed in one transaction or not at all.
#[derive(Debug, Clone)]
pub struct RunChange {
    pub run: RunId,
    /// The epoch that the decision was made on.
    pub epoch: i64,
    pub to: Option<(RunState, String)>,
    pub steps: Vec<StepMove>,
    pub attempts: Vec<AttemptMove>,
    pub asks: Vec<WorkAsk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The run changed meanwhile or is terminal: nothing was written, decide again.
    Stale,
}

impl Store {
    pub async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let _ = id;
        todo!()
    }
    pub async fn run_view(&self, id: &RunId) -> Result<Option<RunView>, StoreError> {
        let _ = id;
        todo!()
    }
    pub async fn apply(&self, change: RunChange, now: Millis) -> Result<Applied, StoreError> {
        let _ = (change, now);
        todo!()
    }
    /// Asks a run to stop. False: it had ended, or was asked before.
    pub async fn request_cancel(&self, id: &RunId, why: &str, now: Millis) -> Result<bool, StoreError> {
        let _ = (id, why, now);
        todo!()
    }
    /// Lets a held run go, bound to its sha. `Err` words say what does not fit.
    pub async fn release_run(
        &self,
        id: &RunId,
        sha: &Sha,
        actor: &str,
        now: Millis,
    ) -> Result<Result<(), String>, StoreError> {
        let _ = (id, sha, actor, now);
        todo!()
    }
    /// Open (not terminal) runs of a concurrency group, oldest first.
    pub async fn open_runs_in_group(&self, group: &str) -> Result<Vec<RunRow>, StoreError> {
        let _ = group;
        todo!()
    }
    /// Every run that is not terminal: asked for once at start-up.
    pub async fn open_runs(&self) -> Result<Vec<RunId>, StoreError> {
        todo!()
    }
    /// The newest generation of the run of this pipeline and sha with trigger `head`, if any.
    pub async fn head_run(
        &self,
        repo: &RepoId,
        pipeline: &str,
        sha: &Sha,
    ) -> Result<Option<RunRow>, StoreError> {
        let _ = (repo, pipeline, sha);
        todo!()
    }
    /// Every head run of a sha, newest generation of each pipeline.
    pub async fn head_runs(&self, repo: &RepoId, sha: &Sha) -> Result<Vec<RunRow>, StoreError> {
        let _ = (repo, sha);
        todo!()
    }
    /// Runs are found by their id or by its first eight or more characters.
    pub async fn find_run(&self, text: &str) -> Result<Option<RunId>, StoreError> {
        let _ = text;
        todo!()
    }
    pub async fn step(&self, id: &StepId) -> Result<Option<StepRow>, StoreError> {
        let _ = id;
        todo!()
    }
}
