//! What the agents of attempts report, and reading it back. Every accepted report is fenced by the attempt's uid, and by
//! its being started and not ended (G5).

use super::attempts::{ArtifactRow, Finish, LogAppend, SegmentRow};
use super::conn::{Conn, Fields, all, execute, one, to_json};
use super::metrics::put_sources;
use super::queue::charge;
use super::work::{WorkAsk, ask_in};
use super::{Store, StoreError, dialect};
use crate::clock::Millis;
use crate::model::{AttemptUid, DataReport, RunId, StepId};

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
    log_bytes: i64,
    pub(super) metrics_seq: i64,
    cancel: bool,
}

/// Notes the sign of life, seals the attempt, and keeps its row from changing until the commit.
pub(super) async fn hear(tx: &mut Conn, uid: &AttemptUid, now: Millis) -> Result<Option<Live>, StoreError> {
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
         WHERE uid = $1 AND state <> 'ended' AND bootstrap_nonce <> ''
         RETURNING run_id, step_id, log_bytes, metrics_seq, cancel_request",
        uid,
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

impl Store {
    /// Binds the bootstrap to the first nonce that shows it and moves the attempt to running. True for the first and for
    /// every repeat with the same nonce while the attempt is not sealed and not ended.
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
                let run: Option<RunId> = one!(
                    tx,
                    |row| row.get("run_id"),
                    "UPDATE attempts SET bootstrap_nonce = $3, heartbeat_ms = $4, started_ms = COALESCE(started_ms, $4),
                       state = CASE state WHEN 'finishing' THEN state ELSE 'running' END
                     WHERE uid = $1 AND bootstrap_hash = $2 AND $3 <> '' AND (bootstrap_nonce = '' OR bootstrap_nonce = $3)
                       AND sealed = FALSE AND state <> 'ended'
                     RETURNING run_id",
                    &uid,
                    &hash,
                    &nonce,
                    now
                )?;
                let Some(run) = run else { return Ok(false) };
                ask_in(tx, &[WorkAsk::run(&run, now)], now).await?;
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

    /// Notes a sign of life, seals the attempt, and says whether it should stop. None: ended, not started or unknown.
    pub async fn agent_heartbeat(&self, uid: &AttemptUid, now: Millis) -> Result<Option<bool>, StoreError> {
        let uid = uid.clone();
        self.write(move |tx| Box::pin(async move { Ok(hear(tx, &uid, now).await?.map(|live| live.cancel)) }))
            .await
    }

    /// Compare-and-set on the committed offset; the bytes lie in `blob` under `blob_key` already.
    pub async fn append_log(
        &self,
        uid: &AttemptUid,
        offset: i64,
        bytes: i64,
        blob_key: &str,
        now: Millis,
    ) -> Result<LogAppend, StoreError> {
        let (uid, blob_key) = (uid.clone(), blob_key.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let Some(live) = hear(tx, &uid, now).await? else { return Ok(LogAppend::Refused) };
                if live.log_bytes != offset {
                    return Ok(LogAppend::Conflict { committed: live.log_bytes });
                }
                execute!(tx, "UPDATE attempts SET log_bytes = log_bytes + $2 WHERE uid = $1", &uid, bytes)?;
                insert_segment(tx, &uid, offset, bytes, &blob_key, now).await?;
                Ok(LogAppend::Committed { offset: offset + bytes })
            })
        })
        .await
    }

    /// Segments that hold bytes from `from_byte` on, in order.
    pub async fn log_segments(
        &self,
        uid: &AttemptUid,
        from_byte: i64,
        limit: i64,
    ) -> Result<Vec<SegmentRow>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok(SegmentRow {
                start_byte: row.get("start_byte")?,
                bytes: row.get("bytes")?,
                blob_key: row.get("blob_key")?,
            }),
            "SELECT start_byte, bytes, blob_key FROM log_segments
             WHERE attempt_uid = $1 AND start_byte + bytes > $2 ORDER BY start_byte LIMIT $3",
            uid,
            from_byte,
            limit
        )
    }

    /// Replaces all segments of an ended attempt by one (compaction); the caller deletes the old blobs afterwards. False: it
    /// has not ended, its log has another length, or retention was faster.
    pub async fn compact_log(
        &self,
        uid: &AttemptUid,
        bytes: i64,
        blob_key: &str,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let (uid, blob_key) = (uid.clone(), blob_key.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let deleted = execute!(
                    tx,
                    "DELETE FROM log_segments WHERE attempt_uid = $1
                       AND EXISTS (SELECT 1 FROM attempts WHERE uid = $1 AND state = 'ended' AND log_bytes = $2)",
                    &uid,
                    bytes
                )?;
                if deleted > 0 {
                    insert_segment(tx, &uid, 0, bytes, &blob_key, now).await?;
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
                let Some(live) = hear(tx, &artifact.attempt_uid, now).await? else { return Ok(false) };
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

    /// Ends the attempt by its agent's word, keeps its outputs, and asks for its run and for a schedule. False: it had
    /// ended, or was never started.
    pub async fn agent_finish(
        &self,
        uid: &AttemptUid,
        finish: Finish,
        now: Millis,
    ) -> Result<bool, StoreError> {
        let uid = uid.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let run: Option<RunId> = one!(
                    tx,
                    |row| row.get("run_id"),
                    "UPDATE attempts SET state = 'ended', class = $2, reason = $3, exit_code = $4, outputs = $5, notes = $6,
                       log_lost_bytes = $7, sealed = TRUE, heartbeat_ms = $8, finished_ms = $8, ended_ms = $8
                     WHERE uid = $1 AND state <> 'ended' AND bootstrap_nonce <> ''
                     RETURNING run_id",
                    &uid,
                    finish.class.word(),
                    &finish.reason,
                    finish.exit_code,
                    to_json(&finish.outputs)?,
                    to_json(&finish.notes)?,
                    finish.log_lost_bytes,
                    now
                )?;
                let Some(run) = run else { return Ok(false) };
                put_sources(tx, &uid, &run, &finish.sources).await?;
                put_data(tx, &uid, &run, &finish.data).await?;
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
    uid: &AttemptUid,
    start: i64,
    bytes: i64,
    blob_key: &str,
    now: Millis,
) -> Result<(), StoreError> {
    execute!(
        tx,
        "INSERT INTO log_segments (attempt_uid, start_byte, bytes, blob_key, created_ms) VALUES ($1, $2, $3, $4, $5)",
        uid,
        start,
        bytes,
        blob_key,
        now
    )
    .map(|_| ())
}
