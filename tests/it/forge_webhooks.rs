//! GitHub's recorded webhooks, which this project did not write: each one is read as the event that its own text says it
//! is (Show 2), and no damaged one makes the parser panic (S04).

use serde_json::Value;
use trainyard::forge::webhook::github::parse;
use trainyard::model::{EventKind, Parsed};

use crate::support::npm;

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
