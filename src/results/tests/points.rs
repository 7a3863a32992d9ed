//! Summaries, and gates over point values.

use super::*;
use crate::model::outcome::Change;
use crate::model::plan::{GateEvidence, Reference};
use crate::model::{Goal, Outcome, Tolerance, Verdict};

#[test]
fn a_metrics_value_is_its_last_and_members_are_averaged() {
    let s = summarise(
        &[
            point(0, 1, "loss", 0.9, Some(1)),
            point(0, 2, "loss", 0.5, Some(3)),
            point(0, 3, "loss", 0.7, Some(2)), // arrived later, but an earlier training step
            point(1, 1, "loss", 0.3, Some(1)),
            point(0, 4, "acc", 0.1, Some(9)),
            point(0, 5, "acc", 0.8, None), // the final word
            point(2, 1, "acc", 0.82, None),
        ],
        &plan(),
    );
    assert!((s.get("loss").unwrap().value() - 0.4).abs() < 1e-12);
    assert_eq!(
        s.get("loss").unwrap().values.iter().map(|v| v.member.as_str()).collect::<Vec<_>>(),
        ["seed=1", "seed=2"]
    );
    // Two steps report `acc`: the last in graph order counts, the other has a name of its own.
    assert_eq!(s.get("acc").unwrap().step, "eval");
    assert_eq!(s.get("train:acc").unwrap().value(), 0.8);
    assert!(s.get("eval:loss").is_none() && s.get("nothing").is_none());
}

#[test]
fn a_value_that_is_not_finite_is_kept() {
    let s = summary(&[(0, "loss", f64::NAN), (1, "loss", 0.3)]);
    assert!(s.get("loss").unwrap().value().is_nan());
    assert_eq!(s.get("loss").unwrap().values.len(), 2);
}

#[test]
fn gates_judge_point_values() {
    use Verdict::{Fail, Inconclusive, Pass};
    let relative = |x| Some(Tolerance::Relative(x));
    // (metric, this, baseline, gate, verdict)
    let min = gate(|g| g.min = Some(0.8));
    let max = gate(|g| g.max = Some(40.0));
    let keep = gate(|g| g.no_worse_than = relative(0.005));
    let keep_points = gate(|g| g.no_worse_than = Some(Tolerance::Points(1.0)));
    let keep_loss = gate(|g| (g.goal, g.no_worse_than) = (Some(Goal::Min), relative(0.02)));
    let grow = gate(|g| g.improve_by = Some(Tolerance::Absolute(0.01)));
    let warn = gate(|g| (g.min, g.warn_only) = (Some(0.9), true));
    let both = gate(|g| (g.min, g.improve_by) = (Some(0.9), relative(0.01)));
    let nan = f64::NAN;
    let cases: &[(&str, Option<f64>, Option<f64>, &Gate, Verdict, Verdict)] = &[
        ("accuracy", Some(0.81), None, &min, Pass, Pass),
        ("accuracy", Some(0.80), None, &min, Pass, Pass),
        ("accuracy", Some(0.79), None, &min, Fail, Fail),
        ("latency_ms", Some(40.0), None, &max, Pass, Pass),
        ("latency_ms", Some(40.1), None, &max, Fail, Fail),
        ("accuracy", Some(0.796), Some(0.8), &keep, Pass, Pass), // exactly at the edge
        ("accuracy", Some(0.7959), Some(0.8), &keep, Fail, Fail),
        ("accuracy", Some(0.79), Some(0.8), &keep_points, Pass, Pass),
        ("accuracy", Some(0.7899), Some(0.8), &keep_points, Fail, Fail),
        ("cost", Some(1.02), Some(1.0), &keep_loss, Pass, Pass),
        ("cost", Some(1.03), Some(1.0), &keep_loss, Fail, Fail),
        ("cost", Some(0.5), Some(1.0), &keep_loss, Pass, Pass),
        ("accuracy", Some(0.81), Some(0.8), &grow, Pass, Pass),
        ("accuracy", Some(0.8099), Some(0.8), &grow, Fail, Fail),
        ("accuracy", Some(0.81), None, &keep, Inconclusive, Inconclusive),
        ("accuracy", Some(0.81), Some(nan), &keep, Inconclusive, Inconclusive),
        ("accuracy", Some(nan), Some(0.8), &keep, Fail, Fail),
        ("accuracy", Some(f64::INFINITY), None, &min, Fail, Fail),
        ("accuracy", None, Some(0.8), &keep, Fail, Fail),
        ("accuracy", None, None, &min, Fail, Fail),
        ("accuracy", Some(0.8), None, &warn, Fail, Pass), // only warns
        ("accuracy", Some(0.8), None, &both, Fail, Fail), // a failure outweighs what cannot be said
        ("delta", Some(0.1), Some(0.0), &keep, Pass, Pass), // a zero baseline divides nothing
    ];
    for (n, (name, this, base, gate, verdict, run)) in cases.iter().enumerate() {
        let side = |v: &Option<f64>| summary(&v.map(|v| (2, *name, v)).into_iter().collect::<Vec<_>>());
        let baseline = base.map(|_| side(base));
        let out = compare(&side(this), baseline.as_ref(), &[((*name).to_owned(), (*gate).clone())], None);
        assert_eq!(out.metrics.len(), 1, "case {n}");
        let judged = out.metrics[0].gate.as_ref().unwrap();
        assert_eq!((judged.verdict, out.verdict), (*verdict, *run), "case {n}: {:?}", judged.reasons);
        assert_eq!(judged.reasons.is_empty(), *verdict == Pass, "case {n}");
        let back: Outcome = serde_json::from_str(&serde_json::to_string(&out).unwrap()).unwrap();
        assert_eq!((back.verdict, &back.metrics[0].gate), (out.verdict, &out.metrics[0].gate), "case {n}");
    }
    println!("FIGURE gate_cases={} failed=0", cases.len());
}

