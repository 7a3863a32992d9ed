//! Has the data moved? Two profiles, column by column.
//!
//! A column has drifted when the difference is both **believed** (a chi-square test on counts, adjusted over all
//! columns by Benjamini and Hochberg) and **large** (an effect over a practical threshold). Large samples make every
//! difference significant and small ones make every effect large; neither alone is a verdict. Effects are corrected
//! for what chance alone would make of them at these sizes.
//!
//! Numbers are compared by their counts between the baseline's edges, merged until each bin holds at least a
//! thirty-second of the values and ten expected ones; categories by their counts, those with less than five expected
//! on either side as one; texts of many values by counts of their hashes.

use serde::Serialize;

use crate::profile::{ColumnProfile, Profile};
use crate::rules::{DriftRules, Rules};
use crate::schema::Kind;
use crate::stats;

/// What is said of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Stable,
    Drifted,
    TooFewRows,
    /// See `reason`.
    NotTested,
}

/// The comparison of one column.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnDrift {
    pub column: String,
    pub kind: Kind,
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The test that `p` is of.
    pub test: &'static str,
    pub statistic: f64,
    pub df: f64,
    pub p: f64,
    /// Adjusted over all tested columns.
    pub p_adjusted: f64,
    /// Wasserstein distance within the baseline's outer fences, in its deviations (see [`compare`]); numbers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// Population stability index, less its expectation under no drift.
    pub psi: f64,
    /// Cramér's V, less its expectation under no drift.
    pub v: f64,
    /// Effects at or above their thresholds.
    pub large: Vec<&'static str>,
    /// Shares of the compared bins, for pictures.
    pub baseline_shares: Vec<f64>,
    pub shares: Vec<f64>,
    pub label: bool,
}

/// Compares the columns that both profiles have. Shifts of numbers are in the smaller one of the baseline's standard
/// deviation and its quartiles' distance by 1.349, which for normal numbers are the same.
pub fn compare(baseline: &Profile, candidate: &Profile, rules: &Rules) -> Vec<ColumnDrift> {
    let mut out: Vec<ColumnDrift> = candidate
        .columns
        .iter()
        .filter_map(|c| baseline.column(&c.field.name).map(|b| column(b, c, rules)))
        .collect();
    judge(&mut out, &rules.drift);
    out
}

/// Adjusts the p-values over all tested columns and gives the verdicts.
pub(crate) fn judge(columns: &mut [ColumnDrift], rules: &DriftRules) {
    let tested: Vec<usize> = (0..columns.len()).filter(|i| columns[*i].verdict == Verdict::Stable).collect();
    let p: Vec<f64> = tested.iter().map(|i| columns[*i].p).collect();
    for (i, adjusted) in tested.into_iter().zip(stats::benjamini_hochberg(&p)) {
        let c = &mut columns[i];
        c.p_adjusted = adjusted;
        if c.shift.is_some_and(|s| s >= rules.min_shift) {
            c.large.push("shift");
        }
        if c.psi >= rules.min_psi {
            c.large.push("psi");
        }
        if c.shift.is_none() && c.v >= rules.min_v {
            c.large.push("v");
        }
        if adjusted <= rules.alpha && !c.large.is_empty() {
            c.verdict = Verdict::Drifted;
        }
    }
}

