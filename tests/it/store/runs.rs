//! Runs and steps.

use std::collections::BTreeMap;

use trainyard::model::{RepoId, RunId, RunState, StepState};
use trainyard::store::StoreError;
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::{Applied, NewRun, RunChange, StepMove};
use trainyard::store::work::{WorkAsk, WorkKind};

use super::fixture::{Place, T0, new_run, sha};

fn to(step: &trainyard::model::StepId, to: StepState) -> StepMove {
    StepMove { step: step.clone(), to, reason: "because".into(), outputs: None }
}

pub async fn a_change_is_applied_once(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    at.settle_all().await;
    let view = at.view(&run).await;
    let change = RunChange {
        to: Some((RunState::Running, "begun".into())),
        steps: vec![to(&view.steps[0].id, StepState::Ready)],
        asks: vec![WorkAsk::schedule(T0)],
        ..at.change(&run).await
    };
    assert_eq!(at.store.apply(change.clone(), T0 + 1).await.unwrap(), Applied::Done);
    assert_eq!(at.store.apply(change, T0 + 2).await.unwrap(), Applied::Stale);
    let view = at.view(&run).await;
    assert_eq!((view.run.state, view.run.started_ms, view.run.epoch), (RunState::Running, Some(T0 + 1), 1));
    let step = at.store.step(&view.steps[0].id).await.unwrap().unwrap();
    assert_eq!(
        (step.state, step.ready_ms, step.reason.as_str()),
        (StepState::Ready, Some(T0 + 1), "because")
    );
    assert_eq!(at.store.claim(&[WorkKind::Schedule], "w", T0 + 1, 9, 9).await.unwrap().len(), 1);

    at.store
        .apply(RunChange { steps: vec![to(&step.id, StepState::Running)], ..at.change(&run).await }, T0 + 3)
        .await
        .unwrap();
    let outputs = BTreeMap::from([("model".to_owned(), "m.bin".to_owned())]);
    let good = StepMove { outputs: Some(outputs.clone()), ..to(&step.id, StepState::Succeeded) };
    at.store.apply(RunChange { steps: vec![good], ..at.change(&run).await }, T0 + 4).await.unwrap();
    let step = at.store.step(&step.id).await.unwrap().unwrap();
    assert_eq!((step.outputs, step.started_ms, step.ended_ms), (outputs, Some(T0 + 3), Some(T0 + 4)));
}

pub async fn an_illegal_move_writes_nothing(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let before = at.view(&run).await;
    let skip_ready = to(&before.steps[0].id, StepState::Succeeded);
    let change = RunChange {
        steps: vec![to(&before.steps[1].id, StepState::Ready), skip_ready],
        ..at.change(&run).await
    };
    let refused = at.store.apply(change, T0).await;
    assert!(
        matches!(&refused, Err(StoreError::Refused(why)) if why.contains("waiting to succeeded")),
        "{refused:?}"
    );
    let change = RunChange { to: Some((RunState::Held, String::new())), ..at.change(&run).await };
    assert!(matches!(at.store.apply(change, T0).await, Err(StoreError::Refused(_))));
    let after = at.view(&run).await;
    assert_eq!((&after.run, &after.steps), (&before.run, &before.steps));
}

pub async fn an_ended_run_never_changes(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    let end = RunChange { to: Some((RunState::Failed, "no".into())), ..at.change(&run).await };
    assert_eq!(at.store.apply(end, T0 + 1).await.unwrap(), Applied::Done);
    let ended = at.view(&run).await.run;
    assert_eq!(ended.ended_ms, Some(T0 + 1));
    let revive = RunChange { to: Some((RunState::Running, String::new())), ..at.change(&run).await };
    assert_eq!(at.store.apply(revive, T0 + 2).await.unwrap(), Applied::Stale);
    assert!(!at.store.request_cancel(&run, "late", T0 + 2).await.unwrap());
    assert_eq!(at.view(&run).await.run, ended);
    assert_eq!(at.store.open_runs().await.unwrap(), []);
}

