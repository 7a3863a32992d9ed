//! Attempts as process trees on this machine.
//!
//! The agent is started detached and found again by pid and start time, so trainings outlive the daemon. What lies in an
//! attempt's directory belongs to the step's user and is not believed: notes that decide whom to signal are the daemon's own.

mod users;

use std::collections::BTreeSet;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use nix::sys::signal::Signal;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::users::{StepUser, StepUsers, capability_names};
use super::{Executor, ExecutorError, Launch, Observation};
use crate::agent::attempt::{CANCEL, IDENTITY, Identity, MARK, RESULT, ResultFile, SPOOL};
use crate::agent::protocol::{Bootstrap, PROTOCOL};
use crate::agent::{paths, proc};
use crate::model::{AttemptUid, EndClass, LEADER};

#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The trainyard binary; it is copied to where the step's user can read it.
    pub agent_binary: PathBuf,
    /// Directory of the workspaces. Made if missing; the steps' users must be able to reach it.
    pub workspace_root: PathBuf,
    pub users: StepUsers,
}

/// Thread safe; holds no state but paths, so that a new instance knows as much as an old one.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    agent: PathBuf,
    users: StepUsers,
    /// Held while an agent is between its start and its note, and while processes of a user that several attempts have are told apart.
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
    /// Whose processes and files are the attempt's: noted before anything is, so that nobody gets the same user id meanwhile. None:
    /// the daemon's own user.
    #[serde(default)]
    user: Option<u32>,
}

