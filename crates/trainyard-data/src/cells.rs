//! Cells of a few columns, row by row in the order of the file: for predictions, not for whole tables.

use arrow::array::{Array, ArrayRef, BooleanArray, DictionaryArray, StringArray};
use arrow::datatypes::Int32Type;

use crate::error::{Error, Result};
use crate::profile::as_floats;
use crate::source::{Batch, Source, Visitor};

/// The most text of a column in a batch.
const LARGEST: u64 = 1 << 30;

/// One column's cells; `None` where null or unreadable.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells {
    /// Integers, floats, times (microseconds) and booleans (0 and 1).
    Numbers(Vec<Option<f64>>),
    Texts(Vec<Option<String>>),
}

impl Cells {
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(cells) => cells.len(),
            Self::Texts(cells) => cells.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Numbers(mine), Self::Numbers(theirs)) => mine.extend(theirs),
            (Self::Texts(mine), Self::Texts(theirs)) => mine.extend(theirs),
            // A column has one kind; a file whose parts differ has nothing to say there.
            (Self::Numbers(mine), Self::Texts(theirs)) => mine.extend(theirs.iter().map(|_| None)),
            (Self::Texts(mine), Self::Numbers(theirs)) => mine.extend(theirs.iter().map(|_| None)),
        }
    }
}

/// The named columns, in the order of `names`.
///
/// # Errors
/// A column that is absent or of a nested type, more than `max_rows` rows, or what the source says.
pub fn read(source: &Source, names: &[&str], max_rows: u64) -> Result<Vec<Cells>> {
    let columns: Vec<usize> = names
        .iter()
        .map(|name| {
            source.index(name).ok_or_else(|| {
                Error::data(&source.name, format!("there is no column {:?}", crate::findings::shown(name)))
            })
        })
        .collect::<Result<_>>()?;
    let pass = Pass { file: source.name.clone(), columns: columns.len() };
    let mut out: Vec<Option<Cells>> = vec![None; columns.len()];
    let mut rows = 0;
    let mut absorb = |_: usize, part: Vec<Cells>| -> Result<()> {
        rows += part.first().map_or(0, Cells::len) as u64;
        if rows > max_rows {
            return Err(Error::data(&source.name, format!("has more than {max_rows} rows")));
        }
        for (mine, theirs) in out.iter_mut().zip(part) {
            match mine {
                Some(mine) => mine.append(theirs),
                None => *mine = Some(theirs),
            }
        }
        Ok(())
    };
    source.drive(&[columns], &pass, &mut absorb)?;
    Ok(out.into_iter().map(|cells| cells.unwrap_or(Cells::Numbers(Vec::new()))).collect())
}

struct Pass {
    file: String,
    columns: usize,
}

impl Visitor for Pass {
    type Part = Vec<Cells>;

    fn start(&self, _: usize, _: u64) -> Self::Part {
        Vec::with_capacity(self.columns)
    }

    fn open(&self, _: &mut Self::Part, _: &[usize], _: u64) {}

    fn batch(&self, part: &mut Self::Part, _: usize, batch: &Batch) -> Result<()> {
        for (i, array) in batch.arrays.iter().enumerate() {
            if text_of(array) > LARGEST {
                return Err(Error::data(&self.file, "has more text in a batch than is read here (1 GiB)"));
            }
            let cells = cells(array).ok_or_else(|| {
                Error::data(&self.file, format!("cells of type {} cannot be read here", array.data_type()))
            })?;
            match part.get_mut(i) {
                Some(mine) => mine.append(cells),
                None => part.push(cells),
            }
        }
        Ok(())
    }

    fn finish(&self, _: &mut Self::Part, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Bytes of all texts, each as often as it occurs.
fn text_of(array: &ArrayRef) -> u64 {
    let entries = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>();
    let texts = entries.and_then(DictionaryArray::downcast_dict::<StringArray>);
    texts.map_or(0, |texts| texts.into_iter().flatten().map(|text| text.len() as u64).sum())
}

fn cells(array: &ArrayRef) -> Option<Cells> {
    if let Some(numbers) = as_floats(array) {
        return Some(Cells::Numbers(numbers));
    }
    if let Some(bools) = array.as_any().downcast_ref::<BooleanArray>() {
        return Some(Cells::Numbers(bools.iter().map(|b| b.map(f64::from)).collect()));
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    if let Some(entries) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
        let texts = entries.downcast_dict::<StringArray>()?;
        return Some(Cells::Texts(texts.into_iter().map(owned).collect()));
    }
    Some(Cells::Texts(array.as_any().downcast_ref::<StringArray>()?.iter().map(owned).collect()))
}
