//! Jobs of this installation that no row knows: what a database that was put back, or lost a row, has left in the cluster.
//! They are listed; deleted only where nothing speaks for them.
//!
//! Must not: touch a Job that any row may still stand for.

use std::collections::BTreeSet;

use kube::ResourceExt as _;

use super::Kubernetes;
use super::manifest::{LABEL_ATTEMPT, run_of};
use crate::clock::Millis;
use crate::executor::Executor as _;
use crate::model::{AttemptUid, RunId};
use crate::store::{Store, StoreError};

/// Rows come before Jobs, so a younger Job without one is most likely one that we do not read yet.
const GRACE_MS: Millis = 10 * 60_000;
/// After a restore, Jobs may be the trainings that the lost rows had started.
const AFTER_RESTORE_MS: Millis = 30 * 24 * 3_600_000;

/// What becomes of a Job without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Too young to tell.
    Wait,
    /// Said in the log, left alone.
    List,
    Delete,
}

/// Decides over a Job whose attempt has no row.
pub fn fate(age_ms: Millis, run_known: bool, since_restore_ms: Option<Millis>) -> Fate {
    if age_ms < GRACE_MS {
        Fate::Wait
    } else if run_known || since_restore_ms.is_some_and(|ago| ago < AFTER_RESTORE_MS) {
        Fate::List
    } else {
        Fate::Delete
    }
}

/// One orphan that was found, and what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub job: String,
    pub uid: AttemptUid,
    pub run: Option<RunId>,
    pub fate: Fate,
}

impl Kubernetes {
    /// Looks at every Job of this installation that watching has seen. `known` are uids that had a row before: a row outlives
    /// its Job. What could not be deleted now is left for the next look.
    ///
    /// # Errors
    /// The store does not answer; nothing is lost by looking again later.
    pub async fn sweep_orphans(
        &self,
        store: &Store,
        known: &mut BTreeSet<String>,
    ) -> Result<Vec<Orphan>, StoreError> {
        let now = self.clock.now_ms();
        let since_restore = store.restored_ms().await?.map(|at| now - at);
        let jobs = self.picture.jobs();
        let seen: BTreeSet<&String> = jobs.iter().filter_map(|job| job.labels().get(LABEL_ATTEMPT)).collect();
        known.retain(|uid| seen.contains(uid));
        let mut found = Vec::new();
        for job in &jobs {
            let Some(uid) = job.labels().get(LABEL_ATTEMPT).filter(|uid| !known.contains(*uid)) else {
                continue;
            };
            let uid = AttemptUid::from_text(uid.as_str());
            if store.attempt(&uid).await?.is_some() {
                known.insert(uid.to_string());
                continue;
            }
            let run = run_of(Some(job.labels()));
            let run_known = match &run {
                Some(run) => store.run(run).await?.is_some(),
                // Not as we make them: nothing says whose it is.
                None => true,
            };
            let made = job.creation_timestamp().map_or(now, |time| time.0.as_millisecond());
            let fate = fate(now - made, run_known, since_restore);
            let orphan = Orphan { job: job.name_any(), uid, run, fate };
            match fate {
                Fate::Wait => {}
                Fate::List => found.push(orphan),
                Fate::Delete => match self.remove(&orphan.job, &orphan.uid, &serde_json::Value::Null).await {
                    Ok(()) => found.push(orphan),
                    Err(error) => tracing::debug!(job = orphan.job, %error, "an orphan is deleted later"),
                },
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nothing_speaks_for_is_deleted() {
        const MINUTE: Millis = 60_000;
        const DAY: Millis = 24 * 60 * MINUTE;
        for (age, run_known, since_restore, want) in [
            (9 * MINUTE, false, None, Fate::Wait),
            (9 * MINUTE, true, Some(DAY), Fate::Wait),
            (10 * MINUTE, false, None, Fate::Delete),
            (10 * MINUTE, true, None, Fate::List),
            (10 * MINUTE, false, Some(29 * DAY), Fate::List),
            (10 * MINUTE, false, Some(30 * DAY), Fate::Delete),
        ] {
            assert_eq!(fate(age, run_known, since_restore), want, "{age} {run_known} {since_restore:?}");
        }
    }
}
