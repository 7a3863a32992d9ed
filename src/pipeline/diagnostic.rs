//! What a pipeline file is told: one [`Diagnostic`] for each finding, with a stable code and the exact place.
//! Nothing here knows the grammar; nothing else here prints to a terminal.

use std::fmt::Write as _;
use std::ops::Range;

use serde::Serialize;

/// How much a finding matters. Only errors keep a file from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
    Note,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding about one place of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// `TY001` and so on; documented in `docs/pipeline-errors.md`, never reused.
    pub code: &'static str,
    pub severity: Severity,
    /// One sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Bytes of the file that it is about; may be empty.
    pub span: Range<usize>,
}

impl Diagnostic {
    /// `12:5: unknown key ... (TY013)`, for places that take one line.
    pub fn one_line(&self) -> String {
        format!("{}:{}: {} ({})", self.line, self.column, self.message, self.code)
    }

    /// The finding with the source line and carets under the place, as compilers print it. Control
    /// characters of the file never reach the output.
    pub fn excerpt(&self, file: &str, source: &str) -> String {
        let line_text = source.lines().nth(self.line - 1).unwrap_or_default();
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // The window that is shown of a very long line.
        let first = self.column.saturating_sub(1).saturating_sub(80);
        let cut: String = line_text.chars().skip(first).take(160).collect();
        let (mut shown, mut carets) = (String::new(), String::new());
        let start = self.column - 1 - first;
        let length =
            source.get(self.span.clone()).map_or(1, |s| s.lines().next().unwrap_or("").chars().count());
        let end = start + length.max(1);
        for (i, c) in cut.chars().enumerate() {
            let visible = match c {
                '\t' => "    ".to_owned(),
                c if is_hidden(c) => "\u{fffd}".to_owned(),
                c => c.to_string(),
            };
            let mark = if i < start { ' ' } else { '^' };
            if i < end {
                carets.extend(std::iter::repeat_n(mark, visible.chars().count()));
            }
            shown.push_str(&visible);
        }
        if carets.chars().count() <= start {
            carets.extend(std::iter::repeat_n(' ', start - carets.chars().count()));
            carets.push('^');
        }
        let mut out = String::new();
        let _ = writeln!(out, "{}[{}]: {}", self.severity.word(), self.code, self.message);
        let _ = writeln!(out, "{gutter}--> {file}:{}:{}", self.line, self.column);
        let _ = writeln!(out, "{gutter} |");
        let _ = writeln!(out, "{number} | {}", shown.trim_end());
        let _ = writeln!(out, "{gutter} | {}", carets.trim_end());
        if let Some(help) = &self.help {
            let _ = writeln!(out, "{gutter} = help: {help}");
        }
        out
    }
}

/// Characters that move a cursor, hide or reorder text on a terminal or a page.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text of the file as a message may quote it: short, on one line, nothing hidden in it.
pub(super) fn quoted(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(60)
        .map(|c| {
            if c == '\n' {
                '⏎'
            } else if is_hidden(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    format!("`{out}`")
}

/// Byte offsets to lines and columns.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Line and column, both from 1, of a byte; past the end counts as the end.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|&s| s <= offset);
        let start = self.starts[line - 1];
        (line, self.text[start..offset].chars().count() + 1)
    }
}

/// A file gets at most this many findings: more helps nobody and costs time.
const MAX_FINDINGS: usize = 50;

/// Gathers findings; the only maker of [`Diagnostic`]s.
pub(super) struct Findings<'a> {
    lines: Lines<'a>,
    list: Vec<Diagnostic>,
    errors: usize,
}

