//! What data must be like: the rules people write, and how single cells are held against them.
//!
//! Rules over a whole column are answered from its profile (`check`), rules over sets of rows by `sets`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::exact;
use crate::findings::Example;
use crate::schema::{Field, Kind};

/// The rules of a table.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// By column.
    pub schema: BTreeMap<String, ColumnRule>,
    /// Columns that `schema` does not name fail the check.
    pub strict: bool,
    /// The exact order of the columns.
    pub order: Option<Vec<String>>,
    pub rows: Option<Range>,
    /// Sets of columns whose values occur once.
    pub unique: Vec<Vec<String>>,
    /// The share of rows that may repeat an earlier one; not checked if absent.
    pub duplicate_rows: Option<Share>,
    pub foreign_keys: Vec<ForeignKey>,
    /// Other splits of the data that must share no key with this one.
    pub disjoint: Vec<Disjoint>,
    pub pairs: Vec<Pair>,
    pub drift: DriftRules,
}

impl Rules {
    /// The kinds of columns that a type declares, or a rule that only texts can keep: for
    /// [`crate::source::Options::kinds`].
    pub fn kinds(&self) -> BTreeMap<String, Kind> {
        let kind = |rule: &ColumnRule| match &rule.kind {
            Some(name) => Kind::named(name),
            None => (rule.pattern.is_some()
                || rule.regex.is_some()
                || rule.min_length.or(rule.max_length).is_some())
            .then_some(Kind::Text),
        };
        self.schema.iter().filter_map(|(name, rule)| Some((name.clone(), kind(rule)?))).collect()
    }
}

/// The rules of one column.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnRule {
    /// `bool`, `int`, `float`, `text`, `time`, or a type of Arrow (`int32`).
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Whether the column may be absent.
    pub optional: bool,
    /// The share of nulls allowed, as `"<1%"`, `"1%"` or `0.01`.
    pub nulls: Option<Share>,
    pub unique: bool,
    /// The share of values that must keep the rules of cells below; 1 if absent.
    pub mostly: Option<f64>,
    pub one_of: Option<Vec<Scalar>>,
    pub not_in: Option<Vec<Scalar>>,
    pub min: Option<Scalar>,
    pub max: Option<Scalar>,
    pub above: Option<Scalar>,
    pub below: Option<Scalar>,
    /// Matches a part of the value, or all of it if it says so (`^…$`).
    pub regex: Option<String>,
    /// Matches the whole value.
    pub pattern: Option<String>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    /// Numbers that are NaN or infinite break the rule.
    pub finite: bool,
    /// Text that must read as a date or time of ISO 8601.
    pub datetime: bool,
    /// At most this many standard deviations from the column's own mean (from its profile's extremes).
    pub max_z: Option<f64>,
    pub monotonic: Option<Monotonic>,
    pub mean: Option<Range>,
    pub median: Option<Range>,
    pub std: Option<Range>,
    pub sum: Option<Range>,
    /// By share: `{"0.95": {max: 3}}`.
    pub quantiles: BTreeMap<String, Range>,
    pub distinct: Option<Range>,
    pub distinct_share: Option<Range>,
    /// The newest value must be no older than this before the time of the check: `36h`, `7d`.
    pub fresh: Option<String>,
    /// Examples are withheld, and values that messages would tell. Profiles hold the values.
    pub personal: bool,
    /// The label of a supervised task: its drift is named as label drift.
    pub label: bool,
    /// Not compared with the baseline.
    pub no_drift: bool,
    /// `planned`, `deprecated`: the column may be absent and its rules warn only.
    pub stage: Option<Stage>,
    /// Findings of this column only warn.
    pub on_fail: Option<OnFail>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Planned,
    Alpha,
    Debug,
    Deprecated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    Fail,
    Warn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Monotonic {
    Increasing,
    StrictlyIncreasing,
    Decreasing,
    StrictlyDecreasing,
}

/// A closed range; an open side is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    #[serde(default)]
    pub min: Option<f64>,
    #[serde(default)]
    pub max: Option<f64>,
}

impl Range {
    /// A NaN is in no range.
    pub fn holds(&self, x: f64) -> bool {
        !x.is_nan() && self.min.is_none_or(|m| x >= m) && self.max.is_none_or(|m| x <= m)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.min, self.max) {
            (Some(a), Some(b)) => write!(f, "{a} to {b}"),
            (Some(a), None) => write!(f, "at least {a}"),
            (None, Some(b)) => write!(f, "at most {b}"),
            (None, None) => write!(f, "anything"),
        }
    }
}

