//! One daemon among several: whose machine this is, that no second daemon uses its directory, and that all daemons of one
//! database keep their bytes in one place.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use tokio_util::sync::CancellationToken;

use crate::clock::{Millis, SharedClock};
use crate::config::{BlobPlace, Config, ConfigError};
use crate::store::Store;
use crate::store::daemons::DaemonRow;

const BEAT: Duration = Duration::from_secs(10);
/// Leases are compared by the clocks of different machines.
const CLOCKS_APART_MS: Millis = 15_000;

/// The machine, as far as work is concerned: a data directory with its local processes. Two daemons on one host with a directory
/// each are two machines.
#[derive(Debug)]
pub struct Machine {
    pub id: String,
    /// Held for life.
    _lock: Flock<std::fs::File>,
}

impl Machine {
    /// Takes the directory for this process, and reads or makes its id.
    ///
    /// # Errors
    /// Another daemon has it.
    pub fn take(data_dir: &Path) -> Result<Self, ConfigError> {
        let path = data_dir.join("machine");
        let fail = |error: &dyn std::fmt::Display| {
            ConfigError(format!(
                "cannot use {}: {error}; data_dir and all in it must belong to the daemon's user (uid {}): did root run a command there? \
                 `chown -R` gives it back",
                path.display(),
                nix::unistd::geteuid()
            ))
        };
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| fail(&error))?;
        let mut lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
                nix::errno::Errno::EWOULDBLOCK => ConfigError(format!(
                    "another daemon uses data_dir {}; stop it, or give this one a directory of its own",
                    data_dir.display()
                )),
                error => fail(&error),
            })?;
        let mut id = String::new();
        std::io::Read::read_to_string(&mut *lock, &mut id).map_err(|error| fail(&error))?;
        let id = id.trim().to_owned();
        if id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self { id, _lock: lock });
        }
        let id = hex::encode(rand::random::<[u8; 8]>());
        let write = |file: &mut std::fs::File| {
            file.set_len(0)?;
            std::io::Seek::rewind(file)?;
            std::io::Write::write_all(file, format!("{id}\n").as_bytes())?;
            file.sync_all()
        };
        write(&mut lock).map_err(|error| fail(&error))?;
        Ok(Self { id, _lock: lock })
    }
}

/// This daemon's row among those that share the database.
#[derive(Debug, Clone)]
pub struct Life {
    store: Store,
    clock: SharedClock,
    row: DaemonRow,
}

impl Life {
    /// # Errors
    /// A sentence when this daemon and one that lives cannot share the database.
    pub async fn begin(
        store: &Store,
        clock: &SharedClock,
        config: &Config,
        machine: &Machine,
    ) -> anyhow::Result<Self> {
        let now = clock.now_ms();
        if let Some(theirs) = store.server_time_ms().await.context("cannot read the database's clock")?
            && (theirs - now).abs() > CLOCKS_APART_MS
        {
            return Err(ConfigError(format!(
                "this machine's clock and the database server's are {} s apart; leases need clocks within {} s of each other, so \
                 keep both by NTP",
                (theirs - now).abs() / 1000,
                CLOCKS_APART_MS / 1000
            ))
            .into());
        }
        let place = config.blob_place()?;
        let row = DaemonRow {
            machine: machine.id.clone(),
            name: host_name(),
            holder: format!("{}/{}-{now}", machine.id, std::process::id()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            blob: place.to_string(),
            started_ms: now,
            seen_ms: now,
        };
        // Its own row first: of two that start at once, at least one sees the other.
        store.daemon_lives(row.clone()).await.context("cannot note that this daemon lives")?;
        let life = Self { store: store.clone(), clock: clock.clone(), row };
        if let Err(refusal) = life.agree(&place).await {
            life.end().await;
            return Err(refusal);
        }
        Ok(life)
    }

    async fn agree(&self, place: &BlobPlace) -> anyhow::Result<()> {
        let now = self.clock.now_ms();
        let daemons = self.store.daemons().await.context("cannot read which daemons live")?;
        let Some(other) = daemons.iter().find(|d| d.is_live(now) && d.machine != self.row.machine) else {
            return Ok(());
        };
        let who = format!("the daemon on {} (data directory {})", other.name, other.machine);
        let sentence = if matches!(place, BlobPlace::Files(_)) {
            format!(
                "{who} uses this database too, and local files as blob cannot be shared; set blob = \"s3://bucket/prefix\" for \
                 all daemons, or stop that one (it counts as gone after 60 s)"
            )
        } else if other.blob != self.row.blob {
            format!(
                "{who} uses this database too and keeps its bytes in {}, not in {}; give all daemons the same blob",
                other.blob, self.row.blob
            )
        } else {
            return Ok(());
        };
        Err(ConfigError(sentence).into())
    }

    pub fn holder(&self) -> &str {
        &self.row.holder
    }

    pub fn blob(&self) -> &str {
        &self.row.blob
    }

    /// Renews the row until `stop`.
    pub async fn go_on(&self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {
                    let row = DaemonRow { seen_ms: self.clock.now_ms(), ..self.row.clone() };
                    if let Err(error) = self.store.daemon_lives(row).await {
                        tracing::warn!(%error, "cannot note that this daemon lives");
                    }
                }
            }
        }
    }

    /// Lets others take over at once what this daemon alone might have sent.
    pub async fn end(&self) {
        let done = async {
            self.store.give_up_terms(self.holder()).await?;
            self.store.daemon_leaves(&self.row.machine, self.holder()).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "cannot note that this daemon has stopped");
        }
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "an unnamed host".into(), |name| name.trim().to_owned())
}
