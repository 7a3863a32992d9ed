//! What the daemon's account may do in the namespace of the runs, asked of the cluster itself.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::call;
use super::workloads::GROUP;
use crate::executor::ExecutorError;

/// Group, resource and verbs that the daemon uses; the chart's Role grants them and no others.
pub const NEEDED: &[(&str, &str, &[&str])] = &[
    ("batch", "jobs", &["create", "get", "list", "watch", "patch", "delete"]),
    ("", "pods", &["list", "watch"]),
    ("", "secrets", &["create", "delete"]),
    ("", "services", &["create", "delete"]),
    ("networking.k8s.io", "networkpolicies", &["create", "delete"]),
    ("", "events", &["list"]),
];

/// The same where a pool names a queue: it reads what Kueue says of its Jobs, and `doctor` whether the queue is there.
pub const NEEDED_FOR_QUEUES: &[(&str, &str, &[&str])] =
    &[(GROUP, "workloads", &["list", "watch"]), (GROUP, "localqueues", &["get"])];

/// What an account of trainyard should not be able to do: each opens more than a run needs.
const UNWANTED: &[(&str, &str, &[&str])] = &[
    ("", "secrets", &["get", "list"]),
    ("", "pods", &["create"]),
    ("", "pods/exec", &["create"]),
    ("rbac.authorization.k8s.io", "roles", &["create"]),
];

#[derive(Debug, Default)]
pub struct Access {
    /// Verbs with their resource, e.g. `create jobs`.
    pub granted: usize,
    pub missing: Vec<String>,
    pub unwanted: Vec<String>,
}

/// Asks for each verb (`SelfSubjectAccessReview`, which every account may make). `queues`: those for queues too.
///
/// # Errors
/// The cluster cannot be reached or does not take the credential.
pub async fn access(client: &Client, namespace: &str, queues: bool) -> Result<Access, ExecutorError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut found = Access::default();
    let for_queues = if queues { NEEDED_FOR_QUEUES } else { &[] };
    for (wanted, table) in [(true, NEEDED), (true, for_queues), (false, UNWANTED)] {
        for (group, resource, verbs) in table {
            for verb in *verbs {
                let (kind, part) = resource.split_once('/').map_or((*resource, None), |(a, b)| (a, Some(b)));
                let review = SelfSubjectAccessReview {
                    spec: SelfSubjectAccessReviewSpec {
                        resource_attributes: Some(ResourceAttributes {
                            namespace: Some(namespace.to_owned()),
                            group: Some((*group).to_owned()),
                            resource: Some(kind.to_owned()),
                            subresource: part.map(str::to_owned),
                            verb: Some((*verb).to_owned()),
                            ..ResourceAttributes::default()
                        }),
                        non_resource_attributes: None,
                    },
                    ..SelfSubjectAccessReview::default()
                };
                let params = PostParams::default();
                let answer = call("ask for a permission", reviews.create(&params, &review)).await?;
                let allowed = answer.status.is_some_and(|status| status.allowed);
                let words = format!("{verb} {resource}");
                match (wanted, allowed) {
                    (true, true) => found.granted += 1,
                    (true, false) => found.missing.push(words),
                    (false, true) => found.unwanted.push(words),
                    (false, false) => {}
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chart's Role is these tables.
    #[test]
    fn the_role_of_the_chart_grants_what_is_needed() {
        same(include_str!("../../../deploy/helm/trainyard/files/role-rules.yaml"), NEEDED);
        same(include_str!("../../../deploy/helm/trainyard/files/role-rules-kueue.yaml"), NEEDED_FOR_QUEUES);
    }

    fn same(role: &str, table: &[(&str, &str, &[&str])]) {
        let list = |line: &str| line.split(['[', ']']).nth(1).unwrap_or_default().replace(['"', ' '], "");
        let (mut granted, mut place) = (Vec::new(), (String::new(), String::new()));
        for line in role.lines().map(str::trim) {
            match line.trim_start_matches("- ").split_once(':').map(|(key, _)| key) {
                Some("apiGroups") => place.0 = list(line),
                Some("resources") => place.1 = list(line),
                Some("verbs") => granted.push((place.0.clone(), place.1.clone(), list(line))),
                _ => {}
            }
        }
        let needed: Vec<_> = table
            .iter()
            .map(|(group, resource, verbs)| ((*group).to_owned(), (*resource).to_owned(), verbs.join(",")))
            .collect();
        assert_eq!(granted, needed);
    }
}
