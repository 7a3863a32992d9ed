//! One text for two engines: the connection enum, the macros that paste a query for both, and the reader of rows.
//!
//! `sqlx::Any` is not used: it knows no typed NULLs and rewrites no placeholders. Both drivers take `$N`, `RETURNING` and
//! `ON CONFLICT`, so a query is written once and compiled twice.

use sqlx::pool::PoolConnection;
use sqlx::{Decode, Postgres, Row, Sqlite, Type};

use super::StoreError;
use crate::model::Invalid;

/// A connection of either engine; inside a write it is inside that write's transaction.
pub(super) struct Conn {
    pub(super) engine: Engine,
    /// This transaction asked for work: wake the workers once it is committed.
    pub(super) asked: bool,
}

pub(super) enum Engine {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Conn {
    pub(super) fn sqlite(conn: PoolConnection<Sqlite>) -> Self {
        Self { engine: Engine::Sqlite(conn), asked: false }
    }
    pub(super) fn postgres(conn: PoolConnection<Postgres>) -> Self {
        Self { engine: Engine::Postgres(conn), asked: false }
    }
    /// Never hand this connection on: nobody knows which transaction it is in.
    pub(super) fn discard(mut self) {
        match &mut self.engine {
            Engine::Sqlite(conn) => conn.close_on_drop(),
            Engine::Postgres(conn) => conn.close_on_drop(),
        }
    }
}

/// Pastes `$body` once for each engine, with `$c` bound to that engine's connection.
macro_rules! on {
    ($conn:expr, $c:ident => $body:expr) => {
        match &mut $conn.engine {
            $crate::store::conn::Engine::Sqlite(conn) => {
                let $c = &mut **conn;
                $body
            }
            $crate::store::conn::Engine::Postgres(conn) => {
                let $c = &mut **conn;
                $body
            }
        }
    };
}

/// `execute!(conn, SQL, arguments…)`: rows affected.
macro_rules! execute {
    ($conn:expr, $sql:expr $(, $arg:expr)* $(,)?) => {
        {
            let sql = $sql;
            $crate::store::conn::on!($conn, c => sqlx::query(sql)$(.bind($arg))*
                .execute(c).await.map(|done| done.rows_affected()).map_err($crate::store::StoreError::from))
        }
    };
}

/// `all!(conn, read, SQL, arguments…)`: every row, as `read` makes it.
macro_rules! all {
    ($conn:expr, $read:expr, $sql:expr $(, $arg:expr)* $(,)?) => {
        {
            let sql = $sql;
            $crate::store::conn::on!($conn, c => match sqlx::query(sql)$(.bind($arg))*.fetch_all(c).await {
                Ok(rows) => rows.iter().map($read).collect::<Result<Vec<_>, $crate::store::StoreError>>(),
                Err(err) => Err($crate::store::StoreError::from(err)),
            })
        }
    };
}

/// `one!(conn, read, SQL, arguments…)`: the row, if there is one.
macro_rules! one {
    ($conn:expr, $read:expr, $sql:expr $(, $arg:expr)* $(,)?) => {
        {
            let sql = $sql;
            $crate::store::conn::on!($conn, c => match sqlx::query(sql)$(.bind($arg))*.fetch_optional(c).await {
                Ok(row) => row.as_ref().map($read).transpose(),
                Err(err) => Err($crate::store::StoreError::from(err)),
            })
        }
    };
}
pub(super) use {all, execute, on, one};

/// What both engines can decode.
pub(super) trait Plain:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}
impl<T> Plain for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

/// A row of either engine, read by column name.
pub(super) trait Fields {
    fn get<T: Plain>(&self, column: &'static str) -> Result<T, StoreError>;

    /// A word of one of our enums, or text that a newtype checks.
    fn word<T: std::str::FromStr<Err = Invalid>>(&self, column: &'static str) -> Result<T, StoreError> {
        self.get::<String>(column)?.parse().map_err(|err| inconsistent(column, &err))
    }
    fn word_or_null<T: std::str::FromStr<Err = Invalid>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| text.parse().map_err(|err| inconsistent(column, &err))).transpose()
    }
    fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(&self.get::<String>(column)?).map_err(|err| inconsistent(column, &err))
    }
}

fn inconsistent(column: &'static str, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Inconsistent { what: format!("a {column}"), why: why.to_string() }
}

macro_rules! fields {
    ($row:ty) => {
        impl Fields for $row {
            fn get<T: Plain>(&self, column: &'static str) -> Result<T, StoreError> {
                self.try_get(column).map_err(|err| inconsistent(column, &err))
            }
        }
    };
}
fields!(sqlx::sqlite::SqliteRow);
fields!(sqlx::postgres::PgRow);

/// Our own plain types always serialise.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|err| StoreError::Inconsistent { what: "a value".into(), why: err.to_string() })
}
