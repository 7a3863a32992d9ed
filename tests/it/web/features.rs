//! What a features step gets of the run that it is held against: the kept output of a good, trusted run, and nothing else.

use reqwest::Method;
use serde_json::{Value, json};
use trainyard::model::plan::{Baseline, FeatureDiff, Transform};
use trainyard::model::{EndClass, RunId, RunState, StepState};
use trainyard::store::runs::{NewRun, StepMove};

use super::Web;
use super::agent_api::{Agent, run_of};
use crate::store::fixture::{plan, sha};

const OUTPUT: &str = ".trainyard/features/encode.output.json";

fn checks(new: &mut NewRun, digit: char, diff: bool) {
    new.head_sha = sha(digit);
    new.plan = plan(&["features"]);
    new.plan.steps[0].transforms = vec![Transform {
        name: "encode".into(),
        command: "true".into(),
        sample: "s.csv".into(),
        checks: vec![],
        serve: None,
        time: None,
        rules: json!({}),
        diff: diff.then(FeatureDiff::default),
    }];
}

async fn end(web: &Web, run: &RunId, agent: &Agent<'_>, state: RunState) {
    let said = json!({ "class": EndClass::Succeeded, "exit_code": 0, "reason": "", "outputs": {}, "notes": [], "log_lost_bytes": 0 });
    assert_eq!(agent.call(Method::POST, "finish", said.to_string()).await.0, 204);
    let now = web.app.clock.now_ms();
    let mut change = web.place.change(run).await;
    change.steps = vec![StepMove {
        step: web.place.view(run).await.steps[0].id.clone(),
        to: StepState::Succeeded,
        reason: String::new(),
        outputs: None,
    }];
    change.to = Some((state, String::new()));
    web.place.store.apply(change, now).await.unwrap();
}

#[tokio::test]
async fn a_features_step_gets_the_output_of_a_good_trusted_run_alone() {
    let web = Web::start().await;
    // The baseline asked for no comparison itself: what its transform gave is kept all the same.
    let base = run_of(&web, |new| checks(new, '1', false)).await;
    let producer = Agent::start(&web, &base, 0).await;
    assert_eq!(producer.artifact(OUTPUT, b"kept").await, 204);
    assert_eq!(producer.artifact("model.bin", b"model").await, 204);
    end(&web, &base, &producer, RunState::Succeeded).await;
    let download = |path: &str| format!("artifact/{}?path={path}", producer.uid);

    let mut cases = 0;
    for (digit, trusted, diff) in [('2', true, true), ('3', false, true), ('4', true, false)] {
        let run = run_of(&web, |new| {
            checks(new, digit, diff);
            new.trusted = trusted;
            new.plan.metrics.baseline = Baseline::Run(base.to_string());
        });
        let run = run.await;
        let agent = Agent::start(&web, &run, 0).await;
        let (status, bytes) = agent.call(Method::GET, &download(OUTPUT), "").await;
        let bases = agent.spec["feature_bases"].clone();
        match (trusted, diff) {
            (true, true) => {
                let place = ".trainyard/baseline/encode.features.json";
                assert_eq!(bases["encode"]["output"], place, "{bases}");
                assert!(bases["encode"]["note"].as_str().unwrap().starts_with("run "), "{bases}");
                assert_eq!(agent.spec["inputs"][0]["place"], place);
                assert_eq!((status.as_u16(), bytes.as_slice()), (200, b"kept".as_slice()));
            }
            (false, _) => {
                assert_eq!(bases["encode"]["output"], Value::Null);
                let note = bases["encode"]["note"].as_str().unwrap();
                assert!(note.starts_with("no baseline: an untrusted run may not read"), "{note}");
                assert_eq!((agent.spec["inputs"].clone(), status.as_u16()), (json!([]), 404));
            }
            (true, false) => {
                assert_eq!((bases, status.as_u16()), (Value::Null, 404), "it asks for no comparison");
            }
        }
        // Other artifacts of that run are not for it, whoever it is.
        assert_eq!(agent.call(Method::GET, &download("model.bin"), "").await.0, 404);
        cases += 1;
    }

    // A run that did not end well, or is not trusted, is nobody's baseline.
    for (digit, state, trusted) in [('5', RunState::Failed, true), ('6', RunState::Succeeded, false)] {
        let base = run_of(&web, |new| {
            checks(new, digit, false);
            new.trusted = trusted;
        });
        let base = base.await;
        let producer = Agent::start(&web, &base, 0).await;
        assert_eq!(producer.artifact(OUTPUT, b"bad").await, 204);
        end(&web, &base, &producer, state).await;
        let run = run_of(&web, |new| {
            checks(new, 'a', true);
            new.generation = cases;
            new.plan.metrics.baseline = Baseline::Run(base.to_string());
        });
        let run = run.await;
        let agent = Agent::start(&web, &run, 0).await;
        assert_eq!(agent.spec["feature_bases"]["encode"]["output"], Value::Null, "{}", agent.spec);
        let path = format!("artifact/{}?path={OUTPUT}", producer.uid);
        assert_eq!(agent.call(Method::GET, &path, "").await.0, 404);
        cases += 1;
    }
    println!("FIGURE features.access cases={cases} failed=0");
}
