//! What a Job, its pods and its events mean: pure functions. Every end of a pod maps to one class with a sentence, the
//! scheduler's or kubelet's own words where they have any. `docs/kubernetes.md` has the table.

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::manifest::{ANNOTATION_CANCELLED, COMPLETION_INDEX, PREPARE, STEP};
use crate::agent::attempt::ResultFile;
use crate::clock::Millis;
use crate::executor::Observation;
use crate::model::{EndClass, Held};

/// How long an image may fail to come, or a container to be made, before it is final.
const HOPELESS_MS: Millis = 60_000;
/// For so long the cluster may refuse a pod before that is final: it tries again by itself.
const REFUSED_MS: Millis = 60_000;
/// A pod that should have ended so long ago is on a node that no longer answers.
const LOST_MS: Millis = 60_000;
/// Longest sentence taken over from the cluster, in characters.
const SENTENCE: usize = 400;

/// Reads one attempt. `events` may be empty where nothing waits.
pub fn read(job: Option<&Job>, pods: &[Pod], events: &[Event], now: Millis) -> Observation {
    let Some(job) = job else { return Observation::Unknown };
    let cancelled =
        job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ANNOTATION_CANCELLED));
    let several = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1) > 1;
    let worst = if several { of_several(job, pods, events, now) } else { of_one(pods, events, now) };
    let worst = worst.as_ref();
    let deleted = job.metadata.deletion_timestamp.is_some() && !cancelled;
    let overdue = failed(job).is_some_and(|c| c.reason.as_deref() == Some("DeadlineExceeded"));
    match worst {
        Some(Observation::Gone { class, exit_code, .. }) if overdue && taken_away(*class) => {
            gone(EndClass::TimedOut, *exit_code, OVERDUE)
        }
        Some(Observation::Gone { class, exit_code, .. }) if cancelled && taken_away(*class) => {
            gone(EndClass::Cancelled, *exit_code, "cancelled")
        }
        Some(Observation::Gone { class: EndClass::Cancelled, exit_code, .. }) if deleted => {
            gone(EndClass::Cancelled, *exit_code, JOB_DELETED)
        }
        Some(end @ Observation::Gone { .. }) => end.clone(),
        // Our finalizer keeps the Job, and its controller leaves the pods of a deleted Job alone.
        Some(Observation::Running) if deleted => Observation::Withdrawn,
        Some(_) if deleted => gone(EndClass::Cancelled, None, JOB_DELETED),
        Some(Observation::Pending { .. }) if cancelled => {
            gone(EndClass::Cancelled, None, "cancelled before it began")
        }
        Some(other) => other.clone(),
        None => without_pod(job, cancelled, events, now),
    }
}

fn of_one(pods: &[Pod], events: &[Event], now: Millis) -> Option<Observation> {
    let seen: Vec<Observation> = pods.iter().map(|pod| read_pod(pod, events, now)).collect();
    let bad =
        |o: &&Observation| matches!(o, Observation::Gone { class, .. } if *class != EndClass::Succeeded);
    let found = seen
        .iter()
        .find(bad)
        .or_else(|| seen.iter().find(|o| matches!(o, Observation::Running)))
        .or_else(|| seen.iter().find(|o| matches!(o, Observation::Pending { .. })))
        .or_else(|| seen.first());
    found.cloned()
}

