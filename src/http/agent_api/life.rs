//! An attempt's beginning, its signs of life and its end.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::baseline;
use super::checkpoint;
use super::error::CallError;
use super::{
    Answer, Api, NAME_BYTES, PARAM_BYTES, Version, bearer, cut, equal, known, masker, parsed, repo_of,
    source_token_of, token_of,
};
use crate::agent::protocol::{Finished, Heartbeat, HeartbeatAnswer, Start, Started, rank_bootstrap};
use crate::clock::Millis;
use crate::executor::kubernetes;
use crate::http::App;
use crate::http::live::Hint;
use crate::http::{logs, spec};
use crate::model::data::MAX_REPORTS;
use crate::model::{AttemptRank, AttemptState, AttemptUid, DataReport, EndClass, MetricSource};
use crate::pipeline;
use crate::run::{bootstrap_hash, bootstrap_token};
use crate::store::StoreError;
use crate::store::attempts::Finish;
use crate::store::ranks::RankEnd;

/// Metric sources of one attempt.
const SOURCES: usize = 200;

pub(super) async fn start(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let rank = version.check()?;
    let hash = hex::encode(Sha256::digest(bearer(&headers)?));
    let start: Start = parsed(body).await?;
    if !(16..=128).contains(&start.nonce.len())
        || !start.nonce.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err(CallError::bad("the nonce must have 16 to 128 letters, digits and `-`"));
    }
    let uid = AttemptUid::from_text(uid);
    let now = app.clock.now_ms();
    let of = AttemptRank::new(&uid, rank);
    let started = if !of.leads() {
        let own = rank_bootstrap(&bootstrap_token(&app.instance, &uid), rank);
        equal(&hash, &bootstrap_hash(&own))
            && app.store.rank_start(&of, &start.nonce, start.preparing, now).await?
    } else if start.preparing {
        app.store.agent_prepare(&uid, &hash, &start.nonce, now).await?
    } else {
        app.store.agent_start(&uid, &hash, &start.nonce, now).await?
    };
    crate::failpoint::hit("agent.start.after");
    let row = app.store.attempt(&uid).await?.ok_or_else(CallError::unauthorized)?;
    if !started {
        // A peer that comes after the end of its attempt is told so, if its token is one of that attempt's.
        let own = rank_bootstrap(&bootstrap_token(&app.instance, &uid), rank);
        let shown = equal(&row.bootstrap_hash, &hash) || equal(&hash, &bootstrap_hash(&own));
        let ended = row.state == AttemptState::Ended && shown;
        return Err(if ended { CallError::gone() } else { CallError::unauthorized() });
    }
    let view = app.store.run_view(&row.run_id).await?.ok_or_else(CallError::gone)?;
    let repo = repo_of(&app, &row).await?;
    let mut artifacts = Vec::new();
    if let Ok(step) = spec::step_of(&view, &row) {
        for (_, producer) in view.producers(step) {
            artifacts.extend(app.store.artifacts_of_attempt(&producer).await?);
        }
    }
    let mut resume = Vec::new();
    if spec::step_of(&view, &row).is_ok_and(|step| step.checkpoint.is_some()) {
        for earlier in spec::resumable(&view, &row) {
            if let Some(found) = checkpoint::of(&app, earlier).await? {
                resume = found;
                break;
            }
        }
    }
    let secrets = app.secrets.of_repository(&repo.forge, repo.name.as_str(), &view.run.branch);
    let mut spec = match spec::build(&view, &row, &repo, &artifacts, resume, &secrets, &app.config) {
        Ok(spec) => spec,
        Err(why) => {
            let finish = Finish {
                class: EndClass::Failed,
                exit_code: None,
                reason: why.to_string(),
                outputs: BTreeMap::new(),
                notes: Vec::new(),
                sources: Vec::new(),
                log_lost_bytes: 0,
                ended_ms: None,
                data: Vec::new(),
                judged: false,
            };
            finish_as(&app, &of, finish, now).await?;
            app.live.tell(Hint::Run(row.run_id));
            return Err(CallError::new(StatusCode::GONE, why.to_string()));
        }
    };
    if let Some(step) = spec::step_of(&view, &row).ok().filter(|_| !start.preparing) {
        let step = pipeline::resolve_step(step, &view.run.variables).unwrap_or_else(|_| step.clone());
        if !step.data.is_empty() {
            let (sets, profiles) = baseline::sets(&app, &view, &repo, &step).await?;
            spec.data = sets;
            spec.inputs.extend(profiles);
        }
        if step.transforms.iter().any(|t| t.diff.is_some()) {
            let (bases, outputs) = baseline::features(&app, &view, &repo, &step).await?;
            spec.feature_bases = bases;
            spec.inputs.extend(outputs);
        }
    }
    let token = if start.preparing {
        spec.secrets.clear();
        tracing::info!(attempt.uid = %uid, attempt.rank = rank, run.id = %row.run_id, agent.version = start.version, "attempt is being prepared");
        source_token_of(&app, &of, &start.nonce)
    } else {
        tracing::info!(attempt.uid = %uid, attempt.rank = rank, run.id = %row.run_id, agent.version = start.version, agent.pid = start.pid, "attempt started");
        token_of(&app, &of, &start.nonce)
    };
    app.live.tell(Hint::Run(row.run_id.clone()));
    let mut response = Json(Started { token, spec }).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The leader's end with all that the step leaves; of another rank how it ended.
