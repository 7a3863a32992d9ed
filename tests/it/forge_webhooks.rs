//! Recorded webhooks, which this project did not write: each one is read as the event that its own text says it is, and no damaged
//! one makes the parser panic (S04). GitHub's come from an npm package, GitLab's and Gitea's from two Go modules.

use serde_json::Value;
use trainyard::forge::webhook::github::parse;
use trainyard::forge::webhook::{gitea, gitlab};
use trainyard::model::{EventKind, Parsed};

use crate::support::{go_module, npm};

pub struct Example {
    /// Where it was recorded: `api.github.com` or a GitHub Enterprise Server.
    server: String,
    pub event: String,
    pub payload: Value,
}

pub fn examples() -> Vec<Example> {
    let root = npm("@octokit/webhooks-examples");
    let mut found = Vec::new();
    for folder in std::fs::read_dir(&root).expect("the package's folder") {
        let folder = folder.expect("a folder entry");
        let Ok(text) = std::fs::read(folder.path().join("index.json")) else { continue };
        let server = folder.file_name().to_string_lossy().into_owned();
        let kinds: Vec<Value> = serde_json::from_slice(&text).expect("the index is a list");
        for kind in &kinds {
            for payload in kind["examples"].as_array().expect("examples") {
                let event = kind["name"].as_str().expect("a name").to_owned();
                found.push(Example { server: server.clone(), event, payload: payload.clone() });
            }
        }
    }
    found.sort_by(|a, b| (&a.server, &a.event).cmp(&(&b.server, &b.event)));
    found
}

/// The event that a payload is by the words in it, without our parser.
fn expected(example: &Example) -> Option<&'static str> {
    let p = &example.payload;
    let action = p["action"].as_str().unwrap_or_default();
    match example.event.as_str() {
        "push" => match p["ref"].as_str()? {
            branch if branch.starts_with("refs/heads/") => Some("push"),
            tag if tag.starts_with("refs/tags/") => Some("tag"),
            _ => None,
        },
        "pull_request" => match action {
            "opened" | "synchronize" | "reopened" | "ready_for_review" | "closed" | "labeled"
            | "unlabeled" => Some("pull_request"),
            "edited" => p.pointer("/changes/base").map(|_| "pull_request"),
            _ => None,
        },
        "issue_comment" => {
            (action == "created" && p["issue"]["pull_request"].is_object()).then_some("comment")
        }
        // A ping of an organisation's hook names no repository, so there is nothing that an event could be about.
        "ping" => p["repository"].is_object().then_some("ping"),
        _ => None,
    }
}

#[test]
fn every_recorded_payload_is_understood_or_ignored() {
    let examples = examples();
    let (mut events, mut ignored, mut bad) = (0, 0, 0);
    for example in &examples {
        let text = serde_json::to_vec(&example.payload).expect("JSON");
        let got = match parse(&example.event, &text) {
            Parsed::Event(event) => {
                events += 1;
                assert_eq!(
                    Some(event.repo.name.as_str()),
                    example.payload.pointer("/repository/full_name").and_then(Value::as_str)
                );
                if let EventKind::Push(push) = &event.kind {
                    assert_eq!(push.after.is_none(), example.payload["deleted"] == true);
                }
                Some(event.kind.word())
            }
            Parsed::Ignored { reason } => {
                assert!(!reason.is_empty());
                ignored += 1;
                None
            }
            Parsed::BadPayload { reason } => {
                eprintln!("{} {}: {reason}", example.server, example.event);
                bad += 1;
                None
            }
        };
        assert_eq!(got, expected(example), "{} {}", example.server, example.event);
    }
    println!("FIGURE octokit_examples files={} events={events} ignored={ignored} bad={bad}", examples.len());
    assert!(examples.len() > 300, "the package holds fewer payloads than it used to");
    assert_eq!(bad, 0);
}

