//! Keeps the calls that tests made of the sandbox, so that all of them can be held against the forges' own descriptions at the
//! end of a test run. Off unless `TRAINYARD_EXCHANGES` names a folder.
//!
//! One call of each kind is enough: calls are the same when operation, status, request and the answer's shape (its keys, types and
//! words) are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::state::Exchange;

/// Texts up to this length, of letters alone, are words of the API ("open", "symlink") and not data.
const WORD: usize = 24;

/// Writes one of each kind of call to a file of its own in the folder, a line each.
pub(super) fn keep(exchanges: &[Exchange]) {
    static FILES: AtomicU64 = AtomicU64::new(1);
    let Some(folder) = std::env::var_os("TRAINYARD_EXCHANGES") else { return };
    let mut distinct: BTreeMap<String, &Exchange> = BTreeMap::new();
    for exchange in exchanges {
        distinct.entry(kind(exchange)).or_insert(exchange);
    }
    if distinct.is_empty() {
        return;
    }
    let name = format!("{}-{}.jsonl", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
    let written = std::fs::File::create_new(Path::new(&folder).join(&name)).and_then(|mut file| {
        for exchange in distinct.values() {
            serde_json::to_writer(&mut file, exchange)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    });
    if let Err(error) = written {
        tracing::error!(%error, name, "cannot keep the calls of a test");
    }
}

fn kind(exchange: &Exchange) -> String {
    // Ids, commits and encoded names of a path are data.
    let path: Vec<&str> = exchange
        .path
        .split('/')
        .map(|part| if part.bytes().any(|b| b.is_ascii_digit() || b == b'%') { "*" } else { part })
        .collect();
    let query: Vec<&str> =
        exchange.query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
    let mut kind = format!(
        "{} {} {}?{} {} {} ",
        exchange.forge,
        exchange.method,
        path.join("/"),
        query.join("&"),
        exchange.status,
        exchange.injected
    );
    shape(&exchange.request, &mut kind);
    shape(&exchange.response, &mut kind);
    kind
}

fn shape(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push('0'),
        Value::Bool(_) => out.push('b'),
        Value::Number(_) => out.push('n'),
        Value::String(text) if text.len() <= WORD && text.bytes().all(|b| b.is_ascii_alphabetic()) => {
            let _ = write!(out, "'{text}'");
        }
        Value::String(_) => out.push('s'),
        Value::Array(items) => {
            let mut shapes: Vec<String> = items
                .iter()
                .map(|item| {
                    let mut text = String::new();
                    shape(item, &mut text);
                    text
                })
                .collect();
            shapes.sort();
            shapes.dedup();
            let _ = write!(out, "[{}]", shapes.join(","));
        }
        Value::Object(fields) => {
            out.push('{');
            for (key, value) in fields {
                let _ = write!(out, "{key}:");
                shape(value, out);
                out.push(',');
            }
            out.push('}');
        }
    }
}
