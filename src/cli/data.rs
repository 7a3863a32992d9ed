//! `trainyard data`: profiles, checks and differences of tables, in anyone's shell, daemon or not.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use trainyard_data::check::{Check, baseline, defects};
use trainyard_data::drift::{ColumnDrift, Verdict};
use trainyard_data::findings::{Finding, Severity, plain};
use trainyard_data::{Error, Profile, Rules, Source, scan, source};

use crate::clock::{Clock, SystemClock};

#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Profile a table: counts, nulls, distribution and distinct values of each column.
    Profile(ProfileArgs),
    /// Hold a table against rules and against a baseline. Exit code 1 when the check fails.
    Check(CheckArgs),
    /// Compare a table with another one, or with its profile: schema, nulls, categories, drift. Exit code 1 when they differ.
    Diff(DiffArgs),
    /// Make one profile of those of a table's parts, such as its days: a baseline whose rows need not be read again.
    Merge(MergeArgs),
    /// What lies at a place, without reading it: files, bytes, and the digest that changes with any of them. It is what
    /// `event: data` looks at.
    List {
        /// A directory, glob or file, or a prefix (`s3://bucket/raw/`).
        path: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What an agent runs for the `features` step.
    #[command(hide = true)]
    Features {
        /// The agent's work file.
        work: PathBuf,
    },
    /// What an agent runs for the `data` step.
    #[command(hide = true)]
    Step {
        /// The agent's work file.
        work: PathBuf,
    },
}

#[derive(clap::Args)]
struct Reading {
    /// The format, when name and first bytes do not say it.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The delimiter of CSV, when the first lines do not say it.
    #[arg(long)]
    delimiter: Option<char>,
    /// Threads; as many as there are cores by default.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Parquet,
    Csv,
    Jsonl,
    Arrow,
    ArrowStream,
}

#[derive(clap::Args)]
struct ProfileArgs {
    /// A file, glob, directory or .dvc file, or an address (s3://, gs://, az://).
    path: String,
    /// Write the profile to this file, to be a baseline.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Take the histograms' edges from this profile.
    #[arg(long)]
    edges: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(clap::Args)]
struct CheckArgs {
    /// A file, glob, directory or .dvc file, or an address (s3://, gs://, az://).
    path: String,
    /// Rules, as YAML or JSON.
    #[arg(long)]
    rules: Option<PathBuf>,
    /// A profile (a file named .json), or a table to profile first.
    #[arg(long)]
    baseline: Option<String>,
    /// Write the profile of the table to this file.
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(clap::Args)]
struct DiffArgs {
    /// The baseline: a profile (a file named .json), or a table.
    baseline: String,
    /// The table to compare with it.
    path: String,
    /// Rules whose `drift` part holds.
    #[arg(long)]
    rules: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(clap::Args)]
struct MergeArgs {
    /// Profiles of tables with the same columns, of the same types.
    #[arg(required = true)]
    profiles: Vec<PathBuf>,
    /// Write the profile to this file.
    #[arg(long, short)]
    output: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command. Wrong use is exit code 2, a failed check or unreadable data 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let outcome = match &args.command {
        Command::Profile(args) => profile(args),
        Command::Check(args) => check(
            &args.path,
            args.rules.as_deref(),
            args.baseline.as_deref(),
            args.output.as_deref(),
            &args.reading,
        ),
        Command::Diff(args) => {
            check(&args.path, args.rules.as_deref(), Some(&args.baseline), None, &args.reading)
        }
        Command::Merge(args) => merge(args),
        Command::List { path, json } => list(path, *json),
        Command::Features { work } => Ok(ExitCode::from(u8::from(!crate::agent::features::run(work)?))),
        Command::Step { work } => Ok(ExitCode::from(u8::from(!crate::agent::data::run(work)?))),
    };
    outcome.or_else(|error| match error.downcast_ref::<Error>() {
        Some(Error::Usage(_)) => {
            eprintln!("trainyard: {error:#}");
            Ok(ExitCode::from(2))
        }
        _ => Err(error),
    })
}

fn options(reading: &Reading) -> Result<source::Options, Error> {
    let delimiter = match reading.delimiter {
        None => None,
        Some(c) => Some(u8::try_from(c).ok().filter(u8::is_ascii).ok_or_else(|| {
            Error::usage(format!("--delimiter {c:?} is not one byte; use an ASCII character"))
        })?),
    };
    Ok(source::Options {
        format: reading.format.map(|f| match f {
            Format::Parquet => source::Format::Parquet,
            Format::Csv => source::Format::Csv,
            Format::Jsonl => source::Format::JsonLines,
            Format::Arrow => source::Format::ArrowFile,
            Format::ArrowStream => source::Format::ArrowStream,
        }),
        delimiter,
        threads: reading.threads,
        ..source::Options::default()
    })
}

