//! False alarms, power and coverage, simulated with fixed seeds. Long form: 2,000 simulations a cell, 5,000 for
//! coverage; short form: a few cells, with bounds as wide as fewer simulations make them.

use trainyard_data::drift::{self, Verdict};
use trainyard_data::rules::DriftRules;
use trainyard_data::stats::{self, Rng};

use crate::support::long;

fn draw(kind: &str, rng: &mut Rng) -> f64 {
    match kind {
        "normal" => rng.normal(),
        "lognormal" => rng.normal().exp(),
        // Student's t with 3 degrees of freedom.
        _ => rng.normal() / ((0..3).map(|_| rng.normal().powi(2)).sum::<f64>() / 3.0).sqrt(),
    }
}

/// 3 standard errors of a share.
fn slack(share: f64, n: usize) -> f64 {
    3.0 * (share * (1.0 - share) / n as f64).sqrt()
}

#[test]
fn p_values_alone_are_calibrated() {
    let runs = if long() { 2_000 } else { 400 };
    let sizes: &[(usize, usize)] = if long() {
        &[(200, 200), (1000, 200), (200, 1000), (1000, 1000), (5000, 500), (100, 100)]
    } else {
        &[(200, 200), (1000, 200)]
    };
    let shapes: &[&str] = if long() { &["normal", "lognormal", "t3"] } else { &["normal", "t3"] };
    let rules = DriftRules::default();
    let mut worst_full: f64 = 0.0;
    for &(n, m) in sizes {
        for shape in shapes {
            let (mut hits, mut full) = (0, 0);
            for run in 0..runs {
                let mut rng = Rng::stream(11, (n * 1_000_003 + m * 101 + run) as u64);
                let a: Vec<f64> = (0..n).map(|_| draw(shape, &mut rng)).collect();
                let b: Vec<f64> = (0..m).map(|_| draw(shape, &mut rng)).collect();
                let d = drift::compare_numbers(&a, &b, &rules);
                hits += usize::from(d.p <= 0.05);
                full += usize::from(d.verdict == Verdict::Drifted);
            }
            let (rate, full) = (hits as f64 / runs as f64, full as f64 / runs as f64);
            println!(
                "FIGURE calibration.numeric shape={shape} n={n} m={m} runs={runs} at_5_percent={rate:.4} full_rule={full:.4}"
            );
            let (low, high) = if n.min(m) >= 200 { (0.035, 0.065) } else { (0.0, 0.075) };
            let extra = if long() { 0.0 } else { slack(0.05, runs) - slack(0.05, 2_000) };
            assert!(rate >= low - extra && rate <= high + extra, "{shape} {n} {m}: {rate}");
            worst_full = worst_full.max(full);
        }
    }
    let categories: &[usize] = if long() { &[2, 5, 10, 50] } else { &[2, 50] };
    for &(n, m) in sizes {
        for &k in categories {
            let names: Vec<String> = (0..k).map(|i| format!("c{i}")).collect();
            let (mut hits, mut full) = (0, 0);
            for run in 0..runs {
                let mut rng = Rng::stream(12, (n * 1_000_003 + m * 101 + k * 17 + run * 7) as u64);
                let mut pick = |size: usize| -> Vec<&str> {
                    // Half of the cells are skewed: the square of a uniform favours the first categories.
                    (0..size)
                        .map(|_| {
                            let u = rng.uniform();
                            let u = if run % 2 == 0 { u } else { u * u };
                            names[(u * k as f64) as usize].as_str()
                        })
                        .collect()
                };
                let (a, b) = (pick(n), pick(m));
                let d = drift::compare_categories(&a, &b, &rules);
                hits += usize::from(d.p <= 0.05);
                full += usize::from(d.verdict == Verdict::Drifted);
            }
            let (rate, full) = (hits as f64 / runs as f64, full as f64 / runs as f64);
            println!(
                "FIGURE calibration.categorical k={k} n={n} m={m} runs={runs} at_5_percent={rate:.4} full_rule={full:.4}"
            );
            let (low, high) = if n.min(m) >= 200 { (0.02, 0.065) } else { (0.0, 0.075) };
            let extra = if long() { 0.0 } else { slack(0.05, runs) - slack(0.05, 2_000) };
            assert!(rate >= low - extra && rate <= high + extra, "{k} {n} {m}: {rate}");
            worst_full = worst_full.max(full);
        }
    }
    println!("FIGURE calibration.full_rule worst={worst_full:.4}");
    let extra = if long() { 0.0 } else { slack(0.01, runs) };
    assert!(worst_full <= 0.01 + extra, "{worst_full}");
}

