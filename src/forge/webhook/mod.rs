//! Incoming webhooks, one file per forge: verify the signature on the raw bytes, then parse to our own
//! [`Event`](crate::model::Event). Pure: no I/O, no clock, never a panic whatever the bytes.

pub mod github;
mod json;

/// Why a request is not accepted. All become 401 with the same body, so that a forger learns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("no signature header")]
    Missing,
    #[error("more than one signature header")]
    Repeated,
    #[error("the signature header is not `sha256=` and 64 hexadecimal digits")]
    Malformed,
    #[error("no live secret makes this signature")]
    Mismatch,
    #[error("this hook has no secret, so it is closed")]
    Closed,
}
