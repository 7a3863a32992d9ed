//! From a run's rows to what a forge shows: comparison, report and outbox together, on a real store and real blobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard::blob::{Blobs, key};
use trainyard::clock::{Clock, Millis};
use trainyard::forge::StatusState;
use trainyard::model::{AttemptState, EndClass, MetricPoint, RunId, RunState, Sha, StepState};
use trainyard::outbox::Sender;
use trainyard::report::Reporter;
use trainyard::store::Instance;
use trainyard::store::attempts::AttemptMove;
use trainyard::store::outbox::OutboxKind;
use trainyard::store::runs::StepMove;
use trainyard::store::work::WorkAsk;

use crate::baseline::{World, sha};
use crate::drive::drive;
use crate::fake_forge::Fault;

struct Daemon {
    world: World,
    reporter: Reporter,
    sender: Sender,
    blobs: Blobs,
    _dir: tempfile::TempDir,
}

impl Daemon {
    async fn new() -> Self {
        let world = World::new().await;
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(dir.path()).unwrap();
        let reporter = Reporter::new(
            world.store().clone(),
            world.forges.clone(),
            blobs.clone(),
            world.clock.clone(),
            world.config.clone(),
            Arc::new(Instance::new("test", [7; 32])),
        );
        let sender = Sender::new(world.store().clone(), world.forges.clone(), world.clock.clone());
        Self { world, reporter, sender, blobs, _dir: dir }
    }
    async fn work(&self, ms: Millis) {
        let until = self.world.clock.now_ms() + ms;
        let w = &self.world;
        drive(w.store(), &w.clock, &[&w.comparer, &self.reporter, &self.sender], until).await;
    }
    async fn tell(&self, at: &Sha) {
        let now = self.world.clock.now_ms();
        self.world.store().ask(vec![WorkAsk::report_commit(&self.world.repo, at, now)], now).await.unwrap();
    }
    fn comment(&self) -> String {
        let mut comments = self.world.forge.comments_on(12);
        assert_eq!(comments.len(), 1, "one comment for each pull request");
        comments.remove(0).body
    }
    fn words(&self, at: &Sha) -> Vec<String> {
        let all = self.world.forge.statuses(at, "trainyard/churn");
        all.into_iter().map(|s| format!("{:?} {}", s.state, s.description)).collect()
    }
    /// A run that trains for a while: three epochs of a curve, then an accuracy.
    async fn train(&self, run: &RunId, accuracy: f64, rate: &str) {
        let w = &self.world;
        let uid = w.place.started(run).await;
        self.tell(&w.place.view(run).await.run.head_sha).await;
        self.work(20_000).await;
        let now = w.clock.now_ms();
        let mut points: Vec<MetricPoint> = (1..=4)
            .map(|epoch| MetricPoint {
                name: "loss".into(),
                value: 1.0 / f64::from(epoch),
                step: Some(epoch.into()),
                at_ms: now,
            })
            .collect();
        points.push(MetricPoint { name: "accuracy".into(), value: accuracy, step: None, at_ms: now });
        let params =
            BTreeMap::from([("rate".to_owned(), rate.to_owned()), ("epochs".to_owned(), "4".to_owned())]);
        w.store().record_metrics(&uid, 1, points, params, now).await.unwrap();
    }
    async fn finish(&self, run: &RunId, good: bool) {
        let w = &self.world;
        w.clock.advance(60_000);
        let now = w.clock.now_ms();
        let view = w.place.view(run).await;
        let attempt = view.attempts.last().unwrap().uid.clone();
        let mut change = w.place.change(run).await;
        let (to, step, class) = if good {
            (RunState::Succeeded, StepState::Succeeded, EndClass::Succeeded)
        } else {
            (RunState::Failed, StepState::Failed, EndClass::Failed)
        };
        change.to =
            Some((to, if good { String::new() } else { "step train failed with exit code 1".into() }));
        change.steps =
            vec![StepMove { step: view.steps[0].id.clone(), to: step, reason: String::new(), outputs: None }];
        change.attempts = vec![AttemptMove {
            uid: attempt,
            to: AttemptState::Ended,
            class: Some(class),
            reason: String::new(),
            exit_code: Some(i64::from(!good)),
            cancel: false,
            handle: None,
        }];
        change.asks =
            vec![WorkAsk::compare(run, now), WorkAsk::report_commit(&w.repo, &view.run.head_sha, now)];
        w.store().apply(change, now).await.unwrap();
        self.work(20_000).await;
    }
}

