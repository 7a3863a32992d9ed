//! Webhook deliveries: durable before they are acknowledged (G1), unique by forge, hook and delivery id (G2).

use std::collections::BTreeMap;

use super::runs::NewRun;
use super::work::WorkAsk;
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{DeliveryRowId, DeliveryState, PullRequest, RepoId, RepoRef, RunId, Sha};

/// A verified request, about to be stored.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    pub id: DeliveryRowId,
    pub forge: String,
    pub hook_id: String,
    pub delivery_id: String,
    /// The forge's own event word (`X-GitHub-Event`).
    pub event: String,
    pub content_type: String,
    /// The headers worth keeping; never an authorization or a signature.
    pub headers: BTreeMap<String, String>,
    /// As received; the store compresses it (zstd level 1).
    pub body: Vec<u8>,
    pub received_ms: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// On disk, with its work item, in one commit.
    Stored,
    /// Seen before; nothing was written. `same_body` is false when the id was reused for another body.
    Seen { same_body: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    pub id: DeliveryRowId,
    pub forge: String,
    pub hook_id: String,
    pub delivery_id: String,
    pub event: String,
    pub content_type: String,
    pub headers: BTreeMap<String, String>,
    pub body_bytes: i64,
    pub body_sha256: String,
    pub received_ms: Millis,
    pub state: DeliveryState,
    pub reason: String,
    pub decided_ms: Option<Millis>,
}

/// Everything that one delivery decided, committed in one transaction.
#[derive(Debug, Clone)]
pub struct IntakeCommit {
    pub delivery: DeliveryRowId,
    /// `Done`, `Ignored` or `BadPayload`.
    pub state: DeliveryState,
    /// One line for people: what was decided and why.
    pub reason: String,
    /// (repo row, as last seen): inserted or updated.
    pub pulls: Vec<(RepoId, PullRequest)>,
    /// Inserted; a run whose identity exists already is left alone (push and pull request of one head are one run).
    pub runs: Vec<NewRun>,
    /// Runs that should stop, with the reason shown to people: sets `cancel_request`.
    pub cancel: Vec<(RunId, String)>,
    /// Held runs that a trusted twin replaces.
    pub supersede_held: Vec<(RunId, String)>,
    pub asks: Vec<WorkAsk>,
}

impl Store {
    /// Stores a verified delivery and its work item. Returns after the commit is on disk.
    pub async fn deliver(&self, new: NewDelivery) -> Result<Delivered, StoreError> {
        let _ = new;
        todo!()
    }
    pub async fn delivery(&self, id: &DeliveryRowId) -> Result<Option<DeliveryRow>, StoreError> {
        let _ = id;
        todo!()
    }
    /// The raw body; None when retention emptied it.
    pub async fn delivery_body(&self, id: &DeliveryRowId) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = id;
        todo!()
    }
    /// Finds by row id, or by the forge's delivery id when that is unambiguous.
    pub async fn find_delivery(&self, text: &str) -> Result<Option<DeliveryRow>, StoreError> {
        let _ = text;
        todo!()
    }
    /// The row of a repository, made or brought up to date (renames) on the way.
    pub async fn upsert_repo(&self, forge: &str, repo: &RepoRef, now: Millis) -> Result<RepoId, StoreError> {
        let _ = (forge, repo, now);
        todo!()
    }
    /// Commits what a delivery decided. Returns the ids of the runs that are new. Repeating it changes nothing: a
    /// delivery that is no longer `stored` is left alone.
    pub async fn commit_intake(&self, commit: IntakeCommit, now: Millis) -> Result<Vec<RunId>, StoreError> {
        let _ = (commit, now);
        todo!()
    }
    /// Sets a decided or parked delivery back to `stored` and asks for it again. False: no such row.
    pub async fn replay_delivery(&self, id: &DeliveryRowId, now: Millis) -> Result<bool, StoreError> {
        let _ = (id, now);
        todo!()
    }
    /// Open runs of one head, any pipeline.
    pub async fn runs_of_sha(
        &self,
        repo: &RepoId,
        sha: &Sha,
    ) -> Result<Vec<super::runs::RunRow>, StoreError> {
        let _ = (repo, sha);
        todo!()
    }
}
