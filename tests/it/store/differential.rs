//! Random operations on SQLite and on Postgres side by side: every answer and, at the end, every row must be the same.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::{Connection, Row};
use trainyard::model::{AttemptUid, EndClass, MetricPoint, RepoId, RunId, RunState, StepState};
use trainyard::store::attempts::{ArtifactRow, Finish};
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::lists::RunFilter;
use trainyard::store::outbox::{Desire, OutboxKind};
use trainyard::store::retention::Retention;
use trainyard::store::runs::{RunChange, StepMove};
use trainyard::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};

use super::fixture::{Place, T0, delivery, intake, new_run, placement, pull, sha, sqlite};
use super::postgres::{Server, direct};

/// What both engines were given so far, by names that both share.
#[derive(Default)]
struct World {
    deliveries: Vec<trainyard::model::DeliveryRowId>,
    runs: Vec<RunId>,
    attempts: Vec<AttemptUid>,
    now: i64,
    fresh: u64,
}

/// One engine: its store, and what it holds leased.
struct Side {
    at: Place,
    repo: RepoId,
    leased: Vec<WorkItem>,
}

const LETTERS: [char; 5] = ['a', 'b', 'c', 'd', 'e'];

/// Does one operation; what it said. The dice are the same on both sides.
async fn step(side: &mut Side, world: &World, dice: &mut StdRng) -> String {
    let now = world.now;
    let store = &side.at.store;
    let any = |dice: &mut StdRng, len: usize| dice.random_range(0..len.max(1));
    let delivery_at = any(dice, world.deliveries.len());
    let run_at = any(dice, world.runs.len());
    let attempt_at = any(dice, world.attempts.len());
    let (digit, number) = (LETTERS[dice.random_range(0..5)], dice.random_range(0..4_i64));
    let run = world.runs.get(run_at);
    let uid = world.attempts.get(attempt_at);
    match dice.random_range(0..20) {
        0 | 1 => {
            let id = world.deliveries.get(delivery_at).expect("one is made before each step").clone();
            let name = format!("d{}", world.fresh / 2);
            let new =
                trainyard::store::deliveries::NewDelivery { id, received_ms: now, ..delivery(&name, b"{}") };
            format!("{:?}", store.deliver(new).await.map_err(|e| e.to_string()).is_ok())
        }
        2 | 3 => {
            let id = &world.deliveries[delivery_at];
            let state = if number == 0 { RunState::Held } else { RunState::Queued };
            let mut new = new_run(&side.repo, &sha(digit), state);
            new.id = run.expect("one is made before each step").clone();
            new.generation = number / 2;
            let cancel = world.runs.first().map(|run| (run.clone(), "newer".to_owned()));
            let commit = IntakeCommit {
                runs: vec![new],
                pulls: vec![(side.repo.clone(), pull(number, &sha(digit)))],
                cancel: cancel.into_iter().filter(|_| number == 3).collect(),
                asks: vec![WorkAsk::report_pull(&side.repo, number, now)],
                ..intake(id)
            };
            let made = store.commit_intake(commit, now).await;
            format!(
                "{:?}",
                made.map_err(|e| e.to_string().contains("UNIQUE") || e.to_string().contains("unique"))
            )
        }
        4 | 5 => {
            let kinds =
                [WorkKind::Run, WorkKind::Delivery, WorkKind::Report, WorkKind::Schedule, WorkKind::Outbox];
            let items = store.claim(&kinds[..=number as usize], "w", now, 50, 3).await.unwrap();
            let mut said: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            said.sort();
            side.leased.extend(items);
            side.leased.sort_by_key(|item| (item.kind.word(), item.key.clone(), item.epoch));
            format!("{said:?} next {:?}", store.next_due(&kinds).await.unwrap())
        }
        6 | 7 if !side.leased.is_empty() => {
            // By kind and epoch first, since keys may hold ids that differ.
            let item = side.leased.remove(dice.random_range(0..1));
            let error = "e".to_owned();
            let outcome = match number {
                0 => WorkOutcome::Done,
                1 => WorkOutcome::Again { at_ms: now + 7 },
                2 => WorkOutcome::Wait { at_ms: now + 3, error },
                _ => WorkOutcome::Retry { at_ms: now + 5, error },
            };
            format!("{} {}", item.kind, store.settle(&item, outcome, now).await.unwrap())
        }
        8 => {
            store
                .ask(
                    vec![WorkAsk::schedule(now + number), WorkAsk::run_at(&world.runs[run_at], "m", now)],
                    now,
                )
                .await
                .unwrap();
            String::new()
        }
        9 | 10 => {
            let Some(view) = store.run_view(run.unwrap()).await.unwrap() else { return "none".into() };
            let to = [StepState::Ready, StepState::Running, StepState::Skipped, StepState::Succeeded]
                [number as usize];
            let change = RunChange {
                run: view.run.id.clone(),
                epoch: view.run.epoch - i64::from(digit == 'e'),
                to: (digit == 'a').then(|| (RunState::Running, "it runs".to_owned())),
                steps: vec![StepMove {
                    step: view.steps[0].id.clone(),
                    to,
                    reason: "r".into(),
                    outputs: None,
                }],
                attempts: vec![],
                asks: vec![WorkAsk::run(&view.run.id, now)],
            };
            format!("{:?}", store.apply(change, now).await.map_err(|_| "refused"))
        }
        11 | 12 => {
            let ready = store.ready_steps().await.unwrap();
            let Some(first) = ready.first() else { return "nothing ready".into() };
            let place = trainyard::store::attempts::Placement {
                uid: uid.expect("one is made before each step").clone(),
                ..placement(first)
            };
            let placed = store.place(vec![place], now).await.map_err(|_| "taken");
            format!("{} {:?} {:?}", ready.len(), placed, store.pool_use().await.unwrap())
        }
        13 => format!("{:?}", store.agent_start(uid.unwrap(), "hash", "n", now).await.unwrap()),
        14 => {
            let uid = uid.unwrap();
            let points = vec![
                MetricPoint {
                    name: "loss".into(),
                    value: 0.5 * number as f64,
                    step: Some(number),
                    at_ms: now,
                },
                MetricPoint { name: "odd".into(), value: f64::NAN, step: None, at_ms: now },
            ];
            let params = BTreeMap::from([("lr".to_owned(), format!("0.{number}"))]);
            let metrics = store.record_metrics(uid, 1 + number, points, params, now).await.unwrap();
            let log = store.append_log(uid, number * 5, 5, &format!("logs/{number}"), now).await.unwrap();
            let artifact = ArtifactRow {
                attempt_uid: uid.clone(),
                path: format!("m{number}"),
                bytes: number,
                sha256: String::new(),
                executable: number == 1,
                blob_key: format!("artifacts/{number}"),
            };
            format!("{metrics:?} {log:?} {:?}", store.put_artifact(artifact, now).await.unwrap())
        }
        15 if number == 0 => {
            let finish = Finish {
                class: EndClass::Succeeded,
                exit_code: Some(0),
                reason: String::new(),
                outputs: BTreeMap::new(),
                notes: vec!["note".into()],
                log_lost_bytes: 0,
                ended_ms: None,
                data: Vec::new(),
                judged: false,
                sources: vec![],
            };
            format!("{:?}", store.agent_finish(uid.unwrap(), finish, now).await.unwrap())
        }
        16 => {
            let desire = Desire {
                credential: "github".into(),
                repo_id: side.repo.clone(),
                kind: if number == 0 { OutboxKind::Comment } else { OutboxKind::Status },
                target: number.to_string(),
                desired: json!({"state": digit.to_string()}),
                last: digit == 'a',
                not_before_ms: now + number,
            };
            format!("{}", store.desire(desire, now).await.unwrap())
        }
        17 => {
            let due = store.outbox_due("github", None, now, 2).await.unwrap();
            let said: Vec<_> =
                due.iter().map(|row| (row.target.clone(), row.desired_seq, row.tries)).collect();
            if let Some(row) = due.first() {
                match number {
                    0 => store.outbox_defer(&row.id, now + 9, "502", now).await.unwrap(),
                    1 => store.outbox_dead(&row.id, row.desired_seq, "404", now).await.unwrap(),
                    _ => store.outbox_sent(&row.id, row.desired_seq, "7", now).await.unwrap(),
                }
            }
            format!("{said:?} {:?}", store.outbox_next("github").await.unwrap())
        }
        18 => {
            let keep =
                Retention { delivery_bodies_ms: 60, deliveries_ms: 150, logs_ms: 80, artifacts_ms: 90 };
            let swept = store.sweep(keep, now).await.unwrap();
            let mut keys = swept.blob_keys;
            keys.sort();
            format!("{} {keys:?} {}", swept.rows, swept.more)
        }
        _ => {
            let filter = RunFilter { branch: Some("main".into()), ..RunFilter::default() };
            let listed: Vec<_> = store
                .list_runs(filter, None, 20)
                .await
                .unwrap()
                .into_iter()
                .map(|i| (i.run.id, i.run.state))
                .collect();
            let cancelled = store.request_cancel(run.unwrap(), "stop", now).await.unwrap();
            let counts = store.count_runs().await.unwrap();
            format!(
                "{listed:?} {cancelled} {counts:?} {:?}",
                store.head_runs(&side.repo, &sha(digit)).await.unwrap().len()
            )
        }
    }
}

