//! What a check found, in words and numbers.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The check fails.
    Fail,
    Warn,
    Info,
}

/// Examples that a finding keeps at most.
pub const EXAMPLES: usize = 20;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// A stable name: `nulls`, `unseen_category`, …
    pub rule: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    pub message: String,
    /// Rows or cells concerned, and their share.
    pub count: u64,
    pub share: f64,
    /// At most 20, shortened; empty for columns marked personal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
    /// Whether examples were withheld because the column is personal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub masked: bool,
}

/// A value that breaks a rule. Rows count from 0, over all files, headers not among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    pub value: String,
}

impl Finding {
    pub fn new(
        severity: Severity,
        rule: &'static str,
        column: Option<&str>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            rule,
            column: column.map(str::to_owned),
            message: message.into(),
            count: 0,
            share: 0.0,
            examples: Vec::new(),
            masked: false,
        }
    }

    #[must_use]
    pub fn counted(mut self, count: u64, of: u64) -> Self {
        self.count = count;
        self.share = if of == 0 { 0.0 } else { count as f64 / of as f64 };
        self
    }

    #[must_use]
    pub fn with_examples(mut self, examples: Vec<Example>, personal: bool) -> Self {
        self.masked = personal && !examples.is_empty();
        if !personal {
            self.examples = examples;
            self.examples.truncate(EXAMPLES);
        }
        self
    }
}

/// Text from outside as a terminal may show it: what steers one is escaped, quotes stay as they are.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// A value from outside as it may be shown: at most 80 characters, none that steers a terminal.
pub(crate) fn shown(value: &str) -> String {
    let mut out: String = value.chars().take(80).flat_map(char::escape_debug).collect();
    if value.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}
