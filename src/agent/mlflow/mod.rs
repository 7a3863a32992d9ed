//! An MLflow tracking server of the attempt's own, on a loopback address: what a script logs to MLflow becomes the attempt's
//! metrics, parameters and artifacts, with no change to the script.
//!
//! It speaks the REST calls that the tracking client makes (base `/api/2.0/mlflow`, errors `{error_code, message}`, artifacts
//! through `/api/2.0/mlflow-artifacts`). There is no registry and no tracing: those calls are answered `ENDPOINT_NOT_FOUND`.
//!
//! **Runs of one attempt.** A run without a parent reports under the plain names; when a second one uses a name that an earlier
//! one has, the second's gets its label in front: `run-2/accuracy`, or the name the script gave it. A nested run always
//! has its label in front, and only the first [`MAX_NESTED`] of them are kept. Beyond a bound calls succeed and what
//! they bring is left out: logging must not end a training.
//!
//! Points wait in a file, not in memory: a daemon that is away for hours must not make the agent grow.

mod api;
mod artifacts;
mod runs;
mod serve;
mod state;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use runs::Runs;
use state::State;

/// Nested runs whose metrics are kept.
pub const MAX_NESTED: usize = 50;

/// Variables by which a step says that it has a tracking server of its own.
const OWN_SERVER: &str = "MLFLOW_TRACKING_URI";

struct Shared {
    token: String,
    artifacts: PathBuf,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running endpoint; it ends when this is dropped.
pub struct Server {
    shared: Arc<Shared>,
    url: String,
    task: tokio::task::JoinHandle<()>,
}

/// Whether the step brings its own `MLFLOW_TRACKING_URI`, which is left as it is.
pub fn has_own_server<'a>(mut names: impl Iterator<Item = &'a String>) -> bool {
    names.any(|name| name == OWN_SERVER)
}

impl Server {
    /// `dir` is a directory of the attempt that is made here: points and artifacts wait in it.
    ///
    /// # Errors
    /// The directory or the listener cannot be made.
    pub async fn start(dir: &Path) -> std::io::Result<Self> {
        let artifacts = dir.join("artifacts");
        std::fs::create_dir_all(&artifacts)?;
        let state = State::new(&dir.join("points"))?;
        let token = hex::encode(rand::random::<[u8; 24]>());
        let shared = Arc::new(Shared { token, artifacts, state: Mutex::new(state) });
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(serve::accept(listener, api::router(Arc::clone(&shared))));
        Ok(Self { shared, url, task })
    }

    /// What the commands need in their environment.
    pub fn environment(&self, of_step: &std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
        let mut env = vec![
            (OWN_SERVER.to_owned(), self.url.clone()),
            ("MLFLOW_TRACKING_TOKEN".to_owned(), self.shared.token.clone()),
        ];
        // A proxy of the step's must not be asked for an address of this machine.
        for name in ["NO_PROXY", "no_proxy"] {
            let proxied = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
                .iter()
                .any(|p| of_step.contains_key(*p));
            match of_step.get(name) {
                Some(others) => env.push((name.to_owned(), format!("{others},127.0.0.1"))),
                None if proxied => env.push((name.to_owned(), "127.0.0.1".to_owned())),
                None => {}
            }
        }
        env
    }

    /// The collector of what is logged here.
    pub fn runs(&self) -> Runs {
        Runs::new(Arc::clone(&self.shared))
    }

    /// Files that were logged, each with the path to keep it under: `mlflow/…`, with a run's label in front for all but the first.
    pub fn artifacts(&self) -> Vec<(PathBuf, String)> {
        artifacts::all(&self.shared)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
