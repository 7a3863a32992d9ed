//! The handle: opening, and the three ways in (`read`, `snapshot`, `write`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool, SqlitePool};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::arrivals::Arrivals;
use super::conn::{Conn, Fields, execute, on, one};
use super::writer::{self, Request, Signals, WriteCounts};
use super::{dialect, sqlite};

static MIGRATOR: Migrator = sqlx::migrate!();

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
    /// Reader connections (SQLite) or the whole pool (Postgres).
    pub connections: u32,
}

impl OpenOptions {
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self {
            url: format!("sqlite:{}", path.into().display()),
            synchronous: Synchronous::Full,
            connections: 4,
        }
    }
}

/// The handle everyone holds: cheap to clone, safe to share.
#[derive(Debug, Clone)]
pub struct Store {
    db: Arc<Db>,
    pub(super) signals: Signals,
    pub(super) arrivals: Arc<Arrivals>,
}

#[derive(Debug)]
enum Db {
    Sqlite {
        readers: SqlitePool,
        /// None once closed.
        writer: Mutex<Option<Writer>>,
    },
    Postgres(PgPool),
}

#[derive(Debug)]
struct Writer {
    requests: mpsc::Sender<Box<dyn Request>>,
    task: JoinHandle<()>,
}

impl Store {
    /// Opens, locks (SQLite: a lock file beside the database, held for life), asserts WAL, FULL and the SQLite
    /// version, and migrates.
    ///
    /// # Errors
    /// `Refused` with a sentence for the operator when the database cannot be used as it is.
    pub async fn open(options: &OpenOptions) -> Result<Self, StoreError> {
        if let Some(path) = options.url.strip_prefix("sqlite:") {
            Self::open_sqlite(PathBuf::from(path.trim_start_matches("//")), options).await
        } else if options.url.starts_with("postgres:") || options.url.starts_with("postgresql:") {
            Self::open_postgres(options).await
        } else {
            Err(StoreError::Refused(
                "the database must be `sqlite:<path>` or `postgres://user@host/name`".into(),
            ))
        }
    }

    /// Opens for one command beside a running daemon: takes no lock and migrates nothing.
    ///
    /// # Errors
    /// `Refused` when there is no database yet.
    pub async fn open_beside(options: &OpenOptions) -> Result<Self, StoreError> {
        let Some(path) = options.url.strip_prefix("sqlite:") else { return Self::open(options).await };
        let path = PathBuf::from(path.trim_start_matches("//"));
        if !path.is_file() {
            let refusal = format!("there is no database at {}: start the daemon once", path.display());
            return Err(StoreError::Refused(refusal));
        }
        Self::start_sqlite(&path, options, None).await
    }

    /// Is this the only process that claims work (SQLite: by its lock file)?
    pub(super) fn is_alone(&self) -> bool {
        matches!(&*self.db, Db::Sqlite { .. })
    }

    async fn open_sqlite(path: PathBuf, options: &OpenOptions) -> Result<Self, StoreError> {
        let lock = Arc::new(sqlite::lock(&path)?);
        Self::start_sqlite(&path, options, Some(lock)).await
    }

    /// With a lock: migrates. The lock lives as long as the writer.
    async fn start_sqlite(
        path: &std::path::Path,
        options: &OpenOptions,
        lock: Option<Arc<sqlite::FileLock>>,
    ) -> Result<Self, StoreError> {
        let pool = sqlite::pool(path, options.synchronous, 1, false);
        let unusable = |err: sqlx::Error| match StoreError::from(err) {
            StoreError::Sql(err) => StoreError::Refused(format!(
                "{} cannot be used as a database: {err}; name another file, or restore a backup",
                path.display()
            )),
            other => other,
        };
        let mut conn = Conn::sqlite(pool.acquire().await.map_err(unusable)?);
        sqlite::assert_durable(&mut conn, options.synchronous).await?;
        if lock.is_some() {
            migrate(&mut conn).await?;
        }
        drop(conn);
        let readers = sqlite::pool(path, options.synchronous, options.connections.max(1), true);
        let signals = Signals::default();
        let (requests, received) = mpsc::channel(WAITING);
        let task = tokio::spawn(writer::write_in_groups(pool, received, signals.clone(), lock));
        let writer = Mutex::new(Some(Writer { requests, task }));
        Ok(Self { db: Arc::new(Db::Sqlite { readers, writer }), signals, arrivals: Arc::default() })
    }

