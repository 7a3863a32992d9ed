//! CSV and its kin (RFC 4180, with other delimiters): a header line, then records.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::builders::{Columns, Guess, float};
use super::drive::{Batch, Defects};
use super::time;
use super::{Form, Location};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// How the records of a file are written, and where its columns stand.
pub struct Dialect {
    delimiter: u8,
    /// Fields of a record.
    width: usize,
    /// Column of the table → field of the record.
    columns: Vec<usize>,
    pub(super) data_start: u64,
}

impl Dialect {
    pub fn with_columns(mut self, order: Vec<usize>) -> Self {
        self.columns = order;
        self
    }

    fn reader(&self) -> Reader {
        ReaderBuilder::new().delimiter(self.delimiter).build()
    }
}

const HEAD: usize = 4 << 20;
const PIECE: usize = 64 << 10;
const PIECES: u64 = 16;
const MOST_COLUMNS: usize = 100_000;

/// Finds the dialect and the columns; `known`: the columns of the table's first file, whose kinds then hold.
pub fn open(
    location: &Location,
    delimiter: Option<u8>,
    known: Option<&[Field]>,
) -> Result<(Form, Vec<Field>)> {
    let name = &location.name;
    let head = location.read_up_to(0, HEAD)?;
    let bom = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let text = &head[bom..];
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::data(name, "is empty: it has not even a header line"));
    }
    if text.starts_with(&[0xff, 0xfe])
        || text.starts_with(&[0xfe, 0xff])
        || memchr::memchr(0, &text[..text.len().min(4096)]).is_some()
    {
        return Err(Error::data(name, "is not CSV: it holds zero bytes; save it as UTF-8"));
    }
    let delimiter = delimiter.unwrap_or_else(|| likely_delimiter(text));
    let mut reader = ReaderBuilder::new().delimiter(delimiter).build();
    let mut records = Records::new(&mut reader, text, (text.len() as u64) < location.size);
    let Some(header) = records.next() else {
        return Err(Error::data(name, "has a header line of more than 4 MiB"));
    };
    let width = header.width();
    if width > MOST_COLUMNS {
        return Err(Error::data(name, format!("has {width} columns; at most {MOST_COLUMNS} are read")));
    }
    let mut names = Vec::with_capacity(width);
    for i in 0..width {
        let cell = header.field(i).unwrap_or_default();
        let text = std::str::from_utf8(cell)
            .map_err(|_| Error::data(name, format!("has a name of column {} that is not UTF-8", i + 1)))?;
        names.push(if text.is_empty() { format!("column_{}", i + 1) } else { text.to_owned() });
    }
    let data_start = (bom + records.read) as u64;
    let dialect = Dialect { delimiter, width, columns: (0..width).collect(), data_start };
    let mut guesses = vec![Guess::default(); width];
    sampled(location, &dialect, &mut |i, cell| guesses[i].see(cell))?;
    let fields = names
        .into_iter()
        .zip(guesses)
        .map(|(name, guess)| {
            let kind = known
                .and_then(|k| k.iter().find(|f| f.name == name))
                .map_or_else(|| guess.kind(), |f| f.kind);
            Field { name, kind, physical: "csv".to_owned() }
        })
        .collect();
    Ok((Form::Csv(dialect), fields))
}

/// The delimiter whose number is the same in most of the first lines, and largest.
fn likely_delimiter(text: &[u8]) -> u8 {
    let mut best = (0_usize, 0_usize, b',');
    for candidate in [b',', b';', b'\t', b'|'] {
        let mut counts: Vec<usize> = Vec::new();
        let (mut inside, mut count) = (false, 0);
        for b in &text[..text.len().min(PIECE)] {
            match *b {
                b'"' => inside = !inside,
                b'\n' if !inside => {
                    counts.push(count);
                    count = 0;
                    if counts.len() == 100 {
                        break;
                    }
                }
                b if b == candidate && !inside => count += 1,
                _ => {}
            }
        }
        if counts.is_empty() {
            counts.push(count);
        }
        let first = counts[0];
        if first == 0 {
            continue;
        }
        let agreeing = counts.iter().filter(|c| **c == first).count() * 1000 / counts.len();
        if (agreeing, first) > (best.0, best.1) {
            best = (agreeing, first, candidate);
        }
    }
    best.2
}

