//! Cuts text into blocks of whole records.

use std::io::Read;

use super::Location;
use super::location::Reader;
use crate::error::{Error, Result};

const BLOCK: usize = 8 << 20;
/// The longest record; beyond it a quote was never closed, or the file is something else.
const LONGEST: usize = 160 << 20;

/// Blocks of about 8 MiB that end where a record ends.
pub struct Blocks {
    name: String,
    reader: Reader,
    rest: Vec<u8>,
    quote: Option<u8>,
    ended: bool,
}

impl Blocks {
    /// `quote`: between two of them a line end does not end a record.
    pub fn new(location: &Location, start: u64, quote: Option<u8>) -> Self {
        Self {
            name: location.name.clone(),
            reader: location.reader(start),
            rest: Vec::new(),
            quote,
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
            if let Some(end) = last_record_end(&self.rest, self.quote) {
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

/// Where the last whole record of a block ends. The block begins where a record begins.
fn last_record_end(bytes: &[u8], quote: Option<u8>) -> Option<usize> {
    let quote = quote.filter(|q| memchr::memchr(*q, bytes).is_some());
    let Some(quote) = quote else {
        return memchr::memrchr(b'\n', bytes).map(|i| i + 1);
    };
    let (mut inside, mut end) = (false, None);
    for i in memchr::memchr2_iter(quote, b'\n', bytes) {
        if bytes[i] == quote {
            inside = !inside;
        } else if !inside {
            end = Some(i + 1);
        }
    }
    end
}
