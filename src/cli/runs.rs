//! `trainyard runs`: what ran, and changing it.

use std::fmt::Write as _;

use std::process::ExitCode;

use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::client::{Client, Place, exit_code, segment};
use crate::clock::{Clock, SystemClock};
use crate::http::api::{Done, RunDetail, RunsJson, StepJson};
use crate::http::auth::escape_query;
use crate::http::text::{ago, duration, shown, shown_cut};
use crate::model::{RunState, StepState};

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
        #[arg(long, default_value_t = 20)]
        limit: u32,
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
    exit_code(run_command(args).await)
}

async fn run_command(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.place)?;
    match args.command {
        Command::List { repo, branch, pipeline, state, limit, json } => {
            let mut query = format!("limit={limit}");
            let state = state.map(|s| s.word().to_owned());
            for (key, value) in [("repo", repo), ("branch", branch), ("pipeline", pipeline), ("state", state)]
            {
                if let Some(value) = value {
                    let _ = write!(query, "&{key}={}", escape_query(&value));
                }
            }
            let answer: RunsJson = client.get(&format!("/runs?{query}")).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&answer)?);
            } else {
                print!("{}", table(&answer, SystemClock.now_ms()));
            }
        }
        Command::Show { id, json } => {
            let answer: RunDetail = client.get(&format!("/runs/{}", segment(&id)?)).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&answer)?);
            } else {
                print!("{}", detail(&answer, SystemClock.now_ms()));
            }
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

fn table(answer: &RunsJson, now: i64) -> String {
    if answer.runs.is_empty() {
        return "no runs\n".into();
    }
    let mut out = String::new();
    for run in &answer.runs {
        let took = run.started_ms.map_or(String::new(), |from| duration(run.ended_ms.unwrap_or(now) - from));
        let _ = writeln!(
            out,
            "{}  {:<10}  {:<24}  {:<16}  {:<10.10}  {:>8}  {:<11}  {}",
            run.id,
            run.state,
            shown_cut(&run.repo, 23).as_str(),
            shown_cut(&run.branch, 15).as_str(),
            run.sha,
            took,
            ago(run.created_ms, now),
            shown_cut(run.message.lines().next().unwrap_or_default(), 60)
        );
    }
    out
}

fn detail(answer: &RunDetail, now: i64) -> String {
    let run = &answer.run;
    let mut out = format!(
        "run       {}\nstate     {}{}\nrepo      {}  pipeline {}\ncommit    {} on {}\nmessage   {}\nby        {}{}\n",
        run.id,
        run.state,
        if run.reason.is_empty() { String::new() } else { format!(": {}", shown(&run.reason)) },
        shown(&run.repo),
        shown(&run.pipeline),
        run.sha,
        shown(&run.branch),
        shown_cut(run.message.lines().next().unwrap_or_default(), 200),
        shown(&run.actor),
        if run.trusted { "" } else { " (untrusted)" },
    );
    if let Some(why) = &run.cancel_request {
        let _ = writeln!(out, "stopping  {}", shown(why));
    }
    let _ = write!(out, "page      {}\n\n", run.url);
    for step in &answer.steps {
        let took =
            step.started_ms.map_or(String::new(), |from| duration(step.ended_ms.unwrap_or(now) - from));
        let _ = writeln!(
            out,
            "  {:<10}  {:<28}  {:>8}  {}",
            step.state,
            shown_cut(&step.name, 27).as_str(),
            took,
            shown_cut(why(step), 160)
        );
    }
    if run.state == RunState::Held {
        let _ =
            write!(out, "\nLook at the commit, then: trainyard runs release {} --sha {}\n", run.id, run.sha);
    }
    out
}

/// Why a step is where it is.
fn why(step: &StepJson) -> &str {
    if !step.reason.is_empty() || step.state == StepState::Succeeded {
        return &step.reason;
    }
    step.attempts.last().map_or("", |a| &a.reason)
}
