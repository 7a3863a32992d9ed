//! Directories kept between runs, as the agent sees them: kept after a success, there before `setup`, and never a reason to fail.

use sha2::{Digest as _, Sha256};
use trainyard::agent::protocol::CacheSpec;
use trainyard::model::EndClass;

use super::daemon::{Daemon, run, spec};

fn cache(key: &str, path: &str) -> CacheSpec {
    CacheSpec { key: key.into(), path: path.into() }
}

fn again(daemon: &Daemon) {
    let mut seen = daemon.seen.lock().unwrap();
    let kept = std::mem::take(&mut seen.caches);
    *seen = super::daemon::Seen::default();
    seen.caches = kept;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_kept_once_and_is_there_before_setup() {
    let daemon = Daemon::start().await;
    let digest = hex::encode(Sha256::digest("1,2\n"));
    let mut first = spec(
        &daemon.sha,
        &["mkdir -p ~/.cache/pip && echo wheel > ~/.cache/pip/w && ln -s w ~/.cache/pip/l"],
    );
    first.caches = vec![cache("pip-${hash:data/x.csv}", "~/.cache/pip"), cache("none", "nothing/here")];
    let (finished, log) = run(&daemon, first.clone()).await;
    assert_eq!(finished.class, EndClass::Succeeded, "{log}");
    let keys: Vec<String> = daemon.seen.lock().unwrap().caches.keys().cloned().collect();
    assert_eq!(keys, [format!("pip-{digest}")], "{log}");
    assert!(log.contains("nothing kept under") && log.contains("1 files kept under"), "{log}");

    again(&daemon);
    let mut second = spec(&daemon.sha, &["echo other > ~/.cache/pip/w"]);
    second.setup = vec!["cat ~/.cache/pip/w ~/.cache/pip/l".into()];
    second.caches = vec![cache("pip-${hash:data/x.csv}", "~/.cache/pip")];
    let before = daemon.seen.lock().unwrap().caches.clone();
    let (finished, log) = run(&daemon, second.clone()).await;
    assert_eq!(finished.class, EndClass::Succeeded, "{log}");
    assert!(log.contains("\nwheel\nwheel\n") && log.contains("1 files from"), "{log}");
    assert_eq!(daemon.seen.lock().unwrap().caches, before, "what is kept never changes");

    // A failed attempt keeps nothing; one that may not write neither.
    for (command, write) in [("exit 3", true), ("true", false)] {
        again(&daemon);
        daemon.seen.lock().unwrap().caches.clear();
        let mut third = spec(&daemon.sha, &["mkdir -p kept && echo x > kept/x", command]);
        third.caches = vec![cache("k", "kept")];
        third.cache_write = write;
        run(&daemon, third).await;
        assert!(daemon.seen.lock().unwrap().caches.is_empty(), "{command}");
    }
    println!("FIGURE agent.cache kept=1 restored=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_with_a_cache_changes_no_result() {
    let daemon = Daemon::start().await;
    let good = zstd::encode_all(&[0_u8; 1024][..], 1).unwrap();
    let true_digest = hex::encode(Sha256::digest(&good));
    // (what is under the key, its digest, the path, words of the log)
    let cases: Vec<(Vec<u8>, String, &str, &str)> = vec![
        (b"no archive".to_vec(), hex::encode(Sha256::digest("no archive")), "~/c", "not used"),
        (good.clone(), "0".repeat(64), "~/c", "not the one recorded"),
        (good.clone(), true_digest.clone(), "data", "already"),
        (good.clone(), true_digest.clone(), "../up", "goes up"),
        (good.clone(), true_digest.clone(), "link/x", "symbolic link"),
        (good, true_digest, "~/fine", "0 files from"),
    ];
    let mut failed = 0;
    for (bytes, digest, path, words) in &cases {
        again(&daemon);
        daemon.seen.lock().unwrap().caches.insert("k".into(), (bytes.clone(), digest.clone()));
        let mut one = spec(&daemon.sha, &["test -f data/x.csv"]);
        one.caches = vec![cache("k", path)];
        let (finished, log) = run(&daemon, one).await;
        if finished.class != EndClass::Succeeded || !log.contains(words) {
            println!("{path}: {:?} {log}", finished.class);
            failed += 1;
        }
    }
    again(&daemon);
    daemon.seen.lock().unwrap().no_caches = true;
    let mut away = spec(&daemon.sha, &["true"]);
    away.caches = vec![cache("k", "~/c"), cache("${hash:missing}", "~/d")];
    let (finished, log) = run(&daemon, away).await;
    assert_eq!(finished.class, EndClass::Succeeded, "{log}");
    assert!(log.contains("the key names missing"), "{log}");
    // A link in the place of the directory is not followed.
    again(&daemon);
    daemon.seen.lock().unwrap().no_caches = false;
    let mut linked = spec(&daemon.sha, &["ln -s /usr/share ~/d"]);
    linked.caches = vec![cache("links", "~/d")];
    let (finished, log) = run(&daemon, linked).await;
    assert_eq!(finished.class, EndClass::Succeeded, "{log}");
    assert!(log.contains("not kept: it leads through a symbolic link"), "{log}");
    assert!(!daemon.seen.lock().unwrap().caches.contains_key("links"));
    println!("SEC cache.restore cases={} failed={failed}", cases.len() + 2);
    assert_eq!(failed, 0);
}
