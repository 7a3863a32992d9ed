//! The paired bootstrap over examples: intervals of a mean difference.
//!
//! A replicate draws as many examples as there are, with replacement. Large sets are drawn block by block: how many
//! draws fall into a block is itself a multinomial draw (halved exactly, by counting fair coins), and inside of a
//! block the values stay in the processor's cache. The result is the plain bootstrap's distribution.

use super::special::{normal_cdf, normal_quantile, t_two_sided};
use super::{Interval, Rng, TTest, mean, variance};

/// How examples are drawn.
#[derive(Debug, Clone, Copy)]
pub enum Resample<'a> {
    /// Each example by itself.
    Plain,
    /// Within each stratum as many as it has; one stratum number per example.
    Stratified(&'a [u32]),
    /// Whole clusters (all examples of one user, say); one cluster number per example.
    Clustered(&'a [u32]),
}

/// The bootstrap of a mean difference.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Bootstrap {
    pub mean: f64,
    pub percentile: Interval,
    /// Bias-corrected and accelerated (Efron 1987).
    pub bca: Interval,
    pub replicates: usize,
}

/// Intervals of the mean of per-example differences at `1 - alpha`. `None` with fewer than two examples (or
/// clusters), or when a value is not finite. Deterministic in `seed`, whatever the number of threads.
pub fn paired_bootstrap(
    differences: &[f64],
    resample: Resample<'_>,
    replicates: usize,
    alpha: f64,
    seed: u64,
) -> Option<Bootstrap> {
    if differences.len() < 2 || replicates < 2 || differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let strata: Vec<Vec<f64>> = match resample {
        Resample::Plain => vec![differences.to_vec()],
        Resample::Stratified(of) => grouped(differences, of)?,
        Resample::Clustered(of) => {
            let clusters = grouped(differences, of)?;
            match of_one_size(&clusters) {
                // Of clusters of one size, every draw has as many examples: the mean is that of the clusters' means.
                Some(means) => return paired_bootstrap(&means, Resample::Plain, replicates, alpha, seed),
                None => return clustered(&clusters, replicates, alpha, seed),
            }
        }
    };
    let n = differences.len() as f64;
    let draw = |replicate: usize| {
        let mut rng = Rng::stream(seed, replicate as u64);
        strata.iter().map(|s| resampled_sum(&mut rng, s, s.len() as u64)).sum::<f64>() / n
    };
    let means = in_parallel(replicates, &draw);
    let centre = mean(differences);
    // The acceleration from the jackknife; for a mean that is the skewness of the values, within strata.
    let (mut cubes, mut squares) = (0.0, 0.0);
    for stratum in &strata {
        let m = mean(stratum);
        for v in stratum {
            let d = v - m;
            squares += d * d;
            cubes += d * d * d;
        }
    }
    let acceleration = if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 };
    Some(summary(centre, means, acceleration, alpha))
}

/// The t test of "the mean difference is zero" that goes with such a draw. Clusters: the jackknife over clusters with
/// C - 1 degrees of freedom (CV3 of `MacKinnon`, Nielsen and Webb 2023), which is not too sure of few clusters of unequal sizes. Strata: the variances within them, weighted. `None` as
/// for the bootstrap, or where nothing varies.
pub fn mean_test(differences: &[f64], resample: Resample<'_>) -> Option<TTest> {
    if differences.len() < 2 || differences.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let n = differences.len() as f64;
    let centre = mean(differences);
    let (squared, df) = match resample {
        Resample::Plain => (variance(differences, 1) / n, n - 1.0),
        Resample::Stratified(of) => {
            let strata = grouped(differences, of)?;
            // A stratum of one example says nothing of its spread.
            let within = |s: &Vec<f64>| if s.len() < 2 { 0.0 } else { s.len() as f64 * variance(s, 1) };
            (strata.iter().map(within).sum::<f64>() / (n * n), n - strata.len() as f64)
        }
        Resample::Clustered(of) => {
            let clusters = grouped(differences, of)?;
            let c = clusters.len() as f64;
            // What the mean moves by without the cluster.
            let off =
                |c: &Vec<f64>| (c.iter().map(|d| d - centre).sum::<f64>() / (n - c.len() as f64)).powi(2);
            ((c - 1.0) / c * clusters.iter().map(off).sum::<f64>(), c - 1.0)
        }
    };
    let error = squared.sqrt();
    if !(error > 0.0 && error.is_finite() && df >= 1.0) {
        return None;
    }
    let t = centre / error;
    Some(TTest { difference: centre, standard_error: error, t, df, p: t_two_sided(t, df) })
}

/// Their means, where all have as many values.
fn of_one_size(clusters: &[Vec<f64>]) -> Option<Vec<f64>> {
    let size = clusters.first()?.len();
    clusters.iter().all(|c| c.len() == size).then(|| clusters.iter().map(|c| mean(c)).collect())
}

fn grouped(values: &[f64], of: &[u32]) -> Option<Vec<Vec<f64>>> {
    if of.len() != values.len() {
        return None;
    }
    let mut groups: std::collections::BTreeMap<u32, Vec<f64>> = std::collections::BTreeMap::new();
    for (v, g) in values.iter().zip(of) {
        groups.entry(*g).or_default().push(*v);
    }
    Some(groups.into_values().collect())
}

