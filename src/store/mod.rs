//! The durable truth: SQLite or Postgres behind one concrete [`Store`]. One file per topic.
//!
//! Rules that keep it one text for both engines: `$N` placeholders, `ON CONFLICT`, `RETURNING`; the few real
//! differences live in `dialect`. Every method that writes runs in a task the store owns, so a caller
//! that is dropped half-way (axum drops handlers when a client leaves) never leaves a transaction open.
//! Every UPDATE that moves a state carries the guard `AND epoch = … AND state NOT IN (terminal …)`.
//!
//! Must not: decide anything, call a forge or an executor, read the system clock.

mod arrivals;
mod asks;
pub mod attempts;
pub mod backup;
pub mod caches;
mod changes;
pub mod comparisons;
mod conn;
mod connections;
pub mod daemons;
mod db;
pub mod deliveries;
mod dialect;
pub mod hot;
mod instance;
pub mod lists;
mod metrics;
mod migrate;
pub mod outbox;
mod postgres;
pub mod pulls;
pub mod queue;
pub mod ranks;
mod reports;
pub mod retention;
pub mod reuse;
pub mod runs;
pub mod sessions;
mod sqlite;
pub mod tokens;
pub mod watches;
pub mod work;
mod writer;

pub use db::{OpenOptions, Store, StoreError, Synchronous};
pub use instance::Instance;
pub use migrate::newest_migration;
pub use writer::WriteCounts;
