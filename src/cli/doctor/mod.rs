//! `trainyard doctor`: looks for what is wrong with an installation. Each line is OK, WARN or FAIL, with what to do. It changes
//! nothing but test objects, which it deletes again: one in the blob store and, where it is asked to, a pod on each pool.

mod cluster;
mod local;
mod stuck;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::style::{colours, word};
use crate::blob::Blobs;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ForgeConfig, ForgeKind};
use crate::executor::kubernetes::orphans::GRACE_MS;
use crate::forge::{self, ChangeWords, ForgeError, Permission};
use crate::http::text::{ago, bytes, shown_cut};
use crate::model::RepoName;
use crate::store::{Store, StoreError};

/// Later the daemon takes its Job for an orphan.
const LONGEST_PROBE_S: u64 = (GRACE_MS / 1000 - 60).unsigned_abs();

/// Look for what is wrong with an installation, and say how to mend it
///
/// Run it as the daemon's user, on its machine. 0: nothing failed; 1: something did.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The daemon's configuration
    #[arg(
        long,
        env = "TRAINYARD_CONFIG",
        default_value = "/etc/trainyard/trainyard.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// Ask no forge and no cluster: nothing is sent to the network
    #[arg(long)]
    offline: bool,
    /// Start a pod on each pool of the cluster, and see whether it reaches the daemon; give up after so many seconds
    ///
    /// It asks for one GPU where the pool has any, and may make the cluster grow.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "300",
          value_parser = clap::value_parser!(u64).range(1..=LONGEST_PROBE_S), conflicts_with = "offline")]
    probe: Option<u64>,
    /// The lines as a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mark {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Line {
    mark: Mark,
    about: String,
    says: String,
    /// What to do; empty when it is well.
    fix: String,
}

#[derive(Default)]
struct Report(Vec<Line>);

