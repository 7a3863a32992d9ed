//! What the chart promises beside running: its network policies, its account's permissions, and an uninstall that leaves nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trainyard::config::{Config, Pooler};
use trainyard::executor::kubernetes::manifest::{FINALIZER, label_value};

use super::cluster::{BUSYBOX, HEALTH, Namespace, cluster};
use super::release::{HOME, helm, processes};
use super::verbs;
use super::yard::Yard;

const JOBS: usize = 5;

/// An address that stands for the internet, on this machine for as long as this lives; one for each cluster.
struct Internet(String);

impl Internet {
    fn open() -> Self {
        let number = cluster().host.split('.').nth(2).unwrap();
        let it = Self(format!("203.0.113.{number}"));
        it.ip("replace");
        it
    }

    fn ip(&self, what: &str) -> bool {
        let address = format!("{}/32", self.0);
        Command::new("ip").args(["address", what, &address, "dev", "lo"]).status().unwrap().success()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.ip("del");
    }
}

/// Dials from the network namespace of a process, or from this machine, and says for each address whether a connection opened.
pub fn dial(from: Option<u32>, addresses: &[String]) -> Vec<bool> {
    let dial = cluster().kubectl.with_file_name("dial");
    let mut command = match from {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args(["-t", &pid.to_string(), "-n"]).arg(dial);
            command
        }
        None => Command::new(dial),
    };
    let out = command.args(addresses).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(|line| line.starts_with("open ")).collect()
}

pub fn field<'a>(pod: &'a Value, path: &str) -> &'a str {
    pod.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

pub fn pods_of(namespace: &str) -> Vec<Value> {
    let said = cluster().kubectl(&["get", "pods", "-n", namespace, "-o", "json"]);
    serde_json::from_str::<Value>(&said).unwrap()["items"].as_array().unwrap().clone()
}

