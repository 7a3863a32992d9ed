//! What a forge should show for a commit: one status for each pipeline, one comment for each pull request.
//!
//! Everything here is drawn from rows alone, so that it can be drawn again at any time and comes out the same: [`Reporter`]
//! gathers a [`View`], [`status`] and [`comment`] turn it into text, purely, and the outbox is told what is desired. Whatever
//! was not written here goes through [`escape`].
//!
//! Must not: call a forge, decide a verdict, show a value that changes by itself (a clock, a progress), since each
//! difference is a write.

mod chart;
pub mod comment;
mod data;
mod escape;
mod gather;
mod numbers;
mod reporter;
pub mod status;
mod view;

pub use reporter::{Reporter, marker};
pub use view::{BaselineView, ComparisonView, Cost, Curve, FailedStep, Section, StepLine, View};

#[cfg(test)]
mod tests;
