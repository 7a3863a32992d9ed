//! G1: what was acknowledged survives `kill -9` at any moment, once, and is then decided.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trainyard::model::DeliveryState;
use trainyard::store::{OpenOptions, Store};

use crate::daemon::{Daemon, NO_FORGE, post};
use crate::postgres::Server;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_deliveries_survive_kill_9() {
    survive("sqlite", Daemon::new(), 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_deliveries_survive_kill_9_on_postgres() {
    let kills = if std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1") { 25 } else { 8 };
    let server = Server::start();
    let options = server.create("kills").await;
    survive("postgres", Daemon::on_postgres(&options, NO_FORGE, "a-token-of-the-forge", "", ""), kills).await;
    assert_eq!(server.idle_in_transaction().await, 0);
}

async fn survive(engine: &str, mut daemon: Daemon, kills: u32) {
    let mut slowest = daemon.start().await;
    let acked = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU32::new(0));
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (acked, stop, next) = (Arc::clone(&acked), Arc::clone(&stop), Arc::clone(&next));
            let (http, hooks) = (daemon.http.clone(), daemon.hooks);
            tokio::spawn(async move {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // One in five is a repeat of an earlier one.
                    let id = format!("kill-{}", if number % 5 == 4 { number / 2 } else { number });
                    let status = post(&http, hooks, &id).await;
                    sent += 1;
                    if matches!(status, Some(200 | 202)) {
                        acked.lock().unwrap().insert(id);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                sent
            })
        })
        .collect();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(50 + rand::random::<u64>() % 1450)).await;
        daemon.kill().await;
        slowest = slowest.max(daemon.start().await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.unwrap();
    }
    assert_eq!(daemon.deliver("kill-last").await, Some(202));
    acked.lock().unwrap().insert("kill-last".to_owned());
    let acked = acked.lock().unwrap().clone();

    // The queue gets through with what every kill left behind.
    let options = daemon.options();
    let since = Instant::now();
    let (rows, undecided) = loop {
        let rows = all(&options).await;
        let undecided = rows.iter().filter(|(_, state)| *state == DeliveryState::Stored).count();
        if undecided == 0 || since.elapsed() > Duration::from_mins(2) {
            break (rows, undecided);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let (ended_in, ended_well) = daemon.terminate().await;
    let distinct: BTreeSet<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
    let lost = acked.iter().filter(|id| !distinct.contains(id.as_str())).count();
    let doubled = rows.len() - distinct.len();
    println!(
        "FAULT F01 engine={engine} kills={kills} sent={sent} acked={} lost={lost} doubled={doubled} stuck={undecided} slowest_start_ms={} t_conv_ms={} \
         ended_in_ms={}",
        acked.len(),
        slowest.as_millis(),
        since.elapsed().as_millis(),
        ended_in.as_millis()
    );
    assert_eq!((lost, doubled, undecided, ended_well), (0, 0, 0, true));
    assert!(acked.len() > 40, "too little load to prove anything");
}

/// Every delivery: the forge's id and the state.
async fn all(options: &OpenOptions) -> Vec<(String, DeliveryState)> {
    let store = Store::open_beside(options).await.unwrap();
    let mut found = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let page = store.list_deliveries(before.as_deref(), 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id.to_string());
        found.extend(page.into_iter().map(|row| (row.delivery_id, row.state)));
    }
    store.close().await;
    found
}
