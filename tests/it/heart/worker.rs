//! The worker loop: panics, failures, lost leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use trainyard::clock::ManualClock;
use trainyard::queue::{Handler, Worker};
use trainyard::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};

use crate::store::fixture::{self, T0};

/// A handler that does what its item's key says.
struct Moody;

#[async_trait]
impl Handler for Moody {
    fn kind(&self) -> WorkKind {
        WorkKind::Compare
    }
    fn parks_after(&self, _: &anyhow::Error) -> Option<i64> {
        Some(5)
    }
    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        match item.key.as_str() {
            "panic" => panic!("as asked"),
            "fail" => anyhow::bail!("no luck"),
            "later" => Ok(WorkOutcome::Again { at_ms: T0 + 5_000_000 }),
            _ => Ok(WorkOutcome::Done),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_outlives_panics_and_parks_what_fails_five_times() {
    let place = fixture::sqlite().await;
    let clock = ManualClock::at(T0);
    let ask = |key: &str| WorkAsk { kind: WorkKind::Compare, key: key.into(), at_ms: T0 };
    place.store.ask(["panic", "fail", "later", "good"].map(ask).into(), T0).await.unwrap();
    let worker = Worker::new(place.store.clone(), clock.clone(), "test").register(Arc::new(Moody), 2);
    assert_eq!(worker.run_until_idle().await.unwrap(), 4);
    let mut looked = Vec::new();
    for _ in 0..6 {
        clock.advance(400_000);
        looked.push(worker.run_until_idle().await.unwrap());
    }
    assert_eq!(looked, [2, 2, 2, 2, 0, 0]);
    let parked: BTreeMap<String, String> =
        place.store.parked(10).await.unwrap().into_iter().map(|(item, why)| (item.key, why)).collect();
    assert_eq!(parked["fail"], "no luck");
    assert_eq!(parked["panic"], "the handler panicked: as asked");
    assert_eq!(parked.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_drops_the_handlers_result() {
    struct Slow(Arc<tokio::sync::Notify>, Arc<tokio::sync::Notify>);
    #[async_trait]
    impl Handler for Slow {
        fn kind(&self) -> WorkKind {
            WorkKind::Compare
        }
        async fn handle(&self, _: &WorkItem) -> anyhow::Result<WorkOutcome> {
            self.0.notify_one();
            self.1.notified().await;
            Ok(WorkOutcome::Done)
        }
    }
    let place = fixture::sqlite().await;
    let clock = ManualClock::at(T0);
    let (began, go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    place.store.ask(vec![WorkAsk { kind: WorkKind::Compare, key: "x".into(), at_ms: T0 }], T0).await.unwrap();
    let slow = Slow(began.clone(), go_on.clone());
    let worker = Worker::new(place.store.clone(), clock.clone(), "first").register(Arc::new(slow), 1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (worker, stop) = (worker.clone(), stop.clone());
        async move { worker.run(stop).await }
    });
    began.notified().await;
    // Its lease runs out, someone else takes over.
    clock.advance(61_000);
    let taken = place.store.claim(&[WorkKind::Compare], "second", T0 + 61_000, 60_000, 1).await.unwrap();
    assert_eq!(taken.len(), 1);
    go_on.notify_one();
    stop.cancel();
    running.await.unwrap();
    // The first one's "done" deleted nothing: the item is still the second one's.
    assert!(place.store.settle(&taken[0], WorkOutcome::Done, T0 + 62_000).await.unwrap());
}
