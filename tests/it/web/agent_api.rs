//! The agents' calls: each attempt is fenced to itself (G5), every log byte is stored once and in order (G9), secrets are served
//! once and hidden everywhere else.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use trainyard::http::logs;
use trainyard::model::plan::{Need, SecretRef};
use trainyard::model::{AttemptState, AttemptUid, EndClass, RunId, RunState, StepState};
use trainyard::store::attempts::Placement;
use trainyard::store::runs::{NewRun, StepMove};

use super::{STEP_SECRET, Web};
use crate::store::fixture::{new_run, placement, sha};

const BOOT: &str = "the bootstrap token";
const NONCE: &str = "0123456789abcdef";

/// An attempt's agent as far as the daemon can tell.
pub struct Agent<'a> {
    pub web: &'a Web,
    pub uid: AttemptUid,
    pub token: String,
    pub spec: Value,
}

/// Makes the step at `position` ready, places it, and returns its attempt.
pub async fn place(web: &Web, run: &RunId, position: usize) -> AttemptUid {
    let now = web.app.clock.now_ms();
    let view = web.place.view(run).await;
    let mut change = web.place.change(run).await;
    if view.run.state == RunState::Queued {
        change.to = Some((RunState::Running, String::new()));
    }
    change.steps = vec![StepMove {
        step: view.steps[position].id.clone(),
        to: StepState::Ready,
        reason: String::new(),
        outputs: None,
    }];
    web.place.store.apply(change, now).await.unwrap();
    let ready = web.place.store.ready_steps().await.unwrap();
    let ready = ready.iter().find(|r| r.run_id == *run).unwrap();
    let hash = hex::encode(Sha256::digest(BOOT));
    let one = Placement { bootstrap_hash: hash, uid: AttemptUid::generate(now), ..placement(ready) };
    web.place.store.place(vec![one], now).await.unwrap().remove(0)
}

pub async fn run_of(web: &Web, change: impl FnOnce(&mut NewRun)) -> RunId {
    let repo = web.place.repo().await;
    let mut new = new_run(&repo, &sha('a'), RunState::Queued);
    change(&mut new);
    web.place.runs(vec![new]).await.remove(0)
}