#[test]
fn changes_that_matter_are_seen() {
    let runs = if long() { 1_000 } else { 60 };
    let rules = DriftRules::default();
    let n = 5_000;
    let report = |name: &str, seen: usize| {
        let power = seen as f64 / f64::from(runs);
        println!("FIGURE power.{name} rows={n} runs={runs} power={power:.4}");
        assert!(power >= 0.95, "{name}: {power}");
    };
    for (name, shift, spread) in [("mean_0.2_sd", 0.2, 1.0), ("variance_ratio_1.5", 0.0, 1.5_f64.sqrt())] {
        let mut seen = 0;
        for run in 0..runs {
            let mut rng = Rng::stream(13, run as u64);
            let a: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
            let b: Vec<f64> = (0..n).map(|_| shift + spread * rng.normal()).collect();
            seen += usize::from(drift::compare_numbers(&a, &b, &rules).verdict == Verdict::Drifted);
        }
        report(name, seen);
    }
    // Two mixes of five categories at V = 0.15: (1, -1) × d on two of them, V² = 10 d² / 4 for uniform shares.
    let d = 0.15 * (4.0_f64 / 10.0).sqrt();
    let names = ["a", "b", "c", "d", "e"];
    let mut seen = 0;
    for run in 0..runs {
        let mut rng = Rng::stream(14, run as u64);
        let mut pick = |shift: f64| -> Vec<&str> {
            (0..n)
                .map(|_| {
                    let u = rng.uniform();
                    let at = (u * 5.0) as usize;
                    // The mass `shift` moves from the second category to the first.
                    if at == 1 && u < 0.2 + shift { names[0] } else { names[at] }
                })
                .collect()
        };
        let (a, b) = (pick(0.0), pick(d));
        seen += usize::from(drift::compare_categories(&a, &b, &rules).verdict == Verdict::Drifted);
    }
    report("category_mix_v_0.15", seen);
}

