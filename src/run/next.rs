//! The one function that decides what happens next in a run. Pure: no I/O, no clock, no randomness.

use std::collections::{BTreeMap, BTreeSet};

use super::ranks::{self, Verdict};
use super::retry::{self, After, End};
use crate::clock::Millis;
use crate::config::Limits;
use crate::executor::{Observation, kubernetes};
use crate::model::{AttemptState, AttemptUid, EndClass, RunId, RunState, StepSpec, StepState, spell_span};
use crate::store::attempts::{AttemptMove, AttemptRow};
use crate::store::ranks::RankRow;
use crate::store::runs::{RunChange, RunView, StepMove, StepRow};
use crate::store::work::WorkAsk;

/// After a process tree is gone, its agent's last words may still be on their way.
const LAST_WORDS_MS: Millis = 10_000;
/// How often the executor is asked about an attempt that is to stop, or has just been handed over.
const SOON_MS: Millis = 5_000;
/// One that waits long for its place is asked about less and less often, up to this: thousands of them would fill the queue with
/// looks that find nothing. What the executor hears by itself (a watch, the agent's `start`) brings a look at once.
const SELDOM_MS: Millis = 60_000;
/// The agent ends a step whose time is over by itself; this much later we do.
const OVERDUE_SLACK_MS: Millis = 60_000;
/// How often a run that waits for another of its group looks again; the other's end asks for it sooner.
const GROUP_POLL_MS: Millis = 60_000;

/// All that a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub view: &'a RunView,
    pub now: Millis,
    pub limits: &'a Limits,
    /// Executors that answer, and since when without a break: only such time counts against one that waits.
    pub answering: &'a BTreeMap<String, Millis>,
    /// Pools whose places a queue outside gives and takes back.
    pub queued: &'a BTreeSet<String>,
    /// What executors said in this pass.
    pub observed: &'a BTreeMap<AttemptUid, Observed>,
    /// Attempts about which an executor failed to do or say something in this pass, and why.
    pub failed: &'a BTreeMap<AttemptUid, String>,
    /// The run of the same concurrency group that goes first, if any.
    pub ahead: Option<&'a RunId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub what: Observation,
    /// Since when the executor says so without a break.
    pub since_ms: Millis,
}

/// Something to do outside, after `Decision::change` is on disk. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Submit(AttemptUid),
    Observe(AttemptUid),
    Cancel(AttemptUid),
    Remove(AttemptUid),
}

impl Effect {
    pub fn attempt(&self) -> &AttemptUid {
        let (Self::Submit(uid) | Self::Observe(uid) | Self::Cancel(uid) | Self::Remove(uid)) = self;
        uid
    }
}

#[derive(Debug, Clone, Default)]
pub struct Decision {
    pub change: Option<RunChange>,
    pub effects: Vec<Effect>,
    /// Look again then at the latest, even if nothing is heard.
    pub look_again_ms: Option<Millis>,
}

/// Why a run is coming to its end before its steps did.
struct Stop {
    to: RunState,
    why: String,
}

/// Decides what happens next. Calling it again on the state that its change leads to decides nothing more and names the same time
/// to look again, until something new is heard.
pub fn next(at: &Situation) -> Decision {
    let run = &at.view.run;
    let stop = stop(at);
    let mut d = Deciding::new(at);
    d.clean_up();
    if run.state.is_terminal() || (run.state == RunState::Held && stop.is_none()) {
        return d.finish(None);
    }
    if let (Some(started), None) = (run.started_ms, &stop) {
        d.look(started.saturating_add(run.plan.timeout_ms));
    }
    d.watch_attempts(stop.as_ref());
    d.settle_steps(stop.as_ref());
    // A step that has a place was the first of its group to get one; one that is reused needs none, and changes nothing of that.
    let placed = at.view.steps.iter().any(|step| step.state == StepState::Running);
    let held_up = run.state == RunState::Queued && at.ahead.is_some() && !placed;
    if let Some(stop) = &stop {
        d.end_idle_steps(stop);
    } else if held_up {
        d.look(at.now + GROUP_POLL_MS);
    } else {
        d.follow_needs();
    }
    let to = d.run_state(stop.as_ref(), held_up);
    d.finish(to)
}

