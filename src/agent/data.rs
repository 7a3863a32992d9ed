//! The `data` step: our own binary, run as a child of the agent on the attempt's source tree, so that a table that is too big or
//! broken ends a child and not the agent. The child leaves a report and the profiles; the agent passes the report on.
//!
//! Must not: let a value of the data out. What it prints goes to the log, and the end of a log goes to the pull request.

use std::fmt::Write as _; // to a String, which never fails
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use trainyard_data::check::baseline as baseline_of;
use trainyard_data::drift::Verdict;
use trainyard_data::findings::{Severity as Found, plain};
use trainyard_data::{Check, Rules, Source, check, scan, source};

use crate::clock::{Clock, SystemClock};
use crate::model::data::{
    ColumnShift, DataFinding, DataReport, MAX_REPORTS, Severity, Shift, feature_counts, profile_path,
};
use crate::model::plan::{DataBaseline, DataSet};

/// The child's report, in the attempt's directory.
pub const REPORT: &str = "data-report.json";
/// Largest report that is passed on.
const REPORT_BYTES: u64 = 3 << 20;

/// What the child reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    pub sets: Vec<DataSpec>,
    pub report: PathBuf,
}

/// One data set with what it is held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    pub set: DataSet,
    /// A profile below the source tree.
    pub baseline: Option<String>,
    /// How the baseline was chosen, or why there is none; empty: the pipeline asks for none.
    pub note: String,
}

/// Sets for a check without a daemon: there is no run to be held against, files there are.
pub fn alone(sets: &[DataSet]) -> Vec<DataSpec> {
    let spec = |set: &DataSet| {
        let (baseline, note) = match &set.drift {
            None => (None, String::new()),
            Some(DataBaseline::File(path)) => (Some(path.clone()), format!("the file {path}")),
            Some(_) => (None, "no baseline: there is no daemon here".to_owned()),
        };
        DataSpec { set: set.clone(), baseline, note }
    };
    sets.iter().map(spec).collect()
}

/// The child's command line, and where its report will lie. `exe`: this program.
pub fn command(exe: &Path, dir: &Path, sets: &[DataSpec]) -> std::io::Result<(Command, PathBuf)> {
    let report = dir.join(REPORT);
    let work = dir.join("data-work.json");
    let _ = std::fs::remove_file(&report);
    let bytes = serde_json::to_vec(&Work { sets: sets.to_vec(), report: report.clone() })?;
    std::fs::write(&work, bytes)?;
    let mut command = Command::new(exe);
    command.args(["data", "step"]).arg(&work);
    Ok((command, report))
}

