//! Corrections for many tests at once.

/// Holm's (1979) adjusted p-values: family-wise error. NaN counts as 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut out = vec![0.0; p.len()];
    let mut highest = 0.0_f64;
    for (rank, &at) in order.iter().enumerate() {
        highest = highest.max(valid(p[at]) * (p.len() - rank) as f64).min(1.0);
        out[at] = highest;
    }
    out
}

/// Benjamini and Hochberg's (1995) adjusted p-values: false discovery rate. NaN counts as 1.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let order = ascending(p);
    let mut out = vec![0.0; p.len()];
    let mut lowest = 1.0_f64;
    for (rank, &at) in order.iter().enumerate().rev() {
        lowest = lowest.min(valid(p[at]) * p.len() as f64 / (rank + 1) as f64);
        out[at] = lowest;
    }
    out
}

fn valid(p: f64) -> f64 {
    if p.is_nan() { 1.0 } else { p.clamp(0.0, 1.0) }
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| valid(p[*a]).total_cmp(&valid(p[*b])));
    order
}