fn list(path: &str, json: bool) -> anyhow::Result<ExitCode> {
    let found = source::listing(path)?;
    if json {
        let all = serde_json::json!({"digest": found.digest, "files": found.files, "bytes": found.bytes});
        println!("{all}");
    } else {
        println!("{} files, {} bytes, digest {}", found.files, found.bytes, found.digest);
    }
    Ok(ExitCode::SUCCESS)
}

fn write(profile: &Profile, path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, profile.to_json()?).with_context(|| format!("cannot write {}", path.display()))
}

fn show(profile: &Profile, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", profile.to_json()?);
    } else {
        print!("{}", table_of(profile));
    }
    Ok(())
}

fn profile(args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    let edges = args.edges.as_deref().map(Profile::read).transpose()?;
    let mut table = Source::open(&args.path, &options(&args.reading)?)?;
    let scanned = scan::profile(&mut table, edges.as_ref())?;
    if let Some(path) = &args.output {
        write(&scanned.profile, path)?;
    }
    show(&scanned.profile, args.reading.json)?;
    // A profile of data that does not hold together is made, and said to be one.
    let bad = defects(&table, &scanned);
    if !bad.is_empty() {
        eprintln!(
            "trainyard: {}: does not hold together; `trainyard data check` says more",
            plain(&args.path)
        );
    }
    for defect in &bad {
        eprint!("{}", line(defect));
    }
    Ok(ExitCode::from(u8::from(!bad.is_empty())))
}

