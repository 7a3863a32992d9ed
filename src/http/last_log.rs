//! The end of a log whose agent ended without a word (G9): what it left on this machine is taken over, and one line says that more
//! may be missing.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use bytes::Bytes;

use super::{App, logs};
use crate::agent::mask::Masker;
use crate::model::AttemptRank;
use crate::store::attempts::{AttemptRow, LogAppend};

/// Largest piece that is taken over at once, in bytes: as a chunk of an agent.
const PIECE: usize = 1 << 20;

const FOUND: &str = "[trainyard] the agent ended without a word. The log up to here lay on its disk; what came after it is lost\n";
const LOST: &str = "[trainyard] the agent ended without a word. What it had not sent of the log is lost\n";

/// Ends the logs of these ranks of an attempt that has not ended yet. `left`: the leader's, from its first byte on. Safe to repeat.
///
/// # Errors
/// Store or blobs cannot be reached: to be tried again before the attempt ends.
pub async fn end(
    app: &App,
    attempt: &AttemptRow,
    ranks: Vec<AttemptRank>,
    left: Option<File>,
) -> anyhow::Result<()> {
    let run = app.store.run(&attempt.run_id).await?.context("an attempt without a run")?;
    let repo = app.store.repo(&run.repo_id).await?.context("a run without a repository")?;
    let masker = app.secrets.masker(&repo.forge, repo.name.as_str());
    for of in ranks {
        let left = left.as_ref().filter(|_| of.leads());
        end_one(app, masker, &of, left).await.with_context(|| format!("cannot end the log of {of}"))?;
    }
    Ok(())
}

async fn end_one(
    app: &App,
    masker: Option<&Masker>,
    of: &AttemptRank,
    left: Option<&File>,
) -> anyhow::Result<()> {
    let marker = if left.is_some() { FOUND } else { LOST };
    let Some(mut at) = committed(app, of).await? else { return Ok(()) };
    let tail = logs::read(app, of, (at - marker.len() as i64).max(0), marker.len()).await?;
    if tail == marker.as_bytes() {
        return Ok(());
    }
    let quota = app.config.limits.log_quota_bytes;
    while let Some(file) = left
        && let most @ 1.. = usize::try_from(quota - at).unwrap_or(0).min(PIECE)
    {
        let mut piece = vec![0; most];
        // A disk that fails is as one that is gone: the marker says so.
        let got = file.read_at(&mut piece, at as u64).unwrap_or(0);
        if got == 0 {
            break;
        }
        piece.truncate(got);
        match logs::append(app, masker, of, at, &[piece.into()]).await? {
            LogAppend::Committed { offset } => at = offset,
            LogAppend::Conflict { committed } => at = committed,
            LogAppend::Refused => return Ok(()),
        }
    }
    loop {
        let last = logs::read(app, of, (at - 1).max(0), 1).await?;
        let start = if last.is_empty() || last == "\n" { "" } else { "\n" };
        let line = Bytes::from(format!("{start}{marker}"));
        match logs::append(app, None, of, at, &[line]).await? {
            LogAppend::Conflict { committed } => at = committed,
            LogAppend::Committed { .. } | LogAppend::Refused => return Ok(()),
        }
    }
}

/// How many bytes of a rank's log are stored; None: there is no such rank.
async fn committed(app: &App, of: &AttemptRank) -> anyhow::Result<Option<i64>> {
    Ok(if of.leads() {
        app.store.attempt(&of.uid).await?.map(|row| row.log_bytes)
    } else {
        app.store.rank(of).await?.map(|row| row.log_bytes)
    })
}
