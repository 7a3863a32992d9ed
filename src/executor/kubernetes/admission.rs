//! What Kueue's Workload says of a Job that waits in a queue, or whose place a queue took back: pure functions. Shapes that are known
//! become words, with the pool's own names; all others are shown as they are.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use kube::core::Object;
use serde::Deserialize;

use super::manifest::{ANNOTATION_CANCELLED, LABEL_QUEUE};
use super::observe::{gone, millis, taken_away, with, words};
use crate::clock::Millis;
use crate::config::KubernetesPool;
use crate::executor::Observation;
use crate::model::EndClass;

/// As much of a Workload as is read: what the versions of its API have in common.
pub type Workload = Object<WorkloadSpec, WorkloadStatus>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSpec {
    pub pod_sets: Vec<PodSet>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodSet {
    pub template: Template,
}

/// Of the pods to come. Kueue keeps the labels that we gave them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Template {
    pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadStatus {
    pub conditions: Vec<Condition>,
    pub admission_checks: Vec<Check>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// A condition that an administrator tied to a queue.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Check {
    pub name: String,
    pub state: String,
    pub message: String,
}

/// What a queue has decided over a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has no place; the sentence says what it waits for.
    Waits(String),
    Admitted,
    /// It had its place and lost it, or will never get one.
    Over(EndClass, String),
}

/// The names by which people know what they wait for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The `LocalQueue`.
    pub queue: &'a str,
    /// The resource of one GPU, as nodes offer it.
    pub gpu_resource: &'a str,
    /// What one GPU of the pool is called.
    pub gpu: &'a str,
}

impl<'a> Names<'a> {
    pub fn of(queue: &'a str, pool: Option<&'a KubernetesPool>) -> Self {
        let gpu_resource = pool.map_or("nvidia.com/gpu", |pool| pool.gpu_resource.as_str());
        // `nvidia-tesla-a100` is an a100 to those who wait for it; `nvidia.com/mig-1g.10gb` a part of one.
        let plain = |name: &'a str| {
            let name = name.strip_prefix("nvidia-").unwrap_or(name);
            name.strip_prefix("tesla-").unwrap_or(name)
        };
        let gpu = match (pool.and_then(|pool| pool.accelerator.as_deref()), gpu_resource.rsplit('/').next()) {
            (Some(name), _) => plain(name),
            (None, Some("gpu") | None) => "GPU",
            (None, Some(part)) => part,
        };
        Self { queue, gpu_resource, gpu }
    }

    fn noun<'n>(&'n self, resource: &'n str) -> &'n str {
        if resource == self.gpu_resource { self.gpu } else { resource }
    }
}

/// Reads a Workload. None: it is not there, or not yet.
pub fn standing(workload: Option<&Workload>, names: &Names<'_>) -> Standing {
    let queue = names.queue;
    let Some(status) = workload.and_then(|w| w.status.as_ref()) else {
        return Standing::Waits(format!("waiting for {queue} to take it in"));
    };
    let find = |kind: &str| status.conditions.iter().find(|c| c.kind == kind);
    let holds = |kind: &str| find(kind).filter(|c| c.status == "True");
    // Given up by Kueue, and not finished as the Job did.
    let given_up = |c: &&Condition| matches!(c.reason.as_str(), "AdmissionChecksRejected" | "FailedToStart");
    if let Some(finished) = holds("Finished").filter(given_up) {
        let prefix = format!("{queue} will not start it ({})", words(Some(&finished.reason)));
        return Standing::Over(EndClass::Quota, with(&prefix, Some(&finished.message)));
    }
    match find("Evicted") {
        Some(evicted) if evicted.status == "True" => {
            return put_out(&evicted.reason, &evicted.message, queue);
        }
        // Let in anew since then: the first pod may have used the token that the second would need. Why is kept elsewhere.
        Some(evicted) => {
            let reason = find("Requeued").map_or("", |requeued| requeued.reason.as_str());
            let message = evicted.message.strip_prefix("Previously: ").unwrap_or(&evicted.message);
            return put_out(reason, message, queue);
        }
        None => {}
    }
    if holds("Admitted").is_some() {
        return Standing::Admitted;
    }
    let Some(reserved) = find("QuotaReserved") else {
        return Standing::Waits(format!("waiting for its turn in {queue}"));
    };
    if reserved.status == "True" {
        let open = status.admission_checks.iter().find(|check| check.state != "Ready");
        return open.map_or(Standing::Admitted, |check| {
            let state = if check.state == "Pending" {
                String::new()
            } else {
                format!(" ({})", words(Some(&check.state)))
            };
            let prefix = format!("waiting for the check {} of {queue}{state}", words(Some(&check.name)));
            Standing::Waits(with(&prefix, Some(&check.message)))
        });
    }
    let message = words(Some(&reserved.message));
    Standing::Waits(quota(&message, names).or_else(|| broken(&message, queue)).unwrap_or_else(|| {
        let reason = words(Some(&reserved.reason));
        let known = matches!(reason.as_str(), "" | "Pending" | "Inadmissible");
        let prefix =
            if known { format!("waiting in {queue}") } else { format!("waiting in {queue} ({reason})") };
        with(&prefix, Some(&message))
    }))
}

