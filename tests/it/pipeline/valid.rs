//! What is valid, and the plan that it means.

use std::collections::BTreeMap;

use trainyard::config::ForgeKind;
use trainyard::forge::ChangeWords;
use trainyard::model::plan::{Baseline, DataBaseline};
use trainyard::model::{EndClass, Goal, RepoName, RepoRef, Sha, Tolerance};
use trainyard::pipeline::{self, Diagnostic};

use super::{plan, read};

#[test]
fn the_smallest_file_is_one_line() {
    let plan = plan(&read("tests/data/pipelines/smallest.yaml"));
    assert_eq!(plan.name, "default");
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].name, "train");
    assert_eq!(plan.steps[0].commands, ["python train.py"]);
    assert_eq!(plan.when[0].event, ["push", "pull_request"]);
    assert_eq!(plan.not_run, Vec::<String>::new());
}

#[test]
fn the_whole_grammar_is_read() {
    let checked =
        pipeline::parse(".trainyard.yaml", read("tests/data/pipelines/whole.yaml").as_bytes()).unwrap();
    let plan = checked.plan;
    assert_eq!(plan.name, "churn");
    assert_eq!(plan.timeout_ms, 6 * 3_600_000);
    assert_eq!(plan.when.len(), 2);
    assert_eq!(plan.when[0].paths.include, ["src/**", "params.yaml"]);
    assert_eq!(plan.when[1].timezone.as_deref(), Some("Europe/Berlin"));
    assert_eq!(plan.concurrency.as_ref().unwrap().group, "churn-${CI_REF}");
    let names: Vec<&str> = plan.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "data",
            "features",
            "test",
            "train (seed=1)",
            "train (seed=2)",
            "train (seed=3)",
            "eval (seed=1)",
            "eval (seed=2)",
            "eval (seed=3)"
        ]
    );
    let data = plan.step("data").unwrap();
    assert_eq!((data.commands.len(), data.resources.gpu, data.needs.len()), (0, 0, 0));
    assert_eq!(data.artifacts, [".trainyard/data/customers.profile.json"]);
    let set = &data.data[0];
    assert_eq!((set.path.as_str(), set.drift.as_ref()), ("data/customers.parquet", Some(&DataBaseline::Run)));
    assert_eq!(
        set.rules,
        serde_json::json!({
            "rows": {"min": 10000.0, "max": null},
            "schema": {
                "age": {"type": "float", "min": 0, "max": 120, "nulls": "<1%"},
                "id": {"type": "int64", "unique": true},
                "plan": {"one_of": ["a", "b", "c"]},
            }
        })
    );
    let test = plan.step("test").unwrap();
    assert_eq!((test.pool.as_deref(), test.junit.as_deref()), (Some("cpu"), Some("junit.xml")));
    let train = plan.step("train (seed=2)").unwrap();
    assert_eq!(train.env["SEED"], "2");
    assert_eq!(train.env["EPOCHS"], "10");
    assert_eq!(train.setup, ["pip install -r requirements.txt"]);
    assert_eq!(train.secrets[0].env, "HUGGINGFACE_TOKEN");
    assert_eq!(train.needs.iter().map(|n| n.step.as_str()).collect::<Vec<_>>(), ["test", "data", "features"]);
    assert_eq!((train.resources.gpu, train.resources.cpu_milli), (1, Some(4000)));
    assert_eq!(train.resources.memory_bytes, Some(32 << 30));
    assert_eq!(train.retry.when, ["preempted", "node_lost"]);
    assert_eq!(train.checkpoint.as_deref(), Some("out/ckpt"));
    let eval = plan.step("eval (seed=2)").unwrap();
    assert_eq!(eval.needs[0].step, "train (seed=2)");
    assert_eq!((eval.env["SEED"].as_str(), eval.pool.as_deref()), ("2", Some("a100")));
    assert_eq!(plan.metrics.baseline, Baseline::MergeBase);
    let gates: Vec<&str> = plan.metrics.gates.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(gates, ["accuracy", "latency_ms", "f1/by/*"]);
    let accuracy = &plan.metrics.gates[0].1;
    assert_eq!((accuracy.goal, accuracy.min), (Some(Goal::Max), Some(0.80)));
    assert_eq!(accuracy.no_worse_than, Some(Tolerance::Relative(0.005)));
    assert!(plan.metrics.gates[2].1.warn_only);
    assert_eq!(plan.not_run, ["model", "deploy", "monitor", "notify", "when.event.cron"]);
    assert!(checked.warnings.iter().all(|w| w.code == "TY060"), "{:#?}", checked.warnings);
    assert_eq!(checked.warnings.len(), plan.not_run.len());
}