impl<'a> Findings<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { lines: Lines::new(text), list: Vec::new(), errors: 0 }
    }

    pub fn line_of(&self, offset: usize) -> usize {
        self.lines.position(offset).0
    }

    pub fn add(&mut self, code: Code, at: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        if code.severity == Severity::Error {
            self.errors += 1;
        }
        if self.list.len() >= MAX_FINDINGS {
            // An error is never lost behind warnings: the list keeps at least one.
            if code.severity != Severity::Error || self.errors > 1 {
                return;
            }
        }
        let (line, column) = self.lines.position(at.start);
        self.list.push(Diagnostic {
            code: code.id,
            severity: code.severity,
            message: message.into(),
            help,
            line,
            column,
            span: at.start..at.end.max(at.start),
        });
    }

    /// Nothing more will be listed: no need to work out what to say.
    pub fn is_full(&self) -> bool {
        self.errors > 0 && self.list.len() >= MAX_FINDINGS
    }

    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// In the order of the file; of findings at one place the earlier found stays first.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|d| d.span.start);
        self.list
    }
}

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub id: &'static str,
    pub severity: Severity,
    /// What it means, for the page of all codes.
    pub meaning: &'static str,
    /// What to do, for the page of all codes.
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal, $severity:ident, $meaning:literal, $remedy:literal;)*) => {
        /// One constant for each code.
        pub(super) mod code {
            use super::{Code, Severity};
            $(pub const $name: Code =
                Code { id: $id, severity: Severity::$severity, meaning: $meaning, remedy: $remedy };)*
        }
        /// All codes, by number.
        pub const CODES: &[Code] = &[$(code::$name),*];
    };
}

