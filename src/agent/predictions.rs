//! Reads the predictions that a step leaves (Parquet, CSV, JSON lines, Arrow), reports the metrics that follow from them, and
//! keeps what each example adds as a [`Sheet`], so that two runs can be held against each other example by example.
//!
//! Like every collector, it never changes a step's result: what cannot be used is said and passed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail};
use sha2::{Digest as _, Sha256};
use trainyard_data::cells::{self, Cells};
use trainyard_data::{Source, source, stats};

use super::collect::{Collector, Found};
use super::sheet::{Groups, MAX_EXAMPLES, PATH, Sheet, Slice};
use crate::model::outcome::GroupKind;
use crate::model::plan::{PredictionMetric, Predictions};

/// A slice of fewer examples says nothing.
pub const MIN_SLICE: usize = 50;
/// Slices of one column.
const MAX_SLICES: usize = 50;

pub struct Reader {
    wanted: Predictions,
    tree: PathBuf,
    /// Of the file before the commands ran.
    before: Option<(SystemTime, u64)>,
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

impl Reader {
    /// Before the commands run.
    pub fn new(tree: &Path, wanted: Predictions) -> Self {
        let _ = std::fs::remove_file(tree.join(PATH));
        let before = stamp(&tree.join(&wanted.path));
        Self { wanted, tree: tree.to_owned(), before }
    }
}

impl Collector for Reader {
    fn poll(&mut self, found: &mut Found, last: bool) {
        let path = self.tree.join(&self.wanted.path);
        let now = stamp(&path);
        if !last || now.is_none() {
            return; // of all steps, some one writes it
        }
        if now == self.before {
            let why = "it was there before the commands ran and was not touched by them".to_owned();
            found.passed_over("predictions", &self.wanted.path, why);
            return;
        }
        let before = found.counts();
        match read(&path, &self.wanted) {
            Ok((sheet, notes)) => {
                for (name, value) in metrics(&sheet) {
                    found.point(&name, value, None);
                }
                let kept = sheet.encode().map_err(anyhow::Error::from).and_then(|bytes| {
                    let place = self.tree.join(PATH);
                    if let Some(parent) = place.parent() {
                        std::fs::create_dir_all(parent)?;
                    }
                    Ok(std::fs::write(place, bytes)?)
                });
                if let Err(error) = kept {
                    found.note(format!("the predictions could not be kept: {error:#}"));
                }
                found.used("predictions", &self.wanted.path, before, notes.join("; "));
            }
            Err(error) => found.passed_over("predictions", &self.wanted.path, format!("{error:#}")),
        }
    }
}

/// The sheet of a file, and what is to be said of it.
fn read(path: &Path, wanted: &Predictions) -> anyhow::Result<(Sheet, Vec<String>)> {
    let spec = path.to_str().context("its path is not UTF-8")?;
    let table = Source::open(spec, &source::Options::default())?;
    let output =
        wanted.score.as_ref().or(wanted.prediction.as_ref()).context("no column of outputs is named")?;
    let mut names = vec![wanted.id.as_str(), wanted.label.as_str(), output.as_str()];
    let prediction = wanted.prediction.as_deref().filter(|p| *p != output);
    names.extend(prediction);
    names.extend(wanted.slices.iter().map(String::as_str));
    let grouping = wanted.cluster.as_ref().map(|c| (GroupKind::Clusters, c));
    let grouping = grouping.or(wanted.stratum.as_ref().map(|s| (GroupKind::Strata, s)));
    names.extend(grouping.map(|(_, column)| column.as_str()));
    let mut columns = cells::read(&table, &names, MAX_EXAMPLES)?.into_iter();
    let mut next = || columns.next().context("a column is missing");
    let (ids, labels, outputs) = (next()?, next()?, next()?);
    let classes = if prediction.is_some() { Some(next()?) } else { None };
    let n = ids.len();
    if n == 0 {
        bail!("it has no rows");
    }
    let digests = digests(&ids)
        .map_err(|i| anyhow!("row {} has no id: the column {:?} is empty there", i + 1, wanted.id))?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_unstable_by_key(|i| digests[*i]);
    if let Some(w) = order.windows(2).find(|w| digests[w[0]] == digests[w[1]]) {
        let (a, b) = (w[0].min(w[1]) + 1, w[0].max(w[1]) + 1);
        bail!("the column {:?} names an example twice, in rows {a} and {b}; an id must be unique", wanted.id);
    }
    let mut sheet = Sheet { ids: order.iter().map(|i| digests[*i]).collect(), ..Sheet::default() };
    sheet.test_set = test_set(&sheet.ids, &order, &labels)
        .map_err(|i| anyhow!("row {} has no label: the column {:?} is empty there", i + 1, wanted.label))?;
    let answers = classes.as_ref().unwrap_or(&outputs);
    for metric in &wanted.metrics {
        let classified = *metric == PredictionMetric::Accuracy;
        let (answered, column) = match (&classes, &wanted.prediction) {
            (Some(classes), Some(prediction)) if classified => (classes, prediction),
            _ => (&outputs, output),
        };
        let amiss = |i: usize| {
            let scored = wanted.prediction.is_none() || !classified;
            let zero_one = scored && !matches!(metric, PredictionMetric::Mae | PredictionMetric::Mse);
            let row = i + 1;
            let what = if zero_one && binary(&labels, i).is_none() {
                format!("the label in row {row} (column {:?}) is not 0 or 1", wanted.label)
            } else if is_missing(&labels, i) {
                format!("the label in row {row} (column {:?}) is missing or not finite", wanted.label)
            } else if is_missing(answered, i) {
                format!("the cell in row {row} of the column {column:?} is missing or not finite")
            } else {
                format!(
                    "the columns {:?} and {column:?} are not both numbers, or for classes both texts",
                    wanted.label
                )
            };
            anyhow!("{}: {what}", metric.word())
        };
        let values: Vec<f64> = match metric {
            PredictionMetric::Accuracy => {
                let scored = wanted.prediction.is_none();
                each(&order, |i| right(&labels, answers, scored, i))
            }
            PredictionMetric::Auc => {
                let scores = each(&order, |i| number(&outputs, i)).map_err(amiss)?;
                let positive = each(&order, |i| binary(&labels, i)).map_err(amiss)?;
                sheet.ranking = Some((scores, positive.iter().map(|l| *l > 0.5).collect()));
                continue;
            }
            PredictionMetric::LogLoss => each(&order, |i| {
                let (y, p) = (binary(&labels, i)?, number(&outputs, i)?.clamp(1e-15, 1.0 - 1e-15));
                Some(-(y * p.ln() + (1.0 - y) * (1.0 - p).ln()))
            }),
            PredictionMetric::Brier => {
                each(&order, |i| Some((binary(&labels, i)? - number(&outputs, i)?).powi(2)))
            }
            PredictionMetric::Mae => {
                each(&order, |i| Some((number(&labels, i)? - number(&outputs, i)?).abs()))
            }
            PredictionMetric::Mse => {
                each(&order, |i| Some((number(&labels, i)? - number(&outputs, i)?).powi(2)))
            }
        }
        .map_err(amiss)?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            bail!("{}: what row {} adds is not a finite number", metric.word(), order[at] + 1);
        }
        sheet.means.push((metric.word().to_owned(), values));
    }
    let mut notes = vec![format!("{n} examples")];
    for column in &wanted.slices {
        let (slice, left) = slice(column, &next()?, &order);
        if left > 0 {
            notes.push(format!("{left} slices by {column} are small or too many and are left out"));
        }
        sheet.slices.push(slice);
    }
    if let Some((kind, column)) = grouping {
        let (codes, count) = groups(&next()?, &order)
            .map_err(|i| anyhow!("row {} has no value in the column {column:?}", i + 1))?;
        notes.push(match kind {
            GroupKind::Clusters => format!("{count} clusters by {column}"),
            GroupKind::Strata => format!("{count} strata by {column}"),
        });
        sheet.groups = Some(Groups { kind, column: column.chars().take(60).collect(), codes });
    }
    Ok((sheet, notes))
}

