//! Tables with a header: Lightning's and Keras' CSV logs, `results.csv` of Ultralytics, DVCLive's plots, and what is named.

use super::files::{File, ROOM, Reader};
use super::found::{Found, Lane};
use super::json::{STEPS, TIMES};
use super::tail::{Read, Tail};
use crate::model::metric::from_nonfinite_word;

/// More columns are no metrics.
const MAX_COLUMNS: usize = 2_000;

fn cells(line: &[u8], delimiter: u8) -> Vec<String> {
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(line);
    let mut record = csv::ByteRecord::new();
    match reader.read_byte_record(&mut record) {
        Ok(true) => record
            .iter()
            .take(MAX_COLUMNS + 1)
            .map(|c| String::from_utf8_lossy(c).trim().to_owned())
            .collect(),
        _ => Vec::new(),
    }
}

fn number(cell: &str) -> Option<f64> {
    cell.parse::<f64>().ok().or_else(|| from_nonfinite_word(cell)).or(match cell {
        "True" | "true" => Some(1.0),
        "False" | "false" => Some(0.0),
        _ => None,
    })
}

/// Names of columns, and which of them is the training step.
struct Header {
    names: Vec<String>,
    step: Option<usize>,
    delimiter: u8,
}

impl Header {
    fn read(line: &[u8], tabs: bool) -> Self {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let semicolons = !line.contains(&b',') && line.contains(&b';');
        let delimiter = match (tabs, semicolons) {
            (true, _) => b'\t',
            (false, true) => b';', // Keras' `CSVLogger(separator=";")`
            (false, false) => b',',
        };
        let names = cells(line, delimiter);
        let step = STEPS.iter().find_map(|s| names.iter().position(|n| n == s));
        Self { names, step, delimiter }
    }

    fn row(&self, line: &[u8]) -> (Option<i64>, Vec<(&str, f64)>) {
        let cells = cells(line, self.delimiter);
        let step =
            self.step.and_then(|at| number(cells.get(at)?)).filter(|s| s.is_finite()).map(|s| s as i64);
        let values = self
            .names
            .iter()
            .zip(&cells)
            .filter(|(name, _)| !STEPS.contains(&name.as_str()) && !TIMES.contains(&name.as_str()))
            .filter_map(|(name, cell)| Some((name.as_str(), number(cell)?)))
            .collect();
        (step, values)
    }
}

/// Rows of numbers below a header that has a step or an epoch.
pub struct Table {
    tail: Tail,
    /// Its name says that these are metrics; else only a first column `epoch` does, as Keras writes it.
    sure: bool,
    header: Option<Header>,
    mistaken: bool,
}

impl Table {
    pub fn new(sure: bool) -> Self {
        Self { tail: Tail::default(), sure, header: None, mistaken: false }
    }
}

/// The first line of a file, when it is a whole one.
fn first_line(file: &File<'_>) -> Option<Vec<u8>> {
    use std::io::{BufRead as _, Read as _};
    let opened = super::super::paths::open_plain(file.path).ok()?;
    let mut line = Vec::new();
    std::io::BufReader::new(opened.take(64 * 1024)).read_until(b'\n', &mut line).ok()?;
    (line.ends_with(b"\n") || file.last).then_some(line)
}

impl Reader for Table {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        if self.mistaken {
            return;
        }
        // The header may be written anew with more columns (Lightning does), so it is read from the file each time.
        let Some(line) = first_line(file) else { return };
        let header = Header::read(line.trim_ascii_end(), file.name.ends_with(".tsv"));
        let keras = header.names.first().is_some_and(|n| n == "epoch") && header.names.len() > 1;
        if !self.sure && !keras {
            self.mistaken = true;
            return;
        }
        if header.step.is_none() {
            return file.say("it has no column `step` or `epoch`");
        }
        if header.names.len() > MAX_COLUMNS {
            return file.say(format!("it has more than {MAX_COLUMNS} columns"));
        }
        let lane = lane(file);
        let header = self.header.insert(header);
        let (path, now, before, last) = (file.path, file.now, file.before, file.last);
        let head: &[u8] = line.trim_ascii_end();
        self.tail.read(path, now, before, last, &|line| header.row(line).0, &mut |read| {
            match read {
                Read::Line(line) if line.trim_ascii_end() == head => {}
                Read::Line(line) => {
                    let (step, values) = header.row(line);
                    if step.is_none() && !values.is_empty() {
                        file.say("rows without a step were skipped");
                    } else {
                        for (name, value) in values {
                            found.point_in(&lane, name, value, step);
                        }
                    }
                }
                Read::Skipped => file.say("a line of over 256 KiB was skipped"),
                Read::Restart => {}
            }
            found.points.len() <= ROOM
        });
    }

    fn mistaken(&self) -> bool {
        self.mistaken
    }
}

/// `lightning_logs/version_1/metrics.csv` is told from `version_0` by that; other tables by their own names.
fn lane(file: &File<'_>) -> Lane {
    let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let stem = last(file.name.rsplit_once('.').map_or(file.name, |(stem, _)| stem));
    let label = if stem == "metrics" || stem == "results" { last(file.dir()) } else { stem };
    Lane { kind: "csv", place: file.name.to_owned(), label }
}

/// `<dir>/plots/metrics/train/loss.tsv`: the name is the path below `plots/metrics`.
#[derive(Default)]
pub struct DvcLivePlot {
    tail: Tail,
}

impl Reader for DvcLivePlot {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        let Some(line) = first_line(file) else { return };
        let header = Header::read(line.trim_ascii_end(), true);
        let Some((dir, name)) = file.name.rsplit_once("plots/metrics/") else { return };
        let name = name.strip_suffix(".tsv").unwrap_or(name);
        let dir = dir.trim_end_matches('/');
        let label = dir.rsplit('/').next().unwrap_or(dir).to_owned();
        let lane = Lane { kind: "dvclive", place: dir.to_owned(), label };
        let (path, now, before, last) = (file.path, file.now, file.before, file.last);
        let head: &[u8] = line.trim_ascii_end();
        self.tail.read(path, now, before, last, &|line| header.row(line).0, &mut |read| {
            match read {
                Read::Line(line) if line.trim_ascii_end() == head => {}
                Read::Line(line) => {
                    let (step, values) = header.row(line);
                    // A column beside the step: the metric's own name, whole or its last part.
                    if let Some((_, value)) = values.first() {
                        found.point_in(&lane, name, *value, step);
                    }
                }
                Read::Skipped => file.say("a line of over 256 KiB was skipped"),
                Read::Restart => {}
            }
            found.points.len() <= ROOM
        });
    }
}