/// A value as rules write it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Bool(bool),
    Int(i64),
    /// Above the largest `Int`.
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(x) => write!(f, "{x}"),
            Self::Int(x) => write!(f, "{x}"),
            Self::Unsigned(x) => write!(f, "{x}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Text(x) => write!(f, "{x:?}"),
        }
    }
}

/// A share of at most.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Share {
    pub share: f64,
    /// `"<1%"`: the share itself is too much.
    pub strict: bool,
}

impl Share {
    pub fn holds(&self, share: f64) -> bool {
        if self.strict { share < self.share } else { share <= self.share }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}%", if self.strict { "less than" } else { "at most" }, self.share * 100.0)
    }
}

impl TryFrom<Scalar> for Share {
    type Error = String;

    fn try_from(value: Scalar) -> std::result::Result<Self, String> {
        let (share, strict) = match &value {
            Scalar::Int(x) => (*x as f64, false),
            Scalar::Unsigned(x) => (*x as f64, false),
            Scalar::Float(x) => (*x, false),
            Scalar::Bool(_) => (f64::NAN, false),
            Scalar::Text(text) => {
                let text = text.trim();
                let (strict, text) = match text.strip_prefix("<=").map(|t| (false, t)) {
                    Some(found) => found,
                    None => text.strip_prefix('<').map_or((false, text), |t| (true, t)),
                };
                let number = |t: &str| t.trim().parse::<f64>().unwrap_or(f64::NAN);
                (text.strip_suffix('%').map_or_else(|| number(text), |t| number(t) / 100.0), strict)
            }
        };
        if (0.0..=1.0).contains(&share) {
            Ok(Self { share, strict })
        } else {
            Err(format!("{value} is no share; write \"1%\", \"<1%\" or 0.01"))
        }
    }
}

/// Every key of this table must be in another one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignKey {
    pub columns: Vec<String>,
    /// Path of the other table.
    pub references: String,
    /// Its columns; the same names if absent.
    #[serde(default)]
    pub to: Option<Vec<String>>,
}

/// No key of this table may be in another split.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disjoint {
    pub path: String,
    /// All columns that both have, if empty.
    #[serde(default)]
    pub on: Vec<String>,
}

/// Two columns of one row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub left: String,
    pub is: Comparison,
    pub right: String,
    #[serde(default)]
    pub mostly: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Comparison {
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
}

impl Comparison {
    /// `order`: how the left one compares to the right one; `None` beside a NaN.
    pub fn holds(self, order: Option<Ordering>) -> bool {
        match (self, order) {
            (Self::NotEqual, order) => order != Some(Ordering::Equal),
            (_, None) => false,
            (Self::Less, Some(order)) => order.is_lt(),
            (Self::LessOrEqual, Some(order)) => order.is_le(),
            (Self::Greater, Some(order)) => order.is_gt(),
            (Self::GreaterOrEqual, Some(order)) => order.is_ge(),
            (Self::Equal, Some(order)) => order.is_eq(),
        }
    }

    pub fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }
}

/// How drift is decided: both a p-value, adjusted over all columns, and an effect that matters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DriftRules {
    /// Adjusted p-value at or below which a difference is believed.
    pub alpha: f64,
    /// Wasserstein distance in standard deviations of the baseline, population stability index, Cramér's V:
    /// at or above which a difference matters.
    pub min_shift: f64,
    pub min_psi: f64,
    pub min_v: f64,
    /// Values per side below which the verdict is "too few rows".
    pub min_rows: u64,
    /// Growth of the null share, as a difference, that is a finding when it is also significant.
    pub null_jump: f64,
    /// Compare times as well; they move by nature.
    pub times: bool,
    pub ignore: Vec<String>,
    pub on_fail: OnFail,
    /// Decide as another tool does, from the raw values of `reference`. The other rules of drift do not count then.
    pub compat: Option<Compat>,
    /// A table to compare with, for `compat` alone.
    pub reference: Option<String>,
}

/// A tool whose verdicts are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The drift preset of Evidently 0.7.
    Evidently,
}

