//! What an attempt leaves behind: its checkpoint, its artifacts, what it logged to MLflow.

use super::{Attempt, SharedSpool, locked};
use crate::agent::checkpoint::{Saved, Saver};
use crate::agent::client::Fault;
use crate::agent::collect::Found;
use crate::agent::outcome::Outcome;
use crate::agent::process::Stop;
use crate::agent::script::Places;
use crate::agent::{artifact_path, artifacts, mlflow, sheet};
use crate::model::EndClass;

impl Attempt {
    /// Uploads what was logged as MLflow artifacts. Nobody asked for them by name, so what cannot be kept is only noted.
    pub(super) async fn keep_logged(&self, server: &mlflow::Server, found: &mut Found) {
        let mut stopped = self.stopped.clone();
        for (file, path) in server.artifacts() {
            if let Err(why) = artifact_path::normalise(&path) {
                found.note(format!("the MLflow artifact {path:?} {why}: left out"));
                continue;
            }
            let uploaded = tokio::select! {
                uploaded = artifacts::upload_as(&self.client, &file, &path) => uploaded,
                _ = stopped.wait_for(Option::is_some) => return,
            };
            if let Err(error) = uploaded {
                found.note(format!("{error:#}"));
            }
        }
    }

    /// Keeps the checkpoint once more where there will be something to resume.
    pub(super) async fn keep_checkpoint(
        &self,
        saver: &mut Saver,
        outcome: &Outcome,
        found: &mut Found,
        spool: &SharedSpool,
    ) {
        let saved = match outcome.class {
            EndClass::Checkpointed => saver.save_last(true).await,
            EndClass::Preempted => saver.save_last(false).await,
            _ => return,
        };
        match saved {
            Ok(Saved::Nothing) => {}
            Ok(saved) => locked(spool).say(&saved.to_string()),
            // It did end so; the next attempt begins from an older checkpoint.
            Err(error) => found.notes.push(format!("the checkpoint could not be kept: {error:#}")),
        }
    }

    /// Uploads artifacts after a success.
    pub(super) async fn keep(
        &self,
        places: &Places,
        outcome: Outcome,
        found: &mut Found,
        spool: &SharedSpool,
    ) -> Outcome {
        if outcome.class != EndClass::Succeeded || !self.leads {
            return outcome;
        }
        let sheet = places.source.join(sheet::PATH).is_file() && self.spec.predictions.is_some();
        let sheet = sheet.then(|| sheet::PATH.to_owned());
        let patterns: Vec<String> = self.spec.artifacts.iter().cloned().chain(sheet).collect();
        let _ = std::fs::remove_dir_all(&places.tmp);
        let files = match artifacts::find(&places.source, &patterns) {
            Ok(matches) => {
                for note in &matches.notes {
                    locked(spool).say(note);
                }
                found.notes.extend(matches.notes);
                matches.files
            }
            Err(why) => return Outcome { class: EndClass::Artifacts, reason: why, ..outcome },
        };
        let mut stopped = self.stopped.clone();
        let (mut stored, mut failed) = (0, Vec::new());
        for file in &files {
            let uploaded = tokio::select! {
                uploaded = artifacts::upload(&self.client, &places.source, file) => uploaded,
                _ = stopped.wait_for(Option::is_some) => {
                    return Outcome::stopped(self.stopped.borrow().unwrap_or(Stop::Cancelled), self.spec.timeout_ms);
                }
            };
            // The others are kept: training them again may take hours.
            let Err(error) = uploaded else {
                stored += 1;
                continue;
            };
            failed.push(format!("{error:#}"));
            if matches!(error.downcast_ref(), Some(Fault::Gone | Fault::Unauthorized)) {
                break;
            }
        }
        if stored > 0 {
            locked(spool).say(&format!("{stored} artifact{} stored", if stored == 1 { "" } else { "s" }));
        }
        if !failed.is_empty() {
            let reason = crate::model::summary_line(&failed.join("\n"));
            return Outcome { class: EndClass::Artifacts, reason, ..outcome };
        }
        outcome
    }
}
