//! Comparisons, the outbox, tokens, retention and the installation itself.

use futures_util::future::join_all;
use serde_json::json;
use trainyard::model::{ComparisonId, ComparisonState, PullRequest, RepoId, RunId, RunState, Verdict};
use trainyard::store::comparisons::ComparisonRow;
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::lists::RunFilter;
use trainyard::store::outbox::{Desire, OutboxKind, OutboxState};
use trainyard::store::retention::Retention;
use trainyard::store::runs::NewRun;
use trainyard::store::tokens::{Scope, TokenRow};
use trainyard::store::work::{WorkAsk, WorkKind, WorkOutcome};
use trainyard::store::{Instance, StoreError};

use super::fixture::{Place, T0, delivery, intake, new_run, pull, sha};

fn comparison(candidate: &RunId, baseline: Option<&RunId>) -> ComparisonRow {
    ComparisonRow {
        id: ComparisonId::generate(T0),
        candidate: candidate.clone(),
        baseline: baseline.cloned(),
        baseline_note: "the merge-base".into(),
        nearer: None,
        target: "pr:1".into(),
        gates_digest: "g".into(),
        rules: "point-1".into(),
        state: ComparisonState::Pending,
        verdict: None,
        result: json!({}),
        created_ms: T0,
        wait_until_ms: T0 + 10,
        updated_ms: T0,
    }
}

async fn two_runs(at: &Place) -> (RunId, RunId) {
    let repo = at.repo().await;
    let runs = vec![new_run(&repo, &sha('a'), RunState::Queued), new_run(&repo, &sha('b'), RunState::Queued)];
    let ids = at.runs(runs).await;
    (ids[0].clone(), ids[1].clone())
}

pub async fn a_comparison_is_final_once(at: &Place) {
    let (run, base) = two_runs(at).await;
    at.settle_all().await;
    let asks = || vec![WorkAsk::compare(&run, T0)];
    let pending = comparison(&run, Some(&base));
    assert!(at.store.put_comparison(pending.clone(), asks(), T0).await.unwrap());
    at.settle_all().await;
    assert!(!at.store.put_comparison(pending.clone(), asks(), T0 + 1).await.unwrap());
    assert_eq!(at.open_work().await, 0, "nothing changed, nothing is asked for");
    let done = ComparisonRow {
        state: ComparisonState::Final,
        verdict: Some(Verdict::Pass),
        nearer: Some(vec![sha('c'), sha('d')]),
        result: json!({"accuracy": 0.9}),
        ..pending.clone()
    };
    assert!(at.store.put_comparison(done.clone(), asks(), T0 + 2).await.unwrap());
    assert!(!at.store.put_comparison(pending, vec![], T0 + 3).await.unwrap(), "final stays final");
    let live = at.store.comparisons_of(&run).await.unwrap();
    assert_eq!(live, [ComparisonRow { updated_ms: T0 + 2, ..done }]);
    let row = async |id: &RunId| at.store.run(id).await.unwrap().unwrap();
    assert_eq!(at.store.candidates_on(&row(&base).await).await.unwrap(), std::slice::from_ref(&run));
    assert_eq!(at.store.candidates_on(&row(&run).await).await.unwrap(), []);
    let again = NewRun { generation: 1, ..new_run(&at.repo().await, &sha('b'), RunState::Queued) };
    let again = at.runs(vec![again]).await.remove(0);
    assert_eq!(at.store.candidates_on(&row(&again).await).await.unwrap(), [run], "it is of the same commit");
}

