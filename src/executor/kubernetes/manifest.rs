//! From a typed step to its Secret and Job: a pure function, an allow-list written out. What a repository says reaches a pod
//! as an image's name and amounts, never as a part of its specification.
//!
//! Must not: take a pod spec, a patch, a label or a volume from outside.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, LocalObjectReference,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    Secret, SecretVolumeSource, SecurityContext, Service, ServicePort, ServiceSpec, Toleration, Volume,
    VolumeMount,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::super::Launch;
use crate::agent::protocol::{Bootstrap, PROTOCOL};
use crate::config::{KubernetesConfig, KubernetesPool, Preset};
use crate::model::{LEADER, RunId};
use crate::pipeline::{cpu_milli, size_bytes};

/// The selector of everything that any trainyard made.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=trainyard";
/// Whose an object is, by a name that whoever installed trainyard knows.
pub const LABEL_INSTALLATION: &str = "app.kubernetes.io/instance";
pub const LABEL_INSTANCE: &str = "trainyard.dev/instance";
pub const LABEL_ATTEMPT: &str = "trainyard.dev/attempt-uid";
pub const LABEL_RUN: &str = "trainyard.dev/run-id";
/// `true` on pods of attempts of several: the chart's policies let those dial each other.
const LABEL_DISTRIBUTED: &str = "trainyard.dev/distributed";
/// By which Kueue knows that a Job is its to start, and of which `LocalQueue`.
pub const LABEL_QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// The pool, as an annotation; as a label too, which cannot hold every name.
pub const POOL: &str = "trainyard.dev/pool";
/// By which an Indexed Job numbers its pods (<https://kubernetes.io/docs/reference/labels-annotations-taints>).
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub const ANNOTATION_CANCELLED: &str = "trainyard.dev/cancelled";
/// Keeps a Job from being swept away before its result is recorded.
pub const FINALIZER: &str = "trainyard.dev/result-recorded";
/// The container that runs the step, and the one that prepares.
pub const STEP: &str = "step";
pub const PREPARE: &str = "prepare";
const WORK: &str = "/trainyard";
const BOOTSTRAP_DIR: &str = "/bootstrap";
const USER: i64 = 1000;
/// Rendezvous of torchrun (its own default port).
const RENDEZVOUS: i32 = 29400;
/// After the step's time limit and grace: uploads of logs and artifacts.
const FAREWELL_S: i64 = 120;

/// What is the same for every attempt of this daemon.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub config: KubernetesConfig,
    /// Of the installation: part of the labels by which its objects are found.
    pub instance: String,
    /// Base URL of the agent listener as pods reach it.
    pub agent_url: String,
    pub grace_s: i64,
    pub pending_timeout_s: i64,
}

impl Cluster {
    /// The name by which [`selector_of`] finds its objects.
    fn installation(&self) -> &str {
        self.config.installation.as_deref().unwrap_or(&self.instance)
    }
}

/// What stands for one attempt in the cluster. All have the same name.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    pub secret: Secret,
    pub job: Job,
    /// Only where several pods must find and reach each other.
    pub service: Option<Service>,
    pub policy: Option<NetworkPolicy>,
}

