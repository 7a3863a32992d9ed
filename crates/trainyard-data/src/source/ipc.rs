//! Arrow IPC, file and stream form.

use std::io::{BufReader, Cursor};
use std::ops::Range;

use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::record_batch::RecordBatch;

use super::drive::Batch;
use super::{Form, Location, canonical, guarded};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

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

fn file_reader(location: &Location) -> Result<FileReader<Cursor<bytes::Bytes>>> {
    if location.size > LARGEST {
        return Err(Error::usage(format!("{}: is over 4 GiB; write it as Parquet", location.name)));
    }
    let bytes = location.read(0, location.size as usize)?;
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
        let reader = StreamReader::try_new(BufReader::new(location.reader(0)), None)
            .map_err(|e| failed(&location.name, &e))?;
        let fields = fields(&reader.schema());
        Ok((Form::ArrowStream { columns: (0..fields.len()).collect() }, fields))
    })
}

fn hand_over(
    name: &str,
    batch: &RecordBatch,
    columns: &[usize],
    fields: &[Field],
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
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
        hand_over(&location.name, &batch.map_err(|e| failed(&location.name, &e))?, columns, fields, feed)?;
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
        hand_over(&location.name, &batch.map_err(|e| failed(&location.name, &e))?, columns, fields, feed)?;
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
            hand_over(&location.name, batch, columns, fields, &mut |batch| {
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
