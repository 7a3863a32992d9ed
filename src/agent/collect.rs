//! Finds metrics, parameters and outputs in what training scripts write anyway, with no change to them.
//!
//! Each [`Collector`] watches one place. What is found and what is passed over is listed, with the reason
//! ([`Found::sources`]). Nothing here ever changes a step's result.

mod csv;
mod document;
mod dvc;
mod events;
mod files;
mod found;
pub(in crate::agent) mod json;
mod jsonl;
mod junit;
mod output;
mod patterns;
mod tail;
#[cfg(test)]
mod tests;

pub use files::ROOM;
pub use found::{Found, Lane};
pub use patterns::Scanner;

use super::script::Places;

/// What the pipeline says of metrics, beside what is found by itself.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Paths and globs of metric files.
    pub files: Vec<String>,
    /// Where a report of tests will lie.
    pub junit: Option<String>,
    /// Regular expressions for what the commands print.
    pub patterns: Vec<String>,
}

/// One source of metrics.
pub trait Collector: Send {
    /// Looks once and adds what is new. `last`: the commands have ended, so what stands there now is final.
    fn poll(&mut self, found: &mut Found, last: bool);
}

/// All collectors of one attempt.
pub struct Collectors {
    all: Vec<Box<dyn Collector>>,
}

impl Collectors {
    /// To be called when the source and the inputs are in place and no command has run yet. With patterns, what the commands
    /// print is to be pushed through the scanner.
    pub fn new(places: &Places, wanted: &Wanted) -> (Self, Option<Scanner>) {
        let mut all: Vec<Box<dyn Collector>> = vec![
            Box::new(files::Files::new(places, wanted)),
            Box::new(output::OutputFile(places.output.clone())),
        ];
        let scanner = patterns::make(&wanted.patterns).map(|(scanner, patterns)| {
            all.push(Box::new(patterns));
            scanner
        });
        (Self { all }, scanner)
    }

    /// One more, which is looked at first.
    pub fn add(&mut self, collector: Box<dyn Collector>) {
        self.all.insert(0, collector);
    }

    /// One more, whose word counts when others say the same name.
    pub fn add_last(&mut self, collector: Box<dyn Collector>) {
        self.all.push(collector);
    }

    pub fn poll(&mut self, found: &mut Found, last: bool) {
        for collector in &mut self.all {
            collector.poll(found, last);
        }
    }
}

/// The beginning of a text, cut between characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
