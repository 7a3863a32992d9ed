//! Finds metrics, parameters and outputs in what training scripts write anyway.
//!
//! Each [`Collector`] watches one place. A file that was there before the commands ran and was not touched by them is
//! passed over: it tells of another run. What is found and what is passed over is noted, with the reason.

mod json;
mod output;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use globset::{GlobBuilder, GlobMatcher};

use super::mask::Masker;
use super::paths::{open_plain, read_plain};
use super::script::Places;
use crate::clock::SharedClock;
use crate::model::MetricPoint;

/// Larger documents are no metric files.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Longer lines are skipped.
const MAX_LINE: usize = 256 * 1024;
/// So many points of one attempt are kept.
const MAX_POINTS: u64 = 1_000_000;
const MAX_PARAMS: usize = 1_000;
const MAX_OUTPUTS: usize = 200;

/// What collectors put their finds into.
pub struct Found {
    pub points: Vec<MetricPoint>,
    pub params: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
    pub notes: Vec<String>,
    masker: Masker,
    clock: SharedClock,
    total: u64,
}

impl Found {
    pub fn new(masker: Masker, clock: SharedClock) -> Self {
        Self {
            points: Vec::new(),
            params: BTreeMap::new(),
            outputs: BTreeMap::new(),
            notes: Vec::new(),
            masker,
            clock,
            total: 0,
        }
    }

    fn point(&mut self, name: &str, value: f64, step: Option<i64>) {
        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            self.note(format!("a metric's name is empty, too long or not text: {:?}", cut(name, 60)));
            return;
        }
        self.total += 1;
        if self.total > MAX_POINTS {
            self.note(format!("more than {MAX_POINTS} metric points: the rest is passed over"));
            return;
        }
        let name = self.masker.mask_str(name);
        self.points.push(MetricPoint { name, value, step, at_ms: self.clock.now_ms() });
    }

    fn param(&mut self, name: &str, value: &str) {
        if self.params.len() < MAX_PARAMS {
            let (name, value) = (self.masker.mask_str(cut(name, 200)), self.masker.mask_str(cut(value, 500)));
            self.params.insert(name, value);
        }
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < 50 && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// One source of metrics.
pub trait Collector: Send {
    /// Looks once and adds what is new. `last`: the commands have ended, so what stands there now is final.
    fn poll(&mut self, found: &mut Found, last: bool);
}

/// When and how a file was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified_ns: u128,
    len: u64,
    inode: u64,
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Stamp { modified_ns: modified.as_nanos(), len: meta.len(), inode: meta.ino() })
}

/// What a file's name says of its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Document,
    Lines,
    Params,
}

fn form_of(path: &str) -> Option<Form> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ending = name.rsplit_once('.').map_or("", |(_, e)| e);
    match (name, ending) {
        ("params.json" | "params.yaml" | "params.yml", _) => Some(Form::Params),
        (_, "json") => Some(Form::Document),
        (_, "jsonl" | "ndjson") => Some(Form::Lines),
        _ => None,
    }
}

/// Found without being named.
const WELL_KNOWN: &[&str] =
    &["metrics.json", "metrics.jsonl", "log.jsonl", "params.json", "params.yaml", "params.yml"];

/// All collectors of one attempt.
pub struct Collectors {
    all: Vec<Box<dyn Collector>>,
}

impl Collectors {
    /// To be called when the source and the inputs are in place and no command has run yet. `files` are the paths and
    /// globs that the pipeline names.
    pub fn new(places: &Places, files: &[String]) -> Self {
        Self {
            all: vec![
                Box::new(Files::new(places, files)),
                Box::new(output::OutputFile(places.output.clone())),
            ],
        }
    }

    pub fn poll(&mut self, found: &mut Found, last: bool) {
        for collector in &mut self.all {
            collector.poll(found, last);
        }
    }
}

/// JSON documents, JSON lines and parameter files, by name.
struct Files {
    root: PathBuf,
    metrics_dir: PathBuf,
    named: Vec<String>,
    globs: Vec<(String, GlobMatcher)>,
    /// What was there before the commands ran, with a digest of its last bytes.
    before: BTreeMap<String, (Stamp, Option<Vec<u8>>)>,
    watched: BTreeMap<String, Watched>,
    polls: u32,
}

