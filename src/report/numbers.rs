//! Numbers for people: enough digits to see a difference, no more. Minus is `−`, so that columns line up.

use crate::clock::Millis;

/// Decimals that show all of these values to four digits, and `delta` to two.
pub fn decimals(values: &[f64], delta: Option<f64>) -> usize {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let whole = finite.iter().all(|v| v.fract() == 0.0) && delta.is_none_or(|d| d.fract() == 0.0);
    if whole {
        return 0;
    }
    let largest = finite.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if largest > 0.0 && largest < 1e-4 {
        return 0; // `value` turns to powers of ten
    }
    let mut decimals = if largest == 0.0 { 0 } else { 3 - largest.log10().floor() as i32 };
    // 0.8612, not 0.86120: four decimals say enough of what lies between 0 and 1.
    if (0.01..1.0).contains(&largest) {
        decimals = 4;
    }
    if let Some(delta) = delta.filter(|d| *d != 0.0 && d.is_finite()) {
        decimals = decimals.max(1 - delta.abs().log10().floor() as i32);
    }
    decimals.clamp(0, 9) as usize
}

/// A value with so many decimals; powers of ten where those would show nothing.
pub fn value(x: f64, decimals: usize) -> String {
    if let Some(word) = crate::model::metric::nonfinite_word(x) {
        return word.to_owned();
    }
    if x != 0.0 && (x.abs() >= 1e9 || x.abs() < 0.5 * 10f64.powi(-(decimals as i32))) {
        return format!("{x:.3e}").replace('-', "−");
    }
    format!("{x:.decimals$}").replace('-', "−")
}

/// With its sign: `+0.0131`, `−0.5`, `±0`.
pub fn signed(x: f64, decimals: usize) -> String {
    if x == 0.0 {
        return "±0".to_owned();
    }
    let text = value(x, decimals);
    if x > 0.0 { format!("+{text}") } else { text }
}

/// A share as per cent with its sign: `+1.54%`; a factor beyond tenfold.
pub fn percent(share: f64) -> String {
    let p = share * 100.0;
    match p.abs() {
        0.0 => "±0%".to_owned(),
        a if a >= 1000.0 => format!("×{:.0}", 1.0 + share).replace('-', "−"),
        a if a >= 10.0 => format!("{p:+.1}%").replace('-', "−"),
        a if a >= 0.005 => format!("{p:+.2}%").replace('-', "−"),
        _ if p > 0.0 => "+<0.01%".to_owned(),
        _ => "−<0.01%".to_owned(),
    }
}

/// `42 s`, `3 min 5 s`, `2 h 14 min`.
pub fn duration(ms: Millis) -> String {
    let seconds = (ms.max(0) + 500) / 1000;
    match seconds {
        0 => "under 1 s".to_owned(),
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// `35 s of GPU-time`, `2.1 GPU-h`.
pub fn gpu_time(ms: Millis) -> String {
    let hours = ms as f64 / 3_600_000.0;
    if hours < 1.0 { format!("{} of GPU-time", duration(ms)) } else { format!("{hours:.1} GPU-h") }
}

/// `0.42 EUR`.
pub fn money(amount: f64, currency: &str) -> String {
    if amount > 0.0 && amount < 0.005 {
        format!("<0.01 {currency}")
    } else {
        format!("{amount:.2} {currency}")
    }
}
