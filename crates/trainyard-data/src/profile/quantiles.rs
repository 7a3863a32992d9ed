//! A KLL sketch (Karnin, Lang, Liberty 2016): quantiles of a stream in bounded memory.
//!
//! Level `h` holds values that stand for `2^h` each; a full level is sorted and every second value moves up. Long
//! streams are sampled below the lowest level (one of each block of `2^s`), so most values cost a counter. Where the
//! original tosses coins, a seeded generator does, so a sketch is a function of its input.
//!
//! Bound: a rank is off by at most 1 % of the count with probability 0.99 (measured in the tests, also after merges).

use serde::{Deserialize, Serialize};

use crate::stats::Rng;

/// Values of the topmost level; lower levels hold less, by a factor of 2/3 each.
const TOP: usize = 512;
const LEAST: usize = 16;
/// Values that are inserted before they are sorted, however little the lowest level may keep. Half of them fit above.
const BASE: usize = 2 * (TOP - 1);
/// Of sorted values, at least as many are kept (and less than twice as many).
const PICKS: u64 = 4096;
/// Inserted values beyond which sampling doubles.
const FULL: u64 = 1 << 16;

/// A mergeable sketch of the distribution of finite numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantiles {
    count: u64,
    /// `levels[h]`: values of weight `2^h`.
    levels: Vec<Vec<f64>>,
    #[serde(skip)]
    sampling: Sampling,
    #[serde(skip)]
    coins: Coins,
}

/// The block below the lowest level.
#[derive(Debug, Clone, Default)]
struct Sampling {
    /// One of `2^shift` values is kept.
    shift: u32,
    seen: u64,
    pick: u64,
    value: f64,
}

#[derive(Debug, Clone)]
struct Coins(Rng);

impl Default for Coins {
    fn default() -> Self {
        Self(Rng::new(0x6b6c_6c21))
    }
}

impl Default for Quantiles {
    fn default() -> Self {
        Self { count: 0, levels: vec![Vec::new()], sampling: Sampling::default(), coins: Coins::default() }
    }
}

impl Quantiles {
    /// Adds values in their order.
    pub fn add_all(&mut self, values: &[f64]) {
        let mut rest = values;
        while !rest.is_empty() {
            let Sampling { shift, seen, pick, .. } = self.sampling;
            let now = ((1 << shift) - seen).min(rest.len() as u64);
            if (seen..seen + now).contains(&pick) {
                self.sampling.value = rest[(pick - seen) as usize];
            }
            self.sampling.seen += now;
            self.count += now;
            rest = &rest[now as usize..];
            if self.sampling.seen == 1 << shift {
                self.insert(self.sampling.value);
                if self.count >> shift >= FULL {
                    self.sampling.shift += 1;
                    self.compress(shift as usize);
                }
                self.next_block();
            }
        }
    }

    /// Adds values in ascending order, each as often as it says; `total` is the sum of the counts.
    pub fn add_counts(&mut self, total: u64, counts: impl Iterator<Item = (f64, u64)>) {
        self.flush();
        self.count += total;
        // Of sorted values every 2^shift-th one stands for its neighbours: a rank is off by less than that.
        let shift = (total / PICKS).checked_ilog2().unwrap_or(0);
        let (picks, rest) = (total >> shift, total & ((1 << shift) - 1));
        let level = self.level(shift as usize);
        let (mut picked, mut reached, mut last) = (0, 0, f64::NAN);
        for (x, count) in counts {
            reached += count;
            while picked < picks && (picked << shift) + (1 << shift >> 1) < reached {
                level.push(x);
                picked += 1;
            }
            last = x;
        }
        for bit in (0..shift as usize).filter(|bit| rest >> bit & 1 == 1) {
            self.level(bit).push(last);
        }
        self.settle();
    }

    fn next_block(&mut self) {
        self.sampling.seen = 0;
        if self.sampling.shift > 0 {
            self.sampling.pick = self.coins.0.next_u64() & ((1 << self.sampling.shift) - 1);
        }
    }

    /// Adds a value to the lowest level in use.
    fn insert(&mut self, x: f64) {
        let at = self.sampling.shift as usize;
        let level = self.level(at);
        level.push(x);
        if level.len() >= BASE {
            self.compress(at);
        }
    }

    fn level(&mut self, at: usize) -> &mut Vec<f64> {
        if self.levels.len() <= at {
            self.levels.resize(at + 1, Vec::new());
        }
        &mut self.levels[at]
    }

