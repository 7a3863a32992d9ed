//! A repository's GPU budget: beyond the soft one comments warn, beyond the hard one no step with GPUs begins.

use trainyard::model::{RunState, Sha};
use trainyard::sandbox::{NewPull, WRITER};
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::RunView;

use super::daemon::Daemon;
use super::yard::{Yard, until};

/// 0.36 s and 24 s of one GPU.
const MORE: &str = "budget = { gpu_hours_soft = 0.0001, gpu_hours_hard = 0.00667 }
[pool.default]
executor = \"local\"
gpus = 8
slots = 2
";

fn pipeline(gpus: u32, command: &str) -> String {
    format!("train: {{commands: ['{command}'], resources: {{gpu: {gpus}}}}}\n")
}

async fn ended(yard: &Yard, sha: &Sha) -> RunView {
    let store = yard.store().await;
    until("the end of a run", 90, async || {
        let runs = store.list_runs(RunFilter::default(), None, 10).await.unwrap();
        let run = runs.into_iter().find(|item| item.run.head_sha == *sha && item.run.state.is_terminal())?;
        store.run_view(&run.run.id).await.unwrap()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_budget_warns_and_a_hard_one_refuses() {
    let mut yard = Yard::of(|url, token| Daemon::with(url, token, MORE)).await;
    yard.daemon.start().await;
    let sha = yard.push("main", &pipeline(0, "true")).await;
    assert_eq!(ended(&yard, &sha).await.run.state, RunState::Succeeded);
    yard.git(&["checkout", "-q", "-b", "longer"]).await;
    let sha = yard.push("longer", &pipeline(1, "sleep 0.5")).await;
    let pull = NewPull {
        title: "Train longer".into(),
        author: WRITER.to_owned(),
        head_branch: "longer".into(),
        head_repo: None,
        base_branch: "main".into(),
        draft: false,
    };
    let number = yard.sandbox.open_pull(&yard.repo, pull).await.unwrap();
    assert_eq!(ended(&yard, &sha).await.run.state, RunState::Succeeded);
    let comment = until("a comment that warns", 60, async || {
        let comments = yard.sandbox.comments(&yard.repo, number);
        comments.first().map(|c| c.body().to_owned()).filter(|body| body.contains("GPU budget"))
    })
    .await;
    assert!(comment.contains("hours used in 30 days (a soft budget: steps begin all the same)"), "{comment}");

    // Begun below the limit, it goes on beyond it; the next one does not begin, one without a GPU does.
    let sha = yard.push("longer", &pipeline(8, "sleep 3.5")).await;
    assert_eq!(ended(&yard, &sha).await.run.state, RunState::Succeeded);
    let sha = yard.push("longer", &pipeline(1, "true")).await;
    let refused = ended(&yard, &sha).await;
    assert_eq!(refused.run.state, RunState::Errored, "{}", refused.run.reason);
    assert_eq!(refused.attempts, []);
    let why = &refused.steps[0].reason;
    assert!(why.contains("the repository's budget is spent") && why.contains("gpu_hours_hard"), "{why}");
    let comment = until("a comment that says why", 60, async || {
        let comments = yard.sandbox.comments(&yard.repo, number);
        comments.first().map(|c| c.body().to_owned()).filter(|body| body.contains("budget is spent"))
    })
    .await;
    assert!(comment.contains("could not run"), "{comment}");
    let sha = yard.push("longer", &pipeline(0, "true")).await;
    assert_eq!(ended(&yard, &sha).await.run.state, RunState::Succeeded);
    println!("FIGURE gpu_budget warned=1 refused=1 without_gpu=1");
}
