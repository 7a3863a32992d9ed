use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::bootstrap_token;
use super::next::{Effect, Observed, Situation, next};
use crate::clock::{Millis, SharedClock};
use crate::config::Config;
use crate::executor::{Executor, ExecutorError, Launch, Observation, external_name};
use crate::failpoint;
use crate::model::{AttemptRank, AttemptState, AttemptUid, EndClass, RunId, summary_line};
use crate::queue::{Handler, backoff};
use crate::store::attempts::{AttemptMove, AttemptRow};
use crate::store::runs::{Applied, RunChange, RunRow, RunView};
use crate::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};
use crate::store::{Instance, Store};

/// For so long what was read of a run is good for another decision.
const FRESH_MS: Millis = 1000;
/// Decisions in one visit; more means that something flaps, and the next visit goes on.
const MOST_ROUNDS: usize = 64;

/// What an installation is.
#[derive(Debug, Clone)]
pub struct Settings {
    pub instance: Arc<Instance>,
    /// Base URL of the agent listener, as attempts reach it.
    pub agent_url: String,
    /// The CA of the agent listener, in PEM, where it speaks TLS.
    pub agent_ca: Option<String>,
}

type EndLogs = dyn Fn(AttemptRow, Vec<AttemptRank>, Option<File>) -> BoxFuture<'static, anyhow::Result<()>>
    + Send
    + Sync;

/// Ends the logs of these ranks of an attempt that is about to end without their agents' word; the file is what is left of the leader's.
#[derive(Clone)]
pub struct LogEnder(Arc<EndLogs>);

impl LogEnder {
    pub fn new<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
        end: impl Fn(AttemptRow, Vec<AttemptRank>, Option<File>) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |attempt, ranks, left| Box::pin(end(attempt, ranks, left))))
    }
}

impl std::fmt::Debug for LogEnder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogEnder")
    }
}

/// Looks at one run: decides with [`next()`], writes the decision, then acts, until nothing more is to be done now.
#[derive(Debug)]
pub struct Reconciler {
    store: Store,
    clock: SharedClock,
    config: Arc<Config>,
    settings: Settings,
    executors: BTreeMap<String, Arc<dyn Executor>>,
    logs: LogEnder,
    /// Since when an attempt's process tree is known to be gone. A memory only: lost in a restart, the grace for the
    /// agent's last words begins anew.
    gone: Mutex<BTreeMap<AttemptUid, Millis>>,
    /// Executors that answer, and since when without a break. A memory only, so a restart counts as a break.
    answering: Mutex<BTreeMap<String, Millis>>,
    queued: BTreeSet<String>,
}

impl Reconciler {
    pub fn new(
        store: Store,
        clock: SharedClock,
        config: Arc<Config>,
        settings: Settings,
        executors: BTreeMap<String, Arc<dyn Executor>>,
        logs: LogEnder,
    ) -> Self {
        let queued = config.pool.iter().filter(|(_, pool)| pool.kubernetes.queue.is_some());
        let queued = queued.map(|(name, _)| name.clone()).collect();
        Self {
            store,
            clock,
            config,
            settings,
            executors,
            logs,
            gone: Mutex::default(),
            answering: Mutex::default(),
            queued,
        }
    }

