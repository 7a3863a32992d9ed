//! How sure a change is: from the values behind two means to an interval of their difference. Pure.
//!
//! What stands behind the values decides the test: repeated trainings that both runs have are paired, others are not, folds of one
//! data set overlap in what they train on. Nothing is resampled here: with a handful of seeds the t distribution is the
//! honest answer (three against three can be split in 20 ways, so no permutation of them ever reaches 5 %).
//!
//! Must not: know of margins or gates.

use trainyard_data::stats::{self, TTest};

use crate::model::outcome::{Aggregate, Evidence, Method, Unit};

/// Two-sided level of all intervals.
pub const LEVEL: f64 = 0.95;
pub(super) const ALPHA: f64 = 1.0 - LEVEL;

/// Words in the name of a matrix key whose members repeat one training. Members of other matrices are different models,
/// and their spread says nothing of chance.
const REPEATS: &[&str] = &["seed", "seeds", "repeat", "rep", "replicate", "trial", "state", "fold", "split"];
const FOLDS: &[&str] = &["fold", "split"];

/// An interval with what more of the same would do to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tested {
    pub evidence: Evidence,
    pub test: TTest,
    /// Standard deviation of what is averaged: of the pairs' differences, else of one side's values.
    pub sd: f64,
    /// What more of would make it narrower.
    pub more: Unit,
}

impl Tested {
    /// How many seeds of the same spread would tell the change from `-margin`, at 80 % power; None: no number would.
    pub fn needed(&self, distance: f64) -> Option<u64> {
        let per_side = stats::needed_per_side(distance, self.sd, ALPHA, 0.8)?;
        Some(match self.evidence.method {
            Method::WelchT => per_side,
            // One sample of differences instead of two samples: half of it, and two more for the fewer degrees of freedom.
            _ => per_side.div_ceil(2) + 2,
        })
    }
}

/// The interval of `candidate - baseline`, or in a few words why there is none. Both are finite.
pub(super) fn of_seeds(candidate: &Aggregate, baseline: &Aggregate) -> Result<Tested, &'static str> {
    let (b, a) = (values(candidate), values(baseline));
    if a.len() < 2 || b.len() < 2 {
        return Err("unreplicated");
    }
    let labels = |side: &Aggregate| side.values.iter().map(|v| v.member.clone()).collect::<Vec<_>>();
    let (this, other) = (labels(candidate), labels(baseline));
    if !this.iter().chain(&other).all(|label| has_key(label, REPEATS)) {
        return Err("no seeds among the members");
    }
    let alike = |x: &[f64]| x.iter().all(|v| *v == x[0]);
    if alike(&a) && alike(&b) {
        return Err("all seeds alike");
    }
    let folds = this.iter().any(|label| has_key(label, FOLDS));
    let paired = pairs(&this, &b, &other, &a);
    let (test, method, sd) = if let Some(differences) = &paired {
        let sd = stats::variance(differences, 1).sqrt();
        // Of k folds, each is tested on one share and trained on the k - 1 others.
        let overlap = if folds { 1.0 / (differences.len() as f64 - 1.0) } else { 0.0 };
        let method = if folds { Method::NadeauBengio } else { Method::PairedT };
        (stats::nadeau_bengio(differences, overlap), method, sd)
    } else {
        let sd = f64::midpoint(stats::variance(&a, 1), stats::variance(&b, 1)).sqrt();
        (stats::welch_t(&a, &b), Method::WelchT, sd)
    };
    let test = test.ok_or("unreplicated")?;
    // Every pair differs by the same amount: exactly repeatable, so there is no chance to be judged.
    if test.standard_error <= 1e-12 * test.difference.abs() {
        return Err("all seeds differ alike");
    }
    let interval = test.interval(ALPHA);
    if !(interval.low.is_finite() && interval.high.is_finite()) {
        return Err("the spread is not a finite number");
    }
    let evidence = Evidence {
        method,
        unit: if folds { Unit::Folds } else { Unit::Seeds },
        count: b.len() as u64,
        baseline_count: a.len() as u64,
        examples: None,
        groups: None,
        level: LEVEL,
        low: interval.low,
        high: interval.high,
        p: test.p,
    };
    let more = evidence.unit;
    Ok(Tested { evidence, test, sd, more })
}

/// What seeds and examples say together, each of its own source of chance: which seeds were trained, and which examples were
/// there to test on. Their variances add; the degrees of freedom are Satterthwaite's.
pub(super) fn together(seeds: &Tested, examples: &Tested) -> Option<Tested> {
    let (s, e) = (seeds.test.standard_error.powi(2), examples.test.standard_error.powi(2));
    let total = s + e;
    let df = total * total / (s * s / seeds.test.df + e * e / examples.test.df);
    let error = total.sqrt();
    let difference = seeds.test.difference;
    let t = difference / error;
    if !(error > 0.0 && df.is_finite()) {
        return None;
    }
    let test = TTest { difference, standard_error: error, t, df, p: stats::special::t_two_sided(t, df) };
    let interval = test.interval(ALPHA);
    let evidence = Evidence {
        method: Method::SeedsAndExamples,
        examples: Some(examples.evidence.count),
        groups: examples.evidence.groups.clone(),
        low: interval.low,
        high: interval.high,
        p: test.p,
        ..seeds.evidence.clone()
    };
    // More of what the larger part comes from helps most.
    let (sd, unit) = if s >= e { (seeds.sd, seeds.evidence.unit) } else { (examples.sd, examples.more) };
    Some(Tested { evidence: Evidence { unit: seeds.evidence.unit, ..evidence }, test, sd, more: unit })
}

/// The interval of one side's mean, for floors and ceilings that must hold beyond doubt; None where its values are no repeats.
pub fn of_mean(side: &Aggregate) -> Option<stats::Interval> {
    let values = values(side);
    let repeated = side.values.iter().all(|v| has_key(&v.member, REPEATS));
    (values.len() >= 2 && repeated)
        .then(|| stats::paired_t(&vec![0.0; values.len()], &values))
        .flatten()
        .map(|test| test.interval(ALPHA))
}

fn values(side: &Aggregate) -> Vec<f64> {
    side.values.iter().map(|v| v.value.0).collect()
}

/// `seed=1, lr=0.1` has the keys `seed` and `lr`; a key counts by its words, so `data_seed` is a seed.
fn has_key(label: &str, words: &[&str]) -> bool {
    label.split(", ").filter_map(|part| part.split_once('=')).any(|(key, _)| {
        let key = key.to_ascii_lowercase();
        key.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| words.contains(&word))
    })
}

/// Candidate minus baseline for each member, when both sides have the very same ones, each once.
fn pairs(this: &[String], b: &[f64], other: &[String], a: &[f64]) -> Option<Vec<f64>> {
    let sorted = |labels: &[String]| {
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        labels
    };
    let mine = sorted(this);
    if mine != sorted(other) || mine.windows(2).any(|w| w[0] == w[1]) {
        return None;
    }
    let of = |label: &String| other.iter().position(|o| o == label).map(|at| a[at]);
    this.iter().zip(b).map(|(label, value)| Some(value - of(label)?)).collect()
}
