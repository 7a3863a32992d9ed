//! Chunks of logs that this process is storing. While one is written and committed the next is masked and written already: it
//! needs the bytes before it, which are here before they are stored.
//!
//! Only a help: whoever finds nothing here waits for the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use crate::model::AttemptRank;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogTurns(Arc<Turns>);

#[derive(Debug, Default)]
struct Turns {
    /// By the log and its length with the chunk.
    chunks: Mutex<HashMap<(AttemptRank, i64), Chunk>>,
    taken: Notify,
}

/// A chunk that is being stored.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its last bytes, with those before it where it is short, as they will be stored; none where they were not masked.
    pub tail: Option<Bytes>,
    committed: watch::Receiver<bool>,
}

impl Chunk {
    /// Waits until its row is committed (true), or it is not, as far as is known.
    pub async fn committed(mut self) -> bool {
        self.committed.wait_for(|committed| *committed).await.is_ok()
    }
}

/// Held while the chunk is being stored; let go of without [`Turn::commit`], it has failed.
#[derive(Debug)]
pub struct Turn {
    turns: LogTurns,
    of: (AttemptRank, i64),
    committed: watch::Sender<bool>,
}

impl LogTurns {
    /// Of two that store the same stretch of a log, which the store settles, the later one is known.
    pub fn take(&self, of: &AttemptRank, end: i64, tail: Option<Bytes>) -> Turn {
        let (committed, receiver) = watch::channel(false);
        let of = (of.clone(), end);
        self.lock().insert(of.clone(), Chunk { tail, committed: receiver });
        self.0.taken.notify_waiters();
        Turn { turns: self.clone(), of, committed }
    }

    /// The chunk in hand that ends where one at `offset` begins.
    pub fn before(&self, of: &AttemptRank, offset: i64) -> Option<Chunk> {
        self.lock().get(&(of.clone(), offset)).cloned()
    }

    /// Ready when a chunk of any log is next taken in hand: from the call on, not from when it is first waited for.
    pub fn taken(&self) -> Notified<'_> {
        self.0.taken.notified()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(AttemptRank, i64), Chunk>> {
        self.0.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    pub fn commit(self) {
        self.committed.send_replace(true);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut chunks = self.turns.lock();
        if chunks.get(&self.of).is_some_and(|chunk| chunk.committed.same_channel(&self.committed.subscribe()))
        {
            chunks.remove(&self.of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chunk_is_known_until_it_is_stored_or_has_failed() {
        let (turns, of) =
            (LogTurns::default(), AttemptRank::new(&crate::model::AttemptUid::from_text("a"), 0));
        let first = turns.take(&of, 10, None);
        assert!(turns.before(&of, 9).is_none());
        let (known, failing) = (turns.before(&of, 10).unwrap(), turns.before(&of, 10).unwrap());
        let again = turns.take(&of, 10, Some(Bytes::from_static(b"again")));
        let second = turns.take(&of, 20, Some(Bytes::from_static(b"tail")));
        first.commit();
        assert!(known.committed().await, "also where another took its place");
        drop(failing);
        assert_eq!(turns.before(&of, 10).unwrap().tail.as_deref(), Some(b"again".as_slice()));
        let failing = turns.before(&of, 20).unwrap();
        assert_eq!(failing.tail.as_deref(), Some(b"tail".as_slice()));
        drop((second, again));
        assert!(!failing.committed().await);
        assert!(turns.before(&of, 20).is_none() && turns.lock().is_empty());
    }
}