struct Watched {
    path: PathBuf,
    form: Form,
    seen: Option<Stamp>,
    /// How far lines have been read.
    offset: u64,
    lines: i64,
    /// The last value of each metric of a document, to report changes alone.
    values: BTreeMap<String, (u64, Option<i64>)>,
    points: u64,
}

impl Files {
    fn new(places: &Places, files: &[String]) -> Self {
        let is_glob = |f: &str| f.contains(['*', '?', '[', '{']);
        let mut named: Vec<String> = WELL_KNOWN.iter().map(|s| (*s).to_owned()).collect();
        named.extend(files.iter().filter(|f| !is_glob(f)).filter_map(|f| super::paths::relative(f).ok()));
        let globs = files
            .iter()
            .filter(|f| is_glob(f))
            .filter_map(|f| {
                Some((f.clone(), GlobBuilder::new(f).literal_separator(true).build().ok()?.compile_matcher()))
            })
            .collect();
        let mut this = Self {
            root: places.source.clone(),
            metrics_dir: places.metrics.clone(),
            named,
            globs,
            before: BTreeMap::new(),
            watched: BTreeMap::new(),
            polls: 0,
        };
        for name in this.candidates(true) {
            let path = this.path_of(&name);
            if let Some(stamp) = stamp(&path) {
                let end =
                    (form_of(&name) == Some(Form::Lines)).then(|| end_digest(&path, stamp.len)).flatten();
                this.before.insert(name, (stamp, end));
            }
        }
        this
    }

    /// Names are relative to the source tree; those below `$TRAINYARD_METRICS` begin with that word.
    fn path_of(&self, name: &str) -> PathBuf {
        match name.strip_prefix("$TRAINYARD_METRICS/") {
            Some(rest) => self.metrics_dir.join(rest),
            None => self.root.join(name),
        }
    }

    fn candidates(&self, with_globs: bool) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.named.iter().cloned().collect();
        if let Ok(dir) = std::fs::read_dir(&self.metrics_dir) {
            names.extend(
                dir.flatten()
                    .take(100)
                    .filter_map(|e| Some(format!("$TRAINYARD_METRICS/{}", e.file_name().to_str()?))),
            );
        }
        if with_globs && !self.globs.is_empty() {
            super::artifacts::walk(&self.root, "", &mut |path| {
                if names.len() < 1_000 && self.globs.iter().any(|(_, g)| g.is_match(path)) {
                    names.insert(path.to_owned());
                }
            });
        }
        names
    }
}

impl Collector for Files {
    fn poll(&mut self, found: &mut Found, last: bool) {
        // Globs need a walk over the tree, so they are looked for now and then only.
        let with_globs = last || self.polls.is_multiple_of(20);
        self.polls += 1;
        for name in self.candidates(with_globs) {
            let path = self.path_of(&name);
            let Some(now) = stamp(&path) else {
                if last && path.is_symlink() {
                    found.note(format!("{name}: passed over, it is a symbolic link"));
                } else if last && self.named.contains(&name) && !WELL_KNOWN.contains(&name.as_str()) {
                    found.note(format!("{name}: named in the pipeline, but the commands did not write it"));
                }
                continue;
            };
            let Some(form) = form_of(&name) else {
                if last {
                    found.note(format!(
                        "{name}: passed over, only .json, .jsonl and parameter files are read"
                    ));
                }
                continue;
            };
            if form != Form::Params && self.before.get(&name).is_some_and(|(before, _)| *before == now) {
                if last {
                    found.note(format!("{name}: passed over, it was there before the commands ran"));
                }
                continue;
            }
            let before = self.before.get(&name);
            let watched = self.watched.entry(name.clone()).or_insert_with(|| Watched {
                // Lines that were there and still are belong to an earlier run: only what was added counts.
                offset: match before {
                    Some((old, Some(end))) if end_digest(&path, old.len).as_ref() == Some(end) => old.len,
                    _ => 0,
                },
                path,
                form,
                seen: None,
                lines: 0,
                values: BTreeMap::new(),
                points: 0,
            });
            watched.poll(&name, now, found, last);
        }
    }
}

impl Watched {
    fn poll(&mut self, name: &str, now: Stamp, found: &mut Found, last: bool) {
        if self.seen == Some(now) && !last {
            return;
        }
        let before = found.points.len();
        match self.form {
            Form::Lines => self.lines(name, now, found, last),
            Form::Document => self.document(name, found, last),
            Form::Params => {
                if self.seen != Some(now) {
                    self.params(name, found, last);
                }
            }
        }
        self.seen = Some(now);
        self.points += (found.points.len() - before) as u64;
        if last && self.form != Form::Params {
            found.note(format!("{name}: {} point{}", self.points, if self.points == 1 { "" } else { "s" }));
        }
    }

