//! G9: every byte once and in order, whatever happens to the connection; F29: bounded memory whatever is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trainyard::model::EndClass;

use super::daemon::{Agent, Daemon, run, spec, until};

/// A wire between agent and daemon that breaks.
struct Wire {
    url: String,
    cuts: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

impl Wire {
    /// Breaks every connection after a random number of bytes (up to `reach`), in the request or before its answer, until
    /// `wanted` have been broken.
    async fn lay(to: &str, wanted: usize, reach: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (cuts, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let wire = Self { url, cuts: cuts.clone(), closed: closed.clone() };
        let to = to.trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if closed.load(Ordering::SeqCst) {
                    continue;
                }
                let (to, cuts, closed) = (to.clone(), cuts.clone(), closed.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let (up, down) = {
                        let mut random = rand::rng();
                        match (cuts.load(Ordering::SeqCst) < wanted, random.random_range(0..10)) {
                            (false, _) => (usize::MAX, usize::MAX),
                            // The request arrives whole, its answer does not.
                            (true, 0..3) => (usize::MAX, random.random_range(0..60)),
                            (true, 3..6) => (random.random_range(0..reach / 10), usize::MAX),
                            (true, _) => (random.random_range(0..reach), usize::MAX),
                        }
                    };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    tokio::select! {
                        broke = copy(near_read, far_write, up) => if broke { cuts.fetch_add(1, Ordering::SeqCst); },
                        broke = copy(far_read, near_write, down) => if broke { cuts.fetch_add(1, Ordering::SeqCst); },
                        () = async { while !closed.load(Ordering::SeqCst) { tokio::time::sleep(Duration::from_millis(20)).await } } => {}
                    }
                });
            }
        });
        wire
    }
}

/// True when the limit cut it.
async fn copy(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    limit: usize,
) -> bool {
    let (mut buffer, mut left) = (vec![0; 32 * 1024], limit);
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n.min(left)]).await.is_err() {
            return false;
        }
        if n >= left {
            return true;
        }
        left -= n;
    }
    false
}

/// Four attempts side by side, since most of the time goes into waiting before the next try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cuts_lose_and_repeat_nothing() {
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..4 {
        set.spawn(cut_one());
    }
    let [mut cuts, mut lost, mut repeated, mut bytes] = [0; 4];
    while let Some(one) = set.join_next().await {
        let [c, l, r, b] = one.unwrap();
        (cuts, lost, repeated, bytes) = (cuts + c, lost + l, repeated + r, bytes + b);
    }
    println!("FAULT G9 cuts={cuts} lost={lost} repeated={repeated} bytes={bytes}");
    assert!(cuts >= 100, "only {cuts} cuts: the test is too tame");
    assert_eq!((lost, repeated), (0, 0));
}