/// Builds the objects of an attempt.
///
/// # Errors
/// Why this pool does not take the step: one sentence for the person who wrote the pipeline.
pub fn build(launch: &Launch, pool: &KubernetesPool, cluster: &Cluster) -> Result<Objects, String> {
    let spec = &launch.spec;
    let image = admit(launch, pool, cluster)?;
    let workers = i32::try_from(spec.workers.max(1)).map_err(|_| "too many workers".to_owned())?;
    let labels = labels(launch, cluster);
    let meta = |finalizers: Option<Vec<String>>| ObjectMeta {
        name: Some(launch.name.clone()),
        namespace: Some(cluster.config.namespace.clone()),
        labels: Some(labels.clone()),
        annotations: Some(BTreeMap::from([
            ("trainyard.dev/step".to_owned(), spec.name.clone()),
            ("trainyard.dev/pipeline".to_owned(), launch.pipeline.clone()),
            (POOL.to_owned(), launch.pool.clone()),
        ])),
        finalizers,
        ..ObjectMeta::default()
    };
    let bootstrap = Bootstrap {
        protocol: PROTOCOL,
        url: cluster.agent_url.clone(),
        uid: launch.uid.to_string(),
        token: launch.bootstrap.expose_secret().to_owned(),
        dir: WORK.into(),
        ca: launch.agent_ca.clone(),
        ranks: spec.workers.max(1),
        rank: LEADER,
        prepared: None,
        probe: launch.probe,
    };
    let bytes = serde_json::to_vec(&bootstrap).map_err(|e| e.to_string())?;
    let secret = Secret {
        metadata: meta(None),
        immutable: Some(true),
        type_: Some("trainyard.dev/bootstrap".into()),
        data: Some(BTreeMap::from([("bootstrap.json".to_owned(), ByteString(bytes))])),
        ..Secret::default()
    };
    let timeout_s = spec.timeout_ms / 1000;
    let job = Job {
        metadata: {
            let mut meta = meta(Some(vec![FINALIZER.into()]));
            if let (Some(queue), Some(labels)) = (&pool.queue, &mut meta.labels) {
                labels.insert(LABEL_QUEUE.into(), queue.clone());
            }
            meta
        },
        spec: Some(JobSpec {
            active_deadline_seconds: Some(
                cluster.pending_timeout_s + timeout_s + cluster.grace_s + FAREWELL_S,
            ),
            backoff_limit: Some(0),
            completion_mode: Some(if workers > 1 { "Indexed" } else { "NonIndexed" }.into()),
            completions: Some(workers),
            parallelism: Some(workers),
            pod_replacement_policy: Some("Failed".into()),
            // A pod that the cluster took away ends the Job too: the next try is an attempt of its own, with a name of its own.
            pod_failure_policy: Some(PodFailurePolicy {
                rules: vec![PodFailurePolicyRule {
                    action: "FailJob".into(),
                    on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                        status: "True".into(),
                        type_: "DisruptionTarget".into(),
                    }]),
                    ..PodFailurePolicyRule::default()
                }],
            }),
            suspend: Some(pool.queue.is_some()),
            ttl_seconds_after_finished: Some(24 * 3600),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels.clone()),
                    annotations: Some(keep_the_node()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(launch, pool, cluster, &image, workers)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    };
    let service = (workers > 1).then(|| Service {
        metadata: meta(None),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(BTreeMap::from([(LABEL_ATTEMPT.to_owned(), launch.uid.to_string())])),
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort {
                name: Some("rendezvous".into()),
                port: RENDEZVOUS,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    });
    // Its pods take connections from each other and from nobody else. What they may dial is for the policies of the namespace to
    // say: a rule of ours would shut them off from everything that it does not name.
    let own = || LabelSelector {
        match_labels: Some(BTreeMap::from([(LABEL_ATTEMPT.to_owned(), launch.uid.to_string())])),
        ..LabelSelector::default()
    };
    let policy = (workers > 1).then(|| NetworkPolicy {
        metadata: meta(None),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(own()),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![NetworkPolicyPeer {
                    pod_selector: Some(own()),
                    ..NetworkPolicyPeer::default()
                }]),
                ..NetworkPolicyIngressRule::default()
            }]),
            ..NetworkPolicySpec::default()
        }),
    });
    Ok(Objects { secret, job, service, policy })
}

