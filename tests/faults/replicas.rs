//! Postgres under the daemon: several daemons share one database, and the server is restarted beneath them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use trainyard::model::{RunState, Sha};
use trainyard::store::Store;
use trainyard::store::lists::RunFilter;

use super::bucket::Bucket;
use super::daemon::{Daemon, NO_FORGE, SECRET};
use super::postgres::{Pooler, Server};
use super::yard::{Yard, until};

impl Bucket {
    fn keys(&self) -> String {
        assert!(self.runs());
        "blob = \"s3://yard/of/test\"\n".to_owned()
    }

    /// With keys in the files of `dir`.
    fn table(&self, dir: &Path) -> String {
        let key = dir.join("s3-key");
        std::fs::write(&key, "testing").unwrap();
        format!(
            "[s3]\nendpoint = {:?}\nregion = \"us-east-1\"\nallow_http = true\naccess_key_id = {{ file = {key:?} }}\n\
             secret_access_key = {{ file = {key:?} }}\n[limits]\nlease_s = 5\n[pool.default]\nexecutor = \"local\"\nslots = 3\n",
            self.endpoint,
            key = key.display().to_string()
        )
    }
}

fn pipeline(witness: &Path, name: &str) -> String {
    format!(
        "version: 1\nname: churn\nwhen: [{{event: push, branch: '**'}}]\nsteps:\n  - name: train\n    commands:\n      - echo {name} >> {}\n      - sleep 0.5\n      - echo accuracy=0.5 >> $TRAINYARD_OUTPUT\n",
        witness.display()
    )
}

