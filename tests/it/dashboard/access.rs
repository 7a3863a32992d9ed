//! Who may do what. The cells are made from the route table: a route without a way to call it fails the test.

use axum::http::StatusCode;
use trainyard::http::app::{Face, Need, Route, routes};
use trainyard::http::{assets, auth};
use trainyard::model::RunState;
use trainyard::store::tokens::Scope;

use super::seed::Seeded;
use super::{Answer, Dashboard, bearer, request};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Anonymous,
    Reader,
    Runner,
    Admin,
    /// Admin scope, this repository only.
    OwnRepo,
    /// Admin scope, another repository only.
    OtherRepo,
    Revoked,
    Wrong,
    Session,
}

const CALLERS: [Caller; 9] = [
    Caller::Anonymous,
    Caller::Reader,
    Caller::Runner,
    Caller::Admin,
    Caller::OwnRepo,
    Caller::OtherRepo,
    Caller::Revoked,
    Caller::Wrong,
    Caller::Session,
];

impl Caller {
    fn scope(self) -> Option<Scope> {
        match self {
            Self::Anonymous | Self::Revoked | Self::Wrong => None,
            Self::Reader => Some(Scope::Read),
            Self::Runner => Some(Scope::Run),
            Self::Admin | Self::OwnRepo | Self::OtherRepo | Self::Session => Some(Scope::Admin),
        }
    }
    fn bound(self) -> bool {
        matches!(self, Self::OwnRepo | Self::OtherRepo)
    }
}

/// Path and body that call a route for real.
async fn call(at: &Dashboard, seeded: &Seeded, route: &Route) -> (String, String) {
    let style = assets::urls().style.trim_start_matches("/assets/").to_owned();
    let mut path = route
        .path
        .replace("{name}", &style)
        .replace("{run}", seeded.candidate.as_str())
        .replace("{attempt}", seeded.ended.as_str())
        .replace("{delivery}", &seeded.delivery)
        .replace("{*repo}", "ada/churn")
        .replace("{number}", "7");
    if path.contains("{step}") {
        let name = at.place.view(&seeded.candidate).await.steps[0].name.clone();
        path = path.replace("{step}", &trainyard::http::auth::escape_query(&name));
    }
    if path.contains("{token}") {
        at.token("short-lived", Scope::Read, None).await;
        let tokens = at.app.store.tokens().await.unwrap();
        let live = tokens.into_iter().rfind(|t| t.name == "short-lived" && t.revoked_ms.is_none()).unwrap();
        path = path.replace("{token}", &live.id);
    }
    assert!(!path.contains('{'), "say here how to call {} {}", route.method, route.path);
    match path.rsplit('/').next() {
        Some("artifact") => path.push_str("?path=out/model.bin"),
        Some("search") => path.push_str("?q=epoch"),
        Some("trend") => path.push_str("?repo=ada/churn"),
        Some("diff") => path = format!("{path}?with={}", seeded.base),
        _ => {}
    }
    let sha = at.place.view(&seeded.candidate).await.run.head_sha;
    let body = match (route.method, route.path) {
        ("POST", "/login") => format!("token={}&next=/", seeded.tokens.read),
        ("POST", "/runs/{run}/release") => format!("sha={sha}"),
        ("POST", "/api/v1/runs/{run}/release") => format!("{{\"sha\": \"{sha}\"}}"),
        ("POST", "/api/v1/tokens") => "{\"name\": \"made by a test\", \"scope\": \"read\"}".to_owned(),
        _ => String::new(),
    };
    (path, body)
}

async fn session(at: &Dashboard, token: &str) -> String {
    let headers = [
        ("origin", "http://dash.test".to_owned()),
        ("content-type", "application/x-www-form-urlencoded".into()),
    ];
    let answer = at.send(request("POST", "/login", &headers, &format!("token={token}&next=/pools"))).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text());
    assert_eq!(answer.headers["location"], "/pools");
    let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    cookie.split(';').next().unwrap().to_owned()
}

