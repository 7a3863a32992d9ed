//! What comparing two runs came to: the JSON in `comparisons.result`. `results` makes it, `report` and the dashboard read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::{Goal, float};
use super::plan::Reference;
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
    /// Version of the rules that judged: `point-1` compared means and said nothing of noise, `interval-1` judges by the interval
    /// of the change where there is one.
    pub rules: String,
    pub verdict: Verdict,
    /// One sentence for each gate that did not pass, in the order of `metrics`.
    pub reasons: Vec<String>,
    /// The primary metric first, then the gated ones in file order, then all others by name.
    pub metrics: Vec<MetricOutcome>,
}

impl Outcome {
    /// The same with the benchmarks of its metrics; `step:name` goes by its name where it has none of its own.
    #[must_use]
    pub fn beside(mut self, benchmarks: &BTreeMap<String, Vec<Reference>>) -> Self {
        for metric in &mut self.metrics {
            let bare = metric.name.split_once(':').map_or("", |(_, name)| name);
            let known = benchmarks.get(&metric.name).or_else(|| benchmarks.get(bare));
            metric.benchmarks = known.cloned().unwrap_or_default();
        }
        self
    }
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
    /// How sure the change is; None where nothing stands behind it but two numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Why there is no evidence, in a few words: `unreplicated`. Empty when there is, or without two finite values.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_evidence: String,
    /// What benchmarks reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub benchmarks: Vec<Reference>,
    pub gate: Option<GateOutcome>,
}

/// The interval of a change, and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub method: Method,
    pub unit: Unit,
    /// Values of the candidate; pairs, when it is paired.
    pub count: u64,
    pub baseline_count: u64,
    /// Examples of the test set beside the seeds, when both are behind the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<u64>,
    /// How those examples belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Grouping>,
    /// Two-sided: 0.95.
    pub level: f64,
    /// Ends of the interval of `delta`, not turned by the metric's direction.
    pub low: f64,
    pub high: f64,
    /// Two-sided, of no change at all; not corrected for other metrics.
    pub p: f64,
}

impl Evidence {
    /// `3 seeds, paired`, `3 against 2 seeds`, `4,000 examples, paired, clustered by user, 412 clusters`.
    pub fn basis(&self) -> String {
        let unit = self.unit.word();
        let groups = self.groups.as_ref().map_or_else(String::new, |g| format!(", {g}"));
        if let Some(examples) = self.examples {
            return format!("{} {unit}, {} examples, paired{groups}", self.count, grouped(examples));
        }
        match self.method {
            Method::WelchT if self.count != self.baseline_count => {
                format!("{} against {} {unit}", self.count, self.baseline_count)
            }
            Method::WelchT => format!("{} {unit} a side", self.count),
            _ => format!("{} {unit}, paired{groups}", grouped(self.count)),
        }
    }
    /// Zero lies outside of the interval.
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// How the examples of a test set belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grouping {
    pub kind: GroupKind,
    /// The column, as text from outside.
    pub by: String,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// The test set holds fixed shares of them.
    Strata,
    /// Examples of one are not independent.
    Clusters,
}

/// Fewer clusters than this are a small sample, however many examples they hold, and it is said.
const FEW_CLUSTERS: u64 = 20;

impl std::fmt::Display for Grouping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (by, count) = (&self.by, grouped(self.count));
        match self.kind {
            GroupKind::Strata => write!(f, "stratified by {by}, {count} strata"),
            GroupKind::Clusters if self.count < FEW_CLUSTERS => {
                write!(f, "clustered by {by}, only {count} clusters")
            }
            GroupKind::Clusters => write!(f, "clustered by {by}, {count} clusters"),
        }
    }
}

/// The test that made an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Both runs have the same seeds.
    PairedT,
    /// They do not.
    WelchT,
    /// The paired t test over folds, corrected for what their training data share (Nadeau and Bengio 2003).
    NadeauBengio,
    /// The paired bootstrap over examples, bias-corrected and accelerated.
    Bootstrap,
    /// The t distribution with the jackknife's error, of clusters that are too few for the bootstrap.
    ClusterT,
    /// As the bootstrap; the p-value is McNemar's exact one.
    Mcnemar,
    /// `DeLong`'s comparison of two areas under ROC curves.
    Delong,
    /// Seeds and examples: the variances of both added, with Satterthwaite's degrees of freedom.
    SeedsAndExamples,
}

impl Method {
    pub fn word(self) -> &'static str {
        match self {
            Self::PairedT => "paired_t",
            Self::WelchT => "welch_t",
            Self::NadeauBengio => "nadeau_bengio",
            Self::Bootstrap => "bootstrap",
            Self::ClusterT => "cluster_t",
            Self::Mcnemar => "mcnemar",
            Self::Delong => "delong",
            Self::SeedsAndExamples => "seeds_and_examples",
        }
    }
}

/// What was repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Seeds,
    Folds,
    Examples,
    /// Of examples.
    Clusters,
}

impl Unit {
    /// `seeds`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Seeds => "seeds",
            Self::Folds => "folds",
            Self::Examples => "examples",
            Self::Clusters => "clusters",
        }
    }
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
    /// It was held against the interval of the change, not against the change alone.
    #[serde(default)]
    pub by_interval: bool,
    /// Of the first rule about the change: what the change must be above, in the direction that is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// Seeds (or folds) of a side that would probably settle an inconclusive verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<u64>,
}

/// `20,000`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
