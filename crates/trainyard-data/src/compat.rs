//! Drift as Evidently 0.7 decides it by default, for teams that move and for checks against it.
//!
//! Needs the raw values of both tables, in memory. Its rule is kept with its faults: tests are chosen by the size of
//! the reference alone, nothing is adjusted for the number of columns, and the reference counts as exact in its
//! chi-square. The rule of [`crate::drift`] is the better one.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray, StringArray};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::schema::Kind;
use crate::source::{Batch, Source, Visitor};
use crate::stats;

/// One column's outcome.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnDrift {
    pub column: String,
    /// `num`, `cat` or `text`.
    pub kind: &'static str,
    pub test: &'static str,
    pub score: f64,
    pub threshold: f64,
    pub drifted: bool,
    /// Why there is no score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The outcome of a table.
#[derive(Debug, Clone, Serialize)]
pub struct TableDrift {
    pub columns: Vec<ColumnDrift>,
    pub share: f64,
    /// At least half of the columns have drifted.
    pub drifted: bool,
}

/// Compares two tables as Evidently's drift preset does. Times are left out.
pub fn evidently(reference: &Source, current: &Source) -> Result<TableDrift> {
    evidently_on(reference, current, &|_| true)
}

/// The same on the columns that are wanted.
///
/// # Errors
/// A wanted column is absent, empty or of another type in one of them; or there is none to compare.
pub fn evidently_on(
    reference: &Source,
    current: &Source,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<TableDrift> {
    let (raw_reference, raw_current) = (values(reference)?, values(current)?);
    let mut columns = Vec::new();
    for (i, field) in reference.fields.iter().enumerate() {
        if matches!(field.kind, Kind::Time | Kind::Other) || !wanted(&field.name) {
            continue;
        }
        let at = current.index(&field.name).ok_or_else(|| {
            Error::data(&current.name, format!("lacks the column {:?} of the reference", field.name))
        })?;
        let found = column(&field.name, field.kind, &raw_reference[i], &raw_current[at]);
        columns.push(found.map_err(|what| Error::data(&current.name, what))?);
    }
    if columns.is_empty() {
        return Err(Error::usage("compat: evidently has no column to compare"));
    }
    let share = columns.iter().filter(|c| c.drifted).count() as f64 / columns.len() as f64;
    Ok(TableDrift { drifted: share >= 0.5, share, columns })
}

/// The finite values of a column.
enum Raw {
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

struct Collect<'a>(&'a Source);

impl Visitor for Collect<'_> {
    type Part = Vec<Raw>;

    fn start(&self, _: usize, _: u64) -> Vec<Raw> {
        Vec::new()
    }

    fn open(&self, part: &mut Vec<Raw>, columns: &[usize], _: u64) {
        part.extend(columns.iter().map(|c| match self.0.fields[*c].kind {
            Kind::Text => Raw::Texts(Vec::new()),
            _ => Raw::Numbers(Vec::new()),
        }));
    }

    fn batch(&self, part: &mut Vec<Raw>, _: usize, batch: &Batch) -> Result<()> {
        for (raw, array) in part.iter_mut().zip(&batch.arrays) {
            match raw {
                Raw::Numbers(out) => {
                    if let Some(bools) = array.as_any().downcast_ref::<BooleanArray>() {
                        out.extend(bools.iter().flatten().map(|b| f64::from(u8::from(b))));
                    } else if let Some(values) = crate::profile::as_floats(array) {
                        out.extend(values.into_iter().flatten().filter(|v| v.is_finite()));
                    }
                }
                Raw::Texts(out) => {
                    let plain = match array.data_type() {
                        arrow::datatypes::DataType::Dictionary(_, value) => {
                            arrow::compute::cast(array, value)
                                .map_err(|e| Error::data(&self.0.name, e.to_string()))?
                        }
                        _ => array.clone(),
                    };
                    if let Some(texts) = plain.as_string_opt::<i32>() {
                        let texts: &StringArray = texts;
                        out.extend(texts.iter().flatten().map(str::to_owned));
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(&self, _: &mut Vec<Raw>, _: usize) -> Result<()> {
        Ok(())
    }
}

fn values(source: &Source) -> Result<Vec<Raw>> {
    let groups: Vec<Vec<usize>> = (0..source.fields.len()).map(|i| vec![i]).collect();
    let mut out: Vec<Option<Raw>> = groups.iter().map(|_| None).collect();
    source.drive(&groups, &Collect(source), &mut |group, mut part| {
        match (&mut out[group], part.pop()) {
            (Some(Raw::Numbers(a)), Some(Raw::Numbers(b))) => a.extend(b),
            (Some(Raw::Texts(a)), Some(Raw::Texts(b))) => a.extend(b),
            (slot, more) => *slot = more.or_else(|| slot.take()),
        }
        Ok(())
    })?;
    Ok(out.into_iter().map(|r| r.unwrap_or(Raw::Numbers(Vec::new()))).collect())
}

fn column(
    name: &str,
    kind: Kind,
    reference: &Raw,
    current: &Raw,
) -> std::result::Result<ColumnDrift, String> {
    let empty = || format!("compat: evidently refuses the column {name:?}: one side has no values");
    match (reference, current) {
        (Raw::Numbers(r), Raw::Numbers(c)) => {
            if r.is_empty() || c.is_empty() {
                return Err(empty());
            }
            let counts = counted(r.iter().map(|v| Key::number(*v)), c.iter().map(|v| Key::number(*v)));
            let categorical = kind == Kind::Bool
                || (kind == Kind::Int && distinct(r.iter().map(|v| Key::number(*v))) <= 10);
            if categorical {
                return Ok(by_counts(name, "cat", r.len(), &counts));
            }
            if counts.len() <= 5 {
                return Ok(by_counts(name, "num", r.len(), &counts));
            }
            if r.len() <= 1000 {
                let p = stats::ks_two_sample(r, c).map_or(f64::NAN, |k| k.p);
                return Ok(outcome(name, "num", "K-S p_value", p, 0.05, p <= 0.05));
            }
            let spread = stats::variance(r, 0).sqrt().max(0.001);
            let d = stats::wasserstein(r, c) / spread;
            Ok(outcome(name, "num", "Wasserstein distance (normed)", d, 0.1, d >= 0.1))
        }
        (Raw::Texts(r), Raw::Texts(c)) => {
            if r.is_empty() || c.is_empty() {
                return Err(empty());
            }
            let counts = counted(r.iter().map(|v| Key::text(v)), c.iter().map(|v| Key::text(v)));
            if distinct(r.iter().map(|v| Key::text(v))) as f64 > 0.5 * r.len() as f64 {
                let mut out = outcome(name, "text", "domain classifier", f64::NAN, 0.55, false);
                out.reason = Some("free text is not compared: Evidently trains a classifier for it".into());
                return Ok(out);
            }
            Ok(by_counts(name, "cat", r.len(), &counts))
        }
        _ => Err(format!("compat: evidently cannot compare the column {name:?}: its type has changed")),
    }
}

/// A value by which counts are made; ordered as Python orders the values.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    /// The bits of a number in an order that is the numbers' own.
    Number(u64),
    Text(&'a str),
}

impl<'a> Key<'a> {
    fn number(x: f64) -> Self {
        let bits = (x + 0.0).to_bits();
        Self::Number(if bits >> 63 == 1 { !bits } else { bits | (1 << 63) })
    }

    fn text(x: &'a str) -> Self {
        Self::Text(x)
    }
}

fn distinct<'a>(values: impl Iterator<Item = Key<'a>>) -> usize {
    values.collect::<std::collections::BTreeSet<_>>().len()
}

fn counted<'a>(
    reference: impl Iterator<Item = Key<'a>>,
    current: impl Iterator<Item = Key<'a>>,
) -> Vec<(u64, u64)> {
    let mut counts: BTreeMap<Key<'a>, (u64, u64)> = BTreeMap::new();
    reference.for_each(|k| counts.entry(k).or_default().0 += 1);
    current.for_each(|k| counts.entry(k).or_default().1 += 1);
    counts.into_values().collect()
}

fn by_counts(name: &str, kind: &'static str, n: usize, counts: &[(u64, u64)]) -> ColumnDrift {
    let (r, c): (Vec<u64>, Vec<u64>) = counts.iter().copied().unzip();
    let (total_r, total_c) = (r.iter().sum::<u64>(), c.iter().sum::<u64>());
    if n > 1000 {
        let d = stats::js_distance(&r, &c);
        return outcome(name, kind, "Jensen-Shannon distance", d, 0.1, d >= 0.1);
    }
    if counts.len() > 2 {
        let scale = total_c as f64 / total_r as f64;
        let expected: Vec<f64> = r.iter().map(|x| *x as f64 * scale).collect();
        let seen: Vec<f64> = c.iter().map(|x| *x as f64).collect();
        let p = stats::chi_square_fit(&seen, &expected).p;
        return outcome(name, kind, "chi-square p_value", p, 0.05, p < 0.05);
    }
    let (_, p) = stats::two_proportion_z(total_r - r[0], total_r, total_c - c[0], total_c);
    outcome(name, kind, "Z-test p_value", p, 0.05, p < 0.05)
}

fn outcome(
    name: &str,
    kind: &'static str,
    test: &'static str,
    score: f64,
    threshold: f64,
    drifted: bool,
) -> ColumnDrift {
    ColumnDrift { column: name.to_owned(), kind, test, score, threshold, drifted, reason: None }
}
