//! G7: what the forge shows converges to what is desired, and a final word is never lost (faults F23, F24, F25).

use std::collections::BTreeMap;
use std::sync::Arc;

use trainyard::blob::Blobs;
use trainyard::clock::{Clock, ManualClock, Millis};
use trainyard::config::{RetentionConfig, SecretSource};
use trainyard::forge::github::GitHub;
use trainyard::forge::{Forges, Status, StatusState};
use trainyard::model::{RepoId, RepoName, Sha};
use trainyard::outbox::Sender;
use trainyard::retention::Sweeper;
use trainyard::sandbox::{Fault as HttpFault, FaultKind, NewPull, Sandbox, SandboxOptions, WRITER};
use trainyard::store::Store;
use trainyard::store::outbox::{Desire, OutboxKind, OutboxState};
use trainyard::store::work::{WorkAsk, WorkKind};

use crate::drive::drive;
use crate::fake_forge::{FakeForge, Fault};
use crate::store::fixture::{self, Place, T0};
use crate::worktree::WorkTree;

struct World {
    place: Place,
    clock: Arc<ManualClock>,
    forge: Arc<FakeForge>,
    other: Arc<FakeForge>,
    sender: Sender,
    sweeper: Sweeper,
    repo: RepoId,
}

impl World {
    async fn new() -> Self {
        Self::with(None).await
    }
    /// With this client in the place of the forge in memory.
    async fn with(github: Option<GitHub>) -> Self {
        let place = fixture::sqlite().await;
        let clock = ManualClock::at(T0);
        let forge = FakeForge::new(clock.clone());
        let other = FakeForge::new(clock.clone());
        let mut forges = Forges::default();
        match github {
            Some(github) => forges.insert("github", Arc::new(github)),
            None => forges.insert("github", forge.clone()),
        }
        forges.insert("other", other.clone());
        let repo = place.repo().await;
        let sender = Sender::new(place.store.clone(), Arc::new(forges), clock.clone());
        let sweeper = Sweeper {
            store: place.store.clone(),
            blobs: Blobs::local(&place.path.with_file_name("blobs")).unwrap(),
            clock: clock.clone(),
            keep: RetentionConfig::default(),
            cache_quota_bytes: 1 << 30,
            forges: vec!["github".into(), "other".into()],
        };
        Self { place, clock, forge, other, sender, sweeper, repo }
    }
    fn store(&self) -> &Store {
        &self.place.store
    }
    /// Until nothing is left to do or this much time has passed.
    async fn run(&self, ms: Millis) {
        drive(self.store(), &self.clock, &[&self.sender], self.clock.now_ms() + ms).await;
    }
    /// The same, with the hourly sweep of a daemon that goes on.
    async fn run_swept(&self, ms: Millis) {
        let ask = WorkAsk { kind: WorkKind::Retention, key: "retention".into(), at_ms: 0 };
        self.store().ask(vec![ask], self.clock.now_ms()).await.unwrap();
        drive(self.store(), &self.clock, &[&self.sender, &self.sweeper], self.clock.now_ms() + ms).await;
    }
    async fn status(&self, credential: &str, sha: &Sha, context: &str, state: StatusState, text: &str) {
        let now = self.clock.now_ms();
        let status = Status {
            context: context.into(),
            state,
            description: text.into(),
            target_url: "https://ci.example".into(),
        };
        let desire = Desire {
            credential: credential.into(),
            repo_id: self.repo.clone(),
            kind: OutboxKind::Status,
            target: format!("{sha}/{context}"),
            desired: serde_json::to_value(&status).unwrap(),
            last: state != StatusState::Pending,
            not_before_ms: now,
        };
        self.store().desire(desire, now).await.unwrap();
    }
    async fn comment(&self, number: i64, text: &str) {
        let now = self.clock.now_ms();
        let desire = Desire {
            credential: "github".into(),
            repo_id: self.repo.clone(),
            kind: OutboxKind::Comment,
            target: number.to_string(),
            desired: serde_json::json!({ "body": format!("<!-- marker {number} -->\n{text}") }),
            last: true,
            not_before_ms: now,
        };
        self.store().desire(desire, now).await.unwrap();
    }
    async fn state(&self, kind: OutboxKind, target: &str) -> (OutboxState, String) {
        let row = self.store().outbox_row(&self.repo, kind, target).await.unwrap().unwrap();
        (row.state, row.last_error)
    }
}

