//! The pull request comment as posted: Markdown to HTML with nothing passed through. Raw HTML is text, except for the few
//! tags that trainyard's own comments use; links lead to http and https only; pictures become their description. Mermaid
//! line charts are drawn as our own curves.

use askama::Template;
use pulldown_cmark::{Alignment, CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::chart::{self, Chart, Series};

/// Tags that are let through, exactly as spelled.
const TAGS: &[&str] = &[
    "<details>",
    "</details>",
    "<summary>",
    "</summary>",
    "<br>",
    "<br/>",
    "<br />",
    "<sub>",
    "</sub>",
    "<sup>",
    "</sup>",
    "<b>",
    "</b>",
    "<strong>",
    "</strong>",
    "<code>",
    "</code>",
    "<details open>",
];

#[derive(Template)]
#[template(path = "chart.html")]
struct ChartOnly<'a> {
    chart: &'a Chart,
}

/// HTML that may be put into a page as it is.
pub fn to_html(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let mut events: Vec<Event<'_>> = Vec::new();
    let mut mermaid: Option<String> = None;
    let mut hidden_links = 0u32;
    let mut in_link = Vec::new();
    for event in Parser::new_ext(markdown, options) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(ref info))) if info.as_ref() == "mermaid" => {
                mermaid = Some(String::new());
            }
            Event::Text(ref text) if mermaid.is_some() => {
                if let Some(source) = &mut mermaid {
                    source.push_str(text);
                }
            }
            Event::End(TagEnd::CodeBlock) if mermaid.is_some() => {
                let source = mermaid.take().unwrap_or_default();
                match xychart(&source).and_then(|chart| ChartOnly { chart: &chart }.render().ok()) {
                    Some(svg) => events.push(Event::Html(svg.into())),
                    None => events.extend([
                        Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)),
                        Event::Text(source.into()),
                        Event::End(TagEnd::CodeBlock),
                    ]),
                }
            }
            Event::Html(text) | Event::InlineHtml(text) => push_html(&mut events, &text),
            Event::Start(Tag::Link { link_type, dest_url, id, .. }) => {
                let safe = dest_url.starts_with("https://")
                    || dest_url.starts_with("http://")
                    || dest_url.starts_with('#');
                in_link.push(safe);
                if safe {
                    events.push(Event::Start(Tag::Link { link_type, dest_url, title: CowStr::from(""), id }));
                } else {
                    hidden_links += 1;
                }
            }
            Event::End(TagEnd::Link) => {
                if in_link.pop().unwrap_or(false) {
                    events.push(Event::End(TagEnd::Link));
                }
            }
            // Alignments would become inline styles, which the page refuses.
            Event::Start(Tag::Table(columns)) => {
                events.push(Event::Start(Tag::Table(vec![Alignment::None; columns.len()])));
            }
            // Of pictures the description between both stays, as text; blocks of HTML are handled piece by piece.
            Event::Start(Tag::Image { .. } | Tag::HtmlBlock)
            | Event::End(TagEnd::Image | TagEnd::HtmlBlock) => {}
            Event::Text(text) => push_text(&mut events, &text),
            Event::Code(text) => {
                events.push(Event::Code(crate::http::text::shown_lines(&text).to_string().into()));
            }
            other => events.push(other),
        }
    }
    let mut out = String::with_capacity(markdown.len() * 2);
    html::push_html(&mut out, events.into_iter());
    if hidden_links > 0 {
        out.push_str("<p class=\"muted\">Links that do not lead to http or https are not shown.</p>");
    }
    out
}

/// Emoji that the comment marks states with, and the words of our own marks: not every system has a font for them.
const EMOJI: &[(&str, &str)] = &[
    ("✅", "pass"),
    ("❌", "fail"),
    ("⚠\u{fe0f}", "errored"),
    ("⚠", "errored"),
    ("⏳", "running"),
    ("❔", "inconclusive"),
    ("❓", "inconclusive"),
    ("⚪", "inconclusive"),
    ("⏸\u{fe0f}", "held"),
    ("⏸", "held"),
    ("🚫", "cancelled"),
    ("➖", "skipped"),
];

/// Text with its state emoji as our marks.
fn push_text(events: &mut Vec<Event<'_>>, text: &str) {
    let mut rest = text;
    let next = |rest: &str| {
        EMOJI
            .iter()
            .filter_map(|(e, w)| rest.find(e).map(|at| (at, *e, *w)))
            .min_by_key(|(at, e, _)| (*at, usize::MAX - e.len()))
    };
    while let Some((at, emoji, word)) = next(rest) {
        events.push(Event::Text(crate::http::text::shown_lines(&rest[..at]).to_string().into()));
        events.push(Event::InlineHtml(super::icons::icon(word).to_string().into()));
        rest = &rest[at + emoji.len()..];
    }
    events.push(Event::Text(crate::http::text::shown_lines(rest).to_string().into()));
}

