//! The states of runs, steps, attempts and comparisons, and the one table of legal moves.

macro_rules! states {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema, ::utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The word stored in the database and shown to people.
            pub const fn word(self) -> &'static str { match self { $(Self::$variant => $word),+ } }
        }
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result { f.pad(self.word()) }
        }
        impl ::std::str::FromStr for $name {
            type Err = $crate::model::Invalid;
            fn from_str(text: &str) -> Result<Self, $crate::model::Invalid> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::model::Invalid { what: $what, value: text.to_owned(), why: concat!("the words are", $(" ", $word),+) }),
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = $crate::model::Invalid;
            fn try_from(text: String) -> Result<Self, $crate::model::Invalid> { text.parse() }
        }
    };
}
pub(crate) use states;

states! {
    /// Where a run stands. The last six are terminal: written once, never changed (promise G6).
    RunState, "run state" {
        /// Untrusted: waits for a release that names its sha.
        Held = "held",
        Queued = "queued",
        Running = "running",
        Succeeded = "succeeded",
        /// The user's commands or gates said no.
        Failed = "failed",
        /// We, the pipeline file or the machines failed it.
        Errored = "errored",
        Cancelled = "cancelled",
        /// A newer run of its concurrency group, or a trusted twin, took its place.
        Superseded = "superseded",
        /// Nothing to do for this push (paths, skip request).
        Skipped = "skipped",
    }
}

states! {
    StepState, "step state" {
        /// Some step it needs has not ended yet.
        Waiting = "waiting",
        /// May start as soon as its pool has room.
        Ready = "ready",
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Errored = "errored",
        Cancelled = "cancelled",
        /// A step it needs did not succeed.
        Skipped = "skipped",
        /// An equal step's result was taken over.
        Reused = "reused",
    }
}

states! {
    AttemptState, "attempt state" {
        /// The row exists; nothing outside may exist yet.
        Intended = "intended",
        /// The executor was asked, and answered.
        Submitted = "submitted",
        /// The executor holds it, no process runs yet.
        Pending = "pending",
        /// The agent said `start`.
        Running = "running",
        /// The commands ended; logs and artifacts are still arriving.
        Finishing = "finishing",
        Ended = "ended",
    }
}

states! {
    /// Why an attempt ended: decides retries, the run's state and the sentence on the pull request.
    EndClass, "end class" {
        Succeeded = "succeeded",
        /// A command exited with another code than 0 and 75.
        Failed = "failed",
        /// Exit 75: "checkpointed, resume me". Does not spend the retry budget.
        Checkpointed = "checkpointed",
        /// The step's own time limit passed.
        TimedOut = "timed_out",
        /// We were asked to stop it.
        Cancelled = "cancelled",
        OutOfMemory = "oom",
        /// The disk or a quota was full.
        StorageFull = "storage_full",
        /// The source could not be fetched.
        Source = "source",
        /// A declared artifact was missing or could not be stored.
        Artifacts = "artifacts",
        /// The machine took it back (spot, drain, a more important pod).
        Preempted = "preempted",
        /// Its node ran short of memory or disk and put it out.
        Evicted = "evicted",
        /// The process or node vanished without a word.
        NodeLost = "node_lost",
        /// It never started within the pending limit, or the executor refused it.
        Unschedulable = "unschedulable",
        /// Its image could not be had, or no container could be made of it.
        Image = "image",
        /// A quota or an admission rule of the cluster refused it.
        Quota = "quota",
        /// Anything else on our side.
        Internal = "internal",
    }
}

impl EndClass {
    /// Is it how an agent says that a signal ended its commands? Whose signal it was, only the executor can tell.
    pub fn answers_a_signal(self) -> bool {
        matches!(self, Self::Preempted | Self::Checkpointed)
    }

    /// Did our side or the machines end it, rather than the user's own commands?
    pub fn is_infrastructure(self) -> bool {
        matches!(
            self,
            Self::Preempted
                | Self::Evicted
                | Self::NodeLost
                | Self::Unschedulable
                | Self::Image
                | Self::Quota
                | Self::Internal
                | Self::StorageFull
                | Self::Source
        )
    }
}

