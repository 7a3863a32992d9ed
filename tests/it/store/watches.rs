//! Places that are watched for new data.

use trainyard::model::RunState;
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::runs::NewRun;
use trainyard::store::watches::{Asked, WatchRow};
use trainyard::store::work::WorkKind;

use super::fixture::{Place, T0, delivery, intake, new_run, sha};

pub async fn a_watched_place_keeps_what_is_known(at: &Place) {
    let repo = at.repo().await;
    let push = async |name: &str, places: &[(&str, &str)], broken: &[&str], of: char| {
        let new = delivery(name, b"{}");
        let id = new.id.clone();
        at.store.deliver(new).await.unwrap();
        let asked = Asked {
            repo_id: repo.clone(),
            branch: "main".into(),
            sha: sha(of),
            priorities: places.iter().map(|(pipeline, _)| ((*pipeline).to_owned(), None)).collect(),
            places: places.iter().map(|(p, place)| ((*p).to_owned(), (*place).to_owned())).collect(),
            broken: broken.iter().map(|name| (*name).to_owned()).collect(),
        };
        let commit = IntakeCommit { asked: Some(asked), ..intake(&id) };
        at.store.commit_intake(commit, T0).await.unwrap().unwrap();
    };
    push("p1", &[("churn", "/data/"), ("prices", "s3://b/p/")], &[], 'a').await;
    let asked = at.store.claim(&[WorkKind::Data], "w", T0, 1, 9).await.unwrap();
    assert_eq!(asked.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(), [repo.as_str()]);
    let row = at.store.data_watches(&repo).await.unwrap().remove(0);
    assert_eq!((row.prefix.as_str(), &row.digest, row.changes, row.looked_ms), ("/data/", &None, 0, None));
    let known = WatchRow {
        digest: Some("d".into()),
        seen: Some("e".into()),
        changes: 1,
        files: 2,
        bytes: 3,
        looked_ms: Some(T0),
        error: "away".into(),
        ..row
    };
    assert!(at.store.note_watch(known.clone(), 0).await.unwrap());
    assert!(!at.store.note_watch(known.clone(), 0).await.unwrap(), "somebody else was first");
    assert_eq!(at.store.data_watches(&repo).await.unwrap()[0], known);

    // The next push: what stays keeps what is known, what is gone goes, a file that cannot be read changes nothing.
    push("p2", &[("churn", "/data/")], &["prices"], 'b').await;
    let rows = at.store.data_watches(&repo).await.unwrap();
    assert_eq!(rows[0], WatchRow { sha: sha('b'), ..known });
    assert_eq!((rows.len(), rows[1].pipeline.as_str()), (2, "prices"));
    push("p3", &[("churn", "/other/")], &[], 'c').await;
    let rows = at.store.data_watches(&repo).await.unwrap();
    assert_eq!((rows.len(), rows[0].prefix.as_str(), rows[0].digest.as_ref()), (1, "/other/", None));
    assert_eq!(at.store.files_sha(&repo).await.unwrap(), Some(sha('c')));
}

pub async fn earlier_generations_are_found(at: &Place) {
    let repo = at.repo().await;
    let run = |generation| NewRun { generation, ..new_run(&repo, &sha('a'), RunState::Queued) };
    at.runs(vec![run(0), run(1), run(2), new_run(&repo, &sha('b'), RunState::Queued)]).await;
    let newest = at.store.head_run(&repo, "churn", &sha('a')).await.unwrap().unwrap();
    let before = at.store.generations_before(&newest).await.unwrap();
    assert_eq!(before.iter().map(|run| run.generation).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(at.store.generations_before(&before[1]).await.unwrap(), []);
}
