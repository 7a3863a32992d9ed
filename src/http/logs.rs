//! Attempts' logs: numbered segments in `blob`, a row for each, one blob after the end. Offsets count the bytes that the agent sent.
//!
//! The agent has masked them already. Here they are masked again without changing their length, over a stretch that reaches back into
//! what is stored: a secret that was cut by the end of a segment is overwritten there too.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::App;
use super::live::Hint;
use super::log_turns::{Chunk, Turn};
use crate::agent::mask::Masker;
use crate::blob::{BlobError, key};
use crate::model::AttemptRank;
use crate::store::StoreError;
use crate::store::attempts::LogAppend;

/// How far masking looks back: no form of a secret is longer.
const OVERLAP: i64 = 16 << 10;
/// A read takes so many segments at most, unless it is as short as [`OVERLAP`]: that it is answered whole, were they of a byte each.
const SEGMENTS: i64 = 512;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the log of attempt {of} has a hole at byte {at}")]
    Hole { of: AttemptRank, at: i64 },
}

/// A chunk that is masked and on disk, but in no row yet.
pub struct Written {
    blob_key: String,
    turn: Turn,
}

/// Masks and writes a chunk while the one before it is being stored. None: a secret began in that one, which can be
/// overwritten there when it is stored.
pub async fn write_ahead(
    app: &App,
    masker: Option<&Masker>,
    of: &AttemptRank,
    offset: i64,
    bytes: &[Bytes],
    before: &Chunk,
) -> Result<Option<Written>, BlobError> {
    let Some(masker) = masker else {
        return write(app, of, offset, bytes.concat().into(), None).await.map(Some);
    };
    let Some(before) = &before.tail else { return Ok(None) };
    let blotted = Blotted::of(masker, before, bytes);
    if blotted.before != before {
        return Ok(None);
    }
    write(app, of, offset, blotted.chunk, Some(blotted.tail)).await.map(Some)
}

/// Bytes of a chunk, which comes in pieces.
pub fn length(pieces: &[Bytes]) -> i64 {
    pieces.iter().map(|piece| piece.len() as i64).sum()
}

/// Stores `bytes` at `offset`. The bytes are on disk before the row says so.
pub async fn append(
    app: &App,
    masker: Option<&Masker>,
    of: &AttemptRank,
    offset: i64,
    bytes: &[Bytes],
) -> Result<LogAppend, LogError> {
    let length = length(bytes);
    let (chunk, tail) = match masker {
        Some(masker) => {
            let from = (offset - OVERLAP.min(masker.longest() as i64)).max(0);
            let before = if from < offset {
                read(app, of, from, (offset - from) as usize).await?
            } else {
                Bytes::new()
            };
            let blotted = Blotted::of(masker, &before, bytes);
            if blotted.before != before {
                overwrite(app, of, from, &blotted.before).await?;
            }
            (blotted.chunk, Some(blotted.tail))
        }
        None => (bytes.concat().into(), None),
    };
    let written = write(app, of, offset, chunk, tail).await?;
    commit(app, of, offset, length, written).await
}

/// `tail`: see [`Chunk::tail`]. From here on the next chunk can be masked.
async fn write(
    app: &App,
    of: &AttemptRank,
    offset: i64,
    chunk: Bytes,
    tail: Option<Bytes>,
) -> Result<Written, BlobError> {
    let turn = app.log_turns.take(of, offset + chunk.len() as i64, tail);
    let blob_key = key::log(of, offset, rand::random());
    app.blobs.put(&blob_key, chunk).await?;
    Ok(Written { blob_key, turn })
}

/// Stores a chunk that is written: all before it is stored.
pub async fn commit(
    app: &App,
    of: &AttemptRank,
    offset: i64,
    length: i64,
    written: Written,
) -> Result<LogAppend, LogError> {
    crate::failpoint::hit("agent.log.before");
    let appended = app.store.append_log(of, offset, length, &written.blob_key, app.clock.now_ms()).await?;
    if matches!(appended, LogAppend::Committed { .. }) {
        written.turn.commit();
        app.telemetry.log_bytes.inc_by(length as u64);
        app.live.tell(Hint::Log(of.clone()));
    } else {
        discard(app, of, written).await;
    }
    Ok(appended)
}

/// Removes what lost its race.
pub async fn discard(app: &App, of: &AttemptRank, written: Written) {
    drop(written.turn);
    if let Err(error) = app.blobs.delete(&[written.blob_key]).await {
        tracing::warn!(attempt = %of, %error, "cannot remove a log segment that lost its race");
    }
}

