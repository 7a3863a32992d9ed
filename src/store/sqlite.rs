//! Opening a SQLite file so that an acknowledged write is on the disk: the lock, the file modes, the pragmas, and the
//! checks that they took effect.

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::conn::{Conn, Fields, one};
use super::connections::Connections;
use super::{StoreError, Synchronous};

/// Held for life: one daemon for each file.
pub(super) type FileLock = Flock<File>;

/// Versions before this one can corrupt a WAL database when two connections write and checkpoint at once
/// (sqlite.org/wal.html, "the WAL-reset bug").
const OLDEST: (u32, u32, u32) = (3, 51, 3);

/// Takes `<database>.lock` and keeps database and lock away from other users. The WAL inherits the database's mode.
pub(super) fn lock(path: &Path) -> Result<FileLock, StoreError> {
    let refuse = |what: &str, path: &Path, why: &dyn std::fmt::Display| {
        StoreError::Refused(format!("cannot {what} {}: {why}", path.display()))
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = Path::new(&name);
    let open = |path: &Path| {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|err| refuse("open", path, &err))?;
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(|err| refuse("set the mode of", path, &err))?;
        Ok::<_, StoreError>(file)
    };
    let file = open(lock_path)?;
    let kind =
        nix::sys::statfs::fstatfs(&file).map_err(|err| refuse("look at", lock_path, &err))?.filesystem_type();
    if [nix::sys::statfs::NFS_SUPER_MAGIC, nix::sys::statfs::SMB_SUPER_MAGIC].contains(&kind) {
        return Err(StoreError::Refused(format!(
            "{} lies on a network file system, where SQLite's locks and shared memory do not work; put it on a \
             local disk or use Postgres",
            path.display()
        )));
    }
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, err)| match err {
        nix::errno::Errno::EWOULDBLOCK => StoreError::Refused(format!(
            "another process holds {}, so it uses this database; stop that process first, or give this one a data \
             directory of its own",
            lock_path.display()
        )),
        err => refuse("lock", lock_path, &err),
    })?;
    open(path)?;
    Ok(lock)
}

/// Connections to the file.
pub(super) fn connections(path: &Path, synchronous: Synchronous, most: u32, read_only: bool) -> Connections {
    let mut options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match synchronous {
            Synchronous::Full => SqliteSynchronous::Full,
            Synchronous::Normal => SqliteSynchronous::Normal,
        })
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging();
    if read_only {
        options = options.pragma("query_only", "ON");
    }
    Connections::new(options, most)
}

/// A connection to a copy that nobody writes: leaves no file beside it.
pub(super) fn reader_of_copy(path: &Path) -> Connections {
    let options = SqliteConnectOptions::new().filename(path).immutable(true).disable_statement_logging();
    Connections::new(options, 1)
}

/// Reads back what decides over durability. A pragma that is misspelt or not possible here is silently passed over by
/// SQLite, so it is asked.
pub(super) async fn assert_durable(conn: &mut Conn, synchronous: Synchronous) -> Result<(), StoreError> {
    let refuse = |what: String| {
        Err(StoreError::Refused(format!(
            "{what}; trainyard needs it to keep what it acknowledges, so it does not start"
        )))
    };
    let version: String = need(one!(conn, |row| row.get("v"), "SELECT sqlite_version() AS v")?)?;
    if parse_version(&version) < Some(OLDEST) {
        return refuse(format!("SQLite {version} is older than 3.51.3"));
    }
    let mode: String = need(one!(conn, |row| row.get("journal_mode"), "PRAGMA journal_mode")?)?;
    if mode != "wal" {
        return refuse(format!("the database is in journal mode {mode}, not wal"));
    }
    let level: i64 = need(one!(conn, |row| row.get("synchronous"), "PRAGMA synchronous")?)?;
    if level != (if synchronous == Synchronous::Full { 2 } else { 1 }) {
        return refuse(format!("the database is at synchronous level {level}, not {synchronous:?}"));
    }
    let keys: i64 = need(one!(conn, |row| row.get("foreign_keys"), "PRAGMA foreign_keys")?)?;
    if keys != 1 {
        return refuse("foreign keys are not enforced".into());
    }
    Ok(())
}

fn need<T>(value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Inconsistent {
        what: "no answer".into(),
        why: "a pragma said nothing".into(),
    })
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, parse_version};

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("3.40.1") < Some(OLDEST));
        assert!(parse_version("3.51.10") > Some(OLDEST));
        assert!(parse_version("nonsense") < Some(OLDEST));
    }
}
