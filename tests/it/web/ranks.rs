//! Attempts of several pods: each rank trades a bootstrap of its own for a token of its own, which speaks for that rank alone (G5).

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use trainyard::agent::protocol::rank_bootstrap;
use trainyard::http::logs;
use trainyard::model::{AttemptRank, AttemptState, AttemptUid, EndClass, RunId};
use trainyard::run::{bootstrap_hash, bootstrap_token};
use trainyard::store::attempts::Placement;
use trainyard::store::runs::StepMove;

use super::Web;
use super::agent_api::run_of;
use crate::store::fixture::{placement, sha};

/// An attempt of two pods, with the attempt's bootstrap token.
async fn two_pods(web: &Web, head: char) -> (RunId, AttemptUid, String) {
    let run = run_of(web, |new| {
        new.head_sha = sha(head);
        new.plan.steps[0].workers = 2;
    })
    .await;
    let now = web.app.clock.now_ms();
    let view = web.place.view(&run).await;
    let mut change = web.place.change(&run).await;
    change.to = Some((trainyard::model::RunState::Running, String::new()));
    change.steps = vec![StepMove {
        step: view.steps[0].id.clone(),
        to: trainyard::model::StepState::Ready,
        reason: String::new(),
        outputs: None,
    }];
    web.place.store.apply(change, now).await.unwrap();
    let ready = web.place.store.ready_steps().await.unwrap();
    let ready = ready.iter().find(|r| r.run_id == run).unwrap();
    let uid = AttemptUid::generate(now);
    let boot = bootstrap_token(&web.app.instance, &uid);
    let one = Placement { bootstrap_hash: bootstrap_hash(&boot), uid: uid.clone(), ..placement(ready) };
    web.place.store.place(vec![one], now).await.unwrap();
    (run, uid, boot)
}

