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

/// Finds bins quickly: a grid over the span of the edges says where to begin.
#[derive(Debug, Clone)]
pub struct Finder {
    edges: Vec<f64>,
    low: f64,
    scale: f64,
    start: Vec<u8>,
}

const GRID: usize = 1024;

impl Finder {
    /// Edges as in [`Histogram`]; at most 255 of them use the grid.
    pub fn new(edges: &[f64]) -> Self {
        // The middle of the edges, so that far tails do not stretch the grid.
        let (low, high) = match edges {
            [] => (0.0, 0.0),
            _ => (edges[edges.len() / 16], edges[edges.len() - 1 - edges.len() / 16]),
        };
        let scale = GRID as f64 / (high - low);
        let usable = edges.len() > 8 && edges.len() < 256 && scale.is_finite() && high > low;
        let start = if usable {
            (0..GRID)
                .map(|cell| {
                    if cell == 0 {
                        return 0;
                    }
                    // A bin that is surely not beyond the cell's values: one cell earlier, for rounding.
                    let x = low + (cell as f64 - 1.0) / scale;
                    edges.partition_point(|e| *e < x) as u8
                })
                .collect()
        } else {
            Vec::new()
        };
        Self { edges: edges.to_vec(), low, scale, start }
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
        while bin < self.edges.len() && self.edges[bin] < x {
            bin += 1;
        }
        bin
    }
}
