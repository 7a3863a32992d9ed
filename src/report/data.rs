//! Findings in data as a part of the comment: what fails stands open, the rest folds away. No value of the data is in them.

use std::fmt::Write as _; // to a String, which never fails

use super::escape;
use crate::model::data::{ColumnShift, DataFinding, DataReport, Severity, Shift};
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
    }
    let passed = reports.iter().filter(|r| r.passed).count();
    let compared: usize = reports.iter().map(|r| r.drift.len()).sum();
    let drifted = reports.iter().flat_map(|r| &r.drift).filter(|c| c.verdict == Shift::Drifted).count();
    let count = match reports.len() {
        1 if passed == 1 => "1 set, good".to_owned(),
        n if n == passed => format!("{n} sets, all good"),
        n => format!("{passed} of {n} sets good"),
    };
    let moved =
        if compared > 0 { format!(", {drifted} of {compared} columns drifted") } else { String::new() };
    Some(super::comment::fold(&format!("<b>Data</b>: {count}{moved}"), &text))
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
