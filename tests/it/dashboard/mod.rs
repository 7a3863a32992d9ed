//! The dashboard and the API on the real router: who may do what (S17), requests of other sites (S16), hostile text (S15),
//! logs followed byte by byte (G9, F32), and all of it in a real browser.

mod access;
mod browser;
mod command_line;
mod logs;
mod openapi;
mod refusals;
mod seed;
mod words;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use trainyard::blob::Blobs;
use trainyard::clock::ManualClock;
use trainyard::config::Config;
use trainyard::forge::Forges;
use trainyard::http::App;
use trainyard::http::app::router;
use trainyard::store::Instance;

use crate::store::fixture::{Place, T0, sqlite};

/// The app listener's router on a new store. The clock stands until a test moves it.
pub struct Dashboard {
    pub place: Place,
    pub app: App,
    pub clock: Arc<ManualClock>,
    pub router: axum::Router,
    pub dir: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }
}

impl Dashboard {
    pub async fn new(public_read: bool) -> Self {
        Self::at(public_read, "http://dash.test").await
    }

    pub async fn at(public_read: bool, public_url: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "a-token-of-the-forge").unwrap();
        let text = format!(
            "data_dir = {:?}\npublic_url = {public_url:?}\n[dashboard]\npublic_read = {public_read}\n\
             [forge.github]\nkind = \"github\"\nurl = \"https://forge.test\"\ntoken = {{ file = {:?} }}\n\
             [pool.cpu]\nslots = 4\n[pool.a100]\ngpus = 8\nslots = 4\ngpu_hour_price = 2.5\n",
            dir.path().join("data").display().to_string(),
            dir.path().join("token").display().to_string(),
        );
        let config = Arc::new(Config::parse(&text, |_| None).unwrap());
        let place = sqlite().await;
        let clock = ManualClock::at(T0);
        let app = App::new(
            place.store.clone(),
            Blobs::local(&dir.path().join("blobs")).unwrap(),
            Forges::default(),
            config,
            clock.clone(),
            Arc::new(Instance::load(&place.store).await.unwrap()),
        )
        .unwrap();
        let router = router(app.clone());
        Self { place, app, clock, router, dir }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(request("GET", path, &bearer(token), "")).await
    }
}

/// A header with a token; none for an empty one.
pub fn bearer(token: &str) -> Vec<(&'static str, String)> {
    if token.is_empty() { vec![] } else { vec![("authorization", format!("Bearer {token}"))] }
}

pub fn request(method: &str, path: &str, headers: &[(&'static str, String)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "dash.test");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}
