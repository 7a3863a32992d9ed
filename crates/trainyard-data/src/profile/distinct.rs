//! Which values a column has and how often: exactly while they are few, by sketches beyond.

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::hash;
use super::hll::Hll;
use crate::schema::Kind;

/// Distinct values up to which counts are exact.
pub const EXACT: usize = 4096;
/// Counters of the heavy hitters that are kept; a count is short by at most `rows / 1024`.
const HEAVY: usize = 1024;
/// Text longer than this many bytes is known by its beginning and its hash.
const LONG: usize = 256;
/// Counts by hash, for the drift of columns with many values.
pub const BUCKETS: usize = 64;

/// The values of one column that are neither null nor NaN nor infinite.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct Distinct {
    numbers: HashTable<(u64, u64)>,
    texts: HashTable<Text>,
    many: Option<Many>,
    kind: Kind,
}

#[derive(Debug, Clone)]
struct Text {
    hash: u64,
    value: Box<str>,
    count: u64,
}

/// What is kept beyond [`EXACT`] values. Of numbers only the sketch: their histogram and quantiles say the rest.
#[derive(Debug, Clone)]
struct Many {
    sketch: Hll,
    /// The most that a count in `texts` is short of the truth.
    short: u64,
    buckets: Option<Box<[u64; BUCKETS]>>,
}

impl Distinct {
    pub fn new(kind: Kind) -> Self {
        Self { numbers: HashTable::new(), texts: HashTable::new(), many: None, kind }
    }

    /// Adds a number by its canonical bits (see [`hash::float_bits`]) and their hash.
    #[inline]
    pub fn add_number(&mut self, bits: u64, hash: u64, count: u64) {
        if let Some(many) = &mut self.many {
            many.sketch.add(hash);
            return;
        }
        if let Some(entry) = self.numbers.find_mut(hash, |e| e.0 == bits) {
            entry.1 += count;
        } else {
            self.numbers.insert_unique(hash, (bits, count), |e| hash::number(e.0));
            if self.numbers.len() > EXACT {
                self.overflow();
            }
        }
    }

    /// Adds numbers by their canonical bits; the sum of their hashes.
    #[inline]
    pub fn add_numbers(&mut self, bits: impl Iterator<Item = u64>) -> u64 {
        let mut digest = 0_u64;
        let mut hashed = bits.map(|bits| {
            let hash = hash::number(bits);
            digest = digest.wrapping_add(hash);
            (bits, hash)
        });
        while self.many.is_none() {
            let Some((bits, hash)) = hashed.next() else { break };
            self.add_number(bits, hash, 1);
        }
        if let Some(many) = &mut self.many {
            hashed.for_each(|(_, hash)| many.sketch.add(hash));
        }
        digest
    }

    /// Adds a text by its hash.
    #[inline]
    pub fn add_text(&mut self, text: &str, hash: u64, count: u64) {
        if let Some(many) = &mut self.many {
            many.sketch.add(hash);
            if let Some(buckets) = &mut many.buckets {
                buckets[(hash % BUCKETS as u64) as usize] += count;
            }
        }
        let same = |e: &Text| e.hash == hash && (text.len() > LONG || *e.value == *text);
        if let Some(entry) = self.texts.find_mut(hash, same) {
            entry.count += count;
            return;
        }
        let value = short(text, hash);
        self.texts.insert_unique(hash, Text { hash, value, count }, |e| e.hash);
        if self.many.is_some() {
            if self.texts.len() >= 2 * HEAVY {
                self.purge();
            }
        } else if self.texts.len() > EXACT {
            self.overflow();
        }
    }

    /// Whether what was read from a file can be of a table of so many rows.
    pub(super) fn is_sound(&self, rows: u64) -> bool {
        let counts = self.numbers.iter().map(|e| e.1).chain(self.texts.iter().map(|e| e.count));
        let sum = counts.into_iter().try_fold(0_u64, u64::checked_add);
        let many = self.many.as_ref().is_none_or(|m| {
            let hashed =
                m.buckets.as_ref().map_or(Some(0), |b| b.iter().try_fold(0_u64, |s, c| s.checked_add(*c)));
            m.short <= rows && hashed.is_some_and(|h| h <= rows)
        });
        many && sum.is_some_and(|s| s <= rows)
    }

