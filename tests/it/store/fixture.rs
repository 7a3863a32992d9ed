//! A store on a new SQLite file, and rows to put into it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use trainyard::clock::Millis;
use trainyard::model::plan::{MetricsSpec, ReportSpec};
use trainyard::model::{
    Actor, AttemptState, AttemptUid, DeliveryRowId, DeliveryState, EndClass, Plan, PullRequest, RepoId,
    RepoName, RepoRef, RunId, RunState, Sha, StepSpec, StepState,
};
use trainyard::store::attempts::{AttemptMove, Placement};
use trainyard::store::deliveries::{IntakeCommit, NewDelivery};
use trainyard::store::runs::{NewRun, RunChange, RunView, StepMove};
use trainyard::store::work::{WorkKind, WorkOutcome};
use trainyard::store::{OpenOptions, Store};

pub const T0: Millis = 1_800_000_000_000;

/// A store in a directory that goes away with it.
pub struct Place {
    pub store: Store,
    pub options: OpenOptions,
    pub path: PathBuf,
    _dir: tempfile::TempDir,
}

pub async fn sqlite() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trainyard.db");
    let options = OpenOptions::sqlite(&path);
    let store = Store::open(&options).await.unwrap();
    Place::new(store, options, path, dir)
}

pub fn sha(digit: char) -> Sha {
    Sha::parse(&digit.to_string().repeat(40)).unwrap()
}

pub fn delivery(id: &str, body: &[u8]) -> NewDelivery {
    NewDelivery {
        id: DeliveryRowId::generate(T0),
        forge: "github".into(),
        hook_id: "main".into(),
        delivery_id: id.into(),
        event: "push".into(),
        content_type: "application/json".into(),
        headers: vec![("x-github-event", "push".into())],
        body: body.to_vec(),
        received_ms: T0,
        ignored: None,
    }
}

pub fn step(name: &str) -> StepSpec {
    StepSpec { commands: vec!["true".into()], timeout_ms: 1000, ..StepSpec::named(name) }
}

pub fn plan(steps: &[&str]) -> Plan {
    Plan {
        name: "churn".into(),
        file: ".trainyard.yaml".into(),
        when: vec![],
        concurrency: None,
        priority: None,
        timeout_ms: 1000,
        steps: steps.iter().map(|name| step(name)).collect(),
        metrics: MetricsSpec::default(),
        report: ReportSpec::default(),
        not_run: vec![],
    }
}

pub fn new_run(repo: &RepoId, sha: &Sha, state: RunState) -> NewRun {
    NewRun {
        id: RunId::generate(T0),
        repo_id: repo.clone(),
        pipeline: "churn".into(),
        head_sha: sha.clone(),
        trigger_key: "head".into(),
        generation: 0,
        branch: "main".into(),
        message: "Train longer".into(),
        actor: "ada".into(),
        trusted: state != RunState::Held,
        state,
        reason: String::new(),
        plan: plan(&["test", "train"]),
        variables: BTreeMap::from([("CI_REF".into(), "main".into())]),
        concurrency: Some(format!("{repo}/churn-main")),
    }
}

pub fn pull(number: i64, head: &Sha) -> PullRequest {
    PullRequest {
        number,
        title: "Train longer".into(),
        author: Actor { id: "7".into(), login: "ada".into() },
        head_sha: head.clone(),
        head_branch: "longer".into(),
        base_branch: "main".into(),
        base_sha: Some(sha('b')),
        fork: false,
        draft: false,
        open: true,
    }
}

pub fn intake(delivery: &DeliveryRowId) -> IntakeCommit {
    IntakeCommit {
        decided_on: None,
        delivery: delivery.clone(),
        state: DeliveryState::Done,
        reason: "one run".into(),
        pulls: vec![],
        runs: vec![],
        cancel: vec![],
        supersede_held: vec![],
        asked: None,
        asks: vec![],
    }
}

impl Place {
    pub fn new(store: Store, options: OpenOptions, path: PathBuf, dir: tempfile::TempDir) -> Self {
        Self { store, options, path, _dir: dir }
    }

