//! What the queue is decided from, results that stand for later ones, runs that are run again, caches.

use std::collections::BTreeMap;

use serde_json::json;
use trainyard::model::{
    AttemptState, AttemptUid, EndClass, MetricPoint, RepoId, RunId, RunState, StepId, StepState,
};
use trainyard::store::attempts::{ArtifactRow, AttemptMove, Finish};
use trainyard::store::caches::CacheRow;
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::queue::{PATIENCE_MS, StartWait, StepName};
use trainyard::store::retention::Retention;
use trainyard::store::reuse::{Lookup, NO_KEY, Rerun};
use trainyard::store::runs::{RunChange, StepMove};
use trainyard::store::watches::Asked;

use super::fixture::{Place, T0, delivery, intake, new_run, sha};

const HOUR: i64 = 3_600_000;

pub async fn what_was_used_counts(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    let used = at.store.pool_use().await.unwrap();
    let open = &used["default"].open[0];
    assert_eq!(
        (open.repo_id.clone(), open.gpus, open.step.as_str(), open.since_ms),
        (repo.clone(), 2, "test", T0 + 2)
    );
    let finish = Finish {
        class: EndClass::Succeeded,
        exit_code: Some(0),
        reason: String::new(),
        outputs: BTreeMap::new(),
        notes: vec![],
        sources: vec![],
        log_lost_bytes: 0,
        ended_ms: None,
        data: Vec::new(),
        judged: false,
    };
    assert!(at.store.agent_finish(&uid, finish.clone(), T0 + 1002).await.unwrap());
    assert!(!at.store.agent_finish(&uid, finish, T0 + 9999).await.unwrap(), "an end is charged once");
    let usage = at.store.pool_usage(0).await.unwrap();
    assert_eq!((usage.len(), usage[0].used_ms), (1, 2 * 1000), "two GPUs for a second");
    assert_eq!(at.store.pool_usage(T0 + HOUR).await.unwrap(), []);
    // Budgets count from the agent's start.
    for (since, until, want) in [(0, T0 + HOUR, 2 * 999), (T0 + HOUR, T0 + 2 * HOUR, 0), (0, T0 - HOUR, 0)] {
        assert_eq!(at.store.gpu_used_ms(&repo, since, until).await.unwrap(), want, "{since} to {until}");
    }
    // Another attempt of the same quarter of an hour, ended by its executor's word.
    let next = at.runs(vec![new_run(&repo, &sha('b'), RunState::Queued)]).await.remove(0);
    let uid = at.attempt(&next).await;
    at.end(&uid, EndClass::NodeLost).await;
    assert_eq!(at.store.pool_usage(0).await.unwrap()[0].used_ms, 2 * 1000 + 2 * 2);

    let name = StepName { repo_id: repo, pipeline: "churn".into(), step: "test".into() };
    assert!(at.store.step_durations(&name, 9).await.unwrap().is_empty());
    let mut change = at.change(&run).await;
    change.steps = vec![to(&at.view(&run).await.steps[0].id, StepState::Succeeded)];
    at.store.apply(change, T0 + 5002).await.unwrap();
    assert_eq!(at.store.step_durations(&name, 9).await.unwrap(), [5000]);
}

