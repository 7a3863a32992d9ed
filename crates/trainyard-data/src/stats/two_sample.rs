//! Two samples: t tests, Kolmogorov-Smirnov, chi-square and G.

use super::kolmogorov::kolmogorov_n_sf;
use super::special::{chi2_sf, kolmogorov_sf, t_quantile, t_two_sided};
use super::{Interval, mean, variance};

/// A t test of `mean(b) - mean(a)`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TTest {
    pub difference: f64,
    pub standard_error: f64,
    pub t: f64,
    pub df: f64,
    /// Two-sided.
    pub p: f64,
}

impl TTest {
    pub(super) fn of(difference: f64, standard_error: f64, df: f64) -> Self {
        let t = if standard_error > 0.0 {
            difference / standard_error
        } else if difference == 0.0 {
            0.0
        } else {
            f64::INFINITY.copysign(difference)
        };
        Self { difference, standard_error, t, df, p: t_two_sided(t, df) }
    }

    /// The two-sided interval of the difference at `1 - alpha`.
    pub fn interval(&self, alpha: f64) -> Interval {
        let half = t_quantile(1.0 - alpha / 2.0, self.df) * self.standard_error;
        Interval { low: self.difference - half, high: self.difference + half }
    }
}

/// Welch's t test: unequal variances. `None` with fewer than two values on a side.
pub fn welch_t(a: &[f64], b: &[f64]) -> Option<TTest> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let (na, nb) = (a.len() as f64, b.len() as f64);
    let (va, vb) = (variance(a, 1) / na, variance(b, 1) / nb);
    let total = va + vb;
    // Both sides constant: there is no spread to estimate; the smaller side's freedom is the cautious one.
    let df = if total > 0.0 {
        total * total / (va * va / (na - 1.0) + vb * vb / (nb - 1.0))
    } else {
        na.min(nb) - 1.0
    };
    Some(TTest::of(mean(b) - mean(a), total.sqrt(), df))
}

/// Student's t test with a pooled variance.
pub fn student_t(a: &[f64], b: &[f64]) -> Option<TTest> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let (na, nb) = (a.len() as f64, b.len() as f64);
    let df = na + nb - 2.0;
    let pooled = ((na - 1.0) * variance(a, 1) + (nb - 1.0) * variance(b, 1)) / df;
    Some(TTest::of(mean(b) - mean(a), (pooled * (1.0 / na + 1.0 / nb)).sqrt(), df))
}

/// The paired t test of `b - a`. `None` unless both have the same length of at least two.
pub fn paired_t(a: &[f64], b: &[f64]) -> Option<TTest> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let n = differences.len() as f64;
    Some(TTest::of(mean(&differences), (variance(&differences, 1) / n).sqrt(), n - 1.0))
}

/// A two-sample Kolmogorov-Smirnov test.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Ks {
    /// The largest distance between the two empirical distribution functions.
    pub d: f64,
    /// Two-sided.
    pub p: f64,
    /// Whether `p` counts lattice paths.
    pub exact: bool,
}

/// Two-sided Kolmogorov-Smirnov test; exact while both sides have at most 10,000 values. Beyond, as scipy has it, the
/// distribution of one sample of `n m / (n + m)` values, and Kolmogorov's limit where that is more than 2,000. NaN values
/// must be dropped before. `None` for an empty side.
pub fn ks_two_sample(a: &[f64], b: &[f64]) -> Option<Ks> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let (n, m) = (a.len() as i64, b.len() as i64);
    // The distance in units of 1 / (n m), as an integer: no rounding in the comparison below.
    let (mut i, mut j, mut widest) = (0_i64, 0_i64, 0_i64);
    while i < n && j < m {
        let x = a[i as usize].min(b[j as usize]);
        while i < n && a[i as usize] <= x {
            i += 1;
        }
        while j < m && b[j as usize] <= x {
            j += 1;
        }
        widest = widest.max((i * m - j * n).abs());
    }
    let d = widest as f64 / (n as f64 * m as f64);
    if n.max(m) <= 10_000 {
        return Some(Ks { d, p: ks_exact(n, m, widest), exact: true });
    }
    let size = n as f64 * m as f64 / (n + m) as f64;
    let p = if size <= 2000.0 {
        kolmogorov_n_sf(size.round_ties_even() as u64, d)
    } else {
        kolmogorov_sf(size.sqrt() * d)
    };
    Some(Ks { d, p, exact: false })
}

