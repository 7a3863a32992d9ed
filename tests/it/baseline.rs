//! Which run a candidate is held against, in twelve situations, on a real store and a forge's commit graph.

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard::agent::sheet::{self, Sheet};
use trainyard::blob::Blobs;
use trainyard::clock::{Clock, ManualClock, Millis};
use trainyard::config::Config;
use trainyard::forge::Forges;
use trainyard::model::plan::{Baseline, Gate, MetricsSpec};
use trainyard::model::{
    AttemptState, ComparisonState, EndClass, MetricPoint, PullRequest, RepoId, RunId, RunState, Sha,
    StepState, Tolerance, Verdict,
};
use trainyard::queue::Worker;
use trainyard::report::Reporter;
use trainyard::results::Comparer;
use trainyard::store::attempts::{ArtifactRow, AttemptMove};
use trainyard::store::comparisons::ComparisonRow;
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::runs::{NewRun, StepMove};
use trainyard::store::work::{WorkAsk, WorkKind};
use trainyard::store::{Instance, Store};

use crate::drive::drive;
use crate::fake_forge::FakeForge;
use crate::store::fixture::{self, Place, T0};

pub struct World {
    pub place: Place,
    pub clock: Arc<ManualClock>,
    pub forge: Arc<FakeForge>,
    pub config: Arc<Config>,
    pub comparer: Comparer,
    pub repo: RepoId,
    pub forges: Arc<Forges>,
    blobs: Blobs,
}

/// A commit whose id starts with these letters.
pub fn sha(start: &str) -> Sha {
    Sha::parse(&format!("{start:0<40}")).unwrap()
}

impl World {
    /// main: a1 ← a2 ← a3, with the pull request's head at b1, on top of a3.
    pub async fn new() -> Self {
        let place = fixture::sqlite().await;
        let clock = ManualClock::at(T0);
        let forge = FakeForge::new(clock.clone());
        let (a1, a2, a3, b1) = (sha("a1"), sha("a2"), sha("a3"), sha("b1"));
        forge.commit_on(&a1, &[]);
        forge.commit_on(&a2, &[&a1]);
        forge.commit_on(&a3, &[&a2]);
        forge.commit_on(&b1, &[&a3]);
        forge.branch("main", &a3);
        let mut forges = Forges::default();
        forges.insert("github", forge.clone());
        let forges = Arc::new(forges);
        let toml =
            "data_dir = \"/tmp\"\npublic_url = \"https://ci.example\"\n[limits]\nbaseline_timeout_s = 3600\n";
        let config = Arc::new(Config::parse(toml, |_| None).unwrap());
        let repo = place.repo().await;
        let blobs = Blobs::local(&place.path.with_file_name("blobs")).unwrap();
        let comparer =
            Comparer::new(place.store.clone(), forges.clone(), clock.clone(), config.clone(), blobs.clone());
        Self { place, clock, forge, config, comparer, repo, forges, blobs }
    }

    pub fn store(&self) -> &Store {
        &self.place.store
    }

    pub async fn insert(&self, sha: &Sha, branch: &str, change: impl FnOnce(&mut NewRun)) -> RunId {
        let mut run = fixture::new_run(&self.repo, sha, RunState::Queued);
        run.id = RunId::generate(self.clock.now_ms());
        run.branch = branch.into();
        run.plan = fixture::plan(&["train"]);
        run.plan.metrics = MetricsSpec {
            primary: Some("accuracy".into()),
            gates: vec![(
                "accuracy".into(),
                Gate { no_worse_than: Some(Tolerance::Relative(0.01)), ..Gate::default() },
            )],
            ..MetricsSpec::default()
        };
        run.concurrency = None;
        change(&mut run);
        self.place.runs(vec![run]).await.remove(0)
    }

    /// Ends a queued run like this, with an accuracy when it got that far.
    pub async fn end(&self, run: &RunId, state: RunState, accuracy: f64) {
        self.end_leaving(run, state, accuracy, None).await;
    }

