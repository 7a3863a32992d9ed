//! The whole life of one attempt: start, source, inputs, commands, logs, metrics, artifacts, finish.
//!
//! The daemon may go away and come back at any point; nothing here ends because of that.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::{Backoff, Client, Fault};
use super::collect::{Collectors, Found};
use super::mask::Masker;
use super::outcome::{Outcome, Signs};
use super::process::{self, Limits, Output, Stop};
use super::protocol::{Bootstrap, Finished, Heartbeat, HeartbeatAnswer, PROTOCOL, Spec, Start, Started};
use super::script::{self, Places};
use super::source::{Fetch, NoSource};
use super::spool::Spool;
use super::{artifacts, inputs, logs, metrics, outcome, paths, proc};
use crate::clock::SystemClock;
use crate::model::EndClass;

/// Files of an attempt's directory that executors read too.
pub const IDENTITY: &str = "agent.json";
pub const RESULT: &str = "result.json";
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

/// Reads the file that an executor left.
///
/// # Errors
/// Unreadable, not a bootstrap, or of another protocol.
pub fn read_bootstrap(path: &Path) -> anyhow::Result<Bootstrap> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot read the bootstrap file {}", path.display()))?;
    let bootstrap: Bootstrap = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a bootstrap file", path.display()))?;
    if bootstrap.protocol != PROTOCOL {
        bail!("the daemon speaks protocol {}, this agent speaks {PROTOCOL}", bootstrap.protocol);
    }
    Ok(bootstrap)
}

/// Runs the attempt to its end. Returns at once when another agent of the same attempt is at work.
///
/// # Errors
/// The bootstrap cannot be used, or the daemon did not accept it: nothing was run then.
pub async fn run(bootstrap_path: &Path) -> anyhow::Result<()> {
    let bootstrap = read_bootstrap(bootstrap_path)?;
    let dir = PathBuf::from(&bootstrap.dir);
    let lock = std::fs::File::create(dir.join("agent.lock"))
        .with_context(|| format!("cannot lock {}", dir.display()))?;
    if lock.try_lock().is_err() || dir.join(RESULT).exists() {
        tracing::info!("another agent of this attempt is at work, or was; nothing to do");
        return Ok(());
    }
    let (pid, started) = proc::myself();
    let identity = Identity { uid: bootstrap.uid.clone(), pid, started };
    paths::write_durably(&dir.join(IDENTITY), &serde_json::to_vec(&identity)?)?;
    let _ = std::fs::write(dir.join("reserve"), vec![0; RESERVE]);

    let (stop, stopped) = watch::channel(None);
    let announced = dir.join(CANCEL);
    let mut terminated = signal(SignalKind::terminate())?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        while terminated.recv().await.is_some() {
            request(&on_signal, if announced.exists() { Stop::Cancelled } else { Stop::Preempted });
        }
    });

    let Some((client, spec)) = start(bootstrap_path, &bootstrap, stopped.clone()).await? else {
        write_result(&dir, &Outcome::of(EndClass::Cancelled, "ended before it began"));
        return Ok(());
    };
    let _ = std::fs::remove_file(bootstrap_path);
    let attempt = Attempt { dir, uid: bootstrap.uid, client, spec, stop, stopped };
    attempt.run().await;
    drop(lock);
    Ok(())
}

