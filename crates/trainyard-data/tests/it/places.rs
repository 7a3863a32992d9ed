//! What is read of directories and globs, and what is no file to read.

use std::os::unix::fs::symlink;
use std::path::Path;

use arrow::ipc::writer::StreamWriter;
use trainyard_data::{Error, Profile, Source, scan, source};

use crate::support::*;

fn rows(spec: &Path) -> Result<u64, Error> {
    let mut table = Source::open(spec.to_str().unwrap(), &source::Options::default())?;
    Ok(scan::profile(&mut table, None)?.profile.rows)
}

#[test]
fn nothing_that_is_there_is_left_out_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let one = "a\n1\n";
    for folder in ["data/part=1", "data/_log", "elsewhere"] {
        std::fs::create_dir_all(at(folder)).unwrap();
        write(&at(folder).join("x.csv"), one);
    }
    write(&at("data/part=1/.y.csv"), one);
    write(&at("data/part=1/_z.csv"), one);
    // Directories and globs leave the same names out, unless the glob begins as they do.
    for (spec, want) in [
        ("data", 1),
        ("data/**/*.csv", 1),
        ("data/part=1/*.csv", 1),
        ("data/*/.*.csv", 1),
        ("data/part=1/{.,_}*.csv", 0),
        ("data/_*/*.csv", 1),
    ] {
        match rows(&at(spec)) {
            Ok(rows) => assert_eq!(rows, want, "{spec}"),
            Err(error) => assert_eq!(want, 0, "{spec}: {error}"),
        }
    }
    // A link to what is read anyway is no loss, one to what lies elsewhere is.
    symlink(at("data/part=1"), at("data/latest")).unwrap();
    assert_eq!(rows(&at("data")).unwrap(), 1);
    symlink(at("elsewhere"), at("data/part=2")).unwrap();
    for spec in ["data", "data/*/*.csv", "data/part=*/x.csv"] {
        let error = rows(&at(spec)).unwrap_err();
        assert!(matches!(&error, Error::Usage(what) if what.contains("part=2")), "{spec}: {error}");
    }
    assert_eq!(rows(&at("data/part=1/x*.csv")).unwrap(), 1);
    std::fs::remove_file(at("data/part=2")).unwrap();
    symlink(at("data/_log"), at("data/part=2")).unwrap();
    assert!(rows(&at("data")).unwrap_err().to_string().contains("part=2"));
    std::fs::remove_file(at("data/latest")).unwrap();
    symlink(at("data/part=1"), at("data/other")).unwrap();
    assert!(rows(&at("data/[!p]*/*.csv")).unwrap_err().to_string().contains("other"));
    std::fs::remove_file(at("data/part=2")).unwrap();
    symlink(at("gone.csv"), at("data/part=1/linked.csv")).unwrap();
    for spec in ["data", "data/part=1/*.csv"] {
        let error = rows(&at(spec)).unwrap_err();
        assert!(matches!(&error, Error::Usage(what) if what.contains("linked.csv")), "{spec}: {error}");
    }
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    symlink("/dev/zero", at("zero.json")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.csv")).status().unwrap().success());
    for result in [
        Profile::read(&at("zero.json")).map(|_| ()),
        Profile::read(&at("pipe.csv")).map(|_| ()),
        source::read_small(&at("zero.json"), 10).map(|_| ()),
        rows(&at("zero.json")).map(|_| ()),
        rows(&at("pipe.csv")).map(|_| ()),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Usage(what) if what.contains("not a regular file")), "{error}");
    }
    assert!(source::read_small(&write(&at("long"), "12345678901"), 10).is_err());
    assert_eq!(source::read_small(&write(&at("long"), "1234567890"), 10).unwrap().len(), 10);
}

#[test]
fn a_stream_ends_with_its_marker() {
    let dir = tempfile::tempdir().unwrap();
    let rows_of = |bytes: &[u8]| rows(&write(&dir.path().join("a.arrows"), bytes));
    let batch = batch(&table(300, 1, Change::default()));
    let mut stream = Vec::new();
    let mut writer = StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(rows_of(&stream).unwrap(), 600);
    let marker = stream.len() - 8;
    assert_eq!(stream[marker..], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let stray = [&stream[..marker], b"abc"].concat();
    for cut in [&stream[..marker], &stream[..marker + 4], stray.as_slice()] {
        let error = rows_of(cut).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
    }
    let error = rows_of(&stream.repeat(2)).unwrap_err().to_string();
    assert!(error.contains("follow the marker"), "{error}");
}