impl Report {
    fn ok(&mut self, about: impl Display, says: impl Display) {
        self.push(Mark::Ok, about, says, "");
    }
    fn warn(&mut self, about: impl Display, says: impl Display, fix: impl Display) {
        self.push(Mark::Warn, about, says, fix);
    }
    fn fail(&mut self, about: impl Display, says: impl Display, fix: impl Display) {
        self.push(Mark::Fail, about, says, fix);
    }
    fn push(&mut self, mark: Mark, about: impl Display, says: impl Display, fix: impl Display) {
        let clean = |text: String| shown_cut(&text, 600).to_string();
        self.0.push(Line {
            mark,
            about: about.to_string(),
            says: clean(says.to_string()),
            fix: fix.to_string(),
        });
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    match Config::load(&args.config) {
        Err(error) => report.fail(
            "configuration",
            error,
            "mend the file; `config/trainyard.example.toml` has every key",
        ),
        Ok(config) => {
            report.ok("configuration", args.config.display());
            look(&mut report, &config, &args).await;
        }
    }
    let failed = report.0.iter().any(|line| line.mark == Mark::Fail);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.0)?);
    } else {
        for line in &report.0 {
            let mark = match line.mark {
                Mark::Ok => "OK",
                Mark::Warn => "WARN",
                Mark::Fail => "FAIL",
            };
            println!("{}  {:<18}  {}", word(mark, 4, colours()), line.about, line.says);
            if !line.fix.is_empty() {
                println!("{:<4}  {:<18}  → {}", "", "", line.fix);
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

async fn look(report: &mut Report, config: &Config, args: &Args) {
    let offline = args.offline;
    secrets(report, config);
    // Without its directory nothing was started yet; looking further would make files that belong to the wrong user.
    let store = if directory(report, config) {
        let store = database(report, config).await;
        blobs(report, config).await;
        store
    } else {
        None
    };
    git(report);
    let running = listeners(report, config).await;
    pools(report, config);
    local::step_user(report, config);
    if !offline {
        // What the pods of a probe shall reach.
        let probe = args.probe.filter(|_| running).zip(store.as_ref());
        cluster::look(report, config, probe).await;
        if args.probe.is_some() && config.executor.kubernetes.is_none() {
            report.warn("probe", "no pod was started: no pool runs on Kubernetes", "leave out --probe");
        } else if args.probe.is_some() && probe.is_none() {
            report.fail(
                "probe",
                "no pod was started: there is no daemon that it could reach",
                "start the daemon first",
            );
        }
    }
    for (name, forge) in &config.forge {
        if offline {
            report.warn(
                format!("forge {name}"),
                "not asked",
                "run it without --offline to check token and clock",
            );
        } else {
            ask_forge(report, config, name, forge).await;
        }
    }
    if let Some(store) = store {
        webhooks(report, config, &store).await;
        stuck::look(report, config, &store).await;
        store.close().await;
    }
    if !running {
        report.warn(
            "daemon",
            "it does not run",
            "start it: `systemctl start trainyard`, or `trainyard serve`",
        );
    }
}

fn secrets(report: &mut Report, config: &Config) {
    let before = report.0.len();
    let mut read = 0;
    for (name, forge) in &config.forge {
        match forge.token.read() {
            Ok(_) => read += 1,
            Err(error) => {
                report.fail(
                    "secrets",
                    format!("token of forge {name}: {error}"),
                    "the daemon does not start like this",
                );
            }
        }
        for hook in &forge.hook {
            match hook.read_secrets(name, forge.kind) {
                Ok(all) => read += all.len(),
                Err(error) => report.fail("secrets", error, "the daemon does not start like this"),
            }
        }
    }
    for repository in &config.repository {
        for (name, secret) in &repository.secrets {
            match secret.source.read() {
                Ok(_) => read += 1,
                Err(error) => report.fail(
                    "secrets",
                    format!("secret {name} of {}: {error}", repository.name),
                    "the daemon does not start like this",
                ),
            }
        }
    }
    if local::secret_files(report, config) && report.0.len() == before {
        report.ok("secrets", format!("{read} can be read"));
    }
}

/// Whether this user's files may come to lie in the data directory.
fn directory(report: &mut Report, config: &Config) -> bool {
    let dir = &config.data_dir;
    match std::fs::metadata(dir) {
        Err(error) => {
            report.fail(
                "data directory",
                format!("{}: {error}", dir.display()),
                "start the daemon once: `systemctl enable --now trainyard` makes it",
            );
            return false;
        }
        Ok(meta) => {
            use std::os::unix::fs::MetadataExt;
            let own = nix::unistd::geteuid().as_raw();
            let mode = meta.mode() & 0o777;
            if meta.uid() != own {
                report.fail(
                    "data directory",
                    format!("{} belongs to uid {}, and this runs as uid {own}", dir.display(), meta.uid()),
                    "run this as the daemon's user: `sudo -u trainyard trainyard doctor`; or, if that is the daemon's user, chown it",
                );
                return false;
            } else if mode & 0o077 != 0 {
                report.warn(
                    "data directory",
                    format!("{} has mode {mode:o}", dir.display()),
                    format!("chmod 700 {}", dir.display()),
                );
            } else {
                report.ok("data directory", dir.display());
            }
        }
    }
    for (about, place) in [("disk", config.data_dir.clone()), ("workspaces", config.workspace())] {
        space(report, about, &place);
    }
    true
}

/// Room and inodes of the file system that holds `place`, or its nearest parent that is there.
fn space(report: &mut Report, about: &str, place: &Path) {
    let Some(there) = place.ancestors().find(|p| p.exists()) else { return };
    let Ok(fs) = nix::sys::statvfs::statvfs(there) else {
        report.warn(
            about,
            format!("cannot look at {}", there.display()),
            "check that its file system is mounted",
        );
        return;
    };
    let size = u128::from(fs.fragment_size());
    let free = (u128::from(fs.blocks_available()) * size) as u64;
    let all = (u128::from(fs.blocks()) * size).max(1) as u64;
    let (inodes, free_inodes) = (fs.files(), fs.files_available());
    // Some file systems (btrfs) have no fixed number of inodes.
    let few = |share: u64| inodes > 0 && free_inodes < inodes / share;
    let says = format!(
        "{} of {} free{} ({})",
        bytes(free as i64),
        bytes(all as i64),
        if inodes > 0 { format!(", {free_inodes} inodes") } else { String::new() },
        there.display()
    );
    if free < 512 << 20 || few(100) {
        report.fail(about, says, "make room: webhooks are refused when nothing can be stored; `retention` in the configuration says what is kept");
    } else if free < 5 << 30 || few(20) {
        report.warn(about, says, "make room soon, or shorten `retention` in the configuration");
    } else {
        report.ok(about, says);
    }
}

async fn database(report: &mut Report, config: &Config) -> Option<Store> {
    let url = config.database_url();
    let plain = url.split_once('@').map_or(url.clone(), |(_, host)| format!("postgres at {host}"));
    let options = match super::store_options(config, "") {
        Ok(options) => options,
        Err(error) => {
            report.fail("database", error, "name the password's file or variable in the configuration");
            return None;
        }
    };
    match Store::open_beside(&options).await {
        Err(error) => {
            let damaged = matches!(error, StoreError::Damaged(_) | StoreError::Sql(_));
            let fix = if options.is_postgres() {
                "check that Postgres runs, and its host, user and password; start the daemon once to make the tables"
            } else if damaged {
                "restore a backup: `trainyard admin restore` (docs/operations.md)"
            } else {
                "start the daemon once, as the same user"
            };
            report.fail("database", format!("{plain}: {error}"), fix);
            None
        }
        Ok(store) => match store.count_runs().await {
            Ok(states) => {
                let runs: i64 = states.iter().map(|(_, n)| n).sum();
                report.ok("database", format!("{plain}, {runs} runs"));
                Some(store)
            }
            Err(error) => {
                report.fail(
                    "database",
                    error,
                    "it is of another version, or damaged: start the version that wrote it, or restore a backup",
                );
                None
            }
        },
    }
}

async fn blobs(report: &mut Report, config: &Config) {
    let tried = async {
        let blobs = Blobs::open(config)?;
        let key = format!("doctor/{}", std::process::id());
        blobs.put(&key, bytes::Bytes::from_static(b"trainyard doctor")).await?;
        let back = blobs.get(&key).await?;
        blobs.delete(&[key]).await?;
        anyhow::ensure!(&back[..] == b"trainyard doctor", "what was read is not what was written");
        anyhow::Ok(())
    };
    match tried.await {
        Ok(()) => report.ok("blobs", "wrote, read and deleted an object"),
        Err(error) => report.fail(
            "blobs",
            format!("{error:#}"),
            "check owner, mode and room of the directory; for a bucket its name, region and credentials",
        ),
    }
}

fn git(report: &mut Report) {
    match std::process::Command::new("git").arg("--version").output() {
        Ok(out) if out.status.success() => report.ok("git", String::from_utf8_lossy(&out.stdout).trim()),
        Ok(out) => report.fail("git", format!("ends with {}", out.status), "install git 2.30 or newer"),
        Err(error) => report.fail("git", error, "install git: steps get their source with it"),
    }
}

/// Does the daemon answer?
async fn listeners(report: &mut Report, config: &Config) -> bool {
    let http = client();
    let ready = match &http {
        Some(http) => http.get(format!("http://{}/readyz", config.listen.ops)).send().await.ok(),
        None => None,
    };
    let running = ready.is_some();
    if let Some(ready) = ready {
        if ready.status().is_success() {
            report.ok("daemon", format!("ready, by http://{}/readyz", config.listen.ops));
        } else {
            report.fail(
                "daemon",
                format!("it runs and is not ready ({})", ready.status()),
                "its log says why",
            );
        }
    }
    let all = [
        ("listen.hooks", config.listen.hooks),
        ("listen.app", config.listen.app),
        ("listen.agent", config.listen.agent),
        ("listen.ops", config.listen.ops),
    ];
    for (name, address) in all {
        let connected =
            tokio::time::timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(address)).await;
        match (running, matches!(connected, Ok(Ok(_)))) {
            (true, true) => report.ok(name, format!("{address} answers")),
            (true, false) => report.fail(
                name,
                format!("nothing answers at {address}"),
                "restart the daemon; its log says which address it could not take",
            ),
            (false, true) => report.fail(
                name,
                format!("{address} is taken by another process"),
                "stop that one, or choose another port",
            ),
            (false, false) => report.ok(name, format!("{address} is free")),
        }
    }
    running
}

fn pools(report: &mut Report, config: &Config) {
    let cards = std::fs::read_dir("/dev").map_or(0, |all| {
        all.flatten()
            .filter(|e| {
                e.file_name()
                    .to_str()
                    .and_then(|n| n.strip_prefix("nvidia"))
                    .is_some_and(|n| n.parse::<u32>().is_ok())
            })
            .count()
    });
    let mut wanted = 0;
    for (name, pool) in config.pools() {
        let many = |limit: Option<u32>, what: &str| {
            limit.map_or(format!("{what} as its queue gives them"), |limit| format!("{limit} {what}"))
        };
        let (slots, gpus) = (many(pool.slot_limit(), "slots"), many(pool.gpu_limit(), "GPUs"));
        let says = format!("{} executor, {slots}, {gpus}", pool.executor);
        let own = pool.gpu_limit().filter(|_| pool.executor == "local").unwrap_or(0) as usize;
        wanted = wanted.max(own);
        if own > cards {
            report.warn(
                format!("pool {name}"),
                format!("{says}; this machine shows {cards}"),
                "set `gpus` to what is there, or install the driver",
            );
        } else {
            report.ok(format!("pool {name}"), says);
        }
    }
}

fn client() -> Option<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("trainyard/", env!("CARGO_PKG_VERSION")))
        .build()
        .ok()
}

