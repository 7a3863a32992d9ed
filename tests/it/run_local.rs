//! `trainyard run`: the steps of the working tree with no daemon.

use std::path::Path;
use std::process::{Command, Output};

use crate::agent::daemon::processes_with;

fn run(tree: &Path, args: &[&str]) -> Output {
    run_with(tree, args, &[])
}

fn run_with(tree: &Path, args: &[&str], env: &[(&str, &Path)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .arg("run")
        .args(args)
        .current_dir(tree)
        .env("API_KEY", "hunter2!hunter2")
        .env("LEAK", "not for steps")
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn steps_run_in_graph_order_with_metrics_artifacts_and_masking() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(
        tree.path().join(".trainyard.yaml"),
        r#"version: 1
name: local
secrets: [API_KEY]
steps:
  - name: train
    matrix: {seed: [1, 2]}
    env: {WHERE: "out-${SEED}"}
    commands:
      - echo "seed $SEED where $WHERE key $API_KEY leak=[$LEAK]"
      - mkdir -p out && echo "weights $SEED" > out/model.bin
      - 'for i in 1 2 3; do echo "{\"step\": $i, \"loss\": 0.$i}" >> log.jsonl; done'
      - echo "accuracy=0.9$SEED" >> $TRAINYARD_OUTPUT
    artifacts: ["out/**"]
  - name: eval
    needs: [{step: train, as: "seeds/${SEED}"}]
    gather: true
    commands: ["cat seeds/1/out/model.bin seeds/2/out/model.bin"]
  - {name: bad, needs: [], commands: ["(sleep 83311177 &); exit 3"]}
  - {name: after, needs: [bad], commands: ["echo never"]}
"#,
    )
    .unwrap();
    let out = run(tree.path(), &["eval"]);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("seed 2 where out-2 key *** leak=[]\n"), "{stdout}");
    assert!(!stdout.contains("hunter2"));
    assert!(stdout.contains("weights 1\nweights 2\n"), "{stdout}");
    let table: Vec<Vec<&str>> =
        stdout.lines().rev().take(5).map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(table[0], ["train", "(seed=2)", "loss", "0.3", "3"], "{stdout}");
    assert!(stderr.contains("(3 of 3)"), "{stderr}");

    let out = run(tree.path(), &[]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("step after is skipped, since bad did not succeed"),
        "{}",
        text(&out.stderr)
    );
    assert!(processes_with("sleep 83311177").is_empty());

    let out = run(tree.path(), &["trian"]);
    assert!(text(&out.stderr).contains("there is no step \"trian\"; there are: after, bad, eval, train"));
    std::fs::write(tree.path().join(".trainyard.yaml"), "version: 1\nstesp: []\n").unwrap();
    let out = run(tree.path(), &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("steps"), "{}", text(&out.stderr));
}

/// A root with nothing but a shell, imported as an image: what a step sees in it can come from nowhere else.
fn image(dir: &Path, settings: &Path) -> String {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for tool in ["sh", "cat", "echo", "mkdir"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    std::fs::write(root.join("only-in-the-image"), "image\n").unwrap();
    let name = format!("localhost/trainyard-test:{}", std::process::id());
    let tar = dir.join("root.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
    assert!(packed.success());
    let podman = Command::new("podman")
        .arg("import")
        .args([&tar, Path::new(&name)])
        .env("CONTAINERS_CONF", settings)
        .env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"))
        .output()
        .unwrap();
    assert!(podman.status.success(), "{}", text(&podman.stderr));
    name
}

#[test]
fn a_step_with_an_image_runs_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, storage) = (dir.path().join("containers.conf"), dir.path().join("storage.conf"));
    // Works on old control groups and without a network, as a machine for tests may be.
    std::fs::write(
        &settings,
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nnetns = \"none\"\n\
         [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n",
    )
    .unwrap();
    std::fs::write(
        &storage,
        format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"{0}/run\"\ngraphroot = \"{0}/store\"\n",
            dir.path().display()
        ),
    )
    .unwrap();
    let image = image(dir.path(), &settings);
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(
        tree.join(".trainyard.yaml"),
        format!(
            r#"version: 1
name: contained
secrets: [API_KEY]
defaults: {{image: "{image}"}}
steps:
  - name: train
    commands:
      - cat /only-in-the-image
      - echo "key $API_KEY leak=[$LEAK]"
      - mkdir -p out && echo weights > out/model.bin
      - echo "accuracy=0.75" >> $TRAINYARD_OUTPUT
    artifacts: ["out/**"]
  - {{name: eval, commands: ["cat out/model.bin; exit 4"]}}
"#
        ),
    )
    .unwrap();
    let env = [("CONTAINERS_CONF", settings.as_path()), ("CONTAINERS_STORAGE_CONF", storage.as_path())];
    let out = run_with(&tree, &["train"], &env);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{stdout}\n{stderr}");
    assert!(!stderr.contains("is ignored"), "{stderr}");
    assert!(stdout.contains("image\n"), "{stdout}");
    assert!(stdout.contains("key *** leak=[]\n"), "{stdout}");
    assert!(stdout.contains("0.75"), "{stdout}");

    let out = run_with(&tree, &[], &env);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("weights\n"), "{}", text(&out.stdout));
}

