//! A Postgres server of Debian in a temporary directory, as the user nobody, on a free port of loopback.

use std::path::{Path, PathBuf};
use std::process::Command;

use trainyard::store::{OpenOptions, Store};

use super::fixture::Place;

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
}

/// Runs a program of Postgres as nobody: it refuses root.
fn postgres(program: &str, args: &[&str]) {
    let path = Path::new(BIN).join(program);
    assert!(path.is_file(), "{} is missing: run make setup", path.display());
    let done = Command::new("setpriv")
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .arg(path)
        .args(args)
        .current_dir("/")
        .stdout(std::process::Stdio::null())
        .status()
        .expect("setpriv is part of util-linux: run make setup");
    assert!(done.success(), "{program} {args:?}");
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let nobody = nix::unistd::User::from_name("nobody").unwrap().expect("the user nobody");
        nix::unistd::chown(dir.path(), Some(nobody.uid), None).unwrap();
        let data = dir.path().join("data");
        let text = |path: &Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
        postgres(
            "initdb",
            &["-D", &text(&data), "--auth=trust", "--no-sync", "--locale=C.UTF-8", "-U", "trainyard"],
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = format!("-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=");
        let log = text(&dir.path().join("log"));
        postgres("pg_ctl", &["-w", "-D", &text(&data), "-l", &log, "-o", &options, "start"]);
        Self { dir, port }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://trainyard@127.0.0.1:{}/{database}", self.port)
    }

    /// A store on a new database.
    pub async fn place(&self, case: &str) -> Place {
        let admin = sqlx::PgPool::connect(&self.url("postgres")).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {case}"));
        sqlx::query(sql).execute(&admin).await.unwrap();
        admin.close().await;
        let options = OpenOptions { url: self.url(case), ..OpenOptions::sqlite("") };
        let store = Store::open(&options).await.unwrap();
        Place::new(store, PathBuf::new(), tempfile::tempdir().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.dir.path().join("data");
        postgres("pg_ctl", &["-D", data.to_str().unwrap_or_default(), "-m", "immediate", "stop"]);
    }
}
