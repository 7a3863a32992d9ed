//! The daemon as the systemd unit starts it: not root, with the unit's capabilities alone. Its steps, each under a user id of its own, get none
//! of them, and it can still read what they leave, end what they start and remove it all.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use trainyard::model::{EndClass, RunState, StepState};
use trainyard::store::runs::RunView;

use super::daemon::Daemon;
use super::yard::{Yard, only_run, until};

const UNIT: &str = include_str!("../../deploy/systemd/trainyard.service");

/// A system user for one test; it is deleted afterwards.
struct User(String);

impl User {
    fn make(of: &str) -> Self {
        let name = format!("ty{of}{}", hex::encode(rand::random::<[u8; 4]>()));
        sh(&format!("useradd --system --no-create-home --shell /usr/sbin/nologin {name}"));
        Self(name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.0).output();
    }
}

fn sh(line: &str) {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// `setpriv` with what the unit says of capabilities.
fn as_the_unit(user: &User) -> String {
    let sets = |key: &str| {
        let line = UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
        let names =
            line.split_whitespace().map(|name| name.strip_prefix("CAP_").unwrap().to_ascii_lowercase());
        names.fold("-all".to_owned(), |all, name| format!("{all},+{name}"))
    };
    let ambient = sets("AmbientCapabilities");
    format!(
        "setpriv --reuid={0} --regid={0} --clear-groups --inh-caps={ambient} --ambient-caps={ambient} --bounding-set={1}",
        user.0,
        sets("CapabilityBoundingSet")
    )
}

#[test]
fn the_unit_names_the_capabilities_that_the_daemon_asks_for() {
    let named = |key: &str| {
        let line = UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
        line.replace("CAP_", "").replace(' ', ", ")
    };
    let mut needed: Vec<String> =
        trainyard::executor::local::capability_names().split(", ").map(str::to_owned).collect();
    needed.sort();
    assert_eq!(named("AmbientCapabilities"), needed.join(", "));
    assert_eq!(named("CapabilityBoundingSet"), needed.join(", "));
}

/// What the step sees of itself, and what it tries: to become root, to read the forge's token, to be hard to remove.
fn pipeline(token: &Path) -> String {
    format!(
        "steps:
  - name: look
    commands:
      - grep ^Cap /proc/self/status
      - if setpriv --reuid 0 true; then echo BECAME ROOT; exit 1; fi
      - if cat {}; then echo READ THE TOKEN; exit 1; fi
      - mkdir -p locked sticky && touch locked/x sticky/x && chmod 1777 sticky && chmod 000 locked
  - name: wait
    needs: [look]
    commands: ['setsid sleep 300 & sleep 300']
",
        token.display()
    )
}

fn step(view: &RunView, name: &str) -> StepState {
    view.steps.iter().find(|step| step.name == name).unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_an_unprivileged_daemon_have_no_capability_and_leave_nothing() {
    let ours = User::make("d");
    let first = 1_000_000 + rand::random::<u32>() % 1_000_000_000;
    let theirs = format!("{first},{}", first + 1);
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let work = place.path().join("work");
    let more = format!("[executor.local]\nuids = \"{first}-{}\"\nworkspace = {work:?}\n", first + 1);
    let mut yard = Yard::of(|url, token| Daemon::with(url, token, &more)).await;
    let files = yard.daemon.root().display();
    sh(&format!("chmod 700 {files}; chown -R {0}: {files} {1}", ours.0, place.path().display()));
    yard.daemon.under = as_the_unit(&ours);
    yard.daemon.start().await;
    yard.push("main", &pipeline(&yard.daemon.root().join("token"))).await;

    let store = yard.store().await;
    let second = async || {
        only_run(&store)
            .await
            .filter(|view| step(view, "look").is_terminal() && step(view, "wait") == StepState::Running)
    };
    let Ok(view) = tokio::time::timeout(Duration::from_secs(40), until("the second step", 60, second)).await
    else {
        let view = only_run(&store).await.unwrap();
        let said = yard.daemon.bytes(&format!("/api/v1/attempts/{}/log", view.attempts[0].uid)).await;
        panic!("no second step: {}\n{}", String::from_utf8_lossy(&said), yard.daemon.logged());
    };
    let log = |view: &RunView, name: &str| {
        let id = &view.steps.iter().find(|step| step.name == name).unwrap().id;
        let uid = view.attempts.iter().find(|a| a.step_id == *id).unwrap().uid.clone();
        format!("/api/v1/attempts/{uid}/log")
    };
    assert_eq!(step(&view, "look"), StepState::Succeeded);
    let said = String::from_utf8(yard.daemon.bytes(&log(&view, "look")).await).unwrap();
    let sets: Vec<&str> = said.lines().filter(|line| line.starts_with("Cap")).collect();
    let empty = |set: &str| sets.iter().any(|l| l.starts_with(set) && l.ends_with("\t0000000000000000"));
    assert!(["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].into_iter().all(empty), "{said}");

    // It starts its sleepers a moment after it is placed.
    let of_the_step = || {
        let out = Command::new("pgrep").args(["-u", &theirs, "-x", "sleep"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().count()
    };
    until("two processes of the step", 30, async || (of_the_step() == 2).then_some(())).await;
    // Its agent dies with no word: only the daemon can find what is left.
    let run = view.run.id.clone();
    let agent =
        Command::new("pkill").args(["-9", "-u", &theirs, "-f", "trainyard.* agent"]).status().unwrap();
    assert!(agent.success());
    yard.daemon.post(&format!("/api/v1/runs/{run}/cancel")).await;
    let view = until("the end of the run", 60, async || {
        only_run(&store).await.filter(|view| {
            view.run.state.is_terminal() && view.attempts.iter().all(|a| a.removed_ms.is_some())
        })
    })
    .await;
    assert_eq!(view.run.state, RunState::Cancelled);
    assert!(view.attempts.iter().any(|a| a.class == Some(EndClass::Cancelled)), "{:?}", view.attempts);
    assert_eq!(of_the_step(), 0, "what the step started has ended");
    let left: Vec<_> = std::fs::read_dir(&work).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "bin and notes alone are left: {left:?}");
    yard.daemon.kill().await;
}
