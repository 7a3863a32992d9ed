//! The one pass: every batch is added to profiles, held against the rules of cells, and its keys dealt out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::Int32Type;

use crate::error::{Error, Result};
use crate::exact::{self, Value, Whole};
use crate::profile::{ColumnProfile, Histogram, Profile};
use crate::rules::{CellRule, Monotonic, Pair, Rules, Tally};
use crate::schema::{Field, Kind};
use crate::sets::{Dealer, Keys, rows_of};
use crate::source::{Report, Source, show_time};

/// How to scan.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of keys held in memory before they spill.
    pub memory: usize,
    /// Where they spill to.
    pub folder: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: 64 << 20, folder: std::env::temp_dir() }
    }
}

/// What a pass found out.
pub struct Scanned {
    pub profile: Profile,
    pub report: Report,
    pub(crate) cells: BTreeMap<String, Vec<(CellRule, Tally)>>,
    pub(crate) orders: BTreeMap<String, Tally>,
    pub(crate) pairs: Vec<(Pair, Tally)>,
    /// In the order of [`Wanted::keys`].
    pub(crate) keys: Vec<Keys>,
}

/// Which keys a pass deals out.
#[derive(Debug, Clone)]
pub(crate) struct KeySet {
    pub columns: Vec<String>,
    /// Rows with a null in the key are left out (as SQL does), not compared.
    pub skip_nulls: bool,
    /// Keys are single integers, nulls left out; not for keys that are held against another table's.
    pub single: bool,
}

/// Profiles a source; `baseline` gives the edges of the histograms.
pub fn profile(source: &mut Source, baseline: Option<&Profile>) -> Result<Scanned> {
    scan(source, &Rules::default(), baseline, &[], &Options::default())
}

pub(crate) fn scan(
    source: &mut Source,
    rules: &Rules,
    baseline: Option<&Profile>,
    keys: &[KeySet],
    options: &Options,
) -> Result<Scanned> {
    // Kinds found from the first lines may turn out too narrow; each round widens at least one column.
    for _ in 0..3 {
        let scanned = once(source, rules, baseline, keys, options)?;
        if !source.widen(&scanned.report) {
            return Ok(scanned);
        }
    }
    once(source, rules, baseline, keys, options)
}

