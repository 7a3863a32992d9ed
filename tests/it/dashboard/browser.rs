//! The dashboard in Chromium, while a training writes log lines and metrics (issue of the live page, S15): what arrives, what
//! is refused, and pictures of it in `target/screenshots`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use trainyard::http::app::serve_app;

use super::Dashboard;
use crate::support::npm;

#[tokio::test(flavor = "multi_thread")]
async fn pages_live_in_a_browser_and_run_nobody_elses_script() {
    let module = npm("playwright-core");
    assert!(Path::new("/usr/bin/chromium").exists(), "chromium is not installed: run make setup");
    let at = Dashboard::new(true).await;
    let long = at.history().await;
    let seeded = at.seed().await;
    let runs = at.get("/api/v1/runs?pipeline=hostile", "").await.json();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_app(listener, at.app.clone(), stop.clone()));

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = json!({
        "base": base,
        "shots": root.join("target/screenshots"),
        "module": module.join("package.json"),
        "live": seeded.live.as_str(),
        "candidate": seeded.candidate.as_str(),
        "hostile": runs["runs"][0]["id"],
        "held": seeded.held.as_str(),
        "long": long.as_str(),
        "axe": npm("@axe-core/playwright").join("package.json"),
        "delivery": seeded.delivery,
        "token": seeded.tokens.run,
    });
    let browser = tokio::process::Command::new("node")
        .arg(root.join("tests/browser/dashboard.mjs"))
        .arg(given.to_string())
        .kill_on_drop(true)
        .output();
    // The producer: an epoch now and then for as long as the browser looks.
    let produce = async {
        for epoch in 4.. {
            at.epoch(&seeded.running, epoch).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    let output = tokio::select! {
        output = tokio::time::timeout(Duration::from_mins(4), browser) => output.expect("the browser took over 240 s").unwrap(),
        () = produce => unreachable!("it produces for ever"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let saw: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("the browser said: {text}{}", String::from_utf8_lossy(&output.stderr)));
    assert!(saw["failure"].is_null(), "{}\n{saw:#}", saw["failure"].as_str().unwrap_or_default());
    let number = |key: &str| saw[key].as_u64().unwrap_or_else(|| panic!("no {key}: {saw:#}"));
    let string = |key: &str| saw[key].as_str().unwrap_or_else(|| panic!("no {key}: {saw:#}")).to_owned();

    assert!(number("linesAfter") >= number("linesBefore") + 5);
    assert!(number("pointsAfter") >= number("pointsBefore") + 5);
    assert_eq!(saw["pathChanged"], true);
    assert!(number("green") > 0, "colours of the log are shown");
    assert_eq!(saw["atEnd"], true);
    assert!(string("readout").contains("step"), "{}", string("readout"));

    let shown = "<img src=x onerror=alert(1)>⟨U+202E⟩";
    for key in
        ["hostileTitle", "hostileBranch", "hostileLog", "hostileIntervals", "hostileData", "hostileBasis"]
    {
        assert!(string(key).contains(shown), "{key}: {}", string(key));
    }
    assert!(string("hostileLog").contains("<script>alert(3)</script>"));
    assert!(string("report").contains("<script>alert(4)</script>"));
    assert_eq!(number("hostileImages"), 0);
    assert_eq!(number("reportChart"), 1);
    assert_eq!(number("gates"), 5);
    // Changes on one scale, whatever a metric is called; columns beside the baseline's; features.
    assert_eq!((number("intervals"), number("cleared")), (3, 2));
    assert_eq!(saw["drawnWithin"], true);
    let words = saw["intervalWords"].to_string();
    assert!(words.contains("accuracy: −1.74 % (−2.03 % to −1.45 %)"), "{words}");
    assert!(number("histograms") == 3 && saw["tallest"].as_f64().unwrap() > 50.0, "{}", saw["tallest"]);
    for told in ["monthly_charge", "1 changed, 1 added, 1 equal", "1412 (70.600 %)"] {
        assert!(string("data").contains(told), "{told}: {}", string("data"));
    }
    assert_eq!(string("firstFocus"), "Skip to content");
    assert!(string("wrongLogin").contains("not valid"));
    assert!(string("cancelled").contains("cancelled by token runner"));
    assert!(string("rerun").contains("re-run 1"), "{}", string("rerun"));
    assert!(number("plainLines") > 0 && number("plainCurves") > 3, "the page works without its script");

    assert!(number("chartEvents") > 2, "curves come by events: {saw:#}");
    assert_eq!(string("logLines"), "120,000 lines");
    assert!(string("errorLine").contains("Traceback"), "{}", string("errorLine"));
    assert!(string("linkedLine").contains("step  60000"), "{}", string("linkedLine"));
    assert_eq!(string("searchHits"), "1 of 1 lines");
    assert!(string("searchMark").contains("OutOfMemoryError"));
    assert!(number("windowRows") < 120, "only a window is in the page: {} rows", number("windowRows"));
    assert_eq!(string("foldedNext"), "+ python train.py --batch 4096");
    assert_eq!(saw["keyboard"], json!(["runs", "filter", "help", "list"]));
    assert!(number("trendCharts") == 2 && number("trendTicks") == 16 && number("trendBands") == 2);
    assert!(number("pullCurves") >= 9, "three runs over each other: {}", number("pullCurves"));
    assert_eq!(string("filteredTo"), "1");
    assert_eq!(saw["axe"], json!([]), "accessibility, serious or critical");
    println!("FIGURE axe pages={} rules_passed={} serious=0", number("axePages"), number("axePasses"));
    assert_eq!(number("dialogs"), 0);
    for key in ["violations", "errors", "overflow", "requests"] {
        assert_eq!(saw[key], json!([]), "{key}");
    }
    println!(
        "SEC S15.browser lines={}+{} points={}+{} csp_violations=0 dialogs=0 failed=0",
        number("linesBefore"),
        number("linesAfter") - number("linesBefore"),
        number("pointsBefore"),
        number("pointsAfter") - number("pointsBefore")
    );
    stop.cancel();
    serving.await.unwrap();
}