/// Damaged forms of `root`: each member of each object, and the first elements of each array, dropped and nulled and, in the two
/// uppermost levels, given every other type. (Nothing that is read lies deeper than that, but for ids two levels on.)
fn mutations(root: &Value, path: &str, out: &mut Vec<Value>) {
    let here = root.pointer(path).expect("a path of this value");
    let children: Vec<String> = match here {
        Value::Object(map) => map.keys().map(|k| k.replace('~', "~0").replace('/', "~1")).collect(),
        Value::Array(list) => (0..list.len().min(2)).map(|i| i.to_string()).collect(),
        _ => Vec::new(),
    };
    for child in children {
        let child_path = format!("{path}/{child}");
        let old = root.pointer(&child_path).expect("a child");
        let mut put = |new: Value| {
            if new != *old {
                let mut copy = root.clone();
                *copy.pointer_mut(&child_path).expect("a child") = new;
                out.push(copy);
            }
        };
        put(Value::Null);
        let deep = path.matches('/').count() > 1
            && !path.starts_with("/pull_request/head")
            && !path.starts_with("/pull_request/base");
        let deeper = path.matches('/').count() > 2;
        for new in [
            true.into(),
            (-1).into(),
            u64::MAX.into(),
            0.5.into(),
            "".into(),
            "\u{0}\u{202e}🚀\n--x".into(),
            serde_json::json!([]),
            serde_json::json!([null, 1, "x"]),
            serde_json::json!({}),
        ] {
            if !deep && !deeper {
                put(new);
            }
        }
        if deep || deeper {
            continue;
        }
        let mut copy = root.clone();
        match copy.pointer_mut(path).expect("a parent") {
            Value::Object(map) => {
                map.remove(&child.replace("~1", "/").replace("~0", "~"));
            }
            Value::Array(list) => {
                list.remove(child.parse().expect("an index"));
            }
            _ => unreachable!("only these have children"),
        }
        out.push(copy);
        mutations(root, &child_path, out);
    }
}

#[test]
fn no_damaged_payload_makes_the_parser_panic() {
    // One recording of each event that we read; a damaged one of the others is only checked for being JSON.
    let mut seen = std::collections::HashSet::new();
    let (mut payloads, mut cases, mut events, mut ignored, mut bad) = (0, 0, 0, 0, 0);
    for mut example in examples() {
        // The package has no comment on a pull request and no retargeting: make them of what it has.
        if example.event == "issue_comment" && example.payload["action"] == "created" {
            example.payload["issue"]["pull_request"] = serde_json::json!({"url": "https://api.github.com/x"});
        }
        let Some(word) = expected(&example) else { continue };
        if !seen.insert((word, example.payload["action"].to_string())) {
            continue;
        }
        payloads += 1;
        let mut damaged = Vec::new();
        mutations(&example.payload, "", &mut damaged);
        for payload in damaged {
            let text = serde_json::to_vec(&payload).expect("JSON");
            let parsed = std::panic::catch_unwind(|| parse(&example.event, &text));
            match parsed.unwrap_or_else(|_| panic!("{} panics on {payload}", example.event)) {
                Parsed::Event(_) => events += 1,
                Parsed::Ignored { .. } => ignored += 1,
                Parsed::BadPayload { .. } => bad += 1,
            }
            cases += 1;
        }
    }
    println!(
        "SEC S04 payloads={payloads} mutations={cases} events={events} ignored={ignored} bad_payload={bad} panics=0 failed=0"
    );
    assert!(cases > 3_000 && bad > 100, "too few mutations");
}

/// A payload of GitLab or Gitea.
pub struct Recorded {
    pub gitea: bool,
    /// For people: module and file.
    pub name: String,
    /// Gitea's word, by the file's name.
    pub event: String,
    pub text: Vec<u8>,
}