pub async fn a_run_is_asked_to_stop_once(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Queued)]).await.remove(0);
    at.settle_all().await;
    let stale = at.change(&run).await;
    assert!(at.store.request_cancel(&run, "by ada", T0 + 1).await.unwrap());
    assert!(!at.store.request_cancel(&run, "by bob", T0 + 2).await.unwrap());
    assert_eq!(at.store.run(&run).await.unwrap().unwrap().cancel_request.as_deref(), Some("by ada"));
    assert_eq!(at.store.apply(stale, T0 + 3).await.unwrap(), Applied::Stale, "decided without knowing of it");
    assert_eq!(at.open_work().await, 1);
}

pub async fn a_held_run_is_released_for_its_sha(at: &Place) {
    let repo = at.repo().await;
    let run = at.runs(vec![new_run(&repo, &sha('a'), RunState::Held)]).await.remove(0);
    let wrong = at.store.release_run(&run, &sha('b'), "ada", T0).await.unwrap();
    assert!(wrong.unwrap_err().contains("not of bbbb"));
    assert_eq!(at.store.release_run(&run, &sha('a'), "ada", T0).await.unwrap(), Ok(()));
    let row = at.store.run(&run).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason.as_str()), (RunState::Queued, "released by ada"));
    let twice = at.store.release_run(&run, &sha('a'), "ada", T0).await.unwrap();
    assert!(twice.unwrap_err().contains("it is queued"));
    assert!(at.store.release_run(&RunId::from_text("none"), &sha('a'), "ada", T0).await.unwrap().is_err());
}

pub async fn runs_are_found(at: &Place) {
    let repo = at.repo().await;
    let first = new_run(&repo, &sha('a'), RunState::Queued);
    let second = NewRun { generation: 1, ..new_run(&repo, &sha('a'), RunState::Queued) };
    let other =
        NewRun { pipeline: "leave".into(), concurrency: None, ..new_run(&repo, &sha('a'), RunState::Held) };
    let manual =
        NewRun { trigger_key: "manual:1".into(), id: RunId::generate(T0 + (1 << 32)), ..first.clone() };
    let ids = at.runs(vec![first, second, other, manual]).await;
    assert_eq!(ids.len(), 4);
    assert_eq!(at.store.head_run(&repo, "churn", &sha('a')).await.unwrap().unwrap().id, ids[1]);
    assert_eq!(at.store.head_run(&repo, "churn", &sha('b')).await.unwrap(), None);
    let heads = at.store.head_runs(&repo, &sha('a')).await.unwrap();
    assert_eq!(heads.iter().map(|r| &r.id).collect::<Vec<_>>(), [&ids[1], &ids[2]]);
    let group = at.store.open_runs_in_group(&format!("{repo}/churn-main")).await.unwrap();
    assert_eq!(group.len(), 3);
    let run = async |id: &RunId| at.store.run(id).await.unwrap().unwrap();
    let mut order: Vec<RunId> = group.iter().map(|run| run.id.clone()).collect();
    order.sort();
    assert_eq!(at.store.run_ahead(&run(&order[0]).await).await.unwrap(), None);
    assert_eq!(at.store.run_ahead(&run(&order[2]).await).await.unwrap().as_ref(), Some(&order[0]));
    assert_eq!(at.store.next_of_group(&run(&order[2]).await).await.unwrap().as_ref(), Some(&order[0]));
    let begun = RunChange { to: Some((RunState::Running, String::new())), ..at.change(&order[1]).await };
    assert_eq!(at.store.apply(begun, T0 + 1).await.unwrap(), Applied::Done);
    assert_eq!(at.store.run_ahead(&run(&order[0]).await).await.unwrap().as_ref(), Some(&order[1]), "it runs");
    assert_eq!(at.store.run_ahead(&run(&order[1]).await).await.unwrap(), None, "it has its turn");
    assert_eq!(at.store.open_runs().await.unwrap().len(), 4);
    assert_eq!(at.store.run(&RunId::from_text("none")).await.unwrap(), None);
    assert!(at.store.run_view(&RunId::from_text("none")).await.unwrap().is_none());

    let found = async |text: &str| -> Vec<RunId> {
        at.store.find_runs(text, None).await.unwrap().into_iter().map(|run| run.id).collect()
    };
    let id = ids[3].as_str();
    for text in [id.to_owned(), format!(" {}\n", &id[..8]), id[..13].to_uppercase()] {
        assert_eq!(found(&text).await, [ids[3].clone()], "{text:?}");
    }
    for text in [&id[..7], "%%%%%%%%", "________", "00000000"] {
        assert!(found(text).await.is_empty(), "{text:?}: too short, no id, unknown");
    }
    let several = found(&ids[0].as_str()[..8]).await;
    assert!(
        several.len() > 1 && several.contains(&ids[0]) && several.is_sorted_by(|a, b| a > b),
        "{several:?}"
    );
    let of = async |repo: &RepoId| at.store.find_runs(id, Some(repo)).await.unwrap().len();
    assert_eq!((of(&repo).await, of(&RepoId::generate(T0)).await), (1, 0), "of one repository");
}