#[test]
fn steps_run_once_per_member_of_what_they_need() {
    let text = "steps:\n  - {name: prep, commands: [x]}\n  - {name: train, matrix: {lr: [0.10, 1e-3], seed: [1, 2]}, commands: [x], artifacts: [\"out/**\"]}\n  - {name: eval, commands: [x]}\n  - {name: sum, needs: [eval, {step: train, as: \"m/${LR}/${SEED}\"}], gather: true, commands: [x]}\n  - {name: lint, needs: [], commands: [x]}\n";
    let plan = plan(text);
    assert_eq!(plan.steps.len(), 1 + 4 + 4 + 1 + 1);
    let train = plan.step("train (lr=0.10, seed=2)").unwrap();
    assert_eq!(train.env["LR"], "0.10", "as written");
    let eval = plan.step("eval (lr=1e-3, seed=1)").unwrap();
    assert_eq!(eval.needs[0].step, "train (lr=1e-3, seed=1)");
    let sum = plan.step("sum").unwrap();
    assert_eq!(sum.needs.len(), 8);
    assert_eq!(sum.needs[7].into.as_deref(), Some("m/1e-3/2"));
    assert_eq!(plan.step("lint").unwrap().needs, []);
    assert_eq!(plan.step("prep").unwrap().needs, []);
}

#[test]
fn a_step_may_have_a_matrix_of_its_own_beside_the_needed_one() {
    let text = "steps:\n  - {name: train, matrix: {seed: [1, 2, 3]}, commands: [x]}\n  - {name: eval, matrix: {split: [a, b]}, commands: [x]}\n  - {name: some, needs: [train], matrix: {seed: [2]}, commands: [x]}\n";
    let plan = plan(text);
    assert_eq!(plan.steps.iter().filter(|s| s.base == "eval").count(), 6);
    assert_eq!(plan.step("eval (split=b, seed=3)").unwrap().needs[0].step, "train (seed=3)");
    assert_eq!(plan.step("some (seed=2)").unwrap().needs[0].step, "train (seed=2)");
}

#[test]
fn short_forms_mean_the_long_ones() {
    let short = plan(
        "secrets: A\nwhen: {paths: src/**, branch: 1.10}\ntrain: {commands: x, gpu: 2, retry: 1, artifacts: a, checkpoint: c}",
    );
    let long = plan(
        "secrets: [{name: A, as: A}]\nwhen: [{event: [push, pull_request], paths: {include: [src/**]}, branch: ['1.10']}]\nsteps: [{name: train, commands: [x], resources: {gpu: 2}, retry: {max: 1}, artifacts: [a], checkpoint: {path: c}}]",
    );
    assert_eq!(short, long);
}

#[test]
fn aliases_stand_for_whole_values() {
    let plan = plan("steps:\n  - {name: a, commands: &c [x, y]}\n  - {name: b, commands: *c}\n");
    assert_eq!(plan.steps[1].commands, ["x", "y"]);
}

#[test]
fn placeholders_are_replaced_outside_of_commands() {
    let plan = plan(
        "env: {WHERE: \"${CI_REPO}\"}\nsteps:\n  - name: train\n    matrix: {seed: [1]}\n    env: {OUT: \"o/${SEED}\"}\n    image: \"r/${CI_REPO_NAME}:1\"\n    commands: [\"echo ${SEED} ${OUT}\"]\n    artifacts: [\"${OUT}/**\"]\n",
    );
    let mut vars: BTreeMap<String, String> =
        pipeline::RUN_VARIABLES.iter().map(|n| ((*n).to_owned(), "v".to_owned())).collect();
    vars.insert("CI_REPO".into(), "me/it".into());
    let step = pipeline::resolve_step(&plan.steps[0], &vars).unwrap();
    assert_eq!(step.env["WHERE"], "me/it");
    assert_eq!(step.env["OUT"], "o/1");
    assert_eq!(step.image.as_deref(), Some("r/v:1"));
    assert_eq!(step.artifacts, ["o/1/**"]);
    assert_eq!(step.commands, ["echo ${SEED} ${OUT}"]);
    vars.remove("CI_REPO");
    let error = pipeline::resolve_step(&plan.steps[0], &vars).unwrap_err();
    assert_eq!(error.to_string(), "`${CI_REPO}` names no variable that is known here");
}

