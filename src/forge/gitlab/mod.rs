//! GitLab as a [`Forge`], over its REST API v4. Its statuses are jobs of an outside pipeline with a state machine of their own, so
//! one writer at a time sends them.

mod api;

use std::collections::VecDeque;
use std::fmt;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gitlab::api::common::SortOrder;
use gitlab::api::projects::Project;
use gitlab::api::projects::members::AllProjectMember;
use gitlab::api::projects::merge_requests::notes::{
    CreateMergeRequestNote, EditMergeRequestNote, MergeRequestNotes, NoteOrderBy,
};
use gitlab::api::projects::merge_requests::{MergeRequest, MergeRequestState, MergeRequests};
use gitlab::api::projects::repository::commits::{
    Commit as CommitEndpoint, CommitStatusState, CommitStatuses, Commits, CreateCommitStatus,
};
use gitlab::api::projects::repository::files::FileRaw;
use gitlab::api::users::CurrentUser;
use hyper::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};

use super::answer::refused;
use super::rest::{Rest, climbs, encode, encode_path, git_client, shown, unreadable, unusable};
use super::{
    Capabilities, ChangeWords, Comment, Commit, Folder, Forge, ForgeError, GitAccess, Permission, Status,
    StatusState, TreeEntry, TreeKind, WebPage,
};
use crate::config::{ConfigError, ForgeConfig, ForgeKind};
use crate::model::{Actor, PullRequest, RepoName, Sha};
use api::{Get, ask, bytes, list};

/// Largest file that [`Forge::file`] hands out, in bytes.
const MAX_FILE: usize = 1 << 20;
/// Entries of a folder that are read, 100 a call.
const MAX_ENTRIES: usize = 10_000;
const MAX_COMMENTS: usize = 1_000;
/// Most bytes of a status's texts that the `gitlab` crate sends (GitLab's bound is 255 characters).
const MAX_STATUS_TEXT: usize = 255;
/// Commits whose outside pipeline is remembered.
const MAX_PIPELINES: usize = 1_000;

/// A forge of kind `gitlab`, with one credential.
pub struct GitLab {
    rest: Rest,
    git: reqwest::Client,
    /// Without a trailing slash.
    web: String,
    token: SecretString,
    me: OnceCell<Actor>,
    /// Repository and commit with the pipeline that GitLab made for its statuses. Held while one is written: of two writers at one
    /// time each would make a pipeline, and statuses would be spread over both.
    pipelines: Mutex<VecDeque<(String, u64)>>,
}

impl fmt::Debug for GitLab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitLab").field("web", &self.web).finish_non_exhaustive()
    }
}

impl GitLab {
    /// Makes the client; no request is sent.
    pub fn connect(config: &ForgeConfig, token: SecretString) -> Result<Self, ConfigError> {
        let rest = Rest::connect(config, HeaderName::from_static("private-token"), "", &token)?;
        let git = git_client(config).map_err(|e| unusable(config, e))?;
        let web = config.web_url().to_owned();
        Ok(Self { rest, git, web, token, me: OnceCell::new(), pipelines: Mutex::default() })
    }

    /// What GitLab shows for a context of a commit now: its state and description.
    async fn shown_status(
        &self,
        what: &str,
        repo: &RepoName,
        sha: &Sha,
        context: &str,
    ) -> Result<Option<WireStatus>, ForgeError> {
        let endpoint = CommitStatuses::builder()
            .project(repo.as_str())
            .commit(sha.as_str())
            .name(context)
            .build()
            .map_err(|e| unreadable(what, e))?;
        let mut found: Vec<WireStatus> = list(&self.rest, what, endpoint, 100).await?;
        found.retain(|status| status.name == context);
        Ok(found.into_iter().max_by_key(|status| status.id))
    }
}

fn project_path(repo: &RepoName) -> String {
    format!("projects/{}", encode(repo.as_str()))
}

fn sha_of(what: &str, text: &str) -> Result<Sha, ForgeError> {
    Sha::parse(text).map_err(|e| unreadable(what, e))
}

