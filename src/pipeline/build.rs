//! From a tree whose form is checked to a [`Plan`]: the parts of the file that are not steps, and the rules that
//! need more than one place to judge. Runs over files with errors too, to find more of them; what it makes then is
//! thrown away.

use std::collections::BTreeMap;

use super::check::nearest;
use super::diagnostic::{Findings, code, quoted};
use super::grammar::{EVENTS, EVENTS_DEFAULT, EVENTS_RUN};
use super::node::{Entry, Kind, Node, first_line};
use super::placeholder::{self, RUN_VARIABLES, Unresolved};
use super::steps::{self, Draft};
use super::{graph, text, values};
use crate::model::Goal;
use crate::model::plan::{
    Baseline, CommentMode, Concurrency, Gate, GateEvidence, MetricsSpec, Paths, Plan, PredictionMetric,
    Predictions, Reference, ReportSpec, SecretRef, When,
};

/// A run without `timeout` may take a day.
const DEFAULT_TIMEOUT_MS: i64 = 24 * 3_600_000;

/// What all of `build`, `steps` and `graph` need at hand.
pub(super) struct Builder<'f, 'a> {
    pub source: &'a str,
    pub findings: &'f mut Findings<'a>,
}

/// Said of `model:ALIAS` wherever a baseline is named.
pub(super) const MODEL_LATER: &str =
    "`model:` is checked, but this version has no registry: there is no baseline then";

pub(super) fn build<'a>(
    file: &str,
    source: &'a str,
    root: &Node,
    mut not_run: Vec<String>,
    findings: &mut Findings<'a>,
) -> Plan {
    let mut b = Builder { source, findings };
    b.version(root);
    b.ranges(root);
    let when = b.when(root, &mut not_run);
    let timeout_ms = root.get("timeout").and_then(duration).unwrap_or(DEFAULT_TIMEOUT_MS);
    let env = b.env(root, &[]);
    let secrets = b.secrets(root, &env);
    let drafts = steps::drafts(&mut b, root, timeout_ms, &env, &secrets);
    let metrics = b.metrics(root, &drafts);
    let concurrency = b.concurrency(root);
    b.later_sections(root, &drafts);
    Plan {
        name: root.get("name").and_then(Node::text).map_or_else(|| default_name(file), str::to_owned),
        file: file.to_owned(),
        when,
        concurrency,
        priority: root.get("priority").and_then(Node::text).map(str::to_owned),
        timeout_ms,
        steps: graph::expand(&mut b, root, &drafts),
        metrics,
        report: report(root),
        not_run,
    }
}

/// `.trainyard/eval.yaml` is `eval`, `.trainyard.yaml` is `default`.
pub(super) fn default_name(file: &str) -> String {
    let stem = file.rsplit('/').next().unwrap_or(file);
    let stem = stem.strip_suffix(".yaml").or_else(|| stem.strip_suffix(".yml")).unwrap_or(stem);
    let name: String = text::sanitised(stem).chars().take(63).collect();
    if name.is_empty() || name == "trainyard" { "default".to_owned() } else { name }
}

pub(super) fn duration(node: &Node) -> Option<i64> {
    values::duration_ms(node.text()?).ok()
}

pub(super) fn texts(node: Option<&Node>) -> Vec<String> {
    node.map(|n| n.items().iter().filter_map(|i| i.text()).map(str::to_owned).collect()).unwrap_or_default()
}

fn decimal(node: &Node) -> Option<f64> {
    values::decimal(node.text()?)
}

pub(super) fn flag(node: Option<&Node>) -> bool {
    node.and_then(Node::text).is_some_and(|t| t.eq_ignore_ascii_case("true"))
}

fn report(root: &Node) -> ReportSpec {
    let node = root.get("report");
    let comment = match node.and_then(|n| n.get("comment")).and_then(Node::text) {
        Some("none") => CommentMode::None,
        _ => CommentMode::Update,
    };
    ReportSpec { comment, plots: texts(node.and_then(|n| n.get("plots"))) }
}

/// The `max` of a mapping that is below its `min`.
pub(super) fn inverted(node: &Node) -> Option<&Node> {
    let bound = |n: &Node| n.text().and_then(|t| values::share(t).ok());
    let max = node.get("max")?;
    (bound(node.get("min")?)? > bound(max)?).then_some(max)
}