codes! {
    TOO_LARGE = "TY001", Error, "The file is larger than 256 KiB.", "Move scripts into files of the repository and call them.";
    NOT_TEXT = "TY002", Error, "The file is not UTF-8 text.", "Save it as UTF-8.";
    SYNTAX = "TY003", Error, "The file is not valid YAML.", "See the place; most often a quote, a bracket or the indentation.";
    TOO_DEEP = "TY004", Error, "Lists and mappings are nested deeper than 32.", "No part of the grammar needs more than eight.";
    TOO_MANY_NODES = "TY005", Error, "The file has more than 20,000 values, or more than 256 aliases, once aliases are followed.", "Write less, or use `matrix` and `defaults`.";
    MANY_DOCUMENTS = "TY006", Error, "The file holds several YAML documents.", "One file is one pipeline: put others into `.trainyard/*.yaml`.";
    TAG = "TY007", Error, "A YAML tag such as `!include` or `!!python/object` is used.", "Tags are never followed; write the value itself.";
    ALIAS = "TY008", Error, "An alias names no earlier anchor, or is part of what it names.", "Quote texts that begin with `*`.";
    MERGE_KEY = "TY009", Error, "A merge key `<<` is used.", "YAML 1.2 has none. Use `defaults`, or an alias for a whole value.";
    EMPTY = "TY010", Error, "The file is empty or not a mapping.", "The smallest pipeline is `train: python3 train.py`.";
    DUPLICATE_KEY = "TY011", Error, "A key stands twice in one mapping.", "Keep one of them.";
    KEY_TYPE = "TY012", Error, "A key is not a simple text.", "Keys are words; quote them if they hold `[`, `{` or `?`.";
    UNKNOWN_KEY = "TY013", Error, "A key that the grammar does not have.", "The nearest known key, or all keys of that mapping, are in the help.";
    MISSING_KEY = "TY014", Error, "A key that must be there is not.", "Add it.";
    WRONG_TYPE = "TY015", Error, "A text, number, list or mapping where another is expected.", "The message says what is expected.";
    UNKNOWN_WORD = "TY016", Error, "A word that is none of the words allowed here.", "The help lists them.";
    NUMBER = "TY017", Error, "A number is not one, or is out of its range.", "The message says the range.";
    DURATION = "TY018", Error, "A duration is not one, is zero, or is too long.", "Write `90s`, `10m`, `6h`, `1h30m` or `2d`.";
    SIZE = "TY019", Error, "A size is not one, is zero, or is too large.", "Write `512Mi` or `8Gi` (powers of 1024), or `500M`, `2G` (powers of 1000).";
    TOLERANCE = "TY020", Error, "A tolerance is not one, or is negative.", "`1%` is relative to the baseline, `0.01` absolute, `1pp` percentage points.";
    YAML_1_1_BOOLEAN = "TY021", Error, "`yes`, `no`, `on` or `off` where true or false is expected.", "Write `true` or `false`: YAML 1.2 knows no other.";
    NAME = "TY022", Error, "A name holds other characters than allowed, or is too long.", "Letters, digits, `-`, `_` and `.`, at most 63, beginning with a letter or digit.";
    SAME_NAME = "TY023", Error, "Two names are the same, or become the same in Kubernetes and in file names.", "Rename one of them.";
    PATH = "TY024", Error, "A path is absolute, leaves the source tree, or is empty.", "Write it relative to the repository's root.";
    GLOB = "TY025", Error, "A glob is not valid.", "`*` matches within a directory, `**` across, `{a,b}` either.";
    CRON = "TY026", Error, "A cron expression is missing, not wanted or not valid.", "Five fields: minute, hour, day of month, month, day of week.";
    TIMEZONE = "TY027", Error, "A time zone that the IANA database does not have.", "Write it as `Europe/Berlin` or `UTC`.";
    PLACEHOLDER = "TY028", Error, "A `${NAME}` that is not closed or names nothing known here.", "The help lists the names. Commands are left to the shell.";
    CONTROL_CHARACTER = "TY029", Error, "A text holds a control character.", "Remove it; a NUL cannot be passed to any program.";
    UNKNOWN_NEED = "TY030", Error, "`needs` names a step that does not exist.", "The nearest step is in the help.";
    CYCLE = "TY031", Error, "Steps need each other in a circle, or a step needs itself.", "Break the circle; `needs: []` starts a step at once.";
    MATRIX = "TY032", Error, "A matrix is empty, repeats a value, or has more than 256 members.", "Take values away.";
    TOO_MANY_STEPS = "TY033", Error, "More than 256 steps, with all matrix members.", "Split the pipeline into several files.";
    MATRICES_DISAGREE = "TY034", Error, "Steps share a matrix key but not its values, so members cannot be paired.", "Give them the same values, or set `gather: true`.";
    SAME_ARTIFACT = "TY035", Error, "A step would unpack two steps' artifacts at the same path.", "Read one of them elsewhere: `needs: [{step: ..., as: ...}]`.";
    EXCLUSIVE = "TY036", Error, "Two keys that exclude each other.", "Keep one of them.";
    ENVIRONMENT = "TY037", Error, "A variable name is not valid, reserved, or set in two ways.", "Letters, digits and `_`; names beginning with `TRAINYARD_` are taken.";
    GATE = "TY038", Error, "A gate or range that nothing can pass.", "`min` must not be above `max`.";
    VERSION = "TY039", Error, "A version of the grammar that this trainyard does not read.", "Write `version: 1` or leave it out.";
    IMAGE = "TY040", Error, "Not an image reference.", "Write `registry/name:tag` or `registry/name@sha256:...`.";
    PATTERN = "TY041", Error, "A regular expression is not valid.", "See the place that the message names.";
    UNKNOWN_STEP = "TY042", Error, "A section refers to a step that does not exist.", "The nearest step is in the help.";
    DATA_EVENT = "TY043", Error, "`event: data` without `prefix`, or `prefix` without it.", "Write both: `{event: data, prefix: s3://bucket/raw/}`.";
    BENCHMARK = "TY044", Error, "A gate names a benchmark that says nothing of its metric.", "Give `benchmarks` a value for it.";
    ENDPOINT = "TY045", Error, "`serve` has an address that is not on the step's own machine, or without a port.", "Write `http://127.0.0.1:8080/features`: the server that `command` starts.";
    WORD_LOOKS_BOOLEAN = "TY050", Warning, "`yes`, `no`, `on` or `off` stands unquoted where a text is expected.", "Quote it: other YAML readers make true or false of it.";
    MAY_OVERLAP = "TY051", Warning, "Two steps' artifacts may hold the same path for the step that needs both.", "Make the globs narrower, or use `as`.";
    NOT_RUN_YET = "TY060", Note, "A section is checked, but this version does not run it yet.", "Nothing to do; it has no effect for now.";
}

/// The page `docs/pipeline-errors.md`; a test keeps the committed file equal.
pub fn codes_page() -> String {
    let mut out = String::from(
        "# What `trainyard lint` says\n\nEach finding has a code that never changes its meaning. Errors keep a pipeline \
         from running; warnings and\nnotes do not. This page is generated from the code: `trainyard schema --errors`.\n\n\
         | code | kind | what it means | what to do |\n|---|---|---|---|\n",
    );
    for c in CODES {
        let cell = |t: &str| t.replace('|', "\\|");
        let _ =
            writeln!(out, "| {} | {} | {} | {} |", c.id, c.severity.word(), cell(c.meaning), cell(c.remedy));
    }
    out
}
