//! The daemon's own metrics in `OpenMetrics` text. Names have base units and bounded labels: never a sha, a run or a branch.

use std::sync::Mutex;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookLabels {
    pub forge: String,
    pub event: String,
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    pub call: String,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabels {
    pub listener: &'static str,
}

/// Every metric of the daemon. Other rooms may register their own with [`Telemetry::register`].
#[derive(Debug)]
pub struct Telemetry {
    registry: Mutex<Registry>,
    pub webhooks: Family<WebhookLabels, Counter>,
    pub agent_calls: Family<CallLabels, Counter>,
    pub log_bytes: Counter,
    pub artifact_bytes: Counter,
    pub connections: Family<ListenerLabels, Gauge>,
}

impl Telemetry {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("trainyard");
        let webhooks = Family::<WebhookLabels, Counter>::default();
        registry.register("webhooks_received", "Webhook requests by outcome", webhooks.clone());
        let agent_calls = Family::<CallLabels, Counter>::default();
        registry.register("agent_calls", "Calls of agents by status", agent_calls.clone());
        let log_bytes = Counter::default();
        registry.register("log_stored_bytes", "Log bytes stored", log_bytes.clone());
        let artifact_bytes = Counter::default();
        registry.register("artifact_stored_bytes", "Artifact bytes stored", artifact_bytes.clone());
        let connections = Family::<ListenerLabels, Gauge>::default();
        registry.register("http_connections", "Open connections", connections.clone());
        Self { registry: Mutex::new(registry), webhooks, agent_calls, log_bytes, artifact_bytes, connections }
    }
    /// Adds metrics to the registry, once, at start.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
    /// The `OpenMetrics` text.
    pub fn encode(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a String does not fail");
        text
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
