//! The writer: many callers share a commit, one bad write spoils only itself, a caller that leaves spoils nothing.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sqlx::Connection;
use trainyard::model::{DeliveryRowId, RunState};
use trainyard::store::deliveries::Delivered;
use trainyard::store::tokens::{Scope, TokenRow};
use trainyard::store::work::WorkKind;
use trainyard::store::{OpenOptions, Store, StoreError};

use super::fixture::{T0, delivery, new_run, sha, sqlite};

#[tokio::test]
async fn concurrent_deliveries_share_commits() {
    let at = sqlite().await;
    let before = at.store.write_counts();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = at.store.clone();
        tasks.spawn(async move { store.deliver(delivery(&format!("d{n}"), b"{}")).await.unwrap() });
    }
    assert!(tasks.join_all().await.iter().all(|outcome| *outcome == Delivered::Stored));
    let after = at.store.write_counts();
    let commits = after.commits - before.commits;
    assert_eq!(at.open_work().await, 200);
    println!("FIGURE store deliveries=200 commits={commits}");
    assert!(commits < 100, "{commits} commits for 200 deliveries: they were not grouped");
}

/// F14: axum drops a handler when its client leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_leave_no_transaction_open() {
    let at = sqlite().await;
    let mut finished = 0;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..500_u64 {
        let store = at.store.clone();
        // They leave after 0 to 8 ms: before, during and after their commit. Every tenth stays.
        let patience = if n % 10 == 9 { Duration::from_mins(1) } else { Duration::from_millis(n % 10) };
        callers.spawn(async move {
            tokio::time::timeout(patience, store.deliver(delivery(&format!("d{n}"), b"{}"))).await.is_ok()
        });
        if n % 10 == 9 {
            finished += callers.join_all().await.into_iter().filter(|done| *done).count();
            callers = tokio::task::JoinSet::new();
        }
    }
    // Whatever was handed over is whole: each row has its work item, and writing goes on.
    at.store.check().await.unwrap();
    let rows = at.store.list_deliveries(None, 1000).await.unwrap().len();
    assert_eq!(rows, at.open_work().await);
    assert!(rows >= finished && finished > 0 && finished < 500, "{finished} of 500 waited for the answer");
    let counts = at.store.write_counts();
    assert!(counts.commits > 0 && counts.commits <= counts.writes, "{counts:?}");
    // Someone else gets the write lock at once, so no transaction was left behind.
    let impatient = sqlx::sqlite::SqliteConnectOptions::new().filename(&at.path).busy_timeout(Duration::ZERO);
    let mut other = sqlx::SqliteConnection::connect_with(&impatient).await.unwrap();
    let open = u32::from(sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.is_err());
    println!("FAULT F14 n=500 finished={finished} stored={rows} open_transactions={open}");
    assert_eq!(open, 0);
}

/// A run is read in a transaction, on a connection that others use after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_leave_leave_no_old_moment_behind() {
    let at = sqlite().await;
    let repo = at.repo().await;
    let runs = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await;
    let mut finished = 0;
    for n in 0..400_u64 {
        let reading = at.store.run_view(&runs[0]);
        // Every tenth stays; the others leave at their first to third wait.
        if n % 10 == 9 {
            finished += usize::from(reading.await.unwrap().is_some());
            continue;
        }
        let mut reading = std::pin::pin!(reading);
        for _ in 0..=n % 3 {
            if futures_util::poll!(reading.as_mut()).is_ready() {
                finished += 1;
                break;
            }
            tokio::time::sleep(Duration::from_micros(20 * (n % 7))).await;
        }
    }
    assert!((40..400).contains(&finished), "{finished} of 400 waited for the answer");
    // What is written now is seen by all of them, and none keeps the log from being emptied.
    assert!(at.store.request_cancel(&runs[0], "enough", T0 + 1).await.unwrap());
    let views = futures_util::future::join_all((0..16).map(|_| at.view(&runs[0]))).await;
    assert!(views.iter().all(|view| view.run.cancel_request.as_deref() == Some("enough")));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&at.path);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let (held, left, _): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut other).await.unwrap();
    assert_eq!((held, left), (0, 0), "a reader still stands at an older moment");
}

