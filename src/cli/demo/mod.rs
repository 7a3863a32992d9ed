//! `trainyard demo`: a forge, pushes, data that is refused, two trainings and a pull-request comment, all on this machine.
//!
//! Nothing is played: the daemon, its configuration, the signed webhooks, the git pushes and the trainings are what they are
//! elsewhere. Only the forge is the sandbox.

mod project;
mod watch;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::ExposeSecret;

use self::project::{BRANCH, Project, TITLE};
use self::watch::{Watch, say};
use super::daemon::Daemon;
use crate::clock::SystemClock;
use crate::config::{Config, ForgeKind};
use crate::forge::ChangeWords;
use crate::forge::webhook::gitlab;
use crate::model::{RepoName, Sha, StepState};
use crate::sandbox::{NewPull, Sandbox, SandboxOptions, WRITER};

const REPOSITORY: &str = "acme/churn";
/// After this long something is wrong.
const PATIENCE: Duration = Duration::from_mins(3);
/// Means of three seeds that `examples/churn` reaches on `main` and on the branch, to six digits: the training is
/// deterministic, so anything else means that something did not really happen.
const EXPECTED: (f64, f64) = (0.791_917, 0.831_583);

#[derive(clap::Args)]
pub struct Args {
    /// Which forge the sandbox looks like.
    #[arg(long, value_enum, default_value = "github")]
    forge: ForgeKind,
    /// End when the comment is posted: 0 only if all of it really happened.
    #[arg(long)]
    exit: bool,
    /// Keep everything in this new directory (default: a temporary one that is deleted at the end).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::logging("warn");
    let keep = args.dir.is_some();
    let temporary;
    let dir = if let Some(dir) = &args.dir {
        std::fs::create_dir(dir).with_context(|| {
            format!("cannot make {}; name a directory that does not exist", dir.display())
        })?;
        std::fs::canonicalize(dir)?
    } else {
        temporary = tempfile::Builder::new()
            .prefix("trainyard-demo-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        temporary.path().to_owned()
    };
    let started = Instant::now();
    say(started, "a git repository, a forge and the daemon, all on this machine");
    let sandbox =
        Sandbox::start(SandboxOptions::new(dir.join("forge"), Arc::new(SystemClock)).shaped(args.forge))
            .await?;
    let repo = RepoName::parse(REPOSITORY)?;
    sandbox.create_repo(&repo, "main").await?;
    let (config, secret) = configure(&dir, &sandbox, args.forge)?;
    let daemon = Daemon::start(config).await.context("cannot start the daemon")?;
    sandbox.set_hook(format!("http://{}/hooks/{}/demo", daemon.hooks, args.forge.word()), secret);
    say(started, &format!("dashboard   http://{}", daemon.people));

    let done = story(&sandbox, &repo, args.forge, &daemon, &dir, started).await;
    let code = match done {
        Ok(()) if args.exit => ExitCode::SUCCESS,
        Ok(()) => {
            next_steps(&daemon, &sandbox, args.forge, &dir, keep);
            let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .context("cannot wait for the end")?;
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C")?,
                _ = ended.recv() => {}
            }
            println!();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ntrainyard demo: {error:#}");
            ExitCode::FAILURE
        }
    };
    daemon.stop().await;
    Ok(code)
}

/// Pushes, waits, and checks that all of it really happened.
async fn story(
    sandbox: &Sandbox,
    repo: &RepoName,
    kind: ForgeKind,
    daemon: &Daemon,
    dir: &Path,
    started: Instant,
) -> anyhow::Result<()> {
    let (tree, remote) = (dir.join("churn"), sandbox.git_url(repo, WRITER));
    let project = tokio::task::spawn_blocking(move || Project::create(tree, &remote)).await??;
    let project = Arc::new(project);
    let mut watch = Watch::new(daemon.app.store.clone(), started);

    let change = ChangeWords::of(kind);
    say(started, "git push origin main");
    let base = push(&project, "main").await?;
    watch.until_runs(1, PATIENCE).await.context("no run appeared for the push of main")?;

    // What the pull request's data is held against.
    watch.until_ended(PATIENCE).await?;

    let branch = Arc::clone(&project);
    tokio::task::spawn_blocking(move || branch.change()).await??;
    say(
        started,
        &format!("git push origin {BRANCH}, and a {}; something is wrong with its data", change.noun),
    );
    say(started, &format!("forge       {}/{REPOSITORY}/{}/1", sandbox.url(), pull_page(kind)));
    let spoilt = push(&project, BRANCH).await?;
    watch.expect_failure(spoilt.clone());
    let number = sandbox
        .open_pull(
            repo,
            NewPull {
                title: TITLE.to_owned(),
                author: WRITER.to_owned(),
                head_branch: BRANCH.to_owned(),
                head_repo: None,
                base_branch: "main".to_owned(),
                draft: false,
            },
        )
        .await?;
    watch
        .until_runs(2, PATIENCE)
        .await
        .with_context(|| format!("no run appeared for the {}", change.noun))?;
    watch.until_ended(PATIENCE).await?;
    watch.until_told(number, PATIENCE).await?;
    let stopped = comment(sandbox, repo, number, change, "after the first push")?;
    data_was_refused(&watch, &spoilt, &stopped).await?;
    say(
        started,
        "✓ nothing was trained: the comment says which columns, how far and how sure, and none of their values",
    );

    let branch = Arc::clone(&project);
    tokio::task::spawn_blocking(move || branch.mend()).await??;
    say(started, &format!("git push origin {BRANCH}, with the data as it should be"));
    let head = push(&project, BRANCH).await?;
    watch.until_runs(3, PATIENCE).await.context("no run appeared for the second push")?;
    watch.until_ended(PATIENCE).await?;
    watch.until_told(number, PATIENCE).await?;
    let body = comment(sandbox, repo, number, change, "after the second push")?;
    for words in [" → ", "95 % CI +", "3 seeds, 4,000 examples, paired", "columns drifted"] {
        anyhow::ensure!(body.contains(words), "the comment does not say {words:?}");
    }

    let first = format!("the first push of the {}", change.noun);
    for (sha, what, wanted) in [
        (&base, "main", "success"),
        (&spoilt, first.as_str(), "failure"),
        (&head, "its second push", "success"),
    ] {
        let statuses = sandbox.statuses(repo, sha);
        let last = statuses.last().with_context(|| format!("no status was posted for {what}"))?;
        let failed = if wanted == "failure" && kind == ForgeKind::Gitlab { "failed" } else { wanted };
        anyhow::ensure!(last.state == failed, "the status of {what} is {}, not {failed}", last.state);
        anyhow::ensure!(
            statuses.len() <= 5,
            "{} statuses were posted for {what}; 4 and one are enough",
            statuses.len()
        );
        let text = last.description.as_deref().unwrap_or_default();
        say(started, &format!("✓ status of {what}: {} {} ({text})", last.context, last.state));
    }
    let (was, is) = watch.accuracies(&base, &head).await?;
    anyhow::ensure!(
        (was - EXPECTED.0).abs() < 1e-6 && (is - EXPECTED.1).abs() < 1e-6,
        "the accuracies are {was:.6} and {is:.6} instead of {:.6} and {:.6}",
        EXPECTED.0,
        EXPECTED.1
    );
    say(started, &format!("✓ accuracy {was:.4} on main, {is:.4} on the branch, as the code says it must be"));
    Ok(())
}

/// The one comment of the pull request, printed as posted.
fn comment(
    sandbox: &Sandbox,
    repo: &RepoName,
    number: i64,
    change: ChangeWords,
    when: &str,
) -> anyhow::Result<String> {
    let comments = sandbox.comments(repo, number);
    anyhow::ensure!(comments.len() == 1, "{} comments were posted instead of one", comments.len());
    let body = comments[0].body().to_owned();
    println!(
        "\n────────── the comment on {} {when}, as posted ──────────\n{body}\n──────────────────────────────\n",
        change.named(number)
    );
    Ok(body)
}

/// The shifted column and the broken category were found, and stopped the run before anything trained.
async fn data_was_refused(watch: &Watch, sha: &Sha, body: &str) -> anyhow::Result<()> {
    let words = [
        "was stopped by its data",
        "is not fit to train on",
        "`monthly_charge`",
        "standard deviations",
        "adjusted p",
        "`contract`",
    ];
    for words in words {
        anyhow::ensure!(body.contains(words), "the comment does not say {words:?}");
    }
    anyhow::ensure!(!body.contains("month-to-month"), "the comment shows a value of the data");
    let steps = watch.steps(sha).await?;
    anyhow::ensure!(steps.get("data") == Some(&StepState::Failed), "the data step did not fail");
    let trained = steps.iter().filter(|(name, state)| *name != "data" && **state != StepState::Skipped);
    anyhow::ensure!(trained.count() == 0, "something ran after the data was refused");
    Ok(())
}

async fn push(project: &Arc<Project>, branch: &'static str) -> anyhow::Result<Sha> {
    let project = Arc::clone(project);
    tokio::task::spawn_blocking(move || {
        project.push(branch)?;
        Ok(Sha::parse(&project.head()?)?)
    })
    .await?
}

/// Writes a configuration as an operator would, and reads it back.
fn configure(dir: &Path, sandbox: &Sandbox, kind: ForgeKind) -> anyhow::Result<(Config, String)> {
    let random = rand::random::<[u8; 32]>();
    let secret = match kind {
        ForgeKind::Gitlab => format!("{}{}", gitlab::TOKEN_PREFIX, BASE64_STANDARD.encode(random)),
        _ => hex::encode(random),
    };
    let (token_file, secret_file) = (dir.join("forge.token"), dir.join("hook.secret"));
    write_private(&token_file, sandbox.token().expose_secret())?;
    write_private(&secret_file, &secret)?;
    let app = free_port(8700)?;
    let mut text = String::from("# Made by `trainyard demo`.\n");
    write!(
        text,
        r#"data_dir = {data:?}
public_url = "http://127.0.0.1:{app}"

[listen]
hooks = "127.0.0.1:0"
app = "127.0.0.1:{app}"
agent = "127.0.0.1:0"
ops = "127.0.0.1:0"

[dashboard]
public_read = true

[forge.sandbox]
kind = {kind:?}
url = {url:?}
allow_http = true
token = {{ file = {token_file:?} }}

[[forge.sandbox.hook]]
id = "demo"
secrets = [{{ file = {secret_file:?} }}]
repository = "{REPOSITORY}"

# Runs as the user who started the demo; elsewhere, set executor.local.uids instead.
[[repository]]
forge = "sandbox"
name = "{REPOSITORY}"
trusted = true

[executor.local]
workspace = {work:?}
"#,
        data = text_of(&dir.join("data")),
        work = text_of(&dir.join("work")),
        token_file = text_of(&token_file),
        secret_file = text_of(&secret_file),
        kind = kind.word(),
        url = sandbox.url(),
    )?;
    let path = dir.join("trainyard.toml");
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((Config::load(&path)?, secret))
}

/// A path as TOML's basic string takes it once it is quoted.
fn text_of(path: &Path) -> String {
    path.display().to_string()
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// The usual port when it is free, so that the address is easy to remember; else any.
fn free_port(usual: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, usual))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no port of 127.0.0.1 is free")?;
    Ok(listener.local_addr()?.port())
}

/// What stands before a pull request's number in the address of its page.
fn pull_page(kind: ForgeKind) -> &'static str {
    match kind {
        ForgeKind::Github => "pull",
        ForgeKind::Gitlab => "-/merge_requests",
        ForgeKind::Gitea => "pulls",
    }
}

fn next_steps(daemon: &Daemon, sandbox: &Sandbox, kind: ForgeKind, dir: &Path, keep: bool) {
    println!(
        "\nThe daemon stays until Ctrl-C. Three things to try:\n\
         \n  1. Look at the runs, what was wrong with the data, and the comparison:   http://{}\
         \n  2. Change the model yourself and watch the comment change:  cd {} && $EDITOR features.py && git commit -am 'Try it' && git push\
         \n     Statuses and the comment, as the forge has them:         {}/{REPOSITORY}/{}/1\
         \n  3. In a repository of your own:                             trainyard init && trainyard lint && trainyard run\n",
        daemon.people,
        dir.join("churn").display(),
        sandbox.url(),
        pull_page(kind)
    );
    if !keep {
        println!("Everything of the demo lies in {} and is deleted at the end.", dir.display());
    }
}