    /// The same, with a sheet of predictions left behind.
    async fn end_leaving(&self, run: &RunId, state: RunState, accuracy: f64, sheet: Option<&Sheet>) {
        self.clock.advance(1_000);
        let now = self.clock.now_ms();
        let trained = matches!(state, RunState::Succeeded | RunState::Failed);
        let mut moves = (vec![], vec![]);
        if trained {
            let uid = self.place.started(run).await;
            let point = MetricPoint { name: "accuracy".into(), value: accuracy, step: None, at_ms: now };
            self.store().record_metrics(&uid, 1, vec![point], BTreeMap::new(), now).await.unwrap();
            if let Some(sheet) = sheet {
                let bytes = sheet.encode().unwrap();
                let blob_key = format!("artifacts/{uid}");
                let artifact = ArtifactRow {
                    attempt_uid: uid.clone(),
                    path: sheet::PATH.into(),
                    bytes: bytes.len() as i64,
                    sha256: String::new(),
                    executable: false,
                    blob_key: blob_key.clone(),
                };
                self.blobs.put(&blob_key, bytes.into()).await.unwrap();
                assert!(self.store().put_artifact(artifact, now).await.unwrap());
            }
            let good = state == RunState::Succeeded;
            moves.0.push(StepMove {
                step: self.place.view(run).await.steps[0].id.clone(),
                to: if good { StepState::Succeeded } else { StepState::Failed },
                reason: String::new(),
                outputs: None,
            });
            moves.1.push(AttemptMove {
                uid,
                to: AttemptState::Ended,
                class: Some(if good { EndClass::Succeeded } else { EndClass::Failed }),
                reason: String::new(),
                exit_code: Some(i64::from(!good)),
                cancel: false,
                handle: None,
            });
        }
        let mut change = self.place.change(run).await;
        change.to = Some((state, String::new()));
        (change.steps, change.attempts) = moves;
        change.asks = vec![WorkAsk::compare(run, now)];
        let applied = self.store().apply(change, now).await.unwrap();
        assert_eq!(applied, trainyard::store::runs::Applied::Done);
    }

    pub async fn run_at(&self, at: &Sha, state: RunState, accuracy: f64) -> RunId {
        let run = self.insert(at, "main", |_| {}).await;
        self.end(&run, state, accuracy).await;
        run
    }

    /// The pull request as the forge now has it.
    pub async fn pull(&self, head: &Sha, change: impl FnOnce(&mut PullRequest)) {
        let mut pull = fixture::pull(12, head);
        change(&mut pull);
        let new = fixture::delivery(RunId::generate(self.clock.now_ms()).as_str(), b"{}");
        let id = new.id.clone();
        self.store().deliver(new).await.unwrap();
        let commit = IntakeCommit { pulls: vec![(self.repo.clone(), pull)], ..fixture::intake(&id) };
        self.store().commit_intake(commit, self.clock.now_ms()).await.unwrap();
    }

    /// A pull request with a run that reached this accuracy.
    pub async fn candidate(&self, head: &Sha, accuracy: f64) -> RunId {
        self.pull(head, |_| {}).await;
        let run = self.insert(head, "longer", |_| {}).await;
        self.end(&run, RunState::Succeeded, accuracy).await;
        run
    }

    pub async fn ask(&self, run: &RunId) {
        let now = self.clock.now_ms();
        self.store().ask(vec![WorkAsk::compare(run, now)], now).await.unwrap();
    }

    /// Until nothing is due now.
    pub async fn settle(&self) {
        self.settle_for(0).await;
    }
    pub async fn settle_for(&self, ms: Millis) {
        drive(self.store(), &self.clock, &[&self.comparer], self.clock.now_ms() + ms).await;
    }

    pub async fn only(&self, run: &RunId) -> ComparisonRow {
        let mut rows = self.store().comparisons_of(run).await.unwrap();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }
}

type Seen = (Option<RunId>, ComparisonState, Option<Verdict>, String);

fn seen(row: ComparisonRow) -> Seen {
    (row.baseline, row.state, row.verdict, row.baseline_note)
}

fn expect(seen: Seen, run: Option<&RunId>, verdict: Option<Verdict>, note: &str) {
    let state = if verdict.is_some() { ComparisonState::Final } else { ComparisonState::Pending };
    assert_eq!(seen, (run.cloned(), state, verdict, note.to_owned()));
}

