//! Small files that would take all of memory: each is read by a process of its own, with a limit on its addresses.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray, StringViewBuilder};
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use trainyard_data::stats::Rng;
use trainyard_data::{Source, scan, source};

use crate::support::*;

const FILE: &str = "TRAINYARD_HOSTILE_FILE";
const MIB: usize = 1 << 20;

/// What a check of a file says in a process of at most so many MiB: `rows passed`, or an error.
fn said_within(mib: usize, path: &Path) -> String {
    let out = Command::new("sh")
        .args(["-c", "ulimit -v $0 && exec \"$@\"", &(mib * 1024).to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::small_files_do_not_take_all_of_memory", "--nocapture"])
        .env(FILE, path)
        // Each thread's allocator would keep addresses that it does not use.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("SAID ")).map(|(_, said)| said.to_owned());
    line.unwrap_or_else(|| panic!("{}: {text}{}", path.display(), String::from_utf8_lossy(&out.stderr)))
}

fn views(rows: usize) -> ArrayRef {
    let mut builder = StringViewBuilder::new();
    let block = builder.append_block(vec![b'x'; MIB].into());
    for _ in 0..rows {
        builder.try_append_view(block, 0, MIB as u32).unwrap();
    }
    Arc::new(builder.finish())
}

fn entries(rows: usize) -> ArrayRef {
    let keys = Int32Array::from(vec![0; rows]);
    Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec!["x".repeat(MIB)]))))
}

fn arrow(path: &Path, array: ArrayRef) {
    let batch = RecordBatch::try_from_iter(vec![("t", array)]).unwrap();
    let mut writer = FileWriter::try_new(std::fs::File::create(path).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

fn parquet(path: &Path, rows: usize) {
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(8 * MIB).build();
    let batch = RecordBatch::try_from_iter(vec![("t", entries(rows))]).unwrap();
    let file = std::fs::File::create(path).unwrap();
    // Without the schema of Arrow, which says that it is a dictionary.
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A column whose chunk is one page of 256 MiB, in rows of 4 MiB, within the ratio of a bomb.
fn long_rows(path: &Path) {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(zstd)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(512 * MIB)
        .build();
    // Something to pack in each row: pages packed to a few hundredths of a percent would be refused.
    let mut rng = Rng::new(7);
    let row = |_| {
        let mut text = "x".repeat(4 * MIB);
        let noise: String = (0..8192).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
        text.replace_range(..noise.len(), &noise);
        text
    };
    let array: ArrayRef = Arc::new((0..64).map(row).map(Some).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter(vec![("c", array)]).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn small_files_do_not_take_all_of_memory() {
    if let Some(path) = std::env::var_os(FILE) {
        let rules = rules(r#"{"schema": {"t": {"optional": true, "unique": true}}}"#);
        let reading = source::Options { threads: 2, ..source::Options::default() };
        let checked = Source::open(&path.to_string_lossy(), &reading).and_then(|mut table| {
            trainyard_data::check(&mut table, &rules, None, &reading, &scan::Options::default(), 0)
        });
        match checked {
            Ok(check) => println!("SAID {} {}", check.rows, failed(&check).join(" ")),
            Err(error) => println!("SAID {error}"),
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    arrow(&at("many-views.arrow"), views(20_000));
    arrow(&at("views.arrow"), views(400));
    arrow(&at("entries.arrow"), entries(400));
    parquet(&at("many-entries.parquet"), 1_200);
    parquet(&at("entries.parquet"), 400);
    let keys: Vec<String> = (0..150_000).map(|i| format!("\"k{i}\":1")).collect();
    write(&at("keys.jsonl"), format!("{{{}}}\n{}", keys.join(","), "{}\n".repeat(5000)));
    let header: Vec<String> = (0..50_000).map(|i| format!("c{i}")).collect();
    write(&at("thin.csv"), format!("{}\n{}", header.join(","), "1\n".repeat(5000)));
    let objects: Vec<String> = (0..50_000).map(|i| format!("\"k{i}\":1")).collect();
    write(&at("thin.jsonl"), format!("{{{}}}\n{}", objects.join(","), "{}\n".repeat(5000)));
    for (name, want) in [
        ("many-views.arrow", "bomb"),
        ("views.arrow", "400 unique:t"),
        ("entries.arrow", "400 unique:t"),
        ("many-entries.parquet", "bomb"),
        ("entries.parquet", "400 unique:t"),
        ("keys.jsonl", "over 100000 keys"),
        ("thin.csv", "lack nearly all"),
        ("thin.jsonl", "lack nearly all"),
    ] {
        let said = said_within(400, &at(name));
        assert!(said.contains(want), "{name}: {said}");
    }
    long_rows(&at("rows.parquet"));
    assert_eq!(said_within(460, &at("rows.parquet")), "64 ");
}
