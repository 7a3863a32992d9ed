//! Metrics in what the commands print, by the pipeline's own patterns (`metrics.patterns`). Nothing is guessed from output
//! without one.

use std::sync::{Arc, Mutex, PoisonError};

use regex::bytes::{Regex, RegexBuilder};

use super::found::Found;
use super::{Collector, cut};
use crate::model::metric::{MetricSource, from_nonfinite_word};

/// Longer lines are not looked at.
const MAX_LINE: usize = 8 * 1024;
/// Finds that wait for the collector.
const MAX_WAITING: usize = 100_000;

type Find = (String, f64, Option<i64>);

#[derive(Default)]
struct Waiting {
    finds: Vec<Find>,
    lost: u64,
}

/// Looks at output as it passes. One for a stream; its finds come out of the [`Patterns`] made with it.
pub struct Scanner {
    patterns: Vec<Regex>,
    line: Vec<u8>,
    /// The line has become too long; it is left alone up to its end.
    skipping: bool,
    waiting: Arc<Mutex<Waiting>>,
}

/// The collector of what a [`Scanner`] found.
pub struct Patterns {
    waiting: Arc<Mutex<Waiting>>,
    points: u64,
}

/// None without a pattern. Those that are no patterns were refused when the pipeline was read.
pub fn make(patterns: &[String]) -> Option<(Scanner, Patterns)> {
    let patterns: Vec<Regex> = patterns
        .iter()
        .take(20)
        .filter_map(|p| RegexBuilder::new(p).size_limit(1 << 20).build().ok())
        .collect();
    if patterns.is_empty() {
        return None;
    }
    let waiting = Arc::<Mutex<Waiting>>::default();
    let scanner = Scanner { patterns, line: Vec::new(), skipping: false, waiting: Arc::clone(&waiting) };
    Some((scanner, Patterns { waiting, points: 0 }))
}

impl Scanner {
    pub fn push(&mut self, bytes: &[u8]) {
        // Progress bars return the carriage instead of ending the line.
        for piece in bytes.split_inclusive(|b| *b == b'\n' || *b == b'\r') {
            let ends = piece.ends_with(b"\n") || piece.ends_with(b"\r");
            if self.line.len() + piece.len() > MAX_LINE {
                self.skipping = true;
                self.line.clear();
            } else if !self.skipping {
                self.line.extend_from_slice(piece);
            }
            if ends {
                if !self.skipping {
                    self.look();
                }
                self.skipping = false;
                self.line.clear();
            }
        }
    }

    /// The commands have ended: the last line may lack its end.
    pub fn finish(&mut self) {
        if !self.line.is_empty() && !self.skipping {
            self.look();
        }
        self.line.clear();
    }

    fn look(&self) {
        let mut finds = Vec::new();
        for pattern in &self.patterns {
            for captures in pattern.captures_iter(self.line.trim_ascii_end()) {
                let text = |name: &str| {
                    captures.name(name).map(|m| String::from_utf8_lossy(m.as_bytes()).trim().to_owned())
                };
                let number = |text: &str| text.parse().ok().or_else(|| from_nonfinite_word(text));
                let step = text("step").and_then(|s| number(&s)).filter(|s| s.is_finite()).map(|s| s as i64);
                if let (Some(name), Some(value)) = (text("name"), text("value").and_then(|v| number(&v))) {
                    finds.push((name, value, step));
                    continue;
                }
                for group in
                    pattern.capture_names().flatten().filter(|g| !["step", "name", "value"].contains(g))
                {
                    if let Some(value) = text(group).and_then(|v| number(&v)) {
                        finds.push((group.to_owned(), value, step));
                    }
                }
            }
        }
        if finds.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_WAITING.saturating_sub(waiting.finds.len());
        waiting.lost += finds.len().saturating_sub(room) as u64;
        waiting.finds.extend(finds.into_iter().take(room));
    }
}

impl Collector for Patterns {
    fn poll(&mut self, found: &mut Found, last: bool) {
        let before = found.counts().0;
        let (finds, lost) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut waiting.finds), waiting.lost)
        };
        for (name, value, step) in finds {
            found.point(cut(&name, 200), value, step);
        }
        self.points += found.counts().0 - before;
        if last {
            let note = match (lost, self.points) {
                (0, 0) => "no line matched `metrics.patterns`".to_owned(),
                (0, _) => String::new(),
                (n, _) => format!("{n} matches came too fast and were left out"),
            };
            found.source(MetricSource {
                kind: "output".into(),
                place: "what the commands printed".into(),
                used: self.points > 0,
                points: self.points as i64,
                params: 0,
                note,
            });
        }
    }
}
