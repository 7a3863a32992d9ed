//! What a `data` step is held against: the profiles that the baseline run left; and a `features` step: the outputs of its transforms.

use std::collections::BTreeMap;

use super::Answer;
use super::error::CallError;
use crate::agent::data::DataSpec;
use crate::agent::features::FeatureBase;
use crate::agent::protocol::Input;
use crate::forge::ForgeError;
use crate::http::App;
use crate::model::data::{FEATURES, PROFILES, features_path, profile_path};
use crate::model::plan::DataBaseline;
use crate::model::{AttemptUid, RunState, StepSpec};
use crate::results::{Choice, ChooseError, Chooser};
use crate::store::attempts::ArtifactRow;
use crate::store::pulls::RepoRow;
use crate::store::runs::RunView;

/// The directory of the source tree that baselines' profiles are put into.
const PLACE: &str = ".trainyard/baseline";

/// A data step's sets, each with its baseline, and the profiles to bring along. The baseline is the run that metrics would be
/// held against; one that has not ended is not waited for, since it may need the place that this attempt holds.
///
/// # Errors
/// The forge does not answer: the agent asks again, for a check that quietly had no baseline would pass.
pub(super) async fn sets(
    app: &App,
    view: &RunView,
    repo: &RepoRow,
    step: &StepSpec,
) -> Answer<(Vec<DataSpec>, Vec<Input>)> {
    let asked = step.data.iter().any(|set| set.drift == Some(DataBaseline::Run));
    let (note, profiles) = match (asked, view.run.trusted) {
        (false, _) => (String::new(), Vec::new()),
        // A profile holds values of the repository's own data.
        (true, false) => (
            "no baseline: an untrusted run may not read profiles of the repository's data".into(),
            Vec::new(),
        ),
        (true, true) => run_baseline(app, view, repo, PROFILES).await?,
    };
    let mut inputs = Vec::new();
    let mut specs = Vec::new();
    for set in &step.data {
        let path = profile_path(&set.name);
        let (baseline, note) = match &set.drift {
            None => (None, String::new()),
            Some(DataBaseline::File(path)) => (Some(path.clone()), format!("the file {path}")),
            Some(DataBaseline::Model(alias)) => {
                let why = "needs a model registry, which this version does not have";
                (None, format!("no baseline: model:{alias} {why}"))
            }
            Some(DataBaseline::Run) => match profiles.iter().find(|a| a.path == path) {
                Some(artifact) => {
                    let place = format!("{PLACE}/{}.profile.json", set.name);
                    inputs.push(brought(artifact, &place));
                    (Some(place), note.clone())
                }
                None if note.starts_with("no baseline") => (None, note.clone()),
                None => (None, format!("no baseline: {note} has no profile of {}", set.name)),
            },
        };
        specs.push(DataSpec { set: set.clone(), baseline, note });
    }
    Ok((specs, inputs))
}

/// What the transforms of a features step are held against, and the outputs to bring along. As for data.
///
/// # Errors
/// As [`sets`].
pub(super) async fn features(
    app: &App,
    view: &RunView,
    repo: &RepoRow,
    step: &StepSpec,
) -> Answer<(BTreeMap<String, FeatureBase>, Vec<Input>)> {
    let (note, outputs) = if view.run.trusted {
        run_baseline(app, view, repo, FEATURES).await?
    } else {
        ("no baseline: an untrusted run may not read features of the repository's data".into(), Vec::new())
    };
    let (mut bases, mut inputs) = (BTreeMap::new(), Vec::new());
    for transform in step.transforms.iter().filter(|t| t.diff.is_some()) {
        let path = features_path(&transform.name);
        let base = match outputs.iter().find(|a| a.path == path) {
            Some(artifact) => {
                let place = format!("{PLACE}/{}.features.json", transform.name);
                inputs.push(brought(artifact, &place));
                FeatureBase { output: Some(place), note: note.clone() }
            }
            None if note.starts_with("no baseline") => FeatureBase { output: None, note: note.clone() },
            None => FeatureBase {
                output: None,
                note: format!("no baseline: {note} has no features of {}", transform.name),
            },
        };
        bases.insert(transform.name.clone(), base);
    }
    Ok((bases, inputs))
}

fn brought(artifact: &ArtifactRow, place: &str) -> Input {
    Input {
        attempt: artifact.attempt_uid.to_string(),
        path: artifact.path.clone(),
        place: place.to_owned(),
        bytes: artifact.bytes,
        sha256: artifact.sha256.clone(),
        executable: false,
    }
}

/// The baseline run in a sentence, with what it left below `folder`.
async fn run_baseline(
    app: &App,
    view: &RunView,
    repo: &RepoRow,
    folder: &str,
) -> Answer<(String, Vec<ArtifactRow>)> {
    let run = &view.run;
    let Some(forge) = app.forges.get(&repo.forge) else {
        return Ok((format!("no baseline: forge {} is not configured", repo.forge), Vec::new()));
    };
    let pulls = app.store.open_pulls_with_head(&run.repo_id, &run.head_sha).await?;
    let chooser = Chooser { store: &app.store, forge: forge.as_ref(), repo, candidate: run };
    let choice = match chooser.choose(pulls.first()).await {
        Ok(chosen) => chosen.choice,
        Err(ChooseError::Store(error)) => return Err(error.into()),
        Err(ChooseError::Forge(error)) => {
            let wait = if let ForgeError::Limited { wait_ms, .. } = &error { *wait_ms } else { 0 };
            tracing::warn!(run.id = %run.id, %error, wait_ms = wait, "cannot choose the baseline of a check; the agent asks again");
            return Err(CallError::unavailable());
        }
    };
    Ok(match choice {
        Choice::Use { run, note } => (note, left(app, &run, folder).await?),
        Choice::Wait { note, state, .. } => (format!("no baseline: {note}, is still {state}"), Vec::new()),
        Choice::None { note } => (note, Vec::new()),
    })
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

async fn left(app: &App, run: &crate::model::RunId, folder: &str) -> Answer<Vec<ArtifactRow>> {
    let all = app.store.run_artifacts(run).await?;
    Ok(all.into_iter().filter(|a| is_below(&a.path, folder)).collect())
}

/// May this attempt read what that one left? A trusted data step may read the profiles, and a trusted features step the features, of
/// trusted, good runs of its own pipeline.
pub(super) async fn may_read(
    app: &App,
    view: &RunView,
    step: &StepSpec,
    producer: &AttemptUid,
    path: &str,
) -> Answer<bool> {
    let profile = !step.data.is_empty() && is_below(path, PROFILES);
    let features = step.transforms.iter().any(|t| t.diff.is_some()) && is_below(path, FEATURES);
    if !(profile || features) || !view.run.trusted {
        return Ok(false);
    }
    let Some(attempt) = app.store.attempt(producer).await? else { return Ok(false) };
    let Some(run) = app.store.run(&attempt.run_id).await? else { return Ok(false) };
    let mine = &view.run;
    Ok(run.repo_id == mine.repo_id
        && run.pipeline == mine.pipeline
        && run.trusted
        && run.state == RunState::Succeeded)
}