/// Every row of every table as text, with the ids that each engine made for itself replaced by what they stand for.
async fn rows(side: &Side, tables: &[(String, Vec<String>)]) -> BTreeMap<String, BTreeSet<String>> {
    let mut raw = BTreeMap::new();
    let names: Vec<(String, String)>;
    if side.at.store.is_alone() {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&side.at.path);
        let mut conn = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        for (table, columns) in tables {
            let list: Vec<String> = columns
                .iter()
                .map(|c| {
                    format!("CASE typeof({c}) WHEN 'blob' THEN lower(hex({c})) ELSE CAST({c} AS TEXT) END")
                })
                .collect();
            let sql = sqlx::AssertSqlSafe(format!("SELECT {} FROM {table}", list.join(", ")));
            let found = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
            let texts: Vec<Vec<Option<String>>> =
                found.iter().map(|row| (0..columns.len()).map(|at| row.get(at)).collect()).collect();
            raw.insert(table.clone(), texts);
        }
        let ids = sqlx::query(IDS).fetch_all(&mut conn).await.unwrap();
        names = ids.iter().map(|row| (row.get(0), row.get(1))).collect();
    } else {
        let mut conn = sqlx::PgConnection::connect(&side.at.options.url).await.unwrap();
        for (table, columns) in tables {
            let types: BTreeMap<String, String> = sqlx::query(
                "SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_name = $1",
            )
            .bind(table)
            .fetch_all(&mut conn)
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
            let list: Vec<String> = columns
                .iter()
                .map(|c| match types[c].as_str() {
                    "boolean" => format!("CAST(CAST({c} AS INT) AS TEXT)"),
                    "bytea" => format!("encode({c}, 'hex')"),
                    "double precision" => {
                        format!("CASE WHEN {c} = trunc({c}) THEN {c} || '.0' ELSE CAST({c} AS TEXT) END")
                    }
                    _ => format!("CAST({c} AS TEXT)"),
                })
                .collect();
            let sql = sqlx::AssertSqlSafe(format!("SELECT {} FROM {table}", list.join(", ")));
            let found = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
            let texts: Vec<Vec<Option<String>>> =
                found.iter().map(|row| (0..columns.len()).map(|at| row.get(at)).collect()).collect();
            raw.insert(table.clone(), texts);
        }
        let ids = sqlx::query(IDS).fetch_all(&mut conn).await.unwrap();
        names = ids.iter().map(|row| (row.get(0), row.get(1))).collect();
    }
    let named = |text: &str| names.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id, name));
    raw.into_iter()
        .map(|(table, rows)| (table, rows.iter().map(|row| named(&format!("{row:?}"))).collect()))
        .collect()
}

