//! The one comment of a pull request, as Markdown. Reads from the top: the verdict, why, the numbers; all else folds away.

use std::fmt::Write as _; // to a String, which never fails

use super::view::{ComparisonView, FailedStep, Section, StepLine, View};
use super::{chart, data, escape, numbers};
use crate::model::metric::Goal;
use crate::model::outcome::{Aggregate, Change, Evidence, MetricOutcome, Outcome};
use crate::model::{ComparisonState, EndClass, RunState, StepState, Verdict};

/// Longest comment on any forge: GitHub takes 65,536 characters, and one that is longer nobody reads.
pub const MAX_BYTES: usize = 60_000;

const MAX_METRICS: usize = 40;
const MAX_REASONS: usize = 12;
const MAX_SOURCES: usize = 8;
const MAX_PARAMS: usize = 40;
const MAX_STEPS: usize = 60;
const MAX_CURVES: usize = 4;
const MAX_SEEDS: usize = 8;
const LOG_LINES: usize = 40;
const LOG_COLUMNS: usize = 200;
const NAME: usize = 80;
const SENTENCE: usize = 400;

#[cfg(test)]
pub fn render_full(view: &View) -> String {
    render(view, MAX_BYTES)
}

/// The comment's body: its first line is the view's marker, its length at most [`MAX_BYTES`]. What does not fit is left out
/// whole, the least needed first, and said.
///
/// `limit` is the forge's, in bytes.
pub fn render(view: &View, limit: usize) -> String {
    let blocks: Vec<Block> = view.sections.iter().flat_map(section).collect();
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|i| blocks[*i].rank);
    let reserve = view.marker.len() + 400;
    let mut left = limit.min(MAX_BYTES).saturating_sub(reserve);
    let mut kept = vec![false; blocks.len()];
    let mut all = true;
    for i in order {
        let bytes = blocks[i].text.len() + 2;
        if bytes <= left {
            left -= bytes;
            kept[i] = true;
        } else {
            all = false;
        }
    }
    let mut body = view.marker.clone();
    for (block, _) in blocks.iter().zip(kept).filter(|(_, kept)| *kept) {
        body.push_str(if body.len() == view.marker.len() { "\n" } else { "\n\n" });
        body.push_str(&block.text);
    }
    if !all && let Some(section) = view.sections.first() {
        let _ = write!(
            body,
            "\n\n> Cut to fit into a comment. [Everything is in the full report]({}).",
            section.run_url
        );
    }
    body.push('\n');
    body
}

/// A piece that is shown whole or not at all. Smaller ranks are needed more.
struct Block {
    rank: u8,
    text: String,
}

fn section(section: &Section) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut add = |rank: u8, text: Option<String>| {
        if let Some(text) = text.filter(|t| !t.is_empty()) {
            blocks.push(Block { rank, text });
        }
    };
    add(0, Some(verdict_line(section)));
    add(1, Some(subline(section)));
    add(1, explanation(section));
    add(2, data::failed(&section.data));
    // What the data's findings say, no log says better.
    let failed = section.failed.as_ref().filter(|_| section.data.iter().all(|r| r.passed));
    add(3, failed.map(failed_step));
    let outcome = section.comparison.as_ref().and_then(|c| c.outcome.as_ref());
    add(2, outcome.and_then(|o| metrics_table(o, section.comparison.as_ref())));
    add(4, curves(section));
    add(5, outcome.and_then(seeds_table));
    add(4, data::folded(&section.data));
    add(4, params(section));
    add(5, steps(section));
    add(2, section.budget.as_ref().map(|says| format!("⚠️ GPU budget: {}", escape::text(says, 300))));
    add(1, Some(footer(section)));
    blocks
}

fn verdict_line(section: &Section) -> String {
    let name = escape::text(&section.pipeline, NAME);
    let (icon, words) = match section.state {
        RunState::Held => ("✋", "waits for a release".to_owned()),
        RunState::Running if section.waits.is_some() => ("⏳", "waits for its place".to_owned()),
        RunState::Queued => ("⏳", "is queued".to_owned()),
        RunState::Running => ("⏳", "is running".to_owned()),
        RunState::Failed if section.data.iter().any(|r| !r.passed) => {
            let features = section.data.iter().all(|r| r.passed || r.kind == "features");
            ("❌", format!("was stopped by its {}", if features { "features" } else { "data" }))
        }
        RunState::Failed => ("❌", "failed".to_owned()),
        RunState::Errored => ("🛑", "could not run".to_owned()),
        RunState::Cancelled => ("🚫", "was cancelled".to_owned()),
        RunState::Superseded => ("🚫", "was superseded".to_owned()),
        RunState::Skipped => ("⏭️", "was skipped".to_owned()),
        RunState::Succeeded => return succeeded_line(section, &name),
    };
    format!("### {icon} {name} {words}")
}

