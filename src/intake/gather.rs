//! Facts about an event, asked from the forge and the store just before the decision. Reads only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::facts::{Broken, Facts, GroupRun, PipelineFile};
use super::filter::has_paths;
use super::plan::{group, head_of, is_default_branch, trusted, trusted_run, variables};
use crate::clock::Millis;
use crate::forge::{Commit, Forge, ForgeError, Permission, TreeEntry, TreeKind, WebPage, tree_diff};
use crate::model::{
    Actor, Event, EventKind, PullRequest, PullRequestAction, PullRequestEvent, Push, RepoId, Sha,
};
use crate::pipeline::files::{self, Entry};
use crate::pipeline::{self, Diagnostic, Severity};
use crate::store::{Store, StoreError};

/// Why facts are missing.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the forge knows of an event: the slow part, done before anything is locked.
pub async fn from_forge(
    event: &Event,
    forge: &dyn Forge,
    heads: &Heads,
    repo_id: RepoId,
    now: Millis,
) -> Result<Facts, GatherError> {
    let mut facts = Facts { change: forge.capabilities().change, ..Facts::new(repo_id, now) };
    let repo = &event.repo.name;
    if let EventKind::PullRequest(pull) = &event.kind {
        facts.pull_now = optional(forge.pull(repo, pull.pull.number).await)?;
    }
    let Some((sha, _)) = head_of(event, facts.change) else { return Ok(facts) };
    let head = heads.of(forge, event, &sha).await?;
    facts.message.clone_from(&head.message);
    facts.pipelines.clone_from(&head.pipelines);
    if facts.pipelines.is_empty() {
        return Ok(facts);
    }
    standing(forge, event, &mut facts).await?;
    if !trusted(event, &facts)
        && let Some(base) = base_of(forge, event, facts.pull_now.as_ref(), &sha).await?
    {
        let base = optional(heads.of(forge, event, &base).await)?;
        facts.base =
            base.iter().flat_map(|b| &b.pipelines).filter_map(|file| file.parsed.clone().ok()).collect();
    }
    if facts.pipelines.iter().any(|file| file.parsed.as_ref().is_ok_and(has_paths)) {
        facts.changed = changed(forge, heads, event, &sha).await?;
    }
    Ok(facts)
}

/// What the store knows: quick, read right before the decision is committed.
pub async fn from_store(
    event: &Event,
    forge: &dyn Forge,
    store: &Store,
    facts: &mut Facts,
) -> Result<(), GatherError> {
    let repo_id = facts.repo_id.clone();
    // First: what changes from here on makes the decision stale.
    facts.decisions = store.decisions(&repo_id).await?;
    // What was read before other decisions of this repository may be older than what those were made of.
    if let EventKind::PullRequest(pull) = &event.kind {
        facts.pull_now = optional(forge.pull(&event.repo.name, pull.pull.number).await)?;
    }
    if let EventKind::PullRequest(pull) = &event.kind
        && pull.action == PullRequestAction::Closed
    {
        let head = &pull.pull.head_sha;
        facts.existing = store.head_runs(&repo_id, head).await?;
        let open = store.open_pulls_with_head(&repo_id, head).await?;
        facts.other_open_pull = open.iter().any(|other| other.pull.number != pull.pull.number);
    }
    let Some((sha, branch)) = head_of(event, facts.change) else { return Ok(()) };
    facts.existing = store.head_runs(&repo_id, &sha).await?;
    if let EventKind::Push(push) = &event.kind
        && push.branch == event.repo.default_branch
        && let Some(known) = store.files_sha(&repo_id).await?
    {
        // Without pipelines nobody asked who pushed; here, what earlier ones asked for may end.
        if facts.pipelines.is_empty() {
            standing(forge, event, facts).await?;
        }
        if is_default_branch(event, facts) {
            facts.overtaken = overtaken(forge, event, push, &sha, &known).await?;
        }
    }
    let mut groups = BTreeSet::new();
    for file in &facts.pipelines {
        let Ok(plan) = &file.parsed else { continue };
        if plan.concurrency.as_ref().is_some_and(|c| c.cancel_in_progress) {
            let variables = variables(&event.repo, &sha, &branch, &plan.name, facts.change);
            let trusted = trusted_run(event, facts, &plan.name);
            groups.extend(group(&repo_id, plan, &variables, trusted).ok().flatten());
        }
    }
    for group in groups {
        let mut runs = Vec::new();
        for run in store.open_runs_in_group(&group).await? {
            if run.cancel_request.is_some() || run.head_sha == sha {
                continue;
            }
            let newer = is_newer(forge, event, &sha, &branch, &run.head_sha).await?;
            runs.push(GroupRun { id: run.id, state: run.state, sha: run.head_sha, newer });
        }
        facts.groups.insert(group, runs);
    }
    Ok(())
}

