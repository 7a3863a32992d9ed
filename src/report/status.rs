//! The status of one pipeline on a commit: the run's result and its worst comparison, as long as the forge takes it.

use super::view::{ComparisonView, Section};
use super::{escape, numbers};
use crate::forge::{Status, StatusState};
use crate::model::{ComparisonState, Outcome, RunState, Sha, Verdict, summary_line};

pub fn context(pipeline: &str) -> String {
    format!("trainyard/{}", escape::plain(pipeline, 200))
}

/// What the status of a pipeline on a commit goes by in the outbox.
pub fn target(sha: &Sha, pipeline: &str) -> String {
    format!("{sha}/{}", context(pipeline))
}

/// None: say nothing new yet (the run succeeded and is about to be compared).
/// `limit` is the forge's for the description, in characters.
pub fn status(section: &Section, limit: usize) -> Option<Status> {
    let pending = |text: String| (StatusState::Pending, text);
    let because = |word: &str| match section.reason.as_str() {
        "" => word.to_owned(),
        // One line of a broken file's findings; the comment has all.
        reason if section.state == RunState::Errored => format!("{word}: {}", summary_line(reason)),
        reason => format!("{word}: {reason}"),
    };
    let (state, description) = match section.state {
        RunState::Held => pending(
            "waiting for release: an untrusted head, someone with a trainyard token of scope run must release it".to_owned(),
        ),
        RunState::Running if section.waits.is_some() => {
            pending(section.waits.clone().unwrap_or_default())
        }
        // After a release the forge has heard of it already: queued and running are one word there, to save a write.
        RunState::Queued | RunState::Running if !section.trusted => pending("released, running".to_owned()),
        RunState::Queued => pending("queued".to_owned()),
        RunState::Running => (StatusState::Running, "running".to_owned()),
        RunState::Succeeded => match &section.comparison {
            None => return None,
            Some(c) if c.state == ComparisonState::Pending => {
                pending(format!("waiting for the baseline run: {}", c.note))
            }
            Some(c) => succeeded(c),
        },
        RunState::Failed => (StatusState::Failure, because("failed")),
        RunState::Errored => (StatusState::Error, because("error")),
        RunState::Cancelled => (StatusState::Cancelled, because("cancelled")),
        RunState::Superseded => (StatusState::Cancelled, because("superseded")),
        RunState::Skipped => (StatusState::Success, because("skipped")),
    };
    Some(Status {
        context: context(&section.pipeline),
        state,
        description: escape::plain(&description, limit),
        target_url: section.run_url.clone(),
    })
}

fn succeeded(comparison: &ComparisonView) -> (StatusState, String) {
    let verdict = comparison.verdict.unwrap_or(Verdict::Inconclusive);
    let outcome = comparison.outcome.as_ref();
    let gated = outcome.is_some_and(|o| o.metrics.iter().any(|m| m.gate.is_some()));
    let warned = outcome.is_some_and(|o| {
        o.metrics.iter().filter_map(|m| m.gate.as_ref()).any(|g| g.warn_only && g.verdict == Verdict::Fail)
    });
    let first = outcome.and_then(|o| o.reasons.first()).map(String::as_str).unwrap_or_default();
    let judged = match verdict {
        Verdict::Pass if warned => format!("gates passed with a warning: {first}"),
        Verdict::Pass if gated => "gates passed".to_owned(),
        Verdict::Pass => "no gates".to_owned(),
        Verdict::Fail => format!("gate failed: {first}"),
        Verdict::Inconclusive if outcome.is_none_or(|o| o.baseline_seeds() == 0) => {
            format!("inconclusive, {}", comparison.note)
        }
        Verdict::Inconclusive => format!("inconclusive: {first}"),
    };
    let state = if verdict == Verdict::Fail { StatusState::Failure } else { StatusState::Success };
    let headline = outcome.and_then(|o| headline(o, comparison));
    (state, headline.map_or_else(|| judged.clone(), |h| format!("{h} · {judged}")))
}

/// `accuracy 0.8612 (+0.0131 vs main 1a2b3c4)`.
fn headline(outcome: &Outcome, comparison: &ComparisonView) -> Option<String> {
    let metric = outcome.primary()?;
    let this = metric.candidate.as_ref()?.value();
    let base = metric.baseline.as_ref().map(crate::model::outcome::Aggregate::value);
    let decimals = numbers::decimals(&[this, base.unwrap_or(this)], metric.delta);
    let name = escape::plain(&metric.name, 40);
    let value = numbers::value(this, decimals);
    // `, 95 % CI +0.0104 … +0.0158`
    let range = metric.evidence.as_ref().map_or_else(String::new, |e| {
        let decimals = decimals.max(numbers::decimals(&[], Some(e.high - e.low))).min(6);
        let end = |x| numbers::signed(x, decimals);
        format!(", {:.0} % CI {} … {},", 100.0 * e.level, end(e.low), end(e.high))
    });
    Some(match (metric.delta, &comparison.baseline) {
        (Some(delta), Some(against)) => format!(
            "{name} {value} ({}{range} vs {} {})",
            numbers::signed(delta, decimals),
            escape::plain(&against.branch, 24),
            against.sha.abbreviated()
        ),
        _ => format!("{name} {value}"),
    })
}
