//! One table, every format and place, one profile.

use arrow::ipc::writer::{FileWriter, StreamWriter};
use trainyard_data::schema::Kind;
use trainyard_data::{Source, scan, source};

use crate::support::*;

#[test]
fn all_formats_give_one_profile() {
    let dir = tempfile::tempdir().unwrap();
    let t = table(30_000, 1, Change::default());
    let at = |name: &str| dir.path().join(name);
    let base = profile(&write_parquet(&at("a.parquet"), &t, 7_000)).unwrap();
    assert_eq!(base.rows, 30_000);
    let b = batch(&t);
    let mut file = FileWriter::try_new(std::fs::File::create(at("b.arrow")).unwrap(), &b.schema()).unwrap();
    let mut stream =
        StreamWriter::try_new(std::fs::File::create(at("c.arrows")).unwrap(), &b.schema()).unwrap();
    for start in (0..30_000).step_by(1000) {
        file.write(&b.slice(start, 1000)).unwrap();
        stream.write(&b.slice(start, 1000)).unwrap();
    }
    file.finish().unwrap();
    stream.finish().unwrap();
    write(&at("d.csv"), csv(&t, ','));
    write(&at("e.tsv"), csv(&t, '\t'));
    write(&at("f.csv"), format!("\u{feff}{}", csv(&t, ';')).replace('\n', "\r\n"));
    write(&at("g.jsonl"), json_lines(&t));
    for name in ["b.arrow", "c.arrows", "d.csv", "e.tsv", "f.csv", "g.jsonl"] {
        let mut table = open(&at(name)).unwrap();
        let other = scan::profile(&mut table, Some(&base)).unwrap().profile;
        for column in &base.columns {
            let mut same =
                other.column(&column.field.name).unwrap_or_else(|| panic!("{name} lacks a column")).clone();
            same.field.physical.clone_from(&column.field.physical);
            assert!(
                same.agrees_exactly(column),
                "{name}: {:?} differs: {same:?} {column:?}",
                column.field.name
            );
        }
    }
}

/// Feather is packed with LZ4 unless its writer says otherwise.
#[test]
fn arrow_files_of_pyarrow_are_read_however_they_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let parquet = write_parquet(&dir.path().join("a.parquet"), &table(10_000, 4, Change::default()), 3_000);
    let base = profile(&parquet).unwrap();
    let question = serde_json::json!({"parquet": parquet, "folder": dir.path()});
    let names = ask("pandera", "arrow_files.py", &question);
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in &names {
        let mut table = open(&dir.path().join(name)).unwrap();
        let other = scan::profile(&mut table, Some(&base)).unwrap().profile;
        assert_eq!(other.rows, 10_000, "{name}");
        for column in &base.columns {
            let mut same = other.column(&column.field.name).unwrap().clone();
            same.field.physical.clone_from(&column.field.physical);
            assert!(same.agrees_exactly(column), "{name}: {:?} differs", column.field.name);
        }
    }
    println!("FIGURE data.arrow_of_pyarrow files={} packed=lz4,zstd", names.len());
    assert_eq!(names.len(), 14);
}

#[test]
fn threads_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let t = table(40_000, 2, Change::default());
    for path in [
        write_parquet(&dir.path().join("a.parquet"), &t, 5_000),
        write(&dir.path().join("a.csv"), csv(&t, ',')),
    ] {
        let made = |threads| {
            let options = source::Options { threads, ..source::Options::default() };
            let mut table = Source::open(path.to_str().unwrap(), &options).unwrap();
            scan::profile(&mut table, None).unwrap().profile.to_json().unwrap()
        };
        assert_eq!(made(1), made(3));
    }
}

