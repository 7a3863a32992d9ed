//! Attempts as process trees on this machine.
//!
//! The agent is started detached and found again by pid and start time, so trainings outlive the daemon. What lies in an
//! attempt's directory belongs to the step's user and is not believed: notes that decide whom to signal are the daemon's own.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use nix::sys::signal::Signal;
use rustix::thread::CapabilitySet;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Executor, ExecutorError, Launch, Observation};
use crate::agent::attempt::{BOOTSTRAP, CANCEL, IDENTITY, Identity, MARK, RESULT, ResultFile};
use crate::agent::protocol::{Bootstrap, PROTOCOL};
use crate::agent::{paths, proc};
use crate::model::{AttemptUid, EndClass, LEADER};

/// The Unix user that attempts run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepUser {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
}

impl StepUser {
    /// # Errors
    /// No such user, or root: steps must not own the machine.
    pub fn lookup(name: &str) -> anyhow::Result<Self> {
        let user = nix::unistd::User::from_name(name)
            .with_context(|| format!("cannot look up the user {name}"))?
            .with_context(|| {
                format!("executor.local.user = {name:?}: there is no such user; make it with `useradd --system {name}`")
            })?;
        if user.uid.is_root() {
            bail!("executor.local.user = {name:?} is root; name a user that owns nothing");
        }
        Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: name.to_owned() })
    }
}

#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The trainyard binary; it is copied to where the step's user can read it.
    pub agent_binary: PathBuf,
    /// Directory of the workspaces. Made if missing; the step's user must be able to reach it.
    pub workspace_root: PathBuf,
    pub user: Option<StepUser>,
}

/// Thread safe; holds no state but paths, so that a new instance knows as much as an old one.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    agent: PathBuf,
    user: Option<StepUser>,
    submitting: tokio::sync::Mutex<()>,
}

/// The daemon's own note of an attempt, in a directory that only it can write. Also the handle that callers store.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    name: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    started: u64,
    /// Of a run that nobody vouched for.
    #[serde(default)]
    untrusted: bool,
}

/// After SIGTERM and the grace, the agent gets so long to send logs and the result before it is killed too.
const FAREWELL: Duration = Duration::from_secs(30);

/// Makes this process's memory unreadable for others of its user, and keeps its secrets out of core dumps.
///
/// # Errors
/// The kernel refuses.
pub fn protect_this_process() -> anyhow::Result<()> {
    nix::sys::prctl::set_dumpable(false).context("cannot make the daemon undumpable")
}

impl Local {
    /// # Errors
    /// The workspace cannot be made or lies where the step's user cannot reach it; the binary cannot be copied; another
    /// user is asked for without the right to become it.
    pub fn new(options: LocalOptions) -> anyhow::Result<Self> {
        let root = std::path::absolute(&options.workspace_root)?;
        let make = |dir: &Path, mode: u32| -> anyhow::Result<()> {
            std::fs::DirBuilder::new().recursive(true).create(dir)?;
            Ok(std::fs::set_permissions(dir, PermissionsExt::from_mode(mode))?)
        };
        for (dir, mode) in [(root.clone(), 0o755), (root.join("bin"), 0o755), (root.join("notes"), 0o700)] {
            make(&dir, mode)
                .with_context(|| format!("cannot make the workspace directory {}", dir.display()))?;
        }
        if let Some(user) = &options.user {
            let me = nix::unistd::geteuid();
            if !me.is_root() && me.as_raw() != user.uid && !may_change_user() {
                bail!(
                    "executor.local.user = {:?} needs a daemon with the capabilities {} (or root)",
                    user.name,
                    capability_names()
                );
            }
            reachable(&root, user)?;
        }
        let agent = install(&options.agent_binary, &root.join("bin"))
            .with_context(|| format!("cannot copy {} for the steps", options.agent_binary.display()))?;
        Ok(Self { root, agent, user: options.user, submitting: tokio::sync::Mutex::new(()) })
    }

    fn note_path(&self, uid: &AttemptUid) -> PathBuf {
        // A uid is ours, but a file's name must not depend on that.
        self.root.join("notes").join(hex::encode(uid.as_str()))
    }

    fn note(&self, uid: &AttemptUid, handle: &serde_json::Value) -> Option<Note> {
        let stored =
            std::fs::read(self.note_path(uid)).ok().and_then(|b| serde_json::from_slice::<Note>(&b).ok());
        stored.or_else(|| serde_json::from_value(handle.clone()).ok()).filter(|n| plain_name(&n.name))
    }

    fn dir(&self, note: &Note) -> PathBuf {
        self.root.join(&note.name)
    }

