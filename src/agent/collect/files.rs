//! Finds the files that training tools write and hands each to the reader of its form.
//!
//! A file that was there before the commands ran and was not touched by them is passed over: it tells of another run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use globset::{GlobBuilder, GlobMatcher};

use super::super::script::Places;
use super::super::{artifacts, paths};
use super::csv::{DvcLivePlot, Table};
use super::document::{Document, HfResults, Params, TrainerState};
use super::events::Events;
use super::found::Found;
use super::jsonl::JsonLines;
use super::junit::Junit;
use super::{Collector, Wanted, dvc, tail};
use crate::model::metric::MetricSource;

/// Candidates of one attempt, at most.
const MAX_FILES: usize = 2_000;
/// Entries of the tree that one search looks at, at most.
const MAX_WALK: usize = 300_000;
/// Metric points wait in memory up to so many; then files are not read further, they are the better memory.
pub const ROOM: usize = 50_000;
/// Sentences that one file may add.
const MAX_SAID: usize = 20;
/// How names of files below `$TRAINYARD_METRICS` begin.
const METRICS_DIR: &str = "$TRAINYARD_METRICS/";

/// When and how a file was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified_ns: u128,
    pub len: u64,
    pub inode: u64,
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Stamp { modified_ns: modified.as_nanos(), len: meta.len(), inode: meta.ino() })
}

/// A file as it was before the commands ran.
pub struct Before {
    pub stamp: Stamp,
    /// What its last bytes are recognised by.
    pub mark: Option<Vec<u8>>,
}

/// What a reader is given to look at.
pub struct File<'a> {
    /// Its path below the source tree, with slashes.
    pub name: &'a str,
    pub path: &'a Path,
    pub now: Stamp,
    pub before: Option<&'a Before>,
    /// The commands have ended, so what stands there now is final.
    pub last: bool,
    pub said: &'a mut Vec<String>,
}

impl File<'_> {
    pub fn say(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.said.len() < MAX_SAID && !self.said.contains(&text) {
            self.said.push(text);
        }
    }

    /// The whole file.
    ///
    /// # Errors
    /// A sentence: not a plain file, too large, unreadable.
    pub fn whole(&self, max: u64) -> Result<Vec<u8>, String> {
        paths::read_plain(self.path, max).map_err(|e| e.to_string())
    }

    /// The directory that it lies in; empty at the top.
    pub fn dir(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(dir, _)| dir)
    }
}

/// Reads one file of one form.
pub trait Reader: Send {
    /// Looks at a file that was written since, and once more at the end.
    fn read(&mut self, file: &mut File<'_>, found: &mut Found);
    /// It turned out to be something else, which nobody need hear of.
    fn mistaken(&self) -> bool {
        false
    }
}

/// What a file's name says of its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Document,
    Lines,
    Params,
    /// Comma or tab separated. `sure`: by its name; else the header decides.
    Table {
        sure: bool,
    },
    DvcLivePlot,
    TrainerState,
    HfResults,
    Events,
    Junit,
}

impl Form {
    fn word(self) -> &'static str {
        match self {
            Self::Document => "json",
            Self::Lines => "json lines",
            Self::Params => "parameters",
            Self::Table { .. } => "csv",
            Self::DvcLivePlot => "dvclive",
            Self::TrainerState | Self::HfResults => "hugging face",
            Self::Events => "tensorboard",
            Self::Junit => "junit",
        }
    }

    fn reader(self) -> Box<dyn Reader> {
        match self {
            Self::Document => Box::new(Document::default()),
            Self::Lines => Box::new(JsonLines::default()),
            Self::Params => Box::new(Params),
            Self::Table { sure } => Box::new(Table::new(sure)),
            Self::DvcLivePlot => Box::new(DvcLivePlot::default()),
            Self::TrainerState => Box::new(TrainerState),
            Self::HfResults => Box::new(HfResults::default()),
            Self::Events => Box::new(Events::default()),
            Self::Junit => Box::new(Junit::default()),
        }
    }

    /// The form of a file that was named by the pipeline or by `dvc.yaml`.
    fn of_named(path: &str) -> Option<Self> {
        Self::of_found(path).filter(|f| !matches!(f, Self::Table { .. })).or_else(|| {
            let name = path.rsplit('/').next().unwrap_or(path);
            match name.rsplit_once('.').map_or("", |(_, e)| e) {
                "json" => Some(Self::Document),
                "jsonl" | "ndjson" => Some(Self::Lines),
                "csv" | "tsv" => Some(Self::Table { sure: true }),
                "xml" => Some(Self::Junit),
                _ => None,
            }
        })
    }

    /// The form of a file that nobody named.
    fn of_found(path: &str) -> Option<Self> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let top = dir.is_empty();
        let parent = dir.rsplit('/').next().unwrap_or("");
        let ending = name.rsplit_once('.').map_or("", |(_, e)| e);
        Some(match (name, ending) {
            ("params.json" | "params.yaml" | "params.yml", _) if top || parent == "dvclive" => Self::Params,
            ("hparams.yaml", _) if parent.starts_with("version_") => Self::Params,
            ("metrics.json", _) if top || parent == "dvclive" => Self::Document,
            ("metrics.jsonl" | "log.jsonl", _) if top => Self::Lines,
            ("trainer_state.json", _) => Self::TrainerState,
            (
                "all_results.json"
                | "train_results.json"
                | "eval_results.json"
                | "test_results.json"
                | "predict_results.json",
                _,
            ) => Self::HfResults,
            (_, "json") if name.starts_with("results_") => Self::Document,
            (_, "tsv") if in_plots(dir) => Self::DvcLivePlot,
            ("metrics.csv", _) => Self::Table { sure: true },
            (_, "csv" | "log") => Self::Table { sure: false },
            (_, "xml") if name.starts_with("junit") || name.starts_with("TEST-") => Self::Junit,
            _ if name.starts_with("events.out.tfevents.") => Self::Events,
            _ => return None,
        })
    }
}

