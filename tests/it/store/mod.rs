//! The store: one conformance suite for every engine, and the faults of its writer.

mod conformance;
pub mod fixture;
