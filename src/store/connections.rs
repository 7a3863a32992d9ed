//! Connections to one SQLite file, each lent to one at a time.
//!
//! `sqlx::Pool` asks a connection whether it is alive whenever it is given back, by a task that it spawns for that: a trip to the
//! connection's thread and back, as long as most of our statements. A file does not go away. What that question finds out beside is
//! known here: whether a statement is still under way, because whoever waited for it has left.

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
    /// No statement is under way, and none left anything behind.
    at_rest: bool,
    home: Arc<Shared>,
    /// None only while it is dropped.
    place: Option<OwnedSemaphorePermit>,
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
        Ok(Lent { conn: Some(conn), at_rest: true, home: Arc::clone(&self.0), place: Some(place) })
    }

    /// Waits until all are back or closed, and closes those that are back. Nothing is lent from now on.
    pub(super) async fn close(&self) {
        let _all = self.0.places.acquire_many(self.0.most).await;
        self.0.places.close();
        let idle = std::mem::take(&mut *self.0.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for conn in idle {
            closed(conn).await;
        }
    }
}

impl Lent {
    /// False before each statement and true after it. One that is not at rest when it comes back is closed, once its thread is
    /// done with what it is at; its place stays taken until then.
    pub(super) fn set_at_rest(&mut self, at_rest: bool) {
        self.at_rest = at_rest;
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
        let Some(conn) = self.conn.take() else { return };
        if self.at_rest {
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            return;
        }
        let place = self.place.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                closed(conn).await;
                drop(place);
            });
        }
    }
}

async fn closed(conn: SqliteConnection) {
    if let Err(error) = conn.close().await {
        tracing::debug!(%error, "a connection to the database did not close well");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conn::{Conn, Fields as _, all};

    #[tokio::test]
    async fn a_connection_at_work_for_nobody_is_lent_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("db")).create_if_missing(true);
        let connections = Connections::new(options, 2);
        let now = || {
            let idle = connections.0.idle.lock().unwrap().len();
            (idle, connections.0.places.available_permits())
        };
        let read = async |sql: &'static str| {
            let mut conn = Conn::sqlite(connections.lend().await.unwrap());
            all!(conn, |row| row.get::<i64>("n"), sql).unwrap()
        };
        assert_eq!((read("SELECT 1 AS n").await, now()), (vec![1], (1, 2)));
        let long = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 10000000) SELECT SUM(n) AS n FROM c";
        tokio::time::timeout(Duration::from_millis(20), read(long)).await.unwrap_err();
        assert_eq!(now(), (0, 1), "it is at work, and keeps its place");
        assert_eq!((read("SELECT 2 AS n").await, now()), (vec![2], (1, 1)));
        // Once it is done its place is free.
        let both = [connections.lend().await.unwrap(), connections.lend().await.unwrap()];
        assert_eq!(now(), (0, 0));
        drop(both);
        assert_eq!(now(), (2, 2));
        // Closing waits for such a one as well.
        tokio::time::timeout(Duration::from_millis(20), read(long)).await.unwrap_err();
        connections.close().await;
        assert_eq!(now().0, 0);
        assert!(matches!(connections.lend().await, Err(StoreError::Unavailable(_))));
    }
}
