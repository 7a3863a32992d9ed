//! Runs, their steps and attempts: reading them, asking one to stop, releasing a held one.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi::Refusals;
use super::{Answer, Done, json_body, listed, tagged};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::extract::{Bytes, Path, Query};
use crate::http::problem::Problem;
use crate::http::summary::{self, Summary};
use crate::http::text::{self, shown_cut};
use crate::model::{
    AttemptRank, AttemptState, AttemptUid, EndClass, RunId, RunState, Sha, StepState, Verdict,
};
use crate::store::attempts::AttemptRow;
use crate::store::lists::{RunFilter, RunListItem};
use crate::store::pulls::RepoRow;
use crate::store::ranks::RankRow;
use crate::store::runs::{RunRow, RunView, SHORT_ID, StepRow};

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// The worst verdict of its comparisons; null while there is none.
    pub verdict: Option<Verdict>,
    /// Its primary metric in a few words: `accuracy 0.84 (+0.012)`.
    pub headline: String,
    /// The dashboard's page.
    pub url: String,
}

impl RunJson {
    fn new(web: &Web, run: &RunRow, repo: &str, summary: Option<&Summary>) -> Self {
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
            verdict: summary.map(|s| s.verdict),
            headline: summary.map(|s| s.headline.clone()).unwrap_or_default(),
            url: format!("{}/runs/{}", web.app.config.public_url.trim_end_matches('/'), run.id),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StepJson {
    pub name: String,
    pub state: StepState,
    pub reason: String,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
    pub outputs: BTreeMap<String, String>,
    pub attempts: Vec<AttemptJson>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// Pods beside the first, where there are several; their logs are those of the attempt `<uid>.<rank>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankJson>,
    pub log_bytes: i64,
    pub log_lost_bytes: i64,
    pub notes: Vec<String>,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

impl AttemptJson {
    fn new(row: &AttemptRow, ranks: &[RankRow]) -> Self {
        let others = ranks.iter().filter(|rank| rank.of.uid == row.uid && !rank.of.leads());
        Self {
            ranks: others.map(RankJson::new).collect(),
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

/// One pod of an attempt, beside the first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RankJson {
    pub rank: u32,
    /// None: it has not ended, or never said how.
    pub class: Option<EndClass>,
    pub reason: String,
    pub exit_code: Option<i64>,
    pub log_bytes: i64,
    pub log_lost_bytes: i64,
    /// Metric points that it sent: kept, and left out of every comparison.
    pub points: i64,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

impl RankJson {
    fn new(row: &RankRow) -> Self {
        Self {
            rank: row.of.rank,
            class: row.class,
            reason: row.reason.clone(),
            exit_code: row.exit_code,
            log_bytes: row.log_bytes,
            log_lost_bytes: row.log_lost_bytes,
            points: row.metrics_seq,
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
        }
    }
}

fn step_json(step: &StepRow, attempts: &[AttemptRow], ranks: &[RankRow]) -> StepJson {
    StepJson {
        name: step.name.clone(),
        state: step.state,
        reason: step.reason.clone(),
        started_ms: step.started_ms,
        ended_ms: step.ended_ms,
        outputs: step.outputs.clone(),
        attempts: attempts
            .iter()
            .filter(|a| a.step_id == step.id)
            .map(|a| AttemptJson::new(a, ranks))
            .collect(),
    }
}

/// A run that the caller may see. Others do not exist for it.
pub struct FoundRun {
    pub view: RunView,
    pub repo: RepoRow,
}

/// Finds a run by its id or the first eight or more characters of it.
///
/// # Errors
/// No such run; or several begin so, which are listed.
pub async fn run_for(web: &Web, who: &Who, text: &str) -> Result<FoundRun, Problem> {
    let gone = || Problem::not_found("run");
    let store = &web.app.store;
    let mut found = store.find_runs(text, who.repo.as_ref()).await?;
    if found.len() > 1 {
        let each = |run: &RunRow| {
            format!("{} ({} at {})", run.id, shown_cut(&run.pipeline, 80), run.head_sha.abbreviated())
        };
        let more = if found.len() > 5 { ", …" } else { "" };
        let listed: Vec<String> = found.iter().take(5).map(each).collect();
        return Err(Problem::bad_request(format!(
            "several runs begin with {:?}, write more of the id: {}{more}",
            text.trim(),
            listed.join(", ")
        )));
    }
    let Some(found) = found.pop() else {
        let short = text.trim();
        let is_beginning = short.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if !short.is_empty() && short.len() < SHORT_ID && is_beginning {
            return Err(Problem::bad_request(format!(
                "{short:?} is too short for a run's id: write its first {SHORT_ID} characters or more"
            )));
        }
        return Err(gone());
    };
    let view = store.run_view(&found.id).await?.ok_or_else(gone)?;
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

/// The log of one rank of an attempt.
pub struct FoundLog {
    pub of: AttemptRank,
    pub bytes: i64,
    /// Its attempt has: nothing will be added.
    pub ended: bool,
}

/// `text`: an attempt's uid for its leader's log, or `<uid>.<rank>`.
pub async fn log_for(web: &Web, who: &Who, text: &str) -> Result<FoundLog, Problem> {
    let of = AttemptRank::from_text(text);
    let found = attempt_for(web, who, of.uid.as_str()).await?;
    let bytes = if of.leads() {
        found.attempt.log_bytes
    } else {
        web.app.store.rank(&of).await?.ok_or_else(|| Problem::not_found("rank"))?.log_bytes
    };
    Ok(FoundLog { of, bytes, ended: found.attempt.state == AttemptState::Ended })
}

/// Filters and page of the list of runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RunsQuery {
    /// `owner/name`, or `forge:owner/name`.
    #[serde(default)]
    pub repo: Option<String>,
    #[serde(default)]
    pub branch: Option<String>,
    /// A run's state, e.g. `failed`.
    #[serde(default)]
    #[param(value_type = Option<RunState>)]
    pub state: Option<String>,
    #[serde(default)]
    pub pipeline: Option<String>,
    /// The login behind the head commit's push.
    #[serde(default)]
    pub author: Option<String>,
    /// Number of a pull request: the runs that were compared for it.
    #[serde(default)]
    #[param(value_type = Option<i64>, minimum = 1)]
    pub pull: Option<String>,
    /// `next` of the page before; absent: the first page.
    #[serde(default)]
    #[param(pattern = "^([^\\u0000]* )?[0-9a-f-]{36}$", max_length = 400)]
    pub cursor: Option<String>,
    /// Rows of one page; 50 when absent.
    #[serde(default)]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<i64>,
}

impl RunsQuery {
    /// # Errors
    /// A limit or a cursor that no page has.
    pub fn page(&self) -> Result<(Option<&str>, i64), Problem> {
        super::page(self.cursor.as_deref(), self.limit)
    }

    /// What was asked for, by parameter; what was not is empty.
    pub fn asked(&self) -> [(&'static str, String); 6] {
        let given = |text: &Option<String>| text.as_deref().unwrap_or_default().trim().to_owned();
        [
            ("repo", given(&self.repo)),
            ("branch", given(&self.branch)),
            ("state", given(&self.state)),
            ("pipeline", given(&self.pipeline)),
            ("author", given(&self.author)),
            ("pull", given(&self.pull)),
        ]
    }

    /// None: the filter names a repository that is not there or not to be seen, so the list is empty.
    ///
    /// # Errors
    /// A state or a number that is none.
    pub async fn filter(&self, web: &Web, who: &Who) -> Result<Option<RunFilter>, Problem> {
        let [repo, branch, state, pipeline, author, pull] =
            self.asked().map(|(_, text)| (!text.is_empty()).then_some(text));
        let mut filter =
            RunFilter { repo: who.repo.clone(), branch, pipeline, author, ..RunFilter::default() };
        if let Some(state) = state {
            let words: Vec<&str> = RunState::ALL.iter().map(|s| s.word()).collect();
            let wrong = |_| Problem::bad_request(format!("state must be one of {}", words.join(", ")));
            filter.state = Some(state.parse().map_err(wrong)?);
        }
        if let Some(number) = pull {
            let number = number.trim_start_matches(['#', '!']).parse::<i64>().ok().filter(|n| *n > 0);
            filter.pull =
                Some(number.ok_or_else(|| Problem::bad_request("pull must be a pull request's number"))?);
        }
        if let Some(name) = repo {
            match web.app.store.find_repo(&name).await? {
                Some(repo) if who.sees(&repo.id) => filter.repo = Some(repo.id),
                _ => return Ok(None),
            }
        }
        Ok(Some(filter))
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RunsJson {
    pub runs: Vec<RunJson>,
    /// `cursor` of the next page.
    pub next: Option<String>,
}

/// Lists runs, newest first
#[utoipa::path(get, path = "/api/v1/runs", tag = "runs", params(RunsQuery), responses((status = 200, description = "Newest first", body = RunsJson), Refusals))]
pub async fn runs(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<RunsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (cursor, limit) = query.page()?;
    let items = match query.filter(&web, &who).await? {
        Some(filter) => web.app.store.list_runs(filter, cursor, limit).await?,
        None => Vec::new(),
    };
    let ids: Vec<RunId> = items.iter().map(|i| i.run.id.clone()).collect();
    let summaries = summary::of_runs(&web.app.store, &ids).await?;
    let next = (items.len() as i64 == limit).then(|| items.last().map(|i| i.run.id.to_string())).flatten();
    let json =
        |item: &RunListItem| RunJson::new(&web, &item.run, item.repo.as_str(), summaries.get(&item.run.id));
    let mut asked = query.asked().to_vec();
    asked.push(("limit", limit.to_string()));
    asked.push(("cursor", next.clone().unwrap_or_default()));
    let answer = RunsJson { runs: items.iter().map(json).collect(), next };
    Ok(listed(&headers, &answer, "/api/v1/runs", &asked))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunJson,
    pub steps: Vec<StepJson>,
}

/// One run with its steps
#[utoipa::path(get, path = "/api/v1/runs/{run}", tag = "runs", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "The run with its steps and their tries", body = RunDetail), Refusals))]
pub async fn run(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let FoundRun { view, repo } = run_for(&web, &who, &id).await?;
    let summary = summary::worst(&web.app.store.comparisons_of(&view.run.id).await?);
    let answer = RunDetail {
        run: RunJson::new(&web, &view.run, repo.name.as_str(), summary.as_ref()),
        steps: view.steps.iter().map(|s| step_json(s, &view.attempts, &view.ranks)).collect(),
    };
    Ok(tagged(&headers, &answer))
}

/// The steps of a run
#[utoipa::path(get, path = "/api/v1/runs/{run}/steps", tag = "runs", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), responses((status = 200, description = "In graph order", body = Vec<StepJson>), Refusals))]
pub async fn steps(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Answer<Vec<StepJson>> {
    let view = run_for(&web, &who, &id).await?.view;
    Ok(Json(view.steps.iter().map(|s| step_json(s, &view.attempts, &view.ranks)).collect()))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelAsk {
    #[serde(default)]
    pub reason: String,
}

/// Asks a run to stop
#[utoipa::path(post, path = "/api/v1/runs/{run}/cancel", tag = "runs", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), request_body = Option<CancelAsk>, responses((status = 200, description = "What changed", body = Done), Refusals))]
pub async fn cancel(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Bytes(body): Bytes,
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

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseAsk {
    /// The full commit id that was looked at: the release binds to it.
    #[schema(pattern = "^([0-9a-f]{40}|[0-9a-f]{64})$")]
    pub sha: String,
}

/// Lets a held run go, for the one commit that was looked at
#[utoipa::path(post, path = "/api/v1/runs/{run}/release", tag = "runs", params(("run" = String, Path, description = "The run's id, or its first eight or more characters")), request_body = ReleaseAsk, responses((status = 200, description = "What changed", body = Done), Refusals))]
pub async fn release(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Bytes(body): Bytes,
) -> Answer<Done> {
    let ask: ReleaseAsk = json_body(&body)?;
    let view = run_for(&web, &who, &id).await?.view;
    release_run(&web, &who, &view.run, &ask.sha).await.map(Json)
}

pub async fn release_run(web: &Web, who: &Who, run: &RunRow, sha: &str) -> Result<Done, Problem> {
    let sha = sha.trim();
    if !sha.is_empty() && sha.bytes().all(|b| b == b'0') {
        return Err(Problem::conflict("this id means no commit; the run is of another one"));
    }
    let sha = Sha::parse(sha).map_err(|e| Problem::bad_request(format!("{e}; give the full commit id")))?;
    let now = web.app.clock.now_ms();
    match web.app.store.release_run(&run.id, &sha, &who.actor(), now).await? {
        Ok(()) => {
            tracing::info!(run.id = %run.id, sha = %sha, who = who.actor(), "released a held run");
            Ok(Done { changed: true, detail: "released".into() })
        }
        Err(why) => Err(Problem::conflict(why)),
    }
}
