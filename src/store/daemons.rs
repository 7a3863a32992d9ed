//! Which daemons share the database: one row for each machine, renewed while its daemon lives.

use super::conn::{Fields, all, execute, one};
use super::{Store, StoreError, dialect};
use crate::clock::Millis;

/// A daemon whose row is older than this counts as gone, as far as sharing work goes.
pub const DAEMON_GONE_MS: Millis = 60_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonRow {
    /// The data directory's own id: whose local processes and files these are.
    pub machine: String,
    /// The host's name, for people.
    pub name: String,
    /// Its name in leases; empty when it has stopped.
    pub holder: String,
    pub version: String,
    /// Where it keeps bytes: all daemons of one database must say the same.
    pub blob: String,
    pub started_ms: Millis,
    pub seen_ms: Millis,
}

impl DaemonRow {
    /// Does it take work now, as far as anyone can tell?
    pub fn is_live(&self, now: Millis) -> bool {
        !self.holder.is_empty() && now - self.seen_ms < DAEMON_GONE_MS
    }
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            machine: row.get("machine")?,
            name: row.get("name")?,
            holder: row.get("holder")?,
            version: row.get("version")?,
            blob: row.get("blob")?,
            started_ms: row.get("started_ms")?,
            seen_ms: row.get("seen_ms")?,
        })
    }
}

impl Store {
    /// Notes that this daemon lives. Replaces the row of an earlier process of its machine.
    pub async fn daemon_lives(&self, daemon: DaemonRow) -> Result<(), StoreError> {
        self.write_again(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "INSERT INTO daemons (machine, name, holder, version, blob, started_ms, seen_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)
                     ON CONFLICT (machine) DO UPDATE SET name = excluded.name, holder = excluded.holder, version = excluded.version,
                       blob = excluded.blob, started_ms = excluded.started_ms, seen_ms = excluded.seen_ms",
                    &daemon.machine,
                    &daemon.name,
                    &daemon.holder,
                    &daemon.version,
                    &daemon.blob,
                    daemon.started_ms,
                    daemon.seen_ms
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Notes that the daemon has stopped, unless another process of its machine has taken its place. The row stays: the machine's
    /// trainings go on, and `seen_ms` says since when nobody answers for them.
    pub async fn daemon_leaves(&self, machine: &str, holder: &str) -> Result<(), StoreError> {
        let (machine, holder) = (machine.to_owned(), holder.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "UPDATE daemons SET holder = '' WHERE machine = $1 AND holder = $2",
                    &machine,
                    &holder
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// Every daemon that was heard of, by machine; those gone for long too.
    pub async fn daemons(&self) -> Result<Vec<DaemonRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            DaemonRow::read,
            "SELECT machine, name, holder, version, blob, started_ms, seen_ms FROM daemons ORDER BY machine"
        )
    }

    /// The database server's time, for telling clocks that run apart. None where the database has no clock of its own.
    pub async fn server_time_ms(&self) -> Result<Option<Millis>, StoreError> {
        let mut conn = self.read().await?;
        let sql = dialect::by_engine(
            &conn,
            "SELECT CAST(NULL AS BIGINT) AS now_ms",
            "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now_ms",
        );
        let now: Option<Option<Millis>> = one!(conn, |row| row.get("now_ms"), sql)?;
        Ok(now.flatten())
    }
}
