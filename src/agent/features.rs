//! The `features` step: the user's own transform, run several times on a sample, and what must not differ between the runs.
//!
//! It runs inside of the step's shell, after `setup`, so the transform finds what a training finds. Like the data step it leaves a
//! report of columns and counts; no value of a feature is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use trainyard_data::cells::{self, Cells};
use trainyard_data::stats::Rng;
use trainyard_data::{Rules, Source, check, scan, source};

pub use self::kept::FeatureBase;
use super::data::{finding, told};
use crate::clock::{Clock, SystemClock};
use crate::model::data::{DataFinding, DataReport, MAX_REPORTS, Severity};
use crate::model::plan::{Endpoint, FeatureCheck, Serve, Transform};

mod kept;
mod served;

/// Rows of the sample that are used.
const MAX_ROWS: usize = 2_000;
/// Rows that are tried alone.
const ALONE: usize = 5;
/// Two results of the same arithmetic in another order may differ by this share of their size.
const ROUNDING: f64 = 1e-9;
/// In the environment of the step: this program, and its work file (`model::data::FEATURES_COMMAND`).
pub const PROGRAM: &str = "TRAINYARD_CHECK";
pub const WORK: &str = "TRAINYARD_CHECK_WORK";
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    pub transforms: Vec<Transform>,
    /// By transform: what its output is held against.
    #[serde(default)]
    pub bases: BTreeMap<String, FeatureBase>,
    pub report: PathBuf,
}

/// Bases for a check without a daemon: there is no run to be held against.
pub fn alone(transforms: &[Transform]) -> BTreeMap<String, FeatureBase> {
    let none = || FeatureBase { output: None, note: "no baseline: there is no daemon here".to_owned() };
    transforms.iter().filter(|t| t.diff.is_some()).map(|t| (t.name.clone(), none())).collect()
}

/// Writes the work file; what the step's environment gets.
pub fn prepare(
    dir: &Path,
    transforms: &[Transform],
    bases: &BTreeMap<String, FeatureBase>,
) -> std::io::Result<Vec<(String, String)>> {
    let work = dir.join("features-work.json");
    let report = dir.join(super::data::REPORT);
    let _ = std::fs::remove_file(&report);
    let bytes = serde_json::to_vec(&Work { transforms: transforms.to_vec(), bases: bases.clone(), report })?;
    std::fs::write(&work, bytes)?;
    let exe = std::env::current_exe()?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![(PROGRAM.to_owned(), text(&exe)), (WORK.to_owned(), text(&work))])
}

/// Checks every transform and says what it found. True: all hold.
///
/// # Errors
/// The work file cannot be read, or the report not be written.
pub fn run(work: &Path) -> anyhow::Result<bool> {
    let bytes = std::fs::read(work).with_context(|| format!("cannot read {}", work.display()))?;
    let work: Work =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not a work file", work.display()))?;
    let mut reports = Vec::new();
    for transform in work.transforms.iter().take(MAX_REPORTS) {
        let report = one(transform, work.bases.get(&transform.name)).bounded();
        print!("{}", told(&report));
        reports.push(report);
    }
    std::fs::write(&work.report, serde_json::to_vec(&reports)?)
        .with_context(|| format!("cannot write {}", work.report.display()))?;
    Ok(reports.iter().all(|r| r.passed))
}

fn one(transform: &Transform, base: Option<&FeatureBase>) -> DataReport {
    let mut report =
        DataReport { name: transform.name.clone(), kind: "features".into(), ..DataReport::default() };
    if let Err(error) = checked(transform, base, &mut report) {
        report.findings.push(finding(Severity::Fail, "cannot_run", None, format!("{error:#}")));
    }
    report.passed = report.findings.iter().all(|f| f.severity != Severity::Fail);
    report
}

