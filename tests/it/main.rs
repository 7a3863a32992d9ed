//! One binary for the tests that drive real parts together. Each file says which promise or Show line it serves.
#![allow(
    clippy::unwrap_used,
    clippy::items_after_statements,
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    clippy::unused_async,
    clippy::result_large_err,
    reason = "all of this is tests; the exception in clippy.toml sees only `#[test]` functions"
)]

mod agent;
mod architecture;
mod baseline;
#[path = "../common/bucket.rs"]
mod bucket;
mod clouds;
mod dashboard;
mod data_cli;
mod data_event;
mod doctor;
mod drive;
mod executor_conformance;
mod fake_forge;
mod features;
mod forge_conformance;
mod forge_shapes;
mod forge_tls;
mod forge_webhooks;
mod gitea_real;
mod heart;
mod kubernetes;
mod masking;
mod metrics;
mod outbox;
mod pipeline;
#[path = "../common/postgres.rs"]
mod postgres;
mod queue;
mod report;
mod reuse;
mod run_local;
mod scripted;
mod store;
mod support;
pub mod web;
mod worktree;