fn expected(route: &Route, caller: Caller) -> &'static [u16] {
    const FINE: &[u16] = &[200, 201, 303, 409];
    let Some(need) = route.need.scope() else { return FINE };
    let login: &[u16] = if route.face == Face::Page && route.method == "GET" { &[303] } else { &[401] };
    let Some(scope) = caller.scope() else { return login };
    if scope < need || (route.whole && caller.bound()) {
        return &[403];
    }
    let one = ["{run}", "{attempt}", "{*repo}", "/trend"];
    if caller == Caller::OtherRepo && one.iter().any(|part| route.path.contains(part)) {
        return &[404];
    }
    FINE
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let cookie = session(&at, &seeded.tokens.admin).await;
    let (mut cells, mut failed) = (0, Vec::new());
    for route in routes() {
        for caller in CALLERS {
            let (path, body) = call(&at, &seeded, &route).await;
            let t = &seeded.tokens;
            let token = match caller {
                Caller::Anonymous | Caller::Session => "",
                Caller::Reader => &t.read,
                Caller::Runner => &t.run,
                Caller::Admin => &t.admin,
                Caller::OwnRepo => &t.own,
                Caller::OtherRepo => &t.other,
                Caller::Revoked => &t.revoked,
                Caller::Wrong => "ty_api_0000000000000000000000000000000000000000_00000000",
            };
            let mut headers = bearer(token);
            if caller == Caller::Session {
                headers.push(("cookie", cookie.clone()));
            }
            if route.method != "GET" {
                headers.push(("origin", "http://dash.test".into()));
                let form = route.face == Face::Page;
                let kind = if form { "application/x-www-form-urlencoded" } else { "application/json" };
                headers.push(("content-type", kind.into()));
            }
            // These end the session that the other cells use.
            if caller == Caller::Session
                && matches!((route.method, route.path), ("POST", "/login" | "/logout"))
            {
                continue;
            }
            let answer = at.send(request(route.method, &path, &headers, &body)).await;
            cells += 1;
            let want = expected(&route, caller);
            let login = answer.headers.get("location").is_some_and(|l| l.as_bytes().starts_with(b"/login"));
            let turned_away = want == [303] && !login || want.contains(&200) && login;
            if !want.contains(&answer.status.as_u16()) || turned_away {
                failed.push(format!(
                    "{} {} as {caller:?}: {} not {want:?}",
                    route.method, route.path, answer.status
                ));
            }
            check_headers(&route, &answer);
        }
    }
    println!("SEC S17 cells={cells} failed={}", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(cells >= 200);
}

/// Every answer is guarded, and every refusal of the API is a problem document.
fn check_headers(route: &Route, answer: &Answer) {
    let csp = answer.headers["content-security-policy"].to_str().unwrap();
    assert!(csp.starts_with("default-src 'none'"), "{}: {csp}", route.path);
    assert!(!csp.contains("unsafe"), "{csp}");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    if route.face == Face::Api && answer.status.as_u16() >= 400 {
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", route.path);
        let problem = answer.json();
        for key in ["type", "title", "status", "detail"] {
            assert!(!problem[key].is_null(), "{problem}");
        }
    }
}

#[tokio::test]
async fn lists_and_filters_show_a_bound_token_its_own_repository_only() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let mut cells = 0;
    for path in [
        "/api/v1/runs",
        "/api/v1/runs?repo=ada/churn",
        "/api/v1/runs?repo=bob/ranking",
        "/api/v1/runs?state=succeeded",
        "/api/v1/runs?limit=200",
        "/",
        "/repos",
        "/api/v1/repos",
        "/?author=grace",
        "/?repo=ada/churn&pull=7",
        "/?repo=ada/churn",
        "/?branch=main",
    ] {
        let text = at.get(path, &seeded.tokens.other).await.text();
        assert!(
            !text.contains("ada/churn</a>")
                && !text.contains("/repos/ada/churn\"")
                && !text.contains("\"name\":\"ada/churn\"")
                && !text.contains("\"repo\":\"ada/churn\""),
            "{path}: {text}"
        );
        assert!(!text.contains(seeded.candidate.as_str()), "{path}");
        cells += 1;
    }
    let runs = at.get("/api/v1/runs", &seeded.tokens.other).await.json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1);
    assert_eq!(runs["runs"][0]["id"], seeded.others.as_str());
    println!("SEC S17.lists cells={cells} failed=0");
}