async fn finish_as(app: &App, of: &AttemptRank, finish: Finish, now: Millis) -> Result<bool, StoreError> {
    if of.leads() {
        return app.store.agent_finish(&of.uid, finish, now).await;
    }
    let end = RankEnd {
        class: finish.class,
        exit_code: finish.exit_code,
        reason: finish.reason,
        log_lost_bytes: finish.log_lost_bytes,
        ended_ms: finish.ended_ms.unwrap_or(now),
    };
    app.store.rank_finish(of, end, now).await
}

/// A report with the repository's secrets masked: column names and errors come from outside.
fn hidden(mut report: DataReport, hide: &impl Fn(String) -> String) -> DataReport {
    report.name = hide(report.name);
    report.kind = hide(report.kind);
    report.against = hide(report.against);
    for finding in &mut report.findings {
        finding.rule = hide(std::mem::take(&mut finding.rule));
        finding.message = hide(std::mem::take(&mut finding.message));
        finding.column = finding.column.take().map(hide);
    }
    for column in &mut report.drift {
        column.column = hide(std::mem::take(&mut column.column));
    }
    for feature in &mut report.features {
        feature.feature = hide(std::mem::take(&mut feature.feature));
        feature.tolerance = hide(std::mem::take(&mut feature.tolerance));
    }
    report
}

pub(super) async fn heartbeat(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<HeartbeatAnswer>> {
    let rank = version.check()?;
    let caller = known(&app, &uid, &headers, rank).await?;
    let _: Heartbeat = parsed(body).await?;
    match app.store.agent_heartbeat(caller.of(), app.clock.now_ms()).await? {
        Some(cancel) => Ok(Json(HeartbeatAnswer { cancel })),
        None => Err(CallError::gone()),
    }
}

pub(super) async fn finish(
    State(Api { app, .. }): State<Api>,
    Path(uid): Path<String>,
    Query(version): Query<Version>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let rank = version.check()?;
    let caller = known(&app, &uid, &headers, rank).await?;
    let (of, row, now) = (caller.of(), caller.row, app.clock.now_ms());
    let said: Finished = parsed(body).await?;
    let masker = masker(&app, &row).await?;
    let hide = |text: String| masker.as_ref().map_or(text.clone(), |m| m.mask_str(&text));
    let finish = Finish {
        class: said.class,
        exit_code: said.exit_code,
        reason: cut(hide(said.reason), 2000),
        outputs: said
            .outputs
            .into_iter()
            .map(|(name, value)| (cut(hide(name), NAME_BYTES), cut(hide(value), PARAM_BYTES)))
            .collect(),
        notes: said.notes.into_iter().take(100).map(|note| cut(hide(note), 500)).collect(),
        sources: said
            .sources
            .into_iter()
            .take(SOURCES)
            .map(|source| MetricSource {
                kind: cut(hide(source.kind), 40),
                place: cut(hide(source.place), 400),
                note: cut(hide(source.note), 2000),
                points: source.points.max(0),
                params: source.params.max(0),
                used: source.used,
            })
            .collect(),
        log_lost_bytes: said.log_lost_bytes.max(0),
        // A day is the longest that an agent tries to say so.
        ended_ms: Some(now - said.ended_ago_ms.clamp(0, 24 * 3_600_000)),
        data: said.data.into_iter().take(MAX_REPORTS).map(|report| hidden(report, &hide).bounded()).collect(),
        judged: row.executor == kubernetes::NAME && said.class.answers_a_signal(),
    };
    crate::failpoint::hit("agent.finish.before");
    let (class, reason, exit_code) = (finish.class, finish.reason.clone(), finish.exit_code);
    let finished = finish_as(&app, &of, finish, now).await?;
    crate::failpoint::hit("agent.finish.after");
    if !finished {
        // A repeat of the word that ended it is fine; an end by someone else came first otherwise.
        let again = if of.leads() {
            app.store.attempt(&row.uid).await?.is_some_and(|row| row.finished_ms.is_some())
        } else {
            app.store.rank(&of).await?.is_some_and(|rank| rank.ended_ms.is_some())
        };
        return if again { Ok(StatusCode::NO_CONTENT) } else { Err(CallError::gone()) };
    }
    // Where several ranks must end, the run's look says when the attempt has.
    if row.ranks == 1 {
        row.log_end(class, &reason, exit_code, now);
    }
    app.live.tell(Hint::Log(of.clone()));
    app.live.tell(Hint::Run(row.run_id));
    // Not needed for the result, and safe to lose: segments are as readable as one blob.
    tokio::spawn(async move {
        if let Err(error) = logs::compact(&app, &of).await {
            tracing::warn!(attempt = %of, %error, "cannot compact a log; its segments stay");
        }
    });
    Ok(StatusCode::NO_CONTENT)
}
