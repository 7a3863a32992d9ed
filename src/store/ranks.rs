//! The ranks of attempts of several pods: what each said, fenced to itself by its own nonce (G5).
//!
//! Must not: decide what a rank's end means for its attempt. That is `run::ranks`, from these rows.

use super::conn::{Conn, Fields, all, execute, on, one};
use super::reports::{Live, hear, wait_over};
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::metric::{from_nonfinite_word, nonfinite_word};
use crate::model::{AttemptRank, AttemptUid, EndClass, LEADER, MetricPoint, RunId};

/// Points kept of each rank beside the leader.
const POINTS: i64 = 100_000;
/// How many go into one statement.
const CHUNK: usize = 500;

#[derive(Debug, Clone, PartialEq)]
pub struct RankRow {
    pub of: AttemptRank,
    pub nonce: String,
    /// Its agent was heard after `start`: secrets are no longer served to it.
    pub sealed: bool,
    pub log_bytes: i64,
    pub log_lost_bytes: i64,
    pub metrics_seq: i64,
    /// Set when it ended.
    pub class: Option<EndClass>,
    pub exit_code: Option<i64>,
    pub reason: String,
    pub heard_ms: Millis,
    /// None: it is being prepared.
    pub started_ms: Option<Millis>,
    /// When its commands ended, by its own word.
    pub ended_ms: Option<Millis>,
}

/// How one rank ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RankEnd {
    pub class: EndClass,
    pub exit_code: Option<i64>,
    pub reason: String,
    pub log_lost_bytes: i64,
    /// When its commands ended.
    pub ended_ms: Millis,
}

macro_rules! select_rank {
    ($rest:literal) => {
        concat!(
            "SELECT attempt_uid, rank, nonce, sealed, log_bytes, log_lost_bytes, metrics_seq, class, exit_code, reason, heard_ms,
               started_ms, ended_ms FROM attempt_ranks ",
            $rest
        )
    };
}
pub(super) use select_rank;

/// Those of the attempts of the run `$1`, by (attempt, rank).
macro_rules! ranks_of_run {
    () => {
        $crate::store::ranks::select_rank!("WHERE run_id = $1 ORDER BY attempt_uid, rank")
    };
}
pub(super) use ranks_of_run;

impl RankRow {
    pub(super) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        let rank: i64 = row.get("rank")?;
        Ok(Self {
            of: AttemptRank { uid: row.get("attempt_uid")?, rank: rank.try_into().unwrap_or(u32::MAX) },
            nonce: row.get("nonce")?,
            sealed: row.get("sealed")?,
            log_bytes: row.get("log_bytes")?,
            log_lost_bytes: row.get("log_lost_bytes")?,
            metrics_seq: row.get("metrics_seq")?,
            class: row.word_or_null("class")?,
            exit_code: row.get("exit_code")?,
            reason: row.get("reason")?,
            heard_ms: row.get("heard_ms")?,
            started_ms: row.get("started_ms")?,
            ended_ms: row.get("ended_ms")?,
        })
    }
}

/// As `hear` of the leader, of another rank.
pub(super) async fn hear_rank(
    tx: &mut Conn,
    of: &AttemptRank,
    now: Millis,
) -> Result<Option<Live>, StoreError> {
    // The attempt's row first, in the order of everybody who locks both.
    let attempt = one!(
        tx,
        |row| Ok((row.get("run_id")?, row.get("step_id")?, row.get("cancel_request")?)),
        "UPDATE attempts SET state = state WHERE uid = $1 AND state <> 'ended' RETURNING run_id, step_id, cancel_request",
        &of.uid
    )?;
    let Some((run, step, cancel)) = attempt else { return Ok(None) };
    one!(
        tx,
        |row| Ok((row.get("log_bytes")?, row.get("metrics_seq")?)),
        "UPDATE attempt_ranks SET heard_ms = $3, sealed = TRUE
         WHERE attempt_uid = $1 AND rank = $2 AND ended_ms IS NULL RETURNING log_bytes, metrics_seq",
        &of.uid,
        i64::from(of.rank),
        now
    )
    .map(|found| found.map(|(log_bytes, metrics_seq)| Live { run, step, log_bytes, metrics_seq, cancel }))
}

