//! Whatever the bytes, the answer is a result or an error with the file's name: no panic, no hang, no pass.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use trainyard_data::{Error, Profile};

use crate::support::*;

#[test]
fn files_that_are_no_tables() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = 0;
    for (name, bytes, want) in [
        ("a.csv", &b""[..], "is empty"),
        ("b.csv", b"\n\n  \n", "is empty"),
        ("c.csv", b"a,b,a\n1,2,3\n", "two columns named \"a\""),
        ("d.csv", b"\xff\xfea\0,\0b\0\n\0", "zero bytes"),
        ("e.csv", b"a,\xff\xfe\n1,2\n", "not UTF-8"),
        ("f.parquet", b"", "is empty"),
        ("g.parquet", b"PAR1", "Parquet"),
        ("h.parquet", b"PAR1 nothing of that kind PAR1", "Parquet"),
        ("i.arrow", b"ARROW1\0\0", "Arrow IPC"),
        ("j.arrows", b"\xff\xff\xff\xff\x10\0\0\0", "Arrow IPC"),
        ("k.jsonl", b"", "is empty"),
        ("l.jsonl", b"[1]\nnot json\n", "no line that is a JSON object"),
    ] {
        cases += 1;
        let path = write(&dir.path().join(name), bytes);
        match profile(&path) {
            Err(Error::Data { file, what }) => {
                assert!(file.contains(name) && format!("{file}: {what}").contains(want), "{name}: {what}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(matches!(profile(&dir.path().join("absent.csv")), Err(Error::Usage(_))));
    assert!(matches!(profile(&write(&dir.path().join("what"), "x")), Err(Error::Usage(_))));
    println!("FIGURE data.bad_files cases={cases} answered={cases}");
}

#[test]
fn tables_that_are_not_right_never_pass() {
    let dir = tempfile::tempdir().unwrap();
    for (text, want) in [
        (&b"a,b\n"[..], vec!["no_rows"]),
        (b"a,b\n1,2\n3\n4,5,6\n", vec!["ragged_rows"]),
        (b"a,b\n1,x\n2,\xff\xfe\n", vec!["invalid_utf8:b"]),
    ] {
        let c = check(&write(&dir.path().join("a.csv"), text), &rules("{}"), None).unwrap();
        assert_eq!(failed(&c), want);
    }
    // A few words among many numbers: the column stays numeric, the words are shown.
    let mut text = "a\n".to_owned() + &"1.5\n".repeat(200_000);
    text.insert_str(700_002, "oops\n");
    let c = check(&write(&dir.path().join("a.csv"), text), &rules("{}"), None).unwrap();
    assert_eq!(failed(&c), ["mixed_types:a"]);
    assert_eq!((c.findings[0].count, c.findings[0].examples[0].value.as_str()), (1, "oops"));
    let c = check(&write(&dir.path().join("a.jsonl"), "{\"a\":1}\n{\"a\":\n{\"a\":2}\n"), &rules("{}"), None)
        .unwrap();
    assert_eq!(failed(&c), ["malformed_lines"]);
}

#[test]
fn numbers_that_are_none_do_not_spoil_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let values = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1.0, f64::MAX, f64::MIN, 5e-324];
    let constant = vec![3.0; values.len()];
    let none: Vec<Option<f64>> = vec![None; values.len()];
    let batch = RecordBatch::try_from_iter(vec![
        ("odd", Arc::new(Float64Array::from(values)) as ArrayRef),
        ("constant", Arc::new(Float64Array::from(constant))),
        ("none", Arc::new(Float64Array::from(none))),
    ])
    .unwrap();
    let path = write_batch(&dir.path().join("a.parquet"), &batch, 100);
    let p = profile(&path).unwrap();
    let odd = p.column("odd").unwrap();
    assert_eq!((odd.nan, odd.infinite, odd.nulls), (1, 2, 0));
    let n = odd.numbers.as_ref().unwrap();
    assert_eq!((n.count, n.zeros, n.min, n.max, n.sum.value()), (6, 2, f64::MIN, f64::MAX, 1.0));
    assert_eq!(odd.distinct.count(), (5.0, true));
    assert_eq!(p.column("constant").unwrap().numbers.as_ref().unwrap().deviation(), 0.0);
    assert_eq!(p.column("none").unwrap().nulls, 9);
    let back = Profile::from_json("p", p.to_json().unwrap().as_bytes()).unwrap();
    assert!(back.columns.iter().zip(&p.columns).all(|(a, b)| a.agrees_exactly(b)));
    let c = check(
        &path,
        &rules(r#"{"schema": {"odd": {"finite": true}, "none": {"mean": {"min": 0}}}}"#),
        Some(&p),
    )
    .unwrap();
    assert_eq!(failed(&c), ["mean:none", "finite:odd"]);
}

#[test]
fn very_wide_and_very_long() {
    let dir = tempfile::tempdir().unwrap();
    let columns = 10_000;
    let header: Vec<String> = (0..columns).map(|i| format!("c{i}")).collect();
    let row: Vec<String> = (0..columns).map(|i| i.to_string()).collect();
    let text = format!("{}\n{}\n{}\n", header.join(","), row.join(","), row.join(","));
    let wide = profile(&write(&dir.path().join("wide.csv"), text)).unwrap();
    assert_eq!((wide.columns.len(), wide.rows), (columns, 2));
    let long = format!("a,b\n\"{}\",2\nx,3\n", "y\n".repeat(32 << 20));
    let long = profile(&write(&dir.path().join("long.csv"), long)).unwrap();
    assert_eq!(long.column("a").unwrap().lengths.as_ref().unwrap().max, 64 << 20);
    assert!(long.to_json().unwrap().len() < 10_000, "a profile holds no long values");
}

#[test]
fn an_open_quote_is_an_error_not_all_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("a,b\n1,\"{}", "no end\n".repeat(25 << 20));
    let error = profile(&write(&dir.path().join("a.csv"), text)).unwrap_err().to_string();
    assert!(error.contains("quote left open"), "{error}");
}

#[test]
fn a_quote_that_takes_in_other_records_never_passes() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |first: &str, last: &str| {
        let row = |i: usize| match i {
            500 => format!("500,{first}\n"),
            900 => format!("900,{last}\n"),
            i => format!("{i},pipe\n"),
        };
        "id,name\n".to_owned() + &(0..1000).map(row).collect::<String>()
    };
    // Left open; closed 400 lines later; and in a file whose cells are all quoted, where that turns every quote around.
    let never = lines("\"pipe", "pipe");
    let late = lines("\"pipe", "pipe\"");
    let quoted = |row: usize| if row == 5 { "\"x\",\"y\n" } else { "\"x\",\"y\"\n" };
    let turned = "a,b\n".to_owned() + &(0..10).map(quoted).collect::<String>();
    let short = "a,b\n1,\"unclosed\n2,3\n4,5\n".to_owned();
    for (text, row) in [(never, 500), (late, 500), (turned, 5), (short, 0)] {
        let c = check(&write(&dir.path().join("a.csv"), text), &rules("{}"), None).unwrap();
        let finding = c.findings.iter().find(|f| f.rule == "open_quote").unwrap();
        assert_eq!((finding.count, finding.examples[0].row), (1, Some(row)), "{:?}", c.findings);
        assert!(!c.passed);
    }
    // Cells of many lines are no such thing, nor are inches.
    let poem = "a line, of words\nand another, one\n".repeat(50);
    let text = format!("id,name\n1,\"{poem}\"\n2,5\" pipe\n3,\"6\"\" pipe\"\n4,\"a\nb\nc\nd\ne\"\n");
    let c = check(&write(&dir.path().join("a.csv"), text), &rules("{}"), None).unwrap();
    assert_eq!((failed(&c), c.rows), (vec![], 4));
}

