//! Metrics, their directions and their tolerances.

use std::fmt;

use serde::{Deserialize, Serialize};

/// So many points of one attempt are kept; the agent stops there, and the daemon does not believe it.
pub const MAX_POINTS: u64 = 1_000_000;
/// So many metrics by name of one attempt are kept.
pub const MAX_NAMES: usize = 2_000;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    Max,
    Min,
}

impl Goal {
    /// The direction that people would expect from a metric's name; shown as "assumed".
    pub fn guess(name: &str) -> Self {
        const LOWER: &[&str] = &[
            "loss",
            "error",
            "err",
            "perplexity",
            "ppl",
            "rmse",
            "mae",
            "mse",
            "wer",
            "cer",
            "fid",
            "latency",
            "time",
            "duration",
            "bytes",
            "memory",
            "brier",
            "ece",
        ];
        let name = name.to_ascii_lowercase();
        let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
        if words.any(|w| LOWER.contains(&w)) || name.contains("loss") || name.contains("latency") {
            Self::Min
        } else {
            Self::Max
        }
    }
}

/// How much a metric may move: `1%` is relative to the baseline, `0.01` absolute, `1pp` percentage points
/// (an absolute 0.01 on a 0..1 scale).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// As a fraction: `1%` is 0.01.
    Relative(f64),
    Absolute(f64),
    /// In points: `1pp` is 1.0, an absolute 0.01.
    Points(f64),
}

impl Tolerance {
    /// The absolute amount it allows beside a baseline value.
    pub fn amount(self, baseline: f64) -> f64 {
        match self {
            Self::Relative(f) => f * baseline.abs(),
            Self::Absolute(a) => a,
            Self::Points(p) => p / 100.0,
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative(x) => write!(f, "{}%", trim(x * 100.0)),
            Self::Absolute(x) => f.write_str(&trim(*x)),
            Self::Points(x) => write!(f, "{}pp", trim(*x)),
        }
    }
}

fn trim(x: f64) -> String {
    let text = format!("{x:.6}");
    if x != 0.0 && x.abs() < 1e-6 {
        return format!("{x:e}");
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One reported value. `value` may be NaN or infinite: such values are kept, and fail a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    pub name: String,
    #[serde(with = "float")]
    pub value: f64,
    /// Training step (or epoch) when the framework says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Milliseconds since 1970, by the agent's clock.
    pub at_ms: i64,
}

/// A place where metrics or parameters were looked for, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricSource {
    /// What wrote it: `mlflow`, `tensorboard`, `json` and so on.
    pub kind: String,
    /// A path below the source tree, or another name for where it was.
    pub place: String,
    /// False: passed over, and `note` says why.
    pub used: bool,
    pub points: i64,
    pub params: i64,
    /// Sentences for people.
    #[serde(default)]
    pub note: String,
}

/// JSON has no NaN and no infinities; they travel as text.
pub mod float {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Number(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(value: &f64, ser: S) -> Result<S::Ok, S::Error> {
        match super::nonfinite_word(*value) {
            None => ser.serialize_f64(*value),
            Some(word) => ser.serialize_str(word),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(de: D) -> Result<f64, D::Error> {
        match Wire::deserialize(de)? {
            Wire::Number(n) => Ok(n),
            Wire::Text(text) => super::from_nonfinite_word(&text)
                .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a number"))),
        }
    }
}

/// `nan`, `inf` or `-inf`; None for a finite value.
pub fn nonfinite_word(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("nan")
    } else if value == f64::INFINITY {
        Some("inf")
    } else if value == f64::NEG_INFINITY {
        Some("-inf")
    } else {
        None
    }
}

/// The value behind a word of [`nonfinite_word`], any case, with Python's and JavaScript's spellings.
pub fn from_nonfinite_word(word: &str) -> Option<f64> {
    match word.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "inf" | "+inf" | "infinity" | "+infinity" => Some(f64::INFINITY),
        "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}
