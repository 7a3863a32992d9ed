//! How commands end: one table of exit codes, and the errors that have one of their own. docs/cli.md shows it to people.

use super::client::Refused;
use crate::config::ConfigError;

/// A run, gate or check failed; also whatever has no code of its own.
pub const FAILED: u8 = 1;
/// Wrong use, or a configuration that cannot be used.
pub const USAGE: u8 = 2;
/// A gate says that the change is worse (only where asked for with `--exit-code`).
pub const REGRESSION: u8 = 3;
pub const NOT_FOUND: u8 = 4;
/// No token, a wrong one, or one that may not.
pub const AUTH: u8 = 5;
/// Nobody answers.
pub const UNREACHABLE: u8 = 6;
pub const TIMEOUT: u8 = 124;

/// The daemon does not answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the daemon at {0}; is `trainyard serve` running?")]
pub struct Unreachable(pub String);

/// It took longer than the caller wanted to wait.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TimedOut(pub String);

/// What is asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);

pub fn code(error: &anyhow::Error) -> u8 {
    let is = |found: bool, code| found.then_some(code);
    is(error.is::<ConfigError>(), USAGE)
        .or(is(error.is::<NotFound>(), NOT_FOUND))
        .or(is(error.is::<Unreachable>(), UNREACHABLE))
        .or(is(error.is::<TimedOut>(), TIMEOUT))
        .or_else(|| {
            Some(match error.downcast_ref::<Refused>()?.0.status {
                400 => USAGE,
                401 | 403 => AUTH,
                404 => NOT_FOUND,
                503 => UNREACHABLE,
                _ => FAILED,
            })
        })
        .unwrap_or(FAILED)
}
