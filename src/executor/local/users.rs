//! Whom attempts run as, and what the daemon needs for it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Group, Uid, User};
use rustix::thread::CapabilitySet;

use crate::config::{LocalConfig, UidRange};

/// A Unix user of the machine.
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
        let user = User::from_name(name)
            .with_context(|| format!("cannot look up the user {name}"))?
            .with_context(|| {
                format!("executor.local.user = {name:?}: there is no such user; make it with `useradd --system {name}`")
            })?;
        if user.uid.is_root() {
            bail!("executor.local.user = {name:?} is root; name a user that owns nothing");
        }
        Ok(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: name.to_owned() })
    }

    /// The path, where its mode does not give this user the right `bit` (4: to read, 1: to pass through a directory).
    fn is_shut_out<'p>(&self, path: &'p Path, bit: u32) -> Option<&'p Path> {
        let open = std::fs::metadata(path).is_ok_and(|meta| {
            let bit = match () {
                () if meta.uid() == self.uid => bit << 6,
                () if meta.gid() == self.gid => bit << 3,
                () => bit,
            };
            meta.mode() & bit != 0
        });
        (!open).then_some(path)
    }

    /// A user id of a range; its group has the same number, and neither needs an entry in the machine's tables.
    pub(super) fn numbered(uid: u32) -> Self {
        Self { uid, gid: uid, name: format!("trainyard-{uid}") }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepUsers {
    /// The daemon's own: its secrets lie open to them.
    Own,
    /// One for all attempts, which lie open to each other.
    One(StepUser),
    /// Each attempt has a user id of its own while it holds its place.
    Each(UidRange),
}

impl StepUsers {
    /// # Errors
    /// There is no such user, or a user id of the range is somebody's.
    pub fn configured(config: &LocalConfig) -> anyhow::Result<Self> {
        match (config.uids, &config.user) {
            (Some(uids), _) => nobody_has(uids).map(|()| Self::Each(uids)),
            (None, Some(user)) => StepUser::lookup(user).map(Self::One),
            (None, None) => Ok(Self::Own),
        }
    }

    /// Can they read a file that is not theirs? Never asked of the daemon's own user.
    pub fn can_read(&self, file: &Path) -> bool {
        let user = match self {
            Self::Own => return false,
            Self::One(user) => user.clone(),
            Self::Each(uids) => StepUser::numbered(uids.first()),
        };
        let Ok(file) = std::fs::canonicalize(file) else { return false };
        let above = file.ancestors().skip(1).find_map(|dir| user.is_shut_out(dir, 1));
        above.is_none() && user.is_shut_out(&file, 4).is_none()
    }

    /// # Errors
    /// This process may not become them, or they cannot reach the workspace below `root`.
    pub(super) fn check(&self, root: &Path) -> anyhow::Result<()> {
        let (user, key) = match self {
            Self::Own => return Ok(()),
            Self::One(user) => (user.clone(), format!("executor.local.user = {:?}", user.name)),
            Self::Each(uids) => {
                (StepUser::numbered(uids.first()), format!("executor.local.uids = \"{uids}\""))
            }
        };
        let me = nix::unistd::geteuid();
        if !me.is_root() && me.as_raw() != user.uid && !may_change_user() {
            bail!("{key} needs a daemon with the capabilities {} (or root)", capability_names());
        }
        match root.ancestors().filter(|d| !d.as_os_str().is_empty()).find_map(|d| user.is_shut_out(d, 1)) {
            None => Ok(()),
            Some(dir) => bail!(
                "the user {} cannot reach the workspace {}: {} is closed to it; set `executor.local.workspace` to another place",
                user.name,
                root.display(),
                dir.display()
            ),
        }
    }
}

/// Nobody else may have them: not a user or group of the machine, not somebody's containers (subuid(5)).
fn nobody_has(uids: UidRange) -> anyhow::Result<()> {
    let key = format!("executor.local.uids = \"{uids}\"");
    for id in uids.all() {
        // A directory that does not answer now is no reason to stay down.
        if let Ok(Some(user)) = User::from_uid(Uid::from_raw(id)) {
            bail!("{key}: {id} is the user {}; choose ids that nobody has", user.name);
        }
        if let Ok(Some(group)) = Group::from_gid(Gid::from_raw(id)) {
            bail!("{key}: {id} is the group {}; choose ids that nobody has", group.name);
        }
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for line in text.lines() {
            let mut parts = line.split(':');
            let (who, first, count) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
            let number = |part: Option<&str>| part.and_then(|p| p.trim().parse::<u32>().ok());
            if let (Some(first), Some(count)) = (number(first), number(count))
                && uids.meets(first, count)
            {
                bail!(
                    "{key}: {file} gives some of them to {who} ({first} and the {count} from there on); choose others"
                );
            }
        }
    }
    // Within a container a process may have fewer ids than the machine (user_namespaces(7)).
    for file in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let mapped = text.lines().any(|line| {
            let parts: Vec<u32> = line.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect();
            matches!(parts[..], [inside, _, count] if uids.lies_in(inside, count))
        });
        if !mapped {
            bail!("{key}: this container does not have them (see {file}); choose ids that it has");
        }
    }
    Ok(())
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