/// After SIGTERM and the grace, the agent gets so long to send logs and the result before it is killed too.
const FAREWELL: Duration = Duration::from_secs(30);
/// How long one `remove` tries to end processes that the kernel does not let go (state D).
const ENDING: Duration = Duration::from_secs(5);
/// Where every user may leave files, beside its attempt's own directory.
const SHARED_DIRS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

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
        options.users.check(&root)?;
        let agent = install(&options.agent_binary, &root.join("bin"))
            .with_context(|| format!("cannot copy {} for the steps", options.agent_binary.display()))?;
        Ok(Self { root, agent, users: options.users, submitting: tokio::sync::Mutex::new(()) })
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
        let expected = note.user.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
        let command = std::fs::read(format!("/proc/{}/cmdline", found.pid)).ok()?;
        let ours = identity.uid == uid.as_str()
            && proc::user_of(found.pid) == Some(expected)
            && command.split(|b| *b == 0).any(|arg| arg == dir.as_os_str().as_encoded_bytes());
        ours.then_some(found)
    }

    /// Every note, with the uid of its attempt.
    fn notes(&self) -> Vec<(AttemptUid, Note)> {
        let files = std::fs::read_dir(self.root.join("notes")).into_iter().flatten().flatten();
        let read = |file: std::fs::DirEntry| {
            let uid = String::from_utf8(hex::decode(file.file_name().as_encoded_bytes()).ok()?).ok()?;
            let note = serde_json::from_slice::<Note>(&std::fs::read(file.path()).ok()?).ok()?;
            Some((AttemptUid::from_text(uid), note))
        };
        files.filter_map(read).collect()
    }

    /// Whom a new attempt runs as; of a range one of the ids that no attempt holds, by chance, so that none comes back soon.
    fn user_of_new(&self, noted: Option<u32>) -> Result<Option<StepUser>, ExecutorError> {
        let uids = match &self.users {
            StepUsers::Own => return Ok(None),
            StepUsers::One(user) => return Ok(Some(user.clone())),
            StepUsers::Each(uids) => *uids,
        };
        if let Some(uid) = noted.filter(|uid| uids.contains(*uid)) {
            return Ok(Some(StepUser::numbered(uid)));
        }
        let mut held: BTreeSet<u32> = self.notes().iter().filter_map(|(_, note)| note.user).collect();
        // Should a note be missing, and what another program may have under them.
        let dirs = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        held.extend(dirs.filter_map(|entry| Some(entry.metadata().ok()?.uid())));
        held.extend(proc::all().iter().filter_map(|process| proc::user_of(process.pid)));
        let free: Vec<u32> = uids.all().filter(|uid| !held.contains(uid)).collect();
        match free.get(rand::random::<u32>() as usize % free.len().max(1)) {
            Some(uid) => Ok(Some(StepUser::numbered(*uid))),
            None => Err(ExecutorError::Transient(format!(
                "no user id of executor.local.uids = \"{uids}\" is free: attempts that end or run hold all {}",
                uids.count()
            ))),
        }
    }

    /// Processes of an attempt of the daemon's own user whose agent is gone: they carry its mark, or work in its directory.
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

    /// Living processes of the attempt's user that are not below the living agent of another attempt: code may have cleared its
    /// environment, left its directory and killed its agent, to wait for the processes of others. That user is trainyard's alone.
    fn of_user(&self, uid: &AttemptUid, user: u32) -> Vec<proc::Stat> {
        let all: Vec<proc::Stat> = proc::all()
            .into_iter()
            .filter(|s| s.pid > 1 && !s.dead() && proc::user_of(s.pid) == Some(user))
            .collect();
        // Looked for afterwards: whoever is below an agent stays there.
        let mut others = BTreeSet::new();
        for (other, note) in self.notes().into_iter().filter(|(o, n)| o != uid && n.user == Some(user)) {
            if let Some(agent) = self.agent(&other, &note) {
                others.extend(proc::descendants(agent.pid).iter().map(|s| s.pid));
                others.insert(agent.pid);
            }
        }
        all.into_iter().filter(|s| !others.contains(&s.pid)).collect()
    }

    /// All living processes of an attempt, its agent's as well.
    fn processes(&self, uid: &AttemptUid, note: &Note) -> Vec<proc::Stat> {
        let agent = self.agent(uid, note);
        let mut found: Vec<_> = agent.iter().flat_map(|a| proc::descendants(a.pid)).collect();
        found.extend(agent);
        let seen: BTreeSet<i32> = found.iter().map(|s| s.pid).collect();
        let more = match note.user.filter(|user| *user != nix::unistd::geteuid().as_raw()) {
            // One look may miss whom a process belongs to whose parent ends meanwhile.
            Some(user) => {
                let again: BTreeSet<i32> = self.of_user(uid, user).iter().map(|s| s.pid).collect();
                self.of_user(uid, user).into_iter().filter(|s| again.contains(&s.pid)).collect()
            }
            None => Self::leftovers(uid, &self.dir(note)),
        };
        found.extend(more.into_iter().filter(|s| !seen.contains(&s.pid)));
        found
    }

    /// Ends every process of an attempt. All are stopped first, so that none forks while the others are counted.
    async fn end_processes(&self, uid: &AttemptUid, note: &Note) -> Result<(), ExecutorError> {
        let _nobody_starts = self.submitting.lock().await;
        let until = Instant::now() + ENDING;
        loop {
            let (mut all, mut before) = (self.processes(uid, note), 0);
            while all.len() > before {
                before = all.len();
                for process in &all {
                    proc::signal(process, Signal::SIGSTOP);
                }
                all = self.processes(uid, note);
            }
            if all.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let pids: Vec<String> = all.iter().take(10).map(|s| s.pid.to_string()).collect();
                return Err(ExecutorError::Transient(format!(
                    "{} of its processes cannot be ended: {}",
                    all.len(),
                    pids.join(", ")
                )));
            }
            kill_now(all);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the agent; what is returned is its pid and start time.
    fn start(&self, launch: &Launch, dir: &Path, user: Option<&StepUser>) -> anyhow::Result<(u32, u64)> {
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
        if user.is_some() {
            std::os::unix::fs::chown(dir, Some(nix::unistd::geteuid().as_raw()), None)?;
        }
        let _ = std::fs::remove_file(dir.join("agent.log"));
        let log = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join("agent.log"))?;
        if let Some(user) = user {
            let owner = (Some(user.uid), Some(user.gid));
            std::os::unix::fs::fchown(&log, owner.0, owner.1)?;
            std::os::unix::fs::chown(dir, owner.0, owner.1)?;
        }

        let mut command = Command::new(&self.agent);
        command
            .args(["agent", "--bootstrap", "-", "--dir"])
            .arg(dir)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("HOME", dir)
            .stdin(Stdio::from(self.bootstrap(launch, dir)?))
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(user) = user {
            command.env("USER", &user.name).env("LOGNAME", &user.name);
        }
        // No process group here: its leader could not make the session of its own that the agent makes first thing.
        // Setting the user also clears the supplementary groups (std::os::unix::process::CommandExt::uid).
        if let Some(user) = user
            && nix::unistd::geteuid().as_raw() != user.uid
        {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.agent.display()))?;
        let pid = child.id();
        let started = proc::stat(pid as i32).map_or(0, |s| s.started);
        // Nobody waits for the attempt; this only takes the dead child off the process table.
        std::thread::Builder::new().name("reaper".into()).spawn(move || drop(child.wait()))?;
        Ok((pid, started))
    }

    /// What only the agent may read, as a file without a name in a directory of the daemon's: it is handed over open, and whoever
    /// runs as the same user cannot open it.
    fn bootstrap(&self, launch: &Launch, dir: &Path) -> anyhow::Result<std::fs::File> {
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
            probe: launch.probe,
        };
        let write = || -> std::io::Result<std::fs::File> {
            let mut file = tempfile::tempfile_in(self.root.join("notes"))?;
            // Until the agent hides itself, others of its user reach its open files by /proc: then the mode counts.
            file.set_permissions(PermissionsExt::from_mode(0o600))?;
            file.write_all(&serde_json::to_vec(&bootstrap)?)?;
            file.rewind()?;
            Ok(file)
        };
        write().context("cannot write what the agent begins with")
    }

    /// Removes what the only holder of a user id left where everybody may write. `remove_dir_all` follows no links.
    fn sweep_shared(user: u32) {
        for entry in SHARED_DIRS.iter().flat_map(std::fs::read_dir).flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.uid() == user {
                let path = entry.path();
                let removed = if meta.is_dir() { remove_tree(&path) } else { std::fs::remove_file(&path) };
                if let Err(error) = removed {
                    tracing::warn!(path = %path.display(), %error, "cannot remove what an attempt left");
                }
            }
        }
    }
}

