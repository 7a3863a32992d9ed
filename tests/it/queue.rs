//! The fair queue: the real store, the real scheduler, and a clock that jumps from one end of an attempt to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard::clock::{Clock, ManualClock, Millis};
use trainyard::config::Config;
use trainyard::model::{AttemptUid, EndClass, RepoId, RepoName, RepoRef, RunId, RunState, Sha, StepState};
use trainyard::queue::Handler;
use trainyard::run::Scheduler;
use trainyard::run::schedule::{Scene, Wait, pick};
use trainyard::store::Instance;
use trainyard::store::runs::{NewRun, StepMove};
use trainyard::store::work::{WorkAsk, WorkKind};

use crate::store::fixture::{self, Place, T0};

const GPUS: u32 = 4;

/// A pool of four GPUs, and who waits for it.
struct Yard {
    place: Place,
    clock: Arc<ManualClock>,
    config: Arc<Config>,
    scheduler: Scheduler,
    repos: BTreeMap<&'static str, RepoId>,
    made: u64,
    rng: u64,
    /// By the time of its end: who holds how many GPUs since when.
    running: BTreeMap<(Millis, AttemptUid), Held>,
}

#[derive(Debug, Clone)]
struct Held {
    repo: RepoId,
    gpus: u32,
    since: Millis,
}

impl Yard {
    async fn new(repos: &[&'static str]) -> Self {
        let place = fixture::sqlite().await;
        let clock = ManualClock::at(T0);
        let text = format!(
            "data_dir = \"/nowhere\"\npublic_url = \"http://trainyard.test\"\n[pool.default]\nslots = {GPUS}\ngpus = {GPUS}\n"
        );
        let config = Arc::new(Config::parse(&text, |_| None).unwrap());
        let instance = Arc::new(Instance::load(&place.store).await.unwrap());
        let scheduler = Scheduler::new(place.store.clone(), clock.clone(), config.clone(), instance);
        let mut ids = BTreeMap::new();
        for (n, name) in repos.iter().enumerate() {
            let repo = RepoRef {
                forge_id: n.to_string(),
                name: RepoName::parse(&format!("team/{name}")).unwrap(),
                default_branch: "main".into(),
            };
            ids.insert(*name, place.store.upsert_repo("github", &repo, T0).await.unwrap());
        }
        Self { place, clock, config, scheduler, repos: ids, made: 0, rng: 42, running: BTreeMap::new() }
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % below
    }

    fn new_run(&mut self, repo: &RepoId, gpus: u32) -> NewRun {
        self.made += 1;
        let now = self.clock.now_ms();
        let mut run =
            fixture::new_run(repo, &Sha::parse(&format!("{:040x}", self.made)).unwrap(), RunState::Queued);
        run.id = RunId::generate(now);
        run.concurrency = None;
        run.plan = fixture::plan(&["train"]);
        run.plan.steps[0].resources.gpu = gpus;
        run
    }

    /// A new run of one step, ready for its place.
    async fn submit(&mut self, name: &str, gpus: u32) {
        let repo = self.repos[name].clone();
        let run = self.new_run(&repo, gpus);
        let id = self.place.runs(vec![run]).await.remove(0);
        self.make_ready(&id).await;
    }

    async fn make_ready(&self, id: &RunId) {
        let view = self.place.view(id).await;
        let mut change = self.place.change(id).await;
        change.steps = vec![StepMove {
            step: view.steps[0].id.clone(),
            to: StepState::Ready,
            reason: String::new(),
            outputs: None,
        }];
        self.place.store.apply(change, self.clock.now_ms()).await.unwrap();
    }

    /// One look of the scheduler. Returns (repository, wait) of each step that got a place.
    async fn schedule(&mut self) -> Vec<(RepoId, Millis)> {
        let before: BTreeMap<_, _> = self
            .place
            .store
            .ready_steps()
            .await
            .unwrap()
            .into_iter()
            .map(|s| (s.step_id.clone(), s))
            .collect();
        let at = self.clock.now_ms();
        self.place.store.ask(vec![WorkAsk::schedule(at)], at).await.unwrap();
        for item in self.place.store.claim(&[WorkKind::Schedule], "test", at, 60_000, 9).await.unwrap() {
            let outcome = self.scheduler.handle(&item).await.unwrap();
            self.place.store.settle(&item, outcome, at).await.unwrap();
        }
        let mut placed = Vec::new();
        let now = self.clock.now_ms();
        for uid in self.place.store.unremoved_attempts().await.unwrap() {
            let attempt = self.place.store.attempt(&uid).await.unwrap().unwrap();
            let Some(step) = before.get(&attempt.step_id) else { continue };
            let took = 60_000 * (1 + self.roll(20) as Millis);
            let held = Held { repo: step.repo_id.clone(), gpus: attempt.gpus.len() as u32, since: now };
            self.running.insert((now + took, attempt.uid.clone()), held);
            placed.push((step.repo_id.clone(), now - step.ready_ms));
        }
        placed
    }

    /// To the next end of an attempt.
    async fn end_one(&mut self) -> Held {
        let ((at, uid), held) = self.running.pop_first().unwrap();
        self.clock.advance((at - self.clock.now_ms()).max(0));
        let end = trainyard::store::attempts::AttemptMove {
            uid: uid.clone(),
            to: trainyard::model::AttemptState::Ended,
            class: Some(EndClass::Succeeded),
            reason: String::new(),
            exit_code: None,
            cancel: false,
            handle: None,
        };
        assert!(self.place.store.move_attempt(end, at).await.unwrap());
        self.place.store.attempt_removed(&uid, None, at).await.unwrap();
        held
    }
}

/// Two repositories submit at 100:1. The smaller one always has one step waiting, the larger one a hundred.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_repository_gets_its_half_beside_one_that_submits_a_hundred_times_as_much() {
    let mut yard = Yard::new(&["large", "small"]).await;
    let (large, small) = (yard.repos["large"].clone(), yard.repos["small"].clone());
    let waiting = async |yard: &Yard, repo: &RepoId| {
        yard.place.store.ready_steps().await.unwrap().iter().filter(|s| s.repo_id == *repo).count()
    };
    let mut gpu_ms: BTreeMap<RepoId, i64> = BTreeMap::new();
    let mut longest: BTreeMap<RepoId, Millis> = BTreeMap::new();
    let mut served = 0;
    while served < 1000 {
        while waiting(&yard, &large).await < 100 {
            let gpus = 1 + yard.roll(2) as u32;
            yard.submit("large", gpus).await;
        }
        while waiting(&yard, &small).await < 1 {
            let gpus = 1 + yard.roll(2) as u32;
            yard.submit("small", gpus).await;
        }
        let placed = yard.schedule().await;
        served += placed.len();
        for (repo, wait) in &placed {
            let most = longest.entry(repo.clone()).or_default();
            *most = (*most).max(*wait);
        }
        if placed.is_empty() {
            let held = yard.end_one().await;
            let used = (yard.clock.now_ms() - held.since) * i64::from(held.gpus);
            *gpu_ms.entry(held.repo).or_default() += used;
        }
    }
    let total: i64 = gpu_ms.values().sum();
    let share = gpu_ms[&small] as f64 / total as f64;
    // Whoever has one step waiting is next as soon as it is behind: a few ends of at most 20 minutes each. The others wait for
    // the hundred before them, half of the pool's time, 15.75 GPU minutes each on average.
    let (bound_small, bound_large) = (4 * 20 * 60_000, (100 * 20 * 2 * 60_000) / i64::from(GPUS) * 2);
    println!(
        "FIGURE queue.fair steps={served} submitted=100:1 small_share={:.3} small_longest_wait_s={} bound_s={} \
         large_longest_wait_s={} bound_s={}",
        share,
        longest[&small] / 1000,
        bound_small / 1000,
        longest[&large] / 1000,
        bound_large / 1000
    );
    assert!((share - 0.5).abs() <= 0.05, "{share}");
    assert!(longest[&small] <= bound_small && longest[&large] <= bound_large, "{longest:?}");
}

