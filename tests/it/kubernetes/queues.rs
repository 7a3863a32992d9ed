//! What a Job waits for in a queue, in words. In the short form Workloads of Kueue's shape on the real API server, in a version that
//! the cluster alone names, without their controller; in the long form Kueue's own controller with a quota of two GPUs.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trainyard::clock::SystemClock;
use trainyard::config::{KubernetesPool, Preset};
use trainyard::executor::kubernetes::{self, Kubernetes};
use trainyard::executor::{Executor, Launch, Observation, external_name};
use trainyard::model::plan::Resources;
use trainyard::model::{AttemptUid, EndClass, RunId, RunState, Sha, StepSpec};
use trainyard::sandbox::{NewPull, WRITER};
use trainyard::store::runs::RunView;

use super::cluster::{BUSYBOX, HEALTH, Namespace, PYTHON, cluster, part_says, small_pool};
use super::release::helm;
use super::yard::Yard;
use super::{golden, verbs};
use crate::agent::daemon::uid;

pub const QUEUE: &str = "team-vision";
const SENTENCE: &str = "waiting for quota of 1 more a100 in team-vision";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_a_queue_says_what_it_waits_for() {
    {
        // Its kinds are the whole cluster's: nobody else may see them come and go.
        let _alone = HEALTH.write().await;
        without_the_controller().await;
    }
    if std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1") {
        // Its webhooks stand before every Job of the cluster.
        let _alone = HEALTH.write().await;
        with_the_controller().await;
    }
}

/// Kinds of Kueue's group in a version that is not the one of the long form; they go with the value.
pub struct Kinds;

impl Kinds {
    pub fn serve() -> Self {
        for (kind, plural) in [("Workload", "workloads"), ("LocalQueue", "localqueues")] {
            let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            let version = json!({"name": "v1beta2", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": open}});
            let names = json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase()});
            let kind = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{plural}.kueue.x-k8s.io")},
                "spec": {"group": "kueue.x-k8s.io", "scope": "Namespaced", "names": names, "versions": [version]}});
            cluster().apply(&kind.to_string());
        }
        for plural in ["workloads", "localqueues"] {
            let name = format!("crd/{plural}.kueue.x-k8s.io");
            cluster().kubectl(&["wait", &name, "--for=condition=Established", "--timeout=30s"]);
        }
        Self
    }
}

impl Drop for Kinds {
    fn drop(&mut self) {
        for plural in ["workloads", "localqueues"] {
            let name = format!("{plural}.kueue.x-k8s.io");
            cluster().try_kubectl(&["delete", "crd", &name, "--timeout=60s"]);
        }
    }
}

fn pool() -> KubernetesPool {
    KubernetesPool {
        preset: Some(Preset::Gke),
        accelerator: Some("nvidia-tesla-a100".into()),
        queue: Some(QUEUE.into()),
        ..small_pool()
    }
}

/// Writes what Kueue's controller would: the Workload of a Job, and its conditions.
pub fn workload(namespace: &str, job: &Value, run: &str, conditions: &Value) {
    let (name, uid) = (&job["metadata"]["name"], &job["metadata"]["uid"]);
    let labels = json!({"trainyard.dev/run-id": run});
    let object = json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload",
        "metadata": {"name": "job-of-the-test", "namespace": namespace, "labels": {"kueue.x-k8s.io/job-uid": uid},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true}]},
        "spec": {"queueName": QUEUE, "podSets": [{"name": "main", "count": 1, "template": {"metadata": {"labels": labels}}}]}});
    cluster().apply(&object.to_string());
    let status = json!({"status": {"conditions": conditions}}).to_string();
    let of =
        ["patch", "workload", "job-of-the-test", "-n", namespace, "--subresource=status", "--type=merge"];
    cluster().kubectl(&[&of[..], &["-p", &status]].concat());
}

fn no_quota(message: &str) -> Value {
    json!([{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}])
}