fn state_of(state: StatusState) -> (CommitStatusState, &'static str) {
    match state {
        StatusState::Pending => (CommitStatusState::Pending, "pending"),
        StatusState::Running => (CommitStatusState::Running, "running"),
        StatusState::Success => (CommitStatusState::Success, "success"),
        StatusState::Failure | StatusState::Error => (CommitStatusState::Failed, "failed"),
        StatusState::Cancelled => (CommitStatusState::Canceled, "canceled"),
    }
}

/// A comment's id: GitLab finds a note by its merge request and its number.
fn note_id(id: &str) -> Option<(u64, u64)> {
    let (merge_request, note) = id.split_once('/')?;
    Some((merge_request.parse().ok()?, note.parse().ok()?))
}

#[derive(Deserialize)]
struct WireAccount {
    id: u64,
    username: String,
}

impl From<WireAccount> for Actor {
    fn from(account: WireAccount) -> Self {
        Self { id: account.id.to_string(), login: account.username }
    }
}

#[derive(Deserialize)]
struct WireId {
    id: u64,
}

#[derive(Deserialize)]
struct WireCommit {
    id: String,
    message: String,
    parent_ids: Vec<String>,
}

#[derive(Deserialize)]
struct WireEntry {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    mode: String,
}

#[derive(Deserialize)]
struct WireMember {
    access_level: u64,
    #[serde(default)]
    state: Option<String>,
}

#[derive(Deserialize)]
struct WireMerged {
    author: Option<WireAccount>,
    state: String,
}

#[derive(Deserialize)]
struct WireMergeRequest {
    title: String,
    state: String,
    #[serde(default)]
    draft: Option<bool>,
    #[serde(default)]
    work_in_progress: Option<bool>,
    author: Option<WireAccount>,
    /// Null while there is no commit.
    sha: Option<String>,
    source_branch: String,
    target_branch: String,
    /// Null when the fork was deleted.
    source_project_id: Option<u64>,
    target_project_id: u64,
    #[serde(default)]
    diff_refs: Option<WireDiffRefs>,
}

#[derive(Deserialize)]
struct WireDiffRefs {
    /// Tip of the target branch when the newest version of the merge request was made.
    #[serde(default)]
    start_sha: Option<String>,
}

#[derive(Deserialize)]
struct WireStatus {
    id: u64,
    name: String,
    status: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    pipeline_id: Option<u64>,
}

#[derive(Deserialize)]
struct WireNote {
    id: u64,
    #[serde(default)]
    body: String,
    author: Option<WireAccount>,
    /// Written by GitLab itself: "added 2 commits".
    #[serde(default)]
    system: bool,
}

#[async_trait]
impl Forge for GitLab {
    async fn whoami(&self) -> Result<Actor, ForgeError> {
        const WHAT: &str = "the token's account";
        let find = async {
            let endpoint = CurrentUser::builder().build().map_err(|e| unreadable(WHAT, e))?;
            ask::<WireAccount, _>(&self.rest, WHAT, &endpoint).await.map(Actor::from)
        };
        self.me.get_or_try_init(|| find).await.cloned()
    }

    async fn repo_id(&self, repo: &RepoName) -> Result<String, ForgeError> {
        let what = shown(repo, "project");
        let endpoint = Project::builder().project(repo.as_str()).build().map_err(|e| unreadable(&what, e))?;
        let wire: WireId = ask(&self.rest, &what, &endpoint).await?;
        Ok(wire.id.to_string())
    }

    async fn commit(&self, repo: &RepoName, sha: &Sha) -> Result<Commit, ForgeError> {
        let what = shown(repo, format_args!("commit {sha}"));
        let endpoint = CommitEndpoint::builder()
            .project(repo.as_str())
            .commit(sha.as_str())
            .stats(false)
            .build()
            .map_err(|e| unreadable(&what, e))?;
        let wire: WireCommit = ask(&self.rest, &what, &endpoint).await?;
        if wire.id != sha.as_str() {
            return Err(unreadable(&what, "it is another commit"));
        }
        let parents = wire.parent_ids.iter().map(|p| sha_of(&what, p)).collect::<Result<_, _>>()?;
        Ok(Commit { sha: sha.clone(), parents, tree: sha.as_str().to_owned(), message: wire.message })
    }

