//! What Gitea's payloads took over from GitHub's: accounts, repositories, comments and the outline of pushes and pull requests.

use serde::Deserialize;

use super::json::Object;
use super::parts::{Present, branch_name, cut, ghost, ignored, login, number, sha, shape, text, zero_or_sha};
use crate::model::{
    Actor, CommentEvent, Event, EventKind, Parsed, PullRequest, PullRequestAction, PullRequestEvent, Push,
    RepoName, RepoRef, TagPush,
};

pub(super) fn event(
    repository: Object<Repository>,
    sender: Object<Account>,
    kind: EventKind,
) -> Result<Parsed, String> {
    Ok(Parsed::Event(Event { repo: repository.0.read()?, actor: sender.0.read()?, kind }))
}

/// A push to a branch or a tag. `deleted` is absent where the forge does not say it; `forced` likewise counts as false.
pub(super) fn push(payload: &[u8]) -> Result<Parsed, String> {
    let body: PushBody = shape(payload)?;
    let before = zero_or_sha("before", &body.before)?;
    let after = zero_or_sha("after", &body.after)?;
    if before.is_none() && after.is_none() {
        return Err("both `before` and `after` are the zero id".into());
    }
    if body.deleted.is_some_and(|deleted| deleted != after.is_none()) {
        return Err("`deleted` and `after` contradict each other".into());
    }
    if let Some(tag) = body.git_ref.strip_prefix("refs/tags/") {
        let kind = EventKind::Tag(TagPush { tag: branch_name(tag)?, before, after });
        return event(body.repository, body.sender, kind);
    }
    let Some(branch) = body.git_ref.strip_prefix("refs/heads/") else {
        return Ok(ignored(format!(
            "the push is to a ref that is no branch and no tag: {:?}",
            cut(&body.git_ref, 100)
        )));
    };
    let message =
        body.head_commit.filter(|_| after.is_some()).map(|c| text(&c.0.message)).unwrap_or_default();
    let kind =
        EventKind::Push(Push { branch: branch_name(branch)?, before, after, forced: body.forced, message });
    event(body.repository, body.sender, kind)
}

pub(super) fn action(payload: &[u8]) -> Result<String, String> {
    shape::<Action>(payload).map(|body| body.action)
}

/// Reads the pull request of a payload whose action is known; `pull` is how this forge spells one.
pub(super) fn pull_request<P>(
    payload: &[u8],
    action: PullRequestAction,
    read: impl FnOnce(P) -> Result<PullRequest, String>,
) -> Result<Parsed, String>
where
    P: serde::de::DeserializeOwned,
{
    let body: PullBody<P> = shape(payload)?;
    let pull = read(body.pull_request.0)?;
    event(body.repository, body.sender, EventKind::PullRequest(PullRequestEvent { action, pull }))
}

pub(super) fn unhandled(action: &str) -> Parsed {
    ignored(format!("trainyard does not act on the pull request action {:?}", cut(action, 60)))
}

pub(super) fn issue_comment(payload: &[u8]) -> Result<Parsed, String> {
    let action = action(payload)?;
    if action != "created" {
        return Ok(ignored(format!(
            "comments are read when they are created, not when {:?}",
            cut(&action, 60)
        )));
    }
    let body: CommentBody = shape(payload)?;
    let (issue, comment) = (body.issue.0, body.comment.0);
    if issue.pull_request.is_none() {
        return Ok(ignored("the comment is on an issue, not on a pull request"));
    }
    let kind = EventKind::Comment(CommentEvent {
        pull_number: number(issue.number)?,
        comment_id: comment.id.to_string(),
        body: text(&comment.body.unwrap_or_default()),
    });
    event(body.repository, body.sender, kind)
}

// The parts of the payloads that are read. Everything else in them is skipped.

#[derive(Deserialize)]
struct Action {
    action: String,
}

/// Gitea's ghosts and bots have negative ids.
#[derive(Deserialize)]
pub(super) struct Account {
    id: i64,
    login: String,
}

impl Account {
    pub(super) fn read(self) -> Result<Actor, String> {
        Ok(Actor { id: self.id.to_string(), login: login(&self.login)? })
    }
}

#[derive(Deserialize)]
pub(super) struct Repository {
    id: u64,
    full_name: String,
    default_branch: String,
}

impl Repository {
    fn read(self) -> Result<RepoRef, String> {
        let name = RepoName::parse(&self.full_name).map_err(|e| e.to_string())?;
        if name.as_str().matches('/').count() != 1 {
            return Err(format!("{name} is not owner/name"));
        }
        Ok(RepoRef {
            forge_id: self.id.to_string(),
            name,
            default_branch: branch_name(&self.default_branch)?,
        })
    }
}

#[derive(Deserialize)]
struct PushBody {
    #[serde(rename = "ref")]
    git_ref: String,
    before: String,
    after: String,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(default)]
    forced: bool,
    #[serde(default)]
    head_commit: Option<Object<HeadCommit>>,
    repository: Object<Repository>,
    sender: Object<Account>,
}

#[derive(Deserialize)]
struct HeadCommit {
    message: String,
}

#[derive(Deserialize)]
struct PullBody<P> {
    pull_request: Object<P>,
    repository: Object<Repository>,
    sender: Object<Account>,
}

/// A pull request without its ends, whose repositories each forge names in its own way.
#[derive(Deserialize)]
pub(super) struct PullHead {
    number: u64,
    pub title: String,
    state: String,
    /// Absent on old servers.
    #[serde(default)]
    pub draft: Option<bool>,
    user: Option<Object<Account>>,
}

impl PullHead {
    /// `head` and `base`: branch and commit.
    pub(super) fn read(
        self,
        head: (&str, &str),
        base: (&str, &str),
        fork: bool,
        draft: bool,
    ) -> Result<PullRequest, String> {
        let open = match self.state.as_str() {
            "open" => true,
            "closed" => false,
            other => return Err(format!("{:?} is not the state of a pull request", cut(other, 60))),
        };
        Ok(PullRequest {
            number: number(self.number)?,
            title: text(&self.title),
            author: self.user.map_or_else(|| Ok(ghost()), |user| user.0.read())?,
            head_sha: sha("head.sha", head.1)?,
            head_branch: branch_name(head.0)?,
            base_branch: branch_name(base.0)?,
            base_sha: Some(sha("base.sha", base.1)?),
            fork,
            draft,
            open,
        })
    }
}

#[derive(Deserialize)]
struct CommentBody {
    issue: Object<Issue>,
    comment: Object<CommentPart>,
    repository: Object<Repository>,
    sender: Object<Account>,
}

#[derive(Deserialize)]
struct Issue {
    number: u64,
    /// Only a pull request's issue has it.
    #[serde(default)]
    pull_request: Option<Object<Present>>,
}

#[derive(Deserialize)]
struct CommentPart {
    id: u64,
    body: Option<String>,
}
