//! The agent: the same binary as the first process of every attempt, and the protocol it speaks with the daemon.
//!
//! `attempt` is its whole life, after `begin`; the other files hold one part each, and `trainyard run` uses them without a daemon.
//! Must not: hold a forge's credential, or need anything from the user's image but `/bin/sh` and git.

pub mod artifact_path;
pub mod artifacts;
pub mod attempt;
pub mod begin;
pub mod caches;
pub mod checkpoint;
pub mod client;
pub mod collect;
pub mod data;
pub mod features;
pub mod inputs;
pub mod logs;
pub mod mask;
pub mod metrics;
pub mod mlflow;
pub mod outcome;
pub mod paths;
pub mod predictions;
pub mod proc;
pub mod process;
pub mod protocol;
pub mod script;
pub mod sheet;
pub mod source;
pub mod spool;
