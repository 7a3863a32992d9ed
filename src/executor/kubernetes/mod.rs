//! Attempts as Jobs of a Kubernetes cluster.
//!
//! Names are deterministic and every call may be repeated (G4): a create that answers 409, or that was cut off and is sent
//! again, finds the object and compares the attempt's uid. A Job keeps our finalizer until its end is recorded, so nobody
//! sweeps a result away. Watching only wakes runs and keeps a picture that a slow relist renews; what the picture lacks is
//! looked up.
//!
//! Must not: read a Secret, exec into a pod, or touch what does not carry this installation's label.

pub mod access;
pub mod admission;
pub mod busy;
pub mod cleanup;
pub mod manifest;
pub mod observe;
pub mod orphans;
mod picture;
pub mod probe;
pub mod workloads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};

use self::admission::{Names, Standing};
use self::busy::Busy;
use self::manifest::{ANNOTATION_CANCELLED, Cluster, FINALIZER, LABEL_ATTEMPT, POOL};
use self::picture::Picture;
use self::workloads::Workloads;
use super::{Executor, ExecutorError, Launch, Observation};
use crate::clock::{Millis, SharedClock};
use crate::config::{KubernetesConfig, KubernetesPool};
use crate::model::{AttemptUid, EndClass, Held, RunId};

/// One call to the API server. It answers 504 after its own 60 s; whoever waits longer holds up a worker.
const CALL: Duration = Duration::from_secs(30);
/// How long `remove` waits for pods to end before the caller tries again.
const ENDING: Duration = Duration::from_secs(3);
/// How often a Job that changes meanwhile is read and released anew within one visit.
const RELEASES: u32 = 5;

/// What attempts of this executor are called in rows and in the configuration.
pub const NAME: &str = "kubernetes";
const FOREGROUND: &str = "foregroundDeletion";

/// Told which runs to look at.
pub type Wake = Arc<dyn Fn(RunId) + Send + Sync>;

pub struct Kubernetes {
    client: Client,
    cluster: Cluster,
    pools: BTreeMap<String, KubernetesPool>,
    clock: SharedClock,
    jobs: Api<Job>,
    pods: Api<Pod>,
    secrets: Api<Secret>,
    services: Api<Service>,
    policies: Api<NetworkPolicy>,
    events: Api<Event>,
    picture: Picture,
    busy: Option<Busy>,
    workloads: Workloads,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("namespace", &self.cluster.config.namespace)
            .finish_non_exhaustive()
    }
}

/// The daemon's note of an attempt, which callers store.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    job: String,
}

/// Why a call did not succeed.
#[derive(Debug)]
enum Fault {
    /// In the server's words.
    Missing(String),
    Exists,
    /// The object is not any more what the call was based on.
    Changed(String),
    /// The cluster's rules say no: trying again changes nothing.
    Denied(String),
    Passing(String),
    /// No answer at all.
    Away(String),
}

impl From<Fault> for ExecutorError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing(said) if said.starts_with("namespaces ") => Self::Transient(format!(
                "{said}: make the namespace, or correct executor.kubernetes.namespace"
            )),
            Fault::Missing(said) => Self::Transient(said),
            Fault::Exists => Self::Transient("the object exists already".into()),
            Fault::Denied(why) => Self::Denied(why),
            Fault::Changed(why) | Fault::Passing(why) => Self::Transient(why),
            Fault::Away(why) => Self::Away(why),
        }
    }
}

/// Sends one call with a time limit.
async fn call<T>(what: &str, sent: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
    let error = match tokio::time::timeout(CALL, sent).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(Fault::Away(format!("cannot {what}: no answer within {} s", CALL.as_secs())));
        }
    };
    let status = match &error {
        kube::Error::Api(status) => status,
        // It answered, and a part of the answer was lost on the way.
        kube::Error::SerdeError(_) => {
            return Err(Fault::Passing(format!("cannot {what}: {:#}", anyhow::Error::from(error))));
        }
        _ => return Err(Fault::Away(format!("cannot {what}: {:#}", anyhow::Error::from(error)))),
    };
    Err(match status.code {
        404 => Fault::Missing(status.message.clone()),
        409 if status.reason == "AlreadyExists" => Fault::Exists,
        409 if status.reason == "Conflict" => Fault::Changed(format!("cannot {what}: {}", status.message)),
        // Quota says so with 403, a webhook that names no code with 400, a policy with the code of its own reason. A missing permission
        // is 403 too, and heals when an administrator grants it.
        400 | 401 | 403 | 413 if is_rule(&status.message) => {
            Fault::Denied(format!("the cluster refused it: {}", status.message))
        }
        422 => Fault::Denied(format!("the cluster refused it: {}", status.message)),
        401 => Fault::Passing(format!(
            "cannot {what}: the cluster does not accept our credential ({}); renew executor.kubernetes.kubeconfig",
            status.message
        )),
        code => Fault::Passing(format!("cannot {what}: {code} {}", status.message)),
    })
}