fn succeeded_line(section: &Section, name: &str) -> String {
    let Some(comparison) = section.comparison.as_ref() else {
        return format!("### ⏳ {name} succeeded and is being compared");
    };
    let (Some(verdict), Some(outcome)) = (comparison.verdict, comparison.outcome.as_ref()) else {
        return format!("### ⏳ {name} succeeded and waits for its baseline");
    };
    let gates: Vec<_> = outcome.metrics.iter().filter_map(|m| m.gate.as_ref()).collect();
    let count =
        |v: Verdict, warn: bool| gates.iter().filter(|g| g.verdict == v && g.warn_only == warn).count();
    let of = |n: usize| format!("{n} of {} {}", gates.len(), plural(gates.len(), "gate"));
    let warned = count(Verdict::Fail, true);
    let (icon, words) = match verdict {
        Verdict::Fail if gates.len() == 1 => ("❌", "its gate failed".to_owned()),
        Verdict::Fail if gates.len() == 2 && count(Verdict::Fail, false) == 2 => {
            ("❌", "both gates failed".to_owned())
        }
        Verdict::Fail => ("❌", format!("{} failed", of(count(Verdict::Fail, false)))),
        Verdict::Inconclusive => {
            ("⚪", format!("inconclusive, {} cannot be judged", of(count(Verdict::Inconclusive, false))))
        }
        Verdict::Pass if warned > 0 => ("⚠️", format!("passed with {warned} {}", plural(warned, "warning"))),
        Verdict::Pass if gates.is_empty() => ("✅", "succeeded".to_owned()),
        Verdict::Pass if gates.len() == 1 => ("✅", "passed its gate".to_owned()),
        Verdict::Pass if gates.len() == 2 => ("✅", "passed both gates".to_owned()),
        Verdict::Pass => ("✅", format!("passed all {} gates", gates.len())),
    };
    let mut line = format!("### {icon} {name}: {words}");
    if let Some(metric) = outcome.primary()
        && let Some(this) = &metric.candidate
    {
        let decimals = decimals(metric);
        let value = numbers::value(this.value(), decimals);
        let _ = write!(line, " · {} ", escape::text(&metric.name, NAME));
        let _ = match (&metric.baseline, &metric.evidence) {
            (Some(base), Some(evidence)) => write!(
                line,
                "{} → {value} ({}, {}, {})",
                numbers::value(base.value(), decimals),
                numbers::signed(metric.delta.unwrap_or_default(), decimals),
                interval(evidence, decimals),
                escape::text(&evidence.basis(), SENTENCE)
            ),
            _ if metric.delta.is_some() => write!(line, "{value} ({})", change(metric)),
            _ => write!(line, "{value}"),
        };
    }
    line
}

/// Which commit, against which, by what kind of evidence.
fn subline(section: &Section) -> String {
    let mut parts = vec![format!("[`{}`]({})", section.sha.abbreviated(), section.commit_url)];
    if let Some(comparison) = &section.comparison {
        let note = escape::text(&comparison.note, SENTENCE);
        let against = match &comparison.baseline {
            Some(baseline) if comparison.state == ComparisonState::Pending => {
                format!(" waits for [**{note}**]({})", baseline.run_url)
            }
            Some(baseline) if comparison.outcome.as_ref().is_some_and(|o| o.baseline_seeds() > 0) => {
                format!(" against [**{note}**]({})", baseline.run_url)
            }
            _ => format!(", {note}"),
        };
        parts[0].push_str(&against);
        if let Some(outcome) = &comparison.outcome {
            let seeds = outcome.seeds();
            if seeds > 0 {
                let base = outcome.baseline_seeds();
                let other =
                    if base > 0 && base != seeds { format!(" against {base}") } else { String::new() };
                let alone = if seeds == 1 { ", unreplicated" } else { "" };
                let kind = if outcome.metrics.iter().any(|m| m.evidence.is_some()) {
                    "changes with 95 % intervals"
                } else {
                    "point comparison"
                };
                parts.push(format!("{kind}, {seeds} {}{other}{alone}", plural(seeds, "seed")));
            }
        }
    }
    if !section.trusted && section.state.is_terminal() {
        parts.push("**self-reported**: the code that reported these numbers is not trusted".to_owned());
    }
    parts.join(" · ")
}