/// A chunk with every secret overwritten. One that began in the bytes before it is overwritten there as well.
struct Blotted {
    before: BytesMut,
    chunk: Bytes,
    /// The last bytes of both.
    tail: Bytes,
}

impl Blotted {
    fn of(masker: &Masker, before: &[u8], chunk: &[Bytes]) -> Self {
        let mut text = BytesMut::with_capacity(before.len() + length(chunk) as usize);
        text.extend_from_slice(before);
        for piece in chunk {
            text.extend_from_slice(piece);
        }
        masker.blot(&mut text);
        let tail = Bytes::copy_from_slice(&text[text.len().saturating_sub(OVERLAP as usize)..]);
        let chunk = text.split_off(before.len()).freeze();
        Self { before: text, chunk, tail }
    }
}

/// Replaces stored bytes by as many others. Each blob is replaced whole, so that a reader sees the old or the new one.
async fn overwrite(app: &App, of: &AttemptRank, from: i64, text: &[u8]) -> Result<(), LogError> {
    for segment in app.store.log_segments(of, from, OVERLAP).await? {
        let mut stored = BytesMut::from(&app.blobs.get(&segment.blob_key).await?[..]);
        let skip = (segment.start_byte - from).max(0) as usize;
        let at = (from - segment.start_byte).max(0) as usize;
        let length = text.len().saturating_sub(skip).min(stored.len().saturating_sub(at));
        let (old, new) = (&mut stored[at..at + length], &text[skip.min(text.len())..][..length]);
        if old != new {
            old.copy_from_slice(new);
            app.blobs.put(&segment.blob_key, stored.freeze()).await?;
        }
    }
    Ok(())
}

/// Up to `limit` stored bytes from offset `from` on; fewer at the end of what is stored or of a segment.
pub async fn read(app: &App, of: &AttemptRank, from: i64, limit: usize) -> Result<Bytes, LogError> {
    // Compaction may replace the segments between the list and the read: then the list is read again.
    for _ in 0..3 {
        match read_once(app, of, from, limit).await {
            Err(LogError::Blob(BlobError::Missing(_))) => {}
            other => return other,
        }
    }
    read_once(app, of, from, limit).await
}

async fn read_once(app: &App, of: &AttemptRank, from: i64, limit: usize) -> Result<Bytes, LogError> {
    let mut bytes = BytesMut::new();
    let mut at = from;
    let segments = if limit as i64 <= OVERLAP { SEGMENTS.max(limit as i64) } else { SEGMENTS };
    for segment in app.store.log_segments(of, from, segments).await? {
        if bytes.len() >= limit {
            break;
        }
        if segment.start_byte > at {
            return Err(LogError::Hole { of: of.clone(), at });
        }
        let skip = (at - segment.start_byte) as u64;
        let take = (segment.bytes as u64).saturating_sub(skip).min((limit - bytes.len()) as u64);
        let part = app.blobs.get_range(&segment.blob_key, skip..skip + take).await?;
        at += part.len() as i64;
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}

/// Makes one blob of an ended rank's segments, whatever its length. Safe to repeat; readers who hold the old list read it
/// again.
pub async fn compact(app: &App, of: &AttemptRank) -> Result<(), LogError> {
    let segments = app.store.log_segments(of, 0, i64::MAX).await?;
    if segments.len() < 2 {
        return Ok(());
    }
    let mut total = 0;
    for segment in &segments {
        if segment.start_byte != total {
            return Err(LogError::Hole { of: of.clone(), at: total });
        }
        total += segment.bytes;
    }
    let now = app.clock.now_ms();
    let whole = key::whole_log(of, now);
    let blobs = app.blobs.clone();
    let keys: Vec<String> = segments.into_iter().map(|s| s.blob_key).collect();
    let parts = futures_util::stream::iter(keys.clone()).then(move |key: String| {
        let blobs = blobs.clone();
        async move { blobs.get(&key).await }
    });
    let written = app.blobs.put_stream(&whole, parts, total as u64).await;
    let written = match written {
        // A segment that cannot be read: the segments stay.
        Err(BlobError::Sender(why)) => return Err(LogError::Blob(BlobError::Unavailable(why))),
        other => other?,
    };
    let all_there = written.bytes == total as u64;
    let old =
        if all_there && app.store.compact_log(of, total, &whole, now).await? { keys } else { vec![whole] };
    app.blobs.delete(&old).await?;
    Ok(())
}
