//! What collectors put their finds into: bounded, masked, without doubles.

use std::collections::hash_map::{DefaultHasher, HashMap};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};

use super::super::mask::Masker;
use super::cut;
use super::junit::Tests;
use crate::clock::SharedClock;
use crate::model::MetricPoint;
use crate::model::metric::{MAX_NAMES, MAX_POINTS, MetricSource};

const MAX_PARAMS: usize = 1_000;
const MAX_NOTES: usize = 50;
const MAX_SOURCES: usize = 200;
/// The longest name of a metric, in bytes.
const MAX_NAME: usize = 200;

/// What collectors put their finds into.
pub struct Found {
    pub points: Vec<MetricPoint>,
    pub params: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
    pub notes: Vec<String>,
    /// Filled when the commands have ended.
    pub sources: Vec<MetricSource>,
    masker: Masker,
    clock: SharedClock,
    total: u64,
    /// Parameters that were offered, for counting what a source gave.
    offered: u64,
    names: BTreeSet<String>,
    /// By (name, training step), hashed: the value said last. Checkpoints repeat the history before them, and a summary repeats
    /// the last row of a curve.
    said: HashMap<u64, u64>,
    /// By (kind of source, name): the place that said it first.
    owners: HashMap<(&'static str, String), String>,
    tests: Tests,
}

/// Where points come from, when several of the same kind may use the same names.
#[derive(Debug, Clone)]
pub struct Lane {
    pub kind: &'static str,
    /// Tells one from the other: a directory, a run.
    pub place: String,
    /// Stands before a name that another place of that kind has said first.
    pub label: String,
}

impl Found {
    pub fn new(masker: Masker, clock: SharedClock) -> Self {
        Self {
            points: Vec::new(),
            params: BTreeMap::new(),
            outputs: BTreeMap::new(),
            notes: Vec::new(),
            sources: Vec::new(),
            masker,
            clock,
            total: 0,
            offered: 0,
            names: BTreeSet::new(),
            said: HashMap::new(),
            owners: HashMap::new(),
            tests: Tests::default(),
        }
    }

    /// Points and parameters so far, for counting what a source gave.
    pub fn counts(&self) -> (u64, u64) {
        (self.total, self.offered)
    }

    pub fn mask(&self, text: &str) -> String {
        self.masker.mask_str(text)
    }

    pub fn point(&mut self, name: &str, value: f64, step: Option<i64>) {
        let name = name.trim();
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            self.note(format!("a metric's name is empty, too long or not text: {:?}", cut(name, 60)));
            return;
        }
        if self.total >= MAX_POINTS {
            self.note(format!("more than {MAX_POINTS} metric points: the rest is passed over"));
            return;
        }
        let name = self.masker.mask_str(name);
        if !self.names.contains(&name) {
            if self.names.len() >= MAX_NAMES {
                self.note(format!("more than {MAX_NAMES} metrics by name: the rest is passed over"));
                return;
            }
            self.names.insert(name.clone());
        }
        if let Some(step) = step {
            let mut hasher = DefaultHasher::new();
            (&name, step).hash(&mut hasher);
            if self.said.insert(hasher.finish(), value.to_bits()) == Some(value.to_bits()) {
                return;
            }
        }
        self.total += 1;
        self.points.push(MetricPoint { name, value, step, at_ms: self.clock.now_ms() });
    }

    /// A point under its plain name, unless another place of the same kind has that name.
    pub fn point_in(&mut self, lane: &Lane, name: &str, value: f64, step: Option<i64>) {
        if self.owns(lane, name) {
            self.point(name, value, step);
        } else {
            self.point(&format!("{}/{name}", lane.label), value, step);
        }
    }

    /// Whether this place was the first of its kind to use the name.
    pub fn owns(&mut self, lane: &Lane, name: &str) -> bool {
        if self.owners.len() >= 2 * MAX_NAMES {
            return true; // the names' own bound speaks next
        }
        *self.owners.entry((lane.kind, name.to_owned())).or_insert_with(|| lane.place.clone()) == lane.place
    }

    pub fn param(&mut self, name: &str, value: &str) {
        let (name, value) = (self.masker.mask_str(cut(name, 200)), self.masker.mask_str(cut(value, 500)));
        if self.params.len() < MAX_PARAMS || self.params.contains_key(&name) {
            self.offered += 1;
            self.params.insert(name, value);
        } else {
            self.note(format!("more than {MAX_PARAMS} parameters: the rest is passed over"));
        }
    }

    /// Adds one report of tests; returns all of them together.
    pub fn tests(&mut self, more: Tests) -> Tests {
        let all = &mut self.tests;
        all.passed += more.passed;
        all.failed += more.failed;
        all.skipped += more.skipped;
        all.seconds += more.seconds;
        *all
    }

    pub fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub fn source(&mut self, source: MetricSource) {
        if self.sources.len() == MAX_SOURCES {
            return self.note(format!("more than {MAX_SOURCES} metric sources: the rest is not listed"));
        }
        let place = self.masker.mask_str(cut(&source.place, 300));
        let note = self.masker.mask_str(cut(&source.note, 2_000));
        self.sources.push(MetricSource { place, note, ..source });
    }

    /// A place that gave what was counted since `before` ([`Self::counts`]).
    pub fn used(&mut self, kind: &str, place: &str, before: (u64, u64), note: String) {
        let (points, params) = (self.total - before.0, self.offered - before.1);
        self.source(MetricSource {
            kind: kind.to_owned(),
            place: place.to_owned(),
            used: true,
            points: points as i64,
            params: params as i64,
            note,
        });
    }

    /// A place that is listed, but that gave nothing, and why.
    pub fn passed_over(&mut self, kind: &str, place: &str, why: String) {
        self.source(MetricSource {
            kind: kind.to_owned(),
            place: place.to_owned(),
            used: false,
            points: 0,
            params: 0,
            note: why,
        });
    }
}
