//! F35: without file descriptors the listeners wait instead of spinning, and come back by themselves. F06: a drain loses nothing.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::daemon::Daemon;

/// CPU time of a process so far.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10) // 100 ticks a second on Linux
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_out_of_file_descriptors_waits_and_recovers() {
    let mut daemon = Daemon::new();
    daemon.start_with_files(Some(80)).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(daemon.hooks).await.unwrap());
    }
    let (before, since) = (cpu(daemon.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let share = cpu(daemon.pid()).saturating_sub(before).as_secs_f64() / since.elapsed().as_secs_f64();
    // Otherwise the fault was never there.
    let failed_accepts = daemon.logged().matches("cannot accept a connection").count();
    drop(crowd);
    let since = Instant::now();
    let mut recovered = None;
    for n in 0..100 {
        if daemon.deliver(&format!("after-{n}")).await == Some(202) {
            recovered = Some(since.elapsed());
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ready = daemon.http.get(format!("http://{}/readyz", daemon.ops)).send().await.unwrap().status();
    let millis = recovered.map_or(-1, |t| t.as_millis() as i64);
    println!(
        "FAULT F35 files=80 connections=300 failed_accepts={failed_accepts} cpu_share={share:.2} recovered_ms={millis} ready={ready}"
    );
    assert!(failed_accepts > 0, "the daemon never ran out of file descriptors");
    assert!(share <= 0.2 && recovered.is_some_and(|t| t < Duration::from_secs(5)) && ready == 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_under_load_drains() {
    let mut daemon = Daemon::new();
    let (mut slowest, mut stopped_well, mut refused) = (Duration::ZERO, true, 0);
    for round in 0..10 {
        daemon.start().await;
        let load: Vec<_> = (0..20)
            .map(|n| {
                let (http, hooks) = (daemon.http.clone(), daemon.hooks);
                tokio::spawn(
                    async move { crate::daemon::post(&http, hooks, &format!("term-{round}-{n}")).await },
                )
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (took, well) = daemon.terminate().await;
        slowest = slowest.max(took);
        stopped_well &= well;
        for one in load {
            // No answer: it came too late and was never accepted. Any answer must be a good one.
            refused += usize::from(one.await.unwrap().is_some_and(|status| status >= 300));
        }
    }
    println!("FAULT F06 terms=10 slowest_ms={} refused={refused}", slowest.as_millis());
    assert!(stopped_well && refused == 0 && slowest <= Duration::from_secs(10));
}
