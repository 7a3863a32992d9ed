//! `/`: the list of runs.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::{Shell, render};
use crate::clock::Millis;
use crate::config::ForgeKind;
use crate::http::api::RunsQuery;
use crate::http::app::Web;
use crate::http::auth::{Who, escape_query};
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::summary::{self, Summary};
use crate::http::text::{self, Shown, shown, shown_cut};
use crate::model::{RunId, RunState};
use crate::store::Store;
use crate::store::lists::RunListItem;

#[derive(Template)]
#[template(path = "runs.html")]
struct Page {
    shell: Shell,
    states: Vec<&'static str>,
    /// What the configured forges call a pull request.
    change: &'static str,
    filter: Filter,
    filtered: bool,
    /// What is filtered by, each with the address of the list without it.
    chips: Vec<Chip>,
    runs: Vec<Item>,
    next: Option<String>,
    /// This is not the first page: the address of that one.
    first: Option<String>,
}

struct Filter {
    state: String,
    repo: Shown,
    branch: Shown,
    pipeline: Shown,
    author: Shown,
    pull: Shown,
}

struct Chip {
    key: &'static str,
    value: Shown,
    without: String,
}

/// One run as a row of a list.
pub struct Item {
    pub id: String,
    pub state: &'static str,
    pub title: Shown,
    pub repo: Shown,
    pub repo_path: String,
    pub repo_query: String,
    pub pipeline: Shown,
    pub generation: i64,
    pub sha: String,
    pub actor: Shown,
    pub actor_query: String,
    pub branch: Shown,
    pub branch_query: String,
    pub verdict: &'static str,
    pub headline: String,
    pub took: String,
    pub age: String,
    pub created: String,
    pub created_long: String,
}

impl Item {
    fn new(item: &RunListItem, summary: Option<&Summary>, now: Millis) -> Self {
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
            repo_path: escape_query(item.repo.as_str()),
            repo_query: escape_query(item.repo.as_str()),
            pipeline: shown_cut(&run.pipeline, 60),
            generation: run.generation,
            sha: run.head_sha.short().to_owned(),
            actor: shown_cut(&run.actor, 40),
            actor_query: escape_query(&run.actor),
            branch: shown_cut(&run.branch, 40),
            branch_query: escape_query(&run.branch),
            verdict: summary.map_or("", |s| s.verdict.word()),
            headline: summary.map(|s| s.headline.clone()).unwrap_or_default(),
            took,
            age: text::ago(run.created_ms, now),
            created: text::rfc3339(run.created_ms),
            created_long: text::instant(run.created_ms),
        }
    }
}

/// Rows of a list, with their verdicts.
pub async fn items(store: &Store, runs: &[RunListItem], now: Millis) -> Result<Vec<Item>, Problem> {
    let ids: Vec<RunId> = runs.iter().map(|i| i.run.id.clone()).collect();
    let summaries = summary::of_runs(store, &ids).await?;
    Ok(runs.iter().map(|i| Item::new(i, summaries.get(&i.run.id), now)).collect())
}

/// What people filter by who come from all configured forges.
fn change(web: &Web) -> &'static str {
    let gitlab = |kind: &ForgeKind| *kind == ForgeKind::Gitlab;
    let kinds: Vec<ForgeKind> = web.app.config.forge.values().map(|forge| forge.kind).collect();
    match (kinds.iter().any(gitlab), kinds.iter().all(gitlab)) {
        (false, _) => "Pull request",
        (true, true) => "Merge request",
        (true, false) => "Pull or merge request",
    }
}

/// A commit message's first line as a run's title.
pub fn title(message: &str) -> Shown {
    match message.trim().lines().next() {
        None | Some("") => shown("(no commit message)"),
        Some(line) => shown_cut(line, 140),
    }
}

/// `/?key=value&…` of what is not empty.
fn address(asked: &[(&'static str, String)]) -> String {
    let pairs: Vec<String> = asked
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", escape_query(value)))
        .collect();
    if pairs.is_empty() { "/".to_owned() } else { format!("/?{}", pairs.join("&")) }
}

/// `GET /`
pub async fn list(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<RunsQuery>,
) -> Result<Response, Problem> {
    let now = web.app.clock.now_ms();
    let (cursor, limit) = query.page()?;
    let found = match query.filter(&web, &who).await? {
        Some(filter) => web.app.store.list_runs(filter, cursor, limit).await?,
        None => Vec::new(),
    };
    let runs = items(&web.app.store, &found, now).await?;
    let asked = query.asked();
    let here = address(&asked);
    let more = (found.len() as i64 == limit).then(|| found.last()).flatten();
    let next = more.map(|last| {
        let mut all = asked.to_vec();
        all.push(("cursor", last.run.id.to_string()));
        if limit != crate::http::api::PAGE {
            all.push(("limit", limit.to_string()));
        }
        address(&all)
    });
    let chips = asked.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| {
        let rest: Vec<_> = asked.iter().filter(|(other, _)| other != key).cloned().collect();
        Chip { key, value: shown_cut(value, 60), without: address(&rest) }
    });
    let chips: Vec<Chip> = chips.collect();
    let first = cursor.map(|_| here.clone());
    let [repo, branch, state, pipeline, author, pull] = asked.map(|(_, v)| v);
    render(&Page {
        // Older pages do not move under the reader.
        shell: Shell::new("runs", &who, &here, if cursor.is_none() { 2500 } else { 0 }),
        states: RunState::ALL.iter().map(|s| s.word()).collect(),
        change: change(&web),
        filter: Filter {
            state,
            repo: shown(&repo),
            branch: shown(&branch),
            pipeline: shown(&pipeline),
            author: shown(&author),
            pull: shown(&pull),
        },
        filtered: !chips.is_empty(),
        chips,
        runs,
        next,
        first,
    })
}
