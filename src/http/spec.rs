//! What an attempt is told to do: a pure function of its rows and the configuration.
//!
//! Values from outside (branch names, messages) reach a step as environment variables, never spliced into a command. An untrusted
//! run gets no secret, whatever its pipeline asks for.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::secrets::Granted;
use crate::agent::protocol::{CHECKPOINT_FILES, CacheSpec, Checkpoint, CheckpointFile, Input, Spec};
use crate::config::Config;
use crate::model::plan::Need;
use crate::model::{AttemptUid, DATA_DIGEST, StepSpec};
use crate::pipeline;
use crate::store::attempts::{ArtifactRow, AttemptRow};
use crate::store::pulls::RepoRow;
use crate::store::runs::RunView;

/// Why there is nothing to run: one sentence for people. It is the pipeline's or the configuration's fault, and trying again
/// changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSpec(pub String);

/// The plan's entry of an attempt's step.
pub fn step_of<'a>(view: &'a RunView, attempt: &AttemptRow) -> Result<&'a StepSpec, NoSpec> {
    view.steps
        .iter()
        .find(|step| step.id == attempt.step_id)
        .and_then(|step| view.run.plan.step(&step.name))
        .ok_or_else(|| NoSpec("the run's plan does not hold this step".into()))
}

/// Earlier attempts of the same step that may have left a checkpoint, the newest first.
pub fn resumable<'a>(
    view: &'a RunView,
    attempt: &'a AttemptRow,
) -> impl Iterator<Item = &'a AttemptUid> + use<'a> {
    let mut earlier: Vec<&AttemptRow> =
        view.attempts.iter().filter(|a| a.step_id == attempt.step_id && a.number < attempt.number).collect();
    earlier.sort_by_key(|a| std::cmp::Reverse(a.number));
    earlier.into_iter().map(|a| &a.uid)
}

/// A checkpoint's files as inputs of the next attempt, at their own places. `there` are the artifacts of the attempt that left
/// it; None where one of its files is not among them.
pub fn resume(checkpoint: &Checkpoint, there: &[ArtifactRow]) -> Option<Vec<Input>> {
    let input = |file: &CheckpointFile| {
        let path = format!("{CHECKPOINT_FILES}/{}", file.sha256);
        let artifact = there.iter().find(|a| a.path == path && a.sha256 == file.sha256)?;
        Some(Input {
            attempt: artifact.attempt_uid.to_string(),
            path,
            place: file.path.clone(),
            bytes: artifact.bytes,
            sha256: file.sha256.clone(),
            executable: file.executable,
        })
    };
    checkpoint.files.iter().map(input).collect()
}

/// `artifacts` are those of the [`RunView::producers`], `resume` what [`resume`] found; `secrets` those that its branch may have.
pub fn build(
    view: &RunView,
    attempt: &AttemptRow,
    repo: &RepoRow,
    artifacts: &[ArtifactRow],
    resume: Vec<Input>,
    secrets: &Granted<'_>,
    config: &Config,
) -> Result<Spec, NoSpec> {
    let step = step_of(view, attempt)?;
    let step = &pipeline::resolve_step(step, &view.run.variables)
        .map_err(|error| NoSpec(format!("cannot prepare the step {:?}: {error}", step.name)))?;
    let inputs = view
        .producers(step)
        .into_iter()
        .flat_map(|(need, uid)| {
            let own = move |a: &&ArtifactRow| a.attempt_uid == uid && !a.path.starts_with(CHECKPOINT_FILES);
            artifacts.iter().filter(own).map(|artifact| input(need, artifact))
        })
        .collect();
    let granted =
        if view.run.trusted { granted(step, repo, &view.run.branch, secrets)? } else { BTreeMap::new() };
    let mut env = environment(view, attempt, repo, step, config);
    env.retain(|name, _| !granted.contains_key(name));
    Ok(Spec {
        repo: repo.name.to_string(),
        step: step.name.clone(),
        number: attempt.number,
        sha: view.run.head_sha.clone(),
        setup: step.setup.clone(),
        commands: step.commands.clone(),
        env,
        secrets: granted,
        inputs,
        resume,
        artifacts: step.artifacts.clone(),
        metric_files: view.run.plan.metrics.files.clone(),
        metric_patterns: view.run.plan.metrics.patterns.clone(),
        junit: step.junit.clone(),
        checkpoint: step.checkpoint.clone(),
        checkpoint_every_ms: config.limits.checkpoint_every_s * 1000,
        timeout_ms: step.timeout_ms,
        grace_ms: config.limits.grace_s * 1000,
        log_quota_bytes: config.limits.log_quota_bytes,
        gpus: attempt.gpus.clone(),
        caches: step.cache.iter().map(|c| CacheSpec { key: c.key.clone(), path: c.path.clone() }).collect(),
        cache_write: view.run.trusted,
        cache_bytes: config.limits.cache_quota_bytes / 2,
        transforms: step.transforms.clone(),
        predictions: view.run.plan.metrics.predictions.clone(),
        ranks: attempt.ranks,
        data: Vec::new(),               // `start` knows the baseline
        feature_bases: BTreeMap::new(), // so with these
    })
}

