//! A checked pipeline: what one `.trainyard.yaml` asks for once it is parsed, expanded and resolved.
//! `pipeline` makes it, the run's row keeps it as JSON, everything else reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::{Goal, Tolerance};

/// One pipeline at one commit. Frozen into the run: a retry uses the recorded plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub name: String,
    /// Path of the file it came from, for messages.
    pub file: String,
    pub when: Vec<When>,
    pub concurrency: Option<Concurrency>,
    /// Wall-clock limit of the whole run, from `running` on, in milliseconds.
    pub timeout_ms: i64,
    /// Priority class that the file names. Only what the default branch's file says counts.
    #[serde(default)]
    pub priority: Option<String>,
    /// In graph order: a step comes after every step it needs.
    pub steps: Vec<StepSpec>,
    pub metrics: MetricsSpec,
    pub report: ReportSpec,
    /// Sections that were checked but that this version does not run yet (`data`, `deploy`, …).
    pub not_run: Vec<String>,
}

/// One alternative of `when:`; a list means "any of these".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct When {
    /// `push`, `pull_request`, `cron`, `manual`, `tag`, `data`; empty means `push` and `pull_request`.
    pub event: Vec<String>,
    /// Globs on the pushed branch, or for pull requests on the base branch. Empty means the default
    /// branch for pushes and any base for pull requests.
    pub branch: Vec<String>,
    pub paths: Paths,
    pub cron: Option<String>,
    pub timezone: Option<String>,
    /// Of `data`: where new data is looked for.
    #[serde(default)]
    pub prefix: Vec<String>,
}

/// Path filter: matches when any changed path is included (empty `include` means all) and not excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// With `${NAME}` still in place; `intake` resolves it per run.
    pub group: String,
    pub cancel_in_progress: bool,
}

/// A step after matrix expansion: one node of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Unique in the plan: `train`, or `train (seed=1)` for a matrix member.
    pub name: String,
    /// The name in the file: `train`.
    pub base: String,
    /// The matrix member's values, also set in the environment in upper case.
    pub member: BTreeMap<String, String>,
    pub needs: Vec<Need>,
    /// Runs before `commands`, in the same shell conditions.
    pub setup: Vec<String>,
    /// Each line is the shell's: nothing is replaced in it.
    pub commands: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub secrets: Vec<SecretRef>,
    pub image: Option<String>,
    pub pool: Option<String>,
    pub resources: Resources,
    /// Limit of one attempt, in milliseconds.
    pub timeout_ms: i64,
    pub retry: Retry,
    /// Directory that survives into the next attempt.
    pub checkpoint: Option<String>,
    /// Globs, relative to the source tree, of what later steps and people get.
    pub artifacts: Vec<String>,
    /// Path of a `JUnit` file, when declared.
    pub junit: Option<String>,
    pub cache: Vec<Cache>,
    #[serde(default)]
    pub reuse: Reuse,
    /// How many pods; 1 unless `distributed` is declared.
    pub workers: u32,
    /// The step named `data` alone has any: it runs our own check of them instead of commands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataSet>,
    /// The step named `features` alone has any: its only command is our own check of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
}

impl StepSpec {
    /// One that does nothing, and takes no time: `timeout_ms` is 0.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            base: base_name(name).to_owned(),
            member: BTreeMap::new(),
            needs: Vec::new(),
            setup: Vec::new(),
            commands: Vec::new(),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            image: None,
            pool: None,
            resources: Resources::default(),
            timeout_ms: 0,
            retry: Retry::default(),
            checkpoint: None,
            artifacts: Vec::new(),
            junit: None,
            cache: Vec::new(),
            reuse: Reuse::default(),
            workers: 1,
            data: Vec::new(),
            transforms: Vec::new(),
        }
    }
}

/// The user's own transform, and what must hold of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transform {
    pub name: String,
    /// Reads `$IN`, writes `$OUT`.
    pub command: String,
    /// CSV or JSON lines below the source tree.
    pub sample: String,
    pub checks: Vec<FeatureCheck>,
    /// The transform as it serves.
    pub serve: Option<Serve>,
    /// Columns: the time of the features, and of the label.
    pub time: Option<(String, String)>,
    /// For the output, in the words of `trainyard-data`.
    pub rules: serde_json::Value,
    /// Holds the output against that of the baseline run's transform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<FeatureDiff>,
}

/// How a transform serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Serve {
    /// A command like the transform's own.
    Command(String),
    Endpoint(Endpoint),
}

/// A server of the user's that answers for features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Starts it, and is it.
    pub command: String,
    /// On the loopback address.
    pub url: String,
    /// Until it answers, in milliseconds.
    pub timeout_ms: i64,
    /// Rows of one request.
    pub batch: u32,
}

/// How the features of two commits are compared, on the same rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureDiff {
    /// By feature; `*` for all others. A feature within its tolerance is equal.
    pub tolerance: Vec<(String, Tolerance)>,
    pub on_change: OnChange,
}

/// What a changed or removed feature is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnChange {
    #[default]
    Show,
    Warn,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureCheck {
    /// The same rows give the same features.
    Deterministic,
    /// So they do in another order.
    RowOrder,
    /// And without the second half: nothing is fitted on rows that come later.
    Subset,
    /// And one by one, as they are served.
    BatchOfOne,
    /// Nothing is missing, NaN or infinite.
    Finite,
    /// The serving transform gives the same.
    ServeParity,
}

