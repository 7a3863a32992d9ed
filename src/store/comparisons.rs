//! Comparisons: a candidate run held against a baseline run, for one pull request or branch.

use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::runs::RunRow;
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError, dialect};
use crate::clock::Millis;
use crate::model::{ComparisonId, ComparisonState, RepoId, RunId, Sha, Verdict};

#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonRow {
    pub id: ComparisonId,
    pub candidate: RunId,
    pub baseline: Option<RunId>,
    /// How the baseline was chosen, or why there is none: one sentence for people.
    pub baseline_note: String,
    /// Commits on which a good run, or another one, makes for another baseline. None: any good run of the base branch may.
    pub nearer: Option<Vec<Sha>>,
    /// `pr:<number>` or `branch:<name>`.
    pub target: String,
    pub gates_digest: String,
    /// Version of the rules that judged, e.g. `point-1`.
    pub rules: String,
    pub state: ComparisonState,
    pub verdict: Option<Verdict>,
    /// `results::Outcome` as JSON.
    pub result: serde_json::Value,
    pub created_ms: Millis,
    /// After this time it no longer waits for its baseline.
    pub wait_until_ms: Millis,
    pub updated_ms: Millis,
}

macro_rules! select_comparison {
    ($rest:literal) => {
        concat!(
            "SELECT id, candidate_run_id, baseline_run_id, baseline_note, nearer, target, gates_digest, rules, state, verdict, result,
               created_ms, wait_until_ms, updated_ms FROM comparisons WHERE state <> 'superseded' AND ",
            $rest
        )
    };
}

impl ComparisonRow {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            candidate: row.get("candidate_run_id")?,
            baseline: row.get("baseline_run_id")?,
            baseline_note: row.get("baseline_note")?,
            nearer: row.json_or_null("nearer")?,
            target: row.get("target")?,
            gates_digest: row.get("gates_digest")?,
            rules: row.get("rules")?,
            state: row.word("state")?,
            verdict: row.word_or_null("verdict")?,
            result: row.json("result")?,
            created_ms: row.get("created_ms")?,
            wait_until_ms: row.get("wait_until_ms")?,
            updated_ms: row.get("updated_ms")?,
        })
    }
    /// Does it judge the same two runs by the same gates?
    fn same_question(&self, other: &Self) -> bool {
        self.baseline == other.baseline && self.gates_digest == other.gates_digest
    }
    fn same_answer(&self, other: &Self) -> bool {
        self.state == other.state
            && self.verdict == other.verdict
            && self.result == other.result
            && self.rules == other.rules
            && self.baseline_note == other.baseline_note
            && self.nearer == other.nearer
            && self.wait_until_ms == other.wait_until_ms
    }
}

async fn supersede(tx: &mut Conn, id: &ComparisonId, now: Millis) -> Result<u64, StoreError> {
    execute!(
        tx,
        "UPDATE comparisons SET state = 'superseded', updated_ms = $2 WHERE id = $1 AND state <> 'superseded'",
        id,
        now
    )
}

async fn insert(
    tx: &mut Conn,
    row: &ComparisonRow,
    id: &ComparisonId,
    now: Millis,
) -> Result<(), StoreError> {
    execute!(
        tx,
        "INSERT INTO comparisons (id, candidate_run_id, baseline_run_id, baseline_note, target, gates_digest, rules, state, verdict,
           result, created_ms, wait_until_ms, updated_ms, nearer)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        id,
        &row.candidate,
        &row.baseline,
        &row.baseline_note,
        &row.target,
        &row.gates_digest,
        &row.rules,
        row.state.word(),
        row.verdict.map(Verdict::word),
        to_json(&row.result)?,
        row.created_ms,
        row.wait_until_ms,
        now,
        row.nearer.as_ref().map(to_json).transpose()?
    )
    .map(|_| ())
}

