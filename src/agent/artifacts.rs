//! Keeps what the pipeline names: finds files by globs below the source tree and uploads them, verified by SHA-256.
//!
//! Must not: follow a link out of the tree, open a FIFO or device, or run while a command of the attempt still lives.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use globset::GlobBuilder;
use sha2::{Digest as _, Sha256};

use super::client::{Backoff, Client, Fault};
use super::{artifact_path, paths};

/// More files than this are one archive's work, not ours.
pub const MAX_FILES: usize = 20_000;

/// A file to keep: its path below the source tree, with slashes.
pub type Kept = String;

/// Calls `each` with every file (or link) below `root/below`, by its path relative to `root`. Links to directories are
/// not entered, `.git` at the top neither, nor directories whose names are not UTF-8: such names come with U+FFFD in them.
pub fn walk(root: &Path, below: &str, each: &mut impl FnMut(&str)) {
    walk_some(root, below, &mut |_| true, &mut |path| {
        each(path);
        true
    });
}

/// The same, where `enter` chooses directories (by their names; the one at the top called `.git` is never entered) and `each`
/// ends the walk with false.
pub fn walk_some(
    root: &Path,
    below: &str,
    enter: &mut dyn FnMut(&str) -> bool,
    each: &mut dyn FnMut(&str) -> bool,
) {
    let mut todo = vec![below.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&dir)) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let spelled = name.to_str().is_some();
            let name = name.to_string_lossy().into_owned();
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            if kind.is_dir() && spelled {
                if path != ".git" && enter(&name) {
                    todo.push(path);
                }
            } else if !each(&path) {
                return;
            }
        }
    }
}

/// What patterns match.
#[derive(Debug, Default)]
pub struct Matches {
    /// Sorted, without doubles.
    pub files: Vec<Kept>,
    /// Sentences on what was left out.
    pub notes: Vec<String>,
    /// A sentence on the first file that would be kept if it had another name.
    pub misnamed: Option<String>,
}

/// # Errors
/// A sentence that names the first pattern that is no pattern, leads out of the tree, or matches nothing; or too many files.
pub fn find(root: &Path, patterns: &[String]) -> Result<Matches, String> {
    let (mut kept, mut notes) = (std::collections::BTreeSet::new(), Vec::new());
    let mut misnamed = None;
    let real_root =
        std::fs::canonicalize(root).map_err(|e| format!("the source tree cannot be read: {e}"))?;
    for pattern in patterns {
        let plain = paths::relative(pattern).map_err(|e| format!("artifact pattern {pattern:?}: {e}"))?;
        let glob =
            |text: &str| GlobBuilder::new(text).literal_separator(true).build().map(|g| g.compile_matcher());
        // A directory means all that is in it.
        let (own, inside) = match (glob(&plain), glob(&format!("{plain}/**"))) {
            (Ok(own), Ok(inside)) => (own, inside),
            (Err(e), _) | (_, Err(e)) => {
                return Err(format!("artifact pattern {pattern:?} is not a glob: {}", e.kind()));
            }
        };
        let mut matched = 0;
        // By reason: the first in the order of the walk, and how many.
        let mut left_out: BTreeMap<&str, (String, usize)> = BTreeMap::new();
        let from = fixed_part(&plain);
        // A walk must not begin behind a link that leads away.
        let inside_tree =
            std::fs::canonicalize(root.join(&from)).is_ok_and(|real| real.starts_with(&real_root));
        walk(root, if inside_tree { &from } else { NOWHERE }, &mut |path| {
            if !own.is_match(path) && !inside.is_match(path) {
                return;
            }
            let why = match may_keep(&real_root, &root.join(path)) {
                Ok(()) => match artifact_path::normalise(path) {
                    Ok(_) => {
                        matched += 1;
                        kept.insert(path.to_owned());
                        return;
                    }
                    Err(why) => {
                        misnamed.get_or_insert_with(|| format!("the name of {path:?} {why}"));
                        why
                    }
                },
                Err(why) => why,
            };
            left_out.entry(why).or_insert_with(|| (path.to_owned(), 0)).1 += 1;
        });
        let said: Vec<String> = left_out
            .iter()
            .map(|(why, (first, count))| match count {
                1 => format!("{first:?} {why}"),
                count => format!("{first:?} {why}, and {} more like it", count - 1),
            })
            .collect();
        if matched == 0 {
            return Err(if said.is_empty() {
                format!("no file matches the artifact pattern {pattern:?}")
            } else {
                format!(
                    "no file that may be kept matches the artifact pattern {pattern:?}: {}",
                    said.join("; ")
                )
            });
        }
        notes.extend(said.into_iter().map(|said| format!("left out of the artifacts {pattern:?}: {said}")));
        if kept.len() > MAX_FILES {
            return Err(format!(
                "the artifact patterns match more than {MAX_FILES} files: pack them into one"
            ));
        }
    }
    Ok(Matches { files: kept.into_iter().collect(), notes, misnamed })
}

