//! JSON as training scripts write it: with Python's `NaN` and `Infinity`, nested, with the step under one of many names.

use serde_json::{Map, Value};

use crate::model::metric::from_nonfinite_word;

/// Marks a bare `NaN` or `Infinity` once it has become a string: no script writes this character.
const MARK: char = '\u{1}';
const DEPTH: u32 = 16;

/// Parses JSON that may hold bare `NaN`, `Infinity` and `-Infinity`, as Python's `json` writes them.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if !bytes.windows(3).any(|w| w == b"NaN" || w == b"Inf") {
        return serde_json::from_slice(bytes);
    }
    let (mut out, mut at, mut in_string) = (Vec::with_capacity(bytes.len() + 32), 0, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        if in_string {
            let n = if rest[0] == b'\\' { 2.min(rest.len()) } else { 1 };
            in_string = rest[0] != b'"';
            out.extend_from_slice(&rest[..n]);
            at += n;
            continue;
        }
        in_string = rest[0] == b'"';
        let word = [&b"NaN"[..], b"-Infinity", b"Infinity"].into_iter().find(|w| rest.starts_with(w));
        if let Some(word) = word {
            out.extend_from_slice(b"\"\\u0001");
            out.extend_from_slice(word);
            out.push(b'"');
            at += word.len();
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    serde_json::from_slice(&out)
}

pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        Value::String(text) => from_nonfinite_word(text.strip_prefix(MARK)?),
        _ => None,
    }
}

/// The keys that name the training step, best first. An epoch counts when nothing finer is there.
pub const STEPS: &[&str] = &["step", "global_step", "_step", "iteration", "iter", "epoch"];
/// Time is no metric here: points have their own.
pub const TIMES: &[&str] = &["time", "timestamp", "_timestamp", "ts", "datetime", "_runtime"];

pub fn step_of(object: &Map<String, Value>) -> Option<i64> {
    STEPS.iter().find_map(|key| number(object.get(*key)?)).filter(|s| s.is_finite()).map(|s| s as i64)
}

/// All numbers of an object, nested names joined with `/`; steps and times of the top level are left out.
pub fn numbers(object: &Map<String, Value>) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for (key, value) in object {
        if STEPS.contains(&key.as_str()) || TIMES.contains(&key.as_str()) {
            continue;
        }
        if let (true, Value::Array(list)) = (key == "metrics", value) {
            found.extend(named_numbers(list));
        } else {
            nested(key.clone(), value, 1, &mut found);
        }
    }
    found
}

fn nested(name: String, value: &Value, depth: u32, found: &mut Vec<(String, f64)>) {
    if let Some(number) = number(value) {
        found.push((name, number));
    } else if let (Value::Object(object), true) = (value, depth < DEPTH) {
        for (key, value) in object {
            nested(format!("{name}/{key}"), value, depth + 1, found);
        }
    }
}

/// A list of `{name, value}`; Kubeflow writes `numberValue`.
pub fn named_numbers(list: &[Value]) -> Vec<(String, f64)> {
    list.iter()
        .filter_map(|entry| {
            let name = entry.get("name")?.as_str()?.to_owned();
            Some((name, number(entry.get("value").or_else(|| entry.get("numberValue"))?)?))
        })
        .collect()
}

/// Parameters: nested names joined with `.`, as DVC names them; lists as JSON.
pub fn params(value: &Value, prefix: &str, depth: u32, each: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(object) if depth < DEPTH => {
            for (key, value) in object {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                params(value, &name, depth + 1, each);
            }
        }
        _ if prefix.is_empty() => {}
        Value::String(text) => each(prefix, text.trim_start_matches(MARK)),
        other => each(prefix, &other.to_string()),
    }
}
