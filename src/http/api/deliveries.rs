//! Webhook deliveries as received, and looking at one again.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};

use super::{Answer, Done, PAGE, PAGE_MAX, PageQuery};
use crate::clock::Millis;
use crate::http::app::Web;
use crate::http::problem::Problem;
use crate::model::{DeliveryRowId, DeliveryState};
use crate::store::deliveries::DeliveryRow;

#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveryJson {
    pub id: String,
    pub forge: String,
    pub hook: String,
    pub delivery_id: String,
    pub event: String,
    pub body_bytes: i64,
    pub body_sha256: String,
    pub received_ms: Millis,
    pub state: DeliveryState,
    pub reason: String,
    pub decided_ms: Option<Millis>,
}

impl DeliveryJson {
    fn new(row: DeliveryRow) -> Self {
        Self {
            id: row.id.to_string(),
            forge: row.forge,
            hook: row.hook_id,
            delivery_id: row.delivery_id,
            event: row.event,
            body_bytes: row.body_bytes,
            body_sha256: row.body_sha256,
            received_ms: row.received_ms,
            state: row.state,
            reason: row.reason,
            decided_ms: row.decided_ms,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveriesJson {
    pub deliveries: Vec<DeliveryJson>,
    pub next: Option<String>,
}

/// `GET /api/v1/deliveries?before=&limit=`
pub async fn deliveries(State(web): State<Web>, Query(query): Query<PageQuery>) -> Answer<DeliveriesJson> {
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let rows = web.app.store.list_deliveries(query.before.as_deref(), limit).await?;
    let next = (rows.len() as i64 == limit).then(|| rows.last().map(|r| r.id.to_string())).flatten();
    Ok(Json(DeliveriesJson { deliveries: rows.into_iter().map(DeliveryJson::new).collect(), next }))
}

/// `GET /api/v1/deliveries/{delivery}`: by our id or the forge's.
pub async fn delivery(State(web): State<Web>, Path(id): Path<String>) -> Answer<DeliveryJson> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    Ok(Json(DeliveryJson::new(row)))
}

/// `POST /api/v1/deliveries/{delivery}/replay`
pub async fn replay(State(web): State<Web>, Path(id): Path<String>) -> Answer<Done> {
    let row = web.app.store.find_delivery(&id).await?.ok_or_else(|| Problem::not_found("delivery"))?;
    let changed = web
        .app
        .store
        .replay_delivery(&DeliveryRowId::from_text(row.id.as_str()), web.app.clock.now_ms())
        .await?;
    Ok(Json(Done { changed, detail: "it will be looked at again".into() }))
}
