//! The grammar for editors (JSON Schema, draft 2020-12) and for people (tables of keys).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::grammar::{PIPELINE, Section, Shape, Text};
use super::text;

/// The JSON Schema of the pipeline file. It knows every key and type; what needs two places to judge, it leaves to
/// `trainyard lint`.
pub fn schema() -> Value {
    let mut defs = BTreeMap::new();
    let mut root = section(&PIPELINE, &mut defs);
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://trainyard.dev/trainyard.schema.json",
        "title": "trainyard pipeline",
        "description": "A .trainyard.yaml file, or one of .trainyard/*.yaml.",
    });
    if let (Value::Object(root), Value::Object(head)) = (&mut root, head) {
        root.extend(head);
        root.insert("$defs".to_owned(), Value::Object(defs.into_iter().collect()));
    }
    root
}

fn section(section: &'static Section, defs: &mut BTreeMap<String, Value>) -> Value {
    let mut properties = Map::new();
    for field in section.fields {
        let mut value = shape(&field.shape, defs);
        if let Value::Object(object) = &mut value {
            let later = if field.later { " (Checked, not run yet.)" } else { "" };
            object.insert("description".to_owned(), json!(format!("{}{later}", field.doc)));
        }
        properties.insert(field.key.to_owned(), value);
    }
    let mut out = json!({"type": "object", "additionalProperties": false, "properties": properties});
    let required: Vec<&str> = section.fields.iter().filter(|f| f.required).map(|f| f.key).collect();
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    if !section.one_of.is_empty() {
        out["anyOf"] = section.one_of.iter().map(|key| json!({"required": [key]})).collect();
    }
    out
}

/// A name for `$defs`, from the section's title and its place in memory's stead: its keys.
fn def_name(section: &'static Section) -> String {
    let words: String =
        section.title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' }).collect();
    let skip = ["a", "an", "the", "entry", "of"];
    let name: Vec<&str> = words.split_whitespace().filter(|w| !skip.contains(w)).collect();
    let base = name.join("_");
    // Titles such as `drift` serve in two places; the first key tells them apart.
    match section.fields.first() {
        Some(first) if base == "drift" => format!("{base}_{}", first.key),
        _ => base,
    }
}

fn shape(it: &'static Shape, defs: &mut BTreeMap<String, Value>) -> Value {
    match it {
        Shape::Text(Text::Branch) => json!({"type": ["string", "number"]}),
        Shape::Text(kind) => match text::pattern(*kind) {
            Some(pattern) => json!({"type": "string", "pattern": pattern}),
            None => json!({"type": "string", "minLength": 1}),
        },
        Shape::Value => json!({"type": ["string", "number", "boolean"]}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int { min, max } if *max == i64::MAX => json!({"type": "integer", "minimum": min}),
        Shape::Int { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Shape::Number => json!({"type": "number"}),
        Shape::Duration => {
            json!({"type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2})
        }
        Shape::Size => json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|K|k|M|G|T)$"}),
        Shape::Cpu => {
            json!({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?m?$"}]})
        }
        Shape::Tolerance => {
            json!({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9.eE+-]+ ?(%|pp)?$"}]})
        }
        Shape::Share => {
            json!({"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^<?=? ?[0-9.eE+-]+ ?%?$"}]})
        }
        Shape::Word(words) => json!({"enum": words}),
        Shape::Many(item) => {
            let one = shape(item, defs);
            json!({"anyOf": [one.clone(), {"type": "array", "items": one}]})
        }
        Shape::List(item) => json!({"type": "array", "items": shape(item, defs)}),
        Shape::Map(map) => {
            let name = def_name(map);
            if !defs.contains_key(&name) {
                defs.insert(name.clone(), Value::Null);
                let value = section(map, defs);
                defs.insert(name.clone(), value);
            }
            json!({"$ref": format!("#/$defs/{name}")})
        }
        Shape::Open(keys, value) => {
            let mut out = json!({"type": "object", "additionalProperties": shape(value, defs)});
            if let Some(pattern) = text::pattern(*keys) {
                out["propertyNames"] = json!({"pattern": pattern});
            }
            out
        }
        Shape::Either(shapes) => {
            let all: Vec<Value> = shapes.iter().map(|s| shape(s, defs)).collect();
            json!({"anyOf": all})
        }
    }
}

/// The tables of keys in `docs/pipeline.md`, between its two markers.
pub fn reference() -> String {
    let mut out = String::new();
    let mut queue: Vec<&'static Section> = vec![&PIPELINE];
    let mut at = 0;
    while let Some(section) = queue.get(at).copied() {
        at += 1;
        let title = section.title.replace('`', "");
        let _ = writeln!(out, "### {}{}\n", title[..1].to_uppercase(), &title[1..]);
        let _ = writeln!(out, "| key | value | meaning |\n|---|---|---|");
        for field in section.fields {
            let mark = if field.required { " **(required)**" } else { "" };
            let later = if field.later { " *(checked, not run yet)*" } else { "" };
            let doc = field.doc.replace('|', "\\|");
            let _ = writeln!(
                out,
                "| `{}` | {} | {doc}{mark}{later} |",
                field.key,
                say(&field.shape).replace('|', "\\|")
            );
            below(&field.shape, &mut queue);
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out
}

fn below(shape: &'static Shape, queue: &mut Vec<&'static Section>) {
    match shape {
        Shape::Map(section) => {
            // `train` has the keys of a step.
            let known = section.title == "`train`" || queue.iter().any(|s| std::ptr::eq(*s, *section));
            if !known {
                queue.push(section);
            }
        }
        Shape::Many(s) | Shape::List(s) | Shape::Open(_, s) => below(s, queue),
        Shape::Either(shapes) => shapes.iter().for_each(|s| below(s, queue)),
        _ => {}
    }
}

fn say(shape: &Shape) -> String {
    match shape {
        Shape::Text(kind) => match kind {
            Text::Any => "text",
            Text::Command => "command",
            Text::Name => "name",
            Text::Variable | Text::MatrixKey => "variable",
            Text::Branch => "branch glob",
            Text::Glob => "glob",
            Text::Path | Text::CachePath => "path",
            Text::Image => "image",
            Text::Cron => "cron expression",
            Text::Timezone => "time zone",
            Text::Baseline => "baseline",
            Text::Metric => "metric",
            Text::Pattern => "regular expression",
        }
        .to_owned(),
        Shape::Value => "text, number or boolean".to_owned(),
        Shape::Bool => "true or false".to_owned(),
        Shape::Int { max, .. } if *max > 1_000_000 => "number".to_owned(),
        Shape::Int { min, max } => format!("{min} to {max}"),
        Shape::Number => "number".to_owned(),
        Shape::Duration => "duration".to_owned(),
        Shape::Size => "size".to_owned(),
        Shape::Cpu => "cores".to_owned(),
        Shape::Tolerance => "tolerance".to_owned(),
        Shape::Share => "number or share".to_owned(),
        Shape::Word(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Shape::Many(item) => format!("{}, or a list", say(item)),
        Shape::List(item) => format!("list of {}", say(item)),
        Shape::Map(section) => section.title.replace('`', ""),
        Shape::Open(_, value) => format!("mapping to {}", say(value)),
        Shape::Either(shapes) => shapes.iter().map(say).collect::<Vec<_>>().join(" or "),
    }
}
