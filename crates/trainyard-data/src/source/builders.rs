//! Columns built from text, cell by cell.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};

use super::drive::{Batch, Defects};
use super::time;
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// Rows of a batch.
pub const ROWS: usize = 8192;
/// Bytes of text in a batch, beyond which it ends early: string arrays are limited to 2 GiB.
pub const TEXT: usize = 64 << 20;

/// Cells of a batch, beyond which it ends early: wide tables need no long ones.
const CELLS: usize = 1 << 20;

/// Counts cells that records lack. A file of short lines under a header of many columns is refused: each of its bytes
/// would be made into thousands of nulls.
pub struct Padding<'a> {
    name: &'a str,
    left: u64,
}

impl<'a> Padding<'a> {
    /// For a block of records.
    pub fn of(name: &'a str, bytes: &[u8]) -> Self {
        Self { name, left: (8 << 20) + 100 * bytes.len() as u64 }
    }

    pub fn add(&mut self, cells: usize) -> Result<()> {
        self.left = self.left.checked_sub(cells as u64).ok_or_else(|| {
            Error::data(
                self.name,
                "has too many records that lack nearly all of its columns; is its first line right?",
            )
        })?;
        Ok(())
    }
}

pub enum Column {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Time(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
}

pub struct Columns {
    cells: Vec<Column>,
    invalid: Vec<u64>,
    pub rows: usize,
    pub text: usize,
}

/// How a cell came out.
enum Cell {
    Good,
    Unparsed,
    Wider,
    NotUtf8,
}

impl Columns {
    pub fn new(fields: &[Field]) -> Self {
        // Little for each of very many columns.
        let rows = (CELLS / fields.len().max(1)).clamp(1, 1024);
        let cells = fields
            .iter()
            .map(|f| match f.kind {
                Kind::Bool => Column::Bool(BooleanBuilder::with_capacity(rows)),
                Kind::Int => Column::Int(Int64Builder::with_capacity(rows)),
                Kind::Time => Column::Time(Int64Builder::with_capacity(rows)),
                Kind::Float => Column::Float(Float64Builder::with_capacity(rows)),
                Kind::Text | Kind::Other => Column::Text(StringBuilder::with_capacity(rows, rows)),
            })
            .collect();
        Self { cells, invalid: vec![0; fields.len()], rows: 0, text: 0 }
    }

    /// Adds a cell of text; `None` and what says "no value" are null.
    pub fn push(&mut self, column: usize, cell: Option<&[u8]>, defects: &mut Defects) {
        let Some(cell) = cell.filter(|c| !c.is_empty()) else {
            self.push_null(column);
            return;
        };
        let outcome = match &mut self.cells[column] {
            Column::Text(b) => match std::str::from_utf8(cell) {
                Ok(text) => {
                    self.text += text.len();
                    b.append_value(text);
                    Cell::Good
                }
                Err(_) => Cell::NotUtf8,
            },
            _ if is_absent(cell) => {
                self.push_null(column);
                return;
            }
            Column::Int(b) => match integer(cell) {
                Some(x) => {
                    defects.padded[column] += u64::from(is_padded(cell));
                    b.append_value(x);
                    Cell::Good
                }
                None if float(cell).is_some() => Cell::Wider,
                None => Cell::Unparsed,
            },
            Column::Float(b) => float(cell).map_or(Cell::Unparsed, |x| {
                defects.padded[column] += u64::from(is_padded(cell));
                b.append_value(x);
                Cell::Good
            }),
            Column::Time(b) => time::parse(cell).map_or(Cell::Unparsed, |x| {
                b.append_value(x);
                Cell::Good
            }),
            Column::Bool(b) => boolean(cell).map_or(Cell::Unparsed, |x| {
                b.append_value(x);
                Cell::Good
            }),
        };
        match outcome {
            Cell::Good => return,
            Cell::NotUtf8 => defects.not_utf8[column] += 1,
            Cell::Unparsed => {
                defects.unparsed[column] += 1;
                defects.example(column, cell);
            }
            Cell::Wider => defects.wider[column] += 1,
        }
        self.invalid[column] += 1;
        self.push_null(column);
    }

    fn push_null(&mut self, column: usize) {
        match &mut self.cells[column] {
            Column::Bool(b) => b.append_null(),
            Column::Int(b) | Column::Time(b) => b.append_null(),
            Column::Float(b) => b.append_null(),
            Column::Text(b) => b.append_null(),
        }
    }

    pub fn end_row(&mut self) -> bool {
        self.rows += 1;
        self.rows >= ROWS || self.text >= TEXT || self.rows * self.cells.len() >= CELLS
    }

