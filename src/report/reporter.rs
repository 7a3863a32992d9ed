//! The handler behind `report` work: tells the outbox what the forge should show.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;

use super::gather::{Gatherer, worst};
use super::view::{Section, View};
use super::{comment, status};
use crate::blob::Blobs;
use crate::clock::{Millis, SharedClock};
use crate::config::{Config, PoolConfig};
use crate::forge::{Forges, NotConfigured};
use crate::model::plan::CommentMode;
use crate::model::{RepoId, RunState, Sha};
use crate::queue::{Handler, UNCONFIGURED_TRIES};
use crate::store::Instance;
use crate::store::Store;
use crate::store::comparisons::ComparisonRow;
use crate::store::outbox::{Desire, OutboxKind};
use crate::store::pulls::{PullRow, RepoRow};
use crate::store::queue::{PATIENCE_MS, StartWait};
use crate::store::runs::RunRow;
use crate::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};

/// A first word goes out at once; further ones that are not final wait this long, since a newer one may replace them.
const COALESCE_MS: Millis = 5_000;

/// The only writer of what is desired for commits and pull requests.
pub struct Reporter {
    store: Store,
    forges: Arc<Forges>,
    blobs: Blobs,
    clock: SharedClock,
    config: Arc<Config>,
    instance: Arc<Instance>,
}

#[async_trait]
impl Handler for Reporter {
    fn kind(&self) -> WorkKind {
        WorkKind::Report
    }

    fn parks_after(&self, error: &anyhow::Error) -> Option<i64> {
        error.is::<NotConfigured>().then_some(UNCONFIGURED_TRIES)
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        let (repo, sha) = match subject(&item.key) {
            Some(Subject::Commit(repo, sha)) => (repo, sha),
            Some(Subject::Pull(repo, number)) => return self.pass_on(&repo, number).await,
            None => return Ok(WorkOutcome::Done),
        };
        let Some(repo) = self.store.repo(&repo).await.context("cannot read the repository to report to")?
        else {
            return Ok(WorkOutcome::Done);
        };
        let again = self
            .report(&repo, &sha)
            .await
            .with_context(|| format!("cannot report on {} {}", repo.name, sha.short()))?;
        Ok(again.map_or(WorkOutcome::Done, |at_ms| WorkOutcome::Again { at_ms }))
    }
}

/// A run of the commit, with what is said of it.
struct Reported {
    run: RunRow,
    comparisons: Vec<ComparisonRow>,
    waits: Option<String>,
}

impl Reporter {
    pub fn new(
        store: Store,
        forges: Arc<Forges>,
        blobs: Blobs,
        clock: SharedClock,
        config: Arc<Config>,
        instance: Arc<Instance>,
    ) -> Self {
        Self { store, forges, blobs, clock, config, instance }
    }

    /// A pull request is reported on with its head commit, under that commit's key alone: two looks at one commit at the same
    /// time could put the older one's words over the newer one's.
    async fn pass_on(&self, repo: &RepoId, number: i64) -> anyhow::Result<WorkOutcome> {
        let pull =
            self.store.pull(repo, number).await.context("cannot read the pull request to report on")?;
        if let Some(pull) = pull {
            let now = self.clock.now_ms();
            let ask = WorkAsk::report_commit(repo, &pull.pull.head_sha, now);
            self.store
                .ask(vec![ask], now)
                .await
                .context("cannot ask for the report on a pull request's head")?;
        }
        Ok(WorkOutcome::Done)
    }

    /// Returns when to look again, if time alone may change what is to be said.
    async fn report(&self, repo: &RepoRow, sha: &Sha) -> anyhow::Result<Option<Millis>> {
        let runs = self.store.head_runs(&repo.id, sha).await?;
        if runs.is_empty() {
            return Ok(None);
        }
        let mut again: Option<Millis> = None;
        let pulls = self.store.open_pulls_with_head(&repo.id, sha).await?;
        let forge = self.forges.require(&repo.forge)?;
        let limits = forge.capabilities();
        let pools = self.config.pools();
        let gatherer = Gatherer {
            store: &self.store,
            blobs: &self.blobs,
            forge: forge.as_ref(),
            repo,
            public_url: self.config.public_url.trim_end_matches('/'),
            pools: &pools,
            budget: self.config.repository(&repo.forge, repo.name.as_str()).and_then(|r| r.budget),
        };
        let mut reported: Vec<Reported> = Vec::new();
        for run in runs {
            let comparisons = self.comparisons(&run, &pulls).await?;
            let wait = self.wait(&run, &pools).await?;
            let told = |wait: &StartWait| wait.since_ms + PATIENCE_MS;
            let now = self.clock.now_ms();
            again = again.into_iter().chain(wait.as_ref().map(told).filter(|at| *at > now)).min();
            let waits = wait.filter(|wait| told(wait) <= now).map(|wait| wait.why);
            let section = gatherer.brief(&run, worst(&comparisons), waits.as_deref()).await?;
            self.desire_status(repo, sha, &section, limits.status_description).await?;
            reported.push(Reported { run, comparisons, waits });
        }
        for pull in &pulls {
            self.desire_comment(repo, pull, &reported, &gatherer).await?;
        }
        Ok(again)
    }

