//! Webhook deliveries as received, and looking at one again.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openapi::Refusals;
use super::{Answer, Done, PageQuery, listed};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::extract::{Path, Query};
use crate::http::problem::Problem;
use crate::model::{DeliveryRowId, DeliveryState};
use crate::store::deliveries::DeliveryRow;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeliveryJson {
    pub id: String,
    pub forge: String,
    pub hook: String,
    pub delivery_id: String,
    pub event: String,
    pub body_bytes: i64,
    pub received_ms: Millis,
    pub state: DeliveryState,
    pub reason: String,
    pub decided_ms: Option<Millis>,
}

impl DeliveryJson {
    pub fn new(row: DeliveryRow) -> Self {
        Self {
            id: row.id.to_string(),
            forge: row.forge,
            hook: row.hook_id,
            delivery_id: row.delivery_id,
            event: row.event,
            body_bytes: row.body_bytes,
            received_ms: row.received_ms,
            state: row.state,
            reason: row.reason,
            decided_ms: row.decided_ms,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeliveriesJson {
    pub deliveries: Vec<DeliveryJson>,
    pub next: Option<String>,
}

/// Lists webhook deliveries, newest first
#[utoipa::path(get, path = "/api/v1/deliveries", tag = "deliveries", params(PageQuery), responses((status = 200, description = "Newest first", body = DeliveriesJson), Refusals))]
pub async fn deliveries(
    State(web): State<Web>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (cursor, limit) = query.check()?;
    let rows = web.app.store.list_deliveries(cursor, limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|r| r.id.to_string())).flatten();
    let asked = [("limit", limit.to_string()), ("cursor", next.clone().unwrap_or_default())];
    let answer = DeliveriesJson { deliveries: rows.into_iter().map(DeliveryJson::new).collect(), next };
    Ok(listed(&headers, &answer, "/api/v1/deliveries", &asked))
}

/// One webhook delivery
#[utoipa::path(get, path = "/api/v1/deliveries/{delivery}", tag = "deliveries", params(("delivery" = String, Path, description = "Our id, or the forge's delivery id")), responses((status = 200, description = "One delivery", body = DeliveryJson), Refusals))]
pub async fn delivery(State(web): State<Web>, Path(id): Path<String>) -> Answer<DeliveryJson> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    Ok(Json(DeliveryJson::new(row)))
}

/// Looks at a delivery again
#[utoipa::path(post, path = "/api/v1/deliveries/{delivery}/replay", tag = "deliveries", params(("delivery" = String, Path, description = "Our id, or the forge's delivery id")), responses((status = 200, description = "It will be looked at again", body = Done), Refusals))]
pub async fn replay(State(web): State<Web>, Path(id): Path<String>) -> Answer<Done> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    let changed = web
        .app
        .store
        .replay_delivery(&DeliveryRowId::from_text(row.id.as_str()), web.app.clock.now_ms())
        .await?;
    Ok(Json(Done { changed, detail: "it will be looked at again".into() }))
}
