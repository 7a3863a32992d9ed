//! What runs brought: metrics, parameters, artifacts, comparisons.

use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{IntoParams, ToSchema};

use super::openapi::Refusals;
use super::{Answer, attempt_for, has, run_for};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::{self, Who};
use crate::http::extract::{Path, Query};
use crate::http::problem::Problem;
use crate::model::metric::float;
use crate::model::{AttemptRank, ComparisonState, DataReport, LEADER, MetricSource, Verdict};
use crate::store::attempts::StoredMetric;
use crate::store::runs::RunView;

/// Metric points in one answer.
pub const POINTS_MAX: i64 = 20_000;
/// A step has at most 512 pods.
const RANK_MAX: u32 = 511;
/// Points of one curve, where nobody asked for a single metric; of a longer one, every nth.
pub const CURVE_POINTS: i64 = 1000;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricsJson {
    pub points: Vec<PointJson>,
    /// More points than one answer holds: ask for a single `name`.
    pub truncated: bool,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PointJson {
    pub name: String,
    pub step_name: String,
    /// A number, or `nan`, `inf`, `-inf`.
    #[serde(with = "float")]
    #[schema(schema_with = number_or_word)]
    pub value: f64,
    pub training_step: Option<i64>,
    pub at_ms: Millis,
}

fn number_or_word() -> RefOr<Schema> {
    let number = ObjectBuilder::new().schema_type(Type::Number);
    let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["nan", "inf", "-inf"]));
    OneOfBuilder::new().item(number).item(word).into()
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// One metric, with all its points.
    #[serde(default)]
    name: Option<String>,
    /// Of steps of several pods: another pod's points than the first one's, which are the step's.
    #[serde(default)]
    #[param(minimum = 0, maximum = 511)]
    rank: Option<u32>,
}

/// Metric points of a run
///
/// Without a name, long curves come thinned.
#[utoipa::path(get, path = "/api/v1/runs/{run}/metrics", tag = "results", params(("run" = String, Path, description = "The run's id, or its first eight or more characters"), MetricsQuery), responses((status = 200, description = "Points in the order they were reported", body = MetricsJson), Refusals))]
pub async fn metrics(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(query): Query<MetricsQuery>,
) -> Answer<MetricsJson> {
    let view = run_for(&web, &who, &id).await?.view;
    if query.rank.is_some_and(|rank| rank > RANK_MAX) {
        return Err(Problem::bad_request(format!("rank must be 0 to {RANK_MAX}")));
    }
    if let Some(rank) = query.rank.filter(|rank| *rank != LEADER) {
        return rank_points(&web, &view, rank, query.name.as_deref()).await;
    }
    // Of one metric all points; of all metrics enough of each to draw it.
    let per_curve = if query.name.is_some() { POINTS_MAX } else { CURVE_POINTS };
    let stored =
        web.app.store.sample_metrics(&view.run.id, query.name.as_deref(), per_curve, POINTS_MAX).await?;
    let truncated = stored.len() as i64 == POINTS_MAX;
    let json = |m: StoredMetric| PointJson {
        name: m.point.name,
        step_name: m.step_name,
        value: m.point.value,
        training_step: m.point.step,
        at_ms: m.point.at_ms,
    };
    let points = stored.into_iter().map(json).collect();
    Ok(Json(MetricsJson { points, truncated }))
}

