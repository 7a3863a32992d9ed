//! Migrations, with data in every table: running them again keeps it, and a database of another version is refused.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, Row, SqliteConnection};
use trainyard::model::{MetricPoint, RunState};
use trainyard::store::attempts::ArtifactRow;
use trainyard::store::{OpenOptions, Store, StoreError};

use super::fixture::{Place, T0, new_run, sha, sqlite};
use super::postgres::Server;
use super::{deliveries, queue, ranks, reports, results, watches, work};

/// The file itself, for looking behind the store.
async fn raw(at: &Place) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&at.path);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// Every table with the number of its rows.
async fn counts(at: &Place) -> Vec<(String, i64)> {
    let mut conn = raw(at).await;
    let tables =
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut counts = Vec::new();
    for row in sqlx::query(tables).fetch_all(&mut conn).await.unwrap() {
        let table: String = row.get(0);
        let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let rows = sqlx::query(sql).fetch_one(&mut conn).await.unwrap().get(0);
        counts.push((table, rows));
    }
    conn.close().await.unwrap();
    counts
}

async fn one_reporting_attempt(at: &Place) {
    let repo = at.repo().await;
    let held = at.runs(vec![new_run(&repo, &sha('e'), RunState::Held)]).await.remove(0);
    at.store.release_run(&held, &sha('e'), "ada", T0).await.unwrap().unwrap();
    let run = at.runs(vec![new_run(&repo, &sha('f'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    at.store.append_log(&uid, 0, 5, "logs/1", T0).await.unwrap();
    let point = MetricPoint { name: "loss".into(), value: 0.5, step: None, at_ms: T0 };
    let params = [("lr".to_owned(), "0.1".to_owned())].into();
    at.store.record_metrics(&uid, 1, vec![point], params, T0).await.unwrap();
    let of = uid.clone();
    let artifact = ArtifactRow {
        attempt_uid: uid,
        path: "m".into(),
        bytes: 1,
        sha256: String::new(),
        executable: false,
        blob_key: "artifacts/1".into(),
    };
    assert!(at.store.put_artifact(artifact, T0).await.unwrap());
    assert!(at.store.agent_finish(&of, reports::finish(), T0).await.unwrap());
}

/// G1 while daemons are upgraded one after the other: what an older one is storing as the new one makes a table anew stays.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_an_older_daemon_outlive_a_table_made_anew() {
    async fn deliver(conn: &mut PgConnection, id: &'static str) {
        let sql = "INSERT INTO deliveries (id, forge, hook_id, delivery_id, event, content_type, headers, body_bytes, received_ms, state)
             VALUES ($1, 'github', 'main', $1, 'push', 'application/json', '{}', 0, 0, 'stored')";
        sqlx::query(sql).bind(id).execute(conn).await.unwrap();
    }
    async fn until_blocked(watcher: &mut PgConnection, sessions: i64) {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        for _ in 0..2000 {
            let blocked: i64 = sqlx::query_scalar(sql).fetch_one(&mut *watcher).await.unwrap();
            if blocked >= sessions {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{sessions} sessions do not wait for a lock within 20 s");
    }
    let server = Server::start();
    let options = server.create("rolling").await;
    let mut older = PgConnection::connect(&options.url).await.unwrap();
    let mut other = PgConnection::connect(&options.url).await.unwrap();
    let mut watcher = PgConnection::connect(&options.url).await.unwrap();
    let known = sqlx::migrate!();
    let tables: Vec<_> = known.iter().filter(|migration| migration.version < 16).cloned().collect();
    Migrator { migrations: tables.into(), ..Migrator::DEFAULT }.run(&mut older).await.unwrap();
    deliver(&mut older, "before").await;
    deliver(&mut other, "before too").await;
    sqlx::raw_sql("BEGIN").execute(&mut older).await.unwrap();
    deliver(&mut older, "meanwhile").await;
    let (store, ()) = tokio::join!(async { Store::open(&options).await.unwrap() }, async {
        until_blocked(&mut watcher, 1).await;
        // The statement is prepared on this connection, for the table as it was.
        let behind = tokio::spawn(async move { deliver(&mut other, "behind it").await });
        until_blocked(&mut watcher, 2).await;
        sqlx::raw_sql("COMMIT").execute(&mut older).await.unwrap();
        behind.await.unwrap();
    });
    for id in ["before", "before too", "meanwhile", "behind it"] {
        assert!(store.find_delivery(id).await.unwrap().is_some(), "{id:?} is lost");
    }
    store.close().await;
}

#[tokio::test]
async fn data_in_every_table_outlives_opening_again() {
    let at = sqlite().await;
    // The cases of the suite leave rows behind; together they fill every table.
    deliveries::repositories_and_pulls_are_as_last_seen(&at).await;
    results::comparisons_follow_their_question(&at).await;
    results::a_stream_of_changes_is_sent(&at).await;
    results::tokens_are_known_by_hash(&at).await;
    results::a_session_ends_with_its_token(&at).await;
    results::the_installation_keeps_its_facts(&at).await;
    work::daemons_know_of_each_other(&at).await;
    queue::the_default_branch_names_the_class(&at).await;
    queue::the_first_writer_of_a_cache_wins(&at).await;
    watches::a_watched_place_keeps_what_is_known(&at).await;
    ranks::a_rank_speaks_for_itself(&at).await;
    one_reporting_attempt(&at).await;
    let before = counts(&at).await;
    let empty: Vec<_> = before.iter().filter(|(_, rows)| *rows == 0).collect();
    assert!(empty.is_empty(), "no row in {empty:?}");
    at.store.close().await;

    let store = Store::open(&OpenOptions::sqlite(&at.path)).await.unwrap();
    assert_eq!(counts(&at).await, before);
    assert!(!store.open_runs().await.unwrap().is_empty());
    store.close().await;
    println!("FIGURE store tables={}", before.len());
}

#[tokio::test]
async fn a_database_of_another_version_is_refused() {
    for (sql, sentence) in [
        (
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', TRUE, x'00', 0)",
            "newer trainyard",
        ),
        ("UPDATE _sqlx_migrations SET checksum = x'00'", "differs from the one"),
    ] {
        let at = sqlite().await;
        at.store.close().await;
        let mut conn = raw(&at).await;
        sqlx::query(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let refused = Store::open(&OpenOptions::sqlite(&at.path)).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains(sentence)), "{refused:?}");
    }
}
