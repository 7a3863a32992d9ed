//! Where quotes open and close in CSV, by the grammar that reads the records (`csv_core`'s): a quote opens at the start
//! of a cell only, two in a row within quotes are one, and elsewhere a quote is a character like others.

use std::ops::Range;

pub const QUOTE: u8 = b'"';

/// Calls `see` with each stretch outside of quotes; where a quote opens that nothing closes, if one does. The bytes
/// begin where a record begins.
pub fn outside(bytes: &[u8], delimiter: u8, see: &mut dyn FnMut(Range<usize>)) -> Option<usize> {
    let next = |from: usize| Some(from + memchr::memchr(QUOTE, bytes.get(from..)?)?);
    let (mut from, mut at) = (0, 0);
    while let Some(open) = next(at) {
        at = open + 1;
        if open > 0 && !ends_cell(bytes[open - 1], delimiter) {
            continue;
        }
        see(from..open);
        loop {
            let Some(close) = next(at) else { return Some(open) };
            at = close + 1;
            if bytes.get(at) != Some(&QUOTE) {
                break;
            }
            at += 1;
        }
        from = at;
    }
    see(from..bytes.len());
    None
}

fn ends_cell(byte: u8, delimiter: u8) -> bool {
    byte == delimiter || matches!(byte, b'\n' | b'\r')
}

/// Whether a quote is left open at the end of a record.
pub fn open_at_end(record: &[u8], delimiter: u8) -> bool {
    outside(record, delimiter, &mut |_| {}).is_some()
}

/// Whether something follows a closing quote other than the end of its cell.
pub fn stray(record: &[u8], delimiter: u8) -> bool {
    let mut found = false;
    outside(record, delimiter, &mut |stretch| {
        found |= stretch.start > 0 && record.get(stretch.start).is_some_and(|b| !ends_cell(*b, delimiter));
    });
    found
}
