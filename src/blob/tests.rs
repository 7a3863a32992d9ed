use std::os::unix::fs::PermissionsExt;

use futures_util::stream;

use super::*;

fn blobs() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::local(&dir.path().join("blobs")).unwrap();
    (dir, blobs)
}

fn chunks(count: usize, size: usize) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::iter((0..count).map(move |i| Ok(Bytes::from(vec![i as u8; size]))))
}

#[tokio::test]
async fn a_stream_is_stored_with_its_digest_and_length() {
    let (_dir, blobs) = blobs();
    let written = blobs.put_stream("artifacts/a/x", chunks(200, 70_000), 20_000_000).await.unwrap();
    let read = blobs.get("artifacts/a/x").await.unwrap();
    assert_eq!(written.bytes, 14_000_000);
    assert_eq!(read.len(), 14_000_000);
    assert_eq!(written.sha256, hex::encode(Sha256::digest(&read)));
}

#[tokio::test]
async fn nothing_is_left_of_a_stream_that_breaks_or_is_too_large() {
    let (dir, blobs) = blobs();
    let broken = chunks(3, 10).chain(stream::once(async { Err(std::io::Error::other("gone")) }));
    assert!(matches!(blobs.put_stream("a/b", broken, 1000).await, Err(BlobError::Sender(_))));
    assert!(matches!(blobs.put_stream("a/c", chunks(11, 10), 100).await, Err(BlobError::TooLarge(100))));
    assert!(matches!(blobs.get("a/b").await, Err(BlobError::Missing(_))));
    let left: Vec<_> = std::fs::read_dir(dir.path().join("blobs/a")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_range_is_cut_to_the_length() {
    let (_dir, blobs) = blobs();
    blobs.put("k", Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(&blobs.get_range("k", 2..5).await.unwrap()[..], b"234");
    assert_eq!(&blobs.get_range("k", 8..50).await.unwrap()[..], b"89");
    assert!(blobs.get_range("k", 3..3).await.unwrap().is_empty());
}

#[tokio::test]
async fn deleting_what_is_not_there_is_fine() {
    let (_dir, blobs) = blobs();
    blobs.put("k", Bytes::from_static(b"x")).await.unwrap();
    blobs.delete(&["missing".into(), "k".into()]).await.unwrap();
    assert!(matches!(blobs.get("k").await, Err(BlobError::Missing(_))));
}

#[tokio::test]
async fn the_directory_is_closed_to_others() {
    let (dir, _blobs) = blobs();
    let mode = std::fs::metadata(dir.path().join("blobs")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