fn checked(transform: &Transform, base: Option<&FeatureBase>, report: &mut DataReport) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot make a directory for samples")?;
    let sample = Sample::read(&transform.sample)?;
    let bench = Bench { dir: dir.path(), sample: &sample };
    let all: Vec<usize> = (0..sample.rows.len()).collect();
    let whole = bench.run(&transform.command, &all)?;
    report.rows = whole.rows as u64;
    report.columns = whole.names.len() as u64;
    kept::keep(&transform.name, &sample, &whole)?;
    if let Some(wanted) = &transform.diff {
        let compared = kept::compare(wanted, base, &sample, &whole)?;
        report.against = compared.note;
        report.features = compared.features;
        report.findings.extend(compared.findings);
    }
    let has = |check: FeatureCheck| transform.checks.contains(&check);
    if has(FeatureCheck::Deterministic) {
        let again = bench.run(&transform.command, &all)?;
        let why = "differs between two runs on the same rows";
        report.findings.extend(differences("deterministic", why, &whole, &again, &all, 0.0));
    }
    let aligned = whole.rows == all.len();
    if !aligned && (has(FeatureCheck::RowOrder) || has(FeatureCheck::BatchOfOne) || has(FeatureCheck::Subset))
    {
        let message = format!(
            "gives {} rows for {}: row_order, subset and batch_of_one need one for each and were not tested",
            whole.rows,
            all.len()
        );
        report.findings.push(finding(Severity::Warn, "rows", None, message));
    }
    if aligned && has(FeatureCheck::RowOrder) {
        let mut order = all.clone();
        Rng::new(7).shuffle(&mut order);
        let shuffled = bench.run(&transform.command, &order)?;
        let why = "depends on the order of the rows";
        report.findings.extend(differences("row_order", why, &whole, &shuffled, &order, ROUNDING));
    }
    if aligned && has(FeatureCheck::Subset) && all.len() >= 4 {
        let half: Vec<usize> = all.iter().copied().take(all.len() / 2).collect();
        let part = bench.run(&transform.command, &half)?;
        let why = "depends on rows that come after, as if fitted on the test rows too";
        report.findings.extend(differences("subset", why, &whole, &part, &half, ROUNDING));
    }
    if aligned && has(FeatureCheck::BatchOfOne) {
        let step = (all.len() / ALONE).max(1);
        let mut found: Vec<DataFinding> = Vec::new();
        for row in all.iter().copied().step_by(step).take(ALONE) {
            let alone = bench.run(&transform.command, &[row])?;
            let why = "is another one when its row comes alone";
            for one in differences("batch_of_one", why, &whole, &alone, &[row], ROUNDING) {
                match found.iter_mut().find(|f| f.column == one.column) {
                    Some(same) => same.count += one.count,
                    None => found.push(one),
                }
            }
        }
        report.findings.extend(found);
    }
    if has(FeatureCheck::Finite) {
        report.findings.extend(not_finite(&whole));
    }
    if let Some((feature, label)) = &transform.time {
        report.findings.extend(late(&whole, &sample, feature, label)?);
    }
    if let Some(serve) = transform.serve.as_ref().filter(|_| has(FeatureCheck::ServeParity)) {
        let served = match serve {
            Serve::Command(command) => bench.run(command, &all)?,
            Serve::Endpoint(endpoint) => bench.served(endpoint)?.in_order_of(&whole),
        };
        let why = "is another one as it serves";
        report.findings.extend(differences("serve_parity", why, &whole, &served, &all, 1e-6));
    }
    if transform.rules.get("schema").is_some() {
        let rules: Rules =
            serde_json::from_value(transform.rules.clone()).context("the rules cannot be used")?;
        let reading = source::Options { kinds: rules.kinds(), ..source::Options::default() };
        let mut table = Source::open(&whole.place, &reading)?;
        let options = scan::Options::default();
        let done = check(&mut table, &rules, None, &reading, &options, SystemClock.now_ms() * 1000)?;
        report.findings.extend(done.findings.into_iter().map(super::data::finding_of));
    }
    Ok(())
}

/// The rows of the sample as text, so that any of them can be written again in any order.
struct Sample {
    /// `csv` or `jsonl`.
    extension: &'static str,
    header: Option<csv::StringRecord>,
    rows: Vec<Row>,
}

enum Row {
    Csv(csv::StringRecord),
    Line(String),
}

