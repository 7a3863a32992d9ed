//! Walks a tree along the grammar and says everything that is wrong with its form: keys, types, words, and the small
//! languages inside of values. What needs more than one place to judge (needs, matrices, names) is `build`'s.

use std::ops::Range;

use super::diagnostic::{Code, Findings, code, quoted};
use super::grammar::{FOREIGN, PIPELINE, Section, Shape, Text};
use super::node::{Kind, Node, first_line, is_boolean, is_number, is_yaml_1_1_boolean};
use super::{placeholder, text, values};

/// Checks the whole file; returns the sections that are not run yet, as dotted paths in the order of the file.
pub(super) fn check<'a>(source: &'a str, root: &Node, findings: &mut Findings<'a>) -> Vec<String> {
    let mut checker = Checker { source, findings, path: Vec::new(), later: Vec::new(), inside_later: false };
    if matches!(root.kind, Kind::Map(_)) {
        checker.section(&PIPELINE, root, &(root.span.start..root.span.start));
    } else {
        let at = first_line(source, &root.span);
        let (message, help) = match &root.kind {
            Kind::Null => {
                ("the file is empty".to_owned(), "the smallest pipeline is `train: python3 train.py`")
            }
            _ => (
                format!("a pipeline is a mapping, found {}", root.describe()),
                "write `key: value` lines; the smallest pipeline is `train: python3 train.py`",
            ),
        };
        checker.findings.add(code::EMPTY, &at, message, Some(help.to_owned()));
    }
    checker.later
}

struct Checker<'f, 'a> {
    source: &'a str,
    findings: &'f mut Findings<'a>,
    /// Keys from the root, for the names of sections that are not run yet.
    path: Vec<&'static str>,
    later: Vec<String>,
    inside_later: bool,
}

impl Checker<'_, '_> {
    fn add(&mut self, code: Code, node: &Node, message: String, help: Option<String>) {
        let at = first_line(self.source, &node.span);
        self.findings.add(code, &at, message, help);
    }

    fn section(&mut self, section: &'static Section, node: &Node, at: &Range<usize>) {
        let mut meant: Vec<&str> = Vec::new();
        for entry in node.entries() {
            if self.findings.is_full() {
                return;
            }
            let Some(field) = section.fields.iter().find(|f| f.key == entry.key) else {
                let (hint, help) = suggest(section, &entry.key);
                meant.extend(hint);
                let message = format!("unknown key {} in {}", quoted(&entry.key), section.title);
                self.findings.add(code::UNKNOWN_KEY, &entry.key_span, message, Some(help));
                continue;
            };
            self.path.push(field.key);
            let begins_later = field.later && !self.inside_later;
            if begins_later {
                self.inside_later = true;
                let path = self.path.join(".");
                if !self.later.contains(&path) {
                    let message = format!("`{path}` is checked, but not run by this version");
                    self.findings.add(code::NOT_RUN_YET, &entry.key_span, message, None);
                    self.later.push(path);
                }
            }
            if matches!(entry.value.kind, Kind::Null) {
                let help = match field.shape {
                    Shape::List(_) | Shape::Many(_) => "give it a value; an empty list is `[]`",
                    Shape::Map(_) | Shape::Open(..) => "indent its keys below it, or remove it",
                    _ => "give it a value, or remove the key",
                };
                let message = format!("`{}` has no value", field.key);
                self.findings.add(code::WRONG_TYPE, &entry.key_span, message, Some(help.to_owned()));
            } else {
                self.shape(&field.shape, &entry.value, &format!("`{}`", field.key));
            }
            if begins_later {
                self.inside_later = false;
            }
            self.path.pop();
        }
        let at = if at.is_empty() { node.span.start..node.span.start } else { at.clone() };
        let at = first_line(self.source, &at);
        for field in section.fields.iter().filter(|f| f.required) {
            if node.entry(field.key).is_none() && !meant.contains(&field.key) {
                let message = format!("{} needs `{}`", section.title, field.key);
                self.findings.add(
                    code::MISSING_KEY,
                    &at,
                    message,
                    Some(format!("`{}`: {}", field.key, field.doc)),
                );
            }
        }
        let one_of = section.one_of;
        if !one_of.is_empty() && !one_of.iter().any(|k| node.entry(k).is_some() || meant.contains(k)) {
            let message = format!("{} needs {}", section.title, or(one_of));
            let help = if std::ptr::eq(section, &raw const PIPELINE) {
                "the smallest pipeline is `train: python3 train.py`".to_owned()
            } else {
                section
                    .fields
                    .iter()
                    .find(|f| f.key == one_of[0])
                    .map_or_else(String::new, |f| f.doc.to_owned())
            };
            self.findings.add(code::MISSING_KEY, &at, message, Some(help));
        }
    }

