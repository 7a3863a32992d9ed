//! The main job at a real Gitea (`scripts/gitea.sh`): its own webhooks, pushes, statuses and comments, the daemon between them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid};
use serde_json::{Value, json};

use crate::metrics::daemon::{Daemon, SECRET};
use crate::worktree::WorkTree;

/// Gitea refuses to run as root.
const USER: &str = "nobody";

struct Gitea {
    url: String,
    http: reqwest::Client,
    child: Child,
    dir: tempfile::TempDir,
    binary: PathBuf,
}

impl Gitea {
    async fn start() -> Self {
        let made =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gitea.sh")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let built = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        let dir = tempfile::Builder::new().prefix("trainyard-gitea-").tempdir_in("/tmp").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        // The folder of the build may lie where that user cannot look.
        let at = dir.path();
        copy(&built.join("static"), &at.join("static"));
        std::fs::copy(built.join("gitea"), at.join("gitea")).unwrap();
        std::fs::create_dir_all(at.join("custom/conf")).unwrap();
        let settings = format!(
            "APP_NAME = Gitea\nRUN_USER = {USER}\nWORK_PATH = {work}\n\
             [server]\nHTTP_ADDR = 127.0.0.1\nHTTP_PORT = {port}\nROOT_URL = {url}/\nDISABLE_SSH = true\nOFFLINE_MODE = true\n\
             STATIC_ROOT_PATH = {work}/static\nAPP_DATA_PATH = {work}/data\n\
             [database]\nDB_TYPE = sqlite3\nPATH = {work}/gitea.db\n[repository]\nROOT = {work}/repositories\n\
             [security]\nINSTALL_LOCK = true\nSECRET_KEY = a-secret-key-of-this-test-alone\n\
             [webhook]\nALLOWED_HOST_LIST = loopback\n[actions]\nENABLED = false\n[indexer]\nISSUE_INDEXER_TYPE = db\n\
             [log]\nLEVEL = Warn\nROOT_PATH = {work}/log\n",
            work = at.display(),
        );
        std::fs::write(at.join("custom/conf/app.ini"), settings).unwrap();
        let owner = nix::unistd::User::from_name(USER).unwrap().unwrap();
        let owned = Command::new("chown")
            .arg("-R")
            .arg(format!("{}:{}", owner.uid, owner.gid))
            .arg(at)
            .status()
            .unwrap();
        assert!(owned.success());
        let binary = at.join("gitea");
        let run = |args: &[&str]| command(&binary, at, owner.uid, owner.gid, args);
        for args in [
            &["migrate"][..],
            &[
                "admin",
                "user",
                "create",
                "--admin",
                "--username",
                "ada",
                "--password",
                "a-long-password",
                "--email",
                "ada@example.org",
                "--must-change-password=false",
            ],
            &[
                "admin",
                "user",
                "create",
                "--username",
                "yard",
                "--password",
                "a-long-password",
                "--email",
                "yard@example.org",
                "--must-change-password=false",
            ],
        ] {
            let out = run(args).output().unwrap();
            assert!(
                out.status.success(),
                "gitea {args:?}: {}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
        }
        let log = std::fs::File::create(at.join("web.log")).unwrap();
        let child = run(&["web"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let gitea = Self { url, http, child, dir, binary };
        gitea
            .until("Gitea answers", 60, async || {
                gitea
                    .http
                    .get(format!("{}/api/healthz", gitea.url))
                    .send()
                    .await
                    .is_ok_and(|a| a.status() == 200)
            })
            .await;
        gitea
    }

    fn token(&self, user: &str) -> String {
        let owner = nix::unistd::User::from_name(USER).unwrap().unwrap();
        let args = [
            "admin",
            "user",
            "generate-access-token",
            "--username",
            user,
            "--token-name",
            "test",
            "--scopes",
            "all",
            "--raw",
        ];
        let out = command(&self.binary, self.dir.path(), owner.uid, owner.gid, &args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut asked = self
            .http
            .request(method, format!("{}/api/v1{path}", self.url))
            .header("authorization", format!("token {token}"));
        if let Some(body) = body {
            asked = asked.json(&body);
        }
        let answer = asked.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn until(&self, what: &str, seconds: u64, look: impl AsyncFn() -> bool) {
        let since = Instant::now();
        while !look().await {
            assert!(
                since.elapsed() < Duration::from_secs(seconds),
                "{what}: not within {seconds} s\n{}",
                std::fs::read_to_string(self.dir.path().join("web.log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Gitea {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(binary: &Path, at: &Path, uid: Uid, gid: Gid, args: &[&str]) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut gitea = Command::new(binary);
    gitea.args(args).arg("--work-path").arg(at).arg("--config").arg(at.join("custom/conf/app.ini"));
    gitea
        .current_dir(at)
        .env("HOME", at)
        .env("USER", USER)
        .stdin(Stdio::null())
        .uid(uid.as_raw())
        .gid(gid.as_raw());
    gitea
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

fn pipeline(accuracy: &str) -> String {
    format!(
        "version: 1\nname: churn\nsteps:\n  - {{name: train, commands: ['echo accuracy={accuracy} >> $TRAINYARD_OUTPUT']}}\nmetrics:\n  primary: accuracy\n  gates:\n    accuracy: {{goal: max, no_worse_than: 1%}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_gitea_is_told_what_became_of_a_pull_request() {
    let gitea = Gitea::start().await;
    let (ada, yard) = (gitea.token("ada"), gitea.token("yard"));
    let expect = async |token: &str, method: &str, path: &str, body: Value, want: u16| {
        let (status, answer) = gitea.call(token, method, path, Some(body)).await;
        assert_eq!(status, want, "{method} {path}: {answer}");
        answer
    };
    expect(
        &ada,
        "POST",
        "/user/repos",
        json!({"name": "churn", "private": true, "default_branch": "main"}),
        201,
    )
    .await;
    expect(&ada, "PUT", "/repos/ada/churn/collaborators/yard", json!({"permission": "admin"}), 204).await;
    let mut daemon = Daemon::of_kind("gitea", &gitea.url, &yard);
    daemon.start().await;
    let events = [
        "push",
        "create",
        "delete",
        "pull_request",
        "pull_request_sync",
        "pull_request_label",
        "pull_request_comment",
    ];
    let hook = json!({"type": "gitea", "active": true, "events": events, "config": {
        "url": format!("http://{}/hooks/gitea/main", daemon.hooks), "content_type": "json", "secret": SECRET}});
    expect(&ada, "POST", "/repos/ada/churn/hooks", hook, 201).await;

    let address = gitea.url.replace("http://", &format!("http://ada:{ada}@"));
    let tree = WorkTree::new(&format!("{address}/ada/churn.git"));
    tree.write(".trainyard.yaml", pipeline("0.80"));
    let base = tree.commit("First");
    tree.push(&["main"]);
    let state = async |sha: &str| -> String {
        let (_, answer) =
            gitea.call(&ada, "GET", &format!("/repos/ada/churn/commits/{sha}/status"), None).await;
        answer["state"].as_str().unwrap_or_default().to_owned()
    };
    gitea.until("the status of main", 60, async || state(base.as_str()).await == "success").await;

    tree.git(&["switch", "--quiet", "-c", "better"]);
    tree.write(".trainyard.yaml", pipeline("0.90"));
    let head = tree.commit("Better");
    tree.push(&["better"]);
    let pull = json!({"title": "A better model", "head": "better", "base": "main"});
    // Gitea learns of the branch a moment after the push.
    let since = Instant::now();
    let number = loop {
        let (status, answer) = gitea.call(&ada, "POST", "/repos/ada/churn/pulls", Some(pull.clone())).await;
        if status == 201 {
            break answer["number"].as_i64().unwrap();
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let comments = async || -> Vec<(i64, String)> {
        let path = format!("/repos/ada/churn/issues/{number}/comments");
        let (_, answer) = gitea.call(&ada, "GET", &path, None).await;
        let one = |c: &Value| {
            (c["id"].as_i64().unwrap_or_default(), c["body"].as_str().unwrap_or_default().to_owned())
        };
        answer.as_array().map(|all| all.iter().map(one).collect()).unwrap_or_default()
    };
    gitea
        .until("the status of the pull request's head", 60, async || state(head.as_str()).await == "success")
        .await;
    gitea
        .until("the comment", 60, async || comments().await.iter().any(|(_, body)| body.contains("0.9")))
        .await;
    let first = comments().await;

    // A worse model: the same comment says so, and the status is a failure.
    tree.write(".trainyard.yaml", pipeline("0.50"));
    let worse = tree.commit("Worse");
    tree.push(&["better"]);
    gitea.until("the status of the worse head", 60, async || state(worse.as_str()).await == "failure").await;
    gitea
        .until("the comment's next form", 60, async || {
            comments().await.iter().any(|(_, body)| body.contains("0.5"))
        })
        .await;
    let second = comments().await;
    let ids = |all: &[(i64, String)]| all.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!((ids(&first).len(), ids(&first)), (1, ids(&second)), "one comment, edited in place");

    let deliveries = daemon.api("/api/v1/deliveries?limit=100").await;
    let all = deliveries["deliveries"].as_array().unwrap();
    assert!(
        all.iter().all(|d| ["done", "ignored"].contains(&d["state"].as_str().unwrap_or_default())),
        "{deliveries:#}"
    );
    let runs = daemon.api("/api/v1/runs?limit=100").await;
    assert_eq!(
        runs["runs"].as_array().map(Vec::len),
        Some(3),
        "a push and a pull request of one head are one run: {runs:#}"
    );
    println!("FIGURE real_gitea version=1.26.0 deliveries={} runs=3 comments=1", all.len());
    daemon.terminate().await;
}
