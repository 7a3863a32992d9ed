//! Runs and steps: insert, read, and the one guarded way to move them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::attempts::{AttemptMove, AttemptRow, attempt_has_ended, attempts_of_run, move_attempt_in};
use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{Plan, RepoId, RunId, RunState, Sha, StepId, StepState};

/// A run to insert, with its steps. Its generation is part of its identity.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub id: RunId,
    pub repo_id: RepoId,
    pub pipeline: String,
    pub head_sha: Sha,
    /// `head`, `queue:<ref>`, `cron:<ms>`, `manual:<uuid>`, `event:<id>`.
    pub trigger_key: String,
    pub generation: i64,
    pub branch: String,
    /// First line of the head commit's message.
    pub message: String,
    pub actor: String,
    pub trusted: bool,
    /// `Queued`, `Held`, or a terminal state when it ends before it began (`Errored`, `Skipped`).
    pub state: RunState,
    pub reason: String,
    pub plan: Plan,
    /// Run-level environment (`CI_REF`, …); the same for every delivery that could have made this run.
    pub variables: BTreeMap<String, String>,
    /// Resolved concurrency group, prefixed by the repository's id.
    pub concurrency: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    pub id: RunId,
    pub repo_id: RepoId,
    pub pipeline: String,
    pub head_sha: Sha,
    pub trigger_key: String,
    pub generation: i64,
    pub branch: String,
    pub message: String,
    pub actor: String,
    pub trusted: bool,
    pub state: RunState,
    pub reason: String,
    /// Grows with each change of the run; a change that was decided on an older one is refused.
    pub epoch: i64,
    pub plan: Plan,
    pub plan_digest: String,
    pub variables: BTreeMap<String, String>,
    pub concurrency: Option<String>,
    /// Why it should stop, when someone asked for that.
    pub cancel_request: Option<String>,
    pub created_ms: Millis,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    pub id: StepId,
    pub run_id: RunId,
    /// Index into the plan's steps.
    pub position: i64,
    pub name: String,
    pub state: StepState,
    pub reason: String,
    pub epoch: i64,
    pub outputs: BTreeMap<String, String>,
    pub ready_ms: Option<Millis>,
    pub started_ms: Option<Millis>,
    pub ended_ms: Option<Millis>,
}

/// A run with all that hangs on it: what `run::next` decides from.
#[derive(Debug, Clone)]
pub struct RunView {
    pub run: RunRow,
    /// By position.
    pub steps: Vec<StepRow>,
    /// By (step position, number).
    pub attempts: Vec<AttemptRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepMove {
    pub step: StepId,
    pub to: StepState,
    pub reason: String,
    /// Set when the step ends well.
    pub outputs: Option<BTreeMap<String, String>>,
}

/// All that one decision changes in a run, committed in one transaction or not at all.
#[derive(Debug, Clone)]
pub struct RunChange {
    pub run: RunId,
    /// The epoch that the decision was made on.
    pub epoch: i64,
    pub to: Option<(RunState, String)>,
    pub steps: Vec<StepMove>,
    pub attempts: Vec<AttemptMove>,
    pub asks: Vec<WorkAsk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The run changed meanwhile or is terminal: nothing was written, decide again.
    Stale,
}

/// The run states that are written once (G6), as SQL. A test holds it against the model.
macro_rules! ended_run {
    () => {
        "('succeeded', 'failed', 'errored', 'cancelled', 'superseded', 'skipped')"
    };
}
pub(super) use ended_run;

/// The same for steps.
macro_rules! ended_step {
    () => {
        "('succeeded', 'failed', 'errored', 'cancelled', 'skipped', 'reused')"
    };
}

/// Selects whole runs, as `r`; more columns may stand first, in parentheses.
macro_rules! select_run {
    (($more:literal), $($rest:expr),+) => {
        $crate::store::runs::select_run!(@ $more, $($rest),+)
    };
    (@ $more:literal, $($rest:expr),+) => {
        concat!(
            "SELECT r.id, r.repo_id, r.pipeline, r.head_sha, r.trigger_key, r.generation, r.branch, r.message, r.actor, r.trusted,
               r.state, r.reason, r.epoch, r.plan, r.plan_digest, r.variables, r.concurrency, r.cancel_request, r.created_ms,
               r.started_ms, r.ended_ms",
            $more,
            " FROM runs r ",
            $($rest),+
        )
    };
    ($($rest:expr),+) => {
        $crate::store::runs::select_run!(@ "", $($rest),+)
    };
}
pub(super) use select_run;

macro_rules! select_step {
    ($rest:literal) => {
        concat!(
            "SELECT id, run_id, position, name, state, reason, epoch, outputs, ready_ms, started_ms, ended_ms FROM steps ",
            $rest
        )
    };
}

impl RunRow {
    pub(super) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            repo_id: row.get("repo_id")?,
            pipeline: row.get("pipeline")?,
            head_sha: row.get("head_sha")?,
            trigger_key: row.get("trigger_key")?,
            generation: row.get("generation")?,
            branch: row.get("branch")?,
            message: row.get("message")?,
            actor: row.get("actor")?,
            trusted: row.get("trusted")?,
            state: row.word("state")?,
            reason: row.get("reason")?,
            epoch: row.get("epoch")?,
            plan: row.json("plan")?,
            plan_digest: row.get("plan_digest")?,
            variables: row.json("variables")?,
            concurrency: row.get("concurrency")?,
            cancel_request: row.get("cancel_request")?,
            created_ms: row.get("created_ms")?,
            started_ms: row.get("started_ms")?,
            ended_ms: row.get("ended_ms")?,
        })
    }
}

