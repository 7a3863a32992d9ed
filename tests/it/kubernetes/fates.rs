//! Fates of pods as the API server would show them, read by the pure function: those that one healthy node cannot produce.

use serde_json::{Value, json};
use trainyard::executor::Observation;
use trainyard::executor::kubernetes::observe::{held, read};
use trainyard::model::{EndClass, Held};

fn seen(job: Value, pods: Vec<Value>, events: Vec<Value>, now: i64) -> Observation {
    let mut job = job;
    job["metadata"]["name"] = json!("ty-x");
    let pods: Vec<_> = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
    let events: Vec<_> = events.into_iter().map(|event| serde_json::from_value(event).unwrap()).collect();
    read(Some(&serde_json::from_value(job).unwrap()), &pods, &events, now)
}

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "ty-x-1"}, "spec": {"containers": []}, "status": status})
}

fn ended(exit: i64, reason: &str, message: &str, conditions: Value) -> Value {
    pod(json!({"phase": "Failed", "conditions": conditions, "containerStatuses": [{
        "name": "step", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit, "reason": reason, "message": message}}}]}))
}

fn target(reason: &str) -> Value {
    json!([{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "the cluster's own words"}])
}

#[test]
fn every_fate_has_one_class_and_a_sentence() {
    let preempted =
        r#"{"class":"preempted","exit_code":143,"reason":"the machine asked it to end (SIGTERM)"}"#;
    let good = r#"{"class":"succeeded","exit_code":0,"reason":"the commands ended with exit code 0"}"#;
    let rows = [
        (
            ended(143, "Error", preempted, target("PreemptionByScheduler")),
            EndClass::Preempted,
            "a more important pod",
        ),
        (
            ended(143, "Error", preempted, target("DeletionByTaintManager")),
            EndClass::NodeLost,
            "no longer answers",
        ),
        (
            ended(143, "Error", preempted, target("TerminationByKubelet")),
            EndClass::Evicted,
            "put out by its node",
        ),
        (ended(137, "OOMKilled", "", json!([])), EndClass::OutOfMemory, "over its memory limit"),
        (ended(137, "ContainerStatusUnknown", "", json!([])), EndClass::NodeLost, "lost sight of it"),
        (ended(128, "StartError", "exec format error", json!([])), EndClass::Image, "exec format error"),
        (ended(137, "Error", "", json!([])), EndClass::NodeLost, "without a result (exit code 137)"),
        // What a step writes in the agent's place is not believed against the container's own status.
        (ended(1, "Error", good, json!([])), EndClass::Internal, "its container ended with exit code 1"),
        (
            pod(
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
            ),
            EndClass::Evicted,
            "low on resource: memory",
        ),
        (
            pod(
                json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active too long"}),
            ),
            EndClass::TimedOut,
            "active too long",
        ),
        (
            pod(
                json!({"phase": "Failed", "reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."}),
            ),
            EndClass::Preempted,
            "node shutdown",
        ),
        (
            pod(
                json!({"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no GPU is healthy"}),
            ),
            EndClass::Evicted,
            "no GPU is healthy",
        ),
        (
            pod(
                json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}),
            ),
            EndClass::Evicted,
            "enough resource",
        ),
    ];
    let mut right = 0;
    for (pod, want, words) in &rows {
        match seen(json!({"metadata": {}}), vec![pod.clone()], vec![], 0) {
            Observation::Gone { class, reason, .. } if class == *want && reason.contains(words) => right += 1,
            other => panic!("{pod}: {other:?} instead of {want:?} ({words})"),
        }
    }
    println!("FAULT F22 by=status_objects fates={} expected={right}", rows.len());
}

