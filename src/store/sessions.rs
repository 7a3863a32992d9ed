//! Logins of the dashboard: only the SHA-256 of the cookie's text is kept. A session is worth what its token is worth now.

use super::conn::{execute, one};
use super::tokens::TokenRow;
use super::{Store, StoreError};
use crate::clock::Millis;

impl Store {
    /// Starts a session for a token, and forgets sessions that have expired.
    pub async fn start_session(
        &self,
        hash: &str,
        token_id: &str,
        now: Millis,
        expires_ms: Millis,
    ) -> Result<(), StoreError> {
        let (hash, token_id) = (hash.to_owned(), token_id.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                execute!(
                    tx,
                    "DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions WHERE expires_ms <= $1 LIMIT 1000)",
                    now
                )?;
                execute!(
                    tx,
                    "INSERT INTO sessions (hash, token_id, created_ms, expires_ms) VALUES ($1, $2, $3, $4)",
                    &hash,
                    &token_id,
                    now,
                    expires_ms
                )
                .map(|_| ())
            })
        })
        .await
    }

    /// The token behind a session that has not expired, unless it was revoked.
    pub async fn session(&self, hash: &str, now: Millis) -> Result<Option<TokenRow>, StoreError> {
        let mut conn = self.read().await?;
        one!(
            conn,
            TokenRow::read,
            "SELECT t.id, t.name, t.scope, t.repo, t.created_ms, t.revoked_ms FROM sessions s JOIN tokens t ON t.id = s.token_id
             WHERE s.hash = $1 AND s.expires_ms > $2 AND t.revoked_ms IS NULL",
            hash,
            now
        )
    }

    /// Ends a session. False: there was none.
    pub async fn end_session(&self, hash: &str) -> Result<bool, StoreError> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move { Ok(execute!(tx, "DELETE FROM sessions WHERE hash = $1", &hash)? == 1) })
        })
        .await
    }
}
