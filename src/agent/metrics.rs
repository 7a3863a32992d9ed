//! Ships metric points in numbered batches while the commands run.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Backoff, Client, Fault};
use super::collect::{Collectors, Found};
use super::protocol::{Metrics, MetricsStored};
use crate::model::MetricPoint;

const BATCH: usize = 2_000;
/// While so many points wait, files are not read further: they are the better memory.
const MAX_WAITING: usize = super::collect::ROOM;
const POLL: Duration = Duration::from_millis(500);

/// Follows the collectors until `done` turns true, and then until every point is stored.
///
/// # Errors
/// [`Fault::Gone`], or [`Fault::Unauthorized`] after many tries.
pub async fn ship(
    client: &Client,
    mut collectors: Collectors,
    mut found: Found,
    mut done: watch::Receiver<bool>,
) -> Result<Found, Fault> {
    let mut sent_params = BTreeMap::new();
    let mut first_seq = 1_i64;
    let mut backoff = Backoff::default();
    let mut finished = false;
    let mut next_poll = Instant::now();
    loop {
        if !finished && found.points.len() < MAX_WAITING && Instant::now() >= next_poll {
            finished = *done.borrow_and_update();
            collectors.poll(&mut found, finished);
            next_poll = Instant::now() + POLL;
        }
        if found.points.is_empty() && found.params == sent_params {
            if finished {
                return Ok(found);
            }
            let _ = tokio::time::timeout_at(next_poll, done.wait_for(|d| *d)).await;
            if *done.borrow() || done.has_changed().is_err() {
                next_poll = Instant::now();
            }
            continue;
        }
        let points: Vec<MetricPoint> = found.points.iter().take(BATCH).cloned().collect();
        let batch = Metrics { first_seq, points, params: found.params.clone() };
        match client.post::<MetricsStored>("metrics", &batch).await {
            Ok(stored) => {
                backoff.reset();
                let taken = (stored.seq - first_seq + 1).clamp(0, batch.points.len() as i64);
                found.points.drain(..taken as usize);
                first_seq += taken;
                sent_params = batch.params;
                if taken == 0 && !batch.points.is_empty() {
                    backoff.wait().await;
                }
            }
            Err(Fault::Gone) => return Err(Fault::Gone),
            Err(Fault::Unauthorized) if backoff.tries() > 30 => return Err(Fault::Unauthorized),
            Err(Fault::Refused(status, why)) => {
                // The same batch would be refused for ever; without it the rest may pass.
                let note = format!(
                    "{} metric points were refused by the daemon ({status}): {why}",
                    batch.points.len()
                );
                found.notes.push(note);
                found.points.drain(..batch.points.len());
                sent_params = batch.params;
            }
            Err(fault) => {
                tracing::warn!(%fault, "metrics did not arrive");
                backoff.wait().await;
            }
        }
    }
}
