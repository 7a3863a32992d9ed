//! From a stored delivery to a run's end, with the real store, the sandbox forge and real git; only the attempts are
//! scripted. Promises G2 to G6 and G8, faults F26, and what happens when the forge is away.

mod attempts;
mod decisions;
mod runs;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard::clock::{ManualClock, SharedClock};
use trainyard::config::Config;
use trainyard::forge::Forges;
use trainyard::intake::{DataWatcher, Intake};
use trainyard::model::*;
use trainyard::queue::Worker;
use trainyard::reuse::Looker;
use trainyard::run::{LogEnder, Reconciler, Scheduler, Settings};
use trainyard::sandbox::{self, NewPull, Sandbox, SandboxOptions};
use trainyard::store::deliveries::{Delivered, NewDelivery};
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::{RunRow, RunView};
use trainyard::store::{Instance, Store};

use crate::scripted::{Act, Scripted};
use crate::store::fixture::{self, Place, T0};
use crate::worktree::WorkTree;

const TWO_STEPS: &str = "name: churn
when: [{event: [push, pull_request], branch: '**'}]
steps:
  - {name: train, commands: [python train.py]}
  - {name: eval, needs: [train], commands: [python eval.py]}
";

pub struct Heart {
    pub sandbox: Sandbox,
    pub repo: RepoName,
    pub tree: WorkTree,
    pub place: Place,
    pub clock: Arc<ManualClock>,
    pub config: Arc<Config>,
    pub instance: Arc<Instance>,
    pub executor: Arc<Scripted>,
    pub worker: Worker,
    dir: tempfile::TempDir,
}

impl Heart {
    pub async fn new(script: impl Fn(&str, i64) -> Act + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(T0);
        let sandbox =
            Sandbox::start(SandboxOptions::new(dir.path().join("forge"), clock.clone())).await.unwrap();
        let repo = RepoName::parse("ada/churn").unwrap();
        sandbox.create_repo(&repo, "main").await.unwrap();
        // Nobody listens there: the webhooks are kept by the sandbox, and the tests hand them in.
        sandbox.set_hook("http://127.0.0.1:9/hooks/github/main", "secret");
        let tree = WorkTree::new(&sandbox.git_url(&repo, sandbox::WRITER));
        let token = dir.path().join("token");
        std::fs::write(&token, secrecy::ExposeSecret::expose_secret(&sandbox.token())).unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "a-secret-of-the-hook").unwrap();
        let text = format!(
            "data_dir = {:?}\npublic_url = \"http://trainyard.test\"\n[forge.github]\nkind = \"github\"\nurl = {:?}\n\
             allow_http = true\ntoken = {{file = {token:?}}}\n\
             [[forge.github.hook]]\nid = \"main\"\nsecrets = [{{file = {secret:?}}}]\nrepository = \"ada/churn\"\n\
             [[repository]]\nforge = \"github\"\nname = \"ada/churn\"\ndata = [{:?}]\n",
            dir.path().join("data").display().to_string(),
            sandbox.url(),
            dir.path().join("watched").display().to_string(),
        );
        let config = Arc::new(Config::parse(&text, |_| None).unwrap());
        let place = fixture::sqlite().await;
        let instance = Arc::new(Instance::load(&place.store).await.unwrap());
        let executor = Scripted::new(place.store.clone(), clock.clone(), script);
        let worker = worker(&place.store, &clock, &config, &instance, &executor);
        Self { sandbox, repo, tree, place, clock, config, instance, executor, worker, dir }
    }

    /// New handlers, as after a restart: nothing but rows and the outside world survives.
    pub fn restart(&mut self) {
        self.worker = worker(&self.place.store, &self.clock, &self.config, &self.instance, &self.executor);
    }

    pub fn store(&self) -> &Store {
        &self.place.store
    }

    /// The directory that the repository may watch.
    pub fn watched(&self) -> std::path::PathBuf {
        self.dir.path().join("watched")
    }

    pub async fn hand_in(&self, store: &Store, sent: &sandbox::Delivery, id: &str) -> Delivered {
        let new = NewDelivery {
            id: DeliveryRowId::generate(T0),
            forge: "github".into(),
            hook_id: "main".into(),
            delivery_id: id.into(),
            event: sent.event.clone(),
            content_type: "application/json".into(),
            headers: Vec::new(),
            body: serde_json::to_vec(&sent.payload).unwrap(),
            received_ms: T0,
            ignored: None,
        };
        store.deliver(new).await.unwrap()
    }

    /// Hands in every webhook that the forge has sent so far.
    pub async fn hand_in_all(&self) {
        for sent in self.sandbox.deliveries() {
            self.hand_in(self.store(), &sent, &sent.guid).await;
        }
    }

    /// Works until neither the queue nor an attempt has anything to do.
    pub async fn settle(&self) {
        loop {
            self.worker.run_until_idle().await.unwrap();
            if self.executor.play().await == 0 {
                return;
            }
        }
    }

    /// Lets time pass, with work at every ten seconds of it.
    pub async fn pass(&self, seconds: i64) {
        for _ in 0..seconds.div_euclid(10).max(1) {
            self.clock.advance(10_000);
            self.settle().await;
        }
    }

    pub async fn runs(&self) -> Vec<RunRow> {
        runs_of(self.store()).await
    }

    pub async fn only_run(&self) -> RunView {
        let runs = self.runs().await;
        assert_eq!(runs.len(), 1, "{runs:?}");
        self.store().run_view(&runs[0].id).await.unwrap().unwrap()
    }

    pub async fn decisions(&self) -> Vec<String> {
        let rows = self.store().list_deliveries(None, 1000).await.unwrap();
        rows.iter().rev().map(|row| format!("{} {}: {}", row.event, row.state, row.reason)).collect()
    }

    pub async fn push_pipeline(&self, text: &str) -> Sha {
        self.tree.write(".trainyard.yaml", text);
        let sha = self.tree.commit("Add a pipeline");
        self.tree.push(&["HEAD:refs/heads/main"]);
        sha
    }

    pub async fn open_pull(&self, branch: &str, fork: Option<&RepoName>) -> i64 {
        let author = if fork.is_some() { sandbox::STRANGER } else { sandbox::WRITER };
        let new = NewPull {
            title: "A change".into(),
            author: author.into(),
            head_branch: branch.into(),
            head_repo: fork.cloned(),
            base_branch: "main".into(),
            draft: false,
        };
        self.sandbox.open_pull(&self.repo, new).await.unwrap()
    }

    fn clock_now(&self) -> i64 {
        trainyard::clock::Clock::now_ms(&*self.clock)
    }
}

