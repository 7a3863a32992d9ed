//! The log on its way: masked, appended to a file on this disk, and from there to the daemon by `logs`.
//!
//! The child is never held up by the network: only this file and its quota bound the log.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use tokio::sync::watch;

use super::mask::{MaskStream, Masker};

/// How far the spool has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub len: u64,
    /// Nothing more will be appended.
    pub done: bool,
}

/// So many bytes of the quota are kept for the line that says that it is reached.
const MARKER_ROOM: u64 = 160;
const TAIL: usize = 8 * 1024;

pub struct Spool {
    file: File,
    stream: MaskStream,
    masked: Vec<u8>,
    len: u64,
    quota: u64,
    lost: u64,
    full: bool,
    /// Why the disk refused bytes, when it did.
    refused: Option<String>,
    tail: Vec<u8>,
    tell: watch::Sender<Written>,
}

impl Spool {
    pub fn create(
        path: &Path,
        quota: u64,
        masker: &Masker,
    ) -> anyhow::Result<(Self, watch::Receiver<Written>)> {
        let file =
            File::create(path).with_context(|| format!("cannot create the log spool {}", path.display()))?;
        let (tell, told) = watch::channel(Written::default());
        let spool = Self {
            file,
            stream: masker.stream(),
            masked: Vec::new(),
            len: 0,
            quota,
            lost: 0,
            full: false,
            refused: None,
            tail: Vec::new(),
            tell,
        };
        Ok((spool, told))
    }

    /// Takes raw output.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut out = std::mem::take(&mut self.masked);
        self.stream.push(bytes, &mut out);
        self.append(&out);
        out.clear();
        self.masked = out;
    }

    /// Passes on what is held back and cannot become a secret.
    pub fn flush(&mut self) {
        let mut out = std::mem::take(&mut self.masked);
        self.stream.flush(&mut out);
        self.append(&out);
        out.clear();
        self.masked = out;
    }

    /// One line of our own, apart from the commands' output by its prefix.
    pub fn say(&mut self, text: &str) {
        self.flush();
        let start = if self.tail.last().is_none_or(|b| *b == b'\n') { "" } else { "\n" };
        self.push(format!("{start}[trainyard] {text}\n").as_bytes());
        self.flush();
    }

    /// No more output will come.
    pub fn finish(&mut self) {
        let mut out = std::mem::take(&mut self.masked);
        self.stream.finish(&mut out);
        self.append(&out);
        let _ = self.file.sync_data();
        self.tell.send_modify(|w| w.done = true);
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
    /// The last bytes of the output, masked.
    pub fn tail(&self) -> String {
        String::from_utf8_lossy(&self.tail).into_owned()
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let keep = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.tail.extend_from_slice(keep);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
        let room = self.quota.saturating_sub(MARKER_ROOM).saturating_sub(self.len);
        if self.full || bytes.len() as u64 > room {
            let fits = if self.full { 0 } else { room as usize };
            self.write(&bytes[..fits]);
            self.lost += (bytes.len() - fits) as u64;
            if !self.full {
                self.full = true;
                let marker = format!(
                    "\n[trainyard] the log's quota of {} bytes is reached: what follows is counted, not kept\n",
                    self.quota
                );
                self.write(marker.as_bytes());
            }
        } else {
            self.write(bytes);
        }
        self.tell.send_modify(|w| w.len = self.len);
    }

    /// A full disk loses log bytes, which are counted; it never stops the commands.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(n) => {
                    self.len += n as u64;
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.lost += bytes.len() as u64;
                    self.refused.get_or_insert_with(|| error.to_string());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_quota_bytes_are_counted_and_one_line_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut spool, told) = Spool::create(&path, 1000, &Masker::new::<&str, &str>(&[])).unwrap();
        for _ in 0..100 {
            spool.push(&[b'x'; 99]);
            spool.push(b"\n");
        }
        spool.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 1000 && text.matches("[trainyard]").count() == 1, "{text}");
        let kept = text.bytes().filter(|b| *b == b'x').count() as u64 + 8;
        assert_eq!((spool.lost() + 840, kept), (10_000, 840));
        assert_eq!(*told.borrow(), Written { len: text.len() as u64, done: true });
    }

    #[test]
    fn our_lines_start_on_a_line_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut spool, _told) = Spool::create(&path, 1 << 20, &Masker::new(&[("A", "hunter2!")])).unwrap();
        spool.say("source");
        spool.push(b"50 % hunter2");
        spool.push(b"!");
        spool.say("exit 0 hunter2!");
        spool.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "[trainyard] source\n50 % ***\n[trainyard] exit 0 ***\n");
    }
}