    /// The running agent, by our own note, or by its word where the daemon died before it could write one; then only if
    /// that process is the step's user's and was started for this directory.
    fn agent(&self, uid: &AttemptUid, note: &Note) -> Option<proc::Stat> {
        let running = |pid: u32, started: u64| {
            proc::stat(pid as i32).filter(|s| pid > 1 && s.started == started && !s.dead())
        };
        if note.pid != 0
            && let Some(found) = running(note.pid, note.started)
        {
            return Some(found);
        }
        let dir = self.dir(note);
        let identity: Identity = paths::read_plain(&dir.join(IDENTITY), 4096)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())?;
        let found = running(identity.pid, identity.started)?;
        let expected = self.user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |u| u.uid);
        let command = std::fs::read(format!("/proc/{}/cmdline", found.pid)).ok()?;
        let asked = dir.join(BOOTSTRAP);
        let ours = identity.uid == uid.as_str()
            && proc::user_of(found.pid) == Some(expected)
            && command.split(|b| *b == 0).any(|arg| arg == asked.as_os_str().as_encoded_bytes());
        ours.then_some(found)
    }

    /// Processes of an attempt whose agent is gone: they carry its mark, or work in its directory.
    fn leftovers(uid: &AttemptUid, dir: &Path) -> Vec<proc::Stat> {
        let mark = format!("{MARK}={}", uid.as_str()).into_bytes();
        let me = std::process::id() as i32;
        proc::all()
            .into_iter()
            .filter(|s| s.pid > 1 && s.pid != me && !s.dead())
            .filter(|s| {
                let marked = std::fs::read(format!("/proc/{}/environ", s.pid))
                    .is_ok_and(|env| env.split(|b| *b == 0).any(|v| v == mark));
                marked
                    || std::fs::read_link(format!("/proc/{}/cwd", s.pid))
                        .is_ok_and(|cwd| cwd.starts_with(dir))
            })
            .collect()
    }

    /// Ends every process of the steps' user that is not below a living agent: code that nobody vouched for may have cleared its
    /// environment, left its directory and killed its agent, to wait for the processes of others. That user is trainyard's alone.
    async fn end_strays(&self) {
        let Some(user) = self.user.as_ref().filter(|user| user.uid != nix::unistd::geteuid().as_raw()) else {
            return;
        };
        // No agent is between its start and its note meanwhile.
        let _nobody_starts = self.submitting.lock().await;
        for _ in 0..200 {
            let mut ours = BTreeSet::new();
            for file in std::fs::read_dir(self.root.join("notes")).into_iter().flatten().flatten() {
                let note =
                    std::fs::read(file.path()).ok().and_then(|b| serde_json::from_slice::<Note>(&b).ok());
                let uid = hex::decode(file.file_name().as_encoded_bytes())
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok());
                let (Some(note), Some(uid)) = (note, uid) else { continue };
                if let Some(agent) = self.agent(&AttemptUid::from_text(uid), &note) {
                    ours.extend(proc::descendants(agent.pid).iter().map(|s| s.pid));
                    ours.insert(agent.pid);
                }
            }
            let strays: Vec<proc::Stat> = proc::all()
                .into_iter()
                .filter(|s| s.pid > 1 && !s.dead() && !ours.contains(&s.pid))
                .filter(|s| proc::user_of(s.pid) == Some(user.uid))
                .collect();
            if strays.is_empty() {
                return;
            }
            tracing::warn!(
                processes = strays.len(),
                user = user.name,
                "ended what an untrusted step left running"
            );
            kill_now(strays);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn start(&self, launch: &Launch, dir: &Path) -> anyhow::Result<Note> {
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if !std::fs::symlink_metadata(dir)?.is_dir() {
                    bail!("{} is in the way", dir.display());
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", dir.display())),
        }
        // Everything that the daemon itself writes is made before the step's user owns the directory.
        let bootstrap = Bootstrap {
            protocol: PROTOCOL,
            url: launch.agent_url.clone(),
            uid: launch.uid.as_str().to_owned(),
            token: launch.bootstrap.expose_secret().to_owned(),
            dir: dir.to_string_lossy().into_owned(),
            ca: launch.agent_ca.clone(),
            ranks: 1,
            rank: LEADER,
            prepared: None,
        };
        let path = dir.join(BOOTSTRAP);
        if self.user.is_some() {
            std::os::unix::fs::chown(dir, Some(nix::unistd::geteuid().as_raw()), None)?;
        }
        let _ = std::fs::remove_file(&path);
        let new =
            |path: &Path| std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = new(&path).context("cannot write the bootstrap file")?;
        serde_json::to_writer(&mut file, &bootstrap)?;
        let _ = std::fs::remove_file(dir.join("agent.log"));
        let log = new(&dir.join("agent.log"))?;
        if let Some(user) = &self.user {
            let owner = (Some(user.uid), Some(user.gid));
            std::os::unix::fs::fchown(&file, owner.0, owner.1)?;
            std::os::unix::fs::fchown(&log, owner.0, owner.1)?;
            std::os::unix::fs::chown(dir, owner.0, owner.1)?;
        }

        let mut command = Command::new(&self.agent);
        command
            .args(["agent", "--bootstrap"])
            .arg(&path)
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("HOME", dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // No process group here: its leader could not make the session of its own that the agent makes first thing.
        // Setting the user also clears the supplementary groups (std::os::unix::process::CommandExt::uid).
        if let Some(user) = &self.user
            && nix::unistd::geteuid().as_raw() != user.uid
        {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.agent.display()))?;
        let pid = child.id();
        let started = proc::stat(pid as i32).map_or(0, |s| s.started);
        // Nobody waits for the attempt; this only takes the dead child off the process table.
        std::thread::Builder::new().name("reaper".into()).spawn(move || drop(child.wait()))?;
        let name = launch.name.clone();
        Ok(Note { name, pid, started, untrusted: !launch.trusted })
    }
}

