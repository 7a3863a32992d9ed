//! Runs, their steps and attempts: reading them, asking one to stop, releasing a held one.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::{Answer, Done, PAGE, PAGE_MAX, json_body};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::problem::Problem;
use crate::http::text;
use crate::model::{AttemptState, AttemptUid, EndClass, RunState, Sha, StepState};
use crate::store::attempts::AttemptRow;
use crate::store::lists::RunFilter;
use crate::store::pulls::RepoRow;
use crate::store::runs::{RunRow, RunView, StepRow};

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
        reason => format!("{by}: {}", text::shown_cut(reason, 200)),
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