/// An attempt of several pods runs while all of them do, and is gone with the first that failed: the rank by which it is named. What
/// the cluster did to a pod comes before what its commands did, and that before the SIGTERM by which the rest of a failed Job is
/// ended.
fn of_several(job: &Job, pods: &[Pod], events: &[Event], now: Millis) -> Option<Observation> {
    let mut gone_ones: Vec<(u8, Millis, i64, Observation)> = Vec::new();
    let mut others: Vec<(i64, Observation)> = Vec::new();
    for pod in pods {
        let rank = rank_of(pod).unwrap_or_default();
        match read_pod(pod, events, now) {
            Observation::Gone { class, exit_code, reason } if class != EndClass::Succeeded => {
                let weight = match class {
                    EndClass::Preempted | EndClass::Cancelled if disruption(pod).is_none() => 2,
                    class if taken_away(class) => 0,
                    EndClass::OutOfMemory | EndClass::Image | EndClass::Unschedulable | EndClass::Quota => 0,
                    _ => 1,
                };
                let named = gone(class, exit_code, format!("rank {rank}: {reason}"));
                gone_ones.push((weight, over_at(pod).unwrap_or(now), rank, named));
            }
            Observation::Pending { why, .. } => others.push((rank, pending(format!("rank {rank}: {why}")))),
            other => others.push((rank, other)),
        }
    }
    if let Some((.., first)) = gone_ones.into_iter().min_by_key(|(weight, at, rank, _)| (*weight, *at, *rank))
    {
        return Some(first);
    }
    let pod_less = |rank: &i64| pods.iter().all(|pod| rank_of(pod) != Some(*rank));
    let completions = i64::from(job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1));
    let missing = (0..completions).find(pod_less).filter(|_| !pods.is_empty());
    match (failed(job), missing) {
        (Some(condition), Some(rank)) if condition.reason.as_deref() != Some("DeadlineExceeded") => {
            let (class, reason) = pod_missing(condition);
            Some(gone(class, None, format!("rank {rank}: {reason}")))
        }
        (None, Some(rank)) => Some(pending(format!("rank {rank}: its pod is being made"))),
        _ => {
            let of = |wanted: fn(&Observation) -> bool| {
                others.iter().find(|(_, o)| wanted(o)).map(|(_, o)| o.clone())
            };
            of(|o| matches!(o, Observation::Pending { .. }))
                .or_else(|| of(|o| matches!(o, Observation::Running)))
                .or_else(|| of(|_| true))
        }
    }
}

/// The number that an Indexed Job gave a pod.
fn rank_of(pod: &Pod) -> Option<i64> {
    pod.metadata.annotations.as_ref()?.get(COMPLETION_INDEX)?.parse().ok()
}

/// When the last of a pod's containers ended, if it has ended.
fn over_at(pod: &Pod) -> Option<Millis> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let ends = all.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let last = ends.map(millis).max();
    last.filter(|_| ended(pod))
}

/// No container of it runs any more, nor will.
pub(super) fn ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// From when to when pods held their nodes: from the first one's binding to the last container's end, or now.
pub fn held(pods: &[Pod], now: Millis) -> Option<Held> {
    let bound = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "True")?;
        Some(scheduled.last_transition_time.as_ref()?.0.as_millisecond())
    };
    let held: Vec<(Millis, Millis)> =
        pods.iter().filter_map(|pod| Some((bound(pod)?, over_at(pod).unwrap_or(now)))).collect();
    Some(Held {
        from_ms: held.iter().map(|(from, _)| *from).min()?,
        to_ms: held.iter().map(|(_, to)| *to).max()?,
        pods_ms: held.iter().map(|(from, to)| (to - from).max(0)).sum(),
        gpu_busy: None,
    })
}

const OVERDUE: &str = "its Job was over its deadline";
const JOB_DELETED: &str = "its Job was deleted by someone else";
const POD_DELETED: &str = "its pod was deleted by someone else";

/// What became of a pod that nobody has seen end, by how its Job failed. The cluster marks the pods that it takes away, which the
/// Job's policy notes.
fn pod_missing(failed: &JobCondition) -> (EndClass, String) {
    match failed.reason.as_deref() {
        Some("PodFailurePolicy") => {
            (EndClass::Preempted, with("the cluster took its pod away", failed.message.as_ref()))
        }
        _ => (EndClass::Cancelled, POD_DELETED.into()),
    }
}

/// The condition by which the cluster gave a Job up.
fn failed(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), "Failed" | "FailureTarget") && c.status == "True")
}

/// An end that comes from outside of the pod.
pub(super) fn taken_away(class: EndClass) -> bool {
    matches!(
        class,
        EndClass::Preempted
            | EndClass::NodeLost
            | EndClass::Evicted
            | EndClass::Cancelled
            | EndClass::Internal
    )
}

pub(super) fn gone(class: EndClass, exit_code: Option<i64>, reason: impl Into<String>) -> Observation {
    Observation::Gone { class, exit_code, reason: reason.into() }
}

fn pending(why: impl Into<String>) -> Observation {
    Observation::Pending { why: why.into(), since_ms: None }
}

/// The cluster's own words, on one line, without control characters and not endless.
pub(super) fn words(text: Option<&String>) -> String {
    let parts = text.into_iter().flat_map(|t| t.split(|c: char| c.is_whitespace() || c.is_control()));
    let line = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    if line.chars().count() > SENTENCE {
        format!("{}…", line.chars().take(SENTENCE).collect::<String>())
    } else {
        line
    }
}