/// Is this a file, and of the tree? Otherwise what it is, as the end of a sentence that begins with its path.
fn may_keep(real_root: &Path, full: &Path) -> Result<(), &'static str> {
    use std::os::unix::fs::FileTypeExt as _;
    let Ok(kind) = std::fs::symlink_metadata(full).map(|about| about.file_type()) else {
        return Err("cannot be read, or its name is not UTF-8");
    };
    match std::fs::canonicalize(full) {
        Ok(real) if !real.starts_with(real_root) => Err("is a link out of the source tree"),
        Ok(real) if real.starts_with(real_root.join(".git")) => Err("is a link into `.git`"),
        Ok(real) if real.is_file() => Ok(()),
        Ok(real) if real.is_dir() => Err("is a link to a directory"),
        Ok(_) if kind.is_fifo() => Err("is a named pipe"),
        Ok(_) if kind.is_socket() => Err("is a socket"),
        Ok(_) => Err("is no file"),
        Err(_) if kind.is_symlink() => Err("is a link to nothing"),
        Err(_) => Err("cannot be read"),
    }
}

/// A path that no file system holds.
const NOWHERE: &str = "\0";

/// The leading directories of a pattern that hold no wildcard, so that only they are walked.
fn fixed_part(pattern: &str) -> String {
    let parts: Vec<&str> =
        pattern.split('/').take_while(|p| !p.contains(['*', '?', '[', '{', '!'])).collect();
    let whole = parts.len() == pattern.split('/').count();
    // The last part may be a file; its directory is walked then.
    parts[..parts.len() - usize::from(whole)].join("/")
}

/// Uploads one file of the tree under its own path. Tries again while the daemon is away.
///
/// # Errors
/// The file cannot be read, the daemon refuses it, or the attempt has ended ([`Fault::Gone`]).
pub async fn upload(client: &Client, root: &Path, path: &str) -> anyhow::Result<()> {
    let real =
        std::fs::canonicalize(root.join(path)).with_context(|| format!("cannot read the artifact {path}"))?;
    upload_as(client, &real, path).await
}

/// The same for a file of any place, under a path of its own.
pub async fn upload_as(client: &Client, real: &Path, path: &str) -> anyhow::Result<()> {
    upload_if(client, real, path, None).await
}

/// The same, if what it holds still has the digest `only`.
pub async fn upload_if(client: &Client, real: &Path, path: &str, only: Option<&str>) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    loop {
        let (real, real_name) = (real.to_owned(), real.display());
        let (digest, bytes, executable, file) = tokio::task::spawn_blocking(move || digest(&real))
            .await?
            .with_context(|| format!("cannot read the artifact {path}"))?;
        if only.is_some_and(|only| only != digest) {
            anyhow::bail!("{real_name} changed while it was read");
        }
        match client.put_artifact(path, &digest, executable, bytes, tokio::fs::File::from_std(file)).await {
            Ok(()) => return Ok(()),
            Err(fault @ Fault::Retry(_)) if backoff.tries() < 10_000 => {
                tracing::warn!(%fault, path, "an artifact did not arrive; trying again");
                backoff.wait().await;
            }
            Err(fault) => {
                return Err(anyhow::Error::new(fault).context(format!("cannot store the artifact {path}")));
            }
        }
    }
}

/// What a file holds, as SHA-256 in hexadecimal, and whether its owner may execute it.
///
/// # Errors
/// It cannot be read, or is no plain file.
pub async fn digest_of(path: &Path) -> anyhow::Result<(String, bool)> {
    let path = path.to_owned();
    let (sha256, _, executable, _) = tokio::task::spawn_blocking(move || digest(&path)).await??;
    Ok((sha256, executable))
}

