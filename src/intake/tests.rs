//! The decision table of `plan`, `when` filters, and the order-independence of twins.

use std::collections::BTreeMap;

use super::explain;
use super::facts::{Broken, Facts, GroupRun, PipelineFile};
use super::filter::{Fit, fit};
use super::plan::{IntakePlan, Then, plan, variables};
use crate::config::ForgeKind;
use crate::forge::{ChangeWords, Permission};
use crate::model::plan::{Concurrency, MetricsSpec, Paths, ReportSpec, SecretRef, When};
use crate::model::*;
use crate::store::runs::RunRow;

const T0: i64 = 1_800_000_000_000;

fn sha(digit: char) -> Sha {
    Sha::parse(&digit.to_string().repeat(40)).unwrap()
}

fn step(name: &str, pool: Option<&str>) -> StepSpec {
    StepSpec {
        commands: vec!["true".into()],
        secrets: vec![SecretRef { name: "TOKEN".into(), env: "TOKEN".into() }],
        pool: pool.map(str::to_owned),
        timeout_ms: 1000,
        ..StepSpec::named(name)
    }
}

fn pipeline(when: Vec<When>) -> Plan {
    Plan {
        name: "churn".into(),
        file: ".trainyard.yaml".into(),
        when,
        concurrency: None,
        priority: None,
        timeout_ms: 1000,
        steps: vec![step("train", Some("a100"))],
        metrics: MetricsSpec::default(),
        report: ReportSpec::default(),
        not_run: vec![],
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn when(event: &[&str], branch: &[&str], include: &[&str], exclude: &[&str]) -> When {
    When {
        event: words(event),
        branch: words(branch),
        paths: Paths { include: words(include), exclude: words(exclude) },
        ..When::default()
    }
}

fn event(kind: EventKind) -> Event {
    Event {
        repo: RepoRef {
            forge_id: "1".into(),
            name: RepoName::parse("acme/churn").unwrap(),
            default_branch: "main".into(),
        },
        actor: Actor { id: "7".into(), login: "ann".into() },
        kind,
    }
}

fn push(branch: &str) -> Event {
    event(EventKind::Push(Push {
        branch: branch.into(),
        before: Some(sha('b')),
        after: Some(sha('a')),
        forced: false,
        message: "Add a layer".into(),
    }))
}

fn pr(action: PullRequestAction) -> Event {
    event(EventKind::PullRequest(PullRequestEvent {
        action,
        pull: PullRequest {
            number: 12,
            title: "More layers".into(),
            author: Actor { id: "8".into(), login: "bob".into() },
            head_sha: sha('a'),
            head_branch: "layers".into(),
            base_branch: "main".into(),
            base_sha: Some(sha('b')),
            fork: false,
            draft: false,
            open: action != PullRequestAction::Closed,
        },
    }))
}

fn edit(mut event: Event, change: impl FnOnce(&mut PullRequest)) -> Event {
    if let EventKind::PullRequest(pull) = &mut event.kind {
        change(&mut pull.pull);
    }
    event
}

fn facts() -> Facts {
    Facts {
        permission: Permission::Write,
        message: "Add a layer\n\nBody".into(),
        pipelines: vec![PipelineFile { path: ".trainyard.yaml".into(), parsed: Ok(pipeline(vec![])) }],
        ..Facts::new(RepoId::from_text("repo"), T0)
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = facts();
    change(&mut facts);
    facts
}

fn with_when(when: Vec<When>) -> Facts {
    with(|f| f.pipelines[0].parsed = Ok(pipeline(when)))
}

fn existing(id: &str, state: RunState, trusted: bool) -> RunRow {
    RunRow {
        id: RunId::from_text(id),
        repo_id: RepoId::from_text("repo"),
        pipeline: "churn".into(),
        head_sha: sha('a'),
        trigger_key: "head".into(),
        generation: 1,
        branch: "main".into(),
        message: String::new(),
        actor: "ann".into(),
        trusted,
        state,
        reason: String::new(),
        epoch: 0,
        plan: pipeline(vec![]),
        plan_digest: String::new(),
        variables: BTreeMap::new(),
        concurrency: None,
        cancel_request: None,
        created_ms: T0,
        started_ms: None,
        ended_ms: None,
    }
}

fn show(plan: &IntakePlan) -> String {
    let mut out = vec![format!("{}: {}", plan.state, plan.reason)];
    for run in &plan.runs {
        let trust = if run.trusted { "trusted" } else { "untrusted" };
        out.push(format!("+{} {} g{} {} {trust}", run.pipeline, run.branch, run.generation, run.state));
    }
    out.extend(plan.cancel.iter().map(|(id, why)| format!("stop {id} ({why})")));
    out.extend(plan.supersede_held.iter().map(|(id, _)| format!("supersede {id}")));
    if plan.pull.is_some() {
        out.push("pull".into());
    }
    let compares = plan.then.iter().filter(|t| matches!(t, Then::Compare(_))).count();
    if compares > 0 {
        out.push(format!("compare {compares}"));
    }
    out.join(" | ")
}

const A: &str = "aaaaaaaaaa";

#[test]
fn plan_decides_what_the_table_says() {
    use PullRequestAction::*;
    let anywhere = || vec![when(&["push", "pull_request"], &["**"], &[], &[])];
    let src_only = || vec![when(&["push", "pull_request"], &["**"], &["src/**"], &["**/*.md"])];
    let changed = |paths: &[&str]| Some(words(paths));
    let grouped = |others: Vec<GroupRun>| {
        with(move |f| {
            let mut p = pipeline(vec![when(&[], &["**"], &[], &[])]);
            p.concurrency = Some(Concurrency { group: "c-${CI_REF}".into(), cancel_in_progress: true });
            f.pipelines[0].parsed = Ok(p);
            f.groups.insert("repo/c-refs/heads/layers".into(), others);
        })
    };
    let other =
        |id: &str, state, digit, newer| GroupRun { id: RunId::from_text(id), state, sha: sha(digit), newer };
    let broken = |lines: &[&str]| {
        let lines = words(lines);
        with(move |f| f.pipelines[0].parsed = Err(Broken { name: "churn".into(), lines }))
    };
    let fork = |action| edit(pr(action), |p| p.fork = true);
    let old = |state, trusted| with(move |f| f.existing = vec![existing("old", state, trusted)]);
    let started = format!("done: run of `churn` at {A} on");
    let rows: Vec<(&str, Event, Facts, String)> = vec![
        // pushes
        ("push to the default branch", push("main"), facts(), format!("{started} `main` | +churn main g1 queued trusted")),
        ("push elsewhere", push("layers"), facts(), "ignored: no run of `churn`: `layers` is not the default branch `main`".into()),
        ("push that `when` names", push("layers"), with_when(anywhere()), format!("{started} `layers` | +churn layers g1 queued trusted")),
        ("new branch", edit_push(push("main"), |p| p.before = None), facts(), format!("{started} `main` | +churn main g1 queued trusted")),
        ("forced push", edit_push(push("main"), |p| p.forced = true), facts(), format!("{started} `main` | +churn main g1 queued trusted")),
        ("deleted branch", edit_push(push("gone"), |p| p.after = None), facts(), "ignored: branch `gone` was deleted: nothing to run".into()),
        ("no pipeline file", push("main"), with(|f| f.pipelines.clear()), format!("ignored: no pipeline file at {A}")),
        ("cron only", push("main"), with_when(vec![When { event: words(&["cron"]), cron: Some("0 3 * * *".into()), ..When::default() }]),
            "ignored: no run of `churn`: `when` asks for cron, and this is a push".into()),
        ("push by someone without write access", push("main"), with(|f| f.permission = Permission::Read),
            format!("done: run of `churn` at {A} held: ann has no write access and no merged change here: someone with a trainyard token of scope run must release it | +churn main g1 held untrusted")),
        // skipping
        ("skip request", push("main"), with(|f| f.message = "Fix [skip ci]".into()),
            format!("done: run of `churn` at {A} skipped: the commit message asks to skip it | +churn main g1 skipped trusted")),
        ("the other spelling, in the body", push("main"), with(|f| f.message = "Fix\n\n[CI SKIP]".into()),
            format!("done: run of `churn` at {A} skipped: the commit message asks to skip it | +churn main g1 skipped trusted")),
        ("skip request of a stranger is not heard", fork(Opened), with(|f| { f.message = "[skip ci]".into(); f.permission = Permission::None; }),
            format!("done: run of `churn` at {A} held: the head comes from a fork: someone with a trainyard token of scope run must release it | +churn pull/12/head g1 held untrusted | pull")),
        ("a stranger's own filter does not skip its head", fork(Opened), with(|f| {
            *f = with_when(vec![when(&[], &[], &["no-such-file"], &[])]);
            f.base = vec![pipeline(src_only())];
            f.changed = changed(&["src/a.py"]);
        }), format!("done: run of `churn` at {A} held: the head comes from a fork: someone with a trainyard token of scope run must release it | +churn pull/12/head g1 held untrusted | pull")),
        ("the filter of a pipeline that the base lacks does not skip a stranger's head", fork(Opened), with(|f| {
            *f = with_when(vec![when(&[], &[], &["no-such-file"], &[])]);
            f.changed = changed(&["src/a.py"]);
        }), format!("done: run of `churn` at {A} held: the head comes from a fork: someone with a trainyard token of scope run must release it | +churn pull/12/head g1 held untrusted | pull")),
        ("a stranger's head that the base passes over as well", fork(Opened), with(|f| {
            let passes = || vec![when(&[], &[], &["src/**"], &[])];
            *f = with_when(passes());
            f.base = vec![pipeline(passes())];
            f.changed = changed(&["README.md"]);
        }), format!("done: run of `churn` at {A} skipped: the changed file `README.md` does not match `paths` | +churn pull/12/head g1 skipped untrusted | pull")),
        ("paths match", push("main"), with(|f| { *f = with_when(src_only()); f.changed = changed(&["README.md", "src/a.py"]); }),
            format!("{started} `main` | +churn main g1 queued trusted")),
        ("paths do not match", push("main"), with(|f| { *f = with_when(src_only()); f.changed = changed(&["README.md"]); }),
            format!("done: run of `churn` at {A} skipped: the changed file `README.md` does not match `paths` | +churn main g1 skipped trusted")),
        ("excluded paths", push("main"), with(|f| { *f = with_when(src_only()); f.changed = changed(&["src/notes.md", "docs/a"]); }),
            format!("done: run of `churn` at {A} skipped: none of the 2 changed files matches `paths` | +churn main g1 skipped trusted")),
        ("unknown paths match", push("main"), with_when(src_only()), format!("{started} `main` | +churn main g1 queued trusted")),
        ("nothing changed", push("main"), with(|f| { *f = with_when(src_only()); f.changed = changed(&[]); }),
            format!("done: run of `churn` at {A} skipped: no file changed | +churn main g1 skipped trusted")),
        // pull requests
        ("opened", pr(Opened), facts(), format!("{started} `layers` | +churn layers g1 queued trusted | pull")),
        ("new commits", pr(Synchronized), facts(), format!("{started} `layers` | +churn layers g1 queued trusted | pull")),
        ("draft", edit(pr(Opened), |p| p.draft = true), facts(), format!("{started} `layers` | +churn layers g1 queued trusted | pull")),
        ("ready for review with its run there", pr(ReadyForReview), old(RunState::Running, true),
            format!("done: `churn` has a run of {A} already (running) | pull | compare 1")),
        ("retargeted: compared anew", edit(pr(Retargeted), |p| p.base_branch = "next".into()), old(RunState::Succeeded, true),
            format!("done: `churn` has a run of {A} already (succeeded) | pull | compare 1")),
        ("reopened", pr(Reopened), old(RunState::Cancelled, true), format!("done: `churn` has a run of {A} already (cancelled) | pull | compare 1")),
        ("onto a branch that `when` does not name", edit(pr(Opened), |p| p.base_branch = "next".into()), with_when(vec![when(&["pull_request"], &["main"], &[], &[])]),
            "done: no run of `churn`: the base branch `next` is not among `main` | pull".into()),
        ("from a fork", fork(Opened), facts(),
            format!("done: run of `churn` at {A} held: the head comes from a fork: someone with a trainyard token of scope run must release it | +churn pull/12/head g1 held untrusted | pull")),
        ("author without write access", pr(Opened), with(|f| f.permission = Permission::Read),
            format!("done: run of `churn` at {A} held: bob has no write access and no merged change here: someone with a trainyard token of scope run must release it | +churn layers g1 held untrusted | pull")),
        ("a reader with a merged change here", pr(Opened), with(|f| { f.permission = Permission::Read; f.merged_change = true; }),
            format!("{started} `layers` | +churn layers g1 queued trusted | pull")),
        ("a fork's author with a merged change here", fork(Opened), with(|f| { f.permission = Permission::None; f.merged_change = true; }),
            format!("done: run of `churn` at {A} held: the head comes from a fork: someone with a trainyard token of scope run must release it | +churn pull/12/head g1 held untrusted | pull")),
        ("a tag", event(EventKind::Tag(TagPush { tag: "v1".into(), before: None, after: Some(sha('a')) })), facts(),
            "ignored: tags start no runs yet".into()),
        ("closed, its branch holds the commit", pr(Closed), old(RunState::Running, true),
            "done: pull request #12 was closed: its runs go on, a branch holds their commit | pull | compare 1".into()),
        ("closed fork", fork(Closed), old(RunState::Held, false),
            "done: pull request #12 was closed: 1 run of it stop | stop old (pull request #12 was closed) | pull | compare 1".into()),
        ("closed fork, merged by now", fork(Closed), old(RunState::Running, true),
            "done: pull request #12 was closed: its runs go on, they were pushed here too | pull | compare 1".into()),
        ("closed fork, another pull request", fork(Closed), with(|f| { f.existing = vec![existing("old", RunState::Held, false)]; f.other_open_pull = true; }),
            "done: pull request #12 was closed: another one has the same head, its runs go on | pull | compare 1".into()),
        ("closed, but open again by now", fork(Closed), with(|f| {
            f.existing = vec![existing("old", RunState::Held, false)];
            let EventKind::PullRequest(now) = pr(Reopened).kind else { unreachable!() };
            f.pull_now = Some(now.pull);
        }), "done: pull request #12 is open again by now: nothing to stop | pull | compare 1".into()),
        ("closed with nothing running", pr(Closed), old(RunState::Failed, true), "done: pull request #12 was closed: nothing of it runs | pull | compare 1".into()),
        // twins and trust
        ("twin", push("main"), old(RunState::Queued, true), format!("done: `churn` has a run of {A} already (queued)")),
        ("a writer pushes a held commit", push("main"), old(RunState::Held, false),
            format!("{started} `main`, generation 2 | +churn main g2 queued trusted | supersede old")),
        ("a writer pushes a released commit", push("main"), old(RunState::Running, false),
            format!("{started} `main`, generation 2 | +churn main g2 queued trusted | stop old (superseded: someone with write access pushed the same commit)")),
        ("a fork shows a commit that was pushed here", fork(Opened), old(RunState::Succeeded, true),
            format!("done: `churn` has a run of {A} already (succeeded) | pull | compare 1")),
        ("a fork shows a held commit again", fork(Synchronized), old(RunState::Held, false),
            format!("done: `churn` has a run of {A} already (held) | pull | compare 1")),
        ("skipped by its push, wanted by its pull request", pr(Opened), old(RunState::Skipped, true),
            format!("{started} `layers`, generation 2 | +churn layers g2 queued trusted | pull | compare 1")),
        ("a skip replaces nothing", push("main"), with(|f| { f.existing = vec![existing("old", RunState::Held, false)]; f.message = "[skip ci]".into(); }),
            format!("done: `churn` has a run of {A} already (held)")),
        // concurrency
        ("older runs of the group stop", push("layers"), grouped(vec![other("r1", RunState::Running, 'c', false), other("r0", RunState::Queued, 'd', false)]),
            format!("{started} `layers` | +churn layers g1 queued trusted | stop r1 (superseded: the newer commit {A} runs in its concurrency group) | stop r0 (superseded: the newer commit {A} runs in its concurrency group)")),
        ("a late push does not stop the newer run", push("layers"), grouped(vec![other("r1", RunState::Running, 'c', true)]),
            format!("done: run of `churn` at {A} superseded: the newer commit cccccccccc runs in its concurrency group | +churn layers g1 superseded trusted")),
        ("held runs of the group stay", push("layers"), grouped(vec![other("r1", RunState::Held, 'c', false)]),
            format!("{started} `layers` | +churn layers g1 queued trusted")),
        // files
        ("a broken file", push("main"), broken(&[".trainyard.yaml:3:5: unknown key `comands` (TY013)"]),
            format!("done: run of `churn` at {A} errored: .trainyard.yaml:3:5: unknown key `comands` (TY013) | +churn main g1 errored trusted")),
        ("a broken file with two findings", push("main"), broken(&[".trainyard.yaml:3:5: one", ".trainyard.yaml:4:1: two"]),
            format!("done: run of `churn` at {A} errored: .trainyard.yaml:3:5: one (and 1 more) | +churn main g1 errored trusted")),
        ("a broken file of a fork is told at once", fork(Opened), broken(&[".trainyard.yaml:3:5: one"]),
            format!("done: run of `churn` at {A} errored: .trainyard.yaml:3:5: one | +churn pull/12/head g1 errored untrusted | pull")),
        ("two files of one name", push("main"), with(|f| f.pipelines.push(PipelineFile { path: ".trainyard/b.yaml".into(), parsed: Ok(pipeline(vec![])) })),
            format!("{started} `main`; .trainyard/b.yaml is passed over: .trainyard.yaml is named `churn` as well | +churn main g1 queued trusted")),
        ("two pipelines", push("main"), with(|f| {
            let mut second = pipeline(vec![]);
            second.name = "eval".into();
            f.pipelines.push(PipelineFile { path: ".trainyard/eval.yaml".into(), parsed: Ok(second) });
        }), format!("{started} `main`; run of `eval` at {A} on `main` | +churn main g1 queued trusted | +eval main g1 queued trusted")),
        // others
        ("comment", event(EventKind::Comment(CommentEvent { pull_number: 12, comment_id: "1".into(), body: "hi".into() })), facts(),
            "ignored: comments are not acted on yet".into()),
        ("ping", event(EventKind::Ping), facts(), "done: the hook works".into()),
    ];
    assert!(rows.len() >= 40);
    let mut wrong = Vec::new();
    for (name, event, facts, want) in &rows {
        let got = show(&plan(event, facts));
        if got != *want {
            wrong.push(format!("{name}:\n   got {got}\n  want {want}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn edit_push(mut event: Event, change: impl FnOnce(&mut Push)) -> Event {
    if let EventKind::Push(push) = &mut event.kind {
        change(push);
    }
    event
}

#[test]
fn a_late_event_keeps_the_pull_request_as_the_forge_shows_it() {
    let facts = with(|f| {
        let EventKind::PullRequest(mut now) = pr(PullRequestAction::Synchronized).kind else {
            unreachable!()
        };
        now.pull.head_sha = sha('f');
        f.pull_now = Some(now.pull);
    });
    let plan = plan(&pr(PullRequestAction::Opened), &facts);
    assert_eq!(plan.pull.unwrap().head_sha, sha('f'));
    assert_eq!(plan.runs[0].sha, sha('a'), "the run is of the commit that the event names");
}

#[test]
fn an_untrusted_head_takes_privileged_parts_from_the_base() {
    let facts = with(|f| {
        f.permission = Permission::None;
        f.base = vec![pipeline(vec![])];
        let mut head = pipeline(vec![]);
        head.steps = vec![step("train", Some("the-expensive-one")), step("extra", Some("another"))];
        f.pipelines[0].parsed = Ok(head);
    });
    let fork = edit(pr(PullRequestAction::Opened), |p| p.fork = true);
    let run = &plan(&fork, &facts).runs[0];
    let pools: Vec<_> = run.plan.steps.iter().map(|s| s.pool.as_deref()).collect();
    assert_eq!(pools, [Some("a100"), None]);
    assert!(run.plan.steps.iter().all(|s| s.secrets.is_empty()));
    assert_eq!(run.branch, "pull/12/head");
    assert_eq!(run.variables["CI_REF"], "refs/pull/12/head");
}

#[test]
fn an_untrusted_head_is_in_no_group_of_trusted_runs() {
    let with_group = with(|f| {
        let mut head = pipeline(vec![]);
        head.concurrency =
            Some(Concurrency { group: "churn-refs/heads/main".into(), cancel_in_progress: true });
        f.pipelines[0].parsed = Ok(head);
    });
    let fork = edit(pr(PullRequestAction::Opened), |p| p.fork = true);
    let group = |event| plan(&event, &with_group).runs[0].concurrency.clone();
    assert_eq!(group(push("main")).as_deref(), Some("repo/churn-refs/heads/main"));
    assert_eq!(group(fork).as_deref(), Some("repo:untrusted/churn-refs/heads/main"));
}

#[test]
fn push_and_pull_request_make_the_same_run() {
    let when = vec![when(&["push", "pull_request"], &["**"], &[], &[])];
    let by_push = plan(&push("layers"), &with_when(when.clone()));
    let by_pull = plan(&pr(PullRequestAction::Opened), &with_when(when));
    let (mut a, mut b) = (by_push.runs[0].clone(), by_pull.runs[0].clone());
    // Who is named differs: the pusher, the author. What runs does not.
    a.actor.clear();
    b.actor.clear();
    assert_eq!(a, b);
}

#[test]
fn variables_come_from_repository_commit_and_branch() {
    let of = |branch, kind| variables(&push("main").repo, &sha('a'), branch, "churn", ChangeWords::of(kind));
    let vars = of("layers", ForgeKind::Github);
    let names: Vec<&str> = vars.keys().map(String::as_str).collect();
    assert_eq!(names, crate::pipeline::RUN_VARIABLES);
    assert_eq!(vars["CI_REF"], "refs/heads/layers");
    assert_eq!((vars["CI_REPO_OWNER"].as_str(), vars["CI_REPO_NAME"].as_str()), ("acme", "churn"));
    // A branch of that odd name is a branch all the same, unless it looks exactly like a pull request's head.
    for (branch, kind, reference) in [
        ("pull/x/head", ForgeKind::Github, "refs/heads/pull/x/head"),
        ("pull/7/head", ForgeKind::Gitea, "refs/pull/7/head"),
        ("pull/7/head", ForgeKind::Gitlab, "refs/heads/pull/7/head"),
        ("merge-requests/7/head", ForgeKind::Gitlab, "refs/merge-requests/7/head"),
        ("merge-requests/7/head", ForgeKind::Github, "refs/heads/merge-requests/7/head"),
    ] {
        assert_eq!(of(branch, kind)["CI_REF"], reference);
    }
}

/// GitLab's own words: `#12` would be an issue there, and a fork's head lies elsewhere.
#[test]
fn a_change_is_called_as_its_forge_calls_it() {
    let at_gitlab = |event: &Event, f: Facts| {
        let change = ChangeWords::of(ForgeKind::Gitlab);
        let plan = plan(event, &Facts { change, ..f });
        (explain(Some(event), &plan, change), plan)
    };
    let (text, plan) = at_gitlab(&pr(PullRequestAction::Closed), facts());
    assert_eq!(plan.reason, "merge request !12 was closed: nothing of it runs");
    assert!(text.starts_with("event:    merge request !12 at aaaaaaaaaa onto `main`"), "{text}");
    let (_, plan) = at_gitlab(&edit(pr(PullRequestAction::Opened), |p| p.fork = true), facts());
    let run = &plan.runs[0];
    assert_eq!(
        (run.branch.as_str(), run.variables["CI_REF"].as_str()),
        ("merge-requests/12/head", "refs/merge-requests/12/head")
    );
}

#[test]
fn when_with_alternatives() {
    let plan = pipeline(vec![
        when(&["push"], &["release/*"], &[], &[]),
        when(&["pull_request"], &[], &["src/**"], &[]),
    ]);
    let fits = |event: &Event, changed: Option<&[&str]>| {
        fit(&plan, &event.kind, "main", changed.map(words).as_deref())
    };
    assert_eq!(fits(&push("release/1"), None), Fit::Wanted);
    assert!(matches!(fits(&push("release/1/2"), None), Fit::Unwanted { .. }));
    assert!(matches!(fits(&push("main"), None), Fit::Unwanted { .. }));
    assert_eq!(fits(&pr(PullRequestAction::Opened), Some(&["src/x/y.py"])), Fit::Wanted);
    assert!(matches!(fits(&pr(PullRequestAction::Opened), Some(&["x.py"])), Fit::Paths { .. }));
}

#[test]
fn the_commit_asks_for_what_follows() {
    let plan = plan(&pr(PullRequestAction::Opened), &facts());
    let mut ids = 0;
    let commit = plan.commit(DeliveryRowId::from_text("d"), &RepoId::from_text("repo"), T0, || {
        ids += 1;
        RunId::from_text(format!("run{ids}"))
    });
    let mut asks: Vec<String> = commit.asks.iter().map(|a| format!("{} {}", a.kind, a.key)).collect();
    asks.sort();
    asks.dedup();
    let sha = "a".repeat(40);
    assert_eq!(
        asks,
        ["compare run1".to_owned(), "report repo#12".into(), format!("report repo/{sha}"), "run run1".into()]
    );
    assert_eq!((commit.runs.len(), commit.runs[0].trigger_key.as_str(), commit.pulls.len()), (1, "head", 1));
}

#[test]
fn a_plan_is_explained_in_words() {
    let event = push("main");
    let text = explain(Some(&event), &plan(&event, &facts()), ChangeWords::of(ForgeKind::Github));
    assert_eq!(
        text,
        "event:    push of aaaaaaaaaa to `main` of acme/churn by ann\n\
         decision: acted on: run of `churn` at aaaaaaaaaa on `main`\n\
         run:      churn at aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa on `main`, generation 1, trusted, queued\n\
         \u{20} step    train at once, on a100, 0 GPUs\n"
    );
}
