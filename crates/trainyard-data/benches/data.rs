//! The numbers of profiles, checks and statistics, each beside a peer or a limit measured in the same run.
//!
//! Prints `BENCH <name> <value> <unit> [ratio=<r>]`. Tables of more rows than `TRAINYARD_BENCH_ROWS` says are left out
//! (default 20,000,000).
//! Peers are Python environments of `tests/python`; one that does not install is said and left out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::file::properties::WriterProperties;
use trainyard_data::stats::{self, Rng};
use trainyard_data::{Profile, Rules, Source, drift, scan, source};

type Any<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Any<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [child, rest @ ..] = args.as_slice()
        && child == "child"
    {
        return child_of(rest);
    }
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| name.starts_with(a.as_str()));
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    // The memory of the largest beside that of the smallest says whether it grows with the rows.
    let mut first_rss = None;
    for rows in [1_000_000, 10_000_000, 20_000_000].into_iter().filter(|rows| *rows <= most_rows()) {
        let small = rows == 1_000_000;
        if !(wanted(&format!("profile.parquet_{}", short(rows))) || small && wanted("drift.vs_evidently")) {
            continue;
        }
        let (a, b) = (at("a.parquet"), at("b.parquet"));
        generate(&a, rows, 42, 0.0)?;
        generate(&b, rows, 43, 0.2)?;
        let decode = bare_decode(&a)? + bare_decode(&b)?;
        let (wall, rss) = child(&["drift", text(&a), text(&b)])?;
        println!("BENCH profile.parquet_{}_s {wall:.3} s ratio={:.2}", short(rows), wall / decode);
        println!("BENCH profile.parquet_{}_decode_s {decode:.3} s", short(rows));
        let grown = rss / *first_rss.get_or_insert(rss);
        println!("BENCH profile.parquet_{}_rss_mib {rss:.1} MiB ratio={grown:.2}", short(rows));
        // At 20 million rows it needs minutes and more memory than small machines have.
        if rows <= 10_000_000
            && let Some((peer, peer_rss)) = peer("polars", "polars_profile.py", &[&a, &b])?
        {
            println!(
                "BENCH profile.parquet_{}_vs_polars {:.2} x ratio={:.4}",
                short(rows),
                peer / wall,
                wall / peer
            );
            println!("# polars: {peer:.1} s, {peer_rss:.0} MiB");
        }
        if small
            && wanted("drift.vs_evidently")
            && let Some((peer, peer_rss)) = peer("evidently_bench", "evidently_bench.py", &[&a, &b])?
        {
            println!("BENCH drift.vs_evidently {:.1} x ratio={:.5}", peer / wall, wall / peer);
            println!("BENCH drift.vs_evidently_memory {:.1} x ratio={:.5}", peer_rss / rss, rss / peer_rss);
            println!("# Evidently: {peer:.1} s, {peer_rss:.0} MiB");
        }
    }
    if wanted("profile.csv") {
        let (a, b) = (at("a.csv"), at("b.csv"));
        generate_csv(&a, 1_000_000, 42)?;
        generate_csv(&b, 1_000_000, 43)?;
        let (wall, _) = child(&["drift", text(&a), text(&b)])?;
        match peer("polars", "polars_profile.py", &[&a, &b])? {
            Some((peer, _)) => println!("BENCH profile.csv_1m_s {wall:.3} s ratio={:.3}", wall / peer),
            None => println!("BENCH profile.csv_1m_s {wall:.3} s"),
        }
    }
    if wanted("check") {
        let a = at("small.parquet");
        generate(&a, 20_000, 44, 0.0)?;
        let (wall, _) = child(&["check", text(&a)])?;
        match peer("polars", "polars_profile.py", &[&a, &a])? {
            Some((peer, _)) => println!("BENCH check.20k_s {wall:.4} s ratio={:.4}", wall / peer),
            None => println!("BENCH check.20k_s {wall:.4} s"),
        }
    }
    if wanted("unique") {
        let keys = 50_000_000;
        let a = at("keys.parquet");
        generate_keys(&a, keys)?;
        let (wall, rss) = child(&["unique", text(&a)])?;
        println!("BENCH unique.{}_s {wall:.2} s", short(keys));
        println!("BENCH unique.{}_rss_mib {rss:.1} MiB", short(keys));
    }
    if wanted("bootstrap") {
        let mut rng = Rng::new(1);
        let values: Vec<f64> = (0..1_000_000).map(|_| rng.normal()).collect();
        let started = Instant::now();
        let b =
            stats::paired_bootstrap(&values, stats::Resample::Plain, 1000, 0.05, 7).ok_or("no interval")?;
        println!("BENCH bootstrap.1m_s {:.3} s", started.elapsed().as_secs_f64());
        assert!(b.percentile.low < b.mean && b.mean < b.percentile.high);
    }
    Ok(())
}

