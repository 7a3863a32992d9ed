//! Intervals over seeds and folds, and the gates that are held against them.

use super::*;
use crate::model::outcome::Method;
use crate::model::plan::GateEvidence;
use crate::model::{Tolerance, Verdict};

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
