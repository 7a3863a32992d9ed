//! A checkpoint is kept while the step runs and as it ends, whole or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard::agent::protocol::{CHECKPOINT_FILES, CHECKPOINT_MARK, Checkpoint};
use trainyard::model::EndClass;

use super::daemon::{Agent, Daemon, Seen, run, spec, until};

/// Its files by path, if there is one; each must have arrived as it is named.
pub fn last_checkpoint(seen: &Seen) -> Option<BTreeMap<String, Vec<u8>>> {
    let (mark, _) = seen.artifacts.get(CHECKPOINT_MARK)?;
    let checkpoint: Checkpoint = serde_json::from_slice(mark).unwrap();
    let files = checkpoint.files.into_iter();
    Some(
        files
            .map(|file| (file.path, seen.artifacts[&format!("{CHECKPOINT_FILES}/{}", file.sha256)].0.clone()))
            .collect(),
    )
}

/// Two files that must agree, written with a pause between them, then rest; a large one that stays as it is.
const PAIRS: &str = "mkdir -p ckpt; head -c 300000 /dev/zero > ckpt/large
i=0; while [ ! -e enough ]; do i=$((i+1)); echo $i > ckpt/a; sleep 0.15; echo $i > ckpt/b; sleep 2.4; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_while_it_trains_is_whole() {
    let daemon = Daemon::start().await;
    let mut spec = spec(&daemon.sha, &[PAIRS]);
    (spec.checkpoint, spec.checkpoint_every_ms) = (Some("./ckpt/".into()), 1_800);
    daemon.will_run(spec);
    let mut agent = Agent::start(&daemon.url);
    let (mut seen, mut torn, mut larges) = (Vec::new(), 0, 0);
    until("three checkpoints", || {
        let mut held = daemon.seen.lock().unwrap();
        let Some(files) = last_checkpoint(&held) else { return false };
        if seen.last() != Some(&files["ckpt/a"]) {
            seen.push(files["ckpt/a"].clone());
            torn += usize::from(files["ckpt/a"] != files["ckpt/b"]);
            assert_eq!(files["ckpt/large"].len(), 300_000);
            larges += usize::from(held.sent_bytes >= 300_000);
            held.sent_bytes = 0;
        }
        seen.len() >= 3
    })
    .await;
    println!(
        "FIGURE checkpoints_kept_on_the_way count={} torn={torn} unchanged_files_sent={larges}",
        seen.len()
    );
    assert_eq!((torn, larges), (0, 1), "an unchanged file is sent once");
    std::fs::write(agent.dir.join("src/enough"), "").unwrap();
    assert!(agent.end().await);
    let held = daemon.seen.lock().unwrap();
    assert_eq!(held.finished.as_ref().unwrap().class, EndClass::Succeeded);
    assert_eq!(last_checkpoint(&held), Some(BTreeMap::new()), "nothing is left to resume");
    assert_eq!(held.breaches, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_checkpoint_is_never_taken_for_one() {
    // (what, commands, is the last checkpoint taken?)
    let cases = [
        ("killed as it writes", "while :; do echo half >> ckpt/state; sleep 0.05; done", false),
        (
            "a child killed as it writes",
            "sh -c 'while :; do echo half >> ckpt/state; sleep 0.05; done'; true",
            false,
        ),
        (
            "over its grace as it writes",
            "sh -c 'trap \"\" TERM; while :; do echo half >> ckpt/state; sleep 0.05; done'; true",
            false,
        ),
        (
            "killed as it writes, beside one that ends by itself",
            "sh -c 'trap \"\" TERM; sleep 0.7' & while :; do echo half >> ckpt/state; sleep 0.05; done",
            false,
        ),
        (
            "killed as it writes, beside one that saves nothing and ends when it is asked to",
            "sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done' & while :; do echo half >> ckpt/state; sleep 0.05; done",
            false,
        ),
        (
            "killed as it writes, under a parent that reaps it and ends by itself",
            "sh -c 'trap \"sleep 0.3; exit 0\" TERM; \
             (while :; do echo half >> ckpt/state; sleep 0.05; done) & wait; wait'; true",
            false,
        ),
        ("asked to end at rest", "echo whole > ckpt/state; sleep 3.2; echo ready; sleep 60", true),
        (
            "saves when it is asked to",
            "sh -c 'trap \"sleep 0.2; echo whole > ckpt/state; exit 0\" TERM; while :; do echo half > ckpt/state; sleep 0.05; done'; true",
            true,
        ),
        (
            "saves when it is asked to, and then dies of the signal after all",
            "sh -c 'trap \"sleep 0.2; echo whole > ckpt/state; trap - TERM; kill -TERM \\$\\$\" TERM; \
             while :; do echo half > ckpt/state; sleep 0.05; done'; true",
            true,
        ),
        (
            "asks to be resumed",
            "trap 'echo whole > ckpt/state; exit 75' TERM; while :; do echo half > ckpt/state; sleep 0.05; done",
            true,
        ),
    ];
    let mut set = tokio::task::JoinSet::new();
    for (what, commands, taken) in cases {
        set.spawn(async move {
            let daemon = Daemon::start().await;
            let mut spec = spec(&daemon.sha, &[&format!("mkdir ckpt; {commands}")]);
            (spec.checkpoint, spec.grace_ms) = (Some("ckpt".into()), 1_000);
            daemon.will_run(spec);
            let mut agent = Agent::start(&daemon.url);
            let waits = commands.contains("ready");
            until("it is at work", || {
                agent.dir.join("src/ckpt/state").exists()
                    && (!waits
                        || String::from_utf8_lossy(&daemon.seen.lock().unwrap().log).contains("\nready\n"))
            })
            .await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            kill(Pid::from_raw(agent.pid() as i32), Signal::SIGTERM).unwrap();
            assert!(agent.end().await, "{what}");
            let seen = daemon.seen.lock().unwrap();
            let files = last_checkpoint(&seen);
            let right = match &files {
                Some(files) => taken && files["ckpt/state"] == b"whole\n",
                None => !taken,
            };
            (what, right, format!("{files:?} {:?}", seen.finished))
        });
    }
    let (mut all, mut wrong) = (0, Vec::new());
    while let Some(done) = set.join_next().await {
        let (what, right, why) = done.unwrap();
        all += 1;
        if !right {
            wrong.push(format!("{what}: {why}"));
        }
    }
    println!("FIGURE checkpoints_at_the_end ends={all} half_taken_or_whole_lost={}", wrong.len());
    assert_eq!(wrong, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_75_after_sigterm_asks_to_be_resumed() {
    let daemon = Daemon::start().await;
    let mut spec = spec(&daemon.sha, &["mkdir ckpt; echo 1 > ckpt/state; exit 75"]);
    spec.checkpoint = Some("ckpt".into());
    let (finished, log) = run(&daemon, spec).await;
    assert_eq!(finished.class, EndClass::Checkpointed);
    assert!(log.contains("checkpoint 1 kept (1 files, 2 bytes, 1 new)"), "{log}");
}
