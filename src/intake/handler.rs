use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use async_trait::async_trait;

use super::facts::Facts;
use super::gather::{self, GatherError, Heads};
use super::plan::{IntakePlan, plan};
use super::watch::DATA_HOOK;
use crate::clock::SharedClock;
use crate::config::{Config, ForgeKind, HookConfig};
use crate::failpoint;
use crate::forge::webhook;
use crate::forge::{Forge, ForgeError, Forges};
use crate::model::{DeliveryRowId, DeliveryState, Event, EventKind, Parsed, RepoId, RunId};
use crate::queue::{Handler, backoff};
use crate::store::deliveries::DeliveryRow;
use crate::store::work::{WorkItem, WorkKind, WorkOutcome};
use crate::store::{Store, StoreError};

/// A commit that was pushed a moment ago may not be readable everywhere at the forge yet: so many answers that something is
/// not there are taken for a replica that is behind.
const MISSES_FORGIVEN: i64 = 3;

/// How often a decision is made again because other replicas decided about the same repository meanwhile.
const MOST_ROUNDS: usize = 20;

/// Decides stored deliveries, each exactly once (G3).
#[derive(Debug)]
pub struct Intake {
    store: Store,
    clock: SharedClock,
    config: Arc<Config>,
    forges: Forges,
    heads: Heads,
    /// One decision at a time per repository: what a decision reads of the store must still hold when it is committed.
    deciding: Mutex<HashMap<RepoKey, Arc<tokio::sync::Mutex<()>>>>,
    /// How often the forge did not have what a waiting delivery is about. Other waits do not count, or the first such answer
    /// after an outage would drop a push. Lost with the process, which then asks a little longer.
    missing: Mutex<HashMap<DeliveryRowId, i64>>,
}

/// A repository by its forge and its id there.
type RepoKey = (String, String);

/// What a delivery says, as far as it needs no forge.
#[expect(clippy::large_enum_variant, reason = "one at a time, moved once")]
enum Said {
    Event(Box<Event>),
    Decided(IntakePlan),
}

/// Why there is no decision yet.
enum Trouble {
    /// Outside of us; it passes.
    Later {
        /// What the forge asks for; else the usual back-off.
        wait_ms: Option<i64>,
        error: String,
    },
    /// The forge does not have it, or not yet.
    Missing {
        /// The repository that is concerned, if one is known.
        repo: RepoId,
        error: String,
    },
    Failed(anyhow::Error),
}

impl Intake {
    pub fn new(store: Store, clock: SharedClock, config: Arc<Config>, forges: Forges) -> Self {
        Self {
            store,
            clock,
            config,
            forges,
            heads: Heads::default(),
            deciding: Mutex::default(),
            missing: Mutex::default(),
        }
    }

    /// The plan that a delivery would lead to now, and its event. Writes nothing.
    ///
    /// # Errors
    /// The body is gone (retention), or store or forge cannot be asked.
    pub async fn preview(&self, delivery: &DeliveryRow) -> anyhow::Result<(Option<Event>, IntakePlan)> {
        let event = match self.said(delivery).await? {
            Said::Decided(plan) => return Ok((None, plan)),
            Said::Event(event) => *event,
        };
        match self.mistaken(&delivery.forge, &event).await {
            Ok(None) => {}
            Ok(Some(plan)) => return Ok((Some(event), plan)),
            Err(Trouble::Missing { error, .. }) => return Ok((Some(event), not_there(&error))),
            Err(Trouble::Later { error, .. }) => anyhow::bail!("cannot ask the forge: {error}"),
            Err(Trouble::Failed(error)) => return Err(error),
        }
        let repo_id = self
            .store
            .repo_by_forge_id(&delivery.forge, &event.repo.forge_id)
            .await
            .context("cannot read the repository")?
            .map_or_else(|| RepoId::generate(self.clock.now_ms()), |row| row.id);
        let decided = match self.facts(delivery, &event, repo_id).await {
            Ok(Ok((facts, _))) => plan(&event, &facts),
            Ok(Err(plan)) => plan,
            Err(Trouble::Missing { error, .. }) => not_there(&error),
            Err(Trouble::Later { error, .. }) => anyhow::bail!("cannot ask the forge: {error}"),
            Err(Trouble::Failed(error)) => return Err(error),
        };
        Ok((Some(event), decided))
    }

