//! The daemon: opens the store, connects the forges, binds the four listeners and keeps the worker going. `serve` and `demo`
//! start it; nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob::Blobs;
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, ConfigError};
use crate::executor::Executor;
use crate::executor::kubernetes::manifest::Cluster;
use crate::executor::kubernetes::{self, Kubernetes, Wake};
use crate::executor::local::{Local, LocalOptions, StepUsers};
use crate::forge::Forges;
use crate::http::agent_tls::AgentTls;
use crate::http::{self, App};
use crate::intake::{DataWatcher, Intake};
use crate::model::RunId;
use crate::outbox::Sender;
use crate::queue::{Handler, Worker};
use crate::report::Reporter;
use crate::results::Comparer;
use crate::retention::Sweeper;
use crate::reuse::Looker;
use crate::run::{LogEnder, Reconciler, Scheduler, Settings};
use crate::store::outbox::REVIVED_MS;
use crate::store::work::{WorkAsk, WorkKind};
use crate::store::{Instance, Store};

use super::replica::{Life, Machine};

/// How long the worker's handlers may take to come to an end after a stop was asked for.
const STOP: Duration = Duration::from_secs(10);

/// A running daemon.
pub struct Daemon {
    pub app: App,
    pub hooks: SocketAddr,
    pub people: SocketAddr,
    pub agents: SocketAddr,
    pub ops: SocketAddr,
    tasks: TaskTracker,
    /// Ends last, so that `/readyz` can say no while the others drain.
    ops_stop: CancellationToken,
    ops_task: JoinHandle<()>,
    life: Life,
    _machine: Machine,
}

impl Daemon {
    /// Starts everything. On an error nothing is left running.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        http::serve::raise_file_limit();
        let clock: SharedClock = Arc::new(SystemClock);
        private_dir(&config.data_dir)?;
        let machine = Machine::take(&config.data_dir)?;
        let options = super::store_options(&config, &machine.id)?;
        let store = Store::open(&options).await?;
        let blobs = Blobs::open(&config)?;
        let life = Life::begin(&store, &clock, &config, &machine).await?;
        blobs.check().await.with_context(|| {
            format!("cannot use blob ({}); check its settings and that it can be reached", life.blob())
        })?;
        let instance = Arc::new(Instance::load(&store).await.context("cannot read this installation's key")?);
        let forges = Forges::connect(&config)?;
        let config = Arc::new(config);
        let token = http::auth::ensure_admin_token(&store, &config.data_dir, clock.now_ms()).await?;
        tracing::info!(file = %token.display(), "the admin token of dashboard and API");
        let app = App::new(store, blobs, forges, Arc::clone(&config), clock, instance)?;

        let hooks = bind(config.listen.hooks, "listen.hooks").await?;
        let people = bind(config.listen.app, "listen.app").await?;
        let agents = bind(config.listen.agent, "listen.agent").await?;
        let ops = bind(config.listen.ops, "listen.ops").await?;
        let ops_address = ops.local_addr()?;
        let ops_stop = CancellationToken::new();
        let ops_task = tokio::spawn(http::ops::serve_ops(ops, app.clone(), ops_stop.clone()));
        let daemon = Self {
            hooks: hooks.local_addr()?,
            people: people.local_addr()?,
            agents: agents.local_addr()?,
            ops: ops_address,
            tasks: TaskTracker::new(),
            ops_stop,
            ops_task,
            app,
            life,
            _machine: machine,
        };
        let tls = agent_tls(&config, &daemon)?;
        let (executors, cluster) = executors(&config, &daemon).await?;
        let worker = daemon.worker(executors, tls.as_ref());
        daemon.wake().await?;

