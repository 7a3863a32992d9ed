//! Deliveries on their way to the disk. Those that arrive while others are being committed share the next commit, in a statement or two
//! for all of them: beyond a few thousand a second it is statements that bound the intake, not the sync.
//!
//! Must not: let the end of a caller decide. A group is written by a task of the store, and every caller that still waits hears
//! the outcome of the commit that held its delivery (G1).

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;

use super::conn::{Conn, Fields, on, one};
use super::deliveries::{Delivered, unpack};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{DeliveryRowId, DeliveryState};

/// How many share a commit at most.
const GROUP: usize = 64;

/// A delivery as its row will be.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) id: DeliveryRowId,
    pub(super) forge: String,
    pub(super) hook_id: String,
    pub(super) delivery_id: String,
    pub(super) event: String,
    pub(super) content_type: String,
    /// JSON.
    pub(super) headers: String,
    /// zstd.
    pub(super) body: Vec<u8>,
    pub(super) body_bytes: i64,
    pub(super) received_ms: Millis,
    /// Why nothing is done about it.
    pub(super) ignored: Option<String>,
}

type Reply = oneshot::Sender<Result<Delivered, StoreError>>;

/// Where deliveries wait for a commit.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<(Arrival, Reply)>,
    /// A task is writing, and will look again.
    under_way: bool,
}

impl Arrivals {
    /// True: nobody is writing, so the caller must see to it.
    fn push(&self, row: Arrival, reply: Reply) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.rows.push((row, reply));
        !std::mem::replace(&mut waiting.under_way, true)
    }
    /// The next group; when there is none the writing is over.
    fn take(&self) -> Vec<(Arrival, Reply)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is left over is with the next commit.
        let count = of_a_size(waiting.rows.len().min(GROUP));
        waiting.under_way = count > 0;
        waiting.rows.drain(..count).collect()
    }
}

impl Store {
    /// Returns after the commit is on disk.
    pub(super) async fn arrive(&self, row: Arrival) -> Result<Delivered, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.arrivals.push(row, reply) {
            tokio::spawn(self.clone().store_arrivals());
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the store was closed meanwhile".into())))
    }

    async fn store_arrivals(self) {
        loop {
            let (rows, replies): (Vec<_>, Vec<_>) = self.arrivals.take().into_iter().unzip();
            if rows.is_empty() {
                return;
            }
            let unheard = rows.iter().all(|row| row.ignored.is_some());
            let stored = if unheard {
                self.write_alone(move |tx| Box::pin(insert(tx, rows))).await
            } else {
                self.write_again(move |tx| Box::pin(insert(tx, rows))).await
            };
            match stored {
                Ok(outcomes) => {
                    for (reply, outcome) in replies.into_iter().zip(outcomes) {
                        let _ = reply.send(Ok(outcome));
                    }
                }
                Err(error) => {
                    for reply in replies {
                        let _ = reply.send(Err(StoreError::Unavailable(error.to_string())));
                    }
                }
            }
        }
    }
}

/// Inserts rows and their work items; an outcome for each row, in order.
async fn insert(tx: &mut Conn, rows: Vec<Arrival>) -> Result<Vec<Delivered>, StoreError> {
    let inserted = insert_deliveries(tx, &rows).await?;
    // Nearly always all of them are new.
    let stored = if inserted == rows.len() as u64 { None } else { Some(which_are_there(tx, &rows).await?) };
    let is_new = |row: &Arrival| stored.as_ref().is_none_or(|ids| ids.contains(row.id.as_str()));
    let asked: Vec<&Arrival> = rows.iter().filter(|row| row.ignored.is_none() && is_new(row)).collect();
    let mut unasked = asked.as_slice();
    while !unasked.is_empty() {
        let (some, after) = unasked.split_at(of_a_size(unasked.len()));
        insert_work(tx, some).await?;
        unasked = after;
    }
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in &rows {
        outcomes.push(if is_new(row) {
            Delivered::Stored
        } else {
            Delivered::Seen { same_body: is_same_body(tx, row).await? }
        });
    }
    Ok(outcomes)
}

