//! The ways in which programs print a value: raw, in part, encoded, escaped, quoted.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Hands every form of `value` to `push` (some twice). False when the value is too short to be masked at all.
pub fn forms(value: &[u8], push: &mut impl FnMut(Vec<u8>)) -> bool {
    // A trailing line feed belongs to the file it came from; with it or without, the rest is the secret.
    let cut = value.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |i| i + 1);
    let value = &value[..cut];
    if value.len() < super::MIN_LEN {
        return false;
    }
    push(value.to_vec());
    lines(value, push);
    base64s(value, push);
    push(hex::encode(value).into_bytes());
    push(hex::encode_upper(value).into_bytes());
    for (keep, upper, plus) in
        [("", true, false), ("", false, false), ("", true, true), ("/", true, false), (URI, true, false)]
    {
        push(percent(value, keep, upper, plus));
    }
    if let Ok(text) = std::str::from_utf8(value) {
        escapes(text, push);
    }
    true
}

/// What JavaScript's `encodeURI` leaves alone.
const URI: &str = ";/?:@&=+$,#!*'()";

fn lines(value: &[u8], push: &mut impl FnMut(Vec<u8>)) {
    if !value.contains(&b'\n') {
        return;
    }
    let all: Vec<&[u8]> =
        value.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    push(all.join(&b"\r\n"[..]));
    push(all.join(&b"\n"[..]));
    for line in all {
        let line = line.trim_ascii();
        // Lines such as `{` or `"key": [` are the frame of a document, not the secret in it.
        if line.len() >= super::MIN_LEN
            && line.iter().filter(|b| b.is_ascii_alphanumeric() || **b >= 128).count() > 3
        {
            push(line.to_vec());
            if let Ok(text) = std::str::from_utf8(line) {
                push(json(text, false));
            }
        }
    }
}

/// Base64 of a text that holds the value at any offset: the digits that depend on the value alone.
fn base64s(value: &[u8], push: &mut impl FnMut(Vec<u8>)) {
    for offset in 0..3 {
        let mut padded = vec![0; offset];
        padded.extend_from_slice(value);
        let whole = padded.len() * 8 / 6;
        let from = [0, 2, 3][offset];
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&padded).into_bytes();
            push(text[from..whole].to_vec());
            // As `base64` (76) and `openssl` (64) break lines; only from the beginning, as in `echo "$KEY" | base64`.
            if offset == 0 && (65..64 * 1024).contains(&whole) {
                for width in [76, 64] {
                    text[..whole].chunks(width).filter(|c| c.len() >= 12).for_each(|c| push(c.to_vec()));
                }
            }
        }
    }
}

fn percent(value: &[u8], keep: &str, upper: bool, plus: bool) -> Vec<u8> {
    let mut out = String::with_capacity(value.len());
    for &b in value {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || keep.as_bytes().contains(&b) {
            out.push(char::from(b));
        } else if plus && b == b' ' {
            out.push('+');
        } else {
            let _ = if upper { write!(out, "%{b:02X}") } else { write!(out, "%{b:02x}") };
        }
    }
    out.into_bytes()
}

fn escapes(text: &str, push: &mut impl FnMut(Vec<u8>)) {
    let plain = json(text, false);
    push(String::from_utf8_lossy(&plain).replace('/', "\\/").into_bytes());
    // JSON inside of JSON, as log records of log records have it.
    push(json(&String::from_utf8_lossy(&plain), false));
    push(plain);
    push(json(text, true));
    push(text.replace('\'', "'\\''").into_bytes());
    push(text.replace('\'', "'\"'\"'").into_bytes());
    // bash: `printf %q`, `$'…'` and double quotes.
    push(replaced(text, |c| {
        (!c.is_ascii_alphanumeric() && c.is_ascii() && !"_-./:@%+=".contains(c)).then(|| format!("\\{c}"))
    }));
    push(replaced(text, |c| match c {
        '\n' => Some("\\n".into()),
        '\r' => Some("\\r".into()),
        '\t' => Some("\\t".into()),
        '\'' | '\\' => Some(format!("\\{c}")),
        _ => None,
    }));
    push(replaced(text, |c| "\"$`\\".contains(c).then(|| format!("\\{c}"))));
    // HTML and XML; each library has words of its own for the quotes, and in text they are left alone.
    let quotes =
        [("&quot;", "&#39;"), ("&#34;", "&#39;"), ("&quot;", "&#x27;"), ("&quot;", "&apos;"), ("\"", "'")];
    for (double, single) in quotes {
        push(replaced(text, |c| {
            Some(
                match c {
                    '&' => "&amp;",
                    '<' => "&lt;",
                    '>' => "&gt;",
                    '"' => double,
                    '\'' => single,
                    _ => return None,
                }
                .into(),
            )
        }));
    }
}

fn replaced(text: &str, with: impl Fn(char) -> Option<String>) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match with(c) {
            Some(other) => out.push_str(&other),
            None => out.push(c),
        }
    }
    out.into_bytes()
}

/// The text inside of the quotes of a JSON string; `ascii` as Python's `json.dumps` writes it.
fn json(text: &str, ascii: bool) -> Vec<u8> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(&quoted);
    if !ascii {
        return inner.as_bytes().to_vec();
    }
    let mut out = String::with_capacity(inner.len());
    for c in inner.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.into_bytes()
}
