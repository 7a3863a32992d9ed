//! Intervals over the examples of a test set.

use super::*;
use crate::agent::sheet::{Groups, Sheet, Slice};
use crate::model::outcome::{GroupKind, Method, Unit};
use crate::model::{Tolerance, Verdict};
use crate::results::examples::{ByMetric, pair};

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
    let examples = pair(&this, &base)["accuracy"].test.standard_error;
    let spread = |t: &crate::model::outcome::Evidence| t.high - t.low;
    assert!(spread(&both) > 3.0 * examples, "{both:?}");
    assert!(spread(&both) > 0.0 && spread(&seeds) > 0.0);
}

#[test]
fn areas_and_slices_have_intervals_of_their_own() {
    let (this, base) = (sheets(&[("1", sheet(2_000, 1_760, 40))]), sheets(&[("1", sheet(2_000, 1_700, 50))]));
    let found = pair(&this, &base);
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
    let few = pair(&small(sheet(160, 140, 40)), &small(sheet(160, 120, 50)));
    assert!(few.contains_key("accuracy") && !few.contains_key("accuracy/by/plan=pro"));
}

#[test]
fn examples_that_belong_together_are_drawn_together() {
    use GroupKind::{Clusters, Strata};
    let (this, base) = (sheet(2_000, 1_760, 40), sheet(2_000, 1_700, 50));
    let one = |s: &Sheet| sheets(&[("1", s.clone())]);
    let pair = |this: &Sheet, base: &Sheet| pair(&one(this), &one(base));
    let by = |kind, column: &str, of: fn(usize) -> u32| {
        pair(&grouped(this.clone(), kind, column, of), &grouped(base.clone(), kind, column, of))
    };
    let plain = pair(&this, &base);
    let ends = |of: &ByMetric, name: &str| {
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
    let width = |of: &ByMetric, name: &str| ends(of, name).1 - ends(of, name).0;
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
            let found = pair(&this, &base);
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