#[tokio::test]
async fn the_baseline_is_the_right_one_in_twelve_situations() {
    use Verdict::{Fail, Inconclusive, Pass};
    let (a1, a2, a3, b1) = (sha("a1"), sha("a2"), sha("a3"), sha("b1"));
    let mut cases = 0;
    let mut done = |name: &str| {
        cases += 1;
        println!("{cases:>2} {name}");
    };

    // 1: it has ended well.
    let w = World::new().await;
    let base = w.run_at(&a3, RunState::Succeeded, 0.80).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), "main at a300000, the merge-base");
    done("the merge-base's run succeeded");

    // 2: it is running, and is waited for; when it ends, the comparison is made again without being asked.
    let w = World::new().await;
    let base = w.insert(&a3, "main", |_| {}).await;
    let run = w.candidate(&b1, 0.70).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), None, "main at a300000, the merge-base");
    w.end(&base, RunState::Succeeded, 0.80).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), Some(Fail), "main at a300000, the merge-base");
    done("the merge-base's run is running");

    // 3: it does not end in time: inconclusive; when it ends later, that still counts.
    let w = World::new().await;
    let base = w.insert(&a3, "main", |_| {}).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle_for(3_700_000).await;
    let late = "no baseline: main at a300000, the merge-base, was still queued after 1 h";
    expect(seen(w.only(&run).await), Some(&base), Some(Inconclusive), late);
    w.end(&base, RunState::Succeeded, 0.80).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), "main at a300000, the merge-base");
    done("the time to wait is over");

    // 4: it failed, and so did the one before.
    let w = World::new().await;
    let base = w.run_at(&a1, RunState::Succeeded, 0.80).await;
    w.run_at(&a2, RunState::Failed, 0.1).await;
    w.run_at(&a3, RunState::Failed, 0.1).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    let note = "main at a100000, 2 commits before the merge-base a300000, because its run failed";
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), note);
    done("the merge-base's run failed");

    // 5: there is none, since no path matched.
    let w = World::new().await;
    let base = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    w.run_at(&a3, RunState::Skipped, 0.0).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    let note = "main at a200000, 1 commit before the merge-base a300000, because its run was skipped";
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), note);
    done("the merge-base's run was skipped");

    // 6: nothing anywhere; a run that comes later is taken.
    let w = World::new().await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    let note = "no baseline: none of the 2 commits before the merge-base a300000 has a good run, because it has no run of this pipeline";
    expect(seen(w.only(&run).await), None, Some(Inconclusive), note);
    let base = w.run_at(&a3, RunState::Succeeded, 0.80).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), "main at a300000, the merge-base");
    done("there is no run at all, until there is");

    // 7: it was cancelled while it was waited for.
    let w = World::new().await;
    let old = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    let base = w.insert(&a3, "main", |_| {}).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), None, "main at a300000, the merge-base");
    w.end(&base, RunState::Cancelled, 0.0).await;
    w.settle().await;
    let note = "main at a200000, 1 commit before the merge-base a300000, because its run was cancelled";
    expect(seen(w.only(&run).await), Some(&old), Some(Pass), note);
    done("the merge-base's run is cancelled");

    // 8: an untrusted run is passed over, however good.
    let w = World::new().await;
    let base = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    let evil = w.insert(&a3, "main", |run| run.trusted = false).await;
    w.end(&evil, RunState::Succeeded, 0.01).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    let note = "main at a200000, 1 commit before the merge-base a300000, because its run is not trusted";
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), note);
    done("the merge-base's run is not trusted");

    // 9: a rebase, which is a forced push of another head with another merge-base.
    let w = World::new().await;
    let old = w.run_at(&a2, RunState::Succeeded, 0.70).await;
    let base = w.run_at(&a3, RunState::Succeeded, 0.80).await;
    let (b0, b2) = (sha("b0"), sha("b2"));
    w.forge.commit_on(&b0, &[&a2]);
    let first = w.candidate(&b0, 0.75).await;
    w.settle().await;
    expect(seen(w.only(&first).await), Some(&old), Some(Pass), "main at a200000, the merge-base");
    w.forge.commit_on(&b2, &[&a3]);
    let second = w.candidate(&b2, 0.75).await;
    w.ask(&first).await;
    w.settle().await;
    expect(seen(w.only(&second).await), Some(&base), Some(Fail), "main at a300000, the merge-base");
    // The old head has no pull request any more: it is a commit of its branch.
    assert_eq!(w.only(&first).await.target, "branch:longer");
    done("the branch was rebased and force-pushed");

    // 10: retargeted to another base, then closed.
    let w = World::new().await;
    let main = w.run_at(&a3, RunState::Succeeded, 0.80).await;
    w.forge.branch("release", &a1);
    let release = w.run_at(&a1, RunState::Succeeded, 0.90).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&main), Some(Pass), "main at a300000, the merge-base");
    w.pull(&b1, |pull| pull.base_branch = "release".into()).await;
    w.ask(&run).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&release), Some(Fail), "release at a100000, the merge-base");
    w.pull(&b1, |pull| pull.open = false).await;
    w.ask(&run).await;
    w.settle().await;
    let row = w.only(&run).await;
    assert_eq!((row.target.as_str(), row.baseline.as_ref()), ("branch:longer", Some(&main)));
    done("the pull request was retargeted");

    // 11: on the default branch, against what came before it; a run in progress is not waited for.
    let w = World::new().await;
    let base = w.run_at(&a1, RunState::Succeeded, 0.80).await;
    w.insert(&a2, "main", |_| {}).await;
    let run = w.run_at(&a3, RunState::Succeeded, 0.81).await;
    w.settle().await;
    let row = w.only(&run).await;
    assert_eq!(row.target, "branch:main");
    expect(seen(row), Some(&base), Some(Pass), "main at a100000, 2 commits before this commit");
    done("a push to the default branch");

    // 12: the head is part of the base already: it is not held against itself.
    let w = World::new().await;
    let base = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    w.pull(&a3, |_| {}).await;
    let run = w.run_at(&a3, RunState::Succeeded, 0.81).await;
    w.settle().await;
    let note = "main at a200000, 1 commit before this commit, because this commit is part of main already";
    expect(seen(w.only(&run).await), Some(&base), Some(Pass), note);
    done("head and merge-base are the same commit");

    println!("FIGURE baseline_cases={cases} failed=0");
}

