//! Runs and steps: what they are, and reading them. They change in `changes` alone.

use std::collections::BTreeMap;

use super::attempts::{AttemptMove, AttemptRow, attempts_of_run};
use super::conn::{Fields, all, moment, one, read_all};
use super::ranks::{RankRow, ranks_of_run};
use super::work::WorkAsk;
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::plan::Need;
use crate::model::{
    AttemptRank, AttemptUid, EndClass, Plan, RepoId, RunId, RunState, Sha, StepId, StepSpec, StepState,
};

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
    /// Of attempts of several pods, by (attempt, rank).
    pub ranks: Vec<RankRow>,
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

/// Characters of a run's id that are enough to find it, unless several begin so.
pub const SHORT_ID: usize = 8;

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

/// The other ones, which an index finds.
macro_rules! open_run {
    () => {
        "('held', 'queued', 'running')"
    };
}
pub(super) use open_run;

/// Whether the run `o` has its concurrency group's turn: it runs, or a step of it was just placed.
macro_rules! group_busy {
    () => {
        "(o.state = 'running' OR (o.state = 'queued'
            AND EXISTS (SELECT 1 FROM steps t WHERE t.run_id = o.id AND t.state = 'running')))"
    };
}
pub(super) use group_busy;

/// The same for steps.
macro_rules! ended_step {
    () => {
        "('succeeded', 'failed', 'errored', 'cancelled', 'skipped', 'reused')"
    };
}
pub(super) use ended_step;

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

impl RunView {
    /// The steps that this one needs, each with the attempt whose artifacts it gets.
    pub fn producers<'a>(&self, step: &'a StepSpec) -> Vec<(&'a Need, AttemptUid)> {
        let good = |name: &str| {
            let id = &self.steps.iter().find(|s| s.name == name)?.id;
            self.attempts
                .iter()
                .filter(|a| &a.step_id == id && a.class == Some(EndClass::Succeeded))
                .max_by_key(|a| a.number)
                .map(|a| a.uid.clone())
        };
        step.needs.iter().filter_map(|need| Some((need, good(&need.step)?))).collect()
    }

    /// Whose log says most of an attempt's end, with its length: of several pods that of the first which said that it ended badly.
    pub fn telling_log(&self, attempt: &AttemptRow) -> (AttemptRank, i64) {
        let bad =
            |row: &&RankRow| row.of.uid == attempt.uid && row.class.is_some_and(|c| c != EndClass::Succeeded);
        match self.ranks.iter().filter(bad).min_by_key(|row| (row.ended_ms, row.of.rank)) {
            Some(row) if !row.of.leads() => (row.of.clone(), row.log_bytes),
            _ => ((&attempt.uid).into(), attempt.log_bytes),
        }
    }
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

impl Store {
    pub async fn run(&self, id: &RunId) -> Result<Option<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, RunRow::read, select_run!("WHERE r.id = $1"), id)
    }

    /// The run, its steps and their attempts as of one moment.
    pub async fn run_view(&self, id: &RunId) -> Result<Option<RunView>, StoreError> {
        let selects = moment![
            select_run!("WHERE r.id = $1"),
            select_step!("WHERE run_id = $1 ORDER BY position"),
            attempts_of_run!(),
            ranks_of_run!(),
        ];
        let [run, steps, attempts, ranks] = self.moment(selects, id.as_str()).await?;
        let Some(run) = read_all!(&run, RunRow::read)?.pop() else { return Ok(None) };
        let steps = read_all!(&steps, StepRow::read)?;
        let attempts = read_all!(&attempts, AttemptRow::read)?;
        let ranks = read_all!(&ranks, RankRow::read)?;
        Ok(Some(RunView { run, steps, attempts, ranks }))
    }

    /// Open (not terminal) runs of a concurrency group, oldest first.
    pub async fn open_runs_in_group(&self, group: &str) -> Result<Vec<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            RunRow::read,
            select_run!(
                "WHERE r.concurrency = $1 AND r.state IN ",
                open_run!(),
                " ORDER BY r.created_ms, r.id"
            ),
            group
        )
    }

    /// The run of the same concurrency group that goes before this queued one: one that runs, else the oldest queued one that is
    /// older. Ids sort by the time that they were made.
    pub async fn run_ahead(&self, run: &RunRow) -> Result<Option<RunId>, StoreError> {
        if run.state != RunState::Queued || run.concurrency.is_none() {
            return Ok(None);
        }
        let mut conn = self.read().await?;
        one!(
            conn,
            |row| row.get("id"),
            "SELECT id FROM runs WHERE concurrency = $1 AND id <> $2 AND (state = 'running' OR (state = 'queued' AND id < $2))
             ORDER BY CASE state WHEN 'running' THEN 0 ELSE 1 END, id LIMIT 1",
            &run.concurrency,
            &run.id
        )
    }

    /// The oldest queued run of a run's concurrency group.
    pub async fn next_of_group(&self, run: &RunRow) -> Result<Option<RunId>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            |row| row.get("id"),
            "SELECT id FROM runs WHERE concurrency = $1 AND state = 'queued' ORDER BY id LIMIT 1",
            &run.concurrency
        )
    }

    /// Every run that is not terminal: asked for once at start-up.
    pub async fn open_runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| row.get("id"),
            concat!("SELECT id FROM runs WHERE state IN ", open_run!(), " ORDER BY created_ms, id")
        )
    }

    /// The generations before this run, newest first.
    pub async fn generations_before(&self, run: &RunRow) -> Result<Vec<RunRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            RunRow::read,
            select_run!(
                "WHERE r.repo_id = $1 AND r.head_sha = $2 AND r.pipeline = $3 AND r.trigger_key = $4 AND r.generation < $5
                 ORDER BY r.generation DESC"
            ),
            &run.repo_id,
            &run.head_sha,
            &run.pipeline,
            &run.trigger_key,
            run.generation
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

    /// Runs are found by their id or by its first [`SHORT_ID`] or more characters: the first few that begin so, newest first, of
    /// one repository where it is given. None for what is no beginning of an id.
    pub async fn find_runs(&self, text: &str, of: Option<&RepoId>) -> Result<Vec<RunRow>, StoreError> {
        let text = text.trim().to_ascii_lowercase();
        if text.len() < SHORT_ID || !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Ok(Vec::new());
        }
        let mut conn = self.read().await?;
        all!(
            conn,
            RunRow::read,
            select_run!(
                "WHERE r.id >= $1 AND r.id < $2 AND (r.repo_id = $3 OR $3 = '') ORDER BY r.id DESC LIMIT 6"
            ),
            &text,
            // Behind every id that begins so.
            format!("{text}g"),
            of.map_or("", RepoId::as_str)
        )
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
        assert_eq!(open_run!(), sql(RunState::ALL.iter().filter(|s| !s.is_terminal()).map(|s| s.word())));
        assert_eq!(ended_step!(), sql(StepState::ALL.iter().filter(|s| s.is_terminal()).map(|s| s.word())));
    }
}