/// How long a forge may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn wanted(kind: ForgeKind) -> String {
    format!(
        "give the token access to the repository: reading its content, writing commit statuses and comments on {}s",
        ChangeWords::of(kind).noun
    )
}

/// The token, what it may do in each repository that is named, and the clock.
async fn ask_forge(report: &mut Report, config: &Config, name: &str, forge: &ForgeConfig) {
    let about = format!("forge {name}");
    let token = match forge.token.read() {
        Ok(token) => token,
        Err(error) => return report.fail(about, error, "make a token and name it in the configuration"),
    };
    let (client, http) = match forge::connect(forge, token).and_then(|c| Ok((c, forge::http_client(forge)?)))
    {
        Ok(both) => both,
        Err(error) => return report.fail(about, error, "mend the forge's section of the configuration"),
    };
    let api = forge.api_url();
    // Any answer has the time, a refusal too.
    let public = if forge.kind == ForgeKind::Github { api.clone() } else { format!("{api}/version") };
    if let Ok(answer) = http.get(public).timeout(PATIENCE).send().await {
        clock(report, &answer);
    }
    let asked = async {
        tokio::time::timeout(PATIENCE, client.whoami()).await.unwrap_or_else(|_| {
            Err(ForgeError::Transient { what: api.clone(), message: "no answer in time".into() })
        })
    };
    let me = match asked.await {
        Ok(me) => me,
        Err(ForgeError::Refused { status: 401, .. }) => {
            return report.fail(
                about,
                "it refuses the token",
                "the token is wrong, expired or revoked: make a new one",
            );
        }
        Err(error @ ForgeError::Transient { .. }) => {
            return report.fail(
                about,
                format!("cannot reach {api}: {error}"),
                "check the network, a proxy, `ca_file` and `api_url`",
            );
        }
        Err(error) => return report.fail(about, error, "check `api_url` and the token's scopes"),
    };
    report.ok(&about, format!("{api} takes the token of {}", shown_cut(&me.login, 60)));
    let hooked = forge.hook.iter().filter_map(|hook| hook.repository.as_deref());
    let named = config.repository.iter().filter(|r| r.forge == name).map(|r| r.name.as_str());
    let mut repositories: Vec<&str> = hooked.chain(named).collect();
    repositories.sort_unstable();
    repositories.dedup();
    for repository in repositories {
        let about = format!("token, {repository}");
        let Ok(repository) = RepoName::parse(repository) else { continue };
        let may = async {
            client.repo_id(&repository).await?;
            client.permission(&repository, &me).await
        };
        match may.await {
            Ok(Permission::Write | Permission::Admin) => report.ok(about, "it may read and write"),
            Ok(Permission::Read | Permission::None) | Err(ForgeError::Refused { status: 403, .. }) => {
                report.fail(about, "it may read and not write", wanted(forge.kind));
            }
            Err(ForgeError::NotFound { .. }) => {
                report.fail(
                    about,
                    "the forge has no such repository, or the token may not see it",
                    wanted(forge.kind),
                );
            }
            Err(error) => report.fail(about, error, wanted(forge.kind)),
        }
    }
}

