//! Rules over sets of rows, answered exactly: keys are dealt into partitions by their hash, partitions spill to a
//! file beyond a cap of memory, and one partition at a time is sorted and looked through.
//!
//! A key of one number is itself. A longer one of at most 15 bytes is kept as it is; beyond that a digest of 128 bits
//! stands for it: among 50 million keys the chance that two share one is below 1e-23.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, Rows, SortField};
use twox_hash::XxHash3_128;

use crate::error::{Error, Result};
use crate::profile::hash;

const PARTITIONS: usize = 256;
/// Bytes a thread gathers for a partition before it hands them over.
const LOCAL: usize = 4 << 10;

/// Keys of rows, dealt into partitions.
pub(crate) struct Keys {
    /// Keys are single numbers of 8 bytes; else they have 16.
    pub single: bool,
    cap: usize,
    held: AtomicUsize,
    memory: Vec<Mutex<Vec<u8>>>,
    extents: Vec<Mutex<Vec<(u64, usize)>>>,
    spill: Mutex<Option<File>>,
    spilled: AtomicU64,
    folder: std::path::PathBuf,
}

/// One thread's share of [`Keys`].
pub(crate) struct Dealer {
    buffers: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Keys {
    /// `single`: the keys are single numbers. `cap`: bytes held in memory.
    pub fn new(single: bool, cap: usize, folder: &std::path::Path) -> Self {
        Self {
            single,
            cap,
            held: AtomicUsize::new(0),
            memory: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            extents: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            spill: Mutex::default(),
            spilled: AtomicU64::new(0),
            folder: folder.to_owned(),
        }
    }

    pub fn dealer() -> Dealer {
        Dealer { buffers: vec![Vec::new(); PARTITIONS], scratch: Vec::new() }
    }

    /// Adds a key that is one number (its bits), where keys are that.
    #[inline]
    pub fn add_number(&self, dealer: &mut Dealer, bits: u64, row: u64) -> Result<()> {
        let partition = (hash::number(bits) >> 56) as usize;
        dealer.buffers[partition].extend_from_slice(&bits.to_le_bytes());
        self.ended(dealer, partition, row)
    }

    /// Adds a key of bytes.
    pub fn add_bytes(&self, dealer: &mut Dealer, key: &[u8], row: u64) -> Result<()> {
        let packed = if key.len() <= 15 {
            let mut bytes = [0; 16];
            bytes[..key.len()].copy_from_slice(key);
            bytes[15] = key.len() as u8;
            u128::from_le_bytes(bytes)
        } else {
            // The last byte of a digest is made one that no short key has.
            XxHash3_128::oneshot(key) | (0x80 << 120)
        };
        let partition = (hash::number(packed as u64 ^ (packed >> 64) as u64) >> 56) as usize;
        dealer.buffers[partition].extend_from_slice(&packed.to_le_bytes());
        self.ended(dealer, partition, row)
    }

    fn ended(&self, dealer: &mut Dealer, partition: usize, row: u64) -> Result<()> {
        let buffer = &mut dealer.buffers[partition];
        buffer.extend_from_slice(&row.to_le_bytes());
        if buffer.len() >= LOCAL {
            self.take(partition, buffer)?;
        }
        Ok(())
    }

    /// Hands over what a dealer still holds.
    pub fn flush(&self, dealer: &mut Dealer) -> Result<()> {
        for partition in 0..PARTITIONS {
            if !dealer.buffers[partition].is_empty() {
                self.take(partition, &mut dealer.buffers[partition])?;
            }
        }
        Ok(())
    }

    fn take(&self, partition: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let mut memory = lock(&self.memory[partition]);
        memory.extend_from_slice(bytes);
        let held = self.held.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        bytes.clear();
        if held > self.cap && memory.len() >= LOCAL {
            let failed = |e| {
                Error::io(
                    self.folder.display().to_string(),
                    "cannot spill keys to disk; free space or set TMPDIR",
                    e,
                )
            };
            let offset = self.spilled.fetch_add(memory.len() as u64, Ordering::Relaxed);
            {
                let mut spill = lock(&self.spill);
                if spill.is_none() {
                    *spill = Some(tempfile::tempfile_in(&self.folder).map_err(failed)?);
                }
                if let Some(file) = spill.as_ref() {
                    file.write_all_at(&memory, offset).map_err(failed)?;
                }
            }
            lock(&self.extents[partition]).push((offset, memory.len()));
            self.held.fetch_sub(memory.len(), Ordering::Relaxed);
            memory.clear();
            memory.shrink_to(LOCAL * 16);
        }
        Ok(())
    }

    /// The keys and rows of a partition, sorted.
    fn sorted(&self, partition: usize) -> Result<Vec<(u128, u64)>> {
        let mut bytes = std::mem::take(&mut *lock(&self.memory[partition]));
        let width = if self.single { 8 } else { 16 };
        let size = width + 8;
        let mut out = Vec::new();
        let mut read = |bytes: &[u8]| {
            out.extend(bytes.chunks_exact(size).map(|record| {
                let mut key = [0; 16];
                key[..width].copy_from_slice(&record[..width]);
                let mut row = [0; 8];
                row.copy_from_slice(&record[width..]);
                (u128::from_le_bytes(key), u64::from_le_bytes(row))
            }));
        };
        read(&bytes);
        for (offset, length) in lock(&self.extents[partition]).iter() {
            bytes.resize(*length, 0);
            let spill = lock(&self.spill);
            if let Some(file) = spill.as_ref() {
                file.read_exact_at(&mut bytes, *offset).map_err(|e| {
                    Error::io(self.folder.display().to_string(), "cannot read spilled keys back", e)
                })?;
            }
            read(&bytes);
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Rows whose key an earlier row has: their number and the first of them, as (row, first row with the key).
    pub fn duplicates(&self) -> Result<Matches> {
        let mut found = Matches::default();
        for partition in 0..PARTITIONS {
            let keys = self.sorted(partition)?;
            found.keys += keys.len() as u64;
            let mut first = 0;
            for i in 1..keys.len() {
                if keys[i].0 == keys[first].0 {
                    found.add(keys[i].1, Some(keys[first].1));
                } else {
                    first = i;
                }
            }
        }
        found.settle();
        Ok(found)
    }

    /// Rows whose key `other` lacks (`wanted` false), or has (`wanted` true).
    pub fn against(&self, other: &Self, wanted: bool) -> Result<Matches> {
        let mut found = Matches::default();
        for partition in 0..PARTITIONS {
            let (keys, theirs) = (self.sorted(partition)?, other.sorted(partition)?);
            found.keys += keys.len() as u64;
            found.others += theirs.len() as u64;
            let mut at = 0;
            for (key, row) in keys {
                while at < theirs.len() && theirs[at].0 < key {
                    at += 1;
                }
                let there = theirs.get(at).filter(|t| t.0 == key);
                if there.is_some() == wanted {
                    found.add(row, there.map(|t| t.1));
                }
            }
        }
        found.settle();
        Ok(found)
    }

    /// A key of several values: each with its length, so that no two different rows make the same bytes.
    pub fn compound(dealer: &mut Dealer) -> &mut Vec<u8> {
        dealer.scratch.clear();
        &mut dealer.scratch
    }

    pub fn add_scratch(&self, dealer: &mut Dealer, row: u64) -> Result<()> {
        let key = std::mem::take(&mut dealer.scratch);
        let result = self.add_bytes(dealer, &key, row);
        dealer.scratch = key;
        result
    }
}

/// Rows that a set rule names.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    /// Keys looked at.
    pub keys: u64,
    /// Keys of the other table that they were held against.
    pub others: u64,
    pub count: u64,
    /// (row, the other row), the lowest rows.
    pub first: Vec<(u64, Option<u64>)>,
}

impl Matches {
    fn add(&mut self, row: u64, other: Option<u64>) {
        self.count += 1;
        self.first.push((row, other));
        if self.first.len() >= 1024 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.first.sort_unstable();
        self.first.truncate(crate::findings::EXAMPLES);
    }
}

/// Values of lists, structs and bytes as bytes that equal ones share; `None` of the few types that Arrow's row format
/// lacks (unions).
pub(crate) fn rows_of(array: &ArrayRef) -> Option<Rows> {
    let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())]).ok()?;
    converter.convert_columns(std::slice::from_ref(array)).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
