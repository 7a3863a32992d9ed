//! What a delivery means to us. A forge's parser turns its JSON into these; no forge type goes further.

use serde::{Deserialize, Serialize};

use super::ids::{RepoName, Sha};

/// One event about one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub repo: RepoRef,
    /// Who caused it, as the forge authenticated them (never a name from a commit).
    pub actor: Actor,
    pub kind: EventKind,
}

/// A repository as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoRef {
    /// The forge's own numeric id, as text: stable over renames and transfers.
    pub forge_id: String,
    pub name: RepoName,
    pub default_branch: String,
}

/// A forge account. Authority is looked up live by `id`; the login is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub id: String,
    pub login: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    Push(Push),
    Tag(TagPush),
    PullRequest(PullRequestEvent),
    Comment(CommentEvent),
    /// No forge's: data that a pipeline of the default branch watches has changed.
    Data(DataChange),
    Ping,
}

impl EventKind {
    /// The word used in `when: {event: …}` and in tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Push(_) => "push",
            Self::Tag(_) => "tag",
            Self::PullRequest(_) => "pull_request",
            Self::Comment(_) => "comment",
            Self::Data(_) => "data",
            Self::Ping => "ping",
        }
    }
}

/// A branch moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Branch name without `refs/heads/`.
    pub branch: String,
    /// None when the branch is new.
    pub before: Option<Sha>,
    /// None when the branch was deleted.
    pub after: Option<Sha>,
    pub forced: bool,
    /// The head commit's message, for people and for `[skip ci]`; empty on a delete.
    pub message: String,
}

/// A tag was made, moved or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagPush {
    /// Without `refs/tags/`.
    pub tag: String,
    /// None when the tag is new. The id of an annotated tag is the tag object's, not a commit's.
    pub before: Option<Sha>,
    /// None when the tag was deleted.
    pub after: Option<Sha>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequestEvent {
    pub action: PullRequestAction,
    pub pull: PullRequest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullRequestAction {
    Opened,
    /// New commits.
    Synchronized,
    Reopened,
    /// The base branch was changed.
    Retargeted,
    ReadyForReview,
    /// A label was put on or taken off.
    Labeled,
    Closed,
}

/// A pull request as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    pub number: i64,
    pub title: String,
    pub author: Actor,
    pub head_sha: Sha,
    pub head_branch: String,
    pub base_branch: String,
    /// Tip of the base branch; None where a forge's webhook does not say it (GitLab).
    pub base_sha: Option<Sha>,
    /// The head lives in another repository (or in none: the fork was deleted).
    pub fork: bool,
    pub draft: bool,
    pub open: bool,
}

/// A comment was created on a pull request. Stored; commands come later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommentEvent {
    pub pull_number: i64,
    pub comment_id: String,
    pub body: String,
}

/// What a watched prefix holds by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataChange {
    /// The default branch, and its commit when its pipeline files were last read.
    pub branch: String,
    pub sha: Sha,
    pub pipeline: String,
    /// As the pipeline file names it.
    pub prefix: String,
    /// Of the listing.
    pub digest: String,
    pub files: u64,
    pub bytes: u64,
}

/// Variable of a run that new data started: the listing's digest.
pub const DATA_DIGEST: &str = "CI_DATA_DIGEST";
/// Variable of a run that new data started: the prefix.
pub const DATA_PREFIX: &str = "CI_DATA_PREFIX";

/// What became of a verified delivery's parse: an event, or a reason why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "parsed", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one at a time, moved once")]
pub enum Parsed {
    Event(Event),
    /// Valid, but not something that trainyard acts on. 2xx, recorded with this reason.
    Ignored {
        reason: String,
    },
    /// Signed by a key we trust, yet not what the forge documents. 2xx, recorded, shown to the operator.
    BadPayload {
        reason: String,
    },
}