    pub fn finish(&mut self) -> Batch {
        let arrays = self
            .cells
            .iter_mut()
            .map(|c| -> ArrayRef {
                match c {
                    Column::Bool(b) => Arc::new(b.finish()),
                    Column::Int(b) | Column::Time(b) => Arc::new(b.finish()),
                    Column::Float(b) => Arc::new(b.finish()),
                    Column::Text(b) => Arc::new(b.finish()),
                }
            })
            .collect();
        let invalid = std::mem::replace(&mut self.invalid, vec![0; self.cells.len()]);
        self.text = 0;
        Batch { arrays, rows: std::mem::take(&mut self.rows), invalid }
    }
}

/// What stands for "no value" in columns that are not text (in text, only the empty cell does).
fn is_absent(cell: &[u8]) -> bool {
    matches!(cell, b"NA" | b"N/A" | b"null" | b"NULL" | b"None" | b"#N/A")
}

/// Whether a number has a zero in front that says nothing: what has, is a code or a name.
fn is_padded(cell: &[u8]) -> bool {
    let digits = cell.strip_prefix(b"-").unwrap_or(cell);
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

pub fn integer(cell: &[u8]) -> Option<i64> {
    let (negative, digits) = match cell {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, cell),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value = 0_i64;
    for b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        // Towards the negative side, which holds one more.
        value = value.checked_mul(10)?.checked_sub(i64::from(d))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

pub fn float(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

pub fn boolean(cell: &[u8]) -> Option<bool> {
    match cell {
        b"true" | b"True" | b"TRUE" => Some(true),
        b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

/// Whether a cell is null or reads as the kind.
pub fn fits(kind: Kind, cell: &[u8]) -> bool {
    cell.is_empty()
        || is_absent(cell)
        || match kind {
            Kind::Bool => boolean(cell).is_some(),
            Kind::Int => integer(cell).is_some(),
            Kind::Float => float(cell).is_some(),
            Kind::Time => time::parse(cell).is_some(),
            Kind::Text | Kind::Other => true,
        }
}

/// Finds the narrowest kind that the cells of a sample have. One in twenty may be of another kind: a few words among
/// numbers are a finding about the words, not a column of text.
#[derive(Clone, Copy, Default)]
pub struct Guess {
    seen: u64,
    not_bool: u64,
    not_int: u64,
    not_float: u64,
    not_time: u64,
    padded: u64,
}

impl Guess {
    pub fn see(&mut self, cell: &[u8]) {
        if cell.is_empty() || is_absent(cell) {
            return;
        }
        self.seen += 1;
        self.padded += u64::from(is_padded(cell));
        // What has failed too often to come back is not tried again.
        let fails = |failed: &mut u64, fits: &dyn Fn() -> bool| {
            if *failed < 1_000_000 && !fits() {
                *failed += 1;
            }
        };
        fails(&mut self.not_bool, &|| boolean(cell).is_some());
        fails(&mut self.not_int, &|| integer(cell).is_some());
        fails(&mut self.not_float, &|| float(cell).is_some());
        fails(&mut self.not_time, &|| time::parse(cell).is_some());
    }

    /// The kind, if `declared` does not say it: it does where nearly all cells can be read as that.
    pub fn kind(self, declared: Option<Kind>) -> Kind {
        let nearly = |failed: u64| failed * 20 <= self.seen;
        match declared {
            Some(Kind::Text) => return Kind::Text,
            Some(Kind::Bool) if nearly(self.not_bool) => return Kind::Bool,
            Some(Kind::Int) if nearly(self.not_int) => return Kind::Int,
            // Integers are floats too, and stay what they are.
            Some(Kind::Float) if self.seen > 0 && self.not_int == 0 => return Kind::Int,
            Some(Kind::Float) if nearly(self.not_float) => return Kind::Float,
            Some(Kind::Time) if nearly(self.not_time) => return Kind::Time,
            _ => {}
        }
        match self {
            Self { seen: 0, .. } => Kind::Text,
            Self { not_bool: 0, .. } => Kind::Bool,
            Self { padded: 1.., not_time: 1.., not_float, .. } if nearly(not_float) => Kind::Text,
            Self { not_int: 0, .. } => Kind::Int,
            Self { not_float: 0, .. } => Kind::Float,
            Self { not_time: 0, .. } => Kind::Time,
            // Integers and words: integers. Integers, fractions and words: floats.
            Self { not_int, not_float, .. } if nearly(not_float) => {
                if not_int == not_float {
                    Kind::Int
                } else {
                    Kind::Float
                }
            }
            Self { not_time, .. } if nearly(not_time) => Kind::Time,
            _ => Kind::Text,
        }
    }
}
