//! GitHub's webhooks: `X-Hub-Signature-256: sha256=<hex HMAC-SHA256(secret, raw body)>`, a JSON payload, the event's name in
//! `X-GitHub-Event`. What is read here is documented at docs.github.com/webhooks/webhook-events-and-payloads.
//!
//! Must not: trust a list of changed files or commits, follow a URL of a payload, let a payload's JSON out.

use serde::Deserialize;

use super::Reader;
use super::hub::{self, Account, PullHead, Repository};
use super::json::Object;
use super::parts::{Present, cut, ignored, shape};
use super::{SignatureError, json, mac};
use crate::model::{EventKind, Parsed, PullRequest, PullRequestAction};

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
        "push" => hub::push,
        "pull_request" => pull_request,
        "issue_comment" => hub::issue_comment,
        "ping" => ping,
        other => return Err(format!("trainyard does not act on the event {:?}", cut(other, 60))),
    })
}

fn pull_request(payload: &[u8]) -> Result<Parsed, String> {
    let action = hub::action(payload)?;
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
        other => return Ok(hub::unhandled(other)),
    };
    hub::pull_request(payload, action, Pull::read)
}

fn ping(payload: &[u8]) -> Result<Parsed, String> {
    let body: PingBody = shape(payload)?;
    match body.repository {
        Some(repository) => hub::event(repository, body.sender, EventKind::Ping),
        None => Ok(ignored("a ping of a hook that belongs to no single repository")),
    }
}

// The parts of GitHub's payloads that are read. Everything else in them is skipped.

#[derive(Deserialize)]
struct EditBody {
    changes: Object<Changes>,
}

#[derive(Deserialize)]
struct Changes {
    base: Option<Object<Present>>,
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
    /// Null when the fork was deleted.
    repo: Option<Object<PullRepo>>,
}

#[derive(Deserialize)]
struct PullRepo {
    id: u64,
}

impl Pull {
    pub(in crate::forge) fn read(self) -> Result<PullRequest, String> {
        let (head, base) = (self.head.0, self.base.0);
        let base_repo = base.repo.ok_or("the pull request has no base repository")?;
        let fork = head.repo.is_none_or(|head| head.0.id != base_repo.0.id);
        let draft = self.about.draft.unwrap_or(false);
        self.about.read((&head.branch, &head.sha), (&base.branch, &base.sha), fork, draft)
    }
}

#[derive(Deserialize)]
struct PingBody {
    #[serde(default)]
    repository: Option<Object<Repository>>,
    sender: Object<Account>,
}

#[cfg(test)]
mod tests;