fn is_rule(message: &str) -> bool {
    [
        "exceeded quota",
        "failed quota",
        "violates PodSecurity",
        "denied the request",
        "denied request",
        "is being terminated",
        "forbidden: maximum",
        "forbidden: minimum",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// A client that does not retry by itself: a create that was answered 504 may have succeeded, and deciding that is ours.
///
/// # Errors
/// No kubeconfig, or one that cannot be used.
pub async fn client(config: &KubernetesConfig) -> anyhow::Result<Client> {
    use anyhow::Context as _;
    let mut settings = match &config.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("executor.kubernetes.kubeconfig: cannot read {}", path.display()))?;
            let options =
                KubeConfigOptions { context: config.context.clone(), ..KubeConfigOptions::default() };
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| format!("executor.kubernetes.kubeconfig: cannot use {}", path.display()))?
        }
        None => kube::Config::incluster().context(
            "executor.kubernetes: the daemon does not run in a cluster; set executor.kubernetes.kubeconfig",
        )?,
    };
    settings.default_retry = false;
    settings.connect_timeout = Some(Duration::from_secs(10));
    settings.default_namespace.clone_from(&config.namespace);
    Client::try_from(settings).context("cannot set up the client of the cluster")
}

impl Kubernetes {
    pub fn new(
        client: Client,
        cluster: Cluster,
        pools: BTreeMap<String, KubernetesPool>,
        clock: SharedClock,
    ) -> Self {
        let namespace = cluster.config.namespace.clone();
        Self {
            jobs: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client.clone(), &namespace),
            services: Api::namespaced(client.clone(), &namespace),
            policies: Api::namespaced(client.clone(), &namespace),
            events: Api::namespaced(client.clone(), &namespace),
            picture: Picture::default(),
            busy: cluster.config.prometheus.as_deref().and_then(monitor),
            workloads: Workloads::default(),
            client,
            cluster,
            pools,
            clock,
        }
    }

    /// Watches until it is dropped: keeps the picture, wakes the runs of what changes. From this call on, even before the first poll,
    /// whoever observes waits for the first list.
    pub fn watch(self: Arc<Self>, wake: Wake) -> impl Future<Output = ()> + Send {
        self.picture.begins();
        async move {
            let selector = manifest::selector(&self.cluster.instance);
            let (config, wake) = (&self.cluster.config, &*wake);
            let jobs = self.picture.keep(&self.jobs, &self.pods, &selector, config.relist_s, wake);
            if self.pools.values().any(|pool| pool.queue.is_some()) {
                let queues = self.workloads.keep(&self.client, &config.namespace, config.relist_s, wake);
                tokio::join!(jobs, queues);
            } else {
                jobs.await;
            }
        }
    }

    /// What is seen of a Job, with what its queue says where it has one.
    async fn judged(&self, seen: Observation, job: &Job, now: Millis) -> Observation {
        let Some(queue) = admission::queue_of(job)
            .filter(|_| !matches!(seen, Observation::Running | Observation::Withdrawn))
        else {
            return seen;
        };
        let pool = job.annotations().get(POOL).and_then(|name| self.pools.get(name));
        let uid = job.uid().unwrap_or_default();
        let standing = match self.workloads.of(&self.client, &self.cluster.config.namespace, &uid).await {
            Ok(workload) => admission::standing(workload.as_ref(), &Names::of(queue, pool)),
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "a Workload cannot be read");
                Standing::Waits(format!("waiting in {queue}: Kueue's Workloads cannot be read"))
            }
        };
        admission::judge(seen, job, &standing, now)
    }

    /// The attempt's Job, by our note or by its label.
    async fn job(&self, uid: &AttemptUid, handle: &serde_json::Value) -> Result<Option<Job>, ExecutorError> {
        if let Ok(note) = serde_json::from_value::<Note>(handle.clone()) {
            let found = match call("read a Job", self.jobs.get(&note.job)).await {
                Ok(job) => Some(job),
                Err(Fault::Missing(_)) => None,
                Err(fault) => return Err(fault.into()),
            };
            // A name alone proves nothing.
            return Ok(found.filter(|job| job.labels().get(LABEL_ATTEMPT).is_some_and(|l| l == uid.as_str())));
        }
        let by_label = ListParams::default().labels(&format!("{LABEL_ATTEMPT}={uid}"));
        Ok(call("list Jobs", self.jobs.list(&by_label)).await?.items.into_iter().next())
    }

    /// The pods of an attempt that the cluster has now, and those that were seen to end before they went.
    async fn pods(&self, uid: &AttemptUid) -> Result<Vec<Pod>, ExecutorError> {
        let by_label = ListParams::default().labels(&format!("{LABEL_ATTEMPT}={uid}"));
        let mut pods = call("list pods", self.pods.list(&by_label)).await?.items;
        for gone in self.picture.departed(uid.as_str()) {
            if pods.iter().all(|pod| pod.name_any() != gone.name_any()) {
                pods.push(gone);
            }
        }
        Ok(pods)
    }

    /// Events of the Job and its pods, oldest first. They explain why something waits; their lack changes nothing.
    async fn events(&self, job: &Job, pods: &[Pod]) -> Vec<Event> {
        let mut all = Vec::new();
        for uid in pods.iter().filter_map(ResourceExt::uid).chain(job.uid()) {
            let of = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(50);
            match call("list events", self.events.list(&of)).await {
                Ok(list) => all.extend(list.items),
                Err(fault) => tracing::debug!(?fault, "no events"),
            }
        }
        all.sort_by_key(|event| event.last_timestamp.clone().or(event.first_timestamp.clone()).map(|t| t.0));
        all
    }

    /// Makes an object whose content follows from its attempt alone: one that exists is this one.
    async fn create<K>(&self, what: &str, api: &Api<K>, object: &K) -> Result<(), ExecutorError>
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        match call(what, api.create(&PostParams::default(), object)).await {
            Ok(_) | Err(Fault::Exists) => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Deletes that by which the pods of one attempt find and reach each other.
    async fn delete_peers(&self, name: &str) -> Result<(), ExecutorError> {
        self.delete(&self.services, name, PropagationPolicy::Background).await?;
        self.delete(&self.policies, name, PropagationPolicy::Background).await
    }

    async fn delete<K>(&self, api: &Api<K>, name: &str, how: PropagationPolicy) -> Result<(), ExecutorError>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let params = DeleteParams { propagation_policy: Some(how), ..DeleteParams::default() };
        match call("delete an object", api.delete(name, &params)).await {
            Ok(_) | Err(Fault::Missing(_)) => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }
}