/// By the reasons of `Evicted` (<https://kueue.sigs.k8s.io/docs/concepts/workload>).
fn put_out(reason: &str, message: &str, queue: &str) -> Standing {
    let said = |prefix: &str| with(prefix, Some(&message.to_owned()));
    let (class, why) = match reason {
        "Preempted" => (EndClass::Preempted, said(&format!("{queue} gave its place to another"))),
        "" => (EndClass::Preempted, said(&format!("{queue} took its place back"))),
        "PodsReadyTimeout" => {
            let prefix = format!("it did not start within the time that {queue} allows");
            (EndClass::Unschedulable, said(&prefix))
        }
        "ClusterQueueStopped" | "LocalQueueStopped" => {
            (EndClass::Preempted, said(&format!("{queue} was stopped")))
        }
        "AdmissionCheck" => (EndClass::Preempted, said(&format!("a check of {queue} took its place back"))),
        reason if reason == "InactiveWorkload" || reason.starts_with("Deactivated") => {
            (EndClass::Cancelled, said(&format!("its Workload in {queue} was deactivated")))
        }
        _ => {
            let reason = words(Some(&reason.to_owned()));
            (EndClass::Preempted, said(&format!("{queue} took its place back ({reason})")))
        }
    };
    Standing::Over(class, why)
}

/// A queue that cannot give anything away.
fn broken(message: &str, queue: &str) -> Option<String> {
    let (kind, rest) = message.split_once(' ')?;
    let (name, state) = rest.split_once(' ')?;
    let state = match state {
        "doesn't exist" | "not found" => "does not exist",
        "is inactive" | "is stopped" | "is terminating or missing" => state,
        _ => return None,
    };
    match kind {
        "LocalQueue" => Some(format!("waiting: the queue {name} {state}")),
        "ClusterQueue" => Some(format!("waiting: the cluster queue {name} behind {queue} {state}")),
        _ => None,
    }
}

/// Flavors with what each lacks, in the order in which they are named.
type Lacks<'a> = Vec<(&'a str, Vec<String>)>;

