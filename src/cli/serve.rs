//! `trainyard serve`: the daemon in the foreground, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::daemon::Daemon;
use crate::config::Config;

#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration.
    #[arg(long, env = "TRAINYARD_CONFIG", default_value = "/etc/trainyard/trainyard.toml")]
    config: PathBuf,
}

/// Runs the daemon. Trainings that are under way when it ends go on and are found again at the next start.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::logging("info");
    crate::executor::local::protect_this_process()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let config = Config::load(&args.config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let daemon = Daemon::start(config).await?;
    tracing::info!(
        hooks = %daemon.hooks, app = %daemon.people, agent = %daemon.agents, ops = %daemon.ops,
        version = env!("CARGO_PKG_VERSION"), "ready"
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; trainings go on");
    daemon.stop().await;
    Ok(ExitCode::SUCCESS)
}
