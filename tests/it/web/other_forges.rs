//! Hooks of GitLab and Gitea over HTTP: their rows of S01, what makes a delivery the same, and every payload that others recorded.

use std::collections::BTreeMap;

use trainyard::clock::{Clock, SystemClock};
use trainyard::forge::webhook::{gitea, github, gitlab};

use super::{Answer, Web, raw};
use crate::forge_webhooks::{Recorded, recorded};

const BODY: &[u8] = br#"{"object_kind":"push"}"#;
const TOKEN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEXT_TOKEN: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PLAIN: &str = "a plain token of GitLab";
const SECRET: &str = "It's a Secret to Everybody";

async fn start() -> (Web, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        format!("{{ file = {file:?} }}")
    };
    let extra = format!(
        "[forge.lab]\nkind = \"gitlab\"\ntoken = {token}\n\
         [[forge.lab.hook]]\nid = \"signed\"\nsecrets = [{one}, {two}]\nowner = \"acme\"\n\
         [[forge.lab.hook]]\nid = \"plain\"\nsecrets = [{plain}]\nlegacy_plain_token = true\nowner = \"acme\"\n\
         [forge.tea]\nkind = \"gitea\"\nurl = \"https://git.example\"\ntoken = {token}\n\
         [[forge.tea.hook]]\nid = \"tea\"\nsecrets = [{tea}]\nowner = \"acme\"\n",
        token = secret("token", "a-token-of-the-forge"),
        one = secret("one", TOKEN),
        two = secret("two", NEXT_TOKEN),
        plain = secret("plain", PLAIN),
        tea = secret("tea", SECRET),
    );
    (Web::with("http://127.0.0.1:9", &extra).await, dir)
}

type Headers = Vec<(&'static str, String)>;

async fn post(web: &Web, path: &str, headers: &Headers, body: &[u8]) -> Answer {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: hooks\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.extend([*name, ": ", value.as_str(), "\r\n"]);
    }
    request += "\r\n";
    raw(web.hooks, [request.as_bytes(), body].concat()).await
}

fn now_s() -> i64 {
    SystemClock.now_ms() / 1000
}

fn signed(token: &str, id: &str, at_s: i64, body: &[u8]) -> Headers {
    vec![
        ("X-Gitlab-Event", "Push Hook".into()),
        ("webhook-id", id.into()),
        ("webhook-timestamp", at_s.to_string()),
        ("webhook-signature", gitlab::sign(token.as_bytes(), id, at_s, body)),
    ]
}

fn without(mut headers: Headers, name: &str) -> Headers {
    headers.retain(|(n, _)| *n != name);
    headers
}

fn with(mut headers: Headers, name: &'static str, value: &str) -> Headers {
    headers.push((name, value.into()));
    headers
}

fn plain(tokens: &[&str]) -> Headers {
    let mut headers = vec![("X-Gitlab-Event", "Push Hook".into()), ("Idempotency-Key", "plain-1".into())];
    headers.extend(tokens.iter().map(|token| ("X-Gitlab-Token", (*token).to_owned())));
    headers
}

