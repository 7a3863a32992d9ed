//! Which files of a repository are pipelines: one rule for the daemon, `lint` and `plan`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::{DIRECTORY, FILE};

/// More pipelines in one repository are a mistake, and each costs a call.
pub const MOST: usize = 32;

/// What stands at a path where a pipeline may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    File,
    Folder,
    /// A symbolic link or a submodule.
    Other,
}

/// The pipeline files of a repository, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub read: Vec<String>,
    /// Those that are not read, each with the reason as the end of a sentence.
    pub not_read: Vec<(String, String)>,
}

/// Chooses among a repository's root entries and those of the folder, by name.
pub fn choose(root: &BTreeMap<String, Entry>, folder: &BTreeMap<String, Entry>) -> Files {
    let mut all: Vec<(String, Entry)> = Vec::new();
    if let Some(entry) = root.get(FILE).filter(|entry| **entry != Entry::Folder) {
        all.push((FILE.to_owned(), *entry));
    }
    match root.get(DIRECTORY) {
        Some(Entry::Folder) => {
            let yaml =
                folder.iter().filter(|(name, entry)| name.ends_with(".yaml") && **entry != Entry::Folder);
            all.extend(yaml.map(|(name, entry)| (format!("{DIRECTORY}/{name}"), *entry)));
        }
        Some(Entry::Other) => all.push((DIRECTORY.to_owned(), Entry::Other)),
        Some(Entry::File) | None => {}
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let beyond = all.split_off(all.len().min(MOST));
    let mut files = Files::default();
    for (path, entry) in all {
        if entry == Entry::File {
            files.read.push(path);
        } else {
            let why = "it is a symbolic link or a submodule: commit the file itself";
            files.not_read.push((path, why.to_owned()));
        }
    }
    if let Some((first, _)) = beyond.first() {
        let why = match &beyond[1..] {
            [] => format!("a repository has at most {MOST} pipeline files"),
            [(last, _)] => format!("a repository has at most {MOST} pipeline files; nor is {last}"),
            [.., (last, _)] => format!(
                "a repository has at most {MOST} pipeline files; nor are the {} after it up to {last}",
                beyond.len() - 1
            ),
        };
        files.not_read.push((first.clone(), why));
    }
    files
}

/// Those of a working tree.
///
/// # Errors
/// A folder cannot be listed.
pub fn of_tree(dir: &Path) -> io::Result<Files> {
    let root = entries(dir)?;
    let folder = match root.get(DIRECTORY) {
        Some(Entry::Folder) => entries(&dir.join(DIRECTORY))?,
        _ => BTreeMap::new(),
    };
    Ok(choose(&root, &folder))
}

fn entries(dir: &Path) -> io::Result<BTreeMap<String, Entry>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let kind = match () {
            () if kind.is_file() => Entry::File,
            () if kind.is_dir() => Entry::Folder,
            () => Entry::Other,
        };
        all.insert(entry.file_name().to_string_lossy().into_owned(), kind);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_so_many_are_read_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(of_tree(root).unwrap(), Files::default());
        std::os::unix::fs::symlink("a.yaml", root.join(FILE)).unwrap();
        std::fs::create_dir_all(root.join(DIRECTORY).join("folder.yaml")).unwrap();
        std::fs::write(root.join(DIRECTORY).join("notes.txt"), "").unwrap();
        let names: Vec<String> = (10..45).map(|n| format!("p{n}.yaml")).collect();
        for name in &names[..31] {
            std::fs::write(root.join(DIRECTORY).join(name), "train: x").unwrap();
        }
        let files = of_tree(root).unwrap();
        let link =
            (FILE.to_owned(), "it is a symbolic link or a submodule: commit the file itself".to_owned());
        assert_eq!((files.read.len(), files.read[0].as_str()), (31, ".trainyard/p10.yaml"));
        assert_eq!(files.not_read, std::slice::from_ref(&link));
        for (more, why) in [
            (32, "a repository has at most 32 pipeline files"),
            (33, "a repository has at most 32 pipeline files; nor is .trainyard/p42.yaml"),
            (
                34,
                "a repository has at most 32 pipeline files; nor are the 2 after it up to .trainyard/p43.yaml",
            ),
        ] {
            std::fs::write(root.join(DIRECTORY).join(&names[more - 1]), "train: x").unwrap();
            let files = of_tree(root).unwrap();
            assert_eq!(files.read.len(), 31);
            assert_eq!(files.not_read, [link.clone(), (".trainyard/p41.yaml".to_owned(), why.to_owned())]);
        }
    }

    #[test]
    fn a_folder_that_is_a_link_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join(DIRECTORY)).unwrap();
        let files = of_tree(dir.path()).unwrap();
        assert_eq!((files.read.len(), files.not_read[0].0.as_str()), (0, DIRECTORY));
    }
}
