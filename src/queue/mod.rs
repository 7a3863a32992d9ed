//! The worker loop: claims work items, keeps their leases alive, hands them to handlers, settles them.
//!
//! Must not: know what a kind means. Handlers are registered by `cli`.

use async_trait::async_trait;

use crate::store::work::{WorkItem, WorkKind, WorkOutcome};

/// Looks at one item. Level-triggered and idempotent: it may be called again for the same key at any time, after a crash
/// at any point. An error counts as a try with back-off (1 s doubling to 5 min, jittered); five failed tries park a delivery,
/// other kinds keep trying at the longest back-off.
#[async_trait]
pub trait Handler: Send + Sync {
    fn kind(&self) -> WorkKind;
    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome>;
}
