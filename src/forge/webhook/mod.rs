//! Incoming webhooks, one file per forge: verify the signature on the raw bytes, then parse to our own
//! [`Event`](crate::model::Event). Pure: no I/O, no clock, never a panic whatever the bytes.

pub mod gitea;
pub mod github;
pub mod gitlab;
mod hub;
mod json;
mod mac;
mod parts;

use crate::config::ForgeKind;
use crate::model::Parsed;

/// Why a request is not accepted. All become 401 with the same body, so that a forger learns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("no signature header")]
    Missing,
    #[error("more than one signature header")]
    Repeated,
    #[error("the signature header is not what this forge sends")]
    Malformed,
    #[error("no live secret makes this signature")]
    Mismatch,
    #[error("it was signed more than five minutes ago, or ahead")]
    Stale,
    #[error("this hook has no secret, so it is closed")]
    Closed,
}

/// What makes an event of a payload.
type Reader = fn(&[u8]) -> Result<Parsed, String>;

/// Why nothing is read of an event of this word, whatever its payload says; None: something may be. Organisations send all they
/// have, so most deliveries of a busy one are decided by this.
pub fn unheard(kind: ForgeKind, event: &str) -> Option<String> {
    match kind {
        ForgeKind::Github => github::reader(event).err(),
        ForgeKind::Gitea => gitea::reader(event).err(),
        // The payload says what it is.
        ForgeKind::Gitlab => None,
    }
}

/// Reads a verified delivery. The forge's kind decides how, never a header: Gitea sends GitHub's headers beside its own.
///
/// `event` is the event's word as the hook stored it. Never fails: what is not understood is `Ignored` or `BadPayload`.
pub fn read(kind: ForgeKind, event: &str, content_type: &str, body: &[u8]) -> Parsed {
    let payload = match github::payload(content_type, body) {
        Ok(payload) => payload,
        Err(reason) => return Parsed::BadPayload { reason },
    };
    match kind {
        ForgeKind::Github => github::parse(event, &payload),
        ForgeKind::Gitlab => gitlab::parse(&payload),
        ForgeKind::Gitea => gitea::parse(event, &payload),
    }
}
