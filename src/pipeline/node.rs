//! YAML to a tree that knows where each value stands. Limits hold while the tree is built, so that no text of
//! 256 KiB can cost more than a few megabytes: aliases are shared, never copied, and their size is counted first.
//!
//! The parser is serde-saphyr's own event parser. Deserializing into types would lose what the messages need: the
//! place of a key, every error but the first, and whether a value was quoted.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;
use std::rc::Rc;

use serde_saphyr::granit_parser::{self, ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};

use super::diagnostic::{Findings, code, quoted};

/// Limits of one file.
pub(super) const MAX_BYTES: usize = 256 * 1024;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 20_000;
const MAX_ALIASES: usize = 256;

/// A value and its bytes in the file.
#[derive(Debug)]
pub(super) struct Node {
    pub span: Range<usize>,
    pub kind: Kind,
    /// Nodes in it, aliases followed.
    size: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// As written, after YAML's own unescaping; never resolved to a number or boolean by the reader.
    Scalar {
        text: String,
        /// Not quoted and not a block: `10`, `true` and `yes` may mean more than a text.
        plain: bool,
    },
    Null,
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub value: Rc<Node>,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &*e.value)
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }

    /// Empty for anything but a mapping.
    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The items of a list, or the one value that stands for a list of one; nothing for null.
    pub fn items(&self) -> Vec<&Node> {
        match &self.kind {
            Kind::List(items) => items.iter().map(|i| &**i).collect(),
            Kind::Null => Vec::new(),
            _ => vec![self],
        }
    }

    /// What a message calls it.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            Kind::Scalar { text, plain: true } if is_boolean(text) => quoted(text),
            Kind::Scalar { text, plain: true } if is_number(text) => format!("the number {}", quoted(text)),
            Kind::Scalar { text, .. } => format!("the text {}", quoted(text)),
        }
    }
}

pub(super) fn is_boolean(text: &str) -> bool {
    matches!(text, "true" | "false" | "True" | "False" | "TRUE" | "FALSE")
}

/// Words that YAML 1.1 reads as true or false and YAML 1.2 as texts.
pub(super) fn is_yaml_1_1_boolean(text: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].iter().any(|w| text.eq_ignore_ascii_case(w))
}

/// Would YAML 1.2's core schema make a number of this plain text?
pub(super) fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(hex) = unsigned.strip_prefix("0x") {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(octal) = unsigned.strip_prefix("0o") {
        return !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b));
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // Rust reads `inf` and `nan` as floats too; YAML does not.
    unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'))
        && unsigned.parse::<f64>().is_ok()
}

/// Builds the tree. None when there is none to go on with; the reason is then in `findings`.
pub(super) fn read<'a>(text: &'a str, findings: &mut Findings<'a>) -> Option<Rc<Node>> {
    let mut builder = Builder {
        text,
        findings,
        stack: Vec::new(),
        anchors: HashMap::new(),
        aliases: 0,
        nodes: 0,
        root: None,
    };
    builder.run()
}

enum Frame {
    List {
        start: usize,
        anchor: usize,
        items: Vec<Rc<Node>>,
        size: usize,
    },
    /// `seen` holds where each key stands.
    Map {
        start: usize,
        anchor: usize,
        entries: Vec<Entry>,
        seen: HashMap<String, usize>,
        key: Key,
        size: usize,
    },
}

/// What a mapping waits for.
enum Key {
    Next,
    /// The value of this key.
    Of(String, Range<usize>),
    /// The value of a key that is not taken (a duplicate, a list, ...).
    Dropped,
}

struct Builder<'a, 'b> {
    text: &'a str,
    findings: &'b mut Findings<'a>,
    stack: Vec<Frame>,
    /// None while the anchored collection is still open.
    anchors: HashMap<usize, Option<Rc<Node>>>,
    aliases: usize,
    nodes: usize,
    root: Option<Rc<Node>>,
}

/// The tree cannot be finished; why stands in the findings.
struct Stop;

