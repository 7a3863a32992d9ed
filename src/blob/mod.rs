//! Bytes of logs and artifacts over `object_store`: local files, or a bucket that several daemons share.
//!
//! Keys are made of ids, never of names that came from outside (`logs/<attempt>/<start>`), so no path of a user reaches a file
//! system. A write that returned is on disk: [`Blobs::local`] has the file and every new directory entry synced before
//! it is moved into place, because a row that points at it is committed next (promise G9).
//!
//! Must not: know what the bytes mean, or decide when they are old.

use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use crate::clock::Millis;
use crate::config::{BlobPlace, Config, ConfigError, S3Config};
use crate::model::{AttemptRank, AttemptUid, RepoId};

/// Size of one part of a streamed write: what it holds in memory.
const PART_BYTES: usize = 5 << 20;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("blob {0} does not exist")]
    Missing(String),
    /// The stream holds more than the caller allows.
    #[error("it is larger than the allowed {0} bytes")]
    TooLarge(u64),
    /// The sender's stream broke.
    #[error("the sender stopped: {0}")]
    Sender(String),
    /// Disk full, read-only, bucket away: try later.
    #[error("the blob store is not available: {0}")]
    Unavailable(String),
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::Missing(path),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// A key: made by the functions here alone.
pub mod key {
    use super::{AttemptRank, AttemptUid, Millis, RepoId};

    /// What the keys made here begin with: what the collection of orphans looks at. `Store::blobs_without_row` must know every
    /// table that names such keys.
    pub const FIRST_PARTS: [&str; 4] = ["logs", "artifacts", "uploads", "caches"];

    /// One stretch of an attempt's log. `nonce` keeps two writers of the same offset apart: the row names the one that counts.
    pub fn log(of: &AttemptRank, start: i64, nonce: u64) -> String {
        format!("logs/{of}/{start:016}-{nonce:016x}")
    }
    /// A whole log after compaction.
    pub fn whole_log(of: &AttemptRank, now: Millis) -> String {
        format!("logs/{of}/whole-{now}")
    }
    /// One artifact upload. Content addressed within its attempt, so a repeat lands on the same key.
    pub fn artifact(uid: &AttemptUid, sha256: &str) -> String {
        format!("artifacts/{uid}/{sha256}")
    }
    /// A directory kept between runs. `nonce` keeps two writers of one key apart: the row names the one that came first.
    pub fn cache(repo: &RepoId, nonce: u64) -> String {
        format!("caches/{repo}/{nonce:016x}")
    }
    /// Where an upload lies until its digest is known.
    pub fn upload(uid: &AttemptUid, nonce: u64) -> String {
        format!("uploads/{uid}/{nonce:016x}")
    }
}

/// What a streamed write stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// The blob store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Larger ones cannot be copied by the server.
    copies_up_to: u64,
}

/// S3 copies up to 5 GiB in one request (Amazon S3 API reference, CopyObject).
const S3_COPIES_UP_TO: u64 = 5 << 30;

/// A blob as the store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    pub modified_ms: Millis,
}

impl Blobs {
    /// Where the configuration says.
    ///
    /// # Errors
    /// One sentence: the directory cannot be made, the bucket's settings cannot be used.
    pub fn open(config: &Config) -> Result<Self, ConfigError> {
        match config.blob_place()? {
            BlobPlace::Files(dir) => Self::local(&dir).map_err(|error| {
                ConfigError(format!(
                    "cannot use the blob directory {}: {error}; make it, owned by the user of the daemon",
                    dir.display()
                ))
            }),
            BlobPlace::S3 { bucket, prefix } => Self::s3(&bucket, &prefix, &config.s3),
        }
    }