    async fn decide(&self, delivery: &DeliveryRow) -> Result<(), Trouble> {
        let now = self.clock.now_ms();
        let event = match self.said(delivery).await.map_err(Trouble::Failed)? {
            Said::Decided(plan) => {
                // No repository is concerned.
                let nowhere = RepoId::from_text("");
                return self.commit(delivery, &nowhere, None, plan).await.map(|_| ());
            }
            Said::Event(event) => *event,
        };
        if let Some(plan) = self.mistaken(&delivery.forge, &event).await? {
            return self.commit(delivery, &RepoId::from_text(""), None, plan).await.map(|_| ());
        }
        let repo_id = self
            .store
            .upsert_repo(&delivery.forge, &event.repo, now)
            .await
            .map_err(failed("cannot note the repository"))?;
        for _ in 0..MOST_ROUNDS {
            let done = match self.facts(delivery, &event, repo_id.clone()).await? {
                Err(plan) => self.commit(delivery, &repo_id, None, plan).await?,
                Ok((facts, _guard)) => {
                    let plan = plan(&event, &facts);
                    self.commit(delivery, &repo_id, Some(facts.decisions), plan).await?
                }
            };
            if done {
                return Ok(());
            }
        }
        let error = "other replicas keep deciding about this repository".to_owned();
        Err(Trouble::Later { wait_ms: Some(1000), error })
    }

    /// False: another replica's decision about the repository came first, decide again.
    async fn commit(
        &self,
        delivery: &DeliveryRow,
        repo_id: &RepoId,
        decided_on: Option<i64>,
        plan: IntakePlan,
    ) -> Result<bool, Trouble> {
        let now = self.clock.now_ms();
        let (decision, runs) = (plan.reason.clone(), plan.runs.len());
        let mut commit = plan.commit(delivery.id.clone(), repo_id, now, || RunId::generate(now));
        commit.decided_on = decided_on.map(|decisions| (repo_id.clone(), decisions));
        failpoint::hit("intake.commit.before");
        let made =
            self.store.commit_intake(commit, now).await.map_err(failed("cannot commit the decision"))?;
        failpoint::hit("intake.commit.after");
        if made.is_some() {
            tracing::info!(delivery.id = %delivery.id, forge.delivery_id = delivery.delivery_id, decision, runs, "decided a delivery");
        }
        Ok(made.is_some())
    }

    /// Parses a delivery and holds it against its hook's binding.
    async fn said(&self, delivery: &DeliveryRow) -> anyhow::Result<Said> {
        let decided = |plan| Ok(Said::Decided(plan));
        let hook = self.hook(delivery);
        if hook.is_none() && delivery.hook_id != DATA_HOOK {
            return decided(IntakePlan::ignored(format!(
                "hook `{}` is not configured any more",
                delivery.hook_id
            )));
        }
        let body = self.store.delivery_body(&delivery.id).await.context("cannot read the delivery's body")?;
        let Some(body) = body else {
            return decided(IntakePlan::ignored(
                "its body is older than the configured retention and was deleted",
            ));
        };
        let Some(hook) = hook else {
            let event: Event =
                serde_json::from_slice(&body).context("cannot read our own note of new data")?;
            return Ok(Said::Event(Box::new(event)));
        };
        let kind = self.config.forge.get(&delivery.forge).map_or(ForgeKind::Github, |forge| forge.kind);
        match webhook::read(kind, &delivery.event, &delivery.content_type, &body) {
            Parsed::Ignored { reason } => decided(IntakePlan::ignored(reason)),
            Parsed::BadPayload { reason } => decided(IntakePlan::bad_payload(reason)),
            Parsed::Event(event) => match outside(hook, &event) {
                Some(reason) => decided(IntakePlan::ignored(reason)),
                None if matches!(event.kind, EventKind::Ping) => {
                    let nothing_known = Facts::new(RepoId::from_text(""), 0);
                    decided(plan(&event, &nothing_known))
                }
                None => Ok(Said::Event(Box::new(event))),
            },
        }
    }