fn input(need: &Need, artifact: &ArtifactRow) -> Input {
    let place = match &need.into {
        Some(dir) => format!("{}/{}", dir.trim_end_matches('/'), artifact.path),
        None => artifact.path.clone(),
    };
    Input {
        attempt: artifact.attempt_uid.to_string(),
        path: artifact.path.clone(),
        place,
        bytes: artifact.bytes,
        sha256: artifact.sha256.clone(),
        executable: artifact.executable,
    }
}

fn granted(
    step: &StepSpec,
    repo: &RepoRow,
    branch: &str,
    secrets: &Granted<'_>,
) -> Result<BTreeMap<String, String>, NoSpec> {
    step.secrets
        .iter()
        .map(|wanted| match (secrets.values.get(wanted.name.as_str()), secrets.elsewhere.get(wanted.name.as_str())) {
            (Some(value), _) => Ok((wanted.env.clone(), value.expose_secret().to_owned())),
            (None, Some(branches)) => Err(NoSpec(format!(
                "the step asks for the secret {:?}, which {} has for the branches {} only, and this run is of `{branch}`",
                wanted.name,
                repo.name,
                branches.iter().map(|b| format!("`{b}`")).collect::<Vec<_>>().join(", ")
            ))),
            (None, None) => Err(NoSpec(format!(
                "the step asks for the secret {:?}, which is not configured for {}; an administrator can add it under \
                 [[repository]]",
                wanted.name, repo.name
            ))),
        })
        .collect()
}

/// Later ones win: what names the run, the run's variables, the step's own, its matrix member, and ours that no step may change.
fn environment(
    view: &RunView,
    attempt: &AttemptRow,
    repo: &RepoRow,
    step: &StepSpec,
    config: &Config,
) -> BTreeMap<String, String> {
    let run = &view.run;
    let own = |name: &str| run.variables.get(name).cloned();
    let reference = own("CI_REF").unwrap_or_else(|| format!("refs/heads/{}", run.branch));
    let url = format!("{}/runs/{}", config.public_url.trim_end_matches('/'), run.id);
    let event = if run.variables.contains_key(DATA_DIGEST) { "data" } else { "push" };
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("CI_REPO", repo.name.as_str());
    set("CI_COMMIT_SHA", run.head_sha.as_str());
    set("CI_COMMIT_BRANCH", &run.branch);
    set("CI_COMMIT_REF", &reference);
    set("CI_PIPELINE_EVENT", event);
    set("CI_PIPELINE_URL", &url);
    set("GITHUB_REPOSITORY", repo.name.as_str());
    set("GITHUB_SHA", run.head_sha.as_str());
    set("GITHUB_REF", &reference);
    env.extend(run.variables.clone());
    env.extend(step.env.clone());
    env.extend(step.member.iter().map(|(name, value)| (name.to_uppercase(), value.clone())));
    let number = attempt.number.to_string();
    for (name, value) in [
        ("TRAINYARD_RUN_ID", run.id.as_str()),
        ("TRAINYARD_RUN_URL", &url),
        ("TRAINYARD_PIPELINE", &run.pipeline),
        ("TRAINYARD_STEP", &step.name),
        ("TRAINYARD_ATTEMPT", &number),
        ("TRAINYARD_REPO", repo.name.as_str()),
        ("TRAINYARD_REF", &reference),
        ("TRAINYARD_SHA", run.head_sha.as_str()),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    // An environment cannot hold NUL; nothing else is changed.
    env.values_mut().filter(|value| value.contains('\0')).for_each(|value| *value = value.replace('\0', ""));
    env
}
