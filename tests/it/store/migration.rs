//! Migrations, with data in every table: running them again keeps it, and a database of another version is refused.

use sqlx::{Connection, Row, SqliteConnection};
use trainyard::model::{MetricPoint, RunState};
use trainyard::store::attempts::ArtifactRow;
use trainyard::store::{OpenOptions, Store, StoreError};

use super::fixture::{Place, T0, new_run, sha, sqlite};
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