pub async fn the_default_branch_names_the_class(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('1'), RunState::Queued)]).await.remove(0);
    let mut change = at.change(&run).await;
    change.steps = vec![to(&at.view(&run).await.steps[0].id, StepState::Ready)];
    at.store.apply(change, T0).await.unwrap();
    // A file that cannot be read keeps its class, one that is gone loses it.
    for (n, (pipeline, class, broken, then)) in [
        ("churn", Some("low"), "", Some("low")),
        ("churn", Some("high"), "", Some("high")),
        ("prices", Some("low"), "churn", Some("high")),
        ("prices", Some("low"), "", None),
        ("churn", Some("high"), "", Some("high")),
        ("churn", None, "", None),
    ]
    .into_iter()
    .enumerate()
    {
        let new = delivery(&format!("class {n}"), b"{}");
        let id = new.id.clone();
        at.store.deliver(new).await.unwrap();
        let asked = Asked {
            repo_id: repo.clone(),
            branch: "main".into(),
            sha: sha('a'),
            priorities: vec![(pipeline.to_owned(), class.map(str::to_owned))],
            places: vec![],
            broken: vec![broken.to_owned()],
        };
        at.store.commit_intake(IntakeCommit { asked: Some(asked), ..intake(&id) }, T0).await.unwrap();
        let ready = at.store.ready_steps().await.unwrap();
        let own = ready.iter().find(|step| step.run_id == run).unwrap();
        assert_eq!(own.priority.as_deref(), then, "{n}");
    }
}

fn to(step: &StepId, to: StepState) -> StepMove {
    StepMove { step: step.clone(), to, reason: String::new(), outputs: None }
}

/// A run whose first step reported, left an artifact and succeeded under `key`; the second one failed.
async fn one_good_step(at: &Place, digit: char, key: &str) -> (RunId, StepId) {
    let repo = at.repo().await;
    let mut new = new_run(&repo, &sha(digit), RunState::Queued);
    new.plan.steps[0].reuse.on = true;
    new.concurrency = None;
    let run = at.runs(vec![new]).await.remove(0);
    let step = at.view(&run).await.steps[0].id.clone();
    let uid = at.started(&run).await;
    assert!(!at.store.settle_lookup(lookup(&run, &step, key, None), T0).await.unwrap());
    let point = MetricPoint { name: "loss".into(), value: f64::INFINITY, step: Some(3), at_ms: T0 };
    at.store.record_metrics(&uid, 1, vec![point], [("lr".into(), "1".into())].into(), T0).await.unwrap();
    let artifact = ArtifactRow {
        attempt_uid: uid.clone(),
        path: "m".into(),
        bytes: 1,
        sha256: "d".into(),
        executable: true,
        blob_key: format!("artifacts/{digit}"),
    };
    assert!(at.store.put_artifact(artifact, T0).await.unwrap());
    let finish = Finish {
        outputs: BTreeMap::new(),
        notes: vec![],
        sources: vec![],
        log_lost_bytes: 0,
        ended_ms: None,
        ..super::reports::finish()
    };
    assert!(at.store.agent_finish(&uid, finish, T0 + 4).await.unwrap());
    let mut change = at.change(&run).await;
    let outputs = Some(BTreeMap::from([("best".to_owned(), "3".to_owned())]));
    change.steps = vec![StepMove { outputs, ..to(&step, StepState::Succeeded) }];
    at.store.apply(change, T0 + 5).await.unwrap();
    (run, step)
}

fn lookup(run: &RunId, step: &StepId, key: &str, from: Option<&StepId>) -> Lookup {
    Lookup {
        run: run.clone(),
        step: step.clone(),
        key: key.into(),
        parts: BTreeMap::from([("commands".into(), key.into())]),
        from: from.cloned(),
        artifacts: true,
        fresh_since: T0 - HOUR,
    }
}

