//! The source of an attempt, fetched by real git through the proxy from a real `git http-backend`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use reqwest::Method;
use tokio::io::AsyncWriteExt;
use trainyard::model::Sha;

use super::agent_api::{Agent, run_of};
use super::{Web, listen};

/// A forge's git: `git http-backend` behind HTTP, which wants the daemon's credential.
struct Backend {
    url: String,
    repo: PathBuf,
    /// (path and query, `Authorization`, request's content encoding) as they arrived.
    seen: Arc<Mutex<Vec<(String, String, String)>>>,
    dir: tempfile::TempDir,
}

#[derive(Clone)]
struct Root {
    root: PathBuf,
    seen: Arc<Mutex<Vec<(String, String, String)>>>,
}

async fn cgi(State(at): State<Root>, request: Request) -> Response<Body> {
    let (request, body) = request.into_parts();
    let text =
        |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    at.seen.lock().unwrap().push((request.uri.to_string(), text("authorization"), text("content-encoding")));
    if request.uri.path().starts_with("/ada/moved.git") {
        return Response::builder()
            .status(302)
            .header("location", "http://127.0.0.1:9/")
            .body(Body::empty())
            .unwrap();
    }
    if text("authorization").is_empty() {
        return Response::builder().status(401).body(Body::empty()).unwrap();
    }
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &at.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", request.method.as_str())
        .env("PATH_INFO", request.uri.path())
        .env("QUERY_STRING", request.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", text("content-type"))
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("GIT_PROTOCOL", text("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let body: Bytes = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&body).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        response = match name {
            "Status" => response.status(StatusCode::from_bytes(&value.as_bytes()[..3]).unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(output[end + 4..].to_vec())).unwrap()
}

fn git(dir: &Path, args: &[&str]) -> Output {
    Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"])
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .output()
        .unwrap()
}

fn good(dir: &Path, args: &[&str]) -> String {
    let output = git(dir, args);
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// One commit with this file; its id.
fn commit(work: &Path, name: &str, text: &str) -> String {
    std::fs::write(work.join(name), text).unwrap();
    good(work, &["add", "."]);
    good(work, &["commit", "-q", "-m", name]);
    good(work, &["rev-parse", "HEAD"])
}

impl Backend {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("ada/churn.git");
        std::fs::create_dir_all(&repo).unwrap();
        good(&repo, &["init", "-q", "--bare"]);
        let seen = Arc::default();
        let state = Root { root: dir.path().to_owned(), seen: Arc::clone(&seen) };
        let listener = listen().await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(cgi).with_state(state);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, repo, seen, dir }
    }
}

struct Scene {
    backend: Backend,
    web: Web,
    /// The repository's working tree.
    work: PathBuf,
    head: String,
    secret: String,
}

/// A repository with a commit that the attempt may fetch, and a branch that it may not.
async fn scene() -> Scene {
    let backend = Backend::start().await;
    let work = backend.dir.path().join("work");
    std::fs::create_dir_all(&work).unwrap();
    good(&work, &["init", "-q"]);
    commit(&work, "a.txt", "one");
    good(&work, &["checkout", "-q", "-b", "secret"]);
    let secret = commit(&work, "secret.txt", "not for this attempt");
    good(&work, &["checkout", "-q", "main"]);
    let head = commit(&work, "b.txt", &"two\n".repeat(100_000));
    good(&work, &["push", "-q", backend.repo.to_str().unwrap(), "main", "secret"]);
    let web = Web::with(&backend.url, "").await;
    Scene { backend, web, work, head, secret }
}

impl Scene {
    async fn agent(&self) -> Agent<'_> {
        let head = Sha::parse(&self.head).unwrap();
        Agent::start(&self.web, &run_of(&self.web, |new| new.head_sha = head).await, 0).await
    }
}

/// git in `dir` with the attempt's token, in a thread of its own so that the listeners go on.
async fn through(agent: &Agent<'_>, dir: &Path, version: &str, args: &[&str]) -> Output {
    let url = format!("http://{}/agent/v1/attempts/{}/git", agent.web.agent, agent.uid);
    let header = format!("http.extraHeader=Authorization: Bearer {}", agent.token);
    let version = format!("protocol.version={version}");
    let mut all = vec!["-c".to_owned(), header, "-c".to_owned(), version];
    all.extend(args.iter().map(|a| if *a == "URL" { url.clone() } else { (*a).to_owned() }));
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || git(&dir, &all.iter().map(String::as_str).collect::<Vec<_>>()))
        .await
        .unwrap()
}

