//! The handler behind `compare` work: makes a run's comparisons what they should be now.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::baseline::{Choice, ChooseError, Chooser, Chosen};
use super::compare::{RULES, compare};
use super::examples::Sheets;
use super::summary::{Summary, summarise};
use crate::agent::sheet::{self, Sheet};
use crate::blob::{BlobError, Blobs};
use crate::clock::{Millis, SharedClock};
use crate::config::Config;
use crate::forge::{ForgeError, Forges, NotConfigured};
use crate::model::plan::Baseline;
use crate::model::{ComparisonId, ComparisonState, Outcome, RunId, RunState, Verdict, spell_span};
use crate::queue::{Handler, UNCONFIGURED_TRIES};
use crate::store::Store;
use crate::store::comparisons::ComparisonRow;
use crate::store::pulls::PullRow;
use crate::store::runs::RunRow;
use crate::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};

/// Memory for the sheets of predictions of one run; beyond it they are passed over, all of them, whoever left them.
const MOST_SHEETS: usize = 256 << 20;

/// Looks at one run: as the candidate of its own comparisons, and, once it has ended, as the baseline of others.
#[derive(Debug)]
pub struct Comparer {
    store: Store,
    forges: Arc<Forges>,
    clock: SharedClock,
    config: Arc<Config>,
    blobs: Blobs,
}

#[async_trait]
impl Handler for Comparer {
    fn kind(&self) -> WorkKind {
        WorkKind::Compare
    }

    fn parks_after(&self, error: &anyhow::Error) -> Option<i64> {
        error.is::<NotConfigured>().then_some(UNCONFIGURED_TRIES)
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        let id = RunId::from_text(&item.key);
        let Some(run) = self.store.run(&id).await.context("cannot read the run to compare")? else {
            return Ok(WorkOutcome::Done);
        };
        if !run.state.is_terminal() {
            return Ok(WorkOutcome::Done); // its end asks again
        }
        self.wake_candidates(&run).await.context("cannot ask for the runs that are held against this one")?;
        match self.as_candidate(&run).await {
            Ok(None) => Ok(WorkOutcome::Done),
            Ok(Some(at_ms)) => Ok(WorkOutcome::Again { at_ms }),
            Err(error) => match error.downcast_ref::<ForgeError>() {
                Some(ForgeError::Limited { wait_ms, .. }) => {
                    Ok(WorkOutcome::Again { at_ms: self.clock.now_ms() + wait_ms })
                }
                _ => Err(error.context(format!("cannot compare run {id}"))),
            },
        }
    }
}

impl Comparer {
    pub fn new(
        store: Store,
        forges: Arc<Forges>,
        clock: SharedClock,
        config: Arc<Config>,
        blobs: Blobs,
    ) -> Self {
        Self { store, forges, clock, config, blobs }
    }

    /// The sheets of predictions that a run left, of the last step in graph order that did. What cannot be read is passed over with a
    /// line in the log: the metrics stand without it.
    async fn sheets(&self, run: &RunRow) -> anyhow::Result<Sheets> {
        let (mut out, mut held) = (Sheets::default(), 0);
        if run.plan.metrics.predictions.is_none() {
            return Ok(out);
        }
        let Some(view) = self.store.run_view(&run.id).await? else { return Ok(out) };
        let artifacts = self.store.run_artifacts(&run.id).await?;
        for artifact in artifacts.iter().filter(|a| a.path == sheet::PATH && a.bytes <= sheet::MAX_PACKED) {
            let attempt = view.attempts.iter().find(|a| a.uid == artifact.attempt_uid);
            let step = attempt.and_then(|a| view.steps.iter().find(|s| s.id == a.step_id));
            let Some(spec) = step.and_then(|s| run.plan.step(&s.name)) else { continue };
            let bytes = match self.blobs.get(&artifact.blob_key).await {
                Ok(bytes) => bytes,
                // Deleted meanwhile, or not part of a restored backup: asking again is no use.
                Err(BlobError::Missing(_)) => {
                    tracing::warn!(run.id = %run.id, step = spec.name, "a sheet of predictions is gone");
                    continue;
                }
                Err(error) => return Err(error).context("cannot read a sheet of predictions"),
            };
            let decoded = tokio::task::spawn_blocking(move || Sheet::decode(&bytes)).await?;
            match decoded {
                Ok(sheet) => {
                    if out.step != spec.base {
                        (out, held) = (Sheets { step: spec.base.clone(), members: Vec::new() }, 0);
                    }
                    held += sheet.bytes();
                    if held > MOST_SHEETS {
                        tracing::warn!(run.id = %run.id, step = spec.base, "its sheets of predictions are too large together and are passed over");
                        out.members.clear();
                    } else {
                        out.members.push((spec.name.clone(), sheet));
                    }
                }
                Err(why) => {
                    tracing::warn!(run.id = %run.id, step = spec.name, why, "a sheet of predictions is passed over");
                }
            }
        }
        Ok(out)
    }

