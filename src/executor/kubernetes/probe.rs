//! A pod on a pool that does nothing but call the daemon, made and placed as a step's: for `trainyard doctor --probe`.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use super::Kubernetes;
use crate::executor::{Executor as _, ExecutorError, Launch, Observation, external_name};
use crate::model::plan::Resources;
use crate::model::{AttemptUid, EndClass, RunId, StepSpec};

const LOOK: Duration = Duration::from_millis(500);
/// Beyond its grace, for a pod to be gone.
const FAREWELL: Duration = Duration::from_secs(40);

/// What became of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// Both of its containers ran, and the daemon answered it.
    Reached,
    /// It had not ended when patience did; what it waits for.
    Waits(String),
    /// How it ended instead.
    Failed(String),
}

impl Kubernetes {
    /// Starts a pod on `pool`, which asks for `gpus`, and waits for its end. `tell` hears what it waits for, when that changes.
    /// The pod's objects are deleted again; those of a caller who was killed are orphans, which the daemon sweeps.
    ///
    /// # Errors
    /// The pool or the cluster refuses the pod, or the cluster cannot be asked.
    pub async fn probe(
        &self,
        pool: &str,
        gpus: u32,
        agent_ca: Option<String>,
        patience: Duration,
        tell: impl Fn(&str),
    ) -> Result<Probed, ExecutorError> {
        let now = self.clock.now_ms();
        let (uid, run) = (AttemptUid::generate(now), RunId::generate(now));
        let name = external_name(&self.cluster.instance, run.as_str(), "probe", 1);
        let launch = Launch {
            uid: uid.clone(),
            name: name.clone(),
            spec: self.spec(gpus, patience),
            number: 1,
            run,
            pipeline: "doctor".into(),
            trusted: true,
            pool: pool.to_owned(),
            gpus: Vec::new(),
            agent_url: self.cluster.agent_url.clone(),
            agent_ca,
            // The daemon knows no such attempt: there is nothing that a token could open.
            bootstrap: SecretString::from("none"),
            repo_trusted: false,
            probe: true,
            handle: serde_json::json!({}),
        };
        let until = Instant::now() + patience;
        let ended = match self.submit(&launch).await {
            Ok(handle) => self.end_of(&uid, &handle, until, tell).await,
            Err(error) => Err(error),
        };
        // A pod takes its grace to end.
        let gone_by = Instant::now() + Duration::from_secs(self.cluster.grace_s.unsigned_abs()) + FAREWELL;
        let removed = loop {
            match self.remove(&name, &uid, &serde_json::Value::Null).await {
                Err(ExecutorError::Transient(_)) if Instant::now() < gone_by => sleep(LOOK).await,
                other => break other,
            }
        };
        let ended = ended?;
        removed?;
        Ok(ended)
    }

    async fn end_of(
        &self,
        uid: &AttemptUid,
        handle: &serde_json::Value,
        until: Instant,
        tell: impl Fn(&str),
    ) -> Result<Probed, ExecutorError> {
        let mut told = String::new();
        loop {
            let says = match self.observe(uid, handle).await {
                Ok(Observation::Gone { class: EndClass::Succeeded, .. }) => return Ok(Probed::Reached),
                Ok(Observation::Gone { reason, .. }) => return Ok(Probed::Failed(reason)),
                Ok(Observation::Unknown | Observation::Withdrawn) => {
                    return Ok(Probed::Failed("someone deleted its Job".into()));
                }
                Ok(Observation::Running) => "it runs, and has not ended yet".into(),
                // One call that is lost says nothing of the pod.
                Ok(Observation::Pending { why, .. })
                | Err(ExecutorError::Transient(why) | ExecutorError::Away(why)) => why,
                Err(error) => return Err(error),
            };
            if says != told {
                tell(&says);
                told = says;
            }
            if Instant::now() >= until {
                return Ok(Probed::Waits(told));
            }
            sleep(LOOK).await;
        }
    }

    /// A step of our own image; its commands never run.
    fn spec(&self, gpu: u32, patience: Duration) -> StepSpec {
        StepSpec {
            commands: vec!["true".into()],
            image: Some(self.cluster.config.image.clone()),
            resources: Resources { gpu, ..Resources::default() },
            timeout_ms: patience.as_millis() as i64,
            ..StepSpec::named("probe")
        }
    }
}
