//! The pools and what is taken of them.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Answer;
use super::openapi::Refusals;
use crate::http::app::Web;
use crate::http::problem::Problem;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolJson {
    pub name: String,
    pub executor: String,
    /// At once; none where a queue of the cluster gives the places.
    pub slots: Option<u32>,
    pub slots_used: i64,
    /// Of all attempts together; none where a queue of the cluster gives the places.
    pub gpus: Option<u32>,
    pub gpus_used: Vec<u32>,
    pub gpu_hour_price: f64,
    pub currency: String,
    pub untrusted: bool,
}

pub async fn pool_rows(web: &Web) -> Result<Vec<PoolJson>, Problem> {
    let mut used = web.app.store.pool_use().await?;
    let row = |(name, pool): (String, crate::config::PoolConfig)| {
        let used = used.remove(&name).unwrap_or_default();
        PoolJson {
            name,
            slots: pool.slot_limit(),
            slots_used: used.attempts,
            gpus: pool.gpu_limit(),
            executor: pool.executor,
            gpus_used: used.gpus,
            gpu_hour_price: pool.gpu_hour_price,
            currency: pool.currency,
            untrusted: pool.untrusted,
        }
    };
    Ok(web.app.config.pools().into_iter().map(row).collect())
}

/// The pools and what is taken of them
#[utoipa::path(get, path = "/api/v1/pools", tag = "pools", responses((status = 200, description = "By name", body = Vec<PoolJson>), Refusals))]
pub async fn pools(State(web): State<Web>) -> Answer<Vec<PoolJson>> {
    pool_rows(&web).await.map(Json)
}
