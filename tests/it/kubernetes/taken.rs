//! What the daemon stores of attempts that the cluster, its queue or an administrator took away while they ran: the cluster's class
//! and words, not the agent's, who knows of a SIGTERM alone (F22, G9).

use std::time::Duration;

use serde_json::{Value, json};
use trainyard::model::EndClass;
use trainyard::store::attempts::AttemptRow;
use trainyard::store::runs::RunView;

use super::cluster::{HEALTH, PYTHON, cluster};
use super::queues::{Kinds, QUEUE, workload};
use super::yard::Yard;

/// Each step tells that it began, and that it was asked to end.
const PIPELINE: &str = r#"version: 1
name: churn
defaults: {pool: gpu}
steps:
  - {name: drained, needs: [], commands: ["echo begun; trap 'echo asked; exit 1' TERM; sleep 600 & wait"]}
  - {name: pod, needs: [], commands: ["echo begun; trap 'echo asked; exit 75' TERM; sleep 600 & wait"]}
  - {name: job, needs: [], commands: ["echo begun; trap 'echo asked; exit 1' TERM; sleep 600 & wait"]}
  - {name: foreground, needs: [], commands: ["echo begun; trap 'echo asked; exit 1' TERM; sleep 600 & wait"]}
  - {name: late, needs: [], commands: ["echo begun; trap 'echo asked; exit 1' TERM; sleep 600 & wait"]}
  - {name: queue, needs: [], pool: lent, commands: ["echo begun; trap 'echo asked; exit 1' TERM; sleep 600 & wait"]}
"#;

fn attempts<'v>(view: &'v RunView, step: &str) -> Vec<&'v AttemptRow> {
    let id = view.steps.iter().find(|s| s.name == step).map(|s| &s.id);
    let mut all: Vec<_> = view.attempts.iter().filter(|a| Some(&a.step_id) == id).collect();
    all.sort_by_key(|a| a.number);
    all
}

