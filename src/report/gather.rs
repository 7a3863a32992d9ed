//! From rows to a [`Section`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use super::view::{BaselineView, ComparisonView, Cost, Curve, FailedStep, Section, StepLine};
use crate::blob::{BlobError, Blobs};
use crate::clock::Millis;
use crate::config::{Budget, PoolConfig};
use crate::forge::{Forge, WebPage};
use crate::model::{AttemptRank, MetricSource, Outcome, Plan, RunId, RunState, StepState, Verdict, params};
use crate::store::Store;
use crate::store::attempts::{AttemptRow, StoredMetric};
use crate::store::comparisons::ComparisonRow;
use crate::store::pulls::RepoRow;
use crate::store::runs::{RunRow, RunView};

/// How much of a failed step's log is read for its last lines.
const TAIL_BYTES: i64 = 16 << 10;
/// Most metrics drawn when the pipeline names none.
const CURVES: usize = 4;
/// Names that are tried for that; a metric of one or two points is no curve.
const CURVES_TRIED: usize = 16;
/// Points of one step's curve, and of all steps' together.
const CURVE_POINTS: i64 = 1_000;
const POINTS: i64 = 100_000;

pub struct Gatherer<'a> {
    pub store: &'a Store,
    pub blobs: &'a Blobs,
    pub forge: &'a dyn Forge,
    pub repo: &'a RepoRow,
    /// Without a trailing slash.
    pub public_url: &'a str,
    pub pools: &'a BTreeMap<String, PoolConfig>,
    pub budget: Option<Budget>,
}