#[test]
fn globs_directories_and_parts_are_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("day=1")).unwrap();
    let t = table(9_000, 3, Change::default());
    let whole = write_parquet(&dir.path().join("whole.parquet"), &t, 9_000);
    let b = batch(&t);
    write_batch(&dir.path().join("day=1/a.parquet"), &b.slice(0, 4_000), 1_000);
    write_batch(&dir.path().join("day=1/b.parquet"), &b.slice(4_000, 5_000), 5_000);
    let whole = profile(&whole).unwrap();
    for spec in ["day=1", "day=1/*.parquet", "*/[ab].parquet"] {
        let spec = dir.path().join(spec).display().to_string();
        let mut parts = Source::open(&spec, &source::Options::default()).unwrap();
        let parts = scan::profile(&mut parts, Some(&whole)).unwrap().profile;
        assert!(whole.columns.iter().zip(&parts.columns).all(|(a, b)| a.agrees_exactly(b)), "{spec}");
    }
    // Profiles of the parts, merged, are the profile of the whole.
    let of =
        |name: &str| scan::profile(&mut open(&dir.path().join(name)).unwrap(), Some(&whole)).unwrap().profile;
    let mut merged = of("day=1/b.parquet");
    merged.merge(&of("day=1/a.parquet")).unwrap();
    assert!(whole.columns.iter().zip(&merged.columns).all(|(a, b)| a.agrees_exactly(b)));
    let none = Source::open(&dir.path().join("*.none").display().to_string(), &source::Options::default());
    assert!(matches!(none, Err(trainyard_data::Error::Usage(_))));
}

#[test]
fn kinds_are_found_late_too() {
    let dir = tempfile::tempdir().unwrap();
    // Integers for longer than any sample looks, then a fraction; and a column that turns to words.
    let mut text = String::from("n,w\n");
    for i in 0..300_000 {
        text.push_str(if i == 150_321 { "0.5," } else { "12," });
        text.push_str(if i % 7 == 3 && i > 3_000 { "word\n" } else { "7\n" });
    }
    let profile = profile(&write(&dir.path().join("a.csv"), text)).unwrap();
    assert_eq!(profile.column("n").unwrap().field.kind, Kind::Float);
    assert_eq!(profile.column("n").unwrap().numbers.as_ref().unwrap().min, 0.5);
    assert_eq!(profile.column("w").unwrap().field.kind, Kind::Text);
    let lines = format!("{}{{\"a\":1,\"late\":\"x\"}}\n", "{\"a\":1}\n".repeat(700_000));
    let mut table = open(&write(&dir.path().join("a.jsonl"), lines)).unwrap();
    let profile = scan::profile(&mut table, None).unwrap().profile;
    assert_eq!(profile.column("late").unwrap().present(), 1);
}

#[test]
fn dvc_files_are_followed_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let text = "a,b\n1,2\n3,4\n";
    let md5 = "e80a5dbdbd7ab7b3e06d9f52ed55d9e3";
    let real = {
        use std::process::Command;
        let path = write(&dir.path().join("x"), text);
        let out = Command::new("md5sum").arg(path).output().unwrap().stdout;
        String::from_utf8(out).unwrap()[..32].to_owned()
    };
    assert_ne!(real, md5);
    let dvc = |md5: &str| {
        write(
            &dir.path().join("data.csv.dvc"),
            format!("outs:\n- md5: {md5}\n  size: 12\n  hash: md5\n  path: data.csv\n"),
        )
    };
    // Beside it.
    write(&dir.path().join("data.csv"), text);
    assert_eq!(profile(&dvc(&real)).unwrap().rows, 2);
    let error = profile(&dvc(md5)).unwrap_err().to_string();
    assert!(error.contains("dvc pull"), "{error}");
    // In the remote that the repository names, and in its cache.
    std::fs::remove_file(dir.path().join("data.csv")).unwrap();
    let remote = dir.path().join("store");
    let kept = remote.join(format!("files/md5/{}/{}", &real[..2], &real[2..]));
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::create_dir(dir.path().join(".dvc")).unwrap();
    write(&kept, text);
    write(
        &dir.path().join(".dvc/config"),
        format!("[core]\n    remote = main\n['remote \"main\"']\n    url = {}\n", remote.display()),
    );
    assert_eq!(profile(&dvc(&real)).unwrap().rows, 2);
    write(&kept, "a,b\n1,2\n3,5\n");
    let error = profile(&dvc(&real)).unwrap_err().to_string();
    assert!(error.contains("MD5") || error.contains("dvc pull"), "{error}");
}
