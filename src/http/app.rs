//! The dashboard's and the API's listener. Every route stands in one table with what it demands, so none can be forgotten:
//! the router is built from the table, and so is the test of who may do what.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::auth::{Guard, guard, login, logout};
use super::log_index::LogIndexes;
use super::problem::Problem;
use super::serve::{Limits, serve};
use super::{App, api, assets, follow, pages};
use crate::store::tokens::Scope;

/// Followers of logs: at once, and of one token.
const FOLLOWERS: usize = 256;
const FOLLOWERS_EACH: usize = 32;

/// What pages may load and where they may send: our own files and nothing else. No inline script, no inline style.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What a route demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Public,
    Read,
    Run,
    Admin,
}

impl Need {
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::Public => None,
            Self::Read => Some(Scope::Read),
            Self::Run => Some(Scope::Run),
            Self::Admin => Some(Scope::Admin),
        }
    }
}

/// Whether people or programs read its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    Page,
    Api,
}

/// One row of the table.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub need: Need,
    pub face: Face,
    /// Shows things of every repository at once: not for tokens that are bound to one.
    pub whole: bool,
    handler: MethodRouter<Web>,
}

/// The table.
pub fn routes() -> Vec<Route> {
    use Face::{Api, Page};
    use Need::{Admin, Public, Read, Run};
    let row = |method, path, need, face, whole, handler| Route { method, path, need, face, whole, handler };
    vec![
        row("GET", "/assets/{name}", Public, Page, false, get(assets::serve)),
        row("GET", "/login", Public, Page, false, get(pages::login)),
        row("POST", "/login", Public, Page, false, post(login)),
        row("POST", "/logout", Public, Page, false, post(logout)),
        row("GET", "/", Read, Page, false, get(pages::runs::list)),
        row("GET", "/runs/{run}", Read, Page, false, get(pages::run::show)),
        row("GET", "/runs/{run}/log", Read, Page, false, get(pages::log::show)),
        row("GET", "/runs/{run}/stream", Read, Page, false, get(pages::stream::stream)),
        row("GET", "/repos", Read, Page, false, get(pages::repos::list)),
        row("GET", "/repos/{*repo}", Read, Page, false, get(pages::repos::show)),
        row("GET", "/pulls/{number}/{*repo}", Read, Page, false, get(pages::repos::pull)),
        row("POST", "/runs/{run}/cancel", Run, Page, false, post(pages::run::cancel)),
        row("POST", "/runs/{run}/rerun", Run, Page, false, post(pages::run::rerun)),
        row("POST", "/runs/{run}/release", Run, Page, false, post(pages::run::release)),
        row("GET", "/deliveries", Read, Page, true, get(pages::deliveries::list)),
        row("GET", "/deliveries/{delivery}", Read, Page, true, get(pages::deliveries::show)),
        row("GET", "/pools", Read, Page, false, get(pages::pools::show)),
        row("GET", "/api/v1/whoami", Read, Api, false, get(api::whoami)),
        row("GET", "/api/v1/openapi.json", Public, Api, false, get(api::openapi::description)),
        row("GET", "/api/v1/repos", Read, Api, false, get(api::repos)),
        row("GET", "/api/v1/trend", Read, Api, false, get(api::trend)),
        row("GET", "/api/v1/runs", Read, Api, false, get(api::runs)),
        row("GET", "/api/v1/runs/{run}", Read, Api, false, get(api::run)),
        row("GET", "/api/v1/runs/{run}/steps", Read, Api, false, get(api::steps)),
        row("GET", "/api/v1/runs/{run}/metrics", Read, Api, false, get(api::metrics)),
        row("GET", "/api/v1/runs/{run}/metric-sources", Read, Api, false, get(api::metric_sources)),
        row("GET", "/api/v1/runs/{run}/data", Read, Api, false, get(api::data)),
        row("GET", "/api/v1/runs/{run}/params", Read, Api, false, get(api::params)),
        row("GET", "/api/v1/runs/{run}/artifacts", Read, Api, false, get(api::artifacts)),
        row("GET", "/api/v1/runs/{run}/comparisons", Read, Api, false, get(api::comparisons)),
        row("GET", "/api/v1/runs/{run}/plan", Read, Api, false, get(api::plan)),
        row("GET", "/api/v1/runs/{run}/diff", Read, Api, false, get(api::diff)),
        row("GET", "/api/v1/runs/{run}/why", Read, Api, false, get(api::why)),
        row("GET", "/api/v1/runs/{run}/steps/{step}/reuse", Read, Api, false, get(api::reuse)),
        row("POST", "/api/v1/runs/{run}/rerun", Run, Api, false, post(api::rerun)),
        row("POST", "/api/v1/runs/{run}/cancel", Run, Api, false, post(api::cancel)),
        row("POST", "/api/v1/runs/{run}/release", Run, Api, false, post(api::release)),
        row("GET", "/api/v1/attempts/{attempt}/log", Read, Api, false, get(follow::download)),
        row("GET", "/api/v1/attempts/{attempt}/log/stream", Read, Api, false, get(follow::stream)),
        row("GET", "/api/v1/attempts/{attempt}/log/index", Read, Api, false, get(api::log_index)),
        row("GET", "/api/v1/attempts/{attempt}/log/lines", Read, Api, false, get(api::log_lines)),
        row("GET", "/api/v1/attempts/{attempt}/log/search", Read, Api, false, get(api::log_search)),
        row("GET", "/api/v1/attempts/{attempt}/artifact", Read, Api, false, get(api::artifact)),
        row("GET", "/api/v1/deliveries", Read, Api, true, get(api::deliveries)),
        row("GET", "/api/v1/deliveries/{delivery}", Read, Api, true, get(api::delivery)),
        row("POST", "/api/v1/deliveries/{delivery}/replay", Admin, Api, true, post(api::replay)),
        row("GET", "/api/v1/pools", Read, Api, false, get(api::pools)),
        row("GET", "/api/v1/tokens", Admin, Api, true, get(api::tokens)),
        row("POST", "/api/v1/tokens", Admin, Api, true, post(api::create_token)),
        row("DELETE", "/api/v1/tokens/{token}", Admin, Api, true, delete(api::revoke_token)),
    ]
}

