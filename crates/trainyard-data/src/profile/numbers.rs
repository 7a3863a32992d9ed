//! Measures of the numbers of one column.

use serde::{Deserialize, Serialize};

use super::exact_sum::{ExactSum, SQUARED};
use super::histogram::{Finder, Histogram};
use super::quantiles::Quantiles;

/// The exponent of an [`ExactSum`] at which 1 is one.
const ONE: usize = 1074;

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

impl Numbers {
    pub(super) fn new(edges: Option<&[f64]>) -> Self {
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

    /// Adds the sums of integers, each as often as it says; each one's square times its count must be below 2^128.
    pub(super) fn add_integers(&mut self, counts: impl Iterator<Item = (i64, u64)>) {
        let (mut sum, mut squares) = (0_i128, 0_u128);
        for (x, count) in counts {
            sum += i128::from(x) * i128::from(count);
            let size = u128::from(x.unsigned_abs());
            let square = size * size * u128::from(count);
            squares = squares.checked_add(square).unwrap_or_else(|| {
                self.squares.add_integer(false, squares, ONE);
                square
            });
        }
        self.sum.add_integer(sum < 0, sum.unsigned_abs(), ONE);
        self.squares.add_integer(false, squares, ONE);
    }

    /// Adds all but the sums of finite values.
    pub(super) fn measure(&mut self, values: &[f64], finder: Option<&Finder>) {
        self.count += values.len() as u64;
        // Several minima side by side do not wait for each other.
        let (mut min, mut max) = ([self.min; 8], [self.max; 8]);
        let mut least = |x: f64, at: usize| {
            min[at] = if x < min[at] { x } else { min[at] };
            max[at] = if x > max[at] { x } else { max[at] };
        };
        let (eights, rest) = values.as_chunks::<8>();
        for eight in eights {
            for (at, x) in eight.iter().enumerate() {
                least(*x, at);
            }
        }
        for x in rest {
            least(*x, 0);
        }
        // -0 and 0 are one value.
        self.min = min.into_iter().fold(self.min, f64::min) + 0.0;
        self.max = max.into_iter().fold(self.max, f64::max) + 0.0;
        self.zeros += values.iter().map(|x| u64::from(*x == 0.0)).sum::<u64>();
        self.negative += values.iter().map(|x| u64::from(*x < 0.0)).sum::<u64>();
        self.quantiles.add_all(values);
        if let (Some(histogram), Some(finder)) = (&mut self.histogram, finder) {
            for x in values {
                histogram.counts[finder.bin(*x)] += 1;
            }
        }
    }

    /// The same for values in ascending order that come more than once; `total` is the sum of the counts.
    pub(super) fn measure_counts(
        &mut self,
        total: u64,
        counts: impl Iterator<Item = (f64, u64)> + Clone,
        finder: Option<&Finder>,
    ) {
        self.count += total;
        for (x, count) in counts.clone() {
            self.min = self.min.min(x);
            self.max = self.max.max(x);
            self.zeros += if x == 0.0 { count } else { 0 };
            self.negative += if x < 0.0 { count } else { 0 };
            if let (Some(histogram), Some(finder)) = (&mut self.histogram, finder) {
                histogram.counts[finder.bin(x)] += count;
            }
        }
        self.quantiles.add_counts(total, counts);
    }

    pub fn mean(&self) -> f64 {
        let (high, low) = self.sum.pair();
        high / self.count as f64 + low / self.count as f64
    }

    /// The variance with `ddof` degrees of freedom taken off: n · Σx² - (Σx)² is formed without rounding, so nothing
    /// cancels however large the mean is. NaN with too few values, and where squares leave the range of doubles (sizes
    /// above 1e145, or all below 1e-140).
    pub fn variance(&self, ddof: u64) -> f64 {
        if self.count <= ddof {
            return f64::NAN;
        }
        let largest = self.min.abs().max(self.max.abs());
        if largest > 0.0 && !SQUARED.contains(&(largest * largest)) {
            return if self.min < self.max { f64::NAN } else { 0.0 };
        }
        let n = self.count as f64;
        self.squares.spread(&self.sum, self.count) / n / (n - ddof as f64)
    }

    /// Standard deviation of the sample.
    pub fn deviation(&self) -> f64 {
        self.variance(1).sqrt()
    }
}