fn stop(at: &Situation) -> Option<Stop> {
    let run = &at.view.run;
    if let Some(why) = &run.cancel_request {
        return Some(match why.strip_prefix(RunState::SUPERSEDED_BY) {
            Some(rest) => Stop { to: RunState::Superseded, why: rest.to_owned() },
            None => Stop { to: RunState::Cancelled, why: why.clone() },
        });
    }
    let deadline = run.started_ms?.saturating_add(run.plan.timeout_ms);
    (at.now >= deadline).then(|| Stop {
        to: RunState::Failed,
        why: format!("the run's time limit of {} passed", spell_span(run.plan.timeout_ms)),
    })
}

struct Deciding<'a> {
    at: &'a Situation<'a>,
    /// State and reason of every step as this decision leaves it, by position.
    steps: Vec<(StepState, String)>,
    attempt_moves: Vec<AttemptMove>,
    /// Attempts that this decision ends.
    ended: BTreeMap<AttemptUid, (EndClass, String)>,
    effects: BTreeSet<Effect>,
    look_again: Option<Millis>,
    /// An attempt waits for something else of its queue than before.
    waits: bool,
}

impl<'a> Deciding<'a> {
    fn new(at: &'a Situation<'a>) -> Self {
        let steps = at.view.steps.iter().map(|s| (s.state, s.reason.clone())).collect();
        Self {
            at,
            steps,
            attempt_moves: Vec::new(),
            ended: BTreeMap::new(),
            effects: BTreeSet::new(),
            look_again: None,
            waits: false,
        }
    }

    fn look(&mut self, ms: Millis) {
        self.look_again = Some(self.look_again.map_or(ms, |old| old.min(ms)));
    }

    fn end(&mut self, attempt: &AttemptRow, class: EndClass, reason: String, exit_code: Option<i64>) {
        self.ended.insert(attempt.uid.clone(), (class, reason.clone()));
        self.attempt_moves.push(AttemptMove {
            uid: attempt.uid.clone(),
            to: AttemptState::Ended,
            class: Some(class),
            reason,
            exit_code,
            cancel: false,
            handle: None,
        });
        self.effects.insert(Effect::Remove(attempt.uid.clone()));
    }

    /// Asks the agent (at its next heartbeat) and the executor to stop it.
    fn cancel(&mut self, attempt: &AttemptRow) {
        if !attempt.cancel_request {
            self.attempt_moves.push(AttemptMove {
                uid: attempt.uid.clone(),
                to: attempt.state,
                class: None,
                reason: String::new(),
                exit_code: None,
                cancel: true,
                handle: None,
            });
        }
        self.effects.insert(Effect::Cancel(attempt.uid.clone()));
    }

    /// Ended attempts leave nothing behind outside, whatever becomes of the run.
    fn clean_up(&mut self) {
        for attempt in &self.at.view.attempts {
            if attempt.state == AttemptState::Ended && attempt.removed_ms.is_none() {
                self.effects.insert(Effect::Remove(attempt.uid.clone()));
            }
        }
    }

    fn watch_attempts(&mut self, stop: Option<&Stop>) {
        for attempt in self.at.view.attempts.iter().filter(|a| a.state != AttemptState::Ended) {
            match attempt.state {
                AttemptState::Intended => match stop {
                    Some(stop) => {
                        // A submit may have happened just before a crash, so it is cancelled outside as well.
                        self.effects.insert(Effect::Cancel(attempt.uid.clone()));
                        self.end(attempt, EndClass::Cancelled, stop.why.clone(), None);
                    }
                    None => self.hand_over(attempt),
                },
                _ => self.watch_submitted(attempt, stop),
            }
        }
    }

    /// Submits an attempt. Where that cannot be done for now, people read why, and not for ever: it holds its place meanwhile.
    fn hand_over(&mut self, attempt: &AttemptRow) {
        let limit_ms = self.at.limits.pending_timeout_s * 1000;
        let since = self.at.answering.get(&attempt.executor);
        let deadline = since.map_or(Millis::MAX, |since| attempt.intended_ms.max(*since) + limit_ms);
        let Some(why) = self.at.failed.get(&attempt.uid) else {
            self.effects.insert(Effect::Submit(attempt.uid.clone()));
            return;
        };
        if self.at.now >= deadline {
            let reason = format!("it could not be started within {}: {why}", spell_span(limit_ms));
            // The submit may have been carried out without an answer.
            self.effects.insert(Effect::Cancel(attempt.uid.clone()));
            self.end(attempt, EndClass::Unschedulable, reason, None);
            return;
        }
        if attempt.reason != *why {
            self.attempt_moves.push(AttemptMove {
                uid: attempt.uid.clone(),
                to: AttemptState::Intended,
                class: None,
                reason: why.clone(),
                exit_code: None,
                cancel: false,
                handle: None,
            });
        }
        if since.is_some() {
            self.look(deadline);
        }
    }

