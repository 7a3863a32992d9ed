//! Spans of time as people configure them, in words.

/// A limit or time-out in milliseconds, exactly: `0.5 s`, `90 s`, `15 min`, `6 h`. For measured times, which are never
/// round, see the rooms that show them.
pub fn spell_span(ms: i64) -> String {
    match ms / 1000 {
        _ if ms % 1000 != 0 => format!("{} s", ms as f64 / 1000.0),
        s if s >= 3600 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::spell_span;

    #[test]
    fn round_spans_read_round() {
        let cases = [
            (0, "0 s"),
            (1_500, "1.5 s"),
            (90_000, "90 s"),
            (60_000, "1 min"),
            (5_400_000, "90 min"),
            (3_600_000, "1 h"),
        ];
        for (ms, want) in cases {
            assert_eq!(spell_span(ms), want);
        }
    }
}
