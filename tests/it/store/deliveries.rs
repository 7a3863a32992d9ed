//! Deliveries, and what one commit decides about one.

use trainyard::clock::Millis;
use trainyard::model::{DeliveryRowId, DeliveryState, RepoName, RepoRef, RunId, RunState, StepState};
use trainyard::store::deliveries::{Delivered, IntakeCommit, NewDelivery};
use trainyard::store::work::{WorkAsk, WorkKind};

use super::fixture::{Place, T0, delivery, intake, new_run, pull, sha};

pub async fn a_delivery_is_stored_once(at: &Place) {
    let new = delivery("d1", b"hello");
    let id = new.id.clone();
    assert_eq!(at.store.deliver(new).await.unwrap(), Delivered::Stored);
    assert_eq!(
        at.store.deliver(delivery("d1", b"hello")).await.unwrap(),
        Delivered::Seen { same_body: true }
    );
    assert_eq!(
        at.store.deliver(delivery("d1", b"other")).await.unwrap(),
        Delivered::Seen { same_body: false }
    );
    let mut elsewhere = delivery("d1", b"hello");
    elsewhere.hook_id = "second".into();
    assert_eq!(at.store.deliver(elsewhere).await.unwrap(), Delivered::Stored);

    let row = at.store.delivery(&id).await.unwrap().unwrap();
    assert_eq!((row.state, row.body_bytes, row.event.as_str()), (DeliveryState::Stored, 5, "push"));
    assert_eq!(row.headers["x-github-event"], "push");
    assert_eq!(at.store.delivery_body(&id).await.unwrap().unwrap(), b"hello");
    assert_eq!(at.store.delivery_body(&DeliveryRowId::from_text("none")).await.unwrap(), None);
    // What nobody reads is decided with its arrival; a replay looks at it all the same.
    let star = NewDelivery { ignored: Some("not acted on".into()), ..delivery("d2", b"star") };
    let id = star.id.clone();
    let (one, two) = tokio::join!(at.store.deliver(star), at.store.deliver(delivery("d3", b"push")));
    assert_eq!((one.unwrap(), two.unwrap()), (Delivered::Stored, Delivered::Stored));
    let row = at.store.delivery(&id).await.unwrap().unwrap();
    assert_eq!(
        (row.state, row.reason.as_str(), row.decided_ms),
        (DeliveryState::Ignored, "not acted on", Some(T0))
    );
    assert_eq!(
        at.open_work().await,
        3,
        "a work item for each row that is to be looked at, none for a repeat"
    );
    let twice =
        |body: &'static [u8]| NewDelivery { ignored: Some("not acted on".into()), ..delivery("d4", body) };
    let (one, two) =
        tokio::join!(at.store.deliver(twice(b"one star")), at.store.deliver(twice(b"two stars")));
    let mut both = [one.unwrap(), two.unwrap()];
    both.sort_by_key(|d| *d != Delivered::Stored);
    assert_eq!(both, [Delivered::Stored, Delivered::Seen { same_body: false }]);
    assert!(at.store.replay_delivery(&id, T0).await.unwrap());
    assert_eq!(at.open_work().await, 4);
}

pub async fn content_counts_as_the_same_for_a_while(at: &Place) {
    const DAY: Millis = 24 * 3_600_000;
    let send = async |name: &str, at_ms: Millis| {
        let mut new = delivery(name, b"the same");
        new.received_ms = at_ms;
        at.store.deliver_within(new, DAY).await.unwrap()
    };
    // Just before a window ends, so that the repeats lie in the next one.
    let first = (T0 / DAY + 1) * DAY - 1_000;
    let seen = Delivered::Seen { same_body: true };
    assert_eq!(send("sha256:a", first).await, Delivered::Stored);
    assert_eq!(send("sha256:a", first + 500).await, seen);
    assert_eq!(send("sha256:a", first + 2_000).await, seen, "in the next window");
    assert_eq!(send("sha256:b", first + 2_000).await, Delivered::Stored, "other content");
    assert_eq!(send("sha256:a", first + DAY - 1).await, seen);
    assert_eq!(send("sha256:a", first + DAY).await, Delivered::Stored, "a day later");
    assert_eq!(send("sha256:a", first + DAY + 5_000).await, seen);
    assert_eq!(send("sha256:a", first + 3 * DAY).await, Delivered::Stored, "after a quiet window");
    assert_eq!(at.open_work().await, 4);
}

