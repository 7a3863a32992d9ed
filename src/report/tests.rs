use super::*;
use crate::model::data::{ColumnShift, DataFinding, FeatureChange, FeatureState, Severity, Shift};
use crate::model::outcome::{
    Aggregate, Change, Evidence, GateOutcome, GroupKind, Grouping, MemberValue, Method, MetricOutcome,
    Number, Unit,
};
use crate::model::{
    ComparisonState, DataReport, EndClass, Goal, Outcome, ParamLine, RunState, Sha, StepState, Verdict,
};

fn sha(digit: &str) -> Sha {
    Sha::parse(&format!("{digit}f1c2ab9d8e7f60514233241506f7a8b9cadbec0")[..40]).unwrap()
}

fn aggregate(step: &str, values: &[f64]) -> Aggregate {
    Aggregate {
        step: step.into(),
        mean: Number(values.iter().sum::<f64>() / values.len() as f64),
        values: values
            .iter()
            .enumerate()
            .map(|(i, v)| MemberValue { member: format!("seed={}", i + 1), value: Number(*v) })
            .collect(),
    }
}

fn metric(name: &str, goal: Goal, this: &[f64], base: &[f64], rules: &[&str]) -> MetricOutcome {
    let (candidate, baseline) = (aggregate("evaluate", this), aggregate("evaluate", base));
    let delta = candidate.value() - baseline.value();
    let better = if (goal == Goal::Max) == (delta > 0.0) { Change::Better } else { Change::Worse };
    MetricOutcome {
        name: name.into(),
        goal,
        assumed: rules.is_empty(),
        primary: name == "accuracy",
        delta: Some(delta),
        relative: Some(delta / baseline.value()),
        better: Some(better),
        candidate: Some(candidate),
        baseline: Some(baseline),
        evidence: None,
        no_evidence: String::new(),
        benchmarks: Vec::new(),
        gate: (!rules.is_empty()).then(|| GateOutcome {
            bound: None,
            verdict: Verdict::Pass,
            warn_only: false,
            rules: rules.iter().map(|r| (*r).to_owned()).collect(),
            reasons: vec![],
            by_interval: false,
            needed: None,
        }),
    }
}

fn step(name: &str, state: StepState, ms: i64) -> StepLine {
    StepLine {
        name: name.into(),
        state,
        reason: String::new(),
        attempts: 1,
        duration_ms: Some(ms),
        gpu_ms: 0,
    }
}

/// A change that makes the churn model better.
fn churn() -> Section {
    let outcome = Outcome {
        rules: "point-1".into(),
        verdict: Verdict::Pass,
        reasons: vec![],
        metrics: vec![
            metric(
                "accuracy",
                Goal::Max,
                &[0.8618, 0.8609, 0.8609],
                &[0.8484, 0.8479, 0.8480],
                &["≥ 0.75", "at most 0.5% worse"],
            ),
            metric(
                "log_loss",
                Goal::Min,
                &[0.3391, 0.3402, 0.3401],
                &[0.3709, 0.3713, 0.3714],
                &["at most 2% worse"],
            ),
            metric("precision", Goal::Max, &[0.7810, 0.7795, 0.7804], &[0.7822, 0.7819, 0.7811], &[]),
            metric("recall", Goal::Max, &[0.6912, 0.6899, 0.6904], &[0.6403, 0.6390, 0.6400], &[]),
        ],
    };
    let fall = |from: f64, to: f64| -> Vec<(f64, f64)> {
        (1..=12).map(|e| (f64::from(e), to + (from - to) * 0.6f64.powi(e - 1))).collect()
    };
    Section {
        pipeline: "churn".into(),
        run_id: "019ab3f0-5c1e-7d20-8b7e-3f2a9c4d5e6f".into(),
        sha: sha("5"),
        run_url: "https://ci.example/runs/019ab3f0-5c1e-7d20-8b7e-3f2a9c4d5e6f".into(),
        commit_url: format!("https://github.com/acme/churn/commit/{}", sha("5")),
        state: RunState::Succeeded,
        reason: String::new(),
        trusted: true,
        comparison: Some(ComparisonView {
            state: ComparisonState::Final,
            verdict: Some(Verdict::Pass),
            note: "main at 9f1c2ab, the merge-base".into(),
            baseline: Some(BaselineView {
                branch: "main".into(),
                sha: sha("9"),
                run_url: "https://ci.example/runs/019ab3ee-0000-7000-8000-000000000000".into(),
            }),
            outcome: Some(outcome),
        }),
        steps: vec![
            step("train (seed=1)", StepState::Succeeded, 11_300),
            step("train (seed=2)", StepState::Succeeded, 11_800),
            step("train (seed=3)", StepState::Succeeded, 12_100),
            step("evaluate (seed=1)", StepState::Succeeded, 900),
            step("evaluate (seed=2)", StepState::Succeeded, 940),
            step("evaluate (seed=3)", StepState::Succeeded, 910),
        ]
        .into_iter()
        .map(|mut s| {
            s.gpu_ms = if s.name.starts_with("train") { s.duration_ms.unwrap() } else { 0 };
            s
        })
        .collect(),
        failed: None,
        data: vec![],
        params: [
            ("batch", "64", "64"),
            ("epochs", "40", "40"),
            ("rate", "0.05", "0.2"),
            ("seed", "1, 2, 3", "1, 2, 3"),
        ]
        .map(|(label, baseline, this)| ParamLine {
            label: label.into(),
            baseline: Some(baseline.into()),
            this: Some(this.into()),
        })
        .into(),
        looked_at: Vec::new(),
        curves: vec![Curve {
            name: "loss".into(),
            members: 3,
            this: fall(0.61, 0.34),
            baseline: fall(0.66, 0.37),
        }],
        duration_ms: Some(26_400),
        gpu_ms: 35_200,
        costs: vec![Cost { currency: "EUR".into(), amount: 0.0244 }],
        budget: None,
        not_run: vec![],
    }
}

