//! Gives free places of pools to ready steps, in the order of [`fair`](super::fair).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;

use super::fair::{self, Contender, Shares, Terms};
use super::{bootstrap_hash, bootstrap_token};
use crate::clock::{Millis, SharedClock};
use crate::config::{Config, PoolConfig, QueueConfig};
use crate::failpoint;
use crate::model::{AttemptUid, RepoId, RunId, StepState};
use crate::queue::Handler;
use crate::store::attempts::Placement;
use crate::store::queue::{OpenAttempt, PoolUsage, PoolUse, ReadyStep};
use crate::store::runs::{Applied, RunChange, StepMove};
use crate::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};
use crate::store::{Instance, Store, StoreError};

/// The executor whose attempts share this machine and one user.
const LOCAL: &str = "local";

/// All that a round of the queue is decided from.
#[derive(Debug)]
pub struct Scene {
    pub now: Millis,
    pub ready: Vec<ReadyStep>,
    /// One for each ready step.
    pub terms: Vec<Terms>,
    pub used: BTreeMap<String, PoolUse>,
    pub usage: Vec<PoolUsage>,
    /// Repositories whose budget is spent, with the sentence that says so.
    pub spent: BTreeMap<RepoId, String>,
    pub pools: BTreeMap<String, PoolConfig>,
    pub policy: QueueConfig,
}

impl Scene {
    pub async fn read(store: &Store, config: &Config, now: Millis) -> Result<Self, StoreError> {
        let ready = store.ready_steps().await?;
        let back = config.queue.half_life_s.saturating_mul(1000 * fair::HALF_LIVES);
        let usage = if ready.is_empty() { Vec::new() } else { store.pool_usage(now - back).await? };
        let terms = |step: &ReadyStep| {
            let repository = config.repository(&step.forge, step.repo.as_str());
            Terms {
                rank: config.queue.rank(repository, step.priority.as_deref()),
                weight: repository.map_or(1.0, |r| r.weight),
            }
        };
        let used = store.pool_use().await?;
        Ok(Self {
            now,
            spent: spent(store, config, &ready, &used, now).await?,
            terms: ready.iter().map(terms).collect(),
            used,
            usage,
            pools: config.pools(),
            policy: config.queue.clone(),
            ready,
        })
    }

    /// Leaves the other ready steps out.
    fn keep(&mut self, wanted: impl Fn(&ReadyStep) -> bool) {
        let (ready, terms) = std::mem::take(&mut self.ready)
            .into_iter()
            .zip(std::mem::take(&mut self.terms))
            .filter(|(step, _)| wanted(step))
            .unzip();
        (self.ready, self.terms) = (ready, terms);
    }
}

/// Of the repositories that have ready steps. What runs counts as well.
async fn spent(
    store: &Store,
    config: &Config,
    ready: &[ReadyStep],
    used: &BTreeMap<String, PoolUse>,
    now: Millis,
) -> Result<BTreeMap<RepoId, String>, StoreError> {
    let mut spent = BTreeMap::new();
    let mut asked = BTreeSet::new();
    for step in ready.iter().filter(|step| fair::gpus(step) > 0) {
        let repository = config.repository(&step.forge, step.repo.as_str());
        let Some(budget) = repository.and_then(|r| r.budget).filter(|_| asked.insert(&step.repo_id)) else {
            continue;
        };
        let open = used.values().flat_map(|pool| &pool.open).filter(|open| open.repo_id == step.repo_id);
        // From its start: what waits in a queue of the cluster costs nothing.
        let ran = |open: &OpenAttempt| open.started_ms.map_or(0, |at| (now - at).max(0));
        let running: i64 = open.map(|open| ran(open) * i64::from(open.gpus)).sum();
        let ended = store.gpu_used_ms(&step.repo_id, budget.since(now), now).await?;
        spent.extend(budget.refuses(ended + running).map(|why| (step.repo_id.clone(), why)));
    }
    Ok(spent)
}

/// A place found for a ready step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index into the ready steps.
    pub ready: usize,
    pub pool: String,
    pub executor: String,
    pub gpus: Vec<u32>,
}

