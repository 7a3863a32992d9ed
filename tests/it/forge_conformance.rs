//! What every [`Forge`] must do, run on each client against the sandbox in its shape. What is said to and by the GitHub- and the
//! Gitea-shaped one is held against their makers' own descriptions.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tempfile::TempDir;
use tokio::sync::mpsc;
use trainyard::clock::SystemClock;
use trainyard::config::{ForgeKind, SecretSource};
use trainyard::forge::webhook::{gitea, github, gitlab};
use trainyard::forge::{
    self, Folder, Forge, ForgeError, Permission, Status, StatusState, TreeKind, WebPage, tree_diff,
};
use trainyard::model::{Actor, EventKind, Parsed, PullRequestAction, RepoName, Sha};
use trainyard::sandbox::{BOT, Fault, FaultKind, NewPull, STRANGER, Sandbox, SandboxOptions, WRITER};

use crate::forge_shapes::{hold_against_gitea, hold_against_github};
use crate::worktree::WorkTree;

const SECRET: &str = "a secret of the conformance suite";
const SIGNING_TOKEN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const KINDS: [ForgeKind; 3] = [ForgeKind::Github, ForgeKind::Gitlab, ForgeKind::Gitea];

struct Stage {
    sandbox: Sandbox,
    forge: Arc<dyn Forge>,
    kind: ForgeKind,
    repo: RepoName,
    tree: WorkTree,
    _dir: TempDir,
}

async fn stage() -> Stage {
    stage_of(ForgeKind::Github).await
}

async fn stage_of(kind: ForgeKind) -> Stage {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = SandboxOptions::new(dir.path(), Arc::new(SystemClock)).shaped(kind);
    let sandbox = Sandbox::start(options).await.expect("a sandbox");
    let repo = RepoName::parse("acme/churn").expect("a name");
    sandbox.create_repo(&repo, "main").await.expect("a repository");
    let config = sandbox.forge_config(SecretSource::Env("UNUSED".into()), Vec::new());
    let forge = forge::connect(&config, sandbox.token()).expect("a client");
    let tree = WorkTree::new(&sandbox.git_url(&repo, WRITER));
    Stage { sandbox, forge, kind, repo, tree, _dir: dir }
}

fn absent() -> Sha {
    Sha::parse(&"d".repeat(40)).expect("a commit id")
}

