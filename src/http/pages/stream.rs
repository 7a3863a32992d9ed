//! `/runs/{run}/stream`: what a run's page has to know while the run goes on. Each curve that has grown is sent as the server
//! draws it; that something else has changed is only said, and the page is fetched again.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderName;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::chart::Chart;
use super::metrics;
use crate::http::api::{CURVE_POINTS, POINTS_MAX, run_for};
use crate::http::app::{Follower, Web};
use crate::http::auth::Who;
use crate::http::extract::Path;
use crate::http::live::Hint;
use crate::http::problem::Problem;
use crate::model::{ComparisonState, RunId};
use crate::store::runs::RunView;

/// Between two looks at a run that reports all the time.
const PACE: Duration = Duration::from_millis(700);
/// Between two looks at one of which nothing is heard.
const POLL: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A stream ends after this time; browsers come back by themselves, and their token is looked at again.
const STREAM_MAX: Duration = Duration::from_mins(10);

#[derive(Template)]
#[template(path = "chart.html")]
struct ChartPart<'a> {
    chart: &'a Chart,
}

#[derive(Serialize)]
struct ChartEvent<'a> {
    name: &'a str,
    html: String,
}

struct Watch {
    web: Web,
    run: RunId,
    hints: Receiver<Hint>,
    ends_at: tokio::time::Instant,
    /// What was said of everything but curves.
    said: Option<u64>,
    /// Points that were drawn, and what was sent of each curve.
    points: i64,
    drawn: HashMap<String, u64>,
    ready: VecDeque<Event>,
    over: bool,
    _place: Follower,
}

/// `GET /runs/{run}/stream`: events `chart` (`{name, html}`), `changed`, `end`.
pub async fn stream(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let run = run_for(&web, &who, &id).await?.view.run.id;
    let place = web.follow(who.token.as_deref().unwrap_or("anonymous"))?;
    let watch = Watch {
        hints: web.app.live.follow(),
        run,
        ends_at: tokio::time::Instant::now() + STREAM_MAX,
        said: None,
        points: -1,
        drawn: HashMap::new(),
        ready: VecDeque::new(),
        over: false,
        _place: place,
        web,
    };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"));
    Ok(([(HeaderName::from_static("x-accel-buffering"), "no")], sse).into_response())
}

fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Watch {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over || (self.said.is_some() && !self.wait().await) {
                return None;
            }
            if let Err(problem) = self.look().await {
                tracing::debug!(detail = problem.detail, "a run's events end");
                return None;
            }
        }
    }

    /// Puts what is new into `ready`.
    async fn look(&mut self) -> Result<(), Problem> {
        let store = &self.web.app.store;
        let view = store.run_view(&self.run).await?.ok_or_else(|| Problem::not_found("run"))?;
        let comparisons = store.comparisons_of(&self.run).await?;
        let judged: Vec<(&str, i64)> =
            comparisons.iter().map(|c| (c.target.as_str(), c.updated_ms)).collect();
        let states: Vec<(&str, bool)> =
            view.attempts.iter().map(|a| (a.uid.as_str(), a.started_ms.is_some())).collect();
        let steps: Vec<&str> = view.steps.iter().map(|s| s.state.word()).collect();
        let now = digest((view.run.epoch, view.run.state, &view.run.cancel_request, steps, states, judged));
        let first = self.said.is_none();
        if self.said.replace(now).is_some_and(|said| said != now) {
            self.ready.push_back(Event::default().event("changed").data(view.run.state.word()));
        }
        let points = view.attempts.iter().map(|a| a.metrics_seq).sum();
        if points != self.points {
            self.points = points;
            let base = comparisons.iter().find_map(|c| c.baseline.clone());
            self.draw(&view, base.as_ref(), first).await?;
        }
        let settled = comparisons.iter().all(|c| c.state != ComparisonState::Pending);
        if view.run.state.is_terminal() && settled {
            self.ready.push_back(Event::default().event("end").data(view.run.state.word()));
            self.over = true;
        }
        Ok(())
    }

    /// The page was made just before: the first time, what it has is sent again only where it may have grown since.
    async fn draw(&mut self, view: &RunView, base: Option<&RunId>, first: bool) -> Result<(), Problem> {
        let store = &self.web.app.store;
        let own = store.sample_metrics(&self.run, None, CURVE_POINTS, POINTS_MAX).await?;
        let before = match base {
            Some(base) => store.sample_metrics(base, None, CURVE_POINTS, POINTS_MAX).await?,
            None => Vec::new(),
        };
        let (charts, _) = metrics::charts(&view.run.plan, &metrics::against(&own, &before));
        let mut fresh = false;
        for chart in &charts {
            let name = chart.name.to_string();
            let html = ChartPart { chart }.render()?;
            let mark = digest(&html);
            let known = self.drawn.insert(name.clone(), mark);
            fresh |= known.is_none() && !first;
            if known != Some(mark)
                && let Ok(event) = Event::default().event("chart").json_data(ChartEvent { name: &name, html })
            {
                self.ready.push_back(event);
            }
        }
        if fresh {
            // A metric that the page has no place for yet.
            self.ready.push_back(Event::default().event("changed").data("curves"));
        }
        Ok(())
    }

    /// Until something may have happened. False: end the stream.
    async fn wait(&mut self) -> bool {
        tokio::time::sleep(PACE).await;
        let poll = tokio::time::sleep(POLL);
        tokio::pin!(poll);
        loop {
            tokio::select! {
                () = self.web.app.stopping.cancelled() => return false,
                () = tokio::time::sleep_until(self.ends_at) => return false,
                () = &mut poll => return true,
                hint = self.hints.recv() => match hint {
                    Ok(Hint::Run(run)) if run == self.run => return true,
                    Ok(_) => {}
                    // Missed some, or nobody sends: the poll is the truth.
                    Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => {
                        poll.await;
                        return true;
                    }
                },
            }
        }
    }
}
