//! What `doctor` asks the cluster that attempts run in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::api::{Api, DynamicObject};

use super::Report;
use crate::cli::daemon;
use crate::clock::SystemClock;
use crate::config::{Config, KubernetesConfig, PoolConfig};
use crate::executor::ExecutorError;
use crate::executor::kubernetes::probe::Probed;
use crate::executor::kubernetes::{self, access, workloads};
use crate::http::agent_tls::agent_tls;
use crate::store::{Instance, Store};

/// May the account do what the daemon does, and not much more? With a `probe`: does a pod of each pool reach the daemon within so
/// many seconds?
pub async fn look(report: &mut Report, config: &Config, probe: Option<(u64, &Store)>) {
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
    let pools: Vec<(&String, &PoolConfig)> =
        config.pool.iter().filter(|(_, pool)| pool.executor == kubernetes::NAME).collect();
    let queues: BTreeMap<&String, &String> =
        pools.iter().filter_map(|(name, pool)| Some((pool.kubernetes.queue.as_ref()?, *name))).collect();
    permissions(report, &client, settings, !queues.is_empty()).await;
    for (queue, pool) in queues {
        local_queue(report, &client, settings, queue, pool).await;
    }
    let Some((seconds, store)) = probe else {
        let agents = settings.agent_url.clone().unwrap_or_else(|| format!("https://{}", config.listen.agent));
        return report.ok(
            "way back",
            format!("pods call {agents}; `trainyard doctor --probe` tries it with a pod on each pool"),
        );
    };
    if let Err(error) = probes(report, config, &pools, client, store, Duration::from_secs(seconds)).await {
        report.fail("probe", format!("{error:#}"), "see the lines about cluster and database");
    }
}

/// A pod on each pool, all at once: starting one can take as long as a cloud needs for a node.
async fn probes(
    report: &mut Report,
    config: &Config,
    pools: &[(&String, &PoolConfig)],
    client: kube::Client,
    store: &Store,
    patience: Duration,
) -> anyhow::Result<()> {
    let instance = Instance::load(store).await.context("cannot read this installation's key")?;
    let agents = config.listen.agent;
    let ca = if agents.ip().is_loopback() { None } else { Some(agent_tls(&instance, &[])?.ca) };
    let Some(executor) = daemon::cluster(config, client, &instance, agents, Arc::new(SystemClock)) else {
        return Ok(());
    };
    let probed = pools.iter().map(|(name, pool)| {
        let (executor, ca) = (&executor, ca.clone());
        async move {
            let gives = pool.gpu_limit().unwrap_or(pool.kubernetes.node_gpus) > 0;
            let tell = |says: &str| eprintln!("pool {name}: {says}");
            let begun = Instant::now();
            let found = executor.probe(name, u32::from(gives), ca, patience, tell).await;
            (*name, found, begun.elapsed())
        }
    });
    for (name, found, took) in futures_util::future::join_all(probed).await {
        let about = format!("probe, {name}");
        match found {
            Ok(Probed::Reached) => report.ok(
                about,
                format!("a pod reached the daemon; started and cleaned up in {:.1} s", took.as_secs_f64()),
            ),
            Ok(Probed::Waits(why)) => report.warn(
                about,
                format!("its pod had not ended after {} s: {why}", patience.as_secs()),
                "give it longer (`--probe=540`) if the pool is full or grows from nothing; else look at its selector, tolerations and \
                 `gpu_resource`",
            ),
            Ok(Probed::Failed(why)) => {
                report.fail(about, why, "no step of this pool would do better: mend what it says");
            }
            Err(error @ (ExecutorError::Refused(_) | ExecutorError::Denied(_))) => report.fail(
                about,
                format!("its pod was refused: {error}"),
                "no step of this pool would do better: mend the pool, or the rule of the cluster",
            ),
            Err(error) => report.fail(about, error, "see the lines about the cluster, and run it again"),
        }
    }
    Ok(())
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