/// Why it is not simply good.
fn explanation(section: &Section) -> Option<String> {
    match section.state {
        RunState::Held => Some(format!(
            "This head comes from a fork, or from an author who has neither write access nor a merged change here, so nothing of it \
             runs yet. Someone who has read the change and holds a trainyard token of scope `run` releases exactly this commit, on \
             the run's page or with\n\n```sh\ntrainyard runs release {} --sha {}\n```\n\nIt then runs without secrets; a new push is held again.",
            section.run_id, section.sha
        )),
        RunState::Succeeded => {
            let outcome = section.comparison.as_ref()?.outcome.as_ref()?;
            let shown =
                outcome.metrics.iter().filter_map(|m| m.gate.as_ref()).filter(|g| !g.reasons.is_empty());
            let lines: Vec<String> = shown
                .flat_map(|g| g.reasons.iter().map(move |r| (gate_icon(g.verdict, g.warn_only), r)))
                .map(|(icon, reason)| format!("- {icon} {}", escape::text(reason, SENTENCE)))
                .collect();
            let more = lines.len().saturating_sub(MAX_REASONS);
            let mut text = lines.into_iter().take(MAX_REASONS).collect::<Vec<_>>().join("\n");
            if more > 0 {
                let _ = write!(text, "\n- and {more} more in the [full report]({})", section.run_url);
            }
            text.push_str(&looked_at(section));
            Some(text)
        }
        // Why it is queued (`released by …`) is not news for a pull request.
        RunState::Queued | RunState::Running => section.waits.as_ref().map(|why| escape::text(why, SENTENCE)),
        RunState::Failed if section.failed.is_some() => None, // the step says more
        _ if section.reason.is_empty() => None,
        // Messages about the pipeline file come with the lines of the file and a marker under the place.
        _ if section.reason.trim().contains('\n') => Some(escape::block(&section.reason, 60, LOG_COLUMNS)),
        _ => Some(escape::text(&section.reason, SENTENCE)),
    }
}

/// Where a missing metric was looked for.
fn looked_at(section: &Section) -> String {
    if section.looked_at.is_empty() {
        return String::new();
    }
    let lines = section.looked_at.iter().take(MAX_SOURCES);
    let mut text = "\n\nMetrics were looked for in:\n".to_owned();
    for line in lines {
        let _ = write!(text, "\n- {}", escape::text(line, SENTENCE));
    }
    if section.looked_at.len() > MAX_SOURCES {
        let more = section.looked_at.len() - MAX_SOURCES;
        let _ = write!(text, "\n- and {more} more in the [full report]({})", section.run_url);
    }
    text
}

fn failed_step(step: &FailedStep) -> String {
    let mut text = format!("**Step {}** {}", escape::code(&step.name, NAME), end_words(step));
    let said = step.exit_code.is_some_and(|code| step.reason == format!("exit code {code}"));
    if !step.reason.is_empty() && !said {
        let _ = write!(text, ": {}", escape::text(&step.reason, SENTENCE));
    }
    for report in step.tests.iter().take(MAX_SOURCES) {
        let mut said = report.split("; ");
        let _ = write!(text, "\n\nTests: {}", escape::text(said.next().unwrap_or_default(), SENTENCE));
        for failure in said.take(MAX_REASONS) {
            let _ = write!(text, "\n- {}", escape::text(failure, SENTENCE));
        }
    }
    if !step.log_tail.trim().is_empty() {
        let lines = step.log_tail.trim_end().lines().count().min(LOG_LINES);
        let _ = write!(
            text,
            "\n\n<details open><summary>Last {} of its log</summary>\n\n{}\n\n</details>",
            if lines == 1 { "line".to_owned() } else { format!("{lines} lines") },
            escape::block(&step.log_tail, LOG_LINES, LOG_COLUMNS)
        );
    }
    text
}