impl Store {
    /// Writes the live comparison of (candidate, target). An unchanged row is left alone; a live row with another
    /// baseline or gates digest is superseded and a new one is made; otherwise state, verdict and result are
    /// updated, but a final one never becomes pending again. Returns whether anything changed; `asks` are written only then.
    pub async fn put_comparison(
        &self,
        row: ComparisonRow,
        asks: Vec<WorkAsk>,
        now: Millis,
    ) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let live = one!(
                    tx,
                    ComparisonRow::read,
                    select_comparison!("candidate_run_id = $1 AND target = $2"),
                    &row.candidate,
                    &row.target
                )?;
                match live {
                    None => insert(tx, &row, &row.id, now).await?,
                    Some(live) if !live.same_question(&row) => {
                        supersede(tx, &live.id, now).await?;
                        let id = if live.id == row.id { ComparisonId::generate(now) } else { row.id.clone() };
                        insert(tx, &row, &id, now).await?;
                    }
                    Some(live) if live.same_answer(&row) => return Ok(false),
                    Some(live) if live.state != row.state && !live.state.next().contains(&row.state) => return Ok(false),
                    Some(live) => {
                        execute!(
                            tx,
                            "UPDATE comparisons SET state = $2, verdict = $3, result = $4, rules = $5, baseline_note = $6,
                               wait_until_ms = $7, updated_ms = $8, nearer = $10 WHERE id = $1 AND state = $9",
                            &live.id,
                            row.state.word(),
                            row.verdict.map(Verdict::word),
                            to_json(&row.result)?,
                            &row.rules,
                            &row.baseline_note,
                            row.wait_until_ms,
                            now,
                            live.state.word(),
                            row.nearer.as_ref().map(to_json).transpose()?
                        )?;
                    }
                }
                ask_in(tx, &asks, now).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Marks live comparisons of a candidate superseded whose target is not in `keep` (closed, retargeted away). Returns how
    /// many; `asks` are written only when there were any.
    pub async fn supersede_comparisons(
        &self,
        candidate: &RunId,
        keep: &[String],
        asks: Vec<WorkAsk>,
        now: Millis,
    ) -> Result<u64, StoreError> {
        let (candidate, keep) = (candidate.clone(), keep.to_vec());
        self.write(move |tx| {
            Box::pin(async move {
                let live =
                    all!(tx, ComparisonRow::read, select_comparison!("candidate_run_id = $1"), &candidate)?;
                let mut changed = 0;
                for row in live.iter().filter(|row| !keep.contains(&row.target)) {
                    changed += supersede(tx, &row.id, now).await?;
                }
                if changed > 0 {
                    ask_in(tx, &asks, now).await?;
                }
                Ok(changed)
            })
        })
        .await
    }

    /// Live comparisons of a candidate, by target.
    pub async fn comparisons_of(&self, candidate: &RunId) -> Result<Vec<ComparisonRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            ComparisonRow::read,
            select_comparison!("candidate_run_id = $1 ORDER BY target"),
            candidate
        )
    }

    /// Live comparisons of several candidates, for a page of a list.
    pub async fn comparisons_of_runs(&self, candidates: &[RunId]) -> Result<Vec<ComparisonRow>, StoreError> {
        let list = to_json(&candidates)?;
        let mut conn = self.read().await?;
        let sql = dialect::by_engine(
            &conn,
            select_comparison!(
                "candidate_run_id IN (SELECT value FROM json_each($1)) ORDER BY candidate_run_id, target"
            ),
            select_comparison!(
                "candidate_run_id IN (SELECT json_array_elements_text($1::json)) ORDER BY candidate_run_id, target"
            ),
        );
        all!(conn, ComparisonRow::read, sql, &list)
    }

    /// Candidates whose live comparison has this run, or another generation of it, as its baseline.
    pub async fn candidates_on(&self, baseline: &RunRow) -> Result<Vec<RunId>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| row.get("candidate_run_id"),
            "SELECT DISTINCT c.candidate_run_id FROM runs b JOIN comparisons c ON c.baseline_run_id = b.id
             WHERE b.repo_id = $1 AND b.head_sha = $2 AND b.pipeline = $3 AND b.trigger_key = $4 AND c.state <> 'superseded'
             ORDER BY c.candidate_run_id",
            &baseline.repo_id,
            &baseline.head_sha,
            &baseline.pipeline,
            &baseline.trigger_key
        )
    }

    /// Runs of a pipeline at the heads of open pull requests, whose baseline any good run of some branch may be.
    pub async fn candidates_on_branches(
        &self,
        repo: &RepoId,
        pipeline: &str,
    ) -> Result<Vec<RunId>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| row.get("id"),
            "SELECT DISTINCT r.id FROM pulls p
               JOIN runs r ON r.repo_id = p.repo_id AND r.head_sha = p.head_sha AND r.trigger_key = 'head'
               JOIN comparisons c ON c.candidate_run_id = r.id AND c.state <> 'superseded' AND c.nearer IS NULL
             WHERE p.repo_id = $1 AND p.open AND r.pipeline = $2 ORDER BY r.id",
            repo,
            pipeline
        )
    }
}
