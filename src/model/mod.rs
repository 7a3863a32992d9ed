//! Level 0: plain types that every other room may use. No I/O, no clock, nothing of ours below it.

pub mod data;
pub mod event;
pub mod ids;
pub mod metric;
pub mod outcome;
pub mod params;
pub mod plan;
pub mod rank;
pub mod span;
pub mod state;

pub use data::DataReport;
pub use event::{
    Actor, CommentEvent, DATA_DIGEST, DATA_PREFIX, DataChange, Event, EventKind, Parsed, PullRequest,
    PullRequestAction, PullRequestEvent, Push, RepoRef, TagPush,
};
pub use ids::{
    AttemptUid, ComparisonId, DeliveryRowId, Invalid, OutboxId, RepoId, RepoName, RunId, Sha, StepId,
};
pub use metric::{Goal, MetricPoint, MetricSource, Tolerance};
pub use outcome::Outcome;
pub use params::ParamLine;
pub use plan::{Plan, StepSpec};
pub use rank::{AttemptRank, Held, LEADER};
pub use span::spell_span;
pub use state::{
    AttemptState, ComparisonState, DeliveryState, EndClass, RunState, StepState, Verdict, summary_line,
};
