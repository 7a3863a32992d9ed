//! Two runs held against each other example by example, on one test set. Pure.
//!
//! Per-example values of several seeds are averaged over the seeds first, so that an example counts once. What the interval
//! then tells is how far the test set as a sample leaves the change open; what the seeds leave open comes on top (`evidence`).

use std::collections::BTreeMap;

use trainyard_data::stats::{self, Resample, TTest};

use super::evidence::{ALPHA, LEVEL, Tested};
use crate::agent::sheet::Sheet;
use crate::model::outcome::{Evidence, Method, Unit};

/// Replicates of the bootstrap.
const REPLICATES: usize = 2_000;
/// Of the bootstrap's draws: the same two runs always give the same interval.
const SEED: u64 = 20_261_125;
/// Fewer examples say nothing.
const MIN_EXAMPLES: usize = 50;

/// The sheets of one run: those of one step, by member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sheets {
    pub step: String,
    pub members: Vec<(String, Sheet)>,
}

/// Evidence by metric, `accuracy` and `accuracy/by/plan=pro`.
pub(super) type ByMetric = BTreeMap<String, Tested>;

impl Sheets {
    /// The one test set that all members were tested on; None: each its own.
    pub fn test_set(&self) -> Option<&str> {
        let first = &self.members.first()?.1.test_set;
        self.members.iter().all(|(_, s)| s.test_set == *first).then_some(first.as_str())
    }
}

/// Nothing unless both have one and the same test set.
pub(super) fn pair(this: &Sheets, base: &Sheets) -> ByMetric {
    let mut out = ByMetric::new();
    if this.test_set().is_none() || this.test_set() != base.test_set() {
        return out;
    }
    let (Some((_, first)), Some((_, other))) = (this.members.first(), base.members.first()) else {
        return out;
    };
    if first.ids != other.ids {
        return out;
    }
    let alone = this.members.len() == 1 && base.members.len() == 1;
    for (name, _) in &first.means {
        let (Some(b), Some(a)) = (averaged(this, name), averaged(base, name)) else { continue };
        let differences: Vec<f64> = b.iter().zip(&a).map(|(b, a)| b - a).collect();
        let answers = (alone && name == "accuracy").then_some((a.as_slice(), b.as_slice()));
        if let Some(tested) = bootstrap(&differences, answers) {
            out.insert(name.clone(), tested);
        }
        for slice in &first.slices {
            for (code, value) in (0_u16..).zip(&slice.values) {
                let of = |x: &[f64]| -> Vec<f64> {
                    x.iter().zip(&slice.codes).filter(|(_, c)| **c == code).map(|(x, _)| *x).collect()
                };
                let (a, b) = (of(&a), of(&b));
                let answers = answers.map(|_| (a.as_slice(), b.as_slice()));
                if let Some(tested) = bootstrap(&of(&differences), answers) {
                    out.insert(format!("{name}/by/{}={value}", slice.column), tested);
                }
            }
        }
    }
    if let Some(tested) = areas(this, base) {
        out.insert("auc".to_owned(), tested);
    }
    out
}

fn averaged(sheets: &Sheets, name: &str) -> Option<Vec<f64>> {
    let mut sum: Vec<f64> = Vec::new();
    for (_, sheet) in &sheets.members {
        let (_, values) = sheet.means.iter().find(|(n, _)| n == name)?;
        if sum.is_empty() {
            sum.clone_from(values);
        } else if sum.len() == values.len() {
            sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        } else {
            return None;
        }
    }
    let count = sheets.members.len() as f64;
    for s in &mut sum {
        *s /= count;
    }
    Some(sum)
}

/// The paired bootstrap (bias-corrected and accelerated) of a mean difference; for right and wrong answers of one model a side, the p-value is McNemar's.
fn bootstrap(differences: &[f64], answers: Option<(&[f64], &[f64])>) -> Option<Tested> {
    if differences.len() < MIN_EXAMPLES {
        return None;
    }
    let n = differences.len() as f64;
    let error = (stats::variance(differences, 1) / n).sqrt();
    if error <= 0.0 {
        return None; // no example differs, or all by the same: nothing is left to chance
    }
    let drawn = stats::paired_bootstrap(differences, Resample::Plain, REPLICATES, ALPHA, SEED)?;
    let t = drawn.mean / error;
    let (p, method) = match answers {
        Some((a, b)) => {
            let only =
                |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| **x > 0.5 && **y < 0.5).count() as u64;
            (stats::mcnemar_exact(only(a, b), only(b, a)), Method::Mcnemar)
        }
        None => (stats::special::t_two_sided(t, n - 1.0), Method::Bootstrap),
    };
    let test = TTest { difference: drawn.mean, standard_error: error, t, df: n - 1.0, p };
    Some(tested(method, &test, drawn.bca.low, drawn.bca.high, differences.len(), error * n.sqrt()))
}

/// The scores of each member; None when one has none.
fn scores(side: &Sheets) -> Option<Vec<&[f64]>> {
    side.members
        .iter()
        .map(|(_, sheet)| sheet.ranking.as_ref().map(|(scores, _)| scores.as_slice()))
        .collect()
}

fn areas(this: &Sheets, base: &Sheets) -> Option<Tested> {
    let (_, labels) = this.members.first()?.1.ranking.as_ref()?;
    let found = stats::delong_means(labels, &scores(base)?, &scores(this)?)?;
    let error = (found.variance_a + found.variance_b - 2.0 * found.covariance).max(0.0).sqrt();
    if labels.len() < MIN_EXAMPLES || error <= 0.0 {
        return None;
    }
    let difference = found.auc_b - found.auc_a;
    let df = labels.len() as f64 - 1.0;
    let test = TTest { difference, standard_error: error, t: difference / error, df, p: found.p };
    let interval = found.interval(ALPHA);
    Some(tested(Method::Delong, &test, interval.low, interval.high, labels.len(), error * (df + 1.0).sqrt()))
}

fn tested(method: Method, test: &TTest, low: f64, high: f64, examples: usize, sd: f64) -> Tested {
    let count = examples as u64;
    let evidence = Evidence {
        method,
        unit: Unit::Examples,
        count,
        baseline_count: count,
        examples: None,
        level: LEVEL,
        low,
        high,
        p: test.p,
    };
    Tested { evidence, test: *test, sd, more: Unit::Examples }
}
