//! What the `data` step found in a data set: made beside the data, kept with the attempt, shown on the pull request.
//!
//! Must not: hold a value of the data. Columns, counts and shares leave the attempt, cells never do.

use serde::{Deserialize, Serialize};

use super::metric::Tolerance;

/// Reports of one attempt that are kept.
pub const MAX_REPORTS: usize = 50;
/// Findings and compared columns of one report that are kept.
pub const MAX_FINDINGS: usize = 200;
pub const MAX_COLUMNS: usize = 500;
/// Longest text, in characters.
pub const MAX_TEXT: usize = 300;
/// Bins of a picture.
pub const MAX_BINS: usize = 64;
/// Where the data step leaves a data set's profile, below the source tree.
pub const PROFILES: &str = ".trainyard/data";

/// The only command of the step `features`: the agent says in its environment where this program and its work are.
pub const FEATURES_COMMAND: &str = "\"$TRAINYARD_CHECK\" data features \"$TRAINYARD_CHECK_WORK\"";

/// Path of the artifact that holds a data set's profile.
pub fn profile_path(name: &str) -> String {
    format!("{PROFILES}/{name}.profile.json")
}

/// Where the features step leaves a transform's output on its sample.
pub const FEATURES: &str = ".trainyard/features";

/// Path of the artifact that holds a transform's output.
pub fn features_path(name: &str) -> String {
    format!("{FEATURES}/{name}.output.json")
}

/// One data set, checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// Its name in the pipeline file.
    pub name: String,
    /// `features` when it is of a transform, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub rows: u64,
    pub columns: u64,
    pub passed: bool,
    /// What it was held against, or why against nothing; empty when the pipeline asks for no comparison.
    pub against: String,
    /// The worst first.
    pub findings: Vec<DataFinding>,
    /// Columns that were compared.
    pub drift: Vec<ColumnShift>,
    /// Features beside those of the baseline's transform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureChange>,
    /// Findings and columns beyond what is kept.
    #[serde(default)]
    pub left_out: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFinding {
    pub severity: Severity,
    /// A stable name: `not_null`, `unseen_category`, `drift`.
    pub rule: String,
    pub column: Option<String>,
    /// One sentence without values of the data.
    pub message: String,
    /// Rows or cells concerned; 0 when the finding is of the column as a whole.
    pub count: u64,
    /// Of all rows, 0 to 1.
    pub share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The run stops here.
    Fail,
    Warn,
    Info,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// One column beside the baseline's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnShift {
    pub column: String,
    pub verdict: Shift,
    /// Adjusted over all compared columns; None: not tested.
    pub p: Option<f64>,
    /// Distance in standard deviations of the baseline; numbers only.
    pub shift: Option<f64>,
    pub psi: Option<f64>,
    /// Cramér's V.
    pub v: Option<f64>,
    /// Shares of the compared bins.
    pub baseline_shares: Vec<f64>,
    pub shares: Vec<f64>,
}

/// One feature beside the baseline's, on the same raw rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureChange {
    pub feature: String,
    pub state: FeatureState,
    /// Rows in which it differs by more than its tolerance, and their share.
    pub rows: u64,
    pub share: f64,
    /// The largest difference of two finite numbers, and that relative to the baseline's; None: there is none.
    pub largest: Option<f64>,
    pub relative: Option<f64>,
    /// As it was declared; empty: rounding alone.
    pub tolerance: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureState {
    Equal,
    Changed,
    /// Numbers in one, words in the other.
    Retyped,
    Added,
    Removed,
}

impl FeatureState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Changed => "changed",
            Self::Retyped => "of another kind",
            Self::Added => "added",
            Self::Removed => "removed",
        }
    }
}

impl FeatureChange {
    pub fn new(feature: &str, state: FeatureState, tolerance: Option<Tolerance>) -> Self {
        Self {
            feature: feature.to_owned(),
            state,
            rows: 0,
            share: 0.0,
            largest: None,
            relative: None,
            tolerance: tolerance.map_or_else(String::new, |t| t.to_string()),
        }
    }
}

/// `2 changed, 1 added, 4 equal`.
pub fn feature_counts(features: &[FeatureChange]) -> String {
    use FeatureState::{Added, Changed, Equal, Removed, Retyped};
    let part = |state: FeatureState| {
        let n = features.iter().filter(|f| f.state == state).count();
        (n > 0).then(|| format!("{n} {}", state.word()))
    };
    [Changed, Retyped, Added, Removed, Equal].into_iter().filter_map(part).collect::<Vec<_>>().join(", ")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    Stable,
    Drifted,
    TooFewRows,
}

impl Shift {
    pub fn word(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Drifted => "drifted",
            Self::TooFewRows => "too few rows",
        }
    }
}

impl DataReport {
    /// Findings of one severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &DataFinding> {
        self.findings.iter().filter(move |f| f.severity == severity)
    }

    /// `customers: age moved by 0.81 standard deviations (adjusted p 1e-30); plan …`, or that it passed.
    pub fn sentence(&self) -> String {
        let told: Vec<String> = self
            .of(Severity::Fail)
            .take(3)
            .map(|f| match &f.column {
                Some(column) => format!("{column}: {}", f.message),
                None => f.message.clone(),
            })
            .collect();
        let more = self.of(Severity::Fail).count().saturating_sub(told.len());
        match (told.is_empty(), more) {
            (true, _) => format!("{} passed ({} rows)", self.name, self.rows),
            (false, 0) => format!("{}: {}", self.name, told.join("; ")),
            (false, n) => format!("{}: {}; and {n} more", self.name, told.join("; ")),
        }
    }

    /// Within the bounds above, whatever sent it; numbers that are not finite are dropped.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String| {
            if text.chars().count() > MAX_TEXT {
                *text = text.chars().take(MAX_TEXT - 1).chain(['…']).collect();
            }
        };
        let share = |x: f64| if x.is_finite() { x.clamp(0.0, 1.0) } else { 0.0 };
        let beyond = self.findings.len().saturating_sub(MAX_FINDINGS)
            + self.drift.len().saturating_sub(MAX_COLUMNS)
            + self.features.len().saturating_sub(MAX_COLUMNS);
        self.left_out = self.left_out.saturating_add(beyond as u64);
        self.findings.sort_by_key(|f| f.severity);
        self.findings.truncate(MAX_FINDINGS);
        // What drifted is never what is left out.
        self.drift.sort_by_key(|c| c.verdict != Shift::Drifted);
        self.drift.truncate(MAX_COLUMNS);
        self.features.sort_by_key(|f| f.state == FeatureState::Equal);
        self.features.truncate(MAX_COLUMNS);
        cut(&mut self.name);
        cut(&mut self.against);
        for finding in &mut self.findings {
            cut(&mut finding.rule);
            cut(&mut finding.message);
            if let Some(column) = &mut finding.column {
                cut(column);
            }
            finding.share = share(finding.share);
        }
        for feature in &mut self.features {
            cut(&mut feature.feature);
            cut(&mut feature.tolerance);
            feature.share = share(feature.share);
            for value in [&mut feature.largest, &mut feature.relative] {
                *value = value.filter(|x| x.is_finite());
            }
        }
        for column in &mut self.drift {
            cut(&mut column.column);
            for value in [&mut column.p, &mut column.shift, &mut column.psi, &mut column.v] {
                *value = value.filter(|x| x.is_finite());
            }
            for shares in [&mut column.baseline_shares, &mut column.shares] {
                shares.truncate(MAX_BINS);
                for x in shares.iter_mut() {
                    *x = share(*x);
                }
            }
        }
        self
    }
}
