//! The handler behind `outbox` work: sends what is due with one credential.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::lane::Lane;
use crate::clock::{Millis, SharedClock};
use crate::failpoint;
use crate::forge::{Forge, ForgeError, Forges, Status};
use crate::model::{Actor, OutboxId, RepoName, Sha};
use crate::queue::Handler;
use crate::store::outbox::{OutboxKind, OutboxRow};
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};
use crate::store::{Store, StoreError};

/// Rows looked at in one pass; more are left for the next, so that the lease stays short.
const PASS: usize = 30;
/// A 404 may pass (a replica that lags, a repository that was made just now): it is tried this often in all.
const MISSES: u32 = 3;
/// So may 401 and 403 (a token that is renewed, a permission that is being set, a list of allowed addresses): this often, which with
/// the back-off between takes 12 minutes or more. What is given up then comes back by [`Store::outbox_revive`].
const REFUSALS: u32 = 10;
const FIRST_RETRY_MS: Millis = 2_000;
const LONGEST_RETRY_MS: Millis = 600_000;
/// GitHub takes 1,000 statuses for one commit and context and refuses all later ones, for ever. Words that are not
/// final stop early; final ones may go on.
const STATUSES: i64 = 40;
const FINAL_STATUSES: i64 = 200;
/// Marks a comment's id when people deleted the one before it. If they do so again, it stays deleted.
const AGAIN: &str = " again";

/// One for all forges; each credential has one work item, so each has one sender at a time.
#[derive(Debug)]
pub struct Sender {
    store: Store,
    forges: Arc<Forges>,
    clock: SharedClock,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    lanes: HashMap<String, Lane>,
    /// Who our own comments are from.
    accounts: HashMap<String, Actor>,
    /// Refusals of a row at one `desired_seq`.
    refusals: HashMap<OutboxId, (i64, u32)>,
}

#[async_trait]
impl Handler for Sender {
    fn kind(&self) -> WorkKind {
        WorkKind::Outbox
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        let credential = &item.key;
        let Some(forge) = self.forges.get(credential) else {
            return Ok(WorkOutcome::Park {
                error: format!(
                    "forge {credential} is not configured any more; add [forge.{credential}] again to send what waits for it"
                ),
            });
        };
        for _ in 0..PASS {
            match self.take(credential).await.context("cannot read the outbox")? {
                Ok(row) => self.send(credential, forge.as_ref(), &row).await?,
                Err(Some(at_ms)) => return Ok(WorkOutcome::Again { at_ms }),
                Err(None) => return Ok(WorkOutcome::Done),
            }
        }
        Ok(WorkOutcome::Again { at_ms: self.clock.now_ms() })
    }
}

impl Sender {
    pub fn new(store: Store, forges: Arc<Forges>, clock: SharedClock) -> Self {
        Self { store, forges, clock, memory: Mutex::default() }
    }

    /// The row to send now, its token taken; else when to come back, or None when nothing waits. Comments may be written less often
    /// than statuses, so any number of them that wait holds up no status.
    async fn take(&self, credential: &str) -> Result<Result<OutboxRow, Option<Millis>>, StoreError> {
        let now = self.clock.now_ms();
        let (status_ms, comment_ms) = {
            let mut memory = self.memory.lock().await;
            let lane = memory.lanes.entry(credential.to_owned()).or_default();
            if let Some(at_ms) = lane.resting(now) {
                return Ok(Err(Some(at_ms)));
            }
            (lane.ready_ms(OutboxKind::Status, now), lane.ready_ms(OutboxKind::Comment, now))
        };
        if status_ms <= now {
            let only = (comment_ms > now).then_some(OutboxKind::Status);
            if let Some(row) = self.store.outbox_due(credential, only, now, 1).await?.pop() {
                let mut memory = self.memory.lock().await;
                memory.lanes.entry(credential.to_owned()).or_default().spend(row.kind);
                return Ok(Ok(row));
            }
        }
        let next = self.store.outbox_next(credential).await?.into_iter();
        let ready = |kind| if kind == OutboxKind::Comment { comment_ms } else { status_ms };
        Ok(Err(next.map(|(kind, at_ms)| at_ms.max(ready(kind))).min()))
    }

