//! One value for each metric of a run.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::evidence::Tested;
use super::examples::{self, ByMetric, Sheets};
use crate::model::outcome::{Aggregate, MemberValue, Number};
use crate::model::{Plan, StepSpec, params};
use crate::store::attempts::StoredMetric;

/// The parameter by which any training names the data it was tested on.
const TEST_SET_DIGEST: &str = "test_set_digest";

/// The metrics of a run, each with the step that reported it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// By (step's base name, metric).
    by_step: BTreeMap<(String, String), Aggregate>,
    /// Which base step a bare name means.
    owner: BTreeMap<String, String>,
    /// Digests of the data that it was tested on, by name; only what the run itself reported.
    test_sets: BTreeMap<String, BTreeSet<String>>,
    /// Digests of how the examples of predictions belong together, by what that is called: `clusters by user`.
    groups: BTreeMap<String, BTreeSet<String>>,
    /// The step whose sheets were compared with the baseline's, and what that said.
    examples: Option<(String, ByMetric)>,
}

impl Summary {
    /// A bare name means the last step in graph order that reported it; `step:name` picks another.
    pub fn get(&self, name: &str) -> Option<&Aggregate> {
        let of = |step: &str, metric: &str| self.by_step.get(&(step.to_owned(), metric.to_owned()));
        if let Some(step) = self.owner.get(name) {
            return of(step, name);
        }
        let (step, metric) = name.split_once(':')?;
        of(step, metric)
    }
    /// Adds the digests of test sets that are among a run's parameters, as (step, name, value): what MLflow calls the data set of a
    /// context `test` or `eval`, and the parameter `test_set_digest`.
    #[must_use]
    pub fn tested_on(mut self, params: &[params::Reported]) -> Self {
        for (_, name, value) in params {
            let named = match name.strip_prefix("dataset/").and_then(|rest| rest.split_once('/')) {
                Some((context, set)) => {
                    let context = context.to_ascii_lowercase();
                    (context.starts_with("test") || context.starts_with("eval")).then_some(set)
                }
                None => (name == TEST_SET_DIGEST).then_some(TEST_SET_DIGEST),
            };
            if let Some(set) = named {
                self.test_sets.entry(set.to_owned()).or_default().insert(value.clone());
            }
        }
        self
    }
    /// Why this run and another must not be compared: both say what they were tested on, and it differs.
    pub fn other_test_set(&self, other: &Self) -> Option<String> {
        let differs = |(set, digests): &(&String, &BTreeSet<String>)| {
            other.test_sets.get(*set).is_some_and(|o| o != *digests)
        };
        let set = self.test_sets.iter().find(differs).map(|(set, _)| match set.as_str() {
            TEST_SET_DIGEST => "its test set is another one than the baseline's".to_owned(),
            set => format!("its test set {set} is another one than the baseline's"),
        });
        let regrouped = |(name, digests): &(&String, &BTreeSet<String>)| {
            other.groups.get(*name).is_some_and(|o| o != *digests)
        };
        set.or_else(|| {
            let (name, _) = self.groups.iter().find(regrouped)?;
            Some(format!("its {name} are other ones than the baseline's"))
        })
    }
    /// Adds the test set of the run's predictions.
    #[must_use]
    pub fn predicted_on(mut self, sheets: &Sheets) -> Self {
        let digests = sheets.members.iter().map(|(_, sheet)| sheet.test_set.clone());
        self.test_sets.entry(TEST_SET_DIGEST.to_owned()).or_default().extend(digests);
        for (name, codes) in sheets.groups() {
            let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
            self.groups.entry(name).or_default().insert(hex::encode(Sha256::digest(bytes)));
        }
        self
    }
    /// Adds what its predictions say beside those of the baseline that it is about to be held against. Takes seconds for a million
    /// examples.
    #[must_use]
    pub fn with_examples(mut self, this: &Sheets, baseline: &Sheets) -> Self {
        self.examples = Some((this.step.clone(), examples::pair(this, baseline)));
        self
    }
    pub(super) fn examples(&self, name: &str, step: &str) -> Option<&Tested> {
        let (of, found) = self.examples.as_ref()?;
        let bare = name.strip_prefix(&format!("{step}:")).unwrap_or(name);
        (of == step).then(|| found.get(bare)).flatten()
    }
    /// Every bare name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.owner.keys().map(String::as_str)
    }
}

/// Reduces a run's points to one value for each metric: the last point of each member (highest training step, then
/// latest; a point without a training step that came later is a final word and wins), then the mean over the members of
/// one step. Values that are not finite are kept: they spoil the mean on purpose.
pub fn summarise(metrics: &[StoredMetric], plan: &Plan) -> Summary {
    let mut last: BTreeMap<(i64, &str), &StoredMetric> = BTreeMap::new();
    let mut stepped: BTreeMap<(i64, &str), &StoredMetric> = BTreeMap::new();
    for metric in metrics {
        let key = (metric.step_position, metric.point.name.as_str());
        let later = |a: &StoredMetric, b: &StoredMetric| (a.point.at_ms, a.seq) >= (b.point.at_ms, b.seq);
        if metric.point.step.is_some() {
            let entry = stepped.entry(key).or_insert(metric);
            let order = |m: &StoredMetric| (m.point.step, m.point.at_ms, m.seq);
            if order(metric) >= order(entry) {
                *entry = metric;
            }
        } else {
            let entry = last.entry(key).or_insert(metric);
            if later(metric, entry) {
                *entry = metric;
            }
        }
    }
    for (key, metric) in stepped {
        let entry = last.entry(key).or_insert(metric);
        if (metric.point.at_ms, metric.seq) >= (entry.point.at_ms, entry.seq) {
            *entry = metric;
        }
    }

    // `last` is in graph order, so members stay in order and a later step takes over a bare name.
    let mut summary = Summary::default();
    for ((position, name), metric) in last {
        let spec = usize::try_from(position).ok().and_then(|i| plan.steps.get(i));
        let base = spec.map_or_else(|| metric.step_name.clone(), |s| s.base.clone());
        let member = spec.map(member_label).unwrap_or_default();
        summary.owner.insert(name.to_owned(), base.clone());
        summary
            .by_step
            .entry((base.clone(), name.to_owned()))
            .or_insert_with(|| Aggregate { step: base, mean: Number(f64::NAN), values: Vec::new() })
            .values
            .push(MemberValue { member, value: Number(metric.point.value) });
    }
    for aggregate in summary.by_step.values_mut() {
        let sum: f64 = aggregate.values.iter().map(|v| v.value.0).sum();
        aggregate.mean = Number(sum / aggregate.values.len() as f64);
    }
    summary
}

/// `seed=1, lr=0.1`; empty without a matrix.
fn member_label(spec: &StepSpec) -> String {
    spec.member.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
}
