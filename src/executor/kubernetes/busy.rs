//! How busy an attempt's GPUs were: asked of a Prometheus that scrapes NVIDIA's DCGM exporter.
//!
//! `DCGM_FI_PROF_GR_ENGINE_ACTIVE` is the share of time that the graphics or compute engine was active, 0 to 1; unlike
//! `DCGM_FI_DEV_GPU_UTIL` it is also there for MIG devices. The exporter names the pod that holds a GPU in its labels `namespace` and
//! `pod`, which Prometheus renames to `exported_namespace` and `exported_pod` unless it honours them. GPUs that are shared by time
//! slices have no such labels: then nothing is known.

use std::time::Duration;

use serde::Deserialize;

use crate::model::Held;

/// A monitor that does not answer holds nobody up for long.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Busy {
    http: reqwest::Client,
    url: String,
}

/// Of `GET /api/v1/query` with a vector of one element: Prometheus' HTTP API.
#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    /// Time in seconds, and the number as text.
    value: (f64, String),
}

impl Busy {
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn new(url: &str) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, url: format!("{}/api/v1/query", url.trim_end_matches('/')) })
    }

    /// The mean over the GPUs of these pods while they held them, 0 to 1. None: Prometheus has no sample of them, or does not answer.
    pub async fn of(&self, namespace: &str, pods: &[String], held: Held) -> Option<f64> {
        let seconds = (held.to_ms - held.from_ms).max(1000) / 1000;
        // Names of pods and namespaces have no character that is special here but the dot.
        let pods = pods.join("|").replace('.', "\\\\.");
        let mean = |prefix: &str| {
            format!(
                "avg(avg_over_time(DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{prefix}namespace=\"{namespace}\",{prefix}pod=~\"{pods}\"}}[{seconds}s]))"
            )
        };
        let query = format!("{} or {}", mean("exported_"), mean(""));
        let time = format!("{:.3}", held.to_ms as f64 / 1000.0);
        let asked = self.http.get(&self.url).query(&[("query", query.as_str()), ("time", &time)]).send();
        let answer = async { asked.await?.error_for_status()?.json::<Answer>().await };
        match answer.await {
            Ok(answer) => {
                let share: f64 = answer.data.result.first()?.value.1.parse().ok()?;
                share.is_finite().then(|| share.clamp(0.0, 1.0))
            }
            Err(error) => {
                tracing::warn!(%error, "how busy a step's GPUs were cannot be asked of executor.kubernetes.prometheus");
                None
            }
        }
    }
}