impl Gatherer<'_> {
    /// What a status needs: the run and one comparison, no details.
    pub async fn brief(
        &self,
        run: &RunRow,
        comparison: Option<&ComparisonRow>,
        waits: Option<&str>,
    ) -> anyhow::Result<Section> {
        let comparison = match comparison {
            Some(row) => Some(self.comparison(row).await?),
            None => None,
        };
        Ok(Section {
            pipeline: run.pipeline.clone(),
            run_id: run.id.to_string(),
            sha: run.head_sha.clone(),
            run_url: self.run_url(&run.id),
            commit_url: self.forge.page(&self.repo.name, WebPage::Commit(&run.head_sha)),
            state: run.state,
            reason: run.reason.clone(),
            waits: waits.map(str::to_owned),
            trusted: run.trusted,
            comparison,
            steps: Vec::new(),
            failed: None,
            data: Vec::new(),
            params: Vec::new(),
            looked_at: Vec::new(),
            curves: Vec::new(),
            duration_ms: run.ended_ms.zip(run.started_ms).map(|(end, start)| end - start),
            gpu_ms: 0,
            gpu_idle: None,
            costs: Vec::new(),
            budget: None,
            not_run: run.plan.not_run.clone(),
        })
    }

    /// What a comment needs. Details are read for ended runs only.
    pub async fn full(
        &self,
        run: &RunRow,
        comparison: Option<&ComparisonRow>,
        waits: Option<&str>,
    ) -> anyhow::Result<Section> {
        let mut section = self.brief(run, comparison, waits).await?;
        if !run.state.is_terminal() {
            return Ok(section);
        }
        let Some(view) = self.store.run_view(&run.id).await? else { return Ok(section) };
        // All attempts of a run that ended have ended.
        let now = run.ended_ms.unwrap_or(run.created_ms);
        section.steps = steps(&view, now);
        section.gpu_ms = section.steps.iter().map(|s| s.gpu_ms).sum();
        section.gpu_idle = AttemptRow::gpu_idle(&view.attempts, now);
        section.costs = costs(&view.attempts, self.pools, now);
        section.budget = self.budget(run, now).await?;
        section.failed = self.failed_step(&view).await?;
        section.data = self.store.data_reports(&run.id).await?;

        let baseline = match comparison.and_then(|c| c.baseline.as_ref()) {
            Some(id) if section.comparison.as_ref().is_some_and(|c| c.outcome.is_some()) => {
                self.store.run(id).await?
            }
            _ => None,
        };
        let baseline = baseline.filter(|b| b.state == RunState::Succeeded);
        let this_params = self.store.run_params(&run.id).await?;
        let base_params = match &baseline {
            Some(b) => self.store.run_params(&b.id).await?,
            None => Vec::new(),
        };
        section.params = params::lines(&this_params, &base_params);

        section.curves = self.curves(run, baseline.as_ref()).await?;
        if section.comparison.as_ref().and_then(|c| c.outcome.as_ref()).is_some_and(lacks_a_gated_metric) {
            let sources = self.store.metric_sources(&run.id).await?;
            section.looked_at = sources.iter().map(|(step, source)| looked_at(step, source)).collect();
        }
        Ok(section)
    }

    /// As of the run's end, so that a report made again says the same.
    async fn budget(&self, run: &RunRow, now: Millis) -> anyhow::Result<Option<String>> {
        let Some(budget) = self.budget.filter(|_| run.plan.steps.iter().any(|s| s.resources.gpu > 0)) else {
            return Ok(None);
        };
        let used = self.store.gpu_used_ms(&run.repo_id, budget.since(now), now).await?;
        Ok(budget.warns(used))
    }

    /// Thinned curves of the metrics that the pipeline names, else of the primary one and the losses.
    async fn curves(&self, run: &RunRow, baseline: Option<&RunRow>) -> anyhow::Result<Vec<Curve>> {
        let mut names: Vec<String> = run.plan.report.plots.clone();
        if names.is_empty() {
            names.extend(run.plan.metrics.primary.clone());
            let last = self.store.last_metrics(&run.id).await?;
            let losses: BTreeSet<&str> = last
                .iter()
                .map(|m| m.point.name.as_str())
                .filter(|n| n.to_ascii_lowercase().contains("loss"))
                .collect();
            names.extend(losses.into_iter().map(str::to_owned));
            names.dedup();
        }
        let mut drawn = Vec::new();
        for name in names.into_iter().take(CURVES_TRIED) {
            let sample =
                async |run: &RunId| self.store.sample_metrics(run, Some(&name), CURVE_POINTS, POINTS).await;
            let (this, members) = curve(&sample(&run.id).await?, &run.plan);
            if this.len() < 3 {
                continue;
            }
            let baseline = match baseline {
                Some(b) => curve(&sample(&b.id).await?, &b.plan).0,
                None => Vec::new(),
            };
            drawn.push(Curve { name, members, this, baseline });
            if drawn.len() == CURVES {
                break;
            }
        }
        Ok(drawn)
    }

    async fn comparison(&self, row: &ComparisonRow) -> anyhow::Result<ComparisonView> {
        let baseline = match &row.baseline {
            Some(id) => self.store.run(id).await?.map(|run| BaselineView {
                run_url: self.run_url(&run.id),
                branch: run.branch,
                sha: run.head_sha,
            }),
            None => None,
        };
        let outcome: Option<Outcome> = match row.verdict {
            Some(_) => Some(
                serde_json::from_value(row.result.clone()).context("cannot read a comparison's result")?,
            ),
            None => None,
        };
        Ok(ComparisonView {
            state: row.state,
            verdict: row.verdict,
            note: row.baseline_note.clone(),
            baseline,
            outcome,
        })
    }

    async fn failed_step(&self, view: &RunView) -> anyhow::Result<Option<FailedStep>> {
        let bad = |s: StepState| matches!(s, StepState::Failed | StepState::Errored);
        let Some(step) = view.steps.iter().find(|s| bad(s.state)) else { return Ok(None) };
        let attempt = view.attempts.iter().filter(|a| a.step_id == step.id).max_by_key(|a| a.number);
        let reason = attempt
            .map(|a| a.reason.clone())
            .filter(|r| !r.is_empty())
            .unwrap_or_else(|| step.reason.clone());
        Ok(Some(FailedStep {
            name: step.name.clone(),
            class: attempt.and_then(|a| a.class),
            exit_code: attempt.and_then(|a| a.exit_code),
            reason,
            log_tail: match attempt {
                Some(attempt) => self.log_tail(view.telling_log(attempt)).await?,
                None => String::new(),
            },
            tests: self
                .store
                .metric_sources(&view.run.id)
                .await?
                .into_iter()
                .filter(|(name, source)| {
                    *name == step.name && source.kind == "junit" && !source.note.is_empty()
                })
                .map(|(_, source)| source.note)
                .collect(),
        }))
    }

    /// The last bytes of a log, from a line's start. A blob that retention took is an empty tail, not an error.
    async fn log_tail(&self, (of, bytes): (AttemptRank, i64)) -> anyhow::Result<String> {
        let from = (bytes - TAIL_BYTES).max(0);
        let mut text = Vec::new();
        for segment in self.store.log_segments(&of, from, 10_000).await? {
            let skip = (from - segment.start_byte).max(0);
            match self.blobs.get_range(&segment.blob_key, skip as u64..segment.bytes as u64).await {
                Ok(part) => text.extend_from_slice(&part),
                Err(BlobError::Missing(_)) => {}
                Err(error) => return Err(error).context("cannot read the end of a step's log"),
            }
        }
        let text = String::from_utf8_lossy(&text);
        let whole = if from > 0 { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
        Ok(whole.to_owned())
    }

    fn run_url(&self, run: &RunId) -> String {
        format!("{}/runs/{run}", self.public_url)
    }
}

/// The comparison that decides a status: a failure stands, whatever the others wait for; then one that waits, else the worst.
pub fn worst(rows: &[ComparisonRow]) -> Option<&ComparisonRow> {
    rows.iter()
        .min_by_key(|row| Reverse((row.verdict == Some(Verdict::Fail), row.verdict.is_none(), row.verdict)))
}