/// The image to run, or why the pool does not take the step.
fn admit(launch: &Launch, pool: &KubernetesPool, cluster: &Cluster) -> Result<String, String> {
    let (spec, name) = (&launch.spec, &launch.pool);
    // The data step is ours: it needs nothing of the user's image.
    let own = (!spec.data.is_empty()).then_some(&cluster.config.image);
    let image = own.or(spec.image.as_ref()).or(pool.image.as_ref()).ok_or_else(|| {
        format!("pool `{name}` runs containers and the step names no image: add `image:` to the step, or to `defaults:`")
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if image.is_empty()
        || image.len() > 512
        || !image.chars().all(plain)
        || !image.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(format!("{image:?} is not the name of an image, such as `python:3.12-slim`"));
    }
    if pool.node_gpus > 0 && spec.resources.gpu > pool.node_gpus {
        return Err(format!(
            "the step asks for {} GPUs in one pod and the largest node of pool `{name}` has {}",
            spec.resources.gpu, pool.node_gpus
        ));
    }
    if let (Some(shm), Some(memory)) = (spec.resources.shm_bytes, spec.resources.memory_bytes)
        && shm >= memory
    {
        return Err(format!(
            "shm ({shm} bytes) counts against memory ({memory} bytes) and leaves nothing for the step: ask for more memory"
        ));
    }
    let amounts = [spec.resources.cpu_milli, spec.resources.memory_bytes, spec.resources.disk_bytes];
    if amounts.into_iter().flatten().any(|amount| amount <= 0) {
        return Err("cpu, memory and disk must be more than 0".into());
    }
    let bound = |key: &str, most: &Option<String>, read: fn(&str) -> Result<i64, String>| {
        let read = |most: &String| {
            read(most).map_err(|why| format!("pool `{name}`: kubernetes.{key} {most:?}: {why}"))
        };
        most.as_ref().map(read).transpose()
    };
    if let (Some(asked), Some(most)) = (spec.resources.cpu_milli, bound("max_cpu", &pool.max_cpu, cpu_milli)?)
        && asked > most
    {
        let cores = |milli: i64| milli as f64 / 1000.0;
        return Err(format!(
            "the step asks for {} cores and pool `{name}` gives {} to a pod: ask for fewer, or name another `pool`",
            cores(asked),
            cores(most)
        ));
    }
    if let (Some(asked), Some(most)) =
        (spec.resources.memory_bytes, bound("max_memory", &pool.max_memory, size_bytes)?)
        && asked > most
    {
        return Err(format!(
            "the step asks for {asked} bytes of memory and pool `{name}` gives a pod {}: ask for less, or name another `pool`",
            pool.max_memory.as_deref().unwrap_or_default()
        ));
    }
    Ok(image.clone())
}

fn labels(launch: &Launch, cluster: &Cluster) -> BTreeMap<String, String> {
    let several = (launch.spec.workers > 1).then(|| (LABEL_DISTRIBUTED.to_owned(), "true".to_owned()));
    let all = BTreeMap::from(
        [
            ("app.kubernetes.io/name", "trainyard-run".to_owned()),
            ("app.kubernetes.io/part-of", "trainyard".to_owned()),
            ("app.kubernetes.io/managed-by", "trainyard".to_owned()),
            (LABEL_INSTALLATION, label_value(cluster.installation())),
            (LABEL_INSTANCE, cluster.instance.clone()),
            (LABEL_ATTEMPT, launch.uid.to_string()),
            (LABEL_RUN, launch.run.to_string()),
            ("trainyard.dev/attempt", launch.number.to_string()),
            (POOL, label_value(&launch.pool)),
            ("trainyard.dev/step", label_value(&launch.spec.base)),
            ("trainyard.dev/trusted", launch.trusted.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    all.into_iter().chain(several).collect()
}

/// The text itself where a label can hold it, else a digest of it (63 characters of letters, digits, `-`, `_` and `.`).
pub fn label_value(text: &str) -> String {
    let plain = text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric());
    if plain { text.to_owned() } else { format!("h-{}", &hex::encode(Sha256::digest(text))[..16]) }
}

/// Autoscalers leave a node alone while such a pod runs on it.
fn keep_the_node() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(), "false".to_owned()),
        ("karpenter.sh/do-not-disrupt".to_owned(), "true".to_owned()),
    ])
}

