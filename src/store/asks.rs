//! How each kind of work is asked for: the one place that spells the keys.

use super::work::{WorkAsk, WorkKind};
use crate::clock::Millis;
use crate::model::{DeliveryRowId, RepoId, RunId, Sha};

impl WorkAsk {
    fn new(kind: WorkKind, key: String, at_ms: Millis) -> Self {
        Self { kind, key, at_ms }
    }
    pub fn delivery(id: &DeliveryRowId, at_ms: Millis) -> Self {
        Self::new(WorkKind::Delivery, id.to_string(), at_ms)
    }
    pub fn run(id: &RunId, at_ms: Millis) -> Self {
        Self::new(WorkKind::Run, id.to_string(), at_ms)
    }
    /// The same run, as far as only this machine can do something about it.
    pub fn run_at(id: &RunId, machine: &str, at_ms: Millis) -> Self {
        Self::new(WorkKind::Run, format!("{id}@{machine}"), at_ms)
    }
    /// The pools of this machine alone.
    pub fn schedule_at(machine: &str, at_ms: Millis) -> Self {
        Self::new(WorkKind::Schedule, format!("all@{machine}"), at_ms)
    }
    /// All pools at once.
    pub fn schedule(at_ms: Millis) -> Self {
        Self::new(WorkKind::Schedule, "all".into(), at_ms)
    }
    /// Look for steps that are equal to the ready ones of a run.
    pub fn reuse(id: &RunId, at_ms: Millis) -> Self {
        Self::new(WorkKind::Reuse, id.to_string(), at_ms)
    }
    pub fn compare(id: &RunId, at_ms: Millis) -> Self {
        Self::new(WorkKind::Compare, id.to_string(), at_ms)
    }
    /// What the forge should show for a commit.
    pub fn report_commit(repo: &RepoId, sha: &Sha, at_ms: Millis) -> Self {
        Self::new(WorkKind::Report, format!("{repo}/{sha}"), at_ms)
    }
    /// What the forge should show on a pull request.
    pub fn report_pull(repo: &RepoId, number: i64, at_ms: Millis) -> Self {
        Self::new(WorkKind::Report, format!("{repo}#{number}"), at_ms)
    }
}
