//! What this process last saw of its Jobs and pods. Listed anew from time to time, watched in between; whoever asks gets
//! nothing when the picture is old, and looks for himself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt as _};
use rand::Rng as _;
use tokio::sync::watch;

use super::admission;
use super::manifest::{LABEL_ATTEMPT, run_of};
use super::observe::{self, ended};
use crate::model::RunId;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// A list, or the opening of a watch.
pub(super) const CALL: Duration = Duration::from_secs(30);
/// A round that ends sooner than this is followed by a pause, even one that ended in good order.
pub(super) const SHORT: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Picture {
    seen: Mutex<Seen>,
    /// The first list of this process is under way.
    first_list: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    attempts: BTreeMap<String, (Option<Job>, BTreeMap<String, Pod>)>,
    /// Pods that ended and then went, as they last were, by attempt and name: only they say why they ended.
    departed: BTreeMap<String, BTreeMap<String, Pod>>,
    /// Until when it may be believed.
    good_until: Option<Instant>,
}

impl Seen {
    /// Keeps a pod that is gone, if it had ended and is not there under its name.
    fn depart(&mut self, uid: &str, pod: Pod) {
        let name = pod.name_any();
        let there = self.attempts.get(uid).is_some_and(|(_, pods)| pods.contains_key(&name));
        if ended(&pod) && !there {
            self.departed.entry(uid.to_owned()).or_default().insert(name, pod);
        }
    }
}

impl Picture {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first list is under way from now on.
    pub fn begins(&self) {
        self.first_list.send_replace(true);
    }

    /// Returns once the first list has come or failed; at once when there is none to wait for. After a start over thousands of
    /// Jobs one list tells what as many calls would.
    pub async fn listed(&self) {
        let mut first_list = self.first_list.subscribe();
        let _ = tokio::time::timeout(CALL, first_list.wait_for(|under_way| !under_way)).await;
    }

    /// The Job and pods of an attempt, departed ones too, if the picture is fresh and has them.
    pub fn of(&self, uid: &str) -> Option<(Job, Vec<Pod>)> {
        let seen = self.lock();
        if seen.good_until.is_none_or(|until| Instant::now() > until) {
            return None;
        }
        let (job, pods) = seen.attempts.get(uid)?;
        let departed = seen.departed.get(uid).into_iter().flat_map(BTreeMap::values);
        Some((job.clone()?, pods.values().chain(departed).cloned().collect()))
    }

    /// Takes in a Job that was just made, as the API server answered it: the visit that follows the launch need not ask for
    /// it. What the watch told is newer, and the next list corrects what this may miss.
    pub fn made(&self, job: Job) {
        let Some(uid) = job.labels().get(LABEL_ATTEMPT).cloned() else { return };
        self.lock().attempts.entry(uid).or_default().0.get_or_insert(job);
    }

    /// Every Job, if the picture is fresh.
    pub fn jobs(&self) -> Vec<Job> {
        let seen = self.lock();
        if seen.good_until.is_none_or(|until| Instant::now() > until) {
            return Vec::new();
        }
        seen.attempts.values().filter_map(|(job, _)| job.clone()).collect()
    }

