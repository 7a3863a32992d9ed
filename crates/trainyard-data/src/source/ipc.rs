//! Arrow IPC, file and stream form, message by message: of a file's batches one is held at a time.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{read_dictionary, read_footer_length, read_record_batch};
use arrow::ipc::{Block, Message, root_as_footer, root_as_message};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::canonical::hand_over;
use super::drive::Batch;
use super::location::Reader;
use super::{Form, Location, guarded};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// Rows of a batch that a file of any size may hold: a column of nothing takes no bytes.
const ROWS_ANYWAY: u64 = 1 << 24;
/// The most bytes, unpacked, of a batch, and of all dictionaries together.
const LARGEST: u64 = 4 << 30;

fn failed(name: &str, error: impl std::fmt::Display) -> Error {
    Error::data(name, format!("is not readable as Arrow IPC: {error}"))
}

fn outside(name: &str) -> Error {
    failed(name, "a part of it claims to lie outside of the file")
}

/// A length that is not longer than what is left. The reader makes room for a part before it reads it.
fn within(name: &str, length: i64, left: u64) -> Result<usize> {
    let length = u64::try_from(length).ok().filter(|length| *length <= left).ok_or_else(|| outside(name))?;
    refuse_bomb(name, "a message", length, length)?;
    Ok(length as usize)
}

fn refuse_bomb(name: &str, what: &str, packed: u64, unpacked: u64) -> Result<()> {
    super::refuse_bomb(name, what, packed, unpacked, LARGEST, "batches")
}

fn schema_of(name: &str, schema: Option<arrow::ipc::Schema>) -> Result<SchemaRef> {
    let schema = schema.ok_or_else(|| failed(name, "it holds no schema"))?;
    if !schema.endianness().equals_to_target_endianness() {
        return Err(failed(name, "its numbers are of the other byte order"));
    }
    Ok(Arc::new(try_fb_to_schema(schema).map_err(|e| failed(name, e))?))
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

/// What batches are decoded with.
struct Decoder {
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Bytes of each dictionary, unpacked.
    held: HashMap<i64, u64>,
}

/// A batch, and the bytes that it holds.
type Decoded = (RecordBatch, u64);

impl Decoder {
    fn new(schema: SchemaRef) -> Self {
        Self { schema, dictionaries: HashMap::new(), held: HashMap::new() }
    }

    /// Takes a dictionary; whether the message holds one. `size` is the file's.
    fn dictionary(&mut self, name: &str, size: u64, message: &Message, body: &Buffer) -> Result<bool> {
        let Some(dictionary) = message.header_as_dictionary_batch() else { return Ok(false) };
        let data = dictionary.data().ok_or_else(|| failed(name, "a dictionary is empty"))?;
        let bytes = held(name, &data, body)?;
        let held = self.held.entry(dictionary.id()).or_default();
        *held = bytes + if dictionary.isDelta() { *held } else { 0 };
        refuse_bomb(name, "its dictionaries", size, self.held.values().sum())?;
        read_dictionary(body, dictionary, &self.schema, &mut self.dictionaries, &message.version())
            .map_err(|e| failed(name, e))?;
        Ok(true)
    }

    fn batch(&self, name: &str, message: &Message, body: &Buffer) -> Result<Decoded> {
        let batch =
            message.header_as_record_batch().ok_or_else(|| failed(name, "a message is no batch of rows"))?;
        let held = held(name, &batch, body)?;
        let schema = Arc::clone(&self.schema);
        read_record_batch(body, batch, schema, &self.dictionaries, None, &message.version())
            .map(|batch| (batch, held))
            .map_err(|e| failed(name, e))
    }
}

/// Bytes that a batch holds once it is unpacked. Each packed buffer begins with the length that it unpacks to, as the
/// format's description of `BodyCompression` says; -1 stands before one that is not packed.
fn held(name: &str, batch: &arrow::ipc::RecordBatch, body: &[u8]) -> Result<u64> {
    let packed = body.len() as u64;
    let mut held = packed;
    if batch.compression().is_some() {
        for buffer in batch.buffers().into_iter().flatten().filter(|buffer| buffer.length() != 0) {
            let at = usize::try_from(buffer.offset()).ok();
            let claim = at.and_then(|at| body.get(at..)?.first_chunk::<8>()).ok_or_else(|| outside(name))?;
            held = held.saturating_add(u64::try_from(i64::from_le_bytes(*claim)).unwrap_or(0));
        }
    }
    refuse_bomb(name, "a batch", packed, held)?;
    Ok(held)
}

/// The file form: a footer says where the parts lie.
pub struct File {
    decoder: Decoder,
    pub batches: Vec<Block>,
}

impl File {
    fn open(location: &Location) -> Result<Self> {
        let name = &location.name;
        let end = location.read_up_to(location.size.saturating_sub(10), 10)?;
        let end = end.first_chunk::<10>().ok_or_else(|| failed(name, "it is too short"))?;
        let length = read_footer_length(*end).map_err(|e| failed(name, e))?;
        let from = (location.size - 10).checked_sub(length as u64).ok_or_else(|| outside(name))?;
        let footer = location.read(from, length)?;
        let footer = root_as_footer(&footer).map_err(|e| failed(name, e))?;
        let mut decoder = Decoder::new(schema_of(name, footer.schema())?);
        for block in footer.dictionaries().into_iter().flatten() {
            let (head, body) = message_at(location, block)?;
            let message = root_as_message(&head).map_err(|e| failed(name, e))?;
            if !decoder.dictionary(name, location.size, &message, &body)? {
                return Err(failed(name, "a message is no dictionary"));
            }
        }
        Ok(Self { decoder, batches: footer.recordBatches().into_iter().flatten().copied().collect() })
    }

    fn read<'a>(
        &'a self,
        location: &'a Location,
        range: Range<usize>,
    ) -> impl Iterator<Item = Result<Decoded>> + 'a {
        self.batches[range].iter().map(|block| {
            let (head, body) = message_at(location, block)?;
            let message = root_as_message(&head).map_err(|e| failed(&location.name, e))?;
            self.decoder.batch(&location.name, &message, &body)
        })
    }
}

