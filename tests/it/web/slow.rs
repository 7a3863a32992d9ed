//! S03: slow, silent and hostile connections do not keep real senders out.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trainyard::forge::webhook::github::sign;

use super::{Answer, SECRET, Web, raw, webhook};

const BODY: &[u8] = b"{}";
/// The header timeout, and a little for a busy machine.
const CLOSED_BY: Duration = Duration::from_secs(13);

fn good(delivery: &str) -> Vec<u8> {
    webhook("/hooks/github/main", delivery, &[("X-Hub-Signature-256", &sign(SECRET.as_bytes(), BODY))], BODY)
}

/// Waits until the other side closes; how long that took.
async fn closed(stream: &mut TcpStream, since: Instant) -> Option<Duration> {
    let mut waste = [0; 1024];
    let end = async { while matches!(stream.read(&mut waste).await, Ok(read) if read > 0) {} };
    tokio::time::timeout(Duration::from_secs(40), end).await.ok().map(|()| since.elapsed())
}

/// Connects and then sends one byte of `bytes` a second.
async fn drip(addr: std::net::SocketAddr, at_once: Vec<u8>, bytes: &'static [u8]) -> Option<Duration> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let since = Instant::now();
    let _ = stream.write_all(&at_once).await;
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        for byte in bytes.iter().cycle() {
            tick.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    });
    let mut waste = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(45), read.read_to_end(&mut waste)).await;
    dripping.abort();
    ended.ok().map(|_| since.elapsed())
}

/// Requests whose bodies never come take every place of the listener, and are pushed out of it by those that do come.
#[tokio::test(flavor = "multi_thread")]
async fn s03_bodies_that_never_come_do_not_keep_others_out() {
    let web = Web::start().await;
    let hook = format!(
        "POST /hooks/github/main HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: d\r\n\
         X-Hub-Signature-256: {}\r\nContent-Length: 10\r\n\r\n{{",
        sign(SECRET.as_bytes(), BODY)
    );
    let mut held = Vec::new();
    for n in 0..1100 {
        let mut stream = TcpStream::connect(web.hooks).await.unwrap();
        stream.write_all(hook.as_bytes()).await.unwrap();
        held.push(stream);
        if n % 100 == 0 {
            let sent =
                tokio::time::timeout(Duration::from_secs(20), raw(web.hooks, good(&format!("between-{n}"))));
            assert_eq!(sent.await.expect("an answer").status, 202, "after {n}");
        }
    }
    for n in 0..20 {
        let sent = tokio::time::timeout(Duration::from_secs(20), raw(web.hooks, good(&format!("after-{n}"))));
        assert_eq!(sent.await.expect("an answer").status, 202);
    }
    drop(held);
    println!("SEC S03 bodies_that_never_come connections=1100 refused=0");
}

/// A large body that is begun and never ends; the answer, and when it came.
async fn stuck(web: &Web, at_once: usize) -> tokio::task::JoinHandle<(u16, Duration)> {
    let head = format!(
        "POST /hooks/github/main HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: d\r\n\
         X-Hub-Signature-256: {}\r\nContent-Length: {}\r\n\r\n",
        sign(b"not the secret", BODY),
        25 << 20
    );
    let mut stream = TcpStream::connect(web.hooks).await.unwrap();
    let since = Instant::now();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'a'; at_once]).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    tokio::spawn(async move {
        let dripping = tokio::spawn(async move {
            while write.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(40), read.read_to_end(&mut answer)).await;
        dripping.abort();
        (Answer::parse(&answer).status, since.elapsed())
    })
}

/// A signed push of this size: how long until it is accepted.
async fn push_of(web: &Web, bytes: usize, delivery: &str) -> Duration {
    let body = vec![b' '; bytes];
    let signature = sign(SECRET.as_bytes(), &body);
    let request = webhook("/hooks/github/main", delivery, &[("X-Hub-Signature-256", &signature)], &body);
    let since = Instant::now();
    assert_eq!(raw(web.hooks, request).await.status, 202, "{delivery}");
    since.elapsed()
}

