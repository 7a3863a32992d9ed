//! What a transform gave on the sample, kept for the next run, and the difference from what the baseline's run kept.
//!
//! A kept output has the digest of the raw rows that it is of: outputs of other rows are never compared. Numbers are kept as they
//! are, texts as digests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use trainyard_data::cells::Cells;

use super::{Output, ROUNDING, Sample};
use crate::agent::data::finding;
use crate::model::data::{DataFinding, FeatureChange, FeatureState, Severity, features_path};
use crate::model::metric::Tolerance;
use crate::model::outcome::Number;
use crate::model::plan::{FeatureDiff, OnChange};

const VERSION: u32 = 1;
/// Of one kept output.
const MAX_BYTES: u64 = 32 << 20;
/// Of a baseline's, which came from outside.
const MAX_CELLS: usize = 50_000_000;
/// The tolerance of features that have none of their own.
const ALL: &str = "*";

/// What a transform's features are held against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureBase {
    /// A kept output below the source tree.
    pub output: Option<String>,
    /// How the baseline was chosen, or why there is none.
    pub note: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// SHA-256 of the raw rows.
    sample: String,
    rows: usize,
    /// None: they were too large to be kept.
    columns: Option<Vec<(String, KeptCells)>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptCells {
    Numbers(Vec<Option<Number>>),
    Texts(Vec<Option<u64>>),
}

impl KeptCells {
    fn of(cells: &Cells) -> Self {
        let digest = |text: &String| {
            let hash = Sha256::digest(text.as_bytes());
            u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
        };
        match cells {
            Cells::Numbers(x) => Self::Numbers(x.iter().map(|x| x.map(Number)).collect()),
            Cells::Texts(x) => Self::Texts(x.iter().map(|x| x.as_ref().map(digest)).collect()),
        }
    }
    fn len(&self) -> usize {
        match self {
            Self::Numbers(x) => x.len(),
            Self::Texts(x) => x.len(),
        }
    }
}

impl Sample {
    /// Of the rows that are used, however the file around them is laid out.
    fn digest(&self) -> anyhow::Result<String> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        Ok(hex::encode(Sha256::digest(self.bytes(&all)?)))
    }
}

/// Keeps the output at its place below the source tree, which is the working directory.
pub(super) fn keep(name: &str, sample: &Sample, output: &Output) -> anyhow::Result<()> {
    let cells = output.columns.iter().map(KeptCells::of);
    let columns = output.names.iter().cloned().zip(cells).collect();
    let mut kept =
        Kept { version: VERSION, sample: sample.digest()?, rows: output.rows, columns: Some(columns) };
    let mut bytes = serde_json::to_vec(&kept)?;
    if bytes.len() as u64 > MAX_BYTES {
        kept.columns = None;
        bytes = serde_json::to_vec(&kept)?;
    }
    let place = PathBuf::from(features_path(name));
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    std::fs::write(&place, bytes).with_context(|| format!("cannot write {}", place.display()))
}

fn read(path: &Path) -> anyhow::Result<Kept> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_BYTES {
        bail!("the baseline's features are too large");
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let kept: Kept = serde_json::from_slice(&bytes).context("the baseline's features cannot be read")?;
    if kept.version != VERSION {
        bail!("the baseline's features are of version {} and this reads {VERSION}", kept.version);
    }
    let columns = kept.columns.as_deref().unwrap_or_default();
    if kept.rows.saturating_mul(columns.len()) > MAX_CELLS
        || columns.iter().any(|(_, c)| c.len() != kept.rows)
    {
        bail!("the baseline's features are not of one length");
    }
    Ok(kept)
}

/// What comparing came to: the note for people, one line for each feature, and findings.
#[derive(Default)]
pub(super) struct Compared {
    pub note: String,
    pub features: Vec<FeatureChange>,
    pub findings: Vec<DataFinding>,
}

