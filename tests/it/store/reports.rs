//! What agents report.

use std::collections::BTreeMap;

use trainyard::model::data::{ColumnShift, DataFinding, Severity, Shift};
use trainyard::model::{
    AttemptState, AttemptUid, DataReport, EndClass, MetricPoint, MetricSource, RunState, StepState,
};
use trainyard::store::attempts::{ArtifactRow, Finish, LogAppend, SegmentRow};
use trainyard::store::runs::{RunChange, StepMove};

use super::fixture::{Place, T0, new_run, placement, sha};

async fn started(at: &Place) -> AttemptUid {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    at.started(&run).await
}

fn point(name: &str, value: f64, step: Option<i64>) -> MetricPoint {
    MetricPoint { name: name.into(), value, step, at_ms: T0 }
}

fn artifact(uid: &AttemptUid, path: &str) -> ArtifactRow {
    ArtifactRow {
        attempt_uid: uid.clone(),
        path: path.into(),
        bytes: 3,
        sha256: "aa".into(),
        executable: true,
        blob_key: format!("artifacts/{path}"),
    }
}

pub fn source(place: &str, used: bool) -> MetricSource {
    MetricSource { kind: "json".into(), place: place.into(), used, points: 3, params: 1, note: "why".into() }
}

pub fn data_report(name: &str, passed: bool) -> DataReport {
    DataReport {
        name: name.into(),
        kind: String::new(),
        rows: 20_000,
        columns: 2,
        passed,
        against: "main at 9f1c2ab".into(),
        findings: vec![DataFinding {
            severity: Severity::Fail,
            rule: "drift".into(),
            column: Some("age".into()),
            message: "moved by 0.8 standard deviations".into(),
            count: 3,
            share: 0.25,
        }],
        drift: vec![ColumnShift {
            column: "age".into(),
            verdict: Shift::Drifted,
            p: Some(1e-300),
            shift: Some(0.8),
            psi: None,
            v: Some(0.1),
            baseline_shares: vec![0.5, 0.5],
            shares: vec![0.1, 0.9],
        }],
        features: Vec::new(),
        left_out: 0,
    }
}

pub fn finish() -> Finish {
    Finish {
        class: EndClass::Succeeded,
        exit_code: Some(0),
        reason: "done".into(),
        outputs: BTreeMap::from([("model".into(), "m.bin".into())]),
        notes: vec!["an artifact was passed over".into()],
        sources: vec![source("metrics.json", true), source("old.json", false)],
        log_lost_bytes: 4,
        ended_ms: None,
        data: vec![data_report("customers", false), data_report("orders", true)],
        judged: false,
    }
}

pub async fn the_bootstrap_belongs_to_its_first_agent(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.attempt(&run).await;
    assert_eq!(at.store.agent_heartbeat(&uid, T0).await.unwrap(), None, "not started");
    assert!(!at.store.agent_start(&uid, "wrong", "n", T0).await.unwrap());
    assert!(!at.store.agent_start(&uid, "hash", "", T0).await.unwrap());
    // A container that prepares binds it already, and the attempt does not run yet.
    assert!(!at.store.agent_prepare(&uid, "wrong", "n", T0).await.unwrap());
    assert!(at.store.agent_prepare(&uid, "hash", "n", T0 + 1).await.unwrap());
    assert!(at.store.agent_prepare(&uid, "hash", "n", T0 + 2).await.unwrap(), "its answer was lost");
    assert!(!at.store.agent_prepare(&uid, "hash", "thief", T0 + 2).await.unwrap());
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.started_ms, row.sealed), (AttemptState::Pending, None, false));
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 3).await.unwrap());
    assert!(at.store.agent_start(&uid, "hash", "n", T0 + 4).await.unwrap(), "its answer was lost");
    assert!(!at.store.agent_start(&uid, "hash", "thief", T0 + 4).await.unwrap());
    assert!(!at.store.agent_prepare(&uid, "hash", "n", T0 + 4).await.unwrap(), "it runs");
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.state, row.started_ms, row.sealed), (AttemptState::Running, Some(T0 + 3), false));
    assert_eq!(at.store.agent_heartbeat(&uid, T0 + 5).await.unwrap(), Some(false));
    assert!(
        !at.store.agent_start(&uid, "hash", "n", T0 + 6).await.unwrap(),
        "sealed: no secret is served again"
    );
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.sealed, row.heartbeat_ms), (true, Some(T0 + 5)));
}

