//! `trainyard agent`: the first process of an attempt. Executors start it; people do not.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::agent::{attempt, process};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file that the executor left: where the daemon is, and the token for the first call.
    #[arg(long, value_name = "FILE")]
    bootstrap: PathBuf,
}

/// Detaches from whoever started it, so that the daemon's end is not the training's, and runs the attempt.
///
/// # Errors
/// The bootstrap cannot be used. How the commands end is no error here: that is told to the daemon.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    // The daemon's files are for itself alone; what a training writes is for whoever the user says.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // Fails when it leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    process::become_reaper()?;
    // The commands run as the same user: they must not read our memory, where the token is.
    nix::sys::prctl::set_dumpable(false).context("cannot hide the agent's memory")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    runtime.block_on(attempt::run(&args.bootstrap))?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}
