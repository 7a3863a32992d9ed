//! The guarded ways to change runs and steps. A state is moved only as the model's table allows, never out of a terminal
//! state (G6), and never by a decision that was made on an older row.

use sha2::{Digest, Sha256};

use super::attempts::{hold_attempt, move_attempt_in};
use super::conn::{Conn, Fields, execute, one, to_json};
use super::runs::{Applied, NewRun, RunChange, RunRow, StepMove, ended_run, ended_step, select_run};
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{RunId, RunState, Sha, StepId, StepState};

/// Inserts a run and its steps. False: its identity exists already.
pub(super) async fn insert_run(tx: &mut Conn, run: &NewRun, now: Millis) -> Result<bool, StoreError> {
    let plan = to_json(&run.plan)?;
    let ended = run.state.is_terminal().then_some(now);
    let inserted = execute!(
        tx,
        "INSERT INTO runs (id, repo_id, pipeline, head_sha, trigger_key, generation, branch, message, actor, trusted, state,
           reason, plan, plan_digest, variables, concurrency, created_ms, ended_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT (repo_id, pipeline, head_sha, trigger_key, generation) DO NOTHING",
        &run.id,
        &run.repo_id,
        &run.pipeline,
        &run.head_sha,
        &run.trigger_key,
        run.generation,
        &run.branch,
        &run.message,
        &run.actor,
        run.trusted,
        run.state.word(),
        &run.reason,
        &plan,
        hex::encode(Sha256::digest(&plan)),
        to_json(&run.variables)?,
        &run.concurrency,
        now,
        ended
    )?;
    if inserted == 0 {
        return Ok(false);
    }
    let state = if ended.is_some() { StepState::Skipped } else { StepState::Waiting };
    for (position, step) in run.plan.steps.iter().enumerate() {
        execute!(
            tx,
            "INSERT INTO steps (id, run_id, position, name, state, ended_ms) VALUES ($1, $2, $3, $4, $5, $6)",
            StepId::generate(now),
            &run.id,
            position as i64,
            &step.name,
            state.word(),
            ended
        )?;
    }
    Ok(true)
}

/// Sets `cancel_request` of an open run that has none.
pub(super) async fn request_cancel(tx: &mut Conn, run: &RunId, why: &str) -> Result<bool, StoreError> {
    let rows = execute!(
        tx,
        concat!(
            "UPDATE runs SET cancel_request = $2, epoch = epoch + 1
             WHERE id = $1 AND cancel_request IS NULL AND state NOT IN ",
            ended_run!()
        ),
        run,
        why
    )?;
    Ok(rows == 1)
}

/// Ends a held run in favour of its trusted twin. False: it is not held.
pub(super) async fn supersede_held(
    tx: &mut Conn,
    run: &RunId,
    why: &str,
    now: Millis,
) -> Result<bool, StoreError> {
    let rows = execute!(
        tx,
        "UPDATE runs SET state = 'superseded', reason = $2, ended_ms = $3, epoch = epoch + 1 WHERE id = $1 AND state = 'held'",
        run,
        why,
        now
    )?;
    if rows == 1 {
        execute!(
            tx,
            concat!(
                "UPDATE steps SET state = 'cancelled', ended_ms = $2, epoch = epoch + 1 WHERE run_id = $1 AND state NOT IN ",
                ended_step!()
            ),
            run,
            now
        )?;
    }
    Ok(rows == 1)
}

/// A move that the model's table does not have: a mistake in the code that decided it. Nothing of the change is kept.
fn illegal(what: &str, id: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display) -> StoreError {
    StoreError::Refused(format!("{what} {id} cannot go from {from} to {to}; nothing was written"))
}

async fn move_run(
    tx: &mut Conn,
    run: &RunId,
    from: RunState,
    to: RunState,
    why: &str,
    now: Millis,
) -> Result<(), StoreError> {
    if from == to {
        return Ok(());
    }
    if !from.next().contains(&to) {
        return Err(illegal("run", run.as_str(), &from, &to));
    }
    execute!(
        tx,
        concat!(
            "UPDATE runs SET state = $2, reason = $3, started_ms = COALESCE(started_ms, $4), ended_ms = $5
             WHERE id = $1 AND state NOT IN ",
            ended_run!()
        ),
        run,
        to.word(),
        why,
        (to == RunState::Running).then_some(now),
        to.is_terminal().then_some(now)
    )?;
    Ok(())
}

