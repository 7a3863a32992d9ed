//! `next` as a table of situations.

mod places;
mod walks;

use std::collections::{BTreeMap, BTreeSet};

use super::next::*;
use crate::clock::Millis;
use crate::config::Limits;
use crate::executor::Observation;
use crate::model::plan::{Need, Plan, Retry, StepSpec};
use crate::model::*;
use crate::store::attempts::AttemptRow;
use crate::store::ranks::RankRow;
use crate::store::runs::{RunRow, RunView, StepRow};

const T0: Millis = 1_800_000_000_000;

fn spec(name: &str, needs: &[&str]) -> StepSpec {
    StepSpec {
        needs: needs.iter().map(|n| Need { step: (*n).into(), into: None }).collect(),
        commands: vec!["true".into()],
        timeout_ms: 3_600_000,
        ..StepSpec::named(name)
    }
}

fn plan(steps: Vec<StepSpec>) -> Plan {
    Plan {
        name: "p".into(),
        file: ".trainyard.yaml".into(),
        when: vec![],
        concurrency: None,
        priority: None,
        timeout_ms: 6 * 3_600_000,
        steps,
        metrics: plan::MetricsSpec::default(),
        report: plan::ReportSpec::default(),
        not_run: vec![],
    }
}

fn run_row(id: &str, state: RunState, plan: Plan) -> RunRow {
    RunRow {
        id: RunId::from_text(id),
        repo_id: RepoId::from_text("repo"),
        pipeline: "p".into(),
        head_sha: Sha::parse(&"a".repeat(40)).unwrap(),
        trigger_key: "head".into(),
        generation: 1,
        branch: "main".into(),
        message: String::new(),
        actor: "ann".into(),
        trusted: true,
        state,
        reason: String::new(),
        epoch: 7,
        plan,
        plan_digest: String::new(),
        variables: BTreeMap::new(),
        concurrency: None,
        cancel_request: None,
        created_ms: T0,
        started_ms: (state == RunState::Running).then_some(T0),
        ended_ms: state.is_terminal().then_some(T0),
    }
}

fn step_row(position: usize, name: &str, state: StepState) -> StepRow {
    StepRow {
        id: StepId::from_text(format!("step-{name}")),
        run_id: RunId::from_text("run"),
        position: position as i64,
        name: name.into(),
        state,
        reason: String::new(),
        epoch: 0,
        outputs: BTreeMap::new(),
        ready_ms: None,
        started_ms: None,
        ended_ms: None,
    }
}

/// Its uid is the step's name and the number: `a1`.
fn attempt_row(step: &str, number: i64, state: AttemptState, class: Option<EndClass>) -> AttemptRow {
    let begun = !matches!(state, AttemptState::Intended);
    AttemptRow {
        uid: AttemptUid::from_text(format!("{step}{number}")),
        run_id: RunId::from_text("run"),
        step_id: StepId::from_text(format!("step-{step}")),
        number,
        state,
        class,
        reason: String::new(),
        exit_code: None,
        executor: "local".into(),
        pool: "default".into(),
        machine: String::new(),
        gpus: vec![],
        ranks: 1,
        bootstrap_hash: String::new(),
        bootstrap_nonce: String::new(),
        sealed: false,
        cancel_request: false,
        outputs: BTreeMap::new(),
        handle: serde_json::json!({}),
        log_bytes: 0,
        log_lost_bytes: 0,
        metrics_seq: 0,
        notes: vec![],
        intended_ms: T0,
        submitted_ms: begun.then_some(T0),
        started_ms: matches!(state, AttemptState::Running | AttemptState::Finishing).then_some(T0),
        heartbeat_ms: None,
        finished_ms: None,
        ended_ms: (state == AttemptState::Ended).then_some(T0),
        removed_ms: (state == AttemptState::Ended).then_some(T0),
        held_from_ms: None,
        held_to_ms: None,
        held_pods_ms: None,
        gpu_busy: None,
    }
}