    async fn send(&self, credential: &str, forge: &dyn Forge, row: &OutboxRow) -> anyhow::Result<()> {
        let repo = self.store.repo(&row.repo_id).await.context("cannot read an outbox row's repository")?;
        let Some(repo) = repo else {
            return self.dead(row, "its repository has no row").await;
        };
        if row.kind == OutboxKind::Status && row.writes >= if row.last { FINAL_STATUSES } else { STATUSES } {
            return self
                .dead(row, "the budget of statuses for this commit and context is spent; the forge would soon refuse all")
                .await;
        }
        failpoint::hit("outbox.send.before");
        let sent = match row.kind {
            OutboxKind::Status => self.send_status(forge, &repo.name, row).await,
            OutboxKind::Comment => self.send_comment(credential, forge, &repo.name, row).await,
        };
        failpoint::hit("outbox.send.after");
        match sent {
            Ok(remote_id) => {
                let mut memory = self.memory.lock().await;
                memory.refusals.remove(&row.id);
                memory.lanes.entry(credential.to_owned()).or_default().answered();
                drop(memory);
                self.store
                    .outbox_sent(&row.id, row.desired_seq, &remote_id, self.clock.now_ms())
                    .await
                    .context("cannot mark an outbox row as sent")?;
                failpoint::hit("outbox.sent");
                Ok(())
            }
            Err(Failure::Broken(why) | Failure::LeftAlone(why)) => self.dead(row, &why).await,
            Err(Failure::Forge(error)) => self.failed(credential, row, error).await,
        }
    }

    async fn send_status(
        &self,
        forge: &dyn Forge,
        repo: &RepoName,
        row: &OutboxRow,
    ) -> Result<String, Failure> {
        let broken = |what: &str| Failure::Broken(format!("the row cannot be read: {what}"));
        let (sha, _) = row.target.split_once('/').ok_or_else(|| broken("its target is not sha/context"))?;
        let sha = Sha::parse(sha).map_err(|e| broken(&e.to_string()))?;
        let status: Status =
            serde_json::from_value(row.desired.clone()).map_err(|e| broken(&e.to_string()))?;
        forge.set_status(repo, &sha, &status).await?;
        Ok(String::new())
    }

