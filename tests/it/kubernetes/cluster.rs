//! The real cluster of the tests: started once per run by `scripts/cluster.sh`, or the user's own
//! (`TRAINYARD_TEST_KUBECONFIG`, with the images of `tests/cluster/images.py` and a way from its pods to this machine).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use trainyard::config::{KubernetesConfig, KubernetesPool};
use trainyard::executor::kubernetes::manifest::Cluster;

pub const TRAINYARD: &str = "localhost/trainyard-test/trainyard:1";
pub const BUSYBOX: &str = "localhost/trainyard-test/busybox:1";
pub const PYTHON: &str = "localhost/trainyard-test/python:1";

/// Held for reading by whoever needs a healthy cluster, for writing by whoever breaks it.
pub static HEALTH: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

pub struct TestCluster {
    /// Of an administrator.
    pub kubeconfig: PathBuf,
    /// An address of this machine that pods reach.
    pub host: String,
    pub kubectl: PathBuf,
    pub dir: PathBuf,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(args: &[&str]) -> String {
    let out =
        Command::new(args[0]).args(&args[1..]).current_dir(root()).stderr(Stdio::inherit()).output().unwrap();
    assert!(out.status.success(), "{args:?} failed");
    String::from_utf8(out.stdout).unwrap()
}

/// Brings it up at the first call; the tests' script takes it down.
pub fn cluster() -> &'static TestCluster {
    static ONE: OnceLock<TestCluster> = OnceLock::new();
    ONE.get_or_init(|| {
        if let Ok(path) = std::env::var("TRAINYARD_TEST_KUBECONFIG") {
            let host = std::env::var("TRAINYARD_TEST_HOST")
                .expect("TRAINYARD_TEST_HOST: an address of this machine that pods reach");
            return TestCluster {
                kubeconfig: path.into(),
                host,
                kubectl: "kubectl".into(),
                dir: "/nonexistent".into(),
            };
        }
        let said = script(&["scripts/cluster.sh", "up"]);
        let is: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once('=')).collect();
        let binary = script(&["scripts/static.sh"]);
        let images = format!("{}/images", is["RUN"]);
        script(&["python3", "tests/cluster/images.py", &images, "--trainyard", binary.trim()]);
        script(&["scripts/cluster.sh", "load", &format!("{images}/trainyard.tar")]);
        TestCluster {
            kubeconfig: is["KUBECONFIG"].into(),
            host: is["HOST"].into(),
            kubectl: format!("{}/kubectl", is["BIN"]).into(),
            dir: is["RUN"].into(),
        }
    })
}

/// What `scripts/cluster.sh` prints.
pub fn part_says(what: &str) -> String {
    script(&["scripts/cluster.sh", what])
}

/// Kills or starts a part of the cluster that we brought up.
pub fn part(what: &str, name: &str) {
    script(&["scripts/cluster.sh", what, name]);
}

impl TestCluster {
    /// `kubectl` as an administrator.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        let (good, said) = self.try_kubectl(args);
        assert!(good, "kubectl {args:?}: {said}");
        said
    }

    pub fn try_kubectl(&self, args: &[&str]) -> (bool, String) {
        let out = self.command().args(args).output().unwrap();
        let said = if out.status.success() { out.stdout } else { out.stderr };
        (out.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// The API server's URL, and a client that trusts it and brings no credential.
    pub fn api(&self) -> (String, reqwest::Client) {
        use base64::Engine as _;
        let view: serde_json::Value =
            serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "-o", "json"])).unwrap();
        let it = &view["clusters"][0]["cluster"];
        let authority = it["certificate-authority-data"].as_str().unwrap();
        let authority = base64::engine::general_purpose::STANDARD.decode(authority).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&authority).unwrap())
            .timeout(std::time::Duration::from_secs(20))
            .build()
            .unwrap();
        (it["server"].as_str().unwrap().to_owned(), client)
    }

    pub fn apply(&self, manifest: &str) {
        use std::io::Write as _;
        let mut child = self
            .command()
            .args(["apply", "--server-side", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{manifest}");
    }
}

/// A namespace for runs with Pod Security `restricted` enforced; it goes with the value, whatever is in it.
pub struct Namespace(pub String);

impl Namespace {
    pub fn make() -> Self {
        let name = format!("runs-{}", hex::encode(rand::random::<[u8; 4]>()));
        cluster().apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
        ));
        Self(name)
    }

    pub fn config(&self) -> KubernetesConfig {
        KubernetesConfig {
            namespace: self.0.clone(),
            image: TRAINYARD.into(),
            installation: None,
            agent_url: None,
            kubeconfig: Some(cluster().kubeconfig.clone()),
            context: None,
            image_pull_secrets: Vec::new(),
            relist_s: 15,
            prometheus: None,
        }
    }

    pub fn settings(&self, agent_url: &str) -> Cluster {
        Cluster {
            config: self.config(),
            instance: "test".into(),
            agent_url: agent_url.into(),
            grace_s: 2,
            pending_timeout_s: 120,
        }
    }

    /// Makes a Secret like those of attempts; its name.
    pub fn secret(&self, name: &str) -> String {
        cluster().kubectl(&["create", "secret", "generic", name, "-n", &self.0]);
        cluster().kubectl(&[
            "label",
            "secret",
            name,
            "-n",
            &self.0,
            "app.kubernetes.io/managed-by=trainyard",
        ]);
        name.to_owned()
    }

    /// What is left in it that is ours.
    pub fn left(&self) -> Vec<String> {
        let said = cluster().kubectl(&[
            "get",
            "jobs,secrets,pods,services",
            "-n",
            &self.0,
            "-l",
            "app.kubernetes.io/managed-by=trainyard",
            "-o",
            "name",
        ]);
        said.lines().map(str::to_owned).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let finalizers = r#"{"metadata":{"finalizers":null}}"#;
        let (_, jobs) = cluster().try_kubectl(&["get", "jobs", "-n", &self.0, "-o", "name"]);
        let jobs: Vec<&str> = jobs.lines().filter(|line| line.starts_with("job")).collect();
        if !jobs.is_empty() {
            let patch = ["patch", "-n", &self.0, "--type=merge", "-p", finalizers];
            cluster().try_kubectl(&[&patch[..], &jobs[..]].concat());
        }
        cluster().try_kubectl(&["delete", "namespace", &self.0, "--wait=false"]);
    }
}

/// A pool whose pods fit on a small machine.
pub fn small_pool() -> KubernetesPool {
    KubernetesPool {
        image: Some(BUSYBOX.into()),
        default_cpu: "100m".into(),
        default_memory: "256Mi".into(),
        ..KubernetesPool::default()
    }
}
