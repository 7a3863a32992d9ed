//! `/pools`: what is in use, and what it costs.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::{Shell, render};
use crate::http::api::pool_rows;
use crate::http::app::Web;
use crate::http::auth::Who;
use crate::http::problem::Problem;
use crate::http::text::{Shown, number, shown};

#[derive(Template)]
#[template(path = "pools.html")]
struct Page {
    shell: Shell,
    pools: Vec<Pool>,
}

struct Pool {
    name: Shown,
    executor: Shown,
    untrusted: bool,
    slots: Option<u32>,
    slots_used: i64,
    gpus: Option<u32>,
    gpus_used: usize,
    /// One for each GPU: busy?
    gpu_cells: Vec<bool>,
    price: String,
}

/// `GET /pools`
pub async fn show(State(web): State<Web>, Extension(who): Extension<Who>) -> Result<Response, Problem> {
    let pools = pool_rows(&web).await?.into_iter().map(|p| Pool {
        name: shown(&p.name),
        executor: shown(&p.executor),
        untrusted: p.untrusted,
        slots: p.slots,
        slots_used: p.slots_used,
        gpus: p.gpus,
        gpus_used: p.gpus_used.len(),
        gpu_cells: (0..p.gpus.unwrap_or(0).min(256)).map(|i| p.gpus_used.contains(&i)).collect(),
        price: if p.gpu_hour_price > 0.0 {
            format!("{} {}", number(p.gpu_hour_price), p.currency)
        } else {
            String::new()
        },
    });
    render(&Page { shell: Shell::new("pools", &who, "/pools", 3000), pools: pools.collect() })
}
