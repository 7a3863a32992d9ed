//! The cluster that attempts run in, and where in it a pool's pods go. Administrators write this; pipelines name pools and
//! amounts, nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, refuse};

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Where Jobs are made. Nothing else of value should live in it: who may make pods there can use its Secrets.
    pub namespace: String,
    /// The trainyard image: its init container brings the agent and the source into each pod.
    pub image: String,
    /// Whose the objects there are, as `app.kubernetes.io/instance` says on each. Default: this installation's own id.
    #[serde(default)]
    pub installation: Option<String>,
    /// Base URL of the agent listener as pods reach it. Default: `https://<listen.agent>`.
    #[serde(default)]
    pub agent_url: Option<String>,
    /// Default: the service account of the daemon's own pod.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    #[serde(default)]
    pub context: Option<String>,
    /// Names of Secrets in the namespace, for the trainyard image; they are in every pod, so let them read nothing else.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// Between two looks at everything, in seconds; watching is quicker, but only a hint.
    #[serde(default = "relist_s")]
    pub relist_s: u32,
    /// Base URL of a Prometheus that scrapes NVIDIA's DCGM exporter: reports then say how idle a step's GPUs were.
    #[serde(default)]
    pub prometheus: Option<String>,
}

fn relist_s() -> u32 {
    60
}

/// Where a pool's pods go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesPool {
    /// Labels and tolerations that a cloud's GPU nodes need; what is written below comes on top.
    pub preset: Option<Preset>,
    /// The GPU's name as the preset's cloud spells it, e.g. `nvidia-l4` (GKE), `a10g` (Karpenter).
    pub accelerator: Option<String>,
    /// Nodes that the cloud may take back.
    pub spot: bool,
    pub selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub runtime_class: Option<String>,
    pub priority_class: Option<String>,
    /// Resource name of one GPU, e.g. `nvidia.com/mig-1g.10gb` or `amd.com/gpu`.
    pub gpu_resource: String,
    /// GPUs of the largest node: a step that asks for more in one pod is refused. 0: unknown.
    pub node_gpus: u32,
    /// Image of steps that name none.
    pub image: Option<String>,
    pub image_pull_secrets: Vec<String>,
    /// A Kueue `LocalQueue` in the namespace.
    pub queue: Option<String>,
    /// What a step gets that asks for no amount, as Kubernetes writes quantities.
    pub default_cpu: String,
    pub default_memory: String,
    /// Of the node's disk. None: not bounded, and not asked for.
    pub default_disk: Option<String>,
    /// The most that one pod of a step may ask for. None: whatever the cluster has.
    pub max_cpu: Option<String>,
    pub max_memory: Option<String>,
    /// `image_pull_secrets` of the pool go into pods of untrusted runs too, whose head names the image.
    pub untrusted_pull_secrets: bool,
}

impl Default for KubernetesPool {
    fn default() -> Self {
        Self {
            preset: None,
            accelerator: None,
            spot: false,
            selector: BTreeMap::new(),
            tolerations: Vec::new(),
            runtime_class: None,
            priority_class: None,
            gpu_resource: "nvidia.com/gpu".into(),
            node_gpus: 0,
            image: None,
            image_pull_secrets: Vec::new(),
            queue: None,
            default_cpu: "1".into(),
            default_memory: "2Gi".into(),
            default_disk: None,
            max_cpu: None,
            max_memory: None,
            untrusted_pull_secrets: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    Gke,
    /// EKS and other clusters with Karpenter.
    Karpenter,
    Aks,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    pub key: String,
    /// None: any value.
    #[serde(default)]
    pub value: Option<String>,
    /// None: every effect.
    #[serde(default)]
    pub effect: Option<String>,
}

impl KubernetesConfig {
    /// Of a namespace alone, for what makes no pods: with the account of the pod that it runs in.
    pub fn of(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            image: String::new(),
            installation: None,
            agent_url: None,
            kubeconfig: None,
            context: None,
            image_pull_secrets: Vec::new(),
            relist_s: relist_s(),
            prometheus: None,
        }
    }

    pub(super) fn check(&self, agents: SocketAddr) -> Result<(), ConfigError> {
        if !dns_label(&self.namespace) {
            return refuse(format!(
                "executor.kubernetes.namespace {:?} is not the name of a namespace (lower-case letters, digits and `-`)",
                self.namespace
            ));
        }
        if self.image.trim().is_empty() {
            return refuse(
                "executor.kubernetes.image is empty; name the trainyard image that pods start with",
            );
        }
        if self.installation.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return refuse(
                "executor.kubernetes.installation is empty; leave it out, or give it a name of its own",
            );
        }
        if let Some(url) = &self.agent_url
            && !url.starts_with("https://")
        {
            return refuse(format!(
                "executor.kubernetes.agent_url {url:?} must start with https://: tokens and sources travel there"
            ));
        }
        if let Some(url) = &self.prometheus
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return refuse(format!(
                "executor.kubernetes.prometheus {url:?} must start with http:// or https://, e.g. http://prometheus.monitoring.svc:9090"
            ));
        }
        if agents.ip().is_loopback() {
            return refuse(format!(
                "pods cannot reach listen.agent {agents}, a loopback address; set it to 0.0.0.0:{} and executor.kubernetes.agent_url \
                 to its address in the cluster",
                agents.port()
            ));
        }
        if self.agent_url.is_none() && agents.ip().is_unspecified() {
            return refuse(format!(
                "listen.agent {agents} names no address that pods could call; set executor.kubernetes.agent_url, e.g. \
                 \"https://trainyard-agents.trainyard.svc:{}\"",
                agents.port()
            ));
        }
        if self.relist_s == 0 {
            return refuse("executor.kubernetes.relist_s is 0; it must be 1 or more");
        }
        Ok(())
    }
}

impl KubernetesPool {
    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        let given = [
            ("default_cpu", Some(&self.default_cpu)),
            ("default_memory", Some(&self.default_memory)),
            ("default_disk", self.default_disk.as_ref()),
            ("max_cpu", self.max_cpu.as_ref()),
            ("max_memory", self.max_memory.as_ref()),
        ];
        for (key, value) in given.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
                return refuse(format!(
                    "pool {name}: kubernetes.{key} {value:?} is not an amount such as \"2\" or \"4Gi\""
                ));
            }
        }
        if self.gpu_resource.is_empty() || !self.gpu_resource.contains('/') {
            return refuse(format!(
                "pool {name}: kubernetes.gpu_resource {:?} is not a resource name such as \"nvidia.com/gpu\"",
                self.gpu_resource
            ));
        }
        if self.accelerator.is_some() && self.preset.is_none() {
            return refuse(format!(
                "pool {name}: kubernetes.accelerator needs a preset that says how the cloud labels it; or write the label under kubernetes.selector"
            ));
        }
        for toleration in &self.tolerations {
            if let Some(effect) = &toleration.effect
                && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect.as_str())
            {
                return refuse(format!(
                    "pool {name}: the toleration of {:?} has the effect {effect:?}; there are NoSchedule, PreferNoSchedule and NoExecute",
                    toleration.key
                ));
            }
        }
        Ok(())
    }
}

fn dns_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}
