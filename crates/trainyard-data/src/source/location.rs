//! Files on this machine and in object storage, found by path, glob, directory, `.dvc` file or address.

use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use globset::{GlobBuilder, GlobMatcher};
use md5::Digest;
use serde::Deserialize;

use crate::error::{Error, Result};

/// One file.
#[derive(Clone)]
pub struct Location {
    pub name: String,
    pub size: u64,
    /// What changes when the file is written again: an entity tag, or its time of change.
    pub version: String,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Local(Arc<std::fs::File>),
    #[cfg(feature = "remote")]
    Remote(Arc<dyn object_store::ObjectStore>, object_store::path::Path),
}

impl Location {
    pub(crate) fn local(path: &Path) -> Result<Self> {
        let (name, file, meta) = opened(path)?;
        let version = version_of(&meta);
        Ok(Self { name, size: meta.len(), version, place: Place::Local(Arc::new(file)) })
    }

    /// Exactly `length` bytes from `offset` on.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(Error::data(&self.name, "is cut short: it points beyond its own end"));
        }
        match &self.place {
            Place::Local(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)
                    .map_err(|e| Error::io(&self.name, "cannot be read", e))?;
                Ok(bytes.into())
            }
            #[cfg(feature = "remote")]
            Place::Remote(store, path) => remote::read(&self.name, store, path, offset, length as u64),
        }
    }

    /// At most `length` bytes from `offset` on, less at the end.
    pub(crate) fn read_up_to(&self, offset: u64, length: usize) -> Result<Bytes> {
        let there = self.size.saturating_sub(offset).min(length as u64);
        self.read(offset, there as usize)
    }

    /// A reader from `offset` on that asks for large pieces.
    pub(crate) fn reader(&self, offset: u64) -> Reader {
        self.reader_after(offset, Bytes::new())
    }

    /// The same where the first bytes are known already.
    pub(crate) fn reader_after(&self, offset: u64, known: Bytes) -> Reader {
        let piece = match self.place {
            Place::Local(_) => 128 << 10,
            #[cfg(feature = "remote")]
            Place::Remote(..) => 8 << 20,
        };
        Reader { location: self.clone(), next: offset + known.len() as u64, piece, bytes: known }
    }

    /// Bytes to read at a time where `parts` of the file are read side by side: what saves reads and is not too much
    /// for all of them together.
    pub(super) fn ahead(&self, parts: u64) -> u64 {
        let (all, least) = match self.place {
            Place::Local(_) => (1 << 20, 64 << 10),
            #[cfg(feature = "remote")]
            Place::Remote(..) => (8 << 20, 1 << 20),
        };
        (all / parts.max(1)).max(least)
    }
}