fn clustered(clusters: &[Vec<f64>], replicates: usize, alpha: f64, seed: u64) -> Option<Bootstrap> {
    if clusters.len() < 2 {
        return None;
    }
    let parts: Vec<(f64, f64)> = clusters.iter().map(|c| (c.iter().sum(), c.len() as f64)).collect();
    let (sum, count) = parts.iter().fold((0.0, 0.0), |(s, n), p| (s + p.0, n + p.1));
    let draw = |replicate: usize| {
        let mut rng = Rng::stream(seed, replicate as u64);
        let (mut s, mut n) = (0.0, 0.0);
        for _ in 0..parts.len() {
            let p = parts[rng.below(parts.len() as u64) as usize];
            s += p.0;
            n += p.1;
        }
        s / n
    };
    let means = in_parallel(replicates, &draw);
    let left_out: Vec<f64> = parts.iter().map(|p| (sum - p.0) / (count - p.1)).collect();
    let m = mean(&left_out);
    let (cubes, squares) =
        left_out.iter().fold((0.0, 0.0), |(c, s), v| (c + (m - v).powi(3), s + (m - v).powi(2)));
    let acceleration = if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 };
    Some(summary(sum / count, means, acceleration, alpha))
}

/// Values of a block: 16 KiB, half of a first-level cache.
const BLOCK: usize = 2048;

/// The sum of `draws` values drawn with replacement.
fn resampled_sum(rng: &mut Rng, values: &[f64], draws: u64) -> f64 {
    let mut levels = 0;
    while values.len().div_ceil(1 << levels) > BLOCK {
        levels += 1;
    }
    let block = values.len().div_ceil(1 << levels);
    // The blocks may reach beyond the end by less than their number; draws that land there are drawn again.
    let (mut sum, missed) = drawn_from(rng, values, block, 0, levels, draws);
    for _ in 0..missed {
        sum += values[rng.below(values.len() as u64) as usize];
    }
    sum
}

/// The sum of `draws` draws from `2^levels` blocks from block `first` on, and how many fell beyond the end.
fn drawn_from(
    rng: &mut Rng,
    values: &[f64],
    block: usize,
    first: usize,
    levels: u32,
    draws: u64,
) -> (f64, u64) {
    if levels > 0 {
        let left = rng.fair_coins(draws);
        let (a, missed_a) = drawn_from(rng, values, block, first, levels - 1, left);
        let (b, missed_b) =
            drawn_from(rng, values, block, first + (1 << (levels - 1)), levels - 1, draws - left);
        return (a + b, missed_a + missed_b);
    }
    let start = (first * block).min(values.len());
    let values = &values[start..(start + block).min(values.len())];
    let n = block as u64;
    if values.len() < block {
        let (mut sum, mut missed) = (0.0, 0);
        for _ in 0..draws {
            match values.get(rng.below(n) as usize) {
                Some(v) => sum += v,
                None => missed += 1,
            }
        }
        return (sum, missed);
    }
    let (mut a, mut b) = (0.0, 0.0);
    for _ in 0..draws / 2 {
        // Two indices of one draw: 32 bits each, so the bias is below 2048 / 2^32.
        let x = rng.next_u64();
        a += values[(((x >> 32) * n) >> 32) as usize];
        b += values[(((x & 0xffff_ffff) * n) >> 32) as usize];
    }
    if draws % 2 == 1 {
        a += values[rng.below(n) as usize];
    }
    (a + b, 0)
}

/// `draw(0..count)` in order, on all cores.
fn in_parallel(count: usize, draw: &(impl Fn(usize) -> f64 + Sync)) -> Vec<f64> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(count);
    let mut out = vec![0.0; count];
    let share = count.div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        for (part, chunk) in out.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (i, slot) in chunk.iter_mut().enumerate() {
                    *slot = draw(part * share + i);
                }
            });
        }
    });
    out
}

fn summary(centre: f64, mut means: Vec<f64>, acceleration: f64, alpha: f64) -> Bootstrap {
    means.sort_by(f64::total_cmp);
    let below = means.iter().filter(|m| **m < centre).count() as f64;
    let ties = means.iter().filter(|m| **m == centre).count() as f64;
    let share = ((below + ties / 2.0) / means.len() as f64).clamp(1e-9, 1.0 - 1e-9);
    let bias = normal_quantile(share);
    let adjusted = |p: f64| {
        let z = bias + normal_quantile(p);
        normal_cdf(bias + z / (1.0 - acceleration * z))
    };
    let (low, high) = (alpha / 2.0, 1.0 - alpha / 2.0);
    Bootstrap {
        mean: centre,
        percentile: Interval { low: at(&means, low), high: at(&means, high) },
        bca: Interval { low: at(&means, adjusted(low)), high: at(&means, adjusted(high)) },
        replicates: means.len(),
    }
}

/// A quantile of sorted values, interpolated linearly.
fn at(sorted: &[f64], p: f64) -> f64 {
    let place = p.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let low = place.floor() as usize;
    let high = place.ceil() as usize;
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}