fn most_rows() -> usize {
    std::env::var("TRAINYARD_BENCH_ROWS").ok().and_then(|v| v.parse().ok()).unwrap_or(20_000_000)
}

fn short(rows: usize) -> String {
    if rows.is_multiple_of(1_000_000) {
        format!("{}m", rows / 1_000_000)
    } else {
        format!("{}k", rows / 1000)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Runs this program again for one measure, so that its memory is its own: (seconds, peak MiB), best of three.
fn child(args: &[&str]) -> Any<(f64, f64)> {
    let mut best = (f64::INFINITY, 0.0);
    for _ in 0..3 {
        let started = Instant::now();
        let out = Command::new(std::env::current_exe()?).arg("child").args(args).output()?;
        let wall = started.elapsed().as_secs_f64();
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
        }
        let rss: f64 = String::from_utf8(out.stdout)?.trim().parse()?;
        if wall < best.0 {
            best = (wall, rss);
        }
    }
    Ok(best)
}

fn child_of(args: &[String]) -> Any<()> {
    let reading = source::Options::default();
    match args {
        [what, a, b] if what == "drift" => {
            let baseline = scan::profile(&mut Source::open(a, &reading)?, None)?.profile;
            let candidate = scan::profile(&mut Source::open(b, &reading)?, Some(&baseline))?.profile;
            let found = drift::compare(&baseline, &candidate, &Rules::default());
            assert!(found.len() == baseline.columns.len());
        }
        [what, a] => {
            let rules: Rules = match what.as_str() {
                "unique" => serde_json::from_str(r#"{"unique": [["key"]]}"#)?,
                _ => serde_json::from_str(
                    r#"{"schema": {"f0": {"min": -100, "nulls": 0.05}, "c0": {"regex": "^c"}}}"#,
                )?,
            };
            let baseline: Option<&Profile> = None;
            let check = trainyard_data::check(
                &mut Source::open(a, &reading)?,
                &rules,
                baseline,
                &reading,
                &scan::Options::default(),
                0,
            )?;
            assert!(check.passed, "{:?}", check.findings);
        }
        _ => return Err("wrong arguments".into()),
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
    println!("{}", kib / 1024.0);
    Ok(())
}

/// Seconds that the `parquet` crate takes to decode all columns on all cores.
fn bare_decode(path: &Path) -> Any<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let started = Instant::now();
        let metadata = ArrowReaderMetadata::load(&std::fs::File::open(path)?, ArrowReaderOptions::new())?;
        let tasks: Vec<(usize, usize)> = (0..metadata.metadata().num_row_groups())
            .flat_map(|g| (0..metadata.schema().fields().len()).map(move |c| (g, c)))
            .collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..source::Options::default().threads() {
                scope.spawn(|| {
                    while let Some((group, column)) =
                        tasks.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        let Ok(file) = std::fs::File::open(path) else { return };
                        let builder =
                            ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
                        let mask = parquet::arrow::ProjectionMask::roots(builder.parquet_schema(), [*column]);
                        let reader = builder
                            .with_projection(mask)
                            .with_row_groups(vec![*group])
                            .with_batch_size(8192)
                            .build();
                        let rows: usize = reader.into_iter().flatten().flatten().map(|b| b.num_rows()).sum();
                        std::hint::black_box(rows);
                    }
                });
            }
        });
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Runs a script and says at its end how much memory it took.
const WITH_PEAK: &str = "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); \
     print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)";

