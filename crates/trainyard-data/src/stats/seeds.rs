//! Decisions from few repeated trainings: non-inferiority, equivalence, cross-validation, and how many are needed.

use super::special::{normal_quantile, t_quantile, t_sf};
use super::{Interval, Rng, TTest, mean, variance};

/// What an interval says about a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Pass,
    Fail,
    /// The evidence does not reach either way.
    Inconclusive,
}

/// Non-inferiority: `interval` is that of the change, oriented so that more is better; `margin` the loss allowed.
/// An interval with a NaN never passes.
pub fn no_worse_than(interval: Interval, margin: f64) -> Decision {
    if interval.low > -margin {
        Decision::Pass
    } else if interval.high < -margin {
        Decision::Fail
    } else {
        Decision::Inconclusive
    }
}

/// Equivalence by two one-sided t tests (TOST) within `±margin`: the larger of the two p-values.
pub fn equivalence(test: &TTest, margin: f64) -> f64 {
    if test.standard_error <= 0.0 {
        return if test.difference.abs() < margin { 0.0 } else { 1.0 };
    }
    let above = t_sf((test.difference + margin) / test.standard_error, test.df);
    let below = t_sf(-(test.difference - margin) / test.standard_error, test.df);
    above.max(below)
}

/// The corrected resampled t test of Nadeau and Bengio (2003) for differences over folds or random splits:
/// the variance is taken times `1/J + n_test/n_train`. `None` with fewer than two differences.
pub fn nadeau_bengio(differences: &[f64], test_to_train: f64) -> Option<TTest> {
    if differences.len() < 2 {
        return None;
    }
    let j = differences.len() as f64;
    let error = (variance(differences, 1) * (1.0 / j + test_to_train)).sqrt();
    Some(TTest::of(mean(differences), error, j - 1.0))
}

/// Trainings per side so that an unpaired t interval of level `1 - alpha` separates a true distance of `distance`
/// from the margin with probability `power`, at a standard deviation `sd`. At least 2; `None` if no finite number
/// helps (distance 0, or no spread known).
pub fn needed_per_side(distance: f64, sd: f64, alpha: f64, power: f64) -> Option<u64> {
    let effect = (distance / sd).abs();
    if !effect.is_finite() || effect <= 0.0 {
        return None;
    }
    let mut n = 2.0 * ((normal_quantile(1.0 - alpha / 2.0) + normal_quantile(power)) / effect).powi(2);
    // The t quantiles depend on n itself; a few rounds settle it.
    for _ in 0..20 {
        let df = (2.0 * (n.ceil() - 1.0)).max(2.0);
        let next = 2.0 * ((t_quantile(1.0 - alpha / 2.0, df) + t_quantile(power, df)) / effect).powi(2);
        if (next - n).abs() < 0.01 {
            break;
        }
        n = f64::midpoint(n, next);
    }
    if n > 1e9 { None } else { Some((n.ceil() as u64).max(2)) }
}

/// The permutation test of two means, as (two-sided p, exact?): all splits while there are at most 200,000 of them,
/// else 9,999 seeded draws with the observed one counted in.
pub fn permutation_means(a: &[f64], b: &[f64], seed: u64) -> (f64, bool) {
    let pooled: Vec<f64> = a.iter().chain(b).copied().collect();
    let total: f64 = pooled.iter().sum();
    let (k, n) = (b.len(), pooled.len());
    let distance = |sum_b: f64| (sum_b / k as f64 - (total - sum_b) / (n - k) as f64).abs();
    let seen = distance(b.iter().sum());
    // Sums in another order differ in their last bits; equal splits must count as equal.
    let bound = seen - 1e-12 * (seen.abs() + total.abs() / n as f64);
    let splits = (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
    if splits <= 200_000.0 {
        let (mut hits, mut all) = (0_u64, 0_u64);
        let mut pick: Vec<usize> = (0..k).collect();
        loop {
            all += 1;
            hits += u64::from(distance(pick.iter().map(|i| pooled[*i]).sum()) >= bound);
            let Some(at) = (0..k).rev().find(|i| pick[*i] < n - k + i) else { break };
            pick[at] += 1;
            for i in at + 1..k {
                pick[i] = pick[i - 1] + 1;
            }
        }
        return (hits as f64 / all as f64, true);
    }
    let mut rng = Rng::new(seed);
    let mut shuffled = pooled;
    let mut hits = 1_u64;
    for _ in 0..9_999 {
        rng.shuffle(&mut shuffled);
        hits += u64::from(distance(shuffled[..k].iter().sum()) >= bound);
    }
    (hits as f64 / 10_000.0, false)
}