/// `view("running", "a succeeded, b<a running", "b1 ended:failed, b2 running")`.
fn view(run: &str, steps: &str, attempts: &str) -> RunView {
    let mut specs = Vec::new();
    let mut rows = Vec::new();
    for (position, text) in steps.split(", ").filter(|t| !t.is_empty()).enumerate() {
        let (head, state) = text.split_once(' ').unwrap();
        let (name, needs) = head.split_once('<').unwrap_or((head, ""));
        let needs: Vec<&str> = needs.split('+').filter(|n| !n.is_empty()).collect();
        specs.push(spec(name, &needs));
        rows.push(step_row(position, name, state.parse().unwrap()));
    }
    let attempts = attempts.split(", ").filter(|t| !t.is_empty()).map(|text| {
        let (uid, state) = text.split_once(' ').unwrap();
        let (step, number) = uid.split_at(1);
        let (state, class) = state.split_once(':').unwrap_or((state, ""));
        let class = (!class.is_empty()).then(|| class.parse().unwrap());
        attempt_row(step, number.parse().unwrap(), state.parse().unwrap(), class)
    });
    RunView {
        run: run_row("run", run.parse().unwrap(), plan(specs)),
        steps: rows,
        attempts: attempts.collect(),
        ranks: Vec::new(),
    }
}

/// A decision in one line: run, steps, attempts, effects, next look (seconds from T0).
fn show(view: &RunView, d: &Decision) -> String {
    let mut out = Vec::new();
    let why = |text: &str| if text.is_empty() { String::new() } else { format!(" ({text})") };
    if let Some(change) = &d.change {
        assert_eq!(change.epoch, view.run.epoch);
        if let Some((state, reason)) = &change.to {
            out.push(format!("run {state}{}", why(reason)));
        }
        for m in &change.steps {
            let row = view.steps.iter().find(|s| s.id == m.step).unwrap();
            out.push(format!("{} {}{}", row.name, m.to, why(&m.reason)));
        }
        for m in &change.attempts {
            let class = m.class.map(|c| format!(":{c}")).unwrap_or_default();
            if m.cancel {
                out.push(format!("{} asked to stop", m.uid));
            } else {
                out.push(format!("{} {}{class}{}", m.uid, m.to, why(&m.reason)));
            }
        }
    }
    for effect in &d.effects {
        out.push(match effect {
            Effect::Submit(uid) => format!("SUBMIT {uid}"),
            Effect::Observe(uid) => format!("OBSERVE {uid}"),
            Effect::Cancel(uid) => format!("CANCEL {uid}"),
            Effect::Remove(uid) => format!("REMOVE {uid}"),
        });
    }
    if let Some(ms) = d.look_again_ms {
        out.push(format!("look {}s", (ms - T0) / 1000));
    }
    if out.is_empty() { "nothing".into() } else { out.join("; ") }
}