#[tokio::test]
async fn a_run_writes_at_most_four_statuses_and_one_comment_that_is_edited() {
    let d = Daemon::new().await;
    let w = &d.world;
    let (a3, b1) = (sha("a3"), sha("b1"));
    // The baseline is still training when the candidate is done.
    let base = w.insert(&a3, "main", |_| {}).await;
    d.train(&base, 0.80, "0.05").await;
    w.pull(&b1, |_| {}).await;
    let run = w.insert(&b1, "longer", |_| {}).await;
    d.tell(&b1).await;
    d.work(20_000).await;
    d.train(&run, 0.8131, "0.2").await;
    d.finish(&run, true).await;
    d.finish(&base, true).await;
    d.work(3_600_000).await;

    insta::assert_snapshot!(d.words(&b1).join("\n"), @r##"
        Pending queued
        Running running
        Pending waiting for the baseline run: main at a300000, the merge-base
        Success accuracy 0.8131 (+0.0131 vs main a300000) · gates passed
        "##);
    let writes = d.words(&b1).len();
    let body = d.comment();
    assert!(body.contains("passed its gate"), "{body}");
    assert!(
        body.contains("| **accuracy** ↑ <sub>assumed</sub> | 0.8000 | **0.8131** | **+0.0131, +1.64%** |"),
        "{body}"
    );
    assert!(body.contains("| `rate` | `0.05` | `0.2` |") && body.contains("1 of 2 changed"), "{body}");
    assert!(body.contains("line [1.0") && body.contains("2 min 10 s of GPU-time"), "{body}");
    assert!(writes <= 4, "{writes}");

    // Looking again changes nothing.
    let before = w.forge.writes().len();
    d.tell(&b1).await;
    w.ask(&run).await;
    d.work(3_600_000).await;
    assert_eq!(w.forge.writes().len(), before);

    // The next push takes over the same comment.
    let b2 = sha("b2");
    w.forge.commit_on(&b2, &[&b1]);
    w.pull(&b2, |_| {}).await;
    let next = w.insert(&b2, "longer", |_| {}).await;
    d.tell(&b2).await;
    d.work(20_000).await;
    assert!(d.comment().contains("⏳ churn is queued"), "{}", d.comment());
    d.train(&next, 0.70, "0.2").await;
    d.finish(&next, true).await;
    assert!(d.comment().contains("❌ churn: its gate failed"), "{}", d.comment());
    assert_eq!(w.forge.last_status(&b2, "trainyard/churn").unwrap().state, StatusState::Failure);
    println!("FIGURE statuses_per_run={writes} comments_per_pull_request=1");
}

#[tokio::test]
async fn the_final_status_is_never_lost_when_two_in_five_writes_fail() {
    let d = Daemon::new().await;
    let w = &d.world;
    let mut x = 99u64;
    w.forge.faults(move |_| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((x >> 33) % 100 < 40).then_some(if (x >> 20).is_multiple_of(2) {
            Fault::Before
        } else {
            Fault::After
        })
    });
    w.run_at(&sha("a3"), RunState::Succeeded, 0.80).await;
    let (mut lost, mut most) = (0, 0);
    let runs = 20;
    for n in 0..runs {
        let head = sha(&format!("c{n:02}"));
        w.forge.commit_on(&head, &[&sha("a3")]);
        w.pull(&head, |p| p.number = 100 + n).await;
        let run = w.insert(&head, "longer", |_| {}).await;
        d.tell(&head).await;
        d.train(&run, 0.81, "0.1").await;
        d.finish(&run, true).await;
    }
    d.work(24 * 3_600_000).await;
    for n in 0..runs {
        let head = sha(&format!("c{n:02}"));
        let last = w.forge.last_status(&head, "trainyard/churn");
        lost += u32::from(last.is_none_or(|s| s.state != StatusState::Success));
        lost += u32::from(w.forge.comments_on(100 + n).len() != 1);
        let target = format!("{head}/trainyard/churn");
        let row = w.store().outbox_row(&w.repo, OutboxKind::Status, &target).await.unwrap();
        most = most.max(row.unwrap().writes);
    }
    println!("FAULT G7 runs={runs} lost={lost} writes_per_run_max={most}");
    assert_eq!(lost, 0);
    assert!(most <= 4);
}