#[tokio::test]
async fn a_pipeline_may_name_a_branch_or_a_run() {
    let (a2, a3, b1) = (sha("a2"), sha("a3"), sha("b1"));
    let w = World::new().await;
    let two = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    w.run_at(&a3, RunState::Failed, 0.80).await;
    w.pull(&b1, |_| {}).await;
    let against = |baseline: Baseline| {
        let (w, b1) = (&w, &b1);
        async move {
            let newest = w.store().head_run(&w.repo, "churn", b1).await.unwrap();
            let run = w
                .insert(b1, "longer", |run| {
                    run.plan.metrics.baseline = baseline;
                    run.generation = newest.map_or(0, |r| r.generation + 1);
                })
                .await;
            w.end(&run, RunState::Succeeded, 0.81).await;
            w.settle().await;
            w.only(&run).await
        }
    };
    let row = against(Baseline::Branch("main".into())).await;
    expect(seen(row), Some(&two), Some(Verdict::Pass), "main at a200000, its newest good run");
    let row = against(Baseline::Run(two.to_string())).await;
    expect(seen(row), Some(&two), Some(Verdict::Pass), &format!("run {two} of main at a200000"));
    let row = against(Baseline::Run("00000000".into())).await;
    expect(seen(row), None, Some(Verdict::Inconclusive), "no baseline: run:00000000 is not known");
    let row = against(Baseline::Model("production".into())).await;
    let note = "no baseline: model:production needs a model registry, which this version does not have";
    expect(seen(row), None, Some(Verdict::Inconclusive), note);
}

/// The branch that a pull request goes to has no say where its pipeline names another.
#[tokio::test]
async fn a_good_run_of_the_branch_that_a_pipeline_names_is_taken_when_it_comes() {
    let w = World::new().await;
    w.forge.branch("dev", &sha("a1"));
    w.pull(&sha("b1"), |pull| pull.base_branch = "dev".into()).await;
    let run = w
        .insert(&sha("b1"), "longer", |run| run.plan.metrics.baseline = Baseline::Branch("main".into()))
        .await;
    w.end(&run, RunState::Succeeded, 0.81).await;
    w.settle().await;
    let none = "no baseline: branch main has no good run of this pipeline";
    expect(seen(w.only(&run).await), None, Some(Verdict::Inconclusive), none);
    for (at, note) in
        [("a2", "main at a200000, its newest good run"), ("a3", "main at a300000, its newest good run")]
    {
        let base = w.run_at(&sha(at), RunState::Succeeded, 0.80).await;
        w.settle().await;
        expect(seen(w.only(&run).await), Some(&base), Some(Verdict::Pass), note);
    }
}