    /// When an attempt is to stop and neither its executor can be asked nor its agent was heard for long, nobody will ever say that
    /// it ended. True: it was ended here.
    fn give_up(&mut self, attempt: &AttemptRow, stop: Option<&Stop>) -> bool {
        // One that answers anything about it will say when it is gone.
        let asked_in_vain = !self.at.observed.contains_key(&attempt.uid);
        let Some(why) = self.at.failed.get(&attempt.uid).filter(|_| asked_in_vain) else { return false };
        let heard = attempt.heartbeat_ms.max(attempt.started_ms).max(attempt.submitted_ms);
        let silent_since = heard.unwrap_or(attempt.intended_ms);
        let lost_at = silent_since.saturating_add(self.at.limits.machine_silence_s * 1000);
        if self.at.now < lost_at {
            self.look(lost_at);
            return false;
        }
        let (class, reason) = match stop {
            Some(Stop { to: RunState::Failed, why }) => (EndClass::TimedOut, why.clone()),
            Some(stop) => (EndClass::Cancelled, stop.why.clone()),
            None => (EndClass::TimedOut, "its time limit passed".to_owned()),
        };
        let reason = format!("{reason}; whether it still runs is unknown: {why}");
        self.effects.insert(Effect::Cancel(attempt.uid.clone()));
        self.end(attempt, class, reason, None);
        true
    }

    fn watch_submitted(&mut self, attempt: &AttemptRow, stop: Option<&Stop>) {
        let now = self.at.now;
        let limits = self.at.limits;
        let seen = self.at.observed.get(&attempt.uid);
        let overdue = self.overdue(attempt);
        let by_words = attempt.ranks > 1 || attempt.state == AttemptState::Finishing;
        if by_words && self.watch_ranks(attempt, stop) {
            return;
        }
        if let Some(Observed { what: Observation::Gone { .. } | Observation::Unknown, since_ms }) = seen {
            if now < since_ms + LAST_WORDS_MS {
                self.look(since_ms + LAST_WORDS_MS);
                return;
            }
            let (class, reason, exit_code) = match &seen.map(|s| &s.what) {
                _ if stop.is_some_and(|s| s.to != RunState::Failed) => {
                    (EndClass::Cancelled, stop.map(|s| s.why.clone()).unwrap_or_default(), None)
                }
                _ if stop.is_some() => {
                    (EndClass::TimedOut, stop.map(|s| s.why.clone()).unwrap_or_default(), None)
                }
                _ if overdue.is_some() => {
                    let limit = self.spec(attempt).map_or(0, |s| s.timeout_ms);
                    (EndClass::TimedOut, format!("its time limit of {} passed", spell_span(limit)), None)
                }
                Some(Observation::Gone { class, exit_code, reason }) => {
                    let (class, reason) = retry::silent_end(*class, *exit_code, reason);
                    (class, reason, *exit_code)
                }
                _ => (EndClass::NodeLost, "the executor knows nothing of it any more".to_owned(), None),
            };
            self.end(attempt, class, reason, exit_code);
            return;
        }
        if stop.is_some() || overdue == Some(true) {
            if self.give_up(attempt, stop) {
                return;
            }
            self.cancel(attempt);
            self.observe_soon(attempt);
            return;
        }
        if seen.is_some_and(|seen| seen.what == Observation::Withdrawn) {
            self.effects.insert(Effect::Cancel(attempt.uid.clone()));
            self.observe_soon(attempt);
        }
        match attempt.state {
            AttemptState::Submitted | AttemptState::Pending => {
                let submitted = attempt.submitted_ms.unwrap_or(attempt.intended_ms);
                let held_back = match seen.map(|s| &s.what) {
                    Some(Observation::Pending { since_ms: Some(since), .. }) => *since,
                    _ => submitted,
                };
                let since = self.at.answering.get(&attempt.executor).copied();
                let begun = since.map(|since| submitted.max(held_back).max(since));
                let deadline = begun.map_or(Millis::MAX, |begun| begun + limits.pending_timeout_s * 1000);
                // Not before the executor was asked where a queue may have held it back all the time.
                if now >= deadline && (seen.is_some() || !self.at.queued.contains(&attempt.pool)) {
                    let wait = match seen.map(|s| &s.what) {
                        Some(Observation::Pending { why, .. }) if !why.is_empty() => format!(": {why}"),
                        _ => String::new(),
                    };
                    let limit = spell_span(limits.pending_timeout_s * 1000);
                    self.effects.insert(Effect::Cancel(attempt.uid.clone()));
                    self.end(
                        attempt,
                        EndClass::Unschedulable,
                        format!("it did not start within {limit}{wait}"),
                        None,
                    );
                    return;
                }
                // What it waits for changes: a place, then its image. People read it on the run's page.
                if let Some(Observed { what: Observation::Pending { why, since_ms }, .. }) = seen
                    && (attempt.state == AttemptState::Submitted || attempt.reason != *why)
                {
                    self.waits |= attempt.reason != *why && since_ms.is_some();
                    self.attempt_moves.push(AttemptMove {
                        uid: attempt.uid.clone(),
                        to: AttemptState::Pending,
                        class: None,
                        reason: why.clone(),
                        exit_code: None,
                        cancel: false,
                        handle: None,
                    });
                }
                let waited = now - attempt.submitted_ms.unwrap_or(attempt.intended_ms);
                self.observe_within(attempt, (waited / 4).clamp(SOON_MS, SELDOM_MS));
                if begun.is_some() && now < deadline {
                    self.look(deadline);
                }
            }
            _ => {
                // Silence alone proves nothing: the agent keeps training and spools while it cannot reach us.
                let check_ms = (limits.agent_silence_s * 1000 / 6).max(1000);
                let heard = attempt.heartbeat_ms.max(attempt.started_ms).unwrap_or(attempt.intended_ms);
                let others =
                    self.ranks(attempt).into_iter().filter(|row| !row.of.leads() && row.ended_ms.is_none());
                let heard = others.map(|row| row.heard_ms).fold(heard, Millis::min);
                // A cluster is watched: what it says of a Job brings a look here, and the agent knows nothing of it.
                let watched = attempt.executor == kubernetes::NAME;
                if watched && seen.is_none() {
                    self.effects.insert(Effect::Observe(attempt.uid.clone()));
                }
                if now >= heard + check_ms {
                    if seen.is_none() {
                        self.effects.insert(Effect::Observe(attempt.uid.clone()));
                    }
                    self.look(now + check_ms);
                } else {
                    self.look(heard + check_ms);
                }
                if let Some(started) = attempt.started_ms {
                    self.look(self.overdue_at(attempt, started));
                }
            }
        }
    }

