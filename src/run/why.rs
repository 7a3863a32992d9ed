//! Why a run is where it is: what each step waits for, its place in the line, what is free, and when it may be its turn. Pure:
//! all of it is computed from rows, and from the same order and the same [`pick`] by which places are given.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::fair;
use super::schedule::{Scene, Wait, pick, pool_of};
use crate::clock::Millis;
use crate::model::{AttemptState, RunId, RunState, StepState, summary_line};
use crate::store::queue::{OpenAttempt, ReadyStep, StepName};
use crate::store::runs::{RunView, StepRow};

/// Earlier runs of a step that a duration is taken from.
pub const HISTORY: i64 = 20;

/// How long good runs of a step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typical {
    pub median_ms: Millis,
    pub of: usize,
}

impl Typical {
    pub fn of(mut durations: Vec<Millis>) -> Option<Self> {
        durations.sort_unstable();
        let median_ms = *durations.get(durations.len() / 2)?;
        Some(Self { median_ms, of: durations.len() })
    }
}

/// All that the explanation is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub view: &'a RunView,
    pub repo: String,
    pub scene: &'a Scene,
    /// The run of its concurrency group that goes first.
    pub ahead: Option<RunId>,
    /// Baselines that its comparisons wait for, with the sentences that name them.
    pub baselines: Vec<(RunId, String)>,
    pub typical: &'a BTreeMap<StepName, Typical>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// About the run as a whole.
    pub says: String,
    /// In graph order.
    pub steps: Vec<WhyStep>,
}

/// What something waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    Approval,
    Group,
    Needs,
    Lookup,
    Quota,
    Turn,
    Pool,
    /// A place outside, an image, its pods: its executor says.
    Start,
    /// It runs: for its end.
    End,
}

