//! Ships the spool to the daemon in chunks. The daemon's committed offset is the truth; after any trouble it is asked
//! again by sending, so a byte is stored once however often the connection is cut (promise G9).

use std::fs::File;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{Backoff, Client, Fault};
use super::spool::Written;

/// Largest chunk. Below the protocol's 4 MiB, to keep the agent small.
const CHUNK: u64 = 2 << 20;
/// Chunks on their way at once: the daemon commits one while it writes the next, and the third one travels. It takes none that begins
/// more than 4 MiB beyond what is committed.
const LANES: usize = 3;
/// After a failure chunks get smaller down to this, so that even a wire that breaks all the time carries something.
const SMALLEST: u64 = 64 << 10;
/// A chunk leaves at the latest after this, however small.
const PERIOD: Duration = Duration::from_secs(2);
/// How long bytes are gathered when nothing was sent lately: people wait for the first line.
const PROMPT: Duration = Duration::from_millis(100);

/// What became of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shipped {
    pub committed: u64,
    /// Bytes of the spool that the daemon did not take (its quota).
    pub lost: u64,
}

/// Runs until all of the finished spool is committed, or the daemon says that the attempt has ended.
///
/// # Errors
/// [`Fault::Gone`], and [`Fault::Unauthorized`] after many tries; everything else is tried again for ever.
pub async fn ship(
    client: &Client,
    spool: File,
    mut written: watch::Receiver<Written>,
) -> Result<Shipped, Fault> {
    let (mut committed, mut backoff) = (0_u64, Backoff::default());
    let mut last_sent = Instant::now().checked_sub(PERIOD).unwrap_or_else(Instant::now);
    let (mut prompt_sends, mut size) = (0_u32, CHUNK);
    let mut flights = FuturesOrdered::new();
    // Where the last one under way ends.
    let mut sent = 0_u64;
    loop {
        if flights.is_empty() {
            sent = committed;
            let now = *written.borrow_and_update();
            if committed >= now.len {
                if now.done {
                    return Ok(Shipped { committed, lost: 0 });
                }
                if written.changed().await.is_err() {
                    // The writer is gone without a word: what is there is all.
                    return Ok(Shipped { committed, lost: 0 });
                }
                continue;
            }
            let idle = last_sent.elapsed() >= PERIOD;
            let at = if idle || prompt_sends < 20 { Instant::now() + PROMPT } else { last_sent + PERIOD };
            gather(&mut written, committed, at).await;
            prompt_sends += 1;
        } else {
            // After a failure one at a time, until chunks are large again.
            let another = flights.len() < LANES && size == CHUNK;
            let enough = |w: &Written| w.len >= sent + CHUNK;
            let answered = tokio::select! {
                biased;
                answered = flights.next() => answered,
                Ok(_) = written.wait_for(enough), if another => None,
            };
            if let Some((end, answer)) = answered {
                match answer {
                    Ok(answer) | Err(Fault::Conflict(answer)) => {
                        backoff.reset();
                        size = (size * 2).min(CHUNK);
                        let len = written.borrow().len;
                        committed = (answer.offset.max(0) as u64).min(len);
                        if answer.full {
                            // Only the count matters from here on.
                            while !written.borrow_and_update().done && written.changed().await.is_ok() {}
                            let len = written.borrow().len;
                            return Ok(Shipped { committed, lost: len.saturating_sub(committed) });
                        }
                        if committed != end {
                            flights.clear();
                        }
                    }
                    Err(Fault::Gone) => return Err(Fault::Gone),
                    Err(Fault::Unauthorized) if backoff.tries() > 30 => return Err(Fault::Unauthorized),
                    Err(fault) => {
                        flights.clear();
                        size = (size / 2).max(SMALLEST);
                        tracing::warn!(%fault, committed, "a log chunk did not arrive");
                        backoff.wait().await;
                    }
                }
                continue;
            }
        }
        let end = written.borrow().len.min(sent + size);
        let bytes = match read(&spool, sent, end) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "cannot read the log spool");
                backoff.wait().await;
                continue;
            }
        };
        last_sent = Instant::now();
        let offset = std::mem::replace(&mut sent, end);
        flights.push_back(async move { (end, client.log(offset, bytes).await) });
    }
}

/// The spool's bytes from `from` to `to`, which are there.
fn read(spool: &File, from: u64, to: u64) -> std::io::Result<Vec<u8>> {
    let len = (to - from) as usize;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = from + bytes.len() as u64;
        match rustix::io::pread(spool, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Waits until `at`, or until a whole chunk is there, or the log is done.
async fn gather(written: &mut watch::Receiver<Written>, committed: u64, at: Instant) {
    let enough = |w: &Written| w.done || w.len >= committed + CHUNK;
    if timeout_at(at, written.wait_for(enough)).await.is_ok_and(|r| r.is_err()) {
        sleep_until(at).await;
    }
}