    /// Another handle on the same database, for a machine.
    pub async fn beside(&self, machine: &str) -> Store {
        let options = OpenOptions { machine: machine.into(), ..self.options.clone() };
        Store::open_beside(&options).await.unwrap()
    }

    pub async fn repo(&self) -> RepoId {
        let repo = RepoRef {
            forge_id: "42".into(),
            name: RepoName::parse("ada/churn").unwrap(),
            default_branch: "main".into(),
        };
        self.store.upsert_repo("github", &repo, T0).await.unwrap()
    }

    /// Delivers and decides: these runs.
    pub async fn runs(&self, runs: Vec<NewRun>) -> Vec<RunId> {
        let new = delivery(DeliveryRowId::generate(T0).as_str(), b"{}");
        let id = new.id.clone();
        self.store.deliver(new).await.unwrap();
        self.store.commit_intake(IntakeCommit { runs, ..intake(&id) }, T0).await.unwrap().unwrap()
    }

    pub async fn view(&self, run: &RunId) -> RunView {
        self.store.run_view(run).await.unwrap().unwrap()
    }

    /// An empty change of the run as it stands.
    pub async fn change(&self, run: &RunId) -> RunChange {
        RunChange {
            run: run.clone(),
            epoch: self.view(run).await.run.epoch,
            to: None,
            steps: vec![],
            attempts: vec![],
            asks: vec![],
        }
    }

    /// Makes the first step of a queued run ready and places it; the attempt is `intended`.
    pub async fn attempt(&self, run: &RunId) -> AttemptUid {
        self.attempt_of(run, 0).await
    }

    /// The same of any step; the run may run already.
    pub async fn attempt_of(&self, run: &RunId, position: usize) -> AttemptUid {
        let view = self.view(run).await;
        let mut change = self.change(run).await;
        change.to = (view.run.state == RunState::Queued).then(|| (RunState::Running, String::new()));
        change.steps = vec![StepMove {
            step: view.steps[position].id.clone(),
            to: StepState::Ready,
            reason: String::new(),
            outputs: None,
        }];
        self.store.apply(change, T0 + 1).await.unwrap();
        let ready = self.store.ready_steps().await.unwrap();
        // Other cases in the same database may have left ready steps of their own.
        let own = ready.iter().find(|step| step.run_id == *run).unwrap();
        let placed = self.store.place(vec![placement(own)], T0 + 2).await.unwrap();
        placed[0].clone()
    }

    /// Ends an attempt by its executor's word.
    pub async fn end(&self, uid: &AttemptUid, class: EndClass) {
        let end = AttemptMove {
            uid: uid.clone(),
            to: AttemptState::Ended,
            class: Some(class),
            reason: String::new(),
            exit_code: None,
            cancel: false,
            handle: None,
        };
        assert!(self.store.move_attempt(end, T0 + 4).await.unwrap());
    }

    /// Leaves no work open.
    pub async fn settle_all(&self) {
        for item in self.store.claim(WorkKind::ALL, "fixture", i64::MAX / 2, 0, 1000).await.unwrap() {
            self.store.settle(&item, WorkOutcome::Done, T0).await.unwrap();
        }
    }

    /// How many work items are open; claims them.
    pub async fn open_work(&self) -> usize {
        self.store.claim(WorkKind::ALL, "fixture", i64::MAX / 2, 0, 1000).await.unwrap().len()
    }

    /// The same, with its agent started under the nonce `n`.
    pub async fn started(&self, run: &RunId) -> AttemptUid {
        let uid = self.attempt(run).await;
        assert!(self.store.agent_start(&uid, "hash", "n", T0 + 3).await.unwrap());
        uid
    }
}

pub fn placement(ready: &trainyard::store::queue::ReadyStep) -> Placement {
    Placement {
        uid: AttemptUid::generate(T0),
        run_id: ready.run_id.clone(),
        step_id: ready.step_id.clone(),
        number: ready.number,
        executor: "local".into(),
        pool: "default".into(),
        machine: String::new(),
        gpus: vec![0, 1],
        ranks: ready.spec.workers.max(1),
        bootstrap_hash: "hash".into(),
    }
}
