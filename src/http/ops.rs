//! The operators' listener: is it alive, can it work, what has it counted. Loopback by default; it answers anyone who reaches it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::App;
use super::serve::{Limits, serve};
use crate::store::StoreError;

const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves until `shutdown` is cancelled. Give it a token of its own that ends last, so that `/readyz` can say no while the others drain.
pub async fn serve_ops(listener: TcpListener, app: App, shutdown: CancellationToken) {
    let telemetry = Arc::clone(&app.telemetry);
    serve(listener, router(app), Limits { connections: 64, ..Limits::of("ops") }, telemetry, shutdown).await;
}

pub fn router(app: App) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// Ready means that a delivery could be stored right now.
async fn ready(State(app): State<App>) -> Response {
    let no = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response();
    if app.stopping.is_cancelled() {
        return no("shutting down");
    }
    let store = app.store.clone();
    // In a task of its own: a timeout must not drop a database call half-way.
    match tokio::time::timeout(CHECK_TIMEOUT, tokio::spawn(async move { store.check().await })).await {
        Ok(Ok(Ok(()))) => "ready\n".into_response(),
        Ok(Ok(Err(error))) => {
            tracing::warn!(%error, "not ready");
            no("the database does not take writes; the daemon's log says why")
        }
        Ok(Err(_)) => no("the check failed"),
        Err(_) => no("the database did not answer within 3 s"),
    }
}

async fn metrics(State(app): State<App>) -> Response {
    use std::fmt::Write;
    let mut text = app.telemetry.encode();
    // Counted at the scrape: the rows are the truth. The text ends with `# EOF`, which must stay last.
    let counted =
        async { Ok::<_, StoreError>((app.store.count_runs().await?, app.store.count_parked().await?)) };
    match counted.await {
        Ok((counts, parked)) => {
            let end = text.find("# EOF").unwrap_or(text.len());
            text.truncate(end);
            text.push_str("# HELP trainyard_runs Runs by state.\n# TYPE trainyard_runs gauge\n");
            for (state, count) in counts {
                let _ = writeln!(text, "trainyard_runs{{state=\"{state}\"}} {count}");
            }
            let _ = writeln!(
                text,
                "# HELP trainyard_parked_work Work items that failed until they were given up; `trainyard doctor` lists them.\n\
                 # TYPE trainyard_parked_work gauge\ntrainyard_parked_work {parked}\n\
                 # HELP trainyard_build Version of the daemon.\n# TYPE trainyard_build info\ntrainyard_build_info{{version=\"{}\"}} 1\n# EOF",
                env!("CARGO_PKG_VERSION")
            );
        }
        Err(error) => tracing::warn!(%error, "cannot count rows for /metrics"),
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
