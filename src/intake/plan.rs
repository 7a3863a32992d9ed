//! The decision about one event. Pure: no I/O, no clock; ids come from the caller.
//!
//! The order of deliveries changes nothing: the run of a commit is the same whether its push or its pull request came first,
//! and a late delivery neither stops a newer run nor brings back an older state of a pull request.

use std::collections::BTreeMap;

use super::facts::{Broken, Facts, PipelineFile};
use super::filter::{Fit, fit};
use crate::forge::{ChangeWords, Permission};
use crate::model::{
    DATA_DIGEST, DATA_PREFIX, DataChange, DeliveryState, Event, EventKind, Plan, PullRequest,
    PullRequestAction, PullRequestEvent, Push, RepoId, RepoRef, RunId, RunState, Sha, summary_line,
};
use crate::pipeline;
use crate::store::deliveries::IntakeCommit;
use crate::store::runs::{NewRun, RunRow};
use crate::store::watches::Asked;
use crate::store::work::WorkAsk;

/// What an event leads to, before ids are given.
#[derive(Debug, Clone, PartialEq)]
pub struct IntakePlan {
    pub state: DeliveryState,
    /// One sentence: what was decided and why.
    pub reason: String,
    pub pull: Option<PullRequest>,
    pub runs: Vec<PlannedRun>,
    /// Runs that should stop, with the reason shown to people.
    pub cancel: Vec<(RunId, String)>,
    pub supersede_held: Vec<(RunId, String)>,
    /// What the default branch's pipelines ask for.
    pub asked: Option<Asked>,
    pub then: Vec<Then>,
}

/// A run to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    pub pipeline: String,
    pub sha: Sha,
    pub generation: i64,
    pub branch: String,
    pub message: String,
    pub actor: String,
    pub trusted: bool,
    pub state: RunState,
    /// Of a broken file: its findings, one a line.
    pub reason: String,
    pub plan: Plan,
    pub variables: BTreeMap<String, String>,
    /// Resolved, prefixed by the repository's id.
    pub concurrency: Option<String>,
}

impl PlannedRun {
    /// Says what it runs on: one more run of the commit, as one that is run again.
    fn on_data(&mut self, data: &DataChange) {
        let files = count(usize::try_from(data.files).unwrap_or(usize::MAX), "file");
        self.message = format!("new data in {}: {files}, {} bytes", data.prefix, data.bytes);
        self.variables.insert(DATA_DIGEST.into(), data.digest.clone());
        self.variables.insert(DATA_PREFIX.into(), data.prefix.clone());
    }
}

/// What should be looked at because of this event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    Compare(RunId),
    Reconcile(RunId),
    ReportCommit(Sha),
    ReportPull(i64),
}

impl IntakePlan {
    fn nothing(reason: impl Into<String>) -> Self {
        Self {
            state: DeliveryState::Ignored,
            reason: reason.into(),
            pull: None,
            runs: Vec::new(),
            cancel: Vec::new(),
            supersede_held: Vec::new(),
            asked: None,
            then: Vec::new(),
        }
    }

    pub fn ignored(reason: impl Into<String>) -> Self {
        Self::nothing(reason)
    }

    pub fn bad_payload(reason: impl Into<String>) -> Self {
        Self { state: DeliveryState::BadPayload, ..Self::nothing(reason) }
    }

    /// The rows and work items of this plan.
    pub fn commit(
        self,
        delivery: crate::model::DeliveryRowId,
        repo_id: &RepoId,
        now: crate::clock::Millis,
        mut new_id: impl FnMut() -> RunId,
    ) -> IntakeCommit {
        let mut asks = Vec::new();
        let mut runs = Vec::new();
        for run in self.runs {
            let id = new_id();
            asks.push(WorkAsk::report_commit(repo_id, &run.sha, now));
            asks.push(WorkAsk::compare(&id, now));
            if run.state == RunState::Queued {
                asks.push(WorkAsk::run(&id, now));
            }
            runs.push(NewRun {
                id,
                repo_id: repo_id.clone(),
                pipeline: run.pipeline,
                head_sha: run.sha,
                trigger_key: "head".into(),
                generation: run.generation,
                branch: run.branch,
                message: run.message,
                actor: run.actor,
                trusted: run.trusted,
                state: run.state,
                reason: run.reason,
                plan: run.plan,
                variables: run.variables,
                concurrency: run.concurrency,
            });
        }
        for (id, _) in &self.cancel {
            asks.push(WorkAsk::run(id, now));
        }
        for then in self.then {
            asks.push(match then {
                Then::Compare(id) => WorkAsk::compare(&id, now),
                Then::Reconcile(id) => WorkAsk::run(&id, now),
                Then::ReportCommit(sha) => WorkAsk::report_commit(repo_id, &sha, now),
                Then::ReportPull(number) => WorkAsk::report_pull(repo_id, number, now),
            });
        }
        IntakeCommit {
            decided_on: None,
            delivery,
            state: self.state,
            reason: self.reason,
            pulls: self.pull.into_iter().map(|pull| (repo_id.clone(), pull)).collect(),
            runs,
            cancel: self.cancel,
            supersede_held: self.supersede_held,
            asked: self.asked,
            asks,
        }
    }
}

