//! Metric points: taken in batches, bounded, and read back as last values, as curves, or whole.

use std::collections::BTreeMap;

use super::attempts::StoredMetric;
use super::conn::{Conn, Fields, all, execute, on};
use super::reports::{Live, hear, last_attempt};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::model::metric::{MAX_NAMES, MAX_POINTS, from_nonfinite_word, nonfinite_word};
use crate::model::{AttemptUid, MetricPoint, MetricSource, RunId};

/// How many points go into one statement: SQLite takes at most 32,766 arguments.
const POINTS: usize = 500;
/// Parameters of one attempt.
const PARAMS: i64 = 2_000;

fn stored_metric(row: &impl Fields) -> Result<StoredMetric, StoreError> {
    let word: Option<String> = row.get("nonfinite")?;
    let value = word.as_deref().and_then(from_nonfinite_word).or(row.get("value")?);
    Ok(StoredMetric {
        attempt_uid: row.get("attempt_uid")?,
        step_id: row.get("step_id")?,
        step_position: row.get("position")?,
        step_name: row.get("step_name")?,
        seq: row.get("seq")?,
        point: MetricPoint {
            name: row.get("name")?,
            value: value.unwrap_or(f64::NAN),
            step: row.get("train_step")?,
            at_ms: row.get("at_ms")?,
        },
    })
}

