//! What nobody may do to the sandbox: push without the right to, reach a git option by a name.

use std::fmt::Write as _;

use trainyard::forge::Permission;
use trainyard::model::RepoName;
use trainyard::sandbox::{BOT, STRANGER, WRITER};

use super::stage;

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_push_cannot() {
    let s = stage().await;
    s.tree.write("a", "1");
    s.tree.commit("one");
    let refused = |url: &str| {
        let out = s.tree.command(&["push", "--quiet", url, "main"]).output().expect("git");
        assert!(!out.status.success(), "pushed to {url}");
    };
    tokio::task::block_in_place(|| {
        refused(&format!("{}/acme/churn.git", s.sandbox.url()));
        refused(&s.sandbox.git_url(&s.repo, STRANGER));
        refused(&s.sandbox.git_url(&RepoName::parse("acme/nothing").expect("a name"), WRITER));
    });
    s.sandbox.set_permission(&s.repo, STRANGER, Permission::Read);
    tokio::task::block_in_place(|| refused(&s.sandbox.git_url(&s.repo, STRANGER)));
    s.tree.push(&["main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_reach_no_git_option() {
    let s = stage().await;
    s.tree.write("a", "1");
    s.tree.write("--output=x", "odd");
    let head = s.tree.commit("one");
    s.tree.push(&["main"]);
    let mark = s.tree.file("pwned");
    let names = [
        format!("--output={}", mark.display()),
        format!("--upload-pack=touch {}", mark.display()),
        format!("--exec=touch {}", mark.display()),
        "--all".into(),
        "-".into(),
        "--".into(),
        "@{-1}".into(),
        "main@{1}".into(),
        "HEAD".into(),
        "../../config".into(),
        "main:a".into(),
        "main^{tree}".into(),
        ":/one".into(),
        "a\nb".into(),
        "refs/heads/main".into(),
        "*".into(),
    ];
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let token = s.sandbox.account(BOT).token;
    for name in &names {
        s.forge.merge_base(&s.repo, name, &head).await.expect_err(name);
        // The answers of the sandbox itself, past what our client lets through.
        for path in ["git/commits/", "git/trees/", "contents/a?ref=", "commits?sha=", "compare/main..."] {
            let mut encoded = String::new();
            for byte in name.bytes() {
                let _ = write!(encoded, "%{byte:02X}");
            }
            let url = format!("{}/repos/{}/{path}{encoded}", s.sandbox.api_url(), s.repo);
            let answer = http.get(&url).bearer_auth(&token).send().await.expect("an answer");
            assert_eq!(answer.status(), 404, "{path}{name}");
        }
    }
    assert_eq!(s.forge.file(&s.repo, &head, "--output=x").await.expect("a file"), b"odd");
    assert!(!mark.exists());
    println!("SEC S11 sandbox_names={} failed=0", names.len() * 6);
}
