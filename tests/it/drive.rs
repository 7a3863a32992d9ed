//! Runs handlers over the store's work, as the worker loop does, on a clock that jumps to whatever is next.

use trainyard::clock::{Clock, ManualClock, Millis};
use trainyard::queue::Handler;
use trainyard::store::Store;
use trainyard::store::work::{WorkKind, WorkOutcome};

/// Until nothing is due before `until`. Time stands at the last thing done.
pub async fn drive(store: &Store, clock: &ManualClock, handlers: &[&dyn Handler], until: Millis) {
    let kinds: Vec<WorkKind> = handlers.iter().map(|h| h.kind()).collect();
    for _ in 0..200_000 {
        let now = clock.now_ms();
        let items = store.claim(&kinds, "test", now, 60_000, 1).await.unwrap();
        for item in &items {
            let handler = handlers.iter().find(|h| h.kind() == item.kind).unwrap();
            let outcome = match handler.handle(item).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    WorkOutcome::Retry { at_ms: clock.now_ms() + 1_000, error: format!("{error:#}") }
                }
            };
            assert!(store.settle(item, outcome, clock.now_ms()).await.unwrap(), "the lease was lost");
        }
        if items.is_empty() {
            match store.next_due(&kinds).await.unwrap() {
                Some(at) if at <= until => clock.advance((at - now).max(1)),
                _ => return,
            }
        }
    }
    panic!("the work never ends");
}