        let stopping = &daemon.app.stopping;
        let app = || daemon.app.clone();
        daemon.tasks.spawn(http::hooks::serve_hooks(hooks, app(), stopping.clone()));
        if let Some(cluster) = cluster {
            daemon.tasks.spawn(super::orphans::sweep(cluster.clone(), daemon.app.clone(), stopping.clone()));
            let (watching, stop) = (cluster.watch(wake_runs(app())), stopping.clone());
            daemon.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watching => {}
                }
            });
        }
        let (agent_app, agent_stop) = (app(), stopping.clone());
        daemon.tasks.spawn(async move {
            if let Err(error) = http::agent_api::serve_agents(agents, tls, agent_app, agent_stop).await {
                tracing::error!("the agent listener cannot serve: {error:#}");
            }
        });
        daemon.tasks.spawn(http::app::serve_app(people, app(), stopping.clone()));
        let worker_stop = stopping.clone();
        daemon.tasks.spawn(async move { worker.run(worker_stop).await });
        let (life, life_stop) = (daemon.life.clone(), stopping.clone());
        daemon.tasks.spawn(async move { life.go_on(life_stop).await });
        Ok(daemon)
    }

    fn worker(&self, executors: BTreeMap<String, Arc<dyn Executor>>, tls: Option<&AgentTls>) -> Worker {
        let App { store, blobs, forges, config, clock, instance, .. } = self.app.clone();
        let forges = Arc::new(forges);
        let settings = Settings {
            instance: instance.clone(),
            agent_url: local_url(self.agents, tls.is_some()),
            agent_ca: tls.map(|tls| tls.ca.clone()),
        };
        let app = self.app.clone();
        let logs = LogEnder::new(move |attempt, ranks, left| {
            let app = app.clone();
            async move { http::last_log::end(&app, &attempt, ranks, left).await }
        });
        let (holder, lease_ms) = (self.life.holder(), config.limits.lease_s * 1000);
        // Each handler with the number of items it looks at together.
        let handlers: Vec<(Arc<dyn Handler>, usize)> = vec![
            (Arc::new(Intake::new(store.clone(), clock.clone(), config.clone(), (*forges).clone())), 16),
            (
                Arc::new(Reconciler::new(
                    store.clone(),
                    clock.clone(),
                    config.clone(),
                    settings,
                    executors,
                    logs,
                )),
                16,
            ),
            (Arc::new(Scheduler::new(store.clone(), clock.clone(), config.clone(), instance.clone())), 1),
            (Arc::new(Looker::new(store.clone(), forges.clone(), clock.clone(), config.clone())), 2),
            (
                Arc::new(Comparer::new(
                    store.clone(),
                    forges.clone(),
                    clock.clone(),
                    config.clone(),
                    blobs.clone(),
                )),
                4,
            ),
            (
                Arc::new(Reporter::new(
                    store.clone(),
                    forges.clone(),
                    blobs.clone(),
                    clock.clone(),
                    config.clone(),
                    instance,
                )),
                4,
            ),
            (Arc::new(Sender::new(store.clone(), forges.clone(), clock.clone())), 4),
            (Arc::new(DataWatcher::new(store.clone(), clock.clone(), config.clone())), 2),
            (
                Arc::new(Sweeper {
                    store: store.clone(),
                    blobs,
                    clock: clock.clone(),
                    keep: config.retention,
                    cache_quota_bytes: config.limits.cache_quota_bytes,
                    forges: forges.names().map(str::to_owned).collect(),
                }),
                1,
            ),
        ];
        handlers
            .into_iter()
            .fold(Worker::new(store, clock, holder).lease_ms(lease_ms), |worker, (handler, at_once)| {
                worker.register(handler, at_once)
            })
    }

    /// Asks for everything that may have happened while nobody looked.
    async fn wake(&self) -> anyhow::Result<()> {
        self.app.store.free_leases_of_the_dead().await.context("cannot take over open work")?;
        let now = self.app.clock.now_ms();
        self.app.store.ask_open_runs(now).await.context("cannot ask for the runs that are open")?;
        let asks = vec![
            WorkAsk::schedule(now),
            WorkAsk { kind: WorkKind::Retention, key: "retention".into(), at_ms: now },
        ];
        self.app.store.ask(asks, now).await.context("cannot ask for the work that is open")?;
        for kind in [WorkKind::Compare, WorkKind::Report] {
            self.app.store.retry_parked(kind, now).await.context("cannot take up what was parked")?;
        }
        // The token may be another one.
        let forges = self.app.forges.names().map(str::to_owned).collect();
        self.app
            .store
            .outbox_revive(forges, now - REVIVED_MS, now)
            .await
            .context("cannot ask for what the forges have not been told")
    }

    /// Stops taking requests, lets what is in progress end, closes the store. Trainings go on.
    pub async fn stop(self) {
        self.app.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "some requests or handlers did not end within {} s; they are taken up at the next start",
                STOP.as_secs()
            );
        }
        self.ops_stop.cancel();
        if self.ops_task.await.is_err() {
            tracing::warn!("the ops listener ended with a panic");
        }
        self.life.end().await;
        self.app.store.close().await;
    }
}