    /// The pods of an attempt that were seen to end and are gone since. What they say stays true however old the picture is.
    pub fn departed(&self, uid: &str) -> Vec<Pod> {
        self.lock().departed.get(uid).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    pub fn forget(&self, uid: &str) {
        let mut seen = self.lock();
        seen.attempts.remove(uid);
        seen.departed.remove(uid);
    }

    /// Never returns. Lists both kinds, then watches both until the relist is due or a watch breaks.
    pub async fn keep(
        &self,
        jobs: &Api<Job>,
        pods: &Api<Pod>,
        selector: &str,
        relist_s: u32,
        wake: &(dyn Fn(RunId) + Send + Sync),
    ) {
        let mut pause = Duration::from_millis(800);
        // Nothing was looked at before the first list, unless that failed: then it brings no news of anything.
        let mut looked = false;
        loop {
            let began = Instant::now();
            let done = self.round(jobs, pods, selector, relist_s, looked, wake).await;
            looked = true;
            if let Err(error) = &done {
                self.first_list.send_replace(false);
                self.lock().good_until = None;
                tracing::warn!(error = format!("{error:#}"), "the cluster is not watched for the moment");
            }
            if done.is_err() || began.elapsed() < SHORT {
                let jitter = rand::rng().random_range(0..=pause.as_millis() as u64 / 4);
                tokio::time::sleep(pause + Duration::from_millis(jitter)).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
            if began.elapsed() > Duration::from_secs(30) {
                pause = Duration::from_millis(800);
            }
        }
    }

    async fn round(
        &self,
        jobs: &Api<Job>,
        pods: &Api<Pod>,
        selector: &str,
        relist_s: u32,
        looked: bool,
        wake: &(dyn Fn(RunId) + Send + Sync),
    ) -> anyhow::Result<()> {
        let (all_jobs, jobs_version) = everything(jobs, selector).await?;
        let (all_pods, pods_version) = everything(pods, selector).await?;
        let until = Instant::now() + Duration::from_secs(u64::from(relist_s));
        let changed = {
            let mut seen = self.lock();
            let old = std::mem::take(&mut seen.attempts);
            let mut changed: Vec<RunId> = Vec::new();
            for job in all_jobs {
                let Some(uid) = job.labels().get(LABEL_ATTEMPT).cloned() else { continue };
                let same = old
                    .get(&uid)
                    .and_then(|(old, _)| old.as_ref())
                    .and_then(|o| o.meta().resource_version.clone())
                    == job.meta().resource_version;
                if !same {
                    changed.extend(run_of(Some(job.labels())));
                }
                seen.attempts.entry(uid).or_default().0 = Some(job);
            }
            for pod in all_pods {
                let Some(uid) = pod.labels().get(LABEL_ATTEMPT).cloned() else { continue };
                let same = old
                    .get(&uid)
                    .and_then(|(_, pods)| pods.get(&pod.name_any()))
                    .and_then(|o| o.meta().resource_version.clone())
                    == pod.meta().resource_version;
                if !same {
                    changed.extend(run_of(Some(pod.labels())));
                }
                seen.attempts.entry(uid).or_default().1.insert(pod.name_any(), pod);
            }
            // What was there before and is not any more.
            for (uid, (job, pods)) in old {
                if seen.attempts.get(&uid).is_none_or(|(job, _)| job.is_none()) {
                    changed.extend(job.as_ref().and_then(|job| run_of(Some(job.labels()))));
                }
                for pod in pods.into_values() {
                    seen.depart(&uid, pod);
                }
            }
            let Seen { attempts, departed, .. } = &mut *seen;
            departed.retain(|uid, _| attempts.get(uid).is_some_and(|(job, _)| job.is_some()));
            seen.good_until = Some(until + CALL);
            changed
        };
        self.first_list.send_replace(false);
        if looked {
            changed.into_iter().for_each(wake);
        }
        let of_jobs = self.follow(jobs, selector, &jobs_version, relist_s, wake, |seen, job, there| {
            let Some(uid) = job.labels().get(LABEL_ATTEMPT).cloned() else { return true };
            let (known, pods) = seen.attempts.entry(uid).or_default();
            let news = !there || known.as_ref().is_none_or(|known| is_news(known, &job, pods));
            *known = there.then_some(job);
            news
        });
        let of_pods = self.follow(pods, selector, &pods_version, relist_s, wake, |seen, pod, there| {
            let Some(uid) = pod.labels().get(LABEL_ATTEMPT).cloned() else { return true };
            let entry = seen.attempts.entry(uid.clone()).or_default();
            if there {
                entry.1.insert(pod.name_any(), pod);
            } else {
                entry.1.remove(&pod.name_any());
                seen.depart(&uid, pod);
            }
            true
        });
        // Two connections: where one ends, even in good order, the other one's half of the picture must not be believed alone.
        tokio::select! {
            ended = of_jobs => ended,
            ended = of_pods => ended,
            () = tokio::time::sleep_until(until.into()) => Ok(()),
        }
    }

    async fn follow<K>(
        &self,
        api: &Api<K>,
        selector: &str,
        version: &str,
        relist_s: u32,
        wake: &(dyn Fn(RunId) + Send + Sync),
        note: impl Fn(&mut Seen, K, bool) -> bool,
    ) -> anyhow::Result<()>
    where
        K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let params = WatchParams::default().labels(selector).timeout(relist_s.clamp(5, 290));
        let mut stream = Box::pin(tokio::time::timeout(CALL, api.watch(&params, version)).await??);
        while let Some(event) = stream.next().await {
            let (object, there) = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                WatchEvent::Deleted(object) => (object, false),
                WatchEvent::Bookmark(_) => continue,
                // 410 among others: list again.
                WatchEvent::Error(status) => {
                    anyhow::bail!("the watch ended: {} {}", status.code, status.message)
                }
            };
            let run = run_of(Some(object.labels()));
            if note(&mut self.lock(), object, there) {
                run.into_iter().for_each(wake);
            }
        }
        Ok(())
    }
}

