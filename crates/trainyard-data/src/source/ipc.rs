//! Arrow IPC, file and stream form.

use std::io::{BufReader, Cursor};
use std::ops::Range;

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::{FileReader, StreamReader, read_footer_length};
use arrow::ipc::{root_as_footer, root_as_message};
use arrow::record_batch::RecordBatch;

use super::drive::Batch;
use super::{Form, Location, canonical, guarded};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// Rows of a batch that a file of any size may hold: a column of nothing takes no bytes.
const ROWS_ANYWAY: u64 = 1 << 24;
/// The largest file that is read whole, which the file form needs.
const LARGEST: u64 = 4 << 30;

fn failed(name: &str, error: &arrow::error::ArrowError) -> Error {
    Error::data(name, format!("is not readable as Arrow IPC: {error}"))
}

fn fields(schema: &SchemaRef) -> Vec<Field> {
    schema
        .fields()
        .iter()
        .map(|f| Field {
            name: f.name().clone(),
            kind: Kind::of(f.data_type()),
            physical: f.data_type().to_string(),
        })
        .collect()
}

fn outside(name: &str) -> Error {
    Error::data(name, "is not readable as Arrow IPC: a part of it claims to lie outside of the file")
}

/// Refuses a file whose footer names parts that are not in it: the reader makes room for a part before it reads it.
fn check_blocks(name: &str, bytes: &[u8]) -> Result<()> {
    let size = bytes.len();
    // What is no footer at all is for the reader to say.
    let Some(end) = bytes.last_chunk::<10>() else { return Ok(()) };
    let Ok(length) = read_footer_length(*end) else { return Ok(()) };
    let Some(from) = size.checked_sub(10).and_then(|n| n.checked_sub(length)) else {
        return Err(outside(name));
    };
    let Ok(footer) = root_as_footer(&bytes[from..size - 10]) else { return Ok(()) };
    let blocks = footer.recordBatches().into_iter().chain(footer.dictionaries()).flatten();
    for block in blocks {
        let parts = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
        let end = parts.iter().try_fold(0_i64, |sum, part| sum.checked_add(*part).filter(|_| *part >= 0));
        if end.is_none_or(|end| end as u64 > size as u64) {
            return Err(outside(name));
        }
    }
    Ok(())
}

/// The same for a stream: walks from message to message and reads their heads alone.
fn check_messages(location: &Location) -> Result<()> {
    let mut at = 0_u64;
    loop {
        let word = |at: u64| -> Result<Option<i32>> {
            if location.size.saturating_sub(at) < 4 {
                return Ok(None);
            }
            Ok(location.read(at, 4)?.first_chunk::<4>().map(|word| i32::from_le_bytes(*word)))
        };
        // Since version 0.15 a marker of all ones stands before the length.
        let mut length = word(at)?;
        at += 4;
        if length == Some(-1) {
            length = word(at)?;
            at += 4;
        }
        let Some(length) = length.filter(|length| *length != 0) else { return Ok(()) };
        let left = location.size.saturating_sub(at);
        let Some(length) = u64::try_from(length).ok().filter(|length| *length <= left) else {
            return Err(outside(&location.name));
        };
        let head = location.read(at, length as usize)?;
        // What is no message is for the reader to say.
        let Ok(message) = root_as_message(&head) else { return Ok(()) };
        let body = u64::try_from(message.bodyLength()).ok().filter(|body| *body <= left - length);
        at += length + body.ok_or_else(|| outside(&location.name))?;
    }
}

fn file_reader(location: &Location) -> Result<FileReader<Cursor<bytes::Bytes>>> {
    if location.size > LARGEST {
        return Err(Error::usage(format!("{}: is over 4 GiB; write it as Parquet", location.name)));
    }
    let bytes = location.read(0, location.size as usize)?;
    check_blocks(&location.name, &bytes)?;
    FileReader::try_new(Cursor::new(bytes), None).map_err(|e| failed(&location.name, &e))
}

pub fn open(location: &Location, file_form: bool) -> Result<(Form, Vec<Field>)> {
    guarded(&location.name, "its header", || {
        if file_form {
            let reader = file_reader(location)?;
            let fields = fields(&reader.schema());
            let columns = (0..fields.len()).collect();
            return Ok((Form::ArrowFile { columns, batches: reader.num_batches() }, fields));
        }
        check_messages(location)?;
        let reader = StreamReader::try_new(BufReader::new(location.reader(0)), None)
            .map_err(|e| failed(&location.name, &e))?;
        let fields = fields(&reader.schema());
        Ok((Form::ArrowStream { columns: (0..fields.len()).collect() }, fields))
    })
}

fn hand_over(
    location: &Location,
    batch: &RecordBatch,
    columns: &[usize],
    fields: &[Field],
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let name = &location.name;
    if batch.num_rows() as u64 > location.size.saturating_mul(8).max(ROWS_ANYWAY) {
        return Err(Error::data(
            name,
            format!("claims a batch of {} rows, more than its bytes can hold", batch.num_rows()),
        ));
    }
    let arrays = columns
        .iter()
        .zip(fields)
        .map(|(at, field)| canonical(name, batch.column(*at), field))
        .collect::<Result<_>>()?;
    feed(Batch { arrays, rows: batch.num_rows(), invalid: vec![0; fields.len()] })
}

pub fn read_file(
    location: &Location,
    columns: &[usize],
    fields: &[Field],
    batches: Range<usize>,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut reader = file_reader(location)?;
    reader.set_index(batches.start).map_err(|e| failed(&location.name, &e))?;
    for batch in reader.take(batches.len()) {
        hand_over(location, &batch.map_err(|e| failed(&location.name, &e))?, columns, fields, feed)?;
    }
    Ok(())
}

pub fn read_stream(
    location: &Location,
    columns: &[usize],
    fields: &[Field],
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let reader = StreamReader::try_new(BufReader::new(location.reader(0)), None)
        .map_err(|e| failed(&location.name, &e))?;
    for batch in reader {
        hand_over(location, &batch.map_err(|e| failed(&location.name, &e))?, columns, fields, feed)?;
    }
    Ok(())
}

/// Numbers of the first batches.
pub fn sample(
    location: &Location,
    columns: &[usize],
    fields: &[Field],
    file_form: bool,
    out: &mut [Vec<f64>],
) -> Result<()> {
    guarded(&location.name, "its content", || {
        let mut take = |batch: &RecordBatch| -> Result<()> {
            hand_over(location, batch, columns, fields, &mut |batch| {
                for (i, array) in batch.arrays.iter().enumerate() {
                    if fields[i].kind.is_numeric()
                        && let Some(values) = crate::profile::as_floats(array)
                    {
                        out[i].extend(values.into_iter().flatten().filter(|v| v.is_finite()));
                    }
                }
                Ok(())
            })
        };
        if file_form {
            let reader = file_reader(location)?;
            for batch in reader.take(64) {
                take(&batch.map_err(|e| failed(&location.name, &e))?)?;
            }
        } else {
            let reader = StreamReader::try_new(BufReader::new(location.reader(0)), None)
                .map_err(|e| failed(&location.name, &e))?;
            for batch in reader.take(64) {
                take(&batch.map_err(|e| failed(&location.name, &e))?)?;
            }
        }
        Ok(())
    })
}
