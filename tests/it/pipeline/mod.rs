//! The pipeline file: what is valid, what is told about what is not (Show 7), bad input (S08), and the pages and the
//! schema that are made from the grammar.
#![expect(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::naive_bytecount,
    reason = "inputs are generated here, once"
)]

mod any;
mod broken;
mod pages;
mod valid;

use std::path::PathBuf;

use trainyard::model::plan::Plan;
use trainyard::pipeline;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn plan(text: &str) -> Plan {
    pipeline::parse(".trainyard.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}")).plan
}

/// File, then each finding in order: place and code, a part of the message, a part of the help.
type Row = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

include!("../../data/broken/expected.rs");
