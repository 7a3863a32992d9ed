//! The same questions asked of scipy, statsmodels, Evidently and pandera.

use serde_json::{Value, json};
use trainyard_data::stats::{self, Rng, special};

use crate::support::*;

/// Collects values under names and compares them with the peer's.
struct Tally {
    cases: usize,
    outside: Vec<String>,
    worst: f64,
}

impl Tally {
    fn compare(&mut self, name: &str, ours: f64, theirs: &Value, tolerance: f64) {
        let theirs = theirs.as_f64().unwrap_or(f64::NAN);
        let off = (ours - theirs).abs() / theirs.abs().max(1e-290);
        self.cases += 1;
        if ours == theirs || (ours.is_nan() && theirs.is_nan()) {
            return;
        }
        self.worst = self.worst.max(if off.is_nan() { f64::INFINITY } else { off });
        if !(off <= tolerance) {
            self.outside.push(format!("{name}: {ours:e}, peer {theirs:e}"));
        }
    }
}

fn sample(rng: &mut Rng, n: usize, shift: f64, round: bool) -> Vec<f64> {
    (0..n)
        .map(|_| {
            let x = rng.normal() + shift;
            if round { (x * 4.0).round() / 4.0 } else { x }
        })
        .collect()
}

#[test]
fn scipy_and_statsmodels_agree() {
    let mut rng = Rng::new(2026);
    let mut cases = Vec::new();
    for i in 0..150_u64 {
        let (n, m) = (3 + rng.below(120) as usize, 3 + rng.below(120) as usize);
        let shift = [0.0, 0.1, 1.0, 3.0][i as usize % 4];
        let a = sample(&mut rng, n, 0.0, i % 3 == 0);
        let b = sample(&mut rng, m, shift, i % 3 == 0);
        let paired = sample(&mut rng, n, shift, false);
        let k = 2 + rng.below(12) as usize;
        let counts = |rng: &mut Rng| -> Vec<u64> { (0..k).map(|_| 1 + rng.below(400)).collect() };
        let (ca, cb) = (counts(&mut rng), counts(&mut rng));
        let trials = 5 + rng.below(300);
        let hits = rng.below(trials + 1);
        let share = 0.05 + 0.9 * rng.uniform();
        let p: Vec<f64> = (0..10).map(|_| rng.uniform().powi(3)).collect();
        let (only_a, mut only_b) = (rng.below(60), 1 + rng.below(60));
        // Of equal counts statsmodels' corrected statistic is 1 / (b + c); ours is 0, the correction being at most the difference.
        only_b += u64::from(only_a == only_b);
        cases.push(
            json!({"a": a, "b": b, "paired": paired, "ca": ca, "cb": cb, "trials": trials, "hits": hits,
            "share": share, "p": p, "only_a": only_a, "only_b": only_b, "margin": 0.2 + rng.uniform()}),
        );
    }
    let answers = ask("scipy", "stats_peer.py", &json!({"cases": cases}));
    let mut t = Tally { cases: 0, outside: vec![], worst: 0.0 };
    let floats = |v: &Value| -> Vec<f64> { serde_json::from_value(v.clone()).unwrap() };
    let integers = |v: &Value| -> Vec<u64> { serde_json::from_value(v.clone()).unwrap() };
    let exact = 1e-9;
    for (case, answer) in cases.iter().zip(answers["cases"].as_array().unwrap()) {
        let (a, b, paired) = (floats(&case["a"]), floats(&case["b"]), floats(&case["paired"]));
        let (ca, cb) = (integers(&case["ca"]), integers(&case["cb"]));
        let w = stats::welch_t(&a, &b).unwrap();
        let i = w.interval(0.05);
        let s = stats::student_t(&a, &b).unwrap();
        let p = stats::paired_t(&a, &paired).unwrap();
        let ks = stats::ks_two_sample(&a, &b).unwrap();
        assert!(ks.exact);
        let chi = stats::chi_square_table(&ca, &cb).unwrap();
        let g = stats::g_test(&ca, &cb).unwrap();
        let (trials, hits) = (case["trials"].as_u64().unwrap(), case["hits"].as_u64().unwrap());
        let cp = stats::clopper_pearson(hits, trials, 0.05);
        let (only_a, only_b) = (case["only_a"].as_u64().unwrap(), case["only_b"].as_u64().unwrap());
        let mc = stats::mcnemar(only_a, only_b);
        let z = stats::two_proportion_z(ca[0], ca.iter().sum(), cb[0], cb.iter().sum());
        let shares = |c: &[u64]| c.iter().map(|x| *x as f64).collect::<Vec<f64>>();
        let total: f64 = shares(&cb).iter().sum::<f64>() / shares(&ca).iter().sum::<f64>();
        let expected: Vec<f64> = shares(&ca).iter().map(|x| x * total).collect();
        let fit = stats::chi_square_fit(&shares(&cb), &expected);
        for (name, ours) in [
            ("welch_t", w.t),
            ("welch_df", w.df),
            ("welch_p", w.p),
            ("welch_low", i.low),
            ("welch_high", i.high),
            ("student_t", s.t),
            ("student_p", s.p),
            ("paired_t", p.t),
            ("paired_p", p.p),
            ("ks_d", ks.d),
            ("ks_p", ks.p),
            ("chi2", chi.statistic),
            ("chi2_p", chi.p),
            ("g", g.statistic),
            ("g_p", g.p),
            ("fit", fit.statistic),
            ("fit_p", fit.p),
            ("wasserstein", stats::wasserstein(&a, &b)),
            ("js", stats::js_distance(&ca, &cb)),
            ("kl", stats::kl_divergence(&ca, &cb)),
            ("binomial_p", stats::binomial_test(hits, trials, case["share"].as_f64().unwrap()).p),
            ("cp_low", cp.low),
            ("cp_high", cp.high),
            ("mcnemar_exact", mc.exact_p),
            ("mcnemar_corrected", mc.corrected_p),
            ("z", z.0),
            ("z_p", z.1),
            ("v", stats::cramers_v(&ca, &cb)),
            ("tost_p", stats::equivalence(&w, case["margin"].as_f64().unwrap())),
        ] {
            t.compare(name, ours, &answer[name], exact);
        }
        let ps = floats(&case["p"]);
        for (name, ours) in [("holm", stats::holm(&ps)), ("bh", stats::benjamini_hochberg(&ps))] {
            for (x, theirs) in ours.iter().zip(answer[name].as_array().unwrap()) {
                t.compare(name, *x, theirs, exact);
            }
        }
    }
    for row in answers["special"].as_array().unwrap() {
        let (x, df) = (row["x"].as_f64().unwrap(), row["df"].as_f64().unwrap());
        t.compare("normal_sf", special::normal_sf(x), &row["normal_sf"], exact);
        t.compare("t_two_sided", special::t_two_sided(x, df), &row["t"], exact);
        t.compare("chi2_sf", special::chi2_sf(x * x * df, df), &row["chi2"], exact);
    }
    println!(
        "FIGURE data.agreement_scipy values={} outside={} worst_relative={:.2e}",
        t.cases,
        t.outside.len(),
        t.worst
    );
    for line in t.outside.iter().take(30) {
        eprintln!("{line}");
    }
    assert!(t.cases >= 2_000 && t.outside.is_empty(), "{} of {} outside", t.outside.len(), t.cases);
}