impl Default for DriftRules {
    fn default() -> Self {
        Self {
            // Half of the 1 % of false alarms that are promised for a lone column.
            alpha: 0.005,
            min_shift: 0.1,
            min_psi: 0.1,
            min_v: 0.1,
            min_rows: 50,
            null_jump: 0.01,
            times: false,
            ignore: Vec::new(),
            on_fail: OnFail::Fail,
            compat: None,
            reference: None,
        }
    }
}

impl ColumnRule {
    /// `mostly`; all, if it is absent.
    pub(crate) fn share_needed(&self) -> f64 {
        self.mostly.unwrap_or(1.0)
    }

    /// The first rule that cannot be asked of a column of this kind, and what it wants.
    pub(crate) fn unsuited(&self, kind: Kind) -> Option<(&'static str, &'static str)> {
        let bounds = self.bounds();
        let measures = [
            ("mean", self.mean.is_some()),
            ("median", self.median.is_some()),
            ("std", self.std.is_some()),
            ("sum", self.sum.is_some()),
            ("quantiles", !self.quantiles.is_empty()),
            ("max_z", self.max_z.is_some()),
            ("monotonic", self.monotonic.is_some()),
        ];
        let texts = [
            ("regex", self.regex.is_some()),
            ("pattern", self.pattern.is_some()),
            ("min_length", self.min_length.is_some()),
            ("max_length", self.max_length.is_some()),
        ];
        let named = |(name, asked): &(&'static str, bool)| asked.then_some(*name);
        if !kind.is_numeric() {
            let bound = bounds.iter().find_map(|(name, bound)| bound.map(|_| *name));
            if let Some(name) = bound.or_else(|| measures.iter().find_map(named)) {
                return Some((name, "numbers or times"));
            }
        }
        if kind != Kind::Time {
            let time = bounds.iter().find(|(_, bound)| matches!(bound, Some(Scalar::Text(_))));
            if let Some(name) = time.map(|(name, _)| *name).or(self.fresh.as_ref().map(|_| "fresh")) {
                return Some((name, "times"));
            }
        }
        if kind != Kind::Text
            && let Some(name) = texts.iter().find_map(named)
        {
            return Some((name, "text"));
        }
        if self.finite && !matches!(kind, Kind::Int | Kind::Float) {
            return Some(("finite", "numbers"));
        }
        if self.datetime && !matches!(kind, Kind::Text | Kind::Time) {
            return Some(("datetime", "text or times"));
        }
        [("one_of", &self.one_of), ("not_in", &self.not_in)].into_iter().find_map(|(name, values)| {
            let wants = values.as_ref()?.iter().find_map(|value| match (value, kind) {
                (_, Kind::Text) => None,
                (_, Kind::Other) => Some("plain values"),
                (Scalar::Text(t), Kind::Time) if crate::source::parse_time(t.as_bytes()).is_some() => None,
                (Scalar::Text(_), _) => Some("text"),
                (Scalar::Bool(_), kind) if kind != Kind::Bool => Some("true and false"),
                _ => None,
            })?;
            Some((name, wants))
        })
    }

    /// The first rule with a whole number beyond 2^53, from where on doubles do not hold every one.
    pub(crate) fn beyond_doubles(&self) -> Option<&'static str> {
        let beyond = |scalar: &Scalar| match scalar {
            Scalar::Int(x) => x.unsigned_abs() > exact::DOUBLES as u64,
            Scalar::Unsigned(x) => *x > exact::DOUBLES as u64,
            _ => false,
        };
        let bound = self.bounds().into_iter().find(|(_, bound)| bound.is_some_and(beyond));
        let mut lists = [("one_of", &self.one_of), ("not_in", &self.not_in)].into_iter();
        bound.map(|(name, _)| name).or_else(|| {
            lists
                .find(|(_, values)| values.as_ref().is_some_and(|v| v.iter().any(beyond)))
                .map(|(name, _)| name)
        })
    }