pub fn recorded() -> Vec<Recorded> {
    let playground = go_module("github.com/go-playground/webhooks/v6@v6.4.0").join("testdata");
    let client = go_module("gitlab.com/gitlab-org/api/client-go@v1.46.0").join("testdata/webhooks");
    let mut found = Vec::new();
    for (folder, gitea) in
        [(playground.join("gitlab"), false), (playground.join("gitea"), true), (client, false)]
    {
        for entry in std::fs::read_dir(&folder).expect("the module's folder") {
            let path = entry.expect("a folder entry").path();
            let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let event = match stem.trim_end_matches("-event") {
                // What the server calls by its group's name.
                "pull-request-comment" | "issue-comment" => "issue_comment".to_owned(),
                "pull-request-review" => "pull_request_approved".to_owned(),
                pull if pull.starts_with("pull-request") => "pull_request".to_owned(),
                issue if issue.starts_with("issue") => "issues".to_owned(),
                other => other.replace('-', "_"),
            };
            let text = std::fs::read(&path).expect("a file");
            found.push(Recorded { gitea, name: format!("{}/{stem}", folder.display()), event, text });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The event that a payload is by the words in it, without our parser.
fn expected_elsewhere(file: &Recorded, p: &Value) -> Option<&'static str> {
    let word = |at: &str| p.pointer(at).and_then(Value::as_str).unwrap_or_default();
    if file.gitea {
        return match file.event.as_str() {
            "push" if word("/ref").starts_with("refs/heads/") => Some("push"),
            "push" if word("/ref").starts_with("refs/tags/") => Some("tag"),
            "delete" if word("/ref_type") == "branch" => Some("push"),
            "delete" if word("/ref_type") == "tag" => Some("tag"),
            "pull_request" => {
                ["opened", "synchronized", "reopened", "closed", "label_updated", "label_cleared"]
                    .contains(&word("/action"))
                    .then_some("pull_request")
            }
            "issue_comment" => (word("/action") == "created" && p["is_pull"] == true).then_some("comment"),
            _ => None,
        };
    }
    match word("/object_kind") {
        "push" => Some("push"),
        "tag_push" => Some("tag"),
        "merge_request" if p.pointer("/object_attributes/iid").is_none() => None,
        "merge_request" => match word("/object_attributes/action") {
            "open" | "reopen" | "close" | "merge" => Some("pull_request"),
            "update" => {
                let has = |at: &str| p.pointer(at).is_some_and(|v| !v.is_null());
                let ready = p.pointer("/changes/draft/previous") == Some(&Value::Bool(true));
                (has("/object_attributes/oldrev")
                    || has("/changes/target_branch")
                    || has("/changes/labels")
                    || ready)
                    .then_some("pull_request")
            }
            _ => None,
        },
        "note" if word("/object_attributes/noteable_type") == "MergeRequest" => {
            let action = word("/object_attributes/action");
            let untouched = word("/object_attributes/created_at") == word("/object_attributes/updated_at");
            (action == "create" || (action.is_empty() && untouched)).then_some("comment")
        }
        _ => None,
    }
}

#[test]
fn every_recorded_payload_of_gitlab_and_gitea_is_understood_or_ignored() {
    let files = recorded();
    let (mut events, mut ignored, mut bad) = (std::collections::BTreeMap::new(), 0, Vec::new());
    for file in &files {
        let payload: Value = serde_json::from_slice(&file.text).expect("JSON");
        let parsed =
            if file.gitea { gitea::parse(&file.event, &file.text) } else { gitlab::parse(&file.text) };
        let got = match parsed {
            Parsed::Event(event) => {
                let name = if file.gitea { "/repository/full_name" } else { "/project/path_with_namespace" };
                assert_eq!(
                    Some(event.repo.name.as_str()),
                    payload.pointer(name).and_then(Value::as_str),
                    "{}",
                    file.name
                );
                *events.entry(event.kind.word()).or_insert(0) += 1;
                Some(event.kind.word())
            }
            Parsed::Ignored { reason } => {
                assert!(!reason.is_empty());
                ignored += 1;
                None
            }
            Parsed::BadPayload { reason } => {
                eprintln!("{}: {reason}", file.name);
                bad.push(file.name.rsplit('/').next().unwrap_or_default());
                None
            }
        };
        assert_eq!(got, expected_elsewhere(file, &payload), "{}", file.name);
    }
    println!(
        "FIGURE recorded_payloads files={} events={events:?} ignored={ignored} bad={}",
        files.len(),
        bad.len()
    );
    assert!(files.len() >= 80, "the modules hold fewer payloads than they used to");
    // The one has a key twice, the other was cut down by its authors to a few fields: no number, no branches.
    assert_eq!(bad, ["build-event", "group_merge_request"]);
}

#[test]
fn no_damaged_payload_of_gitlab_or_gitea_makes_the_parser_panic() {
    let mut seen = std::collections::HashSet::new();
    let (mut cases, mut bad) = (0, 0);
    for file in recorded() {
        let payload: Value = serde_json::from_slice(&file.text).expect("JSON");
        let Some(word) = expected_elsewhere(&file, &payload) else { continue };
        if !seen.insert((file.gitea, word)) {
            continue;
        }
        let mut damaged = Vec::new();
        mutations(&payload, "", &mut damaged);
        for payload in damaged {
            let text = serde_json::to_vec(&payload).expect("JSON");
            let parsed = std::panic::catch_unwind(|| {
                if file.gitea { gitea::parse(&file.event, &text) } else { gitlab::parse(&text) }
            });
            let parsed = parsed.unwrap_or_else(|_| panic!("{} panics on {payload}", file.name));
            bad += usize::from(matches!(parsed, Parsed::BadPayload { .. }));
            cases += 1;
        }
    }
    println!(
        "SEC S04 forges=gitlab,gitea payloads={} mutations={cases} bad_payload={bad} panics=0 failed=0",
        seen.len()
    );
    assert!(cases > 1_000 && bad > 50, "too few mutations");
}
