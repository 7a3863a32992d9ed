//! Newtypes for every id and sha. Ids are UUIDv7 text, so that they sort by the time they were made;
//! the time comes from the caller's [`Clock`](crate::clock::Clock), never from the system.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not what its type says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {why}")]
pub struct Invalid {
    pub what: &'static str,
    pub value: String,
    pub why: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(String);

        impl $name {
            /// A fresh id whose leading bits are `now_ms` (milliseconds since 1970).
            pub fn generate(now_ms: i64) -> Self { Self(uuid_v7(now_ms)) }
            /// Wraps text that came from our own database or from a caller that only looks things up.
            pub fn from_text(text: impl Into<String>) -> Self { Self(text.into()) }
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    };
}

id! {
    /// One stored delivery (our own id; the forge's is `deliveries.delivery_id`).
    DeliveryRowId
}
id! {
    /// A repository at one forge.
    RepoId
}
id! {
    /// One execution of a pipeline.
    RunId
}
id! {
    /// A node of a run's graph; a matrix member is a step of its own.
    StepId
}
id! {
    /// One try of a step. Fences everything that is accepted from it (promise G5).
    AttemptUid
}
id! {
    /// A candidate run held against a baseline for one target.
    ComparisonId
}
id! {
    /// One row of the outbox: a status or a comment that a forge should show.
    OutboxId
}

fn uuid_v7(now_ms: i64) -> String {
    let ms = now_ms.max(0) as u64;
    let stamp = uuid::Timestamp::from_unix(uuid::NoContext, ms / 1000, ((ms % 1000) * 1_000_000) as u32);
    #[expect(clippy::disallowed_methods, reason = "the one home of id making")]
    uuid::Uuid::new_v7(stamp).to_string()
}

/// A full commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits, never all zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Sha(String);

impl Sha {
    /// # Errors
    /// Anything but 40 or 64 lower-case hex digits, and the zero id that forges send for "no commit".
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let bad = |why| Invalid { what: "commit id", value: text.chars().take(80).collect(), why };
        if text.len() != 40 && text.len() != 64 {
            return Err(bad("it must have 40 or 64 hexadecimal digits"));
        }
        if !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(bad("it must be lower-case hexadecimal"));
        }
        if text.bytes().all(|b| b == b'0') {
            return Err(bad("it is the zero id, which means no commit"));
        }
        Ok(Self(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The first ten digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
    /// Seven digits, as people know them from git: for statuses and comments, where room is short.
    pub fn abbreviated(&self) -> &str {
        &self.0[..7]
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sha {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(de)?).map_err(serde::de::Error::custom)
    }
}

/// Is this text the zero id (any length of zeros that forges send)?
pub fn is_zero_sha(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == b'0')
}

/// `owner/name` as the forge spells it; GitLab's may have more than one slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct RepoName(String);

impl RepoName {
    /// # Errors
    /// Refuses empty parts, `.` and `..`, control characters, and anything over 255 bytes, since the name
    /// becomes part of URLs and log lines.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let bad = |why| Invalid { what: "repository name", value: text.chars().take(80).collect(), why };
        if text.len() > 255 {
            return Err(bad("it is longer than 255 bytes"));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() < 2 {
            return Err(bad("it must look like owner/name"));
        }
        for part in parts {
            if part.is_empty() || part == "." || part == ".." {
                return Err(bad("it has an empty part, `.` or `..`"));
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                return Err(bad("it may hold letters, digits, `-`, `_` and `.` only"));
            }
        }
        Ok(Self(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn owner(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(owner, _)| owner)
    }
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RepoName {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(de)?).map_err(serde::de::Error::custom)
    }
}
