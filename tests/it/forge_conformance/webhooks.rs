//! What the sandbox sends is what each forge sends.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;
use trainyard::config::ForgeKind;
use trainyard::forge::webhook::{gitea, github, gitlab};
use trainyard::model::{EventKind, Parsed, PullRequestAction, RepoName};
use trainyard::sandbox::{NewPull, STRANGER, WRITER};

use super::{KINDS, Stage, new_pull, stage_of};
use crate::forge_shapes::hold_against_github;
use crate::worktree::WorkTree;

const SECRET: &str = "a secret of the conformance suite";

const SIGNING_TOKEN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

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