#[tokio::test]
async fn a_failing_step_is_shown_with_the_end_of_its_log() {
    let d = Daemon::new().await;
    let w = &d.world;
    let b1 = sha("b1");
    w.pull(&b1, |_| {}).await;
    let run = w.insert(&b1, "longer", |_| {}).await;
    d.train(&run, 0.5, "0.1").await;
    let uid = w.place.view(&run).await.attempts[0].uid.clone();
    let now = w.clock.now_ms();
    let log: String = (1..=3_000).map(|n| format!("line {n}\n")).collect();
    let mut offset = 0;
    for chunk in log.as_bytes().chunks(7_000) {
        let at = key::log(&(&uid).into(), offset, 1);
        d.blobs.put(&at, bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
        w.store().append_log(&uid, offset, chunk.len() as i64, &at, now).await.unwrap();
        offset += chunk.len() as i64;
    }
    d.finish(&run, false).await;
    let body = d.comment();
    assert!(body.contains("**Step `train`** failed with exit code 1"), "{body}");
    assert!(
        body.contains("Last 40 lines")
            && body.contains("```text\nline 2961\n")
            && body.contains("line 3000\n```"),
        "{body}"
    );
    assert_eq!(d.words(&b1).last().unwrap(), "Failure failed: step train failed with exit code 1");
}

#[tokio::test]
async fn a_pull_request_opened_later_gets_its_comparison_and_a_held_run_says_so() {
    let d = Daemon::new().await;
    let w = &d.world;
    let b1 = sha("b1");
    let base = w.run_at(&sha("a3"), RunState::Succeeded, 0.80).await;
    let run = w.insert(&b1, "longer", |_| {}).await;
    w.end(&run, RunState::Succeeded, 0.81).await;
    d.work(20_000).await;
    assert_eq!(w.only(&run).await.target, "branch:longer");
    assert!(w.forge.comments_on(12).is_empty());
    w.pull(&b1, |_| {}).await;
    let now = w.clock.now_ms();
    w.store().ask(vec![WorkAsk::report_pull(&w.repo, 12, now)], now).await.unwrap();
    d.work(20_000).await;
    let row = w.only(&run).await;
    assert_eq!((row.target.as_str(), row.baseline), ("pr:12", Some(base)));
    assert!(d.comment().contains("against [**main at a300000, the merge-base**]"));
    assert_eq!(d.words(&b1).len(), 1, "the same words are not written twice: {:?}", d.words(&b1));

    let b9 = sha("b9");
    w.pull(&b9, |p| p.number = 13).await;
    let held = w.insert(&b9, "fork", |run| (run.trusted, run.state) = (false, RunState::Held)).await;
    d.tell(&b9).await;
    d.work(20_000).await;
    let body = w.forge.comments_on(13).remove(0).body;
    assert!(body.contains(&format!("trainyard runs release {held} --sha {b9}")), "{body}");
    assert!(d.words(&b9)[0].starts_with("Pending waiting for release"));
}
