//! Runs one command to its end, and everything that it started. No grandchild outlives it, holds it up, or is forgotten.
//!
//! The process must be a child subreaper (see [`become_reaper`]) and start nothing else meanwhile: every child that ends
//! is reaped here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::proc;
use crate::clock::{Clock as _, Millis, SystemClock};

/// Why a command was ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Cancelled,
    /// SIGTERM that nobody announced: the machine is wanted back.
    Preempted,
    /// The daemon says that the attempt has ended already.
    Gone,
    TimedOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// As a shell counts: 128 + n for signal n.
    pub fn code(self) -> i64 {
        match self {
            Self::Code(code) => i64::from(code),
            Self::Signal(n) => 128 + i64::from(n),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Ended {
    pub exit: Exit,
    /// Set when it ended because we asked.
    pub stop: Option<Stop>,
    /// Processes that had to be killed after the command itself was gone, or after the grace.
    pub killed: usize,
    /// When processes that may have been at work were asked to end, or ended by a signal: what was being written then may be half
    /// of it. One that catches SIGTERM and then dies of it is taken to have done so itself.
    pub struck: Vec<Strike>,
}

/// The moment at which a signal ended or interrupted a process, as far as it is known (by the clock, in milliseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// It still lived then.
    pub after: Millis,
    /// It was dead then; on a busy machine that is seen late.
    pub by: Millis,
}

impl Ended {
    /// For the log, where some were killed.
    pub fn killed_sentence(&self) -> String {
        match self.killed {
            1 => "1 process that was left was killed".into(),
            many => format!("{many} processes that were left were killed"),
        }
    }
}

/// What the caller gets while the command runs.
pub enum Output<'a> {
    Bytes(&'a [u8]),
    /// About every 100 ms, and when nothing more will come: time to pass on what is held back.
    Tick,
}

pub struct Limits {
    pub deadline: Instant,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    pub stop: watch::Receiver<Option<Stop>>,
}

/// How long output is awaited after the command has ended while something else still holds the pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// How long it is awaited that all stand still before they are asked to end (a write to a disk may not be interrupted).
const STANDING_STILL: Duration = Duration::from_millis(250);
/// Times of files are those of the kernel's last tick: 10 ms behind the clock (at 100 Hz), and further where the machine's host lets it
/// wait. So long the next tick is awaited at most.
const TICK: Duration = Duration::from_millis(500);
/// How long killing may take before we give up on processes that the kernel does not let go (state D).
const KILLING: Duration = Duration::from_secs(10);
/// Output that the command can be ahead of us.
const PIPE_BYTES: i32 = 128 << 10;

/// Makes this process the one to which orphaned descendants fall.
pub fn become_reaper() -> anyhow::Result<()> {
    use anyhow::Context as _;
    nix::sys::prctl::set_child_subreaper(true).context("cannot become the reaper of orphaned processes")
}

/// Starts the command in a process group of its own with stdout and stderr in one pipe, and returns when it and all that
/// it started are gone.
///
/// # Errors
/// The command could not be started.
pub async fn supervise(
    mut command: Command,
    limits: Limits,
    mut output: impl FnMut(Output<'_>),
) -> std::io::Result<Ended> {
    use std::os::unix::process::CommandExt as _;
    let Limits { deadline, grace, mut stop } = limits;
    let mut child_ended = signal(SignalKind::child())?;
    let (reader, writer) = std::io::pipe()?;
    // As it is, where the system allows no larger one.
    let _ = nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let main = command.spawn()?.id() as i32;
    // The command holds the writing end; end of file must mean that no process has it.
    drop(command);
    let mut pipe = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut buffer = vec![0; PIPE_BYTES as usize];
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let (mut eof, mut why, mut killed, mut listening) = (false, None, 0, true);
    let mut dead = Dead::new(main);
    // From when on everything is killed: the end of the grace, or of the drain.
    let mut kill_at: Option<Instant> = None;
    loop {
        tokio::select! {
            read = pipe.read(&mut buffer), if !eof => match read {
                Ok(0) | Err(_) => eof = true,
                Ok(n) => output(Output::Bytes(&buffer[..n])),
            },
            _ = child_ended.recv() => {}
            _ = tick.tick() => output(Output::Tick),
            changed = stop.changed(), if listening && why.is_none() => listening = changed.is_ok(),
        }
        dead.reap();
        if dead.exit.is_some() {
            kill_at = kill_at.or_else(|| Some(Instant::now() + DRAIN));
        }
        if dead.exit.is_none() && why.is_none() {
            let asked = *stop.borrow();
            why = asked.or_else(|| (Instant::now() >= deadline).then_some(Stop::TimedOut));
            if why.is_some() {
                dead.terminate().await;
                kill_at = Some(Instant::now() + grace);
            }
        }
        if dead.exit.is_some() && (eof || why.is_some()) && alive_below().is_empty() {
            break;
        }
        // Without a reason to wait for them, those that are left and do not even hold the pipe are killed at once.
        let now = dead.exit.is_some() && eof && why.is_none();
        if now || kill_at.is_some_and(|at| Instant::now() >= at) {
            killed = kill_all(&mut dead).await;
            break;
        }
    }
    // Whoever ended between the last reaping and the last look at who lives: how they ended counts as well.
    dead.reap();
    let until = Instant::now() + Duration::from_secs(1);
    while !eof {
        match tokio::time::timeout_at(until, pipe.read(&mut buffer)).await {
            Ok(Ok(n)) if n > 0 => output(Output::Bytes(&buffer[..n])),
            _ => eof = true,
        }
    }
    output(Output::Tick);
    let exit = dead.exit.unwrap_or(Exit::Signal(Signal::SIGKILL as i32));
    Ok(Ended { exit, stop: why, killed, struck: dead.struck })
}

fn alive_below() -> Vec<proc::Stat> {
    proc::descendants(std::process::id() as i32)
}

/// Stops all, so that none can fork while the others are counted.
fn stop_all() -> Vec<proc::Stat> {
    let mut stopped = BTreeSet::new();
    loop {
        let (all, mut more) = (alive_below(), false);
        for process in &all {
            if stopped.insert((process.pid, process.started)) {
                // Those of another user cannot be stopped, however many come.
                more |= proc::signal(process, Signal::SIGSTOP);
            }
        }
        if !more {
            return all;
        }
    }
}

/// Kills until nobody is left. Returns how many there were.
async fn kill_all(dead: &mut Dead) -> usize {
    let until = Instant::now() + KILLING;
    let mut seen = BTreeSet::new();
    loop {
        let all = stop_all();
        for process in &all {
            seen.insert(process.pid);
            proc::signal(process, Signal::SIGKILL);
        }
        dead.reap();
        if all.is_empty() || Instant::now() >= until {
            return seen.len();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What a file that is written now gets as its time of change.
fn time_of_files() -> Millis {
    let clock = nix::time::ClockId::CLOCK_REALTIME_COARSE;
    nix::time::clock_gettime(clock)
        .map_or_else(|_| SystemClock.now_ms(), |t| t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000)
}

/// Who has died so far, and of what.
struct Dead {
    main: i32,
    exit: Option<Exit>,
    struck: Vec<Strike>,
    /// What a SIGTERM did to those to whom it was sent.
    asked: BTreeMap<i32, proc::Disposition>,
    /// When the last look began: a child of ours that is reaped now lived then.
    looked: Millis,
}

impl Dead {
    fn new(main: i32) -> Self {
        let looked = SystemClock.now_ms();
        Self { main, exit: None, struck: Vec::new(), asked: BTreeMap::new(), looked }
    }

    /// Asks everybody to end. All stand still meanwhile, but for those whom the kernel does not let go in time: what those that
    /// die of it wrote is older than that moment, and what the others write of their own accord is younger, however busy
    /// the machine is.
    async fn terminate(&mut self) {
        let after = SystemClock.now_ms();
        let until = Instant::now() + STANDING_STILL;
        let mut all = stop_all();
        loop {
            let still = all.iter().all(proc::stands_still);
            self.asked = all.iter().map(|p| (p.pid, proc::disposition(p.pid, Signal::SIGTERM))).collect();
            // A shell that hears of its child's stop is stopped itself within its handler, which blocks all signals: it goes on for a
            // moment, and then says what ours does to it.
            let blocked = |p: &&proc::Stat| self.asked.get(&p.pid) == Some(&proc::Disposition::Blocked);
            let blocked: Vec<_> = all.iter().filter(blocked).collect();
            if still && blocked.is_empty() || Instant::now() >= until {
                break;
            }
            for process in blocked {
                proc::signal(process, Signal::SIGCONT);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            all = stop_all();
        }
        let by = SystemClock.now_ms();
        // Whoever reaps those that die of it, and whenever that is seen; who catches it may end in the middle of writing, too.
        self.struck.push(Strike { after, by });
        let until = Instant::now() + TICK;
        while time_of_files() <= by && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Parents first: one that waits for a child hears of its own end before it sees the child's.
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            for process in &all {
                proc::signal(process, signal);
            }
        }
    }

    /// Reaps every child that has ended. Those of a parent that lives on are its own.
    fn reap(&mut self) {
        let began = SystemClock.now_ms();
        loop {
            let strike = Strike { after: self.looked, by: SystemClock.now_ms() };
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == self.main => {
                    self.exit = Some(Exit::Code(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    if pid.as_raw() == self.main {
                        self.exit = Some(Exit::Signal(signal as i32));
                    }
                    self.ended_by(signal, pid.as_raw(), strike);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        self.looked = began;
    }

    fn ended_by(&mut self, signal: Signal, pid: i32, strike: Strike) {
        match self.asked.get(&pid) {
            // Known already, or of its own accord after it had caught ours.
            Some(proc::Disposition::Default | proc::Disposition::Caught) if signal == Signal::SIGTERM => {}
            _ => match self.struck.last_mut().filter(|last| last.after == strike.after) {
                Some(last) => last.by = strike.by,
                None => self.struck.push(strike),
            },
        }
    }
}
