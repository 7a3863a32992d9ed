//! The crate from outside: files in, verdicts out; and its numbers beside those of other tools.

#![allow(
    clippy::unwrap_used,
    clippy::many_single_char_names,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    reason = "all of this is tests; the exception in clippy.toml sees only `#[test]` functions"
)]

mod agreement;
mod bad_input;
mod calibration;
mod checks;
mod doubt;
mod exact;
mod hostile;
mod kinds;
mod outliers;
mod places;
mod readers;
mod support;
