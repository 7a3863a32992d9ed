//! `trainyard completions`: a script for the shell, made from the commands themselves.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script
///
/// bash: `trainyard completions bash > /etc/bash_completion.d/trainyard`; zsh: into a directory of `$fpath` as `_trainyard`;
/// fish: `~/.config/fish/completions/trainyard.fish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "trainyard", &mut script);
    super::output::print(&script)?;
    Ok(ExitCode::SUCCESS)
}
