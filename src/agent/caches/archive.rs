//! A directory as one `tar` in `zstd`, and back. What is unpacked came over the network and may be hostile: only plain files,
//! directories and links that stay inside are taken, and never more than the limits allow.

use std::io::{Read, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use crate::agent::paths;

/// Entries of one archive.
const MAX_ENTRIES: u64 = 500_000;
/// Of `zstd`, as a power of two: what a decoder may hold in memory.
const WINDOW_LOG: u32 = 27;
/// A cache of files shrinks; one that grows so much is a bomb.
const MAX_RATIO: u64 = 200;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: u64,
    pub entries: u64,
}

impl Limits {
    /// Unpacked it may have four times the bytes of the largest archive.
    pub fn of(most_packed: u64) -> Self {
        Self { bytes: most_packed.saturating_mul(4), entries: MAX_ENTRIES }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub files: u64,
    pub skipped: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// Fails once more was read than allowed.
struct Capped<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| std::io::Error::other("it holds more than it may when unpacked"))?;
        Ok(n)
    }
}

/// Unpacks into `into`, an empty directory that nobody else knows. Returns the number of files.
///
/// # Errors
/// Anything that is not as [`pack`] makes it; what was written by then is the caller's to remove.
pub fn unpack(file: std::fs::File, into: &Path, limits: Limits) -> anyhow::Result<u64> {
    let packed = file.metadata()?.len();
    let most = limits.bytes.min(packed.saturating_mul(MAX_RATIO).max(64 << 20));
    let mut decoder = zstd::stream::read::Decoder::new(file).context("it is no zstd archive")?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut archive = tar::Archive::new(Capped { inner: decoder, left: most });
    let (mut files, mut entries, mut links) = (0, 0, Vec::new());
    for entry in archive.entries()? {
        let mut entry = entry.context("it is no tar archive")?;
        entries += 1;
        if entries > limits.entries {
            bail!("it has more than {} entries", limits.entries);
        }
        let text =
            String::from_utf8(entry.path_bytes().into_owned()).ok().context("a path in it is not UTF-8")?;
        let path = paths::relative(&text)?;
        let place = into.join(&path);
        let parent = place.parent().context("a path in it has no parent")?;
        // No link exists below `into` before all files do, so nothing is written through one.
        std::fs::create_dir_all(parent)?;
        match entry.header().entry_type() {
            EntryType::Directory => std::fs::create_dir_all(&place)?,
            EntryType::Regular => {
                let executable = entry.header().mode().unwrap_or(0) & 0o111 != 0;
                let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(&place)?;
                std::io::copy(&mut entry, &mut out)?;
                let mode = if executable { 0o755 } else { 0o644 };
                out.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
                files += 1;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
                let target = String::from_utf8(target).ok().context("a link in it is not UTF-8")?;
                if !stays_inside(&path, &target) {
                    bail!("the link {path:?} in it leads out of the directory");
                }
                links.push((place, target));
            }
            other => bail!("{path:?} in it is neither a file, a directory nor a link: {other:?}"),
        }
    }
    for (place, target) in links {
        std::os::unix::fs::symlink(target, place)?;
    }
    Ok(files)
}

/// A relative target whose `..` all stand in front and do not lead above the directory.
fn stays_inside(path: &str, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains(['\\', '\0']) {
        return false;
    }
    let parts: Vec<&str> = target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let up = parts.iter().take_while(|part| **part == "..").count();
    up < path.split('/').count() && parts[up..].iter().all(|part| *part != "..")
}

/// Counts and digests what goes by.
struct Tally<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
    most: u64,
}