/// Too little quota, now or ever. None where any part of the message is of another kind.
fn quota(message: &str, names: &Names<'_>) -> Option<String> {
    const SET: &str = "couldn't assign flavors to pod set ";
    let (_, mut rest) = message.strip_prefix(SET)?.split_once(": ")?;
    let (mut unused, mut ever): (Lacks<'_>, Lacks<'_>) = Default::default();
    let mut put = |to_come: bool, flavor, text| {
        let all = if to_come { &mut unused } else { &mut ever };
        match all.iter_mut().find(|(name, _)| *name == flavor) {
            Some((_, lacks)) => lacks.push(text),
            None => all.push((flavor, vec![text])),
        }
    };
    let mut others = String::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(". Pending the preemption of ") {
            let (count, end) = after.split_once(" workload(s)")?;
            others = format!("; {count} that must give way to it are being ended");
            rest = end;
            continue;
        }
        rest = rest.strip_prefix(", ").unwrap_or(rest);
        if let Some(after) = rest.strip_prefix("insufficient unused quota for ") {
            let (resource, after) = after.split_once(" in flavor ")?;
            let (flavor, after) = after.split_once(", ")?;
            let (amount, after) = after.split_once(" more needed")?;
            put(true, flavor, format!("{amount} more {}", names.noun(resource)));
            rest = after;
        } else {
            let after = rest.strip_prefix("insufficient quota for ")?;
            let (resource, after) = after.split_once(" in flavor ")?;
            let (flavor, after) = after.split_once(", ")?;
            let (_, after) = after.split_once("> maximum capacity (")?;
            let (amounts, after) = after.split_once(')')?;
            let most = amounts.rsplit(" > ").next()?;
            put(false, flavor, format!("{most} {}", names.noun(resource)));
            rest = after;
        }
    }
    let spell = |all: &Lacks<'_>| {
        let several = all.len() > 1;
        let one = |(flavor, lacks): &(&str, Vec<String>)| {
            let of = if several { format!(" of {flavor}") } else { String::new() };
            format!("{}{of}", lacks.join(" and "))
        };
        all.iter().map(one).collect::<Vec<_>>().join(" or ")
    };
    let queue = names.queue;
    match (unused.is_empty(), ever.is_empty()) {
        (false, _) => Some(format!("waiting for quota of {} in {queue}{others}", spell(&unused))),
        (true, false) => {
            Some(format!("waiting in vain: it asks for more than the {} that {queue} ever has", spell(&ever)))
        }
        (true, true) => None,
    }
}

/// The name of the queue that a Job waits in, by its own label: a pool may be changed while it waits.
pub fn queue_of(job: &Job) -> Option<&str> {
    job.labels().get(LABEL_QUEUE).map(String::as_str)
}