fn once(
    source: &Source,
    rules: &Rules,
    baseline: Option<&Profile>,
    keys: &[KeySet],
    options: &Options,
) -> Result<Scanned> {
    let edges = edges(source, baseline)?;
    let mut visitor = Pass {
        name: &source.name,
        edges,
        fields: &source.fields,
        cells: Vec::new(),
        orders: Vec::new(),
        groups: Vec::new(),
        keys: Vec::new(),
    };
    for field in &source.fields {
        let rule = rules.schema.get(&field.name);
        let mut cells = match rule {
            // A column of another type than its rules want has a finding of its own; its cells cannot be asked.
            Some(rule) if crate::check::misfit(rule, field).is_none() => CellRule::all(field, rule)?,
            _ => Vec::new(),
        };
        cells.shrink_to_fit();
        visitor.cells.push(cells);
        visitor.orders.push(rule.and_then(|r| r.monotonic).filter(|_| field.kind.is_numeric()));
    }
    // Columns one by one for parallel work; thousands of them in bundles.
    let bundle = source.fields.len().div_ceil(256).max(1);
    let mut groups: Vec<Vec<usize>> =
        (0..source.fields.len()).collect::<Vec<_>>().chunks(bundle).map(<[usize]>::to_vec).collect();
    visitor.groups = groups.iter().map(|_| Group::Columns).collect();
    let place = |column: &str| {
        source.index(column).ok_or_else(|| {
            Error::usage(format!("rules name the column {column:?}, which {} lacks", source.name))
        })
    };
    let mut pairs = Vec::new();
    for pair in &rules.pairs {
        let (left, right) = (place(&pair.left)?, place(&pair.right)?);
        if ![left, right].iter().all(|at| source.fields[*at].kind.is_numeric()) {
            continue;
        }
        groups.push(vec![left, right]);
        visitor.groups.push(Group::Pair(pair.clone()));
        pairs.push((pair.clone(), Tally::default()));
    }
    for set in keys {
        let columns = set.columns.iter().map(|c| place(c)).collect::<Result<Vec<_>>>()?;
        let rounded = columns.iter().map(|c| &source.fields[*c]);
        let rounded = rounded
            .map(|f| (set.skip_nulls && f.is_text() && f.kind == Kind::Float).then(|| f.name.clone()))
            .collect();
        visitor.groups.push(Group::Keys { at: visitor.keys.len(), skip_nulls: set.skip_nulls, rounded });
        visitor.keys.push(Keys::new(set.single, options.memory, &options.folder));
        groups.push(columns);
    }
    let mut columns: Vec<ColumnProfile> =
        source.fields.iter().enumerate().map(|(i, _)| visitor.empty(i)).collect();
    let mut tallies: Vec<Vec<Tally>> =
        visitor.cells.iter().map(|c| vec![Tally::default(); c.len()]).collect();
    let mut orders: Vec<Order> = source.fields.iter().map(|_| Order::default()).collect();
    let first_pair = groups.len() - pairs.len() - keys.len();
    let report = source.drive(&groups, &visitor, &mut |group, part| {
        match part {
            Part::Columns(parts) => {
                for (column, part) in groups[group].iter().zip(parts) {
                    columns[*column].merge(&part.profile);
                    for (mine, theirs) in tallies[*column].iter_mut().zip(part.tallies) {
                        mine.merge(theirs);
                    }
                    if let Some(wanted) = visitor.orders[*column] {
                        orders[*column].follow(part.order, wanted, &source.fields[*column]);
                    }
                }
            }
            Part::Pair(_, tally) => pairs[group - first_pair].1.merge(tally),
            Part::Keys(_) => {}
        }
        Ok(())
    })?;
    for column in &mut columns {
        column.seal();
        // Units without any batch (no rows) leave nothing behind.
        debug_assert_eq!(column.rows, report.rows);
    }
    let mut cells = BTreeMap::new();
    for ((field, rules), tallies) in source.fields.iter().zip(visitor.cells).zip(tallies) {
        if !rules.is_empty() {
            cells.insert(field.name.clone(), rules.into_iter().zip(tallies).collect());
        }
    }
    let orders = source
        .fields
        .iter()
        .zip(orders)
        .zip(&visitor.orders)
        .filter(|(_, wanted)| wanted.is_some())
        .map(|((field, order), _)| (field.name.clone(), order.tally))
        .collect();
    let mut profile = Profile::new(columns);
    profile.rows = report.rows;
    Ok(Scanned { profile, report, cells, orders, pairs, keys: visitor.keys })
}

/// The edges of each column's histogram: the baseline's where it has the column, else from a sample.
fn edges(source: &Source, baseline: Option<&Profile>) -> Result<Vec<Option<Vec<f64>>>> {
    let known: Vec<Option<Vec<f64>>> = source
        .fields
        .iter()
        .map(|f| {
            let numbers = baseline?.column(&f.name)?.numbers.as_ref()?;
            numbers.histogram.as_ref().filter(|_| f.kind.is_numeric()).map(|h| h.edges.clone())
        })
        .collect();
    let all_known = source.fields.iter().zip(&known).all(|(f, k)| k.is_some() || !f.kind.is_numeric());
    if all_known {
        return Ok(known);
    }
    let mut samples = source.sample()?;
    Ok(source
        .fields
        .iter()
        .zip(known)
        .zip(&mut samples)
        .map(|((field, known), sample)| {
            known.or_else(|| field.kind.is_numeric().then(|| Histogram::edges_of(sample)))
        })
        .collect())
}

enum Group {
    Columns,
    Pair(Pair),
    Keys {
        at: usize,
        skip_nulls: bool,
        /// Names of columns that were read as doubles from text.
        rounded: Vec<Option<String>>,
    },
}