pub async fn a_log_has_no_gap_and_no_repeat(at: &Place) {
    let uid = started(at).await;
    let append = async |offset, bytes, key| at.store.append_log(&uid, offset, bytes, key, T0).await.unwrap();
    assert_eq!(append(0, 10, "a").await, LogAppend::Committed { offset: 10 });
    assert_eq!(append(0, 10, "a").await, LogAppend::Conflict { committed: 10 });
    assert_eq!(append(11, 5, "x").await, LogAppend::Conflict { committed: 10 });
    assert_eq!(append(10, 5, "b").await, LogAppend::Committed { offset: 15 });
    let keys = async |from, limit| {
        let rows = at.store.log_segments(&uid, from, limit).await.unwrap();
        rows.into_iter().map(|row| row.blob_key).collect::<Vec<_>>()
    };
    assert_eq!(keys(0, 9).await, ["a", "b"]);
    assert_eq!(keys(9, 1).await, ["a"]);
    assert_eq!(keys(10, 9).await, ["b"]);
    assert_eq!(keys(15, 9).await, [] as [&str; 0]);
    assert!(!at.store.compact_log(&uid, 15, "whole", T0).await.unwrap(), "it goes on");
    assert!(at.store.agent_finish(&uid, finish(), T0).await.unwrap());
    assert!(!at.store.compact_log(&uid, 14, "whole", T0).await.unwrap(), "another length");
    assert!(at.store.compact_log(&uid, 15, "whole", T0).await.unwrap());
    let whole = SegmentRow { start_byte: 0, bytes: 15, blob_key: "whole".into() };
    assert_eq!(at.store.log_segments(&uid, 0, 9).await.unwrap(), [whole]);
    let unknown = AttemptUid::from_text("none");
    assert_eq!(at.store.append_log(&unknown, 0, 1, "k", T0).await.unwrap(), LogAppend::Refused);
}

pub async fn points_are_stored_once(at: &Place) {
    let uid = started(at).await;
    let run = at.store.attempt(&uid).await.unwrap().unwrap().run_id;
    let params = |value: &str| BTreeMap::from([("lr".to_owned(), value.to_owned())]);
    let values = [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.25];
    let points: Vec<_> = values.iter().map(|v| point("loss", *v, Some(3))).collect();
    let record =
        async |first, points, params| at.store.record_metrics(&uid, first, points, params, T0).await.unwrap();
    assert_eq!(record(1, points.clone(), params("0.1")).await, Some(5));
    assert_eq!(record(1, points, params("0.2")).await, Some(5), "a repeat");
    assert_eq!(record(7, vec![point("loss", 9.0, None)], params("0.2")).await, Some(5), "no gap");
    assert_eq!(record(4, vec![point("x", 0.0, None); 1500], params("0.2")).await, Some(1503));
    let stored = at.store.run_metrics(&run).await.unwrap();
    assert_eq!(stored.len(), 1503);
    for (metric, value) in stored.iter().zip(values) {
        assert_eq!(metric.point.value.total_cmp(&value), std::cmp::Ordering::Equal, "{metric:?}");
    }
    assert_eq!(stored.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=1503).collect::<Vec<_>>());
    assert_eq!(
        (stored[0].step_name.as_str(), stored[0].step_position, stored[0].point.step),
        ("test", 0, Some(3))
    );
    let sample = async |name, per_curve, limit| {
        let metrics = at.store.sample_metrics(&run, name, per_curve, limit).await.unwrap();
        metrics.into_iter().map(|m| m.seq).collect::<Vec<_>>()
    };
    let thin = sample(Some("x"), 100, 9999).await;
    assert!((90..=101).contains(&thin.len()), "{} points", thin.len());
    assert_eq!(thin.last(), Some(&1503), "the newest is among them");
    assert_eq!(sample(Some("x"), 1500, 9999).await.len(), 1498);
    assert_eq!(sample(None, 5000, 9999).await.len(), 1503);
    assert_eq!(sample(None, 5000, 7).await.len(), 7);
    let expected = [("test".to_owned(), "lr".to_owned(), "0.2".to_owned())];
    assert_eq!(at.store.run_params(&run).await.unwrap(), expected);
}

