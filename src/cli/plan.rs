//! `trainyard plan`: what an event would lead to, offline. The pipeline comes from the working tree, changed paths from
//! nowhere (every path filter matches), and the event's author counts as trusted unless told otherwise.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::ForgeKind;
use crate::forge::webhook;
use crate::forge::{ChangeWords, Permission};
use crate::intake::{Facts, PipelineFile, explain, plan, read_pipeline, unread_pipeline};
use crate::model::{Actor, Event, EventKind, Parsed, Push, RepoId, RepoName, RepoRef, Sha};
use crate::pipeline;

/// Print the runs that an event would make, and why
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event's JSON, as the forge sends it. Default: a push of what is checked out
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
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
    let parsed = match &args.event {
        Some(path) => {
            let body = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            webhook::read(args.forge, &args.event_name, "application/json", &body)
        }
        None => Parsed::Event(push_of_head(&args.dir)?),
    };
    let event = match parsed {
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
    let change = ChangeWords::of(args.forge);
    let mut facts = Facts { change, ..Facts::new(RepoId::from_text("repository"), 0) };
    facts.permission = if args.untrusted { Permission::Read } else { Permission::Write };
    if let EventKind::Push(push) = &event.kind {
        facts.message.clone_from(&push.message);
    }
    facts.pipelines = pipelines(&args.dir)?;
    facts.base = facts.pipelines.iter().filter_map(|file| file.parsed.as_ref().ok().cloned()).collect();
    print!("{}", explain(Some(&event), &plan(&event, &facts), change));
    println!("offline: path filters, earlier runs and other runs of a concurrency group were not looked at");
    Ok(ExitCode::SUCCESS)
}

/// A push of the commit that is checked out to its branch.
fn push_of_head(dir: &std::path::Path) -> anyhow::Result<Event> {
    let git = |args: &[&str]| -> anyhow::Result<String> {
        let out = std::process::Command::new("git")
            .arg("-C")
            .arg(dir)
            .args(args)
            .output()
            .context("cannot start git; name an event's file with --event")?;
        let said = String::from_utf8_lossy(if out.status.success() { &out.stdout } else { &out.stderr });
        let said = said.trim().to_owned();
        anyhow::ensure!(
            out.status.success(),
            "git cannot say what is checked out in {}: {said}; name an event's file with --event",
            dir.display()
        );
        Ok(said)
    };
    let branch = git(&["rev-parse", "--abbrev-ref", "HEAD"])?;
    let default_branch = git(&["symbolic-ref", "--short", "refs/remotes/origin/HEAD"])
        .ok()
        .and_then(|name| name.strip_prefix("origin/").map(str::to_owned))
        .unwrap_or_else(|| "main".into());
    let name = std::fs::canonicalize(dir)?;
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let repo = RepoName::parse(&format!("local/{name}")).or_else(|_| RepoName::parse("local/repository"))?;
    let who = Actor { id: "local".into(), login: "local".into() };
    let after = Sha::parse(&git(&["rev-parse", "HEAD"])?)?;
    let message = git(&["log", "-1", "--format=%B"])?;
    let push = Push { branch, before: None, after: Some(after), forced: false, message };
    let repo = RepoRef { forge_id: "local".into(), name: repo, default_branch };
    Ok(Event { repo, actor: who, kind: EventKind::Push(push) })
}

fn pipelines(dir: &std::path::Path) -> anyhow::Result<Vec<PipelineFile>> {
    let found = pipeline::files::of_tree(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files = Vec::new();
    for name in found.read {
        let bytes = std::fs::read(dir.join(&name))
            .with_context(|| format!("cannot read {}", dir.join(&name).display()))?;
        files.push(read_pipeline(&name, &bytes));
    }
    files.extend(found.not_read.iter().map(|(path, why)| unread_pipeline(path, why)));
    Ok(files)
}
