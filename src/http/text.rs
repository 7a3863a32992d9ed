//! Text from outside, made safe to look at. Escaping for HTML is askama's; this module makes visible what HTML would let
//! through: terminal escapes, control characters, and the bidirectional and invisible characters that make text read
//! differently from what it is.

use std::fmt::Write as _;

use std::fmt;

/// Text from outside, ready for one line of a page or a terminal. Made by [`shown`] alone, so a view model that has this
/// type cannot carry a raw branch name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line: line feeds become spaces, everything invisible becomes visible.
pub fn shown(text: &str) -> Shown {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            c => push_visible(&mut out, c),
        }
    }
    Shown(out)
}

/// Like [`shown`], with at most `max` characters and an ellipsis.
pub fn shown_cut(text: &str, max: usize) -> Shown {
    match text.char_indices().nth(max) {
        None => shown(text),
        Some((at, _)) => {
            let mut cut = shown(&text[..at]);
            cut.0.push('…');
            cut
        }
    }
}

/// Several lines: line feeds and tabs stay.
pub fn shown_lines(text: &str) -> Shown {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => {}
            c => push_visible(&mut out, c),
        }
    }
    Shown(out)
}

/// Appends `c`, or what stands for it when it could not be seen.
pub fn push_visible(out: &mut String, c: char) {
    match c {
        // Written out: fonts often lack the pictures of control characters.
        c if c.is_control() || is_deceptive(c) => {
            out.push_str("⟨U+");
            let _ = write!(out, "{:04X}", c as u32);
            out.push('⟩');
        }
        c => out.push(c),
    }
}

/// Bidirectional overrides and isolates, invisible separators, tag characters. Joiners (U+200C, U+200D) stay:
/// scripts and emoji need them.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// `3.2 s`, `4m 05s`, `2h 07m`, `3d 4h`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    let s = ms / 1000;
    match s {
        0..10 => format!("{}.{} s", s, ms % 1000 / 100),
        10..60 => format!("{s} s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `just now`, `4 min ago`, `3 h ago`, `12 d ago`.
pub fn ago(then_ms: i64, now_ms: i64) -> String {
    match (now_ms - then_ms).max(0) / 1000 {
        0..10 => "just now".into(),
        s @ 10..60 => format!("{s} s ago"),
        s @ 60..3600 => format!("{} min ago", s / 60),
        s @ 3600..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// `2026-11-23 16:07:57 UTC`.
pub fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// `2026-11-23T16:07:57.123Z`, for `<time datetime>` and the API.
pub fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string())
}

/// `512 B`, `1.4 KiB`, `20 MiB`.
pub fn bytes(n: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{} B", n.max(0));
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A metric's value for people: four to six significant digits, no trailing zeros.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return crate::model::metric::nonfinite_word(x).unwrap_or("nan").to_owned();
    }
    if x == 0.0 {
        return "0".into();
    }
    let size = x.abs();
    if !(1e-4..1e9).contains(&size) {
        return format!("{x:.3e}");
    }
    let places = (4 - size.log10().floor() as i32).clamp(0, 8) as usize;
    let text = format!("{x:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Like [`number`], with its sign: `+0.012`, `−3`.
pub fn signed(x: f64) -> String {
    if x > 0.0 {
        format!("+{}", number(x))
    } else if x < 0.0 {
        format!("−{}", number(-x))
    } else {
        "±0".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_invisible_survives() {
        assert_eq!(
            shown("a\u{202e}b\u{1b}[31m\u{0}\u{7f}\u{9b}\n\tc").as_str(),
            "a⟨U+202E⟩b⟨U+001B⟩[31m⟨U+0000⟩⟨U+007F⟩⟨U+009B⟩  c"
        );
        assert_eq!(shown("👩‍💻 é ﷽").as_str(), "👩‍💻 é ﷽");
        assert_eq!(shown_cut("äöüß", 2).as_str(), "äö…");
        assert_eq!(shown_lines("a\r\nb\u{200b}").as_str(), "a\nb⟨U+200B⟩");
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = shown(&c.to_string());
            assert!(!text.as_str().chars().any(|c| c.is_control() || is_deceptive(c)), "{:x}", c as u32);
        }
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(duration(3240), "3.2 s");
        assert_eq!(duration(245_000), "4m 05s");
        assert_eq!(duration(7_620_000), "2h 07m");
        assert_eq!(ago(0, 5 * 60_000), "5 min ago");
        assert_eq!(bytes(1_400), "1.4 KiB");
        assert_eq!(bytes(20 << 20), "20 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(number(0.842_137), "0.84214");
        assert_eq!(number(12_345.678), "12346");
        assert_eq!(number(3.0), "3");
        assert_eq!(number(0.000_012), "1.200e-5");
        assert_eq!(number(f64::NAN), "nan");
        assert_eq!(signed(-0.012), "−0.012");
        assert_eq!(instant(0), "1970-01-01 00:00:00 UTC");
    }
}