impl WaitsFor {
    pub fn word(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Group => "concurrency_group",
            Self::Needs => "needs",
            Self::Lookup => "lookup",
            Self::Quota => "quota",
            Self::Turn => "turn",
            Self::Pool => "pool",
            Self::Start => "start",
            Self::End => "end",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyStep {
    pub step: String,
    pub state: StepState,
    pub says: String,
    pub waits_for: Option<WaitsFor>,
    pub line: Option<Line>,
    pub estimate: Option<Estimate>,
}

/// A place in a pool's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub pool: String,
    /// 1: next.
    pub position: usize,
    pub length: usize,
    /// None: a queue of the cluster gives the places.
    pub free_slots: Option<i64>,
    pub free_gpus: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// From now to its start; for one that runs, to its end.
    pub in_ms: Millis,
    pub basis: String,
}

pub fn why(facts: &Facts<'_>) -> Why {
    let run = &facts.view.run;
    let picked = pick(facts.scene);
    // Who is about to be placed stands before those who wait. Whom a group or a look-up holds back stands in no line.
    let waiting = picked.waits.iter().filter(|(_, wait)| !matches!(wait, Wait::Lookup | Wait::Group(_)));
    let line: Vec<usize> =
        picked.places.iter().map(|place| place.ready).chain(waiting.map(|(index, _)| *index)).collect();
    let steps = facts.view.steps.iter().map(|step| {
        let ready = facts.scene.ready.iter().position(|r| r.step_id == step.id);
        let wait = picked.waits.iter().find(|(index, _)| Some(*index) == ready).map(|(_, wait)| wait);
        explain_step(facts, step, ready, wait, &line)
    });
    let says = match run.state {
        state if state.is_terminal() => ended(facts),
        _ if run.cancel_request.is_some() => {
            format!("it is being stopped: {}", run.cancel_request.as_deref().unwrap_or_default())
        }
        RunState::Held => format!(
            "its head is not trusted: it waits for someone with a trainyard token of scope run to release commit {}",
            run.head_sha
        ),
        RunState::Queued => match &facts.ahead {
            Some(ahead) => format!("run {ahead} of its concurrency group goes first"),
            None => "it is about to start, or its first step waits for a place".into(),
        },
        _ => format!(
            "it has been running for {}",
            spell(facts.scene.now - run.started_ms.unwrap_or(facts.scene.now))
        ),
    };
    Why { says, steps: steps.collect() }
}

fn ended(facts: &Facts<'_>) -> String {
    let run = &facts.view.run;
    if let Some((baseline, note)) = facts.baselines.first() {
        return format!("it {}; its comparison waits for the baseline, run {baseline} ({note})", run.state);
    }
    match summary_line(&run.reason).as_str() {
        "" => format!("it {}", run.state),
        reason => format!("it {}: {reason}", run.state),
    }
}

fn explain_step(
    facts: &Facts<'_>,
    row: &StepRow,
    ready: Option<usize>,
    wait: Option<&Wait>,
    line: &[usize],
) -> WhyStep {
    let mut out = WhyStep {
        step: row.name.clone(),
        state: row.state,
        says: String::new(),
        waits_for: None,
        line: None,
        estimate: None,
    };
    let view = facts.view;
    let mut waits = |what: WaitsFor, says: String| (out.waits_for, out.says) = (Some(what), says);
    // Its newest attempt is made, and waits outside for its start.
    let last = view.attempts.iter().filter(|a| a.step_id == row.id).max_by_key(|a| a.number);
    let start = last
        .filter(|a| a.state == AttemptState::Pending && !a.reason.is_empty())
        .map(|a| (a.submitted_ms.unwrap_or(a.intended_ms), a.reason.as_str()));
    match row.state {
        StepState::Waiting => {
            let spec = usize::try_from(row.position).ok().and_then(|at| view.run.plan.steps.get(at));
            let needs: Vec<String> = spec
                .map(|spec| spec.needs.iter().map(|need| need.step.as_str()).collect::<Vec<_>>())
                .unwrap_or_default()
                .into_iter()
                .filter_map(|name| view.steps.iter().find(|s| s.name == name && !s.state.is_terminal()))
                .map(|s| format!("`{}` ({})", s.name, s.state))
                .collect();
            match (&facts.ahead, view.run.state) {
                (_, RunState::Held) => waits(WaitsFor::Approval, "waits for the run's release".into()),
                (Some(ahead), _) => {
                    waits(WaitsFor::Group, format!("waits for run {ahead} of its concurrency group"));
                }
                _ if needs.is_empty() => waits(WaitsFor::Needs, "waits for the run to start".into()),
                _ => waits(WaitsFor::Needs, format!("waits for {}", needs.join(", "))),
            }
        }
        StepState::Ready => {
            let (what, says) = match wait {
                Some(Wait::Lookup) => (WaitsFor::Lookup, "an equal, earlier step is looked for".to_owned()),
                Some(Wait::Group(run)) => {
                    (WaitsFor::Group, format!("waits for run {run} of its concurrency group"))
                }
                Some(Wait::Quota { pool, limit }) => (
                    WaitsFor::Quota,
                    format!("{} holds as much of pool `{pool}` as a repository may: {limit}", facts.repo),
                ),
                Some(Wait::Turn { pool }) => {
                    let other = if view.run.trusted { "untrusted" } else { "trusted" };
                    (
                        WaitsFor::Turn,
                        format!("waits until no {other} step runs on the machine of pool `{pool}`"),
                    )
                }
                Some(Wait::Room { pool }) => (WaitsFor::Pool, format!("waits for room in pool `{pool}`")),
                None => (WaitsFor::Pool, "is about to get its place".to_owned()),
            };
            waits(what, says);
            if let Some(ready) = ready {
                in_line(facts, ready, line, &mut out);
            }
        }
        StepState::Running if start.is_some() => {
            let (since, why) = start.unwrap_or_default();
            waits(WaitsFor::Start, format!("{why}; for {} so far", spell(facts.scene.now - since)));
        }
        StepState::Running => {
            let since = facts.scene.now - row.started_ms.unwrap_or(facts.scene.now);
            waits(WaitsFor::End, format!("has been running for {}", spell(since)));
            let name = StepName {
                repo_id: view.run.repo_id.clone(),
                pipeline: view.run.pipeline.clone(),
                step: row.name.clone(),
            };
            if let Some(typical) = facts.typical.get(&name) {
                let basis = format!(
                    "the median of its last {} good runs is {}",
                    typical.of,
                    spell(typical.median_ms)
                );
                let _ = write!(out.says, "; {basis}");
                out.estimate = Some(Estimate { in_ms: (typical.median_ms - since).max(0), basis });
            }
        }
        state if row.reason.is_empty() => state.word().clone_into(&mut out.says),
        _ => out.says.clone_from(&row.reason),
    }
    out
}

/// Its place in the line of its pool, what is free there, and when its turn may come.
fn in_line(facts: &Facts<'_>, ready: usize, line: &[usize], out: &mut WhyStep) {
    let scene = facts.scene;
    let step = &scene.ready[ready];
    let Ok((pool, config)) = pool_of(step, &scene.pools) else { return };
    let same =
        |index: &&usize| pool_of(&scene.ready[**index], &scene.pools).is_ok_and(|(name, _)| name == pool);
    let all: Vec<usize> = line.iter().filter(same).copied().collect();
    let Some(at) = all.iter().position(|index| *index == ready) else { return };
    let used = scene.used.get(pool).cloned().unwrap_or_default();
    let place = Line {
        pool: pool.to_owned(),
        position: at + 1,
        length: all.len(),
        free_slots: config.slot_limit().map(|slots| (i64::from(slots) - used.attempts).max(0)),
        free_gpus: config.gpu_limit().map(|gpus| (gpus as usize).saturating_sub(used.gpus.len())),
    };
    let _ = write!(out.says, ": {} of {} in line", place.position, place.length);
    let places = config.slot_limit().zip(place.free_slots);
    let gpus = config.gpu_limit().zip(place.free_gpus).filter(|(gpus, _)| *gpus > 0);
    let free: Vec<String> = (places.iter().map(|(all, free)| format!("{free} of {all} places")))
        .chain(gpus.iter().map(|(all, free)| format!("{free} of {all} GPUs; it needs {}", fair::gpus(step))))
        .collect();
    if !free.is_empty() {
        let _ = write!(out.says, "; free are {}", free.join(", "));
    }
    out.line = Some(place);
    let slots = config.slot_limit().unwrap_or(u32::MAX);
    let lanes = match (fair::gpus(step), config.gpu_limit()) {
        (0, _) | (_, None) => slots,
        (wanted, Some(gpus)) => slots.min((gpus / wanted).max(1)),
    };
    if lanes == u32::MAX {
        return;
    }
    let before: Vec<&ReadyStep> = all[..at].iter().map(|index| &scene.ready[*index]).collect();
    if let Some(estimate) = estimate(facts, &used.open, &before, lanes as usize) {
        let _ = write!(out.says, "; about {} to its start ({})", spell(estimate.in_ms), estimate.basis);
        out.estimate = Some(estimate);
    }
}

/// Lets those that run end and those before it run, each as long as the median of its earlier runs, on so many lanes. None when
/// no duration is known at all.
fn estimate(
    facts: &Facts<'_>,
    open: &[OpenAttempt],
    before: &[&ReadyStep],
    lanes: usize,
) -> Option<Estimate> {
    let now = facts.scene.now;
    let typical = |repo: &crate::model::RepoId, pipeline: &str, step: &str| {
        let name = StepName { repo_id: repo.clone(), pipeline: pipeline.into(), step: step.into() };
        facts.typical.get(&name).map(|t| t.median_ms)
    };
    let running: Vec<Option<Millis>> = open
        .iter()
        .map(|o| typical(&o.repo_id, &o.pipeline, &o.step).map(|ms| (ms - (now - o.since_ms)).max(0)))
        .collect();
    let waiting: Vec<Option<Millis>> =
        before.iter().map(|s| typical(&s.repo_id, &s.pipeline, &s.spec.name)).collect();
    let known: Vec<Millis> = running.iter().chain(&waiting).flatten().copied().collect();
    let total = running.len() + waiting.len();
    if known.is_empty() && total > 0 {
        return None;
    }
    let fallback = if known.is_empty() { 0 } else { known.iter().sum::<Millis>() / known.len() as Millis };
    let mut free: Vec<Millis> = vec![0; lanes.max(1)];
    let earliest = |free: &[Millis]| free.iter().enumerate().min_by_key(|(_, at)| **at).map_or(0, |(i, _)| i);
    for took in running.into_iter().chain(waiting) {
        let lane = earliest(&free);
        free[lane] += took.unwrap_or(fallback);
    }
    let unknown = total - known.len();
    let rest = if unknown > 0 {
        format!("; {unknown} of them have none yet and count as the average")
    } else {
        String::new()
    };
    Some(Estimate {
        in_ms: free[earliest(&free)],
        basis: format!("by the median durations of the earlier runs of the {total} steps before it{rest}"),
    })
}

/// The steps whose earlier durations an explanation needs.
pub fn names(view: &RunView, scene: &Scene) -> Vec<StepName> {
    let own = view.steps.iter().filter(|s| s.state == StepState::Running).map(|s| StepName {
        repo_id: view.run.repo_id.clone(),
        pipeline: view.run.pipeline.clone(),
        step: s.name.clone(),
    });
    let mut names: Vec<StepName> = own.collect();
    if view.steps.iter().any(|s| s.state == StepState::Ready) {
        let ready = scene.ready.iter().map(|s| StepName {
            repo_id: s.repo_id.clone(),
            pipeline: s.pipeline.clone(),
            step: s.spec.name.clone(),
        });
        let open = scene.used.values().flat_map(|used| &used.open).map(|o| StepName {
            repo_id: o.repo_id.clone(),
            pipeline: o.pipeline.clone(),
            step: o.step.clone(),
        });
        names.extend(open.chain(ready));
    }
    names.sort();
    names.dedup();
    names
}

/// `40 s`, `12 min`, `3 h`.
fn spell(ms: Millis) -> String {
    match ms.max(0) / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", (s + 30) / 60),
        s => format!("{} h", (s + 1800) / 3600),
    }
}