    fn hook(&self, delivery: &DeliveryRow) -> Option<&HookConfig> {
        self.config.forge.get(&delivery.forge)?.hook.iter().find(|hook| hook.id == delivery.hook_id)
    }

    /// All facts, with the repository's turn, which is held until the decision is committed; or a decision that needs none.
    async fn facts(
        &self,
        delivery: &DeliveryRow,
        event: &Event,
        repo_id: RepoId,
    ) -> Result<Result<(Facts, tokio::sync::OwnedMutexGuard<()>), IntakePlan>, Trouble> {
        let Some(forge) = self.forges.get(&delivery.forge) else {
            return Ok(Err(IntakePlan::ignored(format!(
                "forge `{}` is not configured any more",
                delivery.forge
            ))));
        };
        let gathered = self.gather(forge.as_ref(), event, repo_id.clone()).await;
        gathered.map(Ok).map_err(|error| unanswered(error, repo_id))
    }

    /// The decision when a payload's name and id are not of one repository. The hook's binding is checked by name and rows go
    /// by id, so whoever can sign for one repository could speak for another. Asked at the forge only while what is known
    /// does not say the same.
    async fn mistaken(&self, forge_name: &str, event: &Event) -> Result<Option<IntakePlan>, Trouble> {
        let Some(forge) = self.forges.get(forge_name) else { return Ok(None) };
        let repo = &event.repo;
        let known = self
            .store
            .repo_by_forge_id(forge_name, &repo.forge_id)
            .await
            .map_err(failed("cannot read the repository"))?;
        if known.is_some_and(|row| row.name == repo.name) {
            return Ok(None);
        }
        match forge.repo_id(&repo.name).await {
            Ok(id) if id == repo.forge_id => Ok(None),
            Ok(id) => Ok(Some(IntakePlan::ignored(format!(
                "the payload says that {} has the id {}, and at the forge it has {id}",
                repo.name, repo.forge_id
            )))),
            Err(error) => Err(unanswered(error.into(), RepoId::from_text(""))),
        }
    }

    async fn gather(
        &self,
        forge: &dyn Forge,
        event: &Event,
        repo_id: RepoId,
    ) -> Result<(Facts, tokio::sync::OwnedMutexGuard<()>), GatherError> {
        let mut facts = gather::from_forge(event, forge, &self.heads, repo_id, self.clock.now_ms()).await?;
        let guard = self.turn(facts.repo_id.as_str(), &event.repo.forge_id).lock_owned().await;
        gather::from_store(event, forge, &self.store, &mut facts).await?;
        Ok((facts, guard))
    }

    /// Counts one more answer that the forge does not have what this delivery is about.
    fn missed(&self, delivery: &DeliveryRowId) -> i64 {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let misses = missing.entry(delivery.clone()).or_default();
        *misses += 1;
        *misses
    }

    fn turn(&self, repo: &str, forge_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        // Turns that nobody holds or waits for are forgotten.
        deciding.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(deciding.entry((repo.to_owned(), forge_id.to_owned())).or_default())
    }
}

