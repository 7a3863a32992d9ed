//! Marks of states. Shape and colour both differ, so that neither is needed alone.

use std::fmt;

use askama::filters::HtmlSafe;

/// Markup of our own: words outside the closed set get the plain mark, and text never comes from outside.
pub struct Mark {
    word: &'static str,
    labelled: bool,
}

impl HtmlSafe for Mark {}

/// The icon of a state.
pub fn icon(word: &str) -> Mark {
    Mark { word: known(word), labelled: false }
}

/// The icon with its word.
pub fn badge(word: &str) -> Mark {
    Mark { word: known(word), labelled: true }
}

const OK: &str = "<circle cx=\"8\" cy=\"8\" r=\"7\"/><path class=\"ink\" d=\"M4.8 8.3 7 10.5l4.3-4.7\"/>";
const CROSS: &str = "<circle cx=\"8\" cy=\"8\" r=\"7\"/><path class=\"ink\" d=\"m5.5 5.5 5 5m0-5-5 5\"/>";
const ALERT: &str = "<path d=\"M8 1 15.4 14.4H.6Z\"/><path class=\"ink\" d=\"M8 6v4M8 12.1v.2\"/>";
const SPIN: &str =
    "<circle class=\"ring\" cx=\"8\" cy=\"8\" r=\"6\"/><path class=\"spin\" d=\"M8 2a6 6 0 0 1 6 6\"/>";
const PAUSE: &str = "<circle cx=\"8\" cy=\"8\" r=\"7\"/><path class=\"ink\" d=\"M6.2 5.2v5.6M9.8 5.2v5.6\"/>";
const DASH: &str = "<circle cx=\"8\" cy=\"8\" r=\"7\"/><path class=\"ink\" d=\"M4.8 8h6.4\"/>";
const WAVE: &str =
    "<circle cx=\"8\" cy=\"8\" r=\"7\"/><path class=\"ink\" d=\"M4.6 9c1.1-1.9 2.2-1.9 3.4-1s2.3.9 3.4-1\"/>";
const DOT: &str =
    "<circle class=\"ring\" cx=\"8\" cy=\"8\" r=\"6\"/><circle class=\"pip\" cx=\"8\" cy=\"8\" r=\"2\"/>";

const MARKS: &[(&str, &str)] = &[
    ("succeeded", OK),
    ("done", OK),
    ("pass", OK),
    ("reused", OK),
    ("failed", CROSS),
    ("fail", CROSS),
    ("bad_payload", CROSS),
    ("parked", CROSS),
    ("errored", ALERT),
    ("running", SPIN),
    ("finishing", SPIN),
    ("held", PAUSE),
    ("cancelled", DASH),
    ("superseded", DASH),
    ("skipped", DASH),
    ("ignored", DASH),
    ("inconclusive", WAVE),
    ("queued", DOT),
    ("ready", DOT),
    ("waiting", DOT),
    ("stored", DOT),
    ("pending", DOT),
];

fn known(word: &str) -> &'static str {
    MARKS.iter().find(|(w, _)| *w == word).map_or("pending", |(w, _)| w)
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word;
        let shape = MARKS.iter().find(|(w, _)| *w == word).map_or(DOT, |(_, shape)| shape);
        let svg = format!(
            "<svg class=\"i i-{word}\" viewBox=\"0 0 16 16\" width=\"16\" height=\"16\" aria-hidden=\"true\">{shape}</svg>"
        );
        if self.labelled {
            write!(f, "<span class=\"badge s-{word}\">{svg}{}</span>", word.replace('_', " "))
        } else {
            f.write_str(&svg)
        }
    }
}
