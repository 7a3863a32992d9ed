//! The distribution of Kolmogorov's statistic for samples of a finite size.

use statrs::function::gamma::ln_gamma;

/// P(D >= d) for the largest distance of `n` draws' empirical distribution function from the one that they come from.
/// The power of a matrix (Marsaglia, Tsang and Wang 2003); where `n d²` is 4 or more twice Smirnov's one-sided tail,
/// which is off by less than 1e-13 there. Takes time as `n^1.5 log n`: meant for `n` up to a few thousand.
pub fn kolmogorov_n_sf(n: u64, d: f64) -> f64 {
    if n == 0 || d.is_nan() {
        return f64::NAN;
    }
    let size = n as f64;
    if d >= 1.0 {
        0.0
    } else if d <= 0.5 / size {
        1.0
    } else if size * d * d >= 4.0 {
        (2.0 * smirnov_sf(size, d)).min(1.0)
    } else {
        (1.0 - cdf(n, d)).clamp(0.0, 1.0)
    }
}

/// P(D+ >= d), a sum of positive terms (Birnbaum and Tingey 1951).
fn smirnov_sf(n: f64, d: f64) -> f64 {
    let term = |j: f64| {
        let ways = ln_gamma(n + 1.0) - ln_gamma(j + 1.0) - ln_gamma(n - j + 1.0);
        let (above, below) = (d + j / n, (1.0 - d - j / n).max(0.0));
        (ways + (j - 1.0) * above.ln() + (n - j) * below.ln()).exp()
    };
    d * (0..=(n * (1.0 - d)).floor() as u64).map(|j| term(j as f64)).sum::<f64>()
}

/// Numbers are kept below 10^140 and their powers of that counted.
const LARGE: f64 = 1e140;

fn cdf(n: u64, d: f64) -> f64 {
    let reach = n as f64 * d;
    let k = reach as usize + 1;
    let m = 2 * k - 1;
    let h = k as f64 - reach;
    let mut matrix = vec![0.0; m * m];
    for i in 0..m {
        for j in 0..m.min(i + 2) {
            matrix[i * m + j] = 1.0;
        }
    }
    for i in 0..m {
        matrix[i * m] -= h.powi(i as i32 + 1);
        matrix[(m - 1) * m + i] -= h.powi((m - i) as i32);
    }
    matrix[(m - 1) * m] += (2.0 * h - 1.0).max(0.0).powi(m as i32);
    for i in 0..m {
        for j in 0..m.min(i + 1) {
            for factor in 2..=(i - j + 1) {
                matrix[i * m + j] /= factor as f64;
            }
        }
    }
    let (power, mut larges) = power(&matrix, m, n);
    let mut p = power[(k - 1) * m + k - 1];
    for i in 1..=n {
        p *= i as f64 / n as f64;
        if p < 1.0 / LARGE {
            p *= LARGE;
            larges -= 1;
        }
    }
    p * LARGE.powi(larges)
}

/// A matrix to the power of `n`, and how many times it was divided by [`LARGE`].
fn power(matrix: &[f64], m: usize, n: u64) -> (Vec<f64>, i32) {
    if n == 1 {
        return (matrix.to_vec(), 0);
    }
    let (half, mut larges) = power(matrix, m, n / 2);
    let mut out = product(&half, &half, m);
    larges *= 2;
    if n % 2 == 1 {
        out = product(&out, matrix, m);
    }
    if out[(m / 2) * m + m / 2] > LARGE {
        for x in &mut out {
            *x /= LARGE;
        }
        larges += 1;
    }
    (out, larges)
}

fn product(a: &[f64], b: &[f64], m: usize) -> Vec<f64> {
    let mut out = vec![0.0; m * m];
    for i in 0..m {
        for k in 0..m {
            let x = a[i * m + k];
            for j in 0..m {
                out[i * m + j] += x * b[k * m + j];
            }
        }
    }
    out
}