/// P(D >= widest / (n m)) when all orders of the pooled sample are equally likely: the mass of lattice paths that
/// leave the band, added up where each leaves it. Only sums of positive numbers, so small p-values stay accurate.
fn ks_exact(n: i64, m: i64, widest: i64) -> f64 {
    if widest == 0 {
        return 1.0;
    }
    let outside = |i: i64, j: i64| (i * m - j * n).abs() >= widest;
    let mut inside = vec![0.0_f64; m as usize + 1];
    let mut left = 0.0;
    inside[0] = 1.0;
    for i in 0..=n {
        // Only what the band of the row before reaches can hold mass in this row.
        let low = (((i - 1) * m - widest) / n).max(0);
        let high = ((i * m + widest) / n + 1).min(m);
        for j in low..=high {
            let at = j as usize;
            let mass = inside[at];
            if mass == 0.0 {
                continue;
            }
            inside[at] = 0.0;
            if outside(i, j) {
                left += mass;
                continue;
            }
            let rest = (n - i + m - j) as f64;
            if j < m {
                inside[at + 1] += mass * ((m - j) as f64 / rest);
            }
            if i < n {
                inside[at] = mass * ((n - i) as f64 / rest);
            }
        }
    }
    left.min(1.0)
}

/// A chi-square statistic with its tail.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct ChiSquare {
    pub statistic: f64,
    pub df: f64,
    pub p: f64,
}

/// Pearson's chi-square of a 2 x k table of counts: are both rows draws from one distribution? Empty columns are left
/// out. `None` if a row is empty.
pub fn chi_square_table(a: &[u64], b: &[u64]) -> Option<ChiSquare> {
    table(a, b, |seen, expected| (seen - expected) * (seen - expected) / expected)
}

/// The likelihood-ratio (G) form of [`chi_square_table`].
pub fn g_test(a: &[u64], b: &[u64]) -> Option<ChiSquare> {
    table(a, b, |seen, expected| if seen > 0.0 { 2.0 * seen * (seen / expected).ln() } else { 0.0 })
}

fn table(a: &[u64], b: &[u64], term: impl Fn(f64, f64) -> f64) -> Option<ChiSquare> {
    let (n, m) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    if n == 0.0 || m == 0.0 {
        return None;
    }
    let (mut statistic, mut cells) = (0.0, 0_u32);
    for (x, y) in a.iter().zip(b) {
        let both = (*x + *y) as f64;
        if both > 0.0 {
            cells += 1;
            statistic += term(*x as f64, both * n / (n + m)) + term(*y as f64, both * m / (n + m));
        }
    }
    let df = f64::from(cells.saturating_sub(1));
    Some(ChiSquare { statistic, df, p: if df > 0.0 { chi2_sf(statistic, df) } else { 1.0 } })
}

/// Pearson's goodness of fit of `observed` to `expected` counts. An expectation of nothing that was seen is infinitely
/// far away.
pub fn chi_square_fit(observed: &[f64], expected: &[f64]) -> ChiSquare {
    let statistic = observed
        .iter()
        .zip(expected)
        .map(|(o, e)| {
            if *e > 0.0 {
                (o - e) * (o - e) / e
            } else if *o > 0.0 {
                f64::INFINITY
            } else {
                0.0
            }
        })
        .sum();
    let df = observed.len().saturating_sub(1) as f64;
    ChiSquare { statistic, df, p: chi2_sf(statistic, df) }
}

/// Cramér's V of a 2 x k table: 0 for equal mixes, 1 for disjoint ones.
pub fn cramers_v(a: &[u64], b: &[u64]) -> f64 {
    let total = (a.iter().sum::<u64>() + b.iter().sum::<u64>()) as f64;
    chi_square_table(a, b).map_or(f64::NAN, |c| (c.statistic / total).sqrt().min(1.0))
}
