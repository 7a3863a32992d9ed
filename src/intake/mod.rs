//! From a stored delivery to its decision: parse, gather facts at the forge and in the store, [`plan()`] purely, commit once.
//!
//! Must not: run anything, believe what a payload says about authority or about changed files, decide the same thing
//! twice in two ways: `deliveries replay --dry-run` and `trainyard plan` print what [`plan()`] returns.

mod explain;
mod facts;
mod filter;
mod gather;
mod handler;
mod plan;
#[cfg(test)]
mod tests;
mod watch;

pub use explain::explain;
pub use facts::{Broken, Facts, GroupRun, PipelineFile};
pub use filter::{Fit, fit};
pub use gather::{read_pipeline, unread_pipeline};
pub use handler::Intake;
pub use plan::{IntakePlan, PlannedRun, Then, head_of, plan, variables};
pub use watch::DataWatcher;