/// Opens a regular file. Others are not opened at all: a pipe would wait for somebody to write.
fn opened(path: &Path) -> Result<(String, std::fs::File, std::fs::Metadata)> {
    let name = path.display().to_string();
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("{name}: there is no such file")),
        _ => Error::io(&name, "cannot be opened", e),
    };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::usage(format!("{name}: is not a regular file")));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    Ok((name, file, meta))
}

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// There is no such file, it is not a regular one, is longer, or cannot be read.
pub fn read_small(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (name, file, _) = opened(path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(&name, "cannot be read", e))?;
    if bytes.len() as u64 > most {
        return Err(Error::data(name, format!("is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Reads a [`Location`] from front to back.
pub struct Reader {
    location: Location,
    next: u64,
    piece: usize,
    bytes: Bytes,
}

impl Reader {
    /// Goes on so many bytes later.
    pub(super) fn skip(&mut self, length: u64) {
        let known = length.min(self.bytes.len() as u64);
        self.bytes.advance(known as usize);
        self.next = self.next.saturating_add(length - known);
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() && self.next < self.location.size {
            self.bytes = self.location.read_up_to(self.next, self.piece).map_err(std::io::Error::other)?;
            self.next += self.bytes.len() as u64;
        }
        let n = out.len().min(self.bytes.len());
        out[..n].copy_from_slice(&self.bytes.split_to(n));
        Ok(n)
    }
}

impl parquet::file::reader::Length for Location {
    fn len(&self) -> u64 {
        self.size
    }
}

impl parquet::file::reader::ChunkReader for Location {
    type T = Reader;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Reader> {
        Ok(self.reader(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.read(start, length).map_err(|e| parquet::errors::ParquetError::External(Box::new(e)))
    }
}

/// The files that `spec` names, in the order of their names; at least one.
pub(crate) fn resolve(spec: &str) -> Result<Vec<Location>> {
    if let Some((scheme, _)) = spec.split_once("://") {
        if scheme == "file" {
            return resolve(&spec["file://".len()..]);
        }
        #[cfg(feature = "remote")]
        return remote::resolve(spec);
        #[cfg(not(feature = "remote"))]
        return Err(Error::usage(format!("{spec}: this build reads local files only (no {scheme}://)")));
    }
    let path = Path::new(spec);
    if spec.ends_with(".dvc") {
        return dvc(path);
    }
    if path.is_dir() || (!path.exists() && spec.contains(WILDCARDS)) {
        return all(spec, local_paths(spec)?);
    }
    Ok(vec![Location::local(path)?])
}

/// What lies at a place, without reading any of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Of names, sizes and versions (entity tag or time of change) of all files: equal as long as nobody changed any. MD5, in hex.
    pub digest: String,
    pub files: u64,
    pub bytes: u64,
}

/// Most files that a listing is taken of.
const MOST_LISTED: usize = 1_000_000;

/// Lists a directory, glob or file, or a prefix of object storage (which ends in `/`). Nothing there is an empty listing.
///
/// # Errors
/// It cannot be listed, or holds more than a million files.
pub fn listing(spec: &str) -> Result<Listing> {
    let mut entries = match spec.split_once("://") {
        Some(("file", path)) => local_entries(path)?,
        None => local_entries(spec)?,
        #[cfg(feature = "remote")]
        Some(_) => remote::entries(spec)?,
        #[cfg(not(feature = "remote"))]
        Some((scheme, _)) => {
            return Err(Error::usage(format!("{spec}: this build reads local files only (no {scheme}://)")));
        }
    };
    if entries.len() > MOST_LISTED {
        return Err(Error::usage(format!("{spec}: holds more than {MOST_LISTED} files")));
    }
    entries.sort();
    let mut hash = md5::Md5::new();
    for (name, size, version) in &entries {
        hash.update(format!("{name}\0{size}\0{version}\n").as_bytes());
    }
    Ok(Listing {
        digest: hex::encode(hash.finalize()),
        files: entries.len() as u64,
        bytes: entries.iter().map(|(_, size, _)| size).sum(),
    })
}

/// Name, size and version of a file.
type Entry = (String, u64, String);

fn local_entries(spec: &str) -> Result<Vec<Entry>> {
    let path = Path::new(spec);
    let paths = if path.is_dir() || !path.exists() { local_paths(spec)? } else { vec![path.to_owned()] };
    let mut out = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        match std::fs::metadata(&path) {
            Ok(meta) => out.push((name, meta.len(), version_of(&meta))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {} // deleted meanwhile
            Err(e) => return Err(Error::io(&name, "cannot be listed", e)),
        }
    }
    Ok(out)
}

fn version_of(meta: &std::fs::Metadata) -> String {
    format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())
}

/// The files of a directory or glob; none where nothing is.
fn local_paths(spec: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(spec);
    if path.is_dir() {
        return listed(path, path, &|name| !hidden(name), &|_| true);
    }
    if !spec.contains(WILDCARDS) {
        return Ok(Vec::new());
    }
    let matcher = |pattern: &str| {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        glob.map(|glob| glob.compile_matcher())
            .map_err(|e| Error::usage(format!("{spec}: is not a glob: {e}")))
    };
    let glob = matcher(spec)?;
    // What may hold matches is what a part of the pattern matches that ends before a separator.
    let parents: Vec<GlobMatcher> =
        spec.match_indices('/').filter_map(|(at, _)| matcher(&spec[..at]).ok()).collect();
    // The part before the first wildcard is where to look.
    let fixed: PathBuf =
        path.components().take_while(|c| !c.as_os_str().to_string_lossy().contains(WILDCARDS)).collect();
    let root = if fixed.as_os_str().is_empty() { Path::new(".") } else { &fixed };
    let of =
        |glob: &GlobMatcher, p: &Path| glob.is_match(p.strip_prefix("./").unwrap_or(p)) || glob.is_match(p);
    let mut found = listed(root, root, &|name| !hidden(name) || names_hidden(spec, name), &|paths| {
        parents.iter().any(|parent| paths.iter().all(|path| of(parent, path)))
    })?;
    found.retain(|p| of(&glob, p));
    Ok(found)
}

const WILDCARDS: [char; 4] = ['*', '?', '[', '{'];

/// Whether a file or directory is no data but what programs leave beside it.
fn hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// Whether a part of a glob, from its first wildcard on, begins as a hidden name does: it means such names.
fn names_hidden(spec: &str, name: &str) -> bool {
    let mut parts = spec.split('/').skip_while(|part| !part.contains(WILDCARDS));
    parts.any(|part| hidden(part) && part.chars().next() == name.chars().next())
}

fn all(spec: &str, mut paths: Vec<PathBuf>) -> Result<Vec<Location>> {
    paths.sort();
    if paths.is_empty() {
        return Err(Error::usage(format!("{spec}: names no file")));
    }
    paths.iter().map(|p| Location::local(p)).collect()
}

/// Files below `root`, which is `top` or lies in it. Links to directories are not followed; one that may hold what is
/// `wanted`, and leads to what is not wanted in the same way, is refused: its files would be left out without a word.
fn listed(
    top: &Path,
    root: &Path,
    shown: &dyn Fn(&str) -> bool,
    wanted: &dyn Fn(&[&Path]) -> bool,
) -> Result<Vec<PathBuf>> {
    let name = root.display().to_string();
    if root.components().count() > top.components().count() + 32 {
        return Err(Error::usage(format!("{name}: directories are nested too deeply")));
    }
    let mut out = Vec::new();
    if !root.exists() {
        return Ok(out); // names nothing, which the caller says
    }
    let failed = |e| Error::io(&name, "cannot be listed", e);
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        if !shown(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if kind.is_dir() {
            out.extend(listed(top, &path, shown, wanted)?);
        } else if !path.is_dir() {
            // A link to nothing, and what is no file, are refused when they are opened.
            out.push(path);
        } else if wanted(&[&path]) {
            let (inside, target) =
                (top.canonicalize().map_err(failed)?, path.canonicalize().map_err(failed)?);
            let read_anyway = target.strip_prefix(&inside).is_ok_and(|target| {
                target.iter().all(|name| shown(&name.to_string_lossy()))
                    && wanted(&[&path, &top.join(target)])
            });
            if !read_anyway {
                return Err(Error::usage(format!(
                    "{}: is a link to a directory elsewhere, which is not followed; name that directory",
                    path.display()
                )));
            }
        }
    }
    Ok(out)
}

#[derive(Deserialize)]
struct DvcFile {
    outs: Vec<DvcOut>,
}

#[derive(Deserialize)]
struct DvcOut {
    path: String,
    md5: Option<String>,
    remote: Option<String>,
}

/// What a `.dvc` file stands for: the file beside it if its MD5 is right, else the one in the local cache, else the
/// one in the remote. A file whose MD5 is wrong is never read.
fn dvc(path: &Path) -> Result<Vec<Location>> {
    let name = path.display().to_string();
    let text = read_small(path, 1 << 20)?;
    let file: DvcFile = serde_saphyr::from_str(&String::from_utf8_lossy(&text))
        .map_err(|e| Error::data(&name, format!("is not a .dvc file: {e}")))?;
    let [out] = file.outs.as_slice() else {
        return Err(Error::usage(format!("{name}: has {} outputs; one is needed", file.outs.len())));
    };
    let md5 = out.md5.as_deref().ok_or_else(|| Error::data(&name, "has no md5; run `dvc commit`"))?;
    if md5.ends_with(".dir") {
        return Err(Error::usage(format!(
            "{name}: is a directory of DVC; name the files (after `dvc pull`) instead"
        )));
    }
    if md5.len() != 32 || !md5.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::data(&name, "has an md5 that is none"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let beside = folder.join(&out.path);
    if beside.is_file() {
        let location = Location::local(&beside)?;
        if md5_of(&location)? == md5 {
            return Ok(vec![location]);
        }
    }
    let kept = format!("files/md5/{}/{}", &md5[..2], &md5[2..]);
    let absolute = std::path::absolute(folder).map_err(|e| Error::io(&name, "cannot be located", e))?;
    let root = absolute.ancestors().find(|p| p.join(".dvc").is_dir());
    let mut tried = vec![beside.display().to_string()];
    if let Some(root) = root {
        let cached = root.join(".dvc/cache").join(&kept);
        if cached.is_file() {
            return checked(Location::local(&cached)?, md5, &out.path);
        }
        tried.push(cached.display().to_string());
        if let Some(url) = dvc_remote(root, out.remote.as_deref()) {
            let place = if url.contains("://") || url.starts_with('/') {
                format!("{}/{kept}", url.trim_end_matches('/'))
            } else {
                root.join(".dvc").join(&url).join(&kept).display().to_string()
            };
            match resolve(&place) {
                Ok(mut found) => return checked(found.remove(0), md5, &out.path),
                Err(_) => tried.push(place),
            }
        }
    }
    Err(Error::data(
        &name,
        format!("its data (md5 {md5}) is in none of {}; run `dvc pull`", tried.join(", ")),
    ))
}

fn checked(mut location: Location, md5: &str, path: &str) -> Result<Vec<Location>> {
    if md5_of(&location)? != md5 {
        return Err(Error::data(&location.name, format!("has not the MD5 {md5} that its .dvc file names")));
    }
    // The cache names files by their digest; the format shows in the tracked name.
    location.name = format!("{} ({path})", location.name);
    let suffix = Path::new(path).extension().map(|e| e.to_string_lossy().into_owned());
    if let Some(suffix) = suffix {
        location.name = format!("{}.{suffix}", location.name);
    }
    Ok(vec![location])
}

fn md5_of(location: &Location) -> Result<String> {
    let mut hash = md5::Md5::new();
    let mut at = 0;
    while at < location.size {
        let piece = location.read_up_to(at, 4 << 20)?;
        at += piece.len() as u64;
        hash.update(&piece);
    }
    Ok(hex::encode(hash.finalize()))
}

/// The address of a remote in `.dvc/config`: the named one, else the default.
fn dvc_remote(root: &Path, wanted: Option<&str>) -> Option<String> {
    let mut urls = std::collections::HashMap::new();
    let mut default = None;
    for file in ["config", "config.local"] {
        let Ok(text) = read_small(&root.join(".dvc").join(file), 1 << 20) else { continue };
        let text = String::from_utf8_lossy(&text);
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                head.trim_matches(['\'', '"']).clone_into(&mut section);
            } else if let Some((key, value)) = line.split_once('=') {
                let (key, value) = (key.trim(), value.trim().trim_matches(['\'', '"']));
                if section == "core" && key == "remote" {
                    default = Some(value.to_owned());
                }
                if let Some(remote) = section.strip_prefix("remote")
                    && key == "url"
                {
                    urls.insert(remote.trim().trim_matches(['\'', '"']).to_owned(), value.to_owned());
                }
            }
        }
    }
    urls.remove(wanted.map(str::to_owned).or(default)?.as_str())
}

#[cfg(feature = "remote")]
mod remote {
    //! Object storage, from threads that may wait.

    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use bytes::Bytes;
    use globset::GlobBuilder;
    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt, ObjectStoreScheme, RetryConfig};

    use super::{Location, Place};
    use crate::error::{Error, Result};

    fn runtime() -> Result<&'static tokio::runtime::Runtime> {
        static RUNTIME: OnceLock<std::io::Result<tokio::runtime::Runtime>> = OnceLock::new();
        RUNTIME
            .get_or_init(|| {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_name("object-storage")
                    .enable_all()
                    .build()
            })
            .as_ref()
            .map_err(|e| {
                Error::io("object storage", "cannot start threads", std::io::Error::other(e.to_string()))
            })
    }

    /// Waits for object storage on its own threads: the caller's thread may belong to another runtime.
    fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        runtime()?.spawn(async move {
            let _ = send.send(work.await);
        });
        receive.recv().map_err(|_| Error::data("object storage", "the reading thread ended early"))
    }

    pub fn read(
        name: &str,
        store: &Arc<dyn ObjectStore>,
        path: &Path,
        offset: u64,
        length: u64,
    ) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let (store, path) = (Arc::clone(store), path.clone());
        let bytes = wait(async move { store.get_range(&path, offset..offset + length).await })?
            .map_err(|e| failed(name, "cannot be read", e))?;
        if bytes.len() as u64 != length {
            return Err(Error::data(name, "the object storage sent less than was asked for"));
        }
        Ok(bytes)
    }

    pub fn resolve(spec: &str) -> Result<Vec<Location>> {
        let (store, found) = found(spec)?;
        let out: Vec<Location> =
            found.into_iter().filter(|m| m.size > 0).map(|m| located(Arc::clone(&store), m, spec)).collect();
        if out.is_empty() {
            return Err(Error::usage(format!("{spec}: names no object")));
        }
        Ok(out)
    }

    pub fn entries(spec: &str) -> Result<Vec<super::Entry>> {
        let (_, found) = found(spec)?;
        Ok(found.into_iter().map(|meta| (named(spec, &meta.location), meta.size, version(&meta))).collect())
    }

    /// The objects of an address, a glob or, with a `/` at the end, a prefix, in the order of their names.
    fn found(spec: &str) -> Result<(Arc<dyn ObjectStore>, Vec<object_store::ObjectMeta>)> {
        let wildcards = spec.find(super::WILDCARDS);
        // The store is opened for the part that is no pattern.
        let fixed =
            &spec[..wildcards.map_or(spec.len(), |at| spec[..at].rfind('/').map_or(at, |slash| slash + 1))];
        let url =
            url::Url::parse(fixed).map_err(|e| Error::usage(format!("{spec}: is not an address: {e}")))?;
        let (store, path) = opened(spec, &url)?;
        if wildcards.is_none() && !spec.ends_with('/') {
            let (s, p) = (Arc::clone(&store), path.clone());
            let meta =
                wait(async move { s.head(&p).await })?.map_err(|e| failed(spec, "cannot be opened", e))?;
            return Ok((store, vec![meta]));
        }
        let matcher = match wildcards {
            Some(_) => Some(
                GlobBuilder::new(spec)
                    .literal_separator(true)
                    .build()
                    .map_err(|e| Error::usage(format!("{spec}: is not a glob: {e}")))?
                    .compile_matcher(),
            ),
            None => None,
        };
        let s = Arc::clone(&store);
        let mut listed = wait(async move {
            use futures_util::{StreamExt, TryStreamExt};
            s.list(Some(&path)).take(super::MOST_LISTED + 1).try_collect::<Vec<_>>().await
        })?
        .map_err(|e| failed(spec, "cannot be listed", e))?;
        listed.retain(|m| {
            let name = named(spec, &m.location);
            let mut below = name.strip_prefix(fixed).unwrap_or_default().split('/');
            matcher.as_ref().is_none_or(|g| g.is_match(&name))
                && below.all(|part| !super::hidden(part) || super::names_hidden(spec, part))
        });
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        Ok((store, listed))
    }

    fn named(spec: &str, path: &Path) -> String {
        let (scheme, rest) = spec.split_once("://").unwrap_or(("", spec));
        format!("{scheme}://{}/{path}", rest.split('/').next().unwrap_or(""))
    }

    fn version(meta: &object_store::ObjectMeta) -> String {
        meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339())
    }

    fn located(store: Arc<dyn ObjectStore>, meta: object_store::ObjectMeta, spec: &str) -> Location {
        Location {
            name: named(spec, &meta.location),
            size: meta.size,
            version: version(&meta),
            place: Place::Remote(store, meta.location),
        }
    }

    /// The store of an address, with the variables that the clouds' own tools read (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
    /// What fails for half a minute has failed: a check waits in a pipeline.
    fn opened(spec: &str, url: &url::Url) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let retry =
            RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
        let wrong = |e: &dyn std::fmt::Display| Error::usage(format!("{spec}: cannot be opened: {e}"));
        let (scheme, path) = ObjectStoreScheme::parse(url).map_err(|e| wrong(&e))?;
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => Arc::new(
                AmazonS3Builder::from_env()
                    .with_url(url.as_str())
                    .with_retry(retry)
                    .build()
                    .map_err(|e| wrong(&e))?,
            ),
            ObjectStoreScheme::GoogleCloudStorage => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_url(url.as_str())
                    .with_retry(retry)
                    .build()
                    .map_err(|e| wrong(&e))?,
            ),
            ObjectStoreScheme::MicrosoftAzure => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_url(url.as_str())
                    .with_retry(retry)
                    .build()
                    .map_err(|e| wrong(&e))?,
            ),
            _ => return Err(wrong(&"s3://, gs:// and az:// are known")),
        };
        Ok((store, path))
    }

    fn failed(name: &str, what: &str, error: object_store::Error) -> Error {
        Error::io(name, what, std::io::Error::other(error))
    }
}
