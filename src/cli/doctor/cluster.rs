//! What `doctor` asks the cluster that attempts run in.

use std::time::Duration;

use super::Report;
use crate::config::{Config, KubernetesConfig};
use crate::executor::kubernetes::{self, access};

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
    permissions(report, &client, settings).await;
}

async fn permissions(report: &mut Report, client: &kube::Client, settings: &KubernetesConfig) {
    let (about, namespace) = ("permissions", &settings.namespace);
    let found = match access::access(client, namespace).await {
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
            "bind the account to the Role of deploy/helm/trainyard/files/role-rules.yaml",
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
