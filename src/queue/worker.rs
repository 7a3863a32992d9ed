use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Handler, backoff};
use crate::clock::{Millis, SharedClock};
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};
use crate::store::{Store, StoreError};

const LEASE_MS: Millis = 60_000;
/// The poll is the truth, hints only shorten it.
const POLL_MS: u64 = 1000;
/// Between two looks at a busy queue, so that what comes in meanwhile shares a claim, and its commits, with its neighbours.
const PACE: Duration = Duration::from_millis(3);
/// The same in a burst: taking in what arrives comes before deciding it, and 1,600 decisions a second are far more than forges send.
const PACE_IN_BURST: Duration = Duration::from_millis(10);
/// So many items of one look, or under way, are a burst.
const BURST: usize = 16;
/// How long a stopping worker waits for handlers that are at it; what is left is rescued when its lease ends.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the handlers registered with it. Several workers, in one process or in many, may share a store.
#[derive(Clone)]
pub struct Worker {
    store: Store,
    clock: SharedClock,
    holder: String,
    lease_ms: Millis,
    desks: Vec<Desk>,
}

/// A handler and how many items it may look at together.
#[derive(Clone)]
struct Desk {
    handler: Arc<dyn Handler>,
    free: Arc<Semaphore>,
}

struct Claimed {
    desk: usize,
    item: WorkItem,
    _place: OwnedSemaphorePermit,
}

impl Worker {
    /// `holder` names this worker in leases; it must differ between workers.
    pub fn new(store: Store, clock: SharedClock, holder: impl Into<String>) -> Self {
        Self { store, clock, holder: holder.into(), lease_ms: LEASE_MS, desks: Vec::new() }
    }

    /// Adds a handler that looks at up to `at_once` items together.
    #[must_use]
    pub fn register(mut self, handler: Arc<dyn Handler>, at_once: usize) -> Self {
        self.desks.push(Desk { handler, free: Arc::new(Semaphore::new(at_once.max(1))) });
        self
    }

    /// Leases of this length, renewed six times as often. Tests use short ones.
    #[must_use]
    pub fn lease_ms(mut self, lease_ms: Millis) -> Self {
        self.lease_ms = lease_ms.max(60);
        self
    }

