//! `trainyard runs`: what ran, and changing it.

mod print;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::client::{Client, Place, segment};
use super::exit::{FAILED, REGRESSION, TimedOut};
use super::style::colours;
use crate::clock::{Clock, SystemClock};
use crate::http::api::{Done, RerunJson, ReuseJson, RunDetail, RunDiff, RunsJson, WhyJson};
use crate::http::auth::escape_query;
use crate::http::text::shown;
use crate::model::{RunState, Verdict};

/// Look at runs, cancel them, release held ones
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The newest runs
    List {
        /// `owner/name`
        #[arg(long)]
        repo: Option<String>,
        #[arg(long)]
        branch: Option<String>,
        #[arg(long)]
        pipeline: Option<String>,
        /// Only runs in this state, e.g. `failed`
        #[arg(long)]
        state: Option<RunState>,
        /// The login behind the push
        #[arg(long)]
        author: Option<String>,
        /// Runs that were compared for this pull request; with --repo
        #[arg(long, requires = "repo", value_name = "NUMBER")]
        pull: Option<u32>,
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// `next` of an answer with --json: goes on behind it
        #[arg(long)]
        cursor: Option<String>,
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// One run with its steps
    Show {
        /// Its id, or the beginning of it
        id: String,
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// Wait until a run has ended: 0 when it succeeded, 1 when not, 124 when it took longer than --timeout
    Wait {
        id: String,
        /// How long, in seconds; for ever when absent
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
        /// End with 3 when the run succeeded and a gate says that it is worse than its baseline
        #[arg(long)]
        exit_code: bool,
        /// The run as the API has it at the end
        #[arg(long)]
        json: bool,
    },
    /// Two runs side by side: parameters, metrics, plan, durations
    Diff {
        a: String,
        b: String,
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// Why a run is where it is: what its steps wait for, their place in line, what is free
    Why {
        id: String,
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// Why a step was reused, or the first thing in which it differs from an earlier one
    WhyCached {
        id: String,
        step: String,
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// Run a run again, with the plan and the commit that it had
    Rerun {
        id: String,
        /// Take the good steps over and run the others
        #[arg(long, conflicts_with = "no_cache")]
        failed: bool,
        /// Take no earlier result over
        #[arg(long)]
        no_cache: bool,
        /// The API's answer
        #[arg(long)]
        json: bool,
    },
    /// Ask a run to stop
    Cancel {
        id: String,
        /// Shown with the run
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let a held run go, for the one commit that you have looked at
    Release {
        id: String,
        /// Its full commit id
        #[arg(long)]
        sha: String,
    },
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.place)?;
    let now = SystemClock.now_ms();
    match args.command {
        Command::List { repo, branch, pipeline, state, author, pull, limit, cursor, json } => {
            let mut query = format!("limit={limit}");
            let asked = [
                ("repo", repo),
                ("branch", branch),
                ("pipeline", pipeline),
                ("state", state.map(|s| s.word().to_owned())),
                ("author", author),
                ("pull", pull.map(|n| n.to_string())),
                ("cursor", cursor),
            ];
            for (key, value) in asked {
                if let Some(value) = value {
                    let _ = write!(query, "&{key}={}", escape_query(&value));
                }
            }
            let answer: RunsJson = client.get(&format!("/runs?{query}")).await?;
            tell(&answer, json, |a| print::list(a, now, colours()))?;
        }
        Command::Show { id, json } => {
            let answer: RunDetail = client.get(&format!("/runs/{}", segment(&id)?)).await?;
            tell(&answer, json, |a| print::detail(a, now, colours()))?;
        }
        Command::Wait { id, timeout, exit_code, json } => {
            let run = wait(&client, &id, timeout.map(Duration::from_secs)).await?;
            tell(&run, json, |a| print::detail(a, SystemClock.now_ms(), colours()))?;
            return Ok(ExitCode::from(match run.run.state {
                RunState::Succeeded if exit_code && run.run.verdict == Some(Verdict::Fail) => REGRESSION,
                RunState::Succeeded => 0,
                _ => FAILED,
            }));
        }
        Command::Diff { a, b, json } => {
            let path = format!("/runs/{}/diff?with={}", segment(&a)?, segment(&b)?);
            let answer: RunDiff = client.get(&path).await?;
            tell(&answer, json, print::diff)?;
        }
        Command::Why { id, json } => {
            let answer: WhyJson = client.get(&format!("/runs/{}/why", segment(&id)?)).await?;
            tell(&answer, json, print::why)?;
        }
        Command::WhyCached { id, step, json } => {
            let step = escape_query(&step).replace('/', "%2F");
            let answer: ReuseJson =
                client.get(&format!("/runs/{}/steps/{step}/reuse", segment(&id)?)).await?;
            tell(&answer, json, |a| format!("{}: {}\n", shown(&a.step), shown(&a.says)))?;
        }
        Command::Rerun { id, failed, no_cache, json } => {
            let path = format!("/runs/{}/rerun", segment(&id)?);
            let ask = json!({"failed": failed, "no_cache": no_cache});
            let answer: RerunJson = client.call(Method::POST, &path, Some(&ask)).await?;
            tell(&answer, json, |a| format!("{}  {}\n", a.run, a.url))?;
        }
        Command::Cancel { id, reason } => {
            let path = format!("/runs/{}/cancel", segment(&id)?);
            let done: Done = client.call(Method::POST, &path, Some(&json!({"reason": reason}))).await?;
            println!("{id}: {}", done.detail);
        }
        Command::Release { id, sha } => {
            let path = format!("/runs/{}/release", segment(&id)?);
            let done: Done = client.call(Method::POST, &path, Some(&json!({"sha": sha}))).await?;
            println!("{id}: {}", done.detail);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For a program, or for a person.
fn tell<T: Serialize>(answer: &T, json: bool, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(answer)?);
    } else {
        print!("{}", text(answer));
    }
    Ok(())
}

async fn wait(client: &Client, id: &str, limit: Option<Duration>) -> anyhow::Result<RunDetail> {
    let path = format!("/runs/{}", segment(id)?);
    let watch = async {
        loop {
            let run: RunDetail = client.get(&path).await?;
            if run.run.state.is_terminal() {
                return anyhow::Ok(run);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    match limit {
        None => watch.await,
        Some(limit) => tokio::time::timeout(limit, watch).await.map_err(|_| {
            anyhow::Error::from(TimedOut(format!("run {id} had not ended after {} s", limit.as_secs())))
        })?,
    }
}