/// Seconds (start-up included) and peak MiB of a script of `tests/python` in a virtual environment that is made when it is not there.
/// None, with a line that says so: it does not install here.
///
/// # Errors
/// The script fails: then there is no peer to stand beside.
fn peer(environment: &str, script: &str, paths: &[&PathBuf]) -> Any<Option<(f64, f64)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let made = Command::new(root.join("scripts/venv.sh")).arg(environment).output()?;
    if !made.status.success() {
        println!("# {environment} does not install here");
        return Ok(None);
    }
    let python = String::from_utf8(made.stdout)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let started = Instant::now();
    let run = Command::new(python.trim()).args(["-c", WITH_PEAK]).arg(script).args(paths).output()?;
    let wall = started.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&run.stdout);
    let kib = said.lines().rev().find_map(|line| line.strip_prefix("peak ")?.parse::<f64>().ok());
    match kib.filter(|_| run.status.success()) {
        Some(kib) => Ok(Some((wall, kib / 1024.0))),
        None => Err(format!("{environment} failed: {}", String::from_utf8_lossy(&run.stderr)).into()),
    }
}

/// 10 float, 5 integer and 4 category columns (up to 10,000 values) and a time.
fn rows_of(rows: usize, rng: &mut Rng, start: usize, shift: f64) -> Any<RecordBatch> {
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for i in 0..10 {
        let moved = if i == 0 { shift } else { 0.0 };
        let values = (0..rows).map(|_| (rng.uniform() > 0.01).then(|| rng.normal() + moved));
        columns.push((format!("f{i}"), Arc::new(values.collect::<Float64Array>())));
    }
    for i in 0..5_u32 {
        let range = 10_u64.pow(1 + i);
        columns.push((
            format!("i{i}"),
            Arc::new((0..rows).map(|_| Some(rng.below(range) as i64)).collect::<Int64Array>()),
        ));
    }
    for (i, kinds) in [5, 50, 1000, 10_000].into_iter().enumerate() {
        let values = (0..rows).map(|_| Some(format!("c{}", rng.below(kinds))));
        columns.push((format!("c{i}"), Arc::new(values.collect::<StringArray>())));
    }
    let times = (0..rows).map(|i| Some(1_700_000_000_000_000 + (start + i) as i64 * 1_000_000));
    columns.push(("ts".into(), Arc::new(times.collect::<TimestampMicrosecondArray>())));
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn generate(path: &Path, rows: usize, seed: u64, shift: f64) -> Any<()> {
    let mut rng = Rng::new(seed);
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    for start in (0..rows).step_by(100_000) {
        let batch = rows_of((rows - start).min(100_000), &mut rng, start, shift)?;
        if writer.is_none() {
            let properties = WriterProperties::builder()
                .set_compression(parquet::basic::Compression::SNAPPY)
                .set_max_row_group_row_count(Some(1_000_000))
                .build();
            writer =
                Some(ArrowWriter::try_new(std::fs::File::create(path)?, batch.schema(), Some(properties))?);
        }
        if let Some(writer) = &mut writer {
            writer.write(&batch)?;
        }
    }
    if let Some(writer) = writer {
        writer.close()?;
    }
    Ok(())
}

fn generate_csv(path: &Path, rows: usize, seed: u64) -> Any<()> {
    use std::io::Write;
    let mut rng = Rng::new(seed);
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    let names: Vec<String> = (0..10)
        .map(|i| format!("f{i}"))
        .chain((0..5).map(|i| format!("i{i}")))
        .chain((0..4).map(|i| format!("c{i}")))
        .collect();
    writeln!(out, "{},ts", names.join(","))?;
    for row in 0..rows {
        for _ in 0..10 {
            write!(out, "{},", rng.normal())?;
        }
        for i in 0..5_u32 {
            write!(out, "{},", rng.below(10_u64.pow(1 + i)))?;
        }
        for kinds in [5, 50, 1000, 10_000] {
            write!(out, "c{},", rng.below(kinds))?;
        }
        writeln!(out, "{}", source::show_time(1_700_000_000_000_000 + row as i64 * 1_000_000))?;
    }
    Ok(())
}

fn generate_keys(path: &Path, keys: usize) -> Any<()> {
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    for start in (0..keys).step_by(1_000_000) {
        let end = (start + 1_000_000).min(keys);
        // A permutation by an odd factor: distinct, in no order.
        let values = (start..end).map(|i| Some((i as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)));
        let array: ArrayRef = Arc::new(values.collect::<Int64Array>());
        let batch = RecordBatch::try_from_iter(vec![("key", array)])?;
        if writer.is_none() {
            writer = Some(ArrowWriter::try_new(std::fs::File::create(path)?, batch.schema(), None)?);
        }
        if let Some(writer) = &mut writer {
            writer.write(&batch)?;
        }
    }
    if let Some(writer) = writer {
        writer.close()?;
    }
    Ok(())
}