pub async fn runs_are_listed_in_pages(at: &Place) {
    let repo = at.repo().await;
    let runs = (0..5).map(|generation| NewRun {
        generation,
        id: RunId::generate(T0 + generation),
        branch: if generation == 4 { "dev".into() } else { "main".into() },
        state: if generation == 3 { RunState::Errored } else { RunState::Queued },
        ..new_run(&repo, &sha('a'), RunState::Queued)
    });
    let ids = at.runs(runs.collect()).await;
    let list = async |filter: RunFilter, before: Option<&str>, limit| {
        let page = at.store.list_runs(filter, before, limit).await.unwrap();
        page.into_iter().map(|item| item.run.generation).collect::<Vec<_>>()
    };
    let all = RunFilter::default();
    assert_eq!(list(all.clone(), None, 2).await, [4, 3]);
    assert_eq!(list(all.clone(), Some(ids[3].as_str()), 9).await, [2, 1, 0]);
    assert_eq!(list(RunFilter { branch: Some("dev".into()), ..all.clone() }, None, 9).await, [4]);
    assert_eq!(list(RunFilter { state: Some(RunState::Errored), ..all.clone() }, None, 9).await, [3]);
    assert_eq!(
        list(RunFilter { pipeline: Some("leave".into()), ..all.clone() }, None, 9).await,
        [] as [i64; 0]
    );
    assert_eq!(list(RunFilter { repo: Some(repo.clone()), ..all.clone() }, None, 1).await, [4]);
    assert_eq!(list(RunFilter { author: Some("ada".into()), ..all.clone() }, None, 2).await, [4, 3]);
    assert_eq!(list(RunFilter { author: Some("eve".into()), ..all.clone() }, None, 2).await, [] as [i64; 0]);
    let of_pull = RunFilter { repo: Some(repo.clone()), pull: Some(7), ..all.clone() };
    assert_eq!(list(of_pull, None, 9).await, [] as [i64; 0]);

    let repos = at.store.list_repos(None, "", 10).await.unwrap();
    assert_eq!(repos.len(), 1);
    assert_eq!(repos[0].newest.as_ref().map(|m| (&m.id, m.state)), Some((&ids[4], RunState::Queued)));
    assert_eq!(repos[0].main.as_ref().map(|m| (&m.id, m.state)), Some((&ids[3], RunState::Errored)));
    let behind = format!("ada/churn {repo}");
    assert!(at.store.list_repos(None, &behind, 10).await.unwrap().is_empty());
    assert!(at.store.list_repos(Some(&RepoId::from_text("other")), "", 10).await.unwrap().is_empty());
    assert_eq!(at.store.list_runs(all, None, 1).await.unwrap()[0].repo.as_str(), "ada/churn");
    assert_eq!(at.store.count_runs().await.unwrap(), [(RunState::Errored, 1), (RunState::Queued, 4)]);
}