pub(super) fn with(prefix: &str, text: Option<&String>) -> String {
    let said = words(text);
    if said.is_empty() { prefix.to_owned() } else { format!("{prefix}: {said}") }
}

fn without_pod(job: &Job, cancelled: bool, events: &[Event], now: Millis) -> Observation {
    if cancelled {
        return gone(EndClass::Cancelled, None, "cancelled");
    }
    let status = job.status.as_ref();
    if let Some(failed) = failed(job) {
        return match failed.reason.as_deref() {
            Some("DeadlineExceeded") => gone(EndClass::TimedOut, None, OVERDUE),
            _ if job.metadata.deletion_timestamp.is_some() => gone(EndClass::Cancelled, None, JOB_DELETED),
            _ => {
                let (class, reason) = pod_missing(failed);
                gone(class, None, reason)
            }
        };
    }
    if job.metadata.deletion_timestamp.is_some() {
        return gone(EndClass::Cancelled, None, JOB_DELETED);
    }
    let refusals = || events.iter().filter(|e| e.reason.as_deref() == Some("FailedCreate"));
    if let Some(refused) = refusals().next_back() {
        // The cluster itself tries again: a quota may be held by a pod that is ending, a webhook may be away for a moment.
        let first = refusals().filter_map(|e| e.first_timestamp.as_ref()).map(millis).min();
        let said = with("the cluster refused its pod", refused.message.as_ref());
        if first.is_some_and(|first| now - first < REFUSED_MS) {
            return pending(said);
        }
        return gone(EndClass::Quota, None, said);
    }
    if job.spec.as_ref().is_some_and(|s| s.suspend == Some(true)) {
        return pending("its Job is suspended");
    }
    if status.is_some_and(|s| s.active.unwrap_or(0) > 0 || s.failed.unwrap_or(0) > 0) {
        return gone(EndClass::Cancelled, None, POD_DELETED);
    }
    pending("its pod is being made")
}

fn container<'a>(all: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    all?.iter().find(|status| status.name == name)
}

fn state(status: Option<&ContainerStatus>) -> Option<&ContainerState> {
    status?.state.as_ref()
}

/// Why the cluster took a pod away, by its own record.
fn disruption(pod: &Pod) -> Option<(EndClass, String)> {
    let status = pod.status.as_ref()?;
    let message = status.message.as_ref();
    if status.phase.as_deref() == Some("Failed") {
        match status.reason.as_deref() {
            Some("Evicted") => return Some((EndClass::Evicted, with("put out by its node", message))),
            Some("DeadlineExceeded") => {
                return Some((EndClass::TimedOut, with("over its deadline", message)));
            }
            Some("NodeLost") => return Some((EndClass::NodeLost, with("its node is lost", message))),
            Some("Preempting") => return Some((EndClass::Preempted, with("preempted", message))),
            Some("NodeShutdown" | "Terminated" | "Shutdown") => {
                return Some((EndClass::Preempted, with("its node was shut down", message)));
            }
            Some(reason @ ("UnexpectedAdmissionError" | "NodeAffinity")) => {
                return Some((EndClass::Evicted, with(&format!("its node refused it ({reason})"), message)));
            }
            Some(reason) if reason.starts_with("OutOf") => {
                return Some((EndClass::Evicted, with(&format!("its node refused it ({reason})"), message)));
            }
            _ => {}
        }
    }
    let target =
        status.conditions.as_ref()?.iter().find(|c| c.type_ == "DisruptionTarget" && c.status == "True")?;
    let said = |prefix: &str| with(prefix, target.message.as_ref());
    Some(match target.reason.as_deref() {
        Some("PreemptionByScheduler") => (EndClass::Preempted, said("a more important pod took its place")),
        Some("EvictionByEvictionAPI") => (EndClass::Preempted, said("its node was drained")),
        Some("DeletionByTaintManager") => (EndClass::NodeLost, said("its node no longer answers")),
        Some("DeletionByPodGC") => (EndClass::NodeLost, said("its node is gone")),
        Some("TerminationByKubelet") => (EndClass::Evicted, said("put out by its node")),
        _ => (EndClass::Preempted, said("the cluster took it away")),
    })
}

