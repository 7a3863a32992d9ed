//! The handle: opening, and the three ways in (`read`, `moment`, `write`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};

use super::arrivals::Arrivals;
use super::conn::{Conn, Engine, Fields, Moment, Rows, execute, one};
use super::connections::Connections;
use super::writer::{self, Allows, Request, Signals, WriteCounts};
use super::{migrate, postgres, sqlite};

/// How many writes may wait for the SQLite writer before callers wait to hand theirs over.
const WAITING: usize = 1024;

/// What can go wrong in the store, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, read-only or failing, or the server is away: answer 503, become not ready, try later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A stored value is not what this version writes.
    #[error("the database holds {what} that this version cannot read: {why}")]
    Inconsistent { what: String, why: String },
    /// The file is locked, too old, too new, on a network disk, … or the write breaks a rule of the states: one sentence
    /// that says what to do.
    #[error("{0}")]
    Refused(String),
    /// The file is no database, or no whole one; the sentence says what to do.
    #[error("{0}")]
    Damaged(String),
    /// It was decided on what has changed since: nothing was written, decide again.
    #[error("what it was decided on has changed")]
    Stale,
    #[error("database error: {0}")]
    Sql(sqlx::Error),
}

/// How hard a commit is pressed to the disk. `serve` refuses anything but `Full`; `Normal` exists so that the
/// power-cut test can show that it is able to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    #[default]
    Full,
    Normal,
}

/// How to open the store.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// `sqlite:/path/to/trainyard.db` or `postgres://…`.
    pub url: String,
    pub synchronous: Synchronous,
    /// Connections for reading; on Postgres as many again for writing.
    pub connections: u32,
    /// Postgres: the password, where the URL has none.
    pub password: Option<SecretString>,
    /// Postgres: a pooler in transaction mode stands in front of it.
    pub pooled: bool,
    /// Whose work that only one machine can do this handle claims beside everyone's.
    pub machine: String,
}

impl OpenOptions {
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self {
            url: format!("sqlite:{}", path.into().display()),
            synchronous: Synchronous::Full,
            connections: 4,
            password: None,
            pooled: false,
            machine: String::new(),
        }
    }
    /// `connections` each for reading and writing.
    pub fn postgres(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections: 8, ..Self::sqlite("") }
    }
    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres:") || self.url.starts_with("postgresql:")
    }
    /// The file of a SQLite database.
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        self.url.strip_prefix("sqlite:").map(|path| PathBuf::from(path.trim_start_matches("//")))
    }
}

/// The handle everyone holds: cheap to clone, safe to share.
#[derive(Debug, Clone)]
pub struct Store {
    db: Arc<Db>,
    pub(super) signals: Signals,
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) machine: Arc<str>,
}

#[derive(Debug)]
enum Db {
    Sqlite {
        readers: Connections,
        /// None once closed.
        writer: Mutex<Option<Writer>>,
    },
    Postgres {
        /// Apart from the writers, so that slow lists do not keep deliveries and leases waiting.
        readers: PgPool,
        writers: PgPool,
        pooled: bool,
    },
}

/// The one writing task of a SQLite database, on a thread of its own: among the handlers it would wait for each that is verifying or
/// packing a body before it could commit the next group.
#[derive(Debug)]
struct Writer {
    requests: mpsc::Sender<Box<dyn Request>>,
    /// Spawns beside it.
    thread: Handle,
    ended: oneshot::Receiver<()>,
}

impl Writer {
    fn start(
        connections: Connections,
        signals: Signals,
        lock: Option<Arc<sqlite::FileLock>>,
    ) -> Result<Self, StoreError> {
        let cannot = |err: std::io::Error| StoreError::Unavailable(format!("cannot start a thread: {err}"));
        let (requests, received) = mpsc::channel(WAITING);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel();
        let write = move || {
            // Made here: a runtime must not be dropped among the tasks of another, as it would be if there were no thread for it.
            let runtime = match Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => runtime,
                Err(err) => return drop(started.send(Err(err))),
            };
            let _ = started.send(Ok(runtime.handle().clone()));
            runtime.block_on(writer::write_in_groups(connections, received, signals, lock));
            drop(runtime);
            let _ = end.send(());
        };
        std::thread::Builder::new().name("store-writer".into()).spawn(write).map_err(cannot)?;
        let thread = start.recv().map_err(|_| closed())?.map_err(cannot)?;
        Ok(Self { requests, thread, ended })
    }
}

