//! Results that stand for later ones: what a step's result depends on, finding an equal step, taking its result over, and
//! running a run again.
//!
//! A reused step has an attempt of its own that never ran, with copies of metrics and parameters and with artifacts that point
//! at the same bytes: everything that reads results reads them as the run's own.

use std::collections::BTreeMap;

use super::changes::insert_run;
use super::conn::{Conn, Fields, execute, one, to_json};
use super::queue::StepName;
use super::runs::{NewRun, RunRow, ended_run, select_run};
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{AttemptUid, Plan, RepoId, RunId, RunState, StepId, StepState};

/// Stands for a key that cannot be told.
pub const NO_KEY: &str = "-";

/// What a step's result depends on, and which step stood for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepReuse {
    /// None: nobody looked. [`NO_KEY`]: it cannot be told; `parts` says why under `why`.
    pub key: Option<String>,
    /// By component.
    pub parts: BTreeMap<String, String>,
    pub from: Option<ReusedFrom>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReusedFrom {
    pub step: StepId,
    pub run: RunId,
}

/// What a look-up came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub run: RunId,
    pub step: StepId,
    pub key: String,
    pub parts: BTreeMap<String, String>,
    /// The equal step.
    pub from: Option<StepId>,
    /// The step declares artifacts: one whose artifacts are gone cannot stand for it.
    pub artifacts: bool,
    /// Artifacts made before may be on their way out: a step with such is not taken over.
    pub fresh_since: Millis,
}

/// A run to be made once more, with its recorded plan, commit and trust.
#[derive(Debug, Clone, PartialEq)]
pub struct Rerun {
    pub run: RunId,
    pub id: RunId,
    /// Good steps are taken over; only the others run.
    pub failed: bool,
    /// The plan of the new run: the old one, perhaps with another `reuse`.
    pub plan: Plan,
    pub actor: String,
    pub fresh_since: Millis,
}

