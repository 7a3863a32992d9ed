//! What went wrong with an input: what happened, in which file, and what to do next. Names of files and columns are
//! text from outside: what could steer a terminal is escaped here, once.

use crate::findings::plain;

/// Why an input could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that cannot be: a wrong path, rule or option. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The data cannot be read as what it says it is. Exit code 1.
    #[error("{file}: {what}")]
    Data { file: String, what: String },
    /// The machine or the network failed. Its reason is part of the message and so no `source()` of its own.
    #[error("{file}: {what}: {why}")]
    Io { file: String, what: String, why: std::io::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn usage(what: impl Into<String>) -> Self {
        Self::Usage(plain(&what.into()))
    }

    pub fn data(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Data { file: plain(&file.into()), what: plain(&what.into()) }
    }

    /// A file that is not there is wrong use; all else is the machine's fault.
    pub fn io(file: impl Into<String>, what: impl Into<String>, why: std::io::Error) -> Self {
        let (file, what) = (plain(&file.into()), plain(&what.into()));
        if why.kind() == std::io::ErrorKind::NotFound {
            return Self::Usage(format!("{file}: {what}: there is no such file or directory"));
        }
        Self::Io { file, what, why }
    }
}