pub async fn last_values_are_kept_beside_the_points(at: &Place) {
    let uid = started(at).await;
    let run = at.store.attempt(&uid).await.unwrap().unwrap().run_id;
    let record = async |first, points| {
        at.store.record_metrics(&uid, first, points, BTreeMap::new(), T0).await.unwrap()
    };
    let later = MetricPoint { at_ms: T0 + 5, ..point("acc", 0.75, Some(2)) };
    let points = vec![
        point("acc", 0.5, Some(2)),
        later,
        point("acc", 0.25, Some(1)),
        point("acc", f64::NAN, None),
        point("acc", 0.125, None),
    ];
    assert_eq!(record(1, points).await, Some(5));
    let read = async || {
        let all = at.store.last_metrics(&run).await.unwrap();
        all.into_iter()
            .map(|m| (m.point.name, m.point.value.to_string(), m.point.step, m.seq))
            .collect::<Vec<_>>()
    };
    let row = |name: &str, value: &str, step, seq| (name.to_owned(), value.to_owned(), step, seq);
    assert_eq!(read().await, [row("acc", "0.75", Some(2), 2), row("acc", "0.125", None, 5)]);
    assert_eq!(record(1, vec![point("acc", 9.0, None); 5]).await, Some(5), "a repeat changes nothing");
    // An older step does not win, a newer one does, whatever it is.
    assert_eq!(record(6, vec![point("acc", 1.0, Some(1)), point("b", 1.0, None)]).await, Some(7));
    assert_eq!(record(8, vec![point("acc", f64::INFINITY, Some(3))]).await, Some(8));
    assert_eq!(
        read().await,
        [row("acc", "0.125", None, 5), row("acc", "inf", Some(3), 8), row("b", "1", None, 7)]
    );
    // Names beyond the bound are counted, not kept.
    let names: Vec<_> = (0..2_100).map(|i| point(&format!("n{i:04}"), 1.0, None)).collect();
    assert_eq!(record(9, names).await, Some(2_108));
    assert_eq!(at.store.last_metrics(&run).await.unwrap().len(), 2_001, "2,000 names, one of them twice");
    assert_eq!(at.store.run_metrics(&run).await.unwrap().len(), 8 + 1_998);
    assert_eq!(at.store.metric_points_left_out(&run).await.unwrap(), [("test".to_owned(), 102)]);
    assert_eq!(at.store.metric_sources(&run).await.unwrap(), [], "told at the end");
    assert!(at.store.agent_finish(&uid, finish(), T0).await.unwrap());
    let data = at.store.data_reports(&run).await.unwrap();
    assert_eq!(data, [data_report("customers", false), data_report("orders", true)], "as they were told");
    let sources = at.store.metric_sources(&run).await.unwrap();
    assert_eq!(
        sources,
        [("test".to_owned(), source("metrics.json", true)), ("test".to_owned(), source("old.json", false))]
    );
}