#[tokio::test]
async fn anyone_may_read_a_public_dashboard_and_nobody_may_change_it() {
    let at = Dashboard::new(true).await;
    let seeded = at.seed().await;
    for route in routes() {
        let (path, body) = call(&at, &seeded, &route).await;
        let headers =
            [("origin", "http://dash.test".to_owned()), ("content-type", "application/json".into())];
        let status = at.send(request(route.method, &path, &headers, &body)).await.status.as_u16();
        match route.need {
            Need::Read => assert_eq!(status, 200, "{path}"),
            Need::Run | Need::Admin => assert_eq!(status, 401, "{path}"),
            Need::Public => {}
        }
    }
    // What forges say of people is for administrators.
    let page = at.get(&format!("/deliveries/{}", seeded.delivery), "").await.text();
    assert!(!page.contains("head_commit") && page.contains("admin token"));
    let page = at.get(&format!("/deliveries/{}", seeded.delivery), &seeded.tokens.admin).await.text();
    assert!(page.contains("head_commit"));
}

#[tokio::test]
async fn other_sites_change_nothing() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let cookie = session(&at, &seeded.tokens.admin).await;
    let origins: [Option<&str>; 5] = [
        None,
        Some("https://evil.example"),
        Some("null"),
        Some("http://dash.test.evil.example"),
        Some("https://dash.test"),
    ];
    let before = at.app.store.tokens().await.unwrap().len();
    let mut cells = 0;
    for route in routes().iter().filter(|r| r.method != "GET") {
        for origin in origins {
            for kind in ["application/x-www-form-urlencoded", "text/plain", "application/json"] {
                let (path, body) = call(&at, &seeded, route).await;
                let mut headers = vec![("cookie", cookie.clone()), ("content-type", kind.to_owned())];
                headers.extend(origin.map(|o| ("origin", o.to_owned())));
                let answer = at.send(request(route.method, &path, &headers, &body)).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{} {path} from {origin:?}", route.method);
                cells += 1;
            }
        }
        // The page itself is ours, but the browser says that another site sent it.
        let (path, body) = call(&at, &seeded, route).await;
        let headers = [
            ("cookie", cookie.clone()),
            ("origin", "http://dash.test".into()),
            ("sec-fetch-site", "cross-site".into()),
        ];
        let answer = at.send(request(route.method, &path, &headers, &body)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        cells += 1;
    }
    let made_by_requests =
        at.app.store.tokens().await.unwrap().into_iter().filter(|t| t.name == "made by a test");
    assert_eq!(made_by_requests.count(), 0);
    assert!(at.app.store.tokens().await.unwrap().len() >= before);
    assert_eq!(at.place.view(&seeded.live).await.run.cancel_request, None);

    // A name that an attacker points at our address.
    let mut rebound = request("GET", "/", &[("cookie", cookie.clone())], "");
    rebound.headers_mut().insert("host", "evil.example:8700".parse().unwrap());
    assert_eq!(at.send(rebound).await.status, StatusCode::MISDIRECTED_REQUEST);
    cells += 1;

    // A token in a URL is refused even when it is valid.
    let answer = at.get(&format!("/api/v1/runs?token={}", seeded.tokens.admin), &seeded.tokens.admin).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    cells += 1;

    // Logins lead nowhere else.
    for next in ["//evil.example", "https://evil.example", "/%5Cevil.example", "javascript:alert(1)"] {
        let headers = [
            ("origin", "http://dash.test".to_owned()),
            ("content-type", "application/x-www-form-urlencoded".into()),
        ];
        let body = format!("token={}&next={next}", seeded.tokens.read);
        let answer = at.send(request("POST", "/login", &headers, &body)).await;
        assert_eq!(answer.headers["location"], "/", "{next}");
        cells += 1;
    }
    println!("SEC S16 cells={cells} failed=0");
}

#[tokio::test]
async fn sessions_end_with_logout_with_their_token_and_with_time() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let page = async |cookie: &str| {
        at.send(request("GET", "/api/v1/whoami", &[("cookie", cookie.to_owned())], "")).await.status
    };
    let first = session(&at, &seeded.tokens.run).await;
    let second = session(&at, &seeded.tokens.run).await;
    assert_ne!(first, second, "a session id is never reused");
    assert_eq!(page(&first).await, 200);
    // Logging in again with the cookie ends the old session (fixation).
    let headers = [
        ("origin", "http://dash.test".to_owned()),
        ("content-type", "application/x-www-form-urlencoded".into()),
        ("cookie", first.clone()),
    ];
    at.send(request("POST", "/login", &headers, &format!("token={}", seeded.tokens.admin))).await;
    assert_eq!(page(&first).await, 401);
    // Logging out ends it on the server.
    let headers = [("origin", "http://dash.test".to_owned()), ("cookie", second.clone())];
    assert_eq!(at.send(request("POST", "/logout", &headers, "")).await.status, 303);
    assert_eq!(page(&second).await, 401);
    // Revoking the token ends its sessions.
    let third = session(&at, &seeded.tokens.run).await;
    let row = at.app.store.token_by_hash(&auth::hash(&seeded.tokens.run)).await.unwrap().unwrap();
    at.app.store.revoke_token(&row.id, 1).await.unwrap();
    assert_eq!(page(&third).await, 401);
    // And so does time.
    let fourth = session(&at, &seeded.tokens.read).await;
    at.clock.advance(8 * 24 * 3_600_000);
    assert_eq!(page(&fourth).await, 401);
}