impl Builder<'_, '_> {
    fn run(&mut self) -> Option<Rc<Node>> {
        let mut options = granit_parser::options! {
            emit_unresolved_aliases: true,
            disallow_directives: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        options.set_emit_comments(false);
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(self.text, options) {
            let (event, span) = match event {
                Ok(pair) => pair,
                Err(error) => {
                    self.syntax(&error);
                    return None;
                }
            };
            if matches!(event, Event::DocumentStart(..)) {
                documents += 1;
                if documents > 1 {
                    let at = span.start.byte_offset().unwrap_or(0);
                    self.findings.add(
                        code::MANY_DOCUMENTS,
                        &(at..(at + 3).min(self.text.len())),
                        "a second YAML document begins here",
                        Some(
                            "one file is one pipeline: put the others into `.trainyard/NAME.yaml`".to_owned(),
                        ),
                    );
                    return self.root.take();
                }
            }
            if self.event(event, &span).is_err() {
                return None;
            }
        }
        self.root.take()
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Stop> {
        let bytes = bytes(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let plain = style == ScalarStyle::Plain;
                let kind = if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Kind::Null
                } else {
                    Kind::Scalar { text: text.into_owned(), plain }
                };
                self.attach(Rc::new(Node { span: bytes, kind, size: 1 }), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(&bytes, anchor)?;
                self.stack.push(Frame::List { start: bytes.start, anchor, items: Vec::new(), size: 1 });
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(&bytes, anchor)?;
                let (entries, seen) = (Vec::new(), HashMap::new());
                self.stack.push(Frame::Map {
                    start: bytes.start,
                    anchor,
                    entries,
                    seen,
                    key: Key::Next,
                    size: 1,
                });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(&bytes),
            Event::Alias(id) => self.alias(id, &bytes),
            Event::UnresolvedAlias(name) => {
                self.findings.add(
                    code::ALIAS,
                    &bytes,
                    format!("{} is an alias of an anchor that does not exist", quoted(&format!("*{name}"))),
                    Some(format!(
                        "a text that begins with `*` must be quoted: \"*{}\"",
                        name.trim_end_matches([',', ']'])
                    )),
                );
                let kind = Kind::Scalar { text: format!("*{name}"), plain: false };
                self.attach(Rc::new(Node { span: bytes, kind, size: 1 }), 0)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, at: &Range<usize>, anchor: usize) -> Result<(), Stop> {
        if self.stack.len() >= MAX_DEPTH {
            self.too_deep(at);
            return Err(Stop);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        if let Some(Frame::Map { key: Key::Next, .. }) = self.stack.last() {
            self.findings.add(
                code::KEY_TYPE,
                &(at.start..at.start + 1),
                "a list or mapping cannot be a key",
                Some("quote a text that begins with `{` or `[`".to_owned()),
            );
            return Err(Stop);
        }
        Ok(())
    }

    fn close(&mut self, end: &Range<usize>) -> Result<(), Stop> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let flow = end.end > end.start;
        let (node, anchor) = match frame {
            Frame::List { start, anchor, items, size } => {
                let last = items.last().map_or(start, |n| n.span.end);
                let span = start..if flow { end.end } else { last.max(start) };
                (Node { span, kind: Kind::List(items), size }, anchor)
            }
            Frame::Map { start, anchor, entries, size, .. } => {
                let last = entries.last().map_or(start, |e| e.value.span.end.max(e.key_span.end));
                let span = start..if flow { end.end } else { last.max(start) };
                (Node { span, kind: Kind::Map(entries), size }, anchor)
            }
        };
        self.attach(Rc::new(node), anchor)
    }

    fn alias(&mut self, id: usize, at: &Range<usize>) -> Result<(), Stop> {
        self.aliases += 1;
        if self.aliases > MAX_ALIASES {
            self.findings.add(code::TOO_MANY_NODES, at, format!("more than {MAX_ALIASES} aliases"), None);
            return Err(Stop);
        }
        if let Some(Some(node)) = self.anchors.get(&id) {
            let node = Rc::clone(node);
            self.nodes = self.nodes.saturating_add(node.size - 1);
            return self.attach(node, 0);
        }
        self.findings.add(
            code::ALIAS,
            at,
            "this alias is inside of what it names",
            Some("write the value itself: a value cannot hold itself".to_owned()),
        );
        Err(Stop)
    }

    fn attach(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Stop> {
        // Children were counted when they were attached; aliases in `alias`.
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let span = first_line(self.text, &node.span);
            self.findings.add(
                code::TOO_MANY_NODES,
                &span,
                format!("more than {MAX_NODES} values once aliases are followed"),
                Some("use `matrix` for many variants of a step".to_owned()),
            );
            return Err(Stop);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Some(Rc::clone(&node)));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, size, .. }) => {
                *size = size.saturating_add(node.size);
                items.push(node);
            }
            Some(Frame::Map { entries, seen, key, size, .. }) => {
                *size = size.saturating_add(node.size);
                match std::mem::replace(key, Key::Next) {
                    Key::Of(name, key_span) => entries.push(Entry { key: name, key_span, value: node }),
                    Key::Dropped => {}
                    Key::Next => {
                        *key = take_key(&node, seen, self.findings);
                    }
                }
            }
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tagged: bool, span: &Span) {
        if tagged {
            let at = span.tag_span().map_or_else(|| bytes(span), |s| bytes(&s));
            let tag = quoted(self.text.get(at.clone()).unwrap_or("!"));
            self.findings.add(
                code::TAG,
                &at,
                format!("the tag {tag} is not supported"),
                Some("write the value itself; to keep a number as a text, quote it".to_owned()),
            );
        }
    }

    fn too_deep(&mut self, at: &Range<usize>) {
        let at = at.start..(at.start + 1).min(self.text.len());
        let help = "no part of a pipeline needs more than eight levels".to_owned();
        self.findings.add(code::TOO_DEEP, &at, format!("nested deeper than {MAX_DEPTH} levels"), Some(help));
    }

    fn syntax(&mut self, error: &ScanError) {
        let mut at = error.marker().byte_offset().unwrap_or(0).min(self.text.len());
        // The parser stops behind tabs that it does not take: they are the place.
        while self.text[..at].ends_with('\t') {
            at -= 1;
        }
        let end = self.text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        let span = at..end;
        if *error.kind() == ErrorKind::RecursionLimitExceeded {
            self.too_deep(&span);
            return;
        }
        let (message, help) = explain(error.kind());
        let message = message.map_or_else(|| error.info(), str::to_owned);
        self.findings.add(code::SYNTAX, &span, message, help.map(str::to_owned));
    }
}

/// Checks a scalar in a key's place and says what becomes of its value.
fn take_key(node: &Node, seen: &mut HashMap<String, usize>, findings: &mut Findings<'_>) -> Key {
    match &node.kind {
        Kind::Scalar { text, plain } if *plain && text == "<<" => {
            findings.add(
                code::MERGE_KEY,
                &node.span,
                "merge keys (`<<`) are not part of YAML 1.2",
                Some("put shared settings under `defaults`, or use an alias for the whole value".to_owned()),
            );
            Key::Dropped
        }
        Kind::Scalar { text, .. } => {
            match seen.entry(text.clone()) {
                Slot::Vacant(slot) => {
                    slot.insert(node.span.start);
                }
                Slot::Occupied(slot) => {
                    let line = findings.line_of(*slot.get());
                    findings.add(
                        code::DUPLICATE_KEY,
                        &node.span,
                        format!("the key {} stands here a second time", quoted(text)),
                        Some(format!("it is first set in line {line}; keep one of the two")),
                    );
                    return Key::Dropped;
                }
            }
            Key::Of(text.clone(), node.span.clone())
        }
        Kind::Null => {
            findings.add(
                code::KEY_TYPE,
                &node.span,
                "a key is missing before the `:`",
                Some("quote a text that is `null`, `~` or empty".to_owned()),
            );
            Key::Dropped
        }
        _ => {
            findings.add(code::KEY_TYPE, &node.span, "a list or mapping cannot be a key", None);
            Key::Dropped
        }
    }
}

fn bytes(span: &Span) -> Range<usize> {
    let range = span.byte_range().unwrap_or(0..0);
    range.start..range.end.max(range.start)
}

/// The part of a span that stands on its first line.
pub(super) fn first_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let length = text.get(span.clone()).map_or(0, |t| t.find('\n').unwrap_or(t.len()));
    span.start..span.start + length
}

/// Clearer words for what people run into; None keeps the parser's own.
fn explain(kind: &ErrorKind) -> (Option<&'static str>, Option<&'static str>) {
    use ErrorKind as E;
    match kind {
        E::TabNotAllowed | E::TabInBlockIndentation | E::TabInIndentation | E::TabAtBlockScalarStart => (
            Some("a tab is used for indentation"),
            Some("YAML allows spaces only; set your editor to indent by two spaces"),
        ),
        E::UnclosedQuotedScalar => (
            Some("a quote is opened but never closed"),
            Some("close it, or use the other kind of quote around it"),
        ),
        E::UnclosedFlowCollection { open: '[' } | E::UnexpectedEofFlowSequence => {
            (Some("a `[` is opened but never closed"), Some("add the `]`"))
        }
        E::UnclosedFlowCollection { .. }
        | E::UnexpectedEofFlowMapping
        | E::UnexpectedEofImplicitFlowMapping => {
            (Some("a `{` is opened but never closed"), Some("add the `}`"))
        }
        E::MappingValueNotAllowed => (
            Some("a `:` is not expected here"),
            Some("quote a text that holds `: `, and check the indentation"),
        ),
        E::SimpleKeyExpected | E::InvalidSimpleKey | E::ExpectedBlockMappingKey => (
            Some("a `key: value` is expected here"),
            Some("check the indentation, and that a `:` with a space follows the key"),
        ),
        E::InvalidIndentation => (None, Some("lines of one level must begin in the same column")),
        E::UnexpectedCharacter { .. } | E::PlainScalarStartsWithDashFlowIndicator => {
            (None, Some("quote texts that begin with a special character"))
        }
        E::DirectiveDisallowed => (
            Some("a line that begins with `%` is a YAML directive, which is not supported"),
            Some("remove it, or quote the text"),
        ),
        E::InvalidTrailingDoubleQuotedScalar | E::InvalidTrailingSingleQuotedScalar => {
            (Some("text follows the closing quote"), Some("put the quotes around the whole value"))
        }
        E::UnknownQuotedScalarEscape => (
            Some("an unknown `\\` escape in double quotes"),
            Some("write `\\\\` for a backslash, or use single quotes"),
        ),
        E::ExpectedFlowMappingSeparator => (Some("a `,` or `}` is expected here"), None),
        E::ExpectedFlowSequenceSeparator => (Some("a `,` or `]` is expected here"), None),
        _ => (None, None),
    }
}