pub async fn an_equal_step_is_taken_over(at: &Place) {
    let repo = at.repo().await;
    let (source, step) = one_good_step(at, 'a', "k1").await;
    assert_eq!(at.store.equal_step(&repo, "k1").await.unwrap(), Some(step.clone()));
    assert_eq!(at.store.equal_step(&repo, "k2").await.unwrap(), None);
    assert_eq!(at.store.equal_step(&RepoId::from_text("elsewhere"), "k1").await.unwrap(), None);

    let waiting = async |digit: char, trusted: bool| {
        let mut new = new_run(&repo, &sha(digit), RunState::Queued);
        new.plan.steps[0].reuse.on = true;
        (new.trusted, new.concurrency) = (trusted, None);
        let run = at.runs(vec![new]).await.remove(0);
        let first = at.view(&run).await.steps[0].id.clone();
        let change = RunChange { steps: vec![to(&first, StepState::Ready)], ..at.change(&run).await };
        at.store.apply(change, T0 + 9).await.unwrap();
        (run, first)
    };
    let (run, first) = waiting('b', true).await;
    assert!(at.store.ready_steps().await.unwrap()[0].looking, "no place before somebody looked");
    assert!(at.store.settle_lookup(lookup(&run, &first, "k1", Some(&step)), T0 + 10).await.unwrap());
    assert!(!at.store.settle_lookup(lookup(&run, &first, "k1", Some(&step)), T0 + 11).await.unwrap(), "once");
    let view = at.view(&run).await;
    let short: String = source.as_str().chars().take(13).collect();
    assert_eq!(
        (view.steps[0].state, view.steps[0].reason.clone()),
        (StepState::Reused, format!("reused from run {short}"))
    );
    assert_eq!(view.steps[0].outputs["best"], "3");
    assert_eq!(view.attempts.len(), 1);
    assert!(view.attempts[0].removed_ms.is_some() && view.attempts[0].gpus.is_empty());
    let metrics = at.store.run_metrics(&run).await.unwrap();
    assert_eq!(
        (metrics.len(), metrics[0].point.value, metrics[0].step_name.as_str()),
        (1, f64::INFINITY, "test")
    );
    assert_eq!(at.store.run_params(&run).await.unwrap().len(), 1);
    let artifacts = at.store.run_artifacts(&run).await.unwrap();
    assert_eq!((artifacts[0].blob_key.as_str(), artifacts[0].executable), ("artifacts/a", true));
    let reuse = at.store.step_reuse(&first).await.unwrap().unwrap();
    assert_eq!(reuse.from.map(|f| (f.step, f.run)), Some((step.clone(), source.clone())));
    assert_eq!(at.store.step_reuse(&StepId::from_text("none")).await.unwrap(), None);

    // The bytes stay as long as either run's row names them.
    let end = RunChange { to: Some((RunState::Failed, String::new())), ..at.change(&source).await };
    at.store.apply(end, T0 + 20).await.unwrap();
    let swept = at.store.sweep(Retention { artifacts_ms: 5, ..Retention::default() }, T0 + 6).await.unwrap();
    assert_eq!(swept.blob_keys, [] as [String; 0]);
    assert_eq!(at.store.run_artifacts(&source).await.unwrap(), []);
    assert_eq!(at.store.run_artifacts(&run).await.unwrap().len(), 1);

    // Old artifacts may be on their way out; a key that cannot be told finds nothing; an untrusted run is no source.
    let (late, first) = waiting('c', true).await;
    let stale = Lookup { fresh_since: T0 + HOUR, ..lookup(&late, &first, "k1", Some(&step)) };
    assert!(!at.store.settle_lookup(stale, T0).await.unwrap());
    let (gone, first) = waiting('f', true).await;
    assert!(!at.store.settle_lookup(lookup(&gone, &first, "k1", Some(&step)), T0).await.unwrap());
    assert!(!at.store.ready_steps().await.unwrap()[0].looking, "it runs instead");
    let (unknown, first) = waiting('d', true).await;
    assert!(!at.store.settle_lookup(lookup(&unknown, &first, NO_KEY, None), T0).await.unwrap());
    assert_eq!(at.store.equal_step(&repo, NO_KEY).await.unwrap(), None);
    let name = StepName { repo_id: repo.clone(), pipeline: "churn".into(), step: "test".into() };
    let (run, reuse) = at.store.earlier_reuse(&name, &first).await.unwrap().unwrap();
    assert_eq!((run, reuse.parts["commands"].as_str()), (source, "k1"));
    assert_eq!(at.store.earlier_reuse(&name, &step).await.unwrap(), None, "nothing before the first");
}

