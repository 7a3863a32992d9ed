//! Steps as the file writes them, before matrices are expanded.

use std::collections::BTreeMap;
use std::ops::Range;

use super::build::{Builder, duration, flag, texts};
use super::check::nearest;
use super::diagnostic::{code, quoted};
use super::node::{Kind, Node, first_line};
use super::{text, values};
use crate::model::plan::{Cache, Retry, SecretRef, StepSpec};

/// One step of the file.
pub(super) struct Draft<'n> {
    pub name: String,
    /// Of its name, for messages about the step as a whole.
    pub at: Range<usize>,
    /// None for `train: COMMAND`.
    pub node: Option<&'n Node>,
    /// None: after the previous step.
    pub needs: Option<Vec<DraftNeed<'n>>>,
    pub gather: bool,
    /// Keys as written, with their values in order.
    pub matrix: Vec<(String, Vec<String>)>,
    /// Everything but name, member and needs.
    pub spec: StepSpec,
    /// Names of the variables that texts of this step may hold, beside the matrix.
    pub env_names: Vec<String>,
}

pub(super) struct DraftNeed<'n> {
    pub step: String,
    pub node: &'n Node,
    /// With its place.
    pub into: Option<(&'n str, &'n Node)>,
}

/// At most so many values of a matrix key, members of a step, and steps of a run.
pub(super) const MAX_MEMBERS: usize = 256;
const RESERVED: &[&str] = &["data", "features"];

pub(super) fn did_you_mean(name: &str, drafts: &[Draft<'_>]) -> String {
    match nearest(name, drafts.iter().map(|d| d.name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "the steps are {}",
            drafts.iter().take(20).map(|d| format!("`{}`", d.name)).collect::<Vec<_>>().join(", ")
        ),
    }
}

pub(super) fn drafts<'n>(
    b: &mut Builder<'_, '_>,
    root: &'n Node,
    run_timeout_ms: i64,
    env: &BTreeMap<String, String>,
    secrets: &[SecretRef],
) -> Vec<Draft<'n>> {
    let defaults = root.get("defaults");
    let base = base(b, defaults, run_timeout_ms, env, secrets);
    // First, so that a step without `needs` that would be the first of the file comes after it.
    let mut out: Vec<Draft<'n>> = super::data::draft(b, root, &base).into_iter().collect();
    out.extend(super::data::features(b, root, &base, !out.is_empty()));
    match (root.entry("train"), root.entry("steps")) {
        (Some(train), Some(steps)) => {
            let line = b.findings.line_of(train.key_span.start.min(steps.key_span.start));
            let second = if train.key_span.start > steps.key_span.start { train } else { steps };
            let help =
                format!("`train:` is short for one step called `train`; the other stands in line {line}");
            b.findings.add(
                code::EXCLUSIVE,
                &second.key_span,
                "`train` and `steps` exclude each other",
                Some(help),
            );
        }
        (Some(train), None) => {
            let node = Some(&*train.value).filter(|n| matches!(n.kind, Kind::Map(_)));
            let mut draft = draft(b, "train".to_owned(), train.key_span.clone(), node, &base, env);
            if node.is_none() {
                draft.spec.commands = commands(b, &train.value);
            }
            out.push(draft);
        }
        (None, Some(steps)) => {
            let items = steps.value.items();
            if items.is_empty() && matches!(steps.value.kind, Kind::List(_)) {
                let help = "add one: `- {name: train, commands: [python3 train.py]}`".to_owned();
                b.add(code::MISSING_KEY, &steps.value, "`steps` is empty".to_owned(), Some(help));
            }
            for node in items {
                let Some(name_node) = node.get("name") else { continue };
                let Some(name) = name_node.text() else { continue };
                if out.len() >= MAX_MEMBERS {
                    b.add(
                        code::TOO_MANY_STEPS,
                        name_node,
                        format!("more than {MAX_MEMBERS} steps"),
                        Some("split the pipeline into several files".to_owned()),
                    );
                    break;
                }
                check_name(b, name, name_node, &out);
                let at = first_line(b.source, &name_node.span);
                out.push(draft(b, name.to_owned(), at, Some(node), &base, env));
            }
        }
        (None, None) => {}
    }
    out
}

