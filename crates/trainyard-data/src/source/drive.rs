//! One pass over a source on all cores.
//!
//! A producer thread makes tasks in a fixed order, workers do them in any, and the caller's thread absorbs the results
//! in the order of the tasks: what comes out does not depend on the number of threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use arrow::array::ArrayRef;

use super::{File, Form, Source, blocks, delimited, ipc, jsonl, parquet};
use crate::error::{Error, Result};
use crate::schema::Kind;

/// Some rows of the columns of one group.
pub(crate) struct Batch {
    pub arrays: Vec<ArrayRef>,
    pub rows: usize,
    /// Of each column, the cells that could not be read as its kind (null in the array).
    pub invalid: Vec<u64>,
}

/// What is done with batches. A part belongs to one unit of rows and one group of columns.
pub(crate) trait Visitor: Sync {
    type Part: Send;
    fn start(&self, group: usize, unit: u64) -> Self::Part;
    /// Called once after `start`, with the columns of the group.
    fn open(&self, part: &mut Self::Part, columns: &[usize], unit: u64);
    fn batch(&self, part: &mut Self::Part, group: usize, batch: &Batch) -> Result<()>;
    fn finish(&self, part: &mut Self::Part, group: usize) -> Result<()>;
}

/// What is wrong with records as records, before any rule is asked.
#[derive(Debug, Clone, Default)]
pub struct Defects {
    /// Records with more or fewer fields than the header; the missing ones are null, the surplus is not read.
    pub ragged: u64,
    /// Lines that are no JSON object, or one that names a key twice (JSON lines).
    pub malformed: u64,
    /// Records of which a quote takes in other records, as one that is never closed does (CSV).
    pub open_quotes: u64,
    /// Cells that are not UTF-8, per column.
    pub not_utf8: Vec<u64>,
    /// Cells that do not parse as the column's kind, per column.
    pub unparsed: Vec<u64>,
    /// Cells that would parse as the next wider kind (integers that are floats), per column.
    pub wider: Vec<u64>,
    /// Numbers that begin with a zero that says nothing (`007`), per column: codes, where nobody declares numbers.
    pub padded: Vec<u64>,
    /// Examples: (column, cell), at most 20 per column.
    pub examples: Vec<(usize, String)>,
    /// Numbers of the first ragged or malformed records, from 1 in their unit of the file.
    pub records: Vec<u64>,
    /// Numbers of the first records with such a quote.
    pub quoted: Vec<u64>,
    /// Keys of JSON lines that the first lines lack.
    pub unknown_keys: std::collections::BTreeSet<String>,
}

impl Defects {
    pub(crate) fn for_columns(columns: usize) -> Self {
        Self {
            not_utf8: vec![0; columns],
            unparsed: vec![0; columns],
            wider: vec![0; columns],
            padded: vec![0; columns],
            ..Self::default()
        }
    }

    pub(crate) fn example(&mut self, column: usize, cell: &[u8]) {
        if self.examples.iter().filter(|(c, _)| *c == column).count() < 20 {
            self.examples.push((
                column,
                crate::findings::shown(&String::from_utf8_lossy(&cell[..cell.len().min(400)])),
            ));
        }
    }

    /// Records that are not as records should be, whatever their cells hold.
    pub fn bad_records(&self) -> u64 {
        self.ragged + self.malformed + self.open_quotes
    }

    pub(crate) fn open_quote(&mut self, record: u64) {
        self.open_quotes += 1;
        if self.quoted.len() < 20 {
            self.quoted.push(record);
        }
    }

    fn merge(&mut self, other: Self, rows_before: u64) {
        self.ragged += other.ragged;
        self.malformed += other.malformed;
        self.open_quotes += other.open_quotes;
        for (mine, theirs) in [
            (&mut self.not_utf8, &other.not_utf8),
            (&mut self.unparsed, &other.unparsed),
            (&mut self.wider, &other.wider),
            (&mut self.padded, &other.padded),
        ] {
            mine.resize(theirs.len().max(mine.len()), 0);
            for (a, b) in mine.iter_mut().zip(theirs) {
                *a += b;
            }
        }
        for (column, cell) in other.examples {
            if self.examples.iter().filter(|(c, _)| *c == column).count() < 20 {
                self.examples.push((column, cell));
            }
        }
        for (mine, theirs) in [(&mut self.records, &other.records), (&mut self.quoted, &other.quoted)] {
            mine.extend(theirs.iter().map(|r| r + rows_before));
            mine.truncate(20);
        }
        self.unknown_keys.extend(other.unknown_keys);
    }
}

/// How a pass went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub rows: u64,
    /// Rows of each unit, in order.
    pub unit_rows: Vec<u64>,
    pub defects: Defects,
}

impl Report {
    /// The row, from 0, of a row of a unit.
    pub fn row(&self, unit: u64, within: u64) -> u64 {
        self.unit_rows[..(unit as usize).min(self.unit_rows.len())].iter().sum::<u64>() + within
    }
}