/// What the handlers of this listener hold. Cheap to clone.
#[derive(Clone)]
pub struct Web(Arc<WebParts>);

pub struct WebParts {
    pub app: App,
    /// `https://trainyard.example.org`, as browsers write it in `Origin`.
    pub public_origin: String,
    /// Reached over https: cookies are `Secure`.
    pub secure: bool,
    followers: Mutex<HashMap<String, usize>>,
    pub log_indexes: LogIndexes,
}

impl Deref for Web {
    type Target = WebParts;
    fn deref(&self) -> &WebParts {
        &self.0
    }
}

/// A place among the followers, given back when it is dropped.
pub struct Follower {
    web: Web,
    key: String,
}

impl Web {
    pub fn new(app: App) -> Self {
        let public_origin = origin_of(&app.config.public_url);
        let secure = public_origin.starts_with("https://");
        Self(Arc::new(WebParts {
            app,
            public_origin,
            secure,
            followers: Mutex::default(),
            log_indexes: LogIndexes::default(),
        }))
    }

    /// # Errors
    /// 503 when all places are taken, 429 when this token has its share.
    pub fn follow(&self, key: &str) -> Result<Follower, Problem> {
        let mut taken = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= FOLLOWERS {
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many followers of logs at the moment",
            ));
        }
        let own = taken.entry(key.to_owned()).or_default();
        if *own >= FOLLOWERS_EACH {
            return Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("this token follows {FOLLOWERS_EACH} logs already; close one"),
            ));
        }
        *own += 1;
        Ok(Follower { web: self.clone(), key: key.to_owned() })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut taken = self.web.followers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// Scheme and authority of a URL.
fn origin_of(url: &str) -> String {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url[after..].find('/').map_or(url.len(), |at| after + at);
    url[..end].to_ascii_lowercase()
}

pub fn router(app: App) -> Router {
    let web = Web::new(app);
    let mut router = Router::new();
    for route in routes() {
        let Route { method, path, need, face, whole, handler } = route;
        let check = Guard { web: web.clone(), need, face, whole, call: (method, path) };
        router = router.route(path, handler.route_layer(from_fn_with_state(check, guard)));
    }
    router
        .fallback(|request: Request| async move {
            let problem = Problem::new(StatusCode::NOT_FOUND, "there is nothing at this address");
            refuse(request.uri().path(), &problem)
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let problem = Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address takes other methods; `Allow` names them",
            );
            refuse(request.uri().path(), &problem)
        })
        .layer(DefaultBodyLimit::max(64 << 10))
        .layer(from_fn_with_state(web.clone(), every_answer))
        .with_state(web)
}

/// A refusal in front of every route: for programs below `/api/`, for people elsewhere.
fn refuse(path: &str, problem: &Problem) -> Response {
    if path.starts_with("/api/") { problem.clone().into_response() } else { pages::problem(problem) }
}

/// Serves until `shutdown` is cancelled.
pub async fn serve_app(listener: TcpListener, app: App, shutdown: CancellationToken) {
    let telemetry = Arc::clone(&app.telemetry);
    serve(listener, router(app), Limits::of("app"), telemetry, shutdown).await;
}

/// Refuses names that are not ours, which keeps out pages that rebind their own name to our address, and sets the headers
/// that every answer carries unless it chose its own.
async fn every_answer(State(web): State<Web>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let target = request.uri().path_and_query().map_or("", |p| p.as_str());
    let path = request.uri().path().to_owned();
    let mut response = if target.contains("%00") {
        refuse(&path, &Problem::new(StatusCode::NOT_FOUND, "nothing here has a NUL in its name"))
    } else if own_host(&web.public_origin, host) {
        next.run(request).await
    } else {
        let detail = "this name is not the dashboard's; set `public_url` in the configuration to the address that people use";
        refuse(&path, &Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
    };
    let headers = response.headers_mut();
    let defaults = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not `no-referrer`: forms would then be sent with `Origin: null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The public URL's name, `localhost`, or an address: an address cannot be rebound.
fn own_host(public_origin: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    if public_origin.split_once("://").is_some_and(|(_, authority)| authority == host) {
        return true;
    }
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.split_once(':').map_or(host.as_str(), |(name, _)| name),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_answered() {
        let public = origin_of("https://Trainyard.example.org/ml/");
        assert_eq!(public, "https://trainyard.example.org");
        for good in ["trainyard.example.org", "127.0.0.1:8700", "[::1]:8700", "localhost:1", "10.0.0.7"] {
            assert!(own_host(&public, good), "{good}");
        }
        for bad in ["", "evil.example", "trainyard.example.org.evil", "localhost.evil:80", "[evil]:1"] {
            assert!(!own_host(&public, bad), "{bad}");
        }
    }

    #[test]
    fn no_route_stands_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for route in routes() {
            assert!(seen.insert((route.method, route.path)), "{} {}", route.method, route.path);
            assert_eq!(route.face == Face::Api, route.path.starts_with("/api/v1/"), "{}", route.path);
            assert!(route.method == "GET" || route.need != Need::Read, "{} changes something", route.path);
        }
    }
}