    /// Returns when to look again for a baseline that is waited for.
    async fn as_candidate(&self, run: &RunRow) -> anyhow::Result<Option<Millis>> {
        let now = self.clock.now_ms();
        let newest = self.store.head_run(&run.repo_id, &run.pipeline, &run.head_sha).await?;
        let counts = run.state == RunState::Succeeded && newest.is_some_and(|n| n.id == run.id);
        if !counts {
            self.supersede(run, &[]).await?;
            return Ok(None);
        }
        let repo = self.store.repo(&run.repo_id).await?.context("the run's repository has no row")?;
        let pulls = self.store.open_pulls_with_head(&run.repo_id, &run.head_sha).await?;
        let targets: Vec<(String, Option<&PullRow>)> = if pulls.is_empty() {
            vec![(format!("branch:{}", run.branch), None)]
        } else {
            pulls.iter().map(|p| (format!("pr:{}", p.pull.number), Some(p))).collect()
        };
        let keep: Vec<String> = targets.iter().map(|(target, _)| target.clone()).collect();
        self.supersede(run, &keep).await?;

        let live = self.store.comparisons_of(&run.id).await?;
        let forge = self.forges.require(&repo.forge)?;
        let chooser = Chooser { store: &self.store, forge: forge.as_ref(), repo: &repo, candidate: run };
        let digest = gates_digest(run);
        // Loaded when something is to be judged: predictions may be large.
        let own = tokio::sync::OnceCell::new();
        let mut again: Option<Millis> = None;
        for (target, pull) in targets {
            let chosen = match chooser.choose(pull).await {
                Ok(chosen) => chosen,
                Err(ChooseError::Store(error)) => return Err(error.into()),
                Err(ChooseError::Forge(error)) => return Err(error.into()),
            };
            let before = live.iter().find(|row| row.target == target);
            let row = if let Some(row) = before.filter(|row| stands(row, &chosen.choice, &digest)) {
                ComparisonRow { nearer: chosen.nearer, ..row.clone() }
            } else {
                let own = own.get_or_try_init(|| self.measured(run)).await?;
                self.judge(run, own, target, chosen, before, now).await?
            };
            if row.state == ComparisonState::Pending {
                again = Some(again.map_or(row.wait_until_ms, |at| at.min(row.wait_until_ms)));
            }
            crate::failpoint::hit("compare.write.before");
            self.store.put_comparison(row, vec![report_ask(run, now)], now).await?;
        }
        Ok(again)
    }

    async fn measured(&self, run: &RunRow) -> anyhow::Result<Measured> {
        let metrics = self.store.last_metrics(&run.id).await?;
        let params = self.store.run_params(&run.id).await?;
        let sheets = Arc::new(self.sheets(run).await?);
        Ok(Measured {
            summary: summarise(&metrics, &run.plan).tested_on(&params).predicted_on(&sheets),
            sheets,
        })
    }

    async fn judge(
        &self,
        run: &RunRow,
        own: &Measured,
        target: String,
        Chosen { choice, nearer }: Chosen,
        before: Option<&ComparisonRow>,
        now: Millis,
    ) -> anyhow::Result<ComparisonRow> {
        let spec = &run.plan.metrics;
        let digest = gates_digest(run);
        let alone = || compare(&own.summary, None, &spec.gates, spec.primary.as_deref());
        let wanted = match &choice {
            Choice::Use { run, .. } | Choice::Wait { run, .. } => Some(run.clone()),
            Choice::None { .. } => None,
        };
        // Waiting counts from when this baseline was first chosen, however often we look.
        let same = before.filter(|row| row.baseline == wanted && row.gates_digest == digest);
        let created_ms = same.map_or(now, |row| row.created_ms);
        let wait_until_ms =
            same.map_or(created_ms + self.config.limits.baseline_timeout_s * 1000, |row| row.wait_until_ms);

        let (state, outcome, note): (_, Option<Outcome>, String) = match choice {
            Choice::Use { run: baseline, note } => {
                let row = self.store.run(&baseline).await?.context("the baseline has no row")?;
                let Measured { summary: base, sheets: theirs } = self.measured(&row).await?;
                let (mine, ours) = (own.summary.clone(), Arc::clone(&own.sheets));
                let (gates, primary) = (spec.gates.clone(), spec.primary.clone());
                // Thousands of draws over every example: not for the threads that serve.
                let outcome = tokio::task::spawn_blocking(move || {
                    let mine = mine.with_examples(&ours, &theirs);
                    compare(&mine, Some(&base), &gates, primary.as_deref())
                })
                .await?;
                (ComparisonState::Final, Some(outcome), note)
            }
            // Without the baseline's state: it would change the status without saying anything new.
            Choice::Wait { note, .. } if now < wait_until_ms => (ComparisonState::Pending, None, note),
            Choice::Wait { note, state, .. } => {
                let limit_s = self.config.limits.baseline_timeout_s;
                let note =
                    format!("no baseline: {note}, was still {state} after {}", spell_span(limit_s * 1000));
                (ComparisonState::Final, Some(alone()), note)
            }
            Choice::None { note } => (ComparisonState::Final, Some(alone()), note),
        };
        let outcome = outcome.map(|outcome| outcome.beside(&spec.benchmarks));
        let verdict: Option<Verdict> = outcome.as_ref().map(|o| o.verdict);
        Ok(ComparisonRow {
            id: same.map_or_else(|| ComparisonId::generate(now), |row| row.id.clone()),
            candidate: run.id.clone(),
            baseline: wanted,
            baseline_note: note,
            nearer,
            target,
            gates_digest: digest,
            rules: RULES.to_owned(),
            state,
            verdict,
            result: match outcome {
                Some(outcome) => serde_json::to_value(outcome).context("cannot write the outcome as JSON")?,
                None => serde_json::json!({}),
            },
            created_ms,
            wait_until_ms,
            updated_ms: now,
        })
    }