pub async fn call(
    web: &Web,
    uid: &AttemptUid,
    token: &str,
    method: Method,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> (StatusCode, Vec<u8>) {
    let separator = if path.contains('?') { '&' } else { '?' };
    let url = format!("http://{}/agent/v1/attempts/{uid}/{path}{separator}protocol=1&rank=0", web.agent);
    let answer = web.http.request(method, url).bearer_auth(token).body(body).send().await.unwrap();
    (answer.status(), answer.bytes().await.unwrap().to_vec())
}

pub async fn start_with(web: &Web, uid: &AttemptUid, boot: &str, nonce: &str) -> (StatusCode, Value) {
    let body = json!({ "nonce": nonce, "version": "test", "pid": 1, "pid_started": 1 }).to_string();
    let (status, body) = call(web, uid, boot, Method::POST, "start", body).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

impl<'a> Agent<'a> {
    pub async fn start(web: &'a Web, run: &RunId, position: usize) -> Self {
        let uid = place(web, run, position).await;
        let (status, started) = start_with(web, &uid, BOOT, NONCE).await;
        assert_eq!(status, 200, "{started}");
        let token = started["token"].as_str().unwrap().to_owned();
        Self { web, uid, token, spec: started["spec"].clone() }
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, Vec<u8>) {
        call(self.web, &self.uid, &self.token, method, path, body).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let (status, body) = self.call(Method::POST, path, body.to_string()).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn log(&self, offset: usize, bytes: &[u8]) -> (u16, Value) {
        let (status, body) = self.call(Method::POST, &format!("log?offset={offset}"), bytes.to_vec()).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn stored_log(&self) -> Vec<u8> {
        let mut text = Vec::new();
        loop {
            let more =
                logs::read(&self.web.app, &(&self.uid).into(), text.len() as i64, 100_000).await.unwrap();
            if more.is_empty() {
                return text;
            }
            text.extend_from_slice(&more);
        }
    }

    pub async fn artifact(&self, path: &str, bytes: &[u8]) -> StatusCode {
        let digest = hex::encode(Sha256::digest(bytes));
        self.put(path, &digest, bytes).await
    }

    async fn put(&self, path: &str, digest: &str, bytes: &[u8]) -> StatusCode {
        let path = path.bytes().fold(String::new(), |all, b| all + &format!("%{b:02x}"));
        self.call(Method::PUT, &format!("artifact?path={path}&sha256={digest}&executable=1"), bytes.to_vec())
            .await
            .0
    }

    async fn finish(&self, class: EndClass) -> StatusCode {
        let said = json!({ "class": class, "exit_code": 0, "reason": format!("it said {STEP_SECRET}"),
            "outputs": {"token": STEP_SECRET}, "notes": [], "log_lost_bytes": 0 });
        self.post("finish", said).await.0
    }
}

#[tokio::test]
async fn a_start_binds_the_bootstrap_token_to_one_agent() {
    let web = Web::start().await;
    let run = run_of(&web, |_| {}).await;
    let uid = place(&web, &run, 0).await;
    assert_eq!(start_with(&web, &uid, "another token", NONCE).await.0, 401);
    assert_eq!(start_with(&web, &uid, BOOT, "short").await.0, 400);
    let (status, first) = start_with(&web, &uid, BOOT, NONCE).await;
    assert_eq!(status, 200);
    let (status, again) = start_with(&web, &uid, BOOT, NONCE).await;
    assert_eq!((status, &again), (StatusCode::OK, &first), "a repeat gets the same answer");
    assert_eq!(
        start_with(&web, &uid, BOOT, "fedcba9876543210").await.0,
        401,
        "another agent with the same token"
    );
    let token = first["token"].as_str().unwrap();
    assert_eq!(call(&web, &uid, token, Method::POST, "heartbeat", r#"{"rss_bytes":1}"#).await.0, 200);
    assert_eq!(
        start_with(&web, &uid, BOOT, NONCE).await.0,
        401,
        "no secret is served once the agent was heard"
    );
}

#[tokio::test]
async fn a_token_opens_its_own_attempt_alone() {
    let web = Web::start().await;
    let run = run_of(&web, |_| {}).await;
    let other = run_of(&web, |new| new.head_sha = sha('c')).await;
    let one = Agent::start(&web, &run, 0).await;
    let two = Agent::start(&web, &other, 0).await;
    assert_ne!(one.token, two.token);
    let calls: [(Method, &str, &str); 8] = [
        (Method::POST, "log?offset=0", "text"),
        (Method::POST, "metrics", r#"{"first_seq":1,"points":[],"params":{}}"#),
        (Method::PUT, "artifact?path=a&sha256=00", "x"),
        (Method::GET, "artifact/x?path=a", ""),
        (Method::POST, "heartbeat", r#"{"rss_bytes":1}"#),
        (Method::POST, "finish", "{}"),
        (Method::GET, "git/info/refs?service=git-upload-pack", ""),
        (Method::POST, "git/git-upload-pack", "0000"),
    ];
    let mut failed = 0;
    let mut count = 0;
    for (method, path, body) in calls {
        for token in
            [&two.token, BOOT, "", &one.token[..63], &one.token.to_uppercase(), &format!("{}0", one.token)]
        {
            let (status, _) = call(&web, &one.uid, token, method.clone(), path, body).await;
            count += 1;
            if status != 401 {
                eprintln!("{method} {path} with {token:?}: {status}");
                failed += 1;
            }
        }
    }
    let nobody = AttemptUid::from_text("no-such-attempt");
    failed += usize::from(call(&web, &nobody, &one.token, Method::POST, "heartbeat", "{}").await.0 != 401);
    println!("FIGURE agent_tokens cases={} failed={failed}", count + 1);
    assert_eq!(failed, 0);
    assert_eq!(web.place.store.attempt(&one.uid).await.unwrap().unwrap().state, AttemptState::Running);
    assert_eq!(
        call(&web, &one.uid, &one.token, Method::POST, "heartbeat?protocol=2", r#"{"rss_bytes":1}"#).await.0,
        400
    );
}

#[tokio::test]
async fn secrets_go_to_trusted_runs_alone() {
    let web = Web::start().await;
    let wants = |new: &mut NewRun| {
        new.plan.steps[0].secrets =
            vec![SecretRef { name: "HF_TOKEN".into(), env: "HUGGINGFACE_TOKEN".into() }];
        new.plan.steps[0].env.insert("EPOCHS".into(), "3".into());
        new.plan.steps[0].member.insert("seed".into(), "7".into());
        new.variables.insert("CI_REF".into(), "refs/heads/main".into());
    };
    let trusted = Agent::start(&web, &run_of(&web, wants).await, 0).await;
    assert_eq!(trusted.spec["secrets"], json!({ "HUGGINGFACE_TOKEN": STEP_SECRET }));
    let env = &trusted.spec["env"];
    for (name, value) in [
        ("EPOCHS", "3"),
        ("SEED", "7"),
        ("TRAINYARD_STEP", "test"),
        ("TRAINYARD_REPO", "ada/churn"),
        ("TRAINYARD_REF", "refs/heads/main"),
        ("CI_COMMIT_BRANCH", "main"),
        ("CI_COMMIT_SHA", sha('a').as_str()),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    let untrusted = run_of(&web, |new| {
        wants(new);
        new.head_sha = sha('d');
        new.trusted = false;
    });
    let untrusted = Agent::start(&web, &untrusted.await, 0).await;
    assert_eq!(untrusted.spec["secrets"], json!({}));
    assert!(!untrusted.spec.to_string().contains(STEP_SECRET));
}

#[tokio::test]
async fn a_secret_that_is_not_configured_ends_the_attempt_with_a_reason() {
    let web = Web::start().await;
    let run = run_of(&web, |new| {
        new.plan.steps[0].secrets = vec![SecretRef { name: "MISSING".into(), env: "MISSING".into() }];
    });
    let uid = place(&web, &run.await, 0).await;
    assert_eq!(start_with(&web, &uid, BOOT, NONCE).await.0, 410);
    let row = web.place.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.class), (AttemptState::Ended, Some(EndClass::Failed)));
    assert!(row.reason.contains("\"MISSING\"") && row.reason.contains("ada/churn"), "{}", row.reason);
}

#[tokio::test]
async fn a_log_is_appended_at_its_offset_or_not_at_all() {
    let web = Web::with("http://127.0.0.1:9", "limits.log_quota_bytes = 20").await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    assert_eq!(agent.log(0, b"hello ").await, (200, json!({ "offset": 6, "full": false })));
    assert_eq!(agent.log(0, b"hello ").await, (409, json!({ "offset": 6, "full": false })), "a repeat");
    assert_eq!(agent.log(7, b"world").await, (409, json!({ "offset": 6, "full": false })), "a gap");
    assert_eq!(agent.log(6, b"").await, (200, json!({ "offset": 6, "full": false })));
    assert_eq!(
        agent.log(6, b"world, a long line").await,
        (200, json!({ "offset": 20, "full": true })),
        "cut at the quota"
    );
    assert_eq!(agent.log(20, b"more").await, (200, json!({ "offset": 20, "full": true })));
    assert_eq!(agent.stored_log().await, b"hello world, a long ");
    let (status, _) = agent.call(Method::POST, "log?offset=20", vec![0; (4 << 20) + 1]).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_secret_in_a_log_is_overwritten_also_across_chunks() {
    let web = Web::start().await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let text = format!("one {STEP_SECRET} two {STEP_SECRET} three");
    let cut = text.rfind(STEP_SECRET).unwrap() + 9;
    agent.log(0, &text.as_bytes()[..cut]).await;
    agent.log(cut, &text.as_bytes()[cut..]).await;
    let stars = "*".repeat(STEP_SECRET.len());
    let whole = format!("one {stars} two {stars} three").into_bytes();
    assert_eq!(agent.stored_log().await, whole, "of the length that was sent, and over the cut");
    assert_eq!(web.place.store.log_segments(&agent.uid, 0, 10).await.unwrap().len(), 2);
    assert_eq!(agent.finish(EndClass::Succeeded).await, 204);
    let mut segments = 2;
    for _ in 0..500 {
        segments = web.place.store.log_segments(&agent.uid, 0, 10).await.unwrap().len();
        if segments == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((segments, agent.stored_log().await), (1, whole), "compacted");
    let row = web.place.store.attempt(&agent.uid).await.unwrap().unwrap();
    assert_eq!(row.reason, "it said ***");
}

#[tokio::test]
async fn a_chunk_that_comes_early_waits_for_the_one_before_it() {
    let web = Web::start().await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let text = format!("a {STEP_SECRET} b");
    let (first, second) = text.as_bytes().split_at(10);
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        agent.log(0, first).await
    };
    let (late, early) = tokio::join!(late, agent.log(first.len(), second));
    assert_eq!(late, (200, json!({ "offset": first.len(), "full": false })));
    assert_eq!(early, (200, json!({ "offset": text.len(), "full": false })));
    let stars = "*".repeat(STEP_SECRET.len());
    assert_eq!(agent.stored_log().await, format!("a {stars} b").into_bytes(), "masked over the cut");
    // Nobody sends what is missing: the sender learns it after a while, and at once where it cannot be on its way.
    let end = text.len();
    let began = std::time::Instant::now();
    assert_eq!(agent.log(end + (4 << 20) + 1, b"far").await, (409, json!({ "offset": end, "full": false })));
    assert!(began.elapsed().as_millis() < 1500, "{:?}", began.elapsed());
    assert_eq!(agent.log(end + 1, b"near").await, (409, json!({ "offset": end, "full": false })));
    assert_eq!(agent.stored_log().await.len(), end);
}

/// While a chunk is being stored the next one is masked and written, but never committed before it, nor masked by bytes that
/// were not stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_chunk_is_written_while_one_is_being_stored() {
    let web = Web::start().await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let (app, of) = (&web.app, trainyard::model::AttemptRank::from(&agent.uid));
    let blobs = || async {
        use futures_util::TryStreamExt as _;
        let all: Vec<_> = app.blobs.list().try_collect().await.unwrap();
        all.into_iter().map(|blob| blob.key).filter(|key| key.starts_with("logs/")).collect::<Vec<_>>()
    };
    let until = |count: usize| async move {
        for _ in 0..500 {
            if blobs().await.len() == count {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        false
    };
    let tail = |text: &str| Some(bytes::Bytes::from(text.to_owned()));
    let text = format!("first\nsecond {STEP_SECRET}\nthird {STEP_SECRET}\n");
    let bytes = text.as_bytes();
    let third = text.find("third").unwrap();

    // The one before it fails: what was written ahead is removed, and the chunk waits for the store.
    let turn = app.log_turns.take(&of, 6, tail("first\n"));
    let (early, ()) = tokio::join!(agent.log(6, &bytes[6..third]), async {
        assert!(until(1).await, "written ahead");
        assert_eq!(web.place.store.log_segments(&agent.uid, 0, 10).await.unwrap().len(), 0);
        drop(turn);
        assert!(until(0).await, "removed");
        assert_eq!(agent.log(0, &bytes[..6]).await.0, 200);
    });
    assert_eq!(early, (200, json!({ "offset": third, "full": false })));

    // It is stored: what was written ahead is taken as it is.
    let cut = text.rfind(STEP_SECRET).unwrap() + 5;
    let turn = app.log_turns.take(&of, third as i64 + 1, tail("t"));
    let (early, ahead) = tokio::join!(agent.log(third + 1, &bytes[third + 1..third + 3]), async {
        assert!(until(3).await, "written ahead");
        let known = web.place.store.log_segments(&agent.uid, 0, 10).await.unwrap();
        let ahead = blobs().await.into_iter().find(|key| known.iter().all(|s| s.blob_key != *key)).unwrap();
        let append = logs::append(app, None, &of, third as i64, &[bytes::Bytes::from_static(b"t")]).await;
        append.unwrap();
        turn.commit();
        ahead
    });
    assert_eq!(early, (200, json!({ "offset": third + 3, "full": false })));
    let segments = web.place.store.log_segments(&agent.uid, 0, 10).await.unwrap();
    assert_eq!(segments.last().unwrap().blob_key, ahead);

    // A secret begins in the one before it, which is overwritten in its turn: nothing is written ahead.
    let turn = app.log_turns.take(&of, cut as i64, tail(&text[third + 3..cut]));
    let (late, early) = tokio::join!(
        async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert_eq!(blobs().await.len(), segments.len(), "not written ahead");
            drop(turn);
            agent.log(third + 3, &bytes[third + 3..cut]).await
        },
        agent.log(cut, &bytes[cut..])
    );
    assert_eq!((late.0, early.0), (200, 200));
    let masked = text.replace(STEP_SECRET, &"*".repeat(STEP_SECRET.len()));
    assert_eq!(agent.stored_log().await, masked.as_bytes());

    // As an agent sends it: two chunks under way, cut anywhere.
    let mut written = masked.clone();
    let mut sent = text.len();
    let mut random = rand::random::<u64>() | 1;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let more = format!("{} {STEP_SECRET}", "x".repeat(37)).repeat(4000);
    written += &more.replace(STEP_SECRET, &"*".repeat(STEP_SECRET.len()));
    let (start, more) = (sent, more.as_bytes());
    while sent < start + more.len() {
        let one = &more[sent - start..more.len().min(sent - start + 1 + next(20_000))];
        let two =
            &more[sent - start + one.len()..more.len().min(sent - start + one.len() + 1 + next(20_000))];
        let (a, b) = tokio::join!(agent.log(sent, one), agent.log(sent + one.len(), two));
        assert_eq!((a.0, b.0), (200, 200), "{a:?} {b:?}");
        sent += one.len() + two.len();
    }
    assert!(agent.stored_log().await == written.as_bytes(), "stored is what was written, masked");
    let rows = web.place.store.log_segments(&agent.uid, 0, 10_000).await.unwrap().len();
    assert_eq!(blobs().await.len(), rows, "no blob without its row");
}

/// G9: connections cut at random places of the request; the agent then goes on from what the daemon says it has.
#[tokio::test(flavor = "multi_thread")]
async fn stored_equals_written_over_a_hundred_cut_connections() {
    let web = Web::start().await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = seed | 1;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let written: Vec<u8> = (0..2_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut at, mut cuts, mut calls) = (0, 0, 0);
    while at < written.len() {
        let chunk = &written[at..written.len().min(at + 1 + next(15_000))];
        if cuts < 100 && next(2) == 0 {
            let head = format!(
                "POST /agent/v1/attempts/{}/log?offset={at}&protocol=1&rank=0 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: {}\r\n\r\n",
                agent.uid,
                agent.token,
                chunk.len()
            );
            let request = [head.as_bytes(), chunk].concat();
            // One cut in three comes after the whole request: the answer is lost.
            let sent = if next(3) == 0 { request.len() } else { next(request.len()) };
            let mut stream = TcpStream::connect(web.agent).await.unwrap();
            let _ = stream.write_all(&request[..sent]).await;
            drop(stream);
            cuts += 1;
        }
        let (status, answer) = agent.log(at, chunk).await;
        assert!(matches!(status, 200 | 409), "{status} {answer}");
        at = answer["offset"].as_u64().unwrap() as usize;
        calls += 1;
    }
    let stored = agent.stored_log().await;
    let same = stored == written;
    println!(
        "FAULT F31 cuts={cuts} calls={calls} written={} stored={} equal={same}",
        written.len(),
        stored.len()
    );
    assert!(cuts == 100 && same, "{cuts} cuts");
}

#[tokio::test]
async fn metrics_are_stored_once_whatever_is_repeated() {
    let web = Web::start().await;
    let run = run_of(&web, |_| {}).await;
    let agent = Agent::start(&web, &run, 0).await;
    let points = |values: &[Value]| -> Vec<Value> {
        values.iter().map(|v| json!({ "name": "loss", "value": v, "step": 1, "at_ms": 1 })).collect()
    };
    let batch = |first: i64, values: &[Value]| json!({ "first_seq": first, "points": points(values), "params": {"lr": STEP_SECRET} });
    let stored = |(status, body): (StatusCode, Value)| (status.as_u16(), body["seq"].clone());
    assert_eq!(stored(agent.post("metrics", batch(1, &[json!(1.5), json!("nan")])).await), (200, json!(2)));
    assert_eq!(
        stored(agent.post("metrics", batch(1, &[json!(1.5), json!("nan"), json!(0.5)])).await),
        (200, json!(3))
    );
    assert_eq!(
        stored(agent.post("metrics", batch(9, &[json!(1)])).await),
        (200, json!(3)),
        "a gap is not stored"
    );
    assert_eq!(agent.post("metrics", batch(0, &[])).await.0, 400);
    assert_eq!(agent.post("metrics", json!({ "first_seq": "x" })).await.0, 400);
    let all = web.place.store.run_metrics(&run).await.unwrap();
    let values: Vec<String> = all.iter().map(|m| m.point.value.to_string()).collect();
    assert_eq!(values, ["1.5", "NaN", "0.5"]);
    let params = web.place.store.run_params(&run).await.unwrap();
    assert_eq!(params[0].2, "***");
}

#[tokio::test]
async fn artifacts_reach_the_steps_that_need_them() {
    let web = Web::start().await;
    let run = run_of(&web, |new| {
        new.plan.steps[1].needs = vec![Need { step: "test".into(), into: Some("seeds/7".into()) }];
    });
    let run = run.await;
    let producer = Agent::start(&web, &run, 0).await;
    let model = vec![7u8; 3_000_000];
    assert_eq!(producer.artifact("out/model.bin", &model).await, 204);
    assert_eq!(producer.artifact("out/model.bin", &model).await, 204, "a repeat");
    assert_eq!(producer.put("out/wrong.bin", &"0".repeat(64), b"x").await, 422);
    assert_eq!(producer.put("out/wrong.bin", "short", b"x").await, 400);
    let unsafe_paths =
        ["../x", "/etc/passwd", "a/../b", ".git/config", "a\0b", "a\\b", "", "a\nb", STEP_SECRET];
    for path in unsafe_paths {
        assert_eq!(producer.artifact(path, b"x").await, 422, "{path:?}");
    }
    assert_eq!(producer.finish(EndClass::Succeeded).await, 204);
    assert_eq!(producer.artifact("late", b"x").await, 410);

    let mut change = web.place.change(&run).await;
    change.steps = vec![StepMove {
        step: web.place.view(&run).await.steps[0].id.clone(),
        to: StepState::Succeeded,
        reason: String::new(),
        outputs: None,
    }];
    web.place.store.apply(change, web.app.clock.now_ms()).await.unwrap();
    let consumer = Agent::start(&web, &run, 1).await;
    let digest = hex::encode(Sha256::digest(&model));
    assert_eq!(
        consumer.spec["inputs"],
        json!([{ "attempt": producer.uid, "path": "out/model.bin", "place": "seeds/7/out/model.bin", "bytes": 3_000_000,
            "sha256": digest, "executable": true }])
    );
    let (status, bytes) =
        consumer.call(Method::GET, &format!("artifact/{}?path=out/model.bin", producer.uid), "").await;
    assert_eq!((status.as_u16(), bytes == model), (200, true));
    for path in [
        format!("artifact/{}?path=out/other", producer.uid),
        format!("artifact/{}?path=out/model.bin", consumer.uid),
    ] {
        assert_eq!(consumer.call(Method::GET, &path, "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn an_ended_attempt_takes_nothing_more() {
    let web = Web::start().await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    assert_eq!(agent.finish(EndClass::Failed).await, 204);
    assert_eq!(agent.finish(EndClass::Succeeded).await, 204, "a repeat is answered, and changes nothing");
    let row = web.place.store.attempt(&agent.uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.class), (AttemptState::Ended, Some(EndClass::Failed)));
    assert_eq!(agent.log(0, b"x").await.0, 410);
    assert_eq!(agent.post("heartbeat", json!({ "rss_bytes": 1 })).await.0, 410);
    assert_eq!(agent.post("metrics", json!({ "first_seq": 1, "points": [], "params": {} })).await.0, 410);
    assert_eq!(start_with(&web, &agent.uid, BOOT, NONCE).await.0, 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_given_to_the_branches_that_it_is_for_and_its_absence_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "deploy-key-0815").unwrap();
    let extra = format!(
        "[[repository]]\nforge = \"github\"\nname = \"ada/branches\"\nsecrets.KEY.file = {:?}\n\
         secrets.KEY.branches = [\"main\", \"release/*\"]\n",
        file.display().to_string()
    );
    let web = Web::with("http://127.0.0.1:9", &extra).await;
    let repo = trainyard::model::RepoRef {
        forge_id: "branches".into(),
        name: trainyard::model::RepoName::parse("ada/branches").unwrap(),
        default_branch: "main".into(),
    };
    let repo = web.place.store.upsert_repo("github", &repo, 1).await.unwrap();
    let cases =
        [("main", 'a', true), ("release/2", 'b', true), ("feature", 'c', false), ("release/2/x", 'd', false)];
    for (branch, digit, granted) in cases {
        let run = run_of(&web, |new| {
            new.repo_id = repo.clone();
            new.head_sha = sha(digit);
            new.branch = branch.into();
            new.concurrency = None;
            new.plan.steps[0].secrets = vec![SecretRef { name: "KEY".into(), env: "KEY".into() }];
        })
        .await;
        let uid = place(&web, &run, 0).await;
        let (status, started) = start_with(&web, &uid, BOOT, NONCE).await;
        if granted {
            assert_eq!(started["spec"]["secrets"], json!({ "KEY": "deploy-key-0815" }), "{branch}");
            continue;
        }
        assert_eq!(status, 410, "{branch}");
        let why = web.place.store.attempt(&uid).await.unwrap().unwrap().reason;
        let words = format!("for the branches `main`, `release/*` only, and this run is of `{branch}`");
        assert!(why.contains(&words) && !why.contains("0815"), "{why}");
    }
    println!("SEC secrets.branch cases={} failed=0", cases.len());
}

/// An agent that is gone without a word (G9): what it left is taken over once, masked and within the quota; what cannot be had is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_agent_is_gone_is_ended_with_what_it_left() {
    use std::io::Write as _;
    let web = Web::with("http://127.0.0.1:9", "limits.log_quota_bytes = 3000000").await;
    let agent = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let sent = format!("line 0\nline 1 {}", &STEP_SECRET[..4]);
    agent.log(0, sent.as_bytes()).await;
    let spool = |rest: &str| {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "{sent}{rest}").unwrap();
        file
    };
    // The step may have written into it what its agent would have masked.
    let rest = format!("{}\n{}x", &STEP_SECRET[4..], "y".repeat(2_000_000));
    let row = web.app.store.attempt(&agent.uid).await.unwrap().unwrap();
    for _ in 0..2 {
        let leader = vec![(&agent.uid).into()];
        trainyard::http::last_log::end(&web.app, &row, leader, Some(spool(&rest))).await.unwrap();
    }
    let text = String::from_utf8(agent.stored_log().await).unwrap();
    assert!(!text.contains(STEP_SECRET) && text.starts_with("line 0\nline 1 *"), "{}", &text[..80]);
    let (log, marker) = text.split_once("[trainyard]").unwrap();
    assert_eq!(log.len(), sent.len() + rest.len() + 1, "all of it, and a line feed before the marker");
    assert!(marker.contains("lay on its disk") && !marker.contains("[trainyard]"), "{marker}");

    // Without anything left, and with more than the quota.
    for (left, words, most) in [
        (None, "What it had not sent of the log is lost\n", 300),
        (Some("z".repeat(9_000_000)), "lay on its disk; what came after it is lost\n", 3_000_300),
    ] {
        let other =
            Agent::start(&web, &run_of(&web, |new| new.trigger_key = format!("manual:{most}")).await, 0)
                .await;
        other.log(0, b"begun").await;
        let row = web.app.store.attempt(&other.uid).await.unwrap().unwrap();
        let left = left.map(|rest| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "begun{rest}").unwrap();
            file
        });
        trainyard::http::last_log::end(&web.app, &row, vec![(&other.uid).into()], left).await.unwrap();
        let text = String::from_utf8(other.stored_log().await).unwrap();
        assert!(text.starts_with("begun") && text.ends_with(words) && text.len() < most, "{}", text.len());
    }
}