#[async_trait]
impl Executor for Local {
    async fn submit(&self, launch: &Launch) -> Result<serde_json::Value, ExecutorError> {
        if self.user.is_none() && !launch.repo_trusted {
            return Err(ExecutorError::Refused(
                "this repository may not run on the daemon's machine: set `executor.local.user` to a Unix user for steps, or \
                 `trusted = true` for the repository"
                    .into(),
            ));
        }
        if self.user.is_none() && !launch.trusted {
            return Err(ExecutorError::Refused(
                "a released run of somebody else's code may not run as the daemon's own user, who can read its secrets: set \
                 `executor.local.user` to a Unix user for steps"
                    .into(),
            ));
        }
        if launch.spec.workers > 1 {
            return Err(ExecutorError::Refused(format!(
                "`distributed` asks for {} pods, and pool `{}` runs on the daemon's machine: name a pool of the executor `kubernetes`",
                launch.spec.workers, launch.pool
            )));
        }
        if !plain_name(&launch.name) {
            return Err(ExecutorError::Refused(format!("{:?} is not the name of an attempt", launch.name)));
        }
        let _one_at_a_time = self.submitting.lock().await;
        let transient = |e: anyhow::Error| ExecutorError::Transient(format!("{e:#}"));
        let first = Note { name: launch.name.clone(), pid: 0, started: 0, untrusted: !launch.trusted };
        let note = self.note(&launch.uid, &launch.handle).unwrap_or(first);
        let dir = self.dir(&note);
        let path = self.note_path(&launch.uid);
        let write = |note: &Note| {
            let bytes = serde_json::to_vec(note)?;
            paths::write_durably(&path, &bytes).context("cannot note the attempt")
        };
        if self.agent(&launch.uid, &note).is_some() || dir.join(RESULT).symlink_metadata().is_ok() {
            return serde_json::to_value(&note).map_err(|e| transient(e.into()));
        }
        // The name is noted before anything can run under it, so that what a crash leaves is found by uid.
        write(&note).map_err(transient)?;
        crate::failpoint::hit("local.start.before");
        let started = self.start(launch, &dir).map_err(transient)?;
        crate::failpoint::hit("local.start.after");
        write(&started).map_err(transient)?;
        serde_json::to_value(&started).map_err(|e| transient(e.into()))
    }

    async fn observe(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<Observation, ExecutorError> {
        let Some(note) = self.note(uid, handle) else { return Ok(Observation::Unknown) };
        if self.agent(uid, &note).is_some() {
            return Ok(Observation::Running);
        }
        let dir = self.dir(&note);
        if std::fs::symlink_metadata(&dir).is_err() {
            return Ok(Observation::Unknown);
        }
        let result = paths::read_plain(&dir.join(RESULT), 64 * 1024)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<ResultFile>(&bytes).ok());
        Ok(match result {
            Some(ResultFile { class, exit_code, reason }) => Observation::Gone { class, exit_code, reason },
            None if note.pid == 0 => {
                Observation::Pending { why: "its agent has not been started".into(), since_ms: None }
            }
            None => Observation::Gone {
                class: EndClass::NodeLost,
                exit_code: None,
                reason: match last_line(&dir.join("agent.log")) {
                    Some(line) => format!("the agent ended without a result: {line}"),
                    None => {
                        "the agent ended without a result: it was killed, or the machine was restarted".into()
                    }
                },
            },
        })
    }