/// Whether a directory is `…/plots/metrics/…` of DVCLive.
fn in_plots(dir: &str) -> bool {
    dir.ends_with("plots/metrics") || dir.contains("plots/metrics/")
}

/// Directories that hold other people's files.
const FOREIGN: &[&str] = &[
    ".git",
    ".venv",
    "venv",
    "node_modules",
    "site-packages",
    "__pycache__",
    ".dvc",
    ".tox",
    ".cache",
    "wandb",
    "mlruns",
];

pub struct Files {
    root: PathBuf,
    metrics_dir: PathBuf,
    /// The same without any link, as it was before the commands ran.
    real_metrics_dir: Option<PathBuf>,
    named: BTreeSet<String>,
    globs: Vec<GlobMatcher>,
    /// Found in the tree by their names, or by a glob.
    candidates: BTreeMap<String, Form>,
    before: BTreeMap<String, Before>,
    watched: BTreeMap<String, Watched>,
    next_walk: Instant,
    cut: bool,
}

struct Watched {
    path: PathBuf,
    form: Form,
    reader: Box<dyn Reader>,
    seen: Option<Stamp>,
    points: u64,
    params: u64,
    said: Vec<String>,
}

impl Files {
    pub fn new(places: &Places, wanted: &Wanted) -> Self {
        let is_glob = |f: &&String| f.contains(['*', '?', '[', '{']);
        let mut named: BTreeSet<String> = wanted
            .files
            .iter()
            .filter(|f| !is_glob(f))
            .chain(&wanted.junit)
            .filter_map(|f| paths::relative(f).ok())
            .collect();
        named.extend(dvc::named(&places.source));
        let glob =
            |f: &String| Some(GlobBuilder::new(f).literal_separator(true).build().ok()?.compile_matcher());
        let mut this = Self {
            root: places.source.clone(),
            metrics_dir: places.metrics.clone(),
            real_metrics_dir: std::fs::canonicalize(&places.metrics).ok(),
            named,
            globs: wanted.files.iter().chain(&wanted.junit).filter(is_glob).filter_map(glob).collect(),
            candidates: BTreeMap::new(),
            before: BTreeMap::new(),
            watched: BTreeMap::new(),
            next_walk: Instant::now(),
            cut: false,
        };
        this.search();
        for (name, form) in this.candidates.clone() {
            let path = this.path_of(&name);
            if let Some(stamp) = stamp(&path) {
                let lines = matches!(form, Form::Lines | Form::Table { .. } | Form::DvcLivePlot);
                let mark = lines.then(|| tail::mark(&path, stamp.len)).flatten();
                this.before.insert(name, Before { stamp, mark });
            }
        }
        this.next_walk = Instant::now();
        this
    }

    /// Names are relative to the source tree; those below `$TRAINYARD_METRICS` begin with that word.
    fn path_of(&self, name: &str) -> PathBuf {
        match name.strip_prefix(METRICS_DIR) {
            Some(rest) => self.metrics_dir.join(rest),
            None => self.root.join(name),
        }
    }