#[test]
fn a_job_without_pods_says_why() {
    let event = |reason: &str, of: &str, message: &str| json!({"metadata": {"name": "e"}, "involvedObject": {"name": of}, "reason": reason, "message": message});
    let gone = |observation: Observation, want: EndClass, words: &str| match observation {
        Observation::Gone { class, reason, .. } => {
            assert!(class == want && reason.contains(words), "{class} {reason}");
        }
        other => panic!("{other:?}"),
    };
    let failed = |reason: &str| json!({"metadata": {}, "status": {"failed": 1, "conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": "matching FailJob rule"}]}});
    gone(seen(failed("DeadlineExceeded"), vec![], vec![], 0), EndClass::TimedOut, "deadline");
    gone(seen(failed("PodFailurePolicy"), vec![], vec![], 0), EndClass::Preempted, "took its pod away");
    gone(
        seen(failed("BackoffLimitExceeded"), vec![], vec![], 0),
        EndClass::Cancelled,
        "deleted by someone else",
    );
    let refused = event("FailedCreate", "ty-x", "pods \"x\" is forbidden: exceeded quota: none");
    gone(
        seen(json!({"metadata": {}}), vec![], vec![refused.clone()], 0),
        EndClass::Quota,
        "exceeded quota: none",
    );
    // The Job's controller tries again, so the first refusal is no end.
    let mut timed = refused;
    timed["firstTimestamp"] = "1970-01-01T00:00:00Z".into();
    let still = seen(json!({"metadata": {}}), vec![], vec![timed.clone()], 59_000);
    assert!(
        matches!(&still, Observation::Pending { why, .. } if why.contains("exceeded quota: none")),
        "{still:?}"
    );
    gone(seen(json!({"metadata": {}}), vec![], vec![timed], 60_000), EndClass::Quota, "exceeded quota: none");
    let queued = seen(json!({"metadata": {}, "spec": {"suspend": true, "template": {}}}), vec![], vec![], 0);
    assert_eq!(queued, Observation::Pending { why: "its Job is suspended".into(), since_ms: None });

    // Scale from zero: the autoscaler's words count.
    let waiting = pod(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}));
    let at = |events: Vec<Value>| seen(json!({"metadata": {}}), vec![waiting.clone()], events, 0);
    assert!(
        matches!(at(vec![]), Observation::Pending { why, .. } if why.contains("0/3 nodes are available"))
    );
    let grows = event("TriggeredScaleUp", "ty-x-1", "pool gpu 0->1");
    let refuses =
        |why: &str| event("NotTriggerScaleUp", "ty-x-1", &format!("pod didn't trigger scale-up: {why}"));
    let no = refuses("2 node(s) didn't match Pod's node affinity/selector, 1 Insufficient nvidia.com/gpu");
    assert!(
        matches!(at(vec![grows.clone(), no.clone()]), Observation::Pending { why, .. } if why.contains("pool gpu 0->1"))
    );
    gone(at(vec![no.clone()]), EndClass::Unschedulable, "didn't match Pod's node affinity/selector");
    // What passes by itself is waited for, with the sentence.
    for passing in [
        "1 max node group size reached, 1 node(s) didn't match Pod's node affinity/selector",
        "1 in backoff after failed scale-up",
        "1 not ready for scale-up",
        "1 max cluster nvidia.com/gpu, cpu limit reached",
    ] {
        let seen = at(vec![refuses(passing)]);
        assert!(matches!(&seen, Observation::Pending { why, .. } if why.contains(passing)), "{seen:?}");
    }
    // A node outside of the autoscaler's groups would fit, and is full.
    let full = pod(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 1 Insufficient nvidia.com/gpu"}]}));
    let seen_full = seen(json!({"metadata": {}}), vec![full], vec![no], 0);
    assert!(
        matches!(&seen_full, Observation::Pending { why, .. } if why.contains("didn't match")),
        "{seen_full:?}"
    );

    // An image that fails for the first time in an old pod: the time counts from then.
    let pulls = |now: i64, events: Vec<Value>| {
        let pod =
            pod(json!({"phase": "Pending", "startTime": "1970-01-01T00:00:00Z", "containerStatuses": [{
            "name": "step", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "429 Too Many Requests"}}}]}));
        let mut pod = pod;
        pod["spec"]["nodeName"] = json!("n");
        seen(json!({"metadata": {}}), vec![pod], events, now)
    };
    let failed = |path: &str| {
        json!({"metadata": {"name": "e"}, "involvedObject": {"name": "ty-x-1", "fieldPath": path}, "reason": "Failed",
            "message": "Failed to pull image", "firstTimestamp": "1970-01-01T00:16:40Z"})
    };
    let first = 1_000_000;
    for (now, events) in [
        (first, vec![]),
        (first + 59_000, vec![failed("spec.containers{step}")]),
        (first + 900_000, vec![failed("spec.initContainers{prepare}")]),
    ] {
        let seen = pulls(now, events);
        assert!(matches!(&seen, Observation::Pending { why, .. } if why.contains("429")), "{now}: {seen:?}");
    }
    gone(
        pulls(first + 60_000, vec![failed("spec.containers{step}")]),
        EndClass::Image,
        "429 Too Many Requests",
    );

    // A node that no longer answers: the pod was to end long ago.
    let mut stale = pod(
        json!({"phase": "Running", "containerStatuses": [{"name": "step", "image": "", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {}}}]}),
    );
    stale["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let then = 1_767_225_600_000;
    assert_eq!(seen(json!({"metadata": {}}), vec![stale.clone()], vec![], then), Observation::Running);
    gone(
        seen(json!({"metadata": {}}), vec![stale], vec![], then + 120_000),
        EndClass::NodeLost,
        "no longer answers",
    );
}

