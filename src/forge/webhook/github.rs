//! GitHub's webhooks: `X-Hub-Signature-256: sha256=<hex HMAC-SHA256(secret, raw body)>`, a JSON payload, the event's name in
//! `X-GitHub-Event`. What is read here is documented at docs.github.com/webhooks/webhook-events-and-payloads.
//!
//! Must not: trust a list of changed files or commits, follow a URL of a payload, let a payload's JSON out.

use serde::Deserialize;

use super::json::Object;
use super::parts::{Present, branch_name, cut, ghost, ignored, number, sha, shape, text, zero_or_sha};
use super::{SignatureError, json, mac};
use crate::model::{
    Actor, CommentEvent, Event, EventKind, Parsed, PullRequest, PullRequestAction, PullRequestEvent, Push,
    RepoName, RepoRef, TagPush,
};

const PREFIX: &[u8] = b"sha256=";

/// Checks `signatures` (every value of the header as received) against every live secret.
pub fn verify(signatures: &[&[u8]], body: &[u8], secrets: &[&[u8]]) -> Result<(), SignatureError> {
    mac::verify_hex(signatures, PREFIX, body, secrets)
}

/// The header value that GitHub would send for this body.
pub fn sign(secret: &[u8], body: &[u8]) -> String {
    format!("sha256={}", mac::hex(secret, body))
}

/// Takes the JSON out of a body: as it is, or from the `payload` field of `application/x-www-form-urlencoded`.
///
/// The signature covers the raw body, so [`verify`] comes first.
pub fn payload(content_type: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(body.to_vec());
    }
    if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(
            "the content type is neither application/json nor application/x-www-form-urlencoded".into()
        );
    }
    let mut found = None;
    for pair in body.split(|b| *b == b'&') {
        let cut = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        if form_decode(&pair[..cut])? == b"payload" {
            let value = form_decode(pair.get(cut + 1..).unwrap_or_default())?;
            if found.replace(value).is_some() {
                return Err("the form has more than one field `payload`".into());
            }
        }
    }
    found.ok_or_else(|| "the form has no field `payload`".into())
}

fn form_decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let mut byte = [0u8];
                let digits = rest.get(..2).ok_or("the form ends within a percent escape")?;
                hex::decode_to_slice(digits, &mut byte)
                    .map_err(|_| "the form has a broken percent escape")?;
                out.push(byte[0]);
                rest = &rest[2..];
            }
            other => out.push(*other),
        }
    }
    Ok(out)
}

/// Parses a verified payload. Never fails: what is not understood is `Ignored` or `BadPayload` with a reason.
pub fn parse(event: &str, payload: &[u8]) -> Parsed {
    let read = json::check_object(payload).and_then(|()| match event {
        "push" => push(payload),
        "pull_request" => pull_request(payload),
        "issue_comment" => issue_comment(payload),
        "ping" => ping(payload),
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
    if body.deleted != after.is_none() {
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

fn pull_request(payload: &[u8]) -> Result<Parsed, String> {
    let Action { action } = shape(payload)?;
    let action = match action.as_str() {
        "opened" => PullRequestAction::Opened,
        "synchronize" => PullRequestAction::Synchronized,
        "reopened" => PullRequestAction::Reopened,
        "ready_for_review" => PullRequestAction::ReadyForReview,
        "closed" => PullRequestAction::Closed,
        "labeled" | "unlabeled" => PullRequestAction::Labeled,
        "edited" => {
            let edit: EditBody = shape(payload)?;
            if edit.changes.0.base.is_none() {
                return Ok(ignored("the pull request was edited, but its base branch was not"));
            }
            PullRequestAction::Retargeted
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

fn ping(payload: &[u8]) -> Result<Parsed, String> {
    let body: PingBody = shape(payload)?;
    match body.repository {
        Some(repository) => event(repository, body.sender, EventKind::Ping),
        None => Ok(ignored("a ping of a hook that belongs to no single repository")),
    }
}

// The parts of GitHub's payloads that are read. Everything else in them is skipped.

#[derive(Deserialize)]
struct Action {
    action: String,
}

#[derive(Deserialize)]
struct Account {
    id: u64,
    login: String,
}

impl Account {
    fn read(self) -> Result<Actor, String> {
        if self.login.is_empty() || self.login.len() > 255 || self.login.chars().any(char::is_control) {
            return Err(format!("the account name {:?} is not usable", cut(&self.login, 60)));
        }
        Ok(Actor { id: self.id.to_string(), login: self.login })
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
    deleted: bool,
    forced: bool,
    head_commit: Option<Object<HeadCommit>>,
    repository: Object<Repository>,
    sender: Object<Account>,
}

#[derive(Deserialize)]
struct HeadCommit {
    message: String,
}

#[derive(Deserialize)]
struct EditBody {
    changes: Object<Changes>,
}

#[derive(Deserialize)]
struct Changes {
    base: Option<Object<Present>>,
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
    /// Absent on old GitHub Enterprise Servers.
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
    /// Null when the fork was deleted.
    repo: Option<Object<PullRepo>>,
}

#[derive(Deserialize)]
struct PullRepo {
    id: u64,
}

impl Pull {
    pub(in crate::forge) fn read(self) -> Result<PullRequest, String> {
        let open = match self.state.as_str() {
            "open" => true,
            "closed" => false,
            other => return Err(format!("{:?} is not the state of a pull request", cut(other, 60))),
        };
        let (head, base) = (self.head.0, self.base.0);
        let base_repo = base.repo.ok_or("the pull request has no base repository")?;
        Ok(PullRequest {
            number: number(self.number)?,
            title: text(&self.title),
            author: self.user.map_or_else(|| Ok(ghost()), |user| user.0.read())?,
            head_sha: sha("head.sha", &head.sha)?,
            head_branch: branch_name(&head.branch)?,
            base_branch: branch_name(&base.branch)?,
            base_sha: Some(sha("base.sha", &base.sha)?),
            fork: head.repo.is_none_or(|head| head.0.id != base_repo.0.id),
            draft: self.draft.unwrap_or(false),
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

#[derive(Deserialize)]
struct PingBody {
    #[serde(default)]
    repository: Option<Object<Repository>>,
    sender: Object<Account>,
}

#[cfg(test)]
mod tests;
