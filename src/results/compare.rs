//! The gates: pure, from two summaries to an [`Outcome`].

use crate::model::metric::{Goal, Tolerance};
use crate::model::outcome::{Aggregate, Change, GateOutcome, MetricOutcome, Outcome};
use crate::model::plan::Gate;
use crate::model::state::Verdict;

use super::summary::Summary;

/// The rules that this version judges by: means against thresholds, nothing said of noise.
pub const RULES: &str = "point-1";

/// Two numbers that differ by less than this share of their size count as equal: tolerances such as `0.5%` are decimal,
/// the arithmetic is binary.
const ROUNDING: f64 = 1e-12;

/// Holds a candidate against a baseline. `gates` are in file order; a name may be a glob. A metric takes the gate that
/// names it exactly, else the first glob that matches. A gated metric that the candidate lacks or that is not finite fails;
/// a rule that needs a baseline value is inconclusive without one. Metrics without a gate are listed too.
pub fn compare(
    candidate: &Summary,
    baseline: Option<&Summary>,
    gates: &[(String, Gate)],
    primary: Option<&str>,
) -> Outcome {
    let mut metrics: Vec<MetricOutcome> = rows(candidate, baseline, gates)
        .into_iter()
        .map(|(name, gate)| {
            judge(&name, candidate.get(&name), baseline.and_then(|b| b.get(&name)), baseline.is_some(), gate)
        })
        .collect();
    let primary = primary.map(str::to_owned).or_else(|| {
        metrics.iter().find(|m| m.gate.is_some() && m.candidate.is_some()).map(|m| m.name.clone())
    });
    if let Some(at) = primary.and_then(|p| metrics.iter().position(|m| m.name == p)) {
        let mut first = metrics.remove(at);
        first.primary = true;
        metrics.insert(0, first);
    }

    let blocking = |verdict| {
        metrics.iter().filter_map(|m| m.gate.as_ref()).any(move |g| !g.warn_only && g.verdict == verdict)
    };
    let verdict = if blocking(Verdict::Fail) {
        Verdict::Fail
    } else if blocking(Verdict::Inconclusive) {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    };
    let reasons = metrics.iter().filter_map(|m| m.gate.as_ref()).flat_map(|g| g.reasons.clone()).collect();
    Outcome { rules: RULES.to_owned(), verdict, reasons, metrics }
}

/// Every metric to show with its gate: gated ones in file order, then all others by name.
fn rows<'g>(
    candidate: &Summary,
    baseline: Option<&Summary>,
    gates: &'g [(String, Gate)],
) -> Vec<(String, Option<&'g Gate>)> {
    let mut names: Vec<&str> =
        candidate.names().chain(baseline.into_iter().flat_map(Summary::names)).collect();
    names.sort_unstable();
    names.dedup();

    let exact = |name: &str| gates.iter().any(|(key, _)| key == name);
    let mut rows: Vec<(String, Option<&Gate>)> = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for (key, gate) in gates {
        let Some(glob) = glob(key) else {
            rows.push((key.clone(), Some(gate)));
            continue;
        };
        let mut any = false;
        for name in &names {
            if glob.is_match(name) {
                any = true;
                if !exact(name) && !taken.contains(name) {
                    taken.push(name);
                    rows.push(((*name).to_owned(), Some(gate)));
                }
            }
        }
        if !any {
            rows.push((key.clone(), Some(gate)));
        }
    }
    for name in names {
        if !exact(name) && !taken.contains(&name) {
            rows.push((name.to_owned(), None));
        }
    }
    rows
}

/// None for a plain name (a pattern that cannot be read is one, too; the pipeline check reports those).
fn glob(key: &str) -> Option<globset::GlobMatcher> {
    if !key.contains(['*', '?', '[', '{']) {
        return None;
    }
    globset::Glob::new(key).ok().map(|g| g.compile_matcher())
}

fn judge(
    name: &str,
    candidate: Option<&Aggregate>,
    baseline: Option<&Aggregate>,
    has_baseline: bool,
    gate: Option<&Gate>,
) -> MetricOutcome {
    let declared = gate.and_then(|g| g.goal);
    let goal = declared.unwrap_or_else(|| Goal::guess(name));

    let (mut delta, mut relative, mut better) = (None, None, None);
    if let (Some(c), Some(b)) = (candidate, baseline)
        && c.is_finite()
        && b.is_finite()
    {
        let d = c.value() - b.value();
        let same = d.abs() <= rounding(c.value(), b.value());
        delta = Some(if same { 0.0 } else { d });
        relative = (b.value() != 0.0).then(|| delta.unwrap_or(0.0) / b.value().abs());
        better = Some(match (same, oriented(goal, d) > 0.0) {
            (true, _) => Change::Same,
            (false, true) => Change::Better,
            (false, false) => Change::Worse,
        });
    }
    MetricOutcome {
        name: name.to_owned(),
        goal,
        assumed: declared.is_none(),
        primary: false,
        candidate: candidate.cloned(),
        baseline: baseline.cloned(),
        delta,
        relative,
        better,
        gate: gate.map(|g| judge_gate(name, candidate, baseline, has_baseline, goal, g)),
    }
}

