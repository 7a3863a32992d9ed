//! `.trainyard.yaml` to a checked plan. Pure: text in, a [`Plan`] or [`Diagnostic`]s out; nothing is read, run or
//! asked for (but `files` lists a working tree). Any bytes are safe to give it: at most 100 ms and 64 MiB, and never a panic.
//!
//! `node` reads YAML into a tree with places, `grammar` is the one table of what may stand where, `check` walks the
//! tree along it, `build` with `steps` and `graph` makes the plan, `schema` prints the table for editors.

mod build;
mod check;
mod data;
mod diagnostic;
pub mod files;
mod grammar;
mod graph;
mod node;
mod placeholder;
mod schema;
mod steps;
mod text;
mod values;
mod when;

use std::collections::BTreeMap;

pub use diagnostic::{CODES, Code, Diagnostic, Severity, codes_page};
pub use placeholder::{RUN_VARIABLES, Unresolved, resolve};
pub use schema::{reference, schema};
pub use values::{cpu_milli, size_bytes};
pub use when::{Match, TriggerFacts, matches};

use crate::model::plan::{Plan, StepSpec};
use diagnostic::{Findings, code};

/// The file at the root of a repository; more may stand in [`DIRECTORY`].
pub const FILE: &str = ".trainyard.yaml";
/// Each `*.yaml` in it is a pipeline.
pub const DIRECTORY: &str = ".trainyard";

/// A file without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub plan: Plan,
    /// Warnings and notes, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// Parses and checks one file. `file_name` is its path in the repository: it names the pipeline if nothing else does.
///
/// # Errors
/// Everything that is wrong, in the order of the file, at most fifty findings; at least one of them is an error.
pub fn parse(file_name: &str, bytes: &[u8]) -> Result<Checked, Vec<Diagnostic>> {
    if bytes.len() > node::MAX_BYTES {
        let mut findings = Findings::new("");
        let message = format!("the file has {} bytes, at most {} are allowed", bytes.len(), node::MAX_BYTES);
        findings.add(
            code::TOO_LARGE,
            &(0..0),
            message,
            Some("move scripts into files of the repository".to_owned()),
        );
        return Err(findings.finish());
    }
    let source = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let mut findings = Findings::new(good);
            let message = format!("byte {} is not UTF-8 text", error.valid_up_to() + 1);
            findings.add(
                code::NOT_TEXT,
                &(good.len()..good.len()),
                message,
                Some("save the file as UTF-8".to_owned()),
            );
            return Err(findings.finish());
        }
    };
    let mut findings = Findings::new(source);
    let Some(root) = node::read(source, &mut findings) else {
        if !findings.has_errors() {
            let help = "the smallest pipeline is `train: python3 train.py`".to_owned();
            findings.add(code::EMPTY, &(0..0), "the file is empty", Some(help));
        }
        return Err(findings.finish());
    };
    let not_run = check::check(source, &root, &mut findings);
    let plan = build::build(file_name, source, &root, not_run, &mut findings);
    if findings.has_errors() {
        Err(findings.finish())
    } else {
        Ok(Checked { plan, warnings: findings.finish() })
    }
}

/// The name of the pipeline in a file that has errors, as far as it can be told: its status must stand where that of the
/// repaired file will stand. A `name:` line if there is one, else the file's name.
pub fn name_of_broken(file_name: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(node::MAX_BYTES)]);
    let declared = text.lines().find_map(|line| line.strip_prefix("name:")).map(|rest| {
        let rest = rest.split(" #").next().unwrap_or_default().trim();
        rest.trim_matches(['"', '\'']).to_owned()
    });
    declared.filter(|name| text::name(name).is_ok()).unwrap_or_else(|| build::default_name(file_name))
}

/// A step with every `${NAME}` outside of its commands replaced; `vars` are the run's, one for each of
/// [`RUN_VARIABLES`]. Keys of caches stay as they are: `${hash:FILE}` needs the source tree.
///
/// # Errors
/// The first text that cannot be resolved. A checked plan leaves none when all of [`RUN_VARIABLES`] are there and
/// the texts stay below 64 KiB.
pub fn resolve_step(step: &StepSpec, vars: &BTreeMap<String, String>) -> Result<StepSpec, Unresolved> {
    let mut out = step.clone();
    let mut known = vars.clone();
    known.extend(step.member.iter().map(|(k, v)| (k.to_ascii_uppercase(), v.clone())));
    let own: Vec<String> = step.member.keys().map(|k| k.to_ascii_uppercase()).collect();
    for (name, value) in &mut out.env {
        // A matrix value is data: what looks like a placeholder in it is not one.
        if !own.contains(name) {
            *value = resolve(value, &known)?;
        }
    }
    known.extend(out.env.clone());
    let texts = (out.image.iter_mut())
        .chain(&mut out.checkpoint)
        .chain(&mut out.junit)
        .chain(&mut out.artifacts)
        .chain(&mut out.reuse.inputs)
        .chain(out.data.iter_mut().map(|set| &mut set.path));
    for text in texts {
        *text = resolve(text, &known)?;
    }
    Ok(out)
}
