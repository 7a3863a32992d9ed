//! The profile of one column, and how batches are added to it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Float64Array, Int64Array, StringArray,
};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use serde::{Deserialize, Serialize};

use super::distinct::Distinct;
use super::exact_sum::ExactSum;
use super::hash;
use super::histogram::{Finder, Histogram};
use super::quantiles::Quantiles;
use crate::schema::{Field, Kind};

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
    finder: Option<Finder>,
}

/// Measures of the finite numbers of a column. Times are microseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub zeros: u64,
    pub negative: u64,
    pub sum: ExactSum,
    pub squares: ExactSum,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
    pub quantiles: Quantiles,
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

impl Numbers {
    fn new(edges: Option<&[f64]>) -> Self {
        Self {
            count: 0,
            min: f64::MAX,
            max: f64::MIN,
            zeros: 0,
            negative: 0,
            sum: ExactSum::default(),
            squares: ExactSum::default(),
            histogram: edges.map(|e| Histogram::new(e.to_vec())),
            quantiles: Quantiles::default(),
        }
    }

    pub fn mean(&self) -> f64 {
        let (high, low) = self.sum.pair();
        high / self.count as f64 + low / self.count as f64
    }

    /// The variance with `ddof` degrees of freedom taken off, from the exact sums in twice the precision of a double.
    pub fn variance(&self, ddof: u64) -> f64 {
        if self.count <= ddof {
            return f64::NAN;
        }
        let n = self.count as f64;
        let (s, s_low) = self.sum.pair();
        let (q, q_low) = self.squares.pair();
        // (s + s_low)² / n as a pair.
        let square = s * s;
        let square_low = s.mul_add(s, -square) + 2.0 * s * s_low;
        let part = square / n;
        let part_low = ((-part).mul_add(n, square) + square_low) / n;
        let spread = (q - part) + (q_low - part_low);
        (spread / (n - ddof as f64)).max(0.0)
    }

    /// Standard deviation of the sample.
    pub fn deviation(&self) -> f64 {
        self.variance(1).sqrt()
    }
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

    /// Adds a batch in the canonical type of the column's kind.
    pub fn add(&mut self, array: &dyn Array) {
        self.rows += array.len() as u64;
        let nulls = array.logical_null_count() as u64;
        self.nulls += nulls;
        match self.field.kind {
            Kind::Float => {
                if let Some(a) = array.as_any().downcast_ref::<Float64Array>() {
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
            Kind::Other => {
                if let Some(a) = array.as_any().downcast_ref::<arrow::array::BinaryArray>() {
                    for bytes in a.iter().flatten() {
                        self.digest = self.digest.wrapping_add(hash::bytes(bytes));
                    }
                }
            }
        }
    }

    /// Adds cells that could not be read as this column's kind.
    pub fn add_invalid(&mut self, cells: u64) {
        self.invalid += cells;
        self.nulls -= cells.min(self.nulls);
    }

    fn add_floats(&mut self, array: &Float64Array) {
        if array.null_count() == 0 {
            for x in array.values() {
                self.add_float(*x);
            }
        } else {
            for x in array.iter().flatten() {
                self.add_float(x);
            }
        }
    }

    #[inline]
    fn add_float(&mut self, x: f64) {
        if !x.is_finite() {
            if x.is_nan() {
                self.nan += 1;
            } else {
                self.infinite += 1;
            }
            return;
        }
        let Some(numbers) = &mut self.numbers else { return };
        let bits = hash::float_bits(x);
        let hash = hash::number(bits);
        self.digest = self.digest.wrapping_add(hash);
        self.distinct.add_number(bits, hash, 1);
        numbers.sum.add(x);
        numbers.squares.add_square(x);
        numbers.measure(x, self.finder.as_ref());
    }

    fn add_integers(&mut self, array: &Int64Array) {
        let Some(numbers) = &mut self.numbers else { return };
        let (mut sum, mut squares) = (0_i128, 0_u128);
        for x in array.iter().flatten() {
            let hash = hash::number(x as u64);
            self.digest = self.digest.wrapping_add(hash);
            self.distinct.add_number(x as u64, hash, 1);
            sum += i128::from(x);
            let square = u128::from(x.unsigned_abs()) * u128::from(x.unsigned_abs());
            squares = squares.checked_add(square).unwrap_or_else(|| {
                add_integer(&mut numbers.squares, false, squares);
                square
            });
            numbers.measure(x as f64, self.finder.as_ref());
        }
        add_integer(&mut numbers.sum, sum < 0, sum.unsigned_abs());
        add_integer(&mut numbers.squares, false, squares);
    }

    fn add_dictionary(&mut self, array: &DictionaryArray<Int32Type>) {
        let values = array.values();
        if !self.pending.values.as_ref().is_some_and(|v| Arc::ptr_eq(v, values)) {
            self.flush();
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
    fn flush(&mut self) {
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
        self.flush();
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

impl Numbers {
    #[inline]
    fn measure(&mut self, x: f64, finder: Option<&Finder>) {
        self.count += 1;
        self.min = self.min.min(x);
        self.max = self.max.max(x);
        self.zeros += u64::from(x == 0.0);
        self.negative += u64::from(x < 0.0);
        self.quantiles.add(x);
        if let (Some(histogram), Some(finder)) = (&mut self.histogram, finder) {
            histogram.counts[finder.bin(x)] += 1;
        }
    }
}

fn total(mut counts: impl Iterator<Item = u64>) -> Option<u64> {
    counts.try_fold(0_u64, u64::checked_add)
}

/// Adds an integer of up to 128 bits to an exact sum, 32 bits at a time.
fn add_integer(sum: &mut ExactSum, negative: bool, size: u128) {
    for place in 0..4 {
        let digit = (size >> (32 * place)) as u32;
        if digit != 0 {
            let value = f64::from(digit) * 2.0_f64.powi(32 * place);
            sum.add(if negative { -value } else { value });
        }
    }
}

/// The numbers of a batch as floats, for rules: `None` where null.
pub(crate) fn as_floats(array: &dyn Array) -> Option<Vec<Option<f64>>> {
    if let Some(a) = array.as_primitive_opt::<Float64Type>() {
        return Some(a.iter().collect());
    }
    array.as_primitive_opt::<Int64Type>().map(|a| a.iter().map(|v| v.map(|v| v as f64)).collect())
}
