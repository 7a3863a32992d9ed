//! What this process last saw of Kueue's Workloads: the version of their API is asked of the cluster, they are listed anew from time to
//! time and watched in between. Only where a pool names a queue; without them a Job waits as well, with a plainer sentence.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, ListParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};

use super::admission::Workload;
use super::manifest::run_of;
use super::picture::{CALL, SHORT, everything};
use super::{ExecutorError, call};
use crate::model::RunId;

/// Kueue's API group.
pub const GROUP: &str = "kueue.x-k8s.io";
/// On each Workload: the uid of the Job that it stands for.
const LABEL_JOB: &str = "kueue.x-k8s.io/job-uid";
/// How long a cluster that does not serve Workloads is not asked for them again: every Job that waits would.
const UNSERVED: Duration = Duration::from_secs(10);

/// The version of a kind of Kueue's that the cluster serves and prefers.
///
/// # Errors
/// The cluster does not answer, or serves no such kind.
pub async fn served(client: &Client, kind: &str) -> anyhow::Result<ApiResource> {
    let group = tokio::time::timeout(CALL, kube::discovery::group(client, GROUP)).await??;
    let found = group.recommended_kind(kind).map(|(resource, _)| resource);
    found.ok_or_else(|| anyhow::anyhow!("{GROUP} is served without {kind}"))
}

#[derive(Default)]
pub struct Workloads {
    /// As the cluster serves it, until it does not any more.
    resource: Mutex<Option<ApiResource>>,
    /// When the cluster last did not say how, and why.
    unserved: Mutex<Option<(Instant, String)>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By the uid of their Jobs.
    of_jobs: BTreeMap<String, Workload>,
    /// Until when the picture may be believed.
    good_until: Option<Instant>,
}

/// The Job that a Workload stands for.
fn job_of(workload: &Workload) -> Option<&str> {
    let owners = || workload.owner_references().iter().find(|owner| owner.kind == "Job");
    workload.labels().get(LABEL_JOB).map(String::as_str).or_else(|| owners().map(|owner| owner.uid.as_str()))
}

/// The run of its pods to come.
fn run(workload: &Workload) -> Option<RunId> {
    workload.spec.pod_sets.iter().find_map(|set| run_of(set.template.metadata.labels.as_ref()))
}

impl Workloads {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn api(&self, client: &Client, namespace: &str) -> anyhow::Result<Api<Workload>> {
        let known = self.known().clone();
        let resource = match known {
            Some(resource) => resource,
            None => self.discovered(client).await?,
        };
        Ok(Api::namespaced_with(client.clone(), namespace, &resource))
    }

    async fn discovered(&self, client: &Client) -> anyhow::Result<ApiResource> {
        if let Some((at, why)) = &*self.unserved()
            && at.elapsed() < UNSERVED
        {
            anyhow::bail!("{why}");
        }
        let found = served(client, "Workload").await;
        *self.unserved() = found.as_ref().err().map(|error| (Instant::now(), format!("{error:#}")));
        *self.known() = found.as_ref().ok().cloned();
        found
    }

