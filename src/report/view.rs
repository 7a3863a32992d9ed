//! All that is shown, as plain values.

use crate::clock::Millis;
use crate::model::{
    ComparisonState, DataReport, EndClass, Outcome, ParamLine, RunState, Sha, StepState, Verdict,
};

/// One pull request's comment.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The whole first line, by which the comment is found again.
    pub marker: String,
    /// By pipeline name.
    pub sections: Vec<Section>,
}

/// One pipeline's newest run of the commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    pub pipeline: String,
    pub run_id: String,
    pub sha: Sha,
    /// The run's page on the dashboard.
    pub run_url: String,
    pub commit_url: String,
    pub state: RunState,
    pub reason: String,
    /// What it has waited for for some time, in a queue of the cluster.
    pub waits: Option<String>,
    pub trusted: bool,
    /// The comparison for this pull request, or the worst one for a status.
    pub comparison: Option<ComparisonView>,
    pub steps: Vec<StepLine>,
    pub failed: Option<FailedStep>,
    /// What the `data` step found, in the order of the pipeline file.
    pub data: Vec<DataReport>,
    /// All parameters, beside the baseline's.
    pub params: Vec<ParamLine>,
    /// Where metrics were looked for; filled when a gated metric was not found.
    pub looked_at: Vec<String>,
    pub curves: Vec<Curve>,
    /// From start to end; None until it ended.
    pub duration_ms: Option<Millis>,
    /// Sum over ended attempts of their time times their GPUs.
    pub gpu_ms: Millis,
    /// The share of it in which the GPUs did nothing, 0 to 1, where a monitor knew.
    pub gpu_idle: Option<f64>,
    /// By currency; only pools with a price.
    pub costs: Vec<Cost>,
    /// What the repository's budget says, if anything.
    pub budget: Option<String>,
    /// Sections of the pipeline file that this version does not run.
    pub not_run: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonView {
    pub state: ComparisonState,
    pub verdict: Option<Verdict>,
    /// How the baseline was chosen, or why there is none.
    pub note: String,
    pub baseline: Option<BaselineView>,
    /// None while it waits.
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BaselineView {
    pub branch: String,
    pub sha: Sha,
    pub run_url: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepLine {
    pub name: String,
    pub state: StepState,
    pub reason: String,
    pub attempts: usize,
    pub duration_ms: Option<Millis>,
    pub gpu_ms: Millis,
}

/// The first step, in graph order, that did not end well, with the end of its log.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedStep {
    pub name: String,
    pub class: Option<EndClass>,
    pub exit_code: Option<i64>,
    pub reason: String,
    /// Masked when it was stored.
    pub log_tail: String,
    /// What its reports of tests say: counts, then the first failures.
    pub tests: Vec<String>,
}

/// One metric over training steps: (step, mean over members), rising, finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub name: String,
    pub members: usize,
    pub this: Vec<(f64, f64)>,
    /// Empty without a baseline.
    pub baseline: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    pub currency: String,
    pub amount: f64,
}

impl Section {
    /// Nothing that is stored now will change this section any more.
    pub fn is_final(&self) -> bool {
        self.state.is_terminal()
            && !(self.state == RunState::Succeeded
                && self.comparison.as_ref().is_none_or(|c| c.state == ComparisonState::Pending))
    }
}
