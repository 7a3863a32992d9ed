//! Metrics as people read them: the table of a comparison, the curves.

use std::collections::BTreeMap;

use super::chart::{self, Chart, Series};
use super::intervals::{self, Forest};
use crate::forge::ChangeWords;
use crate::http::api::trend_values;
use crate::http::summary::outcome;
use crate::http::text::{self, Shown, shown, shown_cut};
use crate::model::metric::Goal;
use crate::model::outcome::{Change, Evidence, MetricOutcome};
use crate::model::{ComparisonState, Plan};
use crate::store::attempts::StoredMetric;
use crate::store::comparisons::ComparisonRow;
use crate::store::lists::TrendItem;

const ROWS: usize = 100;
const CHARTS: usize = 24;
const CURVES: usize = 16;

/// One comparison, or the run's own values when there is none.
pub struct Table {
    pub title: Shown,
    pub word: &'static str,
    pub note: Shown,
    pub baseline: Option<RunRef>,
    pub compared: bool,
    pub rows: Vec<Row>,
    pub forest: Option<Forest>,
}

pub struct RunRef {
    pub id: String,
    pub short: String,
}

pub struct Row {
    pub name: Shown,
    /// `↑` or `↓`, with a question mark when it was guessed.
    pub goal: &'static str,
    pub goal_long: &'static str,
    pub baseline: String,
    pub value: String,
    pub delta: String,
    /// The interval of the change and what it rests on; empty without one.
    pub interval: Shown,
    /// The interval as a picture: where zero and both ends lie, in per cent of its width.
    pub plot: Option<Plot>,
    /// `better`, `worse` or empty.
    pub tone: &'static str,
    pub verdict: &'static str,
    /// The gate in words; without a comparison the step that said the value.
    pub gate: Shown,
}

/// An interval with zero on one line, 0 to 100.
pub struct Plot {
    pub zero: u32,
    pub low: u32,
    pub width: u32,
    pub middle: u32,
}

impl Plot {
    /// From the lower of zero and the lower end to the higher of zero and the higher end, with a tenth of room around.
    fn of(evidence: &Evidence) -> Self {
        let (from, to) = (evidence.low.min(0.0), evidence.high.max(0.0));
        let span = (to - from) * 1.2;
        let at = |x: f64| {
            if span > 0.0 { (100.0 * (x - from + (to - from) * 0.1) / span).round() as u32 } else { 50 }
        };
        let (low, high) = (at(evidence.low), at(evidence.high));
        Self {
            zero: at(0.0),
            low,
            width: (high - low).max(1),
            middle: at(f64::midpoint(evidence.low, evidence.high)),
        }
    }
}

/// `95 % CI +0.0104 … +0.0158, 3 seeds, paired`; why there is none, when something says that.
fn interval(metric: &MetricOutcome) -> String {
    match &metric.evidence {
        Some(e) => format!(
            "{:.0} % CI {} … {}, {}",
            100.0 * e.level,
            text::signed(e.low),
            text::signed(e.high),
            e.basis()
        ),
        None => metric.no_evidence.clone(),
    }
}

fn goal(goal: Goal, assumed: bool) -> (&'static str, &'static str) {
    match (goal, assumed) {
        (Goal::Max, false) => ("↑", "higher is better"),
        (Goal::Min, false) => ("↓", "lower is better"),
        (Goal::Max, true) => ("↑?", "higher is better, assumed from the name"),
        (Goal::Min, true) => ("↓?", "lower is better, assumed from the name"),
    }
}

