//! Secrets never reach a log: replaces them by `***` in a stream of bytes, however it is cut into chunks.
//!
//! What is replaced is the union of all occurrences of all forms of all secrets; occurrences that overlap or touch become
//! one `***`. So the result depends on the bytes alone, never on how they arrived. Used by the agent (before a byte
//! leaves the machine) and again by the daemon.
//!
//! Must not: guess. A reversed secret, or one printed a letter a line, is not found; `docs` say so.

mod blocks;
mod forms;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aho_corasick::{AhoCorasick, Input, MatchKind, Span, packed};

use self::blocks::Blocks;

/// What stands in place of a secret.
pub const MASK: &[u8] = b"***";
/// Shorter values are not masked: they would be found everywhere.
pub const MIN_LEN: usize = 4;
/// Longer forms are cut into equal pieces of at most this length, so that little has to be held back.
const PIECE: usize = 16 * 1024;
/// The searchers look for the beginnings of forms; the rest is compared.
const KEY: usize = 16;
/// The packed searcher takes no more patterns than this.
const GROUP: usize = 64;
/// Beyond this many groups one automaton is quicker than a pass for each.
const MAX_GROUPS: usize = 8;
/// Of more beginnings than a group, those from this length on are found block by block.
const LONG: usize = 8;

/// The forms of some secrets, ready to search for. Cheap to clone.
#[derive(Clone)]
pub struct Masker(Arc<Inner>);

struct Inner {
    /// Every form, sorted.
    patterns: Vec<Vec<u8>>,
    /// For each key, the patterns that may start where it was found, longest first.
    keys: Vec<Vec<u32>>,
    finder: Finder,
    max_len: usize,
    first: [bool; 256],
    notes: Vec<String>,
}

/// Finds where the beginnings of forms stand. What it tells of each is the number of its key.
struct Finder {
    long: Option<Blocks>,
    short: Short,
}

enum Short {
    Nothing,
    /// Each searcher with the keys that its pattern numbers stand for.
    Packed(Vec<(packed::Searcher, Vec<u32>)>),
    Automaton(AhoCorasick, Vec<u32>),
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Masker({} forms)", self.0.patterns.len())
    }
}

impl Masker {
    /// `secrets` are pairs of a name (for the notes alone) and a value.
    pub fn new<N: AsRef<str>, V: AsRef<[u8]>>(secrets: &[(N, V)]) -> Self {
        let (mut patterns, mut notes) = (Vec::new(), Vec::new());
        for (name, value) in secrets {
            if !forms::forms(value.as_ref(), &mut |form| pieces(form, &mut patterns)) {
                let name = name.as_ref();
                notes.push(format!(
                    "secret {name} is shorter than {MIN_LEN} characters, so it is not masked in logs"
                ));
            }
        }
        patterns.sort_unstable();
        patterns.dedup();
        let (texts, keys) = keys_of(&patterns);
        let mut first = [false; 256];
        for pattern in &patterns {
            first[usize::from(pattern[0])] = true;
        }
        let max_len = patterns.iter().map(Vec::len).max().unwrap_or(0);
        Self(Arc::new(Inner { finder: Finder::of(&texts), patterns, keys, max_len, first, notes }))
    }

    /// Sentences about secrets that are not masked.
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Length of the longest form, in bytes: an occurrence that ends after a place begins no further before it.
    pub fn longest(&self) -> usize {
        self.0.max_len
    }

    pub fn stream(&self) -> MaskStream {
        MaskStream { masker: self.clone(), held: Vec::new(), covered: 0, in_mask: false, found: Vec::new() }
    }

    pub fn mask_all(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut stream = self.stream();
        stream.push(text, &mut out);
        stream.finish(&mut out);
        out
    }

    pub fn mask_str(&self, text: &str) -> String {
        if self.0.patterns.is_empty() {
            return text.to_owned();
        }
        String::from_utf8_lossy(&self.mask_all(text.as_bytes())).into_owned()
    }

