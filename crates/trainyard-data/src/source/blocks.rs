//! Cuts text into blocks of whole records.

use std::io::Read;

use super::location::Reader;
use super::{Location, quotes};
use crate::error::{Error, Result};

const BLOCK: usize = 8 << 20;
/// The longest record; beyond it a quote was never closed, or the file is something else.
const LONGEST: usize = 160 << 20;

/// Blocks of about 8 MiB that end where a record ends.
pub struct Blocks {
    name: String,
    reader: Reader,
    rest: Vec<u8>,
    delimiter: Option<u8>,
    ended: bool,
}

impl Blocks {
    /// `delimiter`: of CSV, where a line end within quotes does not end a record.
    pub fn new(location: &Location, start: u64, delimiter: Option<u8>) -> Self {
        Self {
            name: location.name.clone(),
            reader: location.reader(start),
            rest: Vec::new(),
            delimiter,
            ended: false,
        }
    }

    pub fn next(&mut self) -> Option<Result<Vec<u8>>> {
        let mut want = BLOCK;
        loop {
            if self.ended && self.rest.is_empty() {
                return None;
            }
            if !self.ended && self.rest.len() < want {
                let missing = (want - self.rest.len()) as u64;
                match self.reader.by_ref().take(missing).read_to_end(&mut self.rest) {
                    Ok(got) => self.ended = (got as u64) < missing,
                    Err(e) => {
                        self.ended = true;
                        self.rest.clear();
                        return Some(Err(Error::io(&self.name, "cannot be read to its end", e)));
                    }
                }
            }
            if self.ended && self.rest.len() < LONGEST {
                return (!self.rest.is_empty()).then(|| Ok(std::mem::take(&mut self.rest)));
            }
            if let Some(end) = last_record_end(&self.rest, self.delimiter) {
                let rest = self.rest.split_off(end);
                return Some(Ok(std::mem::replace(&mut self.rest, rest)));
            }
            if self.rest.len() >= LONGEST {
                self.ended = true;
                self.rest.clear();
                return Some(Err(Error::data(
                    &self.name,
                    format!(
                        "has a record of more than {} MiB: is a quote left open, or is it not text?",
                        LONGEST >> 20
                    ),
                )));
            }
            want *= 2;
        }
    }
}

/// Bytes of a piece, unless its first line is longer.
const PIECE: usize = 64 << 10;
const LONGEST_PIECE: usize = 4 << 20;
const PIECES: u64 = 16;

/// Whole lines from all over a file, for samples: of a short one all, of others sixteen pieces, each from a line's start
/// on. `see` is given the bytes, and whether they stop before the file does: after a line's end then, unless the line is
/// longer than a piece can be.
pub fn pieces(location: &Location, start: u64, see: &mut dyn FnMut(&[u8], bool)) -> Result<()> {
    let length = location.size.saturating_sub(start);
    if length <= PIECE as u64 * PIECES {
        see(&location.read_up_to(start, length as usize)?, false);
        return Ok(());
    }
    for piece in 0..PIECES {
        let offset = start + length / PIECES * piece;
        let mut size = PIECE;
        loop {
            let bytes = location.read_up_to(offset, size)?;
            let line_end = |bytes: &[u8]| memchr::memchr(b'\n', bytes).map(|i| i + 1);
            let from = if piece == 0 { Some(0) } else { line_end(&bytes) };
            let cut = offset + (bytes.len() as u64) < location.size;
            let whole = from.filter(|from| !cut || line_end(&bytes[*from..]).is_some());
            if let Some(from) = whole {
                let end = if cut {
                    memchr::memrchr(b'\n', &bytes).map_or(bytes.len(), |i| i + 1)
                } else {
                    bytes.len()
                };
                see(&bytes[from..end], cut);
                break;
            }
            if !cut || size >= LONGEST_PIECE {
                break;
            }
            size *= 2;
        }
    }
    Ok(())
}

/// Where the last whole record of a block ends. The block begins where a record begins.
fn last_record_end(bytes: &[u8], delimiter: Option<u8>) -> Option<usize> {
    let line_end = |stretch: &[u8]| memchr::memrchr(b'\n', stretch).map(|i| i + 1);
    let Some(delimiter) = delimiter else { return line_end(bytes) };
    let mut end = None;
    quotes::outside(bytes, delimiter, &mut |stretch| {
        end = line_end(&bytes[stretch.clone()]).map(|at| stretch.start + at).or(end);
    });
    end
}
