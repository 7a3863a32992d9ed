//! A sheet: what a model said of each example of a test set, as one step's agent read it and the daemon compares it. It holds
//! scores and losses by the digest of an example's id, never an id, a feature or a text of the data.
//!
//! Layout before zstd: the magic, the header's length (u32) and the header as JSON; then, little-endian and in ascending order of
//! ids, `examples` ids (u64), for each metric as many f64, for a ranking as many scores (f64) and labels (u8), for each
//! slice as many codes (u16), and for strata or clusters as many codes (u32). Bytes are never trusted: whatever they hold, decoding gives a sheet or an error.

use std::io::Read as _;

use serde::{Deserialize, Serialize};

use crate::model::outcome::GroupKind;

/// Where a sheet lies among a step's artifacts.
pub const PATH: &str = ".trainyard/predictions.sheet";
/// Examples of one sheet.
pub const MAX_EXAMPLES: u64 = 1_000_000;
/// Of a sheet, packed and unpacked.
pub const MAX_PACKED: i64 = 64 << 20;
const MAX_BYTES: u64 = 256 << 20;
const MAGIC: &[u8; 8] = b"TYSHEET1";
const MAX_HEADER: usize = 1 << 20;
const MAX_COLUMNS: usize = 16;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sheet {
    /// Of the ids and labels: equal for two sheets of one test set.
    pub test_set: String,
    /// Ascending.
    pub ids: Vec<u64>,
    /// Metrics that are means over examples: what each example adds.
    pub means: Vec<(String, Vec<f64>)>,
    /// Scores and labels, for metrics of ranking.
    pub ranking: Option<(Vec<f64>, Vec<bool>)>,
    pub slices: Vec<Slice>,
    pub groups: Option<Groups>,
}

/// Strata or clusters of the examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    pub kind: GroupKind,
    pub column: String,
    /// Numbered by the first example of each; all below the number of examples.
    pub codes: Vec<u32>,
}

/// A column whose values part the examples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    pub column: String,
    pub values: Vec<String>,
    /// Places in `values`; [`Slice::NONE`]: in no slice.
    pub codes: Vec<u16>,
}

impl Slice {
    pub const NONE: u16 = u16::MAX;
}

#[derive(Serialize, Deserialize)]
struct Header {
    examples: u64,
    test_set: String,
    means: Vec<String>,
    ranking: bool,
    slices: Vec<(String, Vec<String>)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    groups: Option<(GroupKind, String)>,
}