    /// Works until `shutdown`, then waits a little for handlers that are at it.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        while !shutdown.is_cancelled() {
            while tasks.try_join_next().is_some() {}
            let pause = match self.claim_due().await {
                Ok(claimed) if claimed.is_empty() => jittered(POLL_MS),
                Ok(claimed) => {
                    let pace = if claimed.len().max(tasks.len()) >= BURST { PACE_IN_BURST } else { PACE };
                    for one in claimed {
                        let worker = self.clone();
                        tasks.spawn(async move { worker.attend(one).await });
                    }
                    tokio::time::sleep(pace).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = %error, "cannot claim work");
                    tokio::time::sleep(jittered(POLL_MS)).await;
                    continue;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                // A place became free: there may be due items that found none.
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = self.store.work_hint(pause) => {}
            }
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("stopping while handlers are at work; their items are looked at again");
        }
    }

    /// For tests: attends to everything that is due by the clock, and to what that asks for, until nothing is due.
    /// Returns how many items were attended to.
    ///
    /// # Errors
    /// Those of the store, and "still not idle" after 100,000 items (two handlers that keep asking for each other).
    pub async fn run_until_idle(&self) -> anyhow::Result<usize> {
        let mut tasks = JoinSet::new();
        let mut attended = 0;
        loop {
            let claimed = self.claim_due().await?;
            attended += claimed.len();
            anyhow::ensure!(attended < 100_000, "the queue is still not idle after {attended} items");
            if claimed.is_empty() && tasks.is_empty() {
                return Ok(attended);
            }
            for one in claimed {
                let worker = self.clone();
                tasks.spawn(async move { worker.attend(one).await });
            }
            tasks.join_next().await;
        }
    }

    /// Leases due items for every desk that has a free place. Looks before it writes: an idle queue costs a read.
    async fn claim_due(&self) -> Result<Vec<Claimed>, StoreError> {
        let open: Vec<(usize, WorkKind)> = self
            .desks
            .iter()
            .enumerate()
            .filter(|(_, desk)| desk.free.available_permits() > 0)
            .map(|(index, desk)| (index, desk.handler.kind()))
            .collect();
        let now = self.clock.now_ms();
        let kinds: Vec<WorkKind> = open.iter().map(|(_, kind)| *kind).collect();
        let due = self.store.next_due_of(&kinds).await?;
        let is_due = |kind: WorkKind| due.iter().any(|(due, at)| *due == kind && *at <= now);
        // Side by side they share a commit.
        let claims = open
            .into_iter()
            .filter(|(_, kind)| is_due(*kind))
            .map(async |(desk, kind)| self.claim_for(desk, kind, now).await.map_err(|error| (kind, error)));
        let (mut claimed, mut failed) = (Vec::new(), None);
        for claim in join_all(claims).await {
            match claim {
                Ok(more) => claimed.extend(more),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some((_, error)) if claimed.is_empty() => return Err(error),
            // What is leased already is attended to; the next look meets the error again.
            Some((kind, error)) => tracing::warn!(work.kind = %kind, %error, "cannot claim work"),
            None => {}
        }
        Ok(claimed)
    }

    async fn claim_for(&self, desk: usize, kind: WorkKind, now: Millis) -> Result<Vec<Claimed>, StoreError> {
        let mut places = Vec::new();
        while let Ok(place) = self.desks[desk].free.clone().try_acquire_owned() {
            places.push(place);
        }
        let items = self.store.claim(&[kind], &self.holder, now, self.lease_ms, places.len() as i64).await?;
        let seat = |(place, item)| Claimed { desk, item, _place: place };
        Ok(places.into_iter().zip(items).map(seat).collect())
    }

    /// Looks at one item with its lease kept alive. Never panics and never fails: what goes wrong is settled or logged.
    async fn attend(&self, claimed: Claimed) {
        let Claimed { desk, item, _place } = claimed;
        let handler = &self.desks[desk].handler;
        let mut work = {
            let (item, handler) = (item.clone(), handler.clone());
            // A task of its own: a panic in it ends here, and losing the lease ends it.
            AbortOnDropHandle::new(tokio::spawn(async move { handler.handle(&item).await }))
        };
        let mut beat = tokio::time::interval(Duration::from_millis((self.lease_ms / 6).max(10) as u64));
        beat.tick().await;
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = beat.tick() => match self.store.heartbeat_work(&item, self.clock.now_ms(), self.lease_ms).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tracing::warn!(work.kind = %item.kind, work.key = %item.key, "lost the lease; the result is dropped");
                        return;
                    }
                    Err(error) => tracing::warn!(work.kind = %item.kind, work.key = %item.key, %error, "cannot renew a lease"),
                },
            }
        };
        let outcome = match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => self.failed(&item, handler.as_ref(), &error),
            Err(join) => self.failed(&item, handler.as_ref(), &anyhow::Error::msg(panic_text(join))),
        };
        match self.store.settle(&item, outcome, self.clock.now_ms()).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(work.kind = %item.kind, work.key = %item.key, "lost the lease; the result is dropped");
            }
            // The lease runs out and the item is looked at again.
            Err(error) => {
                tracing::error!(work.kind = %item.kind, work.key = %item.key, %error, "cannot settle work");
            }
        }
    }

    /// Logs the failure, once, with its whole chain, and says what becomes of the item.
    fn failed(&self, item: &WorkItem, handler: &dyn Handler, error: &anyhow::Error) -> WorkOutcome {
        let tries = item.tries + 1;
        let parked = handler.parks_after(error).is_some_and(|limit| tries >= limit);
        let error = format!("{error:#}");
        tracing::warn!(work.kind = %item.kind, work.key = %item.key, work.tries = tries, work.parked = parked, error, "work failed");
        if parked {
            WorkOutcome::Park { error }
        } else {
            WorkOutcome::Retry { at_ms: self.clock.now_ms() + backoff(item.tries), error }
        }
    }
}

fn panic_text(join: tokio::task::JoinError) -> String {
    if !join.is_panic() {
        return "its task was stopped".into();
    }
    let payload = join.into_panic();
    let text = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "no message".into());
    format!("the handler panicked: {text}")
}

fn jittered(ms: u64) -> Duration {
    Duration::from_millis((ms as f64 * (0.8 + 0.4 * rand::random::<f64>())) as u64)
}
