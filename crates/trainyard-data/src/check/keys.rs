//! Rules on sets of rows: unique keys, repeated rows, foreign keys, and splits that must not share rows.

use super::schema::wrong_type;
use crate::error::{Error, Result};
use crate::findings::{Example, Finding, Severity};
use crate::rules::Rules;
use crate::scan::{self, KeySet, Options, Scanned, settled_row};
use crate::schema::Kind;
use crate::sets::Matches;
use crate::source::{self, Source};

/// The keys that set rules need, in one order for asking and answering.
pub(super) struct Sets {
    pub(super) wanted: Vec<KeySet>,
    /// Of each rule on splits, its columns.
    splits: Vec<Vec<String>>,
}

impl Sets {
    pub(super) fn of(rules: &Rules, source: &Source, reading: &source::Options) -> Result<Self> {
        let single = |columns: &[String]| {
            let [column] = columns else { return false };
            source.index(column).is_some_and(|i| matches!(source.fields[i].kind, Kind::Int | Kind::Time))
        };
        let mut wanted = Vec::new();
        for columns in &rules.unique {
            wanted.push(KeySet { columns: columns.clone(), skip_nulls: true, single: single(columns) });
        }
        if rules.duplicate_rows.is_some() {
            let all: Vec<String> = source.fields.iter().map(|f| f.name.clone()).collect();
            wanted.push(KeySet { columns: all, skip_nulls: false, single: false });
        }
        for key in &rules.foreign_keys {
            wanted.push(KeySet { columns: key.columns.clone(), skip_nulls: true, single: false });
        }
        let mut splits = Vec::new();
        for rule in &rules.disjoint {
            let columns = if rule.on.is_empty() {
                let other = Source::open(&rule.path, reading)?;
                source
                    .fields
                    .iter()
                    .filter(|f| other.index(&f.name).is_some())
                    .map(|f| f.name.clone())
                    .collect::<Vec<_>>()
            } else {
                rule.on.clone()
            };
            if columns.is_empty() {
                return Err(Error::usage(format!(
                    "{} and {} have no column in common to be compared by; name columns by `on`",
                    source.name, rule.path
                )));
            }
            wanted.push(KeySet { columns: columns.clone(), skip_nulls: !rule.on.is_empty(), single: false });
            splits.push(columns);
        }
        Ok(Self { wanted, splits })
    }

    pub(super) fn judge(
        &self,
        rules: &Rules,
        source: &Source,
        reading: &source::Options,
        options: &Options,
        scanned: &Scanned,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let mut keys = scanned.keys.iter();
        let rows = |found: &Matches, words: &str| -> Vec<Example> {
            found
                .first
                .iter()
                .map(|(row, other)| Example {
                    row: Some(settled_row(&scanned.report, *row)),
                    value: other
                        .map_or_else(String::new, |o| format!("{words} {}", settled_row(&scanned.report, o))),
                })
                .collect()
        };
        for columns in &rules.unique {
            let Some(keys) = keys.next() else { break };
            let found = keys.duplicates()?;
            if found.count > 0 {
                let one = (columns.len() == 1).then(|| columns[0].as_str());
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "unique",
                        one,
                        format!("rows that repeat the key ({}) of an earlier row", columns.join(", ")),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(rows(&found, "as row"), false),
                );
            }
        }
        if let Some(share) = rules.duplicate_rows
            && let Some(keys) = keys.next()
        {
            let found = keys.duplicates()?;
            if found.count > 0 && !share.holds(found.count as f64 / found.keys as f64) {
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "duplicate_rows",
                        None,
                        format!("rows that repeat an earlier one, wanted {share}"),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(rows(&found, "as row"), false),
                );
            }
        }
        for key in &rules.foreign_keys {
            let Some(mine) = keys.next() else { break };
            let to = key.to.as_ref().unwrap_or(&key.columns);
            let wanted = KeySet { columns: to.clone(), skip_nulls: true, single: false };
            let theirs =
                other_keys(source, &key.columns, &key.references, wanted, reading, options, findings)?;
            let Some(theirs) = theirs else { continue };
            let found = mine.against(&theirs, false)?;
            if found.keys == 0 && scanned.profile.rows > 0 {
                findings.push(nothing(Severity::Warn, &key.columns, &source.name));
            }
            if found.count > 0 {
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "foreign_key",
                        (key.columns.len() == 1).then(|| key.columns[0].as_str()),
                        format!("rows whose key ({}) is not in {}", key.columns.join(", "), key.references),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(rows(&found, ""), false),
                );
            }
        }
        for (rule, columns) in rules.disjoint.iter().zip(&self.splits) {
            let Some(mine) = keys.next() else { break };
            let wanted = KeySet { columns: columns.clone(), skip_nulls: !rule.on.is_empty(), single: false };
            let theirs = other_keys(source, columns, &rule.path, wanted, reading, options, findings)?;
            let Some(theirs) = theirs else { continue };
            let found = mine.against(&theirs, true)?;
            for (keys, name) in [(found.keys, &source.name), (found.others, &rule.path)] {
                if keys == 0 {
                    findings.push(nothing(Severity::Fail, columns, name));
                }
            }
            if found.count > 0 {
                let what = if rule.on.is_empty() {
                    "whole rows".to_owned()
                } else {
                    format!("keys ({})", columns.join(", "))
                };
                let examples = found
                    .first
                    .iter()
                    .map(|(row, _)| Example {
                        row: Some(settled_row(&scanned.report, *row)),
                        value: String::new(),
                    })
                    .collect();
                findings.push(
                    Finding::new(
                        Severity::Fail,
                        "leakage",
                        None,
                        format!("{what} that are in {} too", rule.path),
                    )
                    .counted(found.count, found.keys)
                    .with_examples(examples, false),
                );
            }
        }
        Ok(())
    }
}