/// Copies the result of `from` into `to`, which waits or is ready. False: `from` has no good result any more, or `to` went on.
async fn take_over(
    tx: &mut Conn,
    run: &RunId,
    from: &StepId,
    to: &StepId,
    artifacts: bool,
    fresh_since: Millis,
    now: Millis,
) -> Result<bool, StoreError> {
    let source: Option<(AttemptUid, RunId, StepId)> = one!(
        tx,
        |row| Ok((row.get("uid")?, row.get("run_id")?, row.get("origin")?)),
        "SELECT a.uid, o.run_id, o.id AS origin FROM attempts a JOIN steps s ON s.id = a.step_id
           JOIN steps o ON o.id = COALESCE(s.reused_from, s.id)
         WHERE a.step_id = $1 AND a.state = 'ended' AND a.class = 'succeeded' AND s.state IN ('succeeded', 'reused')
           AND NOT EXISTS (SELECT 1 FROM artifacts f WHERE f.attempt_uid = a.uid AND f.created_ms < $2)
           AND ($3 OR EXISTS (SELECT 1 FROM artifacts f WHERE f.attempt_uid = a.uid))
         ORDER BY a.number DESC LIMIT 1",
        from,
        fresh_since,
        !artifacts
    )?;
    let Some((old, source_run, origin)) = source else { return Ok(false) };
    let short: String = source_run.as_str().chars().take(13).collect();
    let moved = execute!(
        tx,
        "UPDATE steps SET state = 'reused', reason = $2, reused_from = $3, ended_ms = $4, epoch = epoch + 1,
           outputs = (SELECT f.outputs FROM steps f WHERE f.id = $5)
         WHERE id = $1 AND state IN ('waiting', 'ready')",
        to,
        format!("reused from run {short}"),
        &origin,
        now,
        from
    )?;
    if moved == 0 {
        return Ok(false);
    }
    let new = AttemptUid::generate(now);
    execute!(
        tx,
        "INSERT INTO attempts (uid, run_id, step_id, number, state, class, executor, pool, bootstrap_hash, sealed, outputs, notes,
           metrics_seq, intended_ms, ended_ms, removed_ms)
         SELECT $1, $2, $3, (SELECT COALESCE(MAX(n.number), 0) + 1 FROM attempts n WHERE n.step_id = $3), 'ended', 'succeeded', '',
           '', '', TRUE, a.outputs, a.notes, a.metrics_seq, $5, $5, $5 FROM attempts a WHERE a.uid = $4",
        &new,
        run,
        to,
        &old,
        now
    )?;
    execute!(
        tx,
        "INSERT INTO metrics (attempt_uid, seq, run_id, step_id, name, value, nonfinite, train_step, at_ms)
         SELECT $1, m.seq, $2, $3, m.name, m.value, m.nonfinite, m.train_step, m.at_ms FROM metrics m WHERE m.attempt_uid = $4",
        &new,
        run,
        to,
        &old
    )?;
    execute!(
        tx,
        "INSERT INTO metric_last (attempt_uid, name, run_id, points, plain_value, plain_nonfinite, plain_at_ms, plain_seq,
           stepped_value, stepped_nonfinite, stepped_step, stepped_at_ms, stepped_seq)
         SELECT $1, m.name, $2, m.points, m.plain_value, m.plain_nonfinite, m.plain_at_ms, m.plain_seq, m.stepped_value,
           m.stepped_nonfinite, m.stepped_step, m.stepped_at_ms, m.stepped_seq FROM metric_last m WHERE m.attempt_uid = $3",
        &new,
        run,
        &old
    )?;
    execute!(
        tx,
        "INSERT INTO metric_sources (attempt_uid, position, run_id, kind, place, used, points, params, note)
         SELECT $1, m.position, $2, m.kind, m.place, m.used, m.points, m.params, m.note FROM metric_sources m
         WHERE m.attempt_uid = $3",
        &new,
        run,
        &old
    )?;
    execute!(
        tx,
        "INSERT INTO data_reports (attempt_uid, position, run_id, name, passed, report)
         SELECT $1, d.position, $2, d.name, d.passed, d.report FROM data_reports d WHERE d.attempt_uid = $3",
        &new,
        run,
        &old
    )?;
    execute!(
        tx,
        "INSERT INTO params (attempt_uid, name, run_id, value) SELECT $1, p.name, $2, p.value FROM params p
         WHERE p.attempt_uid = $3",
        &new,
        run,
        &old
    )?;
    execute!(
        tx,
        "INSERT INTO artifacts (attempt_uid, path, run_id, bytes, sha256, executable, blob_key, created_ms)
         SELECT $1, f.path, $2, f.bytes, f.sha256, f.executable, f.blob_key, $4 FROM artifacts f WHERE f.attempt_uid = $3",
        &new,
        run,
        &old,
        now
    )?;
    Ok(true)
}

fn reuse(row: &impl Fields) -> Result<StepReuse, StoreError> {
    let step: Option<StepId> = row.get("reused_from")?;
    let run: Option<RunId> = row.get("source_run")?;
    Ok(StepReuse {
        key: row.get("reuse_key")?,
        parts: row.json("reuse_parts")?,
        from: step.zip(run).map(|(step, run)| ReusedFrom { step, run }),
    })
}