/// What the one whose head it is may do here, and did.
async fn standing(forge: &dyn Forge, event: &Event, facts: &mut Facts) -> Result<(), GatherError> {
    facts.permission = match &event.kind {
        // Only what was pushed to the default branch by someone who may write is watched.
        EventKind::Data(_) => Permission::Write,
        _ => permission(forge, event).await?,
    };
    if facts.permission < Permission::Write {
        facts.merged_change = merged_change(forge, event).await?;
    }
    Ok(())
}

/// Was a push of `sha` overtaken by one of `known` to the same branch, which was decided before it? Not where the branch was moved
/// back to `sha` since.
async fn overtaken(
    forge: &dyn Forge,
    event: &Event,
    push: &Push,
    sha: &Sha,
    known: &Sha,
) -> Result<bool, GatherError> {
    if sha == known || push.before.as_ref() == Some(known) {
        return Ok(false);
    }
    let base = optional(forge.merge_base(&event.repo.name, known.as_str(), sha).await)?.flatten();
    match base {
        Some(base) if base == *known => Ok(false),
        Some(base) if base == *sha => is_ancestor(forge, event, known, &push.branch).await,
        // Neither comes from the other: the branch was moved, to one of them.
        _ => Ok(!is_ancestor(forge, event, sha, &push.branch).await?),
    }
}

/// Is `other` newer than this event's head? A descendant is. So is anything on a branch that was moved away from the head.
async fn is_newer(
    forge: &dyn Forge,
    event: &Event,
    sha: &Sha,
    branch: &str,
    other: &Sha,
) -> Result<bool, GatherError> {
    let repo = &event.repo.name;
    if let EventKind::PullRequest(_) = &event.kind {
        // The pull request itself says what its head is by now.
        if forge.capabilities().change.is_head(branch) {
            return is_ancestor(forge, event, sha, other.as_str()).await;
        }
    }
    if is_ancestor(forge, event, sha, other.as_str()).await? {
        return Ok(true);
    }
    match optional(forge.merge_base(repo, branch, sha).await)? {
        // On its branch still (or the branch is gone): not overtaken.
        Some(Some(base)) => Ok(base != *sha && !is_ancestor(forge, event, other, sha.as_str()).await?),
        _ => Ok(false),
    }
}

async fn is_ancestor(forge: &dyn Forge, event: &Event, old: &Sha, of: &str) -> Result<bool, GatherError> {
    let base = optional(forge.merge_base(&event.repo.name, of, old).await)?.flatten();
    Ok(base.as_ref() == Some(old))
}

/// Whose head it is; None for a fork's, which is untrusted whoever asks.
fn whose(event: &Event) -> Option<&Actor> {
    match &event.kind {
        EventKind::PullRequest(pull) if pull.pull.fork => None,
        EventKind::PullRequest(pull) => Some(&pull.pull.author),
        _ => Some(&event.actor),
    }
}

async fn permission(forge: &dyn Forge, event: &Event) -> Result<Permission, GatherError> {
    let Some(who) = whose(event) else { return Ok(Permission::None) };
    Ok(optional(forge.permission(&event.repo.name, who).await)?.unwrap_or(Permission::None))
}