/// Notes that a rank has begun, or is being prepared. False: another agent is that rank, or it was heard already.
pub(super) async fn begin(
    tx: &mut Conn,
    of: &AttemptRank,
    run: &RunId,
    nonce: &str,
    preparing: bool,
    now: Millis,
) -> Result<bool, StoreError> {
    let rows = execute!(
        tx,
        "INSERT INTO attempt_ranks (attempt_uid, rank, run_id, nonce, heard_ms, started_ms) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (attempt_uid, rank) DO UPDATE SET heard_ms = excluded.heard_ms,
           started_ms = COALESCE(attempt_ranks.started_ms, excluded.started_ms)
         WHERE attempt_ranks.nonce = excluded.nonce AND attempt_ranks.sealed = FALSE AND attempt_ranks.ended_ms IS NULL
           AND (attempt_ranks.started_ms IS NULL OR excluded.started_ms IS NOT NULL)",
        &of.uid,
        i64::from(of.rank),
        run,
        nonce,
        now,
        (!preparing).then_some(now)
    )?;
    Ok(rows == 1)
}

/// The attempt runs once all of its ranks have begun.
pub(super) async fn run_if_all(tx: &mut Conn, uid: &AttemptUid, now: Millis) -> Result<(), StoreError> {
    execute!(
        tx,
        "UPDATE attempts SET state = 'running', reason = '', started_ms = COALESCE(started_ms, $2)
         WHERE uid = $1 AND state IN ('intended', 'submitted', 'pending')
           AND (SELECT COUNT(*) FROM attempt_ranks WHERE attempt_uid = $1 AND started_ms IS NOT NULL) = ranks",
        uid,
        now
    )
    .map(|_| ())
}

/// Notes a rank's end, once.
pub(super) async fn end(tx: &mut Conn, of: &AttemptRank, end: &RankEnd) -> Result<bool, StoreError> {
    let rows = execute!(
        tx,
        "UPDATE attempt_ranks SET class = $3, exit_code = $4, reason = $5, log_lost_bytes = $6, ended_ms = $7, sealed = TRUE
         WHERE attempt_uid = $1 AND rank = $2 AND ended_ms IS NULL",
        &of.uid,
        i64::from(of.rank),
        end.class.word(),
        end.exit_code,
        &end.reason,
        end.log_lost_bytes,
        end.ended_ms
    )?;
    Ok(rows == 1)
}

