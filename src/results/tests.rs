use super::*;
use crate::agent::sheet::{Groups, Sheet, Slice};
use crate::model::outcome::{Change, GroupKind, Method, Unit};
use crate::model::plan::{Gate, GateEvidence, Reference};
use crate::model::{AttemptUid, Goal, MetricPoint, Outcome, Plan, StepId, StepSpec, Tolerance, Verdict};
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

fn gate(make: impl FnOnce(&mut Gate)) -> Gate {
    let mut gate = Gate::default();
    make(&mut gate);
    gate
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

const A: [f64; 5] = [0.8421, 0.8397, 0.8452, 0.8433, 0.8410];
const B: [f64; 5] = [0.8475, 0.8461, 0.8490, 0.8439, 0.8482];

fn five(values: [f64; 5], names: [&'static str; 5]) -> Summary {
    let all: Vec<_> = names.into_iter().zip(values).collect();
    seeds("accuracy", &all)
}

/// The values were computed with scipy 1.x: `ttest_rel(B, A)`, `ttest_ind(B, A, equal_var=False)`.
#[test]
fn seeds_that_both_have_are_paired_and_others_are_not() {
    let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-12, "{x} is not {y}");
    let same = ["1", "2", "3", "4", "5"];
    let one = compare(&five(B, same), Some(&five(A, same)), &[], None);
    let evidence = one.metrics[0].evidence.clone().unwrap();
    assert_eq!((evidence.method, evidence.basis()), (Method::PairedT, "5 seeds, paired".to_owned()));
    near(evidence.p, 0.016_002_830_178_910_903);

    let other = compare(&five(B, same), Some(&five(A, ["6", "7", "8", "9", "10"])), &[], None);
    let evidence = other.metrics[0].evidence.clone().unwrap();
    assert_eq!((evidence.method, evidence.basis()), (Method::WelchT, "5 seeds a side".to_owned()));
    near(evidence.p, 0.007_114_982_539_015_656_5);
    near(evidence.low, 0.001_672_577_495_129_174_8);
    near(evidence.high, 0.007_687_422_504_870_638);

    // Whatever order the members come in, each is held against its own.
    let mixed = compare(
        &five([B[4], B[3], B[2], B[1], B[0]], ["5", "4", "3", "2", "1"]),
        Some(&five(A, same)),
        &[],
        None,
    );
    near(mixed.metrics[0].evidence.as_ref().unwrap().p, 0.016_002_830_178_910_903);
}

#[test]
fn folds_share_what_they_train_on() {
    let folds = |values: [f64; 5]| {
        let mut plan = plan();
        let members = ["0", "1", "2", "3", "4"];
        plan.steps = members.iter().map(|f| step(&format!("cv (fold={f})"), "cv", &[("fold", f)])).collect();
        let points: Vec<_> =
            values.iter().enumerate().map(|(i, v)| point(i as i64, 1, "accuracy", *v, None)).collect();
        summarise(&points, &plan)
    };
    let out = compare(&folds(B), Some(&folds(A)), &[], None);
    let evidence = out.metrics[0].evidence.clone().unwrap();
    assert_eq!((evidence.method, evidence.basis()), (Method::NadeauBengio, "5 folds, paired".to_owned()));
    // The variance is taken times 1/5 + 1/4 instead of 1/5: the interval is 1.5 times as wide.
    let paired =
        compare(&five(B, ["1", "2", "3", "4", "5"]), Some(&five(A, ["1", "2", "3", "4", "5"])), &[], None);
    let plain = paired.metrics[0].evidence.clone().unwrap();
    assert!(((evidence.high - evidence.low) / (plain.high - plain.low) - 1.5).abs() < 1e-9);
}

#[test]
fn a_gate_is_held_against_the_interval_where_there_is_one() {
    use Verdict::{Fail, Inconclusive, Pass};
    let keep = |x| gate(|g| g.no_worse_than = Some(Tolerance::Absolute(x)));
    let point = |x| {
        gate(|g| (g.no_worse_than, g.evidence) = (Some(Tolerance::Absolute(x)), Some(GateEvidence::Point)))
    };
    let grow = |x| gate(|g| g.improve_by = Some(Tolerance::Absolute(x)));
    let floor = |x| gate(|g| g.min = Some(x));
    let sure = |x| gate(|g| (g.min, g.evidence) = (Some(x), Some(GateEvidence::Interval)));
    let ceiling = |x| gate(|g| (g.max, g.evidence) = (Some(x), Some(GateEvidence::Interval)));
    let base = [0.800, 0.802, 0.804];
    // (this, gate, verdict, by the interval, more seeds named)
    let cases: &[([f64; 3], Gate, Verdict, bool, bool)] = &[
        ([0.801, 0.803, 0.805], keep(0.01), Pass, false, false), // all differ alike: nothing left to chance
        ([0.801, 0.804, 0.804], keep(0.01), Pass, true, false),
        ([0.790, 0.801, 0.809], keep(0.005), Inconclusive, true, true), // −0.002, but anything from −0.026 to +0.022
        ([0.790, 0.801, 0.809], point(0.005), Pass, false, false),
        ([0.790, 0.801, 0.809], keep(0.05), Pass, true, false),
        ([0.780, 0.781, 0.786], keep(0.005), Fail, true, false),
        ([0.795, 0.789, 0.798], keep(0.005), Inconclusive, true, true), // −0.008 is beyond, but not beyond doubt
        ([0.795, 0.789, 0.798], point(0.005), Fail, false, false),
        ([0.820, 0.823, 0.823], grow(0.01), Pass, true, false),
        ([0.820, 0.812, 0.815], grow(0.01), Inconclusive, true, true),
        ([0.803, 0.806, 0.806], grow(0.01), Fail, true, false),
        ([0.801, 0.804, 0.804], floor(0.802), Pass, false, false), // a floor is of the mean
        ([0.801, 0.804, 0.804], sure(0.802), Inconclusive, true, false),
        ([0.801, 0.804, 0.804], sure(0.790), Pass, true, false),
        ([0.801, 0.804, 0.804], sure(0.82), Fail, true, false),
        ([0.801, 0.804, 0.804], ceiling(0.82), Pass, true, false),
        ([0.801, 0.804, 0.804], ceiling(0.79), Fail, true, false),
    ];
    for (n, (this, gate, verdict, interval, more)) in cases.iter().enumerate() {
        let out = compare(
            &three("accuracy", *this),
            Some(&three("accuracy", base)),
            &[("accuracy".to_owned(), gate.clone())],
            None,
        );
        let judged = out.metrics[0].gate.as_ref().unwrap();
        assert_eq!(
            (judged.verdict, judged.by_interval, judged.needed.is_some()),
            (*verdict, *interval, *more),
            "case {n}: {:?}",
            judged.reasons
        );
        assert_eq!(judged.reasons.is_empty(), *verdict == Pass, "case {n}");
    }
    println!("FIGURE interval_gate_cases={} failed=0", cases.len());
}

#[test]
fn what_is_not_replicated_is_judged_by_its_point_unless_the_gate_wants_more() {
    let keep = gate(|g| g.no_worse_than = Some(Tolerance::Absolute(0.01)));
    let strict = gate(|g| {
        (g.no_worse_than, g.evidence) = (Some(Tolerance::Absolute(0.01)), Some(GateEvidence::Interval));
    });
    let one = |v| seeds("accuracy", &[("1", v)]);
    let held = |gate: &Gate, this: &Summary, base: &Summary| {
        let out = compare(this, Some(base), &[("accuracy".to_owned(), gate.clone())], None);
        let metric = out.metrics[0].clone();
        assert!(metric.evidence.is_none());
        (metric.no_evidence, out.verdict, out.reasons)
    };
    let (why, verdict, _) = held(&keep, &one(0.795), &one(0.8));
    assert_eq!((why.as_str(), verdict), ("unreplicated", Verdict::Pass));
    let (_, verdict, reasons) = held(&strict, &one(0.795), &one(0.8));
    assert_eq!(verdict, Verdict::Inconclusive);
    assert_eq!(
        reasons,
        ["accuracy has no interval (unreplicated): a matrix of three seeds or more gives one"]
    );
    let (why, verdict, _) = held(&keep, &three("accuracy", [0.8; 3]), &three("accuracy", [0.8; 3]));
    assert_eq!((why.as_str(), verdict), ("all seeds alike", Verdict::Pass));

    // Members of another matrix are other models: their spread is not chance.
    let mut plan = plan();
    plan.steps =
        ["a", "b"].iter().map(|m| step(&format!("train (kind={m})"), "train", &[("kind", m)])).collect();
    let of = |x: f64, y: f64| {
        summarise(&[point(0, 1, "accuracy", x, None), point(1, 1, "accuracy", y, None)], &plan)
    };
    let (why, verdict, _) = held(&keep, &of(0.7, 0.9), &of(0.65, 0.95));
    assert_eq!((why.as_str(), verdict), ("no seeds among the members", Verdict::Pass));
}

#[test]
fn a_reason_by_interval_says_how_sure_and_how_many_seeds_would_tell() {
    let gates = vec![("accuracy".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Absolute(0.005))))];
    let base = three("accuracy", [0.800, 0.802, 0.804]);
    let open = compare(&three("accuracy", [0.790, 0.801, 0.809]), Some(&base), &gates, None);
    let bad = compare(&three("accuracy", [0.780, 0.781, 0.786]), Some(&base), &gates, None);
    insta::assert_snapshot!(format!("{}\n{}", open.reasons[0], bad.reasons[0]), @r"
    accuracy is 0.002 (0.25%) worse than the baseline 0.802 (95 % CI −0.0208 … +0.0168, 3 seeds, paired); it may be worse by at most 0.005, and about 53 seeds a side would tell
    accuracy is 0.0196667 (2.45%) worse than the baseline 0.802 (95 % CI −0.0235 … −0.0159, 3 seeds, paired); it may be worse by at most 0.005
    ");
}

