//! JSON lines: one object per line. Keys are columns; a missing key is null; lists and objects are kept as their text.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::blocks::Blocks;
use super::builders::Columns;
use super::drive::{Batch, Defects};
use super::{Form, Location, time};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// Bytes at the front from which the columns are known. Later keys are found in the pass, which is then repeated.
const HEAD: usize = 4 << 20;

pub fn open(location: &Location, known: Option<&[Field]>) -> Result<(Form, Vec<Field>)> {
    let mut kinds: Vec<(String, Option<Kind>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut objects = 0_u64;
    head(location, &mut |object| {
        objects += 1;
        for (key, value) in object {
            let at = *places.entry(key.clone()).or_insert_with(|| {
                kinds.push((key.clone(), None));
                kinds.len() - 1
            });
            kinds[at].1 = joined(kinds[at].1, &value);
        }
    })?;
    if objects == 0 && known.is_none() {
        let what = if location.size == 0 { "is empty" } else { "has no line that is a JSON object" };
        return Err(Error::data(&location.name, what));
    }
    if let Some(known) = known {
        return Ok((Form::JsonLines, known.to_vec()));
    }
    let fields = kinds
        .into_iter()
        .map(|(name, kind)| Field { name, kind: kind.unwrap_or(Kind::Text), physical: "json".to_owned() })
        .collect();
    Ok((Form::JsonLines, fields))
}

fn head(location: &Location, see: &mut dyn FnMut(Map<String, Value>)) -> Result<()> {
    let mut blocks = Blocks::new(location, 0, None);
    if let Some(block) = blocks.next() {
        let block = block?;
        for line in lines(&block[..block.len().min(HEAD)]) {
            if let Ok(Value::Object(object)) = serde_json::from_slice(line) {
                see(object);
            }
        }
    }
    Ok(())
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

pub fn sample(location: &Location, fields: &[Field], out: &mut [Vec<f64>]) -> Result<()> {
    head(location, &mut |object| {
        for (i, field) in fields.iter().enumerate() {
            let value = match (object.get(&field.name), field.kind) {
                (Some(Value::Number(n)), Kind::Int | Kind::Float) => n.as_f64(),
                (Some(Value::String(s)), Kind::Time) => time::parse(s.as_bytes()).map(|t| t as f64),
                _ => None,
            };
            out[i].extend(value.filter(|v| v.is_finite()));
        }
    })
}

pub fn read(
    bytes: &[u8],
    fields: &[Field],
    defects: &mut Defects,
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let places: HashMap<&str, usize> = fields.iter().enumerate().map(|(i, f)| (f.name.as_str(), i)).collect();
    let mut columns = Columns::new(fields);
    let mut cells: Vec<Option<String>> = vec![None; fields.len()];
    let mut row = 0;
    for line in lines(bytes) {
        row += 1;
        cells.fill(None);
        if let Ok(object) = serde_json::from_slice::<Map<String, Value>>(line) {
            for (key, value) in object {
                match places.get(key.as_str()) {
                    Some(at) => cells[*at] = text_of(value),
                    None if defects.unknown_keys.len() < 10_000 => {
                        defects.unknown_keys.insert(key);
                    }
                    None => {}
                }
            }
        } else {
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
