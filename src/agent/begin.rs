//! How an attempt begins: the file that its executor left, a pod's preparing container, and asking the daemon for the spec.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::attempt::{BOOTSTRAP, ResultFile, request};
use super::client::{Backoff, Client, Fault};
use super::outcome::Outcome;
use super::proc;
use super::process::Stop;
use super::protocol::{Bootstrap, PROTOCOL, Prepared, Spec, Start, Started, rank_bootstrap};
use super::script::Places;
use super::source::{Fetch, NoSource};
use crate::model::EndClass;

/// In the environment of a pod of several: which one it is.
const RANK: &str = "TRAINYARD_RANK";

/// Instead of a file's name: standard input.
pub(super) const STDIN: &str = "-";

/// Reads the file that an executor left. One that several pods share becomes that of this pod.
///
/// # Errors
/// Unreadable, not a bootstrap, of another protocol, or shared in a pod without a number.
pub fn read_bootstrap(path: &Path) -> anyhow::Result<Bootstrap> {
    let mut bytes = Vec::new();
    let read = if path == Path::new(STDIN) {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|all| bytes = all)
    };
    read.with_context(|| format!("cannot read the bootstrap file {}", path.display()))?;
    let mut bootstrap: Bootstrap = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a bootstrap file", path.display()))?;
    if bootstrap.protocol != PROTOCOL {
        bail!("the daemon speaks protocol {}, this agent speaks {PROTOCOL}", bootstrap.protocol);
    }
    if bootstrap.ranks > 1 && bootstrap.prepared.is_none() {
        let text = std::env::var(RANK).unwrap_or_default();
        let rank = text.parse().ok().filter(|rank| *rank < bootstrap.ranks);
        bootstrap.rank =
            rank.with_context(|| format!("{RANK} is {text:?}, and this is one of {} pods", bootstrap.ranks))?;
        bootstrap.token = rank_bootstrap(&bootstrap.token, bootstrap.rank);
    }
    Ok(bootstrap)
}

/// The bootstrap's CAs as a file, which git needs.
pub(super) fn ca_file(dir: &Path, ca: Option<&str>) -> anyhow::Result<Option<PathBuf>> {
    let Some(pem) = ca else { return Ok(None) };
    let path = dir.join("ca.pem");
    if std::fs::read(&path).ok().as_deref() != Some(pem.as_bytes()) {
        std::fs::write(&path, pem).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Some(path))
}

/// What the preparing container of a pod does: brings the agent and the source into the directory that both containers
/// share, and leaves a bootstrap bound to its nonce for the one that runs the step. It never sees a secret. A daemon that never
/// answers within `reach` is given up: the pod holds its node, and maybe GPUs, for nothing.
///
/// # Errors
/// What the pod's status shall say, with its class.
pub async fn prepare(bootstrap_path: &Path, dir: &Path, reach: Duration) -> Result<(), ResultFile> {
    let failed = |class: EndClass, error: String| ResultFile { class, exit_code: None, reason: error };
    let ours = |error: anyhow::Error| failed(EndClass::Internal, format!("{error:#}"));
    let bootstrap = read_bootstrap(bootstrap_path).map_err(ours)?;
    let (stop, stopped) = watch::channel(None);
    let mut terminated = signal(SignalKind::terminate()).map_err(|e| ours(e.into()))?;
    tokio::spawn(async move {
        while terminated.recv().await.is_some() {
            request(&stop, Stop::Preempted);
        }
    });
    let begun = Instant::now();
    let install = || -> anyhow::Result<()> {
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin)?;
        let place = bin.join("trainyard");
        std::fs::copy("/proc/self/exe", &place)?;
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(())
    };
    install().context("cannot put the agent into the workspace").map_err(ours)?;
    let places = Places::below(dir, dir.join("src"));
    places.make().context("cannot make the attempt's directories").map_err(ours)?;
    let ca = ca_file(dir, bootstrap.ca.as_deref()).map_err(ours)?;
    let nonce = hex::encode(rand::random::<[u8; 16]>());
    let client = Client::new(&bootstrap).map_err(ours)?;
    let ended = || failed(EndClass::Preempted, "ended before it began".into());
    if bootstrap.probe {
        if !knock(&client, &start_of(nonce.clone(), true), stopped, reach).await.map_err(ours)? {
            return Err(ended());
        }
        return leave(dir, bootstrap, nonce, begun).context("cannot leave the bootstrap").map_err(ours);
    }
    let asked =
        ask(client, bootstrap_path, &start_of(nonce.clone(), true), stopped.clone(), Some(reach)).await;
    let (client, spec) = asked.map_err(ours)?.ok_or_else(ended)?;
    let fetch = Fetch {
        client: &client,
        sha: &spec.sha,
        into: &places.source,
        home: &places.home,
        ca: ca.as_deref(),
        deadline: begun + Duration::from_millis(spec.timeout_ms.max(0) as u64),
        stop: stopped,
    };
    fetch.run().await.map_err(|error| match error {
        NoSource::Stopped(stop) => {
            failed(Outcome::stopped(stop, spec.timeout_ms).class, "stopped while fetching the source".into())
        }
        NoSource::Failed(why) => {
            let class = if why.contains("No space left") { EndClass::StorageFull } else { EndClass::Source };
            failed(class, format!("the source could not be fetched: {}", client.hide_token(&why)))
        }
    })?;
    leave(dir, bootstrap, nonce, begun).context("cannot leave the bootstrap").map_err(ours)
}