impl Builder<'_, '_> {
    pub fn add(&mut self, code: super::diagnostic::Code, node: &Node, message: String, help: Option<String>) {
        let at = first_line(self.source, &node.span);
        self.findings.add(code, &at, message, help);
    }

    fn version(&mut self, root: &Node) {
        if let Some(node) = root.get("version")
            && let Some(text) = node.text()
            && text != "1"
            && text.parse::<i64>().is_ok_and(|v| v > 0)
        {
            let message = format!("version {} of the pipeline file is not known", quoted(text));
            self.add(code::VERSION, node, message, Some("this trainyard reads `version: 1`".to_owned()));
        }
    }

    /// `min` above `max`, wherever both stand in one mapping.
    fn ranges(&mut self, node: &Node) {
        if let Some(max) = inverted(node) {
            let help = Some("swap them, or remove one".to_owned());
            self.add(code::GATE, max, "`max` is below `min`: nothing can be both".to_owned(), help);
        }
        match &node.kind {
            Kind::Map(entries) => entries.iter().for_each(|e| self.ranges(&e.value)),
            Kind::List(items) => items.iter().for_each(|n| self.ranges(n)),
            _ => {}
        }
    }

    fn when(&mut self, root: &Node, not_run: &mut Vec<String>) -> Vec<When> {
        let both = || EVENTS[..EVENTS_DEFAULT].iter().map(|e| (*e).to_owned()).collect::<Vec<_>>();
        let Some(node) = root.get("when") else {
            return vec![When { event: both(), ..When::default() }];
        };
        let entries = node.items();
        if entries.is_empty() && matches!(node.kind, Kind::List(_)) {
            let help =
                "remove `when` for the default: pull requests, and pushes to the default branch".to_owned();
            self.add(code::MISSING_KEY, node, "an empty `when` would never run".to_owned(), Some(help));
        }
        let mut out = Vec::new();
        for entry in entries {
            let cron = entry.get("cron");
            let mut event = texts(entry.get("event"));
            if event.is_empty() {
                if let Some(events) = entry.get("event").filter(|n| matches!(n.kind, Kind::List(_))) {
                    let help = "remove `event` for push and pull_request".to_owned();
                    self.add(
                        code::MISSING_KEY,
                        events,
                        "an empty `event` would never run".to_owned(),
                        Some(help),
                    );
                }
                event = if cron.is_some() { vec!["cron".to_owned()] } else { both() };
            }
            let is_cron = event.iter().any(|e| e == "cron");
            match cron {
                None if is_cron => {
                    let help = "add `cron: \"0 3 * * *\"`: minute, hour, day of month, month, day of week"
                        .to_owned();
                    self.add(code::CRON, entry, "`event: cron` needs `cron`".to_owned(), Some(help));
                }
                Some(node) if !is_cron => {
                    let message = "`cron` is read with `event: cron` only".to_owned();
                    self.add(
                        code::CRON,
                        node,
                        message,
                        Some("add `cron` to `event`, or remove the expression".to_owned()),
                    );
                }
                _ => {}
            }
            if let (Some(node), None) = (entry.get("timezone"), cron) {
                let message = "`timezone` is read with `cron` only".to_owned();
                self.add(code::CRON, node, message, Some("remove it".to_owned()));
            }
            let prefix = texts(entry.get("prefix"));
            let is_data = event.iter().any(|e| e == "data");
            if is_data && prefix.is_empty() {
                let help = "add `prefix: s3://bucket/raw/`: where new data is looked for".to_owned();
                self.add(code::DATA_EVENT, entry, "`event: data` needs `prefix`".to_owned(), Some(help));
            }
            if let (Some(node), false) = (entry.get("prefix"), is_data) {
                let help = "add `data` to `event`, or remove it".to_owned();
                self.add(
                    code::DATA_EVENT,
                    node,
                    "`prefix` is read with `event: data` only".to_owned(),
                    Some(help),
                );
            }
            for word in event.iter().filter(|e| EVENTS[EVENTS_RUN..].contains(&e.as_str())) {
                let label = format!("when.event.{word}");
                if !not_run.contains(&label) {
                    let at = entry.get("event").unwrap_or(entry);
                    self.add(
                        code::NOT_RUN_YET,
                        at,
                        format!("`event: {word}` is checked, but starts no runs in this version"),
                        None,
                    );
                    not_run.push(label);
                }
            }
            let paths = match entry.get("paths") {
                Some(node) if matches!(node.kind, Kind::Map(_)) => {
                    Paths { include: texts(node.get("include")), exclude: texts(node.get("exclude")) }
                }
                node => Paths { include: texts(node), exclude: Vec::new() },
            };
            out.push(When {
                event,
                branch: texts(entry.get("branch")),
                paths,
                cron: cron.and_then(Node::text).map(str::to_owned),
                timezone: entry.get("timezone").and_then(Node::text).map(str::to_owned),
                prefix,
            });
        }
        out
    }