#[tokio::test]
async fn a_baseline_that_runs_again_and_ends_badly_is_one_no_more() {
    let (a2, a3, b1) = (sha("a2"), sha("a3"), sha("b1"));
    let here = "main at a300000, the merge-base";
    let again = async |w: &World, state| {
        let run = w.insert(&a3, "main", |run| run.generation = 1).await;
        w.end(&run, state, 0.1).await;
        w.settle().await;
    };
    let w = World::new().await;
    let old = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    let base = w.run_at(&a3, RunState::Succeeded, 0.90).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), Some(Verdict::Fail), here);
    again(&w, RunState::Failed).await;
    let note = "main at a200000, 1 commit before the merge-base a300000, because its run failed";
    expect(seen(w.only(&run).await), Some(&old), Some(Verdict::Pass), note);

    // The same where it was still waited for.
    let w = World::new().await;
    let old = w.run_at(&a2, RunState::Succeeded, 0.80).await;
    let base = w.insert(&a3, "main", |_| {}).await;
    let run = w.candidate(&b1, 0.81).await;
    w.settle().await;
    expect(seen(w.only(&run).await), Some(&base), None, here);
    again(&w, RunState::Cancelled).await;
    let note = "main at a200000, 1 commit before the merge-base a300000, because its run was cancelled";
    expect(seen(w.only(&run).await), Some(&old), Some(Verdict::Pass), note);
}

#[tokio::test]
async fn two_branches_that_are_each_others_base_do_not_wake_each_other_for_ever() {
    let (a2, a3) = (sha("a2"), sha("a3"));
    let w = World::new().await;
    w.forge.branch("left", &a2);
    w.forge.branch("right", &a3);
    w.pull(&a2, |p| (p.number, p.head_branch, p.base_branch) = (1, "left".into(), "right".into())).await;
    w.pull(&a3, |p| (p.number, p.head_branch, p.base_branch) = (2, "right".into(), "left".into())).await;
    for (at, branch) in [(&a2, "left"), (&a3, "right")] {
        let run = w.insert(at, branch, |_| {}).await;
        w.end(&run, RunState::Succeeded, 0.8).await;
    }
    w.settle().await; // `drive` panics when it never ends
}

#[tokio::test]
async fn a_run_that_ends_wakes_only_whom_it_concerns() {
    const PULLS: usize = 20;
    let (a3, a4, a5) = (sha("a3"), sha("a4"), sha("a5"));
    let w = World::new().await;
    let base = w.run_at(&a3, RunState::Succeeded, 0.80).await;
    let mut candidates = Vec::new();
    for n in 0..PULLS {
        let head = sha(&format!("c{n:02}"));
        w.forge.commit_on(&head, &[&a3]);
        w.pull(&head, |pull| pull.number = 100 + n as i64).await;
        let run = w.insert(&head, &format!("topic-{n}"), |_| {}).await;
        w.end(&run, RunState::Succeeded, 0.81).await;
        candidates.push(run);
    }
    w.settle().await;
    let baselines = async || {
        let mut all = Vec::new();
        for run in &candidates {
            all.push(w.only(run).await.baseline.unwrap());
        }
        all
    };
    assert_eq!(baselines().await, vec![base; PULLS]);

    // A merge: its run has a baseline of its own to find, and is none of theirs.
    let asked = w.forge.asked();
    w.forge.commit_on(&a4, &[&a3]);
    w.forge.branch("main", &a4);
    let four = w.run_at(&a4, RunState::Succeeded, 0.80).await;
    w.settle().await;
    let merge = w.forge.asked() - asked;
    assert_eq!(merge, 1, "questions to the forge");

    // One that had to do with an earlier run takes the nearer one when it has come.
    w.forge.commit_on(&a5, &[&a4]);
    w.forge.branch("main", &a5);
    let head = sha("d1");
    w.forge.commit_on(&head, &[&a5]);
    let late = w.candidate(&head, 0.81).await;
    w.settle().await;
    assert_eq!(w.only(&late).await.baseline, Some(four));
    let asked = w.forge.asked();
    let five = w.run_at(&a5, RunState::Succeeded, 0.80).await;
    w.settle().await;
    assert_eq!(w.only(&late).await.baseline, Some(five));
    assert_eq!(w.forge.asked() - asked, 2, "its own, and that one's");

    // A commit that runs again is a newer run of it for all that are held against that commit.
    let again = w.insert(&a3, "main", |run| run.generation = 1).await;
    w.end(&again, RunState::Succeeded, 0.80).await;
    w.settle().await;
    assert_eq!(baselines().await, vec![again; PULLS]);
    println!("FIGURE compare_open_pulls={} questions_per_merge={merge}", PULLS + 1);
}

