//! Golden values, computed with scipy 1.17.1 and statsmodels; the wide comparison is in `tests/it/agreement.rs`.

use super::special::*;
use super::*;

fn near(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1e-300), "{got:e}, wanted {want:e}");
}

const A: [f64; 5] = [0.8421, 0.8397, 0.8452, 0.8433, 0.8410];
const B: [f64; 5] = [0.8475, 0.8461, 0.8490, 0.8439, 0.8482];

#[test]
fn t_tests_of_five_seeds() {
    let t = welch_t(&A, &B).unwrap();
    near(t.t, 3.590_241_009_803_395_7);
    near(t.df, 7.977_619_522_937_754);
    near(t.p, 0.007_114_982_539_015_656_5);
    let i = t.interval(0.05);
    near(i.low, 0.001_672_577_495_129_174_8);
    near(i.high, 0.007_687_422_504_870_638);
    let p = paired_t(&A, &B).unwrap();
    near(p.t, 4.009_530_630_617_795);
    near(p.p, 0.016_002_830_178_910_903);
}

#[test]
fn mcnemar_in_three_forms() {
    let m = mcnemar(34, 58);
    near(m.exact_p, 0.016_020_274_788_899_98);
    near(m.corrected_p, 0.016_488_656_727_670_158);
    near(m.plain_p, 0.012_343_360_353_455_044);
}

#[test]
fn corrections_for_ten_tests() {
    let p = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216];
    let h = holm(&p);
    for (got, want) in h.iter().zip([0.01, 0.072, 0.312, 0.312, 0.312, 0.312, 0.312, 0.615, 0.615, 0.615]) {
        near(*got, want);
    }
    let b = benjamini_hochberg(&p);
    for (got, want) in b.iter().zip([0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.74 / 7.0, 0.216, 0.216, 0.216]) {
        near(*got, want);
    }
}

#[test]
fn distances_of_small_samples() {
    let a = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 8.0, 9.0, 10.0];
    let b = [2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 11.0, 12.0, 13.0];
    let ks = ks_two_sample(&a, &b).unwrap();
    near(ks.d, 0.336_363_636_363_636_36);
    near(ks.p, 0.479_150_364_599_281);
    near(wasserstein(&a, &b), 2.318_181_818_181_817_5);
    near(wasserstein(&a, &b) / variance(&a, 0).sqrt(), 0.754_104_601_823_866_3);
    let edges = sturges_edges(1.0, 13.0, 21);
    assert_eq!(edges, [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0]);
}

#[test]
fn two_categories_of_unequal_mix() {
    // The target of breast_cancer, first against second half.
    let (r, c) = ([145, 139], [67, 218]);
    near(js_distance(&r, &c), 0.203_235_799_006_726);
    near(psi(&r, &c), 0.336_648_406_822_145_6);
    near(kl_divergence(&r, &c), 0.177_434_047_096_092_28);
    near(cramers_v(&r, &c), 0.284_880_547_489_243_4);
    near(chi_square_table(&r, &c).unwrap().statistic, 46.178_291_086_191_734);
    near(two_proportion_z(139, 284, 218, 285).1, 1.079_666_736_092_227_8e-11);
    let scale = 285.0 / 284.0;
    near(chi_square_fit(&[67.0, 218.0], &[145.0 * scale, 139.0 * scale]).p, 1.362_743_066_344_463_6e-20);
}

#[test]
fn quantiles_undo_their_functions() {
    for p in [1e-12, 1e-6, 0.025, 0.3, 0.5, 0.8, 0.975, 1.0 - 1e-9] {
        near(normal_cdf(normal_quantile(p)), p);
        for df in [1.0, 2.0, 4.0, 7.97, 30.0, 1000.0] {
            let t = t_quantile(p, df);
            near(if p < 0.5 { t_sf(-t, df) } else { 1.0 - t_sf(t, df) }, p);
        }
        for (a, b) in [(0.5, 0.5), (1.0, 9.0), (40.0, 2.5)] {
            near(beta_cdf(a, b, beta_quantile(a, b, p)), p);
        }
    }
    assert!(normal_quantile(-1.0).is_nan() && t_quantile(2.0, 3.0).is_nan() && chi2_sf(1.0, 0.0).is_nan());
}

#[test]
fn nothing_passes_on_what_is_not_a_number() {
    assert_eq!(no_worse_than(Interval { low: f64::NAN, high: f64::NAN }, 0.1), Decision::Inconclusive);
    assert!(welch_t(&[1.0], &[1.0, 2.0]).is_none());
    assert!(paired_bootstrap(&[1.0, f64::NAN], Resample::Plain, 100, 0.05, 1).is_none());
    assert_eq!(needed_per_side(0.0, 1.0, 0.05, 0.8), None);
}

#[test]
fn seeds_for_known_effects() {
    // Standard deviations between the means → seeds per side for 80 % power.
    assert_eq!(needed_per_side(1.0, 1.0, 0.05, 0.8), Some(17));
    assert!((5..=6).contains(&needed_per_side(2.0, 1.0, 0.05, 0.8).unwrap()));
}

