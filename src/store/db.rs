//! Opening, the writer, the readers. (Seam: the signatures here are what the other rooms build on.)

use std::path::PathBuf;

/// What can go wrong in the store, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, read-only or failing, or the server is away: answer 503, become not ready, try later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A stored value is not what this version writes.
    #[error("the database holds {what} that this version cannot read: {why}")]
    Inconsistent { what: String, why: String },
    /// The file is locked, too old, too new, on a network disk, …: one sentence that says what to do.
    #[error("{0}")]
    Refused(String),
    #[error("database error: {0}")]
    Sql(#[from] sqlx::Error),
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
pub struct Store {}

impl Store {
    /// Opens, locks (SQLite: a lock file beside the database, held for life), asserts WAL, FULL and the SQLite
    /// version, and migrates.
    pub async fn open(options: &OpenOptions) -> Result<Self, StoreError> {
        let _ = options;
        todo!()
    }
    /// A value of `meta`, made by `make` and stored when it is not there yet.
    pub async fn meta_or_insert(
        &self,
        name: &'static str,
        make: fn() -> String,
    ) -> Result<String, StoreError> {
        let _ = (name, make);
        todo!()
    }
    /// Can a commit reach the disk right now? For `/readyz`.
    pub async fn check(&self) -> Result<(), StoreError> {
        todo!()
    }
    /// Waits for what is being written, then closes. Later calls fail with `Unavailable`.
    pub async fn close(&self) {
        todo!()
    }
}
