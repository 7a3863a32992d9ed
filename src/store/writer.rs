//! Writes. On SQLite one task owns the one writing connection and commits what is waiting in one go; on Postgres each
//! write is a task with a connection of its own. Either way the transaction lives in a task of the store: a caller that is
//! dropped half-way (axum drops handlers when a client leaves) leaves none open.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::SqlitePool;
use tokio::sync::{Notify, mpsc, oneshot};

use super::conn::{Conn, execute};
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

/// Work inside a transaction whose outcome waits, unseen, until the commit.
pub(super) trait Request: Send {
    /// Runs the statements. False: it failed, undo them.
    fn run<'c>(&'c mut self, conn: &'c mut Conn) -> BoxFuture<'c, bool>;
    /// Did it fail because of the disk or the server, so that its neighbours cannot fare better?
    fn is_unavailable(&self) -> bool;
    /// Tells the caller, who may be gone. With `Err` nothing of it was kept.
    fn answer(self: Box<Self>, commit: Result<(), String>);
}

struct Typed<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// Wraps a closure as a request and the end on which its answer arrives.
pub(super) fn request<T, F>(work: F) -> (Box<dyn Request>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(Typed { work: Some(work), outcome: None, reply }), answer)
}

impl<T, F> Request for Typed<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
{
    fn run<'c>(&'c mut self, conn: &'c mut Conn) -> BoxFuture<'c, bool> {
        async move {
            let Some(work) = self.work.take() else { return false };
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
    fn answer(self: Box<Self>, commit: Result<(), String>) {
        let outcome = match (commit, self.outcome) {
            (Ok(()), Some(outcome)) | (Err(_), Some(outcome @ Err(_))) => outcome,
            (Err(why), _) => Err(StoreError::Unavailable(why)),
            (Ok(()), None) => Err(StoreError::Unavailable("the write was not run".into())),
        };
        let _ = self.reply.send(outcome);
    }
}

/// The one writer of a SQLite database: takes what is waiting (alone, a request never waits for company), runs each
/// request under a savepoint, commits once, and only then answers. Ends when the last sender is gone.
pub(super) async fn write_in_groups(
    pool: SqlitePool,
    mut requests: mpsc::Receiver<Box<dyn Request>>,
    signals: Signals,
    lock: Option<Arc<FileLock>>,
) {
    let mut kept: Option<Conn> = None;
    let mut group = Vec::with_capacity(GROUP);
    while requests.recv_many(&mut group, GROUP).await > 0 {
        let commit = match reuse(&pool, kept.take()).await {
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
    pool.close().await;
    drop(lock);
}

async fn reuse(pool: &SqlitePool, kept: Option<Conn>) -> Result<Conn, StoreError> {
    match kept {
        Some(conn) => Ok(conn),
        None => Ok(Conn::sqlite(pool.acquire().await?)),
    }
}

async fn commit_group(conn: &mut Conn, group: &mut [Box<dyn Request>]) -> Result<(), StoreError> {
    execute!(conn, dialect::begin_write(conn))?;
    for request in group {
        execute!(conn, "SAVEPOINT request")?;
        if !request.run(conn).await {
            if request.is_unavailable() {
                return Err(StoreError::Unavailable("the disk refused a write of the same group".into()));
            }
            execute!(conn, "ROLLBACK TO request")?;
        }
        execute!(conn, "RELEASE request")?;
    }
    execute!(conn, "COMMIT").map(|_| ())
}

/// One request in a transaction of its own, to the end, whether or not its caller still waits.
pub(super) async fn write_alone(
    mut conn: Conn,
    begin: &'static str,
    mut request: Box<dyn Request>,
    signals: Signals,
) {
    let done = async {
        execute!(conn, begin)?;
        let good = request.run(&mut conn).await;
        execute!(conn, if good { "COMMIT" } else { "ROLLBACK" })
    };
    match done.await {
        Ok(_) => {
            signals.counters.committed(1);
            if conn.asked {
                signals.wake();
            }
            request.answer(Ok(()));
        }
        Err(err) => {
            conn.discard();
            request.answer(Err(err.to_string()));
        }
    }
}
