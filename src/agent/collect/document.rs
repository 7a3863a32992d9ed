//! Whole JSON and YAML documents: plain metrics, results of lm-eval, Hugging Face's states and results, parameters.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::files::{File, Reader};
use super::found::{Found, Lane};
use super::json;

/// Larger documents are no metric files.
const MAX_DOCUMENT: u64 = 4 << 20;
/// The history of a long training.
const MAX_STATE: u64 = 64 << 20;
const MAX_PARAMS: u64 = 256 * 1024;

/// The document, unless it is half written or none. While the commands run only a whole one is of use.
fn parsed(file: &mut File<'_>, max: u64) -> Option<Value> {
    match file.whole(max).and_then(|bytes| json::parse(&bytes).map_err(|e| e.to_string())) {
        Ok(value) => Some(value),
        Err(error) => {
            if file.last {
                file.say(error.clone());
            }
            None
        }
    }
}

/// A JSON document of numbers. It is read whole each time it was written; only changes are reported.
#[derive(Default)]
pub struct Document {
    values: BTreeMap<String, (u64, Option<i64>)>,
}

impl Document {
    fn point(&mut self, found: &mut Found, metric: &str, value: f64, step: Option<i64>) {
        let now = (value.to_bits(), step);
        if self.values.get(metric) != Some(&now) {
            found.point(metric, value, step);
            self.values.insert(metric.to_owned(), now);
        }
    }
}

impl Reader for Document {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        match parsed(file, MAX_DOCUMENT) {
            Some(Value::Object(object)) => {
                if let Some(results) = evaluation(&object) {
                    for (metric, value) in results {
                        self.point(found, &metric, value, None);
                    }
                    if let Some(config @ Value::Object(_)) = object.get("config") {
                        json::params(config, "config", 0, &mut |name, value| found.param(name, value));
                    }
                    return;
                }
                let step = json::step_of(&object);
                for (metric, value) in json::numbers(&object) {
                    self.point(found, &metric, value, step);
                }
            }
            Some(Value::Array(entries)) => {
                for (metric, value) in json::named_numbers(&entries) {
                    self.point(found, &metric, value, None);
                }
                // Plots: a list of rows, each with its step.
                for row in entries.iter().filter_map(Value::as_object) {
                    if let Some(step) = json::step_of(row) {
                        for (metric, value) in json::numbers(row) {
                            found.point(&metric, value, Some(step));
                        }
                    }
                }
            }
            Some(_) if file.last => file.say("it is neither an object nor a list"),
            _ => {}
        }
    }
}

/// Results of lm-eval (`results.{task}."metric,filter"`) and lighteval (`results."suite|task|shots".metric`): names are
/// `task/metric`, with a filter other than `none` behind.
fn evaluation(object: &Map<String, Value>) -> Option<Vec<(String, f64)>> {
    const SIGNS: &[&str] = &["configs", "n-shot", "versions", "config_general", "config_tasks"];
    let results = object.get("results")?.as_object()?;
    if !SIGNS.iter().any(|sign| object.contains_key(*sign)) {
        return None;
    }
    let mut numbers = Vec::new();
    for (task, metrics) in results {
        for (metric, value) in metrics.as_object().into_iter().flatten() {
            if let Some(value) = json::number(value) {
                let (name, filter) = metric.split_once(',').unwrap_or((metric, "none"));
                let behind = if filter == "none" { String::new() } else { format!("/{filter}") };
                numbers.push((format!("{task}/{name}{behind}"), value));
            }
        }
    }
    Some(numbers)
}

/// `trainer_state.json` of the Hugging Face Trainer: its `log_history` has all that was logged so far.
pub struct TrainerState;

impl Reader for TrainerState {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        let Some(state) = parsed(file, MAX_STATE) else { return };
        let Some(history) = state.get("log_history").and_then(Value::as_array) else {
            if file.last {
                file.say("it has no `log_history`");
            }
            return;
        };
        // Checkpoints of one training lie beside each other and repeat the history before them.
        let dir = file.dir();
        let (above, own) = dir.rsplit_once('/').unwrap_or(("", dir));
        let place = if own.starts_with("checkpoint-") { above } else { dir };
        let label = place.rsplit('/').next().unwrap_or(place).to_owned();
        let lane = Lane { kind: "hugging face", place: place.to_owned(), label };
        for entry in history.iter().filter_map(Value::as_object) {
            let step = json::step_of(entry);
            for (metric, value) in json::numbers(entry) {
                found.point_in(&lane, &metric, value, step);
            }
        }
    }
}

/// `all_results.json` and its like: the final words of a Hugging Face script. Their epoch is no step.
#[derive(Default)]
pub struct HfResults {
    document: Document,
}

impl Reader for HfResults {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        if let Some(Value::Object(object)) = parsed(file, MAX_DOCUMENT) {
            for (metric, value) in json::numbers(&object) {
                self.document.point(found, &metric, value, None);
            }
        }
    }
}

/// `params.yaml`, `params.json`, `hparams.yaml`: they count even when they were there before, since a commit holds them.
pub struct Params;

impl Reader for Params {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        let bytes = match file.whole(MAX_PARAMS) {
            Ok(bytes) => bytes,
            Err(error) => return file.say(error.clone()),
        };
        let parsed = if file.name.ends_with(".json") {
            json::parse(&bytes).map_err(|e| e.to_string())
        } else {
            serde_saphyr::from_slice::<Value>(&bytes).map_err(|e| e.to_string())
        };
        match parsed {
            Ok(value) => json::params(&value, "", 0, &mut |name, value| found.param(name, value)),
            Err(error) if file.last => {
                file.say(error.lines().next().unwrap_or_default().to_owned());
            }
            Err(_) => {}
        }
    }
}