    /// Comparisons rest on the commits they were held against: when a run of one of those ends, they are made again. So are those
    /// of pull requests that are compared with this run's branch, which may have had to do without it.
    async fn wake_candidates(&self, ended: &RunRow) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        let mut candidates = self.store.candidates_on(ended).await?;
        // Only a good run can be a nearer baseline than the one that was found.
        if ended.trusted && ended.state == RunState::Succeeded {
            for pull in self.store.open_pulls_onto(&ended.repo_id, &ended.branch).await? {
                let run = self.store.head_run(&ended.repo_id, &ended.pipeline, &pull.pull.head_sha).await?;
                candidates.extend(run.map(|r| r.id));
            }
            let named = Baseline::Branch(ended.branch.clone());
            for id in self.store.candidates_on_branches(&ended.repo_id, &ended.pipeline).await? {
                let run = self.store.run(&id).await?;
                candidates.extend(run.filter(|run| run.plan.metrics.baseline == named).map(|run| run.id));
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let mut asks = Vec::new();
        for candidate in candidates.into_iter().filter(|c| *c != ended.id) {
            // Each look costs calls to the forge, and there may be hundreds of open pull requests: only those that rest on it and wait,
            // whatever another daemon's clock said, or for which its commit counts. Where any run may count, those last judged before it
            // ended, so that two branches that are each other's base never wake each other for ever.
            let rows = self.store.comparisons_of(&candidate).await?;
            let ended_ms = ended.ended_ms.unwrap_or(ended.created_ms);
            let concerns = |row: &ComparisonRow| match &row.nearer {
                _ if row.baseline.as_ref() == Some(&ended.id) => {
                    row.state == ComparisonState::Pending || row.updated_ms <= ended_ms
                }
                Some(commits) => commits.contains(&ended.head_sha),
                None => row.updated_ms <= ended_ms,
            };
            if rows.iter().any(concerns) {
                asks.push(WorkAsk::compare(&candidate, now));
            }
        }
        if !asks.is_empty() {
            self.store.ask(asks, now).await?;
        }
        Ok(())
    }

    async fn supersede(&self, run: &RunRow, keep: &[String]) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        self.store.supersede_comparisons(&run.id, keep, vec![report_ask(run, now)], now).await?;
        Ok(())
    }
}

/// What a run measured, as it is judged.
struct Measured {
    summary: Summary,
    sheets: Arc<Sheets>,
}

/// Does a judgement hold, now that this baseline was chosen? Runs that ended do not change, but what they left may be deleted: what
/// was judged with their predictions stays so. The note tells a baseline from one that was waited for in vain.
fn stands(row: &ComparisonRow, choice: &Choice, gates_digest: &str) -> bool {
    let (baseline, note) = match choice {
        Choice::Use { run, note } => (Some(run), note),
        Choice::None { note } => (None, note),
        Choice::Wait { .. } => return false,
    };
    row.state == ComparisonState::Final
        && row.rules == RULES
        && row.gates_digest == gates_digest
        && row.baseline.as_ref() == baseline
        && row.baseline_note == *note
}

fn report_ask(run: &RunRow, now: Millis) -> WorkAsk {
    WorkAsk::report_commit(&run.repo_id, &run.head_sha, now)
}

/// Changes when the gates, the primary metric or the kind of baseline do.
fn gates_digest(run: &RunRow) -> String {
    let spec = &run.plan.metrics;
    let text = format!("{:?}|{:?}|{:?}", spec.gates, spec.primary, spec.baseline);
    hex::encode(Sha256::digest(text.as_bytes()))
}
