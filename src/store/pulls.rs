//! Repositories and pull requests as last seen.

use super::conn::{Conn, Fields, all, execute, one};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{Actor, PullRequest, RepoId, RepoName, Sha};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoRow {
    pub id: RepoId,
    pub forge: String,
    pub forge_id: String,
    pub name: RepoName,
    pub default_branch: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRow {
    pub repo_id: RepoId,
    pub pull: PullRequest,
    pub updated_ms: Millis,
}

macro_rules! select_pull {
    ($rest:literal) => {
        concat!(
            "SELECT repo_id, number, title, author_id, author, head_sha, head_branch, base_branch, base_sha, fork, draft, open,
               updated_ms FROM pulls WHERE ",
            $rest
        )
    };
}

macro_rules! select_repo {
    ($rest:literal) => {
        concat!("SELECT id, forge, forge_id, name, default_branch FROM repos WHERE ", $rest)
    };
}

impl RepoRow {
    pub(super) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            forge: row.get("forge")?,
            forge_id: row.get("forge_id")?,
            name: row.get("name")?,
            default_branch: row.get("default_branch")?,
        })
    }
}

impl PullRow {
    fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            repo_id: row.get("repo_id")?,
            pull: PullRequest {
                number: row.get("number")?,
                title: row.get("title")?,
                author: Actor { id: row.get("author_id")?, login: row.get("author")? },
                head_sha: row.get("head_sha")?,
                head_branch: row.get("head_branch")?,
                base_branch: row.get("base_branch")?,
                base_sha: Sha::parse(&row.get::<String>("base_sha")?).ok(),
                fork: row.get("fork")?,
                draft: row.get("draft")?,
                open: row.get("open")?,
            },
            updated_ms: row.get("updated_ms")?,
        })
    }
}

/// Inserts or replaces what is known of a pull request.
pub(super) async fn put_pull(
    tx: &mut Conn,
    repo: &RepoId,
    pull: &PullRequest,
    now: Millis,
) -> Result<(), StoreError> {
    execute!(
        tx,
        "INSERT INTO pulls (repo_id, number, title, author_id, author, head_sha, head_branch, base_branch, base_sha, fork, draft,
           open, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (repo_id, number) DO UPDATE SET title = excluded.title, author_id = excluded.author_id,
           author = excluded.author, head_sha = excluded.head_sha, head_branch = excluded.head_branch,
           base_branch = excluded.base_branch, base_sha = excluded.base_sha, fork = excluded.fork, draft = excluded.draft,
           open = excluded.open, updated_ms = excluded.updated_ms",
        repo,
        pull.number,
        &pull.title,
        &pull.author.id,
        &pull.author.login,
        &pull.head_sha,
        &pull.head_branch,
        &pull.base_branch,
        pull.base_sha.as_ref().map_or("", Sha::as_str),
        pull.fork,
        pull.draft,
        pull.open,
        now
    )?;
    Ok(())
}

impl Store {
    pub async fn repo(&self, id: &RepoId) -> Result<Option<RepoRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, RepoRow::read, select_repo!("id = $1"), id)
    }

    /// A repository by `owner/name`, or `forge:owner/name` where several forges have one of that name: a name alone that
    /// fits several finds none. Letter case does not count, as at the forges.
    pub async fn find_repo(&self, text: &str) -> Result<Option<RepoRow>, StoreError> {
        let (forge, name) = text.split_once(':').map_or((None, text), |(forge, name)| (Some(forge), name));
        let mut conn = self.read().await?;
        // The newest row of a forge: after a rename another repository may have taken the old name.
        let mut found = all!(
            conn,
            RepoRow::read,
            select_repo!(
                "LOWER(name) = LOWER($1) AND ($2 IS NULL OR forge = $2) ORDER BY created_ms DESC, id DESC LIMIT 10"
            ),
            name,
            forge
        )?;
        let one_forge = found.iter().all(|r| r.forge == found[0].forge);
        Ok(if one_forge && !found.is_empty() { Some(found.swap_remove(0)) } else { None })
    }

    /// The repository with this id at this forge, if it was ever seen.
    pub async fn repo_by_forge_id(&self, forge: &str, forge_id: &str) -> Result<Option<RepoRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, RepoRow::read, select_repo!("forge = $1 AND forge_id = $2"), forge, forge_id)
    }

    pub async fn pull(&self, repo: &RepoId, number: i64) -> Result<Option<PullRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, PullRow::read, select_pull!("repo_id = $1 AND number = $2"), repo, number)
    }

    /// Open pull requests whose head is this commit.
    pub async fn open_pulls_with_head(&self, repo: &RepoId, sha: &Sha) -> Result<Vec<PullRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            PullRow::read,
            select_pull!("repo_id = $1 AND head_sha = $2 AND open ORDER BY number"),
            repo,
            sha
        )
    }

    /// The newest open pull requests of a repository.
    pub async fn open_pulls(&self, repo: &RepoId, limit: i64) -> Result<Vec<PullRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            PullRow::read,
            select_pull!("repo_id = $1 AND open ORDER BY number DESC LIMIT $2"),
            repo,
            limit
        )
    }

    /// Open pull requests onto this base branch.
    pub async fn open_pulls_onto(&self, repo: &RepoId, base: &str) -> Result<Vec<PullRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            PullRow::read,
            select_pull!("repo_id = $1 AND base_branch = $2 AND open ORDER BY number"),
            repo,
            base
        )
    }
}