impl<W: std::io::Write> std::io::Write for Tally<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        if self.bytes > self.most {
            return Err(std::io::Error::other(format!("packed it is larger than {} bytes", self.most)));
        }
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Packs all that is below `dir`, by path. Links that lead out and special files are left out and counted.
///
/// # Errors
/// Something cannot be read, changes while it is read, or the archive grows beyond `most` bytes.
pub fn pack(dir: &Path, file: std::fs::File, most: u64) -> anyhow::Result<Packed> {
    let tally = Tally { inner: std::io::BufWriter::new(file), hash: Sha256::new(), bytes: 0, most };
    let encoder = zstd::stream::write::Encoder::new(tally, 3)?;
    let mut archive = tar::Builder::new(encoder);
    let (mut files, mut skipped) = (0, 0);
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(dir.join(&below))?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                skipped += 1;
                continue;
            };
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.file_type()?;
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            if paths::relative(&path).is_err() {
                skipped += 1;
            } else if kind.is_dir() {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                archive.append_data(&mut header, &path, std::io::empty())?;
                todo.push(path);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path())?;
                match target.to_str().filter(|target| stays_inside(&path, target)) {
                    Some(target) => {
                        header.set_entry_type(EntryType::Symlink);
                        header.set_mode(0o777);
                        header.set_size(0);
                        archive.append_link(&mut header, &path, target)?;
                    }
                    None => skipped += 1,
                }
            } else if kind.is_file() {
                let mut plain = paths::open_plain(&entry.path())?;
                let meta = plain.metadata()?;
                let executable = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0;
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if executable { 0o755 } else { 0o644 });
                header.set_size(meta.len());
                archive.append_data(&mut header, &path, (&mut plain).take(meta.len()))?;
                if plain.stream_position()? != meta.len() {
                    bail!("{path:?} changed while it was packed");
                }
                files += 1;
            } else {
                skipped += 1;
            }
        }
    }
    let mut tally = archive.into_inner()?.finish()?;
    tally.flush()?;
    Ok(Packed { files, skipped, bytes: tally.bytes, sha256: hex::encode(tally.hash.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(dir: &Path) -> (std::fs::File, Packed) {
        let file = tempfile::tempfile().unwrap();
        let packed = pack(dir, file.try_clone().unwrap(), 1 << 30).unwrap();
        (rewound(file), packed)
    }

    fn rewound(mut file: std::fs::File) -> std::fs::File {
        file.rewind().unwrap();
        file
    }

    #[test]
    fn a_directory_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cache");
        std::fs::create_dir_all(root.join("bin/deep")).unwrap();
        std::fs::create_dir_all(root.join("empty")).unwrap();
        std::fs::write(root.join("bin/tool"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(root.join("bin/tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let long = format!("bin/deep/{}", "n".repeat(200));
        std::fs::write(root.join(&long), vec![7; 100_000]).unwrap();
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, root.join(from)).unwrap();
        link("../bin/tool", "empty/inside");
        link("/etc/passwd", "outside");
        link("../..", "bin/up");
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (file, first) = packed(&root);
        assert_eq!((first.files, first.skipped), (2, 3));
        assert_eq!(packed(&root).1, first, "the same bytes each time");
        let into = tempfile::tempdir().unwrap();
        assert_eq!(unpack(file, into.path(), Limits::of(1 << 20)).unwrap(), 2);
        let again = packed(into.path()).1;
        assert_eq!((again.files, again.skipped), (2, 0));
        assert_eq!(std::fs::read(into.path().join(&long)).unwrap(), vec![7; 100_000]);
        assert_eq!(std::fs::read_link(into.path().join("empty/inside")).unwrap(), Path::new("../bin/tool"));
        let mode = |p: &str| {
            std::os::unix::fs::PermissionsExt::mode(&into.path().join(p).metadata().unwrap().permissions())
        };
        assert_eq!((mode("bin/tool") & 0o777, mode(&long) & 0o777), (0o755, 0o644));
        assert!(pack(&root, tempfile::tempfile().unwrap(), 10).is_err());
    }

    /// One entry with the raw name and link name given: `tar::Builder` itself refuses some of them.
    fn hostile(name: &str, link: &str, kind: EntryType, body: &[u8]) -> std::fs::File {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        rewound(file)
    }

    #[test]
    fn hostile_archives_are_refused() {
        use EntryType as T;
        let cases = [
            ("../up", "", T::Regular),
            ("/etc/cron.d/x", "", T::Regular),
            ("a/../../up", "", T::Regular),
            ("a\\..\\up", "", T::Regular),
            (".git/hooks/pre-commit", "", T::Regular),
            ("a\nb", "", T::Regular),
            ("link", "/etc/passwd", T::Symlink),
            ("link", "..", T::Symlink),
            ("a/link", "../../x", T::Symlink),
            ("a/link", "b/../../../x", T::Symlink),
            ("a/link", "", T::Symlink),
            ("hard", "a", T::Link),
            ("hard", "/etc/shadow", T::Link),
            ("device", "", T::Char),
            ("disk", "", T::Block),
            ("pipe", "", T::Fifo),
            ("run", "", T::Continuous),
        ];
        let mut failed = 0;
        for (name, link, kind) in cases {
            let into = tempfile::tempdir().unwrap();
            if unpack(hostile(name, link, kind, b""), into.path(), Limits::of(1 << 20)).is_ok() {
                println!("taken: {name:?} -> {link:?} {kind:?}");
                failed += 1;
            }
        }
        let into = tempfile::tempdir().unwrap();
        let bomb = hostile("bomb", "", T::Regular, &vec![0; 8 << 20]);
        failed += i32::from(unpack(bomb, into.path(), Limits { bytes: 1 << 20, entries: 9 }).is_ok());
        let many = tempfile::tempdir().unwrap();
        (0..20).for_each(|n| std::fs::write(many.path().join(n.to_string()), "x").unwrap());
        let (file, _) = packed(many.path());
        failed += i32::from(unpack(file, into.path(), Limits { bytes: 1 << 20, entries: 9 }).is_ok());
        let mut garbage = tempfile::tempfile().unwrap();
        garbage.write_all(b"no archive at all").unwrap();
        failed += i32::from(unpack(rewound(garbage), into.path(), Limits::of(1 << 20)).is_ok());
        println!("SEC S09 cases={} failed={failed}", cases.len() + 3);
        assert_eq!(failed, 0);
    }
}