fn private_dir(dir: &Path) -> Result<(), ConfigError> {
    let fail = |e: std::io::Error| {
        ConfigError(format!(
            "cannot use data_dir {}: {e}; make it, owned by the user of the daemon",
            dir.display()
        ))
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(fail)
}

/// Where processes of this machine find the agent listener.
fn local_url(bound: SocketAddr, tls: bool) -> String {
    let mut at = bound;
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("{}://{at}", if tls { "https" } else { "http" })
}

/// TLS unless only this machine can reach the listener.
fn agent_tls(config: &Config, daemon: &Daemon) -> anyhow::Result<Option<AgentTls>> {
    if config.listen.agent.ip().is_loopback() {
        return Ok(None);
    }
    let mut names: Vec<String> = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
    if !daemon.agents.ip().is_unspecified() {
        names.push(daemon.agents.ip().to_string());
    }
    let url = config.executor.kubernetes.as_ref().and_then(|k| k.agent_url.as_deref());
    names.extend(url.and_then(http::agent_tls::host_of));
    names.sort();
    names.dedup();
    http::agent_tls::agent_tls(&daemon.app.instance, &names).map(Some)
}

/// Tells the worker to look at runs that the cluster has news of. What is told while a write is under way goes with the next one.
fn wake_runs(app: App) -> Wake {
    /// Of one transaction: a long one would hold up everyone's writes.
    const AT_ONCE: usize = 256;
    let told: Arc<Mutex<BTreeSet<RunId>>> = Arc::default();
    let news = Arc::new(Notify::new());
    let (inbox, bell) = (told.clone(), news.clone());
    tokio::spawn(async move {
        loop {
            bell.notified().await;
            loop {
                let some: Vec<RunId> = {
                    let mut told = inbox.lock().unwrap_or_else(PoisonError::into_inner);
                    std::iter::from_fn(|| told.pop_first()).take(AT_ONCE).collect()
                };
                if some.is_empty() {
                    break;
                }
                let now = app.clock.now_ms();
                let asks = some.iter().map(|run| WorkAsk::run(run, now)).collect();
                if let Err(error) = app.store.ask(asks, now).await {
                    tracing::warn!(%error, "the cluster's news of {} runs cannot be stored yet", some.len());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    inbox.lock().unwrap_or_else(PoisonError::into_inner).extend(some);
                }
                // What comes meanwhile shares the next question; of one Job more than one thing is told within moments.
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    });
    Arc::new(move |run| {
        told.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
        news.notify_one();
    })
}

type Executors = (BTreeMap<String, Arc<dyn Executor>>, Option<Arc<Kubernetes>>);

async fn executors(config: &Config, daemon: &Daemon) -> anyhow::Result<Executors> {
    let refuse = |e: anyhow::Error| ConfigError(format!("executor.local: {e:#}"));
    let users = StepUsers::configured(&config.executor.local).map_err(refuse)?;
    let agent_binary = std::env::current_exe()
        .map_err(|e| ConfigError(format!("cannot find this program's own file: {e}")))?;
    let local = Local::new(LocalOptions { agent_binary, workspace_root: config.workspace(), users })
        .map_err(refuse)?;
    let mut all = BTreeMap::from([("local".to_owned(), Arc::new(local) as Arc<dyn Executor>)]);
    let Some(settings) = &config.executor.kubernetes else { return Ok((all, None)) };
    let client = kubernetes::client(settings).await?;
    let app = &daemon.app;
    let cluster = cluster(config, client, &app.instance, daemon.agents, app.clock.clone()).map(Arc::new);
    if let Some(kubernetes) = &cluster {
        all.insert(kubernetes::NAME.to_owned(), kubernetes.clone());
    }
    Ok((all, cluster))
}

/// The executor of the pools on Kubernetes, where it is configured. `agents`: where the agent listener is, for pods that are told no
/// other place.
pub(super) fn cluster(
    config: &Config,
    client: kube::Client,
    instance: &Instance,
    agents: SocketAddr,
    clock: SharedClock,
) -> Option<Kubernetes> {
    let settings = config.executor.kubernetes.as_ref()?;
    let pools = config.pool.iter().filter(|(_, pool)| pool.executor == kubernetes::NAME);
    let cluster = Cluster {
        config: settings.clone(),
        instance: instance.id.clone(),
        agent_url: settings.agent_url.clone().unwrap_or_else(|| format!("https://{agents}")),
        grace_s: config.limits.grace_s,
        pending_timeout_s: config.limits.pending_timeout_s,
    };
    let pools = pools.map(|(name, pool)| (name.clone(), pool.kubernetes.clone())).collect();
    Some(Kubernetes::new(client, cluster, pools, clock))
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(address).await.map_err(|e| {
        let hint = if e.kind() == std::io::ErrorKind::AddrInUse {
            "another process has it; stop that one or choose another port"
        } else {
            "choose an address of this machine"
        };
        ConfigError(format!("cannot listen on {address} ({key}): {e}; {hint}"))
    })
}