pub async fn open_pulls_that_any_run_of_a_branch_concerns_are_found(at: &Place) {
    let (run, base) = two_runs(at).await;
    let repo = at.repo().await;
    let found = async |pipeline: &str| at.store.candidates_on_branches(&repo, pipeline).await.unwrap();
    let pull = async |name: &str, open: bool| {
        let new = delivery(name, b"{}");
        let id = new.id.clone();
        at.store.deliver(new).await.unwrap();
        let pull = PullRequest { open, ..pull(1, &sha('a')) };
        let commit = IntakeCommit { pulls: vec![(repo.clone(), pull)], ..intake(&id) };
        at.store.commit_intake(commit, T0).await.unwrap().unwrap();
    };
    pull("opened", true).await;
    let first = comparison(&run, None);
    at.store.put_comparison(first.clone(), vec![], T0).await.unwrap();
    at.store.put_comparison(comparison(&base, None), vec![], T0).await.unwrap();
    assert_eq!(found("churn").await, [run]);
    assert_eq!(found("prices").await, []);
    let sure = ComparisonRow { nearer: Some(vec![sha('c')]), ..first.clone() };
    at.store.put_comparison(sure, vec![], T0).await.unwrap();
    assert_eq!(found("churn").await, []);
    at.store.put_comparison(first.clone(), vec![], T0).await.unwrap();
    assert_eq!(found("churn").await, [first.candidate]);
    pull("closed", false).await;
    assert_eq!(found("churn").await, []);
}

pub async fn comparisons_follow_their_question(at: &Place) {
    let (run, base) = two_runs(at).await;
    let first = comparison(&run, None);
    at.store.put_comparison(first.clone(), vec![], T0).await.unwrap();
    // The same id with another baseline is another question: the old row stays as it was, superseded.
    let second = ComparisonRow { baseline: Some(base.clone()), ..first.clone() };
    assert!(at.store.put_comparison(second, vec![], T0 + 1).await.unwrap());
    let branch = ComparisonRow { target: "branch:main".into(), ..comparison(&run, None) };
    at.store.put_comparison(branch, vec![], T0 + 1).await.unwrap();
    let live = at.store.comparisons_of(&run).await.unwrap();
    assert_eq!(live.iter().map(|c| c.target.as_str()).collect::<Vec<_>>(), ["branch:main", "pr:1"]);
    assert_ne!(live[1].id, first.id);
    let view = at.store.run_view(&run).await.unwrap().unwrap().run;
    let trend = at.store.trend(&view.repo_id, "main", 9).await.unwrap();
    assert_eq!(trend.iter().map(|t| (&t.run, &t.result)).collect::<Vec<_>>(), [(&run, &live[0].result)]);
    assert!(at.store.trend(&view.repo_id, "dev", 9).await.unwrap().is_empty());
    let of_pull = RunFilter { repo: Some(view.repo_id), pull: Some(1), ..RunFilter::default() };
    let listed = at.store.list_runs(of_pull, None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|i| &i.run.id).collect::<Vec<_>>(), [&run]);
    assert_eq!(at.store.comparisons_of_runs(&[base.clone(), run.clone()]).await.unwrap(), live);
    assert_eq!(at.store.comparisons_of_runs(&[]).await.unwrap(), []);
    assert_eq!(
        at.store.supersede_comparisons(&run, &["branch:main".into()], vec![], T0 + 2).await.unwrap(),
        1
    );
    assert_eq!(at.store.comparisons_of(&run).await.unwrap().len(), 1);
    assert_eq!(at.store.candidates_on(&at.store.run(&base).await.unwrap().unwrap()).await.unwrap(), []);
    assert_eq!(at.store.supersede_comparisons(&run, &[], vec![], T0 + 3).await.unwrap(), 1);
}

fn desire(repo: &RepoId, state: &str, not_before_ms: i64) -> Desire {
    Desire {
        credential: "github".into(),
        repo_id: repo.clone(),
        kind: OutboxKind::Status,
        target: "aaaa/trainyard/churn".into(),
        desired: json!({"state": state}),
        last: state == "success",
        not_before_ms,
    }
}