/// Why a ready step has no place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// An equal step is looked for.
    Lookup,
    /// Another run of its concurrency group goes first.
    Group(RunId),
    /// Its repository holds as much of the pool as it may.
    Quota { pool: String, limit: String },
    /// Steps of the other kind (trusted or not) have to end first.
    Turn { pool: String },
    /// Its pool has no room for it.
    Room { pool: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picked {
    pub places: Vec<Place>,
    /// Ready steps (by index) that no pool can ever hold, and why.
    pub refused: Vec<(usize, String)>,
    /// All others; those that wait for room or their turn in the order in which they are served.
    pub waits: Vec<(usize, Wait)>,
}

/// Decides who gets a place now. Within a pool nobody overtakes, so that a step which waits for eight GPUs is not starved by
/// small ones; only those that their repository's quota, their group or a look-up holds back let others by. Pure.
///
/// Local attempts all run as one Unix user, which can read the environment of its own processes, so on local pools trusted and
/// untrusted steps never run at the same time: the one that comes waits until those of the other kind have ended, and
/// nobody overtakes it meanwhile.
pub fn pick(scene: &Scene) -> Picked {
    let mut picked = Picked::default();
    let mut contenders = Vec::new();
    let mut groups: BTreeMap<&str, &RunId> = BTreeMap::new();
    for step in scene.ready.iter().filter(|step| step.ahead.is_none()) {
        if let Some(group) = &step.group {
            let first = groups.entry(group).or_insert(&step.run_id);
            *first = (*first).min(&step.run_id);
        }
    }
    for (index, step) in scene.ready.iter().enumerate() {
        let first = step.group.as_deref().and_then(|group| groups.get(group));
        let ahead = step.ahead.as_ref().or_else(|| first.copied().filter(|first| **first != step.run_id));
        let spent = scene.spent.get(&step.repo_id).filter(|_| step.number == 1 && fair::gpus(step) > 0);
        match pool_of(step, &scene.pools).and_then(|found| spent.map_or(Ok(found), |why| Err(why.clone()))) {
            Err(why) => picked.refused.push((index, why)),
            Ok(_) if step.looking => picked.waits.push((index, Wait::Lookup)),
            Ok(_) if ahead.is_some() => {
                picked.waits.extend(ahead.map(|run| (index, Wait::Group(run.clone()))));
            }
            Ok((pool, _)) => {
                let terms = scene.terms.get(index).copied().unwrap_or_default();
                contenders.push(Contender { index, step, pool, terms });
            }
        }
    }
    let shares = Shares::new(scene.now, &scene.policy, &scene.usage, &scene.used);
    let mut round =
        Round { pools: &scene.pools, used: scene.used.clone(), full: BTreeSet::new(), turn_waits: false };
    for index in fair::order(&contenders, shares, scene.now, &scene.policy) {
        match round.place(index, &scene.ready[index], scene.now) {
            Ok(place) => picked.places.push(place),
            Err(wait) => picked.waits.push((index, wait)),
        }
    }
    picked
}

/// What is left of the pools while places are given.
struct Round<'a> {
    pools: &'a BTreeMap<String, PoolConfig>,
    used: BTreeMap<String, PoolUse>,
    full: BTreeSet<String>,
    turn_waits: bool,
}

