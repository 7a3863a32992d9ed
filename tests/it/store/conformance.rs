//! Every public method of the store, on every engine (`every_method_has_its_case` fails when one is missing here).

use trainyard::model::{AttemptState, DeliveryState, RunState};
use trainyard::store::deliveries::Delivered;
use trainyard::store::work::{WorkKind, WorkOutcome};

use super::fixture::{T0, delivery, new_run, sha, sqlite};

#[tokio::test]
async fn deliveries_are_stored_once() {
    let at = sqlite().await;
    let new = delivery("d1", b"hello");
    let id = new.id.clone();
    assert_eq!(at.store.deliver(new).await.unwrap(), Delivered::Stored);
    assert_eq!(
        at.store.deliver(delivery("d1", b"hello")).await.unwrap(),
        Delivered::Seen { same_body: true }
    );
    assert_eq!(
        at.store.deliver(delivery("d1", b"other")).await.unwrap(),
        Delivered::Seen { same_body: false }
    );
    assert_eq!(at.store.delivery_body(&id).await.unwrap().unwrap(), b"hello");
    assert_eq!(at.store.delivery(&id).await.unwrap().unwrap().state, DeliveryState::Stored);
    let claimed = at.store.claim(WorkKind::ALL, "w", T0, 1000, 9).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert!(at.store.settle(&claimed[0], WorkOutcome::Done, T0).await.unwrap());
    assert_eq!(at.store.next_due(WorkKind::ALL).await.unwrap(), None);
}

#[tokio::test]
async fn a_run_goes_from_delivery_to_started_attempt() {
    let at = sqlite().await;
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    assert_eq!(at.store.attempt(&uid).await.unwrap().unwrap().state, AttemptState::Running);
    assert_eq!(at.view(&run).await.attempts.len(), 1);
}