/// Splits raw HTML at its tags: known ones pass, comments vanish, all else is text.
fn push_html(events: &mut Vec<Event<'_>>, text: &str) {
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("<!--") {
            rest = after.find("-->").map_or("", |end| &after[end + 3..]);
            continue;
        }
        if let Some(tag) = TAGS.iter().find(|t| rest.starts_with(**t)) {
            events.push(Event::InlineHtml(CowStr::Borrowed(tag)));
            rest = &rest[tag.len()..];
            continue;
        }
        let end = rest[1..].find('<').map_or(rest.len(), |at| at + 1);
        // A multi-byte first character: step to its end.
        let end = (end..=rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        events.push(Event::Text(crate::http::text::shown_lines(&rest[..end]).to_string().into()));
        rest = &rest[end..];
    }
}

/// Reads the line charts that trainyard writes: `title "…"`, `x-axis "…" a --> b`, `line [1, 2, 3]`.
fn xychart(source: &str) -> Option<Chart> {
    let mut lines = source.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("%%"));
    if !lines.by_ref().find(|l| !l.starts_with("---") && !l.contains(':'))?.starts_with("xychart") {
        return None;
    }
    let (mut title, mut from, mut to) = (String::new(), 0.0, None);
    let mut series = Vec::new();
    for line in lines {
        if let Some(text) = line.strip_prefix("title ") {
            text.trim().trim_matches('"').clone_into(&mut title);
        } else if let Some(axis) = line.strip_prefix("x-axis") {
            if let Some((low, high)) = axis.rsplit_once("-->") {
                from = low.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0.0);
                to = high.trim().parse::<f64>().ok();
            }
        } else if let Some(values) = line.strip_prefix("line") {
            let inner = values.split_once('[')?.1.split_once(']')?.0;
            let ys: Vec<f64> = inner.split(',').filter_map(|v| v.trim().parse().ok()).collect();
            let gap =
                to.map_or(1.0, |to| if ys.len() > 1 { (to - from) / (ys.len() - 1) as f64 } else { 1.0 });
            let points = ys.iter().enumerate().map(|(i, y)| (from + i as f64 * gap, *y)).collect();
            series.push(Series {
                label: format!("line {}", series.len() + 1),
                baseline: false,
                colour: None,
                points,
                band: Vec::new(),
            });
        }
    }
    chart::draw(&title, "", series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_markdown_stays_text() {
        let cases = [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "a <svg/onload=alert(1)> b",
            "[x](javascript:alert(1))",
            "[x](JaVaScRiPt:alert(1))",
            "[x](data:text/html,<script>alert(1)</script>)",
            "![x](https://evil/pixel.png)",
            "<details ontoggle=alert(1) open>x</details>",
            "<a href='javascript:alert(1)'>x</a>",
            "<iframe srcdoc='<script>alert(1)</script>'>",
            "```mermaid\nxychart-beta\n title \"<script>alert(1)</script>\"\n line [1, 2]\n```",
            "```mermaid\ngraph TD\n a[<img src=x onerror=alert(1)>]\n```",
            "<!-- <script>alert(1)</script> -->",
            "| <script>a | b |\n|--|--|\n| <img onerror=x> | \u{202e} |",
            "<https://ok.example/\"onmouseover=alert(1)>",
            "[x](https://e/ \"t\\\" onmouseover=alert(1) \")",
        ];
        for markdown in cases {
            let html = to_html(markdown);
            let lower = html.to_lowercase();
            assert!(!lower.contains("<script"), "{markdown} -> {html}");
            assert!(!lower.contains("<img"), "{markdown} -> {html}");
            assert!(!lower.contains("<iframe"), "{markdown} -> {html}");
            assert!(!lower.contains("<svg/"), "{markdown} -> {html}");
            assert!(!lower.contains("href=\"javascript"), "{markdown} -> {html}");
            assert!(!lower.contains("href=\"data"), "{markdown} -> {html}");
            assert!(!lower.contains("<details on"), "{markdown} -> {html}");
            assert!(!lower.contains("\" on"), "{markdown} -> {html}");
            assert!(!lower.contains('\u{202e}'), "{markdown} -> {html}");
        }
        println!("SEC S15.markdown cases={} failed=0", cases.len());
    }

    #[test]
    fn our_own_comments_keep_their_shape() {
        let html = to_html(
            "<!-- trainyard:abc -->\n**pass**\n\n| metric | this |\n|---|---:|\n| accuracy | 0.9 |\n\n<details><summary>Curves</summary>\n\n```mermaid\nxychart-beta\n    title \"loss\"\n    x-axis \"step\" 0 --> 10\n    y-axis \"loss\"\n    line [3, 2, 1]\n```\n\n</details>\n",
        );
        assert!(html.contains("<strong>pass</strong>") && html.contains("<table>"));
        assert!(html.contains("<details><summary>Curves</summary>") && html.contains("</details>"));
        assert!(html.contains("<svg") && !html.contains("xychart") && !html.contains("trainyard:abc"));
    }
}