async fn call(
    web: &Web,
    of: (&AttemptUid, u32),
    token: &str,
    method: Method,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> (StatusCode, Value) {
    let separator = if path.contains('?') { '&' } else { '?' };
    let url =
        format!("http://{}/agent/v1/attempts/{}/{path}{separator}protocol=1&rank={}", web.agent, of.0, of.1);
    let answer = web.http.request(method, url).bearer_auth(token).body(body).send().await.unwrap();
    let status = answer.status();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

async fn start(web: &Web, of: (&AttemptUid, u32), boot: &str, nonce: &str) -> (u16, Value) {
    let body = json!({ "nonce": nonce, "version": "test", "pid": 1, "pid_started": 1 }).to_string();
    let (status, answer) = call(web, of, boot, Method::POST, "start", body).await;
    (status.as_u16(), answer)
}

fn end(class: EndClass) -> String {
    json!({ "class": class, "exit_code": 0, "reason": "it said so", "outputs": {}, "notes": [], "log_lost_bytes": 0 })
        .to_string()
}

const NONCES: [&str; 3] = ["0123456789abcdef", "123456789abcdef0", "23456789abcdef01"];

#[tokio::test]
async fn each_rank_speaks_for_itself() {
    let web = Web::start().await;
    let (_, uid, boot) = two_pods(&web, 'a').await;
    let own = rank_bootstrap(&boot, 1);
    let mut wrong = Vec::new();
    let mut cases = 0;
    let mut check = |what: String, got: u16, want: u16| {
        cases += 1;
        if got != want {
            wrong.push(format!("{what}: {got}, not {want}"));
        }
    };
    // Bootstraps: one for each rank, once.
    for (what, rank, token, nonce, want) in [
        ("the attempt's own as rank 1", 1, &boot, NONCES[1], 401),
        ("that of rank 1 as the leader", 0, &own, NONCES[1], 401),
        ("that of rank 1 as rank 2", 2, &own, NONCES[1], 401),
        ("one of a rank that is not there", 2, &rank_bootstrap(&boot, 2), NONCES[2], 401),
        ("rank 1", 1, &own, NONCES[1], 200),
        ("rank 1 again", 1, &own, NONCES[1], 200),
        ("a second rank 1", 1, &own, NONCES[2], 401),
        ("the leader", 0, &boot, NONCES[0], 200),
        ("a second leader", 0, &boot, NONCES[2], 401),
    ] {
        check(what.into(), start(&web, (&uid, rank), token, nonce).await.0, want);
    }
    let token = |answer: &Value| answer["token"].as_str().unwrap().to_owned();
    let one = token(&start(&web, (&uid, 1), &own, NONCES[1]).await.1);
    let leader = token(&start(&web, (&uid, 0), &boot, NONCES[0]).await.1);
    assert_eq!(web.place.store.attempt(&uid).await.unwrap().unwrap().state, AttemptState::Running);

    // Rank 1's token in the leader's place, the leader's in rank 1's, and what only the leader may leave.
    let digest = hex::encode(Sha256::digest(b"x"));
    let artifact = format!("artifact?path=model.bin&sha256={digest}");
    let mark = format!("artifact?path=.trainyard/checkpoint.json&sha256={digest}");
    let cache = format!("cache?key=pip&sha256={digest}");
    let said = end(EndClass::Succeeded);
    for (method, path, body) in [
        (Method::POST, "log?offset=0", "text"),
        (Method::POST, "metrics", r#"{"first_seq":1,"points":[],"params":{}}"#),
        (Method::POST, "heartbeat", r#"{"rss_bytes":1}"#),
        (Method::POST, "finish", said.as_str()),
        (Method::PUT, artifact.as_str(), "x"),
        (Method::PUT, cache.as_str(), "x"),
    ] {
        for (token, as_rank) in [(&one, 0), (&leader, 1), (&one, 2), (&leader, 2)] {
            let (status, _) = call(&web, (&uid, as_rank), token, method.clone(), path, body.to_owned()).await;
            check(format!("{method} {path} as rank {as_rank}"), status.as_u16(), 403);
        }
    }
    for path in [&artifact, &mark, &cache] {
        let (status, _) = call(&web, (&uid, 1), &one, Method::PUT, path, "x").await;
        check(format!("PUT {path} of rank 1"), status.as_u16(), 403);
    }
    // A token that only says that it is of another rank.
    let bare = one.strip_prefix("r1.").unwrap();
    for forged in [
        bare.to_owned(),
        format!("r0.{bare}"),
        format!("r2.{bare}"),
        format!("r1.{leader}"),
        format!("r01.{bare}"),
    ] {
        for as_rank in [0, 1, 2] {
            let (status, _) =
                call(&web, (&uid, as_rank), &forged, Method::POST, "heartbeat", r#"{"rss_bytes":1}"#).await;
            check(format!("{forged:.6} as rank {as_rank}"), status.as_u16(), 401);
        }
    }
    let row = web.place.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.log_bytes, row.finished_ms), (AttemptState::Running, 0, None));
    assert!(web.place.store.artifacts_of_attempt(&uid).await.unwrap().is_empty());

    // Its own log, metrics, heartbeat and end.
    let as_one = (&uid, 1);
    check(
        "its log".into(),
        call(&web, as_one, &one, Method::POST, "log?offset=0", "of rank 1").await.0.as_u16(),
        200,
    );
    check(
        "a repeat".into(),
        call(&web, as_one, &one, Method::POST, "log?offset=0", "of rank 1").await.0.as_u16(),
        409,
    );
    let points = json!({"first_seq": 1, "points": [{"name": "loss", "value": 0.5, "step": 1, "at_ms": 1}], "params": {"lr": "1"}});
    check(
        "its metrics".into(),
        call(&web, as_one, &one, Method::POST, "metrics", points.to_string()).await.0.as_u16(),
        200,
    );
    check(
        "its heartbeat".into(),
        call(&web, as_one, &one, Method::POST, "heartbeat", r#"{"rss_bytes":1}"#).await.0.as_u16(),
        200,
    );
    check("no secret twice".into(), start(&web, as_one, &own, NONCES[1]).await.0, 401);
    call(&web, (&uid, 0), &leader, Method::POST, "log?offset=0", "of the leader").await;
    let rank = AttemptRank::new(&uid, 1);
    let read = async |of: &AttemptRank| logs::read(&web.app, of, 0, 100).await.unwrap();
    assert_eq!(&read(&rank).await[..], b"of rank 1");
    assert_eq!(&read(&(&uid).into()).await[..], b"of the leader");
    check(
        "its end".into(),
        call(&web, as_one, &one, Method::POST, "finish", end(EndClass::Succeeded)).await.0.as_u16(),
        204,
    );
    check(
        "its end again".into(),
        call(&web, as_one, &one, Method::POST, "finish", end(EndClass::Failed)).await.0.as_u16(),
        204,
    );
    check(
        "after its end".into(),
        call(&web, as_one, &one, Method::POST, "log?offset=9", "more").await.0.as_u16(),
        410,
    );
    let row = web.place.store.rank(&rank).await.unwrap().unwrap();
    assert_eq!((row.class, row.metrics_seq, row.log_bytes), (Some(EndClass::Succeeded), 1, 9));
    assert_eq!(web.place.store.attempt(&uid).await.unwrap().unwrap().state, AttemptState::Running);

    // A lost pod that comes back late finds its attempt ended.
    let (_, lost, boot) = two_pods(&web, 'b').await;
    let own = rank_bootstrap(&boot, 1);
    let one = token(&start(&web, (&lost, 1), &own, NONCES[1]).await.1);
    start(&web, (&lost, 0), &boot, NONCES[0]).await;
    web.place.end(&lost, EndClass::NodeLost).await;
    for (path, body) in [("finish", end(EndClass::Succeeded)), ("heartbeat", r#"{"rss_bytes":1}"#.into())] {
        check(
            format!("late {path}"),
            call(&web, (&lost, 1), &one, Method::POST, path, body).await.0.as_u16(),
            410,
        );
    }
    check("a late start".into(), start(&web, (&lost, 1), &own, NONCES[2]).await.0, 410);
    println!("FIGURE rank_fencing cases={cases} failed={}", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
