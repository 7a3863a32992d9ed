//! What a delivery is decided to be: held, refused, ignored, or asked about again.

use trainyard::config::ForgeKind;
use trainyard::forge::{ChangeWords, Forges};
use trainyard::intake::Intake;
use trainyard::model::*;
use trainyard::sandbox::{self, Fault, FaultKind};

use super::{Heart, TWO_STEPS, good, states};
use crate::store::fixture::{self, T0};
use crate::worktree::WorkTree;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_is_held_until_it_is_released_for_its_sha() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    let fork = RepoName::parse("eve/churn").unwrap();
    heart.sandbox.fork_repo(&heart.repo, &fork).await.unwrap();
    heart.tree.git(&["checkout", "--quiet", "-b", "theirs"]);
    heart.tree.write("evil.py", "print(2)");
    let head = heart.tree.commit("Do what I say");
    heart.tree.git(&["push", "--quiet", &heart.sandbox.git_url(&fork, "eve"), "HEAD:refs/heads/theirs"]);
    heart.open_pull("theirs", Some(&fork)).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let held = heart.runs().await.into_iter().find(|r| r.head_sha == head).unwrap();
    assert_eq!((held.state, held.trusted), (RunState::Held, false));
    assert_eq!(heart.executor.started().len(), 2, "only main ran");
    let other = fixture::sha('e');
    assert!(heart.store().release_run(&held.id, &other, "ada", T0).await.unwrap().is_err());
    heart.store().release_run(&held.id, &head, "ada", T0).await.unwrap().unwrap();
    heart.settle().await;
    let view = heart.store().run_view(&held.id).await.unwrap().unwrap();
    assert_eq!(states(&view), "succeeded: train succeeded, eval succeeded");
    // A writer pushes the same commit: it runs again, trusted.
    heart.tree.push(&["HEAD:refs/heads/ours"]);
    heart.hand_in_all().await;
    heart.settle().await;
    let newest = heart.store().head_run(&held.repo_id, "churn", &head).await.unwrap().unwrap();
    assert_eq!(
        (newest.generation, newest.trusted, newest.state),
        (2, true, RunState::Succeeded),
        "{:?}",
        heart.decisions().await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pipeline_file_is_an_errored_run_that_says_where() {
    let heart = Heart::new(good).await;
    heart.push_pipeline("name: churn\nsteps:\n  - {name: train, comands: [x], timeout: 10}\n").await;
    heart.hand_in_all().await;
    heart.settle().await;
    let view = heart.only_run().await;
    assert_eq!(
        (view.run.state, view.run.pipeline.as_str(), view.steps.len()),
        (RunState::Errored, "churn", 0)
    );
    assert!(view.run.reason.starts_with(".trainyard.yaml:3:19: "), "{}", view.run.reason);
    assert_eq!(view.run.reason.matches("comands").count(), 1, "{}", view.run.reason);
    assert_eq!(view.run.reason.lines().count(), 2, "{}", view.run.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipeline_files_that_are_not_read_are_told() {
    let heart = Heart::new(good).await;
    for number in 10..44 {
        let text = format!("name: p{number}\nwhen: [{{event: tag}}]\ntrain: x\n");
        heart.tree.write(&format!(".trainyard/p{number}.yaml"), text);
    }
    std::os::unix::fs::symlink(".trainyard/p10.yaml", heart.tree.file(".trainyard.yaml")).unwrap();
    heart.tree.commit("Many pipelines");
    heart.tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.settle().await;
    let mut told: Vec<(String, RunState, String)> =
        heart.runs().await.into_iter().map(|run| (run.pipeline, run.state, run.reason)).collect();
    told.sort();
    let link = ".trainyard.yaml is not read: it is a symbolic link or a submodule: commit the file itself";
    let many = ".trainyard/p41.yaml is not read: a repository has at most 32 pipeline files; nor are the 2 after it up to .trainyard/p43.yaml";
    assert_eq!(
        told,
        [
            ("default".to_owned(), RunState::Errored, link.to_owned()),
            ("p41".to_owned(), RunState::Errored, many.to_owned()),
        ]
    );
    let decided = heart.decisions().await.pop().unwrap();
    assert!(decided.contains(link) && decided.contains(many), "{decided}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hook_is_not_bound_to_is_ignored() {
    let heart = Heart::new(good).await;
    let other = RepoName::parse("bob/secret").unwrap();
    heart.sandbox.create_repo(&other, "main").await.unwrap();
    let tree = WorkTree::new(&heart.sandbox.git_url(&other, sandbox::WRITER));
    tree.write(".trainyard.yaml", TWO_STEPS);
    tree.commit("x");
    tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(heart.runs().await.len(), 0);
    let decisions = heart.decisions().await;
    assert!(
        decisions
            .iter()
            .all(|d| d.contains("ignored") && d.contains("bob/secret") && d.contains("bound to ada/churn")),
        "{decisions:?}"
    );
}

/// Who knows the secret of one repository's hook can sign a payload that has its name and the id of another repository.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_with_another_repositorys_id_is_ignored() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    let sent = heart.sandbox.deliveries().pop().unwrap();
    let victim = RepoRef {
        forge_id: "31337".into(),
        name: RepoName::parse("bob/secret").unwrap(),
        default_branch: "main".into(),
    };
    let row = heart.store().upsert_repo("github", &victim, T0).await.unwrap();
    let mut forged = sent.clone();
    forged.payload["repository"]["id"] = 31337.into();
    heart.hand_in(heart.store(), &forged, "forged").await;
    heart.settle().await;
    assert_eq!(heart.runs().await.len(), 0);
    let kept = heart.store().repo(&row).await.unwrap().unwrap();
    assert_eq!(kept.name.as_str(), "bob/secret", "the other repository keeps its name");
    let decisions = heart.decisions().await;
    assert!(decisions[0].contains("ignored") && decisions[0].contains("31337"), "{decisions:?}");
    // The true one is heard.
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(heart.only_run().await.run.state, RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forge_that_is_away_delays_a_decision_and_never_parks_it() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    let away = FaultKind::Answer { status: 503, headers: vec![], body: "away".into() };
    heart.sandbox.inject(Fault::next(10_000, away));
    heart.settle().await;
    for _ in 0..12 {
        heart.clock.advance(310_000);
        heart.settle().await;
    }
    assert_eq!(heart.runs().await.len(), 0);
    assert!(heart.decisions().await[0].contains("stored"), "{:?}", heart.decisions().await);
    assert_eq!(heart.store().parked(10).await.unwrap().len(), 0);
    // Back, with a replica that is behind: the push is not taken for one that never was.
    heart.sandbox.heal();
    let behind = || FaultKind::Answer { status: 404, headers: vec![], body: "{}".into() };
    for _ in 0..3 {
        heart.sandbox.inject(Fault::next(1, behind()));
        heart.clock.advance(400_000);
        heart.settle().await;
        assert!(heart.decisions().await[0].contains("stored"), "{:?}", heart.decisions().await);
    }
    heart.clock.advance(400_000);
    heart.settle().await;
    assert_eq!(states(&heart.only_run().await), "succeeded: train succeeded, eval succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_forge_never_has_is_ignored_after_a_few_tries() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    let gone = FaultKind::Answer { status: 404, headers: vec![], body: "{}".into() };
    heart.sandbox.inject(Fault::next(10_000, gone));
    for _ in 0..5 {
        heart.settle().await;
        heart.clock.advance(20_000);
    }
    let decisions = heart.decisions().await;
    assert!(decisions[0].contains("ignored") && decisions[0].contains("does not have it"), "{decisions:?}");
    assert_eq!(heart.runs().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    let row = heart.store().list_deliveries(None, 1).await.unwrap().remove(0);
    let forges = Forges::connect(&heart.config).unwrap();
    let intake = Intake::new(heart.store().clone(), heart.clock.clone(), heart.config.clone(), forges);
    let (event, plan) = intake.preview(&row).await.unwrap();
    let text = trainyard::intake::explain(event.as_ref(), &plan, ChangeWords::of(ForgeKind::Github));
    assert!(
        text.contains("decision: acted on: run of `churn`") && text.contains("step    eval after train"),
        "{text}"
    );
    assert_eq!(heart.runs().await.len(), 0);
    assert_eq!(heart.store().delivery(&row.id).await.unwrap().unwrap().state, DeliveryState::Stored);
    assert!(heart.dir.path().exists());
}
