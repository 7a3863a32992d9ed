//! Decisions from few repeated trainings: non-inferiority, equivalence, cross-validation, and how many are needed.

use super::special::{normal_quantile, t_quantile, t_sf};
use super::{Interval, TTest, mean, variance};

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
