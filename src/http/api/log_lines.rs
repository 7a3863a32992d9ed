//! A log by its lines: windows, sections, search. Nothing here ever reads a whole log to show a part of it.

use axum::Extension;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi::Refusals;
use super::{Answer, FoundLog, log_for};
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::extract::{Path, Query};
use crate::http::log_index::{LogIndex, behind, pieces};
use crate::http::logs;
use crate::http::problem::Problem;
use crate::http::terminal::{self, Span, Style};
use crate::http::text::shown_cut;

/// Lines of one window.
const LINES: i64 = 1000;
/// Bytes read at once, and of the lines of one window: a window of longer ones has fewer lines than were asked for.
const WINDOW: usize = 4 << 20;
/// Bytes that one search looks at before it answers with what it has.
const SEARCHED: i64 = 64 << 20;
const PIECE: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LogIndexJson {
    /// Bytes that the daemon has.
    pub bytes: i64,
    /// Bytes whose lines are counted; fewer than `bytes` for a large log that was not looked at before: ask again.
    pub indexed_bytes: i64,
    /// Lines that are counted.
    pub lines: i64,
    /// Nothing will be added.
    pub ended: bool,
    pub sections: Vec<SectionJson>,
    /// Numbers of the first lines that look like an error.
    pub errors: Vec<i64>,
    pub error_count: i64,
}

/// A stretch under a title.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SectionJson {
    /// Number of its title's line, from 0.
    pub line: i64,
    /// The first line behind it; null: it goes to the end.
    pub end: Option<i64>,
    pub title: String,
    /// From the log's own `::group::`; else a command of the step.
    pub group: bool,
}

async fn index(web: &Web, found: &FoundLog) -> Result<LogIndex, Problem> {
    Ok(web.log_indexes.grown(&web.app, &found.of, found.bytes, found.ended).await?)
}

/// The sections of a log, and how many lines it has
#[utoipa::path(get, path = "/api/v1/attempts/{attempt}/log/index", tag = "logs",
    params(("attempt" = String, Path, description = "The attempt's uid; `<uid>.<rank>` for another of its pods")),
    responses((status = 200, description = "As far as the log goes", body = LogIndexJson), Refusals))]
