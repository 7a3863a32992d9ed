//! What is not served is said as a problem document below `/api/`, and as a page to people.

use axum::http::StatusCode;
use trainyard::model::{RepoId, RunState};
use trainyard::store::tokens::Scope;

use super::{Answer, Dashboard, bearer, request};
use crate::store::fixture::{T0, new_run, sha};

fn kind(answer: &Answer) -> &str {
    answer.headers["content-type"].to_str().unwrap()
}

#[tokio::test]
async fn refusals_are_documents_for_programs_and_pages_for_people() {
    let at = Dashboard::new(false).await;
    let token = at.token("ops", Scope::Admin, None).await;
    let form = [
        ("origin", "http://dash.test".to_owned()),
        ("content-type", "application/x-www-form-urlencoded".to_owned()),
    ];
    let json = [("origin", "http://dash.test".to_owned()), ("content-type", "application/json".to_owned())];
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(3 << 20));
    let asks = [
        (request("POST", "/api/v1/tokens", &bearer(&token), &large), 413, "larger than 64 KiB"),
        (request("GET", "/api/v1/runs/%00", &bearer(&token), ""), 404, "NUL"),
        (request("PUT", "/api/v1/runs", &bearer(&token), ""), 405, "other methods"),
        (request("GET", "/api/v1/nothing", &bearer(&token), ""), 404, "nothing at this address"),
        (request("POST", "/login", &form, "next=/"), 422, "token"),
        (request("POST", "/login", &json, "{}"), 415, "Form requests"),
        (request("GET", "/runs/%00", &bearer(&token), ""), 404, "NUL"),
        (request("PUT", "/login", &[], ""), 405, "other methods"),
        (request("GET", "/nothing", &bearer(&token), ""), 404, "nothing at this address"),
    ];
    for (ask, status, part) in asks {
        let path = ask.uri().to_string();
        let answer = at.send(ask).await;
        let (wanted, text) = if path.starts_with("/api/") {
            ("application/problem+json", answer.json()["detail"].to_string())
        } else {
            ("text/html; charset=utf-8", answer.text())
        };
        assert_eq!((answer.status.as_u16(), kind(&answer)), (status, wanted), "{path}: {text}");
        assert!(text.contains(part), "{path}: {text}");
    }
}

#[tokio::test]
async fn a_parameter_that_is_not_there_is_refused_instead_of_answered_with_everything() {
    let at = Dashboard::new(false).await;
    let token = at.token("ops", Scope::Read, None).await;
    for (path, part) in [
        ("/api/v1/runs?reop=ada/churn", "there is no parameter \"reop\" here; there are "),
        ("/api/v1/runs?limit=3&Branch=main", "\"Branch\""),
        ("/api/v1/pools?name=cpu", "this call takes no query"),
    ] {
        let answer = at.get(path, &token).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {detail}");
        assert!(detail.contains(part), "{path}: {detail}");
    }
    assert_eq!(at.get("/api/v1/runs?repo=ada/churn&limit=3", &token).await.status, 200);
    assert_eq!(at.get("/api/v1/runs?reop=x", "").await.status, 401, "strangers learn nothing");
    // Pages are reached by links that others made, with whatever they add.
    assert_eq!(at.get("/?utm_source=mail", &token).await.status, 200);
}

#[tokio::test]
async fn the_scheme_of_a_token_has_no_letter_case() {
    let at = Dashboard::new(false).await;
    let token = at.token("ops", Scope::Read, None).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let headers = [("authorization", format!("{scheme} {token}"))];
        assert_eq!(at.send(request("GET", "/api/v1/runs", &headers, "")).await.status, 200, "{scheme}");
    }
    for wrong in [format!("Basic {token}"), token.clone(), format!("Bearer{token}")] {
        let headers = [("authorization", wrong)];
        assert_eq!(at.send(request("GET", "/api/v1/runs", &headers, "")).await.status, 401);
    }
}

#[tokio::test]
async fn a_run_that_is_named_too_shortly_is_told_apart_from_one_that_is_not_there() {
    let at = Dashboard::new(false).await;
    let repo = at.place.repo().await;
    let made = ['a', 'b'].map(|digit| new_run(&repo, &sha(digit), RunState::Queued));
    let runs = at.place.runs(made.into()).await;
    let all = at.token("all", Scope::Read, None).await;
    let own = at.token("own", Scope::Read, Some(&repo)).await;
    let other = at.token("other", Scope::Read, Some(&RepoId::generate(T0))).await;
    let short = &runs[0].as_str()[..8];
    let ask = async |text: &str, token: &str| {
        let answer = at.get(&format!("/api/v1/runs/{text}"), token).await;
        (answer.status.as_u16(), answer.json()["detail"].to_string())
    };
    for token in [&all, &own] {
        let (status, said) = ask(short, token).await;
        assert_eq!(status, 400, "{said}");
        assert!(said.contains("several runs begin with"), "{said}");
        assert!(runs.iter().all(|run| said.contains(run.as_str())), "{said}");
    }
    let (status, said) = ask("0192", &all).await;
    assert!(status == 400 && said.contains("too short"), "{said}");
    for unknown in ["ffffffff", "nothing"] {
        let (status, said) = ask(unknown, &all).await;
        assert!(status == 404 && said.contains("no such run"), "{said}");
    }
    // Others' runs are not there for a token that may not see them.
    let (status, said) = ask(short, &other).await;
    assert!(status == 404 && said.contains("no such run"), "{said}");
}
