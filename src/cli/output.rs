//! Standard output: what cannot be written ends the command, without a panic. Nobody reading on (`trainyard logs RUN | head`) is
//! no error to speak of; a full disk is.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

/// Standard output takes no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the output")]
pub struct Unwritten(#[source] pub io::Error);

/// What a shell reports for SIGPIPE.
pub const NO_READER: u8 = 141;

/// Writes all of it, and returns when it has left this process.
///
/// # Errors
/// [`Unwritten`], for `main` to end with.
pub fn print(bytes: &[u8]) -> Result<(), Unwritten> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Unwritten)
}

/// Writes what is still held back, such as a line without its end.
///
/// # Errors
/// As [`print`].
pub fn flush() -> Result<(), Unwritten> {
    io::stdout().flush().map_err(Unwritten)
}

/// Ends `println!` to such an output as [`print`] ends, instead of with a panic.
pub fn end_quietly() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The words of the standard library's `print` family.
        let said = panic.payload_as_str().unwrap_or_default();
        if let Some(error) = said.strip_prefix("failed printing to stdout: ") {
            if error.contains("Broken pipe") {
                std::process::exit(i32::from(NO_READER));
            }
            say(&format!("cannot write the output: {error}"));
            std::process::exit(i32::from(super::exit::FAILED));
        }
        if said.starts_with("failed printing to stderr") {
            std::process::exit(i32::from(super::exit::FAILED));
        }
        usual(panic);
    }));
}

/// The exit code of a command that ended with this error, and its sentence for people unless nobody reads.
pub fn end_with(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Unwritten>().is_some_and(|why| why.0.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::from(NO_READER);
    }
    say(&format!("{error:#}"));
    ExitCode::from(super::exit::code(error))
}

fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "trainyard: {sentence}");
}
