//! Profiles: what a table is like, in a small file that can be merged, compared and kept as a baseline.
//!
//! Counts, nulls, minima, maxima, sums, histograms and digests are exact and do not depend on the order or the
//! grouping of rows, to the bit (see [`ExactSum`]). Distinct values are exact up to 4,096 and a HyperLogLog beyond;
//! quantiles are a KLL sketch. A profile holds values of the data where they are few (categories): treat it as data.

mod column;
mod dense;
mod distinct;
mod exact_sum;
pub(crate) mod hash;
mod histogram;
mod hll;
mod numbers;
mod quantiles;

#[cfg(test)]
mod tests;

pub(crate) use column::as_floats;
pub use column::{ColumnProfile, Lengths};
pub use distinct::{Distinct, EXACT};
pub use exact_sum::ExactSum;
pub use histogram::{Finder, Histogram};
pub use hll::Hll;
pub use numbers::Numbers;
pub use quantiles::Quantiles;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the profile's form and hashes. Another one is refused.
pub const VERSION: u32 = 1;
/// The largest profile that is read.
const LARGEST: u64 = 1 << 30;

/// The profile of a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub trainyard_profile: u32,
    pub rows: u64,
    pub columns: Vec<ColumnProfile>,
}

impl Profile {
    pub fn new(columns: Vec<ColumnProfile>) -> Self {
        let rows = columns.first().map_or(0, |c| c.rows);
        Self { trainyard_profile: VERSION, rows, columns }
    }

    pub fn column(&self, name: &str) -> Option<&ColumnProfile> {
        self.columns.iter().find(|c| c.field.name == name)
    }

    /// `self` becomes the profile of both tables. Refused unless they have the same columns of the same kinds.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        for column in &other.columns {
            if self.column(&column.field.name).is_none() {
                return Err(Error::usage(format!(
                    "cannot merge the profiles: only one has the column {:?}; profile tables of one schema",
                    column.field.name
                )));
            }
        }
        let mut matches = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let theirs = other.column(&column.field.name).filter(|c| c.field.kind == column.field.kind);
            matches.push(theirs.ok_or_else(|| {
                Error::usage(format!(
                    "cannot merge the profiles: the column {:?} is missing in one or has another type there; profile tables of one schema",
                    column.field.name
                ))
            })?);
        }
        for (mine, theirs) in self.columns.iter_mut().zip(matches) {
            mine.merge(theirs);
        }
        self.rows += other.rows;
        Ok(())
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::data("profile", format!("cannot be written: {e}")))
    }

    /// Reads a profile. `name` is what errors call it.
    pub fn from_json(name: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            trainyard_profile: Option<u32>,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| {
            Error::data(name, format!("is not a profile: {e}; make one with `trainyard data profile`"))
        })?;
        match head.trainyard_profile {
            Some(VERSION) => {}
            Some(other) => {
                return Err(Error::data(
                    name,
                    format!(
                        "is a profile of version {other}, this program reads {VERSION}: profile the data again"
                    ),
                ));
            }
            None => {
                return Err(Error::data(name, "is not a profile; make one with `trainyard data profile`"));
            }
        }
        let profile: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::data(name, format!("is a broken profile: {e}; profile the data again")))?;
        let mut seen = std::collections::HashSet::new();
        for column in &profile.columns {
            if !column.is_sound() || column.rows != profile.rows || !seen.insert(&column.field.name) {
                return Err(Error::data(
                    name,
                    format!(
                        "is a broken profile: the column {:?} contradicts itself; profile the data again",
                        column.field.name
                    ),
                ));
            }
        }
        Ok(profile)
    }

    pub fn read(path: &std::path::Path) -> Result<Self> {
        Self::from_json(&path.display().to_string(), &crate::source::read_small(path, LARGEST)?)
    }
}