impl Store {
    /// Binds a rank beside the leader to the first nonce that shows its bootstrap, which the caller has checked. True for the first
    /// and for every repeat with the same nonce while neither it nor its attempt has ended and it was not heard since.
    /// `preparing`: its place is found, its image may still have to come.
    pub async fn rank_start(
        &self,
        of: &AttemptRank,
        nonce: &str,
        preparing: bool,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let (of, nonce) = (of.clone(), nonce.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let run: Option<RunId> = one!(
                    tx,
                    |row| row.get("run_id"),
                    "UPDATE attempts SET state = state WHERE uid = $1 AND state <> 'ended' AND ranks > $2 RETURNING run_id",
                    &of.uid,
                    i64::from(of.rank)
                )?;
                let Some(run) = run.filter(|_| of.rank != LEADER) else { return Ok(false) };
                if !begin(tx, &of, &run, &nonce, preparing, now).await? {
                    return Ok(false);
                }
                if !preparing {
                    run_if_all(tx, &of.uid, now).await?;
                    let mut asks = vec![WorkAsk::run(&run, now)];
                    asks.extend(wait_over(tx, &run, &of.uid, now).await?);
                    ask_in(tx, &asks, now).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    pub async fn rank(&self, of: &AttemptRank) -> Result<Option<RankRow>, StoreError> {
        let mut conn = self.read().await?;
        let rank = i64::from(of.rank);
        one!(conn, RankRow::read, select_rank!("WHERE attempt_uid = $1 AND rank = $2"), &of.uid, rank)
    }

    /// Notes the end of a rank beside the leader and asks for its run, where the rest is decided. False: it or its attempt had
    /// ended, or it never began.
    pub async fn rank_finish(&self, of: &AttemptRank, how: RankEnd, now: Millis) -> Result<bool, StoreError> {
        let of = of.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let Some(live) = hear(tx, &of, now).await? else { return Ok(false) };
                if of.leads() || !end(tx, &of, &how).await? {
                    return Ok(false);
                }
                ask_in(tx, &[WorkAsk::run(&live.run, now)], now).await?;
                Ok(true)
            })
        })
        .await
    }

    /// As [`Self::record_metrics`], of a rank beside the leader: kept apart, so that no value is counted twice.
    pub async fn record_rank_metrics(
        &self,
        of: &AttemptRank,
        first_seq: i64,
        points: Vec<MetricPoint>,
        now: Millis,
    ) -> Result<Option<i64>, StoreError> {
        let of = of.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let Some(live) = hear(tx, &of, now).await? else { return Ok(None) };
                let numbered: Vec<(i64, MetricPoint)> =
                    (first_seq..).zip(points).filter(|(seq, _)| *seq > live.metrics_seq).collect();
                let (Some(first), Some(last)) = (numbered.first(), numbered.last()) else {
                    return Ok(Some(live.metrics_seq));
                };
                if of.leads() || first.0 != live.metrics_seq + 1 {
                    return Ok(Some(live.metrics_seq));
                }
                let last = last.0;
                let within: Vec<_> = numbered.into_iter().filter(|(seq, _)| *seq <= POINTS).collect();
                for chunk in within.chunks(CHUNK) {
                    insert_points(tx, &of, chunk).await?;
                }
                execute!(
                    tx,
                    "UPDATE attempt_ranks SET metrics_seq = $3 WHERE attempt_uid = $1 AND rank = $2",
                    &of.uid,
                    i64::from(of.rank),
                    last
                )?;
                Ok(Some(last))
            })
        })
        .await
    }

    /// Points of a rank beside the leader, in the order in which they came.
    pub async fn rank_metrics(&self, of: &AttemptRank, limit: i64) -> Result<Vec<MetricPoint>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| {
                let word: Option<String> = row.get("nonfinite")?;
                let value = word.as_deref().and_then(from_nonfinite_word).or(row.get("value")?);
                Ok(MetricPoint {
                    name: row.get("name")?,
                    value: value.unwrap_or(f64::NAN),
                    step: row.get("train_step")?,
                    at_ms: row.get("at_ms")?,
                })
            },
            "SELECT name, value, nonfinite, train_step, at_ms FROM rank_metrics WHERE attempt_uid = $1 AND rank = $2
             ORDER BY seq LIMIT $3",
            &of.uid,
            i64::from(of.rank),
            limit
        )
    }
}

async fn insert_points(
    tx: &mut Conn,
    of: &AttemptRank,
    points: &[(i64, MetricPoint)],
) -> Result<(), StoreError> {
    on!(tx, c => {
        let mut sql = sqlx::QueryBuilder::new(
            "INSERT INTO rank_metrics (attempt_uid, rank, seq, name, value, nonfinite, train_step, at_ms) ",
        );
        sql.push_values(points, |mut row, (seq, point)| {
            row.push_bind(&of.uid)
                .push_bind(i64::from(of.rank))
                .push_bind(*seq)
                .push_bind(&point.name)
                .push_bind(Some(point.value).filter(|value| value.is_finite()))
                .push_bind(nonfinite_word(point.value))
                .push_bind(point.step)
                .push_bind(point.at_ms);
        });
        sql.build().persistent(false).execute(c).await?;
        Ok(())
    })
}