/// Asks for the spec until the daemon answers. None: told to stop, or the attempt has ended.
async fn start(
    path: &Path,
    bootstrap: &Bootstrap,
    mut stopped: watch::Receiver<Option<Stop>>,
) -> anyhow::Result<Option<(Client, Spec)>> {
    let (pid, pid_started) = proc::myself();
    let nonce = hex::encode(rand::random::<[u8; 16]>());
    let start = Start { nonce, version: env!("CARGO_PKG_VERSION").into(), pid, pid_started };
    let mut client = Client::new(&bootstrap.url, &bootstrap.uid, bootstrap.token.clone())?;
    let mut backoff = Backoff::default();
    let mut refused = 0;
    loop {
        let answer = tokio::select! {
            answer = client.post::<Started>("start", &start) => answer,
            _ = stopped.wait_for(Option::is_some) => return Ok(None),
        };
        match answer {
            Ok(started) => return Ok(Some((client.with_token(started.token), started.spec))),
            Err(Fault::Gone) => return Ok(None),
            Err(Fault::Unauthorized) if refused < 20 => {
                // An executor that submits again leaves a fresh token.
                refused += 1;
                if let Ok(again) = read_bootstrap(path) {
                    client = client.with_token(again.token);
                }
            }
            Err(fault @ (Fault::Unauthorized | Fault::Refused(..) | Fault::Conflict(_))) => {
                return Err(anyhow::Error::new(fault).context("cannot start the attempt"));
            }
            Err(fault) => tracing::warn!(%fault, "cannot start yet"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            _ = stopped.wait_for(Option::is_some) => return Ok(None),
        }
    }
}

/// The first reason to stop stays, but a daemon that has ended the attempt outranks all.
fn request(stop: &watch::Sender<Option<Stop>>, why: Stop) {
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
    let result =
        ResultFile { class: outcome.class, exit_code: outcome.exit_code, reason: outcome.reason.clone() };
    let written = serde_json::to_vec(&result)
        .map_err(Into::into)
        .and_then(|b| paths::write_durably(&dir.join(RESULT), &b));
    if let Err(error) = written {
        tracing::error!(%error, "cannot write the result");
    }
}

struct Attempt {
    dir: PathBuf,
    uid: String,
    client: Client,
    spec: Spec,
    stop: watch::Sender<Option<Stop>>,
    stopped: watch::Receiver<Option<Stop>>,
}

impl Attempt {
    async fn run(self) {
        let secrets: Vec<_> = self.spec.secrets.iter().collect();
        let masker = Masker::new(&secrets);
        let heartbeat = self.heartbeat();
        let spool_path = self.dir.join("spool.log");
        let opened = Spool::create(&spool_path, self.spec.log_quota_bytes.max(0) as u64, &masker)
            .and_then(|made| Ok((made, std::fs::File::open(&spool_path)?)));
        let ((spool, written), spool_file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let outcome = Outcome::of(EndClass::StorageFull, format!("{error:#}"));
                write_result(&self.dir, &outcome);
                self.finish(&outcome, Found::new(masker, Arc::new(SystemClock)), 0).await;
                return heartbeat.abort();
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
        let (outcome, mut found) = self.work(&places, &masker, &spool).await;
        let mut outcome = Outcome { reason: masker.mask_str(&outcome.reason), ..outcome };
        write_result(&self.dir, &outcome);

        if self.gone() {
            shipping.abort();
            heartbeat.abort();
            return;
        }
        found.notes.extend(masker.notes().iter().cloned());
        let kept = self.keep(&places, outcome.clone(), &mut found, &spool).await;
        if kept != outcome {
            outcome = Outcome { reason: masker.mask_str(&kept.reason), ..kept };
            write_result(&self.dir, &outcome);
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
        self.finish(&outcome, found, lost + shipped.lost).await;
        heartbeat.abort();
    }

    fn gone(&self) -> bool {
        *self.stopped.borrow() == Some(Stop::Gone)
    }

    /// Source, inputs, commands, metrics. What is returned says how the commands ended.
    async fn work(&self, places: &Places, masker: &Masker, spool: &SharedSpool) -> (Outcome, Found) {
        let found = || Found::new(masker.clone(), Arc::new(SystemClock));
        let timeout = Duration::from_millis(self.spec.timeout_ms.max(0) as u64);
        let deadline = Instant::now() + timeout;
        match self.prepare(places, deadline, spool).await {
            Ok(()) => {}
            Err(outcome) => return (outcome, found()),
        }
        let (done, is_done) = watch::channel(false);
        let collectors = Collectors::new(places, &self.spec.metric_files);
        let (client, first) = (self.client.clone(), found());
        let metrics = tokio::spawn(async move { metrics::ship(&client, collectors, first, is_done).await });

        let oom_before = proc::oom_kills();
        let limits = Limits {
            deadline,
            grace: Duration::from_millis(self.spec.grace_ms.max(0) as u64),
            stop: self.stopped.clone(),
        };
        let ended = process::supervise(self.command(places), limits, |output| match output {
            Output::Bytes(bytes) => locked(spool).push(bytes),
            Output::Tick => locked(spool).flush(),
        })
        .await;
        let outcome = match ended {
            Ok(ended) => {
                let mut spool = locked(spool);
                spool.flush();
                let tail = spool.tail();
                let signs = Signs {
                    oom_killed: proc::oom_kills() > oom_before,
                    spool_refused: spool.refused(),
                    tail: &tail,
                };
                let outcome = outcome::of(&ended, self.spec.timeout_ms, signs);
                if ended.killed > 0 {
                    spool.say(&format!("{} processes that were left were killed", ended.killed));
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
        (outcome, found)
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
            deadline,
            stop: self.stopped.clone(),
        };
        let begun = Instant::now();
        fetch.run().await.map_err(|error| match error {
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
            begun.elapsed().as_secs_f64()
        ));
        let mut stopped = self.stopped.clone();
        for input in &self.spec.inputs {
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
        env.insert(MARK.into(), self.uid.clone());
        if let Some(path) = &self.spec.checkpoint {
            env.insert("TRAINYARD_CHECKPOINT".into(), path.clone());
        }
        env
    }

    fn command(&self, places: &Places) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-e")
            .arg(&places.script)
            .current_dir(&places.source)
            .env_clear()
            .envs(self.environment(places));
        command
    }

    /// Uploads artifacts: all of them after a success, the checkpoint when there is one to resume from.
    async fn keep(
        &self,
        places: &Places,
        outcome: Outcome,
        found: &mut Found,
        spool: &SharedSpool,
    ) -> Outcome {
        let patterns = match (outcome.class, &self.spec.checkpoint) {
            (EndClass::Succeeded, _) => self.spec.artifacts.clone(),
            (EndClass::Checkpointed | EndClass::Preempted, Some(path)) => vec![path.clone()],
            _ => return outcome,
        };
        let _ = std::fs::remove_dir_all(&places.tmp);
        let files = match artifacts::find(&places.source, &patterns) {
            Ok((files, notes)) => {
                found.notes.extend(notes);
                files
            }
            Err(_) if outcome.class != EndClass::Succeeded => return outcome,
            Err(why) => return Outcome { class: EndClass::Artifacts, reason: why, ..outcome },
        };
        let mut stopped = self.stopped.clone();
        for file in &files {
            let uploaded = tokio::select! {
                uploaded = artifacts::upload(&self.client, &places.source, file) => uploaded,
                _ = stopped.wait_for(Option::is_some), if outcome.class == EndClass::Succeeded => {
                    return Outcome::stopped(self.stopped.borrow().unwrap_or(Stop::Cancelled), self.spec.timeout_ms);
                }
            };
            if let Err(error) = uploaded {
                return Outcome { class: EndClass::Artifacts, reason: format!("{error:#}"), ..outcome };
            }
        }
        if !files.is_empty() {
            locked(spool).say(&format!(
                "{} artifact{} stored",
                files.len(),
                if files.len() == 1 { "" } else { "s" }
            ));
        }
        outcome
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
    async fn finish(&self, outcome: &Outcome, found: Found, lost: u64) {
        let finished = Finished {
            class: outcome.class,
            exit_code: outcome.exit_code,
            reason: outcome.reason.clone(),
            outputs: found.outputs,
            notes: found.notes,
            log_lost_bytes: lost as i64,
        };
        let (begun, mut backoff) = (Instant::now(), Backoff::default());
        while begun.elapsed() < TELLING {
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