/// Ids that the store makes by itself, and what they stand for.
const IDS: &str = "SELECT id, 'repo ' || forge_id FROM repos
    UNION ALL SELECT id, 'step ' || run_id || ' ' || name FROM steps
    UNION ALL SELECT id, 'outbox ' || kind || ' ' || target FROM outbox";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_leave_the_same_rows_on_both_engines() {
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let (seeds, steps) = if long { (20, 400) } else { (4, 250) };
    let server = Server::start();
    let mut compared = 0;
    for seed in 0..seeds {
        let mut sides = Vec::new();
        for at in [sqlite().await, direct(&server, &format!("seed_{seed}")).await] {
            let repo = at.repo().await;
            sides.push(Side { at, repo, leased: Vec::new() });
        }
        let mut dice = StdRng::seed_from_u64(seed);
        let mut world = World { now: T0, ..World::default() };
        for number in 0..steps {
            world.now += dice.random_range(0..4);
            world.fresh += 1;
            if number % 3 == 0 {
                world.deliveries.push(trainyard::model::DeliveryRowId::generate(world.now));
                world.runs.push(RunId::generate(world.now));
                world.attempts.push(AttemptUid::generate(world.now));
            }
            let throw: u64 = dice.random();
            let mut said = Vec::new();
            for side in &mut sides {
                let text = step(side, &world, &mut StdRng::seed_from_u64(throw)).await;
                said.push(text.replace(side.repo.as_str(), "REPO"));
            }
            assert_eq!(said[0], said[1], "seed {seed}, step {number}");
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&sides[0].at.path);
        let mut conn = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let mut tables = Vec::new();
        let list = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> '_sqlx_migrations'";
        for row in sqlx::query(list).fetch_all(&mut conn).await.unwrap() {
            let table: String = row.get(0);
            let sql =
                sqlx::AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name"));
            let columns =
                sqlx::query(sql).fetch_all(&mut conn).await.unwrap().iter().map(|r| r.get(0)).collect();
            tables.push((table, columns));
        }
        let (one, two) = (rows(&sides[0], &tables).await, rows(&sides[1], &tables).await);
        for (table, expected) in &one {
            assert_eq!(expected, &two[table], "seed {seed}, table {table}");
            compared += expected.len();
        }
        for side in sides {
            side.at.store.close().await;
        }
    }
    println!(
        "FIGURE store_differential seeds={seeds} operations={} rows_compared={compared} differences=0",
        seeds * steps
    );
    assert!(compared > 200, "too few rows to compare");
}