pub async fn a_run_is_run_again(at: &Place) {
    let (run, first) = one_good_step(at, 'a', "k").await;
    let plan = at.view(&run).await.run.plan;
    let ask = |of: &RunId, failed: bool| Rerun {
        run: of.clone(),
        id: RunId::generate(T0),
        failed,
        plan: plan.clone(),
        actor: "ada".into(),
        fresh_since: T0 - HOUR,
    };
    let open = at.store.rerun(ask(&run, true), T0).await.unwrap().unwrap_err();
    assert!(open.contains("wait for its end"), "{open}");
    let view = at.view(&run).await;
    let mut end = at.change(&run).await;
    end.steps = vec![to(&view.steps[1].id, StepState::Skipped)];
    end.to = Some((RunState::Failed, "no".into()));
    at.store.apply(end, T0 + 20).await.unwrap();
    let again = at.store.rerun(ask(&run, true), T0 + 30).await.unwrap().unwrap();
    let view = at.view(&again).await;
    assert_eq!(
        (view.run.generation, view.run.state, view.run.reason.as_str()),
        (1, RunState::Queued, "run again by ada")
    );
    assert_eq!(
        view.steps.iter().map(|s| s.state).collect::<Vec<_>>(),
        [StepState::Reused, StepState::Waiting]
    );
    assert_eq!(at.store.run_metrics(&again).await.unwrap().len(), 1);
    let reports = at.store.data_reports(&again).await.unwrap();
    assert_eq!(reports, at.store.data_reports(&run).await.unwrap());
    assert_eq!(reports.len(), 2);
    let old = at.store.rerun(ask(&run, false), T0 + 31).await.unwrap().unwrap_err();
    assert!(old.contains("is newer"), "{old}");
    let cancel = RunChange { to: Some((RunState::Cancelled, String::new())), ..at.change(&again).await };
    at.store.apply(cancel, T0 + 32).await.unwrap();
    // The origin stays the one that ran.
    let third = at.store.rerun(ask(&again, true), T0 + 33).await.unwrap().unwrap();
    let step = at.view(&third).await.steps[0].id.clone();
    assert_eq!(at.store.step_reuse(&step).await.unwrap().unwrap().from.unwrap().step, first);
    let cancel = RunChange { to: Some((RunState::Cancelled, String::new())), ..at.change(&third).await };
    at.store.apply(cancel, T0 + 34).await.unwrap();
    let whole = at.store.rerun(ask(&third, false), T0 + 35).await.unwrap().unwrap();
    assert!(at.view(&whole).await.steps.iter().all(|s| s.state == StepState::Waiting));

    // An untrusted run is held again, unless its commit was released.
    let repo = at.repo().await;
    let held = at.runs(vec![new_run(&repo, &sha('e'), RunState::Held)]).await.remove(0);
    let end = |to: RunState| (to, String::new());
    let cancel = RunChange { to: Some(end(RunState::Cancelled)), ..at.change(&held).await };
    at.store.apply(cancel, T0 + 40).await.unwrap();
    let again = at.store.rerun(ask(&held, false), T0 + 41).await.unwrap().unwrap();
    assert_eq!(at.view(&again).await.run.state, RunState::Held);
    at.store.release_run(&again, &sha('e'), "bob", T0 + 42).await.unwrap().unwrap();
    let cancel = RunChange { to: Some(end(RunState::Cancelled)), ..at.change(&again).await };
    at.store.apply(cancel, T0 + 43).await.unwrap();
    let released = at.store.rerun(ask(&again, false), T0 + 44).await.unwrap().unwrap();
    assert_eq!(at.view(&released).await.run.state, RunState::Queued);
}

