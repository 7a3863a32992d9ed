//! Attempts of several pods: what each rank says, and what of it counts.

use std::collections::BTreeMap;

use trainyard::model::{AttemptRank, AttemptState, AttemptUid, EndClass, MetricPoint, RunId, RunState};
use trainyard::store::attempts::{AttemptMove, LogAppend, SegmentRow};
use trainyard::store::queue::PATIENCE_MS;
use trainyard::store::ranks::RankEnd;

use super::fixture::{Place, T0, new_run, sha};
use super::reports;

/// An attempt of two pods, of which nothing was heard.
async fn two_pods(at: &Place, head: char) -> (RunId, AttemptUid) {
    let repo = at.repo().await;
    let mut new = new_run(&repo, &sha(head), RunState::Queued);
    new.plan.steps[0].workers = 2;
    let run = at.runs(vec![new]).await.remove(0);
    let uid = at.attempt(&run).await;
    assert_eq!(at.store.attempt(&uid).await.unwrap().unwrap().ranks, 2);
    (run, uid)
}

fn rank_end(class: EndClass, ended_ms: i64) -> RankEnd {
    RankEnd { class, exit_code: Some(1), reason: "its own words".into(), log_lost_bytes: 3, ended_ms }
}

async fn state(at: &Place, uid: &AttemptUid) -> (AttemptState, Option<i64>) {
    let row = at.store.attempt(uid).await.unwrap().unwrap();
    (row.state, row.started_ms)
}

pub async fn an_attempt_runs_when_all_of_its_ranks_do(at: &Place) {
    let (_, uid) = two_pods(at, '6').await;
    let one = AttemptRank::new(&uid, 1);
    let start = async |of: &AttemptRank, nonce: &str, preparing, now| {
        at.store.rank_start(of, nonce, preparing, now).await.unwrap()
    };
    assert!(!start(&AttemptRank::new(&uid, 2), "m", false, T0).await, "there are two");
    assert!(!start(&AttemptRank::new(&uid, 0), "m", false, T0).await, "the leader has a start of its own");
    assert_eq!(at.store.rank(&one).await.unwrap(), None);
    assert!(start(&one, "m", true, T0 + 1).await);
    assert!(!start(&one, "thief", true, T0 + 1).await);
    assert_eq!(at.store.rank(&one).await.unwrap().unwrap().started_ms, None);
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 2).await.unwrap());
    assert_eq!(state(at, &uid).await, (AttemptState::Pending, None), "one of two");
    assert!(start(&one, "m", false, T0 + 5).await);
    assert_eq!(state(at, &uid).await, (AttemptState::Running, Some(T0 + 5)));
    assert!(start(&one, "m", false, T0 + 6).await, "its answer was lost");
    assert!(!start(&one, "m", true, T0 + 6).await, "it runs");
    assert!(!start(&one, "thief", false, T0 + 6).await);
    assert_eq!(at.store.agent_heartbeat(&one, T0 + 7).await.unwrap(), Some(false));
    assert!(!start(&one, "m", false, T0 + 8).await, "sealed");
    let row = at.store.rank(&one).await.unwrap().unwrap();
    assert_eq!((row.sealed, row.heard_ms, row.started_ms), (true, T0 + 7, Some(T0 + 5)));
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 9).await.unwrap(), "the leader's answer was lost");
    assert_eq!(state(at, &uid).await, (AttemptState::Running, Some(T0 + 5)));
}

pub async fn the_last_rank_ends_a_wait(at: &Place) {
    let (run, uid) = two_pods(at, '9').await;
    let submitted = AttemptMove {
        uid: uid.clone(),
        to: AttemptState::Submitted,
        class: None,
        reason: String::new(),
        exit_code: None,
        cancel: false,
        handle: Some(serde_json::json!({})),
    };
    assert!(at.store.move_attempt(submitted, T0 + 1).await.unwrap());
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 2).await.unwrap());
    at.settle_all().await;
    let one = AttemptRank::new(&uid, 1);
    assert!(at.store.rank_start(&one, "m", false, T0 + 2 + PATIENCE_MS).await.unwrap());
    assert_eq!(at.view(&run).await.attempts[0].state, AttemptState::Running);
    assert_eq!(at.open_work().await, 2, "the run and its report");
}