/// How many of `count` rows share a statement: few different sizes, so that few different statements are prepared.
fn of_a_size(count: usize) -> usize {
    if count <= 8 { count } else { count - count % 8 }
}

/// Inserts those that were not seen before; how many.
async fn insert_deliveries(tx: &mut Conn, rows: &[Arrival]) -> Result<u64, StoreError> {
    let sql = format!(
        "INSERT INTO deliveries (id, forge, hook_id, delivery_id, event, content_type, headers, body, body_bytes, received_ms,
           state, reason, decided_ms) VALUES {} ON CONFLICT (forge, hook_id, delivery_id) DO NOTHING",
        tuples::<13>(rows.len(), "")
    );
    let keep = tx.keeps_statements;
    on!(tx, c => {
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(keep);
        for row in rows {
            query = query.bind(&row.id).bind(&row.forge).bind(&row.hook_id).bind(&row.delivery_id).bind(&row.event)
                .bind(&row.content_type).bind(&row.headers).bind(&row.body).bind(row.body_bytes).bind(row.received_ms);
            let state = if row.ignored.is_some() { DeliveryState::Ignored } else { DeliveryState::Stored };
            query = query.bind(state.word()).bind(row.ignored.as_deref().unwrap_or_default())
                .bind(row.ignored.as_ref().map(|_| row.received_ms));
        }
        Ok(query.execute(c).await?.rows_affected())
    })
}

/// Which of these rows are in the table: their ids are their own, so those that were not seen before.
async fn which_are_there(tx: &mut Conn, rows: &[Arrival]) -> Result<HashSet<String>, StoreError> {
    let mut there = HashSet::new();
    for row in rows {
        let found: Option<String> =
            one!(tx, |row| row.get("id"), "SELECT id FROM deliveries WHERE id = $1", &row.id)?;
        there.extend(found);
    }
    Ok(there)
}

/// New deliveries' work items. They are there already when this is the second run of a write that was committed after all.
async fn insert_work(tx: &mut Conn, rows: &[&Arrival]) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO work (key, run_at_ms, created_ms, kind, state, wanted) VALUES {} ON CONFLICT (kind, key) DO NOTHING",
        tuples::<3>(rows.len(), "'delivery', 'ready', 1")
    );
    let keep = tx.keeps_statements;
    on!(tx, c => {
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(keep);
        for row in rows {
            query = query.bind(&row.id).bind(row.received_ms).bind(row.received_ms);
        }
        query.execute(c).await?;
    });
    tx.asked = true;
    Ok(())
}

/// Did the delivery that has this id already say the same? One whose body retention has emptied counts as the same.
async fn is_same_body(tx: &mut Conn, row: &Arrival) -> Result<bool, StoreError> {
    let seen: Option<Option<Vec<u8>>> = one!(
        tx,
        |row| row.get("body"),
        "SELECT body FROM deliveries WHERE forge = $1 AND hook_id = $2 AND delivery_id = $3",
        &row.forge,
        &row.hook_id,
        &row.delivery_id
    )?;
    let Some(packed) = seen.flatten() else { return Ok(true) };
    Ok(packed == row.body || unpack(&packed)? == unpack(&row.body)?)
}

/// `($1, $2, …, rest), (…)`: `count` tuples of `N` arguments each and what is the same in all.
fn tuples<const N: usize>(count: usize, rest: &str) -> String {
    let mut sql = String::with_capacity(count * (N * 5 + rest.len() + 4));
    for row in 0..count {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=N {
            let comma = if column < N || !rest.is_empty() { ", " } else { "" };
            let _ = write!(sql, "${}{comma}", row * N + column);
        }
        sql.push_str(rest);
        sql.push(')');
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::tuples;

    #[test]
    fn arguments_are_numbered_through() {
        assert_eq!(tuples::<2>(2, ""), "($1, $2), ($3, $4)");
        assert_eq!(tuples::<2>(3, "'x'"), "($1, $2, 'x'), ($3, $4, 'x'), ($5, $6, 'x')");
    }
}