#[test]
fn intervals_cover_what_they_promise() {
    let runs = if long() { 5_000 } else { 600 };
    let check = |name: &str, covered: usize, low: f64, high: f64| {
        let share = covered as f64 / runs as f64;
        println!("FIGURE coverage.{name} runs={runs} covered={share:.4}");
        let extra = if long() { 0.0 } else { slack(0.05, runs) };
        assert!(share >= low - extra && share <= high + extra, "{name}: {share}");
    };
    for k in [3, 5, 9] {
        let (mut welch, mut paired) = (0, 0);
        for run in 0..runs {
            let mut rng = Rng::stream(21 + k, run as u64);
            let a: Vec<f64> = (0..k).map(|_| rng.normal()).collect();
            let b: Vec<f64> = (0..k).map(|_| 0.7 + rng.normal()).collect();
            let within = |i: stats::Interval| usize::from(i.low <= 0.7 && 0.7 <= i.high);
            welch += within(stats::welch_t(&a, &b).unwrap().interval(0.05));
            paired += within(stats::paired_t(&a, &b).unwrap().interval(0.05));
        }
        // Welch's is a little cautious with three seeds a side.
        check(&format!("welch_t_{k}_seeds"), welch, 0.94, if k < 5 { 0.98 } else { 0.965 });
        check(&format!("paired_t_{k}_seeds"), paired, 0.94, 0.96);
    }
    for n in [200, 500] {
        let (mut percentile, mut bca) = (0, 0);
        for run in 0..runs {
            let mut rng = Rng::stream(40 + n, run as u64);
            let values: Vec<f64> = (0..n)
                .map(|_| 0.2 + rng.normal() * 0.5 + (rng.normal() * 0.4).exp() - 0.08_f64.exp())
                .collect();
            let b = stats::paired_bootstrap(&values, stats::Resample::Plain, 500, 0.05, run as u64).unwrap();
            percentile += usize::from(b.percentile.low <= 0.2 && 0.2 <= b.percentile.high);
            bca += usize::from(b.bca.low <= 0.2 && 0.2 <= b.bca.high);
        }
        check(&format!("bootstrap_percentile_{n}"), percentile, 0.93, 0.97);
        check(&format!("bootstrap_bca_{n}"), bca, 0.93, 0.97);
    }
    // Users with 1 to 15 examples each, whose examples share half of their variance; below 100 of them by t, as comparisons do it.
    for clusters in [8, 20, 50, 100, 200] {
        let (mut held, mut areas, mut naive) = (0, 0, 0);
        let mut rounds = 0;
        for run in 0..runs {
            let mut rng = Rng::stream(80 + clusters, run as u64);
            let (mut values, mut of) = (Vec::new(), Vec::new());
            let (mut labels, mut a, mut b) = (Vec::new(), Vec::new(), Vec::new());
            for cluster in 0..clusters {
                let (shared, hard) = (rng.normal(), rng.normal());
                for _ in 0..=rng.below(15) {
                    of.push(cluster as u32);
                    values.push(0.2 + shared + rng.normal());
                    let label = rng.uniform() < 0.4;
                    let signal = f64::from(label);
                    labels.push(label);
                    a.push(signal + hard + rng.normal());
                    b.push(signal - hard + rng.normal());
                }
            }
            let within = |i: stats::Interval, truth: f64| usize::from(i.low <= truth && truth <= i.high);
            let resample = stats::Resample::Clustered(&of);
            held += if clusters < 100 {
                within(stats::mean_test(&values, resample).unwrap().interval(0.05), 0.2)
            } else {
                within(stats::paired_bootstrap(&values, resample, 500, 0.05, run as u64).unwrap().bca, 0.2)
            };
            naive += within(stats::mean_test(&values, stats::Resample::Plain).unwrap().interval(0.05), 0.2);
            // Two scores of the same area, each led by its users in its own way.
            if let Some(found) = stats::delong_clustered(&labels, &[&a], &[&b], &of) {
                let error = (found.variance_a + found.variance_b - 2.0 * found.covariance).sqrt();
                let t = (found.auc_b - found.auc_a) / error;
                areas += usize::from(stats::special::t_two_sided(t, clusters as f64 - 1.0) > 0.05);
                rounds += 1;
            }
        }
        let share = naive as f64 / runs as f64;
        println!("FIGURE coverage.clusters_ignored clusters={clusters} runs={runs} covered={share:.4}");
        assert!(share < 0.85, "clusters must matter here: {share}");
        assert!(rounds > runs * 9 / 10, "{rounds}");
        check(&format!("clustered_{clusters}"), held, 0.93, 0.97);
        check(&format!("clustered_auc_{clusters}"), areas + runs - rounds, 0.93, 0.98);
    }
    // Five strata of fixed sizes with means far apart: drawn within, the interval is of what is left to chance.
    let mut held = 0;
    let strata: Vec<u32> = (0..300).map(|i| i % 5).collect();
    for run in 0..runs {
        let mut rng = Rng::stream(90, run as u64);
        let values: Vec<f64> = strata.iter().map(|s| f64::from(*s) - 1.8 + rng.normal()).collect();
        let b = stats::paired_bootstrap(&values, stats::Resample::Stratified(&strata), 500, 0.05, run as u64);
        let i = b.unwrap().bca;
        held += usize::from(i.low <= 0.2 && 0.2 <= i.high);
    }
    check("stratified_5", held, 0.93, 0.97);
    let mut exact = 0;
    for run in 0..runs {
        let mut rng = Rng::stream(60, run as u64);
        let hits = (0..80).filter(|_| rng.uniform() < 0.9).count() as u64;
        let i = stats::clopper_pearson(hits, 80, 0.05);
        exact += usize::from(i.low <= 0.9 && 0.9 <= i.high);
    }
    check("clopper_pearson", exact, 0.945, 1.0);
    // Ten random splits 80/20 of one sample: the difference of two means on the test part, fitted on the rest.
    let mut covered = 0;
    for run in 0..runs {
        let mut rng = Rng::stream(70, run as u64);
        let data: Vec<f64> = (0..100).map(|_| 0.3 + rng.normal()).collect();
        let mut order: Vec<usize> = (0..100).collect();
        let differences: Vec<f64> = (0..10)
            .map(|_| {
                rng.shuffle(&mut order);
                order[..20].iter().map(|i| data[*i]).sum::<f64>() / 20.0
            })
            .collect();
        let i = stats::nadeau_bengio(&differences, 0.25).unwrap().interval(0.05);
        covered += usize::from(i.low <= 0.3 && 0.3 <= i.high);
    }
    check("nadeau_bengio", covered, 0.93, 1.0);
}
