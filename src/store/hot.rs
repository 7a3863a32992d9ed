//! The queries that must stay quick however much the tables hold: their plans are kept as golden files, for both engines.

use super::lists;
use super::work::{claim_sql, next_due_sql};

/// A query in each engine's text.
#[derive(Debug, Clone, Copy)]
pub struct Hot {
    pub name: &'static str,
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

const fn both(name: &'static str, sql: &'static str) -> Hot {
    Hot { name, sqlite: sql, postgres: sql }
}

pub const QUERIES: &[Hot] = &[
    Hot { name: "claim", sqlite: claim_sql!(""), postgres: claim_sql!(" FOR UPDATE SKIP LOCKED") },
    both("next_due", next_due_sql!()),
    both("list_runs", lists::ALL_RUNS),
    both("list_runs of a repository", lists::RUNS_OF_REPO),
    both("list_runs in a state", lists::RUNS_IN_STATE),
    both("list_runs of a branch", lists::RUNS_OF_BRANCH),
    both("list_deliveries", lists::DELIVERIES),
];