/// What the child reported; nothing when it did not come to it.
pub fn reports(path: &Path) -> Vec<DataReport> {
    let small = std::fs::metadata(path).is_ok_and(|m| m.len() <= REPORT_BYTES);
    let bytes = if small { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Why the step failed, in one sentence for the status; None: nothing failed.
pub fn failure(reports: &[DataReport]) -> Option<String> {
    let failed: Vec<String> = reports.iter().filter(|r| !r.passed).map(DataReport::sentence).collect();
    (!failed.is_empty()).then(|| failed.join(". "))
}

/// The child: checks every set and says what it found. True: all passed.
///
/// # Errors
/// The work file cannot be read, or the report not be written.
pub fn run(work: &Path) -> anyhow::Result<bool> {
    let bytes = std::fs::read(work).with_context(|| format!("cannot read {}", work.display()))?;
    let work: Work =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not a work file", work.display()))?;
    let mut reports = Vec::new();
    for spec in work.sets.iter().take(MAX_REPORTS) {
        let report = one(spec);
        print!("{}", told(&report));
        reports.push(report);
    }
    let bytes = serde_json::to_vec(&reports)?;
    std::fs::write(&work.report, bytes).with_context(|| format!("cannot write {}", work.report.display()))?;
    Ok(reports.iter().all(|r| r.passed))
}

/// Data that cannot be read is a finding: it never passes.
fn one(spec: &DataSpec) -> DataReport {
    let empty =
        DataReport { name: spec.set.name.clone(), against: spec.note.clone(), ..DataReport::default() };
    match checked(spec) {
        Ok(done) => report_of(spec, done),
        Err(error) => DataReport {
            findings: vec![DataFinding {
                severity: Severity::Fail,
                rule: "unreadable".into(),
                column: None,
                message: format!("{error:#}"),
                count: 0,
                share: 0.0,
            }],
            ..empty
        }
        .bounded(),
    }
}

fn checked(spec: &DataSpec) -> anyhow::Result<Check> {
    let rules: Rules = serde_json::from_value(spec.set.rules.clone())
        .with_context(|| format!("the rules of {} cannot be used", spec.set.name))?;
    let reading = source::Options { kinds: rules.kinds(), ..source::Options::default() };
    let baseline = match &spec.baseline {
        Some(path) => Some(baseline_of(path, &reading)?),
        None => None,
    };
    let mut table = Source::open(&spec.set.path, &reading)?;
    let now = SystemClock.now_ms() * 1000;
    let options = scan::Options::default();
    let done = check(&mut table, &rules, baseline.as_ref(), &reading, &options, now)?;
    let place = PathBuf::from(profile_path(&spec.set.name));
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    std::fs::write(&place, done.profile.to_json()?)
        .with_context(|| format!("cannot write {}", place.display()))?;
    Ok(done)
}

fn report_of(spec: &DataSpec, done: Check) -> DataReport {
    let mut findings: Vec<DataFinding> = done.findings.into_iter().map(finding_of).collect();
    if spec.baseline.is_none() && !spec.note.is_empty() {
        // Nobody may read a pass where there was nothing to judge by.
        findings.push(DataFinding {
            severity: Severity::Warn,
            rule: "no_baseline".into(),
            column: None,
            message: "drift was not tested".into(),
            count: 0,
            share: 0.0,
        });
    }
    let drift = done.drift.into_iter().filter_map(|d| {
        let verdict = match d.verdict {
            Verdict::Stable => Shift::Stable,
            Verdict::Drifted => Shift::Drifted,
            Verdict::TooFewRows => Shift::TooFewRows,
            Verdict::NotTested => return None,
        };
        Some(ColumnShift {
            column: d.column,
            verdict,
            p: Some(d.p_adjusted),
            shift: d.shift,
            psi: Some(d.psi),
            v: Some(d.v),
            baseline_shares: pooled(&d.baseline_shares),
            shares: pooled(&d.shares),
        })
    });
    DataReport {
        name: spec.set.name.clone(),
        kind: String::new(),
        rows: done.rows,
        columns: done.columns as u64,
        passed: done.passed,
        against: spec.note.clone(),
        findings,
        drift: drift.collect(),
        features: Vec::new(),
        left_out: 0,
    }
    .bounded()
}

pub(super) fn finding(severity: Severity, rule: &str, column: Option<&str>, message: String) -> DataFinding {
    DataFinding {
        severity,
        rule: rule.to_owned(),
        column: column.map(str::to_owned),
        message,
        count: 0,
        share: 0.0,
    }
}

/// Without its examples: those are values.
pub(super) fn finding_of(f: trainyard_data::findings::Finding) -> DataFinding {
    DataFinding {
        severity: match f.severity {
            Found::Fail => Severity::Fail,
            Found::Warn => Severity::Warn,
            Found::Info => Severity::Info,
        },
        rule: f.rule.to_owned(),
        column: f.column,
        message: f.message,
        count: if f.share < 1.0 { f.count } else { 0 },
        share: f.share,
    }
}

/// A picture needs no more than sixteen bins.
fn pooled(shares: &[f64]) -> Vec<f64> {
    shares.chunks(shares.len().div_ceil(16).max(1)).map(|c| c.iter().sum()).collect()
}

/// For the log: what the report says, and nothing else.
pub(super) fn told(report: &DataReport) -> String {
    let safe = |text: &str| plain(&text.chars().take(400).collect::<String>());
    let mut out = format!("{}: {} rows, {} columns", safe(&report.name), report.rows, report.columns);
    if !report.against.is_empty() {
        let _ = write!(out, ", against {}", safe(&report.against));
    }
    out.push('\n');
    for finding in &report.findings {
        let column = finding.column.as_deref().map_or(String::new(), |c| format!(" {}:", safe(c)));
        let _ =
            write!(out, "{} [{}]{column} {}", finding.severity.word(), finding.rule, safe(&finding.message));
        if finding.count > 0 {
            let _ = write!(out, " ({}, {:.4}%)", finding.count, 100.0 * finding.share);
        }
        out.push('\n');
    }
    let compared = report.drift.len();
    let drifted = report.drift.iter().filter(|c| c.verdict == Shift::Drifted).count();
    if compared > 0 {
        let _ = writeln!(out, "{drifted} of {compared} compared columns drifted");
    }
    if !report.features.is_empty() {
        let _ = writeln!(out, "beside the baseline's: {}", feature_counts(&report.features));
    }
    out.push_str(if report.passed { "passed\n" } else { "failed\n" });
    out
}
