//! The demo's churn pipeline, unchanged but for its pool and a GPU for each training, from signed webhooks to the status and the
//! comment, on the real cluster; trainyard was put there by `helm install` of its chart, and is killed while pods train.

use std::time::{Duration, Instant};

use serde_json::Value;
use trainyard::model::{AttemptRank, RunState};
use trainyard::sandbox::{NewPull, WRITER};
use trainyard::store::attempts::AttemptRow;
use trainyard::store::runs::RunView;

use super::cluster::{HEALTH, cluster};
use super::verbs;
use super::yard::{Yard, example};

const RESUMING: &str = r#"version: 1
name: churn
defaults: {pool: gpu}
steps:
  - name: train
    checkpoint: {path: ckpt}
    commands:
      - |
        i=0; [ -z "$TRAINYARD_RESUME_FROM" ] || i=$(cat "$TRAINYARD_RESUME_FROM/step")
        echo "begins at $i"
        mkdir -p ckpt
        trap 'echo $i > ckpt/step; echo "saved $i"; exit 75' TERM
        while [ $i -lt 40 ]; do i=$((i+1)); echo "step $i"; sleep 0.3 || true; done
"#;

const PAIR: &str = r#"version: 1
name: churn
defaults: {pool: gpu}
steps:
  - name: pair
    distributed: {workers: 2}
    commands: ['echo "rank $TRAINYARD_RANK of $PET_NNODES"']
"#;

fn trainings(view: &RunView) -> impl Iterator<Item = &AttemptRow> {
    let is_one =
        |a: &&AttemptRow| view.steps.iter().any(|s| s.id == a.step_id && s.name.starts_with("train"));
    view.attempts.iter().filter(is_one)
}