/// The commit that an event may start runs for, and the branch it goes by. A fork's head goes by its pull request, so
/// that nobody's `main` passes for ours.
pub fn head_of(event: &Event, change: ChangeWords) -> Option<(Sha, String)> {
    match &event.kind {
        EventKind::Push(Push { after: Some(sha), branch, .. }) => Some((sha.clone(), branch.clone())),
        EventKind::PullRequest(PullRequestEvent { action, pull }) if *action != PullRequestAction::Closed => {
            let branch = if pull.fork { change.head(pull.number) } else { pull.head_branch.clone() };
            Some((pull.head_sha.clone(), branch))
        }
        EventKind::Data(data) => Some((data.sha.clone(), data.branch.clone())),
        _ => None,
    }
}

/// Variables of a head run: from repository, commit and branch alone, so that every delivery that could have made the run
/// sets the same. One that new data started has two more.
pub fn variables(
    repo: &RepoRef,
    sha: &Sha,
    branch: &str,
    pipeline: &str,
    change: ChangeWords,
) -> BTreeMap<String, String> {
    let reference =
        if change.is_head(branch) { format!("refs/{branch}") } else { format!("refs/heads/{branch}") };
    [
        ("CI", "true"),
        ("CI_COMMIT_BRANCH", branch),
        ("CI_COMMIT_SHA", sha.as_str()),
        ("CI_PIPELINE_NAME", pipeline),
        ("CI_REF", &reference),
        ("CI_REPO", repo.name.as_str()),
        ("CI_REPO_NAME", repo.name.name()),
        ("CI_REPO_OWNER", repo.name.owner()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// The concurrency group of a run, prefixed by its repository and trust: groups of two repositories never meet, and an untrusted
/// head, which names its group itself, neither holds up nor stops a trusted run.
pub(super) fn group(
    repo_id: &RepoId,
    plan: &Plan,
    variables: &BTreeMap<String, String>,
    trusted: bool,
) -> Result<Option<String>, pipeline::Unresolved> {
    let Some(concurrency) = &plan.concurrency else { return Ok(None) };
    let apart = if trusted { "" } else { ":untrusted" };
    Ok(Some(format!("{repo_id}{apart}/{}", pipeline::resolve(&concurrency.group, variables)?)))
}

/// Is this head trusted? Forks never are; else the one whose head it is must be able to write, or have a merged change here.
pub fn trusted(event: &Event, facts: &Facts) -> bool {
    let fork = matches!(&event.kind, EventKind::PullRequest(pull) if pull.pull.fork);
    !fork && (facts.permission >= Permission::Write || facts.merged_change)
}

/// Is this event's run of a pipeline trusted? A commit that someone with write access brought here is, whoever else shows it
/// again.
pub(super) fn trusted_run(event: &Event, facts: &Facts, pipeline: &str) -> bool {
    let before = facts.existing.iter().find(|run| run.pipeline == pipeline);
    trusted(event, facts) || before.is_some_and(|run| run.trusted)
}

/// `[skip ci]` or `[ci skip]` anywhere in the message.
fn asks_to_skip(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("[skip ci]") || message.contains("[ci skip]")
}

/// Decides what an event leads to.
pub fn plan(event: &Event, facts: &Facts) -> IntakePlan {
    match &event.kind {
        EventKind::Ping => IntakePlan { state: DeliveryState::Done, ..IntakePlan::nothing("the hook works") },
        EventKind::Comment(_) => IntakePlan::nothing("comments are not acted on yet"),
        EventKind::Tag(_) => IntakePlan::nothing("tags start no runs yet"),
        EventKind::Push(push) if push.after.is_none() => {
            IntakePlan::nothing(format!("branch `{}` was deleted: nothing to run", push.branch))
        }
        EventKind::PullRequest(pull) if pull.action == PullRequestAction::Closed => closed(&pull.pull, facts),
        EventKind::Push(_) | EventKind::PullRequest(_) | EventKind::Data(_) => opened(event, facts),
    }
}

/// A closed pull request. Its head's runs go on if a branch of this repository holds the commit: the head's own branch does, and
/// after a merge the base may. Only a fork's head that no other open pull request has is held by nothing.
fn closed(pull: &PullRequest, facts: &Facts) -> IntakePlan {
    let now = facts.pull_now.as_ref().unwrap_or(pull);
    let named = facts.change.named(pull.number);
    let mut plan =
        IntakePlan { state: DeliveryState::Done, pull: Some(now.clone()), ..IntakePlan::nothing("") };
    plan.then.push(Then::ReportPull(pull.number));
    plan.then.extend(facts.existing.iter().map(|run| Then::Compare(run.id.clone())));
    if now.open {
        plan.reason = format!("{named} is open again by now: nothing to stop");
        return plan;
    }
    let open: Vec<&RunRow> = facts
        .existing
        .iter()
        .filter(|run| !run.state.is_terminal() && run.cancel_request.is_none())
        .collect();
    if open.is_empty() {
        plan.reason = format!("{named} was closed: nothing of it runs");
    } else if !pull.fork {
        plan.reason = format!("{named} was closed: its runs go on, a branch holds their commit");
    } else if facts.other_open_pull {
        plan.reason = format!("{named} was closed: another one has the same head, its runs go on");
    } else if open.iter().any(|run| run.trusted) {
        plan.reason = format!("{named} was closed: its runs go on, they were pushed here too");
    } else {
        plan.reason = format!("{named} was closed: {} of it stop", count(open.len(), "run"));
        let why = format!("{named} was closed");
        plan.cancel = open.iter().map(|run| (run.id.clone(), why.clone())).collect();
    }
    plan
}

/// A head that may start runs: a push, or a pull request that is open.
fn opened(event: &Event, facts: &Facts) -> IntakePlan {
    let Some((sha, branch)) = head_of(event, facts.change) else {
        return IntakePlan::nothing("the event names no commit");
    };
    let mut out = IntakePlan::nothing("");
    let mut sentences = Vec::new();
    if let EventKind::PullRequest(PullRequestEvent { pull, .. }) = &event.kind {
        out.pull = Some(facts.pull_now.as_ref().unwrap_or(pull).clone());
        out.then.push(Then::ReportPull(pull.number));
        out.then.extend(facts.existing.iter().map(|run| Then::Compare(run.id.clone())));
        out.then.push(Then::ReportCommit(sha.clone()));
    }
    if facts.pipelines.is_empty() {
        sentences.push(format!("no pipeline file at {}", sha.short()));
    }
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for file in facts.pipelines.iter().filter(|file| is_meant(event, file)) {
        let sentence = pipeline(event, facts, file, &sha, &branch, &mut names, &mut out);
        sentences.push(sentence);
    }
    if let (EventKind::Data(data), true) = (&event.kind, sentences.is_empty()) {
        sentences.push(format!("pipeline `{}` is not at {} any more", data.pipeline, sha.short()));
    }
    if is_default_branch(event, facts) && !facts.overtaken {
        out.asked = Some(asked(facts, &sha, &branch));
    }
    out.reason = sentences.join("; ");
    let acts = !out.runs.is_empty()
        || !out.cancel.is_empty()
        || !out.supersede_held.is_empty()
        || out.pull.is_some();
    let known =
        facts.pipelines.iter().any(|file| facts.existing.iter().any(|run| run.pipeline == name_of(file)));
    if acts || known {
        out.state = DeliveryState::Done;
    }
    out
}

/// Data is of one pipeline, every other event of all.
fn is_meant(event: &Event, file: &PipelineFile) -> bool {
    match &event.kind {
        EventKind::Data(data) => name_of(file) == data.pipeline,
        _ => true,
    }
}

/// Did someone who may write push to the default branch?
pub(super) fn is_default_branch(event: &Event, facts: &Facts) -> bool {
    matches!(&event.kind, EventKind::Push(push) if push.branch == event.repo.default_branch)
        && trusted(event, facts)
}

/// What pipelines ask for, as far as their files say.
fn asked(facts: &Facts, sha: &Sha, branch: &str) -> Asked {
    let mut out = Asked {
        repo_id: facts.repo_id.clone(),
        branch: branch.to_owned(),
        sha: sha.clone(),
        priorities: Vec::new(),
        places: Vec::new(),
        broken: Vec::new(),
    };
    for file in &facts.pipelines {
        match &file.parsed {
            Ok(plan) => {
                let prefixes = plan.watched().map(|prefix| (plan.name.clone(), prefix.to_owned()));
                out.places.extend(prefixes);
                // A class counts when someone who may write put it on the default branch, and then for every head of that pipeline. So
                // no head raises itself, and none lowers itself by accident.
                out.priorities.push((plan.name.clone(), plan.priority.clone()));
            }
            Err(broken) => out.broken.push(broken.name.clone()),
        }
    }
    out.places.sort();
    out.places.dedup();
    out
}

fn name_of(file: &PipelineFile) -> &str {
    match &file.parsed {
        Ok(plan) => &plan.name,
        Err(broken) => &broken.name,
    }
}

/// What becomes of one pipeline file; adds to `out`, returns the sentence that says so.
fn pipeline(
    event: &Event,
    facts: &Facts,
    file: &PipelineFile,
    sha: &Sha,
    branch: &str,
    names: &mut BTreeMap<String, String>,
    out: &mut IntakePlan,
) -> String {
    let name = name_of(file).to_owned();
    if let Some(other) = names.insert(name.clone(), file.path.clone()) {
        return format!("{} is passed over: {other} is named `{name}` as well", file.path);
    }
    let existing = facts.existing.iter().find(|run| run.pipeline == name);
    let trusted = trusted_run(event, facts, &name);
    let mut run = PlannedRun {
        pipeline: name.clone(),
        sha: sha.clone(),
        generation: 1,
        branch: branch.to_owned(),
        message: facts.message.lines().next().unwrap_or_default().to_owned(),
        actor: actor_of(event, facts),
        trusted,
        state: RunState::Queued,
        reason: String::new(),
        plan: no_plan(&name, &file.path),
        variables: variables(&event.repo, sha, branch, &name, facts.change),
        concurrency: None,
    };
    match &file.parsed {
        Err(broken) => broken_file(&mut run, file, broken),
        Ok(parsed) => {
            match fit(parsed, &event.kind, &event.repo.default_branch, facts.changed.as_deref()) {
                Fit::Unwanted { why } => return format!("no run of `{name}`: {why}"),
                Fit::Paths { why } if trusted || base_passes_over(event, facts, &name) => {
                    run.state = RunState::Skipped;
                    run.reason = why;
                }
                // Being skipped makes a status green. A stranger's own filter cannot: its head is held like any other.
                Fit::Paths { .. } | Fit::Wanted => {}
            }
            run.plan = if trusted { parsed.clone() } else { without_privileges(parsed, &facts.base) };
            match group(&facts.repo_id, parsed, &run.variables, trusted) {
                Ok(group) => run.concurrency = group,
                Err(why) => {
                    run.state = RunState::Errored;
                    run.reason = format!("the concurrency group of {} cannot be resolved: {why}", file.path);
                }
            }
            if trusted && asks_to_skip(&facts.message) && !matches!(event.kind, EventKind::Data(_)) {
                run.state = RunState::Skipped;
                run.reason = "the commit message asks to skip it".into();
            }
        }
    }
    if !trusted && matches!(run.state, RunState::Queued) {
        run.state = RunState::Held;
        run.reason = held_because(event, facts);
    }
    if let EventKind::Data(data) = &event.kind {
        if let Ok(plan) = &file.parsed
            && !plan.watched().any(|prefix| prefix == data.prefix)
        {
            return format!("no run of `{name}`: it does not look at {} any more", data.prefix);
        }
        run.on_data(data);
        run.generation = existing.map_or(1, |old| old.generation + 1);
    } else if let Some(old) = existing {
        match replaces(&run, old) {
            None => return format!("`{name}` has a run of {} already ({})", sha.short(), old.state),
            Some(why) => {
                run.generation = old.generation + 1;
                if old.state == RunState::Held {
                    out.supersede_held.push((old.id.clone(), why));
                    out.then.push(Then::Reconcile(old.id.clone()));
                } else if !old.state.is_terminal() && old.cancel_request.is_none() {
                    out.cancel.push((old.id.clone(), format!("{}{why}", RunState::SUPERSEDED_BY)));
                }
            }
        }
    }
    order_in_group(&mut run, facts, out);
    let sentence = sentence(&run);
    out.runs.push(run);
    sentence
}

/// Does the base's pipeline of that name pass over what the event changes, too?
fn base_passes_over(event: &Event, facts: &Facts, name: &str) -> bool {
    let base = facts.base.iter().find(|plan| plan.name == name);
    let fits = |plan| fit(plan, &event.kind, &event.repo.default_branch, facts.changed.as_deref());
    base.is_some_and(|plan| matches!(fits(plan), Fit::Paths { .. }))
}

/// May this run take the place of the one that this commit has? The reason, if so. A skip replaces nothing.
fn replaces(run: &PlannedRun, old: &RunRow) -> Option<String> {
    if run.state == RunState::Skipped {
        return None;
    }
    if run.trusted && !old.trusted {
        return Some("someone with write access pushed the same commit".into());
    }
    // The push touched nothing that the pipeline cares for, its pull request as a whole does.
    (old.state == RunState::Skipped).then(|| "another event of this commit wants it to run".into())
}

/// `cancel_in_progress`: older runs of the group stop; if a newer one is there, this one ends before it began.
fn order_in_group(run: &mut PlannedRun, facts: &Facts, out: &mut IntakePlan) {
    let cancels = run.plan.concurrency.as_ref().is_some_and(|c| c.cancel_in_progress);
    let (RunState::Queued, true, Some(group)) = (run.state, cancels, &run.concurrency) else { return };
    let Some(others) = facts.groups.get(group) else { return };
    if let Some(newer) = others.iter().find(|other| other.newer && other.sha != run.sha) {
        run.state = RunState::Superseded;
        run.reason = format!("the newer commit {} runs in its concurrency group", newer.sha.short());
        return;
    }
    for other in
        others.iter().filter(|other| !other.newer && other.sha != run.sha && other.state != RunState::Held)
    {
        let why = format!(
            "{}the newer commit {} runs in its concurrency group",
            RunState::SUPERSEDED_BY,
            run.sha.short()
        );
        out.cancel.push((other.id.clone(), why));
    }
}

fn broken_file(run: &mut PlannedRun, file: &PipelineFile, broken: &Broken) {
    run.state = RunState::Errored;
    run.reason = match broken.lines.as_slice() {
        [] => format!("{}: it cannot be read", file.path),
        lines => lines.join("\n"),
    };
}

fn sentence(run: &PlannedRun) -> String {
    let what = format!("run of `{}` at {}", run.pipeline, run.sha.short());
    let reason = summary_line(&run.reason);
    let again = if run.generation > 1 { format!(", generation {}", run.generation) } else { String::new() };
    match run.state {
        RunState::Queued => format!("{what} on `{}`{again}", run.branch),
        state if reason.is_empty() => format!("{what} {state}{again}"),
        state => format!("{what} {state}{again}: {reason}"),
    }
}

fn held_because(event: &Event, facts: &Facts) -> String {
    match &event.kind {
        EventKind::PullRequest(pull) if pull.pull.fork => {
            "the head comes from a fork: someone with a trainyard token of scope run must release it".into()
        }
        EventKind::PullRequest(pull) => {
            let author = author(&pull.pull, facts);
            format!(
                "{author} has no write access and no merged change here: someone with a trainyard token of scope run must release it"
            )
        }
        _ => format!(
            "{} has no write access and no merged change here: someone with a trainyard token of scope run must release it",
            event.actor.login
        ),
    }
}

fn actor_of(event: &Event, facts: &Facts) -> String {
    match &event.kind {
        EventKind::PullRequest(pull) => author(&pull.pull, facts).to_owned(),
        _ => event.actor.login.clone(),
    }
}

/// The author's name. GitLab's webhook gives their number alone, so the forge's own page of the pull request goes first.
fn author<'a>(pull: &'a PullRequest, facts: &'a Facts) -> &'a str {
    let now = facts.pull_now.as_ref().filter(|now| now.author.id == pull.author.id).unwrap_or(pull);
    &now.author.login
}

/// An untrusted head's plan: pools as the base branch has them for the step of that name, no secrets. Its caches stay: they are read
/// only, and only what the default branch wrote. Sections
/// with privileges (`model`, `deploy`) are not run by this version; those named are the base's.
fn without_privileges(head: &Plan, base: &[Plan]) -> Plan {
    let base = base.iter().find(|plan| plan.name == head.name);
    let mut plan = head.clone();
    for step in &mut plan.steps {
        let twin = base.and_then(|base| base.steps.iter().find(|other| other.base == step.base));
        step.pool = twin.and_then(|twin| twin.pool.clone());
        step.secrets.clear();
    }
    plan.not_run = base.map(|base| base.not_run.clone()).unwrap_or_default();
    plan
}

/// Stands in for the plan of a file that cannot be read.
fn no_plan(name: &str, file: &str) -> Plan {
    Plan {
        name: name.to_owned(),
        file: file.to_owned(),
        when: Vec::new(),
        concurrency: None,
        priority: None,
        timeout_ms: 0,
        steps: Vec::new(),
        metrics: crate::model::plan::MetricsSpec::default(),
        report: crate::model::plan::ReportSpec::default(),
        not_run: Vec::new(),
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
