//! What the `data` step found, as the run's page shows it. Columns, counts and shares; there is no value of the data to show.

use crate::http::text::{Shown, shown, shown_cut};
use crate::model::data::{
    ColumnShift, DataReport, FeatureChange, FeatureState, Severity, Shift, feature_counts,
};

const FINDINGS: usize = 100;
const COLUMNS: usize = 60;
/// Of a picture, in its own units.
const HEIGHT: f64 = 24.0;
const BIN: u32 = 6;

pub struct Set {
    /// `Data` or `Features`.
    pub title: &'static str,
    pub name: Shown,
    /// `pass` or `fail`.
    pub word: &'static str,
    pub size: String,
    pub against: Shown,
    pub findings: Vec<Row>,
    pub columns: Vec<Column>,
    /// `2 changed, 4 equal`; empty without features.
    pub feature_counts: String,
    pub features: Vec<Feature>,
    /// More than is shown.
    pub cut: usize,
}

pub struct Row {
    pub word: &'static str,
    pub column: Shown,
    pub message: Shown,
    pub rows: String,
}

/// A feature beside the baseline's.
pub struct Feature {
    pub name: Shown,
    pub word: &'static str,
    pub other: bool,
    pub rows: String,
    pub largest: String,
    pub relative: String,
    pub tolerance: Shown,
}

impl Feature {
    fn new(feature: &FeatureChange) -> Self {
        let number = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{x:.2e}"));
        Self {
            name: shown_cut(&feature.feature, 80),
            word: feature.state.word(),
            other: feature.state != FeatureState::Equal,
            rows: if feature.rows > 0 {
                format!("{} ({:.3} %)", feature.rows, 100.0 * feature.share)
            } else {
                "–".into()
            },
            largest: number(feature.largest),
            relative: feature.relative.map_or("–".to_owned(), |x| format!("{:.3} %", 100.0 * x)),
            tolerance: shown_cut(if feature.tolerance.is_empty() { "–" } else { &feature.tolerance }, 40),
        }
    }
}

pub struct Column {
    pub name: Shown,
    pub verdict: &'static str,
    pub drifted: bool,
    pub chance: String,
    pub moved: String,
    pub width: u32,
    pub bars: Vec<Bar>,
}

/// One bin: the baseline's share behind, this run's before it.
pub struct Bar {
    pub x: u32,
    pub baseline_y: u32,
    pub baseline_height: u32,
    pub y: u32,
    pub height: u32,
}

impl Set {
    pub fn new(report: &DataReport) -> Self {
        let row = |f: &crate::model::data::DataFinding| Row {
            word: match f.severity {
                Severity::Fail => "fail",
                Severity::Warn => "inconclusive",
                Severity::Info => "skipped",
            },
            column: shown_cut(f.column.as_deref().unwrap_or("–"), 80),
            message: shown_cut(&f.message, 300),
            rows: if f.count > 0 { format!("{} ({:.3} %)", f.count, 100.0 * f.share) } else { "–".into() },
        };
        let cut = report.findings.len().saturating_sub(FINDINGS)
            + report.drift.len().saturating_sub(COLUMNS)
            + report.features.len().saturating_sub(COLUMNS);
        Self {
            title: if report.kind == "features" { "Features" } else { "Data" },
            name: shown_cut(&report.name, 80),
            word: if report.passed { "pass" } else { "fail" },
            size: format!("{} rows, {} columns", report.rows, report.columns),
            against: shown(&report.against),
            findings: report.findings.iter().take(FINDINGS).map(row).collect(),
            columns: report.drift.iter().take(COLUMNS).map(Column::new).collect(),
            feature_counts: feature_counts(&report.features),
            features: report.features.iter().take(COLUMNS).map(Feature::new).collect(),
            cut: cut.saturating_add(usize::try_from(report.left_out).unwrap_or(usize::MAX)),
        }
    }
}

impl Column {
    fn new(column: &ColumnShift) -> Self {
        let (was, is) = (&column.baseline_shares, &column.shares);
        let most = was.iter().chain(is).copied().fold(0.0, f64::max);
        let height = |share: Option<&f64>| {
            if most > 0.0 { (HEIGHT * share.copied().unwrap_or(0.0) / most).round() as u32 } else { 0 }
        };
        let bars: Vec<Bar> = (0..was.len().max(is.len()))
            .map(|i| {
                let (baseline_height, height) = (height(was.get(i)), height(is.get(i)));
                Bar {
                    x: i as u32 * BIN,
                    baseline_y: HEIGHT as u32 - baseline_height,
                    baseline_height,
                    y: HEIGHT as u32 - height,
                    height,
                }
            })
            .collect();
        let moved = match (column.shift, column.psi) {
            (Some(sd), Some(psi)) => format!("{sd:.2} sd, PSI {psi:.3}"),
            (None, Some(psi)) => format!("PSI {psi:.3}"),
            (Some(sd), None) => format!("{sd:.2} sd"),
            (None, None) => String::new(),
        };
        Self {
            name: shown_cut(&column.column, 80),
            verdict: column.verdict.word(),
            drifted: column.verdict == Shift::Drifted,
            chance: column.p.map_or("–".into(), |p| {
                if p < 1e-300 {
                    "<1e-300".into()
                } else if p < 0.001 {
                    format!("{p:.0e}")
                } else {
                    format!("{p:.3}")
                }
            }),
            moved,
            width: bars.len() as u32 * BIN,
            bars,
        }
    }
}