async fn move_step(tx: &mut Conn, run: &RunId, step: &StepMove, now: Millis) -> Result<(), StoreError> {
    let from = StepState::ALL.iter().filter(|from| from.next().contains(&step.to));
    let from: String = from.map(|from| format!("{from},")).collect();
    let moved = execute!(
        tx,
        concat!(
            "UPDATE steps SET state = $2, reason = $3, epoch = epoch + 1, outputs = COALESCE($4, outputs),
               ready_ms = COALESCE($5, ready_ms), started_ms = COALESCE(started_ms, $6), ended_ms = $7
             WHERE id = $1 AND run_id = $8 AND $9 LIKE '%,' || state || ',%' AND state NOT IN ",
            ended_step!()
        ),
        &step.step,
        step.to.word(),
        &step.reason,
        step.outputs.as_ref().map(to_json).transpose()?,
        (step.to == StepState::Ready).then_some(now),
        (step.to == StepState::Running).then_some(now),
        step.to.is_terminal().then_some(now),
        run,
        format!(",{from}")
    )?;
    if moved == 1 {
        return Ok(());
    }
    let is: Option<StepState> = one!(
        tx,
        |row| row.word("state"),
        "SELECT state FROM steps WHERE id = $1 AND run_id = $2",
        &step.step,
        run
    )?;
    match is {
        None => Err(StoreError::Refused(format!("run {run} has no step {}", step.step))),
        Some(is) if is == step.to => Ok(()),
        Some(is) => Err(illegal("step", step.step.as_str(), &is, &step.to)),
    }
}

impl Store {
    /// Commits a decision about a run, unless the run changed or one of the attempts it moves ended since it was read.
    ///
    /// # Errors
    /// `Refused` when a move is not in the model's table: then nothing is written.
    pub async fn apply(&self, change: RunChange, now: Millis) -> Result<Applied, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                // An agent's last word does not wait for the run: a decision made without it is made again.
                let mut held = Vec::new();
                for attempt in &change.attempts {
                    match hold_attempt(tx, &attempt.uid).await? {
                        Some(row) => held.push(row),
                        None => return Ok(Applied::Stale),
                    }
                }
                // The guard also takes the run's row lock, so that the rest is decided by one writer.
                let from: Option<RunState> = one!(
                    tx,
                    |row| row.word("state"),
                    concat!(
                        "UPDATE runs SET epoch = epoch + 1 WHERE id = $1 AND epoch = $2 AND state NOT IN ",
                        ended_run!(),
                        " RETURNING state"
                    ),
                    &change.run,
                    change.epoch
                )?;
                let Some(from) = from else { return Ok(Applied::Stale) };
                for step in &change.steps {
                    move_step(tx, &change.run, step, now).await?;
                }
                let mut asks = change.asks;
                for (attempt, row) in change.attempts.iter().zip(held) {
                    asks.extend(move_attempt_in(tx, row, attempt, now).await?.room);
                }
                if let Some((to, why)) = &change.to {
                    move_run(tx, &change.run, from, *to, why, now).await?;
                }
                ask_in(tx, &asks, now).await?;
                Ok(Applied::Done)
            })
        })
        .await
    }

    /// Asks a run to stop. False: it had ended, or was asked before.
    pub async fn request_cancel(&self, id: &RunId, why: &str, now: Millis) -> Result<bool, StoreError> {
        let (id, why) = (id.clone(), why.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let asked = request_cancel(tx, &id, &why).await?;
                if asked {
                    ask_in(tx, &[WorkAsk::run(&id, now)], now).await?;
                }
                Ok(asked)
            })
        })
        .await
    }

    /// Lets a held run go, bound to its sha. `Err` words say what does not fit.
    pub async fn release_run(
        &self,
        id: &RunId,
        sha: &Sha,
        actor: &str,
        now: Millis,
    ) -> Result<Result<(), String>, StoreError> {
        let (id, sha, actor) = (id.clone(), sha.clone(), actor.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let Some(run) = one!(tx, RunRow::read, select_run!("WHERE r.id = $1"), &id)? else {
                    return Ok(Err(format!("there is no run {id}")));
                };
                if run.head_sha != sha {
                    return Ok(Err(format!("run {id} is of {}, not of {sha}", run.head_sha)));
                }
                let rows = execute!(
                    tx,
                    "UPDATE runs SET state = 'queued', reason = $2, epoch = epoch + 1
                     WHERE id = $1 AND state = 'held' AND cancel_request IS NULL",
                    &id,
                    format!("released by {actor}")
                )?;
                if rows == 0 {
                    return Ok(Err(format!("run {id} is not held, it is {}", run.state)));
                }
                execute!(
                    tx,
                    "INSERT INTO releases (run_id, sha, actor, created_ms) VALUES ($1, $2, $3, $4)",
                    &id,
                    &sha,
                    &actor,
                    now
                )?;
                let told = WorkAsk::report_commit(&run.repo_id, &run.head_sha, now);
                ask_in(tx, &[WorkAsk::run(&id, now), told], now).await?;
                Ok(Ok(()))
            })
        })
        .await
    }
}
