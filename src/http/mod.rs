//! The four listeners: `hooks` (public, webhooks only), `app` (dashboard and API), `agent` (attempts: their calls and
//! their git), `ops` (health and metrics).
//!
//! Handlers translate: a request becomes rows and work items, rows become an answer. They must not decide what a delivery
//! means or what a run does next, and they must not start work that outlives the request except through the store.

pub mod agent_api;
pub mod agent_tls;
pub mod api;
pub mod app;
pub mod assets;
pub mod auth;
mod extract;
pub mod follow;
mod git_proxy;
mod hook_claims;
mod hook_room;
pub mod hooks;
pub mod last_log;
pub mod live;
pub mod log_index;
pub mod log_turns;
pub mod logs;
pub mod ops;
pub mod pages;
pub mod problem;
pub mod secrets;
pub mod serve;
mod spec;
mod summary;
pub mod telemetry;
pub mod terminal;
pub mod text;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::blob::Blobs;
use crate::clock::SharedClock;
use crate::config::{Config, ConfigError};
use crate::forge::Forges;
use crate::store::{Instance, Store};

pub use live::{Hint, Live};
pub use log_turns::LogTurns;
pub use secrets::Secrets;
pub use telemetry::Telemetry;

/// What every handler holds. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub blobs: Blobs,
    pub forges: Forges,
    pub config: Arc<Config>,
    pub clock: SharedClock,
    pub instance: Arc<Instance>,
    pub telemetry: Arc<Telemetry>,
    pub live: Live,
    pub log_turns: LogTurns,
    /// Cancelled when the daemon shuts down: `/readyz` says no, listeners drain, followers are sent away.
    pub stopping: CancellationToken,
    pub secrets: Arc<Secrets>,
}

impl App {
    /// Reads every configured secret once.
    ///
    /// # Errors
    /// A secret that cannot be read (unset, unreadable, empty).
    pub fn new(
        store: Store,
        blobs: Blobs,
        forges: Forges,
        config: Arc<Config>,
        clock: SharedClock,
        instance: Arc<Instance>,
    ) -> Result<Self, ConfigError> {
        let secrets = Arc::new(Secrets::read(&config)?);
        Ok(Self {
            store,
            blobs,
            forges,
            config,
            clock,
            instance,
            telemetry: Arc::new(Telemetry::new()),
            live: Live::new(),
            log_turns: LogTurns::default(),
            stopping: CancellationToken::new(),
            secrets,
        })
    }
}
