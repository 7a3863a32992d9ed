//! The command line's readers against the real listener: `runs`, `logs`, `token`.

use std::path::PathBuf;
use std::process::Output;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use trainyard::http::app::serve_app;
use trainyard::http::auth;
use trainyard::model::{EndClass, RunState};

use super::Dashboard;

struct Shell {
    config: PathBuf,
}

impl Shell {
    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_trainyard"));
        command
            .args(args)
            .env("TRAINYARD_CONFIG", &self.config)
            .env_remove("TRAINYARD_TOKEN")
            .env_remove("TRAINYARD_URL");
        command.kill_on_drop(true);
        command
    }
    async fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().await.unwrap()
    }
    async fn good(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    async fn code(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args).await;
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Output that nobody reads, or that a full disk does not take, ends every command in the same way.
async fn ends_without_a_panic(shell: &Shell, args: &[&str]) {
    let end = async |stdout: std::process::Stdio| {
        let output = shell.command(args).stdout(stdout).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(end(writer.into()).await, (Some(141), String::new()), "{args:?} without a reader");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let said = "trainyard: cannot write the output: No space left on device (os error 28)\n";
    assert_eq!(end(full.into()).await, (Some(1), said.to_owned()), "{args:?} on a full disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readers_talk_to_a_daemon() {
    let at = Dashboard::new(false).await;
    let seeded = at.seed().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_app(listener, at.app.clone(), stop.clone()));
    let data = at.dir.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    auth::ensure_admin_token(&at.app.store, &data, 1).await.unwrap();
    let config = at.dir.path().join("trainyard.toml");
    let text = format!(
        "data_dir = {:?}\npublic_url = \"http://dash.test\"\n[listen]\napp = \"{address}\"\n",
        data.display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    let shell = Shell { config };

    let list = shell.good(&["runs", "list"]).await;
    assert_eq!(list.lines().count(), 6, "{list}");
    assert!(
        list.contains("Use a larger learning rate") && !list.contains('\u{1b}') && !list.contains('\u{202e}')
    );
    assert_eq!(shell.good(&["runs", "list", "--state", "held"]).await.lines().count(), 1);
    let show = shell.good(&["runs", "show", seeded.held.as_str()]).await;
    let sha = at.place.view(&seeded.held).await.run.head_sha;
    assert!(show.contains(&format!("trainyard runs release {} --sha {sha}", seeded.held)), "{show}");
    shell.good(&["runs", "release", seeded.held.as_str(), "--sha", sha.as_str()]).await;
    assert_eq!(at.place.view(&seeded.held).await.run.state, RunState::Queued);
    shell.good(&["runs", "cancel", seeded.held.as_str(), "--reason", "not now"]).await;
    assert!(at.place.view(&seeded.held).await.run.cancel_request.unwrap().ends_with(": not now"));
    assert_eq!(shell.code(&["runs", "show", "00000000-0000"]).await.0, 4);
    assert_eq!(shell.code(&["logs", seeded.base.as_str(), "nothing"]).await.0, 4);
    assert!(
        list.contains("fail") && list.contains("accuracy 0.847"),
        "the verdict stands in the list: {list}"
    );
    let of_pull = shell.good(&["runs", "list", "--repo", "ada/churn", "--pull", "7"]).await;
    assert_eq!(of_pull.lines().count(), 1, "{of_pull}");
    let diff = shell.good(&["runs", "diff", seeded.base.as_str(), seeded.candidate.as_str()]).await;
    assert!(
        diff.contains("learning_rate") && diff.contains("0.01 → 0.1") && diff.contains("whole run"),
        "{diff}"
    );
    let (code, _) = shell.code(&["runs", "wait", seeded.candidate.as_str(), "--exit-code"]).await;
    assert_eq!(code, 3, "it succeeded and is worse");
    shell.good(&["runs", "wait", seeded.candidate.as_str()]).await;
    assert_eq!(shell.code(&["runs", "wait", seeded.live.as_str(), "--timeout", "1"]).await.0, 124);
    for read in [
        &["runs", "list", "--json"][..],
        &["runs", "show", seeded.live.as_str(), "--json"],
        &["runs", "diff", seeded.base.as_str(), seeded.candidate.as_str(), "--json"],
        &["runs", "wait", seeded.base.as_str(), "--json"],
        &["token", "list", "--json"],
    ] {
        let text = shell.good(read).await;
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{read:?}: {text}");
    }
    let lines = shell.good(&["logs", seeded.candidate.as_str(), "train (seed=1)", "--json"]).await;
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::json!({"line": 42, "text": "saved out/model.bin"}));
    for shell_name in ["bash", "zsh", "fish"] {
        assert!(shell.good(&["completions", shell_name]).await.contains("trainyard"));
    }

    let (base, candidate) = (seeded.base.as_str(), seeded.candidate.as_str());
    let small = at.dir.path().join("small.yaml");
    std::fs::write(&small, "train: x\n").unwrap();
    for args in [
        &["runs", "list"][..],
        &["runs", "list", "--json"],
        &["runs", "show", candidate],
        &["runs", "diff", base, candidate],
        &["logs", candidate, "train (seed=1)"],
        &["logs", candidate, "train (seed=1)", "--json"],
        &["token", "list"],
        &["completions", "bash"],
        &["schema"],
        &["init", "--print"],
        &["lint", small.to_str().unwrap()],
    ] {
        ends_without_a_panic(&shell, args).await;
    }

    // Into a pipe go the bytes as stored.
    let whole = at.get(&format!("/api/v1/attempts/{}/log", seeded.ended), &seeded.tokens.read).await.body;
    let output = shell.run(&["logs", seeded.candidate.as_str(), "train (seed=1)"]).await;
    assert!(output.stdout == whole && !whole.is_empty());

    // Following ends with the step, and says how it ended.
    let mut child = shell.command(&["logs", "-f", seeded.live.as_str()]);
    let follow = tokio::spawn(async move { child.output().await.unwrap() });
    for epoch in 4..8 {
        at.epoch(&seeded.running, epoch).await;
    }
    at.end(&seeded.live, 1, &seeded.running, EndClass::Failed, "`python train.py` exited with 1").await;
    let output = follow.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let whole = at.get(&format!("/api/v1/attempts/{}/log", seeded.running), &seeded.tokens.read).await.body;
    assert!(output.stdout == whole, "{}", String::from_utf8_lossy(&output.stderr));

    let mut wrong = shell.command(&["runs", "list"]);
    wrong.env("TRAINYARD_TOKEN", "ty_api_wrong");
    assert_eq!(wrong.output().await.unwrap().status.code(), Some(5));
    assert_eq!(shell.code(&["runs", "list", "--limit", "0"]).await.0, 2);

    let token = shell.good(&["token", "create", "laptop", "--scope", "run", "--repo", "ADA/churn"]).await;
    assert!(auth::is_token(token.trim()), "{token}");
    let listed = shell.good(&["token", "list"]).await;
    let id = listed.lines().find(|l| l.contains("laptop")).unwrap().split(' ').next().unwrap().to_owned();
    assert!(!listed.contains(token.trim()));
    shell.good(&["token", "revoke", &id]).await;
    assert_eq!(at.get("/api/v1/runs", token.trim()).await.status, 401);

    stop.cancel();
    serving.await.unwrap();
    let (code, said) = shell.code(&["runs", "list"]).await;
    assert_eq!(code, 6);
    assert!(said.contains("is `trainyard serve` running?"), "{said}");
}
