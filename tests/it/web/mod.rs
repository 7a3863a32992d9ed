//! The machine-facing listeners on real sockets: webhooks (S01, S02, S03, S05, G1, G2), agents (G5, G9), their git.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod agent_api;
mod caches;
mod features;
mod git_proxy;
mod hooks;
mod ops;
mod other_forges;
mod ranks;
mod slow;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use trainyard::blob::Blobs;
use trainyard::clock::SystemClock;
use trainyard::config::Config;
use trainyard::forge::Forges;
use trainyard::forge::github::GitHub;
use trainyard::http::agent_api::serve_agents;
use trainyard::http::hooks::serve_hooks;
use trainyard::http::ops::serve_ops;
use trainyard::http::{App, serve};
use trainyard::store::Instance;

use crate::store::fixture::{Place, sqlite};

pub const SECRET: &str = "It's a Secret to Everybody";
pub const NEXT_SECRET: &str = "the secret that follows it";
pub const OTHER_SECRET: &str = "the secret of another hook";
pub const STEP_SECRET: &str = "hf_0123456789abcdef";

/// A daemon's listeners on a new store.
pub struct Web {
    pub place: Place,
    pub app: App,
    pub hooks: SocketAddr,
    pub agent: SocketAddr,
    pub ops: SocketAddr,
    pub http: reqwest::Client,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Web {
    pub async fn start() -> Self {
        Self::with("http://127.0.0.1:9", "").await
    }

    /// `forge_url`: where repositories are fetched from. `extra`: more configuration.
    pub async fn with(forge_url: &str, extra: &str) -> Self {
        serve::raise_file_limit();
        let dir = tempfile::tempdir().unwrap();
        let secret = |name: &str, value: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, value).unwrap();
            format!("{{ file = {:?} }}", path.display().to_string())
        };
        let text = format!(
            "data_dir = {data:?}\npublic_url = \"http://trainyard.test\"\n{extra}\n\
             [forge.github]\nkind = \"github\"\nurl = {forge_url:?}\nallow_http = true\ntoken = {token}\n\
             [[forge.github.hook]]\nid = \"main\"\nsecrets = [{one}, {two}]\nrepository = \"ada/churn\"\n\
             [[forge.github.hook]]\nid = \"other\"\nsecrets = [{other}]\nowner = \"bob\"\n\
             [[repository]]\nforge = \"github\"\nname = \"ada/churn\"\nsecrets.HF_TOKEN = {step}\n",
            data = dir.path().join("data").display().to_string(),
            token = secret("token", "a-token-of-the-forge"),
            one = secret("one", SECRET),
            two = secret("two", NEXT_SECRET),
            other = secret("other", OTHER_SECRET),
            step = secret("step", STEP_SECRET),
        );
        let config = Arc::new(Config::parse(&text, |_| None).unwrap());
        let place = sqlite().await;
        let forge = &config.forge["github"];
        let mut forges = Forges::default();
        forges.insert("github", Arc::new(GitHub::connect(forge, forge.token.read().unwrap()).unwrap()));
        let app = App::new(
            place.store.clone(),
            Blobs::local(&dir.path().join("blobs")).unwrap(),
            forges,
            config,
            Arc::new(SystemClock),
            Arc::new(Instance::load(&place.store).await.unwrap()),
        )
        .unwrap();
        let stop = CancellationToken::new();
        let (hooks, agent, ops) = (listen().await, listen().await, listen().await);
        let addresses = [&hooks, &agent, &ops].map(|l| l.local_addr().unwrap());
        tokio::spawn(serve_hooks(hooks, app.clone(), stop.clone()));
        tokio::spawn(serve_agents(agent, None, app.clone(), stop.clone()));
        tokio::spawn(serve_ops(ops, app.clone(), stop.clone()));
        let [hooks, agent, ops] = addresses;
        Self { place, app, hooks, agent, ops, http: reqwest::Client::builder().build().unwrap(), stop, dir }
    }

    /// Where artifacts, logs and caches lie.
    pub fn blob_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("blobs")
    }

    pub async fn is_stored(&self, delivery_id: &str) -> bool {
        self.place.store.find_delivery(delivery_id).await.unwrap().is_some()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A response as it came over the wire. Status 0: the connection was closed without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// Sends these bytes and reads until the other side closes; what it does not take is left unsent.
pub async fn raw(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let mut answer = Vec::new();
    let both = async {
        tokio::join!(
            async {
                let _ = write.write_all(bytes.as_ref()).await;
            },
            async {
                let _ = read.read_to_end(&mut answer).await;
            }
        )
    };
    assert!(tokio::time::timeout(Duration::from_mins(1), both).await.is_ok(), "no answer within 60 s");
    Answer::parse(&answer)
}

/// A webhook request with these headers beside the usual ones.
pub fn webhook(path: &str, delivery: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: hooks\r\nConnection: close\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\n\
         X-GitHub-Delivery: {delivery}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.extend([*name, ": ", *value, "\r\n"]);
    }
    request += "\r\n";
    [request.as_bytes(), body].concat()
}
