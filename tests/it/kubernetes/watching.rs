//! What the executor sees while its connections to the API server are cut, or go silent (F17), and of what was deleted while
//! it was blind (F18).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trainyard::clock::SystemClock;
use trainyard::config::KubernetesPool;
use trainyard::executor::kubernetes::{self, Kubernetes};
use trainyard::executor::{Executor, Launch, Observation, external_name};
use trainyard::model::{AttemptUid, RunId, StepSpec};

use super::cluster::{HEALTH, Namespace, cluster, small_pool};
use super::golden;
use crate::agent::daemon::uid;

const JOBS: usize = 20;

/// A way to the API server that can be cut or fall silent.
#[derive(Default)]
struct Wire {
    /// Connections of an older generation end.
    generation: AtomicU64,
    silent: AtomicBool,
}

impl Wire {
    async fn open(server: String) -> (u16, Arc<Self>) {
        let wire = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = wire.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (wire, server) = (own.clone(), server.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(&server).await else { return };
                    wire.carry(near, far).await;
                });
            }
        });
        (port, wire)
    }

    async fn carry(&self, near: TcpStream, far: TcpStream) {
        let born = self.generation.load(Ordering::SeqCst);
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        // Once silent, for ever: what was swallowed does not come again.
        let mut deaf = false;
        loop {
            deaf |= self.silent.load(Ordering::SeqCst);
            tokio::select! {
                read = near_in.read(&mut up) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(n) => if !deaf && far_out.write_all(&up[..n]).await.is_err() { return },
                },
                read = far_in.read(&mut down) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(n) => if !deaf && near_out.write_all(&down[..n]).await.is_err() { return },
                },
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            if self.generation.load(Ordering::SeqCst) != born {
                return;
            }
        }
    }
}

/// Waits until all these runs were woken, and says how long it took.
async fn all_woken(
    woken: &Mutex<BTreeSet<String>>,
    runs: &BTreeSet<String>,
    limit: Duration,
) -> (f64, usize) {
    let began = Instant::now();
    loop {
        let missed = runs.difference(&woken.lock().unwrap()).count();
        if missed == 0 || began.elapsed() > limit {
            return (began.elapsed().as_secs_f64(), missed);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_behind_a_broken_watch_is_seen() {
    let _healthy = HEALTH.read().await;
    let namespace = tokio::task::spawn_blocking(Namespace::make).await.unwrap();
    let view: Value =
        serde_json::from_str(&cluster().kubectl(&["config", "view", "--raw", "-o", "json"])).unwrap();
    let server = view["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let (port, wire) = Wire::open(server.trim_start_matches("https://").to_owned()).await;
    let mut through = view.clone();
    through["clusters"][0]["cluster"]["server"] = format!("https://127.0.0.1:{port}").into();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kubeconfig"), through.to_string()).unwrap();

    let pools = || {
        let queue = Some("none".into());
        BTreeMap::from([("default".to_owned(), KubernetesPool { queue, ..small_pool() })])
    };
    let direct = namespace.settings("https://192.0.2.1:1");
    let mut wired = direct.clone();
    wired.config.kubeconfig = Some(dir.path().join("kubeconfig"));
    let make = async |settings: kubernetes::manifest::Cluster| {
        let client = kubernetes::client(&settings.config).await.unwrap();
        Arc::new(Kubernetes::new(client, settings, pools(), Arc::new(SystemClock)))
    };
    let (hand, eye) = (make(direct).await, make(wired).await);
    let woken = Arc::new(Mutex::new(BTreeSet::new()));
    let note = woken.clone();
    let watching = tokio::spawn(eye.clone().watch(Arc::new(move |run: RunId| {
        note.lock().unwrap().insert(run.to_string());
    })));

    let mut launches = Vec::new();
    for _ in 0..JOBS {
        let id = uid();
        let launch = Launch {
            name: external_name("test", &id, "train", 1),
            run: RunId::from_text(format!("run-{}", &id[id.len() - 12..])),
            uid: AttemptUid::from_text(id),
            pool: "default".into(),
            ..golden::launch(StepSpec { image: None, ..golden::step("train") })
        };
        hand.submit(&launch).await.unwrap();
        launches.push(launch);
    }
    let runs: BTreeSet<String> = launches.iter().map(|launch| launch.run.to_string()).collect();
    let (_, missed) = all_woken(&woken, &runs, Duration::from_secs(20)).await;
    assert_eq!(missed, 0, "a whole watch sees what is made");

    let touch = |mark: &str| {
        woken.lock().unwrap().clear();
        let mark = format!("touched={mark}");
        cluster().kubectl(&["annotate", "jobs", "-n", &namespace.0, "--all", "--overwrite", &mark]);
    };
    // Reset: all connections end at once, while things happen.
    wire.generation.fetch_add(1, Ordering::SeqCst);
    touch("reset");
    let (reset_s, missed_reset) = all_woken(&woken, &runs, Duration::from_secs(20)).await;

    // Silence: connections stay open and nothing comes through any more; later ones work.
    wire.silent.store(true, Ordering::SeqCst);
    touch("silence");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let heard = woken.lock().unwrap().len();
    // What is silent now stays so: only connections that are made from here on carry.
    let healed = Instant::now();
    wire.silent.store(false, Ordering::SeqCst);
    let (silence_s, missed_silence) = all_woken(&woken, &runs, Duration::from_secs(80)).await;
    println!(
        "FAULT F17 jobs={JOBS} missed_after_reset={missed_reset} reset_s={reset_s:.1} missed_after_silence={missed_silence} silence_s={:.1}",
        silence_s.min(healed.elapsed().as_secs_f64())
    );
    assert_eq!((missed_reset, missed_silence, heard), (0, 0, 0));
    assert!(reset_s < 5.0, "{reset_s}");

    // Deleted while it is blind: known as gone afterwards, without anybody's word.
    wire.silent.store(true, Ordering::SeqCst);
    woken.lock().unwrap().clear();
    for launch in &launches {
        let handle = serde_json::json!({"job": launch.name});
        while hand.remove(&launch.name, &launch.uid, &handle).await.is_err() {}
    }
    wire.silent.store(false, Ordering::SeqCst);
    wire.generation.fetch_add(1, Ordering::SeqCst);
    let (blind_s, _) = all_woken(&woken, &runs, Duration::from_secs(40)).await;
    let mut stuck = 0;
    for launch in &launches {
        let handle = serde_json::json!({"job": launch.name});
        stuck += usize::from(eye.observe(&launch.uid, &handle).await.unwrap() != Observation::Unknown);
    }
    println!("FAULT F18 deleted_while_blind={JOBS} stuck={stuck} seen_s={blind_s:.1}");
    assert_eq!(stuck, 0);
    watching.abort();
}