#[test]
fn a_pod_holds_its_node_from_its_binding_to_its_last_containers_end() {
    let from = |second: u32| json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": format!("2026-11-25T10:00:{second:02}Z")}]);
    let end = |second: u32| {
        json!([{"name": "step", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "finishedAt": format!("2026-11-25T10:00:{second:02}Z")}}}])
    };
    let at = |second: i64| 1_795_600_800_000 + second * 1000;
    let of = |pods: Vec<Value>| {
        let pods: Vec<_> = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
        held(&pods, at(59))
    };
    let over = |a: u32, b: u32| {
        pod(json!({"phase": "Succeeded", "conditions": from(a), "containerStatuses": end(b)}))
    };
    let prepared = pod(json!({"phase": "Running", "conditions": from(5), "initContainerStatuses": end(7)}));
    let held = |from: i64, to: i64, pods: i64| {
        Some(Held { from_ms: at(from), to_ms: at(to), pods_ms: pods * 1000, gpu_busy: None })
    };
    assert_eq!(of(vec![over(3, 9)]), held(3, 9, 6));
    assert_eq!(of(vec![over(3, 9), over(2, 8)]), held(2, 9, 12), "each pod's own time");
    assert_eq!(of(vec![prepared]), held(5, 59, 54), "it still runs");
    assert_eq!(of(vec![pod(json!({"phase": "Pending"}))]), None, "never bound");
}

/// Of several pods: which of them is named, with which class.
#[test]
fn the_rank_that_failed_first_is_named() {
    let word = |class: &str, code: i64| {
        json!({"class": class, "exit_code": code, "reason": format!("its {class}")}).to_string()
    };
    let rank = |rank: i64, mut pod: Value, second: i64| {
        pod["metadata"]["annotations"] =
            json!({"batch.kubernetes.io/job-completion-index": rank.to_string()});
        pod["metadata"]["name"] = json!(format!("ty-x-{rank}"));
        if let Some(state) = pod.pointer_mut("/status/containerStatuses/0/state/terminated") {
            state["finishedAt"] = json!(format!("2026-11-25T10:00:{second:02}Z"));
        }
        pod
    };
    let runs = || {
        pod(
            json!({"phase": "Running", "containerStatuses": [{"name": "step", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {}}}]}),
        )
    };
    let good = || {
        let mut pod = ended(0, "Completed", &word("succeeded", 0), json!([]));
        pod["status"]["phase"] = json!("Succeeded");
        pod
    };
    let failed = |code| ended(code, "Error", &word("failed", code), json!([]));
    let asked = || ended(143, "Error", &word("preempted", 143), json!([]));
    let drained = || ended(143, "Error", &word("preempted", 143), target("EvictionByEvictionAPI"));
    let killed = || ended(137, "Error", "", json!([]));
    let waiting = || pod(json!({"phase": "Pending"}));
    let gone = |class: EndClass, reason: &str| format!("{class}: {reason}");
    let job = json!({"metadata": {}, "spec": {"completions": 2, "template": {}}});
    let mut withdrawn = job.clone();
    withdrawn["metadata"]["deletionTimestamp"] = json!("2026-11-25T10:00:00Z");
    let mut over = job.clone();
    over["status"] =
        json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
    let rows = [
        (&job, vec![rank(0, runs(), 0), rank(1, runs(), 0)], "running".to_owned()),
        (&withdrawn, vec![rank(0, runs(), 0), rank(1, runs(), 0)], "withdrawn".to_owned()),
        (
            &job,
            vec![rank(0, runs(), 0), rank(1, waiting(), 0)],
            "pending: rank 1: waits for the scheduler".to_owned(),
        ),
        (&job, vec![rank(0, runs(), 0)], "pending: rank 1: its pod is being made".to_owned()),
        (&job, vec![rank(0, good(), 5), rank(1, runs(), 0)], "running".to_owned()),
        (&job, vec![rank(0, good(), 5), rank(1, good(), 6)], gone(EndClass::Succeeded, "its succeeded")),
        (&job, vec![rank(0, runs(), 0), rank(1, failed(1), 5)], gone(EndClass::Failed, "rank 1: its failed")),
        // The rest of a failed Job is ended by SIGTERM.
        (
            &over,
            vec![rank(0, asked(), 4), rank(1, failed(3), 5)],
            gone(EndClass::Failed, "rank 1: its failed"),
        ),
        (
            &over,
            vec![rank(0, failed(1), 5), rank(1, failed(3), 4)],
            gone(EndClass::Failed, "rank 1: its failed"),
        ),
        // What the cluster did comes before the broken connections that it led to.
        (
            &over,
            vec![rank(0, failed(1), 4), rank(1, killed(), 5)],
            gone(EndClass::NodeLost, "rank 1: the agent ended without a result (exit code 137)"),
        ),
        (
            &over,
            vec![rank(0, failed(1), 4), rank(1, drained(), 9)],
            gone(EndClass::Preempted, "rank 1: its node was drained: the cluster's own words"),
        ),
        (
            &over,
            vec![rank(0, runs(), 0)],
            gone(EndClass::Cancelled, "rank 1: its pod was deleted by someone else"),
        ),
    ];
    for (job, pods, want) in rows {
        let shown = match seen(job.clone(), pods.clone(), vec![], 0) {
            Observation::Running => "running".to_owned(),
            Observation::Withdrawn => "withdrawn".to_owned(),
            Observation::Pending { why, .. } => format!("pending: {why}"),
            Observation::Gone { class, reason, .. } => format!("{class}: {reason}"),
            Observation::Unknown => "unknown".to_owned(),
        };
        assert_eq!(shown, want, "{}", serde_json::to_string(&pods).unwrap());
    }
}