/// One attempt whose connection breaks all the time: cuts, lines lost, lines repeated, bytes stored.
async fn cut_one() -> [u64; 4] {
    const LINES: u64 = 6_000_000;
    let daemon = Daemon::start().await;
    let wire = Wire::lay(&daemon.url, 45, 5_000_000).await;
    let mut spec = spec(&daemon.sha, &[&format!("seq 1 {LINES}")]);
    spec.timeout_ms = 300_000;
    daemon.will_run(spec);
    let mut agent = Agent::start(&wire.url);
    assert!(agent.end().await, "{}", agent.own_log());
    let seen = daemon.seen.lock().unwrap();
    assert_eq!(seen.breaches, Vec::<String>::new());
    let finished = seen.finished.clone().unwrap();
    assert_eq!((finished.class, finished.log_lost_bytes), (EndClass::Succeeded, 0));
    let spooled = std::fs::read(agent.dir.join("spool.log")).unwrap();
    assert!(spooled == seen.log, "stored differs from written");
    // What was written is known without the agent, too: the numbers.
    let (mut next, mut lost, mut repeated) = (1, 0, 0);
    let numbers =
        seen.log.split(|b| *b == b'\n').filter_map(|l| std::str::from_utf8(l).ok()?.parse::<u64>().ok());
    for number in numbers {
        if number < next {
            repeated += 1;
        } else {
            lost += number - next;
            next = number + 1;
        }
    }
    [wire.cuts.load(Ordering::SeqCst) as u64, lost + LINES + 1 - next, repeated, seen.log.len() as u64]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_goes_on_while_the_daemon_is_away() {
    let daemon = Daemon::start().await;
    let wire = Wire::lay(&daemon.url, 0, 1).await;
    daemon.will_run(spec(
        &daemon.sha,
        &["for i in $(seq 1 60); do echo tick $i; echo \"{\\\"step\\\": $i, \\\"loss\\\": 0.5}\" >> log.jsonl; sleep 0.05; done; touch ../over"],
    ));
    let mut agent = Agent::start(&wire.url);
    until("it runs", || String::from_utf8_lossy(&daemon.seen.lock().unwrap().log).contains("tick 2\n")).await;
    wire.closed.store(true, Ordering::SeqCst);
    let at = agent.dir.join("over");
    until("the commands ended without a daemon", || at.exists()).await;
    until("the result waits for it", || {
        agent.dir.join("result.json").exists() || agent.child.try_wait().unwrap().is_some()
    })
    .await;
    assert!(daemon.seen.lock().unwrap().finished.is_none());
    wire.closed.store(false, Ordering::SeqCst);
    assert!(agent.end().await);
    let seen = daemon.seen.lock().unwrap();
    let log = String::from_utf8_lossy(&seen.log);
    let ticks: Vec<&str> = log.lines().filter(|l| l.starts_with("tick ")).collect();
    let want: Vec<String> = (1..=60).map(|i| format!("tick {i}")).collect();
    assert_eq!(ticks, want);
    let steps: Vec<i64> = seen.points.iter().filter_map(|p| p.step).collect();
    assert_eq!(steps, (1..=60).collect::<Vec<i64>>());
    assert_eq!(seen.finished.as_ref().unwrap().class, EndClass::Succeeded);
}

/// 256 MiB at full speed, 2 GiB with `TRAINYARD_LONG=1`; one line without an end among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_printed_memory_stays_bounded() {
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let bytes: u64 = if long { 2 << 30 } else { 256 << 20 };
    let daemon = Daemon::start().await;
    daemon.seen.lock().unwrap().count_only = true;
    let quota: u64 = if long { 1 << 30 } else { 192 << 20 };
    let mut spec = spec(
        &daemon.sha,
        &[&format!(
            "head -c 67108864 /dev/zero | tr '\\0' x; yes 'epoch 3 loss 0.25 key hunter2!hunter2' | head -c {}; echo",
            bytes - (64 << 20)
        )],
    );
    spec.secrets.insert("KEY".into(), "hunter2!hunter2".into());
    spec.log_quota_bytes = quota as i64;
    spec.timeout_ms = 600_000;
    daemon.will_run(spec);
    let mut agent = Agent::start(&daemon.url);
    let (pid, begun) = (agent.pid(), Instant::now());
    // The whole peak counts the pages of the program's file too, of which a development build has many; what grows is anonymous.
    let (mut peak_kb, mut anonymous_kb) = (0_u64, 0_u64);
    while agent.child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = |name: &str| -> u64 {
            let value = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|v| v.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
        };
        peak_kb = peak_kb.max(line("VmHWM"));
        anonymous_kb = anonymous_kb.max(line("RssAnon"));
        assert!(begun.elapsed() < Duration::from_secs(580), "{}", agent.own_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = daemon.seen.lock().unwrap();
    let finished = seen.finished.clone().unwrap();
    println!(
        "FAULT F29 bytes={bytes} stored={} lost_counted={} peak_rss_mb={} anonymous_mb={} seconds={:.1}",
        seen.log_len,
        finished.log_lost_bytes,
        peak_kb / 1024,
        anonymous_kb / 1024,
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(finished.class, EndClass::Succeeded, "{finished:?}");
    assert!(seen.log_len <= quota && seen.log_len > quota - 1_000);
    assert!(finished.log_lost_bytes > 0);
    assert!(anonymous_kb > 0 && anonymous_kb < 48 * 1024, "{anonymous_kb} kB");
    assert!(peak_kb < 150 * 1024, "{peak_kb} kB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_daemons_quota_bytes_are_counted() {
    let daemon = Daemon::start().await;
    daemon.seen.lock().unwrap().quota = Some(1_000_000);
    let (finished, _) = run(&daemon, spec(&daemon.sha, &["yes abcdefg | head -c 20000000"])).await;
    let stored = daemon.seen.lock().unwrap().log_len as i64;
    assert_eq!(finished.class, EndClass::Succeeded);
    assert!((20_000_000..20_000_400).contains(&(stored + finished.log_lost_bytes)), "{stored} {finished:?}");
}

/// F30: bytes that are no text arrive as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ugly_bytes_are_stored_as_they_are() {
    let daemon = Daemon::start().await;
    let ugly: Vec<u8> = (0..=255_u8)
        .cycle()
        .take(5_000)
        .chain(*b"\x1b]8;;http://x\x07\x1b[2J\r\r\n::group::\xff\xfe\0")
        .collect();
    let octal: String = ugly.iter().map(|b| format!("\\{b:03o}")).collect();
    let (finished, _) = run(&daemon, spec(&daemon.sha, &[&format!("printf '{octal}' >&2")])).await;
    assert_eq!(finished.class, EndClass::Succeeded);
    let seen = daemon.seen.lock().unwrap();
    assert!(seen.log.windows(ugly.len()).any(|w| w == ugly), "the bytes were changed");
}
