//! The worker loop: claims work items, keeps their leases alive, hands them to handlers, settles them.
//!
//! Must not: know what a kind means. Handlers are registered by `cli`.

mod worker;

use async_trait::async_trait;

use crate::clock::Millis;
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};
pub use worker::Worker;

/// Looks at one item. Level-triggered and idempotent: it may be called again for the same key at any time, after a crash
/// at any point. An error counts as a try with back-off (1 s doubling to 5 min, jittered).
#[async_trait]
pub trait Handler: Send + Sync {
    fn kind(&self) -> WorkKind;
    /// After how many tries that failed, at last by this error, an item is parked for an operator. None: it goes on at the longest
    /// back-off. Trouble that passes by itself (a forge that is away) is no failure: return [`WorkOutcome::Wait`] for it, which
    /// counts apart and never parks.
    fn parks_after(&self, _: &anyhow::Error) -> Option<i64> {
        None
    }
    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome>;
}

/// Tries of what only another configuration can make possible, eight minutes or so of them: another replica, or a restart that is under
/// way, may have it.
pub const UNCONFIGURED_TRIES: i64 = 10;

/// Wait before the next try after `tries` failed ones: 1 s doubling to 5 min, times 0.8 to 1.2 (`jitter` in 0..1).
pub fn backoff_ms(tries: i64, jitter: f64) -> Millis {
    let doubled = 1000_i64.saturating_mul(1 << tries.clamp(0, 20)).min(300_000);
    (doubled as f64 * (0.8 + 0.4 * jitter.clamp(0.0, 1.0))) as Millis
}

/// [`backoff_ms`] with a random jitter.
pub fn backoff(tries: i64) -> Millis {
    backoff_ms(tries, rand::random())
}

#[cfg(test)]
mod tests {
    use super::backoff_ms;

    #[test]
    fn back_off_doubles_from_one_second_to_five_minutes() {
        let waits: Vec<i64> = (0..12).map(|tries| backoff_ms(tries, 0.5)).collect();
        assert_eq!(
            waits,
            [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000, 300_000]
        );
        assert_eq!((backoff_ms(0, 0.0), backoff_ms(0, 1.0)), (800, 1200));
        assert_eq!(backoff_ms(i64::MAX, 0.5), 300_000);
        assert_eq!(backoff_ms(-3, 0.5), 1000);
    }
}
