//! The demo, as a newcomer runs it, ends well by itself.

use std::time::{Duration, Instant};

use tokio::process::Command;

#[tokio::test]
async fn the_demo_really_happens() {
    let since = Instant::now();
    let run =
        Command::new(env!("CARGO_BIN_EXE_trainyard")).args(["demo", "--exit"]).kill_on_drop(true).output();
    let out = tokio::time::timeout(Duration::from_mins(4), run).await.expect("it ends").unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    // The means of three seeds, worked out by running examples/churn by hand.
    for words in [
        "accuracy 0.8316 (+0.0397, +5.01%)",
        "| **accuracy** ↑ | 0.7919 | **0.8316** |",
        "the merge-base",
        "xychart-beta",
        "`rate`",
    ] {
        assert!(text.contains(words), "{words:?} is not in what the demo printed:\n{text}");
    }
    assert_eq!(text.matches("<!-- trainyard:report ").count(), 1, "one comment: {text}");
    println!(
        "FIGURE demo_exit_s={:.1} (development build, beside other tests)",
        since.elapsed().as_secs_f64()
    );
}