/// A held run is released while a younger run of its group is ready: one of them runs, never both.
#[tokio::test]
async fn a_released_run_does_not_run_beside_a_younger_one_of_its_group() {
    let mut yard = Yard::new(&["one"]).await;
    let repo = yard.repos["one"].clone();
    let mut make = async |state: RunState| {
        let mut run = yard.new_run(&repo, 1);
        run.concurrency = Some("group".into());
        run.state = state;
        yard.clock.advance(1000);
        yard.place.runs(vec![run]).await.remove(0)
    };
    let held = make(RunState::Held).await;
    let younger = make(RunState::Queued).await;
    yard.make_ready(&younger).await;
    let sha = yard.place.view(&held).await.run.head_sha;
    yard.place.store.release_run(&held, &sha, "ada", T0).await.unwrap().unwrap();
    yard.make_ready(&held).await;
    let scene = async |yard: &Yard| Scene::read(&yard.place.store, &yard.config, T0).await.unwrap();
    assert_eq!(yard.schedule().await.len(), 1);
    assert_eq!(yard.place.view(&held).await.steps[0].state, StepState::Running);
    let after = scene(&yard).await;
    assert_eq!(pick(&after).waits, [(0, Wait::Group(held.clone()))]);
    assert!(yard.schedule().await.is_empty());
    // The other way round: the younger one has begun.
    yard.end_one().await;
    let mut end = yard.place.change(&held).await;
    end.to = Some((RunState::Succeeded, String::new()));
    end.steps = vec![StepMove {
        step: yard.place.view(&held).await.steps[0].id.clone(),
        to: StepState::Succeeded,
        reason: String::new(),
        outputs: None,
    }];
    yard.place.store.apply(end, T0).await.unwrap();
    assert_eq!(yard.schedule().await.len(), 1);
    assert_eq!(yard.place.view(&younger).await.steps[0].state, StepState::Running);
    println!("FIGURE queue.group runs=2 at_once=1");
}
