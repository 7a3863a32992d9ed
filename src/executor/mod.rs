//! Executors: where attempts run.

pub mod kubernetes;
pub mod local;

use async_trait::async_trait;

use crate::clock::Millis;
use crate::model::{AttemptUid, EndClass, Held, RunId, StepSpec};

/// All that an executor needs to start an attempt's agent. The agent asks the daemon for the rest.
#[derive(Debug, Clone)]
pub struct Launch {
    pub uid: AttemptUid,
    /// Deterministic name of the outside object: `ty-` and 20 base32 digits.
    pub name: String,
    pub spec: StepSpec,
    pub number: i64,
    pub run: RunId,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Of a run that may be believed: an untrusted one gives way to others.
    pub trusted: bool,
    pub pool: String,
    pub gpus: Vec<u32>,
    /// Base URL of the agent listener, as processes of this machine reach it.
    pub agent_url: String,
    /// The CA of the agent listener, in PEM, where it speaks TLS.
    pub agent_ca: Option<String>,
    pub bootstrap: secrecy::SecretString,
    /// May run without a user of its own (`trusted = true` in the configuration).
    pub repo_trusted: bool,
    /// Of no attempt: its agent tries the way to the daemon, and ends (`trainyard doctor --probe`).
    pub probe: bool,
    /// The executor's notes of an earlier submit of the same attempt (`{}` when there are none).
    pub handle: serde_json::Value,
}

/// What an executor knows of an attempt. Says nothing of results: those come from the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Not started yet; the sentence says what it waits for.
    Pending {
        why: String,
        /// Since when it could have started, where that is later than its submit: a queue outside may hold it back for long.
        since_ms: Option<Millis>,
    },
    Running,
    /// It runs, and someone else has deleted what keeps it: it is to be ended ([`Executor::cancel`]), and its end will say so.
    Withdrawn,
    /// The process tree is gone. `class` is what the executor itself could tell (killed by the kernel, node lost, …).
    Gone {
        class: EndClass,
        exit_code: Option<i64>,
        reason: String,
    },
    /// The executor never had it, or has forgotten it.
    Unknown,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It will never be accepted as asked (no such pool, no user to run as, …): the step ends as `unschedulable`.
    #[error("{0}")]
    Refused(String),
    /// A quota or an admission rule says no: the step ends as `quota`.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Transient(String),
    /// As `Transient`; and it answers nobody: to ask it about other attempts now would take as long again.
    #[error("{0}")]
    Away(String),
}

/// A place where attempts run. Thread safe. No call blocks until an attempt ends: training outlives the daemon.
/// The conformance suite in `tests/it/executor_conformance.rs` runs on every implementation.
#[async_trait]
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// Starts the attempt's agent. Idempotent by `Launch::uid`: submitting what exists already is success and starts
    /// nothing. Returns notes for finding it again after a restart, which the caller stores.
    async fn submit(&self, launch: &Launch) -> Result<serde_json::Value, ExecutorError>;
    /// Looks once. Must answer from the outside world, not from memory of this process.
    async fn observe(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<Observation, ExecutorError>;
    /// Asks the agent to end (SIGTERM, then after `grace_ms` the whole tree is killed). Idempotent; returns at once.
    async fn cancel(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
        grace_ms: i64,
    ) -> Result<(), ExecutorError>;
    /// From when to when the attempt held its place outside, where the executor knows better than the agent. Asked before
    /// `remove`; makes no call but to a monitor, for two seconds at most.
    async fn held(&self, uid: &AttemptUid) -> Option<Held> {
        let _ = uid;
        None
    }
    /// The log of an ended attempt as its agent left it, masked, from its first byte on; None where it cannot be had from here. The step
    /// may have written what it likes into it.
    fn log_left(&self, uid: &AttemptUid, handle: &serde_json::Value) -> Option<std::fs::File> {
        let _ = (uid, handle);
        None
    }
    /// Deletes what is left outside (processes, workspace, objects) of an ended attempt. Idempotent. `name` as in [`Launch::name`]:
    /// a submit that was cut off leaves objects and no notes.
    async fn remove(
        &self,
        name: &str,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<(), ExecutorError>;
}

/// The outside name of an attempt: `ty-` + the first 20 lower-case base32 characters of SHA-256 over the length-prefixed
/// (instance, run, step, attempt). Fits a DNS label and is the same however often it is computed (G4).
pub fn external_name(instance: &str, run: &str, step: &str, attempt: i64) -> String {
    use sha2::{Digest, Sha256};
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut hash = Sha256::new();
    for part in [instance, run, step, &attempt.to_string()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut name = String::from("ty-");
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in &digest {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 5 && name.len() < 23 {
            held -= 5;
            name.push(DIGITS[((bits >> held) & 31) as usize] as char);
        }
    }
    name
}