pub async fn artifacts_and_outputs_stay(at: &Place) {
    let uid = started(at).await;
    let run = at.store.attempt(&uid).await.unwrap().unwrap().run_id;
    assert!(at.store.put_artifact(artifact(&uid, "b"), T0).await.unwrap());
    assert!(at.store.put_artifact(artifact(&uid, "a"), T0).await.unwrap());
    let larger = ArtifactRow { bytes: 4, ..artifact(&uid, "b") };
    assert!(at.store.put_artifact(larger.clone(), T0).await.unwrap(), "sent again");
    let rows = at.store.artifacts_of_attempt(&uid).await.unwrap();
    assert_eq!(rows, [artifact(&uid, "a"), larger]);
    assert_eq!(at.store.run_artifacts(&run).await.unwrap(), rows);
    let shared =
        ArtifactRow { blob_key: rows[0].blob_key.clone(), ..artifact(&uid, ".trainyard/checkpoint/0") };
    for more in [shared, artifact(&uid, ".trainyard/checkpoint/1")] {
        assert!(at.store.put_artifact(more, T0).await.unwrap());
    }
    assert_eq!(at.store.run_artifacts(&run).await.unwrap(), rows, "a checkpoint is none of what a run made");
    let paths = ["0", "1", "2"].map(|n| format!(".trainyard/checkpoint/{n}"));
    let dropped = at.store.drop_artifacts(&uid, paths.into()).await.unwrap();
    assert_eq!(
        dropped,
        [artifact(&uid, ".trainyard/checkpoint/1").blob_key],
        "a row that stays names the other one's bytes"
    );
    assert_eq!(at.store.artifacts_of_attempt(&uid).await.unwrap(), rows);
    assert!(at.store.agent_finish(&uid, finish(), T0 + 9).await.unwrap());
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    assert_eq!((row.outputs, row.notes, row.log_lost_bytes), (finish().outputs, finish().notes, 4));
    assert_eq!(
        (row.state, row.class, row.ended_ms),
        (AttemptState::Ended, Some(EndClass::Succeeded), Some(T0 + 9))
    );
}

pub async fn nothing_is_taken_from_an_ended_attempt(at: &Place) {
    let uid = started(at).await;
    assert!(at.store.agent_finish(&uid, finish(), T0).await.unwrap());
    let before = at.store.attempt(&uid).await.unwrap();
    let late = Finish { class: EndClass::Failed, ..finish() };
    assert!(!at.store.agent_finish(&uid, late, T0 + 1).await.unwrap());
    assert_eq!(at.store.append_log(&uid, 0, 1, "k", T0 + 1).await.unwrap(), LogAppend::Refused);
    assert_eq!(at.store.agent_heartbeat(&uid, T0 + 1).await.unwrap(), None);
    assert!(!at.store.put_artifact(artifact(&uid, "a"), T0 + 1).await.unwrap());
    assert!(!at.store.agent_start(&uid, "hash", "n", T0 + 1).await.unwrap());
    let points = vec![point("x", 1.0, None)];
    assert_eq!(at.store.record_metrics(&uid, 1, points, BTreeMap::new(), T0 + 1).await.unwrap(), None);
    assert_eq!(at.store.attempt(&uid).await.unwrap(), before);
}

pub async fn only_the_last_attempt_counts(at: &Place) {
    let uid = started(at).await;
    let row = at.store.attempt(&uid).await.unwrap().unwrap();
    let report = async |uid: &AttemptUid, value: f64| {
        let params = BTreeMap::from([("lr".to_owned(), value.to_string())]);
        at.store.record_metrics(uid, 1, vec![point("loss", value, None)], params, T0).await.unwrap();
        at.store.put_artifact(artifact(uid, "a"), T0).await.unwrap();
    };
    report(&uid, 1.0).await;
    at.end(&uid, EndClass::Preempted).await;
    let back =
        StepMove { step: row.step_id.clone(), to: StepState::Ready, reason: String::new(), outputs: None };
    at.store.apply(RunChange { steps: vec![back], ..at.change(&row.run_id).await }, T0).await.unwrap();
    let ready = at.store.ready_steps().await.unwrap();
    let second = at.store.place(vec![placement(&ready[0])], T0).await.unwrap().remove(0);
    assert!(at.store.agent_start(&second, "hash", "m", T0).await.unwrap());
    report(&second, 2.0).await;
    let metrics = at.store.run_metrics(&row.run_id).await.unwrap();
    assert_eq!(metrics.iter().map(|m| (&m.attempt_uid, m.point.value)).collect::<Vec<_>>(), [(&second, 2.0)]);
    assert_eq!(at.store.run_params(&row.run_id).await.unwrap()[0].2, "2");
    assert_eq!(at.store.run_artifacts(&row.run_id).await.unwrap()[0].attempt_uid, second);
}
