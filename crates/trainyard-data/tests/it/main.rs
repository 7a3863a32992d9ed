//! The crate from outside: files in, verdicts out; and its numbers beside those of other tools.

mod agreement;
mod bad_input;
mod calibration;
mod checks;
mod readers;
mod support;
