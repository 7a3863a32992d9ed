//! The order in which waiting steps are served. Pure.
//!
//! First the class: a higher rank goes first. Within a class repositories share each pool by the time that they held it (GPU time;
//! the place's time for steps without a GPU), divided by their weights: whoever had least goes next. What was used decays
//! with a half-life, so nobody pays for ever. Within a repository the oldest run goes first. A step that waited longer than
//! the ageing time counts as of the highest class that waits for its pool: it then shares as everybody does, so no class
//! starves another, and a long queue of one repository never overtakes the others by its age.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, VecDeque};

use crate::clock::Millis;
use crate::config::QueueConfig;
use crate::model::RepoId;
use crate::store::queue::{PoolUsage, PoolUse, ReadyStep};

/// What a place costs at least, in milliseconds: so that places given in one round, whose use is yet to come, count.
pub const QUANTUM_MS: f64 = 60_000.0;
/// So many half-lives back nothing counts any more (less than half a percent).
pub const HALF_LIVES: i64 = 8;

/// What administrators and the default branch grant a ready step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    pub rank: i32,
    pub weight: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { rank: 0, weight: 1.0 }
    }
}

/// A ready step whose pool is known.
#[derive(Debug, Clone, Copy)]
pub struct Contender<'a> {
    /// Index into the ready steps.
    pub index: usize,
    pub step: &'a ReadyStep,
    pub pool: &'a str,
    pub terms: Terms,
}

/// How long each repository held each pool, decayed to now, with what it holds at the moment. By pool, then repository.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares(BTreeMap<String, BTreeMap<RepoId, f64>>);

impl Shares {
    pub fn new(
        now: Millis,
        policy: &QueueConfig,
        usage: &[PoolUsage],
        used: &BTreeMap<String, PoolUse>,
    ) -> Self {
        let mut shares = Self::default();
        let half_life = policy.half_life_s as f64 * 1000.0;
        for row in usage {
            let age = (now - row.bucket_ms).max(0) as f64;
            shares.add(&row.repo_id, &row.pool, row.used_ms as f64 * (-age / half_life).exp2());
        }
        for (pool, used) in used {
            for open in &used.open {
                let held = ((now - open.since_ms).max(0) as f64).max(QUANTUM_MS);
                shares.add(&open.repo_id, pool, held * f64::from(open.gpus.max(1)));
            }
        }
        shares
    }

    fn add(&mut self, repo: &RepoId, pool: &str, ms: f64) {
        *self.0.entry(pool.to_owned()).or_default().entry(repo.clone()).or_default() += ms;
    }

    /// Milliseconds of GPUs (or places) that count against a repository now.
    pub fn of(&self, repo: &RepoId, pool: &str) -> f64 {
        self.0.get(pool).and_then(|of_pool| of_pool.get(repo)).copied().unwrap_or_default()
    }
}

/// GPUs that a step holds, over all of its pods.
pub fn gpus(step: &ReadyStep) -> u32 {
    step.spec.resources.gpu.saturating_mul(step.spec.workers.max(1))
}

/// The contenders in the order in which they are served, each counted as if those before it had got a place.
pub fn order(
    contenders: &[Contender<'_>],
    mut shares: Shares,
    now: Millis,
    policy: &QueueConfig,
) -> Vec<usize> {
    let mut highest: BTreeMap<&str, i32> = BTreeMap::new();
    for c in contenders {
        let top = highest.entry(c.pool).or_insert(c.terms.rank);
        *top = c.terms.rank.max(*top);
    }
    let rank = |c: &Contender<'_>| {
        let aged = now - c.step.ready_ms >= policy.ageing_s.saturating_mul(1000);
        if aged { highest[c.pool] } else { c.terms.rank }
    };
    let age = |c: &Contender<'_>| (c.step.run_created_ms, c.step.run_id.clone(), c.step.position, c.index);
    let mut queues: BTreeMap<(&str, &RepoId), Vec<&Contender<'_>>> = BTreeMap::new();
    for c in contenders {
        queues.entry((c.pool, &c.step.repo_id)).or_default().push(c);
    }
    let mut queues: Vec<VecDeque<&Contender<'_>>> = queues
        .into_values()
        .map(|mut queue| {
            queue.sort_by_cached_key(|c| (Reverse(rank(c)), age(c)));
            queue.into()
        })
        .collect();
    let mut out = Vec::with_capacity(contenders.len());
    loop {
        let before = |a: &Contender<'_>, b: &Contender<'_>| -> Ordering {
            let share = |c: &Contender<'_>| shares.of(&c.step.repo_id, c.pool) / c.terms.weight;
            (rank(b).cmp(&rank(a)))
                .then_with(|| share(a).total_cmp(&share(b)))
                .then_with(|| age(a).cmp(&age(b)))
        };
        let best = (0..queues.len())
            .filter_map(|at| Some((at, *queues[at].front()?)))
            .min_by(|(_, a), (_, b)| before(a, b));
        let Some((at, next)) = best else { return out };
        queues[at].pop_front();
        shares.add(&next.step.repo_id, next.pool, QUANTUM_MS * f64::from(gpus(next.step).max(1)));
        out.push(next.index);
    }
}
