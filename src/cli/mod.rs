//! The command line: parses, wires the rooms together, prints. One file per command.
//!
//! Exit codes: 0 done, 1 a run, gate or check failed, 2 wrong use or configuration, 4 not found, 130 interrupted.

pub mod agent;
pub mod deliveries;
pub mod init;
pub mod lint;
pub mod plan;
pub mod schema;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "trainyard", version, about = "From a git push to a better model", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one attempt (executors call this)
    #[command(hide = true)]
    Agent(agent::Args),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("trainyard: {error:#}");
            ExitCode::from(if error.is::<crate::config::ConfigError>() { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => agent::run(&args),
    }
}