impl Sheet {
    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let numbers = 1 + self.means.len() + usize::from(self.ranking.is_some());
        self.ids.len()
            * (8 * numbers
                + usize::from(self.ranking.is_some())
                + 2 * self.slices.len()
                + 4 * usize::from(self.groups.is_some()))
    }

    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let header = serde_json::to_vec(&Header {
            examples: self.ids.len() as u64,
            test_set: self.test_set.clone(),
            means: self.means.iter().map(|(name, _)| name.clone()).collect(),
            ranking: self.ranking.is_some(),
            slices: self.slices.iter().map(|s| (s.column.clone(), s.values.clone())).collect(),
            groups: self.groups.as_ref().map(|g| (g.kind, g.column.clone())),
        })?;
        let mut out = Vec::with_capacity(self.ids.len() * 8 * (2 + self.means.len()));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(header.len() as u32).to_le_bytes());
        out.extend_from_slice(&header);
        out.extend(self.ids.iter().flat_map(|x| x.to_le_bytes()));
        for (_, values) in &self.means {
            out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        if let Some((scores, labels)) = &self.ranking {
            out.extend(scores.iter().flat_map(|x| x.to_le_bytes()));
            out.extend(labels.iter().map(|l| u8::from(*l)));
        }
        for slice in &self.slices {
            out.extend(slice.codes.iter().flat_map(|x| x.to_le_bytes()));
        }
        if let Some(groups) = &self.groups {
            out.extend(groups.codes.iter().flat_map(|x| x.to_le_bytes()));
        }
        zstd::encode_all(out.as_slice(), 3)
    }

    /// # Errors
    /// In a few words, why these bytes are no sheet.
    pub fn decode(packed: &[u8]) -> Result<Self, &'static str> {
        let mut bytes = Vec::new();
        let reader = zstd::Decoder::new(packed).map_err(|_| "it is not compressed as a sheet is")?;
        let read = reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|_| "it is cut or damaged")?;
        if read as u64 > MAX_BYTES {
            return Err("it is too large");
        }
        let mut rest = Rest(&bytes);
        if rest.take(8)? != MAGIC {
            return Err("it is no sheet of this version");
        }
        let length = u32::from_le_bytes(rest.array()?) as usize;
        if length > MAX_HEADER {
            return Err("its header is too long");
        }
        let header: Header =
            serde_json::from_slice(rest.take(length)?).map_err(|_| "its header cannot be read")?;
        let n = header.examples;
        if n > MAX_EXAMPLES || header.means.len() > MAX_COLUMNS || header.slices.len() > MAX_COLUMNS {
            return Err("it holds more than a sheet may");
        }
        let n = n as usize;
        let ids: Vec<u64> = rest.numbers(n, u64::from_le_bytes)?;
        if ids.windows(2).any(|w| w[0] >= w[1]) {
            return Err("its ids are not in order");
        }
        let mut means = Vec::new();
        for name in header.means {
            means.push((name, rest.floats(n)?));
        }
        let ranking = if header.ranking {
            let scores = rest.floats(n)?;
            Some((scores, rest.take(n)?.iter().map(|b| *b != 0).collect()))
        } else {
            None
        };
        let mut slices = Vec::new();
        for (column, values) in header.slices {
            let codes: Vec<u16> = rest.numbers(n, u16::from_le_bytes)?;
            if codes.iter().any(|c| *c != Slice::NONE && usize::from(*c) >= values.len()) {
                return Err("a slice has no name");
            }
            slices.push(Slice { column, values, codes });
        }
        let groups = match header.groups {
            None => None,
            Some((kind, column)) => {
                let codes: Vec<u32> = rest.numbers(n, u32::from_le_bytes)?;
                if codes.iter().any(|c| *c as usize >= n) {
                    return Err("a group has no number");
                }
                Some(Groups { kind, column, codes })
            }
        };
        if !rest.0.is_empty() {
            return Err("it is longer than it says");
        }
        Ok(Self { test_set: header.test_set, ids, means, ranking, slices, groups })
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (head, tail) = self.0.split_at_checked(n).ok_or("it is shorter than it says")?;
        self.0 = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| "it is shorter than it says")
    }
    fn numbers<T, const N: usize>(
        &mut self,
        n: usize,
        read: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, &'static str> {
        let bytes = self.take(n.checked_mul(N).ok_or("it is too large")?)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect())
    }
    /// Finite ones: a mean over others says nothing.
    fn floats(&mut self, n: usize) -> Result<Vec<f64>, &'static str> {
        let values = self.numbers(n, f64::from_le_bytes)?;
        if values.iter().all(|x| x.is_finite()) { Ok(values) } else { Err("a value is not a finite number") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            test_set: "abc".into(),
            ids: vec![1, 5, 9],
            means: vec![("accuracy".into(), vec![1.0, 0.0, 1.0])],
            ranking: Some((vec![0.9, 0.2, 0.4], vec![true, false, true])),
            slices: vec![Slice {
                column: "plan".into(),
                values: vec!["pro".into()],
                codes: vec![0, Slice::NONE, 0],
            }],
            groups: Some(Groups { kind: GroupKind::Clusters, column: "user".into(), codes: vec![0, 1, 0] }),
        }
    }

    #[test]
    fn a_sheet_comes_back_whole_and_spoilt_bytes_are_refused() {
        let packed = sheet().encode().unwrap();
        assert_eq!(Sheet::decode(&packed), Ok(sheet()));
        let plain = zstd::decode_all(packed.as_slice()).unwrap();
        let mut refused = 0;
        for at in 0..plain.len() {
            let cut = zstd::encode_all(&plain[..at], 1).unwrap();
            assert!(Sheet::decode(&cut).is_err(), "cut at {at}");
            // Whatever a changed byte makes of it, it ends, and never in a panic.
            for bit in [1, 0x80] {
                let mut changed = plain.clone();
                changed[at] ^= bit;
                refused +=
                    usize::from(Sheet::decode(&zstd::encode_all(changed.as_slice(), 1).unwrap()).is_err());
            }
        }
        assert!(refused > 20, "{refused}");
        for bytes in [&b""[..], b"no zstd", &packed[..packed.len() / 2]] {
            assert!(Sheet::decode(bytes).is_err());
        }
        let mut nan = sheet();
        nan.means[0].1[1] = f64::NAN;
        assert!(Sheet::decode(&nan.encode().unwrap()).is_err());
        println!("FIGURE sheet cuts={} changed={} panics=0", plain.len(), plain.len() * 2);
    }
}