/// Loss: lower is better, so an interval above zero is a loss of quality.
#[test]
fn direction_turns_the_interval() {
    let gates = vec![("loss".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Absolute(0.01))))];
    let base = three("loss", [0.30, 0.31, 0.32]);
    let worse = compare(&three("loss", [0.35, 0.365, 0.37]), Some(&base), &gates, None);
    let better = compare(&three("loss", [0.25, 0.265, 0.27]), Some(&base), &gates, None);
    assert_eq!((worse.verdict, better.verdict), (Verdict::Fail, Verdict::Pass));
    assert!(worse.metrics[0].evidence.as_ref().unwrap().low > 0.0);
}

/// Twenty gates on pure noise: by chance alone some interval lies beyond its bound now and then. Holm keeps the share of runs
/// that any of them fails at 5 %, and the false discovery rate does the same for slices.
#[test]
fn many_gates_do_not_fail_by_chance() {
    let mut rng = trainyard_data::stats::Rng::new(20_261_125);
    let mut draw = || 0.8 + 0.01 * rng.normal();
    let runs = 400;
    let names: Vec<String> = (0..20).map(|i| format!("m/{i}")).collect();
    let mut plan = plan();
    plan.steps =
        (1..=5).map(|s| step(&format!("train (seed={s})"), "train", &[("seed", &s.to_string())])).collect();
    let mut side = || {
        let mut points = Vec::new();
        for name in &names {
            for seed in 0..5 {
                points.push(point(seed, 1, name, draw(), None));
            }
        }
        summarise(&points, &plan)
    };
    let zero = gate(|g| g.no_worse_than = Some(Tolerance::Absolute(0.0)));
    let each: Vec<(String, Gate)> = names.iter().map(|n| (n.clone(), zero.clone())).collect();
    let glob = vec![("m/*".to_owned(), zero.clone())];
    let (mut single, mut holm, mut slices) = (0, 0, 0);
    for _ in 0..runs {
        let (this, base) = (side(), side());
        let failed = |gates: &[(String, Gate)]| {
            let out = compare(&this, Some(&base), gates, None);
            out.metrics.iter().filter(|m| m.gate.as_ref().is_some_and(|g| g.verdict == Verdict::Fail)).count()
        };
        single += names.iter().filter(|n| failed(&[((*n).clone(), zero.clone())]) > 0).count();
        holm += usize::from(failed(&each) > 0);
        slices += usize::from(failed(&glob) > 0);
    }
    // Each alone fails in 2.5 % (one side of a 95 % interval); without a correction two of five runs would fail.
    let single = single as f64 / (runs * names.len()) as f64;
    let (holm, slices) =
        (f64::from(holm as u32) / f64::from(runs as u32), f64::from(slices as u32) / f64::from(runs as u32));
    println!(
        "FIGURE gates.false_failures runs={runs} gates=20 single={single:.4} holm={holm:.4} slices={slices:.4}"
    );
    assert!((0.015..0.035).contains(&single), "{single}");
    assert!(holm <= 0.05 && slices <= 0.10, "{holm} {slices}");
}

