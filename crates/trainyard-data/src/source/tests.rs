use super::time::{parse, show};

#[test]
fn times_are_read_and_shown() {
    for (text, want) in [
        ("1970-01-01", Some(0)),
        ("2024-02-29T12:30:00Z", Some(1_709_209_800_000_000)),
        ("2024-02-29 12:30:00.25+02:00", Some(1_709_202_600_250_000)),
        ("1969-12-31T23:59:59.999999", Some(-1)),
        ("2023-02-29", None),
        ("2024-13-01", None),
        ("2024-01-01T25:00:00", None),
        ("2024-01-01T10:00:00.", None),
        ("20240101", None),
        ("2024-01-01x", None),
    ] {
        assert_eq!(parse(text.as_bytes()), want, "{text}");
    }
    for micros in [0, -1, 1_709_209_800_250_000, -62_135_596_800_000_000, 253_402_300_799_999_999] {
        assert_eq!(parse(show(micros).as_bytes()), Some(micros), "{}", show(micros));
    }
}
