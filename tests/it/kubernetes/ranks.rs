//! A training over two pods that speaks as torchrun's rendezvous does: rank 0 listens, rank 1 finds it by the name that it was
//! given, in the cluster's own DNS, and every step needs both. One of them dies in the middle.

use std::time::{Duration, Instant};

use serde_json::Value;
use trainyard::model::{AttemptRank, AttemptUid, EndClass, RunState};

use super::chart::{dial, field, pods_of};
use super::cluster::HEALTH;
use super::release::{processes, signal};
use super::yard::Yard;

const STEPS: u32 = 100;

/// Each rank has data of its own; the mean of both gradients moves one weight, which all of them have. Only the leader saves.
const TRAIN: &str = r#"
import json, os, socket, time
rank, world = int(os.environ["PET_NODE_RANK"]), int(os.environ["PET_NNODES"])
place = (os.environ["PET_MASTER_ADDR"], int(os.environ["PET_MASTER_PORT"]))
begin, weight = 0, 0.0
if "TRAINYARD_RESUME_FROM" in os.environ:
    saved = json.load(open(os.environ["TRAINYARD_RESUME_FROM"] + "/state.json"))
    begin, weight = saved["step"], saved["weight"]
print(f"rank {rank} of {world} begins at {begin}")
if rank == 0:
    server = socket.create_server(("", place[1]))
    peer, _ = server.accept()
    server.close()
else:
    until = time.time() + 60
    while True:
        try:
            peer = socket.create_connection(place, timeout=5)
            break
        except OSError:
            if time.time() > until: raise
            time.sleep(0.2)
peer.settimeout(60)
peer = peer.makefile("rw")
def tell(value):
    peer.write(json.dumps(value) + "\n"); peer.flush()
def hear():
    line = peer.readline()
    if not line: raise ConnectionError("the other rank is gone")
    return json.loads(line)
log = open(os.environ["TRAINYARD_METRICS"] + "/loss.jsonl", "w")
os.makedirs("ckpt", exist_ok=True)
for step in range(begin + 1, 101):
    own = weight - (rank + 1)
    if rank == 0:
        mean = (own + hear()) / 2
        tell(mean)
    else:
        tell(own)
        mean = hear()
    weight -= 0.1 * mean
    log.write(json.dumps({"step": step, "loss": own * own}) + "\n"); log.flush()
    print(f"step {step} weight {weight!r}")
    if rank == 0 and step % 10 == 0:
        with open("ckpt/state.tmp", "w") as file: json.dump({"step": step, "weight": weight}, file)
        os.rename("ckpt/state.tmp", "ckpt/state.json")
    time.sleep(0.3)
"#;