fn column(baseline: &ColumnProfile, candidate: &ColumnProfile, rules: &Rules) -> ColumnDrift {
    let name = &candidate.field.name;
    let rule = rules.schema.get(name);
    let mut out = ColumnDrift {
        column: name.clone(),
        kind: candidate.field.kind,
        verdict: Verdict::NotTested,
        reason: None,
        test: "none",
        statistic: f64::NAN,
        df: f64::NAN,
        p: f64::NAN,
        p_adjusted: f64::NAN,
        shift: None,
        psi: 0.0,
        v: 0.0,
        large: Vec::new(),
        baseline_shares: Vec::new(),
        shares: Vec::new(),
        label: rule.is_some_and(|r| r.label),
    };
    let not_tested = |mut out: ColumnDrift, reason: &str| {
        out.reason = Some(reason.to_owned());
        out
    };
    if rules.drift.ignore.contains(name) || rule.is_some_and(|r| r.no_drift) {
        return not_tested(out, "left out by the rules");
    }
    let kinds = (baseline.field.kind, candidate.field.kind);
    let both_numbers = matches!(kinds, (Kind::Int | Kind::Float, Kind::Int | Kind::Float));
    if kinds.0 != kinds.1 && !both_numbers {
        return not_tested(out, "the type is another one");
    }
    match kinds.1 {
        Kind::Time if !rules.drift.times => {
            return not_tested(out, "times move by nature; `times: true` compares them");
        }
        Kind::Other => return not_tested(out, "columns of this type are not compared"),
        _ => {}
    }
    let (n, m) = (values(baseline), values(candidate));
    if n < rules.drift.min_rows || m < rules.drift.min_rows {
        out.verdict = Verdict::TooFewRows;
        out.reason = Some(format!(
            "{n} values in the baseline, {m} here; at least {} are needed on each side",
            rules.drift.min_rows
        ));
        return out;
    }
    if identifies(baseline) && identifies(candidate) {
        return not_tested(out, "almost every value is distinct: an identifier");
    }
    let compared =
        if kinds.1.is_numeric() { numbers(baseline, candidate) } else { categories(baseline, candidate) };
    let Some(Compared { test, counts, shift }) = compared else {
        return not_tested(
            out,
            "the profiles have no common edges; profile the candidate against the baseline",
        );
    };
    let (a, b): (Vec<u64>, Vec<u64>) = counts.into_iter().unzip();
    let Some(chi) = stats::chi_square_table(&a, &b) else {
        return not_tested(out, "one side has no values");
    };
    let (n, m) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    let chance = chi.df * (1.0 / n + 1.0 / m);
    out.verdict = Verdict::Stable;
    out.test = test;
    out.statistic = chi.statistic;
    out.df = chi.df;
    out.p = chi.p;
    out.p_adjusted = chi.p;
    out.psi = (stats::psi(&a, &b) - chance).max(0.0);
    out.v = ((chi.statistic - chi.df) / (n + m)).max(0.0).sqrt().min(1.0);
    out.shift = shift;
    out.baseline_shares = a.iter().map(|c| *c as f64 / n).collect();
    out.shares = b.iter().map(|c| *c as f64 / m).collect();
    out
}

/// Values that are compared.
fn values(column: &ColumnProfile) -> u64 {
    match (&column.numbers, &column.lengths) {
        (Some(n), _) => n.count,
        (_, Some(l)) => l.count,
        _ => column.present().saturating_sub(column.invalid),
    }
}

pub(crate) fn identifies(column: &ColumnProfile) -> bool {
    let (distinct, _) = column.distinct.count();
    matches!(column.field.kind, Kind::Int | Kind::Text) && distinct >= 0.9 * values(column) as f64
}

struct Compared {
    test: &'static str,
    counts: Vec<(u64, u64)>,
    shift: Option<f64>,
}

/// In what numbers are measured, so that a few wild ones (a sentinel, a slip of units) hide no drift and make none.
pub(crate) struct Scale {
    /// The smaller one of the deviation and of that of a normal distribution with the same quartiles (Silverman 1986,
    /// eq. 3.30); the deviation alone where the quartiles are one value.
    unit: f64,
    /// Three times the quartiles' distance beyond them, Tukey's outer fences (1977): what lies further counts as there.
    fences: (f64, f64),
}

impl Scale {
    pub(crate) fn of(column: &ColumnProfile) -> Self {
        let deviation = column.numbers.as_ref().map_or(f64::NAN, |n| n.variance(0).sqrt());
        let (low, high) = (column.quantile(0.25), column.quantile(0.75));
        let width = high - low;
        if width > 0.0 && width.is_finite() {
            let fences = (low - 3.0 * width, high + 3.0 * width);
            Self { unit: deviation.min(width / 1.349), fences }
        } else {
            Self { unit: deviation, fences: (f64::NEG_INFINITY, f64::INFINITY) }
        }
    }

    fn within(&self, x: f64) -> f64 {
        x.clamp(self.fences.0, self.fences.1)
    }

    pub(crate) fn units(&self, distance: f64) -> f64 {
        if self.unit > 0.0 {
            distance / self.unit
        } else if distance > 0.0 {
            f64::INFINITY
        } else {
            0.0
        }
    }
}

/// Distinct numbers up to which each is a bin of its own.
const FEW: usize = 20;