struct Pass<'a> {
    /// The table's.
    name: &'a str,
    edges: Vec<Option<Vec<f64>>>,
    fields: &'a [Field],
    cells: Vec<Vec<CellRule>>,
    orders: Vec<Option<Monotonic>>,
    groups: Vec<Group>,
    keys: Vec<Keys>,
}

impl Pass<'_> {
    fn empty(&self, column: usize) -> ColumnProfile {
        ColumnProfile::new(self.fields[column].clone(), self.edges[column].as_deref())
    }
}

enum Part {
    Columns(Vec<ColumnPart>),
    Pair(Place, Tally),
    Keys(KeyPart),
}

struct ColumnPart {
    column: usize,
    profile: ColumnProfile,
    tallies: Vec<Tally>,
    order: Order,
    place: Place,
}

struct KeyPart {
    dealer: Dealer,
    place: Place,
}

/// Where a part has come to: its unit, and rows of it that are done.
#[derive(Clone, Copy)]
struct Place {
    unit: u64,
    row: u64,
}

/// A row's number while units are still read in any order.
fn row_id(place: Place, within: usize) -> u64 {
    (place.unit << 40) | (place.row + within as u64)
}

pub(crate) fn settled_row(report: &Report, id: u64) -> u64 {
    report.row(id >> 40, id & ((1 << 40) - 1))
}

impl crate::source::Visitor for Pass<'_> {
    type Part = Part;

    fn start(&self, group: usize, unit: u64) -> Part {
        let place = Place { unit, row: 0 };
        match &self.groups[group] {
            Group::Columns => Part::Columns(Vec::new()),
            Group::Pair(_) => Part::Pair(place, Tally::default()),
            Group::Keys { .. } => Part::Keys(KeyPart { dealer: Keys::dealer(), place }),
        }
    }

    fn open(&self, part: &mut Part, columns: &[usize], unit: u64) {
        if let Part::Columns(parts) = part {
            parts.extend(columns.iter().map(|column| ColumnPart {
                column: *column,
                profile: self.empty(*column),
                tallies: vec![Tally::default(); self.cells[*column].len()],
                order: Order::default(),
                place: Place { unit, row: 0 },
            }));
        }
    }

    fn batch(&self, part: &mut Part, group: usize, batch: &crate::source::Batch) -> Result<()> {
        match (part, &self.groups[group]) {
            (Part::Columns(parts), _) => {
                for ((part, array), invalid) in parts.iter_mut().zip(&batch.arrays).zip(&batch.invalid) {
                    part.profile.add(array);
                    part.profile.add_invalid(*invalid);
                    held_against(
                        &self.cells[part.column],
                        &mut part.tallies,
                        array,
                        part.place,
                        &self.fields[part.column],
                    );
                    if let Some(wanted) = self.orders[part.column] {
                        part.order.see(array, wanted, part.place, &self.fields[part.column]);
                    }
                    part.place.row += batch.rows as u64;
                }
            }
            (Part::Pair(place, tally), Group::Pair(pair)) => {
                let read = |i: usize| exact::numbers(&batch.arrays[i]);
                for (row, (a, b)) in read(0).into_iter().zip(read(1)).enumerate() {
                    let (Some(a), Some(b)) = (a, b) else { continue };
                    tally.checked += 1;
                    if !pair.is.holds(a.compare(b)) {
                        tally.broken((place.unit, place.row + row as u64), || format!("{a}, {b}"));
                    }
                }
                place.row += batch.rows as u64;
            }
            (Part::Keys(part), Group::Keys { at, skip_nulls, rounded }) => {
                for (array, column) in batch.arrays.iter().zip(rounded) {
                    if let Some(column) = column.as_ref().filter(|_| is_rounded(array)) {
                        return Err(Error::data(
                            self.name,
                            format!(
                                "the key {column:?} has numbers of more digits than are kept of numbers; write `type: text` for it"
                            ),
                        ));
                    }
                }
                deal(&self.keys[*at], part, &batch.arrays, *skip_nulls)?;
                part.place.row += batch.rows as u64;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self, part: &mut Part, group: usize) -> Result<()> {
        match (part, &self.groups[group]) {
            (Part::Columns(parts), _) => parts.iter_mut().for_each(|p| p.profile.seal()),
            (Part::Keys(part), Group::Keys { at, .. }) => self.keys[*at].flush(&mut part.dealer)?,
            _ => {}
        }
        Ok(())
    }
}

fn held_against(rules: &[CellRule], tallies: &mut [Tally], array: &ArrayRef, place: Place, field: &Field) {
    for (rule, tally) in rules.iter().zip(tallies) {
        let at = |row: usize| (place.unit, place.row + row as u64);
        if let Some(values) = array.as_any().downcast_ref::<Float64Array>() {
            for (row, x) in values.iter().enumerate() {
                let Some(x) = x else { continue };
                tally.checked += 1;
                if !rule.number(x) {
                    tally.broken(at(row), || x.to_string());
                }
            }
        } else if let Some(scale) = exact::scale(array.data_type()) {
            let units = rule.units(scale);
            exact::wholes(array, |row, x| {
                tally.checked += 1;
                if !units.hold(x) {
                    tally.broken(at(row), || match x {
                        Some(x) if field.kind == Kind::Bool => (x != 0).to_string(),
                        Some(units) => shown_number(Value::Whole(Whole { units, scale }), field),
                        None => "a number of more than 38 digits".to_owned(),
                    });
                }
            });
        } else if let Some(values) = array.as_any().downcast_ref::<StringArray>() {
            for (row, x) in values.iter().enumerate() {
                let Some(x) = x else { continue };
                tally.checked += 1;
                if !rule.text(x) {
                    tally.broken(at(row), || x.to_owned());
                }
            }
        } else if let Some(values) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
            let Some(texts) = values.values().as_any().downcast_ref::<StringArray>() else { continue };
            // Each entry is asked once, when it is first met.
            let mut answers: Vec<Option<bool>> = vec![None; texts.len()];
            for (row, key) in values.keys().iter().enumerate() {
                let Some(key) = key.map(|k| k as usize).filter(|k| texts.is_valid(*k)) else { continue };
                tally.checked += 1;
                let good = *answers[key].get_or_insert_with(|| rule.text(texts.value(key)));
                if !good {
                    tally.broken(at(row), || texts.value(key).to_owned());
                }
            }
        }
    }
}

