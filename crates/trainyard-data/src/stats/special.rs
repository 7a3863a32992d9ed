//! Distribution functions. Upper tails are computed as such, never as `1 - lower`, so that small p-values keep their
//! relative accuracy. Arguments out of the domain give NaN, never a panic.

use statrs::function::{beta::ln_beta, erf, gamma::gamma_lr, gamma::gamma_ur};

/// P(Z > x) of the standard normal.
pub fn normal_sf(x: f64) -> f64 {
    0.5 * libm::erfc(x / std::f64::consts::SQRT_2)
}

/// P(Z <= x) of the standard normal.
pub fn normal_cdf(x: f64) -> f64 {
    normal_sf(-x)
}

/// The x with P(Z <= x) = p.
pub fn normal_quantile(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p == 0.0 {
        return f64::NEG_INFINITY;
    }
    if p == 1.0 {
        return f64::INFINITY;
    }
    let mut x = -std::f64::consts::SQRT_2 * erf::erfc_inv(2.0 * p);
    for _ in 0..2 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if density > 0.0 {
            let miss = if x > 0.0 { (1.0 - p) - normal_sf(x) } else { normal_cdf(x) - p };
            x -= miss / density;
        }
    }
    x
}

/// Regularised incomplete beta function `I_x(a`, b).
pub fn beta_cdf(a: f64, b: f64, x: f64) -> f64 {
    if !(a > 0.0 && b > 0.0) || x.is_nan() {
        return f64::NAN;
    }
    if x <= 0.0 {
        0.0
    } else if x >= 1.0 {
        1.0
    } else {
        let front = (a * x.ln() + b * (-x).ln_1p() - ln_beta(a, b)).exp();
        if x < (a + 1.0) / (a + b + 2.0) {
            front * beta_fraction(a, b, x) / a
        } else {
            1.0 - front * beta_fraction(b, a, 1.0 - x) / b
        }
    }
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method. It converges in about
/// the root of the larger parameter steps.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let solid = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / solid(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for m in 1..20_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / solid(1.0 + even * d);
        c = solid(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / solid(1.0 + odd * d);
        c = solid(1.0 + odd / c);
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

/// The x with `I_x(a`, b) = p: bisection, then Newton steps that stay inside of the bracket.
pub fn beta_quantile(a: f64, b: f64, p: f64) -> f64 {
    if !(a > 0.0 && b > 0.0 && (0.0..=1.0).contains(&p)) {
        return f64::NAN;
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut x = a / (a + b);
    for _ in 0..200 {
        let value = beta_cdf(a, b, x);
        if value < p {
            low = x;
        } else {
            high = x;
        }
        let density = ((a - 1.0) * x.ln() + (b - 1.0) * (-x).ln_1p() - ln_beta(a, b)).exp();
        let mut next = x - (value - p) / density;
        if !(next > low && next < high) {
            next = f64::midpoint(low, high);
        }
        if (next - x).abs() <= 1e-16 * x.abs() {
            return next;
        }
        x = next;
    }
    x
}

/// P(|T| > |t|) with `df` degrees of freedom.
pub fn t_two_sided(t: f64, df: f64) -> f64 {
    if t.is_nan() || !(df > 0.0) {
        return f64::NAN;
    }
    if t.is_infinite() {
        return 0.0;
    }
    let squared = t * t;
    if squared < 1.0 {
        // Near the centre the complement is the accurate side.
        1.0 - beta_cdf(0.5, df / 2.0, squared / (df + squared))
    } else {
        beta_cdf(df / 2.0, 0.5, df / (df + squared))
    }
}

/// P(T > t) with `df` degrees of freedom.
pub fn t_sf(t: f64, df: f64) -> f64 {
    let half = 0.5 * t_two_sided(t, df);
    if t >= 0.0 { half } else { 1.0 - half }
}

/// The t with P(T <= t) = p.
pub fn t_quantile(p: f64, df: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) || !(df > 0.0) {
        return f64::NAN;
    }
    if p == 0.5 {
        return 0.0;
    }
    let tail = 2.0 * p.min(1.0 - p);
    let x = beta_quantile(df / 2.0, 0.5, tail);
    let size = if tail <= 0.5 {
        (df * (1.0 - x) / x).sqrt()
    } else {
        // x is near 1 here and 1 - x loses digits: ask for the complement itself.
        let y = beta_quantile(0.5, df / 2.0, 1.0 - tail);
        (df * y / (1.0 - y)).sqrt()
    };
    if p < 0.5 { -size } else { size }
}

/// P(X > x) of chi-square with `df` degrees of freedom.
pub fn chi2_sf(x: f64, df: f64) -> f64 {
    if x.is_nan() || !(df > 0.0) {
        return f64::NAN;
    }
    if x <= 0.0 {
        return 1.0;
    }
    if x.is_infinite() {
        return 0.0;
    }
    let (a, y) = (df / 2.0, x / 2.0);
    if y < a { 1.0 - gamma_lr(a, y) } else { gamma_ur(a, y) }
}

/// P(K > x) of Kolmogorov's limit distribution.
pub fn kolmogorov_sf(x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.18 {
        let y = (-std::f64::consts::PI.powi(2) / (8.0 * x * x)).exp();
        let sum = y + y.powi(9) + y.powi(25) + y.powi(49);
        return 1.0 - (2.0 * std::f64::consts::PI).sqrt() / x * sum;
    }
    let term = |k: f64| (-2.0 * k * k * x * x).exp();
    (2.0 * (term(1.0) - term(2.0) + term(3.0) - term(4.0))).clamp(0.0, 1.0)
}
