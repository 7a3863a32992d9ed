//! Faults on the real daemon: one binary for the tests that kill, cut and starve it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/bucket.rs"]
mod bucket;
mod budget;
mod crash_points;
mod daemon;
mod demo;
mod features;
mod kill;
#[path = "../common/postgres.rs"]
mod postgres;
mod replicas;
mod restart;
mod resume;
mod starve;
mod unit;
mod yard;