fn fresh(scene: &Scene, name: &str) -> PathBuf {
    let dir = scene.backend.dir.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    good(&dir, &["init", "-q"]);
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn real_git_fetches_the_attempts_commit_in_every_protocol() {
    let scene = scene().await;
    let agent = scene.agent().await;
    for version in ["0", "1", "2"] {
        let dir = fresh(&scene, &format!("fetch-{version}"));
        let output = through(&agent, &dir, version, &["fetch", "-q", "--depth=1", "URL", &scene.head]).await;
        assert!(output.status.success(), "version {version}: {}", String::from_utf8_lossy(&output.stderr));
        good(&dir, &["checkout", "-q", &scene.head]);
        assert_eq!(std::fs::read_to_string(dir.join("b.txt")).unwrap().len(), 400_000);
        assert!(!good(&dir, &["rev-list", "--all", "--objects"]).contains("secret.txt"));
    }
    let seen = scene.backend.seen.lock().unwrap();
    assert!(seen.iter().all(|(_, auth, _)| auth.starts_with("Basic ") && !auth.contains(&agent.token)));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_are_compressed_by_git_and_read_all_the_same() {
    let scene = scene().await;
    let agent = scene.agent().await;
    let dir = fresh(&scene, "haves");
    for n in 0..120 {
        good(&dir, &["commit", "-q", "--allow-empty", "-m", &format!("own {n}")]);
    }
    for version in ["0", "2"] {
        let output = through(&agent, &dir, version, &["fetch", "-q", "URL", &scene.head]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        good(&dir, &["update-ref", "-d", "FETCH_HEAD"]);
    }
    good(&dir, &["cat-file", "-e", &scene.head]);
    // What goes to the forge is what was read, uncompressed.
    assert!(scene.backend.seen.lock().unwrap().iter().all(|(_, _, encoding)| encoding.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_commits_and_pushes_are_refused() {
    let scene = scene().await;
    let agent = scene.agent().await;
    for version in ["0", "2"] {
        for wanted in [scene.secret.as_str(), "secret", "refs/heads/secret"] {
            let dir = fresh(&scene, &format!("other-{version}-{}", wanted.replace('/', "-")));
            let output = through(&agent, &dir, version, &["fetch", "-q", "URL", wanted]).await;
            assert!(!output.status.success(), "version {version} fetched {wanted}");
            assert!(!git(&dir, &["cat-file", "-e", &scene.secret]).status.success());
        }
        let dir = fresh(&scene, &format!("all-{version}"));
        assert!(
            !through(&agent, &dir, version, &["clone", "-q", "URL", "x"]).await.status.success(),
            "all branches"
        );
    }
    let output = through(&agent, &scene.work, "2", &["push", "-q", "URL", "main:refs/heads/mine"]).await;
    assert!(!output.status.success());
    assert!(!good(&scene.backend.repo, &["branch", "--list"]).contains("mine"));
    for (method, path) in [
        (Method::GET, "git/info/refs?service=git-receive-pack"),
        (Method::GET, "git/info/refs"),
        (Method::POST, "git/git-receive-pack"),
        (Method::GET, "git/HEAD"),
        (Method::GET, "git/objects/info/packs"),
    ] {
        let (status, _) = agent.call(method.clone(), path, "").await;
        assert!(matches!(status.as_u16(), 403 | 404), "{method} {path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_the_forge_is_a_sentence_without_a_credential() {
    let scene = scene().await;
    let agent = scene.agent().await;
    let asked = |agent: &Agent<'_>| {
        let (web, uid, token) = (agent.web.agent, agent.uid.clone(), agent.token.clone());
        let client = agent.web.http.clone();
        async move {
            let url = format!("http://{web}/agent/v1/attempts/{uid}/git/info/refs?service=git-upload-pack");
            let answer = client.get(url).bearer_auth(token).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    let moved = scene.backend.dir.path().join("ada/moved.git");
    std::fs::rename(&scene.backend.repo, &moved).unwrap();
    let (status, text) = asked(&agent).await;
    assert_eq!((status, text.contains("no such repository")), (502, true), "{text}");

    let web = Web::with("http://127.0.0.1:9", "").await;
    let lonely = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let (status, text) = asked(&lonely).await;
    assert_eq!((status, text.contains("could not be reached")), (502, true), "{text}");
    assert!(!text.contains("127.0.0.1") && !text.contains("token"), "{text}");

    let web = Web::with(&format!("{}/ada/moved.git", scene.backend.url), "").await;
    let redirected = Agent::start(&web, &run_of(&web, |_| {}).await, 0).await;
    let (status, text) = asked(&redirected).await;
    assert_eq!((status, text.contains("redirects")), (502, true), "{text}");
}
