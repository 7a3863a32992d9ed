//! Writes. On SQLite one task owns the one writing connection and commits what is waiting in one go; on Postgres each
//! write is a task with a connection of its own. Either way the transaction lives in a task of the store: a caller that is
//! dropped half-way (axum drops handlers when a client leaves) leaves none open.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc, oneshot};

use super::conn::{Conn, execute};
use super::connections::Connections;
use super::sqlite::FileLock;
use super::{StoreError, dialect};

/// How many requests share a commit at most.
const GROUP: usize = 64;

/// How often the store committed, and for how many writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteCounts {
    pub commits: u64,
    pub writes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    writes: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> WriteCounts {
        WriteCounts {
            commits: self.commits.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }
    fn committed(&self, writes: u64) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes, Ordering::Relaxed);
    }
}

/// What every writing task shares.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    pub(super) counters: Arc<Counters>,
    pub(super) work: Arc<Notify>,
}

impl Signals {
    /// Wakes everyone who waits for work, and lets the next one who is about to wait pass.
    fn wake(&self) {
        self.work.notify_waiters();
        self.work.notify_one();
    }
}

/// What a write allows beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allows {
    /// It may happen twice: on Postgres it is also run again when its commit may have happened.
    pub(super) twice: bool,
    /// It writes by one statement, which happens whole or not at all: begin and commit are trips that it can be spared, on Postgres
    /// if it may happen `twice` and no pooler stands between. Whatever it says beside that only reads, and an error in it undoes
    /// nothing.
    pub(super) alone: bool,
}

/// Work inside a transaction whose outcome waits, unseen, until the commit.
pub(super) trait Request: Send {
    fn allows(&self) -> Allows;
    /// Runs the statements. False: it failed, undo them. Unless this is the `last` time, it may be run again.
    fn run<'c>(&'c mut self, conn: &'c mut Conn, last: bool) -> BoxFuture<'c, bool>;
    /// Did it fail because of the disk or the server, so that its neighbours cannot fare better?
    fn is_unavailable(&self) -> bool;
    /// Did it fail because another transaction was in its way?
    fn is_conflict(&self) -> bool;
    /// Tells the caller, who may be gone. With `Err` nothing of it was kept.
    fn answer(self: Box<Self>, commit: Result<(), String>);
}

struct Typed<T, F> {
    work: Option<F>,
    allows: Allows,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// Wraps a closure as a request and the end on which its answer arrives.
pub(super) fn request<T, F>(
    work: F,
    allows: Allows,
) -> (Box<dyn Request>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Clone + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Typed { work: Some(work), allows, outcome: None, reply }), answer)
}

impl<T, F> Request for Typed<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Clone + Send + 'static,
{
    fn allows(&self) -> Allows {
        self.allows
    }
    fn run<'c>(&'c mut self, conn: &'c mut Conn, last: bool) -> BoxFuture<'c, bool> {
        let work = if last { self.work.take() } else { self.work.clone() };
        async move {
            let Some(work) = work else { return false };
            // A panic in one request must not take the writer, and with it everyone's writes, down.
            let outcome = match AssertUnwindSafe(async move { work(conn).await }).catch_unwind().await {
                Ok(outcome) => outcome,
                Err(_) => Err(StoreError::Refused("a write panicked; nothing of it was kept".into())),
            };
            let good = outcome.is_ok();
            self.outcome = Some(outcome);
            good
        }
        .boxed()
    }
    fn is_unavailable(&self) -> bool {
        matches!(self.outcome, Some(Err(StoreError::Unavailable(_))))
    }
    fn is_conflict(&self) -> bool {
        matches!(&self.outcome, Some(Err(err)) if err.is_conflict())
    }
    fn answer(self: Box<Self>, commit: Result<(), String>) {
        let outcome = match (commit, self.outcome) {
            (Ok(()), Some(outcome)) | (Err(_), Some(outcome @ Err(_))) => outcome,
            (Err(why), _) => Err(StoreError::Unavailable(why)),
            (Ok(()), None) => Err(StoreError::Unavailable("the write was not run".into())),
        };
        let _ = self.reply.send(outcome);
    }
}

/// The one writer of a SQLite database: takes what is waiting (alone, a request never waits for company), commits once, and only
/// then answers. A request that fails is undone alone. Ends when the last sender is gone.
pub(super) async fn write_in_groups(
    connections: Connections,
    mut requests: mpsc::Receiver<Box<dyn Request>>,
    signals: Signals,
    lock: Option<Arc<FileLock>>,
) {
    let mut kept: Option<Conn> = None;
    let mut group = Vec::with_capacity(GROUP);
    while requests.recv_many(&mut group, GROUP).await > 0 {
        let commit = match reuse(&connections, kept.take()).await {
            Ok(mut conn) => match commit_group(&mut conn, &mut group).await {
                Ok(()) => {
                    signals.counters.committed(group.len() as u64);
                    if std::mem::take(&mut conn.asked) {
                        signals.wake();
                    }
                    kept = Some(conn);
                    Ok(())
                }
                Err(err) => {
                    // After a failed commit or sync the connection's idea of the log is not trusted: the next
                    // group opens the file afresh. The failed sync itself is never tried again and acknowledged.
                    conn.discard();
                    Err(err.to_string())
                }
            },
            Err(err) => Err(err.to_string()),
        };
        for request in group.drain(..) {
            request.answer(commit.clone());
        }
    }
    drop(kept);
    connections.close().await;
    drop(lock);
}

