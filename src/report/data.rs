//! Findings in data as a part of the comment: what fails stands open, the rest folds away. No value of the data is in them.

use std::fmt::Write as _; // to a String, which never fails

use super::escape;
use crate::model::data::{
    ColumnShift, DataFinding, DataReport, FeatureChange, FeatureState, Severity, Shift, feature_counts,
};
use crate::model::outcome::grouped;

const NAME: usize = 60;
const SENTENCE: usize = 300;
const MAX_ROWS: usize = 20;
const MAX_COLUMNS: usize = 24;

/// What stops a run: open. None when every set passed.
pub(super) fn failed(reports: &[DataReport]) -> Option<String> {
    let parts: Vec<String> = reports.iter().filter(|r| !r.passed).map(open).collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

/// What passed, and every comparison: folded.
pub(super) fn folded(reports: &[DataReport]) -> Option<String> {
    if reports.is_empty() {
        return None;
    }
    let mut text = String::new();
    for report in reports {
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        if report.passed {
            let _ = write!(
                text,
                "{} passed: {}{}",
                escape::code(&report.name, NAME),
                size(report),
                against(report)
            );
            let warned: Vec<&DataFinding> =
                report.findings.iter().filter(|f| f.severity != Severity::Info).collect();
            if !warned.is_empty() {
                let _ = write!(text, "\n\n{}", table(&warned));
            }
        } else {
            let _ = write!(text, "{}", escape::code(&report.name, NAME));
        }
        if !report.drift.is_empty() {
            let _ = write!(text, "\n\n{}", drift(report));
        }
        if !report.features.is_empty() {
            let _ = write!(text, "\n\n{}", features(report));
        }
    }
    let passed = reports.iter().filter(|r| r.passed).count();
    let compared: usize = reports.iter().map(|r| r.drift.len()).sum();
    let drifted = reports.iter().flat_map(|r| &r.drift).filter(|c| c.verdict == Shift::Drifted).count();
    let count = match reports.len() {
        1 if passed == 1 => "1 set, good".to_owned(),
        n if n == passed => format!("{n} sets, all good"),
        n => format!("{passed} of {n} sets good"),
    };
    let mut moved =
        if compared > 0 { format!(", {drifted} of {compared} columns drifted") } else { String::new() };
    let all: Vec<FeatureChange> = reports.iter().flat_map(|r| r.features.clone()).collect();
    let of_features = |r: &DataReport| r.kind == "features";
    let (title, what) = match (reports.iter().any(of_features), reports.iter().all(of_features)) {
        (_, true) => ("Features", ""),
        (true, false) => ("Data and features", "features: "),
        (false, false) => ("Data", ""),
    };
    if !all.is_empty() {
        let _ = write!(moved, ", {what}{}", feature_counts(&all));
    }
    Some(super::comment::fold(&format!("<b>{title}</b>: {count}{moved}"), &text))
}

fn open(report: &DataReport) -> String {
    let bad: Vec<&DataFinding> = report.of(Severity::Fail).collect();
    if report.kind == "features" {
        let name = escape::code(&report.name, NAME);
        return format!(
            "**Features {name}** are not what they should be: {}\n\n{}",
            size(report),
            table(&bad)
        );
    }
    format!(
        "**Data {}** is not fit to train on: {}{}\n\n{}",
        escape::code(&report.name, NAME),
        size(report),
        against(report),
        table(&bad)
    )
}

fn size(report: &DataReport) -> String {
    format!("{} rows, {} columns", grouped(report.rows), report.columns)
}

fn against(report: &DataReport) -> String {
    match report.against.as_str() {
        "" => String::new(),
        none if none.starts_with("no baseline") => format!("; {}", escape::text(none, SENTENCE)),
        note => format!(", against {}", escape::text(note, SENTENCE)),
    }
}

fn table(findings: &[&DataFinding]) -> String {
    let mut text = "| | column | what | rows |\n|:--|:--|:--|--:|".to_owned();
    for finding in findings.iter().take(MAX_ROWS) {
        let icon = match finding.severity {
            Severity::Fail => "❌",
            Severity::Warn => "⚠️",
            Severity::Info => "ℹ️",
        };
        let column = finding.column.as_deref().map_or("–".to_owned(), |c| escape::code(c, NAME));
        let rows = match finding.count {
            0 => "–".to_owned(),
            n => format!("{} ({})", grouped(n), percent(finding.share)),
        };
        let what = escape::text(&finding.message, SENTENCE);
        let _ = write!(text, "\n| {icon} | {column} | {what} | {rows} |");
    }
    if findings.len() > MAX_ROWS {
        let _ = write!(text, "\n| | | and {} more in the full report | |", findings.len() - MAX_ROWS);
    }
    text
}

/// Drifted columns first; small pictures of both distributions.
fn drift(report: &DataReport) -> String {
    let mut columns: Vec<&ColumnShift> = report.drift.iter().collect();
    columns.sort_by_key(|c| c.verdict != Shift::Drifted);
    let mut text =
        "| column | verdict | adjusted p | moved by | PSI | baseline | this |\n|:--|:--|--:|--:|--:|:--|:--|"
            .to_owned();
    for column in columns.iter().take(MAX_COLUMNS) {
        let verdict = match column.verdict {
            Shift::Drifted => "**drifted**",
            other => other.word(),
        };
        let number = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{x:.3}").replace('-', "−"));
        let _ = write!(
            text,
            "\n| {} | {verdict} | {} | {} | {} | {} | {} |",
            escape::code(&column.column, NAME),
            column.p.map_or("–".to_owned(), chance),
            column.shift.map_or("–".to_owned(), |s| format!("{s:.2} sd")),
            number(column.psi),
            picture(&column.baseline_shares),
            picture(&column.shares),
        );
    }
    if columns.len() > MAX_COLUMNS {
        let _ = write!(text, "\n| and {} more | | | | | | |", columns.len() - MAX_COLUMNS);
    }
    text
}

/// What differs from the baseline's transform on the same rows; how many are equal.
fn features(report: &DataReport) -> String {
    let (equal, other): (Vec<&FeatureChange>, Vec<&FeatureChange>) =
        report.features.iter().partition(|f| f.state == FeatureState::Equal);
    let told = format!("On the same rows as the baseline's transform: {}.", feature_counts(&report.features));
    // Equal ones are listed where a tolerance was declared: how much of it is used up.
    let within = equal.into_iter().filter(|f| !f.tolerance.is_empty() && f.largest.is_some());
    let shown: Vec<&FeatureChange> = other.into_iter().chain(within).collect();
    if shown.is_empty() {
        return told;
    }
    let mut text = format!(
        "{told}\n\n| feature | | rows that differ | largest difference | relative | tolerance |\n|:--|:--|--:|--:|--:|--:|"
    );
    for f in shown.iter().take(MAX_COLUMNS) {
        let word = match f.state {
            FeatureState::Equal => "within tolerance".to_owned(),
            state => format!("**{}**", state.word()),
        };
        let rows =
            if f.rows > 0 { format!("{} ({})", grouped(f.rows), percent(f.share)) } else { "–".to_owned() };
        let number = |x: Option<f64>| x.map_or("–".to_owned(), magnitude);
        let _ = write!(
            text,
            "\n| {} | {word} | {rows} | {} | {} | {} |",
            escape::code(&f.feature, NAME),
            number(f.largest),
            f.relative.map_or("–".to_owned(), percent),
            if f.tolerance.is_empty() { "–".to_owned() } else { escape::text(&f.tolerance, NAME) },
        );
    }
    if shown.len() > MAX_COLUMNS {
        let _ = write!(text, "\n| and {} more | | | | | |", shown.len() - MAX_COLUMNS);
    }
    text
}

/// `0.25`, `31.4`, `4.0e−7`.
fn magnitude(x: f64) -> String {
    if (1e-4..1e6).contains(&x) {
        let text = format!("{x:.*}", (3 - x.log10().floor() as i32).clamp(0, 7) as usize);
        return if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        };
    }
    format!("{x:.1e}").replace('-', "−")
}

/// `0.31`, `2e-12`, `<1e-300`.
pub(super) fn chance(p: f64) -> String {
    match p {
        p if p < 1e-300 => "<1e-300".to_owned(),
        p if p < 0.001 => format!("{p:.0e}"),
        p => format!("{p:.3}"),
    }
}

/// `▁▃█▅▂`.
pub(super) fn picture(shares: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = shares.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    shares.iter().map(|s| BARS[((s / most) * 7.0).round() as usize % 8]).collect()
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p > 0.0 && p < 0.01 => "<0.01 %".to_owned(),
        p => format!("{p:.2} %"),
    }
}