fn new_pull(title: &str, branch: &str) -> NewPull {
    NewPull {
        title: title.into(),
        author: WRITER.into(),
        head_branch: branch.into(),
        head_repo: None,
        base_branch: "main".into(),
        draft: false,
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn git_is_fetched_with_the_forges_own_address_and_header() {
    for kind in KINDS {
        git_is_fetched(kind).await;
    }
}

async fn git_is_fetched(kind: ForgeKind) {
    use secrecy::ExposeSecret;
    let s = stage_of(kind).await;
    s.tree.write("a", "1");
    let first = s.tree.commit("one");
    s.tree.push(&["main"]);
    let access = s.forge.git(&s.repo);
    assert_eq!(access.url, format!("{}/acme/churn.git", s.sandbox.url()));
    let header = access.authorization.expect("a header");
    let fetch = |header: &str| {
        let elsewhere = WorkTree::new(&access.url);
        let config = format!("http.extraHeader=Authorization: {header}");
        let out = elsewhere
            .command(&["-c", &config, "fetch", "--quiet", "--depth=1", &access.url, first.as_str()])
            .output();
        out.expect("git").status.success()
    };
    tokio::task::block_in_place(|| {
        assert!(fetch(header.expose_secret()), "any commit can be fetched by its id");
        assert!(!fetch("Basic bm9ib2R5Om5vdGhpbmc="), "a wrong password is refused");
    });
    assert!(!format!("{:?}", s.forge).contains(s.sandbox.account(BOT).token.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_apart_and_never_tried_again() {
    for kind in KINDS {
        failures_of(kind).await;
    }
}

async fn failures_of(kind: ForgeKind) {
    let s = stage_of(kind).await;
    s.tree.write("a", "1");
    let head = s.tree.commit("one");
    s.tree.push(&["main"]);
    let status = Status {
        context: "trainyard/default".into(),
        state: StatusState::Pending,
        description: "d".into(),
        target_url: String::new(),
    };
    let answer = |status: u16, headers: &[(&str, &str)], body: &str| FaultKind::Answer {
        status,
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        body: body.to_owned(),
    };
    let denied = r#"{"message":"Resource not accessible"}"#;
    let secondary = r#"{"message":"You have exceeded a secondary rate limit"}"#;
    let rows = [
        (answer(403, &[], denied), "refused"),
        (answer(401, &[], r#"{"message":"Bad credentials"}"#), "refused"),
        (answer(404, &[], "{}"), "refused"),
        (answer(410, &[], "{}"), "refused"),
        (answer(422, &[], "{}"), "refused"),
        (answer(451, &[], "{}"), "refused"),
        (answer(403, &[], secondary), "limited 60000"),
        (answer(403, &[("retry-after", "5")], denied), "limited 5000"),
        (answer(429, &[("retry-after", "120")], ""), "limited 120000"),
        (answer(429, &[], ""), "limited 60000"),
        (answer(403, &[("x-ratelimit-remaining", "0")], "{}"), "limited 60000"),
        (answer(500, &[], "<html>"), "transient"),
        (answer(502, &[], ""), "transient"),
        (answer(503, &[("retry-after", "1")], ""), "transient"),
        (answer(200, &[], "this is no JSON"), "transient"),
        (answer(301, &[("location", "http://127.0.0.1:1/steal")], ""), "refused"),
        (answer(307, &[("location", "http://127.0.0.1:1/steal")], ""), "refused"),
        (answer(307, &[("location", "//127.0.0.1:1/steal")], ""), "refused"),
        (FaultKind::DropBefore, "transient"),
        (FaultKind::DropAfter, "transient"),
    ];
    let cases = rows.len();
    for (kind, want) in rows {
        let calls = s.sandbox.exchanges().len();
        let shown = format!("{kind:?}");
        s.sandbox.inject(Fault::next(1, kind));
        let got = match s.forge.set_status(&s.repo, &head, &status).await {
            Ok(()) => "ok".to_owned(),
            Err(ForgeError::NotFound { .. }) => "not found".to_owned(),
            Err(ForgeError::Refused { .. }) => "refused".to_owned(),
            Err(ForgeError::Limited { wait_ms, .. }) => format!("limited {wait_ms}"),
            Err(ForgeError::Transient { message, .. }) => {
                assert!(!message.contains("http://"), "no URL in an error: {message}");
                "transient".to_owned()
            }
        };
        assert_eq!(got, want, "{shown}");
        assert_eq!(s.sandbox.exchanges().len(), calls + 1, "one attempt: {shown}");
    }
    assert_eq!(s.sandbox.statuses(&s.repo, &head).len(), 1, "only the dropped answer took effect");
    println!("FIGURE forge_failures kind={} cases={cases} failed=0", kind.word());
}

/// A server that keeps what it is asked and answers every call with one redirect.
async fn trap(location: String) -> (String, mpsc::UnboundedReceiver<HeaderMap>) {
    let (seen, asked) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let app = axum::Router::new().fallback(move |headers: HeaderMap| {
        let (seen, location) = (seen.clone(), location.clone());
        async move {
            seen.send(headers).expect("the test listens");
            (StatusCode::MOVED_PERMANENTLY, [("location", location)], "")
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_the_configured_host_alone() {
    let mut cases = 0;
    for kind in KINDS {
        cases += token_of(kind).await;
    }
    println!("SEC S12 cases={cases} failed=0");
}

async fn token_of(kind: ForgeKind) -> usize {
    let s = stage_of(kind).await;
    s.tree.write("a", "1");
    let head = s.tree.commit("one");
    s.tree.push(&["main"]);
    let (other, mut asked) = trap("http://127.0.0.1:1/".into()).await;
    let redirect = |location: String| {
        Fault::next(
            1,
            FaultKind::Answer {
                status: 301,
                headers: vec![("location".into(), location)],
                body: String::new(),
            },
        )
    };
    let api = s.sandbox.api_url();
    let mut cases = 0;
    for location in [
        other.clone(),
        format!("{other}/api/v3/user"),
        format!("{other}/api/v4/user"),
        format!("{api}.evil.example/user"),
        format!("{api}@127.0.0.1/user"),
        s.sandbox.url().to_owned(),
        format!("{}/api/v9/user", s.sandbox.url()),
        format!("//{}", other.trim_start_matches("http://")),
        "https://127.0.0.1:1/".into(),
        String::new(),
        "file:///etc/passwd".into(),
    ] {
        s.sandbox.inject(redirect(location.clone()));
        let refused = s.forge.commit(&s.repo, &head).await.expect_err("a redirect elsewhere");
        assert!(matches!(refused, ForgeError::Refused { .. }), "{location}: {refused}");
        cases += 1;
    }
    asked.try_recv().expect_err("nothing reached the other host");

    let same = match kind {
        ForgeKind::Gitlab => format!("{api}/projects/acme%2Fchurn/repository/commits/{head}"),
        _ => format!("{api}/repos/acme/churn/git/commits/{head}"),
    };
    s.sandbox.inject(redirect(same));
    s.forge.commit(&s.repo, &head).await.expect("a redirect within the API is followed");
    let around = redirect(format!("{api}/user"));
    s.sandbox.inject(Fault { times: 10, ..around });
    let endless = s.forge.commit(&s.repo, &head).await.expect_err("an endless redirect");
    assert!(matches!(endless, ForgeError::Transient { .. }), "{endless}");
    cases + 2
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_paths_come_from_trees() {
    // Folders of more than one page at GitLab.
    for (kind, folders, files) in [(KINDS[0], 60, 100), (KINDS[1], 5, 130), (KINDS[2], 5, 130)] {
        changed_paths(kind, folders, files).await;
    }
}

async fn changed_paths(kind: ForgeKind, folders: usize, files: usize) {
    let s = stage_of(kind).await;
    for folder in 0..folders {
        for file in 0..files {
            s.tree.write(&format!("data/part{folder:02}/f{file:03}.txt"), format!("{folder} {file}"));
        }
    }
    s.tree.write("train.py", "1");
    s.tree.write("docs/a.md", "1");
    let base = s.tree.commit("base");
    s.tree.push(&["main"]);

    // At GitHub 6,000 files change, in 60 folders; a payload or a comparison would list 300 or 3,000 of them.
    for folder in 0..folders {
        for file in 0..files {
            s.tree.write(&format!("data/part{folder:02}/f{file:03}.txt"), format!("{folder} {file} changed"));
        }
    }
    let wide = s.tree.commit("many files");
    s.tree.push(&["main"]);
    let (from, to) = (base.as_str().to_owned(), wide.as_str().to_owned());
    let by_git = |from: &str, to: &str| -> Vec<String> {
        let text = s.tree.git(&["diff", "--name-only", "--no-renames", "-z", from, to]);
        let mut paths: Vec<String> = text.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        paths.sort();
        paths
    };
    let calls = s.sandbox.exchanges().len();
    let paths = tree_diff(s.forge.as_ref(), &s.repo, Some(&base), &wide)
        .await
        .expect("a diff")
        .expect("not too many");
    let calls = s.sandbox.exchanges().len() - calls;
    assert_eq!(paths, by_git(&from, &to));
    assert_eq!(paths.len(), folders * files);
    println!(
        "FIGURE tree_diff kind={} files={} tree_calls={calls} equal_to_git=true",
        kind.word(),
        paths.len()
    );

    // Every kind of small change, against git's own answer.
    s.tree.git(&["rm", "--quiet", "-r", "data/part00"]);
    s.tree.git(&["mv", "data/part01/f000.txt", "moved.txt"]);
    s.tree.git(&["update-index", "--chmod=+x", "train.py"]);
    s.tree.write("docs/new/deep/er.md", "x");
    std::fs::remove_dir_all(s.tree.file("data/part02")).expect("a folder");
    s.tree.write("data/part02", "a file where a folder was");
    s.tree.git(&["config", "core.fileMode", "false"]);
    let mixed = s.tree.commit("mixed");
    s.tree.push(&["main"]);
    for (from, to) in [(&wide, &mixed), (&mixed, &wide), (&base, &mixed)] {
        let paths = tree_diff(s.forge.as_ref(), &s.repo, Some(from), to)
            .await
            .expect("a diff")
            .expect("not too many");
        assert_eq!(paths, by_git(from.as_str(), to.as_str()));
    }
    assert_eq!(
        tree_diff(s.forge.as_ref(), &s.repo, Some(&wide), &wide).await.expect("a diff"),
        Some(Vec::new())
    );
    let all = tree_diff(s.forge.as_ref(), &s.repo, None, &base).await.expect("a diff").expect("not too many");
    assert_eq!(all.len(), folders * files + 2);
}

type Got = (HeaderMap, Vec<u8>);

/// A receiver of webhooks that answers 202 and hands them on.
async fn receiver() -> (String, mpsc::UnboundedReceiver<Got>) {
    let (send, got) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hooks/any/one", listener.local_addr().expect("an address"));
    let take = |State(send): State<mpsc::UnboundedSender<Got>>,
                headers: HeaderMap,
                body: axum::body::Bytes| async move {
        send.send((headers, body.to_vec())).expect("the test listens");
        StatusCode::ACCEPTED
    };
    let app = axum::Router::new().route("/hooks/any/one", axum::routing::post(take)).with_state(send);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, got)
}

/// The delivery's id and what it says.
fn read(kind: ForgeKind, got: &Got) -> (String, Parsed) {
    let (headers, body) = got;
    let text = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert_eq!(text("content-type"), "application/json");
    let (id, parsed) = match kind {
        ForgeKind::Github => {
            let signature = text("x-hub-signature-256");
            github::verify(&[signature.as_bytes()], body, &[SECRET.as_bytes()]).expect("a right signature");
            (text("x-github-delivery"), github::parse(&text("x-github-event"), body))
        }
        ForgeKind::Gitlab => {
            let (id, stamp, signature) =
                (text("webhook-id"), text("webhook-timestamp"), text("webhook-signature"));
            let signed = gitlab::Signed {
                id: id.as_bytes(),
                timestamp: stamp.as_bytes(),
                signatures: signature.as_bytes(),
            };
            let now_ms = stamp.parse::<i64>().expect("seconds") * 1000;
            gitlab::verify(signed, body, &[SIGNING_TOKEN.as_bytes()], now_ms).expect("a right signature");
            assert_eq!(text("idempotency-key"), id);
            (id, gitlab::parse(body))
        }
        ForgeKind::Gitea => {
            let signature = text("x-gitea-signature");
            gitea::verify(&[signature.as_bytes()], body, &[SECRET.as_bytes()]).expect("a right signature");
            assert_eq!(text("x-github-event"), text("x-gitea-event"), "it sends GitHub's headers as well");
            (text("x-gitea-delivery"), gitea::parse(&text("x-gitea-event"), body))
        }
    };
    assert_eq!(id.len(), 36);
    (id, parsed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_sends_the_webhooks_of_each_forge() {
    for kind in KINDS {
        let s = webhooks_of(kind).await;
        if kind == ForgeKind::Github {
            let shapes = hold_against_github(&s.sandbox);
            println!(
                "FIGURE webhook_schemas events={} deliveries={} violations=0",
                shapes.events.len(),
                shapes.deliveries
            );
        }
    }
}

async fn webhooks_of(kind: ForgeKind) -> Stage {
    let s = stage_of(kind).await;
    let (url, mut got) = receiver().await;
    s.sandbox.set_hook(url, if kind == ForgeKind::Gitlab { SIGNING_TOKEN } else { SECRET });
    let mut seen = Vec::new();
    let mut next = || {
        let got = got.try_recv().expect("a webhook");
        let (id, parsed) = read(kind, &got);
        seen.push(id.clone());
        (id, parsed)
    };
    let push = |parsed: Parsed| match parsed {
        Parsed::Event(event) => {
            assert_eq!(event.actor, s.sandbox.account(WRITER).actor());
            match event.kind {
                EventKind::Push(push) => push,
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    };
    let pull = |parsed: Parsed| match parsed {
        Parsed::Event(event) => match event.kind {
            EventKind::PullRequest(pull) => pull,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };

    s.sandbox.ping(&s.repo).await;
    if kind == ForgeKind::Github {
        assert!(matches!(next().1, Parsed::Event(event) if event.kind == EventKind::Ping));
    }

    s.tree.write("a", "1");
    let first = s.tree.commit("one");
    s.tree.push(&["main"]);
    let new = push(next().1);
    assert_eq!((new.branch.as_str(), new.before, new.after), ("main", None, Some(first.clone())));

    s.tree.git(&["switch", "--quiet", "-c", "try"]);
    s.tree.write("a", "2");
    let second = s.tree.commit("two <b>&amp;\u{1b}[31m");
    s.tree.push(&["try"]);
    assert_eq!(push(next().1).after.as_ref(), Some(&second));
    let number = s.sandbox.open_pull(&s.repo, new_pull("Try it", "try")).await.expect("a pull request");
    let opened = pull(next().1);
    assert_eq!(
        (opened.action, &opened.pull.head_sha, opened.pull.fork),
        (PullRequestAction::Opened, &second, false)
    );

    s.tree.git(&["commit", "--quiet", "--amend", "-m", "two again"]);
    let third = s.tree.head();
    s.tree.push(&["+try"]);
    let forced = push(next().1);
    // Only GitHub says that it was forced.
    let told = kind == ForgeKind::Github;
    assert_eq!((forced.forced, forced.before, forced.message.as_str()), (told, Some(second), "two again"));
    let synchronized = pull(next().1);
    assert_eq!(
        (synchronized.action, synchronized.pull.head_sha),
        (PullRequestAction::Synchronized, third.clone())
    );

    s.tree.push(&["try:refs/heads/other", "try:refs/tags/v1"]);
    assert_eq!(push(next().1).branch, "other");
    assert!(matches!(next().1, Parsed::Event(event) if matches!(event.kind, EventKind::Tag(_))), "a tag");

    s.sandbox.retarget_pull(&s.repo, number, "other").await.expect("another base");
    let retargeted = pull(next().1);
    assert_eq!(
        (retargeted.action, retargeted.pull.base_branch.as_str()),
        (PullRequestAction::Retargeted, "other")
    );
    s.sandbox.rename_pull(&s.repo, number, "Another title").await.expect("another title");
    assert!(matches!(next().1, Parsed::Ignored { .. }), "only the title");
    s.sandbox.comment(&s.repo, number, STRANGER, "/trainyard run").await.expect("a comment");
    match next().1 {
        Parsed::Event(event) => {
            assert_eq!(event.actor, s.sandbox.account(STRANGER).actor());
            assert!(
                matches!(event.kind, EventKind::Comment(c) if c.body == "/trainyard run" && c.pull_number == number)
            );
        }
        other => panic!("{other:?}"),
    }
    s.sandbox.label_pull(&s.repo, number).await.expect("a label");
    assert_eq!(pull(next().1).action, PullRequestAction::Labeled);
    s.sandbox.close_pull(&s.repo, number).await.expect("closed");
    assert_eq!(
        (pull(next().1).action, s.forge.pull(&s.repo, number).await.expect("it").open),
        (PullRequestAction::Closed, false)
    );
    s.sandbox.reopen_pull(&s.repo, number).await.expect("reopened");
    assert_eq!(pull(next().1).action, PullRequestAction::Reopened);
    s.tree.push(&[":try"]);
    let gone = push(next().1);
    // Gitea tells a deletion by another event, which does not say what was there.
    assert_eq!((gone.before, gone.after), (Some(third).filter(|_| kind != ForgeKind::Gitea), None));
    assert_eq!(pull(next().1).action, PullRequestAction::Closed, "its branch is gone");

    // A fork: its own pushes are not told, its pull requests are.
    let fork = RepoName::parse("eve/churn").expect("a name");
    s.sandbox.fork_repo(&s.repo, &fork).await.expect("a fork");
    let theirs = WorkTree::new(&s.sandbox.git_url(&fork, STRANGER));
    theirs.git(&["pull", "--quiet", &s.sandbox.git_url(&fork, STRANGER), "main"]);
    theirs.write("a", "3");
    let from_fork = theirs.commit("three");
    theirs.push(&["main:patch"]);
    let new = NewPull {
        author: STRANGER.into(),
        head_repo: Some(fork.clone()),
        draft: true,
        ..new_pull("From a fork", "patch")
    };
    let number = s.sandbox.open_pull(&s.repo, new).await.expect("a pull request");
    let opened = pull(next().1);
    assert_eq!((opened.pull.fork, opened.pull.draft, &opened.pull.head_sha), (true, true, &from_fork));
    assert_eq!(
        s.forge.commit(&s.repo, &from_fork).await.expect("it is in the base repository").parents,
        [first]
    );
    s.sandbox.ready_pull(&s.repo, number).await.expect("ready");
    assert_eq!(pull(next().1).action, PullRequestAction::ReadyForReview);
    s.sandbox.delete_fork(&s.repo, number).expect("no fork");
    s.sandbox.close_pull(&s.repo, number).await.expect("closed");
    assert!(pull(next().1).pull.fork, "a deleted fork is still a fork");

    let last = s.sandbox.deliveries().last().expect("one").guid.clone();
    s.sandbox.redeliver(&last).await.expect("sent again");
    next();
    assert_eq!(seen.last(), Some(&last), "a repetition keeps its id");
    seen.pop();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "ids differ");
    assert!(s.sandbox.deliveries().iter().all(|d| d.status == Some(202)));
    s
}

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

/// Commits a root that `git mktree` makes of these lines.
fn commit_tree(tree: &WorkTree, lines: &str) -> Sha {
    let id = tree.git_with_input(&["mktree"], lines);
    let commit = tree.git(&["commit-tree", "-m", "made", &id]);
    tree.git(&["update-ref", "refs/heads/main", &commit]);
    Sha::parse(&commit).expect("a commit id")
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_are_unknown() {
    let s = stage().await;
    let blob = s.tree.git_with_input(&["hash-object", "-w", "--stdin"], "x");
    let folder = s.tree.git_with_input(&["mktree"], &format!("100644 blob {blob}\tf\n"));
    let (mut files, mut folders) = (String::new(), String::new());
    for i in 0..20_001 {
        let _ = writeln!(files, "100644 blob {blob}\tf{i:05}");
    }
    for i in 0..2_001 {
        let _ = writeln!(folders, "040000 tree {folder}\td{i:04}");
    }
    for (what, lines) in [("20,001 files", files), ("2,001 folders", folders)] {
        let commit = commit_tree(&s.tree, &lines);
        s.tree.push(&["+main"]);
        assert_eq!(
            tree_diff(s.forge.as_ref(), &s.repo, None, &commit).await.expect("a diff"),
            None,
            "{what}"
        );
    }
    assert!(s.sandbox.exchanges().len() < 10, "the bound is known before the calls are made");
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
