//! What `/proc` says of processes: who descends from whom, and whether a pid is still the process we mean.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The fields of `/proc/<pid>/stat` that we use (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub state: char,
    pub parent: i32,
    pub session: i32,
    /// Clock ticks since boot. With the pid it names one process for good: pids come again, start times do not.
    pub started: u64,
    pub rss_pages: i64,
}

impl Stat {
    pub fn dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

pub fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&text))
}

/// The command's name stands in parentheses and may hold any character, so fields are counted from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split_once(' ')?.0.parse().ok()?;
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        state: rest.first()?.chars().next()?,
        parent: rest.get(1)?.parse().ok()?,
        session: rest.get(3)?.parse().ok()?,
        started: rest.get(19)?.parse().ok()?,
        rss_pages: rest.get(21)?.parse().ok()?,
    })
}

/// This process as others see it.
pub fn myself() -> (u32, u64) {
    let pid = std::process::id();
    (pid, stat(pid as i32).map_or(0, |s| s.started))
}

/// Is the process that started then as this pid still running? A zombie is not.
pub fn alive(pid: u32, started: u64) -> bool {
    stat(pid as i32).is_some_and(|s| s.started == started && !s.dead())
}

pub fn all() -> Vec<Stat> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    dir.flatten().filter_map(|e| stat(e.file_name().to_str()?.parse().ok()?)).collect()
}

/// All living descendants. Complete for a subreaper, since whoever loses its parent becomes its child.
pub fn descendants(of: i32) -> Vec<Stat> {
    let all = all();
    let (mut found, mut parents) = (Vec::new(), vec![of]);
    while let Some(parent) = parents.pop() {
        for s in all.iter().filter(|s| s.parent == parent) {
            parents.push(s.pid);
            found.push(*s);
        }
    }
    // A first thread may be gone before the others.
    found.retain(|s| !s.dead() || threads(s.pid).iter().any(|thread| !thread.dead()));
    found
}

/// Sends a signal if the pid is still that process. False when it is gone or not ours to signal.
pub fn signal(target: &Stat, signal: Signal) -> bool {
    stat(target.pid).is_some_and(|s| s.started == target.started)
        && kill(Pid::from_raw(target.pid), signal).is_ok()
}

/// Whether none of the process's threads runs any more: each is stopped or gone.
pub fn stands_still(process: &Stat) -> bool {
    let same = stat(process.pid).is_some_and(|now| now.started == process.started);
    !same || threads(process.pid).iter().all(|s| s.dead() || matches!(s.state, 'T' | 't'))
}

fn threads(pid: i32) -> Vec<Stat> {
    let Ok(dir) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    dir.flatten()
        .filter_map(|e| parse_stat(&String::from_utf8_lossy(&std::fs::read(e.path().join("stat")).ok()?)))
        .collect()
}

/// What a signal does to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    Default,
    Caught,
    Ignored,
    /// In every thread; that may pass.
    Blocked,
}

/// That of a process which is gone is the default.
pub fn disposition(pid: i32, signal: Signal) -> Disposition {
    let within = |of: &str, key| {
        let mask = status(of, key).and_then(|mask| u64::from_str_radix(&mask, 16).ok()).unwrap_or(0);
        mask >> (signal as i32 - 1) & 1 == 1
    };
    let process = pid.to_string();
    if within(&process, "SigCgt:") {
        return Disposition::Caught;
    }
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let blocked = |thread: std::fs::DirEntry| {
        within(&format!("{pid}/task/{}", thread.file_name().to_string_lossy()), "SigBlk:")
    };
    let gone = status(&process, "SigIgn:").is_none();
    if !gone && within(&process, "SigIgn:") {
        Disposition::Ignored
    } else if !gone && threads.all(blocked) {
        Disposition::Blocked
    } else {
        Disposition::Default
    }
}

/// The real user id of a process.
pub fn user_of(pid: i32) -> Option<u32> {
    status(&pid.to_string(), "Uid:")?.parse().ok()
}

/// The first word behind `key` in `/proc/<of>/status`: of a process, or of a thread of it.
fn status(of: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{of}/status")).ok()?;
    Some(text.lines().find_map(|l| l.strip_prefix(key))?.split_ascii_whitespace().next()?.to_owned())
}

/// Resident memory of this process's descendants and itself, in bytes.
pub fn tree_rss() -> i64 {
    let me = std::process::id() as i32;
    let pages: i64 = descendants(me).iter().chain(stat(me).iter()).map(|s| s.rss_pages).sum();
    pages * 4096
}

/// How often the kernel's out-of-memory killer struck where it could have struck us: our control group, or the machine.
pub fn oom_kills() -> u64 {
    let counter = |text: &str, key: &str| -> u64 {
        text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok()).unwrap_or(0)
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut count = counter(&read("/proc/vmstat"), "oom_kill ");
    for line in read("/proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':');
        let (_, kind, path) =
            (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("").to_owned());
        if kind.is_empty() {
            count += counter(&read(&format!("/sys/fs/cgroup{path}/memory.events")), "oom_kill ");
        } else if kind.split(',').any(|k| k == "memory") {
            count += counter(&read(&format!("/sys/fs/cgroup/memory{path}/memory.oom_control")), "oom_kill ");
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_shift_fields() {
        let line = "42 (a ) S 1 (b) R 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 250 184467";
        let s = parse_stat(line).unwrap();
        assert_eq!(
            (s.pid, s.state, s.parent, s.session, s.started, s.rss_pages),
            (42, 'R', 7, 9, 12345, 250)
        );
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let (pid, started) = myself();
        assert!(alive(pid, started));
        assert!(!alive(pid, started + 1));
        assert_eq!(user_of(pid as i32), Some(nix::unistd::getuid().as_raw()));
    }
}
