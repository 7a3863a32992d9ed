//! `trainyard data` on object storage: S3's, Google's and Azure's interfaces, each answered by a real program.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use trainyard::clock::{Clock, SystemClock};

use crate::bucket::Bucket;
use crate::data_cli::{csv, data, said};

impl Bucket {
    /// What the clouds' own tools read.
    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", self.endpoint.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "testing".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "testing".to_owned()),
        ]
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let url = format!("{}/yard/{key}", self.endpoint);
        let answer = client().put(url).body(bytes).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that ends with the test, once `ready` says that it answers.
async fn started(program: &Path, args: &[&str], ready: impl AsyncFn() -> bool) -> tokio::process::Child {
    let child = tokio::process::Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !ready().await {
        assert!(Instant::now() < deadline, "{} does not answer", program.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child
}

/// fake-gcs-server with the bucket `yard`.
struct Google {
    child: tokio::process::Child,
    endpoint: String,
}

impl Google {
    async fn start() -> Self {
        let made = std::process::Command::new("scripts/fake-gcs.sh").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let program = String::from_utf8(made.stdout).unwrap();
        let port = free_port().to_string();
        let endpoint = format!("http://127.0.0.1:{port}");
        let http = client();
        let make = async || {
            let bucket = http.post(format!("{endpoint}/storage/v1/b")).body(r#"{"name": "yard"}"#);
            bucket.send().await.is_ok_and(|answer| answer.status().is_success())
        };
        let args = [
            "-backend",
            "memory",
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            &port,
            "-public-host",
            "127.0.0.1",
        ];
        let child = started(Path::new(program.trim()), &args, make).await;
        Self { child, endpoint }
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("GOOGLE_BASE_URL", self.endpoint.clone()),
            ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
            ("GOOGLE_SKIP_SIGNATURE", "true".to_owned()),
        ]
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let url = format!("{}/upload/storage/v1/b/yard/o?uploadType=media&name={key}", self.endpoint);
        let answer = client().post(url).body(bytes).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

/// Azurite, Microsoft's emulator, with the container `yard` of its one account.
struct Azure {
    child: tokio::process::Child,
    endpoint: String,
    _folder: tempfile::TempDir,
}

/// The account that every emulator of Azure's storage has, and its published key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

impl Azure {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port().to_string();
        let endpoint = format!("http://127.0.0.1:{port}");
        let place = folder.path().to_str().unwrap();
        let program = Path::new("target/npm/node_modules/.bin/azurite-blob");
        let args =
            ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", &port, "-l", place];
        let make = async || {
            asked(&endpoint, "yard", "?restype=container", Vec::new()).await == Some(StatusCode::CREATED)
        };
        let child = started(program, &args, make).await;
        Self { child, endpoint, _folder: folder }
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
            ("AZURITE_BLOB_STORAGE_URL", self.endpoint.clone()),
        ]
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let status = asked(&self.endpoint, &format!("yard/{key}"), "", bytes).await;
        assert_eq!(status, Some(StatusCode::CREATED));
    }
}

/// PUT with the account's key, as Azure's "Authorize with Shared Key" describes it. None: nobody answers.
async fn asked(endpoint: &str, path: &str, query: &str, body: Vec<u8>) -> Option<StatusCode> {
    let now = jiff::Timestamp::from_millisecond(SystemClock.now_ms()).unwrap();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = [("x-ms-blob-type", "BlockBlob"), ("x-ms-date", &date), ("x-ms-version", "2023-11-03")];
    let length = if body.is_empty() { String::new() } else { body.len().to_string() };
    let mut text = format!("PUT\n\n\n{length}\n\n\n\n\n\n\n\n\n");
    text.extend(headers.iter().map(|(name, value)| format!("{name}:{value}\n")));
    // The account stands there twice: the emulator has it in its paths.
    text.push_str(&format!("/{ACCOUNT}/{ACCOUNT}/{path}"));
    if let Some((name, value)) = query.trim_start_matches('?').split_once('=') {
        text.push_str(&format!("\n{name}:{value}"));
    }
    let base64 = base64::engine::general_purpose::STANDARD;
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&base64.decode(KEY).unwrap()).unwrap();
    mac.update(text.as_bytes());
    let signature = base64.encode(mac.finalize().into_bytes());
    let mut request = client()
        .request(Method::PUT, format!("{endpoint}/{ACCOUNT}/{path}{query}"))
        .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"))
        .body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    Some(request.send().await.ok()?.status())
}

/// Reading, globs, prefixes, and the listing that `event: data` looks at.
async fn is_read_and_listed(
    scheme: &str,
    env: Vec<(&'static str, String)>,
    put: impl AsyncFn(&'static str, Vec<u8>),
) {
    let dir = tempfile::tempdir().unwrap();
    for (key, shift) in [("raw/a.csv", 0.0), ("raw/b.csv", 0.0001), ("moved/a.csv", 0.2)] {
        let file = dir.path().join("x.csv");
        csv(&file, shift, &["free", "pro"]);
        put(key, std::fs::read(&file).unwrap()).await;
    }
    let run = async |args: &[&str]| {
        let (args, env) = (args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), env.clone());
        let call = move || data(&args.iter().map(String::as_str).collect::<Vec<_>>(), &env);
        tokio::task::spawn_blocking(call).await.unwrap()
    };
    let at = |path: &str| format!("{scheme}://yard/{path}");
    for place in [at("raw/"), at("raw/*.csv")] {
        let out = run(&["profile", &place]).await;
        assert!(said(&out).contains("8000 rows, 3 columns"), "{place}: {}", said(&out));
    }
    let out = run(&["diff", &at("raw/a.csv"), &at("moved/a.csv")]).await;
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(said(&out).contains("FAIL [drift] age"), "{}", said(&out));
    let out = run(&["profile", &at("none/")]).await;
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));

    let listed = async |place: &str| -> serde_json::Value {
        let out = run(&["list", place, "--json"]).await;
        assert_eq!(out.status.code(), Some(0), "{}", said(&out));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let before = listed(&at("raw/")).await;
    assert_eq!(before["files"], 2);
    assert_eq!(listed(&at("raw/")).await, before);
    put("raw/c.csv", b"id,age,plan\n1,2,free\n".to_vec()).await;
    let changed = listed(&at("raw/")).await;
    assert!(changed["digest"] != before["digest"] && changed["files"] == 3, "{changed}");
    assert_eq!(listed(&at("none/")).await["files"], 0);
    println!("FIGURE data_on_{scheme} reads=4 listings=4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_s3_is_read_and_listed() {
    let bucket = Bucket::start().await;
    is_read_and_listed("s3", bucket.env(), async |key, bytes| bucket.put(key, bytes).await).await;
    assert!(bucket.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_google_is_read_and_listed() {
    let google = Google::start().await;
    is_read_and_listed("gs", google.env(), async |key, bytes| google.put(key, bytes).await).await;
    assert!(google.child.id().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_azure_is_read_and_listed() {
    let azure = Azure::start().await;
    is_read_and_listed("az", azure.env(), async |key, bytes| azure.put(key, bytes).await).await;
    assert!(azure.child.id().is_some());
}