fn end_words(step: &FailedStep) -> String {
    match step.class {
        Some(EndClass::Failed) => match step.exit_code {
            Some(code) => format!("failed with exit code {code}"),
            None => "failed".to_owned(),
        },
        Some(EndClass::TimedOut) => "ran into its time limit".to_owned(),
        Some(EndClass::OutOfMemory) => "ran out of memory".to_owned(),
        Some(EndClass::Cancelled) => "was cancelled".to_owned(),
        Some(EndClass::StorageFull) => "filled its disk or a quota".to_owned(),
        Some(EndClass::Source) => "could not get its source".to_owned(),
        Some(EndClass::Artifacts) => "did not leave a declared artifact".to_owned(),
        Some(EndClass::Preempted) => "lost its machine (preempted)".to_owned(),
        Some(EndClass::NodeLost) => "lost its machine".to_owned(),
        Some(EndClass::Evicted) => "was put out by its machine".to_owned(),
        Some(EndClass::Image) => "could not get its image".to_owned(),
        Some(EndClass::Quota) => "was refused by a quota or a rule of the cluster".to_owned(),
        Some(EndClass::Unschedulable) => "could not be started".to_owned(),
        Some(EndClass::Succeeded | EndClass::Checkpointed | EndClass::Internal) | None => {
            "did not end well".to_owned()
        }
    }
}

fn metrics_table(outcome: &Outcome, comparison: Option<&ComparisonView>) -> Option<String> {
    if outcome.metrics.is_empty() {
        return None;
    }
    let baseline = comparison.and_then(|c| c.baseline.as_ref()).filter(|_| outcome.baseline_seeds() > 0);
    let head = baseline.map_or_else(
        || "baseline".to_owned(),
        |b| format!("{} `{}`", escape::text(&b.branch, 30), b.sha.abbreviated()),
    );
    let intervals = outcome.metrics.iter().any(|m| m.evidence.is_some());
    let (title, line, empty) = if intervals { (" 95 % interval |", "--:|", " |") } else { ("", "", "") };
    let mut text = format!("| metric | {head} | this | change |{title} gate |\n|:--|--:|--:|--:|{line}:--|");
    for metric in outcome.metrics.iter().take(MAX_METRICS) {
        text.push('\n');
        text.push_str(&metric_row(metric, intervals));
    }
    if outcome.metrics.len() > MAX_METRICS {
        let more = outcome.metrics.len() - MAX_METRICS;
        let _ = write!(text, "\n| and {more} more in the full report | | | |{empty} |");
    }
    for metric in outcome.metrics.iter().take(MAX_METRICS).filter(|m| !m.benchmarks.is_empty()) {
        text.push_str(&beside_benchmarks(metric));
    }
    Some(text)
}

/// `accuracy beside benchmarks: published 0.83 (+0.0312), people 0.95 (−0.0888)`.
fn beside_benchmarks(metric: &MetricOutcome) -> String {
    let decimals = decimals(metric);
    let value = metric.candidate.as_ref().filter(|c| c.is_finite()).map(Aggregate::value);
    let each = metric.benchmarks.iter().take(MAX_SOURCES).map(|reference| {
        let away = value
            .map(|v| format!(" ({})", numbers::signed(v - reference.value, decimals)))
            .unwrap_or_default();
        let name = escape::text(&reference.benchmark, NAME);
        format!("{name} {}{away}", numbers::value(reference.value, decimals))
    });
    let each: Vec<String> = each.collect();
    format!("\n\n{} beside benchmarks: {}", escape::text(&metric.name, NAME), each.join(", "))
}

fn metric_row(metric: &MetricOutcome, intervals: bool) -> String {
    let arrow = match metric.goal {
        Goal::Max => "↑",
        Goal::Min => "↓",
    };
    let assumed = if metric.assumed { " <sub>assumed</sub>" } else { "" };
    let decimals = decimals(metric);
    let show =
        |a: &Option<Aggregate>| a.as_ref().map_or("–".to_owned(), |a| numbers::value(a.value(), decimals));
    let name = escape::text(&metric.name, NAME);
    let bold = |text: String| if metric.primary { format!("**{text}**") } else { text };
    let moved = metric.delta.map_or("–".to_owned(), |_| change(metric));
    let gate = match &metric.gate {
        Some(gate) => {
            let rules = gate.rules.iter().map(|r| escape::text(r, NAME)).collect::<Vec<_>>().join(", ");
            format!("{} {rules}", gate_icon(gate.verdict, gate.warn_only)).trim_end().to_owned()
        }
        None => match metric.better {
            Some(_) if metric.evidence.as_ref().is_some_and(|e| !e.is_clear()) => {
                "no clear change".to_owned()
            }
            Some(Change::Better) => "better".to_owned(),
            Some(Change::Worse) => "worse".to_owned(),
            Some(Change::Same) => "same".to_owned(),
            None => String::new(),
        },
    };
    let range = match &metric.evidence {
        _ if !intervals => String::new(),
        Some(evidence) => format!(" {} |", ends(evidence, decimals)),
        None if metric.no_evidence.is_empty() => " – |".to_owned(),
        None => format!(" <sub>{}</sub> |", escape::text(&metric.no_evidence, NAME)),
    };
    format!(
        "| {} {arrow}{assumed} | {} | {} | {} |{range} {gate} |",
        bold(name),
        show(&metric.baseline),
        bold(show(&metric.candidate)),
        bold(moved)
    )
}