fn sha(n: u32) -> Sha {
    Sha::parse(&format!("{:040x}", 0xabc_0000 + n)).unwrap()
}

#[tokio::test]
async fn with_forty_per_cent_of_the_writes_failing_every_final_word_arrives() {
    let world = World::new().await;
    // A fixed sequence: 40 of 100 fail, half of those after they had their effect.
    let mut x = 7u64;
    world.forge.faults(move |_| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (x >> 33) % 100 {
            0..=19 => Some(Fault::Before),
            20..=39 => Some(Fault::After),
            _ => None,
        }
    });
    const STATUSES: u32 = 60;
    const PULLS: i64 = 6;
    for n in 0..STATUSES {
        world.status("github", &sha(n), "trainyard/churn", StatusState::Pending, "queued").await;
    }
    world.run(5_000).await;
    for n in 0..STATUSES {
        world.status("github", &sha(n), "trainyard/churn", StatusState::Success, &format!("final {n}")).await;
    }
    for number in 1..=PULLS {
        world.comment(number, "final").await;
    }
    let began = world.clock.now_ms();
    world.run(24 * 3_600_000).await;

    let mut lost = 0;
    for n in 0..STATUSES {
        let last = world.forge.last_status(&sha(n), "trainyard/churn");
        lost += usize::from(last.is_none_or(|s| s.description != format!("final {n}")));
    }
    let mut doubled = 0;
    for number in 1..=PULLS {
        let comments = world.forge.comments_on(number);
        lost += usize::from(comments.is_empty());
        doubled += comments.len().saturating_sub(1);
    }
    let writes = world.forge.writes();
    let mut by_target: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, what) in &writes {
        *by_target.entry(what).or_default() += 1;
    }
    let most = by_target.values().max().copied().unwrap();
    let took = writes.last().unwrap().0 - began;
    let minute = |t: Millis| writes.iter().filter(|(at, _)| (t..t + 60_000).contains(at)).count();
    let busiest = writes.iter().map(|(t, _)| minute(*t)).max().unwrap();
    println!(
        "FAULT F23 statuses={STATUSES} comments={PULLS} lost={lost} doubled={doubled} calls_per_target_max={most} converged_ms={took} writes_per_minute_max={busiest}"
    );
    assert_eq!((lost, doubled), (0, 0));
    assert!(most <= 10, "{most} calls for one target");
    assert!(busiest <= 80, "{busiest} writes in a minute");
    assert!(took <= 600_000, "{took} ms");
}

#[tokio::test]
async fn a_limit_rests_the_whole_credential_and_no_other() {
    let world = World::new().await;
    world.forge.faults(|n| (n == 2).then_some(Fault::Limited(60_000)));
    for n in 0..8 {
        world.status("github", &sha(n), "trainyard/a", StatusState::Success, "done").await;
        world.status("other", &sha(n + 100), "trainyard/a", StatusState::Success, "done").await;
    }
    world.run(3_600_000).await;
    let writes = world.forge.writes();
    let limited = writes[2].0;
    let during = writes.iter().filter(|(at, _)| *at > limited && *at < limited + 60_000).count()
        + writes[3..].iter().filter(|(at, _)| *at == limited).count();
    let others = world.other.writes().iter().filter(|(at, _)| *at <= limited + 60_000).count();
    let shown = (0..8).filter(|n| world.forge.last_status(&sha(*n), "trainyard/a").is_some()).count();
    println!(
        "FAULT F24 pause_ms=60000 requests_during_pause={during} shown={shown} other_credential_during_pause={others}"
    );
    assert_eq!((during, shown, others), (0, 8, 8));
}

