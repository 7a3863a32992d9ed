//! `/runs/{run}/log`: the logs of all steps of a run. The page carries the list of steps; its script reads windows of lines.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::run::telling;
use super::runs::title;
use super::{Shell, render};
use crate::http::api::{FoundRun, run_for};
use crate::http::app::Web;
use crate::http::auth::{Who, escape_query};
use crate::http::extract::Path;
use crate::http::problem::Problem;
use crate::http::text::{self, Shown, shown, shown_cut};
use crate::model::{AttemptState, EndClass, LEADER, StepState};

#[derive(Template)]
#[template(path = "log.html")]
struct Page {
    shell: Shell,
    id: String,
    state: &'static str,
    title: Shown,
    repo: Shown,
    repo_path: String,
    steps: Vec<Step>,
}

struct Step {
    name: Shown,
    position: i64,
    state: &'static str,
    tries: Vec<Try>,
}

struct Try {
    number: i64,
    /// Of several pods: which one.
    rank: u32,
    /// As the calls about logs take it.
    uid: String,
    state: &'static str,
    size: String,
    /// What a link to a line of it begins with: `train:`, or `train@2:` for an earlier try.
    link: String,
    live: bool,
    /// Its log says most: it is opened when the address names none.
    telling: bool,
}

/// `GET /runs/{run}/log`
pub async fn show(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let FoundRun { view, repo } = run_for(&web, &who, &id).await?;
    let tells = telling(&view.steps).map(|s| &s.id);
    let steps = view.steps.iter().map(|step| {
        let all: Vec<_> = view.attempts.iter().filter(|a| a.step_id == step.id).collect();
        let tries = all.iter().enumerate().flat_map(|(at, a)| {
            let last = at + 1 == all.len();
            let name = escape_query(&step.name);
            let (live, number) = (a.state != AttemptState::Ended, a.number);
            let (says_most, _) = view.telling_log(a);
            let tells = last && Some(&step.id) == tells;
            let first = Try {
                number,
                rank: LEADER,
                uid: a.uid.to_string(),
                state: if last { step.state.word() } else { "failed" },
                size: text::bytes(a.log_bytes),
                link: if last { format!("{name}:") } else { format!("{name}@{number}:") },
                live,
                telling: tells && says_most.leads(),
            };
            let others =
                view.ranks.iter().filter(|row| row.of.uid == a.uid && !row.of.leads()).map(|row| Try {
                    number,
                    rank: row.of.rank,
                    uid: row.of.to_string(),
                    state: match row.class {
                        None if live => StepState::Running.word(),
                        Some(EndClass::Succeeded) => StepState::Succeeded.word(),
                        _ => StepState::Failed.word(),
                    },
                    size: text::bytes(row.log_bytes),
                    link: format!("{}@{number}.{}:", escape_query(&step.name), row.of.rank),
                    live,
                    telling: tells && says_most == row.of,
                });
            std::iter::once(first).chain(others).collect::<Vec<_>>()
        });
        Step {
            name: shown_cut(&step.name, 100),
            position: step.position,
            state: step.state.word(),
            tries: tries.collect(),
        }
    });
    render(&Page {
        shell: Shell::new("runs", &who, &format!("/runs/{}/log", view.run.id), 0),
        id: view.run.id.to_string(),
        state: view.run.state.word(),
        title: title(&view.run.message),
        repo: shown(repo.name.as_str()),
        repo_path: escape_query(repo.name.as_str()),
        steps: steps.collect(),
    })
}
