//! Work items.

use std::time::{Duration, Instant};

use trainyard::model::DeliveryState;
use trainyard::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};

use super::fixture::{Place, T0, delivery};

const LEASE: i64 = 60_000;

fn ask(key: &str, at_ms: i64) -> WorkAsk {
    WorkAsk { kind: WorkKind::Run, key: key.into(), at_ms }
}

async fn claim(at: &Place, now: i64) -> Vec<WorkItem> {
    at.store.claim(&[WorkKind::Run, WorkKind::Delivery], "w", now, LEASE, 9).await.unwrap()
}

pub async fn asking_again_looks_once_more(at: &Place) {
    at.store.ask(vec![ask("r", T0 + 50), ask("r", T0 + 10), ask("s", T0 + 99)], T0).await.unwrap();
    assert_eq!(claim(at, T0 + 9).await, [], "not before its time");
    assert_eq!(at.store.next_due(&[WorkKind::Run]).await.unwrap(), Some(T0 + 10));
    assert_eq!(at.store.next_due(&[WorkKind::Outbox]).await.unwrap(), None);
    assert_eq!(at.store.claim(&[WorkKind::Schedule], "w", T0 + 50, LEASE, 9).await.unwrap(), []);
    let item = claim(at, T0 + 10).await.remove(0);
    assert_eq!((item.key.as_str(), item.epoch, item.tries), ("r", 1, 0));
    assert_eq!(claim(at, T0 + 10).await, [], "leased");

    // Asked while it is looked at: once more, and not before the time asked for.
    at.store.ask(vec![ask("r", T0 + 40)], T0 + 11).await.unwrap();
    assert!(at.store.settle(&item, WorkOutcome::Done, T0 + 12).await.unwrap());
    assert_eq!(claim(at, T0 + 39).await, []);
    let item = claim(at, T0 + 40).await.remove(0);
    assert!(at.store.settle(&item, WorkOutcome::Done, T0 + 41).await.unwrap());
    assert_eq!(
        at.store.next_due(&[WorkKind::Run]).await.unwrap(),
        Some(T0 + 99),
        "only the other one is left"
    );
}

pub async fn a_lease_is_lost_to_the_next_holder(at: &Place) {
    at.store.ask(vec![ask("r", T0)], T0).await.unwrap();
    let first = claim(at, T0).await.remove(0);
    assert!(at.store.heartbeat_work(&first, T0 + 30_000, LEASE).await.unwrap());
    assert_eq!(claim(at, T0 + 89_999).await, []);
    assert_eq!(at.store.next_due(&[WorkKind::Run]).await.unwrap(), Some(T0 + 90_000));
    let second = claim(at, T0 + 90_000).await.remove(0);
    assert_eq!(second.epoch, first.epoch + 1);
    assert!(!at.store.heartbeat_work(&first, T0 + 90_001, LEASE).await.unwrap());
    for outcome in
        [WorkOutcome::Done, WorkOutcome::Again { at_ms: T0 }, WorkOutcome::Park { error: "x".into() }]
    {
        assert!(!at.store.settle(&first, outcome, T0 + 90_002).await.unwrap());
    }
    assert!(at.store.heartbeat_work(&second, T0 + 90_003, LEASE).await.unwrap());
    assert!(at.store.settle(&second, WorkOutcome::Done, T0 + 90_004).await.unwrap());
}

pub async fn outcomes_decide_what_comes_next(at: &Place) {
    at.store.ask(vec![ask("r", T0)], T0).await.unwrap();
    let item = claim(at, T0).await.remove(0);
    let failed = WorkOutcome::Retry { at_ms: T0 + 100, error: "no answer".into() };
    at.store.ask(vec![ask("r", T0 + 1)], T0 + 1).await.unwrap();
    at.store.settle(&item, failed, T0 + 2).await.unwrap();
    assert_eq!(claim(at, T0 + 99).await, [], "a failure waits out its back-off");
    let item = claim(at, T0 + 100).await.remove(0);
    assert_eq!(item.tries, 1);
    at.store.settle(&item, WorkOutcome::Again { at_ms: T0 + 200 }, T0 + 101).await.unwrap();
    let item = claim(at, T0 + 200).await.remove(0);
    assert_eq!(item.tries, 0, "looking again is not failing");
    at.store.settle(&item, WorkOutcome::Park { error: "broken".into() }, T0 + 201).await.unwrap();
    assert_eq!(claim(at, T0 + 10_000_000).await, []);
    let parked = at.store.parked(9).await.unwrap();
    assert_eq!((parked[0].0.key.as_str(), parked[0].1.as_str()), ("r", "broken"));
    at.store.ask(vec![ask("r", T0 + 300)], T0 + 300).await.unwrap();
    assert_eq!(claim(at, T0 + 300).await[0].tries, 0, "asking takes it out of the park");
}

pub async fn a_parked_delivery_says_so(at: &Place) {
    let new = delivery("d", b"{}");
    let id = new.id.clone();
    at.store.deliver(new).await.unwrap();
    let item = claim(at, T0).await.remove(0);
    at.store.settle(&item, WorkOutcome::Park { error: "five failures".into() }, T0 + 1).await.unwrap();
    let row = at.store.delivery(&id).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason.as_str()), (DeliveryState::Parked, "five failures"));
}

pub async fn a_hint_wakes_a_waiter(at: &Place) {
    let begun = Instant::now();
    let wait = at.store.work_hint(Duration::from_secs(30));
    let ((), asked) = tokio::join!(wait, at.store.ask(vec![ask("r", T0)], T0));
    asked.unwrap();
    // One that comes too late to be waiting is let through as well.
    at.store.ask(vec![ask("s", T0)], T0).await.unwrap();
    at.store.work_hint(Duration::from_secs(30)).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    at.store.work_hint(Duration::from_millis(1)).await;
}
