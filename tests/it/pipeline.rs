//! The pipeline file: what is valid, what is told about what is not (Show 7), bad input (S08), and the pages and the
//! schema that are made from the grammar.

#![expect(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::naive_bytecount,
    reason = "inputs are generated here, once"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use trainyard::config::ForgeKind;
use trainyard::forge::ChangeWords;
use trainyard::model::plan::{Baseline, DataBaseline, Plan};
use trainyard::model::{EndClass, Goal, RepoName, RepoRef, Sha, Tolerance};
use trainyard::pipeline::{self, Diagnostic};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn plan(text: &str) -> Plan {
    pipeline::parse(".trainyard.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e:#?}")).plan
}

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
                "age": {"type": "float", "min": 0.0, "max": 120.0, "nulls": "<1%"},
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

/// File, then each finding in order: place and code, a part of the message, a part of the help.
type Row = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

include!("../data/broken/expected.rs");

#[test]
fn broken_files_are_told_code_line_column_and_hint() {
    let directory = root().join("tests/data/broken");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut listed: Vec<&str> = EXPECTED.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(listed, names, "every file has its row");
    let mut failed = Vec::new();
    for (name, rows) in EXPECTED {
        let text = std::fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
        let found = match pipeline::parse(".trainyard.yaml", text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(found) => found.into_iter().filter(|f| f.code != "TY060").collect(),
        };
        let fits = found.len() == rows.len()
            && found.iter().zip(*rows).all(|(f, (place, message, help))| {
                format!("{}:{} {}", f.line, f.column, f.code) == *place
                    && f.message.contains(message)
                    && f.help.as_deref().unwrap_or_default().contains(help)
                    && text.get(f.span.clone()).is_some()
            });
        if !fits {
            failed.push(format!("{name}: expected {rows:?}, found {found:#?}"));
        }
    }
    println!("FIGURE broken_pipelines cases={} failed={}", EXPECTED.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// One bad input: what it is, the bytes, and the code it is told (None: it is valid, only costs are measured).
type Bad = (String, Vec<u8>, Option<&'static str>);

fn bad_inputs() -> Vec<Bad> {
    let mut out: Vec<Bad> = Vec::new();
    let mut add =
        |name: &str, bytes: Vec<u8>, code: Option<&'static str>| out.push((name.to_owned(), bytes, code));
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..9 {
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
    }
    add("billion laughs, nine levels", laughs.into_bytes(), Some("TY005"));
    let wide = format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 1000].join(","), vec!["*a"; 200].join(","));
    add("few aliases of a wide value", wide.into_bytes(), Some("TY005"));
    let many = format!("a: &a x\nb: [{}]\n", vec!["*a"; 10_000].join(","));
    add("ten thousand aliases", many.into_bytes(), Some("TY005"));
    add("an alias inside of what it names", b"train: &a [x, *a]\n".to_vec(), Some("TY008"));
    add("an alias of nothing", b"train: *a\n".to_vec(), Some("TY008"));
    add(
        "a merge key bomb",
        format!("a: &a {{x: 1}}\nb: {{{}}}\n", "<<: *a, ".repeat(200)).into_bytes(),
        Some("TY009"),
    );
    add("ten thousand brackets", "[".repeat(10_000).into_bytes(), Some("TY004"));
    add("ten thousand braces", "{a: ".repeat(10_000).into_bytes(), Some("TY004"));
    add("ten thousand dashes", "- ".repeat(10_000).into_bytes(), Some("TY004"));
    let steps: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    add("five hundred indents", steps.into_bytes(), Some("TY004"));
    add("fifty mebibytes", vec![b'a'; 50 << 20], Some("TY001"));
    add("one byte above the limit", vec![b'#'; 256 * 1024 + 1], Some("TY001"));
    add("the limit, all comment", vec![b'#'; 256 * 1024], Some("TY010"));
    add("a million documents", "---\n".repeat(65_000).into_bytes(), Some("TY006"));
    add("a hundred thousand values", format!("a: [{}]\n", "1,".repeat(100_000)).into_bytes(), Some("TY005"));
    let keys: String = (0..9_000).map(|i| format!("k{i}: 1\n")).collect();
    add("nine thousand unknown keys", keys.into_bytes(), Some("TY013"));
    let keys: String = (0..9_000).map(|_| "train: 1\n").collect();
    add("nine thousand times one key", keys.into_bytes(), Some("TY011"));
    add("a python tag", b"train: !!python/object/apply:os.system [ls]\n".to_vec(), Some("TY007"));
    add("an include", b"train: !include /etc/passwd\n".to_vec(), Some("TY007"));
    add("a directive", b"%TAG ! tag:evil,2000:\n---\ntrain: x\n".to_vec(), Some("TY003"));
    add("a yes", b"concurrency: {group: x, cancel_in_progress: yes}\ntrain: x\n".to_vec(), Some("TY021"));
    add(
        "a no in capitals",
        b"concurrency: {group: x, cancel_in_progress: NO}\ntrain: x\n".to_vec(),
        Some("TY021"),
    );
    add("an octal", b"train: {commands: x, gpu: 0o7}\n".to_vec(), Some("TY017"));
    add("an old octal", b"train: {commands: x, gpu: 07}\n".to_vec(), Some("TY017"));
    add("a sexagesimal", b"timeout: 1:30:00\ntrain: x\n".to_vec(), Some("TY018"));
    add("a NUL", b"train: \"a\\0b\"\n".to_vec(), Some("TY029"));
    add("a raw NUL", b"train: a\0b\n".to_vec(), Some("TY003"));
    add("a tab", b"train:\n\tcommands: x\n".to_vec(), Some("TY003"));
    add("a key that is a list", b"? [a, b]\n: x\n".to_vec(), Some("TY012"));
    add("a key that is nothing", b": x\ntrain: x\n".to_vec(), Some("TY012"));
    add("not UTF-8", b"train: \xff\xfe\n".to_vec(), Some("TY002"));
    add("UTF-16", "train: x".encode_utf16().flat_map(u16::to_le_bytes).collect(), Some("TY003"));
    let bomb = format!("env: {{A: \"{}\"}}\ntrain: x\n", "${B}".repeat(20_000));
    add("a template bomb", bomb.into_bytes(), Some("TY028"));
    let doubling: String = (1..40).map(|i| format!("  V{i}: \"${{V{0}}}${{V{0}}}\"\n", i - 1)).collect();
    add("variables that double", format!("env:\n  V0: x\n{doubling}train: x\n").into_bytes(), Some("TY028"));
    let list = (0..1000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    add(
        "a matrix of a million",
        format!("train: {{commands: x, matrix: {{a: [{list}], b: [{list}]}}}}\n").into_bytes(),
        Some("TY032"),
    );
    let keys: String = (0..64).map(|i| format!("k{i}: [0, 1], ")).collect();
    add(
        "a matrix of two to the 64",
        format!("train: {{commands: x, matrix: {{{keys}}}}}\n").into_bytes(),
        Some("TY032"),
    );
    let join: String = (0..9)
        .map(|i| format!("  - {{name: s{i}, needs: [], matrix: {{k{i}: [1, 2, 3]}}, commands: x}}\n"))
        .collect();
    let names = (0..9).map(|i| format!("s{i}")).collect::<Vec<_>>().join(", ");
    add(
        "needs that multiply",
        format!("steps:\n{join}  - {{name: all, needs: [{names}], commands: x}}\n").into_bytes(),
        Some("TY032"),
    );
    let steps: String = (0..3000).map(|i| format!("  - {{name: s{i}, commands: x}}\n")).collect();
    add("three thousand steps", format!("steps:\n{steps}").into_bytes(), Some("TY033"));
    let dense: String = (0..250)
        .map(|i| {
            format!(
                "  - {{name: s{i}, needs: [{}], commands: x}}\n",
                (0..i.min(60)).map(|j| format!("s{j}")).collect::<Vec<_>>().join(",")
            )
        })
        .collect();
    add("250 steps that need 60 each", format!("steps:\n{dense}").into_bytes(), None);
    let globs = (0..60).map(|i| format!("\"**/a{i}*/**/b*/**/c?\"")).collect::<Vec<_>>().join(",");
    let producers: String = (0..20)
        .map(|p| {
            format!("  - {{name: p{p}, needs: [], commands: x, artifacts: [{globs}]}}\n")
                .replace("/a", &format!("/{p}a"))
        })
        .collect();
    let names = (0..20).map(|i| format!("p{i}")).collect::<Vec<_>>().join(",");
    add(
        "thousands of globs that may meet",
        format!("steps:\n{producers}  - {{name: z, needs: [{names}], commands: x}}\n").into_bytes(),
        None,
    );
    add(
        "a name of 10,000 letters",
        format!("name: {}\ntrain: x\n", "n".repeat(10_000)).into_bytes(),
        Some("TY022"),
    );
    add("a need of itself", b"steps: [{name: a, needs: a, commands: x}]\n".to_vec(), Some("TY031"));
    let ring: String =
        (0..200).map(|i| format!("  - {{name: s{i}, needs: [s{}], commands: x}}\n", (i + 1) % 200)).collect();
    add("a circle of 200", format!("steps:\n{ring}").into_bytes(), Some("TY031"));
    for (what, value, code) in [
        ("zero timeout", "timeout: 0s", "TY018"),
        ("negative timeout", "timeout: -5m", "TY018"),
        ("overflowing timeout", "timeout: 9223372036854775807d", "TY018"),
    ] {
        add(what, format!("{value}\ntrain: x\n").into_bytes(), Some(code));
    }
    for (what, value, code) in [
        ("zero memory", "memory: 0Gi", "TY019"),
        ("negative memory", "memory: -1Gi", "TY019"),
        ("overflowing memory", "memory: 99999999999999999999Ti", "TY019"),
        ("zero cores", "cpu: 0", "TY017"),
        ("negative GPUs", "gpu: -1", "TY017"),
        ("cores without end", "cpu: .inf", "TY017"),
    ] {
        add(what, format!("train: {{commands: x, resources: {{{value}}}}}\n").into_bytes(), Some(code));
    }
    add(
        "a regular expression bomb",
        b"train: x\ndata: {name: d, path: p, schema: {c: {pattern: \"((a{99}){99}){99}\"}}}\n".to_vec(),
        Some("TY041"),
    );
    add(
        "a glob of a thousand braces",
        format!("train: x\nwhen: {{paths: \"{}\"}}\n", "{a,".repeat(1000)).into_bytes(),
        Some("TY025"),
    );
    add(
        "one line of 250 KiB with an error at its end",
        format!("train: [{}, 5]\n", vec!["x"; 19_000].join(", ")).into_bytes(),
        Some("TY015"),
    );
    add("a text of 250 KiB", format!("train: |\n  {}\n", "x".repeat(250_000)).into_bytes(), None);
    add(
        "quotes that never close",
        format!("train: \"{}", "\\\\".repeat(100_000)).into_bytes(),
        Some("TY003"),
    );
    out
}

/// S08. The inputs run in a process of their own (this test again), so that its memory is theirs.
#[test]
fn s08_bad_pipeline_files_cost_little_and_are_told_where() {
    const CHILD: &str = "TRAINYARD_TEST_S08_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return s08_in_a_process_of_its_own();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "pipeline::s08_bad_pipeline_files_cost_little_and_are_told_where",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find(|l| l.starts_with("SEC S08")).unwrap_or("SEC S08 cases=0 failed=1");
    println!("{figures}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(figures.contains("failed=0"), "{figures}");
}

fn s08_in_a_process_of_its_own() {
    // Tests are built without optimisation and share the machine: the time a case took of the processor counts.
    const MAX_MS: u128 = 100;
    const MAX_BYTES: u64 = 64 << 20;
    let inputs = bad_inputs();
    let (mut failed, mut slowest, mut largest) = (Vec::new(), (0, ""), (0, ""));
    for (name, bytes, code) in &inputs {
        // Peak memory starts anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory("VmRSS:");
        let start = processor_time_ms();
        let parsed = pipeline::parse(".trainyard.yaml", bytes);
        let ms = processor_time_ms() - start;
        let used = memory("VmHWM:").saturating_sub(before);
        if ms > slowest.0 {
            slowest = (ms, name);
        }
        if used > largest.0 {
            largest = (used, name);
        }
        let told = match (&parsed, code) {
            (Ok(_), None) => true,
            (Err(found), Some(code)) => {
                let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
                found.iter().any(|f| f.code == *code)
                    && found.len() <= 51
                    && found.iter().all(|f| f.line >= 1 && f.line <= lines && f.column >= 1)
            }
            _ => false,
        };
        if !told || ms > MAX_MS || used > MAX_BYTES {
            let found = parsed.err().map(|f| f.iter().take(3).map(Diagnostic::one_line).collect::<Vec<_>>());
            failed.push(format!("{name}: {ms} ms, {used} bytes, wanted {code:?}, found {found:?}"));
        }
    }
    println!(
        "\nSEC S08 cases={} failed={} slowest_ms={} ({}) largest_bytes={} ({})",
        inputs.len(),
        failed.len(),
        slowest.0,
        slowest.1,
        largest.0,
        largest.1
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn processor_time_ms() -> u128 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
    let ms = |t: nix::sys::time::TimeVal| t.tv_sec() as u128 * 1000 + t.tv_usec() as u128 / 1000;
    ms(usage.user_time()) + ms(usage.system_time())
}

/// Does a value satisfy the part of JSON Schema that our schema uses? An unknown keyword fails, so that nothing is
/// taken as checked that is not.
fn satisfies(
    schema: &serde_json::Value,
    root: &serde_json::Value,
    value: &serde_json::Value,
    path: &str,
) -> Result<(), String> {
    use serde_json::Value;
    let fail = |why: String| Err(format!("{path}: {why}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                satisfies(&root["$defs"][name], root, value, path)?;
            }
            "type" => {
                let types: Vec<&str> = rule.as_array().map_or_else(
                    || vec![rule.as_str().unwrap()],
                    |l| l.iter().map(|t| t.as_str().unwrap()).collect(),
                );
                let good = types.iter().any(|t| match *t {
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("type {other}"),
                });
                if !good {
                    return fail(format!("is no {types:?}"));
                }
            }
            "anyOf" => {
                let tries: Vec<_> =
                    rule.as_array().unwrap().iter().map(|s| satisfies(s, root, value, path)).collect();
                if !tries.iter().any(Result::is_ok) {
                    return fail(format!("fits none: {tries:?}"));
                }
            }
            "enum" if !rule.as_array().unwrap().contains(value) => return fail(format!("is none of {rule}")),
            "pattern" => {
                if let Value::String(text) = value
                    && !regex::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)
                {
                    return fail(format!("does not match {rule}"));
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    if value.is_object() && value.get(key.as_str().unwrap()).is_none() {
                        return fail(format!("has no {key}"));
                    }
                }
            }
            "properties" | "additionalProperties" => {
                let Value::Object(object) = value else { continue };
                for (key, inner) in object {
                    let path = format!("{path}.{key}");
                    match (schema.get("properties").and_then(|p| p.get(key)), &schema["additionalProperties"])
                    {
                        (Some(known), _) => satisfies(known, root, inner, &path)?,
                        (None, Value::Bool(false)) => return Err(format!("{path}: is not known")),
                        (None, other) => satisfies(other, root, inner, &path)?,
                    }
                }
            }
            "propertyNames" => {
                for key in value.as_object().into_iter().flatten().map(|(k, _)| k) {
                    satisfies(rule, root, &Value::String(key.clone()), path)?;
                }
            }
            "items" => {
                for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
                    satisfies(rule, root, inner, &format!("{path}[{i}]"))?;
                }
            }
            "minimum" if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) => {
                return fail("is too small".into());
            }
            "exclusiveMinimum" if value.as_f64().is_some_and(|v| v <= rule.as_f64().unwrap()) => {
                return fail("is too small".into());
            }
            "maximum" if value.as_f64().is_some_and(|v| v > rule.as_f64().unwrap()) => {
                return fail("is too large".into());
            }
            "minLength" if value.as_str().is_some_and(|v| (v.len() as u64) < rule.as_u64().unwrap()) => {
                return fail("is too short".into());
            }
            "$schema" | "$id" | "$defs" | "title" | "description" | "enum" | "minimum"
            | "exclusiveMinimum" | "maximum" | "minLength" => {}
            other => panic!("the schema uses {other}, which this test does not know"),
        }
    }
    Ok(())
}