fn object(kind: &str, namespace: &str, of: &AttemptRow) -> Value {
    let label = format!("trainyard.dev/attempt-uid={}", of.uid);
    let said = cluster().kubectl(&["get", kind, "-n", namespace, "-l", &label, "-o", "json"]);
    serde_json::from_str::<Value>(&said).unwrap()["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_away_is_stored_with_the_clusters_words() {
    // Kueue's kinds are the whole cluster's.
    let _alone = HEALTH.write().await;
    let _kinds = tokio::task::spawn_blocking(Kinds::serve).await.unwrap();
    let yard = Yard::new(&format!(
        "[pool.lent]\nexecutor = \"kubernetes\"\n[pool.lent.kubernetes]\nqueue = {QUEUE:?}\nimage = \"{PYTHON}\"\n\
         default_cpu = \"200m\"\ndefault_memory = \"128Mi\"\n[limits]\ngrace_s = 10\n"
    ))
    .await;
    let namespace = yard.release.runs.0.clone();
    yard.pipeline(PIPELINE);
    let sha = yard.push("main").await;

    // The queue's part is played: it lets the Job start.
    let of_queue = |view: &RunView| attempts(view, "queue").first().map(|a| (*a).clone());
    let there = |view: &RunView| of_queue(view).is_some_and(|a| a.state.word() == "pending");
    let lent = of_queue(&yard.until(&sha, "the queue's Job", there).await).unwrap();
    let waiting = object("jobs", &namespace, &lent);
    let name = waiting["metadata"]["name"].as_str().unwrap();
    let suspend = |yes: bool| {
        let patch = format!(r#"{{"spec":{{"suspend":{yes}}}}}"#);
        cluster().kubectl(&["patch", "job", "-n", &namespace, name, "--type=merge", "-p", &patch]);
    };
    let stands = |conditions: Value| workload(&namespace, &waiting, lent.run_id.as_str(), &conditions);
    let admitted = json!({"type": "Admitted", "status": "True", "reason": "Admitted", "message": ""});
    stands(json!([admitted]));
    suspend(false);

    let begun = |view: &RunView| {
        view.attempts.len() == 6
            && view.attempts.iter().all(|a| a.state.word() == "running" && a.log_bytes > 60)
    };
    let view = yard.until(&sha, "all at work", begun).await;
    let of = |step: &str| attempts(&view, step)[0].clone();
    let name_of = |kind: &str, step: &str| {
        object(kind, &namespace, &of(step))["metadata"]["name"].as_str().unwrap().to_owned()
    };

    let pod = name_of("pods", "drained");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
    let file = yard.tree.with_file_name("eviction.json");
    std::fs::write(&file, eviction.to_string()).unwrap();
    let place = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    cluster().kubectl(&["create", "--raw", &place, "-f", &file.display().to_string()]);
    let delete = |what: &[&str]| {
        cluster().kubectl(&[&["delete", "-n", &namespace, "--wait=false"], what].concat());
    };
    delete(&["pod", &name_of("pods", "pod")]);
    delete(&["job", &name_of("jobs", "job")]);
    delete(&["job", &name_of("jobs", "foreground"), "--cascade=foreground"]);
    let soon = r#"{"spec":{"activeDeadlineSeconds":1}}"#;
    cluster().kubectl(&[
        "patch",
        "job",
        "-n",
        &namespace,
        &name_of("jobs", "late"),
        "--type=merge",
        "-p",
        soon,
    ]);
    // An administrator's `active: false`, as Kueue carries it out.
    stands(
        json!([{"type": "Evicted", "status": "True", "reason": "InactiveWorkload", "message": "The workload is deactivated"}]),
    );
    suspend(true);

    let wanted = [
        ("drained", EndClass::Preempted, "its node was drained: "),
        ("pod", EndClass::Cancelled, "its pod was deleted by someone else"),
        ("job", EndClass::Cancelled, "its Job was deleted by someone else"),
        ("foreground", EndClass::Cancelled, "its Job was deleted by someone else"),
        ("late", EndClass::TimedOut, "its Job was over its deadline"),
        (
            "queue",
            EndClass::Cancelled,
            "its Workload in team-vision was deactivated: The workload is deactivated",
        ),
    ];
    let all_ended = |view: &RunView| {
        wanted.iter().all(|(step, ..)| attempts(view, step).first().is_some_and(|a| a.class.is_some()))
    };
    let view = yard.until(&sha, "an end of each", all_ended).await;
    let (mut right, mut lines) = (0, Vec::new());
    for (step, class, words) in &wanted {
        let first = attempts(&view, step)[0];
        right += usize::from(first.class == Some(*class) && first.reason.starts_with(words));
        lines.push(format!("{step}: {}: {}", first.class.unwrap(), first.reason));
    }
    println!("FAULT F22 by=daemon_and_cluster fates={} expected={right}", wanted.len());
    assert_eq!(right, wanted.len(), "{lines:#?}\n{}", yard.tail());
    // Each had its grace, and what it said then was kept.
    for (step, ..) in &wanted {
        let log = yard.whole_log(&attempts(&view, step)[0].uid).await;
        assert!(log.contains("asked"), "{step}: {log}");
    }

    // What someone's hand ended is tried once more, exit 75 or not, and then no more.
    let again = |view: &RunView| {
        attempts(view, "pod").get(1).is_some_and(|a| a.state.word() == "running" && a.log_bytes > 60)
    };
    let view = yard.until(&sha, "the pod's second attempt", again).await;
    let second = attempts(&view, "pod")[1].clone();
    let pod = object("pods", &namespace, &second)["metadata"]["name"].as_str().unwrap().to_owned();
    delete(&["pod", &pod]);
    let over = |view: &RunView| view.steps.iter().any(|s| s.name == "pod" && s.state.is_terminal());
    let view = yard.until(&sha, "the step's end", over).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counts: Vec<usize> = wanted.iter().map(|(step, ..)| attempts(&view, step).len()).collect();
    println!("FIGURE kubernetes_taken_away attempts={counts:?}");
    assert_eq!(counts, [2, 2, 2, 2, 1, 2]);
}