    /// Waits for a node or an image pass soon, and a word on each would cost the forge more than it tells: a queue's alone count.
    async fn wait(
        &self,
        run: &RunRow,
        pools: &BTreeMap<String, PoolConfig>,
    ) -> anyhow::Result<Option<StartWait>> {
        if run.state != RunState::Running {
            return Ok(None);
        }
        let wait = self.store.run_waits(&run.id).await?;
        Ok(wait.filter(|wait| pools.get(&wait.pool).is_some_and(|pool| pool.kubernetes.queue.is_some())))
    }

    /// The comparisons that count now: of the open pull requests, else of the branch. When one of a run that succeeded is
    /// missing (a pull request was opened just now), it is asked for, and its end asks for this report again.
    async fn comparisons(&self, run: &RunRow, pulls: &[PullRow]) -> anyhow::Result<Vec<ComparisonRow>> {
        if !run.state.is_terminal() {
            return Ok(Vec::new());
        }
        let mut rows = self.store.comparisons_of(&run.id).await?;
        let wanted: Vec<String> = if pulls.is_empty() {
            vec![format!("branch:{}", run.branch)]
        } else {
            pulls.iter().map(|p| format!("pr:{}", p.pull.number)).collect()
        };
        rows.retain(|row| wanted.contains(&row.target));
        if run.state == RunState::Succeeded && rows.len() < wanted.len() {
            let now = self.clock.now_ms();
            self.store.ask(vec![WorkAsk::compare(&run.id, now)], now).await?;
        }
        Ok(rows)
    }

    async fn desire_status(
        &self,
        repo: &RepoRow,
        sha: &Sha,
        section: &Section,
        limit: usize,
    ) -> anyhow::Result<()> {
        let Some(status) = status::status(section, limit) else { return Ok(()) };
        let target = status::target(sha, &section.pipeline);
        let desired = serde_json::to_value(&status).context("cannot write the status as JSON")?;
        self.desire(repo, OutboxKind::Status, target, desired, section.is_final()).await
    }

    /// The first comment is written when there is something to say; after that it follows every push.
    async fn desire_comment(
        &self,
        repo: &RepoRow,
        pull: &PullRow,
        reported: &[Reported],
        gatherer: &Gatherer<'_>,
    ) -> anyhow::Result<()> {
        let target = format!("pr:{}", pull.pull.number);
        let mut sections = Vec::new();
        for one in reported.iter().filter(|one| one.run.plan.report.comment == CommentMode::Update) {
            let comparison = one.comparisons.iter().find(|c| c.target == target);
            sections.push(gatherer.full(&one.run, comparison, one.waits.as_deref()).await?);
        }
        let number = pull.pull.number.to_string();
        let telling = sections.iter().any(|s| {
            (s.is_final() && s.state != RunState::Skipped) || s.state == RunState::Held || s.waits.is_some()
        });
        let posted = self.store.outbox_row(&repo.id, OutboxKind::Comment, &number).await?.is_some();
        if sections.is_empty() || !(telling || posted) {
            return Ok(());
        }
        sections.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
        let last = sections.iter().all(Section::is_final);
        // Between reading and here the head may have moved: then the newer commit's report speaks for the pull request.
        let head = self.store.pull(&repo.id, pull.pull.number).await?.map(|p| p.pull.head_sha);
        if head.as_ref() != Some(&pull.pull.head_sha) {
            return Ok(());
        }
        let view = View { marker: marker(&self.instance, repo, pull.pull.number), sections };
        let desired = serde_json::json!({ "body": comment::render(&view, gatherer.forge.capabilities().comment_bytes) });
        self.desire(repo, OutboxKind::Comment, number, desired, last).await
    }

    async fn desire(
        &self,
        repo: &RepoRow,
        kind: OutboxKind,
        target: String,
        desired: serde_json::Value,
        last: bool,
    ) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        let known = self.store.outbox_row(&repo.id, kind, &target).await?;
        // Nobody else writes what is desired.
        if known.as_ref().is_some_and(|row| row.desired == desired) {
            return Ok(());
        }
        let first = known.is_none_or(|row| row.writes == 0);
        let desire = Desire {
            credential: repo.forge.clone(),
            repo_id: repo.id.clone(),
            kind,
            target,
            desired,
            last,
            not_before_ms: if last || first { now } else { now + COALESCE_MS },
        };
        crate::failpoint::hit("report.desire.before");
        self.store.desire(desire, now).await.context("cannot store what the forge should show")?;
        Ok(())
    }
}

/// What the key of a report names.
enum Subject {
    Commit(RepoId, Sha),
    Pull(RepoId, i64),
}

fn subject(key: &str) -> Option<Subject> {
    if let Some((repo, sha)) = key.split_once('/') {
        return Some(Subject::Commit(RepoId::from_text(repo), Sha::parse(sha).ok()?));
    }
    let (repo, number) = key.split_once('#')?;
    Some(Subject::Pull(RepoId::from_text(repo), number.parse().ok()?))
}

/// The first line of a pull request's comment. Nobody without the installation's key can write it.
pub fn marker(instance: &Instance, repo: &RepoRow, number: i64) -> String {
    let number = number.to_string();
    let mac = instance.derive("report-marker", &[&repo.forge, &repo.forge_id, &number]);
    format!("<!-- trainyard:report pr={number} mac={} -->", hex::encode(&mac[..16]))
}
