//! Gives free places of pools to ready steps: first come, first served, by the age of their runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;

use super::{bootstrap_hash, bootstrap_token};
use crate::clock::{Millis, SharedClock};
use crate::config::{Config, PoolConfig};
use crate::failpoint;
use crate::model::{AttemptUid, StepSpec, StepState};
use crate::queue::Handler;
use crate::store::attempts::{Placement, PoolUse, ReadyStep};
use crate::store::runs::{Applied, RunChange, StepMove};
use crate::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};
use crate::store::{Instance, Store};

/// The executor whose attempts share this machine and one user.
const LOCAL: &str = "local";

/// A place found for a ready step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index into the ready steps.
    pub ready: usize,
    pub pool: String,
    pub executor: String,
    pub gpus: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picked {
    pub places: Vec<Place>,
    /// Ready steps (by index) that no pool can ever hold, and why.
    pub refused: Vec<(usize, String)>,
}

/// Decides who gets a place now. `ready` is in the order in which it is served. Within a pool nobody overtakes: a step
/// that waits for eight GPUs is not starved by small ones. Pure.
///
/// Local attempts all run as one Unix user, which can read the environment of its own processes, so on local pools trusted and
/// untrusted steps never run at the same time: the one that comes waits until those of the other kind have ended, and
/// nobody overtakes it meanwhile.
pub fn pick(
    ready: &[ReadyStep],
    used: &BTreeMap<String, PoolUse>,
    pools: &BTreeMap<String, PoolConfig>,
) -> Picked {
    let mut picked = Picked::default();
    let mut used = used.clone();
    let mut full = BTreeSet::new();
    let local = |name: &str| pools.get(name).is_none_or(|pool| pool.executor == LOCAL);
    let mut turn_waits = false;
    for (index, step) in ready.iter().enumerate() {
        let (name, pool) = match pool_of(step, pools) {
            Ok(found) => found,
            Err(why) => {
                picked.refused.push((index, why));
                continue;
            }
        };
        if full.contains(name) || (turn_waits && local(name)) {
            continue;
        }
        let other_kind = |(_, pool): (&String, &PoolUse)| {
            (if step.trusted { pool.untrusted } else { pool.attempts - pool.untrusted }) > 0
        };
        if local(name) && used.iter().filter(|(name, _)| local(name)).any(other_kind) {
            turn_waits = true;
            continue;
        }
        let now = used.entry(name.to_owned()).or_default();
        let wanted = gpus(&step.spec);
        let free: Vec<u32> = (0..pool.gpus).filter(|gpu| !now.gpus.contains(gpu)).collect();
        if now.attempts >= i64::from(pool.slots) || free.len() < wanted as usize {
            full.insert(name.to_owned());
            continue;
        }
        let gpus: Vec<u32> = free.into_iter().take(wanted as usize).collect();
        now.attempts += 1;
        now.untrusted += i64::from(!step.trusted);
        now.gpus.extend(&gpus);
        picked.places.push(Place {
            ready: index,
            pool: name.to_owned(),
            executor: pool.executor.clone(),
            gpus,
        });
    }
    picked
}

fn gpus(spec: &StepSpec) -> u32 {
    spec.resources.gpu.saturating_mul(spec.workers.max(1))
}

/// The pool a step belongs to: the one it names, else `default`, else the only one.
fn pool_of<'p>(
    step: &ReadyStep,
    pools: &'p BTreeMap<String, PoolConfig>,
) -> Result<(&'p str, &'p PoolConfig), String> {
    let known = || pools.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let found = match &step.spec.pool {
        Some(name) => pools
            .get_key_value(name)
            .ok_or_else(|| format!("there is no pool `{name}` here; the pools are {}", known()))?,
        None => pools
            .get_key_value("default")
            .or_else(|| if pools.len() == 1 { pools.first_key_value() } else { None })
            .ok_or_else(|| {
                format!("the step names no pool and there is no pool `default`; the pools are {}", known())
            })?,
    };
    let (name, pool) = (found.0.as_str(), found.1);
    if !step.trusted && !pool.untrusted {
        return Err(format!("pool `{name}` takes no steps of untrusted runs"));
    }
    let wanted = gpus(&step.spec);
    if wanted > pool.gpus {
        let has = if pool.gpus == 0 { "none".to_owned() } else { pool.gpus.to_string() };
        return Err(format!("the step asks for {wanted} GPUs and pool `{name}` has {has}"));
    }
    if pool.slots == 0 {
        return Err(format!("pool `{name}` is closed: it has no slots"));
    }
    Ok((name, pool))
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

    fn is_local(&self, step: &ReadyStep) -> bool {
        pool_of(step, &self.config.pools()).is_ok_and(|(_, pool)| pool.executor == LOCAL)
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
        let mut ready = self.store.ready_steps().await.context("cannot read the ready steps")?;
        // Only a machine's own daemon gives away the places of its local pools, in one look at a time.
        let ours_only = item.key.contains('@');
        if ours_only {
            ready.retain(|step| self.is_local(step));
        }
        let used = self.store.pool_use().await.context("cannot read what runs on the pools")?;
        let picked = pick(&ready, &used, &self.config.pools());
        for (index, why) in picked.refused {
            self.refuse(&ready[index], why).await?;
        }
        let now = self.clock.now_ms();
        let placed: BTreeSet<usize> = picked.places.iter().map(|place| place.ready).collect();
        let left = ready.iter().enumerate().any(|(at, step)| !placed.contains(&at) && self.is_local(step));
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
