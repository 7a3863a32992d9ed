//! What an operator does when trainyard leaves a cluster: takes our finalizers off, so that no object hangs, and ends what
//! still runs where that is asked for. Needs no database and no configuration.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};

use super::manifest::{FINALIZER, selector_of};
use super::{Fault, call};

/// What was found and done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Jobs that carried our finalizer.
    pub finalizers: usize,
    /// Jobs that were deleted, with their Secrets, Services and network policies.
    pub deleted: usize,
}

/// Takes our finalizer off the Jobs of one installation in a namespace, or of every trainyard's. With `delete` the Jobs go too,
/// with what has their name, and this returns when their pods have ended or `patience` is over.
///
/// # Errors
/// The cluster refuses, or something is still there at the end.
pub async fn drop_finalizers(
    client: Client,
    namespace: &str,
    installation: Option<&str>,
    delete: bool,
    patience: Duration,
) -> anyhow::Result<Dropped> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let policies: Api<NetworkPolicy> = Api::namespaced(client, namespace);
    let selector = selector_of(installation);
    let ours = ListParams::default().labels(&selector);
    let until = tokio::time::Instant::now() + patience;
    let mut done = Dropped::default();
    loop {
        let found = call("list Jobs", jobs.list(&ours)).await.map_err(said)?.items;
        for job in &found {
            let name = job.name_any();
            if delete {
                gone(call("delete a Secret", secrets.delete(&name, &DeleteParams::default())).await)?;
                gone(call("delete a Service", services.delete(&name, &DeleteParams::default())).await)?;
                gone(call("delete a NetworkPolicy", policies.delete(&name, &DeleteParams::default())).await)?;
                if job.metadata.deletion_timestamp.is_none() {
                    gone(call("delete a Job", jobs.delete(&name, &DeleteParams::background())).await)?;
                    done.deleted += 1;
                }
            }
            if job.finalizers().iter().any(|f| f == FINALIZER) {
                let kept: Vec<&String> = job.finalizers().iter().filter(|f| *f != FINALIZER).collect();
                let without = serde_json::json!({"metadata": {"finalizers": kept}});
                let (params, without) = (PatchParams::default(), Patch::Merge(&without));
                gone(call("release a Job", jobs.patch(&name, &params, &without)).await)?;
                done.finalizers += 1;
            }
        }
        if !delete {
            return Ok(done);
        }
        let ending = call("list pods", pods.list(&ours)).await.map_err(said)?.items.len();
        if found.is_empty() && ending == 0 {
            return Ok(done);
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < until,
            "{} Jobs and {ending} pods in {namespace} are still there after {} s; run it again, or look at them with \
             `kubectl get jobs,pods -n {namespace} -l {selector}`",
            found.len(),
            patience.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn gone<T>(answer: Result<T, Fault>) -> anyhow::Result<()> {
    match answer {
        Ok(_) | Err(Fault::Missing(_)) => Ok(()),
        Err(fault) => Err(said(fault)),
    }
}

fn said(fault: Fault) -> anyhow::Error {
    super::super::ExecutorError::from(fault).into()
}
