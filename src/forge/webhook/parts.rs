//! What the parsers of several forges read in the same way: commit ids, branch names, texts.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::ids::is_zero_sha;
use crate::model::{Actor, Parsed, Sha};

/// Longest text that leaves a parser, in bytes: a commit message is bounded by nothing else.
pub(super) const MAX_TEXT: usize = 64 * 1024;

pub(super) fn ignored(reason: impl Into<String>) -> Parsed {
    Parsed::Ignored { reason: reason.into() }
}

/// The account that stands in the place of a deleted one. Its id is nobody's, so it has no authority.
pub(super) fn ghost() -> Actor {
    Actor { id: "0".into(), login: "ghost".into() }
}

/// An account's name, if it is one that can be shown and put into a URL.
pub(super) fn login(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(format!("the account name {:?} is not usable", cut(name, 60)));
    }
    Ok(name.to_owned())
}

/// An object that only has to be there.
#[derive(Deserialize)]
pub(super) struct Present {}

pub(super) fn shape<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|e| format!("the payload has not the documented shape: {e}"))
}

pub(super) fn zero_or_sha(what: &str, id: &str) -> Result<Option<Sha>, String> {
    if is_zero_sha(id) && matches!(id.len(), 40 | 64) {
        return Ok(None);
    }
    Sha::parse(id).map(Some).map_err(|e| format!("`{what}`: {e}"))
}

pub(super) fn sha(what: &str, id: &str) -> Result<Sha, String> {
    Sha::parse(id).map_err(|e| format!("`{what}`: {e}"))
}

/// The rules of `git check-ref-format` that keep a name harmless in a command line, a URL and a log line.
pub(super) fn branch_name(name: &str) -> Result<String, String> {
    let bad = |why: &str| Err(format!("the branch name {:?} {why}", cut(name, 60)));
    if name.is_empty() || name.len() > 1024 {
        return bad("is empty or over 1,024 bytes long");
    }
    if name.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')) {
        return bad("holds a character that git does not allow");
    }
    let part_is_bad =
        |part: &str| part.is_empty() || part.starts_with('.') || part.strip_suffix(".lock").is_some();
    if name.contains("..") || name.contains("@{") || name.ends_with('.') || name.split('/').any(part_is_bad) {
        return bad("is not one that git allows");
    }
    Ok(name.to_owned())
}

pub(super) fn number(n: u64) -> Result<i64, String> {
    i64::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| format!("{n} is not the number of a pull request"))
}

/// Text for people: bounded, and without NUL, which `PostgreSQL` cannot store.
pub(super) fn text(from: &str) -> String {
    cut(from, MAX_TEXT).replace('\0', "\u{fffd}")
}

pub(super) fn cut(from: &str, bytes: usize) -> String {
    from[..from.floor_char_boundary(bytes)].to_owned()
}