    /// Edits our comment on the pull request; writes it when there is none. Returns its id.
    async fn send_comment(
        &self,
        credential: &str,
        forge: &dyn Forge,
        repo: &RepoName,
        row: &OutboxRow,
    ) -> Result<String, Failure> {
        let broken = |what: &str| Failure::Broken(format!("the row cannot be read: {what}"));
        let number: i64 = row.target.parse().map_err(|_| broken("its target is not a number"))?;
        let body = row.desired["body"].as_str().ok_or_else(|| broken("it has no body"))?;
        let marker = body.lines().next().unwrap_or_default();

        let (known, again) = match row.remote_id.strip_suffix(AGAIN) {
            Some(id) => (id, true),
            None => (row.remote_id.as_str(), false),
        };
        if !known.is_empty() {
            match forge.edit_comment(repo, known, body).await {
                Ok(()) => return Ok(row.remote_id.clone()),
                Err(ForgeError::NotFound { .. } | ForgeError::Refused { status: 404 | 410, .. }) if again => {
                    return Err(Failure::LeftAlone(
                        "its comment was deleted twice, so it stays deleted".into(),
                    ));
                }
                Err(ForgeError::NotFound { .. } | ForgeError::Refused { status: 404 | 410, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let suffix = if known.is_empty() { "" } else { AGAIN };
        let us = self.account(credential, forge).await?;
        let ours = |c: &crate::forge::Comment| c.author.id == us.id && c.body.lines().next() == Some(marker);
        let found = forge.comments(repo, number).await?.into_iter().find(ours).filter(|c| c.id != known);
        let id = if let Some(comment) = found {
            forge.edit_comment(repo, &comment.id, body).await?;
            comment.id
        } else {
            if !known.is_empty() {
                let mut memory = self.memory.lock().await;
                memory.lanes.entry(credential.to_owned()).or_default().spend(OutboxKind::Comment);
            }
            forge.create_comment(repo, number, body).await?
        };
        Ok(format!("{id}{suffix}"))
    }

    async fn account(&self, credential: &str, forge: &dyn Forge) -> Result<Actor, ForgeError> {
        if let Some(account) = self.memory.lock().await.accounts.get(credential) {
            return Ok(account.clone());
        }
        let account = forge.whoami().await?;
        self.memory.lock().await.accounts.insert(credential.to_owned(), account.clone());
        Ok(account)
    }

    async fn failed(&self, credential: &str, row: &OutboxRow, error: ForgeError) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        let text = error.to_string();
        let mut memory = self.memory.lock().await;
        let lane = memory.lanes.entry(credential.to_owned()).or_default();
        let next_ms = match error {
            ForgeError::Limited { wait_ms, .. } => {
                let until = now + wait_ms.max(1_000);
                lane.rest(until);
                tracing::warn!(
                    forge.name = credential,
                    until_ms = until,
                    "the forge asks to wait: all writes with this credential rest"
                );
                until
            }
            ForgeError::Transient { .. } => {
                lane.failed(now);
                now + back_off(row.tries)
            }
            ForgeError::Refused { status: status @ (401 | 403), .. } => {
                // 401 is about the credential. 403 may be about one repository, such as an archived one, which must not hold up others.
                if status == 401 {
                    lane.failed(now);
                } else {
                    lane.answered();
                }
                match refusal(&mut memory, row, REFUSALS) {
                    Some(delay) => {
                        tracing::warn!(forge.name = credential, outbox.kind = %row.kind, outbox.tries = row.tries + 1, error = text, "the forge refuses a write: tried again later");
                        now + delay
                    }
                    None => return self.dead_locked(memory, row, &text).await,
                }
            }
            ForgeError::NotFound { .. } | ForgeError::Refused { status: 404, .. } => {
                lane.answered();
                match refusal(&mut memory, row, MISSES) {
                    Some(delay) => now + delay,
                    None => return self.dead_locked(memory, row, &text).await,
                }
            }
            ForgeError::Refused { .. } => {
                lane.answered();
                return self.dead_locked(memory, row, &text).await;
            }
        };
        drop(memory);
        self.store.outbox_defer(&row.id, next_ms, &text, now).await.context("cannot put off an outbox row")
    }

    async fn dead_locked(
        &self,
        mut memory: tokio::sync::MutexGuard<'_, Memory>,
        row: &OutboxRow,
        why: &str,
    ) -> anyhow::Result<()> {
        memory.refusals.remove(&row.id);
        drop(memory);
        self.dead(row, why).await
    }

    async fn dead(&self, row: &OutboxRow, why: &str) -> anyhow::Result<()> {
        tracing::warn!(
            forge.name = row.credential,
            repo.id = %row.repo_id,
            outbox.id = %row.id,
            outbox.kind = %row.kind,
            outbox.target = row.target,
            error = why,
            "given up: the forge will not show this {} until something newer is to be said; if the token may not, mend it (`trainyard doctor` \
             checks it)",
            row.kind
        );
        self.store
            .outbox_dead(&row.id, row.desired_seq, why, self.clock.now_ms())
            .await
            .context("cannot give up an outbox row")
    }
}

/// Counts a refusal; None when it was the last one of `allowed`.
fn refusal(memory: &mut Memory, row: &OutboxRow, allowed: u32) -> Option<Millis> {
    let entry = memory.refusals.entry(row.id.clone()).or_insert((row.desired_seq, 0));
    if entry.0 != row.desired_seq {
        *entry = (row.desired_seq, 0);
    }
    entry.1 += 1;
    (entry.1 < allowed).then(|| back_off(i64::from(entry.1 - 1)))
}

/// 2 s doubling to 10 min, a quarter more or less, for as long as it takes.
fn back_off(tries: i64) -> Millis {
    let delay = FIRST_RETRY_MS.saturating_mul(1 << tries.clamp(0, 20)).min(LONGEST_RETRY_MS);
    delay * 3 / 4 + rand::random_range(0..=delay / 2)
}

enum Failure {
    Forge(ForgeError),
    /// The row is not what this version writes.
    Broken(String),
    /// People do not want it.
    LeftAlone(String),
}

impl From<ForgeError> for Failure {
    fn from(error: ForgeError) -> Self {
        Self::Forge(error)
    }
}