    fn concurrency(&mut self, root: &Node) -> Option<Concurrency> {
        let node = root.get("concurrency")?;
        let group = node.get("group").unwrap_or(node);
        self.placeholders(group, &[], false);
        Some(Concurrency {
            group: group.text()?.to_owned(),
            cancel_in_progress: flag(node.get("cancel_in_progress")),
        })
    }

    /// The `env` of a pipeline or step. Values may name what the run knows and `known` (the matrix), never each
    /// other: so they cannot grow.
    pub fn env(&mut self, node: &Node, known: &[String]) -> BTreeMap<String, String> {
        let Some(env) = node.get("env") else { return BTreeMap::new() };
        let mut out = BTreeMap::new();
        for entry in env.entries() {
            self.placeholders(&entry.value, known, false);
            if let Some(value) = entry.value.text() {
                out.insert(entry.key.clone(), value.to_owned());
            }
        }
        out
    }

    pub fn secrets(&mut self, node: &Node, env: &BTreeMap<String, String>) -> Vec<SecretRef> {
        let Some(list) = node.get("secrets") else { return Vec::new() };
        let mut out: Vec<SecretRef> = Vec::new();
        for item in list.items() {
            let place = item.get("as").or_else(|| item.get("name")).unwrap_or(item);
            let Some(name) = item.get("name").unwrap_or(item).text() else { continue };
            let variable = place.text().unwrap_or(name);
            let taken = if env.contains_key(variable) {
                Some("`env`")
            } else {
                out.iter().any(|s| s.env == variable).then_some("another secret")
            };
            if let Some(by) = taken {
                let message = format!("the variable {} is also set by {by}", quoted(variable));
                self.add(
                    code::ENVIRONMENT,
                    place,
                    message,
                    Some("give it another name: `{name: ..., as: ...}`".to_owned()),
                );
            }
            out.push(SecretRef { name: name.to_owned(), env: variable.to_owned() });
        }
        out
    }

    /// Every `${NAME}` in a value must be known. Malformed ones were said by `check`.
    pub fn placeholders(&mut self, node: &Node, known: &[String], hash: bool) {
        match &node.kind {
            Kind::List(items) => items.iter().for_each(|n| self.placeholders(n, known, hash)),
            Kind::Map(entries) => entries.iter().for_each(|e| self.placeholders(&e.value, known, hash)),
            Kind::Null => {}
            Kind::Scalar { text, .. } => {
                let Ok(names) = placeholder::names(text) else { return };
                let mut told: Vec<&str> = Vec::new();
                for (name, at) in names {
                    if self.findings.is_full() || told.contains(&name) {
                        continue;
                    }
                    if RUN_VARIABLES.contains(&name)
                        || known.iter().any(|k| k == name)
                        || (hash && name.starts_with("hash:"))
                    {
                        continue;
                    }
                    told.push(name);
                    self.unknown_placeholder(node, name, &at, known);
                }
            }
        }
    }

