//! Statistics as pure functions: tests, intervals, distances and corrections for drift and for comparisons of models.
//!
//! Nothing here reads data or decides a gate. Every random draw comes from a [`Rng`] with a given seed, so each
//! function is a function of its arguments alone, on any number of threads. Where a test has several forms (exact,
//! asymptotic), the name says which.

mod auc;
mod bootstrap;
mod distance;
mod kolmogorov;
mod multiple;
mod proportion;
mod rng;
mod seeds;
pub mod special;
mod two_sample;

pub use auc::{DeLong, delong, delong_clustered, delong_means};
pub use bootstrap::{Bootstrap, Resample, mean_test, paired_bootstrap};
pub use distance::{js_distance, kl_divergence, psi, sturges_edges, wasserstein};
pub use multiple::{benjamini_hochberg, holm};
pub use proportion::{
    BinomialTest, McNemar, binomial_test, clopper_pearson, mcnemar, mcnemar_exact, two_proportion_z,
};
pub use rng::Rng;
pub use seeds::{Decision, equivalence, nadeau_bengio, needed_per_side, no_worse_than};
pub use two_sample::{
    ChiSquare, Ks, TTest, chi_square_fit, chi_square_table, cramers_v, g_test, ks_two_sample, paired_t,
    student_t, welch_t,
};

#[cfg(test)]
mod tests;

/// A two-sided confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Arithmetic mean; NaN for an empty slice.
pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Variance with `ddof` degrees of freedom taken off (1: the sample's, 0: the population's), in two passes.
pub fn variance(x: &[f64], ddof: usize) -> f64 {
    let m = mean(x);
    let (mut squares, mut rest) = (0.0, 0.0);
    for v in x {
        let d = v - m;
        squares += d * d;
        rest += d;
    }
    let n = x.len() as f64;
    (squares - rest * rest / n) / (n - ddof as f64)
}
