//! Rules that cannot mean what they say: bounds that nothing meets, shares beyond 1, words that name no type. One
//! place for the rules of a file and those of a pipeline.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::rules::{ColumnRule, DriftRules, Range, Rules, Scalar};
use crate::schema::Kind;

/// One fault of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The column whose rules they are.
    pub column: Option<String>,
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.column {
            Some(column) => write!(f, "rules of {column:?}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Names of types that rules know, beside those of Arrow.
pub(crate) const TYPES: [&str; 14] = [
    "bool",
    "boolean",
    "int",
    "integer",
    "float",
    "number",
    "text",
    "string",
    "str",
    "category",
    "time",
    "timestamp",
    "datetime",
    "date",
];
/// Types of Arrow without parameters.
const PLAIN: [&str; 20] = [
    "null",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "utf8",
    "largeutf8",
    "utf8view",
    "binary",
    "largebinary",
    "binaryview",
    "date32",
    "date64",
];

impl Rules {
    /// # Errors
    /// [`Error::Usage`] with the first fault.
    pub fn validate(&self) -> Result<()> {
        self.faults().into_iter().next().map_or(Ok(()), |fault| Err(Error::usage(fault.to_string())))
    }

    /// Everything that can be seen without the data.
    pub fn faults(&self) -> Vec<Fault> {
        let mut out = Vec::new();
        for (column, rule) in &self.schema {
            rule.faults(&mut |what| out.push(Fault { column: Some(column.clone()), what }));
        }
        let mut add = |what: String| out.push(Fault { column: None, what });
        range("rows", self.rows, &mut add);
        if self.unique.iter().any(Vec::is_empty) {
            add("unique: a key of no columns".into());
        }
        for key in &self.foreign_keys {
            let to = key.to.as_ref().map_or(key.columns.len(), Vec::len);
            if key.columns.is_empty() {
                add(format!("foreign_keys: a key of no columns refers to {}", key.references));
            } else if to != key.columns.len() {
                add(format!(
                    "foreign_keys: a key of {} columns refers to {to} of {}",
                    key.columns.len(),
                    key.references
                ));
            }
        }
        for pair in &self.pairs {
            share(
                &format!("pairs: {} {} {}: mostly", pair.left, pair.is.sign(), pair.right),
                pair.mostly,
                &mut add,
            );
        }
        self.drift.faults(&mut add);
        out
    }
}

impl DriftRules {
    fn faults(&self, add: &mut dyn FnMut(String)) {
        if !(self.alpha > 0.0 && self.alpha <= 1.0) {
            add(format!("drift: alpha: {} is no chance between 0 and 1", self.alpha));
        }
        share("drift: null_jump", Some(self.null_jump), add);
        for (name, x) in [("min_shift", self.min_shift), ("min_psi", self.min_psi), ("min_v", self.min_v)] {
            if !(x >= 0.0 && x.is_finite()) {
                add(format!("drift: {name}: {x} is no size; write 0 or more"));
            }
        }
    }
}

impl ColumnRule {
    fn faults(&self, add: &mut dyn FnMut(String)) {
        if let Some(kind) = self.kind.as_deref().filter(|k| !is_type(k)) {
            let near = TYPES.iter().chain(&PLAIN).find(|t| one_edit_apart(t, kind));
            let help = near.map_or("write bool, int, float, text, time or a type of Arrow".to_owned(), |t| {
                format!("did you mean {t}?")
            });
            add(format!("type: there is no type {kind:?}; {help}"));
        }
        share("mostly", self.mostly, add);
        for (name, range_) in [
            ("mean", self.mean),
            ("median", self.median),
            ("std", self.std),
            ("sum", self.sum),
            ("distinct", self.distinct),
            ("distinct_share", self.distinct_share),
        ] {
            range(name, range_, add);
        }
        for (at, range_) in &self.quantiles {
            if !at.parse().is_ok_and(|s: f64| (0.0..=1.0).contains(&s)) {
                add(format!("quantiles: {at:?} is not between 0 and 1"));
            }
            range(&format!("quantiles: {at}"), Some(*range_), add);
        }
        if self.max_z.is_some_and(|z| !(z > 0.0 && z.is_finite())) {
            add("max_z: write a number above 0".into());
        }
        if let Some(text) = self.fresh.as_ref().filter(|t| age(t).is_none()) {
            add(format!("fresh: {text:?}; write 36h or 7d"));
        }
        let bounds = self.bounds();
        let mut sound = true;
        for (name, bound) in bounds {
            let fault = match bound {
                Some(Scalar::Float(x)) if x.is_nan() => "NaN bounds nothing".to_owned(),
                Some(Scalar::Bool(x)) => format!("{x} bounds nothing; write a number, a date or a time"),
                Some(Scalar::Text(text)) if crate::source::parse_time(text.as_bytes()).is_none() => {
                    format!("{text:?} is no number, date or time")
                }
                _ => continue,
            };
            add(format!("{name}: {fault}"));
            sound = false;
        }
        if let Some(kind) = self.kind.as_deref().and_then(Kind::named)
            && sound
            && let Some((name, wants)) = self.unsuited(kind)
        {
            add(format!(
                "{name}: wants {wants}, but `type` says {}",
                self.kind.as_deref().unwrap_or_default()
            ));
        }
        for (low, least) in &bounds[..2] {
            for (high, most) in &bounds[2..] {
                let (Some(a), Some(b)) = (least, most) else { continue };
                // Two closed bounds may meet.
                let closed = (*low, *high) == ("min", "max");
                let order = compared(a, b);
                if sound && (order == Some(Ordering::Greater) || order == Some(Ordering::Equal) && !closed) {
                    add(format!("nothing is {low} {a} and {high} {b}"));
                }
            }
        }
        for (name, values) in [("one_of", &self.one_of), ("not_in", &self.not_in)] {
            if values.as_ref().is_some_and(Vec::is_empty) {
                add(format!("{name}: the list is empty"));
            }
        }
        if let (Some(low), Some(high)) = (self.min_length, self.max_length)
            && low > high
        {
            add(format!("min_length {low} is above max_length {high}"));
        }
        for (name, expression) in [("regex", &self.regex), ("pattern", &self.pattern)] {
            let Some(expression) = expression else { continue };
            if let Err(error) = expression_of(expression) {
                add(format!("{name}: {error}"));
            }
        }
    }
}

/// A regular expression of a bounded size.
pub(crate) fn expression_of(text: &str) -> std::result::Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(1 << 20).build()
}

fn share(name: &str, x: Option<f64>, add: &mut dyn FnMut(String)) {
    if let Some(x) = x
        && !(0.0..=1.0).contains(&x)
    {
        add(format!("{name}: {x} is not between 0 and 1"));
    }
}

fn range(name: &str, range: Option<Range>, add: &mut dyn FnMut(String)) {
    let Some(Range { min, max }) = range else { return };
    if min.is_none() && max.is_none() {
        add(format!("{name}: write min, max or both"));
    } else if [min, max].iter().flatten().any(|x| x.is_nan()) {
        add(format!("{name}: NaN bounds nothing"));
    } else if let (Some(a), Some(b)) = (min, max)
        && a > b
    {
        add(format!("{name}: nothing is at least {a} and at most {b}"));
    }
}

/// Numbers by their size, texts only as the times that both are.
fn compared(a: &Scalar, b: &Scalar) -> Option<Ordering> {
    let number = |s: &Scalar| match s {
        Scalar::Int(x) => Some(*x as f64),
        Scalar::Unsigned(x) => Some(*x as f64),
        Scalar::Float(x) => Some(*x),
        _ => None,
    };
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => Some(a.cmp(b)),
        (Scalar::Text(a), Scalar::Text(b)) => {
            let time = |t: &str| crate::source::parse_time(t.as_bytes());
            Some(time(a)?.cmp(&time(b)?))
        }
        _ => number(a)?.partial_cmp(&number(b)?),
    }
}

/// Microseconds of `90m`, `36h`, `7d`.
pub(crate) fn age(text: &str) -> Option<f64> {
    let (number, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    number.trim().parse::<f64>().ok().filter(|n| *n >= 0.0 && n.is_finite()).map(|n| n * seconds * 1e6)
}

fn is_type(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Those with parameters are compared as the file names them.
    TYPES.contains(&name.as_str())
        || PLAIN.contains(&name.as_str())
        || (name.contains('(') && name.ends_with(')'))
}

/// Whether one letter added, left out, changed or swapped with its neighbour makes `a` of `b`.
fn one_edit_apart(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..], &b[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    a.len().max(b.len()) <= 1 || matches!((a, b), ([p, q], [r, s]) if p == s && q == r)
}
