//! What forges should show, and what they were last told (G7).

use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::work::{WorkAsk, WorkKind, ask_in};
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
        /// The forge refused it (401, 403 and 404 several times, 410, 422, 451), or the budget is spent; tried again at times, see
        /// [`Store::outbox_revive`], and shown to operators.
        Dead = "dead",
    }
}

/// What was given up is tried again while it is younger than this.
pub const REVIVED_MS: Millis = 7 * 24 * 3_600_000;

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

macro_rules! select_outbox {
    ($rest:literal) => {
        concat!(
            "SELECT id, credential, repo_id, kind, target, desired, desired_seq, sent_seq, final, state, writes, remote_id, next_ms,
               tries, last_error, updated_ms FROM outbox WHERE ",
            $rest
        )
    };
}

impl OutboxRow {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            credential: row.get("credential")?,
            repo_id: row.get("repo_id")?,
            kind: row.word("kind")?,
            target: row.get("target")?,
            desired: row.json("desired")?,
            desired_seq: row.get("desired_seq")?,
            sent_seq: row.get("sent_seq")?,
            last: row.get("final")?,
            state: row.word("state")?,
            writes: row.get("writes")?,
            remote_id: row.get("remote_id")?,
            next_ms: row.get("next_ms")?,
            tries: row.get("tries")?,
            last_error: row.get("last_error")?,
            updated_ms: row.get("updated_ms")?,
        })
    }
}

async fn find(
    conn: &mut Conn,
    repo: &RepoId,
    kind: OutboxKind,
    target: &str,
) -> Result<Option<OutboxRow>, StoreError> {
    one!(
        conn,
        OutboxRow::read,
        select_outbox!("repo_id = $1 AND kind = $2 AND target = $3"),
        repo,
        kind.word(),
        target
    )
}

