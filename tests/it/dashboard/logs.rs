//! Logs over the API: downloads are the bytes as stored; a follower that comes back with `Last-Event-ID` misses nothing and
//! sees nothing twice.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use rand::{Rng, SeedableRng};
use tower::ServiceExt;
use trainyard::model::{AttemptUid, EndClass};

use super::{Dashboard, bearer, request};

#[derive(Debug, Clone, Default)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: String,
}

/// Reads server-sent events off an answer.
struct Events {
    body: BodyDataStream,
    buffer: String,
}

impl Events {
    async fn open(at: &Dashboard, uid: &AttemptUid, query: &str, last: Option<&str>, token: &str) -> Self {
        let mut headers = bearer(token);
        headers.extend(last.map(|id| ("last-event-id", id.to_owned())));
        let path = format!("/api/v1/attempts/{uid}/log/stream?{query}");
        let response = at.router.clone().oneshot(request("GET", &path, &headers, "")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body: Body = response.into_body();
        Self { body: body.into_data_stream(), buffer: String::new() }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("event", v)) => event.name = v.into(),
                        Some(("id", v)) => event.id = v.into(),
                        Some(("data", v)) => event.data.push_str(v),
                        _ => {}
                    }
                }
                if event.name.is_empty() {
                    continue;
                }
                return Some(event);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.body.next())
                .await
                .expect("no event in 20 s");
            self.buffer.push_str(std::str::from_utf8(&chunk?.ok()?).unwrap());
        }
    }
}

/// Bytes that no terminal likes.
fn noise(rng: &mut impl Rng, length: usize) -> Vec<u8> {
    (0..length)
        .map(|_| match rng.random_range(0..10) {
            0 => b'\n',
            1 => b'\r',
            2 => 0x1b,
            3 => 0,
            _ => rng.random(),
        })
        .collect()
}

#[tokio::test]
async fn a_follower_resumes_at_the_byte() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let mut want = std::fs::read("/dev/null").unwrap();
    want.extend_from_slice(
        &at.get(&format!("/api/v1/attempts/{}/log", seeded.running), &seeded.tokens.read).await.body,
    );
    for _ in 0..40 {
        let length = rng.random_range(1..9000);
        let piece = noise(&mut rng, length);
        at.log(&seeded.running, piece.clone()).await;
        want.extend_from_slice(&piece);
    }
    let uid = &seeded.running;
    let mut got: Vec<u8> = Vec::new();
    let mut last: Option<String> = None;
    let (mut cuts, mut events) = (0, 0);
    // While the attempt runs: cut the stream after every few events, come back with the last id.
    while got.len() < want.len() {
        let mut stream = Events::open(&at, uid, "", last.as_deref(), &seeded.tokens.read).await;
        for _ in 0..rng.random_range(1..3) {
            if got.len() == want.len() {
                break;
            }
            let event = stream.next().await.unwrap();
            assert_eq!(event.name, "log");
            got.extend(STANDARD.decode(&event.data).unwrap());
            assert_eq!(event.id, got.len().to_string());
            last = Some(event.id);
            events += 1;
        }
        cuts += 1;
        // More arrives while nobody listens.
        if cuts < 20 {
            let piece = noise(&mut rng, 70_000);
            at.log(uid, piece.clone()).await;
            want.extend_from_slice(&piece);
        }
    }
    // Live: a line that is written while the follower waits.
    let mut stream = Events::open(&at, uid, "", last.as_deref(), &seeded.tokens.read).await;
    let (event, ()) = tokio::join!(stream.next(), at.log(uid, "while it waits\n"));
    got.extend(STANDARD.decode(event.unwrap().data).unwrap());
    want.extend_from_slice(b"while it waits\n");
    let (event, ()) = tokio::join!(stream.next(), at.end(&seeded.live, 1, uid, EndClass::Succeeded, ""));
    let event = event.unwrap();
    assert_eq!((event.name.as_str(), event.id), ("end", want.len().to_string()));
    assert!(stream.next().await.is_none());
    assert!(got == want, "{} bytes, {} wanted", got.len(), want.len());
    let download = at.get(&format!("/api/v1/attempts/{uid}/log"), &seeded.tokens.read).await;
    assert!(download.body == want);
    assert_eq!(download.headers["content-type"], "text/plain; charset=utf-8");
    assert!(download.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let rest = at.get(&format!("/api/v1/attempts/{uid}/log?from=100000"), &seeded.tokens.read).await;
    assert!(rest.body == want[100_000..]);
    println!("FAULT G9.follow bytes={} events={events} cuts={cuts} lost=0 doubled=0", want.len());
}

