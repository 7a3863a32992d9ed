//! The agent: the same binary as the first process of every attempt, and the protocol it speaks with the daemon.

pub mod mask;
pub mod protocol;
