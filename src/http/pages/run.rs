//! `/runs/{run}`: everything of one run.

use std::sync::Arc;

use askama::Template;
use askama::filters::Safe;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::chart::Chart;
use super::graph::{self, Graph};
use super::metrics::{self, Table};
use super::runs::title;
use super::{Shell, data, render, report};
use crate::clock::Millis;
use crate::config::ForgeKind;
use crate::forge::{ChangeWords, Forge, WebPage};
use crate::http::api::{self, FoundRun, run_for};
use crate::http::app::Web;
use crate::http::auth::{Who, escape_query};
use crate::http::extract::{Form, Path, Query};
use crate::http::follow;
use crate::http::problem::Problem;
use crate::http::terminal::Span;
use crate::http::text::{self, Shown, shown, shown_cut, shown_lines};
use crate::model::params::{self, Reported};
use crate::model::{AttemptState, MetricSource, RepoName, RunState, StepState};
use crate::report::status;
use crate::store::attempts::AttemptRow;
use crate::store::comparisons::ComparisonRow;
use crate::store::outbox::{OutboxKind, OutboxRow, OutboxState};
use crate::store::pulls::RepoRow;
use crate::store::runs::{RunView, StepRow};
use crate::store::tokens::Scope;

/// Bytes of a log that the page itself carries; a script fetches what follows.
const TAIL: usize = 64 << 10;
const PARAMS: usize = 100;
const ARTIFACTS: usize = 200;
const PULLS: usize = 5;
const WAITS: usize = 8;

#[derive(Template)]
#[template(path = "run.html")]
struct Page {
    shell: Shell,
    id: String,
    short_id: String,
    title: Shown,
    repo: Shown,
    repo_path: String,
    repo_query: String,
    pipeline: Shown,
    pipeline_query: String,
    state: &'static str,
    tone: &'static str,
    reason: Shown,
    cancel_request: Option<Shown>,
    /// What its steps wait for.
    waits: Vec<Shown>,
    held: bool,
    trusted: bool,
    can_cancel: bool,
    can_rerun: bool,
    /// Some step was not good: the good ones may be taken over.
    can_rerun_failed: bool,
    can_release: bool,
    branch: Shown,
    branch_url: Option<String>,
    sha: String,
    sha_short: String,
    commit_url: Option<String>,
    pulls: Vec<Pull>,
    actor: Shown,
    trigger: Shown,
    generation: i64,
    created: String,
    created_long: String,
    age: String,
    took: String,
    cost: String,
    graph: Option<Graph>,
    /// Position of the step whose log is shown.
    selected: i64,
    /// The reader chose that step; else the page moves on with the run.
    pinned: bool,
    tables: Vec<Table>,
    charts: Vec<Chart>,
    charts_cut: usize,
    dashed: bool,
    log: Log,
    params: Vec<Param>,
    params_compared: bool,
    params_cut: usize,
    artifacts: Vec<Artifact>,
    artifacts_cut: usize,
    steps: Vec<Step>,
    sources: Vec<Source>,
    data: Vec<data::Set>,
    left_out: Vec<Shown>,
    reports: Vec<Report>,
}

struct Pull {
    number: String,
    title: Shown,
    url: String,
}

#[derive(Default)]
struct Log {
    uid: String,
    step: Shown,
    state: &'static str,
    note: String,
    reason: Shown,
    attempts: Vec<Try>,
    lines: Vec<Vec<Span>>,
    left_out: i64,
    left_out_text: String,
    /// Where a follower goes on.
    next: i64,
    /// More may come.
    live: bool,
    empty: &'static str,
}

struct Try {
    number: i64,
    state: &'static str,
    current: bool,
}

struct Param {
    name: Shown,
    baseline: Shown,
    value: Shown,
    changed: bool,
}

struct Artifact {
    path: Shown,
    step: Shown,
    href: String,
    size: String,
    sha256: String,
}

struct Step {
    position: i64,
    name: Shown,
    state: &'static str,
    took: String,
    /// GPU time and cost of all its tries.
    gpu: String,
    bar: Option<graph::Bar>,
    place: Shown,
    reason: Shown,
    notes: Vec<Shown>,
}

/// Where metrics came from.
struct Source {
    step: Shown,
    kind: Shown,
    place: Shown,
    /// `12 points, 3 parameters`, or that it was passed over.
    gave: String,
    note: Shown,
}

