//! A plan in words, for `deliveries replay --dry-run` and `trainyard plan`.

use std::fmt::Write as _;

use super::plan::IntakePlan;
use crate::forge::ChangeWords;
use crate::model::{DeliveryState, Event, EventKind};

/// What would be done and why; nothing was written. Ends with a line feed.
/// `change` are the forge's words for a pull request.
pub fn explain(event: Option<&Event>, plan: &IntakePlan, change: ChangeWords) -> String {
    let mut out = String::new();
    if let Some(event) = event {
        let _ = writeln!(
            out,
            "event:    {} of {} by {}",
            describe(&event.kind, change),
            event.repo.name,
            event.actor.login
        );
    }
    let verdict = match plan.state {
        DeliveryState::Done => "acted on",
        DeliveryState::Ignored => "ignored",
        DeliveryState::BadPayload => "not understood",
        DeliveryState::Stored | DeliveryState::Parked => "not decided",
    };
    let _ = writeln!(out, "decision: {verdict}: {}", plan.reason);
    for run in &plan.runs {
        let trust = if run.trusted { "trusted" } else { "untrusted" };
        let _ = writeln!(
            out,
            "run:      {} at {} on `{}`, generation {}, {trust}, {}",
            run.pipeline, run.sha, run.branch, run.generation, run.state
        );
        for line in run.reason.lines() {
            let _ = writeln!(out, "          {line}");
        }
        if let Some(group) = &run.concurrency {
            let _ = writeln!(out, "          concurrency group {group}");
        }
        for step in &run.plan.steps {
            let needs: Vec<&str> = step.needs.iter().map(|n| n.step.as_str()).collect();
            let needs =
                if needs.is_empty() { "at once".to_owned() } else { format!("after {}", needs.join(", ")) };
            let pool = step.pool.as_deref().unwrap_or("the default pool");
            let _ = writeln!(out, "  step    {} {needs}, on {pool}, {} GPUs", step.name, step.resources.gpu);
        }
    }
    for (id, why) in plan.cancel.iter().chain(&plan.supersede_held) {
        let _ = writeln!(out, "stop:     run {id}: {why}");
    }
    out
}

fn describe(kind: &EventKind, change: ChangeWords) -> String {
    match kind {
        EventKind::Push(push) => match &push.after {
            Some(sha) => format!("push of {} to `{}`", sha.short(), push.branch),
            None => format!("deletion of `{}`", push.branch),
        },
        EventKind::Tag(tag) => match &tag.after {
            Some(sha) => format!("tag `{}` at {}", tag.tag, sha.short()),
            None => format!("deletion of the tag `{}`", tag.tag),
        },
        EventKind::PullRequest(pull) => {
            format!(
                "{} at {} onto `{}`",
                change.named(pull.pull.number),
                pull.pull.head_sha.short(),
                pull.pull.base_branch
            )
        }
        EventKind::Comment(comment) => format!("comment on {}", change.number(comment.pull_number)),
        EventKind::Data(data) => format!("new data in {} for `{}`", data.prefix, data.pipeline),
        EventKind::Ping => "ping".into(),
    }
}