    async fn cancel(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
        grace_ms: i64,
    ) -> Result<(), ExecutorError> {
        let Some(note) = self.note(uid, handle) else { return Ok(()) };
        let dir = self.dir(&note);
        let Some(agent) = self.agent(uid, &note) else {
            kill_now(Self::leftovers(uid, &dir));
            return Ok(());
        };
        // Tells the agent that it is we who ask. Never through a link that a step may have planted.
        let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let _ = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(flags)
            .open(dir.join(CANCEL));
        proc::signal(&agent, Signal::SIGTERM);
        let uid = uid.clone();
        let grace = Duration::from_millis(grace_ms.max(0) as u64);
        tokio::spawn(async move {
            // The agent does this itself; here for one that hangs.
            tokio::time::sleep(grace + Duration::from_secs(3)).await;
            // Its number may be another's by now.
            if proc::alive(agent.pid as u32, agent.started) {
                kill_now(proc::descendants(agent.pid));
            }
            tokio::time::sleep(FAREWELL).await;
            if proc::signal(&agent, Signal::SIGKILL) {
                kill_now(Self::leftovers(&uid, &dir));
            }
        });
        Ok(())
    }

    async fn remove(
        &self,
        _name: &str,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<(), ExecutorError> {
        let Some(note) = self.note(uid, handle) else { return Ok(()) };
        let dir = self.dir(&note);
        let agent = self.agent(uid, &note);
        let failed =
            |e: std::io::Error| ExecutorError::Transient(format!("cannot remove {}: {e}", dir.display()));
        let mut tree: Vec<_> = agent.iter().flat_map(|a| proc::descendants(a.pid)).collect();
        tree.extend(agent);
        kill_now(tree);
        for _ in 0..200 {
            let left = Self::leftovers(uid, &dir);
            if left.is_empty() {
                break;
            }
            kill_now(left);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if note.untrusted {
            self.end_strays().await;
        }
        let target = dir.clone();
        tokio::task::spawn_blocking(move || remove_tree(&target))
            .await
            .map_err(|e| failed(e.into()))?
            .map_err(failed)?;
        match std::fs::remove_file(self.note_path(uid)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

/// Names are one part of a path and nothing else.
fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.starts_with("ty-")
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn kill_now(processes: Vec<proc::Stat>) {
    for process in processes {
        proc::signal(&process, Signal::SIGKILL);
    }
}

/// Deletes a directory of which nothing is believed. The standard library's walk does not follow links, not even ones
/// that are swapped in meanwhile; directories that their owner locked are opened first.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            unlock(dir);
            std::fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn unlock(dir: &Path) {
    let is_dir = std::fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir());
    if is_dir && std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).is_ok() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            unlock(&entry.path());
        }
    }
}

fn last_line(log: &Path) -> Option<String> {
    let bytes = paths::read_plain(log, 1 << 20).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|l| !l.trim().is_empty()).map(|l| l.chars().take(300).collect())
}

/// What a daemon that is not root needs for steps of another user: to start them (`SETUID`, `SETGID`), to give them their files
/// (`CHOWN`), to read, write and remove what is theirs (`DAC_OVERRIDE`, `FOWNER`), to find what they left running by its
/// environment (`SYS_PTRACE`, see proc(5)) and to end it (`KILL`).
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_PTRACE);

/// The capabilities for steps of another user, as capabilities(7) names them, without `CAP_`.
pub fn capability_names() -> String {
    CAPABILITIES.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

fn may_change_user() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CAPABILITIES))
}

/// # Errors
/// Names the first directory above the workspace that the step's user cannot pass through.
fn reachable(root: &Path, user: &StepUser) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    for dir in root.ancestors().filter(|d| !d.as_os_str().is_empty()) {
        let meta = std::fs::metadata(dir)?;
        let bit = match () {
            () if meta.uid() == user.uid => 0o100,
            () if meta.gid() == user.gid => 0o010,
            () => 0o001,
        };
        if meta.mode() & bit == 0 {
            bail!(
                "the user {} cannot reach the workspace {}: {} is closed to it; set `executor.local.workspace` to another place",
                user.name,
                root.display(),
                dir.display()
            );
        }
    }
    Ok(())
}

/// Copies the binary under a name made of its digest, readable for all. A daemon that is upgraded meanwhile thus never
/// changes what a running attempt is made of.
fn install(binary: &Path, into: &Path) -> anyhow::Result<PathBuf> {
    let mut source = std::fs::File::open(binary)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut source, &mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let place = into.join(format!("trainyard-{}", &hex::encode(hash.finalize())[..16]));
    if !place.exists() {
        let temporary = tempfile::NamedTempFile::new_in(into)?.into_temp_path();
        std::fs::copy(binary, &temporary)?;
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o755))?;
        // Whole on disk before its name is: a power cut would else leave a name with nothing behind it for good.
        std::fs::File::open(&temporary)?.sync_all()?;
        temporary.persist(&place)?;
        std::fs::File::open(into)?.sync_all()?;
    }
    Ok(place)
}