impl Store {
    /// Opens, locks (SQLite: a lock file beside the database, held for life), asserts WAL, FULL and the SQLite
    /// version, and migrates.
    ///
    /// # Errors
    /// `Refused` with a sentence for the operator when the database cannot be used as it is.
    pub async fn open(options: &OpenOptions) -> Result<Self, StoreError> {
        if let Some(path) = options.sqlite_path() {
            let lock = Arc::new(sqlite::lock(&path)?);
            Self::start_sqlite(&path, options, Some(lock)).await
        } else if options.is_postgres() {
            Self::start_postgres(options, true).await
        } else {
            Err(StoreError::Refused(
                "the database must be `sqlite:<path>` or `postgres://user@host/name`".into(),
            ))
        }
    }

    /// Opens for one command beside a running daemon: takes no lock and migrates nothing.
    ///
    /// # Errors
    /// `Refused` when there is no database yet, or its tables are not those of this version.
    pub async fn open_beside(options: &OpenOptions) -> Result<Self, StoreError> {
        let Some(path) = options.sqlite_path() else { return Self::start_postgres(options, false).await };
        if !path.is_file() {
            let refusal = format!("there is no database at {}: start the daemon once", path.display());
            return Err(StoreError::Refused(refusal));
        }
        Self::start_sqlite(&path, options, None).await
    }

    /// Whose work that only one machine can do this handle claims.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// Is this the only process that claims work (SQLite: by its lock file)?
    pub fn is_alone(&self) -> bool {
        matches!(&*self.db, Db::Sqlite { .. })
    }

    /// With a lock: migrates. The lock lives as long as the writer.
    async fn start_sqlite(
        path: &std::path::Path,
        options: &OpenOptions,
        lock: Option<Arc<sqlite::FileLock>>,
    ) -> Result<Self, StoreError> {
        let writing = sqlite::connections(path, options.synchronous, 1, false);
        let unusable = |err: StoreError| match err {
            StoreError::Sql(err) => StoreError::Damaged(format!(
                "{} cannot be used as a database: {err}; name another file, or restore a backup",
                path.display()
            )),
            other => other,
        };
        let mut conn = Conn::sqlite(writing.lend().await.map_err(unusable)?);
        sqlite::assert_durable(&mut conn, options.synchronous).await?;
        match lock {
            Some(_) => migrate::migrate(&mut conn).await?,
            None => migrate::check(&mut conn).await?,
        }
        drop(conn);
        let readers = sqlite::connections(path, options.synchronous, options.connections.max(1), true);
        let signals = Signals::default();
        let writer = Mutex::new(Some(Writer::start(writing, signals.clone(), lock)?));
        Ok(Self {
            db: Arc::new(Db::Sqlite { readers, writer }),
            signals,
            machine: options.machine.as_str().into(),
            arrivals: Arc::default(),
        })
    }

    async fn start_postgres(options: &OpenOptions, migrating: bool) -> Result<Self, StoreError> {
        let readers = postgres::pool(options)?;
        let mut conn = Conn::postgres(readers.acquire().await?, options.pooled);
        if options.synchronous == Synchronous::Full {
            postgres::assert_durable(&mut conn).await?;
        }
        if migrating {
            migrate::migrate(&mut conn).await?;
        } else {
            migrate::check(&mut conn).await?;
        }
        drop(conn);
        let writers = postgres::pool(options)?;
        let db = Db::Postgres { readers, writers, pooled: options.pooled };
        Ok(Self {
            db: Arc::new(db),
            signals: Signals::default(),
            machine: options.machine.as_str().into(),
            arrivals: Arc::default(),
        })
    }

    /// A connection for single statements that only read.
    pub(super) async fn read(&self) -> Result<Conn, StoreError> {
        Ok(match &*self.db {
            Db::Sqlite { readers, .. } => Conn::sqlite(readers.lend().await?),
            Db::Postgres { readers, pooled, .. } => Conn::postgres(readers.acquire().await?, *pooled),
        })
    }

    /// What these selects find, all as of one moment; `id` is the argument of each.
    pub(super) async fn moment<const N: usize>(
        &self,
        selects: Moment<N>,
        id: &str,
    ) -> Result<[Rows; N], StoreError> {
        let Conn { engine, keeps_statements, .. } = self.read().await?;
        match engine {
            Engine::Sqlite(mut conn) => selects.on_sqlite(&mut conn, id).await,
            Engine::Postgres(conn) => {
                let id = id.to_owned();
                let reading =
                    tokio::spawn(async move { selects.on_postgres(conn, keeps_statements, &id).await });
                reading.await.unwrap_or_else(|_| Err(StoreError::Unavailable("a read was stopped".into())))
            }
        }
    }

