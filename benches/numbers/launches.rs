//! Many Jobs: how quickly queued steps become Jobs beside bare creation of the same objects, and how soon a daemon knows its Jobs
//! again after a restart. The Jobs stay suspended, so nothing but trainyard, the API server and its controllers works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use rusqlite::Connection;
use trainyard::clock::{Clock, SystemClock};
use trainyard::config::KubernetesPool;
use trainyard::executor::external_name;
use trainyard::executor::kubernetes::{self, manifest};
use trainyard::model::{AttemptUid, RunId};

use crate::Line;
use crate::cluster::{BUSYBOX, Cluster, IMAGE, NAMESPACE, launch, uuid};
use crate::daemon::{Daemon, Wishes, memory_mib};
use crate::scale::{prepared, runs};

const STEPS: i64 = 500;
const JOBS: i64 = 10_000;
/// What makes objects by hand at once.
const HANDS: usize = 16;

const PIPELINE: &str = "version: 1\nname: churn\ndefaults: {pool: cluster}\nsteps:\n  - name: train\n    commands: [\"echo first\"]\n    gpu: 1\n";

fn pool() -> KubernetesPool {
    KubernetesPool { image: Some(BUSYBOX.into()), queue: Some("none".into()), ..KubernetesPool::default() }
}

/// Secret and Job pairs of an instance, made by [`HANDS`] at once: pairs a second.
async fn by_hand(
    client: &kube::Client,
    settings: &manifest::Cluster,
    of: Vec<(String, AttemptUid, RunId)>,
) -> anyhow::Result<f64> {
    let count = of.len() as f64;
    let mut pairs = Vec::new();
    for (name, uid, run) in of {
        let mut launch = launch(name, uid, run);
        launch.spec.resources.gpu = 1;
        pairs.push(manifest::build(&launch, &pool(), settings).map_err(anyhow::Error::msg)?);
    }
    let pairs = Arc::new(std::sync::Mutex::new(pairs));
    let began = Instant::now();
    let mut hands = tokio::task::JoinSet::new();
    for _ in 0..HANDS {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
        let pairs = Arc::clone(&pairs);
        hands.spawn(async move {
            loop {
                let next = pairs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                let Some(pair) = next else { return anyhow::Ok(()) };
                secrets.create(&PostParams::default(), &pair.secret).await?;
                jobs.create(&PostParams::default(), &pair.job).await?;
            }
        });
    }
    while let Some(done) = hands.join_next().await {
        done??;
    }
    Ok(count / began.elapsed().as_secs_f64())
}

fn fresh(count: i64) -> Vec<(String, AttemptUid, RunId)> {
    (0..count)
        .map(|_| {
            let uid = uuid();
            let name = external_name("bench", &uid, "train", 1);
            (name, AttemptUid::from_text(uid), RunId::from_text(uuid()))
        })
        .collect()
}

/// Requests that the administrator's certificate, which the daemon uses, made since the audit log had so many bytes.
fn requests_since(audit: &std::path::Path, from: u64) -> anyhow::Result<usize> {
    let bytes = std::fs::read(audit)?;
    let rest = String::from_utf8_lossy(bytes.get(from as usize..).unwrap_or_default()).into_owned();
    Ok(rest
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|e| e["user"]["username"] == "admin" && e["stage"] == "ResponseComplete")
        .count())
}