/// What lint takes as known, a run has: nothing is left to fail when an attempt starts.
#[test]
fn every_known_variable_is_set_by_a_run() {
    let name = RepoName::parse("me/it").unwrap();
    let repo = RepoRef { forge_id: "1".into(), name, default_branch: "main".into() };
    let change = ChangeWords::of(ForgeKind::Github);
    let set = trainyard::intake::variables(&repo, &Sha::parse(&"a".repeat(40)).unwrap(), "main", "p", change);
    assert_eq!(set.keys().map(String::as_str).collect::<Vec<_>>(), pipeline::RUN_VARIABLES);
}

#[test]
fn warnings_do_not_stop_a_file() {
    let warnings = |text: &str| {
        let checked = pipeline::parse("x.yaml", text.as_bytes()).unwrap();
        checked.warnings.iter().map(Diagnostic::one_line).collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("env: {DEBUG: off}\ntrain: x"),
        ["1:14: `DEBUG` is the text `off`, which YAML 1.1 reads as a boolean (TY050)"]
    );
    // What is checked and does nothing says so, also where it is a value.
    for text in [
        "train: x\nmetrics: {primary: a, compare: {baseline: 'model:production'}}",
        "train: x\ndata: {name: a, path: a.csv, drift: {against: 'model:production'}}",
    ] {
        let said = warnings(text);
        assert!(
            said.len() == 1 && said[0].contains("`model:` is checked, but") && said[0].ends_with("(TY060)"),
            "{said:?}"
        );
    }
    assert_eq!(warnings("train: x\nmetrics: {primary: a, compare: {baseline: 'branch:main'}}"), [""; 0]);
    let overlap = "steps:\n  - {name: a, commands: [x], artifacts: [out/**]}\n  - {name: b, needs: [], commands: [x], artifacts: [out/b/**]}\n  - {name: c, needs: [a, b], commands: [x]}\n";
    assert_eq!(
        warnings(overlap),
        ["4:26: artifacts `out/**` of `a` and `out/b/**` of `b` may hold the same paths (TY051)"]
    );
}

#[test]
fn retry_words_are_ends_of_attempts() {
    for class in
        EndClass::ALL.iter().filter(|c| !matches!(c.word(), "succeeded" | "cancelled" | "checkpointed"))
    {
        let text = format!("train: {{commands: x, retry: {{max: 1, when: {}}}}}", class.word());
        assert_eq!(plan(&text).steps[0].retry.when, [class.word()]);
    }
}

#[test]
fn drift_as_evidently_decides_it_needs_a_table() {
    let text = |drift: &str| format!("data:\n  - {{name: d, path: d.csv, drift: {{{drift}}}}}\ntrain: x\n");
    let plan = plan(&text("against: \"file:ref.csv\", compat: evidently"));
    let set = &plan.steps[0].data[0];
    assert_eq!(set.rules["drift"], serde_json::json!({"compat": "evidently", "reference": "ref.csv"}));
    assert!(set.drift.is_none());
    for drift in ["against: baseline, compat: evidently", "against: \"file:p.json\", compat: evidently"] {
        let found = pipeline::parse(".trainyard.yaml", text(drift).as_bytes()).err().unwrap_or_default();
        assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["TY036"], "{drift}");
    }
}

#[test]
fn predictions_name_their_columns_and_what_follows_from_them() {
    let text =
        |rest: &str| format!("train: x\nmetrics:\n  predictions: {{path: p.csv, id: i, label: t, {rest}}}\n");
    let read = |rest: &str| plan(&text(rest)).metrics.predictions.unwrap();
    let found = read("score: s, metrics: [auc, accuracy], slices: plan");
    let metrics: Vec<&str> = found.metrics.iter().map(|m| m.word()).collect();
    assert_eq!((metrics, found.slices), (vec!["accuracy", "auc"], vec!["plan".to_owned()]));
    assert_eq!(read("prediction: c, metrics: accuracy").prediction.as_deref(), Some("c"));
    let codes = |rest: &str| -> Vec<&'static str> {
        let found = pipeline::parse(".trainyard.yaml", text(rest).as_bytes()).err().unwrap_or_default();
        found.iter().map(|f| f.code).collect()
    };
    assert_eq!(codes("prediction: c, metrics: [auc]"), ["TY014"], "auc needs scores");
    assert_eq!(codes("metrics: [accuracy]"), ["TY014"], "score or prediction");
    assert_eq!(codes("score: s, metrics: [f2]"), ["TY016"]);
    let grouped = |rest| {
        let found = read(rest);
        (found.stratum, found.cluster)
    };
    assert_eq!(grouped("score: s, metrics: auc, cluster: user"), (None, Some("user".to_owned())));
    assert_eq!(grouped("score: s, metrics: auc, stratum: t"), (Some("t".to_owned()), None));
    assert_eq!(codes("score: s, metrics: auc, stratum: t, cluster: user"), ["TY036"]);
}
