//! The whole life of one attempt: start, source, inputs, commands, logs, metrics, artifacts, finish.
//!
//! The daemon may go away and come back at any point; nothing here ends because of that.

mod keep;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::caches::Caches;
use super::checkpoint::Saver;
use super::client::{Backoff, Client, Fault};
use super::collect::{Collectors, Found, Wanted};
use super::mask::Masker;
use super::outcome::{Outcome, Signs};
use super::process::{self, Limits, Output, Stop};
use super::protocol::{Finished, Heartbeat, HeartbeatAnswer, Prepared, Spec};
use super::script::{self, Places};
use super::source::{Fetch, NoSource};
use super::spool::Spool;
use super::{begin, data, features, inputs, logs, metrics, mlflow, outcome, paths, predictions, proc};
use crate::clock::SystemClock;
use crate::model::{EndClass, LEADER};

/// Files of an attempt's directory that executors read too.
pub const IDENTITY: &str = "agent.json";
pub const RESULT: &str = "result.json";
/// The log, masked, on its way to the daemon.
pub const SPOOL: &str = "spool.log";
pub const BOOTSTRAP: &str = "bootstrap.json";
/// Made by the executor before it sends SIGTERM, to tell a cancellation from a machine that goes down.
pub const CANCEL: &str = "cancel";
/// In the environment of every process of an attempt: its uid.
pub const MARK: &str = "TRAINYARD_ATTEMPT_UID";

/// Who the agent of a directory is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    pub uid: String,
    pub pid: u32,
    pub started: u64,
}

/// What the agent leaves for the executor before it tells the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultFile {
    pub class: EndClass,
    pub exit_code: Option<i64>,
    pub reason: String,
}

/// Heartbeats, by the protocol.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a finished attempt tries to say so.
const TELLING: Duration = Duration::from_hours(24);
/// Kept free so that the result can be written to a full disk.
const RESERVE: usize = 64 * 1024;

type SharedSpool = Arc<Mutex<Spool>>;

fn locked(spool: &SharedSpool) -> std::sync::MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the attempt to its end and says how it ended. Returns None at once when another agent of the same attempt is at work.
///
/// # Errors
/// The bootstrap cannot be used, or the daemon did not accept it: nothing was run then.
pub async fn run(bootstrap_path: &Path) -> anyhow::Result<Option<ResultFile>> {
    let bootstrap = begin::read_bootstrap(bootstrap_path)?;
    if bootstrap.probe {
        // That the agent runs in this container was the question.
        return Ok(Some(result_of(&Outcome::of(EndClass::Succeeded, "the daemon answered"))));
    }
    let dir = PathBuf::from(&bootstrap.dir);
    let lock = std::fs::File::create(dir.join("agent.lock"))
        .with_context(|| format!("cannot lock {}", dir.display()))?;
    if lock.try_lock().is_err() || dir.join(RESULT).exists() {
        tracing::info!("another agent of this attempt is at work, or was; nothing to do");
        return Ok(None);
    }
    let (pid, started) = proc::myself();
    let identity = Identity { uid: bootstrap.uid.clone(), pid, started };
    paths::write_durably(&dir.join(IDENTITY), &serde_json::to_vec(&identity)?)?;
    let _ = std::fs::write(dir.join("reserve"), vec![0; RESERVE]);

    let (stop, stopped) = watch::channel(None);
    let announced = dir.join(CANCEL);
    let mut terminated = signal(SignalKind::terminate())?;
    let on_signal = stop.clone();
    let (started, who) = watch::channel(None::<Client>);
    let in_pod = bootstrap.prepared.is_some();
    tokio::spawn(async move {
        while terminated.recv().await.is_some() {
            let client = who.borrow().clone();
            let ours = announced.exists()
                || match client {
                    // A pod has no place for an announcement: the daemon is asked whether it was it.
                    Some(client) if in_pod => was_cancelled(&client).await,
                    _ => false,
                };
            request(&on_signal, if ours { Stop::Cancelled } else { Stop::Preempted });
        }
    });

    let Some((client, spec)) = begin::start(bootstrap_path, &bootstrap, stopped.clone()).await? else {
        let outcome = Outcome::of(EndClass::Cancelled, "ended before it began");
        write_result(&dir, &outcome);
        return Ok(Some(result_of(&outcome)));
    };
    if bootstrap_path != Path::new(begin::STDIN) {
        let _ = std::fs::remove_file(bootstrap_path);
    }
    started.send_replace(Some(client.clone()));
    let (prepared, leads) = (bootstrap.prepared, bootstrap.rank == LEADER);
    let ca = begin::ca_file(&dir, bootstrap.ca.as_deref())?;
    let attempt = Attempt {
        dir,
        uid: bootstrap.uid,
        client,
        spec,
        stop,
        stopped,
        ca,
        prepared,
        leads,
        ended: OnceLock::new(),
        caches: Caches::default(),
    };
    let result = attempt.run().await;
    drop(lock);
    Ok(Some(result))
}

