//! Profiles, checks and statistics of tabular data.
//!
//! ```text
//! source ──▶ record batches ──▶ scan ──▶ profile (mergeable) ─┬─▶ rules ──▶ findings
//!                                                             └─▶ drift against another profile
//! ```
//!
//! The crate reads data and judges it. It knows nothing of runs, forges or reports.

#![allow(clippy::many_single_char_names, reason = "formulas read as in their papers")]
#![allow(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "`!(x > 0.0)` is also true of NaN, which is what is meant"
)]

pub mod cells;
pub mod check;
pub mod compat;
pub mod drift;
pub mod error;
mod exact;
pub mod findings;
pub mod profile;
pub mod rules;
pub mod scan;
pub mod schema;
mod sets;
pub mod source;
pub mod stats;
mod validate;

pub use check::{Check, check};
pub use error::{Error, Result};
pub use profile::Profile;
pub use rules::Rules;
pub use source::Source;
pub use validate::Fault;
