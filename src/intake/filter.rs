//! Does a pipeline want an event?

use crate::model::{EventKind, Plan};
use crate::pipeline::{Match, TriggerFacts, matches};

/// What a pipeline says to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    Wanted,
    /// Event and branch fit, no changed path does: there is a run, which is skipped, so that no required check waits for ever.
    Paths {
        why: String,
    },
    Unwanted {
        why: String,
    },
}

/// Holds an event against `when:`. `changed` None means unknown, which fits every path filter.
pub fn fit(plan: &Plan, event: &EventKind, default_branch: &str, changed: Option<&[String]>) -> Fit {
    let facts = match event {
        EventKind::Push(push) => TriggerFacts {
            event: event.word(),
            branch: &push.branch,
            base_branch: None,
            default_branch,
            changed,
        },
        EventKind::PullRequest(pull) => TriggerFacts {
            event: event.word(),
            branch: &pull.pull.head_branch,
            base_branch: Some(&pull.pull.base_branch),
            default_branch,
            changed,
        },
        EventKind::Data(data) => TriggerFacts {
            event: event.word(),
            branch: &data.branch,
            base_branch: None,
            default_branch,
            changed: None,
        },
        other => return Fit::Unwanted { why: format!("`{}` starts no runs", other.word()) },
    };
    match matches(&plan.when, &facts) {
        Match::Yes => Fit::Wanted,
        Match::No(why) if matches(&plan.when, &TriggerFacts { changed: None, ..facts }).is_yes() => {
            Fit::Paths { why }
        }
        Match::No(why) => Fit::Unwanted { why },
    }
}

/// Has the pipeline path filters, so that changed paths must be known?
pub fn has_paths(plan: &Plan) -> bool {
    plan.when.iter().any(|when| !when.paths.include.is_empty() || !when.paths.exclude.is_empty())
}