pub async fn a_large_body_comes_back_whole(at: &Place) {
    let mut state = 1_u32;
    let body: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(5 << 20)
    .collect();
    let new = delivery("large", &body);
    let id = new.id.clone();
    at.store.deliver(new).await.unwrap();
    assert!(at.store.delivery_body(&id).await.unwrap().unwrap() == body);
    let empty = delivery("empty", b"");
    let id = empty.id.clone();
    at.store.deliver(empty).await.unwrap();
    assert_eq!(at.store.delivery_body(&id).await.unwrap().unwrap(), b"");
}

pub async fn deliveries_are_found_by_either_id(at: &Place) {
    let new = delivery("d1", b"1");
    let id = new.id.clone();
    at.store.deliver(new).await.unwrap();
    for text in [id.as_str(), "d1", " d1\n"] {
        assert_eq!(at.store.find_delivery(text).await.unwrap().unwrap().id, id, "{text:?}");
    }
    let mut twin = delivery("d1", b"1");
    twin.hook_id = "second".into();
    at.store.deliver(twin).await.unwrap();
    assert_eq!(at.store.find_delivery("d1").await.unwrap(), None, "two hooks saw it");
    assert_eq!(at.store.find_delivery(id.as_str()).await.unwrap().unwrap().id, id);
    assert_eq!(at.store.find_delivery("d2").await.unwrap(), None);

    let page = at.store.list_deliveries(None, 1).await.unwrap();
    let next = at.store.list_deliveries(Some(page[0].id.as_str()), 9).await.unwrap();
    assert_eq!((page.len(), next.len()), (1, 1));
    assert!(page[0].id > next[0].id, "newest first");
}

pub async fn one_commit_decides_a_delivery(at: &Place) {
    let repo = at.repo().await;
    let held = at.runs(vec![new_run(&repo, &sha('c'), RunState::Held)]).await.remove(0);
    let old = at.runs(vec![new_run(&repo, &sha('d'), RunState::Queued)]).await.remove(0);
    let new = delivery("d1", b"{}");
    let id = new.id.clone();
    at.store.deliver(new).await.unwrap();
    let (queued, skipped) =
        (new_run(&repo, &sha('a'), RunState::Queued), new_run(&repo, &sha('b'), RunState::Skipped));
    let commit = IntakeCommit {
        pulls: vec![(repo.clone(), pull(1, &sha('a')))],
        runs: vec![queued.clone(), skipped.clone()],
        cancel: vec![(old.clone(), "superseded: by a newer push".into())],
        supersede_held: vec![(held.clone(), "a writer pushed it".into()), (old.clone(), "not held".into())],
        asks: vec![WorkAsk::report_pull(&repo, 1, T0)],
        ..intake(&id)
    };
    let made = at.store.commit_intake(commit.clone(), T0 + 5).await.unwrap().unwrap();
    assert_eq!(made, [queued.id.clone(), skipped.id.clone()]);
    let row = at.store.delivery(&id).await.unwrap().unwrap();
    assert_eq!(
        (row.state, row.reason.as_str(), row.decided_ms),
        (DeliveryState::Done, "one run", Some(T0 + 5))
    );

    let state = async |run: &RunId| {
        let view = at.view(run).await;
        (view.run.state, view.steps[0].state, view.run.ended_ms)
    };
    assert_eq!(state(&queued.id).await, (RunState::Queued, StepState::Waiting, None::<Millis>));
    assert_eq!(state(&skipped.id).await, (RunState::Skipped, StepState::Skipped, Some(T0 + 5)));
    assert_eq!(state(&held).await, (RunState::Superseded, StepState::Cancelled, Some(T0 + 5)));
    let old = at.store.run(&old).await.unwrap().unwrap();
    assert_eq!(old.cancel_request.as_deref(), Some("superseded: by a newer push"));
    let view = at.view(&queued.id).await;
    assert_eq!(view.run.plan, queued.plan);
    assert_eq!(view.run.variables, queued.variables);
    assert_eq!(view.run.plan_digest.len(), 64);
    assert_eq!(view.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["test", "train"]);

    // Again, and the pull request's delivery of the same head: one run.
    assert_eq!(at.store.commit_intake(commit, T0 + 6).await.unwrap(), Some(vec![]));
    let twin = delivery("twin", b"{}");
    let twin_id = twin.id.clone();
    at.store.deliver(twin).await.unwrap();
    let runs = vec![new_run(&repo, &sha('a'), RunState::Queued)];
    let late = IntakeCommit { runs, ..intake(&twin_id) };
    assert_eq!(
        at.store.commit_intake(late, T0 + 7).await.unwrap(),
        None,
        "its identity was taken: decide again"
    );
    let row = at.store.delivery(&twin_id).await.unwrap().unwrap();
    assert_eq!(row.state, DeliveryState::Stored, "nothing was written");
    // Facts of before another decision are refused as well.
    let read = at.store.decisions(&repo).await.unwrap();
    let on = |decisions| IntakeCommit { decided_on: Some((repo.clone(), decisions)), ..intake(&twin_id) };
    assert_eq!(at.store.commit_intake(on(read + 1), T0 + 8).await.unwrap(), None);
    assert_eq!(at.store.commit_intake(on(read), T0 + 9).await.unwrap(), Some(vec![]));
    assert_eq!(at.store.decisions(&repo).await.unwrap(), read + 1);
    let again =
        trainyard::store::runs::NewRun { generation: 1, ..new_run(&repo, &sha('a'), RunState::Queued) };
    assert_eq!(at.runs(vec![again]).await.len(), 1);
}