/// What is seen of a queue's Job, with what the queue says. A place that was taken back ends the attempt: its token is spent with
/// its first pod, so it is the next attempt that waits again. Time in a queue does not count as time without a start.
pub fn judge(seen: Observation, job: &Job, standing: &Standing, now: Millis) -> Observation {
    let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    let cancelled = job.annotations().contains_key(ANNOTATION_CANCELLED);
    match (seen, standing) {
        (Observation::Pending { .. }, Standing::Over(class, why)) => gone(*class, None, why.as_str()),
        // Its pods were ended with the Job's suspension.
        (Observation::Gone { class, exit_code, .. }, Standing::Over(now_is, why))
            if suspended && taken_away(class) && !cancelled =>
        {
            gone(*now_is, exit_code, why.as_str())
        }
        (Observation::Pending { .. }, Standing::Waits(why)) if suspended => {
            Observation::Pending { why: why.clone(), since_ms: Some(now) }
        }
        (Observation::Pending { .. }, Standing::Admitted) if suspended => {
            Observation::Pending { why: "its queue lets it start".into(), since_ms: Some(now) }
        }
        (Observation::Pending { why, .. }, _) => {
            let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
            Observation::Pending { why, since_ms: started.map(millis) }
        }
        (seen, _) => seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(status: &Value) -> Standing {
        let all = json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": {"name": "w"},
            "spec": {"queueName": "team-vision", "unheardOf": [1]}, "status": status});
        let pool = KubernetesPool {
            accelerator: Some("nvidia-tesla-a100".into()),
            queue: Some("team-vision".into()),
            ..KubernetesPool::default()
        };
        standing(serde_json::from_value(all).ok().as_ref(), &Names::of("team-vision", Some(&pool)))
    }

    fn waits(reason: &str, message: &str) -> String {
        let conditions = json!([{"type": "QuotaReserved", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}]);
        match read(&json!({ "conditions": conditions })) {
            Standing::Waits(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_queue_without_quota_is_one_sentence() {
        let main = "couldn't assign flavors to pod set main: ";
        let gpu = |flavor: &str, amount: u32| {
            format!("insufficient unused quota for nvidia.com/gpu in flavor {flavor}, {amount} more needed")
        };
        let cpu = "insufficient unused quota for cpu in flavor gpu, 500m more needed";
        for (said, want) in [
            (gpu("gpu", 2), "waiting for quota of 2 more a100 in team-vision"),
            (
                format!("{cpu}, {}", gpu("gpu", 1)),
                "waiting for quota of 500m more cpu and 1 more a100 in team-vision",
            ),
            (
                format!("{}, {}", gpu("reserved", 1), gpu("spot", 2)),
                "waiting for quota of 1 more a100 of reserved or 2 more a100 of spot in team-vision",
            ),
            (
                format!("{}. Pending the preemption of 1 workload(s)", gpu("gpu", 1)),
                "waiting for quota of 1 more a100 in team-vision; 1 that must give way to it are being ended",
            ),
            (
                "insufficient quota for nvidia.com/gpu in flavor gpu, request > maximum capacity (4 > 2)".into(),
                "waiting in vain: it asks for more than the 2 a100 that team-vision ever has",
            ),
            (
                "insufficient quota for nvidia.com/gpu in flavor gpu, previously considered podsets requests (0) + current podset request (4) > maximum capacity (2)".into(),
                "waiting in vain: it asks for more than the 2 a100 that team-vision ever has",
            ),
            // Another kind of reason among those that are known: all of it as it is.
            (
                format!("{}, untolerated taint {{a b NoSchedule}} in flavor spot", gpu("reserved", 1)),
                "waiting in team-vision: couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor reserved, 1 more needed, untolerated taint {a b NoSchedule} in flavor spot",
            ),
            (
                "insufficient unused quota for nvidia.com/gpu in flav".into(),
                "waiting in team-vision: couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flav",
            ),
        ] {
            assert_eq!(waits("Pending", &format!("{main}{said}")), want);
        }
    }

    #[test]
    fn queues_that_give_nothing_say_why_and_unknown_words_stay_as_they_are() {
        for (reason, message, want) in [
            (
                "Inadmissible",
                "LocalQueue team-vision doesn't exist",
                "waiting: the queue team-vision does not exist",
            ),
            (
                "Inadmissible",
                "LocalQueue team-vision is inactive",
                "waiting: the queue team-vision is inactive",
            ),
            (
                "Inadmissible",
                "ClusterQueue gpus doesn't exist",
                "waiting: the cluster queue gpus behind team-vision does not exist",
            ),
            (
                "Inadmissible",
                "ClusterQueue gpus is stopped",
                "waiting: the cluster queue gpus behind team-vision is stopped",
            ),
            (
                "Pending",
                "ClusterQueue gpus not found",
                "waiting: the cluster queue gpus behind team-vision does not exist",
            ),
            (
                "Pending",
                "Workload namespace doesn't match ClusterQueue selector",
                "waiting in team-vision: Workload namespace doesn't match ClusterQueue selector",
            ),
            (
                "TopologyPlacementFailed",
                "no rack",
                "waiting in team-vision (TopologyPlacementFailed): no rack",
            ),
            ("TomorrowsReason", "", "waiting in team-vision (TomorrowsReason)"),
        ] {
            assert_eq!(waits(reason, message), want);
        }
    }

    #[test]
    fn hostile_words_are_one_bounded_line() {
        let long = "x".repeat(40_000);
        for (reason, message) in [
            ("Pending\u{1b}[2J", "a\r\nb\u{0}c\u{7}d".to_owned()),
            ("Pending", format!("LocalQueue {long} is inactive")),
            (
                "Pending",
                format!(
                    "couldn't assign flavors to pod set main: insufficient unused quota for {long} in flavor {long}, 1 more needed"
                ),
            ),
            (long.as_str(), long.clone()),
        ] {
            let said = waits(reason, &message);
            assert!(said.chars().count() < 900 && !said.chars().any(char::is_control), "{said:?}");
        }
        // What is not of the shape is no reason to stand still.
        assert_eq!(
            read(&json!({"conditions": 7})),
            Standing::Waits("waiting for team-vision to take it in".into())
        );
        assert_eq!(read(&json!({})), Standing::Waits("waiting for its turn in team-vision".into()));
    }

    #[test]
    fn a_place_is_had_lost_or_never_given() {
        let one = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
        let reserved = one("QuotaReserved", "True", "QuotaReserved", "");
        let check = |state: &str| json!([{"name": "prov", "state": state, "message": "no machine yet"}]);
        assert_eq!(
            read(&json!({"conditions": [reserved], "admissionChecks": check("Pending")})),
            Standing::Waits("waiting for the check prov of team-vision: no machine yet".into())
        );
        assert_eq!(
            read(&json!({"conditions": [reserved], "admissionChecks": check("Retry")})),
            Standing::Waits("waiting for the check prov of team-vision (Retry): no machine yet".into())
        );
        assert_eq!(
            read(&json!({"conditions": [reserved, one("Admitted", "True", "Admitted", "")]})),
            Standing::Admitted
        );
        for (reason, class, words) in [
            ("Preempted", EndClass::Preempted, "team-vision gave its place to another: why"),
            ("ClusterQueueStopped", EndClass::Preempted, "team-vision was stopped: why"),
            ("AdmissionCheck", EndClass::Preempted, "a check of team-vision took its place back: why"),
            ("NodeFailures", EndClass::Preempted, "team-vision took its place back (NodeFailures): why"),
            (
                "PodsReadyTimeout",
                EndClass::Unschedulable,
                "it did not start within the time that team-vision allows: why",
            ),
            ("InactiveWorkload", EndClass::Cancelled, "its Workload in team-vision was deactivated: why"),
        ] {
            // True until it is admitted anew, then false: its first pod is gone either way.
            for status in ["True", "False"] {
                let admitted = one("Admitted", if status == "True" { "False" } else { "True" }, "", "");
                let requeued = one("Requeued", "True", reason, "why");
                let evicted = match status {
                    "True" => one("Evicted", status, reason, "why"),
                    _ => one("Evicted", status, "QuotaReserved", "Previously: why"),
                };
                let conditions = json!([evicted, admitted, requeued]);
                assert_eq!(read(&json!({ "conditions": conditions })), Standing::Over(class, words.into()));
            }
        }
        assert_eq!(
            read(
                &json!({"conditions": [one("Finished", "True", "AdmissionChecksRejected", "no"), reserved]})
            ),
            Standing::Over(
                EndClass::Quota,
                "team-vision will not start it (AdmissionChecksRejected): no".into()
            )
        );
    }

    #[test]
    fn what_is_seen_follows_the_queue() {
        let job = |suspend: bool, started: Option<&str>| -> Job {
            let status = started.map_or(json!({}), |at| json!({ "startTime": at }));
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"suspend": suspend, "template": {}}, "status": status}),
            )
            .unwrap()
        };
        let cancelled = |mut job: Job| {
            job.metadata.annotations = Some([(ANNOTATION_CANCELLED.to_owned(), "true".to_owned())].into());
            job
        };
        let pending = || Observation::Pending { why: "its Job is suspended".into(), since_ms: None };
        let gone = |class| Observation::Gone { class, exit_code: Some(143), reason: "SIGTERM".into() };
        let over = Standing::Over(EndClass::Preempted, "lost".into());
        let waits = Standing::Waits("waiting".into());
        let lost =
            |exit_code| Observation::Gone { class: EndClass::Preempted, exit_code, reason: "lost".into() };
        let since = |why: &str, since_ms| Observation::Pending { why: why.into(), since_ms };
        let rows = vec![
            (pending(), job(true, None), &waits, since("waiting", Some(7))),
            (pending(), job(true, None), &Standing::Admitted, since("its queue lets it start", Some(7))),
            // Admitted: from then on its start has a time limit.
            (
                pending(),
                job(false, Some("1970-01-01T00:00:05Z")),
                &Standing::Admitted,
                since("its Job is suspended", Some(5_000)),
            ),
            (pending(), job(true, None), &over, lost(None)),
            (gone(EndClass::Preempted), job(true, None), &over, lost(Some(143))),
            (gone(EndClass::Internal), job(true, None), &over, lost(Some(143))),
            // What its own commands did, and what we asked for, stays.
            (gone(EndClass::Failed), job(true, None), &over, gone(EndClass::Failed)),
            (gone(EndClass::Succeeded), job(true, None), &over, gone(EndClass::Succeeded)),
            (gone(EndClass::Cancelled), cancelled(job(true, None)), &over, gone(EndClass::Cancelled)),
            (gone(EndClass::Cancelled), job(true, None), &over, lost(Some(143))),
            (Observation::Running, job(true, None), &over, Observation::Running),
            // Let in anew meanwhile: what ended it was not the queue.
            (gone(EndClass::NodeLost), job(false, None), &over, gone(EndClass::NodeLost)),
        ];
        for (seen, job, standing, want) in rows {
            assert_eq!(judge(seen, &job, standing, 7), want);
        }
    }
}