#[tokio::test]
async fn a_held_run_is_released_for_its_commit_only_and_a_run_is_cancelled_once() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let t = &seeded.tokens;
    let release = format!("/api/v1/runs/{}/release", seeded.held);
    let post = async |path: &str, body: &str| at.send(request("POST", path, &bearer(&t.run), body)).await;
    assert_eq!(post(&release, "").await.status, 400);
    assert_eq!(post(&release, "{\"sha\": \"abc\"}").await.status, 400);
    let wrong = at.place.view(&seeded.base).await.run.head_sha;
    assert_eq!(post(&release, &format!("{{\"sha\": \"{wrong}\"}}")).await.status, 409);
    assert_eq!(at.place.view(&seeded.held).await.run.state, RunState::Held);
    let sha = at.place.view(&seeded.held).await.run.head_sha;
    assert_eq!(post(&release, &format!("{{\"sha\": \"{sha}\"}}")).await.status, 200);
    assert_eq!(at.place.view(&seeded.held).await.run.state, RunState::Queued);

    let cancel = format!("/api/v1/runs/{}/cancel", seeded.live);
    assert_eq!(post(&cancel, "{\"reason\": \"wrong branch\"}").await.json()["changed"], true);
    assert_eq!(post(&cancel, "").await.json()["changed"], false);
    let why = at.place.view(&seeded.live).await.run.cancel_request.unwrap();
    assert_eq!(why, "cancelled by token runner: wrong branch");
}

#[tokio::test]
async fn the_first_token_lies_in_a_file_that_others_cannot_read() {
    use std::os::unix::fs::PermissionsExt;
    let at = Dashboard::new(false).await;
    let make = || auth::ensure_admin_token(&at.app.store, at.dir.path(), 1);
    let path = make().await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!(at.get("/api/v1/tokens", &token).await.status, 200);
    make().await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), token, "a live one stays");
    let row = at.app.store.tokens().await.unwrap().remove(0);
    at.app.store.revoke_token(&row.id, 2).await.unwrap();
    make().await.unwrap();
    assert_ne!(std::fs::read_to_string(&path).unwrap().trim(), token, "a revoked one is replaced");
}

#[tokio::test]
async fn hostile_text_is_escaped_on_every_page() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let runs = at.get("/api/v1/runs?pipeline=hostile", &seeded.tokens.read).await.json();
    let bad = runs["runs"][0]["id"].as_str().unwrap().to_owned();
    let pages = [
        "/".to_owned(),
        format!("/?branch={}", auth::escape_query(super::seed::HOSTILE)),
        "/?repo=%3Cscript%3Ealert(1)%3C/script%3E".into(),
        format!("/runs/{bad}"),
        format!("/runs/{bad}?part=live"),
        format!("/runs/{}", seeded.candidate),
        "/deliveries".into(),
        format!("/deliveries/{}", seeded.delivery),
        "/login?next=%22%3E%3Cscript%3E".into(),
        "/nothing/%3Cscript%3E".into(),
        "/runs/%3Cscript%3Ealert(1)".into(),
    ];
    let mut cases = 0;
    for path in pages {
        let page = at.get(&path, &seeded.tokens.admin).await.text();
        for bad in ["<img src=x", "<script>alert", "\u{202e}", "\u{1b}", "href=\"javascript:"] {
            assert!(!page.contains(bad), "{path} holds {bad:?}");
            cases += 1;
        }
        assert!(!page.contains("style=\"") && !page.contains("onclick"), "{path}");
    }
    println!("SEC S15 cases={cases} failed=0");
}
