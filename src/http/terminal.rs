//! Turns the bytes of a log into lines of styled text. Colours (SGR) become class names from a closed set; every other
//! terminal command is dropped, and whatever is left and cannot be seen is made visible. The result holds text only: a
//! page puts it into text nodes, a terminal prints it with [`for_terminal`].

use std::fmt::Write as _;

use super::text::push_visible;

/// Longest line that is shown, in bytes; what lies beyond is in the download.
const LINE_MAX: usize = 16 * 1024;

/// A stretch of one style. `class` is empty or holds names such as `f1 bo`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Span {
    pub class: String,
    pub text: String,
}

/// The style that the next character would have. Carried from line to line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    front: Option<u8>,
    back: Option<u8>,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
}

impl Style {
    /// Class names: `f0`…`f15`, `b0`…`b15`, `bo`, `di`, `it`, `un`.
    fn class(self) -> String {
        let mut names = Vec::new();
        if let Some(n) = self.front {
            names.push(format!("f{n}"));
        }
        if let Some(n) = self.back {
            names.push(format!("b{n}"));
        }
        for (on, name) in [(self.bold, "bo"), (self.dim, "di"), (self.italic, "it"), (self.underline, "un")] {
            if on {
                names.push(name.to_owned());
            }
        }
        names.join(" ")
    }

    fn sgr(&mut self, parameters: &str) {
        let mut codes = parameters.split([';', ':']).map(|p| p.parse::<u32>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                3 => self.italic = true,
                4 => self.underline = true,
                22 => (self.bold, self.dim) = (false, false),
                23 => self.italic = false,
                24 => self.underline = false,
                30..=37 => self.front = Some((code - 30) as u8),
                39 => self.front = None,
                40..=47 => self.back = Some((code - 40) as u8),
                49 => self.back = None,
                90..=97 => self.front = Some((code - 90 + 8) as u8),
                100..=107 => self.back = Some((code - 100 + 8) as u8),
                38 | 48 => {
                    let colour = match codes.next() {
                        Some(5) => codes.next().and_then(palette),
                        Some(2) => match (codes.next(), codes.next(), codes.next()) {
                            (Some(r), Some(g), Some(b)) => Some(nearest(r, g, b)),
                            _ => None,
                        },
                        _ => None,
                    };
                    if code == 38 {
                        self.front = colour;
                    } else {
                        self.back = colour;
                    }
                }
                _ => {}
            }
        }
    }
}

/// One of the 256 indexed colours as the nearest of our 16.
fn palette(n: u32) -> Option<u8> {
    match n {
        0..=15 => Some(n as u8),
        16..=231 => {
            let (n, level) = (n - 16, |i: u32| if i == 0 { 0 } else { 55 + i * 40 });
            Some(nearest(level(n / 36), level(n / 6 % 6), level(n % 6)))
        }
        232..=255 => {
            let grey = 8 + (n - 232) * 10;
            Some(nearest(grey, grey, grey))
        }
        _ => None,
    }
}

/// The nearest of the 16 named colours: a bit for each strong channel, bright when the strongest is.
fn nearest(r: u32, g: u32, b: u32) -> u8 {
    let top = r.max(g).max(b);
    if top < 64 {
        return 0;
    }
    let low = r.min(g).min(b);
    if top - low < 32 {
        return match top {
            0..=110 => 8,
            111..=200 => 7,
            _ => 15,
        };
    }
    let strong = |c: u32| u8::from(c * 3 > top * 2);
    (strong(r) | strong(g) << 1 | strong(b) << 2) + if top > 190 { 8 } else { 0 }
}

