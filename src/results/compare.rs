//! The gates: pure, from two summaries to an [`Outcome`].
//!
//! A change is held against its interval where repeated trainings give one: non-inferiority, so a gate passes when the worst
//! end of the interval is within the tolerance, fails when the best end is not, and is inconclusive between. What nothing but
//! two numbers is known of is judged by those.

use trainyard_data::stats::{benjamini_hochberg, holm, special::t_two_sided};

use super::evidence::{ALPHA, Tested, of_mean, of_seeds, together};
use super::summary::Summary;
use crate::model::metric::{Goal, Tolerance};
use crate::model::outcome::{
    Aggregate, Change, Evidence, GateOutcome, MetricOutcome, Outcome, Unit, grouped,
};
use crate::model::plan::{Gate, GateEvidence};
use crate::model::state::Verdict;

/// The rules that this version judges by.
pub const RULES: &str = "interval-1";

/// Two numbers that differ by less than this share of their size count as equal: tolerances such as `0.5%` are decimal,
/// the arithmetic is binary.
const ROUNDING: f64 = 1e-12;

/// The false discovery rate among the slices that one glob gates.
const SLICES_FDR: f64 = 0.10;

/// More seeds than this nobody trains: the message says so instead of the number.
const MANY: u64 = 1_000;
const MANY_EXAMPLES: u64 = 10_000_000;

