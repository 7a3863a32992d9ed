//! `/repos`, a repository with the trend of its default branch, and a pull request with the curves of its runs.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::chart::Chart;
use super::metrics::{self, Drawn};
use super::run::ForgeLinks;
use super::runs::{Item, items, title};
use super::{Shell, render};
use crate::forge::WebPage;
use crate::http::api::{POINTS_MAX, PageQuery, TREND, repo_cursor, repo_for};
use crate::http::app::Web;
use crate::http::auth::{Who, escape_query};
use crate::http::extract::{Path, Query};
use crate::http::problem::Problem;
use crate::http::text::{self, Shown, shown, shown_cut};
use crate::store::attempts::StoredMetric;
use crate::store::lists::RunFilter;

/// Runs on a repository's page, and on a pull request's.
const RUNS: i64 = 20;
const PULLS: i64 = 50;
/// Runs of a pull request whose curves are drawn over each other.
const OVERLAID: usize = 6;
/// Points of one of those curves.
const OVERLAID_POINTS: i64 = 400;

#[derive(Template)]
#[template(path = "repos.html")]
struct ListPage {
    shell: Shell,
    repos: Vec<Repo>,
    next: Option<String>,
}

struct Repo {
    name: Shown,
    path: String,
    forge: Shown,
    default_branch: Shown,
    main_state: &'static str,
    main_run: Option<String>,
    age: String,
}

/// `GET /repos?cursor=`
pub async fn list(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let now = web.app.clock.now_ms();
    let (cursor, limit) = query.check()?;
    let found = web.app.store.list_repos(who.repo.as_ref(), cursor.unwrap_or_default(), limit).await?;
    let more = (found.len() as i64 == limit).then(|| found.last()).flatten();
    let next = more.map(|last| format!("/repos?cursor={}", escape_query(&repo_cursor(last))));
    let repos = found.into_iter().map(|item| Repo {
        name: shown(item.repo.name.as_str()),
        path: escape_query(item.repo.name.as_str()),
        forge: shown(&item.repo.forge),
        default_branch: shown_cut(&item.repo.default_branch, 60),
        main_state: item.main.as_ref().map_or("", |m| m.state.word()),
        main_run: item.main.map(|m| m.id.to_string()),
        age: item.newest.map(|n| text::ago(n.created_ms, now)).unwrap_or_default(),
    });
    render(&ListPage { shell: Shell::new("repos", &who, "/repos", 10_000), repos: repos.collect(), next })
}

#[derive(Template)]
#[template(path = "repo.html")]
struct RepoPage {
    shell: Shell,
    name: Shown,
    path: String,
    query: String,
    forge: Shown,
    url: Option<String>,
    branch: Shown,
    ticks: Vec<Tick>,
    charts: Vec<Chart>,
    banded: bool,
    charts_cut: usize,
    noun: &'static str,
    pulls: Vec<Pull>,
    runs: Vec<Item>,
}

struct Tick {
    run: String,
    sha: String,
    word: &'static str,
    when: String,
}

struct Pull {
    number: i64,
    shown_number: String,
    title: Shown,
    branch: Shown,
    base: Shown,
    author: Shown,
    draft: bool,
}

/// `GET /repos/{*repo}`
pub async fn show(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let now = web.app.clock.now_ms();
    let repo = repo_for(&web, &who, &name).await?;
    let store = &web.app.store;
    let trend = store.trend(&repo.id, &repo.default_branch, TREND).await?;
    let (charts, charts_cut) = metrics::trends(&trend);
    let ticks = trend.iter().rev().map(|item| Tick {
        run: item.run.to_string(),
        sha: item.head_sha.short().to_owned(),
        word: item.verdict.map_or("pending", |v| v.word()),
        when: text::ago(item.created_ms, now),
    });
    let links = ForgeLinks::new(&web, &repo);
    let change = links.change();
    let pulls = store.open_pulls(&repo.id, PULLS).await?.into_iter().map(|p| Pull {
        number: p.pull.number,
        shown_number: change.number(p.pull.number),
        title: shown_cut(&p.pull.title, 120),
        branch: shown_cut(&p.pull.head_branch, 40),
        base: shown_cut(&p.pull.base_branch, 40),
        author: shown_cut(&p.pull.author.login, 40),
        draft: p.pull.draft,
    });
    let filter = RunFilter { repo: Some(repo.id.clone()), ..RunFilter::default() };
    let runs = store.list_runs(filter, None, RUNS).await?;
    let path = escape_query(repo.name.as_str());
    render(&RepoPage {
        shell: Shell::new("repos", &who, &format!("/repos/{path}"), 5000),
        name: shown(repo.name.as_str()),
        query: path.clone(),
        path,
        forge: shown(&repo.forge),
        url: links.at(WebPage::Repository),
        noun: change.noun,
        branch: shown_cut(&repo.default_branch, 60),
        ticks: ticks.collect(),
        banded: charts.iter().any(Chart::banded),
        charts,
        charts_cut,
        pulls: pulls.collect(),
        runs: items(store, &runs, now).await?,
    })
}

