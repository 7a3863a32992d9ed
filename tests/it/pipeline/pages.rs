//! The pages and the schema that are made from the grammar.

use trainyard::pipeline;

use super::{EXPECTED, plan, read, root};

/// Does a value satisfy the part of JSON Schema that our schema uses? An unknown keyword fails, so that nothing is
/// taken as checked that is not.
fn satisfies(
    schema: &serde_json::Value,
    root: &serde_json::Value,
    value: &serde_json::Value,
    path: &str,
) -> Result<(), String> {
    use serde_json::Value;
    let fail = |why: String| Err(format!("{path}: {why}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                satisfies(&root["$defs"][name], root, value, path)?;
            }
            "type" => {
                let types: Vec<&str> = rule.as_array().map_or_else(
                    || vec![rule.as_str().unwrap()],
                    |l| l.iter().map(|t| t.as_str().unwrap()).collect(),
                );
                let good = types.iter().any(|t| match *t {
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("type {other}"),
                });
                if !good {
                    return fail(format!("is no {types:?}"));
                }
            }
            "anyOf" => {
                let tries: Vec<_> =
                    rule.as_array().unwrap().iter().map(|s| satisfies(s, root, value, path)).collect();
                if !tries.iter().any(Result::is_ok) {
                    return fail(format!("fits none: {tries:?}"));
                }
            }
            "enum" if !rule.as_array().unwrap().contains(value) => return fail(format!("is none of {rule}")),
            "pattern" => {
                if let Value::String(text) = value
                    && !regex::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)
                {
                    return fail(format!("does not match {rule}"));
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    if value.is_object() && value.get(key.as_str().unwrap()).is_none() {
                        return fail(format!("has no {key}"));
                    }
                }
            }
            "properties" | "additionalProperties" => {
                let Value::Object(object) = value else { continue };
                for (key, inner) in object {
                    let path = format!("{path}.{key}");
                    match (schema.get("properties").and_then(|p| p.get(key)), &schema["additionalProperties"])
                    {
                        (Some(known), _) => satisfies(known, root, inner, &path)?,
                        (None, Value::Bool(false)) => return Err(format!("{path}: is not known")),
                        (None, other) => satisfies(other, root, inner, &path)?,
                    }
                }
            }
            "propertyNames" => {
                for key in value.as_object().into_iter().flatten().map(|(k, _)| k) {
                    satisfies(rule, root, &Value::String(key.clone()), path)?;
                }
            }
            "items" => {
                for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
                    satisfies(rule, root, inner, &format!("{path}[{i}]"))?;
                }
            }
            "minimum" if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) => {
                return fail("is too small".into());
            }
            "exclusiveMinimum" if value.as_f64().is_some_and(|v| v <= rule.as_f64().unwrap()) => {
                return fail("is too small".into());
            }
            "maximum" if value.as_f64().is_some_and(|v| v > rule.as_f64().unwrap()) => {
                return fail("is too large".into());
            }
            "minLength" if value.as_str().is_some_and(|v| (v.len() as u64) < rule.as_u64().unwrap()) => {
                return fail("is too short".into());
            }
            "$schema" | "$id" | "$defs" | "title" | "description" | "enum" | "minimum"
            | "exclusiveMinimum" | "maximum" | "minLength" => {}
            other => panic!("the schema uses {other}, which this test does not know"),
        }
    }
    Ok(())
}

#[test]
fn the_schema_takes_what_the_parser_takes() {
    let schema = pipeline::schema();
    for file in [
        "tests/data/pipelines/whole.yaml",
        "tests/data/pipelines/smallest.yaml",
        "examples/churn/.trainyard.yaml",
    ] {
        let value: serde_json::Value = serde_saphyr::from_str(&read(file)).unwrap();
        satisfies(&schema, &schema, &value, file).unwrap();
        plan(&read(file));
    }
}

#[test]
fn the_schema_refuses_wrong_keys_and_types() {
    let schema = pipeline::schema();
    let forms = ["TY010", "TY013", "TY014", "TY015", "TY016", "TY019", "TY022", "TY039"];
    let mut refused = 0;
    for (name, rows) in EXPECTED {
        let form = rows.iter().any(|(place, _, _)| forms[1..4].iter().any(|c| place.ends_with(c)));
        let text = read(&format!("tests/data/broken/{name}.yaml"));
        let Ok(value) = serde_saphyr::from_str::<serde_json::Value>(&text) else { continue };
        // What needs two places to judge is lint's alone.
        if form && !matches!(*name, "empty_steps" | "empty_commands" | "model_member_unsaid") {
            assert!(satisfies(&schema, &schema, &value, name).is_err(), "{name} passes the schema");
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused}");
}

/// The committed files are what the grammar says; `UPDATE_DOCS=1 cargo test` writes them.
#[test]
fn committed_schema_and_pages_are_current() {
    let schema = serde_json::to_string_pretty(&pipeline::schema()).unwrap() + "\n";
    let page = read_or_empty("docs/pipeline.md");
    let (begin, end) = ("<!-- keys: begin (trainyard schema --keys) -->\n", "\n<!-- keys: end -->");
    let tables = match (page.find(begin), page.find(end)) {
        (Some(from), Some(to)) => {
            format!("{}{}{}", &page[..from + begin.len()], pipeline::reference(), &page[to..])
        }
        _ => panic!("docs/pipeline.md has lost its markers"),
    };
    for (path, text) in [
        ("docs/trainyard.schema.json", schema),
        ("docs/pipeline-errors.md", pipeline::codes_page()),
        ("docs/pipeline.md", tables),
    ] {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(root().join(path), &text).unwrap();
        }
        assert!(
            read_or_empty(path) == text,
            "{path} is not what the grammar says: UPDATE_DOCS=1 cargo test --test it committed_schema"
        );
    }
}

fn read_or_empty(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Every example in the page about the file is valid.
#[test]
fn examples_of_the_page_are_valid() {
    let page = read("docs/pipeline.md");
    let mut count = 0;
    for block in page.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        plan(text);
        count += 1;
    }
    assert!(count >= 3);
}
