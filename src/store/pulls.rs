//! Repositories and pull requests as last seen.

use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::{PullRequest, RepoId, RepoName, Sha};

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

impl Store {
    pub async fn repo(&self, id: &RepoId) -> Result<Option<RepoRow>, StoreError> {
        let _ = id;
        todo!()
    }
    pub async fn pull(&self, repo: &RepoId, number: i64) -> Result<Option<PullRow>, StoreError> {
        let _ = (repo, number);
        todo!()
    }
    /// Open pull requests whose head is this commit.
    pub async fn open_pulls_with_head(&self, repo: &RepoId, sha: &Sha) -> Result<Vec<PullRow>, StoreError> {
        let _ = (repo, sha);
        todo!()
    }
    /// Open pull requests onto this base branch.
    pub async fn open_pulls_onto(&self, repo: &RepoId, base: &str) -> Result<Vec<PullRow>, StoreError> {
        let _ = (repo, base);
        todo!()
    }
}