    fn lines(&mut self, name: &str, now: Stamp, found: &mut Found, last: bool) {
        // Another file under the name, or one that was cut: it starts anew.
        if now.len < self.offset || self.seen.is_some_and(|s| s.inode != now.inode) {
            self.offset = 0;
        }
        let Ok(mut file) = open_plain(&self.path) else { return };
        let mut buffer = vec![0; 1 << 20];
        loop {
            if found.points.len() > 50_000 && !last {
                return;
            }
            let read =
                file.seek(SeekFrom::Start(self.offset)).and_then(|_| read_up_to(&mut file, &mut buffer));
            let Ok(n) = read else { return };
            let end = match buffer[..n].iter().rposition(|b| *b == b'\n') {
                Some(at) => at + 1,
                None if n == buffer.len() => {
                    found.note(format!("{name}: a line of over {} bytes was skipped", buffer.len()));
                    n
                }
                None if last => n,
                None => return,
            };
            if end == 0 {
                return;
            }
            for line in buffer[..end].split(|b| *b == b'\n') {
                self.line(name, line, found);
            }
            self.offset += end as u64;
        }
    }

    fn line(&mut self, name: &str, line: &[u8], found: &mut Found) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.lines += 1;
        if line.len() > MAX_LINE {
            found.note(format!("{name}: a line of over {MAX_LINE} bytes was skipped"));
            return;
        }
        match json::parse(line) {
            Ok(serde_json::Value::Object(object)) => {
                let step = json::step_of(&object).unwrap_or(self.lines - 1);
                for (metric, value) in json::numbers(&object) {
                    found.point(&metric, value, Some(step));
                }
            }
            Ok(_) => found.note(format!("{name}: line {} is no JSON object", self.lines)),
            Err(error) => found.note(format!("{name}: line {} is no JSON: {error}", self.lines)),
        }
    }

    fn document(&mut self, name: &str, found: &mut Found, last: bool) {
        let parsed = read_plain(&self.path, MAX_DOCUMENT)
            .map_err(|e| e.to_string())
            .and_then(|bytes| json::parse(&bytes).map_err(|e| e.to_string()));
        let (numbers, step) = match parsed {
            Ok(serde_json::Value::Object(object)) => (json::numbers(&object), json::step_of(&object)),
            Ok(serde_json::Value::Array(entries)) => (json::named_numbers(&entries), None),
            Ok(_) => (Vec::new(), None),
            Err(error) => {
                // While the commands run it may be half written.
                if last {
                    found.note(format!("{name}: passed over, {error}"));
                }
                return;
            }
        };
        for (metric, value) in numbers {
            let now = (value.to_bits(), step);
            if self.values.get(&metric) != Some(&now) {
                found.point(&metric, value, step);
                self.values.insert(metric, now);
            }
        }
    }

    fn params(&mut self, name: &str, found: &mut Found, last: bool) {
        let bytes = match read_plain(&self.path, 256 * 1024) {
            Ok(bytes) => bytes,
            Err(error) => return found.note(format!("{name}: passed over, {error}")),
        };
        let parsed = if self.path.extension().is_some_and(|e| e == "json") {
            json::parse(&bytes).map_err(|e| e.to_string())
        } else {
            serde_saphyr::from_slice::<serde_json::Value>(&bytes).map_err(|e| e.to_string())
        };
        match parsed {
            Ok(value) => json::params(&value, "", 0, &mut |name, value| found.param(name, value)),
            Err(error) if last => {
                found.note(format!("{name}: passed over, {}", error.lines().next().unwrap_or_default()));
            }
            Err(_) => {}
        }
    }
}

/// Digest of the 4 KiB before byte `len` of a file that has so many.
fn end_digest(path: &Path, len: u64) -> Option<Vec<u8>> {
    use sha2::Digest as _;
    use std::os::unix::fs::FileExt as _;
    let from = len.saturating_sub(4096);
    let mut bytes = vec![0; (len - from) as usize];
    open_plain(path).ok()?.read_exact_at(&mut bytes, from).ok()?;
    Some(sha2::Sha256::digest(&bytes).to_vec())
}

fn read_up_to(file: &mut std::fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}
