//! Paths of artifacts: what the agent keeps and what the daemon takes, by one rule. They never reach a file system of the daemon
//! (blob keys are made of ids), but another attempt puts the file there, so what could leave its source tree or hide in it is no
//! artifact's path.

/// Longest path in bytes, and of one part.
const LONGEST: usize = 1024;
const LONGEST_PART: usize = 255;

/// The path without `.` and empty parts.
///
/// # Errors
/// Why it is refused, as the end of a sentence that begins with the path.
pub fn normalise(path: &str) -> Result<String, &'static str> {
    if path.len() > LONGEST {
        return Err("is longer than 1,024 bytes");
    }
    if path.starts_with('/') {
        return Err("is absolute");
    }
    if path.contains('\\') {
        return Err("holds a backslash");
    }
    if path.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    let lower = path.to_ascii_lowercase();
    if ["%2e", "%2f", "%5c", "%00"].iter().any(|code| lower.contains(code)) {
        return Err("holds a percent-encoded dot, slash, backslash or NUL");
    }
    if path
        .chars()
        .any(|c| matches!(c, '\u{2024}' | '\u{2025}' | '\u{2044}' | '\u{2215}' | '\u{ff0e}' | '\u{ff0f}'))
    {
        return Err("holds a character that looks like a dot or slash");
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("holds `..`"),
            _ if part.len() > LONGEST_PART => return Err("has a part longer than 255 bytes"),
            _ if part.trim_end_matches(['.', ' ']).eq_ignore_ascii_case(".git") => {
                return Err("lies in `.git`");
            }
            _ if part.ends_with(['.', ' ']) => return Err("has a part that ends in a dot or a space"),
            _ => parts.push(part),
        }
    }
    if parts.is_empty() || path.ends_with('/') {
        return Err("names no file");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn ordinary_paths_are_kept() {
        for (path, want) in [
            ("model.bin", "model.bin"),
            ("out/model/weights-00001.safetensors", "out/model/weights-00001.safetensors"),
            ("./out//a b/ü.txt", "out/a b/ü.txt"),
            (".hidden/..x/x..y", ".hidden/..x/x..y"),
            ("100%/loss.csv", "100%/loss.csv"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(want), "{path}");
        }
    }

    #[test]
    fn paths_that_could_leave_or_hide_are_refused() {
        let long_path = "a/".repeat(513) + "x";
        let long_part = "a".repeat(256);
        let bad = [
            "",
            ".",
            "./",
            "/",
            "//",
            "..",
            "../x",
            "a/../x",
            "a/..",
            "/etc/passwd",
            "//host/share",
            "a/",
            "a\0b",
            "a\nb",
            "a\rb",
            "\u{1b}[31m",
            "a\u{7f}",
            "\u{85}",
            "..\\x",
            "a\\b",
            "C:\\x",
            "%2e%2e/x",
            "a/%2E%2e/x",
            "a%2fb",
            "a%5Cb",
            "a%00",
            "\u{2024}\u{2024}/x",
            "\u{ff0e}\u{ff0e}/x",
            "a\u{2215}b",
            "a\u{ff0f}b",
            "..%2f",
            ".git/config",
            "a/.GIT/hooks/x",
            ".git",
            ".git./x",
            ".git /x",
            "a./b",
            "a /b",
            "x.",
            &long_path,
            &long_part,
        ];
        let failed = bad
            .iter()
            .filter(|path| normalise(path).is_ok())
            .inspect(|p| eprintln!("accepted {p:?}"))
            .count();
        println!("SEC S09 cases={} failed={failed}", bad.len());
        assert_eq!(failed, 0);
    }
}
