//! What the accounts of an installation did, by the API server's audit log, against what the chart's Roles grant; and what the
//! daemon's may not do (S20).

use reqwest::Method;
use serde_json::Value;

use super::cluster::cluster;
use super::release::{HOME, Release};

const ROLE: &str = include_str!("../../../deploy/helm/trainyard/files/role-rules.yaml");
const QUEUES: &str = include_str!("../../../deploy/helm/trainyard/files/role-rules-kueue.yaml");
const CLEANUP: &str = include_str!("../../../deploy/helm/trainyard/templates/cleanup.yaml");

/// `delete jobs` and so on, of the lists `resources: [...]` and `verbs: [...]` of a Role, sorted.
fn granted(role: &str) -> Vec<String> {
    let words = |rule: &str, key: &str| -> Vec<String> {
        let list = rule.split(&format!("{key}: [")).nth(1).and_then(|rest| rest.split(']').next());
        list.unwrap_or_default().split(", ").map(str::to_owned).collect()
    };
    let mut all = Vec::new();
    for rule in role.split("apiGroups:").skip(1) {
        for resource in words(rule, "resources") {
            all.extend(words(rule, "verbs").iter().map(|verb| format!("{verb} {resource}")));
        }
    }
    all.sort();
    all
}

/// The same of what an account did; with its namespace where that is not the runs'.
fn used(account: &str, runs: &str) -> Vec<String> {
    let audit = cluster().dir.join("audit.log");
    let text = std::fs::read_to_string(&audit).expect("the audit log of the test cluster");
    let mut used: Vec<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|e| e["user"]["username"] == account && e["objectRef"]["resource"].is_string())
        // Asking what one may do is everybody's.
        .filter(|e| e["objectRef"]["resource"] != "selfsubjectaccessreviews")
        .map(|e| {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (verb, of) = (word(&e["verb"]), &e["objectRef"]);
            let part = of["subresource"].as_str().map(|part| format!("/{part}")).unwrap_or_default();
            let place = word(&of["namespace"]);
            let place = if place == runs { String::new() } else { format!(" in {place:?}") };
            format!("{verb} {}{part}{place}", word(&of["resource"]))
        })
        .collect();
    used.sort();
    used.dedup();
    used
}

/// The verbs that an account used are those of its Role, no less and no more; how many.
fn exactly(who: &str, account: &str, runs: &str, role: &str) -> usize {
    let (used, granted) = (used(account, runs), granted(role));
    let beyond: Vec<&String> = used.iter().filter(|u| !granted.contains(u)).collect();
    let idle: Vec<&String> = granted.iter().filter(|g| !used.contains(g)).collect();
    println!(
        "FIGURE verbs account={who} used={} granted={} beyond={} unused={}",
        used.len(),
        granted.len(),
        beyond.len(),
        idle.len()
    );
    assert!(beyond.is_empty() && idle.is_empty(), "{account}: beyond {beyond:?}, unused {idle:?}");
    granted.len()
}

/// Of the daemon, after a story in which it did all that it can, several pods included.
pub async fn of_the_daemon(release: &Release) {
    let account = format!("system:serviceaccount:{HOME}:{}", release.name);
    let granted = exactly("daemon", &account, &release.runs.0, ROLE);
    let (asked, open) = refused(release).await;
    println!("SEC S20 layer=role cases={} failed={}", asked + granted, open.len());
    assert!(asked >= 25 && open.is_empty(), "not refused: {open:?}");
}

/// Of the daemon of a pool with a queue: what the queues' rules grant is used, and nothing that no rule grants.
pub fn of_queues(release: &Release) {
    let account = format!("system:serviceaccount:{HOME}:{}", release.name);
    let (used, own, all) = (used(&account, &release.runs.0), granted(QUEUES), granted(ROLE));
    let beyond: Vec<&String> = used.iter().filter(|u| !own.contains(u) && !all.contains(u)).collect();
    let idle: Vec<&String> = own.iter().filter(|g| !used.contains(g)).collect();
    println!(
        "FIGURE verbs account=daemon_with_queues granted_for_queues={} beyond={} unused={}",
        own.len(),
        beyond.len(),
        idle.len()
    );
    assert!(beyond.is_empty() && idle.is_empty(), "beyond {beyond:?}, unused {idle:?}");
}

/// Of the hook that cleaned up.
pub fn of_the_cleanup(release: &Release) {
    let account = format!("system:serviceaccount:{HOME}:{}-cleanup", release.name);
    exactly("cleanup", &account, &release.runs.0, CLEANUP);
}