    /// Runs `work` in a transaction and returns after its commit is on the disk. The transaction belongs to a task of the
    /// store: dropping this future neither breaks it nor leaves it open. An error of `work` undoes all it wrote.
    ///
    /// `work` is run again when another transaction was in its way (Postgres), or one of the same commit failed (SQLite).
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Clone + Send + 'static,
    {
        self.write_by(Allows::default(), work).await
    }

    /// The same for work that may happen twice: on Postgres also run again when its connection broke at the commit.
    pub(super) async fn write_again<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Clone + Send + 'static,
    {
        self.write_by(Allows { twice: true, alone: false }, work).await
    }

    /// The same for work that allows more than the usual.
    pub(super) async fn write_by<T, F>(&self, allows: Allows, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Clone + Send + 'static,
    {
        let answer = match &*self.db {
            Db::Sqlite { writer, .. } => {
                let (request, answer) = writer::request(work, allows);
                let sender = writer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_ref()
                    .map(|w| w.requests.clone());
                let sender = sender.ok_or_else(closed)?;
                sender.send(request).await.map_err(|_| closed())?;
                answer
            }
            Db::Postgres { writers, pooled, .. } => {
                let (request, answer) = writer::request(work, allows);
                let (pool, signals) = (writers.clone(), self.signals.clone());
                let pooled = *pooled;
                tokio::spawn(async move {
                    writer::write_on_postgres(&pool, pooled, &mut None, request, &signals).await;
                });
                answer
            }
        };
        received(answer).await
    }

    /// The same from a task that nothing ends early, for one write after another: on Postgres on one connection, which is `kept`.
    /// Taking one from the pool and giving it back are trips to the server.
    pub(super) async fn write_keeping<T, F>(
        &self,
        kept: &mut Option<Conn>,
        allows: Allows,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Clone + Send + 'static,
    {
        let Db::Postgres { writers, pooled, .. } = &*self.db else {
            return self.write_by(allows, work).await;
        };
        if writers.is_closed() {
            return Err(closed());
        }
        let (request, answer) = writer::request(work, allows);
        writer::write_on_postgres(writers, *pooled, kept, request, &self.signals).await;
        received(answer).await
    }

    /// Where the groups of arriving deliveries are put together: beside the writer.
    pub(super) fn beside_the_writer(&self) -> Result<Handle, StoreError> {
        match &*self.db {
            Db::Sqlite { writer, .. } => {
                let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                writer.as_ref().map(|writer| writer.thread.clone()).ok_or_else(closed)
            }
            Db::Postgres { writers, .. } if writers.is_closed() => Err(closed()),
            Db::Postgres { .. } => Ok(Handle::current()),
        }
    }

    /// A value of `meta`, made by `make` and stored when it is not there yet.
    pub async fn meta_or_insert(
        &self,
        name: &'static str,
        make: fn() -> String,
    ) -> Result<String, StoreError> {
        let fresh = make();
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                    name,
                    &fresh
                )?;
                let kept = one!(tx, |row| row.get("value"), "SELECT value FROM meta WHERE name = $1", name)?;
                Ok(kept.unwrap_or(fresh))
            })
        })
        .await
    }

    /// Can a commit reach the disk right now? For `/readyz`.
    pub async fn check(&self) -> Result<(), StoreError> {
        // The value changes each time, so that there is something to commit.
        const SQL: &str = "INSERT INTO meta (name, value) VALUES ('checked', 'even') ON CONFLICT (name) DO UPDATE \
                           SET value = CASE meta.value WHEN 'even' THEN 'odd' ELSE 'even' END";
        self.write_again(|tx| Box::pin(async move { execute!(tx, SQL).map(|_| ()) })).await
    }

    /// How often this handle and its clones committed, for `/metrics`.
    pub fn write_counts(&self) -> WriteCounts {
        self.signals.counters.read()
    }

    /// Waits for what is being written, then closes. Later calls fail with `Unavailable`.
    pub async fn close(&self) {
        match &*self.db {
            Db::Sqlite { readers, writer } => {
                let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
                readers.close().await;
                if let Some(Writer { requests, ended, .. }) = writer {
                    drop(requests);
                    let _ = ended.await;
                }
            }
            Db::Postgres { readers, writers, .. } => {
                readers.close().await;
                writers.close().await;
            }
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

async fn received<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the store was closed meanwhile".into())))
}