impl Store {
    /// Raises `desired_seq` when `desired` differs, and asks for the credential's outbox work. True: something changed.
    ///
    /// A row that waits keeps the earlier of both times, so that a stream of changes cannot put its sending off; one that
    /// waits out a failure keeps its back-off.
    pub async fn desire(&self, desire: Desire, now: Millis) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let text = to_json(&desire.desired)?;
                let new = execute!(
                    tx,
                    "INSERT INTO outbox (id, credential, repo_id, kind, target, desired, desired_seq, final, state, next_ms, created_ms,
                       updated_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, 1, $7, 'pending', $8, $9, $9)
                     ON CONFLICT (repo_id, kind, target) DO NOTHING",
                    OutboxId::generate(now),
                    &desire.credential,
                    &desire.repo_id,
                    desire.kind.word(),
                    &desire.target,
                    &text,
                    desire.last,
                    desire.not_before_ms,
                    now
                )?;
                let mut at_ms = desire.not_before_ms;
                if new == 0 {
                    let known = find(tx, &desire.repo_id, desire.kind, &desire.target).await?;
                    let Some(known) = known.filter(|known| known.desired != desire.desired) else {
                        return Ok(false);
                    };
                    let waits = known.state == OutboxState::Pending;
                    let failing = waits && known.tries > 0;
                    if failing {
                        at_ms = known.next_ms;
                    } else if waits {
                        at_ms = at_ms.min(known.next_ms);
                    }
                    execute!(
                        tx,
                        "UPDATE outbox SET credential = $2, desired = $3, desired_seq = desired_seq + 1, final = $4,
                           state = 'pending', next_ms = $5, tries = $6, updated_ms = $7 WHERE id = $1",
                        &known.id,
                        &desire.credential,
                        &text,
                        desire.last,
                        at_ms,
                        if failing { known.tries } else { 0 },
                        now
                    )?;
                }
                let ask = WorkAsk { kind: WorkKind::Outbox, key: desire.credential, at_ms };
                ask_in(tx, &[ask], now).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Rows of a credential to send now: final ones first, those that never failed before others, then oldest. Of one kind alone if that is all that may be written.
    pub async fn outbox_due(
        &self,
        credential: &str,
        only: Option<OutboxKind>,
        now: Millis,
        limit: i64,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            OutboxRow::read,
            select_outbox!(
                "credential = $1 AND state = 'pending' AND next_ms <= $2 AND ($4 IS NULL OR kind = $4)
                 ORDER BY final DESC, CASE WHEN tries > 0 THEN 1 ELSE 0 END, updated_ms, id LIMIT $3"
            ),
            credential,
            now,
            limit,
            only.map(OutboxKind::word)
        )
    }

    /// When the credential's next row of each kind falls due.
    pub async fn outbox_next(&self, credential: &str) -> Result<Vec<(OutboxKind, Millis)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((row.word("kind")?, row.get("next_ms")?)),
            "SELECT kind, MIN(next_ms) AS next_ms FROM outbox WHERE credential = $1 AND state = 'pending' GROUP BY kind ORDER BY kind",
            credential
        )
    }

    /// The forge accepted `seq`. Stays pending when a newer one is desired by now. An empty `remote_id` leaves the known one.
    pub async fn outbox_sent(
        &self,
        id: &OutboxId,
        seq: i64,
        remote_id: &str,
        now: Millis,
    ) -> Result<(), StoreError> {
        let (id, remote_id) = (id.clone(), remote_id.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE outbox SET sent_seq = $2, writes = writes + 1, tries = 0, last_error = '', updated_ms = $4,
                       remote_id = CASE WHEN $3 = '' THEN remote_id ELSE $3 END,
                       state = CASE WHEN desired_seq = $2 THEN 'sent' ELSE 'pending' END
                     WHERE id = $1 AND sent_seq < $2",
                    &id,
                    seq,
                    &remote_id,
                    now
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// It failed for now: not again before `next_ms`. Counts as a try.
    pub async fn outbox_defer(
        &self,
        id: &OutboxId,
        next_ms: Millis,
        error: &str,
        now: Millis,
    ) -> Result<(), StoreError> {
        let (id, error) = (id.clone(), error.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE outbox SET next_ms = $2, tries = tries + 1, last_error = $3, updated_ms = $4
                     WHERE id = $1 AND state = 'pending'",
                    &id,
                    next_ms,
                    &error,
                    now
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Given up for this `seq`; a newer desire makes it pending again. Counts as a try.
    pub async fn outbox_dead(
        &self,
        id: &OutboxId,
        seq: i64,
        error: &str,
        now: Millis,
    ) -> Result<(), StoreError> {
        let (id, error) = (id.clone(), error.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE outbox SET state = 'dead', tries = tries + 1, last_error = $3, updated_ms = $4
                     WHERE id = $1 AND desired_seq = $2 AND state = 'pending'",
                    &id,
                    seq,
                    &error,
                    now
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Makes rows that were given up pending again, if what they speak of began at `since` or later, and asks for each of these
    /// credentials' outbox work, given up or not. They keep their tries, so they hold up none that never failed.
    pub async fn outbox_revive(
        &self,
        credentials: Vec<String>,
        since: Millis,
        now: Millis,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                for credential in &credentials {
                    execute!(
                        tx,
                        "UPDATE outbox SET state = 'pending', next_ms = $3
                         WHERE credential = $1 AND state = 'dead' AND created_ms >= $2",
                        credential,
                        since,
                        now
                    )?;
                }
                let ask = |key| WorkAsk { kind: WorkKind::Outbox, key, at_ms: now };
                ask_in(tx, &credentials.into_iter().map(ask).collect::<Vec<_>>(), now).await
            })
        })
        .await
    }

    /// What a forge was not told: given up, or refused several times, and begun at `since` or later. Newest first, for `doctor`.
    pub async fn outbox_untold(
        &self,
        credential: &str,
        since: Millis,
        limit: i64,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            OutboxRow::read,
            select_outbox!(
                "credential = $1 AND (state = 'dead' OR state = 'pending' AND tries > 3) AND created_ms >= $2
                 ORDER BY updated_ms DESC, id LIMIT $3"
            ),
            credential,
            since,
            limit
        )
    }

    /// What the forge should show in one place.
    pub async fn outbox_row(
        &self,
        repo: &RepoId,
        kind: OutboxKind,
        target: &str,
    ) -> Result<Option<OutboxRow>, StoreError> {
        let mut conn = self.read().await?;
        find(&mut conn, repo, kind, target).await
    }
}