/// Does a Job say more than it did? Most of what the watch tells is our own making of it and what its controller counts.
fn is_news(known: &Job, job: &Job, pods: &BTreeMap<String, Pod>) -> bool {
    if known.meta().resource_version == job.meta().resource_version {
        return false;
    }
    let pods: Vec<Pod> = pods.values().cloned().collect();
    let said = |job: &Job| observe::read(Some(job), &pods, &[], 0);
    let asked = |job: &Job| {
        let (meta, spec) = (job.meta().clone(), job.spec.as_ref());
        (
            meta.annotations,
            meta.labels,
            meta.finalizers,
            meta.deletion_timestamp,
            spec.and_then(|s| s.suspend),
        )
    };
    // What a queue of the cluster does to a Job is judged by more than is read here.
    admission::queue_of(job).is_some() || asked(known) != asked(job) || said(known) != said(job)
}

/// All objects of the selector, page by page, and the version to watch from.
pub(super) async fn everything<K>(api: &Api<K>, selector: &str) -> anyhow::Result<(Vec<K>, String)>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut items = Vec::new();
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let page = tokio::time::timeout(CALL, api.list(&params)).await??;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok((items, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn what_says_nothing_new_wakes_nobody() {
        use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
        let job = |version: &str| Job {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(JobSpec { suspend: Some(true), ..JobSpec::default() }),
            status: None,
        };
        let condition = |type_: &str, reason: &str| JobCondition {
            type_: type_.into(),
            reason: Some(reason.into()),
            status: "True".into(),
            ..JobCondition::default()
        };
        let none = BTreeMap::new();
        let with = |condition| JobStatus { conditions: Some(vec![condition]), ..JobStatus::default() };
        assert!(!is_news(&job("1"), &job("1"), &none), "as it was made");
        let counted = Job { status: Some(with(condition("Suspended", "JobSuspended"))), ..job("2") };
        assert!(!is_news(&job("1"), &counted, &none), "what its controller counts");
        let overdue = Job { status: Some(with(condition("Failed", "DeadlineExceeded"))), ..job("2") };
        assert!(is_news(&job("1"), &overdue, &none));
        let mut resumed = job("2");
        resumed.spec = Some(JobSpec { suspend: Some(false), ..JobSpec::default() });
        assert!(is_news(&job("1"), &resumed, &none));
        let mut marked = job("2");
        marked.metadata.annotations = Some(BTreeMap::from([("a".into(), "b".into())]));
        assert!(is_news(&job("1"), &marked, &none));
        let mut queued = job("2");
        queued.metadata.labels = Some(BTreeMap::from([("kueue.x-k8s.io/queue-name".into(), "team".into())]));
        assert!(is_news(&job("1"), &queued, &none));
        assert!(is_news(
            &queued,
            &Job {
                metadata: ObjectMeta { resource_version: Some("3".into()), ..queued.metadata.clone() },
                ..queued.clone()
            },
            &none
        ));
    }

    #[test]
    fn a_made_job_is_known_before_the_watch_tells_and_never_replaces_what_it_told() {
        let job = |version: &str| Job {
            metadata: ObjectMeta {
                labels: Some(BTreeMap::from([(LABEL_ATTEMPT.to_owned(), "a".to_owned())])),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            ..Job::default()
        };
        let picture = Picture::default();
        picture.made(job("1"));
        assert!(picture.of("a").is_none(), "a picture that nobody keeps is not believed");
        picture.lock().good_until = Some(Instant::now() + CALL);
        let version = || picture.of("a").and_then(|(job, _)| job.metadata.resource_version);
        assert_eq!(version().as_deref(), Some("1"));
        picture.lock().attempts.entry("a".to_owned()).or_default().0 = Some(job("2"));
        picture.made(job("1"));
        assert_eq!(version().as_deref(), Some("2"));
        picture.forget("a");
        assert!(picture.of("a").is_none());
    }
}
