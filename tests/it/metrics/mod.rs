//! Metrics with no change to the user's code (issue's Show: every parameter, step metric and artifact read back): real trackers
//! from `PyPI` log in real attempts of the real daemon, and its API gives back what they logged.

#[allow(dead_code, reason = "shared with the tests of faults")]
#[path = "../../faults/daemon.rs"]
pub mod daemon;
mod hostile;
mod many;
#[allow(dead_code, reason = "shared with the tests of faults")]
#[path = "../../faults/yard.rs"]
mod yard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use trainyard::model::RunState;

use yard::{Yard, only_run, until};

/// The Python that has the trackers.
pub fn python() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/venv.sh");
    let made = Command::new(script).arg("metrics").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

fn script(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/metrics").join(name))
        .unwrap()
}

/// (metric, step) with the values that were said, in their order.
type Points = BTreeMap<(String, Option<i64>), Vec<String>>;

fn word(value: &Value) -> String {
    match value {
        Value::Number(n) => n.as_f64().unwrap().to_string(),
        Value::String(text) => text.trim_start_matches('+').to_owned(),
        other => panic!("{other} is no value"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_trackers_log_comes_back_through_the_api() {
    let python = python();
    let mut yard = Yard::new().await;
    yard.daemon.start().await;
    for name in ["log_mlflow.py", "log_files.py"] {
        std::fs::write(yard.tree.join(name), script(name)).unwrap();
    }
    // Files of an earlier training that were committed.
    std::fs::create_dir_all(yard.tree.join("old")).unwrap();
    std::fs::write(
        yard.tree.join("old/trainer_state.json"),
        "{\"log_history\": [{\"loss\": 9, \"step\": 9}]}",
    )
    .unwrap();
    let pipeline = format!(
        "version: 1\nname: trackers\nsteps:\n  - name: mlflow\n    env: {{WORD: plain}}\n    commands: ['{0} log_mlflow.py']\n    \
         artifacts: [said.json]\n  - name: files\n    needs: []\n    commands: ['{0} log_files.py']\n    artifacts: [said.json]\n    \
         reports: {{junit: report.xml}}\nmetrics:\n  patterns: ['epoch (?P<step>\\d+): auc=(?P<auc>\\S+)']\n  gates:\n    \
         accuracy: {{goal: max, min: 0.9}}\n    bad: {{goal: max, min: 0}}\n    absent: {{goal: max, min: 0}}\n",
        python.display()
    );
    let sha = yard.push("main", &pipeline).await;
    let store = yard.store().await;
    let view = until("the end of the run", 120, async || {
        only_run(&store).await.filter(|v| v.run.state.is_terminal())
    })
    .await;
    let logs: String = {
        let mut all = String::new();
        for attempt in &view.attempts {
            for segment in store.log_segments(&attempt.uid, 0, 100).await.unwrap() {
                all += &String::from_utf8_lossy(&yard.daemon.blob(&segment.blob_key));
            }
        }
        all
    };
    assert_eq!(view.run.state, RunState::Succeeded, "{}: {logs}", view.run.reason);

    let run = view.run.id.clone();
    let api = async |path: &str| yard.daemon.api(&format!("/api/v1/runs/{run}/{path}")).await;
    let metrics = api("metrics").await;
    let params = api("params").await;
    let sources = api("metric-sources").await;
    let mut figures = Vec::new();
    for (position, step) in ["mlflow", "files"].iter().enumerate() {
        let uid = &view.attempts.iter().find(|a| a.step_id == view.steps[position].id).unwrap().uid;
        let download = async |path: &str| {
            let path = path.replace('%', "%25").replace(' ', "%20").replace('ü', "%C3%BC");
            yard.daemon.bytes(&format!("/api/v1/attempts/{uid}/artifact?path={path}")).await
        };
        let said: Value = serde_json::from_slice(&download("said.json").await).unwrap();

        let mut expected = Points::new();
        for entry in said["metrics"].as_array().unwrap() {
            let key = (entry[0].as_str().unwrap().to_owned(), entry[2].as_i64());
            expected.entry(key).or_default().push(word(&entry[1]));
        }
        let mut got = Points::new();
        for point in metrics["points"].as_array().unwrap().iter().filter(|p| p["step_name"] == *step) {
            let key = (point["name"].as_str().unwrap().to_owned(), point["training_step"].as_i64());
            got.entry(key).or_default().push(word(&point["value"]));
        }
        let lacking: Vec<_> = expected.iter().filter(|(k, v)| got.get(k) != Some(v)).take(20).collect();
        let surplus: Vec<_> = got.iter().filter(|(k, _)| !expected.contains_key(k)).take(20).collect();
        assert!(lacking.is_empty(), "{step} lacks {lacking:?}; it has {surplus:?} beyond, from {sources}");
        assert!(surplus.is_empty(), "{step} has {surplus:?} beyond what was said");

        let of_step: BTreeMap<&str, &str> = params
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| p["step_name"] == *step)
            .map(|p| (p["name"].as_str().unwrap(), p["value"].as_str().unwrap()))
            .collect();
        let wanted: BTreeMap<&str, &str> = said["params"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str().unwrap()))
            .collect();
        assert_eq!(of_step, wanted);

        for (path, text) in said["artifacts"].as_object().unwrap() {
            assert_eq!(String::from_utf8(download(path).await).unwrap(), text.as_str().unwrap(), "{path}");
        }
        let count = expected.values().map(Vec::len).sum::<usize>();
        let artifacts = said["artifacts"].as_object().unwrap().len();
        let versions = said.get("versions").map_or_else(
            || format!("mlflow-skinny={}", said["version"].as_str().unwrap()),
            |v| format!("versions={v}").replace('"', ""),
        );
        let counts = said.get("counts").map_or(String::new(), |c| format!(" by_source={c}").replace('"', ""));
        figures.push(format!(
            "FIGURE trackers step={step} metrics={count} params={} artifacts={artifacts} lost=0 changed=0 {versions}{counts}",
            wanted.len(),
        ));
    }
    for figure in &figures {
        println!("{figure}");
    }

    // What was passed over is listed, with the reason.
    let list = sources["sources"].as_array().unwrap();
    let old =
        list.iter().find(|s| s["place"] == "old/trainer_state.json" && s["step_name"] == "files").unwrap();
    assert_eq!(
        (old["used"].as_bool(), old["note"].as_str()),
        (Some(false), Some("it was there before the commands ran"))
    );
    let junit = list.iter().find(|s| s["kind"] == "junit").unwrap();
    assert_eq!(junit["note"], "1 passed, 1 failed, 0 skipped in 0.8 s; t::b: assert 1 == 2");

    // A value that is no number fails its gate; the status says so in the end.
    let last =
        until("the final status", 60, async || yard.statuses(&sha).pop().filter(|s| s.state != "pending"))
            .await;
    assert_eq!(last.state, "failure", "{last:?}");
    let comparisons = api("comparisons").await;
    let reasons = comparisons.to_string();
    assert!(
        reasons.contains("bad is not a finite number") && reasons.contains("absent was not reported"),
        "{reasons}"
    );
    let page = String::from_utf8(yard.daemon.bytes(&format!("/runs/{run}")).await).unwrap();
    assert!(page.contains("Where the metrics came from") && page.contains("old/trainer_state.json"));
}
