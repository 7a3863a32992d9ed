//! The dashboard: server-rendered pages. A page is a view model and a template; what is live in it is marked `data-live` and
//! fetched again by the page's script, so there is one way of drawing each thing.
//!
//! View models hold [`Shown`](super::text::Shown) for text from outside. No inline script or style, no `|safe` but for
//! `report::to_html`.

pub mod chart;
pub mod data;
pub mod deliveries;
pub mod graph;
pub mod icons;
pub mod intervals;
pub mod log;
pub mod metrics;
pub mod pools;
pub mod report;
pub mod repos;
pub mod run;
pub mod runs;
pub mod stream;

use askama::Template;
use axum::Extension;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::assets::{self, Urls};
use super::auth::{Who, escape_query, safe_next};
use super::extract::Query;
use super::problem::Problem;
use super::text::{Shown, shown};

/// What every page has around its content.
pub struct Shell {
    urls: Urls,
    nav: &'static str,
    name: Shown,
    signed_in: bool,
    /// Path to come back to after a login, percent-encoded.
    here: String,
    /// How often the live parts are fetched again; 0: never.
    refresh_ms: u32,
    /// Path of the events of this page; empty: none.
    stream: String,
}

impl Shell {
    pub fn new(nav: &'static str, who: &Who, here: &str, refresh_ms: u32) -> Self {
        Self {
            urls: assets::urls(),
            nav,
            name: shown(&who.name),
            signed_in: who.signed_in(),
            here: escape_query(here),
            refresh_ms,
            stream: String::new(),
        }
    }
    /// The page has events of its own; fetching it again is only for what they do not tell.
    #[must_use]
    pub fn streaming(mut self, path: String) -> Self {
        self.stream = path;
        self
    }
    fn bare() -> Self {
        Self {
            urls: assets::urls(),
            nav: "",
            name: Shown::default(),
            signed_in: false,
            here: "/".into(),
            refresh_ms: 0,
            stream: String::new(),
        }
    }
}

pub fn render(page: &impl Template) -> Result<Response, Problem> {
    Ok(Html(page.render()?).into_response())
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    shell: Shell,
    problem: &'a Problem,
}

/// An error as a page.
pub fn problem(problem: &Problem) -> Response {
    let code = problem.code();
    match (ProblemPage { shell: Shell::bare(), problem }).render() {
        Ok(page) => (code, Html(page)).into_response(),
        Err(_) => (code, problem.title.clone()).into_response(),
    }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    shell: Shell,
    failed: bool,
    next: &'a str,
}

#[derive(Debug, Deserialize)]
pub struct LoginQuery {
    #[serde(default)]
    next: String,
}

/// `GET /login`
pub async fn login(
    Extension(who): Extension<Who>,
    Query(query): Query<LoginQuery>,
) -> Result<Response, Problem> {
    let next = safe_next(&query.next);
    if who.signed_in() {
        return Ok(Redirect::to(next).into_response());
    }
    render(&LoginPage { shell: Shell::bare(), failed: false, next })
}

pub fn login_failed(next: &str) -> Response {
    match render(&LoginPage { shell: Shell::bare(), failed: true, next }) {
        Ok(page) => (StatusCode::UNAUTHORIZED, page).into_response(),
        Err(problem) => problem.into_response(),
    }
}
