use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;

use super::fresh_since;
use super::inputs::{self, InputsError};
use super::key::{self, Around};
use crate::clock::SharedClock;
use crate::config::{Config, PoolConfig};
use crate::forge::{ForgeError, Forges};
use crate::model::{DATA_DIGEST, RunId, StepSpec, StepState};
use crate::pipeline;
use crate::queue::{Handler, backoff};
use crate::store::Store;
use crate::store::pulls::RepoRow;
use crate::store::reuse::{Lookup, NO_KEY};
use crate::store::runs::RunView;
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};

/// A forge that does not answer so often costs the look-up, not the run.
const TRIES: i64 = 3;

/// Looks at the ready steps of one run.
#[derive(Debug)]
pub struct Looker {
    store: Store,
    forges: Arc<Forges>,
    clock: SharedClock,
    config: Arc<Config>,
}

/// Why a step's key is not known.
enum NoKey {
    /// Ask again.
    Later(String),
    Never(String),
}

impl Looker {
    pub fn new(store: Store, forges: Arc<Forges>, clock: SharedClock, config: Arc<Config>) -> Self {
        Self { store, forges, clock, config }
    }

    async fn parts(
        &self,
        view: &RunView,
        repo: &RepoRow,
        step: &StepSpec,
    ) -> anyhow::Result<Result<BTreeMap<String, String>, NoKey>> {
        let never = |why: String| Ok(Err(NoKey::Never(why)));
        let step = match pipeline::resolve_step(step, &view.run.variables) {
            Ok(step) => step,
            Err(why) => return never(why.to_string()),
        };
        let pools = self.config.pools();
        let Some((pool, PoolConfig { executor, .. })) = Config::pool_of(&pools, step.pool.as_deref()) else {
            return never("its pool is not configured".into());
        };
        let Some(forge) = self.forges.get(&repo.forge) else {
            return never(format!("the forge {} is not configured", repo.forge));
        };
        let found = inputs::of(forge.as_ref(), &repo.name, &view.run.head_sha, &step.reuse.inputs).await;
        let inputs = match found {
            Ok(inputs) => inputs,
            Err(InputsError::Forge(error @ (ForgeError::Transient { .. } | ForgeError::Limited { .. }))) => {
                return Ok(Err(NoKey::Later(error.to_string())));
            }
            Err(error) => return never(error.to_string()),
        };
        let mut rows = Vec::new();
        for (need, producer) in view.producers(&step) {
            let artifacts =
                self.store.artifacts_of_attempt(&producer).await.context("cannot read artifacts")?;
            let place = |path: &str| match &need.into {
                Some(dir) => format!("{}/{path}", dir.trim_end_matches('/')),
                None => path.to_owned(),
            };
            rows.extend(artifacts.into_iter().map(|row| (place(&row.path), row)));
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let artifacts = rows.iter().map(|(place, row)| (place.clone(), row)).collect();
        let spec = &view.run.plan.metrics;
        let metrics = format!("{:?} {:?} {:?}", spec.files, spec.patterns, spec.predictions);
        let data = view.run.variables.get(DATA_DIGEST).map(|digest| format!("{DATA_DIGEST}={digest}\n"));
        let data = data.as_deref().unwrap_or_default();
        let around = Around { inputs, artifacts, pool, executor, metrics, data };
        Ok(key::parts(&step, &around).map_err(NoKey::Never))
    }

    async fn look(&self, id: &RunId, tries: i64) -> anyhow::Result<WorkOutcome> {
        let Some(view) = self.store.run_view(id).await.context("cannot read the run")? else {
            return Ok(WorkOutcome::Done);
        };
        let repo = self.store.repo(&view.run.repo_id).await.context("cannot read the repository")?;
        let repo = repo.context("the run's repository has no row")?;
        for row in view.steps.iter().filter(|step| step.state == StepState::Ready) {
            let Some(spec) = view.run.plan.steps.get(row.position as usize).filter(|spec| spec.reuse.on)
            else {
                continue;
            };
            let known = self.store.step_reuse(&row.id).await.context("cannot read a step")?;
            if known.is_none_or(|known| known.key.is_some()) {
                continue;
            }
            let now = self.clock.now_ms();
            let (key, parts) = match self.parts(&view, &repo, spec).await? {
                Ok(parts) => (key::of(&parts), parts),
                Err(NoKey::Later(error)) if tries < TRIES => {
                    return Ok(WorkOutcome::Retry { at_ms: now + backoff(tries), error });
                }
                Err(NoKey::Later(why) | NoKey::Never(why)) => {
                    (NO_KEY.to_owned(), BTreeMap::from([("why".to_owned(), why)]))
                }
            };
            let from =
                self.store.equal_step(&repo.id, &key).await.context("cannot look for an equal step")?;
            let lookup = Lookup {
                run: view.run.id.clone(),
                step: row.id.clone(),
                key,
                parts,
                from,
                artifacts: !spec.artifacts.is_empty(),
                fresh_since: fresh_since(self.config.retention, now),
            };
            if self.store.settle_lookup(lookup, now).await.context("cannot note what a step depends on")? {
                tracing::info!(run.id = %view.run.id, step = row.name, "took an equal step's result over");
            }
        }
        Ok(WorkOutcome::Done)
    }
}

#[async_trait]
impl Handler for Looker {
    fn kind(&self) -> WorkKind {
        WorkKind::Reuse
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        self.look(&RunId::from_text(item.key.as_str()), item.tries).await
    }
}