/// Comments of ended runs are final words too, and far fewer of them may be written.
#[tokio::test]
async fn no_status_waits_behind_comments() {
    let world = World::new().await;
    for number in 1..=200 {
        world.comment(number, "final").await;
    }
    world.run(60_000).await;
    let began = world.clock.now_ms();
    for n in 0..30 {
        world.status("github", &sha(n), "trainyard/a", StatusState::Success, "done").await;
    }
    world.status("github", &sha(99), "trainyard/a", StatusState::Pending, "queued").await;
    world.run(60_000).await;
    let shown = (0..30).filter(|n| world.forge.last_status(&sha(*n), "trainyard/a").is_some()).count();
    assert_eq!(shown, 30);
    assert!(world.forge.last_status(&sha(99), "trainyard/a").is_some(), "not final, and not held up either");
    let last = world.forge.writes().iter().rev().find(|(_, what)| what.contains('/')).unwrap().0;
    let written = || (1..=200).filter(|number| !world.forge.comments_on(*number).is_empty()).count();
    println!(
        "FIGURE outbox_statuses_behind_comments=31 all_after_ms={} comments_by_then={}",
        last - began,
        written()
    );
    assert!(written() > 45, "the comments go on meanwhile");
    world.run(2 * 3_600_000).await;
    assert_eq!(written(), 200);
}

#[tokio::test]
async fn what_a_forge_refuses_for_good_is_given_up_and_shown() {
    // (fault, most calls)
    let table = [
        ("401", Fault::Refused(401), 10),
        ("403", Fault::Refused(403), 10),
        ("404", Fault::Refused(404), 3),
        ("404 read", Fault::NotFound, 3),
        ("410", Fault::Refused(410), 1),
        ("422", Fault::Refused(422), 1),
        ("451", Fault::Refused(451), 1),
    ];
    let mut good = 0;
    for (name, fault, calls) in table {
        let world = World::new().await;
        world.forge.faults(move |_| Some(fault));
        world.status("github", &sha(1), "trainyard/a", StatusState::Success, "done").await;
        world.run(24 * 3_600_000).await;
        let target = format!("{}/trainyard/a", sha(1));
        let (state, error) = world.state(OutboxKind::Status, &target).await;
        assert_eq!((state, world.forge.writes().len()), (OutboxState::Dead, calls), "{name}");
        assert!(!error.is_empty(), "{name}");
        // A newer word is tried again.
        world.forge.faults(|_| None);
        world.status("github", &sha(1), "trainyard/a", StatusState::Failure, "changed").await;
        world.run(3_600_000).await;
        assert_eq!(world.state(OutboxKind::Status, &target).await.0, OutboxState::Sent, "{name}");
        good += 1;
    }
    println!("FAULT F25 classes={good} failed=0");
}

/// A token that is renewed, a list of allowed addresses that is wrong for a while: no final word is lost to it, and no restart is needed.
#[tokio::test]
async fn a_refusal_that_passes_loses_no_final_word() {
    // (status, words, refused for so long, shown so long after the end of it at the latest, most calls meanwhile)
    let table = [
        (401, 20, 60_000, 120_000, 40),
        (403, 20, 180_000, 300_000, 180),
        (403, 1, 3 * 3_600_000, 3_700_000, 40),
    ];
    for (status, words, refused_ms, late_ms, most) in table {
        let world = World::new().await;
        let (clock, began) = (world.clock.clone(), world.clock.now_ms());
        let until = began + refused_ms;
        world.forge.faults(move |_| (clock.now_ms() < until).then_some(Fault::Refused(status)));
        for n in 0..words {
            world.status("github", &sha(n), "trainyard/a", StatusState::Success, "done").await;
        }
        world.run_swept(refused_ms + late_ms).await;
        let lost = (0..words).filter(|n| world.forge.last_status(&sha(*n), "trainyard/a").is_none()).count();
        let writes = world.forge.writes();
        let during = writes.iter().filter(|(at, _)| *at < until).count();
        let last = writes.last().unwrap().0 - until;
        println!(
            "FAULT F25.passes status={status} refused_ms={refused_ms} lost={lost} refused_calls={during} shown_after_ms={last}"
        );
        assert_eq!(lost, 0, "{status} for {refused_ms} ms");
        assert!(during <= most, "{during} calls while it refuses");
    }
}