#[test]
fn runs_that_were_tested_on_different_data_are_not_compared() {
    let gates = vec![(
        "accuracy".to_owned(),
        gate(|g| (g.min, g.no_worse_than) = (Some(0.5), Some(Tolerance::Relative(0.01)))),
    )];
    let param = |name: &str, value: &str| vec![("train".to_owned(), name.to_owned(), value.to_owned())];
    let on = |values, params: Vec<_>| three("accuracy", values).tested_on(&params);
    let (this, base) = ([0.81, 0.82, 0.84], [0.80, 0.81, 0.82]);
    for (name, set) in [("dataset/eval/holdout", "its test set holdout"), ("test_set_digest", "its test set")]
    {
        let out = compare(&on(this, param(name, "b5")), Some(&on(base, param(name, "a1"))), &gates, None);
        assert_eq!(out.verdict, Verdict::Inconclusive);
        assert_eq!(
            out.reasons,
            [format!("accuracy cannot be compared: {set} is another one than the baseline's")]
        );
        assert!(out.metrics[0].delta.is_none() && out.metrics[0].evidence.is_none());
        let same = compare(&on(this, param(name, "a1")), Some(&on(base, param(name, "a1"))), &gates, None);
        assert_eq!(same.verdict, Verdict::Pass, "{:?}", same.reasons);
    }
    // What one side does not say is no reason, nor is other training data.
    for (mine, other) in [
        (param("test_set_digest", "a1"), Vec::new()),
        (param("dataset/train/x", "a"), param("dataset/train/x", "b")),
    ] {
        assert_eq!(compare(&on(this, mine), Some(&on(base, other)), &gates, None).verdict, Verdict::Pass);
    }
}