fn judge_gate(
    name: &str,
    candidate: Option<&Aggregate>,
    baseline: Option<&Aggregate>,
    has_baseline: bool,
    goal: Goal,
    gate: &Gate,
) -> GateOutcome {
    let mut rules = Vec::new();
    let mut reasons = Vec::new();
    let mut verdict = Verdict::Pass;
    let mut miss = |to: Verdict, why: String| {
        if verdict != Verdict::Fail {
            verdict = to;
        }
        reasons.push(why);
    };
    if let Some(min) = gate.min {
        rules.push(format!("≥ {min}"));
    }
    if let Some(max) = gate.max {
        rules.push(format!("≤ {max}"));
    }
    if let Some(tolerance) = gate.no_worse_than {
        rules.push(format!("at most {tolerance} worse"));
    }
    if let Some(tolerance) = gate.improve_by {
        rules.push(format!("at least {tolerance} better"));
    }

    match candidate {
        None => miss(Verdict::Fail, format!("{name} was not reported by this run")),
        Some(c) if !c.is_finite() => {
            let bad = c.values.iter().filter(|v| !v.value.0.is_finite()).count();
            let of = if c.values.len() > 1 {
                format!(" in {bad} of {} members", c.values.len())
            } else {
                String::new()
            };
            miss(Verdict::Fail, format!("{name} is not a finite number{of}"));
        }
        Some(c) => {
            let value = c.value();
            if let Some(min) = gate.min
                && value < min - rounding(value, min)
            {
                miss(Verdict::Fail, format!("{name} is {}, below the minimum {min}", plain(value)));
            }
            if let Some(max) = gate.max
                && value > max + rounding(value, max)
            {
                miss(Verdict::Fail, format!("{name} is {}, above the maximum {max}", plain(value)));
            }
            if gate.no_worse_than.is_some() || gate.improve_by.is_some() {
                match baseline {
                    Some(b) if b.is_finite() => {
                        for (why, tolerance, sign) in relative_rules(gate) {
                            let gained = oriented(goal, value - b.value());
                            let amount = tolerance.amount(b.value());
                            if gained < sign * amount - rounding(value, b.value()) {
                                let moved = Moved { gained, baseline: b.value() };
                                miss(Verdict::Fail, format!("{name} is {moved}; {why} {tolerance}"));
                            }
                        }
                    }
                    Some(_) => {
                        miss(Verdict::Inconclusive, format!("{name} of the baseline is not a finite number"));
                    }
                    None if has_baseline => {
                        miss(Verdict::Inconclusive, format!("{name} was not reported by the baseline"));
                    }
                    None => miss(Verdict::Inconclusive, format!("{name} has no baseline to be held against")),
                }
            }
        }
    }
    GateOutcome { verdict, warn_only: gate.warn_only, rules, reasons }
}

fn relative_rules(gate: &Gate) -> impl Iterator<Item = (&'static str, Tolerance, f64)> {
    let keep = gate.no_worse_than.map(|t| ("it may be worse by at most", t, -1.0));
    let grow = gate.improve_by.map(|t| ("it must be better by at least", t, 1.0));
    keep.into_iter().chain(grow)
}

/// "0.012 (1.4%) worse than the baseline 0.8481".
struct Moved {
    gained: f64,
    baseline: f64,
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.gained < 0.0 { "worse" } else { "better" };
        write!(f, "{}", plain(self.gained.abs()))?;
        if self.baseline != 0.0 {
            write!(f, " ({:.2}%)", 100.0 * self.gained.abs() / self.baseline.abs())?;
        }
        write!(f, " {word} than the baseline {}", plain(self.baseline))
    }
}

/// Above zero is better.
fn oriented(goal: Goal, delta: f64) -> f64 {
    match goal {
        Goal::Max => delta,
        Goal::Min => -delta,
    }
}

fn rounding(a: f64, b: f64) -> f64 {
    ROUNDING * a.abs().max(b.abs())
}

/// Six significant digits, without trailing zeros.
fn plain(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
