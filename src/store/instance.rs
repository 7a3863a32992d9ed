//! What makes this installation itself: an id, and a key from which tokens and markers are derived.

use super::conn::{Fields, execute, one};
use super::{Store, StoreError};
use crate::clock::Millis;

/// Facts about this installation, made once and kept in the store's `meta`.
pub struct Instance {
    /// Part of every external name.
    pub id: String,
    key: [u8; 32],
}

/// Without the key.
impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("id", &self.id).finish_non_exhaustive()
    }
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

impl Store {
    /// Notes that the database was put back: work that it does not know may be going on.
    pub async fn note_restore(&self, now: Millis) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "INSERT INTO meta (name, value) VALUES ('restored_ms', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    &now.to_string()
                )?;
                Ok(())
            })
        })
        .await
    }

    /// When the database was last put back.
    pub async fn restored_ms(&self) -> Result<Option<Millis>, StoreError> {
        let mut conn = self.read().await?;
        let text: Option<String> =
            one!(conn, |row| row.get("value"), "SELECT value FROM meta WHERE name = 'restored_ms'")?;
        Ok(text.and_then(|text| text.parse().ok()))
    }
}
