//! What a webhook's headers claim, by the kind of the forge that its URL belongs to, never by the headers themselves (Gitea sends
//! GitHub's beside its own): the signature, the event's word, the delivery's id.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::clock::Millis;
use crate::config::ForgeKind;
use crate::forge::webhook::{SignatureError, gitea, github, gitlab};

/// How a hook's requests are proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Github,
    Gitea,
    /// A signing token; a request without a signature is refused whatever else it carries.
    Gitlab,
    /// A plain token, which the configuration asked for by name.
    GitlabPlain,
}

impl Scheme {
    pub fn of(kind: ForgeKind, legacy_plain_token: bool) -> Self {
        match (kind, legacy_plain_token) {
            (ForgeKind::Github, _) => Self::Github,
            (ForgeKind::Gitea, _) => Self::Gitea,
            (ForgeKind::Gitlab, false) => Self::Gitlab,
            (ForgeKind::Gitlab, true) => Self::GitlabPlain,
        }
    }

    /// The proof of a request.
    ///
    /// # Errors
    /// It has not exactly one of each header that belongs to it.
    pub fn proof(self, headers: &HeaderMap) -> Result<Proof<'_>, SignatureError> {
        Ok(match self {
            Self::Github => Proof::Github(only(headers, "x-hub-signature-256")?),
            // A wrong Forgejo header is not rescued by a right Gitea one.
            Self::Gitea if headers.contains_key("x-forgejo-signature") => {
                Proof::Gitea(only(headers, "x-forgejo-signature")?)
            }
            Self::Gitea => Proof::Gitea(only(headers, "x-gitea-signature")?),
            Self::Gitlab => Proof::Gitlab(gitlab::Signed {
                id: only(headers, "webhook-id")?,
                timestamp: only(headers, "webhook-timestamp")?,
                signatures: only(headers, "webhook-signature")?,
            }),
            Self::GitlabPlain => Proof::GitlabPlain(only(headers, "x-gitlab-token")?),
        })
    }
}

/// What is held against the body and the live secrets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof<'a> {
    Github(&'a [u8]),
    Gitea(&'a [u8]),
    Gitlab(gitlab::Signed<'a>),
    GitlabPlain(&'a [u8]),
}

impl Proof<'_> {
    pub fn verify(self, body: &[u8], secrets: &[&[u8]], now: Millis) -> Result<(), SignatureError> {
        match self {
            Self::Github(signature) => github::verify(&[signature], body, secrets),
            Self::Gitea(signature) => gitea::verify(&[signature], body, secrets),
            Self::Gitlab(signed) => gitlab::verify(signed, body, secrets, now),
            Self::GitlabPlain(token) => gitlab::verify_plain(&[token], secrets),
        }
    }
}

/// The forge's word for the event, in lower-case letters, digits and underscores, at most 64; else a sentence for the sender.
pub(super) fn event(kind: ForgeKind, headers: &HeaderMap) -> Result<String, &'static str> {
    let (name, refusal) = match kind {
        ForgeKind::Github => (
            "x-github-event",
            "there must be one X-GitHub-Event of at most 64 lower-case letters, digits and underscores",
        ),
        ForgeKind::Gitlab => {
            ("x-gitlab-event", "there must be one X-Gitlab-Event of at most 64 letters, digits and spaces")
        }
        ForgeKind::Gitea => (
            ours(headers, "x-forgejo-event", "x-gitea-event"),
            "there must be one X-Forgejo-Event or X-Gitea-Event of at most 64 lower-case letters, digits and underscores",
        ),
    };
    let given = single(headers, name).ok_or(refusal)?;
    let word = match kind {
        // "Merge Request Hook"
        ForgeKind::Gitlab => {
            let word = given.to_ascii_lowercase().replace(' ', "_");
            word.strip_suffix("_hook").unwrap_or(&word).to_owned()
        }
        _ => given.to_owned(),
    };
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=64).contains(&word.len()) && word.bytes().all(fine) { Ok(word) } else { Err(refusal) }
}

/// What makes a delivery the same as an earlier one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The forge's own id.
    Id(String),
    /// The forge sent none: event and body, which count as the same for 24 h.
    Content(String),
}

/// The delivery's identity; else a sentence for the sender. GitLab's `X-Gitlab-Event-UUID` is none: all hooks that one event sets
/// off share it.
pub(super) fn identity(
    kind: ForgeKind,
    headers: &HeaderMap,
    event: &str,
    body: &[u8],
) -> Result<Identity, &'static str> {
    let (name, refusal) = match kind {
        ForgeKind::Github => (
            "x-github-delivery",
            "there must be one X-GitHub-Delivery of at most 128 letters, digits, `.`, `_`, `:` and `-`",
        ),
        ForgeKind::Gitea => (
            ours(headers, "x-forgejo-delivery", "x-gitea-delivery"),
            "there must be one X-Forgejo-Delivery or X-Gitea-Delivery of at most 128 letters, digits, `.`, `_`, `:` and `-`",
        ),
        ForgeKind::Gitlab => {
            let name = ours(headers, "webhook-id", "idempotency-key");
            if !headers.contains_key(name) {
                let digest =
                    Sha256::new().chain_update(event).chain_update(b"\n").chain_update(body).finalize();
                return Ok(Identity::Content(format!("sha256:{}", hex::encode(digest))));
            }
            (
                name,
                "webhook-id or Idempotency-Key must stand there once, with at most 128 letters, digits, `.`, `_`, `:` and `-`",
            )
        }
    };
    let id = single(headers, name).filter(|id| is_delivery_id(id)).ok_or(refusal)?;
    Ok(Identity::Id(id.to_owned()))
}

/// The first of two headers if it is there, else the second.
fn ours(headers: &HeaderMap, first: &'static str, second: &'static str) -> &'static str {
    if headers.contains_key(first) { first } else { second }
}

fn is_delivery_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// A header's bytes when there is exactly one.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a [u8], SignatureError> {
    let mut all = headers.get_all(name).iter();
    let first = all.next().ok_or(SignatureError::Missing)?;
    if all.next().is_some() { Err(SignatureError::Repeated) } else { Ok(first.as_bytes()) }
}

/// A header's value when there is exactly one and it is visible ASCII.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() {
        return None;
    }
    first.to_str().ok()
}