fn shown_number(x: Value, field: &Field) -> String {
    match x {
        Value::Whole(x) if field.kind == Kind::Time => show_time(x.units as i64),
        x => x.to_string(),
    }
}

/// Whether values follow each other as they should, over units in order.
#[derive(Default)]
struct Order {
    /// With its place.
    first: Option<(Value, (u64, u64))>,
    last: Option<Value>,
    tally: Tally,
}

fn follows(before: Value, now: Value, wanted: Monotonic) -> bool {
    let order = now.compare(before);
    order.is_some_and(|order| match wanted {
        Monotonic::Increasing => order.is_ge(),
        Monotonic::StrictlyIncreasing => order.is_gt(),
        Monotonic::Decreasing => order.is_le(),
        Monotonic::StrictlyDecreasing => order.is_lt(),
    })
}

impl Order {
    fn see(&mut self, array: &ArrayRef, wanted: Monotonic, place: Place, field: &Field) {
        for (row, x) in exact::numbers(array).into_iter().enumerate() {
            let Some(x) = x else { continue };
            self.tally.checked += 1;
            self.step(x, wanted, (place.unit, place.row + row as u64), field);
            self.last = Some(x);
        }
    }

    /// Holds a value against the one before.
    fn step(&mut self, x: Value, wanted: Monotonic, at: (u64, u64), field: &Field) {
        match self.last {
            Some(before) if !follows(before, x, wanted) => self
                .tally
                .broken(at, || format!("{} after {}", shown_number(x, field), shown_number(before, field))),
            _ => {}
        }
        self.first.get_or_insert((x, at));
    }

