//! What waits for a place, what holds places, and what was held before: all that the order of the queue is decided from.

use std::collections::BTreeMap;

use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::runs::group_busy;
use super::{Store, StoreError, dialect};
use crate::clock::Millis;
use crate::model::{AttemptUid, Plan, RepoId, RepoName, RunId, StepId, StepSpec};

/// A ready step with what scheduling needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadyStep {
    pub run_id: RunId,
    pub step_id: StepId,
    pub position: i64,
    /// Number of its next attempt.
    pub number: i64,
    pub ready_ms: Millis,
    pub run_created_ms: Millis,
    pub spec: StepSpec,
    pub trusted: bool,
    pub repo_id: RepoId,
    pub forge: String,
    pub repo: RepoName,
    pub pipeline: String,
    /// The class that the default branch's file names for this pipeline.
    pub priority: Option<String>,
    /// Its run's concurrency group.
    pub group: Option<String>,
    /// Another run of that group which has begun, as long as its own has not.
    pub ahead: Option<RunId>,
    /// Somebody still looks for an equal step.
    pub looking: bool,
}

/// A ready step as its row has it: what it does lies in its run's plan.
struct ReadyRow {
    run_id: RunId,
    step_id: StepId,
    position: i64,
    number: i64,
    ready_ms: Millis,
    run_created_ms: Millis,
    trusted: bool,
    repo_id: RepoId,
    forge: String,
    repo: RepoName,
    pipeline: String,
    priority: Option<String>,
    group: Option<String>,
    ahead: Option<RunId>,
    looked_up: bool,
}

impl ReadyRow {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            run_id: row.get("run_id")?,
            step_id: row.get("id")?,
            position: row.get("position")?,
            number: row.get("number")?,
            ready_ms: row.get::<Option<Millis>>("ready_ms")?.unwrap_or_default(),
            run_created_ms: row.get("created_ms")?,
            trusted: row.get("trusted")?,
            repo_id: row.get("repo_id")?,
            forge: row.get("forge")?,
            repo: row.get("repo_name")?,
            pipeline: row.get("pipeline")?,
            priority: row.get("priority")?,
            group: row.get("concurrency")?,
            ahead: row.get("ahead")?,
            looked_up: row.get::<Option<String>>("reuse_key")?.is_some(),
        })
    }

    fn with(self, plan: &Plan) -> Result<ReadyStep, StoreError> {
        let spec = usize::try_from(self.position).ok().and_then(|at| plan.steps.get(at));
        let spec = spec.cloned().ok_or_else(|| StoreError::Inconsistent {
            what: "a step".into(),
            why: format!("its plan has no step {}", self.position),
        })?;
        Ok(ReadyStep {
            run_id: self.run_id,
            step_id: self.step_id,
            position: self.position,
            number: self.number,
            ready_ms: self.ready_ms,
            run_created_ms: self.run_created_ms,
            trusted: self.trusted,
            repo_id: self.repo_id,
            forge: self.forge,
            repo: self.repo,
            pipeline: self.pipeline,
            priority: self.priority,
            group: self.group,
            ahead: self.ahead,
            looking: spec.reuse.on && !self.looked_up,
            spec,
        })
    }
}

/// The plans of a list of runs.
macro_rules! plans {
    ($list:literal) => {
        concat!("SELECT id, plan FROM runs WHERE id IN (SELECT value FROM ", $list, ")")
    };
}

/// What runs on a pool now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Places that are taken: one for each pod of an attempt.
    pub attempts: i64,
    /// How many of them are of untrusted runs.
    pub untrusted: i64,
    pub gpus: Vec<u32>,
    pub open: Vec<OpenAttempt>,
}

/// One attempt that holds a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAttempt {
    pub repo_id: RepoId,
    pub run_id: RunId,
    pub pipeline: String,
    pub step: String,
    /// When it got its place.
    pub since_ms: Millis,
    /// None: its pods wait for their own.
    pub started_ms: Option<Millis>,
    pub gpus: u32,
    pub pods: u32,
}

/// How long a repository held places of a pool; see the table of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    pub repo_id: RepoId,
    pub pool: String,
    pub bucket_ms: Millis,
    pub used_ms: i64,
}

/// Which earlier steps a duration is asked of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepName {
    pub repo_id: RepoId,
    pub pipeline: String,
    pub step: String,
}

/// An attempt's wait for its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartWait {
    pub pool: String,
    /// The executor's sentence.
    pub why: String,
    /// Its submit.
    pub since_ms: Millis,
}

