//! Decides, purely, what the end of the commands means: the class that steers retries and the sentence that people read.

use super::process::{Ended, Exit, Stop};
use crate::model::{EndClass, spell_span};

/// How an attempt ended, before artifacts are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub class: EndClass,
    pub exit_code: Option<i64>,
    pub reason: String,
}

impl Outcome {
    pub fn of(class: EndClass, reason: impl Into<String>) -> Self {
        Self { class, exit_code: None, reason: reason.into() }
    }

    pub fn stopped(stop: Stop, timeout_ms: i64) -> Self {
        match stop {
            Stop::Cancelled => Self::of(EndClass::Cancelled, "cancelled"),
            Stop::Gone => Self::of(EndClass::Cancelled, "the attempt had ended for the daemon already"),
            Stop::Preempted => Self::of(EndClass::Preempted, "the machine asked it to end (SIGTERM)"),
            Stop::TimedOut => {
                Self::of(EndClass::TimedOut, format!("over its time limit of {}", spell_span(timeout_ms)))
            }
        }
    }
}

/// What else was seen around the end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs<'a> {
    /// The kernel's out-of-memory killer struck while the commands ran.
    pub oom_killed: bool,
    /// The log spool could not be written: the disk's own words.
    pub spool_refused: Option<&'a str>,
    /// The last bytes of the output.
    pub tail: &'a str,
}

/// What programs print when a disk or a quota is full (errno 28 and 122).
const FULL: &[&str] =
    &["No space left on device", "[Errno 28]", "ENOSPC", "Disk quota exceeded", "[Errno 122]"];

pub fn of(ended: &Ended, timeout_ms: i64, signs: Signs<'_>) -> Outcome {
    let code = ended.exit.code();
    if let (Some(Stop::Preempted), Exit::Code(75)) = (ended.stop, ended.exit) {
        let reason = "the machine asked it to end (SIGTERM); exit code 75: checkpointed, to be resumed";
        return Outcome { class: EndClass::Checkpointed, exit_code: Some(code), reason: reason.into() };
    }
    if let Some(stop) = ended.stop {
        return Outcome { exit_code: Some(code), ..Outcome::stopped(stop, timeout_ms) };
    }
    let full = signs.spool_refused.is_some() || FULL.iter().any(|words| signs.tail.contains(words));
    let (class, reason) = match ended.exit {
        Exit::Code(0) => (EndClass::Succeeded, "the commands ended with exit code 0".to_owned()),
        Exit::Code(75) => (EndClass::Checkpointed, "exit code 75: checkpointed, to be resumed".to_owned()),
        _ if code == 137 && signs.oom_killed => {
            (EndClass::OutOfMemory, "killed by the kernel: out of memory".to_owned())
        }
        _ if full => (EndClass::StorageFull, format!("exit code {code}: the disk or a quota is full")),
        Exit::Signal(9) | Exit::Code(137) => {
            (EndClass::Failed, "killed by signal 9 (SIGKILL), possibly out of memory".to_owned())
        }
        Exit::Signal(n) => (EndClass::Failed, format!("killed by signal {n}{}", signal_name(n))),
        Exit::Code(n) if (129..=159).contains(&n) => (
            EndClass::Failed,
            format!("exit code {n}: a command was killed by signal {}{}", n - 128, signal_name(n - 128)),
        ),
        Exit::Code(127) => (
            EndClass::Failed,
            "exit code 127: a command was not found; the log's last lines name it: install it in `setup`, or name an image that has \
             it (Python may be there as `python3` only)"
                .to_owned(),
        ),
        Exit::Code(n) => (EndClass::Failed, format!("exit code {n}")),
    };
    Outcome { class, exit_code: Some(code), reason }
}

fn signal_name(n: i32) -> String {
    nix::sys::signal::Signal::try_from(n).map_or(String::new(), |s| format!(" ({s})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_their_classes() {
        let ended = |exit, stop| Ended { exit, stop, killed: 0, struck: Vec::new() };
        let oom = Signs { oom_killed: true, ..Signs::default() };
        let full = Signs { tail: "OSError: [Errno 28] No space left on device\n", ..Signs::default() };
        let none = Signs::default();
        let rows = [
            (ended(Exit::Code(0), None), none, "succeeded 0 the commands ended with exit code 0"),
            (ended(Exit::Code(0), None), full, "succeeded 0 the commands ended with exit code 0"),
            (ended(Exit::Code(1), None), none, "failed 1 exit code 1"),
            (ended(Exit::Code(1), None), full, "storage_full 1 exit code 1: the disk or a quota is full"),
            (ended(Exit::Code(75), None), none, "checkpointed 75 exit code 75: checkpointed, to be resumed"),
            (
                ended(Exit::Code(127), None),
                none,
                "failed 127 exit code 127: a command was not found; the log's last lines name it: install it in `setup`, or name an \
                 image that has it (Python may be there as `python3` only)",
            ),
            (
                ended(Exit::Code(137), None),
                none,
                "failed 137 killed by signal 9 (SIGKILL), possibly out of memory",
            ),
            (ended(Exit::Code(137), None), oom, "oom 137 killed by the kernel: out of memory"),
            (ended(Exit::Code(1), None), oom, "failed 1 exit code 1"),
            (ended(Exit::Signal(9), None), oom, "oom 137 killed by the kernel: out of memory"),
            (
                ended(Exit::Code(139), None),
                none,
                "failed 139 exit code 139: a command was killed by signal 11 (SIGSEGV)",
            ),
            (ended(Exit::Signal(15), None), none, "failed 143 killed by signal 15 (SIGTERM)"),
            (
                ended(Exit::Signal(15), Some(Stop::TimedOut)),
                none,
                "timed_out 143 over its time limit of 90 s",
            ),
            (ended(Exit::Code(0), Some(Stop::Cancelled)), none, "cancelled 0 cancelled"),
            (ended(Exit::Code(75), Some(Stop::Cancelled)), none, "cancelled 75 cancelled"),
            (
                ended(Exit::Code(75), Some(Stop::Preempted)),
                none,
                "checkpointed 75 the machine asked it to end (SIGTERM); exit code 75: checkpointed, to be resumed",
            ),
            (
                ended(Exit::Signal(9), Some(Stop::Preempted)),
                oom,
                "preempted 137 the machine asked it to end (SIGTERM)",
            ),
        ];
        for (ended, signs, want) in rows {
            let got = of(&ended, 90_000, signs);
            let got = format!("{} {} {}", got.class, got.exit_code.unwrap(), got.reason);
            assert_eq!(got.replace("1 min", "90 s"), want);
        }
    }
}
