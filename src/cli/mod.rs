//! The command line: parses, wires the rooms together, prints. One file per command.
//!
//! Exit codes stand in [`exit`].

mod admin;
mod agent;
mod client;
mod completions;
mod daemon;
mod data;
mod deliveries;
mod demo;
mod doctor;
mod exit;
mod init;
mod lint;
mod logs;
mod orphans;
mod output;
mod plan;
mod replica;
mod run_local;
mod runs;
mod schema;
mod serve;
mod style;
mod token;

use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "trainyard", version, about = "From a git push to a better model", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::Args),
    /// See it all on this machine: a forge, a push, trainings, a pull-request comment.
    Demo(demo::Args),
    /// Write a first `.trainyard.yaml` for the project in this directory.
    Init(init::Args),
    /// Check pipeline files.
    Lint(lint::Args),
    /// Show what an event would do, from the files of this directory.
    Plan(plan::Args),
    /// Look for what is wrong with an installation, and say how to mend it.
    Doctor(doctor::Args),
    /// Runs: list, show, why, wait, diff, rerun, cancel, release.
    Runs(runs::Args),
    /// Print a step's log, or follow it.
    Logs(logs::Args),
    /// API tokens: create, list, revoke.
    Token(token::Args),
    /// Run a pipeline's steps here, in the working tree, without a daemon.
    Run(run_local::Args),
    /// Webhook deliveries: list, show, replay.
    Deliveries(deliveries::Args),
    /// Tables: profile, check, diff.
    Data(data::Args),
    /// The installation's database and blobs: back up, restore, migrate, tidy.
    Admin(admin::Args),
    /// Print the JSON Schema of the pipeline file.
    Schema(schema::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// First process of an attempt; executors start it.
    #[command(hide = true)]
    Agent(agent::Args),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    // Before anything that might open a TLS connection; the only error is that it was done already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let command = Cli::parse().command;
    if !matches!(command, Command::Serve(_) | Command::Agent(_)) {
        output::end_quietly();
    }
    match run(command).and_then(|code| Ok(output::flush().map(|()| code)?)) {
        Ok(code) => code,
        Err(error) => output::end_with(&error),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => block_on(serve::run(args)),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Init(args) => init::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Runs(args) => block_on(runs::run(args)),
        Command::Logs(args) => block_on(logs::run(args)),
        Command::Token(args) => block_on(token::run(args)),
        Command::Run(args) => run_local::run(&args),
        Command::Deliveries(args) => deliveries::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Admin(args) => block_on(admin::run(args)),
        Command::Schema(args) => schema::run(&args),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::Agent(args) => agent::run(&args),
    }
}

/// How to open the database of a configuration, for the work of this machine (none: everyone's only).
fn store_options(
    config: &crate::config::Config,
    machine: &str,
) -> Result<crate::store::OpenOptions, crate::config::ConfigError> {
    use crate::store::OpenOptions;
    let url = config.database_url();
    let options = OpenOptions { url, machine: machine.to_owned(), ..OpenOptions::sqlite("") };
    if !options.is_postgres() {
        return Ok(options);
    }
    Ok(OpenOptions {
        connections: config.database_connections,
        password: config.database_password.as_ref().map(crate::config::SecretSource::read).transpose()?,
        pooled: config.database_pooler == crate::config::Pooler::Transaction,
        ..options
    })
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of this process")?
        .block_on(work)
}

/// Log lines on standard error: for people on a terminal, JSON otherwise. `TRAINYARD_LOG` filters, e.g. `trainyard=debug`.
fn logging(level: &str) {
    let filter = EnvFilter::try_from_env("TRAINYARD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        let _ = builder.try_init();
    } else {
        let _ = builder.json().try_init();
    }
}