    /// `ours_only`: this look was asked for because only this machine can act on some of the run's attempts; it leaves
    /// those of other machines alone. A look at the whole run asks their daemons.
    async fn reconcile(&self, id: &RunId, ours_only: bool, tries: i64) -> anyhow::Result<WorkOutcome> {
        let mut observed = BTreeMap::new();
        let mut failed: BTreeMap<AttemptUid, String> = BTreeMap::new();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        // Executors that did not answer in this visit: they are not asked again in it.
        let mut away: BTreeMap<String, String> = BTreeMap::new();
        let mut wrote = false;
        let mut acted: BTreeSet<Effect> = BTreeSet::new();
        let mut trouble = None;
        // What was read, and when, if it still holds: since then executors were asked, and nothing was written here.
        let mut kept: Option<(RunView, Millis)> = None;
        for _ in 0..MOST_ROUNDS {
            let reused = kept.is_some();
            let (view, read_ms) = if let Some(kept) = kept.take() {
                kept
            } else {
                let read_ms = self.clock.now_ms();
                match self.store.run_view(id).await.context("cannot read the run")? {
                    Some(view) => (view, read_ms),
                    None => return Ok(WorkOutcome::Done),
                }
            };
            let ahead = self.store.run_ahead(&view.run).await.context("cannot read the concurrency group")?;
            let now = self.clock.now_ms();
            let answering = self.answering();
            let situation = Situation {
                view: &view,
                now,
                answering: &answering,
                limits: &self.config.limits,
                queued: &self.queued,
                observed: &observed,
                failed: &failed,
                ahead: ahead.as_ref(),
            };
            let decision = next(&situation);
            // Before an attempt is ended it is read what its agent said meanwhile.
            let ends_one = |change: &RunChange| change.attempts.iter().any(|a| a.to == AttemptState::Ended);
            if reused && decision.change.as_ref().is_some_and(ends_one) {
                continue;
            }
            // What is written changes nothing more by itself, but what is done may bring something new.
            let (mut changed, mut only_asked) = (false, decision.change.is_none());
            if let Some(change) = decision.change {
                let ends = change.to.as_ref().is_some_and(|(state, _)| state.is_terminal());
                if let Err(error) = self.end_logs(&view, &change).await {
                    return Ok(self.outcome(id, Some(error), None, tries));
                }
                let said = change.to.clone().filter(|_| ends);
                let ended = ends_in(&view, &change);
                failpoint::hit("run.apply.before");
                match self.store.apply(change, now).await.context("cannot write a decision")? {
                    Applied::Stale => continue,
                    Applied::Done => wrote = true,
                }
                for (attempt, end) in &ended {
                    log_end(attempt, end, now);
                }
                if let Some((state, reason)) = said {
                    tracing::info!(run.id = %id, run.state = %state, run.reason = summary_line(&reason), "run ended");
                }
                failpoint::hit("run.apply.after");
                if ends {
                    self.wake_group(&view.run).await?;
                }
            }
            for effect in decision.effects {
                // One visit asks once; submitting and removing leave a row that shows it.
                if !acted.insert(effect.clone()) {
                    continue;
                }
                if let Some(machine) = self.elsewhere(&view, &effect) {
                    if !ours_only {
                        let known = self.act_elsewhere(&view, &effect, machine, &mut observed).await?;
                        changed |= known;
                        only_asked &= !known;
                        if asked.insert(machine.to_owned()) {
                            let ask = WorkAsk::run_at(id, machine, now);
                            self.store.ask(vec![ask], now).await.context("cannot ask another machine")?;
                        }
                    }
                    continue;
                }
                changed = true;
                let uid = effect.attempt();
                let executor = view.attempts.iter().find(|a| a.uid == *uid).map(|a| a.executor.clone());
                let executor = executor.unwrap_or_default();
                if let Some(why) = away.get(&executor) {
                    failed.insert(uid.clone(), why.clone());
                    continue;
                }
                let done = self.act(&view, &effect, &mut observed).await;
                only_asked &= matches!(effect, Effect::Observe(_)) && done.is_ok();
                if let Some(why) = self.note_answer(&executor, &done) {
                    away.insert(executor, why);
                }
                if let Err(error) = done {
                    failed.insert(uid.clone(), format!("{error:#}"));
                    trouble.get_or_insert(error);
                }
            }
            if !changed && ours_only {
                if wrote {
                    let asks = vec![WorkAsk::run(id, now)];
                    self.store.ask(asks, now).await.context("cannot ask for the whole run")?;
                }
                // Its other times to look are the whole look's.
                let again = decision.look_again_ms.filter(|_| !observed.is_empty() || trouble.is_some());
                return Ok(self.outcome(id, trouble, again, tries));
            }
            if !changed {
                return Ok(self.outcome(id, trouble, decision.look_again_ms, tries));
            }
            let fresh = only_asked && self.clock.now_ms() - read_ms < FRESH_MS;
            kept = fresh.then_some((view, read_ms));
        }
        Ok(WorkOutcome::Again { at_ms: self.clock.now_ms() + 1000 })
    }

