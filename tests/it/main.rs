//! One binary for the tests that drive real parts together. Each file says which promise or Show line it serves.

mod agent;
mod architecture;
mod baseline;
mod dashboard;
mod drive;
mod executor_conformance;
mod fake_forge;
mod forge_conformance;
mod forge_webhooks;
mod github_shapes;
mod heart;
mod outbox;
mod pipeline;
mod report;
mod scripted;
mod store;
mod support;
mod web;
mod worktree;
