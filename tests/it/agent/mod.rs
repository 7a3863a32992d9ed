//! The agent as a process of its own against a strict daemon: G8, G9, F29, F33, S09, S18.

mod bad;
mod caches;
mod checkpoints;
pub mod daemon;
mod endings;
mod good;
mod logs;
mod unreached;
