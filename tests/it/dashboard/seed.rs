//! Rows that look like a team's week: a good baseline, a pull request that fell short, a run in progress, a held one from a
//! fork, and text that wants to do harm.

use std::collections::BTreeMap;

use serde_json::json;
use trainyard::clock::{Clock, Millis};
use trainyard::http::logs;
use trainyard::model::data::{ColumnShift, FeatureChange, FeatureState, Shift};
use trainyard::model::plan::Need;
use trainyard::model::{
    AttemptUid, ComparisonId, ComparisonState, DataReport, EndClass, MetricPoint, MetricSource, Plan, RepoId,
    RepoName, RepoRef, RunId, RunState, Sha, StepState, Tolerance, Verdict,
};
use trainyard::store::attempts::{ArtifactRow, Finish, Placement};
use trainyard::store::comparisons::ComparisonRow;
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::outbox::{Desire, OutboxKind};
use trainyard::store::runs::{NewRun, RunChange, StepMove};
use trainyard::store::tokens::Scope;

use super::Dashboard;
use crate::store::fixture::{T0, delivery, intake, new_run, plan, pull};

pub const HOSTILE: &str = "<img src=x onerror=alert(1)>\u{202e}\u{1b}[31m\u{1b}]8;;javascript:alert(2)\u{7}x<script>alert(3)</script>";

pub struct Seeded {
    pub base: RunId,
    pub candidate: RunId,
    pub live: RunId,
    pub held: RunId,
    pub others: RunId,
    /// An ended attempt of `candidate` with an artifact `out/model.bin`.
    pub ended: AttemptUid,
    /// The attempt of `live` that is running.
    pub running: AttemptUid,
    pub delivery: String,
    pub tokens: Tokens,
}

pub struct Tokens {
    pub read: String,
    pub run: String,
    pub admin: String,
    /// Admin scope, bound to the repository of the runs.
    pub own: String,
    /// Admin scope, bound to another repository.
    pub other: String,
    pub revoked: String,
}

impl Dashboard {
    pub async fn token(&self, name: &str, scope: Scope, repo: Option<&RepoId>) -> String {
        trainyard::http::auth::create_token(&self.app.store, name, scope, repo.cloned(), T0).await.unwrap().1
    }

    async fn change(&self, run: &RunId, to: Option<RunState>, reason: &str, steps: Vec<StepMove>) {
        let epoch = self.place.view(run).await.run.epoch;
        let change = RunChange {
            run: run.clone(),
            epoch,
            to: to.map(|to| (to, reason.to_owned())),
            steps,
            attempts: vec![],
            asks: vec![],
        };
        self.app.store.apply(change, self.clock.now_ms()).await.unwrap();
    }

    async fn step(&self, run: &RunId, position: usize, to: StepState, reason: &str) {
        let step = self.place.view(run).await.steps[position].id.clone();
        let outputs = (to == StepState::Succeeded).then(BTreeMap::new);
        self.change(run, None, "", vec![StepMove { step, to, reason: reason.into(), outputs }]).await;
    }

    /// Starts the step's attempt.
    pub async fn start(&self, run: &RunId, position: usize, gpus: Vec<u32>) -> AttemptUid {
        let view = self.place.view(run).await;
        if view.run.state == RunState::Queued {
            self.change(run, Some(RunState::Running), "", vec![]).await;
        }
        self.step(run, position, StepState::Ready, "").await;
        let now = self.clock.now_ms();
        let uid = AttemptUid::generate(now);
        let placement = Placement {
            uid: uid.clone(),
            run_id: run.clone(),
            step_id: view.steps[position].id.clone(),
            number: 1,
            executor: "local".into(),
            pool: if gpus.is_empty() { "cpu" } else { "a100" }.into(),
            machine: String::new(),
            gpus,
            ranks: 1,
            bootstrap_hash: "hash".into(),
        };
        self.app.store.place(vec![placement], now).await.unwrap();
        assert!(self.app.store.agent_start(&uid, "hash", "nonce", now).await.unwrap());
        uid
    }

    pub async fn log(&self, uid: &AttemptUid, bytes: impl Into<Vec<u8>>) {
        let at = self.app.store.attempt(uid).await.unwrap().unwrap().log_bytes;
        logs::append(&self.app, None, &uid.into(), at, &[bytes.into().into()]).await.unwrap();
    }

