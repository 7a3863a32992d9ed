//! trainyard: one daemon between a git push and a better model in production.
//!
//! The rooms, lowest level first; a room uses only rooms of a lower level (`tests/it/architecture.rs` enforces the
//! table of ARCHITECTURE.md).

pub mod clock;
pub mod failpoint;
pub mod model;

pub mod config;

pub mod blob;
pub mod forge;
pub mod pipeline;
pub mod store;

pub mod agent;

pub mod executor;
pub mod queue;

pub mod intake;
pub mod outbox;
pub mod report;
pub mod results;
pub mod retention;
pub mod reuse;
pub mod run;

pub mod http;

pub mod sandbox;

pub mod cli;
