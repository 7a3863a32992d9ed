//! Webhook deliveries: durable before they are acknowledged (G1), unique by forge, hook and delivery id (G2).

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::arrivals::Arrival;
use super::changes::{insert_run, request_cancel, supersede_held};
use super::conn::{Fields, all, execute, one, to_json};
use super::pulls::put_pull;
use super::runs::NewRun;
use super::watches::{Asked, put_asked};
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{DeliveryRowId, DeliveryState, PullRequest, RepoId, RepoRef, RunId, RunState};

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
    /// The headers worth keeping, each once; never an authorization or a signature.
    pub headers: Vec<(&'static str, String)>,
    /// As received; the store compresses it (zstd level 1).
    pub body: Vec<u8>,
    pub received_ms: Millis,
    /// Decided as it arrives: why nothing is done about it. None: somebody has to look at it.
    pub ignored: Option<String>,
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
    pub received_ms: Millis,
    pub state: DeliveryState,
    pub reason: String,
    pub decided_ms: Option<Millis>,
}

/// As a JSON object.
struct Headers<'a>(&'a [(&'static str, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Everything that one delivery decided, committed in one transaction.
#[derive(Debug, Clone)]
pub struct IntakeCommit {
    pub delivery: DeliveryRowId,
    /// `Done`, `Ignored` or `BadPayload`.
    pub state: DeliveryState,
    /// One line for people: what was decided and why.
    pub reason: String,
    /// The repository it is about, and how many decisions about it had been made when its facts were read. None: no facts of the
    /// store count.
    pub decided_on: Option<(RepoId, i64)>,
    /// (repo row, as last seen): inserted or updated.
    pub pulls: Vec<(RepoId, PullRequest)>,
    /// Inserted. One whose identity was taken meanwhile makes the whole decision stale.
    pub runs: Vec<NewRun>,
    /// Runs that should stop, with the reason shown to people: sets `cancel_request`.
    pub cancel: Vec<(RunId, String)>,
    /// Held runs that a trusted twin replaces; one that was released meanwhile is asked to stop.
    pub supersede_held: Vec<(RunId, String)>,
    /// What the default branch's files ask for; None: they were not read.
    pub asked: Option<Asked>,
    pub asks: Vec<WorkAsk>,
}

macro_rules! select_delivery {
    ($rest:literal) => {
        concat!(
            "SELECT id, forge, hook_id, delivery_id, event, content_type, headers, body_bytes, received_ms, state,
               reason, decided_ms FROM deliveries ",
            $rest
        )
    };
}
pub(super) use select_delivery;

impl DeliveryRow {
    pub(super) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            forge: row.get("forge")?,
            hook_id: row.get("hook_id")?,
            delivery_id: row.get("delivery_id")?,
            event: row.get("event")?,
            content_type: row.get("content_type")?,
            headers: row.json("headers")?,
            body_bytes: row.get("body_bytes")?,
            received_ms: row.get("received_ms")?,
            state: row.word("state")?,
            reason: row.get("reason")?,
            decided_ms: row.get("decided_ms")?,
        })
    }
}

/// zstd level 1: ten times smaller, which matters more than the time it takes, as what bounds the intake is the bytes of the log.
const LEVEL: i32 = 1;

