//! What it costs to stand idle, to start over many open runs, and to page through long lists.

use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use rusqlite::Connection;

use crate::daemon::{Daemon, Wishes, cpu_s, memory_mib};
use crate::{Line, median, percentile};

pub async fn idle() -> anyhow::Result<Vec<Line>> {
    const SECONDS: u64 = 60;
    let mut daemon = Daemon::new(&Wishes::default())?;
    daemon.start().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pid = daemon.pid()?;
    let before = cpu_s(pid)?;
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let share = (cpu_s(pid)? - before) / SECONDS as f64 * 100.0;
    let rss = memory_mib(pid, "VmRSS")?;
    daemon.stop().await?;
    Ok(vec![
        Line {
            name: "idle.rss_mib",
            value: rss,
            unit: "MiB",
            ratio: Some(rss / 25.0),
            goal: ("at most 25 MiB", rss <= 25.0),
        },
        Line {
            name: "idle.cpu_pct",
            value: share,
            unit: "%",
            ratio: Some(share / 0.5),
            goal: ("at most 0.5 % of a core over 60 s", share <= 0.5),
        },
    ])
}

/// A daemon's database with the tables made, closed again, and one repository in it.
pub async fn prepared(wishes: &Wishes<'_>) -> anyhow::Result<(Daemon, Connection)> {
    let mut daemon = Daemon::new(wishes)?;
    daemon.start().await?;
    daemon.stop().await?;
    let db = Connection::open(daemon.database())?;
    db.execute_batch(
        "PRAGMA synchronous = OFF;
         INSERT INTO repos (id, forge, forge_id, name, default_branch, created_ms)
         VALUES ('repo0', 'github', '42', 'ada/churn', 'main', 1), ('repo1', 'github', '43', 'ada/other', 'main', 1);",
    )?;
    Ok((daemon, db))
}

/// A plan of one step, as a small pipeline file gives it.
fn plan() -> anyhow::Result<String> {
    let read = trainyard::pipeline::parse(
        ".trainyard.yaml",
        b"version: 1\nname: churn\nsteps:\n  - name: train\n    commands: [\"python3 train.py\"]\nmetrics: {primary: accuracy}\n",
    )
    .map_err(|_| anyhow!("the benchmark's pipeline file is refused"))?;
    Ok(serde_json::to_string(&read.plan)?)
}

pub fn runs(db: &Connection, count: i64, state: &str, plan: &str) -> anyhow::Result<()> {
    db.execute(
        "INSERT INTO runs (id, repo_id, pipeline, head_sha, trigger_key, generation, branch, message, actor, trusted, state, plan,
           plan_digest, variables, created_ms)
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
         SELECT printf('%08x-0000-7000-8000-%012x', 26000000 + i / 1000, i), 'repo' || (i % 2), 'churn', printf('%040x', i), 'head', 1,
           'branch' || (i % 500), 'A change ' || i, 'ada', TRUE, ?2, ?3, 'digest', '{}', 1760000000000 + i * 1000 FROM n",
        (count, state, plan),
    )?;
    Ok(())
}

pub async fn start() -> anyhow::Result<Vec<Line>> {
    const RUNS: i64 = 10_000;
    let (mut daemon, db) = prepared(&Wishes::default()).await?;
    let plan = plan()?;
    runs(&db, RUNS, "queued", &plan)?;
    db.execute_batch(
        "INSERT INTO steps (id, run_id, position, name, state, ready_ms)
         SELECT 's' || id, id, 0, 'train', 'ready', created_ms FROM runs",
    )?;
    drop(db);
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(daemon.start().await?.as_secs_f64());
        daemon.kill().await?;
    }
    println!("# starts with {RUNS} open runs: {took:.2?} s");
    let took = median(took);
    Ok(vec![Line {
        name: "start.open_runs_s",
        value: took,
        unit: "s",
        ratio: Some(took / 3.0),
        goal: ("at most 3 s with 10,000 open runs", took <= 3.0),
    }])
}

pub async fn list() -> anyhow::Result<Vec<Line>> {
    const RUNS: i64 = 100_000;
    const DELIVERIES: i64 = 1_000_000;
    let (mut daemon, db) = prepared(&Wishes::default()).await?;
    runs(&db, RUNS, "succeeded", &plan()?)?;
    db.execute(
        "INSERT INTO deliveries (id, forge, hook_id, delivery_id, event, content_type, headers, body_bytes, received_ms,
           state, reason)
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
         SELECT printf('%08x-0000-7000-8000-%012x', 26000000 + i / 1000, i), 'github', 'main', 'd' || i,
           CASE i % 3 WHEN 0 THEN 'push' WHEN 1 THEN 'pull_request' ELSE 'watch' END, 'application/json', '{}', 20000, 1760000000000 + i * 100, CASE i % 3 WHEN 2 THEN 'ignored' ELSE 'done' END, 'decided' FROM n",
        [DELIVERIES],
    )?;
    drop(db);
    daemon.start().await?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut worst: (f64, &str) = (0.0, "");
    for path in LISTS {
        let mut times = Vec::new();
        let mut next = format!("http://{}{path}", daemon.app);
        for _ in 0..40 {
            let since = Instant::now();
            let answer = http.get(&next).send().await?;
            let status = answer.status();
            let body = answer.bytes().await?;
            times.push(since.elapsed().as_secs_f64() * 1000.0);
            ensure!(status.is_success(), "{next}: {status}");
            ensure!(body.len() > 500, "{next}: an empty page");
            // The API names its next page; pages for people are asked for again.
            if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&body)
                && let Some(cursor) = json["next"].as_str()
            {
                let joint = if path.contains('?') { '&' } else { '?' };
                next = format!("http://{}{path}{joint}before={cursor}", daemon.app);
            }
        }
        times.sort_by(f64::total_cmp);
        let p99 = percentile(&times, 0.99);
        println!("# {path}: p50 {:.1} ms, p99 {p99:.1} ms", percentile(&times, 0.5));
        if p99 > worst.0 {
            worst = (p99, path);
        }
    }
    daemon.kill().await?;
    println!("# the slowest list: {}", worst.1);
    Ok(vec![Line {
        name: "list.p99_ms",
        value: worst.0,
        unit: "ms",
        ratio: Some(worst.0 / 50.0),
        goal: ("at most 50 ms with 100,000 runs and 1,000,000 deliveries", worst.0 <= 50.0),
    }])
}

/// Pages for people and of the API.
const LISTS: &[&str] = &["/", "/deliveries", "/api/v1/runs", "/api/v1/deliveries"];
