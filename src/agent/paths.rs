//! Paths that come from outside, made safe: relative, plain, and below one directory even when links lie about it.

use std::path::{Component, Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {0:?} {1}")]
pub struct BadPath(pub String, pub &'static str);

/// The longest path that is accepted, in bytes (`PATH_MAX` is 4096 with the directory before it).
const MAX: usize = 1024;

/// Checks a relative path. Returns it in its plain form: no empty parts, no `.`, slashes only.
///
/// # Errors
/// Absolute, `..`, empty, control characters, backslashes, over 1,024 bytes or 255 a part, anything below `.git`.
pub fn relative(text: &str) -> Result<String, BadPath> {
    let bad = |why| BadPath(text.chars().take(120).collect(), why);
    if text.len() > MAX {
        return Err(bad("is longer than 1,024 bytes"));
    }
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Err(bad("holds a control character or a backslash"));
    }
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::ParentDir => return Err(bad("goes up with `..`")),
            Component::RootDir | Component::Prefix(_) => return Err(bad("is absolute")),
        }
    }
    if parts.is_empty() {
        return Err(bad("is empty"));
    }
    if parts.iter().any(|p| p.len() > 255) {
        return Err(bad("has a part longer than 255 bytes"));
    }
    if parts[0].eq_ignore_ascii_case(".git") {
        return Err(bad("lies in `.git`"));
    }
    Ok(parts.join("/"))
}

/// The place of a relative path below `root`, with its parent directories made. No part of it may be a symbolic link.
///
/// # Errors
/// See [`relative`]; a parent is a link or a file; the file system refuses.
pub fn place(root: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let path = relative(text)?;
    let mut at = root.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let last = parts.peek().is_none();
        match std::fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => Err(BadPath(path.clone(), "leads through a symbolic link"))?,
            Ok(meta) if !last && !meta.is_dir() => Err(BadPath(path.clone(), "leads through a file"))?,
            Ok(meta) if last && meta.is_dir() => Err(BadPath(path.clone(), "is a directory already"))?,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !last {
                    std::fs::create_dir(&at)?;
                }
            }
            Err(error) => Err(error)?,
        }
    }
    Ok(at)
}

/// Opens a file that an untrusted process may have planted: a regular one, never through a link, never blocking.
pub fn open_plain(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("not a regular file")) }
}

/// Reads such a file, at most `max` bytes of it; longer ones are an error.
pub fn read_plain(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    open_plain(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(std::io::Error::other(format!("larger than {max} bytes")));
    }
    Ok(bytes)
}

/// Writes a file as a whole or not at all, and returns when it is on the disk.
pub fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_from_outside() {
        let long = "a/".repeat(600);
        let part = "a".repeat(256);
        let bad = [
            "",
            ".",
            "./",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "/",
            "/etc/passwd",
            "//etc/passwd",
            "a\0b",
            "a\nb",
            "a\\b",
            "..\\x",
            ".git/config",
            ".GIT/hooks/x",
            "./.git/config",
            "a/../.git/config",
            "\x7f",
            &long,
            &part,
        ];
        let good = [
            ("a", "a"),
            ("a//b", "a/b"),
            ("./a", "a"),
            ("a/./b/", "a/b"),
            ("a.", "a."),
            ("%2e%2e/x", "%2e%2e/x"),
            ("․․/x", "․․/x"),
            ("...", "..."),
            ("a/.git/x", "a/.git/x"),
            ("a b", "a b"),
            ("-rf", "-rf"),
        ];
        let failed = bad.iter().filter(|p| relative(p).is_ok()).count()
            + good.iter().filter(|(p, want)| relative(p).ok().as_deref() != Some(want)).count();

        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("file-link")).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        let refused = ["link/x", "file-link", "file/x", "dir", "dir/../../x"];
        let failed = failed + refused.iter().filter(|p| place(root, p).is_ok()).count();
        assert_eq!(place(root, "new/deep/x").unwrap(), root.join("new/deep/x"));
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let unreadable = ["fifo", "dir", "file-link", "link/passwd2"];
        let failed = failed + unreadable.iter().filter(|p| open_plain(&root.join(p)).is_ok()).count();
        let count = bad.len() + good.len() + refused.len() + unreadable.len();
        println!("SEC S09 cases={count} failed={failed}");
        assert_eq!(failed, 0);
    }
}