#[tokio::test]
async fn the_dashboards_stream_sends_whole_lines_and_grows_the_last_one() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let uid = &seeded.running;
    let from = at.app.store.attempt(uid).await.unwrap().unwrap().log_bytes;
    at.log(uid, "one\n\u{1b}[31mtwo\u{1b}[0m <b>\nhalf").await;
    let mut stream =
        Events::open(&at, uid, &format!("as=lines&from={from}"), None, &seeded.tokens.read).await;
    let first = stream.next().await.unwrap();
    let data: serde_json::Value = serde_json::from_str(&first.data).unwrap();
    assert_eq!(data["lines"][0][0]["text"], "one");
    assert_eq!(data["lines"][1][0]["class"], "f1");
    assert_eq!(data["lines"][1][1]["text"], " <b>");
    assert_eq!(data["partial"][0]["text"], "half");
    assert_eq!(first.id, (from + "one\n\u{1b}[31mtwo\u{1b}[0m <b>\n".len() as i64).to_string());
    let (second, ()) = tokio::join!(stream.next(), at.log(uid, " and half\n"));
    let data: serde_json::Value = serde_json::from_str(&second.unwrap().data).unwrap();
    assert_eq!(data["lines"][0][0]["text"], "half and half");
    assert!(data["partial"].is_null());
    drop(stream);
    // Coming back with the first id shows the line that was half there.
    let mut again = Events::open(&at, uid, "as=lines", Some(&first.id), &seeded.tokens.read).await;
    let data: serde_json::Value = serde_json::from_str(&again.next().await.unwrap().data).unwrap();
    assert_eq!(data["lines"][0][0]["text"], "half and half");
}

#[tokio::test]
async fn followers_are_counted_and_let_go() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let path = format!("/api/v1/attempts/{}/log/stream", seeded.running);
    let open = async |token: &str| {
        at.router.clone().oneshot(request("GET", &path, &bearer(token), "")).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..32 {
        let response = open(&seeded.tokens.read).await;
        assert_eq!(response.status(), 200);
        held.push(response);
    }
    assert_eq!(open(&seeded.tokens.read).await.status(), 429);
    assert_eq!(open(&seeded.tokens.run).await.status(), 200, "others are not kept out");
    drop(held);
    assert_eq!(open(&seeded.tokens.read).await.status(), 200);
    println!("FAULT F32.cap followers=32 refused=1");
}

/// Windows, search and sections of a long log: the server reads what it shows and not much more.
#[tokio::test]
async fn a_window_into_a_long_log() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let token = &seeded.tokens.read;
    let target: usize =
        if std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1") { 2 << 30 } else { 24 << 20 };
    let start = at.app.store.attempt(&seeded.running).await.unwrap().unwrap().log_bytes;
    // The attempt has said some lines already.
    let before = at.get(&format!("/api/v1/attempts/{}/log/index", seeded.running), token).await.json();
    let first = before["lines"].as_i64().unwrap();
    let line = |n: i64| format!("line {n:>10} of a training that goes on for days\n");
    let mut n = 0;
    let mut written = 0;
    while written < target {
        let mut piece = String::new();
        while piece.len() < 4 << 20 {
            piece += &line(n);
            n += 1;
        }
        written += piece.len();
        at.log(&seeded.running, piece).await;
    }
    let lines_of = async |from: i64, count: i64| {
        let path = format!("/api/v1/attempts/{}/log/lines?from={from}&count={count}", seeded.running);
        let answer = at.get(&path, token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        let text = |l: &serde_json::Value| {
            l.as_array().unwrap().iter().map(|s| s["text"].as_str().unwrap()).collect::<String>()
        };
        json["lines"].as_array().unwrap().iter().map(text).collect::<Vec<String>>()
    };
    let clock = std::time::Instant::now();
    let mut total = 0;
    while total < first + n {
        let index = at.get(&format!("/api/v1/attempts/{}/log/index", seeded.running), token).await.json();
        let now = index["lines"].as_i64().unwrap();
        assert!(now > total, "the index grows");
        total = now;
    }
    let cold_ms = clock.elapsed().as_millis();
    assert_eq!(total, first + n);
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        let from = random.random_range(0..n - 200);
        let clock = std::time::Instant::now();
        let got = lines_of(first + from, 200).await;
        slowest = slowest.max(clock.elapsed());
        assert_eq!(got.len(), 200);
        for (i, text) in got.iter().enumerate() {
            assert_eq!(*text, line(from + i as i64).trim_end());
        }
    }
    let wanted = format!("{:>10}", n - 3).replace(' ', "%20");
    let path =
        format!("/api/v1/attempts/{}/log/search?q={wanted}&from={}", seeded.running, first + n - 10_000);
    let found = at.get(&path, token).await.json();
    assert_eq!(found["lines"], serde_json::json!([first + n - 3]));
    assert!(found["next"].is_null());
    println!(
        "FIGURE log_window bytes={} lines={} index_cold_ms={cold_ms} window_worst_ms={}",
        start as usize + written,
        total,
        slowest.as_millis()
    );
}