/// One value for each example, in this order.
///
/// # Errors
/// The first row that gives none, from 0.
fn each(order: &[usize], of: impl Fn(usize) -> Option<f64>) -> Result<Vec<f64>, usize> {
    order.iter().map(|i| of(*i).ok_or(*i)).collect()
}

fn is_missing(cells: &Cells, i: usize) -> bool {
    match cells {
        Cells::Numbers(_) => number(cells, i).is_none(),
        Cells::Texts(x) => x.get(i).is_none_or(Option::is_none),
    }
}

fn number(cells: &Cells, i: usize) -> Option<f64> {
    match cells {
        Cells::Numbers(x) => x.get(i).copied().flatten().filter(|x| x.is_finite()),
        Cells::Texts(_) => None,
    }
}

fn binary(labels: &Cells, i: usize) -> Option<f64> {
    number(labels, i).filter(|y| *y == 0.0 || *y == 1.0)
}

/// Is the answer the label? Classes may be words; a score calls an example positive from one half on.
fn right(labels: &Cells, answers: &Cells, scored: bool, i: usize) -> Option<f64> {
    if scored {
        let (y, p) = (binary(labels, i)?, number(answers, i)?);
        return Some(f64::from((p >= 0.5) == (y > 0.5)));
    }
    match (labels, answers) {
        (Cells::Texts(y), Cells::Texts(a)) => Some(f64::from(y.get(i)?.as_ref()? == a.get(i)?.as_ref()?)),
        _ => Some(f64::from(number(labels, i)? == number(answers, i)?)),
    }
}