#[async_trait]
impl Executor for Local {
    async fn submit(&self, launch: &Launch) -> Result<serde_json::Value, ExecutorError> {
        if self.users == StepUsers::Own && !launch.repo_trusted {
            return Err(ExecutorError::Refused(
                "this repository may not run on the daemon's machine: set `executor.local.uids` or `executor.local.user`, or \
                 `trusted = true` for the repository"
                    .into(),
            ));
        }
        if self.users == StepUsers::Own && !launch.trusted {
            return Err(ExecutorError::Refused(
                "a released run of somebody else's code may not run as the daemon's own user, who can read its secrets: set \
                 `executor.local.uids` or `executor.local.user`"
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
        let mut note = self.note(&launch.uid, &launch.handle).unwrap_or_else(|| Note {
            name: launch.name.clone(),
            pid: 0,
            started: 0,
            user: None,
        });
        let dir = self.dir(&note);
        let path = self.note_path(&launch.uid);
        let write = |note: &Note| {
            let bytes = serde_json::to_vec(note)?;
            paths::write_durably(&path, &bytes).context("cannot note the attempt")
        };
        if self.agent(&launch.uid, &note).is_some() || dir.join(RESULT).symlink_metadata().is_ok() {
            return serde_json::to_value(&note).map_err(|e| transient(e.into()));
        }
        let user = self.user_of_new(note.user)?;
        note.user = user.as_ref().map(|user| user.uid);
        // Name and user are noted before anything can run under them, so that what a crash leaves is found by uid.
        write(&note).map_err(transient)?;
        crate::failpoint::hit("local.start.before");
        (note.pid, note.started) = self.start(launch, &dir, user.as_ref()).map_err(transient)?;
        crate::failpoint::hit("local.start.after");
        write(&note).map_err(transient)?;
        serde_json::to_value(&note).map_err(|e| transient(e.into()))
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
                reason: match last_error(&dir.join("agent.log")) {
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
            return self.end_processes(uid, &note).await;
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
        let grace = Duration::from_millis(grace_ms.max(0) as u64);
        tokio::spawn(async move {
            // The agent does this itself; here for one that hangs.
            tokio::time::sleep(grace + Duration::from_secs(3)).await;
            // Its number may be another's by now.
            if proc::alive(agent.pid as u32, agent.started) {
                kill_now(proc::descendants(agent.pid));
            }
            tokio::time::sleep(FAREWELL).await;
            // What it leaves is ended by `remove`.
            proc::signal(&agent, Signal::SIGKILL);
        });
        Ok(())
    }

    fn log_left(&self, uid: &AttemptUid, handle: &serde_json::Value) -> Option<std::fs::File> {
        let note = self.note(uid, handle)?;
        let file = paths::open_plain(&self.dir(&note).join(SPOOL)).ok()?;
        // A hard link to a file that the step cannot read would have another owner.
        let owner = note.user.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
        file.metadata().is_ok_and(|meta| meta.uid() == owner).then_some(file)
    }

    async fn remove(
        &self,
        _name: &str,
        uid: &AttemptUid,
        handle: &serde_json::Value,
    ) -> Result<(), ExecutorError> {
        let Some(note) = self.note(uid, handle) else { return Ok(()) };
        let dir = self.dir(&note);
        let failed =
            |e: std::io::Error| ExecutorError::Transient(format!("cannot remove {}: {e}", dir.display()));
        self.end_processes(uid, &note).await?;
        let alone = match &self.users {
            StepUsers::Each(uids) => note.user.filter(|user| uids.contains(*user)),
            StepUsers::Own | StepUsers::One(_) => None,
        };
        let target = dir.clone();
        let sweep = move || {
            alone.into_iter().for_each(Self::sweep_shared);
            remove_tree(&target)
        };
        tokio::task::spawn_blocking(sweep).await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        // Its user id is free from here on.
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

/// What the agent said last, if that is why it ended: an error or a panic. A warning is of something that it outlived.
fn last_error(log: &Path) -> Option<String> {
    let bytes = paths::read_plain(log, 1 << 20).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let said = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
    let lines: Vec<&str> = text.lines().rev().filter(said).take(2).collect();
    let why = match lines[..] {
        [last, ..] if last.starts_with("trainyard: ") || last.contains(" ERROR ") => last.to_owned(),
        // The message of a panic follows the place.
        [last, ..] if last.contains(" panicked at ") => last.to_owned(),
        [last, place] if place.contains(" panicked at ") => format!("{place} {last}"),
        _ => return None,
    };
    Some(why.chars().take(300).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_and_panics_are_why_an_agent_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("agent.log");
        let of = |text: &str| {
            std::fs::write(&log, text).unwrap();
            last_error(&log)
        };
        let warning = "2026-11-28T04:35:33Z  WARN trainyard::agent::logs: a log chunk did not arrive\n";
        let error = "2026-11-28T04:35:33Z ERROR trainyard::agent::attempt: the daemon refused the result";
        let panic = "thread 'main' (7) panicked at src/x.rs:1:2:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(of(""), None);
        assert_eq!(of(warning), None);
        assert_eq!(of(&format!("{error}\n{warning}")), None);
        assert_eq!(of(&format!("{warning}{error}\n")).as_deref(), Some(error));
        assert_eq!(of("trainyard: cannot lock /w\n\n").as_deref(), Some("trainyard: cannot lock /w"));
        let said = of(&format!("{warning}{panic}")).unwrap();
        assert!(said.starts_with("thread 'main'") && said.ends_with("index out of bounds"), "{said}");
    }
}
