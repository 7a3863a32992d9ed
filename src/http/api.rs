//! `/api/v1`: JSON for programs and for our own command line. Times are milliseconds since 1970, sizes bytes; lists are
//! keyset pages (`?before=<id of the last row>&limit=`). Errors are problem documents.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::app::Web;
use super::auth::{self, Who};
use super::problem::Problem;
use crate::clock::Millis;
use crate::model::metric::float;
use crate::model::{
    AttemptState, AttemptUid, ComparisonState, DeliveryRowId, DeliveryState, EndClass, RepoId, RunState, Sha,
    StepState, Verdict,
};
use crate::store::attempts::{AttemptRow, StoredMetric};
use crate::store::deliveries::DeliveryRow;
use crate::store::lists::RunFilter;
use crate::store::pulls::RepoRow;
use crate::store::runs::{RunRow, RunView, StepRow};
use crate::store::tokens::{Scope, TokenRow};

pub const PAGE: i64 = 50;
const PAGE_MAX: i64 = 200;
/// Metric points in one answer.
pub const POINTS_MAX: i64 = 20_000;
/// Points of one curve, where nobody asked for a single metric; of a longer one, every nth.
pub const CURVE_POINTS: i64 = 1000;

type Answer<T> = Result<Json<T>, Problem>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunJson {
    pub id: String,
    pub repo: String,
    pub pipeline: String,
    pub sha: String,
    pub branch: String,
    pub message: String,
    pub actor: String,
    pub trigger: String,
    pub generation: i64,
    pub trusted: bool,
    pub state: RunState,
    pub reason: String,
    pub cancel_request: Option<String>,
    pub created_ms: Millis,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
    /// The dashboard's page.
    pub url: String,
}

