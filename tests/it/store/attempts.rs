//! Placing attempts and moving them.

use trainyard::model::{AttemptState, AttemptUid, EndClass, Held, RunState, StepState};
use trainyard::store::attempts::AttemptMove;
use trainyard::store::runs::{Applied, RunChange, StepMove};
use trainyard::store::work::{WorkAsk, WorkKind};

use super::fixture::{Place, T0, new_run, placement, sha};

fn to(uid: &AttemptUid, to: AttemptState) -> AttemptMove {
    AttemptMove {
        uid: uid.clone(),
        to,
        class: None,
        reason: String::new(),
        exit_code: None,
        cancel: false,
        handle: None,
    }
}

pub async fn ready_steps_are_placed_once(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    assert_eq!(at.store.ready_steps().await.unwrap(), []);
    let uid = at.attempt(&run).await;
    let view = at.view(&run).await;
    assert_eq!((view.steps[0].state, view.steps[0].started_ms), (StepState::Running, Some(T0 + 2)));
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.number, row.gpus.as_slice()), (AttemptState::Intended, 1, [0, 1].as_slice()));
    assert_eq!(at.store.ready_steps().await.unwrap(), []);
    let used = at.store.pool_use().await.unwrap();
    assert_eq!((used["default"].attempts, used["default"].gpus.as_slice()), (1, [0, 1].as_slice()));

    // A second scheduler that read the step as ready comes too late; so does a decision made before.
    let stale = RunChange { epoch: view.run.epoch - 1, ..at.change(&run).await };
    assert_eq!(at.store.apply(stale, T0).await.unwrap(), Applied::Stale);
    let again = trainyard::store::queue::ReadyStep {
        run_id: run.clone(),
        step_id: view.steps[0].id.clone(),
        position: 0,
        number: 2,
        ready_ms: T0,
        run_created_ms: T0,
        spec: super::fixture::step("test"),
        trusted: true,
        repo_id: repo.clone(),
        forge: "github".into(),
        repo: trainyard::model::RepoName::parse("ada/churn").unwrap(),
        pipeline: "churn".into(),
        priority: None,
        group: None,
        ahead: None,
        looking: false,
    };
    assert_eq!(at.store.place(vec![placement(&again)], T0).await.unwrap(), [] as [AttemptUid; 0]);

    // Back to ready for a retry: the next number; not placed when the run is asked to stop.
    at.end(&uid, EndClass::Preempted).await;
    let back = trainyard::store::runs::StepMove {
        step: view.steps[0].id.clone(),
        to: StepState::Ready,
        reason: String::new(),
        outputs: None,
    };
    at.store.apply(RunChange { steps: vec![back], ..at.change(&run).await }, T0).await.unwrap();
    let ready = at.store.ready_steps().await.unwrap().remove(0);
    assert_eq!((ready.number, ready.spec.name.as_str(), ready.trusted), (2, "test", true));
    at.store.request_cancel(&run, "stop", T0).await.unwrap();
    assert_eq!(at.store.place(vec![placement(&ready)], T0).await.unwrap(), [] as [AttemptUid; 0]);
    assert_eq!(at.store.ready_steps().await.unwrap(), []);
}

pub async fn a_late_move_keeps_the_state(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    // The executor's answer arrives after the agent's first word.
    let handle = serde_json::json!({"pid": 7});
    let submitted = AttemptMove { handle: Some(handle.clone()), ..to(&uid, AttemptState::Submitted) };
    assert!(at.store.move_attempt(submitted, T0 + 9).await.unwrap());
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.handle, row.submitted_ms), (AttemptState::Running, handle, Some(T0 + 9)));

    let cancel = AttemptMove { cancel: true, ..to(&uid, AttemptState::Running) };
    let change = RunChange { attempts: vec![cancel], ..at.change(&run).await };
    assert_eq!(at.store.apply(change, T0).await.unwrap(), Applied::Done);
    assert!(at.store.attempt(&uid).await.unwrap().unwrap().cancel_request);
}