enum Task {
    Columns { file: usize, row_group: usize, group: usize },
    Block { file: usize, bytes: Vec<u8> },
    Batches { file: usize, from: usize, to: usize },
    Stream { file: usize },
}

struct Done<P> {
    unit: u64,
    rows: u64,
    parts: Vec<(usize, P)>,
    defects: Defects,
}

impl Source {
    /// Reads everything once: `groups` are sets of columns that are wanted in one batch.
    pub(crate) fn drive<V: Visitor>(
        &self,
        groups: &[Vec<usize>],
        visitor: &V,
        absorb: &mut dyn FnMut(usize, V::Part) -> Result<()>,
    ) -> Result<Report> {
        let stop = AtomicBool::new(false);
        let (tasks, queue) = mpsc::sync_channel::<(u64, u64, Result<Task>)>(1);
        let queue = Mutex::new(queue);
        let (results, done) = mpsc::channel::<(u64, Result<Done<V::Part>>)>();
        let mut report = Report { defects: Defects::for_columns(self.fields.len()), ..Report::default() };
        std::thread::scope(|scope| {
            let stopped = &stop;
            scope.spawn(move || self.produce(groups, &tasks, stopped));
            for _ in 0..self.threads {
                let (queue, results) = (&queue, results.clone());
                scope.spawn(move || {
                    loop {
                        let next = match queue.lock() {
                            Ok(queue) => queue.recv(),
                            Err(_) => return,
                        };
                        let Ok((index, unit, task)) = next else { return };
                        if stopped.load(Ordering::Relaxed) {
                            continue;
                        }
                        let result = task.and_then(|task| {
                            super::guarded(&self.name, "its content", || {
                                self.work(unit, task, groups, visitor)
                            })
                        });
                        // Nobody listens after an error; the queue is still emptied, so that the producer ends.
                        let _ = results.send((index, result));
                    }
                });
            }
            drop(results);
            let mut waiting = BTreeMap::new();
            let mut next = 0;
            let mut failed = None;
            for (index, result) in done {
                waiting.insert(index, result);
                while let Some(result) = waiting.remove(&next) {
                    next += 1;
                    if failed.is_some() {
                        continue;
                    }
                    let absorbed = result.and_then(|done| {
                        let Done { unit, rows, parts, defects } = done;
                        // Each group of columns of a unit knows of the cells of its own.
                        report.defects.merge(defects, report.rows);
                        if report.unit_rows.len() as u64 == unit {
                            report.unit_rows.push(rows);
                            report.rows += rows;
                        }
                        parts.into_iter().try_for_each(|(group, part)| absorb(group, part))
                    });
                    if let Err(e) = absorbed {
                        failed = Some(e);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                if failed.is_some() {
                    break;
                }
            }
            // An error of a later task, when the earlier ones never came.
            failed.or_else(|| waiting.into_values().find_map(Result::err)).map_or(Ok(()), Err)
        })?;
        Ok(report)
    }

    fn produce(
        &self,
        groups: &[Vec<usize>],
        tasks: &mpsc::SyncSender<(u64, u64, Result<Task>)>,
        stop: &AtomicBool,
    ) {
        let (mut index, mut unit) = (0, 0);
        let mut send = |unit: u64, task: Result<Task>| {
            index += 1;
            !stop.load(Ordering::Relaxed) && tasks.send((index - 1, unit, task)).is_ok()
        };
        for (file, entry) in self.files.iter().enumerate() {
            match &entry.form {
                Form::Parquet { metadata, .. } => {
                    for row_group in 0..metadata.metadata().num_row_groups() {
                        for group in 0..groups.len() {
                            if !send(unit, Ok(Task::Columns { file, row_group, group })) {
                                return;
                            }
                        }
                        unit += 1;
                    }
                }
                Form::Csv(_) | Form::JsonLines => {
                    let (start, delimiter) = match &entry.form {
                        Form::Csv(dialect) => (dialect.data_start, Some(dialect.delimiter)),
                        _ => (0, None),
                    };
                    let mut blocks = blocks::Blocks::new(&entry.location, start, delimiter);
                    while let Some(block) = blocks.next() {
                        let broken = block.is_err();
                        if !send(unit, block.map(|bytes| Task::Block { file, bytes })) || broken {
                            return;
                        }
                        unit += 1;
                    }
                }
                Form::ArrowFile { file: parts, .. } => {
                    let batches = parts.batches.len();
                    for from in (0..batches).step_by(16) {
                        let task = Task::Batches { file, from, to: (from + 16).min(batches) };
                        if !send(unit, Ok(task)) {
                            return;
                        }
                        unit += 1;
                    }
                }
                Form::ArrowStream { .. } => {
                    if !send(unit, Ok(Task::Stream { file })) {
                        return;
                    }
                    unit += 1;
                }
            }
        }
    }

    fn work<V: Visitor>(
        &self,
        unit: u64,
        task: Task,
        groups: &[Vec<usize>],
        visitor: &V,
    ) -> Result<Done<V::Part>> {
        let mut rows = 0;
        let mut defects = Defects::for_columns(self.fields.len());
        let parts = match task {
            Task::Columns { file, row_group, group } => {
                let File { location, form: Form::Parquet { metadata, columns } } = &self.files[file] else {
                    return Err(Error::data(&self.name, "has changed while it was read"));
                };
                let mut part = visitor.start(group, unit);
                let wanted = &groups[group];
                let needs = parquet::Chunks::of(metadata, row_group, columns, wanted).needs();
                let _held = self.budget.take(needs);
                visitor.open(&mut part, wanted, unit);
                rows = parquet::read(
                    location,
                    metadata,
                    row_group,
                    columns,
                    wanted,
                    &self.fields,
                    &mut |batch| {
                        for (column, invalid) in wanted.iter().zip(&batch.invalid) {
                            // A column of several groups is read for each.
                            if !groups[..group].iter().any(|g| g.contains(column)) {
                                defects.unparsed[*column] += invalid;
                            }
                        }
                        visitor.batch(&mut part, group, &batch)
                    },
                )?;
                visitor.finish(&mut part, group)?;
                vec![(group, part)]
            }
            Task::Block { .. } | Task::Batches { .. } | Task::Stream { .. } => {
                let mut parts: Vec<V::Part> = (0..groups.len()).map(|g| visitor.start(g, unit)).collect();
                for (part, wanted) in parts.iter_mut().zip(groups) {
                    visitor.open(part, wanted, unit);
                }
                // What is no value of a type that the file itself declares, readers of text have counted.
                let declared = matches!(task, Task::Batches { .. } | Task::Stream { .. });
                let mut unread = vec![0; self.fields.len()];
                let mut feed = |batch: Batch| -> Result<()> {
                    rows += batch.rows as u64;
                    if declared {
                        unread.iter_mut().zip(&batch.invalid).for_each(|(sum, n)| *sum += n);
                    }
                    for (group, wanted) in groups.iter().enumerate() {
                        let batch = Batch {
                            arrays: wanted.iter().map(|c| batch.arrays[*c].clone()).collect(),
                            rows: batch.rows,
                            invalid: wanted.iter().map(|c| batch.invalid[*c]).collect(),
                        };
                        visitor.batch(&mut parts[group], group, &batch)?;
                    }
                    Ok(())
                };
                match task {
                    Task::Block { file, bytes } => {
                        let (name, fields) = (&self.files[file].location.name, &self.fields);
                        match &self.files[file].form {
                            Form::Csv(dialect) => {
                                delimited::read(name, &bytes, dialect, fields, &mut defects, &mut feed)?;
                            }
                            _ => jsonl::read(name, &bytes, fields, &mut defects, &mut feed)?,
                        }
                    }
                    Task::Batches { file, from, to } => {
                        if let Form::ArrowFile { columns, file: parts } = &self.files[file].form {
                            ipc::read_file(
                                &self.files[file].location,
                                parts,
                                columns,
                                &self.fields,
                                from..to,
                                &mut feed,
                            )?;
                        }
                    }
                    Task::Stream { file } => {
                        if let Form::ArrowStream { columns } = &self.files[file].form {
                            ipc::read_stream(&self.files[file].location, columns, &self.fields, &mut feed)?;
                        }
                    }
                    Task::Columns { .. } => {}
                }
                defects.unparsed.iter_mut().zip(unread).for_each(|(sum, n)| *sum += n);
                for (group, part) in parts.iter_mut().enumerate() {
                    visitor.finish(part, group)?;
                }
                parts.into_iter().enumerate().collect()
            }
        };
        Ok(Done { unit, rows, parts, defects })
    }

    /// Takes wider kinds for columns whose first lines promised narrower ones; whether anything changed. Only text
    /// formats promise without knowing.
    pub(crate) fn widen(&mut self, report: &Report) -> bool {
        let mut changed = false;
        if !self.files.iter().any(|f| matches!(f.form, Form::Csv(_) | Form::JsonLines)) {
            return false;
        }
        for key in &report.defects.unknown_keys {
            if self.fields.len() < 10_000 {
                self.fields.push(crate::schema::Field {
                    name: key.clone(),
                    kind: self.kinds.get(key).copied().unwrap_or(Kind::Text),
                    physical: "json".to_owned(),
                });
                changed = true;
            }
        }
        for (i, field) in self.fields.iter_mut().enumerate().take(report.defects.unparsed.len()) {
            let (wider, unparsed) = (report.defects.wider[i], report.defects.unparsed[i]);
            // Cells that are not as declared are findings, few or many.
            let declared = self.kinds.get(&field.name);
            if matches!(field.kind, Kind::Text | Kind::Other) || declared == Some(&field.kind) {
                continue;
            }
            let code = report.defects.padded[i] > 0 && !matches!(declared, Some(Kind::Int | Kind::Float));
            if code || unparsed * 20 > report.rows {
                field.kind = Kind::Text;
                changed = true;
            } else if wider > 0 && field.kind == Kind::Int {
                field.kind = Kind::Float;
                changed = true;
            }
        }
        changed
    }
}