/// A quote within a cell is a character; blocks of the file must be cut as its records are.
#[test]
fn inches_do_not_make_one_record_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("id,name\n1,5\" pipe\n{}", "2,another pipe of steel\n".repeat(7_400_000));
    assert!(text.len() > 160 << 20);
    assert_eq!(profile(&write(&dir.path().join("a.csv"), text)).unwrap().rows, 7_400_001);
}

#[test]
fn columns_of_zeros_that_unpack_to_gigabytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let n = 40_000_000;
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(n))
        .build();
    let path = dir.path().join("bomb.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let array: ArrayRef = Arc::new(Float64Array::from(vec![0.0; 1_000_000]));
    let batch = RecordBatch::try_from_iter(vec![("zeros", array)]).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    for _ in 0..n / 1_000_000 {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
    let error = profile(&path).unwrap_err().to_string();
    assert!(error.contains("zeros") && error.contains("bomb"), "{error}");
}

/// What a packed buffer says that it unpacks to is believed by the reader, which makes room for it.
#[test]
fn arrow_files_that_unpack_to_gigabytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![0.5; 20_000]));
    let rows = RecordBatch::try_from_iter(vec![("half", numbers)]).unwrap();
    let mut cases = 0;
    for (codec, claims) in [
        (CompressionType::LZ4_FRAME, [1_i64 << 62, 1 << 33, 1 << 29]),
        (CompressionType::ZSTD, [i64::MAX, 1 << 33, 1 << 29]),
    ] {
        let packed = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
        let (mut file, mut stream) = (Vec::new(), Vec::new());
        let mut writer = FileWriter::try_new_with_options(&mut file, &rows.schema(), packed.clone()).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let mut writer = StreamWriter::try_new_with_options(&mut stream, &rows.schema(), packed).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        drop(writer);
        for (name, bytes) in [("a.arrow", file), ("a.arrows", stream)] {
            assert_eq!(profile(&write(&dir.path().join(name), &bytes)).unwrap().rows, 20_000, "{name}");
            let claim = 160_000_i64.to_le_bytes();
            let at = bytes.windows(8).rposition(|eight| eight == claim).unwrap();
            let claiming = |claim: i64| {
                let mut bytes = bytes.clone();
                bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                profile(&write(&dir.path().join(name), &bytes)).unwrap_err().to_string()
            };
            for claim in claims {
                cases += 1;
                let error = claiming(claim);
                assert!(error.contains("bomb") && error.contains(name), "{claim}: {error}");
            }
            // Too small to be refused before: what is unpacked is held against it.
            for claim in [i64::MIN, -2, 8, 159_992, 160_008, 100 << 20] {
                cases += 1;
                let error = claiming(claim);
                assert!(error.contains("Arrow IPC") || error.contains("hold together"), "{claim}: {error}");
            }
        }
    }
    println!("FIGURE data.arrow_bombs cases={cases} refused={cases}");
}