    fn shape(&mut self, shape: &'static Shape, node: &Node, what: &str) {
        match shape {
            Shape::Either(shapes) => match shapes.iter().find(|s| fits(s, node)) {
                Some(shape) => self.shape(shape, node, what),
                None => self.wrong(shape, node, what),
            },
            Shape::Many(item) => {
                if let Kind::List(items) = &node.kind {
                    self.items(item, items, what);
                } else {
                    self.shape(item, node, what);
                }
            }
            Shape::List(item) => match &node.kind {
                Kind::List(items) => self.items(item, items, what),
                _ => self.wrong(shape, node, what),
            },
            Shape::Map(section) => match node.kind {
                Kind::Map(_) => self.section(section, node, &node.span.clone()),
                _ => self.wrong(shape, node, what),
            },
            Shape::Open(keys, value) => match &node.kind {
                Kind::Map(entries) => {
                    for entry in entries {
                        self.text(*keys, &entry.key, &entry.key_span, "the key");
                        let name = quoted(&entry.key);
                        if matches!(entry.value.kind, Kind::Null) {
                            let help = if matches!(value, Shape::Value) {
                                "write \"\" for an empty text"
                            } else {
                                "give it a value"
                            };
                            let message = format!("{name} has no value");
                            self.findings.add(
                                code::WRONG_TYPE,
                                &entry.key_span,
                                message,
                                Some(help.to_owned()),
                            );
                        } else {
                            self.shape(value, &entry.value, &name);
                        }
                    }
                }
                _ => self.wrong(shape, node, what),
            },
            _ => match &node.kind {
                Kind::Scalar { text, plain } => self.scalar(shape, node, text, *plain, what),
                _ => self.wrong(shape, node, what),
            },
        }
    }

    fn items(&mut self, item: &'static Shape, items: &[std::rc::Rc<Node>], what: &str) {
        let what =
            if what.starts_with("an item of") { what.to_owned() } else { format!("an item of {what}") };
        for node in items {
            if matches!(node.kind, Kind::Null) {
                let message = format!("{what} has no value");
                let at = node.span.start.saturating_sub(1)..node.span.end;
                self.findings.add(
                    code::WRONG_TYPE,
                    &at,
                    message,
                    Some("write it, or remove the item".to_owned()),
                );
            } else {
                self.shape(item, node, &what);
            }
        }
    }

    fn wrong(&mut self, shape: &'static Shape, node: &Node, what: &str) {
        let message = format!("{what} must be {}, found {}", expected(shape), node.describe());
        let help = match (shape, &node.kind) {
            (Shape::List(Shape::Map(section)), Kind::Map(_))
                if section.fields.iter().any(|f| f.key == "name") =>
            {
                Some("write a list: `- name: ...` for each".to_owned())
            }
            (Shape::List(_), _) => {
                Some("write a list: `[a, b]`, or a line with `- ` for each item".to_owned())
            }
            (Shape::Map(section), _) => Some(format!("its keys are {}", keys(section))),
            (Shape::Text(_), Kind::Map(_)) => {
                Some("quote a text that holds `: ` or begins with `{`".to_owned())
            }
            (Shape::Text(_), Kind::List(_)) => Some("quote a text that begins with `[`".to_owned()),
            _ => None,
        };
        self.add(code::WRONG_TYPE, node, message, help);
    }

    fn scalar(&mut self, shape: &'static Shape, node: &Node, text: &str, plain: bool, what: &str) {
        let fail = |found: Result<(), String>| found.err();
        let (code, why) = match shape {
            Shape::Text(kind) => {
                self.text_scalar(*kind, node, text, plain, what);
                return;
            }
            Shape::Value => {
                self.warn_boolean(node, text, plain, what);
                self.text(Text::Any, text, &node.span, what);
                return;
            }
            Shape::Word(words) => {
                if !words.contains(&text) {
                    self.word(words, node, text, what);
                }
                return;
            }
            Shape::Bool => {
                self.boolean(node, text, plain, what);
                return;
            }
            Shape::Int { min, max } => (code::NUMBER, fail(integer(text, plain, *min, *max))),
            Shape::Number => (code::NUMBER, fail(number(text, plain))),
            Shape::Duration => (code::DURATION, fail(values::duration_ms(text).map(drop))),
            Shape::Size => (code::SIZE, fail(values::size_bytes(text).map(drop))),
            Shape::Cpu => (code::NUMBER, fail(values::cpu_milli(text).map(drop))),
            Shape::Tolerance => (code::TOLERANCE, fail(values::tolerance(text).map(drop))),
            Shape::Share => (code::TOLERANCE, fail(values::share(text).map(drop))),
            _ => {
                self.wrong(shape, node, what);
                return;
            }
        };
        if let Some(why) = why {
            let message = format!("{what} must be {}, found {}", expected(shape), quoted(text));
            self.add(code, node, message, Some(why));
        }
    }