/// Intervals of clusters of unequal sizes beside scipy's `BCa` over the clusters' sums: the ends differ by what 20,000 draws a side leave
/// to chance. Their standard errors beside a jackknife spelt out in numpy, and never below the sandwich of statsmodels.
#[test]
fn clusters_are_drawn_as_scipy_draws_them() {
    let mut rng = Rng::new(77);
    let mut cases = Vec::new();
    for i in 0..12_u64 {
        let (mut values, mut of) = (Vec::new(), Vec::new());
        for cluster in 0..(50 + i * 15) as u32 {
            let shared = rng.normal().exp() - 1.2;
            for _ in 0..=rng.below(9) {
                of.push(cluster);
                values.push(shared + rng.normal());
            }
        }
        cases.push(json!({"values": values, "clusters": of}));
    }
    let answers = ask("scipy", "clusters_peer.py", &json!({"cases": cases}));
    let mut t = Tally { cases: 0, outside: vec![], worst: 0.0 };
    let mut worst: f64 = 0.0;
    for (case, answer) in cases.iter().zip(answers.as_array().unwrap()) {
        let values: Vec<f64> = serde_json::from_value(case["values"].clone()).unwrap();
        let of: Vec<u32> = serde_json::from_value(case["clusters"].clone()).unwrap();
        let how = stats::Resample::Clustered(&of);
        let test = stats::mean_test(&values, how).unwrap();
        t.compare("standard error", test.standard_error, &answer["error"], 1e-9);
        t.compare("p", test.p, &answer["p"], 1e-9);
        let sandwich = answer["sandwich"].as_f64().unwrap();
        assert!((1.0..1.2).contains(&(test.standard_error / sandwich)), "{} {sandwich}", test.standard_error);
        let ours = stats::paired_bootstrap(&values, how, 20_000, 0.05, 1).unwrap();
        let end = |name: &str| answer[name].as_f64().unwrap();
        let width = end("high") - end("low");
        for (mine, theirs) in [(ours.bca.low, end("low")), (ours.bca.high, end("high"))] {
            worst = worst.max((mine - theirs).abs() / width);
        }
    }
    println!(
        "FIGURE data.agreement_clusters values={} outside={} bca_ends={} worst_of_width={worst:.4}",
        t.cases,
        t.outside.len(),
        2 * cases.len()
    );
    assert!(t.outside.is_empty() && worst < 0.06, "{:?} {worst}", t.outside);
}

