//! The first container of a pod that nobody answers gives its place back, with a sentence.

use std::process::Command;
use std::time::{Duration, Instant};

use trainyard::agent::protocol::{Bootstrap, PROTOCOL};

use super::daemon::{BOOTSTRAP, uid};

#[test]
fn a_pod_that_cannot_reach_the_daemon_says_where_it_called_and_why_not() {
    gives_up(false);
    gives_up(true);
}

fn gives_up(probe: bool) {
    let dir = tempfile::tempdir().unwrap();
    // A port that nobody listens on: it was ours a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let bootstrap = Bootstrap {
        protocol: PROTOCOL,
        url: url.clone(),
        uid: uid(),
        token: BOOTSTRAP.into(),
        dir: dir.path().to_string_lossy().into_owned(),
        ca: None,
        ranks: 1,
        rank: 0,
        prepared: None,
        probe,
    };
    let path = dir.path().join("given.json");
    std::fs::write(&path, serde_json::to_vec(&bootstrap).unwrap()).unwrap();
    let began = Instant::now();
    let out = Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args(["agent", "--reach-within", "1", "--bootstrap"])
        .arg(&path)
        .arg("--prepare")
        .arg(dir.path().join("work"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    println!("FIGURE unreached_daemon reach_s=1 gave_up_s={:.1}", began.elapsed().as_secs_f64());
    let want = format!("the pod cannot reach the daemon at {url} (");
    assert!(said.contains(&want) && said.contains("refused"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(15), "{said}");
}
