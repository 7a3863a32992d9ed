//! Areas under ROC curves on the same examples.

use super::special::normal_sf;
use super::{Interval, mean, special::normal_quantile};

/// DeLong's comparison of two areas.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DeLong {
    pub auc_a: f64,
    pub auc_b: f64,
    /// Variance of A, of B, and their covariance.
    pub variance_a: f64,
    pub variance_b: f64,
    pub covariance: f64,
    /// `(auc_a - auc_b) / standard error`.
    pub z: f64,
    pub p: f64,
}

impl DeLong {
    /// The interval of `auc_b - auc_a` at `1 - alpha`.
    pub fn interval(&self, alpha: f64) -> Interval {
        let error = (self.variance_a + self.variance_b - 2.0 * self.covariance).max(0.0).sqrt();
        let half = normal_quantile(1.0 - alpha / 2.0) * error;
        let difference = self.auc_b - self.auc_a;
        Interval { low: difference - half, high: difference + half }
    }
}

/// DeLong's test (1988) by the midranks of Sun and Xu (2014), O(n log n). `None` unless both classes have two
/// examples and all lengths agree.
pub fn delong(labels: &[bool], scores_a: &[f64], scores_b: &[f64]) -> Option<DeLong> {
    delong_means(labels, &[scores_a], &[scores_b])
}

/// The same for the mean area of several trainings a side, each with its own scores of the same examples: an example's
/// structural components are averaged over the trainings, since an area is linear in them.
pub fn delong_means(labels: &[bool], scores_a: &[&[f64]], scores_b: &[&[f64]]) -> Option<DeLong> {
    areas(labels, scores_a, scores_b, None)
}

/// The same where examples come in clusters (all of one user, say), which may hold both classes: Obuchowski (1997). One cluster
/// number for each example; where every cluster is one example, it is `DeLong`'s. `None` also unless two clusters have positives and
/// two have negatives.
pub fn delong_clustered(
    labels: &[bool],
    scores_a: &[&[f64]],
    scores_b: &[&[f64]],
    clusters: &[u32],
) -> Option<DeLong> {
    areas(labels, scores_a, scores_b, Some(clusters))
}

fn areas(
    labels: &[bool],
    scores_a: &[&[f64]],
    scores_b: &[&[f64]],
    clusters: Option<&[u32]>,
) -> Option<DeLong> {
    let positives = labels.iter().filter(|l| **l).count();
    let negatives = labels.len() - positives;
    let fits = |scores: &[&[f64]]| !scores.is_empty() && scores.iter().all(|s| s.len() == labels.len());
    if positives < 2 || negatives < 2 || !fits(scores_a) || !fits(scores_b) {
        return None;
    }
    let (m, n) = (positives as f64, negatives as f64);
    let averaged = |scores: &[&[f64]]| {
        let (mut auc, mut v10, mut v01) = (0.0, vec![0.0; positives], vec![0.0; negatives]);
        let share = 1.0 / scores.len() as f64;
        for one in scores {
            let (area, p, q) = components(labels, one, m, n);
            auc += area * share;
            v10.iter_mut().zip(p).for_each(|(sum, x)| *sum += x * share);
            v01.iter_mut().zip(q).for_each(|(sum, x)| *sum += x * share);
        }
        (auc, v10, v01)
    };
    let (auc_a, v10_a, v01_a) = averaged(scores_a);
    let (auc_b, v10_b, v01_b) = averaged(scores_b);
    let (variance_a, variance_b, shared) = if let Some(clusters) = clusters {
        let a = Summed::of(labels, clusters, &v10_a, &v01_a, auc_a)?;
        let b = Summed::of(labels, clusters, &v10_b, &v01_b, auc_b)?;
        (a.covariance(&a, m, n), b.covariance(&b, m, n), a.covariance(&b, m, n))
    } else {
        let covariance = |x: &[f64], y: &[f64]| {
            let (mx, my) = (mean(x), mean(y));
            x.iter().zip(y).map(|(a, b)| (a - mx) * (b - my)).sum::<f64>() / (x.len() as f64 - 1.0)
        };
        let both =
            |x: (&[f64], &[f64]), y: (&[f64], &[f64])| covariance(x.0, y.0) / m + covariance(x.1, y.1) / n;
        let (a, b) = ((v10_a.as_slice(), v01_a.as_slice()), (v10_b.as_slice(), v01_b.as_slice()));
        (both(a, a), both(b, b), both(a, b))
    };
    let error = (variance_a + variance_b - 2.0 * shared).max(0.0).sqrt();
    let (z, p) = if error > 0.0 {
        let z = (auc_a - auc_b) / error;
        (z, 2.0 * normal_sf(z.abs()))
    } else {
        (0.0, 1.0)
    };
    Some(DeLong { auc_a, auc_b, variance_a, variance_b, covariance: shared, z, p })
}

