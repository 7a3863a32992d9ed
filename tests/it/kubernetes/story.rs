//! The demo's churn pipeline, unchanged but for its pool and a GPU for each training, from signed webhooks to the status and the
//! comment, on the real cluster; the daemon has the service account and the Role of the chart and is killed while pods train.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::process::{Child, Command};
use trainyard::clock::SystemClock;
use trainyard::model::{RepoName, RunState, Sha};
use trainyard::sandbox::{NewPull, Sandbox, SandboxOptions, WRITER};
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::RunView;
use trainyard::store::{OpenOptions, Store};

use super::cluster::{HEALTH, Namespace, PYTHON, TRAINYARD, cluster};

const SECRET: &str = "the secret of the only hook";
const ROLE: &str = include_str!("../../../deploy/helm/trainyard/files/role-rules.yaml");

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

/// A service account with the chart's Role; the kubeconfig of its token.
fn account(namespace: &Namespace, dir: &Path) -> PathBuf {
    let at = cluster();
    at.apply("{apiVersion: v1, kind: Namespace, metadata: {name: trainyard}}");
    at.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: trainyard, namespace: trainyard}}");
    let rules = ROLE.lines().map(|line| format!("  {line}\n")).collect::<String>();
    at.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: trainyard, namespace: {0}}}\nrules:\n{rules}---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: trainyard, namespace: {0}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: trainyard}}\n\
         subjects: [{{kind: ServiceAccount, name: trainyard, namespace: trainyard}}]\n",
        namespace.0
    ));
    let token = at.kubectl(&["create", "token", "trainyard", "-n", "trainyard", "--duration", "2h"]);
    let view: Value = serde_json::from_str(&at.kubectl(&["config", "view", "--raw", "-o", "json"])).unwrap();
    let it = &view["clusters"][0]["cluster"];
    let path = dir.join("kubeconfig");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": it}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

struct Yard {
    sandbox: Sandbox,
    repo: RepoName,
    tree: PathBuf,
    config: PathBuf,
    database: PathBuf,
    log: PathBuf,
    ops: std::net::SocketAddr,
    daemon: Option<Child>,
    _dir: tempfile::TempDir,
}

