//! `pick` and `why` as tables of queues.

use std::collections::BTreeMap;

use super::{T0, spec, view};
use crate::clock::Millis;
use crate::config::{PoolConfig, QueueConfig};
use crate::model::*;
use crate::run::fair::Terms;
use crate::run::schedule::{Picked, Scene, Wait, pick};
use crate::store::queue::{OpenAttempt, PoolUsage, PoolUse, ReadyStep};
use crate::store::runs::RunView;

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
            (
                (*name).to_owned(),
                PoolConfig { slots: Some(*slots), gpus: Some(*gpus), ..PoolConfig::default() },
            )
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
            "a: there is no pool `h100` here; the pools are `a100`, `cpu`: name one of them in `pool`",
            "b: the step asks for 5 GPUs and pool `a100` has 4: ask for fewer, or name another `pool`",
            "c: the step asks for 1 GPUs and pool `cpu` has none: ask for fewer, or name another `pool`",
            "d: the step names no pool and there is no pool `default`; the pools are `a100`, `cpu`: name one in `pool`, of the step or of `defaults`",
        ]
    );
    // Each pod of a step takes a place.
    let several = |name, workers| {
        let mut step = any(name);
        step.spec.workers = workers;
        step
    };
    let four = pools(&[("default", 4, 0)]);
    assert_eq!(show(&[several("a", 3), several("b", 2), any("c")], &[], &four), ["a@default[]"]);
    assert_eq!(show(&[several("a", 3)], &[("default", 2, &[])], &four), Vec::<String>::new());
    assert_eq!(
        show(&[several("a", 512)], &[], &four),
        [
            "a: the step asks for 512 pods and pool `default` has 4 places for it: ask for fewer, or name another `pool`"
        ]
    );
    let mut closed = pools(&[("only", 2, 0)]);
    assert_eq!(show(&[ready("a", None, 0, false)], &[], &closed), ["a@only[]"]);
    closed.get_mut("only").unwrap().untrusted = false;
    assert_eq!(
        show(&[ready("a", None, 0, false)], &[], &closed),
        [
            "a: pool `only` takes no steps of untrusted runs: name another in `pool`, or have an administrator set its `untrusted`"
        ]
    );
    assert_eq!(
        show(&[ready("a", None, 0, true)], &[], &pools(&[("only", 0, 0)])),
        ["a: pool `only` is closed: name another in `pool`, or have an administrator give it `slots`"]
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
        started_ms: None,
        gpus,
        pods: 1,
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
    assert_eq!(
        refused[0].1,
        "the step asks for 3 GPUs and pool `default` gives one repository 2 at once: ask for fewer, or name another `pool`"
    );

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
fn a_waiting_step_is_told_its_place_what_is_free_and_an_estimate_with_its_basis() {
    use crate::run::why::{Facts, Typical, WaitsFor, why};
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
        started_ms: None,
        gpus: 0,
        pods: 1,
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
        (Some(WaitsFor::Pool), 3, 3, Some(0))
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
    pool.get_mut("default").unwrap().slots = Some(2);
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
            "a trainyard token of scope run to release commit",
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

#[test]
fn a_queue_of_the_cluster_alone_holds_its_pools_steps_back() {
    let queue = crate::config::KubernetesPool { queue: Some("team".into()), ..Default::default() };
    let pool = |gpus, slots| {
        let pool = PoolConfig {
            executor: "kubernetes".into(),
            kubernetes: queue.clone(),
            gpus,
            slots,
            ..PoolConfig::default()
        };
        BTreeMap::from([("gpu".to_owned(), pool)])
    };
    let steps: Vec<ReadyStep> = (0..30).map(|n| ready(&format!("s{n}"), Some("gpu"), 4, true)).collect();
    let placed = |pools: BTreeMap<String, PoolConfig>| {
        let picked = pick(&scene(&steps, BTreeMap::new(), &pools));
        let mut gpus: Vec<u32> = picked.places.iter().flat_map(|place| place.gpus.clone()).collect();
        let all = gpus.len();
        gpus.sort_unstable();
        gpus.dedup();
        assert_eq!(gpus.len(), all, "a GPU was given twice");
        picked.places.len()
    };
    assert_eq!(placed(pool(None, None)), 30);
    // What is written holds as well.
    assert_eq!(placed(pool(Some(8), None)), 2);
    assert_eq!(placed(pool(None, Some(5))), 5);

    // Its Job is made; what that waits for is what the run waits for.
    let mut mine = view("running", "a running", "a1 pending");
    mine.attempts[0].reason = "waiting for quota of 2 more a100 in team-vision".into();
    let scene = Scene { now: T0 + 40_000, ..scene(&[], BTreeMap::new(), &pool(None, None)) };
    let typical = BTreeMap::new();
    let facts = crate::run::why::Facts {
        view: &mine,
        repo: "ada/churn".into(),
        scene: &scene,
        ahead: None,
        baselines: vec![],
        typical: &typical,
    };
    let step = crate::run::why::why(&facts).steps.remove(0);
    assert_eq!(step.says, "waiting for quota of 2 more a100 in team-vision; for 40 s so far");
    assert_eq!(step.waits_for.map(crate::run::why::WaitsFor::word), Some("start"));
}
