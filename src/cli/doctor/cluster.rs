//! What `doctor` asks the cluster that attempts run in.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Api, DynamicObject};

use super::Report;
use crate::config::{Config, KubernetesConfig};
use crate::executor::kubernetes::{self, access, workloads};

/// May the account do what the daemon does, and not much more?
pub async fn look(report: &mut Report, config: &Config) {
    let Some(settings) = &config.executor.kubernetes else { return };
    let about = "cluster";
    let client = match kubernetes::client(settings).await {
        Ok(client) => client,
        Err(error) => {
            return report.fail(
                about,
                format!("{error:#}"),
                "name a kubeconfig that this user can read, or run in the cluster",
            );
        }
    };
    match tokio::time::timeout(Duration::from_secs(10), client.apiserver_version()).await {
        Ok(Ok(version)) => report.ok(about, format!("Kubernetes {}", version.git_version)),
        Ok(Err(error)) => {
            return report.fail(
                about,
                format!("cannot be asked: {error}"),
                "check the kubeconfig, its credential, and the way to the API server",
            );
        }
        Err(_) => {
            return report.fail(
                about,
                "no answer within 10 s",
                "check the way to the API server: a network policy or a firewall may be between",
            );
        }
    }
    let pools = config.pool.iter().filter(|(_, pool)| pool.executor == "kubernetes");
    let queues: BTreeMap<&String, &String> =
        pools.filter_map(|(name, pool)| Some((pool.kubernetes.queue.as_ref()?, name))).collect();
    permissions(report, &client, settings, !queues.is_empty()).await;
    report.ok(
        "way back",
        format!(
            "pods call {}; whether one of a pool gets there, only a step on it shows (`commands: [\"true\"]`): one that gets no answer \
             within 3 min ends and says why",
            settings.agent_url.clone().unwrap_or_else(|| format!("https://{}", config.listen.agent))
        ),
    );
    for (queue, pool) in queues {
        local_queue(report, &client, settings, queue, pool).await;
    }
}

/// Is the queue of a pool there, and does it give places?
async fn local_queue(
    report: &mut Report,
    client: &kube::Client,
    settings: &KubernetesConfig,
    queue: &str,
    pool: &str,
) {
    let (about, namespace) = (format!("queue {queue}"), &settings.namespace);
    let resource = match workloads::served(client, "LocalQueue").await {
        Ok(resource) => resource,
        Err(error) => {
            return report.fail(
                about,
                format!("pool {pool} names it, and the cluster serves no Kueue: {error:#}"),
                "install Kueue, or take `queue` out of the pool: nothing starts its Jobs",
            );
        }
    };
    let version = resource.version.clone();
    let found: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match tokio::time::timeout(Duration::from_secs(10), found.get_opt(queue)).await {
        Ok(Ok(Some(found))) => {
            let conditions = found.data.pointer("/status/conditions").and_then(|all| all.as_array());
            let active = conditions.into_iter().flatten().find(|c| c["type"] == "Active");
            match active.filter(|c| c["status"] == "False") {
                Some(c) => report.warn(
                    about,
                    format!("gives no places: {}", c["message"].as_str().unwrap_or_default()),
                    "look at the LocalQueue and at its ClusterQueue",
                ),
                None => report.ok(about, format!("is there ({version})")),
            }
        }
        Ok(Ok(None)) => report.fail(
            about,
            format!("pool {pool} names it, and {namespace} has no such LocalQueue"),
            "make the LocalQueue, or correct `queue` of the pool: nothing starts its Jobs",
        ),
        Ok(Err(error)) => report.fail(
            about,
            format!("cannot be looked at: {error}"),
            "set `runs.kueue` of the chart, or grant files/role-rules-kueue.yaml",
        ),
        Err(_) => report.fail(about, "no answer within 10 s", "check the way to the API server"),
    }
}

async fn permissions(report: &mut Report, client: &kube::Client, settings: &KubernetesConfig, queues: bool) {
    let (about, namespace) = ("permissions", &settings.namespace);
    let found = match access::access(client, namespace, queues).await {
        Ok(found) => found,
        Err(error) => {
            return report.fail(about, error, "grant the account what the chart's Role grants");
        }
    };
    if found.missing.is_empty() {
        report.ok(about, format!("all {} that are needed in {namespace}", found.granted));
    } else {
        report.fail(
            about,
            format!("not allowed in {namespace}: {}", found.missing.join(", ")),
            if queues {
                "grant it deploy/helm/trainyard/files/role-rules.yaml and, for queues, role-rules-kueue.yaml (`runs.kueue` of the chart)"
            } else {
                "bind the account to the Role of deploy/helm/trainyard/files/role-rules.yaml"
            },
        );
    }
    if !found.unwanted.is_empty() {
        report.warn(
            about,
            format!("the account may do more than it needs in {namespace}: {}", found.unwanted.join(", ")),
            "give the daemon an account of its own with the chart's Role",
        );
    }
}