fn steps(view: &RunView, now: Millis) -> Vec<StepLine> {
    let line = |step: &crate::store::runs::StepRow| {
        let attempts: Vec<_> = view.attempts.iter().filter(|a| a.step_id == step.id).collect();
        StepLine {
            name: step.name.clone(),
            state: step.state,
            reason: step.reason.clone(),
            attempts: attempts.len(),
            duration_ms: step.ended_ms.zip(step.started_ms).map(|(end, start)| end - start),
            gpu_ms: attempts.iter().map(|a| a.gpu_ms(now)).sum(),
        }
    };
    view.steps.iter().map(line).collect()
}

fn costs(attempts: &[AttemptRow], pools: &BTreeMap<String, PoolConfig>, now: Millis) -> Vec<Cost> {
    let mut by_currency: BTreeMap<&str, f64> = BTreeMap::new();
    for attempt in attempts {
        if let Some(pool) = pools.get(&attempt.pool).filter(|p| p.gpu_hour_price > 0.0) {
            *by_currency.entry(&pool.currency).or_default() += pool.price(attempt.gpu_ms(now));
        }
    }
    by_currency
        .into_iter()
        .filter(|(_, amount)| *amount > 0.0)
        .map(|(currency, amount)| Cost { currency: currency.to_owned(), amount })
        .collect()
}

fn lacks_a_gated_metric(outcome: &Outcome) -> bool {
    outcome.metrics.iter().any(|m| m.gate.is_some() && m.candidate.is_none())
}

/// `train: metrics.json (json), passed over: it was there before the commands ran`.
fn looked_at(step: &str, source: &MetricSource) -> String {
    let came = if source.used { format!(", {} points", source.points) } else { ", passed over".to_owned() };
    let note = if source.note.is_empty() { String::new() } else { format!(": {}", source.note) };
    format!("{step}: {} ({}){came}{note}", source.place, source.kind)
}

/// One metric of the last base step in graph order that has a curve of it: at each training step that every member
/// reported, the mean over the members. Without training steps the order of arrival counts.
fn curve(metrics: &[StoredMetric], plan: &Plan) -> (Vec<(f64, f64)>, usize) {
    // By base step (with its last position), then member, then place on the x axis.
    type Members = BTreeMap<i64, BTreeMap<i64, f64>>;
    let mut by_base: BTreeMap<(i64, &str), Members> = BTreeMap::new();
    let last_position = |base: &str| plan.steps.iter().rposition(|s| s.base == base).unwrap_or(0) as i64;
    let stepped = metrics.iter().any(|m| m.point.step.is_some());
    for metric in metrics {
        let base = usize::try_from(metric.step_position).ok().and_then(|i| plan.steps.get(i));
        let base = base.map_or(metric.step_name.as_str(), |s| s.base.as_str());
        let member =
            by_base.entry((last_position(base), base)).or_default().entry(metric.step_position).or_default();
        let x = match (stepped, metric.point.step) {
            (true, Some(step)) => step,
            (true, None) => continue, // a final word has no place on this axis
            (false, _) => member.len() as i64 + 1,
        };
        member.insert(x, metric.point.value);
    }
    let Some(members) = by_base.into_values().rev().find(|members| members.values().any(|m| m.len() >= 3))
    else {
        return (Vec::new(), 0);
    };
    let count = members.len();
    let mut sums: BTreeMap<i64, (usize, f64)> = BTreeMap::new();
    for points in members.values() {
        for (x, value) in points {
            let entry = sums.entry(*x).or_default();
            entry.0 += 1;
            entry.1 += value;
        }
    }
    let common = sums.into_iter().filter(|(_, (n, _))| *n == count).map(|(x, (_, sum))| (x, sum));
    let mut points: Vec<(i64, f64)> = common.collect();
    if points.len() < 3 {
        // Members of different lengths are thinned to different places: between two of them a line is drawn.
        points = members
            .values()
            .next()
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter_map(|x| Some((*x, members.values().map(|m| between(m, *x)).sum::<Option<f64>>()?)))
            .collect();
    }
    let points = points.into_iter().filter(|(_, sum)| sum.is_finite());
    (points.map(|(x, sum)| (x as f64, sum / count as f64)).collect(), count)
}

/// The value at `x` on the line through the points around it; None outside of them.
fn between(points: &BTreeMap<i64, f64>, x: i64) -> Option<f64> {
    let (before, after) = (points.range(..=x).next_back()?, points.range(x..).next()?);
    let span = after.0 - before.0;
    let share = if span == 0 { 0.0 } else { (x - before.0) as f64 / span as f64 };
    Some(before.1 + share * (after.1 - before.1))
}