pub async fn an_ended_attempt_frees_its_place(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    at.settle_all().await;
    let lost = AttemptMove {
        class: Some(EndClass::NodeLost),
        reason: "gone".into(),
        exit_code: Some(137),
        ..to(&uid, AttemptState::Ended)
    };
    assert!(at.store.move_attempt(lost.clone(), T0 + 5).await.unwrap());
    assert!(!at.store.move_attempt(lost.clone(), T0 + 6).await.unwrap(), "ended once");
    let before = at.store.run(&run).await.unwrap();
    let unaware = RunChange { attempts: vec![lost], ..at.change(&run).await };
    assert_eq!(at.store.apply(unaware, T0 + 6).await.unwrap(), Applied::Stale, "decided before it ended");
    assert_eq!(at.store.run(&run).await.unwrap(), before);
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.class, row.exit_code, row.ended_ms), (Some(EndClass::NodeLost), Some(137), Some(T0 + 5)));
    let asked = at.store.claim(WorkKind::ALL, "w", T0 + 5, 1, 9).await.unwrap();
    assert_eq!(
        asked.iter().map(|w| w.kind).collect::<Vec<_>>().len(),
        2,
        "its run, and a schedule: {asked:?}"
    );
    let used = at.store.pool_use().await.unwrap();
    assert_eq!(used["default"].attempts, 1, "a local place is held until nothing is left of its attempt");

    let unremoved = async || at.store.unremoved_attempts().await.unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(unremoved().await, std::slice::from_ref(&uid));
    let charged = async || at.store.gpu_used_ms(&repo, 0, T0 + 1_000_000).await.unwrap();
    let before = charged().await;
    let held = Held { from_ms: T0, to_ms: T0 + 6, pods_ms: 6, gpu_busy: Some(0.25) };
    at.store.attempt_removed(&uid, Some(held), T0 + 7).await.unwrap();
    at.store.attempt_removed(&uid, Some(Held { to_ms: T0 + 99, ..held }), T0 + 8).await.unwrap();
    assert_eq!(unremoved().await, []);
    assert!(at.store.pool_use().await.unwrap().is_empty());
    let asked = at.store.claim(&[WorkKind::Schedule], "w", T0 + 8, 1, 9).await.unwrap();
    assert_eq!(asked.len(), 1, "its place is free");
    assert_eq!(
        (before < 2 * 6, charged().await),
        (true, 2 * 6),
        "the repository pays for what was held, once"
    );
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.held_from_ms, row.held_to_ms, row.gpu_busy), (Some(T0), Some(T0 + 6), Some(0.25)));
    assert_eq!(row.gpu_ms(T0 + 3_600_000), 2 * 6, "two GPUs, from when their node was taken");
    assert_eq!(at.store.attempt(&AttemptUid::from_text("none")).await.unwrap(), None);
}

/// F05: a scheduler that slept past its lease places nothing.
pub async fn a_lost_lease_places_nothing(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let ready = StepMove {
        step: at.view(&run).await.steps[0].id.clone(),
        to: StepState::Ready,
        reason: String::new(),
        outputs: None,
    };
    let change = RunChange {
        to: Some((RunState::Running, String::new())),
        steps: vec![ready],
        ..at.change(&run).await
    };
    at.store.apply(change, T0).await.unwrap();
    let schedule = [WorkKind::Schedule];
    at.store.ask(vec![WorkAsk::schedule(T0)], T0).await.unwrap();
    let old = at.store.claim(&schedule, "a", T0, 1000, 1).await.unwrap().remove(0);
    let new = at.store.claim(&schedule, "b", T0 + 1000, 1000, 1).await.unwrap().remove(0);
    let ready = at.store.ready_steps().await.unwrap();
    let place = || vec![placement(&ready[0])];
    assert_eq!(at.store.place_under(&old, place(), T0 + 1001).await.unwrap(), []);
    assert_eq!(at.store.place_under(&new, place(), T0 + 1001).await.unwrap().len(), 1);
    // Places of another machine take no room from this one's.
    let elsewhere = at.beside("elsewhere").await;
    assert_eq!(
        elsewhere.pool_use().await.unwrap()["default"].attempts,
        1,
        "an attempt that everyone reaches"
    );
    elsewhere.close().await;
}

/// Two schedulers that both saw two runs of one concurrency group ready place one of them.
pub async fn a_group_has_one_run_at_a_time(at: &Place) {
    let repo = at.repo().await;
    let runs = ['a', 'b'].map(|c| new_run(&repo, &sha(c), RunState::Queued)).to_vec();
    for run in at.runs(runs).await {
        let step = at.view(&run).await.steps[0].id.clone();
        let ready = StepMove { step, to: StepState::Ready, reason: String::new(), outputs: None };
        at.store.apply(RunChange { steps: vec![ready], ..at.change(&run).await }, T0).await.unwrap();
    }
    let ready = at.store.ready_steps().await.unwrap();
    assert_eq!(ready.iter().map(|step| &step.ahead).collect::<Vec<_>>(), [&None, &None]);
    let other = at.beside("elsewhere").await;
    let (one, two) = tokio::join!(
        at.store.place(vec![placement(&ready[0])], T0),
        other.place(vec![placement(&ready[1])], T0)
    );
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    let left = at.store.ready_steps().await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].ahead.is_some(), "the other one waits for it");
    other.close().await;
}