fn pod(launch: &Launch, pool: &KubernetesPool, cluster: &Cluster, image: &str, workers: i32) -> PodSpec {
    let resources = &launch.spec.resources;
    let amount = |text: String| Quantity(text);
    let cpu = resources.cpu_milli.map_or_else(|| pool.default_cpu.clone(), |milli| format!("{milli}m"));
    let memory =
        resources.memory_bytes.map_or_else(|| pool.default_memory.clone(), |bytes| bytes.to_string());
    // Limits only: requests follow them, so a training is not the first to be put out.
    let mut base = BTreeMap::from([("cpu".to_owned(), amount(cpu)), ("memory".to_owned(), amount(memory))]);
    // What both containers write counts together, and most of it lies in the workspace.
    let disk = resources.disk_bytes.map(|bytes| bytes.to_string()).or_else(|| pool.default_disk.clone());
    if let Some(disk) = &disk {
        base.insert("ephemeral-storage".to_owned(), amount(disk.clone()));
    }
    let mut limits = base.clone();
    if resources.gpu > 0 {
        limits.insert(pool.gpu_resource.clone(), amount(resources.gpu.to_string()));
    }
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only,
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("work", WORK, None)];
    let mut volumes = vec![
        Volume {
            name: "work".into(),
            empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: disk.map(amount) }),
            ..Volume::default()
        },
        Volume {
            name: "bootstrap".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(launch.name.clone()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if let Some(bytes) = resources.shm_bytes {
        mounts.push(mount("shm", "/dev/shm", None));
        volumes.push(Volume {
            name: "shm".into(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".into()),
                size_limit: Some(amount(bytes.to_string())),
            }),
            ..Volume::default()
        });
    }
    let locked = || SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        privileged: Some(false),
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    };
    let prepare = Container {
        name: PREPARE.into(),
        image: Some(cluster.config.image.clone()),
        command: Some(
            [
                "/usr/local/bin/trainyard",
                "agent",
                "--bootstrap",
                "/bootstrap/bootstrap.json",
                "--prepare",
                WORK,
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        env: (workers > 1).then(|| vec![rank("TRAINYARD_RANK")]),
        // A pod's request is the larger of this and the step's, so it costs nothing.
        resources: Some(ResourceRequirements { limits: Some(base), ..ResourceRequirements::default() }),
        security_context: Some(locked()),
        volume_mounts: Some(vec![mount("work", WORK, None), mount("bootstrap", BOOTSTRAP_DIR, Some(true))]),
        working_dir: Some(WORK.into()),
        ..Container::default()
    };
    let step = Container {
        name: STEP.into(),
        image: Some(image.to_owned()),
        command: Some(
            ["/trainyard/bin/trainyard", "agent", "--bootstrap", "/trainyard/bootstrap.json"]
                .map(str::to_owned)
                .to_vec(),
        ),
        args: Some(Vec::new()),
        env: (workers > 1).then(|| rendezvous(launch, workers)),
        ports: (workers > 1).then(|| {
            vec![ContainerPort {
                name: Some("rendezvous".into()),
                container_port: RENDEZVOUS,
                ..ContainerPort::default()
            }]
        }),
        resources: Some(ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() }),
        security_context: Some(locked()),
        volume_mounts: Some(mounts),
        working_dir: Some(WORK.into()),
        ..Container::default()
    };
    let mut pull: Vec<String> = cluster.config.image_pull_secrets.clone();
    // An untrusted head names the image: with the pool's credential it could read any that this may pull.
    if launch.trusted || pool.untrusted_pull_secrets {
        let new = |name: &&String| !cluster.config.image_pull_secrets.contains(name);
        pull.extend(pool.image_pull_secrets.iter().filter(new).cloned());
    }
    let references: Vec<_> = pull.into_iter().map(|name| LocalObjectReference { name }).collect();
    let (selector, tolerations) = place(pool, resources.gpu > 0);
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        containers: vec![step],
        init_containers: Some(vec![prepare]),
        image_pull_secrets: (!references.is_empty()).then_some(references),
        node_selector: (!selector.is_empty()).then_some(selector),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        priority_class_name: pool.priority_class.clone(),
        runtime_class_name: pool.runtime_class.clone(),
        restart_policy: Some("Never".into()),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        subdomain: (workers > 1).then(|| launch.name.clone()),
        // The step's own grace, and a little for the last log and the result.
        termination_grace_period_seconds: Some(cluster.grace_s + 30),
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// A variable that holds the pod's own rank.
fn rank(name: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.annotations['{COMPLETION_INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    }
}

/// The environment by which `torchrun` and what speaks its language find each other.
fn rendezvous(launch: &Launch, workers: i32) -> Vec<EnvVar> {
    let set = |name: &str, value: String| EnvVar { name: name.into(), value: Some(value), value_from: None };
    vec![
        set("PET_NNODES", workers.to_string()),
        set("PET_NPROC_PER_NODE", launch.spec.resources.gpu.max(1).to_string()),
        set("PET_MASTER_ADDR", format!("{}-0.{}", launch.name, launch.name)),
        set("PET_MASTER_PORT", RENDEZVOUS.to_string()),
        rank("PET_NODE_RANK"),
        rank("TRAINYARD_RANK"),
    ]
}

/// Selector and tolerations of a pool: its preset's, then its own.
fn place(pool: &KubernetesPool, gpu: bool) -> (BTreeMap<String, String>, Vec<Toleration>) {
    let mut selector = BTreeMap::new();
    let mut tolerations = Vec::new();
    let tolerate = |key: &str, value: Option<&str>, effect: Option<&str>| Toleration {
        key: Some(key.into()),
        operator: Some(if value.is_some() { "Equal" } else { "Exists" }.into()),
        value: value.map(str::to_owned),
        effect: effect.map(str::to_owned),
        toleration_seconds: None,
    };
    if gpu {
        // Managed GPU nodes are tainted so; not every cloud adds the toleration by itself.
        tolerations.push(tolerate("nvidia.com/gpu", None, Some("NoSchedule")));
    }
    let mut select = |key: &str, value: &str| selector.insert(key.to_owned(), value.to_owned());
    match pool.preset {
        None => {}
        Some(Preset::Gke) => {
            if let Some(gpu) = &pool.accelerator {
                select("cloud.google.com/gke-accelerator", gpu);
            }
            if pool.spot {
                select("cloud.google.com/gke-spot", "true");
                tolerations.push(tolerate("cloud.google.com/gke-spot", Some("true"), Some("NoSchedule")));
            }
        }
        Some(Preset::Karpenter) => {
            if let Some(gpu) = &pool.accelerator {
                select("karpenter.k8s.aws/instance-gpu-name", gpu);
            }
            select("karpenter.sh/capacity-type", if pool.spot { "spot" } else { "on-demand" });
        }
        Some(Preset::Aks) => {
            if let Some(gpu) = &pool.accelerator {
                select("kubernetes.azure.com/accelerator", gpu);
            }
            if pool.spot {
                select("kubernetes.azure.com/scalesetpriority", "spot");
                tolerations.push(tolerate(
                    "kubernetes.azure.com/scalesetpriority",
                    Some("spot"),
                    Some("NoSchedule"),
                ));
            }
        }
    }
    selector.extend(pool.selector.clone());
    for own in &pool.tolerations {
        tolerations.push(tolerate(&own.key, own.value.as_deref(), own.effect.as_deref()));
    }
    (selector, tolerations)
}

/// The selector of all that this installation has in its namespace.
pub fn selector(instance: &str) -> String {
    format!("{LABEL_INSTANCE}={instance}")
}

/// The selector of all that an installation has in a namespace, by its name; without one, of all that any trainyard has there.
pub fn selector_of(installation: Option<&str>) -> String {
    installation.map_or_else(
        || MANAGED.to_owned(),
        |name| format!("{MANAGED},{LABEL_INSTALLATION}={}", label_value(name)),
    )
}

/// The run that an object belongs to.
pub fn run_of(labels: Option<&BTreeMap<String, String>>) -> Option<RunId> {
    labels?.get(LABEL_RUN).map(|id| RunId::from_text(id.as_str()))
}
