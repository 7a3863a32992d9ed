//! The wire protocol, version 1. HTTP and JSON; every call may be repeated. The daemon serves every protocol of the last
//! twelve months, since trainings outlive upgrades.
//!
//! All calls go to `<agent listener>/agent/v1/attempts/{uid}/…` with `Authorization: Bearer <token>` (the bootstrap token
//! for `start`, the attempt's token for all others), and with `?protocol=1&rank=0`.
//!
//! An attempt of several pods has one agent in each, numbered by `rank`. Every rank trades a bootstrap token of its own
//! ([`rank_bootstrap`]) for a token of its own, which speaks for that rank alone: its `log`, its `metrics`, its `heartbeat`, its
//! `finish`. Rank 0 leads: it alone may `PUT` artifacts, checkpoints and caches, and the outputs of its `finish` are the step's. The
//! others' `finish` says how they ended; the attempt ends well when all of them have.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `POST start` | [`Start`] | [`Started`] |
//! | `POST log?offset=N` | bytes | [`LogCommitted`]; 409 carries the same with the committed offset |
//! | `POST metrics` | [`Metrics`] | [`MetricsStored`] |
//! | `PUT artifact?path=P&sha256=H&executable=0` | bytes | 204 |
//! | `GET artifact/{attempt uid}?path=P` | | bytes of an artifact that the spec lists |
//! | `GET cache?key=K` | | the archive, its SHA-256 in `x-trainyard-sha256`; 404: nothing is kept under the key |
//! | `PUT cache?key=K&sha256=H` | bytes | 204; 200: the key was taken before; 403: this run may keep nothing |
//! | `POST heartbeat` | [`Heartbeat`] | [`HeartbeatAnswer`] |
//! | `POST finish` | [`Finished`] | 204 |
//! | `GET git/info/refs?service=git-upload-pack`, `POST git/git-upload-pack` | git's own | git's own |
//!
//! 401: not (or no longer) this attempt's token. 410: the attempt has ended; stop. 409: see above. 429 and 5xx: try again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::data::DataSpec;
use super::features::FeatureBase;
use crate::model::plan::{Predictions, Transform};
use crate::model::{DataReport, EndClass, LEADER, MetricPoint, MetricSource, Sha};

pub const PROTOCOL: u32 = 1;

/// The bootstrap token of one rank, from the attempt's: the leader's is that one, and nobody else's leads back to it.
pub fn rank_bootstrap(token: &str, rank: u32) -> String {
    if rank == LEADER {
        token.to_owned()
    } else {
        hex::encode(Sha256::digest(format!("trainyard rank {rank} {token}")))
    }
}

/// Path of the artifact that says that a checkpoint is complete: a [`Checkpoint`], sent after its files.
pub const CHECKPOINT_MARK: &str = ".trainyard/checkpoint.json";
/// Its files are artifacts below this path, each named by its SHA-256.
pub const CHECKPOINT_FILES: &str = ".trainyard/checkpoint";

/// One whole checkpoint. The daemon keeps the last one of a step and lets go of files that it does not name; one without
/// files ends them all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Counted from 1 in each attempt.
    pub number: u64,
    pub files: Vec<CheckpointFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    /// In the source tree.
    pub path: String,
    pub sha256: String,
    pub executable: bool,
}

/// The file that an executor leaves for the agent (mode 0600, owned by the attempt's user); deleted after `start`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bootstrap {
    pub protocol: u32,
    /// Base URL of the agent listener, without a trailing slash.
    pub url: String,
    pub uid: String,
    pub token: String,
    /// Directory that belongs to this attempt: workspace, spool, state.
    pub dir: String,
    /// The CAs to trust, in PEM; none: plain HTTP on loopback.
    #[serde(default)]
    pub ca: Option<String>,
    /// How many pods the attempt has. Where there are several, they share this file as the executor left it, and each preparing
    /// container makes its own of it: with its rank and that rank's token.
    #[serde(default = "one")]
    pub ranks: u32,
    #[serde(default)]
    pub rank: u32,
    /// What a preparing container has done for this one.
    #[serde(default)]
    pub prepared: Option<Prepared>,
    /// Of no attempt: the pod shows that its pool starts it and that the daemon answers it (`trainyard doctor --probe`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
}

fn one() -> u32 {
    1
}

