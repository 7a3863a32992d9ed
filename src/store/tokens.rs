//! API tokens: only the SHA-256 of a token's text is kept.

use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::state::states;

states! {
    /// What a token may do; each includes the one before it.
    Scope, "token scope" {
        Read = "read",
        Run = "run",
        Admin = "admin",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    pub id: String,
    pub name: String,
    pub scope: Scope,
    /// None: every repository.
    pub repo: Option<String>,
    pub created_ms: Millis,
    pub revoked_ms: Option<Millis>,
}

impl Store {
    pub async fn insert_token(&self, row: TokenRow, hash: &str) -> Result<(), StoreError> {
        let _ = (row, hash);
        todo!()
    }
    /// A token that is not revoked, by the hash of its text.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRow>, StoreError> {
        let _ = hash;
        todo!()
    }
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        todo!()
    }
    pub async fn revoke_token(&self, id: &str, now: Millis) -> Result<bool, StoreError> {
        let _ = (id, now);
        todo!()
    }
}