/// A wait of an attempt for its start that forges are not told of: most are over by then.
pub const PATIENCE_MS: Millis = 15_000;
/// Width of a bucket of `pool_usage`.
const BUCKET_MS: Millis = 15 * 60_000;

/// Notes what an attempt that ends now has used.
pub(super) async fn charge(tx: &mut Conn, uid: &AttemptUid, now: Millis) -> Result<(), StoreError> {
    let row: Option<(RepoId, String, Vec<u32>, Millis, Option<Millis>)> = one!(
        tx,
        |row| Ok((
            row.get("repo_id")?,
            row.get("pool")?,
            row.json("gpus")?,
            row.get("intended_ms")?,
            row.get("started_ms")?
        )),
        "SELECT r.repo_id, a.pool, a.gpus, a.intended_ms, a.started_ms FROM attempts a JOIN runs r ON r.id = a.run_id WHERE a.uid = $1",
        uid
    )?;
    let Some((repo, pool, gpus, since, started)) = row else { return Ok(()) };
    let gpu_ms = started.map_or(0, |at| (now - at).max(0)).saturating_mul(gpus.len() as i64);
    let used = (now - since).max(0).saturating_mul(gpus.len().max(1) as i64);
    add_usage(tx, &repo, &pool, used, gpu_ms, now).await
}

/// Adds to what a repository used of a pool.
pub(super) async fn add_usage(
    tx: &mut Conn,
    repo: &RepoId,
    pool: &str,
    used_ms: i64,
    gpu_ms: i64,
    now: Millis,
) -> Result<(), StoreError> {
    execute!(
        tx,
        "INSERT INTO pool_usage (repo_id, pool, bucket_ms, used_ms, gpu_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (repo_id, pool, bucket_ms) DO UPDATE SET used_ms = pool_usage.used_ms + excluded.used_ms,
           gpu_ms = pool_usage.gpu_ms + excluded.gpu_ms",
        repo,
        pool,
        now - now.rem_euclid(BUCKET_MS),
        used_ms,
        gpu_ms
    )?;
    Ok(())
}