/// One line (without its line feed) as spans. A carriage return starts the line anew, as in a terminal: what a progress
/// bar overwrote is not shown.
pub fn line(bytes: &[u8], style: &mut Style) -> Vec<Span> {
    let (bytes, cut) =
        if bytes.len() > LINE_MAX { (&bytes[..LINE_MAX], bytes.len() - LINE_MAX) } else { (bytes, 0) };
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    let mut spans: Vec<Span> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            '\u{1b}' | '\u{9b}' | '\u{9d}' | '\u{90}' => {
                if let Some((command, after)) = escape(rest) {
                    if let Command::Sgr(parameters) = command {
                        style.sgr(parameters);
                    }
                    rest = after;
                    continue;
                }
                push(&mut spans, *style, c);
            }
            '\r' => spans.clear(),
            '\t' => push_str(&mut spans, *style, "\t"),
            // A backspace erases what stands before it.
            '\u{8}' => {
                if let Some(last) = spans.last_mut() {
                    last.text.pop();
                }
            }
            // Bells say nothing to readers.
            '\u{7}' => {}
            c => push(&mut spans, *style, c),
        }
        rest = &rest[c.len_utf8()..];
    }
    if cut > 0 {
        let note = Style { dim: true, ..Style::default() };
        push_str(&mut spans, note, &format!(" … {cut} more bytes in the download"));
    }
    spans.retain(|s| !s.text.is_empty());
    spans
}

fn push(spans: &mut Vec<Span>, style: Style, c: char) {
    let mut buffer = String::new();
    push_visible(&mut buffer, c);
    push_str(spans, style, &buffer);
}

fn push_str(spans: &mut Vec<Span>, style: Style, text: &str) {
    let class = style.class();
    match spans.last_mut() {
        Some(last) if last.class == class => last.text.push_str(text),
        _ => spans.push(Span { class, text: text.to_owned() }),
    }
}

enum Command<'a> {
    Sgr(&'a str),
    Other,
}

/// Reads one terminal command at the start of `text`. None when it is not complete on this line: then its bytes are shown,
/// so that a half-open command hides nothing.
fn escape(text: &str) -> Option<(Command<'_>, &str)> {
    let mut chars = text.chars();
    let (kind, body) = match chars.next()? {
        '\u{9b}' => ('[', chars.as_str()),
        '\u{9d}' => (']', chars.as_str()),
        '\u{90}' => ('P', chars.as_str()),
        _ => (chars.next()?, chars.as_str()),
    };
    match kind {
        '[' => {
            let end = body.find(|c: char| !matches!(c, '\u{20}'..='\u{3f}'))?;
            let last = body[end..].chars().next()?;
            if !matches!(last, '\u{40}'..='\u{7e}') {
                return None;
            }
            let after = &body[end + 1..];
            let command = if last == 'm' { Command::Sgr(&body[..end]) } else { Command::Other };
            Some((command, after))
        }
        // Strings: operating system (titles, links, clipboard), device, start of string, privacy, application.
        ']' | 'P' | 'X' | '^' | '_' => {
            let end = body.find(['\u{7}', '\u{1b}', '\u{9c}'])?;
            let after = &body[end..];
            if let Some(after) = after.strip_prefix("\u{1b}\\") {
                return Some((Command::Other, after));
            }
            let mut chars = after.chars();
            (chars.next()? != '\u{1b}').then_some((Command::Other, chars.as_str()))
        }
        // Character sets and the like take one more character.
        '(' | ')' | '*' | '+' | '#' | '%' | ' ' => {
            let mut chars = body.chars();
            chars.next()?;
            Some((Command::Other, chars.as_str()))
        }
        '\u{30}'..='\u{7e}' => Some((Command::Other, body)),
        _ => None,
    }
}

/// A stretch of a log as lines. `partial` is the unfinished last line, when there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    pub full: Vec<Vec<Span>>,
    pub partial: Option<Vec<Span>>,
    /// Bytes of `full`, line feeds included.
    pub full_bytes: usize,
}

/// Splits bytes at line feeds; `style` moves over the full lines only.
pub fn lines(bytes: &[u8], style: &mut Style) -> Lines {
    let mut out = Lines::default();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| *b == b'\n') {
        out.full.push(line(&rest[..at], style));
        out.full_bytes += at + 1;
        rest = &rest[at + 1..];
    }
    if !rest.is_empty() {
        out.partial = Some(line(rest, &mut style.clone()));
    }
    out
}