    pub async fn metrics(&self, uid: &AttemptUid, points: &[(&str, i64, f64)], params: &[(&str, &str)]) {
        let first = self.app.store.attempt(uid).await.unwrap().unwrap().metrics_seq + 1;
        let now = self.clock.now_ms();
        let points = points
            .iter()
            .map(|(name, step, value)| MetricPoint {
                name: (*name).into(),
                value: *value,
                step: Some(*step),
                at_ms: now,
            })
            .collect();
        let params = params.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        self.app.store.record_metrics(uid, first, points, params, now).await.unwrap();
        self.app
            .live
            .tell(trainyard::http::Hint::Run(self.app.store.attempt(uid).await.unwrap().unwrap().run_id));
    }

    pub async fn end(&self, run: &RunId, position: usize, uid: &AttemptUid, class: EndClass, reason: &str) {
        let good = class == EndClass::Succeeded;
        let finish = Finish {
            class,
            exit_code: Some(i64::from(!good)),
            reason: reason.into(),
            outputs: BTreeMap::new(),
            notes: Vec::new(),
            sources: vec![
                MetricSource {
                    kind: "json".into(),
                    place: "metrics.json".into(),
                    used: true,
                    points: 4,
                    ..MetricSource::default()
                },
                MetricSource {
                    kind: "tensorboard".into(),
                    place: "runs/events.out.tfevents.1".into(),
                    note: "it was there before the commands ran".into(),
                    ..MetricSource::default()
                },
            ],
            log_lost_bytes: 0,
            ended_ms: None,
            data: match (position, good, reason == HOSTILE) {
                (0, true, _) => checked("support_calls"),
                (_, _, true) => checked(HOSTILE),
                _ => Vec::new(),
            },
            judged: false,
        };
        assert!(self.app.store.agent_finish(uid, finish, self.clock.now_ms()).await.unwrap());
        self.app.live.tell(trainyard::http::Hint::Log(uid.into()));
        self.step(run, position, if good { StepState::Succeeded } else { StepState::Failed }, reason).await;
    }

    pub async fn finish(&self, run: &RunId, to: RunState, reason: &str) {
        self.change(run, Some(to), reason, vec![]).await;
    }

    async fn repo_named(&self, forge_id: &str, name: &str) -> RepoId {
        let repo = RepoRef {
            forge_id: forge_id.into(),
            name: RepoName::parse(name).unwrap(),
            default_branch: "main".into(),
        };
        self.app.store.upsert_repo("github", &repo, T0).await.unwrap()
    }

    /// Stores a delivery that made this run.
    pub async fn run(
        &self,
        mut run: NewRun,
        pulls: Vec<(RepoId, trainyard::model::PullRequest)>,
    ) -> (RunId, String) {
        let now = self.clock.now_ms();
        run.id = RunId::generate(now);
        let mut new = delivery(
            &format!("d-{}", run.id),
            &serde_json::to_vec(
                &json!({"ref": run.branch, "after": run.head_sha, "head_commit": {"message": run.message}}),
            )
            .unwrap(),
        );
        new.id = trainyard::model::DeliveryRowId::generate(now);
        new.event = if pulls.is_empty() { "push" } else { "pull_request" }.into();
        new.received_ms = now;
        let id = new.id.clone();
        self.app.store.deliver(new).await.unwrap();
        let reason = format!("{} of {}: one run of churn", run.branch, run.head_sha.short());
        let commit = IntakeCommit { runs: vec![run], pulls, reason, ..intake(&id) };
        let made = self.app.store.commit_intake(commit, now + 40).await.unwrap().unwrap();
        (made[0].clone(), id.to_string())
    }
}