    fn s3(bucket: &str, prefix: &str, s3: &S3Config) -> Result<Self, ConfigError> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_allow_http(s3.allow_http);
        if let Some(endpoint) = &s3.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let (Some(id), Some(key)) = (&s3.access_key_id, &s3.secret_access_key) {
            builder = builder
                .with_access_key_id(id.read()?.expose_secret())
                .with_secret_access_key(key.read()?.expose_secret());
        }
        let store = builder
            .build()
            .map_err(|error| {
                ConfigError(format!(
                    "blob s3://{bucket} cannot be used: {error}; check region or endpoint and both keys under [s3]"
                ))
            })?;
        let store: Arc<dyn ObjectStore> =
            if prefix.is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) };
        Ok(Self { store, copies_up_to: S3_COPIES_UP_TO })
    }

    /// Writes, reads and deletes a small blob, so that wrong keys or a wrong bucket are known at the start.
    pub async fn check(&self) -> Result<(), BlobError> {
        let probe = format!("uploads/probe-{:016x}", rand::random::<u64>());
        self.put(&probe, Bytes::from_static(b"probe")).await?;
        let back = self.get(&probe).await?;
        self.delete(&[probe]).await?;
        if back == "probe" {
            Ok(())
        } else {
            Err(BlobError::Unavailable("it did not give back what was written".into()))
        }
    }

    /// Every blob whose key begins with one of our own first parts.
    pub fn list(&self) -> BoxStream<'static, Result<Listed, BlobError>> {
        let parts = key::FIRST_PARTS.map(|part| self.store.list(Some(&Path::from(part))));
        futures_util::stream::iter(parts)
            .flatten()
            .map(|found| {
                let meta = found?;
                Ok(Listed {
                    key: meta.location.to_string(),
                    bytes: meta.size,
                    modified_ms: meta.last_modified.timestamp_millis(),
                })
            })
            .boxed()
    }

    /// Files below `dir`, which is made with mode 0700 if it is not there. The directory keeps
    /// everyone else out.
    ///
    /// # Errors
    /// The directory cannot be made or its mode cannot be set.
    pub fn local(dir: &FsPath) -> std::io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        let store = LocalFileSystem::new_with_prefix(dir).map_err(std::io::Error::other)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), copies_up_to: u64::MAX })
    }

    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), BlobError> {
        self.store.put(&Path::from(key), PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// Stores a stream of any length up to `limit` with two parts in memory at most. Nothing is left under `key` when it fails.
    pub async fn put_stream<S, E>(&self, key: &str, stream: S, limit: u64) -> Result<Written, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        let mut upload = self.store.put_multipart(&Path::from(key)).await?;
        match Self::fill(upload.as_mut(), stream, limit).await {
            Ok(written) => {
                upload.complete().await?;
                Ok(written)
            }
            Err(error) => {
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(blob.key = key, error = %abort, "cannot remove a broken upload");
                }
                Err(error)
            }
        }
    }

    async fn fill<S, E>(
        upload: &mut dyn object_store::MultipartUpload,
        stream: S,
        limit: u64,
    ) -> Result<Written, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        let mut stream = std::pin::pin!(stream);
        let mut hash = Sha256::new();
        let mut bytes = 0u64;
        let mut part = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| BlobError::Sender(error.to_string()))?;
            bytes += chunk.len() as u64;
            if bytes > limit {
                return Err(BlobError::TooLarge(limit));
            }
            hash.update(&chunk);
            part.extend_from_slice(&chunk);
            if part.len() >= PART_BYTES {
                upload.put_part(PutPayload::from_bytes(part.split().freeze())).await?;
            }
        }
        if !part.is_empty() {
            upload.put_part(PutPayload::from_bytes(part.freeze())).await?;
        }
        Ok(Written { bytes, sha256: hex::encode(hash.finalize()) })
    }

    /// Moves a finished upload to its final key.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), BlobError> {
        let size =
            if self.copies_up_to == u64::MAX { 0 } else { self.store.head(&Path::from(from)).await?.size };
        if size > self.copies_up_to {
            let bytes = self.stream(from).await?;
            self.put_stream(to, bytes, u64::MAX).await?;
            return self.delete(&[from.to_owned()]).await;
        }
        self.store.rename(&Path::from(from), &Path::from(to)).await?;
        Ok(())
    }

    /// Bytes `range` of a blob; the end is cut to its length.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, BlobError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        Ok(self.store.get_opts(&Path::from(key), options).await?.bytes().await?)
    }

    pub async fn get(&self, key: &str) -> Result<Bytes, BlobError> {
        Ok(self.store.get(&Path::from(key)).await?.bytes().await?)
    }

    /// The whole blob in chunks.
    pub async fn stream(&self, key: &str) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        Ok(self.store.get(&Path::from(key)).await?.into_stream().map_err(BlobError::from).boxed())
    }

    /// Deletes; what is not there is fine. Goes on after a failure and returns the first one.
    pub async fn delete(&self, keys: &[String]) -> Result<(), BlobError> {
        let mut failed = None;
        for key in keys {
            match self.store.delete(&Path::from(key.as_str())).await.map_err(BlobError::from) {
                Ok(()) | Err(BlobError::Missing(_)) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
