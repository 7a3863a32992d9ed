//! Text from outside (metric names, branch names, logs, errors) made harmless for a comment. Whatever goes into a comment
//! and is not written in this room passes through here.

/// Most combining marks that one letter may carry.
const MARKS: usize = 2;

/// Splits what would wake the forge, without being seen.
const BREAK: char = '\u{200B}';

/// One line of plain text in Markdown, in a paragraph or a table cell: shown as it is, links to nothing, calls nobody.
/// At most `limit` characters of it.
pub fn text(raw: &str, limit: usize) -> String {
    let quiet: Vec<char> = quiet(&cut(&one_line(raw), limit)).chars().collect();
    let mut out = String::with_capacity(quiet.len() + 16);
    for (i, &c) in quiet.iter().enumerate() {
        let alphanumeric =
            |at: Option<usize>| at.and_then(|at| quiet.get(at)).is_some_and(|n| n.is_alphanumeric());
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Within a word it means nothing, and metric names are full of it.
            '_' if alphanumeric(i.checked_sub(1)) && alphanumeric(Some(i + 1)) => out.push('_'),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '#' => {
                out.push('\\');
                out.push(c);
            }
            // Lists, rules and underlined headings start a line with these.
            '+' | '-' | '=' if i == 0 => {
                out.push('\\');
                out.push(c);
            }
            '.' if i > 0 && quiet[..i].iter().all(char::is_ascii_digit) => out.push_str("\\."),
            c => out.push(c),
        }
    }
    out
}

/// For the inside of `<summary>` and other HTML that we write, where Markdown is not read but the forge still looks.
pub fn html(raw: &str, limit: usize) -> String {
    let quiet = quiet(&cut(&one_line(raw), limit));
    quiet.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Mentions, references, links and emoji codes, none of which Markdown's own escapes stop: the forge looks for them after
/// rendering. A break that nobody sees keeps them apart.
fn quiet(clean: &str) -> String {
    let chars: Vec<char> = clean.chars().collect();
    let mut out = String::with_capacity(clean.len() + 8);
    for (i, &c) in chars.iter().enumerate() {
        let next = chars.get(i + 1).copied().unwrap_or(' ');
        let after = |word: &str| {
            let n = word.len();
            i >= n && chars[i - n..i].iter().zip(word.chars()).all(|(a, b)| a.eq_ignore_ascii_case(&b))
        };
        let wakes = match c {
            '@' => true,
            '#' | '!' => !next.is_whitespace(),
            ':' => next == '/' || next.is_alphanumeric() || matches!(next, '+' | '-' | '_'),
            '-' => after("gh"),
            '.' if after("www") => {
                out.push(BREAK);
                false
            }
            _ => false,
        };
        out.push(c);
        if wakes {
            out.push(BREAK);
        }
    }
    out
}

/// A code span for a table cell or a paragraph. Nothing inside is interpreted, neither by Markdown nor by the forge.
pub fn code(raw: &str, limit: usize) -> String {
    // A table ends a cell at `|` even inside code, and `\|` shows its backslash outside of tables: a look-alike serves both.
    let clean = cut(&one_line(raw), limit).replace('|', "\u{2223}");
    if clean.is_empty() {
        return "``\u{2003}``".to_owned();
    }
    let fence = "`".repeat(longest_run(&clean, '`') + 1);
    let pad = if clean.starts_with('`') || clean.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{clean}{pad}{fence}")
}

/// A fenced block: the last `max_lines` lines, each cut to `max_columns` characters.
pub fn block(raw: &str, max_lines: usize, max_columns: usize) -> String {
    let clean = lines(raw);
    let all: Vec<&str> = clean.trim_end().split('\n').collect();
    let from = all.len().saturating_sub(max_lines);
    let body: Vec<String> = all[from..].iter().map(|l| cut(l.trim_end(), max_columns)).collect();
    let body = body.join("\n");
    let fence = "`".repeat((longest_run(&body, '`') + 1).max(3));
    format!("{fence}text\n{body}\n{fence}")
}

/// Words for a Mermaid title: letters, digits and a few signs, nothing that its grammar knows.
pub fn mermaid(raw: &str, limit: usize) -> String {
    let kept = one_line(raw);
    let kept: String =
        kept.chars().map(|c| if c.is_alphanumeric() || " ._/-=,".contains(c) { c } else { ' ' }).collect();
    cut(kept.trim(), limit)
}

/// One line for a status description: no Markdown there, only what cannot be shown goes.
pub fn plain(raw: &str, limit: usize) -> String {
    cut(&one_line(raw), limit)
}

/// The first `limit` characters, the last of them an ellipsis when something was cut.
fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(limit.saturating_sub(1)).collect();
    out.push('…');
    out
}

fn one_line(raw: &str) -> String {
    let clean = lines(raw);
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Without terminal sequences, control characters (line feeds stay, tabs become spaces), invisible and direction-changing
/// characters, and piles of combining marks. A carriage return starts its line anew, as a terminal shows it.
fn lines(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut marks = 0;
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' | '\u{9b}' => skip_sequence(c, &mut chars),
            '\n' => out.push('\n'),
            '\r' => {
                if chars.peek().is_some_and(|n| *n != '\n') {
                    let start = out.rfind('\n').map_or(0, |i| i + 1);
                    out.truncate(start);
                }
            }
            '\t' => out.push_str("    "),
            c if c.is_control() || is_invisible(c) => {}
            c if is_mark(c) => {
                marks += 1;
                if marks <= MARKS {
                    out.push(c);
                }
                continue;
            }
            c => out.push(c),
        }
        marks = 0;
    }
    out
}

fn skip_sequence(first: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let csi = first == '\u{9b}' || chars.next_if_eq(&'[').is_some();
    if csi {
        for c in chars.by_ref() {
            if ('\u{40}'..='\u{7e}').contains(&c) {
                break;
            }
        }
    } else if chars.next_if(|c| matches!(c, ']' | 'P' | '_' | '^' | 'X')).is_some() {
        // Up to BEL or ESC \: titles, hyperlinks.
        while let Some(c) = chars.next() {
            if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                break;
            }
        }
    } else {
        chars.next();
    }
}

fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}' | '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}')
}

fn longest_run(text: &str, what: char) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c == what { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
