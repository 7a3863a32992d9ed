//! Connections to one SQLite file, each lent to one at a time.
//!
//! `sqlx::Pool` asks a connection whether it is alive whenever it is given back, by a task that it spawns for that. A file does not
//! go away, and that question costs as much as most of our statements: a trip to the connection's thread and back.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StoreError;

/// How long one may be waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opened when there is none to lend, then kept: there is nothing to gain from closing one.
#[derive(Debug, Clone)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: SqliteConnectOptions,
    most: u32,
    places: Arc<Semaphore>,
    /// The one that was given back last comes last, and is lent first: its pages are in the processor's cache.
    idle: Mutex<Vec<SqliteConnection>>,
}

/// A connection that comes back when this is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    /// None only while it is dropped.
    conn: Option<SqliteConnection>,
    /// Whoever has it next may use it.
    sound: bool,
    home: Arc<Shared>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    /// At most so many at once.
    pub(super) fn new(options: SqliteConnectOptions, most: u32) -> Self {
        let places = Arc::new(Semaphore::new(most as usize));
        Self(Arc::new(Shared { options, most, places, idle: Mutex::default() }))
    }

    /// # Errors
    /// `Unavailable` when all are taken for too long or they were closed, and what opening the file fails with.
    pub(super) async fn lend(&self) -> Result<Lent, StoreError> {
        let unavailable = |why: &str| StoreError::Unavailable(why.into());
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.0.places).acquire_owned())
            .await
            .map_err(|_| unavailable("no connection to the database became free within 10 s"))?
            .map_err(|_| unavailable("the store is closed"))?;
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.0.options.connect().await?,
        };
        Ok(Lent { conn: Some(conn), sound: true, home: Arc::clone(&self.0), _place: place })
    }

    /// Waits until all are back and closes them. Nothing is lent from now on.
    pub(super) async fn close(&self) {
        let _all = self.0.places.acquire_many(self.0.most).await;
        self.0.places.close();
        let idle = std::mem::take(&mut *self.0.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for conn in idle {
            if let Err(error) = conn.close().await {
                tracing::debug!(%error, "a connection to the database did not close well");
            }
        }
    }
}

impl Lent {
    /// Whether somebody else may have it after this. One that is not sound is closed instead.
    pub(super) fn set_sound(&mut self, sound: bool) {
        self.sound = sound;
    }
}

impl Deref for Lent {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        self.conn.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.conn.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| self.sound) {
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        }
    }
}
