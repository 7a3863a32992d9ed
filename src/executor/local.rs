//! Attempts as process trees on this machine.
