//! The signature and JSON tables for GitHub's hooks.

use serde_json::{Value, json};

use super::super::parts::MAX_TEXT;
use super::*;
use crate::model::{Actor, CommentEvent, Event, PullRequestEvent, Push};

const SECRET: &[u8] = b"It's a Secret to Everybody";
const OTHER: &[u8] = b"another hook's secret, just as long";
const BODY: &[u8] = br#"{"zen": "Keep it logically awesome.", "hook_id": 1}"#;

fn check(name: &str, signatures: &[&[u8]], body: &[u8], secrets: &[&[u8]], want: Result<(), SignatureError>) {
    assert_eq!(verify(signatures, body, secrets), want, "{name}");
}

#[test]
fn githubs_own_vector() {
    let header = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(sign(SECRET, b"Hello, World!").as_bytes(), header);
    assert_eq!(verify(&[header], b"Hello, World!", &[SECRET]), Ok(()));
    println!("FIGURE github_hmac_vector ok=1");
}

#[test]
fn signature_table() {
    use SignatureError::{Closed, Malformed, Mismatch, Missing, Repeated};
    let right = sign(SECRET, BODY);
    let digits = right.strip_prefix("sha256=").expect("prefix").to_owned();
    let mut cases = 0;
    let mut row = |name: &str, signatures: &[&[u8]], body: &[u8], secrets: &[&[u8]], want| {
        cases += 1;
        check(name, signatures, body, secrets, want);
    };
    let one = |text: &str| text.as_bytes().to_vec();

    row("right", &[right.as_bytes()], BODY, &[SECRET], Ok(()));
    row(
        "right, digits in upper case",
        &[&one(&format!("sha256={}", digits.to_uppercase()))],
        BODY,
        &[SECRET],
        Ok(()),
    );
    row("right, by the second of two live secrets", &[right.as_bytes()], BODY, &[OTHER, SECRET], Ok(()));
    row("right, by the first of two live secrets", &[right.as_bytes()], BODY, &[SECRET, OTHER], Ok(()));
    row("right, beside a blank secret", &[right.as_bytes()], BODY, &[b"", SECRET], Ok(()));
    row("no header", &[], BODY, &[SECRET], Err(Missing));
    row("empty header", &[b""], BODY, &[SECRET], Err(Malformed));
    row("sha1 only", &[b"sha1=7d38cdd689735b008b3c702edd92eea23791c5f6"], BODY, &[SECRET], Err(Malformed));
    row("digits without a prefix", &[digits.as_bytes()], BODY, &[SECRET], Err(Malformed));
    row("prefix alone", &[b"sha256="], BODY, &[SECRET], Err(Malformed));
    row("prefix in upper case", &[&one(&format!("SHA256={digits}"))], BODY, &[SECRET], Err(Malformed));
    row("prefix in mixed case", &[&one(&format!("Sha256={digits}"))], BODY, &[SECRET], Err(Malformed));
    row("prefix with another sign", &[&one(&format!("sha256:{digits}"))], BODY, &[SECRET], Err(Malformed));
    row("prefix of a longer hash", &[&one(&format!("sha512={digits}"))], BODY, &[SECRET], Err(Malformed));
    row("prefix twice", &[&one(&format!("sha256=sha256={digits}"))], BODY, &[SECRET], Err(Malformed));
    row(
        "odd number of digits",
        &[&one(&format!("sha256={}", &digits[..31]))],
        BODY,
        &[SECRET],
        Err(Malformed),
    );
    row("32 digits", &[&one(&format!("sha256={}", &digits[..32]))], BODY, &[SECRET], Err(Malformed));
    row("63 digits", &[&one(&format!("sha256={}", &digits[..63]))], BODY, &[SECRET], Err(Malformed));
    row("62 digits", &[&one(&format!("sha256={}", &digits[..62]))], BODY, &[SECRET], Err(Malformed));
    row("65 digits", &[&one(&format!("{right}0"))], BODY, &[SECRET], Err(Malformed));
    row("66 digits", &[&one(&format!("{right}00"))], BODY, &[SECRET], Err(Malformed));
    row("128 digits", &[&one(&format!("{right}{digits}"))], BODY, &[SECRET], Err(Malformed));
    row("not hexadecimal", &[&one(&format!("sha256={}g", &digits[..63]))], BODY, &[SECRET], Err(Malformed));
    row(
        "digits of another script",
        &[&one(&format!("sha256={}０", &digits[..61]))],
        BODY,
        &[SECRET],
        Err(Malformed),
    );
    row("space before", &[&one(&format!(" {right}"))], BODY, &[SECRET], Err(Malformed));
    row("space after", &[&one(&format!("{right} "))], BODY, &[SECRET], Err(Malformed));
    row("space after the prefix", &[&one(&format!("sha256= {digits}"))], BODY, &[SECRET], Err(Malformed));
    row("tab and line feed after", &[&one(&format!("{right}\t\n"))], BODY, &[SECRET], Err(Malformed));
    row("NUL after", &[&one(&format!("{right}\0"))], BODY, &[SECRET], Err(Malformed));
    row("bytes that are no UTF-8", &[b"sha256=\xff\xfe"], BODY, &[SECRET], Err(Malformed));
    row(
        "base64 of the MAC",
        &[b"sha256=dXEH6g6yUJ/CESIczph+K4o3Vw1tdYbCLEb0N5yLBD4XAAAAAAAAAAAAAAAAAAAA"],
        BODY,
        &[SECRET],
        Err(Malformed),
    );
    row("comma-joined, both right", &[&one(&format!("{right},{right}"))], BODY, &[SECRET], Err(Malformed));
    row("comma-joined, with a space", &[&one(&format!("{right}, {right}"))], BODY, &[SECRET], Err(Malformed));
    row("two headers, both right", &[right.as_bytes(), right.as_bytes()], BODY, &[SECRET], Err(Repeated));
    row("two headers, first right", &[right.as_bytes(), b"sha256=00"], BODY, &[SECRET], Err(Repeated));
    row("two headers, second right", &[b"", right.as_bytes()], BODY, &[SECRET], Err(Repeated));
    row("all zeros", &[&one(&format!("sha256={}", "0".repeat(64)))], BODY, &[SECRET], Err(Mismatch));
    row("another hook's secret", &[&one(&sign(OTHER, BODY))], BODY, &[SECRET], Err(Mismatch));
    row("a secret that is no longer live", &[right.as_bytes()], BODY, &[OTHER], Err(Mismatch));
    row("an empty key", &[&one(&sign(b"", BODY))], BODY, &[SECRET], Err(Mismatch));
    row(
        "the secret and a line feed",
        &[&one(&sign(b"It's a Secret to Everybody\n", BODY))],
        BODY,
        &[SECRET],
        Err(Mismatch),
    );
    let again = serde_json::to_vec(&serde_json::from_slice::<Value>(BODY).expect("JSON")).expect("JSON");
    row("the MAC of re-serialised JSON", &[&one(&sign(SECRET, &again))], BODY, &[SECRET], Err(Mismatch));
    row(
        "the MAC of body and line feed",
        &[&one(&sign(SECRET, &[BODY, b"\n"].concat()))],
        BODY,
        &[SECRET],
        Err(Mismatch),
    );
    row(
        "the MAC of the decoded form",
        &[right.as_bytes()],
        b"payload=%7B%22zen%22%3A1%7D",
        &[SECRET],
        Err(Mismatch),
    );
    row("the MAC of an empty body", &[&one(&sign(SECRET, b""))], BODY, &[SECRET], Err(Mismatch));
    row("an empty body, signed", &[&one(&sign(SECRET, b""))], b"", &[SECRET], Ok(()));
    row("no secret configured", &[right.as_bytes()], BODY, &[], Err(Closed));
    row("no secret and no header", &[], BODY, &[], Err(Closed));
    row("an empty secret, signed with it", &[&one(&sign(b"", BODY))], BODY, &[b""], Err(Closed));
    row("a blank secret, signed with it", &[&one(&sign(b" \t\n", BODY))], BODY, &[b" \t\n"], Err(Closed));
    for bit in (0..256).step_by(12) {
        let mut mac: Vec<u8> = hex::decode(&digits).expect("hex");
        mac[bit / 8] ^= 1 << (bit % 8);
        row(
            "one bit differs",
            &[&one(&format!("sha256={}", hex::encode(&mac)))],
            BODY,
            &[SECRET],
            Err(Mismatch),
        );
    }
    for bit in [0, 7, BODY.len() * 8 - 1] {
        let mut body = BODY.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        row("one bit of the body differs", &[right.as_bytes()], &body, &[SECRET], Err(Mismatch));
    }
    println!("SEC S01 cases={cases} failed=0");
}

