//! From a delivery to the first byte of a log when the step is a pod: trainyard beside the same objects applied by hand. On the
//! cluster of `scripts/cluster.sh`, whose image brings the release's static agent (`TRAINYARD_BENCH_STATIC`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use rand::RngCore;
use secrecy::SecretString;
use tokio::process::Command;
use trainyard::config::{KubernetesConfig, KubernetesPool};
use trainyard::executor::kubernetes::{self, manifest};
use trainyard::executor::{Launch, external_name};
use trainyard::model::{AttemptUid, RunId, StepSpec};

use crate::runs::Yard;
use crate::{Line, median, stub};

pub const IMAGE: &str = "localhost/trainyard-test/trainyard:1";
pub const BUSYBOX: &str = "localhost/trainyard-test/busybox:1";
pub const NAMESPACE: &str = "trainyard-bench";
const PAIRS: usize = 20;
/// Of a pod, on both sides. Under a limit of a twentieth of a core a pod of either waits seconds for its turn, and a millisecond more
/// of work looks like twenty.
const CPU: &str = "500m";

/// What `scripts/cluster.sh up` says of itself.
pub struct Cluster(BTreeMap<String, String>);

impl Cluster {
    pub async fn up() -> anyhow::Result<Self> {
        let agent = std::env::var("TRAINYARD_BENCH_STATIC")
            .context("TRAINYARD_BENCH_STATIC: run scripts/bench.sh, which builds the static agent")?;
        let said = script(&["scripts/cluster.sh", "up"]).await?;
        let it: BTreeMap<String, String> = said
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let cluster = Self(it);
        let images = format!("{}/images", cluster.get("RUN")?);
        script(&["python3", "tests/cluster/images.py", &images, "--trainyard", &agent]).await?;
        script(&["scripts/cluster.sh", "load", &format!("{images}/trainyard.tar")]).await?;
        let kubectl = format!("{}/kubectl", cluster.get("BIN")?);
        let config = cluster.get("KUBECONFIG")?;
        // What an earlier measurement left, whose daemon was gone before its last Job.
        let trainyard = env!("CARGO_BIN_EXE_trainyard");
        let of = ["--namespace", NAMESPACE, "--kubeconfig", config];
        script(&[&[trainyard, "admin", "drop-finalizers", "--all", "--delete"][..], &of].concat()).await?;
        for args in [
            ["delete", "namespace", NAMESPACE, "--ignore-not-found"].as_slice(),
            ["create", "namespace", NAMESPACE].as_slice(),
            ["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"].as_slice(),
        ] {
            script(&[&[kubectl.as_str(), "--kubeconfig", config][..], args].concat()).await?;
        }
        Ok(cluster)
    }

    pub fn get(&self, key: &str) -> anyhow::Result<&str> {
        self.0.get(key).map(String::as_str).with_context(|| format!("scripts/cluster.sh did not say {key}"))
    }

    pub fn config(&self) -> anyhow::Result<KubernetesConfig> {
        let kubeconfig = Some(PathBuf::from(self.get("KUBECONFIG")?));
        Ok(KubernetesConfig { image: IMAGE.into(), kubeconfig, ..KubernetesConfig::of(NAMESPACE) })
    }
}

