//! What comparing two runs came to: the JSON in `comparisons.result`. `results` makes it, `report` and the dashboard read it.

use serde::{Deserialize, Serialize};

use super::metric::{Goal, float};
use super::state::Verdict;

/// A number that survives JSON even when it is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(#[serde(with = "float")] pub f64);

/// One metric of one run: the mean over the members of the step that reported it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Name of the step in the file (`train`), whatever its matrix.
    pub step: String,
    /// Mean of `values`; not finite as soon as one of them is not.
    pub mean: Number,
    /// In graph order, one for each member that reported the metric.
    pub values: Vec<MemberValue>,
}

impl Aggregate {
    pub fn value(&self) -> f64 {
        self.mean.0
    }
    /// Is every member's value a finite number?
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|v| v.value.0.is_finite())
    }
}

/// One member's last value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberValue {
    /// `seed=1`; empty for a step without a matrix.
    pub member: String,
    pub value: Number,
}

/// A candidate held against a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of the rules that judged: `point-1` compares means and says nothing of noise.
    pub rules: String,
    pub verdict: Verdict,
    /// One sentence for each gate that did not pass, in the order of `metrics`.
    pub reasons: Vec<String>,
    /// The primary metric first, then the gated ones in file order, then all others by name.
    pub metrics: Vec<MetricOutcome>,
}

impl Outcome {
    pub fn primary(&self) -> Option<&MetricOutcome> {
        self.metrics.iter().find(|m| m.primary)
    }
    /// The largest number of members that stand behind a value of the candidate.
    pub fn seeds(&self) -> usize {
        self.metrics.iter().filter_map(|m| m.candidate.as_ref()).map(|a| a.values.len()).max().unwrap_or(0)
    }
    pub fn baseline_seeds(&self) -> usize {
        self.metrics.iter().filter_map(|m| m.baseline.as_ref()).map(|a| a.values.len()).max().unwrap_or(0)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricOutcome {
    /// As the gate or the run names it: `accuracy`, `eval:accuracy`.
    pub name: String,
    pub goal: Goal,
    /// Nobody declared the direction: it was guessed from the name.
    pub assumed: bool,
    pub primary: bool,
    pub candidate: Option<Aggregate>,
    pub baseline: Option<Aggregate>,
    /// Candidate minus baseline, when both are finite.
    pub delta: Option<f64>,
    /// `delta` over the baseline's magnitude; None when that is zero.
    pub relative: Option<f64>,
    /// By the metric's direction; None without two finite values.
    pub better: Option<Change>,
    pub gate: Option<GateOutcome>,
}

/// Which way a metric moved, by its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Better,
    Same,
    Worse,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateOutcome {
    pub verdict: Verdict,
    /// A failing gate only warns.
    pub warn_only: bool,
    /// The rules in words: `≥ 0.8`, `at most 0.5% worse`.
    pub rules: Vec<String>,
    /// Why it did not pass; empty when it did.
    pub reasons: Vec<String>,
}
