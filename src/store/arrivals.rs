//! Deliveries on their way to the disk. Those that arrive while others are being committed share the next commit, in a statement or two
//! for all of them: beyond a few thousand a second it is statements that bound the intake, not the sync.
//!
//! Must not: let the end of a caller decide. A group is written by a task of the store, and every caller that still waits hears
//! the outcome of the commit that held its delivery (G1).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;

use super::conn::{Conn, Engine, Fields, execute, one, to_json};
use super::deliveries::{Delivered, unpack};
use super::writer::Allows;
use super::{Store, StoreError, dialect};
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
}

/// Held by the task that is writing. Should it end before its time, by a panic or with the store, those who wait hear of it, and
/// the next one to come is seen to.
struct Turn {
    arrivals: Arc<Arrivals>,
    /// Nothing was left to write, so another may have its turn already.
    over: bool,
}

impl Turn {
    /// The next group; when there is none the writing is over.
    fn next(&mut self) -> Vec<(Arrival, Reply)> {
        let mut waiting = self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is left over is with the next commit.
        let count = of_a_size(waiting.rows.len().min(GROUP));
        waiting.under_way = count > 0;
        self.over = count == 0;
        waiting.rows.drain(..count).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.over {
            *self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner) = Waiting::default();
        }
    }
}

impl Store {
    /// Returns after the commit is on disk.
    pub(super) async fn arrive(&self, row: Arrival) -> Result<Delivered, StoreError> {
        let thread = self.beside_the_writer()?;
        let (reply, answer) = oneshot::channel();
        if self.arrivals.push(row, reply) {
            let turn = Turn { arrivals: Arc::clone(&self.arrivals), over: false };
            thread.spawn(self.clone().store_arrivals(turn));
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the store was closed meanwhile".into())))
    }

    async fn store_arrivals(self, mut turn: Turn) {
        let mut kept = None;
        loop {
            let (rows, replies): (Vec<_>, Vec<_>) = turn.next().into_iter().unzip();
            if rows.is_empty() {
                return;
            }
            let rows: Arc<[Arrival]> = rows.into();
            let unheard = rows.iter().all(|row| row.ignored.is_some());
            let allows = Allows { twice: true, alone: unheard };
            let stored = self
                .write_keeping(&mut kept, allows, move |tx| Box::pin(async move { insert(tx, &rows).await }))
                .await;
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
async fn insert(tx: &mut Conn, rows: &[Arrival]) -> Result<Vec<Delivered>, StoreError> {
    let inserted = insert_deliveries(tx, rows).await?;
    // Nearly always all of them are new.
    let stored = if inserted == rows.len() as u64 { None } else { Some(which_are_there(tx, rows).await?) };
    let is_new = |row: &Arrival| stored.as_ref().is_none_or(|ids| ids.contains(row.id.as_str()));
    let asked: Vec<&Arrival> = rows.iter().filter(|row| row.ignored.is_none() && is_new(row)).collect();
    if !asked.is_empty() {
        insert_work(tx, &asked).await?;
    }
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in rows {
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
    const INTO: &str = "INSERT INTO deliveries (id, forge, hook_id, delivery_id, event, content_type, headers, body, body_bytes, \
         received_ms, state, reason, decided_ms)";
    /// Bare: SQLite looks a numbered argument's name up among all the others.
    const ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    const NEW: &str = "ON CONFLICT (forge, hook_id, delivery_id) DO NOTHING";
    let state =
        |row: &Arrival| if row.ignored.is_some() { DeliveryState::Ignored } else { DeliveryState::Stored };
    let reason = |row: &Arrival| row.ignored.clone().unwrap_or_default();
    let decided_ms = |row: &Arrival| row.ignored.as_ref().map(|_| row.received_ms);
    let keep = tx.keeps_statements;
    match &mut tx.engine {
        Engine::Sqlite(conn) => {
            let sql = format!("{INTO} VALUES {} {NEW}", vec![ROW; rows.len()].join(", "));
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(keep);
            for row in rows {
                query = query
                    .bind(&row.id)
                    .bind(&row.forge)
                    .bind(&row.hook_id)
                    .bind(&row.delivery_id)
                    .bind(&row.event)
                    .bind(&row.content_type)
                    .bind(&row.headers)
                    .bind(&row.body)
                    .bind(row.body_bytes)
                    .bind(row.received_ms)
                    .bind(state(row).word())
                    .bind(reason(row))
                    .bind(decided_ms(row));
            }
            Ok(query.execute(&mut **conn).await?.rows_affected())
        }
        Engine::Postgres(conn) => {
            // A column is an array: one statement for groups of any size, with a plan that does not grow with them.
            let sql = format!(
                "{INTO} SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], \
                 $7::text[], $8::bytea[], $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::bigint[]) {NEW}"
            );
            let column = |value: fn(&Arrival) -> &str| rows.iter().map(value).collect::<Vec<_>>();
            let query = sqlx::query(AssertSqlSafe(sql))
                .persistent(keep)
                .bind(column(|row| row.id.as_str()))
                .bind(column(|row| &row.forge))
                .bind(column(|row| &row.hook_id))
                .bind(column(|row| &row.delivery_id))
                .bind(column(|row| &row.event))
                .bind(column(|row| &row.content_type))
                .bind(column(|row| &row.headers))
                .bind(rows.iter().map(|row| row.body.as_slice()).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.body_bytes).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.received_ms).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| state(row).word()).collect::<Vec<_>>())
                .bind(rows.iter().map(reason).collect::<Vec<_>>())
                .bind(rows.iter().map(decided_ms).collect::<Vec<_>>());
            Ok(query.execute(&mut **conn).await?.rows_affected())
        }
    }
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
    macro_rules! insert {
        ($key:literal, $at:literal, $from:literal) => {
            concat!(
                "INSERT INTO work (key, run_at_ms, created_ms, kind, state, wanted) SELECT ",
                $key,
                ", ",
                $at,
                ", ",
                $at,
                ", 'delivery', 'ready', 1 FROM ",
                $from,
                " WHERE true ON CONFLICT (kind, key) DO NOTHING"
            )
        };
    }
    let sql = dialect::by_engine(
        tx,
        insert!("json_extract(value, '$[0]')", "json_extract(value, '$[1]')", "json_each($1)"),
        insert!("value->>0", "(value->>1)::bigint", "json_array_elements($1::json)"),
    );
    let asked: Vec<_> = rows.iter().map(|row| (&row.id, row.received_ms)).collect();
    execute!(tx, sql, to_json(&asked)?)?;
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