fn digest(path: &Path) -> anyhow::Result<(String, u64, bool, std::fs::File)> {
    use std::io::Seek as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = paths::open_plain(path)?;
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
    file.rewind()?;
    Ok((hex::encode(hash.finalize()), bytes, executable, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_links_and_missing_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let root = &dir.path().join("src");
        for file in
            ["out/model/a.bin", "out/model/deep/b.bin", "out/log.txt", "x.json", ".git/config", "top.json"]
        {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), file).unwrap();
        }
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, root.join(from)).unwrap();
        link("../../outside", "out/escape");
        link("/etc/passwd", "out/passwd");
        link("model/a.bin", "out/inside");
        link("../.git/config", "out/gitconfig");
        link("/etc", "out/etc");
        link("nowhere", "out/dangling");
        link("model", "out/models");
        nix::unistd::mkfifo(&root.join("out/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = |patterns: &[&str]| {
            find(root, &patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
                .map(|found| format!("{} ({})", found.files.join(" "), found.notes.len()))
        };
        let cases: &[(&[&str], Result<&str, &str>)] = &[
            (&["out/model/**"], Ok("out/model/a.bin out/model/deep/b.bin (0)")),
            (&["out/model"], Ok("out/model/a.bin out/model/deep/b.bin (0)")),
            (&["./out/model/"], Ok("out/model/a.bin out/model/deep/b.bin (0)")),
            (&["out/model/*"], Ok("out/model/a.bin out/model/deep/b.bin (0)")),
            (&["*.json"], Ok("top.json x.json (0)")),
            (&["x.json", "x.json"], Ok("x.json (0)")),
            (&["out/*.txt"], Ok("out/log.txt (0)")),
            (&["out/*"], Ok("out/inside out/log.txt out/model/a.bin out/model/deep/b.bin (5)")),
            (&["**/*.bin"], Ok("out/model/a.bin out/model/deep/b.bin (0)")),
            (&["nothing/**"], Err("no file matches the artifact pattern \"nothing/**\"")),
            (&["x.json", "missing.bin"], Err("no file matches the artifact pattern \"missing.bin\"")),
            (
                &["out/passwd"],
                Err(
                    "no file that may be kept matches the artifact pattern \"out/passwd\": \"out/passwd\" is a link out of the source tree",
                ),
            ),
            (&["out/etc/passwd"], Err("no file")),
            (&["out/etc/*"], Err("no file")),
            (&["out/fifo"], Err("\"out/fifo\" is a named pipe")),
            (&["out/dangling"], Err("\"out/dangling\" is a link to nothing")),
            (&["out/models"], Err("\"out/models\" is a link to a directory")),
            (&["out/gitconfig"], Err("is a link into `.git`")),
            (&[".git/config"], Err("lies in `.git`")),
            (&["../outside"], Err("goes up")),
            (&["out/../../outside"], Err("goes up")),
            (&["/etc/passwd"], Err("is absolute")),
            (&["a\\b"], Err("backslash")),
            (&["out/[a"], Err("is not a glob")),
        ];
        let mut failed = 0;
        for (patterns, want) in cases {
            let got = found(patterns);
            let right = match (&got, want) {
                (Ok(got), Ok(want)) => got == want,
                (Err(got), Err(want)) => got.contains(want),
                _ => false,
            };
            if !right {
                println!("{patterns:?}: {got:?}, not {want:?}");
                failed += 1;
            }
        }
        println!("SEC S09 cases={} failed={failed}", cases.len());
        assert_eq!(failed, 0);
    }

    /// What the daemon would refuse is left out before anything is sent, and the rest is kept.
    #[test]
    fn odd_names_are_left_out_with_a_note() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("out")).unwrap();
        for name in ["model.bin", "..%2f..%2fx", "report%2F1.html", "x.", "a\nb"] {
            std::fs::write(root.join("out").join(name), "x").unwrap();
        }
        std::fs::write(root.join("out").join(std::ffi::OsStr::from_bytes(b"\xff.bin")), "x").unwrap();
        let found = find(root, &["out/**".to_owned()]).unwrap();
        assert_eq!(found.files, ["out/model.bin"]);
        assert!(found.misnamed.is_some());
        let notes = found.notes.join("\n");
        for part in [
            "\"out/x.\" has a part that ends in a dot or a space",
            "holds a percent-encoded dot, slash, backslash or NUL, and 1 more like it",
            "\"out/a\\nb\" holds a control character",
            "its name is not UTF-8",
        ] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        let only = find(root, &["out/x.".to_owned()]).unwrap_err();
        assert!(only.ends_with(": \"out/x.\" has a part that ends in a dot or a space"), "{only}");
    }
}