    /// From exact counts to sketches.
    fn overflow(&mut self) {
        if self.many.is_some() {
            return;
        }
        let mut sketch = Hll::default();
        let mut buckets = (self.kind == Kind::Text).then(|| Box::new([0; BUCKETS]));
        for (bits, _) in self.numbers.drain() {
            sketch.add(hash::number(bits));
        }
        for e in &self.texts {
            sketch.add(e.hash);
            if let Some(buckets) = &mut buckets {
                buckets[(e.hash % BUCKETS as u64) as usize] += e.count;
            }
        }
        self.numbers.shrink_to(0, |e| hash::number(e.0));
        self.many = Some(Many { sketch, short: 0, buckets });
        self.purge();
    }

    /// Misra and Gries (1982): takes the count of the first one that does not fit off all.
    fn purge(&mut self) {
        if self.texts.len() <= HEAVY {
            return;
        }
        let mut counts: Vec<u64> = self.texts.iter().map(|e| e.count).collect();
        let (_, &mut cut, _) = counts.select_nth_unstable_by(HEAVY, |a, b| b.cmp(a));
        self.texts.retain(|e| {
            e.count = e.count.saturating_sub(cut);
            e.count > 0
        });
        if let Some(many) = &mut self.many {
            many.short += cut;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        if let Some(theirs) = &other.many {
            self.overflow();
            let many = self.many.get_or_insert_with(|| unreachable!("overflow sets it"));
            many.sketch.merge(&theirs.sketch);
            many.short += theirs.short;
            if let (Some(a), Some(b)) = (&mut many.buckets, &theirs.buckets) {
                for (a, b) in a.iter_mut().zip(b.iter()) {
                    *a += b;
                }
            }
            for e in &other.texts {
                match self.texts.find_mut(e.hash, |x| x.hash == e.hash && x.value == e.value) {
                    Some(mine) => mine.count += e.count,
                    None => {
                        self.texts.insert_unique(e.hash, e.clone(), |e| e.hash);
                    }
                }
            }
            self.purge();
            return;
        }
        for (bits, count) in &other.numbers {
            self.add_number(*bits, hash::number(*bits), *count);
        }
        for e in &other.texts {
            // The hash of a value that is short already is that of the whole.
            self.add_text(&e.value, e.hash, e.count);
        }
    }

    /// How many distinct values: (number, whether it is exact).
    pub fn count(&self) -> (f64, bool) {
        match &self.many {
            Some(many) => (many.sketch.estimate(), false),
            None => ((self.numbers.len() + self.texts.len()) as f64, true),
        }
    }

    /// The exact counts of numbers in ascending order, if they are exact.
    pub fn numbers(&self) -> Option<Vec<(f64, u64)>> {
        if self.many.is_some() {
            return None;
        }
        let mut out: Vec<(f64, u64)> =
            self.numbers.iter().map(|(bits, c)| (self.number(*bits), *c)).collect();
        out.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        Some(out)
    }

    fn number(&self, bits: u64) -> f64 {
        match self.kind {
            Kind::Float => f64::from_bits(bits),
            _ => bits as i64 as f64,
        }
    }

    /// The exact counts of texts in order, if they are exact.
    pub fn texts(&self) -> Option<Vec<(&str, u64)>> {
        if self.many.is_some() {
            return None;
        }
        Some(self.sorted_texts())
    }

    fn sorted_texts(&self) -> Vec<(&str, u64)> {
        let mut out: Vec<(&str, u64)> = self.texts.iter().map(|e| (&*e.value, e.count)).collect();
        out.sort_unstable();
        out
    }

    /// The most frequent texts, most frequent first, and by how much each count may be short.
    pub fn top_texts(&self) -> (Vec<(&str, u64)>, u64) {
        let mut out = self.sorted_texts();
        out.sort_by_key(|t| std::cmp::Reverse(t.1));
        (out, self.many.as_ref().map_or(0, |m| m.short))
    }

    /// Counts by hash: there for texts of many values.
    pub fn buckets(&self) -> Option<Vec<u64>> {
        if let Some(many) = &self.many {
            return many.buckets.as_ref().map(|b| b.to_vec());
        }
        let mut out = vec![0; BUCKETS];
        for e in &self.texts {
            out[(e.hash % BUCKETS as u64) as usize] += e.count;
        }
        Some(out)
    }
}

impl PartialEq for Distinct {
    /// Exact counts are compared exactly, sketches of distinct values by their registers, heavy hitters not at all
    /// (they depend on the order).
    fn eq(&self, other: &Self) -> bool {
        match (&self.many, &other.many) {
            (None, None) => self.numbers() == other.numbers() && self.texts() == other.texts(),
            (Some(a), Some(b)) => a.sketch == b.sketch && a.buckets == b.buckets,
            _ => false,
        }
    }
}

fn short(text: &str, hash: u64) -> Box<str> {
    if text.len() <= LONG {
        return text.into();
    }
    let end = text.char_indices().map(|(i, _)| i).take_while(|i| *i <= 64).last().unwrap_or(0);
    format!("{}… ({} bytes, {hash:016x})", &text[..end], text.len()).into()
}

/// The form in files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<(f64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    integers: Vec<(i64, u64)>,
    /// (value, count, hash): the hash only where the value is shortened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    texts: Vec<(String, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    long_texts: Vec<(String, u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sketch: Option<Hll>,
    #[serde(default, skip_serializing_if = "is_zero")]
    short: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buckets: Option<Vec<u64>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(x: &u64) -> bool {
    *x == 0
}

impl From<Distinct> for Stored {
    fn from(d: Distinct) -> Self {
        let (mut numbers, mut integers) = (Vec::new(), Vec::new());
        for (bits, count) in &d.numbers {
            match d.kind {
                Kind::Float => numbers.push((f64::from_bits(*bits), *count)),
                _ => integers.push((*bits as i64, *count)),
            }
        }
        numbers.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        integers.sort_unstable();
        let (mut texts, mut long_texts) = (Vec::new(), Vec::new());
        for e in &d.texts {
            if hash::bytes(e.value.as_bytes()) == e.hash {
                texts.push((e.value.to_string(), e.count));
            } else {
                long_texts.push((e.value.to_string(), e.count, e.hash));
            }
        }
        texts.sort_unstable();
        long_texts.sort_unstable();
        let (sketch, short, buckets) = match d.many {
            Some(m) => (Some(m.sketch), m.short, m.buckets.map(|b| b.to_vec())),
            None => (None, 0, None),
        };
        Self { kind: d.kind, numbers, integers, texts, long_texts, sketch, short, buckets }
    }
}

impl TryFrom<Stored> for Distinct {
    type Error = String;

