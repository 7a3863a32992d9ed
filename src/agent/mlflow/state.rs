//! What was logged so far: runs with their parameters and tags in memory, points in a file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::MAX_NESTED;
use crate::model::metric::{MAX_NAMES, MAX_POINTS};

/// Further runs share one that is not kept.
const MAX_RUNS: usize = 2_000;
const MAX_MODELS: usize = 200;
const MAX_EXPERIMENTS: usize = 100;
const MAX_PARAMS: usize = 1_000;
const MAX_TAGS: usize = 500;
/// Bytes of a parameter's value or a tag's; MLflow's own limits are 6,000 and 8,000.
const MAX_VALUE: usize = 8_000;
const MAX_LABEL: usize = 60;
/// Bytes of names, parameters and tags of all runs together: they are in memory.
const MAX_TEXT: usize = 24 << 20;

/// One logged value.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub key: String,
    pub value: f64,
    pub timestamp: i64,
    pub step: i64,
}

/// One MLflow run.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: String,
    pub experiment: String,
    pub name: String,
    /// Stands before its names where it must be told from others, and in its artifacts' paths.
    pub label: String,
    pub nested: bool,
    /// What it logs is counted among the attempt's.
    pub kept: bool,
    pub status: String,
    pub start_time: i64,
    pub end_time: Option<i64>,
    pub user: String,
    pub params: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    /// Name and digest of data sets that it used.
    pub datasets: BTreeMap<String, String>,
    /// The value said last of each metric.
    pub latest: BTreeMap<String, Metric>,
}

/// A model as of MLflow 3: it has parameters and files, and belongs to a run.
#[derive(Debug, Clone)]
pub struct Model {
    pub id: String,
    pub experiment: String,
    pub name: String,
    pub run: String,
    pub kind: String,
    pub status: String,
    pub created: i64,
    pub params: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
}

pub struct State {
    pub runs: Vec<Run>,
    by_id: HashMap<String, usize>,
    labels: HashMap<String, u32>,
    pub experiments: Vec<(String, String)>,
    pub models: BTreeMap<String, Model>,
    spool: File,
    path: PathBuf,
    points: u64,
    /// Raised with each change of parameters, tags and runs.
    pub changes: u64,
    pub left_out: LeftOut,
    pub artifact_files: usize,
    pub artifact_bytes: u64,
    /// Bytes of text that are held.
    text: usize,
}

/// What was accepted and not kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeftOut {
    pub runs: u64,
    pub nested: u64,
    pub points: u64,
    pub params: u64,
    pub tags: u64,
}

/// What a run is made with.
pub struct NewRun {
    pub experiment: String,
    /// None: the script gave none.
    pub name: Option<String>,
    pub start_time: i64,
    pub user: String,
    pub tags: BTreeMap<String, String>,
}

fn id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_VALUE)].to_owned()
}

/// Counts a pair among the held text; false when there is no room for it.
fn fits(held: &mut usize, key: &str, value: &str) -> bool {
    let more = key.len() + value.len().min(MAX_VALUE) + 64;
    let room = *held + more <= MAX_TEXT;
    if room {
        *held += more;
    }
    room
}

impl State {
    pub fn new(points: &Path) -> std::io::Result<Self> {
        Ok(Self {
            runs: Vec::new(),
            by_id: HashMap::new(),
            labels: HashMap::new(),
            experiments: vec![("0".into(), "Default".into())],
            models: BTreeMap::new(),
            spool: File::create(points)?,
            path: points.to_owned(),
            points: 0,
            changes: 0,
            left_out: LeftOut::default(),
            artifact_files: 0,
            artifact_bytes: 0,
            text: 0,
        })
    }

    pub fn points_file(&self) -> &Path {
        &self.path
    }

    /// By id or name; made when it is new. Beyond the bound all are the first.
    pub fn experiment(&mut self, name: &str) -> String {
        if let Some((id, _)) = self.experiments.iter().find(|(_, n)| n == name) {
            return id.clone();
        }
        if self.experiments.len() >= MAX_EXPERIMENTS {
            return "0".into();
        }
        let id = self.experiments.len().to_string();
        self.experiments.push((id.clone(), cut(name)));
        id
    }

