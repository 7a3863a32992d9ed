//! One value for each metric of a run.

use std::collections::BTreeMap;

use crate::model::outcome::{Aggregate, MemberValue, Number};
use crate::model::{Plan, StepSpec};
use crate::store::attempts::StoredMetric;

/// The metrics of a run, each with the step that reported it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// By (step's base name, metric).
    by_step: BTreeMap<(String, String), Aggregate>,
    /// Which base step a bare name means.
    owner: BTreeMap<String, String>,
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