    async fn tree(&self, repo: &RepoName, folder: &Folder) -> Result<Vec<TreeEntry>, ForgeError> {
        let commit = &folder.commit;
        let what = shown(repo, format_args!("folder {:?} at {}", folder.path, commit.short()));
        if !folder.path.is_empty() && folder.path.split('/').any(climbs) {
            return Err(ForgeError::NotFound { what });
        }
        let mut parameters = vec![("ref", commit.to_string())];
        if !folder.path.is_empty() {
            parameters.push(("path", folder.path.clone()));
        }
        let path = format!("{}/repository/tree", project_path(repo));
        let endpoint = Get { path, parameters, keyset: true };
        let wire: Vec<WireEntry> = list(&self.rest, &what, endpoint, MAX_ENTRIES + 1).await?;
        if wire.len() > MAX_ENTRIES {
            return Err(refused(&what, 413, "the folder has too many entries".into()));
        }
        Ok(wire
            .into_iter()
            .map(|entry| TreeEntry {
                kind: match (entry.kind.as_str(), entry.mode.as_str()) {
                    ("tree", _) => TreeKind::Folder,
                    ("blob", "100644" | "100755" | "100664") => TreeKind::File,
                    _ => TreeKind::Other,
                },
                executable: entry.mode == "100755",
                name: entry.name,
                id: entry.id,
            })
            .collect())
    }

    async fn file(&self, repo: &RepoName, sha: &Sha, path: &str) -> Result<Vec<u8>, ForgeError> {
        let what = shown(repo, format_args!("{path:?} at {}", sha.short()));
        if path.split('/').any(climbs) {
            return Err(ForgeError::NotFound { what });
        }
        let endpoint = FileRaw::builder()
            .project(repo.as_str())
            .file_path(path)
            .ref_(sha.as_str())
            .build()
            .map_err(|e| unreadable(&what, e))?;
        bytes(&self.rest, &what, endpoint, MAX_FILE).await
    }