    /// The bounds of values, by name.
    pub(crate) fn bounds(&self) -> [(&'static str, Option<&Scalar>); 4] {
        [
            ("min", self.min.as_ref()),
            ("above", self.above.as_ref()),
            ("max", self.max.as_ref()),
            ("below", self.below.as_ref()),
        ]
    }
}

/// One rule of cells, ready to be asked.
pub(crate) struct CellRule {
    pub rule: &'static str,
    pub words: String,
    test: CellTest,
}

enum CellTest {
    /// Numbers: as they are written, and as doubles in order.
    Numbers {
        allowed: Vec<Scalar>,
        doubles: Vec<f64>,
        wanted: bool,
    },
    Bound {
        side: Side,
        bound: Scalar,
        double: f64,
    },
    Texts {
        allowed: HashSet<String>,
        wanted: bool,
    },
    Matches(regex::Regex),
    Length(u64, u64),
    Finite,
    Datetime,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    AtLeast,
    AtMost,
    Above,
    Below,
}

/// A rule of cells for exact numbers, as units of their scale.
pub(crate) enum Units {
    /// In order.
    Listed {
        allowed: Vec<i128>,
        wanted: bool,
    },
    Between(i128, i128),
    Any,
}

impl Units {
    /// What 128 bits do not hold breaks every rule.
    #[inline]
    pub fn hold(&self, x: Option<i128>) -> bool {
        let Some(x) = x else { return false };
        match self {
            Self::Listed { allowed, wanted } => allowed.binary_search(&x).is_ok() == *wanted,
            Self::Between(low, high) => (*low..=*high).contains(&x),
            Self::Any => true,
        }
    }
}

impl CellRule {
    /// The rules of cells of a column that suits them (`check::misfit`).
    pub fn all(field: &Field, rule: &ColumnRule) -> Result<Vec<Self>> {
        let (column, kind) = (field.name.as_str(), field.kind);
        let refused =
            |scalar: &Scalar| Error::usage(format!("rules of {column:?}: {scalar} is not a number"));
        // Times as microseconds.
        let plain = |scalar: &Scalar| -> Result<Scalar> {
            match (scalar, kind) {
                (Scalar::Text(t), Kind::Time) => {
                    crate::source::parse_time(t.as_bytes()).map(Scalar::Int).ok_or_else(|| refused(scalar))
                }
                (Scalar::Text(_), _) => Err(refused(scalar)),
                (Scalar::Bool(_), _) if kind != Kind::Bool => Err(refused(scalar)),
                (other, _) => Ok(other.clone()),
            }
        };
        let double = |scalar: &Scalar| -> Result<f64> {
            Ok(match scalar {
                Scalar::Float(x) => *x,
                Scalar::Bool(x) => f64::from(*x),
                Scalar::Int(x) => *x as f64,
                Scalar::Unsigned(x) => *x as f64,
                Scalar::Text(_) => return Err(refused(scalar)),
            })
        };
        let mut out = Vec::new();
        let mut add =
            |rule: &'static str, words: String, test: CellTest| out.push(Self { rule, words, test });
        for (values, wanted, name) in [(&rule.one_of, true, "one_of"), (&rule.not_in, false, "not_in")] {
            let Some(values) = values else { continue };
            let list: Vec<String> = values.iter().take(8).map(Scalar::to_string).collect();
            let more = if values.len() > 8 { ", …" } else { "" };
            let words = format!("{} {}{more}", if wanted { "one of" } else { "other than" }, list.join(", "));
            let test = if kind == Kind::Text {
                let allowed = values
                    .iter()
                    .map(|v| match v {
                        Scalar::Text(t) => t.clone(),
                        other => other.to_string(),
                    })
                    .collect();
                CellTest::Texts { allowed, wanted }
            } else {
                let allowed = values.iter().map(&plain).collect::<Result<Vec<Scalar>>>()?;
                let mut doubles = allowed.iter().map(&double).collect::<Result<Vec<f64>>>()?;
                doubles.sort_by(f64::total_cmp);
                CellTest::Numbers { allowed, doubles, wanted }
            };
            add(name, words, test);
        }
        for (name, bound) in rule.bounds() {
            let Some(bound) = bound else { continue };
            let (side, words) = match name {
                "min" => (Side::AtLeast, format!("at least {bound}")),
                "max" => (Side::AtMost, format!("at most {bound}")),
                "above" => (Side::Above, format!("above {bound}")),
                _ => (Side::Below, format!("below {bound}")),
            };
            let bound = plain(bound)?;
            let double = double(&bound)?;
            add(name, words, CellTest::Bound { side, bound, double });
        }
        for (expression, name, whole) in [(&rule.regex, "regex", false), (&rule.pattern, "pattern", true)] {
            let Some(expression) = expression else { continue };
            let compiled = |text: &str| {
                crate::validate::expression_of(text)
                    .map_err(|e| Error::usage(format!("rules of {column:?}: {name}: {e}")))
            };
            // As it stands first: an error then shows what people wrote.
            let regex = compiled(expression)?;
            let regex = if whole { compiled(&format!("^(?:{expression})$"))? } else { regex };
            add(name, format!("like {expression:?}"), CellTest::Matches(regex));
        }
        if rule.min_length.is_some() || rule.max_length.is_some() {
            let (low, high) = (rule.min_length.unwrap_or(0), rule.max_length.unwrap_or(u64::MAX));
            let words = format!(
                "{low} to {} characters long",
                if high == u64::MAX { "any".into() } else { high.to_string() }
            );
            add("length", words, CellTest::Length(low, high));
        }
        if rule.finite {
            add("finite", "finite".into(), CellTest::Finite);
        }
        if rule.datetime && kind != Kind::Time {
            add("datetime", "a date or time of ISO 8601".into(), CellTest::Datetime);
        }
        Ok(out)
    }

