//! Runs as text for a terminal. Whatever comes from outside is made visible first: it commands no terminal.

use std::fmt::Write as _;

use crate::cli::style::word;
use crate::http::api::{RunDetail, RunDiff, RunJson, RunsJson, StepJson, WhyJson};
use crate::http::text::{ago, duration, number, shown, shown_cut, signed};
use crate::model::{AttemptState, RunState, StepState};

fn took(run: &RunJson, now: i64) -> String {
    run.started_ms.map_or(String::new(), |from| duration(run.ended_ms.unwrap_or(now) - from))
}

pub fn list(answer: &RunsJson, now: i64, colours: bool) -> String {
    if answer.runs.is_empty() {
        return "no runs\n".into();
    }
    let mut out = String::new();
    for run in &answer.runs {
        let verdict = run.verdict.map_or("–", |v| v.word());
        let _ = writeln!(
            out,
            "{}  {}  {}  {:<26}  {:<22}  {:<16}  {:<10.10}  {:>8}  {:<11}  {}",
            run.id,
            word(run.state.word(), 10, colours),
            word(verdict, 12, colours),
            shown_cut(&run.headline, 26).as_str(),
            shown_cut(&run.repo, 21).as_str(),
            shown_cut(&run.branch, 15).as_str(),
            run.sha,
            took(run, now),
            ago(run.created_ms, now),
            shown_cut(run.message.lines().next().unwrap_or_default(), 60)
        );
    }
    out
}

pub fn detail(answer: &RunDetail, now: i64, colours: bool) -> String {
    let run = &answer.run;
    let mut out = format!(
        "run       {}\nstate     {}{}\n",
        run.id,
        word(run.state.word(), 0, colours),
        run.reason.lines().next().map_or(String::new(), |reason| format!(": {}", shown(reason))),
    );
    for finding in run.reason.lines().skip(1) {
        let _ = writeln!(out, "          {}", shown(finding));
    }
    if let Some(verdict) = run.verdict {
        let _ = writeln!(out, "verdict   {} {}", word(verdict.word(), 0, colours), shown(&run.headline));
    }
    let _ = write!(
        out,
        "repo      {}  pipeline {}\ncommit    {} on {}\nmessage   {}\nby        {}{}\n",
        shown(&run.repo),
        shown(&run.pipeline),
        run.sha,
        shown(&run.branch),
        shown_cut(run.message.lines().next().unwrap_or_default(), 200),
        shown(&run.actor),
        if run.trusted { "" } else { " (untrusted)" },
    );
    if let Some(why) = run.cancel_request.as_ref().filter(|_| !run.state.is_terminal()) {
        let _ = writeln!(out, "stopping  {}", shown(why));
    }
    let _ = write!(out, "page      {}\n\n", run.url);
    for step in &answer.steps {
        let took =
            step.started_ms.map_or(String::new(), |from| duration(step.ended_ms.unwrap_or(now) - from));
        let _ = writeln!(
            out,
            "  {}  {:<28}  {:>8}  {}",
            word(step.state.word(), 10, colours),
            shown_cut(&step.name, 27).as_str(),
            took,
            shown_cut(reason(step), 160)
        );
        let notes = step.attempts.last().map_or(&[][..], |last| &last.notes);
        for note in notes {
            let _ = writeln!(out, "              {}", shown_cut(note, 300));
        }
    }
    if run.state == RunState::Held {
        let _ =
            write!(out, "\nLook at the commit, then: trainyard runs release {} --sha {}\n", run.id, run.sha);
    }
    out
}

/// Why a step is where it is.
fn reason(step: &StepJson) -> &str {
    if let Some(waits) =
        step.attempts.last().filter(|a| a.state == AttemptState::Pending && !a.reason.is_empty())
    {
        return &waits.reason;
    }
    if !step.reason.is_empty() || step.state == StepState::Succeeded {
        return &step.reason;
    }
    step.attempts.last().map_or("", |a| &a.reason)
}

pub fn diff(answer: &RunDiff) -> String {
    let mut out = format!("a  {}\nb  {}\n", answer.a, answer.b);
    let text = |v: &Option<String>| v.as_ref().map_or("–".to_owned(), |v| shown_cut(v, 60).to_string());
    let value = |v: Option<f64>| v.map_or("–".to_owned(), number);
    section(&mut out, "Parameters", &answer.params, |p| {
        format!("{:<32}  {} → {}", shown_cut(&p.name, 60).as_str(), text(&p.a), text(&p.b))
    });
    section(&mut out, "Metrics", &answer.metrics, |m| {
        let name = format!("{} ({})", shown_cut(&m.name, 60), shown_cut(&m.step, 40));
        let delta = m.delta.map_or(String::new(), signed);
        format!("{name:<44}  {:>12}  {:>12}  {delta:>12}", value(m.a), value(m.b))
    });
    if !answer.intervals.is_empty() {
        section(&mut out, "Means", &answer.intervals, |m| {
            let name = format!("{} ({})", shown_cut(&m.name, 60), shown_cut(&m.step, 40));
            format!(
                "{name:<44}  {} → {} ({}, {:.0} % CI {} … {}, {})",
                number(m.a),
                number(m.b),
                signed(m.delta),
                100.0 * m.level,
                signed(m.low),
                signed(m.high),
                shown_cut(&m.basis, 60)
            )
        });
    }
    section(&mut out, "Plan", &answer.plan, |p| {
        let json = |v: &serde_json::Value| shown_cut(&v.to_string(), 120).to_string();
        format!("{}\n    a {}\n    b {}", shown_cut(&p.at, 80), json(&p.a), json(&p.b))
    });
    section(&mut out, "Durations", &answer.durations, |d| {
        let took = |ms: Option<i64>| ms.map_or("–".to_owned(), duration);
        let name = if d.step.is_empty() { "whole run" } else { &d.step };
        format!("{:<32}  {:>9}  {:>9}", shown_cut(name, 60).as_str(), took(d.a_ms), took(d.b_ms))
    });
    out
}

fn section<T>(out: &mut String, title: &str, rows: &[T], line: impl Fn(&T) -> String) {
    let _ = writeln!(out, "\n{title}");
    if rows.is_empty() {
        let _ = writeln!(out, "  no difference");
    }
    for row in rows {
        let _ = writeln!(out, "  {}", line(row));
    }
}

pub fn why(answer: &WhyJson) -> String {
    let mut out = format!("run {} is {}: {}\n", answer.run, answer.state, shown(&answer.says));
    for step in &answer.steps {
        let name = shown_cut(&step.step, 23);
        let _ = writeln!(out, "  {:<10}  {:<24}  {}", step.state, name.as_str(), shown(&step.says));
    }
    out
}