#[test]
fn the_schema_takes_what_the_parser_takes() {
    let schema = pipeline::schema();
    for file in [
        "tests/data/pipelines/whole.yaml",
        "tests/data/pipelines/smallest.yaml",
        "examples/churn/.trainyard.yaml",
    ] {
        let value: serde_json::Value = serde_saphyr::from_str(&read(file)).unwrap();
        satisfies(&schema, &schema, &value, file).unwrap();
        plan(&read(file));
    }
}

#[test]
fn the_schema_refuses_wrong_keys_and_types() {
    let schema = pipeline::schema();
    let forms = ["TY010", "TY013", "TY014", "TY015", "TY016", "TY019", "TY022", "TY039"];
    let mut refused = 0;
    for (name, rows) in EXPECTED {
        let form = rows.iter().any(|(place, _, _)| forms[1..4].iter().any(|c| place.ends_with(c)));
        let text = read(&format!("tests/data/broken/{name}.yaml"));
        let Ok(value) = serde_saphyr::from_str::<serde_json::Value>(&text) else { continue };
        // What needs two places to judge is lint's alone.
        if form && !matches!(*name, "empty_steps" | "empty_commands" | "model_member_unsaid") {
            assert!(satisfies(&schema, &schema, &value, name).is_err(), "{name} passes the schema");
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused}");
}

/// The committed files are what the grammar says; `UPDATE_DOCS=1 cargo test` writes them.
#[test]
fn committed_schema_and_pages_are_current() {
    let schema = serde_json::to_string_pretty(&pipeline::schema()).unwrap() + "\n";
    let page = read_or_empty("docs/pipeline.md");
    let (begin, end) = ("<!-- keys: begin (trainyard schema --keys) -->\n", "\n<!-- keys: end -->");
    let tables = match (page.find(begin), page.find(end)) {
        (Some(from), Some(to)) => {
            format!("{}{}{}", &page[..from + begin.len()], pipeline::reference(), &page[to..])
        }
        _ => panic!("docs/pipeline.md has lost its markers"),
    };
    for (path, text) in [
        ("docs/trainyard.schema.json", schema),
        ("docs/pipeline-errors.md", pipeline::codes_page()),
        ("docs/pipeline.md", tables),
    ] {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(root().join(path), &text).unwrap();
        }
        assert!(
            read_or_empty(path) == text,
            "{path} is not what the grammar says: UPDATE_DOCS=1 cargo test --test it committed_schema"
        );
    }
}

