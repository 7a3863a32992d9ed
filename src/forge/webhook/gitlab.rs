//! GitLab's webhooks. A signing token signs as Standard Webhooks do (`webhook-id`, `webhook-timestamp`, `webhook-signature`); the
//! older secret token is sent in clear in `X-Gitlab-Token` and proves less: it is read only where a hook is configured so.
//!
//! What a payload is about says its own `object_kind`: the header that names the event is not covered by the signature.
//!
//! Must not: trust a list of commits (it ends after twenty), take authority from a name in a commit, let a payload's JSON out.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::STANDARD};
use serde::Deserialize;
use subtle::{Choice, ConstantTimeEq};

use super::json::Object;
use super::parts::{Present, branch_name, cut, ignored, login, number, sha, shape, text, zero_or_sha};
use super::{SignatureError, json, mac};
use crate::model::{
    Actor, CommentEvent, Event, EventKind, Parsed, PullRequest, PullRequestAction, PullRequestEvent, Push,
    RepoName, RepoRef, TagPush,
};

/// What stands before the base64 of a signing token.
pub const TOKEN_PREFIX: &str = "whsec_";
/// Standard Webhooks: how far the timestamp may lie from now, both ways.
const TOLERANCE_MS: i64 = 5 * 60 * 1000;
/// Signatures that one request may carry; each costs a comparison with each secret.
const MAX_SIGNATURES: usize = 16;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The three headers of Standard Webhooks, as received.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub id: &'a [u8],
    /// Seconds since 1970, in digits.
    pub timestamp: &'a [u8],
    /// `v1,` and base64, several separated by spaces.
    pub signatures: &'a [u8],
}

/// The key of a signing token: `whsec_` (or nothing) and base64. None: it is not one.
pub fn signing_key(token: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(token).ok()?.trim();
    let key = LENIENT.decode(text.strip_prefix(TOKEN_PREFIX).unwrap_or(text)).ok()?;
    (!key.is_empty()).then_some(key)
}

