//! `trainyard logs`: a step's log. On a terminal colours are ours and nothing in the log can command the terminal; into a file
//! or pipe go the bytes as stored.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use reqwest::Method;

use super::client::{Client, Place, Refused, segment};
use super::exit::NotFound;
use super::output;
use super::style::colours;
use crate::http::api::{AttemptJson, RunDetail, StepJson};
use crate::http::follow::LogEnd;
use crate::http::terminal::{Style, for_terminal, lines};
use crate::model::{EndClass, StepState};

/// Print the log of a run's step
///
/// Exit status with --follow: 0 when the step succeeded, 1 otherwise. Into a file or pipe go the bytes as stored.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The run's id, or the beginning of it
    run: String,
    /// The step's name; default: the one that failed, else the one that runs, else the last one
    step: Option<String>,
    /// Which try; default: the last one
    #[arg(long, value_name = "N")]
    attempt: Option<i64>,
    /// Stay until the step ends
    #[arg(short, long)]
    follow: bool,
    /// One JSON object for each line: `{"line": 1, "text": "…"}`
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.place)?;
    let path = format!("/runs/{}", segment(&args.run)?);
    let mut run: RunDetail = client.get(&path).await?;
    // With --follow a step that has not started is waited for.
    let uid = loop {
        let step = pick(&run.steps, args.step.as_deref())?;
        if let Some(attempt) = try_of(step, args.attempt)? {
            break attempt.uid.clone();
        }
        if !args.follow || run.run.state.is_terminal() {
            return Err(NotFound(format!("step {} has no log: it is {}", step.name, step.state)).into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        run = client.get(&path).await?;
    };
    if args.json {
        return json_lines(&client, &uid).await;
    }
    let mut printer = Printer::new();
    if args.follow {
        follow(&client, &uid, &mut printer).await
    } else {
        let response =
            client.send(Method::GET, &format!("/attempts/{}/log", segment(&uid)?), &[], None).await?;
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            printer.print(&bytes.context("the log broke off")?)?;
        }
        printer.end()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The log by its numbered lines, without colours.
async fn json_lines(client: &Client, uid: &str) -> anyhow::Result<ExitCode> {
    #[derive(serde::Deserialize)]
    struct Part {
        text: String,
    }
    #[derive(serde::Deserialize)]
    struct Window {
        lines: Vec<Vec<Part>>,
    }
    let mut from = 0;
    loop {
        let path = format!("/attempts/{}/log/lines?from={from}&count=1000", segment(uid)?);
        let window: Window = client.get(&path).await?;
        if window.lines.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = String::new();
        for line in window.lines {
            from += 1;
            let text: String = line.into_iter().map(|part| part.text).collect();
            let _ = writeln!(out, "{}", serde_json::json!({"line": from, "text": text}));
        }
        output::print(out.as_bytes())?;
    }
}

fn pick<'a>(steps: &'a [StepJson], name: Option<&str>) -> anyhow::Result<&'a StepJson> {
    if let Some(name) = name {
        let names: Vec<&str> = steps.iter().map(|s| s.name.as_str()).collect();
        return steps.iter().find(|s| s.name == name).ok_or_else(|| {
            let there = if names.is_empty() { "none".into() } else { names.join(", ") };
            NotFound(format!("the run has no step {name:?}; it has {there}")).into()
        });
    }
    let first = |states: &[StepState]| steps.iter().find(|s| states.contains(&s.state));
    first(&[StepState::Failed, StepState::Errored])
        .or_else(|| first(&[StepState::Running]))
        .or_else(|| steps.iter().rev().find(|s| !s.attempts.is_empty()))
        .or_else(|| steps.first())
        .ok_or_else(|| NotFound("the run has no steps".into()).into())
}

fn try_of(step: &StepJson, number: Option<i64>) -> anyhow::Result<Option<&AttemptJson>> {
    match number {
        None => Ok(step.attempts.last()),
        Some(n) => {
            let found = step.attempts.iter().find(|a| a.number == n);
            found.map(Some).ok_or_else(|| {
                let have = step.attempts.len();
                NotFound(format!("step {} has no try {n}; it has {have}", step.name)).into()
            })
        }
    }
}

/// Follows until the attempt ends, over any number of broken connections: event ids are byte offsets.
async fn follow(client: &Client, uid: &str, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let path = format!("/attempts/{}/log/stream", segment(uid)?);
    let mut last = "0".to_owned();
    let mut pause = Duration::from_millis(500);
    loop {
        match client.send(Method::GET, &path, &[("last-event-id", last.clone())], None).await {
            Ok(response) => {
                pause = Duration::from_millis(500);
                if let Some(end) = events(response, &mut last, printer).await? {
                    printer.end()?;
                    let good = end.class == Some(EndClass::Succeeded);
                    if !good {
                        eprintln!("trainyard: the step {}", end.class.map_or("ended", EndClass::word));
                    }
                    return Ok(ExitCode::from(u8::from(!good)));
                }
            }
            // The daemon restarts: a training outlives that, and so does its reader.
            Err(error)
                if error.downcast_ref::<Refused>().is_some_and(|r| r.0.status < 500 && r.0.status != 429) =>
            {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!("{error:#}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }
}

/// Prints one connection's events. None: it broke off; `last` says where.
async fn events(
    response: reqwest::Response,
    last: &mut String,
    printer: &mut Printer,
) -> anyhow::Result<Option<LogEnd>> {
    let mut body = response.bytes_stream();
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(Ok(bytes)) = body.next().await {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.windows(2).position(|w| w == b"\n\n") {
            let block: Vec<u8> = buffer.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&block);
            let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            match field("event: ") {
                "log" => {
                    printer.print(
                        &STANDARD.decode(field("data: ")).context("the daemon sent a broken event")?,
                    )?;
                    field("id: ").clone_into(last);
                }
                "gap" => {
                    eprintln!("trainyard: {} bytes are no longer kept", field("data: "));
                    field("id: ").clone_into(last);
                }
                "end" => {
                    return Ok(Some(
                        serde_json::from_str(field("data: ")).context("the daemon sent a broken event")?,
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(None)
}

/// Where the log goes.
struct Printer {
    terminal: bool,
    colours: bool,
    style: Style,
    /// The unfinished last line.
    rest: Vec<u8>,
}

impl Printer {
    fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            colours: colours(),
            style: Style::default(),
            rest: Vec::new(),
        }
    }

    fn print(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if !self.terminal {
            return Ok(output::print(bytes)?);
        }
        self.rest.extend_from_slice(bytes);
        let got = lines(&self.rest, &mut self.style);
        let mut out = String::new();
        for line in &got.full {
            let _ = writeln!(out, "{}", for_terminal(line, self.colours));
        }
        output::print(out.as_bytes())?;
        self.rest.drain(..got.full_bytes);
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.terminal && !self.rest.is_empty() {
            self.print(b"\n")?;
        }
        Ok(())
    }
}