    /// A label that no other run has.
    fn label(&mut self, wanted: &str) -> String {
        let clean: String = wanted
            .trim()
            .chars()
            .map(|c| if c.is_control() || "/\\".contains(c) { '-' } else { c })
            .collect();
        let clean = clean[..clean.floor_char_boundary(MAX_LABEL)].trim_matches('.').to_owned();
        let clean = if clean.is_empty() { "run".to_owned() } else { clean };
        let count = self.labels.entry(clean.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { clean } else { format!("{clean}-{count}") }
    }

    pub fn create(&mut self, new: NewRun) -> Run {
        if self.runs.len() >= MAX_RUNS
            && let Some(last) = self.runs.last_mut()
        {
            // One run stands in for all further ones; nothing of it is kept.
            last.kept = false;
            self.left_out.runs += 1;
            return last.clone();
        }
        self.changes += 1;
        let parent = new.tags.get("mlflow.parentRunId").is_some_and(|p| self.by_id.contains_key(p));
        let alike = self.runs.iter().filter(|r| r.nested == parent).count() + 1;
        let given =
            new.name.or_else(|| new.tags.get("mlflow.runName").cloned()).filter(|n| !n.trim().is_empty());
        let numbered = if parent { format!("nested-{alike}") } else { format!("run-{alike}") };
        let label = self.label(given.as_deref().unwrap_or(&numbered));
        let kept = !parent || alike <= MAX_NESTED;
        self.left_out.nested += u64::from(!kept);
        let mut run = Run {
            id: id(),
            experiment: new.experiment,
            name: given.unwrap_or_else(|| label.clone()),
            label,
            nested: parent,
            kept,
            status: "RUNNING".into(),
            start_time: new.start_time,
            end_time: None,
            user: cut(&new.user),
            params: BTreeMap::new(),
            tags: BTreeMap::new(),
            datasets: BTreeMap::new(),
            latest: BTreeMap::new(),
        };
        self.text += 600;
        for (key, value) in new.tags.into_iter().take(MAX_TAGS) {
            if fits(&mut self.text, &key, &value) {
                run.tags.insert(key, cut(&value));
            } else {
                self.left_out.tags += 1;
            }
        }
        run.tags.insert("mlflow.runName".into(), run.name.clone());
        self.by_id.insert(run.id.clone(), self.runs.len());
        self.runs.push(run.clone());
        run
    }

    pub fn run(&self, id: &str) -> Option<&Run> {
        self.runs.get(*self.by_id.get(id)?)
    }
    pub fn run_mut(&mut self, id: &str) -> Option<&mut Run> {
        self.changes += 1;
        self.runs.get_mut(*self.by_id.get(id)?)
    }

    /// False: there is no such run.
    pub fn log(
        &mut self,
        id: &str,
        metrics: Vec<Metric>,
        params: Vec<(String, String)>,
        tags: Vec<(String, String)>,
    ) -> std::io::Result<bool> {
        let Some(&at) = self.by_id.get(id) else { return Ok(false) };
        let (run, left_out, held) = (&mut self.runs[at], &mut self.left_out, &mut self.text);
        let mut lines = Vec::new();
        for metric in metrics {
            let known = run.latest.contains_key(&metric.key);
            let room = known || (run.latest.len() < MAX_NAMES && fits(held, &metric.key, &metric.key));
            if !run.kept || self.points >= MAX_POINTS || !room {
                left_out.points += 1;
                continue;
            }
            self.points += 1;
            let line = (at, &metric.key, metric.value.to_bits(), metric.step, metric.timestamp);
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
            let newer = |old: &Metric| (metric.step, metric.timestamp) >= (old.step, old.timestamp);
            if run.latest.get(&metric.key).is_none_or(newer) {
                run.latest.insert(metric.key.clone(), metric);
            }
        }
        for (key, value) in params {
            let room = run.params.len() < MAX_PARAMS || run.params.contains_key(&key);
            if room && fits(held, &key, &value) {
                run.params.insert(key, cut(&value));
                self.changes += 1;
            } else {
                left_out.params += 1;
            }
        }
        for (key, value) in tags {
            let room = run.tags.len() < MAX_TAGS || run.tags.contains_key(&key);
            if room && fits(held, &key, &value) {
                run.tags.insert(key, cut(&value));
                self.changes += 1;
            } else {
                left_out.tags += 1;
            }
        }
        self.spool.write_all(&lines)?;
        Ok(true)
    }

    pub fn add_model(&mut self, mut model: Model) -> Model {
        model.id = format!("m-{}", id());
        let text: usize = model.params.iter().chain(&model.tags).map(|(k, v)| k.len() + v.len()).sum();
        self.text += text + 600;
        if self.models.len() < MAX_MODELS && self.text <= MAX_TEXT {
            self.models.insert(model.id.clone(), model.clone());
        }
        model
    }
}

/// One line of the points' file.
pub type Line = (usize, String, u64, i64, i64);