/// Structural components less the area, summed by cluster: of the positives and of the negatives in it.
struct Summed {
    by_cluster: Vec<(f64, f64)>,
    with_positives: f64,
    with_negatives: f64,
}

impl Summed {
    fn of(labels: &[bool], clusters: &[u32], v10: &[f64], v01: &[f64], auc: f64) -> Option<Self> {
        if clusters.len() != labels.len() {
            return None;
        }
        let mut sums: std::collections::BTreeMap<u32, (f64, f64, bool, bool)> =
            std::collections::BTreeMap::new();
        let (mut positives, mut negatives) = (v10.iter(), v01.iter());
        for (label, cluster) in labels.iter().zip(clusters) {
            let sum = sums.entry(*cluster).or_default();
            if *label {
                sum.0 += positives.next()? - auc;
                sum.2 = true;
            } else {
                sum.1 += negatives.next()? - auc;
                sum.3 = true;
            }
        }
        let count = |of: fn(&(f64, f64, bool, bool)) -> bool| sums.values().filter(|s| of(s)).count() as f64;
        let (with_positives, with_negatives) = (count(|s| s.2), count(|s| s.3));
        let by_cluster = sums.values().map(|s| (s.0, s.1)).collect();
        (with_positives >= 2.0 && with_negatives >= 2.0).then_some(Self {
            by_cluster,
            with_positives,
            with_negatives,
        })
    }

    /// Of the two areas; the clusters are the same.
    fn covariance(&self, other: &Self, m: f64, n: f64) -> f64 {
        let sum = |of: fn((f64, f64), (f64, f64)) -> f64| {
            self.by_cluster.iter().zip(&other.by_cluster).map(|(x, y)| of(*x, *y)).sum::<f64>()
        };
        let freed = |clusters: f64| clusters / (clusters - 1.0);
        let s10 = freed(self.with_positives) * sum(|x, y| x.0 * y.0) / m;
        let s01 = freed(self.with_negatives) * sum(|x, y| x.1 * y.1) / n;
        let s11 = freed(self.by_cluster.len() as f64) * sum(|x, y| x.0 * y.1 + x.1 * y.0);
        s10 / m + s01 / n + s11 / (m * n)
    }
}

fn components(labels: &[bool], scores: &[f64], m: f64, n: f64) -> (f64, Vec<f64>, Vec<f64>) {
    let pick = |want: bool| -> Vec<f64> {
        labels.iter().zip(scores).filter(|(l, _)| **l == want).map(|(_, s)| *s).collect()
    };
    let (positive, negative) = (pick(true), pick(false));
    let both: Vec<f64> = positive.iter().chain(&negative).copied().collect();
    let (all, own_p, own_n) = (midranks(&both), midranks(&positive), midranks(&negative));
    let sum: f64 = all[..positive.len()].iter().sum();
    let auc = (sum - m * (m + 1.0) / 2.0) / (m * n);
    let v10 = all[..positive.len()].iter().zip(&own_p).map(|(t, x)| (t - x) / n).collect();
    let v01 = all[positive.len()..].iter().zip(&own_n).map(|(t, y)| 1.0 - (t - y) / m).collect();
    (auc, v10, v01)
}

fn midranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    let mut ranks = vec![0.0; x.len()];
    let mut i = 0;
    while i < order.len() {
        let mut j = i;
        while j < order.len() && x[order[j]] == x[order[i]] {
            j += 1;
        }
        let rank = (i + j + 1) as f64 / 2.0;
        for &at in &order[i..j] {
            ranks[at] = rank;
        }
        i = j;
    }
    ranks
}
