//! What `trainyard run` says in the end: the metrics, where they came from, and the gates that can be judged without a baseline.

use std::collections::BTreeMap;
use std::fmt::Write as _; // to a String, which never fails

use crate::model::outcome::{Aggregate, MetricOutcome};
use crate::model::{AttemptUid, MetricPoint, MetricSource, Plan, StepId, Verdict};
use crate::results::{compare, summarise};
use crate::store::attempts::StoredMetric;

/// One line: `tensorboard runs/events.out: 12 points`.
pub fn source(source: &MetricSource) -> String {
    let count = |n: i64, what: &str| match n {
        0 => String::new(),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    let counts = [count(source.points, "point"), count(source.params, "parameter")];
    let mut said: Vec<&str> = counts.iter().map(String::as_str).filter(|c| !c.is_empty()).collect();
    if !source.used {
        said.push("passed over");
    } else if said.is_empty() {
        said.push("no metrics");
    }
    if !source.note.is_empty() {
        said.push(&source.note);
    }
    format!("{} ({}): {}", source.place, source.kind, said.join(", "))
}

/// The last value of every metric by step: the one of the highest training step, then the latest.
pub fn table(reports: &[(&str, Vec<MetricPoint>)]) -> String {
    let mut rows: Vec<[String; 4]> = Vec::new();
    for (step, points) in reports {
        let mut last: BTreeMap<&str, (&MetricPoint, usize)> = BTreeMap::new();
        for point in points {
            let entry = last.entry(&point.name).or_insert((point, 0));
            entry.1 += 1;
            if point.step.is_none() || point.step >= entry.0.step {
                entry.0 = point;
            }
        }
        for (name, (point, count)) in last {
            rows.push([(*step).to_owned(), name.to_owned(), point.value.to_string(), count.to_string()]);
        }
    }
    if rows.is_empty() {
        return "\nno metrics were found: write metrics.json, or `echo accuracy=0.91 >> $TRAINYARD_OUTPUT`; `metrics.patterns` reads them off\n\
                what a step prints, and docs/metrics.md lists what is found by itself\n"
            .to_owned();
    }
    rows.insert(0, ["step", "metric", "value", "points"].map(str::to_owned));
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = String::from("\n");
    for [a, b, c, d] in &rows {
        let line =
            format!("{a:<0$}  {b:<1$}  {c:>2$}  {d:>3$}\n", widths[0], widths[1], widths[2], widths[3]);
        text.push_str(&line);
    }
    text
}

/// What to say when steps reported metrics, and not the one that the file calls primary.
pub fn missing_primary(plan: &Plan, reports: &[(&str, Vec<MetricPoint>)]) -> Option<String> {
    let primary = plan.metrics.primary.as_deref()?;
    let mut names: Vec<&str> =
        reports.iter().flat_map(|(_, points)| points.iter().map(|p| p.name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    (!names.is_empty() && !names.contains(&primary)).then(|| {
        format!("the primary metric `{primary}` was not reported; reported were {}", names.join(", "))
    })
}

/// The verdicts of the gates, and whether none of them fails for good. `whole`: all steps ran, so a metric that is missing now
/// will be missing always; else only gates of reported metrics are judged.
pub fn gates(plan: &Plan, reports: &[(&str, Vec<MetricPoint>)], whole: bool) -> (String, bool) {
    if plan.metrics.gates.is_empty() {
        return (String::new(), true);
    }
    let mut stored = Vec::new();
    for (step, points) in reports {
        let position = plan.steps.iter().position(|s| s.name == *step).unwrap_or(0) as i64;
        stored.extend(points.iter().zip(1..).map(|(point, seq)| StoredMetric {
            attempt_uid: AttemptUid::from_text("local"),
            step_id: StepId::from_text(*step),
            step_position: position,
            step_name: (*step).to_owned(),
            seq,
            point: point.clone(),
        }));
    }
    let outcome =
        compare(&summarise(&stored, plan), None, &plan.metrics.gates, plan.metrics.primary.as_deref());
    let mut text = String::from("\n");
    let mut good = true;
    let mut later = 0;
    for metric in &outcome.metrics {
        let Some(gate) = &metric.gate else { continue };
        if metric.candidate.is_none() && !whole {
            later += 1;
            continue;
        }
        good &= gate.warn_only || gate.verdict != Verdict::Fail;
        let _ = writeln!(text, "{}", line(metric));
        for reason in &gate.reasons {
            let _ = writeln!(text, "    {reason}");
        }
    }
    if later > 0 {
        let _ = writeln!(text, "{later} more of other steps, which did not run or did not succeed");
    }
    (text, good)
}

fn line(metric: &MetricOutcome) -> String {
    let gate = metric.gate.as_ref();
    let value = metric.candidate.as_ref().map(Aggregate::value);
    let value = value.map_or("not reported".to_owned(), |v| v.to_string());
    let rules = gate.map(|g| g.rules.join(", ")).unwrap_or_default();
    let verdict = gate.map_or("", |g| g.verdict.word());
    let warns = if gate.is_some_and(|g| g.warn_only) { ", warns only" } else { "" };
    format!("gate {}: {verdict} ({value}; {rules}{warns})", metric.name)
}
