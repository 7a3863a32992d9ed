//! Why a run is where it is, why a step was not reused, and running a run again.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openapi::Refusals;
use super::{Answer, json_body, run_for};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::extract::{Bytes, Path};
use crate::http::problem::Problem;
use crate::model::plan::Reuse;
use crate::model::{ComparisonState, RunId, RunState, StepState};
use crate::reuse::{fresh_since, key};
use crate::run::schedule::Scene;
use crate::run::why::{self, Facts, Typical};
use crate::store::StoreError;
use crate::store::queue::StepName;
use crate::store::reuse::{NO_KEY, Rerun};
use crate::store::runs::{RunRow, RunView};

/// Steps whose durations are read for one answer at most.
const NAMES: usize = 200;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WhyJson {
    pub run: String,
    pub state: RunState,
    /// About the run as a whole.
    pub says: String,
    /// In graph order.
    pub steps: Vec<WhyStepJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WhyStepJson {
    pub step: String,
    pub state: StepState,
    pub says: String,
    /// `approval`, `concurrency_group`, `needs`, `lookup`, `quota`, `turn`, `pool`, `start`, `end`.
    pub waits_for: Option<String>,
    pub pool: Option<String>,
    /// In the line of its pool; 1 is next.
    pub position: Option<usize>,
    pub line_length: Option<usize>,
    pub free_slots: Option<i64>,
    pub free_gpus: Option<usize>,
    /// To its start, or for a running step to its end.
    pub estimate_ms: Option<Millis>,
    pub estimate_basis: Option<String>,
}

/// Why a run is where it is
#[utoipa::path(get, path = "/api/v1/runs/{run}/why", tag = "runs",
    params(("run" = String, Path, description = "The run's id, or its first eight or more characters")),
    responses((status = 200, description = "What it and its steps wait for", body = WhyJson), Refusals))]
pub async fn why(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<WhyJson> {
    let found = run_for(&web, &who, &id).await?;
    Ok(Json(explain(&web, &found.view, found.repo.name.as_str()).await?))
}

/// Reads what the explanation is made from.
pub async fn explain(web: &Web, view: &RunView, repo: &str) -> Result<WhyJson, StoreError> {
    let store = &web.app.store;
    let scene = Scene::read(store, &web.app.config, web.app.clock.now_ms()).await?;
    let ahead = store.run_ahead(&view.run).await?;
    let mut baselines = Vec::new();
    if view.run.state == RunState::Succeeded {
        let waiting = store.comparisons_of(&view.run.id).await?;
        let waiting = waiting.into_iter().filter(|row| row.state == ComparisonState::Pending);
        baselines = waiting.filter_map(|row| Some((row.baseline?, row.baseline_note))).collect();
    }
    let mut typical = std::collections::BTreeMap::new();
    for name in why::names(view, &scene).into_iter().take(NAMES) {
        if let Some(known) = Typical::of(store.step_durations(&name, why::HISTORY).await?) {
            typical.insert(name, known);
        }
    }
    let facts = Facts { view, repo: repo.to_owned(), scene: &scene, ahead, baselines, typical: &typical };
    let why = why::why(&facts);
    let step = |step: why::WhyStep| WhyStepJson {
        step: step.step,
        state: step.state,
        says: step.says,
        waits_for: step.waits_for.map(|what| what.word().to_owned()),
        pool: step.line.as_ref().map(|line| line.pool.clone()),
        position: step.line.as_ref().map(|line| line.position),
        line_length: step.line.as_ref().map(|line| line.length),
        free_slots: step.line.as_ref().and_then(|line| line.free_slots),
        free_gpus: step.line.as_ref().and_then(|line| line.free_gpus),
        estimate_ms: step.estimate.as_ref().map(|estimate| estimate.in_ms),
        estimate_basis: step.estimate.map(|estimate| estimate.basis),
    };
    Ok(WhyJson {
        run: view.run.id.to_string(),
        state: view.run.state,
        says: why.says,
        steps: why.steps.into_iter().map(step).collect(),
    })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReuseJson {
    pub step: String,
    pub state: StepState,
    pub says: String,
    /// The run whose result stands for this step's.
    pub reused_from: Option<String>,
    /// The run it was held against.
    pub compared_with: Option<String>,
    /// The first component that differs.
    pub differs: Option<String>,
    /// Which path or name in it.
    pub what: Option<String>,
}

/// Why a step was reused, or the first thing in which it differs from an earlier one
#[utoipa::path(get, path = "/api/v1/runs/{run}/steps/{step}/reuse", tag = "runs",
    params(("run" = String, Path, description = "The run's id, or its first eight or more characters"), ("step" = String, Path, description = "The step's name")),
    responses((status = 200, description = "What stood for it, or what differs", body = ReuseJson), Refusals))]