#[async_trait]
impl Executor for Kubernetes {
    async fn submit(&self, launch: &Launch) -> Result<serde_json::Value, ExecutorError> {
        let note = serde_json::to_value(Note { job: launch.name.clone() })
            .map_err(|e| ExecutorError::Transient(e.to_string()))?;
        let pool = self.pools.get(&launch.pool).ok_or_else(|| {
            ExecutorError::Refused(format!(
                "pool `{}` is not configured for Kubernetes any more",
                launch.pool
            ))
        })?;
        let objects = manifest::build(launch, pool, &self.cluster).map_err(ExecutorError::Refused)?;
        let params = PostParams::default();
        self.create("create a Secret", &self.secrets, &objects.secret).await?;
        // Before the pods that need them: who comes first looks for the others at once.
        if let Some(service) = &objects.service {
            self.create("create a Service", &self.services, service).await?;
        }
        if let Some(policy) = &objects.policy {
            self.create("create a NetworkPolicy", &self.policies, policy).await?;
        }
        crate::failpoint::hit("kubernetes.job.before");
        match call("create a Job", self.jobs.create(&params, &objects.job)).await {
            Ok(made) => self.picture.made(made),
            Err(Fault::Exists) => {
                let found = call("read a Job", self.jobs.get(&launch.name)).await?;
                let owner = found.labels().get(LABEL_ATTEMPT);
                if owner.is_none_or(|uid| uid != launch.uid.as_str()) {
                    return Err(ExecutorError::Refused(format!(
                        "the Job {} belongs to another attempt ({})",
                        launch.name,
                        owner.map_or("without a uid", String::as_str)
                    )));
                }
            }
            Err(fault) => return Err(fault.into()),
        }
        crate::failpoint::hit("kubernetes.job.after");
        Ok(note)
    }