fn view(sections: Vec<Section>) -> View {
    View { marker: "<!-- trainyard:report pr=12 mac=00112233445566778899aabbccddeeff -->".into(), sections }
}

fn failing() -> Section {
    let mut section = churn();
    section.state = RunState::Failed;
    section.reason = "step train (seed=2) failed".into();
    section.comparison = None;
    section.curves.clear();
    section.params.clear();
    section.steps[1].state = StepState::Failed;
    section.steps[1].reason = "exit code 1".into();
    for step in &mut section.steps[3..] {
        step.state = StepState::Skipped;
        step.duration_ms = None;
    }
    section.failed = Some(FailedStep {
        name: "train (seed=2)".into(),
        class: Some(EndClass::Failed),
        exit_code: Some(1),
        reason: String::new(),
        log_tail: "epoch  1  loss 0.6100  accuracy 0.7400\nepoch  2  loss nan  accuracy 0.5000\n\
                   Traceback (most recent call last):\n  File \"train.py\", line 41, in <module>\n\
                   \u{1b}[31mFloatingPointError\u{1b}[0m: loss is not finite\n"
            .into(),
        tests: Vec::new(),
    });
    section
}

#[test]
fn what_tests_said_and_where_metrics_were_looked_for() {
    let mut section = failing();
    if let Some(failed) = &mut section.failed {
        failed.tests =
            vec!["3 passed, 1 failed, 0 skipped in 0.5 s; test_a::test_b: assert @team == 2".into()];
    }
    let body = comment::render_full(&view(vec![section]));
    assert!(
        body.replace('\u{200b}', "")
            .contains("\n\nTests: 3 passed, 1 failed, 0 skipped in 0.5 s\n- test_a::test_b: assert "),
        "{body}"
    );
    assert!(!body.contains("@team"), "{body}");

    let mut section = churn();
    section.looked_at =
        vec!["train: metrics.json (json), passed over: it was there before the commands ran".into()];
    let outcome = section.comparison.as_mut().and_then(|c| c.outcome.as_mut()).unwrap();
    let gate = outcome.metrics[0].gate.as_mut().unwrap();
    gate.verdict = Verdict::Fail;
    gate.reasons = vec!["accuracy was not reported by this run".into()];
    let body = comment::render_full(&view(vec![section]));
    assert!(
        body.contains("Metrics were looked for in:\n\n- train: metrics.json (json), passed over"),
        "{body}"
    );
}

#[test]
fn a_better_model_reads_like_this() {
    insta::assert_snapshot!("better", comment::render_full(&view(vec![churn()])));
    insta::assert_snapshot!(status_line(&churn()), @"trainyard/churn Success: accuracy 0.8612 (+0.0131 vs main 9f1c2ab) · gates passed");
}

/// The same with what its seeds say of chance.
fn replicated() -> Section {
    let mut section = churn();
    let outcome = section.comparison.as_mut().and_then(|c| c.outcome.as_mut()).unwrap();
    outcome.rules = "interval-1".into();
    let ends = [(0.0125, 0.0138), (-0.0330, -0.0299), (-0.0044, 0.0016)];
    for (metric, (low, high)) in outcome.metrics.iter_mut().zip(ends) {
        metric.evidence = Some(Evidence {
            method: Method::PairedT,
            unit: Unit::Seeds,
            count: 3,
            baseline_count: 3,
            examples: None,
            groups: None,
            level: 0.95,
            low,
            high,
            p: 0.01,
        });
    }
    outcome.metrics[3].no_evidence = "all seeds alike".into();
    section
}

