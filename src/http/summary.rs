//! A run's comparisons in a few words: for lists, on pages and in the API.

use std::collections::HashMap;

use super::problem::Problem;
use super::text::{self, shown_cut};
use crate::model::outcome::Outcome;
use crate::model::{RunId, Verdict};
use crate::store::Store;
use crate::store::comparisons::ComparisonRow;

/// The verdict that speaks for a run, with its primary metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub verdict: Verdict,
    /// `accuracy 0.84 (+0.012)`; empty when no comparison names a primary metric.
    pub headline: String,
}

/// What a comparison came to, when it has come to something.
pub fn outcome(result: &serde_json::Value) -> Option<Outcome> {
    serde_json::from_value(result.clone()).ok()
}

/// The primary metric in a few words.
pub fn headline(row: &ComparisonRow) -> String {
    let Some(outcome) = outcome(&row.result) else { return String::new() };
    let Some(metric) = outcome.primary() else { return String::new() };
    let Some(value) = metric.candidate.as_ref() else { return String::new() };
    let delta = metric.delta.map(|d| format!(" ({})", text::signed(d))).unwrap_or_default();
    format!("{} {}{delta}", shown_cut(&metric.name, 24), text::number(value.value()))
}

/// The worst verdict speaks for the run.
pub fn worst<'a>(rows: impl IntoIterator<Item = &'a ComparisonRow>) -> Option<Summary> {
    let row = rows.into_iter().filter(|row| row.verdict.is_some()).max_by_key(|row| row.verdict)?;
    Some(Summary { verdict: row.verdict?, headline: headline(row) })
}

/// The summaries of those of the runs that have any.
pub async fn of_runs(store: &Store, runs: &[RunId]) -> Result<HashMap<RunId, Summary>, Problem> {
    let mut by_run: HashMap<RunId, Vec<ComparisonRow>> = HashMap::new();
    for row in store.comparisons_of_runs(runs).await? {
        by_run.entry(row.candidate.clone()).or_default().push(row);
    }
    Ok(by_run.into_iter().filter_map(|(run, rows)| Some((run, worst(&rows)?))).collect())
}