impl Round<'_> {
    fn is_local(&self, pool: &str) -> bool {
        self.pools.get(pool).is_none_or(|pool| pool.executor == LOCAL)
    }

    fn place(&mut self, index: usize, step: &ReadyStep, now: Millis) -> Result<Place, Wait> {
        let Ok((name, pool)) = pool_of(step, self.pools) else { return Err(Wait::Lookup) };
        let owned = || name.to_owned();
        let wanted = fair::gpus(step);
        if self.full.contains(name) {
            return Err(Wait::Room { pool: owned() });
        }
        if self.turn_waits && self.is_local(name) {
            return Err(Wait::Turn { pool: owned() });
        }
        if let Some(limit) = self.over_quota(step, name, pool, wanted) {
            return Err(Wait::Quota { pool: owned(), limit });
        }
        let other_kind =
            |pool: &PoolUse| (if step.trusted { pool.untrusted } else { pool.attempts - pool.untrusted }) > 0;
        if self.is_local(name) && self.used.iter().any(|(name, pool)| self.is_local(name) && other_kind(pool))
        {
            self.turn_waits = true;
            return Err(Wait::Turn { pool: owned() });
        }
        let used = self.used.entry(owned()).or_default();
        let all = 0..pool.gpu_limit().unwrap_or(u32::MAX);
        let gpus: Vec<u32> = all.filter(|gpu| !used.gpus.contains(gpu)).take(wanted as usize).collect();
        let pods = step.spec.workers.max(1);
        let places = used.attempts + i64::from(pods);
        let full = pool.slot_limit().is_some_and(|slots| places > i64::from(slots));
        if full || gpus.len() < wanted as usize {
            self.full.insert(owned());
            return Err(Wait::Room { pool: owned() });
        }
        used.attempts = places;
        used.untrusted += if step.trusted { 0 } else { i64::from(pods) };
        used.gpus.extend(&gpus);
        used.open.push(OpenAttempt {
            repo_id: step.repo_id.clone(),
            run_id: step.run_id.clone(),
            pipeline: step.pipeline.clone(),
            step: step.spec.name.clone(),
            since_ms: now,
            started_ms: None,
            gpus: wanted,
            pods,
        });
        Ok(Place { ready: index, pool: owned(), executor: pool.executor.clone(), gpus })
    }

    /// The limit that one more step of this repository would break.
    fn over_quota(&self, step: &ReadyStep, name: &str, pool: &PoolConfig, wanted: u32) -> Option<String> {
        let open = self.used.get(name).map(|used| used.open.as_slice()).unwrap_or_default();
        let own = || open.iter().filter(|open| open.repo_id == step.repo_id);
        let places = own().fold(step.spec.workers.max(1), |sum, open| sum.saturating_add(open.pods));
        if let Some(slots) = pool.repository_slots.filter(|slots| places > *slots) {
            return Some(format!("{slots} at once"));
        }
        let held: u32 = own().map(|open| open.gpus).sum();
        let gpus = pool.repository_gpus.filter(|gpus| wanted > 0 && held.saturating_add(wanted) > *gpus)?;
        Some(format!("{gpus} GPUs at once"))
    }
}

/// The pool a step belongs to, or why none can ever hold it.
pub fn pool_of<'p>(
    step: &ReadyStep,
    pools: &'p BTreeMap<String, PoolConfig>,
) -> Result<(&'p str, &'p PoolConfig), String> {
    let named = step.spec.pool.as_deref();
    let (name, pool) = Config::pool_of(pools, named).ok_or_else(|| {
        let known = pools.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match named {
            Some(name) => format!("there is no pool `{name}` here; the pools are {known}: name one of them in `pool`"),
            None => format!("the step names no pool and there is no pool `default`; the pools are {known}: name one in `pool`, of the step or of `defaults`"),
        }
    })?;
    if !step.trusted && !pool.untrusted {
        return Err(format!(
            "pool `{name}` takes no steps of untrusted runs: name another in `pool`, or have an administrator set its `untrusted`"
        ));
    }
    let wanted = fair::gpus(step);
    if let Some(has) = pool.gpu_limit().filter(|has| wanted > *has) {
        let has = if has == 0 { "none".to_owned() } else { has.to_string() };
        return Err(format!(
            "the step asks for {wanted} GPUs and pool `{name}` has {has}: ask for fewer, or name another `pool`"
        ));
    }
    if let Some(most) = pool.repository_gpus.filter(|most| wanted > *most) {
        return Err(format!(
            "the step asks for {wanted} GPUs and pool `{name}` gives one repository {most} at once: ask for fewer, or name another `pool`"
        ));
    }
    if pool.slot_limit() == Some(0) {
        return Err(format!(
            "pool `{name}` is closed: name another in `pool`, or have an administrator give it `slots`"
        ));
    }
    let pods = step.spec.workers.max(1);
    let most = [pool.slot_limit(), pool.repository_slots].into_iter().flatten().min();
    if let Some(most) = most.filter(|most| pods > *most) {
        return Err(format!(
            "the step asks for {pods} pods and pool `{name}` has {most} places for it: ask for fewer, or name another `pool`"
        ));
    }
    Ok((name, pool))
}

