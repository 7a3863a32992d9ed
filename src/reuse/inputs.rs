//! The declared inputs of a step as git has them: object ids, read from trees through the forge. A byte that changes behind
//! the same path changes the id.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use globset::{Glob, GlobBuilder, GlobMatcher};

use crate::forge::{Forge, ForgeError, TreeEntry, TreeKind};
use crate::model::{RepoName, Sha};

/// Folders that are read for one step at most.
const MAX_TREES: usize = 500;
const MAX_PATHS: usize = 20_000;

#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    #[error(transparent)]
    Forge(#[from] ForgeError),
    /// Cannot be told, however often one asks.
    #[error("{0}")]
    Unclear(String),
}

struct Pattern<'a> {
    text: &'a str,
    own: GlobMatcher,
    found: bool,
}

/// Lines `<id> <mode> <path>`, sorted by path: the whole tree without patterns, else what they match. A folder that a pattern
/// takes as a whole stands as one line.
pub async fn of(
    forge: &dyn Forge,
    repo: &RepoName,
    sha: &Sha,
    patterns: &[String],
) -> Result<String, InputsError> {
    let root = forge.commit(repo, sha).await?.root();
    if patterns.is_empty() {
        return Ok(format!("{} tree .\n", root.id));
    }
    let glob = |text: &str| -> Result<Glob, InputsError> {
        let built = GlobBuilder::new(text).literal_separator(true).build();
        built.map_err(|e| InputsError::Unclear(format!("the input {text:?} is not a glob: {}", e.kind())))
    };
    let mut wanted = Vec::new();
    for text in patterns {
        let plain = text.trim_start_matches("./").trim_end_matches('/');
        wanted.push(Pattern { text, own: glob(plain)?.compile_matcher(), found: false });
    }
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut todo = vec![root];
    let mut read = 0;
    while let Some(folder) = todo.pop() {
        read += 1;
        if read > MAX_TREES || lines.len() > MAX_PATHS {
            return Err(InputsError::Unclear(format!(
                "its inputs are spread over more than {MAX_TREES} folders or {MAX_PATHS} files: name whole folders, such as `src/**`"
            )));
        }
        for entry in forge.tree(repo, &folder).await? {
            let path = folder.child(&entry).path;
            if whole(&entry, &path, &mut wanted) {
                let mode = if entry.executable { "x" } else { mode(entry.kind) };
                lines.insert(path.clone(), format!("{} {mode}", entry.id));
            } else if entry.kind == TreeKind::Folder && wanted.iter().any(|p| reaches(p.text, &path)) {
                todo.push(folder.child(&entry));
            }
        }
    }
    if let Some(missing) = wanted.iter().find(|p| !p.found) {
        return Err(InputsError::Unclear(format!(
            "no file of the commit matches the input {:?}",
            missing.text
        )));
    }
    Ok(lines.into_iter().fold(String::new(), |mut out, (path, id)| {
        let _ = writeln!(out, "{id} {path}");
        out
    }))
}

fn mode(kind: TreeKind) -> &'static str {
    match kind {
        TreeKind::File => "file",
        TreeKind::Folder => "tree",
        TreeKind::Other => "link",
    }
}

/// Does a pattern take this entry with all that is in it?
fn whole(entry: &TreeEntry, path: &str, wanted: &mut [Pattern<'_>]) -> bool {
    let mut taken = false;
    for pattern in wanted {
        let folder = entry.kind == TreeKind::Folder;
        let all_below = pattern.text.trim_start_matches("./").strip_suffix("/**");
        let matches = if folder {
            all_below == Some(path) || pattern.own.is_match(path) || pattern.text == "**"
        } else {
            pattern.own.is_match(path)
        };
        pattern.found |= matches;
        taken |= matches;
    }
    taken
}

/// May something below this folder match?
fn reaches(pattern: &str, folder: &str) -> bool {
    let pattern = pattern.trim_start_matches("./");
    let fixed: Vec<&str> =
        pattern.split('/').take_while(|part| !part.contains(['*', '?', '[', '{'])).collect();
    let mut parts = folder.split('/');
    fixed.iter().all(|part| parts.next().is_none_or(|own| own == *part))
}

#[cfg(test)]
mod tests {
    use super::reaches;

    #[test]
    fn folders_that_cannot_match_are_not_read() {
        let cases = [
            ("src/**", "src", true),
            ("src/**", "docs", false),
            ("src/a/*.py", "src", true),
            ("src/a/*.py", "src/a", true),
            ("src/a/*.py", "src/b", false),
            ("**/*.csv", "data/deep", true),
            ("*.py", "src", true),
            ("./data/x.csv", "data", true),
        ];
        for (pattern, folder, want) in cases {
            assert_eq!(reaches(pattern, folder), want, "{pattern} {folder}");
        }
    }
}
