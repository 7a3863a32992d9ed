//! Hints inside this process that something has grown. Only hints: whoever follows reads the store, and polls it anyway.

use tokio::sync::broadcast;

use crate::model::{AttemptRank, RunId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The rank's log has more bytes, or the rank has ended.
    Log(AttemptRank),
    /// The run has more metric points, or an attempt of it has started or ended.
    Run(RunId),
}

/// Sends hints to whoever follows. A follower that is too slow misses some (`RecvError::Lagged`): it must then look at the store.
#[derive(Debug, Clone)]
pub struct Live(broadcast::Sender<Hint>);

impl Live {
    pub fn new() -> Self {
        Self(broadcast::channel(1024).0)
    }
    pub fn tell(&self, hint: Hint) {
        let _ = self.0.send(hint); // an error means that nobody follows
    }
    pub fn follow(&self) -> broadcast::Receiver<Hint> {
        self.0.subscribe()
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}