/// Head and body of a message of the file form.
fn message_at(location: &Location, block: &Block) -> Result<(Bytes, Buffer)> {
    let name = &location.name;
    let from = u64::try_from(block.offset()).unwrap_or(u64::MAX);
    let left = location.size.checked_sub(from).ok_or_else(|| outside(name))?;
    let head = within(name, i64::from(block.metaDataLength()), left)?;
    let body = within(name, block.bodyLength(), left - head as u64)?;
    let bytes = location.read(from, head + body)?;
    // Since version 0.15 a marker of all ones stands before the head's length.
    let prefix = if bytes.starts_with(&[0xff; 4]) { 8 } else { 4 };
    if prefix > head {
        return Err(failed(name, "the head of a message is too short"));
    }
    Ok((bytes.slice(prefix..head), Buffer::from(bytes.slice(head..))))
}

/// The stream form: one message after the other.
struct Stream<'a> {
    location: &'a Location,
    reader: Reader,
    left: u64,
    decoder: Decoder,
}

impl<'a> Stream<'a> {
    fn open(location: &'a Location) -> Result<Self> {
        let name = &location.name;
        let mut reader = location.reader(0);
        let mut left = location.size;
        let head = head(name, &mut reader, &mut left)?.ok_or_else(|| failed(name, "it is empty"))?;
        let message = root_as_message(&head).map_err(|e| failed(name, e))?;
        let decoder = Decoder::new(schema_of(name, message.header_as_schema())?);
        let mut stream = Self { location, reader, left, decoder };
        stream.body(&message)?;
        Ok(stream)
    }

    fn body(&mut self, message: &Message) -> Result<Buffer> {
        let length = within(&self.location.name, message.bodyLength(), self.left)?;
        Ok(Buffer::from_vec(bytes(&self.location.name, &mut self.reader, &mut self.left, length)?))
    }

    fn read(&mut self) -> Result<Option<Decoded>> {
        let name = &self.location.name;
        while let Some(head) = head(name, &mut self.reader, &mut self.left)? {
            let message = root_as_message(&head).map_err(|e| failed(name, e))?;
            let body = self.body(&message)?;
            if !self.decoder.dictionary(name, self.location.size, &message, &body)? {
                return self.decoder.batch(name, &message, &body).map(Some);
            }
        }
        Ok(None)
    }

