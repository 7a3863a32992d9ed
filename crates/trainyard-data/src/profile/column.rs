//! The profile of one column, and how batches are added to it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, DictionaryArray, Float64Array, Int64Array,
    PrimitiveArray, StringArray,
};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use serde::{Deserialize, Serialize};

use super::dense::Dense;
use super::distinct::Distinct;
use super::exact_sum::ExactSum;
use super::hash;
use super::histogram::{Finder, Histogram};
use super::numbers::Numbers;
use crate::schema::{Field, Kind};

/// Rows that are taken at a time, whatever batches hold: copies of them stay in the processor's cache.
const ROWS: usize = 8192;

/// What is known of one column.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnProfile {
    pub field: Field,
    pub rows: u64,
    pub nulls: u64,
    /// Cells that could not be read as the column's kind; not among the nulls.
    pub invalid: u64,
    pub nan: u64,
    pub infinite: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Numbers>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<Lengths>,
    pub distinct: Distinct,
    /// The sum of the values' hashes: equal for equal multisets of values.
    pub digest: u64,
    #[serde(skip)]
    pending: Pending,
    #[serde(skip)]
    dense: Dense,
    #[serde(skip)]
    finder: Option<Finder>,
}

/// Lengths of texts, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengths {
    pub count: u64,
    pub min: u64,
    pub max: u64,
    pub sum: u64,
    pub empty: u64,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { count: 0, min: u64::MAX, max: 0, sum: 0, empty: 0 }
    }
}

/// Counts of the entries of a dictionary that batches share, not yet taken into the profile.
#[derive(Debug, Clone, Default)]
struct Pending {
    values: Option<ArrayRef>,
    counts: Vec<u64>,
}

impl ColumnProfile {
    /// An empty profile; `edges` are those of its histogram.
    pub fn new(field: Field, edges: Option<&[f64]>) -> Self {
        let kind = field.kind;
        Self {
            rows: 0,
            nulls: 0,
            invalid: 0,
            nan: 0,
            infinite: 0,
            numbers: kind.is_numeric().then(|| Numbers::new(edges)),
            lengths: (kind == Kind::Text).then(Lengths::default),
            distinct: Distinct::new(kind),
            digest: 0,
            pending: Pending::default(),
            dense: Dense::default(),
            finder: edges.map(Finder::new),
            field,
        }
    }

    /// Cells with a value.
    pub fn present(&self) -> u64 {
        self.rows - self.nulls.min(self.rows)
    }

