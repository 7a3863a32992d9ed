//! Takes the result of an equal, earlier step over before a place is asked for. Whether two steps are equal is decided by
//! [`key`], from rows and from git trees as the forge has them; nothing is checked out here.
//!
//! Must not: hold up a run. What cannot be told within a few tries makes a step that runs as ever. Must not take anything
//! from an untrusted run.

mod inputs;
pub mod key;
mod looker;

pub use looker::Looker;

use crate::clock::Millis;
use crate::config::RetentionConfig;

/// Artifacts that are older than this may be deleted any time now.
pub fn fresh_since(keep: RetentionConfig, now: Millis) -> Millis {
    now - (keep.artifacts_days - 1).max(0) * 24 * 3_600_000
}
