//! Looks, once a minute, for Jobs of the cluster that no row knows: says each once, and counts them for the metrics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use crate::executor::kubernetes::Kubernetes;
use crate::executor::kubernetes::orphans::{Fate, Orphan};
use crate::http::App;
use crate::model::RunId;

const EVERY: Duration = Duration::from_mins(1);

/// Goes on until `stop`.
pub async fn sweep(cluster: Arc<Kubernetes>, app: App, stop: CancellationToken) {
    let left: Gauge = Gauge::default();
    app.telemetry.register(|registry| {
        registry.register(
            "orphaned_jobs",
            "Jobs of ours that no row knows and that were left alone",
            left.clone(),
        );
    });
    let mut said = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match cluster.sweep_orphans(&app.store).await {
            Ok(found) => {
                left.set(found.iter().filter(|orphan| orphan.fate == Fate::List).count() as i64);
                found.iter().filter(|orphan| said.insert(orphan.job.clone())).for_each(say);
            }
            Err(error) => tracing::debug!(%error, "orphans are looked for again later"),
        }
    }
}

fn say(orphan: &Orphan) {
    let run = orphan.run.as_ref().map_or("", RunId::as_str);
    if orphan.fate == Fate::Delete {
        tracing::warn!(job = orphan.job, run.id = run, "a Job that nothing waits for was deleted");
    } else {
        tracing::warn!(
            job = orphan.job,
            run.id = run,
            "no row knows this Job; delete it if nobody waits for it"
        );
    }
}