/// `95 % CI +0.0104 … +0.0158`.
fn interval(evidence: &Evidence, decimals: usize) -> String {
    format!("{:.0} % CI {}", 100.0 * evidence.level, ends(evidence, decimals))
}

/// `+0.0104 … +0.0158`.
fn ends(evidence: &Evidence, decimals: usize) -> String {
    let decimals = decimals.max(numbers::decimals(&[], Some(evidence.high - evidence.low))).min(6);
    format!("{} … {}", numbers::signed(evidence.low, decimals), numbers::signed(evidence.high, decimals))
}

/// `+0.0131, +1.54%`.
fn change(metric: &MetricOutcome) -> String {
    let Some(delta) = metric.delta else { return String::new() };
    let absolute = numbers::signed(delta, decimals(metric));
    match metric.relative {
        Some(relative) if delta != 0.0 => format!("{absolute}, {}", numbers::percent(relative)),
        _ => absolute,
    }
}

fn decimals(metric: &MetricOutcome) -> usize {
    let values: Vec<f64> = metric.candidate.iter().chain(&metric.baseline).map(Aggregate::value).collect();
    numbers::decimals(&values, metric.delta)
}

fn gate_icon(verdict: Verdict, warn_only: bool) -> &'static str {
    match (verdict, warn_only) {
        (Verdict::Pass, _) => "✅",
        (Verdict::Fail, true) => "⚠️",
        (Verdict::Fail, false) => "❌",
        (Verdict::Inconclusive, _) => "⚪",
    }
}

fn curves(section: &Section) -> Option<String> {
    let drawn: Vec<(&str, String)> = section
        .curves
        .iter()
        .filter_map(|c| Some((c.name.as_str(), chart::render(c)?)))
        .take(MAX_CURVES)
        .collect();
    let names = drawn.iter().map(|(name, _)| escape::html(name, 40)).collect::<Vec<_>>().join(", ");
    let body = drawn.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n");
    (!body.is_empty()).then(|| fold(&format!("<b>Curves</b>: {names}"), body.trim_end()))
}

/// What each seed reached, so that a mean hides nothing.
fn seeds_table(outcome: &Outcome) -> Option<String> {
    let seeds = outcome.seeds();
    if seeds < 2 {
        return None;
    }
    let mut text =
        "| metric | side | mean | lowest | highest | values |\n|:--|:--|--:|--:|--:|:--|".to_owned();
    let mut rows = 0;
    for metric in outcome.metrics.iter().filter(|m| m.gate.is_some() || m.primary).take(12) {
        let decimals = decimals(metric);
        for (side, aggregate) in [("this", &metric.candidate), ("baseline", &metric.baseline)] {
            let Some(aggregate) = aggregate.as_ref().filter(|a| a.values.len() > 1) else { continue };
            let show = |v: f64| numbers::value(v, decimals);
            let values: Vec<f64> = aggregate.values.iter().map(|v| v.value.0).collect();
            let listed = if values.len() <= MAX_SEEDS {
                aggregate
                    .values
                    .iter()
                    .map(|v| format!("{} {}", escape::text(&v.member, 30), show(v.value.0)))
                    .collect::<Vec<_>>()
                    .join(" · ")
            } else {
                format!("{} seeds", values.len())
            };
            let extreme =
                |pick: fn(f64, f64) -> f64| show(values.iter().copied().reduce(pick).unwrap_or(f64::NAN));
            let _ = write!(
                text,
                "\n| {} | {side} | {} | {} | {} | {listed} |",
                escape::text(&metric.name, NAME),
                show(aggregate.value()),
                extreme(f64::min),
                extreme(f64::max)
            );
            rows += 1;
        }
    }
    (rows > 0).then(|| fold(&format!("<b>Seeds</b>: {seeds} values behind each mean"), &text))
}