/// A sheet of `n` examples of which the first `right` are answered rightly, but for every `flip`th.
fn sheet(n: usize, right: usize, flip: usize) -> Sheet {
    let answer = |i: usize| f64::from((i < right) != (flip > 0 && i.is_multiple_of(flip)));
    let labels: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
    let score =
        |i: usize| if (answer(i) > 0.5) == labels[i] { 0.9 - i as f64 * 1e-6 } else { 0.1 + i as f64 * 1e-6 };
    Sheet {
        test_set: format!("set of {n}"),
        ids: (0..n as u64).collect(),
        means: vec![("accuracy".into(), (0..n).map(answer).collect())],
        ranking: Some(((0..n).map(score).collect(), labels)),
        slices: vec![Slice {
            column: "plan".into(),
            values: vec!["free".into(), "pro".into()],
            codes: (0..n).map(|i| (i % 4 == 0).into()).collect(),
        }],
        groups: None,
    }
}

/// The same with its examples in these groups.
fn grouped(mut sheet: Sheet, kind: GroupKind, column: &str, of: impl Fn(usize) -> u32) -> Sheet {
    let codes = (0..sheet.ids.len()).map(of).collect();
    sheet.groups = Some(Groups { kind, column: column.into(), codes });
    sheet
}

fn sheets(members: &[(&str, Sheet)]) -> Sheets {
    Sheets {
        step: "train".into(),
        members: members.iter().map(|(m, s)| ((*m).to_owned(), s.clone())).collect(),
    }
}

