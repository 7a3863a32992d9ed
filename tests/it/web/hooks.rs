//! Webhooks over HTTP: what is refused stores nothing (S01, S02), what is repeated has no second effect (S05, G2), and every
//! payload that GitHub recorded is accepted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{KeyInit, Mac};
use trainyard::forge::webhook::github::sign;
use trainyard::store::deliveries::Delivered;

use super::{Answer, NEXT_SECRET, OTHER_SECRET, SECRET, Web, raw, webhook};
use crate::forge_webhooks::examples;
use crate::store::fixture;

const BODY: &[u8] = br#"{"ref":"refs/heads/main","repository":{"id":42}}"#;
const SIGNATURE: &str = "X-Hub-Signature-256";
const CAP: usize = 25 << 20;

fn hex_of(secret: &str, body: &[u8]) -> String {
    sign(secret.as_bytes(), body).split_off("sha256=".len())
}

async fn send(web: &Web, delivery: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    raw(web.hooks, webhook("/hooks/github/main", delivery, headers, body)).await
}

async fn signed(web: &Web, delivery: &str, body: &[u8]) -> Answer {
    send(web, delivery, &[(SIGNATURE, &sign(SECRET.as_bytes(), body))], body).await
}

#[tokio::test]
async fn githubs_own_vector_is_accepted() {
    let web = Web::start().await;
    let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let answer = send(&web, "vector", &[(SIGNATURE, right)], b"Hello, World!").await;
    assert_eq!((answer.status, answer.body.as_str()), (202, r#"{"delivery":"vector","outcome":"stored"}"#));
    assert!(web.is_stored("vector").await);
    let next = sign(NEXT_SECRET.as_bytes(), BODY);
    assert_eq!(send(&web, "next-secret", &[(SIGNATURE, &next)], BODY).await.status, 202);
    let upper = format!("sha256={}", hex_of(SECRET, BODY).to_uppercase());
    assert_eq!(send(&web, "upper-case", &[(SIGNATURE, &upper)], BODY).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_a_wrong_signature_is_401_and_stores_nothing() {
    let web = Web::start().await;
    let good = hex_of(SECRET, BODY);
    let right = format!("sha256={good}");
    let of = |secret: &str, body: &[u8]| format!("sha256={}", hex_of(secret, body));
    let sha1 = hex::encode([7u8; 20]);
    let base64 = "dXEH6g6yUJ/CESIcyphLijdXC210hsIsRvQ3nIsEPhc=";
    let reserialised =
        serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(BODY).unwrap()).unwrap();
    let mut sha512 = hmac::Hmac::<sha2::Sha512>::new_from_slice(SECRET.as_bytes()).unwrap();
    sha512.update(BODY);
    let sha512 = hex::encode(&sha512.finalize().into_bytes()[..32]);
    let one = |value: String| vec![(SIGNATURE.to_owned(), value)];
    let mut cases: Vec<(&str, Vec<(String, String)>)> = vec![
        ("none", vec![]),
        ("empty", one(String::new())),
        ("sha1 header only", vec![("X-Hub-Signature".into(), format!("sha1={sha1}"))]),
        ("right MAC in the sha1 header", vec![("X-Hub-Signature".into(), right.clone())]),
        ("sha1 value", one(format!("sha1={sha1}"))),
        ("prefix alone", one("sha256=".into())),
        ("one digit", one("sha256=7".into())),
        ("63 digits", one(format!("sha256={}", &good[..63]))),
        ("65 digits", one(format!("sha256={good}0"))),
        ("twice", one(format!("sha256={good}{good}"))),
        ("62 digits", one(format!("sha256={}", &good[..62]))),
        ("not hexadecimal", one(format!("sha256={}g", &good[..63]))),
        ("0x", one(format!("sha256=0x{}", &good[..62]))),
        ("space behind the prefix", one(format!("sha256= {good}"))),
        ("space before the equals sign", one(format!("sha256 ={good}"))),
        ("space within", one(format!("sha256={} {}", &good[..32], &good[32..]))),
        ("tab within", one(format!("sha256={}\t{}", &good[..32], &good[32..]))),
        ("text behind", one(format!("sha256={good};v=1"))),
        ("upper-case prefix", one(format!("SHA256={good}"))),
        ("mixed-case prefix", one(format!("Sha256={good}"))),
        ("sha-256", one(format!("sha-256={good}"))),
        ("sha512 prefix", one(format!("sha512={good}"))),
        ("no prefix", one(good.clone())),
        ("quoted", one(format!("\"sha256={good}\""))),
        ("quoted value", one(format!("sha256=\"{good}\""))),
        ("base64", one(format!("sha256={base64}"))),
        ("sha512 cut to 32 bytes", one(format!("sha256={sha512}"))),
        ("right and wrong header", [one(right.clone()), one(of(OTHER_SECRET, BODY))].concat()),
        ("wrong and right header", [one(of(OTHER_SECRET, BODY)), one(right.clone())].concat()),
        ("right header twice", [one(right.clone()), one(right.clone())].concat()),
        ("right and empty header", [one(right.clone()), one(String::new())].concat()),
        ("joined by a comma", one(format!("{right},{right}"))),
        ("joined by a comma and space", one(format!("{}, {right}", of(OTHER_SECRET, BODY)))),
        ("of the re-serialised JSON", one(of(SECRET, reserialised.as_bytes()))),
        ("of the body and a line feed", one(of(SECRET, &[BODY, b"\n"].concat()))),
        ("of the body and CRLF", one(of(SECRET, &[BODY, b"\r\n"].concat()))),
        ("of a form with the body", one(of(SECRET, &[b"payload=", BODY].concat()))),
        ("of an empty body", one(of(SECRET, b""))),
        ("of the body in upper case", one(of(SECRET, &BODY.to_ascii_uppercase()))),
        ("another hook's secret", one(of(OTHER_SECRET, BODY))),
        ("a secret rotated out", one(of("the secret that went before", BODY))),
        ("secret with a line feed", one(of(&format!("{SECRET}\n"), BODY))),
        ("secret with a space", one(of(&format!(" {SECRET}"), BODY))),
        ("empty secret", one(of("", BODY))),
        ("secret in lower case", one(of(&SECRET.to_lowercase(), BODY))),
        ("header name with an underscore", vec![("X_Hub_Signature_256".into(), right.clone())]),
        ("header of Gitea", vec![("X-Gitea-Signature".into(), good.clone())]),
        ("in Authorization", vec![("Authorization".into(), right.clone())]),
    ];
    for bit in 0..20usize {
        let mut bytes = hex::decode(&good).unwrap();
        bytes[(bit * 13) % 32] ^= 1 << (bit % 8);
        cases.push(("one bit flipped", one(format!("sha256={}", hex::encode(bytes)))));
    }
    let mut failed = 0;
    let mut bodies = BTreeMap::new();
    let mut check = |name: &str, answer: &Answer, stored: bool| {
        *bodies.entry(answer.body.clone()).or_insert(0) += 1;
        if answer.status != 401 || stored {
            eprintln!("{name}: {answer:?}, stored {stored}");
            failed += 1;
        }
    };
    for (number, (name, headers)) in cases.iter().enumerate() {
        let delivery = format!("s01-{number}");
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answer = send(&web, &delivery, &headers, BODY).await;
        check(name, &answer, web.is_stored(&delivery).await);
    }
    let mut count = cases.len();
    // The signature in a trailer, in the URL, and right for the body but sent to the other hook.
    let trailer = format!(
        "POST /hooks/github/main HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\n\
         X-GitHub-Delivery: s01-trailer\r\nTransfer-Encoding: chunked\r\nTrailer: {SIGNATURE}\r\n\r\n{:x}\r\n{}\r\n0\r\n{SIGNATURE}: {right}\r\n\r\n",
        BODY.len(),
        String::from_utf8_lossy(BODY)
    );
    check("in a trailer", &raw(web.hooks, trailer).await, web.is_stored("s01-trailer").await);
    let url = webhook(&format!("/hooks/github/main?{SIGNATURE}={right}"), "s01-url", &[], BODY);
    check("in the URL", &raw(web.hooks, url).await, web.is_stored("s01-url").await);
    let elsewhere = webhook("/hooks/github/other", "s01-elsewhere", &[(SIGNATURE, &right)], BODY);
    check("at the other hook", &raw(web.hooks, elsewhere).await, web.is_stored("s01-elsewhere").await);
    count += 3;
    println!("SEC S01 cases={count} failed={failed}");
    assert_eq!(failed, 0);
    assert_eq!(bodies.len(), 1, "a forger could tell the reasons apart: {bodies:?}");
}

fn chunked(delivery: &str, signature: &str, chunks: &[&[u8]], end: bool) -> Vec<u8> {
    let mut request = format!(
        "POST /hooks/github/main HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\n\
         X-GitHub-Delivery: {delivery}\r\n{SIGNATURE}: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in chunks {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    if end {
        request.extend_from_slice(b"0\r\n\r\n");
    }
    request
}

/// Head of a request whose framing headers are given; nothing of a body.
fn framed(delivery: &str, framing: &str) -> String {
    format!(
        "POST /hooks/github/main HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\n\
         X-GitHub-Delivery: {delivery}\r\n{SIGNATURE}: {}\r\n{framing}\r\n\r\n",
        sign(SECRET.as_bytes(), b"{}")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_bodies_have_limits() {
    let web = Web::start().await;
    let full = vec![b' '; CAP];
    let over = vec![b' '; CAP + 1];
    let full_signature = sign(SECRET.as_bytes(), &full);
    let over_signature = sign(SECRET.as_bytes(), &over);
    let small = sign(SECRET.as_bytes(), b"{}");
    let with = |name: &'static str, value: &'static str| {
        let signature = small.clone();
        move |delivery: &str| {
            webhook("/hooks/github/main", delivery, &[(SIGNATURE, &signature), (name, value)], b"{}")
        }
    };
    let kind = |kind: &str, delivery: &str| {
        let text = String::from_utf8(webhook("/hooks/github/main", delivery, &[(SIGNATURE, &small)], b"{}"))
            .unwrap();
        text.replace("Content-Type: application/json\r\n", kind).into_bytes()
    };
    let megabyte = vec![b' '; 1 << 20];
    let endless: Vec<&[u8]> = vec![&megabyte; 40];
    let mut extensions = framed("ext", "Transfer-Encoding: chunked").into_bytes();
    for _ in 0..20_000 {
        extensions.extend_from_slice(
            b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n",
        );
    }
    let many = (0..100).fold(String::new(), |all, n| all + &format!("X-{n}: x\r\n"));
    let long = format!("X-Long: {}", "x".repeat(40_000));
    // (name, delivery, request, statuses that are right)
    let cases: Vec<(&str, &str, Vec<u8>, &[u16])> = vec![
        (
            "declared one byte over",
            "over-head",
            framed("over-head", &format!("Content-Length: {}", CAP + 1)).into(),
            &[413],
        ),
        (
            "sent one byte over",
            "over",
            webhook("/hooks/github/main", "over", &[(SIGNATURE, &over_signature)], &over),
            &[413],
        ),
        (
            "chunked, one byte over",
            "over-chunked",
            chunked("over-chunked", &over_signature, &[&full, b" "], true),
            &[413],
        ),
        ("chunked without an end", "endless", chunked("endless", &over_signature, &endless, false), &[413]),
        ("chunk extensions", "ext", extensions, &[400, 401, 0]),
        ("declared far over", "huge", framed("huge", "Content-Length: 9999999999999").into(), &[413]),
        (
            "length that overflows",
            "overflow",
            framed("overflow", "Content-Length: 99999999999999999999999").into(),
            &[400],
        ),
        ("negative length", "negative", framed("negative", "Content-Length: -1").into(), &[400]),
        ("length with a plus sign", "plus", framed("plus", "Content-Length: +2").into(), &[400]),
        (
            "two lengths that differ",
            "two",
            framed("two", "Content-Length: 2\r\nContent-Length: 3").into(),
            &[400],
        ),
        (
            "length and chunked",
            "cl-te",
            (framed("cl-te", "Content-Length: 2\r\nTransfer-Encoding: chunked") + "2\r\n{}\r\n0\r\n\r\n")
                .into(),
            &[400],
        ),
        (
            "chunked and length",
            "te-cl",
            (framed("te-cl", "Transfer-Encoding: chunked\r\nContent-Length: 2") + "2\r\n{}\r\n0\r\n\r\n")
                .into(),
            &[400],
        ),
        ("another transfer encoding", "te-gzip", framed("te-gzip", "Transfer-Encoding: gzip").into(), &[400]),
        (
            "empty",
            "empty",
            webhook("/hooks/github/main", "empty", &[(SIGNATURE, &sign(SECRET.as_bytes(), b""))], b""),
            &[400],
        ),
        ("gzip", "gzip", with("Content-Encoding", "gzip")("gzip"), &[415]),
        ("zstd", "zstd", with("Content-Encoding", "zstd")("zstd"), &[415]),
        ("identity", "identity", with("Content-Encoding", "identity")("identity"), &[415]),
        (
            "multipart",
            "multipart",
            kind("Content-Type: multipart/form-data; boundary=x\r\n", "multipart"),
            &[415],
        ),
        ("text", "text", kind("Content-Type: text/plain\r\n", "text"), &[415]),
        ("no content type", "untyped", kind("", "untyped"), &[415]),
        ("one header more (control)", "many", with("X-A", "x")("many"), &[202]),
        ("40 kB header", "long", framed("long", &long).into(), &[431]),
        ("101 headers", "many-headers", framed("many-headers", many.trim_end()).into(), &[431]),
        (
            "more than declared",
            "lie-long",
            [framed("lie-long", "Content-Length: 2").as_bytes(), b"{} and more"].concat(),
            &[202],
        ),
    ];
    let mut failed = 0;
    for (name, delivery, request, right) in &cases {
        let started = Instant::now();
        let answer = raw(web.hooks, request).await;
        let stored = web.is_stored(delivery).await;
        let fine = right.contains(&answer.status) && stored == (answer.status == 202);
        if !fine || started.elapsed() > Duration::from_secs(8) {
            eprintln!("{name}: {answer:?}, stored {stored}, {:?}", started.elapsed());
            failed += 1;
        }
    }
    let mut count = cases.len();
    // Less than declared: the sender goes away.
    {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(web.hooks).await.unwrap();
        stream.write_all(framed("lie-short", "Content-Length: 100").as_bytes()).await.unwrap();
        stream.write_all(b"{}").await.unwrap();
        drop(stream);
    }
    // The cap itself is fine.
    let answer =
        raw(web.hooks, webhook("/hooks/github/main", "full", &[(SIGNATURE, &full_signature)], &full)).await;
    failed += usize::from(answer.status != 202) + usize::from(web.is_stored("lie-short").await);
    count += 2;
    // A hundred of the largest at once, with a wrong signature: memory stays bounded, each is answered.
    let request = Arc::new(webhook("/hooks/github/main", "flood", &[(SIGNATURE, &small)], &full));
    let before = rss();
    let flood: Vec<_> = (0..100)
        .map(|_| {
            let request = Arc::clone(&request);
            let hooks = web.hooks;
            tokio::spawn(async move { raw(hooks, request.as_slice()).await.status })
        })
        .collect();
    let mut peak = before;
    while !flood.iter().all(tokio::task::JoinHandle::is_finished) {
        peak = peak.max(rss());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut statuses = BTreeMap::new();
    for one in flood {
        *statuses.entry(one.await.unwrap()).or_insert(0) += 1;
    }
    let grown = peak.saturating_sub(before) >> 20;
    println!("FIGURE hooks_flood bodies=100 bytes_each={CAP} grown_mib={grown} statuses={statuses:?}");
    failed += usize::from(grown > 300) + usize::from(!statuses.keys().all(|s| [401, 408, 503].contains(s)));
    count += 1;
    println!("SEC S02 cases={count} failed={failed}");
    assert_eq!(failed, 0);
}

/// Resident memory of this process in bytes.
fn rss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap() * 4096
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there() {
    let web = Web::start().await;
    let right = sign(SECRET.as_bytes(), BODY);
    let to = |path: &str| webhook(path, "lost", &[(SIGNATURE, &right)], BODY);
    for path in [
        "/hooks/github/none",
        "/hooks/gitlab/main",
        "/hooks/github/main/",
        "/",
        "/hooks/github/MAIN",
        "/hooks//main",
    ] {
        let answer = raw(web.hooks, to(path)).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = String::from_utf8(to("/hooks/github/main")).unwrap().replace("POST", method);
        let answer = raw(web.hooks, request).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: POST"), "{}", answer.head);
    }
    assert!(!web.is_stored("lost").await);
    let health = raw(web.hooks, "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn a_ping_says_that_the_hook_is_healthy() {
    let web = Web::start().await;
    let body = br#"{"zen":"Keep it logically awesome."}"#;
    let request = webhook("/hooks/github/main", "ping", &[(SIGNATURE, &sign(SECRET.as_bytes(), body))], body);
    let request = String::from_utf8(request).unwrap().replace("X-GitHub-Event: push", "X-GitHub-Event: ping");
    let answer = raw(web.hooks, request).await;
    assert_eq!(answer.status, 202);
    assert!(answer.body.contains("healthy"), "{}", answer.body);
    assert!(web.is_stored("ping").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_what_is_replayed_has_no_second_effect() {
    let web = Web::start().await;
    let mut failed = 0;
    let mut count = 0;
    let mut expect = |name: &str, got: u16, right: u16| {
        count += 1;
        if got != right {
            eprintln!("{name}: {got}, not {right}");
            failed += 1;
        }
    };
    expect("first", signed(&web, "replay-1", BODY).await.status, 202);
    expect("same id, same body", signed(&web, "replay-1", BODY).await.status, 200);
    expect("same id, other body", signed(&web, "replay-1", b"{}").await.status, 200);
    let row = web.place.store.find_delivery("replay-1").await.unwrap().unwrap();
    let kept = web.place.store.delivery_body(&row.id).await.unwrap().unwrap();
    expect("the first body is kept", u16::from(kept == BODY), 1);
    expect("new id, same body and signature", signed(&web, "replay-2", BODY).await.status, 202);
    expect(
        "an id used before a wrong signature",
        send(&web, "replay-3", &[(SIGNATURE, "sha256=00")], BODY).await.status,
        401,
    );
    expect("is not taken by it", signed(&web, "replay-3", BODY).await.status, 202);
    expect("128 characters", signed(&web, &"a".repeat(128), BODY).await.status, 202);
    for id in [&"a".repeat(129), &"a".repeat(10_240), "' OR 1=1 --", "a b", "a\u{e9}", "../../x", "a;b", ""] {
        expect("an id that is none", signed(&web, id, BODY).await.status, 400);
    }
    let right = sign(SECRET.as_bytes(), BODY);
    let folded = webhook("/hooks/github/main", "a\r\n b", &[(SIGNATURE, &right)], BODY);
    expect("a folded id", raw(web.hooks, folded).await.status, 400);
    let two = webhook("/hooks/github/main", "a", &[(SIGNATURE, &right), ("X-GitHub-Delivery", "b")], BODY);
    expect("two ids", raw(web.hooks, two).await.status, 400);
    // A flood of new ids over a few connections.
    let client = web.http.clone();
    let flood: Vec<_> = (0..8)
        .map(|sender| {
            let (client, hooks, right) = (client.clone(), web.hooks, right.clone());
            tokio::spawn(async move {
                let mut accepted = 0;
                for n in 0..250 {
                    let sent = client
                        .post(format!("http://{hooks}/hooks/github/main"))
                        .header("content-type", "application/json")
                        .header("x-github-event", "push")
                        .header("x-github-delivery", format!("flood-{sender}-{n}"))
                        .header("x-hub-signature-256", &right)
                        .body(BODY)
                        .send()
                        .await;
                    accepted += u16::from(sent.unwrap().status() == 202);
                }
                accepted
            })
        })
        .collect();
    let mut accepted = 0;
    for sender in flood {
        accepted += sender.await.unwrap();
    }
    expect("a flood of ids", accepted, 2000);
    println!("SEC S05 cases={count} failed={failed}");
    assert_eq!(failed, 0);
    let metrics = web.app.telemetry.encode();
    assert!(metrics.contains(r#"outcome="seen_other_body"} 1"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_delivery_sent_a_hundred_times_at_once_is_stored_once() {
    let web = Web::start().await;
    let request =
        Arc::new(webhook("/hooks/github/main", "once", &[(SIGNATURE, &sign(SECRET.as_bytes(), BODY))], BODY));
    let all: Vec<_> = (0..100)
        .map(|_| {
            let (request, hooks) = (Arc::clone(&request), web.hooks);
            tokio::spawn(async move { raw(hooks, request.as_slice()).await.status })
        })
        .collect();
    let mut statuses = BTreeMap::new();
    for one in all {
        *statuses.entry(one.await.unwrap()).or_insert(0) += 1;
    }
    println!(
        "FIGURE delivery_sent_at_once sent=100 stored={:?} seen_before={:?}",
        statuses.get(&202),
        statuses.get(&200)
    );
    assert_eq!(statuses, BTreeMap::from([(200, 99), (202, 1)]));
    let again = fixture::delivery("once", BODY);
    assert_eq!(web.place.store.deliver(again).await.unwrap(), Delivered::Seen { same_body: true });
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_payload_of_github_is_accepted() {
    let examples = examples();
    let dir = tempfile::tempdir().unwrap();
    let mut hooks: BTreeMap<(&str, String), (String, String)> = BTreeMap::new();
    for example in &examples {
        let (kind, name) = hook_of(&example.payload);
        let number = hooks.len();
        hooks
            .entry((kind, name.to_owned()))
            .or_insert_with(|| (format!("own-{number}"), format!("the secret of hook number {number}")));
    }
    let mut extra = String::new();
    for ((kind, name), (id, secret)) in &hooks {
        let file = dir.path().join(id);
        std::fs::write(&file, secret).unwrap();
        extra += &format!(
            "[[forge.recorded.hook]]\nid = {id:?}\nsecrets = [{{ file = {file:?} }}]\n{kind} = {name:?}\n"
        );
    }
    let token = dir.path().join("token");
    std::fs::write(&token, "t-of-the-recorded-forge").unwrap();
    let head = format!("[forge.recorded]\nkind = \"github\"\ntoken = {{ file = {token:?} }}\n");
    let web = Web::with("http://127.0.0.1:9", &(head + &extra)).await;
    let client = web.http.clone();
    let mut statuses = BTreeMap::new();
    for (number, example) in examples.iter().enumerate() {
        let (kind, name) = hook_of(&example.payload);
        let (id, secret) = &hooks[&(kind, name.to_owned())];
        let body = serde_json::to_vec(&example.payload).unwrap();
        let answer = client
            .post(format!("http://{}/hooks/github/{id}", web.hooks))
            .header("content-type", "application/json")
            .header("x-github-event", &example.event)
            .header("x-github-delivery", format!("recorded-{number}"))
            .header("x-hub-signature-256", sign(secret.as_bytes(), &body))
            .body(body)
            .send()
            .await
            .unwrap();
        *statuses.entry(answer.status().as_u16()).or_insert(0) += 1;
    }
    let failures: usize = statuses.iter().filter(|(s, _)| **s >= 500).map(|(_, n)| n).sum();
    println!(
        "FIGURE octokit_posted files={} hooks={} statuses={statuses:?} 5xx={failures}",
        examples.len(),
        hooks.len()
    );
    assert_eq!(statuses, BTreeMap::from([(202, examples.len())]));
}

/// What the hook of a recorded payload would be bound to: its repository, else its owner.
fn hook_of(payload: &serde_json::Value) -> (&'static str, &str) {
    let text = |at: &str| payload.pointer(at).and_then(|v| v.as_str());
    if let Some(name) = text("/repository/full_name").filter(|name| name.contains('/')) {
        return ("repository", name);
    }
    let owner = ["/organization/login", "/installation/account/login", "/sender/login"]
        .iter()
        .find_map(|at| text(at));
    ("owner", owner.unwrap_or("nobody"))
}