/// Holds a candidate against a baseline. `gates` are in file order; a name may be a glob. A metric takes the gate that
/// names it exactly, else the first glob that matches. A gated metric that the candidate lacks or that is not finite fails;
/// a rule that needs a baseline value is inconclusive without one, and when the two were tested on different data. Metrics
/// without a gate are listed too.
///
/// Several gates are several chances to fail by chance. That a blocking one fails must hold at 5 % over all of them (Holm),
/// that a slice fails (one of a glob's metrics) at a false discovery rate of 10 % (Benjamini and Hochberg). Passing needs no
/// such correction: every gate must.
pub fn compare(
    candidate: &Summary,
    baseline: Option<&Summary>,
    gates: &[(String, Gate)],
    primary: Option<&str>,
) -> Outcome {
    let unlike = baseline.and_then(|b| candidate.other_test_set(b));
    let sides: Vec<Side<'_>> = rows(candidate, baseline, gates)
        .into_iter()
        .map(|(name, gate, slice)| Side::new(name, gate, slice, candidate, baseline, unlike.as_deref()))
        .collect();
    let chance = chance(&sides);
    let mut metrics: Vec<MetricOutcome> =
        sides.into_iter().zip(&chance).map(|(side, c)| side.judge(c)).collect();
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

/// Every metric to show with its gate, and whether a glob gave it that: gated ones in file order, then all others by name.
fn rows<'g>(
    candidate: &Summary,
    baseline: Option<&Summary>,
    gates: &'g [(String, Gate)],
) -> Vec<(String, Option<&'g Gate>, bool)> {
    let mut names: Vec<&str> =
        candidate.names().chain(baseline.into_iter().flat_map(Summary::names)).collect();
    names.sort_unstable();
    names.dedup();

    let exact = |name: &str| gates.iter().any(|(key, _)| key == name);
    let mut rows: Vec<(String, Option<&Gate>, bool)> = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for (key, gate) in gates {
        let Some(glob) = glob(key) else {
            rows.push((key.clone(), Some(gate), false));
            continue;
        };
        let mut any = false;
        for name in &names {
            if glob.is_match(name) {
                any = true;
                if !exact(name) && !taken.contains(name) {
                    taken.push(name);
                    rows.push(((*name).to_owned(), Some(gate), true));
                }
            }
        }
        if !any {
            rows.push((key.clone(), Some(gate), false));
        }
    }
    for name in names {
        if !exact(name) && !taken.contains(&name) {
            rows.push((name.to_owned(), None, false));
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

/// One metric of both runs, before it is judged.
struct Side<'a> {
    name: String,
    gate: Option<&'a Gate>,
    /// One of several metrics of a glob.
    slice: bool,
    goal: Goal,
    candidate: Option<&'a Aggregate>,
    baseline: Option<&'a Aggregate>,
    has_baseline: bool,
    /// Why the two must not be compared at all.
    unlike: Option<&'a str>,
    /// With two finite values: the interval, or why there is none.
    tested: Option<Result<Tested, &'static str>>,
}

/// A rule about the change: it must be above `bound`, in the direction that is better.
struct Rule {
    why: &'static str,
    tolerance: Tolerance,
    bound: f64,
}

/// What correcting for several gates made of a metric's rules: two-sided p-values of "it is beyond the bound", and among how
/// many gates.
#[derive(Default, Clone)]
struct Chance {
    p: Vec<f64>,
    among: usize,
}

impl<'a> Side<'a> {
    fn new(
        name: String,
        gate: Option<&'a Gate>,
        slice: bool,
        candidate: &'a Summary,
        baseline: Option<&'a Summary>,
        unlike: Option<&'a str>,
    ) -> Self {
        let goal = gate.and_then(|g| g.goal).unwrap_or_else(|| Goal::guess(&name));
        let (this, base) = (candidate.get(&name), baseline.and_then(|b| b.get(&name)));
        let tested = match (this, base) {
            (Some(c), Some(b)) if c.is_finite() && b.is_finite() && unlike.is_none() => {
                // Examples stand behind the values of the step that predicted them, and of no other.
                let examples = candidate.examples(&name, &c.step);
                Some(match (of_seeds(c, b), examples) {
                    (Ok(seeds), Some(examples)) => Ok(together(&seeds, examples).unwrap_or(seeds)),
                    (Err(_), Some(examples)) => Ok(examples.clone()),
                    (seeds, None) => seeds,
                })
            }
            _ => None,
        };
        Self {
            name,
            gate,
            slice,
            goal,
            candidate: this,
            baseline: base,
            has_baseline: baseline.is_some(),
            unlike,
            tested,
        }
    }

    fn tested(&self) -> Option<&Tested> {
        self.tested.as_ref().and_then(|t| t.as_ref().ok())
    }

    /// The interval that the gate's rules about the change are held against.
    fn judged_by(&self) -> Option<&Tested> {
        self.gate.filter(|g| g.evidence != Some(GateEvidence::Point)).and_then(|_| self.tested())
    }

    fn rules(&self, baseline: f64) -> Vec<Rule> {
        let Some(gate) = self.gate else { return Vec::new() };
        let keep = gate.no_worse_than.map(|t| ("it may be worse by at most", t, -1.0));
        let grow = gate.improve_by.map(|t| ("it must be better by at least", t, 1.0));
        let rule = |(why, tolerance, sign): (&'static str, Tolerance, f64)| Rule {
            why,
            tolerance,
            bound: sign * tolerance.amount(baseline),
        };
        keep.into_iter().chain(grow).map(rule).collect()
    }

    /// Two-sided p-values of "the change is beyond the bound", one for each rule.
    fn raw_chances(&self) -> Vec<f64> {
        let (Some(tested), Some(baseline)) = (self.judged_by(), self.baseline) else { return Vec::new() };
        let gained = oriented(self.goal, tested.test.difference);
        let beyond = |rule: Rule| {
            let t = (gained - rule.bound) / tested.test.standard_error;
            if t < 0.0 { t_two_sided(t, tested.test.df) } else { 1.0 }
        };
        self.rules(baseline.value()).into_iter().map(beyond).collect()
    }

    fn judge(self, chance: &Chance) -> MetricOutcome {
        let (mut delta, mut relative, mut better) = (None, None, None);
        if let (Some(c), Some(b)) = (self.candidate, self.baseline)
            && self.tested.is_some()
        {
            let d = c.value() - b.value();
            let same = d.abs() <= rounding(c.value(), b.value());
            delta = Some(if same { 0.0 } else { d });
            relative = (b.value() != 0.0).then(|| delta.unwrap_or(0.0) / b.value().abs());
            better = Some(match (same, oriented(self.goal, d) > 0.0) {
                (true, _) => Change::Same,
                (false, true) => Change::Better,
                (false, false) => Change::Worse,
            });
        }
        let gate = self.gate.map(|gate| self.judge_gate(gate, chance));
        let (evidence, no_evidence) = match self.tested {
            Some(Ok(tested)) => (Some(tested.evidence), String::new()),
            Some(Err(why)) => (None, why.to_owned()),
            None => (None, String::new()),
        };
        MetricOutcome {
            name: self.name,
            goal: self.goal,
            assumed: self.gate.is_none_or(|g| g.goal.is_none()),
            primary: false,
            candidate: self.candidate.cloned(),
            baseline: self.baseline.cloned(),
            delta,
            relative,
            better,
            evidence,
            no_evidence,
            benchmarks: Vec::new(),
            gate,
        }
    }

    fn judge_gate(&self, gate: &Gate, chance: &Chance) -> GateOutcome {
        let name = &self.name;
        let mut found = Findings::default();
        let mut rules = Vec::new();
        if let Some(min) = gate.min {
            rules.push(format!("≥ {min}"));
        }
        if let Some(max) = gate.max {
            rules.push(format!("≤ {max}"));
        }
        for reference in &gate.beats {
            let sign = if self.goal == Goal::Max { "≥" } else { "≤" };
            rules.push(format!("{sign} {} ({})", reference.value, reference.benchmark));
        }
        if let Some(tolerance) = gate.no_worse_than {
            rules.push(format!("at most {tolerance} worse"));
        }
        if let Some(tolerance) = gate.improve_by {
            rules.push(format!("at least {tolerance} better"));
        }
        let mut by_interval = false;
        match self.candidate {
            None => found.fail(format!("{name} was not reported by this run")),
            Some(c) if !c.is_finite() => {
                let bad = c.values.iter().filter(|v| !v.value.0.is_finite()).count();
                let of = if c.values.len() > 1 {
                    format!(" in {bad} of {} members", c.values.len())
                } else {
                    String::new()
                };
                found.fail(format!("{name} is not a finite number{of}"));
            }
            Some(c) => {
                by_interval |= self.limits(c, gate, &mut found);
                if gate.no_worse_than.is_some() || gate.improve_by.is_some() {
                    by_interval |= self.changes(c, gate, chance, &mut found);
                }
            }
        }
        GateOutcome {
            verdict: found.verdict,
            warn_only: gate.warn_only,
            rules,
            reasons: found.reasons,
            by_interval,
            bound: self
                .baseline
                .filter(|b| b.is_finite() && self.unlike.is_none())
                .and_then(|b| self.rules(b.value()).first().map(|rule| rule.bound)),
            needed: found.needed,
        }
    }

    /// `min`, `max` and benchmarks: of the mean, or of its interval where the gate asks for that. Returns whether it was the
    /// interval.
    fn limits(&self, c: &Aggregate, gate: &Gate, found: &mut Findings) -> bool {
        let name = &self.name;
        let limit = |at: Option<f64>, sign: f64, words: &str| at.map(|at| (at, sign, words.to_owned()));
        let mut limits: Vec<(f64, f64, String)> =
            [limit(gate.min, 1.0, "below the minimum"), limit(gate.max, -1.0, "above the maximum")]
                .into_iter()
                .flatten()
                .collect();
        let better = oriented(self.goal, 1.0);
        limits.extend(
            gate.beats.iter().map(|r| (r.value, better, format!("behind the benchmark {}:", r.benchmark))),
        );
        if limits.is_empty() {
            return false;
        }
        if gate.evidence != Some(GateEvidence::Interval) {
            let value = c.value();
            for (limit, sign, words) in limits {
                if sign * (value - limit) < -rounding(value, limit) {
                    found.fail(format!("{name} is {}, {words} {limit}", plain(value)));
                }
            }
            return false;
        }
        let Some(interval) = of_mean(c) else {
            found.open(no_interval(name, "unreplicated"), Some(3));
            return false;
        };
        for (limit, sign, words) in limits {
            let (worst, best) =
                if sign > 0.0 { (interval.low, interval.high) } else { (interval.high, interval.low) };
            let range = format!("{} … {}", plain(interval.low), plain(interval.high));
            let is = format!("{name} is {} (95 % CI {range}, {} seeds)", plain(c.value()), c.values.len());
            if sign * (best - limit) < 0.0 {
                found.fail(format!("{is}, {words} {limit}"));
            } else if sign * (worst - limit) < 0.0 {
                found.open(format!("{is}: it may be {words} {limit}"), None);
            }
        }
        true
    }

    /// The rules about the change. Returns whether they were held against an interval.
    fn changes(&self, c: &Aggregate, gate: &Gate, chance: &Chance, found: &mut Findings) -> bool {
        let name = &self.name;
        let b = match self.baseline {
            _ if self.unlike.is_some() => {
                found.open(format!("{name} cannot be compared: {}", self.unlike.unwrap_or_default()), None);
                return false;
            }
            Some(b) if b.is_finite() => b,
            Some(_) => {
                found.open(format!("{name} of the baseline is not a finite number"), None);
                return false;
            }
            None if self.has_baseline => {
                found.open(format!("{name} was not reported by the baseline"), None);
                return false;
            }
            None => {
                found.open(format!("{name} has no baseline to be held against"), None);
                return false;
            }
        };
        let gained = oriented(self.goal, c.value() - b.value());
        let moved = Moved { gained, baseline: b.value() };
        if let (Some(GateEvidence::Interval), Some(Err(why))) = (gate.evidence, &self.tested) {
            found.open(no_interval(name, why), Some(3));
            return false;
        }
        let Some(tested) = self.judged_by() else {
            for rule in self.rules(b.value()) {
                if gained < rule.bound - rounding(c.value(), b.value()) {
                    found.fail(format!("{name} is {moved}; {} {}", rule.why, rule.tolerance));
                }
            }
            return false;
        };
        let said = interval_words(&tested.evidence);
        let (low, high) = match self.goal {
            Goal::Max => (tested.evidence.low, tested.evidence.high),
            Goal::Min => (-tested.evidence.high, -tested.evidence.low),
        };
        let level = if self.slice { SLICES_FDR } else { ALPHA };
        for (rule, p) in self.rules(b.value()).into_iter().zip(&chance.p) {
            let Rule { why, tolerance, bound } = rule;
            if low > bound {
                continue;
            }
            if *p <= level {
                found.fail(format!("{name} is {moved} ({said}); {why} {tolerance}"));
                continue;
            }
            let needed = tested.needed(gained - bound);
            let unit = tested.more.word();
            let of_test_set = matches!(tested.more, Unit::Examples | Unit::Clusters);
            let many = if of_test_set { MANY_EXAMPLES } else { MANY };
            let side = if of_test_set { "" } else { " a side" };
            let more = match needed {
                _ if high < bound => format!("among {} gates that may be chance", chance.among),
                Some(n) if n <= many => format!("about {} {unit}{side} would tell", grouped(n)),
                _ => format!("not even {} {unit}{side} would tell", grouped(many)),
            };
            let needed = needed.filter(|n| *n <= many);
            found.open(format!("{name} is {moved} ({said}); {why} {tolerance}, and {more}"), needed);
        }
        true
    }
}

/// The verdict of one gate while its rules are gone through: a failure stands.
struct Findings {
    verdict: Verdict,
    reasons: Vec<String>,
    needed: Option<u64>,
}

impl Default for Findings {
    fn default() -> Self {
        Self { verdict: Verdict::Pass, reasons: Vec::new(), needed: None }
    }
}

impl Findings {
    fn fail(&mut self, why: String) {
        self.verdict = Verdict::Fail;
        self.reasons.push(why);
    }
    fn open(&mut self, why: String, needed: Option<u64>) {
        if self.verdict != Verdict::Fail {
            self.verdict = Verdict::Inconclusive;
        }
        self.needed = self.needed.max(needed);
        self.reasons.push(why);
    }
}

/// For each metric, the chances of its rules after correcting for the others of its family.
fn chance(sides: &[Side<'_>]) -> Vec<Chance> {
    let mut out: Vec<Chance> = sides.iter().map(|side| Chance { p: side.raw_chances(), among: 1 }).collect();
    let blocking = |s: &Side<'_>| s.gate.is_some_and(|g| !g.warn_only);
    let families: [(&dyn Fn(&Side<'_>) -> bool, fn(&[f64]) -> Vec<f64>); 2] =
        [(&|s| !s.slice && blocking(s), holm), (&|s| s.slice, benjamini_hochberg)];
    for (member, correct) in families {
        let of: Vec<usize> = (0..sides.len()).filter(|at| member(&sides[*at])).collect();
        let all: Vec<f64> = of.iter().flat_map(|at| out[*at].p.clone()).collect();
        let among = of.iter().filter(|at| !out[**at].p.is_empty()).count();
        let mut corrected = correct(&all).into_iter();
        for at in of {
            out[at].among = among;
            for p in &mut out[at].p {
                *p = corrected.next().unwrap_or(1.0);
            }
        }
    }
    out
}

fn no_interval(name: &str, why: &str) -> String {
    format!("{name} has no interval ({why}): a matrix of three seeds or more gives one")
}

/// `95 % CI −0.0158 … −0.0104, 3 seeds, paired`.
fn interval_words(evidence: &Evidence) -> String {
    let end = |x: f64| if x > 0.0 { format!("+{}", digits(x, 3)) } else { digits(x, 3).replace('-', "−") };
    format!(
        "{:.0} % CI {} … {}, {}",
        100.0 * evidence.level,
        end(evidence.low),
        end(evidence.high),
        evidence.basis()
    )
}

/// "0.012 (1.4%) worse than the baseline 0.8481".
#[derive(Clone, Copy)]
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
    digits(value, 6)
}

fn digits(value: f64, significant: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let places = (significant - 1 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
