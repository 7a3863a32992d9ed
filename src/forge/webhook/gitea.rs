//! Webhooks of Gitea and Forgejo: bare hexadecimal HMAC-SHA256 of the raw body in `X-Forgejo-Signature` or `X-Gitea-Signature`
//! (sent empty where the hook has no secret), a payload much like GitHub's, the event's name in `X-Gitea-Event`.
//!
//! Must not: trust a list of commits (it ends after five), follow a URL of a payload, let a payload's JSON out.

use serde::Deserialize;

use super::json::Object;
use super::parts::{Present, branch_name, cut, ghost, ignored, login, number, sha, shape, text, zero_or_sha};
use super::{SignatureError, json, mac};
use crate::model::{
    Actor, CommentEvent, Event, EventKind, Parsed, PullRequest, PullRequestAction, PullRequestEvent, Push,
    RepoName, RepoRef, TagPush,
};

/// Titles that begin so are of drafts; servers before 1.23 say it in no other way.
const DRAFT_TITLES: [&str; 2] = ["WIP:", "[WIP]"];

/// Checks `signatures` (every value of the one header that counts, as received) against every live secret.
pub fn verify(signatures: &[&[u8]], body: &[u8], secrets: &[&[u8]]) -> Result<(), SignatureError> {
    mac::verify_hex(signatures, b"", body, secrets)
}

/// The header value that Gitea would send for this body.
pub fn sign(secret: &[u8], body: &[u8]) -> String {
    mac::hex(secret, body)
}

/// Parses a verified payload. Never fails: what is not understood is `Ignored` or `BadPayload` with a reason.
pub fn parse(event: &str, payload: &[u8]) -> Parsed {
    let read = json::check_object(payload).and_then(|()| match event {
        "push" => push(payload),
        "create" => Ok(ignored("a new branch or tag is told by its push as well")),
        "delete" => delete(payload),
        "pull_request" => pull_request(payload),
        "issue_comment" => issue_comment(payload),
        other => Ok(ignored(format!("trainyard does not act on the event {:?}", cut(other, 60)))),
    });
    read.unwrap_or_else(|reason| Parsed::BadPayload { reason: cut(&reason, 500) })
}

fn event(repository: Object<Repository>, sender: Object<Account>, kind: EventKind) -> Result<Parsed, String> {
    Ok(Parsed::Event(Event { repo: repository.0.read()?, actor: sender.0.read()?, kind }))
}