    async fn observe(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<Observation, ExecutorError> {
        let now = self.clock.now_ms();
        self.picture.listed().await;
        let (mut job, mut pods) = match self.picture.of(uid.as_str()) {
            Some(seen) => seen,
            None => match self.job(uid, handle).await? {
                None => return Ok(Observation::Unknown),
                Some(job) => (job, self.pods(uid).await?),
            },
        };
        let mut first = observe::read(Some(&job), &pods, &[], now);
        // The two halves of the picture come by two watches: a Job may be known before its pod, which is not lost then, and the end
        // of a pod before what was done to its Job (suspended, deleted, over its deadline), which explains it.
        let by_hand = matches!(first, Observation::Gone { class: EndClass::Cancelled, .. })
            && !job.annotations().contains_key(ANNOTATION_CANCELLED);
        if by_hand || pods.is_empty() && matches!(first, Observation::Gone { .. }) {
            let Some(fresh) = self.job(uid, handle).await? else { return Ok(Observation::Unknown) };
            (job, pods) = (fresh, self.pods(uid).await?);
            first = observe::read(Some(&job), &pods, &[], now);
        }
        let first = self.judged(first, &job, now).await;
        // Of what waits in a queue the events say nothing more. They say why no node takes it, and since when it fails to start.
        let unclear = matches!(first, Observation::Pending { .. })
            && job.spec.as_ref().is_none_or(|spec| spec.suspend != Some(true))
            && (!pods.iter().any(|pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()))
                || pods.iter().any(observe::fails_to_start));
        if !unclear {
            return Ok(first);
        }
        let events = self.events(&job, &pods).await;
        Ok(self.judged(observe::read(Some(&job), &pods, &events, now), &job, now).await)
    }

    async fn cancel(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
        _grace_ms: i64,
    ) -> Result<(), ExecutorError> {
        let Some(job) = self.job(uid, handle).await? else { return Ok(()) };
        let name = job.name_any();
        let going = job.metadata.deletion_timestamp.is_some();
        if going && job.finalizers().iter().any(|f| f == FOREGROUND) {
            return Ok(());
        }
        if !going && !job.annotations().contains_key(ANNOTATION_CANCELLED) {
            // Written down first, so that the end of its pod is known as ours. One that someone else has deleted stays theirs.
            let mark = serde_json::json!({"metadata": {"annotations": {ANNOTATION_CANCELLED: "true"}}});
            match call("mark a Job", self.jobs.patch(&name, &PatchParams::default(), &Patch::Merge(&mark)))
                .await
            {
                Ok(_) => {}
                Err(Fault::Missing(_)) => return Ok(()),
                Err(fault) => return Err(fault.into()),
            }
        }
        // Our finalizer keeps the Job while its pods are ended with their grace.
        self.delete(&self.jobs, &name, PropagationPolicy::Foreground).await
    }

    async fn held(&self, uid: &AttemptUid) -> Option<Held> {
        let (_, pods) = self.picture.of(uid.as_str())?;
        let held = observe::held(&pods, self.clock.now_ms())?;
        let gpu_busy = match &self.busy {
            Some(busy) if pods.iter().any(holds_devices) => {
                let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
                busy.of(&self.cluster.config.namespace, &names, held).await
            }
            _ => None,
        };
        Some(Held { gpu_busy, ..held })
    }