impl Store {
    /// Ready steps of runs that are queued or running and not asked to stop, oldest run first, then position.
    pub async fn ready_steps(&self) -> Result<Vec<ReadyStep>, StoreError> {
        let mut conn = self.read().await?;
        let rows: Vec<ReadyRow> = all!(
            conn,
            ReadyRow::read,
            concat!(
                "SELECT s.run_id, s.id, s.position, s.ready_ms, s.reuse_key, r.created_ms, r.trusted, r.repo_id, r.pipeline,
               r.concurrency, p.forge, p.name AS repo_name,
               (SELECT l.priority FROM pipelines l WHERE l.repo_id = r.repo_id AND l.name = r.pipeline) AS priority,
               CASE r.state WHEN 'queued' THEN
                 (SELECT MIN(o.id) FROM runs o WHERE o.concurrency = r.concurrency AND o.id <> r.id AND ",
                group_busy!(),
                ") END AS ahead,
               (SELECT COALESCE(MAX(a.number), 0) + 1 FROM attempts a WHERE a.step_id = s.id) AS number
             FROM steps s JOIN runs r ON r.id = s.run_id JOIN repos p ON p.id = r.repo_id
             WHERE r.state IN ('queued', 'running') AND r.cancel_request IS NULL AND s.state = 'ready'
             ORDER BY r.created_ms, r.id, s.position"
            )
        )?;
        // A plan is as long as its run has steps, and never changes: each is read once, not for each of its ready steps.
        let mut runs: Vec<&RunId> = rows.iter().map(|row| &row.run_id).collect();
        runs.dedup();
        let list = to_json(&runs)?;
        let sql =
            dialect::by_engine(&conn, plans!("json_each($1)"), plans!("json_array_elements_text($1::json)"));
        let plans: Vec<(RunId, Plan)> =
            all!(conn, |row| Ok((row.get("id")?, row.json("plan")?)), sql, &list)?;
        let plans: BTreeMap<RunId, Plan> = plans.into_iter().collect();
        // A run that was deleted between the two reads has no ready steps any more.
        let found = |row: ReadyRow| plans.get(&row.run_id).map(|plan| row.with(plan));
        rows.into_iter().filter_map(found).collect()
    }

    /// Attempts that hold a place, by pool, as far as they take room from what this handle's machine may place: those that every
    /// daemon reaches, and its own. A local place is held until nothing of its attempt is left: its processes share the machine, and
    /// a user, with what comes next.
    pub async fn pool_use(&self) -> Result<BTreeMap<String, PoolUse>, StoreError> {
        let mut conn = self.read().await?;
        let open: Vec<(String, Vec<u32>, bool, OpenAttempt)> = all!(
            conn,
            |row| {
                let gpus: Vec<u32> = row.json("gpus")?;
                let open = OpenAttempt {
                    repo_id: row.get("repo_id")?,
                    run_id: row.get("run_id")?,
                    pipeline: row.get("pipeline")?,
                    step: row.get("step")?,
                    since_ms: row.get("intended_ms")?,
                    started_ms: row.get("started_ms")?,
                    gpus: gpus.len() as u32,
                    pods: row.get::<i64>("ranks")?.try_into().unwrap_or(1),
                };
                Ok((row.get("pool")?, gpus, row.get("trusted")?, open))
            },
            "SELECT a.pool, a.gpus, a.ranks, a.intended_ms, a.started_ms, a.run_id, r.trusted, r.repo_id, r.pipeline, s.name AS step
             FROM attempts a JOIN runs r ON r.id = a.run_id JOIN steps s ON s.id = a.step_id
             WHERE a.removed_ms IS NULL AND (a.state <> 'ended' OR a.executor = 'local') AND a.machine IN ('', $1)
             ORDER BY a.intended_ms, a.uid",
            &*self.machine
        )?;
        let mut pools = BTreeMap::<String, PoolUse>::new();
        for (pool, gpus, trusted, open) in open {
            let used = pools.entry(pool).or_default();
            let pods = i64::from(open.pods);
            used.attempts += pods;
            used.untrusted += if trusted { 0 } else { pods };
            used.gpus.extend(gpus);
            used.open.push(open);
        }
        Ok(pools)
    }

    /// What a run waits for: its first attempt that has not started, unless another of its attempts is at work.
    pub async fn run_waits(&self, run: &RunId) -> Result<Option<StartWait>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            |row| {
                let (pool, why, since_ms) = (row.get("pool")?, row.get("reason")?, row.get("submitted_ms")?);
                Ok(StartWait { pool, why, since_ms })
            },
            "SELECT a.pool, a.reason, a.submitted_ms FROM attempts a
             WHERE a.run_id = $1 AND a.state = 'pending' AND a.reason <> '' AND a.submitted_ms IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM attempts b WHERE b.run_id = $1 AND b.state IN ('running', 'finishing'))
             ORDER BY a.submitted_ms, a.uid LIMIT 1",
            run
        )
    }

    /// What ended attempts used of pools from `since` on.
    pub async fn pool_usage(&self, since: Millis) -> Result<Vec<PoolUsage>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok(PoolUsage {
                repo_id: row.get("repo_id")?,
                pool: row.get("pool")?,
                bucket_ms: row.get("bucket_ms")?,
                used_ms: row.get("used_ms")?,
            }),
            "SELECT repo_id, pool, bucket_ms, used_ms FROM pool_usage WHERE bucket_ms >= $1 ORDER BY repo_id, pool, bucket_ms",
            since
        )
    }

    /// GPU time of a repository's attempts that ended in this time, to a quarter of an hour.
    pub async fn gpu_used_ms(&self, repo: &RepoId, since: Millis, until: Millis) -> Result<i64, StoreError> {
        let mut conn = self.read().await?;
        let used = one!(
            conn,
            |row| row.get("used"),
            "SELECT CAST(COALESCE(SUM(gpu_ms), 0) AS BIGINT) AS used FROM pool_usage
             WHERE repo_id = $1 AND bucket_ms >= $2 AND bucket_ms <= $3",
            repo,
            since,
            until
        )?;
        Ok(used.unwrap_or(0))
    }

    /// How long the last `limit` good ends of a step took from place to end, newest first.
    pub async fn step_durations(&self, step: &StepName, limit: i64) -> Result<Vec<i64>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| row.get("took_ms"),
            "SELECT s.ended_ms - s.started_ms AS took_ms FROM steps s JOIN runs r ON r.id = s.run_id
             WHERE s.name = $3 AND s.state = 'succeeded' AND s.started_ms IS NOT NULL AND s.ended_ms IS NOT NULL
               AND r.repo_id = $1 AND r.pipeline = $2
             ORDER BY s.id DESC LIMIT $4",
            &step.repo_id,
            &step.pipeline,
            &step.step,
            limit
        )
    }
}
