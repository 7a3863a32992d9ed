//! Durations, sizes, shares and the other small languages inside of values. Each reader says in a few words why a
//! text is not one; the place and the code are the caller's.

use crate::model::Tolerance;

/// Thirty days: longer trainings checkpoint and resume.
pub(super) const MAX_DURATION_MS: i64 = 30 * 24 * 3_600_000;
/// 64 TiB.
const MAX_SIZE: i64 = 64 << 40;
/// 1,024 cores.
const MAX_CPU_MILLI: i64 = 1_024_000;

/// Milliseconds of `90s`, `10m`, `6h`, `1h30m`, `2d`; 1 s to 30 days.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("it must be above zero".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty() {
        return Err(format!("it has no unit: write `{text}s`, `{text}m` or `{text}h`"));
    }
    let (mut rest, mut total, mut last) = (text, 0_i64, i64::MAX);
    let usage = || "write `90s`, `10m`, `6h`, `1h30m` or `2d`".to_owned();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[digits..digits + letters] {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(usage()),
        };
        if digits == 0 || unit >= last {
            return Err(usage());
        }
        let count: i64 = rest[..digits].parse().unwrap_or(i64::MAX);
        total = total.saturating_add(count.saturating_mul(unit));
        last = unit;
        rest = &rest[digits + letters..];
    }
    match total {
        0 if text.is_empty() => Err(usage()),
        0 => Err("it must be above zero".to_owned()),
        t if t > MAX_DURATION_MS => Err("it is longer than 30 days".to_owned()),
        t => Ok(t),
    }
}

/// Bytes of `512Mi`, `8Gi`, `2G`, `1.5Gi`; at least 1 MiB, at most 64 TiB.
pub fn size_bytes(text: &str) -> Result<i64, String> {
    const UNITS: &[(&str, i64)] = &[
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("K", 1_000),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let Some(value) = decimal(number) else {
        return Err("write `512Mi`, `8Gi` or `2G`".to_owned());
    };
    let Some(&(_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => format!("it has no unit: write `{number}Mi` or `{number}Gi`"),
            "B" | "b" => format!("it has no unit that is known: write `{number}Mi` or `{number}Gi`"),
            u => {
                let letter = u[..1].to_ascii_uppercase();
                if "KMGT".contains(&letter) {
                    format!("`{u}` is not a unit: write `{number}{letter}i` or `{number}{letter}`")
                } else {
                    format!("`{u}` is not a unit: write `512Mi`, `8Gi` or `2G`")
                }
            }
        });
    };
    let bytes = value * factor as f64;
    if value <= 0.0 {
        Err("it must be above zero".to_owned())
    } else if bytes > MAX_SIZE as f64 {
        Err("it is more than 64Ti".to_owned())
    } else if bytes < 1_048_576.0 {
        Err("it is less than 1Mi".to_owned())
    } else {
        Ok(bytes as i64)
    }
}

/// Thousandths of a core of `4`, `0.5`, `500m`.
pub fn cpu_milli(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let (number, factor) = text.strip_suffix('m').map_or((text, 1000.0), |n| (n, 1.0));
    let Some(value) = decimal(number) else {
        return Err("write cores: `4`, `0.5` or `500m`".to_owned());
    };
    let milli = value * factor;
    if milli < 1.0 {
        Err("it must be above zero".to_owned())
    } else if milli > MAX_CPU_MILLI as f64 {
        Err("it is more than 1024 cores".to_owned())
    } else {
        Ok(milli as i64)
    }
}

/// `1%`, `0.01` or `1pp`.
pub(super) fn tolerance(text: &str) -> Result<Tolerance, String> {
    let text = text.trim();
    let (number, make): (&str, fn(f64) -> Tolerance) = if let Some(n) = text.strip_suffix('%') {
        (n, |x| Tolerance::Relative(x / 100.0))
    } else if let Some(n) = text.strip_suffix("pp") {
        (n, Tolerance::Points)
    } else {
        (text, Tolerance::Absolute)
    };
    match decimal(number.trim_end()) {
        Some(x) if x >= 0.0 => Ok(make(x)),
        Some(_) => Err("it must not be negative: it says how far, `goal` says which way".to_owned()),
        None => Err("write `1%` (relative), `0.01` (absolute) or `1pp` (percentage points)".to_owned()),
    }
}

/// A number, or a percentage with or without `<`; as a fraction.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let bare = text.strip_prefix("<=").or_else(|| text.strip_prefix('<')).unwrap_or(text).trim();
    let (number, factor) = bare.strip_suffix('%').map_or((bare, 1.0), |n| (n.trim_end(), 0.01));
    decimal(number)
        .map(|x| x * factor)
        .ok_or_else(|| "write a number such as `0.01`, or a share such as `1%` or `<1%`".to_owned())
}

/// A finite decimal number, as JSON and YAML write it.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let allowed = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+');
    if text.len() > 40 || !text.bytes().all(allowed) || !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse::<f64>().ok().filter(|x| x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration_ms("10m"), Ok(600_000));
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(duration_ms("2d"), Ok(172_800_000));
        for bad in [
            "",
            "0s",
            "0m",
            "-1h",
            "10",
            "1.5h",
            "10 m",
            "10min",
            "30m1h",
            "1m1m",
            "99999999999999999999h",
            "31d",
            "1:30",
            "m",
        ] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
        assert_eq!(duration_ms("600").unwrap_err(), "it has no unit: write `600s`, `600m` or `600h`");
    }

    #[test]
    fn sizes() {
        assert_eq!(size_bytes("8Gi"), Ok(8 << 30));
        assert_eq!(size_bytes("1.5Gi"), Ok(3 << 29));
        assert_eq!(size_bytes("500M"), Ok(500_000_000));
        assert_eq!(size_bytes("32GB").unwrap_err(), "`GB` is not a unit: write `32Gi` or `32G`");
        for bad in ["", "0Gi", "-1Gi", "32", "1Ki", "1e30Gi", "65Ti", "Gi", "NaNGi", "8 Gi", "infGi"] {
            assert!(size_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_tolerances_and_shares() {
        assert_eq!(cpu_milli("4"), Ok(4000));
        assert_eq!(cpu_milli("500m"), Ok(500));
        assert_eq!(cpu_milli("0.5"), Ok(500));
        for bad in ["0", "-1", "0m", "1e9", "four", ""] {
            assert!(cpu_milli(bad).is_err(), "{bad}");
        }
        assert_eq!(tolerance("0.5%"), Ok(Tolerance::Relative(0.005)));
        assert_eq!(tolerance("0.01"), Ok(Tolerance::Absolute(0.01)));
        assert_eq!(tolerance("1pp"), Ok(Tolerance::Points(1.0)));
        for bad in ["-1%", "%", "1 percent", "nan", "1pp%", "inf"] {
            assert!(tolerance(bad).is_err(), "{bad}");
        }
        assert_eq!(share("<1%"), Ok(0.01));
        assert_eq!(share("0"), Ok(0.0));
    }
}