/// One repository that refuses for good, such as an archived one, does not hold up another's words.
#[tokio::test]
async fn what_was_refused_waits_behind_what_never_failed() {
    let world = World::new().await;
    world.forge.faults(|n| (n < 300).then_some(Fault::Refused(403)));
    for n in 0..300 {
        world.status("github", &sha(n), "trainyard/a", StatusState::Success, "done").await;
    }
    world.run_swept(2 * 3_600_000).await;
    let began = world.clock.now_ms();
    world.forge.faults(|_| None);
    world.status("github", &sha(999), "trainyard/a", StatusState::Success, "done").await;
    world.run(60_000).await;
    let at = world
        .forge
        .writes()
        .iter()
        .find(|(at, what)| *at >= began && what.starts_with(sha(999).as_str()))
        .unwrap()
        .0;
    assert!(at - began <= 61_000, "{} ms", at - began);
    assert_eq!(
        world.forge.writes().iter().find(|(at, _)| *at >= began).unwrap().1,
        format!("{}/trainyard/a", sha(999))
    );
}

#[tokio::test]
async fn one_comment_is_kept_whatever_happens_to_it() {
    let world = World::new().await;
    world.forge.say(12, "mallory", "<!-- marker 12 -->\nforged");
    // Created, and the answer lost: the second try must find it.
    world.forge.faults(|n| (n == 0).then_some(Fault::After));
    world.comment(12, "one").await;
    world.run(3_600_000).await;
    let bodies = |world: &World| -> Vec<String> {
        world
            .forge
            .comments_on(12)
            .into_iter()
            .map(|c| format!("{}: {}", c.author.login, c.body.lines().last().unwrap()))
            .collect()
    };
    assert_eq!(bodies(&world), ["mallory: forged", "trainyard-bot: one"]);
    world.comment(12, "two").await;
    world.run(3_600_000).await;
    assert_eq!(bodies(&world), ["mallory: forged", "trainyard-bot: two"]);
    // Somebody deletes it: it comes back once, at the next change.
    world.forge.delete_comments(12);
    world.comment(12, "three").await;
    world.run(3_600_000).await;
    assert_eq!(bodies(&world), ["trainyard-bot: three"]);
    world.comment(12, "four").await;
    world.run(3_600_000).await;
    assert_eq!(bodies(&world), ["trainyard-bot: four"]);
    world.forge.delete_comments(12);
    world.comment(12, "five").await;
    world.run(24 * 3_600_000).await;
    assert!(bodies(&world).is_empty());
    assert_eq!(world.state(OutboxKind::Comment, "12").await.0, OutboxState::Dead);
}

#[tokio::test]
async fn words_that_are_not_final_leave_room_for_the_one_that_is() {
    let world = World::new().await;
    for n in 0..120 {
        world.status("github", &sha(1), "trainyard/a", StatusState::Pending, &format!("word {n}")).await;
        world.run(10_000).await;
    }
    world.status("github", &sha(1), "trainyard/a", StatusState::Success, "final").await;
    world.run(10_000).await;
    let posted = world.forge.statuses(&sha(1), "trainyard/a");
    println!("FIGURE statuses_of_one_context={} last={:?}", posted.len(), posted.last().unwrap().description);
    assert!(posted.len() <= 50);
    assert_eq!(posted.last().unwrap().description, "final");
}

