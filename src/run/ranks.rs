//! What the ends of an attempt's pods mean for the attempt. Pure. Of a single pod only an end by a signal comes here: its agent
//! cannot tell whose it was, and its executor can.
//!
//! It succeeds when every rank has said that it ended with 0. One that fails or is lost ends it, and all begin again: a
//! collective does not go on without a member. Whoever is left then fails too, on a broken connection or on the SIGTERM by which
//! the cluster ends the rest of the Job, often before anybody hears of the first. So what the cluster itself saw (a node lost,
//! memory, an eviction) outranks what an agent said; among words, the end that came first is the cause; and a rank that says
//! nothing at all after the others have failed is the one that was lost.

use super::next::Observed;
use crate::clock::Millis;
use crate::executor::Observation;
use crate::model::EndClass;
use crate::store::attempts::AttemptRow;
use crate::store::ranks::RankRow;

/// Beyond the grace that the cluster gives the rest of a Job, how long silent ranks are waited for.
const SILENCE_MS: Millis = 90_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is decided by its ranks yet.
    Going,
    /// One has failed. Until then at the latest it is known which was the first.
    Wait {
        until_ms: Millis,
    },
    Over {
        class: EndClass,
        reason: String,
        exit_code: Option<i64>,
    },
}

/// Decides over an attempt from what its `ranks` said and what its executor saw in this pass. `in_vain`: it was asked and did not
/// answer.
pub(super) fn verdict(
    attempt: &AttemptRow,
    ranks: &[&RankRow],
    seen: Option<&Observed>,
    in_vain: bool,
    grace_ms: Millis,
    now: Millis,
) -> Verdict {
    let ended = || ranks.iter().filter_map(|row| Some((*row, row.class?, row.ended_ms?)));
    let worded = |row: &RankRow| match attempt.ranks {
        1 => row.reason.clone(),
        _ => format!("rank {}: {}", row.of.rank, row.reason),
    };
    if ended().filter(|(_, class, _)| *class == EndClass::Succeeded).count() == attempt.ranks as usize {
        let leader = ranks.iter().find(|row| row.of.leads());
        return Verdict::Over {
            class: EndClass::Succeeded,
            reason: leader.map(|row| row.reason.clone()).unwrap_or_default(),
            exit_code: leader.and_then(|row| row.exit_code),
        };
    }
    let bad = || ended().filter(|(_, class, _)| *class != EndClass::Succeeded);
    let Some(first) = bad().min_by_key(|(row, _, at)| (*at, row.of.rank)) else { return Verdict::Going };
    let (row, class, _) = first;
    let signalled = class.answers_a_signal();
    if let Some(Observation::Gone { class, exit_code, reason }) = seen.map(|seen| &seen.what)
        && (of_the_machines(*class) || signalled && of_others(*class))
    {
        return Verdict::Over { class: *class, reason: reason.clone(), exit_code: *exit_code };
    }
    let silent = ranks.iter().find(|row| row.started_ms.is_some() && row.class.is_none());
    let until_ms = bad().map(|(_, _, at)| at).min().unwrap_or(now) + grace_ms + SILENCE_MS;
    let over = matches!(seen.map(|seen| &seen.what), Some(Observation::Gone { .. } | Observation::Unknown));
    match silent {
        // Nobody is waited for where the cluster was not asked: it may know more than the words.
        _ if seen.is_none() && !(in_vain && now >= until_ms) => Verdict::Wait { until_ms },
        // Whose signal it was shows once its pod has ended.
        None if signalled && !over && now < until_ms => Verdict::Wait { until_ms },
        Some(_) if now < until_ms => Verdict::Wait { until_ms },
        Some(lost) => Verdict::Over {
            class: EndClass::NodeLost,
            reason: format!(
                "rank {}: no word from it after rank {} ended ({})",
                lost.of.rank, row.of.rank, row.reason
            ),
            exit_code: None,
        },
        None => Verdict::Over { class, reason: worded(row), exit_code: row.exit_code },
    }
}

/// Ends that came from outside, of which those who were ended know only a signal.
fn of_others(class: EndClass) -> bool {
    matches!(class, EndClass::Cancelled | EndClass::TimedOut)
}

/// Ends that no word of a peer explains.
fn of_the_machines(class: EndClass) -> bool {
    matches!(
        class,
        EndClass::OutOfMemory
            | EndClass::Preempted
            | EndClass::Evicted
            | EndClass::NodeLost
            | EndClass::Image
            | EndClass::Quota
            | EndClass::Unschedulable
    )
}
