//! What others wrote, what is too long, and how numbers are spelt.

use super::*;

/// S14: text from outside stays text. Each case goes through every place where outside text can appear.
#[test]
fn outside_text_stays_text() {
    let long = "x".repeat(70_000);
    let emoji = "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿".repeat(300);
    let zalgo = format!("Z{}", "\u{301}\u{302}\u{303}\u{489}".repeat(200));
    let pipes = "|".repeat(300);
    let ticks = "`".repeat(300);
    let cases: &[&str] = &[
        "@org/all please look",
        "thanks @torvalds, cc @github",
        "fixes #1",
        "closes acme/other#2 and GH-3",
        "see !12 and $5",
        "</details></details></table>",
        "<details open><summary>fake</summary>",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![beacon](https://evil.example/p.png)",
        "<img src=\"https://evil.example/p.png\">",
        "[click](javascript:alert(1))",
        "[click](data:text/html;base64,PHNjcmlwdD4=)",
        "[ref]: https://evil.example",
        "https://evil.example/login and www.evil.example",
        "<https://evil.example>",
        "<!-- trainyard:report pr=12 mac=00112233445566778899aabbccddeeff -->",
        "--> <b>out of a comment</b> <!--",
        "| a | b |\n|---|---|\n| fake | ✅ |",
        "accuracy | 0.99 | 0.10 | ✅ |",
        "first\r\nsecond\n\n### ✅ churn passed all gates",
        "```\nout of the fence\n```",
        "`code` ``more`` ```most```",
        "~~~\nother fence\n~~~",
        "\u{202e}drowssap\u{202c} \u{2066}x\u{2069} \u{200f}\u{61c}",
        "zero\u{200b}width\u{feff}\u{2060}\u{ad}joiners",
        "\u{1b}[31mred\u{1b}[0m \u{1b}]8;;https://evil.example\u{7}link\u{1b}]8;;\u{7} \u{9b}2J",
        "\0\u{7}\u{8}\u{7f} controls",
        ":tada: :skull: :+1:",
        "**bold** _it_ ~~no~~ # heading",
        "- item\n1. item\n> quote",
        "&lt;b&gt; &#64;all &commat;all",
        "\\@all \\<b> \\",
        "$\\href{javascript:alert(1)}{x}$ $$x$$",
        "%%{init: {'theme':'x'}}%%\nend\"] --> x[\"y",
        "a\u{2028}b\u{2029}c",
        &long,
        &emoji,
        &zalgo,
        &pipes,
        &ticks,
    ];
    let parse = |body: &str| {
        let options = pulldown_cmark::Options::ENABLE_TABLES | pulldown_cmark::Options::ENABLE_STRIKETHROUGH;
        pulldown_cmark::Parser::new_ext(body, options)
            .map(pulldown_cmark::Event::into_static)
            .collect::<Vec<_>>()
    };
    // The same comment with harmless text: hostile text may change words, never the structure.
    let shape = |body: &str| -> Vec<String> {
        use pulldown_cmark::{Event, Tag};
        parse(body)
            .into_iter()
            .filter_map(|event| match event {
                Event::Start(Tag::Link { dest_url, .. }) => Some(format!("link {dest_url}")),
                Event::Start(Tag::CodeBlock(kind)) => Some(format!("block {kind:?}")),
                Event::Start(tag) => Some(format!("{tag:?}")),
                Event::Html(html) | Event::InlineHtml(html) => {
                    // Our own summaries hold escaped outside text.
                    let tags = regex::Regex::new("<[^>]*>").unwrap();
                    Some(tags.find_iter(&html).map(|m| m.as_str().to_owned()).collect::<String>())
                }
                Event::Rule => Some("rule".into()),
                _ => None,
            })
            .collect()
    };
    let hostile = |text: &str| {
        let mut ok = churn();
        ok.pipeline = text.into();
        let comparison = ok.comparison.as_mut().unwrap();
        comparison.note = text.into();
        comparison.baseline.as_mut().unwrap().branch = text.into();
        let outcome = comparison.outcome.as_mut().unwrap();
        for metric in &mut outcome.metrics {
            metric.name = text.into();
            for aggregate in metric.candidate.iter_mut().chain(&mut metric.baseline) {
                aggregate.values[0].member = text.into();
            }
        }
        let gate = outcome.metrics[0].gate.as_mut().unwrap();
        (gate.verdict, gate.warn_only, gate.reasons, gate.rules) =
            (Verdict::Fail, true, vec![text.into()], vec![text.into()]);
        ok.params[0] =
            ParamLine { label: text.into(), baseline: Some(format!("{text}.")), this: Some(text.into()) };
        ok.curves[0].name = text.into();
        ok.steps[0].name = text.into();
        ok.not_run = vec![text.into()];
        let mut bad = failing();
        bad.pipeline = format!("z{text}");
        bad.reason = text.split_whitespace().collect::<Vec<_>>().join(" ");
        bad.steps[1].reason = text.into();
        let failed = bad.failed.as_mut().unwrap();
        (failed.name, failed.reason, failed.log_tail) = (text.into(), text.into(), text.into());
        view(vec![ok, bad])
    };
    let plain = shape(&comment::render_full(&hostile("harmless")));
    let mut failed = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let body = comment::render_full(&hostile(case));
        let mut wrong: Vec<String> = Vec::new();
        let mut check = |good: bool, what: &str| {
            if !good {
                wrong.push(what.to_owned());
            }
        };
        check(shape(&body) == plain, "the structure changed");
        check(body.len() <= comment::MAX_BYTES, "too long");
        check(body.starts_with("<!-- trainyard:report pr=12 mac="), "our marker is not first");
        check(!body.chars().any(|c| c.is_control() && c != '\n'), "a control character is left");
        check(
            !body.contains(['\u{202e}', '\u{2066}', '\u{200f}', '\u{feff}', '\u{200d}', '\u{2028}']),
            "an invisible character is left",
        );
        // What is neither code nor ours must not call anyone or link anywhere.
        let mut text = String::new();
        let (mut depth, mut events) = (0, parse(&body).into_iter());
        for event in events.by_ref() {
            use pulldown_cmark::{Event, Tag, TagEnd};
            match event {
                Event::Start(Tag::CodeBlock(_)) => depth += 1,
                Event::End(TagEnd::CodeBlock) => depth -= 1,
                Event::Text(t) if depth == 0 => text.push_str(&t),
                Event::Html(t) | Event::InlineHtml(t) => text.push_str(&t),
                _ => text.push('\n'),
            }
        }
        check(text.matches("<!--").count() == 1, "a marker was forged");
        for pattern in [
            r"@[a-zA-Z0-9]",
            r"#\d",
            r"(?i)gh-\d",
            r"!\d",
            r"https?://[a-z]*evil",
            r"(?i)www\.",
            r":(tada|skull|\+1):",
        ] {
            check(!regex::Regex::new(pattern).unwrap().is_match(&text), pattern);
        }
        let status = status::status(&hostile(case).sections[1], 140).unwrap();
        check(status.description.chars().count() <= 140 && !status.description.contains('\n'), "status");
        check(status.context.chars().count() <= 255, "context");
        if !wrong.is_empty() {
            let diff: Vec<_> =
                shape(&body).into_iter().zip(plain.iter()).find(|(a, b)| a != *b).into_iter().collect();
            failed.push(format!(
                "case {n} {:?}: {wrong:?} {diff:?}",
                &case.chars().take(60).collect::<String>()
            ));
        }
    }
    println!("SEC S14 cases={} failed={}", cases.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_long_report_is_cut_between_its_blocks_and_says_so() {
    let mut sections = Vec::new();
    for n in 0..60 {
        let mut section = churn();
        section.pipeline = format!("pipeline-{n:02}");
        sections.push(section);
    }
    let body = comment::render_full(&view(sections));
    assert!(body.len() <= comment::MAX_BYTES && body.len() > comment::MAX_BYTES * 9 / 10, "{}", body.len());
    assert!(body.contains("Cut to fit into a comment"));
    for n in 0..60 {
        assert!(body.contains(&format!("pipeline-{n:02}: passed")), "every verdict is kept");
    }
    assert_eq!(body.matches("<details").count(), body.matches("</details>").count());
    assert_eq!(body.matches("```").count() % 2, 0);
}

#[test]
fn numbers_show_a_difference_and_no_noise() {
    use super::numbers::{decimals, duration, percent, signed, value};
    let show = |a: f64, b: f64| {
        let d = decimals(&[a, b], Some(a - b));
        format!("{} {} {}", value(b, d), value(a, d), signed(a - b, d))
    };
    insta::assert_snapshot!([
        show(0.8612, 0.8481), show(0.86121, 0.86120), show(31.2, 29.85), show(1234.5, 1200.25), show(3.0, 7.0),
        show(1e-7, 2e-7), show(12_345_678_901.5, 2.0), show(0.0, 0.5), show(0.5, 0.5), show(f64::NAN, 0.5),
        show(-0.25, 0.5),
    ].join("\n"), @r##"
        0.8481 0.8612 +0.0131
        0.861200 0.861210 +0.000010
        29.85 31.20 +1.35
        1200 1234 +34
        7 3 −4
        2.000e−7 1.000e−7 −1.000e−7
        2 1.235e10 +1.235e10
        0.5000 0.0000 −0.5000
        0.5000 0.5000 ±0
        0.5000 nan nan
        0.5000 −0.2500 −0.7500
        "##);
    insta::assert_snapshot!(
        [0.0154, -0.00001, 0.0, 0.155, -0.5, 12.0, 0.123_456_7].map(percent).join(" "), @"+1.54% −<0.01% ±0% +15.5% −50.0% ×13 +12.3%");
    insta::assert_snapshot!([0, 900, 42_000, 185_000, 8_040_000].map(duration).join(", "), @"under 1 s, 1 s, 42 s, 3 min 5 s, 2 h 14 min");
}

#[test]
fn what_it_cost_and_what_the_budget_says() {
    let costly = Section {
        gpu_ms: 7_560_000,
        gpu_idle: Some(0.344),
        costs: vec![Cost { currency: "EUR".into(), amount: 5.2 }],
        budget: Some("85 of 80 GPU hours used in 30 days (a soft budget: steps begin all the same)".into()),
        ..churn()
    };
    let text = super::comment::render(&view(vec![costly]), 100_000);
    assert!(text.contains(" · 2.1 GPU-h, 34 % idle, about 5.20 EUR · "), "{text}");
    assert!(text.contains("⚠️ GPU budget: 85 of 80 GPU hours used in 30 days"), "{text}");
}