/// This output beside the baseline's, feature by feature. What cannot be compared is said, and is no difference.
pub(super) fn compare(
    wanted: &FeatureDiff,
    base: Option<&FeatureBase>,
    sample: &Sample,
    output: &Output,
) -> anyhow::Result<Compared> {
    let note = base.map_or("no baseline: this daemon names none", |b| b.note.as_str()).to_owned();
    let mut out = Compared { note, ..Compared::default() };
    let mut warn = |message: String| out.findings.push(finding(Severity::Warn, "diff", None, message));
    let Some(path) = base.and_then(|b| b.output.as_ref()) else {
        warn("was not compared with the baseline's transform".to_owned());
        return Ok(out);
    };
    let before = match read(Path::new(path)) {
        Ok(before) => before,
        // It is the daemon's and another run's, not this commit's fault.
        Err(error) => {
            warn(format!("was not compared with the baseline's transform: {error:#}"));
            return Ok(out);
        }
    };
    let Some(columns) = &before.columns else {
        warn("was not compared: the baseline's features were too large to be kept".to_owned());
        return Ok(out);
    };
    if before.sample != sample.digest()? {
        warn("was not compared with the baseline's transform, which ran on another sample".to_owned());
        return Ok(out);
    }
    if before.rows != output.rows {
        warn(format!(
            "gives {} rows where the baseline's transform gives {}: they were not compared row by row",
            output.rows, before.rows
        ));
    }
    let aligned = before.rows == output.rows;
    let theirs: BTreeMap<&str, &KeptCells> =
        columns.iter().map(|(name, cells)| (name.as_str(), cells)).collect();
    let known: BTreeSet<&str> =
        theirs.keys().copied().chain(output.names.iter().map(String::as_str)).collect();
    for (name, _) in wanted.tolerance.iter().filter(|(name, _)| name != ALL && !known.contains(name.as_str()))
    {
        let message = "has a tolerance, but there is no such feature".to_owned();
        out.findings.push(finding(Severity::Warn, "diff", Some(name), message));
    }
    for (name, cells) in output.names.iter().zip(&output.columns) {
        let tolerance = tolerance(wanted, name);
        out.features.push(match theirs.get(name.as_str()) {
            None => FeatureChange::new(name, FeatureState::Added, tolerance),
            Some(before) if aligned => apart(name, before, &KeptCells::of(cells), tolerance),
            Some(_) => continue,
        });
    }
    for (name, _) in columns.iter().filter(|(name, _)| !output.names.contains(name)) {
        out.features.push(FeatureChange::new(name, FeatureState::Removed, tolerance(wanted, name)));
    }
    let severity = match wanted.on_change {
        OnChange::Show => return Ok(out),
        OnChange::Warn => Severity::Warn,
        OnChange::Fail => Severity::Fail,
    };
    out.findings.extend(out.features.iter().filter_map(|f| found(f, severity)));
    Ok(out)
}

fn tolerance(wanted: &FeatureDiff, name: &str) -> Option<Tolerance> {
    let of = |key: &str| wanted.tolerance.iter().find(|(k, _)| k == key).map(|(_, t)| *t);
    of(name).or_else(|| of(ALL))
}

fn apart(name: &str, before: &KeptCells, now: &KeptCells, tolerance: Option<Tolerance>) -> FeatureChange {
    let mut change = FeatureChange::new(name, FeatureState::Equal, tolerance);
    let (mut largest, mut relative) = (0.0_f64, 0.0_f64);
    match (before, now) {
        (KeptCells::Numbers(before), KeptCells::Numbers(now)) => {
            for pair in before.iter().zip(now) {
                let (was, is) = match pair {
                    (None, None) => continue,
                    (Some(was), Some(is)) => (was.0, is.0),
                    _ => {
                        change.rows += 1;
                        continue;
                    }
                };
                if was == is || (was.is_nan() && is.is_nan()) {
                    continue;
                }
                let distance = (is - was).abs();
                let near = tolerance.map_or(ROUNDING * was.abs().max(is.abs()).max(1.0), |t| t.amount(was));
                // Of what is not finite no distance is small.
                let within = distance <= near;
                change.rows += u64::from(!within);
                if distance.is_finite() {
                    largest = largest.max(distance);
                    if was != 0.0 {
                        relative = relative.max(distance / was.abs());
                    }
                }
            }
        }
        (KeptCells::Texts(before), KeptCells::Texts(now)) => {
            change.rows = before.iter().zip(now).filter(|(was, is)| was != is).count() as u64;
        }
        // Numbers in one and words in the other.
        _ => {
            change.state = FeatureState::Retyped;
            change.rows = now.len() as u64;
        }
    }
    if change.rows > 0 {
        change.share = change.rows as f64 / now.len().max(1) as f64;
        if change.state == FeatureState::Equal {
            change.state = FeatureState::Changed;
        }
    }
    // Also of a feature within its tolerance: how much of it is used up.
    change.largest = (largest > 0.0).then_some(largest);
    change.relative = (relative > 0.0).then_some(relative);
    change
}

fn found(change: &FeatureChange, severity: Severity) -> Option<DataFinding> {
    let message = match change.state {
        FeatureState::Equal | FeatureState::Added => return None,
        FeatureState::Changed => match change.largest {
            Some(most) => format!("is another one than the baseline's, by up to {most:.2e}"),
            None => "is another one than the baseline's".to_owned(),
        },
        FeatureState::Retyped => "is of another kind than the baseline's".to_owned(),
        FeatureState::Removed => "is not there any more".to_owned(),
    };
    Some(DataFinding {
        count: change.rows,
        share: change.share,
        ..finding(severity, "diff", Some(&change.feature), message)
    })
}