fn compared_row(metric: &MetricOutcome) -> Row {
    let (mark, long) = goal(metric.goal, metric.assumed);
    let value = |a: &Option<crate::model::outcome::Aggregate>| {
        a.as_ref().map_or("–".to_owned(), |a| match a.values.len() {
            0 | 1 => text::number(a.value()),
            n => format!("{} (mean of {n})", text::number(a.value())),
        })
    };
    let delta = match (metric.delta, metric.relative) {
        (Some(d), Some(r)) if d != 0.0 => {
            format!("{} ({}%)", text::signed(d), text::signed((r * 10_000.0).round() / 100.0))
        }
        (Some(d), _) => text::signed(d),
        (None, _) => "–".into(),
    };
    let (verdict, rules) = match &metric.gate {
        None => ("", String::new()),
        Some(gate) => {
            let warns = if gate.warn_only { " (warns only)" } else { "" };
            (gate.verdict.word(), format!("{}{warns}", gate.rules.join(", ")))
        }
    };
    let beside = metric.benchmarks.iter().map(|reference| {
        let away =
            metric.candidate.as_ref().map(|c| format!(" ({})", text::signed(c.value() - reference.value)));
        format!("{} {}{}", reference.benchmark, text::number(reference.value), away.unwrap_or_default())
    });
    let rules = std::iter::once(rules)
        .filter(|rules| !rules.is_empty())
        .chain(beside)
        .collect::<Vec<_>>()
        .join(" · ");
    Row {
        name: shown_cut(&metric.name, 120),
        goal: mark,
        goal_long: long,
        baseline: value(&metric.baseline),
        value: value(&metric.candidate),
        delta,
        interval: shown_cut(&interval(metric), 240),
        plot: metric.evidence.as_ref().map(Plot::of),
        tone: match metric.better {
            Some(_) if metric.evidence.as_ref().is_some_and(|e| !e.is_clear()) => "",
            Some(Change::Better) => "better",
            Some(Change::Worse) => "worse",
            _ => "",
        },
        verdict,
        gate: shown_cut(&rules, 200),
    }
}

/// The newest value of each metric and step: highest training step, then latest.
fn own_rows(own: &[StoredMetric]) -> Vec<Row> {
    let mut newest: BTreeMap<(&str, i64), &StoredMetric> = BTreeMap::new();
    for m in own {
        let key = (m.point.name.as_str(), m.step_position);
        let rank = |m: &StoredMetric| (m.point.step, m.point.at_ms, m.seq);
        newest
            .entry(key)
            .and_modify(|kept| {
                if rank(m) >= rank(kept) {
                    *kept = m;
                }
            })
            .or_insert(m);
    }
    let row = |((name, _), m): ((&str, i64), &StoredMetric)| Row {
        name: shown_cut(name, 120),
        goal: "",
        goal_long: "",
        baseline: String::new(),
        value: text::number(m.point.value),
        delta: String::new(),
        interval: Shown::default(),
        plot: None,
        tone: "",
        verdict: "",
        gate: shown_cut(&m.step_name, 80),
    };
    newest.into_iter().take(ROWS).map(row).collect()
}

/// One table for each comparison; without any that has values, one of the run's own.
pub fn tables(comparisons: &[ComparisonRow], own: &[StoredMetric], change: ChangeWords) -> Vec<Table> {
    let mut tables: Vec<Table> = comparisons
        .iter()
        .map(|row| {
            let result = outcome(&row.result);
            let against = match row.target.split_once(':') {
                Some(("pr", number)) => format!("Metrics for {}{number}", change.sigil),
                Some(("branch", name)) => format!("Metrics on {name}"),
                _ => "Metrics".into(),
            };
            let word = match (row.verdict, row.state) {
                (Some(verdict), _) => verdict.word(),
                (None, ComparisonState::Pending) => "pending",
                (None, _) => "",
            };
            Table {
                title: shown_cut(&against, 80),
                word,
                note: shown_cut(&row.baseline_note, 400),
                baseline: row
                    .baseline
                    .as_ref()
                    .map(|id| RunRef { id: id.to_string(), short: id.as_str().chars().take(13).collect() }),
                compared: true,
                forest: result.as_ref().and_then(intervals::forest),
                rows: result.map_or(Vec::new(), |r| r.metrics.iter().take(ROWS).map(compared_row).collect()),
            }
        })
        .collect();
    if tables.iter().all(|t| t.rows.is_empty()) && !own.is_empty() {
        tables.push(Table {
            title: shown("Metrics"),
            word: "",
            note: Shown::default(),
            baseline: None,
            compared: false,
            forest: None,
            rows: own_rows(own),
        });
    }
    tables
}

/// Points of one metric by the step that reported them.
type Curves<'a> = BTreeMap<(i64, &'a str), Vec<&'a StoredMetric>>;

fn by_name(metrics: &[StoredMetric]) -> BTreeMap<&str, Curves<'_>> {
    let mut out: BTreeMap<&str, Curves<'_>> = BTreeMap::new();
    for m in metrics {
        out.entry(&m.point.name).or_default().entry((m.step_position, &m.step_name)).or_default().push(m);
    }
    out
}

/// The metrics of one run, to be drawn.
pub struct Drawn<'a> {
    /// In the legend before the step's name; may be empty.
    pub label: &'a str,
    pub baseline: bool,
    /// All its curves in one colour; None: each in its own.
    pub colour: Option<usize>,
    pub metrics: &'a [StoredMetric],
}