/// Within a moment, or no: a machine that goes down does not wait.
async fn was_cancelled(client: &Client) -> bool {
    let heartbeat = Heartbeat { rss_bytes: proc::tree_rss() };
    let asked = client.post::<HeartbeatAnswer>("heartbeat", &heartbeat);
    match tokio::time::timeout(Duration::from_secs(2), asked).await {
        Ok(Ok(answer)) => answer.cancel,
        Ok(Err(Fault::Gone)) => true,
        _ => false,
    }
}

fn result_of(outcome: &Outcome) -> ResultFile {
    ResultFile { class: outcome.class, exit_code: outcome.exit_code, reason: outcome.reason.clone() }
}

/// The first reason to stop stays, but a daemon that has ended the attempt outranks all.
pub(super) fn request(stop: &watch::Sender<Option<Stop>>, why: Stop) {
    stop.send_if_modified(|now| {
        let changes = now.is_none() || (why == Stop::Gone && *now != Some(Stop::Gone));
        if changes {
            *now = Some(why);
        }
        changes
    });
}

fn write_result(dir: &Path, outcome: &Outcome) {
    let _ = std::fs::remove_file(dir.join("reserve"));
    let written = serde_json::to_vec(&result_of(outcome))
        .map_err(Into::into)
        .and_then(|b| paths::write_durably(&dir.join(RESULT), &b));
    if let Err(error) = written {
        tracing::error!(%error, "cannot write the result");
    }
}

/// What a step sees in a pod beside what it sees everywhere: what its image and the device plugin set, programs that pip
/// puts into the home directory, and GPUs as the container has them, which are counted from 0.
fn in_a_pod(env: &mut std::collections::BTreeMap<String, String>, places: &Places, spec: &Spec) {
    if let Some(path) = env.get_mut("PATH") {
        *path = format!("{path}:{}", places.home.join(".local/bin").display());
    }
    if !spec.gpus.is_empty() {
        env.remove("CUDA_VISIBLE_DEVICES");
    }
    for (name, value) in std::env::vars() {
        env.entry(name).or_insert(value);
    }
}

struct Attempt {
    dir: PathBuf,
    uid: String,
    client: Client,
    spec: Spec,
    stop: watch::Sender<Option<Stop>>,
    stopped: watch::Receiver<Option<Stop>>,
    ca: Option<PathBuf>,
    /// Set in a pod.
    prepared: Option<Prepared>,
    /// The only pod, or the first of several: the others keep nothing but their logs and metrics.
    leads: bool,
    /// When the commands ended.
    ended: OnceLock<Instant>,
    caches: Caches,
}

