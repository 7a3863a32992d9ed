//! Comparisons: a candidate run held against a baseline run, for one pull request or branch.

use super::work::WorkAsk;
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{ComparisonId, ComparisonState, RunId, Verdict};

#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonRow {
    pub id: ComparisonId,
    pub candidate: RunId,
    pub baseline: Option<RunId>,
    /// How the baseline was chosen, or why there is none: one sentence for people.
    pub baseline_note: String,
    /// `pr:<number>` or `branch:<name>`.
    pub target: String,
    pub gates_digest: String,
    /// Version of the rules that judged, e.g. `point-1`.
    pub rules: String,
    pub state: ComparisonState,
    pub verdict: Option<Verdict>,
    /// `results::Outcome` as JSON.
    pub result: serde_json::Value,
    pub created_ms: Millis,
    /// After this time it no longer waits for its baseline.
    pub wait_until_ms: Millis,
    pub updated_ms: Millis,
}

impl Store {
    /// Writes the live comparison of (candidate, target). An unchanged row is left alone; a live row with another
    /// baseline or gates digest is superseded and a new one is made; otherwise state, verdict and result are
    /// updated. Returns whether anything changed; `asks` are written only then.
    pub async fn put_comparison(
        &self,
        row: ComparisonRow,
        asks: Vec<WorkAsk>,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let _ = (row, asks, now);
        todo!()
    }
    /// Marks live comparisons of a candidate superseded whose target is not in `keep` (closed, retargeted away).
    pub async fn supersede_comparisons(
        &self,
        candidate: &RunId,
        keep: &[String],
        now: Millis,
    ) -> Result<u64, StoreError> {
        let _ = (candidate, keep, now);
        todo!()
    }
    /// Live comparisons of a candidate.
    pub async fn comparisons_of(&self, candidate: &RunId) -> Result<Vec<ComparisonRow>, StoreError> {
        let _ = candidate;
        todo!()
    }
    /// Candidates whose live comparison uses this run as its baseline.
    pub async fn candidates_on(&self, baseline: &RunId) -> Result<Vec<RunId>, StoreError> {
        let _ = baseline;
        todo!()
    }
}