struct Report {
    number: String,
    url: String,
    /// Empty: the forge shows it.
    state: Shown,
    html: Safe<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct RunQuery {
    /// Position of the step whose log is shown.
    #[serde(default)]
    step: Option<i64>,
    #[serde(default)]
    attempt: Option<i64>,
    /// `live`: the caller has the log already.
    #[serde(default)]
    part: Option<String>,
}

/// The step whose log says most right now: the one that went wrong, the one that runs, the last that ran.
pub fn telling(steps: &[StepRow]) -> Option<&StepRow> {
    let first = |states: &[StepState]| steps.iter().find(|s| states.contains(&s.state));
    first(&[StepState::Failed, StepState::Errored])
        .or_else(|| first(&[StepState::Running]))
        .or_else(|| steps.iter().rev().find(|s| s.started_ms.is_some()))
        .or_else(|| steps.first())
}

/// Web pages of a repository at its forge.
pub struct ForgeLinks<'a> {
    forge: Option<&'a Arc<dyn Forge>>,
    repo: &'a RepoName,
}

impl<'a> ForgeLinks<'a> {
    pub fn new(web: &'a Web, repo: &'a RepoRow) -> Self {
        Self { forge: web.app.forges.get(&repo.forge), repo: &repo.name }
    }
    /// What the forge calls a pull request.
    pub fn change(&self) -> ChangeWords {
        self.forge.map_or_else(|| ChangeWords::of(ForgeKind::Github), |forge| forge.capabilities().change)
    }
    /// None when the forge is not configured any more.
    pub fn at(&self, what: WebPage<'_>) -> Option<String> {
        let url = self.forge?.page(self.repo, what);
        // Only what is certainly a web address becomes a link.
        (url.starts_with("https://") || url.starts_with("http://")).then_some(url)
    }
}

fn gpu_cost<'a>(
    web: &Web,
    attempts: impl IntoIterator<Item = &'a AttemptRow> + Clone,
    now: Millis,
) -> String {
    let idle = AttemptRow::gpu_idle(attempts.clone(), now);
    let idle = idle.map_or(String::new(), |share| format!(", {:.0} % idle", share * 100.0));
    let pools = web.app.config.pools();
    let (mut gpu_ms, mut price, mut currency) = (0i64, 0.0, String::new());
    for a in attempts {
        let ms = a.gpu_ms(now);
        gpu_ms += ms;
        if let Some(pool) = pools.get(&a.pool) {
            price += pool.price(ms);
            currency.clone_from(&pool.currency);
        }
    }
    match (gpu_ms, price > 0.0) {
        (0, _) => String::new(),
        (ms, false) => format!("{} of GPU time{idle}", text::duration(ms)),
        (ms, true) => format!("{} of GPU time{idle} · {price:.2} {currency}", text::duration(ms)),
    }
}

