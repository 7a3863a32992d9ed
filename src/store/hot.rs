//! The queries that must stay quick however much the tables hold: their plans are kept as golden files, for both engines.

use super::lists;
use super::work::{WorkKind, claim_sql, next_due_sql};

/// A query in each engine's text.
#[derive(Debug, Clone)]
pub struct Hot {
    pub name: &'static str,
    pub sqlite: String,
    pub postgres: String,
}

fn both(name: &'static str, sql: impl Into<String>) -> Hot {
    let sql = sql.into();
    Hot { name, sqlite: sql.clone(), postgres: sql }
}

pub fn queries() -> Vec<Hot> {
    vec![
        Hot {
            name: "claim",
            sqlite: claim_sql!("").to_owned(),
            postgres: claim_sql!(" FOR UPDATE SKIP LOCKED").to_owned(),
        },
        both("next_due", next_due_sql(&[WorkKind::Run])),
        both("list_runs", lists::ALL_RUNS),
        both("list_runs of a repository", lists::RUNS_OF_REPO),
        both("list_runs in a state", lists::RUNS_IN_STATE),
        both("list_runs of a branch", lists::RUNS_OF_BRANCH),
        both("list_deliveries", lists::DELIVERIES),
    ]
}