    fn text_scalar(&mut self, kind: Text, node: &Node, text: &str, plain: bool, what: &str) {
        // Branches such as `1.10` are texts whatever they look like: nothing resolves them here.
        let resolves = plain && (is_boolean(text) || is_number(text));
        if resolves && kind != Text::Branch {
            let message = format!("{what} must be a text, found {}", node.describe());
            self.add(code::WRONG_TYPE, node, message, Some(format!("quote it: \"{text}\"")));
            return;
        }
        self.warn_boolean(node, text, plain, what);
        if text.trim().is_empty() {
            self.add(
                code::WRONG_TYPE,
                node,
                format!("{what} is empty"),
                Some("write it, or remove it".to_owned()),
            );
            return;
        }
        self.text(kind, text, &node.span.clone(), what);
    }

    /// Checks a text of a kind; placeholders stand for some text.
    fn text(&mut self, kind: Text, text: &str, span: &Range<usize>, what: &str) {
        let at = first_line(self.source, span);
        if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
            let message = format!("{what} holds the control character U+{:04X}", u32::from(c));
            self.findings.add(code::CONTROL_CHARACTER, &at, message, Some("remove it".to_owned()));
            return;
        }
        if text::replaces(kind)
            && let Err(error) = placeholder::names(text)
        {
            let help = "write `${NAME}`, or `${hash:FILE}` in a cache's key".to_owned();
            self.findings.add(code::PLACEHOLDER, &at, format!("in {what}, {error}"), Some(help));
            return;
        }
        if let Err(wrong) = text::check(kind, text) {
            self.findings.add(wrong.code, &at, format!("{what} {}", wrong.message), Some(wrong.help));
        }
    }

    fn warn_boolean(&mut self, node: &Node, text: &str, plain: bool, what: &str) {
        if plain && is_yaml_1_1_boolean(text) {
            let message = format!("{what} is the text {}, which YAML 1.1 reads as a boolean", quoted(text));
            self.add(code::WORD_LOOKS_BOOLEAN, node, message, Some(format!("quote it: \"{text}\"")));
        }
    }

    fn boolean(&mut self, node: &Node, text: &str, plain: bool, what: &str) {
        if is_boolean(text) && plain {
            return;
        }
        if is_yaml_1_1_boolean(text) {
            let value = ["y", "yes", "on"].iter().any(|w| text.eq_ignore_ascii_case(w));
            let message = format!("{what} must be true or false, found {}", quoted(text));
            let help = format!("write `{value}`: `yes`, `no`, `on` and `off` are booleans in YAML 1.1 only");
            self.add(code::YAML_1_1_BOOLEAN, node, message, Some(help));
        } else {
            let help = is_boolean(text).then(|| "remove the quotes".to_owned());
            let message = format!("{what} must be true or false, found {}", node.describe());
            self.add(code::WRONG_TYPE, node, message, help);
        }
    }

    fn word(&mut self, words: &[&'static str], node: &Node, text: &str, what: &str) {
        let help = match nearest(text, words.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("write {}", or(words)),
        };
        let message = format!("{what} cannot be {}", quoted(text));
        self.add(code::UNKNOWN_WORD, node, message, Some(help));
    }
}

fn integer(text: &str, plain: bool, min: i64, max: i64) -> Result<(), String> {
    if !plain && integer(text, true, min, max).is_ok() {
        return Err("remove the quotes".to_owned());
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let range = || if max == i64::MAX { format!("{min} or more") } else { format!("from {min} to {max}") };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("write digits only, {}", range()));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err("remove the leading zero: YAML 1.1 reads such a number as octal".to_owned());
    }
    match text.parse::<i64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(()),
        _ => Err(format!("write a number {}", range())),
    }
}