#[tokio::test]
async fn a_judgement_outlives_the_predictions_that_it_rests_on() {
    let w = World::new().await;
    let predicted = |run: &mut NewRun| {
        let spec = serde_json::json!({"path": "p.csv", "id": "id", "label": "label", "prediction": "said", "metrics": ["accuracy"], "slices": []});
        run.plan.metrics.predictions = Some(serde_json::from_value(spec).unwrap());
    };
    let sheet = |right: usize| Sheet {
        test_set: "the same".into(),
        ids: (0..1_000).collect(),
        means: vec![("accuracy".into(), (0..1_000).map(|n| f64::from(n < right)).collect())],
        ..Sheet::default()
    };
    let base = w.insert(&sha("a3"), "main", predicted).await;
    w.end_leaving(&base, RunState::Succeeded, 0.80, Some(&sheet(800))).await;
    w.pull(&sha("b1"), |_| {}).await;
    let run = w.insert(&sha("b1"), "longer", predicted).await;
    w.end_leaving(&run, RunState::Succeeded, 0.81, Some(&sheet(810))).await;
    w.settle().await;
    let judged = w.only(&run).await;
    let of_examples = judged.result["metrics"][0].clone();
    assert_eq!(judged.verdict, Some(Verdict::Pass), "{of_examples:#}");

    // Retention takes what the runs left; the comparison is looked at again all the same.
    for id in [&base, &run] {
        let keys: Vec<String> =
            w.store().run_artifacts(id).await.unwrap().into_iter().map(|a| a.blob_key).collect();
        assert_eq!(keys.len(), 1);
        w.blobs.delete(&keys).await.unwrap();
    }
    w.ask(&run).await;
    w.settle().await;
    assert_eq!(w.only(&run).await, judged);
}

/// Nobody can compare or report for a forge that was taken out of the configuration: that ends, is shown, and is taken up by a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_a_forge_that_is_not_configured_is_parked_until_a_start() {
    let w = World::new().await;
    let run = w.candidate(&sha("b1"), 0.81).await;
    let now = w.clock.now_ms();
    w.store().ask(vec![WorkAsk::report_commit(&w.repo, &sha("b1"), now)], now).await.unwrap();
    let instance = Arc::new(Instance::load(w.store()).await.unwrap());
    let worker = |forges: Arc<Forges>| {
        let (store, clock, config) = (w.store().clone(), w.clock.clone(), w.config.clone());
        let comparer =
            Comparer::new(store.clone(), forges.clone(), clock.clone(), config.clone(), w.blobs.clone());
        let reporter =
            Reporter::new(store.clone(), forges, w.blobs.clone(), clock.clone(), config, instance.clone());
        Worker::new(store, clock, "test").register(Arc::new(comparer), 1).register(Arc::new(reporter), 1)
    };
    let without = worker(Arc::default());
    let mut looked = 0;
    for _ in 0..20 {
        looked += without.run_until_idle().await.unwrap();
        w.clock.advance(400_000);
    }
    let parked = w.store().parked(9).await.unwrap();
    let mut kinds: Vec<&str> = parked.iter().map(|(item, _)| item.kind.word()).collect();
    kinds.sort_unstable();
    assert_eq!((looked, kinds), (20, vec!["compare", "report"]), "ten tries each");
    for (_, error) in &parked {
        assert!(
            error.ends_with("forge github is not configured any more; add [forge.github] again"),
            "{error}"
        );
    }

    for kind in [WorkKind::Compare, WorkKind::Report] {
        w.store().retry_parked(kind, w.clock.now_ms()).await.unwrap();
    }
    worker(w.forges.clone()).run_until_idle().await.unwrap();
    assert_eq!(w.store().count_parked().await.unwrap(), 0);
    assert_eq!(w.only(&run).await.state, ComparisonState::Final);
}