#[derive(Template)]
#[template(path = "pull.html")]
struct PullPage {
    shell: Shell,
    number: i64,
    shown_number: String,
    noun: &'static str,
    title: Shown,
    repo: Shown,
    path: String,
    query: String,
    url: Option<String>,
    branch: Shown,
    base: Shown,
    author: Shown,
    open: bool,
    compared: usize,
    keys: Vec<Key>,
    dashed: bool,
    charts: Vec<Chart>,
    charts_cut: usize,
    runs: Vec<Item>,
}

/// One of the runs whose curves are drawn.
struct Key {
    class: String,
    run: String,
    sha: String,
    title: Shown,
}

/// `GET /pulls/{number}/{*repo}`: the newest runs' curves over each other, the baseline of the newest behind them.
pub async fn pull(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path((number, name)): Path<(i64, String)>,
) -> Result<Response, Problem> {
    let now = web.app.clock.now_ms();
    let repo = repo_for(&web, &who, &name).await?;
    let store = &web.app.store;
    let links = ForgeLinks::new(&web, &repo);
    let change = links.change();
    let row = store.pull(&repo.id, number).await?.ok_or_else(|| Problem::not_found(change.noun))?;
    let filter = RunFilter { repo: Some(repo.id.clone()), pull: Some(number), ..RunFilter::default() };
    let found = store.list_runs(filter, None, RUNS).await?;

    let mut drawn: Vec<(String, Vec<StoredMetric>)> = Vec::new();
    let mut keys = Vec::new();
    for item in found.iter().filter(|i| i.run.started_ms.is_some()).take(OVERLAID) {
        let metrics = store.sample_metrics(&item.run.id, None, OVERLAID_POINTS, POINTS_MAX).await?;
        if metrics.is_empty() {
            continue;
        }
        keys.push(Key {
            class: format!("s{}", drawn.len()),
            run: item.run.id.to_string(),
            sha: item.run.head_sha.short().to_owned(),
            title: title(&item.run.message),
        });
        drawn.push((item.run.head_sha.short().to_owned(), metrics));
    }
    let mut baseline = Vec::new();
    if let Some(newest) = found.first() {
        let comparisons = store.comparisons_of(&newest.run.id).await?;
        if let Some(base) = comparisons.iter().find_map(|c| c.baseline.as_ref()) {
            baseline = store.sample_metrics(base, None, OVERLAID_POINTS, POINTS_MAX).await?;
        }
    }
    let mut series: Vec<Drawn<'_>> = drawn
        .iter()
        .enumerate()
        .map(|(at, (sha, metrics))| Drawn { label: sha, baseline: false, colour: Some(at), metrics })
        .collect();
    series.push(Drawn { label: "baseline", baseline: true, colour: None, metrics: &baseline });
    let (charts, charts_cut) =
        found.first().map_or_else(Default::default, |newest| metrics::charts(&newest.run.plan, &series));
    let path = escape_query(repo.name.as_str());
    render(&PullPage {
        shell: Shell::new("repos", &who, &format!("/pulls/{number}/{path}"), 5000),
        number,
        shown_number: change.number(number),
        noun: change.noun,
        title: shown_cut(&row.pull.title, 140),
        repo: shown(repo.name.as_str()),
        query: path.clone(),
        path,
        url: links.at(WebPage::Pull(number)),
        branch: shown_cut(&row.pull.head_branch, 60),
        base: shown_cut(&row.pull.base_branch, 60),
        author: shown_cut(&row.pull.author.login, 60),
        open: row.pull.open,
        compared: keys.len(),
        keys,
        dashed: charts.iter().any(|c| c.curves.iter().any(|c| c.class == "baseline")),
        charts,
        charts_cut,
        runs: items(store, &found, now).await?,
    })
}
