//! API tokens: only the SHA-256 of a token's text is kept.

use super::conn::{Fields, all, execute, one};
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

macro_rules! select_token {
    ($rest:literal) => {
        concat!("SELECT id, name, scope, repo, created_ms, revoked_ms FROM tokens ", $rest)
    };
}

impl TokenRow {
    pub(super) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            scope: row.word("scope")?,
            repo: row.get("repo")?,
            created_ms: row.get("created_ms")?,
            revoked_ms: row.get("revoked_ms")?,
        })
    }
}

impl Store {
    /// Stores a token by `hash`, the SHA-256 (hex) of its text.
    pub async fn insert_token(&self, row: TokenRow, hash: &str) -> Result<(), StoreError> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "INSERT INTO tokens (id, name, hash, scope, repo, created_ms, revoked_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    &row.id,
                    &row.name,
                    &hash,
                    row.scope.word(),
                    &row.repo,
                    row.created_ms,
                    row.revoked_ms
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// A token that is not revoked, by the hash of its text.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(conn, TokenRow::read, select_token!("WHERE hash = $1 AND revoked_ms IS NULL"), hash)
    }

    /// Every token, revoked ones too, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(conn, TokenRow::read, select_token!("ORDER BY created_ms, id"))
    }

    /// False: unknown, or revoked before.
    pub async fn revoke_token(&self, id: &str, now: Millis) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "UPDATE tokens SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL",
                    &id,
                    now
                )?;
                Ok(rows == 1)
            })
        })
        .await
    }
}