fn merge(args: &MergeArgs) -> anyhow::Result<ExitCode> {
    let mut whole: Option<Profile> = None;
    for path in &args.profiles {
        let part = Profile::read(path)?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                whole
                    .merge(&part)
                    .map_err(|e| Error::usage(format!("{}: {e}", plain(&path.to_string_lossy()))))?;
            }
        }
    }
    let whole = whole.context("no profile is named")?;
    write(&whole, &args.output)?;
    show(&whole, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn rules(path: Option<&Path>) -> anyhow::Result<Rules> {
    let Some(path) = path else { return Ok(Rules::default()) };
    let name = path.display();
    let text = source::read_small(path, 16 << 20).map_err(|e| Error::usage(e.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| Error::usage(format!("{name}: is not UTF-8")))?;
    let rules: Option<Rules> = serde_saphyr::from_str(&text)
        // The parser's message is of several lines: each is escaped, the lines stay.
        .map_err(|e| {
            let lines: Vec<String> = e.to_string().lines().map(plain).collect();
            Error::Usage(format!("{}: {}", plain(&name.to_string()), lines.join("\n")))
        })?;
    let rules = rules.ok_or_else(|| Error::usage(format!("{name}: holds no rules")))?;
    rules.validate().map_err(|e| Error::usage(format!("{name}: {e}")))?;
    Ok(rules)
}

fn check(
    path: &str,
    rules_file: Option<&Path>,
    baseline_spec: Option<&str>,
    output: Option<&Path>,
    reading: &Reading,
) -> anyhow::Result<ExitCode> {
    let rules = rules(rules_file)?;
    let options = source::Options { kinds: rules.kinds(), ..options(reading)? };
    let baseline = baseline_spec.map(|spec| baseline(spec, &options)).transpose()?;
    let mut table = Source::open(path, &options)?;
    let now = SystemClock.now_ms() * 1000;
    let check = trainyard_data::check(
        &mut table,
        &rules,
        baseline.as_ref(),
        &options,
        &scan::Options::default(),
        now,
    )?;
    if let Some(path) = output {
        write(&check.profile, path)?;
    }
    if reading.json {
        println!("{}", serde_json::to_string_pretty(&check).context("cannot print the outcome")?);
    } else {
        print!("{}", told(&check));
    }
    Ok(ExitCode::from(u8::from(!check.passed)))
}

/// Columns of text, padded; the last one is not.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A name from the data as a terminal may show it.
fn safe(name: &str) -> String {
    name.chars().take(60).flat_map(char::escape_debug).collect()
}

fn number(x: f64) -> String {
    if x != 0.0 && (x.abs() >= 1e7 || x.abs() < 1e-3) {
        format!("{x:.4e}")
    } else {
        format!("{:.4}", x + 0.0)
    }
}

fn table_of(profile: &Profile) -> String {
    let head = [
        "column",
        "type",
        "nulls",
        "not finite",
        "distinct",
        "min",
        "mean",
        "max",
        "std",
        "5 · 50 · 95 %, shape or most frequent",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for column in &profile.columns {
        let (distinct, exact) = column.distinct.count();
        let mut row = vec![
            safe(&column.field.name),
            column.field.kind.to_string(),
            format!("{:.2}%", column.null_share() * 100.0),
            match column.nan + column.infinite {
                0 => String::new(),
                bad => format!("{:.2}%", bad as f64 / column.rows as f64 * 100.0),
            },
            format!("{}{distinct:.0}", if exact { "" } else { "~" }),
        ];
        match &column.numbers {
            Some(n) if n.count > 0 && column.field.kind == trainyard_data::schema::Kind::Time => {
                let time = |x: f64| source::show_time(x as i64);
                row.extend([time(n.min), time(n.mean()), time(n.max), String::new()]);
                row.push(n.histogram.as_ref().map_or(String::new(), |h| shape(&h.counts)));
            }
            Some(n) if n.count > 0 => {
                row.extend([number(n.min), number(n.mean()), number(n.max), number(n.deviation())]);
                let quantiles = n.quantiles.quantiles(&[0.05, 0.5, 0.95]);
                row.push(quantiles.into_iter().map(number).collect::<Vec<_>>().join(" · "));
            }
            _ => {
                row.extend(std::iter::repeat_n(String::new(), 4));
                let (top, _) = column.distinct.top_texts();
                let top: Vec<String> =
                    top.iter().take(3).map(|(text, count)| format!("{} ×{count}", safe(text))).collect();
                row.push(top.join(", "));
            }
        }
        rows.push(row);
    }
    format!("{} rows, {} columns\n{}", profile.rows, profile.columns.len(), aligned(&rows))
}

/// A small picture of counts.
fn shape(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bins: Vec<u64> = counts.chunks(counts.len().div_ceil(12).max(1)).map(|c| c.iter().sum()).collect();
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    bins.iter().map(|c| BARS[(c * 7 / most) as usize]).collect()
}

fn told(check: &Check) -> String {
    let mut out = format!("{}: {} rows, {} columns\n", safe(&check.name), check.rows, check.columns);
    for finding in &check.findings {
        out.push_str(&line(finding));
    }
    let tested: Vec<&ColumnDrift> = check.drift.iter().filter(|d| d.verdict != Verdict::NotTested).collect();
    if !tested.is_empty() {
        let head = ["column", "verdict", "adjusted p", "shift (sd)", "PSI", "V", "baseline", "here"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for d in tested {
            let verdict = match d.verdict {
                Verdict::Drifted => "DRIFTED",
                Verdict::TooFewRows => "too few rows",
                Verdict::Stable | Verdict::NotTested => "stable",
            };
            let shown = |x: f64| if x.is_nan() { "–".to_owned() } else { format!("{x:.3}") };
            let p = if d.p_adjusted.is_nan() { "–".to_owned() } else { format!("{:.2e}", d.p_adjusted) };
            rows.push(vec![
                safe(&d.column),
                verdict.to_owned(),
                p,
                d.shift.map_or("–".to_owned(), shown),
                shown(d.psi),
                shown(d.v),
                shares(&d.baseline_shares),
                shares(&d.shares),
            ]);
        }
        out.push('\n');
        out.push_str(&aligned(&rows));
    }
    let untested: Vec<String> = check
        .drift
        .iter()
        .filter(|d| d.verdict == Verdict::NotTested)
        .map(|d| format!("{} ({})", safe(&d.column), d.reason.as_deref().unwrap_or("not tested")))
        .collect();
    if !untested.is_empty() {
        let _ = write!(out, "\nnot tested for drift: {}\n", untested.join(", "));
    }
    out.push_str(if check.passed { "\nPASSED\n" } else { "\nFAILED\n" });
    out
}

fn shares(of: &[f64]) -> String {
    let scaled: Vec<u64> = of.iter().map(|s| (s * 1e6) as u64).collect();
    if scaled.is_empty() { String::new() } else { shape(&scaled) }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Fail => "FAIL",
        Severity::Warn => "warn",
        Severity::Info => "info",
    };
    let column = finding.column.as_deref().map_or(String::new(), |c| format!(" {}:", safe(c)));
    let mut out = format!("{mark} [{}]{column} {}", finding.rule, plain(&finding.message));
    if finding.count > 0 && finding.share < 1.0 {
        let _ = write!(out, " ({}, {:.4}%)", finding.count, finding.share * 100.0);
    }
    out.push('\n');
    if finding.masked {
        out.push_str("       examples withheld: the column is personal\n");
    }
    let examples: Vec<String> = finding
        .examples
        .iter()
        .take(if std::io::stdout().is_terminal() { 5 } else { 20 })
        .map(|e| match e.row {
            Some(row) if e.value.is_empty() => format!("row {row}"),
            Some(row) => format!("{} (row {row})", e.value),
            None => e.value.clone(),
        })
        .collect();
    if !examples.is_empty() {
        let _ = writeln!(out, "       {}", examples.join("; "));
    }
    out
}