fn number(text: &str, plain: bool) -> Result<(), String> {
    if !plain && values::decimal(text).is_some() {
        return Err("remove the quotes".to_owned());
    }
    values::decimal(text).map(drop).ok_or_else(|| {
        if text.ends_with('%') {
            "write it as a plain number: metrics have no unit here".to_owned()
        } else {
            "write a finite number such as `0.8` or `1e-3`".to_owned()
        }
    })
}

/// Could this shape be meant by a value of this form?
fn fits(shape: &Shape, node: &Node) -> bool {
    match shape {
        Shape::Either(shapes) => shapes.iter().any(|s| fits(s, node)),
        Shape::Many(item) => matches!(node.kind, Kind::List(_)) || fits(item, node),
        Shape::List(_) => matches!(node.kind, Kind::List(_)),
        Shape::Map(_) | Shape::Open(..) => matches!(node.kind, Kind::Map(_)),
        _ => matches!(node.kind, Kind::Scalar { .. }),
    }
}

/// What a message says should stand there.
fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Text(_) => "a text".to_owned(),
        Shape::Value => "a text, number or boolean".to_owned(),
        Shape::Bool => "true or false".to_owned(),
        Shape::Int { .. } => "a whole number".to_owned(),
        Shape::Number => "a number".to_owned(),
        Shape::Duration => "a duration such as `10m`".to_owned(),
        Shape::Size => "a size such as `8Gi`".to_owned(),
        Shape::Cpu => "a number of cores".to_owned(),
        Shape::Tolerance => "a tolerance such as `1%`".to_owned(),
        Shape::Share => "a number or a share such as `1%`".to_owned(),
        Shape::Word(words) => format!("the word {}", or(words)),
        Shape::Many(item) => format!("{} or a list of them", expected(item)),
        Shape::List(Shape::Map(section)) => format!("a list of mappings (each {})", section.title),
        Shape::List(_) => "a list".to_owned(),
        Shape::Map(_) | Shape::Open(..) => "a mapping".to_owned(),
        Shape::Either(shapes) => shapes.iter().map(expected).collect::<Vec<_>>().join(" or "),
    }
}

fn or(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

fn keys(section: &Section) -> String {
    section.fields.iter().map(|f| format!("`{}`", f.key)).collect::<Vec<_>>().join(", ")
}

/// For an unknown key: the known key that was meant, if that is clear, and the help.
fn suggest(section: &'static Section, key: &str) -> (Option<&'static str>, String) {
    let plain = key.to_ascii_lowercase().replace('-', "_");
    let known = |k: &str| section.fields.iter().find(|f| f.key == k).map(|f| f.key);
    if let Some((_, ours, help)) =
        FOREIGN.iter().find(|(foreign, ours, _)| *foreign == plain && known(ours).is_some())
    {
        return (known(ours), (*help).to_owned());
    }
    if let Some(near) = nearest(&plain, section.fields.iter().map(|f| f.key)) {
        return (known(near), format!("did you mean `{near}`?"));
    }
    let mut homes = Vec::new();
    homes_of(&plain, &PIPELINE, &mut Vec::new(), &mut homes);
    homes.dedup();
    if !homes.is_empty() && homes.len() <= 3 {
        let homes = homes.join(" or of ");
        return (None, format!("`{plain}` is a key of {homes}, not of {}", section.title));
    }
    (None, format!("{} has {}", section.title, keys(section)))
}

/// Sections elsewhere that know this key.
fn homes_of(
    key: &str,
    section: &'static Section,
    seen: &mut Vec<*const Section>,
    homes: &mut Vec<&'static str>,
) {
    let this: *const Section = section;
    if seen.contains(&this) {
        return;
    }
    seen.push(this);
    if section.fields.iter().any(|f| f.key == key) {
        homes.push(section.title);
    }
    for field in section.fields {
        below(&field.shape, &mut |s| homes_of(key, s, seen, homes));
    }
}

fn below(shape: &'static Shape, visit: &mut impl FnMut(&'static Section)) {
    match shape {
        Shape::Map(section) => visit(section),
        Shape::Many(s) | Shape::List(s) | Shape::Open(_, s) => below(s, visit),
        Shape::Either(shapes) => shapes.iter().for_each(|s| below(s, visit)),
        _ => {}
    }
}

/// The nearest of the words, if it is near enough to be meant.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if text.len() > 64 {
        return None;
    }
    let lower = text.to_ascii_lowercase().replace('-', "_");
    words
        .map(|w| (strsim::damerau_levenshtein(&lower, &w.to_ascii_lowercase().replace('-', "_")), w))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, w)| *distance <= (w.len().max(lower.len()) / 3).clamp(1, 3))
        .map(|(_, w)| w)
}