    pub fn number(&self, x: f64) -> bool {
        match &self.test {
            CellTest::Numbers { doubles, wanted, .. } => {
                // Sorted; -0 is 0.
                let x = x + 0.0;
                let at = doubles.partition_point(|a| *a < x);
                doubles.get(at).is_some_and(|a| *a == x) == *wanted
            }
            CellTest::Bound { side, double, .. } => match side {
                Side::AtLeast => x >= *double,
                Side::AtMost => x <= *double,
                Side::Above => x > *double,
                Side::Below => x < *double,
            },
            CellTest::Finite => x.is_finite(),
            CellTest::Texts { .. } | CellTest::Matches(_) | CellTest::Length(..) | CellTest::Datetime => true,
        }
    }

    /// The rule for exact numbers of a scale.
    pub fn units(&self, scale: i8) -> Units {
        match &self.test {
            CellTest::Numbers { allowed, wanted, .. } => {
                let found = allowed.iter().filter_map(|v| exact::floor(v, scale));
                let mut allowed: Vec<i128> = found.filter(|(_, met)| *met).map(|(x, _)| x).collect();
                allowed.sort_unstable();
                Units::Listed { allowed, wanted: *wanted }
            }
            CellTest::Bound { side, bound, .. } => {
                let Some((floor, met)) = exact::floor(bound, scale) else { return Units::Between(1, 0) };
                let met = i128::from(met);
                match side {
                    Side::AtLeast => Units::Between(floor.saturating_add(1 - met), i128::MAX),
                    Side::AtMost => Units::Between(i128::MIN, floor),
                    Side::Above => Units::Between(floor.saturating_add(1), i128::MAX),
                    Side::Below => Units::Between(i128::MIN, floor.saturating_sub(met)),
                }
            }
            _ => Units::Any,
        }
    }

    pub fn text(&self, x: &str) -> bool {
        match &self.test {
            CellTest::Texts { allowed, wanted } => allowed.contains(x) == *wanted,
            CellTest::Matches(regex) => regex.is_match(x),
            CellTest::Length(low, high) => {
                let length = x.chars().count() as u64;
                (*low..=*high).contains(&length)
            }
            CellTest::Datetime => crate::source::parse_time(x.as_bytes()).is_some(),
            _ => true,
        }
    }
}

/// How often a rule of cells was broken. Rows are (unit, row within it).
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub checked: u64,
    pub broken: u64,
    pub examples: Vec<((u64, u64), String)>,
}

impl Tally {
    pub fn broken(&mut self, at: (u64, u64), value: impl FnOnce() -> String) {
        self.broken += 1;
        if self.examples.len() < crate::findings::EXAMPLES {
            self.examples.push((at, crate::findings::shown(&value())));
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.broken += other.broken;
        self.examples.extend(other.examples);
        self.examples.truncate(crate::findings::EXAMPLES);
    }

    pub fn shown(&self, report: &crate::source::Report) -> Vec<Example> {
        self.examples
            .iter()
            .map(|((unit, row), value)| Example { row: Some(report.row(*unit, *row)), value: value.clone() })
            .collect()
    }
}