impl Attempt {
    async fn run(self) -> ResultFile {
        let secrets: Vec<_> = self.spec.secrets.iter().collect();
        let masker = Masker::new(&secrets);
        let heartbeat = self.heartbeat();
        let spool_path = self.dir.join(SPOOL);
        let opened = Spool::create(&spool_path, self.spec.log_quota_bytes.max(0) as u64, &masker)
            .and_then(|made| Ok((made, std::fs::File::open(&spool_path)?)));
        let ((spool, written), spool_file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let outcome = Outcome::of(EndClass::StorageFull, format!("{error:#}"));
                write_result(&self.dir, &outcome);
                self.finish(&outcome, Found::new(masker, Arc::new(SystemClock)), 0, Instant::now()).await;
                heartbeat.abort();
                return result_of(&outcome);
            }
        };
        let spool: SharedSpool = Arc::new(Mutex::new(spool));
        let shipping = tokio::spawn({
            let (client, stop) = (self.client.clone(), self.stop.clone());
            async move {
                let shipped = logs::ship(&client, spool_file, written).await;
                if shipped.is_err() {
                    request(&stop, Stop::Gone);
                }
                shipped
            }
        });
        for note in masker.notes() {
            locked(&spool).say(note);
        }
        let places = Places::below(&self.dir, self.dir.join("src"));
        let (outcome, mut found, tracking, mut saver) = self.work(&places, &masker, &spool).await;
        let ended = *self.ended.get_or_init(Instant::now);
        let mut outcome = Outcome { reason: masker.mask_str(&outcome.reason), ..outcome };
        write_result(&self.dir, &outcome);

