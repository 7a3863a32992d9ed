//! Jobs of this installation that no row waits for: what a database that was put back, or lost a row, has left in the cluster, and
//! what a create made that was answered too late. They are listed; deleted only where nothing speaks for them.
//!
//! Must not: touch a Job that any row may still stand for.

use kube::ResourceExt as _;

use super::Kubernetes;
use super::manifest::{LABEL_ATTEMPT, run_of};
use crate::clock::Millis;
use crate::executor::Executor as _;
use crate::model::{AttemptUid, RunId};
use crate::store::{Store, StoreError};

/// Rows come before Jobs, so a younger Job without one is most likely one that we do not read yet.
pub const GRACE_MS: Millis = 10 * 60_000;
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
    /// Looks at every Job of this installation that watching has seen. What could not be deleted now is left for the next look.
    ///
    /// # Errors
    /// The store does not answer; nothing is lost by looking again later.
    pub async fn sweep_orphans(&self, store: &Store) -> Result<Vec<Orphan>, StoreError> {
        let now = self.clock.now_ms();
        let since_restore = store.restored_ms().await?.map(|at| now - at);
        // In this order: a Job is made after its row.
        let jobs = self.picture.jobs();
        let known = store.unremoved_attempts().await?;
        let mut found = Vec::new();
        for job in &jobs {
            let Some(uid) = job.labels().get(LABEL_ATTEMPT).map(|uid| AttemptUid::from_text(uid.as_str()))
            else {
                continue;
            };
            if known.contains(&uid) {
                continue;
            }
            if let Some(row) = store.attempt(&uid).await? {
                // Over, and all of it removed as far as we knew: a create that was answered too late, or by a daemon that had lost
                // its lease. Deleted like what no row speaks for, since nothing waits for it.
                if row.removed_ms.is_some_and(|at| now - at >= GRACE_MS) {
                    let orphan =
                        Orphan { job: job.name_any(), uid, run: Some(row.run_id), fate: Fate::Delete };
                    self.remove_orphan(orphan, &mut found).await;
                }
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
                Fate::Delete => self.remove_orphan(orphan, &mut found).await,
            }
        }
        Ok(found)
    }

    async fn remove_orphan(&self, orphan: Orphan, found: &mut Vec<Orphan>) {
        match self.remove(&orphan.job, &orphan.uid, &serde_json::Value::Null).await {
            Ok(()) => found.push(orphan),
            Err(error) => tracing::debug!(job = orphan.job, %error, "an orphan is deleted later"),
        }
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
