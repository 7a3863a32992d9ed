//! Any bytes as a table or a profile are answered by a result or an error: no panic, no hang, no memory without end.
//!
//! Seeded mutations of the files in `tests/corpus` (written by pyarrow, polars and by hand; those named `refused-` are
//! no tables to us). What a run finds is added there, so that it stays mended. The process is the test's own: its peak
//! of memory is that of the inputs.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is tests; the exception in clippy.toml sees only `#[test]` functions"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use trainyard_data::stats::Rng;
use trainyard_data::{Profile, Rules, Source, drift, scan, source};

/// Longest that one input may take. The corpus' files take a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Mutated inputs are at most this long, so that each is quick.
const LONGEST: usize = 64 << 10;

#[test]
fn any_bytes_are_answered() {
    // The libraries of the formats may panic inside; that is caught, and not worth a page of output.
    std::panic::set_hook(Box::new(|panic| {
        if panic.location().is_some_and(|at| at.file().ends_with("fuzz/main.rs")) {
            eprintln!("{panic}");
        }
    }));
    let watch = Watch::start();
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let budget = Duration::from_secs(if long { 20 } else { 3 });
    let (mut executions, mut panicked) = (0, Vec::new());
    for format in ["csv", "jsonl", "parquet", "arrow", "arrows", "profile"] {
        let corpus = corpus(format);
        let target = Target::new(format, &watch);
        let mut seen = Seen::default();
        for (name, bytes) in &corpus {
            let before = seen.refused;
            seen.count(target.run(bytes), || name.clone());
            assert_eq!(seen.refused > before, name.starts_with("refused-"), "{format}/{name}");
        }
        let mut rng = Rng::new(corpus.len() as u64);
        let started = Instant::now();
        while started.elapsed() < budget && seen.panicked.len() < 10 {
            let mut bytes = corpus[rng.below(corpus.len() as u64) as usize].1.clone();
            for _ in 0..=rng.below(3) {
                mutate(&mut bytes, &corpus, &mut rng);
            }
            bytes.truncate(LONGEST);
            seen.count(target.run(&bytes), || target.keep(&bytes));
        }
        println!(
            "FIGURE data.fuzz format={format} files={} executions={} refused={} panics={} slowest_ms={}",
            corpus.len(),
            seen.executions,
            seen.refused,
            seen.panicked.len(),
            seen.slowest.as_millis()
        );
        executions += seen.executions;
        panicked.append(&mut seen.panicked);
    }
    let _ = std::panic::take_hook();
    let peak = peak_mib();
    println!("FIGURE data.fuzz executions={executions} panics={} peak_mib={peak}", panicked.len());
    assert!(panicked.is_empty(), "these inputs panic: {panicked:?}");
    assert!(peak < 1024, "an input took {peak} MiB");
    assert!(executions > 1000, "{executions}");
}

/// (name, bytes) of the files of a format.
fn corpus(format: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(format);
    let mut out: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    out.sort();
    assert!(out.len() > 3, "{format}");
    out
}

/// What came of the inputs of one format.
#[derive(Default)]
struct Seen {
    executions: u64,
    refused: u64,
    slowest: Duration,
    panicked: Vec<String>,
}

impl Seen {
    fn count(&mut self, (outcome, took): (Outcome, Duration), name: impl FnOnce() -> String) {
        self.executions += 1;
        self.slowest = self.slowest.max(took);
        match outcome {
            Outcome::Answered => {}
            Outcome::Refused => self.refused += 1,
            Outcome::Panicked => self.panicked.push(name()),
        }
    }
}

enum Outcome {
    Answered,
    Refused,
    Panicked,
}

/// What reads the inputs of one format.
struct Target<'a> {
    format: &'static str,
    folder: tempfile::TempDir,
    baseline: Profile,
    rules: Rules,
    watch: &'a Watch,
}

