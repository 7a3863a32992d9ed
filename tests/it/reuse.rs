//! Reused steps: the real store, the sandbox forge with real git trees, and attempts that do what a script says.

use trainyard::model::{EndClass, RepoName, RunId, RunState, StepState};
use trainyard::reuse::key::first_difference;
use trainyard::store::runs::RunView;

use crate::heart::{Heart, states};
use crate::scripted::Act;
use crate::store::fixture::T0;

const PIPELINE: &str = "name: churn
when: [{event: [push, pull_request], branch: '**'}]
steps:
  - {name: train, commands: [python train.py], inputs: [train.py, 'data/**']}
  - {name: eval, needs: [train], commands: [python eval.py]}
";

async fn heart() -> Heart {
    let heart = Heart::new(|_: &str, _: i64| Act::Finish(EndClass::Succeeded)).await;
    heart.tree.write("train.py", "print(1)");
    heart.tree.write("data/x.csv", "1,2,3\n");
    heart.tree.write("README.md", "first");
    heart
}

/// Pushes the working tree to `main` and works until nothing is left to do. The run of that commit.
async fn push(heart: &Heart, message: &str) -> RunView {
    let sha = heart.tree.commit(message);
    heart.tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.settle().await;
    let run = heart.runs().await.into_iter().find(|run| run.head_sha == sha).unwrap();
    view(heart, &run.id).await
}

async fn view(heart: &Heart, run: &RunId) -> RunView {
    heart.store().run_view(run).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_step_is_reused_and_one_changed_byte_behind_the_same_path_is_not() {
    let heart = heart().await;
    heart.tree.write(".trainyard.yaml", PIPELINE);
    let first = push(&heart, "Train").await;
    assert_eq!(states(&first), "succeeded: train succeeded, eval succeeded");

    heart.tree.write("README.md", "second");
    let second = push(&heart, "Say more").await;
    assert_eq!(states(&second), "succeeded: train reused, eval succeeded");
    let short: String = first.run.id.as_str().chars().take(13).collect();
    assert_eq!(second.steps[0].reason, format!("reused from run {short}"));
    assert_eq!(second.steps[0].outputs["done"], "yes");

    heart.tree.write("data/x.csv", "1,2,4\n");
    let third = push(&heart, "Correct a number").await;
    assert_eq!(states(&third), "succeeded: train succeeded, eval succeeded");
    let reuse = async |view: &RunView| heart.store().step_reuse(&view.steps[0].id).await.unwrap().unwrap();
    let (one, three) = (reuse(&first).await, reuse(&third).await);
    assert_eq!(first_difference(&three.parts, &one.parts), Some(("inputs", Some("data".into()))));

    // Back to the first content: the first run's result stands again.
    heart.tree.write("data/x.csv", "1,2,3\n");
    let fourth = push(&heart, "Take it back").await;
    assert_eq!(reuse(&fourth).await.from.unwrap().run, first.run.id);
    let trained = heart.executor.started().iter().filter(|line| line.starts_with("train#")).count();
    assert_eq!(trained, 2);
    assert_eq!(heart.executor.leftovers(), 0);
    println!("FIGURE reuse.step runs=4 hits=2 misses_after_one_byte=1 trained={trained}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_run_is_no_source_for_a_trusted_one() {
    let heart = heart().await;
    heart.tree.write(".trainyard.yaml", PIPELINE);
    let first = push(&heart, "Train").await;
    let fork = RepoName::parse("eve/churn").unwrap();
    heart.sandbox.fork_repo(&heart.repo, &fork).await.unwrap();
    heart.tree.git(&["checkout", "--quiet", "-B", "theirs"]);
    heart.tree.write("data/x.csv", "9,9,9\n");
    let sha = heart.tree.commit("Poison");
    let url = heart.sandbox.git_url(&fork, "eve");
    heart.tree.git(&["push", "--quiet", &url, "+HEAD:refs/heads/theirs"]);
    heart.open_pull("theirs", Some(&fork)).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let theirs = heart.runs().await.into_iter().find(|run| run.head_sha == sha).unwrap();
    assert_eq!((theirs.state, theirs.trusted), (RunState::Held, false));
    heart.store().release_run(&theirs.id, &sha, "ada", T0).await.unwrap().unwrap();
    heart.settle().await;
    let theirs = view(&heart, &theirs.id).await;
    assert_eq!(states(&theirs), "succeeded: train succeeded, eval succeeded");
    let key = heart.store().step_reuse(&theirs.steps[0].id).await.unwrap().unwrap().key.unwrap();
    assert_eq!(heart.store().equal_step(&theirs.run.repo_id, &key).await.unwrap(), None);

    // The same content on the default branch, by someone who may write: trained anew, and from then on a source.
    heart.tree.git(&["checkout", "--quiet", "main"]);
    heart.tree.write("data/x.csv", "9,9,9\n");
    heart.tree.write("README.md", "ours");
    let ours = push(&heart, "Take their number").await;
    assert_eq!(states(&ours), "succeeded: train succeeded, eval succeeded");
    assert_eq!(ours.steps[0].state, StepState::Succeeded);
    let source = heart.store().equal_step(&ours.run.repo_id, &key).await.unwrap();
    assert_eq!(source, Some(ours.steps[0].id.clone()));
    assert_ne!(first.run.id, ours.run.id);
    println!("SEC reuse cases=1 failed=0 untrusted_sources=0");
}
