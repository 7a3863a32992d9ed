//! Follows a file of lines while it grows, and notices when it was written anew.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::paths::open_plain;
use super::files::{Before, Stamp};

/// Longer lines are skipped.
const MAX_LINE: usize = 256 * 1024;
const BUFFER: usize = 1 << 20;
/// So many bytes before a place are what it is recognised by.
const MARK: u64 = 4096;

/// What became of a file since it was last read.
pub enum Read<'a> {
    /// It was written anew: what follows are its first lines.
    Restart,
    Line(&'a [u8]),
    /// A line that is too long to be a metric.
    Skipped,
}

/// How far a file of lines has been read.
#[derive(Default)]
pub struct Tail {
    started: bool,
    offset: u64,
    inode: u64,
    mark: Option<Vec<u8>>,
}

impl Tail {
    /// Gives every whole new line to `each`; when `last`, one without a line feed, too. `each` says whether there is room for
    /// more. `step_of` reads a line's training step.
    pub fn read(
        &mut self,
        path: &Path,
        now: Stamp,
        before: Option<&Before>,
        last: bool,
        step_of: &dyn Fn(&[u8]) -> Option<i64>,
        each: &mut dyn FnMut(Read<'_>) -> bool,
    ) {
        if !self.started {
            self.started = true;
            self.offset = before.map_or(0, |b| first_new_byte(path, now, b, step_of));
        } else if now.inode != self.inode
            || now.len < self.offset
            || (self.offset > 0 && mark(path, self.offset) != self.mark)
        {
            self.offset = 0;
            each(Read::Restart);
        }
        self.inode = now.inode;
        let Ok(mut file) = open_plain(path) else { return };
        let mut buffer = vec![0; BUFFER];
        let mut room = true;
        while room || last {
            let read = file.seek(SeekFrom::Start(self.offset)).and_then(|_| fill(&mut file, &mut buffer));
            let Ok(n) = read else { break };
            let end = match buffer[..n].iter().rposition(|b| *b == b'\n') {
                Some(at) => at + 1,
                None if n == buffer.len() => {
                    each(Read::Skipped);
                    self.offset += n as u64;
                    continue;
                }
                None if last => n,
                None => break,
            };
            if end == 0 {
                break;
            }
            for line in buffer[..end].split(|b| *b == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.len() > MAX_LINE {
                    room &= each(Read::Skipped);
                } else if !line.trim_ascii().is_empty() {
                    room &= each(Read::Line(line));
                }
            }
            self.offset += end as u64;
        }
        self.mark = mark(path, self.offset);
    }
}

/// Where the lines of this attempt begin in a file that was there before. Lines that were there and still are belong to an
/// earlier run, so only what was added counts, unless it reads as one history: the same bytes written again, or lines that
/// go on where the old ones ended, as after a resumed training or a longer one with the same beginning.
fn first_new_byte(path: &Path, now: Stamp, before: &Before, step_of: &dyn Fn(&[u8]) -> Option<i64>) -> u64 {
    let old = before.stamp.len;
    let same = before.mark.is_some() && mark(path, old) == before.mark;
    if !same || now.len == old {
        return 0;
    }
    let around = |from: u64, len: usize| -> Option<Vec<u8>> {
        let mut file = open_plain(path).ok()?;
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut bytes = vec![0; len];
        let n = fill(&mut file, &mut bytes).ok()?;
        bytes.truncate(n);
        Some(bytes)
    };
    let from = old.saturating_sub(64 * 1024);
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()).map(<[u8]>::to_vec).collect()
    };
    let earlier = around(from, (old - from) as usize).and_then(|b| step_of(lines(&b).last()?));
    let later = around(old, 64 * 1024).and_then(|b| step_of(lines(&b).first()?));
    match (earlier, later) {
        (Some(earlier), Some(later)) if later > earlier => 0,
        _ => old,
    }
}

/// Digest of the bytes before `len` of a file that has so many.
pub fn mark(path: &Path, len: u64) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let from = len.saturating_sub(MARK);
    let mut bytes = vec![0; (len - from) as usize];
    open_plain(path).ok()?.read_exact_at(&mut bytes, from).ok()?;
    Some(Sha256::digest(&bytes).to_vec())
}

fn fill(file: &mut std::fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}