    pub fn null_share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.nulls as f64 / self.rows as f64 }
    }

    /// The value below which a share of the numbers lies: exact where all values are counted, else from the sketch.
    /// NaN without numbers.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let Some(numbers) = &self.numbers else { return f64::NAN };
        let Some(counts) = self.distinct.numbers().filter(|c| !c.is_empty()) else {
            return numbers.quantiles.quantiles(&[share])[0];
        };
        // Linear between the two nearest ranks, as most tools do.
        let place = share * (numbers.count.saturating_sub(1)) as f64;
        let value = |rank: u64| {
            let mut sum = 0;
            counts
                .iter()
                .find(|(_, c)| {
                    sum += c;
                    sum > rank
                })
                .map_or(f64::NAN, |c| c.0)
        };
        let (low, high) = (value(place.floor() as u64), value(place.ceil() as u64));
        low + (high - low) * (place - place.floor())
    }

    /// Adds a batch in the canonical type of the column's kind.
    pub fn add(&mut self, array: &dyn Array) {
        for start in (0..array.len()).step_by(ROWS) {
            self.add_some(&*array.slice(start, ROWS.min(array.len() - start)));
        }
    }

    fn add_some(&mut self, array: &dyn Array) {
        self.rows += array.len() as u64;
        let nulls = array.logical_null_count() as u64;
        self.nulls += nulls;
        match self.field.kind {
            Kind::Float => {
                if let Some(a) = array.as_any().downcast_ref::<Float64Array>() {
                    self.add_floats(a);
                } else if let Ok(a) = arrow::compute::cast(array, &DataType::Float64)
                    && let Some(a) = a.as_any().downcast_ref::<Float64Array>()
                {
                    self.add_floats(a);
                }
            }
            Kind::Int | Kind::Time => {
                if let Some(a) = array.as_any().downcast_ref::<Int64Array>() {
                    self.add_integers(a);
                }
            }
            Kind::Bool => {
                if let Some(a) = array.as_any().downcast_ref::<BooleanArray>() {
                    let yes = a.true_count() as u64;
                    let no = a.len() as u64 - nulls - yes;
                    for (value, count) in [(1_u64, yes), (0, no)] {
                        if count > 0 {
                            self.distinct.add_number(value, hash::number(value), count);
                            self.digest = self.digest.wrapping_add(hash::number(value).wrapping_mul(count));
                        }
                    }
                }
            }
            Kind::Text => match array.data_type() {
                DataType::Dictionary(..) => {
                    if let Some(a) = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
                        self.add_dictionary(a);
                    }
                }
                _ => {
                    if let Some(a) = array.as_any().downcast_ref::<StringArray>() {
                        for text in a.iter().flatten() {
                            self.add_text(text, 1);
                        }
                    }
                }
            },
            Kind::Other => self.digest = self.digest.wrapping_add(digest_of(array)),
        }
    }

    /// Adds cells that could not be read as this column's kind.
    pub fn add_invalid(&mut self, cells: u64) {
        self.invalid += cells;
        self.nulls -= cells.min(self.nulls);
    }

    fn add_floats(&mut self, array: &Float64Array) {
        let Some(numbers) = &mut self.numbers else { return };
        let mut values = present(array);
        let finite = values.iter().fold(0, |n, x| n + usize::from(x.is_finite()));
        if finite < values.len() {
            let nan = values.iter().fold(0, |n, x| n + usize::from(x.is_nan()));
            self.nan += nan as u64;
            self.infinite += (values.len() - finite - nan) as u64;
            values.to_mut().retain(|x| x.is_finite());
        }
        // The bits of `hash::float_bits`: adding 0 makes a 0 of -0, and NaN is not among them.
        let bits = values.iter().map(|x| (x + 0.0).to_bits());
        self.digest = self.digest.wrapping_add(self.distinct.add_numbers(bits));
        ExactSum::add_all(&values, &mut numbers.sum, &mut numbers.squares);
        numbers.measure(&values, self.finder.as_ref());
    }

    fn add_integers(&mut self, array: &Int64Array) {
        let values = present(array);
        if self.dense.add(&values, self.rows) {
            return;
        }
        let Some(numbers) = &mut self.numbers else { return };
        let bits = values.iter().map(|x| *x as u64);
        self.digest = self.digest.wrapping_add(self.distinct.add_numbers(bits));
        numbers.add_integers(values.iter().map(|x| (*x, 1)));
        let values: Vec<f64> = values.iter().map(|x| *x as f64).collect();
        numbers.measure(&values, self.finder.as_ref());
    }

    /// Takes the counts of integers of a narrow range into the profile.
    fn flush_integers(&mut self) {
        let dense = std::mem::take(&mut self.dense);
        let Some(numbers) = self.numbers.as_mut().filter(|_| dense.total() > 0) else { return };
        for (x, count) in dense.counts() {
            let hash = hash::number(x as u64);
            self.digest = self.digest.wrapping_add(hash.wrapping_mul(count));
            self.distinct.add_number(x as u64, hash, count);
        }
        numbers.add_integers(dense.counts());
        let floats = dense.counts().map(|(x, count)| (x as f64, count));
        numbers.measure_counts(dense.total(), floats, self.finder.as_ref());
    }

    fn add_dictionary(&mut self, array: &DictionaryArray<Int32Type>) {
        let values = array.values();
        if !self.pending.values.as_ref().is_some_and(|v| Arc::ptr_eq(v, values)) {
            self.flush_texts();
            self.pending.values = Some(Arc::clone(values));
            self.pending.counts.resize(values.len(), 0);
        }
        let counts = &mut self.pending.counts;
        let keys = array.keys();
        if keys.null_count() == 0 {
            for key in keys.values() {
                counts[*key as usize] += 1;
            }
        } else {
            for key in keys.iter().flatten() {
                counts[key as usize] += 1;
            }
        }
    }

    /// Takes the counts of a dictionary into the profile.
    fn flush_texts(&mut self) {
        let Some(values) = self.pending.values.take() else { return };
        let counts = std::mem::take(&mut self.pending.counts);
        if let Some(texts) = values.as_any().downcast_ref::<StringArray>() {
            for (i, count) in counts.into_iter().enumerate() {
                if count > 0 && texts.is_valid(i) {
                    self.add_text(texts.value(i), count);
                }
            }
        }
    }

    fn add_text(&mut self, text: &str, count: u64) {
        let hash = hash::bytes(text.as_bytes());
        self.digest = self.digest.wrapping_add(hash.wrapping_mul(count));
        self.distinct.add_text(text, hash, count);
        if let Some(lengths) = &mut self.lengths {
            let length = text.len() as u64;
            lengths.count += count;
            lengths.min = lengths.min.min(length);
            lengths.max = lengths.max.max(length);
            lengths.sum = lengths.sum.saturating_add(length.saturating_mul(count));
            lengths.empty += if length == 0 { count } else { 0 };
        }
    }

    /// Ends the adding of batches.
    pub fn seal(&mut self) {
        self.flush_texts();
        self.flush_integers();
        if let Some(numbers) = &mut self.numbers {
            numbers.quantiles.seal();
        }
    }

    /// Takes in another part of the same column. Both must be sealed.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.nulls += other.nulls;
        self.invalid += other.invalid;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.digest = self.digest.wrapping_add(other.digest);
        self.distinct.merge(&other.distinct);
        if let (Some(a), Some(b)) = (&mut self.numbers, &other.numbers) {
            a.count += b.count;
            a.min = a.min.min(b.min);
            a.max = a.max.max(b.max);
            a.zeros += b.zeros;
            a.negative += b.negative;
            a.sum.merge(&b.sum);
            a.squares.merge(&b.squares);
            a.quantiles.merge(&b.quantiles);
            match (&mut a.histogram, &b.histogram) {
                (Some(x), Some(y)) => x.merge(y),
                _ => a.histogram = None,
            }
        }
        if let (Some(a), Some(b)) = (&mut self.lengths, &other.lengths) {
            a.count += b.count;
            a.min = a.min.min(b.min);
            a.max = a.max.max(b.max);
            a.sum = a.sum.saturating_add(b.sum);
            a.empty += b.empty;
        }
    }

    /// Whether the exact parts of two profiles agree to the bit.
    pub fn agrees_exactly(&self, other: &Self) -> bool {
        let numbers = match (&self.numbers, &other.numbers) {
            (Some(a), Some(b)) => {
                (a.count, a.min, a.max, a.zeros, a.negative) == (b.count, b.min, b.max, b.zeros, b.negative)
                    && a.sum == b.sum
                    && a.squares == b.squares
                    && a.histogram == b.histogram
            }
            (None, None) => true,
            _ => false,
        };
        numbers
            && self.field == other.field
            && (self.rows, self.nulls, self.invalid, self.nan, self.infinite, self.digest)
                == (other.rows, other.nulls, other.invalid, other.nan, other.infinite, other.digest)
            && self.lengths == other.lengths
            && self.distinct == other.distinct
    }

    /// Whether what was read from a file can be a profile.
    pub(super) fn is_sound(&self) -> bool {
        // Counts that no file has; below it no sum of them can overflow.
        const MOST: u64 = 1 << 53;
        let numbers = self.numbers.as_ref().is_none_or(|n| {
            let binned = n.histogram.as_ref().map_or(Some(0), |h| total(h.counts.iter().copied()));
            n.quantiles.is_sound()
                && n.histogram.as_ref().is_none_or(Histogram::is_sound)
                && n.min.is_finite()
                && n.max.is_finite()
                && n.count <= self.rows
                && n.zeros <= n.count
                && n.negative <= n.count
                && n.quantiles.count() <= self.rows
                && binned.is_some_and(|b| b <= self.rows)
        });
        let cells = total([self.nulls, self.invalid, self.nan, self.infinite].into_iter());
        numbers
            && self.rows <= MOST
            && cells.is_some_and(|c| c <= self.rows)
            && self.distinct.is_sound(self.rows)
            && self.lengths.as_ref().is_none_or(|l| l.count <= self.rows && l.empty <= l.count)
            && self.field.kind.is_numeric() == self.numbers.is_some()
            && (self.field.kind == Kind::Text) == self.lengths.is_some()
    }
}