fn params(section: &Section) -> Option<String> {
    let total = section.params.len();
    if total == 0 || section.comparison.as_ref()?.baseline.is_none() {
        return None;
    }
    let changes: Vec<_> = section.params.iter().filter(|p| p.changed()).collect();
    let changed = changes.len();
    if changed == 0 {
        return Some(format!("Parameters: all {total} as in the baseline"));
    }
    let mut text = "| parameter | baseline | this |\n|:--|:--|:--|".to_owned();
    for param in changes.iter().take(MAX_PARAMS) {
        let show = |v: &Option<String>| v.as_ref().map_or_else(|| "–".to_owned(), |v| escape::code(v, 60));
        let name = escape::code(&param.label, NAME);
        let _ = write!(text, "\n| {name} | {} | {} |", show(&param.baseline), show(&param.this));
    }
    if changed > MAX_PARAMS {
        let _ = write!(text, "\n| and {} more | | |", changed - MAX_PARAMS);
    }
    Some(fold(&format!("<b>Parameters</b>: {changed} of {total} changed"), &text))
}

fn steps(section: &Section) -> Option<String> {
    if section.steps.is_empty() || matches!(section.state, RunState::Held | RunState::Skipped) {
        return None;
    }
    let mut text = "| step | state | time | GPU-time | attempts |\n|:--|:--|--:|--:|--:|".to_owned();
    for step in section.steps.iter().take(MAX_STEPS) {
        text.push('\n');
        text.push_str(&step_row(step));
    }
    if section.steps.len() > MAX_STEPS {
        let _ = write!(text, "\n| and {} more | | | | |", section.steps.len() - MAX_STEPS);
    }
    if !section.not_run.is_empty() {
        let names = section.not_run.iter().map(|n| escape::code(n, 30)).collect::<Vec<_>>().join(", ");
        let _ = write!(text, "\n\nChecked, but not run by this version of trainyard: {names}.");
    }
    let good = section.steps.iter().filter(|s| s.state.is_good()).count();
    let count = match section.steps.len() {
        1 if good == 1 => "1, good".to_owned(),
        n if n == good => format!("{n}, all good"),
        n => format!("{good} of {n} good"),
    };
    Some(fold(&format!("<b>Steps</b>: {count}"), &text))
}

fn step_row(step: &StepLine) -> String {
    let icon = match step.state {
        StepState::Succeeded | StepState::Reused => "✅",
        StepState::Failed | StepState::Errored => "❌",
        StepState::Cancelled => "🚫",
        StepState::Skipped => "⏭️",
        StepState::Waiting | StepState::Ready | StepState::Running => "⏳",
    };
    let time = step.duration_ms.map_or("–".to_owned(), numbers::duration);
    let gpu = if step.gpu_ms > 0 { numbers::duration(step.gpu_ms) } else { "–".to_owned() };
    let reason = escape::text(&step.reason, 120);
    let says = match step.state {
        // `reused from run 0190…`; nothing ran.
        StepState::Reused if !step.reason.is_empty() => reason,
        state if step.reason.is_empty() || state.is_good() => state.word().to_owned(),
        state => format!("{state}: {reason}"),
    };
    let attempts = if step.state == StepState::Reused { "–".to_owned() } else { step.attempts.to_string() };
    let name = escape::code(&step.name, NAME);
    format!("| {name} | {icon} {says} | {time} | {gpu} | {attempts} |")
}

fn footer(section: &Section) -> String {
    let mut parts = vec![format!("[Full report and logs]({})", section.run_url)];
    if let Some(duration) = section.duration_ms {
        parts.push(numbers::duration(duration));
    }
    if section.state.is_terminal() && section.state != RunState::Skipped && !section.steps.is_empty() {
        parts.push(match section.gpu_ms {
            0 => "no GPU".to_owned(),
            ms => {
                let costs = section.costs.iter();
                let costs = costs.map(|c| numbers::money(c.amount, &escape::html(&c.currency, 8)));
                let costs = costs.collect::<Vec<_>>().join(" and ");
                let about = if costs.is_empty() { String::new() } else { format!(", about {costs}") };
                let idle =
                    section.gpu_idle.map_or(String::new(), |share| format!(", {:.0} % idle", share * 100.0));
                format!("{}{idle}{about}", numbers::gpu_time(ms))
            }
        });
    }
    if !section.trusted {
        parts.push("untrusted head".to_owned());
    }
    parts.push("trainyard keeps this comment up to date".to_owned());
    format!("<sub>{}</sub>", parts.join(" · "))
}

pub(super) fn fold(summary: &str, body: &str) -> String {
    format!("<details><summary>{summary}</summary>\n\n{body}\n\n</details>")
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}