async fn script(args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(args[0]).args(&args[1..]).current_dir(env!("CARGO_MANIFEST_DIR")).output().await?;
    ensure!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

fn pool() -> KubernetesPool {
    KubernetesPool {
        image: Some(BUSYBOX.into()),
        default_cpu: CPU.into(),
        default_memory: "256Mi".into(),
        ..KubernetesPool::default()
    }
}

/// The step that trainyard makes of the pipeline below.
fn step() -> StepSpec {
    StepSpec {
        commands: vec!["echo first".into()],
        pool: Some("cluster".into()),
        timeout_ms: 600_000,
        ..StepSpec::named("train")
    }
}

/// A launch of it.
pub fn launch(name: String, uid: AttemptUid, run: RunId) -> Launch {
    Launch {
        name,
        uid,
        spec: step(),
        number: 1,
        run,
        pipeline: "quick".into(),
        trusted: true,
        pool: "cluster".into(),
        gpus: Vec::new(),
        agent_url: "https://192.0.2.1:1".into(),
        agent_ca: None,
        bootstrap: SecretString::from(stub::BOOTSTRAP),
        repo_trusted: true,
        probe: false,
        handle: serde_json::json!({}),
    }
}

/// One pair's other half: the objects that trainyard would make, sent by hand, with a stub where the agents call. Returns
/// milliseconds since the first request: the first container's first call, the second one's, and the first byte of the log; and how
/// long the init container took.
async fn by_hand(client: &kube::Client, cluster: &Cluster) -> anyhow::Result<([f64; 3], f64)> {
    let stub = stub::Daemon::start_at(Some(cluster.get("HOST")?)).await;
    stub.will_run(stub::spec(&stub.sha, &["echo first"]));
    let uid = uuid();
    let run = RunId::from_text("0190b2c4-0000-7000-8000-000000000002");
    let launch = Launch {
        agent_url: stub.url.clone(),
        agent_ca: stub.ca.clone(),
        ..launch(external_name("bench", &uid, "train", 1), AttemptUid::from_text(uid), run)
    };
    let settings = manifest::Cluster {
        config: cluster.config()?,
        instance: "bench".into(),
        agent_url: stub.url.clone(),
        grace_s: 30,
        pending_timeout_s: 1800,
    };
    let mut objects = manifest::build(&launch, &pool(), &settings).map_err(anyhow::Error::msg)?;
    // Nobody records its result.
    objects.job.metadata.finalizers = None;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let began = Instant::now();
    secrets.create(&PostParams::default(), &objects.secret).await?;
    jobs.create(&PostParams::default(), &objects.job).await?;
    let (first, finished) = loop {
        let (calls, done) = {
            let seen = stub.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            ([seen.first_prepared, seen.first_start, seen.first_log], seen.finished.is_some())
        };
        if let ([Some(prepared), Some(started), Some(log)], true) = (calls, done) {
            let after = |at: Instant| (at - began).as_secs_f64() * 1000.0;
            break ([prepared, started, log].map(after), ended_pod(client, &launch.name).await?);
        }
        ensure!(began.elapsed() < Duration::from_mins(1), "the pod said nothing within 60 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    jobs.delete(&launch.name, &DeleteParams::background()).await?;
    secrets.delete(&launch.name, &DeleteParams::default()).await?;
    Ok((first, finished))
}

/// How long the init container of an ended Job's pod took, in ms; the kubelet writes whole seconds.
async fn ended_pod(client: &kube::Client, job: &str) -> anyhow::Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let of = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let pod = pods.list(&of).await?.items.pop().context("its pod is gone")?;
    let status = pod.status.and_then(|s| s.init_container_statuses).context("no init container")?;
    let ended = status.into_iter().find_map(|s| s.state?.terminated).context("it did not end")?;
    let (from, to) = (ended.started_at.context("no start")?, ended.finished_at.context("no end")?);
    Ok((to.0.as_millisecond() - from.0.as_millisecond()) as f64)
}

pub fn uuid() -> String {
    let hex: String = (0..4).map(|_| format!("{:08x}", rand::rng().next_u32())).collect();
    format!("{}-{}-7{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// `dispatch.k8s_ms`: pairs side by side, in turn first.
pub async fn dispatch() -> anyhow::Result<Vec<Line>> {
    let cluster = Cluster::up().await?;
    let client = kubernetes::client(&cluster.config()?).await?;
    let more = format!(
        "[executor.kubernetes]\nnamespace = \"{NAMESPACE}\"\nimage = \"{IMAGE}\"\nkubeconfig = {:?}\n\
         [pool.cluster]\nexecutor = \"kubernetes\"\nslots = 8\n\
         kubernetes = {{ image = \"{BUSYBOX}\", default_cpu = \"{CPU}\", default_memory = \"256Mi\" }}\n",
        cluster.get("KUBECONFIG")?
    );
    let yard = Yard::start(&more, Some(cluster.get("HOST")?)).await?;
    let (mut ours, mut bare, mut above, mut init) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut our_stages, mut bare_stages) = (Vec::new(), Vec::new());
    for n in 0..PAIRS {
        let mut hand = None;
        if n % 2 == 1 {
            hand = Some(by_hand(&client, &cluster).await?);
        }
        let pipeline = format!(
            "version: 1\nname: quick\ndefaults: {{pool: cluster}}\nsteps:\n  - name: train\n    commands: ['echo first']\n# {n}\n"
        );
        let told = yard.push(&pipeline).await?;
        yard.until_ended(n as i64 + 1, Duration::from_mins(1)).await?;
        let stored = yard.rows("SELECT MAX(created_ms) FROM log_segments WHERE start_byte = 0", |row| {
            row.get::<_, f64>(0)
        })?;
        let stored = stored.context("no log was stored")?;
        let stages = yard.rows(
            "SELECT intended_ms, submitted_ms, started_ms FROM attempts ORDER BY intended_ms DESC LIMIT 1",
            |row| Ok([row.get::<_, f64>(0)?, row.get(1)?, row.get(2)?]),
        )?;
        our_stages.push(stages.context("no attempt")?.map(|at| at - told));
        let (by_hand, took) = match hand {
            Some(hand) => hand,
            None => by_hand(&client, &cluster).await?,
        };
        ours.push(stored - told);
        bare.push(by_hand[2]);
        above.push(stored - told - by_hand[2]);
        init.push(took);
        bare_stages.push(by_hand);
        // Off the beat of any loop.
        tokio::time::sleep(Duration::from_millis(u64::from(rand::rng().next_u32() % 500))).await;
    }
    let mean = init.iter().sum::<f64>() / init.len() as f64;
    let (ours, bare, above) = (median(ours), median(bare), median(above));
    println!(
        "# {PAIRS} pairs: first byte stored {ours:.0} ms after the 2xx; {bare:.0} ms after the same objects by hand, of which the init \
         container is {mean:.0} ms in the mean; median difference {above:.0} ms"
    );
    let stage = |all: &[[f64; 3]], n: usize| median(all.iter().map(|one| one[n]).collect());
    println!(
        "# medians after the 2xx: attempt decided {:.0} ms, Job made {:.0} ms, step's container called {:.0} ms; by hand: first container \
         called {:.0} ms, the step's {:.0} ms",
        stage(&our_stages, 0),
        stage(&our_stages, 1),
        stage(&our_stages, 2),
        stage(&bare_stages, 0),
        stage(&bare_stages, 1)
    );
    Ok(vec![Line {
        name: "dispatch.k8s_ms",
        value: ours,
        unit: "ms",
        ratio: Some(above / 300.0),
        goal: ("at most 300 ms above the same manifest applied by hand", above <= 300.0),
    }])
}