fn worker(
    store: &Store,
    clock: &Arc<ManualClock>,
    config: &Arc<Config>,
    instance: &Arc<Instance>,
    executor: &Arc<Scripted>,
) -> Worker {
    let clock: SharedClock = clock.clone();
    let forges = Forges::connect(config).unwrap();
    let looked_at = Arc::new(forges.clone());
    let executors =
        BTreeMap::from([("local".to_owned(), executor.clone() as Arc<dyn trainyard::executor::Executor>)]);
    let settings =
        Settings { instance: instance.clone(), agent_url: "http://127.0.0.1:1".into(), agent_ca: None };
    // No agent here writes a log.
    let logs = LogEnder::new(|_, _, _| async { Ok(()) });
    Worker::new(store.clone(), clock.clone(), "test")
        .register(Arc::new(Intake::new(store.clone(), clock.clone(), config.clone(), forges)), 8)
        .register(
            Arc::new(Reconciler::new(
                store.clone(),
                clock.clone(),
                config.clone(),
                settings,
                executors,
                logs,
            )),
            8,
        )
        .register(Arc::new(Scheduler::new(store.clone(), clock.clone(), config.clone(), instance.clone())), 1)
        .register(Arc::new(Looker::new(store.clone(), looked_at, clock.clone(), config.clone())), 1)
        .register(Arc::new(DataWatcher::new(store.clone(), clock, config.clone())), 1)
}

async fn runs_of(store: &Store) -> Vec<RunRow> {
    let list = store.list_runs(RunFilter::default(), None, 10_000).await.unwrap();
    list.into_iter().map(|item| item.run).collect()
}

pub fn states(view: &RunView) -> String {
    let steps: Vec<String> = view.steps.iter().map(|s| format!("{} {}", s.name, s.state)).collect();
    format!("{}: {}", view.run.state, steps.join(", "))
}

fn good(_: &str, _: i64) -> Act {
    Act::Finish(EndClass::Succeeded)
}