struct Row {
    name: &'static str,
    view: RunView,
    now_s: i64,
    observed: Vec<(&'static str, Observation, i64)>,
    failed: Option<&'static str>,
    /// Since when its executor answers, in seconds.
    answers_s: Option<i64>,
    ahead: Option<RunId>,
    want: &'static str,
}

fn row(name: &'static str, view: RunView, want: &'static str) -> Row {
    Row { name, view, now_s: 0, observed: vec![], failed: None, answers_s: Some(0), ahead: None, want }
}

impl Row {
    fn at(mut self, now_s: i64) -> Self {
        self.now_s = now_s;
        self
    }
    fn sees(mut self, uid: &'static str, what: Observation, since_s: i64) -> Self {
        self.observed.push((uid, what, since_s));
        self
    }
    /// The executor does not answer about this attempt.
    fn fails(mut self, uid: &'static str) -> Self {
        self.failed = Some(uid);
        self
    }
    /// None: it does not.
    fn answers(mut self, since_s: Option<i64>) -> Self {
        self.answers_s = since_s;
        self
    }
    fn cancel(mut self, why: &str) -> Self {
        self.view.run.cancel_request = Some(why.into());
        self
    }
    fn edit(mut self, edit: impl FnOnce(&mut RunView)) -> Self {
        edit(&mut self.view);
        self
    }
}

/// Its attempts ran on a pool whose places are a queue's.
fn lent(view: &mut RunView) {
    view.attempts.iter_mut().for_each(|a| a.pool = "lent".into());
}

fn in_a_cluster(view: &mut RunView) {
    view.attempts.iter_mut().for_each(|a| a.executor = "kubernetes".into());
}

fn gone(class: EndClass, reason: &str) -> Observation {
    Observation::Gone { class, exit_code: None, reason: reason.into() }
}

fn retry(view: &mut RunView, max: u32, when: &[&str]) {
    view.run.plan.steps[0].retry = Retry { max, when: when.iter().map(|w| (*w).to_owned()).collect() };
}

#[test]
fn next_decides_what_the_table_says() {
    let rows = vec![
        // starting
        row("a fresh run readies its roots", view("queued", "a waiting, b<a waiting, c waiting", ""), "a ready; c ready"),
        row("nothing new, nothing to do", view("queued", "a ready, b<a waiting", ""), "nothing"),
        row("a placed step starts the run", view("queued", "a running", "a1 intended"), "run running; SUBMIT a1; look 21600s"),
        row("an intended attempt is submitted, again after a crash", view("running", "a running", "a1 intended"), "SUBMIT a1; look 21600s"),
        row("a held run waits", view("held", "a waiting", ""), "nothing"),
        Row { ahead: Some(RunId::from_text("older")), ..row("its group is busy", view("queued", "a waiting", ""), "look 60s") },
        Row { ahead: Some(RunId::from_text("older")), ..row("a reused step takes no turn", view("queued", "a reused, b<a waiting", ""), "look 60s") },
        Row { ahead: Some(RunId::from_text("older")), ..row("a running run ignores the queue of its group", view("running", "a succeeded, b<a waiting", "a1 ended:succeeded"), "b ready; look 21600s") },
        // needs
        row("a need succeeded", view("running", "a running, b<a waiting", "a1 ended:succeeded"), "a succeeded; b ready; look 21600s"),
        row("one of two needs is open", view("running", "a running, b running, c<a+b waiting", "a1 ended:succeeded, b1 intended"), "a succeeded; SUBMIT b1; look 21600s"),
        row("a reused need counts", view("running", "a reused, b<a waiting", ""), "b ready; look 21600s"),
        row("a failure skips all that needs it, and ends the run", view("running", "a running, b<a waiting, c<b waiting", "a1 ended:failed"),
            "run failed (step `a` failed: a command failed); a failed (a command failed); b skipped (`a`, which it needs, failed); c skipped (`b`, which it needs, was skipped)"),
        row("an independent branch goes on", view("running", "a running, b waiting", "a1 ended:failed"), "a failed (a command failed); b ready; look 21600s"),
        row("all steps good", view("running", "a succeeded, b<a running", "b1 ended:succeeded"), "run succeeded; b succeeded"),
        row("a refused step errs the run", view("queued", "a errored, b<a waiting", ""),
            "run errored (step `a` could not be run); b skipped (`a`, which it needs, could not be run)"),
        row("the user's failure goes before ours", view("running", "a errored, b failed", ""), "run failed (step `b` failed)"),
        // retries
        row("node loss is retried once by default", view("running", "a running", "a1 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (1 of 1)); look 21600s"),
        row("and only once", view("running", "a running", "a1 ended:node_lost, a2 ended:preempted"),
            "run errored (step `a` could not be run: the machine was taken back); a errored (the machine was taken back)"),
        row("a user's failure is not retried", view("running", "a running", "a1 ended:failed"),
            "run failed (step `a` failed: a command failed); a failed (a command failed)"),
        row("declared failures are", view("running", "a running", "a1 ended:failed"), "a ready (a command failed; trying again (1 of 2)); look 21600s")
            .edit(|v| retry(v, 2, &["failed"])),
        row("up to the budget", view("running", "a running", "a1 ended:failed, a2 ended:failed, a3 ended:failed"),
            "run failed (step `a` failed: a command failed); a failed (a command failed)").edit(|v| retry(v, 2, &["failed"])),
        row("max without words means the infrastructure classes", view("running", "a running", "a1 ended:preempted, a2 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (2 of 3)); look 21600s").edit(|v| retry(v, 3, &[])),
        row("default and declared budgets are apart", view("running", "a running", "a1 ended:failed, a2 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (1 of 1)); look 21600s").edit(|v| retry(v, 1, &["failed"])),
        row("out of memory is the user's", view("running", "a running", "a1 ended:oom"),
            "run failed (step `a` failed: it ran out of memory); a failed (it ran out of memory)"),
        row("unless declared", view("running", "a running", "a1 ended:oom"), "a ready (it ran out of memory; trying again (1 of 1)); look 21600s")
            .edit(|v| retry(v, 1, &["oom"])),
        row("exit 75 resumes and spends nothing", view("running", "a running", "a1 ended:checkpointed, a2 ended:node_lost, a3 ended:checkpointed"),
            "a ready (resumes from its checkpoint); look 21600s"),
        row("stopped by someone else is the machine's doing", view("running", "a running", "a1 ended:cancelled"),
            "a ready (it was stopped from outside; trying again (1 of 1)); look 21600s"),
        row("no place is final", view("running", "a running", "a1 ended:unschedulable"),
            "run errored (step `a` could not be run: no place was found for it); a errored (no place was found for it)"),
        row("a running step without an attempt waits again", view("running", "a running", ""), "a ready (it had no attempt); look 21600s"),
        // watching
        row("submitted: ask the executor", view("running", "a running", "a1 submitted"), "OBSERVE a1; look 5s"),
        row("the executor holds it", view("running", "a running", "a1 submitted"), "a1 pending (pulling the image); look 5s")
            .sees("a1", Observation::Pending { why: "pulling the image".into(), since_ms: None }, 0),
        row("pending too long", view("running", "a running", "a1 pending"),
            "run errored (step `a` could not be run: it did not start within 30 min); a errored (it did not start within 30 min); a1 ended:unschedulable (it did not start within 30 min); CANCEL a1; REMOVE a1").at(1800),
        row("in a queue? its executor says", view("running", "a running", "a1 pending"), "OBSERVE a1; look 1860s").at(1800).edit(lent),
        row("a queue's time does not count", view("running", "a running", "a1 pending"), "a1 pending (waiting); look 1860s").edit(lent)
            .at(1800).sees("a1", Observation::Pending { why: "waiting".into(), since_ms: Some(T0 + 1_800_000) }, 1800),
        row("but what comes after it", view("running", "a running", "a1 pending"),
            "run errored (step `a` could not be run: it did not start within 30 min: full); a errored (it did not start within 30 min: full); a1 ended:unschedulable (it did not start within 30 min: full); CANCEL a1; REMOVE a1")
            .edit(lent).at(2000).sees("a1", Observation::Pending { why: "full".into(), since_ms: Some(T0 + 200_000) }, 2000),
        row("a running agent is trusted for a while", view("running", "a running", "a1 running"), "look 15s").at(3),
        row("then the executor is asked", view("running", "a running", "a1 running"), "OBSERVE a1; look 35s").at(20),
        row("silent but alive goes on", view("running", "a running", "a1 running"), "look 1015s").at(1000).sees("a1", Observation::Running, 1000),
        row("gone: its last words are waited for", view("running", "a running", "a1 running"), "look 30s").at(25)
            .sees("a1", gone(EndClass::Failed, ""), 20),
        row("then the executor's class counts", view("running", "a running", "a1 running"),
            "run failed (step `a` failed: killed by the kernel for memory); a failed (killed by the kernel for memory); a1 ended:oom (killed by the kernel for memory); REMOVE a1")
            .at(30).sees("a1", gone(EndClass::OutOfMemory, "killed by the kernel for memory"), 20),
        row("an exit of 0 without a word is no success", view("running", "a running", "a1 running"),
            "a ready (it ended without a word from its agent; trying again (1 of 1)); a1 ended:internal (it ended without a word from its agent); REMOVE a1; look 21600s")
            .at(30).sees("a1", gone(EndClass::Succeeded, ""), 20),
        row("forgotten by the executor", view("running", "a running", "a1 running"),
            "a ready (the executor knows nothing of it any more; trying again (1 of 1)); a1 ended:node_lost (the executor knows nothing of it any more); REMOVE a1; look 21600s")
            .at(30).sees("a1", Observation::Unknown, 20),
        row("an agent that does not end an overdue step is stopped", view("running", "a running", "a1 running"),
            "a1 asked to stop; OBSERVE a1; CANCEL a1; look 3695s").at(3690),
        row("and its end is a time-out", view("running", "a running", "a1 running"),
            "run failed (step `a` failed: its time limit of 1 h passed); a failed (its time limit of 1 h passed); a1 ended:timed_out (its time limit of 1 h passed); REMOVE a1")
            .at(3710).sees("a1", gone(EndClass::Cancelled, ""), 3700),
        row("an ended attempt is removed", view("running", "a running", "a1 ended:succeeded"), "run succeeded; a succeeded; REMOVE a1")
            .edit(|v| v.attempts[0].removed_ms = None),
        row("even when the run is over", view("succeeded", "a succeeded", "a1 ended:succeeded"), "REMOVE a1")
            .edit(|v| v.attempts[0].removed_ms = None),
        row("a run that is over stays so", view("succeeded", "a succeeded", "a1 ended:succeeded"), "nothing").cancel("too late"),
        // stopping
        row("cancel before anything ran", view("queued", "a ready, b<a waiting", ""),
            "run cancelled (by ann); a cancelled (by ann); b cancelled (by ann)").cancel("by ann"),
        row("cancel while held", view("held", "a waiting", ""), "run cancelled (by ann); a cancelled (by ann)").cancel("by ann"),
        row("superseded while held", view("held", "a waiting", ""), "run superseded (a newer commit); a cancelled (a newer commit)")
            .cancel("superseded: a newer commit"),
        row("cancel of an attempt that may or may not exist", view("running", "a running", "a1 intended"),
            "run cancelled (by ann); a cancelled (by ann); a1 ended:cancelled (by ann); CANCEL a1; REMOVE a1").cancel("by ann"),
        row("cancel of a running attempt waits for its end", view("running", "a running, b<a waiting", "a1 running"),
            "b cancelled (by ann); a1 asked to stop; OBSERVE a1; CANCEL a1; look 5s").cancel("by ann"),
        row("its end by its own word", view("running", "a running, b<a cancelled", "a1 ended:cancelled"),
            "run superseded (a newer commit); a cancelled (a newer commit)").cancel("superseded: a newer commit"),
        row("a stop while it succeeds is a success", view("running", "a running", "a1 ended:succeeded"), "run succeeded; a succeeded").cancel("by ann"),
        row("a queue takes places back as often as it likes", view("running", "a running", "a1 ended:preempted, a2 ended:preempted, a3 ended:preempted"),
            "a ready (the machine was taken back; it waits for a place again); look 21600s").edit(lent),
        row("which spends nothing of what others may", view("running", "a running", "a1 ended:preempted, a2 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (1 of 1)); look 21600s").edit(lent),
        row("and excuses nothing else", view("running", "a running", "a1 ended:preempted, a2 ended:node_lost, a3 ended:node_lost"),
            "run errored (step `a` could not be run: its process or node vanished without a word); a errored (its process or node vanished without a word)").edit(lent),
        row("no retry while stopping", view("running", "a running", "a1 ended:preempted"), "run cancelled (by ann); a cancelled (by ann)").cancel("by ann"),
        row("gone while stopping", view("running", "a running", "a1 running"),
            "run cancelled (by ann); a cancelled (by ann); a1 ended:cancelled (by ann); REMOVE a1").cancel("by ann").at(40).sees("a1", gone(EndClass::Failed, ""), 30),
        row("the run's time is over", view("running", "a running, b<a waiting", "a1 running"),
            "b cancelled (the run's time limit of 6 h passed); a1 asked to stop; OBSERVE a1; CANCEL a1; look 21605s").at(21600),
        row("and it failed by that", view("running", "a running, b<a cancelled", "a1 ended:cancelled"),
            "run failed (the run's time limit of 6 h passed); a failed (the run's time limit of 6 h passed)").at(21610),
        // an executor that cannot be asked
        row("why it cannot be started is told", view("running", "a running", "a1 intended"), "a1 intended (no answer); look 1800s").fails("a1"),
        row("and not for ever", view("running", "a running", "a1 intended"),
            "run errored (step `a` could not be run: it could not be started within 30 min: no answer); \
             a errored (it could not be started within 30 min: no answer); \
             a1 ended:unschedulable (it could not be started within 30 min: no answer); CANCEL a1; REMOVE a1").at(1800).fails("a1"),
        row("a stop waits a while for an executor that is away", view("running", "a running", "a1 running"),
            "a1 asked to stop; OBSERVE a1; CANCEL a1; look 5s").cancel("by ann").fails("a1"),
        row("and not for ever either", view("running", "a running", "a1 running"),
            "run cancelled (by ann); a cancelled (by ann); a1 ended:cancelled (by ann; whether it still runs is unknown: no answer); CANCEL a1; REMOVE a1")
            .cancel("by ann").at(100_000).fails("a1"),
        row("one that answers is believed", view("running", "a running", "a1 pending"), "a1 asked to stop; CANCEL a1; look 100005s")
            .cancel("by ann").at(100_000).fails("a1").sees("a1", Observation::Pending { why: String::new(), since_ms: None }, 0),
        row("nothing starts while it is away, and nothing ends", view("running", "a running", "a1 intended"), "a1 intended (no answer); look 21600s")
            .at(9000).fails("a1").answers(None),
        row("nor does what waits for its start", view("running", "a running", "a1 pending"), "OBSERVE a1; look 9060s").at(9000).fails("a1").answers(None),
        row("the time counts from its next answer on", view("running", "a running", "a1 pending"), "a1 pending (full); look 9060s")
            .at(9000).answers(Some(9000)).sees("a1", Observation::Pending { why: "full".into(), since_ms: None }, 9000),
        row("and then it ends", view("running", "a running", "a1 pending"),
            "run errored (step `a` could not be run: it did not start within 30 min: full); a errored (it did not start within 30 min: full); a1 ended:unschedulable (it did not start within 30 min: full); CANCEL a1; REMOVE a1")
            .at(10800).answers(Some(9000)).sees("a1", Observation::Pending { why: "full".into(), since_ms: None }, 9000),
        // a cluster has a word of its own
        row("its word on a running attempt is asked for at every look", view("running", "a running", "a1 running"), "OBSERVE a1; look 15s").at(3).edit(in_a_cluster),
        row("what someone else has deleted is ended", view("running", "a running", "a1 running"), "CANCEL a1; look 8s").at(3).edit(in_a_cluster)
            .sees("a1", Observation::Withdrawn, 3),
        row("silence alone ends nothing", view("running", "a running", "a1 running"), "OBSERVE a1; look 115s").at(100).fails("a1"),
    ];
    assert!(rows.len() >= 30);
    check(&rows);
}

fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for row in rows {
        let observed = row
            .observed
            .iter()
            .map(|(uid, what, since)| {
                (AttemptUid::from_text(*uid), Observed { what: what.clone(), since_ms: T0 + since * 1000 })
            })
            .collect();
        let limits = Limits::default();
        let queued = BTreeSet::from(["lent".to_owned()]);
        let since = row.answers_s.map(|since| T0 + since * 1000);
        let answering =
            since.into_iter().flat_map(|at| ["local", "kubernetes"].map(|name| (name.to_owned(), at)));
        let answering = answering.collect();
        let situation = Situation {
            view: &row.view,
            now: T0 + row.now_s * 1000,
            limits: &limits,
            answering: &answering,
            queued: &queued,
            observed: &observed,
            failed: &row
                .failed
                .map(|uid| (AttemptUid::from_text(uid), "no answer".to_owned()))
                .into_iter()
                .collect(),
            ahead: row.ahead.as_ref(),
        };
        let got = show(&row.view, &next(&situation));
        if got != row.want {
            wrong.push(format!("{}:\n   got {got}\n  want {}", row.name, row.want));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// `"0 running, 1 failed@5"`: what the ranks of attempt `a1` said; the number behind `@` is when their commands ended, in seconds.
fn of_pods(attempt: &str, ranks: &str) -> RunView {
    let mut view = view("running", "a running", attempt);
    view.attempts[0].ranks = 2;
    view.attempts[0].heartbeat_ms = Some(T0 + 100_000);
    view.ranks = ranks
        .split(", ")
        .map(|text| {
            let (rank, said) = text.split_once(' ').unwrap();
            let (class, at) = said.split_once('@').unwrap_or((said, ""));
            RankRow {
                of: AttemptRank::new(&AttemptUid::from_text("a1"), rank.parse().unwrap()),
                nonce: "n".into(),
                sealed: true,
                log_bytes: 0,
                log_lost_bytes: 0,
                metrics_seq: 0,
                class: class.parse().ok(),
                exit_code: None,
                reason: if at.is_empty() { String::new() } else { format!("it {class}") },
                heard_ms: T0 + 100_000,
                started_ms: Some(T0),
                ended_ms: at.parse().ok().map(|s: i64| T0 + s * 1000),
            }
        })
        .collect();
    view
}

/// One dead rank ends the attempt, and is named; nobody is blamed before all have spoken.
#[test]
fn ends_of_ranks_end_their_attempt() {
    let node_lost = "a ready (rank 1: its node is gone; trying again (1 of 1)); a1 ended:node_lost (rank 1: its node is gone); REMOVE a1; look 21600s";
    let preempted = "a ready (rank 1: it preempted; trying again (1 of 1)); a1 ended:preempted (rank 1: it preempted); REMOVE a1; look 21600s";
    let silent = "a ready (rank 1: no word from it after rank 0 ended (it failed); trying again (1 of 1)); \
                  a1 ended:node_lost (rank 1: no word from it after rank 0 ended (it failed)); REMOVE a1; look 21600s";
    let failed = "run failed (step `a` failed: rank 1: it failed); a failed (rank 1: it failed); a1 ended:failed (rank 1: it failed); REMOVE a1";
    let good = "run succeeded; a succeeded; a1 ended:succeeded (it succeeded); REMOVE a1";
    let one_lost = || gone(EndClass::NodeLost, "rank 1: its node is gone");
    let rank_one = || gone(EndClass::Failed, "rank 1: it failed");
    check(&[
        row(
            "both at work: the executor is asked at every look",
            of_pods("a1 running", "0 running, 1 running"),
            "OBSERVE a1; look 115s",
        )
        .at(100),
        row(
            "one has ended well",
            of_pods("a1 running", "0 running, 1 succeeded@90"),
            "OBSERVE a1; look 115s",
        )
        .at(100),
        row("the leader has ended well", of_pods("a1 finishing", "0 succeeded@90, 1 running"), "look 115s")
            .at(100)
            .sees("a1", Observation::Running, 100),
        row("all have", of_pods("a1 finishing", "0 succeeded@90, 1 succeeded@99"), good).at(100),
        row(
            "one failed: who is left is waited for",
            of_pods("a1 finishing", "0 failed@99, 1 running"),
            "OBSERVE a1; look 105s",
        )
        .at(100),
        row("until its silence says it all", of_pods("a1 finishing", "0 failed@99, 1 running"), "look 219s")
            .at(217)
            .sees("a1", Observation::Running, 217),
        row(
            "the cluster saw a node go: that was it, whoever failed first",
            of_pods("a1 finishing", "0 failed@99, 1 running"),
            node_lost,
        )
        .at(100)
        .sees("a1", one_lost(), 100),
        row(
            "of two words the first is the cause",
            of_pods("a1 finishing", "0 failed@99, 1 preempted@98"),
            preempted,
        )
        .at(100)
        .sees("a1", rank_one(), 100),
        row(
            "and the rest was only asked to end",
            of_pods("a1 finishing", "0 preempted@99, 1 failed@98"),
            failed,
        )
        .at(100)
        .sees("a1", rank_one(), 100),
        row(
            "words alone decide nothing",
            of_pods("a1 finishing", "0 failed@99, 1 failed@98"),
            "OBSERVE a1; look 105s",
        )
        .at(100),
        row(
            "one that stays silent is the lost one",
            of_pods("a1 finishing", "0 failed@99, 1 running"),
            silent,
        )
        .at(219)
        .sees("a1", Observation::Running, 219),
        row("a rank that never began explains nothing", of_pods("a1 finishing", "1 failed@98"), failed)
            .at(100)
            .sees("a1", Observation::Running, 100),
        row(
            "a silent agent that is gone has had its last words",
            of_pods("a1 running", "0 running, 1 running"),
            node_lost,
        )
        .at(110)
        .sees("a1", one_lost(), 100),
        row(
            "nothing is waited for once the run is stopped",
            of_pods("a1 running", "0 running, 1 failed@99"),
            "a1 asked to stop; CANCEL a1; look 105s",
        )
        .cancel("by ann")
        .at(100)
        .sees("a1", Observation::Running, 100),
    ]);
}

/// One pod that a signal ended: whose it was, its executor says.
#[test]
fn a_signal_is_explained_by_the_executor() {
    let of_one = |said: &str| {
        let mut view = of_pods("a1 finishing", &format!("0 {said}@99"));
        view.attempts[0].ranks = 1;
        in_a_cluster(&mut view);
        view
    };
    let again = |class: &str, why: &str| {
        format!("a ready ({why}; trying again (1 of 1)); a1 ended:{class} ({why}); REMOVE a1; look 21600s")
    };
    let deleted = || gone(EndClass::Cancelled, "its pod was deleted by someone else");
    let hand = again("cancelled", "its pod was deleted by someone else");
    let drained = again("preempted", "its node was drained");
    let word = again("preempted", "it preempted");
    let own = gone(EndClass::Preempted, "it preempted");
    let resumes = "a ready (resumes from its checkpoint); a1 ended:checkpointed (it checkpointed); REMOVE a1; look 21600s";
    let late = "run failed (step `a` failed: its Job was over its deadline); a failed (its Job was over its deadline); \
                a1 ended:timed_out (its Job was over its deadline); REMOVE a1";
    let free = "a ready (its node was drained; it waits for a place again); a1 ended:preempted (its node was drained); REMOVE a1; look 21600s";
    let rows = vec![
        row("it is asked", of_one("preempted"), "OBSERVE a1; look 105s").at(100),
        row("while the pod ends", of_one("preempted"), "look 105s").at(100).sees(
            "a1",
            Observation::Running,
            100,
        ),
        row("a drain", of_one("preempted"), leak(drained)).at(100).sees(
            "a1",
            gone(EndClass::Preempted, "its node was drained"),
            100,
        ),
        row("a drain, with a queue", of_one("preempted"), free).edit(lent).at(100).sees(
            "a1",
            gone(EndClass::Preempted, "its node was drained"),
            100,
        ),
        row("someone's hand", of_one("preempted"), leak(hand.clone())).at(100).sees("a1", deleted(), 100),
        row("which no queue makes free", of_one("preempted"), leak(hand.clone())).edit(lent).at(100).sees(
            "a1",
            deleted(),
            100,
        ),
        row("nor exit 75", of_one("checkpointed"), leak(hand)).at(100).sees("a1", deleted(), 100),
        row("a deadline", of_one("preempted"), late).at(100).sees(
            "a1",
            gone(EndClass::TimedOut, "its Job was over its deadline"),
            100,
        ),
        row("nobody interfered", of_one("checkpointed"), resumes).at(100).sees(
            "a1",
            gone(EndClass::Checkpointed, "it checkpointed"),
            100,
        ),
        row("it knows nothing more", of_one("preempted"), leak(word.clone())).at(100).sees("a1", own, 100),
        row("nor anything", of_one("preempted"), leak(word.clone())).at(100).sees(
            "a1",
            Observation::Unknown,
            100,
        ),
        row("nor ever will", of_one("preempted"), leak(word.clone())).at(219).sees(
            "a1",
            Observation::Running,
            219,
        ),
        row("it does not answer yet", of_one("preempted"), "OBSERVE a1; look 205s").at(200).fails("a1"),
        row("and does not answer", of_one("preempted"), leak(word)).at(219).fails("a1"),
        row("a stop is a stop", of_one("preempted"), "a1 asked to stop; CANCEL a1; look 105s")
            .cancel("by ann")
            .at(100)
            .sees("a1", Observation::Running, 100),
    ];
    check(&rows);
}

fn leak(text: String) -> &'static str {
    text.leak()
}

#[test]
fn a_change_asks_for_what_follows_it() {
    let view = view("running", "a running", "a1 ended:succeeded");
    let (limits, observed, failed) = (Limits::default(), BTreeMap::new(), BTreeMap::new());
    let d = next(&Situation {
        view: &view,
        now: T0,
        limits: &limits,
        answering: &BTreeMap::new(),
        queued: &BTreeSet::new(),
        observed: &observed,
        failed: &failed,
        ahead: None,
    });
    let asks: Vec<String> = d.change.unwrap().asks.iter().map(|a| format!("{} {}", a.kind, a.key)).collect();
    let sha = "a".repeat(40);
    assert_eq!(
        asks,
        [format!("report repo/{sha}"), "schedule all".into(), "compare run".into(), "run run".into()]
    );
}

#[test]
fn the_bootstrap_token_is_the_same_however_often_it_is_made() {
    let uid = AttemptUid::from_text("u1");
    let instance = crate::store::Instance::new("here", [7; 32]);
    let token = super::bootstrap_token(&instance, &uid);
    assert_eq!(token, super::bootstrap_token(&instance, &uid));
    assert_ne!(token, super::bootstrap_token(&instance, &AttemptUid::from_text("u2")));
    assert_ne!(token, super::bootstrap_token(&crate::store::Instance::new("here", [8; 32]), &uid));
    assert_eq!((token.len(), super::bootstrap_hash(&token).len()), (64, 64));
}