impl Sample {
    fn read(path: &str) -> anyhow::Result<Self> {
        let name = path.to_ascii_lowercase();
        let mut sample = if name.ends_with(".csv") {
            let mut table = csv::Reader::from_path(path).with_context(|| format!("cannot read {path}"))?;
            let header = table.headers().with_context(|| format!("{path} has no header"))?.clone();
            let rows = table.records().take(MAX_ROWS).collect::<Result<Vec<_>, _>>();
            let rows =
                rows.with_context(|| format!("{path} is not CSV"))?.into_iter().map(Row::Csv).collect();
            Self { extension: "csv", header: Some(header), rows }
        } else if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let lines = text.lines().filter(|l| !l.trim().is_empty()).take(MAX_ROWS);
            let rows = lines.map(|l| Row::Line(l.to_owned())).collect();
            Self { extension: "jsonl", header: None, rows }
        } else {
            bail!("the sample {path} must be CSV (.csv) or JSON lines (.jsonl)");
        };
        if sample.rows.is_empty() {
            bail!("the sample {path} has no rows");
        }
        sample.rows.truncate(MAX_ROWS);
        Ok(sample)
    }

    fn write(&self, path: &Path, order: &[usize]) -> anyhow::Result<()> {
        Ok(std::fs::write(path, self.bytes(order)?)?)
    }

    fn bytes(&self, order: &[usize]) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(header) = &self.header {
            let mut table = csv::Writer::from_writer(&mut out);
            table.write_record(header)?;
            for row in order.iter().filter_map(|i| self.rows.get(*i)) {
                if let Row::Csv(record) = row {
                    table.write_record(record)?;
                }
            }
            table.flush()?;
        } else {
            for row in order.iter().filter_map(|i| self.rows.get(*i)) {
                if let Row::Line(line) = row {
                    out.extend_from_slice(line.as_bytes());
                    out.push(b'\n');
                }
            }
        }
        Ok(out)
    }
}

/// What a transform gave.
struct Output {
    place: String,
    names: Vec<String>,
    columns: Vec<Cells>,
    rows: usize,
    /// Rows that it was given.
    sample: usize,
}

struct Bench<'a> {
    dir: &'a Path,
    sample: &'a Sample,
}

impl Bench<'_> {
    /// The command's output for these rows of the sample.
    fn run(&self, command: &str, order: &[usize]) -> anyhow::Result<Output> {
        let run = std::fs::read_dir(self.dir).map_or(0, Iterator::count);
        let place = |what: &str| self.dir.join(format!("{what}-{run}.{}", self.sample.extension));
        let (input, output) = (place("in"), place("out"));
        self.sample.write(&input, order).context("cannot write a sample")?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]).env("IN", &input).env("OUT", &output);
        let ended = shell.status().context("cannot start /bin/sh")?;
        if !ended.success() {
            bail!("its command failed on {} rows: {ended}; the step's log has what it printed", order.len());
        }
        if !output.is_file() {
            bail!(
                "its command ended well and wrote no file to $OUT; it must write one row for each row of $IN there"
            );
        }
        Output::read(&output, order.len())
    }

    /// What the endpoint gives for all rows of the sample.
    fn served(&self, endpoint: &Endpoint) -> anyhow::Result<Output> {
        let output = self.dir.join("served.jsonl");
        let rows = served::rows(self.sample, self.dir)?;
        served::ask(endpoint, &rows, &output).context("its endpoint")?;
        Output::read(&output, rows.len())
    }
}

impl Output {
    fn read(path: &Path, sample: usize) -> anyhow::Result<Self> {
        let place = path.to_string_lossy().into_owned();
        let table = Source::open(&place, &source::Options::default())?;
        let names: Vec<String> = table.fields.iter().map(|f| f.name.clone()).collect();
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let columns = cells::read(&table, &wanted, 1_000_000)?;
        let rows = columns.first().map_or(0, Cells::len);
        Ok(Self { place, names, columns, rows, sample })
    }

    /// JSON has no order of names: with the columns in that of another output, where both have the same.
    fn in_order_of(mut self, other: &Self) -> Self {
        let at = |name: &String| self.names.iter().position(|n| n == name);
        let order: Option<Vec<usize>> = other.names.iter().map(at).collect();
        if let Some(order) = order.filter(|o| o.len() == self.names.len()) {
            self.columns = order.iter().map(|i| self.columns[*i].clone()).collect();
            self.names.clone_from(&other.names);
        }
        self
    }
}

/// Columns in which row `i` of `other` is not row `order[i]` of `whole`. As many rows as `order` has where `whole` has one for each
/// of the sample, else as many as `whole`.
fn differences(
    rule: &str,
    why: &str,
    whole: &Output,
    other: &Output,
    order: &[usize],
    rounding: f64,
) -> Vec<DataFinding> {
    if whole.names != other.names {
        let message = format!("the columns are other ones: {rule} cannot hold");
        return vec![finding(Severity::Fail, rule, None, message)];
    }
    let wanted = if other.sample == whole.sample { whole.rows } else { order.len() };
    if other.rows != wanted {
        let message = format!("gives {} rows and not {wanted}", other.rows);
        return vec![finding(Severity::Fail, rule, None, message)];
    }
    let mut out = Vec::new();
    for ((name, mine), theirs) in whole.names.iter().zip(&whole.columns).zip(&other.columns) {
        let (mut count, mut most) = (0_u64, 0.0_f64);
        for i in 0..other.rows {
            let at = order.get(i).copied().unwrap_or(i);
            if let Some(distance) = apart(mine, at, theirs, i, rounding) {
                count += 1;
                most = most.max(distance);
            }
        }
        if count > 0 {
            let far =
                if most.is_finite() && most > 0.0 { format!(", by up to {most:.2e}") } else { String::new() };
            out.push(DataFinding {
                count,
                share: count as f64 / other.rows.max(1) as f64,
                ..finding(Severity::Fail, rule, Some(name), format!("{why}{far}"))
            });
        }
    }
    out
}

