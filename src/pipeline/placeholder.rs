//! `${NAME}` in texts outside of commands. One pass, never recursive, and with a bound on the result, so that no
//! file can make a text grow.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a run knows about itself; the same for every delivery that could have made the run. `intake` sets them.
pub const RUN_VARIABLES: &[&str] = &[
    "CI",
    "CI_COMMIT_BRANCH",
    "CI_COMMIT_SHA",
    "CI_PIPELINE_NAME",
    "CI_REF",
    "CI_REPO",
    "CI_REPO_NAME",
    "CI_REPO_OWNER",
];

/// The longest text that replacing may make.
const MAX_RESULT: usize = 64 * 1024;

/// Why a text cannot be resolved; the message is for the author of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("`${{{name}}}` names no variable that is known here")]
    Unknown { name: String, at: Range<usize> },
    #[error("`${{` is not followed by a name and `}}`")]
    Malformed { at: Range<usize> },
    #[error("the text is longer than {MAX_RESULT} bytes once its variables are replaced")]
    TooLong,
}

enum Part<'a> {
    Text(&'a str),
    Name(&'a str, Range<usize>),
}

/// Replaces each `${NAME}`; `vars` may also hold `hash:PATH` for `${hash:PATH}`.
///
/// # Errors
/// A name that `vars` does not hold, a `${` that is not closed, or a result above 64 KiB.
pub fn resolve(text: &str, vars: &BTreeMap<String, String>) -> Result<String, Unresolved> {
    let mut out = String::with_capacity(text.len());
    for part in parts(text) {
        match part? {
            Part::Text(t) => out.push_str(t),
            Part::Name(name, at) => match vars.get(name) {
                Some(value) => out.push_str(value),
                None => return Err(Unresolved::Unknown { name: name.to_owned(), at }),
            },
        }
        if out.len() > MAX_RESULT {
            return Err(Unresolved::TooLong);
        }
    }
    Ok(out)
}

/// The names in a text, with their bytes; stops at the first that is malformed.
pub(super) fn names(text: &str) -> Result<Vec<(&str, Range<usize>)>, Unresolved> {
    let mut out = Vec::new();
    for part in parts(text) {
        if let Part::Name(name, at) = part? {
            out.push((name, at));
        }
    }
    Ok(out)
}

fn parts(text: &str) -> impl Iterator<Item = Result<Part<'_>, Unresolved>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &text[at..];
        if rest.is_empty() {
            return None;
        }
        let Some(next) = rest.find("${") else {
            at = text.len();
            return Some(Ok(Part::Text(rest)));
        };
        if next > 0 {
            at += next;
            return Some(Ok(Part::Text(&rest[..next])));
        }
        let start = at;
        let end = rest.find('}');
        let name = end.map(|e| &rest[2..e]).filter(|n| is_placeholder(n));
        Some(if let (Some(end), Some(name)) = (end, name) {
            at += end + 1;
            Ok(Part::Name(name, start..at))
        } else {
            at = text.len();
            Err(Unresolved::Malformed { at: start..start + 2 })
        })
    })
}

fn is_placeholder(name: &str) -> bool {
    name.strip_prefix("hash:")
        .map_or_else(|| is_variable(name), |path| !path.is_empty() && !path.contains("${"))
}

/// A name that a shell takes as a variable.
pub(super) fn is_variable(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars() -> BTreeMap<String, String> {
        [("SEED", "1"), ("A", "${SEED}"), ("hash:r.txt", "beef")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn replaces_once_and_names_what_is_unknown() {
        assert_eq!(resolve("seeds/${SEED}/x", &vars()).unwrap(), "seeds/1/x");
        assert_eq!(resolve("${A}", &vars()).unwrap(), "${SEED}", "not recursive");
        assert_eq!(resolve("pip-${hash:r.txt}", &vars()).unwrap(), "pip-beef");
        assert_eq!(resolve("$SEED $ {x}", &vars()).unwrap(), "$SEED $ {x}");
        let unknown = resolve("é${NOPE}", &vars()).unwrap_err();
        assert_eq!(unknown.to_string(), "`${NOPE}` names no variable that is known here");
        assert_eq!(unknown, Unresolved::Unknown { name: "NOPE".into(), at: 2..9 });
        for bad in ["${", "${}", "${a b}", "x${SEED", "${hash:}", "${1}"] {
            assert!(matches!(resolve(bad, &vars()), Err(Unresolved::Malformed { .. })), "{bad}");
        }
        let bomb = "${L}".repeat(100);
        let long = [("L".to_owned(), "x".repeat(1000))].into();
        assert_eq!(resolve(&bomb, &long), Err(Unresolved::TooLong));
    }
}
