//! A step's checkpoint: uploaded while it trains, and once more when it is asked to end, so that the next attempt begins
//! where this one was. Files are kept by their digest, so what did not change is not sent again; the manifest that names them
//! is sent last, so half a checkpoint is never taken for one.
//!
//! Must not: hold up the step, or keep what is still being written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::client::Client;
use super::process::Strike;
use super::protocol::{CHECKPOINT_FILES, CHECKPOINT_MARK, Checkpoint, CheckpointFile};
use super::{artifacts, paths};
use crate::clock::{Clock as _, Millis, SystemClock};

/// A directory in which something was written this short a time ago is still being written.
const QUIET: Duration = Duration::from_secs(3);
/// After this many looks at which it was never quiet, people are told.
const RESTLESS: u32 = 20;

/// What became of one try.
#[derive(Debug, PartialEq, Eq)]
pub enum Saved {
    /// Nothing there, or nothing new since the last one.
    Nothing,
    /// Something is being written; it is tried again.
    Restless,
    /// It may have been cut off in the middle of being written.
    Torn,
    Kept {
        number: u64,
        files: usize,
        bytes: u64,
        /// Of the files, those that were sent now.
        sent: usize,
    },
}

/// A file with its size and its time of change.
type Stamp = (String, u64, SystemTime);
type Stamps = Vec<Stamp>;

pub struct Saver {
    client: Client,
    root: PathBuf,
    /// The checkpoint's directory, relative to the source tree.
    dir: String,
    /// Where the manifest is written before it is sent.
    manifest: PathBuf,
    number: u64,
    /// Digests that the daemon has of this attempt.
    there: BTreeSet<String>,
    /// Digest and mode of each file as it was last read: what did not change is not read again.
    read: BTreeMap<Stamp, (String, bool)>,
    last: Stamps,
    /// See [`super::process::Ended::struck`].
    struck: Vec<Strike>,
}

impl Saver {
    pub fn new(client: Client, root: &Path, dir: &str, manifest: PathBuf) -> Self {
        Self {
            client,
            root: root.to_owned(),
            dir: dir.to_owned(),
            manifest,
            number: 0,
            there: BTreeSet::new(),
            read: BTreeMap::new(),
            last: Vec::new(),
            struck: Vec::new(),
        }
    }

    /// The commands have ended, and signals struck then.
    #[must_use]
    pub fn after(self, struck: Vec<Strike>) -> Self {
        Self { struck, ..self }
    }

    /// Keeps what lies still for `quiet`, before and after it is read.
    ///
    /// # Errors
    /// Files cannot be read, or the daemon refuses them. Trying again later is harmless.
    pub async fn save(&mut self, quiet: Duration) -> anyhow::Result<Saved> {
        let before = self.stamps()?;
        if before.is_empty() || before == self.last {
            return Ok(Saved::Nothing);
        }
        if SystemClock.now_ms() - newest(&before) < quiet.as_millis() as Millis {
            return Ok(Saved::Restless);
        }
        let mut saved = self.send(&before).await;
        if saved.is_err() {
            if self.stamps()? != before {
                return Ok(Saved::Restless);
            }
            // What the daemon was thought to have it may have let go of, with a manifest of which no answer came.
            self.there.clear();
            saved = self.send(&before).await;
        }
        if let Ok(Saved::Kept { .. }) = saved {
            self.last = before;
        }
        saved
    }

