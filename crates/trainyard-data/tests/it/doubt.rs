//! Doubt never passes: rules that compare nothing, tables that do not hold together, numbers that cannot be told.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::record_batch::RecordBatch;
use trainyard_data::{Error, check::baseline, source};

use crate::support::*;

fn parquet(path: &std::path::Path, name: &str, array: ArrayRef) -> std::path::PathBuf {
    write_batch(path, &RecordBatch::try_from_iter(vec![(name, array)]).unwrap(), 1000)
}

#[test]
fn set_rules_that_compare_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("a.csv"), "user,text\n1,x\n3,y\n");
    let other = write(&dir.path().join("other.csv"), "name,age\na,1\n");
    let other = other.display();
    for json in [
        format!(r#"{{"disjoint": [{{"path": "{other}"}}]}}"#),
        format!(r#"{{"foreign_keys": [{{"columns": [], "references": "{other}"}}]}}"#),
        format!(r#"{{"foreign_keys": [{{"columns": ["user"], "to": [], "references": "{other}"}}]}}"#),
        r#"{"unique": [[]]}"#.to_owned(),
    ] {
        let refused = check(&path, &rules(&json), None);
        assert!(matches!(refused, Err(Error::Usage(_))), "{json}: {:?}", refused.map(|c| c.findings));
    }
    // Keys that are null on one side are no keys.
    let nulls = write(&dir.path().join("nulls.csv"), "user,text\nNA,x\nNA,y\n1,\n");
    let json = format!(r#"{{"disjoint": [{{"path": "{}", "on": ["user", "text"]}}]}}"#, nulls.display());
    assert_eq!(failed(&check(&path, &rules(&json), None).unwrap()), ["not_compared"]);
}

#[test]
fn defects_of_the_other_table_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("train.csv"), "user,text\n1,x\n3,y\n7,z\n");
    let numbers: String = (100..200).map(|i| format!("{i},n\n")).collect();
    let other = write(&dir.path().join("test.csv"), format!("user,text\n{numbers}7 ,z\n"));
    let ragged = write(&dir.path().join("ragged.csv"), format!("user,text\n{numbers}7\n"));
    for other in [other, ragged] {
        let json = format!(r#"{{"disjoint": [{{"path": "{}", "on": ["user"]}}]}}"#, other.display());
        let c = check(&path, &rules(&json), None).unwrap();
        assert!(failed(&c).contains(&"other_table".to_owned()), "{:?}", c.findings);
    }
}

#[test]
fn a_table_that_does_not_hold_together_is_no_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..300).map(|i| if i % 3 == 0 { "1\n".into() } else { format!("{i},2\n") }).collect();
    let path = write(&dir.path().join("a.csv"), format!("a,b\n{rows}"));
    let error = baseline(path.to_str().unwrap(), &source::Options::default()).unwrap_err().to_string();
    assert!(error.contains("cannot be a baseline") && error.contains("100"), "{error}");
    let empty = write(&dir.path().join("b.csv"), "a,b\n");
    assert!(baseline(empty.to_str().unwrap(), &source::Options::default()).is_err());
}

#[test]
fn numbers_that_turn_into_nan_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, bad: usize| {
        let values = (0..3000).map(|i| if i < bad { f64::NAN } else { i as f64 });
        parquet(&dir.path().join(name), "x", Arc::new(values.collect::<Float64Array>()))
    };
    let base = profile(&of("a.parquet", 1)).unwrap();
    assert_eq!(failed(&check(&of("same.parquet", 2), &rules("{}"), Some(&base)).unwrap()), [""; 0]);
    let c = check(&of("b.parquet", 2900), &rules("{}"), Some(&base)).unwrap();
    assert!(failed(&c).contains(&"not_finite:x".to_owned()), "{:?}", c.findings);
    let c = check(&of("c.parquet", 3000), &rules("{}"), Some(&base)).unwrap();
    assert!(failed(&c).contains(&"no_values:x".to_owned()), "{:?}", c.findings);
}

