//! A step resumes where its last whole checkpoint was: after its agent was killed, and as often as it asks to with exit 75.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trainyard::agent::proc;
use trainyard::model::RunState;

use super::daemon::Daemon;
use super::yard::{Yard, only_run, until};

const STEPS: u32 = 50;

fn pipeline() -> String {
    format!(
        r#"version: 1
name: long
steps:
  - name: train
    checkpoint: {{path: ckpt}}
    commands:
      - |
        i=0; [ -z "$TRAINYARD_RESUME_FROM" ] || i=$(cat "$TRAINYARD_RESUME_FROM/step")
        echo "begins at $i"; mkdir -p ckpt
        trap 'echo $i > ckpt/step; echo "saved $i"; exit 75' TERM
        while [ $i -lt {STEPS} ]; do
          i=$((i+1)); echo "step $i"
          [ $((i % 10)) != 0 ] || {{ echo $i > new; mv new ckpt/step; }}
          sleep 0.1 || true
        done
"#
    )
}

/// The number after the last line that begins so.
fn number(log: &str, words: &str) -> u32 {
    let line = log.lines().filter_map(|line| line.strip_prefix(words)).next_back();
    line.unwrap_or_else(|| panic!("no {words:?} in\n{log}")).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_resumes_from_its_last_whole_checkpoint() {
    let mut yard =
        Yard::of(|url, token| Daemon::with(url, token, "[limits]\ncheckpoint_every_s = 1\n")).await;
    yard.daemon.start().await;
    yard.push("main", &pipeline()).await;
    let store = yard.store().await;
    let log = async |n: usize| {
        let view = only_run(&store).await?;
        let segments = store.log_segments(&view.attempts.get(n)?.uid, 0, 10_000).await.unwrap();
        let bytes: Vec<u8> = segments.iter().flat_map(|s| yard.daemon.try_blob(&s.blob_key)).collect();
        Some(String::from_utf8(bytes).unwrap())
    };
    let agent = || {
        let dir = yard.daemon.database().parent().unwrap().display().to_string();
        let mut found = proc::all().into_iter().filter(|s| !s.dead()).filter(|s| {
            std::fs::read(format!("/proc/{}/cmdline", s.pid)).is_ok_and(|line| {
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.contains(" agent --bootstrap") && line.contains(&dir)
            })
        });
        found.next().map(|s| Pid::from_raw(s.pid))
    };

    // Killed without a word: what was kept on the way counts.
    until("a checkpoint kept on the way", 60, async || {
        log(0).await.filter(|log| log.contains("checkpoint 1 kept"))
    })
    .await;
    kill(agent().unwrap(), Signal::SIGKILL).unwrap();
    // Asked to end twice: exit 75 spends nothing of the one retry that was spent by now.
    for n in 1..=2 {
        until("more steps", 90, async || {
            log(n).await.filter(|log| log.lines().filter(|line| line.starts_with("step ")).count() >= 4)
        })
        .await;
        kill(agent().unwrap(), Signal::SIGTERM).unwrap();
    }
    let view = until("the end of the run", 90, async || {
        only_run(&store).await.filter(|v| v.run.state.is_terminal())
    })
    .await;
    let mut logs = Vec::new();
    for n in 0..view.attempts.len() {
        logs.push(log(n).await.unwrap());
    }
    let classes: Vec<_> = view.attempts.iter().map(|a| a.class.unwrap().word()).collect();
    assert_eq!(
        view.run.state,
        RunState::Succeeded,
        "{classes:?} {}\n{}",
        view.run.reason,
        logs.join("\n---\n")
    );
    assert_eq!(classes, ["node_lost", "checkpointed", "checkpointed", "succeeded"]);

    let begins: Vec<u32> = logs.iter().map(|log| number(log, "begins at ")).collect();
    let saved: Vec<u32> = logs[1..3].iter().map(|log| number(log, "saved ")).collect();
    let reached = number(&logs[0], "step ");
    println!(
        "FIGURE resumed attempts=4 reached={reached} begins={begins:?} saved={saved:?} ends={}",
        number(&logs[3], "step ")
    );
    assert!(begins[1] > 0 && begins[1].is_multiple_of(10) && begins[1] <= reached, "{begins:?}");
    assert_eq!(begins[2..], saved);
    assert_eq!(number(&logs[3], "step "), STEPS);
    // What nobody will resume is not kept.
    for attempt in &view.attempts {
        let left = store.artifacts_of_attempt(&attempt.uid).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}
