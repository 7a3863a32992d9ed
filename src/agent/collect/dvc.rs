//! `dvc.yaml`: which files hold metrics and plots, at the top and of each stage. The files themselves are read as any other.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::super::paths;

const MAX: u64 = 1 << 20;
const MAX_NAMED: usize = 500;

/// The files that `dvc.yaml` and `dvclive/dvc.yaml` below `root` name. A file that cannot be read names none: `dvc` itself says
/// what is wrong with it.
pub fn named(root: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for dir in ["", "dvclive"] {
        let Ok(bytes) = paths::read_plain(&root.join(dir).join("dvc.yaml"), MAX) else { continue };
        let Ok(file) = serde_saphyr::from_slice::<Value>(&bytes) else { continue };
        section(&file, dir, &mut all);
        for stage in file.get("stages").and_then(Value::as_object).into_iter().flat_map(|s| s.values()) {
            let inside = stage.get("wdir").and_then(Value::as_str).unwrap_or("");
            section(stage, &joined(dir, inside), &mut all);
        }
    }
    all
}

fn section(of: &Value, dir: &str, all: &mut BTreeSet<String>) {
    for key in ["metrics", "plots", "params"] {
        let Some(list) = of.get(key) else { continue };
        let mut take = |path: &str| {
            // A parameter's own name has no ending; templates are DVC's to fill.
            if all.len() < MAX_NAMED
                && path.rsplit('/').next().is_some_and(|name| name.contains('.'))
                && !path.contains("${")
                && let Ok(path) = paths::relative(&joined(dir, path))
            {
                let is_params = [".yaml", ".yml", ".toml", ".py"].iter().any(|e| path.ends_with(e));
                if key != "params" || !is_params {
                    all.insert(path);
                }
            }
        };
        match list {
            Value::Array(entries) => {
                for entry in entries {
                    match entry {
                        Value::String(path) => take(path),
                        Value::Object(map) => map.keys().for_each(|path| take(path)),
                        _ => {}
                    }
                }
            }
            Value::Object(map) => map.keys().for_each(|path| take(path)),
            _ => {}
        }
    }
}

fn joined(dir: &str, path: &str) -> String {
    if dir.is_empty() { path.to_owned() } else { format!("{dir}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_forms_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = "metrics: [eval/live.json]\nplots:\n  - out/loss.csv: {x: step, y: loss}\n  - plain.tsv\nstages:\n  train:\n    cmd: x\n    \
                    wdir: sub\n    metrics:\n      - scores.json: {cache: false}\n      - ../../etc/passwd.json\n  each: {foreach: [1], do: {metrics: [a.json]}}\n";
        std::fs::write(dir.path().join("dvc.yaml"), text).unwrap();
        let found: Vec<String> = named(dir.path()).into_iter().collect();
        assert_eq!(found, ["eval/live.json", "out/loss.csv", "plain.tsv", "sub/scores.json"]);
        std::fs::write(dir.path().join("dvc.yaml"), "[[[").unwrap();
        assert!(named(dir.path()).is_empty());
    }
}