    fn follow(&mut self, next: Self, wanted: Monotonic, field: &Field) {
        if let Some((x, at)) = next.first {
            self.step(x, wanted, at, field);
        }
        self.tally.merge(next.tally);
        self.last = next.last.or(self.last);
    }
}

/// Deals the keys of a batch out.
fn deal(keys: &Keys, part: &mut KeyPart, arrays: &[ArrayRef], skip_nulls: bool) -> Result<()> {
    let place = part.place;
    if let [array] = arrays
        && keys.single
        && let Some(values) = array.as_any().downcast_ref::<Int64Array>()
    {
        for (row, x) in values.iter().enumerate() {
            if let Some(x) = x {
                keys.add_number(&mut part.dealer, x as u64, row_id(place, row))?;
            }
        }
        return Ok(());
    }
    let rows = arrays.first().map_or(0, arrow::array::Array::len);
    let columns = arrays.iter().map(KeyColumn::of).collect::<Result<Vec<_>>>()?;
    'rows: for row in 0..rows {
        let key = Keys::compound(&mut part.dealer);
        for column in &columns {
            // A dictionary stays one: its entries, once for each row, may be more than there is memory.
            let (array, row) = match column.array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
                Some(entries) => (entries.values(), entries.key(row)),
                None => (column.array, Some(row)),
            };
            let Some(row) = row.filter(|row| array.is_valid(*row)) else {
                if skip_nulls {
                    continue 'rows;
                }
                key.push(0);
                continue;
            };
            if let Some(values) = array.as_any().downcast_ref::<StringArray>() {
                let text = values.value(row).as_bytes();
                key.push(1);
                key.extend_from_slice(&(text.len() as u32).to_le_bytes());
                key.extend_from_slice(text);
            } else if let Some(values) = array.as_any().downcast_ref::<Int64Array>() {
                key.push(2);
                key.extend_from_slice(&values.value(row).to_le_bytes());
            } else if let Some(values) = array.as_any().downcast_ref::<Float64Array>() {
                exact::key_of_double(values.value(row), key);
            } else if let Some(values) = array.as_boolean_opt() {
                key.extend_from_slice(&[4, u8::from(values.value(row))]);
            } else if let Some(rows) = &column.rows {
                let bytes = rows.row(row);
                key.push(6);
                key.extend_from_slice(&(bytes.data().len() as u32).to_le_bytes());
                key.extend_from_slice(bytes.data());
            } else if let Some(Value::Whole(x)) = column.numbers.get(row).copied().flatten() {
                x.key(key);
            } else {
                return Err(Error::usage("keys of numbers of more than 38 digits are not supported"));
            }
        }
        keys.add_scratch(&mut part.dealer, row_id(place, row))?;
    }
    Ok(())
}

/// Whether doubles are so large that they may stand for other integers as well.
fn is_rounded(array: &ArrayRef) -> bool {
    let values = array.as_any().downcast_ref::<Float64Array>();
    values.is_some_and(|v| v.iter().flatten().any(|x| x.is_finite() && x.abs() >= exact::DOUBLES))
}

/// A column of keys, with what its type needs besides.
struct KeyColumn<'a> {
    array: &'a ArrayRef,
    /// Of decimals and unsigned integers.
    numbers: Vec<Option<Value>>,
    /// Of lists, structs and bytes.
    rows: Option<arrow::row::Rows>,
}

impl<'a> KeyColumn<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self> {
        let mut out = Self { array, numbers: Vec::new(), rows: None };
        match (Kind::of(array.data_type()), array.data_type()) {
            (Kind::Float, t) if exact::scale(t).is_some() => out.numbers = exact::numbers(array),
            (Kind::Other, t) => {
                out.rows = Some(rows_of(array).ok_or_else(|| {
                    Error::usage(format!("keys of type {t} are not supported; leave such columns out"))
                })?);
            }
            _ => {}
        }
        Ok(out)
    }
}