    fn unserved(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.unserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Option<ApiResource>> {
        self.resource.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Workload of a Job. Ok(None): it has none.
    ///
    /// # Errors
    /// Why none can be read.
    pub async fn of(&self, client: &Client, namespace: &str, job: &str) -> anyhow::Result<Option<Workload>> {
        {
            let seen = self.lock();
            if seen.good_until.is_some_and(|until| Instant::now() <= until) {
                return Ok(seen.of_jobs.get(job).cloned());
            }
        }
        let api = self.api(client, namespace).await?;
        let own = ListParams::default().labels(&format!("{LABEL_JOB}={job}"));
        match call("list Workloads", api.list(&own)).await {
            Ok(list) => Ok(list.items.into_iter().next()),
            Err(fault) => {
                *self.known() = None;
                Err(ExecutorError::from(fault).into())
            }
        }
    }

    /// Never returns. Lists, then watches until the relist is due or the watch breaks.
    pub async fn keep(
        &self,
        client: &Client,
        namespace: &str,
        relist_s: u32,
        wake: &(dyn Fn(RunId) + Send + Sync),
    ) {
        let mut told = false;
        loop {
            let began = Instant::now();
            match self.round(client, namespace, relist_s, wake).await {
                Ok(()) => {
                    told = false;
                    // A server that ends every watch at once, in good order, is not asked without a pause.
                    tokio::time::sleep(SHORT.saturating_sub(began.elapsed())).await;
                }
                Err(error) => {
                    self.lock().good_until = None;
                    *self.known() = None;
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "a pool names a queue, and Kueue's Workloads cannot be read; see `trainyard doctor`"
                        );
                    }
                    let pause = Duration::from_secs(u64::from(relist_s.min(30)));
                    tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
                }
            }
        }
    }

    async fn round(
        &self,
        client: &Client,
        namespace: &str,
        relist_s: u32,
        wake: &(dyn Fn(RunId) + Send + Sync),
    ) -> anyhow::Result<()> {
        let api = self.api(client, namespace).await?;
        let until = Instant::now() + Duration::from_secs(u64::from(relist_s));
        let (all, version) = everything(&api, "").await?;
        let changed: Vec<RunId> = {
            let mut seen = self.lock();
            let old = std::mem::take(&mut seen.of_jobs);
            let mut changed = Vec::new();
            for workload in all {
                let Some(job) = job_of(&workload).map(str::to_owned) else { continue };
                let same = old.get(&job).is_some_and(|o| o.resource_version() == workload.resource_version());
                changed.extend(run(&workload).filter(|_| !same));
                seen.of_jobs.insert(job, workload);
            }
            seen.good_until = Some(until + CALL);
            changed
        };
        changed.into_iter().for_each(wake);
        let watching = async {
            let params = WatchParams::default().timeout(relist_s.clamp(5, 290));
            let mut stream = Box::pin(tokio::time::timeout(CALL, api.watch(&params, &version)).await??);
            while let Some(event) = stream.next().await {
                let (workload, there) = match event? {
                    WatchEvent::Added(it) | WatchEvent::Modified(it) => (it, true),
                    WatchEvent::Deleted(it) => (it, false),
                    WatchEvent::Bookmark(_) => continue,
                    WatchEvent::Error(status) => {
                        anyhow::bail!("the watch ended: {} {}", status.code, status.message)
                    }
                };
                let Some(job) = job_of(&workload).map(str::to_owned) else { continue };
                let run = run(&workload);
                let mut seen = self.lock();
                if there {
                    seen.of_jobs.insert(job, workload);
                } else {
                    seen.of_jobs.remove(&job);
                }
                drop(seen);
                run.into_iter().for_each(wake);
            }
            Ok(())
        };
        match tokio::time::timeout_at(until.into(), watching).await {
            Ok(Err(error)) => Err(error),
            // Time for the next list, or the server ended the watch in good order.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A cluster without Kueue is asked once, not by every Job that waits in a queue.
    #[tokio::test]
    async fn what_is_not_served_is_asked_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let server = tower::service_fn(move |_: hyper::Request<kube::client::Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let none = r#"{"kind": "APIGroupList", "apiVersion": "v1", "groups": []}"#;
            async move { Ok::<_, Infallible>(hyper::Response::new(http_body_util::Full::from(none))) }
        });
        let client = Client::new(server, "default");
        let workloads = Workloads::default();
        let mut said = Vec::new();
        for job in 0..20 {
            let why = workloads.of(&client, "runs", &job.to_string()).await.unwrap_err();
            said.push(format!("{why:#}"));
        }
        said.dedup();
        assert_eq!((asked.load(Ordering::SeqCst), said.len()), (1, 1), "{said:?}");
        assert!(said[0].contains(GROUP), "{said:?}");
    }
}