/// What stands for an id: its digest, so that a sheet names no one.
///
/// # Errors
/// The first row without one, from 0.
fn digests(ids: &Cells) -> Result<Vec<u64>, usize> {
    let digest = |bytes: &[u8]| {
        let hash = Sha256::digest(bytes);
        u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
    };
    match ids {
        Cells::Numbers(x) => x
            .iter()
            .enumerate()
            .map(|(i, x)| x.map(|x| digest(&x.to_bits().to_le_bytes())).ok_or(i))
            .collect(),
        Cells::Texts(x) => {
            x.iter().enumerate().map(|(i, t)| t.as_ref().map(|t| digest(t.as_bytes())).ok_or(i)).collect()
        }
    }
}

/// A number for each example, by the column's value, and how many there are.
///
/// # Errors
/// The first row without a value, from 0.
fn groups(cells: &Cells, order: &[usize]) -> Result<(Vec<u32>, usize), usize> {
    let digests = digests(cells)?;
    let mut numbers: std::collections::HashMap<u64, u32> = std::collections::HashMap::new();
    let mut codes = Vec::with_capacity(order.len());
    for i in order {
        let next = numbers.len() as u32;
        codes.push(*numbers.entry(digests[*i]).or_insert(next));
    }
    Ok((codes, numbers.len()))
}

