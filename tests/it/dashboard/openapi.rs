//! The description of the API: current, whole, and believed by a program that tries to break it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use trainyard::http::api::openapi::openapi;
use trainyard::http::app::{Face, routes, serve_app};
use trainyard::store::tokens::Scope;

use super::{Dashboard, bearer, request};

fn described() -> serde_json::Value {
    serde_json::to_value(openapi()).unwrap()
}

#[test]
fn the_committed_description_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let text = serde_json::to_string_pretty(&described()).unwrap() + "\n";
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is not current: run `trainyard schema --api > docs/openapi.json`"
    );
}

#[test]
fn every_route_of_the_api_is_described_and_nothing_else() {
    let described = described();
    let mut ids = BTreeSet::new();
    let mut calls = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            calls.insert((method.to_uppercase(), path.clone()));
            assert!(ids.insert(call["operationId"].to_string()), "{} stands twice", call["operationId"]);
            assert!(call["summary"].is_string(), "{method} {path} says nothing of itself");
        }
    }
    let routes: BTreeSet<(String, String)> = routes()
        .iter()
        .filter(|r| r.face == Face::Api)
        .map(|r| (r.method.to_owned(), r.path.to_owned()))
        .collect();
    assert_eq!(calls, routes);
    println!("FIGURE openapi operations={}", calls.len());
}

#[tokio::test]
async fn pages_of_lists_link_to_the_next_and_are_not_sent_twice() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let mut path = "/api/v1/runs?repo=ada/churn&limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let answer = at.get(&path, &seeded.tokens.read).await;
        let runs = answer.json()["runs"].as_array().unwrap().clone();
        seen.extend(runs.iter().map(|r| r["id"].as_str().unwrap().to_owned()));
        let Some(link) = answer.headers.get("link") else { break };
        let link = link.to_str().unwrap();
        path = link[1..link.find('>').unwrap()].to_owned();
        assert!(
            link.ends_with("; rel=\"next\"") && path.contains("repo=ada/churn&limit=2&cursor="),
            "{link}"
        );
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.windows(2).all(|w| w[0] > w[1]), "newest first, none twice: {seen:?}");

    let path = format!("/api/v1/runs/{}", seeded.candidate);
    let first = at.get(&path, &seeded.tokens.read).await;
    assert_eq!(first.json()["verdict"], "fail");
    assert_eq!(first.json()["headline"], "accuracy 0.847 (−0.015)");
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    let mut headers = bearer(&seeded.tokens.read);
    headers.push(("if-none-match", format!("W/{etag}, \"other\"")));
    let again = at.send(request("GET", &path, &headers, "")).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    for (bad, status) in [
        ("/api/v1/runs?limit=0", 400),
        ("/api/v1/runs?limit=x", 400),
        ("/api/v1/runs?cursor=1", 400),
        ("/api/v1/runs?pull=x", 400),
        ("/api/v1/runs?state=odd", 400),
        ("/api/v1/runs/%00", 404),
        ("/api/v1/trend", 400),
        ("/api/v1/trend?repo=no/where", 404),
        ("/api/v1/none", 404),
    ] {
        let answer = at.get(bad, &seeded.tokens.read).await;
        assert_eq!(answer.status, status, "{bad}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{bad}");
    }
    let answer = at.send(request("DELETE", "/api/v1/runs", &bearer(&seeded.tokens.admin), "")).await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn two_runs_are_held_side_by_side() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let path = format!("/api/v1/runs/{}/diff?with={}", seeded.base, seeded.candidate);
    let diff = at.get(&path, &seeded.tokens.read).await.json();
    assert_eq!(diff["params"], json!([{"name": "learning_rate", "a": "0.01", "b": "0.1"}]));
    let loss: Vec<_> =
        diff["metrics"].as_array().unwrap().iter().filter(|m| m["name"] == "accuracy").collect();
    assert!(!loss.is_empty() && loss.iter().all(|m| m["delta"].as_f64().unwrap() < 0.0), "{diff:#}");
    assert_eq!(diff["plan"], json!([]), "the same plan: {:#}", diff["plan"]);
    assert_eq!(diff["durations"][0]["step"], "");
    assert!(diff["durations"][0]["a_ms"].as_i64().unwrap() > 0);
    let other = at.get(&path, &seeded.tokens.other).await;
    assert_eq!(other.status, 404);
}

/// Schemathesis makes requests from the description, good ones and bad ones, and holds every answer against it.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = tokio::process::Command::new(root.join("scripts/venv.sh"))
        .arg("schemathesis")
        .output()
        .await
        .unwrap();
    assert!(venv.status.success(), "{}", String::from_utf8_lossy(&venv.stderr));
    let python = String::from_utf8(venv.stdout).unwrap();
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_app(listener, at.app.clone(), stop.clone()));
    let token = at.token("schemathesis", Scope::Admin, None).await;
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let settings = at.dir.path().join("schemathesis.json");
    let given = json!({
        "base": base, "token": token, "run": seeded.candidate.as_str(), "other": seeded.base.as_str(), "attempt": seeded.ended.as_str(),
        "delivery": seeded.delivery, "examples": if long { 150 } else { 12 },
    });
    std::fs::write(&settings, given.to_string()).unwrap();
    let output = tokio::time::timeout(
        std::time::Duration::from_secs(if long { 900 } else { 150 }),
        tokio::process::Command::new(python.trim())
            .arg(root.join("tests/python/schemathesis_api.py"))
            .arg(&settings)
            .current_dir(at.dir.path())
            .kill_on_drop(true)
            .output(),
    )
    .await
    .expect("schemathesis took too long")
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let saw: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("schemathesis said: {text}{}", String::from_utf8_lossy(&output.stderr)));
    println!(
        "FIGURE schemathesis operations={} requests={} checks={} good_answers={} failures={}",
        saw["operations"],
        saw["requests"],
        saw["checks"],
        saw["good"],
        saw["failures"].as_array().unwrap().len()
    );
    assert_eq!(saw["failures"], json!([]), "{saw:#}");
    let tested: BTreeSet<String> =
        saw["tested"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let all = routes().into_iter().filter(|r| r.face == Face::Api);
    let untested: Vec<String> =
        all.map(|r| format!("{} {}", r.method, r.path)).filter(|r| !tested.contains(r)).collect();
    assert_eq!(untested, ["GET /api/v1/openapi.json"], "that one is where it starts from");
    assert!(saw["checks"].as_u64().unwrap() > 500 && saw["good"].as_u64().unwrap() > 50, "{saw:#}");
    stop.cancel();
    serving.await.unwrap();
}