impl Store {
    /// Stores a batch whose first point has number `first_seq` (from 1); points that are stored already are passed over. A
    /// batch that would leave a gap is not stored. Beyond the attempt's quota of points or of names points are counted, not
    /// kept. Returns the highest number taken, from which the agent goes on; None: ended, not started or unknown.
    pub async fn record_metrics(
        &self,
        uid: &AttemptUid,
        first_seq: i64,
        points: Vec<MetricPoint>,
        params: BTreeMap<String, String>,
        now: Millis,
    ) -> Result<Option<i64>, StoreError> {
        let uid = uid.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let Some(live) = hear(tx, &(&uid).into(), now).await? else { return Ok(None) };
                put_params(tx, &uid, &live, &params).await?;
                let numbered: Vec<(i64, MetricPoint)> =
                    (first_seq..).zip(points).filter(|(seq, _)| *seq > live.metrics_seq).collect();
                let (Some(first), Some(last)) = (numbered.first(), numbered.last()) else {
                    return Ok(Some(live.metrics_seq));
                };
                if first.0 != live.metrics_seq + 1 {
                    return Ok(Some(live.metrics_seq));
                }
                let last = last.0;
                let within = numbered.into_iter().filter(|(seq, _)| *seq <= MAX_POINTS as i64).collect();
                let kept = note_last(tx, &uid, &live, within).await?;
                for chunk in kept.chunks(POINTS) {
                    insert_points(tx, &uid, &live, chunk).await?;
                }
                execute!(tx, "UPDATE attempts SET metrics_seq = $2 WHERE uid = $1", &uid, last)?;
                Ok(Some(last))
            })
        })
        .await
    }

    /// Every metric point of the attempts that count: of each step, the last attempt. By (step position, number of the point).
    /// Only for runs that are known to be small.
    pub async fn run_metrics(&self, run: &RunId) -> Result<Vec<StoredMetric>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            stored_metric,
            concat!(
                "SELECT m.attempt_uid, m.step_id, s.position, s.name AS step_name, m.seq, m.name, m.value, m.nonfinite, m.train_step,
                   m.at_ms
                 FROM metrics m JOIN attempts a ON a.uid = m.attempt_uid JOIN steps s ON s.id = m.step_id
                 WHERE m.run_id = $1 AND ",
                last_attempt!(),
                " ORDER BY s.position, m.seq"
            ),
            run
        )
    }

    /// Of each step's metric at most two points: the last one without a training step, and the one of the highest training
    /// step (then the latest). They decide the metric's value. By (step position, name).
    pub async fn last_metrics(&self, run: &RunId) -> Result<Vec<StoredMetric>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            stored_metric,
            concat!(
                "SELECT m.attempt_uid, a.step_id, s.position AS position, s.name AS step_name, m.name AS name, m.plain_seq AS seq, m.plain_value AS value,
                   m.plain_nonfinite AS nonfinite, CAST(NULL AS BIGINT) AS train_step, m.plain_at_ms AS at_ms
                 FROM metric_last m JOIN attempts a ON a.uid = m.attempt_uid JOIN steps s ON s.id = a.step_id
                 WHERE m.run_id = $1 AND m.plain_seq IS NOT NULL AND ",
                last_attempt!(),
                " UNION ALL
                 SELECT m.attempt_uid, a.step_id, s.position AS position, s.name AS step_name, m.name AS name, m.stepped_seq AS seq, m.stepped_value AS value,
                   m.stepped_nonfinite AS nonfinite, m.stepped_step AS train_step, m.stepped_at_ms AS at_ms
                 FROM metric_last m JOIN attempts a ON a.uid = m.attempt_uid JOIN steps s ON s.id = a.step_id
                 WHERE m.run_id = $1 AND m.stepped_seq IS NOT NULL AND ",
                last_attempt!(),
                " ORDER BY position, name, seq"
            ),
            run
        )
    }

    /// Points for people: of each step's metric every nth, about `per_curve` of them and always the newest; at most
    /// `limit` points in all. With `name`, that metric only.
    pub async fn sample_metrics(
        &self,
        run: &RunId,
        name: Option<&str>,
        per_curve: i64,
        limit: i64,
    ) -> Result<Vec<StoredMetric>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            stored_metric,
            concat!(
                "SELECT attempt_uid, step_id, position, step_name, seq, name, value, nonfinite, train_step, at_ms FROM (
                   SELECT m.attempt_uid, m.step_id, s.position, s.name AS step_name, m.seq, m.name, m.value, m.nonfinite,
                     m.train_step, m.at_ms,
                     ROW_NUMBER() OVER (PARTITION BY m.attempt_uid, m.name ORDER BY m.seq DESC) - 1 AS nth,
                     COUNT(*) OVER (PARTITION BY m.attempt_uid, m.name) AS points
                   FROM metrics m JOIN attempts a ON a.uid = m.attempt_uid JOIN steps s ON s.id = m.step_id
                   WHERE m.run_id = $1 AND ($2 IS NULL OR m.name = $2) AND ",
                last_attempt!(),
                ") q WHERE nth % (1 + (points - 1) / $3) = 0 ORDER BY position, seq LIMIT $4"
            ),
            run,
            name,
            per_curve,
            limit
        )
    }

    /// (step name, source) of the attempts that count, by step position and in the order of their report.
    pub async fn metric_sources(&self, run: &RunId) -> Result<Vec<(String, MetricSource)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((
                row.get("step_name")?,
                MetricSource {
                    kind: row.get("kind")?,
                    place: row.get("place")?,
                    used: row.get("used")?,
                    points: row.get("points")?,
                    params: row.get("params")?,
                    note: row.get("note")?,
                }
            )),
            concat!(
                "SELECT s.name AS step_name, m.kind, m.place, m.used, m.points, m.params, m.note
                 FROM metric_sources m JOIN attempts a ON a.uid = m.attempt_uid JOIN steps s ON s.id = a.step_id
                 WHERE m.run_id = $1 AND ",
                last_attempt!(),
                " ORDER BY s.position, m.position"
            ),
            run
        )
    }

    /// (step name, points) that the attempts that count sent beyond their quota, by step position.
    pub async fn metric_points_left_out(&self, run: &RunId) -> Result<Vec<(String, i64)>, StoreError> {
        let mut conn = self.read().await?;
        all!(
            conn,
            |row| Ok((row.get("step_name")?, row.get("lost")?)),
            concat!(
                "SELECT step_name, lost FROM (
                   SELECT s.name AS step_name, s.position, a.metrics_seq - CAST(COALESCE((SELECT SUM(m.points) FROM metric_last m
                     WHERE m.attempt_uid = a.uid), 0) AS BIGINT) AS lost
                   FROM attempts a JOIN steps s ON s.id = a.step_id WHERE a.run_id = $1 AND ",
                last_attempt!(),
                ") q WHERE lost > 0 ORDER BY position"
            ),
            run
        )
    }
}

async fn put_params(
    tx: &mut Conn,
    uid: &AttemptUid,
    live: &Live,
    params: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    if params.is_empty() {
        return Ok(());
    }
    let known: BTreeMap<String, String> = all!(
        tx,
        |row| Ok((row.get("name")?, row.get("value")?)),
        "SELECT name, value FROM params WHERE attempt_uid = $1",
        uid
    )?
    .into_iter()
    .collect();
    let mut count = known.len() as i64;
    // An agent sends all of its parameters with each batch; most are as they were.
    for (name, value) in params.iter().filter(|(name, value)| known.get(*name) != Some(value)) {
        if !known.contains_key(name) {
            if count >= PARAMS {
                continue;
            }
            count += 1;
        }
        execute!(
            tx,
            "INSERT INTO params (attempt_uid, name, run_id, value) VALUES ($1, $2, $3, $4)
             ON CONFLICT (attempt_uid, name) DO UPDATE SET value = excluded.value",
            uid,
            name,
            &live.run,
            value
        )?;
    }
    Ok(())
}