async fn reuse(connections: &Connections, kept: Option<Conn>) -> Result<Conn, StoreError> {
    match kept {
        Some(conn) => Ok(conn),
        None => Ok(Conn::sqlite(connections.lend().await?)),
    }
}

async fn commit_group(conn: &mut Conn, group: &mut [Box<dyn Request>]) -> Result<(), StoreError> {
    if let [request] = group
        && request.allows().alone
    {
        // A connection on which such a statement failed is not trusted either: its commit may be what failed.
        return if request.run(conn, true).await {
            Ok(())
        } else {
            Err(StoreError::Unavailable("the database refused the write".into()))
        };
    }
    execute!(conn, dialect::BEGIN_SQLITE)?;
    // One alone needs no savepoint: undoing it undoes the transaction.
    if let [request] = group {
        if request.run(conn, true).await {
            return execute!(conn, "COMMIT").map(|_| ());
        }
        if request.is_unavailable() {
            return Err(refused());
        }
        return execute!(conn, "ROLLBACK").map(|_| ());
    }
    // Nearly always all of them go well, and a savepoint costs as much as a statement. Else all is undone and run again with them.
    if !run_all(conn, group).await? {
        execute!(conn, "ROLLBACK")?;
        execute!(conn, dialect::BEGIN_SQLITE)?;
        for request in group {
            execute!(conn, "SAVEPOINT request")?;
            if !request.run(conn, true).await {
                if request.is_unavailable() {
                    return Err(refused());
                }
                execute!(conn, "ROLLBACK TO request")?;
            }
            execute!(conn, "RELEASE request")?;
        }
    }
    execute!(conn, "COMMIT").map(|_| ())
}

/// Runs one after the other until one fails. False: that one's fault.
async fn run_all(conn: &mut Conn, group: &mut [Box<dyn Request>]) -> Result<bool, StoreError> {
    for request in group {
        if !request.run(conn, false).await {
            return if request.is_unavailable() { Err(refused()) } else { Ok(false) };
        }
    }
    Ok(true)
}

fn refused() -> StoreError {
    StoreError::Unavailable("the disk refused a write, or one of the same group".into())
}

/// How often a write is begun in all, while others are in its way or the server goes away before it was committed.
const ROUNDS: u32 = 6;

/// How a round of a write on Postgres ended.
enum Round {
    /// Committed, or undone because the work itself failed.
    Over { asked: bool },
    /// Nothing of it was kept, for a reason that passes.
    Undone(StoreError),
    /// The connection broke at the commit: nobody knows.
    Unknown(StoreError),
}

/// One write on Postgres in a transaction of its own, to the end, whether or not its caller still waits. It is run again when
/// other transactions or a lost connection undid it. Goes by the connection that is `kept`, if there is one, and keeps the one that
/// served it well.
pub(super) async fn write_on_postgres(
    pool: &PgPool,
    pooled: bool,
    kept: &mut Option<Conn>,
    mut request: Box<dyn Request>,
    signals: &Signals,
) {
    for round in 1..=ROUNDS {
        let last = round == ROUNDS;
        match one_round(pool, pooled, kept, request.as_mut(), last).await {
            Ok(Round::Over { asked }) => {
                signals.counters.committed(1);
                if asked {
                    signals.wake();
                }
                return request.answer(Ok(()));
            }
            Ok(Round::Unknown(err)) if !request.allows().twice => {
                return request.answer(Err(err.to_string()));
            }
            Ok(Round::Undone(err) | Round::Unknown(err)) if last => {
                return request.answer(Err(err.to_string()));
            }
            Ok(Round::Undone(_) | Round::Unknown(_)) => {
                let most = 10 << round;
                tokio::time::sleep(Duration::from_millis(rand::random_range(most / 2..=most))).await;
            }
            // The pool waited long enough for a connection.
            Err(err) => return request.answer(Err(err.to_string())),
        }
    }
}

async fn one_round(
    pool: &PgPool,
    pooled: bool,
    kept: &mut Option<Conn>,
    request: &mut dyn Request,
    last: bool,
) -> Result<Round, StoreError> {
    let mut conn = match kept.take() {
        Some(conn) => conn,
        None => Conn::postgres(pool.acquire().await?, pooled),
    };
    let Allows { twice, alone } = request.allows();
    // Behind a pooler a statement needs a transaction of its own all the same.
    if alone && twice && !pooled {
        let good = request.run(&mut conn, last).await;
        let asked = std::mem::take(&mut conn.asked) && good;
        let away = request.is_unavailable();
        if good {
            *kept = Some(conn);
        } else if away {
            conn.discard();
        }
        if good || last || !(request.is_conflict() || away) {
            return Ok(Round::Over { asked });
        }
        return Ok(Round::Undone(StoreError::Unavailable("the server did not take a write".into())));
    }
    if let Err(err) = conn.begin(dialect::BEGIN_POSTGRES).await {
        conn.discard();
        return Ok(Round::Undone(err));
    }
    let good = request.run(&mut conn, last).await;
    let again = !last && (request.is_conflict() || request.is_unavailable());
    let ended = conn.plain(if good { "COMMIT" } else { "ROLLBACK" }).await;
    let asked = std::mem::take(&mut conn.asked) && good;
    if ended.is_err() || request.is_unavailable() {
        conn.discard();
    } else if good {
        *kept = Some(conn);
    }
    Ok(match ended {
        Ok(()) if good || !again => Round::Over { asked },
        // An undone write stays undone, whatever became of the connection.
        Ok(()) => Round::Undone(StoreError::Unavailable("another write was in its way".into())),
        Err(err) if !good || err.is_conflict() => Round::Undone(err),
        Err(err) => Round::Unknown(err),
    })
}
