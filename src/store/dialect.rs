//! The few places where SQLite and Postgres differ: how a transaction begins, how a claim passes over rows that others
//! hold, and which errors mean "not now" rather than "wrong".

use super::StoreError;
use super::conn::{Conn, Engine};

/// Begins a SQLite transaction that will write. It takes the write lock at once: a later upgrade from reading to writing
/// fails with `SQLITE_BUSY_SNAPSHOT`, which no busy timeout waits out.
pub(super) const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE";

/// Begins a Postgres transaction that will write. One that its daemon forgot about must not hold row locks for ever; the setting
/// goes with the transaction because a pooler takes none with the connection.
pub(super) const BEGIN_POSTGRES: &str =
    "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '15s'; SET LOCAL lock_timeout = '10s'";

/// Begins a Postgres transaction that reads several tables as of one moment.
pub(super) const BEGIN_MOMENT_POSTGRES: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Picks the engine's own text where no single one serves both: passing over locked rows where several replicas claim at
/// once (SQLite has one writer), and lists as one JSON argument.
pub(super) fn by_engine(conn: &Conn, sqlite: &'static str, postgres: &'static str) -> &'static str {
    match conn.engine {
        Engine::Sqlite(_) => sqlite,
        Engine::Postgres(_) => postgres,
    }
}

impl StoreError {
    /// Two transactions were in each other's way and this one was undone: run it again.
    pub(super) fn is_conflict(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(err)) = self else { return false };
        // Serialisation failure, deadlock, lock not available.
        err.code().is_some_and(|code| ["40001", "40P01", "55P03"].contains(&&*code))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(err: sqlx::Error) -> Self {
        let away = match &err {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(db) => db.code().is_some_and(|code| is_away(&code)),
            _ => false,
        };
        if away { Self::Unavailable(err.to_string()) } else { Self::Sql(err) }
    }
}

/// SQLite's result codes are numbers (the primary code is the low byte), Postgres' SQLSTATEs have five characters.
fn is_away(code: &str) -> bool {
    if code.len() == 5 && !code.starts_with(|c: char| c.is_ascii_digit() && c > '5') {
        // Connection lost, out of resources, shutting down, system error, read-only or forgotten transaction.
        return ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class))
            || code == "25006"
            || code == "25P03";
    }
    let Ok(number) = code.parse::<u32>() else { return false };
    // BUSY, NOMEM, READONLY, IOERR, FULL, CANTOPEN.
    matches!(number & 0xff, 5 | 7 | 8 | 10 | 13 | 14)
}

#[cfg(test)]
mod tests {
    use super::is_away;

    #[test]
    fn trouble_with_disk_or_server_is_told_from_wrong_statements() {
        for code in [
            "5", "517", "8", "1032", "10", "1034", "13", "14", "08006", "53100", "57P01", "25006", "25P03",
            "58030",
        ] {
            assert!(is_away(code), "{code}");
        }
        for code in ["1", "19", "2067", "1555", "11", "23505", "42P01", "25P02", "40P01"] {
            assert!(!is_away(code), "{code}");
        }
    }
}
