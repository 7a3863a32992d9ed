//! F33: scripts that do not want to end, and the ways in which an attempt is asked to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard::model::EndClass;

use super::checkpoints::last_checkpoint;
use super::daemon::{Agent, Daemon, processes_with, run, spec, uid, until};

/// `@` stands for an argument of `sleep` that no other test uses: it finds what is left.
const ZOO: &[(&str, &str, EndClass)] = &[
    ("ignores SIGTERM", "trap '' TERM; while :; do sleep @; done", EndClass::TimedOut),
    (
        "children ignore SIGTERM too",
        "trap '' TERM; (trap '' TERM; sleep @) & (trap '' TERM; sleep @) & wait",
        EndClass::TimedOut,
    ),
    ("forks a daemon", "( ( setsid sleep @ >/dev/null 2>&1 & ) & ); echo done", EndClass::Succeeded),
    (
        "forks a daemon that forgets who it is",
        "(env -i setsid sh -c 'cd /; sleep @' >/dev/null 2>&1 &); exit 3",
        EndClass::Failed,
    ),
    ("a grandchild holds the pipe", "(sleep @ &); echo done", EndClass::Succeeded),
    ("fills the pipe", "yes | head -c 3000000; sleep @", EndClass::TimedOut),
    ("stops itself", "kill -STOP $$; sleep @", EndClass::TimedOut),
    ("kills itself", "(sleep @ &) ; kill -9 $$", EndClass::Failed),
    ("closes its output", "exec >/dev/null 2>&1; (sleep @ &); true", EndClass::Succeeded),
    (
        "forks and forks",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (trap '' TERM; sleep @) & done; exit 1",
        EndClass::Failed,
    ),
    (
        "never stops forking",
        "sh -c 'while :; do sleep @ & sleep 0.01; done' & sleep 0.3; exit 1",
        EndClass::Failed,
    ),
    ("asks to be resumed", "(sleep @ &); exit 75", EndClass::Checkpointed),
    (
        "a tree in other groups",
        "setsid sh -c \"trap '' TERM; setsid sleep @ & sleep @\" & sleep @",
        EndClass::TimedOut,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_script_outlives_its_attempt() {
    let (mut runs, mut leaked, mut wrong, mut slowest) = (0, 0, Vec::new(), Duration::ZERO);
    let all: Vec<_> = ZOO.iter().cycle().take(100).collect();
    for some in all.chunks(10) {
        let mut set = tokio::task::JoinSet::new();
        for &&(what, script, class) in some {
            set.spawn(async move {
                let daemon = Daemon::start().await;
                let nap = format!("86{:09}", u64::from(rand::random::<u32>()) % 1_000_000_000);
                let mut spec = spec(&daemon.sha, &[&script.replace('@', &nap)]);
                (spec.timeout_ms, spec.grace_ms) = (2_000, 300);
                let begun = Instant::now();
                let (finished, _) = run(&daemon, spec).await;
                (what, class, finished, processes_with(&nap).len(), begun.elapsed())
            });
        }
        while let Some(done) = set.join_next().await {
            let (what, class, finished, left, took) = done.unwrap();
            runs += 1;
            leaked += left;
            slowest = slowest.max(took);
            // A loaded machine may spend the time limit before a script's own end.
            if finished.class != class && finished.class != EndClass::TimedOut {
                wrong.push(format!("{what}: {finished:?}"));
            }
        }
    }
    println!(
        "FAULT F33 runs={runs} leaked={leaked} wrong={} slowest_ms={}",
        wrong.len(),
        slowest.as_millis()
    );
    assert_eq!((leaked, wrong), (0, Vec::new()));
    assert!(slowest < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_training_save_its_state() {
    for (announced, class) in [(true, EndClass::Cancelled), (false, EndClass::Preempted)] {
        let daemon = Daemon::start().await;
        let nap = uid();
        let mut spec = spec(
            &daemon.sha,
            &[&format!(
                "sh -c 'trap \"mkdir -p ckpt; echo saved > ckpt/state; echo saved; exit 0\" TERM; echo ready; while :; do sleep 0.05; done; : {nap}'"
            )],
        );
        spec.checkpoint = Some("ckpt".into());
        daemon.will_run(spec);
        let mut agent = Agent::start(&daemon.url);
        until("it runs", || String::from_utf8_lossy(&daemon.seen.lock().unwrap().log).contains("\nready\n"))
            .await;
        if announced {
            std::fs::write(agent.dir.join("cancel"), "").unwrap();
        }
        kill(Pid::from_raw(agent.pid() as i32), Signal::SIGTERM).unwrap();
        assert!(agent.end().await);
        let seen = daemon.seen.lock().unwrap();
        assert_eq!(seen.finished.as_ref().unwrap().class, class);
        assert!(String::from_utf8_lossy(&seen.log).contains("\nsaved\n"));
        // What a machine took back can be resumed elsewhere.
        let kept = last_checkpoint(&seen);
        let saved = BTreeMap::from([("ckpt/state".to_owned(), b"saved\n".to_vec())]);
        let log = String::from_utf8_lossy(&seen.log);
        assert_eq!(kept, (class == EndClass::Preempted).then_some(saved), "{:?}\n{log}", seen.finished);
        assert!(processes_with(&nap).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_cancels() {
    let daemon = Daemon::start().await;
    daemon.seen.lock().unwrap().cancel = true;
    let (finished, _) = run(&daemon, spec(&daemon.sha, &["sleep 60"])).await;
    assert_eq!(finished.class, EndClass::Cancelled);
}
