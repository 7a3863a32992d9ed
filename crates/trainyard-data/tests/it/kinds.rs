//! What the cells of columns are taken for, and what they are declared as.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, TimestampSecondArray};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::record_batch::RecordBatch;
use trainyard_data::schema::Kind;
use trainyard_data::{Source, scan, source};

use crate::support::*;

#[test]
fn leading_zeros_are_codes_unless_numbers_are_declared() {
    let dir = tempfile::tempdir().unwrap();
    let codes = write(&dir.path().join("a.csv"), "zip,n\n01234,1\n1234,2\n00501,3\n");
    let p = profile(&codes).unwrap();
    assert_eq!(p.column("zip").unwrap().field.kind, Kind::Text);
    assert_eq!(p.column("zip").unwrap().distinct.count(), (3.0, true));
    assert_eq!(p.column("n").unwrap().field.kind, Kind::Int);
    // Beyond what any sample looks at.
    let late = format!("zip\n{}01234\n{}", "12345\n".repeat(350_000), "12345\n".repeat(350_000));
    let p = profile(&write(&dir.path().join("late.csv"), late)).unwrap();
    assert_eq!(p.column("zip").unwrap().field.kind, Kind::Text);
    for (json, want) in [
        (r#"{"schema": {"zip": {"unique": true}}}"#, vec![]),
        (r#"{"schema": {"zip": {"type": "int", "unique": true}}}"#, vec!["unique:zip"]),
        (r#"{"schema": {"zip": {"type": "float", "max": 1000}}}"#, vec!["max:zip"]),
        (r#"{"schema": {"zip": {"type": "text", "pattern": "[0-9]{4,5}"}}}"#, vec![]),
        (r#"{"schema": {"n": {"type": "text", "pattern": "[0-9]"}}}"#, vec![]),
        (r#"{"schema": {"n": {"pattern": "[0-9]"}}}"#, vec![]),
        (r#"{"schema": {"n": {"max_length": 0}}}"#, vec!["length:n"]),
        (r#"{"schema": {"n": {"type": "float"}}}"#, vec![]),
        (r#"{"schema": {"n": {"type": "time"}}}"#, vec!["type:n"]),
    ] {
        let c = check(&codes, &rules(json), None).unwrap();
        assert_eq!(failed(&c), want, "{json}: {:?}", c.findings);
    }
    let users = write(&dir.path().join("users.csv"), "id\n1\n2\n3\n");
    let json = format!(
        r#"{{"schema": {{"n": {{"type": "text"}}}},
            "foreign_keys": [{{"columns": ["n"], "references": {users:?}, "to": ["id"]}}]}}"#
    );
    assert_eq!(failed(&check(&codes, &rules(&json), None).unwrap()), Vec::<String>::new());
}

#[test]
fn a_declared_kind_stays_whatever_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("n\n{}0.5\n{}", "12\n".repeat(700_000), "12\n".repeat(700_000));
    let path = write(&dir.path().join("a.csv"), text);
    let c = check(&path, &rules(r#"{"schema": {"n": {"type": "int"}}}"#), None).unwrap();
    assert_eq!(failed(&c), ["mixed_types:n"]);
    assert_eq!(failed(&check(&path, &rules("{}"), None).unwrap()), Vec::<String>::new());
}

#[test]
fn times_that_no_microsecond_counts_are_no_nulls() {
    let dir = tempfile::tempdir().unwrap();
    let days: ArrayRef =
        Arc::new(Date32Array::from(vec![Some(19_000), Some(i32::MAX), None, Some(i32::MIN)]));
    let seconds: ArrayRef =
        Arc::new(TimestampSecondArray::from(vec![Some(1_700_000_000), Some(1 << 60), None, Some(-1 << 60)]));
    let batch = RecordBatch::try_from_iter(vec![("days", days), ("seconds", seconds)]).unwrap();
    let (mut file, mut stream) = (Vec::new(), Vec::new());
    let mut writer = FileWriter::try_new(&mut file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let mut writer = StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let rules = rules(
        r#"{"schema": {"days": {"min": "2020-01-01", "max": "2030-01-01"}, "seconds": {"unique": true}},
            "duplicate_rows": "50%"}"#,
    );
    for path in [
        write(&dir.path().join("a.arrow"), file),
        write(&dir.path().join("a.arrows"), stream),
        write_batch(&dir.path().join("a.parquet"), &batch, 100),
    ] {
        let c = check(&path, &rules, None).unwrap();
        let name = path.display();
        assert_eq!(failed(&c), ["mixed_types:days", "mixed_types:seconds"], "{name}");
        assert!(c.findings.iter().all(|f| f.count == 2), "{name}: {:?}", c.findings);
        let days = c.profile.column("days").unwrap();
        assert_eq!((days.nulls, days.invalid), (1, 2), "{name}");
    }
}

#[test]
fn json_lines_keep_the_order_of_keys_and_have_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |text: &str| write(&dir.path().join("a.jsonl"), text);
    let order = rules(r#"{"order": ["b", "a"]}"#);
    let c = check(&at("{\"b\":1,\"a\":2}\n{\"a\":2,\"b\":1}\n"), &order, None).unwrap();
    assert_eq!(failed(&c), Vec::<String>::new());
    let twice = "{\"a\":1,\"b\":2}\n{\"a\":1,\"b\":2,\"a\":3}\n";
    let c = check(&at(twice), &rules("{}"), None).unwrap();
    assert_eq!(failed(&c), ["malformed_lines"]);
    assert_eq!(c.findings[0].examples[0].row, Some(1));
    let error = profile(&at("{}\n{}\n")).unwrap_err().to_string();
    assert!(error.contains("no key"), "{error}");
    let long = format!("{{\"a\":1,\"t\":\"{}\"}}\n{{\"a\":2}}\n", "x".repeat(5 << 20));
    let p = profile(&at(&long)).unwrap();
    assert_eq!((p.rows, p.columns.len()), (2, 2));
}

/// Sorted tables: what is known of the front alone knows nothing of the rest.
#[test]
fn edges_of_histograms_come_from_the_whole_length() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = 300_000_u32;
    let lines: String = (0..rows).map(|i| format!("{{\"x\":{}}}\n", f64::from(i) / 7.0)).collect();
    write(&at("a.jsonl"), lines);
    let column = |from: u32| -> ArrayRef {
        Arc::new((from..from + 1000).map(|i| f64::from(i) / 7.0).collect::<arrow::array::Float64Array>())
    };
    let batch = |from| RecordBatch::try_from_iter(vec![("x", column(from))]).unwrap();
    let mut file =
        FileWriter::try_new(std::fs::File::create(at("a.arrow")).unwrap(), &batch(0).schema()).unwrap();
    let mut stream =
        StreamWriter::try_new(std::fs::File::create(at("a.arrows")).unwrap(), &batch(0).schema()).unwrap();
    for from in (0..rows).step_by(1000) {
        file.write(&batch(from)).unwrap();
        stream.write(&batch(from)).unwrap();
    }
    file.finish().unwrap();
    stream.finish().unwrap();
    for name in ["a.jsonl", "a.arrow", "a.arrows"] {
        let mut table = Source::open(at(name).to_str().unwrap(), &source::Options::default()).unwrap();
        let profile = scan::profile(&mut table, None).unwrap().profile;
        let histogram = profile.column("x").unwrap().numbers.as_ref().unwrap().histogram.as_ref().unwrap();
        let most = *histogram.counts.iter().max().unwrap();
        assert!(
            most < u64::from(rows) / 5,
            "{name}: {most} of {rows} rows in one bin: {:?}",
            histogram.counts
        );
    }
}