fn numbers(baseline: &ColumnProfile, candidate: &ColumnProfile) -> Option<Compared> {
    let (b, c) = (baseline.numbers.as_ref()?, candidate.numbers.as_ref()?);
    let scale = Scale::of(baseline);
    let exact = baseline.distinct.numbers().zip(candidate.distinct.numbers());
    let moved = |both: &[(f64, u64, u64)]| scale.units(distance_of_counts(both, &scale));
    if let Some((x, y)) = &exact {
        let both = joined(x, y);
        if both.len() <= FEW {
            let shift = moved(&both);
            let counts = both.into_iter().map(|(_, a, b)| (a, b)).collect();
            return Some(Compared {
                test: "chi-square of values",
                counts: pooled_neighbours(counts),
                shift: Some(shift),
            });
        }
    }
    let (mut h, other) = (b.histogram.clone()?, c.histogram.as_ref()?);
    if h.edges != other.edges {
        let mut common = other.clone();
        common.counts.iter_mut().for_each(|c| *c = 0);
        h.merge(&common);
    }
    let mut theirs = h.clone();
    theirs.counts.iter_mut().for_each(|c| *c = 0);
    theirs.merge(other);
    if h.edges.is_empty() {
        // One value in the whole baseline: is it still the only one?
        let (x, y) = exact?;
        let both = joined(&x, &y);
        let shift = moved(&both);
        let counts = both.into_iter().map(|(_, a, b)| (a, b)).collect();
        return Some(Compared {
            test: "chi-square of values",
            counts: pooled_neighbours(counts),
            shift: Some(shift),
        });
    }
    let shift = if let Some((x, y)) = exact {
        moved(&joined(&x, &y))
    } else {
        let edges: Vec<f64> = h.edges.iter().map(|x| scale.within(*x)).collect();
        let (low, high) = (scale.within(b.min.min(c.min)), scale.within(b.max.max(c.max)));
        scale.units(distance_of_bins(&edges, &h.counts, &theirs.counts, low, high))
    };
    let counts = h.counts.into_iter().zip(theirs.counts).collect();
    Some(Compared { test: "chi-square of bins", counts: pooled_neighbours(counts), shift: Some(shift) })
}

/// (value, count in the first, count in the second), ascending.
fn joined(x: &[(f64, u64)], y: &[(f64, u64)]) -> Vec<(f64, u64, u64)> {
    let (mut i, mut j, mut out) = (0, 0, Vec::with_capacity(x.len().max(y.len())));
    while i < x.len() || j < y.len() {
        match (x.get(i), y.get(j)) {
            (Some(a), Some(b)) if a.0 == b.0 => {
                out.push((a.0, a.1, b.1));
                i += 1;
                j += 1;
            }
            (Some(a), Some(b)) if a.0 < b.0 => {
                out.push((a.0, a.1, 0));
                i += 1;
            }
            (_, Some(b)) => {
                out.push((b.0, 0, b.1));
                j += 1;
            }
            (Some(a), None) => {
                out.push((a.0, a.1, 0));
                i += 1;
            }
            (None, None) => break,
        }
    }
    out
}

/// Wasserstein distance of two tables of counts, exact within the fences.
fn distance_of_counts(both: &[(f64, u64, u64)], scale: &Scale) -> f64 {
    let (n, m) = both.iter().fold((0.0, 0.0), |(n, m), c| (n + c.1 as f64, m + c.2 as f64));
    let (mut i, mut j, mut sum) = (0.0, 0.0, 0.0);
    for pair in both.windows(2) {
        i += pair[0].1 as f64;
        j += pair[0].2 as f64;
        sum += (i / n - j / m).abs() * (scale.within(pair[1].0) - scale.within(pair[0].0));
    }
    sum
}

/// Wasserstein distance of two histograms, mass spread evenly inside of a bin: off by at most the mass of a bin times
/// its width, summed.
fn distance_of_bins(edges: &[f64], a: &[u64], b: &[u64], low: f64, high: f64) -> f64 {
    let (n, m) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    let (mut before, mut sum) = (0.0, 0.0);
    let mut left = low;
    for i in 0..a.len() {
        let right = edges.get(i).copied().unwrap_or(high);
        let after: f64 = before + a[i] as f64 / n - b[i] as f64 / m;
        let width = (right - left).max(0.0);
        // The area under |a line from `before` to `after`|.
        sum += if before * after >= 0.0 {
            width * f64::midpoint(f64::abs(before), f64::abs(after))
        } else {
            width * (before * before + after * after) / (2.0 * (f64::abs(before) + f64::abs(after)))
        };
        before = after;
        left = right.max(left);
    }
    sum
}