/// The asymptotic p-value of large samples is Kolmogorov's limit; scipy has the finite-size law of one sample of
/// n m / (n + m). They differ by up to a few percent, which is stated here.
#[test]
fn large_kolmogorov_smirnov_is_near() {
    let mut rng = Rng::new(4);
    let a = sample(&mut rng, 12_000, 0.0, false);
    let b = sample(&mut rng, 11_000, 0.015, false);
    let answer = ask("scipy", "stats_peer.py", &json!({"cases": [], "large": {"a": a, "b": b}}));
    let ks = stats::ks_two_sample(&a, &b).unwrap();
    let theirs = answer["large_p"].as_f64().unwrap();
    println!("FIGURE data.agreement_ks_asymptotic ours={:.6} scipy={theirs:.6}", ks.p);
    assert!(!ks.exact && (ks.p / theirs - 1.0).abs() < 0.05, "{} {theirs}", ks.p);
}

/// One side over 10,000 values, the other one small: scipy takes the distribution of one sample of n m / (n + m) values,
/// itself by a series (Pelz and Good) of which these are within 1e-5 of the truth.
#[test]
fn uneven_kolmogorov_smirnov_is_as_scipy_has_it() {
    let mut rng = Rng::new(5);
    let mut cases = Vec::new();
    for (rows, shift) in [
        (2, 0.5),
        (30, 0.0),
        (30, 0.4),
        (140, 0.1),
        (145, 0.2),
        (500, 0.06),
        (500, 0.0),
        (1000, 0.045),
        (1000, 0.2),
    ] {
        cases.push((sample(&mut rng, rows, shift, false), sample(&mut rng, 20_000, 0.0, false)));
    }
    let asked: Vec<_> = cases.iter().map(|(a, b)| json!({"a": a, "b": b})).collect();
    let answer = ask("scipy", "stats_peer.py", &json!({"cases": [], "uneven": asked}));
    let mut worst = 0.0_f64;
    for (i, (a, b)) in cases.iter().enumerate() {
        let (ours, theirs) = (stats::ks_two_sample(a, b).unwrap().p, answer["uneven_p"][i].as_f64().unwrap());
        worst = worst.max((ours / theirs - 1.0).abs());
        assert!((ours / theirs - 1.0).abs() < 1e-5, "{}: {ours} {theirs}", a.len());
    }
    println!("FIGURE data.agreement_ks_uneven cases={} worst_relative={worst:.1e}", cases.len());
}

