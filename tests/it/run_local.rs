//! `trainyard run`: the steps of the working tree with no daemon.

use std::process::Output;

use crate::agent::daemon::processes_with;

fn run(tree: &std::path::Path, args: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .arg("run")
        .args(args)
        .current_dir(tree)
        .env("API_KEY", "hunter2!hunter2")
        .env("LEAK", "not for steps")
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
