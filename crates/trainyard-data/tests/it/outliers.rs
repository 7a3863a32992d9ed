//! A few wild values hide no drift and make none, and amounts that look like identifiers are not passed over.

use std::fmt::Write as _;

use trainyard_data::drift::{Verdict, compare_numbers};
use trainyard_data::rules::DriftRules;
use trainyard_data::stats::Rng;

use crate::support::{check, profile, rules, write};

fn normal(rows: usize, seed: u64, shift: f64) -> Vec<f64> {
    let mut rng = Rng::new(seed);
    (0..rows).map(|_| rng.normal() + shift).collect()
}

#[test]
fn one_sentinel_in_the_baseline_hides_no_drift() {
    for (seed, sentinel) in [(1, 1e6), (2, -999.0), (3, 1e300)] {
        let mut baseline = normal(5000, seed, 0.0);
        baseline.push(sentinel);
        let found = compare_numbers(&baseline, &normal(5000, seed + 10, 0.3), &DriftRules::default());
        assert_eq!(found.verdict, Verdict::Drifted, "{sentinel}: {found:?}");
        let shift = found.shift.unwrap();
        assert!((0.2..0.4).contains(&shift), "{sentinel}: {shift}");
    }
}

#[test]
fn one_sentinel_makes_no_shift() {
    for few in [false, true] {
        let cut = |x: Vec<f64>| if few { x.into_iter().map(f64::round).collect() } else { x };
        let mut baseline = cut(normal(5000, 4, 0.0));
        baseline.push(1e6);
        let found = compare_numbers(&baseline, &cut(normal(5000, 5, 0.0)), &DriftRules::default());
        assert_eq!(found.verdict, Verdict::Stable);
        assert!(found.shift.unwrap() < 0.1, "{found:?}");
    }
}

#[test]
fn amounts_that_look_like_identifiers_warn_when_they_move() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, size: f64, first: usize| {
        let mut rng = Rng::new(7);
        let mut text = "id,income\n".to_owned();
        for i in 0..2000 {
            writeln!(text, "{},{}", first + i, (size * (1.0 + rng.uniform())) as i64).unwrap();
        }
        write(&dir.path().join(name), text)
    };
    let (old, new) = (file("old.csv", 5e6, 1), file("new.csv", 5e7, 2001));
    let baseline = profile(&old).unwrap();
    let told = |file, words: &str| -> Vec<String> {
        let check = check(file, &rules(words), Some(&baseline)).unwrap();
        check
            .findings
            .iter()
            .map(|f| format!("{} {}", f.rule, f.column.clone().unwrap_or_default()))
            .collect()
    };
    assert_eq!(told(&new, "{}"), ["identifier_moved income"]);
    assert_eq!(told(&old, "{}"), Vec::<String>::new());
    assert_eq!(told(&new, r#"{"schema": {"income": {"no_drift": true}}}"#), Vec::<String>::new());
    assert_eq!(told(&new, r#"{"unique": [["income"]]}"#), Vec::<String>::new());
}

#[test]
fn a_break_of_order_between_files_is_told_with_its_row() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("s1.csv"), "a\n1\n2\n");
    write(&dir.path().join("s2.csv"), "a\n1\n2\n");
    let found = check(dir.path(), &rules(r#"{"schema": {"a": {"monotonic": "increasing"}}}"#), None).unwrap();
    let example = &found.findings[0].examples[0];
    assert_eq!((example.row, example.value.as_str()), (Some(2), "1 after 2"));
}