    /// Ends an attempt of several pods, or one that a signal ended, by what was said and seen. True: nothing else is to be decided about it now.
    fn watch_ranks(&mut self, attempt: &AttemptRow, stop: Option<&Stop>) -> bool {
        let seen = self.at.observed.get(&attempt.uid);
        let in_vain = self.at.failed.contains_key(&attempt.uid);
        let grace_ms = self.at.limits.grace_s * 1000;
        match ranks::verdict(attempt, &self.ranks(attempt), seen, in_vain, grace_ms, self.at.now) {
            Verdict::Over { class, reason, exit_code } => {
                self.end(attempt, class, reason, exit_code);
                true
            }
            Verdict::Wait { until_ms } if stop.is_none() => {
                self.observe_soon(attempt);
                self.look(until_ms);
                true
            }
            Verdict::Wait { .. } => false,
            Verdict::Going => {
                // One that is lost leaves the others waiting in a collective, alive and well: their words say nothing of it.
                if seen.is_none() {
                    self.effects.insert(Effect::Observe(attempt.uid.clone()));
                }
                false
            }
        }
    }

    fn ranks(&self, attempt: &AttemptRow) -> Vec<&'a RankRow> {
        self.at.view.ranks.iter().filter(|row| row.of.uid == attempt.uid).collect()
    }

    fn observe_soon(&mut self, attempt: &AttemptRow) {
        self.observe_within(attempt, SOON_MS);
    }

    /// Asks the executor now if it was not asked in this pass, and again after `ms` at the latest.
    fn observe_within(&mut self, attempt: &AttemptRow, ms: Millis) {
        if !self.at.observed.contains_key(&attempt.uid) {
            self.effects.insert(Effect::Observe(attempt.uid.clone()));
        }
        self.look(self.at.now + ms);
    }

    fn overdue_at(&self, attempt: &AttemptRow, started: Millis) -> Millis {
        let limit = self.spec(attempt).map_or(0, |s| s.timeout_ms);
        started.saturating_add(limit).saturating_add(self.at.limits.grace_s * 1000 + OVERDUE_SLACK_MS)
    }

    /// Some(true) when the agent should have ended it long ago.
    fn overdue(&self, attempt: &AttemptRow) -> Option<bool> {
        let started = attempt.started_ms?;
        (self.at.now >= self.overdue_at(attempt, started)).then_some(true)
    }

    fn position(&self, attempt: &AttemptRow) -> Option<usize> {
        self.at.view.steps.iter().position(|s| s.id == attempt.step_id)
    }

    fn spec(&self, attempt: &AttemptRow) -> Option<&'a StepSpec> {
        let step = &self.at.view.steps[self.position(attempt)?];
        self.at.view.run.plan.steps.get(step.position as usize)
    }

    /// End and sentence of an ended attempt, as this decision leaves it.
    fn end_of(&self, attempt: &AttemptRow) -> Option<(End, String)> {
        let queued = self.at.queued.contains(&attempt.pool);
        if let Some((class, reason)) = self.ended.get(&attempt.uid) {
            return Some((End { class: *class, queued }, reason.clone()));
        }
        (attempt.state == AttemptState::Ended).then(|| {
            let class = attempt.class.unwrap_or(EndClass::Internal);
            (End { class, queued }, attempt.reason.clone())
        })
    }

    /// Running steps whose last attempt ended: well, badly, or once more.
    fn settle_steps(&mut self, stop: Option<&Stop>) {
        let view = self.at.view;
        for (index, step) in view.steps.iter().enumerate() {
            if self.steps[index].0 != StepState::Running {
                continue;
            }
            let mut attempts: Vec<&AttemptRow> =
                view.attempts.iter().filter(|a| a.step_id == step.id).collect();
            attempts.sort_by_key(|a| a.number);
            let Some(last) = attempts.last() else {
                self.steps[index] = (StepState::Ready, "it had no attempt".into());
                continue;
            };
            let Some((last, why)) = self.end_of(last) else { continue };
            let Some(spec) = view.run.plan.steps.get(step.position as usize) else {
                self.steps[index] = (StepState::Errored, "the plan does not hold this step".into());
                continue;
            };
            let ends: Vec<End> = attempts.iter().filter_map(|a| self.end_of(a)).map(|(end, _)| end).collect();
            self.steps[index] = match (retry::after(spec, last, &why, &ends), stop) {
                (After::End { to, reason }, None) => (to, reason),
                (After::Again { reason }, None) => (StepState::Ready, reason),
                (After::End { to: StepState::Succeeded, reason }, Some(_)) => (StepState::Succeeded, reason),
                // Its own failure, before the stop reached it.
                (After::End { to: StepState::Failed, reason }, Some(_)) => (StepState::Failed, reason),
                (_, Some(stop)) if stop.to == RunState::Failed => (StepState::Failed, stop.why.clone()),
                (_, Some(stop)) => (StepState::Cancelled, stop.why.clone()),
            };
        }
    }

    fn end_idle_steps(&mut self, stop: &Stop) {
        for step in &mut self.steps {
            if matches!(step.0, StepState::Waiting | StepState::Ready) {
                *step = (StepState::Cancelled, stop.why.clone());
            }
        }
    }

    /// Waiting steps whose needs ended: all well, or not. Steps stand in graph order, so one pass goes all the way.
    fn follow_needs(&mut self) {
        let plan = &self.at.view.run.plan;
        for index in 0..self.steps.len() {
            if self.steps[index].0 != StepState::Waiting {
                continue;
            }
            let Some(spec) = plan.steps.get(self.at.view.steps[index].position as usize) else { continue };
            let mut all_good = true;
            let mut blocked_by = None;
            for need in &spec.needs {
                let Some(other) = self.at.view.steps.iter().position(|s| s.name == need.step) else {
                    blocked_by = Some(format!("it needs `{}`, which the plan does not hold", need.step));
                    break;
                };
                let state = self.steps[other].0;
                if state.is_terminal() && !state.is_good() {
                    blocked_by = Some(format!("`{}`, which it needs, {}", need.step, past(state)));
                    break;
                }
                all_good &= state.is_good();
            }
            if let Some(reason) = blocked_by {
                self.steps[index] = (StepState::Skipped, reason);
            } else if all_good {
                self.steps[index] = (StepState::Ready, String::new());
            }
        }
    }

    fn run_state(&self, stop: Option<&Stop>, held_up: bool) -> Option<(RunState, String)> {
        let run = &self.at.view.run;
        let rows = &self.at.view.steps;
        let first = |wanted: StepState| {
            self.steps
                .iter()
                .zip(rows)
                .find(|((state, _), _)| *state == wanted)
                .map(|((_, why), row)| (row, why))
        };
        let sentence = |(row, why): (&StepRow, &String), verb: &str| {
            if why.is_empty() {
                format!("step `{}` {verb}", row.name)
            } else {
                format!("step `{}` {verb}: {why}", row.name)
            }
        };
        if self.steps.iter().all(|(state, _)| state.is_terminal()) {
            if self.steps.iter().all(|(state, _)| state.is_good()) && !(rows.is_empty() && stop.is_some()) {
                return Some((RunState::Succeeded, String::new()));
            }
            if let Some(stop) = stop {
                return Some((stop.to, stop.why.clone()));
            }
            if let Some(step) = first(StepState::Failed) {
                return Some((RunState::Failed, sentence(step, "failed")));
            }
            if let Some(step) = first(StepState::Errored) {
                return Some((RunState::Errored, sentence(step, "could not be run")));
            }
            if let Some(step) = first(StepState::Cancelled) {
                return Some((RunState::Cancelled, sentence(step, "was cancelled")));
            }
            return Some((RunState::Errored, "a step was skipped although nothing failed".into()));
        }
        let begun = |state: &StepState| {
            *state == StepState::Running || (state.is_terminal() && *state != StepState::Skipped)
        };
        let any_begun = self.steps.iter().any(|(state, _)| begun(state));
        (run.state == RunState::Queued && any_begun && stop.is_none() && !held_up)
            .then(|| (RunState::Running, String::new()))
    }

    fn finish(mut self, to: Option<(RunState, String)>) -> Decision {
        let view = self.at.view;
        let (run, now) = (&view.run, self.at.now);
        match to {
            Some((RunState::Running, _)) => self.look(now.saturating_add(run.plan.timeout_ms)),
            Some((to, _)) if to.is_terminal() => self.look_again = None,
            _ => {}
        }
        let mut moves = Vec::new();
        let (mut readied, mut ended, mut looking) = (false, false, false);
        for ((state, reason), row) in self.steps.into_iter().zip(&view.steps) {
            if state == row.state {
                continue;
            }
            readied |= state == StepState::Ready;
            looking |= state == StepState::Ready
                && row.state == StepState::Waiting
                && run.plan.steps.get(row.position as usize).is_some_and(|spec| spec.reuse.on);
            ended |= row.state == StepState::Running;
            let last = view.attempts.iter().rfind(|attempt| attempt.step_id == row.id);
            let outputs = last.filter(|_| state.is_good()).map(|attempt| attempt.outputs.clone());
            moves.push(StepMove { step: row.id.clone(), to: state, reason, outputs });
        }
        let terminal = to.as_ref().is_some_and(|(state, _)| state.is_terminal());
        let mut asks = Vec::new();
        // A forge is told how a run stands, what it waits for and what ended, not which steps are next.
        if to.is_some() || ended || !self.ended.is_empty() || self.waits {
            asks.push(WorkAsk::report_commit(&run.repo_id, &run.head_sha, now));
        }
        if readied || ended || terminal || !self.ended.is_empty() {
            asks.push(WorkAsk::schedule(now));
        }
        if looking {
            asks.push(WorkAsk::reuse(&run.id, now));
        }
        if terminal {
            asks.push(WorkAsk::compare(&run.id, now));
            // Once more: what is left outside is removed.
            asks.push(WorkAsk::run(&run.id, now));
        }
        let changes = to.is_some() || !moves.is_empty() || !self.attempt_moves.is_empty();
        let change = changes.then(|| RunChange {
            run: run.id.clone(),
            epoch: run.epoch,
            to,
            steps: moves,
            attempts: self.attempt_moves,
            asks,
        });
        Decision { change, effects: self.effects.into_iter().collect(), look_again_ms: self.look_again }
    }
}

fn past(state: StepState) -> &'static str {
    match state {
        StepState::Failed => "failed",
        StepState::Errored => "could not be run",
        StepState::Cancelled => "was cancelled",
        StepState::Skipped => "was skipped",
        StepState::Waiting
        | StepState::Ready
        | StepState::Running
        | StepState::Succeeded
        | StepState::Reused => "did not succeed",
    }
}