fn series(curves: &Curves<'_>, by_step: bool, of: &Drawn<'_>) -> Vec<Series> {
    curves
        .iter()
        .take(CURVES)
        .map(|((_, step), points)| {
            let from = points.iter().map(|m| m.point.at_ms).min().unwrap_or(0);
            let mut points: Vec<(f64, f64)> = points
                .iter()
                .map(|m| {
                    let seconds = m.point.at_ms.saturating_sub(from) as f64 / 1000.0;
                    (if by_step { m.point.step.unwrap_or(0) as f64 } else { seconds }, m.point.value)
                })
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let label = if of.label.is_empty() { (*step).to_owned() } else { format!("{} {step}", of.label) };
            Series { label, baseline: of.baseline, colour: of.colour, points, band: Vec::new() }
        })
        .collect()
}

/// Curves of the metrics of which some run has several points: those that the report plots first, then the primary, then by
/// name. Says how many were left out.
pub fn charts(plan: &Plan, drawn: &[Drawn<'_>]) -> (Vec<Chart>, usize) {
    let by_run: Vec<(&Drawn<'_>, BTreeMap<&str, Curves<'_>>)> =
        drawn.iter().map(|d| (d, by_name(d.metrics))).collect();
    let rank = |name: &str| {
        let plot = plan.report.plots.iter().position(|p| p == name);
        let primary = plan.metrics.primary.as_deref() == Some(name);
        (plot.unwrap_or(usize::MAX), !primary, !name.contains("loss"))
    };
    let own = by_run.iter().filter(|(d, _)| !d.baseline);
    let mut names: Vec<&str> = own.flat_map(|(_, metrics)| metrics.keys().copied()).collect();
    names.sort_by_key(|name| (rank(name), *name));
    names.dedup();
    let mut charts = Vec::new();
    let mut cut = 0;
    for name in names {
        let of_name: Vec<(&Drawn<'_>, &Curves<'_>)> =
            by_run.iter().filter_map(|(d, metrics)| Some((*d, metrics.get(name)?))).collect();
        let own = || of_name.iter().filter(|(d, _)| !d.baseline).flat_map(|(_, curves)| curves.values());
        if own().all(|points| points.len() < 2) {
            continue;
        }
        if charts.len() == CHARTS {
            cut += 1;
            continue;
        }
        let stepped = |curves: &Curves<'_>| curves.values().flatten().all(|m| m.point.step.is_some());
        let by_step = own().flatten().all(|m| m.point.step.is_some());
        let fits = of_name.into_iter().filter(|(d, curves)| !d.baseline || stepped(curves) == by_step);
        let all = fits.flat_map(|(d, curves)| series(curves, by_step, d)).collect();
        charts.extend(chart::draw(name, if by_step { "step" } else { "seconds" }, all));
    }
    (charts, cut)
}

/// A run before its baseline.
pub fn against<'a>(own: &'a [StoredMetric], base: &'a [StoredMetric]) -> [Drawn<'a>; 2] {
    let drawn = |label, baseline, metrics| Drawn { label, baseline, colour: None, metrics };
    [drawn("", false, own), drawn("baseline", true, base)]
}