/// Real requests with the daemon's own token, each of which must be refused; how many, and which were not.
async fn refused(release: &Release) -> (usize, Vec<String>) {
    let runs = format!("/api/v1/namespaces/{}", release.runs.0);
    let group = |group: &str, rest: &str| format!("/apis/{group}/namespaces/{}/{rest}", release.runs.0);
    let own = |rest: &str| format!("{runs}/{rest}");
    let cases = [
        (Method::GET, own("secrets")),
        (Method::GET, own("secrets?watch=1")),
        (Method::GET, own("secrets/any")),
        (Method::PUT, own("secrets/any")),
        (Method::PATCH, own("secrets/any")),
        (Method::DELETE, own("secrets")),
        (Method::GET, own("pods/any")),
        (Method::POST, own("pods")),
        (Method::PATCH, own("pods/any")),
        (Method::DELETE, own("pods/any")),
        (Method::POST, own("pods/any/exec")),
        (Method::GET, own("pods/any/exec")),
        (Method::POST, own("pods/any/attach")),
        (Method::POST, own("pods/any/portforward")),
        (Method::PATCH, own("pods/any/ephemeralcontainers")),
        (Method::POST, own("pods/any/eviction")),
        (Method::GET, own("pods/any/log")),
        (Method::GET, own("serviceaccounts")),
        (Method::POST, own("serviceaccounts")),
        (Method::POST, own("serviceaccounts/default/token")),
        (Method::GET, own("configmaps")),
        (Method::POST, own("configmaps")),
        (Method::POST, own("events")),
        (Method::POST, own("persistentvolumeclaims")),
        (Method::DELETE, runs.clone()),
        (Method::PATCH, runs.clone()),
        (Method::PUT, group("batch/v1", "jobs/any")),
        (Method::DELETE, group("batch/v1", "jobs")),
        (Method::POST, group("batch/v1", "cronjobs")),
        (Method::POST, group("apps/v1", "deployments")),
        (Method::GET, own("services")),
        (Method::PATCH, own("services/any")),
        (Method::GET, group("networking.k8s.io/v1", "networkpolicies")),
        (Method::PATCH, group("networking.k8s.io/v1", "networkpolicies/any")),
        (Method::DELETE, group("networking.k8s.io/v1", "networkpolicies")),
        (Method::POST, group("rbac.authorization.k8s.io/v1", "roles")),
        (Method::PATCH, group("rbac.authorization.k8s.io/v1", &format!("roles/{}", release.name))),
        (Method::POST, group("rbac.authorization.k8s.io/v1", "rolebindings")),
        (Method::GET, format!("/api/v1/namespaces/{HOME}/secrets")),
        (Method::GET, format!("/api/v1/namespaces/{HOME}/pods")),
        (Method::POST, format!("/apis/batch/v1/namespaces/{HOME}/jobs")),
        (Method::GET, "/apis/batch/v1/namespaces/default/jobs".into()),
        (Method::GET, "/apis/batch/v1/jobs".into()),
        (Method::GET, "/api/v1/secrets".into()),
        (Method::GET, "/api/v1/nodes".into()),
        (Method::GET, "/api/v1/namespaces".into()),
    ];
    let (server, http) = cluster().api();
    let token = cluster().kubectl(&["create", "token", &release.name, "-n", HOME]);
    let mut open = Vec::new();
    for (method, path) in &cases {
        let mut asked = http.request(method.clone(), format!("{server}{path}")).bearer_auth(&token);
        if [Method::POST, Method::PUT, Method::PATCH].contains(method) {
            let kind = if *method == Method::PATCH { "merge-patch+json" } else { "json" };
            asked = asked.header("content-type", format!("application/{kind}")).body("{}");
        }
        let status = asked.send().await.unwrap().status();
        if status != 403 {
            open.push(format!("{method} {path}: {status}"));
        }
    }
    // What it may do goes through in the same way, so the refusals are the Role's and not the token's; as somebody else it may not.
    let jobs = format!("{server}{}", group("batch/v1", "jobs"));
    let ask = |request: reqwest::RequestBuilder| request.bearer_auth(&token).send();
    assert_eq!(ask(http.get(&jobs)).await.unwrap().status(), 200);
    let somebody = ask(http.get(&jobs).header("impersonate-user", "admin")).await.unwrap().status();
    if somebody != 403 {
        open.push(format!("impersonation: {somebody}"));
    }
    (cases.len() + 1, open)
}
