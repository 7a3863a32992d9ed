//! JSON lines: one object per line. Keys are columns; a missing key is null; lists and objects are kept as their text.

use std::collections::HashMap;

use serde::de::{Deserialize, Deserializer, MapAccess};
use serde_json::Value;

use super::blocks::{Blocks, pieces};
use super::builders::{Columns, Padding};
use super::drive::{Batch, Defects};
use super::{Form, Location, Options, time};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// Bytes at the front from which the columns are known. Later keys are found in the pass, which is then repeated.
const HEAD: usize = 4 << 20;

/// The most columns of a table.
const MOST_COLUMNS: usize = 100_000;

/// An object with its keys in their order, each as often as it is there.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> serde::de::Visitor<'de> for Keys {
            type Value = Object;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Object, A::Error> {
                let mut out = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    out.push(entry);
                }
                Ok(Object(out))
            }
        }
        from.deserialize_map(Keys)
    }
}

pub fn open(location: &Location, options: &Options, known: Option<&[Field]>) -> Result<(Form, Vec<Field>)> {
    if let Some(known) = known {
        return Ok((Form::JsonLines, known.to_vec()));
    }
    let name = &location.name;
    let mut kinds: Vec<(String, Option<Kind>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut objects = 0_u64;
    if let Some(block) = Blocks::new(location, 0, None).next() {
        let mut read = 0;
        for line in lines(&block?) {
            if read > HEAD {
                break;
            }
            read += line.len();
            let Ok(Object(object)) = serde_json::from_slice(line) else { continue };
            objects += 1;
            for (key, value) in object {
                let at = *places.entry(key).or_insert_with_key(|key| {
                    kinds.push((key.clone(), None));
                    kinds.len() - 1
                });
                kinds[at].1 = joined(kinds[at].1, &value);
            }
            if kinds.len() > MOST_COLUMNS {
                return Err(Error::data(name, format!("has over {MOST_COLUMNS} keys; no more are read")));
            }
        }
    }
    if kinds.is_empty() {
        let what = match (location.size, objects) {
            (0, _) => "is empty",
            (_, 0) => "has no line that is a JSON object",
            _ => "has no key in any of its first objects",
        };
        return Err(Error::data(name, what));
    }
    let fields = kinds
        .into_iter()
        .map(|(name, kind)| {
            let kind = match (options.kinds.get(&name), kind) {
                (Some(Kind::Text), _) => Kind::Text,
                (declared, None) => declared.copied().unwrap_or(Kind::Text),
                (_, Some(kind)) => kind,
            };
            Field { name, kind, physical: "json".to_owned() }
        })
        .collect();
    Ok((Form::JsonLines, fields))
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty())
}

fn joined(before: Option<Kind>, value: &Value) -> Option<Kind> {
    let kind = match value {
        Value::Null => return before,
        Value::Bool(_) => Kind::Bool,
        Value::Number(n) if n.is_i64() => Kind::Int,
        Value::Number(_) => Kind::Float,
        Value::String(s) if time::parse(s.as_bytes()).is_some() => Kind::Time,
        Value::String(_) | Value::Array(_) | Value::Object(_) => Kind::Text,
    };
    Some(match (before, kind) {
        (None, kind) => kind,
        (Some(a), b) if a == b => a,
        (Some(Kind::Int | Kind::Float), Kind::Int | Kind::Float) => Kind::Float,
        _ => Kind::Text,
    })
}

/// Adds numbers from all over the file to `out`.
pub fn sample(location: &Location, fields: &[Field], out: &mut [Vec<f64>]) -> Result<()> {
    let places = places(fields);
    pieces(location, 0, &mut |bytes, _| {
        for line in lines(bytes) {
            let Ok(Object(object)) = serde_json::from_slice(line) else { continue };
            for (key, value) in object {
                let Some(at) = places.get(key.as_str()) else { continue };
                let value = match (value, fields[*at].kind) {
                    (Value::Number(n), Kind::Int | Kind::Float) => n.as_f64(),
                    (Value::String(s), Kind::Time) => time::parse(s.as_bytes()).map(|t| t as f64),
                    _ => None,
                };
                out[*at].extend(value.filter(|v| v.is_finite()));
            }
        }
    })
}

fn places(fields: &[Field]) -> HashMap<&str, usize> {
    fields.iter().enumerate().map(|(i, f)| (f.name.as_str(), i)).collect()
}

pub fn read(
    name: &str,
    bytes: &[u8],
    fields: &[Field],
    defects: &mut Defects,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let places = places(fields);
    let mut columns = Columns::new(fields);
    let mut cells: Vec<Option<String>> = vec![None; fields.len()];
    // The last row that had each key.
    let mut seen = vec![0; fields.len()];
    let mut padding = Padding::of(name, bytes);
    let mut row = 0;
    for line in lines(bytes) {
        row += 1;
        cells.fill(None);
        let mut good = false;
        if let Ok(Object(object)) = serde_json::from_slice(line) {
            good = true;
            padding.add(fields.len().saturating_sub(object.len()))?;
            for (key, value) in object {
                match places.get(key.as_str()) {
                    Some(at) => {
                        good &= std::mem::replace(&mut seen[*at], row) != row;
                        cells[*at] = text_of(value);
                    }
                    None if defects.unknown_keys.len() < 10_000 => {
                        defects.unknown_keys.insert(key);
                    }
                    None => {}
                }
            }
        } else {
            padding.add(fields.len())?;
        }
        if !good {
            defects.malformed += 1;
            if defects.records.len() < 20 {
                defects.records.push(row);
            }
        }
        for (i, cell) in cells.iter().enumerate() {
            columns.push(i, cell.as_deref().map(str::as_bytes), defects);
        }
        if columns.end_row() {
            feed(columns.finish())?;
        }
    }
    if columns.rows > 0 {
        feed(columns.finish())?;
    }
    Ok(())
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s),
        other => Some(other.to_string()),
    }
}