/// `GET /runs/{run}?step=&attempt=`
pub async fn show(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(query): Query<RunQuery>,
) -> Result<Response, Problem> {
    let FoundRun { view, repo } = run_for(&web, &who, &id).await?;
    let store = &web.app.store;
    let now = web.app.clock.now_ms();
    let run = &view.run;
    let links = ForgeLinks::new(&web, &repo);

    let comparisons = store.comparisons_of(&run.id).await?;
    let sample = async |run| store.sample_metrics(run, None, api::CURVE_POINTS, api::POINTS_MAX).await;
    let own = sample(&run.id).await?;
    let baseline = comparisons.iter().find_map(|c| c.baseline.clone());
    let (base_metrics, base_params) = match &baseline {
        Some(base) => (sample(base).await?, store.run_params(base).await?),
        None => (Vec::new(), Vec::new()),
    };
    let tables = metrics::tables(&comparisons, &own, links.change());
    let (charts, charts_cut) = metrics::charts(&run.plan, &metrics::against(&own, &base_metrics));
    let (params, params_cut) = params(&store.run_params(&run.id).await?, &base_params);
    let (artifacts, artifacts_cut) = artifacts(store.run_artifacts(&run.id).await?, &view);

    let chosen = query.step.and_then(|at| view.steps.iter().find(|s| s.position == at));
    let step = chosen.or_else(|| telling(&view.steps));
    let with_lines = query.part.as_deref() != Some("live");
    let log = log(&web, &view, step, query.attempt, with_lines, now).await?;
    let (reports, waiting) = reports(&web, &repo, &comparisons, &links).await?;

    let mut pulls = store.open_pulls_with_head(&run.repo_id, &run.head_sha).await?;
    pulls.truncate(PULLS);
    let pulls = pulls.into_iter().map(|p| {
        let url = format!("/pulls/{}/{}", p.pull.number, escape_query(repo.name.as_str()));
        Pull { number: links.change().number(p.pull.number), title: shown_cut(&p.pull.title, 120), url }
    });
    let open = !run.state.is_terminal();
    let unsettled = waiting || comparisons.iter().any(|c| c.state == crate::model::ComparisonState::Pending);
    // Statuses, comparisons and the comment follow the run's end.
    let just_ended = run.ended_ms.is_some_and(|at| now - at < 120_000);
    let refresh = if open {
        10_000 // what its events do not tell: how long ago things were
    } else if unsettled || just_ended {
        3000
    } else {
        0
    };
    let mut waits = Vec::new();
    if open && run.state != RunState::Held {
        let why = api::explain(&web, &view, repo.name.as_str()).await?;
        let ready = why.steps.into_iter().filter(|step| step.state == StepState::Ready);
        waits.extend(ready.take(WAITS).map(|step| shown_cut(&format!("{}: {}", step.step, step.says), 400)));
    }
    let status = status::target(&run.head_sha, &run.pipeline);
    let status = store.outbox_row(&repo.id, OutboxKind::Status, &status).await?;
    if let Some(why) = status.as_ref().and_then(untold) {
        waits.push(shown_cut(&format!("the commit status, {why}"), 400));
    }
    let took = match (run.started_ms, run.ended_ms) {
        (Some(from), to) => text::duration(to.unwrap_or(now) - from),
        _ => String::new(),
    };
    let here = format!("/runs/{}", run.id);
    render(&Page {
        shell: if open {
            Shell::new("runs", &who, &here, refresh).streaming(format!("{here}/stream"))
        } else {
            Shell::new("runs", &who, &here, refresh)
        },
        id: run.id.to_string(),

        short_id: run.id.as_str().chars().take(13).collect(),
        title: title(&run.message),
        repo: shown(repo.name.as_str()),
        repo_path: escape_query(repo.name.as_str()),
        repo_query: escape_query(repo.name.as_str()),
        pipeline: shown_cut(&run.pipeline, 80),
        pipeline_query: escape_query(&run.pipeline),
        state: run.state.word(),
        tone: tone(run.state),
        reason: shown_lines(&run.reason.chars().take(2000).collect::<String>()),
        cancel_request: run.cancel_request.as_ref().filter(|_| open).map(|why| shown_cut(why, 300)),
        waits,
        held: run.state == RunState::Held,
        trusted: run.trusted,
        can_cancel: open && run.cancel_request.is_none() && who.may(Scope::Run),
        can_rerun: !open && run.state != RunState::Skipped && who.may(Scope::Run),
        can_rerun_failed: matches!(run.state, RunState::Failed | RunState::Errored | RunState::Cancelled),
        can_release: who.may(Scope::Run),
        branch: shown_cut(&run.branch, 100),
        branch_url: links.at(WebPage::Branch(&run.branch)),
        sha: run.head_sha.to_string(),
        sha_short: run.head_sha.short().to_owned(),
        commit_url: links.at(WebPage::Commit(&run.head_sha)),
        pulls: pulls.collect(),
        actor: shown_cut(&run.actor, 60),
        trigger: shown_cut(&run.trigger_key, 80),
        generation: run.generation,
        created: text::rfc3339(run.created_ms),
        created_long: text::instant(run.created_ms),
        age: text::ago(run.created_ms, now),
        took,
        cost: gpu_cost(&web, &view.attempts, now),
        graph: graph::lay_out(&run.plan, &view.steps, now),
        selected: step.map_or(-1, |s| s.position),
        pinned: chosen.is_some(),
        tables,
        dashed: charts.iter().any(|c| c.curves.iter().any(|c| c.class == "baseline")),
        charts,
        charts_cut,
        log,
        params_compared: baseline.is_some(),
        params,
        params_cut,
        artifacts,
        artifacts_cut,
        steps: view
            .steps
            .iter()
            .map(|s| {
                Step::new(
                    s,
                    &view,
                    gpu_cost(&web, view.attempts.iter().filter(|a| a.step_id == s.id), now),
                    now,
                )
            })
            .collect(),
        data: store.data_reports(&run.id).await?.iter().map(data::Set::new).collect(),
        sources: store.metric_sources(&run.id).await?.into_iter().map(Source::new).collect(),
        left_out: store
            .metric_points_left_out(&run.id)
            .await?
            .into_iter()
            .map(|(step, n)| shown_cut(&format!("{step}: {n} points beyond the quota were not kept"), 200))
            .collect(),
        reports,
    })
}

