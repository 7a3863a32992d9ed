//! Two runs held against each other example by example, on one test set. Pure.
//!
//! Per-example values of several seeds are averaged over the seeds first, so that an example counts once. What the interval
//! then tells is how far the test set as a sample leaves the change open; what the seeds leave open comes on top (`evidence`).

use std::collections::{BTreeMap, BTreeSet};

use trainyard_data::stats::{self, Interval, Resample, TTest};

use super::evidence::{ALPHA, LEVEL, Tested};
use crate::agent::sheet::{Groups, Sheet};
use crate::model::outcome::{Evidence, GroupKind, Grouping, Method, Unit};

/// Replicates of the bootstrap.
const REPLICATES: usize = 2_000;
/// Of the bootstrap's draws: the same two runs always give the same interval.
const SEED: u64 = 20_261_125;
/// Fewer examples say nothing.
const MIN_EXAMPLES: usize = 50;
/// A bootstrap of fewer clusters holds the truth less often than it says (90 % of 95 at 20 unequal ones, 93 at 60).
const MIN_DRAWN: u64 = 100;
/// Strata of fewer examples count as one: their spread would be a guess.
const MIN_STRATUM: usize = 10;

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

    /// The strata or clusters of every member, as (what they are called, their numbers).
    pub(super) fn groups(&self) -> impl Iterator<Item = (String, &[u32])> {
        self.members.iter().filter_map(|(_, sheet)| sheet.groups.as_ref()).map(|g| match g.kind {
            GroupKind::Strata => (format!("strata by {}", g.column), g.codes.as_slice()),
            GroupKind::Clusters => (format!("clusters by {}", g.column), g.codes.as_slice()),
        })
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
    if first.ids != other.ids || this.members.iter().any(|(_, s)| s.groups != first.groups) {
        return out;
    }
    let design = first.groups.as_ref().map(|g| Design { of: g, codes: g.codes.clone() });
    let alone = this.members.len() == 1 && base.members.len() == 1;
    for (name, _) in &first.means {
        let (Some(b), Some(a)) = (averaged(this, name), averaged(base, name)) else { continue };
        let differences: Vec<f64> = b.iter().zip(&a).map(|(b, a)| b - a).collect();
        let answers = (alone && name == "accuracy").then_some((a.as_slice(), b.as_slice()));
        if let Some(tested) = bootstrap(&differences, answers, design.as_ref()) {
            out.insert(name.clone(), tested);
        }
        for slice in &first.slices {
            for (code, value) in (0_u16..).zip(&slice.values) {
                let of = |x: &[f64]| part(x, &slice.codes, code);
                let (a, b) = (of(&a), of(&b));
                let answers = answers.map(|_| (a.as_slice(), b.as_slice()));
                let design =
                    design.as_ref().map(|d| Design { of: d.of, codes: part(&d.codes, &slice.codes, code) });
                if let Some(tested) = bootstrap(&of(&differences), answers, design.as_ref()) {
                    out.insert(format!("{name}/by/{}={value}", slice.column), tested);
                }
            }
        }
    }
    if let Some(tested) = areas(this, base, design.as_ref()) {
        out.insert("auc".to_owned(), tested);
    }
    out
}

/// The values of one slice.
fn part<T: Copy>(values: &[T], codes: &[u16], code: u16) -> Vec<T> {
    values.iter().zip(codes).filter(|(_, c)| **c == code).map(|(x, _)| *x).collect()
}

/// How the examples, or those of a slice, belong together.
struct Design<'a> {
    of: &'a Groups,
    codes: Vec<u32>,
}

impl Design<'_> {
    fn count(codes: &[u32]) -> usize {
        codes.iter().collect::<BTreeSet<_>>().len()
    }

    /// For the draws, and for people; None: one stratum, which is no stratum.
    fn resample(&self) -> Option<(Vec<u32>, Grouping)> {
        let codes = match self.of.kind {
            GroupKind::Clusters => self.codes.clone(),
            GroupKind::Strata => {
                let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
                self.codes.iter().for_each(|c| *sizes.entry(*c).or_default() += 1);
                let small = |c: &u32| sizes.get(c).is_some_and(|n| *n < MIN_STRATUM);
                self.codes.iter().map(|c| if small(c) { u32::MAX } else { *c }).collect()
            }
        };
        let count = Self::count(&codes) as u64;
        let grouping = Grouping { kind: self.of.kind, by: self.of.column.clone(), count };
        (count > 1 || self.of.kind == GroupKind::Clusters).then_some((codes, grouping))
    }
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

