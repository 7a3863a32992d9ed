//! Lists for people: keyset pages, newest first. Never OFFSET.

use super::conn::{Fields, all};
use super::deliveries::{DeliveryRow, select_delivery};
use super::pulls::RepoRow;
use super::runs::{RunRow, select_run};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{RepoId, RepoName, RunId, RunState, Sha, Verdict};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    pub repo: Option<RepoId>,
    pub branch: Option<String>,
    pub state: Option<RunState>,
    pub pipeline: Option<String>,
    /// The login that the head commit's push names.
    pub author: Option<String>,
    /// Runs that were compared for this pull request, or are of its head commit.
    pub pull: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunListItem {
    pub run: RunRow,
    pub repo: RepoName,
}

/// A repository with where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RepoListItem {
    pub repo: RepoRow,
    pub newest: Option<RunMark>,
    /// The newest run on the default branch.
    pub main: Option<RunMark>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMark {
    pub id: RunId,
    pub state: RunState,
    pub created_ms: Millis,
}

/// One run of a branch with what its comparison there came to.
#[derive(Debug, Clone, PartialEq)]
pub struct TrendItem {
    pub run: RunId,
    pub pipeline: String,
    pub head_sha: Sha,
    pub created_ms: Millis,
    pub verdict: Option<Verdict>,
    /// `model::Outcome` as JSON; `{}` while it is pending.
    pub result: serde_json::Value,
}

/// Sorts behind every id: the first page.
const NEWEST: &str = "g";

/// `$1` to `$9` of [`Store::list_runs`], behind what picks the index.
macro_rules! list_runs {
    ($first:literal) => {
        select_run!(
            (", (SELECT name FROM repos p WHERE p.id = r.repo_id) AS repo_name"),
            "WHERE r.id < $1 AND ",
            $first,
            " AND ($2 IS NULL OR r.repo_id = $2) AND ($3 IS NULL OR r.branch = $3) AND ($4 IS NULL OR r.state = $4) AND ($5 IS NULL OR r.pipeline = $5)
               AND ($7 IS NULL OR r.actor = $7)
               AND ($8 IS NULL
                 OR EXISTS (SELECT 1 FROM comparisons c WHERE c.candidate_run_id = r.id AND c.target = $9)
                 OR EXISTS (SELECT 1 FROM pulls u WHERE u.repo_id = r.repo_id AND u.number = $8 AND u.head_sha = r.head_sha))
             ORDER BY r.id DESC LIMIT $6"
        )
    };
}

fn mark(row: &impl Fields, columns: [&'static str; 3]) -> Result<Option<RunMark>, StoreError> {
    let Some(id) = row.get::<Option<RunId>>(columns[0])? else { return Ok(None) };
    Ok(Some(RunMark { id, state: row.word(columns[1])?, created_ms: row.get(columns[2])? }))
}

pub(super) const ALL_RUNS: &str = list_runs!("TRUE");
pub(super) const RUNS_OF_REPO: &str = list_runs!("r.repo_id = $2");
pub(super) const RUNS_IN_STATE: &str = list_runs!("r.state = $4");
pub(super) const RUNS_OF_BRANCH: &str = list_runs!("r.branch = $3");
pub(super) const DELIVERIES: &str = select_delivery!("WHERE id < $1 ORDER BY id DESC LIMIT $2");

impl Store {
    /// Up to `limit` runs older than the run `before` (its id: UUIDv7 sorts by time).
    pub async fn list_runs(
        &self,
        filter: RunFilter,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<RunListItem>, StoreError> {
        let mut conn = self.read().await?;
        // The narrowest of what is asked for picks the index; the rest is looked at row by row.
        let sql = match (&filter.repo, filter.state, &filter.branch) {
            (Some(_), ..) => RUNS_OF_REPO,
            (None, Some(_), _) => RUNS_IN_STATE,
            (None, None, Some(_)) => RUNS_OF_BRANCH,
            (None, None, None) => ALL_RUNS,
        };
        all!(
            conn,
            |row| Ok(RunListItem { run: RunRow::read(row)?, repo: row.get("repo_name")? }),
            sql,
            before.unwrap_or(NEWEST),
            &filter.repo,
            &filter.branch,
            filter.state.map(RunState::word),
            &filter.pipeline,
            limit,
            &filter.author,
            filter.pull,
            filter.pull.map(|number| format!("pr:{number}"))
        )
    }

    /// Up to `limit` repositories behind the name `after` (lower case), by name; only `own` if it is given.
    pub async fn list_repos(
        &self,
        own: Option<&RepoId>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<RepoListItem>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok(RepoListItem {
                repo: RepoRow::read(row)?,
                newest: mark(row, ["newest_id", "newest_state", "newest_ms"])?,
                main: mark(row, ["main_id", "main_state", "main_ms"])?,
            }),
            "SELECT p.id, p.forge, p.forge_id, p.name, p.default_branch, n.id AS newest_id, n.state AS newest_state,
               n.created_ms AS newest_ms, m.id AS main_id, m.state AS main_state, m.created_ms AS main_ms
             FROM repos p
             LEFT JOIN runs n ON n.id = (SELECT r.id FROM runs r WHERE r.repo_id = p.id ORDER BY r.id DESC LIMIT 1)
             LEFT JOIN runs m ON m.id = (SELECT r.id FROM runs r WHERE r.repo_id = p.id AND r.branch = p.default_branch
               ORDER BY r.id DESC LIMIT 1)
             WHERE LOWER(p.name) || ' ' || p.id > $1 AND ($2 IS NULL OR p.id = $2)
             ORDER BY LOWER(p.name) || ' ' || p.id LIMIT $3",
            after,
            own,
            limit
        )
    }

    /// The newest `limit` runs of a branch that were compared there, newest first.
    pub async fn trend(&self, repo: &RepoId, branch: &str, limit: i64) -> Result<Vec<TrendItem>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok(TrendItem {
                run: row.get("id")?,
                pipeline: row.get("pipeline")?,
                head_sha: row.get("head_sha")?,
                created_ms: row.get("created_ms")?,
                verdict: row.word_or_null("verdict")?,
                result: row.json("result")?,
            }),
            "SELECT r.id, r.pipeline, r.head_sha, r.created_ms, c.verdict, c.result
             FROM runs r JOIN comparisons c ON c.candidate_run_id = r.id
             WHERE r.repo_id = $1 AND r.branch = $2 AND c.target = $3 AND c.state <> 'superseded'
             ORDER BY r.id DESC LIMIT $4",
            repo,
            branch,
            format!("branch:{branch}"),
            limit
        )
    }

    /// Up to `limit` deliveries older than the row `before`.
    pub async fn list_deliveries(
        &self,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(conn, DeliveryRow::read, DELIVERIES, before.unwrap_or(NEWEST), limit)
    }

    /// Number of runs in each state that has any, for `/metrics`.
    pub async fn count_runs(&self) -> Result<Vec<(RunState, i64)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((row.word("state")?, row.get("runs")?)),
            "SELECT state, COUNT(*) AS runs FROM runs GROUP BY state ORDER BY state"
        )
    }
}