#[test]
fn an_interval_is_told_at_one_glance() {
    let body = comment::render_full(&view(vec![replicated()]));
    let shown = |line: &&str| line.starts_with("###") || line.starts_with("[`") || line.starts_with('|');
    insta::assert_snapshot!(body.lines().filter(shown).take(8).collect::<Vec<_>>().join("\n"), @r"
    ### ✅ churn: passed both gates · accuracy 0.8481 → 0.8612 (+0.0131, 95 % CI +0.0125 … +0.0138, 3 seeds, paired)
    [`5f1c2ab`](https://github.com/acme/churn/commit/5f1c2ab9d8e7f60514233241506f7a8b9cadbec0) against [**main at 9f1c2ab, the merge-base**](https://ci.example/runs/019ab3ee-0000-7000-8000-000000000000) · changes with 95 % intervals, 3 seeds
    | metric | main `9f1c2ab` | this | change | 95 % interval | gate |
    |:--|--:|--:|--:|--:|:--|
    | **accuracy** ↑ | 0.8481 | **0.8612** | **+0.0131, +1.54%** | +0.0125 … +0.0138 | ✅ ≥ 0.75, at most 0.5% worse |
    | log_loss ↓ | 0.3712 | 0.3398 | −0.0314, −8.46% | −0.0330 … −0.0299 | ✅ at most 2% worse |
    | precision ↑ <sub>assumed</sub> | 0.7817 | 0.7803 | −0.0014, −0.18% | −0.0044 … +0.0016 | no clear change |
    | recall ↑ <sub>assumed</sub> | 0.6398 | 0.6905 | +0.0507, +7.93% | <sub>all seeds alike</sub> | better |
    ");
    insta::assert_snapshot!(status_line(&replicated()), @"trainyard/churn Success: accuracy 0.8612 (+0.0131, 95 % CI +0.0125 … +0.0138, vs main 9f1c2ab) · gates passed");
}

#[test]
fn clusters_of_examples_are_told_and_harmless() {
    let mut section = replicated();
    let outcome = section.comparison.as_mut().and_then(|c| c.outcome.as_mut()).unwrap();
    let evidence = outcome.metrics[0].evidence.as_mut().unwrap();
    (evidence.method, evidence.unit, evidence.count) = (Method::ClusterT, Unit::Examples, 4_000);
    evidence.groups = Some(Grouping { kind: GroupKind::Clusters, by: "@site <b>".into(), count: 12 });
    let body = comment::render_full(&view(vec![section]));
    assert_eq!(
        body.lines().find(|line| line.starts_with("###")).unwrap(),
        "### ✅ churn: passed both gates · accuracy 0.8481 → 0.8612 (+0.0131, 95 % CI +0.0125 … +0.0138, 4,000 examples, paired, clustered by @\u{200b}site &lt;b&gt;, only 12 clusters)"
    );
}

#[test]
fn benchmarks_stand_under_the_table() {
    let mut section = replicated();
    let outcome = &mut section.comparison.as_mut().unwrap().outcome;
    let of = |benchmark: &str, value| crate::model::plan::Reference { benchmark: benchmark.into(), value };
    outcome.as_mut().unwrap().metrics[0].benchmarks =
        vec![of("published", 0.83), of("people | experts", 0.95)];
    let body = comment::render_full(&view(vec![section]));
    let line = body.lines().find(|line| line.contains("benchmarks")).unwrap();
    insta::assert_snapshot!(line, @r"accuracy beside benchmarks: published 0.8300 (+0.0312), people \| experts 0.9500 (−0.0888)");
}

#[test]
fn features_beside_the_baselines_fold_away() {
    let mut section = churn();
    let feature = |name: &str, state, rows: u64, largest, tolerance: &str| FeatureChange {
        feature: name.into(),
        state,
        rows,
        share: rows as f64 / 2_000.0,
        largest,
        relative: largest.map(|x: f64| x / 10.0),
        tolerance: tolerance.into(),
    };
    section.data = vec![DataReport {
        name: "encode".into(),
        kind: "features".into(),
        rows: 2_000,
        columns: 5,
        passed: true,
        against: "main at 9f1c2ab, the merge-base".into(),
        features: vec![
            feature("log_amount", FeatureState::Changed, 1_999, Some(0.25), ""),
            feature("@team | <b>", FeatureState::Added, 0, None, ""),
            feature("age", FeatureState::Removed, 0, None, ""),
            feature("scaled", FeatureState::Equal, 0, Some(0.0004), "0.1%"),
            feature("city", FeatureState::Equal, 0, None, ""),
        ],
        ..DataReport::default()
    }];
    let body = comment::render_full(&view(vec![section]));
    let from = body.find("<details><summary><b>Features").unwrap_or_else(|| panic!("{body}"));
    insta::assert_snapshot!(body[from..].split("</details>").next().unwrap(), @r"
    <details><summary><b>Features</b>: 1 set, good, 1 changed, 1 added, 1 removed, 2 equal</summary>

    `encode` passed: 2,000 rows, 5 columns, against main at 9f1c2ab, the merge-base

    On the same rows as the baseline's transform: 1 changed, 1 added, 1 removed, 2 equal.

    | feature | | rows that differ | largest difference | relative | tolerance |
    |:--|:--|--:|--:|--:|--:|
    | `log_amount` | **changed** | 1,999 (99.95 %) | 0.25 | 2.50 % | – |
    | `@team ∣ <b>` | **added** | – | – | – | – |
    | `age` | **removed** | – | – | – | – |
    | `scaled` | within tolerance | – | 0.0004 | <0.01 % | 0\.1% |
    ");
}

/// A run that its data stopped.
fn refused() -> Section {
    let mut section = failing();
    section.reason = "step data failed: customers: monthly_charge: moved by 0.431 standard deviations".into();
    if let Some(failed) = &mut section.failed {
        failed.name = "data".into();
        failed.log_tail = "customers: 20000 rows".into();
    }
    let finding = |severity, rule: &str, column: Option<&str>, message: &str, count, share| DataFinding {
        severity,
        rule: rule.into(),
        column: column.map(str::to_owned),
        message: message.into(),
        count,
        share,
    };
    let column = |name: &str, verdict, p, shift, shares: [f64; 4]| ColumnShift {
        column: name.into(),
        verdict,
        p: Some(p),
        shift,
        psi: Some(0.21),
        v: Some(0.1),
        baseline_shares: vec![0.25; 4],
        shares: shares.to_vec(),
    };
    section.data = vec![DataReport {
        name: "customers".into(),
        kind: String::new(),
        rows: 20_000,
        columns: 7,
        passed: false,
        against: "main at 9f1c2ab, the merge-base".into(),
        findings: vec![
            finding(
                Severity::Fail,
                "drift",
                Some("monthly_charge"),
                "moved by 0.431 standard deviations, PSI 0.210 (adjusted p 2.10e-200)",
                0,
                0.0,
            ),
            finding(
                Severity::Fail,
                "unseen_category",
                Some("contract"),
                "a value that the baseline does not have",
                1_375,
                0.06875,
            ),
        ],
        drift: vec![
            column("tenure_months", Shift::Stable, 0.97, Some(0.0), [0.25; 4]),
            column("monthly_charge", Shift::Drifted, 2.1e-200, Some(0.431), [0.1, 0.2, 0.3, 0.4]),
        ],
        features: Vec::new(),
        left_out: 0,
    }];
    section
}

#[test]
fn data_that_stops_a_run_says_which_column_how_far_and_how_sure() {
    let body = comment::render_full(&view(vec![refused()]));
    insta::assert_snapshot!(body.split("<details><summary><b>Steps").next().unwrap(), @r"
    <!-- trainyard:report pr=12 mac=00112233445566778899aabbccddeeff -->
    ### ❌ churn was stopped by its data

    [`5f1c2ab`](https://github.com/acme/churn/commit/5f1c2ab9d8e7f60514233241506f7a8b9cadbec0)

    **Data `customers`** is not fit to train on: 20,000 rows, 7 columns, against main at 9f1c2ab, the merge-base

    | | column | what | rows |
    |:--|:--|:--|--:|
    | ❌ | `monthly_charge` | moved by 0.431 standard deviations, PSI 0.210 (adjusted p 2.10e-200) | – |
    | ❌ | `contract` | a value that the baseline does not have | 1,375 (6.88 %) |

    <details><summary><b>Data</b>: 0 of 1 sets good, 1 of 2 columns drifted</summary>

    `customers`

    | column | verdict | adjusted p | moved by | PSI | baseline | this |
    |:--|:--|--:|--:|--:|:--|:--|
    | `monthly_charge` | **drifted** | 2e-200 | 0.43 sd | 0.210 | ████ | ▃▅▆█ |
    | `tenure_months` | stable | 0.970 | 0.00 sd | 0.210 | ████ | ████ |

    </details>
    ");
    insta::assert_snapshot!(status_line(&refused()), @"trainyard/churn Failure: failed: step data failed: customers: monthly_charge: moved by 0.431 standard deviations");
    assert!(!body.contains("of its log"), "the log says no more than the findings: {body}");

    // Names come from the data: they mention nobody and open nothing.
    let mut hostile = refused();
    hostile.data[0].findings[0].column = Some("@team</details><img src=x>|`x`".into());
    hostile.data[0].drift[1].column = "#1 | @team".into();
    let body = comment::render_full(&view(vec![hostile]));
    // One code span in one cell, whatever the name holds.
    assert!(
        body.contains("| ❌ | ``@team</details><img src=x>\u{2223}`x` `` |")
            || body.contains("| ❌ | `` @team</details><img src=x>\u{2223}`x` `` |"),
        "{body}"
    );
    assert!(body.contains("| `#1 \u{2223} @team` | **drifted** |"), "{body}");

    let mut good = churn();
    good.data = refused().data;
    good.data[0].passed = true;
    good.data[0].findings.clear();
    let body = comment::render_full(&view(vec![good]));
    assert!(body.contains("<b>Data</b>: 1 set, good, 1 of 2 columns drifted"), "{body}");
}

#[test]
fn a_failing_step_shows_its_last_lines() {
    insta::assert_snapshot!("failing", comment::render_full(&view(vec![failing()])));
    insta::assert_snapshot!(status_line(&failing()), @"trainyard/churn Failure: failed: step train (seed=2) failed");
}

fn status_line(section: &Section) -> String {
    let s = status::status(section, 140).expect("a status");
    assert!(s.description.chars().count() <= 140, "{}", s.description);
    format!("{} {:?}: {}", s.context, s.state, s.description)
}

#[test]
fn a_failing_gate_says_by_how_much_and_an_inconclusive_one_why() {
    let mut section = churn();
    let comparison = section.comparison.as_mut().unwrap();
    let outcome = comparison.outcome.as_mut().unwrap();
    let why = "accuracy is 0.0481 (5.67%) worse than the baseline 0.8481; it may be worse by at most 0.5%";
    outcome.verdict = Verdict::Fail;
    outcome.reasons = vec![why.into()];
    outcome.metrics[0] = metric("accuracy", Goal::Max, &[0.80], &[0.8481], &["at most 0.5% worse"]);
    outcome.metrics[0].gate.as_mut().unwrap().verdict = Verdict::Fail;
    outcome.metrics[0].gate.as_mut().unwrap().reasons = vec![why.into()];
    comparison.verdict = Some(Verdict::Fail);
    let body = comment::render_full(&view(vec![section.clone()]));
    insta::assert_snapshot!(body.lines().skip(1).take(8).collect::<Vec<_>>().join("\n"), @r##"
        ### ❌ churn: 1 of 2 gates failed · accuracy 0.8000 (−0.0481, −5.67%)

        [`5f1c2ab`](https://github.com/acme/churn/commit/5f1c2ab9d8e7f60514233241506f7a8b9cadbec0) against [**main at 9f1c2ab, the merge-base**](https://ci.example/runs/019ab3ee-0000-7000-8000-000000000000) · point comparison, 3 seeds

        - ❌ accuracy is 0.0481 (5.67%) worse than the baseline 0.8481; it may be worse by at most 0.5%

        | metric | main `9f1c2ab` | this | change | gate |
        |:--|--:|--:|--:|:--|
        "##);
    insta::assert_snapshot!(status_line(&section), @"trainyard/churn Failure: accuracy 0.8000 (−0.0481 vs main 9f1c2ab) · gate failed: accuracy is 0.0481 (5.67%) worse than the baseline 0.8481; it may be worse by at m…");

    let comparison = section.comparison.as_mut().unwrap();
    comparison.verdict = Some(Verdict::Inconclusive);
    comparison.note = "no baseline: none of the 4 commits before the merge-base 9f1c2ab has a good run, because its run failed".into();
    comparison.baseline = None;
    let outcome = comparison.outcome.as_mut().unwrap();
    outcome.verdict = Verdict::Inconclusive;
    for metric in &mut outcome.metrics {
        (metric.baseline, metric.delta, metric.relative, metric.better) = (None, None, None, None);
        if let Some(gate) = &mut metric.gate {
            gate.verdict = Verdict::Inconclusive;
            gate.reasons = vec![format!("{} has no baseline to be held against", metric.name)];
        }
    }
    outcome.reasons = vec!["accuracy has no baseline to be held against".into()];
    let body = comment::render_full(&view(vec![section.clone()]));
    insta::assert_snapshot!(body.lines().skip(1).take(11).collect::<Vec<_>>().join("\n"), @r##"
        ### ⚪ churn: inconclusive, 2 of 2 gates cannot be judged · accuracy 0.8000

        [`5f1c2ab`](https://github.com/acme/churn/commit/5f1c2ab9d8e7f60514233241506f7a8b9cadbec0), no baseline: none of the 4 commits before the merge-base 9f1c2ab has a good run, because its run failed · point comparison, 3 seeds

        - ⚪ accuracy has no baseline to be held against
        - ⚪ log_loss has no baseline to be held against

        | metric | baseline | this | change | gate |
        |:--|--:|--:|--:|:--|
        | **accuracy** ↑ | – | **0.8000** | **–** | ⚪ at most 0.5% worse |
        | log_loss ↓ | – | 0.3398 | – | ⚪ at most 2% worse |
        "##);
    insta::assert_snapshot!(status_line(&section), @"trainyard/churn Success: accuracy 0.8000 · inconclusive, no baseline: none of the 4 commits before the merge-base 9f1c2ab has a good run, because its run failed");
}

#[test]
fn every_state_has_its_word_for_the_forge() {
    let with = |state: RunState, reason: &str| {
        let mut s = churn();
        (s.state, s.reason) = (state, reason.into());
        s
    };
    let mut waiting = churn();
    let comparison = waiting.comparison.as_mut().unwrap();
    (comparison.state, comparison.verdict, comparison.outcome) = (ComparisonState::Pending, None, None);
    comparison.note = "main at 9f1c2ab, the merge-base".into();
    let mut uncompared = churn();
    uncompared.comparison = None;
    assert!(status::status(&uncompared, 140).is_none());
    let mut released = with(RunState::Queued, "");
    released.trusted = false;
    let lines: Vec<String> = [
        with(RunState::Held, ""),
        released,
        with(RunState::Queued, ""),
        with(RunState::Running, ""),
        waiting,
        with(RunState::Failed, "step train failed with exit code 1"),
        with(RunState::Errored, ".trainyard.yaml:7:3 unknown key `step`; did you mean `steps`?"),
        with(RunState::Cancelled, "by ada"),
        with(RunState::Superseded, "a newer push"),
        with(RunState::Skipped, "no changed file matches when.paths"),
    ]
    .iter()
    .map(status_line)
    .collect();
    insta::assert_snapshot!(lines.join("\n"), @r##"
        trainyard/churn Pending: waiting for release: an untrusted head, someone with write access must let it run
        trainyard/churn Pending: released, running
        trainyard/churn Pending: queued
        trainyard/churn Running: running
        trainyard/churn Pending: waiting for the baseline run: main at 9f1c2ab, the merge-base
        trainyard/churn Failure: failed: step train failed with exit code 1
        trainyard/churn Error: error: .trainyard.yaml:7:3 unknown key `step`; did you mean `steps`?
        trainyard/churn Cancelled: cancelled: by ada
        trainyard/churn Cancelled: superseded: a newer push
        trainyard/churn Success: skipped: no changed file matches when.paths
        "##);
}

#[test]
fn a_held_run_says_how_to_release_it_and_a_broken_file_where_it_broke() {
    let mut held = churn();
    held.state = RunState::Held;
    held.trusted = false;
    held.comparison = None;
    insta::assert_snapshot!(comment::render_full(&view(vec![held])), @r##"
        <!-- trainyard:report pr=12 mac=00112233445566778899aabbccddeeff -->
        ### ✋ churn waits for a release

        [`5f1c2ab`](https://github.com/acme/churn/commit/5f1c2ab9d8e7f60514233241506f7a8b9cadbec0)

        This head comes from a fork or from an author without write access, so nothing of it runs yet. Someone who has read the change and has access to the daemon's machine releases exactly this commit with

        ```sh
        trainyard runs release 019ab3f0-5c1e-7d20-8b7e-3f2a9c4d5e6f --sha 5f1c2ab9d8e7f60514233241506f7a8b9cadbec0
        ```

        It then runs without secrets; a new push is held again.

        <details><summary><b>Curves</b>: loss</summary>

        ```mermaid
        %%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#2563eb, #9ca3af"}}}}%%
        xychart-beta
            title "loss"
            x-axis "training step" 1 --> 12
            y-axis 0.325 --> 0.676
            line [0.610, 0.502, 0.437, 0.398, 0.375, 0.361, 0.353, 0.348, 0.345, 0.343, 0.342, 0.341]
            line [0.660, 0.544, 0.474, 0.433, 0.408, 0.393, 0.384, 0.378, 0.375, 0.373, 0.372, 0.371]
        ```

        `loss`, mean of 3: blue, this run 0.6100 → 0.3410 (lowest 0.3410, highest 0.6100, 12 points); grey, baseline 0.6600 → 0.3711 (lowest 0.3711, highest 0.6600, 12 points)

        </details>

        <sub>[Full report and logs](https://ci.example/runs/019ab3f0-5c1e-7d20-8b7e-3f2a9c4d5e6f) · 26 s · untrusted head · trainyard keeps this comment up to date</sub>
        "##);
    let mut broken = churn();
    broken.state = RunState::Errored;
    broken.comparison = None;
    broken.steps.clear();
    broken.curves.clear();
    broken.duration_ms = None;
    broken.reason = "error[TY102]: unknown key `commmands`\n  --> .trainyard.yaml:5:5\n  |\n5 |     commmands: [\"python3 train.py\"]\n  |     ^^^^^^^^^ did you mean `commands`?\n".into();
    insta::assert_snapshot!(comment::render_full(&view(vec![broken])), @r##"
        <!-- trainyard:report pr=12 mac=00112233445566778899aabbccddeeff -->
        ### 🛑 churn could not run

        [`5f1c2ab`](https://github.com/acme/churn/commit/5f1c2ab9d8e7f60514233241506f7a8b9cadbec0)

        ```text
        error[TY102]: unknown key `commmands`
          --> .trainyard.yaml:5:5
          |
        5 |     commmands: ["python3 train.py"]
          |     ^^^^^^^^^ did you mean `commands`?
        ```

        <sub>[Full report and logs](https://ci.example/runs/019ab3f0-5c1e-7d20-8b7e-3f2a9c4d5e6f) · trainyard keeps this comment up to date</sub>
        "##);
}

/// S14: text from outside stays text. Each case goes through every place where outside text can appear.
#[test]
fn outside_text_stays_text() {
    let long = "x".repeat(70_000);
    let emoji = "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿".repeat(300);
    let zalgo = format!("Z{}", "\u{301}\u{302}\u{303}\u{489}".repeat(200));
    let pipes = "|".repeat(300);
    let ticks = "`".repeat(300);
    let cases: &[&str] = &[
        "@org/all please look",
        "thanks @torvalds, cc @github",
        "fixes #1",
        "closes acme/other#2 and GH-3",
        "see !12 and $5",
        "</details></details></table>",
        "<details open><summary>fake</summary>",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![beacon](https://evil.example/p.png)",
        "<img src=\"https://evil.example/p.png\">",
        "[click](javascript:alert(1))",
        "[click](data:text/html;base64,PHNjcmlwdD4=)",
        "[ref]: https://evil.example",
        "https://evil.example/login and www.evil.example",
        "<https://evil.example>",
        "<!-- trainyard:report pr=12 mac=00112233445566778899aabbccddeeff -->",
        "--> <b>out of a comment</b> <!--",
        "| a | b |\n|---|---|\n| fake | ✅ |",
        "accuracy | 0.99 | 0.10 | ✅ |",
        "first\r\nsecond\n\n### ✅ churn passed all gates",
        "```\nout of the fence\n```",
        "`code` ``more`` ```most```",
        "~~~\nother fence\n~~~",
        "\u{202e}drowssap\u{202c} \u{2066}x\u{2069} \u{200f}\u{61c}",
        "zero\u{200b}width\u{feff}\u{2060}\u{ad}joiners",
        "\u{1b}[31mred\u{1b}[0m \u{1b}]8;;https://evil.example\u{7}link\u{1b}]8;;\u{7} \u{9b}2J",
        "\0\u{7}\u{8}\u{7f} controls",
        ":tada: :skull: :+1:",
        "**bold** _it_ ~~no~~ # heading",
        "- item\n1. item\n> quote",
        "&lt;b&gt; &#64;all &commat;all",
        "\\@all \\<b> \\",
        "$\\href{javascript:alert(1)}{x}$ $$x$$",
        "%%{init: {'theme':'x'}}%%\nend\"] --> x[\"y",
        "a\u{2028}b\u{2029}c",
        &long,
        &emoji,
        &zalgo,
        &pipes,
        &ticks,
    ];
    let parse = |body: &str| {
        let options = pulldown_cmark::Options::ENABLE_TABLES | pulldown_cmark::Options::ENABLE_STRIKETHROUGH;
        pulldown_cmark::Parser::new_ext(body, options)
            .map(pulldown_cmark::Event::into_static)
            .collect::<Vec<_>>()
    };
    // The same comment with harmless text: hostile text may change words, never the structure.
    let shape = |body: &str| -> Vec<String> {
        use pulldown_cmark::{Event, Tag};
        parse(body)
            .into_iter()
            .filter_map(|event| match event {
                Event::Start(Tag::Link { dest_url, .. }) => Some(format!("link {dest_url}")),
                Event::Start(Tag::CodeBlock(kind)) => Some(format!("block {kind:?}")),
                Event::Start(tag) => Some(format!("{tag:?}")),
                Event::Html(html) | Event::InlineHtml(html) => {
                    // Our own summaries hold escaped outside text.
                    let tags = regex::Regex::new("<[^>]*>").unwrap();
                    Some(tags.find_iter(&html).map(|m| m.as_str().to_owned()).collect::<String>())
                }
                Event::Rule => Some("rule".into()),
                _ => None,
            })
            .collect()
    };
    let hostile = |text: &str| {
        let mut ok = churn();
        ok.pipeline = text.into();
        let comparison = ok.comparison.as_mut().unwrap();
        comparison.note = text.into();
        comparison.baseline.as_mut().unwrap().branch = text.into();
        let outcome = comparison.outcome.as_mut().unwrap();
        for metric in &mut outcome.metrics {
            metric.name = text.into();
            for aggregate in metric.candidate.iter_mut().chain(&mut metric.baseline) {
                aggregate.values[0].member = text.into();
            }
        }
        let gate = outcome.metrics[0].gate.as_mut().unwrap();
        (gate.verdict, gate.warn_only, gate.reasons, gate.rules) =
            (Verdict::Fail, true, vec![text.into()], vec![text.into()]);
        ok.params[0] =
            ParamLine { label: text.into(), baseline: Some(format!("{text}.")), this: Some(text.into()) };
        ok.curves[0].name = text.into();
        ok.steps[0].name = text.into();
        ok.not_run = vec![text.into()];
        let mut bad = failing();
        bad.pipeline = format!("z{text}");
        bad.reason = text.split_whitespace().collect::<Vec<_>>().join(" ");
        bad.steps[1].reason = text.into();
        let failed = bad.failed.as_mut().unwrap();
        (failed.name, failed.reason, failed.log_tail) = (text.into(), text.into(), text.into());
        view(vec![ok, bad])
    };
    let plain = shape(&comment::render_full(&hostile("harmless")));
    let mut failed = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let body = comment::render_full(&hostile(case));
        let mut wrong: Vec<String> = Vec::new();
        let mut check = |good: bool, what: &str| {
            if !good {
                wrong.push(what.to_owned());
            }
        };
        check(shape(&body) == plain, "the structure changed");
        check(body.len() <= comment::MAX_BYTES, "too long");
        check(body.starts_with("<!-- trainyard:report pr=12 mac="), "our marker is not first");
        check(!body.chars().any(|c| c.is_control() && c != '\n'), "a control character is left");
        check(
            !body.contains(['\u{202e}', '\u{2066}', '\u{200f}', '\u{feff}', '\u{200d}', '\u{2028}']),
            "an invisible character is left",
        );
        // What is neither code nor ours must not call anyone or link anywhere.
        let mut text = String::new();
        let (mut depth, mut events) = (0, parse(&body).into_iter());
        for event in events.by_ref() {
            use pulldown_cmark::{Event, Tag, TagEnd};
            match event {
                Event::Start(Tag::CodeBlock(_)) => depth += 1,
                Event::End(TagEnd::CodeBlock) => depth -= 1,
                Event::Text(t) if depth == 0 => text.push_str(&t),
                Event::Html(t) | Event::InlineHtml(t) => text.push_str(&t),
                _ => text.push('\n'),
            }
        }
        check(text.matches("<!--").count() == 1, "a marker was forged");
        for pattern in [
            r"@[a-zA-Z0-9]",
            r"#\d",
            r"(?i)gh-\d",
            r"!\d",
            r"https?://[a-z]*evil",
            r"(?i)www\.",
            r":(tada|skull|\+1):",
        ] {
            check(!regex::Regex::new(pattern).unwrap().is_match(&text), pattern);
        }
        let status = status::status(&hostile(case).sections[1], 140).unwrap();
        check(status.description.chars().count() <= 140 && !status.description.contains('\n'), "status");
        check(status.context.chars().count() <= 255, "context");
        if !wrong.is_empty() {
            let diff: Vec<_> =
                shape(&body).into_iter().zip(plain.iter()).find(|(a, b)| a != *b).into_iter().collect();
            failed.push(format!(
                "case {n} {:?}: {wrong:?} {diff:?}",
                &case.chars().take(60).collect::<String>()
            ));
        }
    }
    println!("SEC S14 cases={} failed={}", cases.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_long_report_is_cut_between_its_blocks_and_says_so() {
    let mut sections = Vec::new();
    for n in 0..60 {
        let mut section = churn();
        section.pipeline = format!("pipeline-{n:02}");
        sections.push(section);
    }
    let body = comment::render_full(&view(sections));
    assert!(body.len() <= comment::MAX_BYTES && body.len() > comment::MAX_BYTES * 9 / 10, "{}", body.len());
    assert!(body.contains("Cut to fit into a comment"));
    for n in 0..60 {
        assert!(body.contains(&format!("pipeline-{n:02}: passed")), "every verdict is kept");
    }
    assert_eq!(body.matches("<details").count(), body.matches("</details>").count());
    assert_eq!(body.matches("```").count() % 2, 0);
}

#[test]
fn numbers_show_a_difference_and_no_noise() {
    use super::numbers::{decimals, duration, percent, signed, value};
    let show = |a: f64, b: f64| {
        let d = decimals(&[a, b], Some(a - b));
        format!("{} {} {}", value(b, d), value(a, d), signed(a - b, d))
    };
    insta::assert_snapshot!([
        show(0.8612, 0.8481), show(0.86121, 0.86120), show(31.2, 29.85), show(1234.5, 1200.25), show(3.0, 7.0),
        show(1e-7, 2e-7), show(12_345_678_901.5, 2.0), show(0.0, 0.5), show(0.5, 0.5), show(f64::NAN, 0.5),
        show(-0.25, 0.5),
    ].join("\n"), @r##"
        0.8481 0.8612 +0.0131
        0.861200 0.861210 +0.000010
        29.85 31.20 +1.35
        1200 1234 +34
        7 3 −4
        2.000e−7 1.000e−7 −1.000e−7
        2 1.235e10 +1.235e10
        0.5000 0.0000 −0.5000
        0.5000 0.5000 ±0
        0.5000 nan nan
        0.5000 −0.2500 −0.7500
        "##);
    insta::assert_snapshot!(
        [0.0154, -0.00001, 0.0, 0.155, -0.5, 12.0, 0.123_456_7].map(percent).join(" "), @"+1.54% −<0.01% ±0% +15.5% −50.0% ×13 +12.3%");
    insta::assert_snapshot!([0, 900, 42_000, 185_000, 8_040_000].map(duration).join(", "), @"under 1 s, 1 s, 42 s, 3 min 5 s, 2 h 14 min");
}

#[test]
fn what_it_cost_and_what_the_budget_says() {
    let costly = Section {
        gpu_ms: 7_560_000,
        costs: vec![Cost { currency: "EUR".into(), amount: 5.2 }],
        budget: Some("85 of 80 GPU hours used in 30 days (a soft budget: steps begin all the same)".into()),
        ..churn()
    };
    let text = super::comment::render(&view(vec![costly]), 100_000);
    assert!(text.contains(" · 2.1 GPU-h, about 5.20 EUR · "), "{text}");
    assert!(text.contains("⚠️ GPU budget: 85 of 80 GPU hours used in 30 days"), "{text}");
}
