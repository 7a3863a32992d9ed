//! Integers and decimals that share their nearest double are still other numbers.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, Int64Array, ListArray, StringArray, StructArray, UInt64Array,
};
use arrow::datatypes::{Field, Float64Type};
use arrow::record_batch::RecordBatch;
use trainyard_data::Error;

use crate::support::{check, failed, profile, rules, write, write_batch};

const FAR: i64 = 9_007_199_254_740_992;

#[test]
fn bounds_and_lists_hold_integers_beyond_doubles() {
    let dir = tempfile::tempdir().unwrap();
    let csv = write(&dir.path().join("a.csv"), format!("a\n{}\n{}\n{}\n", FAR - 1, FAR, FAR + 1));
    for (rule, want) in [
        (format!(r#"{{"max": {FAR}}}"#), vec!["max a 1"]),
        (format!(r#"{{"below": {}}}"#, FAR + 1), vec!["below a 1"]),
        (format!(r#"{{"min": {}}}"#, FAR - 1), vec![]),
        (format!(r#"{{"above": {FAR}}}"#), vec!["above a 2"]),
        (format!(r#"{{"one_of": [{}, {FAR}]}}"#, FAR - 1), vec!["one_of a 1"]),
        (format!(r#"{{"not_in": [{}]}}"#, FAR + 1), vec!["not_in a 1"]),
        (r#"{"monotonic": "strictly_increasing"}"#.to_owned(), vec![]),
        (r#"{"monotonic": "decreasing"}"#.to_owned(), vec!["monotonic a 2"]),
    ] {
        let rules = rules(&format!(r#"{{"schema": {{"a": {rule}}}}}"#));
        let found = check(&csv, &rules, None).unwrap();
        assert_eq!(counted(&found), want, "{rule}");
    }
    let pair = write(&dir.path().join("p.csv"), format!("a,b\n{},{FAR}\n{FAR},{FAR}\n", FAR + 1));
    let found =
        check(&pair, &rules(r#"{"pairs": [{"left": "a", "is": "<=", "right": "b"}]}"#), None).unwrap();
    assert_eq!(counted(&found), ["pair a 1"]);
}

fn counted(check: &trainyard_data::Check) -> Vec<String> {
    let name = |c: &Option<String>| c.clone().unwrap_or_default();
    check.findings.iter().map(|f| format!("{} {} {}", f.rule, name(&f.column), f.count)).collect()
}

#[test]
fn decimals_and_unsigned_integers_are_compared_by_their_digits() {
    let dir = tempfile::tempdir().unwrap();
    let large = 12_345_678_901_234_567_890_u64;
    let decimals = [1_000_000_000_000_000_001_i128, 1_000_000_000_000_000_002, 300];
    let batch = RecordBatch::try_from_iter([
        ("u", Arc::new(UInt64Array::from(vec![large, large + 1, 7])) as ArrayRef),
        (
            "d",
            Arc::new(Decimal128Array::from(decimals.to_vec()).with_precision_and_scale(20, 2).unwrap()) as _,
        ),
    ])
    .unwrap();
    let file = write_batch(&dir.path().join("n.parquet"), &batch, 100);
    let found = check(&file, &rules(r#"{"unique": [["u"], ["d"]]}"#), None).unwrap();
    assert_eq!(failed(&found), Vec::<String>::new());
    let words =
        r#"{"schema": {"u": {"max": 12345678901234567890}, "d": {"one_of": [3, 10000000000000000.01]}}}"#;
    assert_eq!(counted(&check(&file, &rules(words), None).unwrap()), ["one_of d 2", "max u 1"]);
    let found = check(&file, &rules(r#"{"schema": {"d": {"above": 3}}}"#), None).unwrap();
    assert_eq!(found.findings[0].examples[0].value, "3.00");

    // The number is what counts, not the type that a file gives it.
    let ids = write(&dir.path().join("i.csv"), "id\n7\n8\n");
    let key = format!(
        r#"{{"foreign_keys": [{{"columns": ["id"], "references": {:?}, "to": ["u"]}}]}}"#,
        file.to_str().unwrap()
    );
    assert_eq!(counted(&check(&ids, &rules(&key), None).unwrap()), ["foreign_key id 1"]);
}

#[test]
fn keys_of_twenty_digits_are_read_as_text_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let csv = write(&dir.path().join("b.csv"), "id\n12345678901234567890\n12345678901234567891\n");
    let unique = rules(r#"{"schema": {"id": {"unique": true}}}"#);
    let error = check(&csv, &unique, None).unwrap_err();
    assert!(matches!(&error, Error::Data { what, .. } if what.contains("`type: text`")), "{error}");
    let bound = rules(r#"{"schema": {"id": {"max": 12345678901234567890}}}"#);
    assert_eq!(failed(&check(&csv, &bound, None).unwrap()), ["type:id"]);
}

#[test]
fn rows_are_compared_by_lists_structs_and_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let lists = |last: f64| {
        ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(1.0)]),
            Some(vec![Some(2.0)]),
            Some(vec![Some(last)]),
        ])
    };
    let table = |name: &str, last: f64, bytes: &[u8]| {
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, last as i64]));
        let record =
            StructArray::from(vec![(Arc::new(Field::new("x", inner.data_type().clone(), true)), inner)]);
        let batch = RecordBatch::try_from_iter([
            ("label", Arc::new(StringArray::from(vec!["a"; 3])) as ArrayRef),
            ("list", Arc::new(lists(last)) as _),
            ("record", Arc::new(record) as _),
            ("bytes", Arc::new(BinaryArray::from(vec![b"a".as_slice(), b"a", bytes])) as _),
        ])
        .unwrap();
        write_batch(&dir.path().join(name), &batch, 100)
    };
    let none = rules(r#"{"duplicate_rows": 0}"#);
    let (other, same, more) =
        (table("o.parquet", 3.0, b"a"), table("s.parquet", 2.0, b"a"), table("m.parquet", 2.0, b"b"));
    assert_eq!(counted(&check(&other, &none, None).unwrap()), Vec::<String>::new());
    assert_eq!(counted(&check(&same, &none, None).unwrap()), ["duplicate_rows  1"]);
    assert_eq!(counted(&check(&more, &none, None).unwrap()), Vec::<String>::new());
    let apart = rules(&format!(r#"{{"disjoint": [{{"path": {:?}}}]}}"#, same.to_str().unwrap()));
    assert_eq!(counted(&check(&more, &apart, None).unwrap()), ["leakage  2"]);
    // Digests tell them apart.
    let digest = |file, column: &str| profile(file).unwrap().column(column).unwrap().digest;
    for (a, b, column) in [(&other, &same, "list"), (&other, &same, "record"), (&more, &same, "bytes")] {
        assert_ne!(digest(a, column), digest(b, column), "{column}");
    }
}
