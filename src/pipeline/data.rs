//! The `data` section as a step: the first of the run, named `data`, without a command of the user's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::build::{self, Builder, MODEL_LATER, flag};
use super::diagnostic::{code, quoted};
use super::node::{Entry, Node, first_line};
use super::steps::Draft;
use super::values;
use crate::model::data::{FEATURES_COMMAND, features_path, profile_path};
use crate::model::plan::{
    DataBaseline, DataSet, Endpoint, FeatureCheck, FeatureDiff, OnChange, Resources, Retry, Reuse, Serve,
    StepSpec, Transform,
};

/// None without the section. `base`: what every step begins with.
pub(super) fn draft<'n>(b: &mut Builder<'_, '_>, root: &'n Node, base: &StepSpec) -> Option<Draft<'n>> {
    let entry = root.entry("data")?;
    let sets: Vec<DataSet> = entry.value.items().into_iter().filter_map(|node| set(b, node)).collect();
    if sets.is_empty() {
        return None;
    }
    let spec = StepSpec {
        setup: Vec::new(),
        commands: Vec::new(),
        image: None,
        // Before a GPU is asked for.
        resources: Resources { gpu: 0, shm_bytes: None, ..base.resources.clone() },
        retry: Retry::default(),
        artifacts: sets.iter().map(|s| profile_path(&s.name)).collect(),
        cache: Vec::new(),
        reuse: Reuse::default(),
        data: sets,
        ..base.clone()
    };
    Some(Draft {
        name: "data".to_owned(),
        at: first_line(b.source, &entry.key_span),
        node: None,
        needs: Some(Vec::new()),
        gather: false,
        matrix: Vec::new(),
        spec,
        env_names: Vec::new(),
    })
}

/// The step `features`; None without the section. Its setup is that of every step: the transform needs what a training needs.
pub(super) fn features<'n>(
    b: &mut Builder<'_, '_>,
    root: &'n Node,
    base: &StepSpec,
    after_data: bool,
) -> Option<Draft<'n>> {
    let entry = root.entry("features")?;
    let transforms: Vec<Transform> =
        entry.value.items().into_iter().filter_map(|node| transform(b, node)).collect();
    if transforms.is_empty() {
        return None;
    }
    let kept = transforms.iter().map(|t| features_path(&t.name)).collect::<Vec<_>>();
    let spec = StepSpec {
        commands: vec![FEATURES_COMMAND.to_owned()],
        resources: Resources { gpu: 0, shm_bytes: None, ..base.resources.clone() },
        retry: Retry::default(),
        artifacts: base.artifacts.iter().cloned().chain(kept).collect(),
        reuse: Reuse::default(),
        transforms,
        ..base.clone()
    };
    Some(Draft {
        name: "features".to_owned(),
        at: first_line(b.source, &entry.key_span),
        node: None,
        needs: if after_data { None } else { Some(Vec::new()) },
        gather: false,
        matrix: Vec::new(),
        spec,
        env_names: Vec::new(),
    })
}

fn transform(b: &mut Builder<'_, '_>, node: &Node) -> Option<Transform> {
    let text = |key| node.get(key).and_then(Node::text).map(str::to_owned);
    let serve = node.get("serve").and_then(|serve| match serve.text() {
        Some(command) => Some(Serve::Command(command.to_owned())),
        None => endpoint(b, serve).map(Serve::Endpoint),
    });
    let words = super::build::texts(node.get("checks"));
    let asked = |c: &FeatureCheck| {
        if words.is_empty() {
            *c != FeatureCheck::ServeParity || serve.is_some()
        } else {
            words.iter().any(|w| w == c.word())
        }
    };
    let time = node.get("time").and_then(|n| {
        let column = |key| n.get(key).and_then(Node::text).map(str::to_owned);
        Some((column("feature")?, column("label")?))
    });
    Some(Transform {
        name: text("name")?,
        command: text("command")?,
        sample: text("sample")?,
        checks: FeatureCheck::ALL.into_iter().filter(asked).collect(),
        serve,
        time,
        rules: {
            let schema = node.get("schema").map(|s| ("schema".to_owned(), Value::Object(columns(s))));
            let rules: Map<String, Value> = schema.into_iter().collect();
            impossible(b, node, &rules);
            Value::Object(rules)
        },
        diff: node.get("diff").map(diff),
    })
}

fn endpoint(b: &mut Builder<'_, '_>, node: &Node) -> Option<Endpoint> {
    let text = |key| node.get(key).and_then(Node::text);
    let url = text("url")?;
    // A server elsewhere is not what this commit would serve.
    let local = url.strip_prefix("http://").is_some_and(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok_and(|p| p > 0));
        host.is_some_and(|(host, _)| matches!(host, "127.0.0.1" | "localhost" | "[::1]"))
    });
    if let (false, Some(at)) = (local, node.get("url")) {
        let message = format!("{} is no address on this machine with a port", quoted(url));
        b.add(code::ENDPOINT, at, message, Some("write `http://127.0.0.1:8080/features`".to_owned()));
    }
    Some(Endpoint {
        command: text("command")?.to_owned(),
        url: url.to_owned(),
        timeout_ms: text("timeout").and_then(|t| values::duration_ms(t).ok()).unwrap_or(60_000),
        batch: text("batch").and_then(|t| t.parse().ok()).unwrap_or(1),
    })
}