impl FeatureCheck {
    pub const ALL: [Self; 6] = [
        Self::Deterministic,
        Self::RowOrder,
        Self::Subset,
        Self::BatchOfOne,
        Self::Finite,
        Self::ServeParity,
    ];
    pub fn word(self) -> &'static str {
        match self {
            Self::Deterministic => "deterministic",
            Self::RowOrder => "row_order",
            Self::Subset => "subset",
            Self::BatchOfOne => "batch_of_one",
            Self::Finite => "finite",
            Self::ServeParity => "serve_parity",
        }
    }
}

/// A data set with the rules that it must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSet {
    pub name: String,
    /// A file or glob below the source tree, a .dvc file, or an address.
    pub path: String,
    /// In the words of `trainyard-data`, which alone reads them.
    pub rules: serde_json::Value,
    /// What its distributions are held against; None: nothing.
    pub drift: Option<DataBaseline>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataBaseline {
    /// The same data set in the run that metrics are held against, too.
    Run,
    /// A profile or a table below the source tree.
    File(String),
    /// An alias of a registered model; there is no registry yet.
    Model(String),
}

/// May the result of an equal step stand for this one?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    pub on: bool,
    /// Globs of the files that the result depends on, relative to the source tree. Empty: all of it.
    pub inputs: Vec<String>,
}

/// An edge of the graph, resolved to one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// `StepSpec::name` of the step that must have succeeded.
    pub step: String,
    /// Directory under which its artifacts are unpacked; None: at their own paths.
    #[serde(rename = "as")]
    pub into: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    /// Name in the daemon's configuration.
    pub name: String,
    /// Name of the environment variable in the step.
    #[serde(rename = "as")]
    pub env: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub gpu: u32,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: Option<i64>,
    /// Of the node's disk: workspace, caches, logs and what containers write beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many times beyond the first attempt.
    pub max: u32,
    /// Words of [`EndClass`](super::state::EndClass); empty means the infrastructure classes.
    pub when: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub key: String,
    pub path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsSpec {
    pub primary: Option<String>,
    pub baseline: Baseline,
    /// Files to read metrics from, beside those found by themselves.
    pub files: Vec<String>,
    /// Regular expressions for metrics in what the commands print.
    #[serde(default)]
    pub patterns: Vec<String>,
    /// What the model says of each example of the test set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions: Option<Predictions>,
    /// In file order. A name may be a glob such as `f1/by/*`, or `step:name`.
    pub gates: Vec<(String, Gate)>,
    /// Reference scores by metric, in file order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub benchmarks: BTreeMap<String, Vec<Reference>>,
}

/// A table of predictions that a step leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predictions {
    /// Below the source tree: Parquet, CSV, JSON lines or Arrow.
    pub path: String,
    /// Columns: what names an example, what is true of it, and what the model says.
    pub id: String,
    pub label: String,
    /// The probability of label 1.
    pub score: Option<String>,
    /// A class or a number.
    pub prediction: Option<String>,
    pub metrics: Vec<PredictionMetric>,
    /// Columns whose values part the examples.
    pub slices: Vec<String>,
    /// A column whose shares are as they are by design: draws are made within its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stratum: Option<String>,
    /// A column whose values hold examples that belong together: they are drawn together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// What follows from predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionMetric {
    Accuracy,
    Auc,
    LogLoss,
    Brier,
    Mae,
    Mse,
}

impl PredictionMetric {
    pub const ALL: [Self; 6] = [Self::Accuracy, Self::Auc, Self::LogLoss, Self::Brier, Self::Mae, Self::Mse];
    pub fn word(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Auc => "auc",
            Self::LogLoss => "log_loss",
            Self::Brier => "brier",
            Self::Mae => "mae",
            Self::Mse => "mse",
        }
    }
    /// Does it need a score?
    pub fn of_scores(self) -> bool {
        matches!(self, Self::Auc | Self::LogLoss | Self::Brier)
    }
}

/// What a candidate is held against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    #[default]
    MergeBase,
    Branch(String),
    /// An alias of a registered model; there is no registry yet, so it is inconclusive.
    Model(String),
    Run(String),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// None: guessed from the name and marked "assumed".
    pub goal: Option<Goal>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub no_worse_than: Option<Tolerance>,
    pub improve_by: Option<Tolerance>,
    /// None: by the interval where there is one, else by the point.
    #[serde(default)]
    pub evidence: Option<GateEvidence>,
    /// Benchmarks that it must not be behind, with the values they have for this metric.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beats: Vec<Reference>,
    /// A failing gate only warns.
    pub warn_only: bool,
}

/// What a benchmark says of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The benchmark's name: `published`.
    pub benchmark: String,
    pub value: f64,
}

/// What a gate is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateEvidence {
    /// The mean, whatever its spread.
    Point,
    /// The interval, and nothing else: without one the gate is inconclusive.
    Interval,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSpec {
    pub comment: CommentMode,
    /// Metric names drawn as curves; empty: the primary metric and losses that have several points.
    pub plots: Vec<String>,
}

impl Default for ReportSpec {
    fn default() -> Self {
        Self { comment: CommentMode::Update, plots: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommentMode {
    #[default]
    Update,
    None,
}

/// The name in the file of an expanded step: `train` of `train (seed=1)`.
pub fn base_name(step: &str) -> &str {
    step.split_once(" (").map_or(step, |(base, _)| base)
}

impl Plan {
    pub fn step(&self, name: &str) -> Option<&StepSpec> {
        self.steps.iter().find(|s| s.name == name)
    }

    /// Where it looks for new data.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        let asks = |when: &&When| when.event.iter().any(|event| event == "data");
        self.when.iter().filter(asks).flat_map(|when| when.prefix.iter().map(String::as_str))
    }
}