/// What a batch says of one metric.
#[derive(Default)]
struct Said<'p> {
    points: i64,
    plain: Option<(i64, &'p MetricPoint)>,
    stepped: Option<(i64, &'p MetricPoint)>,
}

/// Brings `metric_last` up to date. Returns the points to keep: those of names beyond the bound are left out.
async fn note_last(
    tx: &mut Conn,
    uid: &AttemptUid,
    live: &Live,
    points: Vec<(i64, MetricPoint)>,
) -> Result<Vec<(i64, MetricPoint)>, StoreError> {
    let mut said: BTreeMap<&str, Said<'_>> = BTreeMap::new();
    for (seq, point) in &points {
        let said = said.entry(&point.name).or_default();
        said.points += 1;
        let order = |(seq, p): &(i64, &MetricPoint)| (p.step, p.at_ms, *seq);
        let place = if point.step.is_some() { &mut said.stepped } else { &mut said.plain };
        let this = (*seq, point);
        if place.as_ref().is_none_or(|old| order(&this) >= order(old)) {
            *place = Some(this);
        }
    }
    let mut refused: Vec<String> = Vec::new();
    for (name, said) in &said {
        let known = execute!(
            tx,
            "UPDATE metric_last SET points = points + $3 WHERE attempt_uid = $1 AND name = $2",
            uid,
            *name,
            said.points
        )?;
        if known == 0 {
            // The count is read from the key's index, which holds at most that many rows.
            let added = execute!(
                tx,
                "INSERT INTO metric_last (attempt_uid, name, run_id, points)
                 SELECT $1, $2, $3, $4 WHERE (SELECT COUNT(*) FROM metric_last WHERE attempt_uid = $1) < $5",
                uid,
                *name,
                &live.run,
                said.points,
                MAX_NAMES as i64
            )?;
            if added == 0 {
                refused.push((*name).to_owned());
                continue;
            }
        }
        if let Some((seq, point)) = said.plain {
            execute!(
                tx,
                "UPDATE metric_last SET plain_value = $3, plain_nonfinite = $4, plain_at_ms = $5, plain_seq = $6
                 WHERE attempt_uid = $1 AND name = $2 AND (plain_seq IS NULL OR (plain_at_ms, plain_seq) <= ($5, $6))",
                uid,
                *name,
                Some(point.value).filter(|v| v.is_finite()),
                nonfinite_word(point.value),
                point.at_ms,
                seq
            )?;
        }
        if let Some((seq, point)) = said.stepped {
            execute!(
                tx,
                "UPDATE metric_last SET stepped_value = $3, stepped_nonfinite = $4, stepped_step = $5, stepped_at_ms = $6, stepped_seq = $7
                 WHERE attempt_uid = $1 AND name = $2
                   AND (stepped_seq IS NULL OR (stepped_step, stepped_at_ms, stepped_seq) <= ($5, $6, $7))",
                uid,
                *name,
                Some(point.value).filter(|v| v.is_finite()),
                nonfinite_word(point.value),
                point.step,
                point.at_ms,
                seq
            )?;
        }
    }
    Ok(points.into_iter().filter(|(_, p)| !refused.contains(&p.name)).collect())
}

async fn insert_points(
    tx: &mut Conn,
    uid: &AttemptUid,
    live: &Live,
    points: &[(i64, MetricPoint)],
) -> Result<(), StoreError> {
    on!(tx, c => {
        let mut sql = sqlx::QueryBuilder::new(
            "INSERT INTO metrics (attempt_uid, seq, run_id, step_id, name, value, nonfinite, train_step, at_ms) ",
        );
        sql.push_values(points, |mut row, (seq, point)| {
            row.push_bind(uid)
                .push_bind(*seq)
                .push_bind(&live.run)
                .push_bind(&live.step)
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

/// Keeps what an attempt said of its sources, once.
pub(super) async fn put_sources(
    tx: &mut Conn,
    uid: &AttemptUid,
    run: &RunId,
    sources: &[MetricSource],
) -> Result<(), StoreError> {
    for (position, source) in sources.iter().enumerate() {
        execute!(
            tx,
            "INSERT INTO metric_sources (attempt_uid, position, run_id, kind, place, used, points, params, note)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
            uid,
            position as i64,
            run,
            &source.kind,
            &source.place,
            source.used,
            source.points,
            source.params,
            &source.note
        )?;
    }
    Ok(())
}