    /// Did the commands put a link in the place of `$TRAINYARD_METRICS`, or above it?
    fn leads_away(&self) -> bool {
        let now = std::fs::canonicalize(&self.metrics_dir).ok();
        now.is_some() && now != self.real_metrics_dir
    }

    /// Walks the tree for names that tools are known to use. A large tree is walked less often.
    fn search(&mut self) {
        let begun = Instant::now();
        for name in &self.named {
            if let Some(form) = Form::of_named(name) {
                self.candidates.insert(name.clone(), form);
            }
        }
        if !self.leads_away()
            && let Ok(dir) = std::fs::read_dir(&self.metrics_dir)
        {
            for entry in dir.flatten().take(100) {
                if let Some(name) = entry.file_name().to_str()
                    && let Some(form) = Form::of_named(name)
                {
                    self.candidates.insert(format!("{METRICS_DIR}{name}"), form);
                }
            }
        }
        let Self { candidates, globs, cut, .. } = self;
        let mut left = MAX_WALK;
        artifacts::walk_some(&self.root, "", &mut |dir| !FOREIGN.contains(&dir), &mut |path| {
            left = left.saturating_sub(1);
            if left == 0 {
                *cut = true;
                return false;
            }
            let form = if globs.iter().any(|g| g.is_match(path)) {
                Form::of_named(path)
            } else {
                Form::of_found(path)
            };
            if let Some(form) = form
                && !candidates.contains_key(path)
            {
                if candidates.len() >= MAX_FILES {
                    *cut = true;
                } else {
                    candidates.insert(path.to_owned(), form);
                }
            }
            true
        });
        let took = begun.elapsed();
        self.next_walk = Instant::now() + Duration::from_secs(2).max(took * 50);
    }
}

impl Collector for Files {
    fn poll(&mut self, found: &mut Found, last: bool) {
        if last || Instant::now() >= self.next_walk {
            if last {
                self.named.extend(dvc::named(&self.root));
            }
            self.search();
        }
        let away = self.leads_away();
        for (name, form) in self.candidates.clone() {
            if found.points.len() > ROOM && !last {
                return;
            }
            if away && name.starts_with(METRICS_DIR) {
                continue;
            }
            self.look(&name, form, found, last);
        }
        if !last {
            return;
        }
        if away {
            found.passed_over("file", "$TRAINYARD_METRICS", "it leads through a symbolic link".into());
        }
        for name in &self.named {
            if Form::of_named(name).is_none() {
                let why = "only .json, .jsonl, .csv, .tsv, .xml, event and parameter files are read";
                found.passed_over("file", name, why.into());
            }
        }
        if self.cut {
            found.note(format!(
                "metric files were looked for among the first {MAX_WALK} files of the tree, and the first {MAX_FILES} of them read"
            ));
        }
        for (name, watched) in &mut self.watched {
            if watched.points + watched.params == 0 && watched.reader.mistaken() {
                continue;
            }
            found.source(MetricSource {
                kind: watched.form.word().to_owned(),
                place: name.clone(),
                used: watched.points + watched.params > 0 || watched.said.is_empty(),
                points: watched.points as i64,
                params: watched.params as i64,
                note: watched.said.join("; "),
            });
        }
    }
}

impl Files {
    fn look(&mut self, name: &str, form: Form, found: &mut Found, last: bool) {
        let path = self.path_of(name);
        let Some(now) = stamp(&path) else {
            if last && path.is_symlink() {
                found.passed_over(form.word(), name, "it is a symbolic link".into());
            } else if last && self.named.contains(name) && !self.watched.contains_key(name) {
                found.passed_over(form.word(), name, "it is named, but the commands did not write it".into());
            }
            return;
        };
        let before = self.before.get(name);
        let stale = before.is_some_and(|b| b.stamp == now);
        if stale && form != Form::Params {
            if last && form != (Form::Table { sure: false }) {
                found.passed_over(form.word(), name, "it was there before the commands ran".into());
            }
            return;
        }
        let watched = self.watched.entry(name.to_owned()).or_insert_with(|| Watched {
            path,
            form,
            reader: form.reader(),
            seen: None,
            points: 0,
            params: 0,
            said: Vec::new(),
        });
        if watched.seen == Some(now) && !last {
            return;
        }
        let counts = found.counts();
        watched
            .reader
            .read(&mut File { name, path: &watched.path, now, before, last, said: &mut watched.said }, found);
        // What was not read for want of room is read the next time.
        watched.seen = (found.points.len() <= ROOM).then_some(now);
        let after = found.counts();
        watched.points += after.0 - counts.0;
        watched.params += after.1 - counts.1;
    }
}