states! {
    ComparisonState, "comparison state" {
        /// The baseline is queued or running, or the candidate's metrics are not final.
        Pending = "pending",
        Final = "final",
        /// Retargeted, or a better baseline arrived.
        Superseded = "superseded",
    }
}

states! {
    /// What a gate, a comparison or a check says; a worse one is greater.
    Verdict, "verdict" {
        Pass = "pass",
        /// The evidence does not decide it (no baseline, too few seeds).
        Inconclusive = "inconclusive",
        Fail = "fail",
    }
}

states! {
    DeliveryState, "delivery state" {
        /// Acknowledged, not yet looked at.
        Stored = "stored",
        /// Its decision is committed.
        Done = "done",
        Ignored = "ignored",
        BadPayload = "bad_payload",
        /// Its handler failed five times; an operator may replay it.
        Parked = "parked",
    }
}

impl RunState {
    /// A cancel request that starts with this ends its run as superseded, any other one as cancelled.
    pub const SUPERSEDED_BY: &'static str = "superseded: ";
    pub const TERMINAL: &'static [Self] =
        &[Self::Succeeded, Self::Failed, Self::Errored, Self::Cancelled, Self::Superseded, Self::Skipped];

    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }

    /// The states that may follow this one.
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Held => &[Self::Queued, Self::Cancelled, Self::Superseded, Self::Errored],
            Self::Queued => &[
                Self::Running,
                Self::Succeeded,
                Self::Errored,
                Self::Cancelled,
                Self::Superseded,
                Self::Skipped,
                Self::Failed,
            ],
            Self::Running => {
                &[Self::Succeeded, Self::Failed, Self::Errored, Self::Cancelled, Self::Superseded]
            }
            _ => &[],
        }
    }
}

impl StepState {
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Waiting | Self::Ready | Self::Running)
    }
    /// Ended in a way that lets the steps that need it start.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Succeeded | Self::Reused)
    }

    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Waiting => &[Self::Ready, Self::Cancelled, Self::Skipped, Self::Reused],
            Self::Ready => &[Self::Running, Self::Cancelled, Self::Skipped, Self::Errored, Self::Reused],
            // Back to ready: a retry waits for its pool like everyone else.
            Self::Running => &[Self::Ready, Self::Succeeded, Self::Failed, Self::Errored, Self::Cancelled],
            _ => &[],
        }
    }
}

impl AttemptState {
    pub fn is_terminal(self) -> bool {
        self == Self::Ended
    }
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Intended => &[Self::Submitted, Self::Pending, Self::Running, Self::Ended],
            Self::Submitted => &[Self::Pending, Self::Running, Self::Ended],
            Self::Pending => &[Self::Running, Self::Ended],
            Self::Running => &[Self::Finishing, Self::Ended],
            Self::Finishing => &[Self::Ended],
            Self::Ended => &[],
        }
    }
}

impl ComparisonState {
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::Pending => &[Self::Final, Self::Superseded],
            Self::Final => &[Self::Superseded],
            Self::Superseded => &[],
        }
    }
}

/// A reason of several lines as one: the first, and how many more there are.
pub fn summary_line(reason: &str) -> String {
    let first = reason.lines().next().unwrap_or_default();
    match reason.lines().count().saturating_sub(1) {
        0 => first.to_owned(),
        more => format!("{first} (and {more} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_terminal_states_have_no_exit() {
        for s in RunState::ALL {
            assert_eq!(s.word().parse::<RunState>().unwrap(), *s);
            assert_eq!(s.is_terminal(), s.next().is_empty(), "{s}");
        }
        for s in StepState::ALL {
            assert_eq!(s.is_terminal(), s.next().is_empty(), "{s}");
        }
        for s in AttemptState::ALL {
            assert_eq!(s.is_terminal(), s.next().is_empty(), "{s}");
        }
    }
}