impl Store {
    pub async fn step_reuse(&self, step: &StepId) -> Result<Option<StepReuse>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            reuse,
            "SELECT s.reuse_key, s.reuse_parts, s.reused_from, o.run_id AS source_run
             FROM steps s LEFT JOIN steps o ON o.id = s.reused_from WHERE s.id = $1",
            step
        )
    }

    /// The newest good step of a trusted run with this key. Untrusted runs are no source for anybody.
    pub async fn equal_step(&self, repo: &RepoId, key: &str) -> Result<Option<StepId>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            |row| row.get("id"),
            "SELECT s.id FROM steps s JOIN runs r ON r.id = s.run_id
             WHERE s.reuse_key = $2 AND s.reuse_key <> '-' AND s.state = 'succeeded' AND r.repo_id = $1 AND r.trusted
             ORDER BY s.id DESC LIMIT 1",
            repo,
            key
        )
    }

    /// The newest good step of that name that had ended when `step` became ready, in a trusted run, whose dependencies are known: what a step that
    /// was not reused is held against.
    pub async fn earlier_reuse(
        &self,
        name: &StepName,
        step: &StepId,
    ) -> Result<Option<(RunId, StepReuse)>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            |row| Ok((row.get("run_id")?, reuse(row)?)),
            "SELECT s.run_id, s.reuse_key, s.reuse_parts, s.reused_from, o.run_id AS source_run
             FROM steps s JOIN runs r ON r.id = s.run_id LEFT JOIN steps o ON o.id = s.reused_from
             WHERE s.name = $3 AND s.state = 'succeeded' AND s.reuse_key IS NOT NULL AND s.reuse_key <> '-' AND s.id <> $4
               AND s.ended_ms <= (SELECT t.ready_ms FROM steps t WHERE t.id = $4)
               AND r.repo_id = $1 AND r.pipeline = $2 AND r.trusted
             ORDER BY s.ended_ms DESC, s.id DESC LIMIT 1",
            &name.repo_id,
            &name.pipeline,
            &name.step,
            step
        )
    }

    /// Notes what a ready step's result depends on, and takes the equal step's result over if there is one. Then the step may
    /// get a place, or its run goes on without. True: it was taken over.
    pub async fn settle_lookup(&self, lookup: Lookup, now: Millis) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let noted = execute!(
                    tx,
                    "UPDATE steps SET reuse_key = $2, reuse_parts = $3 WHERE id = $1 AND run_id = $4 AND reuse_key IS NULL",
                    &lookup.step,
                    &lookup.key,
                    to_json(&lookup.parts)?,
                    &lookup.run
                )?;
                if noted == 0 {
                    return Ok(false);
                }
                let open = execute!(
                    tx,
                    concat!(
                        "UPDATE runs SET epoch = epoch + 1
                         WHERE id = $1 AND cancel_request IS NULL AND state <> 'held' AND state NOT IN ",
                        ended_run!()
                    ),
                    &lookup.run
                )?;
                let reused = match &lookup.from {
                    Some(from) if open == 1 => {
                        take_over(tx, &lookup.run, from, &lookup.step, lookup.artifacts, lookup.fresh_since, now).await?
                    }
                    _ => false,
                };
                ask_in(tx, &[WorkAsk::run(&lookup.run, now), WorkAsk::schedule(now)], now).await?;
                Ok(reused)
            })
        })
        .await
    }

    /// Makes the next generation of a run. `Err` words say why not.
    pub async fn rerun(&self, ask: Rerun, now: Millis) -> Result<Result<RunId, String>, StoreError> {
        self.write(move |tx| Box::pin(async move { rerun_in(tx, ask, now).await })).await
    }
}

