//! Where rows and bytes are kept.

use serde::Deserialize;

use super::{Config, ConfigError, SecretSource, refuse};

/// What stands between the daemon and Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooler {
    #[default]
    None,
    /// pgbouncer or its like in transaction mode: each transaction may run on another connection.
    Transaction,
}

/// How to reach the bucket that `blob` names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// Base URL of an S3-compatible server; Amazon's own when absent.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Without both keys: the environment (`AWS_ACCESS_KEY_ID`, …), a web identity or the instance's role.
    pub access_key_id: Option<SecretSource>,
    pub secret_access_key: Option<SecretSource>,
    /// Plain http is refused unless this is set (a test).
    pub allow_http: bool,
}

/// Where logs and artifacts lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobPlace {
    /// A directory of this machine.
    Files(std::path::PathBuf),
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl std::fmt::Display for BlobPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(dir) => write!(f, "files in {}", dir.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl Config {
    pub fn blob_place(&self) -> Result<BlobPlace, ConfigError> {
        let Some(blob) = &self.blob else { return Ok(BlobPlace::Files(self.data_dir.join("blobs"))) };
        if let Some(place) = blob.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            if bucket.is_empty() {
                return refuse(format!("blob {blob:?} names no bucket; write it as s3://bucket/prefix"));
            }
            return Ok(BlobPlace::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        if blob.starts_with('/') {
            return Ok(BlobPlace::Files(blob.into()));
        }
        refuse(format!("blob {blob:?} must be s3://bucket/prefix or the absolute path of a directory"))
    }

    pub(super) fn check_storage(&self) -> Result<(), ConfigError> {
        let place = self.blob_place()?;
        let s3 = &self.s3;
        if s3.access_key_id.is_some() != s3.secret_access_key.is_some() {
            return refuse("s3 has one of access_key_id and secret_access_key; set both, or neither");
        }
        if let Some(endpoint) = &s3.endpoint
            && !endpoint.starts_with("https://")
            && !(s3.allow_http && endpoint.starts_with("http://"))
        {
            return refuse(format!(
                "s3.endpoint {endpoint:?} must start with https:// (or http:// with allow_http = true, for a test)"
            ));
        }
        if matches!(place, BlobPlace::Files(_)) && s3.endpoint.is_some() {
            return refuse("s3.endpoint is set, but blob is not; set blob = \"s3://bucket/prefix\"");
        }
        if !(1..=500).contains(&self.database_connections) {
            return refuse("database_connections must be between 1 and 500");
        }
        let postgres = self.database_url().starts_with("postgres");
        if !postgres && self.database_pooler != Pooler::None {
            return refuse("database_pooler is for Postgres; leave it out with SQLite");
        }
        Ok(())
    }
}
