//! `next` and `pick` as tables of situations, and 10,000 random walks of `next` over random graphs.

use std::collections::BTreeMap;

use super::fair::Terms;
use super::next::*;
use super::reconcile::ahead;
use super::schedule::{Picked, Scene, Wait, pick};
use crate::clock::Millis;
use crate::config::{Limits, PoolConfig, QueueConfig};
use crate::executor::Observation;
use crate::model::plan::{Need, Plan, Retry, Reuse, StepSpec};
use crate::model::*;
use crate::store::attempts::AttemptRow;
use crate::store::queue::{OpenAttempt, PoolUsage, PoolUse, ReadyStep};
use crate::store::ranks::RankRow;
use crate::store::runs::{RunRow, RunView, StepRow};

const T0: Millis = 1_800_000_000_000;

fn spec(name: &str, needs: &[&str]) -> StepSpec {
    StepSpec {
        name: name.into(),
        base: name.into(),
        member: BTreeMap::new(),
        needs: needs.iter().map(|n| Need { step: (*n).into(), into: None }).collect(),
        setup: vec![],
        commands: vec!["true".into()],
        env: BTreeMap::new(),
        secrets: vec![],
        image: None,
        pool: None,
        resources: plan::Resources::default(),
        timeout_ms: 3_600_000,
        retry: Retry::default(),
        checkpoint: None,
        artifacts: vec![],
        junit: None,
        cache: vec![],
        reuse: Reuse::default(),
        workers: 1,
        data: Vec::new(),
        transforms: Vec::new(),
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
    ahead: Option<RunId>,
    want: &'static str,
}

fn row(name: &'static str, view: RunView, want: &'static str) -> Row {
    Row { name, view, now_s: 0, observed: vec![], ahead: None, want }
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
    fn cancel(mut self, why: &str) -> Self {
        self.view.run.cancel_request = Some(why.into());
        self
    }
    fn edit(mut self, edit: impl FnOnce(&mut RunView)) -> Self {
        edit(&mut self.view);
        self
    }
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
        row("a placed step starts the run", view("queued", "a running", "a1 intended"), "run running; SUBMIT a1"),
        row("an intended attempt is submitted, again after a crash", view("running", "a running", "a1 intended"), "SUBMIT a1; look 21600s"),
        row("a held run waits", view("held", "a waiting", ""), "nothing"),
        Row { ahead: Some(RunId::from_text("older")), ..row("its group is busy", view("queued", "a waiting", ""), "look 10s") },
        Row { ahead: Some(RunId::from_text("older")), ..row("a running run ignores the queue of its group", view("running", "a succeeded, b<a waiting", "a1 ended:succeeded"), "b ready; look 21600s") },
        // needs
        row("a need succeeded", view("running", "a running, b<a waiting", "a1 ended:succeeded"), "a succeeded; b ready; look 21600s"),
        row("one of two needs is open", view("running", "a running, b running, c<a+b waiting", "a1 ended:succeeded, b1 intended"), "a succeeded; SUBMIT b1; look 21600s"),
        row("a reused need counts", view("running", "a reused, b<a waiting", ""), "b ready; look 21600s"),
        row("a failure skips all that needs it, and ends the run", view("running", "a running, b<a waiting, c<b waiting", "a1 ended:failed"),
            "run failed (step `a` failed: a command failed); a failed (a command failed); b skipped (`a`, which it needs, failed); c skipped (`b`, which it needs, was skipped); look 21600s"),
        row("an independent branch goes on", view("running", "a running, b waiting", "a1 ended:failed"), "a failed (a command failed); b ready; look 21600s"),
        row("all steps good", view("running", "a succeeded, b<a running", "b1 ended:succeeded"), "run succeeded; b succeeded; look 21600s"),
        row("a refused step errs the run", view("queued", "a errored, b<a waiting", ""),
            "run errored (step `a` could not be run); b skipped (`a`, which it needs, could not be run)"),
        row("the user's failure goes before ours", view("running", "a errored, b failed", ""), "run failed (step `b` failed); look 21600s"),
        // retries
        row("node loss is retried once by default", view("running", "a running", "a1 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (1 of 1)); look 21600s"),
        row("and only once", view("running", "a running", "a1 ended:node_lost, a2 ended:preempted"),
            "run errored (step `a` could not be run: the machine was taken back); a errored (the machine was taken back); look 21600s"),
        row("a user's failure is not retried", view("running", "a running", "a1 ended:failed"),
            "run failed (step `a` failed: a command failed); a failed (a command failed); look 21600s"),
        row("declared failures are", view("running", "a running", "a1 ended:failed"), "a ready (a command failed; trying again (1 of 2)); look 21600s")
            .edit(|v| retry(v, 2, &["failed"])),
        row("up to the budget", view("running", "a running", "a1 ended:failed, a2 ended:failed, a3 ended:failed"),
            "run failed (step `a` failed: a command failed); a failed (a command failed); look 21600s").edit(|v| retry(v, 2, &["failed"])),
        row("max without words means the infrastructure classes", view("running", "a running", "a1 ended:preempted, a2 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (2 of 3)); look 21600s").edit(|v| retry(v, 3, &[])),
        row("default and declared budgets are apart", view("running", "a running", "a1 ended:failed, a2 ended:node_lost"),
            "a ready (its process or node vanished without a word; trying again (1 of 1)); look 21600s").edit(|v| retry(v, 1, &["failed"])),
        row("out of memory is the user's", view("running", "a running", "a1 ended:oom"),
            "run failed (step `a` failed: it ran out of memory); a failed (it ran out of memory); look 21600s"),
        row("unless declared", view("running", "a running", "a1 ended:oom"), "a ready (it ran out of memory; trying again (1 of 1)); look 21600s")
            .edit(|v| retry(v, 1, &["oom"])),
        row("exit 75 resumes and spends nothing", view("running", "a running", "a1 ended:checkpointed, a2 ended:node_lost, a3 ended:checkpointed"),
            "a ready (resumes from its checkpoint); look 21600s"),
        row("stopped by someone else is the machine's doing", view("running", "a running", "a1 ended:cancelled"),
            "a ready (it was stopped from outside; trying again (1 of 1)); look 21600s"),
        row("no place is final", view("running", "a running", "a1 ended:unschedulable"),
            "run errored (step `a` could not be run: no place was found for it); a errored (no place was found for it); look 21600s"),
        row("a running step without an attempt waits again", view("running", "a running", ""), "a ready (it had no attempt); look 21600s"),
        // watching
        row("submitted: ask the executor", view("running", "a running", "a1 submitted"), "OBSERVE a1; look 5s"),
        row("the executor holds it", view("running", "a running", "a1 submitted"), "a1 pending (pulling the image); look 5s")
            .sees("a1", Observation::Pending { why: "pulling the image".into() }, 0),
        row("pending too long", view("running", "a running", "a1 pending"),
            "run errored (step `a` could not be run: it did not start within 30 min); a errored (it did not start within 30 min); a1 ended:unschedulable (it did not start within 30 min); CANCEL a1; REMOVE a1; look 21600s").at(1800),
        row("a running agent is trusted for a while", view("running", "a running", "a1 running"), "look 15s").at(3),
        row("then the executor is asked", view("running", "a running", "a1 running"), "OBSERVE a1; look 35s").at(20),
        row("silent but alive goes on", view("running", "a running", "a1 running"), "look 1015s").at(1000).sees("a1", Observation::Running, 1000),
        row("gone: its last words are waited for", view("running", "a running", "a1 running"), "look 30s").at(25)
            .sees("a1", gone(EndClass::Failed, ""), 20),
        row("then the executor's class counts", view("running", "a running", "a1 running"),
            "run failed (step `a` failed: killed by the kernel for memory); a failed (killed by the kernel for memory); a1 ended:oom (killed by the kernel for memory); REMOVE a1; look 21600s")
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
            "run failed (step `a` failed: its time limit of 1 h passed); a failed (its time limit of 1 h passed); a1 ended:timed_out (its time limit of 1 h passed); REMOVE a1; look 21600s")
            .at(3710).sees("a1", gone(EndClass::Cancelled, ""), 3700),
        row("an ended attempt is removed", view("running", "a running", "a1 ended:succeeded"), "run succeeded; a succeeded; REMOVE a1; look 21600s")
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
        row("no retry while stopping", view("running", "a running", "a1 ended:preempted"), "run cancelled (by ann); a cancelled (by ann)").cancel("by ann"),
        row("gone while stopping", view("running", "a running", "a1 running"),
            "run cancelled (by ann); a cancelled (by ann); a1 ended:cancelled (by ann); REMOVE a1").cancel("by ann").at(40).sees("a1", gone(EndClass::Failed, ""), 30),
        row("the run's time is over", view("running", "a running, b<a waiting", "a1 running"),
            "b cancelled (the run's time limit of 6 h passed); a1 asked to stop; OBSERVE a1; CANCEL a1; look 21605s").at(21600),
        row("and it failed by that", view("running", "a running, b<a cancelled", "a1 ended:cancelled"),
            "run failed (the run's time limit of 6 h passed); a failed (the run's time limit of 6 h passed)").at(21610),
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
        let situation = Situation {
            view: &row.view,
            now: T0 + row.now_s * 1000,
            limits: &limits,
            observed: &observed,
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
    let failed = "run failed (step `a` failed: rank 1: it failed); a failed (rank 1: it failed); a1 ended:failed (rank 1: it failed); REMOVE a1; look 21600s";
    let good = "run succeeded; a succeeded; a1 ended:succeeded (it succeeded); REMOVE a1; look 21600s";
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

#[test]
fn a_change_asks_for_what_follows_it() {
    let view = view("running", "a running", "a1 ended:succeeded");
    let (limits, observed) = (Limits::default(), BTreeMap::new());
    let d = next(&Situation { view: &view, now: T0, limits: &limits, observed: &observed, ahead: None });
    let asks: Vec<String> = d.change.unwrap().asks.iter().map(|a| format!("{} {}", a.kind, a.key)).collect();
    let sha = "a".repeat(40);
    assert_eq!(
        asks,
        [format!("report repo/{sha}"), "schedule all".into(), "compare run".into(), "run run".into()]
    );
}

#[test]
fn a_group_goes_in_the_order_of_its_runs() {
    let make = |id: &str, state| run_row(id, state, plan(vec![]));
    let me = make("5", RunState::Queued);
    let held = make("1", RunState::Held);
    let older = make("3", RunState::Queued);
    let newer = make("7", RunState::Queued);
    let running = make("8", RunState::Running);
    let ahead_of = |open: &[&RunRow]| {
        ahead(&me, &open.iter().map(|r| (*r).clone()).collect::<Vec<_>>()).map(|id| id.to_string())
    };
    assert_eq!(ahead_of(&[&me]), None);
    assert_eq!(ahead_of(&[&held, &me, &newer]), None);
    assert_eq!(ahead_of(&[&older, &me, &newer]), Some("3".into()));
    assert_eq!(ahead_of(&[&older, &me, &running]), Some("8".into()));
}

fn ready(name: &str, pool: Option<&str>, gpu: u32, trusted: bool) -> ReadyStep {
    let mut spec = spec(name, &[]);
    spec.pool = pool.map(str::to_owned);
    spec.resources.gpu = gpu;
    ReadyStep {
        run_id: RunId::from_text("run"),
        step_id: StepId::from_text(name),
        position: 0,
        number: 1,
        ready_ms: T0,
        run_created_ms: T0,
        spec,
        trusted,
        repo_id: RepoId::from_text("repo"),
        forge: "github".into(),
        repo: RepoName::parse("ada/churn").unwrap(),
        pipeline: "p".into(),
        priority: None,
        group: None,
        ahead: None,
        looking: false,
    }
}

fn scene(
    ready: &[ReadyStep],
    used: BTreeMap<String, PoolUse>,
    pools: &BTreeMap<String, PoolConfig>,
) -> Scene {
    Scene {
        now: T0,
        terms: vec![Terms::default(); ready.len()],
        ready: ready.to_vec(),
        used,
        usage: vec![],
        spent: BTreeMap::new(),
        pools: pools.clone(),
        policy: QueueConfig::default(),
    }
}

fn pools(text: &[(&str, u32, u32)]) -> BTreeMap<String, PoolConfig> {
    text.iter()
        .map(|(name, slots, gpus)| {
            ((*name).to_owned(), PoolConfig { slots: *slots, gpus: *gpus, ..PoolConfig::default() })
        })
        .collect()
}

#[test]
fn places_go_to_the_oldest_and_the_impossible_is_refused() {
    let show = |ready: &[ReadyStep], used: &[(&str, i64, &[u32])], pools: &BTreeMap<String, PoolConfig>| {
        let used = used
            .iter()
            .map(|(name, n, gpus)| {
                ((*name).to_owned(), PoolUse { attempts: *n, gpus: gpus.to_vec(), ..PoolUse::default() })
            })
            .collect();
        let picked = pick(&scene(ready, used, pools));
        let mut out: Vec<String> = picked
            .places
            .iter()
            .map(|p| format!("{}@{}{:?}", ready[p.ready].spec.name, p.pool, p.gpus))
            .collect();
        out.extend(picked.refused.iter().map(|(i, why)| format!("{}: {why}", ready[*i].spec.name)));
        out
    };
    let one = pools(&[("default", 2, 0)]);
    let any = |name| ready(name, None, 0, true);
    assert_eq!(show(&[any("a"), any("b"), any("c")], &[], &one), ["a@default[]", "b@default[]"]);
    assert_eq!(show(&[any("a"), any("b")], &[("default", 1, &[])], &one), ["a@default[]"]);
    assert_eq!(show(&[any("a")], &[("default", 2, &[])], &one), Vec::<String>::new());
    let gpu = pools(&[("a100", 4, 4), ("cpu", 1, 0)]);
    let on = |name, gpus| ready(name, Some("a100"), gpus, true);
    assert_eq!(show(&[on("a", 2), on("b", 1)], &[("a100", 1, &[1])], &gpu), ["a@a100[0, 2]", "b@a100[3]"]);
    // Nobody overtakes within a pool; another pool goes on.
    assert_eq!(
        show(&[on("a", 3), on("b", 1), ready("c", Some("cpu"), 0, true)], &[("a100", 1, &[0, 1])], &gpu),
        ["c@cpu[]"]
    );
    assert_eq!(
        show(
            &[ready("a", Some("h100"), 0, true), on("b", 5), ready("c", Some("cpu"), 1, true), any("d")],
            &[],
            &gpu
        ),
        [
            "a: there is no pool `h100` here; the pools are `a100`, `cpu`",
            "b: the step asks for 5 GPUs and pool `a100` has 4",
            "c: the step asks for 1 GPUs and pool `cpu` has none",
            "d: the step names no pool and there is no pool `default`; the pools are `a100`, `cpu`",
        ]
    );
    let mut closed = pools(&[("only", 2, 0)]);
    assert_eq!(show(&[ready("a", None, 0, false)], &[], &closed), ["a@only[]"]);
    closed.get_mut("only").unwrap().untrusted = false;
    assert_eq!(
        show(&[ready("a", None, 0, false)], &[], &closed),
        ["a: pool `only` takes no steps of untrusted runs"]
    );
}

#[test]
fn trusted_and_untrusted_steps_are_never_on_the_machine_together() {
    let two = pools(&[("a", 4, 0), ("b", 4, 0)]);
    let (ours, theirs) = (|n, pool| ready(n, Some(pool), 0, true), |n, pool| ready(n, Some(pool), 0, false));
    let placed = |ready: &[ReadyStep], used: &[(&str, i64, i64)], pools: &BTreeMap<String, PoolConfig>| {
        let used = used.iter().map(|(name, attempts, untrusted)| {
            let used = PoolUse { attempts: *attempts, untrusted: *untrusted, ..PoolUse::default() };
            ((*name).to_owned(), used)
        });
        let picked = pick(&scene(ready, used.collect(), pools));
        picked.places.iter().map(|p| ready[p.ready].spec.name.clone()).collect::<Vec<_>>().join(" ")
    };
    // The first decides; who comes later does not overtake the one that waits, in another pool neither.
    let line = [ours("1", "a"), ours("2", "b"), theirs("3", "b"), ours("4", "a"), theirs("5", "a")];
    assert_eq!(placed(&line, &[], &two), "1 2");
    assert_eq!(placed(&line[2..], &[("a", 1, 0)], &two), "");
    assert_eq!(placed(&line[2..], &[], &two), "3");
    assert_eq!(placed(&[theirs("6", "b"), ours("7", "a")], &[("a", 2, 2)], &two), "6");
    assert_eq!(placed(&[ours("8", "b")], &[("a", 1, 1)], &two), "");
    // What still runs on a pool that left the configuration counts as well.
    assert_eq!(placed(&[theirs("9", "a")], &[("gone", 1, 0)], &two), "");
    // A pool on other machines keeps them apart by itself.
    let mut other = two.clone();
    other.get_mut("b").unwrap().executor = "elsewhere".into();
    assert_eq!(placed(&line, &[], &other), "1 2 3 4");
}

/// `a1@10`: the step `1` of repository `a`, whose run was made at second 10.
fn of_repo(text: &str) -> ReadyStep {
    let (name, at) = text.split_once('@').unwrap();
    let created = T0 + at.parse::<Millis>().unwrap() * 1000;
    ReadyStep {
        repo_id: RepoId::from_text(&name[..1]),
        run_id: RunId::from_text(name),
        run_created_ms: created,
        ready_ms: created,
        ..ready(name, None, 0, true)
    }
}

fn served(picked: &Picked, ready: &[ReadyStep]) -> String {
    picked.places.iter().map(|p| ready[p.ready].spec.name.clone()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_spent_budget_refuses_what_asks_for_gpus_and_has_not_begun() {
    let of = |name: &str, repo: &str, gpus: u32, number: i64| ReadyStep {
        repo_id: RepoId::from_text(repo),
        number,
        ..ready(name, None, gpus, true)
    };
    let line = [of("1", "a", 1, 1), of("2", "a", 0, 1), of("3", "a", 1, 2), of("4", "b", 1, 1)];
    let wide = pools(&[("default", 9, 9)]);
    let spent = BTreeMap::from([(RepoId::from_text("a"), "spent".to_owned())]);
    let picked = pick(&Scene { spent, ..scene(&line, BTreeMap::new(), &wide) });
    assert_eq!(picked.refused, [(0, "spent".to_owned())]);
    let mut served: Vec<usize> = picked.places.iter().map(|place| place.ready).collect();
    served.sort_unstable();
    assert_eq!(served, [1, 2, 3], "no GPU, a second try, another repository");
}

#[test]
fn repositories_share_a_pool_by_what_they_used_their_weights_and_classes() {
    let line: Vec<ReadyStep> = ["a1@1", "a2@2", "a3@3", "a4@4", "b1@5", "b2@6", "c1@7"].map(of_repo).to_vec();
    let wide = pools(&[("default", 7, 0)]);
    let usage = |repo: &str, hours_ago: i64, minutes: i64| PoolUsage {
        repo_id: RepoId::from_text(repo),
        pool: "default".into(),
        bucket_ms: T0 - hours_ago * 3_600_000,
        used_ms: minutes * 60_000,
    };
    // (what, scene, the order of service)
    let mut cases: Vec<(&str, Scene, &str)> = Vec::new();
    let plain = || Scene { now: T0 + 10_000, ..scene(&line, BTreeMap::new(), &wide) };
    cases.push(("nobody used anything: in turn", plain(), "a1 b1 c1 a2 b2 a3 a4"));
    cases.push((
        "who used least comes first",
        Scene { usage: vec![usage("a", 0, 2), usage("b", 0, 1)], ..plain() },
        "c1 b1 a1 b2 a2 a3 a4",
    ));
    let half_more = PoolUsage { used_ms: 51 * 60_000 + 30_000, ..usage("b", 0, 0) };
    cases.push((
        "what is a half-life old counts half",
        Scene { usage: vec![usage("a", 24, 100), half_more, usage("c", 0, 49)], ..plain() },
        "c1 a1 a2 b1 a3 b2 a4",
    ));
    let another_pool = PoolUsage { pool: "elsewhere".into(), ..usage("a", 0, 500) };
    cases.push((
        "another pool's use is another matter",
        Scene { usage: vec![another_pool], ..plain() },
        "a1 b1 c1 a2 b2 a3 a4",
    ));
    let open = |repo: &str, minutes: i64, gpus| OpenAttempt {
        repo_id: RepoId::from_text(repo),
        run_id: RunId::from_text("r"),
        pipeline: "p".into(),
        step: "s".into(),
        since_ms: T0 + 10_000 - minutes * 60_000,
        gpus,
    };
    let holds = |list: Vec<OpenAttempt>| {
        let used = PoolUse { attempts: 0, open: list, ..PoolUse::default() };
        Scene { used: BTreeMap::from([("default".into(), used)]), ..plain() }
    };
    cases.push((
        "what is held now counts",
        holds(vec![open("a", 3, 0), open("c", 2, 0)]),
        "b1 b2 c1 a1 a2 a3 a4",
    ));
    cases.push((
        "as often as it has GPUs",
        holds(vec![open("a", 1, 0), open("b", 1, 4)]),
        "c1 a1 a2 a3 a4 b1 b2",
    ));
    let mut heavy = plain();
    heavy.terms[..4].iter_mut().for_each(|t| t.weight = 2.0);
    cases.push(("a weight of two gets two", heavy, "a1 b1 c1 a2 a3 b2 a4"));
    let mut high = plain();
    high.terms[5].rank = 10;
    cases.push(("a higher class goes first", high, "b2 a1 c1 a2 b1 a3 a4"));
    let mut low = plain();
    low.terms[..4].iter_mut().for_each(|t| t.rank = -10);
    cases.push(("a lower class goes last", low, "b1 c1 b2 a1 a2 a3 a4"));
    let mut aged = plain();
    aged.terms[..4].iter_mut().for_each(|t| t.rank = -10);
    aged.ready[0].ready_ms = T0 - 6 * 3_600_000;
    cases.push(("one that waited long shares with the highest", aged, "a1 b1 c1 b2 a2 a3 a4"));
    let mut old = plain();
    old.ready[..4].iter_mut().for_each(|s| s.ready_ms = T0 - 6 * 3_600_000);
    cases.push(("age overtakes nobody of the same class", old, "a1 b1 c1 a2 b2 a3 a4"));
    for (what, scene, want) in &cases {
        assert_eq!(served(&pick(scene), &scene.ready), *want, "{what}");
    }
    println!("FIGURE queue.order cases={}", cases.len());
}

#[test]
fn quotas_groups_and_look_ups_hold_back_their_own_alone() {
    let line: Vec<ReadyStep> = ["a1@1", "a2@2", "a3@3", "b1@4"].map(of_repo).to_vec();
    let why = |scene: &Scene| {
        let picked = pick(scene);
        let waits: Vec<String> =
            picked.waits.iter().map(|(i, wait)| format!("{} {wait:?}", scene.ready[*i].spec.name)).collect();
        (served(&picked, &scene.ready), waits)
    };
    let mut pool = pools(&[("default", 4, 4)]);
    pool.get_mut("default").unwrap().repository_slots = Some(1);
    let (places, waits) = why(&scene(&line, BTreeMap::new(), &pool));
    assert_eq!(places, "a1 b1");
    let quota = |limit: &str| Wait::Quota { pool: "default".into(), limit: limit.into() };
    assert_eq!(waits, [format!("a2 {:?}", quota("1 at once")), format!("a3 {:?}", quota("1 at once"))]);
    pool.get_mut("default").unwrap().repository_slots = None;
    pool.get_mut("default").unwrap().repository_gpus = Some(2);
    let mut wide = line.clone();
    for step in &mut wide {
        step.spec.resources.gpu = 1;
    }
    wide[1].spec.resources.gpu = 2;
    let (places, waits) = why(&scene(&wide, BTreeMap::new(), &pool));
    assert_eq!((places.as_str(), waits), ("a1 b1 a3", vec![format!("a2 {:?}", quota("2 GPUs at once"))]));
    wide[1].spec.resources.gpu = 3;
    let refused = pick(&scene(&wide, BTreeMap::new(), &pool)).refused;
    assert_eq!(refused[0].1, "the step asks for 3 GPUs and pool `default` gives one repository 2 at once");

    // Two runs of one group that are both ready: one place, for the older. One that has begun goes before both.
    let free = pools(&[("default", 4, 0)]);
    let mut grouped = line.clone();
    grouped[..2].iter_mut().for_each(|s| s.group = Some("g".into()));
    let (places, waits) = why(&scene(&grouped, BTreeMap::new(), &free));
    assert_eq!(
        (places.as_str(), waits),
        ("a1 b1 a3", vec![format!("a2 {:?}", Wait::Group(RunId::from_text("a1")))])
    );
    grouped[..2].iter_mut().for_each(|s| s.ahead = Some(RunId::from_text("z")));
    assert_eq!(why(&scene(&grouped, BTreeMap::new(), &free)).0, "a3 b1");
    let mut looking = line;
    looking[0].looking = true;
    assert_eq!(why(&scene(&looking, BTreeMap::new(), &free)).0, "a2 b1 a3");
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

/// A world in memory that does what store, executor and agents do, at random.
struct World {
    view: RunView,
    now: Millis,
    rng: u64,
    terminal: Option<RunState>,
    gone_since: BTreeMap<AttemptUid, (Observation, Millis)>,
    observed: BTreeMap<AttemptUid, Observed>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            view: view("queued", "", ""),
            now: T0,
            rng: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            terminal: None,
            gone_since: BTreeMap::new(),
            observed: BTreeMap::new(),
        };
        let count = 1 + world.roll(6);
        let mut specs: Vec<StepSpec> = Vec::new();
        for index in 0..count {
            let name = char::from(b'a' + index as u8).to_string();
            let needs: Vec<String> =
                specs.iter().map(|s| s.name.clone()).filter(|_| world.roll(3) == 0).collect();
            let mut one = spec(&name, &needs.iter().map(String::as_str).collect::<Vec<_>>());
            one.retry.max = world.roll(3) as u32;
            if world.roll(2) == 0 {
                one.retry.when = vec!["failed".into(), "timed_out".into()];
            }
            one.timeout_ms = 60_000 * (1 + world.roll(100) as i64);
            specs.push(one);
        }
        world.view.steps =
            specs.iter().enumerate().map(|(i, s)| step_row(i, &s.name, StepState::Waiting)).collect();
        world.view.run.plan = plan(specs);
        world.view.run.plan.timeout_ms = 60_000 * (1 + world.roll(300) as i64);
        if world.roll(10) == 0 {
            world.view.run.state = RunState::Held;
        }
        world
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % sides
    }

    /// What `Store::apply` does, with every promise checked.
    fn apply(&mut self, change: &crate::store::runs::RunChange) {
        assert_eq!(change.epoch, self.view.run.epoch);
        assert!(self.terminal.is_none(), "a run that is over changes no more: {change:?}");
        for m in &change.attempts {
            let row = self.view.attempts.iter_mut().find(|a| a.uid == m.uid).unwrap();
            if m.cancel {
                row.cancel_request = true;
            }
            row.reason.clone_from(&m.reason);
            if m.to != row.state {
                assert!(row.state.next().contains(&m.to), "attempt {} -> {}", row.state, m.to);
                row.state = m.to;
                if m.to == AttemptState::Ended {
                    row.class = Some(m.class.expect("an end has a class"));
                    row.ended_ms = Some(self.now);
                }
            }
        }
        for m in &change.steps {
            let index = self.view.steps.iter().position(|s| s.id == m.step).unwrap();
            let from = self.view.steps[index].state;
            assert!(from.next().contains(&m.to), "step {from} -> {}", m.to);
            if m.to.is_terminal() || m.to == StepState::Ready {
                let open =
                    self.view.attempts.iter().any(|a| a.step_id == m.step && a.state != AttemptState::Ended);
                assert!(!open, "a step moves to {} with an open attempt", m.to);
            }
            self.view.steps[index].state = m.to;
        }
        for m in change.steps.iter().filter(|m| m.to == StepState::Ready) {
            let row = self.view.steps.iter().find(|s| s.id == m.step).unwrap();
            for need in &self.view.run.plan.steps[row.position as usize].needs {
                let state = self.view.steps.iter().find(|s| s.name == need.step).unwrap().state;
                assert!(state.is_good(), "`{}` starts although `{}` is {state}", row.name, need.step);
            }
        }
        if let Some((to, _)) = change.to {
            let from = self.view.run.state;
            assert!(from.next().contains(&to), "run {from} -> {to}");
            self.view.run.state = to;
            if to == RunState::Running {
                self.view.run.started_ms = Some(self.now);
            }
            if to.is_terminal() {
                for s in &self.view.steps {
                    assert!(s.state.is_terminal(), "run {to} with step `{}` {}", s.name, s.state);
                }
                assert!(self.view.attempts.iter().all(|a| a.state == AttemptState::Ended));
                self.terminal = Some(to);
            }
        }
        self.view.run.epoch += 1;
    }

    fn act(&mut self, effect: &Effect) {
        match effect {
            Effect::Submit(uid) => {
                let lost_word = self.roll(20) == 0;
                let row = self.view.attempts.iter_mut().find(|a| a.uid == *uid).unwrap();
                assert_eq!(row.state, AttemptState::Intended);
                if !lost_word {
                    row.state = AttemptState::Submitted;
                    row.submitted_ms = Some(self.now);
                }
            }
            Effect::Remove(uid) => {
                let row = self.view.attempts.iter_mut().find(|a| a.uid == *uid).unwrap();
                assert_eq!(row.state, AttemptState::Ended, "only what ended is removed");
                row.removed_ms = Some(self.now);
            }
            Effect::Cancel(uid) => {
                if self.roll(2) == 0 {
                    let now = self.now;
                    self.gone_since.entry(uid.clone()).or_insert((gone(EndClass::Failed, ""), now));
                }
            }
            Effect::Observe(uid) => {
                let row = self.view.attempts.iter().find(|a| a.uid == *uid).unwrap().clone();
                let now = self.now;
                if self.roll(12) == 0 {
                    let class = EndClass::ALL[self.roll(EndClass::ALL.len() as u64) as usize];
                    let what = if self.roll(4) == 0 { Observation::Unknown } else { gone(class, "") };
                    self.gone_since.entry(uid.clone()).or_insert((what, now));
                }
                let (what, since_ms) = self.gone_since.get(uid).cloned().unwrap_or_else(|| {
                    let what = if row.started_ms.is_some() {
                        Observation::Running
                    } else {
                        Observation::Pending { why: "busy".into() }
                    };
                    (what, now)
                });
                self.observed.insert(uid.clone(), Observed { what, since_ms });
            }
        }
    }

    /// Something happens by itself: time, a place, an agent's word, a request.
    fn chance(&mut self) {
        self.now += self.roll(20_000) as i64;
        match self.roll(12) {
            0 if self.roll(8) == 0 => {
                let why = ["by ann", "superseded: a newer commit"][self.roll(2) as usize];
                self.view.run.cancel_request.get_or_insert(why.into());
                self.view.run.epoch += 1;
            }
            1 => self.now += self.roll(600_000) as i64,
            2 if self.view.run.state == RunState::Held => {
                self.view.run.state = RunState::Queued;
                self.view.run.epoch += 1;
            }
            3..=6 => {
                // What `Store::place` does.
                let ready: Vec<usize> = (0..self.view.steps.len())
                    .filter(|i| self.view.steps[*i].state == StepState::Ready)
                    .collect();
                if ready.is_empty() || self.terminal.is_some() {
                    return;
                }
                let index = ready[self.roll(ready.len() as u64) as usize];
                let step = self.view.steps[index].clone();
                let number = 1 + self.view.attempts.iter().filter(|a| a.step_id == step.id).count() as i64;
                let open =
                    self.view.attempts.iter().any(|a| a.step_id == step.id && a.state != AttemptState::Ended);
                assert!(!open, "a ready step has an open attempt");
                let mut row = attempt_row(&step.name, number, AttemptState::Intended, None);
                row.intended_ms = self.now;
                self.view.attempts.push(row);
                self.view.steps[index].state = StepState::Running;
                self.view.run.epoch += 1;
            }
            _ => {
                let open: Vec<usize> = (0..self.view.attempts.len())
                    .filter(|i| {
                        !matches!(self.view.attempts[*i].state, AttemptState::Ended | AttemptState::Intended)
                    })
                    .collect();
                if open.is_empty() {
                    return;
                }
                let index = open[self.roll(open.len() as u64) as usize];
                let uid = self.view.attempts[index].uid.clone();
                if self.gone_since.contains_key(&uid) && self.roll(3) != 0 {
                    return;
                }
                let (speak, class) =
                    (self.roll(3), EndClass::ALL[self.roll(EndClass::ALL.len() as u64) as usize]);
                let lucky = self.roll(3) != 0;
                let now = self.now;
                let row = &mut self.view.attempts[index];
                match (row.state, speak) {
                    (AttemptState::Submitted | AttemptState::Pending, _) => {
                        row.state = AttemptState::Running;
                        row.started_ms = Some(now);
                    }
                    (_, 0) => row.heartbeat_ms = Some(now),
                    _ => {
                        row.state = AttemptState::Ended;
                        row.class = Some(if lucky { EndClass::Succeeded } else { class });
                        row.ended_ms = Some(now);
                    }
                }
            }
        }
    }

    /// One visit of the reconciler.
    fn visit(&mut self) {
        self.observed.clear();
        let mut acted = std::collections::BTreeSet::new();
        for round in 0.. {
            assert!(round < 64, "the reconciler does not come to rest");
            let limits = Limits::default();
            let situation = Situation {
                view: &self.view,
                now: self.now,
                limits: &limits,
                observed: &self.observed,
                ahead: None,
            };
            let decision = next(&situation);
            let mut changed = false;
            if let Some(change) = &decision.change {
                self.apply(change);
                changed = true;
            }
            for effect in &decision.effects {
                if acted.insert(effect.clone()) {
                    changed = true;
                    self.act(effect);
                }
            }
            for step in &self.view.steps {
                let open = self
                    .view
                    .attempts
                    .iter()
                    .filter(|a| a.step_id == step.id && a.state != AttemptState::Ended);
                assert!(open.count() <= 1, "one open attempt of a step at most");
            }
            if !changed {
                return;
            }
        }
    }
}

#[test]
fn ten_thousand_random_walks_keep_every_promise() {
    let walks: u64 = 10_000;
    let mut ends: BTreeMap<RunState, u64> = BTreeMap::new();
    for seed in 1..=walks {
        let mut world = World::new(seed);
        let mut moves = 0;
        while world.terminal.is_none() {
            world.visit();
            world.chance();
            moves += 1;
            assert!(moves < 20_000, "walk {seed} never ends: {:?}", world.view);
        }
        let end = world.terminal;
        for _ in 0..5 {
            world.chance();
            world.visit();
        }
        assert_eq!(world.terminal, end);
        assert!(
            world.view.attempts.iter().all(|a| a.removed_ms.is_some()),
            "walk {seed} leaves something behind"
        );
        *ends.entry(world.view.run.state).or_default() += 1;
    }
    for state in
        [RunState::Succeeded, RunState::Failed, RunState::Errored, RunState::Cancelled, RunState::Superseded]
    {
        assert!(ends.get(&state).is_some_and(|n| *n > 50), "the walks hardly reach {state}: {ends:?}");
    }
    println!("FIGURE run.next walks={walks} violations=0 ends={ends:?}");
}

#[test]
fn a_waiting_step_is_told_its_place_what_is_free_and_an_estimate_with_its_basis() {
    use super::why::{Facts, Typical, WaitsFor, why};
    use crate::store::queue::StepName;
    let line: Vec<ReadyStep> = ["a1@1", "b1@2", "a2@3"].map(of_repo).to_vec();
    let mut pool = pools(&[("default", 1, 0)]);
    let name = |repo: &str, step: &str| StepName {
        repo_id: RepoId::from_text(repo),
        pipeline: "p".into(),
        step: step.into(),
    };
    let open = OpenAttempt {
        repo_id: RepoId::from_text("c"),
        run_id: RunId::from_text("z"),
        pipeline: "p".into(),
        step: "long".into(),
        since_ms: T0 - 4 * 60_000,
        gpus: 0,
    };
    let busy = PoolUse { attempts: 1, open: vec![open], ..PoolUse::default() };
    let typical: BTreeMap<StepName, Typical> = [
        (name("c", "long"), Typical::of(vec![600_000, 500_000, 700_000]).unwrap()),
        (name("a", "a1"), Typical::of(vec![120_000]).unwrap()),
    ]
    .into();
    // A run whose only step is the third in line.
    let mut mine = view("queued", "a ready", "");
    mine.steps[0].id = StepId::from_text("a2");
    mine.steps[0].name = "a2".into();
    let explain =
        |scene: &Scene, view: &RunView, typical: &BTreeMap<StepName, Typical>, ahead: Option<&str>| {
            let ahead = ahead.map(RunId::from_text);
            let facts = Facts { view, repo: "ada/churn".into(), scene, ahead, baselines: vec![], typical };
            why(&facts)
        };
    let queue = scene(&line, BTreeMap::from([("default".to_owned(), busy.clone())]), &pool);
    let step = explain(&queue, &mine, &typical, None).steps.remove(0);
    let place = step.line.clone().unwrap();
    assert_eq!(
        (step.waits_for, place.position, place.length, place.free_slots),
        (Some(WaitsFor::Pool), 3, 3, 0)
    );
    // 6 min of the running one, 2 of the first, and the average of both for the second.
    let estimate = step.estimate.clone().unwrap();
    assert_eq!(estimate.in_ms, 360_000 + 120_000 + 240_000, "{estimate:?}");
    assert_eq!(
        step.says,
        "waits for room in pool `default`: 3 of 3 in line; free are 0 of 1 places; about 12 min to its start (by the median \
         durations of the earlier runs of the 3 steps before it; 1 of them have none yet and count as the average)"
    );
    assert_eq!(
        explain(&queue, &mine, &BTreeMap::new(), None).steps[0].estimate,
        None,
        "no history, no estimate"
    );

    // (what, the explanation's words)
    let mut other = queue.ready.clone();
    other[2].group = Some("g".into());
    other[2].ahead = Some(RunId::from_text("r9"));
    let grouped = scene(&other, BTreeMap::new(), &pool);
    pool.get_mut("default").unwrap().repository_slots = Some(1);
    let mut held = busy;
    held.open[0].repo_id = RepoId::from_text("a");
    pool.get_mut("default").unwrap().slots = 2;
    let over = scene(&line[2..], BTreeMap::from([("default".to_owned(), held)]), &pool);
    let cases = [
        (
            explain(&grouped, &mine, &typical, None).steps[0].says.clone(),
            "waits for run r9 of its concurrency group",
        ),
        (
            explain(&over, &mine, &typical, None).steps[0].says.clone(),
            "as much of pool `default` as a repository may: 1 at once",
        ),
        (
            explain(&queue, &view("held", "a waiting", ""), &typical, None).says,
            "write access to release commit",
        ),
        (
            explain(&queue, &view("queued", "a waiting", ""), &typical, Some("r1")).says,
            "run r1 of its concurrency group goes first",
        ),
        (
            explain(&queue, &view("running", "a running, b<a waiting", ""), &typical, None).steps[1]
                .says
                .clone(),
            "waits for `a` (running)",
        ),
    ];
    for (says, words) in &cases {
        assert!(says.contains(words), "{says}");
    }
    println!("FIGURE queue.why cases={}", cases.len() + 2);
}
