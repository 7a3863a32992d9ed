//! What each kind of text may hold.

use std::str::FromStr as _;

use super::diagnostic::{Code, code, quoted};
use super::grammar::Text;
use super::placeholder::is_variable;

/// Why a text is not of its kind; the message goes on after the name of the place.
pub(super) struct Wrong {
    pub code: Code,
    pub message: String,
    pub help: String,
}

/// Is `${NAME}` replaced in this kind of text?
pub(super) fn replaces(kind: Text) -> bool {
    !matches!(
        kind,
        Text::Command
            | Text::Pattern
            | Text::Cron
            | Text::Timezone
            | Text::Branch
            | Text::Name
            | Text::Variable
            | Text::MatrixKey
    )
}

/// What editors may check of it, as a regular expression.
pub(super) fn pattern(kind: Text) -> Option<&'static str> {
    match kind {
        Text::Name => Some("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
        Text::Variable | Text::MatrixKey => Some("^[A-Za-z_][A-Za-z0-9_]*$"),
        Text::Baseline => Some("^(merge-base|(branch|model|run):.+)$"),
        Text::Image => Some("^\\S+$"),
        _ => None,
    }
}

pub(super) fn check(kind: Text, text: &str) -> Result<(), Wrong> {
    let wrong = |code, message: String, help: &str| Err(Wrong { code, message, help: help.to_owned() });
    if text.len() > 4096 && !matches!(kind, Text::Command | Text::Any) {
        return wrong(code::NAME, "is longer than 4096 bytes".to_owned(), "shorten it");
    }
    match kind {
        Text::Any | Text::Command => Ok(()),
        Text::Name => name(text),
        Text::Variable | Text::MatrixKey => variable(text),
        Text::Branch => glob(text).or_else(|why| {
            wrong(
                code::GLOB,
                format!("is not a valid glob: {why}"),
                "write a branch such as `main`, or a glob such as `release/*`",
            )
        }),
        Text::Glob => {
            relative(text)?;
            glob(text).or_else(|why| {
                wrong(
                    code::GLOB,
                    format!("is not a valid glob: {why}"),
                    "`*` matches within a directory, `**` across, `{a,b}` either",
                )
            })
        }
        Text::Path => relative(text),
        Text::CachePath => relative(text.strip_prefix("~/").unwrap_or(text)),
        Text::Image => image(text),
        Text::Metric => glob(text).or_else(|why| {
            wrong(
                code::GLOB,
                format!("is not a metric or a glob of metrics: {why}"),
                "write `accuracy` or `f1/by/*`",
            )
        }),
        Text::Cron => cron(text),
        Text::Timezone => match jiff::tz::TimeZone::get(text) {
            Ok(_) => Ok(()),
            Err(_) => wrong(
                code::TIMEZONE,
                format!("is not a known time zone: {}", quoted(text)),
                "write an IANA name such as `Europe/Berlin` or `UTC`",
            ),
        },
        Text::Baseline => match text.split_once(':') {
            None if text == "merge-base" => Ok(()),
            Some(("branch" | "model" | "run", rest)) if !rest.trim().is_empty() => Ok(()),
            _ => wrong(
                code::UNKNOWN_WORD,
                format!("cannot be {}", quoted(text)),
                "write `merge-base`, `branch:main` or `run:ID`",
            ),
        },
        Text::Pattern => match regex::RegexBuilder::new(text).size_limit(1 << 18).nest_limit(50).build() {
            Ok(_) => Ok(()),
            Err(regex::Error::CompiledTooBig(_)) => {
                wrong(code::PATTERN, "is a regular expression that is too large".to_owned(), "simplify it")
            }
            Err(_) => wrong(
                code::PATTERN,
                format!("is not a regular expression: {}", quoted(text)),
                "check brackets and backslashes; single quotes keep backslashes",
            ),
        },
    }
}

pub(super) fn name(text: &str) -> Result<(), Wrong> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let message = if text.len() > 63 {
        format!("is {} characters long, at most 63 are allowed", text.chars().count())
    } else if !first {
        format!("must begin with a letter or digit, found {}", quoted(text))
    } else if let Some(bad) = text.chars().find(|c| !c.is_ascii() || !good(*c as u8)) {
        format!("cannot hold {}: {}", quoted(&bad.to_string()), quoted(text))
    } else {
        return Ok(());
    };
    let suggestion = sanitised(text);
    let help = if suggestion.is_empty() || text.len() > 63 {
        "letters, digits, `-`, `_` and `.` are allowed".to_owned()
    } else {
        format!("letters, digits, `-`, `_` and `.` are allowed: `{suggestion}`")
    };
    Err(Wrong { code: code::NAME, message, help })
}

/// A name as Kubernetes and file systems take it; names that become the same cannot stand together.
pub(super) fn sanitised(name: &str) -> String {
    let lower: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    lower.trim_matches('-').to_owned()
}

