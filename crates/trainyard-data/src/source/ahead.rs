//! Reads column chunks of Parquet ahead: a page is asked for by its head first, then by its body, page after page, and
//! each question alone would be a read of its own (a request of its own, in object storage).

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::Location;
use super::location::Reader;

/// Bytes left of a window from which the head of a page is read; one that is longer is read on from the file.
const HEAD: u64 = 1 << 10;

/// A file of which some column chunks are read from front to back.
pub struct Ahead {
    location: Location,
    /// Bytes of a window.
    length: u64,
    chunks: Vec<Chunk>,
}

struct Chunk {
    range: Range<u64>,
    /// (offset in the file, bytes): what was read last.
    window: Mutex<(u64, Bytes)>,
}

impl Ahead {
    /// The chunks of some columns, by their places in the file's schema, in one row group.
    pub fn new(
        location: &Location,
        metadata: &ArrowReaderMetadata,
        row_group: usize,
        columns: &[usize],
    ) -> Self {
        let group = metadata.metadata().row_group(row_group);
        let schema = group.schema_descr();
        let chunks: Vec<Chunk> = group
            .columns()
            .iter()
            .enumerate()
            .filter(|(leaf, _)| columns.contains(&schema.get_column_root_idx(*leaf)))
            .map(|(_, column)| {
                let (start, length) = column.byte_range();
                Chunk { range: start..start.saturating_add(length), window: Mutex::default() }
            })
            .collect();
        let length = location.ahead(chunks.len() as u64);
        Self { location: location.clone(), length, chunks }
    }

    /// At least `least` bytes from `start` on that lie in one window, if `start` is in a chunk that has so many.
    fn window(&self, start: u64, least: u64) -> Result<Option<Bytes>> {
        let Some(chunk) = self.chunks.iter().find(|chunk| chunk.range.contains(&start)) else {
            return Ok(None);
        };
        let left = chunk.range.end - start;
        let mut window = chunk.window.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(from, bytes): &(u64, Bytes)| {
            let at = usize::try_from(start.checked_sub(*from)?).ok()?;
            bytes.get(at..)?;
            Some(bytes.slice(at..)).filter(|rest| rest.len() as u64 >= least.min(left))
        };
        if let Some(rest) = known(&window) {
            return Ok(Some(rest));
        }
        if least > self.length.min(left) {
            return Ok(None);
        }
        // The window before is given up first: two would be held at once.
        *window = (0, Bytes::new());
        let bytes = self.location.read_up_to(start, self.length.min(left) as usize).map_err(failed)?;
        *window = (start, bytes);
        Ok(known(&window))
    }
}

fn failed(error: crate::error::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Length for Ahead {
    fn len(&self) -> u64 {
        self.location.size
    }
}

impl ChunkReader for Ahead {
    type T = Reader;

    fn get_read(&self, start: u64) -> Result<Reader> {
        let known = self.window(start, HEAD)?.unwrap_or_default();
        Ok(self.location.reader_after(start, known))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match self.window(start, length as u64)? {
            Some(bytes) if bytes.len() >= length => Ok(bytes.slice(..length)),
            _ => self.location.read(start, length).map_err(failed),
        }
    }
}
