//! What an attempt's end means for its step.

use crate::model::{EndClass, StepSpec, StepState};

/// A step that ends with exit 75 time and again is stopped after so many attempts.
const MOST_ATTEMPTS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The step waits for a place again.
    Again {
        reason: String,
    },
    End {
        to: StepState,
        reason: String,
    },
}

/// How an attempt ended, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub class: EndClass,
    /// Its pool's places are given and taken back by a queue outside.
    pub queued: bool,
}

impl End {
    /// A queue that lends places takes them back as a matter of course: that says nothing of the step.
    fn lent_only(self) -> bool {
        self.queued && self.class == EndClass::Preempted
    }
}

/// Decides after the attempt that ended last, `why` being its sentence. `ended` are all ended attempts of the step, that one
/// included. A class that `retry.when` names (no words: the infrastructure classes) may be repeated `retry.max` times; other
/// infrastructure classes once; exit 75, and a place that a queue took back, spend nothing.
pub fn after(spec: &StepSpec, last: End, why: &str, ended: &[End]) -> After {
    let class = last.class;
    if last.lent_only() && ended.len() < MOST_ATTEMPTS {
        let sentence = if why.is_empty() { default_sentence(class) } else { why };
        return After::Again { reason: format!("{sentence}; it waits for a place again") };
    }
    let to = match class {
        EndClass::Succeeded => return After::End { to: StepState::Succeeded, reason: String::new() },
        EndClass::Checkpointed if ended.len() < MOST_ATTEMPTS => {
            return After::Again { reason: "resumes from its checkpoint".into() };
        }
        EndClass::Checkpointed => {
            let reason = format!("it asked to be resumed (exit 75) {MOST_ATTEMPTS} times");
            return After::End { to: StepState::Failed, reason };
        }
        EndClass::Failed | EndClass::TimedOut | EndClass::OutOfMemory | EndClass::Artifacts => {
            StepState::Failed
        }
        EndClass::Cancelled
        | EndClass::StorageFull
        | EndClass::Source
        | EndClass::Preempted
        | EndClass::Evicted
        | EndClass::NodeLost
        | EndClass::Unschedulable
        | EndClass::Image
        | EndClass::Quota
        | EndClass::Internal => StepState::Errored,
    };
    let sentence = if why.is_empty() { default_sentence(class).to_owned() } else { why.to_owned() };
    let declared = |c: EndClass| {
        spec.retry.max > 0
            && if spec.retry.when.is_empty() {
                c.is_infrastructure()
            } else {
                spec.retry.when.iter().any(|word| word == c.word())
            }
    };
    // Stopped by something outside that was not us is the machine's doing. A place, an image or a quota that cannot be had
    // will not be had a moment later either.
    let by_default = |c: EndClass| {
        (c.is_infrastructure() && !matches!(c, EndClass::Unschedulable | EndClass::Image | EndClass::Quota))
            || c == EndClass::Cancelled
    };
    let spending = || ended.iter().filter(|end| !end.lent_only()).map(|end| end.class);
    let (budget, spent) = if declared(class) {
        (spec.retry.max as usize, spending().filter(|c| declared(*c)).count())
    } else if by_default(class) {
        (1, spending().filter(|c| by_default(*c) && !declared(*c)).count())
    } else {
        (0, 1)
    };
    if spent <= budget {
        After::Again { reason: format!("{sentence}; trying again ({spent} of {budget})") }
    } else {
        After::End { to, reason: sentence }
    }
}

/// The class to believe when the process is gone and its agent said nothing.
pub fn silent_end(class: EndClass, exit_code: Option<i64>, reason: &str) -> (EndClass, String) {
    match class {
        EndClass::Succeeded | EndClass::Checkpointed => {
            (EndClass::Internal, "it ended without a word from its agent".to_owned())
        }
        class if reason.is_empty() => {
            let code = exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
            (class, format!("{}{code}", default_sentence(class)))
        }
        class => (class, reason.to_owned()),
    }
}

fn default_sentence(class: EndClass) -> &'static str {
    match class {
        EndClass::Succeeded => "it succeeded",
        EndClass::Failed => "a command failed",
        EndClass::Checkpointed => "it stopped at a checkpoint",
        EndClass::TimedOut => "its time limit passed",
        EndClass::Cancelled => "it was stopped from outside",
        EndClass::OutOfMemory => "it ran out of memory",
        EndClass::StorageFull => "the disk or a quota was full",
        EndClass::Source => "its source could not be fetched",
        EndClass::Artifacts => "a declared artifact was missing or could not be stored",
        EndClass::Preempted => "the machine was taken back",
        EndClass::Evicted => "its node ran short and put it out",
        EndClass::NodeLost => "its process or node vanished without a word",
        EndClass::Unschedulable => "no place was found for it",
        EndClass::Image => "its image could not be had",
        EndClass::Quota => "a quota or an admission rule refused it",
        EndClass::Internal => {
            "something went wrong on trainyard's side; the log of the daemon at that time says what"
        }
    }
}