    /// Of attempts that end here the agents said nothing: what is left of their logs is kept before nothing more is taken of them.
    async fn end_logs(&self, view: &RunView, change: &RunChange) -> anyhow::Result<()> {
        let ends = change.attempts.iter().filter(|end| end.to == AttemptState::Ended);
        for attempt in ends.filter_map(|end| view.attempts.iter().find(|a| a.uid == end.uid)) {
            let mut ranks = Vec::new();
            if attempt.started_ms.is_some() && attempt.finished_ms.is_none() {
                ranks.push(AttemptRank::from(&attempt.uid));
            }
            let others = view.ranks.iter().filter(|r| r.of.uid == attempt.uid && !r.of.leads());
            ranks.extend(
                others.filter(|r| r.started_ms.is_some() && r.ended_ms.is_none()).map(|r| r.of.clone()),
            );
            if ranks.is_empty() {
                continue;
            }
            let executor = self.executors.get(&attempt.executor);
            let left = executor.and_then(|executor| executor.log_left(&attempt.uid, &attempt.handle));
            (self.logs.0)(attempt.clone(), ranks, left).await?;
        }
        Ok(())
    }

    /// Trouble with one attempt is tried again with back-off, but the others are looked at when they are due.
    fn outcome(
        &self,
        id: &RunId,
        trouble: Option<anyhow::Error>,
        again: Option<Millis>,
        tries: i64,
    ) -> WorkOutcome {
        match (trouble, again) {
            (Some(error), again) => {
                let error = format!("{error:#}");
                tracing::warn!(run.id = %id, work.tries = tries + 1, error, "a run cannot go on yet");
                let at_ms = self.clock.now_ms() + backoff(tries);
                WorkOutcome::Retry { at_ms: again.map_or(at_ms, |again| again.min(at_ms)), error }
            }
            (None, Some(at_ms)) => WorkOutcome::Again { at_ms },
            (None, None) => WorkOutcome::Done,
        }
    }