#[test]
fn form_bodies() {
    let form = "application/x-www-form-urlencoded";
    let ok = |kind: &str, body: &[u8]| payload(kind, body).expect("a payload");
    assert_eq!(ok("application/json", b"{}"), b"{}");
    assert_eq!(ok("Application/JSON; charset=utf-8", b"{}"), b"{}");
    assert_eq!(ok(form, b"payload=%7B%22a%22%3A+%22%2B%22%7D"), br#"{"a": "+"}"#);
    assert_eq!(ok(form, b"x=1&payl%6Fad={}&y"), b"{}");
    assert_eq!(ok(form, b"payload="), b"");
    for (kind, body) in [
        (form, b"".as_slice()),
        (form, b"payload={}&payload={}"),
        (form, b"payload=%7"),
        (form, b"payload=%zz"),
        (form, b"Payload={}"),
        ("", b"{}"),
        ("text/plain", b"{}"),
        ("application/jsonp", b"{}"),
        ("multipart/form-data; boundary=x", b"payload={}"),
    ] {
        payload(kind, body).expect_err(kind);
    }
}

fn push_body() -> Value {
    json!({
        "ref": "refs/heads/main", "before": "a".repeat(40), "after": "b".repeat(40),
        "created": false, "deleted": false, "forced": false,
        "head_commit": {"id": "b".repeat(40), "message": "Train longer"},
        "commits": [{"added": ["never read"]}],
        "repository": {"id": 7, "full_name": "acme/churn", "default_branch": "main"},
        "sender": {"id": 1, "login": "ada"}, "pusher": {"name": "ada"},
    })
}

fn pull_body(action: &str) -> Value {
    let repo = json!({"id": 7, "full_name": "acme/churn", "default_branch": "main"});
    json!({
        "action": action, "number": 3, "repository": repo, "sender": {"id": 1, "login": "ada"},
        "pull_request": {
            "number": 3, "title": "Try it", "state": "open", "draft": false, "user": {"id": 2, "login": "bob"},
            "head": {"ref": "try", "sha": "b".repeat(40), "repo": repo},
            "base": {"ref": "main", "sha": "a".repeat(40), "repo": repo},
        },
    })
}

fn with(mut body: Value, path: &str, value: Value) -> Vec<u8> {
    *body.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    serde_json::to_vec(&body).expect("JSON")
}

fn event_of(name: &str, body: &[u8]) -> Event {
    match parse(name, body) {
        Parsed::Event(event) => event,
        other => panic!("{name}: {other:?}"),
    }
}

fn push_of(body: &[u8]) -> Push {
    match event_of("push", body).kind {
        EventKind::Push(push) => push,
        other => panic!("{other:?}"),
    }
}

fn pull_of(body: &[u8]) -> PullRequestEvent {
    match event_of("pull_request", body).kind {
        EventKind::PullRequest(pull) => pull,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pushes() {
    let zero = json!("0".repeat(40));
    let plain = event_of("push", &serde_json::to_vec(&push_body()).expect("JSON"));
    assert_eq!(plain.repo.name.as_str(), "acme/churn");
    assert_eq!((plain.repo.forge_id.as_str(), plain.repo.default_branch.as_str()), ("7", "main"));
    assert_eq!(plain.actor, Actor { id: "1".into(), login: "ada".into() });
    let EventKind::Push(push) = plain.kind else { panic!("not a push") };
    assert_eq!((push.branch.as_str(), push.message.as_str(), push.forced), ("main", "Train longer", false));

    let new = push_of(&with(push_body(), "/before", zero.clone()));
    assert_eq!((new.before, new.after.is_some()), (None, true));
    assert!(push_of(&with(push_body(), "/forced", json!(true))).forced);
    assert_eq!(push_of(&with(push_body(), "/ref", json!("refs/heads/a/b"))).branch, "a/b");

    let mut gone = push_body();
    gone["deleted"] = json!(true);
    gone["head_commit"] = Value::Null;
    let gone = push_of(&with(gone, "/after", zero));
    assert_eq!((gone.after, gone.message.as_str()), (None, ""));

    let ignored = |body: &[u8]| matches!(parse("push", body), Parsed::Ignored { .. });
    assert!(matches!(
        parse("push", &with(push_body(), "/ref", json!("refs/tags/v1"))),
        Parsed::Event(Event { kind: EventKind::Tag(tag), .. }) if tag.tag == "v1" && tag.after.is_some()
    ));
    assert!(ignored(&with(push_body(), "/ref", json!("refs/notes/commits"))));
}

#[test]
fn pull_requests_and_comments() {
    let bytes = |body: &Value| serde_json::to_vec(body).expect("JSON");
    for (word, action) in [
        ("opened", PullRequestAction::Opened),
        ("synchronize", PullRequestAction::Synchronized),
        ("reopened", PullRequestAction::Reopened),
        ("ready_for_review", PullRequestAction::ReadyForReview),
        ("closed", PullRequestAction::Closed),
        ("labeled", PullRequestAction::Labeled),
        ("unlabeled", PullRequestAction::Labeled),
    ] {
        let read = pull_of(&bytes(&pull_body(word)));
        assert_eq!((read.action, read.pull.number, read.pull.fork, read.pull.open), (action, 3, false, true));
        assert_eq!((read.pull.author.login.as_str(), read.pull.head_branch.as_str()), ("bob", "try"));
    }
    let mut edited = pull_body("edited");
    edited["changes"] = json!({"title": {"from": "x"}});
    assert!(matches!(parse("pull_request", &bytes(&edited)), Parsed::Ignored { .. }));
    edited["changes"] = json!({"base": {"ref": {"from": "old"}, "sha": {"from": "x"}}});
    assert_eq!(pull_of(&bytes(&edited)).action, PullRequestAction::Retargeted);

    assert!(pull_of(&with(pull_body("opened"), "/pull_request/head/repo/id", json!(8))).pull.fork);
    assert!(pull_of(&with(pull_body("opened"), "/pull_request/head/repo", Value::Null)).pull.fork);
    let of_nobody = pull_of(&with(pull_body("opened"), "/pull_request/user", Value::Null)).pull.author;
    assert_eq!(of_nobody, Actor { id: "0".into(), login: "ghost".into() });

    let comment = json!({
        "action": "created", "issue": {"number": 3, "pull_request": {"url": "x"}},
        "comment": {"id": 9, "body": "nul \u{0} here", "user": {"id": 1, "login": "ada"}},
        "repository": {"id": 7, "full_name": "acme/churn", "default_branch": "main"}, "sender": {"id": 1, "login": "ada"},
    });
    let EventKind::Comment(read) = event_of("issue_comment", &bytes(&comment)).kind else {
        panic!("no comment")
    };
    assert_eq!(
        read,
        CommentEvent { pull_number: 3, comment_id: "9".into(), body: "nul \u{fffd} here".into() }
    );
    for (path, value) in [("/action", json!("edited")), ("/issue/pull_request", Value::Null)] {
        assert!(matches!(
            parse("issue_comment", &with(comment.clone(), path, value)),
            Parsed::Ignored { .. }
        ));
    }
}

#[test]
fn json_table() {
    #[derive(Debug, PartialEq)]
    enum Want {
        Event,
        Ignored,
        Bad,
    }
    let mut cases = 0;
    let mut row = |name: &str, event: &str, body: &[u8], want: Want| {
        cases += 1;
        let got = match parse(event, body) {
            Parsed::Event(_) => Want::Event,
            Parsed::Ignored { reason } => {
                assert!(!reason.is_empty());
                Want::Ignored
            }
            Parsed::BadPayload { reason } => {
                assert!(!reason.is_empty() && reason.len() <= 500, "{name}: {reason}");
                Want::Bad
            }
        };
        assert_eq!(got, want, "{name}");
    };
    let good = serde_json::to_string(&push_body()).expect("JSON");
    // Puts `extra` behind the opening brace.
    let plus = |extra: &str| format!("{{{extra},{}", &good[1..]).into_bytes();
    let nested = |depth: usize| plus(&format!(r#""x":{}{}"#, "[".repeat(depth), "]".repeat(depth)));

    row("as it should be", "push", good.as_bytes(), Want::Event);
    row("empty", "push", b"", Want::Bad);
    row("blank", "push", b" \n", Want::Bad);
    row("null", "push", b"null", Want::Bad);
    row("a number", "push", b"1", Want::Bad);
    row("an array", "push", b"[]", Want::Bad);
    row("an empty object", "push", b"{}", Want::Bad);
    row("half an object", "push", &good.as_bytes()[..good.len() / 2], Want::Bad);
    row("something after it", "push", format!("{good}{{}}").as_bytes(), Want::Bad);
    row("a line feed after it", "push", format!("{good}\n").as_bytes(), Want::Event);
    row("a byte order mark", "push", format!("\u{feff}{good}").as_bytes(), Want::Bad);
    row("UTF-16", "push", &good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), Want::Bad);
    row("depth 100", "push", &nested(100), Want::Event);
    row("depth 128", "push", &nested(128), Want::Bad);
    row("depth 10,000", "push", &nested(10_000), Want::Bad);
    row("depth 1,000,000", "push", &nested(1_000_000), Want::Bad);
    row("a million brackets, never closed", "push", &vec![b'['; 1_000_000], Want::Bad);
    row("a million objects, never closed", "push", r#"{"a":"#.repeat(1_000_000).as_bytes(), Want::Bad);
    // What nobody acts on is not read.
    row("depth 1,000,000 of an unknown event", "fork", &nested(1_000_000), Want::Ignored);
    row("a million elements", "push", &plus(&format!(r#""x":[{}0]"#, "0,".repeat(1_000_000))), Want::Event);
    row(
        "repository twice",
        "push",
        &plus(r#""repository":{"id":1,"full_name":"evil/churn","default_branch":"main"}"#),
        Want::Bad,
    );
    row("repository twice, once escaped", "push", &plus(r#""\u0072epository":{}"#), Want::Bad);
    row("ref twice", "push", &plus(r#""ref":"refs/heads/main""#), Want::Bad);
    row("an unread key twice", "push", &plus(r#""x":1,"x":1"#), Want::Bad);
    row("a key twice in an unread object", "push", &plus(r#""x":{"y":[{"z":1,"z":2}]}"#), Want::Bad);
    row(
        "a key twice in the repository",
        "push",
        good.replace(r#""id":7"#, r#""id":7,"id":8"#).as_bytes(),
        Want::Bad,
    );
    row("action twice", "pull_request", br#"{"action":"labeled","action":"opened"}"#, Want::Bad);
    row("keys that differ in case", "push", &plus(r#""Repository":{}"#), Want::Event);
    row("a big unread integer", "push", &plus(r#""x":123456789012345678901234567890"#), Want::Event);
    row("1e999", "push", &plus(r#""x":1e999"#), Want::Bad);
    row("NaN", "push", &plus(r#""x":NaN"#), Want::Bad);
    row("Infinity", "push", &plus(r#""x":-Infinity"#), Want::Bad);
    row("a leading zero", "push", &plus(r#""x":01"#), Want::Bad);
    row("a comma too many", "push", &plus(r#""x":[1,]"#), Want::Bad);
    row("a comment", "push", &plus(r#"/* */"x":1"#), Want::Bad);
    row("a lone surrogate", "push", &plus(r#""x":"\ud800""#), Want::Bad);
    row("a reversed pair", "push", &plus(r#""x":"\udc00\ud800""#), Want::Bad);
    row("a lone surrogate as a key", "push", &plus(r#""\ud800":1"#), Want::Bad);
    row("a surrogate pair", "push", &plus(r#""x":"\ud83d\ude80""#), Want::Event);
    row("bytes that are no UTF-8", "push", &[b"{\"x\":\"\xff\",", &good.as_bytes()[1..]].concat(), Want::Bad);
    row(
        "an overlong encoding",
        "push",
        &[b"{\"x\":\"\xc0\xaf\",", &good.as_bytes()[1..]].concat(),
        Want::Bad,
    );
    row("a raw NUL", "push", &plus("\"x\":\"\0\""), Want::Bad);
    row("an unknown event", "sponsorship_from_mars", b"{}", Want::Ignored);
    row("an event name of 1 MB", &"x".repeat(1_000_000), b"{}", Want::Ignored);
    row("no event name", "", b"{}", Want::Ignored);
    row("an unknown action", "pull_request", br#"{"action":"teleported"}"#, Want::Ignored);
    row("an unknown comment action", "issue_comment", br#"{"action":"pinned"}"#, Want::Ignored);
    row("no action", "pull_request", b"{}", Want::Bad);
    row("an action that is a number", "pull_request", br#"{"action":1}"#, Want::Bad);

    let mut change = |name: &str, path: &str, value: Value, want: Want| {
        row(name, "push", &with(push_body(), path, value), want);
    };
    let zero = || json!("0".repeat(40));
    change("repository id over 64 bits", "/repository/id", json!(1e30), Want::Bad);
    change("repository id negative", "/repository/id", json!(-1), Want::Bad);
    change("repository id as text", "/repository/id", json!("7"), Want::Bad);
    change("repository as an array", "/repository", json!([7, "acme/churn", "main"]), Want::Bad);
    change("NUL in the repository's name", "/repository/full_name", json!("acme/chu\u{0}rn"), Want::Bad);
    change("repository without owner", "/repository/full_name", json!("churn"), Want::Bad);
    change("repository with two slashes", "/repository/full_name", json!("acme/sub/churn"), Want::Bad);
    change("repository that climbs", "/repository/full_name", json!("../churn"), Want::Bad);
    change("emoji repository", "/repository/full_name", json!("acme/🚀"), Want::Bad);
    change("emoji branch", "/ref", json!("refs/heads/🚀"), Want::Event);
    change("branch of 300 characters", "/ref", json!(format!("refs/heads/{}", "b".repeat(300))), Want::Event);
    change(
        "branch of 10,000 characters",
        "/ref",
        json!(format!("refs/heads/{}", "b".repeat(10_000))),
        Want::Bad,
    );
    change("empty branch", "/ref", json!("refs/heads/"), Want::Bad);
    change("branch with a line feed", "/ref", json!("refs/heads/a\nb"), Want::Bad);
    change("branch with NUL", "/ref", json!("refs/heads/a\u{0}b"), Want::Bad);
    change("branch that climbs", "/ref", json!("refs/heads/../../config"), Want::Bad);
    change("branch with a refspec", "/ref", json!("refs/heads/a:b"), Want::Bad);
    change("branch with ANSI", "/ref", json!("refs/heads/\u{1b}[31mred"), Want::Bad);
    change("NUL in the message", "/head_commit/message", json!("a\u{0}b"), Want::Event);
    change("message of 1 MB", "/head_commit/message", json!("é".repeat(500_000)), Want::Event);
    change("zero after without deleted", "/after", zero(), Want::Bad);
    change("deleted with an after", "/deleted", json!(true), Want::Bad);
    change("short sha", "/after", json!("b".repeat(39)), Want::Bad);
    change("sha in upper case", "/after", json!("B".repeat(40)), Want::Bad);
    change("sha that is an option", "/after", json!("--upload-pack=touch /tmp/x;---------------"), Want::Bad);
    change("zero sha of the wrong length", "/before", json!("0".repeat(41)), Want::Bad);
    change("SHA-256 ids", "/after", json!("b".repeat(64)), Want::Event);
    change("login with a line feed", "/sender/login", json!("ada\nadmin"), Want::Bad);
    change("empty login", "/sender/login", json!(""), Want::Bad);
    let mut gone = push_body();
    gone["before"] = zero();
    gone["deleted"] = json!(true);
    row("zero before and zero after", "push", &with(gone, "/after", zero()), Want::Bad);
    println!("SEC S04 table_cases={cases} failed=0");
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let push = push_of(&with(push_body(), "/head_commit/message", json!("é".repeat(500_000))));
    assert_eq!(push.message.len(), MAX_TEXT);
}
