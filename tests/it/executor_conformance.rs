//! What every executor promises (G4, G8): the suite runs on each implementation, with the real agent and a strict daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use trainyard::clock::SystemClock;
use trainyard::config::UidRange;
use trainyard::executor::kubernetes::{self, Kubernetes};
use trainyard::executor::local::{Local, LocalOptions, StepUser, StepUsers, protect_this_process};
use trainyard::executor::{Executor, ExecutorError, Launch, Observation, external_name};
use trainyard::model::{AttemptUid, EndClass, RunId, StepSpec};

use crate::agent::daemon::{BOOTSTRAP, Daemon, processes_with, sh, spec, uid, until};
use crate::kubernetes::cluster::{HEALTH, Namespace, cluster, small_pool};

fn step() -> StepSpec {
    StepSpec { timeout_ms: 60_000, ..StepSpec::named("train") }
}

fn launch(daemon: &Daemon) -> Launch {
    let uid = uid();
    Launch {
        name: external_name("test", &uid, "train", 1),
        uid: AttemptUid::from_text(uid),
        spec: step(),
        number: 1,
        run: RunId::from_text("0190b2c4-0000-7000-8000-000000000002"),
        pipeline: "churn".into(),
        trusted: true,
        pool: "default".into(),
        gpus: Vec::new(),
        agent_url: daemon.url.clone(),
        agent_ca: daemon.ca.clone(),
        bootstrap: SecretString::from(BOOTSTRAP),
        repo_trusted: true,
        probe: false,
        handle: json!({}),
    }
}

