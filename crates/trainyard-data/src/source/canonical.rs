//! Columns in the types of their kinds, in batches of bounded size.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};

use super::builders::TEXT;
use super::drive::Batch;
use super::refuse_bomb;
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// The most bytes of the texts that a dictionary holds.
const LARGEST_DICTIONARY: u64 = 1 << 30;

/// Hands `rows` of columns over, of a part of a file that holds `held` bytes. Texts that share bytes, as views and
/// entries of dictionaries do, are of any size once they stand alone: they come in several batches, or are refused.
pub fn hand_over(
    name: &str,
    held: u64,
    columns: &[(&ArrayRef, &Field)],
    rows: usize,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut texts = 0;
    for (array, field) in columns {
        let what = || format!("column {:?}", field.name);
        if let Some(dictionary) = array.as_any_dictionary_opt() {
            let bytes = bytes_of(dictionary.values());
            refuse_bomb(name, &what(), held, bytes, LARGEST_DICTIONARY, "dictionaries")?;
        }
        let bytes = bytes_of(array);
        refuse_bomb(name, &what(), held, bytes, u64::MAX, "batches")?;
        texts += bytes;
    }
    let mut from = 0;
    for to in ends(columns, texts, rows) {
        let mut invalid = Vec::with_capacity(columns.len());
        let mut arrays = Vec::with_capacity(columns.len());
        for (array, field) in columns {
            let part = if to - from < rows { &array.slice(from, to - from) } else { *array };
            let (array, unread) = canonical(name, part, field)?;
            arrays.push(array);
            invalid.push(unread);
        }
        feed(Batch { arrays, rows: to - from, invalid })?;
        from = to;
    }
    Ok(())
}

/// Where batches end, so that each holds about 64 MiB of text at most.
fn ends(columns: &[(&ArrayRef, &Field)], texts: u64, rows: usize) -> Vec<usize> {
    if texts <= TEXT as u64 {
        return vec![rows];
    }
    let mut of_rows = vec![0; rows];
    for (array, _) in columns {
        each_length(array, &mut |row, length| of_rows[row] += length);
    }
    let (mut ends, mut sum) = (Vec::new(), 0);
    for (row, bytes) in of_rows.into_iter().enumerate() {
        if sum > 0 && sum + bytes > TEXT as u64 {
            ends.push(row);
            sum = 0;
        }
        sum += bytes;
    }
    ends.push(rows);
    ends
}

/// Bytes that an array of shared or long texts takes once each stands alone.
fn bytes_of(array: &ArrayRef) -> u64 {
    let mut sum = 0;
    each_length(array, &mut |_, length| sum += length);
    sum
}

fn each_length(array: &ArrayRef, see: &mut dyn FnMut(usize, u64)) {
    // The length is the low half of the low word of a view.
    let view = |(row, view): (usize, &u128)| (row, u64::from(*view as u32));
    match array.data_type() {
        DataType::Utf8View => {
            array.as_string_view().views().iter().enumerate().map(view).for_each(|(row, n)| see(row, n));
        }
        DataType::BinaryView => {
            array.as_binary_view().views().iter().enumerate().map(view).for_each(|(row, n)| see(row, n));
        }
        DataType::LargeUtf8 => {
            let offsets = array.as_string::<i64>().value_offsets();
            offsets.windows(2).enumerate().for_each(|(row, w)| see(row, (w[1] - w[0]) as u64));
        }
        _ => {}
    }
}

/// A column in its canonical type, and how many of its cells that type has no value for.
pub fn canonical(name: &str, array: &ArrayRef, field: &Field) -> Result<(ArrayRef, u64)> {
    let have = array.data_type();
    let want = field.kind.canonical(have);
    if *have == want {
        return Ok((Arc::clone(array), 0));
    }
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let steps: &[DataType] = if field.kind == Kind::Time { &[micros, want] } else { &[want] };
    let mut out = Arc::clone(array);
    for step in steps {
        out = cast(&out, step).map_err(|e| {
            Error::data(name, format!("column {:?} cannot be read as {}: {e}", field.name, field.kind))
        })?;
    }
    let unread = out.logical_null_count().saturating_sub(array.logical_null_count());
    Ok((out, unread as u64))
}