/// One that is at work and has said something.
fn training(view: &RunView) -> Option<&AttemptRow> {
    trainings(view).find(|a| a.state.word() == "running" && a.log_bytes > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_trains_on_the_cluster_and_a_killed_daemon_restarts_nothing() {
    let _healthy = HEALTH.read().await;
    let yard = Yard::new("").await;
    let namespace = yard.release.runs.0.clone();

    // The demo's pipeline: main, then a pull request that changes the model.
    let began = Instant::now();
    example(&yard.tree);
    let base = yard.push("main").await;
    let seen = yard.until(&base, "a training with a log", |v| training(v).is_some()).await;
    let following = training(&seen).unwrap();
    // Its log as the dashboard follows it, through the Service, while it trains.
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let url = format!("http://{}:8700/api/v1/attempts/{}/log", yard.release.service("app"), following.uid);
    let text = http.get(url).bearer_auth(yard.release.admin_token()).send().await.unwrap();
    let text = text.error_for_status().unwrap().text().await.unwrap();
    assert!(text.contains("source "), "{text}");
    let label = format!("trainyard.dev/attempt-uid={}", following.uid);
    let said = cluster().kubectl(&["get", "pods", "-n", &namespace, "-l", &label, "-o", "json"]);
    let pods: Value = serde_json::from_str(&said).unwrap();
    let limits = &pods["items"][0]["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(limits["nvidia.com/gpu"], "1", "{limits}");
    let seen = yard.until(&base, "the end of the first run", |v| v.run.state == RunState::Succeeded).await;
    yard.git(&["checkout", "-q", "-b", "rate"]);
    let params = yard.tree.join("params.json");
    let text = std::fs::read_to_string(&params).unwrap();
    std::fs::write(&params, text.replace("\"rate\": 0.02", "\"rate\": 0.03")).unwrap();
    let head = yard.push("rate").await;
    let pull = NewPull {
        title: "Learn faster".into(),
        author: WRITER.to_owned(),
        head_branch: "rate".into(),
        head_repo: None,
        base_branch: "main".into(),
        draft: false,
    };
    let number = yard.sandbox.open_pull(&yard.repo, pull).await.unwrap();
    let view = yard.until(&head, "the end of the second run", |v| v.run.state == RunState::Succeeded).await;
    assert_eq!(view.attempts.len(), 7, "the data, three trainings, three evaluations");
    let (first, second) = (yard.told(&base).await, yard.told(&head).await);
    assert!(first.starts_with("success") && second.contains("accuracy"), "{first} | {second}");
    let comment = loop {
        if let Some(comment) = yard.sandbox.comments(&yard.repo, number).first() {
            break comment.body().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(comment.contains("accuracy"), "{comment}");
    // What it cost: GPU time of the three trainings at the pool's price.
    assert!(comment.contains("GPU-time") && comment.contains(" EUR"), "{comment}");
    let log = yard.whole_log(&trainings(&view).next().unwrap().uid).await;
    assert!(log.contains("source ") && log.contains("+ python3 train.py"), "{log}");
    println!(
        "FIGURE kubernetes_story runs=2 pods={} seconds={:.1}",
        seen.attempts.len() + view.attempts.len(),
        began.elapsed().as_secs_f64()
    );

    // G8: the daemon is away while pods train; nothing is restarted, no byte is lost.
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let (pods, gpus, away_s, lines) = if long { (20, 0, 60, 400) } else { (6, 1, 15, 90) };
    yard.pipeline(&format!(
        "version: 1\nname: churn\ndefaults: {{pool: gpu}}\nsteps:\n  - name: train\n    matrix: {{seed: [{}]}}\n    \
         resources: {{gpu: {gpus}, cpu: 0.05}}\n    commands: [\"for i in $(seq {lines}); do echo line $i; sleep 0.4; done\"]\n",
        (1..=pods).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
    ));
    let sha = yard.push("rate").await;
    yard.until(&sha, "all pods at work", |v| {
        v.attempts.len() == pods && v.attempts.iter().all(|a| a.state.word() == "running" && a.log_bytes > 0)
    })
    .await;
    let began = Instant::now();
    yard.release.kill();
    let uids = || {
        let said = cluster().kubectl(&["get", "pods", "-n", &namespace, "-o", "jsonpath={range .items[*]}{.metadata.uid}:{.status.phase}:{.status.containerStatuses[0].restartCount}{\"\\n\"}{end}"]);
        let mut all: Vec<String> =
            said.lines().filter(|line| line.contains(":Running:")).map(str::to_owned).collect();
        all.sort();
        all
    };
    let before = uids();
    tokio::time::sleep(Duration::from_secs(away_s).saturating_sub(began.elapsed())).await;
    let away = began.elapsed().as_secs();
    let after = uids();
    yard.release.start();
    let view = yard.until(&sha, "the end of what ran through", |v| v.run.state == RunState::Succeeded).await;
    let mut lost = 0;
    for attempt in &view.attempts {
        let log = yard.whole_log(&attempt.uid).await;
        let got = log.lines().filter(|line| line.starts_with("line ")).collect::<Vec<_>>().join("\n");
        let want = (1..=lines).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
        lost += if got == want { 0 } else { want.len().abs_diff(got.len()).max(1) };
    }
    let restarted = view.attempts.len() - pods + before.iter().filter(|pod| !after.contains(pod)).count();
    println!(
        "FAULT G8 pods={pods} daemon_away_s={away} trained_through={} restarted={restarted} lost_log_bytes={lost}",
        before.len()
    );
    assert_eq!((before.len(), restarted, lost), (pods, 0, 0));

    // A drain in the middle of a training: saved, uploaded, resumed at the right step.
    yard.pipeline(RESUMING);
    let sha = yard.push("rate").await;
    let view =
        yard.until(&sha, "a training some steps in", |v| v.attempts.iter().any(|a| a.log_bytes > 60)).await;
    let label = format!("trainyard.dev/attempt-uid={}", view.attempts[0].uid);
    let pod = cluster().kubectl(&[
        "get",
        "pods",
        "-n",
        &namespace,
        "-l",
        &label,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let eviction = yard.tree.parent().unwrap().join("eviction.json");
    let body = serde_json::json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
    std::fs::write(&eviction, body.to_string()).unwrap();
    let place = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    cluster().kubectl(&["create", "--raw", &place, "-f", &eviction.display().to_string()]);
    let view = yard.until(&sha, "the resumed training's end", |v| v.run.state == RunState::Succeeded).await;
    assert_eq!(view.attempts.len(), 2);
    let first = yard.whole_log(&view.attempts[0].uid).await;
    let second = yard.whole_log(&view.attempts[1].uid).await;
    let number = |log: &str, word: &str| {
        let line = log
            .lines()
            .find_map(|line| line.strip_prefix(word))
            .unwrap_or_else(|| panic!("no {word:?} in {log}"));
        line.trim().parse::<u32>().unwrap()
    };
    let (saved, resumed) = (number(&first, "saved "), number(&second, "begins at "));
    let steps = second.lines().filter(|line| line.starts_with("step ")).count();
    println!(
        "FIGURE drained_resume saved_at={saved} resumed_at={resumed} steps_after={steps} class={}",
        view.attempts[0].class.unwrap()
    );
    assert!(saved > 0 && saved == resumed && steps as u32 == 40 - saved, "{first}\n---\n{second}");

    // Two pods of one attempt, which need a Service and a policy.
    yard.pipeline(PAIR);
    let sha = yard.push("rate").await;
    let view = yard.until(&sha, "the end of a pair", |v| v.run.state == RunState::Succeeded).await;
    for rank in 0..2 {
        let log = yard.whole_log(AttemptRank::new(&view.attempts[0].uid, rank)).await;
        assert!(log.contains(&format!("rank {rank} of 2")), "{log}");
    }

    // Nothing stays, and the Role of the chart is what was used, no less and no more (S20).
    let began = Instant::now();
    while !yard.release.runs.left().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}\n{}", yard.release.runs.left(), yard.tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("FIGURE kubernetes_leftovers seconds_to_none={:.1}", began.elapsed().as_secs_f64());

    // What the second run's GPUs are paid for: from the binding of each pod to its end, not from the agent's start.
    let view = yard.run_of(&head).await.unwrap();
    let (mut held_ms, mut ran_ms) = (0, 0);
    for attempt in trainings(&view) {
        let (from, to) = (attempt.held_from_ms.unwrap(), attempt.held_to_ms.unwrap());
        let (started, ended) = (attempt.started_ms.unwrap(), attempt.ended_ms.unwrap());
        // The cluster tells whole seconds.
        assert!(from <= started && to >= ended - 2_000 && to > from, "{attempt:?}");
        held_ms += attempt.gpu_ms(0);
        ran_ms += ended - started;
    }
    println!("FIGURE kubernetes_gpu_time pods=3 held_ms={held_ms} ran_ms={ran_ms}");
    assert!(held_ms > 0);
    verbs::of_the_daemon(&yard.release).await;
}