    /// The machine whose daemon alone can carry this out, if that is not ours.
    fn elsewhere<'v>(&self, view: &'v RunView, effect: &Effect) -> Option<&'v str> {
        let attempt = view.attempts.iter().find(|a| a.uid == *effect.attempt())?;
        let machine = attempt.machine.as_str();
        (!machine.is_empty() && machine != self.store.machine()).then_some(machine)
    }

    /// What can be said of an attempt on another machine without its daemon: when that has been away for too long, the attempt is
    /// lost. True: something is known now. What is left of it there is removed by its daemon, should it come back.
    async fn act_elsewhere(
        &self,
        view: &RunView,
        effect: &Effect,
        machine: &str,
        observed: &mut BTreeMap<AttemptUid, Observed>,
    ) -> anyhow::Result<bool> {
        let (Effect::Observe(uid) | Effect::Submit(uid)) = effect else { return Ok(false) };
        let now = self.clock.now_ms();
        let daemons = self.store.daemons().await.context("cannot read which daemons live")?;
        let seen = daemons.iter().find(|daemon| daemon.machine == machine);
        let silence_ms = self.config.limits.machine_silence_s * 1000;
        if seen.is_some_and(|daemon| now - daemon.seen_ms < silence_ms) {
            return Ok(false);
        }
        let name = seen.map_or(machine, |daemon| daemon.name.as_str());
        let reason =
            format!("the daemon of its machine {name} was away for more than {} s", silence_ms / 1000);
        if matches!(effect, Effect::Observe(_)) {
            let what = Observation::Gone { class: EndClass::NodeLost, exit_code: None, reason };
            let since_ms = self.note(uid, &what);
            observed.insert(uid.clone(), Observed { what, since_ms });
            return Ok(true);
        }
        let attempt = view.attempts.iter().find(|a| a.uid == *uid);
        let end = AttemptMove {
            uid: uid.clone(),
            to: AttemptState::Ended,
            class: Some(EndClass::NodeLost),
            reason,
            exit_code: None,
            cancel: false,
            handle: attempt.map(|a| a.handle.clone()),
        };
        let moved = self
            .store
            .move_attempt(end.clone(), now)
            .await
            .context("cannot note that an attempt was lost")?;
        if let Some(attempt) = attempt.filter(|_| moved) {
            log_end(attempt, &end, now);
        }
        Ok(moved)
    }

    /// The one whose turn it is now looks at once.
    async fn wake_group(&self, run: &RunRow) -> anyhow::Result<()> {
        if let Some(next) =
            self.store.next_of_group(run).await.context("cannot read the concurrency group")?
        {
            let now = self.clock.now_ms();
            let asks = vec![WorkAsk::run(&next, now)];
            self.store.ask(asks, now).await.context("cannot wake the concurrency group")?;
        }
        Ok(())
    }

    async fn act(
        &self,
        view: &RunView,
        effect: &Effect,
        observed: &mut BTreeMap<AttemptUid, Observed>,
    ) -> anyhow::Result<()> {
        let uid = effect.attempt();
        let attempt =
            view.attempts.iter().find(|a| a.uid == *uid).context("the attempt is not part of its run")?;
        let executor = self.executors.get(&attempt.executor).with_context(|| {
            format!("attempt {uid} runs on executor `{}`, which is not configured", attempt.executor)
        })?;
        match effect {
            Effect::Submit(_) => self.submit(view, attempt, executor.as_ref()).await,
            Effect::Observe(_) => {
                let what = executor
                    .observe(uid, &attempt.handle)
                    .await
                    .with_context(|| format!("cannot observe attempt {uid}"))?;
                let since_ms = self.note(uid, &what);
                observed.insert(uid.clone(), Observed { what, since_ms });
                Ok(())
            }
            Effect::Cancel(_) => {
                failpoint::hit("executor.cancel.before");
                let grace_ms = self.config.limits.grace_s * 1000;
                let done = executor.cancel(uid, &attempt.handle, grace_ms).await;
                failpoint::hit("executor.cancel.after");
                done.with_context(|| format!("cannot cancel attempt {uid}"))
            }
            Effect::Remove(_) => {
                failpoint::hit("executor.remove.before");
                let held = executor.held(uid).await;
                executor
                    .remove(&self.outside(attempt), uid, &attempt.handle)
                    .await
                    .with_context(|| format!("cannot remove what is left of attempt {uid}"))?;
                failpoint::hit("executor.remove.after");
                self.forget(uid);
                let now = self.clock.now_ms();
                self.store
                    .attempt_removed(uid, held, now)
                    .await
                    .with_context(|| format!("cannot note the removal of attempt {uid}"))
            }
        }
    }

    /// The attempt's name outside.
    fn outside(&self, attempt: &AttemptRow) -> String {
        let (run, step) = (attempt.run_id.as_str(), attempt.step_id.as_str());
        external_name(&self.settings.instance.id, run, step, attempt.number)
    }

    async fn submit(
        &self,
        view: &RunView,
        attempt: &AttemptRow,
        executor: &dyn Executor,
    ) -> anyhow::Result<()> {
        let run = &view.run;
        let step = view
            .steps
            .iter()
            .find(|s| s.id == attempt.step_id)
            .context("the attempt's step is not part of its run")?;
        let spec = run
            .plan
            .steps
            .get(step.position as usize)
            .context("the plan does not hold the attempt's step")?;
        let repo = self
            .store
            .repo(&run.repo_id)
            .await
            .context("cannot read the run's repository")?
            .context("the run's repository has no row")?;
        let launch = Launch {
            uid: attempt.uid.clone(),
            name: self.outside(attempt),
            spec: spec.clone(),
            number: attempt.number,
            run: run.id.clone(),
            pipeline: run.pipeline.clone(),
            trusted: run.trusted,
            pool: attempt.pool.clone(),
            gpus: attempt.gpus.clone(),
            agent_url: self.settings.agent_url.clone(),
            agent_ca: self.settings.agent_ca.clone(),
            bootstrap: SecretString::from(bootstrap_token(&self.settings.instance, &attempt.uid)),
            repo_trusted: self.config.repository(&repo.forge, repo.name.as_str()).is_some_and(|r| r.trusted),
            probe: false,
            handle: attempt.handle.clone(),
        };
        failpoint::hit("executor.submit.before");
        let answer = executor.submit(&launch).await;
        failpoint::hit("executor.submit.after");
        let mut change = AttemptMove {
            uid: attempt.uid.clone(),
            to: AttemptState::Submitted,
            class: None,
            reason: String::new(),
            exit_code: None,
            cancel: false,
            handle: None,
        };
        match answer {
            Ok(handle) => change.handle = Some(handle),
            Err(ExecutorError::Refused(why)) => {
                change.to = AttemptState::Ended;
                change.class = Some(EndClass::Unschedulable);
                change.reason = why;
            }
            Err(ExecutorError::Denied(why)) => {
                change.to = AttemptState::Ended;
                change.class = Some(EndClass::Quota);
                change.reason = why;
            }
            Err(error @ (ExecutorError::Transient(_) | ExecutorError::Away(_))) => {
                return Err(error).with_context(|| format!("cannot start attempt {}", attempt.uid));
            }
        }
        // False when the agent has said `start` (or even ended) by now: it is further than we know.
        let now = self.clock.now_ms();
        let moved = self
            .store
            .move_attempt(change.clone(), now)
            .await
            .context("cannot note that an attempt was started")?;
        if moved && change.to == AttemptState::Ended {
            log_end(attempt, &change, now);
        }
        Ok(())
    }

    /// Since when the attempt is known to be gone; now, when it is not.
    fn note(&self, uid: &AttemptUid, what: &Observation) -> Millis {
        let now = self.clock.now_ms();
        let mut gone = self.gone.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if matches!(what, Observation::Gone { .. } | Observation::Unknown) {
            *gone.entry(uid.clone()).or_insert(now)
        } else {
            gone.remove(uid);
            now
        }
    }

    fn answering(&self) -> BTreeMap<String, Millis> {
        self.answering.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Notes whether an executor answered. Returns why it did not.
    fn note_answer(&self, executor: &str, done: &anyhow::Result<()>) -> Option<String> {
        let error = done.as_ref().err().and_then(|error| error.downcast_ref::<ExecutorError>());
        let mut answering = self.answering.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(ExecutorError::Away(why)) = error {
            answering.remove(executor);
            return Some(why.clone());
        }
        answering.entry(executor.to_owned()).or_insert_with(|| self.clock.now_ms());
        None
    }

    fn forget(&self, uid: &AttemptUid) {
        self.gone.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(uid);
    }
}

/// The attempts that a change ends, with how.
fn ends_in<'v>(view: &'v RunView, change: &RunChange) -> Vec<(&'v AttemptRow, AttemptMove)> {
    let ends = change.attempts.iter().filter(|end| end.to == AttemptState::Ended);
    let of = |end: &AttemptMove| view.attempts.iter().find(|a| a.uid == end.uid);
    ends.filter_map(|end| Some((of(end)?, end.clone()))).collect()
}

fn log_end(attempt: &AttemptRow, end: &AttemptMove, now: Millis) {
    if let Some(class) = end.class {
        attempt.log_end(class, &end.reason, end.exit_code, now);
    }
}

#[async_trait]
impl Handler for Reconciler {
    fn kind(&self) -> WorkKind {
        WorkKind::Run
    }
    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        match item.key.split_once('@') {
            Some((run, _)) => self.reconcile(&RunId::from_text(run), true, item.tries).await,
            None => self.reconcile(&RunId::from_text(item.key.as_str()), false, item.tries).await,
        }
    }
}