/// Leaves the bootstrap for the container that runs the step.
fn leave(dir: &Path, bootstrap: Bootstrap, nonce: String, begun: Instant) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let left = Bootstrap {
        dir: dir.to_string_lossy().into_owned(),
        prepared: Some(Prepared { nonce, source_ms: begun.elapsed().as_millis() as u64 }),
        ..bootstrap
    };
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(BOOTSTRAP))?;
    Ok(file.write_all(&serde_json::to_vec(&left)?)?)
}

/// Calls until the daemon answers: that it knows no such attempt is an answer. False: told to stop.
async fn knock(
    client: &Client,
    start: &Start,
    mut stopped: watch::Receiver<Option<Stop>>,
    reach: Duration,
) -> anyhow::Result<bool> {
    let (begun, mut backoff) = (Instant::now(), Backoff::default());
    loop {
        match client.post::<Started>("start", start).await {
            Ok(_) | Err(Fault::Unauthorized | Fault::Gone) => return Ok(true),
            Err(Fault::Retry(why)) if begun.elapsed() >= reach => return Err(unreached(client, &why)),
            Err(fault @ Fault::Retry(_)) => tracing::warn!(%fault, "no answer yet"),
            Err(fault) => {
                return Err(anyhow::Error::new(fault)
                    .context(format!("what answers at {} is not the daemon", client.daemon())));
            }
        }
        tokio::select! {
            () = backoff.wait() => {}
            _ = stopped.wait_for(Option::is_some) => return Ok(false),
        }
    }
}

fn unreached(client: &Client, why: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the pod cannot reach the daemon at {} ({why}): check executor.kubernetes.agent_url, the cluster's DNS, and the network \
         policies and meshes between them",
        client.daemon()
    )
}

fn start_of(nonce: String, preparing: bool) -> Start {
    let (pid, pid_started) = proc::myself();
    Start { nonce, preparing, version: env!("CARGO_PKG_VERSION").into(), pid, pid_started }
}

/// Asks for the spec until the daemon answers. None: told to stop, or the attempt has ended.
pub(super) async fn start(
    path: &Path,
    bootstrap: &Bootstrap,
    stopped: watch::Receiver<Option<Stop>>,
) -> anyhow::Result<Option<(Client, Spec)>> {
    let nonce = match &bootstrap.prepared {
        Some(prepared) => prepared.nonce.clone(),
        None => hex::encode(rand::random::<[u8; 16]>()),
    };
    let client = Client::new(bootstrap)?;
    ask(client, path, &start_of(nonce, false), stopped, None).await
}

async fn ask(
    mut client: Client,
    path: &Path,
    start: &Start,
    mut stopped: watch::Receiver<Option<Stop>>,
    reach: Option<Duration>,
) -> anyhow::Result<Option<(Client, Spec)>> {
    let begun = Instant::now();
    let mut backoff = Backoff::default();
    let mut refused = 0;
    loop {
        let answer = tokio::select! {
            answer = client.post::<Started>("start", start) => answer,
            _ = stopped.wait_for(Option::is_some) => return Ok(None),
        };
        match answer {
            Ok(started) => return Ok(Some((client.with_token(started.token), started.spec))),
            Err(Fault::Gone) => return Ok(None),
            Err(Fault::Unauthorized) if refused < 20 => {
                // An executor that submits again leaves a fresh token.
                refused += 1;
                if let Ok(again) = read_bootstrap(path) {
                    client = client.with_token(again.token);
                }
            }
            Err(fault @ (Fault::Unauthorized | Fault::Refused(..) | Fault::Conflict(_))) => {
                return Err(anyhow::Error::new(fault).context("cannot start the attempt"));
            }
            Err(Fault::Retry(why))
                if !client.answered() && reach.is_some_and(|reach| begun.elapsed() >= reach) =>
            {
                return Err(unreached(&client, &why));
            }
            Err(fault) => tracing::warn!(%fault, "cannot start yet"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            _ = stopped.wait_for(Option::is_some) => return Ok(None),
        }
    }
}