impl RunJson {
    fn new(web: &Web, run: &RunRow, repo: &str) -> Self {
        Self {
            id: run.id.to_string(),
            repo: repo.to_owned(),
            pipeline: run.pipeline.clone(),
            sha: run.head_sha.to_string(),
            branch: run.branch.clone(),
            message: run.message.clone(),
            actor: run.actor.clone(),
            trigger: run.trigger_key.clone(),
            generation: run.generation,
            trusted: run.trusted,
            state: run.state,
            reason: run.reason.clone(),
            cancel_request: run.cancel_request.clone(),
            created_ms: run.created_ms,
            started_ms: run.started_ms,
            ended_ms: run.ended_ms,
            url: format!("{}/runs/{}", web.app.config.public_url.trim_end_matches('/'), run.id),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepJson {
    pub name: String,
    pub state: StepState,
    pub reason: String,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
    pub outputs: BTreeMap<String, String>,
    pub attempts: Vec<AttemptJson>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptJson {
    pub uid: String,
    pub number: i64,
    pub state: AttemptState,
    pub class: Option<EndClass>,
    pub reason: String,
    pub exit_code: Option<i64>,
    pub executor: String,
    pub pool: String,
    pub gpus: Vec<u32>,
    pub log_bytes: i64,
    pub log_lost_bytes: i64,
    pub notes: Vec<String>,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

impl AttemptJson {
    fn new(row: &AttemptRow) -> Self {
        Self {
            uid: row.uid.to_string(),
            number: row.number,
            state: row.state,
            class: row.class,
            reason: row.reason.clone(),
            exit_code: row.exit_code,
            executor: row.executor.clone(),
            pool: row.pool.clone(),
            gpus: row.gpus.clone(),
            log_bytes: row.log_bytes,
            log_lost_bytes: row.log_lost_bytes,
            notes: row.notes.clone(),
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
        }
    }
}

fn step_json(step: &StepRow, attempts: &[AttemptRow]) -> StepJson {
    StepJson {
        name: step.name.clone(),
        state: step.state,
        reason: step.reason.clone(),
        started_ms: step.started_ms,
        ended_ms: step.ended_ms,
        outputs: step.outputs.clone(),
        attempts: attempts.iter().filter(|a| a.step_id == step.id).map(AttemptJson::new).collect(),
    }
}

/// A run that the caller may see. Others do not exist for it.
pub struct FoundRun {
    pub view: RunView,
    pub repo: RepoRow,
}

/// Finds a run by its id or the first eight or more characters of it.
pub async fn run_for(web: &Web, who: &Who, text: &str) -> Result<FoundRun, Problem> {
    let gone = || Problem::not_found("run");
    let store = &web.app.store;
    let id = store.find_run(text).await?.ok_or_else(gone)?;
    let view = store.run_view(&id).await?.ok_or_else(gone)?;
    if !who.sees(&view.run.repo_id) {
        return Err(gone());
    }
    let repo = store.repo(&view.run.repo_id).await?.ok_or_else(gone)?;
    Ok(FoundRun { view, repo })
}

pub struct FoundAttempt {
    pub attempt: AttemptRow,
    pub run: RunRow,
}

pub async fn attempt_for(web: &Web, who: &Who, uid: &str) -> Result<FoundAttempt, Problem> {
    let gone = || Problem::not_found("attempt");
    let store = &web.app.store;
    let attempt = store.attempt(&AttemptUid::from_text(uid)).await?.ok_or_else(gone)?;
    let run = store.run(&attempt.run_id).await?.ok_or_else(gone)?;
    if !who.sees(&run.repo_id) {
        return Err(gone());
    }
    Ok(FoundAttempt { attempt, run })
}

#[derive(Debug, Serialize, Deserialize)]
pub struct WhoAmI {
    pub name: String,
    pub scope: Option<Scope>,
    pub repo: Option<String>,
}

/// `GET /api/v1/whoami`
pub async fn whoami(Extension(who): Extension<Who>) -> Json<WhoAmI> {
    Json(WhoAmI { name: who.name, scope: who.scope, repo: who.repo.map(|r| r.to_string()) })
}

#[derive(Debug, Default, Deserialize)]
pub struct RunsQuery {
    #[serde(default)]
    pub repo: Option<String>,
    #[serde(default)]
    pub branch: Option<String>,
    #[serde(default)]
    pub state: Option<String>,
    #[serde(default)]
    pub pipeline: Option<String>,
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub limit: Option<i64>,
}

impl RunsQuery {
    pub fn limit(&self) -> i64 {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }

    /// None: the filter names a repository that is not there or not to be seen, so the list is empty.
    pub async fn filter(&self, web: &Web, who: &Who) -> Result<Option<RunFilter>, Problem> {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let mut filter = RunFilter {
            repo: who.repo.clone(),
            branch: given(&self.branch),
            pipeline: given(&self.pipeline),
            state: None,
        };
        if let Some(state) = given(&self.state) {
            let words: Vec<&str> = RunState::ALL.iter().map(|s| s.word()).collect();
            let wrong = |_| Problem::bad_request(format!("state must be one of {}", words.join(", ")));
            filter.state = Some(state.parse().map_err(wrong)?);
        }
        if let Some(name) = given(&self.repo) {
            match web.app.store.find_repo(&name).await? {
                Some(repo) if who.sees(&repo.id) => filter.repo = Some(repo.id),
                _ => return Ok(None),
            }
        }
        Ok(Some(filter))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RunsJson {
    pub runs: Vec<RunJson>,
    /// `before` of the next page.
    pub next: Option<String>,
}

/// `GET /api/v1/runs?repo=&branch=&state=&pipeline=&before=&limit=`
pub async fn runs(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<RunsQuery>,
) -> Answer<RunsJson> {
    let Some(filter) = query.filter(&web, &who).await? else {
        return Ok(Json(RunsJson { runs: Vec::new(), next: None }));
    };
    let limit = query.limit();
    let items = web.app.store.list_runs(filter, query.before.as_deref(), limit).await?;
    let next = (items.len() as i64 == limit).then(|| items.last().map(|i| i.run.id.to_string())).flatten();
    let runs = items.iter().map(|item| RunJson::new(&web, &item.run, item.repo.as_str())).collect();
    Ok(Json(RunsJson { runs, next }))
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunJson,
    pub steps: Vec<StepJson>,
}

/// `GET /api/v1/runs/{run}`
pub async fn run(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<RunDetail> {
    let FoundRun { view, repo } = run_for(&web, &who, &id).await?;
    Ok(Json(RunDetail {
        run: RunJson::new(&web, &view.run, repo.name.as_str()),
        steps: view.steps.iter().map(|s| step_json(s, &view.attempts)).collect(),
    }))
}

/// `GET /api/v1/runs/{run}/steps`
pub async fn steps(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<StepJson>> {
    let view = run_for(&web, &who, &id).await?.view;
    Ok(Json(view.steps.iter().map(|s| step_json(s, &view.attempts)).collect()))
}

#[derive(Debug, Serialize, Deserialize)]
pub struct MetricsJson {
    pub points: Vec<PointJson>,
    /// More points than one answer holds: ask for a single `name`.
    pub truncated: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct PointJson {
    pub name: String,
    pub step_name: String,
    /// A number, or `nan`, `inf`, `-inf`.
    #[serde(with = "float")]
    pub value: f64,
    pub training_step: Option<i64>,
    pub at_ms: Millis,
}

#[derive(Debug, Deserialize)]
pub struct MetricsQuery {
    #[serde(default)]
    name: Option<String>,
}

/// `GET /api/v1/runs/{run}/metrics?name=`: without a name, long curves come thinned.
pub async fn metrics(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(query): Query<MetricsQuery>,
) -> Answer<MetricsJson> {
    let view = run_for(&web, &who, &id).await?.view;
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

#[derive(Debug, Serialize, Deserialize)]
pub struct ParamJson {
    pub step_name: String,
    pub name: String,
    pub value: String,
}

/// `GET /api/v1/runs/{run}/params`
pub async fn params(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<ParamJson>> {
    let view = run_for(&web, &who, &id).await?.view;
    let rows = web.app.store.run_params(&view.run.id).await?;
    Ok(Json(rows.into_iter().map(|(step_name, name, value)| ParamJson { step_name, name, value }).collect()))
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ArtifactJson {
    pub attempt: String,
    pub path: String,
    pub bytes: i64,
    pub sha256: String,
}

/// `GET /api/v1/runs/{run}/artifacts`
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

#[derive(Debug, Deserialize)]
pub struct ArtifactQuery {
    path: String,
}

/// `GET /api/v1/attempts/{attempt}/artifact?path=`: always a download, never shown in place.
pub async fn artifact(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
    Query(query): Query<ArtifactQuery>,
) -> Result<Response, Problem> {
    let found = attempt_for(&web, &who, &uid).await?;
    let rows = web.app.store.artifacts_of_attempt(&found.attempt.uid).await?;
    let row =
        rows.into_iter().find(|r| r.path == query.path).ok_or_else(|| Problem::not_found("artifact"))?;
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
        (header::ETAG, format!("\"{}\"", row.sha256)),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ComparisonJson {
    pub id: String,
    pub target: String,
    pub baseline: Option<String>,
    pub baseline_note: String,
    pub rules: String,
    pub state: ComparisonState,
    pub verdict: Option<Verdict>,
    pub result: serde_json::Value,
    pub updated_ms: Millis,
}

/// `GET /api/v1/runs/{run}/comparisons`
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

/// What a changing call did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// False: there was nothing to change.
    pub changed: bool,
    pub detail: String,
}

/// A JSON body; an empty one is an empty object.
fn json_body<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text)
        .map_err(|e| Problem::bad_request(format!("the body is not what this call takes: {e}")))
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelAsk {
    #[serde(default)]
    pub reason: String,
}

/// `POST /api/v1/runs/{run}/cancel` `{reason?}`
pub async fn cancel(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<Done> {
    let ask: CancelAsk = json_body(&body)?;
    let view = run_for(&web, &who, &id).await?.view;
    cancel_run(&web, &who, &view.run, &ask.reason).await.map(Json)
}

pub async fn cancel_run(web: &Web, who: &Who, run: &RunRow, reason: &str) -> Result<Done, Problem> {
    let by = format!("cancelled by {}", who.actor());
    let why = match reason.trim() {
        "" => by,
        reason => format!("{by}: {}", super::text::shown_cut(reason, 200)),
    };
    let changed = web.app.store.request_cancel(&run.id, &why, web.app.clock.now_ms()).await?;
    if changed {
        tracing::info!(run.id = %run.id, who = who.actor(), "asked a run to stop");
    }
    let detail = if changed { "asked to stop" } else { "it had ended, or was asked to stop before" };
    Ok(Done { changed, detail: detail.into() })
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseAsk {
    /// The full commit id that was looked at: the release binds to it.
    pub sha: String,
}

/// `POST /api/v1/runs/{run}/release` `{sha}`
pub async fn release(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<Done> {
    let ask: ReleaseAsk = json_body(&body)?;
    let view = run_for(&web, &who, &id).await?.view;
    release_run(&web, &who, &view.run, &ask.sha).await.map(Json)
}

pub async fn release_run(web: &Web, who: &Who, run: &RunRow, sha: &str) -> Result<Done, Problem> {
    let sha =
        Sha::parse(sha.trim()).map_err(|e| Problem::bad_request(format!("{e}; give the full commit id")))?;
    let now = web.app.clock.now_ms();
    match web.app.store.release_run(&run.id, &sha, &who.actor(), now).await? {
        Ok(()) => {
            tracing::info!(run.id = %run.id, sha = %sha, who = who.actor(), "released a held run");
            Ok(Done { changed: true, detail: "released".into() })
        }
        Err(why) => Err(Problem::conflict(why)),
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveryJson {
    pub id: String,
    pub forge: String,
    pub hook: String,
    pub delivery_id: String,
    pub event: String,
    pub body_bytes: i64,
    pub body_sha256: String,
    pub received_ms: Millis,
    pub state: DeliveryState,
    pub reason: String,
    pub decided_ms: Option<Millis>,
}

impl DeliveryJson {
    fn new(row: DeliveryRow) -> Self {
        Self {
            id: row.id.to_string(),
            forge: row.forge,
            hook: row.hook_id,
            delivery_id: row.delivery_id,
            event: row.event,
            body_bytes: row.body_bytes,
            body_sha256: row.body_sha256,
            received_ms: row.received_ms,
            state: row.state,
            reason: row.reason,
            decided_ms: row.decided_ms,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub limit: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveriesJson {
    pub deliveries: Vec<DeliveryJson>,
    pub next: Option<String>,
}

/// `GET /api/v1/deliveries?before=&limit=`
pub async fn deliveries(State(web): State<Web>, Query(query): Query<PageQuery>) -> Answer<DeliveriesJson> {
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let rows = web.app.store.list_deliveries(query.before.as_deref(), limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|r| r.id.to_string())).flatten();
    Ok(Json(DeliveriesJson { deliveries: rows.into_iter().map(DeliveryJson::new).collect(), next }))
}

/// `GET /api/v1/deliveries/{delivery}`: by our id or the forge's.
pub async fn delivery(State(web): State<Web>, Path(id): Path<String>) -> Answer<DeliveryJson> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    Ok(Json(DeliveryJson::new(row)))
}

/// `POST /api/v1/deliveries/{delivery}/replay`
pub async fn replay(State(web): State<Web>, Path(id): Path<String>) -> Answer<Done> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    let changed = web
        .app
        .store
        .replay_delivery(&DeliveryRowId::from_text(row.id.as_str()), web.app.clock.now_ms())
        .await?;
    Ok(Json(Done { changed, detail: "it will be looked at again".into() }))
}

#[derive(Debug, Serialize, Deserialize)]
pub struct PoolJson {
    pub name: String,
    pub executor: String,
    pub slots: u32,
    pub slots_used: i64,
    pub gpus: u32,
    pub gpus_used: Vec<u32>,
    pub gpu_hour_price: f64,
    pub currency: String,
    pub untrusted: bool,
}

pub async fn pool_rows(web: &Web) -> Result<Vec<PoolJson>, Problem> {
    let mut used = web.app.store.pool_use().await?;
    let row = |(name, pool): (String, crate::config::PoolConfig)| {
        let used = used.remove(&name).unwrap_or_default();
        PoolJson {
            name,
            executor: pool.executor,
            slots: pool.slots,
            slots_used: used.attempts,
            gpus: pool.gpus,
            gpus_used: used.gpus,
            gpu_hour_price: pool.gpu_hour_price,
            currency: pool.currency,
            untrusted: pool.untrusted,
        }
    };
    Ok(web.app.config.pools().into_iter().map(row).collect())
}

/// `GET /api/v1/pools`
pub async fn pools(State(web): State<Web>) -> Answer<Vec<PoolJson>> {
    pool_rows(&web).await.map(Json)
}

#[derive(Debug, Serialize, Deserialize)]
pub struct TokenJson {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    /// Row id of the repository it is bound to.
    pub repo: Option<String>,
    pub created_ms: Millis,
    pub revoked_ms: Option<Millis>,
    /// Its text: in the answer that makes it, and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl TokenJson {
    fn new(row: TokenRow, token: Option<String>) -> Self {
        Self {
            id: row.id,
            name: row.name,
            scope: row.scope,
            repo: row.repo,
            created_ms: row.created_ms,
            revoked_ms: row.revoked_ms,
            token,
        }
    }
}

/// `GET /api/v1/tokens`
pub async fn tokens(State(web): State<Web>) -> Answer<Vec<TokenJson>> {
    let rows = web.app.store.tokens().await?;
    Ok(Json(rows.into_iter().map(|row| TokenJson::new(row, None)).collect()))
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenAsk {
    pub name: String,
    pub scope: Scope,
    /// `owner/name`; absent: every repository.
    #[serde(default)]
    pub repo: Option<String>,
}

/// `POST /api/v1/tokens` `{name, scope, repo?}`
pub async fn create_token(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    body: Bytes,
) -> Result<Response, Problem> {
    let ask: TokenAsk = json_body(&body)?;
    let name = super::text::shown_cut(ask.name.trim(), 80).to_string();
    if name.is_empty() {
        return Err(Problem::bad_request("give the token a name that says who uses it"));
    }
    let repo: Option<RepoId> = match &ask.repo {
        None => None,
        Some(text) => {
            let unknown = || {
                Problem::bad_request(
                    "no delivery has come from that repository yet; write owner/name as the forge does",
                )
            };
            Some(web.app.store.find_repo(text).await?.ok_or_else(unknown)?.id)
        }
    };
    let (row, text) =
        auth::create_token(&web.app.store, &name, ask.scope, repo, web.app.clock.now_ms()).await?;
    tracing::info!(token.id = row.id, token.scope = %row.scope, who = who.actor(), "made an API token");
    Ok((StatusCode::CREATED, Json(TokenJson::new(row, Some(text)))).into_response())
}

/// `DELETE /api/v1/tokens/{token}`
pub async fn revoke_token(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Done> {
    if !web.app.store.revoke_token(&id, web.app.clock.now_ms()).await? {
        return Err(Problem::not_found("live token"));
    }
    tracing::info!(token.id = id, who = who.actor(), "revoked an API token");
    Ok(Json(Done { changed: true, detail: "revoked, with its sessions".into() }))
}