/// How far two cells are apart; None: equal.
fn apart(mine: &Cells, at: usize, theirs: &Cells, row: usize, rounding: f64) -> Option<f64> {
    match (mine, theirs) {
        (Cells::Numbers(mine), Cells::Numbers(theirs)) => match (mine.get(at)?, theirs.get(row)?) {
            (None, None) => None,
            (Some(x), Some(y)) => {
                let near = rounding * x.abs().max(y.abs()).max(1.0);
                let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= near;
                (!same).then(|| (x - y).abs())
            }
            _ => Some(f64::INFINITY),
        },
        (Cells::Texts(mine), Cells::Texts(theirs)) => {
            (mine.get(at)? != theirs.get(row)?).then_some(f64::INFINITY)
        }
        // A column of one kind in one run and of another in the next: `1` and `x`.
        _ => Some(f64::INFINITY),
    }
}

fn not_finite(whole: &Output) -> Vec<DataFinding> {
    let mut out = Vec::new();
    for (name, cells) in whole.names.iter().zip(&whole.columns) {
        let count = match cells {
            Cells::Numbers(x) => x.iter().filter(|x| !x.is_some_and(f64::is_finite)).count(),
            Cells::Texts(x) => x
                .iter()
                .filter(|t| {
                    t.as_ref()
                        .is_none_or(|t| matches!(t.to_ascii_lowercase().as_str(), "nan" | "inf" | "-inf"))
                })
                .count(),
        } as u64;
        if count > 0 {
            out.push(DataFinding {
                count,
                share: count as f64 / whole.rows.max(1) as f64,
                ..finding(Severity::Fail, "finite", Some(name), "is missing, NaN or infinite".into())
            });
        }
    }
    out
}

/// Rows whose feature is of a later time than their label: they know what they should predict.
fn late(whole: &Output, sample: &Sample, feature: &str, label: &str) -> anyhow::Result<Vec<DataFinding>> {
    let of_sample = |column: &str| -> Option<Cells> {
        let at = sample.header.as_ref()?.iter().position(|name| name == column)?;
        let cell = |row: &Row| match row {
            Row::Csv(record) => record.get(at).map(str::to_owned),
            Row::Line(_) => None,
        };
        Some(Cells::Texts(sample.rows.iter().map(cell).collect()))
    };
    let column = |name: &str| -> anyhow::Result<Cells> {
        let own = whole.names.iter().position(|n| n == name).map(|at| whole.columns[at].clone());
        own.or_else(|| of_sample(name))
            .with_context(|| format!("there is no column {name:?} in the output or the sample"))
    };
    let (feature_at, label_at) = (column(feature)?, column(label)?);
    let time = |cells: &Cells, i: usize| -> Option<f64> {
        match cells {
            Cells::Numbers(x) => *x.get(i)?,
            Cells::Texts(x) => {
                let text = x.get(i)?.as_ref()?;
                text.parse::<f64>().ok().or_else(|| trainyard_data::source::time_of(text).map(|t| t as f64))
            }
        }
    };
    let rows = feature_at.len().min(label_at.len());
    let (mut late, mut unknown) = (0_u64, 0_u64);
    for i in 0..rows {
        match (time(&feature_at, i), time(&label_at, i)) {
            (Some(f), Some(l)) => late += u64::from(f > l),
            _ => unknown += 1,
        }
    }
    let mut out = Vec::new();
    let share = |n: u64| n as f64 / rows.max(1) as f64;
    if late > 0 {
        let message = format!("is of a later time than {label}: it knows what it should predict");
        let found = finding(Severity::Fail, "point_in_time", Some(feature), message);
        out.push(DataFinding { count: late, share: share(late), ..found });
    }
    if unknown > 0 {
        let found =
            finding(Severity::Fail, "point_in_time", Some(feature), "is no time that can be compared".into());
        out.push(DataFinding { count: unknown, share: share(unknown), ..found });
    }
    Ok(out)
}
