//! New data as an event. A pipeline of the default branch may name places (`when: {event: data, prefix: …}`); their listings are
//! taken now and then, and one that changed and then stayed is handed in as a delivery of our own, so that from there on it is
//! stored, decided once and can be replayed like a push.
//!
//! Must not: read the data, list what the configuration does not allow to the repository, make runs.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use trainyard_data::source::{Listing, listing};

use crate::clock::{Millis, SharedClock};
use crate::config::Config;
use crate::model::{Actor, DataChange, DeliveryRowId, Event, EventKind, RepoId, RepoRef};
use crate::queue::Handler;
use crate::store::Store;
use crate::store::deliveries::NewDelivery;
use crate::store::pulls::RepoRow;
use crate::store::watches::WatchRow;
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};

/// The hook of our own deliveries; no configured one can be named so.
pub const DATA_HOOK: &str = "@data";

/// What a look at a place means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The first look: what lies there was there when the pipeline began to watch.
    First,
    Same,
    /// It differs from what runs know, and from what was seen last: perhaps it is being written.
    Settling,
    /// It differs, and nobody touched it since the last look.
    Changed,
}

/// Compares a listing with what is known. Pure.
pub fn seen(row: &WatchRow, digest: &str) -> Seen {
    match (&row.digest, &row.seen) {
        (None, _) => Seen::First,
        (Some(known), _) if known == digest => Seen::Same,
        (_, Some(last)) if last == digest => Seen::Changed,
        _ => Seen::Settling,
    }
}

/// Looks for new data, repository by repository.
#[derive(Debug)]
pub struct DataWatcher {
    store: Store,
    clock: SharedClock,
    config: Arc<Config>,
}

impl DataWatcher {
    pub fn new(store: Store, clock: SharedClock, config: Arc<Config>) -> Self {
        Self { store, clock, config }
    }

    async fn look(&self, repo: &RepoRow, row: WatchRow) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        let before = row.changes;
        let allowed = self
            .config
            .repository(&repo.forge, repo.name.as_str())
            .is_some_and(|repository| repository.may_watch(&row.prefix));
        let found = if allowed {
            list(&row.prefix).await
        } else {
            Err(format!(
                "{} may not be watched: add it, or what it lies in, to `data` of [[repository]] {}",
                row.prefix, repo.name
            ))
        };
        let next = match found {
            Err(error) => {
                tracing::warn!(repo = %repo.name, pipeline = row.pipeline, error, "cannot look for new data");
                WatchRow { looked_ms: Some(now), error, ..row }
            }
            Ok(found) => {
                let what = seen(&row, &found.digest);
                if what == Seen::Changed {
                    self.hand_in(repo, &row, &found, now).await?;
                }
                after(row, what, &found, now)
            }
        };
        self.store.note_watch(next, before).await.context("cannot note what was seen")?;
        Ok(())
    }

    /// Stores the change as a delivery. Its id is that of this change, so a crash before the change is noted hands in the same one.
    async fn hand_in(
        &self,
        repo: &RepoRow,
        row: &WatchRow,
        found: &Listing,
        now: Millis,
    ) -> anyhow::Result<()> {
        let event = Event {
            repo: RepoRef {
                forge_id: repo.forge_id.clone(),
                name: repo.name.clone(),
                default_branch: repo.default_branch.clone(),
            },
            actor: Actor { id: String::new(), login: "new data".into() },
            kind: EventKind::Data(DataChange {
                branch: row.branch.clone(),
                sha: row.sha.clone(),
                pipeline: row.pipeline.clone(),
                prefix: row.prefix.clone(),
                digest: found.digest.clone(),
                files: found.files,
                bytes: found.bytes,
            }),
        };
        let delivery = NewDelivery {
            id: DeliveryRowId::generate(now),
            forge: repo.forge.clone(),
            hook_id: DATA_HOOK.into(),
            delivery_id: format!("{}:{}:{}:{}", repo.id, row.pipeline, row.changes + 1, found.digest),
            event: event.kind.word().into(),
            content_type: "application/json".into(),
            headers: Vec::new(),
            body: serde_json::to_vec(&event).context("cannot write a note of new data")?,
            received_ms: now,
            ignored: None,
        };
        self.store.deliver(delivery).await.context("cannot hand in new data")?;
        tracing::info!(repo = %repo.name, pipeline = row.pipeline, prefix = row.prefix, files = found.files, "new data");
        Ok(())
    }
}

/// What is known after a look.
fn after(row: WatchRow, what: Seen, found: &Listing, now: Millis) -> WatchRow {
    let digest = found.digest.clone();
    let row = WatchRow {
        files: i64::try_from(found.files).unwrap_or(i64::MAX),
        bytes: i64::try_from(found.bytes).unwrap_or(i64::MAX),
        looked_ms: Some(now),
        error: String::new(),
        ..row
    };
    match what {
        Seen::First => WatchRow { digest: Some(digest), seen: None, ..row },
        Seen::Same => WatchRow { seen: None, ..row },
        Seen::Settling => WatchRow { seen: Some(digest), ..row },
        Seen::Changed => WatchRow { digest: Some(digest), seen: None, changes: row.changes + 1, ..row },
    }
}

async fn list(prefix: &str) -> Result<Listing, String> {
    let prefix = prefix.to_owned();
    match tokio::task::spawn_blocking(move || listing(&prefix)).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the listing ended early: {error}")),
    }
}

#[async_trait]
impl Handler for DataWatcher {
    fn kind(&self) -> WorkKind {
        WorkKind::Data
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        let id = RepoId::from_text(item.key.as_str());
        let Some(repo) = self.store.repo(&id).await.context("cannot read the repository")? else {
            return Ok(WorkOutcome::Done);
        };
        let watches = self.store.data_watches(&id).await.context("cannot read what is watched")?;
        if watches.is_empty() {
            return Ok(WorkOutcome::Done);
        }
        for row in watches {
            self.look(&repo, row).await?;
        }
        Ok(WorkOutcome::Again { at_ms: self.clock.now_ms() + self.config.limits.data_poll_s * 1000 })
    }
}

#[cfg(test)]
mod tests {
    use super::Seen::{Changed, First, Same, Settling};
    use super::*;
    use crate::model::Sha;

    #[test]
    fn a_listing_counts_when_it_stayed_for_a_look() {
        let mut row = WatchRow {
            repo_id: RepoId::from_text("r"),
            pipeline: "churn".into(),
            prefix: "/data/".into(),
            branch: "main".into(),
            sha: Sha::parse(&"a".repeat(40)).expect("a sha"),
            digest: None,
            seen: None,
            changes: 0,
            files: 0,
            bytes: 0,
            looked_ms: None,
            error: String::new(),
        };
        let mut said = Vec::new();
        // The letters are listings; `b` then `c`: somebody is still writing.
        for digest in ["a", "a", "b", "c", "c", "c", "a", "c", "a", "a"] {
            let found = Listing { digest: digest.into(), files: 1, bytes: 1 };
            let what = seen(&row, digest);
            row = after(row, what, &found, 1);
            said.push((what, row.changes));
        }
        assert_eq!(
            said,
            [
                (First, 0),
                (Same, 0),
                (Settling, 0),
                (Settling, 0),
                (Changed, 1),
                (Same, 1),
                (Settling, 1),
                (Same, 1),
                (Settling, 1),
                (Changed, 2)
            ]
        );
    }
}