/// DeLong and drift distances on the toy sets of scikit-learn.
#[test]
fn toy_sets_give_their_golden_values() {
    let sets = ask("scipy", "toy_sets.py", &json!({}));
    let cancer = &sets["breast_cancer"];
    let column =
        |name: &str| -> Vec<f64> { serde_json::from_value(cancer["columns"][name].clone()).unwrap() };
    let labels: Vec<bool> = column("target").iter().map(|x| *x == 1.0).collect();
    let minus = |x: Vec<f64>| x.into_iter().map(|v| -v).collect::<Vec<f64>>();
    let d = stats::delong(&labels, &minus(column("mean radius")), &minus(column("mean texture"))).unwrap();
    let mut t = Tally { cases: 0, outside: vec![], worst: 0.0 };
    t.compare("delong z", d.z, &json!(7.308_787_404_733_396), 1e-9);
    t.compare("delong p", d.p, &json!(2.695_638_625_342_812e-13), 1e-9);
    t.compare("covariance", d.covariance, &json!(4.685_906_512_778_903e-6), 1e-9);
    let radius = column("mean radius");
    let (r, c) = radius.split_at(284);
    let ks = stats::ks_two_sample(r, c).unwrap();
    t.compare("ks d", ks.d, &json!(0.153_076_352_853_965_9), 1e-9);
    t.compare("ks p", ks.p, &json!(0.002_111_494_829_037_605_3), 1e-9);
    let w = stats::wasserstein(r, c) / stats::variance(r, 0).sqrt();
    t.compare("wasserstein", w, &json!(0.239_715_313_522_428_5), 1e-9);
    assert!(t.outside.is_empty(), "{:?}", t.outside);
}

/// Rules, asked of pandera on the same table: the same verdicts and the same number of failing values.
#[test]
fn pandera_gives_the_same_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let t = table(5_000, 3, Change { nulls: 0.01, ..Change::default() });
    let path = write_parquet(&dir.path().join("a.parquet"), &t, 1_000);
    let mut questions = Vec::new();
    for i in 0..60_i32 {
        let x = f64::from(i);
        for (column, rule) in [
            ("f0", json!({"min": 2.0 + x * 0.1})),
            ("f0", json!({"max": 18.0 - x * 0.1})),
            ("f1", json!({"above": -4.5 + x * 0.05, "below": 4.6 - x * 0.05})),
            ("count", json!({"one_of": (0..=(39 - i / 30)).collect::<Vec<_>>()})),
            ("count", json!({"not_in": [40 + i, 38 + i]})),
            ("f2", json!({"nulls": if i % 2 == 0 { 0.0 } else { 1.0 }})),
            ("plan", json!({"regex": format!("^[a-{}]", char::from(b'p' + (i % 6) as u8))})),
            ("plan", json!({"min_length": i % 7})),
            ("id", json!({"unique": true})),
            ("count", json!({"unique": true})),
        ] {
            questions.push(json!({"column": column, "rule": rule}));
        }
    }
    let answers = ask("pandera", "pandera_peer.py", &json!({"path": path, "questions": questions}));
    let mut wrong = Vec::new();
    let mut failing = 0;
    for (question, answer) in questions.iter().zip(answers.as_array().unwrap()) {
        let column = question["column"].as_str().unwrap();
        let asked = rules(&json!({"schema": {column: question["rule"]}}).to_string());
        let ours = check(&path, &asked, None).unwrap();
        let count: u64 = ours.findings.iter().map(|f| f.count).sum();
        failing += usize::from(!ours.passed);
        let same_count = answer["count"].is_null() || answer["count"].as_u64() == Some(count);
        if answer["passed"].as_bool() != Some(ours.passed) || !same_count {
            wrong.push(format!("{question}: {answer}, ours {} {count}", ours.passed));
        }
    }
    println!(
        "FIGURE data.agreement_pandera verdicts={} failing={failing} different={}",
        questions.len(),
        wrong.len()
    );
    assert!(wrong.is_empty() && failing > 100 && failing < questions.len() - 100, "{failing} {wrong:?}");
}