/// A run with one value of accuracy for each sheet, as the agent reports it.
fn predicted(of: &Sheets) -> Summary {
    let values: Vec<(&str, f64)> = of
        .members
        .iter()
        .map(|(m, s)| (m.as_str(), s.means[0].1.iter().sum::<f64>() / s.ids.len() as f64))
        .collect();
    seeds("accuracy", &values).predicted_on(of)
}

#[test]
fn one_training_a_side_is_judged_over_its_examples() {
    let (this, base) = (sheets(&[("1", sheet(2_000, 1_760, 40))]), sheets(&[("1", sheet(2_000, 1_700, 50))]));
    let keep = |x| vec![("accuracy".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Absolute(x))))];
    let held = |this: &Sheets, base: &Sheets, gates: &[(String, Gate)]| {
        compare(&predicted(this).with_examples(this, base), Some(&predicted(base)), gates, None)
    };
    let out = held(&this, &base, &keep(0.01));
    let metric = &out.metrics[0];
    let evidence = metric.evidence.as_ref().unwrap();
    assert_eq!((evidence.method, evidence.basis()), (Method::Mcnemar, "2,000 examples, paired".to_owned()));
    let delta = metric.delta.unwrap();
    assert!(evidence.low < delta && delta < evidence.high && evidence.low > 0.0, "{evidence:?}");
    // Of discordant answers alone: scipy's binomtest(min(b, c), b + c) on the same counts.
    let (a, b) = (&base.members[0].1.means[0].1, &this.members[0].1.means[0].1);
    let only = |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| *x > *y).count() as u64;
    assert!((evidence.p - trainyard_data::stats::mcnemar_exact(only(a, b), only(b, a))).abs() < 1e-15);
    assert_eq!(out.verdict, Verdict::Pass);

    // The other way round it is a loss beyond doubt; a small loss leaves it open, and says how many examples would tell.
    assert_eq!(held(&base, &this, &keep(0.001)).verdict, Verdict::Fail);
    let open = held(&sheets(&[("1", sheet(2_000, 1_695, 47))]), &base, &keep(0.004));
    assert_eq!(open.verdict, Verdict::Inconclusive, "{:?}", open.reasons);
    assert!(open.reasons[0].contains(" examples would tell"), "{:?}", open.reasons);

    // Another test set: nothing is compared.
    let other = held(&sheets(&[("1", sheet(1_999, 1_760, 40))]), &base, &keep(0.01));
    assert_eq!(other.verdict, Verdict::Inconclusive);
    assert!(other.reasons[0].contains("its test set is another one"), "{:?}", other.reasons);
}

#[test]
fn seeds_and_examples_add_up() {
    let this = sheets(&[
        ("1", sheet(2_000, 1_760, 40)),
        ("2", sheet(2_000, 1_764, 41)),
        ("3", sheet(2_000, 1_751, 43)),
    ]);
    let base = sheets(&[
        ("1", sheet(2_000, 1_700, 50)),
        ("2", sheet(2_000, 1_708, 51)),
        ("3", sheet(2_000, 1_703, 53)),
    ]);
    let out = compare(&predicted(&this).with_examples(&this, &base), Some(&predicted(&base)), &[], None);
    let both = out.metrics[0].evidence.clone().unwrap();
    assert_eq!(
        (both.method, both.basis()),
        (Method::SeedsAndExamples, "3 seeds, 2,000 examples, paired".to_owned())
    );
    let seeds =
        compare(&predicted(&this), Some(&predicted(&base)), &[], None).metrics[0].evidence.clone().unwrap();
    let examples = super::examples::pair(&this, &base)["accuracy"].test.standard_error;
    let spread = |t: &crate::model::outcome::Evidence| t.high - t.low;
    assert!(spread(&both) > 3.0 * examples, "{both:?}");
    assert!(spread(&both) > 0.0 && spread(&seeds) > 0.0);
}