#[test]
fn deviations_are_right_or_nan() {
    let dir = tempfile::tempdir().unwrap();
    let deviation = |array: ArrayRef| {
        let path = parquet(&dir.path().join("a.parquet"), "x", array);
        profile(&path).unwrap().columns[0].numbers.as_ref().unwrap().deviation()
    };
    let floats = |values: Vec<f64>| deviation(Arc::new(Float64Array::from(values)));
    for base in [1e15, 4e15] {
        let values: Vec<f64> = (0..9999).map(|i| base + f64::from(i % 3) / 2.0).collect();
        // Of 0, ½ and 1, each 3,333 times: n / (n - 1) · 1/6.
        let truth = (9999.0_f64 / 9998.0 / 6.0).sqrt();
        let got =
            floats(values.iter().map(|x| if base > 2e15 { base + (x - base) * 2.0 } else { *x }).collect());
        let truth = if base > 2e15 { 2.0 * truth } else { truth };
        assert!((got / truth - 1.0).abs() < 1e-15, "{got} {truth}");
    }
    let ids = [0, 1, 2, 50].map(|i| 1_764_000_000_000_000_000_i64 + i);
    // Σ (x - mean)² = 1802.75 of 0, 1, 2 and 50.
    let (got, truth) = (deviation(Arc::new(Int64Array::from(ids.to_vec()))), (1802.75_f64 / 3.0).sqrt());
    assert!((got / truth - 1.0).abs() < 1e-15, "{got} {truth}");
    assert!(floats(vec![1e308, 1e308, -1e308]).is_nan());
    assert!(floats(vec![1e-200, 3e-200]).is_nan());
    assert_eq!(floats(vec![1e200; 5]), 0.0);
    assert_eq!(floats(vec![0.1; 7]), 0.0);
    let text = "x\n1e200\n1e200\n1e200\n-1e200\n1\n";
    let path = write(&dir.path().join("e.csv"), text);
    let c = check(&path, &rules(r#"{"schema": {"x": {"std": {"max": 5}, "max_z": 0.1}}}"#), None).unwrap();
    assert_eq!(failed(&c), ["std:x", "max_z:x"]);
}

#[test]
fn rules_that_cannot_be_meant_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("a.csv"), "a,b\n1,x\n2,y\n");
    let mut refused = 0;
    for json in [
        r#"{"drift": {"alpha": -1}}"#,
        r#"{"drift": {"alpha": 5}}"#,
        r#"{"drift": {"null_jump": 7}}"#,
        r#"{"drift": {"min_psi": -0.1}}"#,
        r#"{"schema": {"a": {"max_z": -1}}}"#,
        r#"{"schema": {"a": {"min": 50, "max": 10}}}"#,
        r#"{"schema": {"a": {"above": 1, "below": 1}}}"#,
        r#"{"schema": {"a": {"type": "flaot"}}}"#,
        r#"{"schema": {"a": {"mean": {"min": 2, "max": 1}}}}"#,
        r#"{"schema": {"a": {"quantiles": {"1.5": {"min": 2}}}}}"#,
        r#"{"schema": {"a": {"one_of": []}}}"#,
        r#"{"schema": {"b": {"min_length": 3, "max_length": 2}}}"#,
        r#"{"schema": {"b": {"pattern": "("}}}"#,
        r#"{"schema": {"b": {"fresh": "soon"}}}"#,
        r#"{"pairs": [{"left": "a", "is": "<", "right": "a", "mostly": -7}]}"#,
        r#"{"rows": {"min": 3, "max": 2}}"#,
    ] {
        assert!(matches!(check(&path, &rules(json), None), Err(Error::Usage(_))), "{json}");
        refused += 1;
    }
    let hint = rules(r#"{"schema": {"a": {"type": "flaot"}}}"#).validate().unwrap_err().to_string();
    assert!(hint.contains("did you mean float?"), "{hint}");
    assert_eq!(rules(r#"{"schema": {"a": {"min": 1, "max": 1, "type": "uint64"}}}"#).faults(), []);
    println!("FIGURE data.rules_refused words={refused} accepted=0");
}

#[test]
fn names_of_files_steer_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("a\u{1b}[31m\nPASSED.csv"), "");
    let error = profile(&path).unwrap_err().to_string();
    assert!(error.contains(r"a\u{1b}[31m\nPASSED.csv") && !error.contains('\n'), "{error}");
}

#[test]
fn messages_tell_no_values_of_personal_columns() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir.path().join("one.csv"), "ssn,born\n111223333,1999-01-02\n");
    let words = r#"{"schema": {
        "ssn": {"personal": true, "mean": {"max": 1}, "sum": {"max": 1}, "median": {"max": 1}, "quantiles": {"1": {"max": 1}}},
        "born": {"personal": true, "fresh": "1d"}}}"#;
    let found = check(&file, &rules(words), None).unwrap();
    assert_eq!(found.findings.len(), 5);
    let told = serde_json::to_string(&found).unwrap();
    assert!(!told.contains("111223333") && !told.contains("1999"), "{told}");
}