    fn try_from(s: Stored) -> Result<Self, String> {
        let mut out = Self::new(s.kind);
        let limit = EXACT + 1;
        if s.numbers.len() > limit || s.integers.len() > limit || s.texts.len() + s.long_texts.len() > limit {
            return Err("more exact counts than a profile holds".into());
        }
        if s.numbers.iter().any(|(v, _)| !v.is_finite()) {
            return Err("a count of a value that is not finite".into());
        }
        if s.numbers.iter().map(|n| n.1).chain(s.integers.iter().map(|n| n.1)).any(|c| c > 1 << 53)
            || s.texts.iter().map(|t| t.1).chain(s.long_texts.iter().map(|t| t.1)).any(|c| c > 1 << 53)
        {
            return Err("a count that no file has".into());
        }
        let numbers = s.numbers.iter().map(|(v, c)| (hash::float_bits(*v), *c));
        for (bits, count) in numbers.chain(s.integers.iter().map(|(v, c)| (*v as u64, *c))) {
            out.add_number(bits, hash::number(bits), count);
        }
        for (text, count) in &s.texts {
            out.add_text(text, hash::bytes(text.as_bytes()), *count);
        }
        for (text, count, hash) in &s.long_texts {
            out.add_text(text, *hash, *count);
        }
        if let Some(sketch) = s.sketch {
            let buckets = match s.buckets {
                Some(b) => Some(Box::new(
                    <[u64; BUCKETS]>::try_from(b)
                        .map_err(|_| "counts by hash of a wrong number".to_owned())?,
                )),
                None => None,
            };
            out.many = Some(Many { sketch, short: s.short, buckets });
        }
        Ok(out)
    }
}
