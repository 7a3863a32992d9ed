//! From a stored delivery to a run's end, with the real store, the sandbox forge and real git; only the attempts are
//! scripted. Promises G2 to G6 and G8, faults F26, and what happens when the forge is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use trainyard::clock::{ManualClock, SharedClock};
use trainyard::config::{Config, ForgeKind};
use trainyard::forge::{
    Capabilities, ChangeWords, Comment, Commit, Folder, Forge, ForgeError, Forges, GitAccess, Permission,
    Status, TreeEntry, WebPage,
};
use trainyard::intake::{DataWatcher, Intake};
use trainyard::model::*;
use trainyard::queue::{Handler, Worker};
use trainyard::reuse::Looker;
use trainyard::run::{Reconciler, Scheduler, Settings};
use trainyard::sandbox::{self, Fault, FaultKind, NewPull, Sandbox, SandboxOptions};
use trainyard::store::deliveries::{Delivered, NewDelivery};
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::{RunRow, RunView};
use trainyard::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};
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
            headers: BTreeMap::new(),
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
    Worker::new(store.clone(), clock.clone(), "test")
        .register(Arc::new(Intake::new(store.clone(), clock.clone(), config.clone(), forges)), 8)
        .register(
            Arc::new(Reconciler::new(store.clone(), clock.clone(), config.clone(), settings, executors)),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_becomes_a_run_that_ends_and_leaves_nothing_behind() {
    let heart = Heart::new(good).await;
    let sha = heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let view = heart.only_run().await;
    assert_eq!(states(&view), "succeeded: train succeeded, eval succeeded");
    assert_eq!((view.run.head_sha.clone(), view.run.branch.as_str(), view.run.trusted), (sha, "main", true));
    assert_eq!(heart.executor.started(), ["train#1", "eval#1"]);
    assert_eq!(heart.executor.leftovers(), 0);
    assert_eq!(view.steps[0].outputs["done"], "yes");
    assert!(view.attempts.iter().all(|a| a.removed_ms.is_some()));
    // Whatever is heard later, the end stays the end (G6).
    heart.store().ask(vec![WorkAsk::run(&view.run.id, T0)], T0).await.unwrap();
    heart.pass(60).await;
    assert_eq!(heart.only_run().await.run, view.run);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_and_pull_request_of_one_head_are_one_run() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.tree.write("train.py", "print(1)");
    let head = heart.tree.commit("Train");
    heart.tree.push(&["HEAD:refs/heads/layers"]);
    let number = heart.open_pull("layers", None).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let runs = heart.runs().await;
    assert_eq!(runs.iter().filter(|r| r.head_sha == head).count(), 1, "{:?}", heart.decisions().await);
    assert_eq!(runs.len(), 2);
    let repo = runs[0].repo_id.clone();
    assert_eq!(heart.store().pull(&repo, number).await.unwrap().unwrap().pull.head_sha, head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_delivery_sent_a_hundred_times_at_once_makes_one_run() {
    let heart = Arc::new(Heart::new(good).await);
    heart.push_pipeline(TWO_STEPS).await;
    let sent = Arc::new(heart.sandbox.deliveries().into_iter().find(|d| d.event == "push").unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (heart, sent) = (heart.clone(), sent.clone());
        tasks.spawn(async move { heart.hand_in(heart.store(), &sent, &sent.guid).await });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|a| **a == Delivered::Stored).count(), 1);
    heart.settle().await;
    let runs = heart.runs().await.len();
    println!("FAULT G2 deliveries=100 stored=1 runs={runs} expected=1");
    assert_eq!(runs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deliveries_in_any_order_make_exactly_the_distinct_runs() {
    let heart = Heart::new(|_, _| Act::Hang).await;
    let filtered =
        format!("{TWO_STEPS}{}", "").replace("branch: '**'}", "branch: '**', paths: {exclude: ['docs/**']}}");
    let mut expected: BTreeSet<String> = BTreeSet::new();
    expected.insert(heart.push_pipeline(&filtered).await.to_string());
    let fork = RepoName::parse("eve/churn").unwrap();
    heart.sandbox.fork_repo(&heart.repo, &fork).await.unwrap();
    let fork_url = heart.sandbox.git_url(&fork, "eve");
    for n in 0..12 {
        let branch = format!("b{n}");
        heart.tree.git(&["checkout", "--quiet", "-B", &branch, "main"]);
        for round in 0..3 {
            let skip = n % 4 == 3 && round == 1;
            let file = if n % 3 == 2 && round == 2 { format!("docs/{n}.md") } else { format!("src/{n}.py") };
            heart.tree.write(&file, format!("{round}"));
            let sha = heart.tree.commit(if skip { "Try [skip ci]" } else { "Try" });
            expected.insert(sha.to_string());
            if n % 4 == 1 {
                heart.tree.git(&["push", "--quiet", &fork_url, &format!("+HEAD:refs/heads/{branch}")]);
            } else {
                heart.tree.push(&[&format!("+HEAD:refs/heads/{branch}")]);
            }
            if round == 0 {
                heart.open_pull(&branch, (n % 4 == 1).then_some(&fork)).await;
            }
        }
        match n % 6 {
            0 => heart.sandbox.close_pull(&heart.repo, n + 1).await.unwrap(),
            2 => heart.sandbox.rename_pull(&heart.repo, n + 1, "Another title").await.unwrap(),
            4 => heart.sandbox.retarget_pull(&heart.repo, n + 1, "b0").await.unwrap(),
            _ => {}
        }
    }
    let sent: Vec<sandbox::Delivery> = heart.sandbox.deliveries();
    // Heads of forks that no delivery names make no run.
    let named: String = sent.iter().map(|d| d.payload.to_string()).collect();
    expected.retain(|sha| named.contains(sha.as_str()));
    let mut outcomes = Vec::new();
    let mut decided = 0;
    let real = Forges::connect(&heart.config).unwrap().get("github").unwrap().clone();
    let mut forges = Forges::default();
    forges.insert(
        "github",
        Arc::new(Standstill { real, permissions: Mutex::default(), pulls: Mutex::default() }),
    );
    for seed in 1..=3_u64 {
        let place = fixture::sqlite().await;
        let mut thousand: Vec<(usize, &sandbox::Delivery)> =
            sent.iter().cycle().take(1000).enumerate().collect();
        shuffle(&mut thousand, seed);
        for (n, delivery) in thousand {
            heart.hand_in(&place.store, delivery, &format!("{}-{n}", delivery.guid)).await;
        }
        // Intake alone: what the runs do is not the question.
        let intake =
            Intake::new(place.store.clone(), heart.clock.clone(), heart.config.clone(), forges.clone());
        decided += Worker::new(place.store.clone(), heart.clock.clone(), "test")
            .register(Arc::new(intake), 16)
            .run_until_idle()
            .await
            .unwrap();
        let mut newest: BTreeMap<String, RunRow> = BTreeMap::new();
        for run in runs_of(&place.store).await {
            let old = newest.get(run.head_sha.as_str());
            if old.is_none_or(|old| old.generation < run.generation) {
                newest.insert(run.head_sha.to_string(), run);
            }
        }
        let shas: BTreeSet<String> = newest.keys().cloned().collect();
        assert_eq!(shas, expected, "seed {seed}");
        let outcome: Vec<String> = newest
            .values()
            .map(|r| format!("{} {} {} {}", r.head_sha.short(), r.state, r.trusted, r.branch))
            .collect();
        outcomes.push(outcome);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0], outcomes[2]);
    let of = |word: &str| outcomes[0].iter().filter(|o| o.contains(word)).count();
    assert!(of("held") > 0 && of("skipped") > 0 && of("queued") > 0, "{outcomes:?}");
    println!(
        "FAULT F26 deliveries={decided} orders=3 runs={} expected={} held={} skipped={}",
        outcomes[0].len(),
        expected.len(),
        of("held"),
        of("skipped")
    );
}

/// The sandbox while nothing happens there: the two answers that intake wants fresh each time are asked for once.
#[derive(Debug)]
struct Standstill {
    real: Arc<dyn Forge>,
    permissions: Mutex<BTreeMap<String, Permission>>,
    pulls: Mutex<BTreeMap<i64, PullRequest>>,
}

#[async_trait]
impl Forge for Standstill {
    async fn permission(&self, repo: &RepoName, who: &Actor) -> Result<Permission, ForgeError> {
        if let Some(known) = self.permissions.lock().unwrap().get(&who.id) {
            return Ok(*known);
        }
        let answer = self.real.permission(repo, who).await?;
        self.permissions.lock().unwrap().insert(who.id.clone(), answer);
        Ok(answer)
    }
    async fn pull(&self, repo: &RepoName, number: i64) -> Result<PullRequest, ForgeError> {
        if let Some(known) = self.pulls.lock().unwrap().get(&number) {
            return Ok(known.clone());
        }
        let answer = self.real.pull(repo, number).await?;
        self.pulls.lock().unwrap().insert(number, answer.clone());
        Ok(answer)
    }
    async fn whoami(&self) -> Result<Actor, ForgeError> {
        self.real.whoami().await
    }
    async fn repo_id(&self, repo: &RepoName) -> Result<String, ForgeError> {
        self.real.repo_id(repo).await
    }
    async fn commit(&self, repo: &RepoName, sha: &Sha) -> Result<Commit, ForgeError> {
        self.real.commit(repo, sha).await
    }
    async fn tree(&self, repo: &RepoName, folder: &Folder) -> Result<Vec<TreeEntry>, ForgeError> {
        self.real.tree(repo, folder).await
    }
    async fn has_merged_change(&self, repo: &RepoName, who: &Actor) -> Result<bool, ForgeError> {
        self.real.has_merged_change(repo, who).await
    }
    fn capabilities(&self) -> Capabilities {
        self.real.capabilities()
    }
    async fn file(&self, repo: &RepoName, sha: &Sha, path: &str) -> Result<Vec<u8>, ForgeError> {
        self.real.file(repo, sha, path).await
    }
    async fn merge_base(&self, repo: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError> {
        self.real.merge_base(repo, base, head).await
    }
    async fn history(&self, repo: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError> {
        self.real.history(repo, sha, limit).await
    }
    async fn set_status(&self, _: &RepoName, _: &Sha, _: &Status) -> Result<(), ForgeError> {
        unreachable!("intake writes nothing at a forge")
    }
    async fn comments(&self, repo: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError> {
        self.real.comments(repo, number).await
    }
    async fn create_comment(&self, _: &RepoName, _: i64, _: &str) -> Result<String, ForgeError> {
        unreachable!("intake writes nothing at a forge")
    }
    async fn edit_comment(&self, _: &RepoName, _: &str, _: &str) -> Result<(), ForgeError> {
        unreachable!("intake writes nothing at a forge")
    }
    fn git(&self, repo: &RepoName) -> GitAccess {
        self.real.git(repo)
    }
    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String {
        self.real.page(repo, what)
    }
}

/// Fisher and Yates with a small generator: the same order for the same seed.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for at in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(at, (state % (at as u64 + 1)) as usize);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_held_until_it_is_released_for_its_sha() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    let fork = RepoName::parse("eve/churn").unwrap();
    heart.sandbox.fork_repo(&heart.repo, &fork).await.unwrap();
    heart.tree.git(&["checkout", "--quiet", "-b", "theirs"]);
    heart.tree.write("evil.py", "print(2)");
    let head = heart.tree.commit("Do what I say");
    heart.tree.git(&["push", "--quiet", &heart.sandbox.git_url(&fork, "eve"), "HEAD:refs/heads/theirs"]);
    heart.open_pull("theirs", Some(&fork)).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let held = heart.runs().await.into_iter().find(|r| r.head_sha == head).unwrap();
    assert_eq!((held.state, held.trusted), (RunState::Held, false));
    assert_eq!(heart.executor.started().len(), 2, "only main ran");
    let other = fixture::sha('e');
    assert!(heart.store().release_run(&held.id, &other, "ada", T0).await.unwrap().is_err());
    heart.store().release_run(&held.id, &head, "ada", T0).await.unwrap().unwrap();
    heart.settle().await;
    let view = heart.store().run_view(&held.id).await.unwrap().unwrap();
    assert_eq!(states(&view), "succeeded: train succeeded, eval succeeded");
    // A writer pushes the same commit: it runs again, trusted.
    heart.tree.push(&["HEAD:refs/heads/ours"]);
    heart.hand_in_all().await;
    heart.settle().await;
    let newest = heart.store().head_run(&held.repo_id, "churn", &head).await.unwrap().unwrap();
    assert_eq!(
        (newest.generation, newest.trusted, newest.state),
        (2, true, RunState::Succeeded),
        "{:?}",
        heart.decisions().await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pipeline_file_is_an_errored_run_that_says_where() {
    let heart = Heart::new(good).await;
    heart.push_pipeline("name: churn\nsteps:\n  - {name: train, comands: [x]}\n").await;
    heart.hand_in_all().await;
    heart.settle().await;
    let view = heart.only_run().await;
    assert_eq!(
        (view.run.state, view.run.pipeline.as_str(), view.steps.len()),
        (RunState::Errored, "churn", 0)
    );
    assert!(view.run.reason.starts_with(".trainyard.yaml:3:19: "), "{}", view.run.reason);
    assert!(view.run.reason.contains("comands"), "{}", view.run.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hook_is_not_bound_to_is_ignored() {
    let heart = Heart::new(good).await;
    let other = RepoName::parse("bob/secret").unwrap();
    heart.sandbox.create_repo(&other, "main").await.unwrap();
    let tree = WorkTree::new(&heart.sandbox.git_url(&other, sandbox::WRITER));
    tree.write(".trainyard.yaml", TWO_STEPS);
    tree.commit("x");
    tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(heart.runs().await.len(), 0);
    let decisions = heart.decisions().await;
    assert!(
        decisions
            .iter()
            .all(|d| d.contains("ignored") && d.contains("bob/secret") && d.contains("bound to ada/churn")),
        "{decisions:?}"
    );
}

/// Who knows the secret of one repository's hook can sign a payload that has its name and the id of another repository.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_with_another_repositorys_id_is_ignored() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    let sent = heart.sandbox.deliveries().pop().unwrap();
    let victim = RepoRef {
        forge_id: "31337".into(),
        name: RepoName::parse("bob/secret").unwrap(),
        default_branch: "main".into(),
    };
    let row = heart.store().upsert_repo("github", &victim, T0).await.unwrap();
    let mut forged = sent.clone();
    forged.payload["repository"]["id"] = 31337.into();
    heart.hand_in(heart.store(), &forged, "forged").await;
    heart.settle().await;
    assert_eq!(heart.runs().await.len(), 0);
    let kept = heart.store().repo(&row).await.unwrap().unwrap();
    assert_eq!(kept.name.as_str(), "bob/secret", "the other repository keeps its name");
    let decisions = heart.decisions().await;
    assert!(decisions[0].contains("ignored") && decisions[0].contains("31337"), "{decisions:?}");
    // The true one is heard.
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(heart.only_run().await.run.state, RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forge_that_is_away_delays_a_decision_and_never_parks_it() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    let away = FaultKind::Answer { status: 503, headers: vec![], body: "away".into() };
    heart.sandbox.inject(Fault::next(10_000, away));
    heart.settle().await;
    for _ in 0..12 {
        heart.clock.advance(310_000);
        heart.settle().await;
    }
    assert_eq!(heart.runs().await.len(), 0);
    assert!(heart.decisions().await[0].contains("stored"), "{:?}", heart.decisions().await);
    assert_eq!(heart.store().parked(10).await.unwrap().len(), 0);
    // Back, with a replica that is behind: the push is not taken for one that never was.
    heart.sandbox.heal();
    let behind = || FaultKind::Answer { status: 404, headers: vec![], body: "{}".into() };
    for _ in 0..3 {
        heart.sandbox.inject(Fault::next(1, behind()));
        heart.clock.advance(400_000);
        heart.settle().await;
        assert!(heart.decisions().await[0].contains("stored"), "{:?}", heart.decisions().await);
    }
    heart.clock.advance(400_000);
    heart.settle().await;
    assert_eq!(states(&heart.only_run().await), "succeeded: train succeeded, eval succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_forge_never_has_is_ignored_after_a_few_tries() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    let gone = FaultKind::Answer { status: 404, headers: vec![], body: "{}".into() };
    heart.sandbox.inject(Fault::next(10_000, gone));
    for _ in 0..5 {
        heart.settle().await;
        heart.clock.advance(20_000);
    }
    let decisions = heart.decisions().await;
    assert!(decisions[0].contains("ignored") && decisions[0].contains("does not have it"), "{decisions:?}");
    assert_eq!(heart.runs().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_tried_once_more_and_a_failure_is_not() {
    let script = |step: &str, before: i64| match (step, before) {
        ("train", 0) => Act::Vanish(EndClass::NodeLost),
        ("train", _) => Act::Finish(EndClass::Succeeded),
        _ => Act::Finish(EndClass::Failed),
    };
    let heart = Heart::new(script).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    heart.settle().await;
    heart.pass(60).await;
    let view = heart.only_run().await;
    assert_eq!(states(&view), "failed: train succeeded, eval failed");
    assert_eq!(heart.executor.started(), ["train#1", "train#2", "eval#1"]);
    let classes: Vec<EndClass> = view.attempts.iter().filter_map(|a| a.class).collect();
    assert_eq!(classes, [EndClass::NodeLost, EndClass::Succeeded, EndClass::Failed]);
    assert_eq!(heart.executor.leftovers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_attempt_errs_and_a_busy_executor_is_asked_again() {
    let heart = Heart::new(|step, before| match step {
        "train" if before < 3 => Act::Busy,
        "train" => Act::Finish(EndClass::Succeeded),
        _ => Act::Refuse("there is no user to run as"),
    })
    .await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    heart.settle().await;
    heart.pass(60).await;
    let view = heart.only_run().await;
    assert_eq!(states(&view), "errored: train succeeded, eval errored");
    assert!(view.run.reason.contains("there is no user to run as"), "{}", view.run.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_the_running_attempt_again_and_a_cancel_ends_it() {
    let mut heart = Heart::new(|_, _| Act::Hang).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(states(&heart.only_run().await), "running: train running, eval waiting");
    for _ in 0..5 {
        heart.restart();
        heart.pass(60).await;
    }
    assert_eq!(heart.executor.started(), ["train#1"]);
    let run = heart.only_run().await.run.id;
    assert!(heart.store().request_cancel(&run, "asked by ada", heart.clock_now()).await.unwrap());
    heart.pass(60).await;
    let view = heart.only_run().await;
    assert_eq!(states(&view), "cancelled: train cancelled, eval cancelled");
    assert_eq!((view.run.reason.as_str(), heart.executor.leftovers()), ("asked by ada", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_commit_of_a_group_takes_over() {
    let heart =
        Heart::new(
            |step, before| {
                if step == "train" && before == 0 { Act::Hang } else { Act::Finish(EndClass::Succeeded) }
            },
        )
        .await;
    let pipeline =
        format!("{TWO_STEPS}concurrency: {{group: 'churn-${{CI_REF}}', cancel_in_progress: true}}\n");
    let first = heart.push_pipeline(&pipeline).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let second = heart.tree.commit("Again");
    heart.tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.settle().await;
    heart.pass(60).await;
    let by_sha: BTreeMap<Sha, RunRow> =
        heart.runs().await.into_iter().map(|r| (r.head_sha.clone(), r)).collect();
    assert_eq!(by_sha[&first].state, RunState::Superseded, "{:?}", heart.decisions().await);
    assert_eq!(by_sha[&second].state, RunState::Succeeded);
    assert!(by_sha[&first].reason.contains(second.short()), "{}", by_sha[&first].reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_cancelling_a_group_goes_one_by_one() {
    let heart =
        Heart::new(
            |step, before| {
                if step == "train" && before == 0 { Act::Hang } else { Act::Finish(EndClass::Succeeded) }
            },
        )
        .await;
    let pipeline = format!("{TWO_STEPS}concurrency: {{group: deploy}}\n");
    let first = heart.push_pipeline(&pipeline).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let second = heart.tree.commit("Again");
    heart.tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.pass(60).await;
    let find = async |sha: &Sha| heart.runs().await.into_iter().find(|r| r.head_sha == *sha).unwrap();
    assert_eq!(find(&second).await.state, RunState::Queued);
    let old = find(&first).await;
    heart.store().request_cancel(&old.id, "enough", heart.clock_now()).await.unwrap();
    heart.pass(60).await;
    assert_eq!(
        (find(&first).await.state, find(&second).await.state),
        (RunState::Cancelled, RunState::Succeeded)
    );
}

impl Heart {
    fn clock_now(&self) -> i64 {
        trainyard::clock::Clock::now_ms(&*self.clock)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    let row = heart.store().list_deliveries(None, 1).await.unwrap().remove(0);
    let forges = Forges::connect(&heart.config).unwrap();
    let intake = Intake::new(heart.store().clone(), heart.clock.clone(), heart.config.clone(), forges);
    let (event, plan) = intake.preview(&row).await.unwrap();
    let text = trainyard::intake::explain(event.as_ref(), &plan, ChangeWords::of(ForgeKind::Github));
    assert!(
        text.contains("decision: acted on: run of `churn`") && text.contains("step    eval after train"),
        "{text}"
    );
    assert_eq!(heart.runs().await.len(), 0);
    assert_eq!(heart.store().delivery(&row.id).await.unwrap().unwrap().state, DeliveryState::Stored);
    assert!(heart.dir.path().exists());
}

/// A handler that does what its item's key says.
struct Moody;

#[async_trait]
impl Handler for Moody {
    fn kind(&self) -> WorkKind {
        WorkKind::Compare
    }
    fn parks_after(&self, _: &anyhow::Error) -> Option<i64> {
        Some(5)
    }
    async fn handle(&self, item: &WorkItem) -> anyhow::Result<WorkOutcome> {
        match item.key.as_str() {
            "panic" => panic!("as asked"),
            "fail" => anyhow::bail!("no luck"),
            "later" => Ok(WorkOutcome::Again { at_ms: T0 + 5_000_000 }),
            _ => Ok(WorkOutcome::Done),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_outlives_panics_and_parks_what_fails_five_times() {
    let place = fixture::sqlite().await;
    let clock = ManualClock::at(T0);
    let ask = |key: &str| WorkAsk { kind: WorkKind::Compare, key: key.into(), at_ms: T0 };
    place.store.ask(["panic", "fail", "later", "good"].map(ask).into(), T0).await.unwrap();
    let worker = Worker::new(place.store.clone(), clock.clone(), "test").register(Arc::new(Moody), 2);
    assert_eq!(worker.run_until_idle().await.unwrap(), 4);
    let mut looked = Vec::new();
    for _ in 0..6 {
        clock.advance(400_000);
        looked.push(worker.run_until_idle().await.unwrap());
    }
    assert_eq!(looked, [2, 2, 2, 2, 0, 0]);
    let parked: BTreeMap<String, String> =
        place.store.parked(10).await.unwrap().into_iter().map(|(item, why)| (item.key, why)).collect();
    assert_eq!(parked["fail"], "no luck");
    assert_eq!(parked["panic"], "the handler panicked: as asked");
    assert_eq!(parked.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_drops_the_handlers_result() {
    struct Slow(Arc<tokio::sync::Notify>, Arc<tokio::sync::Notify>);
    #[async_trait]
    impl Handler for Slow {
        fn kind(&self) -> WorkKind {
            WorkKind::Compare
        }
        async fn handle(&self, _: &WorkItem) -> anyhow::Result<WorkOutcome> {
            self.0.notify_one();
            self.1.notified().await;
            Ok(WorkOutcome::Done)
        }
    }
    let place = fixture::sqlite().await;
    let clock = ManualClock::at(T0);
    let (began, go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    place.store.ask(vec![WorkAsk { kind: WorkKind::Compare, key: "x".into(), at_ms: T0 }], T0).await.unwrap();
    let slow = Slow(began.clone(), go_on.clone());
    let worker = Worker::new(place.store.clone(), clock.clone(), "first").register(Arc::new(slow), 1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (worker, stop) = (worker.clone(), stop.clone());
        async move { worker.run(stop).await }
    });
    began.notified().await;
    // Its lease runs out, someone else takes over.
    clock.advance(61_000);
    let taken = place.store.claim(&[WorkKind::Compare], "second", T0 + 61_000, 60_000, 1).await.unwrap();
    assert_eq!(taken.len(), 1);
    go_on.notify_one();
    stop.cancel();
    running.await.unwrap();
    // The first one's "done" deleted nothing: the item is still the second one's.
    assert!(place.store.settle(&taken[0], WorkOutcome::Done, T0 + 62_000).await.unwrap());
}
