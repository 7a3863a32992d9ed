//! The contract of the trait, on each client.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use trainyard::config::ForgeKind;
use trainyard::forge::{Folder, Forge, ForgeError, Permission, Status, StatusState, TreeKind, WebPage};
use trainyard::model::{Actor, RepoName, Sha};
use trainyard::sandbox::{BOT, STRANGER, WRITER};

use super::{KINDS, Stage, new_pull, stage_of};
use crate::forge_shapes::{hold_against_gitea, hold_against_github};

fn absent() -> Sha {
    Sha::parse(&"d".repeat(40)).expect("a commit id")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_github_client_does_what_a_forge_must() {
    let s = conform(ForgeKind::Github).await;
    let shapes = hold_against_github(&s.sandbox);
    assert_eq!(shapes.operations.len(), 14, "{:?}", shapes.operations);
    println!(
        "FIGURE openapi operations={} exchanges={} violations=0",
        shapes.operations.len(),
        shapes.exchanges
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitlab_client_does_what_a_forge_must() {
    let s = conform(ForgeKind::Gitlab).await;
    let pipelines: BTreeSet<String> = s
        .sandbox
        .exchanges()
        .iter()
        .filter_map(|e| Some(e.response.get("pipeline_id")?.to_string()))
        .collect();
    assert_eq!(pipelines.len(), 1, "one commit has one outside pipeline: {pipelines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitea_client_does_what_a_forge_must() {
    let s = conform(ForgeKind::Gitea).await;
    let shapes = hold_against_gitea(&s.sandbox);
    assert_eq!(shapes.operations.len(), 14, "{:?}", shapes.operations);
    println!(
        "FIGURE gitea_openapi operations={} exchanges={} violations=0",
        shapes.operations.len(),
        shapes.exchanges
    );
}

async fn conform(kind: ForgeKind) -> Stage {
    let s = stage_of(kind).await;
    s.tree.write("train.py", "print('accuracy', 0.8)\n");
    s.tree.write("src/a b/#1%.txt", "odd name");
    s.tree.write("big.bin", vec![7u8; (1 << 20) + 1]);
    s.tree.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(s.tree.file("run.sh"), PermissionsExt::from_mode(0o755)).expect("a mode");
    std::os::unix::fs::symlink("train.py", s.tree.file("link")).expect("a link");
    let first = s.tree.commit("First\n\nWith a body. 🚀");
    s.tree.push(&["main"]);
    s.tree.git(&["switch", "--quiet", "-c", "feature/x-y"]);
    s.tree.write("train.py", "print('accuracy', 0.9)\n");
    let second = s.tree.commit("Second");
    s.tree.push(&["feature/x-y"]);
    s.tree.git(&["switch", "--quiet", "--orphan", "island"]);
    let island = s.tree.commit("No common history");
    s.tree.push(&["island"]);
    let number =
        s.sandbox.open_pull(&s.repo, new_pull("Better", "feature/x-y")).await.expect("a pull request");

    suite(s.forge.as_ref(), &s, &first, &second, &island, number).await;
    println!("FIGURE forge_conformance kind={} calls={}", kind.word(), s.sandbox.exchanges().len());
    s
}

/// The contract of the trait, on whatever forge has this content.
async fn suite(forge: &dyn Forge, s: &Stage, first: &Sha, second: &Sha, island: &Sha, number: i64) {
    let repo = &s.repo;
    let nowhere = RepoName::parse("acme/nothing").expect("a name");
    let not_found = |e: ForgeError| assert!(matches!(e, ForgeError::NotFound { .. }), "{e}");

    let me = forge.whoami().await.expect("whoami");
    assert_eq!(me, s.sandbox.account(BOT).actor());
    let asked = || s.sandbox.exchanges().iter().filter(|e| e.path == "/user").count();
    let before = asked();
    forge.whoami().await.expect("whoami");
    assert_eq!(asked(), before, "the account is looked up once");

    let id = forge.repo_id(repo).await.expect("the repository's id");
    assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()), "{id}");
    not_found(forge.repo_id(&nowhere).await.expect_err("no such repository"));

    let commit = forge.commit(repo, first).await.expect("the first commit");
    assert_eq!(
        (commit.parents.as_slice(), commit.message.as_str()),
        ([].as_slice(), "First\n\nWith a body. 🚀")
    );
    assert_eq!(
        forge.commit(repo, second).await.expect("the second commit").parents,
        std::slice::from_ref(first)
    );
    not_found(forge.commit(repo, &absent()).await.expect_err("no such commit"));
    not_found(forge.commit(&nowhere, first).await.expect_err("no such repository"));

    let root = forge.tree(repo, &commit.root()).await.expect("the root");
    let shown: Vec<(&str, TreeKind, bool)> =
        root.iter().map(|e| (e.name.as_str(), e.kind, e.executable)).collect();
    assert_eq!(
        shown,
        [
            ("big.bin", TreeKind::File, false),
            ("link", TreeKind::Other, false),
            ("run.sh", TreeKind::File, true),
            ("src", TreeKind::Folder, false),
            ("train.py", TreeKind::File, false),
        ]
    );
    let src = root.iter().find(|entry| entry.name == "src").expect("a folder");
    let below = forge.tree(repo, &commit.root().child(src)).await.expect("a folder below the root");
    assert_eq!(
        below.iter().map(|e| (e.name.as_str(), e.kind)).collect::<Vec<_>>(),
        [("a b", TreeKind::Folder)]
    );
    let folder = |path: &str, id: &str| Folder { commit: first.clone(), path: path.into(), id: id.into() };
    not_found(forge.tree(repo, &folder("nothing", absent().as_str())).await.expect_err("no such folder"));
    not_found(forge.tree(repo, &folder("..", "..")).await.expect_err("not a folder"));

    assert_eq!(forge.file(repo, first, "train.py").await.expect("a file"), b"print('accuracy', 0.8)\n");
    assert_eq!(forge.file(repo, second, "train.py").await.expect("a file"), b"print('accuracy', 0.9)\n");
    assert_eq!(forge.file(repo, first, "src/a b/#1%.txt").await.expect("an odd name"), b"odd name");
    for path in ["nothing", "src", "src/nothing", "", "/train.py", "../train.py", "src/../train.py", "."] {
        not_found(forge.file(repo, first, path).await.expect_err(path));
    }
    match forge.file(repo, first, "link").await {
        Ok(text) => assert_eq!(text, b"train.py", "a link is not followed"),
        Err(error) => not_found(error),
    }
    let too_big = forge.file(repo, first, "big.bin").await.expect_err("over 1 MiB");
    assert!(too_big.is_permanent(), "{too_big}");

    assert_eq!(forge.merge_base(repo, "main", second).await.expect("a base").as_ref(), Some(first));
    assert_eq!(forge.merge_base(repo, "feature/x-y", first).await.expect("a base").as_ref(), Some(first));
    assert_eq!(forge.merge_base(repo, first.as_str(), second).await.expect("a base").as_ref(), Some(first));
    assert_eq!(forge.merge_base(repo, "main", island).await.expect("no base"), None);
    not_found(forge.merge_base(repo, "nothing", second).await.expect_err("no such branch"));

    assert_eq!(forge.history(repo, second, 10).await.expect("history"), [second.clone(), first.clone()]);
    assert_eq!(forge.history(repo, second, 1).await.expect("history"), std::slice::from_ref(second));
    not_found(forge.history(repo, &absent(), 10).await.expect_err("no such commit"));

    let may = async |login: &str| {
        forge.permission(repo, &s.sandbox.account(login).actor()).await.expect("permission")
    };
    assert_eq!(may(WRITER).await, Permission::Write);
    assert_eq!(may(STRANGER).await, Permission::None);
    s.sandbox.set_permission(repo, STRANGER, Permission::Read);
    assert_eq!(may(STRANGER).await, Permission::Read);
    s.sandbox.set_permission(repo, STRANGER, Permission::Admin);
    assert_eq!(may(STRANGER).await, Permission::Admin);
    let stranger = s.sandbox.account(STRANGER).actor();
    s.sandbox.give_login_away(STRANGER);
    assert_eq!(
        forge.permission(repo, &stranger).await.expect("permission"),
        Permission::None,
        "another's login"
    );
    for login in ["nobody", "..", "a/b", "x?y"] {
        let who = Actor { id: "1".into(), login: login.into() };
        assert_eq!(forge.permission(repo, &who).await.expect("permission"), Permission::None, "{login}");
    }

    let pull = forge.pull(repo, number).await.expect("the pull request");
    assert_eq!(
        (pull.number, pull.title.as_str(), &pull.head_sha, pull.base_sha.as_ref()),
        (number, "Better", second, Some(first))
    );
    assert_eq!((pull.head_branch.as_str(), pull.base_branch.as_str()), ("feature/x-y", "main"));
    assert_eq!((pull.fork, pull.draft, pull.open), (false, false, true));
    assert_eq!(pull.author, s.sandbox.account(WRITER).actor());
    not_found(forge.pull(repo, 999).await.expect_err("no such pull request"));

    statuses(forge, s, second).await;

    assert!(forge.comments(repo, number).await.expect("no comments").is_empty());
    let id = forge.create_comment(repo, number, "First version <!-- marker -->").await.expect("a comment");
    forge.edit_comment(repo, &id, "Second version").await.expect("an edit");
    s.sandbox.comment(repo, number, WRITER, "Thank you").await.expect("a comment");
    let comments = forge.comments(repo, number).await.expect("comments");
    let shown: Vec<(&str, &str)> =
        comments.iter().map(|c| (c.author.login.as_str(), c.body.as_str())).collect();
    assert_eq!(shown, [(BOT, "Second version"), (WRITER, "Thank you")]);
    assert_eq!((comments[0].id.as_str(), &comments[0].author), (id.as_str(), &me));
    assert_eq!(s.sandbox.comments(repo, number)[0].versions.len(), 2);
    for (what, refused) in [
        ("edit", forge.edit_comment(repo, "999999", "x").await),
        ("odd id", forge.edit_comment(repo, "..", "x").await),
        ("no pull request", forge.create_comment(repo, 999, "x").await.map(drop)),
        ("blank", forge.create_comment(repo, number, " ").await.map(drop)),
    ] {
        let refused = refused.expect_err(what);
        assert!(matches!(refused, ForgeError::Refused { .. }), "{what}: {refused}");
    }
    for i in 0..105 {
        s.sandbox.comment(repo, number, WRITER, &format!("{i}")).await.expect("a comment");
    }
    let all = forge.comments(repo, number).await.expect("two pages");
    assert_eq!((all.len(), all.last().map(|c| c.body.as_str())), (107, Some("104")));

    let merged = async |who: &Actor| forge.has_merged_change(repo, who).await.expect("a merged change");
    let writer = s.sandbox.account(WRITER).actor();
    assert!(!merged(&writer).await, "an open one does not count");
    s.sandbox.close_pull(repo, number).await.expect("closed");
    assert!(!merged(&writer).await, "a closed one does not count");
    s.sandbox.reopen_pull(repo, number).await.expect("reopened");
    s.sandbox.merge_pull(repo, number).await.expect("merged");
    assert!(!forge.pull(repo, number).await.expect("the pull request").open);
    assert!(merged(&writer).await);
    assert!(!merged(&me).await, "another's");
    let nobody = |login: &str| Actor { id: "999999".into(), login: login.into() };
    assert!(!merged(&nobody(WRITER)).await, "the login went over to somebody else");
    for login in ["nobody", "", "..", "a b is:pr", "x&y=z", "a/b"] {
        assert!(!merged(&nobody(login)).await, "{login}");
    }

    let (pull_page, commit_page, branch_page) = match s.kind {
        ForgeKind::Github => ("pull", "commit", "tree"),
        ForgeKind::Gitlab => ("-/merge_requests", "-/commit", "-/tree"),
        ForgeKind::Gitea => ("pulls", "commit", "src/branch"),
    };
    let web = format!("{}/acme/churn", s.sandbox.url());
    assert_eq!(forge.page(repo, WebPage::Pull(number)), format!("{web}/{pull_page}/{number}"));
    assert_eq!(forge.page(repo, WebPage::Commit(first)), format!("{web}/{commit_page}/{first}"));
    assert_eq!(forge.page(repo, WebPage::Branch("a/b c?")), format!("{web}/{branch_page}/a/b%20c%3F"));
    assert_eq!(forge.page(repo, WebPage::Repository), web);
    let page = reqwest::get(forge.page(repo, WebPage::Pull(number)))
        .await
        .expect("a page")
        .text()
        .await
        .expect("text");
    assert!(page.contains("Better") && page.contains("Thank you"), "{page}");
}

/// Every state, in the forge's words; each twice, since the outbox may send again what arrived.
async fn statuses(forge: &dyn Forge, s: &Stage, sha: &Sha) {
    use StatusState::{Cancelled, Error, Failure, Pending, Running, Success};
    let words: [(StatusState, [&str; 3]); 6] = [
        (Pending, ["pending", "pending", "pending"]),
        (Running, ["pending", "running", "pending"]),
        (Success, ["success", "success", "success"]),
        (Failure, ["failure", "failed", "failure"]),
        (Error, ["error", "failed", "error"]),
        (Cancelled, ["error", "canceled", "error"]),
    ];
    let limits = forge.capabilities();
    assert!(limits.status_description >= 140 && limits.comment_bytes >= 60_000, "{limits:?}");
    let status = |context: &str, state: StatusState, description: &str| Status {
        context: context.into(),
        state,
        description: description.into(),
        target_url: "https://trainyard.example.org/runs/1".into(),
    };
    let at = KINDS.iter().position(|kind| *kind == s.kind).expect("a kind");
    for (number, (state, of)) in words.into_iter().enumerate() {
        let context = format!("trainyard/{number}");
        for text in ["first", "second", "second"] {
            forge.set_status(&s.repo, sha, &status(&context, state, text)).await.expect("a status");
        }
        let posted = s.sandbox.statuses(&s.repo, sha);
        let last = posted.iter().rfind(|p| p.context == context).expect("it is there");
        assert_eq!((last.state.as_str(), last.description.as_deref()), (of[at], Some("second")), "{state:?}");
        assert_eq!(last.target_url.as_deref(), Some("https://trainyard.example.org/runs/1"));
    }
    // The way of one run, and of a run again.
    for state in [Pending, Running, Running, Success, Pending, Running, Cancelled, Pending, Failure, Success]
    {
        forge
            .set_status(&s.repo, sha, &status("trainyard/way", state, "on the way"))
            .await
            .expect("a status");
    }
    let mut plain = status("trainyard/plain", Success, &"é".repeat(limits.status_description.min(140)));
    plain.target_url.clear();
    forge.set_status(&s.repo, sha, &plain).await.expect("a status without a link");
    let gone = forge.set_status(&s.repo, &absent(), &plain).await.expect_err("no such commit");
    assert!(matches!(gone, ForgeError::Refused { status: 404 | 422, .. }), "{gone}");
    if s.kind == ForgeKind::Github {
        let long = status("trainyard/long", Success, &"x".repeat(141));
        assert!(forge.set_status(&s.repo, sha, &long).await.expect_err("too long").is_permanent());
    }
}
