//! Whatever the bytes: a plan that holds together, or findings.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use trainyard::model::plan::Plan;
use trainyard::pipeline;

use super::root;

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
