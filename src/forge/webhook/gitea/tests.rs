//! The tables for hooks of Gitea and Forgejo.

use serde_json::{Value, json};

use super::*;
use crate::model::Event;

const SECRET: &[u8] = b"It's a Secret to Everybody";

#[test]
fn a_signature_is_bare_and_never_empty() {
    use SignatureError::{Closed, Malformed, Mismatch, Missing, Repeated};
    // GitHub's vector, without its prefix.
    let right: &[u8] = b"757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let body = b"Hello, World!";
    assert_eq!(sign(SECRET, body).as_bytes(), right);
    let prefixed = [b"sha256=", right].concat();
    let upper = right.to_ascii_uppercase();
    let rows: [(&[&[u8]], &[&[u8]], Result<(), SignatureError>); 9] = [
        (&[right], &[SECRET], Ok(())),
        (&[&upper], &[b"another secret", SECRET], Ok(())),
        (&[b""], &[SECRET], Err(Malformed)),
        (&[&prefixed], &[SECRET], Err(Malformed)),
        (&[&right[..63]], &[SECRET], Err(Malformed)),
        (&[], &[SECRET], Err(Missing)),
        (&[right, right], &[SECRET], Err(Repeated)),
        (&[right], &[b"another secret"], Err(Mismatch)),
        (&[right], &[b""], Err(Closed)),
    ];
    for (signatures, secrets, want) in rows {
        assert_eq!(verify(signatures, body, secrets), want, "{signatures:?}");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "tables read better so")]
fn common(more: Value) -> Value {
    let mut body = json!({
        "repository": {"id": 1, "full_name": "acme/churn", "default_branch": "main"}, "sender": {"id": 7, "login": "ann"},
    });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn pull_body(action: &str, title: &str) -> Value {
    common(json!({
        "action": action, "number": 3,
        "pull_request": {
            "number": 3, "title": title, "state": "open", "user": {"id": 8, "login": "bob"},
            "head": {"ref": "try", "sha": "b".repeat(40), "repo_id": 1}, "base": {"ref": "main", "sha": "a".repeat(40), "repo_id": 1},
        },
    }))
}

fn read(event: &str, body: &Value) -> Parsed {
    parse(event, &serde_json::to_vec(body).expect("JSON"))
}

#[test]
fn pushes_tags_and_deletions() {
    let push = common(json!({
        "ref": "refs/heads/try", "before": "a".repeat(40), "after": "b".repeat(40), "total_commits": 44, "commits": [],
        "head_commit": {"message": "Two"},
    }));
    let kind = |event: &str, body: &Value| match read(event, body) {
        Parsed::Event(event) => event.kind,
        other => panic!("{other:?}"),
    };
    assert!(matches!(kind("push", &push), EventKind::Push(p) if p.branch == "try" && p.message == "Two"));
    let mut tag = push.clone();
    tag["ref"] = json!("refs/tags/v1");
    assert!(matches!(kind("push", &tag), EventKind::Tag(t) if t.tag == "v1"));
    let gone = common(json!({"ref": "try", "ref_type": "branch"}));
    assert!(matches!(kind("delete", &gone), EventKind::Push(p) if p.branch == "try" && p.after.is_none()));
    let gone = common(json!({"ref": "v1", "ref_type": "tag"}));
    assert!(matches!(kind("delete", &gone), EventKind::Tag(t) if t.after.is_none()));
    assert!(matches!(read("create", &gone), Parsed::Ignored { .. }), "told by its push as well");
    assert!(matches!(read("release", &gone), Parsed::Ignored { .. }));
}

#[test]
fn pull_requests() {
    use PullRequestAction::{Closed, Labeled, Opened, ReadyForReview, Reopened, Retargeted, Synchronized};
    let edited = |title: &str, changes: Value| {
        let mut body = pull_body("edited", title);
        body["changes"] = changes;
        body
    };
    let title = |from: &str| json!({"title": {"from": from}});
    let rows = [
        (pull_body("opened", "x"), Some(Opened)),
        (pull_body("synchronized", "x"), Some(Synchronized)),
        (pull_body("synchronize", "x"), None),
        (pull_body("reopened", "x"), Some(Reopened)),
        (pull_body("closed", "x"), Some(Closed)),
        (pull_body("label_updated", "x"), Some(Labeled)),
        (pull_body("label_cleared", "x"), Some(Labeled)),
        (pull_body("assigned", "x"), None),
        (edited("x", json!({"ref": {"from": "main"}})), Some(Retargeted)),
        (edited("x", title("WIP: x")), Some(ReadyForReview)),
        (edited("x", title("[wip] x")), Some(ReadyForReview)),
        (edited("WIP: x", title("WIP: y")), None),
        (edited("WIP: x", title("x")), None),
        (edited("x", json!({"body": {"from": "y"}})), None),
    ];
    for (body, want) in rows {
        let got = match read("pull_request", &body) {
            Parsed::Event(Event { kind: EventKind::PullRequest(pull), .. }) => Some(pull.action),
            Parsed::Ignored { .. } => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(got, want, "{body}");
    }
    let pull = |body: &Value| match read("pull_request", body) {
        Parsed::Event(Event { kind: EventKind::PullRequest(pull), .. }) => pull.pull,
        other => panic!("{other:?}"),
    };
    assert!(pull(&pull_body("opened", "WIP: x")).draft);
    let mut gone = pull_body("opened", "x");
    gone["pull_request"]["head"]["repo_id"] = json!(-1);
    assert!(pull(&gone).fork, "a deleted fork is still a fork");
    assert!(!pull(&pull_body("opened", "x")).fork);
}