fn read_pod(pod: &Pod, events: &[Event], now: Millis) -> Observation {
    let Some(status) = &pod.status else { return pending("its pod is being made") };
    let step = state(container(status.container_statuses.as_ref(), STEP));
    let prepare = state(container(status.init_container_statuses.as_ref(), PREPARE));
    if let Some(end) = step.and_then(|s| s.terminated.as_ref()) {
        return end_of(pod, end);
    }
    if let Some(end) = prepare.and_then(|s| s.terminated.as_ref()).filter(|end| end.exit_code != 0) {
        return match (said(end), disruption(pod)) {
            _ if end.reason.as_deref() == Some("OOMKilled") => {
                gone(EndClass::OutOfMemory, Some(code(end)), "out of memory while fetching the source")
            }
            (Some(result), None) => gone(result.class, Some(code(end)), result.reason),
            (_, Some((class, reason))) => gone(class, Some(code(end)), reason),
            (None, None) => gone(
                EndClass::Internal,
                Some(code(end)),
                with(
                    &format!("preparing its pod failed with exit code {}", end.exit_code),
                    end.message.as_ref(),
                ),
            ),
        };
    }
    if status.phase.as_deref() == Some("Failed") {
        let (class, reason) = disruption(pod).unwrap_or_else(|| {
            let why = status.reason.as_deref().unwrap_or("no reason given");
            (EndClass::Internal, with(&format!("its pod failed ({why})"), status.message.as_ref()))
        });
        return gone(class, None, reason);
    }
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        // The time of deletion lies in the future by the grace that is left.
        if now > millis(deleted) + LOST_MS {
            let (class, reason) = disruption(pod)
                .unwrap_or((EndClass::NodeLost, "its pod was to end and its node no longer answers".into()));
            return gone(class, None, reason);
        }
        if step.and_then(|s| s.running.as_ref()).is_none()
            && prepare.and_then(|s| s.running.as_ref()).is_none()
        {
            return pending("its pod is being deleted");
        }
        return Observation::Running;
    }
    if step.and_then(|s| s.running.as_ref()).is_some() {
        return Observation::Running;
    }
    for (what, name, waiting) in [("the step's image", STEP, step), ("the trainyard image", PREPARE, prepare)]
    {
        if let Some(waiting) = waiting.and_then(|s| s.waiting.as_ref()) {
            let for_ms = failing_since(pod, name, events).map_or(0, |since| now - since);
            if let Some(found) = stuck(what, waiting.reason.as_deref(), waiting.message.as_ref(), for_ms) {
                return found;
            }
        }
    }
    if prepare.and_then(|s| s.running.as_ref()).is_some() {
        return pending("fetching the source");
    }
    if prepare.and_then(|s| s.terminated.as_ref()).is_some() {
        return pending("pulling the step's image");
    }
    let unscheduled = status
        .conditions
        .as_ref()
        .and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"));
    match unscheduled {
        Some(condition) => unschedulable(pod, condition.message.as_ref(), events),
        None if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) => {
            pending("pulling the trainyard image")
        }
        None => pending("waits for the scheduler"),
    }
}

/// When a container first failed to start, by its kubelet's oldest event: its status gives no time, and its pod may be old by then.
fn failing_since(pod: &Pod, container: &str, events: &[Event]) -> Option<Millis> {
    let (name, field) = (pod.metadata.name.as_deref(), format!("{{{container}}}"));
    let of_it = events.iter().filter(|event| {
        event.involved_object.name.as_deref() == name
            && event.involved_object.field_path.as_ref().is_some_and(|path| path.ends_with(&field))
            && matches!(
                event.reason.as_deref(),
                Some("Failed" | "BackOff" | "InspectFailed" | "ErrImageNeverPull")
            )
    });
    of_it.filter_map(|event| event.first_timestamp.as_ref()).map(millis).min()
}

/// A container of it fails to start: only its events say since when.
pub(super) fn fails_to_start(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses));
    let mut reasons = all.flatten().filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    reasons.any(|reason| stuck("", Some(reason), None, 0).is_some())
}

/// Words of the cluster autoscaler about a pool that may grow later, or whose nodes may become free
/// (cluster-autoscaler/core/scaleup/orchestrator/skippedreasons.go).
const PASSING: [&str; 5] = [
    "max node group size reached",
    "in backoff after failed scale-up",
    "not ready for scale-up",
    "at least one node can be vertically scaled",
    " limit reached",
];