pub async fn the_outbox_converges(at: &Place) {
    let repo = at.repo().await;
    assert!(at.store.desire(desire(&repo, "pending", T0), T0).await.unwrap());
    assert!(!at.store.desire(desire(&repo, "pending", T0), T0).await.unwrap());
    let row = async || {
        at.store.outbox_row(&repo, OutboxKind::Status, "aaaa/trainyard/churn").await.unwrap().unwrap()
    };
    let due = at.store.outbox_due("github", None, T0, 9).await.unwrap();
    assert_eq!(due, [row().await]);
    assert_eq!(at.store.outbox_next("github").await.unwrap(), [(OutboxKind::Status, T0)]);
    assert_eq!(at.store.outbox_next("other").await.unwrap(), []);
    let item = at.store.claim(&[WorkKind::Outbox], "w", T0, 9, 9).await.unwrap().remove(0);
    assert_eq!(item.key, "github");

    // A newer state while the first is on its way: it stays pending until that is sent too.
    assert!(at.store.desire(desire(&repo, "success", T0 + 1), T0 + 1).await.unwrap());
    at.store.outbox_sent(&due[0].id, 1, "77", T0 + 2).await.unwrap();
    let now = row().await;
    assert_eq!((now.state, now.desired_seq, now.sent_seq, now.last), (OutboxState::Pending, 2, 1, true));
    at.store.outbox_sent(&due[0].id, 2, "", T0 + 3).await.unwrap();
    at.store.outbox_sent(&due[0].id, 2, "", T0 + 3).await.unwrap();
    let now = row().await;
    assert_eq!((now.state, now.writes, now.remote_id.as_str()), (OutboxState::Sent, 2, "77"));

    assert!(at.store.desire(desire(&repo, "failure", T0 + 4), T0 + 4).await.unwrap());
    at.store.outbox_dead(&now.id, 2, "an older one", T0 + 5).await.unwrap();
    assert_eq!(row().await.state, OutboxState::Pending);
    at.store.outbox_dead(&now.id, 3, "no such commit", T0 + 5).await.unwrap();
    assert_eq!((row().await.state, row().await.last_error.as_str()), (OutboxState::Dead, "no such commit"));
    assert_eq!(at.store.outbox_untold("github", T0, 9).await.unwrap(), [row().await]);
    assert_eq!(at.store.outbox_untold("github", T0 + 1, 9).await.unwrap(), []);
    assert!(at.store.desire(desire(&repo, "error", T0 + 6), T0 + 6).await.unwrap());
    assert_eq!(row().await.state, OutboxState::Pending);

    // A start tries once more what was given up, unless it is old.
    at.store.outbox_dead(&now.id, 4, "bad token", T0 + 7).await.unwrap();
    at.store.outbox_revive(vec!["other".into()], T0, T0 + 8).await.unwrap();
    at.store.outbox_revive(vec!["github".into()], T0 + 1, T0 + 8).await.unwrap();
    assert_eq!(row().await.state, OutboxState::Dead);
    at.store.outbox_revive(vec!["github".into()], T0, T0 + 9).await.unwrap();
    assert_eq!((row().await.state, row().await.next_ms), (OutboxState::Pending, T0 + 9));
}

