//! Postgres under the daemon: the server is restarted beneath it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use trainyard::store::Store;

use super::daemon::{Daemon, NO_FORGE};
use super::postgres::{Pooler, Server};
use super::yard::until;

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