/// The states of all runs by head.
async fn states(store: &Store) -> Vec<(Sha, RunState)> {
    let runs = store.list_runs(RunFilter::default(), None, 1000).await.unwrap();
    runs.into_iter().map(|item| (item.run.head_sha, item.run.state)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_the_work_and_one_is_killed() {
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let pushes = if long { 40 } else { 16 };
    let server = Server::start();
    let options = server.create("shared").await;
    let bucket = Bucket::start().await;
    let dir = tempfile::tempdir().unwrap();
    let witness = dir.path().join("witness");
    let (keys, more) = (bucket.keys(), bucket.table(dir.path()));
    let mut second = None;
    let mut yard = Yard::of(|url, token| {
        second = Some(Daemon::on_postgres(&options, url, token, &keys, &more));
        Daemon::on_postgres(&options, url, token, &keys, &more)
    })
    .await;
    let mut second = second.unwrap();
    // Both start on an empty database at once: one migrates, the other waits.
    tokio::join!(yard.daemon.start(), second.start());
    let store = yard.store().await;
    let mut shas = Vec::new();
    for n in 0..pushes {
        // Deliveries go to both; one is killed in the middle and comes back.
        if n == pushes / 2 {
            yard.daemon.kill().await;
        }
        if n == pushes * 3 / 4 {
            yard.daemon.start().await;
        }
        let down = (pushes / 2..pushes * 3 / 4).contains(&n);
        let hooks = if down || n % 2 == 0 { second.hooks } else { yard.daemon.hooks };
        yard.sandbox.set_hook(format!("http://{hooks}/hooks/github/main"), SECRET);
        if n > 0 {
            yard.git(&["checkout", "-q", "-b", &format!("branch-{n}")]).await;
        }
        let branch = if n == 0 { "main".to_owned() } else { format!("branch-{n}") };
        shas.push(yard.push(&branch, &pipeline(&witness, &format!("run-{n}"))).await);
    }
    let since = Instant::now();
    until("the end of every run", 150, async || {
        let states = states(&store).await;
        (states.len() >= pushes && states.iter().all(|(_, state)| state.is_terminal())).then_some(())
    })
    .await;
    until("every final status", 120, async || {
        shas.iter()
            .all(|sha| yard.statuses(sha).last().is_some_and(|status| status.state == "success"))
            .then_some(())
    })
    .await;
    let converged = since.elapsed();
    let ended = states(&store).await;
    let heads: BTreeSet<&str> = ended.iter().map(|(sha, _)| sha.as_str()).collect();
    let doubled = ended.len() - heads.len();
    let lost = shas.iter().filter(|sha| !heads.contains(sha.as_str())).count();
    let failed = ended.iter().filter(|(_, state)| *state != RunState::Succeeded).count();
    let text = std::fs::read_to_string(&witness).unwrap();
    let ran: Vec<&str> = text.lines().collect();
    let ran_once: BTreeSet<&str> = ran.iter().copied().collect();
    let mut machines = BTreeSet::new();
    for item in store.list_runs(RunFilter::default(), None, 1000).await.unwrap() {
        let view = store.run_view(&item.run.id).await.unwrap().unwrap();
        machines.extend(view.attempts.into_iter().map(|attempt| attempt.machine));
    }
    println!(
        "FAULT replicas daemons=2 pushes={pushes} kills=1 lost={lost} doubled={doubled} failed={failed} steps_ran={} \
         steps_ran_twice={} machines_used={} t_conv_ms={} idle_in_transaction={}",
        ran_once.len(),
        ran.len() - ran_once.len(),
        machines.len(),
        converged.as_millis(),
        server.idle_in_transaction().await
    );
    assert_eq!((lost, doubled, failed, ran.len(), ran_once.len()), (0, 0, 0, pushes, pushes));
    assert_eq!(machines.len(), 2, "one daemon did all the work");

    // Local files as blob cannot be shared: a third daemon is refused with a sentence.
    let mut third = Daemon::on_postgres(&options, NO_FORGE, "a-token-of-the-forge", "", "");
    assert!(!third.try_start().await);
    assert!(third.logged().contains("local files as blob cannot be shared"), "{}", third.logged());
    store.close().await;
}

/// F10: the daemon outlives its database server, keeps its promises, and goes on by itself. F13: through a pooler as well.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_restarts_under_the_daemon() {
    let server = Server::start();
    server.create("restarted").await;
    let pooler = Pooler::before(&server);
    for (name, options) in
        [("direct", server.options("restarted")), ("pgbouncer", pooler.options("restarted"))]
    {
        let mut daemon = Daemon::on_postgres(&options, NO_FORGE, "a-token-of-the-forge", "", "");
        daemon.start().await;
        let mut acked = BTreeSet::new();
        let mut slowest = Duration::ZERO;
        for (round, mode) in ["fast", "immediate"].into_iter().enumerate() {
            let id = |n: usize| format!("{name}-{round}-{n}");
            for n in 0..10 {
                if daemon.deliver(&id(n)).await == Some(202) {
                    acked.insert(id(n));
                }
            }
            server.down(mode);
            let refused = daemon.deliver(&id(10)).await;
            assert!(refused.is_none_or(|status| status == 503), "{refused:?} without a database");
            server.up();
            let since = Instant::now();
            until("a delivery after the restart", 30, async || {
                (daemon.deliver(&id(11)).await.is_some_and(|status| status < 300)).then_some(())
            })
            .await;
            acked.insert(id(11));
            slowest = slowest.max(since.elapsed());
        }
        assert!(!daemon.has_ended(), "the daemon did not outlive its database");
        let store = Store::open_beside(&daemon.options()).await.unwrap();
        let rows = store.list_deliveries(None, 1000).await.unwrap();
        let kept: BTreeSet<&str> = rows.iter().map(|row| row.delivery_id.as_str()).collect();
        let lost = acked.iter().filter(|id| !kept.contains(id.as_str())).count();
        println!(
            "FAULT F10 way={name} restarts=2 acked={} lost={lost} process_restarts=0 slowest_t_conv_ms={} idle_in_transaction={}",
            acked.len(),
            slowest.as_millis(),
            server.idle_in_transaction().await
        );
        assert!(lost == 0 && slowest < Duration::from_secs(20));
        store.close().await;
        daemon.terminate().await;
    }
}