pub async fn a_rank_speaks_for_itself(at: &Place) {
    let (run, uid) = two_pods(at, '7').await;
    let one = AttemptRank::new(&uid, 1);
    assert_eq!(at.store.agent_heartbeat(&one, T0).await.unwrap(), None, "not started");
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 1).await.unwrap());
    assert!(at.store.rank_start(&one, "m", false, T0 + 1).await.unwrap());
    // One log for each, byte by byte.
    let append = async |of: &AttemptRank, offset, bytes, key| {
        at.store.append_log(of, offset, bytes, key, T0).await.unwrap()
    };
    let leader = AttemptRank::from(&uid);
    assert_eq!(append(&leader, 0, 10, "r/a").await, LogAppend::Committed { offset: 10 });
    assert_eq!(append(&one, 0, 4, "r/b").await, LogAppend::Committed { offset: 4 });
    assert_eq!(append(&one, 0, 4, "r/b").await, LogAppend::Conflict { committed: 4 });
    assert_eq!(append(&one, 4, 5, "r/c").await, LogAppend::Committed { offset: 9 });
    let keys = async |of: &AttemptRank| {
        let rows = at.store.log_segments(of, 0, 9).await.unwrap();
        rows.into_iter().map(|row| row.blob_key).collect::<Vec<_>>()
    };
    assert_eq!(
        (keys(&leader).await, keys(&one).await),
        (vec!["r/a".to_owned()], vec!["r/b".into(), "r/c".into()])
    );
    let named = ["r/a", "r/b", "r/c", "r/d"].map(str::to_owned);
    assert_eq!(at.store.blobs_without_row(&named).await.unwrap(), ["r/d"]);
    // Points of each are numbered from 1; the leader's alone are the step's.
    let point = |value: f64| MetricPoint { name: "loss".into(), value, step: Some(1), at_ms: T0 };
    assert_eq!(
        at.store.record_metrics(&uid, 1, vec![point(0.5)], BTreeMap::new(), T0).await.unwrap(),
        Some(1)
    );
    let record = async |first, points| at.store.record_rank_metrics(&one, first, points, T0).await.unwrap();
    assert_eq!(record(1, vec![point(0.7), point(f64::NAN)]).await, Some(2));
    assert_eq!(record(1, vec![point(0.7)]).await, Some(2), "a repeat");
    assert_eq!(record(5, vec![point(0.7)]).await, Some(2), "a gap");
    let kept = at.store.rank_metrics(&one, 9).await.unwrap();
    assert!(
        kept.len() == 2 && kept[0].value.to_bits() == 0.7_f64.to_bits() && kept[1].value.is_nan(),
        "{kept:?}"
    );
    let counted = at.store.run_metrics(&run).await.unwrap();
    assert_eq!(counted.iter().map(|m| m.point.value).collect::<Vec<_>>(), [0.5]);
    assert_eq!(at.store.metric_points_left_out(&run).await.unwrap(), []);
}

pub async fn a_rank_ends_once_and_its_attempt_later(at: &Place) {
    let (run, uid) = two_pods(at, '7').await;
    let one = AttemptRank::new(&uid, 1);
    assert!(!at.store.rank_finish(&one, rank_end(EndClass::Failed, T0), T0).await.unwrap(), "never began");
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 1).await.unwrap());
    assert!(at.store.rank_start(&one, "m", false, T0 + 1).await.unwrap());
    at.store.append_log(&one, 0, 4, "e/b", T0).await.unwrap();
    assert!(!at.store.compact_log(&one, 4, "e/whole", T0).await.unwrap(), "it goes on");
    assert!(at.store.rank_finish(&one, rank_end(EndClass::Succeeded, T0 + 4), T0 + 5).await.unwrap());
    assert!(!at.store.rank_finish(&one, rank_end(EndClass::Failed, T0 + 6), T0 + 6).await.unwrap(), "once");
    assert_eq!(at.store.append_log(&one, 4, 1, "e/c", T0).await.unwrap(), LogAppend::Refused);
    assert!(at.store.compact_log(&one, 4, "e/whole", T0).await.unwrap());
    let whole = SegmentRow { start_byte: 0, bytes: 4, blob_key: "e/whole".into() };
    assert_eq!(at.store.log_segments(&one, 0, 9).await.unwrap(), [whole]);
    let row = at.store.rank(&one).await.unwrap().unwrap();
    assert_eq!((row.class, row.ended_ms, row.log_lost_bytes), (Some(EndClass::Succeeded), Some(T0 + 4), 3));
    assert_eq!(state(at, &uid).await.0, AttemptState::Running, "the leader has not ended");

    // The leader's word keeps what the step leaves; whether it counts is decided when all have ended.
    let mut said = reports::finish();
    said.ended_ms = Some(T0 + 8);
    assert!(at.store.agent_finish(&uid, said.clone(), T0 + 9).await.unwrap());
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.class, row.ended_ms), (AttemptState::Finishing, None, None));
    assert_eq!(row.outputs, said.outputs);
    assert!(!at.store.agent_finish(&uid, reports::finish(), T0 + 10).await.unwrap(), "once");
    assert_eq!(at.store.append_log(&uid, 0, 1, "e/d", T0).await.unwrap(), LogAppend::Refused);
    let view = at.store.run_view(&run).await.unwrap().unwrap();
    let ends: Vec<_> = view.ranks.iter().map(|row| (row.of.rank, row.class, row.ended_ms)).collect();
    let good = Some(EndClass::Succeeded);
    assert_eq!(ends, [(0, good, Some(T0 + 8)), (1, good, Some(T0 + 4))]);

    // Nothing is taken from a rank of an attempt that has ended.
    let (_, late) = two_pods(at, '8').await;
    let other = AttemptRank::new(&late, 1);
    assert!(at.store.agent_start(&late, "hash", "n", T0 + 1).await.unwrap());
    assert!(at.store.rank_start(&other, "m", false, T0 + 1).await.unwrap());
    at.end(&late, EndClass::NodeLost).await;
    assert_eq!(at.store.agent_heartbeat(&other, T0 + 9).await.unwrap(), None);
    assert!(!at.store.rank_start(&other, "m", false, T0 + 9).await.unwrap());
    assert!(!at.store.rank_finish(&other, rank_end(EndClass::Succeeded, T0), T0 + 9).await.unwrap());
    assert_eq!(at.store.record_rank_metrics(&other, 1, Vec::new(), T0 + 9).await.unwrap(), None);
}