    /// Keeps it after the commands have ended: `whole` where they said that it is. Otherwise what was written just before a
    /// signal struck a process may be half a checkpoint; what was written after it is of one that lived to its own end.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub async fn save_last(&mut self, whole: bool) -> anyhow::Result<Saved> {
        let newest = newest(&self.stamps()?);
        let torn = self.struck.iter().any(|strike| may_have_torn(newest, *strike));
        if torn && !whole {
            return Ok(Saved::Torn);
        }
        self.save(Duration::ZERO).await
    }

    /// Does the daemon keep one of this attempt?
    pub fn has_any(&self) -> bool {
        self.number > 0
    }

    /// Nothing will be resumed: the daemon need not keep it.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn let_go(&mut self) -> anyhow::Result<()> {
        self.send_manifest(Vec::new()).await
    }

    /// Saves every now and then until the step has ended; never, when `every` is zero.
    pub async fn keep(
        mut self,
        every: Duration,
        mut ended: watch::Receiver<bool>,
        say: impl Fn(&str),
    ) -> Self {
        let quiet = QUIET.min(every / 2);
        let (mut restless, mut refused, mut pause) = (0, false, every);
        loop {
            let saved = tokio::select! {
                saved = async {
                    tokio::time::sleep(pause).await;
                    self.save(quiet).await
                }, if !every.is_zero() => saved,
                _ = ended.wait_for(|ended| *ended) => return self,
            };
            pause = every;
            match saved {
                Ok(Saved::Restless) => {
                    restless += 1;
                    // Soon again: between two writes there is a quiet moment.
                    pause = quiet;
                    if restless == RESTLESS {
                        say(
                            "the checkpoint never lies still: write each beside its place and rename it, less often",
                        );
                    }
                }
                Ok(saved) => {
                    restless = 0;
                    if saved != Saved::Nothing {
                        say(&saved.to_string());
                    }
                }
                Err(error) if !refused => {
                    refused = true;
                    say(&format!("the checkpoint could not be kept: {error:#}"));
                }
                Err(error) => tracing::warn!("the checkpoint could not be kept: {error:#}"),
            }
        }
    }

    fn stamps(&self) -> anyhow::Result<Stamps> {
        let dir =
            paths::relative(&self.dir).map_err(|why| anyhow::anyhow!("the path {:?} {why}", self.dir))?;
        let mut any = false;
        artifacts::walk(&self.root, &dir, &mut |_| any = true);
        if !any {
            return Ok(Vec::new());
        }
        let found = artifacts::find(&self.root, &[dir]).map_err(|why| anyhow::anyhow!(why))?;
        // Half a checkpoint is none.
        if let Some(misnamed) = found.misnamed {
            anyhow::bail!(misnamed);
        }
        // A file that was renamed meanwhile is a change, not an error.
        let stamp = |path: String| {
            let about = std::fs::metadata(self.root.join(&path)).ok();
            let bytes = about.as_ref().map_or(0, std::fs::Metadata::len);
            (path, bytes, about.and_then(|a| a.modified().ok()).unwrap_or(UNIX_EPOCH))
        };
        Ok(found.files.into_iter().map(stamp).collect())
    }

    /// Sends what the daemon has not, then the manifest.
    async fn send(&mut self, stamps: &Stamps) -> anyhow::Result<Saved> {
        let (mut files, mut sent) = (Vec::new(), 0);
        let there: BTreeSet<&Stamp> = stamps.iter().collect();
        self.read.retain(|stamp, _| there.contains(stamp));
        for stamp in stamps {
            let path = &stamp.0;
            let real = std::fs::canonicalize(self.root.join(path))?;
            let (sha256, executable) = match self.read.get(stamp) {
                Some(known) => known.clone(),
                None => artifacts::digest_of(&real).await?,
            };
            self.read.insert(stamp.clone(), (sha256.clone(), executable));
            if !self.there.contains(&sha256) {
                let place = format!("{CHECKPOINT_FILES}/{sha256}");
                artifacts::upload_if(&self.client, &real, &place, Some(&sha256)).await?;
                self.there.insert(sha256.clone());
                sent += 1;
            }
            files.push(CheckpointFile { path: path.clone(), sha256, executable });
        }
        if self.stamps()? != *stamps {
            return Ok(Saved::Restless);
        }
        let (bytes, files_kept) = (stamps.iter().map(|(_, bytes, _)| bytes).sum(), files.len());
        self.send_manifest(files).await?;
        Ok(Saved::Kept { number: self.number, files: files_kept, bytes, sent })
    }

    async fn send_manifest(&mut self, files: Vec<CheckpointFile>) -> anyhow::Result<()> {
        let checkpoint = Checkpoint { number: self.number + 1, files };
        std::fs::write(&self.manifest, serde_json::to_vec(&checkpoint)?)?;
        artifacts::upload_as(&self.client, &self.manifest, CHECKPOINT_MARK).await?;
        self.number += 1;
        // The daemon lets go of what this one does not name.
        self.there = checkpoint.files.into_iter().map(|file| file.sha256).collect();
        Ok(())
    }
}

/// May what was written last have been under way when a signal struck? Of a strike that was seen late, at any moment that
/// it may have been.
fn may_have_torn(newest: Millis, strike: Strike) -> bool {
    newest <= strike.by && strike.after - newest < QUIET.as_millis() as Millis
}

fn newest(stamps: &Stamps) -> Millis {
    let age =
        |changed: &SystemTime| changed.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis);
    stamps.iter().map(|(_, _, changed)| age(changed)).max().unwrap_or(0)
}

impl std::fmt::Display for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing new in the checkpoint"),
            Self::Restless => f.write_str("the checkpoint is being written"),
            Self::Torn => f.write_str("what was being written as it was ended is not taken for a checkpoint"),
            Self::Kept { number, files, bytes, sent } => {
                write!(f, "checkpoint {number} kept ({files} files, {bytes} bytes, {sent} new)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strike_that_is_seen_late_still_tears() {
        let strike = |after, by| Strike { after, by };
        for (newest, strike, torn) in [
            (10_000, strike(10_040, 10_060), true),
            (10_000, strike(12_990, 12_995), true),
            (10_000, strike(13_000, 13_010), false),
            // Nobody looked for four seconds: it may have been struck in the first of them.
            (10_000, strike(10_040, 14_000), true),
            (12_000, strike(10_040, 14_000), true),
            // Written after it: by one that lived on.
            (14_001, strike(10_040, 14_000), false),
        ] {
            assert_eq!(may_have_torn(newest, strike), torn, "{newest} {strike:?}");
        }
    }
}
