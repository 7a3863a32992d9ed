//! A real S3 interface for tests, by `moto`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// moto's S3 on a free port of loopback, with the bucket `yard`.
pub struct Bucket {
    child: tokio::process::Child,
    pub endpoint: String,
}

impl Bucket {
    pub async fn start() -> Self {
        let made = std::process::Command::new("scripts/venv.sh").arg("moto").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let python = String::from_utf8(made.stdout).unwrap();
        let program = Path::new(python.trim()).with_file_name("moto_server");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = tokio::process::Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let endpoint = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::builder().build().unwrap();
        let put =
            async || http.put(format!("{endpoint}/yard")).send().await.is_ok_and(|a| a.status().is_success());
        let deadline = std::time::Instant::now() + Duration::from_mins(1);
        while !put().await {
            assert!(std::time::Instant::now() < deadline, "moto does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { child, endpoint }
    }

    /// Ends with the test.
    pub fn runs(&self) -> bool {
        self.child.id().is_some()
    }
}
