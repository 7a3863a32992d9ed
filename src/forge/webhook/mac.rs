//! HMAC-SHA256 of bodies, compared in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use super::SignatureError;

/// The 32 bytes of HMAC-SHA256 over several pieces in a row.
pub(super) fn bytes(key: &[u8], pieces: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().into()
}

/// In lower-case hexadecimal.
pub(super) fn hex(key: &[u8], body: &[u8]) -> String {
    hex::encode(bytes(key, &[body]))
}

/// The live secrets. Blank ones sign nothing: a hook with no other is closed.
pub(super) fn live<'a>(secrets: &[&'a [u8]]) -> Result<Vec<&'a [u8]>, SignatureError> {
    let secrets: Vec<&[u8]> = secrets.iter().copied().filter(|s| !s.trim_ascii().is_empty()).collect();
    if secrets.is_empty() { Err(SignatureError::Closed) } else { Ok(secrets) }
}

/// Checks a header of `prefix` and 64 hexadecimal digits. `signatures` is every value of the header as received.
///
/// The raw 32 bytes are compared in constant time, and every secret is tried whatever an earlier one gave.
pub(super) fn verify_hex(
    signatures: &[&[u8]],
    prefix: &[u8],
    body: &[u8],
    secrets: &[&[u8]],
) -> Result<(), SignatureError> {
    let secrets = live(secrets)?;
    let claimed = match signatures {
        [] => return Err(SignatureError::Missing),
        [one] => one.strip_prefix(prefix).ok_or(SignatureError::Malformed)?,
        _ => return Err(SignatureError::Repeated),
    };
    let mut claimed_mac = [0u8; 32];
    hex::decode_to_slice(claimed, &mut claimed_mac).map_err(|_| SignatureError::Malformed)?;
    let matches = secrets
        .iter()
        .fold(Choice::from(0), |found, secret| found | bytes(secret, &[body]).ct_eq(&claimed_mac));
    if matches.into() { Ok(()) } else { Err(SignatureError::Mismatch) }
}