/// What a data and a features step say: one column that drifted, two that did not, three features.
fn checked(name: &str) -> Vec<DataReport> {
    let bins = |at: f64| -> Vec<f64> {
        let raw: Vec<f64> = (0..16).map(|i| (-((f64::from(i) - at) / 3.5).powi(2)).exp()).collect();
        raw.iter().map(|x| x / raw.iter().sum::<f64>()).collect()
    };
    let column = |name: &str, verdict, p, at: f64| ColumnShift {
        column: name.into(),
        verdict,
        p: Some(p),
        shift: Some((at - 7.0) / 3.5),
        psi: Some(0.02 + (at - 7.0).powi(2) / 20.0),
        v: None,
        baseline_shares: bins(7.0),
        shares: bins(at),
    };
    let feature = |name: &str, state, rows: u64, largest: Option<f64>| FeatureChange {
        rows,
        share: rows as f64 / 2_000.0,
        largest,
        relative: largest.map(|x| x / 8.0),
        ..FeatureChange::new(name, state, Some(Tolerance::Relative(0.001)))
    };
    let customers = DataReport {
        name: "customers".into(),
        rows: 20_000,
        columns: 4,
        passed: true,
        against: "main at 0a1b2c3, the merge-base".into(),
        drift: vec![
            column("monthly_charge", Shift::Drifted, 2e-40, 9.5),
            column("tenure_months", Shift::Stable, 0.44, 7.1),
            column(name, Shift::Stable, 0.91, 7.0),
        ],
        ..DataReport::default()
    };
    let encode = DataReport {
        name: "encode".into(),
        kind: "features".into(),
        rows: 2_000,
        columns: 5,
        passed: true,
        against: "main at 0a1b2c3, the merge-base".into(),
        features: vec![
            feature("log_charge", FeatureState::Changed, 1_412, Some(0.25)),
            feature(name, FeatureState::Added, 0, None),
            feature("usage", FeatureState::Equal, 0, Some(0.0004)),
        ],
        ..DataReport::default()
    };
    vec![customers, encode]
}

/// test, then three seeds of train, then eval.
pub fn graph() -> Plan {
    let mut plan = plan(&["test", "train (seed=1)", "train (seed=2)", "train (seed=3)", "eval"]);
    let need = |step: &str| Need { step: step.into(), into: None };
    for seed in 1..=3usize {
        plan.steps[seed].base = "train".into();
        plan.steps[seed].member = BTreeMap::from([("seed".into(), seed.to_string())]);
        plan.steps[seed].needs = vec![need("test")];
        plan.steps[4].needs.push(need(&format!("train (seed={seed})")));
    }
    plan.metrics.primary = Some("accuracy".into());
    plan.report.plots = vec!["loss".into(), "accuracy".into()];
    plan
}

fn digest(n: u64) -> Sha {
    use sha2::Digest;
    Sha::parse(&hex::encode(sha2::Sha256::digest(n.to_be_bytes()))[..40]).unwrap()
}