    /// Overwrites every occurrence by as many `*`, so that offsets stay as they are. For bytes that are masked already
    /// and are checked once more.
    pub fn blot(&self, text: &mut [u8]) {
        let mut found = Vec::new();
        self.0.occurrences(text, text.len(), &mut found);
        for (start, end) in found {
            text[start..end].fill(b'*');
        }
    }
}

/// Cuts a form into equal pieces; each alone is long enough to be no accident.
fn pieces(form: Vec<u8>, into: &mut Vec<Vec<u8>>) {
    if form.len() < MIN_LEN {
        return;
    }
    if form.len() <= PIECE {
        into.push(form);
        return;
    }
    let count = form.len().div_ceil(PIECE);
    let len = form.len().div_ceil(count);
    into.extend(form.chunks(len).filter(|piece| piece.len() >= MIN_LEN).map(<[u8]>::to_vec));
}

/// The distinct beginnings of the sorted patterns, and for each the patterns that can start at it, longest first.
fn keys_of(patterns: &[Vec<u8>]) -> (Vec<&[u8]>, Vec<Vec<u32>>) {
    let mut texts: Vec<&[u8]> = patterns.iter().map(|p| &p[..p.len().min(KEY)]).collect();
    texts.dedup();
    let keys = texts
        .iter()
        .map(|key| {
            let from = patterns.partition_point(|p| p.as_slice() < *key);
            let longer = patterns[from..].iter().take_while(|p| p.starts_with(key)).count();
            let mut these: Vec<u32> = (from..from + longer).map(|i| i as u32).collect();
            these.extend((MIN_LEN..key.len()).filter_map(|n| {
                patterns.binary_search_by(|p| p.as_slice().cmp(&key[..n])).ok().map(|i| i as u32)
            }));
            these.sort_by_key(|i| std::cmp::Reverse(patterns[*i as usize].len()));
            these
        })
        .collect();
    (texts, keys)
}

impl Finder {
    fn of(texts: &[&[u8]]) -> Self {
        let all = texts.iter().zip(0_u32..).map(|(text, key)| (*text, key));
        let few = texts.len() <= GROUP;
        let (long, short): (Vec<_>, Vec<_>) = all.partition(|(text, _)| !few && text.len() >= LONG);
        Self { long: Blocks::of(&long), short: Short::of(&short) }
    }

    /// Tells every start before `upto` with the key that stands there, in no order; some twice.
    fn each(&self, hay: &[u8], upto: usize, mut tell: impl FnMut(usize, u32)) {
        let hay = &hay[..hay.len().min(upto.saturating_add(KEY))];
        if let Some(long) = &self.long {
            long.each(hay, upto, &mut tell);
        }
        self.short.each(hay, upto, &mut tell);
    }
}

impl Short {
    fn of(texts: &[(&[u8], u32)]) -> Self {
        if texts.is_empty() {
            return Self::Nothing;
        }
        if texts.len().div_ceil(GROUP) <= MAX_GROUPS {
            let groups: Option<Vec<_>> = texts
                .chunks(GROUP)
                .map(|group| {
                    let searcher = packed::Config::new()
                        .match_kind(packed::MatchKind::LeftmostLongest)
                        .builder()
                        .extend(group.iter().map(|(text, _)| text))
                        .build()?;
                    Some((searcher, group.iter().map(|(_, key)| *key).collect()))
                })
                .collect();
            if let Some(groups) = groups {
                return Self::Packed(groups);
            }
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts.iter().map(|(text, _)| text))
            .expect("at most 2^32 states: secrets are limited by the environment's size");
        Self::Automaton(automaton, texts.iter().map(|(_, key)| *key).collect())
    }

