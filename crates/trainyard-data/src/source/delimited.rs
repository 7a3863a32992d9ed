//! CSV and its kin (RFC 4180, with other delimiters): a header line, then records.

use std::ops::Range;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::blocks::pieces;
use super::builders::{self, Columns, Guess, Padding, float};
use super::drive::{Batch, Defects};
use super::{Form, Location, Options, quotes, time};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// How the records of a file are written, and where its columns stand.
pub struct Dialect {
    pub(super) delimiter: u8,
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
/// Bytes at the front from which the delimiter is known.
const FIRST: usize = 64 << 10;
const MOST_COLUMNS: usize = 100_000;

/// Finds the dialect and the columns; `known`: the columns of the table's first file, whose kinds then hold.
pub fn open(location: &Location, options: &Options, known: Option<&[Field]>) -> Result<(Form, Vec<Field>)> {
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
    let delimiter = options.delimiter.unwrap_or_else(|| likely_delimiter(text));
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
                .map_or_else(|| guess.kind(options.kinds.get(&name).copied()), |f| f.kind);
            Field { name, kind, physical: "csv".to_owned() }
        })
        .collect();
    Ok((Form::Csv(dialect), fields))
}

/// The delimiter whose number is the same in most of the first lines, and largest.
fn likely_delimiter(text: &[u8]) -> u8 {
    let text = &text[..text.len().min(FIRST)];
    let mut best = (0_usize, 0_usize, b',');
    for candidate in [b',', b';', b'\t', b'|'] {
        let (mut counts, mut count) = (Vec::new(), 0);
        quotes::outside(text, candidate, &mut |stretch| {
            for b in &text[stretch] {
                if *b == b'\n' {
                    counts.push(std::mem::take(&mut count));
                } else if *b == candidate {
                    count += 1;
                }
            }
        });
        counts.truncate(100);
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
    /// Where in the input it begins, and ends.
    range: Range<usize>,
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
        let begin = self.read;
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
                    return Some(Record {
                        range: begin..self.read,
                        output: &self.output[..written],
                        ends: &self.ends[..fields],
                    });
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
    pieces(location, dialect.data_start, &mut |bytes, cut| {
        let mut reader = dialect.reader();
        let mut records = Records::new(&mut reader, bytes, cut);
        while let Some(record) = records.next() {
            if record.width() == dialect.width {
                for i in 0..dialect.width {
                    see(i, record.field(i).unwrap_or_default());
                }
            }
        }
    })
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
    name: &str,
    bytes: &[u8],
    dialect: &Dialect,
    fields: &[Field],
    defects: &mut Defects,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut reader = dialect.reader();
    let mut records = Records::new(&mut reader, bytes, false);
    let mut columns = Columns::new(fields);
    let mut padding = Padding::of(name, bytes);
    let quoted = memchr::memchr(quotes::QUOTE, bytes).is_some();
    let mut inner = dialect.reader();
    let mut row = 0;
    while let Some(record) = records.next() {
        row += 1;
        if record.width() != dialect.width {
            defects.ragged += 1;
            padding.add(dialect.width.saturating_sub(record.width()))?;
            if defects.records.len() < 20 {
                defects.records.push(row);
            }
        }
        for (column, field) in dialect.columns.iter().enumerate() {
            columns.push(column, record.field(*field), defects);
        }
        if quoted && takes_in_others(&record, bytes, dialect, fields, &mut inner) {
            defects.open_quote(row);
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

/// Whether a quote of a record of `bytes` takes in other records: nothing closes it, text follows the one that does, or
/// lines of its cell are records themselves.
fn takes_in_others(
    record: &Record,
    bytes: &[u8],
    dialect: &Dialect,
    fields: &[Field],
    inner: &mut Reader,
) -> bool {
    let raw = &bytes[record.range.clone()];
    if record.range.end == bytes.len() && quotes::open_at_end(raw, dialect.delimiter) {
        return true;
    }
    // Only quotes bring line ends into cells.
    let many = |cell: &[u8]| memchr::memchr(b'\n', cell).is_some();
    if !many(record.output) {
        return false;
    }
    let mut cells = (0..record.width()).filter_map(|i| record.field(i)).filter(|cell| many(cell));
    quotes::stray(raw, dialect.delimiter) || cells.any(|cell| holds_records(cell, dialect, fields, inner))
}

/// Whether nearly all lines of a cell, between its first and its last, are records of the table. A few could be by
/// chance, more so where every column is text.
fn holds_records(cell: &[u8], dialect: &Dialect, fields: &[Field], reader: &mut Reader) -> bool {
    let text = |kind: Kind| matches!(kind, Kind::Text | Kind::Other);
    let least = if fields.iter().all(|f| text(f.kind)) { 20 } else { 3 };
    let (Some(first), Some(end)) = (memchr::memchr(b'\n', cell), memchr::memrchr(b'\n', cell)) else {
        return false;
    };
    if dialect.width < 2 || first == end {
        return false;
    }
    reader.reset();
    let mut records = Records::new(reader, &cell[first + 1..=end], false);
    let (mut lines, mut fitting) = (0, 0);
    while let Some(record) = records.next().filter(|_| lines < 1000) {
        lines += 1;
        let fits = |(column, field): (usize, &usize)| {
            let cell = record.field(*field).unwrap_or_default();
            builders::fits(fields[column].kind, cell)
        };
        fitting += u32::from(record.width() == dialect.width && dialect.columns.iter().enumerate().all(fits));
    }
    fitting >= least && fitting * 10 >= lines * 9
}
