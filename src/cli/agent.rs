//! `trainyard agent`: the first process of an attempt. Executors start it; people do not.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::agent::attempt::ResultFile;
use crate::agent::{attempt, begin, process};
use crate::model::EndClass;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file that the executor left: where the daemon is, and the token for the first call. `-`: standard input
    #[arg(long, value_name = "FILE")]
    bootstrap: PathBuf,
    /// Work in this directory, by which the executor knows the process
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// In a pod's first container: put the agent and the source into this directory, and leave the rest to the next one.
    #[arg(long, value_name = "DIR")]
    prepare: Option<PathBuf>,
    /// With --prepare: how long a daemon that never answers is called, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, requires = "prepare")]
    reach_within: u64,
}

/// Where Kubernetes reads what a container says about its end (the default of `terminationMessagePath`).
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Longest such message that Kubernetes keeps, in bytes.
const TERMINATION_BYTES: usize = 4096;

/// Detaches from whoever started it, so that the daemon's end is not the training's, and runs the attempt.
///
/// # Errors
/// The bootstrap cannot be used. How the commands end is no error here: that is told to the daemon, and in a pod to the
/// cluster, by exit code and termination message.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    give_up_capabilities().context("cannot give up the daemon's capabilities")?;
    // The daemon's files are for itself alone; what a training writes is for whoever the user says.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // Fails when it leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    process::become_reaper()?;
    // The commands run as the same user: they must not read our memory, where the token is.
    nix::sys::prctl::set_dumpable(false).context("cannot hide the agent's memory")?;
    if let Some(dir) = &args.dir {
        std::env::set_current_dir(dir).with_context(|| format!("cannot work in {}", dir.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    let ended = match &args.prepare {
        Some(dir) => match runtime.block_on(begin::prepare(
            &args.bootstrap,
            dir,
            Duration::from_secs(args.reach_within),
        )) {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(result) => {
                tracing::error!(class = %result.class, "{}", result.reason);
                Some(result)
            }
        },
        None => runtime.block_on(attempt::run(&args.bootstrap))?,
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    let in_pod = std::path::Path::new(TERMINATION_LOG).exists();
    Ok(match ended {
        Some(result) if in_pod => tell_the_cluster(result),
        _ => ExitCode::SUCCESS,
    })
}

/// A daemon that is not root has ambient capabilities, which outlive the change of user and the exec: with them a step could become
/// root. Called while this is the only thread, since each thread has sets of its own. Root keeps its own.
fn give_up_capabilities() -> std::io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let none = CapabilitySet::empty();
    // The ambient set cannot hold what the permitted one lacks.
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(())
}

/// The class and sentence as the termination message, and an exit code that agrees with them.
fn tell_the_cluster(mut result: ResultFile) -> ExitCode {
    let code = match (result.class, result.exit_code) {
        (EndClass::Succeeded, _) => 0,
        (_, Some(code @ 1..=255)) => code as u8,
        _ => 1,
    };
    let room = TERMINATION_BYTES / 4;
    if result.reason.len() > room {
        let at = (0..=room).rev().find(|at| result.reason.is_char_boundary(*at)).unwrap_or(0);
        result.reason.truncate(at);
    }
    let said = serde_json::to_vec(&result).map_err(std::io::Error::other);
    if let Err(error) = said.and_then(|bytes| std::fs::write(TERMINATION_LOG, bytes)) {
        tracing::warn!(%error, "cannot leave the termination message");
    }
    ExitCode::from(code)
}
