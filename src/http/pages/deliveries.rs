//! `/deliveries`: what forges sent, and what was decided.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use sha2::{Digest, Sha256};

use super::{Shell, render};
use crate::clock::Millis;
use crate::config::{ForgeConfig, HookConfig};
use crate::http::api::PageQuery;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::extract::{Path, Query};
use crate::http::problem::Problem;
use crate::http::text::{self, Shown, shown, shown_cut, shown_lines};
use crate::store::deliveries::DeliveryRow;
use crate::store::tokens::Scope;

/// Characters of a body that a page shows.
const BODY_MAX: usize = 128 << 10;

#[derive(Template)]
#[template(path = "deliveries.html")]
struct ListPage {
    shell: Shell,
    rows: Vec<Row>,
    /// Paths of the configured hooks.
    hooks: Vec<String>,
    next: Option<String>,
}

struct Row {
    id: String,
    state: &'static str,
    event: Shown,
    reason: Shown,
    hook: Shown,
    size: String,
    received: String,
    received_long: String,
    age: String,
}

impl Row {
    fn new(row: &DeliveryRow, now: Millis) -> Self {
        Self {
            id: row.id.to_string(),
            state: row.state.word(),
            event: shown_cut(&row.event, 60),
            reason: shown_cut(&row.reason, 400),
            hook: shown(&format!("{}/{}", row.forge, row.hook_id)),
            size: text::bytes(row.body_bytes),
            received: text::rfc3339(row.received_ms),
            received_long: text::instant(row.received_ms),
            age: text::ago(row.received_ms, now),
        }
    }
}

/// `GET /deliveries?cursor=`
pub async fn list(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let now = web.app.clock.now_ms();
    let (cursor, limit) = query.check()?;
    let rows = web.app.store.list_deliveries(cursor, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|r| r.id.to_string())).flatten();
    let rows = rows.iter().map(|r| Row::new(r, now)).collect();
    let refresh = if cursor.is_none() { 3000 } else { 0 };
    let paths = |forge: &ForgeConfig| {
        let of = |hook: &HookConfig| format!("/hooks/{}/{}", forge.kind.word(), hook.id);
        forge.hook.iter().map(of).collect::<Vec<_>>()
    };
    let hooks = web.app.config.forge.values().flat_map(paths).collect();
    render(&ListPage { shell: Shell::new("deliveries", &who, "/deliveries", refresh), rows, hooks, next })
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct DeliveryPage {
    shell: Shell,
    d: Row,
    delivery_id: Shown,
    content_type: Shown,
    sha256: Option<String>,
    decided_after: Option<String>,
    headers: Vec<(Shown, Shown)>,
    body: Option<Shown>,
    body_cut: bool,
    no_body: &'static str,
}

/// `GET /deliveries/{delivery}`. The body holds what the forge knows of people: administrators see it.
pub async fn show(
    State(web): State<Web>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    let (mut body, mut no_body) = (None, "Sign in with an admin token to see the body.");
    if who.may(Scope::Admin) {
        body = web.app.store.delivery_body(&row.id).await?;
        no_body = "The body was deleted by retention.";
    }
    let text = body.as_deref().map(readable);
    let body_cut = text.as_ref().is_some_and(|t| t.len() > BODY_MAX);
    let cut = |t: String| {
        let end = (0..=BODY_MAX.min(t.len())).rev().find(|at| t.is_char_boundary(*at)).unwrap_or(0);
        shown_lines(&t[..end])
    };
    render(&DeliveryPage {
        shell: Shell::new("deliveries", &who, &format!("/deliveries/{}", row.id), 0),
        d: Row::new(&row, web.app.clock.now_ms()),
        delivery_id: shown(&row.delivery_id),
        content_type: shown(&row.content_type),
        sha256: body.as_deref().map(|b| hex::encode(Sha256::digest(b))),
        decided_after: row.decided_ms.map(|at| text::duration(at - row.received_ms)),
        headers: row.headers.iter().map(|(name, value)| (shown(name), shown(value))).collect(),
        body: text.map(cut),
        body_cut,
        no_body,
    })
}

/// JSON with line breaks; anything else as it is.
fn readable(body: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(body)
        .and_then(|json| serde_json::to_string_pretty(&json))
        .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}