async fn observed(
    executor: &dyn Executor,
    launch: &Launch,
    handle: &Value,
    what: &str,
    so: impl Fn(&Observation) -> bool,
) -> Observation {
    let mut last = Observation::Unknown;
    for _ in 0..1_500 {
        last = executor.observe(&launch.uid, handle).await.unwrap();
        if so(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain until {what}: {last:?}");
}

fn gone(observation: &Observation) -> bool {
    matches!(observation, Observation::Gone { .. })
}

/// `remove` may say that it must be asked again while something is still ending.
async fn removed(executor: &dyn Executor, of: &Launch, handle: &Value) {
    let mut last = String::new();
    for _ in 0..20 {
        match executor.remove(&of.name, &of.uid, handle).await {
            Ok(()) => return,
            Err(error @ ExecutorError::Transient(_)) => last = error.to_string(),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("cannot be removed: {last}");
}

/// `fresh` makes a new instance over the same outside world, as after a restart; it is told where the agents' daemon is.
/// `host` is an address of this machine that attempts reach, where that is not loopback.
async fn conformance(host: Option<&str>, fresh: impl Fn(&Daemon) -> Box<dyn Executor>) {
    let daemon = Daemon::start_at(host).await;
    let executor = fresh(&daemon);
    let fresh_one = || fresh(&daemon);
    let nothing = json!({});

    // What was never submitted is unknown, and may be cancelled and removed.
    let never = launch(&daemon);
    assert_eq!(executor.observe(&never.uid, &nothing).await.unwrap(), Observation::Unknown);
    executor.cancel(&never.uid, &nothing, 100).await.unwrap();
    removed(&*executor, &never, &nothing).await;

    // Submitted twice, also at once and by another instance: one process.
    let nap = format!("85{:09}", u64::from(rand::random::<u32>()) % 1_000_000_000);
    let one = launch(&daemon);
    daemon.will_run(spec(&daemon.sha, &[&format!("echo up; sleep {nap}")]));
    let (a, b) = tokio::join!(executor.submit(&one), executor.submit(&one));
    let handle = a.unwrap();
    b.unwrap();
    let again = fresh_one();
    again.submit(&Launch { handle: handle.clone(), ..one.clone() }).await.unwrap();
    again.submit(&one).await.unwrap();
    until("it runs", || processes_with(&format!("sleep {nap}")).len() == 1).await;
    assert_eq!(daemon.seen.lock().unwrap().starts, 1);
    observed(&*executor, &one, &handle, "it is seen to run", |o| *o == Observation::Running).await;

    // A restarted daemon finds it, with its notes or without, and it goes on.
    drop(executor);
    let executor = fresh_one();
    assert_eq!(executor.observe(&one.uid, &handle).await.unwrap(), Observation::Running);
    assert_eq!(executor.observe(&one.uid, &nothing).await.unwrap(), Observation::Running);

    // Cancelled: returns at once, the tree ends, the class says so.
    executor.cancel(&one.uid, &handle, 1_000).await.unwrap();
    executor.cancel(&one.uid, &handle, 1_000).await.unwrap();
    let end = observed(&*executor, &one, &handle, "it is cancelled", gone).await;
    assert!(matches!(end, Observation::Gone { class: EndClass::Cancelled, .. }), "{end:?}");
    assert!(processes_with(&format!("sleep {nap}")).is_empty());
    assert!(matches!(fresh_one().observe(&one.uid, &nothing).await.unwrap(), Observation::Gone { .. }));
    // What has ended is not started again.
    executor.submit(&one).await.unwrap();
    assert_eq!(daemon.seen.lock().unwrap().starts, 1);
    removed(&*executor, &one, &handle).await;
    removed(&*executor, &one, &handle).await;
    assert_eq!(executor.observe(&one.uid, &handle).await.unwrap(), Observation::Unknown);

    // Ends by itself: class and code come from the agent's own result.
    let daemon = Daemon::start_at(host).await;
    let executor = fresh(&daemon);
    daemon.will_run(spec(&daemon.sha, &["exit 7"]));
    let two = launch(&daemon);
    let handle = executor.submit(&two).await.unwrap();
    let end = observed(&*executor, &two, &handle, "it ends", gone).await;
    assert!(matches!(end, Observation::Gone { class: EndClass::Failed, exit_code: Some(7), .. }), "{end:?}");
    removed(&*executor, &two, &handle).await;

    // Removed while it runs: nothing is left, whatever it did to stay.
    let daemon = Daemon::start_at(host).await;
    let executor = fresh(&daemon);
    let nap = format!("84{:09}", u64::from(rand::random::<u32>()) % 1_000_000_000);
    daemon.will_run(spec(
        &daemon.sha,
        &[&format!("mkdir -p closed/in && touch closed/in/x && chmod 000 closed && ln -s / root && (trap '' TERM; setsid sleep {nap}) & sleep {nap}")],
    ));
    let three = launch(&daemon);
    let handle = executor.submit(&three).await.unwrap();
    until("it runs", || processes_with(&format!("sleep {nap}")).len() >= 2).await;
    removed(&*executor, &three, &handle).await;
    assert!(processes_with(&nap).is_empty());
    assert_eq!(executor.observe(&three.uid, &handle).await.unwrap(), Observation::Unknown);
    assert!(Path::new("/etc/passwd").exists());
}

fn binary() -> PathBuf {
    env!("CARGO_BIN_EXE_trainyard").into()
}

fn local(root: &Path, users: StepUsers) -> Local {
    Local::new(LocalOptions { agent_binary: binary(), workspace_root: root.to_owned(), users }).unwrap()
}

/// User ids that no other test has.
fn uids(count: u32) -> UidRange {
    let first = 1_000_000 + rand::random::<u32>() % 1_000_000_000;
    UidRange::parse(&format!("{first}-{}", first + count - 1)).unwrap()
}

/// A directory that other users can reach.
fn open_dir() -> tempfile::TempDir {
    dir_with(0o755)
}

fn dir_with(mode: u32) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    dir
}

/// A system user for one test; it is deleted afterwards.
struct User(String);

impl User {
    fn as_step_user(&self) -> StepUsers {
        StepUsers::One(StepUser::lookup(&self.0).unwrap())
    }
    fn make() -> Self {
        let name = format!("tystep{}", hex::encode(rand::random::<[u8; 4]>()));
        sh(Path::new("/"), &format!("useradd --system --no-create-home --shell /usr/sbin/nologin {name}"));
        Self(name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.0).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_as_the_same_user() {
    let root = open_dir();
    conformance(None, |_| Box::new(local(root.path(), StepUsers::Own))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubernetes_on_a_real_cluster() {
    let _healthy = HEALTH.read().await;
    let namespace = tokio::task::spawn_blocking(Namespace::make).await.unwrap();
    let client = kubernetes::client(&namespace.config()).await.unwrap();
    let began = std::time::Instant::now();
    conformance(Some(&cluster().host), |daemon| {
        Box::new(Kubernetes::new(
            client.clone(),
            namespace.settings(&daemon.url),
            BTreeMap::from([("default".to_owned(), small_pool())]),
            Arc::new(SystemClock),
        ))
    })
    .await;
    // A crash between the two creates: the Secret is there, its Job and our notes are not.
    let orphan = namespace.secret("ty-aaaaaaaaaaaaaaaaaaaa");
    let pools = BTreeMap::from([("default".to_owned(), small_pool())]);
    let executor =
        Kubernetes::new(client, namespace.settings("http://127.0.0.1:9"), pools, Arc::new(SystemClock));
    executor.remove(&orphan, &AttemptUid::from_text("none"), &json!({})).await.unwrap();
    // The garbage collector takes a finished pod a moment after its Job.
    until("nothing is left", || namespace.left().is_empty()).await;
    println!("FIGURE executor_conformance kubernetes_s={:.1}", began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_as_another_user() {
    let (root, user) = (open_dir(), User::make());
    conformance(None, |_| Box::new(local(root.path(), user.as_step_user()))).await;
    nothing_is_left(root.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_with_a_user_id_for_each() {
    let (root, uids) = (open_dir(), uids(4));
    conformance(None, |_| Box::new(local(root.path(), StepUsers::Each(uids)))).await;
    nothing_is_left(root.path());
}

fn nothing_is_left(root: &Path) {
    let names =
        |dir: &Path| -> Vec<_> { std::fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name()).collect() };
    assert_eq!(names(root).len(), 2, "bin and notes alone are left: {:?}", names(root));
    assert!(names(&root.join("notes")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_user_only_trusted_repositories_run() {
    let (root, daemon) = (open_dir(), Daemon::start().await);
    let refused =
        local(root.path(), StepUsers::Own).submit(&Launch { repo_trusted: false, ..launch(&daemon) }).await;
    let Err(ExecutorError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("executor.local.user") && why.contains("trusted = true"), "{why}");
    let refused =
        local(root.path(), StepUsers::Own).submit(&Launch { trusted: false, ..launch(&daemon) }).await;
    let Err(ExecutorError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("executor.local.user") && why.contains("somebody else's code"), "{why}");
    assert!(StepUser::lookup("root").is_err() && StepUser::lookup("no-such-user-here").is_err());
    let closed = dir_with(0o700);
    let user = User::make();
    let options = LocalOptions {
        agent_binary: binary(),
        workspace_root: closed.path().join("work"),
        users: user.as_step_user(),
    };
    let error = Local::new(options).unwrap_err().to_string();
    assert!(error.contains("cannot reach the workspace"), "{error}");
}

/// A step that runs as another user cannot read what the daemon owns, nor its neighbours, nor its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_cannot_read_what_is_not_its_own() {
    protect_this_process().unwrap();
    let (root, user) = (open_dir(), User::make());
    let data = dir_with(0o700);
    std::fs::write(data.path().join("trainyard.db"), "the daemon's rows").unwrap();
    let executor = Arc::new(local(root.path(), user.as_step_user()));
    let me = std::process::id();
    let secret = data.path().display().to_string();
    let probes = [
        ("the database", format!("cat {secret}/trainyard.db")),
        ("the data directory", format!("ls {secret}")),
        ("the executor's notes", format!("ls {}/notes", root.path().display())),
        ("the daemon's environment", format!("cat /proc/{me}/environ")),
        ("the daemon's memory", format!("head -c 1 /proc/{me}/mem")),
        ("the daemon's files", format!("ls /proc/{me}/fd")),
        ("the agent's environment", "cat /proc/$PPID/environ".into()),
        ("the agent's memory", "head -c 1 /proc/$PPID/mem".into()),
        ("shadow", "cat /etc/shadow".into()),
        ("the agent's binary, to write", format!("sh -c 'echo x >> {}/bin/*'", root.path().display())),
        ("a new workspace", format!("mkdir {}/ty-mine", root.path().display())),
        ("a signal to the daemon", format!("kill -CONT {me}")),
    ];
    let script: Vec<String> = probes
        .iter()
        .map(|(what, probe)| {
            format!("if {probe} >/dev/null 2>&1; then echo \"OPEN: {what}\"; else echo \"shut: {what}\"; fi")
        })
        .chain(["id -un; id -G; test \"$(id -u)\" != 0; test \"$(id -G | wc -w)\" = 1; touch mine".into()])
        .collect();
    let daemon = Daemon::start().await;
    daemon.will_run(spec(&daemon.sha, &script.iter().map(String::as_str).collect::<Vec<_>>()));
    let one = launch(&daemon);
    let handle = executor.submit(&Launch { repo_trusted: false, ..one.clone() }).await.unwrap();
    observed(&*executor, &one, &handle, "it ends", gone).await;
    let (log, finished) = {
        let seen = daemon.seen.lock().unwrap();
        (String::from_utf8_lossy(&seen.log).into_owned(), seen.finished.clone().unwrap())
    };
    let answers = |word: &str| log.lines().filter(|l| l.starts_with(word)).count();
    println!(
        "FIGURE isolation probes={} open={} shut={}",
        probes.len(),
        answers("OPEN: "),
        answers("shut: ")
    );
    assert_eq!((answers("OPEN: "), answers("shut: ")), (0, probes.len()), "{log}");
    assert_eq!(finished.class, EndClass::Succeeded, "{finished:?} {log}");
    assert!(log.contains(&format!("\n{}\n", user.0)));
    executor.remove(&one.name, &one.uid, &handle).await.unwrap();
}

/// Code that clears its environment, leaves its directory and kills its agent is ended with its attempt all the same; what
/// runs below another living agent goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_step_hides_ends_with_its_attempt() {
    let (root, user) = (open_dir(), User::make());
    let executor = local(root.path(), user.as_step_user());
    let running = |what: &str| {
        Command::new("pgrep").args(["-u", &user.0, "-f", what]).output().unwrap().status.success()
    };
    let submit = async |commands: &str| {
        let daemon = Daemon::start().await;
        daemon.will_run(spec(&daemon.sha, &[commands]));
        let one = launch(&daemon);
        let handle = executor.submit(&one).await.unwrap();
        (daemon, one, handle)
    };
    let (_honest_daemon, honest, honest_handle) = submit("exec sleep 612").await;
    until("the honest step runs", || running("^sleep 612")).await;
    let (_daemon, one, handle) =
        submit("setsid env -i sh -c 'cd /; exec sleep 611' & sleep 0.3; kill -9 $PPID; sleep 0.2").await;
    observed(&executor, &one, &handle, "its agent is dead", gone).await;
    assert!(running("^sleep 611"), "it hid");
    executor.remove(&one.name, &one.uid, &handle).await.unwrap();
    assert_eq!((running("^sleep 611"), running("^sleep 612")), (false, true));
    executor.cancel(&honest.uid, &honest_handle, 0).await.unwrap();
    observed(&executor, &honest, &honest_handle, "it ends", gone).await;
    executor.remove(&honest.name, &honest.uid, &honest_handle).await.unwrap();
    // What was killed is a zombie until it is waited for.
    until("nothing of the user is left", || !running(".")).await;
}

/// A step may write what it likes into its own directory; the executor believes none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_notes_harm_nobody() {
    let (root, user) = (open_dir(), User::make());
    let executor = local(root.path(), user.as_step_user());
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let started = trainyard::agent::proc::stat(bystander.id() as i32).unwrap().started;
    let daemon = Daemon::start().await;
    let one = launch(&daemon);
    let identity = json!({"uid": one.uid.as_str(), "pid": bystander.id(), "started": started});
    daemon.will_run(spec(
        &daemon.sha,
        &[&format!(
            "rm -f ../agent.json ../result.json; printf '%s' '{identity}' > ../agent.json; ln -s /etc/passwd ../cancel; mkfifo ../result.json; kill -9 $PPID; sleep 0.2"
        )],
    ));
    let handle = executor.submit(&one).await.unwrap();
    let end = observed(&executor, &one, &handle, "its agent is dead", gone).await;
    assert!(matches!(end, Observation::Gone { class: EndClass::NodeLost, .. }), "{end:?}");
    executor.cancel(&one.uid, &handle, 0).await.unwrap();
    executor.remove(&one.name, &one.uid, &json!({})).await.unwrap();
    assert!(bystander.try_wait().unwrap().is_none(), "a process that is none of ours was ended");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

/// Takes what it can of others that start while it runs: what the agents begin with, from every attempt's directory and from every
/// process, and the environment of other steps.
const THIEF: &str = r#"python3 - "$WORK" <<'END'
import glob, os, stat, sys, time
work, until, got = sys.argv[1], time.time() + 8, set()
def read(what, path):
    try:
        # From a pipe it would take what is another's, and break it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return
        text = open(path, 'rb').read(100000)
    except OSError:
        return
    if b'SECRET-OF-' b'THE-VICTIM' in text or b'bootstrap-' b'3f9c1a77' in text:
        got.add(what)
while time.time() < until:
    for path in glob.glob(work + '/*/*.json'):
        read('a file of an attempt', path)
    for pid in filter(str.isdigit, os.listdir('/proc')):
        for what in ['fd/0', 'environ']:
            read(what, '/proc/%s/%s' % (pid, what))
    time.sleep(0.002)
print('GOT:', sorted(got))
END"#;

/// Under one user for all the environment of others is there to be read, as `doctor` and the documents say; what their agents begin
/// with is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_one_user_can_read_each_others_secrets_and_not_speak_first() {
    let (root, user) = (open_dir(), User::make());
    let executor = local(root.path(), user.as_step_user());
    let (thiefs_daemon, victims_daemon) = (Daemon::start().await, Daemon::start().await);
    let with = |daemon: &Daemon, command: &str, secret: &str| {
        let mut spec = spec(&daemon.sha, &[command]);
        spec.env.insert("WORK".into(), root.path().display().to_string());
        spec.secrets.insert("DEPLOY".into(), secret.into());
        daemon.will_run(spec);
        launch(daemon)
    };
    let log = || String::from_utf8_lossy(&thiefs_daemon.seen.lock().unwrap().log).into_owned();
    let thief = with(&thiefs_daemon, THIEF, "none");
    let thiefs_handle = executor.submit(&thief).await.unwrap();
    until("the thief runs", || log().contains("+ python3")).await;
    let victim = with(&victims_daemon, "exec sleep 619", "SECRET-OF-THE-VICTIM");
    let victims_handle = executor.submit(&victim).await.unwrap();
    observed(&executor, &thief, &thiefs_handle, "the thief ends", gone).await;
    assert!(log().contains("GOT: ['environ']"), "{}", log());
    removed(&executor, &thief, &thiefs_handle).await;
    assert_eq!(executor.observe(&victim.uid, &victims_handle).await.unwrap(), Observation::Running);
    removed(&executor, &victim, &victims_handle).await;
    nothing_is_left(root.path());
}

/// Two attempts at once, as of two repositories that do not trust each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_with_user_ids_of_their_own_cannot_reach_each_other() {
    let (root, uids) = (open_dir(), uids(2));
    let fresh = || local(root.path(), StepUsers::Each(uids));
    let executor = fresh();
    let submit = async |commands: &[&str], secret: &str| {
        let daemon = Daemon::start().await;
        let mut spec = spec(&daemon.sha, commands);
        spec.env.insert("WORK".into(), root.path().display().to_string());
        spec.secrets.insert("DEPLOY".into(), secret.into());
        daemon.will_run(spec);
        let one = Launch { repo_trusted: false, ..launch(&daemon) };
        let handle = executor.submit(&one).await.unwrap();
        (daemon, one, handle)
    };
    let said = |daemon: &Daemon| String::from_utf8_lossy(&daemon.seen.lock().unwrap().log).into_owned();
    let hide = "setsid env -i sh -c 'cd /; exec sleep 617' & touch /tmp/ty-$(id -u) /dev/shm/ty-$(id -u)";
    let (thiefs_daemon, thief, thiefs_handle) = submit(&[hide, THIEF], "none").await;
    until("the thief runs", || said(&thiefs_daemon).contains("+ python3")).await;
    let mine = [
        "id -u; id -g; id -G; stat -c %a ..; echo $HOME $USER $LOGNAME; touch /dev/shm/ty-$(id -u)",
        "python3 -c 'import getpass, os; print(\"python\", getpass.getuser(), os.path.expanduser(\"~\") == os.environ[\"HOME\"])'",
        "git config --global user.email a@b.c; git init -q r; cd r; git -c user.name=a commit -q --allow-empty -m x; git clone -q . ../s; git log --oneline | wc -l",
        "exec sleep 618",
    ];
    let (victims_daemon, victim, victims_handle) = submit(&mine, "SECRET-OF-THE-VICTIM").await;
    let pids = |what: &str| processes_with(what);
    until("the victim is at its end", || said(&victims_daemon).contains("+ exec sleep")).await;
    until("it sleeps", || !pids("sleep 618").is_empty()).await;
    let [a, b] =
        ["sleep 617", "sleep 618"].map(|what| trainyard::agent::proc::user_of(pids(what)[0]).unwrap());
    assert!(a != b && uids.contains(a) && uids.contains(b), "{a} {b} {uids}");
    let log = said(&victims_daemon);
    let dir = root.path().join(&victim.name);
    let home = format!("{}/home trainyard-{b} trainyard-{b}", dir.display());
    for line in [format!("{b}\n{b}\n{b}\n700\n{home}"), format!("python trainyard-{b} True"), "\n1\n".into()]
    {
        assert!(log.contains(&line), "{line}: {log}");
    }

    // All are held, also for a daemon that has just begun.
    let third = launch(&thiefs_daemon);
    let refused = fresh().submit(&third).await;
    let Err(ExecutorError::Transient(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("hold all 2"), "{why}");

    observed(&executor, &thief, &thiefs_handle, "the thief ends", gone).await;
    let log = said(&thiefs_daemon);
    assert!(log.contains("GOT: []"), "{log}");
    // What it hid, processes and files, goes with it; the other's stay.
    let files = |uid: u32| [format!("/tmp/ty-{uid}"), format!("/dev/shm/ty-{uid}")];
    assert!(files(a).iter().all(|file| Path::new(file).exists()));
    executor.remove(&thief.name, &thief.uid, &thiefs_handle).await.unwrap();
    assert!(pids("sleep 617").is_empty() && !pids("sleep 618").is_empty());
    assert!(!files(a).iter().any(|file| Path::new(file).exists()) && Path::new(&files(b)[1]).exists());
    assert_eq!(executor.observe(&victim.uid, &victims_handle).await.unwrap(), Observation::Running);

    // The one that is free is given again, and none other.
    let (next_daemon, next, next_handle) = submit(&["id -u"], "none").await;
    observed(&executor, &next, &next_handle, "it ends", gone).await;
    assert!(said(&next_daemon).contains(&format!("\n{a}\n")), "{}", said(&next_daemon));
    removed(&executor, &next, &next_handle).await;
    removed(&executor, &victim, &victims_handle).await;
    assert!(pids("sleep 618").is_empty());
    nothing_is_left(root.path());
}

/// A user id that is anybody's is never a step's.
#[test]
fn user_ids_of_others_are_refused() {
    let configured = |range: UidRange| {
        let config = trainyard::config::LocalConfig { uids: Some(range), ..Default::default() };
        StepUsers::configured(&config)
    };
    assert!(configured(uids(64)).is_ok());
    let user = User::make();
    let free = uids(3);
    let id = free.first() + 1;
    sh(Path::new("/"), &format!("usermod -u {id} {}", user.0));
    let error = configured(free).unwrap_err().to_string();
    assert!(error.contains(&format!("{id} is the user {}", user.0)), "{error}");
}
