//! The store: one conformance suite for every engine, then the writer, the file and the faults.

mod conformance;
pub mod fixture;

mod admin;
mod attempts;
mod deliveries;
mod differential;
mod migration;
mod postgres;
mod power_cut;
mod queue;
mod ranks;
mod reports;
mod results;
mod runs;
mod watches;
mod work;
mod writer;
