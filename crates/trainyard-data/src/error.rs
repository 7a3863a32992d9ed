//! What went wrong with an input: what happened, in which file, and what to do next.

/// Why an input could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that cannot be: a wrong path, rule or option. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The data cannot be read as what it says it is. Exit code 1.
    #[error("{file}: {what}")]
    Data { file: String, what: String },
    /// The machine or the network failed.
    #[error("{file}: {what}: {source}")]
    Io { file: String, what: String, source: std::io::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn usage(what: impl Into<String>) -> Self {
        Self::Usage(what.into())
    }

    pub fn data(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Data { file: file.into(), what: what.into() }
    }

    pub fn io(file: impl Into<String>, what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { file: file.into(), what: what.into(), source }
    }
}
