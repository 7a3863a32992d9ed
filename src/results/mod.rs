//! From metric points to a judged comparison: summarise a run, choose its baseline, hold one against the other.
//!
//! [`summarise`] and [`compare`] are pure. [`Comparer`] is the handler that reads rows, asks the forge for ancestry and
//! writes comparisons; runs are frozen, comparisons are made again whenever something they rest on changes.
//!
//! Must not: move a run, write to a forge, say how a result looks.

mod baseline;
mod compare;
mod comparer;
mod evidence;
mod examples;
mod summary;

pub use baseline::{Choice, ChooseError, Chooser, Chosen};
pub use compare::{RULES, compare};
pub use comparer::Comparer;
pub use evidence::of_mean;
pub use examples::Sheets;
pub use summary::{Summary, summarise};

#[cfg(test)]
mod tests;