fn diff(node: &Node) -> FeatureDiff {
    let tolerance = node.get("tolerance").map(Node::entries).unwrap_or_default();
    let read = |entry: &Entry| Some((entry.key.clone(), values::tolerance(entry.value.text()?).ok()?));
    FeatureDiff {
        tolerance: tolerance.iter().filter_map(read).collect(),
        on_change: match node.get("on_change").and_then(Node::text) {
            Some("warn") => OnChange::Warn,
            Some("fail") => OnChange::Fail,
            _ => OnChange::Show,
        },
    }
}

fn columns(schema: &Node) -> Map<String, Value> {
    schema.entries().iter().map(|entry| (entry.key.clone(), column(&entry.value))).collect()
}

fn set(b: &mut Builder<'_, '_>, node: &Node) -> Option<DataSet> {
    let text = |key| node.get(key).and_then(Node::text);
    let (name, path) = (text("name")?, text("path")?);
    let schema = node.get("schema").map(columns).unwrap_or_default();
    let mut rules = Map::new();
    rules.insert("schema".into(), Value::Object(schema));
    if let Some(rows) = node.get("rows") {
        let count = |key| rows.get(key).and_then(Node::text).and_then(values::decimal);
        rules.insert("rows".into(), json!({"min": count("min"), "max": count("max")}));
    }
    let against = node.get("drift").and_then(|d| d.get("against"));
    let drift = match against.and_then(Node::text) {
        None => None,
        Some("baseline") => Some(DataBaseline::Run),
        Some(other) => match other.split_once(':') {
            Some(("file", path)) => Some(DataBaseline::File(path.trim().to_owned())),
            Some(("model", alias)) => {
                if let Some(at) = against {
                    b.add(code::NOT_RUN_YET, at, MODEL_LATER.to_owned(), None);
                }
                Some(DataBaseline::Model(alias.trim().to_owned()))
            }
            _ => {
                let message = format!("{} is nothing to compare data with", quoted(other));
                let help = "write `baseline` or `file:PATH`".to_owned();
                if let Some(at) = against {
                    b.add(code::UNKNOWN_WORD, at, message, Some(help));
                }
                None
            }
        },
    };
    let drift = match (node.get("drift").and_then(|d| d.get("compat")), drift) {
        (Some(_), Some(DataBaseline::File(path))) if !path.ends_with(".json") => {
            rules.insert("drift".into(), json!({"compat": "evidently", "reference": path}));
            None
        }
        (Some(at), drift) => {
            let message = "`compat` needs the raw values of a table".to_owned();
            let help = "write `against: file:PATH` with a table of the repository".to_owned();
            b.add(code::EXCLUSIVE, at, message, Some(help));
            drift
        }
        (None, drift) => drift,
    };
    impossible(b, node, &rules);
    Some(DataSet { name: name.to_owned(), path: path.to_owned(), rules: Value::Object(rules), drift })
}

/// Says of rules that cannot mean what they say; what they are made of has been checked before.
fn impossible(b: &mut Builder<'_, '_>, node: &Node, rules: &Map<String, Value>) {
    let Ok(rules) = serde_json::from_value::<trainyard_data::Rules>(Value::Object(rules.clone())) else {
        return;
    };
    let schema = node.get("schema");
    for fault in rules.faults() {
        let column = fault.column.as_ref().and_then(|c| schema.and_then(|s| s.get(c)));
        let at = column.or(node.get("rows")).unwrap_or(node);
        // That has been said of the numbers.
        if build::inverted(at).is_none() {
            let whose = fault.column.as_ref().map_or(String::new(), |c| format!("rules of {}: ", quoted(c)));
            let help = "change what contradicts, or remove it".to_owned();
            b.add(code::GATE, at, format!("{whose}{}", fault.what), Some(help));
        }
    }
}

/// One column's rules in the words of `trainyard-data`.
fn column(node: &Node) -> Value {
    let text = |key: &str| node.get(key).and_then(Node::text);
    let mut rule: BTreeMap<&str, Value> = BTreeMap::new();
    let kind = text("type");
    if let Some(kind) = kind {
        rule.insert("type", json!(kind));
    }
    for key in ["min", "max"] {
        // An integer stays one: a double does not hold all of them.
        if let Some(x) = text(key).filter(|t| values::decimal(t).is_some()) {
            rule.insert(key, scalar(x, None));
        }
    }
    if let Some(x) = text("mostly").and_then(values::decimal) {
        rule.insert("mostly", json!(x));
    }
    for key in ["unique", "optional", "label"] {
        if node.get(key).is_some() {
            rule.insert(key, json!(flag(node.get(key))));
        }
    }
    if let Some(nulls) = text("nulls") {
        rule.insert("nulls", json!(nulls));
    }
    if let Some(allowed) = node.get("one_of") {
        let allowed: Vec<Value> =
            allowed.items().into_iter().filter_map(Node::text).map(|t| scalar(t, kind)).collect();
        rule.insert("one_of", json!(allowed));
    }
    for key in ["regex", "pattern"] {
        if let Some(expression) = text(key) {
            rule.insert(key, json!(expression));
        }
    }
    if let Some(on_fail) = text("on_fail") {
        rule.insert("on_fail", json!(on_fail));
    }
    json!(rule)
}

/// A value as the column's declared type has it; without one, a number is a number.
fn scalar(text: &str, kind: Option<&str>) -> Value {
    match kind {
        Some("text" | "time" | "date" | "timestamp") => json!(text),
        Some("bool") => text.parse::<bool>().map_or(json!(text), |b| json!(b)),
        _ => match (text.parse::<i64>(), values::decimal(text)) {
            (Ok(n), _) => json!(n),
            (_, Some(x)) => json!(x),
            _ => json!(text),
        },
    }
}