#[test]
fn a_bootstrap_is_its_seed() {
    let mut rng = Rng::new(5);
    let values: Vec<f64> = (0..5001).map(|_| rng.normal() + 0.3).collect();
    let a = paired_bootstrap(&values, Resample::Plain, 400, 0.05, 9).unwrap();
    assert_eq!(a, paired_bootstrap(&values, Resample::Plain, 400, 0.05, 9).unwrap());
    assert_ne!(a, paired_bootstrap(&values, Resample::Plain, 400, 0.05, 10).unwrap());
    // The width is that of the normal theory.
    let theory = 2.0 * 1.96 * (variance(&values, 1) / 5001.0).sqrt();
    let width = a.percentile.high - a.percentile.low;
    assert!((width / theory - 1.0).abs() < 0.12, "{width} against {theory}");
}

#[test]
fn clusters_widen_and_strata_narrow() {
    let mut rng = Rng::new(6);
    let groups: Vec<u32> = (0..2000).map(|i| i / 20).collect();
    let effect: Vec<f64> = (0..100).map(|_| rng.normal()).collect();
    let values: Vec<f64> = groups.iter().map(|g| effect[*g as usize] + 0.1 * rng.normal()).collect();
    let width = |b: Bootstrap| b.percentile.high - b.percentile.low;
    let plain = width(paired_bootstrap(&values, Resample::Plain, 500, 0.05, 1).unwrap());
    let clustered = width(paired_bootstrap(&values, Resample::Clustered(&groups), 500, 0.05, 1).unwrap());
    let stratified = width(paired_bootstrap(&values, Resample::Stratified(&groups), 500, 0.05, 1).unwrap());
    assert!(clustered > 2.0 * plain && stratified < 0.5 * plain, "{stratified} {plain} {clustered}");
}

/// One example in each cluster is no clustering; examples that stand twice add nothing.
#[test]
fn copies_in_a_cluster_change_nothing() {
    let mut rng = Rng::new(8);
    let values: Vec<f64> = (0..400).map(|_| rng.normal() + 0.1).collect();
    let each: Vec<u32> = (0..400).collect();
    let twice: Vec<f64> = values.iter().flat_map(|v| [*v, *v]).collect();
    let of: Vec<u32> = each.iter().flat_map(|c| [*c, *c]).collect();
    let drawn = |v: &[f64], how: Resample<'_>| paired_bootstrap(v, how, 1_000, 0.05, 3).unwrap();
    let plain = drawn(&values, Resample::Plain);
    assert_eq!(drawn(&values, Resample::Clustered(&each)), plain);
    let copied = drawn(&twice, Resample::Clustered(&of));
    assert_eq!((copied.bca, copied.percentile), (plain.bca, plain.percentile));
    let test = |v: &[f64], how: Resample<'_>| mean_test(v, how).unwrap();
    let (once, both) = (test(&values, Resample::Plain), test(&twice, Resample::Clustered(&of)));
    near(both.standard_error, once.standard_error);
    near(both.p, once.p);
    near(once.p, paired_t(&vec![0.0; 400], &values).unwrap().p);
    // Areas, too.
    let labels: Vec<bool> = (0..400).map(|i| i % 3 == 0).collect();
    let score = |k: usize| -> Vec<f64> { (0..400).map(|i| ((i * k) % 171) as f64).collect() };
    let (a, b) = (score(50), score(70));
    let one = delong(&labels, &a, &b).unwrap();
    let alone = delong_clustered(&labels, &[&a], &[&b], &each).unwrap();
    let double = |x: &[f64]| -> Vec<f64> { x.iter().flat_map(|v| [*v, *v]).collect() };
    let labels: Vec<bool> = labels.iter().flat_map(|l| [*l, *l]).collect();
    let copied = delong_clustered(&labels, &[&double(&a)], &[&double(&b)], &of).unwrap();
    for other in [alone, copied] {
        near(other.auc_a, one.auc_a);
        near(other.variance_a, one.variance_a);
        near(other.variance_b, one.variance_b);
        near(other.covariance, one.covariance);
        near(other.p, one.p);
    }
    assert!(delong_clustered(&labels, &[&double(&a)], &[&double(&b)], &[0; 800]).is_none());
}

#[test]
fn the_mean_area_of_equal_trainings_is_that_of_one() {
    let labels: Vec<bool> = (0..60).map(|i| i % 3 == 0).collect();
    let score = |k: usize| -> Vec<f64> { (0..60).map(|i| ((i * k) % 17) as f64).collect() };
    let (a, b) = (score(5), score(7));
    let one = delong(&labels, &a, &b).unwrap();
    let twice = delong_means(&labels, &[&a, &a], &[&b, &b]).unwrap();
    assert!((one.auc_b - twice.auc_b).abs() < 1e-12 && (one.variance_a - twice.variance_a).abs() < 1e-12);
    // Two different trainings: the mean of the areas, and less variance than the worse of them has.
    let mixed = delong_means(&labels, &[&a], &[&a, &b]).unwrap();
    assert!((mixed.auc_b - f64::midpoint(one.auc_a, one.auc_b)).abs() < 1e-12);
    assert!(mixed.variance_b <= one.variance_a.max(one.variance_b));
    assert!(
        delong_means(&labels, &[], &[&a]).is_none() && delong_means(&labels, &[&a[1..]], &[&a]).is_none()
    );
}
