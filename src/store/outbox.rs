//! What forges should show, and what they were last told (G7).

use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::state::states;
use crate::model::{OutboxId, RepoId};

states! {
    OutboxKind, "outbox kind" {
        /// Target `sha/context`.
        Status = "status",
        /// Target: the pull request's number.
        Comment = "comment",
    }
}

states! {
    OutboxState, "outbox state" {
        Pending = "pending",
        Sent = "sent",
        /// The forge refused it for good (401, 404, 410, 422, 451, or the budget is spent); shown to operators.
        Dead = "dead",
    }
}

/// What a forge should show. Writing the same again changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Desire {
    /// The forge's configured name: one sender for each.
    pub credential: String,
    pub repo_id: RepoId,
    pub kind: OutboxKind,
    pub target: String,
    /// The body of the call, made by `report`.
    pub desired: serde_json::Value,
    /// Final ones are never coalesced away and go first when the budget is short.
    pub last: bool,
    /// Not before this time (coalescing).
    pub not_before_ms: Millis,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    pub id: OutboxId,
    pub credential: String,
    pub repo_id: RepoId,
    pub kind: OutboxKind,
    pub target: String,
    pub desired: serde_json::Value,
    pub desired_seq: i64,
    pub sent_seq: i64,
    pub last: bool,
    pub state: OutboxState,
    /// How many times the forge accepted a write for this row.
    pub writes: i64,
    /// The comment's id at the forge, once known.
    pub remote_id: String,
    pub next_ms: Millis,
    pub tries: i64,
    pub last_error: String,
    pub updated_ms: Millis,
}

impl Store {
    /// Raises `desired_seq` when `desired` differs, and asks for the credential's outbox work. True: something changed.
    pub async fn desire(&self, desire: Desire, now: Millis) -> Result<bool, StoreError> {
        let _ = (desire, now);
        todo!()
    }
    /// Rows of a credential to send now, final ones first, then oldest.
    pub async fn outbox_due(
        &self,
        credential: &str,
        now: Millis,
        limit: i64,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let _ = (credential, now, limit);
        todo!()
    }
    /// When the credential's next row falls due.
    pub async fn outbox_next(&self, credential: &str) -> Result<Option<Millis>, StoreError> {
        let _ = credential;
        todo!()
    }
    /// The forge accepted `seq`. Stays pending when a newer one is desired by now.
    pub async fn outbox_sent(
        &self,
        id: &OutboxId,
        seq: i64,
        remote_id: &str,
        now: Millis,
    ) -> Result<(), StoreError> {
        let _ = (id, seq, remote_id, now);
        todo!()
    }
    pub async fn outbox_defer(
        &self,
        id: &OutboxId,
        next_ms: Millis,
        error: &str,
        now: Millis,
    ) -> Result<(), StoreError> {
        let _ = (id, next_ms, error, now);
        todo!()
    }
    /// Given up for this `seq`; a newer desire makes it pending again.
    pub async fn outbox_dead(
        &self,
        id: &OutboxId,
        seq: i64,
        error: &str,
        now: Millis,
    ) -> Result<(), StoreError> {
        let _ = (id, seq, error, now);
        todo!()
    }
    pub async fn outbox_row(
        &self,
        repo: &RepoId,
        kind: OutboxKind,
        target: &str,
    ) -> Result<Option<OutboxRow>, StoreError> {
        let _ = (repo, kind, target);
        todo!()
    }
}
