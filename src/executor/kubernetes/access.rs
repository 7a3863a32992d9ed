//! What the daemon's account may do in the namespace of the runs, asked of the cluster itself.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::call;
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

/// Asks for each verb (`SelfSubjectAccessReview`, which every account may make).
///
/// # Errors
/// The cluster cannot be reached or does not take the credential.
pub async fn access(client: &Client, namespace: &str) -> Result<Access, ExecutorError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut found = Access::default();
    for (wanted, table) in [(true, NEEDED), (false, UNWANTED)] {
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

    /// The chart's Role is this table.
    #[test]
    fn the_role_of_the_chart_grants_what_is_needed() {
        let role = include_str!("../../../deploy/helm/trainyard/files/role-rules.yaml");
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
        let needed: Vec<_> = NEEDED
            .iter()
            .map(|(group, resource, verbs)| ((*group).to_owned(), (*resource).to_owned(), verbs.join(",")))
            .collect();
        assert_eq!(granted, needed);
    }
}