fn variable(text: &str) -> Result<(), Wrong> {
    let wrong =
        |message: String, help: &str| Err(Wrong { code: code::ENVIRONMENT, message, help: help.to_owned() });
    if !is_variable(text) || text.len() > 128 {
        return wrong(
            format!("{} is not the name of a variable", quoted(text)),
            "letters, digits and `_`, not beginning with a digit, at most 128",
        );
    }
    if text.to_ascii_uppercase().starts_with("TRAINYARD_") {
        return wrong(
            format!("{} is reserved", quoted(text)),
            "names that begin with `TRAINYARD_` are set by trainyard",
        );
    }
    Ok(())
}

fn relative(text: &str) -> Result<(), Wrong> {
    let wrong = |message: String, help: &str| Err(Wrong { code: code::PATH, message, help: help.to_owned() });
    if text.starts_with('/') || text.starts_with('~') {
        return wrong(
            format!("must be relative, found {}", quoted(text)),
            "write it from the repository's root, without a leading `/`",
        );
    }
    if text.split(['/', '\\']).any(|part| part == "..") {
        return wrong(format!("must not leave the source tree, found {}", quoted(text)), "remove `..`");
    }
    if text.contains("://") {
        return wrong(
            format!("must be a path, found the URL {}", quoted(text)),
            "write it from the repository's root",
        );
    }
    Ok(())
}

/// Compiles after placeholders are replaced by a letter, as they will be by some text. `/` is matched by `**` alone.
fn glob(text: &str) -> Result<(), String> {
    compile_glob(&without_placeholders(text)).map(drop)
}

pub(super) fn compile_glob(text: &str) -> Result<globset::Glob, String> {
    if text.len() > 1024 {
        return Err("it is longer than 1024 bytes".to_owned());
    }
    globset::GlobBuilder::new(text).literal_separator(true).build().map_err(|e| e.kind().to_string())
}

fn without_placeholders(text: &str) -> String {
    let mut out = text.to_owned();
    if let Ok(names) = super::placeholder::names(text) {
        for (_, at) in names.into_iter().rev() {
            out.replace_range(at, "x");
        }
    }
    out
}

fn image(text: &str) -> Result<(), Wrong> {
    let bare = without_placeholders(text);
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':' | '@');
    let digest = bare.split_once("@sha256:").map(|(_, d)| d);
    let help = "write `registry/name:tag` or `registry/name@sha256:...`".to_owned();
    let wrong = |message| Err(Wrong { code: code::IMAGE, message, help: help.clone() });
    if bare.len() > 512
        || bare.starts_with(['-', '/', ':', '@', '.'])
        || bare.contains("://")
        || bare.contains("//")
        || !bare.chars().all(good)
    {
        return wrong(format!("is not an image reference: {}", quoted(text)));
    }
    if let Some(digest) = digest
        && digest != "..."
        && (digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return wrong(format!("has a digest that is not 64 hexadecimal digits: {}", quoted(text)));
    }
    Ok(())
}

fn cron(text: &str) -> Result<(), Wrong> {
    let wrong = |message: String, help: &str| Err(Wrong { code: code::CRON, message, help: help.to_owned() });
    let help =
        "five fields: minute, hour, day of month, month, day of week; `0 3 * * *` is every day at three";
    let fields = text.split_whitespace().count();
    if fields != 5 || text.len() > 256 {
        return wrong(format!("needs five fields, found {fields} in {}", quoted(text)), help);
    }
    match croner::Cron::from_str(text) {
        Ok(_) => Ok(()),
        Err(error) => wrong(format!("is not valid: {}", quoted(&error.to_string())), help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_text() {
        let good = [
            (Text::Name, "train-v1.0_x"),
            (Text::Variable, "HF_TOKEN"),
            (Text::Branch, "release/*"),
            (Text::Glob, "out/${SEED}/**"),
            (Text::CachePath, "~/.cache/pip"),
            (
                Text::Image,
                "registry.example:5000/a/b:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            ),
            (Text::Image, "python:3.12-slim"),
            (Text::Cron, "0 3 * * 1-5"),
            (Text::Timezone, "Europe/Berlin"),
            (Text::Baseline, "branch:main"),
            (Text::Metric, "f1/by/*"),
        ];
        for (kind, text) in good {
            assert!(check(kind, text).is_ok(), "{kind:?} {text}");
        }
        let bad = [
            (Text::Name, "-x"),
            (Text::Name, "größe"),
            (Text::Name, "a b"),
            (Text::Variable, "1X"),
            (Text::Variable, "TRAINYARD_TOKEN"),
            (Text::Glob, "../x"),
            (Text::Glob, "a[b"),
            (Text::Path, "/etc/passwd"),
            (Text::Path, "a/../../b"),
            (Text::CachePath, "/root"),
            (Text::Image, "a b"),
            (Text::Image, "https://x/y"),
            (Text::Image, "x@sha256:12"),
            (Text::Cron, "61 * * * *"),
            (Text::Cron, "* * * *"),
            (Text::Timezone, "Europe/Nowhere"),
            (Text::Baseline, "main"),
            (Text::Pattern, "(a{1000}){1000}"),
        ];
        for (kind, text) in bad {
            assert!(check(kind, text).is_err(), "{kind:?} {text}");
        }
    }
}