    /// Passes over a number of batches, not over the dictionaries between them; how many there were.
    fn pass(&mut self, batches: usize) -> Result<usize> {
        let name = &self.location.name;
        for passed in 0..batches {
            loop {
                let Some(head) = head(name, &mut self.reader, &mut self.left)? else { return Ok(passed) };
                let message = root_as_message(&head).map_err(|e| failed(name, e))?;
                if message.header_as_record_batch().is_none() {
                    let body = self.body(&message)?;
                    self.decoder.dictionary(name, self.location.size, &message, &body)?;
                    continue;
                }
                let length = within(name, message.bodyLength(), self.left)? as u64;
                self.left -= length;
                self.reader.skip(length);
                break;
            }
        }
        Ok(batches)
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Decoded>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The head of the next message of a stream; `None` at its end, which a marker says: a length of nothing. Without it, or
/// with more behind it, the stream is not what was written.
fn head(name: &str, reader: &mut impl Read, left: &mut u64) -> Result<Option<Vec<u8>>> {
    let mut word = || -> Result<i32> {
        if *left < 4 {
            return Err(failed(name, "it is cut short: no marker ends it"));
        }
        let word = bytes(name, reader, left, 4)?;
        Ok(word.first_chunk::<4>().map_or(0, |word| i32::from_le_bytes(*word)))
    };
    // Since version 0.15 a marker of all ones stands before the length.
    let length = match word()? {
        -1 => word()?,
        length => length,
    };
    if length == 0 {
        return match *left {
            0 => Ok(None),
            more => Err(failed(name, format!("{more} bytes follow the marker that ends it"))),
        };
    }
    let length = within(name, i64::from(length), *left)?;
    bytes(name, reader, left, length).map(Some)
}

fn bytes(name: &str, reader: &mut impl Read, left: &mut u64, length: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; length];
    reader.read_exact(&mut out).map_err(|e| Error::io(name, "cannot be read", e))?;
    *left -= length as u64;
    Ok(out)
}

pub fn open(location: &Location, file_form: bool) -> Result<(Form, Vec<Field>)> {
    guarded(&location.name, "its header", || {
        if file_form {
            let file = File::open(location)?;
            let fields = fields(&file.decoder.schema);
            return Ok((
                Form::ArrowFile { columns: (0..fields.len()).collect(), file: Arc::new(file) },
                fields,
            ));
        }
        let fields = fields(&Stream::open(location)?.decoder.schema);
        Ok((Form::ArrowStream { columns: (0..fields.len()).collect() }, fields))
    })
}

fn hand_over_all(
    name: &str,
    batches: impl Iterator<Item = Result<Decoded>>,
    columns: &[usize],
    fields: &[Field],
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    for batch in batches {
        let (batch, held) = batch?;
        let rows = batch.num_rows();
        if rows as u64 > held.saturating_mul(8).max(ROWS_ANYWAY) {
            return Err(Error::data(
                name,
                format!("claims a batch of {rows} rows, more than its bytes can hold"),
            ));
        }
        let columns: Vec<_> = columns.iter().map(|at| batch.column(*at)).zip(fields).collect();
        hand_over(name, held, &columns, rows, feed)?;
    }
    Ok(())
}

pub fn read_file(
    location: &Location,
    file: &File,
    columns: &[usize],
    fields: &[Field],
    batches: Range<usize>,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    hand_over_all(&location.name, file.read(location, batches), columns, fields, feed)
}

pub fn read_stream(
    location: &Location,
    columns: &[usize],
    fields: &[Field],
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    hand_over_all(&location.name, Stream::open(location)?, columns, fields, feed)
}

/// Numbers from all over the file, of a stream where none is given: of sixteen batches, or of sixteen stretches of
/// fewer.
pub fn sample(
    location: &Location,
    file: Option<&File>,
    columns: &[usize],
    fields: &[Field],
    out: &mut [Vec<f64>],
) -> Result<()> {
    const BATCHES: usize = 16;
    const ROWS: usize = 4096;
    let name = &location.name;
    guarded(name, "its content", || {
        let total = match file {
            Some(file) => file.batches.len(),
            None => Stream::open(location)?.pass(usize::MAX)?,
        };
        let wanted = BATCHES.min(total);
        let stretches = BATCHES.div_ceil(wanted.max(1));
        let mut take = |batch: Batch| {
            for (i, array) in batch.arrays.iter().enumerate().filter(|(i, _)| fields[*i].kind.is_numeric()) {
                for stretch in 0..stretches {
                    let (from, to) =
                        (batch.rows * stretch / stretches, batch.rows * (stretch + 1) / stretches);
                    let values = crate::profile::as_floats(&array.slice(from, ROWS.min(to - from)));
                    out[i].extend(values.into_iter().flatten().flatten().filter(|v| v.is_finite()));
                }
            }
            Ok(())
        };
        let places = (0..wanted).map(|i| i * total / wanted);
        if let Some(file) = file {
            let batches = places.flat_map(|at| file.read(location, at..at + 1));
            return hand_over_all(name, batches, columns, fields, &mut take);
        }
        let mut stream = Stream::open(location)?;
        let mut at = 0;
        let batches = places.map(|place| {
            let skipped = std::mem::replace(&mut at, place + 1);
            stream.pass(place - skipped)?;
            stream.read()?.ok_or_else(|| failed(name, "it has changed while it was read"))
        });
        hand_over_all(name, batches, columns, fields, &mut take)
    })
}
