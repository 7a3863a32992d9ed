//! Work items.

use std::time::{Duration, Instant};

use trainyard::model::{DeliveryState, RunId, RunState};
use trainyard::store::daemons::DaemonRow;
use trainyard::store::work::{WorkAsk, WorkItem, WorkKind, WorkOutcome};

use super::fixture::{Place, T0, delivery, new_run, sha};

const LEASE: i64 = 60_000;

fn ask(key: &str, at_ms: i64) -> WorkAsk {
    WorkAsk { kind: WorkKind::Run, key: key.into(), at_ms }
}

async fn claim(at: &Place, now: i64) -> Vec<WorkItem> {
    at.store.claim(&[WorkKind::Run, WorkKind::Delivery], "w", now, LEASE, 9).await.unwrap()
}

pub async fn asking_again_looks_once_more(at: &Place) {
    at.store.ask(vec![ask("r", T0 + 50), ask("r", T0 + 10), ask("s", T0 + 99)], T0).await.unwrap();
    assert_eq!(claim(at, T0 + 9).await, [], "not before its time");
    assert_eq!(at.store.next_due(&[WorkKind::Run]).await.unwrap(), Some(T0 + 10));
    assert_eq!(at.store.next_due(&[WorkKind::Outbox]).await.unwrap(), None);
    let due = at.store.next_due_of(&[WorkKind::Outbox, WorkKind::Run]).await.unwrap();
    assert_eq!(due, [(WorkKind::Run, T0 + 10)], "kinds with nothing open are left out");
    assert_eq!(at.store.claim(&[WorkKind::Schedule], "w", T0 + 50, LEASE, 9).await.unwrap(), []);
    let item = claim(at, T0 + 10).await.remove(0);
    assert_eq!((item.key.as_str(), item.epoch, item.tries), ("r", 1, 0));
    assert_eq!(claim(at, T0 + 10).await, [], "leased");

    // Asked while it is looked at: once more, and not before the time asked for.
    at.store.ask(vec![ask("r", T0 + 40)], T0 + 11).await.unwrap();
    assert!(at.store.settle(&item, WorkOutcome::Done, T0 + 12).await.unwrap());
    assert_eq!(claim(at, T0 + 39).await, []);
    let item = claim(at, T0 + 40).await.remove(0);
    assert!(at.store.settle(&item, WorkOutcome::Done, T0 + 41).await.unwrap());
    assert_eq!(
        at.store.next_due(&[WorkKind::Run]).await.unwrap(),
        Some(T0 + 99),
        "only the other one is left"
    );
}

pub async fn a_lease_is_lost_to_the_next_holder(at: &Place) {
    at.store.ask(vec![ask("r", T0)], T0).await.unwrap();
    let first = claim(at, T0).await.remove(0);
    assert!(at.store.heartbeat_work(&first, T0 + 30_000, LEASE).await.unwrap());
    assert_eq!(claim(at, T0 + 89_999).await, []);
    assert_eq!(at.store.next_due(&[WorkKind::Run]).await.unwrap(), Some(T0 + 90_000));
    let second = claim(at, T0 + 90_000).await.remove(0);
    assert_eq!(second.epoch, first.epoch + 1);
    assert!(!at.store.heartbeat_work(&first, T0 + 90_001, LEASE).await.unwrap());
    for outcome in
        [WorkOutcome::Done, WorkOutcome::Again { at_ms: T0 }, WorkOutcome::Park { error: "x".into() }]
    {
        assert!(!at.store.settle(&first, outcome, T0 + 90_002).await.unwrap());
    }
    assert!(at.store.heartbeat_work(&second, T0 + 90_003, LEASE).await.unwrap());
    assert!(at.store.settle(&second, WorkOutcome::Done, T0 + 90_004).await.unwrap());
}

