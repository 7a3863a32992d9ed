//! What operators ask: is it ready, and what has it counted.

use trainyard::store::work::{WorkAsk, WorkKind, WorkOutcome};

use super::{Web, raw};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: ops\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn readiness_follows_the_database_and_the_shutdown() {
    let web = Web::start().await;
    assert_eq!(raw(web.ops, get("/healthz")).await.status, 200);
    assert_eq!(raw(web.ops, get("/readyz")).await.status, 200);
    web.app.stopping.cancel();
    let answer = raw(web.ops, get("/readyz")).await;
    assert_eq!((answer.status, answer.body.contains("shutting down")), (503, true));
    assert_eq!(raw(web.ops, get("/healthz")).await.status, 200);

    let web = Web::start().await;
    web.place.store.close().await;
    assert_eq!(raw(web.ops, get("/readyz")).await.status, 503);
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let web = Web::start().await;
    raw(web.hooks, "POST /hooks/github/none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    let answer = raw(web.ops, get("/metrics")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("application/openmetrics-text"));
    assert!(
        answer.body.contains(r#"trainyard_webhooks_received_total{forge="",event="",outcome="not_found"} 1"#),
        "{}",
        answer.body
    );
    assert!(answer.body.contains("trainyard_build_info{version="));
    assert!(answer.body.contains("\ntrainyard_parked_work 0\n"), "{}", answer.body);
    let ask = WorkAsk { kind: WorkKind::Compare, key: "x".into(), at_ms: 0 };
    web.place.store.ask(vec![ask], 0).await.unwrap();
    for item in web.place.store.claim(&[WorkKind::Compare], "w", i64::MAX / 2, 9, 9).await.unwrap() {
        let park = WorkOutcome::Park { error: "no luck".into() };
        web.place.store.settle(&item, park, 0).await.unwrap();
    }
    let answer = raw(web.ops, get("/metrics")).await;
    assert!(answer.body.contains("\ntrainyard_parked_work 1\n"), "{}", answer.body);
    assert!(answer.body.trim_end().ends_with("# EOF"));
}