/// One line for a terminal: our own colour codes around text that cannot command the terminal.
pub fn for_terminal(spans: &[Span], colour: bool) -> String {
    let mut out = String::new();
    for span in spans {
        if !colour || span.class.is_empty() {
            out.push_str(&span.text);
            continue;
        }
        let mut codes = Vec::new();
        for name in span.class.split(' ') {
            let number = |at: usize| name[at..].parse::<u32>().unwrap_or(7);
            codes.push(match name {
                "bo" => 1,
                "di" => 2,
                "it" => 3,
                "un" => 4,
                name if name.starts_with('f') => {
                    let n = number(1);
                    if n < 8 { 30 + n } else { 82 + n }
                }
                _ => {
                    let n = number(1);
                    if n < 8 { 40 + n } else { 92 + n }
                }
            });
        }
        let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
        let _ = write!(out, "\u{1b}[{}m{}\u{1b}[0m", codes.join(";"), span.text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> String {
        line(bytes, &mut Style::default()).into_iter().map(|s| s.text).collect()
    }

    fn styled(bytes: &[u8]) -> Vec<(String, String)> {
        line(bytes, &mut Style::default()).into_iter().map(|s| (s.class, s.text)).collect()
    }

    #[test]
    fn commands_are_dropped_and_broken_ones_are_shown() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b[2J\x1b[H\x1b[?25lgone", "gone"),
            (b"\x1b]8;;javascript:alert(1)\x1b\\click\x1b]8;;\x1b\\", "click"),
            (b"\x1b]8;;http://evil\x07click\x1b]8;;\x07!", "click!"),
            (b"\x1b]52;c;cm0gLXJm\x07copied", "copied"),
            (b"\x1b]0;title\x07x", "x"),
            (b"\x1bPq#0;2\x1b\\dcs", "dcs"),
            (b"\x1b_apc\x1b\\y", "y"),
            (b"\x1b(Bset", "set"),
            (b"\x1b]never ends <b>", "⟨U+001B⟩]never ends <b>"),
            (b"\x1b[12;", "⟨U+001B⟩[12;"),
            (b"end\x1b", "end⟨U+001B⟩"),
            (b"\xc2\x9b31mC1", "C1"),
            (b"nul\0x\x7f", "nul⟨U+0000⟩x⟨U+007F⟩"),
            (b"bad \xff\xfe utf", "bad \u{fffd}\u{fffd} utf"),
            ("rtl \u{202e}txt.exe".as_bytes(), "rtl ⟨U+202E⟩txt.exe"),
            (b"10%\r50%\r100%", "100%"),
            (b"done\r", "done"),
            (b"abc\x08d", "abd"),
            (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        ];
        for (input, want) in cases {
            assert_eq!(plain(input), *want, "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn colours_become_known_classes() {
        assert_eq!(
            styled(b"\x1b[1;31mA\x1b[22mB\x1b[0mC"),
            [("f1 bo".into(), "A".into()), ("f1".into(), "B".into()), (String::new(), "C".into())]
        );
        assert_eq!(styled(b"\x1b[38;5;196mX")[0].0, "f9");
        assert_eq!(styled(b"\x1b[38;2;0;200;0mX")[0].0, "f10");
        assert_eq!(styled(b"\x1b[97;44mX")[0].0, "f15 b4");
        assert_eq!(styled(b"\x1b[38;5;999;9999999999999mX")[0].0, "");
    }

    #[test]
    fn styles_cross_lines_and_partial_lines_do_not_advance() {
        let mut style = Style::default();
        let got = lines(b"\x1b[32ma\nb\nc\x1b[0m", &mut style);
        assert_eq!(got.full.len(), 2);
        assert_eq!(got.full[1][0].class, "f2");
        assert_eq!(got.full_bytes, 9);
        assert_eq!(got.partial.unwrap()[0].text, "c");
        assert_eq!(style.class(), "f2");
    }

    #[test]
    fn a_long_line_is_cut_with_a_note() {
        let got = plain(&vec![b'x'; LINE_MAX + 5]);
        assert!(got.ends_with(" … 5 more bytes in the download"));
        assert!(got.len() < LINE_MAX + 50);
    }

    #[test]
    fn a_terminal_gets_our_codes_only() {
        let spans = line(b"\x1b[1;91mhot\x1b[0m \x1b]0;t\x07cold\x1b[2J", &mut Style::default());
        assert_eq!(for_terminal(&spans, true), "\x1b[91;1mhot\x1b[0m cold");
        assert_eq!(for_terminal(&spans, false), "hot cold");
    }
}