/// The paired bootstrap (bias-corrected and accelerated) of a mean difference, of whole clusters or within strata where there are such; for right
/// and wrong answers of one model a side, where no clusters tie them together, the p-value is McNemar's. Fewer
/// clusters than a bootstrap needs get the jackknife's error and the t distribution.
fn bootstrap(
    differences: &[f64],
    answers: Option<(&[f64], &[f64])>,
    design: Option<&Design<'_>>,
) -> Option<Tested> {
    if differences.len() < MIN_EXAMPLES {
        return None;
    }
    let grouping = design.and_then(Design::resample);
    let resample = match &grouping {
        None => Resample::Plain,
        Some((codes, of)) if of.kind == GroupKind::Clusters => Resample::Clustered(codes),
        Some((codes, _)) => Resample::Stratified(codes),
    };
    // None: no example differs, or all by the same, or there is one cluster: nothing is left to chance, or nothing is known of it.
    let mut test = stats::mean_test(differences, resample)?;
    let grouping = grouping.as_ref().map(|(_, of)| of);
    let clusters = grouping.filter(|g| g.kind == GroupKind::Clusters).map(|g| g.count);
    let (method, interval) = if clusters.is_some_and(|n| n < MIN_DRAWN) {
        (Method::ClusterT, test.interval(ALPHA))
    } else {
        let drawn = stats::paired_bootstrap(differences, resample, REPLICATES, ALPHA, SEED)?;
        (Method::Bootstrap, drawn.bca)
    };
    let method = match answers {
        Some((a, b)) if clusters.is_none() => {
            let only =
                |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| **x > 0.5 && **y < 0.5).count() as u64;
            test.p = stats::mcnemar_exact(only(a, b), only(b, a));
            Method::Mcnemar
        }
        _ => method,
    };
    Some(tested(method, test, interval, differences.len(), grouping))
}

/// The scores of each member; None when one has none.
fn scores(side: &Sheets) -> Option<Vec<&[f64]>> {
    side.members
        .iter()
        .map(|(_, sheet)| sheet.ranking.as_ref().map(|(scores, _)| scores.as_slice()))
        .collect()
}

/// Strata make no difference here: the comparison takes the numbers of both classes as they are anyway.
fn areas(this: &Sheets, base: &Sheets, design: Option<&Design<'_>>) -> Option<Tested> {
    let (_, labels) = this.members.first()?.1.ranking.as_ref()?;
    if labels.len() < MIN_EXAMPLES {
        return None;
    }
    let (before, now) = (scores(base)?, scores(this)?);
    let clusters = design.filter(|d| d.of.kind == GroupKind::Clusters).and_then(Design::resample);
    let found = match &clusters {
        Some((codes, _)) => stats::delong_clustered(labels, &before, &now, codes)?,
        None => stats::delong_means(labels, &before, &now)?,
    };
    let error = (found.variance_a + found.variance_b - 2.0 * found.covariance).max(0.0).sqrt();
    if error <= 0.0 {
        return None;
    }
    let difference = found.auc_b - found.auc_a;
    let t = difference / error;
    let Some((_, grouping)) = &clusters else {
        let test = TTest { difference, standard_error: error, t, df: labels.len() as f64 - 1.0, p: found.p };
        return Some(tested(Method::Delong, test, found.interval(ALPHA), labels.len(), None));
    };
    let df = grouping.count as f64 - 1.0;
    let test = TTest { difference, standard_error: error, t, df, p: stats::special::t_two_sided(t, df) };
    Some(tested(Method::Delong, test, test.interval(ALPHA), labels.len(), Some(grouping)))
}

fn tested(
    method: Method,
    test: TTest,
    interval: Interval,
    examples: usize,
    groups: Option<&Grouping>,
) -> Tested {
    let count = examples as u64;
    // What a wider test set would have more of.
    let (more, of) = match groups {
        Some(g) if g.kind == GroupKind::Clusters => (Unit::Clusters, g.count),
        _ => (Unit::Examples, count),
    };
    let evidence = Evidence {
        method,
        unit: Unit::Examples,
        count,
        baseline_count: count,
        examples: None,
        groups: groups.cloned(),
        level: LEVEL,
        low: interval.low,
        high: interval.high,
        p: test.p,
    };
    Tested { evidence, test, sd: test.standard_error * (of as f64).sqrt(), more }
}