const PIPELINE: &str = "version: 1
name: churn
defaults: {pool: gpu}
steps:
  - name: train
    distributed: {workers: 2, framework: torchrun}
    resources: {gpu: 1}
    checkpoint: {path: ckpt}
    commands: [\"python3 train.py\"]
";

/// Two attempts of two pods each, which only listen, for as long as the other test needs them.
const LISTENERS: &str = "version: 1
name: churn
defaults: {pool: gpu}
steps:
  - name: a
    needs: []
    distributed: {workers: 2, framework: torchrun}
    commands: [\"timeout 60 python3 -m http.server 8000 || [ $? = 124 ]\"]
  - name: b
    needs: []
    distributed: {workers: 2, framework: torchrun}
    commands: [\"timeout 60 python3 -m http.server 8000 || [ $? = 124 ]\"]
";

/// The weight after so many steps, as one process would compute it.
fn weight() -> f64 {
    (0..STEPS).fold(0.0, |weight: f64, _| {
        let (one, two) = (weight - 1.0, weight - 2.0);
        weight - 0.1 * f64::midpoint(one, two)
    })
}

/// Numbers of the steps that a log tells of, and the weight after the last.
fn told(log: &str) -> (Vec<u32>, f64) {
    let steps: Vec<(u32, f64)> = log
        .lines()
        .filter_map(|line| {
            let (step, weight) = line.strip_prefix("step ")?.split_once(" weight ")?;
            Some((step.parse().unwrap(), weight.parse().unwrap()))
        })
        .collect();
    (steps.iter().map(|(step, _)| *step).collect(), steps.last().map_or(0.0, |(_, weight)| *weight))
}

fn begins(log: &str) -> u32 {
    let line = log.lines().find_map(|line| line.split_once(" begins at "));
    line.unwrap_or_else(|| panic!("it does not begin: {log}")).1.parse().unwrap()
}

/// The pods of an attempt, by rank.
fn pods_of_attempt(namespace: &str, uid: &AttemptUid) -> Vec<Value> {
    let mut pods: Vec<Value> = pods_of(namespace)
        .into_iter()
        .filter(|pod| field(pod, "/metadata/labels/trainyard.dev~1attempt-uid") == uid.as_str())
        .collect();
    pods.sort_by_key(|pod| {
        field(pod, "/metadata/annotations/batch.kubernetes.io~1job-completion-index").to_owned()
    });
    pods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_two_rank_training_survives_a_dead_rank() {
    let _healthy = HEALTH.read().await;
    let yard = Yard::new("[limits]\ngrace_s = 2\ncheckpoint_every_s = 2\n").await;
    let namespace = yard.release.runs.0.clone();
    yard.pipeline(LISTENERS);
    let listeners = yard.push("main").await;
    std::fs::write(yard.tree.join("train.py"), TRAIN).unwrap();
    yard.pipeline(PIPELINE);
    let began = Instant::now();
    let sha = yard.push("main").await;

    // A checkpoint is kept, and they are some steps further.
    let view = yard
        .until(&sha, "two ranks at work", |v| v.attempts.iter().any(|a| a.state.word() == "running"))
        .await;
    let first = view.attempts[0].uid.clone();
    let (leader, other) = (AttemptRank::from(&first), AttemptRank::new(&first, 1));
    loop {
        let log = yard.whole_log(&leader).await;
        let kept = log.split("checkpoint 1 kept").nth(1).map(|rest| told(rest).0.len());
        if kept.is_some_and(|steps| steps > 2) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(150), "no checkpoint: {log}\n{}", yard.tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let isolated = apart(&yard, &listeners, &namespace).await;

    // Rank 1 dies as it would with its machine: without a word.
    let pods = pods_of_attempt(&namespace, &first);
    assert_eq!(pods.len(), 2, "{pods:?}");
    let agents = processes(field(&pods[1], "/metadata/uid"), "agent --bootstrap");
    let killed = Instant::now();
    signal(*agents.iter().min().expect("the agent of rank 1"), "-KILL");
    let view = yard.until(&sha, "a second attempt", |v| v.attempts.len() > 1).await;
    let noticed_s = killed.elapsed().as_secs_f64();
    let (class, reason) = (view.attempts[0].class.unwrap(), view.attempts[0].reason.clone());
    assert_eq!((class, reason.split(':').next()), (EndClass::NodeLost, Some("rank 1")), "{reason}");

    let view = yard.until(&sha, "the end of the training", |v| v.run.state == RunState::Succeeded).await;
    assert_eq!(view.attempts.len(), 2);
    let second = view.attempts[1].uid.clone();
    let again = AttemptRank::new(&second, 1);
    let logs = [
        yard.whole_log(&leader).await,
        yard.whole_log(&other).await,
        yard.whole_log(&second).await,
        yard.whole_log(&again).await,
    ];
    let [(left, _), (lost, _), (resumed, end), (peers, peers_end)] = logs.each_ref().map(|log| told(log));
    let from = begins(&logs[2]);
    // Whole: no step missing, none twice, in every one of the four logs.
    let whole = |from: u32, steps: &[u32]| steps.iter().copied().eq(from + 1..=from + steps.len() as u32);
    let logs_whole =
        whole(0, &left) && whole(0, &lost) && whole(from, &resumed) && whole(from, &peers) && from >= 10;
    let exact = end.to_bits() == weight().to_bits() && peers_end.to_bits() == end.to_bits();
    assert_eq!((begins(&logs[0]), begins(&logs[1]), begins(&logs[3])), (0, 0, from));
    assert!(logs_whole && lost.len() as u32 > from, "{logs:#?}");
    assert!(exact && resumed.last() == Some(&STEPS), "{end} {peers_end} instead of {}", weight());

    // The leader's points are the step's; those of rank 1 lie beside them.
    let counted = yard.store.run_metrics(&view.run.id).await.unwrap();
    let losses = counted.iter().filter(|m| m.point.name == "loss").count();
    let beside = yard.store.rank_metrics(&again, 1000).await.unwrap().len();
    assert_eq!((losses, beside), (resumed.len(), peers.len()));

    // Nothing stays of either attempt, and both pods are paid for.
    let began = Instant::now();
    while !yard.release.runs.left().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}\n{}", yard.release.runs.left(), yard.tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let view = yard.run_of(&sha).await.unwrap();
    let paid = &view.attempts[1];
    let one_pod_ms = paid.held_to_ms.unwrap() - paid.held_from_ms.unwrap();
    let gpu_ms = paid.gpu_ms(0);
    assert!(paid.gpus.len() == 2 && gpu_ms > one_pod_ms && gpu_ms <= 2 * one_pod_ms, "{paid:?}");
    println!(
        "FIGURE distributed ranks=2 steps={STEPS} killed_rank=1 class={class} attempts={} kept_step={from} resumed_leader={from} \
         resumed_rank1={} noticed_s={noticed_s:.1} logs_whole={} same_weight={exact} gpu_ms={gpu_ms} one_pod_ms={one_pod_ms}",
        view.attempts.len(),
        begins(&logs[3]),
        u8::from(logs_whole) * 4
    );
    println!(
        "SEC S20 layer=ranks cases={} failed={}",
        isolated.len(),
        isolated.iter().filter(|(_, w, g)| w != g).count()
    );
}

/// Pods of one attempt reach each other; those of another attempt, though of several pods as well, do not, and nobody else does.
async fn apart(yard: &Yard, sha: &trainyard::model::Sha, namespace: &str) -> Vec<(String, bool, bool)> {
    let view = yard
        .until(sha, "two attempts that listen", |v| {
            v.attempts.len() == 2 && v.attempts.iter().all(|a| a.state.word() == "running")
        })
        .await;
    let [a, b] = [0, 1].map(|at| pods_of_attempt(namespace, &view.attempts[at].uid));
    let pid = |pod: &Value| processes(field(pod, "/metadata/uid"), "-m http.server").into_iter().max();
    let daemon = processes(field(&yard.release.pods()[0], "/metadata/uid"), "serve").into_iter().next();
    let at = |pod: &Value| format!("{}:8000", field(pod, "/status/podIP"));
    let cells = [
        ("a.0 to a.1", pid(&a[0]), at(&a[1]), true),
        ("a.1 to a.0", pid(&a[1]), at(&a[0]), true),
        ("b.0 to b.1", pid(&b[0]), at(&b[1]), true),
        ("a.0 to b.0", pid(&a[0]), at(&b[0]), false),
        ("b.1 to a.0", pid(&b[1]), at(&a[0]), false),
        ("the daemon to a.0", daemon, at(&a[0]), false),
        ("outside to a.0", None, at(&a[0]), false),
    ];
    assert!(cells[..6].iter().all(|cell| cell.1.is_some()), "{cells:?}");
    let look = || -> Vec<(String, bool, bool)> {
        let open = |cell: &(&str, Option<u32>, String, bool)| dial(cell.1, std::slice::from_ref(&cell.2))[0];
        cells.iter().map(|cell| (cell.0.to_owned(), cell.3, open(cell))).collect()
    };
    // Policies take a moment to be enforced for pods that are new.
    let mut seen = look();
    for _ in 0..10 {
        if seen.iter().all(|(_, want, got)| want == got) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        seen = look();
    }
    assert!(seen.iter().all(|(_, want, got)| want == got), "(cell, wanted open, was open): {seen:?}");
    seen
}