impl Yard {
    async fn new(namespace: &Namespace) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::start(SandboxOptions::new(dir.path().join("forge"), Arc::new(SystemClock)))
            .await
            .unwrap();
        let repo = RepoName::parse("acme/churn").unwrap();
        sandbox.create_repo(&repo, "main").await.unwrap();
        let free = |host: &str| std::net::TcpListener::bind((host, 0)).unwrap();
        let held: Vec<_> =
            [free("127.0.0.1"), free("127.0.0.1"), free("127.0.0.1"), free(&cluster().host)].into();
        let [hooks, app, ops, agent] = [0, 1, 2, 3].map(|n| held[n].local_addr().unwrap());
        drop(held);
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let text = format!(
            "data_dir = {data:?}\npublic_url = \"http://{app}\"\n\
             [listen]\nhooks = \"{hooks}\"\napp = \"{app}\"\nagent = \"{agent}\"\nops = \"{ops}\"\n\
             [forge.sandbox]\nkind = \"github\"\nurl = {url:?}\nallow_http = true\ntoken = {{ file = {token:?} }}\n\
             [[forge.sandbox.hook]]\nid = \"main\"\nsecrets = [{{ file = {secret:?} }}]\nrepository = \"acme/churn\"\n\
             [executor.kubernetes]\nnamespace = {namespace:?}\nimage = \"{TRAINYARD}\"\nkubeconfig = {kubeconfig:?}\nrelist_s = 15\n\
             [pool.gpu]\nexecutor = \"kubernetes\"\ngpus = 8\nslots = 8\n\
             [pool.gpu.kubernetes]\nimage = \"{PYTHON}\"\nnode_gpus = 8\ndefault_cpu = \"50m\"\ndefault_memory = \"256Mi\"\n",
            data = dir.path().join("data").display().to_string(),
            url = sandbox.url(),
            token = write("token", sandbox.token().expose_secret()),
            secret = write("secret", SECRET),
            namespace = namespace.0,
            kubeconfig = account(namespace, dir.path()).display().to_string(),
        );
        let config = PathBuf::from(write("trainyard.toml", &text));
        sandbox.set_hook(format!("http://{hooks}/hooks/github/main"), SECRET);
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let database = dir.path().join("data/trainyard.db");
        let log = dir.path().join("daemon.log");
        let yard = Self { sandbox, repo, tree, config, database, log, ops, daemon: None, _dir: dir };
        let remote = yard.sandbox.git_url(&yard.repo, WRITER);
        yard.git(&["init", "-q", "-b", "main"]);
        yard.git(&["remote", "add", "origin", &remote]);
        yard
    }

    fn git(&self, args: &[&str]) -> String {
        let mut command = std::process::Command::new("git");
        command
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(args)
            .current_dir(&self.tree);
        let out = command.output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    async fn push(&self, branch: &str) -> Sha {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "A change"]);
        let (tree, branch) = (self.tree.clone(), branch.to_owned());
        let pushed = Command::new("git")
            .args(["push", "-q", "-u", "origin", &branch])
            .current_dir(tree)
            .status()
            .await;
        assert!(pushed.unwrap().success());
        Sha::parse(&self.git(&["rev-parse", "HEAD"])).unwrap()
    }

    async fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_trainyard"))
            .args(["serve", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        let (began, http) =
            (Instant::now(), reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap());
        while !http.get(format!("http://{}/readyz", self.ops)).send().await.is_ok_and(|a| a.status() == 200) {
            assert!(began.elapsed() < Duration::from_mins(1), "not ready: {}", self.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn kill(&mut self) {
        self.daemon.take().unwrap().kill().await.unwrap();
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    async fn run_of(&self, store: &Store, sha: &Sha) -> Option<RunView> {
        let runs = store.list_runs(RunFilter::default(), None, 20).await.unwrap();
        let run = runs.into_iter().find(|item| item.run.head_sha == *sha)?;
        store.run_view(&run.run.id).await.unwrap()
    }

    /// Looks until a run is as wanted.
    async fn until(&self, store: &Store, sha: &Sha, what: &str, so: impl Fn(&RunView) -> bool) -> RunView {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < Duration::from_mins(2) {
            if let Some(view) = self.run_of(store, sha).await {
                if so(&view) {
                    return view;
                }
                last = format!(
                    "{} {:?} {:?}",
                    view.run.state,
                    view.run.reason,
                    view.attempts
                        .iter()
                        .map(|a| format!("{} {:?} {}", a.state, a.class, a.reason))
                        .collect::<Vec<_>>()
                );
                assert!(!view.run.state.is_terminal(), "{what}: {last}\n{}", self.tail());
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        panic!("{what} did not come: {last}\n{}", self.tail());
    }

    /// Until the forge has the last word on a commit.
    async fn told(&self, sha: &Sha) -> String {
        let began = Instant::now();
        loop {
            let statuses = self.sandbox.statuses(&self.repo, sha);
            if let Some(last) = statuses.last().filter(|s| s.state != "pending") {
                return format!("{}: {}", last.state, last.description.clone().unwrap_or_default());
            }
            assert!(began.elapsed() < Duration::from_mins(1), "no last status\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn log_of(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.database.parent().unwrap().join("blobs").join(key)).unwrap_or_default()
    }

    async fn whole_log(&self, store: &Store, uid: &trainyard::model::AttemptUid) -> String {
        // Compacted a moment after the end: read again what was swapped meanwhile.
        for _ in 0..20 {
            let segments = store.log_segments(uid, 0, 10_000).await.unwrap();
            let bytes: Vec<u8> = segments.iter().flat_map(|s| self.log_of(&s.blob_key)).collect();
            if bytes.len() as i64 == segments.iter().map(|s| s.bytes).sum::<i64>() {
                return String::from_utf8(bytes).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("the log of {uid} cannot be read");
    }
}

fn example(tree: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/churn");
    for entry in std::fs::read_dir(from).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), tree.join(entry.file_name())).unwrap();
    }
    let path = tree.join(".trainyard.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    // Its customers are generated as it trains: the demo has them in a file, which is not in the repository.
    let (from, to) = (text.find("data:").unwrap(), text.find("steps:\n").unwrap());
    let text = format!("{}{}", &text[..from], &text[to..]);
    let on_pool = text.replace("steps:\n", "defaults: {pool: gpu}\nsteps:\n").replace(
        "    matrix: {seed: [1, 2, 3]}\n",
        "    matrix: {seed: [1, 2, 3]}\n    resources: {gpu: 1}\n",
    );
    assert!(on_pool.matches("gpu").count() == 2);
    std::fs::write(path, on_pool).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_trains_on_the_cluster_and_a_killed_daemon_restarts_nothing() {
    let _healthy = HEALTH.read().await;
    let namespace = tokio::task::spawn_blocking(Namespace::make).await.unwrap();
    let mut yard = Yard::new(&namespace).await;
    yard.start().await;
    let store = Store::open_beside(&OpenOptions::sqlite(yard.database.clone())).await.unwrap();

    // The demo's pipeline: main, then a pull request that changes the model.
    let began = Instant::now();
    example(&yard.tree);
    let base = yard.push("main").await;
    let seen = yard
        .until(&store, &base, "a training on the cluster", |v| {
            v.attempts.iter().any(|a| a.state.word() == "running" || a.state.is_terminal())
        })
        .await;
    let pod: Value = serde_json::from_str(&cluster().kubectl(&[
        "get",
        "jobs",
        "-n",
        &namespace.0,
        "-l",
        &format!("trainyard.dev/run-id={}", seen.run.id),
        "-o",
        "json",
    ]))
    .unwrap();
    let limits = &pod["items"][0]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(limits["nvidia.com/gpu"], "1", "{limits}");
    yard.until(&store, &base, "the end of the first run", |v| v.run.state == RunState::Succeeded).await;
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
    let view =
        yard.until(&store, &head, "the end of the second run", |v| v.run.state == RunState::Succeeded).await;
    assert_eq!(view.attempts.len(), 6, "three trainings, three evaluations");
    let (first, second) = (yard.told(&base).await, yard.told(&head).await);
    assert!(first.starts_with("success") && second.contains("accuracy"), "{first} | {second}");
    let comment = loop {
        if let Some(comment) = yard.sandbox.comments(&yard.repo, number).first() {
            break comment.body().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(comment.contains("accuracy"), "{comment}");
    let log = yard.whole_log(&store, &view.attempts[0].uid).await;
    assert!(log.contains("source ") && log.contains("+ python3 train.py"), "{log}");
    println!("FIGURE kubernetes_story runs=2 pods=12 seconds={:.1}", began.elapsed().as_secs_f64());

    // G8: the daemon is away while pods train; nothing is restarted, no line is lost.
    const PODS: usize = 5;
    let lines = 60;
    std::fs::write(
        yard.tree.join(".trainyard.yaml"),
        format!(
            "version: 1\nname: churn\ndefaults: {{pool: gpu}}\nsteps:\n  - name: train\n    matrix: {{seed: [{}]}}\n    resources: {{gpu: 1}}\n    \
             commands: [\"for i in $(seq {lines}); do echo line $i; sleep 0.4; done\"]\n",
            (1..=PODS).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
        ),
    )
    .unwrap();
    let sha = yard.push("rate").await;
    yard.until(&store, &sha, "all pods at work", |v| {
        v.attempts.len() == PODS && v.attempts.iter().all(|a| a.state.word() == "running" && a.log_bytes > 0)
    })
    .await;
    yard.kill().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    yard.start().await;
    let view =
        yard.until(&store, &sha, "the end of what ran through", |v| v.run.state == RunState::Succeeded).await;
    let mut lost = 0;
    for attempt in &view.attempts {
        let log = yard.whole_log(&store, &attempt.uid).await;
        let got: Vec<&str> = log.lines().filter(|line| line.starts_with("line ")).collect();
        let want: Vec<String> = (1..=lines).map(|n| format!("line {n}")).collect();
        lost += usize::from(got != want);
    }
    let restarted = view.attempts.len() - PODS;
    println!("FIGURE g8_pods pods={PODS} away_s=10 restarted={restarted} logs_with_loss={lost}");
    assert_eq!((restarted, lost), (0, 0));

    // A drain in the middle of a training: saved, uploaded, resumed at the right step.
    std::fs::write(yard.tree.join(".trainyard.yaml"), RESUMING).unwrap();
    let sha = yard.push("rate").await;
    let view = yard
        .until(&store, &sha, "a training some steps in", |v| v.attempts.iter().any(|a| a.log_bytes > 60))
        .await;
    let label = format!("trainyard.dev/attempt-uid={}", view.attempts[0].uid);
    let pod = cluster().kubectl(&[
        "get",
        "pods",
        "-n",
        &namespace.0,
        "-l",
        &label,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let eviction = yard.tree.parent().unwrap().join("eviction.json");
    let body = serde_json::json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.0}});
    std::fs::write(&eviction, body.to_string()).unwrap();
    let place = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", namespace.0);
    cluster().kubectl(&["create", "--raw", &place, "-f", &eviction.display().to_string()]);
    let view =
        yard.until(&store, &sha, "the resumed training's end", |v| v.run.state == RunState::Succeeded).await;
    assert_eq!(view.attempts.len(), 2);
    let first = yard.whole_log(&store, &view.attempts[0].uid).await;
    let second = yard.whole_log(&store, &view.attempts[1].uid).await;
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

    // Nothing stays, and the Role of the chart is what was used, no less and no more (S20).
    let began = Instant::now();
    while !namespace.left().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(90), "{:?}\n{}", namespace.left(), yard.tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("FIGURE kubernetes_leftovers seconds_to_none={:.1}", began.elapsed().as_secs_f64());
    verbs(&namespace);
    yard.kill().await;
}

/// Verbs in the audit log of our account in this namespace against the chart's Role; and what it may not do.
fn verbs(namespace: &Namespace) {
    let audit = cluster().dir.join("audit.log");
    let text = std::fs::read_to_string(&audit).expect("the audit log of the test cluster");
    let mut used: Vec<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|e| e["user"]["username"] == "system:serviceaccount:trainyard:trainyard")
        .filter(|e| e["objectRef"]["namespace"] == namespace.0.as_str())
        .map(|e| {
            let word = |key: &str| e["objectRef"][key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", e["verb"].as_str().unwrap_or_default(), word("resource"))
        })
        .collect();
    used.sort();
    used.dedup();
    let mut granted: Vec<String> = Vec::new();
    let mut resource = String::new();
    for line in ROLE.lines() {
        let list = |line: &str| line.split(['[', ']']).nth(1).unwrap_or_default().to_owned();
        if line.trim().starts_with("resources:") {
            resource = list(line);
        } else if line.trim().starts_with("verbs:") {
            granted.extend(list(line).split(", ").map(|verb| format!("{verb} {resource}")));
        }
    }
    granted.sort();
    let beyond: Vec<&String> = used.iter().filter(|u| !granted.contains(u)).collect();
    let idle: Vec<&String> = granted.iter().filter(|g| !used.contains(g)).collect();
    let forbidden = [
        ("get", "secrets"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("update", "secrets"),
        ("patch", "secrets"),
        ("create", "pods"),
        ("delete", "pods"),
        ("patch", "pods"),
        ("create", "pods/exec"),
        ("get", "pods/exec"),
        ("create", "pods/attach"),
        ("create", "pods/portforward"),
        ("get", "pods/log"),
        ("create", "serviceaccounts/token"),
        ("get", "serviceaccounts"),
        ("create", "serviceaccounts"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("bind", "roles.rbac.authorization.k8s.io"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("get", "nodes"),
        ("list", "namespaces"),
        ("create", "deployments.apps"),
        ("get", "configmaps"),
        ("create", "events"),
        ("impersonate", "users"),
    ];
    let open: Vec<_> = forbidden
        .iter()
        .filter(|(verb, what)| {
            let (allowed, _) = cluster().try_kubectl(&[
                "auth",
                "can-i",
                verb,
                what,
                "-n",
                &namespace.0,
                "--as",
                "system:serviceaccount:trainyard:trainyard",
            ]);
            allowed
        })
        .collect();
    println!(
        "SEC S20 cases={} failed={} used={} granted={} beyond={} unused={}",
        forbidden.len() + granted.len(),
        open.len() + beyond.len() + idle.len(),
        used.len(),
        granted.len(),
        beyond.len(),
        idle.len()
    );
    assert!(open.is_empty() && beyond.is_empty(), "allowed: {open:?}; used without a grant: {beyond:?}");
    assert!(idle.is_empty(), "granted and not used: {idle:?}");
}
