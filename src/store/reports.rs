//! What the agents of attempts report, and reading it back. Every accepted report is fenced by the attempt's uid, and by
//! its being started and not ended (G5).

use super::attempts::{ArtifactRow, Finish, LogAppend, SegmentRow};
use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::metrics::put_sources;
use super::queue::{PATIENCE_MS, charge};
use super::ranks::{self, RankEnd};
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError, dialect};
use crate::clock::Millis;
use crate::model::{AttemptRank, AttemptUid, DataReport, RepoId, RunId, Sha, StepId};

/// Of each step, only the last attempt counts. To be used where `a` is an attempt.
macro_rules! last_attempt {
    () => {
        "a.number = (SELECT MAX(l.number) FROM attempts l WHERE l.step_id = a.step_id)"
    };
}
pub(super) use last_attempt;

/// A started attempt that has not ended.
pub(super) struct Live {
    pub(super) run: RunId,
    pub(super) step: StepId,
    pub(super) log_bytes: i64,
    pub(super) metrics_seq: i64,
    pub(super) cancel: bool,
}

/// Notes the sign of life, seals the rank, and keeps the attempt's row from changing until the commit. None: it has not begun, or
/// it or its attempt has ended.
pub(super) async fn hear(tx: &mut Conn, of: &AttemptRank, now: Millis) -> Result<Option<Live>, StoreError> {
    if !of.leads() {
        return ranks::hear_rank(tx, of, now).await;
    }
    one!(
        tx,
        |row| Ok(Live {
            run: row.get("run_id")?,
            step: row.get("step_id")?,
            log_bytes: row.get("log_bytes")?,
            metrics_seq: row.get("metrics_seq")?,
            cancel: row.get("cancel_request")?,
        }),
        "UPDATE attempts SET heartbeat_ms = $2, sealed = TRUE
         WHERE uid = $1 AND state <> 'ended' AND finished_ms IS NULL AND bootstrap_nonce <> ''
         RETURNING run_id, step_id, log_bytes, metrics_seq, cancel_request",
        &of.uid,
        now
    )
}

fn artifact(row: &impl Fields) -> Result<ArtifactRow, StoreError> {
    Ok(ArtifactRow {
        attempt_uid: row.get("attempt_uid")?,
        path: row.get("path")?,
        bytes: row.get("bytes")?,
        sha256: row.get("sha256")?,
        executable: row.get("executable")?,
        blob_key: row.get("blob_key")?,
    })
}

/// Asks for a report when the forge may have been told what the run waits for, now that an attempt of it begins to run.
pub(super) async fn wait_over(
    tx: &mut Conn,
    run: &RunId,
    begun: &AttemptUid,
    now: Millis,
) -> Result<Option<WorkAsk>, StoreError> {
    one!(
        tx,
        |row| {
            let (repo, sha): (RepoId, Sha) = (row.get("repo_id")?, row.get("head_sha")?);
            Ok(WorkAsk::report_commit(&repo, &sha, now))
        },
        "SELECT r.repo_id, r.head_sha FROM runs r
         WHERE r.id = $1
           AND EXISTS (SELECT 1 FROM attempts a WHERE a.run_id = $1 AND a.submitted_ms <= $2 AND (a.state = 'pending' OR a.uid = $3))",
        run,
        now - PATIENCE_MS,
        begun
    )
}