#[test]
fn a_metric_that_only_the_baseline_lacks_is_inconclusive_and_rows_keep_their_order() {
    let gates = vec![
        ("f1/by/*".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Relative(0.02)))),
        ("f1/by/age".to_owned(), gate(|g| g.min = Some(0.1))),
        ("accuracy".to_owned(), gate(|g| g.min = Some(0.5))),
        ("ghost/*".to_owned(), gate(|g| g.warn_only = true)),
    ];
    let this = summary(&[
        (2, "f1/by/plan", 0.7),
        (2, "f1/by/age", 0.6),
        (2, "accuracy", 0.8),
        (2, "auc", 0.9),
        (0, "loss", 0.2),
    ]);
    let base = summary(&[(2, "f1/by/age", 0.6), (2, "accuracy", 0.7), (0, "loss", 0.3)]);
    let out = compare(&this, Some(&base), &gates, Some("accuracy"));
    let names: Vec<_> = out.metrics.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["accuracy", "f1/by/plan", "f1/by/age", "ghost/*", "auc", "loss"]);
    assert_eq!(out.verdict, Verdict::Inconclusive);
    assert_eq!(
        out.reasons,
        ["f1/by/plan was not reported by the baseline", "ghost/* was not reported by this run"]
    );
    let loss = out.metrics.last().unwrap();
    assert_eq!((loss.goal, loss.assumed, loss.better), (Goal::Min, true, Some(Change::Better)));
    assert!((loss.relative.unwrap() + 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn a_reason_says_how_far_and_from_what() {
    let gates = vec![("accuracy".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Relative(0.005))))];
    let out = compare(
        &summary(&[(2, "accuracy", 0.7721)]),
        Some(&summary(&[(2, "accuracy", 0.8481)])),
        &gates,
        None,
    );
    assert_eq!(
        out.reasons,
        ["accuracy is 0.076 (8.96%) worse than the baseline 0.8481; it may be worse by at most 0.5%"]
    );
}

/// A reference score is a limit on the side that the metric's direction says, by the mean or by its interval.
#[test]
fn a_benchmark_is_not_to_be_behind() {
    use Verdict::{Fail, Inconclusive, Pass};
    let of = |benchmark: &str, value| Reference { benchmark: benchmark.into(), value };
    let beats = |goal, value, evidence| {
        gate(|g| (g.goal, g.beats, g.evidence) = (Some(goal), vec![of("published", value)], evidence))
    };
    let three = [(0, "accuracy", 0.80), (1, "accuracy", 0.82)];
    let cases = [
        (beats(Goal::Max, 0.81, None), Pass, ""),
        (beats(Goal::Max, 0.812, None), Fail, "accuracy is 0.81, behind the benchmark published: 0.812"),
        (beats(Goal::Min, 0.82, None), Pass, ""),
        (beats(Goal::Min, 0.80, None), Fail, "accuracy is 0.81, behind the benchmark published: 0.8"),
        (beats(Goal::Max, 0.2, Some(GateEvidence::Interval)), Pass, ""),
        (
            beats(Goal::Max, 0.8, Some(GateEvidence::Interval)),
            Inconclusive,
            "accuracy is 0.81 (95 % CI 0.682938 … 0.937062, 2 seeds): it may be behind the benchmark published: 0.8",
        ),
    ];
    for (gate, verdict, reason) in cases {
        let outcome = compare(&summary(&three), None, &[("accuracy".to_owned(), gate)], None);
        assert_eq!((outcome.verdict, outcome.reasons.join("; ").as_str()), (verdict, reason));
    }
    let known = std::collections::BTreeMap::from([("accuracy".to_owned(), vec![of("people", 0.95)])]);
    let outcome = compare(&summary(&three), None, &[], None).beside(&known);
    assert_eq!(outcome.metrics[0].benchmarks, [of("people", 0.95)]);
}