async fn without_the_controller() {
    let namespace = tokio::task::spawn_blocking(Namespace::make).await.unwrap();
    let client = kubernetes::client(&namespace.config()).await.unwrap();
    let pools = BTreeMap::from([("a100".to_owned(), pool())]);
    let settings = namespace.settings("https://127.0.0.1:1");
    let executor = Arc::new(Kubernetes::new(client, settings, pools, Arc::new(SystemClock)));
    let woken: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let notes = woken.clone();
    let watching = tokio::spawn(executor.clone().watch(Arc::new(move |run: RunId| {
        notes.lock().unwrap().insert(run.to_string());
    })));

    let (uid, run) = (uid(), "0190b2c4-0000-7000-8000-000000000077");
    let resources = Resources { gpu: 1, ..Resources::default() };
    let launch = Launch {
        name: external_name("test", &uid, "train", 1),
        uid: AttemptUid::from_text(uid),
        run: RunId::from_text(run),
        ..golden::launch(StepSpec { resources, image: Some(BUSYBOX.into()), ..golden::step("train") })
    };
    let handle = executor.submit(&launch).await.unwrap();
    let seen = async |what: &str, so: &dyn Fn(&Observation) -> bool| {
        let began = Instant::now();
        loop {
            let seen = executor.observe(&launch.uid, &handle).await.unwrap();
            if so(&seen) {
                return seen;
            }
            assert!(began.elapsed() < Duration::from_secs(40), "{what}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let waits = |sentence: &'static str| move |seen: &Observation| matches!(seen, Observation::Pending { why, since_ms: Some(_) } if why == sentence);
    let unread = "waiting in team-vision: Kueue's Workloads cannot be read";
    seen("a cluster without Kueue", &waits(unread)).await;
    let doctor = |namespace: &Namespace| doctor(&namespace.0);
    assert!(doctor(&namespace).contains("the cluster serves no Kueue"), "{}", doctor(&namespace));

    let kinds = tokio::task::spawn_blocking(Kinds::serve).await.unwrap();
    seen("no Workload yet", &waits("waiting for team-vision to take it in")).await;
    assert!(doctor(&namespace).contains("has no such LocalQueue"), "{}", doctor(&namespace));
    let queue = json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue",
        "metadata": {"name": QUEUE, "namespace": namespace.0}, "spec": {"clusterQueue": "gpus"}});
    cluster().apply(&queue.to_string());
    assert!(doctor(&namespace).contains("is there (v1beta2)"), "{}", doctor(&namespace));

    // By now the watch has found the kind: what it hears wakes the run.
    let job: Value = serde_json::from_str(&cluster().kubectl(&[
        "get",
        "job",
        &launch.name,
        "-n",
        &namespace.0,
        "-o",
        "json",
    ]))
    .unwrap();
    assert_eq!(
        (&job["spec"]["suspend"], &job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]),
        (&json!(true), &json!(QUEUE))
    );
    let recorded = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor gpu, 1 more needed";
    workload(&namespace.0, &job, run, &no_quota(recorded));
    seen("the quota", &waits(SENTENCE)).await;
    let began = Instant::now();
    let mut woken_by_it = false;
    let mut amount = 2;
    while !woken_by_it && began.elapsed() < Duration::from_mins(1) {
        woken.lock().unwrap().clear();
        let message = recorded.replace("1 more needed", &format!("{amount} more needed"));
        workload(&namespace.0, &job, run, &no_quota(&message));
        amount += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
        woken_by_it = woken.lock().unwrap().contains(run);
    }
    assert!(woken_by_it, "a Workload that changes wakes nobody");
    // A queue that gave the place and takes it back ends the attempt: the next one waits.
    workload(
        &namespace.0,
        &job,
        run,
        &json!([{"type": "Evicted", "status": "True", "reason": "Preempted", "message": "Preempted to accommodate a workload"}]),
    );
    let end = seen("the place is lost", &|seen| matches!(seen, Observation::Gone { .. })).await;
    let why = "team-vision gave its place to another: Preempted to accommodate a workload";
    assert_eq!(end, Observation::Gone { class: EndClass::Preempted, exit_code: None, reason: why.into() });
    executor.cancel(&launch.uid, &handle, 1_000).await.unwrap();
    executor.remove(&launch.name, &launch.uid, &handle).await.unwrap();
    assert_eq!(executor.observe(&launch.uid, &handle).await.unwrap(), Observation::Unknown);
    watching.abort();
    drop(kinds);
    println!("FIGURE queue_words version=v1beta2 sentence={SENTENCE:?}");
}