    fn each(&self, hay: &[u8], upto: usize, tell: &mut impl FnMut(usize, u32)) {
        match self {
            Self::Nothing => {}
            Self::Packed(groups) => {
                for (searcher, keys) in groups {
                    let mut at = 0;
                    while at < upto {
                        let Some(m) = searcher.find_in(hay, Span { start: at, end: hay.len() }) else {
                            break;
                        };
                        if m.start() >= upto {
                            break;
                        }
                        tell(m.start(), keys[m.pattern().as_usize()]);
                        at = m.start() + 1;
                    }
                }
            }
            Self::Automaton(automaton, keys) => {
                let mut at = 0;
                while at < upto {
                    let Some(m) = automaton.find(Input::new(hay).range(at..)) else { break };
                    if m.start() >= upto {
                        break;
                    }
                    tell(m.start(), keys[m.pattern().as_usize()]);
                    at = m.start() + 1;
                }
            }
        }
    }
}

impl Inner {
    /// Every start before `upto` at which a form is found whole in `hay`, with the end of the longest one.
    fn occurrences(&self, hay: &[u8], upto: usize, found: &mut Vec<(usize, usize)>) {
        self.finder.each(hay, upto, |start, key| {
            let longest = self.keys[key as usize]
                .iter()
                .map(|i| &self.patterns[*i as usize])
                .find(|p| hay[start..].starts_with(p));
            if let Some(pattern) = longest {
                found.push((start, start + pattern.len()));
            }
        });
        found.sort_unstable();
    }

    /// Is `text` the beginning, but not the whole, of a form?
    fn begins_one(&self, text: &[u8]) -> bool {
        self.first[usize::from(text[0])] && {
            let next = self.patterns.partition_point(|p| p.as_slice() <= text);
            self.patterns.get(next).is_some_and(|p| p.starts_with(text))
        }
    }
}

/// Masks a stream. Holds back what could still become a secret: at most the longest form less one byte after [`flush`],
/// about 32 KiB more before it.
///
/// [`flush`]: Self::flush
#[derive(Debug)]
pub struct MaskStream {
    masker: Masker,
    held: Vec<u8>,
    /// So many bytes at the front of `held` belong to an occurrence whose mask is out already.
    covered: usize,
    /// The last thing put out was a mask.
    in_mask: bool,
    found: Vec<(usize, usize)>,
}

impl MaskStream {
    /// Takes bytes in; appends to `out` what is decided. Call [`flush`](Self::flush) now and then: small pushes are
    /// gathered, so that a byte at a time costs no more than a block.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let max_len = self.masker.0.max_len;
        if max_len == 0 {
            out.extend_from_slice(bytes);
            return;
        }
        self.held.extend_from_slice(bytes);
        if self.held.len() >= (2 * max_len).max(32 * 1024) {
            self.decide(self.held.len() - (max_len - 1), out);
        }
    }

    /// Puts out all that cannot be the beginning of a secret. Right at any time.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let inner = &self.masker.0;
        let from = self.held.len().saturating_sub(inner.max_len.saturating_sub(1));
        let hold = (from..self.held.len()).find(|at| inner.begins_one(&self.held[*at..]));
        self.decide(hold.unwrap_or(self.held.len()), out);
    }

    /// No more bytes will come: puts out the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.decide(self.held.len(), out);
    }

    /// Puts out the first `upto` bytes held. Every occurrence that starts among them must be held whole.
    fn decide(&mut self, upto: usize, out: &mut Vec<u8>) {
        if upto == 0 {
            return;
        }
        self.found.clear();
        self.masker.0.occurrences(&self.held, upto, &mut self.found);
        self.found.push((upto, upto));
        let mut done = self.covered;
        for (start, end) in self.found.drain(..) {
            if start > done {
                out.extend_from_slice(&self.held[done..start]);
                self.in_mask = false;
                done = start;
            }
            if end > done {
                if !self.in_mask {
                    out.extend_from_slice(MASK);
                    self.in_mask = true;
                }
                done = end;
            }
        }
        self.covered = done - upto;
        self.held.drain(..upto);
    }
}
