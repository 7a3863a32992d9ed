//! One call: how git is reached, what each failure means, and whom the token is shown to.

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;
use trainyard::config::ForgeKind;
use trainyard::forge::{ForgeError, Status, StatusState};
use trainyard::sandbox::{BOT, Fault, FaultKind};

use super::{KINDS, stage_of};
use crate::worktree::WorkTree;

#[tokio::test(flavor = "multi_thread")]
async fn git_is_fetched_with_the_forges_own_address_and_header() {
    for kind in KINDS {
        git_is_fetched(kind).await;
    }
}

async fn git_is_fetched(kind: ForgeKind) {
    use secrecy::ExposeSecret;
    let s = stage_of(kind).await;
    s.tree.write("a", "1");
    let first = s.tree.commit("one");
    s.tree.push(&["main"]);
    let access = s.forge.git(&s.repo);
    assert_eq!(access.url, format!("{}/acme/churn.git", s.sandbox.url()));
    let header = access.authorization.expect("a header");
    let fetch = |header: &str| {
        let elsewhere = WorkTree::new(&access.url);
        let config = format!("http.extraHeader=Authorization: {header}");
        let out = elsewhere
            .command(&["-c", &config, "fetch", "--quiet", "--depth=1", &access.url, first.as_str()])
            .output();
        out.expect("git").status.success()
    };
    tokio::task::block_in_place(|| {
        assert!(fetch(header.expose_secret()), "any commit can be fetched by its id");
        assert!(!fetch("Basic bm9ib2R5Om5vdGhpbmc="), "a wrong password is refused");
    });
    assert!(!format!("{:?}", s.forge).contains(s.sandbox.account(BOT).token.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_apart_and_never_tried_again() {
    for kind in KINDS {
        failures_of(kind).await;
    }
}

async fn failures_of(kind: ForgeKind) {
    let s = stage_of(kind).await;
    s.tree.write("a", "1");
    let head = s.tree.commit("one");
    s.tree.push(&["main"]);
    let status = Status {
        context: "trainyard/default".into(),
        state: StatusState::Pending,
        description: "d".into(),
        target_url: String::new(),
    };
    let answer = |status: u16, headers: &[(&str, &str)], body: &str| FaultKind::Answer {
        status,
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        body: body.to_owned(),
    };
    let denied = r#"{"message":"Resource not accessible"}"#;
    let secondary = r#"{"message":"You have exceeded a secondary rate limit"}"#;
    let rows = [
        (answer(403, &[], denied), "refused"),
        (answer(401, &[], r#"{"message":"Bad credentials"}"#), "refused"),
        (answer(404, &[], "{}"), "refused"),
        (answer(410, &[], "{}"), "refused"),
        (answer(422, &[], "{}"), "refused"),
        (answer(451, &[], "{}"), "refused"),
        (answer(403, &[], secondary), "limited 60000"),
        (answer(403, &[("retry-after", "5")], denied), "limited 5000"),
        (answer(429, &[("retry-after", "120")], ""), "limited 120000"),
        (answer(429, &[], ""), "limited 60000"),
        (answer(403, &[("x-ratelimit-remaining", "0")], "{}"), "limited 60000"),
        (answer(500, &[], "<html>"), "transient"),
        (answer(502, &[], ""), "transient"),
        (answer(503, &[("retry-after", "1")], ""), "transient"),
        (answer(200, &[], "this is no JSON"), "transient"),
        (answer(301, &[("location", "http://127.0.0.1:1/steal")], ""), "refused"),
        (answer(307, &[("location", "http://127.0.0.1:1/steal")], ""), "refused"),
        (answer(307, &[("location", "//127.0.0.1:1/steal")], ""), "refused"),
        (FaultKind::DropBefore, "transient"),
        (FaultKind::DropAfter, "transient"),
    ];
    let cases = rows.len();
    for (kind, want) in rows {
        let calls = s.sandbox.exchanges().len();
        let shown = format!("{kind:?}");
        s.sandbox.inject(Fault::next(1, kind));
        let got = match s.forge.set_status(&s.repo, &head, &status).await {
            Ok(()) => "ok".to_owned(),
            Err(ForgeError::NotFound { .. }) => "not found".to_owned(),
            Err(ForgeError::Refused { .. }) => "refused".to_owned(),
            Err(ForgeError::Limited { wait_ms, .. }) => format!("limited {wait_ms}"),
            Err(ForgeError::Transient { message, .. }) => {
                assert!(!message.contains("http://"), "no URL in an error: {message}");
                "transient".to_owned()
            }
        };
        assert_eq!(got, want, "{shown}");
        assert_eq!(s.sandbox.exchanges().len(), calls + 1, "one attempt: {shown}");
    }
    assert_eq!(s.sandbox.statuses(&s.repo, &head).len(), 1, "only the dropped answer took effect");
    println!("FIGURE forge_failures kind={} cases={cases} failed=0", kind.word());
}

/// A server that keeps what it is asked and answers every call with one redirect.
async fn trap(location: String) -> (String, mpsc::UnboundedReceiver<HeaderMap>) {
    let (seen, asked) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let app = axum::Router::new().fallback(move |headers: HeaderMap| {
        let (seen, location) = (seen.clone(), location.clone());
        async move {
            seen.send(headers).expect("the test listens");
            (StatusCode::MOVED_PERMANENTLY, [("location", location)], "")
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_the_configured_host_alone() {
    let mut cases = 0;
    for kind in KINDS {
        cases += token_of(kind).await;
    }
    println!("SEC S12 cases={cases} failed=0");
}

async fn token_of(kind: ForgeKind) -> usize {
    let s = stage_of(kind).await;
    s.tree.write("a", "1");
    let head = s.tree.commit("one");
    s.tree.push(&["main"]);
    let (other, mut asked) = trap("http://127.0.0.1:1/".into()).await;
    let redirect = |location: String| {
        Fault::next(
            1,
            FaultKind::Answer {
                status: 301,
                headers: vec![("location".into(), location)],
                body: String::new(),
            },
        )
    };
    let api = s.sandbox.api_url();
    let mut cases = 0;
    for location in [
        other.clone(),
        format!("{other}/api/v3/user"),
        format!("{other}/api/v4/user"),
        format!("{api}.evil.example/user"),
        format!("{api}@127.0.0.1/user"),
        s.sandbox.url().to_owned(),
        format!("{}/api/v9/user", s.sandbox.url()),
        format!("//{}", other.trim_start_matches("http://")),
        "https://127.0.0.1:1/".into(),
        String::new(),
        "file:///etc/passwd".into(),
    ] {
        s.sandbox.inject(redirect(location.clone()));
        let refused = s.forge.commit(&s.repo, &head).await.expect_err("a redirect elsewhere");
        assert!(matches!(refused, ForgeError::Refused { .. }), "{location}: {refused}");
        cases += 1;
    }
    asked.try_recv().expect_err("nothing reached the other host");

    let same = match kind {
        ForgeKind::Gitlab => format!("{api}/projects/acme%2Fchurn/repository/commits/{head}"),
        _ => format!("{api}/repos/acme/churn/git/commits/{head}"),
    };
    s.sandbox.inject(redirect(same));
    s.forge.commit(&s.repo, &head).await.expect("a redirect within the API is followed");
    let around = redirect(format!("{api}/user"));
    s.sandbox.inject(Fault { times: 10, ..around });
    let endless = s.forge.commit(&s.repo, &head).await.expect_err("an endless redirect");
    assert!(matches!(endless, ForgeError::Transient { .. }), "{endless}");
    cases + 2
}