/// The reader makes room for a part before it reads it: 19 KB asked for 137 GB.
#[test]
fn an_arrow_file_that_claims_parts_outside_of_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rows = batch(&table(300, 1, Change::default()));
    let (mut file, mut stream) = (Vec::new(), Vec::new());
    let mut writer = FileWriter::try_new(&mut file, &rows.schema()).unwrap();
    writer.write(&rows).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let mut writer = StreamWriter::try_new(&mut stream, &rows.schema()).unwrap();
    writer.write(&rows).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let length = arrow::ipc::reader::read_footer_length(*file.last_chunk::<10>().unwrap()).unwrap();
    let footer = &file[file.len() - 10 - length..file.len() - 10];
    let block = *arrow::ipc::root_as_footer(footer).unwrap().recordBatches().unwrap().get(0);
    let body = block.bodyLength().to_le_bytes();
    for (name, mut bytes) in [("a.arrow", file), ("a.arrows", stream)] {
        assert!(profile(&write(&dir.path().join(name), &bytes)).is_ok(), "{name}");
        let last = bytes.windows(8).rposition(|eight| eight == body).unwrap();
        bytes[last..last + 8].copy_from_slice(&(1_i64 << 37).to_le_bytes());
        let error = profile(&write(&dir.path().join(name), &bytes)).unwrap_err().to_string();
        assert!(error.contains("outside of the file"), "{name}: {error}");
    }
}
