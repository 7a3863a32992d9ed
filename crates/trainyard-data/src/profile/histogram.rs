//! Exact counts between given edges.

use serde::{Deserialize, Serialize};

/// Counts of values in `(-inf, e0], (e0, e1], …, (ek, inf)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Strictly ascending, finite.
    pub edges: Vec<f64>,
    /// One more than edges.
    pub counts: Vec<u64>,
}

/// Shares at which edges are set: 64 equal parts, and the outermost thousandths so that tails are measured too.
const TAILS: [f64; 2] = [0.001, 0.005];

impl Histogram {
    pub fn new(edges: Vec<f64>) -> Self {
        let counts = vec![0; edges.len() + 1];
        Self { edges, counts }
    }

    /// Edges between which a sample has about equal numbers.
    pub fn edges_of(sample: &mut Vec<f64>) -> Vec<f64> {
        sample.retain(|x| x.is_finite());
        sample.sort_unstable_by(f64::total_cmp);
        if sample.is_empty() {
            return Vec::new();
        }
        let shares =
            TAILS.into_iter().chain((1..64).map(|i| f64::from(i) / 64.0)).chain(TAILS.map(|t| 1.0 - t));
        let mut edges: Vec<f64> =
            shares.map(|s| sample[((s * sample.len() as f64) as usize).min(sample.len() - 1)]).collect();
        edges.sort_unstable_by(f64::total_cmp);
        edges.dedup();
        // -0 and 0 are one value.
        for e in &mut edges {
            *e += 0.0;
        }
        edges.dedup();
        edges
    }

    /// Adds the counts of another one. Different edges are reduced to those that both have, which keeps every count
    /// exact and merging independent of order.
    pub fn merge(&mut self, other: &Self) {
        if self.edges != other.edges {
            let common: Vec<f64> = self.edges.iter().copied().filter(|e| other.edges.contains(e)).collect();
            let mut reduced = self.reduced(&common);
            reduced.merge(&other.reduced(&common));
            *self = reduced;
            return;
        }
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
    }

    /// The same counts on fewer edges (`edges` must be among these).
    fn reduced(&self, edges: &[f64]) -> Self {
        let mut out = Self::new(edges.to_vec());
        for (i, count) in self.counts.iter().enumerate() {
            let bin = match self.edges.get(i) {
                Some(upper) => edges.partition_point(|e| e < upper),
                None => edges.len(),
            };
            out.counts[bin] += count;
        }
        out
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.counts.len() == self.edges.len() + 1
            && self.edges.iter().all(|e| e.is_finite())
            && self.edges.windows(2).all(|w| w[0] < w[1])
    }
}

/// Finds bins quickly: a grid over the span of the edges says where to begin, and a fixed, small number of
/// comparisons without a branch ends there.
#[derive(Debug, Clone)]
pub struct Finder {
    /// With an infinite one at the end.
    edges: Vec<f64>,
    low: f64,
    scale: f64,
    /// Of each cell of the grid, the bin that its values are in or before.
    start: Vec<u8>,
    /// Edges that a cell has at most.
    steps: usize,
}

const GRID: usize = 1024;
/// Comparisons beyond which a plain search is as good.
const MOST_STEPS: usize = 5;

impl Finder {
    /// Edges as in [`Histogram`]; at most 255 of them use the grid.
    pub fn new(edges: &[f64]) -> Self {
        let mut out =
            Self { edges: edges.to_vec(), low: 0.0, scale: 0.0, start: Vec::new(), steps: usize::MAX };
        if (9..256).contains(&edges.len()) {
            // Far tails stretch the grid; without them, their edges are all in the first and the last cell.
            for trim in [0, 1, 2, edges.len() / 16] {
                out.lay_grid(edges, trim);
            }
        }
        out.edges.push(f64::INFINITY);
        out
    }

    /// Lays the grid between the edges but `trim` on each side, if that is better than what there is.
    fn lay_grid(&mut self, edges: &[f64], trim: usize) {
        let (low, high) = (edges[trim], edges[edges.len() - 1 - trim]);
        let scale = GRID as f64 / (high - low);
        if !scale.is_finite() || high <= low {
            return;
        }
        // One cell more on each side, for rounding.
        let below = |cell: f64| edges.partition_point(|e| *e < low + cell / scale);
        let bins = |cell: usize| {
            let first = if cell == 0 { 0 } else { below(cell as f64 - 1.0) };
            let last = if cell == GRID - 1 { edges.len() } else { below(cell as f64 + 2.0) };
            (first, last)
        };
        let steps = (0..GRID).map(|cell| bins(cell).1 - bins(cell).0).max().unwrap_or(0);
        if steps <= MOST_STEPS && steps < self.steps {
            (self.low, self.scale, self.steps) = (low, scale, steps);
            self.start = (0..GRID).map(|cell| bins(cell).0 as u8).collect();
        }
    }

    /// The bin of a value that is not NaN: how many edges lie below it.
    #[inline]
    pub fn bin(&self, x: f64) -> usize {
        if self.start.is_empty() {
            return self.edges.partition_point(|e| *e < x);
        }
        // A float to integer cast saturates: values outside go to the first and last cells.
        let cell = (((x - self.low) * self.scale) as usize).min(GRID - 1);
        let mut bin = usize::from(self.start[cell]);
        for _ in 0..self.steps {
            bin += usize::from(self.edges[bin] < x);
        }
        bin
    }
}
