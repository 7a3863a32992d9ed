//! Attempts that cannot go well: the class and one clear sentence, and nothing left behind.

use sha2::{Digest as _, Sha256};
use trainyard::agent::protocol::Input;
use trainyard::model::{EndClass, Sha};

use super::daemon::{Agent, Daemon, TOKEN, run, sh, spec, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_not_there_is_a_source_error() {
    let daemon = Daemon::start().await;
    let missing = Sha::parse(&"ab".repeat(20)).unwrap();
    let (finished, _) = run(&daemon, spec(&missing, &["echo never"])).await;
    assert_eq!(finished.class, EndClass::Source);
    assert!(
        finished.reason.contains("not our ref") && !finished.reason.contains(TOKEN),
        "{}",
        finished.reason
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_artifact_fails_a_success_alone() {
    for (command, class, words) in [
        ("true", EndClass::Artifacts, "no file matches the artifact pattern \"out/model/**\""),
        ("exit 3", EndClass::Failed, "exit code 3"),
        ("exit 75", EndClass::Checkpointed, "checkpointed"),
        ("nonexistent-command", EndClass::Failed, "a command was not found"),
        ("kill -9 $$", EndClass::Failed, "killed by signal 9 (SIGKILL), possibly out of memory"),
        ("sh -c 'kill -SEGV $$'", EndClass::Failed, "killed by signal 11 (SIGSEGV)"),
        ("echo 'unclosed", EndClass::Failed, "exit code 2"),
        ("false; echo not reached", EndClass::Failed, "exit code 1"),
    ] {
        let daemon = Daemon::start().await;
        let mut spec = spec(&daemon.sha, &[command]);
        spec.artifacts = vec!["out/model/**".into()];
        let (finished, log) = run(&daemon, spec).await;
        assert_eq!(finished.class, class, "{command}: {finished:?}");
        assert!(finished.reason.contains(words), "{command}: {}", finished.reason);
        assert!(!log.lines().any(|l| l == "not reached"));
    }
}

/// S09: inputs whose place leads out of the source tree, and inputs that are not what was recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_stay_in_the_source_tree_and_are_what_they_were() {
    let good = hex::encode(Sha256::digest("text"));
    let cases = [
        ("../escape", 4, good.as_str(), EndClass::Internal),
        ("/tmp/escape", 4, &good, EndClass::Internal),
        ("a/../../escape", 4, &good, EndClass::Internal),
        ("link/escape", 4, &good, EndClass::Internal),
        (".git/hooks/post-checkout", 4, &good, EndClass::Internal),
        ("data/x.csv/below", 4, &good, EndClass::Internal),
        ("ok", 4, "00", EndClass::Internal),
        ("ok", 3, &good, EndClass::Internal),
        ("ok", 4, &good, EndClass::Succeeded),
    ];
    let mut failed = 0;
    for (place, bytes, sha256, class) in cases {
        let daemon = Daemon::start().await;
        daemon.seen.lock().unwrap().inputs.insert("a1:p".into(), b"text".to_vec());
        let mut spec = spec(&daemon.sha, &["true"]);
        spec.inputs.push(Input {
            attempt: "a1".into(),
            path: "p".into(),
            place: place.into(),
            bytes,
            sha256: sha256.into(),
            executable: false,
        });
        let (finished, _) = run(&daemon, spec).await;
        failed += usize::from(finished.class != class);
    }
    assert!(!std::path::Path::new("/tmp/escape").exists() && !std::path::Path::new("/etc/escape").exists());
    println!("SEC S09 cases={} failed={failed}", cases.len());
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_no_environment_can_hold_is_named() {
    let daemon = Daemon::start().await;
    let mut spec = spec(&daemon.sha, &["true"]);
    spec.secrets.insert("HUGE".into(), "x1".repeat(80_000));
    let (finished, _) = run(&daemon, spec).await;
    assert_eq!(finished.class, EndClass::Failed);
    assert!(finished.reason.starts_with("HUGE is longer than 128 KiB"), "{}", finished.reason);
}

struct Mounted<'a>(&'a std::path::Path);
impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        sh(std::path::Path::new("/"), &format!("umount -l {}", self.0.display()));
    }
}

/// The disk fills up under the attempt: the reason says so, and the result still gets out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_called_by_its_name() {
    let at = tempfile::tempdir().unwrap();
    sh(at.path(), &format!("mount -t tmpfs -o size=6m tmpfs {}", at.path().display()));
    let _mounted = Mounted(at.path());
    for command in
        ["head -c 50000000 /dev/zero > big; echo reached", "yes | head -c 50000000; cat /dev/zero > big"]
    {
        let daemon = Daemon::start().await;
        daemon.will_run(spec(&daemon.sha, &[command]));
        let dir = at.path().join(super::daemon::uid());
        std::fs::create_dir(&dir).unwrap();
        let mut agent = Agent::start_in(&daemon.url, dir.clone(), None);
        assert!(agent.end().await, "{}", agent.own_log());
        let seen = daemon.seen.lock().unwrap();
        let finished = seen.finished.clone().unwrap();
        assert_eq!(finished.class, EndClass::StorageFull, "{finished:?}");
        assert!(finished.reason.contains("the disk or a quota is full"), "{}", finished.reason);
        assert!(dir.join("result.json").exists());
        if command.starts_with("yes") {
            assert!(finished.log_lost_bytes > 40_000_000, "{}", finished.log_lost_bytes);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_has_ended_for_the_daemon_stops() {
    let daemon = Daemon::start().await;
    let mark = super::daemon::uid();
    daemon.will_run(spec(
        &daemon.sha,
        &[&format!("echo go; sleep 9999 # {mark}"), &format!("sh -c 'sleep 9999; : {mark}'")],
    ));
    let mut agent = Agent::start(&daemon.url);
    until("it runs", || daemon.seen.lock().unwrap().log_len > 50).await;
    daemon.seen.lock().unwrap().ended = true;
    // The next log chunk or heartbeat is answered 410.
    assert!(agent.end().await);
    assert!(super::daemon::processes_with(&mark).is_empty());
    assert!(daemon.seen.lock().unwrap().finished.is_none());
}