fn curve(epoch: i64, seed: usize, best: f64) -> [(&'static str, i64, f64); 2] {
    let x = epoch as f64;
    let wobble = ((x * 1.7 + seed as f64 * 2.1).sin() + (x * 0.9 * seed as f64).cos()) * 0.008;
    [
        ("loss", epoch, 0.28 + 0.62 * (-x / 9.0).exp() + wobble + (0.9 - best)),
        ("accuracy", epoch, best - 0.38 * (-x / 7.0).exp() - wobble * 0.6),
    ]
}

impl Dashboard {
    /// A whole good run with three seeds.
    async fn trained(&self, run: &RunId, best: f64, learning_rate: &str, message: Millis) -> AttemptUid {
        let test = self.start(run, 0, vec![]).await;
        self.log(&test, "\u{1b}[1m============ test session starts ============\u{1b}[0m\ncollected 42 items\n\ntests/test_churn.py \u{1b}[32m..........................................\u{1b}[0m [100%]\n\n\u{1b}[32m============ \u{1b}[1m42 passed\u{1b}[0m\u{1b}[32m in 3.18s ============\u{1b}[0m\n").await;
        self.clock.advance(8_400);
        self.end(run, 0, &test, EndClass::Succeeded, "").await;
        let seeds = [
            self.start(run, 1, vec![0]).await,
            self.start(run, 2, vec![1]).await,
            self.start(run, 3, vec![2]).await,
        ];
        for epoch in 0..40 {
            for (i, uid) in seeds.iter().enumerate() {
                self.metrics(uid, &curve(epoch, i + 1, best), &[]).await;
            }
            self.clock.advance(message / 40);
        }
        for (i, uid) in seeds.iter().enumerate() {
            self.metrics(
                uid,
                &[],
                &[("learning_rate", learning_rate), ("epochs", "40"), ("batch_size", "256")],
            )
            .await;
            let mut lines = String::new();
            for epoch in 0..40 {
                let [loss, accuracy] = curve(epoch, i + 1, best).map(|point| point.2);
                lines += &format!("epoch {epoch:>2}/40  loss {loss:.4}  accuracy {accuracy:.4}\n");
            }
            self.log(
                uid,
                format!(
                    "\u{1b}[2mseed {} on cuda:{i}\u{1b}[0m\n{lines}\u{1b}[32msaved\u{1b}[0m out/model.bin\n",
                    i + 1
                ),
            )
            .await;
            let bytes = format!("weights of seed {}", i + 1).into_bytes();
            self.app.blobs.put(&format!("artifacts/{uid}/x"), bytes.clone().into()).await.unwrap();
            let artifact = ArtifactRow {
                attempt_uid: uid.clone(),
                path: "out/model.bin".into(),
                bytes: bytes.len() as i64,
                sha256: "0".repeat(64),
                executable: false,
                blob_key: format!("artifacts/{uid}/x"),
            };
            self.app.store.put_artifact(artifact, self.clock.now_ms()).await.unwrap();
            self.end(run, i + 1, uid, EndClass::Succeeded, "").await;
        }
        let eval = self.start(run, 4, vec![0]).await;
        self.metrics(
            &eval,
            &[
                ("f1/by/plan=basic", 1, best - 0.03),
                ("f1/by/plan=pro", 1, best - 0.01),
                ("latency_ms", 1, 31.4),
            ],
            &[],
        )
        .await;
        self.log(&eval, "evaluated 4,000 held-out rows\n").await;
        self.clock.advance(6_100);
        self.end(run, 4, &eval, EndClass::Succeeded, "").await;
        seeds[0].clone()
    }

    pub async fn seed(&self) -> Seeded {
        let repo = self.repo_named("42", "ada/churn").await;
        let other_repo = self.repo_named("43", "bob/ranking").await;
        let tokens = Tokens {
            read: self.token("reader", Scope::Read, None).await,
            run: self.token("runner", Scope::Run, None).await,
            admin: self.token("admin", Scope::Admin, None).await,
            own: self.token("of ada/churn", Scope::Admin, Some(&repo)).await,
            other: self.token("of bob/ranking", Scope::Admin, Some(&other_repo)).await,
            revoked: self.token("old", Scope::Admin, None).await,
        };
        let old = self.app.store.tokens().await.unwrap().into_iter().find(|t| t.name == "old").unwrap();
        self.app.store.revoke_token(&old.id, T0).await.unwrap();

        let make = |repo: &RepoId, n: u64, branch: &str, message: &str, actor: &str, state| NewRun {
            branch: branch.into(),
            message: message.into(),
            actor: actor.into(),
            plan: graph(),
            concurrency: None,
            generation: 1,
            ..new_run(repo, &digest(n), state)
        };
        let queued = RunState::Queued;
        let (base, delivery) =
            self.run(make(&repo, 1, "main", "Weigh classes by their frequency", "ada", queued), vec![]).await;
        self.trained(&base, 0.862, "0.01", 94_000).await;
        self.finish(&base, RunState::Succeeded, "").await;
        self.clock.advance(3_600_000);

        let (others, _) =
            self.run(make(&other_repo, 2, "main", "Rank by recency, too", "bob", queued), vec![]).await;
        let test = self.start(&others, 0, vec![]).await;
        self.log(&test, "E   ModuleNotFoundError: No module named 'ranking.recency'\n").await;
        self.clock.advance(2_300);
        self.end(&others, 0, &test, EndClass::Failed, "`pytest -q` exited with 1").await;
        self.finish(&others, RunState::Failed, "step test failed: `pytest -q` exited with 1").await;
        self.clock.advance(1_200_000);

        let mut request = pull(7, &digest(3));
        request.title = "Use a larger learning rate".into();
        request.head_branch = "faster".into();
        let (candidate, _) = self
            .run(
                make(&repo, 3, "faster", "Use a larger learning rate", "grace", queued),
                vec![(repo.clone(), request)],
            )
            .await;
        let ended = self.trained(&candidate, 0.847, "0.1", 88_000).await;
        self.finish(&candidate, RunState::Succeeded, "").await;
        self.compare(&candidate, &base, "pr:7", "recall", "customer").await;
        self.posted(&repo).await;
        self.clock.advance(900_000);

        let mut hostile = make(&repo, 4, HOSTILE, HOSTILE, HOSTILE, queued);
        hostile.pipeline = "hostile".into();
        let (bad, _) = self.run(hostile, vec![]).await;
        let uid = self.start(&bad, 0, vec![]).await;
        self.log(&uid, format!("{HOSTILE}\nplain line\n")).await;
        self.metrics(
            &uid,
            &[(HOSTILE, 1, 1.0), (HOSTILE, 2, f64::NAN), (HOSTILE, 3, 2.0)],
            &[(HOSTILE, HOSTILE)],
        )
        .await;
        self.clock.advance(1_500);
        self.end(&bad, 0, &uid, EndClass::Failed, HOSTILE).await;
        self.finish(&bad, RunState::Failed, HOSTILE).await;
        self.compare(&bad, &base, HOSTILE, HOSTILE, HOSTILE).await;
        self.clock.advance(400_000);

        let (held, _) = self
            .run(make(&repo, 5, "patch-1", "Improve the feature encoder", "newcomer", RunState::Held), vec![])
            .await;
        self.clock.advance(120_000);
        let (live, _) =
            self.run(make(&repo, 6, "wider", "Widen the hidden layer to 256", "ada", queued), vec![]).await;
        let test = self.start(&live, 0, vec![]).await;
        self.clock.advance(7_900);
        self.end(&live, 0, &test, EndClass::Succeeded, "").await;
        let running = self.start(&live, 1, vec![0]).await;
        self.log(&running, "\u{1b}[2mseed 1 on cuda:0\u{1b}[0m\n").await;
        for epoch in 0..4 {
            self.metrics(&running, &curve(epoch, 1, 0.87), &[("hidden", "256")]).await;
        }
        self.clock.advance(9_000);
        Seeded { base, candidate, live, held, others, ended, running, delivery, tokens }
    }

    /// What came before: sixteen compared runs of the default branch, two earlier tries of the pull request, and a run that
    /// failed with a log of 120,000 lines. Returns that run. To be called before [`Self::seed`].
    pub async fn history(&self) -> RunId {
        let repo = self.repo_named("42", "ada/churn").await;
        let make = |n: u64, branch: &str, message: &str, actor: &str| NewRun {
            branch: branch.into(),
            message: message.into(),
            actor: actor.into(),
            plan: graph(),
            concurrency: None,
            generation: 1,
            ..new_run(&repo, &digest(n), RunState::Queued)
        };
        const WORK: [&str; 8] = [
            "Drop the postcode, which leaks the label",
            "Balance the batches",
            "Read the snapshot of October",
            "Clip outliers of tenure",
            "Use AdamW",
            "Encode the plan as one-hot",
            "Warm up for three epochs",
            "Pin scikit-learn",
        ];
        for n in 0..16usize {
            let (run, _) = self.run(make(100 + n as u64, "main", WORK[n % 8], "ada"), vec![]).await;
            let test = self.start(&run, 0, vec![]).await;
            self.clock.advance(60_000);
            self.end(&run, 0, &test, EndClass::Succeeded, "").await;
            let up = n as f64 / 16.0;
            let accuracy = 0.79 + 0.07 * (1.0 - (-3.0 * up).exp()) + (n as f64 * 2.3).sin() * 0.006;
            let verdict = match n {
                5 => Verdict::Fail,
                0 | 9 => Verdict::Inconclusive,
                _ => Verdict::Pass,
            };
            self.finish(&run, RunState::Succeeded, "").await;
            self.judged(&run, "branch:main", verdict, accuracy, 34.0 - 2.0 * up + (n as f64).cos()).await;
            self.clock.advance(5_400_000);
        }
        for (n, best) in [(130, 0.82), (131, 0.836)] {
            let mut request = pull(7, &digest(n));
            request.head_branch = "faster".into();
            let message = if n == 130 { "Try a rate of 0.3" } else { "Try a rate of 0.2" };
            let (run, _) = self.run(make(n, "faster", message, "grace"), vec![(repo.clone(), request)]).await;
            self.trained(&run, best, if n == 130 { "0.3" } else { "0.2" }, 90_000).await;
            self.finish(&run, RunState::Succeeded, "").await;
            self.judged(&run, "pr:7", Verdict::Fail, best, 33.0).await;
            self.clock.advance(1_800_000);
        }
        let (long, _) = self.run(make(140, "big-batch", "Try a batch of 4096", "lin"), vec![]).await;
        let test = self.start(&long, 0, vec![]).await;
        self.log(&test, "+ pytest -q\n42 passed in 3.18s\n").await;
        self.clock.advance(9_000);
        self.end(&long, 0, &test, EndClass::Succeeded, "").await;
        let train = self.start(&long, 1, vec![0]).await;
        let mut text = String::from(
            "+ pip install --quiet -r requirements.txt\n::group::Environment\nPython 3.12.7\ntorch 2.9.1+cu128\n\u{1b}[33mwarning\u{1b}[0m: cuDNN autotune is on\n::endgroup::\n+ python train.py --batch 4096\n",
        );
        for n in 7..120_000 {
            text += &match n {
                99_998 => "Traceback (most recent call last):\n".to_owned(),
                99_999 => "  File \"train.py\", line 88, in <module>\n".to_owned(),
                100_000 => "\u{1b}[31mtorch.cuda.OutOfMemoryError\u{1b}[0m: CUDA out of memory. Tried to allocate 2.00 GiB\n".to_owned(),
                _ => format!("step {n:>6}  loss \u{1b}[36m{:.5}\u{1b}[0m  {:>5.1} samples/s\n", 2.0 / f64::from(n).sqrt(), 900.0 + f64::from(n % 37)),
            };
        }
        for piece in text.as_bytes().chunks(3 << 20) {
            self.log(&train, piece.to_vec()).await;
        }
        self.clock.advance(240_000);
        self.end(&long, 1, &train, EndClass::Failed, "`python train.py --batch 4096` exited with 1").await;
        self.finish(
            &long,
            RunState::Failed,
            "step train (seed=1) failed: `python train.py --batch 4096` exited with 1",
        )
        .await;
        self.clock.advance(3_600_000);
        long
    }

    async fn judged(&self, run: &RunId, target: &str, verdict: Verdict, accuracy: f64, latency: f64) {
        let now = self.clock.now_ms();
        let repeated = |value: f64| {
            json!(
                [-0.004, 0.001, 0.003]
                    .iter()
                    .enumerate()
                    .map(|(i, off)| json!({"member": format!("seed={i}"), "value": value + off}))
                    .collect::<Vec<_>>()
            )
        };
        let metric = |name: &str, goal: &str, value: f64, primary: bool| {
            json!({"name": name, "goal": goal, "assumed": false, "primary": primary,
                "candidate": {"step": "eval", "mean": value, "values": repeated(value)},
                "baseline": null, "delta": null, "relative": null, "better": null, "gate": null})
        };
        let metrics =
            [metric("accuracy", "max", accuracy, true), metric("latency_ms", "min", latency, false)];
        let row = ComparisonRow {
            id: ComparisonId::generate(now),
            candidate: run.clone(),
            baseline: None,
            baseline_note: "no baseline".into(),
            nearer: None,
            target: target.into(),
            gates_digest: "g".into(),
            rules: "point-1".into(),
            state: ComparisonState::Final,
            verdict: Some(verdict),
            result: json!({"rules": "point-1", "verdict": verdict.word(), "reasons": [], "metrics": metrics}),
            created_ms: now,
            wait_until_ms: now,
            updated_ms: now,
        };
        self.app.store.put_comparison(row, vec![], now).await.unwrap();
    }

    /// One more epoch of a running training: a log line and two points.
    pub async fn epoch(&self, uid: &AttemptUid, epoch: i64) {
        let points = curve(epoch, 1, 0.87);
        self.metrics(uid, &points, &[]).await;
        self.log(
            uid,
            format!(
                "epoch {epoch:>2}/40  loss {:.4}  accuracy \u{1b}[32m{:.4}\u{1b}[0m\n",
                points[0].2, points[1].2
            ),
        )
        .await;
        self.clock.advance(1_000);
    }

    /// `name`: of one of the metrics; `by`: the column that its examples are clustered by.
    async fn compare(&self, candidate: &RunId, base: &RunId, target: &str, name: &str, by: &str) {
        let now = self.clock.now_ms();
        let seeds = |mean: f64| json!({"step": "train", "mean": mean, "values": [{"member": "seed=1", "value": mean - 0.001}, {"member": "seed=2", "value": mean}, {"member": "seed=3", "value": mean + 0.001}]});
        let one =
            |mean: f64| json!({"step": "eval", "mean": mean, "values": [{"member": "", "value": mean}]});
        let sure = |low: f64, high: f64| json!({"method": "paired_t", "unit": "seeds", "count": 3, "baseline_count": 3, "level": 0.95, "low": low, "high": high, "p": 0.003});
        let clustered = |by: &str, low: f64, high: f64| {
            json!({"method": "cluster_t", "unit": "examples", "count": 4000, "baseline_count": 4000, "level": 0.95, "low": low, "high": high, "p": 0.4,
            "groups": {"kind": "clusters", "by": by, "count": 12}})
        };
        let result = json!({"rules": "interval-1", "verdict": "fail", "reasons": ["accuracy is 1.7% worse; at most 0.5% is allowed"], "metrics": [
            {"name": "accuracy", "goal": "max", "assumed": false, "primary": true, "candidate": seeds(0.847), "baseline": seeds(0.862), "delta": -0.015, "relative": -0.0174, "better": "worse", "evidence": sure(-0.0175, -0.0125),
             "gate": {"verdict": "fail", "warn_only": false, "bound": -0.0043, "by_interval": true, "rules": ["≥ 0.8", "at most 0.5% worse"], "reasons": ["accuracy is 1.7% worse; at most 0.5% is allowed"]}},
            {"name": "latency_ms", "goal": "min", "assumed": false, "primary": false, "candidate": one(31.4), "baseline": one(33.0), "delta": -1.6, "relative": -0.048, "better": "better",
             "gate": {"verdict": "pass", "warn_only": false, "rules": ["≤ 40"], "reasons": []}},
            {"name": "f1/by/plan=pro", "goal": "max", "assumed": true, "primary": false, "candidate": one(0.837), "baseline": null, "delta": null, "relative": null, "better": null, "gate": {"verdict": "inconclusive", "warn_only": true, "rules": ["at most 2% worse"], "reasons": ["the baseline has no f1/by/plan=pro"]}},
            {"name": "loss", "goal": "min", "assumed": true, "primary": false, "candidate": seeds(0.34), "baseline": seeds(0.325), "delta": 0.015, "relative": 0.046, "better": "worse", "evidence": sure(0.008, 0.022), "gate": null},
            {"name": name, "goal": "max", "assumed": true, "primary": false, "candidate": one(0.702), "baseline": one(0.7), "delta": 0.002, "relative": 0.0029, "better": "better",
             "evidence": clustered(by, -0.004, 0.008), "gate": null}]});
        let row = ComparisonRow {
            id: ComparisonId::generate(now),
            candidate: candidate.clone(),
            baseline: Some(base.clone()),
            baseline_note: "main at 0a1b2c3, the merge-base".into(),
            nearer: None,
            target: target.into(),
            gates_digest: "g".into(),
            rules: "interval-1".into(),
            state: ComparisonState::Final,
            verdict: Some(Verdict::Fail),
            result,
            created_ms: now,
            wait_until_ms: now,
            updated_ms: now,
        };
        self.app.store.put_comparison(row, vec![], now).await.unwrap();
    }

    async fn posted(&self, repo: &RepoId) {
        let now = self.clock.now_ms();
        let body = "<!-- trainyard:0123 -->\n### ❌ churn: accuracy fell by 0.015 (−1.7%)\n\n| metric | baseline | this | delta | gate |\n|---|---:|---:|---:|---|\n| accuracy ↑ | 0.862 | 0.847 | −0.015 (−1.7%) | ❌ at most 0.5% worse |\n| latency_ms ↓ | 33 | 31.4 | −1.6 | ✅ ≤ 40 |\n\n<details><summary>Curves</summary>\n\n```mermaid\nxychart-beta\n    title \"loss\"\n    x-axis \"step\" 0 --> 40\n    y-axis \"loss\"\n    line [0.9, 0.7, 0.55, 0.47, 0.42, 0.39, 0.37, 0.355, 0.345, 0.34]\n```\n\n</details>\n\nChanged parameters: `learning_rate` 0.01 → 0.1 <script>alert(4)</script>\n\n<sub>point comparison of 3 seeds · [run](http://dash.test/runs/x)</sub>\n";
        let desire = Desire {
            credential: "github".into(),
            repo_id: repo.clone(),
            kind: OutboxKind::Comment,
            target: "7".into(),
            desired: json!({"body": body}),
            last: true,
            not_before_ms: now,
        };
        self.app.store.desire(desire, now).await.unwrap();
    }
}
