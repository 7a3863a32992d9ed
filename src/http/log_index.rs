//! Where the lines of a log begin: what lets a window into 2 GiB be read without reading what lies before it.
//!
//! An index is derived, so it is kept in memory only, grows with its log, and is made again by whoever asks next. It holds a mark
//! at every [`STRIDE`], the sections and the first suspicious lines: about 16 bytes for 256 KiB of log.
//!
//! A line is what ends with a line feed; a longer one than [`LINE_BYTES`] counts as several, so that no window is ever larger than
//! it has to be. A line that has not ended yet is none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aho_corasick::AhoCorasick;
use tokio::sync::{Mutex as Turn, Semaphore};

use super::App;
use super::logs::{self, LogError};
use crate::model::AttemptRank;

const STRIDE: i64 = 256 << 10;
/// Longest stretch without a line feed that is one line.
pub const LINE_BYTES: usize = 64 << 10;
/// Bytes looked at at once: a multiple of [`LINE_BYTES`].
const PIECE: usize = 4 << 20;
/// Bytes that one request looks at before it answers with what it has.
const PATIENCE: i64 = 256 << 20;
const SECTIONS: usize = 2000;
const ERRORS: usize = 500;
/// Logs whose index is kept.
const KEPT: usize = 128;
/// Requests that read through logs at the same time.
const SCANS: usize = 4;

/// What a line holds when something went wrong there. Few and precise: "error" alone is a metric's name in machine learning.
const SUSPICIOUS: &[&str] = &[
    "Traceback (most recent call last)",
    "Error: ",
    "Exception: ",
    "error: ",
    "ERROR ",
    "ERROR:",
    "[ERROR]",
    "FAILED ",
    "fatal: ",
    "FATAL",
    "panicked at",
    "CUDA out of memory",
    "Segmentation fault",
    "::error",
    "command not found",
];

/// A stretch of a log under a title: `::group::title` up to `::endgroup::` (also `##[group]`), or a command of the step
/// (`+ command`) up to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Of its title, from 0.
    pub line: i64,
    /// The first line behind it; None while it is open.
    pub end: Option<i64>,
    pub title: String,
    pub group: bool,
}

#[derive(Debug, Clone, Default)]
pub struct LogIndex {
    /// Bytes of the lines that were counted.
    pub bytes: i64,
    pub lines: i64,
    pub sections: Vec<Section>,
    /// Numbers of the first lines that look like an error.
    pub errors: Vec<i64>,
    pub error_count: i64,
    /// (byte, line) where a line begins, in order.
    marks: Vec<(i64, i64)>,
}

/// The lines of a stretch that begins at one: their ranges, without line feeds. The last is given out only when it ended.
pub fn pieces(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut at = 0;
    let mut feeds = memchr::memchr_iter(b'\n', bytes);
    let mut feed = feeds.next();
    std::iter::from_fn(move || {
        let end = feed.unwrap_or(bytes.len());
        let start = at;
        if end - start > LINE_BYTES || (feed.is_none() && end - start == LINE_BYTES) {
            at = start + LINE_BYTES;
            return Some((start, at));
        }
        feed?;
        at = end + 1;
        feed = feeds.next();
        Some((start, end))
    })
}

/// Where a line's successor begins.
pub fn behind(bytes: &[u8], end: usize) -> usize {
    if bytes.get(end) == Some(&b'\n') { end + 1 } else { end }
}

fn suspicious() -> &'static AhoCorasick {
    static FINDER: OnceLock<AhoCorasick> = OnceLock::new();
    #[expect(clippy::expect_used, reason = "the patterns are constants; a test builds it")]
    FINDER.get_or_init(|| AhoCorasick::new(SUSPICIOUS).expect("constant patterns"))
}

impl LogIndex {
    /// Counts the lines of the bytes at [`Self::bytes`]; returns how many bytes those had.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut found = suspicious().find_iter(bytes).map(|m| m.start()).peekable();
        let mut done = 0;
        for (start, end) in pieces(bytes) {
            let byte = self.bytes + start as i64;
            if self.marks.last().is_none_or(|(last, _)| byte - last >= STRIDE) {
                self.marks.push((byte, self.lines));
            }
            self.section(&bytes[start..end]);
            done = behind(bytes, end);
            let mut suspect = false;
            while found.next_if(|at| *at < done).is_some() {
                suspect = true;
            }
            if suspect {
                self.error_count += 1;
                if self.errors.len() < ERRORS {
                    self.errors.push(self.lines);
                }
            }
            self.lines += 1;
        }
        self.bytes += done as i64;
        done
    }

    fn section(&mut self, line: &[u8]) {
        let (group, title) = match line.first() {
            Some(b':') if line.starts_with(b"::group::") => (true, &line[9..]),
            Some(b'#') if line.starts_with(b"##[group]") => (true, &line[9..]),
            Some(b'+') if line.starts_with(b"+ ") => (false, &line[2..]),
            Some(b':' | b'#') if line.starts_with(b"::endgroup::") || line.starts_with(b"##[endgroup]") => {
                let end = self.lines + 1;
                if let Some(open) = self.sections.iter_mut().rfind(|s| s.group && s.end.is_none()) {
                    open.end = Some(end);
                }
                return;
            }
            _ => return,
        };
        if self.sections.len() >= SECTIONS {
            return;
        }
        // A new one of its kind ends the one before it.
        if let Some(open) = self.sections.iter_mut().rfind(|s| s.group == group && s.end.is_none()) {
            open.end = Some(self.lines);
        }
        let title = String::from_utf8_lossy(&title[..title.len().min(200)]).trim().to_owned();
        self.sections.push(Section { line: self.lines, end: None, title, group });
    }

    /// The last mark at or before a line: (byte, line).
    pub fn mark(&self, line: i64) -> (i64, i64) {
        let at = self.marks.partition_point(|(_, first)| *first <= line);
        at.checked_sub(1).map_or((0, 0), |at| self.marks[at])
    }
}

