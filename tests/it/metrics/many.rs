//! Attempts that say very much: the daemon keeps its bounds whatever an agent sends, and a comparison reads one row a metric.

use std::collections::BTreeMap;
use std::time::Instant;

use trainyard::model::{MetricPoint, RunState};

use crate::store::fixture::{T0, new_run, sha, sqlite};

#[tokio::test]
async fn comparing_does_not_read_every_point() {
    // The quota is a million points; the short form sends a part of that.
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let sent: i64 = if long { 1_010_000 } else { 60_000 };
    let at = sqlite().await;
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    let names = 20;
    let begun = Instant::now();
    for first in (1..=sent).step_by(2_000) {
        let points = (first..first + 2_000)
            .map(|n| MetricPoint {
                name: format!("m{}", n % names),
                value: n as f64,
                step: Some(n / names),
                at_ms: T0 + n,
            })
            .collect();
        let seq = at.store.record_metrics(&uid, first, points, BTreeMap::new(), T0).await.unwrap();
        assert_eq!(seq, Some(first + 1_999), "beyond the quota points are counted as well");
    }
    let wrote = begun.elapsed();
    let begun = Instant::now();
    let last = at.store.last_metrics(&run).await.unwrap();
    let read = begun.elapsed();
    assert_eq!(last.len() as i64, names);
    let kept = sent.min(1_000_000);
    assert!(last.iter().all(|m| m.point.value > (kept - names) as f64), "each is the newest that is kept");
    let begun = Instant::now();
    let curve = at.store.sample_metrics(&run, Some("m1"), 1_000, 100_000).await.unwrap();
    let sampled = begun.elapsed();
    assert!((500..=1_001).contains(&curve.len()), "{}", curve.len());
    let left_out: i64 = at.store.metric_points_left_out(&run).await.unwrap().iter().map(|(_, n)| n).sum();
    assert_eq!(left_out, sent - kept);
    println!(
        "FIGURE metric_points sent={sent} kept={kept} left_out={left_out} write_s={:.1} last_values_ms={:.1} one_curve_ms={:.1}",
        wrote.as_secs_f64(),
        read.as_secs_f64() * 1e3,
        sampled.as_secs_f64() * 1e3
    );
    assert!(read.as_millis() < 500, "{read:?}");
}
