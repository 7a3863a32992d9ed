//! The one line of a status.

use super::*;

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
    let mut placeless = with(RunState::Running, "");
    placeless.waits = Some("waiting for quota of 2 more a100 in team-vision".into());
    let mut released = with(RunState::Queued, "released by ada");
    released.trusted = false;
    let lines: Vec<String> = [
        with(RunState::Held, ""),
        released.clone(),
        with(RunState::Queued, ""),
        with(RunState::Running, ""),
        placeless.clone(),
        waiting,
        with(RunState::Failed, "step train failed with exit code 1"),
        with(RunState::Errored, ".trainyard.yaml:7:3 unknown key `step`; did you mean `steps`?"),
        with(RunState::Errored, ".trainyard.yaml:7:3 unknown key `step`\n.trainyard.yaml:8:1 another"),
        with(RunState::Cancelled, "by ada"),
        with(RunState::Superseded, "a newer push"),
        with(RunState::Skipped, "no changed file matches when.paths"),
    ]
    .iter()
    .map(status_line)
    .collect();
    insta::assert_snapshot!(lines.join("\n"), @r##"
        trainyard/churn Pending: waiting for release: an untrusted head, someone with a trainyard token of scope run must release it
        trainyard/churn Pending: released, running
        trainyard/churn Pending: queued
        trainyard/churn Running: running
        trainyard/churn Pending: waiting for quota of 2 more a100 in team-vision
        trainyard/churn Pending: waiting for the baseline run: main at 9f1c2ab, the merge-base
        trainyard/churn Failure: failed: step train failed with exit code 1
        trainyard/churn Error: error: .trainyard.yaml:7:3 unknown key `step`; did you mean `steps`?
        trainyard/churn Error: error: .trainyard.yaml:7:3 unknown key `step` (and 1 more)
        trainyard/churn Cancelled: cancelled: by ada
        trainyard/churn Cancelled: superseded: a newer push
        trainyard/churn Success: skipped: no changed file matches when.paths
        "##);
    assert!(!comment::render(&view(vec![released]), 60_000).contains("released by"));
    // The comment says the same, and takes no word of a cluster for its own.
    placeless.waits = Some("waiting for <b>*2* more @all".into());
    let body = comment::render(&view(vec![placeless]), 60_000);
    assert!(body.contains("### ⏳ churn waits for its place\n"), "{body}");
    assert!(body.contains("waiting for ") && !body.contains("<b>*2*") && !body.contains(" @all"), "{body}");
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

        This head comes from a fork, or from an author who has neither write access nor a merged change here, so nothing of it runs yet. Someone who has read the change and holds a trainyard token of scope `run` releases exactly this commit, on the run's page or with

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
