//! The comment, section by section.

mod bounds;
mod statuses;

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
        waits: None,
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
        gpu_idle: None,
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
