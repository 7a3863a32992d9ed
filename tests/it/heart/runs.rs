//! From deliveries to the runs that they make, each once, whatever their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use trainyard::forge::{
    Capabilities, Comment, Commit, Folder, Forge, ForgeError, Forges, GitAccess, Permission, Status,
    TreeEntry, WebPage,
};
use trainyard::intake::Intake;
use trainyard::model::*;
use trainyard::queue::Worker;
use trainyard::sandbox;
use trainyard::store::deliveries::Delivered;
use trainyard::store::runs::RunRow;
use trainyard::store::work::WorkAsk;

use super::{Heart, TWO_STEPS, good, runs_of, states};
use crate::scripted::Act;
use crate::store::fixture::{self, T0};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_becomes_a_run_that_ends_and_leaves_nothing_behind() {
    let heart = Heart::new(good).await;
    let sha = heart.push_pipeline(TWO_STEPS).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let view = heart.only_run().await;
    assert_eq!(states(&view), "succeeded: train succeeded, eval succeeded");
    assert_eq!((view.run.head_sha.clone(), view.run.branch.as_str(), view.run.trusted), (sha, "main", true));
    assert_eq!(heart.executor.started(), ["train#1", "eval#1"]);
    assert_eq!(heart.executor.leftovers(), 0);
    assert_eq!(view.steps[0].outputs["done"], "yes");
    assert!(view.attempts.iter().all(|a| a.removed_ms.is_some()));
    // Whatever is heard later, the end stays the end (G6).
    heart.store().ask(vec![WorkAsk::run(&view.run.id, T0)], T0).await.unwrap();
    heart.pass(60).await;
    assert_eq!(heart.only_run().await.run, view.run);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_and_pull_request_of_one_head_are_one_run() {
    let heart = Heart::new(good).await;
    heart.push_pipeline(TWO_STEPS).await;
    heart.tree.write("train.py", "print(1)");
    let head = heart.tree.commit("Train");
    heart.tree.push(&["HEAD:refs/heads/layers"]);
    let number = heart.open_pull("layers", None).await;
    heart.hand_in_all().await;
    heart.settle().await;
    let runs = heart.runs().await;
    assert_eq!(runs.iter().filter(|r| r.head_sha == head).count(), 1, "{:?}", heart.decisions().await);
    assert_eq!(runs.len(), 2);
    let repo = runs[0].repo_id.clone();
    assert_eq!(heart.store().pull(&repo, number).await.unwrap().unwrap().pull.head_sha, head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_delivery_sent_a_hundred_times_at_once_makes_one_run() {
    let heart = Arc::new(Heart::new(good).await);
    heart.push_pipeline(TWO_STEPS).await;
    let sent = Arc::new(heart.sandbox.deliveries().into_iter().find(|d| d.event == "push").unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (heart, sent) = (heart.clone(), sent.clone());
        tasks.spawn(async move { heart.hand_in(heart.store(), &sent, &sent.guid).await });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|a| **a == Delivered::Stored).count(), 1);
    heart.settle().await;
    let runs = heart.runs().await.len();
    println!("FAULT G2 deliveries=100 stored=1 runs={runs} expected=1");
    assert_eq!(runs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deliveries_in_any_order_make_exactly_the_distinct_runs() {
    let heart = Heart::new(|_, _| Act::Hang).await;
    let filtered =
        format!("{TWO_STEPS}{}", "").replace("branch: '**'}", "branch: '**', paths: {exclude: ['docs/**']}}");
    let mut expected: BTreeSet<String> = BTreeSet::new();
    expected.insert(heart.push_pipeline(&filtered).await.to_string());
    let fork = RepoName::parse("eve/churn").unwrap();
    heart.sandbox.fork_repo(&heart.repo, &fork).await.unwrap();
    let fork_url = heart.sandbox.git_url(&fork, "eve");
    for n in 0..12 {
        let branch = format!("b{n}");
        heart.tree.git(&["checkout", "--quiet", "-B", &branch, "main"]);
        for round in 0..3 {
            let skip = n % 4 == 3 && round == 1;
            let file = if n % 3 == 2 && round == 2 { format!("docs/{n}.md") } else { format!("src/{n}.py") };
            heart.tree.write(&file, format!("{round}"));
            let sha = heart.tree.commit(if skip { "Try [skip ci]" } else { "Try" });
            expected.insert(sha.to_string());
            if n % 4 == 1 {
                heart.tree.git(&["push", "--quiet", &fork_url, &format!("+HEAD:refs/heads/{branch}")]);
            } else {
                heart.tree.push(&[&format!("+HEAD:refs/heads/{branch}")]);
            }
            if round == 0 {
                heart.open_pull(&branch, (n % 4 == 1).then_some(&fork)).await;
            }
        }
        match n % 6 {
            0 => heart.sandbox.close_pull(&heart.repo, n + 1).await.unwrap(),
            2 => heart.sandbox.rename_pull(&heart.repo, n + 1, "Another title").await.unwrap(),
            4 => heart.sandbox.retarget_pull(&heart.repo, n + 1, "b0").await.unwrap(),
            _ => {}
        }
    }
    let sent: Vec<sandbox::Delivery> = heart.sandbox.deliveries();
    // Heads of forks that no delivery names make no run.
    let named: String = sent.iter().map(|d| d.payload.to_string()).collect();
    expected.retain(|sha| named.contains(sha.as_str()));
    let mut outcomes = Vec::new();
    let mut decided = 0;
    let real = Forges::connect(&heart.config).unwrap().get("github").unwrap().clone();
    let mut forges = Forges::default();
    forges.insert(
        "github",
        Arc::new(Standstill { real, permissions: Mutex::default(), pulls: Mutex::default() }),
    );
    for seed in 1..=3_u64 {
        let place = fixture::sqlite().await;
        let mut thousand: Vec<(usize, &sandbox::Delivery)> =
            sent.iter().cycle().take(1000).enumerate().collect();
        shuffle(&mut thousand, seed);
        for (n, delivery) in thousand {
            heart.hand_in(&place.store, delivery, &format!("{}-{n}", delivery.guid)).await;
        }
        // Intake alone: what the runs do is not the question.
        let intake =
            Intake::new(place.store.clone(), heart.clock.clone(), heart.config.clone(), forges.clone());
        decided += Worker::new(place.store.clone(), heart.clock.clone(), "test")
            .register(Arc::new(intake), 16)
            .run_until_idle()
            .await
            .unwrap();
        let mut newest: BTreeMap<String, RunRow> = BTreeMap::new();
        for run in runs_of(&place.store).await {
            let old = newest.get(run.head_sha.as_str());
            if old.is_none_or(|old| old.generation < run.generation) {
                newest.insert(run.head_sha.to_string(), run);
            }
        }
        let shas: BTreeSet<String> = newest.keys().cloned().collect();
        assert_eq!(shas, expected, "seed {seed}");
        let outcome: Vec<String> = newest
            .values()
            .map(|r| format!("{} {} {} {}", r.head_sha.short(), r.state, r.trusted, r.branch))
            .collect();
        outcomes.push(outcome);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0], outcomes[2]);
    let of = |word: &str| outcomes[0].iter().filter(|o| o.contains(word)).count();
    assert!(of("held") > 0 && of("skipped") > 0 && of("queued") > 0, "{outcomes:?}");
    println!(
        "FAULT F26 deliveries={decided} orders=3 runs={} expected={} held={} skipped={}",
        outcomes[0].len(),
        expected.len(),
        of("held"),
        of("skipped")
    );
}

/// The sandbox while nothing happens there: the two answers that intake wants fresh each time are asked for once.
#[derive(Debug)]
struct Standstill {
    real: Arc<dyn Forge>,
    permissions: Mutex<BTreeMap<String, Permission>>,
    pulls: Mutex<BTreeMap<i64, PullRequest>>,
}

#[async_trait]
impl Forge for Standstill {
    async fn permission(&self, repo: &RepoName, who: &Actor) -> Result<Permission, ForgeError> {
        if let Some(known) = self.permissions.lock().unwrap().get(&who.id) {
            return Ok(*known);
        }
        let answer = self.real.permission(repo, who).await?;
        self.permissions.lock().unwrap().insert(who.id.clone(), answer);
        Ok(answer)
    }
    async fn pull(&self, repo: &RepoName, number: i64) -> Result<PullRequest, ForgeError> {
        if let Some(known) = self.pulls.lock().unwrap().get(&number) {
            return Ok(known.clone());
        }
        let answer = self.real.pull(repo, number).await?;
        self.pulls.lock().unwrap().insert(number, answer.clone());
        Ok(answer)
    }
    async fn whoami(&self) -> Result<Actor, ForgeError> {
        self.real.whoami().await
    }
    async fn repo_id(&self, repo: &RepoName) -> Result<String, ForgeError> {
        self.real.repo_id(repo).await
    }
    async fn commit(&self, repo: &RepoName, sha: &Sha) -> Result<Commit, ForgeError> {
        self.real.commit(repo, sha).await
    }
    async fn tree(&self, repo: &RepoName, folder: &Folder) -> Result<Vec<TreeEntry>, ForgeError> {
        self.real.tree(repo, folder).await
    }
    async fn has_merged_change(&self, repo: &RepoName, who: &Actor) -> Result<bool, ForgeError> {
        self.real.has_merged_change(repo, who).await
    }
    fn capabilities(&self) -> Capabilities {
        self.real.capabilities()
    }
    async fn file(&self, repo: &RepoName, sha: &Sha, path: &str) -> Result<Vec<u8>, ForgeError> {
        self.real.file(repo, sha, path).await
    }
    async fn merge_base(&self, repo: &RepoName, base: &str, head: &Sha) -> Result<Option<Sha>, ForgeError> {
        self.real.merge_base(repo, base, head).await
    }
    async fn history(&self, repo: &RepoName, sha: &Sha, limit: u32) -> Result<Vec<Sha>, ForgeError> {
        self.real.history(repo, sha, limit).await
    }
    async fn set_status(&self, _: &RepoName, _: &Sha, _: &Status) -> Result<(), ForgeError> {
        unreachable!("intake writes nothing at a forge")
    }
    async fn comments(&self, repo: &RepoName, number: i64) -> Result<Vec<Comment>, ForgeError> {
        self.real.comments(repo, number).await
    }
    async fn create_comment(&self, _: &RepoName, _: i64, _: &str) -> Result<String, ForgeError> {
        unreachable!("intake writes nothing at a forge")
    }
    async fn edit_comment(&self, _: &RepoName, _: &str, _: &str) -> Result<(), ForgeError> {
        unreachable!("intake writes nothing at a forge")
    }
    fn git(&self, repo: &RepoName) -> GitAccess {
        self.real.git(repo)
    }
    fn page(&self, repo: &RepoName, what: WebPage<'_>) -> String {
        self.real.page(repo, what)
    }
}

/// Fisher and Yates with a small generator: the same order for the same seed.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for at in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(at, (state % (at as u64 + 1)) as usize);
    }
}
