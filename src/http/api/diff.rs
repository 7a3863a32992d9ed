//! Two runs side by side: parameters, metrics, plan, durations. Nothing is judged here: gates and baselines are comparisons.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi::Refusals;
use super::{Answer, POINTS_MAX, run_for};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::extract::{Path, Query};
use crate::model::{Plan, params};
use crate::results::{self, Summary, summarise};
use crate::store::attempts::StoredMetric;
use crate::store::runs::{RunView, StepRow};

/// The plan of a run
///
/// As it was read from the repository when the run was made: steps, needs, gates.
#[utoipa::path(get, path = "/api/v1/runs/{run}/plan", tag = "runs",
    params(("run" = String, Path, description = "The run's id, or its first eight or more characters")),
    responses((status = 200, description = "The checked pipeline", body = Object), Refusals))]
pub async fn plan(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Plan> {
    Ok(Json(run_for(&web, &who, &id).await?.view.run.plan))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DiffQuery {
    /// The other run: its id, or its first eight or more characters.
    pub with: String,
}

/// What differs; what is equal is left out, but for metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunDiff {
    pub a: String,
    pub b: String,
    pub params: Vec<ParamDiff>,
    pub metrics: Vec<MetricDiff>,
    /// Means over the members of a step, where seeds or folds say how sure the change is.
    #[serde(default)]
    pub intervals: Vec<IntervalDiff>,
    pub plan: Vec<PlanDiff>,
    pub durations: Vec<DurationDiff>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ParamDiff {
    pub name: String,
    pub a: Option<String>,
    pub b: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricDiff {
    pub step: String,
    pub name: String,
    /// Last values; null where there is none or it is not finite.
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// `b - a`.
    pub delta: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IntervalDiff {
    pub step: String,
    pub name: String,
    /// Means.
    pub a: f64,
    pub b: f64,
    /// `b - a`.
    pub delta: f64,
    /// Ends of the interval of `delta`.
    pub low: f64,
    pub high: f64,
    /// Two-sided: 0.95.
    pub level: f64,
    /// `paired_t`, `welch_t` or `nadeau_bengio`.
    pub method: String,
    /// What it rests on: `3 seeds, paired`.
    pub basis: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanDiff {
    /// Step and key: `train.commands`, `metrics.gates`.
    pub at: String,
    /// As JSON; null: absent.
    #[schema(value_type = Option<Object>)]
    pub a: serde_json::Value,
    #[schema(value_type = Option<Object>)]
    pub b: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DurationDiff {
    pub step: String,
    pub a_ms: Option<Millis>,
    pub b_ms: Option<Millis>,
}

/// Two runs side by side
#[utoipa::path(get, path = "/api/v1/runs/{run}/diff", tag = "runs",
    params(("run" = String, Path, description = "The run's id, or its first eight or more characters"), DiffQuery),
    responses((status = 200, description = "What differs", body = RunDiff), Refusals))]
pub async fn diff(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(query): Query<DiffQuery>,
) -> Answer<RunDiff> {
    let a = run_for(&web, &who, &id).await?.view;
    let b = run_for(&web, &who, &query.with).await?.view;
    let store = &web.app.store;
    let mut values = Vec::new();
    for view in [&a, &b] {
        values.push(Values {
            params: store.run_params(&view.run.id).await?,
            // The last points are what counts; of long curves the rest is left out.
            metrics: store.sample_metrics(&view.run.id, None, 200, POINTS_MAX).await?,
            means: summarise(&store.last_metrics(&view.run.id).await?, &view.run.plan),
        });
    }
    Ok(Json(compare(&a, &values[0], &b, &values[1])))
}

struct Values {
    params: Vec<params::Reported>,
    metrics: Vec<StoredMetric>,
    means: Summary,
}

/// The changes that have an interval, by name.
fn intervals(a: &Summary, b: &Summary) -> Vec<IntervalDiff> {
    let found = results::compare(b, Some(a), &[], None).metrics.into_iter().filter_map(|m| {
        let (a, b, evidence) = (m.baseline?, m.candidate?, m.evidence?);
        Some(IntervalDiff {
            step: b.step.clone(),
            name: m.name,
            a: a.value(),
            b: b.value(),
            delta: m.delta?,
            low: evidence.low,
            high: evidence.high,
            level: evidence.level,
            method: evidence.method.word().to_owned(),
            basis: evidence.basis(),
        })
    });
    found.collect()
}

fn compare(a: &RunView, of_a: &Values, b: &RunView, of_b: &Values) -> RunDiff {
    let changed = params::lines(&of_b.params, &of_a.params).into_iter().filter(params::ParamLine::changed);
    let params = changed.map(|line| ParamDiff { name: line.label, a: line.baseline, b: line.this }).collect();
    let (mine, theirs) = (last_values(&of_a.metrics), last_values(&of_b.metrics));
    let keys: BTreeSet<&(String, String)> = mine.keys().chain(theirs.keys()).collect();
    let metrics = keys.into_iter().map(|key| {
        let value = |side: &BTreeMap<(String, String), f64>| side.get(key).copied().filter(|v| v.is_finite());
        let (a, b) = (value(&mine), value(&theirs));
        MetricDiff { name: key.0.clone(), step: key.1.clone(), a, b, delta: a.zip(b).map(|(a, b)| b - a) }
    });
    RunDiff {
        a: a.run.id.to_string(),
        b: b.run.id.to_string(),
        params,
        metrics: metrics.collect(),
        intervals: intervals(&of_a.means, &of_b.means),
        plan: plan_diff(&a.run.plan, &b.run.plan),
        durations: durations(a, b),
    }
}

/// Newest value by (metric, step): highest training step, then latest.
fn last_values(metrics: &[StoredMetric]) -> BTreeMap<(String, String), f64> {
    let mut newest: BTreeMap<(String, String), &StoredMetric> = BTreeMap::new();
    for m in metrics {
        let rank = |m: &StoredMetric| (m.point.step, m.point.at_ms, m.seq);
        let kept = newest.entry((m.point.name.clone(), m.step_name.clone())).or_insert(m);
        if rank(m) >= rank(kept) {
            *kept = m;
        }
    }
    newest.into_iter().map(|(key, m)| (key, m.point.value)).collect()
}

/// Keys of a plan and of its steps that differ.
fn plan_diff(a: &Plan, b: &Plan) -> Vec<PlanDiff> {
    let (a, b) = (flat(a), flat(b));
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let side =
        |map: &BTreeMap<String, serde_json::Value>, key: &String| map.get(key).cloned().unwrap_or_default();
    keys.into_iter()
        .map(|at| PlanDiff { at: at.clone(), a: side(&a, at), b: side(&b, at) })
        .filter(|d| d.a != d.b)
        .collect()
}

fn flat(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let mut out = BTreeMap::new();
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(plan) else { return out };
    for (key, value) in all {
        match value {
            serde_json::Value::Array(steps) if key == "steps" => {
                for step in steps {
                    let name = step.get("name").and_then(|n| n.as_str()).unwrap_or_default().to_owned();
                    let serde_json::Value::Object(fields) = step else { continue };
                    out.extend(fields.into_iter().map(|(field, value)| (format!("{name}.{field}"), value)));
                }
            }
            serde_json::Value::Object(fields) => {
                out.extend(fields.into_iter().map(|(field, value)| (format!("{key}.{field}"), value)));
            }
            value => {
                out.insert(key, value);
            }
        }
    }
    out
}

fn durations(a: &RunView, b: &RunView) -> Vec<DurationDiff> {
    let took = |s: &StepRow| Some(s.ended_ms? - s.started_ms?);
    let whole = |v: &RunView| Some(v.run.ended_ms? - v.run.started_ms?);
    let mut names: Vec<&str> = a.steps.iter().map(|s| s.name.as_str()).collect();
    names.extend(b.steps.iter().map(|s| s.name.as_str()).filter(|n| !a.steps.iter().any(|s| s.name == *n)));
    let of = |view: &RunView, name: &str| view.steps.iter().find(|s| s.name == name).and_then(took);
    let mut out = vec![DurationDiff { step: String::new(), a_ms: whole(a), b_ms: whole(b) }];
    out.extend(names.into_iter().map(|name| DurationDiff {
        step: name.to_owned(),
        a_ms: of(a, name),
        b_ms: of(b, name),
    }));
    out
}
