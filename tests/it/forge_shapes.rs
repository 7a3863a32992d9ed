//! Holds what trainyard sent to a sandbox, what that answered, and its webhooks against the forges' own descriptions (npm
//! `@octokit/openapi` and `@octokit/webhooks-schemas`, Gitea's Go module), in Node. `scripts/test.sh` does the same with the calls
//! of all tests.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use trainyard::sandbox::{Delivery, Exchange, Sandbox};

use crate::support::{go_module, npm};

#[derive(Debug, Deserialize)]
pub struct Shapes {
    /// GitHub's names of the operations called.
    pub operations: Vec<String>,
    pub exchanges: usize,
    /// GitHub's names of the webhooks sent.
    pub events: Vec<String>,
    pub deliveries: usize,
    pub violations: Vec<String>,
}

/// Everything that went through this sandbox; fails on the first thing that GitHub does not describe so.
pub fn hold_against_github(sandbox: &Sandbox) -> Shapes {
    let shapes = look(&sandbox.exchanges(), &sandbox.deliveries());
    assert!(shapes.violations.is_empty(), "not as GitHub describes it:\n{}", shapes.violations.join("\n"));
    shapes
}

/// As [`hold_against_github`], by Gitea's description of its API.
pub fn hold_against_gitea(sandbox: &Sandbox) -> Shapes {
    go_module("code.gitea.io/gitea@v1.26.0");
    let shapes = look(&sandbox.exchanges(), &[]);
    assert!(shapes.violations.is_empty(), "not as Gitea describes it:\n{}", shapes.violations.join("\n"));
    shapes
}

pub fn look(exchanges: &[Exchange], deliveries: &[Delivery]) -> Shapes {
    for package in ["@octokit/openapi", "@octokit/webhooks-schemas", "ajv", "ajv-formats"] {
        npm(package);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node")
        .arg(root.join("tests/npm/forge-shapes.mjs"))
        .arg(root.join("target"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is installed: run make setup");
    let input = serde_json::json!({"exchanges": exchanges, "deliveries": deliveries});
    serde_json::to_writer(node.stdin.take().expect("a pipe"), &input).expect("node reads its input");
    let out = node.wait_with_output().expect("node ends");
    assert!(out.status.success(), "forge-shapes.mjs failed");
    serde_json::from_slice(&out.stdout).expect("forge-shapes.mjs prints a summary")
}

/// The control: what is wrong is found.
#[test]
fn a_wrong_shape_is_found() {
    let exchange =
        |method: &str, path: &str, query: &str, request: serde_json::Value, status: u16, response| Exchange {
            forge: "github",
            method: method.into(),
            path: path.into(),
            query: query.into(),
            request,
            status,
            response,
            injected: false,
        };
    let null = serde_json::Value::Null;
    let status = "/repos/a/b/statuses/0123";
    let wrong = [
        exchange("GET", "/repos/a/b/no-such-thing/1", "", null.clone(), 200, null.clone()),
        exchange("GET", "/user", "", null.clone(), 200, serde_json::json!({"login": "x"})),
        exchange("GET", "/user", "since=1", null.clone(), 401, serde_json::json!({"message": "x"})),
        exchange("GET", "/repos/a/b/pulls/x", "", null.clone(), 404, serde_json::json!({"message": "x"})),
        exchange(
            "GET",
            "/repos/a/b/git/commits/0",
            "",
            serde_json::json!({}),
            404,
            serde_json::json!({"message": "x"}),
        ),
        exchange(
            "POST",
            status,
            "",
            serde_json::json!({"state": "sleeping"}),
            422,
            serde_json::json!({"message": "x"}),
        ),
        exchange(
            "POST",
            status,
            "",
            serde_json::json!({"state": "error", "colour": 1}),
            422,
            serde_json::json!({"message": "x"}),
        ),
        exchange("POST", status, "", null.clone(), 422, serde_json::json!({"message": "x"})),
        exchange("POST", status, "", serde_json::json!({"state": "error"}), 204, null.clone()),
    ];
    let at_gitea = |path: &str, query: &str, request, status, response| Exchange {
        forge: "gitea",
        ..exchange(if request == null { "GET" } else { "POST" }, path, query, request, status, response)
    };
    let wrong_there = [
        at_gitea("/no/such/thing", "", null.clone(), 200, null.clone()),
        at_gitea("/user", "", null.clone(), 200, serde_json::json!({"login": 7})),
        at_gitea("/user", "", null.clone(), 200, serde_json::json!({"colour": "red"})),
        at_gitea("/user", "since=1", null.clone(), 401, null.clone()),
        at_gitea("/user", "", null.clone(), 204, null.clone()),
        at_gitea("/repos/a/b/statuses/0123", "", serde_json::json!({"colour": 1}), 404, null.clone()),
    ];
    let wrong: Vec<Exchange> = wrong.into_iter().chain(wrong_there).collect();
    let hook = |event: &str, payload| Delivery {
        guid: "g".into(),
        event: event.into(),
        payload,
        status: None,
        error: None,
    };
    let hooks = [
        hook("push", serde_json::json!({"ref": "refs/heads/main"})),
        hook("pull_request", serde_json::json!({"action": "teleported"})),
    ];
    let found = look(&wrong, &hooks).violations;
    assert_eq!(
        found.len(),
        wrong.len() + hooks.len(),
        "one violation in each of them:\n{}",
        found.join("\n")
    );
}
