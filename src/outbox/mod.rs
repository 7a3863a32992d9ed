//! The one sender: brings each forge to show what the outbox's rows say it should (promise G7).
//!
//! A row holds what is desired, not a queue of changes, so whatever was missed in between is never sent. All retrying is here;
//! the forge clients make one attempt. Sending twice is harmless: a status is overwritten by its equal, a comment is found again
//! by its first line and its author.
//!
//! Must not: change what is desired, write what no row asks for.

mod lane;
mod sender;

pub use sender::Sender;
