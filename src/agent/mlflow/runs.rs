//! From what was logged to the attempt's metrics and parameters.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use super::state::Line;
use super::{MAX_NESTED, Shared};
use crate::agent::collect::{Collector, Found, Lane, ROOM};
use crate::model::metric::MetricSource;

/// The collector of what a script logs to the tracking endpoint.
pub struct Runs {
    shared: Arc<Shared>,
    offset: u64,
    changes: u64,
    points: u64,
    params: u64,
}

impl Runs {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, offset: 0, changes: 0, points: 0, params: 0 }
    }

    fn points(&mut self, found: &mut Found, last: bool) {
        // Runs and the file's end of one moment: a point written after it may be of a run that is not among `lanes` yet.
        let (mut file, end, lanes): (_, _, Vec<(Lane, bool)>) = {
            let state = self.shared.state();
            let Ok(file) = std::fs::File::open(state.points_file()) else { return };
            let Ok(end) = file.metadata().map(|m| m.len()) else { return };
            let lane = |r: &super::state::Run| {
                (Lane { kind: "mlflow", place: r.id.clone(), label: r.label.clone() }, r.nested)
            };
            (file, end, state.runs.iter().map(lane).collect())
        };
        if end <= self.offset || file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        let unread = end - self.offset;
        let mut lines = BufReader::with_capacity(1 << 18, file.take(unread));
        let mut line = Vec::new();
        while last || found.points.len() <= ROOM {
            line.clear();
            match lines.read_until(b'\n', &mut line) {
                Ok(n) if n > 0 && line.ends_with(b"\n") => self.offset += n as u64,
                _ => return,
            }
            let Ok((run, key, bits, step, _)) = serde_json::from_slice::<Line>(&line) else { continue };
            let Some((lane, nested)) = lanes.get(run) else { continue };
            if *nested {
                found.point(&format!("{}/{key}", lane.label), f64::from_bits(bits), Some(step));
            } else {
                found.point_in(lane, &key, f64::from_bits(bits), Some(step));
            }
        }
    }

    /// Parameters as they are, tags as `tag/NAME`, digests of data sets as `dataset/NAME`. MLflow's own tags say nothing of the model.
    fn params(&mut self, found: &mut Found) {
        let state = self.shared.state();
        if state.changes == self.changes {
            return;
        }
        self.changes = state.changes;
        for run in state.runs.iter().filter(|r| r.kept) {
            let lane = Lane { kind: "mlflow parameters", place: run.id.clone(), label: run.label.clone() };
            let tags = run.tags.iter().filter(|(k, _)| !k.starts_with("mlflow."));
            let named = (run.params.iter().map(|(k, v)| (k.clone(), v)))
                .chain(tags.map(|(k, v)| (format!("tag/{k}"), v)))
                .chain(run.datasets.iter().map(|(k, v)| (format!("dataset/{k}"), v)));
            for (name, value) in named {
                if run.nested || !found.owns(&lane, &name) {
                    found.param(&format!("{}/{name}", run.label), value);
                } else {
                    found.param(&name, value);
                }
            }
        }
    }
}

impl Collector for Runs {
    fn poll(&mut self, found: &mut Found, last: bool) {
        let before = found.counts();
        self.points(found, last);
        self.points += found.counts().0 - before.0;
        self.params(found);
        if !last {
            return;
        }
        let state = self.shared.state();
        if state.runs.is_empty() {
            return;
        }
        self.params = state
            .runs
            .iter()
            .filter(|r| r.kept)
            .map(|r| {
                (r.params.len()
                    + r.datasets.len()
                    + r.tags.keys().filter(|k| !k.starts_with("mlflow.")).count()) as u64
            })
            .sum();
        let mut said = Vec::new();
        let names = |nested: bool| -> Vec<String> {
            state
                .runs
                .iter()
                .filter(|r| r.kept && r.nested == nested)
                .take(5)
                .map(|r| r.name.clone())
                .collect()
        };
        let count = |nested: bool| state.runs.iter().filter(|r| r.kept && r.nested == nested).count();
        if count(false) > 1 {
            said.push(format!("{} runs, among them {}", count(false), names(false).join(", ")));
        }
        if count(true) > 0 {
            said.push(format!(
                "{} nested runs under their names, among them {}",
                count(true),
                names(true).join(", ")
            ));
        }
        let left = state.left_out;
        if left.nested > 0 {
            said.push(format!("{} further nested runs are not kept: {MAX_NESTED} are", left.nested));
        }
        for (count, what) in [
            (left.runs, "runs"),
            (left.points, "metric points"),
            (left.params, "parameters"),
            (left.tags, "tags"),
        ] {
            if count > 0 {
                said.push(format!("{count} {what} were left out"));
            }
        }
        let files = state.artifact_files;
        if files > 0 {
            said.push(format!("{files} artifact{}", if files == 1 { "" } else { "s" }));
        }
        found.source(MetricSource {
            kind: "mlflow".into(),
            place: "the tracking endpoint".into(),
            used: self.points + self.params > 0 || files > 0,
            points: self.points as i64,
            params: self.params as i64,
            note: said.join("; "),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::agent::mask::Masker;
    use crate::agent::mlflow::state::{Metric, NewRun, State};
    use crate::clock::ManualClock;

    /// A run that is made, and logs, while its points' file is being read.
    #[test]
    fn no_point_of_a_run_made_during_a_reading_is_lost() {
        const RUNS: usize = 1_500;
        let dir = tempfile::tempdir().unwrap();
        let state = Mutex::new(State::new(&dir.path().join("points")).unwrap());
        let shared = Arc::new(Shared { token: String::new(), artifacts: dir.path().to_owned(), state });
        let mut runs = Runs::new(Arc::clone(&shared));
        let mut found = Found::new(Masker::new::<&str, &str>(&[]), ManualClock::at(7));
        let script = std::thread::spawn(move || {
            for n in 0..RUNS {
                let run = shared.state().create(NewRun {
                    experiment: "0".into(),
                    name: None,
                    start_time: 0,
                    user: String::new(),
                    tags: BTreeMap::new(),
                });
                let metric = Metric { key: format!("m{n}"), value: 1.0, timestamp: 0, step: 0 };
                assert!(shared.state().log(&run.id, vec![metric], vec![], vec![]).unwrap());
            }
        });
        while !script.is_finished() {
            runs.points(&mut found, false);
        }
        script.join().unwrap();
        runs.points(&mut found, true);
        assert_eq!(found.points.len(), RUNS);
    }
}