/// The same over HTTP: the GitHub client against the sandbox, with broken connections and GitHub's own ways to say "wait".
#[tokio::test(flavor = "multi_thread")]
async fn over_http_everything_arrives_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(SandboxOptions::new(dir.path(), ManualClock::at(T0))).await.unwrap();
    let repo = RepoName::parse("ada/churn").unwrap();
    sandbox.create_repo(&repo, "main").await.unwrap();
    let tree = WorkTree::new(&sandbox.git_url(&repo, WRITER));
    let commits: Vec<Sha> = (0..10).map(|n| tree.commit(&format!("commit {n}"))).collect();
    tree.push(&["main", "main:refs/heads/topic"]);
    tree.git(&["checkout", "--quiet", "-b", "topic"]);
    tree.commit("more");
    tree.push(&["topic"]);
    let number = sandbox
        .open_pull(
            &repo,
            NewPull {
                title: "Better".into(),
                author: WRITER.into(),
                head_branch: "topic".into(),
                head_repo: None,
                base_branch: "main".into(),
                draft: false,
            },
        )
        .await
        .unwrap();
    let client =
        GitHub::connect(&sandbox.forge_config(SecretSource::Env("UNUSED".into()), vec![]), sandbox.token());
    let world = World::with(Some(client.unwrap())).await;

    let answer = |status: u16, headers: &[(&str, &str)], body: &str| FaultKind::Answer {
        status,
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        body: body.to_owned(),
    };
    let fault = |path: &str, times: usize, kind: FaultKind| {
        sandbox.inject(HttpFault { kind, method: Some("POST".into()), path: path.to_owned(), times });
    };
    fault(commits[0].as_str(), 2, FaultKind::DropBefore);
    fault(commits[1].as_str(), 2, FaultKind::DropAfter);
    fault(commits[2].as_str(), 3, answer(502, &[], "<html>Bad Gateway</html>"));
    fault(commits[3].as_str(), 1, answer(500, &[], ""));
    fault("/comments", 1, FaultKind::DropAfter);
    for (n, commit) in commits.iter().enumerate() {
        world.status("github", commit, "trainyard/churn", StatusState::Success, &format!("final {n}")).await;
    }
    world.comment(number, "final").await;
    world.run(24 * 3_600_000).await;
    let shown = |n: usize| {
        let posted = sandbox.statuses(&repo, &commits[n]);
        posted.last().and_then(|s| s.description.clone()) == Some(format!("final {n}"))
    };
    let lost = (0..10).filter(|n| !shown(*n)).count();
    let comments = sandbox.comments(&repo, number);
    assert_eq!((lost, comments.len()), (0, 1));
    assert!(comments[0].body().ends_with("final"));

    // Limits: no call until the time named, or a minute when none is.
    let table = [
        (
            "403 without a header",
            answer(403, &[], r#"{"message":"You have exceeded a secondary rate limit."}"#),
            59_000,
        ),
        ("429 with Retry-After", answer(429, &[("retry-after", "60")], r#"{"message":"slow down"}"#), 59_000),
        (
            "limit with a reset in the past",
            answer(
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")],
                r#"{"message":"API rate limit exceeded"}"#,
            ),
            500,
        ),
    ];
    let mut during = 0;
    for (n, (name, kind, quiet_ms)) in table.into_iter().enumerate() {
        fault("/statuses/", 1, kind);
        for commit in &commits[..3] {
            world
                .status("github", commit, &format!("trainyard/limit-{n}"), StatusState::Success, "done")
                .await;
        }
        let before = sandbox.exchanges().len();
        world.run(quiet_ms).await;
        during += sandbox.exchanges().len() - before - 1;
        world.run(3_600_000).await;
        for commit in &commits[..3] {
            let context = format!("trainyard/limit-{n}");
            assert!(sandbox.statuses(&repo, commit).iter().any(|s| s.context == context), "{name}");
        }
    }
    println!("FAULT F24.http kinds=3 requests_during_pause={during}");
    assert_eq!(during, 0);

    // A commit that a force-push took away, and a revoked token.
    let gone = Sha::parse(&"d".repeat(40)).unwrap();
    world.status("github", &gone, "trainyard/a", StatusState::Success, "done").await;
    let before = sandbox.exchanges().len();
    world.run(24 * 3_600_000).await;
    let calls = sandbox.exchanges().len() - before;
    let (state, error) = world.state(OutboxKind::Status, &format!("{gone}/trainyard/a")).await;
    println!("FAULT F23.http lost={lost} comments={} gone_commit_calls={calls}", comments.len());
    assert_eq!((state, calls), (OutboxState::Dead, 1), "{error}");
}
