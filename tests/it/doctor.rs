//! `trainyard doctor` on installations with something wrong, against a forge that answers as GitHub does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use trainyard::store::{OpenOptions, Store};

/// A forge whose token may push to `ada/churn` and only read `ada/leave`.
async fn forge() -> String {
    let token =
        |headers: &axum::http::HeaderMap| headers["authorization"] == "Bearer a-good-token-of-the-forge";
    let limit = move |headers: axum::http::HeaderMap| async move {
        let code = if token(&headers) { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        // An hour and a half late: the daemon's clock is wrong, or this one.
        (code, [("date", "Wed, 25 Nov 2020 01:00:00 GMT")], Json(json!({})))
    };
    let repo = |push: bool| move || async move { Json(json!({"permissions": {"pull": true, "push": push}})) };
    let app = Router::new()
        .route("/rate_limit", get(limit))
        .route("/repos/ada/churn", get(repo(true)))
        .route("/repos/ada/leave", get(repo(false)));
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
    for about in ["step user", "forge github", "hook main", "daemon"] {
        assert_eq!(mark(&lines, about).0, "WARN", "{about}: {lines:#?}");
    }
    assert!(mark(&lines, "hook main").1.contains("/hooks/github/main"));
    assert!(
        std::fs::read_dir(data.join("blobs/doctor")).map_or(true, |mut d| d.next().is_none()),
        "it leaves nothing"
    );

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
    let (_, lines) = doctor(&file, &[]).await;
    assert!(mark(&lines, "forge github").1.contains("refuses the token"));
    println!("FIGURE doctor lines={}", lines.len());
}