fn check_name(b: &mut Builder<'_, '_>, name: &str, node: &Node, before: &[Draft<'_>]) {
    if RESERVED.contains(&name) {
        let help = format!("it means the `{name}` section in `needs`; call the step something else");
        b.add(code::NAME, node, format!("the name {} is reserved", quoted(name)), Some(help));
        return;
    }
    let clean = text::sanitised(name);
    if let Some(other) = before.iter().find(|d| text::sanitised(&d.name) == clean) {
        let line = b.findings.line_of(other.at.start);
        let message = if other.name == name {
            format!("there is already a step {}", quoted(name))
        } else {
            format!("{} and {} are the same name in Kubernetes: `{clean}`", quoted(&other.name), quoted(name))
        };
        b.add(
            code::SAME_NAME,
            node,
            message,
            Some(format!("the other stands in line {line}; rename one of them")),
        );
    }
}

/// What every step begins with.
fn base(
    b: &mut Builder<'_, '_>,
    defaults: Option<&Node>,
    run_timeout_ms: i64,
    env: &BTreeMap<String, String>,
    secrets: &[SecretRef],
) -> StepSpec {
    let mut spec = StepSpec {
        env: env.clone(),
        secrets: secrets.to_vec(),
        timeout_ms: run_timeout_ms,
        ..StepSpec::named("")
    };
    if let Some(node) = defaults {
        let known: Vec<String> = env.keys().cloned().collect();
        for (key, hash) in [("image", false), ("cache", true)] {
            if let Some(value) = node.get(key) {
                b.placeholders(value, &known, hash);
            }
        }
        shared(b, node, &mut spec);
    }
    spec
}

/// The keys that `defaults` and a step have in common; those that are there replace what `spec` has.
fn shared(b: &mut Builder<'_, '_>, node: &Node, spec: &mut StepSpec) {
    let text = |key| node.get(key).and_then(Node::text).map(str::to_owned);
    if let Some(image) = text("image") {
        spec.image = Some(image);
    }
    if let Some(pool) = text("pool") {
        spec.pool = Some(pool);
    }
    if let Some(resources) = node.get("resources") {
        let r = &mut spec.resources;
        let size = |key| resources.get(key).and_then(Node::text).and_then(|t| values::size_bytes(t).ok());
        r.memory_bytes = size("memory").or(r.memory_bytes);
        r.shm_bytes = size("shm").or(r.shm_bytes);
        r.disk_bytes = size("disk").or(r.disk_bytes);
        r.cpu_milli =
            resources.get("cpu").and_then(Node::text).and_then(|t| values::cpu_milli(t).ok()).or(r.cpu_milli);
        r.gpu = resources.get("gpu").and_then(count).unwrap_or(r.gpu);
    }
    if let Some(gpu) = node.get("gpu") {
        if node.get("resources").and_then(|r| r.get("gpu")).is_some() {
            let message = "`gpu` and `resources.gpu` say the same thing".to_owned();
            b.add(code::EXCLUSIVE, gpu, message, Some("keep one of them".to_owned()));
        }
        spec.resources.gpu = count(gpu).unwrap_or(spec.resources.gpu);
    }
    if let Some(setup) = node.get("setup") {
        spec.setup = texts(Some(setup));
    }
    if let Some(cache) = node.get("cache") {
        let text = |n: &Node, key| n.get(key).and_then(Node::text).map(str::to_owned);
        spec.cache = cache
            .items()
            .iter()
            .filter_map(|c| Some(Cache { key: text(c, "key")?, path: text(c, "path")? }))
            .collect();
    }
    if let Some(reuse) = node.get("reuse") {
        spec.reuse.on = flag(Some(reuse));
    }
    if let Some(ms) = node.get("timeout").and_then(duration) {
        spec.timeout_ms = ms;
    }
    if let Some(retry) = node.get("retry") {
        let max = retry.get("max").unwrap_or(retry);
        spec.retry = Retry { max: count(max).unwrap_or(0), when: texts(retry.get("when")) };
    }
}

fn count(node: &Node) -> Option<u32> {
    node.text()?.parse().ok()
}

fn commands(b: &mut Builder<'_, '_>, node: &Node) -> Vec<String> {
    let out = texts(Some(node));
    if matches!(&node.kind, Kind::List(items) if items.is_empty()) {
        let help = "write at least one command, such as `python3 train.py`".to_owned();
        b.add(code::MISSING_KEY, node, "the list of commands is empty".to_owned(), Some(help));
    }
    out
}

fn draft<'n>(
    b: &mut Builder<'_, '_>,
    name: String,
    at: Range<usize>,
    node: Option<&'n Node>,
    base: &StepSpec,
    pipeline_env: &BTreeMap<String, String>,
) -> Draft<'n> {
    let mut spec = base.clone();
    let (mut matrix, mut needs, mut gather) = (Vec::new(), None, false);
    if let Some(node) = node {
        shared(b, node, &mut spec);
        if let Some(list) = node.get("commands") {
            spec.commands = commands(b, list);
        }
        spec.artifacts = texts(node.get("artifacts"));
        spec.reuse.inputs = texts(node.get("inputs"));
        spec.reuse.on |= !spec.reuse.inputs.is_empty() && node.get("reuse").is_none();
        spec.junit = node.get("reports").and_then(|r| r.get("junit")).and_then(Node::text).map(str::to_owned);
        spec.checkpoint =
            node.get("checkpoint").and_then(|c| c.get("path").unwrap_or(c).text()).map(str::to_owned);
        if let Some(workers) = node.get("distributed").and_then(|d| d.get("workers")).and_then(count) {
            spec.workers = workers;
        }
        matrix = read_matrix(b, node);
        needs = node.get("needs").map(|n| n.items().into_iter().filter_map(need).collect());
        gather = flag(node.get("gather"));
        // Values of `env` are checked in `graph`, where the inherited matrix keys are known.
        for entry in node.get("env").map(Node::entries).unwrap_or_default() {
            if let Some(value) = entry.value.text() {
                spec.env.insert(entry.key.clone(), value.to_owned());
            }
        }
        let mut all = b.secrets(node, &spec.env);
        spec.secrets.retain(|s| !all.iter().any(|own| own.env == s.env));
        spec.secrets.append(&mut all);
    }
    let env_names = spec.env.keys().chain(pipeline_env.keys()).cloned().collect();
    Draft { name, at, node, needs, gather, matrix, spec, env_names }
}