impl<'a> Target<'a> {
    fn new(format: &'static str, watch: &'a Watch) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("good.csv");
        std::fs::write(&good, "id,f,plan\n1,0.5,free\n2,,pro\n3,-1,free\n").unwrap();
        let mut table = Source::open(good.to_str().unwrap(), &source::Options::default()).unwrap();
        let baseline = scan::profile(&mut table, None).unwrap().profile;
        let rules = r#"{
            "schema": {
                "id": {"unique": true, "min": 0, "monotonic": "increasing"},
                "plan": {"regex": "^[a-z]+$"},
                "at": {"type": "time"}
            },
            "duplicate_rows": "10%"
        }"#;
        Self { format, folder, baseline, rules: serde_json::from_str(rules).unwrap(), watch }
    }

    /// One input, through all that a check does.
    fn run(&self, bytes: &[u8]) -> (Outcome, Duration) {
        let path = self.folder.path().join(format!("input.{}", self.format));
        std::fs::write(&path, bytes).unwrap();
        let started = self.watch.begin(&path);
        let outcome = match catch_unwind(AssertUnwindSafe(|| self.answer(&path))) {
            Ok(Ok(())) => Outcome::Answered,
            Ok(Err(_)) => Outcome::Refused,
            Err(_) => Outcome::Panicked,
        };
        self.watch.end();
        (outcome, started.elapsed())
    }

    fn answer(&self, path: &Path) -> trainyard_data::Result<()> {
        if self.format == "profile" {
            let profile = Profile::read(path)?;
            // What is read can be used.
            let mut twice = profile.clone();
            twice.merge(&profile)?;
            let _ = drift::compare(&profile, &twice, &self.rules);
            let _ = drift::compare(&self.baseline, &profile, &self.rules);
            Profile::from_json("again", twice.to_json()?.as_bytes())?;
            return Ok(());
        }
        let reading = source::Options::default();
        let mut table = Source::open(path.to_str().unwrap_or_default(), &reading)?;
        let options = scan::Options::default();
        let check =
            trainyard_data::check(&mut table, &self.rules, Some(&self.baseline), &reading, &options, 0)?;
        Profile::from_json("again", check.profile.to_json()?.as_bytes())?;
        Ok(())
    }

    /// Puts an input where it can be looked at; the path.
    fn keep(&self, bytes: &[u8]) -> String {
        kept(self.format, bytes)
    }
}

fn kept(format: &str, bytes: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    let name = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let path = folder.join(format!("found-{name:016x}.{format}"));
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// Ends the process when an input takes too long: a hang has no other end.
struct Watch(Mutex<Option<(Instant, PathBuf)>>);

impl Watch {
    fn start() -> std::sync::Arc<Self> {
        let watch = std::sync::Arc::new(Self(Mutex::new(None)));
        let watched = watch.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let now = watched.0.lock().unwrap().clone();
                if let Some((started, path)) = now
                    && started.elapsed() > PATIENCE
                {
                    let format = path.extension().unwrap().to_string_lossy().into_owned();
                    eprintln!(
                        "no answer within {PATIENCE:?}: {}",
                        kept(&format, &std::fs::read(&path).unwrap())
                    );
                    std::process::exit(1);
                }
            }
        });
        watch
    }

    fn begin(&self, path: &Path) -> Instant {
        let now = Instant::now();
        *self.0.lock().unwrap() = Some((now, path.to_owned()));
        now
    }

    fn end(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// The most memory that this process ever held.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Pieces of text that parsers stumble over.
const TOKENS: [&str; 28] = [
    "\"",
    "\"\"",
    ",",
    ";",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\\",
    "\\u0000",
    "\\ud83d",
    "{",
    "}",
    "[",
    "]",
    ":",
    "null",
    "true",
    "NaN",
    "-inf",
    "1e999",
    "-0",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "0.1e-400",
    "2024-02-30T24:00:00Z",
    "\u{feff}",
];
/// Numbers at which sizes and offsets break.
const NUMBERS: [i64; 12] =
    [0, 1, -1, 7, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, i64::MAX, i64::MIN];

/// One change somewhere; half of them near an end of the file, where formats keep what points into the rest.
fn mutate(bytes: &mut Vec<u8>, corpus: &[(String, Vec<u8>)], rng: &mut Rng) {
    let length = bytes.len();
    let near = rng.below(length.clamp(1, 600) as u64) as usize;
    let at = match rng.below(4) {
        0 => near,
        1 => length - near.min(length),
        _ => rng.below(length as u64 + 1) as usize,
    };
    let end = (at + 1 + rng.below(64) as usize).min(length);
    match rng.below(12) {
        0 | 1 if at < length => bytes[at] ^= 1 << rng.below(8),
        2 if at < length => bytes[at] = rng.next_u64() as u8,
        3 if at < length => bytes[at] = bytes[at].wrapping_add([1, 255, 16, 128][rng.below(4) as usize]),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let piece = bytes[at..end].to_vec();
            let times = 1 << rng.below(8);
            bytes.splice(at..at, std::iter::repeat_n(piece, times).flatten());
        }
        7 | 8 => {
            let number = NUMBERS[rng.below(NUMBERS.len() as u64) as usize].to_le_bytes();
            let width = [1, 2, 4, 8][rng.below(4) as usize].min(length - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        9 => {
            let other = &corpus[rng.below(corpus.len() as u64) as usize].1;
            let from = rng.below(other.len() as u64 + 1) as usize;
            let to = (from + rng.below(400) as usize).min(other.len());
            bytes.splice(at..end.max(at), other[from..to].iter().copied());
        }
        10 => bytes[at..end].fill([0, 0xff, b'"', b'0'][rng.below(4) as usize]),
        _ => {
            let token = TOKENS[rng.below(TOKENS.len() as u64) as usize].as_bytes();
            bytes.splice(at..at, token.iter().copied());
        }
    }
}
