//! Repositories, and how a branch's metrics went over time.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi::Refusals;
use super::{Answer, PageQuery, listed};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::summary::outcome;
use crate::model::{RunState, Verdict};
use crate::store::lists::{RepoListItem, RunMark, TrendItem};
use crate::store::pulls::RepoRow;

/// Runs of one trend.
pub const TREND: i64 = 100;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RepoJson {
    pub name: String,
    pub forge: String,
    pub default_branch: String,
    pub newest: Option<RunMarkJson>,
    /// The newest run on the default branch.
    pub main: Option<RunMarkJson>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RunMarkJson {
    pub id: String,
    pub state: RunState,
    pub created_ms: Millis,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReposJson {
    pub repos: Vec<RepoJson>,
    /// `cursor` of the next page.
    pub next: Option<String>,
}

/// The cursor behind a row.
pub fn repo_cursor(item: &RepoListItem) -> String {
    format!("{} {}", item.repo.name.as_str().to_lowercase(), item.repo.id)
}

/// Lists repositories by name
#[utoipa::path(get, path = "/api/v1/repos", tag = "repositories", params(PageQuery),
    responses((status = 200, description = "By name", body = ReposJson), Refusals))]
pub async fn repos(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (cursor, limit) = query.check()?;
    let items = web.app.store.list_repos(who.repo.as_ref(), cursor.unwrap_or_default(), limit).await?;
    let next = (items.len() as i64 == limit).then(|| items.last().map(repo_cursor)).flatten();
    let mark = |m: RunMark| RunMarkJson { id: m.id.to_string(), state: m.state, created_ms: m.created_ms };
    let json = |item: RepoListItem| RepoJson {
        name: item.repo.name.to_string(),
        forge: item.repo.forge,
        default_branch: item.repo.default_branch,
        newest: item.newest.map(mark),
        main: item.main.map(mark),
    };
    let asked = [("limit", limit.to_string()), ("cursor", next.clone().unwrap_or_default())];
    let answer = ReposJson { repos: items.into_iter().map(json).collect(), next };
    Ok(listed(&headers, &answer, "/api/v1/repos", &asked))
}

/// A repository that the caller may see. Others do not exist for it.
///
/// # Errors
/// 404.
pub async fn repo_for(web: &Web, who: &Who, name: &str) -> Result<RepoRow, Problem> {
    let found = web.app.store.find_repo(name).await?;
    found.filter(|repo| who.sees(&repo.id)).ok_or_else(|| Problem::not_found("repository"))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TrendQuery {
    /// `owner/name`, or `forge:owner/name`.
    pub repo: String,
    /// The default branch when absent.
    #[serde(default)]
    pub branch: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TrendJson {
    pub branch: String,
    /// Newest first, at most 100.
    pub runs: Vec<TrendRunJson>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TrendRunJson {
    pub run: String,
    pub pipeline: String,
    pub sha: String,
    pub created_ms: Millis,
    pub verdict: Option<Verdict>,
    pub metrics: Vec<TrendMetricJson>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TrendMetricJson {
    pub name: String,
    /// Null when it is not finite.
    pub value: Option<f64>,
    /// Ends of the 95 % interval of the mean over seeds; absent without seeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// The finite values of one run of a trend, with their intervals.
pub fn trend_values(item: &TrendItem) -> Vec<TrendMetricJson> {
    let Some(outcome) = outcome(&item.result) else { return Vec::new() };
    let value = |m: crate::model::outcome::MetricOutcome| {
        let mean = m.candidate.as_ref()?;
        let value = Some(mean.value()).filter(|x| x.is_finite());
        let interval = crate::results::of_mean(mean).filter(|i| i.low.is_finite() && i.high.is_finite());
        let (low, high) = interval.map_or((None, None), |i| (Some(i.low), Some(i.high)));
        Some(TrendMetricJson { name: m.name, value, low, high })
    };
    outcome.metrics.into_iter().filter_map(value).collect()
}

/// Metrics of a branch's newest runs
#[utoipa::path(get, path = "/api/v1/trend", tag = "repositories", params(TrendQuery),
    responses((status = 200, description = "Newest first", body = TrendJson), Refusals))]
pub async fn trend(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<TrendQuery>,
) -> Answer<TrendJson> {
    let repo = repo_for(&web, &who, &query.repo).await?;
    let branch = query.branch.filter(|b| !b.is_empty()).unwrap_or(repo.default_branch);
    let items = web.app.store.trend(&repo.id, &branch, TREND).await?;
    let json = |item: &TrendItem| TrendRunJson {
        run: item.run.to_string(),
        pipeline: item.pipeline.clone(),
        sha: item.head_sha.to_string(),
        created_ms: item.created_ms,
        verdict: item.verdict,
        metrics: trend_values(item),
    };
    Ok(axum::Json(TrendJson { branch, runs: items.iter().map(json).collect() }))
}