async fn rerun_in(tx: &mut Conn, ask: Rerun, now: Millis) -> Result<Result<RunId, String>, StoreError> {
    let Some(old) = one!(tx, RunRow::read, select_run!("WHERE r.id = $1"), &ask.run)? else {
        return Ok(Err(format!("there is no run {}", ask.run)));
    };
    if !old.state.is_terminal() {
        return Ok(Err(format!("run {} is {}: wait for its end, or cancel it first", old.id, old.state)));
    }
    if ask.plan.steps.is_empty() {
        return Ok(Err(format!("run {} has no steps: push a pipeline file without errors", old.id)));
    }
    let newest: Option<(RunId, i64)> = one!(
        tx,
        |row| Ok((row.get("id")?, row.get("generation")?)),
        "SELECT id, generation FROM runs WHERE repo_id = $1 AND pipeline = $2 AND head_sha = $3 AND trigger_key = $4
         ORDER BY generation DESC LIMIT 1",
        &old.repo_id,
        &old.pipeline,
        &old.head_sha,
        &old.trigger_key
    )?;
    if let Some((newer, _)) = newest.filter(|(id, _)| *id != old.id) {
        return Ok(Err(format!("run {newer} of the same commit is newer: run that one again")));
    }
    // A release counts for the sha, so it counts for the same commit's next run.
    let released: Option<RunId> =
        one!(tx, |row| row.get("run_id"), "SELECT run_id FROM releases WHERE run_id = $1", &old.id)?;
    let state = if old.trusted || released.is_some() { RunState::Queued } else { RunState::Held };
    let new = NewRun {
        id: ask.id.clone(),
        repo_id: old.repo_id.clone(),
        pipeline: old.pipeline.clone(),
        head_sha: old.head_sha.clone(),
        trigger_key: old.trigger_key.clone(),
        generation: old.generation + 1,
        branch: old.branch.clone(),
        message: old.message.clone(),
        actor: old.actor.clone(),
        trusted: old.trusted,
        state,
        reason: format!("run again by {}", ask.actor),
        plan: ask.plan.clone(),
        variables: old.variables.clone(),
        concurrency: old.concurrency.clone(),
    };
    if !insert_run(tx, &new, now).await? {
        return Err(StoreError::Unavailable(format!(
            "run {} was run again by someone else meanwhile",
            old.id
        )));
    }
    if released.is_some() {
        execute!(
            tx,
            "INSERT INTO releases (run_id, sha, actor, created_ms) VALUES ($1, $2, $3, $4)",
            &new.id,
            &new.head_sha,
            &ask.actor,
            now
        )?;
    }
    if ask.failed && !take_over_good_steps(tx, &ask, now).await? {
        // Undone with the transaction.
        return Err(StoreError::Refused(format!(
            "every step of run {} is good: run it again as a whole",
            old.id
        )));
    }
    let asks = [
        WorkAsk::run(&new.id, now),
        WorkAsk::compare(&new.id, now),
        WorkAsk::compare(&old.id, now),
        WorkAsk::report_commit(&new.repo_id, &new.head_sha, now),
    ];
    ask_in(tx, &asks, now).await?;
    Ok(Ok(new.id))
}

/// Of the old run, in graph order. False: all of them were good.
async fn take_over_good_steps(tx: &mut Conn, ask: &Rerun, now: Millis) -> Result<bool, StoreError> {
    let mut taken: BTreeMap<&str, bool> = BTreeMap::new();
    let mut all_good = true;
    for spec in &ask.plan.steps {
        let state: Option<StepState> = one!(
            tx,
            |row| row.word("state"),
            "SELECT state FROM steps WHERE run_id = $1 AND name = $2",
            &ask.run,
            &spec.name
        )?;
        all_good &= state.is_some_and(StepState::is_good);
        let pair: Option<(StepId, StepId)> = one!(
            tx,
            |row| Ok((row.get("old")?, row.get("new")?)),
            "SELECT o.id AS old, n.id AS new FROM steps o JOIN steps n ON n.name = o.name
             WHERE o.run_id = $1 AND n.run_id = $2 AND o.name = $3 AND o.state IN ('succeeded', 'reused')",
            &ask.run,
            &ask.id,
            &spec.name
        )?;
        let needs_too = spec.needs.iter().all(|need| taken.get(need.step.as_str()) == Some(&true));
        let done = match pair {
            Some((old, new)) if needs_too => {
                take_over(tx, &ask.id, &old, &new, !spec.artifacts.is_empty(), ask.fresh_since, now).await?
            }
            _ => false,
        };
        taken.insert(&spec.name, done);
    }
    Ok(!all_good)
}