pub async fn a_stream_of_changes_is_sent(at: &Place) {
    let repo = at.repo().await;
    for n in 0..5 {
        at.store.desire(desire(&repo, &format!("s{n}"), T0 + 15_000 + n), T0 + n).await.unwrap();
    }
    let next = at.store.outbox_next("github").await.unwrap();
    assert_eq!(next, [(OutboxKind::Status, T0 + 15_000)], "not put off for ever");
    let row = at.store.outbox_due("github", None, T0 + 15_000, 9).await.unwrap().remove(0);
    at.store.outbox_defer(&row.id, T0 + 60_000, "502", T0 + 15_000).await.unwrap();
    at.store.desire(desire(&repo, "success", T0 + 20_000), T0 + 20_000).await.unwrap();
    assert_eq!(at.store.outbox_due("github", None, T0 + 59_999, 9).await.unwrap(), [], "the back-off holds");
    let row = at.store.outbox_due("github", None, T0 + 60_000, 9).await.unwrap().remove(0);
    assert_eq!((row.desired, row.tries, row.last_error.as_str()), (json!({"state": "success"}), 1, "502"));
    let mut comment = desire(&repo, "text", T0);
    (comment.kind, comment.target) = (OutboxKind::Comment, "1".into());
    at.store.desire(comment, T0).await.unwrap();
    let due = at.store.outbox_due("github", None, T0 + 60_000, 9).await.unwrap();
    assert_eq!(due.iter().map(|row| row.last).collect::<Vec<_>>(), [true, false], "final ones first");
    let comments = at.store.outbox_due("github", Some(OutboxKind::Comment), T0 + 60_000, 9).await.unwrap();
    assert_eq!(comments, [due[1].clone()]);
}

pub async fn tokens_are_known_by_hash(at: &Place) {
    let token = TokenRow {
        id: "t1".into(),
        name: "ci".into(),
        scope: Scope::Run,
        repo: Some("ada/churn".into()),
        created_ms: T0,
        revoked_ms: None,
    };
    at.store.insert_token(token.clone(), "abc").await.unwrap();
    let twin = TokenRow { id: "t2".into(), ..token.clone() };
    assert!(
        matches!(at.store.insert_token(twin, "abc").await, Err(StoreError::Sql(_))),
        "one hash, one token"
    );
    assert_eq!(at.store.token_by_hash("abc").await.unwrap().unwrap(), token);
    assert!(at.store.revoke_token("t1", T0 + 1).await.unwrap());
    assert!(!at.store.revoke_token("t1", T0 + 2).await.unwrap());
    assert_eq!(at.store.token_by_hash("abc").await.unwrap(), None);
    assert_eq!(at.store.tokens().await.unwrap()[0].revoked_ms, Some(T0 + 1));
}

pub async fn a_session_ends_with_its_token(at: &Place) {
    let token = TokenRow {
        id: "person".into(),
        name: "ada".into(),
        scope: Scope::Read,
        repo: None,
        created_ms: T0,
        revoked_ms: None,
    };
    at.store.insert_token(token.clone(), "person's token").await.unwrap();
    at.store.start_session("one", "person", T0, T0 + 10).await.unwrap();
    at.store.start_session("two", "person", T0, T0 + 99).await.unwrap();
    assert_eq!(at.store.session("one", T0 + 9).await.unwrap().unwrap(), token);
    assert_eq!(at.store.session("one", T0 + 10).await.unwrap(), None, "expired");
    assert_eq!(at.store.session("none", T0).await.unwrap(), None);
    at.store.start_session("three", "person", T0 + 20, T0 + 99).await.unwrap();
    assert!(!at.store.end_session("one").await.unwrap(), "the next login forgets what has expired");
    assert!(at.store.end_session("two").await.unwrap());
    assert_eq!(at.store.session("two", T0 + 21).await.unwrap(), None);
    at.store.revoke_token("person", T0 + 22).await.unwrap();
    assert_eq!(at.store.session("three", T0 + 23).await.unwrap(), None, "its token was revoked");
}

