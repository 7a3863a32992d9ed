//! The four listeners: `hooks` (public, webhooks only), `app` (dashboard and API), `agent` (attempts: their calls and
//! their git), `ops` (health and metrics).
//!
//! Handlers translate: a request becomes rows and work items, rows become an answer. They must not decide what a delivery
//! means or what a run does next, and they must not start work that outlives the request except through the store.

pub mod live;
pub mod secrets;
pub mod telemetry;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::blob::Blobs;
use crate::clock::SharedClock;
use crate::config::{Config, ConfigError};
use crate::forge::Forges;
use crate::store::{Store, StoreError};

pub use live::{Hint, Live};
pub use secrets::Secrets;
pub use telemetry::Telemetry;

/// What every handler holds. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub blobs: Blobs,
    pub forges: Forges,
    pub config: Arc<Config>,
    pub clock: SharedClock,
    pub instance: Arc<Instance>,
    pub telemetry: Arc<Telemetry>,
    pub live: Live,
    /// Cancelled when the daemon shuts down: `/readyz` says no, listeners drain, followers are sent away.
    pub stopping: CancellationToken,
    pub secrets: Arc<Secrets>,
}

impl App {
    /// Reads every configured secret once.
    ///
    /// # Errors
    /// A secret that cannot be used (unset, unreadable, empty, too short), or two hooks with one URL.
    pub fn new(
        store: Store,
        blobs: Blobs,
        forges: Forges,
        config: Arc<Config>,
        clock: SharedClock,
        instance: Instance,
    ) -> Result<Self, ConfigError> {
        let secrets = Arc::new(Secrets::read(&config)?);
        Ok(Self {
            store,
            blobs,
            forges,
            config,
            clock,
            instance: Arc::new(instance),
            telemetry: Arc::new(Telemetry::new()),
            live: Live::new(),
            stopping: CancellationToken::new(),
            secrets,
        })
    }
}

/// Facts about this installation, made once and kept in the store's `meta`.
pub struct Instance {
    /// Part of every external name.
    pub id: String,
    key: [u8; 32],
}

impl Instance {
    /// Reads them from the store, or makes them.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        fn random_key() -> String {
            hex::encode(rand::random::<[u8; 32]>())
        }
        fn random_id() -> String {
            hex::encode(rand::random::<[u8; 8]>())
        }
        let id = store.meta_or_insert("instance_id", random_id).await?;
        let text = store.meta_or_insert("instance_key", random_key).await?;
        let key = hex::decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        let Some(key) = key else {
            return Err(StoreError::Inconsistent {
                what: "meta.instance_key".into(),
                why: "it is not 64 hexadecimal digits".into(),
            });
        };
        Ok(Self { id, key })
    }
    pub fn new(id: impl Into<String>, key: [u8; 32]) -> Self {
        Self { id: id.into(), key }
    }
    /// HMAC-SHA256 under this installation's key over `purpose`, a NUL, and the NUL-separated parts: for tokens and markers that
    /// are derived instead of stored.
    pub fn derive(&self, purpose: &str, parts: &[&str]) -> [u8; 32] {
        use hmac::{KeyInit, Mac};
        let mut mac = <hmac::Hmac<sha2::Sha256> as KeyInit>::new_from_slice(&self.key)
            .expect("HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        for part in parts {
            mac.update(&[0]);
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}
