//! GitHub's webhooks: `X-Hub-Signature-256: sha256=<hex HMAC-SHA256(secret, raw body)>`.

use super::SignatureError;
use crate::model::Parsed;

/// Checks `signatures` (every value of the header as received) against every live secret, in constant time.
pub fn verify(signatures: &[&[u8]], body: &[u8], secrets: &[&[u8]]) -> Result<(), SignatureError> {
    let _ = (signatures, body, secrets);
    todo!()
}

/// Takes the JSON out of a body: as it is, or from the `payload` field of `application/x-www-form-urlencoded`.
pub fn payload(content_type: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    let _ = (content_type, body);
    todo!()
}

/// Parses a verified payload. Never fails: what is not understood is `Ignored` or `BadPayload` with a reason.
pub fn parse(event: &str, payload: &[u8]) -> Parsed {
    let _ = (event, payload);
    todo!()
}