/// Left by the container that prepared a pod for the one that runs the step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prepared {
    /// The nonce that the bootstrap is bound to by now.
    pub nonce: String,
    /// How long fetching the source took.
    pub source_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// Random text made once for this attempt: a repeated `start` carries the same one.
    pub nonce: String,
    /// This container only prepares: the answer's token opens the source alone, its spec holds no secret, and the attempt
    /// does not run yet.
    #[serde(default)]
    pub preparing: bool,
    pub version: String,
    /// Process id and start time (clock ticks since boot, `/proc/<pid>/stat` field 22) of the agent, for the local executor.
    pub pid: u32,
    pub pid_started: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    /// The attempt's token for all further calls.
    pub token: String,
    pub spec: Spec,
}

/// What to do. Served on `start` alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    pub repo: String,
    pub step: String,
    pub number: i64,
    /// The commit to check out; the source comes from `git/` of this attempt.
    pub sha: Sha,
    /// Shell lines, run in order by one `/bin/sh -e`.
    pub setup: Vec<String>,
    pub commands: Vec<String>,
    /// The step's whole environment beside what the agent sets (`TRAINYARD_*`, `HOME`, `TMPDIR`, `PATH`, `CI`).
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are secret: set like `env`, masked everywhere.
    pub secrets: BTreeMap<String, String>,
    pub inputs: Vec<Input>,
    /// The checkpoint of an earlier attempt, put back at its own paths.
    #[serde(default)]
    pub resume: Vec<Input>,
    /// Globs of what to keep.
    pub artifacts: Vec<String>,
    pub metric_files: Vec<String>,
    /// Regular expressions for metrics in what the commands print.
    #[serde(default)]
    pub metric_patterns: Vec<String>,
    /// Where the step leaves a JUnit report.
    #[serde(default)]
    pub junit: Option<String>,
    pub checkpoint: Option<String>,
    /// How often it is kept while the step runs; 0: only when the step is asked to end.
    #[serde(default)]
    pub checkpoint_every_ms: i64,
    pub timeout_ms: i64,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: i64,
    pub log_quota_bytes: i64,
    pub gpus: Vec<u32>,
    #[serde(default)]
    pub caches: Vec<CacheSpec>,
    /// May it keep directories under keys that nobody had? Untrusted runs only read.
    #[serde(default)]
    pub cache_write: bool,
    /// The largest archive of a cache, in bytes.
    #[serde(default)]
    pub cache_bytes: i64,
    /// Data sets to check: the agent does that itself, and there are no commands.
    #[serde(default)]
    pub data: Vec<DataSpec>,
    /// Transforms to check: the commands run our own check of them.
    #[serde(default)]
    pub transforms: Vec<Transform>,
    /// By transform: what its features are held against.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_bases: BTreeMap<String, FeatureBase>,
    /// The table of predictions that some step leaves.
    #[serde(default)]
    pub predictions: Option<Predictions>,
    /// How many pods the attempt has.
    #[serde(default = "one")]
    pub ranks: u32,
}

/// A directory kept between runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSpec {
    /// With `${NAME}` and `${hash:FILE}` in place: the agent has the source tree.
    pub key: String,
    /// Relative to the source tree, or below `~/`.
    pub path: String,
}

/// An artifact of an earlier step to put into the source tree before the commands run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    pub attempt: String,
    /// Path at its producer, for the download.
    pub path: String,
    /// Where to put it, relative to the source tree.
    pub place: String,
    pub bytes: i64,
    pub sha256: String,
    pub executable: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LogCommitted {
    /// The next byte that the daemon expects.
    pub offset: i64,
    /// Bytes beyond the quota are counted, not kept: the agent stops sending them.
    #[serde(default)]
    pub full: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Metrics {
    /// Number of the first point, counted from 1 over the whole attempt.
    pub first_seq: i64,
    pub points: Vec<MetricPoint>,
    pub params: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct MetricsStored {
    /// Highest number stored.
    pub seq: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Resident memory of the process tree in bytes.
    pub rss_bytes: i64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    pub cancel: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finished {
    pub class: EndClass,
    /// The exit code of the commands; 128 + n when signal n ended them.
    pub exit_code: Option<i64>,
    /// One sentence for people.
    pub reason: String,
    pub outputs: BTreeMap<String, String>,
    /// Sentences for people: what was left out, and why.
    pub notes: Vec<String>,
    /// Where metrics came from, and what was passed over and why.
    #[serde(default)]
    pub sources: Vec<MetricSource>,
    pub log_lost_bytes: i64,
    /// How long ago the commands ended, in milliseconds: of several ranks that failed, the first is the cause.
    #[serde(default)]
    pub ended_ago_ms: i64,
    /// What the `data` step found.
    #[serde(default)]
    pub data: Vec<DataReport>,
}