impl StepRow {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            run_id: row.get("run_id")?,
            position: row.get("position")?,
            name: row.get("name")?,
            state: row.word("state")?,
            reason: row.get("reason")?,
            epoch: row.get("epoch")?,
            outputs: row.json("outputs")?,
            ready_ms: row.get("ready_ms")?,
            started_ms: row.get("started_ms")?,
            ended_ms: row.get("ended_ms")?,
        })
    }
}

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

/// Ends a held run in favour of its trusted twin. A run that is not held is left alone.
pub(super) async fn supersede_held(
    tx: &mut Conn,
    run: &RunId,
    why: &str,
    now: Millis,
) -> Result<(), StoreError> {
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
    Ok(())
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
    let from: Option<StepState> = one!(
        tx,
        |row| row.word("state"),
        "SELECT state FROM steps WHERE id = $1 AND run_id = $2",
        &step.step,
        run
    )?;
    let from = from.ok_or_else(|| StoreError::Refused(format!("run {run} has no step {}", step.step)))?;
    if from == step.to {
        return Ok(());
    }
    if !from.next().contains(&step.to) {
        return Err(illegal("step", step.step.as_str(), &from, &step.to));
    }
    execute!(
        tx,
        concat!(
            "UPDATE steps SET state = $2, reason = $3, epoch = epoch + 1, outputs = COALESCE($4, outputs),
               ready_ms = COALESCE($5, ready_ms), started_ms = COALESCE(started_ms, $6), ended_ms = $7
             WHERE id = $1 AND state NOT IN ",
            ended_step!()
        ),
        &step.step,
        step.to.word(),
        &step.reason,
        step.outputs.as_ref().map(to_json).transpose()?,
        (step.to == StepState::Ready).then_some(now),
        (step.to == StepState::Running).then_some(now),
        step.to.is_terminal().then_some(now)
    )?;
    Ok(())
}