/// Checks a request that a signing token signed: any of its signatures, by any live token, within five minutes of `now_ms`
/// (github.com/standard-webhooks/standard-webhooks, spec section "Verifying").
pub fn verify(signed: Signed<'_>, body: &[u8], tokens: &[&[u8]], now_ms: i64) -> Result<(), SignatureError> {
    let keys: Vec<Vec<u8>> = mac::live(tokens)?.into_iter().filter_map(signing_key).collect();
    if keys.is_empty() {
        return Err(SignatureError::Closed);
    }
    if signed.id.is_empty() {
        return Err(SignatureError::Missing);
    }
    // The parts are joined by dots: one in the id would let a signature stand for another id and another body.
    if signed.id.contains(&b'.') {
        return Err(SignatureError::Malformed);
    }
    let at_ms = std::str::from_utf8(signed.timestamp)
        .ok()
        .filter(|text| (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse::<i64>().ok())
        .ok_or(SignatureError::Malformed)?
        .saturating_mul(1000);
    let claims: Vec<&[u8]> =
        signed.signatures.split(|b| *b == b' ').filter(|part| !part.is_empty()).collect();
    if claims.is_empty() {
        return Err(SignatureError::Missing);
    }
    if claims.len() > MAX_SIGNATURES {
        return Err(SignatureError::Malformed);
    }
    let right: Vec<[u8; 32]> =
        keys.iter().map(|key| mac::bytes(key, &[signed.id, b".", signed.timestamp, b".", body])).collect();
    let (mut matches, mut readable) = (Choice::from(0), false);
    for claim in claims {
        // Other versions (`v1a`, by a public key) are for other receivers.
        let Some(claim) = claim.strip_prefix(b"v1,") else { continue };
        let Ok(claim) = STANDARD.decode(claim) else { continue };
        let Ok(claim) = <[u8; 32]>::try_from(claim) else { continue };
        readable = true;
        for right in &right {
            matches |= right.ct_eq(&claim);
        }
    }
    if !readable {
        return Err(SignatureError::Malformed);
    }
    if !bool::from(matches) {
        return Err(SignatureError::Mismatch);
    }
    if (now_ms - at_ms).abs() > TOLERANCE_MS {
        return Err(SignatureError::Stale);
    }
    Ok(())
}

/// The value of `webhook-signature` that GitLab would send.
pub fn sign(token: &[u8], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let key = signing_key(token).unwrap_or_default();
    let stamp = timestamp_s.to_string();
    format!("v1,{}", STANDARD.encode(mac::bytes(&key, &[id.as_bytes(), b".", stamp.as_bytes(), b".", body])))
}

/// Checks a plain token, for hooks that are configured for that alone. `tokens` is every value of the header as received.
pub fn verify_plain(given: &[&[u8]], tokens: &[&[u8]]) -> Result<(), SignatureError> {
    let tokens = mac::live(tokens)?;
    let given = match given {
        [] => return Err(SignatureError::Missing),
        [one] => *one,
        _ => return Err(SignatureError::Repeated),
    };
    // Of equal length whatever was sent, so that the comparison's time says nothing about a token.
    let digest = |text: &[u8]| mac::bytes(b"trainyard", &[text]);
    let claimed = digest(given);
    let matches = tokens.iter().fold(Choice::from(0), |found, token| found | digest(token).ct_eq(&claimed));
    if matches.into() { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// Parses a verified payload. Never fails: what is not understood is `Ignored` or `BadPayload` with a reason.
pub fn parse(payload: &[u8]) -> Parsed {
    let read = json::check_object(payload).and_then(|()| {
        let Kind { object_kind, event_name } = shape(payload)?;
        match (object_kind.as_deref(), event_name) {
            (Some("push"), _) => push(payload),
            (Some("tag_push"), _) => tag_push(payload),
            (Some("merge_request"), _) => merge_request(payload),
            (Some("note"), _) => note(payload),
            (Some(other), _) => {
                Ok(ignored(format!("trainyard does not act on the event {:?}", cut(other, 60))))
            }
            (None, Some(name)) => Ok(ignored(format!(
                "{:?} comes from a system hook: use a hook of the project or its group",
                cut(&name, 60)
            ))),
            (None, None) => {
                Ok(ignored("the payload does not say what it is about: it is not one of GitLab's own"))
            }
        }
    });
    read.unwrap_or_else(|reason| Parsed::BadPayload { reason: cut(&reason, 500) })
}

/// What a push of a branch or a tag says.
struct Moved {
    event: PushBody,
    before: Option<crate::model::Sha>,
    after: Option<crate::model::Sha>,
}

fn moved(payload: &[u8]) -> Result<Moved, String> {
    let event: PushBody = shape(payload)?;
    let before = zero_or_sha("before", &event.before)?;
    let after = zero_or_sha("after", &event.after)?;
    if before.is_none() && after.is_none() {
        return Err("both `before` and `after` are the zero id".into());
    }
    Ok(Moved { event, before, after })
}

fn push(payload: &[u8]) -> Result<Parsed, String> {
    let Moved { event: body, before, after } = moved(payload)?;
    let Some(branch) = body.git_ref.strip_prefix("refs/heads/") else {
        return Ok(ignored(format!("the push is to a ref that is no branch: {:?}", cut(&body.git_ref, 100))));
    };
    let branch = branch_name(branch)?;
    // The list ends after twenty commits, and holds the newest ones.
    let head = after.as_ref().and_then(|after| {
        let commits = body.commits.unwrap_or_default();
        commits.into_iter().find(|commit| commit.0.id == after.as_str())
    });
    let message = head.map(|commit| text(&commit.0.message)).unwrap_or_default();
    let repo = body.project.0.read(body.project_id, &branch)?;
    let actor = actor(body.user_id, body.user_username.as_deref())?;
    let kind = EventKind::Push(Push { branch, before, after, forced: false, message });
    Ok(Parsed::Event(Event { repo, actor, kind }))
}

fn tag_push(payload: &[u8]) -> Result<Parsed, String> {
    let Moved { event: body, before, after } = moved(payload)?;
    let Some(tag) = body.git_ref.strip_prefix("refs/tags/") else {
        return Err(format!("a tag push is to {:?}", cut(&body.git_ref, 100)));
    };
    let kind = EventKind::Tag(TagPush { tag: branch_name(tag)?, before, after });
    let repo = body.project.0.read(body.project_id, "main")?;
    let actor = actor(body.user_id, body.user_username.as_deref())?;
    Ok(Parsed::Event(Event { repo, actor, kind }))
}

fn merge_request(payload: &[u8]) -> Result<Parsed, String> {
    let body: MergeRequestBody = shape(payload)?;
    let (it, changes) = (body.object_attributes.0, body.changes.map(|c| c.0).unwrap_or_default());
    let Some(word) = it.action.as_deref() else {
        return Ok(ignored("the merge request event has no action, as those of system hooks"));
    };
    let undrafted = |change: &Option<Object<Change>>| {
        change.as_ref().is_some_and(|c| c.0.previous == Some(true) && c.0.current == Some(false))
    };
    let action = match word {
        "open" => PullRequestAction::Opened,
        "reopen" => PullRequestAction::Reopened,
        "close" | "merge" => PullRequestAction::Closed,
        "update" if it.oldrev.is_some() => PullRequestAction::Synchronized,
        "update" if changes.target_branch.is_some() => PullRequestAction::Retargeted,
        "update" if undrafted(&changes.draft) || undrafted(&changes.work_in_progress) => {
            PullRequestAction::ReadyForReview
        }
        "update" if changes.labels.is_some() => PullRequestAction::Labeled,
        "update" => {
            return Ok(ignored(
                "the merge request was edited: not its commits, its target branch, its labels or its being a draft",
            ));
        }
        other => {
            return Ok(ignored(format!(
                "trainyard does not act on the merge request action {:?}",
                cut(other, 60)
            )));
        }
    };
    let Some(head) = it.last_commit else {
        return Ok(ignored("the merge request has no commit"));
    };
    let base_branch = branch_name(&it.target_branch)?;
    let user = body.user.0;
    let known = user.username.as_deref().filter(|_| user.id == Some(it.author_id));
    let pull = PullRequest {
        number: number(it.iid)?,
        title: text(&it.title),
        author: actor(it.author_id, known)?,
        head_sha: sha("last_commit.id", &head.0.id)?,
        head_branch: branch_name(&it.source_branch)?,
        base_sha: None,
        // Null when the fork was deleted.
        fork: it.source_project_id != Some(it.target_project_id),
        draft: it.draft.or(it.work_in_progress).unwrap_or(false),
        open: match it.state.as_str() {
            "opened" | "locked" | "reopened" => true,
            "closed" | "merged" => false,
            other => return Err(format!("{:?} is not the state of a merge request", cut(other, 60))),
        },
        base_branch,
    };
    let repo = body.project.0.read(body.project_id, &pull.base_branch)?;
    let actor = actor(user.id.unwrap_or(0), user.username.as_deref())?;
    Ok(Parsed::Event(Event { repo, actor, kind: EventKind::PullRequest(PullRequestEvent { action, pull }) }))
}

fn note(payload: &[u8]) -> Result<Parsed, String> {
    let Noted { object_attributes: about } = shape(payload)?;
    if about.0.noteable_type != "MergeRequest" {
        return Ok(ignored(format!(
            "the note is on {:?}, not on a merge request",
            cut(&about.0.noteable_type, 60)
        )));
    }
    let body: NoteBody = shape(payload)?;
    let it = body.object_attributes.0;
    if it.system {
        return Ok(ignored("GitLab wrote the note itself"));
    }
    // Servers before 16 name no action.
    let created = match it.action.as_deref() {
        Some(action) => action == "create",
        None => it.created_at == it.updated_at,
    };
    if !created {
        return Ok(ignored("notes are read when they are created, not when they are edited"));
    }
    let merge_request = body.merge_request.0;
    let kind = EventKind::Comment(CommentEvent {
        pull_number: number(merge_request.iid)?,
        comment_id: format!("{}/{}", merge_request.iid, it.id),
        body: text(&it.note),
    });
    let user = body.user.0;
    let repo = body.project.0.read(body.project_id, &merge_request.target_branch)?;
    let actor = actor(user.id.unwrap_or(0), user.username.as_deref())?;
    Ok(Parsed::Event(Event { repo, actor, kind }))
}

/// An account by its number; where the payload lacks the name, the number stands for it.
fn actor(id: u64, name: Option<&str>) -> Result<Actor, String> {
    let login = name.map_or_else(|| Ok(format!("user {id}")), login)?;
    Ok(Actor { id: id.to_string(), login })
}

// The parts of GitLab's payloads that are read. Everything else in them is skipped.

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    object_kind: Option<String>,
    #[serde(default)]
    event_name: Option<String>,
}

#[derive(Deserialize)]
struct Project {
    /// Servers before 13 send it beside the project, as `project_id`.
    #[serde(default)]
    id: Option<u64>,
    path_with_namespace: String,
    /// Null while the repository is empty.
    #[serde(default)]
    default_branch: Option<String>,
}

impl Project {
    fn read(self, beside: Option<u64>, else_branch: &str) -> Result<RepoRef, String> {
        let id = self.id.or(beside).ok_or("the payload does not say the project's number")?;
        Ok(RepoRef {
            forge_id: id.to_string(),
            name: RepoName::parse(&self.path_with_namespace).map_err(|e| e.to_string())?,
            default_branch: branch_name(self.default_branch.as_deref().unwrap_or(else_branch))?,
        })
    }
}

#[derive(Deserialize)]
struct User {
    /// Servers before 13 do not send it.
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    username: Option<String>,
}

#[derive(Deserialize)]
struct PushBody {
    #[serde(rename = "ref")]
    git_ref: String,
    before: String,
    after: String,
    user_id: u64,
    #[serde(default)]
    user_username: Option<String>,
    #[serde(default)]
    commits: Option<Vec<Object<ListedCommit>>>,
    project: Object<Project>,
    #[serde(default)]
    project_id: Option<u64>,
}

#[derive(Deserialize)]
struct ListedCommit {
    id: String,
    message: String,
}

#[derive(Deserialize)]
struct MergeRequestBody {
    user: Object<User>,
    project: Object<Project>,
    #[serde(default)]
    project_id: Option<u64>,
    object_attributes: Object<MergeRequest>,
    #[serde(default)]
    changes: Option<Object<Changes>>,
}

#[derive(Deserialize)]
struct MergeRequest {
    iid: u64,
    title: String,
    state: String,
    author_id: u64,
    source_branch: String,
    target_branch: String,
    source_project_id: Option<u64>,
    target_project_id: u64,
    #[serde(default)]
    draft: Option<bool>,
    #[serde(default)]
    work_in_progress: Option<bool>,
    #[serde(default)]
    last_commit: Option<Object<LastCommit>>,
    #[serde(default)]
    action: Option<String>,
    /// The head before; only when commits were pushed.
    #[serde(default)]
    oldrev: Option<String>,
}

#[derive(Deserialize)]
struct LastCommit {
    id: String,
}

#[derive(Default, Deserialize)]
struct Changes {
    #[serde(default)]
    target_branch: Option<Object<Present>>,
    #[serde(default)]
    draft: Option<Object<Change>>,
    #[serde(default)]
    work_in_progress: Option<Object<Change>>,
    #[serde(default)]
    labels: Option<Object<Present>>,
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    previous: Option<bool>,
    #[serde(default)]
    current: Option<bool>,
}

#[derive(Deserialize)]
struct Noted {
    object_attributes: Object<Noteable>,
}

#[derive(Deserialize)]
struct Noteable {
    noteable_type: String,
}

#[derive(Deserialize)]
struct NoteBody {
    user: Object<User>,
    project: Object<Project>,
    #[serde(default)]
    project_id: Option<u64>,
    object_attributes: Object<NotePart>,
    merge_request: Object<NotedMergeRequest>,
}

#[derive(Deserialize)]
struct NotePart {
    id: u64,
    note: String,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    system: bool,
    created_at: String,
    updated_at: String,
}

#[derive(Deserialize)]
struct NotedMergeRequest {
    iid: u64,
    target_branch: String,
}

#[cfg(test)]
mod tests;