/// A body as it is stored.
async fn pack(body: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    /// Above this, compressing would hold the async thread for over a millisecond.
    const LARGE: usize = 256 << 10;
    thread_local! {
        // Making a context costs more than packing an ordinary body in it: its tables are cleared, and their memory goes back to the
        // system each time.
        static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    let packed = if body.len() < LARGE {
        PACKER.with_borrow_mut(|packer| match packer {
            Some(packer) => packer.compress(&body),
            None => packer.insert(zstd::bulk::Compressor::new(LEVEL)?).compress(&body),
        })
    } else {
        tokio::task::spawn_blocking(move || zstd::bulk::compress(&body, LEVEL))
            .await
            .map_err(|err| StoreError::Unavailable(format!("cannot compress a body: {err}")))?
    };
    packed.map_err(|err| StoreError::Unavailable(format!("cannot compress a body: {err}")))
}

pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, StoreError> {
    zstd::decode_all(packed)
        .map_err(|err| StoreError::Inconsistent { what: "a body".into(), why: err.to_string() })
}

impl Store {
    /// Stores a verified delivery and its work item. Returns after the commit is on disk.
    pub async fn deliver(&self, new: NewDelivery) -> Result<Delivered, StoreError> {
        let body_bytes = new.body.len() as i64;
        let body = pack(new.body).await?;
        let headers = to_json(&Headers(&new.headers))?;
        self.arrive(Arrival {
            id: new.id,
            forge: new.forge,
            hook_id: new.hook_id,
            delivery_id: new.delivery_id,
            event: new.event,
            content_type: new.content_type,
            headers,
            body,
            body_bytes,
            received_ms: new.received_ms,
            ignored: new.ignored,
        })
        .await
    }

    /// As [`Store::deliver`], for a delivery that the forge gave no id: its `delivery_id` is a digest of what it says, which counts
    /// as the same for `window_ms`.
    pub async fn deliver_within(
        &self,
        mut new: NewDelivery,
        window_ms: Millis,
    ) -> Result<Delivered, StoreError> {
        // One row a window at most: an earlier one of the same content is in this window's row or in the last one's. Two at once in
        // one window are told apart by the row's identity.
        let window = new.received_ms.div_euclid(window_ms);
        let [this, last] = [window, window - 1].map(|window| format!("{}.{window}", new.delivery_id));
        let seen: Option<String> = {
            let mut conn = self.read().await?;
            one!(
                conn,
                |row| row.get("id"),
                "SELECT id FROM deliveries WHERE forge = $1 AND hook_id = $2 AND delivery_id IN ($3, $4)
                   AND received_ms > $5 LIMIT 1",
                &new.forge,
                &new.hook_id,
                &this,
                last,
                new.received_ms - window_ms
            )?
        };
        if seen.is_some() {
            // The id is a digest of the content.
            return Ok(Delivered::Seen { same_body: true });
        }
        new.delivery_id = this;
        self.deliver(new).await
    }

    pub async fn delivery(&self, id: &DeliveryRowId) -> Result<Option<DeliveryRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, DeliveryRow::read, select_delivery!("WHERE id = $1"), id)
    }

    /// The raw body; None when retention emptied it.
    pub async fn delivery_body(&self, id: &DeliveryRowId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut conn = self.read().await?;
        let packed: Option<Option<Vec<u8>>> =
            one!(conn, |row| row.get("body"), "SELECT body FROM deliveries WHERE id = $1", id)?;
        packed.flatten().map(|packed| unpack(&packed)).transpose()
    }

    /// Finds by row id, or by the forge's delivery id when that is unambiguous.
    pub async fn find_delivery(&self, text: &str) -> Result<Option<DeliveryRow>, StoreError> {
        let mut conn = self.read().await?;
        let mut found = all!(
            conn,
            DeliveryRow::read,
            select_delivery!(
                "WHERE id = $1 OR delivery_id = $1 ORDER BY CASE id WHEN $1 THEN 0 ELSE 1 END LIMIT 2"
            ),
            text.trim()
        )?;
        let sure = found.len() == 1 || found.first().is_some_and(|row| row.id.as_str() == text.trim());
        Ok(if sure { Some(found.swap_remove(0)) } else { None })
    }

    /// How many decisions about a repository's deliveries were made: read before the facts of a new one.
    pub async fn decisions(&self, repo: &RepoId) -> Result<i64, StoreError> {
        let mut conn = self.read().await?;
        let count =
            one!(conn, |row| row.get("decisions"), "SELECT decisions FROM repos WHERE id = $1", repo)?;
        Ok(count.unwrap_or_default())
    }

    /// The row of a repository, made or brought up to date (renames) on the way.
    pub async fn upsert_repo(&self, forge: &str, repo: &RepoRef, now: Millis) -> Result<RepoId, StoreError> {
        let (forge, repo) = (forge.to_owned(), repo.clone());
        self.write(move |tx| {
            Box::pin(async move {
                let id = one!(
                    tx,
                    |row| row.get("id"),
                    "INSERT INTO repos (id, forge, forge_id, name, default_branch, created_ms) VALUES ($1, $2, $3, $4, $5, $6)
                     ON CONFLICT (forge, forge_id) DO UPDATE SET name = excluded.name, default_branch = excluded.default_branch
                     RETURNING id",
                    RepoId::generate(now),
                    forge,
                    &repo.forge_id,
                    &repo.name,
                    &repo.default_branch,
                    now
                )?;
                id.ok_or_else(|| StoreError::Inconsistent { what: "no repository".into(), why: "none returned".into() })
            })
        })
        .await
    }

    /// Commits what a delivery decided. Returns the ids of the runs that are new; each open one is asked for. Repeating it
    /// changes nothing: a delivery that is no longer `stored` is left alone. None: another decision about the repository was
    /// committed since the facts were read (another replica's, or a re-run took an identity); nothing was written, decide again.
    pub async fn commit_intake(
        &self,
        commit: IntakeCommit,
        now: Millis,
    ) -> Result<Option<Vec<RunId>>, StoreError> {
        match self.try_intake(commit, now).await {
            Ok(made) => Ok(Some(made)),
            Err(StoreError::Stale) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn try_intake(&self, commit: IntakeCommit, now: Millis) -> Result<Vec<RunId>, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let decided = execute!(
                    tx,
                    "UPDATE deliveries SET state = $2, reason = $3, decided_ms = $4 WHERE id = $1 AND state = 'stored'",
                    &commit.delivery,
                    commit.state.word(),
                    &commit.reason,
                    now
                )?;
                if decided == 0 {
                    return Ok(Vec::new());
                }
                if let Some((repo, decisions)) = &commit.decided_on {
                    let first = execute!(
                        tx,
                        "UPDATE repos SET decisions = decisions + 1 WHERE id = $1 AND decisions = $2",
                        repo,
                        decisions
                    )?;
                    if first == 0 {
                        return Err(StoreError::Stale);
                    }
                }
                let mut asks = commit.asks;
                for (repo, pull) in &commit.pulls {
                    put_pull(tx, repo, pull, now).await?;
                }
                for (run, why) in &commit.cancel {
                    if request_cancel(tx, run, why).await? {
                        asks.push(WorkAsk::run(run, now));
                    }
                }
                for (run, why) in &commit.supersede_held {
                    // Released since the decision was made: its twin takes its place all the same.
                    let why_stop = format!("{}{why}", RunState::SUPERSEDED_BY);
                    if !supersede_held(tx, run, why, now).await? && request_cancel(tx, run, &why_stop).await? {
                        asks.push(WorkAsk::run(run, now));
                    }
                }
                if let Some(asked) = &commit.asked {
                    put_asked(tx, asked, now).await?;
                }
                let mut made = Vec::new();
                for run in commit.runs {
                    if !insert_run(tx, &run, now).await? {
                        return Err(StoreError::Stale);
                    }
                    if !run.state.is_terminal() {
                        asks.push(WorkAsk::run(&run.id, now));
                    }
                    made.push(run.id);
                }
                ask_in(tx, &asks, now).await?;
                Ok(made)
            })
        })
        .await
    }

    /// Sets a decided or parked delivery back to `stored` and asks for it again. False: no such row.
    pub async fn replay_delivery(&self, id: &DeliveryRowId, now: Millis) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "UPDATE deliveries SET state = 'stored', reason = '', decided_ms = NULL WHERE id = $1",
                    &id
                )?;
                if rows == 1 {
                    ask_in(tx, &[WorkAsk::delivery(&id, now)], now).await?;
                }
                Ok(rows == 1)
            })
        })
        .await
    }
}
