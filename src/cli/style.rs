//! Colours of the command line: on a terminal only, and not where `NO_COLOR` is set (any text) or the terminal is `dumb`.

use std::io::IsTerminal;

/// May standard output have colours?
pub fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return false;
    }
    std::io::stdout().is_terminal()
}

/// A word in the colour of what it says, filled up to `width` characters.
pub fn word(word: &str, width: usize, colours: bool) -> String {
    let filled = format!("{word:<width$}");
    let code = match word {
        "succeeded" | "pass" | "reused" | "OK" => 32,
        "failed" | "errored" | "fail" | "FAIL" => 31,
        "running" | "held" | "inconclusive" | "WARN" => 33,
        "cancelled" | "superseded" | "skipped" | "queued" | "waiting" | "ready" => 90,
        _ => return filled,
    };
    if colours { format!("\u{1b}[{code}m{filled}\u{1b}[0m") } else { filled }
}
