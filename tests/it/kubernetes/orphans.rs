//! Jobs that no row knows, on the real cluster by a clock of the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trainyard::clock::{Clock as _, ManualClock, Millis, SystemClock};
use trainyard::config::KubernetesPool;
use trainyard::executor::kubernetes::orphans::Fate;
use trainyard::executor::kubernetes::{self, Kubernetes};
use trainyard::executor::{Executor as _, Launch, external_name};
use trainyard::model::{AttemptState, AttemptUid, EndClass, RunId, RunState, StepSpec};
use trainyard::store::attempts::AttemptMove;

use super::cluster::{HEALTH, Namespace, cluster, small_pool};
use super::golden;
use crate::agent::daemon::uid;
use crate::store::fixture;

const MINUTE: Millis = 60_000;
const DAY: Millis = 24 * 60 * MINUTE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_no_row_knows_is_listed_or_deleted() {
    let _healthy = HEALTH.read().await;
    let namespace = tokio::task::spawn_blocking(Namespace::make).await.unwrap();
    let at = fixture::sqlite().await;
    let repo = at.repo().await;
    let run = at.runs(vec![fixture::new_run(&repo, &fixture::sha('a'), RunState::Queued)]).await.remove(0);
    let kept = at.attempt(&run).await;

    let over = at.runs(vec![fixture::new_run(&repo, &fixture::sha('b'), RunState::Queued)]).await.remove(0);
    let removed = at.attempt(&over).await;

    let clock = ManualClock::at(SystemClock.now_ms());
    // In a queue that nobody serves: no pod is needed for any of it.
    let pool = KubernetesPool { queue: Some("none".into()), ..small_pool() };
    let executor = async |instance: &str| {
        let mut settings = namespace.settings("https://192.0.2.1:1");
        settings.instance = instance.into();
        let client = kubernetes::client(&settings.config).await.unwrap();
        Arc::new(Kubernetes::new(
            client,
            settings,
            BTreeMap::from([("default".to_owned(), pool.clone())]),
            clock.clone(),
        ))
    };
    let (ours, theirs) = (executor("ours").await, executor("theirs").await);
    let submit = async |executor: &Kubernetes, run: &RunId, uid: &AttemptUid| {
        let launch = Launch {
            name: external_name("test", run.as_str(), uid.as_str(), 1),
            uid: uid.clone(),
            run: run.clone(),
            pool: "default".into(),
            ..golden::launch(StepSpec { image: None, ..golden::step("train") })
        };
        executor.submit(&launch).await.unwrap();
        launch.name
    };
    let unknown = || AttemptUid::from_text(uid());
    let gone = RunId::generate(0);
    let a = submit(&ours, &run, &kept).await;
    let b = submit(&ours, &run, &unknown()).await;
    let c = submit(&ours, &gone, &unknown()).await;
    let d = submit(&theirs, &gone, &unknown()).await;
    // Its attempt ended and all of it was removed before the API server carried the create out.
    let end = AttemptMove {
        uid: removed.clone(),
        to: AttemptState::Ended,
        class: Some(EndClass::Cancelled),
        reason: String::new(),
        exit_code: None,
        cancel: false,
        handle: None,
    };
    assert!(at.store.move_attempt(end, clock.now_ms()).await.unwrap());
    at.store.attempt_removed(&removed, None, clock.now_ms()).await.unwrap();
    let too_late = submit(&ours, &over, &removed).await;
    let watching = tokio::spawn(ours.clone().watch(Arc::new(|_| {})));

    let sweep = async || {
        let found = ours.sweep_orphans(&at.store).await.unwrap();
        found.into_iter().map(|orphan| (orphan.job, orphan.fate)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(sweep().await, BTreeMap::new(), "what was just made may have a row in a moment");
    clock.advance(11 * MINUTE);
    at.store.note_restore(clock.now_ms() - DAY).await.unwrap();
    let both = BTreeMap::from([(b.clone(), Fate::List), (c.clone(), Fate::List)]);
    let began = Instant::now();
    let mut late = None;
    loop {
        let mut found = sweep().await;
        late = late.or(found.remove(&too_late));
        if found == both && late == Some(Fate::Delete) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{found:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    clock.advance(30 * DAY);
    let found = sweep().await;
    assert_eq!(found, BTreeMap::from([(b.clone(), Fate::List), (c.clone(), Fate::Delete)]));
    assert_eq!(sweep().await, BTreeMap::from([(b.clone(), Fate::List)]));

    let there = |kind: &str| -> BTreeSet<String> {
        let said = cluster().kubectl(&["get", kind, "-n", &namespace.0, "-o", "name"]);
        said.lines().filter_map(|line| line.split_once('/')).map(|(_, name)| name.to_owned()).collect()
    };
    let left = BTreeSet::from([a, b, d]);
    println!("FIGURE kubernetes_orphans jobs=5 listed=1 deleted=2 left={}", there("jobs").len());
    assert_eq!(there("jobs"), left);
    assert_eq!(there("secrets"), left, "a Secret goes with its Job, by its name");
    watching.abort();
}