impl Store {
    pub async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, RunRow::read, select_run!("WHERE r.id = $1"), id)
    }

    /// The run, its steps and their attempts as of one moment.
    pub async fn run_view(&self, id: &RunId) -> Result<Option<RunView>, StoreError> {
        let id = id.clone();
        self.snapshot(move |tx| {
            Box::pin(async move {
                let Some(run) = one!(tx, RunRow::read, select_run!("WHERE r.id = $1"), &id)? else {
                    return Ok(None);
                };
                let steps =
                    all!(tx, StepRow::read, select_step!("WHERE run_id = $1 ORDER BY position"), &id)?;
                let attempts = attempts_of_run(tx, &id).await?;
                Ok(Some(RunView { run, steps, attempts }))
            })
        })
        .await
    }

    /// Commits a decision about a run, unless the run changed or one of the attempts it moves ended since it was read.
    ///
    /// # Errors
    /// `Refused` when a move is not in the model's table: then nothing is written.
    pub async fn apply(&self, change: RunChange, now: Millis) -> Result<Applied, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                // First the guard: it also takes the run's row lock, so that the rest is decided by one writer.
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
                // An agent's last word does not wait for the run: a decision made without it is made again.
                for attempt in &change.attempts {
                    if attempt_has_ended(tx, &attempt.uid).await? {
                        return Ok(Applied::Stale);
                    }
                }
                for step in &change.steps {
                    move_step(tx, &change.run, step, now).await?;
                }
                let mut asks = change.asks;
                for attempt in &change.attempts {
                    if let Some(ended) = move_attempt_in(tx, attempt, now).await?.and_then(|moved| moved.room)
                    {
                        asks.push(ended);
                    }
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
                ask_in(tx, &[WorkAsk::run(&id, now)], now).await?;
                Ok(Ok(()))
            })
        })
        .await
    }

    /// Open (not terminal) runs of a concurrency group, oldest first.
    pub async fn open_runs_in_group(&self, group: &str) -> Result<Vec<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            RunRow::read,
            select_run!(
                "WHERE r.concurrency = $1 AND r.state NOT IN ",
                ended_run!(),
                " ORDER BY r.created_ms, r.id"
            ),
            group
        )
    }

    /// Every run that is not terminal: asked for once at start-up.
    pub async fn open_runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| row.get("id"),
            concat!("SELECT id FROM runs WHERE state NOT IN ", ended_run!(), " ORDER BY created_ms, id")
        )
    }

    /// The newest generation of the run of this pipeline and sha with trigger `head`, if any.
    pub async fn head_run(
        &self,
        repo: &RepoId,
        pipeline: &str,
        sha: &Sha,
    ) -> Result<Option<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            RunRow::read,
            select_run!(
                "WHERE r.repo_id = $1 AND r.head_sha = $2 AND r.pipeline = $3 AND r.trigger_key = 'head'
                 ORDER BY r.generation DESC LIMIT 1"
            ),
            repo,
            sha,
            pipeline
        )
    }

    /// Every head run of a sha, newest generation of each pipeline.
    pub async fn head_runs(&self, repo: &RepoId, sha: &Sha) -> Result<Vec<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            RunRow::read,
            select_run!(
                "WHERE r.repo_id = $1 AND r.head_sha = $2 AND r.trigger_key = 'head'
                   AND NOT EXISTS (SELECT 1 FROM runs n WHERE n.repo_id = r.repo_id AND n.head_sha = r.head_sha
                     AND n.pipeline = r.pipeline AND n.trigger_key = 'head' AND n.generation > r.generation)
                 ORDER BY r.pipeline"
            ),
            repo,
            sha
        )
    }

    /// Runs are found by their id or by its first eight or more characters, as long as only one run begins so.
    pub async fn find_run(&self, text: &str) -> Result<Option<RunId>, StoreError> {
        let text = text.trim().to_ascii_lowercase();
        if text.len() < 8 || !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Ok(None);
        }
        let mut conn = self.read().await?;
        let mut found: Vec<RunId> = all!(
            conn,
            |row| row.get("id"),
            "SELECT id FROM runs WHERE id LIKE $1 ORDER BY id LIMIT 2",
            text + "%"
        )?;
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    pub async fn step(&self, id: &StepId) -> Result<Option<StepRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, StepRow::read, select_step!("WHERE id = $1"), id)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{RunState, StepState};

    fn sql(words: impl Iterator<Item = &'static str>) -> String {
        format!("('{}')", words.collect::<Vec<_>>().join("', '"))
    }

    #[test]
    fn the_guards_in_sql_are_the_terminal_states_of_the_model() {
        assert_eq!(ended_run!(), sql(RunState::ALL.iter().filter(|s| s.is_terminal()).map(|s| s.word())));
        assert_eq!(ended_step!(), sql(StepState::ALL.iter().filter(|s| s.is_terminal()).map(|s| s.word())));
    }
}