/// How the metrics of a branch went, from run to run: one chart each, the primary first. `items` are newest first.
pub fn trends(items: &[TrendItem]) -> (Vec<Chart>, usize) {
    let mut order: Vec<String> = Vec::new();
    let mut points: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut bands: BTreeMap<String, Vec<(f64, f64, f64)>> = BTreeMap::new();
    for (at, item) in items.iter().rev().enumerate() {
        for metric in trend_values(item) {
            if !points.contains_key(&metric.name) {
                order.push(metric.name.clone());
            }
            let value = metric.value.unwrap_or(f64::NAN);
            if let (Some(low), Some(high)) = (metric.low, metric.high) {
                bands.entry(metric.name.clone()).or_default().push((at as f64 + 1.0, low, high));
            }
            points.entry(metric.name).or_default().push((at as f64 + 1.0, value));
        }
    }
    let names: Vec<&str> = items.iter().rev().map(|i| i.head_sha.short()).collect();
    let runs: Vec<&str> = items.iter().rev().map(|i| i.run.as_str()).collect();
    let mut charts = Vec::new();
    for name in order {
        let label = shown_cut(&name, 40).to_string();
        let series = Series {
            label,
            baseline: false,
            colour: None,
            points: points.remove(&name).unwrap_or_default(),
            band: bands.remove(&name).unwrap_or_default(),
        };
        charts.extend(chart::draw(&name, "run", vec![series]).map(|chart| Chart {
            names: names.join(" "),
            runs: runs.join(" "),
            ..chart
        }));
    }
    let cut = charts.len().saturating_sub(CHARTS);
    charts.truncate(CHARTS);
    (charts, cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ForgeKind;
    use crate::model::{AttemptUid, MetricPoint, StepId};

    fn metric(step: &str, position: i64, name: &str, training_step: Option<i64>, value: f64) -> StoredMetric {
        StoredMetric {
            attempt_uid: AttemptUid::from_text("a"),
            step_id: StepId::from_text(step),
            step_position: position,
            step_name: step.into(),
            seq: training_step.unwrap_or(0),
            point: MetricPoint { name: name.into(), value, step: training_step, at_ms: 1000 },
        }
    }

    #[test]
    fn the_newest_value_of_each_step_is_shown() {
        let rows = own_rows(&[
            metric("eval", 1, "accuracy", None, 0.9),
            metric("train", 0, "loss", Some(2), 0.2),
            metric("train", 0, "loss", Some(1), 0.5),
        ]);
        let got: Vec<(&str, &str, &str)> =
            rows.iter().map(|r| (r.name.as_str(), r.value.as_str(), r.gate.as_str())).collect();
        assert_eq!(got, [("accuracy", "0.9", "eval"), ("loss", "0.2", "train")]);
    }

    #[test]
    fn a_comparison_reads_as_a_table() {
        let result = serde_json::json!({"rules": "point-1", "verdict": "fail", "reasons": ["no"], "metrics": [{
            "name": "accuracy", "goal": "max", "assumed": false, "primary": true,
            "candidate": {"step": "train", "mean": 0.8, "values": [{"member": "", "value": 0.8}]},
            "baseline": {"step": "train", "mean": 0.84, "values": [{"member": "", "value": 0.84}]},
            "delta": -0.04, "relative": -0.047_619, "better": "worse",
            "gate": {"verdict": "fail", "warn_only": false, "rules": ["at most 0.5% worse"], "reasons": ["no"]}}]});
        let row = ComparisonRow {
            id: crate::model::ComparisonId::from_text("c"),
            candidate: crate::model::RunId::from_text("r"),
            baseline: Some(crate::model::RunId::from_text("0192aaaa-bbbb-7ccc-dddd-eeeeffff0000")),
            baseline_note: "main at abc".into(),
            nearer: None,
            target: "pr:7".into(),
            gates_digest: String::new(),
            rules: "point-1".into(),
            state: ComparisonState::Final,
            verdict: Some(crate::model::Verdict::Fail),
            result,
            created_ms: 0,
            wait_until_ms: 0,
            updated_ms: 0,
        };
        assert_eq!(crate::http::summary::headline(&row), "accuracy 0.8 (−0.04)");
        let table = &tables(&[row], &[], ChangeWords::of(ForgeKind::Github))[0];
        assert_eq!((table.title.as_str(), table.word), ("Metrics for #7", "fail"));
        let r = &table.rows[0];
        assert_eq!((r.goal, r.tone, r.verdict), ("↑", "worse", "fail"));
        assert_eq!(r.delta, "−0.04 (−4.76%)");
        assert_eq!(r.gate.as_str(), "at most 0.5% worse");
    }

    #[test]
    fn plotted_metrics_come_first_and_single_points_are_no_curve() {
        let mut plan = Plan {
            name: "p".into(),
            file: String::new(),
            when: vec![],
            concurrency: None,
            priority: None,
            timeout_ms: 0,
            steps: vec![],
            metrics: crate::model::plan::MetricsSpec::default(),
            report: crate::model::plan::ReportSpec::default(),
            not_run: vec![],
        };
        plan.report.plots = vec!["z".into()];
        let own: Vec<StoredMetric> = ["a", "z"]
            .iter()
            .flat_map(|name| (0..3).map(|i| metric("train", 0, name, Some(i), i as f64)))
            .chain([metric("eval", 1, "once", None, 1.0)])
            .collect();
        let drawn = |label, baseline| Drawn { label, baseline, colour: None, metrics: &own };
        let (charts, cut) = charts(&plan, &[drawn("", false), drawn("baseline", true)]);
        let names: Vec<&str> = charts.iter().map(|c| c.name.as_str()).collect();
        assert_eq!((names, cut), (vec!["z", "a"], 0));
        assert_eq!(charts[0].curves.len(), 2);
    }
}
