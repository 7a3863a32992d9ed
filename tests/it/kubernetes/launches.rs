//! G4 under faults: launches through a proxy that refuses, that cuts off after the object was made, and an API server that is
//! killed on the way. One Job for each, none lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde_json::Value;
use trainyard::clock::SystemClock;
use trainyard::config::KubernetesPool;
use trainyard::executor::kubernetes::{self, Kubernetes};
use trainyard::executor::{Executor, ExecutorError, Launch, external_name};
use trainyard::model::{AttemptUid, StepSpec};

use super::cluster::{HEALTH, Namespace, cluster, small_pool};
use super::golden;
use crate::agent::daemon::uid;

#[derive(Clone)]
struct Proxy {
    upstream: String,
    http: reqwest::Client,
    calls: Arc<AtomicU64>,
    faults: Arc<AtomicU64>,
}

/// Plain HTTP in front of the API server, with an administrator's certificate behind.
async fn proxy() -> (String, Proxy) {
    let view: Value =
        serde_json::from_str(&cluster().kubectl(&["config", "view", "--raw", "-o", "json"])).unwrap();
    let decoded =
        |value: &Value| base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    let (it, user) = (&view["clusters"][0]["cluster"], &view["users"][0]["user"]);
    let identity =
        [decoded(&user["client-certificate-data"]), b"\n".to_vec(), decoded(&user["client-key-data"])]
            .concat();
    let http = reqwest::Client::builder()
        .tls_certs_only(
            reqwest::Certificate::from_pem_bundle(&decoded(&it["certificate-authority-data"])).unwrap(),
        )
        .identity(reqwest::Identity::from_pem(&identity).unwrap())
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    let proxy = Proxy {
        upstream: it["server"].as_str().unwrap().to_owned(),
        http,
        calls: Arc::default(),
        faults: Arc::default(),
    };
    let router = axum::Router::new().fallback(pass).with_state(proxy.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, proxy)
}

fn said(code: StatusCode, reason: &str) -> Response {
    let body = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
    (code, axum::Json(body)).into_response()
}

async fn pass(State(proxy): State<Proxy>, request: Request) -> Response {
    let n = proxy.calls.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 8 << 20).await.unwrap();
    // Every tenth call is refused before it is done, every third create is done and its answer lost.
    if n % 10 == 7 {
        proxy.faults.fetch_add(1, Ordering::Relaxed);
        return said(
            [StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR][n as usize / 10 % 2],
            "TooManyRequests",
        );
    }
    let url = format!("{}{}", proxy.upstream, parts.uri.path_and_query().unwrap());
    let mut sent = proxy.http.request(parts.method.clone(), url).body(body);
    if let Some(kind) = parts.headers.get("content-type") {
        sent = sent.header("content-type", kind);
    }
    let Ok(answer) = sent.send().await else {
        return said(StatusCode::BAD_GATEWAY, "the API server is away");
    };
    if parts.method == "POST" && n % 3 == 0 && answer.status().is_success() {
        proxy.faults.fetch_add(1, Ordering::Relaxed);
        return said(StatusCode::GATEWAY_TIMEOUT, "Timeout");
    }
    let status = answer.status();
    let bytes = answer.bytes().await.unwrap_or_default();
    (status, [("content-type", "application/json")], Body::from(bytes)).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launches_through_a_cutting_proxy_make_one_job_each() {
    let _alone = HEALTH.write().await;
    const LAUNCHES: usize = 200;
    let namespace = tokio::task::spawn_blocking(Namespace::make).await.unwrap();
    let (url, proxy) = proxy().await;
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it", "clusters": [{"name": "it", "cluster": {"server": url}}],
        "users": [{"name": "it", "user": {}}], "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let mut settings = namespace.settings("https://192.0.2.1:1");
    settings.config.kubeconfig = Some(kubeconfig);
    // In a queue that nobody serves: the Jobs stay suspended, so 200 of them cost no pod.
    let pool = KubernetesPool { queue: Some("none".into()), ..small_pool() };
    let executor = Arc::new(Kubernetes::new(
        kubernetes::client(&settings.config).await.unwrap(),
        settings,
        BTreeMap::from([("default".to_owned(), pool)]),
        Arc::new(SystemClock),
    ));
    let began = Instant::now();
    let launched = Arc::new(AtomicU64::new(0));
    let tries = Arc::new(AtomicU64::new(0));
    let mut all = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let (executor, launched, tries) = (executor.clone(), launched.clone(), tries.clone());
        all.spawn(async move {
            for _ in (worker..LAUNCHES).step_by(8) {
                let uid = uid();
                let launch = Launch {
                    name: external_name("test", &uid, "train", 1),
                    uid: AttemptUid::from_text(uid),
                    pool: "default".into(),
                    ..golden::launch(StepSpec { image: None, ..golden::step("train") })
                };
                loop {
                    tries.fetch_add(1, Ordering::Relaxed);
                    match executor.submit(&launch).await {
                        Ok(_) => break,
                        Err(ExecutorError::Transient(_) | ExecutorError::Away(_)) => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                launched.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Two kills of the API server on the way.
    let kills = if cluster().dir.exists() { 2 } else { 0 };
    for kill in 1..=kills {
        while launched.load(Ordering::Relaxed) < kill * 60 && !all.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::task::spawn_blocking(|| {
            super::cluster::part("kill", "kube-apiserver");
            super::cluster::part("start", "kube-apiserver");
        })
        .await
        .unwrap();
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let listed = cluster().kubectl(&[
        "get",
        "jobs",
        "-n",
        &namespace.0,
        "-o",
        "jsonpath={range .items[*]}{.metadata.labels.trainyard\\.dev/attempt-uid}{\"\\n\"}{end}",
    ]);
    let uids: Vec<&str> = listed.lines().collect();
    let distinct: std::collections::BTreeSet<&str> = uids.iter().copied().collect();
    let (doubled, lost) = (uids.len() - distinct.len(), LAUNCHES - distinct.len());
    println!(
        "FAULT F16 launches={LAUNCHES} api_kills={kills} doubled={doubled} lost={lost} seconds={seconds:.1}"
    );
    println!(
        "FAULT F19 launches={LAUNCHES} calls={} faults={} tries={} doubled={doubled} lost={lost}",
        proxy.calls.load(Ordering::Relaxed),
        proxy.faults.load(Ordering::Relaxed),
        tries.load(Ordering::Relaxed)
    );
    assert_eq!((uids.len(), distinct.len()), (LAUNCHES, LAUNCHES));
}
