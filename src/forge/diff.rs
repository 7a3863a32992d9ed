//! Which files differ between two commits, read from git trees. Never from a payload's or a comparison's list: those are cut
//! without a word (at 2,048 commits, 300 or 3,000 files).

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Folder, Forge, ForgeError, TreeEntry, TreeKind};
use crate::model::{RepoName, Sha};

/// Beyond these the answer is "unknown".
const MAX_PATHS: usize = 20_000;
const MAX_TREES: usize = 2_000;
/// Calls at one time. GitHub allows 100.
const AT_ONCE: usize = 8;

/// A folder of which both sides differ; a side that has no such folder is None.
struct Pair {
    /// With a trailing slash, or empty.
    prefix: String,
    base: Option<Folder>,
    head: Option<Folder>,
}

/// Paths of the files (and links and submodules) that were added, changed or removed between `base` and `head`, sorted.
/// Without `base`, every path of `head`. None when there are too many to tell: then a path filter must let the run go.
///
/// Only folders that differ are read, a level at a time.
pub async fn tree_diff(
    forge: &dyn Forge,
    repo: &RepoName,
    base: Option<&Sha>,
    head: &Sha,
) -> Result<Option<Vec<String>>, ForgeError> {
    let head = Some(forge.commit(repo, head).await?.root());
    let base = match base {
        Some(sha) => Some(forge.commit(repo, sha).await?.root()),
        None => None,
    };
    let mut paths = Vec::new();
    let mut trees = 0;
    let same = matches!((&base, &head), (Some(base), Some(head)) if base.id == head.id);
    let mut level = if same { Vec::new() } else { vec![Pair { prefix: String::new(), base, head }] };
    while !level.is_empty() {
        trees += level
            .iter()
            .map(|p| usize::from(p.base.is_some()) + usize::from(p.head.is_some()))
            .sum::<usize>();
        if trees > MAX_TREES {
            return Ok(None);
        }
        let read = stream::iter(level).map(|pair| async move {
            let base = entries(forge, repo, pair.base.as_ref()).await?;
            let head = entries(forge, repo, pair.head.as_ref()).await?;
            Ok::<_, ForgeError>((pair, base, head))
        });
        let read: Result<Vec<_>, ForgeError> = read.buffer_unordered(AT_ONCE).try_collect().await;
        let read = match read {
            // A folder that is too large to list.
            Err(ForgeError::Refused { status: 413, .. }) => return Ok(None),
            read => read?,
        };
        level = Vec::new();
        for (pair, base, head) in read {
            compare(&pair, base, head, &mut paths, &mut level);
            if paths.len() > MAX_PATHS {
                return Ok(None);
            }
        }
    }
    paths.sort();
    paths.dedup();
    Ok(Some(paths))
}

async fn entries(
    forge: &dyn Forge,
    repo: &RepoName,
    folder: Option<&Folder>,
) -> Result<BTreeMap<String, TreeEntry>, ForgeError> {
    let Some(folder) = folder else { return Ok(BTreeMap::new()) };
    Ok(forge.tree(repo, folder).await?.into_iter().map(|entry| (entry.name.clone(), entry)).collect())
}

fn compare(
    pair: &Pair,
    mut base: BTreeMap<String, TreeEntry>,
    head: BTreeMap<String, TreeEntry>,
    paths: &mut Vec<String>,
    folders: &mut Vec<Pair>,
) {
    let prefix = &pair.prefix;
    let mut differ = |name: &str, old: Option<TreeEntry>, new: Option<TreeEntry>| {
        let is_folder = |entry: &TreeEntry| entry.kind == TreeKind::Folder;
        if [&old, &new].into_iter().flatten().any(|entry| !is_folder(entry)) {
            paths.push(format!("{prefix}{name}"));
        }
        let folder = |of: &Option<Folder>, entry: Option<TreeEntry>| {
            Some(of.as_ref()?.child(&entry.filter(is_folder)?))
        };
        let (base, head) = (folder(&pair.base, old), folder(&pair.head, new));
        if base.is_some() || head.is_some() {
            folders.push(Pair { prefix: format!("{prefix}{name}/"), base, head });
        }
    };
    for (name, new) in head {
        let old = base.remove(&name);
        if old.as_ref() != Some(&new) {
            differ(&name, old, Some(new));
        }
    }
    for (name, old) in base {
        differ(&name, Some(old), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: TreeKind, id: &str, executable: bool) -> (String, TreeEntry) {
        (name.to_owned(), TreeEntry { name: name.into(), kind, id: id.into(), executable })
    }

    #[test]
    fn one_level() {
        use TreeKind::{File, Folder, Other};
        let base = BTreeMap::from([
            entry("same", File, "1", false),
            entry("same-folder", Folder, "2", false),
            entry("changed", File, "3", false),
            entry("changed-folder", Folder, "4", false),
            entry("removed", File, "5", false),
            entry("removed-folder", Folder, "6", false),
            entry("file-to-folder", File, "7", false),
            entry("folder-to-link", Folder, "8", false),
            entry("mode", File, "9", false),
        ]);
        let head = BTreeMap::from([
            entry("same", File, "1", false),
            entry("same-folder", Folder, "2", false),
            entry("changed", File, "33", false),
            entry("changed-folder", Folder, "44", false),
            entry("added", File, "55", false),
            entry("added-folder", Folder, "66", false),
            entry("file-to-folder", Folder, "77", false),
            entry("folder-to-link", Other, "88", false),
            entry("mode", File, "9", true),
        ]);
        let (mut paths, mut folders) = (Vec::new(), Vec::new());
        let side = |commit: char| {
            let commit = Sha::parse(&commit.to_string().repeat(40)).expect("a commit id");
            Some(super::Folder { commit, path: "src".into(), id: "x".into() })
        };
        let pair = Pair { prefix: "src/".into(), base: side('a'), head: side('b') };
        compare(&pair, base, head, &mut paths, &mut folders);
        paths.sort();
        assert_eq!(
            paths,
            [
                "src/added",
                "src/changed",
                "src/file-to-folder",
                "src/folder-to-link",
                "src/mode",
                "src/removed"
            ]
        );
        let told = |folder: Option<super::Folder>, prefix: &str| {
            folder.map(|f| {
                assert_eq!(format!("{}/", f.path), prefix);
                f.id
            })
        };
        let mut folders: Vec<_> = folders
            .into_iter()
            .map(|p| (p.prefix.clone(), told(p.base, &p.prefix), told(p.head, &p.prefix)))
            .collect();
        folders.sort();
        let side = |id: &str| (!id.is_empty()).then(|| id.to_owned());
        let row = |prefix: &str, base: &str, head: &str| (prefix.to_owned(), side(base), side(head));
        assert_eq!(
            folders,
            [
                row("src/added-folder/", "", "66"),
                row("src/changed-folder/", "4", "44"),
                row("src/file-to-folder/", "", "77"),
                row("src/folder-to-link/", "8", ""),
                row("src/removed-folder/", "6", ""),
            ]
        );
    }
}
