//! Finds many words in a text and looks at few of its bytes.
//!
//! A window as long as the shortest word slides over the text. The block of bytes at its end says how far it may move before
//! that block could be the end of any word's beginning; only where it may not move at all are words compared. (Wu and
//! Manber, "A fast algorithm for multi-pattern searching", University of Arizona, report TR 94-17, 1994.)

/// Bytes of a block.
const BLOCK: usize = 4;
/// Slots of the table for each block of the words, so that blocks of other texts seldom fall on theirs.
const SLOTS: usize = 8;
/// The table has at least and at most so many bits of a block's hash.
const BITS: std::ops::RangeInclusive<u32> = 10..=16;

#[derive(Debug)]
pub struct Blocks {
    /// Each with the number by which it is told.
    words: Vec<(Vec<u8>, u32)>,
    window: usize,
    bits: u32,
    /// By the hash of a block: how far the window may move.
    shifts: Vec<u8>,
    /// Hashes of the blocks at the end of the window of each word, in order, with the word's place.
    ends: Vec<(u32, u32)>,
}

impl Blocks {
    /// Words of at least [`BLOCK`] bytes and at most 255, with the numbers by which they are told. None without any.
    pub fn of(words: &[(&[u8], u32)]) -> Option<Self> {
        let window = words.iter().map(|(word, _)| word.len()).min()?;
        debug_assert!(window >= BLOCK && words.iter().all(|(word, _)| word.len() <= 255));
        let blocks = words.len() * (window - BLOCK + 1);
        let bits = (blocks * SLOTS).next_power_of_two().ilog2().clamp(*BITS.start(), *BITS.end());
        let mut shifts = vec![(window - BLOCK + 1) as u8; 1 << bits];
        let mut ends = Vec::with_capacity(words.len());
        for (place, (word, _)) in words.iter().enumerate() {
            for (at, block) in word[..window].windows(BLOCK).enumerate() {
                let (slot, shift) = (slot(block, bits), (window - BLOCK - at) as u8);
                shifts[slot] = shifts[slot].min(shift);
                if shift == 0 {
                    ends.push((slot as u32, place as u32));
                }
            }
        }
        ends.sort_unstable();
        let words = words.iter().map(|(word, number)| (word.to_vec(), *number)).collect();
        Some(Self { words, window, bits, shifts, ends })
    }

    /// Tells every place before `upto` at which a word begins that is there whole.
    pub fn each(&self, text: &[u8], upto: usize, tell: &mut impl FnMut(usize, u32)) {
        let mut end = self.window;
        while end <= text.len() && end - self.window < upto {
            let slot = slot(&text[end - BLOCK..end], self.bits);
            let shift = self.shifts[slot];
            if shift > 0 {
                end += usize::from(shift);
                continue;
            }
            let start = end - self.window;
            let first = self.ends.partition_point(|(other, _)| (*other as usize) < slot);
            for (_, place) in self.ends[first..].iter().take_while(|(other, _)| *other as usize == slot) {
                let (word, number) = &self.words[*place as usize];
                if text[start..].starts_with(word) {
                    tell(start, *number);
                }
            }
            end += 1;
        }
    }
}

/// Fibonacci hashing of the four bytes.
#[inline]
fn slot(block: &[u8], bits: u32) -> usize {
    let block = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    (block.wrapping_mul(0x9E37_79B1) >> (u32::BITS - bits)) as usize
}