fn need(item: &Node) -> Option<DraftNeed<'_>> {
    let step = item.get("step").unwrap_or(item);
    let into = item.get("as").and_then(|n| Some((n.text()?, n)));
    Some(DraftNeed { step: step.text()?.to_owned(), node: step, into })
}

fn read_matrix(b: &mut Builder<'_, '_>, step: &Node) -> Vec<(String, Vec<String>)> {
    let Some(matrix) = step.get("matrix") else { return Vec::new() };
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    if matrix.entries().is_empty() && matches!(matrix.kind, Kind::Map(_)) {
        b.add(
            code::MATRIX,
            matrix,
            "`matrix` is empty".to_owned(),
            Some("add a key with a list of values, such as `seed: [1, 2, 3]`".to_owned()),
        );
    }
    let mut product = 1_usize;
    for entry in matrix.entries() {
        let Kind::List(items) = &entry.value.kind else { continue };
        let key = quoted(&entry.key);
        if items.is_empty() {
            b.add(
                code::MATRIX,
                &entry.value,
                format!("{key} has no values"),
                Some("add one, or remove the key".to_owned()),
            );
        }
        if let Some((other, _)) = out.iter().find(|(k, _)| k.eq_ignore_ascii_case(&entry.key)) {
            let message = format!("{key} and {} set the same variable", quoted(other));
            b.findings.add(code::MATRIX, &entry.key_span, message, Some("rename one of them".to_owned()));
        }
        let variable = entry.key.to_ascii_uppercase();
        if let Some(env) = step.get("env").and_then(|e| e.entry(&variable)) {
            let line = b.findings.line_of(env.key_span.start);
            let message = format!("{key} sets the variable `{variable}`, which `env` sets too");
            b.findings.add(
                code::ENVIRONMENT,
                &entry.key_span,
                message,
                Some(format!("remove it from `env` in line {line}")),
            );
        }
        let mut values: Vec<String> = Vec::new();
        for item in items {
            let Some(value) = item.text() else { continue };
            if value.is_empty() || value.len() > 128 || value.contains('\n') {
                let message = format!("a value of {key} must be one line of 1 to 128 bytes");
                b.add(code::MATRIX, item, message, Some("it becomes part of the step's name".to_owned()));
            } else if values.iter().any(|v| v == value) {
                b.add(
                    code::MATRIX,
                    item,
                    format!("{key} has the value {} twice", quoted(value)),
                    Some("remove one of them".to_owned()),
                );
            }
            // Beyond the limit the count alone matters.
            if values.len() <= MAX_MEMBERS {
                values.push(value.to_owned());
            }
        }
        product = product.saturating_mul(items.len().max(1));
        out.push((entry.key.clone(), values));
    }
    if product > MAX_MEMBERS {
        let entry = step.entry("matrix").map_or(0..0, |e| e.key_span.clone());
        let message = format!("the matrix has {product} members, at most {MAX_MEMBERS} are allowed");
        b.findings.add(
            code::MATRIX,
            &entry,
            message,
            Some("take values away, or spread them over several runs".to_owned()),
        );
        return Vec::new();
    }
    out
}
