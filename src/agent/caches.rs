//! Directories kept between runs: fetched before `setup`, stored after a success under keys that nobody had.
//!
//! Trouble with a cache is said in the log and changes nothing else: a step without its cache is a slower step. What comes from
//! outside is unpacked into a new directory, which gets its name only when all of it was good.

mod archive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::client::{Backoff, Client, Fault};
use super::paths;
use super::protocol::{CacheSpec, Spec};
use super::script::Places;
use crate::pipeline;

/// For all caches of an attempt together, each way.
const PATIENCE: Duration = Duration::from_mins(10);
/// A file whose digest is part of a key.
const MAX_HASHED: u64 = 256 << 20;

/// A directory whose key was not there: to be stored after a success.
#[derive(Debug, Clone)]
struct Missed {
    key: String,
    path: String,
    place: PathBuf,
    /// The same without any link, as it was before the commands ran.
    real: PathBuf,
}

/// The caches of one attempt.
#[derive(Debug, Default)]
pub struct Caches(Mutex<Vec<Missed>>);

impl Caches {
    /// Puts every cache that is there into its place. `say` is given a line for each.
    pub async fn restore(&self, client: &Client, places: &Places, spec: &Spec, say: impl Fn(&str)) {
        let all = async {
            for cache in &spec.caches {
                match self.restore_one(client, places, spec, cache).await {
                    Ok(line) => say(&line),
                    Err(error) => say(&format!("cache of {}: not used: {error:#}", cache.path)),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            say("caches: not used any further: they took more than 10 min");
        }
    }

    async fn restore_one(
        &self,
        client: &Client,
        places: &Places,
        spec: &Spec,
        cache: &CacheSpec,
    ) -> anyhow::Result<String> {
        let key = key(&cache.key, &places.source, &spec.env)?;
        let (root, path) = match cache.path.strip_prefix("~/") {
            Some(path) => (&places.home, path),
            None => (&places.source, cache.path.as_str()),
        };
        let place = place(root, path)?;
        let real = std::fs::canonicalize(&place)?;
        let Some(fetched) = fetch(client, &key, root, spec.cache_bytes).await? else {
            // The check made it; an empty directory is nothing that a step expects.
            let _ = std::fs::remove_dir(&place);
            let missed = Missed { key: key.clone(), path: cache.path.clone(), place, real };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(missed);
            return Ok(format!("cache of {}: nothing kept under {key:?} yet", cache.path));
        };
        if std::fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("the directory is there already, with something in it");
        }
        let most = spec.cache_bytes.max(0) as u64;
        let unpacked = tokio::task::spawn_blocking(move || {
            let parent = place.parent().context("it has no parent directory")?;
            let fresh = tempfile::Builder::new().prefix(".cache-").tempdir_in(parent)?;
            let files = archive::unpack(fetched.reopen()?, fresh.path(), archive::Limits::of(most))?;
            let _ = std::fs::remove_dir(&place);
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(fresh.path(), permissions)?;
            std::fs::rename(fresh.keep(), &place)?;
            anyhow::Ok(files)
        });
        let files = unpacked.await??;
        Ok(format!("cache of {}: {files} files from {key:?}", cache.path))
    }

    /// Stores every directory whose key was not there.
    pub async fn save(&self, client: &Client, spec: &Spec, say: impl Fn(&str)) {
        let missed = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if !spec.cache_write {
            return;
        }
        let all = async {
            for cache in missed {
                let path = cache.path.clone();
                match save_one(client, cache, spec.cache_bytes).await {
                    Ok(line) => say(&line),
                    Err(error) => say(&format!("cache of {path}: not kept: {error:#}")),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            say("caches: not kept: they took more than 10 min");
        }
    }
}

/// The key with its variables and `${hash:FILE}` replaced.
fn key(text: &str, source: &Path, env: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut vars = env.clone();
    for part in text.split("${hash:").skip(1) {
        let Some((file, _)) = part.split_once('}') else { continue };
        let path = source.join(paths::relative(file)?);
        let real = std::fs::canonicalize(&path).with_context(|| format!("the key names {file}"))?;
        if !real.starts_with(std::fs::canonicalize(source)?) {
            bail!("the key names {file}, which leads out of the source tree");
        }
        let bytes = paths::read_plain(&real, MAX_HASHED).with_context(|| format!("the key names {file}"))?;
        vars.insert(format!("hash:{file}"), hex::encode(Sha256::digest(&bytes)));
    }
    let key = pipeline::resolve(text, &vars).map_err(|error| anyhow::anyhow!("its key: {error}"))?;
    if key.is_empty() || key.len() > 512 || key.chars().any(char::is_control) {
        bail!("its key must have 1 to 512 bytes and no control character");
    }
    Ok(key)
}

/// The directory below `root`; no part of it may be a link.
fn place(root: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let path = paths::relative(path)?;
    // Checks (and makes) all that is above an entry in it, which is the directory itself and its parents.
    paths::place(root, &format!("{path}/.trainyard"))?;
    Ok(root.join(path))
}

/// None: nothing is kept under the key.
async fn fetch(
    client: &Client,
    key: &str,
    beside: &Path,
    most: i64,
) -> anyhow::Result<Option<tempfile::NamedTempFile>> {
    let mut backoff = Backoff::default();
    loop {
        match fetch_once(client, key, beside, most).await {
            Err(error)
                if backoff.tries() < 5
                    && error.downcast_ref::<Fault>().is_some_and(|f| matches!(f, Fault::Retry(_))) =>
            {
                backoff.wait().await;
            }
            other => return other,
        }
    }
}

async fn fetch_once(
    client: &Client,
    key: &str,
    beside: &Path,
    most: i64,
) -> anyhow::Result<Option<tempfile::NamedTempFile>> {
    let Some((response, sha256)) = client.get_cache(key).await? else { return Ok(None) };
    let temporary = tempfile::NamedTempFile::new_in(beside.parent().unwrap_or(beside))?;
    let mut file = tokio::fs::File::from_std(temporary.reopen()?);
    let (mut hash, mut got) = (Sha256::new(), 0_i64);
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| Fault::Retry(e.to_string()))?;
        got += chunk.len() as i64;
        if got > most {
            bail!("it is larger than {most} bytes");
        }
        hash.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    if hex::encode(hash.finalize()) != sha256 {
        bail!("its SHA-256 is not the one recorded");
    }
    Ok(Some(temporary))
}

async fn save_one(client: &Client, cache: Missed, most: i64) -> anyhow::Result<String> {
    let Missed { key, path, place, real } = cache;
    if !place.is_dir() {
        return Ok(format!("cache of {path}: nothing is there to keep"));
    }
    if std::fs::canonicalize(&place)? != real {
        bail!("it leads through a symbolic link");
    }
    let packed = tokio::task::spawn_blocking(move || {
        let parent = place.parent().context("it has no parent directory")?;
        let temporary = tempfile::NamedTempFile::new_in(parent)?;
        let packed = archive::pack(&place, temporary.reopen()?, most.max(0) as u64)?;
        anyhow::Ok((temporary, packed))
    });
    let (temporary, packed) = packed.await??;
    let mut backoff = Backoff::default();
    let stored = loop {
        let file = tokio::fs::File::from_std(temporary.reopen()?);
        match client.put_cache(&key, &packed.sha256, packed.bytes, file).await {
            Ok(stored) => break stored,
            Err(Fault::Retry(_)) if backoff.tries() < 5 => backoff.wait().await,
            Err(fault) => return Err(fault.into()),
        }
    };
    let skipped = match packed.skipped {
        0 => String::new(),
        n => format!("; {n} entries that are no plain files or links inside of it were left out"),
    };
    Ok(if stored {
        format!("cache of {path}: {} files kept under {key:?}{skipped}", packed.files)
    } else {
        format!("cache of {path}: another attempt had kept {key:?} first")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_digests_of_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("requirements.txt"), "numpy\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let env = BTreeMap::from([("SEED".to_owned(), "1".to_owned())]);
        let digest = hex::encode(Sha256::digest("numpy\n"));
        let of = |text: &str| key(text, dir.path(), &env).map_err(|e| format!("{e:#}"));
        assert_eq!(of("pip-${SEED}-${hash:requirements.txt}"), Ok(format!("pip-1-{digest}")));
        for (text, words) in [
            ("${hash:missing}", "names missing"),
            ("${hash:../up}", "goes up"),
            ("${hash:out}", "leads out"),
            ("${NOPE}", "NOPE"),
            ("", "1 to 512"),
            ("a\nb", "control"),
        ] {
            assert!(of(text).is_err_and(|e| e.contains(words)), "{text}");
        }
    }
}