/// No node takes it: final when the autoscaler has said of every pool that it will never fit, a sentence otherwise.
fn unschedulable(pod: &Pod, message: Option<&String>, events: &[Event]) -> Observation {
    let name = pod.metadata.name.as_deref();
    let own = || events.iter().filter(|e| e.involved_object.name.as_deref() == name);
    let last = |reasons: &[&str]| {
        own()
            .rfind(|e| e.reason.as_deref().is_some_and(|r| reasons.contains(&r)))
            .map(|e| words(e.message.as_ref()))
    };
    if let Some(growing) = last(&["TriggeredScaleUp", "Nominated"]) {
        return pending(format!("a node is being added: {growing}"));
    }
    if let Some(no) = last(&["NotTriggerScaleUp"]) {
        // A node that would fit and is full says so to the scheduler, and is not the autoscaler's to speak of.
        let full = message.is_some_and(|said| said.contains("Insufficient"));
        if full || PASSING.iter().any(|words| no.contains(words)) {
            return pending(format!("no node takes it yet, and no pool of the cluster grows for now: {no}"));
        }
        return gone(EndClass::Unschedulable, None, format!("no pool of the cluster can grow for it: {no}"));
    }
    pending(with("no node takes it yet", message))
}

/// A container that waits for something that will not come.
fn stuck(what: &str, reason: Option<&str>, message: Option<&String>, for_ms: Millis) -> Option<Observation> {
    let reason = reason?;
    let at_once = match reason {
        "InvalidImageName" | "ErrImageNeverPull" => true,
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed"
        | "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError" => false,
        _ => return None,
    };
    let sentence = with(&format!("{what}: {reason}"), message);
    Some(if at_once || for_ms >= HOPELESS_MS {
        gone(EndClass::Image, None, sentence)
    } else {
        pending(sentence)
    })
}

fn code(end: &ContainerStateTerminated) -> i64 {
    i64::from(end.exit_code)
}

/// What the agent left as the container's last word.
fn said(end: &ContainerStateTerminated) -> Option<ResultFile> {
    serde_json::from_str(end.message.as_deref()?).ok()
}

/// The step's container has ended. The agent's word counts where the container's own status agrees with it.
fn end_of(pod: &Pod, end: &ContainerStateTerminated) -> Observation {
    let disrupted = disruption(pod);
    // The cluster marks the pods that it takes away: where nothing of its own says why, someone asked for it.
    let deleted = disrupted.is_none() && pod.metadata.deletion_timestamp.is_some();
    if end.reason.as_deref() == Some("OOMKilled") {
        return gone(EndClass::OutOfMemory, Some(code(end)), "killed by the kernel: over its memory limit");
    }
    match said(end) {
        Some(result) if result.class == EndClass::Succeeded && end.exit_code != 0 => gone(
            EndClass::Internal,
            Some(code(end)),
            format!("its agent said that it succeeded, its container ended with exit code {}", end.exit_code),
        ),
        Some(result) if deleted && result.class.answers_a_signal() => {
            gone(EndClass::Cancelled, result.exit_code, POD_DELETED)
        }
        Some(result) if matches!(result.class, EndClass::Preempted | EndClass::Cancelled) => {
            let (class, reason) = disrupted.unwrap_or((result.class, result.reason));
            gone(class, result.exit_code, reason)
        }
        Some(result) => gone(result.class, result.exit_code, result.reason),
        None => {
            let (class, reason) = disrupted.unwrap_or_else(|| match end.reason.as_deref() {
                Some("ContainerCannotRun" | "StartError") => {
                    (EndClass::Image, with("its container could not be started", end.message.as_ref()))
                }
                Some("ContainerStatusUnknown") => {
                    (EndClass::NodeLost, with("its node lost sight of it", end.message.as_ref()))
                }
                _ if deleted => (EndClass::Cancelled, POD_DELETED.into()),
                _ => (
                    EndClass::NodeLost,
                    format!("the agent ended without a result (exit code {})", end.exit_code),
                ),
            });
            gone(class, Some(code(end)), reason)
        }
    }
}

pub(super) fn millis(time: &Time) -> Millis {
    time.0.as_millisecond()
}