fn nothing(severity: Severity, columns: &[String], table: &str) -> Finding {
    let columns = columns.join(", ");
    Finding::new(severity, "not_compared", None, format!("{table} has no row with a key ({columns})"))
}

/// The keys of another table; none if they are of another type, which is a finding. So is what is wrong with its records: who reads
/// it half cannot judge by it.
fn other_keys(
    source: &Source,
    columns: &[String],
    path: &str,
    wanted: KeySet,
    reading: &source::Options,
    options: &Options,
    findings: &mut Vec<Finding>,
) -> Result<Option<crate::sets::Keys>> {
    let to = wanted.columns.clone();
    // A key that is text here is read as text there.
    let mut reading = reading.clone();
    for (mine, theirs) in columns.iter().zip(&to) {
        let kind = source.index(mine).map(|i| source.fields[i].kind);
        reading.kinds.extend(kind.map(|kind| (theirs.clone(), kind)));
    }
    let mut other = Source::open(path, &reading)?;
    let mut scanned = scan::scan(&mut other, &Rules::default(), None, &[wanted], options)?;
    for (mine, theirs) in columns.iter().zip(&to) {
        let field = |s: &Source, c: &str| s.index(c).map(|i| s.fields[i].clone());
        let (Some(a), Some(b)) = (field(source, mine), field(&other, theirs)) else { continue };
        let numbers = [&a, &b].iter().all(|f| matches!(f.kind, Kind::Int | Kind::Float));
        // Lists and structs are compared by bytes that depend on their types.
        let other_type = a.kind == Kind::Other && a.physical != b.physical;
        if a.kind != b.kind && !numbers || other_type {
            let (a, b) =
                if other_type { (a.physical, b.physical) } else { (a.kind.to_string(), b.kind.to_string()) };
            findings.push(wrong_type(
                None,
                format!("{mine:?} is {a}, {theirs:?} of {path} is {b}: as keys they cannot be compared"),
            ));
            return Ok(None);
        }
    }
    for defect in super::defects(&other, &scanned) {
        if defect.column.as_ref().is_none_or(|c| to.contains(c)) {
            let at = defect.column.map_or(String::new(), |c| format!(" {c:?}:"));
            findings.push(
                Finding::new(Severity::Fail, "other_table", None, format!("{path}:{at} {}", defect.message))
                    .counted(defect.count, scanned.profile.rows),
            );
        }
    }
    scanned.keys.pop().map(Some).ok_or_else(|| Error::usage(format!("{path}: has no keys")))
}
