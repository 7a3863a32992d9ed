//! Ends of pods on the real cluster: what it can produce, it produces (F22).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trainyard::clock::SystemClock;
use trainyard::config::KubernetesPool;
use trainyard::executor::kubernetes::{self, Kubernetes};
use trainyard::executor::{Executor, ExecutorError, Launch, Observation, external_name};
use trainyard::model::plan::Resources;
use trainyard::model::{AttemptUid, EndClass, Sha, StepSpec};

use super::cluster::{HEALTH, Namespace, cluster, small_pool};
use super::golden;
use crate::agent::daemon::{BOOTSTRAP, Daemon, spec, uid};

/// What is done to a pod once it runs, as words of `kubectl`; NAME, POD and NAMESPACE stand for its own.
type Deed = Option<&'static str>;

struct Case {
    what: &'static str,
    commands: &'static [&'static str],
    step: StepSpec,
    pool: KubernetesPool,
    deed: Deed,
    /// Nobody looks between the deed and the end of the pod.
    unseen: bool,
    want: EndClass,
    words: &'static str,
}

fn case(what: &'static str, command: &'static [&'static str], want: EndClass, words: &'static str) -> Case {
    let step = StepSpec { image: None, pool: None, ..golden::step("train") };
    Case { what, commands: command, step, pool: small_pool(), deed: None, unseen: false, want, words }
}

async fn run(case: Case, namespace: &Namespace, deadline: bool) -> Result<f64, String> {
    let began = Instant::now();
    let host = &cluster().host;
    let daemon = Daemon::start_at(Some(host)).await;
    let mut what_to_do = spec(&daemon.sha, case.commands);
    if case.what == "source" {
        what_to_do.sha = Sha::parse(&"0123456789".repeat(4)).unwrap();
    }
    daemon.will_run(what_to_do);
    let mut settings = namespace.settings(&daemon.url);
    if deadline {
        // The Job's deadline is the sum of what may take time; this makes it ten seconds.
        settings.pending_timeout_s = 10 - 120 - 2 - case.step.timeout_ms / 1000;
    }
    let executor = Arc::new(Kubernetes::new(
        kubernetes::client(&settings.config).await.map_err(|e| e.to_string())?,
        settings,
        BTreeMap::from([("default".to_owned(), case.pool.clone())]),
        Arc::new(SystemClock),
    ));
    let watching = tokio::spawn(executor.clone().watch(Arc::new(|_| {})));
    let end = end_of(&case, &executor, namespace, daemon.ca.clone(), began).await;
    watching.abort();
    end
}

async fn end_of(
    case: &Case,
    executor: &Kubernetes,
    namespace: &Namespace,
    ca: Option<String>,
    began: Instant,
) -> Result<f64, String> {
    let uid = uid();
    let launch = Launch {
        name: external_name("test", &uid, "train", 1),
        uid: AttemptUid::from_text(uid),
        pool: "default".into(),
        agent_ca: ca,
        bootstrap: secrecy::SecretString::from(BOOTSTRAP),
        ..golden::launch(case.step.clone())
    };
    let handle = match executor.submit(&launch).await {
        Ok(handle) => handle,
        Err(ExecutorError::Denied(why)) if case.want == EndClass::Quota && why.contains(case.words) => {
            return Ok(began.elapsed().as_secs_f64());
        }
        Err(error) => return Err(format!("{}: {error}", case.what)),
    };
    let (mut deed, mut last) = (case.deed, Observation::Unknown);
    while began.elapsed() < Duration::from_secs(150) {
        last = executor.observe(&launch.uid, &handle).await.map_err(|e| e.to_string())?;
        match &last {
            Observation::Gone { class, reason, .. } => {
                let right = *class == case.want && reason.contains(case.words);
                let seconds = began.elapsed().as_secs_f64();
                for _ in 0..20 {
                    if executor.remove(&launch.name, &launch.uid, &handle).await.is_ok() {
                        break;
                    }
                }
                return if right { Ok(seconds) } else { Err(format!("{}: {class}: {reason}", case.what)) };
            }
            Observation::Running | Observation::Pending { .. } => {
                let ready = last == Observation::Running || case.what == "no autoscaler";
                // A Job is there a moment before its pod.
                let pod = if ready && deed.is_some() { pod_of(namespace, &launch) } else { String::new() };
                if let (Some(words), false) = (deed, pod.is_empty()) {
                    deed = None;
                    let words = words
                        .replace("NAMESPACE", &namespace.0)
                        .replace("POD", &pod)
                        .replace("NAME", &launch.name);
                    let done = std::process::Command::new("sh")
                        .args([
                            "-ec",
                            &format!(
                                "kubectl() {{ {} --kubeconfig {} \"$@\"; }}; {words}",
                                cluster().kubectl.display(),
                                cluster().kubeconfig.display()
                            ),
                        ])
                        .output()
                        .unwrap();
                    if !done.status.success() {
                        return Err(format!("{}: {}", case.what, String::from_utf8_lossy(&done.stderr)));
                    }
                    // Who looks only after the pod has gone still learns why it went.
                    while case.unseen && !pod_of(namespace, &launch).is_empty() {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        if began.elapsed() > Duration::from_secs(150) {
                            return Err(format!("{}: its pod does not go", case.what));
                        }
                    }
                }
            }
            Observation::Withdrawn => {
                executor.cancel(&launch.uid, &handle, 1_000).await.map_err(|e| e.to_string())?;
            }
            Observation::Unknown => {}
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Err(format!("{}: no end: {last:?}", case.what))
}

fn pod_of(namespace: &Namespace, launch: &Launch) -> String {
    let label = format!("trainyard.dev/attempt-uid={}", launch.uid);
    cluster().kubectl(&[
        "get",
        "pods",
        "-n",
        &namespace.0,
        "-l",
        &label,
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_on_the_real_cluster_have_class_and_sentence() {
    let _healthy = HEALTH.read().await;
    let (namespace, full) =
        tokio::task::spawn_blocking(|| (Namespace::make(), Namespace::make())).await.unwrap();
    cluster().apply(&format!(
        "{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: none, namespace: {}}}, spec: {{hard: {{pods: '0'}}}}}}",
        full.0
    ));
    let nap = &["sleep 300"][..];
    let image = |mut case: Case, image: &str| {
        case.step.image = Some(image.into());
        case
    };
    let done_to = |case: Case, deed: &'static str| Case { deed: Some(deed), ..case };
    let on = |case: Case, pool: KubernetesPool| Case { pool, ..case };
    let nowhere =
        KubernetesPool { selector: BTreeMap::from([("no".into(), "where".into())]), ..small_pool() };
    let small = Resources { memory_bytes: Some(96 << 20), ..Resources::default() };
    let oom = case("out of memory", &["head -c 500m /dev/zero | tail"], EndClass::OutOfMemory, "memory");
    let cases = vec![
        case("exit 0", &["true"], EndClass::Succeeded, "exit code 0"),
        case("exit 3", &["exit 3"], EndClass::Failed, "exit code 3"),
        case("exit 75", &["exit 75"], EndClass::Checkpointed, "resumed"),
        case("killed", &["kill -9 $$"], EndClass::Failed, "SIGKILL"),
        case("source", nap, EndClass::Source, "could not be fetched"),
        Case { step: StepSpec { resources: small, ..oom.step.clone() }, ..oom },
        image(case("image name", nap, EndClass::Image, "InvalidImageName"), "localhost/UPPER/x:1"),
        image(case("image pull", nap, EndClass::Image, "Pull"), "localhost/trainyard-test/none:1"),
        image(case("no shell", nap, EndClass::Failed, "/bin/sh"), "localhost/trainyard-test/empty:1"),
        done_to(
            case("pod deleted", nap, EndClass::Cancelled, "pod was deleted by someone else"),
            "kubectl delete pod -n NAMESPACE POD --wait=false",
        ),
        done_to(
            case("Job deleted", nap, EndClass::Cancelled, "its Job was deleted"),
            "kubectl delete job -n NAMESPACE NAME --wait=false",
        ),
        Case {
            unseen: true,
            ..done_to(
                case("evicted", nap, EndClass::Preempted, "drained"),
                "echo '{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{\"name\":\"POD\",\"namespace\":\"NAMESPACE\"}}' | kubectl create --raw /api/v1/namespaces/NAMESPACE/pods/POD/eviction -f -",
            )
        },
        done_to(
            on(case("no autoscaler", nap, EndClass::Unschedulable, "didn't match"), nowhere.clone()),
            "echo '{\"apiVersion\":\"v1\",\"kind\":\"Event\",\"metadata\":{\"name\":\"POD.1\",\"namespace\":\"NAMESPACE\"},\"reason\":\"NotTriggerScaleUp\",\"message\":\"2 nodes didn'\\''t match\",\"involvedObject\":{\"kind\":\"Pod\",\"name\":\"POD\",\"namespace\":\"NAMESPACE\",\"uid\":\"'$(kubectl get pod -n NAMESPACE POD -o jsonpath={.metadata.uid})'\"}}' | kubectl create -f -",
        ),
    ];
    let count = cases.len() + 2;
    let mut all: Vec<_> = Vec::new();
    for case in cases {
        all.push(run(case, &namespace, false));
    }
    let deadline = case("deadline", nap, EndClass::TimedOut, "deadline");
    let quota = case("quota", nap, EndClass::Quota, "exceeded quota");
    let (mut results, late, refused) = tokio::join!(
        futures_util::future::join_all(all),
        run(deadline, &namespace, true),
        run(quota, &full, false)
    );
    results.extend([late, refused]);
    let wrong: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    println!("FAULT F22 by=real_cluster fates={count} expected={}", count - wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