/// Large bodies of strangers that declare 25 MiB and hardly come: what they declare takes no room, what they sent makes room
/// for a real push, and they end long before 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn s03_large_bodies_that_hardly_come_make_room() {
    let web = Web::start().await;
    let mut small = Vec::new();
    for _ in 0..3 {
        small.push(stuck(&web, 70_000).await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let beside_declared = push_of(&web, 100 << 10, "beside-declared").await;
    assert!(beside_declared < Duration::from_secs(2), "{beside_declared:?}");
    // 80 MiB that are really there: more than there is room for.
    let mut large = Vec::new();
    for _ in 0..5 {
        large.push(stuck(&web, 16 << 20).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let beside_sent = push_of(&web, 20 << 20, "beside-sent").await;
    println!(
        "FIGURE hooks_beside_slow_bodies declared_ms={} sent_ms={}",
        beside_declared.as_millis(),
        beside_sent.as_millis()
    );
    for one in small.into_iter().chain(large) {
        let (status, took) = one.await.unwrap();
        assert_eq!(status, 408);
        assert!(took < Duration::from_secs(29), "{took:?}");
    }
    // Real ones of the largest size wait for each other rather than fail.
    let web = std::sync::Arc::new(web);
    let many: Vec<_> = (0..4)
        .map(|n| {
            let web = std::sync::Arc::clone(&web);
            tokio::spawn(async move { push_of(&web, 25 << 20, &format!("large-{n}")).await })
        })
        .collect();
    for one in many {
        one.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_slow_connections_do_not_keep_others_out() {
    let web = Web::start().await;
    let hooks = web.hooks;
    let mut failed = 0;
    let mut count = 0;
    let mut expect = |name: &str, fine: bool| {
        count += 1;
        if !fine {
            eprintln!("failed: {name}");
            failed += 1;
        }
    };

    // Attacks, all at once.
    let mut idle = Vec::new();
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(hooks).await.unwrap();
        let since = Instant::now();
        idle.push(tokio::spawn(async move { closed(&mut stream, since).await }));
    }
    let spawn = |count: usize, at_once: Vec<u8>, bytes: &'static [u8]| {
        (0..count).map(|_| tokio::spawn(drip(hooks, at_once.clone(), bytes))).collect::<Vec<_>>()
    };
    let slow_heads = spawn(200, b"POST /hooks/github/main HTTP/1.1\r\n".to_vec(), b"X-A: b\r\n");
    let slow_lines = spawn(50, Vec::new(), b"P");
    let slow_empty = spawn(20, Vec::new(), b"\r\n");
    let signature = sign(SECRET.as_bytes(), BODY);
    let body_head = format!(
        "POST /hooks/github/main HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: drip\r\n\
         X-Hub-Signature-256: {signature}\r\nContent-Length: 1000000\r\n\r\n"
    );
    let slow_bodies = spawn(200, body_head.into_bytes(), b" ");

    // Meanwhile a real sender.
    let mut times = Vec::new();
    let until = Instant::now() + Duration::from_secs(12);
    let mut accepted = true;
    while Instant::now() < until {
        let sent = Instant::now();
        accepted &= raw(hooks, good(&format!("real-{}", times.len()))).await.status == 202;
        times.push(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    println!(
        "FIGURE hooks_under_slow_clients requests={} p50_ms={} p99_ms={}",
        times.len(),
        times[times.len() / 2].as_millis(),
        p99.as_millis()
    );
    expect("every real delivery is accepted", accepted);
    expect("p99 of others is at most 250 ms", p99 <= Duration::from_millis(250));

    let mut worst = Duration::ZERO;
    let mut all = true;
    for one in idle {
        let took = one.await.unwrap();
        all &= took.is_some_and(|t| t <= CLOSED_BY);
        worst = worst.max(took.unwrap_or_default());
    }
    expect("2,000 silent connections are closed", all);
    for (name, attack, limit) in [
        ("heads of a byte a second", slow_heads, CLOSED_BY),
        ("request lines of a byte a second", slow_lines, CLOSED_BY),
        ("empty lines for ever", slow_empty, CLOSED_BY),
        ("bodies of a byte a second", slow_bodies, Duration::from_secs(35)),
    ] {
        let mut all = true;
        for one in attack {
            all &= one.await.unwrap().is_some_and(|took| took <= limit);
        }
        expect(name, all);
    }
    println!("FIGURE hooks_silent_connections count=2000 longest_s={:.1}", worst.as_secs_f64());

    // Pipelined requests are answered in order.
    let mut pipeline = Vec::new();
    for n in 0..100 {
        let text = String::from_utf8(good(&format!("pipe-{n}"))).unwrap();
        let connection = if n == 99 { "close" } else { "keep-alive" };
        pipeline.extend_from_slice(
            text.replace("Connection: close", &format!("Connection: {connection}")).as_bytes(),
        );
    }
    let answer = raw(hooks, pipeline).await;
    let whole = format!("{}\r\n\r\n{}", answer.head, answer.body);
    expect("100 pipelined requests", whole.matches("HTTP/1.1 202").count() == 100);

    // HTTP/2: the preface alone, and floods behind it.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let reset: Vec<u8> = (0..10_000u32)
        .flat_map(|n| {
            let id = (2 * n + 1).to_be_bytes();
            [&b"\0\0\x01\x01\x05"[..], &id, b"\x82", b"\0\0\x04\x03\0", &id, b"\0\0\0\x08"].concat()
        })
        .collect();
    let continuation: Vec<u8> =
        [&b"\0\0\x01\x01\0\0\0\0\x01\x82"[..], &b"\0\0\x01\x09\0\0\0\0\x01\x82".repeat(10_000)].concat();
    let empty_data = b"\0\0\0\0\0\0\0\0\x01".repeat(10_000);
    for (name, frames) in [
        ("no frames", vec![]),
        ("rapid reset", reset),
        ("CONTINUATION flood", continuation),
        ("empty DATA flood", empty_data),
    ] {
        let answer: Answer = raw(hooks, [&preface[..], settings, &frames].concat()).await;
        expect(name, answer.status != 202 && answer.status != 200);
    }
    println!("SEC S03 cases={count} failed={failed}");
    assert_eq!(failed, 0);
}