pub async fn what_is_old_is_deleted(at: &Place) {
    let days = |n: i64| T0 + n * 24 * 3_600_000;
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let uid = at.started(&run).await;
    at.store.append_log(&uid, 0, 5, "logs/1", T0).await.unwrap();
    let row = trainyard::store::attempts::ArtifactRow {
        attempt_uid: uid.clone(),
        path: "m".into(),
        bytes: 1,
        sha256: String::new(),
        executable: false,
        blob_key: "artifacts/1".into(),
    };
    at.store.put_artifact(row, T0).await.unwrap();
    let old: Vec<_> = (0..1001).map(|n| delivery(&format!("d{n}"), b"x")).collect();
    let last = old[1000].id.clone();
    for some in old.chunks(100) {
        join_all(some.iter().map(async |new| {
            let id = new.id.clone();
            at.store.deliver(new.clone()).await.unwrap();
            at.store.commit_intake(intake(&id), T0).await.unwrap();
        }))
        .await;
    }
    let undecided = delivery("undecided", b"keep me");
    at.store.deliver(undecided.clone()).await.unwrap();
    at.store.desire(desire(&repo, "success", T0), T0).await.unwrap();
    let sent = at.store.outbox_due("github", None, T0, 9).await.unwrap().remove(0);
    at.store.outbox_sent(&sent.id, 1, "", T0).await.unwrap();
    let keep = Retention::default();
    assert_eq!(at.store.sweep(keep, days(7)).await.unwrap().rows, 0);

    let swept = at.store.sweep(keep, days(8)).await.unwrap();
    assert_eq!((swept.rows, swept.more), (1000, true), "a batch of bodies");
    let swept = at.store.sweep(keep, days(8)).await.unwrap();
    assert_eq!((swept.rows, swept.more), (2, false), "the rest, and the fixture's own delivery");
    assert_eq!(at.store.delivery_body(&last).await.unwrap(), None);
    assert!(at.store.delivery(&last).await.unwrap().is_some(), "the memory of what was seen stays longer");
    assert_eq!(at.store.delivery_body(&undecided.id).await.unwrap().unwrap(), b"keep me");

    assert_eq!(at.store.sweep(keep, days(80)).await.unwrap().rows, 0, "the run is open: its artifacts stay");
    at.end(&uid, trainyard::model::EndClass::Succeeded).await;
    let end = trainyard::store::runs::RunChange {
        to: Some((RunState::Succeeded, String::new())),
        ..at.change(&run).await
    };
    at.store.apply(end, T0).await.unwrap();
    assert_eq!(at.store.sweep(keep, days(80)).await.unwrap().blob_keys, ["artifacts/1"]);
    let open = at.store.claim(WorkKind::ALL, "w", T0, 1, 5000).await.unwrap();
    for some in open.chunks(100) {
        join_all(some.iter().map(async |item| {
            at.store.settle(item, WorkOutcome::Park { error: "x".into() }, T0).await.unwrap();
        }))
        .await;
    }
    let swept = at.store.sweep(keep, days(91)).await.unwrap();
    assert!(swept.more && swept.blob_keys == ["logs/1"], "{swept:?}");
    while at.store.sweep(keep, days(91)).await.unwrap().more {}
    assert_eq!(at.store.parked(9).await.unwrap(), []);
    assert_eq!(at.store.list_deliveries(None, 9).await.unwrap(), []);
    assert_eq!(at.store.outbox_row(&repo, sent.kind, &sent.target).await.unwrap(), None);
    assert!(at.store.run(&run).await.unwrap().is_some(), "runs are kept");
}

pub async fn the_installation_keeps_its_facts(at: &Place) {
    assert_eq!(at.store.meta_or_insert("x", || "first".into()).await.unwrap(), "first");
    assert_eq!(at.store.meta_or_insert("x", || "second".into()).await.unwrap(), "first");
    let one = Instance::load(&at.store).await.unwrap();
    let two = Instance::load(&at.store).await.unwrap();
    assert_eq!((one.id.as_str(), one.derive("p", &["a"])), (two.id.as_str(), two.derive("p", &["a"])));
    let before = at.store.write_counts();
    at.store.check().await.unwrap();
    at.store.check().await.unwrap();
    assert_eq!(at.store.write_counts().commits, before.commits + 2, "a real commit each time");
}

pub async fn a_closed_store_says_so(at: &Place) {
    at.store.check().await.unwrap();
    at.store.close().await;
    at.store.close().await;
    assert!(matches!(at.store.check().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(at.store.open_runs().await, Err(StoreError::Unavailable(_))));
}
