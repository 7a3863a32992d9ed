//! Who calls: one rank of one attempt, by the token that it shows.
//!
//! A token names its rank (`r1.…`; the leader's has no such prefix) and is derived with it, so none speaks for another.

use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use super::Answer;
use super::error::CallError;
use crate::http::App;
use crate::model::{AttemptRank, AttemptState, AttemptUid, LEADER};
use crate::store::attempts::AttemptRow;
use crate::store::ranks::RankRow;

/// An attempt, and the rank of it whose token was shown.
pub(super) struct Caller {
    pub(super) row: AttemptRow,
    /// None: the leader, whose facts are the attempt's.
    pub(super) rank: Option<RankRow>,
}

impl Caller {
    pub(super) fn of(&self) -> AttemptRank {
        self.rank.as_ref().map_or_else(|| (&self.row.uid).into(), |rank| rank.of.clone())
    }

    pub(super) fn log_bytes(&self) -> i64 {
        self.rank.as_ref().map_or(self.row.log_bytes, |rank| rank.log_bytes)
    }

    fn sealed(&self) -> bool {
        self.rank.as_ref().map_or(self.row.sealed, |rank| rank.sealed)
    }

    fn ended(&self) -> bool {
        let spoke = match &self.rank {
            Some(rank) => rank.ended_ms.is_some(),
            None => self.row.finished_ms.is_some(),
        };
        spoke || self.row.state == AttemptState::Ended
    }

    fn nonce(&self) -> &str {
        self.rank.as_ref().map_or(&self.row.bootstrap_nonce, |rank| &rank.nonce)
    }

    /// The attempt, where what the step leaves is to be kept.
    ///
    /// # Errors
    /// Another rank than the leader calls.
    pub(super) fn leading(self) -> Answer<AttemptRow> {
        match self.rank {
            None => Ok(self.row),
            Some(rank) => Err(CallError::new(
                StatusCode::FORBIDDEN,
                format!("rank {} keeps nothing: what the step leaves is taken from rank 0", rank.of.rank),
            )),
        }
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Answer<&str> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .ok_or_else(CallError::unauthorized)?;
    let (scheme, token) = value.split_once(' ').ok_or_else(CallError::unauthorized)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(CallError::unauthorized()) }
}

pub(super) fn token_of(app: &App, of: &AttemptRank, nonce: &str) -> String {
    derived(app, "attempt-token", of, nonce)
}

/// Opens an attempt's source and nothing else: for the container that prepares a pod.
pub(super) fn source_token_of(app: &App, of: &AttemptRank, nonce: &str) -> String {
    derived(app, "source-token", of, nonce)
}

fn derived(app: &App, what: &str, of: &AttemptRank, nonce: &str) -> String {
    let (uid, rank) = (of.uid.as_str(), of.rank.to_string());
    if of.leads() {
        return hex::encode(app.instance.derive(what, &[uid, nonce]));
    }
    format!("r{rank}.{}", hex::encode(app.instance.derive(what, &[uid, nonce, &rank])))
}

/// The rank that a token says it is of; whether it is, only its other half proves.
fn rank_of(token: &str) -> u32 {
    let named = token.strip_prefix('r').and_then(|rest| rest.split_once('.'));
    named.and_then(|(rank, _)| rank.parse().ok()).unwrap_or(LEADER)
}

pub(super) fn equal(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// The attempt, and the rank that the token says it is of; nothing is proved yet.
async fn named(app: &App, uid: &str, token: &str) -> Answer<Caller> {
    let row = app.store.attempt(&AttemptUid::from_text(uid)).await?.ok_or_else(CallError::unauthorized)?;
    let of = AttemptRank::new(&row.uid, rank_of(token));
    let rank =
        if of.leads() { None } else { Some(app.store.rank(&of).await?.ok_or_else(CallError::unauthorized)?) };
    let caller = Caller { row, rank };
    if caller.nonce().is_empty() { Err(CallError::unauthorized()) } else { Ok(caller) }
}

/// A rank whose token was shown, whatever its state. `claimed`: as which the call was made.
pub(super) async fn known(app: &App, uid: &str, headers: &HeaderMap, claimed: u32) -> Answer<Caller> {
    let shown = bearer(headers)?;
    let caller = named(app, uid, shown).await?;
    let of = caller.of();
    if !equal(shown, &token_of(app, &of, caller.nonce())) {
        return Err(CallError::unauthorized());
    }
    if of.rank != claimed {
        let message = format!("this token speaks for rank {}, not for rank {claimed}", of.rank);
        return Err(CallError::new(StatusCode::FORBIDDEN, message));
    }
    Ok(caller)
}

/// A rank whose token was shown and which has not ended. Its first such call seals it.
pub(super) async fn open(app: &App, uid: &str, headers: &HeaderMap, claimed: u32) -> Answer<Caller> {
    let caller = known(app, uid, headers, claimed).await?;
    if caller.ended() {
        return Err(CallError::gone());
    }
    if !caller.sealed() {
        app.store.agent_heartbeat(caller.of(), app.clock.now_ms()).await?.ok_or_else(CallError::gone)?;
    }
    Ok(caller)
}

/// As [`open`], of the rank that the token is of, or with the token of the container that prepares; that one does not seal.
pub(super) async fn open_source(app: &App, uid: &str, headers: &HeaderMap) -> Answer<AttemptRow> {
    let shown = bearer(headers)?;
    let caller = named(app, uid, shown).await?;
    let prepares = !caller.sealed() && equal(shown, &source_token_of(app, &caller.of(), caller.nonce()));
    if !prepares {
        return Ok(open(app, uid, headers, rank_of(shown)).await?.row);
    }
    if caller.ended() { Err(CallError::gone()) } else { Ok(caller.row) }
}
