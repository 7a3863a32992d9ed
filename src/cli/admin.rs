//! `trainyard admin`: what an operator does with the database and the blobs of an installation.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::blob::Blobs;
use crate::clock::{Clock, SystemClock};
use crate::config::{BlobPlace, Config, KubernetesConfig};
use crate::executor::kubernetes;
use crate::retention::collect_orphans;
use crate::store::backup::{check_sqlite, copy_sqlite, restore_sqlite};
use crate::store::{Instance, OpenOptions, Store, newest_migration};

/// Back up, restore, migrate and tidy an installation
#[derive(clap::Args)]
pub struct Args {
    /// The daemon's configuration.
    #[arg(long, env = "TRAINYARD_CONFIG", default_value = "/etc/trainyard/trainyard.toml", global = true)]
    config: PathBuf,
    /// Another database than the configuration's: behind a pooler, the direct URL of the server.
    #[arg(long, global = true)]
    database: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Copy database and blobs into a new directory, while the daemon runs
    Backup {
        #[arg(long)]
        to: PathBuf,
        /// The database only
        #[arg(long)]
        without_blobs: bool,
    },
    /// Put a backup back; the daemon must be stopped
    Restore {
        #[arg(long)]
        from: PathBuf,
        /// Take the place of a database that exists
        #[arg(long)]
        replace: bool,
    },
    /// Bring the database to this version's tables, as a start of the daemon does
    Migrate,
    /// Take trainyard's finalizers off its Jobs, so that nothing hangs when it leaves a cluster
    ///
    /// Helm runs it at `helm uninstall`. Stop the daemon first: it makes Jobs again that someone else deleted.
    DropFinalizers {
        /// Of the runs; default: the configuration's
        #[arg(long)]
        namespace: Option<String>,
        /// Whose Jobs, as their label `app.kubernetes.io/instance` says; default: the configuration's, or this installation's id
        #[arg(long)]
        installation: Option<String>,
        /// Every trainyard's Jobs of the namespace
        #[arg(long, conflicts_with = "installation")]
        all: bool,
        /// Default: the configuration's, or the account of the pod it runs in
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
        /// Delete the Jobs too, with their Secrets, and wait until their pods have ended
        #[arg(long)]
        delete: bool,
        /// With `--delete`: seconds that pods may take to end, more than `limits.grace_s` + 30
        #[arg(long, default_value_t = 240)]
        wait_s: u64,
    },
    /// Delete what is past its retention, and blobs that no row names
    Gc {
        /// Younger blobs may be waiting for their row
        #[arg(long, default_value_t = 24)]
        older_than_hours: u32,
        /// Count orphans, delete nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    trainyard: String,
    engine: String,
    migration: i64,
    made_ms: i64,
    blobs: bool,
}

const MANIFEST: &str = "backup.json";
const SQLITE: &str = "trainyard.db";
const POSTGRES: &str = "trainyard.pgdump";
const BLOBS: &str = "blobs";

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::logging("info");
    if let Command::DropFinalizers { namespace, installation, all, kubeconfig, delete, wait_s } = args.command
    {
        let patience = Duration::from_secs(wait_s);
        let asked = Asked { namespace, installation, all, kubeconfig, delete, patience };
        drop_finalizers(&args.config, args.database, asked).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = Config::load(&args.config)?;
    if let Some(database) = args.database {
        config.database = Some(database);
        config.database_pooler = crate::config::Pooler::None;
    }
    let options = super::store_options(&config, "")?;
    match args.command {
        Command::Backup { to, without_blobs } => backup(&config, &options, &to, without_blobs).await?,
        Command::Restore { from, replace } => restore(&config, &options, &from, replace).await?,
        Command::Migrate => {
            Store::open(&options).await?.close().await;
            println!("the database is at migration {}", newest_migration());
        }
        Command::Gc { older_than_hours, dry_run } => gc(&config, &options, older_than_hours, dry_run).await?,
        Command::DropFinalizers { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What `drop-finalizers` was told.
struct Asked {
    namespace: Option<String>,
    installation: Option<String>,
    all: bool,
    kubeconfig: Option<PathBuf>,
    delete: bool,
    patience: Duration,
}

/// Reads the configuration, and the database for the installation's id, only for what was not told.
async fn drop_finalizers(config: &Path, database: Option<String>, asked: Asked) -> anyhow::Result<()> {
    let (mut settings, whose) = match asked {
        Asked { namespace: Some(namespace), installation, all, .. } if all || installation.is_some() => {
            (KubernetesConfig::of(namespace), installation)
        }
        Asked { namespace, installation, all, .. } => {
            let mut config = Config::load(config).context(
                "without a configuration, name the namespace of the runs (--namespace) and whose Jobs (--installation, or --all)",
            )?;
            let mut settings = config.executor.kubernetes.take().context(
                "the configuration has no [executor.kubernetes]; name the namespace of the runs with --namespace",
            )?;
            if let Some(namespace) = namespace {
                settings.namespace = namespace;
            }
            let whose = match installation.or_else(|| settings.installation.clone()) {
                _ if all => None,
                None => Some(own_id(config, database).await?),
                named => named,
            };
            (settings, whose)
        }
    };
    if asked.kubeconfig.is_some() {
        settings.kubeconfig = asked.kubeconfig;
    }
    let client = kubernetes::client(&settings).await?;
    let (namespace, whose) = (&settings.namespace, whose.as_deref());
    let done =
        kubernetes::cleanup::drop_finalizers(client, namespace, whose, asked.delete, asked.patience).await?;
    let of = whose.map_or("every trainyard's".to_owned(), |name| format!("of {name}"));
    println!("{namespace}, {of}: {} Jobs released, {} deleted", done.finalizers, done.deleted);
    Ok(())
}

async fn own_id(mut config: Config, database: Option<String>) -> anyhow::Result<String> {
    if let Some(database) = database {
        config.database = Some(database);
        config.database_pooler = crate::config::Pooler::None;
    }
    let store = Store::open_beside(&super::store_options(&config, "")?)
        .await
        .context("cannot read this installation's id; name it with --installation")?;
    let id = Instance::load(&store).await?.id;
    store.close().await;
    Ok(id)
}

async fn backup(
    config: &Config,
    options: &OpenOptions,
    to: &Path,
    without_blobs: bool,
) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(to)
        .with_context(|| format!("cannot make {}; name a directory that does not exist yet", to.display()))?;
    // Also tells whether the tables are this version's.
    Store::open_beside(options).await?.close().await;
    let migration = if let Some(path) = options.sqlite_path() {
        let copied = copy_sqlite(&path, &to.join(SQLITE)).await?;
        println!("{}: {} bytes, integrity ok", to.join(SQLITE).display(), copied.bytes);
        copied.migration
    } else {
        refuse_pooler(config)?;
        let file = to.join(POSTGRES);
        let place = format!("--file={}", file.display());
        postgres(options, "pg_dump", &["--format=custom", "--no-owner", "--no-privileges", &place])?;
        println!("{}: made by pg_dump", file.display());
        newest_migration()
    };
    // Rows first: a row of the copy then names a blob that is there, unless retention deletes it meanwhile.
    let mut blobs = false;
    match config.blob_place()? {
        _ if without_blobs => {}
        BlobPlace::Files(dir) => {
            let copied = copy_tree(&dir, &to.join(BLOBS))?;
            println!("{}: {copied}", to.join(BLOBS).display());
            blobs = true;
        }
        place @ BlobPlace::S3 { .. } => {
            println!(
                "blobs stay in {place}; keep old versions there (bucket versioning), or copy it by its own tools"
            );
        }
    }
    let manifest = Manifest {
        trainyard: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engine(options).to_owned(),
        migration,
        made_ms: SystemClock.now_ms(),
        blobs,
    };
    std::fs::write(to.join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)
        .context("cannot write the backup's manifest")?;
    println!("backup complete: {}", to.display());
    Ok(())
}

async fn restore(config: &Config, options: &OpenOptions, from: &Path, replace: bool) -> anyhow::Result<()> {
    let manifest = std::fs::read(from.join(MANIFEST))
        .with_context(|| format!("{} is no whole backup: it has no {MANIFEST}", from.display()))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).context("cannot read the backup's manifest")?;
    if manifest.engine != engine(options) {
        bail!(
            "the backup is of {}, and the configuration names a {} database; restore it into the same engine",
            manifest.engine,
            engine(options)
        );
    }
    if manifest.migration > newest_migration() {
        bail!(
            "the backup was made by a newer trainyard ({}); restore it with that version",
            manifest.trainyard
        );
    }
    if let Some(path) = options.sqlite_path() {
        check_sqlite(&from.join(SQLITE)).await?;
        std::fs::create_dir_all(&config.data_dir).context("cannot make data_dir")?;
        if let Some(aside) = restore_sqlite(&from.join(SQLITE), &path, replace).await? {
            println!("the database that was there is now {}", aside.display());
        }
    } else {
        refuse_pooler(config)?;
        refuse_live_daemons(options).await?;
        let dump = from.join(POSTGRES);
        let dump = dump.to_str().context("the backup's path is not UTF-8")?;
        let mut arguments = vec!["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"];
        if replace {
            arguments.extend(["--clean", "--if-exists"]);
        }
        arguments.push(dump);
        postgres(options, "pg_restore", &arguments)?;
    }
    if manifest.blobs {
        match config.blob_place()? {
            BlobPlace::Files(dir) => {
                let copied = copy_tree(&from.join(BLOBS), &dir)?;
                println!("{}: {copied}", dir.display());
            }
            place @ BlobPlace::S3 { .. } => {
                println!(
                    "the backup holds blobs as files, and the configuration keeps them in {place}: copy them there"
                );
            }
        }
    }
    // Jobs in a cluster may be of runs that the backup does not know yet: they are not orphans.
    let store = Store::open(options).await.context("cannot open the restored database")?;
    store.note_restore(SystemClock.now_ms()).await?;
    store.close().await;
    println!("restored {}; start the daemon", from.display());
    Ok(())
}

async fn gc(
    config: &Config,
    options: &OpenOptions,
    older_than_hours: u32,
    dry_run: bool,
) -> anyhow::Result<()> {
    let store = Store::open_beside(options).await?;
    let blobs = Blobs::open(config)?;
    let now = SystemClock.now_ms();
    let mut rows = 0;
    let mut more = !dry_run;
    while more {
        let swept = store.sweep(config.retention.into(), now).await?;
        blobs.delete(&swept.blob_keys).await?;
        rows += swept.rows;
        more = swept.more;
    }
    let older_than_ms = i64::from(older_than_hours) * 3_600_000;
    let orphans = collect_orphans(&store, &blobs, older_than_ms, now, dry_run).await?;
    store.close().await;
    println!("{rows} old rows deleted");
    println!(
        "{} blobs looked at; {} that no row names ({} bytes) {}",
        orphans.looked_at,
        orphans.found,
        orphans.bytes,
        if dry_run { "would be deleted" } else { "deleted" }
    );
    Ok(())
}

fn engine(options: &OpenOptions) -> &'static str {
    if options.is_postgres() { "Postgres" } else { "SQLite" }
}

fn refuse_pooler(config: &Config) -> anyhow::Result<()> {
    if config.database_pooler == crate::config::Pooler::Transaction {
        bail!(
            "pg_dump and pg_restore need a session, which a pooler in transaction mode does not give; name the server itself with \
             --database postgres://…"
        );
    }
    Ok(())
}

async fn refuse_live_daemons(options: &OpenOptions) -> anyhow::Result<()> {
    // A database without our tables has no daemons.
    let Ok(store) = Store::open_beside(options).await else { return Ok(()) };
    let now = SystemClock.now_ms();
    let live: Vec<String> =
        store.daemons().await?.into_iter().filter(|d| d.is_live(now)).map(|d| d.name).collect();
    store.close().await;
    if !live.is_empty() {
        bail!(
            "daemons use this database ({}); stop them first (one that was killed counts as gone after 60 s)",
            live.join(", ")
        );
    }
    Ok(())
}

/// Runs one of Postgres' own programs on the database, and says so. The password goes by the environment, never by the arguments.
fn postgres(options: &OpenOptions, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    use secrecy::ExposeSecret;
    let mut url = reqwest::Url::parse(&options.url).ok().context("the database URL cannot be read")?;
    let mut password = options.password.as_ref().map(|password| password.expose_secret().to_owned());
    if let Some(encoded) = url.password().map(str::to_owned) {
        password = password.or_else(|| decoded(&encoded));
        let _ = url.set_password(None);
    }
    println!("running {program} {} --dbname={url}", arguments.join(" "));
    let mut command = std::process::Command::new(program);
    command.args(arguments).arg(format!("--dbname={url}"));
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let status = command.status().with_context(|| {
        format!("cannot run {program}; install the client programs of your Postgres version (Debian: postgresql-client)")
    })?;
    if !status.success() {
        bail!("{program} ended with {status}; its message stands above");
    }
    Ok(())
}

/// Percent-decoding as in a query, where only `+` means something else.
fn decoded(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(&format!("x://x/?p={}", text.replace('+', "%2B"))).ok()?;
    url.query_pairs().next().map(|(_, value)| value.into_owned())
}

/// What became of the files of a tree.
#[derive(Debug, Default)]
struct Copied {
    new: u64,
    there_already: u64,
}

impl std::fmt::Display for Copied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files", self.new + self.there_already)?;
        if self.there_already > 0 {
            write!(f, ", {} of them there already", self.there_already)?;
        }
        Ok(())
    }
}

/// Copies files that never change: by a link where the file system allows it. What is there already stays.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<Copied> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .with_context(|| format!("cannot make {}", to.display()))?;
    let mut copied = Copied::default();
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(copied) };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            let below = copy_tree(&old, &new)?;
            copied.new += below.new;
            copied.there_already += below.there_already;
        } else if new.exists() {
            copied.there_already += 1;
        } else {
            match std::fs::hard_link(&old, &new).or_else(|_| std::fs::copy(&old, &new).map(|_| ())) {
                Ok(()) => copied.new += 1,
                // Deleted by retention meanwhile.
                Err(_) if !old.exists() => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot copy {}", old.display()));
                }
            }
        }
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn passwords_are_decoded_as_urls_encode_them() {
        assert_eq!(decoded("a%2Fb+c%25").as_deref(), Some("a/b+c%"));
    }
}
