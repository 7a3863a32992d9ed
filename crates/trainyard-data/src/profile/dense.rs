//! Counts of integers of a narrow range, one counter for each: a value then costs one addition, and all else is done
//! once for each distinct value.

/// Counters at most: they stay in the processor's cache.
const WIDEST: u64 = 1 << 17;
/// Counters for each row, so that memory is in proportion to what was read.
const PER_ROW: u64 = 4;
/// Absolute values up to which squares times counts fit 128 bits.
const LARGEST: u64 = 1 << 47;

/// Counts that are not yet in a profile.
#[derive(Debug, Clone, Default)]
pub struct Dense {
    low: i64,
    counts: Vec<u32>,
    total: u32,
}

impl Dense {
    /// Counts the values, if they and those before are few enough apart for the rows that were seen, these included.
    pub fn add(&mut self, values: &[i64], rows: u64) -> bool {
        let Some(first) = values.first() else { return true };
        let (min, max) = values.iter().fold((*first, *first), |(min, max), x| (min.min(*x), max.max(*x)));
        if min.unsigned_abs() > LARGEST || max.unsigned_abs() > LARGEST {
            return false;
        }
        let (mut low, mut high) = (min, max);
        if !self.counts.is_empty() {
            low = low.min(self.low);
            high = high.max(self.low + self.counts.len() as i64 - 1);
        }
        let width = (high - low) as u64 + 1;
        let total = u32::try_from(values.len()).ok().and_then(|n| self.total.checked_add(n));
        let Some(total) = total.filter(|_| width <= WIDEST.min(rows.saturating_mul(PER_ROW))) else {
            return false;
        };
        if !self.counts.is_empty() && low < self.low {
            self.counts.splice(0..0, std::iter::repeat_n(0, (self.low - low) as usize));
        }
        self.counts.resize(width as usize, 0);
        self.low = low;
        self.total = total;
        for x in values {
            self.counts[(x - low) as usize] += 1;
        }
        true
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        u64::from(self.total)
    }

    /// The values that there are, ascending, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (i64, u64)> + Clone {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(at, count)| (self.low + at as i64, u64::from(*count)))
    }
}