fn tea(pairs: &[(&'static str, String)]) -> Headers {
    let mut headers = vec![
        ("X-Gitea-Event", "push".into()),
        ("X-GitHub-Event", "push".into()),
        ("X-Gitea-Delivery", "tea-1".into()),
        ("X-GitHub-Delivery", "tea-1".into()),
    ];
    headers.extend(pairs.iter().cloned());
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_gitlab_and_gitea_refuse_what_is_not_signed() {
    let (web, _dir) = start().await;
    let now = now_s();
    let right = || signed(TOKEN, "s-1", now, BODY);
    let signature = gitlab::sign(TOKEN.as_bytes(), "s-1", now, BODY);
    let resign = |value: String| with(without(right(), "webhook-signature"), "webhook-signature", &value);
    let hub = github::sign(SECRET.as_bytes(), BODY);
    let bare = gitea::sign(SECRET.as_bytes(), BODY);
    let wrong = gitea::sign(b"the secret of another hook", BODY);
    let one = |name: &'static str, value: &str| tea(&[(name, value.to_owned())]);
    let (lab, old, gt) = ("/hooks/gitlab/signed", "/hooks/gitlab/plain", "/hooks/gitea/tea");
    let mut cases: Vec<(&str, &str, Headers)> = vec![
        ("no headers", lab, vec![]),
        ("no signature", lab, without(right(), "webhook-signature")),
        ("no id", lab, without(right(), "webhook-id")),
        ("no timestamp", lab, without(right(), "webhook-timestamp")),
        (
            "the token itself instead",
            lab,
            with(without(right(), "webhook-signature"), "X-Gitlab-Token", TOKEN),
        ),
        (
            "the token itself alone",
            lab,
            vec![("X-Gitlab-Event", "Push Hook".into()), ("X-Gitlab-Token", TOKEN.into())],
        ),
        ("the token beside a wrong signature", lab, with(resign(wrong.clone()), "X-Gitlab-Token", TOKEN)),
        ("empty signature", lab, resign(String::new())),
        ("version alone", lab, resign("v1,".into())),
        ("no version", lab, resign(signature[3..].into())),
        ("another version", lab, resign(signature.replace("v1,", "v2,"))),
        ("hexadecimal", lab, resign(format!("v1,{bare}"))),
        ("GitHub's", lab, with(without(right(), "webhook-signature"), "X-Hub-Signature-256", &hub)),
        ("two signature headers", lab, with(right(), "webhook-signature", &signature)),
        ("two ids", lab, with(right(), "webhook-id", "s-1")),
        ("two timestamps", lab, with(right(), "webhook-timestamp", &now.to_string())),
        ("six minutes old", lab, signed(TOKEN, "s-1", now - 360, BODY)),
        ("six minutes ahead", lab, signed(TOKEN, "s-1", now + 360, BODY)),
        (
            "another timestamp",
            lab,
            with(without(right(), "webhook-timestamp"), "webhook-timestamp", &(now + 1).to_string()),
        ),
        ("another id", lab, with(without(right(), "webhook-id"), "webhook-id", "s-2")),
        ("another body", lab, signed(TOKEN, "s-1", now, b"{}")),
        ("of an unknown token", lab, signed("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "s-1", now, BODY)),
        ("of the plain token", lab, signed(PLAIN, "s-1", now, BODY)),
        ("plain: none", old, plain(&[])),
        ("plain: empty", old, plain(&[""])),
        ("plain: its beginning", old, plain(&[&PLAIN[..PLAIN.len() - 1]])),
        ("plain: more", old, plain(&[&format!("{PLAIN}x")])),
        ("plain: another case", old, plain(&[&PLAIN.to_uppercase()])),
        ("plain: twice", old, plain(&[PLAIN, PLAIN])),
        ("plain: wrong and right", old, plain(&["wrong", PLAIN])),
        ("plain: another hook's", old, plain(&[TOKEN])),
        ("plain: a signature instead", old, right()),
        ("gitea: none", gt, tea(&[])),
        ("gitea: empty", gt, one("X-Gitea-Signature", "")),
        (
            "gitea: empty, and an empty hub signature",
            gt,
            tea(&[("X-Gitea-Signature", String::new()), ("X-Hub-Signature-256", "sha256=".into())]),
        ),
        ("gitea: GitHub's header alone", gt, one("X-Hub-Signature-256", &hub)),
        ("gitea: Gogs' header alone", gt, one("X-Gogs-Signature", &bare)),
        ("gitea: with a prefix", gt, one("X-Gitea-Signature", &hub)),
        ("gitea: 63 digits", gt, one("X-Gitea-Signature", &bare[..63])),
        ("gitea: 65 digits", gt, one("X-Gitea-Signature", &format!("{bare}0"))),
        ("gitea: another secret", gt, one("X-Gitea-Signature", &wrong)),
        (
            "gitea: twice",
            gt,
            tea(&[("X-Gitea-Signature", bare.clone()), ("X-Gitea-Signature", bare.clone())]),
        ),
        (
            "gitea: a wrong Forgejo header",
            gt,
            tea(&[("X-Forgejo-Signature", wrong.clone()), ("X-Gitea-Signature", bare.clone())]),
        ),
        (
            "gitea: an empty Forgejo header",
            gt,
            tea(&[("X-Forgejo-Signature", String::new()), ("X-Gitea-Signature", bare.clone())]),
        ),
        ("gitea: of an empty body", gt, one("X-Gitea-Signature", &gitea::sign(SECRET.as_bytes(), b""))),
        ("gitea: GitLab's", gt, with(right(), "X-Gitea-Event", "push")),
    ];
    for bit in 0..20usize {
        let mut bytes = hex::decode(&bare).unwrap();
        bytes[(bit * 13) % 32] ^= 1 << (bit % 8);
        cases.push(("gitea: one bit flipped", gt, one("X-Gitea-Signature", &hex::encode(bytes))));
    }
    let (mut failed, mut bodies) = (0, BTreeMap::new());
    for (name, path, headers) in &cases {
        let answer = post(&web, path, headers, BODY).await;
        let mut stored = false;
        for id in ["s-1", "s-2", "plain-1", "tea-1"] {
            stored |= web.is_stored(id).await;
        }
        *bodies.entry(answer.body.clone()).or_insert(0) += 1;
        if answer.status != 401 || stored {
            eprintln!("{name}: {answer:?}, stored {stored}");
            failed += 1;
        }
    }
    println!("SEC S01 forges=gitlab,gitea cases={} failed={failed}", cases.len());
    assert_eq!(failed, 0);
    assert_eq!(bodies.len(), 1, "a forger could tell the reasons apart: {bodies:?}");
    // The controls: what is right is taken.
    let forgejo = tea(&[("X-Forgejo-Signature", bare.clone()), ("X-Gitea-Signature", wrong)]);
    for (path, headers) in [
        (lab, right()),
        (lab, signed(NEXT_TOKEN, "s-2", now, BODY)),
        (old, plain(&[PLAIN])),
        (gt, forgejo),
        (gt, with(without(one("X-Gitea-Signature", &bare), "X-Gitea-Delivery"), "X-Gitea-Delivery", "tea-2")),
    ] {
        assert_eq!(post(&web, path, &headers, BODY).await.status, 202, "{headers:?}");
    }
    assert_eq!(post(&web, "/hooks/github/tea", &one("X-Gitea-Signature", &bare), BODY).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_a_delivery_of_gitlab_the_same() {
    let (web, _dir) = start().await;
    let now = now_s();
    let (lab, old) = ("/hooks/gitlab/signed", "/hooks/gitlab/plain");
    let event =
        |body: &[u8], id: &str| with(signed(TOKEN, id, now, body), "X-Gitlab-Event-UUID", "one-chain");
    assert_eq!(post(&web, lab, &event(BODY, "a"), BODY).await.status, 202);
    assert_eq!(post(&web, lab, &event(BODY, "a"), BODY).await.status, 200);
    assert_eq!(post(&web, lab, &event(BODY, "b"), BODY).await.status, 202, "the chain's id is no delivery's");
    let mut keyed = with(event(BODY, "c"), "Idempotency-Key", "a");
    assert_eq!(post(&web, lab, &keyed, BODY).await.status, 202, "webhook-id goes first");
    keyed = plain(&[PLAIN]);
    assert_eq!(post(&web, old, &keyed, BODY).await.status, 202);
    assert_eq!(post(&web, old, &keyed, BODY).await.status, 200);
    // Without any id: event and body.
    let bare = without(plain(&[PLAIN]), "Idempotency-Key");
    assert_eq!(post(&web, old, &bare, BODY).await.status, 202);
    assert_eq!(post(&web, old, &bare, BODY).await.status, 200);
    assert_eq!(post(&web, old, &bare, b"{}").await.status, 202);
    let other = with(without(bare, "X-Gitlab-Event"), "X-Gitlab-Event", "Note Hook");
    assert_eq!(post(&web, old, &other, BODY).await.status, 202);
    for id in ["", "a b", "../x", &"a".repeat(129)] {
        assert_eq!(post(&web, lab, &signed(TOKEN, id, now, BODY), BODY).await.status / 100, 4, "{id:?}");
    }
    assert_eq!(post(&web, lab, &signed(TOKEN, &"a".repeat(128), now, BODY), BODY).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_payload_that_others_recorded_is_accepted() {
    let (web, _dir) = start().await;
    let mut statuses = BTreeMap::new();
    let files = recorded();
    for (number, Recorded { gitea: of_gitea, event, text, .. }) in files.iter().enumerate() {
        let id = format!("recorded-{number}");
        let (path, headers) = if *of_gitea {
            let headers = vec![
                ("X-Gitea-Event", event.clone()),
                ("X-Gitea-Delivery", id),
                ("X-Gitea-Signature", gitea::sign(SECRET.as_bytes(), text)),
            ];
            ("/hooks/gitea/tea", headers)
        } else {
            ("/hooks/gitlab/signed", signed(TOKEN, &id, now_s(), text))
        };
        *statuses.entry(post(&web, path, &headers, text).await.status).or_insert(0) += 1;
    }
    println!("FIGURE recorded_posted files={} statuses={statuses:?} 5xx=0", files.len());
    assert_eq!(statuses, BTreeMap::from([(202, files.len())]));
}