/// One digest of all ids with their labels.
///
/// # Errors
/// The first row without a label, from 0.
fn test_set(ids: &[u64], order: &[usize], labels: &Cells) -> Result<String, usize> {
    let mut hash = Sha256::new();
    for (id, i) in ids.iter().zip(order) {
        hash.update(id.to_le_bytes());
        match labels {
            Cells::Numbers(x) => {
                hash.update(x[*i].ok_or(*i)?.to_bits().to_le_bytes());
            }
            Cells::Texts(x) => {
                let text = x[*i].as_ref().ok_or(*i)?;
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// The parts by one column's values, the largest first; how many are left out.
fn slice(column: &str, cells: &Cells, order: &[usize]) -> (Slice, usize) {
    let value = |i: usize| match cells {
        Cells::Numbers(x) => x[i].map(|x| x.to_string()),
        Cells::Texts(x) => x[i].as_ref().map(|t| t.chars().take(60).collect::<String>()),
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for i in order {
        if let Some(value) = value(*i) {
            *counts.entry(value).or_default() += 1;
        }
    }
    let all = counts.len();
    let mut large: Vec<(String, usize)> = counts.into_iter().filter(|(_, n)| *n >= MIN_SLICE).collect();
    large.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    large.truncate(MAX_SLICES);
    let values: Vec<String> = large.into_iter().map(|(value, _)| value).collect();
    let places: BTreeMap<&str, u16> = values.iter().map(String::as_str).zip(0..).collect();
    let code = |i: &usize| value(*i).and_then(|v| places.get(v.as_str()).copied()).unwrap_or(Slice::NONE);
    let codes = order.iter().map(code).collect();
    let left = all - values.len();
    (Slice { column: column.to_owned(), values, codes }, left)
}

/// The metrics of a sheet: over all examples, and by slice as `accuracy/by/plan=pro`.
fn metrics(sheet: &Sheet) -> Vec<(String, f64)> {
    let mut out: Vec<(String, f64)> =
        sheet.means.iter().map(|(name, values)| (name.clone(), stats::mean(values))).collect();
    if let Some((scores, labels)) = &sheet.ranking
        && let Some(auc) = stats::delong(labels, scores, scores)
    {
        out.push(("auc".to_owned(), auc.auc_a));
    }
    for slice in &sheet.slices {
        for (code, value) in (0_u16..).zip(&slice.values) {
            for (name, values) in &sheet.means {
                let of: Vec<f64> =
                    values.iter().zip(&slice.codes).filter(|(_, c)| **c == code).map(|(v, _)| *v).collect();
                out.push((format!("{name}/by/{}={value}", slice.column), stats::mean(&of)));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::mask::Masker;
    use crate::clock::ManualClock;

    fn wanted(path: &str) -> Predictions {
        Predictions {
            path: path.into(),
            id: "id".into(),
            label: "y".into(),
            score: Some("p".into()),
            prediction: None,
            metrics: vec![PredictionMetric::Accuracy, PredictionMetric::Auc, PredictionMetric::LogLoss],
            slices: vec!["plan".into()],
            stratum: None,
            cluster: None,
        }
    }

    fn poll(tree: &Path, wanted: Predictions, write: impl FnOnce()) -> (Found, Option<Sheet>) {
        let mut found = Found::new(Masker::new(&[("TOKEN", "hunter2!")]), ManualClock::at(7));
        let mut reader = Reader::new(tree, wanted);
        write();
        reader.poll(&mut found, false);
        assert!(found.points.is_empty() && found.sources.is_empty(), "the commands may still write");
        reader.poll(&mut found, true);
        let sheet = std::fs::read(tree.join(PATH)).ok().map(|bytes| Sheet::decode(&bytes).unwrap());
        (found, sheet)
    }

    /// A hundred and twenty examples in some order, as CSV or as JSON lines.
    fn table(json: bool, order: impl Fn(usize) -> usize) -> String {
        let mut out = if json { String::new() } else { "id,y,p,plan\n".to_owned() };
        for at in 0..120 {
            let i = order(at);
            let (y, p, plan) =
                (i % 2, if i % 10 == 3 { 0.2 } else { 0.1 + 0.8 * (i % 2) as f64 }, ["a", "b"][i % 2]);
            let line = if json {
                format!("{{\"id\": \"u{i}\", \"y\": {y}, \"p\": {p}, \"plan\": \"{plan}\"}}\n")
            } else {
                format!("u{i},{y},{p},{plan}\n")
            };
            out.push_str(&line);
        }
        out
    }

    #[test]
    fn the_same_examples_give_the_same_sheet_in_any_order_and_format() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        let csv =
            poll(tree, wanted("p.csv"), || std::fs::write(tree.join("p.csv"), table(false, |i| i)).unwrap());
        let jsonl = poll(tree, wanted("p.jsonl"), || {
            std::fs::write(tree.join("p.jsonl"), table(true, |i| (i * 7) % 120)).unwrap();
        });
        assert!(csv.1.is_some() && csv.1 == jsonl.1, "{:?}", csv.0.sources);
        let points: BTreeMap<&str, f64> = csv.0.points.iter().map(|p| (p.name.as_str(), p.value)).collect();
        // Of 120, the twelve that end in 3 are called wrongly; all of those have label 1 and plan b.
        assert_eq!(points["accuracy"], 0.9);
        assert_eq!((points["accuracy/by/plan=a"], points["accuracy/by/plan=b"]), (1.0, 0.8));
        assert_eq!(points["auc"], 1.0, "0.2 is still above every 0.1");
        assert_eq!(csv.0.sources[0].note, "120 examples");

        // With clusters: the same examples belong together, in any order and format.
        let by = |path: &str, cluster: &str| Predictions { cluster: Some(cluster.into()), ..wanted(path) };
        std::fs::remove_file(tree.join("p.csv")).unwrap();
        let plain = poll(tree, by("p.csv", "plan"), || {
            std::fs::write(tree.join("p.csv"), table(false, |i| i)).unwrap();
        });
        std::fs::remove_file(tree.join("p.jsonl")).unwrap();
        let other = poll(tree, by("p.jsonl", "plan"), || {
            std::fs::write(tree.join("p.jsonl"), table(true, |i| (i * 7) % 120)).unwrap();
        });
        assert_eq!(plain.0.sources[0].note, "120 examples; 2 clusters by plan");
        let sheet = plain.1.unwrap();
        let groups = sheet.groups.clone().unwrap();
        assert_eq!(Some(sheet), other.1);
        assert_eq!(groups.codes.iter().filter(|c| **c == 0).count(), 60);
        std::fs::remove_file(tree.join("p.csv")).unwrap();
        let (found, sheet) = poll(tree, by("p.csv", "plan"), || {
            std::fs::write(tree.join("p.csv"), "id,y,p,plan\n1,1,0.5,a\n2,0,0.5,\n").unwrap();
        });
        assert!(
            sheet.is_none() && found.sources[0].note.contains("row 2 has no value in the column \"plan\"")
        );
    }

    #[test]
    fn what_cannot_be_used_is_said_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        let cases: &[(&str, &str)] = &[
            ("id,y,p,plan\n", "no rows"),
            ("id,y,plan\n1,1,a\n", "there is no column \"p\""),
            ("id,y,p,plan\n1,1,0.5,a\n1,0,0.5,a\n", "\"id\" names an example twice, in rows 1 and 2"),
            ("id,y,p,plan\n1,2,0.5,a\n2,0,0.5,a\n", "the label in row 1 (column \"y\") is not 0 or 1"),
            ("id,y,p,plan\n2,0,0.5,a\n1,1,,a\n", "row 2 of the column \"p\" is missing"),
            ("id,y,p,plan\n1,1,nan,a\n2,0,0.5,a\n", "row 1 of the column \"p\" is missing or not finite"),
            ("id,y,p,plan\n1,,0.5,a\n2,0,0.5,a\n", "row 1 has no label: the column \"y\""),
            ("id,y,p,plan\n1,1,high,a\n2,0,low,a\n", "are not both numbers"),
            ("id,y,p,plan\n,1,0.1,a\n2,0,0.5,a\n", "row 1 has no id: the column \"id\""),
        ];
        for (n, (text, why)) in cases.iter().enumerate() {
            let name = format!("{n}.csv");
            let (found, sheet) =
                poll(tree, wanted(&name), || std::fs::write(tree.join(&name), text).unwrap());
            assert!(sheet.is_none() && found.points.is_empty(), "case {n}");
            assert!(
                found.sources.len() == 1 && found.sources[0].note.contains(why),
                "case {n}: {:?}",
                found.sources
            );
        }
        // A file that was there before tells of another run.
        std::fs::write(tree.join("old.csv"), table(false, |i| i)).unwrap();
        let (found, sheet) = poll(tree, wanted("old.csv"), || {});
        assert!(sheet.is_none() && found.sources[0].note.contains("was there before"));
        println!("FIGURE predictions_spoiled cases={} panics=0", cases.len() + 1);
    }
}