/// What `trainyard doctor` says of the queue of a pool.
fn doctor(namespace: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("trainyard.toml");
    let text = format!(
        "data_dir = {data:?}\npublic_url = \"http://127.0.0.1:1\"\n[listen]\nagent = \"0.0.0.0:1\"\n\
         [executor.kubernetes]\nnamespace = {namespace:?}\nimage = \"none\"\nkubeconfig = {kubeconfig:?}\nagent_url = \"https://127.0.0.1:1\"\n\
         [pool.a100]\nexecutor = \"kubernetes\"\n[pool.a100.kubernetes]\nqueue = {QUEUE:?}\n",
        data = dir.path().join("data"),
        kubeconfig = cluster().kubeconfig,
    );
    std::fs::write(&config, text).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args(["doctor", "--json", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let lines: Vec<Value> = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out.stderr)));
    let own = lines.iter().filter(|line| line["about"] == format!("queue {QUEUE}"));
    own.map(|line| line["says"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>().join("; ")
}

/// Kueue in the cluster, with its webhooks; it goes with the value.
struct Kueue;

impl Kueue {
    fn install() -> Self {
        let chart = part_says("kueue");
        let began = Instant::now();
        let image = "controllerManager.manager.image";
        let set = format!(
            "{image}.repository=localhost/trainyard-test/kueue,{image}.tag=1,{image}.pullPolicy=Never"
        );
        // The node is small, and readiness is asked for once in so many seconds.
        let more = "controllerManager.manager.resources.requests.cpu=50m,controllerManager.readinessProbe.initialDelaySeconds=2,controllerManager.replicas=0";
        let out = helm(&[
            "install",
            "kueue",
            chart.trim(),
            "-n",
            "kueue-system",
            "--create-namespace",
            "--set",
            &set,
            "--set",
            more,
        ]);
        let it = Self;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        // A proxy before its metrics, whose image is not built here.
        let named = "jsonpath={.spec.template.spec.containers[*].name}";
        let of = ["deployment/kueue-controller-manager", "-n", "kueue-system"];
        let names = cluster().kubectl(&[&["get"], &of[..], &["-o", named]].concat());
        let at = names.split(' ').position(|name| name == "kube-rbac-proxy").unwrap();
        let patch = format!(
            r#"[{{"op":"remove","path":"/spec/template/spec/containers/{at}"}},{{"op":"replace","path":"/spec/replicas","value":1}}]"#
        );
        cluster().kubectl(&[&["patch"], &of[..], &["--type=json", "-p", &patch]].concat());
        cluster().kubectl(&[&["rollout", "status"], &of[..], &["--timeout=150s"]].concat());
        println!("FIGURE kueue_install seconds_to_ready={:.1}", began.elapsed().as_secs_f64());
        it
    }

    /// Its webhooks answer a moment after its pod is ready.
    fn apply(manifest: &Value) {
        let began = Instant::now();
        let file =
            std::env::temp_dir().join(format!("kueue-{}.json", hex::encode(rand::random::<[u8; 4]>())));
        std::fs::write(&file, manifest.to_string()).unwrap();
        loop {
            let (made, said) =
                cluster().try_kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]);
            if made {
                break std::fs::remove_file(&file).unwrap();
            }
            assert!(began.elapsed() < Duration::from_mins(2), "{said}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// A quota of so many GPUs, and a queue to it in a namespace.
    fn queue(gpus: u32, namespace: &str) {
        let of = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        Self::apply(&of("ResourceFlavor", "gpu", json!({})));
        let quota = |name: &str, amount: Value| json!({"name": name, "nominalQuota": amount});
        let resources =
            [quota("cpu", json!(64)), quota("memory", json!("256Gi")), quota("nvidia.com/gpu", json!(gpus))];
        let group = json!({"coveredResources": ["cpu", "memory", "nvidia.com/gpu"], "flavors": [{"name": "gpu", "resources": resources}]});
        Self::apply(&of(
            "ClusterQueue",
            "gpus",
            json!({"namespaceSelector": {}, "resourceGroups": [group], "preemption": {"withinClusterQueue": "LowerPriority"}}),
        ));
        let mut local = of("LocalQueue", QUEUE, json!({"clusterQueue": "gpus"}));
        local["metadata"]["namespace"] = json!(namespace);
        Self::apply(&local);
        let urgent = json!({"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 1000});
        Self::apply(&urgent);
    }
}

impl Drop for Kueue {
    fn drop(&mut self) {
        // While the controller is there to take its finalizers off.
        for kind in ["workloads", "localqueues", "clusterqueues", "resourceflavors"] {
            cluster().try_kubectl(&[
                "delete",
                &format!("{kind}.kueue.x-k8s.io"),
                "--all",
                "-A",
                "--timeout=40s",
            ]);
        }
        helm(&["uninstall", "kueue", "-n", "kueue-system", "--wait", "--timeout", "120s"]);
        cluster().try_kubectl(&["delete", "namespace", "kueue-system", "--timeout=60s"]);
    }
}

/// A node that the cloud would label so.
struct Label;

impl Label {
    const NAME: &str = "cloud.google.com/gke-accelerator";
    fn put() -> Self {
        cluster().kubectl(&[
            "label",
            "node",
            "node1",
            &format!("{}=nvidia-tesla-a100", Self::NAME),
            "--overwrite",
        ]);
        Self
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        cluster().try_kubectl(&["label", "node", "node1", &format!("{}-", Self::NAME)]);
    }
}

fn pipeline(gpus: u32, body: &str) -> String {
    format!(
        "version: 1\nname: churn\nwhen: [{{event: [pull_request]}}]\ndefaults: {{pool: a100}}\nsteps:\n  - name: train\n    \
         resources: {{gpu: {gpus}}}\n{body}"
    )
}

/// Saves when it is asked to end, and ends as whoever knows nothing of exit 75.
const RESUMING: &str = r#"    checkpoint: {path: ckpt}
    commands:
      - |
        i=0; [ -z "$TRAINYARD_RESUME_FROM" ] || i=$(cat "$TRAINYARD_RESUME_FROM/step")
        echo "begins at $i"
        mkdir -p ckpt
        trap 'echo $i > ckpt/step; echo "saved $i"; exit 1' TERM
        while [ $i -lt 60 ]; do i=$((i+1)); echo "step $i"; sleep 0.3 || true; done
"#;

async fn change(yard: &Yard, branch: &str, text: &str) -> (Sha, i64) {
    yard.git(&["checkout", "-q", "-B", branch, "main"]);
    yard.pipeline(text);
    std::fs::write(yard.tree.join(format!("{branch}.txt")), branch).unwrap();
    let head = yard.push(branch).await;
    let pull = NewPull {
        title: format!("Change {branch}"),
        author: WRITER.to_owned(),
        head_branch: branch.into(),
        head_repo: None,
        base_branch: "main".into(),
        draft: false,
    };
    let number = yard.sandbox.open_pull(&yard.repo, pull).await.unwrap();
    (head, number)
}

fn state(view: &RunView) -> &'static str {
    view.attempts.last().map_or("none", |a| a.state.word())
}

async fn with_the_controller() {
    let (_kueue, _label) = tokio::task::spawn_blocking(|| (Kueue::install(), Label::put())).await.unwrap();
    let yard = Yard::new(&format!(
        "[pool.a100]\nexecutor = \"kubernetes\"\n[pool.a100.kubernetes]\npreset = \"gke\"\naccelerator = \"nvidia-tesla-a100\"\n\
         queue = {QUEUE:?}\nimage = \"{PYTHON}\"\ndefault_cpu = \"200m\"\ndefault_memory = \"128Mi\"\n[limits]\ngrace_s = 5\n"
    ))
    .await;
    let runs = yard.release.runs.0.clone();
    let made = runs.clone();
    tokio::task::spawn_blocking(move || Kueue::queue(2, &made)).await.unwrap();
    yard.pipeline(&pipeline(1, "    commands: [\"true\"]\n"));
    yard.push("main").await;

    // Three pull requests, one GPU each, a quota of two.
    let train = pipeline(1, "    commands: [\"for i in $(seq 75); do echo $i; sleep 1; done\"]\n");
    let mut heads = Vec::new();
    for branch in ["one", "two", "three"] {
        heads.push(change(&yard, branch, &train).await);
    }
    for (sha, _) in &heads[..2] {
        yard.until(sha, "a training at work", |v| state(v) == "running").await;
    }
    let began = Instant::now();
    let (third, number) = heads[2].clone();
    let view =
        yard.until(&third, "the sentence", |v| v.attempts.last().is_some_and(|a| a.reason == SENTENCE)).await;
    // The pull request says so: its head's status, and its comment.
    let said = loop {
        let status = yard.sandbox.statuses(&yard.repo, &third).last().and_then(|s| s.description.clone());
        let comment = yard.sandbox.comments(&yard.repo, number).first().map(|c| c.body().to_owned());
        if let (Some(status), Some(comment)) = (status, comment)
            && status == SENTENCE
            && comment.contains(SENTENCE)
        {
            break comment;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "the forge was not told\n{}", yard.tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(said.contains("churn waits for its place"), "{said}");
    let seconds = began.elapsed().as_secs_f64();
    let working = [yard.run_of(&heads[0].0).await.unwrap(), yard.run_of(&heads[1].0).await.unwrap()];
    assert!(working.iter().all(|v| state(v) == "running"), "the third waited for nothing");
    let why = yard.release.exec(&["runs", "why", view.run.id.as_str()]);
    assert!(why.contains(SENTENCE), "{why}");
    let version = cluster().kubectl(&[
        "get",
        "workloads.kueue.x-k8s.io",
        "-n",
        &runs,
        "-o",
        "jsonpath={.items[0].apiVersion}",
    ]);
    println!(
        "FIGURE kueue_wait api={version} running=2 waiting=1 status={SENTENCE:?} seconds_to_the_forge={seconds:.1}"
    );
    let said = yard.release.exec(&["doctor", "--json"]);
    let lines: Vec<Value> = serde_json::from_str(&said).unwrap();
    let marks: Vec<&Value> = lines
        .iter()
        .filter(|l| [format!("queue {QUEUE}"), "permissions".into()].iter().any(|about| l["about"] == *about))
        .collect();
    assert!(marks.len() == 2 && marks.iter().all(|line| line["mark"] == "OK"), "{marks:?}");
    for (sha, _) in &heads {
        yard.until(sha, "the end of a run", |v| v.run.state == RunState::Succeeded).await;
        let last = yard.told(sha).await;
        assert!(last.starts_with("success"), "{last}");
    }
    println!("FIGURE kueue_three_runs succeeded=3 seconds={:.1}", began.elapsed().as_secs_f64());

    preempted(&yard, &runs).await;
    verbs::of_queues(&yard.release);
    // Nothing of it stays, its Workloads included.
    let began = Instant::now();
    loop {
        let workloads = cluster().kubectl(&["get", "workloads.kueue.x-k8s.io", "-n", &runs, "-o", "name"]);
        let left = yard.release.runs.left();
        if workloads.lines().all(|line| line.contains("urgent")) && left.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{left:?} {workloads}\n{}", yard.tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A training that its queue puts out twice for more urgent work waits again, goes on where it was, and spends no try.
async fn preempted(yard: &Yard, runs: &str) {
    let (sha, _) = change(yard, "long", &pipeline(2, RESUMING)).await;
    for time in 1..=2 {
        yard.until(&sha, "a training some steps in", |v| {
            v.attempts.len() == time && v.attempts[time - 1].log_bytes > 60
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let container = json!({"name": "step", "image": BUSYBOX, "command": ["/bin/sleep", "20"],
            "resources": {"limits": {"cpu": "50m", "memory": "64Mi", "nvidia.com/gpu": 2}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
        let security =
            json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("urgent-{time}"), "namespace": runs,
                "labels": {"kueue.x-k8s.io/queue-name": QUEUE, "kueue.x-k8s.io/priority-class": "urgent"}},
            "spec": {"suspend": true, "backoffLimit": 0, "template": {"spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false, "securityContext": security, "containers": [container]}}}});
        let made = job.clone();
        tokio::task::spawn_blocking(move || Kueue::apply(&made)).await.unwrap();
        let waiting = "waiting for quota of 2 more a100 in team-vision";
        yard.until(&sha, "the next attempt waits again", |v| {
            v.attempts.len() == time + 1 && v.attempts[time].reason == waiting
        })
        .await;
    }
    let view = yard.until(&sha, "the end of the resumed run", |v| v.run.state == RunState::Succeeded).await;
    assert_eq!(view.attempts.len(), 3);
    let mut logs = Vec::new();
    for attempt in &view.attempts {
        logs.push(yard.whole_log(&attempt.uid).await);
    }
    let number = |log: &str, word: &str| {
        log.lines().find_map(|line| line.strip_prefix(word)?.trim().parse::<u32>().ok())
    };
    let saved: Vec<_> = logs[..2].iter().map(|log| number(log, "saved ")).collect();
    let resumed: Vec<_> = logs[1..].iter().map(|log| number(log, "begins at ")).collect();
    let classes: Vec<_> = view.attempts[..2].iter().map(|a| a.class.unwrap()).collect();
    println!(
        "FIGURE kueue_preempted times=2 classes={classes:?} saved_at={saved:?} resumed_at={resumed:?} attempts=3 run={}",
        view.run.state
    );
    assert!(saved == resumed && saved.iter().all(|at| at.is_some_and(|at| at > 0)), "{logs:?}");
    assert_eq!(classes, [EndClass::Preempted; 2]);
}
