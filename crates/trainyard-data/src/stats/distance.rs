//! Distances between two distributions, over counts or over samples.

/// Shares of counts. All zeros give NaN.
fn shares(counts: &[u64]) -> Vec<f64> {
    let total = counts.iter().sum::<u64>() as f64;
    counts.iter().map(|c| *c as f64 / total).collect()
}

/// Zero shares replaced as Evidently does: by a millionth of the smallest share if that is tiny, else by 1e-4.
fn filled(counts: &[u64]) -> Vec<f64> {
    let mut p = shares(counts);
    let smallest = p.iter().copied().filter(|x| *x > 0.0).fold(f64::INFINITY, f64::min);
    let fill = if smallest <= 1e-4 { smallest / 1e6 } else { 1e-4 };
    for x in &mut p {
        if *x == 0.0 {
            *x = fill;
        }
    }
    p
}

/// Population stability index of two rows of counts, natural logarithm.
pub fn psi(reference: &[u64], current: &[u64]) -> f64 {
    filled(reference).iter().zip(filled(current)).map(|(p, q)| (p - q) * (p / q).ln()).sum()
}

/// Kullback-Leibler divergence of the reference from the current counts, renormalised, natural logarithm.
pub fn kl_divergence(reference: &[u64], current: &[u64]) -> f64 {
    let (p, q) = (filled(reference), filled(current));
    let (sum_p, sum_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    p.iter().zip(q).map(|(p, q)| (p / sum_p) * ((p / sum_p) / (q / sum_q)).ln()).sum()
}

/// Jensen-Shannon distance: the root of the divergence in nats; at most sqrt(ln 2).
pub fn js_distance(reference: &[u64], current: &[u64]) -> f64 {
    let part = |x: f64, m: f64| if x > 0.0 { x * (x / m).ln() } else { 0.0 };
    let sum: f64 = shares(reference)
        .iter()
        .zip(shares(current))
        .map(|(p, q)| part(*p, f64::midpoint(*p, q)) + part(q, f64::midpoint(*p, q)))
        .sum();
    (sum / 2.0).max(0.0).sqrt()
}

/// First Wasserstein distance of two samples. NaN for an empty one.
pub fn wasserstein(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return f64::NAN;
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let (n, m) = (a.len() as f64, b.len() as f64);
    let (mut i, mut j, mut total) = (0, 0, 0.0);
    let mut at = a[0].min(b[0]);
    while i < a.len() || j < b.len() {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) => *x,
            (None, Some(y)) => *y,
            (None, None) => break,
        };
        total += (i as f64 / n - j as f64 / m).abs() * (next - at);
        at = next;
        while i < a.len() && a[i] <= at {
            i += 1;
        }
        while j < b.len() && b[j] <= at {
            j += 1;
        }
    }
    total
}

/// Bin edges by Sturges' rule over `count` values between `low` and `high`, as numpy makes them.
pub fn sturges_edges(low: f64, high: f64, count: usize) -> Vec<f64> {
    if high <= low {
        return vec![low - 0.5, low + 0.5];
    }
    let width = (high - low) / ((count as f64).log2() + 1.0);
    let bins = ((high - low) / width).ceil().max(1.0) as usize;
    let step = (high - low) / bins as f64;
    (0..=bins).map(|i| if i == bins { high } else { i as f64 * step + low }).collect()
}
