//! `trainyard plan`: what an event would lead to, offline. The pipeline comes from the working tree, changed paths from
//! nowhere (every path filter matches), and the event's author counts as trusted unless told otherwise.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::ForgeKind;
use crate::forge::Permission;
use crate::forge::webhook;
use crate::intake::{Facts, PipelineFile, explain, plan, read_pipeline};
use crate::model::{Parsed, RepoId};
use crate::pipeline;

/// Print the runs that an event would make, and why
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event's JSON, as the forge sends it
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
    /// The forge that sent it
    #[arg(long, value_enum, default_value = "github")]
    forge: ForgeKind,
    /// The forge's word for the event, as in the header X-GitHub-Event or X-Gitea-Event; GitLab's JSON says it itself
    #[arg(long, default_value = "push", value_name = "WORD")]
    event_name: String,
    /// Working tree whose pipeline files are used
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    dir: PathBuf,
    /// Plan as if the event's author had no write access
    #[arg(long)]
    untrusted: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let body = std::fs::read(&args.event).with_context(|| format!("cannot read {}", args.event.display()))?;
    let event = match webhook::read(args.forge, &args.event_name, "application/json", &body) {
        Parsed::Event(event) => event,
        Parsed::Ignored { reason } => {
            println!("decision: ignored: {reason}");
            return Ok(ExitCode::SUCCESS);
        }
        Parsed::BadPayload { reason } => {
            println!("decision: not understood: {reason}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut facts = Facts::new(RepoId::from_text("repository"), 0);
    facts.permission = if args.untrusted { Permission::Read } else { Permission::Write };
    if let crate::model::EventKind::Push(push) = &event.kind {
        facts.message.clone_from(&push.message);
    }
    facts.pipelines = pipelines(&args.dir)?;
    facts.base = facts.pipelines.iter().filter_map(|file| file.parsed.as_ref().ok().cloned()).collect();
    print!("{}", explain(Some(&event), &plan(&event, &facts)));
    println!("offline: path filters, earlier runs and other runs of a concurrency group were not looked at");
    Ok(ExitCode::SUCCESS)
}

fn pipelines(dir: &std::path::Path) -> anyhow::Result<Vec<PipelineFile>> {
    let mut names = vec![pipeline::FILE.to_owned()];
    if let Ok(folder) = std::fs::read_dir(dir.join(pipeline::DIRECTORY)) {
        for entry in folder {
            let name =
                entry.context("cannot list the pipeline folder")?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".yaml") {
                names.push(format!("{}/{name}", pipeline::DIRECTORY));
            }
        }
    }
    names.sort();
    let mut files = Vec::new();
    for name in names {
        match std::fs::read(dir.join(&name)) {
            Ok(bytes) => files.push(read_pipeline(&name, &bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", dir.join(&name).display()));
            }
        }
    }
    Ok(files)
}
