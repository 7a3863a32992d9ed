//! Watches the demo's runs in the store and says what changes, one line each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::model::{RunId, RunState, Sha, StepState};
use crate::report::status;
use crate::results::summarise;
use crate::store::Store;
use crate::store::lists::RunFilter;
use crate::store::outbox::{OutboxKind, OutboxState};

const LOOK_EVERY: Duration = Duration::from_millis(150);

/// One line of progress, with the seconds since the start.
pub fn say(started: Instant, text: &str) {
    println!("{:5.1} s  {text}", started.elapsed().as_secs_f64());
}

pub struct Watch {
    store: Store,
    started: Instant,
    seen: BTreeMap<String, String>,
    /// Commits whose run should fail.
    bad: BTreeSet<Sha>,
}

impl Watch {
    pub fn new(store: Store, started: Instant) -> Self {
        Self { store, started, seen: BTreeMap::new(), bad: BTreeSet::new() }
    }

    /// The run of this commit should fail; any other that does ends the demo.
    pub fn expect_failure(&mut self, sha: Sha) {
        self.bad.insert(sha);
    }

    /// States of a commit's steps, by name.
    pub async fn steps(&self, sha: &Sha) -> anyhow::Result<BTreeMap<String, StepState>> {
        let runs = self.store.list_runs(RunFilter::default(), None, 20).await?;
        let run = runs.iter().find(|r| r.run.head_sha == *sha).context("a run vanished")?;
        let view = self.store.run_view(&run.run.id).await?.context("a run vanished")?;
        Ok(view.steps.into_iter().map(|s| (s.name, s.state)).collect())
    }

    pub async fn until_runs(&mut self, count: usize, patience: Duration) -> anyhow::Result<()> {
        self.until("waiting for a run", patience, |runs| runs.len() >= count).await
    }

    pub async fn until_ended(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.until("waiting for the trainings", patience, |runs| runs.iter().all(|(_, ended)| *ended)).await
    }

    /// Until the forge was told each run's last word and the comment of the pull request.
    pub async fn until_told(&mut self, pull: i64, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let mut rows = Vec::new();
            for item in self.store.list_runs(RunFilter::default(), None, 20).await? {
                let run = item.run;
                let status = status::target(&run.head_sha, &run.pipeline);
                rows.push(self.store.outbox_row(&run.repo_id, OutboxKind::Status, &status).await?);
                if run.branch == super::project::BRANCH {
                    rows.push(
                        self.store.outbox_row(&run.repo_id, OutboxKind::Comment, &pull.to_string()).await?,
                    );
                }
            }
            if let Some(dead) = rows.iter().flatten().find(|row| row.state == OutboxState::Dead) {
                anyhow::bail!("the forge refused a {}: {}", dead.kind, dead.last_error);
            }
            if rows.iter().all(|row| row.as_ref().is_some_and(|r| r.last && r.state == OutboxState::Sent)) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the forge was not told everything within {} s",
                patience.as_secs()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn until(
        &mut self,
        what: &str,
        patience: Duration,
        enough: impl Fn(&[(RunId, bool)]) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let runs = self.look().await?;
            if enough(&runs) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{what} took longer than {} s", patience.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Says what changed since the last look. An ended run that did not succeed ends the demo.
    async fn look(&mut self) -> anyhow::Result<Vec<(RunId, bool)>> {
        let mut out = Vec::new();
        for item in self.store.list_runs(RunFilter::default(), None, 20).await?.into_iter().rev() {
            let view = self.store.run_view(&item.run.id).await?.context("a run vanished")?;
            let run = &view.run;
            for step in &view.steps {
                if matches!(step.state, StepState::Waiting | StepState::Ready) {
                    continue;
                }
                let took = match (step.started_ms, step.ended_ms) {
                    (Some(from), Some(to)) => format!(" after {:.1} s", (to - from) as f64 / 1000.0),
                    _ => String::new(),
                };
                self.change(
                    step.id.as_str(),
                    &format!("  {}: {} {}{took}", run.branch, step.name, step.state),
                );
            }
            self.change(run.id.as_str(), &format!("{}: run {} {}", run.branch, run.pipeline, run.state));
            if run.state.is_terminal() {
                let wanted =
                    if self.bad.contains(&run.head_sha) { RunState::Failed } else { RunState::Succeeded };
                anyhow::ensure!(
                    run.state == wanted,
                    "the run of {} ended as {}: {}",
                    run.branch,
                    run.state,
                    run.reason
                );
            }
            out.push((run.id.clone(), run.state.is_terminal()));
        }
        Ok(out)
    }

    fn change(&mut self, key: &str, text: &str) {
        if self.seen.get(key).is_none_or(|before| before != text) {
            say(self.started, text);
            self.seen.insert(key.to_owned(), text.to_owned());
        }
    }

    /// Mean of the last `accuracy` of each seed, at both commits.
    pub async fn accuracies(&self, base: &Sha, head: &Sha) -> anyhow::Result<(f64, f64)> {
        let mut means = Vec::new();
        for sha in [base, head] {
            let runs = self.store.list_runs(RunFilter::default(), None, 20).await?;
            let run = runs.iter().find(|r| r.run.head_sha == *sha).context("a run vanished")?;
            let points = self.store.last_metrics(&run.run.id).await?;
            let summary = summarise(&points, &run.run.plan);
            let accuracy = summary.get("accuracy").context("no accuracy was reported")?;
            let seeds = accuracy.values.len();
            anyhow::ensure!(seeds == 3, "{seeds} seeds reported an accuracy instead of 3");
            means.push(accuracy.value());
        }
        Ok((means[0], means[1]))
    }
}