pub async fn the_first_writer_of_a_cache_wins(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('2'), RunState::Queued)]).await.remove(0);
    let cache = |key: &str, bytes: i64| CacheRow {
        repo_id: repo.clone(),
        key: key.into(),
        bytes,
        sha256: "d".into(),
        blob_key: format!("caches/{key}/{bytes}"),
        branch: "main".into(),
        run_id: run.clone(),
    };
    assert_eq!(at.store.cache(&repo, "pip-1").await.unwrap(), None);
    assert!(at.store.put_cache(cache("pip-1", 10), T0).await.unwrap());
    assert!(!at.store.put_cache(cache("pip-1", 99), T0 + 1).await.unwrap());
    assert_eq!(at.store.cache(&repo, "pip-1").await.unwrap(), Some(cache("pip-1", 10)));
    assert!(at.store.put_cache(cache("pip-2", 10), T0 + 2).await.unwrap());
    assert!(at.store.put_cache(cache("pip-3", 10), T0 + 3).await.unwrap());
    at.store.cache_used(&repo, "pip-1", T0 + 9).await.unwrap();
    assert_eq!(at.store.sweep_caches(T0, 30).await.unwrap(), [] as [String; 0]);
    assert_eq!(at.store.sweep_caches(T0, 29).await.unwrap(), ["caches/pip-2/10"], "least recently used");
    assert_eq!(at.store.sweep_caches(T0 + 4, 30).await.unwrap(), ["caches/pip-3/10"], "not used since");
    assert!(at.store.cache(&repo, "pip-1").await.unwrap().is_some());
}

pub async fn a_wait_is_told_while_nothing_works(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('7'), RunState::Queued)]).await.remove(0);
    let uid = at.attempt(&run).await;
    let moved = async |uid: &AttemptUid, to: AttemptState, reason: &str, now: i64| {
        let change = AttemptMove {
            uid: uid.clone(),
            to,
            class: None,
            reason: reason.into(),
            exit_code: None,
            cancel: false,
            handle: (to == AttemptState::Submitted).then(|| json!({})),
        };
        assert!(at.store.move_attempt(change, now).await.unwrap());
    };
    assert_eq!(at.store.run_waits(&run).await.unwrap(), None);
    moved(&uid, AttemptState::Submitted, "", T0 + 3).await;
    assert_eq!(at.store.run_waits(&run).await.unwrap(), None, "nothing is known of it");
    moved(&uid, AttemptState::Pending, "waiting for quota", T0 + 4).await;
    let wait = StartWait { pool: "default".into(), why: "waiting for quota".into(), since_ms: T0 + 3 };
    assert_eq!(at.store.run_waits(&run).await.unwrap(), Some(wait));
    let open = at.store.pool_use().await.unwrap().remove("default").unwrap().open;
    assert!(open.iter().any(|open| open.run_id == run && open.started_ms.is_none()), "{open:?}");
    // It starts after the forge may have been told: the commit is reported on again, and no old sentence stays.
    at.settle_all().await;
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 4 + PATIENCE_MS).await.unwrap());
    assert_eq!(at.store.run_waits(&run).await.unwrap(), None);
    assert_eq!(at.store.attempt(&uid).await.unwrap().unwrap().reason, "");
    assert_eq!(at.open_work().await, 2, "the run and its report");
    // Nothing is told any more once another attempt runs, which itself waited for nothing.
    let run = at.runs(vec![new_run(&repo, &sha('8'), RunState::Queued)]).await.remove(0);
    let (long, short) = (at.attempt(&run).await, at.attempt_of(&run, 1).await);
    moved(&long, AttemptState::Submitted, "", T0 + 3).await;
    moved(&long, AttemptState::Pending, "waiting for quota", T0 + 4).await;
    let now = T0 + 4 + PATIENCE_MS;
    moved(&short, AttemptState::Submitted, "", now).await;
    assert!(at.store.run_waits(&run).await.unwrap().is_some());
    at.settle_all().await;
    assert!(at.store.agent_start(&short, "hash", "n", now + 1).await.unwrap());
    assert_eq!(at.store.run_waits(&run).await.unwrap(), None);
    assert_eq!(at.open_work().await, 2, "the run and its report");
}