#[tokio::test]
async fn a_bad_write_spoils_only_itself() {
    let at = sqlite().await;
    let token = |id: &str| TokenRow {
        id: id.into(),
        name: "ci".into(),
        scope: Scope::Read,
        repo: None,
        created_ms: T0,
        revoked_ms: None,
    };
    let before = at.store.write_counts().commits;
    // The writer is held up with another write, so that all three are waiting when it goes on: one group.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&at.path);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let store = at.store.clone();
    let held_up = tokio::spawn(async move { store.check().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (first, twin, second, ()) = tokio::join!(
        at.store.insert_token(token("t1"), "same"),
        at.store.insert_token(token("t2"), "same"),
        at.store.insert_token(token("t3"), "other"),
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
        }
    );
    held_up.await.unwrap().unwrap();
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(twin, Err(StoreError::Sql(_))), "{twin:?}");
    assert_eq!(at.store.write_counts().commits, before + 2, "the one that was held up, and the group");
    let ids: Vec<_> = at.store.tokens().await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["t1", "t3"]);
}

/// Whoever waits for a store that is closed meanwhile hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_closed_store() {
    let at = sqlite().await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..400 {
        let store = at.store.clone();
        callers.spawn(async move { store.deliver(delivery(&format!("d{n}"), b"{}")).await });
        if n == 200 {
            at.store.close().await;
        }
    }
    let outcomes = tokio::time::timeout(Duration::from_secs(20), callers.join_all()).await.unwrap();
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(StoreError::Unavailable(_)))));
    assert!(matches!(at.store.deliver(delivery("late", b"{}")).await, Err(StoreError::Unavailable(_))));
    let again = Store::open(&OpenOptions::sqlite(&at.path)).await.unwrap();
    let rows = again.list_deliveries(None, 1000).await.unwrap().len();
    assert!(rows >= stored && rows < 400, "{rows} rows, {stored} heard of");
    again.close().await;
}

#[tokio::test]
async fn a_file_has_one_daemon_and_one_reader() {
    let at = sqlite().await;
    at.store.deliver(delivery("d", b"{}")).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let file = format!("{}{suffix}", at.path.display());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    let second = Store::open(&OpenOptions::sqlite(&at.path)).await.unwrap_err().to_string();
    assert!(second.contains("trainyard.db.lock") && second.contains("stop that process first"), "{second}");

    // A command may look and write beside the daemon.
    let beside = Store::open_beside(&OpenOptions::sqlite(&at.path)).await.unwrap();
    beside.deliver(delivery("d2", b"{}")).await.unwrap();
    assert_eq!(at.store.list_deliveries(None, 9).await.unwrap().len(), 2);
    beside.close().await;
    let nowhere = OpenOptions::sqlite(at.path.with_file_name("none.db"));
    assert!(matches!(Store::open_beside(&nowhere).await, Err(StoreError::Refused(_))));

    // Closing lets the next one in, even while clones of the old handle live.
    at.store.close().await;
    let next = Store::open(&OpenOptions::sqlite(&at.path)).await.unwrap();
    assert_eq!(next.list_deliveries(None, 9).await.unwrap().len(), 2);
    let held = next.claim(WorkKind::ALL, "died", T0, 60_000, 9).await.unwrap();
    next.free_leases_of_the_dead().await.unwrap();
    assert_eq!(next.claim(WorkKind::ALL, "next", T0, 60_000, 9).await.unwrap().len(), held.len());
    next.close().await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = async |url: String| {
        let options = OpenOptions { url, ..OpenOptions::sqlite("unused") };
        let err = Store::open(&options).await.unwrap_err();
        assert!(matches!(err, StoreError::Refused(_) | StoreError::Damaged(_)), "{err:?}");
        err.to_string()
    };
    let missing = dir.path().join("no/such/dir/a.db");
    assert!(refusal(format!("sqlite:{}", missing.display())).await.contains("cannot open"));
    assert!(refusal("mysql://x".into()).await.contains("sqlite:<path>"));
    let garbage = dir.path().join("garbage.db");
    std::fs::write(&garbage, "this is not a database, and long enough to be looked at as one".repeat(100))
        .unwrap();
    assert!(refusal(format!("sqlite:{}", garbage.display())).await.contains("not a database"));
}

#[tokio::test]
async fn a_store_that_is_dropped_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions::sqlite(dir.path().join("trainyard.db"));
    let id = DeliveryRowId::generate(T0);
    for round in 0..20 {
        let store = loop {
            // The last handle is gone; its writer may still be putting the file away.
            match Store::open(&options).await {
                Err(StoreError::Refused(why)) if why.contains("another process") => {
                    tokio::task::yield_now().await;
                }
                other => break other.unwrap(),
            }
        };
        assert_eq!(store.list_deliveries(None, 99).await.unwrap().len(), round);
        let mut new = delivery(&format!("{id}{round}"), b"{}");
        new.id = DeliveryRowId::generate(T0 + round as i64);
        store.deliver(new).await.unwrap();
    }
}