fn on_local(step: &ReadyStep, pools: &BTreeMap<String, PoolConfig>) -> bool {
    pool_of(step, pools).is_ok_and(|(_, pool)| pool.executor == LOCAL)
}

/// Looks at all pools at once.
#[derive(Debug)]
pub struct Scheduler {
    store: Store,
    clock: SharedClock,
    config: Arc<Config>,
    instance: Arc<Instance>,
}

impl Scheduler {
    pub fn new(store: Store, clock: SharedClock, config: Arc<Config>, instance: Arc<Instance>) -> Self {
        Self { store, clock, config, instance }
    }

    /// A step that can never run ends here, with a sentence; its run decides the rest.
    async fn refuse(&self, step: &ReadyStep, why: String) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        let Some(run) = self.store.run(&step.run_id).await.context("cannot read a run")? else {
            return Ok(());
        };
        let change = RunChange {
            run: step.run_id.clone(),
            epoch: run.epoch,
            to: None,
            steps: vec![StepMove {
                step: step.step_id.clone(),
                to: StepState::Errored,
                reason: why,
                outputs: None,
            }],
            attempts: Vec::new(),
            asks: vec![
                WorkAsk::run(&step.run_id, now),
                WorkAsk::report_commit(&run.repo_id, &run.head_sha, now),
            ],
        };
        failpoint::hit("schedule.refuse.before");
        if self.store.apply(change, now).await.context("cannot refuse a step")? == Applied::Stale {
            self.store
                .ask(vec![WorkAsk::schedule(now)], now)
                .await
                .context("cannot ask for another look at the pools")?;
        }
        failpoint::hit("schedule.refuse.after");
        Ok(())
    }

    /// Other machines may have local places for what found none here.
    async fn ask_the_others(&self, now: Millis) -> anyhow::Result<()> {
        let daemons = self.store.daemons().await.context("cannot read which daemons live")?;
        let others = daemons.iter().filter(|d| d.is_live(now) && d.machine != self.store.machine());
        let asks = others.map(|daemon| WorkAsk::schedule_at(&daemon.machine, now)).collect();
        self.store.ask(asks, now).await.context("cannot ask the other machines")
    }
}

#[async_trait]
impl Handler for Scheduler {
    fn kind(&self) -> WorkKind {
        WorkKind::Schedule
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        let now = self.clock.now_ms();
        let mut scene = Scene::read(&self.store, &self.config, now).await.context("cannot read the queue")?;
        // Only a machine's own daemon gives away the places of its local pools, in one look at a time.
        let ours_only = item.key.contains('@');
        if ours_only {
            let pools = scene.pools.clone();
            scene.keep(|step| on_local(step, &pools));
        }
        let picked = pick(&scene);
        let ready = &scene.ready;
        for (index, why) in picked.refused {
            self.refuse(&ready[index], why).await?;
        }
        let left = picked.waits.iter().any(|(index, _)| on_local(&ready[*index], &scene.pools));
        if left && !ours_only && !self.store.is_alone() {
            self.ask_the_others(now).await?;
        }
        let placements: Vec<Placement> = picked
            .places
            .into_iter()
            .map(|place| {
                let step = &ready[place.ready];
                let uid = AttemptUid::generate(now);
                Placement {
                    bootstrap_hash: bootstrap_hash(&bootstrap_token(&self.instance, &uid)),
                    uid,
                    run_id: step.run_id.clone(),
                    step_id: step.step_id.clone(),
                    number: step.number,
                    machine: if place.executor == LOCAL {
                        self.store.machine().to_owned()
                    } else {
                        String::new()
                    },
                    executor: place.executor,
                    pool: place.pool,
                    gpus: place.gpus,
                    ranks: step.spec.workers.max(1),
                }
            })
            .collect();
        if !placements.is_empty() {
            failpoint::hit("schedule.place.before");
            self.store.place_under(item, placements, now).await.context("cannot place steps")?;
            failpoint::hit("schedule.place.after");
        }
        Ok(WorkOutcome::Done)
    }
}