        if self.gone() {
            shipping.abort();
            heartbeat.abort();
            return result_of(&outcome);
        }
        found.notes.extend(masker.notes().iter().cloned());
        if let Some(saver) = &mut saver {
            self.keep_checkpoint(saver, &outcome, &mut found, &spool).await;
        }
        let kept = self.keep(&places, outcome.clone(), &mut found, &spool).await;
        if let (true, EndClass::Succeeded, Some(server)) = (self.leads, kept.class, &tracking) {
            self.keep_logged(server, &mut found).await;
        }
        if kept != outcome {
            outcome = Outcome { reason: masker.mask_str(&kept.reason), ..kept };
            write_result(&self.dir, &outcome);
        }
        if outcome.class == EndClass::Succeeded && self.leads {
            // Another rank may still fail, and then all of them begin from it again.
            let done_with = self.spec.ranks == 1;
            if let Some(saver) =
                saver.as_mut().filter(|s| done_with && (s.has_any() || !self.spec.resume.is_empty()))
                && let Err(error) = saver.let_go().await
            {
                tracing::warn!("the checkpoint stays: {error:#}");
            }
            let mut stopped = self.stopped.clone();
            tokio::select! {
                () = self.caches.save(&self.client, &self.spec, |line| locked(&spool).say(line)) => {}
                _ = stopped.wait_for(Option::is_some) => {}
            }
        }
        let lost = {
            let mut spool = locked(&spool);
            spool.say(&format!("{}: {}", outcome.class, outcome.reason));
            spool.finish();
            spool.lost()
        };
        let shipped = match shipping.await {
            Ok(Ok(shipped)) => shipped,
            _ => logs::Shipped::default(),
        };
        self.finish(&outcome, found, lost + shipped.lost, ended).await;
        heartbeat.abort();
        result_of(&outcome)
    }

    fn gone(&self) -> bool {
        *self.stopped.borrow() == Some(Stop::Gone)
    }

    /// Source, inputs, commands, metrics. What is returned says how the commands ended.
    async fn work(
        &self,
        places: &Places,
        masker: &Masker,
        spool: &SharedSpool,
    ) -> (Outcome, Found, Option<mlflow::Server>, Option<Saver>) {
        let found = || Found::new(masker.clone(), Arc::new(SystemClock));
        let timeout = Duration::from_millis(self.spec.timeout_ms.max(0) as u64);
        let deadline = Instant::now() + timeout;
        match self.prepare(places, deadline, spool).await {
            Ok(()) => {}
            Err(outcome) => return (outcome, found(), None, None),
        }
        let (done, is_done) = watch::channel(false);
        let wanted = Wanted {
            files: self.spec.metric_files.clone(),
            junit: self.spec.junit.clone(),
            patterns: self.spec.metric_patterns.clone(),
        };
        let (mut collectors, mut scanner) = Collectors::new(places, &wanted);
        let (client, mut first) = (self.client.clone(), found());
        let tracking = self.tracking(places, &mut first).await;
        if let Some(server) = &tracking {
            collectors.add(Box::new(server.runs()));
        }
        if let Some(wanted) = &self.spec.predictions {
            collectors.add_last(Box::new(predictions::Reader::new(&places.source, wanted.clone())));
        }
        let metrics = tokio::spawn(async move { metrics::ship(&client, collectors, first, is_done).await });

        let oom_before = proc::oom_kills();
        let limits = Limits {
            deadline,
            grace: Duration::from_millis(self.spec.grace_ms.max(0) as u64),
            stop: self.stopped.clone(),
        };
        let checks = !self.spec.data.is_empty() || !self.spec.transforms.is_empty();
        let (command, report) = match self.command(places, tracking.as_ref()) {
            Ok(command) => command,
            Err(error) => {
                let outcome = Outcome::of(EndClass::Internal, format!("cannot prepare the check: {error}"));
                let _ = done.send(true);
                return (outcome, found(), tracking, None);
            }
        };
        let saving = self.saving(places, spool, done.subscribe());
        let ended = process::supervise(command, limits, |output| match output {
            Output::Bytes(bytes) => {
                locked(spool).push(bytes);
                if let Some(scanner) = &mut scanner {
                    scanner.push(bytes);
                }
            }
            Output::Tick => locked(spool).flush(),
        })
        .await;
        self.ended.get_or_init(Instant::now);
        if let Some(scanner) = &mut scanner {
            scanner.finish();
        }
        let mut struck = Vec::new();
        let outcome = match ended {
            Ok(ended) => {
                struck.clone_from(&ended.struck);
                let mut spool = locked(spool);
                spool.flush();
                let tail = spool.tail();
                let signs = Signs {
                    oom_killed: proc::oom_kills() > oom_before,
                    spool_refused: spool.refused(),
                    tail: &tail,
                };
                let mut outcome = outcome::of(&ended, self.spec.timeout_ms, signs);
                if let (true, EndClass::Failed, Some(why)) = (
                    checks,
                    outcome.class,
                    report.as_deref().map(data::reports).and_then(|r| data::failure(&r)),
                ) {
                    outcome.reason = why;
                }
                if ended.killed > 0 {
                    spool.say(&ended.killed_sentence());
                }
                outcome
            }
            Err(error) => Outcome::of(EndClass::Failed, format!("cannot start /bin/sh: {error}")),
        };
        // Before anything waits for the daemon: the executor can tell from now on.
        write_result(&self.dir, &Outcome { reason: masker.mask_str(&outcome.reason), ..outcome.clone() });
        let _ = done.send(true);
        let found = match metrics.await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => {
                request(&self.stop, Stop::Gone);
                found()
            }
            Err(error) => {
                tracing::error!(%error, "collecting metrics failed");
                let mut found = found();
                found
                    .notes
                    .push("metrics could not be collected: an error of ours, see the agent's log".into());
                found
            }
        };
        let saver = match saving {
            Some(saving) => saving.await.ok().map(|saver| saver.after(struck)),
            None => None,
        };
        (outcome, found, tracking, saver)
    }

    /// Keeps the checkpoint while the commands run.
    fn saving(
        &self,
        places: &Places,
        spool: &SharedSpool,
        ended: watch::Receiver<bool>,
    ) -> Option<JoinHandle<Saver>> {
        let dir = self.spec.checkpoint.as_deref().filter(|_| self.leads)?;
        let manifest = self.dir.join("checkpoint.json");
        let saver = Saver::new(self.client.clone(), &places.source, dir, manifest);
        let every = Duration::from_millis(self.spec.checkpoint_every_ms.max(0) as u64);
        let spool = spool.clone();
        Some(tokio::spawn(async move { saver.keep(every, ended, |line| locked(&spool).say(line)).await }))
    }

    /// The step's MLflow endpoint, unless the step brings one of its own. Without one the step runs all the same.
    async fn tracking(&self, places: &Places, found: &mut Found) -> Option<mlflow::Server> {
        if mlflow::has_own_server(self.spec.env.keys().chain(self.spec.secrets.keys())) {
            found.passed_over(
                "mlflow",
                "the tracking endpoint",
                "the step sets MLFLOW_TRACKING_URI itself".into(),
            );
            return None;
        }
        match mlflow::Server::start(&places.mlflow).await {
            Ok(server) => Some(server),
            Err(error) => {
                found.passed_over(
                    "mlflow",
                    "the tracking endpoint",
                    format!("it could not be opened: {error}"),
                );
                None
            }
        }
    }

    async fn prepare(&self, places: &Places, deadline: Instant, spool: &SharedSpool) -> Result<(), Outcome> {
        let ours = |what: &str, error: &dyn std::fmt::Display| {
            let text = format!("{what}: {error}");
            let full = text.contains("No space left") || text.contains("quota exceeded");
            Outcome::of(if full { EndClass::StorageFull } else { EndClass::Internal }, text)
        };
        places.make().map_err(|e| ours("cannot make the attempt's directories", &e))?;
        let fetch = Fetch {
            client: &self.client,
            sha: &self.spec.sha,
            into: &places.source,
            home: &places.home,
            ca: self.ca.as_deref(),
            deadline,
            stop: self.stopped.clone(),
        };
        let begun = Instant::now();
        let fetched = match &self.prepared {
            Some(_) => Ok(()),
            None => fetch.run().await,
        };
        fetched.map_err(|error| match error {
            NoSource::Stopped(stop) => Outcome::stopped(stop, self.spec.timeout_ms),
            NoSource::Failed(why) if why.contains("No space left") => Outcome::of(EndClass::StorageFull, why),
            NoSource::Failed(why) => {
                let why = self.client.hide_token(&why);
                Outcome::of(EndClass::Source, format!("the source could not be fetched: {why}"))
            }
        })?;
        locked(spool).say(&format!(
            "source {} ({:.1} s)",
            self.spec.sha.short(),
            match &self.prepared {
                Some(prepared) => prepared.source_ms as f64 / 1000.0,
                None => begun.elapsed().as_secs_f64(),
            }
        ));
        let mut stopped = self.stopped.clone();
        for input in self.spec.inputs.iter().chain(&self.spec.resume) {
            let fetched = tokio::select! {
                fetched = inputs::fetch(&self.client, &places.source, input) => fetched,
                _ = stopped.wait_for(Option::is_some) => {
                    let stop = self.stopped.borrow().unwrap_or(Stop::Cancelled);
                    return Err(Outcome::stopped(stop, self.spec.timeout_ms));
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Outcome::stopped(Stop::TimedOut, self.spec.timeout_ms));
                }
            };
            fetched.map_err(|e| {
                let outcome = ours("", &format!("{e:#}"));
                Outcome { reason: format!("{e:#}"), ..outcome }
            })?;
        }
        if !self.spec.inputs.is_empty() {
            locked(spool).say(&match self.spec.inputs.len() {
                1 => "1 artifact of earlier steps is in place".to_owned(),
                n => format!("{n} artifacts of earlier steps are in place"),
            });
        }
        if !self.spec.resume.is_empty() {
            locked(spool).say(&format!(
                "the checkpoint of an earlier attempt is in place ({} files)",
                self.spec.resume.len()
            ));
        }
        tokio::select! {
            () = self.caches.restore(&self.client, places, &self.spec, |line| locked(spool).say(line)) => {}
            _ = stopped.wait_for(Option::is_some) => {
                let stop = self.stopped.borrow().unwrap_or(Stop::Cancelled);
                return Err(Outcome::stopped(stop, self.spec.timeout_ms));
            }
            () = tokio::time::sleep_until(deadline) => {
                return Err(Outcome::stopped(Stop::TimedOut, self.spec.timeout_ms));
            }
        }
        let environment = self.environment(places);
        if let Some(name) = script::too_long(&environment) {
            return Err(Outcome::of(
                EndClass::Failed,
                format!(
                    "{name} is longer than 128 KiB, which Linux does not take as an environment variable: use a file"
                ),
            ));
        }
        std::fs::File::create(&places.script)
            .and_then(|mut f| f.write_all(script::text(&self.spec.setup, &self.spec.commands).as_bytes()))
            .map_err(|e| ours("cannot write the script", &e))
    }

    fn environment(&self, places: &Places) -> std::collections::BTreeMap<String, String> {
        let mut env = script::environment(places, &self.spec.env, &self.spec.secrets, &self.spec.gpus);
        if self.prepared.is_some() {
            in_a_pod(&mut env, places, &self.spec);
        }
        env.insert(MARK.into(), self.uid.clone());
        if let Some(path) = &self.spec.checkpoint {
            env.insert("TRAINYARD_CHECKPOINT".into(), path.clone());
            if !self.spec.resume.is_empty() {
                env.insert("TRAINYARD_RESUME_FROM".into(), path.clone());
            }
        }
        env
    }

    /// The step's commands; for the data step our own check, with the place of its report.
    fn command(
        &self,
        places: &Places,
        tracking: Option<&mlflow::Server>,
    ) -> std::io::Result<(Command, Option<PathBuf>)> {
        let (mut command, report) = if self.spec.data.is_empty() {
            let mut shell = Command::new("/bin/sh");
            shell.arg("-e").arg(&places.script);
            (shell, None)
        } else {
            let (check, report) = data::command(&std::env::current_exe()?, &self.dir, &self.spec.data)?;
            (check, Some(report))
        };
        let (work, report) = if self.spec.transforms.is_empty() {
            (Vec::new(), report)
        } else {
            (
                features::prepare(&self.dir, &self.spec.transforms, &self.spec.feature_bases)?,
                Some(self.dir.join(data::REPORT)),
            )
        };
        command
            .current_dir(&places.source)
            .env_clear()
            .envs(self.environment(places))
            .envs(work)
            .envs(tracking.map(|server| server.environment(&self.spec.env)).unwrap_or_default());
        Ok((command, report))
    }

    fn heartbeat(&self) -> JoinHandle<()> {
        let (client, stop) = (self.client.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut every = tokio::time::interval(HEARTBEAT);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut refused = 0;
            loop {
                every.tick().await;
                match client
                    .post::<HeartbeatAnswer>("heartbeat", &Heartbeat { rss_bytes: proc::tree_rss() })
                    .await
                {
                    Ok(answer) => {
                        refused = 0;
                        if answer.cancel {
                            request(&stop, Stop::Cancelled);
                        }
                    }
                    Err(Fault::Gone) => request(&stop, Stop::Gone),
                    Err(Fault::Unauthorized) => {
                        // Five minutes of refusals are no accident.
                        refused += 1;
                        if refused > 30 {
                            request(&stop, Stop::Gone);
                        }
                    }
                    Err(fault) => tracing::warn!(%fault, "a heartbeat did not arrive"),
                }
            }
        })
    }

    /// Tells the daemon until it answers.
    async fn finish(&self, outcome: &Outcome, found: Found, lost: u64, ended: Instant) {
        let mut finished = Finished {
            class: outcome.class,
            exit_code: outcome.exit_code,
            reason: outcome.reason.clone(),
            outputs: found.outputs,
            notes: found.notes,
            sources: found.sources,
            log_lost_bytes: lost as i64,
            ended_ago_ms: 0,
            data: data::reports(&self.dir.join(data::REPORT)),
        };
        let (begun, mut backoff) = (Instant::now(), Backoff::default());
        while begun.elapsed() < TELLING {
            finished.ended_ago_ms = ended.elapsed().as_millis() as i64;
            match self.client.post_no_answer("finish", &finished).await {
                Ok(()) | Err(Fault::Gone) => return,
                Err(fault @ Fault::Refused(..)) => {
                    return tracing::error!(%fault, "the daemon refused the result");
                }
                Err(fault @ Fault::Unauthorized) if backoff.tries() > 60 => {
                    return tracing::error!(%fault, "the daemon refused the result");
                }
                Err(fault) => tracing::warn!(%fault, "the result did not arrive"),
            }
            backoff.wait().await;
        }
    }
}