/// What a forge that gave no answer means. A refusal (a revoked token, a missing permission) waits as well: it is for people
/// to set right, and the delivery is decided when they have.
fn unanswered(error: GatherError, repo: RepoId) -> Trouble {
    match error {
        GatherError::Forge(ForgeError::NotFound { what }) => Trouble::Missing { repo, error: what },
        GatherError::Forge(ForgeError::Limited { what, wait_ms }) => Trouble::Later {
            wait_ms: Some(wait_ms.max(1000)),
            error: format!("{what}: the forge asks to wait {} s", wait_ms / 1000),
        },
        GatherError::Forge(
            error @ (ForgeError::Transient { .. } | ForgeError::Refused { status: 401 | 403, .. }),
        ) => Trouble::Later { wait_ms: None, error: error.to_string() },
        GatherError::Store(error @ StoreError::Unavailable(_)) => {
            Trouble::Later { wait_ms: None, error: error.to_string() }
        }
        error => Trouble::Failed(anyhow::Error::new(error).context("cannot learn what the event is about")),
    }
}

fn not_there(what: &str) -> IntakePlan {
    IntakePlan::ignored(format!("{what}: the forge does not have it, or the token may not read it"))
}

fn failed<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble::Failed(anyhow::Error::new(error).context(what))
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error.chain().any(|e| matches!(e.downcast_ref::<StoreError>(), Some(StoreError::Unavailable(_))))
}

/// Why an event is outside of what its hook is bound to. Forges compare names without case; a group of GitLab holds its subgroups.
fn outside(hook: &HookConfig, event: &Event) -> Option<String> {
    let name = &event.repo.name;
    let inside = match (&hook.repository, &hook.owner) {
        (Some(repository), _) => name.as_str().eq_ignore_ascii_case(repository),
        (None, Some(owner)) => {
            let (is, under) = (name.owner().to_ascii_lowercase(), owner.to_ascii_lowercase());
            is == under || is.strip_prefix(&under).is_some_and(|rest| rest.starts_with('/'))
        }
        (None, None) => false,
    };
    let bound = hook.repository.as_deref().or(hook.owner.as_deref()).unwrap_or("nothing");
    (!inside).then(|| format!("the payload is about {name}, and hook `{}` is bound to {bound}", hook.id))
}

#[async_trait]
impl Handler for Intake {
    fn kind(&self) -> WorkKind {
        WorkKind::Delivery
    }

    fn parks_after(&self, _: &anyhow::Error) -> Option<i64> {
        Some(5)
    }

    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        let id = DeliveryRowId::from_text(item.key.as_str());
        let Some(delivery) = self.store.delivery(&id).await.context("cannot read the delivery")? else {
            return Ok(WorkOutcome::Done);
        };
        if delivery.state != DeliveryState::Stored {
            return Ok(WorkOutcome::Done);
        }
        let mut decided = self.decide(&delivery).await;
        if let Err(Trouble::Missing { repo, error }) = &decided {
            let misses = self.missed(&delivery.id);
            decided = if misses > MISSES_FORGIVEN {
                self.commit(&delivery, repo, None, not_there(error)).await.map(|_| ())
            } else {
                Err(Trouble::Later {
                    wait_ms: Some(backoff(misses)),
                    error: format!("{error}: not there yet"),
                })
            };
        }
        if !matches!(decided, Err(Trouble::Later { .. })) {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&delivery.id);
        }
        let wait = |wait_ms: Option<i64>, error| {
            let at_ms = self.clock.now_ms() + wait_ms.unwrap_or_else(|| backoff(item.waits));
            Ok(WorkOutcome::Wait { at_ms, error })
        };
        match decided {
            Ok(()) => Ok(WorkOutcome::Done),
            Err(Trouble::Missing { error, .. }) => wait(None, error),
            Err(Trouble::Later { wait_ms, error }) => {
                tracing::info!(delivery.id = %delivery.id, error, "the forge cannot answer now; asking again");
                wait(wait_ms, error)
            }
            // The database's own trouble passes, and must not park what a forge was told is safe.
            Err(Trouble::Failed(error)) if is_unavailable(&error) => wait(None, format!("{error:#}")),
            Err(Trouble::Failed(error)) => Err(error),
        }
    }
}