fn read_or_empty(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Every example in the page about the file is valid.
#[test]
fn examples_of_the_page_are_valid() {
    let page = read("docs/pipeline.md");
    let mut count = 0;
    for block in page.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        plan(text);
        count += 1;
    }
    assert!(count >= 3);
}

#[test]
fn every_code_is_documented_once_and_shown_by_a_case() {
    let mut ids: Vec<&str> = pipeline::CODES.iter().map(|c| c.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    let shown: Vec<String> = EXPECTED
        .iter()
        .flat_map(|(_, rows)| rows.iter().map(|(place, _, _)| place.rsplit(' ').next().unwrap().to_owned()))
        .chain(bad_inputs().iter().filter_map(|(_, _, code)| code.map(str::to_owned)))
        .chain(["TY050", "TY051", "TY060"].map(str::to_owned))
        .collect();
    let silent: Vec<&&str> = ids.iter().filter(|id| !shown.iter().any(|s| s == **id)).collect();
    assert!(silent.is_empty(), "no case shows {silent:?}");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = ["tests/data/pipelines", "tests/data/broken"]
        .iter()
        .flat_map(|d| std::fs::read_dir(root().join(d)).unwrap())
        .map(|e| e.unwrap().path())
        .filter(|p: &PathBuf| Path::new(p).extension().is_some_and(|e| e == "yaml"))
        .map(|p| std::fs::read(p).unwrap())
        .collect();
    out.sort();
    out
}

/// Whatever was parsed holds what every reader of a plan relies on.
fn check_plan(plan: &Plan) {
    assert!(plan.steps.len() <= 256);
    for (i, step) in plan.steps.iter().enumerate() {
        // The steps `data` and `features` are done by trainyard's own binary.
        let ours = !step.data.is_empty() || !step.transforms.is_empty();
        assert!(ours || !step.commands.is_empty(), "{} does nothing", step.name);
        assert!(step.timeout_ms > 0 && plan.timeout_ms > 0);
        assert!(plan.steps[..i].iter().all(|s| s.name != step.name), "{} twice", step.name);
        for need in &step.needs {
            assert!(plan.steps[..i].iter().any(|s| s.name == need.step), "{} needs {}", step.name, need.step);
        }
        for (key, value) in &step.member {
            assert_eq!(step.env.get(&key.to_ascii_uppercase()), Some(value));
        }
    }
    let json = serde_json::to_string(plan).unwrap();
    assert_eq!(&serde_json::from_str::<Plan>(&json).unwrap(), plan);
}

fn survives(bytes: &[u8]) {
    match pipeline::parse("x.yaml", bytes) {
        Ok(checked) => check_plan(&checked.plan),
        Err(found) => {
            assert!(found.iter().any(|f| f.severity == pipeline::Severity::Error));
            for f in &found {
                let text = String::from_utf8_lossy(bytes);
                assert!(f.span.start <= f.span.end && f.span.end <= bytes.len());
                f.excerpt("x.yaml", &text);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        survives(&bytes);
    }

    #[test]
    fn any_yaml_like_text_is_survived(text in "([a-z]{1,5}|train|steps|name|matrix|needs|[\\[\\]{}:,&*!|>'\"#%@`?~-]|\\$\\{|\n| |\t|é|\u{feff}){0,80}") {
        survives(text.as_bytes());
    }

    #[test]
    fn any_damage_to_a_file_is_survived(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, prop::sample::select(vec!["", "\n", " ", ":", "- ", "[", "}", "*", "&a ", "\"", "0", "\u{1F600}", "${", "\t", "\0", "<<: ", "-1", "~"])), 1..6),
    ) {
        let all = seeds();
        let mut bytes = which.get(&all).clone();
        for (at, length, text) in cuts {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, text.bytes());
        }
        survives(&bytes);
    }

    /// Random graphs with matrices: every need is an earlier step, or the file is refused with a reason.
    #[test]
    fn expansion_resolves_every_need(
        steps in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0usize..4, any::<bool>(), any::<bool>()), 1..9),
    ) {
        let mut text = String::from("steps:\n");
        for (i, (needs, matrix, gather, explicit)) in steps.iter().enumerate() {
            text += &format!("  - name: s{i}\n    commands: [x]\n");
            if *explicit {
                let mut names: Vec<usize> = needs.iter().filter(|_| i > 0).map(|n| n.index(i)).collect();
                names.sort_unstable();
                names.dedup();
                let names: Vec<String> = names.iter().map(|n| format!("s{n}")).collect();
                text += &format!("    needs: [{}]\n", names.join(", "));
            }
            let matrix = ["", "{a: [1, 2]}", "{b: [x, y, z]}", "{a: [1, 2], b: [x, y, z]}"][*matrix];
            if !matrix.is_empty() {
                text += &format!("    matrix: {matrix}\n");
            }
            if *gather {
                text += "    gather: true\n";
            }
        }
        match pipeline::parse("x.yaml", text.as_bytes()) {
            Ok(checked) => {
                check_plan(&checked.plan);
                for i in 0..steps.len() {
                    let base = format!("s{i}");
                    prop_assert!(checked.plan.steps.iter().any(|s| s.base == base));
                }
            }
            Err(found) => {
                // Such graphs can only be too large.
                prop_assert!(found.iter().all(|f| matches!(f.code, "TY032" | "TY033")), "{}\n{:?}", text, found);
            }
        }
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