/// The indexes of the logs that are looked at.
#[derive(Debug)]
pub struct LogIndexes {
    kept: Mutex<(u64, HashMap<AttemptRank, (u64, Arc<Turn<LogIndex>>)>)>,
    scans: Semaphore,
}

impl Default for LogIndexes {
    fn default() -> Self {
        Self { kept: Mutex::default(), scans: Semaphore::new(SCANS) }
    }
}

impl LogIndexes {
    /// A turn at reading through logs: many at once would take the machine from the trainings.
    pub async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.scans.acquire().await.ok()
    }

    fn of(&self, of: &AttemptRank) -> Arc<Turn<LogIndex>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (tick, all) = &mut *kept;
        *tick += 1;
        if all.len() >= KEPT
            && !all.contains_key(of)
            && let Some(oldest) = all.iter().min_by_key(|(_, (used, _))| *used).map(|(of, _)| of.clone())
        {
            all.remove(&oldest);
        }
        let entry = all.entry(of.clone()).or_default();
        entry.0 = *tick;
        Arc::clone(&entry.1)
    }

    /// The index as far as the log goes, or as far as one request looks: `bytes` says how far that is. A last line without
    /// its line feed counts once the attempt has `ended`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn grown(
        &self,
        app: &App,
        of: &AttemptRank,
        end: i64,
        ended: bool,
    ) -> Result<LogIndex, LogError> {
        let index = self.of(of);
        let mut index = index.lock().await;
        let _turn = if index.bytes < end { self.turn().await } else { None };
        let stop = index.bytes + PATIENCE;
        while index.bytes < end.min(stop) {
            let bytes = logs::read(app, of, index.bytes, PIECE).await?;
            if bytes.is_empty() {
                break;
            }
            let whole = index.bytes + bytes.len() as i64 >= end;
            if index.take(&bytes) > 0 {
                continue;
            }
            if whole && ended {
                // The last line never got its line feed.
                let mut closed = bytes.to_vec();
                closed.push(b'\n');
                index.take(&closed);
                index.bytes = end;
            }
            if whole || bytes.len() < LINE_BYTES {
                break;
            }
        }
        Ok(index.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_lead_to_every_line() {
        let mut text = Vec::new();
        let mut starts = Vec::new();
        for i in 0..60_000 {
            starts.push(text.len() as i64);
            text.extend_from_slice(format!("line {i} of a training that says much\n").as_bytes());
        }
        let mut index = LogIndex::default();
        let mut at = 0;
        while at < text.len() {
            let done = index.take(&text[at..(at + 300_000).min(text.len())]);
            assert!(done > 0);
            at += done;
        }
        assert_eq!((index.lines, index.bytes), (60_000, text.len() as i64));
        for (line, start) in starts.iter().enumerate() {
            let (byte, first) = index.mark(line as i64);
            assert!(byte <= *start && start - byte < STRIDE + 100, "{line}");
            assert_eq!(starts[first as usize], byte);
        }
    }

    #[test]
    fn a_line_without_end_is_several() {
        let long = vec![b'x'; 3 * LINE_BYTES + 5];
        assert_eq!(pieces(&long).count(), 3, "what has not ended is not given out");
        let mut text = long.clone();
        text.extend_from_slice(b"\nshort\n\nopen");
        let got: Vec<usize> = pieces(&text).map(|(start, end)| end - start).collect();
        assert_eq!(got, [LINE_BYTES, LINE_BYTES, LINE_BYTES, 5, 5, 0]);
        // Cut anywhere at its pieces, it counts the same.
        let mut index = LogIndex::default();
        let first = index.take(&text[..2 * LINE_BYTES]);
        assert_eq!(first, 2 * LINE_BYTES);
        index.take(&text[first..]);
        assert_eq!(index.lines, 6);
        let exact = [vec![b'y'; LINE_BYTES], b"\nz\n".to_vec()].concat();
        assert_eq!(pieces(&exact).count(), 2);
    }

    #[test]
    fn sections_and_errors_are_found() {
        let mut index = LogIndex::default();
        index.take(
            b"+ pip install .\nok\n::group::Install\na\n::endgroup::\n+ python train.py\nloss error 0.1\n\
              Traceback (most recent call last):\n  File\nValueError: no\n",
        );
        let got: Vec<(i64, Option<i64>, &str, bool)> =
            index.sections.iter().map(|s| (s.line, s.end, s.title.as_str(), s.group)).collect();
        assert_eq!(
            got,
            [
                (0, Some(5), "pip install .", false),
                (2, Some(5), "Install", true),
                (5, None, "python train.py", false)
            ]
        );
        assert_eq!(index.errors, [7, 9]);
    }
}
