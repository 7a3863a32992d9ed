//! A run's life between intake and results: what happens next is decided by [`next()`], purely, from rows and
//! observations; [`Reconciler`] carries it out; [`schedule`] gives free places to ready steps.
//!
//! Must not: know a forge or a metric; hold a result that only the agent may say; start anything whose row is not
//! on disk yet.

pub mod fair;
mod next;
mod ranks;
mod reconcile;
mod retry;
pub mod schedule;
#[cfg(test)]
mod tests;
pub mod why;

use sha2::{Digest, Sha256};

use crate::model::AttemptUid;
use crate::store::Instance;
pub use next::{Decision, Effect, Observed, Situation, next};
pub use reconcile::{LogEnder, Reconciler, Settings};
pub use schedule::Scheduler;

/// The single-use token with which an attempt's agent says `start`: HMAC-SHA256 of the attempt's uid under the
/// installation's key, in hex. Derived, so that a submit that is repeated after a crash carries the same one.
pub fn bootstrap_token(instance: &Instance, uid: &AttemptUid) -> String {
    hex::encode(instance.derive("bootstrap", &[uid.as_str()]))
}

/// SHA-256 (hex) of a bootstrap token: what the attempt's row keeps.
pub fn bootstrap_hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}