async fn until(
    what: &str,
    patience: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let since = Instant::now();
    while !done()? {
        ensure!(since.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// `launch.rate` and `relist.10k_s`, in one cluster.
pub async fn measure() -> anyhow::Result<Vec<Line>> {
    let cluster = Cluster::up().await?;
    let client = kubernetes::client(&cluster.config()?).await?;
    let by_bench = manifest::Cluster {
        config: cluster.config()?,
        instance: "bench".into(),
        agent_url: "https://192.0.2.1:1".into(),
        grace_s: 30,
        pending_timeout_s: 1800,
    };
    let more = format!(
        "[executor.kubernetes]\nnamespace = \"{NAMESPACE}\"\nimage = \"{IMAGE}\"\nkubeconfig = {:?}\n\
         [pool.cluster]\nexecutor = \"kubernetes\"\nslots = {JOBS}\ngpus = {JOBS}\n\
         kubernetes = {{ image = \"{BUSYBOX}\", queue = \"none\" }}\n",
        cluster.get("KUBECONFIG")?
    );
    let wishes = Wishes { more: &more, agent_host: Some(cluster.get("HOST")?), ..Wishes::default() };
    let (mut daemon, db) = prepared(&wishes).await?;
    let read = trainyard::pipeline::parse(".trainyard.yaml", PIPELINE.as_bytes())
        .map_err(|_| anyhow!("the benchmark's pipeline file is refused"))?;
    let plan = serde_json::to_string(&read.plan)?;
    runs(&db, STEPS, "queued", &plan)?;
    db.execute_batch(
        "INSERT INTO steps (id, run_id, position, name, state) SELECT 's' || id, id, 0, 'train', 'waiting' FROM runs",
    )?;

    let before = by_hand(&client, &by_bench, fresh(STEPS)).await?;
    let audit = std::path::Path::new(cluster.get("RUN")?).join("audit.log");
    let heard = std::fs::metadata(&audit).context("the cluster's audit log")?.len();
    let (ours, rss) = launched(&mut daemon, &db).await?;
    // The audit log is written a moment later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = requests_since(&audit, heard)?;
    daemon.kill().await?;
    let after = by_hand(&client, &by_bench, fresh(STEPS)).await?;
    let bare = f64::midpoint(before, after);
    let each = asked as f64 / STEPS as f64;
    println!(
        "# {STEPS} queued steps: {ours:.0} pairs/s; by hand, {HANDS} at once, {before:.0} before and {after:.0} after; \
         {each:.2} API requests a step; daemon peak RSS {rss:.1} MiB"
    );
    let took = known_again(&cluster, &client, &mut daemon, &db, by_bench).await?;
    Ok(vec![
        Line {
            name: "launch.rate",
            value: ours,
            unit: "steps/s",
            ratio: Some(ours / bare),
            goal: ("at least 0.5 of bare parallel creation of the same pairs", ours / bare >= 0.5),
        },
        Line {
            name: "launch.rss_mib",
            value: rss,
            unit: "MiB",
            ratio: Some(rss / 120.0),
            goal: ("at most 120 MiB", rss <= 120.0),
        },
        Line {
            name: "launch.requests",
            value: each,
            unit: "API requests/step",
            ratio: Some(each / 8.0),
            goal: ("at most 8", each <= 8.0),
        },
        Line {
            name: "relist.10k_s",
            value: took,
            unit: "s",
            ratio: Some(took / 10.0),
            goal: ("at most 10 s from start to the last run looked at", took <= 10.0),
        },
    ])
}

/// Starts the daemon over its queued runs; steps a second from the first intent to the last answer, and its peak RSS in MiB.
async fn launched(daemon: &mut Daemon, db: &Connection) -> anyhow::Result<(f64, f64)> {
    daemon.start().await?;
    until("all steps launched", Duration::from_mins(3), || {
        let count: i64 = db.query_row(
            "SELECT COUNT(*) FROM attempts WHERE state IN ('submitted', 'pending')",
            [],
            |row| row.get(0),
        )?;
        Ok(count == STEPS)
    })
    .await?;
    let rss = memory_mib(daemon.pid()?, "VmHWM")?;
    let (from, to): (f64, f64) =
        db.query_row("SELECT MIN(intended_ms), MAX(submitted_ms) FROM attempts", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok((STEPS as f64 / ((to - from) / 1000.0), rss))
}

/// Fills up to [`JOBS`] Jobs with their rows, starts the daemon, and waits until it has looked at each run: seconds.
async fn known_again(
    cluster: &Cluster,
    client: &kube::Client,
    daemon: &mut Daemon,
    db: &Connection,
    by_bench: manifest::Cluster,
) -> anyhow::Result<f64> {
    let instance: String =
        db.query_row("SELECT value FROM meta WHERE name = 'instance_id'", [], |row| row.get(0))?;
    let settings = manifest::Cluster { config: cluster.config()?, instance, ..by_bench };
    let more = fresh(JOBS - STEPS);
    db.execute_batch("PRAGMA synchronous = OFF; BEGIN")?;
    for (name, uid, run) in &more {
        // As those that were launched are written down.
        for (table, key) in [("runs", "id"), ("steps", "run_id"), ("attempts", "run_id")] {
            copy_row(db, table, key, name, uid, run)?;
        }
    }
    db.execute_batch("COMMIT")?;
    let rate = by_hand(client, &settings, more).await?;
    println!("# {} further Jobs by hand: {rate:.0} pairs/s", JOBS - STEPS);
    let since = Instant::now();
    daemon.start().await?;
    let ready = since.elapsed().as_secs_f64();
    // All open runs were asked for before it was ready; one that was looked at has a later time to look again.
    let asked_ms = SystemClock.now_ms();
    let mut said = Instant::now();
    until("every run looked at", Duration::from_mins(3), || {
        let due: i64 = db.query_row(
            "SELECT COUNT(*) FROM work WHERE kind = 'run' AND run_at_ms <= ?1",
            [asked_ms],
            |row| row.get(0),
        )?;
        if said.elapsed() > Duration::from_secs(10) {
            println!("# {due} runs to look at after {:.0} s", since.elapsed().as_secs_f64());
            said = Instant::now();
        }
        Ok(due == 0)
    })
    .await?;
    let took = since.elapsed().as_secs_f64();
    let lost: i64 =
        db.query_row("SELECT COUNT(*) FROM attempts WHERE state = 'ended'", [], |row| row.get(0))?;
    ensure!(lost == 0, "{lost} attempts were taken for lost");
    println!("# ready after {ready:.2} s, all {JOBS} looked at after {took:.2} s");
    daemon.stop().await?;
    Ok(took)
}

/// A copy of the first row of a table under the identity of a further run.
fn copy_row(
    db: &Connection,
    table: &str,
    key: &str,
    name: &str,
    uid: &AttemptUid,
    run: &RunId,
) -> anyhow::Result<()> {
    let mut columns: Vec<String> = Vec::new();
    let mut statement = db.prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?;
    for column in statement.query_map([], |row| row.get(0))? {
        columns.push(column?);
    }
    let step = format!("s{run}");
    let handle = serde_json::json!({ "job": name }).to_string();
    let own: BTreeMap<&str, &str> = match table {
        "runs" => BTreeMap::from([("id", run.as_str()), ("head_sha", run.as_str())]),
        "steps" => BTreeMap::from([("id", step.as_str()), ("run_id", run.as_str())]),
        _ => BTreeMap::from([
            ("uid", uid.as_str()),
            ("run_id", run.as_str()),
            ("step_id", step.as_str()),
            ("handle", handle.as_str()),
        ]),
    };
    let values: Vec<String> = columns
        .iter()
        .map(|column| match own.get(column.as_str()) {
            Some(value) => format!("'{value}'"),
            None => column.clone(),
        })
        .collect();
    let sql = format!(
        "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE {key} = (SELECT MIN({key}) FROM {table}) LIMIT 1",
        columns.join(", "),
        values.join(", ")
    );
    db.execute(&sql, [])?;
    Ok(())
}