pub async fn log_index(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
) -> Answer<LogIndexJson> {
    let found = log_for(&web, &who, &uid).await?;
    let index = index(&web, &found).await?;
    let section = |s: crate::http::log_index::Section| SectionJson {
        line: s.line,
        end: s.end,
        title: shown_cut(&s.title, 120).to_string(),
        group: s.group,
    };
    Ok(Json(LogIndexJson {
        bytes: found.bytes,
        indexed_bytes: index.bytes,
        lines: index.lines,
        ended: found.ended,
        sections: index.sections.into_iter().map(section).collect(),
        errors: index.errors,
        error_count: index.error_count,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LinesQuery {
    /// Number of the first line, from 0.
    #[serde(default)]
    #[param(minimum = 0)]
    from: i64,
    /// 200 when absent.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000)]
    count: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LogLinesJson {
    pub from: i64,
    /// Each line as stretches of one style; fewer than asked for at the end of the log, or when they are long.
    pub lines: Vec<Vec<Span>>,
    /// Lines that are counted.
    pub total: i64,
    pub ended: bool,
}

/// Some lines of a log, as styled text
#[utoipa::path(get, path = "/api/v1/attempts/{attempt}/log/lines", tag = "logs",
    params(("attempt" = String, Path, description = "The attempt's uid; `<uid>.<rank>` for another of its pods"), LinesQuery),
    responses((status = 200, description = "The window", body = LogLinesJson), Refusals))]
pub async fn log_lines(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
    Query(query): Query<LinesQuery>,
) -> Answer<LogLinesJson> {
    let count = query.count.unwrap_or(200);
    if query.from < 0 || !(1..=LINES).contains(&count) {
        return Err(Problem::bad_request(format!("from must be 0 or more, count 1 to {LINES}")));
    }
    let found = log_for(&web, &who, &uid).await?;
    let index = index(&web, &found).await?;
    let from = query.from.min(index.lines);
    let last = (from + count).min(index.lines);
    let (mut byte, mut number) = index.mark(from);
    let mut style = Style::default();
    let mut lines = Vec::new();
    let mut held = 0;
    while number < last && held < WINDOW {
        let mut bytes = logs::read(&web.app, &found.of, byte, WINDOW).await?.to_vec();
        if byte + bytes.len() as i64 >= index.bytes && bytes.last().is_some_and(|b| *b != b'\n') {
            bytes.push(b'\n'); // an ended attempt's last line
        }
        let mut done = 0;
        for (start, end) in pieces(&bytes) {
            if number >= last || held >= WINDOW {
                break;
            }
            // Styles carry on from the mark, so the lines before the window are read for theirs.
            let spans = terminal::line(&bytes[start..end], &mut style);
            if number >= from {
                lines.push(spans);
                held += end - start;
            }
            done = behind(&bytes, end);
            number += 1;
        }
        if done == 0 {
            break;
        }
        byte += done as i64;
    }
    Ok(Json(LogLinesJson { from, lines, total: index.lines, ended: found.ended }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// Text, not a pattern; letter case does not count (ASCII).
    #[param(min_length = 1, max_length = 200)]
    q: String,
    /// Number of the line to begin at, from 0.
    #[serde(default)]
    #[param(minimum = 0)]
    from: i64,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LogSearchJson {
    /// Numbers of the lines that hold the text, at most 1000.
    pub lines: Vec<i64>,
    /// The line to go on from; null: the end was reached.
    pub next: Option<i64>,
}

/// Searches a log
///
/// One call looks at 64 MiB; `next` goes on.
#[utoipa::path(get, path = "/api/v1/attempts/{attempt}/log/search", tag = "logs",
    params(("attempt" = String, Path, description = "The attempt's uid; `<uid>.<rank>` for another of its pods"), SearchQuery),
    responses((status = 200, description = "What was found", body = LogSearchJson), Refusals))]
pub async fn log_search(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(uid): Path<String>,
    Query(query): Query<SearchQuery>,
) -> Answer<LogSearchJson> {
    let length = query.q.chars().count();
    if query.from < 0 || length == 0 || length > 200 {
        return Err(Problem::bad_request("q must have 1 to 200 characters, and from be 0 or more"));
    }
    let found = log_for(&web, &who, &uid).await?;
    let index = index(&web, &found).await?;
    let finder = aho_corasick::AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build([&query.q])
        .map_err(|_| Problem::bad_request("this text cannot be searched for"))?;
    let _turn = web.log_indexes.turn().await;
    let (mut byte, mut number) = index.mark(query.from);
    let stop = byte + SEARCHED;
    let mut lines = Vec::new();
    while byte < index.bytes.min(stop) && lines.len() < LINES as usize {
        let mut bytes = logs::read(&web.app, &found.of, byte, PIECE).await?.to_vec();
        if byte + bytes.len() as i64 >= index.bytes && bytes.last().is_some_and(|b| *b != b'\n') {
            bytes.push(b'\n');
        }
        let mut matches = finder.find_iter(&bytes).map(|m| m.start()).peekable();
        let mut done = 0;
        for (_, end) in pieces(&bytes) {
            done = behind(&bytes, end);
            let mut hit = false;
            while matches.next_if(|at| *at < done).is_some() {
                hit = true;
            }
            if hit && number >= query.from && lines.len() < LINES as usize {
                lines.push(number);
            }
            number += 1;
        }
        if done == 0 {
            break;
        }
        byte += done as i64;
    }
    let full = lines.len() == LINES as usize;
    let next = match lines.last() {
        Some(last) if full => Some(last + 1),
        _ => (byte < index.bytes).then_some(number),
    };
    Ok(Json(LogSearchJson { lines, next }))
}