#[test]
fn gates_that_need_no_baseline_are_judged() {
    let tree = tempfile::tempdir().unwrap();
    let pipeline = |gates: &str| {
        let text = format!(
            "version: 1\nname: local\nsteps:\n  - name: train\n    commands:\n      - |\n        echo '{{\"accuracy\": 0.5, \"loss\": NaN}}' > metrics.json\n      \
             - test -n \"$MLFLOW_TRACKING_URI\" && echo 'epoch 2 auc=0.75'\n  - {{name: later, commands: [echo later]}}\nmetrics:\n  \
             patterns: 'epoch (?P<step>\\d+) auc=(?P<auc>\\S+)'\n  gates: {gates}\n"
        );
        std::fs::write(tree.path().join(".trainyard.yaml"), text).unwrap();
    };
    let cases = [
        ("{accuracy: {min: 0.9}}", &[][..], 1, "gate accuracy: fail (0.5; ≥ 0.9)"),
        ("{accuracy: {min: 0.4}, auc: {min: 0.7}}", &[], 0, "gate auc: pass (0.75; ≥ 0.7)"),
        ("{accuracy: {min: 0.9, on_fail: warn}}", &[], 0, "gate accuracy: fail (0.5; ≥ 0.9, warns only)"),
        ("{accuracy: {no_worse_than: 1%}}", &[], 0, "gate accuracy: inconclusive (0.5; at most 1% worse)"),
        ("{loss: {max: 1}}", &[], 1, "loss is not a finite number"),
        ("{absent: {max: 1}}", &[], 1, "gate absent: fail (not reported; ≤ 1)"),
        ("{absent: {max: 1}}", &["train"], 0, "1 more of other steps"),
    ];
    for (gates, args, code, words) in cases {
        pipeline(gates);
        let out = run(tree.path(), args);
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "{gates}: {stdout}\n{stderr}");
        assert!(stdout.contains(words), "{gates}: {stdout}");
        assert!(stderr.contains("metrics.json (json): 2 points"), "{stderr}");
        std::fs::remove_file(tree.path().join("metrics.json")).unwrap();
    }
}

/// `age` is spread evenly over 100 years, and shifted by `by`; `plan` is one of two words, and now and then a third.
fn table(rows: usize, by: usize, third: bool) -> String {
    let line = |i: usize| {
        let plan = if third && i.is_multiple_of(10) { "secret-plan" } else { ["free", "paid"][i % 2] };
        format!("{i},{},{plan}\n", (i * 37) % 100 + by)
    };
    std::iter::once("id,age,plan\n".to_owned()).chain((0..rows).map(line)).collect()
}

#[test]
fn data_is_checked_before_anything_trains() {
    let tree = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(tree.path().join(name), text).unwrap();
    write(
        ".trainyard.yaml",
        "name: d\ndata:\n  - name: people\n    path: people.csv\n    rows: {min: 100}\n    schema: {id: {type: int, unique: true}, \
         age: {min: 0, max: 200}}\n    drift: {against: \"file:base.csv\"}\ntrain: \"echo trained\"\n",
    );
    write("base.csv", &table(5_000, 0, false));
    write("people.csv", &table(5_000, 0, false));
    let out = run(tree.path(), &[]);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("people: 5000 rows, 3 columns, against the file base.csv"), "{stdout}");
    assert!(stdout.contains("0 of 2 compared columns drifted") && stdout.contains("trained\n"), "{stdout}");

    // Shifted, and with a word that nobody has seen: said by column, count and share, and never by its value.
    write("people.csv", &table(5_000, 20, true));
    let out = run(tree.path(), &[]);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert_eq!(out.status.code(), Some(1), "{stdout}\n{stderr}");
    assert!(stdout.contains("fail [drift] age: moved by"), "{stdout}");
    assert!(stdout.contains("fail [unseen_category] plan:"), "{stdout}");
    assert!(stderr.contains("step data: failed, people: "), "{stderr}");
    assert!(stderr.contains("step train is skipped, since data did not succeed"), "{stderr}");
    assert!(!stdout.contains("secret-plan") && !stderr.contains("secret-plan"), "{stdout}\n{stderr}");
    assert!(!stdout.contains("trained\n"), "{stdout}");

    // What cannot be read never passes.
    for bad in ["", "id,age,plan\n", "id,age\n1\n2,3,4\n", "PAR1 no parquet PAR1"] {
        write("people.csv", bad);
        let out = run(tree.path(), &[]);
        assert_eq!(out.status.code(), Some(1), "{bad:?}: {}\n{}", text(&out.stdout), text(&out.stderr));
        assert!(text(&out.stderr).contains("step train is skipped"), "{bad:?}: {}", text(&out.stderr));
    }
}

#[test]
fn a_plan_needs_no_event_file() {
    let tree = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(tree.path()).args(["-c", "user.name=a", "-c", "user.email=a@b.c"]).args(args);
        assert!(git.output().unwrap().status.success(), "{args:?}");
    };
    let plan = || {
        let mut plan = Command::new(env!("CARGO_BIN_EXE_trainyard"));
        plan.arg("plan").current_dir(tree.path()).output().unwrap()
    };
    let out = plan();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("name an event's file with --event"), "{}", text(&out.stderr));
    std::fs::write(tree.path().join(".trainyard.yaml"), "name: churn\ntrain: python train.py\n").unwrap();
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "Train"]);
    let out = plan();
    let said = text(&out.stdout);
    assert!(out.status.success() && said.contains("run of `churn` at"), "{said}{}", text(&out.stderr));
    git(&["checkout", "-q", "-b", "topic"]);
    assert!(text(&plan().stdout).contains("`topic` is not the default branch `main`"));
}
