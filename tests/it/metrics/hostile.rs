//! The MLflow endpoint against what a step may do to it: it answers in MLflow's own words, stays within bounds and its own
//! directory, and what it cannot keep never becomes an error of the training.

use std::path::Path;
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use trainyard::agent::collect::{Collector as _, Found};
use trainyard::agent::mask::Masker;
use trainyard::agent::mlflow::Server;
use trainyard::clock::SystemClock;

struct Bench {
    server: Server,
    http: reqwest::Client,
    url: String,
    token: String,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("mlflow")).await.unwrap();
        let env = server.environment(&[("HTTP_PROXY".to_owned(), "http://proxy:1".to_owned())].into());
        assert!(env.contains(&("NO_PROXY".to_owned(), "127.0.0.1".to_owned())), "{env:?}");
        let (url, token) = (env[0].1.clone(), env[1].1.clone());
        Self { server, http: reqwest::Client::builder().build().unwrap(), url, token, dir }
    }

    /// Status and MLflow's error code; every answer must be JSON.
    async fn call(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        let json =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {status}, not JSON: {text:?}"));
        (status, json)
    }

    async fn post(&self, call: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, &format!("/api/2.0/mlflow/{call}"), body.to_string()).await
    }

    async fn run(&self, body: Value) -> String {
        let (status, answer) = self.post("runs/create", body).await;
        assert_eq!(status, 200, "{answer}");
        answer["run"]["info"]["run_id"].as_str().unwrap().to_owned()
    }

    fn found(&self) -> Found {
        let mut found = Found::new(Masker::new(&[("TOKEN", "hunter2!")]), Arc::new(SystemClock));
        self.server.runs().poll(&mut found, true);
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_are_answered_in_mlflows_words() {
    let b = Bench::start().await;
    let id = b.run(json!({})).await;
    let deep = format!("{{\"run_id\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let many: Vec<Value> = (0..10_001).map(|i| json!({"key": format!("k{i}"), "value": 1})).collect();
    let cases: Vec<(&str, &str, String, u16, &str)> = vec![
        ("GET", "/", String::new(), 404, "ENDPOINT_NOT_FOUND"),
        ("GET", "/api/2.0/mlflow/registered-models/search", String::new(), 404, "ENDPOINT_NOT_FOUND"),
        ("POST", "/api/3.0/mlflow/traces", "{}".into(), 404, "ENDPOINT_NOT_FOUND"),
        ("DELETE", "/api/2.0/mlflow/runs/create", String::new(), 404, "ENDPOINT_NOT_FOUND"),
        ("POST", "/api/2.0/mlflow/runs/create", "{".into(), 400, "MALFORMED_REQUEST"),
        ("POST", "/api/2.0/mlflow/runs/create", "[]".into(), 400, "INVALID_PARAMETER_VALUE"),
        ("POST", "/api/2.0/mlflow/runs/create", deep, 400, "MALFORMED_REQUEST"),
        (
            "POST",
            "/api/2.0/mlflow/runs/create",
            json!({"experiment_id": "77"}).to_string(),
            404,
            "RESOURCE_DOES_NOT_EXIST",
        ),
        ("POST", "/api/2.0/mlflow/runs/log-metric", "{}".into(), 400, "INVALID_PARAMETER_VALUE"),
        (
            "POST",
            "/api/2.0/mlflow/runs/log-metric",
            json!({"run_id": id, "key": "a", "value": "x"}).to_string(),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        (
            "POST",
            "/api/2.0/mlflow/runs/log-metric",
            json!({"run_id": id, "key": "\u{1}", "value": 1}).to_string(),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        (
            "POST",
            "/api/2.0/mlflow/runs/log-metric",
            json!({"run_id": "no", "key": "a", "value": 1}).to_string(),
            404,
            "RESOURCE_DOES_NOT_EXIST",
        ),
        (
            "POST",
            "/api/2.0/mlflow/runs/log-batch",
            json!({"run_id": id, "metrics": many}).to_string(),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        (
            "POST",
            "/api/2.0/mlflow/runs/log-batch",
            json!({"run_id": id, "metrics": [1, 2]}).to_string(),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        ("POST", "/api/2.0/mlflow/runs/log-batch", "x".repeat(5 << 20), 413, "REQUEST_LIMIT_EXCEEDED"),
        ("GET", "/api/2.0/mlflow/runs/get?run_id=no", String::new(), 404, "RESOURCE_DOES_NOT_EXIST"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/0/x", "{}".into(), 501, "NOT_IMPLEMENTED"),
    ];
    let mut failed = 0;
    for (method, path, body, status, code) in &cases {
        let (got, answer) = b.call(method.parse().unwrap(), path, body.clone()).await;
        if got.as_u16() != *status || answer["error_code"] != *code || !answer["message"].is_string() {
            println!("{method} {path}: {got} {answer}");
            failed += 1;
        }
    }
    // Without the step's token nothing is said at all.
    for token in ["", "wrong"] {
        let answer = b
            .http
            .get(format!("{}/api/2.0/mlflow/experiments/search", b.url))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        failed += i32::from(answer.status() != 401);
    }
    println!("FIGURE mlflow_refusals cases={} failed={failed}", cases.len() + 2);
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_stay_in_their_directory() {
    let b = Bench::start().await;
    let id = b.run(json!({})).await;
    std::fs::write(b.dir.path().join("secret"), "a secret").unwrap();
    let own = b.dir.path().join("mlflow/artifacts").join(format!("0/{id}/artifacts"));
    std::fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(b.dir.path(), own.join("link")).unwrap();
    std::os::unix::fs::symlink(b.dir.path().join("secret"), own.join("file")).unwrap();
    let root = format!("0/{id}/artifacts");
    let paths = [
        format!("{root}/..%2f..%2f..%2f..%2fsecret"),
        format!("{root}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret"),
        format!("{root}/a/..%2f..%2f..%2f..%2f..%2fsecret"),
        format!("%2e%2e/{id}/artifacts/x"),
        "%2fetc%2fpasswd".to_owned(),
        format!("{root}%5c..%5csecret"),
        format!("{root}/link/secret"),
        format!("{root}/file"),
        format!("{root}/a%00b"),
        format!("{root}/{}", "d/".repeat(600)),
        format!("{root}/{}", "n".repeat(300)),
        "0/unknown/artifacts/x".to_owned(),
        "0/models/unknown/artifacts/x".to_owned(),
        "x".to_owned(),
        root.clone(),
    ];
    let mut failed = 0;
    let before = std::fs::read_dir(b.dir.path()).unwrap().count();
    for path in &paths {
        for method in [Method::PUT, Method::GET, Method::DELETE] {
            let url = format!("/api/2.0/mlflow-artifacts/artifacts/{path}");
            let request = b.http.request(method.clone(), format!("{}{url}", b.url)).bearer_auth(&b.token);
            let answer = request.body("planted").send().await.unwrap();
            let status = answer.status();
            let text = answer.text().await.unwrap();
            // A deletion of what is not there is no error; it must only delete nothing.
            let refused = status.is_client_error() || (method == Method::DELETE && status.is_success());
            if !refused || text.contains("a secret") {
                println!("{method} {path}: {status} {text}");
                failed += 1;
            }
        }
    }
    let list = format!("/api/2.0/mlflow-artifacts/artifacts?path={root}/..%2f..%2f..%2f..");
    failed += i32::from(b.call(Method::GET, &list, "").await.0 != 400);
    failed += i32::from(std::fs::read_to_string(b.dir.path().join("secret")).unwrap() != "a secret");
    failed += i32::from(std::fs::read_dir(b.dir.path()).unwrap().count() != before);
    failed += i32::from(!Path::new(&own.join("link")).is_symlink());
    // What is kept in the end is what was really uploaded: no link is followed.
    let good = format!("/api/2.0/mlflow-artifacts/artifacts/{root}/dir/good.bin");
    assert_eq!(b.call(Method::PUT, &good, "bytes").await.0, 200);
    let kept: Vec<String> = b.server.artifacts().into_iter().map(|(_, name)| name).collect();
    assert!(kept.contains(&"mlflow/dir/good.bin".to_owned()), "{kept:?}");
    println!("SEC S09 cases={} failed={failed}", paths.len() * 3 + 5);
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_left_out_without_an_error() {
    let b = Bench::start().await;
    let first = b.run(json!({"run_name": "the hunter2! run"})).await;
    // Names and values with a secret; tags of MLflow's own are no parameters.
    let batch = json!({
        "run_id": first,
        "metrics": [{"key": "a hunter2! name", "value": "NaN", "timestamp": "1", "step": "2"}],
        "params": [{"key": "hunter2!", "value": "see hunter2!"}],
        "tags": [{"key": "mlflow.source.name", "value": "x"}, {"key": "own", "value": "y"}],
    });
    assert_eq!(b.post("runs/log-batch", batch).await.0, 200);
    let mut calls = 0;
    for chunk in 0..40 {
        let metrics: Vec<Value> =
            (0..100).map(|i| json!({"key": format!("m{chunk}-{i}"), "value": i, "step": 0})).collect();
        let params: Vec<Value> =
            (0..100).map(|i| json!({"key": format!("p{chunk}-{i}"), "value": "v"})).collect();
        let tags: Vec<Value> =
            (0..100).map(|i| json!({"key": format!("t{chunk}-{i}"), "value": "v".repeat(9_000)})).collect();
        let body = json!({"run_id": first, "metrics": metrics, "params": params, "tags": tags});
        assert_eq!(b.post("runs/log-batch", body).await.0, 200);
        calls += 1;
    }
    let parent = json!([{"key": "mlflow.parentRunId", "value": first}]);
    for n in 0..2_100 {
        let run = b.run(json!({"run_name": format!("../{n}"), "tags": parent})).await;
        if n % 50 == 0 {
            let body = json!({"run_id": run, "key": "loss", "value": n, "step": n});
            assert_eq!(b.post("runs/log-metric", body).await.0, 200);
        }
        calls += 1;
    }
    let found = b.found();
    let source = &found.sources[0];
    println!(
        "FIGURE mlflow_flood calls={calls} errors=0 points={} params={} note={:?}",
        found.points.len(),
        found.params.len(),
        source.note
    );
    let all = format!("{:?} {:?} {:?}", found.points, found.params, found.sources);
    assert!(!all.contains("hunter2"), "a secret is shown");
    assert!(found.points.iter().any(|p| p.name == "a *** name" && p.value.is_nan() && p.step == Some(2)));
    assert!(found.points.len() <= 2_000 && found.params.len() <= 1_000);
    for words in [
        "further nested runs are not kept",
        "parameters were left out",
        "tags were left out",
        "runs were left out",
    ] {
        assert!(source.note.contains(words), "{words}: {}", source.note);
    }
}