/// The values that are not null.
fn present<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> Cow<'_, [T::Native]> {
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => Cow::Borrowed(array.values()),
        Some(nulls) => {
            let mut out = Vec::with_capacity(array.len() - nulls.null_count());
            for (from, to) in nulls.valid_slices() {
                out.extend_from_slice(&array.values()[from..to]);
            }
            Cow::Owned(out)
        }
    }
}

fn total(mut counts: impl Iterator<Item = u64>) -> Option<u64> {
    counts.try_fold(0_u64, u64::checked_add)
}

/// The numbers of a batch as floats, for rules: `None` where null.
pub(crate) fn as_floats(array: &dyn Array) -> Option<Vec<Option<f64>>> {
    if let Some(a) = array.as_primitive_opt::<Float64Type>() {
        return Some(a.iter().collect());
    }
    if let Some(a) = array.as_primitive_opt::<Int64Type>() {
        return Some(a.iter().map(|v| v.map(|v| v as f64)).collect());
    }
    let wide = array.data_type().is_decimal() || *array.data_type() == DataType::UInt64;
    let floats = arrow::compute::cast(array, &DataType::Float64).ok().filter(|_| wide)?;
    floats.as_primitive_opt::<Float64Type>().map(|a| a.iter().collect())
}

/// The sum of the hashes of values that are only counted: bytes by themselves, all else in Arrow's row format. The few
/// types that it lacks (unions) add nothing.
fn digest_of(array: &dyn Array) -> u64 {
    fn sum<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> u64 {
        values.flatten().fold(0, |sum, bytes| sum.wrapping_add(hash::bytes(bytes)))
    }
    if let Some(bytes) = array.as_binary_opt::<i32>() {
        return sum(bytes.iter());
    }
    crate::sets::rows_of(&arrow::array::make_array(array.to_data()))
        .map_or(0, |rows| sum((0..rows.num_rows()).map(|i| array.is_valid(i).then(|| rows.row(i).data()))))
}