/// What `helm template` makes of values, in a cluster with the Prometheus operator; or what it says against them.
fn render(values: &Value) -> Result<String, String> {
    let chart = format!("{}/deploy/helm/trainyard", env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("values.json");
    std::fs::write(&file, values.to_string()).unwrap();
    let file = file.display().to_string();
    let (kube, operator) = ("--kube-version=1.34.0", "--api-versions=monitoring.coreos.com/v1");
    let said = helm(&["template", "t", &chart, "-n", "home", "--values", &file, kube, operator]);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if said.status.success() { Ok(text(said.stdout)) } else { Err(text(said.stderr)) }
}

/// What could not start, would be lost or would be read by strangers is refused with a sentence.
#[test]
fn the_chart_refuses_what_could_not_start() {
    let many = json!({"replicaCount": 2, "database": "postgres://t@db/t", "blob": "s3://bucket/t"});
    let cases = [
        (json!({"replicaCount": 2}), "set `database` to Postgres and `blob` to a bucket"),
        (many, "set persistence.enabled to false"),
        (json!({"persistence": {"enabled": false}}), "persistence.acceptLoss"),
        (json!({"database": "postgres://t:secret@db/t"}), "databasePassword.secretName"),
        (json!({"database": "postgres://t@db/t?password=secret"}), "databasePassword.secretName"),
        (json!({"runs": {"namespace": "home"}}), "the release's own namespace"),
        (json!({"runs": {"namespace": "a.b"}}), "/runs/namespace"),
        (json!({"metrics": {"serviceMonitor": {"enabled": true}}}), "serviceMonitor.prometheusNamespace"),
    ];
    for (values, sentence) in cases {
        let said = render(&values).unwrap_err();
        assert!(said.contains(sentence) && !said.contains("secret@"), "{values}: {said}");
    }
}

/// Keys without a section reach the daemon's configuration, and the ways to what it names are open.
#[test]
fn the_chart_writes_the_configuration_and_its_ways() {
    let made = render(&json!({
        "replicaCount": 2, "database": "postgres://t@db.data.svc/t", "blob": "s3://bucket/t",
        "persistence": {"enabled": false}, "secrets": ["my.secret"],
        "extraTop": "database_pooler = \"transaction\"\ndatabase_connections = 3",
        "metrics": {"serviceMonitor": {"enabled": true, "prometheusNamespace": "monitoring"}}}))
    .unwrap();
    let config: Vec<&str> = made
        .lines()
        .skip_while(|line| !line.starts_with("  trainyard.toml: |"))
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .collect();
    let config = Config::parse(&config.join("\n"), |_| None).unwrap();
    assert_eq!((config.database_pooler, config.database_connections), (Pooler::Transaction, 3));
    for part in [
        "kubernetes.io/metadata.name: data}",
        "kubernetes.io/metadata.name: monitoring\n",
        "kind: PodDisruptionBudget\n",
        "{name: secret-0, secret: {secretName: my.secret,",
        "strategy: {type: RollingUpdate}",
    ] {
        assert!(made.contains(part), "no {part:?} in\n{made}");
    }
}

/// Policies name pools as the daemon labels their pods; what cleans up goes where the daemon may go, with no account that nobody asked for.
#[test]
fn the_chart_follows_pools_places_and_accounts() {
    let made = render(&json!({
        "networkPolicy": {"runsEgress": {"GPU Big": [{"ports": [{"port": 5000}]}], "gpu_a100": []}},
        "nodeSelector": {"kubernetes.io/arch": "amd64"}, "tolerations": [{"key": "team", "operator": "Exists"}],
        "imagePullSecrets": ["registry"], "cleanup": {"patienceSeconds": 700},
        "serviceAccount": {"create": false, "name": "by-hand"}, "rbac": {"create": false}}))
    .unwrap();
    for pool in ["GPU Big", "gpu_a100"] {
        let label = format!("trainyard.dev/pool: {:?}", label_value(pool));
        assert!(made.contains(&label), "no {label} in\n{made}");
    }
    assert!(made.contains(&format!("name: t-trainyard-pool-{}\n", label_value("GPU Big"))), "{made}");
    assert!(!made.contains("pool-gpu_a100"), "an object's name takes no underscore:\n{made}");
    for twice in ["kubernetes.io/arch: amd64", "key: team", "name: registry\n", "serviceAccountName: by-hand"]
    {
        assert_eq!(made.matches(twice).count(), 2, "{twice} in\n{made}");
    }
    assert!(made.contains("--wait-s, \"700\"]") && made.contains("activeDeadlineSeconds: 760"), "{made}");
    assert!(!made.contains("\nkind: Role") && !made.contains("\nkind: ServiceAccount\n"), "{made}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chart_isolates_and_leaves_nothing_behind() {
    let _healthy = HEALTH.read().await;
    let chart = format!("{}/deploy/helm/trainyard", env!("CARGO_MANIFEST_DIR"));
    let lint = helm(&["lint", "--strict", &chart]);
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    // And a pool whose nodes there are none of.
    let mut yard = Yard::new(
        "[pool.nowhere]\nexecutor = \"kubernetes\"\n[pool.nowhere.kubernetes]\nselector = {\"trainyard.test/no\" = \"node\"}\n\
         [limits]\ngrace_s = 2\n",
    )
    .await;
    let runs = yard.release.runs.0.clone();

    // Five trainings at work, each with an open port.
    yard.pipeline(&format!(
        "version: 1\nname: churn\ndefaults: {{pool: gpu}}\nsteps:\n  - name: train\n    matrix: {{seed: [{}]}}\n    \
         commands: [\"python3 -m http.server 8000\"]\n",
        (1..=JOBS).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
    ));
    let sha = yard.push("main").await;
    yard.until(&sha, "five trainings at work", |v| {
        v.attempts.iter().filter(|a| a.state.word() == "running").count() == JOBS
    })
    .await;

    restricted(&runs);
    doctor(&yard, &runs);
    matrix(&yard, &runs);
    Theirs::put(&runs);

    // Uninstalled while they run: no Job, pod, Secret, Service or hook hangs.
    let began = Instant::now();
    let out = yard.release.uninstall();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let own = |left: Vec<String>| left.into_iter().filter(|name| !name.ends_with(THEIRS)).collect::<Vec<_>>();
    let mut left = own(yard.release.runs.left());
    while !left.is_empty() && began.elapsed() < Duration::from_secs(90) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        left = own(yard.release.runs.left());
    }
    let seconds = began.elapsed().as_secs_f64();
    let of_release = format!("app.kubernetes.io/instance={}", yard.release.name);
    let kinds =
        "deployments,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,jobs,pods";
    for namespace in [HOME, &runs] {
        let said = cluster().kubectl(&["get", kinds, "-n", namespace, "-l", &of_release, "-o", "name"]);
        left.extend(said.lines().map(str::to_owned));
    }
    let untouched = Theirs::stands(&runs);
    // A namespace whose objects carry no finalizer of ours goes by itself.
    Theirs::release(&runs);
    cluster().kubectl(&["delete", "namespace", &runs, "--timeout=60s"]);
    println!(
        "FIGURE helm_uninstall running_jobs={JOBS} left={} another_installations_job_untouched={untouched} seconds={seconds:.1}",
        left.len(),
    );
    assert!(left.is_empty() && untouched, "{left:?}");
    verbs::of_the_cleanup(&yard.release);
}

const THEIRS: &str = "another-installations";

/// A Job of another trainyard in the same namespace, with its Secret.
struct Theirs;

impl Theirs {
    fn put(runs: &str) {
        let labels = json!({
            "app.kubernetes.io/managed-by": "trainyard", "app.kubernetes.io/name": "trainyard-run",
            "app.kubernetes.io/instance": "elsewhere.trainyard", "trainyard.dev/instance": "0123456789abcdef"});
        let meta = |finalizers: Value| json!({"name": THEIRS, "namespace": runs, "labels": labels, "finalizers": finalizers});
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta(json!([FINALIZER])),
            "spec": {"suspend": true, "template": {"metadata": {"labels": labels}, "spec": plain_pod()}}});
        cluster().apply(&job.to_string());
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta(json!([]))});
        cluster().apply(&secret.to_string());
    }

    /// Neither deleted nor released.
    fn stands(runs: &str) -> bool {
        let said = cluster().kubectl(&["get", "jobs,secrets", "-n", runs, "-o", "json"]);
        let all: Value = serde_json::from_str(&said).unwrap();
        let own = all["items"].as_array().unwrap().iter().filter(|it| it["metadata"]["name"] == THEIRS);
        own.filter(|it| {
            let meta = &it["metadata"];
            meta["deletionTimestamp"].is_null()
                && (it["kind"] == "Secret" || meta["finalizers"] == json!([FINALIZER]))
        })
        .count()
            == 2
    }

    /// By the command, from outside of the cluster: it takes everybody's only when it is told so.
    fn release(runs: &str) {
        let admin = |more: &[&str]| {
            let kubeconfig = cluster().kubeconfig.display().to_string();
            Command::new(env!("CARGO_BIN_EXE_trainyard"))
                .args(["admin", "drop-finalizers", "--config", "/nonexistent", "--namespace", runs])
                .args(["--kubeconfig", &kubeconfig])
                .args(more)
                .output()
                .unwrap()
        };
        let nobodys = admin(&[]);
        let said = String::from_utf8_lossy(&nobodys.stderr).into_owned();
        assert!(!nobodys.status.success() && said.contains("--installation, or --all"), "{said}");
        assert!(Self::stands(runs));
        let all = admin(&["--all"]);
        let said = String::from_utf8_lossy(&all.stdout).into_owned();
        assert!(said.contains("every trainyard's: 1 Jobs released, 0 deleted"), "{said}");
        assert!(!Self::stands(runs));
    }
}