/// Neighbouring bins merged until each holds a thirty-second of all values and ten expected ones on each side.
fn pooled_neighbours(counts: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let (n, m) = counts.iter().fold((0, 0), |(n, m), c| (n + c.0, m + c.1));
    let total = (n + m) as f64;
    let expected = 10.0 * total / n.min(m).max(1) as f64;
    let least = expected.max(total / 32.0 * 0.75);
    let mut out: Vec<(u64, u64)> = Vec::new();
    let mut open = (0, 0);
    for c in counts {
        open = (open.0 + c.0, open.1 + c.1);
        if (open.0 + open.1) as f64 >= least {
            out.push(open);
            open = (0, 0);
        }
    }
    if open != (0, 0) {
        match out.last_mut() {
            Some(last) => *last = (last.0 + open.0, last.1 + open.1),
            None => out.push(open),
        }
    }
    out
}

fn categories(baseline: &ColumnProfile, candidate: &ColumnProfile) -> Option<Compared> {
    let pairs: Vec<(u64, u64)> = if baseline.field.kind == Kind::Bool {
        joined(&baseline.distinct.numbers()?, &candidate.distinct.numbers()?)
            .into_iter()
            .map(|c| (c.1, c.2))
            .collect()
    } else if let (Some(x), Some(y)) = (baseline.distinct.texts(), candidate.distinct.texts()) {
        let mut counts: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
        for (text, count) in x {
            counts.entry(text).or_default().0 += count;
        }
        for (text, count) in y {
            counts.entry(text).or_default().1 += count;
        }
        counts.into_values().collect()
    } else {
        let (x, y) = (baseline.distinct.buckets()?, candidate.distinct.buckets()?);
        let counts = pooled_rare(x.into_iter().zip(y).collect());
        return Some(Compared { test: "chi-square of hashed values", counts, shift: None });
    };
    Some(Compared { test: "chi-square of categories", counts: pooled_rare(pairs), shift: None })
}

/// Categories with less than five expected on either side, as one.
fn pooled_rare(mut counts: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let (n, m) = counts.iter().fold((0, 0), |(n, m), c| (n + c.0, m + c.1));
    let expected = 5.0 * (n + m) as f64 / n.min(m).max(1) as f64;
    // Most frequent first, so that pictures start with what matters; ties by what they were.
    counts.sort_by_key(|c| std::cmp::Reverse(c.0 + c.1));
    let (mut out, mut rest) = (Vec::new(), (0, 0));
    for c in counts {
        if (c.0 + c.1) as f64 >= expected {
            out.push(c);
        } else {
            rest = (rest.0 + c.0, rest.1 + c.1);
        }
    }
    if rest != (0, 0) {
        if (rest.0 + rest.1) as f64 >= expected || out.is_empty() {
            out.push(rest);
        } else if let Some(last) = out.last_mut() {
            *last = (last.0 + rest.0, last.1 + rest.1);
        }
    }
    out
}

/// The comparison of two samples of numbers by the same rule, without files: what the calibration measures.
pub fn compare_numbers(baseline: &[f64], candidate: &[f64], rules: &DriftRules) -> ColumnDrift {
    use crate::profile::Histogram;
    let field = crate::schema::Field { name: "x".into(), kind: Kind::Float, physical: "Float64".into() };
    let edges = Histogram::edges_of(&mut baseline.to_vec());
    let profile = |values: &[f64]| {
        let mut p = ColumnProfile::new(field.clone(), Some(&edges));
        p.add(&arrow::array::Float64Array::from(values.to_vec()));
        p.seal();
        p
    };
    alone(column(&profile(baseline), &profile(candidate), &only(rules)), rules)
}

/// The comparison of two samples of categories by the same rule.
pub fn compare_categories(baseline: &[&str], candidate: &[&str], rules: &DriftRules) -> ColumnDrift {
    let field = crate::schema::Field { name: "x".into(), kind: Kind::Text, physical: "Utf8".into() };
    let profile = |values: &[&str]| {
        let mut p = ColumnProfile::new(field.clone(), None);
        p.add(&arrow::array::StringArray::from(values.to_vec()));
        p.seal();
        p
    };
    alone(column(&profile(baseline), &profile(candidate), &only(rules)), rules)
}

fn only(rules: &DriftRules) -> Rules {
    Rules { drift: rules.clone(), ..Rules::default() }
}

fn alone(drift: ColumnDrift, rules: &DriftRules) -> ColumnDrift {
    let mut one = [drift];
    judge(&mut one, rules);
    let [drift] = one;
    drift
}
