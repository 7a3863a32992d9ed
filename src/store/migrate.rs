//! Brings a database to this version's tables, once, whoever starts at the same time.
//!
//! SQLite: the daemon's file lock keeps others out. Postgres: all missing migrations are one transaction under an advisory lock
//! that ends with it, so a crash half-way leaves the old tables, and nothing of it needs a session (poolers give none).

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

use super::StoreError;
use super::conn::{Conn, Engine, Fields, all};

static MIGRATOR: Migrator = sqlx::migrate!();

/// Names the lock: "trainyard" in ASCII, cut to 63 bits.
const LOCK: i64 = 0x7472_6169_6e79_6172;

/// Bodies come packed, so the server shall not spend its time on trying to pack them again. Only Postgres knows such a setting, so no
/// migration can make it.
const PACKED_BODIES: &str =
    "DO $$ BEGIN IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'deliveries'::regclass AND attname = 'body' AND attstorage <> 'e')
     THEN ALTER TABLE deliveries ALTER COLUMN body SET STORAGE EXTERNAL; END IF; END $$";

/// How often one that waits for the lock looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Applies what is missing. Waits, and says so, while another process is at it.
pub(super) async fn migrate(conn: &mut Conn) -> Result<(), StoreError> {
    match &mut conn.engine {
        Engine::Sqlite(conn) => MIGRATOR.run(&mut **conn).await.map_err(explain),
        Engine::Postgres(conn) => {
            let mut waited = Duration::ZERO;
            while !migrate_under_lock(conn).await? {
                if waited.as_millis().is_multiple_of(5_000) {
                    tracing::info!(
                        waited_s = waited.as_secs(),
                        "another process is migrating this database; waiting for it"
                    );
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                waited += LOOK_AGAIN;
            }
            Ok(())
        }
    }
}

/// False: another process holds the lock.
async fn migrate_under_lock(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let mut tx = conn.begin().await?;
    let got: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .persistent(false)
        .bind(LOCK)
        .fetch_one(&mut *tx)
        .await?;
    if !got {
        tx.rollback().await?;
        return Ok(false);
    }
    let mut migrator = Migrator { migrations: MIGRATOR.migrations.clone(), ..Migrator::DEFAULT };
    migrator.set_locking(false);
    // The migrator prepares by name; behind a pooler those names would stay on the server for its next client.
    sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *tx).await?;
    migrator.run(&mut *tx).await.map_err(explain)?;
    sqlx::raw_sql(PACKED_BODIES).execute(&mut *tx).await?;
    sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *tx).await?;
    tx.commit().await?;
    // What this connection still believes to have prepared is gone.
    conn.clear_cached_statements().await?;
    Ok(true)
}

/// Are the tables those of this version?
///
/// # Errors
/// `Refused` with what to do when they are not.
pub(super) async fn check(conn: &mut Conn) -> Result<(), StoreError> {
    let found: Result<Vec<i64>, _> =
        all!(conn, |row| row.get("version"), "SELECT version FROM _sqlx_migrations ORDER BY version");
    let known: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
    match found {
        Ok(found) if found == known => Ok(()),
        Ok(found) => match found.iter().find(|version| !known.contains(version)) {
            Some(newer) => Err(newer_schema(*newer)),
            None => Err(StoreError::Refused(
                "the database has the tables of an older trainyard; start the daemon, or run `trainyard admin migrate`, to bring \
                 it up to date"
                    .into(),
            )),
        },
        Err(StoreError::Sql(_)) => Err(StoreError::Refused(
            "the database has no tables yet; start the daemon once, or run `trainyard admin migrate`".into(),
        )),
        Err(other) => Err(other),
    }
}

/// The newest migration of this version, for a backup's note.
pub fn newest_migration() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn newer_schema(version: i64) -> StoreError {
    StoreError::Refused(format!(
        "the database was written by a newer trainyard (it has migration {version}); start that version"
    ))
}

fn explain(err: MigrateError) -> StoreError {
    match err {
        MigrateError::VersionMissing(version) => newer_schema(version),
        MigrateError::VersionMismatch(version) => StoreError::Refused(format!(
            "migration {version} of this trainyard differs from the one the database was made with; use a released \
             version, or a new database"
        )),
        MigrateError::Execute(err) | MigrateError::ExecuteMigration(err, _) => err.into(),
        other => StoreError::Refused(format!("the database cannot be migrated: {other}")),
    }
}
