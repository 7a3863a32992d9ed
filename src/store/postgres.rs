//! Opening a Postgres database so that an acknowledged write is on the disk: the pools, with and without a pooler in front,
//! and the check of the server's settings.

use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};

use super::conn::{Conn, Fields, one};
use super::{OpenOptions, StoreError};

/// How long a caller waits for a connection: shorter than forges wait for an answer (GitHub: 10 s).
const ACQUIRE: Duration = Duration::from_secs(5);

/// A pool that connects when it is first used.
///
/// # Errors
/// The URL cannot be read.
pub(super) fn pool(options: &OpenOptions) -> Result<PgPool, StoreError> {
    // The driver's message may quote the URL and with it a password.
    let mut connect: PgConnectOptions = options.url.parse().map_err(|_| {
        StoreError::Refused(
            "the database URL cannot be read; write it as postgres://user@host:5432/name, and the password into \
             database_password"
                .into(),
        )
    })?;
    if let Some(password) = &options.password {
        connect = connect.password(password.expose_secret());
    }
    connect = connect.application_name("trainyard").disable_statement_logging();
    let pool = PgPoolOptions::new().max_connections(options.connections.max(2)).acquire_timeout(ACQUIRE);
    if !options.pooled {
        let connect = connect.options([("idle_in_transaction_session_timeout", "15s")]);
        return Ok(pool.connect_lazy_with(connect));
    }
    // A pooler in transaction mode knows no named statements and passes on no settings of a connection. A reader that was
    // dropped half-way may have left the transaction of its statement open.
    let connect = connect.statement_cache_capacity(0).extra_float_digits(None);
    let pool = pool.after_release(|conn, _| {
        Box::pin(async move { sqlx::raw_sql("ROLLBACK").execute(conn).await.map(|_| true) })
    });
    Ok(pool.connect_lazy_with(connect))
}

/// Refuses a server that would lose what trainyard acknowledges.
pub(super) async fn assert_durable(conn: &mut Conn) -> Result<(), StoreError> {
    for (setting, sql) in [("fsync", "SHOW fsync"), ("synchronous_commit", "SHOW synchronous_commit")] {
        let value: Option<String> = one!(conn, |row| row.get(setting), sql)?;
        if value.as_deref() == Some("off") {
            return Err(StoreError::Refused(format!(
                "the Postgres server has {setting} = off and would lose what trainyard acknowledges; turn it on"
            )));
        }
    }
    Ok(())
}
