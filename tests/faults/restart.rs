//! G8: a restart re-attaches to running work and never restarts it.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use trainyard::agent::proc;
use trainyard::model::{AttemptState, EndClass, RunState};

use super::yard::{Yard, attempt, only_run, until};

/// The commands: numbered lines until there are enough, and a note of the process that wrote them.
fn pipeline(witness: &Path) -> String {
    format!(
        "version: 1\nname: long\nsteps:\n  - name: train\n    commands:\n      - |\n        echo $$ >> {0}/pids\n        i=0; while [ ! -e {0}/enough ]; do echo \"line $i\"; i=$((i+1)); sleep 0.02; done\n        echo $i > {0}/lines\n        echo 'accuracy=0.5' >> $TRAINYARD_OUTPUT\n",
        witness.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_outlives_the_daemon() {
    let kills = if std::env::var("TRAINYARD_LONG").is_ok_and(|v| v == "1") { 8 } else { 3 };
    let mut yard = Yard::new().await;
    let witness = tempfile::tempdir().unwrap();
    let witness = witness.path();
    yard.daemon.start().await;
    let sha = yard.push("main", &pipeline(witness)).await;
    let store = yard.store().await;
    let uid = until("a running attempt with a log", 60, async || {
        let view = only_run(&store).await?;
        let attempt = view.attempts.first()?;
        (attempt.state == AttemptState::Running && attempt.log_bytes > 0).then(|| attempt.uid.clone())
    })
    .await;

    for _ in 0..kills {
        let before = attempt(&store, &uid).await;
        assert_eq!(before.state, AttemptState::Running, "{}", before.reason);
        yard.daemon.kill().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        yard.daemon.start().await;
        // The agent found the daemon again and went on where it was.
        until("more of the log", 60, async || {
            let now = attempt(&store, &uid).await;
            (now.log_bytes > before.log_bytes || now.state == AttemptState::Ended).then_some(())
        })
        .await;
    }

    std::fs::write(witness.join("enough"), "").unwrap();

    let view = until("the end of the run", 90, async || {
        only_run(&store).await.filter(|v| v.run.state.is_terminal())
    })
    .await;
    assert_eq!(view.run.state, RunState::Succeeded, "{}", view.run.reason);
    assert_eq!(view.attempts.len(), 1, "the step was tried again");
    let pids = std::fs::read_to_string(witness.join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 1, "the commands ran more than once: {pids:?}");

    let mut log = Vec::new();
    for segment in store.log_segments(&uid, 0, 10_000).await.unwrap() {
        assert_eq!(segment.start_byte, log.len() as i64, "a gap or an overlap");
        log.extend(yard.daemon.blob(&segment.blob_key));
    }
    let text = String::from_utf8(log).unwrap();
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("line ")).collect();
    let written: usize = std::fs::read_to_string(witness.join("lines")).unwrap().trim().parse().unwrap();
    let expected: Vec<String> = (0..written).map(|i| format!("line {i}")).collect();
    assert_eq!(lines, expected, "the log has a gap or a repeat");

    let last = until("the final status", 60, async || {
        let last = yard.statuses(&sha).pop()?;
        (last.state != "pending").then_some(last)
    })
    .await;
    assert_eq!((last.context.as_str(), last.state.as_str()), ("trainyard/long", "success"));
    println!(
        "FAULT G8 kills={kills} restarted=0 log_lines={} gaps=0 repeats=0 final_status={}",
        lines.len(),
        last.state
    );
}

/// The agents of a machine that trained on without its daemon are killed: what they had on disk is not lost, and the log says that
/// more may be (G9).
#[tokio::test(flavor = "multi_thread")]
async fn a_log_outlives_its_agent() {
    let mut yard = Yard::new().await;
    let witness = tempfile::tempdir().unwrap();
    yard.daemon.start().await;
    let lines = format!(
        "version: 1\nname: long\nsteps:\n  - name: train\n    commands:\n      - |\n        i=0; while [ ! -e {0}/enough ]; do echo \"line $i\"; echo $i > {0}/lines; i=$((i+1)); sleep 0.02; done\n        if [ $TRAINYARD_ATTEMPT = 1 ]; then sleep 600; fi\n",
        witness.path().display()
    );
    yard.push("main", &lines).await;
    let store = yard.store().await;
    let uid = until("a running attempt with a log", 60, async || {
        let view = only_run(&store).await?;
        let attempt = view.attempts.first()?;
        (attempt.state == AttemptState::Running && attempt.log_bytes > 0).then(|| attempt.uid.clone())
    })
    .await;
    yard.daemon.kill().await;
    let before = attempt(&store, &uid).await.log_bytes;
    tokio::time::sleep(Duration::from_secs(1)).await;
    std::fs::write(witness.path().join("enough"), "").unwrap();
    // All that was printed is on disk a tick later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dir = yard.daemon.database().parent().unwrap().display().to_string();
    let agent = proc::all().into_iter().filter(|s| !s.dead()).find(|s| {
        std::fs::read(format!("/proc/{}/cmdline", s.pid)).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(" agent --bootstrap") && line.contains(&dir)
        })
    });
    assert!(proc::signal(&agent.unwrap(), Signal::SIGKILL));
    yard.daemon.start().await;
    let ended = until("the end of the attempt", 90, async || {
        let now = attempt(&store, &uid).await;
        (now.state == AttemptState::Ended && now.removed_ms.is_some()).then_some(now)
    })
    .await;
    assert_eq!(ended.class, Some(EndClass::NodeLost), "{}", ended.reason);
    assert!(ended.reason.ends_with("it was killed, or the machine was restarted"), "{}", ended.reason);

    let log = yard.daemon.bytes(&format!("/api/v1/attempts/{uid}/log")).await;
    let text = String::from_utf8(log).unwrap();
    let last: usize = std::fs::read_to_string(witness.path().join("lines")).unwrap().trim().parse().unwrap();
    let got: Vec<&str> = text.lines().filter(|l| l.starts_with("line ")).collect();
    let wanted: Vec<String> = (0..=last).map(|i| format!("line {i}")).collect();
    assert_eq!(got, wanted, "a gap or a repeat");
    let marker = "[trainyard] the agent ended without a word. The log up to here lay on its disk";
    assert_eq!(text.matches("[trainyard] the agent ended").count(), 1, "{text}");
    assert!(text.lines().last().unwrap().starts_with(marker), "{text}");
    println!(
        "FAULT G9 agent_killed=1 taken_over_bytes={} lines={} lost=0",
        ended.log_bytes - before,
        got.len()
    );
}
