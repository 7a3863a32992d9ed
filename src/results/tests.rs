mod examples;
mod intervals;
mod points;

use super::*;
use crate::model::plan::Gate;
use crate::model::{AttemptUid, MetricPoint, Plan, StepId, StepSpec};
use crate::store::attempts::StoredMetric;

fn step(name: &str, base: &str, member: &[(&str, &str)]) -> StepSpec {
    let json = serde_json::json!({
        "name": name, "base": base, "member": member.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "needs": [], "setup": [], "commands": [], "env": {}, "secrets": [], "image": null, "pool": null,
        "resources": {"cpu_milli": null, "memory_bytes": null, "gpu": 0, "shm_bytes": null}, "timeout_ms": 1,
        "retry": {"max": 0, "when": []}, "checkpoint": null, "artifacts": [], "junit": null, "cache": [], "workers": 1,
    });
    serde_json::from_value(json).unwrap()
}

fn plan() -> Plan {
    let steps = vec![
        step("train (seed=1)", "train", &[("seed", "1")]),
        step("train (seed=2)", "train", &[("seed", "2")]),
        step("eval", "eval", &[]),
    ];
    Plan {
        name: "churn".into(),
        file: ".trainyard.yaml".into(),
        when: vec![],
        concurrency: None,
        priority: None,
        timeout_ms: 1,
        steps,
        metrics: crate::model::plan::MetricsSpec::default(),
        report: crate::model::plan::ReportSpec::default(),
        not_run: vec![],
    }
}

fn point(position: i64, seq: i64, name: &str, value: f64, step: Option<i64>) -> StoredMetric {
    StoredMetric {
        attempt_uid: AttemptUid::from_text(format!("a{position}")),
        step_id: StepId::from_text(format!("s{position}")),
        step_position: position,
        step_name: String::new(),
        seq,
        point: MetricPoint { name: name.into(), value, step, at_ms: seq },
    }
}

fn summary(points: &[(i64, &str, f64)]) -> Summary {
    let points: Vec<_> =
        points.iter().enumerate().map(|(i, (at, name, v))| point(*at, i as i64, name, *v, None)).collect();
    summarise(&points, &plan())
}

fn gate(make: impl FnOnce(&mut Gate)) -> Gate {
    let mut gate = Gate::default();
    make(&mut gate);
    gate
}

/// A run whose step `train` has so many seeds, each with a value of the metric.
fn seeds(name: &str, values: &[(&str, f64)]) -> Summary {
    let mut plan = plan();
    plan.steps = values
        .iter()
        .map(|(seed, _)| step(&format!("train (seed={seed})"), "train", &[("seed", seed)]))
        .collect();
    let points: Vec<_> =
        values.iter().enumerate().map(|(i, (_, v))| point(i as i64, 1, name, *v, None)).collect();
    summarise(&points, &plan)
}

fn three(name: &str, values: [f64; 3]) -> Summary {
    seeds(name, &[("1", values[0]), ("2", values[1]), ("3", values[2])])
}