fn clock(report: &mut Report, answer: &reqwest::Response) {
    let date = answer.headers().get("date").and_then(|v| v.to_str().ok());
    let Some(there) = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()) else { return };
    let off = (SystemClock.now_ms() - there.timestamp().as_millisecond()) / 1000;
    if off.abs() > 30 {
        report.fail(
            "clock",
            format!("{off} s away from the forge's"),
            "set it, and let ntp or chrony keep it: signatures with times are refused",
        );
    } else {
        report.ok("clock", format!("{off} s away from the forge's"));
    }
}

/// A webhook cannot be tried from here: what arrived says whether it works.
async fn webhooks(report: &mut Report, config: &Config, store: &Store) {
    let now = SystemClock.now_ms();
    let rows = match store.list_deliveries(None, 500).await {
        Ok(rows) => rows,
        Err(error) => return report.fail("webhooks", error, "see the line about the database"),
    };
    for (name, forge) in &config.forge {
        for hook in &forge.hook {
            let about = format!("hook {}", hook.id);
            let own: Vec<_> = rows.iter().filter(|r| r.forge == *name && r.hook_id == hook.id).collect();
            let ping = own.iter().find(|r| r.event == "ping");
            match (own.first(), ping) {
                (None, _) => report.warn(
                    about,
                    "nothing has arrived yet",
                    format!("add the webhook at the forge: <public address>/hooks/{}/{}; its ping should show up here", forge.kind.word(), hook.id),
                ),
                (Some(last), ping) => {
                    let ping = ping.map_or(String::new(), |p| format!(", the last ping {}", ago(p.received_ms, now)));
                    report.ok(about, format!("the last delivery came {}{ping}", ago(last.received_ms, now)));
                }
            }
        }
    }
}
