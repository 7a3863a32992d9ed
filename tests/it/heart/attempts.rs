//! Attempts that end, are lost or wait, restarts, and concurrency groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trainyard::model::*;
use trainyard::store::runs::RunRow;

use super::{Heart, TWO_STEPS, states};
use crate::scripted::Act;

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

/// What is decided from an executor's answer counts what came in while it was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_that_come_while_an_executor_is_asked_count() {
    let heart = Heart::new(|step, _| match step {
        "train" => Act::LastWords(EndClass::Succeeded),
        _ => Act::LastWords(EndClass::Failed),
    })
    .await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    heart.settle().await;
    heart.pass(300).await;
    let view = heart.only_run().await;
    assert_eq!(states(&view), "failed: train succeeded, eval failed");
    assert_eq!(heart.executor.started(), ["train#1", "eval#1"]);
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

/// Two steps of one visit cost one call that waits for nothing, and an outage ends none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_away_is_asked_once_a_visit_and_fails_nothing() {
    let back = Arc::new(AtomicBool::new(false));
    let is_back = back.clone();
    let heart = Heart::new(move |_, _| {
        if is_back.load(Ordering::Relaxed) { Act::Finish(EndClass::Succeeded) } else { Act::Away }
    })
    .await;
    heart.push_pipeline("name: churn\nwhen: [{event: [push], branch: '**'}]\nsteps:\n  - {name: train, matrix: {seed: [1, 2]}, commands: [python train.py]}\n").await;
    heart.hand_in_all().await;
    heart.settle().await;
    let view = heart.only_run().await;
    let told = view.attempts.iter().filter(|a| a.reason.contains("nobody answers")).count();
    println!(
        "FIGURE executor_away attempts={} told={told} calls={}",
        view.attempts.len(),
        heart.executor.in_vain()
    );
    assert_eq!((view.attempts.len(), told, heart.executor.in_vain()), (2, 2, 1));
    heart.pass(2 * 3600).await;
    assert!(heart.only_run().await.attempts.iter().all(|a| a.class.is_none()), "an outage ends nothing");
    back.store(true, Ordering::Relaxed);
    heart.pass(900).await;
    assert_eq!(heart.only_run().await.run.state.word(), "succeeded");
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