#[test]
fn areas_and_slices_have_intervals_of_their_own() {
    let (this, base) = (sheets(&[("1", sheet(2_000, 1_760, 40))]), sheets(&[("1", sheet(2_000, 1_700, 50))]));
    let found = super::examples::pair(&this, &base);
    assert_eq!(
        found.keys().map(String::as_str).collect::<Vec<_>>(),
        ["accuracy", "accuracy/by/plan=free", "accuracy/by/plan=pro", "auc"]
    );
    assert_eq!(found["auc"].evidence.method, Method::Delong);
    assert_eq!(
        (found["accuracy/by/plan=free"].evidence.count, found["accuracy/by/plan=pro"].evidence.count),
        (1_500, 500)
    );
    // Forty examples are no slice.
    let small = |s: Sheet| sheets(&[("1", s)]);
    let few = super::examples::pair(&small(sheet(160, 140, 40)), &small(sheet(160, 120, 50)));
    assert!(few.contains_key("accuracy") && !few.contains_key("accuracy/by/plan=pro"));
}

#[test]
fn examples_that_belong_together_are_drawn_together() {
    use GroupKind::{Clusters, Strata};
    let (this, base) = (sheet(2_000, 1_760, 40), sheet(2_000, 1_700, 50));
    let one = |s: &Sheet| sheets(&[("1", s.clone())]);
    let pair = |this: &Sheet, base: &Sheet| super::examples::pair(&one(this), &one(base));
    let by = |kind, column: &str, of: fn(usize) -> u32| {
        pair(&grouped(this.clone(), kind, column, of), &grouped(base.clone(), kind, column, of))
    };
    let plain = pair(&this, &base);
    let ends = |of: &super::examples::ByMetric, name: &str| {
        let e = &of[name].evidence;
        (e.low, e.high)
    };
    // One example in each cluster is no clustering. (McNemar's p-value is not for clusters, even so.)
    let alone = by(Clusters, "user", |i| i as u32);
    for name in ["accuracy", "accuracy/by/plan=pro", "auc"] {
        let ((a, b), (x, y)) = (ends(&plain, name), ends(&alone, name));
        let near = if name == "auc" { 2e-3 * (b - a) } else { 0.0 }; // t with 1,999 degrees of freedom for the normal
        assert!((a - x).abs() <= near && (b - y).abs() <= near, "{name}: {a} {b}, {x} {y}");
    }
    let accuracy = &alone["accuracy"].evidence;
    assert_eq!(accuracy.basis(), "2,000 examples, paired, clustered by user, 2,000 clusters");
    assert_eq!(accuracy.method, Method::Bootstrap);

    // Neighbours change together here, so users with ten neighbours each know less than 2,000 examples.
    let users = by(Clusters, "user", |i| i as u32 / 10);
    let width = |of: &super::examples::ByMetric, name: &str| ends(of, name).1 - ends(of, name).0;
    assert!(width(&users, "accuracy") > 1.5 * width(&plain, "accuracy"), "{:?}", ends(&users, "accuracy"));
    assert!(width(&users, "auc") > 1.2 * width(&plain, "auc"), "{:?}", ends(&users, "auc"));
    assert_eq!(
        users["accuracy/by/plan=pro"].evidence.basis(),
        "500 examples, paired, clustered by user, 200 clusters"
    );
    assert_eq!(users["accuracy"].more, Unit::Clusters);

    // Few clusters are said to be few, and get what t makes of so few.
    let few = by(Clusters, "site", |i| i as u32 / 200);
    let evidence = &few["accuracy"].evidence;
    assert_eq!((evidence.method, evidence.count), (Method::ClusterT, 2_000));
    assert_eq!(evidence.basis(), "2,000 examples, paired, clustered by site, only 10 clusters");
    assert!(few["accuracy"].test.df == 9.0 && width(&few, "accuracy") > width(&users, "accuracy"));
    // One cluster says nothing at all.
    assert!(by(Clusters, "all", |_| 0).is_empty());

    // Within strata nothing of what lies between them is left to chance; small ones count as one.
    let strata = by(Strata, "block", |i| i as u32 / 250);
    assert!(width(&strata, "accuracy") < width(&plain, "accuracy"), "{:?}", ends(&strata, "accuracy"));
    assert_eq!(
        (strata["accuracy"].evidence.method, strata["accuracy"].evidence.basis()),
        (Method::Mcnemar, "2,000 examples, paired, stratified by block, 8 strata".to_owned())
    );
    let single = by(Strata, "id", |i| i as u32);
    assert_eq!(ends(&single, "accuracy"), ends(&plain, "accuracy"));

    // The same examples in other clusters are another test set.
    let mine = one(&grouped(this.clone(), Clusters, "user", |i| i as u32 / 10));
    let theirs = one(&grouped(base.clone(), Clusters, "user", |i| i as u32 / 20));
    let gates = vec![("accuracy".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Absolute(0.1))))];
    let out =
        compare(&predicted(&mine).with_examples(&mine, &theirs), Some(&predicted(&theirs)), &gates, None);
    assert_eq!(
        out.reasons,
        ["accuracy cannot be compared: its clusters by user are other ones than the baseline's"]
    );
    // A baseline from before the column was named is no hindrance.
    let out = compare(
        &predicted(&mine).with_examples(&mine, &one(&base)),
        Some(&predicted(&one(&base))),
        &gates,
        None,
    );
    assert_eq!(out.verdict, Verdict::Pass, "{:?}", out.reasons);
    // An open question is answered by more clusters.
    let keep = vec![("accuracy".to_owned(), gate(|g| g.no_worse_than = Some(Tolerance::Absolute(0.001))))];
    let worse = one(&grouped(sheet(2_000, 1_695, 47), Clusters, "user", |i| i as u32 / 10));
    let out = compare(
        &predicted(&worse).with_examples(&worse, &one(&base)),
        Some(&predicted(&one(&base))),
        &keep,
        None,
    );
    assert!(out.reasons[0].contains(" clusters would tell"), "{:?}", out.reasons);
}