    async fn merge_base(&self, repo: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError> {
        let what = shown(repo, format_args!("merge-base of {base:?} and {}", head.short()));
        let endpoint = Get {
            path: format!("{}/repository/merge_base", project_path(repo)),
            parameters: vec![("refs[]", base.to_owned()), ("refs[]", head.to_string())],
            keyset: false,
        };
        match ask::<WireCommit, _>(&self.rest, &what, &endpoint).await {
            Ok(wire) => sha_of(&what, &wire.id).map(Some),
            Err(ForgeError::NotFound { .. }) => {
                // 404 says both that a ref is missing and that the histories do not meet.
                self.history(repo, head, 1).await?;
                let endpoint = Get {
                    path: format!("{}/repository/commits/{}", project_path(repo), encode(base)),
                    parameters: Vec::new(),
                    keyset: false,
                };
                ask::<WireCommit, _>(&self.rest, &what, &endpoint).await.map(|_| None)
            }
            // 400: "Could not find ref".
            Err(ForgeError::Refused { status: 400, .. }) => Err(ForgeError::NotFound { what }),
            Err(error) => Err(error),
        }
    }

    async fn history(&self, repo: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError> {
        let what = shown(repo, format_args!("history of {}", sha.short()));
        let endpoint = Commits::builder()
            .project(repo.as_str())
            .ref_name(sha.as_str())
            .build()
            .map_err(|e| unreadable(&what, e))?;
        let wire: Vec<WireCommit> = list(&self.rest, &what, endpoint, limit as usize).await?;
        wire.iter().take(limit as usize).map(|commit| sha_of(&what, &commit.id)).collect()
    }

    async fn permission(&self, repo: &RepoName, who: &Actor) -> Result<Permission, ForgeError> {
        let what = shown(repo, format_args!("membership of {:?}", who.login));
        let Ok(user) = who.id.parse::<u64>() else { return Ok(Permission::None) };
        let endpoint = AllProjectMember::builder()
            .project(repo.as_str())
            .user(user)
            .build()
            .map_err(|e| unreadable(&what, e))?;
        let member: WireMember = match ask(&self.rest, &what, &endpoint).await {
            Ok(member) => member,
            Err(ForgeError::NotFound { .. }) => return Ok(Permission::None),
            Err(error) => return Err(error),
        };
        if member.state.is_some_and(|state| state != "active") {
            return Ok(Permission::None);
        }
        // docs.gitlab.com/api/access_requests: 30 developer, 40 maintainer, 50 owner.
        Ok(match member.access_level {
            40.. => Permission::Admin,
            30..40 => Permission::Write,
            10..30 => Permission::Read,
            _ => Permission::None,
        })
    }

    async fn has_merged_change(&self, repo: &RepoName, who: &Actor) -> Result<bool, ForgeError> {
        let what = shown(repo, format_args!("merged merge requests of {:?}", who.login));
        let Ok(user) = who.id.parse::<u64>() else { return Ok(false) };
        let endpoint = MergeRequests::builder()
            .project(repo.as_str())
            .author(user)
            .state(MergeRequestState::Merged)
            .build()
            .map_err(|e| unreadable(&what, e))?;
        let wire: Vec<WireMerged> = list(&self.rest, &what, endpoint, 1).await?;
        Ok(wire.iter().any(|m| m.state == "merged" && m.author.as_ref().is_some_and(|a| a.id == user)))
    }

    async fn pull(&self, repo: &RepoName, number: i64) -> Result<PullRequest, ForgeError> {
        let what = shown(repo, format_args!("merge request {number}"));
        let bad = |why: String| unreadable(&what, why);
        let iid = u64::try_from(number).map_err(|_| ForgeError::NotFound { what: what.clone() })?;
        let endpoint = MergeRequest::builder()
            .project(repo.as_str())
            .merge_request(iid)
            .build()
            .map_err(|e| unreadable(&what, e))?;
        let wire: WireMergeRequest = ask(&self.rest, &what, &endpoint).await?;
        let head = wire.sha.ok_or_else(|| bad("the merge request has no commit".into()))?;
        let start = wire.diff_refs.and_then(|refs| refs.start_sha);
        Ok(PullRequest {
            number,
            title: wire.title,
            author: wire.author.map_or_else(|| Actor { id: "0".into(), login: "ghost".into() }, Actor::from),
            head_sha: sha_of(&what, &head)?,
            head_branch: wire.source_branch,
            base_branch: wire.target_branch,
            base_sha: start.map(|sha| sha_of(&what, &sha)).transpose()?,
            fork: wire.source_project_id != Some(wire.target_project_id),
            draft: wire.draft.or(wire.work_in_progress).unwrap_or(false),
            open: matches!(wire.state.as_str(), "opened" | "locked"),
        })
    }

    async fn set_status(&self, repo: &RepoName, sha: &Sha, status: &Status) -> Result<(), ForgeError> {
        let what = shown(repo, format_args!("status {:?} of {}", status.context, sha.short()));
        let description = &status.description[..status.description.floor_char_boundary(MAX_STATUS_TEXT)];
        let (state, word) = state_of(status.state);
        let key = format!("{repo}@{sha}");
        let mut pipelines = self.pipelines.lock().await;
        let mut builder = CreateCommitStatus::builder();
        builder
            .project(repo.as_str())
            .commit(sha.as_str())
            .state(state)
            .name(status.context.as_str())
            .description(description);
        if (1..=MAX_STATUS_TEXT).contains(&status.target_url.len()) {
            builder.target_url(status.target_url.as_str());
        }
        if let Some((_, pipeline)) = pipelines.iter().find(|(known, _)| *known == key) {
            builder.pipeline_id(*pipeline);
        }
        let endpoint = builder.build().map_err(|e| refused(&what, 400, e.to_string()))?;
        let wire = match ask::<WireStatus, _>(&self.rest, &what, &endpoint).await {
            Ok(wire) => wire,
            // It is in that state already, so GitLab refuses the step to it, but has taken the new text. See what it shows.
            Err(ForgeError::Refused { status: 400, message, .. })
                if message.contains("Cannot transition status") =>
            {
                let now = self.shown_status(&what, repo, sha, &status.context).await?;
                match now.filter(|now| now.status == word) {
                    Some(now) if now.description.as_deref().unwrap_or_default() == description => now,
                    _ => return Err(ForgeError::Refused { what, status: 400, message }),
                }
            }
            Err(error) => return Err(error),
        };
        if let Some(pipeline) = wire.pipeline_id {
            pipelines.retain(|(known, _)| *known != key);
            pipelines.push_back((key, pipeline));
            if pipelines.len() > MAX_PIPELINES {
                pipelines.pop_front();
            }
        }
        Ok(())
    }

    async fn comments(&self, repo: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError> {
        let what = shown(repo, format_args!("notes of merge request {number}"));
        let iid = u64::try_from(number).map_err(|_| ForgeError::NotFound { what: what.clone() })?;
        let endpoint = MergeRequestNotes::builder()
            .project(repo.as_str())
            .merge_request(iid)
            .order_by(NoteOrderBy::CreatedAt)
            .sort(SortOrder::Ascending)
            .build()
            .map_err(|e| unreadable(&what, e))?;
        let wire: Vec<WireNote> = list(&self.rest, &what, endpoint, MAX_COMMENTS).await?;
        let nobody = || Actor { id: "0".into(), login: "ghost".into() };
        let notes = wire.into_iter().filter(|note| !note.system).map(|note| Comment {
            id: format!("{number}/{}", note.id),
            author: note.author.map_or_else(nobody, Actor::from),
            body: note.body,
        });
        Ok(notes.collect())
    }

    async fn create_comment(&self, repo: &RepoName, number: i64, body: &str) -> Result<String, ForgeError> {
        let what = shown(repo, format_args!("note on merge request {number}"));
        let iid = u64::try_from(number).map_err(|_| refused(&what, 404, "there is none".into()))?;
        let endpoint = CreateMergeRequestNote::builder()
            .project(repo.as_str())
            .merge_request(iid)
            .body(body)
            .build()
            .map_err(|e| refused(&what, 400, e.to_string()))?;
        let wire: WireId = ask(&self.rest, &what, &endpoint).await?;
        Ok(format!("{number}/{}", wire.id))
    }

    async fn edit_comment(&self, repo: &RepoName, id: &str, body: &str) -> Result<(), ForgeError> {
        let what = shown(repo, format_args!("note {}", encode(id)));
        let (merge_request, note) =
            note_id(id).ok_or_else(|| refused(&what, 404, "there is no such note".into()))?;
        let endpoint = EditMergeRequestNote::builder()
            .project(repo.as_str())
            .merge_request(merge_request)
            .note(note)
            .body(body)
            .build()
            .map_err(|e| refused(&what, 400, e.to_string()))?;
        ask::<WireId, _>(&self.rest, &what, &endpoint).await.map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            status_description: 255,
            comment_bytes: 1_000_000,
            change: ChangeWords::of(ForgeKind::Gitlab),
        }
    }

    fn git(&self, repo: &RepoName) -> GitAccess {
        let basic = BASE64_STANDARD.encode(format!("oauth2:{}", self.token.expose_secret()));
        GitAccess {
            url: format!("{}/{repo}.git", self.web),
            authorization: Some(format!("Basic {basic}").into()),
            http: self.git.clone(),
        }
    }

    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String {
        let home = format!("{}/{repo}", self.web);
        match what {
            WebPage::Repository => home,
            WebPage::Branch(name) => format!("{home}/-/tree/{}", encode_path(name)),
            WebPage::Commit(sha) => format!("{home}/-/commit/{sha}"),
            WebPage::Pull(number) => format!("{home}/-/merge_requests/{number}"),
        }
    }
}