fn push(payload: &[u8]) -> Result<Parsed, String> {
    let body: PushBody = shape(payload)?;
    let before = zero_or_sha("before", &body.before)?;
    let after = zero_or_sha("after", &body.after)?;
    if before.is_none() && after.is_none() {
        return Err("both `before` and `after` are the zero id".into());
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
    // Gitea does not say whether a push was forced.
    let kind = EventKind::Push(Push { branch: branch_name(branch)?, before, after, forced: false, message });
    event(body.repository, body.sender, kind)
}

fn delete(payload: &[u8]) -> Result<Parsed, String> {
    let body: DeleteBody = shape(payload)?;
    let kind = match body.ref_type.as_str() {
        "branch" => EventKind::Push(Push {
            branch: branch_name(&body.git_ref)?,
            before: None,
            after: None,
            forced: false,
            message: String::new(),
        }),
        "tag" => EventKind::Tag(TagPush { tag: branch_name(&body.git_ref)?, before: None, after: None }),
        other => return Ok(ignored(format!("{:?} is no kind of ref that can be deleted", cut(other, 60)))),
    };
    event(body.repository, body.sender, kind)
}

fn pull_request(payload: &[u8]) -> Result<Parsed, String> {
    let Action { action } = shape(payload)?;
    let action = match action.as_str() {
        "opened" => PullRequestAction::Opened,
        "synchronized" => PullRequestAction::Synchronized,
        "reopened" => PullRequestAction::Reopened,
        "closed" => PullRequestAction::Closed,
        "label_updated" | "label_cleared" => PullRequestAction::Labeled,
        "edited" => {
            let edit: EditBody = shape(payload)?;
            let (changes, title) = (edit.changes.0, edit.pull_request.0.title);
            match changes.title {
                _ if changes.base.is_some() => PullRequestAction::Retargeted,
                Some(was) if is_draft_title(&was.0.from) && !is_draft_title(&title) => {
                    PullRequestAction::ReadyForReview
                }
                _ => {
                    return Ok(ignored(
                        "the pull request was edited, but neither its base branch nor its being a draft",
                    ));
                }
            }
        }
        other => {
            return Ok(ignored(format!(
                "trainyard does not act on the pull request action {:?}",
                cut(other, 60)
            )));
        }
    };
    let body: PullBody = shape(payload)?;
    let pull = body.pull_request.0.read()?;
    event(body.repository, body.sender, EventKind::PullRequest(PullRequestEvent { action, pull }))
}

fn issue_comment(payload: &[u8]) -> Result<Parsed, String> {
    let Action { action } = shape(payload)?;
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

fn is_draft_title(title: &str) -> bool {
    let title = title.trim_start();
    DRAFT_TITLES.iter().any(|mark| title.get(..mark.len()).is_some_and(|t| t.eq_ignore_ascii_case(mark)))
}

// The parts of Gitea's payloads that are read. Everything else in them is skipped.

#[derive(Deserialize)]
struct Action {
    action: String,
}

/// Ghosts and the servers' own bots have negative ids.
#[derive(Deserialize)]
struct Account {
    id: i64,
    login: String,
}

impl Account {
    fn read(self) -> Result<Actor, String> {
        Ok(Actor { id: self.id.to_string(), login: login(&self.login)? })
    }
}

#[derive(Deserialize)]
struct Repository {
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
    head_commit: Option<Object<HeadCommit>>,
    repository: Object<Repository>,
    sender: Object<Account>,
}

#[derive(Deserialize)]
struct HeadCommit {
    message: String,
}

#[derive(Deserialize)]
struct DeleteBody {
    /// The short name.
    #[serde(rename = "ref")]
    git_ref: String,
    ref_type: String,
    repository: Object<Repository>,
    sender: Object<Account>,
}

#[derive(Deserialize)]
struct EditBody {
    changes: Object<Changes>,
    pull_request: Object<Titled>,
}

#[derive(Deserialize)]
struct Titled {
    title: String,
}

#[derive(Deserialize)]
struct Changes {
    #[serde(default, rename = "ref")]
    base: Option<Object<Present>>,
    #[serde(default)]
    title: Option<Object<From>>,
}

#[derive(Deserialize)]
struct From {
    from: String,
}

#[derive(Deserialize)]
struct PullBody {
    pull_request: Object<Pull>,
    repository: Object<Repository>,
    sender: Object<Account>,
}

/// A pull request: in a payload and, with the same fields, in an answer of the REST API.
#[derive(Deserialize)]
pub(in crate::forge) struct Pull {
    number: u64,
    title: String,
    state: String,
    #[serde(default)]
    draft: Option<bool>,
    user: Option<Object<Account>>,
    head: Object<PullEnd>,
    base: Object<PullEnd>,
}

#[derive(Deserialize)]
struct PullEnd {
    #[serde(rename = "ref")]
    branch: String,
    sha: String,
    /// -1 when the fork was deleted.
    repo_id: i64,
}

impl Pull {
    pub(in crate::forge) fn read(self) -> Result<PullRequest, String> {
        let open = match self.state.as_str() {
            "open" => true,
            "closed" => false,
            other => return Err(format!("{:?} is not the state of a pull request", cut(other, 60))),
        };
        let (head, base) = (self.head.0, self.base.0);
        Ok(PullRequest {
            number: number(self.number)?,
            title: text(&self.title),
            author: self.user.map_or_else(|| Ok(ghost()), |user| user.0.read())?,
            head_sha: sha("head.sha", &head.sha)?,
            head_branch: branch_name(&head.branch)?,
            base_branch: branch_name(&base.branch)?,
            base_sha: Some(sha("base.sha", &base.sha)?),
            fork: head.repo_id != base.repo_id,
            draft: self.draft.unwrap_or_else(|| is_draft_title(&self.title)),
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

#[cfg(test)]
mod tests;