/// Has the one whose head it is a merged change here? A forge that will never tell means no; one that cannot tell now is asked
/// again.
async fn merged_change(forge: &dyn Forge, event: &Event) -> Result<bool, GatherError> {
    let Some(who) = whose(event) else { return Ok(false) };
    match forge.has_merged_change(&event.repo.name, who).await {
        Ok(has) => Ok(has),
        Err(error) if error.is_permanent() => {
            tracing::warn!(%error, "the forge does not tell merged changes: the author counts as having none");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The commit whose pipeline rules an untrusted head.
async fn base_of(
    forge: &dyn Forge,
    event: &Event,
    now: Option<&PullRequest>,
    sha: &Sha,
) -> Result<Option<Sha>, GatherError> {
    let branch = match &event.kind {
        EventKind::PullRequest(PullRequestEvent { pull, .. }) => {
            let tip = pull.base_sha.as_ref().or_else(|| now?.base_sha.as_ref());
            match tip {
                Some(tip) => return Ok(Some(tip.clone())),
                None => &pull.base_branch,
            }
        }
        _ => &event.repo.default_branch,
    };
    Ok(optional(forge.merge_base(&event.repo.name, branch, sha).await)?.flatten())
}

/// Paths that the event changes: a push against what the branch was, a pull request against its merge-base.
async fn changed(
    forge: &dyn Forge,
    heads: &Heads,
    event: &Event,
    sha: &Sha,
) -> Result<Option<Vec<String>>, GatherError> {
    let repo = &event.repo.name;
    let (from, merged) = match &event.kind {
        EventKind::Push(Push { before: Some(before), .. }) => (before.as_str(), false),
        EventKind::Push(push) if push.branch == event.repo.default_branch => return Ok(None),
        EventKind::Push(_) => (event.repo.default_branch.as_str(), true),
        EventKind::PullRequest(PullRequestEvent { pull, .. }) => {
            (pull.base_sha.as_ref().map_or(pull.base_branch.as_str(), Sha::as_str), true)
        }
        _ => return Ok(None),
    };
    // Between two commits nothing ever changes; a branch moves.
    let key = Sha::parse(from)
        .is_ok()
        .then(|| format!("{from} {merged} {}", forge.page(repo, WebPage::Commit(sha))));
    if let Some(paths) = key.as_ref().and_then(|key| heads.changes.get(key)) {
        return Ok(Some(paths.as_ref().clone()));
    }
    let base = if merged {
        optional(forge.merge_base(repo, from, sha).await)?.flatten()
    } else {
        Sha::parse(from).ok()
    };
    let Some(base) = base else { return Ok(None) };
    let paths = optional(tree_diff(forge, repo, Some(&base), sha).await)?.flatten();
    if let (Some(key), Some(paths)) = (key, &paths) {
        heads.changes.put(key, Arc::new(paths.clone()));
    }
    Ok(paths)
}

/// What was read of commits. A commit never changes, so the last few are kept: push and pull request of one commit, and
/// several pull requests onto one base, ask the forge once.
#[derive(Debug, Default)]
pub struct Heads {
    heads: Recent<Head>,
    changes: Recent<Vec<String>>,
}

#[derive(Debug)]
pub struct Head {
    pub message: String,
    pub pipelines: Vec<PipelineFile>,
}

impl Heads {
    async fn of(&self, forge: &dyn Forge, event: &Event, sha: &Sha) -> Result<Arc<Head>, ForgeError> {
        // The commit's page names forge, repository and commit.
        let key = forge.page(&event.repo.name, WebPage::Commit(sha));
        if let Some(head) = self.heads.get(&key) {
            return Ok(head);
        }
        let commit = forge.commit(&event.repo.name, sha).await?;
        let pipelines = pipelines(forge, event, &commit).await?;
        let head = Arc::new(Head { message: commit.message, pipelines });
        self.heads.put(key, head.clone());
        Ok(head)
    }
}

/// The last 128 values that were put.
#[derive(Debug)]
struct Recent<T>(Mutex<VecDeque<(String, Arc<T>)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Recent<T> {
    fn get(&self, key: &str) -> Option<Arc<T>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
    }
    fn put(&self, key: String, value: Arc<T>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(k, _)| *k != key);
        kept.truncate(127);
        kept.push_front((key, value));
    }
}

/// Every pipeline file of a commit, by path; those that are not read stand there as broken.
async fn pipelines(
    forge: &dyn Forge,
    event: &Event,
    commit: &Commit,
) -> Result<Vec<PipelineFile>, ForgeError> {
    let (repo, sha) = (&event.repo.name, &commit.sha);
    let top = commit.root();
    let Some(root) = optional(forge.tree(repo, &top).await)? else { return Ok(Vec::new()) };
    let is_folder = |e: &&TreeEntry| e.name == pipeline::DIRECTORY && e.kind == TreeKind::Folder;
    let folder = match root.iter().find(is_folder) {
        Some(folder) => optional(forge.tree(repo, &top.child(folder)).await)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let found = files::choose(&by_name(&root), &by_name(&folder));
    let mut out = Vec::new();
    for path in found.read {
        if let Some(bytes) = optional(forge.file(repo, sha, &path).await)? {
            out.push(read_pipeline(&path, &bytes));
        }
    }
    out.extend(found.not_read.iter().map(|(path, why)| unread_pipeline(path, why)));
    Ok(out)
}

fn by_name(entries: &[TreeEntry]) -> BTreeMap<String, Entry> {
    let kind = |kind| match kind {
        TreeKind::File => Entry::File,
        TreeKind::Folder => Entry::Folder,
        TreeKind::Other => Entry::Other,
    };
    entries.iter().map(|entry| (entry.name.clone(), kind(entry.kind))).collect()
}

/// Stands for a pipeline file that is not read.
pub fn unread_pipeline(path: &str, why: &str) -> PipelineFile {
    let broken = Broken {
        name: pipeline::name_of_broken(path, b""),
        lines: vec![format!("{path} is not read: {why}")],
    };
    PipelineFile { path: path.to_owned(), parsed: Err(broken) }
}

/// Parses and checks one pipeline file.
pub fn read_pipeline(path: &str, bytes: &[u8]) -> PipelineFile {
    let parsed = pipeline::parse(path, bytes).map(|checked| checked.plan).map_err(|findings| {
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        let line = |finding: &Diagnostic| {
            let help = finding.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
            format!("{path}:{}{help}", finding.one_line())
        };
        Broken { name: pipeline::name_of_broken(path, bytes), lines: errors.map(line).collect() }
    });
    PipelineFile { path: path.to_owned(), parsed }
}

/// "The forge does not have it" as None.
fn optional<T>(answer: Result<T, ForgeError>) -> Result<Option<T>, ForgeError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(ForgeError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
