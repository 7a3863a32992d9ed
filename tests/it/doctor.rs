//! `trainyard doctor` on installations with something wrong, against a forge that answers as GitHub does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use secrecy::ExposeSecret;
use serde_json::json;
use trainyard::clock::{Clock, SystemClock};
use trainyard::config::{ForgeKind, SecretSource};
use trainyard::model::{RepoName, RepoRef};
use trainyard::sandbox::{Sandbox, SandboxOptions};
use trainyard::store::outbox::{Desire, OutboxKind};
use trainyard::store::work::{WorkAsk, WorkKind, WorkOutcome};
use trainyard::store::{OpenOptions, Store};

/// A forge whose token's account may push to `ada/churn` and only read `ada/leave`.
async fn forge() -> String {
    let user = |headers: axum::http::HeaderMap| async move {
        let good = headers["authorization"] == "Bearer a-good-token-of-the-forge";
        let code = if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        (code, Json(json!({"id": 7, "login": "ada"})))
    };
    let repo = || async { Json(json!({"id": 1})) };
    let permission = |word: &'static str| {
        move || async move { Json(json!({"permission": word, "user": {"id": 7, "login": "ada"}})) }
    };
    let app = Router::new()
        // Years late: the daemon's clock is wrong, or this one.
        .route("/", get(|| async { ([("date", "Wed, 25 Nov 2020 01:00:00 GMT")], "{}") }))
        .route("/user", get(user))
        .route("/repos/ada/churn", get(repo))
        .route("/repos/ada/leave", get(repo))
        .route("/repos/ada/churn/collaborators/ada/permission", get(permission("write")))
        .route("/repos/ada/leave/collaborators/ada/permission", get(permission("read")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

async fn doctor(config: &Path, more: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args(["doctor", "--json", "--config"])
        .arg(config)
        .args(more)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let lines: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |l: &serde_json::Value, key: &str| l[key].as_str().unwrap().to_owned();
    let lines: Vec<_> = lines
        .iter()
        .map(|l| (text(l, "mark"), text(l, "about"), format!("{} → {}", text(l, "says"), text(l, "fix"))))
        .collect();
    (output.status.code().unwrap(), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    write("token", "a-good-token-of-the-forge\n");
    write("secret", "0123456789abcdef0123456789abcdef\n");
    let api = forge().await;
    let config = |hook: &str, more: &str| {
        format!(
            "data_dir = {:?}\npublic_url = \"https://ty.example\"\n\
             [listen]\nhooks = \"127.0.0.1:0\"\napp = \"127.0.0.1:0\"\nagent = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n\
             [forge.github]\nkind = \"github\"\nurl = \"https://forge.test\"\napi_url = \"{api}\"\nallow_http = true\ntoken = {{ file = {:?} }}\n\
             [[forge.github.hook]]\nid = \"main\"\nrepository = \"{hook}\"\nsecrets = [{{ file = {:?} }}]\n{more}",
            data.display().to_string(),
            path("token"),
            path("secret"),
        )
    };
    let file = dir.path().join("trainyard.toml");
    let mark = |lines: &[(String, String, String)], about: &str| {
        lines
            .iter()
            .find(|l| l.1 == about)
            .map_or_else(|| panic!("no {about}: {lines:#?}"), |l| (l.0.clone(), l.2.clone()))
    };

    // Before the first start: no database yet.
    std::fs::write(&file, config("ada/churn", "")).unwrap();
    let (code, lines) = doctor(&file, &["--offline"]).await;
    assert_eq!((code, mark(&lines, "database").0.as_str()), (1, "FAIL"));
    assert!(mark(&lines, "database").1.contains("→ start the daemon once"), "{lines:#?}");
    let broken = data.join("trainyard.db");
    std::fs::write(&broken, vec![7; 8192]).unwrap();
    let (code, lines) = doctor(&file, &["--offline"]).await;
    assert_eq!((code, mark(&lines, "database").0.as_str()), (1, "FAIL"));
    assert!(
        mark(&lines, "database").1.contains("→ restore a backup: `trainyard admin restore`"),
        "{lines:#?}"
    );
    std::fs::remove_file(&broken).unwrap();
    Store::open(&OpenOptions::sqlite(data.join("trainyard.db"))).await.unwrap().close().await;
    let (code, lines) = doctor(&file, &["--offline"]).await;
    assert_eq!(code, 0, "{lines:#?}");
    for about in [
        "configuration",
        "secrets",
        "data directory",
        "disk",
        "database",
        "blobs",
        "git",
        "listen.hooks",
        "pool default",
    ] {
        assert_ne!(mark(&lines, about).0, "FAIL", "{about}: {lines:#?}");
    }
    for about in ["step user", "forge github", "hook main", "daemon", "secrets"] {
        assert_eq!(mark(&lines, about).0, "WARN", "{about}: {lines:#?}");
    }

    // Whom steps run as, and which secrets they can read.
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (token, secret) = (dir.path().join("token"), dir.path().join("secret"));
    assert!(mark(&lines, "secrets").1.contains(&format!("chmod 600 {} {}", path("secret"), path("token"))));
    let with = async |more: &str| {
        std::fs::write(&file, config("ada/churn", more)).unwrap();
        doctor(&file, &["--offline"]).await.1
    };
    let each = "[executor.local]\nuids = \"70000-70063\"\n";
    mode(&secret, 0o600);
    mode(dir.path(), 0o755);
    let lines = with(each).await;
    assert_eq!(mark(&lines, "step user").0, "OK", "{lines:#?}");
    let (word, says) = mark(&lines, "secrets");
    assert!(
        word == "FAIL" && says.contains("every step can read") && !says.contains(&path("secret")),
        "{says}"
    );
    mode(&token, 0o600);
    assert_eq!(mark(&with(each).await, "secrets").0, "OK");
    let (word, says) = mark(&with("[executor.local]\nuser = \"nobody\"\n").await, "step user");
    assert!(word == "WARN" && says.contains("must trust each other"), "{says}");
    let (word, says) = mark(&with("[executor.local]\nuids = \"70000\"\n").await, "configuration");
    assert!(word == "FAIL" && says.contains("not a range of user ids"), "{says}");
    std::fs::write(&file, config("ada/churn", "")).unwrap();
    let (_, lines) = doctor(&file, &["--offline"]).await;
    assert!(mark(&lines, "hook main").1.contains("/hooks/github/main"));
    assert!(
        std::fs::read_dir(data.join("blobs/doctor")).map_or(true, |mut d| d.next().is_none()),
        "it leaves nothing"
    );

    // What was given up, what keeps failing, and what the forge refused, each with its error and what to do.
    assert_eq!(mark(&lines, "work").0, "OK");
    assert_eq!(mark(&lines, "told to github").0, "OK");
    let store = Store::open(&OpenOptions::sqlite(data.join("trainyard.db"))).await.unwrap();
    let now = SystemClock.now_ms();
    let repo = RepoRef {
        forge_id: "1".into(),
        name: RepoName::parse("ada/churn").unwrap(),
        default_branch: "main".into(),
    };
    let repo_id = store.upsert_repo("github", &repo, now).await.unwrap();
    let desire = Desire {
        credential: "github".into(),
        repo_id: repo_id.clone(),
        kind: OutboxKind::Comment,
        target: "12".into(),
        desired: json!({"body": "x"}),
        last: true,
        not_before_ms: now,
    };
    store.desire(desire, now).await.unwrap();
    let row = store.outbox_row(&repo_id, OutboxKind::Comment, "12").await.unwrap().unwrap();
    store.outbox_dead(&row.id, row.desired_seq, "refused with 403", now).await.unwrap();
    let asks =
        ["given up", "fails"].map(|key| WorkAsk { kind: WorkKind::Compare, key: key.into(), at_ms: 0 });
    store.ask(asks.into(), 0).await.unwrap();
    for n in 1..=11 {
        for item in store.claim(&[WorkKind::Compare], "w", n, 9, 9).await.unwrap() {
            let error = format!("{} for the {n}th time", item.key);
            let outcome = if item.key == "fails" {
                WorkOutcome::Retry { at_ms: n, error }
            } else {
                WorkOutcome::Park { error }
            };
            store.settle(&item, outcome, n).await.unwrap();
        }
    }
    store.close().await;
    let (code, lines) = doctor(&file, &["--offline"]).await;
    assert_eq!(code, 0, "{lines:#?}");
    let work: Vec<&str> = lines.iter().filter(|l| l.1 == "work").map(|l| l.2.as_str()).collect();
    assert_eq!(
        work,
        [
            "compare given up is parked after 1 tries: given up for the 1th time → mend what the error says and restart the daemon: a start tries it once more",
            "compare fails failed 11 times and waited 0 times in a row: fails for the 11th time → mend what the error says; it is tried again every 5 minutes",
        ]
    );
    let told = mark(&lines, "told to github");
    assert!(told.0 == "WARN" && told.1.contains("the comment for 12: refused with 403"), "{}", told.1);

    // As root on a directory of another user it touches nothing: the daemon could not open what root made.
    std::fs::remove_dir_all(data.join("blobs")).unwrap();
    std::os::unix::fs::chown(&data, Some(65534), None).unwrap();
    let (code, lines) = doctor(&file, &["--offline"]).await;
    let (word, says) = mark(&lines, "data directory");
    assert!(code == 1 && word == "FAIL" && says.contains("sudo -u trainyard"), "{lines:#?}");
    assert!(!data.join("blobs").exists() && !lines.iter().any(|l| l.1 == "blobs"), "{lines:#?}");
    std::os::unix::fs::chown(&data, Some(0), None).unwrap();

    // The forge is asked: the token is fine here, the clock is not.
    let (code, lines) = doctor(&file, &[]).await;
    assert_eq!(code, 1);
    assert_eq!(mark(&lines, "forge github").0, "OK");
    assert_eq!(mark(&lines, "token, ada/churn").0, "OK");
    assert_eq!(mark(&lines, "clock").0, "FAIL");

    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(
        &file,
        config("ada/leave", "[executor.local]\nuser = \"nobody-of-this-name\"\n[pool.gpu]\ngpus = 900\n"),
    )
    .unwrap();
    write("secret", "short\n");
    let (code, lines) = doctor(&file, &[]).await;
    assert_eq!(code, 1);
    for (about, want, words) in [
        ("data directory", "WARN", "chmod 700"),
        ("secrets", "FAIL", "shorter than 16 bytes"),
        ("step user", "FAIL", "useradd"),
        ("pool gpu", "WARN", "900 GPUs"),
        ("token, ada/leave", "FAIL", "read and not write"),
    ] {
        let (mark, text) = mark(&lines, about);
        assert!(mark == want && text.contains(words), "{about}: {mark} {text}");
    }
    write("token", "a-stale-token\n");
    let (_, lines) = doctor(&file, &["--probe"]).await;
    assert!(mark(&lines, "probe").1.contains("no pool runs on Kubernetes"), "{lines:?}");
    assert!(mark(&lines, "forge github").1.contains("refuses the token"));
    println!("FIGURE doctor lines={}", lines.len());
}

/// The same questions at a forge of each kind, and each kind's refusal of a wrong token.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_asks_every_kind_of_forge() {
    for kind in [ForgeKind::Github, ForgeKind::Gitlab, ForgeKind::Gitea] {
        let dir = tempfile::tempdir().unwrap();
        let options = SandboxOptions::new(dir.path().join("forge"), Arc::new(SystemClock)).shaped(kind);
        let sandbox = Sandbox::start(options).await.unwrap();
        sandbox.create_repo(&RepoName::parse("acme/churn").unwrap(), "main").await.unwrap();
        let file = dir.path().join("trainyard.toml");
        let token = dir.path().join("token");
        let of_sandbox = sandbox.forge_config(SecretSource::File(token.clone()), Vec::new());
        std::fs::write(dir.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        let config = format!(
            "data_dir = {:?}\npublic_url = \"https://ty.example\"\n[forge.it]\nkind = {:?}\nurl = {:?}\napi_url = {:?}\nallow_http = true\n\
             token = {{ file = {:?} }}\n[[forge.it.hook]]\nid = \"main\"\nrepository = \"acme/churn\"\nsecrets = [{{ file = {:?} }}]\n",
            dir.path().join("data").display().to_string(),
            kind.word(),
            of_sandbox.url,
            of_sandbox.api_url(),
            token.display().to_string(),
            dir.path().join("secret").display().to_string(),
        );
        std::fs::write(&file, config).unwrap();
        std::fs::write(&token, sandbox.token().expose_secret()).unwrap();
        let (_, lines) = doctor(&file, &[]).await;
        for about in ["forge it", "token, acme/churn", "clock"] {
            let line = lines.iter().find(|l| l.1 == about);
            assert!(line.is_some_and(|l| l.0 == "OK"), "{} {about}: {lines:#?}", kind.word());
        }
        std::fs::write(&token, "a-wrong-token").unwrap();
        let (code, lines) = doctor(&file, &[]).await;
        let line = lines.iter().find(|l| l.1 == "forge it").unwrap();
        assert!(code == 1 && line.2.contains("refuses the token"), "{}: {line:?}", kind.word());
    }
}