impl Source {
    fn new((step, source): (String, MetricSource)) -> Self {
        let count = |n: i64, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let gave: Vec<String> = [count(source.points, "point"), count(source.params, "parameter")]
            .into_iter()
            .flatten()
            .collect();
        Self {
            step: shown_cut(&step, 80),
            kind: shown_cut(&source.kind, 40),
            place: shown_cut(&source.place, 120),
            gave: match (source.used, gave.is_empty()) {
                (false, _) => "passed over".into(),
                (true, true) => "nothing".into(),
                (true, false) => gave.join(", "),
            },
            note: shown_cut(&source.note, 400),
        }
    }
}

fn tone(state: RunState) -> &'static str {
    match state {
        RunState::Failed | RunState::Errored => "bad",
        RunState::Cancelled | RunState::Superseded | RunState::Skipped | RunState::Held => "warn",
        _ => "calm",
    }
}

impl Step {
    fn new(step: &StepRow, view: &RunView, gpu: String, now: Millis) -> Self {
        let last = view.attempts.iter().rfind(|a| a.step_id == step.id);
        let place = last.map_or(String::new(), |a| {
            let gpus = if a.gpus.is_empty() { String::new() } else { format!(", GPUs {:?}", a.gpus) };
            format!("{} on {}{gpus}, try {}", a.pool, a.executor, a.number)
        });
        // What its newest attempt waits for says more than why it was made.
        let waits = last.filter(|a| a.state == AttemptState::Pending && !a.reason.is_empty());
        let reason = match waits {
            None if !step.reason.is_empty() => &step.reason,
            _ => last.map_or("", |a| a.reason.as_str()),
        };
        Self {
            position: step.position,
            name: shown_cut(&step.name, 100),
            state: step.state.word(),
            took: if step.started_ms.is_some() { graph::took(step, now) } else { String::new() },
            gpu,
            bar: graph::bar(step, &view.run, now),
            place: shown(&place),
            reason: shown_cut(reason, 500),
            notes: last.map_or(Vec::new(), |a| a.notes.iter().take(10).map(|n| shown_cut(n, 200)).collect()),
        }
    }
}

async fn log(
    web: &Web,
    view: &RunView,
    step: Option<&StepRow>,
    number: Option<i64>,
    with_lines: bool,
    now: Millis,
) -> Result<Log, Problem> {
    let Some(step) = step else {
        return Ok(Log {
            step: shown("Log"),
            state: "pending",
            empty: "This run has no steps.",
            ..Log::default()
        });
    };
    let tries: Vec<&AttemptRow> = view.attempts.iter().filter(|a| a.step_id == step.id).collect();
    let current = number.and_then(|n| tries.iter().find(|a| a.number == n)).or_else(|| tries.last()).copied();
    let mut log = Log {
        step: shown_cut(&step.name, 80),
        state: step.state.word(),
        empty: match step.state {
            _ if view.run.state == RunState::Held => "Nothing has run: the run waits for its release.",
            StepState::Waiting => "Waits for the steps that it needs.",
            StepState::Ready => "Waits for room in its pool.",
            StepState::Skipped => "Skipped: a step that it needs did not succeed.",
            _ => "No log: it never started.",
        },
        ..Log::default()
    };
    let Some(attempt) = current else { return Ok(log) };
    log.uid = attempt.uid.to_string();
    log.live = attempt.state != AttemptState::Ended;
    log.attempts = tries
        .iter()
        .map(|a| Try {
            number: a.number,
            state: a.class.map_or(a.state.word(), |c| c.word()),
            current: a.number == attempt.number,
        })
        .collect();
    let mut note = vec![text::bytes(attempt.log_bytes)];
    if let Some(from) = attempt.started_ms {
        note.push(text::duration(attempt.ended_ms.unwrap_or(now) - from));
    }
    if let Some(code) = attempt.exit_code {
        note.push(format!("exit {code}"));
    }
    if attempt.log_lost_bytes > 0 {
        note.push(format!("{} beyond the quota not kept", text::bytes(attempt.log_lost_bytes)));
    }
    log.note = note.join(" · ");
    let good = attempt.class.is_none_or(|c| c == crate::model::EndClass::Succeeded);
    log.reason = if good { Shown::default() } else { shown_cut(&attempt.reason, 1000) };
    if with_lines {
        let tail = follow::tail(web, &(&attempt.uid).into(), attempt.log_bytes, TAIL).await?;
        log.lines = tail.lines.full;
        log.next = tail.next;
        if !log.live
            && let Some(rest) = tail.lines.partial
        {
            log.lines.push(rest);
        }
        log.left_out = tail.left_out;
        log.left_out_text = text::bytes(tail.left_out);
    }
    Ok(log)
}