    async fn remove(
        &self,
        name: &str,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<(), ExecutorError> {
        let Some(job) = self.job(uid, handle).await? else {
            // They may be there without their Job: made, and then nothing more.
            self.delete_peers(name).await?;
            return self.delete(&self.secrets, name, PropagationPolicy::Background).await;
        };
        let name = job.name_any();
        if job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1) > 1 {
            self.delete_peers(&name).await?;
        }
        self.delete(&self.secrets, &name, PropagationPolicy::Background).await?;
        // Again where someone else's deletion left its pods alone.
        if job.metadata.deletion_timestamp.is_none() || !job.finalizers().iter().any(|f| f == FOREGROUND) {
            self.delete(&self.jobs, &name, PropagationPolicy::Foreground).await?;
        }
        let until = tokio::time::Instant::now() + ENDING;
        while self.pods(uid).await?.iter().any(|pod| !observe::ended(pod)) {
            if tokio::time::Instant::now() >= until {
                return Err(ExecutorError::Transient(format!("the pod of Job {name} is still ending")));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        // By what it is now: another controller may have put a finalizer of its own on it, or be writing to it just then.
        let mut tries = 0;
        loop {
            let Some(job) = self.job(uid, handle).await? else { break };
            let kept: Vec<&String> =
                job.finalizers().iter().filter(|f| *f != FINALIZER && *f != FOREGROUND).collect();
            let without = serde_json::json!({"metadata": {"finalizers": kept, "resourceVersion": job.resource_version()}});
            let patch = Patch::Merge(&without);
            match call("release a Job", self.jobs.patch(&name, &PatchParams::default(), &patch)).await {
                Ok(_) | Err(Fault::Missing(_)) => break,
                Err(Fault::Changed(_)) if tries < RELEASES => tries += 1,
                Err(fault) => return Err(fault.into()),
            }
        }
        self.picture.forget(uid.as_str());
        Ok(())
    }
}

fn monitor(url: &str) -> Option<Busy> {
    Busy::new(url).inspect_err(|error| tracing::warn!(%error, "how busy GPUs are cannot be asked")).ok()
}

/// Does any container of it hold a device? Their names, unlike `cpu` and `memory`, have a domain.
fn holds_devices(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.filter_map(|one| one.resources.as_ref()?.limits.as_ref());
    limits.flat_map(|limits| limits.keys()).any(|name| name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(code: u16, reason: &str, message: &str) -> ExecutorError {
        let status =
            serde_json::json!({"status": "Failure", "code": code, "reason": reason, "message": message});
        let error = kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()));
        call("create a Job", async { Err::<(), _>(error) }).await.unwrap_err().into()
    }

    /// Messages as the API server, its admission plugins and Kyverno make them.
    #[tokio::test]
    async fn rules_of_the_cluster_are_final_and_a_missing_namespace_says_what_to_do() {
        let webhook = r#"admission webhook "validate.kyverno.svc-fail" denied the request: policy Job/x: no"#;
        let policy = "jobs.batch \"ty-x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";
        for (code, reason, message) in [
            (400, "", webhook),
            (403, "Forbidden", webhook),
            (403, "Forbidden", policy),
            (401, "Unauthorized", policy),
            (422, "Invalid", policy),
            (
                403,
                "Forbidden",
                "pods \"x\" is forbidden: failed quota: q: must specify limits.ephemeral-storage",
            ),
            (403, "Forbidden", "pods \"x\" is forbidden: exceeded quota: q"),
        ] {
            match answered(code, reason, message).await {
                ExecutorError::Denied(why) => assert!(why.contains(message), "{why}"),
                other => panic!("{code} {message}: {other:?}"),
            }
        }
        for (code, reason, message, want) in [
            (
                404,
                "NotFound",
                "namespaces \"runs\" not found",
                "namespaces \"runs\" not found: make the namespace",
            ),
            (
                403,
                "Forbidden",
                "jobs.batch is forbidden: User \"x\" cannot create resource",
                "cannot create resource",
            ),
            (400, "BadRequest", "the body is not JSON", "400 the body is not JSON"),
            (401, "Unauthorized", "Unauthorized", "does not accept our credential"),
        ] {
            match answered(code, reason, message).await {
                ExecutorError::Transient(why) => assert!(why.contains(want), "{why}"),
                other => panic!("{code} {message}: {other:?}"),
            }
        }
    }
}
