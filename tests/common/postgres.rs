//! A Postgres server of Debian in a temporary directory, as the user nobody, on a free port of loopback; and pgbouncer in
//! transaction mode before it.
#![allow(dead_code, reason = "each of the two test binaries uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use trainyard::store::OpenOptions;

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
}

/// A command as nobody: Postgres and pgbouncer refuse root.
fn as_nobody(program: &Path) -> Command {
    assert!(program.is_file(), "{} is missing: run make setup", program.display());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .arg(program)
        .current_dir("/")
        .stdout(Stdio::null());
    command
}

fn postgres(program: &str, args: &[&str]) {
    let done = as_nobody(&Path::new(BIN).join(program))
        .args(args)
        .status()
        .expect("setpriv is part of util-linux: run make setup");
    assert!(done.success(), "{program} {args:?}");
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn dir_of_nobody() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().expect("the user nobody");
    nix::unistd::chown(dir.path(), Some(nobody.uid), None).unwrap();
    dir
}

impl Server {
    /// A new cluster with `fsync = on`, as it is when nobody says otherwise.
    pub fn start() -> Self {
        let dir = dir_of_nobody();
        let data = text(&dir.path().join("data"));
        postgres(
            "initdb",
            &["-D", &data, "--auth=trust", "--no-sync", "--locale=C.UTF-8", "-U", "trainyard"],
        );
        let server = Self { dir, port: free_port() };
        server.up();
        server
    }

    /// Starts the server on its cluster.
    pub fn up(&self) {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories= -c max_connections=200",
            self.port
        );
        let log = text(&self.dir.path().join("log"));
        postgres("pg_ctl", &["-w", "-D", &self.data(), "-l", &log, "-o", &options, "start"]);
    }

    /// Stops it: `fast` ends its sessions, `immediate` is a crash.
    pub fn down(&self, mode: &str) {
        postgres("pg_ctl", &["-w", "-D", &self.data(), "-m", mode, "stop"]);
    }

    fn data(&self) -> String {
        text(&self.dir.path().join("data"))
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://trainyard@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database.
    pub async fn create(&self, database: &str) -> OpenOptions {
        let admin = sqlx::PgPool::connect(&self.url("postgres")).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"));
        sqlx::query(sql).execute(&admin).await.unwrap();
        admin.close().await;
        self.options(database)
    }

    pub fn options(&self, database: &str) -> OpenOptions {
        OpenOptions::postgres(self.url(database))
    }

    /// How many sessions of the daemons hold a transaction open without working in it.
    pub async fn idle_in_transaction(&self) -> i64 {
        let admin = sqlx::PgPool::connect(&self.url("postgres")).await.unwrap();
        let open = sqlx::query_scalar(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'",
        )
        .fetch_one(&admin)
        .await
        .unwrap();
        admin.close().await;
        open
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = as_nobody(&Path::new(BIN).join("pg_ctl"))
            .args(["-D", &self.data(), "-m", "immediate", "stop"])
            .stderr(Stdio::null())
            .status();
    }
}

/// pgbouncer in transaction mode: few server connections, so that a client really gets another one each time.
pub struct Pooler {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Pooler {
    pub fn before(server: &Server) -> Self {
        let dir = dir_of_nobody();
        let port = free_port();
        let users = dir.path().join("users");
        std::fs::write(&users, "\"trainyard\" \"\"\n").unwrap();
        let config: PathBuf = dir.path().join("pgbouncer.ini");
        let ini = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 3\n\
             max_client_conn = 200\nserver_login_retry = 1\nlogfile = {}\n",
            server.port,
            users.display(),
            dir.path().join("log").display(),
        );
        std::fs::write(&config, ini).unwrap();
        let child = as_nobody(Path::new("/usr/sbin/pgbouncer"))
            .arg("-q")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv is part of util-linux: run make setup");
        let pooler = Self { child, port, _dir: dir };
        let since = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "pgbouncer does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        pooler
    }

    pub fn options(&self, database: &str) -> OpenOptions {
        let url = format!("postgres://trainyard@127.0.0.1:{}/{database}", self.port);
        OpenOptions { pooled: true, ..OpenOptions::postgres(url) }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