pub async fn outcomes_decide_what_comes_next(at: &Place) {
    at.store.ask(vec![ask("r", T0)], T0).await.unwrap();
    let item = claim(at, T0).await.remove(0);
    let failed = WorkOutcome::Retry { at_ms: T0 + 100, error: "no answer".into() };
    at.store.ask(vec![ask("r", T0 + 1)], T0 + 1).await.unwrap();
    at.store.settle(&item, failed, T0 + 2).await.unwrap();
    assert_eq!(claim(at, T0 + 99).await, [], "a failure waits out its back-off");
    let item = claim(at, T0 + 100).await.remove(0);
    assert_eq!(item.tries, 1);
    at.store.settle(&item, WorkOutcome::Again { at_ms: T0 + 200 }, T0 + 101).await.unwrap();
    let item = claim(at, T0 + 200).await.remove(0);
    assert_eq!(item.tries, 0, "looking again is not failing");
    at.store.settle(&item, WorkOutcome::Park { error: "broken".into() }, T0 + 201).await.unwrap();
    assert_eq!(claim(at, T0 + 10_000_000).await, []);
    let parked = at.store.parked(9).await.unwrap();
    assert_eq!((parked[0].0.key.as_str(), parked[0].1.as_str()), ("r", "broken"));
    let kind = parked[0].0.kind;
    let other = *WorkKind::ALL.iter().find(|other| **other != kind).unwrap();
    at.store.retry_parked(other, T0 + 202).await.unwrap();
    assert_eq!(at.store.count_parked().await.unwrap(), 1);
    at.store.retry_parked(kind, T0 + 202).await.unwrap();
    assert_eq!(at.store.count_parked().await.unwrap(), 0);
    let item = claim(at, T0 + 202).await.remove(0);
    assert_eq!(item.tries, 0, "so does a start");
    at.store.settle(&item, WorkOutcome::Park { error: "broken".into() }, T0 + 203).await.unwrap();
    at.store.ask(vec![ask("r", T0 + 300)], T0 + 300).await.unwrap();
    assert_eq!(claim(at, T0 + 300).await[0].tries, 0, "asking takes it out of the park");
}

/// A forge that is away and failures of our own are counted apart.
pub async fn waiting_is_not_failing(at: &Place) {
    at.store.ask(vec![ask("r", T0)], T0).await.unwrap();
    let mut now = T0;
    for n in 0..7 {
        let item = claim(at, now).await.remove(0);
        assert_eq!((item.tries, item.waits), (i64::from(n > 3), n - i64::from(n > 3)));
        now += 10;
        let error = "502".to_owned();
        let outcome = match n {
            3 => WorkOutcome::Retry { at_ms: now, error },
            _ => WorkOutcome::Wait { at_ms: now, error },
        };
        assert!(at.store.settle(&item, outcome, now - 5).await.unwrap());
    }
    let item = claim(at, now).await.remove(0);
    assert_eq!((item.tries, item.waits), (1, 6));
    assert_eq!(at.store.failing(5, 9).await.unwrap(), [(item.clone(), "502".to_owned())]);
    assert_eq!(at.store.failing(6, 9).await.unwrap(), []);
    at.store.settle(&item, WorkOutcome::Again { at_ms: now }, now).await.unwrap();
    let item = claim(at, now).await.remove(0);
    assert_eq!((item.tries, item.waits), (0, 0));
    assert_eq!(at.store.parked(9).await.unwrap(), []);
}

pub async fn a_machine_has_work_of_its_own(at: &Place) {
    let run = RunId::generate(T0);
    let asks = vec![
        WorkAsk::run(&run, T0),
        WorkAsk::run_at(&run, "elsewhere", T0),
        WorkAsk::schedule_at("elsewhere", T0),
        WorkAsk::schedule(T0 + 1),
    ];
    at.store.ask(asks, T0).await.unwrap();
    let kinds = [WorkKind::Run, WorkKind::Schedule];
    assert_eq!(at.store.machine(), "", "this handle has none");
    assert_eq!(at.store.next_due(&[WorkKind::Schedule]).await.unwrap(), Some(T0 + 1));
    let keys: Vec<String> =
        at.store.claim(&kinds, "w", T0 + 1, LEASE, 9).await.unwrap().into_iter().map(|i| i.key).collect();
    assert_eq!(keys, [run.to_string(), "all".to_owned()]);
    let there = at.beside("elsewhere").await;
    let theirs = there.claim(&kinds, "elsewhere/1", T0 + 1, LEASE, 9).await.unwrap();
    assert_eq!(theirs.len(), 2, "its own, and nothing that is leased");
    // A daemon that starts again frees what its machine's dead process held.
    if !there.is_alone() {
        there.free_leases_of_the_dead().await.unwrap();
        assert_eq!(there.claim(&kinds, "elsewhere/2", T0 + 2, LEASE, 9).await.unwrap().len(), 2);
    }
    there.close().await;
}

