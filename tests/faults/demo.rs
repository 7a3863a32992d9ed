//! The demo, as a newcomer runs it, ends well by itself, and says the same on each forge.

use std::time::{Duration, Instant};

use regex::Regex;
use tokio::process::Command;

async fn demo(forge: &str) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args(["demo", "--exit", "--forge", forge])
        .kill_on_drop(true)
        .output();
    let out = tokio::time::timeout(Duration::from_mins(4), run).await.expect("it ends").unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{forge}: {text}\n{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// The comment as posted after each push, without what no two runs share: addresses, commits (they hold their time) and durations.
fn comment(printed: &str) -> String {
    let mut text = String::new();
    for (from, _) in printed.match_indices("<!-- trainyard:report ") {
        let to = printed[from..].find("──────────").expect("its end");
        text.push_str(&printed[from..from + to]);
    }
    assert!(!text.is_empty(), "no comment: {printed}");
    for (what, instead) in [
        (r"https?://[^\s)>\]]+", "URL"),
        (r"\b[0-9a-f]{7,64}\b", "ID"),
        (r"\b(under )?\d+(\.\d+)? ?(ms|s|min)\b", "TIME"),
    ] {
        text = Regex::new(what).unwrap().replace_all(&text, instead).into_owned();
    }
    text
}

#[tokio::test]
async fn the_demo_really_happens() {
    let since = Instant::now();
    let text = demo("github").await;
    let took = since.elapsed().as_secs_f64();
    // The means of three seeds, worked out by running examples/churn by hand.
    for words in [
        "accuracy 0.7919 → 0.8316 (+0.0397, 95 % CI +",
        "3 seeds, 4,000 examples, paired",
        "is not fit to train on",
        "standard deviations",
        "| **accuracy** ↑ | 0.7919 | **0.8316** |",
        "the merge-base",
        "xychart-beta",
        "`rate`",
    ] {
        assert!(text.contains(words), "{words:?} is not in what the demo printed:\n{text}");
    }
    assert_eq!(
        text.matches("<!-- trainyard:report ").count(),
        2,
        "one comment, printed after each push: {text}"
    );
    assert!(!text.contains("month-to-month"), "a value of the data was told: {text}");
    println!("FIGURE demo_exit_s={took:.1} (development build, beside other tests)");

    let here = comment(&text);
    for forge in ["gitlab", "gitea"] {
        let there = comment(&demo(forge).await);
        assert_eq!(here, there, "{forge} was told something else");
    }
    println!("FIGURE same_report forges=3 lines={}", here.lines().count());
}