/// Records of bytes that begin where a record begins.
struct Records<'a> {
    reader: &'a mut Reader,
    input: &'a [u8],
    /// Whether the bytes stop somewhere in the file: the last record may be cut and is not given then.
    cut: bool,
    read: usize,
    output: Vec<u8>,
    ends: Vec<usize>,
    ended: bool,
}

struct Record<'a> {
    output: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Record<'a> {
    fn width(&self) -> usize {
        self.ends.len()
    }

    fn field(&self, i: usize) -> Option<&'a [u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        self.output.get(start..end)
    }
}

impl<'a> Records<'a> {
    fn new(reader: &'a mut Reader, input: &'a [u8], cut: bool) -> Self {
        Self { reader, input, cut, read: 0, output: vec![0; 4096], ends: vec![0; 64], ended: false }
    }

    fn next(&mut self) -> Option<Record<'_>> {
        if self.ended {
            return None;
        }
        let (mut written, mut fields) = (0, 0);
        loop {
            let (result, read, out, ends) = self.reader.read_record(
                &self.input[self.read..],
                &mut self.output[written..],
                &mut self.ends[fields..],
            );
            self.read += read;
            written += out;
            fields += ends;
            match result {
                ReadRecordResult::Record => {
                    return Some(Record { output: &self.output[..written], ends: &self.ends[..fields] });
                }
                ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                // All input is read; an empty one says so, unless the rest lies beyond the cut.
                ReadRecordResult::InputEmpty => {
                    if self.cut {
                        self.ended = true;
                        return None;
                    }
                }
                ReadRecordResult::End => {
                    self.ended = true;
                    return None;
                }
            }
        }
    }
}

/// Cells of records from pieces all over the file. A piece begins after a line end, which may lie inside of a quoted
/// cell: records of a wrong width are left out.
fn sampled(location: &Location, dialect: &Dialect, see: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
    let length = location.size - dialect.data_start.min(location.size);
    let whole = length <= PIECE as u64 * PIECES;
    let pieces = if whole { 1 } else { PIECES };
    for piece in 0..pieces {
        let offset = dialect.data_start + length / pieces * piece;
        let size = if whole { length as usize } else { PIECE };
        let bytes = location.read_up_to(offset, size)?;
        let start = if piece == 0 { 0 } else { memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |i| i + 1) };
        let mut reader = dialect.reader();
        let cut = offset + (bytes.len() as u64) < location.size;
        let mut records = Records::new(&mut reader, &bytes[start..], cut);
        while let Some(record) = records.next() {
            if record.width() == dialect.width {
                for i in 0..dialect.width {
                    see(i, record.field(i).unwrap_or_default());
                }
            }
        }
    }
    Ok(())
}

/// Adds numbers from all over the file to `out`.
pub fn sample(location: &Location, dialect: &Dialect, fields: &[Field], out: &mut [Vec<f64>]) -> Result<()> {
    let mut of_field = vec![None; dialect.width];
    for (column, field) in dialect.columns.iter().enumerate() {
        if fields[column].kind.is_numeric() {
            of_field[*field] = Some(column);
        }
    }
    sampled(location, dialect, &mut |i, cell| {
        let Some(column) = of_field[i] else { return };
        let value = match fields[column].kind {
            Kind::Time => time::parse(cell).map(|t| t as f64),
            _ => float(cell),
        };
        out[column].extend(value.filter(|v| v.is_finite()));
    })
}

/// Reads a block of whole records.
pub fn read(
    bytes: &[u8],
    dialect: &Dialect,
    fields: &[Field],
    defects: &mut Defects,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut reader = dialect.reader();
    let mut records = Records::new(&mut reader, bytes, false);
    let mut columns = Columns::new(fields);
    let mut row = 0;
    while let Some(record) = records.next() {
        row += 1;
        if record.width() != dialect.width {
            defects.ragged += 1;
            if defects.records.len() < 20 {
                defects.records.push(row);
            }
        }
        for (column, field) in dialect.columns.iter().enumerate() {
            columns.push(column, record.field(*field), defects);
        }
        if columns.end_row() {
            feed(columns.finish())?;
        }
    }
    if columns.rows > 0 {
        feed(columns.finish())?;
    }
    Ok(())
}