/// A container that Pod Security `restricted` takes, and the rest of its pod.
fn plain_pod() -> Value {
    json!({"restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "step", "image": BUSYBOX, "command": ["/bin/sleep", "600"],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]})
}

/// The chart's namespace refuses a pod that wants more than `restricted` allows, whoever asks.
fn restricted(runs: &str) {
    let plain = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": runs},
        "spec": {"containers": [{"name": "it", "image": BUSYBOX}]}});
    let file = std::env::temp_dir().join(format!("{runs}.json"));
    std::fs::write(&file, plain.to_string()).unwrap();
    let (made, said) =
        cluster().try_kubectl(&["create", "--dry-run=server", "-f", &file.display().to_string()]);
    std::fs::remove_file(file).unwrap();
    println!("SEC S20 layer=pod_security cases=1 failed={}", u8::from(made));
    assert!(!made && said.contains("violates PodSecurity \"restricted"), "{said}");
}

/// Who reaches whom over TCP, with the chart's policies enforced.
fn matrix(yard: &Yard, runs: &str) {
    let stranger = Namespace::make();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": stranger.0}, "spec": plain_pod()});
    cluster().apply(&pod.to_string());
    cluster().kubectl(&["wait", "-n", &stranger.0, "pod/stranger", "--for=condition=Ready", "--timeout=60s"]);
    let internet = Internet::open();
    let listen = |at: &str| std::net::TcpListener::bind(at).unwrap();
    let (_public, _private) =
        (listen(&format!("{}:443", internet.0)), listen(&format!("{}:443", cluster().host)));
    let _names = listen(&format!("{}:53", internet.0));

    let daemon = &yard.release.pods()[0];
    let at_work = pods_of(runs);
    let at_stranger = pods_of(&stranger.0);
    let pid = |pod: &Value, word: &str| processes(field(pod, "/metadata/uid"), word)[0];
    let sources = [
        ("run", Some(pid(&at_work[0], "http.server"))),
        ("daemon", Some(pid(daemon, "serve"))),
        ("stranger", Some(pid(&at_stranger[0], "sleep"))),
        ("outside", None),
    ];
    let ip = |pod: &Value| field(pod, "/status/podIP").to_owned();
    let api = cluster().kubectl(&["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
    let service = |which: &str, port: u16| format!("{}:{port}", yard.release.service(which));
    let targets = [
        ("hooks", service("hooks", 8710)),
        ("app", service("app", 8700)),
        ("agents", service("agents", 8720)),
        ("ops", service("ops", 8730)),
        ("another run", format!("{}:8000", ip(&at_work[1]))),
        ("the API server", format!("{api}:443")),
        ("the forge", yard.sandbox.url().trim_start_matches("http://").to_owned()),
        ("the internet", format!("{}:443", internet.0)),
        ("a private address", format!("{}:443", cluster().host)),
        ("another name server", format!("{}:53", internet.0)),
    ];
    let addresses: Vec<String> = targets.iter().map(|(_, address)| address.clone()).collect();
    // Rows as `sources`, columns as `targets`; a blank is not asked.
    let want = ["--o----o--", "    -oooo-", "oo---ooooo", "oo---     "];
    let look = || {
        let mut cells = Vec::new();
        for ((source, from), row) in sources.iter().zip(want) {
            for ((target, open), wanted) in targets.iter().zip(dial(*from, &addresses)).zip(row.chars()) {
                if wanted != ' ' {
                    cells.push((format!("{source} to {}", target.0), wanted == 'o', open));
                }
            }
        }
        cells
    };
    // Policies take a moment to be enforced for pods that are new, and to be forgotten.
    let settled = |so: &dyn Fn(&(String, bool, bool)) -> bool| {
        let mut cells = look();
        for _ in 0..10 {
            if cells.iter().all(so) {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            cells = look();
        }
        cells
    };
    let cells = settled(&|(_, want, got)| want == got);
    let wrong: Vec<_> = cells.iter().filter(|(_, want, got)| want != got).collect();
    let denied = cells.iter().filter(|(_, want, _)| !want).count();
    println!(
        "SEC S20 layer=network cases={} allowed={} denied={denied} failed={}",
        cells.len(),
        cells.len() - denied,
        wrong.len()
    );
    assert!(cells.len() >= 12 && wrong.is_empty(), "(cell, wanted open, was open): {wrong:?}");

    // Without the policies every cell opens: it was they that kept them shut.
    for namespace in [HOME, runs] {
        let release = format!("app.kubernetes.io/instance={}", yard.release.name);
        cluster().kubectl(&["delete", "networkpolicies", "-n", namespace, "-l", &release]);
    }
    let cells = settled(&|(_, _, got)| *got);
    let shut: Vec<_> = cells.iter().filter(|(_, _, got)| !got).collect();
    println!("FIGURE network_control denied_cells={denied} open_without_policies={}", denied - shut.len());
    assert!(shut.is_empty(), "shut without policies: {shut:?}");
}

/// `trainyard doctor` in the daemon's own container finds its permissions and its cluster well, and tries each pool with a pod that
/// leaves nothing behind.
fn doctor(yard: &Yard, runs: &str) {
    let before = jobs(runs);
    let said = yard.release.exec(&["doctor", "--json", "--probe=20"]);
    let lines: Vec<Value> = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let mark = |about: &str| {
        let own: Vec<&Value> = lines.iter().filter(|line| line["about"] == about).collect();
        assert!(!own.is_empty(), "no line about {about}: {said}");
        own.iter().map(|line| line["mark"].as_str().unwrap()).collect::<Vec<_>>().join(",")
    };
    let marks = ["cluster", "permissions", "database", "blobs", "daemon", "probe, gpu"].map(mark);
    let failed: Vec<&Value> = lines.iter().filter(|line| line["mark"] == "FAIL").collect();
    println!("FIGURE doctor_in_cluster lines={} failed={}", lines.len(), failed.len());
    assert!(failed.is_empty() && marks.iter().all(|mark| mark == "OK"), "{marks:?} {failed:?}");
    let nowhere = lines.iter().find(|line| line["about"] == "probe, nowhere").unwrap();
    let why = nowhere["says"].as_str().unwrap();
    assert!(nowhere["mark"] == "WARN" && why.contains("node affinity/selector"), "{nowhere}");
    assert_eq!(jobs(runs), before, "the probes left something");
}

fn jobs(runs: &str) -> String {
    cluster().kubectl(&["get", "jobs,secrets", "-n", runs, "-o", "name"])
}
