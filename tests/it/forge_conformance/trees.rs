//! What a commit changes, told from git trees.

use std::fmt::Write as _;

use trainyard::config::ForgeKind;
use trainyard::forge::tree_diff;
use trainyard::model::Sha;

use super::{KINDS, stage, stage_of};
use crate::worktree::WorkTree;

#[tokio::test(flavor = "multi_thread")]
async fn changed_paths_come_from_trees() {
    // Folders of more than one page at GitLab.
    for (kind, folders, files) in [(KINDS[0], 60, 100), (KINDS[1], 5, 130), (KINDS[2], 5, 130)] {
        changed_paths(kind, folders, files).await;
    }
}

async fn changed_paths(kind: ForgeKind, folders: usize, files: usize) {
    let s = stage_of(kind).await;
    for folder in 0..folders {
        for file in 0..files {
            s.tree.write(&format!("data/part{folder:02}/f{file:03}.txt"), format!("{folder} {file}"));
        }
    }
    s.tree.write("train.py", "1");
    s.tree.write("docs/a.md", "1");
    let base = s.tree.commit("base");
    s.tree.push(&["main"]);

    // At GitHub 6,000 files change, in 60 folders; a payload or a comparison would list 300 or 3,000 of them.
    for folder in 0..folders {
        for file in 0..files {
            s.tree.write(&format!("data/part{folder:02}/f{file:03}.txt"), format!("{folder} {file} changed"));
        }
    }
    let wide = s.tree.commit("many files");
    s.tree.push(&["main"]);
    let (from, to) = (base.as_str().to_owned(), wide.as_str().to_owned());
    let by_git = |from: &str, to: &str| -> Vec<String> {
        let text = s.tree.git(&["diff", "--name-only", "--no-renames", "-z", from, to]);
        let mut paths: Vec<String> = text.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        paths.sort();
        paths
    };
    let calls = s.sandbox.exchanges().len();
    let paths = tree_diff(s.forge.as_ref(), &s.repo, Some(&base), &wide)
        .await
        .expect("a diff")
        .expect("not too many");
    let calls = s.sandbox.exchanges().len() - calls;
    assert_eq!(paths, by_git(&from, &to));
    assert_eq!(paths.len(), folders * files);
    println!(
        "FIGURE tree_diff kind={} files={} tree_calls={calls} equal_to_git=true",
        kind.word(),
        paths.len()
    );

    // Every kind of small change, against git's own answer.
    s.tree.git(&["rm", "--quiet", "-r", "data/part00"]);
    s.tree.git(&["mv", "data/part01/f000.txt", "moved.txt"]);
    s.tree.git(&["update-index", "--chmod=+x", "train.py"]);
    s.tree.write("docs/new/deep/er.md", "x");
    std::fs::remove_dir_all(s.tree.file("data/part02")).expect("a folder");
    s.tree.write("data/part02", "a file where a folder was");
    s.tree.git(&["config", "core.fileMode", "false"]);
    let mixed = s.tree.commit("mixed");
    s.tree.push(&["main"]);
    for (from, to) in [(&wide, &mixed), (&mixed, &wide), (&base, &mixed)] {
        let paths = tree_diff(s.forge.as_ref(), &s.repo, Some(from), to)
            .await
            .expect("a diff")
            .expect("not too many");
        assert_eq!(paths, by_git(from.as_str(), to.as_str()));
    }
    assert_eq!(
        tree_diff(s.forge.as_ref(), &s.repo, Some(&wide), &wide).await.expect("a diff"),
        Some(Vec::new())
    );
    let all = tree_diff(s.forge.as_ref(), &s.repo, None, &base).await.expect("a diff").expect("not too many");
    assert_eq!(all.len(), folders * files + 2);
}

/// Commits a root that `git mktree` makes of these lines.
fn commit_tree(tree: &WorkTree, lines: &str) -> Sha {
    let id = tree.git_with_input(&["mktree"], lines);
    let commit = tree.git(&["commit-tree", "-m", "made", &id]);
    tree.git(&["update-ref", "refs/heads/main", &commit]);
    Sha::parse(&commit).expect("a commit id")
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_are_unknown() {
    let s = stage().await;
    let blob = s.tree.git_with_input(&["hash-object", "-w", "--stdin"], "x");
    let folder = s.tree.git_with_input(&["mktree"], &format!("100644 blob {blob}\tf\n"));
    let (mut files, mut folders) = (String::new(), String::new());
    for i in 0..20_001 {
        let _ = writeln!(files, "100644 blob {blob}\tf{i:05}");
    }
    for i in 0..2_001 {
        let _ = writeln!(folders, "040000 tree {folder}\td{i:04}");
    }
    for (what, lines) in [("20,001 files", files), ("2,001 folders", folders)] {
        let commit = commit_tree(&s.tree, &lines);
        s.tree.push(&["+main"]);
        assert_eq!(
            tree_diff(s.forge.as_ref(), &s.repo, None, &commit).await.expect("a diff"),
            None,
            "{what}"
        );
    }
    assert!(s.sandbox.exchanges().len() < 10, "the bound is known before the calls are made");
}