impl Store {
    /// Binds the bootstrap to the first nonce that shows it and moves the attempt to running; one of several pods to pending,
    /// until all of its ranks have begun. True for the first and for every repeat with the same nonce while the attempt is not
    /// sealed and not ended.
    pub async fn agent_start(
        &self,
        uid: &AttemptUid,
        bootstrap_hash: &str,
        nonce: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let (uid, hash, nonce) = (uid.clone(), bootstrap_hash.to_owned(), nonce.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let found: Option<(RunId, i64)> = one!(
                    tx,
                    |row| Ok((row.get("run_id")?, row.get("ranks")?)),
                    "UPDATE attempts SET bootstrap_nonce = $3, heartbeat_ms = $4,
                       started_ms = CASE WHEN ranks = 1 THEN COALESCE(started_ms, $4) ELSE started_ms END,
                       reason = CASE WHEN ranks = 1 THEN '' ELSE reason END,
                       state = CASE WHEN state IN ('running', 'finishing') THEN state WHEN ranks = 1 THEN 'running' ELSE 'pending' END
                     WHERE uid = $1 AND bootstrap_hash = $2 AND $3 <> '' AND (bootstrap_nonce = '' OR bootstrap_nonce = $3)
                       AND sealed = FALSE AND state <> 'ended'
                     RETURNING run_id, ranks",
                    &uid,
                    &hash,
                    &nonce,
                    now
                )?;
                let Some((run, pods)) = found else { return Ok(false) };
                if pods > 1 {
                    ranks::begin(tx, &(&uid).into(), &run, &nonce, false, now).await?;
                    ranks::run_if_all(tx, &uid, now).await?;
                }
                let mut asks = vec![WorkAsk::run(&run, now)];
                asks.extend(wait_over(tx, &run, &uid, now).await?);
                ask_in(tx, &asks, now).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Binds the bootstrap to the first nonce that shows it, as [`Self::agent_start`] does, and moves the attempt to pending:
    /// its place is found, its image may still have to come. False also when the attempt runs already.
    pub async fn agent_prepare(
        &self,
        uid: &AttemptUid,
        bootstrap_hash: &str,
        nonce: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let (uid, hash, nonce) = (uid.clone(), bootstrap_hash.to_owned(), nonce.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let rows = execute!(
                    tx,
                    "UPDATE attempts SET bootstrap_nonce = $3, heartbeat_ms = $4, state = 'pending'
                     WHERE uid = $1 AND bootstrap_hash = $2 AND $3 <> '' AND (bootstrap_nonce = '' OR bootstrap_nonce = $3)
                       AND sealed = FALSE AND state IN ('intended', 'submitted', 'pending')",
                    &uid,
                    &hash,
                    &nonce,
                    now
                )?;
                Ok(rows == 1)
            })
        })
        .await
    }

    /// Notes a rank's sign of life, seals it, and says whether it should stop. None: ended, not started or unknown.
    pub async fn agent_heartbeat(
        &self,
        of: impl Into<AttemptRank>,
        now: Millis,
    ) -> Result<Option<bool>, StoreError> {
        let of = of.into();
        self.write(move |tx| Box::pin(async move { Ok(hear(tx, &of, now).await?.map(|live| live.cancel)) }))
            .await
    }

    /// Compare-and-set on the committed offset of a rank's log; the bytes lie in `blob` under `blob_key` already.
    pub async fn append_log(
        &self,
        of: impl Into<AttemptRank>,
        offset: i64,
        bytes: i64,
        blob_key: &str,
        now: Millis,
    ) -> Result<LogAppend, StoreError> {
        let (of, blob_key) = (of.into(), blob_key.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let Some(live) = hear(tx, &of, now).await? else { return Ok(LogAppend::Refused) };
                if live.log_bytes != offset {
                    return Ok(LogAppend::Conflict { committed: live.log_bytes });
                }
                if of.leads() {
                    execute!(
                        tx,
                        "UPDATE attempts SET log_bytes = log_bytes + $2 WHERE uid = $1",
                        &of.uid,
                        bytes
                    )?;
                } else {
                    execute!(
                        tx,
                        "UPDATE attempt_ranks SET log_bytes = log_bytes + $3 WHERE attempt_uid = $1 AND rank = $2",
                        &of.uid,
                        i64::from(of.rank),
                        bytes
                    )?;
                }
                insert_segment(tx, &of, offset, bytes, &blob_key, now).await?;
                Ok(LogAppend::Committed { offset: offset + bytes })
            })
        })
        .await
    }

    /// Segments of a rank's log that hold bytes from `from_byte` on, in order.
    pub async fn log_segments(
        &self,
        of: impl Into<AttemptRank>,
        from_byte: i64,
        limit: i64,
    ) -> Result<Vec<SegmentRow>, StoreError> {
        let of = of.into();
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok(SegmentRow {
                start_byte: row.get("start_byte")?,
                bytes: row.get("bytes")?,
                blob_key: row.get("blob_key")?,
            }),
            "SELECT start_byte, bytes, blob_key FROM log_segments
             WHERE attempt_uid = $1 AND rank = $4 AND start_byte + bytes > $2 ORDER BY start_byte LIMIT $3",
            &of.uid,
            from_byte,
            limit,
            i64::from(of.rank)
        )
    }

    /// Replaces all segments of an ended rank by one (compaction); the caller deletes the old blobs afterwards. False: it
    /// has not ended, its log has another length, or retention was faster.
    pub async fn compact_log(
        &self,
        of: impl Into<AttemptRank>,
        bytes: i64,
        blob_key: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let (of, blob_key) = (of.into(), blob_key.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let deleted = execute!(
                    tx,
                    "DELETE FROM log_segments WHERE attempt_uid = $1 AND rank = $3
                       AND EXISTS (SELECT 1 FROM attempts a LEFT JOIN attempt_ranks r ON r.attempt_uid = a.uid AND r.rank = $3
                         WHERE a.uid = $1 AND (a.state = 'ended' OR r.ended_ms IS NOT NULL)
                           AND CASE WHEN $3 = 0 THEN a.log_bytes ELSE r.log_bytes END = $2)",
                    &of.uid,
                    bytes,
                    i64::from(of.rank)
                )?;
                if deleted > 0 {
                    insert_segment(tx, &of, 0, bytes, &blob_key, now).await?;
                }
                Ok(deleted > 0)
            })
        })
        .await
    }

    /// Notes an artifact whose bytes lie in `blob`; a repeat replaces it. False: the attempt is ended, not started or unknown.
    pub async fn put_artifact(&self, artifact: ArtifactRow, now: Millis) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let of = (&artifact.attempt_uid).into();
                let Some(live) = hear(tx, &of, now).await? else { return Ok(false) };
                execute!(
                    tx,
                    "INSERT INTO artifacts (attempt_uid, path, run_id, bytes, sha256, executable, blob_key, created_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                     ON CONFLICT (attempt_uid, path) DO UPDATE SET bytes = excluded.bytes, sha256 = excluded.sha256,
                       executable = excluded.executable, blob_key = excluded.blob_key, created_ms = excluded.created_ms",
                    &artifact.attempt_uid,
                    &artifact.path,
                    &live.run,
                    artifact.bytes,
                    &artifact.sha256,
                    artifact.executable,
                    &artifact.blob_key,
                    now
                )?;
                Ok(true)
            })
        })
        .await
    }

    /// Forgets artifacts of an attempt by their paths. Returns the blobs that no row names any more.
    pub async fn drop_artifacts(
        &self,
        uid: &AttemptUid,
        paths: Vec<String>,
    ) -> Result<Vec<String>, StoreError> {
        let (uid, list) = (uid.clone(), to_json(&paths)?);
        let keys: Vec<String> = self
            .write(move |tx| {
                Box::pin(async move {
                    let sql = dialect::by_engine(
                        tx,
                        "DELETE FROM artifacts WHERE attempt_uid = $1 AND path IN (SELECT value FROM json_each($2)) RETURNING blob_key",
                        "DELETE FROM artifacts WHERE attempt_uid = $1 AND path IN (SELECT value FROM json_array_elements_text($2::json))
                         RETURNING blob_key",
                    );
                    all!(tx, |row| row.get("blob_key"), sql, &uid, &list)
                })
            })
            .await?;
        self.blobs_without_row(&keys).await
    }

    /// By path.
    pub async fn artifacts_of_attempt(&self, uid: &AttemptUid) -> Result<Vec<ArtifactRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            artifact,
            "SELECT attempt_uid, path, bytes, sha256, executable, blob_key FROM artifacts WHERE attempt_uid = $1 ORDER BY path",
            uid
        )
    }

    /// Ends the attempt by its agent's word, keeps its outputs, and asks for its run and for a schedule. One of several pods, and one
    /// whose end its executor has a word on, is finishing from then on: `run::ranks` ends it when it knows more. False: it had ended, or was never started.
    pub async fn agent_finish(
        &self,
        uid: &AttemptUid,
        finish: Finish,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let uid = uid.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let found: Option<(RunId, i64)> = one!(
                    tx,
                    |row| Ok((row.get("run_id")?, row.get("ranks")?)),
                    "UPDATE attempts SET state = CASE WHEN ranks = 1 AND NOT $9 THEN 'ended' ELSE 'finishing' END,
                       class = CASE WHEN ranks = 1 AND NOT $9 THEN $2 ELSE class END,
                       reason = CASE WHEN ranks = 1 AND NOT $9 THEN $3 ELSE '' END,
                       exit_code = CASE WHEN ranks = 1 AND NOT $9 THEN $4 ELSE exit_code END, outputs = $5, notes = $6, log_lost_bytes = $7, sealed = TRUE, heartbeat_ms = $8,
                       finished_ms = $8, ended_ms = CASE WHEN ranks = 1 AND NOT $9 THEN $8 ELSE ended_ms END
                     WHERE uid = $1 AND state <> 'ended' AND finished_ms IS NULL AND bootstrap_nonce <> ''
                     RETURNING run_id, ranks",
                    &uid,
                    finish.class.word(),
                    &finish.reason,
                    finish.exit_code,
                    to_json(&finish.outputs)?,
                    to_json(&finish.notes)?,
                    finish.log_lost_bytes,
                    now,
                    finish.judged
                )?;
                let Some((run, pods)) = found else { return Ok(false) };
                put_sources(tx, &uid, &run, &finish.sources).await?;
                put_data(tx, &uid, &run, &finish.data).await?;
                if pods > 1 || finish.judged {
                    let how = RankEnd {
                        class: finish.class,
                        exit_code: finish.exit_code,
                        reason: finish.reason.clone(),
                        log_lost_bytes: finish.log_lost_bytes,
                        ended_ms: finish.ended_ms.unwrap_or(now),
                    };
                    // It may end before it began: while it was being prepared.
                    ranks::begin(tx, &(&uid).into(), &run, "", true, now).await?;
                    ranks::end(tx, &(&uid).into(), &how).await?;
                    ask_in(tx, &[WorkAsk::run(&run, now)], now).await?;
                    return Ok(true);
                }
                charge(tx, &uid, now).await?;
                ask_in(tx, &[WorkAsk::run(&run, now), WorkAsk::schedule(now)], now).await?;
                Ok(true)
            })
        })
        .await
    }

    /// What the attempts that count found in their data, in the order of the pipeline file.
    pub async fn data_reports(&self, run: &RunId) -> Result<Vec<DataReport>, StoreError> {
        let mut conn = self.read().await?;
        let rows: Vec<serde_json::Value> = all!(
            conn,
            |row| row.json("report"),
            concat!(
                "SELECT d.report FROM data_reports d JOIN attempts a ON a.uid = d.attempt_uid JOIN steps s ON s.id = a.step_id
                 WHERE d.run_id = $1 AND ",
                last_attempt!(),
                " ORDER BY s.position, d.position"
            ),
            run
        )?;
        // What a newer version wrote in another form is left out, not an error.
        Ok(rows.into_iter().filter_map(|report| serde_json::from_value(report).ok()).collect())
    }

    /// (step name, parameter, value) of the attempts that count, by step position and parameter.
    pub async fn run_params(&self, run: &RunId) -> Result<Vec<(String, String, String)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((row.get("step_name")?, row.get("name")?, row.get("value")?)),
            concat!(
                "SELECT s.name AS step_name, p.name, p.value
                 FROM params p JOIN attempts a ON a.uid = p.attempt_uid JOIN steps s ON s.id = a.step_id
                 WHERE p.run_id = $1 AND ",
                last_attempt!(),
                " ORDER BY s.position, p.name"
            ),
            run
        )
    }

    /// Artifacts of the attempts that count, without their checkpoints, by step position and path.
    pub async fn run_artifacts(&self, run: &RunId) -> Result<Vec<ArtifactRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            artifact,
            concat!(
                "SELECT f.attempt_uid, f.path, f.bytes, f.sha256, f.executable, f.blob_key
                 FROM artifacts f JOIN attempts a ON a.uid = f.attempt_uid JOIN steps s ON s.id = a.step_id
                 WHERE f.run_id = $1 AND ",
                last_attempt!(),
                " AND f.path NOT LIKE '.trainyard/checkpoint%' ORDER BY s.position, f.path"
            ),
            run
        )
    }
}

async fn put_data(
    tx: &mut Conn,
    uid: &AttemptUid,
    run: &RunId,
    reports: &[DataReport],
) -> Result<(), StoreError> {
    for (position, report) in reports.iter().enumerate() {
        execute!(
            tx,
            "INSERT INTO data_reports (attempt_uid, position, run_id, name, passed, report) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING",
            uid,
            position as i64,
            run,
            &report.name,
            report.passed,
            to_json(report)?
        )?;
    }
    Ok(())
}

async fn insert_segment(
    tx: &mut Conn,
    of: &AttemptRank,
    start: i64,
    bytes: i64,
    blob_key: &str,
    now: Millis,
) -> Result<(), StoreError> {
    execute!(
        tx,
        "INSERT INTO log_segments (attempt_uid, rank, start_byte, bytes, blob_key, created_ms) VALUES ($1, $6, $2, $3, $4, $5)",
        &of.uid,
        start,
        bytes,
        blob_key,
        now,
        i64::from(of.rank)
    )
    .map(|_| ())
}