pub async fn reuse(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path((id, name)): Path<(String, String)>,
) -> Answer<ReuseJson> {
    let view = run_for(&web, &who, &id).await?.view;
    let row = view.steps.iter().find(|s| s.name == name).ok_or_else(|| Problem::not_found("step"))?;
    let gone = || Problem::not_found("step");
    let reuse = web.app.store.step_reuse(&row.id).await?.ok_or_else(gone)?;
    let mut out = ReuseJson {
        step: name.clone(),
        state: row.state,
        says: String::new(),
        reused_from: reuse.from.as_ref().map(|from| from.run.to_string()),
        compared_with: None,
        differs: None,
        what: None,
    };
    let declared = view.run.plan.step(&name).is_some_and(|spec| spec.reuse.on);
    out.says = match (&reuse.from, reuse.key.as_deref()) {
        (Some(from), _) => format!("reused from run {}", from.run),
        (None, None) if !declared => {
            "it is not reused: it declares neither `inputs` nor `reuse: true`".into()
        }
        (None, None) => "nobody has looked for an equal step yet".into(),
        (None, Some(NO_KEY)) => {
            let why = reuse.parts.get("why").map_or("it cannot be told what it depends on", String::as_str);
            format!("it is not reused: {why}")
        }
        (None, Some(_)) => {
            let name = StepName {
                repo_id: view.run.repo_id.clone(),
                pipeline: view.run.pipeline.clone(),
                step: name.clone(),
            };
            match web.app.store.earlier_reuse(&name, &row.id).await? {
                None => "there is no earlier good step of that name in a trusted run".to_owned(),
                Some((run, earlier)) => {
                    out.compared_with = Some(run.to_string());
                    match key::first_difference(&reuse.parts, &earlier.parts) {
                        Some((part, what)) => {
                            let named = what.as_ref().map(|what| format!(" ({what})")).unwrap_or_default();
                            out.differs = Some(part.to_owned());
                            out.what = what;
                            format!("its {part} differ from those of run {run}{named}")
                        }
                        None => format!(
                            "it equals that of run {run}, whose artifacts are too old, or which ended later"
                        ),
                    }
                }
            }
        }
    };
    Ok(Json(out))
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RerunAsk {
    /// Good steps are taken over; only the others run.
    #[serde(default)]
    pub failed: bool,
    /// No step takes an earlier result over.
    #[serde(default)]
    pub no_cache: bool,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RerunJson {
    pub run: String,
    pub url: String,
}

/// Runs a run again, with its recorded plan, commit and trust
#[utoipa::path(post, path = "/api/v1/runs/{run}/rerun", tag = "runs",
    params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), request_body(content = Option<RerunAsk>),
    responses((status = 200, description = "The new run", body = RerunJson), Refusals))]
pub async fn rerun(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Bytes(body): Bytes,
) -> Answer<RerunJson> {
    let ask: RerunAsk = json_body(&body)?;
    let view = run_for(&web, &who, &id).await?.view;
    let run = rerun_run(&web, &who, &view.run, &ask).await?;
    let url = format!("{}/runs/{run}", web.app.config.public_url.trim_end_matches('/'));
    Ok(Json(RerunJson { run: run.to_string(), url }))
}

pub async fn rerun_run(web: &Web, who: &Who, run: &RunRow, ask: &RerunAsk) -> Result<RunId, Problem> {
    if ask.failed && ask.no_cache {
        return Err(Problem::conflict(
            "`failed` takes good steps over and `no_cache` takes none: choose one",
        ));
    }
    let now = web.app.clock.now_ms();
    let mut plan = run.plan.clone();
    if ask.no_cache {
        plan.steps.iter_mut().for_each(|step| step.reuse = Reuse::default());
    }
    let rerun = Rerun {
        run: run.id.clone(),
        id: RunId::generate(now),
        failed: ask.failed,
        plan,
        actor: who.actor(),
        fresh_since: fresh_since(web.app.config.retention, now),
    };
    match web.app.store.rerun(rerun, now).await {
        Ok(Ok(new)) => {
            tracing::info!(run.id = %run.id, run.new = %new, who = who.actor(), "runs a run again");
            Ok(new)
        }
        Ok(Err(why)) | Err(StoreError::Refused(why)) => Err(Problem::conflict(why)),
        Err(error) => Err(error.into()),
    }
}
