//! `/`: the list of runs.

use std::collections::HashMap;

use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;

use super::metrics::headline;
use super::{Shell, render};
use crate::clock::Millis;
use crate::http::api::RunsQuery;
use crate::http::app::Web;
use crate::http::auth::{Who, escape_query};
use crate::http::problem::Problem;
use crate::http::text::{self, Shown, shown, shown_cut};
use crate::model::{RunId, RunState, Verdict};
use crate::store::comparisons::ComparisonRow;
use crate::store::lists::RunListItem;

#[derive(Template)]
#[template(path = "runs.html")]
struct Page {
    shell: Shell,
    states: Vec<&'static str>,
    filter: Filter,
    filtered: bool,
    runs: Vec<Item>,
    next: Option<String>,
}

struct Filter {
    state: String,
    repo: Shown,
    branch: Shown,
    pipeline: Shown,
}

struct Item {
    id: String,
    state: &'static str,
    title: Shown,
    repo: Shown,
    repo_query: String,
    pipeline: Shown,
    generation: i64,
    sha: String,
    actor: Shown,
    branch: Shown,
    branch_query: String,
    verdict: Option<VerdictMark>,
    took: String,
    age: String,
    created: String,
    created_long: String,
}

struct VerdictMark {
    word: &'static str,
    /// `accuracy 0.84 (+0.012)`
    headline: String,
}

/// The worst verdict speaks for the run.
fn worst(rows: &[ComparisonRow]) -> Option<VerdictMark> {
    let rank = |v: Verdict| match v {
        Verdict::Fail => 2,
        Verdict::Inconclusive => 1,
        Verdict::Pass => 0,
    };
    let row = rows.iter().filter(|r| r.verdict.is_some()).max_by_key(|r| r.verdict.map_or(0, rank))?;
    Some(VerdictMark { word: row.verdict?.word(), headline: headline(row) })
}

impl Item {
    fn new(item: &RunListItem, comparisons: &[ComparisonRow], now: Millis) -> Self {
        let run = &item.run;
        let took = match (run.started_ms, run.ended_ms) {
            (Some(from), Some(to)) => text::duration(to - from),
            (Some(from), None) => text::duration(now - from),
            _ => String::new(),
        };
        Self {
            id: run.id.to_string(),
            state: run.state.word(),
            title: title(&run.message),
            repo: shown(item.repo.as_str()),
            repo_query: escape_query(item.repo.as_str()),
            pipeline: shown_cut(&run.pipeline, 60),
            generation: run.generation,
            sha: run.head_sha.short().to_owned(),
            actor: shown_cut(&run.actor, 40),
            branch: shown_cut(&run.branch, 40),
            branch_query: escape_query(&run.branch),
            verdict: worst(comparisons),
            took,
            age: text::ago(run.created_ms, now),
            created: text::rfc3339(run.created_ms),
            created_long: text::instant(run.created_ms),
        }
    }
}

/// A commit message's first line as a run's title.
pub fn title(message: &str) -> Shown {
    match message.trim().lines().next() {
        None | Some("") => shown("(no commit message)"),
        Some(line) => shown_cut(line, 140),
    }
}

/// `GET /`
pub async fn list(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<RunsQuery>,
) -> Result<Response, Problem> {
    let now = web.app.clock.now_ms();
    let limit = query.limit();
    let items = match query.filter(&web, &who).await? {
        Some(filter) => web.app.store.list_runs(filter, query.before.as_deref(), limit).await?,
        None => Vec::new(),
    };
    let ids: Vec<RunId> = items.iter().map(|i| i.run.id.clone()).collect();
    let mut by_run: HashMap<RunId, Vec<ComparisonRow>> = HashMap::new();
    for row in web.app.store.comparisons_of_runs(&ids).await? {
        by_run.entry(row.candidate.clone()).or_default().push(row);
    }
    let none = Vec::new();
    let runs: Vec<Item> =
        items.iter().map(|i| Item::new(i, by_run.get(&i.run.id).unwrap_or(&none), now)).collect();
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let asked = [
        ("repo", given(&query.repo)),
        ("branch", given(&query.branch)),
        ("state", given(&query.state)),
        ("pipeline", given(&query.pipeline)),
    ];
    let mut here: Vec<String> = asked
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| format!("{k}={}", escape_query(v)))
        .collect();
    let filtered = !here.is_empty();
    let back = if here.is_empty() { "/".to_owned() } else { format!("/?{}", here.join("&")) };
    let next = (items.len() as i64 == limit).then(|| items.last()).flatten().map(|last| {
        here.push(format!("before={}", last.run.id));
        format!("/?{}", here.join("&"))
    });
    let [repo, branch, state, pipeline] = asked.map(|(_, v)| v);
    render(&Page {
        // Older pages do not move under the reader.
        shell: Shell::new("runs", &who, &back, if query.before.is_none() { 2500 } else { 0 }),
        states: RunState::ALL.iter().map(|s| s.word()).collect(),
        filter: Filter { state, repo: shown(&repo), branch: shown(&branch), pipeline: shown(&pipeline) },
        filtered,
        runs,
        next,
    })
}
