//! Puts the artifacts of earlier steps into the source tree, each verified before it gets its name.

use std::path::Path;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::client::{Backoff, Client, Fault};
use super::paths;
use super::protocol::Input;

/// Downloads one input to its place below `root`. Tries again while the daemon is away.
///
/// # Errors
/// A place that is not a plain relative path, bytes that are not those that were recorded, a refusal, a full disk.
pub async fn fetch(client: &Client, root: &Path, input: &Input) -> anyhow::Result<()> {
    let place = paths::place(root, &input.place)?;
    let mut backoff = Backoff::default();
    loop {
        match once(client, &place, input).await {
            Ok(()) => return Ok(()),
            Err(error)
                if backoff.tries() < 60
                    && error.downcast_ref::<Fault>().is_some_and(|f| matches!(f, Fault::Retry(_))) =>
            {
                tracing::warn!(%error, input.path, "an artifact did not arrive; trying again");
                backoff.wait().await;
            }
            Err(error) => {
                return Err(
                    error.context(format!("cannot get the artifact {} of an earlier step", input.path))
                );
            }
        }
    }
}

async fn once(client: &Client, place: &Path, input: &Input) -> anyhow::Result<()> {
    let response = client.get_artifact(&input.attempt, &input.path).await?;
    let parent = place.parent().context("an artifact has no parent directory")?;
    let temporary = tempfile::NamedTempFile::new_in(parent)?;
    let mut file = tokio::fs::File::from_std(temporary.reopen()?);
    let (mut hash, mut got) = (Sha256::new(), 0_i64);
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| Fault::Retry(e.to_string()))?;
        got += chunk.len() as i64;
        if got > input.bytes {
            bail!("it is longer than the {} bytes recorded", input.bytes);
        }
        hash.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    if got < input.bytes {
        return Err(Fault::Retry(format!("{got} of {} bytes arrived", input.bytes)).into());
    }
    if hex::encode(hash.finalize()) != input.sha256 {
        bail!("its SHA-256 is not the one recorded");
    }
    let mode = if input.executable { 0o755 } else { 0o644 };
    std::fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    temporary.persist(place).map_err(|e| e.error)?;
    Ok(())
}
