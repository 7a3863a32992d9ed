//! F02: the daemon dies at its Nth effect, N = 1, 2, …, is started again, and ends where it would have ended anyway: each
//! delivery decided once, each step's commands run once, the right final status.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trainyard::model::{RunState, Sha, StepState};
use trainyard::sandbox::{NewPull, WRITER};
use trainyard::store::Store;
use trainyard::store::lists::RunFilter;
use trainyard::store::runs::RunView;

use super::yard::Yard;

/// A first commit that trains until it is stopped and asks for a pool that there is not, and a second one of its concurrency
/// group that stops it, trains, keeps a file and is compared.
fn pipeline(witness: &Path, second: bool) -> String {
    let witness = witness.display();
    let steps = if second {
        format!(
            "  - {{name: train, commands: ['echo train >> {witness}', 'echo accuracy=0.5 >> $TRAINYARD_OUTPUT', 'echo x > model'], artifacts: [model]}}\n\
             \x20 - {{name: eval, needs: [train], commands: ['cat model', 'echo eval >> {witness}']}}\n"
        )
    } else {
        "  - {name: train, commands: ['sleep 600']}\n  - {name: odd, needs: [], pool: nowhere, commands: ['true']}\n"
            .to_owned()
    };
    format!(
        "name: churn\nconcurrency: {{group: one, cancel_in_progress: true}}\nsteps:\n{steps}metrics: {{gates: {{accuracy: {{min: 0.4}}}}}}\n"
    )
}

async fn run_of(store: &Store, sha: &Sha) -> Option<RunView> {
    let runs = store.list_runs(RunFilter::default(), None, 500).await.unwrap();
    let mut of_sha = runs.iter().filter(|item| item.run.head_sha == *sha);
    let id = of_sha.next()?.run.id.clone();
    assert!(of_sha.next().is_none(), "two runs of {sha}");
    store.run_view(&id).await.unwrap()
}

/// What a webhook's sender does that got no answer.
async fn send_unanswered_again(yard: &Yard, done: &mut BTreeSet<String>) {
    let sent = yard.sandbox.deliveries();
    let answered: BTreeSet<String> =
        sent.iter().filter(|d| d.status.is_some_and(|s| s < 300)).map(|d| d.guid.clone()).collect();
    done.extend(answered);
    let lost: BTreeSet<String> =
        sent.into_iter().map(|d| d.guid).filter(|guid| !done.contains(guid)).collect();
    for guid in lost {
        if yard.sandbox.redeliver(&guid).await.is_ok_and(|d| d.status.is_some_and(|s| s < 300)) {
            done.insert(guid);
        }
    }
}

/// Where the daemon dies.
#[derive(Debug, Clone)]
enum Crash {
    Never,
    At(usize),
    On(String),
}

struct Outcome {
    crashed: bool,
    hits: Vec<String>,
}