    pub fn unknown_placeholder(
        &mut self,
        node: &Node,
        name: &str,
        at: &std::ops::Range<usize>,
        known: &[String],
    ) {
        let unknown = Unresolved::Unknown { name: name.to_owned(), at: at.clone() };
        let mut names: Vec<&str> =
            known.iter().map(String::as_str).chain(RUN_VARIABLES.iter().copied()).collect();
        names.dedup();
        let help = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `${{{near}}}`?"),
            None if name.starts_with("hash:") => "`${hash:FILE}` is known in a cache's key only".to_owned(),
            None => format!("known here: {}", names.join(", ")),
        };
        // The exact place when the text is written as it reads, else the value's.
        let start = node.span.start + at.start;
        let raw = self.source.get(node.span.clone()).unwrap_or_default();
        let quote = usize::from(raw.starts_with(['"', '\'']));
        let exact = start + quote..start + quote + at.len();
        let span = if self.source.get(exact.clone()) == Some(&*format!("${{{name}}}")) {
            exact
        } else {
            first_line(self.source, &node.span)
        };
        self.findings.add(code::PLACEHOLDER, &span, unknown.to_string(), Some(help));
    }

    fn metrics(&mut self, root: &Node, drafts: &[Draft<'_>]) -> MetricsSpec {
        let Some(node) = root.get("metrics") else { return MetricsSpec::default() };
        let benchmarks = benchmarks(node);
        let mut gates = Vec::new();
        for entry in node.get("gates").map(Node::entries).unwrap_or_default() {
            if let Some((step, _)) = entry.key.split_once(':')
                && !drafts.is_empty()
                && !drafts.iter().any(|d| d.name == step)
            {
                let help = steps::did_you_mean(step, drafts);
                let message = format!(
                    "{} is the metric of a step {}, which does not exist",
                    quoted(&entry.key),
                    quoted(step)
                );
                self.findings.add(code::UNKNOWN_STEP, &entry.key_span, message, Some(help));
            }
            let beats = self.beats(entry, &benchmarks);
            let tolerance =
                |key| entry.value.get(key).and_then(Node::text).and_then(|t| values::tolerance(t).ok());
            gates.push((
                entry.key.clone(),
                Gate {
                    goal: match entry.value.get("goal").and_then(Node::text) {
                        Some("max") => Some(Goal::Max),
                        Some("min") => Some(Goal::Min),
                        _ => None,
                    },
                    min: entry.value.get("min").and_then(decimal),
                    max: entry.value.get("max").and_then(decimal),
                    no_worse_than: tolerance("no_worse_than"),
                    improve_by: tolerance("improve_by"),
                    evidence: match entry.value.get("evidence").and_then(Node::text) {
                        Some("point") => Some(GateEvidence::Point),
                        Some("interval") => Some(GateEvidence::Interval),
                        _ => None,
                    },
                    beats,
                    warn_only: entry.value.get("on_fail").and_then(Node::text) == Some("warn"),
                },
            ));
        }
        for item in node.get("patterns").map(Node::items).unwrap_or_default() {
            let names = item.text().and_then(|text| regex::Regex::new(text).ok());
            if names.is_some_and(|r| r.capture_names().flatten().all(|name| name == "step")) {
                let message = "names no metric: it has no named group".to_owned();
                let help = "write a group such as `(?P<loss>\\S+)`, or groups `name` and `value`".to_owned();
                self.findings.add(code::PATTERN, &item.span, message, Some(help));
            }
        }
        let against = node.get("compare").and_then(|n| n.get("baseline"));
        let baseline = against.and_then(Node::text);
        if let (Some(at), Some(true)) = (against, baseline.map(|text| text.starts_with("model:"))) {
            self.add(code::NOT_RUN_YET, at, MODEL_LATER.to_owned(), None);
        }
        MetricsSpec {
            primary: node.get("primary").and_then(Node::text).map(str::to_owned),
            baseline: match baseline.and_then(|b| b.split_once(':')) {
                Some(("branch", name)) => Baseline::Branch(name.trim().to_owned()),
                Some(("model", name)) => Baseline::Model(name.trim().to_owned()),
                Some(("run", id)) => Baseline::Run(id.trim().to_owned()),
                _ => Baseline::MergeBase,
            },
            files: texts(node.get("files")),
            patterns: texts(node.get("patterns")),
            predictions: node.get("predictions").and_then(|n| self.predictions(n)),
            gates,
            benchmarks,
        }
    }

    /// The benchmarks that a gate names, with their values for its metric.
    fn beats(&mut self, gate: &Entry, benchmarks: &BTreeMap<String, Vec<Reference>>) -> Vec<Reference> {
        let bare = gate.key.split_once(':').map_or("", |(_, name)| name);
        let known = benchmarks.get(&gate.key).or_else(|| benchmarks.get(bare)).cloned().unwrap_or_default();
        let mut out = Vec::new();
        for item in gate.value.get("beats").map(Node::items).unwrap_or_default() {
            let Some(name) = item.text() else { continue };
            if let Some(found) = known.iter().find(|reference| reference.benchmark == name) {
                out.push(found.clone());
                continue;
            }
            let message = format!("no benchmark {} has a value for {}", quoted(name), quoted(&gate.key));
            let names: Vec<&str> = known.iter().map(|reference| reference.benchmark.as_str()).collect();
            let help = match names.as_slice() {
                [] => format!("add `benchmarks: {{{name}: {{{}: 0.9}}}}`", gate.key),
                some => format!("those that have: {}", some.join(", ")),
            };
            self.add(code::BENCHMARK, item, message, Some(help));
        }
        out
    }

    fn predictions(&mut self, node: &Node) -> Option<Predictions> {
        let text = |key| node.get(key).and_then(Node::text).map(str::to_owned);
        let words = texts(node.get("metrics"));
        let metrics: Vec<PredictionMetric> =
            PredictionMetric::ALL.into_iter().filter(|m| words.iter().any(|w| w == m.word())).collect();
        if let (None, Some(metric), Some(at)) =
            (node.get("score"), metrics.iter().find(|m| m.of_scores()), node.get("metrics"))
        {
            let message = format!("{} needs the column of scores", quoted(metric.word()));
            self.add(code::MISSING_KEY, at, message, Some("add `score: COLUMN`".to_owned()));
        }
        if let (Some(_), Some(at)) = (node.get("stratum"), node.get("cluster")) {
            let message = "`stratum` and `cluster` exclude each other".to_owned();
            let help = "keep `cluster` where examples are not independent".to_owned();
            self.add(code::EXCLUSIVE, at, message, Some(help));
        }
        Some(Predictions {
            path: text("path")?,
            id: text("id")?,
            label: text("label")?,
            score: text("score"),
            prediction: text("prediction"),
            metrics,
            slices: texts(node.get("slices")),
            stratum: text("stratum"),
            cluster: text("cluster"),
        })
    }

    /// References inside of the sections that are not run yet: wrong ones are wrong already.
    fn later_sections(&mut self, root: &Node, drafts: &[Draft<'_>]) {
        if let Some(from) = root.get("model").and_then(|m| m.get("from")) {
            let step = from.get("step").unwrap_or(from);
            let named = step.text().map(|name| (name, drafts.iter().find(|d| d.name == name)));
            match named {
                Some((name, None)) if !drafts.is_empty() => {
                    let help = steps::did_you_mean(name, drafts);
                    self.add(
                        code::UNKNOWN_STEP,
                        step,
                        format!("there is no step {}", quoted(name)),
                        Some(help),
                    );
                }
                Some((name, Some(draft)))
                    if !draft.matrix.is_empty()
                        && from.get("pick").is_none()
                        && from.get("member").is_none() =>
                {
                    let message = format!("{} has a matrix: `from` must say which member", quoted(name));
                    let help = format!("write `from: {{step: {name}, pick: best}}`");
                    self.add(code::MISSING_KEY, from, message, Some(help));
                }
                _ => {}
            }
        }
        for (section, key) in [("data", "name"), ("features", "name"), ("deploy", "environment")] {
            let mut seen: Vec<&str> = Vec::new();
            for item in root.get(section).map(Node::items).unwrap_or_default() {
                let Some(node) = item.get(key) else { continue };
                let Some(name) = node.text() else { continue };
                if seen.contains(&name) {
                    let message = format!("{} stands twice in `{section}`", quoted(name));
                    self.add(code::SAME_NAME, node, message, Some("rename one of them".to_owned()));
                }
                seen.push(name);
            }
        }
        for item in root.get("deploy").map(Node::items).unwrap_or_default() {
            if let Some(target) = item.get("target")
                && target.get("kind").and_then(Node::text) == Some("gateway")
                && target.get("gateway").is_none()
            {
                let help = "add `gateway: NAME`, the Gateway that routes the traffic".to_owned();
                self.add(code::MISSING_KEY, target, "`kind: gateway` needs `gateway`".to_owned(), Some(help));
            }
        }
    }
}

/// Reference scores by metric.
fn benchmarks(metrics: &Node) -> BTreeMap<String, Vec<Reference>> {
    let mut out: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for benchmark in metrics.get("benchmarks").map(Node::entries).unwrap_or_default() {
        for score in benchmark.value.entries() {
            let Some(value) = decimal(&score.value) else { continue };
            let reference = Reference { benchmark: benchmark.key.clone(), value };
            out.entry(score.key.clone()).or_default().push(reference);
        }
    }
    out
}
