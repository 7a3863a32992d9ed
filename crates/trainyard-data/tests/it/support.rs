//! Tables with known truth, in every format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use trainyard_data::check::Check;
use trainyard_data::stats::Rng;
use trainyard_data::{Profile, Result, Rules, Source, scan, source};

/// What a generated table differs in from the usual.
#[derive(Clone, Copy, Default)]
pub struct Change {
    /// Of the mean of `f0`, in standard deviations.
    pub shift: f64,
    /// Factor of the spread of `f1`.
    pub spread: f64,
    /// Share of rows whose `plan` is moved to the first category.
    pub mix: f64,
    /// Share of nulls in `f2`.
    pub nulls: f64,
}

pub struct Table {
    pub ids: Vec<i64>,
    pub f0: Vec<f64>,
    pub f1: Vec<f64>,
    pub f2: Vec<Option<f64>>,
    pub count: Vec<i64>,
    pub plan: Vec<String>,
    pub active: Vec<bool>,
    pub at: Vec<i64>,
}

/// Rows of a seeded table.
pub fn table(rows: usize, seed: u64, change: Change) -> Table {
    let mut rng = Rng::new(seed);
    let mut t = Table {
        ids: vec![],
        f0: vec![],
        f1: vec![],
        f2: vec![],
        count: vec![],
        plan: vec![],
        active: vec![],
        at: vec![],
    };
    let spread = if change.spread == 0.0 { 1.0 } else { change.spread };
    for i in 0..rows {
        t.ids.push(i as i64 + (seed as i64) * 1_000_000_000);
        t.f0.push(10.0 + 2.0 * (rng.normal() + change.shift));
        t.f1.push(rng.normal() * spread);
        let null = rng.uniform() < 0.02 + change.nulls;
        t.f2.push((!null).then(|| (rng.normal() * 0.7).exp()));
        t.count.push(rng.below(40) as i64);
        let plan = if rng.uniform() < change.mix { 0 } else { rng.below(5) };
        t.plan.push(["basic", "plus", "pro, \"x\"", "família", "team"][plan as usize].to_owned());
        t.active.push(rng.uniform() < 0.3);
        t.at.push(1_700_000_000_000_000 + i as i64 * 60_000_000);
    }
    t
}

pub fn batch(t: &Table) -> RecordBatch {
    RecordBatch::try_from_iter(vec![
        ("id", Arc::new(Int64Array::from(t.ids.clone())) as ArrayRef),
        ("f0", Arc::new(Float64Array::from(t.f0.clone()))),
        ("f1", Arc::new(Float64Array::from(t.f1.clone()))),
        ("f2", Arc::new(Float64Array::from(t.f2.clone()))),
        ("count", Arc::new(Int64Array::from(t.count.clone()))),
        ("plan", Arc::new(StringArray::from(t.plan.clone()))),
        ("active", Arc::new(BooleanArray::from(t.active.clone()))),
        ("at", Arc::new(TimestampMicrosecondArray::from(t.at.clone()))),
    ])
    .unwrap()
}

pub fn write_parquet(path: &Path, t: &Table, row_group: usize) -> PathBuf {
    write_batch(path, &batch(t), row_group)
}

pub fn write_batch(path: &Path, batch: &RecordBatch, row_group: usize) -> PathBuf {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(row_group)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    path.to_owned()
}

pub fn csv(t: &Table, delimiter: char) -> String {
    let d = delimiter;
    let mut out = format!("id{d}f0{d}f1{d}f2{d}count{d}plan{d}active{d}at\n");
    for i in 0..t.ids.len() {
        let f2 = t.f2[i].map_or(String::new(), |x| x.to_string());
        let plan = t.plan[i].replace('"', "\"\"");
        out.push_str(&format!(
            "{}{d}{}{d}{}{d}{f2}{d}{}{d}\"{plan}\"{d}{}{d}{}\n",
            t.ids[i],
            t.f0[i],
            t.f1[i],
            t.count[i],
            t.active[i],
            source::show_time(t.at[i])
        ));
    }
    out
}

pub fn json_lines(t: &Table) -> String {
    (0..t.ids.len())
        .map(|i| {
            let mut row = serde_json::json!({
                "id": t.ids[i], "f0": t.f0[i], "f1": t.f1[i], "f2": t.f2[i], "count": t.count[i],
                "plan": t.plan[i], "active": t.active[i], "at": source::show_time(t.at[i]),
            });
            if t.f2[i].is_none() && i % 2 == 0 {
                row.as_object_mut().unwrap().remove("f2");
            }
            format!("{row}\n")
        })
        .collect()
}

pub fn write(path: &Path, text: impl AsRef<[u8]>) -> PathBuf {
    std::fs::write(path, text).unwrap();
    path.to_owned()
}

pub fn open(path: &Path) -> Result<Source> {
    Source::open(path.to_str().unwrap(), &source::Options::default())
}

pub fn profile(path: &Path) -> Result<Profile> {
    Ok(scan::profile(&mut open(path)?, None)?.profile)
}

pub fn rules(json: &str) -> Rules {
    serde_json::from_str(json).unwrap()
}

pub fn check(path: &Path, rules: &Rules, baseline: Option<&Profile>) -> Result<Check> {
    let options = source::Options { kinds: rules.kinds(), ..source::Options::default() };
    trainyard_data::check(
        &mut Source::open(path.to_str().unwrap(), &options)?,
        rules,
        baseline,
        &options,
        &scan::Options::default(),
        1_800_000_000_000_000,
    )
}

/// The names of the rules that failed, with their columns.
pub fn failed(check: &Check) -> Vec<String> {
    check
        .findings
        .iter()
        .filter(|f| f.severity == trainyard_data::findings::Severity::Fail)
        .map(|f| format!("{}{}", f.rule, f.column.as_ref().map_or(String::new(), |c| format!(":{c}"))))
        .collect()
}

pub fn long() -> bool {
    std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1")
}

/// The Python of an environment of `tests/python`.
pub fn python(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = std::process::Command::new(root.join("scripts/venv.sh")).arg(name).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

/// Runs a script of `tests/python` of this crate with JSON on its standard input; its JSON answer.
pub fn ask(environment: &str, script: &str, question: &serde_json::Value) -> serde_json::Value {
    use std::io::Write;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let mut child = std::process::Command::new(python(environment))
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = question.to_string();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success(), "{script} failed");
    serde_json::from_slice(&out.stdout).unwrap()
}
