//! Webhooks of Gitea and Forgejo: bare hexadecimal HMAC-SHA256 of the raw body in `X-Forgejo-Signature` or `X-Gitea-Signature`
//! (sent empty where the hook has no secret), a payload much like GitHub's, the event's name in `X-Gitea-Event`.
//!
//! Must not: trust a list of commits (it ends after five), follow a URL of a payload, let a payload's JSON out.

use serde::Deserialize;

use super::Reader;
use super::hub::{self, Account, PullHead, Repository};
use super::json::Object;
use super::parts::{Present, branch_name, cut, ignored, shape};
use super::{SignatureError, json, mac};
use crate::model::{EventKind, Parsed, PullRequest, PullRequestAction, Push, TagPush};

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
    let read = match reader(event) {
        Ok(read) => read,
        Err(reason) => return ignored(reason),
    };
    json::check_object(payload)
        .and_then(|()| read(payload))
        .unwrap_or_else(|reason| Parsed::BadPayload { reason: cut(&reason, 500) })
}

/// Who reads the event's payload, or why nobody does.
pub(super) fn reader(event: &str) -> Result<Reader, String> {
    Ok(match event {
        // Gitea does not say whether a push was forced.
        "push" => hub::push,
        "create" => return Err("a new branch or tag is told by its push as well".into()),
        "delete" => delete,
        "pull_request" => pull_request,
        "issue_comment" => hub::issue_comment,
        other => return Err(format!("trainyard does not act on the event {:?}", cut(other, 60))),
    })
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
    hub::event(body.repository, body.sender, kind)
}

fn pull_request(payload: &[u8]) -> Result<Parsed, String> {
    let action = hub::action(payload)?;
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
        other => return Ok(hub::unhandled(other)),
    };
    hub::pull_request(payload, action, Pull::read)
}

fn is_draft_title(title: &str) -> bool {
    let title = title.trim_start();
    DRAFT_TITLES.iter().any(|mark| title.get(..mark.len()).is_some_and(|t| t.eq_ignore_ascii_case(mark)))
}

// The parts of Gitea's payloads that are read. Everything else in them is skipped.

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

/// A pull request: in a payload and, with the same fields, in an answer of the REST API.
#[derive(Deserialize)]
pub(in crate::forge) struct Pull {
    #[serde(flatten)]
    about: PullHead,
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
        let (head, base) = (self.head.0, self.base.0);
        let draft = self.about.draft.unwrap_or_else(|| is_draft_title(&self.about.title));
        self.about.read(
            (&head.branch, &head.sha),
            (&base.branch, &base.sha),
            head.repo_id != base.repo_id,
            draft,
        )
    }
}

#[cfg(test)]
mod tests;