pub async fn a_replayed_delivery_is_looked_at_again(at: &Place) {
    let new = delivery("d1", b"{}");
    let id = new.id.clone();
    at.store.deliver(new).await.unwrap();
    at.store.commit_intake(IntakeCommit { state: DeliveryState::Ignored, ..intake(&id) }, T0).await.unwrap();
    at.settle_all().await;
    assert!(at.store.replay_delivery(&id, T0 + 1).await.unwrap());
    assert!(!at.store.replay_delivery(&DeliveryRowId::from_text("none"), T0).await.unwrap());
    assert_eq!(at.store.delivery(&id).await.unwrap().unwrap().state, DeliveryState::Stored);
    let work = at.store.claim(&[WorkKind::Delivery], "w", T0 + 1, 1000, 9).await.unwrap();
    assert_eq!(work[0].key, id.as_str());
}

pub async fn repositories_and_pulls_are_as_last_seen(at: &Place) {
    let id = at.repo().await;
    let renamed = RepoRef {
        forge_id: "42".into(),
        name: RepoName::parse("ada/leave").unwrap(),
        default_branch: "trunk".into(),
    };
    assert_eq!(at.store.upsert_repo("github", &renamed, T0).await.unwrap(), id);
    assert_ne!(at.store.upsert_repo("other", &renamed, T0).await.unwrap(), id);
    let row = at.store.repo(&id).await.unwrap().unwrap();
    assert_eq!(
        (row.name.as_str(), row.default_branch.as_str(), row.forge.as_str()),
        ("ada/leave", "trunk", "github")
    );

    assert_eq!(at.store.repo_by_forge_id("github", "42").await.unwrap(), Some(row));
    for (text, found) in
        [("other:Ada/Leave", true), ("github:ada/leave", true), ("ada/leave", false), ("ada/churn", false)]
    {
        assert_eq!(
            at.store.find_repo(text).await.unwrap().is_some(),
            found,
            "{text}: two forges have it, or none"
        );
    }
    assert_eq!(at.store.repo_by_forge_id("github", "43").await.unwrap(), None);

    let new = delivery("d1", b"{}");
    let delivery = new.id.clone();
    at.store.deliver(new).await.unwrap();
    let mut closed = pull(2, &sha('a'));
    closed.open = false;
    let pulls =
        vec![(id.clone(), pull(1, &sha('a'))), (id.clone(), closed), (id.clone(), pull(3, &sha('e')))];
    at.store.commit_intake(IntakeCommit { pulls, ..intake(&delivery) }, T0).await.unwrap();
    let row = at.store.pull(&id, 1).await.unwrap().unwrap();
    assert_eq!((row.pull, row.updated_ms), (pull(1, &sha('a')), T0));
    let with_head = at.store.open_pulls_with_head(&id, &sha('a')).await.unwrap();
    assert_eq!(with_head.iter().map(|p| p.pull.number).collect::<Vec<_>>(), [1]);
    let onto = at.store.open_pulls_onto(&id, "main").await.unwrap();
    assert_eq!(onto.iter().map(|p| p.pull.number).collect::<Vec<_>>(), [1, 3]);
    let open = at.store.open_pulls(&id, 9).await.unwrap();
    assert_eq!(open.iter().map(|p| p.pull.number).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(at.store.open_pulls(&id, 1).await.unwrap().len(), 1);
    assert_eq!(at.store.pull(&id, 9).await.unwrap(), None);
}
