//! Copies of a SQLite database: taken while a daemon writes, checked before they count, put back under the daemon's lock.
//!
//! Must not: touch Postgres; its own programs do that (`cli::admin`).

use std::path::{Path, PathBuf};

use super::conn::{Conn, Fields, all, execute, one};
use super::sqlite;
use super::{StoreError, Synchronous};

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    pub bytes: u64,
    /// Its newest migration.
    pub migration: i64,
}

fn refused(what: &str, path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Refused(format!("cannot {what} {}: {why}", path.display()))
}

/// Writes a copy as of one moment to `to`, which must not exist, and checks it. The daemon may go on writing. Returns after the copy
/// is on the disk.
///
/// # Errors
/// `Refused` when there is no such database, the target exists, or the copy is not whole.
pub async fn copy_sqlite(from: &Path, to: &Path) -> Result<Copied, StoreError> {
    if !from.is_file() {
        return Err(refused("copy", from, &"there is no such database"));
    }
    if to.symlink_metadata().is_ok() {
        return Err(refused("write", to, &"it exists already"));
    }
    let connections = sqlite::connections(from, Synchronous::Full, 1, false);
    let mut conn = Conn::sqlite(connections.lend().await?);
    let text = to.to_str().ok_or_else(|| refused("write", to, &"its path is not UTF-8"))?;
    // SQLite's documentation, "VACUUM with an INTO clause": a consistent snapshot, of the WAL too.
    let done = execute!(conn, "VACUUM INTO $1", text);
    drop(conn);
    connections.close().await;
    done?;
    protect(to).map_err(|why| refused("write", to, &why))?;
    check_sqlite(to).await
}

/// Reads a whole copy and says what it is.
///
/// # Errors
/// `Refused` when it is damaged or not a database of trainyard.
pub async fn check_sqlite(path: &Path) -> Result<Copied, StoreError> {
    let bytes = std::fs::metadata(path).map_err(|why| refused("read", path, &why))?.len();
    let connections = sqlite::reader_of_copy(path);
    let found = async {
        let mut conn = Conn::sqlite(connections.lend().await?);
        let wrong: Vec<String> = all!(conn, |row| row.get("integrity_check"), "PRAGMA integrity_check(3)")?;
        let newest: Option<Option<i64>> =
            one!(conn, |row| row.get("version"), "SELECT MAX(version) AS version FROM _sqlx_migrations")?;
        Ok::<_, StoreError>((wrong, newest.flatten()))
    }
    .await;
    connections.close().await;
    match found {
        Ok((wrong, Some(migration))) if wrong == ["ok"] => Ok(Copied { bytes, migration }),
        Ok((wrong, _)) => Err(refused("use", path, &format_args!("it is damaged: {}", wrong.join("; ")))),
        Err(why) => Err(refused("use", path, &format_args!("it is not a database of trainyard ({why})"))),
    }
}

/// Puts a checked copy in the place of the database at `to`. What was there is moved aside; its new name is returned.
///
/// # Errors
/// `Refused` when a daemon uses the database, when one is there and `replace` is not set, or the copy is not whole.
pub async fn restore_sqlite(from: &Path, to: &Path, replace: bool) -> Result<Option<PathBuf>, StoreError> {
    check_sqlite(from).await?;
    let there = to.is_file();
    let lock = sqlite::lock(to)?;
    let failed = |why: std::io::Error| refused("restore", to, &why);
    if there && !replace {
        return Err(refused("restore", to, &"there is a database already; pass --replace to move it aside"));
    }
    let beside = |end: &str| {
        let mut name = to.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let fresh = beside(".restoring");
    std::fs::copy(from, &fresh).map_err(failed)?;
    protect(&fresh).map_err(failed)?;
    let mut aside = None;
    if there {
        let mut number = 1;
        while beside(&format!(".before-restore-{number}")).exists() {
            number += 1;
        }
        let name = format!(".before-restore-{number}");
        for end in ["-wal", "-shm", ""] {
            let old = beside(end);
            if old.exists() {
                std::fs::rename(&old, beside(&format!("{name}{end}"))).map_err(failed)?;
            }
        }
        aside = Some(beside(&name));
    }
    std::fs::rename(&fresh, to).map_err(failed)?;
    if let Some(dir) = to.parent() {
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    drop(lock);
    Ok(aside)
}

/// For its owner alone, and on the disk.
fn protect(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    std::fs::File::open(path)?.sync_all()?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => std::fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}