/// The compat mode, beside Evidently itself: every score and every verdict.
#[test]
fn evidently_gives_the_same_scores() {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use arrow::record_batch::RecordBatch;

    let dir = tempfile::tempdir().unwrap();
    let sets = ask("scipy", "toy_sets.py", &json!({}));
    let mut pairs: Vec<Value> = Vec::new();
    for name in ["iris", "wine", "breast_cancer", "diabetes"] {
        let columns = sets[name]["columns"].as_object().unwrap();
        let half = |first: bool| -> Value {
            columns
                .iter()
                .map(|(column, values)| {
                    let values = values.as_array().unwrap();
                    let (a, b) = values.split_at(values.len() / 2);
                    (column.clone(), json!(if first { a } else { b }))
                })
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        pairs.push(json!({"reference": half(true), "current": half(false)}));
    }
    for seed in 0..if long() { 20 } else { 6 } {
        let rows = [600, 2_500][seed as usize % 2];
        let of = |seed, change| {
            let t = table(rows, seed, change);
            let flag: Vec<i64> = t.active.iter().map(|a| i64::from(*a)).collect();
            let small: Vec<i64> = t.count.iter().map(|c| c % 7).collect();
            json!({"f0": t.f0, "f1": t.f1, "count": t.count, "plan": t.plan, "flag": flag, "small": small})
        };
        let change = Change {
            shift: 0.1 * (seed % 3) as f64,
            mix: 0.05 * (seed % 2) as f64,
            spread: 1.0 + 0.1 * (seed % 3) as f64,
            nulls: 0.0,
        };
        pairs
            .push(json!({"reference": of(100 + seed, Change::default()), "current": of(200 + seed, change)}));
    }
    // Evidently brings some 180 packages: it is asked in the long form, its golden values hold in the short one.
    let answers = if long() {
        ask("evidently", "evidently_peer.py", &json!({"pairs": pairs}))
    } else {
        pairs = vec![pairs.swap_remove(2)];
        json!([{"mean radius": {"score": 0.002_111_494_829_037_605_3}, "mean texture": {"score": 0.188_904_954_600_191_33},
            "target": {"score": 1.079_669_686_987_472_2e-11}}])
    };
    let write = |table: &Value, name: &str| {
        let columns = table.as_object().unwrap().iter().map(|(column, values)| {
            let values = values.as_array().unwrap();
            let array: ArrayRef = if values[0].is_string() {
                Arc::new(values.iter().map(Value::as_str).collect::<StringArray>())
            } else if values.iter().all(Value::is_i64) {
                Arc::new(values.iter().map(Value::as_i64).collect::<Int64Array>())
            } else {
                Arc::new(values.iter().map(Value::as_f64).collect::<Float64Array>())
            };
            (column.clone(), array)
        });
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        open(&write_batch(&dir.path().join(name), &batch, 400)).unwrap()
    };
    let mut t = Tally { cases: 0, outside: vec![], worst: 0.0 };
    for (pair, answer) in pairs.iter().zip(answers.as_array().unwrap()) {
        let (reference, current) =
            (write(&pair["reference"], "r.parquet"), write(&pair["current"], "c.parquet"));
        let ours = trainyard_data::compat::evidently(&reference, &current).unwrap();
        let answer = answer.as_object().unwrap();
        assert!(!long() || ours.columns.len() == answer.len(), "{answer:?}");
        for column in ours.columns.iter().filter(|c| answer.contains_key(&c.column)) {
            // Its z test takes 1 - Phi, which is good to about 1e-16 and no better.
            let theirs = answer[&column.column]["score"].as_f64().unwrap();
            if column.test.starts_with('Z') && (theirs - column.score).abs() < 1e-15 {
                t.cases += 1;
                continue;
            }
            t.compare(
                &format!("{} {}", column.column, column.test),
                column.score,
                &answer[&column.column]["score"],
                1e-9,
            );
        }
    }
    println!(
        "FIGURE data.agreement_evidently scores={} outside={} worst_relative={:.2e}",
        t.cases,
        t.outside.len(),
        t.worst
    );
    assert!(t.cases >= if long() { 80 } else { 3 } && t.outside.is_empty(), "{:#?}", t.outside);
}