/// Points of one rank of the attempts that count. Nothing else is made of them.
async fn rank_points(web: &Web, view: &RunView, rank: u32, name: Option<&str>) -> Answer<MetricsJson> {
    let mut points = Vec::new();
    for step in &view.steps {
        let Some(last) = view.attempts.iter().rfind(|a| a.step_id == step.id) else { continue };
        let room = POINTS_MAX - points.len() as i64;
        let stored = web.app.store.rank_metrics(&AttemptRank::new(&last.uid, rank), room).await?;
        let wanted = stored.into_iter().filter(|point| name.is_none_or(|name| point.name == name));
        points.extend(wanted.map(|point| PointJson {
            name: point.name,
            step_name: step.name.clone(),
            value: point.value,
            training_step: point.step,
            at_ms: point.at_ms,
        }));
    }
    let truncated = points.len() as i64 >= POINTS_MAX;
    Ok(Json(MetricsJson { points, truncated }))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SourceJson {
    pub step_name: String,
    /// What wrote it: `mlflow`, `tensorboard`, `json` and so on.
    pub kind: String,
    pub place: String,
    /// False: passed over, and `note` says why.
    pub used: bool,
    pub points: i64,
    pub params: i64,
    pub note: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LeftOutJson {
    pub step_name: String,
    /// Points beyond the attempt's quota.
    pub points: i64,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SourcesJson {
    pub sources: Vec<SourceJson>,
    pub left_out: Vec<LeftOutJson>,
}

/// Where metrics came from
///
/// And what was passed over, and why.
#[utoipa::path(get, path = "/api/v1/runs/{run}/metric-sources", tag = "results", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "By step, in the order of their report", body = SourcesJson), Refusals))]
pub async fn metric_sources(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<SourcesJson> {
    let run = run_for(&web, &who, &id).await?.view.run.id;
    let sources = web.app.store.metric_sources(&run).await?;
    let left_out = web.app.store.metric_points_left_out(&run).await?;
    Ok(Json(SourcesJson {
        sources: sources.into_iter().map(|(step, source)| SourceJson::new(step, source)).collect(),
        left_out: left_out.into_iter().map(|(step_name, points)| LeftOutJson { step_name, points }).collect(),
    }))
}

impl SourceJson {
    fn new(step_name: String, source: MetricSource) -> Self {
        let MetricSource { kind, place, used, points, params, note } = source;
        Self { step_name, kind, place, used, points, params, note }
    }
}

/// What the `data` step found
///
/// Columns, counts and shares; never values of the data. Each report has `name`, `rows`, `columns`, `passed`, `against`, `findings`
/// (`severity`, `rule`, `column`, `message`, `count`, `share`) and `drift` (`column`, `verdict`, `p`, `shift`, `psi`, `v`, `shares`).
#[utoipa::path(get, path = "/api/v1/runs/{run}/data", tag = "results", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "One report for each data set, in the order of the file", body = Vec<Object>), Refusals))]
pub async fn data(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<DataReport>> {
    let run = run_for(&web, &who, &id).await?.view.run.id;
    Ok(Json(web.app.store.data_reports(&run).await?))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ParamJson {
    pub step_name: String,
    pub name: String,
    pub value: String,
}

/// Parameters as reported
#[utoipa::path(get, path = "/api/v1/runs/{run}/params", tag = "results", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "By step and name", body = Vec<ParamJson>), Refusals))]
pub async fn params(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<ParamJson>> {
    let view = run_for(&web, &who, &id).await?.view;
    let rows = web.app.store.run_params(&view.run.id).await?;
    Ok(Json(rows.into_iter().map(|(step_name, name, value)| ParamJson { step_name, name, value }).collect()))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ArtifactJson {
    pub attempt: String,
    pub path: String,
    pub bytes: i64,
    pub sha256: String,
}

/// Files that the steps left
#[utoipa::path(get, path = "/api/v1/runs/{run}/artifacts", tag = "results", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "Of the last try of each step", body = Vec<ArtifactJson>), Refusals))]
pub async fn artifacts(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<ArtifactJson>> {
    let view = run_for(&web, &who, &id).await?.view;
    let rows = web.app.store.run_artifacts(&view.run.id).await?;
    let json = |row: crate::store::attempts::ArtifactRow| ArtifactJson {
        attempt: row.attempt_uid.to_string(),
        path: row.path,
        bytes: row.bytes,
        sha256: row.sha256,
    };
    Ok(Json(rows.into_iter().map(json).collect()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ArtifactQuery {
    /// As the list of artifacts has it.
    path: String,
}

/// One artifact's bytes
///
/// Always a download, never shown in place.
#[utoipa::path(get, path = "/api/v1/attempts/{attempt}/artifact", tag = "results", params(("attempt" = String, Path, description = "The attempt's uid"), ArtifactQuery), responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"), (status = 304, description = "The caller has it"), Refusals))]
pub async fn artifact(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
    Query(query): Query<ArtifactQuery>,
    asked: HeaderMap,
) -> Result<Response, Problem> {
    let found = attempt_for(&web, &who, &uid).await?;
    let rows = web.app.store.artifacts_of_attempt(&found.attempt.uid).await?;
    let row =
        rows.into_iter().find(|r| r.path == query.path).ok_or_else(|| Problem::not_found("artifact"))?;
    let etag = format!("\"{}\"", row.sha256);
    if has(&asked, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let stream = web.app.blobs.stream(&row.blob_key).await?;
    let name = row.path.rsplit('/').next().unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let disposition = format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        auth::escape_query(name).replace('/', "%2F")
    );
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, row.bytes.to_string()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox".to_owned()),
        (header::ETAG, etag),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ComparisonJson {
    pub id: String,
    pub target: String,
    pub baseline: Option<String>,
    pub baseline_note: String,
    pub rules: String,
    pub state: ComparisonState,
    pub verdict: Option<Verdict>,
    /// Verdict, reasons and metrics; empty while it is pending.
    #[schema(value_type = Object)]
    pub result: serde_json::Value,
    pub updated_ms: Millis,
}

/// The run held against its baselines
#[utoipa::path(get, path = "/api/v1/runs/{run}/comparisons", tag = "results", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "One for each pull request or branch", body = Vec<ComparisonJson>), Refusals))]
pub async fn comparisons(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<ComparisonJson>> {
    let view = run_for(&web, &who, &id).await?.view;
    let rows = web.app.store.comparisons_of(&view.run.id).await?;
    let json = |row: crate::store::comparisons::ComparisonRow| ComparisonJson {
        id: row.id.to_string(),
        target: row.target,
        baseline: row.baseline.map(|b| b.to_string()),
        baseline_note: row.baseline_note,
        rules: row.rules,
        state: row.state,
        verdict: row.verdict,
        result: row.result,
        updated_ms: row.updated_ms,
    };
    Ok(Json(rows.into_iter().map(json).collect()))
}
