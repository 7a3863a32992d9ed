//! What [`plan`](super::plan()) decides from, gathered beforehand.

use std::collections::BTreeMap;

use crate::clock::Millis;
use crate::config::ForgeKind;
use crate::forge::{ChangeWords, Permission};
use crate::model::{Plan, PullRequest, RepoId, RunId, RunState, Sha};
use crate::store::runs::RunRow;

/// All that is known about an event's head. Absent parts were not needed for this event.
#[derive(Debug, Clone)]
pub struct Facts {
    pub repo_id: RepoId,
    /// What the forge calls a pull request.
    pub change: ChangeWords,
    /// How many decisions about the repository were made when what the store knows was read.
    pub decisions: i64,
    pub now: Millis,
    /// The head commit's whole message.
    pub message: String,
    /// What the one whose head it is (the pusher, or the pull request's author) may do, asked at the forge by their id.
    pub permission: Permission,
    /// That account has a merged change in this repository. Asked only where the permission alone does not decide.
    pub merged_change: bool,
    /// Pipelines at the head commit, in the order of their file names.
    pub pipelines: Vec<PipelineFile>,
    /// For untrusted heads: the pipelines of the branch that the head would go to. Privileged parts come from there.
    pub base: Vec<Plan>,
    /// Paths that the event changes, from git trees. None: unknown, which matches every filter.
    pub changed: Option<Vec<String>>,
    /// Newest generation of each pipeline's head run of this commit.
    pub existing: Vec<RunRow>,
    /// Open runs by resolved concurrency group.
    pub groups: BTreeMap<String, Vec<GroupRun>>,
    /// The pull request as the forge shows it now; deliveries may be late.
    pub pull_now: Option<PullRequest>,
    /// Of a push to the default branch: a newer one was decided before it.
    pub overtaken: bool,
    /// Another open pull request has this head.
    pub other_open_pull: bool,
}

impl Facts {
    /// Nothing known yet but whose event it is, at a forge that says "pull request".
    pub fn new(repo_id: RepoId, now: Millis) -> Self {
        Self {
            repo_id,
            change: ChangeWords::of(ForgeKind::Github),
            decisions: 0,
            now,
            message: String::new(),
            permission: Permission::None,
            merged_change: false,
            pipelines: Vec::new(),
            base: Vec::new(),
            changed: None,
            existing: Vec::new(),
            groups: BTreeMap::new(),
            pull_now: None,
            overtaken: false,
            other_open_pull: false,
        }
    }
}

/// One pipeline file at the head commit.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineFile {
    pub path: String,
    pub parsed: Result<Plan, Broken>,
}

/// A file that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The pipeline's name as far as it can be told: its run and its status go by it.
    pub name: String,
    /// `file:line:column: message (code)`, most important first.
    pub lines: Vec<String>,
}

/// An open run of a concurrency group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRun {
    pub id: RunId,
    pub state: RunState,
    pub sha: Sha,
    /// Its commit is newer than the event's: a descendant, or the branch was moved away from the event's commit.
    pub newer: bool,
}
