//! Standard Webhooks' own vectors and the tables for GitLab's hooks.

use serde_json::{Value, json};

use super::*;

const TOKEN: &[u8] = b"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &[u8] = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
const AT_S: i64 = 1_649_367_553;
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
const RIGHT: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

fn check(
    (id, stamp, signatures): (&str, &str, &str),
    body: &[u8],
    tokens: &[&[u8]],
    now_ms: i64,
) -> Result<(), SignatureError> {
    let signed = Signed { id: id.as_bytes(), timestamp: stamp.as_bytes(), signatures: signatures.as_bytes() };
    verify(signed, body, tokens, now_ms)
}

#[test]
fn standard_webhooks_own_vectors() {
    let mut ok = 0;
    for (token, id, at, body, signature) in [
        (TOKEN, ID, AT_S, BODY, RIGHT),
        (
            &b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"[..],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ] {
        assert_eq!(sign(token, id, at, body), signature);
        assert_eq!(check((id, &at.to_string(), signature), body, &[token], at * 1000), Ok(()));
        ok += 1;
    }
    println!("FIGURE standard_webhooks_vectors ok={ok}");
}

#[test]
fn signature_table() {
    use SignatureError::{Closed, Malformed, Mismatch, Missing, Stale};
    let stamp = AT_S.to_string();
    let now = AT_S * 1000;
    let by_other = sign(OTHER, ID, AT_S, BODY);
    let digits = RIGHT.strip_prefix("v1,").expect("a version");
    let unpadded = RIGHT.trim_end_matches('=');
    let many = format!("{RIGHT} ").repeat(17);
    let (two, behind) = (format!("{by_other} {RIGHT}"), format!("v1a,{digits} {RIGHT}"));
    let joined = format!("{RIGHT},{RIGHT}");
    let (v2, bare_hex) = (format!("v2,{digits}"), "v1,b59d48e3f843ca000980ee5363189277");
    let mut cases = 0;
    let mut row = |name: &str, headers: (&str, &str, &str), body: &[u8], tokens: &[&[u8]], now, want| {
        cases += 1;
        assert_eq!(check(headers, body, tokens, now), want, "{name}");
    };
    row("right", (ID, &stamp, RIGHT), BODY, &[TOKEN], now, Ok(()));
    row("the second of two tokens", (ID, &stamp, RIGHT), BODY, &[OTHER, TOKEN], now, Ok(()));
    row("beside a blank token", (ID, &stamp, RIGHT), BODY, &[b"", TOKEN], now, Ok(()));
    row("beside a token that is none", (ID, &stamp, RIGHT), BODY, &[b"whsec_!", TOKEN], now, Ok(()));
    row("the second of two signatures", (ID, &stamp, &two), BODY, &[TOKEN], now, Ok(()));
    row("behind another version", (ID, &stamp, &behind), BODY, &[TOKEN], now, Ok(()));
    row("four minutes old", (ID, &stamp, RIGHT), BODY, &[TOKEN], now + 240_000, Ok(()));
    row("four minutes ahead", (ID, &stamp, RIGHT), BODY, &[TOKEN], now - 240_000, Ok(()));
    row("five minutes", (ID, &stamp, RIGHT), BODY, &[TOKEN], now + 300_000, Ok(()));
    row("a moment more", (ID, &stamp, RIGHT), BODY, &[TOKEN], now + 300_001, Err(Stale));
    row("a moment more ahead", (ID, &stamp, RIGHT), BODY, &[TOKEN], now - 300_001, Err(Stale));
    row("stale and wrong", (ID, &stamp, &by_other), BODY, &[TOKEN], 0, Err(Mismatch));
    row("no signature", (ID, &stamp, ""), BODY, &[TOKEN], now, Err(Missing));
    row("blanks", (ID, &stamp, "   "), BODY, &[TOKEN], now, Err(Missing));
    row("no id", ("", &stamp, RIGHT), BODY, &[TOKEN], now, Err(Missing));
    row("a dot in the id", ("msg.1", &stamp, RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("no timestamp", (ID, "", RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("negative timestamp", (ID, "-1", RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("timestamp with a plus", (ID, "+1649367553", RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("timestamp in words", (ID, "now", RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("timestamp of ages", (ID, "9999999999999999999", RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("timestamp with a point", (ID, "1649367553.0", RIGHT), BODY, &[TOKEN], now, Err(Malformed));
    row("another timestamp", (ID, "1649367554", RIGHT), BODY, &[TOKEN], now, Err(Mismatch));
    row("timestamp with a zero", (ID, "01649367553", RIGHT), BODY, &[TOKEN], now, Err(Mismatch));
    row("another id", ("msg_2", &stamp, RIGHT), BODY, &[TOKEN], now, Err(Mismatch));
    row("another body", (ID, &stamp, RIGHT), b"{}", &[TOKEN], now, Err(Mismatch));
    row("empty body", (ID, &stamp, RIGHT), b"", &[TOKEN], now, Err(Mismatch));
    row("another token", (ID, &stamp, RIGHT), BODY, &[OTHER], now, Err(Mismatch));
    row("id and timestamp shifted", ("msg", "27", RIGHT), BODY, &[TOKEN], now, Err(Mismatch));
    row("no version", (ID, &stamp, digits), BODY, &[TOKEN], now, Err(Malformed));
    row("another version", (ID, &stamp, &v2), BODY, &[TOKEN], now, Err(Malformed));
    row("upper-case version", (ID, &stamp, &RIGHT.replace("v1", "V1")), BODY, &[TOKEN], now, Err(Malformed));
    row("version alone", (ID, &stamp, "v1,"), BODY, &[TOKEN], now, Err(Malformed));
    row("without padding", (ID, &stamp, unpadded), BODY, &[TOKEN], now, Err(Malformed));
    row("hexadecimal", (ID, &stamp, bare_hex), BODY, &[TOKEN], now, Err(Malformed));
    row("joined by commas", (ID, &stamp, &joined), BODY, &[TOKEN], now, Err(Malformed));
    row("too many", (ID, &stamp, &many), BODY, &[TOKEN], now, Err(Malformed));
    row("no tokens", (ID, &stamp, RIGHT), BODY, &[], now, Err(Closed));
    row("blank tokens", (ID, &stamp, RIGHT), BODY, &[b" ", b""], now, Err(Closed));
    row("tokens that are none", (ID, &stamp, RIGHT), BODY, &[b"whsec_", b"whsec_*"], now, Err(Closed));
    for bit in 0..20usize {
        let mut bytes = STANDARD.decode(digits).expect("base64");
        bytes[(bit * 13) % 32] ^= 1 << (bit % 8);
        let flipped = format!("v1,{}", STANDARD.encode(bytes));
        row("one bit flipped", (ID, &stamp, &flipped), BODY, &[TOKEN], now, Err(Mismatch));
    }
    println!("FIGURE gitlab_signature_table cases={cases} failed=0");
}

#[test]
fn plain_tokens() {
    use SignatureError::{Closed, Mismatch, Missing, Repeated};
    let token: &[u8] = b"a plain token of GitLab";
    let rows: [(&[&[u8]], &[&[u8]], Result<(), SignatureError>); 10] = [
        (&[token], &[token], Ok(())),
        (&[token], &[b"the one before it", token], Ok(())),
        (&[], &[token], Err(Missing)),
        (&[b""], &[token], Err(Mismatch)),
        (&[b"a plain token of GitLa"], &[token], Err(Mismatch)),
        (&[b"a plain token of GitLab "], &[token], Err(Mismatch)),
        (&[b"A plain token of GitLab"], &[token], Err(Mismatch)),
        (&[token, token], &[token], Err(Repeated)),
        (&[b""], &[b""], Err(Closed)),
        (&[token], &[], Err(Closed)),
    ];
    for (given, tokens, want) in rows {
        assert_eq!(verify_plain(given, tokens), want, "{given:?}");
    }
}

fn project() -> Value {
    json!({"id": 15, "path_with_namespace": "group/sub/churn", "default_branch": "main"})
}

fn push_body() -> Value {
    json!({
        "object_kind": "push", "event_name": "push", "ref": "refs/heads/try", "before": "a".repeat(40), "after": "b".repeat(40),
        "user_id": 7, "user_username": "ann", "project": project(), "total_commits_count": 44,
        "commits": [{"id": "b".repeat(40), "message": "Two", "author": {"name": "Someone Else"}}],
    })
}

#[expect(clippy::needless_pass_by_value, reason = "tables read better so")]
fn merge_request_body(action: &str, changes: Value) -> Value {
    json!({
        "object_kind": "merge_request", "user": {"id": 7, "username": "ann"}, "project": project(), "changes": changes,
        "object_attributes": {
            "iid": 3, "title": "Try", "state": "opened", "author_id": 7, "source_branch": "try", "target_branch": "main",
            "source_project_id": 15, "target_project_id": 15, "draft": false, "action": action,
            "last_commit": {"id": "b".repeat(40), "author": {"name": "Someone Else", "email": "root@example.com"}},
        },
    })
}

fn read(body: &Value) -> Parsed {
    parse(&serde_json::to_vec(body).expect("JSON"))
}

fn event(body: &Value) -> Event {
    match read(body) {
        Parsed::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

fn with(mut body: Value, at: &str, value: Value) -> Value {
    let (parent, key) = at.rsplit_once('/').expect("a pointer");
    body.pointer_mut(parent).expect("a parent")[key] = value;
    body
}

#[test]
fn pushes_and_tags() {
    let read_push = event(&push_body());
    assert_eq!(read_push.repo.name.as_str(), "group/sub/churn");
    assert_eq!((read_push.actor.id.as_str(), read_push.actor.login.as_str()), ("7", "ann"));
    let EventKind::Push(push) = read_push.kind else { panic!("a push") };
    assert_eq!((push.branch.as_str(), push.message.as_str()), ("try", "Two"));
    let zero = json!("0".repeat(40));
    let EventKind::Push(gone) =
        event(&with(with(push_body(), "/after", zero.clone()), "/checkout_sha", Value::Null)).kind
    else {
        panic!("a push")
    };
    assert_eq!(gone.after, None);
    let EventKind::Push(unlisted) = event(&with(push_body(), "/commits", json!([]))).kind else {
        panic!("a push")
    };
    assert_eq!(
        (unlisted.message.as_str(), unlisted.after.is_some()),
        ("", true),
        "trees decide, not the list"
    );
    let tag = with(with(push_body(), "/object_kind", json!("tag_push")), "/ref", json!("refs/tags/v1"));
    assert!(matches!(event(&tag).kind, EventKind::Tag(tag) if tag.tag == "v1"));
    let bad = |body: &Value| matches!(read(body), Parsed::BadPayload { .. });
    assert!(bad(&with(with(push_body(), "/after", zero.clone()), "/before", zero)));
    assert!(bad(&with(push_body(), "/after", json!("B".repeat(40)))));
    assert!(bad(&with(push_body(), "/ref", json!("refs/heads/-x..y"))));
    assert!(bad(&with(push_body(), "/project/path_with_namespace", json!("../../etc"))));
    assert!(matches!(read(&json!({"event_name": "push"})), Parsed::Ignored { .. }), "a system hook");
    assert!(matches!(read(&json!({"hello": 1})), Parsed::Ignored { .. }), "a template of one's own");
}

#[test]
fn merge_requests() {
    use PullRequestAction::{Closed, Labeled, Opened, ReadyForReview, Reopened, Retargeted, Synchronized};
    let none = || json!({});
    let draft = |previous: bool, current: bool| json!({"previous": previous, "current": current});
    let moved =
        with(merge_request_body("update", none()), "/object_attributes/oldrev", json!("a".repeat(40)));
    let rows = [
        (merge_request_body("open", none()), Some(Opened)),
        (merge_request_body("reopen", none()), Some(Reopened)),
        (merge_request_body("close", none()), Some(Closed)),
        (merge_request_body("merge", none()), Some(Closed)),
        (moved, Some(Synchronized)),
        (
            merge_request_body("update", json!({"target_branch": {"previous": "main", "current": "next"}})),
            Some(Retargeted),
        ),
        (merge_request_body("update", json!({"draft": draft(true, false)})), Some(ReadyForReview)),
        (merge_request_body("update", json!({"work_in_progress": draft(true, false)})), Some(ReadyForReview)),
        (merge_request_body("update", json!({"labels": {"previous": [], "current": []}})), Some(Labeled)),
        (merge_request_body("update", json!({"draft": draft(false, true)})), None),
        (merge_request_body("update", json!({"title": {"previous": "a", "current": "b"}})), None),
        (merge_request_body("update", Value::Null), None),
        (merge_request_body("approved", none()), None),
        (merge_request_body("teleport", none()), None),
        (with(merge_request_body("open", none()), "/object_attributes/action", Value::Null), None),
        (with(merge_request_body("open", none()), "/object_attributes/last_commit", Value::Null), None),
    ];
    for (body, want) in rows {
        let got = match read(&body) {
            Parsed::Event(Event { kind: EventKind::PullRequest(pull), .. }) => Some(pull.action),
            Parsed::Ignored { reason } => {
                assert!(!reason.is_empty());
                None
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(got, want, "{body}");
    }
    let pull = |body: &Value| match event(body).kind {
        EventKind::PullRequest(pull) => pull.pull,
        other => panic!("{other:?}"),
    };
    let own = pull(&merge_request_body("open", none()));
    assert_eq!((own.fork, own.open, own.number, own.base_sha), (false, true, 3, None));
    assert_eq!(
        (own.author.id.as_str(), own.author.login.as_str()),
        ("7", "ann"),
        "never a name from a commit"
    );
    let fork = with(merge_request_body("open", none()), "/object_attributes/source_project_id", json!(99));
    assert!(pull(&fork).fork);
    let gone = with(fork, "/object_attributes/source_project_id", Value::Null);
    assert!(pull(&gone).fork, "a deleted fork is still a fork");
    let others =
        with(merge_request_body("update", json!({"labels": {}})), "/object_attributes/author_id", json!(8));
    let others = pull(&others);
    assert_eq!((others.author.id.as_str(), others.author.login.as_str()), ("8", "user 8"));
}

#[test]
fn notes() {
    let body = json!({
        "object_kind": "note", "user": {"id": 9, "username": "eve"}, "project": project(),
        "object_attributes": {
            "id": 44, "note": "/trainyard run", "noteable_type": "MergeRequest", "action": "create", "system": false,
            "created_at": "1", "updated_at": "1",
        },
        "merge_request": {"iid": 3, "target_branch": "main"},
    });
    let EventKind::Comment(comment) = event(&body).kind else { panic!("a comment") };
    assert_eq!((comment.pull_number, comment.comment_id.as_str()), (3, "3/44"));
    let ignored = |body: Value| matches!(read(&body), Parsed::Ignored { .. });
    let at = |key: &str, value: Value| with(body.clone(), &format!("/object_attributes/{key}"), value);
    assert!(ignored(at("noteable_type", json!("Issue"))));
    assert!(ignored(at("action", json!("update"))));
    assert!(ignored(at("system", json!(true))));
    assert!(ignored(with(at("action", Value::Null), "/object_attributes/updated_at", json!("2"))));
    assert!(!ignored(at("action", Value::Null)), "older servers name no action");
}
