//! How busy GPUs were, by a real Prometheus that scrapes what NVIDIA's DCGM exporter would say.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use trainyard::clock::{Clock as _, SystemClock};
use trainyard::executor::kubernetes::busy::Busy;
use trainyard::model::Held;

/// Two GPUs of one pod, one of another, and one that nobody holds.
const EXPORTER: &str = "# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",namespace=\"runs\",pod=\"ty-a-0\",container=\"step\"} 0.75
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"1\",namespace=\"runs\",pod=\"ty-a-0\",container=\"step\"} 0.25
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"2\",namespace=\"runs\",pod=\"ty-b-0\",container=\"step\"} 1
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"3\"} 0
";

async fn exporter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{EXPORTER}",
                    EXPORTER.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

struct Prometheus {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// `honours`: keeps the exporter's own `namespace` and `pod`, instead of renaming them after its target's.
    fn start(exporter: u16, honours: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: dcgm
    honor_labels: {honours}
    static_configs: [{{targets: ['127.0.0.1:{exporter}'], labels: {{namespace: monitoring, pod: dcgm-0}}}}]
"
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed (scripts/setup.sh tests)");
        Self { child, url: format!("http://127.0.0.1:{port}/"), _dir: dir }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_busy_gpus_were_is_asked_of_prometheus() {
    let exporter = exporter().await;
    let mut asked = 0;
    for honours in [false, true] {
        let prometheus = Prometheus::start(exporter, honours);
        let busy = Busy::new(&prometheus.url).unwrap();
        let of = async |pods: &[&str]| {
            let now = SystemClock.now_ms();
            let held = Held { from_ms: now - 5_000, to_ms: now, pods_ms: 5_000, gpu_busy: None };
            let pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
            busy.of("runs", &pods, held).await
        };
        let began = Instant::now();
        while of(&["ty-b-0"]).await.is_none() {
            assert!(began.elapsed() < Duration::from_mins(1), "Prometheus has no sample");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (pods, want) in [
            (&["ty-a-0"][..], Some(0.5)),
            (&["ty-b-0"], Some(1.0)),
            (&["ty-a-0", "ty-b-0"], Some(2.0 / 3.0)),
            (&["ty-a"], None),
            (&["dcgm-0"], None),
        ] {
            let got = of(pods).await;
            let same = match (got, want) {
                (Some(got), Some(want)) => (got - want).abs() < 1e-9,
                (got, want) => got.is_none() && want.is_none(),
            };
            assert!(same, "{pods:?}: {got:?}, not {want:?}");
            asked += 1;
        }
    }
    // One that is not there holds nobody up.
    let began = Instant::now();
    let held = Held { from_ms: 0, to_ms: 1000, pods_ms: 1000, gpu_busy: None };
    assert_eq!(Busy::new("http://127.0.0.1:9").unwrap().of("runs", &["ty-a-0".into()], held).await, None);
    assert!(began.elapsed() < Duration::from_secs(5));
    println!("FIGURE kubernetes_gpu_busy asked={asked} wrong=0");
}