    async fn open_postgres(options: &OpenOptions) -> Result<Self, StoreError> {
        let connect: PgConnectOptions = options
            .url
            .parse()
            .map_err(|err| StoreError::Refused(format!("the database URL cannot be used: {err}")))?;
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(2))
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(
                connect
                    .application_name("trainyard")
                    .options([("idle_in_transaction_session_timeout", "15s")])
                    .disable_statement_logging(),
            );
        let mut conn = Conn::postgres(pool.acquire().await?);
        if options.synchronous == Synchronous::Full {
            for (setting, sql) in [("fsync", "SHOW fsync"), ("synchronous_commit", "SHOW synchronous_commit")]
            {
                let value: Option<String> = one!(conn, |row| row.get(setting), sql)?;
                if value.as_deref() == Some("off") {
                    return Err(StoreError::Refused(format!(
                        "the Postgres server has {setting} = off and would lose what trainyard acknowledges; \
                         turn it on"
                    )));
                }
            }
        }
        migrate(&mut conn).await?;
        drop(conn);
        Ok(Self { db: Arc::new(Db::Postgres(pool)), signals: Signals::default(), arrivals: Arc::default() })
    }

    /// A connection for single statements that only read.
    pub(super) async fn read(&self) -> Result<Conn, StoreError> {
        Ok(match &*self.db {
            Db::Sqlite { readers, .. } => Conn::sqlite(readers.acquire().await?),
            Db::Postgres(pool) => Conn::postgres(pool.acquire().await?),
        })
    }

    /// Several reads as of one moment.
    pub(super) async fn snapshot<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        let conn = self.read().await?;
        let (request, answer) = writer::request(work);
        let begin = dialect::begin_read(&conn);
        tokio::spawn(writer::write_alone(conn, begin, request, Signals::default()));
        received(answer).await
    }

    /// Runs `work` in a transaction and returns after its commit is on the disk. The transaction belongs to a task of the
    /// store: dropping this future neither breaks it nor leaves it open. An error of `work` undoes all it wrote.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        let (request, answer) = writer::request(work);
        match &*self.db {
            Db::Sqlite { writer, .. } => {
                let sender = writer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_ref()
                    .map(|w| w.requests.clone());
                let sender = sender.ok_or_else(closed)?;
                sender.send(request).await.map_err(|_| closed())?;
            }
            Db::Postgres(pool) => {
                let (pool, signals) = (pool.clone(), self.signals.clone());
                tokio::spawn(async move {
                    match pool.acquire().await {
                        Ok(conn) => {
                            let conn = Conn::postgres(conn);
                            let begin = dialect::begin_write(&conn);
                            writer::write_alone(conn, begin, request, signals).await;
                        }
                        Err(err) => request.answer(Err(err.to_string())),
                    }
                });
            }
        }
        received(answer).await
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
        self.write(|tx| Box::pin(async move { execute!(tx, SQL).map(|_| ()) })).await
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
                if let Some(Writer { requests, task }) = writer {
                    drop(requests);
                    let _ = task.await;
                }
            }
            Db::Postgres(pool) => pool.close().await,
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

async fn received<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the store was closed meanwhile".into())))
}

async fn migrate(conn: &mut Conn) -> Result<(), StoreError> {
    let done = on!(conn, c => MIGRATOR.run(c).await);
    done.map_err(|err| match err {
        MigrateError::VersionMissing(version) => StoreError::Refused(format!(
            "the database was written by a newer trainyard (it has migration {version}); start that version"
        )),
        MigrateError::VersionMismatch(version) => StoreError::Refused(format!(
            "migration {version} of this trainyard differs from the one the database was made with; use a released \
             version, or a new database"
        )),
        MigrateError::Execute(err) | MigrateError::ExecuteMigration(err, _) => err.into(),
        other => StoreError::Refused(format!("the database cannot be migrated: {other}")),
    })
}