/// Parameters of this run beside the baseline's; changed ones first.
fn params(own: &[Reported], base: &[Reported]) -> (Vec<Param>, usize) {
    let value = |v: &Option<String>| v.as_ref().map_or_else(|| shown("–"), |v| shown_cut(v, 200));
    let mut all: Vec<Param> = params::lines(own, base)
        .iter()
        .map(|line| Param {
            name: shown_cut(&line.label, 120),
            baseline: value(&line.baseline),
            value: value(&line.this),
            changed: !base.is_empty() && line.changed(),
        })
        .collect();
    all.sort_by_key(|p| !p.changed);
    let cut = all.len().saturating_sub(PARAMS);
    all.truncate(PARAMS);
    (all, cut)
}

fn artifacts(rows: Vec<crate::store::attempts::ArtifactRow>, view: &RunView) -> (Vec<Artifact>, usize) {
    let cut = rows.len().saturating_sub(ARTIFACTS);
    let list = rows.into_iter().take(ARTIFACTS).map(|row| {
        let step_id = view.attempts.iter().find(|a| a.uid == row.attempt_uid).map(|a| &a.step_id);
        let step = view.steps.iter().find(|s| Some(&s.id) == step_id).map_or("", |s| s.name.as_str());
        Artifact {
            href: format!("/api/v1/attempts/{}/artifact?path={}", row.attempt_uid, escape_query(&row.path)),
            path: shown_cut(&row.path, 200),
            step: shown_cut(step, 60),
            size: text::bytes(row.bytes),
            sha256: row.sha256,
        }
    });
    (list.collect(), cut)
}

/// The comments that this run is part of, as posted; and whether one is still on its way.
async fn reports(
    web: &Web,
    repo: &RepoRow,
    comparisons: &[ComparisonRow],
    links: &ForgeLinks<'_>,
) -> Result<(Vec<Report>, bool), Problem> {
    let mut reports = Vec::new();
    let mut waiting = false;
    for comparison in comparisons.iter().take(PULLS) {
        let Some(number) = comparison.target.strip_prefix("pr:").and_then(|n| n.parse::<i64>().ok()) else {
            continue;
        };
        let row = web.app.store.outbox_row(&repo.id, OutboxKind::Comment, &number.to_string()).await?;
        let Some(row) = row else { continue };
        let Some(body) = row.desired.get("body").and_then(|b| b.as_str()) else { continue };
        waiting |= row.state == OutboxState::Pending;
        reports.push(Report {
            number: links.change().number(number),
            url: links.at(WebPage::Pull(number)).unwrap_or_default(),
            state: match untold(&row) {
                Some(why) => shown_cut(&why, 300),
                None if row.state == OutboxState::Pending => shown("on its way"),
                None => shown(""),
            },
            html: Safe(report::to_html(body)),
        });
    }
    Ok((reports, waiting))
}

/// Why the forge does not show it yet, once that failed.
fn untold(row: &OutboxRow) -> Option<String> {
    match row.state {
        OutboxState::Dead => Some(format!("given up for now: {}", row.last_error)),
        OutboxState::Pending if row.tries > 0 => Some(format!("tried again later: {}", row.last_error)),
        OutboxState::Pending | OutboxState::Sent => None,
    }
}

/// `POST /runs/{run}/cancel`
pub async fn cancel(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let run = run_for(&web, &who, &id).await?.view.run;
    api::cancel_run(&web, &who, &run, "").await?;
    Ok(Redirect::to(&format!("/runs/{}", run.id)).into_response())
}

#[derive(Debug, Deserialize)]
pub struct RerunForm {
    /// Present: good steps are taken over.
    #[serde(default)]
    failed: Option<String>,
}

/// `POST /runs/{run}/rerun`
pub async fn rerun(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Form(form): Form<RerunForm>,
) -> Result<Response, Problem> {
    let run = run_for(&web, &who, &id).await?.view.run;
    let ask = api::RerunAsk { failed: form.failed.is_some(), no_cache: false };
    let new = api::rerun_run(&web, &who, &run, &ask).await?;
    Ok(Redirect::to(&format!("/runs/{new}")).into_response())
}

#[derive(Debug, Deserialize)]
pub struct ReleaseForm {
    sha: String,
}

/// `POST /runs/{run}/release`
pub async fn release(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Form(form): Form<ReleaseForm>,
) -> Result<Response, Problem> {
    let run = run_for(&web, &who, &id).await?.view.run;
    api::release_run(&web, &who, &run, &form.sha).await?;
    Ok(Redirect::to(&format!("/runs/{}", run.id)).into_response())
}
