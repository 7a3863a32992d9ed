//! One text for two engines: the connection enum, the macros that paste a query for both, and the reader of rows.
//!
//! `sqlx::Any` is not used: it knows no typed NULLs and rewrites no placeholders. Both drivers take `$N`, `RETURNING` and
//! `ON CONFLICT`, so a query is written once and compiled twice.

use futures_util::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Either, Executor, Postgres, Row, Sqlite, Type};

use super::connections::Lent;
use super::{StoreError, dialect};
use crate::model::Invalid;

/// A connection of either engine; inside a write it is inside that write's transaction.
pub(super) struct Conn {
    pub(super) engine: Engine,
    /// This transaction asked for work: wake the workers once it is committed.
    pub(super) asked: bool,
    /// Behind a pooler, and in no transaction: each statement needs one of its own.
    alone: bool,
    /// Prepared statements stay on this connection.
    pub(super) keeps_statements: bool,
}

pub(super) enum Engine {
    Sqlite(Lent),
    Postgres(PoolConnection<Postgres>),
}

impl Conn {
    pub(super) fn sqlite(conn: Lent) -> Self {
        Self { engine: Engine::Sqlite(conn), asked: false, alone: false, keeps_statements: true }
    }
    /// `pooled`: the server behind this connection may be another one after each transaction. The driver sends a statement's
    /// text and its arguments apart, so even a single statement is put into a transaction, and none is prepared by name.
    pub(super) fn postgres(conn: PoolConnection<Postgres>, pooled: bool) -> Self {
        Self { engine: Engine::Postgres(conn), asked: false, alone: pooled, keeps_statements: !pooled }
    }
    /// Never hand this connection on: nobody knows which transaction it is in.
    pub(super) fn discard(self) {
        match self.engine {
            Engine::Sqlite(mut conn) => conn.set_at_rest(false),
            Engine::Postgres(mut conn) => conn.close_on_drop(),
        }
    }

    /// A statement without arguments, unprepared: one trip to the server.
    pub(super) async fn plain(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.set_at_rest(false);
        let done = match &mut self.engine {
            Engine::Sqlite(conn) => sqlx::raw_sql(sql).execute(&mut **conn).await.map(|_| ()),
            Engine::Postgres(conn) => sqlx::raw_sql(sql).execute(&mut **conn).await.map(|_| ()),
        }
        .map_err(StoreError::from);
        self.set_at_rest(!matches!(done, Err(StoreError::Unavailable(_))));
        done
    }

    /// Begins a transaction that the caller ends by [`Conn::plain`].
    pub(super) async fn begin(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.plain(sql).await?;
        self.alone = false;
        Ok(())
    }

    /// Before each statement.
    pub(super) async fn enter(&mut self) -> Result<(), StoreError> {
        if self.alone {
            self.plain("BEGIN").await?;
        }
        self.set_at_rest(false);
        Ok(())
    }

    /// After each statement.
    pub(super) async fn leave<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        self.set_at_rest(!matches!(done, Err(StoreError::Unavailable(_))));
        if self.alone {
            self.plain(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        }
        done
    }

    /// See [`Lent::set_at_rest`]; the driver's pool of Postgres asks by itself.
    fn set_at_rest(&mut self, at_rest: bool) {
        if let Engine::Sqlite(conn) = &mut self.engine {
            conn.set_at_rest(at_rest);
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
            let keep = $conn.keeps_statements;
            match $conn.enter().await {
                Err(err) => Err(err),
                Ok(()) => {
                    let done = $crate::store::conn::on!($conn, c => sqlx::query(sql).persistent(keep)$(.bind($arg))*
                        .execute(c).await.map(|done| done.rows_affected()).map_err($crate::store::StoreError::from));
                    $conn.leave(done).await
                }
            }
        }
    };
}

/// `all!(conn, read, SQL, arguments…)`: every row, as `read` makes it.
macro_rules! all {
    ($conn:expr, $read:expr, $sql:expr $(, $arg:expr)* $(,)?) => {
        {
            let sql = $sql;
            let keep = $conn.keeps_statements;
            match $conn.enter().await {
                Err(err) => Err(err),
                Ok(()) => {
                    let done = $crate::store::conn::on!($conn, c =>
                        match sqlx::query(sql).persistent(keep)$(.bind($arg))*.fetch_all(c).await {
                            Ok(rows) => rows.iter().map($read).collect::<Result<Vec<_>, $crate::store::StoreError>>(),
                            Err(err) => Err($crate::store::StoreError::from(err)),
                        });
                    $conn.leave(done).await
                }
            }
        }
    };
}

