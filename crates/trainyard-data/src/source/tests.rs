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

/// Of a panic inside of a format's library, the error is all that is said.
#[test]
fn panics_of_libraries_are_not_printed() {
    use std::process::Command;

    use arrow::array::Int32Array;

    const CHILD: &str = "TRAINYARD_GUARDED";
    if std::env::var_os(CHILD).is_some() {
        let out_of_range = || Ok(Int32Array::from(vec![1]).slice(5, 1).len());
        let error = super::guarded("a.parquet", "its content", out_of_range).unwrap_err().to_string();
        println!("SAID {error}");
        // One that nothing guards is printed as ever.
        panic!("of our own");
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "source::tests::panics_of_libraries_are_not_printed", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("SAID a.parquet: is broken: its content"), "{said}");
    assert_eq!((said.matches("panicked at").count(), said.matches("of our own").count()), (1, 1), "{said}");
}

#[test]
fn threads_share_one_budget() {
    use std::sync::Mutex;

    let budget = super::budget::Budget::default();
    // What is held at this moment, and what was at most.
    let held = Mutex::new((0_u64, 0_u64));
    std::thread::scope(|scope| {
        for bytes in [300 << 20, 400 << 20, 700 << 20, 5 << 30, 1, 600 << 20] {
            let (budget, held) = (&budget, &held);
            scope.spawn(move || {
                for _ in 0..20 {
                    let part = budget.take(bytes);
                    let mut now = held.lock().unwrap();
                    now.0 += bytes.min(1 << 30);
                    now.1 = now.1.max(now.0);
                    drop(now);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    held.lock().unwrap().0 -= bytes.min(1 << 30);
                    drop(part);
                }
            });
        }
    });
    let (now, most) = *held.lock().unwrap();
    assert_eq!(now, 0);
    assert!(most <= 1 << 30, "{most}");
}