    /// After values were added at several levels: no level is too full, and sampling is what the count asks for.
    fn settle(&mut self) {
        self.compress(0);
        self.sampling.shift = 0;
        while self.count >> self.sampling.shift >= FULL {
            self.sampling.shift += 1;
        }
        self.next_block();
    }

    fn capacity(&self, level: usize) -> usize {
        let depth = (self.levels.len() - 1 - level) as i32;
        ((TOP as f64 * (2.0_f64 / 3.0).powi(depth)) as usize).max(LEAST)
    }

    fn compress(&mut self, from: usize) {
        let mut level = from;
        while level < self.levels.len() {
            if self.levels[level].len() < self.capacity(level) {
                level += 1;
                continue;
            }
            // As integers of the same order, which are sorted faster.
            let mut full: Vec<i64> =
                self.levels[level].drain(..).map(|x| ordered(x.to_bits() as i64)).collect();
            full.sort_unstable();
            if level + 1 == self.levels.len() {
                self.levels.push(Vec::new());
            }
            // An odd one stays, so that the weights add up.
            if full.len() % 2 == 1 {
                let kept = full.pop().map(float_of);
                self.levels[level].extend(kept);
            }
            let first = (self.coins.0.next_u64() >> 63) as usize;
            self.levels[level + 1].extend(full.into_iter().skip(first).step_by(2).map(float_of));
            level += 1;
        }
    }

    /// Takes in another sketch.
    pub fn merge(&mut self, other: &Self) {
        self.flush();
        let mut other = other.clone();
        other.flush();
        self.count += other.count;
        for (level, values) in other.levels.iter().enumerate() {
            self.level(level).extend_from_slice(values);
        }
        self.settle();
    }

    /// Puts the values of the unfinished block where they weigh what they are: `seen` copies, in binary.
    fn flush(&mut self) {
        let Sampling { shift, seen, pick, value } = self.sampling;
        if shift > 0 && seen > 0 {
            // Without a pick yet the last known value stands in; the block is below 2^shift of the whole.
            let x =
                if seen > pick { Some(value) } else { self.levels.iter().rev().flatten().copied().next() };
            if let Some(x) = x {
                for bit in 0..=shift {
                    if seen >> bit & 1 == 1 {
                        self.level(bit as usize).push(x);
                    }
                }
            }
        }
        self.sampling.seen = 0;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sorted (value, weight) pairs.
    fn weighted(&self) -> Vec<(f64, u64)> {
        let mut copy = self.clone();
        copy.flush();
        let mut all: Vec<(f64, u64)> = Vec::new();
        for (level, values) in copy.levels.iter().enumerate() {
            all.extend(values.iter().map(|v| (*v, 1_u64 << level)));
        }
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    /// The values at the given shares (0 to 1, ascending or not). Empty sketches give NaN.
    pub fn quantiles(&self, shares: &[f64]) -> Vec<f64> {
        let all = self.weighted();
        let total: u64 = all.iter().map(|(_, w)| w).sum();
        let mut reached = Vec::with_capacity(all.len());
        let mut sum = 0;
        for (_, w) in &all {
            sum += w;
            reached.push(sum);
        }
        shares
            .iter()
            .map(|share| {
                if all.is_empty() {
                    return f64::NAN;
                }
                let want = (share.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
                all[reached.partition_point(|r| *r < want).min(all.len() - 1)].0
            })
            .collect()
    }

    /// The share of values at or below `x`.
    pub fn rank(&self, x: f64) -> f64 {
        let all = self.weighted();
        let total: u64 = all.iter().map(|(_, w)| w).sum();
        let below: u64 = all.iter().take_while(|(v, _)| *v <= x).map(|(_, w)| w).sum();
        below as f64 / total as f64
    }

    /// Made ready to be written: unfinished blocks put away.
    pub(crate) fn seal(&mut self) {
        self.flush();
        self.compress(0);
    }

    /// Whether what was read from a file can be a sketch.
    pub(crate) fn is_sound(&self) -> bool {
        self.levels.len() <= 64
            && !self.levels.is_empty()
            && self.levels.iter().flatten().all(|v| v.is_finite())
            && self
                .levels
                .iter()
                .enumerate()
                .try_fold(0_u64, |sum, (h, v)| (v.len() as u64).checked_mul(1 << h)?.checked_add(sum))
                .is_some()
    }
}

/// From the bits of doubles to integers of the order of [`f64::total_cmp`], and back.
fn ordered(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

fn float_of(ordered_bits: i64) -> f64 {
    f64::from_bits(ordered(ordered_bits) as u64)
}
