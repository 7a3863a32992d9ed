//! Faults on the real daemon: one binary for the tests that kill, cut and starve it.

mod daemon;
mod kill;
mod restart;
mod starve;
mod yard;
