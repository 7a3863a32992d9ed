//! trainyard in the cluster, put there by `helm install` of the chart: its image, its volume, its account, its policies.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{Namespace, cluster};

/// The namespace of the daemons; the API server's audit log keeps what their accounts do.
pub const HOME: &str = "trainyard";

pub struct Release {
    pub name: String,
    pub runs: Namespace,
    /// The volume, as this machine sees it; the daemon's data lies in `data` below it.
    pub volume: PathBuf,
    _dir: tempfile::TempDir,
    installed: bool,
}

impl Release {
    /// Makes the volume and the Secret with the forge's token and the hook's secret. Nothing is installed yet.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let at = cluster();
        at.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {HOME}}}}}"));
        let name = format!("trainyard-{}", hex::encode(rand::random::<[u8; 3]>()));
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::chown(&volume, Some(65532), Some(65532)).unwrap();
        let mut secret = vec!["create", "secret", "generic", "-n", HOME];
        let literals: Vec<String> =
            files.iter().map(|(key, value)| format!("--from-literal={key}={value}")).collect();
        let secret_name = format!("{name}-forge");
        secret.push(&secret_name);
        secret.extend(literals.iter().map(String::as_str));
        at.kubectl(&secret);
        at.apply(
            &json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
                "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": HOME, "name": name}, "hostPath": {"path": volume}}})
            .to_string(),
        );
        Self {
            runs: Namespace(format!("runs-{}", hex::encode(rand::random::<[u8; 4]>()))),
            name,
            volume,
            _dir: dir,
            installed: false,
        }
    }

    pub fn database(&self) -> PathBuf {
        self.volume.join("data/trainyard.db")
    }

    /// A file of the forge's Secret, as the daemon sees it.
    pub fn secret_file(&self, key: &str) -> String {
        format!("/etc/trainyard/secrets/{}-forge/{key}", self.name)
    }

    /// `helm install`, and waits until the daemon is ready. `peers` are what the daemon may reach beside the API server.
    pub fn install(&mut self, config: &str, peers: &[(&str, u16)]) {
        let egress: Vec<Value> = peers
            .iter()
            .map(|(host, port)| {
                json!({"to": [{"ipBlock": {"cidr": format!("{host}/32")}}], "ports": [{"port": port, "protocol": "TCP"}]})
            })
            .collect();
        // The tests' cluster has its name server on the node.
        let node = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let node = cluster().kubectl(&["get", "nodes", "-o", node]);
        let names = json!([
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
            {"ipBlock": {"cidr": format!("{}/32", node.trim())}}]);
        let values = json!({
            "image": {"repository": "localhost/trainyard-test/trainyard", "tag": "1"},
            "publicUrl": format!("http://{}-app.{HOME}.svc:8700", self.name),
            "config": config,
            "secrets": [format!("{}-forge", self.name)],
            "persistence": {"storageClass": "-"},
            "runs": {"namespace": self.runs.0, "relistSeconds": 15, "kueue": config.contains("queue = ")},
            "networkPolicy": {"extraEgress": egress, "dnsTo": names},
        });
        let path = self.volume.with_file_name("values.json");
        std::fs::write(&path, values.to_string()).unwrap();
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/trainyard");
        let began = Instant::now();
        let out = helm(&[
            "install",
            &self.name,
            &chart.display().to_string(),
            "-n",
            HOME,
            "-f",
            &path.display().to_string(),
            "--wait",
            "--timeout",
            "150s",
        ]);
        self.installed = true;
        assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), self.log());
        println!("FIGURE helm_install seconds_to_ready={:.1}", began.elapsed().as_secs_f64());
    }

    pub fn uninstall(&mut self) -> Output {
        self.installed = false;
        helm(&["uninstall", &self.name, "-n", HOME, "--wait", "--timeout", "240s"])
    }

    /// The `ClusterIP` of one of its Services: `hooks`, `app`, `agents`, `ops`.
    pub fn service(&self, which: &str) -> IpAddr {
        let service = format!("{}-{which}", self.name);
        cluster()
            .kubectl(&["get", "service", "-n", HOME, &service, "-o", "jsonpath={.spec.clusterIP}"])
            .parse()
            .unwrap()
    }

    pub fn pods(&self) -> Vec<Value> {
        let label = format!("app.kubernetes.io/instance={}", self.name);
        let said = cluster().kubectl(&["get", "pods", "-n", HOME, "-l", &label, "-o", "json"]);
        serde_json::from_str::<Value>(&said).unwrap()["items"].as_array().unwrap().clone()
    }

    /// The last lines of the daemon's log, for a failing test.
    pub fn log(&self) -> String {
        let of = format!("deploy/{}", self.name);
        cluster().try_kubectl(&["logs", "-n", HOME, &of, "--tail=60"]).1
    }

    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.volume.join("data/admin.token")).unwrap().trim().to_owned()
    }

    /// What `trainyard …` prints in the daemon's container, however it ends.
    pub fn exec(&self, args: &[&str]) -> String {
        let of = format!("deploy/{}", self.name);
        let out = cluster()
            .command()
            .args(["exec", "-n", HOME, &of, "--", "trainyard"])
            .args(args)
            .output()
            .unwrap();
        assert!(!out.stdout.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// `kill -9` of the daemon, which stays away until [`Self::start`]. It is stopped first, so that it hears no SIGTERM.
    pub fn kill(&self) {
        let pods = self.pods();
        let daemon = processes(pods[0]["metadata"]["uid"].as_str().unwrap(), "serve");
        assert_eq!(daemon.len(), 1, "the daemon's process: {daemon:?}");
        signal(daemon[0], "-STOP");
        self.scale(0);
        signal(daemon[0], "-KILL");
        let began = Instant::now();
        while !self.pods().is_empty() {
            assert!(began.elapsed() < Duration::from_mins(1), "the daemon does not go");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts it again, and waits until it is ready.
    pub fn start(&self) {
        self.scale(1);
        let deployment = format!("deployment/{}", self.name);
        cluster().kubectl(&["rollout", "status", "-n", HOME, &deployment, "--timeout=120s"]);
    }

    fn scale(&self, replicas: u32) {
        let deployment = format!("deployment/{}", self.name);
        cluster().kubectl(&["scale", "-n", HOME, &deployment, &format!("--replicas={replicas}")]);
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if self.installed {
            helm(&["uninstall", &self.name, "-n", HOME, "--no-hooks"]);
        }
        for what in ["persistentvolumeclaim", "secret"] {
            let name = if what == "secret" { format!("{}-forge", self.name) } else { self.name.clone() };
            cluster().try_kubectl(&["delete", what, "-n", HOME, &name, "--wait=false", "--ignore-not-found"]);
        }
        cluster().try_kubectl(&["delete", "persistentvolume", &self.name, "--wait=false"]);
    }
}

pub fn helm(args: &[&str]) -> Output {
    let home = std::env::temp_dir().join("trainyard-test-helm");
    let helm = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/bin/helm");
    Command::new(helm)
        .args(args)
        .env("KUBECONFIG", &cluster().kubeconfig)
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data"))
        .output()
        .unwrap()
}

/// Processes of a pod, by its uid, whose command line has the word. They are this machine's own: the cluster has no virtual one.
pub fn processes(pod_uid: &str, word: &str) -> Vec<u32> {
    let plain = pod_uid.replace('-', "_");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            (cgroup.contains(pod_uid) || cgroup.contains(&plain)) && line.contains(word)
        })
        .collect()
}

pub fn signal(pid: u32, which: &str) {
    assert!(Command::new("kill").args([which, &pid.to_string()]).status().unwrap().success());
}
