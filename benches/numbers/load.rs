//! A generator of signed GitHub deliveries over kept-alive connections: closed loop (the next request when the last is answered)
//! and open loop (at fixed times, latency counted from the time a request was due, so that a stall is not hidden).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hmac::{Hmac, KeyInit, Mac};
use rand::{Rng, RngCore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where and how deliveries are sent.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub path: &'static str,
    pub secret: Vec<u8>,
    /// `X-Hub-Signature` (SHA-1) as well: GitHub sends both, and some receivers read only that one.
    pub sha1: bool,
    pub event: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A push event of about 20 KB: as many commits as that takes, with random ids, so that it packs as a real one does.
pub struct Body {
    head: String,
    tail: String,
}

impl Body {
    pub fn new() -> Self {
        let mut rng = rand::rng();
        let mut hex = |n: usize| {
            let mut raw = vec![0u8; n];
            rng.fill_bytes(&mut raw);
            hex::encode(raw)
        };
        let head = String::from(
            r#"{"ref":"refs/heads/feature","repository":{"id":42,"full_name":"ada/churn","name":"churn","default_branch":"main","owner":{"login":"ada","id":7}},"sender":{"id":7,"login":"ada"},"after":""#,
        );
        let mut tail = String::from(r#"","commits":["#);
        while tail.len() < 20_100 {
            let comma = if tail.ends_with('[') { "" } else { "," };
            let _ = write!(
                tail,
                r#"{comma}{{"id":"{}","tree_id":"{}","message":"Try another depth of the trees {}","timestamp":"2026-11-2{}T1{}:2{}:00Z","author":{{"name":"Ada","email":"ada@localhost","username":"ada"}},"added":["features/{}.py"],"removed":[],"modified":["train.py","params.yaml"]}}"#,
                hex(20),
                hex(20),
                hex(3),
                tail.len() % 10,
                tail.len() % 7,
                tail.len() % 9,
                hex(4)
            );
        }
        tail += "]}";
        Self { head, tail }
    }
}

fn request(target: &Target, body: &Body, id: u64) -> Vec<u8> {
    let mut sha = [0u8; 20];
    rand::rng().fill_bytes(&mut sha);
    let sha = hex::encode(sha);
    let text = [body.head.as_bytes(), sha.as_bytes(), body.tail.as_bytes()].concat();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&target.secret).expect("any key will do");
    mac.update(&text);
    let signature = hex::encode(mac.finalize().into_bytes());
    let sha1 = if target.sha1 {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&target.secret).expect("any key will do");
        mac.update(&text);
        format!("x-hub-signature: sha1={}\r\n", hex::encode(mac.finalize().into_bytes()))
    } else {
        String::new()
    };
    let mut all = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nuser-agent: GitHub-Hookshot/bench\r\nx-github-event: {}\r\n\
         x-github-delivery: {:08x}-bench-{id}\r\nx-hub-signature-256: sha256={signature}\r\n{sha1}content-length: {}\r\n\r\n",
        target.path,
        target.address,
        target.event,
        rand::rng().random::<u32>(),
        text.len()
    )
    .into_bytes();
    all.extend(text);
    all
}

/// Sends one request and reads its answer to the end; the status.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await?;
        ensure!(read > 0, "the connection was closed");
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(at) = answer.parse(buffer)? else { continue };
        let length = answer
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case("content-length"))
            .and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse::<usize>().ok());
        let chunked = answer.headers.iter().any(|h| h.name.eq_ignore_ascii_case("transfer-encoding"));
        let done = match length {
            Some(length) => buffer.len() >= at + length,
            None => !chunked || buffer.ends_with(b"0\r\n\r\n"),
        };
        if done {
            return Ok(answer.code.unwrap_or(0));
        }
    }
}

/// Closed loop over `connections` for so long. Every answer must be 2xx.
pub async fn closed(target: &Target, connections: usize, time: Duration) -> anyhow::Result<Load> {
    let body = Arc::new(Body::new());
    let ids = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + time;
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (target, body, ids) = (target.clone(), body.clone(), ids.clone());
            tokio::spawn(async move {
                let mut stream = connect(target.address).await?;
                let mut times = Vec::new();
                let mut buffer = Vec::with_capacity(4096);
                while Instant::now() < until {
                    let request = request(&target, &body, ids.fetch_add(1, Ordering::Relaxed));
                    let since = Instant::now();
                    let status = exchange(&mut stream, &request, &mut buffer).await?;
                    ensure!((200..300).contains(&status), "answered with {status}");
                    times.push(since.elapsed().as_secs_f64() * 1000.0);
                }
                Ok(times)
            })
        })
        .collect();
    summary(tasks, time).await
}

/// Open loop: `rate` requests per second over enough connections.
pub async fn open(target: &Target, rate: u32, time: Duration) -> anyhow::Result<Load> {
    const CONNECTIONS: u32 = 16;
    let body = Arc::new(Body::new());
    let start = Instant::now() + Duration::from_millis(50);
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|own| {
            let (target, body) = (target.clone(), body.clone());
            tokio::spawn(async move {
                let mut stream = connect(target.address).await?;
                let mut times = Vec::new();
                let mut buffer = Vec::with_capacity(4096);
                for n in (own..).step_by(CONNECTIONS as usize) {
                    let due = Duration::from_secs_f64(f64::from(n) / f64::from(rate));
                    if due > time {
                        break;
                    }
                    let request = request(&target, &body, u64::from(n));
                    tokio::time::sleep_until((start + due).into()).await;
                    let status = exchange(&mut stream, &request, &mut buffer).await?;
                    ensure!((200..300).contains(&status), "answered with {status}");
                    times.push((start + due).elapsed().as_secs_f64() * 1000.0);
                }
                Ok(times)
            })
        })
        .collect();
    summary(tasks, time).await
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn summary(
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<Vec<f64>>>>,
    time: Duration,
) -> anyhow::Result<Load> {
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    times.sort_by(f64::total_cmp);
    Ok(Load {
        per_second: times.len() as f64 / time.as_secs_f64(),
        p50_ms: crate::percentile(&times, 0.5),
        p99_ms: crate::percentile(&times, 0.99),
    })
}