/// One whole round with one crash.
async fn round(
    yard: &mut Yard,
    dir: &Path,
    answered: &mut BTreeSet<String>,
    n: usize,
    crash: &Crash,
) -> Outcome {
    let trace: PathBuf = dir.join(format!("trace-{n}"));
    let witness = dir.join(format!("witness-{n}"));
    yard.daemon.env = vec![("TRAINYARD_CRASH_TRACE", trace.display().to_string())];
    match crash {
        Crash::Never => {}
        Crash::At(at) => yard.daemon.env.push(("TRAINYARD_CRASH_AT", at.to_string())),
        Crash::On(name) => yard.daemon.env.push(("TRAINYARD_CRASH_ON", name.clone())),
    }
    let mut crashed = !yard.daemon.try_start().await;
    let mut heal = async |yard: &mut Yard, crashed: &mut bool| {
        if *crashed || yard.daemon.has_ended() {
            if !*crashed || yard.daemon.has_ended() {
                *crashed = true;
                yard.daemon.start().await;
            }
            send_unanswered_again(yard, answered).await;
        }
    };
    heal(yard, &mut crashed).await;
    let store = yard.store().await;
    if n > 0 {
        yard.git(&["checkout", "-q", "main"]).await;
    }
    let first = yard.push("main", &pipeline(&witness, false)).await;
    loop {
        heal(yard, &mut crashed).await;
        // The first one trains: only then does the second one have something to stop.
        if run_of(&store, &first).await.is_some_and(|v| v.attempts.iter().any(|a| a.started_ms.is_some())) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let branch = format!("change-{n}");
    yard.git(&["checkout", "-q", "-b", &branch]).await;
    let second = yard.push(&branch, &pipeline(&witness, true)).await;
    let pull = NewPull {
        title: "A change".into(),
        author: WRITER.into(),
        head_branch: branch,
        head_repo: None,
        base_branch: "main".into(),
        draft: false,
    };
    let pull = yard.sandbox.open_pull(&yard.repo, pull).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        heal(yard, &mut crashed).await;
        let views = [run_of(&store, &first).await, run_of(&store, &second).await];
        let over = |view: &RunView| {
            view.run.state.is_terminal() && view.attempts.iter().all(|a| a.removed_ms.is_some())
        };
        let told = |sha: &Sha| yard.statuses(sha).last().is_some_and(|s| s.state != "pending");
        let commented = !yard.sandbox.comments(&yard.repo, pull).is_empty();
        if views.iter().all(|v| v.as_ref().is_some_and(over)) && told(&first) && told(&second) && commented {
            break;
        }
        if std::time::Instant::now() >= deadline {
            yard.keep("crash-points");
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{crash:?}: no end in sight (its database: target/tmp/crash-points): {views:?}\nstatuses {:?}\ndaemon: {}",
            yard.statuses(&second),
            yard.daemon.logged().lines().rev().take(60).collect::<Vec<_>>().join("\n")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let old = run_of(&store, &first).await.unwrap();
    let new = run_of(&store, &second).await.unwrap();
    assert_eq!(old.run.state, RunState::Superseded, "{crash:?}: {}", old.run.reason);
    assert_eq!(new.run.state, RunState::Succeeded, "{crash:?}: {}", new.run.reason);
    let steps: Vec<StepState> = new.steps.iter().map(|s| s.state).collect();
    assert_eq!(steps, [StepState::Succeeded, StepState::Succeeded], "{crash:?}");
    assert_eq!((old.attempts.len(), new.attempts.len()), (1, 2), "{crash:?}: a step was tried again");
    assert_eq!(
        std::fs::read_to_string(&witness).unwrap(),
        "train\neval\n",
        "{crash:?}: commands ran more than once"
    );
    let last = yard.statuses(&second).pop().unwrap();
    assert_eq!((last.context.as_str(), last.state.as_str()), ("trainyard/churn", "success"), "{crash:?}");
    assert_eq!(yard.sandbox.comments(&yard.repo, pull).len(), 1, "{crash:?}: one comment");
    crashed |= yard.daemon.has_ended();
    yard.daemon.kill().await;
    store.close().await;
    let hits = std::fs::read_to_string(&trace).unwrap_or_default();
    let name = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    Outcome { crashed, hits: hits.lines().map(name).collect() }
}

/// Every name given to `failpoint::hit` in the sources, but for those of the Kubernetes executor: the steps run on this machine here.
fn points() -> BTreeSet<String> {
    fn look(dir: &Path, hit: &regex::Regex, out: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, hit, out);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                out.extend(hit.captures_iter(&text).map(|c| c[1].to_owned()));
            }
        }
    }
    let mut out = BTreeSet::new();
    look(Path::new("src"), &regex::Regex::new(r#"failpoint::hit\("([^"]+)"\)"#).unwrap(), &mut out);
    out.retain(|point| !point.starts_with("kubernetes."));
    out
}

/// Short: every point once, at its first hit. Long (`TRAINYARD_LONG=1`): then every position of one round as well, until a round
/// comes to its end without a crash.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_effect_changes_nothing() {
    let long = std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1");
    let dir = tempfile::tempdir().unwrap();
    let mut yard = Yard::new().await;
    let mut answered = BTreeSet::new();
    let plain = round(&mut yard, dir.path(), &mut answered, 0, &Crash::Never).await;
    assert!(!plain.crashed);
    let mut unreached = Vec::new();
    let mut rounds = 0;
    let points = points();
    for point in points.iter().filter(|_| std::env::var("TRAINYARD_CRASH_FROM").is_err()) {
        rounds += 1;
        let outcome = round(&mut yard, dir.path(), &mut answered, rounds, &Crash::On(point.clone())).await;
        if !outcome.crashed {
            unreached.push(point);
        }
    }
    let mut positions = points.len() - unreached.len();
    // To look at one position again: TRAINYARD_CRASH_FROM=74.
    let from = std::env::var("TRAINYARD_CRASH_FROM").ok().map(|n| n.parse::<usize>().unwrap());
    for at in from.unwrap_or(1).. {
        if !long && from.is_none() {
            break;
        }
        rounds += 1;
        let outcome = round(&mut yard, dir.path(), &mut answered, rounds, &Crash::At(at)).await;
        if !outcome.crashed {
            break;
        }
        positions += 1;
    }
    println!(
        "FAULT F02 points={} positions={positions} unreached={} hits_of_a_round={} lost=0 doubled=0",
        points.len(),
        unreached.len(),
        plain.hits.len()
    );
    assert!(unreached.is_empty(), "{unreached:?}");
}