/// The interval over examples holds the truth as often as it says, whatever the size of the test set.
#[test]
fn intervals_over_examples_cover() {
    let mut rng = trainyard_data::stats::Rng::new(7);
    for n in [100_usize, 400] {
        let runs = 400;
        let mut held = 0;
        for _ in 0..runs {
            let mut answers = || {
                let hard: f64 = rng.uniform();
                let each = |p: f64, x: f64| f64::from(x < p);
                (each(0.9 - 0.4 * hard, rng.uniform()), each(0.85 - 0.3 * hard, rng.uniform()))
            };
            let pairs: Vec<(f64, f64)> = (0..n).map(|_| answers()).collect();
            let of = |values: Vec<f64>| {
                let ids = (0..n as u64).collect();
                let means = vec![("accuracy".to_owned(), values)];
                sheets(&[("1", Sheet { test_set: "t".into(), ids, means, ..Sheet::default() })])
            };
            let this = of(pairs.iter().map(|p| p.0).collect());
            let base = of(pairs.iter().map(|p| p.1).collect());
            let found = super::examples::pair(&this, &base);
            // Nothing to say counts as a miss.
            held += found
                .get("accuracy")
                .map_or(0, |t| usize::from(t.evidence.low <= 0.0 && 0.0 <= t.evidence.high));
        }
        let share = held as f64 / f64::from(runs);
        println!("FIGURE coverage.examples n={n} runs={runs} share={share:.3}");
        assert!((0.92..=0.98).contains(&share), "{n}: {share}");
    }
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