pub async fn one_sender_keeps_its_term(at: &Place) {
    let kinds = [WorkKind::Outbox];
    let claim = async |holder: &str, now| at.store.claim(&kinds, holder, now, LEASE, 9).await.unwrap();
    let outbox = |at_ms| vec![WorkAsk { kind: WorkKind::Outbox, key: "github".into(), at_ms }];
    at.store.ask(outbox(T0), T0).await.unwrap();
    let item = claim("a", T0).await.remove(0);
    at.store.settle(&item, WorkOutcome::Done, T0 + 1).await.unwrap();
    assert_eq!(at.store.next_due(&kinds).await.unwrap(), None);
    at.store.ask(outbox(T0 + 2), T0 + 2).await.unwrap();
    assert_eq!(claim("b", T0 + 3).await, [], "the other one's credential");
    let item = claim("a", T0 + 3).await.remove(0);
    at.store.settle(&item, WorkOutcome::Again { at_ms: T0 + 4 }, T0 + 4).await.unwrap();
    assert_eq!(claim("b", T0 + 3 + LEASE - 1).await, []);
    let item = claim("b", T0 + 3 + LEASE).await.remove(0);
    at.store.settle(&item, WorkOutcome::Again { at_ms: T0 + 4 }, T0 + 4 + LEASE).await.unwrap();
    assert_eq!(claim("a", T0 + 5 + LEASE).await, []);
    at.store.give_up_terms("b").await.unwrap();
    assert_eq!(claim("a", T0 + 5 + LEASE).await.len(), 1, "it left in order");
}

pub async fn open_runs_are_asked_for_at_once(at: &Place) {
    let repo = at.repo().await;
    let ended = new_run(&repo, &sha('c'), RunState::Skipped);
    let runs = at
        .runs(vec![
            new_run(&repo, &sha('a'), RunState::Queued),
            new_run(&repo, &sha('b'), RunState::Held),
            ended,
        ])
        .await;
    at.settle_all().await;
    assert_eq!(at.store.ask_open_runs(T0 + 1).await.unwrap(), 2);
    assert_eq!(at.store.ask_open_runs(T0 + 2).await.unwrap(), 2);
    let keys: Vec<String> = claim(at, T0 + 2).await.into_iter().map(|item| item.key).collect();
    let mut open = vec![runs[0].to_string(), runs[1].to_string()];
    open.sort();
    assert_eq!(keys, open);
}

pub async fn daemons_know_of_each_other(at: &Place) {
    let row = |machine: &str, seen_ms| DaemonRow {
        machine: machine.into(),
        name: "host".into(),
        holder: format!("{machine}/1"),
        version: "1".into(),
        blob: "s3://b".into(),
        started_ms: T0,
        seen_ms,
    };
    at.store.daemon_lives(row("a", T0)).await.unwrap();
    at.store.daemon_lives(row("b", T0)).await.unwrap();
    at.store.daemon_lives(row("a", T0 + 30_000)).await.unwrap();
    assert_eq!(at.store.daemons().await.unwrap(), [row("a", T0 + 30_000), row("b", T0)]);
    assert!(row("b", T0).is_live(T0 + 59_999) && !row("b", T0).is_live(T0 + 60_000));
    at.store.daemon_leaves("a", "a/of before").await.unwrap();
    at.store.daemon_leaves("b", "b/1").await.unwrap();
    let live: Vec<bool> = at.store.daemons().await.unwrap().iter().map(|d| d.is_live(T0 + 30_001)).collect();
    assert_eq!(live, [true, false]);
    assert_eq!(at.store.server_time_ms().await.unwrap().is_none(), at.store.is_alone());
}

pub async fn a_parked_delivery_says_so(at: &Place) {
    let new = delivery("d", b"{}");
    let id = new.id.clone();
    at.store.deliver(new).await.unwrap();
    let item = claim(at, T0).await.remove(0);
    at.store.settle(&item, WorkOutcome::Park { error: "five failures".into() }, T0 + 1).await.unwrap();
    let row = at.store.delivery(&id).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason.as_str()), (DeliveryState::Parked, "five failures"));
}

pub async fn a_hint_wakes_a_waiter(at: &Place) {
    let begun = Instant::now();
    let wait = at.store.work_hint(Duration::from_secs(30));
    let ((), asked) = tokio::join!(wait, at.store.ask(vec![ask("r", T0)], T0));
    asked.unwrap();
    // One that comes too late to be waiting is let through as well.
    at.store.ask(vec![ask("s", T0)], T0).await.unwrap();
    at.store.work_hint(Duration::from_secs(30)).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    at.store.work_hint(Duration::from_millis(1)).await;
}