/// `one!(conn, read, SQL, arguments…)`: the row, if there is one.
macro_rules! one {
    ($conn:expr, $read:expr, $sql:expr $(, $arg:expr)* $(,)?) => {
        {
            let sql = $sql;
            let keep = $conn.keeps_statements;
            match $conn.enter().await {
                Err(err) => Err(err),
                Ok(()) => {
                    let done = $crate::store::conn::on!($conn, c =>
                        match sqlx::query(sql).persistent(keep)$(.bind($arg))*.fetch_optional(c).await {
                            Ok(row) => row.as_ref().map($read).transpose(),
                            Err(err) => Err($crate::store::StoreError::from(err)),
                        });
                    $conn.leave(done).await
                }
            }
        }
    };
}

/// `moment![SQL, …]`: selects to be read as of one moment. Each takes `$1`.
macro_rules! moment {
    [$($sql:expr),+ $(,)?] => {
        $crate::store::conn::Moment { each: [$($sql),+], whole: concat!("BEGIN; ", $($sql, "; "),+, "COMMIT") }
    };
}

/// `read_all!(rows, read)`: all of these [`Rows`], as `read` makes them.
macro_rules! read_all {
    ($rows:expr, $read:expr) => {
        match $rows {
            $crate::store::conn::Rows::Sqlite(rows) => rows.iter().map($read).collect::<Result<Vec<_>, _>>(),
            $crate::store::conn::Rows::Postgres(rows) => {
                rows.iter().map($read).collect::<Result<Vec<_>, _>>()
            }
        }
    };
}
pub(super) use {all, execute, moment, on, one, read_all};

/// Selects that are read as of one moment; see [`moment`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<const N: usize> {
    pub(super) each: [&'static str; N],
    /// All of them in a transaction, which the driver of SQLite takes as one text: a trip to its thread instead of N + 2.
    pub(super) whole: &'static str,
}

/// Rows of either engine.
pub(super) enum Rows {
    Sqlite(Vec<SqliteRow>),
    Postgres(Vec<PgRow>),
}

impl<const N: usize> Moment<N> {
    /// A caller that is dropped may leave the transaction open: then the connection is closed.
    pub(super) async fn on_sqlite(self, conn: &mut Lent, id: &str) -> Result<[Rows; N], StoreError> {
        conn.set_at_rest(false);
        let mut found = [const { Vec::new() }; N];
        {
            let mut said = conn.fetch_many(sqlx::query(self.whole).bind(id));
            let mut ended = 0; // of the statements, the first of which begins and the last commits
            while let Some(next) = said.try_next().await? {
                match next {
                    Either::Left(_) => ended += 1,
                    Either::Right(row) => found[ended - 1].push(row),
                }
            }
            // Of a thread that is gone the driver tells no error.
            if ended != N + 2 {
                return Err(StoreError::Unavailable("the database's connection broke off".into()));
            }
        }
        conn.set_at_rest(true);
        Ok(found.map(Rows::Sqlite))
    }

    /// To the end, in a task that nothing drops.
    pub(super) async fn on_postgres(
        self,
        mut conn: PoolConnection<Postgres>,
        keeps_statements: bool,
        id: &str,
    ) -> Result<[Rows; N], StoreError> {
        let found = async {
            conn.execute(sqlx::raw_sql(dialect::BEGIN_MOMENT_POSTGRES)).await?;
            let mut found = [const { Vec::new() }; N];
            for (sql, rows) in self.each.into_iter().zip(&mut found) {
                *rows = conn.fetch_all(sqlx::query(sql).persistent(keeps_statements).bind(id)).await?;
            }
            conn.execute(sqlx::raw_sql("COMMIT")).await?;
            Ok(found.map(Rows::Postgres))
        };
        let found: Result<_, StoreError> = found.await;
        if found.is_err() {
            conn.close_on_drop();
        }
        found
    }
}

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
    /// The same; NULL as None.
    fn json_or_null<T: serde::de::DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(|err| inconsistent(column, &err))
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
