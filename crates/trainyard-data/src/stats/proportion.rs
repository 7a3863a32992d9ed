//! Shares and paired right/wrong answers.

use statrs::function::gamma::ln_gamma;

use super::Interval;
use super::special::{beta_cdf, beta_quantile, chi2_sf, normal_sf};

/// The z test of two proportions with a pooled variance, as (z, two-sided p). Two equal constants give (0, 1).
pub fn two_proportion_z(hits_a: u64, n_a: u64, hits_b: u64, n_b: u64) -> (f64, f64) {
    let (n, m) = (n_a as f64, n_b as f64);
    let (pa, pb) = (hits_a as f64 / n, hits_b as f64 / m);
    let pooled = (hits_a + hits_b) as f64 / (n + m);
    let spread = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    if spread > 0.0 {
        let z = (pa - pb) / spread;
        (z, 2.0 * normal_sf(z.abs()))
    } else {
        (0.0, 1.0)
    }
}

/// The exact interval of Clopper and Pearson (1934) for a share.
pub fn clopper_pearson(hits: u64, n: u64, alpha: f64) -> Interval {
    let (k, n) = (hits as f64, n as f64);
    Interval {
        low: if hits == 0 { 0.0 } else { beta_quantile(k, n - k + 1.0, alpha / 2.0) },
        high: if k >= n { 1.0 } else { beta_quantile(k + 1.0, n - k, 1.0 - alpha / 2.0) },
    }
}

/// An exact binomial test.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct BinomialTest {
    pub share: f64,
    /// Two-sided: all outcomes that are no more likely than the one seen.
    pub p: f64,
}

/// Exact two-sided binomial test of `hits` of `n` against the share `expected` in (0, 1).
pub fn binomial_test(hits: u64, n: u64, expected: f64) -> BinomialTest {
    let share = hits as f64 / n as f64;
    let (k, total) = (hits as f64, n as f64);
    let (q_low, q_high) = (expected.ln(), (-expected).ln_1p());
    let log_mass = |i: u64| {
        let i = i as f64;
        ln_gamma(total + 1.0) - ln_gamma(i + 1.0) - ln_gamma(total - i + 1.0)
            + i * q_low
            + (total - i) * q_high
    };
    // P(X <= k) and P(X >= k) as incomplete betas.
    let below = |k: f64| {
        if k < 0.0 {
            0.0
        } else if k >= total {
            1.0
        } else {
            beta_cdf(total - k, k + 1.0, 1.0 - expected)
        }
    };
    let above = |k: f64| {
        if k <= 0.0 {
            1.0
        } else if k > total {
            0.0
        } else {
            beta_cdf(k, total - k + 1.0, expected)
        }
    };
    let bound = log_mass(hits) + 1e-7;
    let centre = expected * total;
    if k == centre {
        return BinomialTest { share, p: 1.0 };
    }
    // The masses fall away from the centre on both sides: search the far side for the first that is as unlikely.
    let p = if k < centre {
        let (mut low, mut high) = (centre.ceil() as u64, n + 1);
        while low < high {
            let middle = u64::midpoint(low, high);
            if log_mass(middle) <= bound { high = middle } else { low = middle + 1 }
        }
        below(k) + above(low as f64)
    } else {
        let (mut low, mut high) = (0_u64, centre.floor() as u64 + 1);
        while low < high {
            let middle = u64::midpoint(low, high);
            if log_mass(middle) <= bound { low = middle + 1 } else { high = middle }
        }
        below(low as f64 - 1.0) + above(k)
    };
    BinomialTest { share, p: p.min(1.0) }
}

/// McNemar's test of two models' right and wrong answers on the same examples.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct McNemar {
    pub exact_p: f64,
    /// Chi-square with continuity correction.
    pub corrected_p: f64,
    pub plain_p: f64,
}

/// `only_a` examples that only A answers rightly, `only_b` that only B does.
pub fn mcnemar(only_a: u64, only_b: u64) -> McNemar {
    let (b, c) = (only_a as f64, only_b as f64);
    let total = b + c;
    if total == 0.0 {
        return McNemar { exact_p: 1.0, corrected_p: 1.0, plain_p: 1.0 };
    }
    let corrected = ((b - c).abs() - 1.0).max(0.0).powi(2) / total;
    McNemar {
        exact_p: mcnemar_exact(only_a, only_b),
        corrected_p: chi2_sf(corrected, 1.0),
        plain_p: chi2_sf((b - c) * (b - c) / total, 1.0),
    }
}

/// The exact two-sided p-value of McNemar's test: twice the smaller binomial tail.
pub fn mcnemar_exact(only_a: u64, only_b: u64) -> f64 {
    let n = (only_a + only_b) as f64;
    let k = only_a.min(only_b) as f64;
    if n == 0.0 || 2.0 * k >= n {
        return 1.0;
    }
    (2.0 * beta_cdf(n - k, k + 1.0, 0.5)).min(1.0)
}
